"""Screening: what is held out, and which images are flagged."""

import re

import numpy as np
import pandas as pd
import pytest

from adlib.errors import InputError
from adlib.predictions import Predictions
from adlib.samples import make_samples
from adlib.screening import false_alarms, flagged, hold_out, write_flagged


def samples(train: int, val: int = 0) -> pd.DataFrame:
    rows = [{"image": f"train{i}.png", "split": "train", "category": "nut"} for i in range(train)]
    rows += [{"image": f"val{i}.png", "split": "val", "category": "nut"} for i in range(val)]
    return make_samples([*rows, {"image": "test.png", "category": "nut", "label": 1}], "here")


def test_a_share_of_the_training_images_is_held_out_by_seed():
    before = samples(train=10)
    held = hold_out(before, 0.25, seed=0)
    assert (held["split"] == "val").sum() == 3  # 2.5, rounded up
    assert (held["split"] == "train").sum() == 7
    assert (before["split"] == "val").sum() == 0
    assert held.equals(hold_out(before, 0.25, seed=0))
    assert any(not held.equals(hold_out(before, 0.25, seed=seed)) for seed in range(1, 5))


def test_one_image_stays_for_training():
    assert (hold_out(samples(train=2), 0.99, seed=0)["split"] == "train").sum() == 1


def test_own_validation_images_are_kept():
    given = samples(train=4, val=2)
    assert hold_out(given, 0.5, seed=0).equals(given)


@pytest.mark.parametrize("share", [0, 1, -0.1, 20])
def test_a_share_beyond_its_range_is_refused(share):
    with pytest.raises(InputError, match="share must lie between"):
        hold_out(samples(train=4), share, seed=0)


def test_a_single_training_image_cannot_be_held_out():
    with pytest.raises(InputError, match="normal training images of 'nut': There is 1 image"):
        hold_out(samples(train=1), 0.5, seed=0)


def test_flagged_are_at_or_above_the_threshold_highest_first(tmp_path):
    table = make_samples([{"image": name, "category": "nut"} for name in ("a.png", "b.png", "c.png")], "here")
    predictions = Predictions(np.array([0.5, 0.25, 0.75]), None, table)
    found = flagged(predictions, 0.5)
    assert found["image"].tolist() == ["c.png", "a.png"]
    assert found["score"].tolist() == [0.75, 0.5]
    file = write_flagged(predictions, 0.5, tmp_path / "new" / "flagged.csv")
    assert pd.read_csv(file)["image"].tolist() == ["c.png", "a.png"]
    assert [entry.name for entry in file.parent.iterdir()] == ["flagged.csv"]


def test_nothing_flagged_is_a_table_with_a_head_alone(tmp_path):
    table = make_samples([{"image": "a.png"}], "here")
    file = write_flagged(Predictions(np.array([0.5]), None, table), 0.6, tmp_path / "flagged.csv")
    assert file.read_text() == "image,score,threshold,label,category,group,defect\n"


def test_a_threshold_that_is_no_number_is_refused():
    table = make_samples([{"image": "a.png"}], "here")
    with pytest.raises(InputError, match="finite"):
        flagged(Predictions(np.array([0.5]), None, table), float("nan"))


def test_false_alarms_to_expect_cover_the_truth_although_the_threshold_is_chosen_on_them():
    """Of uniform scores the true rate of a threshold t is 1 - t: it lies in the 95 % interval in 95 % of draws."""
    generator, inside = np.random.default_rng(0), 0
    for _ in range(300):
        scores = generator.random(40)
        threshold = float(np.quantile(scores, 0.9))
        text = false_alarms(scores, threshold)["false alarms to expect"]
        low, high = (float(part) / 100 for part in re.findall(r"([0-9.]+)% to ([0-9.]+)%", text)[0])
        inside += low <= 1 - threshold <= high
    assert inside / 300 > 0.93


def test_false_alarms_are_counted_at_or_above_the_threshold():
    facts = false_alarms(np.array([0.1, 0.2, 0.3, 0.4]), 0.3)
    assert (facts["held-out normal images"], facts["of them called anomalous"]) == (4, 2)
    assert facts["false alarms to expect"].startswith("50.0% of normal images")
    with pytest.raises(InputError, match="held out"):
        false_alarms(np.array([]), 0.3)
