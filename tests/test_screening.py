"""Screening: what is held out, and which images are flagged."""

import re

import numpy as np
import pandas as pd
import pytest
from conftest import make_tree

from adlib import load_samples
from adlib.errors import InputError
from adlib.predictions import Predictions
from adlib.samples import make_samples, select
from adlib.screening import (
    HeldOut,
    Threshold,
    agreement,
    calls_to_expect,
    choose_threshold,
    contradiction,
    cross_fit,
    decision_counts,
    doubtful_normals,
    doubts,
    false_alarms,
    flagged,
    hold_out,
    images_needed,
    promises,
    scores_of,
    write_flagged,
)
from adlib.training_set import choose_training_images


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


@pytest.mark.parametrize("outlines", [True, False])
def test_maps_that_outline_nothing_get_no_threshold(outlines, tmp_path):
    held = select(load_samples("folder", make_tree(tmp_path)), split="train")

    class Explaining:
        def predict(self, images, **given):
            maps = np.ones((len(images), *images.shape), np.float32)
            return Predictions(np.arange(len(images)), maps, images.samples, images.settings, outlines=outlines)

    found = scores_of(Explaining(), held, {"size": 32}, progress=False)
    assert (found.peaks is not None) == outlines
    assert (choose_threshold(found, 0.5).map is not None) == outlines


def test_the_line_around_defects_is_drawn_at_the_highest_pixel_and_colours_begin_at_the_median(tmp_path):
    held = select(load_samples("folder", make_tree(tmp_path)), split="train")

    class Spots:
        def predict(self, images, **given):
            maps = np.full((len(images), *images.shape), 2.0, np.float32)
            maps[:, 3, 5] = 7 + images.labels
            return Predictions(np.arange(len(images)), maps, images.samples, images.settings)

    found = scores_of(Spots(), held, {"size": 32}, progress=False, chunk=4)
    assert (found.peaks.tolist(), found.usual) == ([7] * 6, 2)
    chosen = choose_threshold(found, 0.2)
    assert chosen.map == pytest.approx(7) and chosen.map > 7 and chosen.usual == 2


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


def held(scores) -> HeldOut:
    return HeldOut(np.asarray(scores, np.float32), None, None, "drawn")


def test_what_can_be_promised_is_told_before_anything_is_scored():
    assert (images_needed(0.05), images_needed(0.01)) == (19, 99)
    assert images_needed(0.05, 0.95) == 59  # 0.95 ** 59 < 0.05
    table = promises(40).set_index("rate")
    assert table["on_average"].tolist() == [True, True, True, False, False, False, False]
    assert table["surely"].tolist() == [True, True, False, False, False, False, False]
    with pytest.raises(InputError, match="a share and not percent"):
        images_needed(5)


def test_the_chosen_threshold_leaves_as_many_normal_images_above_as_the_rate_allows_on_average():
    threshold = choose_threshold(held(np.arange(39)), 0.05)  # 0.05 * 40 = 2: the second highest may be passed
    assert 37 < threshold.score < 37.001
    assert (threshold.called, threshold.kept) == (1, True)
    few = choose_threshold(held(np.arange(9)), 0.05)
    assert (few.called, few.kept) == (0, False)
    assert (
        "expect are 0 to 35 of the next 100 normal images, and 0.0% to 33.6% of all in the long" in few.sentences()[0]
    )
    assert "cannot be promised with 9 normal images" in few.sentences()[1]


def test_the_rate_is_kept_on_average_and_the_interval_holds_the_true_rate_in_19_of_20_splits():
    generator = np.random.default_rng(0)
    rates, inside, measured = [], [], []
    for _ in range(1000):
        threshold = choose_threshold(held(generator.random(40)), 0.1)
        rates.append(1 - threshold.score)  # scores are uniform
        inside.append(threshold.low <= rates[-1] <= threshold.high)
        low, high = calls_to_expect(threshold, 25)
        measured.append(low <= (generator.random(25) >= threshold.score).sum() <= high)
    assert np.mean(rates) <= 0.1 + 0.005
    assert np.mean(inside) >= 0.95
    assert np.mean(measured) >= 0.95


def test_detectors_that_learned_from_fewer_images_promise_how_many_false_alarms_there_are_at_most():
    own, others = (
        choose_threshold(HeldOut(np.arange(40, dtype=np.float32), None, None, "drawn", by_others=by_others), 0.1)
        for by_others in (False, True)
    )
    assert (others.score, others.called, others.high) == (own.score, own.called, own.high)
    assert (own.low, others.low) == (pytest.approx(0.0157, abs=1e-4), 0)
    (first, last), upper = calls_to_expect(own, 100), calls_to_expect(others, 100)
    assert (first, upper) == (1, (0, last))
    assert (
        f"at most {last} of the next 100 normal images, and at most 20.4% of all in the long run"
        in (others.sentences()[0])
    )
    assert Threshold.of(others.plain()) == others
    table = make_samples([{"image": str(i)} for i in range(400)], "here")
    none_called = Predictions(np.zeros(400), None, table)
    assert "0 of 400 normal test images are called anomalous, where" in contradiction(own, none_called)
    assert "That is fewer than chance explains: those it learned from vary more" in contradiction(own, none_called)
    assert contradiction(others, none_called) == ""
    assert agreement(others, none_called).endswith(
        f"; at most {calls_to_expect(others, 400)[1]} were to be expected (97.5 % bound)."
    )
    all_called = Predictions(np.full(400, 100.0), None, table)
    assert f"where at most {calls_to_expect(others, 400)[1]} were to be" in contradiction(others, all_called)


def test_normal_test_images_that_contradict_the_promise_are_said_so():
    threshold = choose_threshold(held(np.arange(40)), 0.1)
    table = make_samples([{"image": str(i)} for i in range(30)], "here")
    far, near = (Predictions(np.full(30, value), None, table) for value in (100, 3))
    assert "30 of 30 normal test images are called anomalous" in contradiction(threshold, far)
    assert "That is more than chance explains: these images differ" in contradiction(threshold, far)
    assert contradiction(threshold, near) == ""
    assert agreement(threshold, near).startswith("Of 30 normal test images 0 are called anomalous; 0 to ")
    unknown = table.assign(label=-1, defect="unknown")
    assert contradiction(threshold, Predictions(far.scores, None, unknown)) == ""
    counts = decision_counts(threshold, Predictions(far.scores, None, unknown))
    assert (counts["unknown images"], counts["unknown called anomalous"], counts["anomalous images"]) == (30, 30, 0)


class Brightness:
    """A detector that scores by distance from the mean brightness it has seen; its peak is 2."""

    def fit(self, images, **_):
        self.seen = set(images.samples["image"])
        return self

    def predict(self, images, **_):
        assert not self.seen & set(images.samples["image"])
        maps = np.full((len(images), 4, 4), 2.0)
        return Predictions(np.array([images.pixels(i).mean() for i in range(len(images))]), maps, images.samples)


def test_cross_fitting_scores_every_normal_image_by_a_detector_that_has_not_seen_it(tmp_path):
    samples = load_samples("folder", make_tree(tmp_path))
    found = cross_fit(Brightness, samples, {"size": 16}, folds=4)
    assert len(found.scores) == 6 == len(found.peaks)
    assert (found.usual, found.by_others) == (2, True)
    again = cross_fit(Brightness, samples, {"size": 16}, folds=4)
    assert (found.scores == again.scores).all()
    with pytest.raises(InputError, match="cross-fitting needs two"):
        cross_fit(Brightness, samples[samples["split"] == "test"], {"size": 16})


def test_defects_to_learn_from_are_no_normal_images_that_a_threshold_could_be_of(tmp_path):
    samples = load_samples("folder", make_tree(tmp_path))
    samples.loc[samples["label"] == 1, "split"] = "train"
    found = cross_fit(Brightness, samples, {"size": 16}, folds=2)
    assert set(found.images) == set(samples.loc[(samples["split"] == "train") & (samples["label"] == 0), "image"])


def test_images_of_one_item_are_never_on_both_sides_of_a_cross_fit(tmp_path):
    samples = load_samples("folder", make_tree(tmp_path))
    train = samples["split"] == "train"
    samples["item"] = ""
    samples.loc[train, "item"] = ["a", "a", "a", "b", "b", "b"]

    class Items(Brightness):
        def fit(self, images, **_):
            assert images.samples["item"].nunique() == 1
            return super().fit(images)

    found = cross_fit(Items, samples, {"size": 16}, folds=4)
    assert "in 2 parts" in found.how
    assert choose_threshold(found, 0.2).held_out == 2


def test_a_normal_image_is_doubted_beyond_three_interquartile_ranges():
    for highest, doubted in ((15.0, 0), (25.0, 1)):  # quartiles at 2.25 and 6.75: the fence is at 20.25
        names = tuple(f"{number}.png" for number in range(10))
        held = HeldOut(np.array([*range(9), highest]), None, None, "drawn", names)
        assert len(doubtful_normals(held)) == doubted


def test_an_item_counts_once_by_its_highest_image_and_the_promise_says_items(tmp_path):
    things = np.repeat(np.arange(6), 4)  # six items in four photographs each
    scores = (things + np.tile([0, 0.25, 0.5, 0.75], 6)).astype(np.float32)
    found = choose_threshold(HeldOut(scores, scores + 10, None, "drawn", items=things), 0.2)
    alone = choose_threshold(held([0.75, 1.75, 2.75, 3.75, 4.75, 5.75]), 0.2)
    assert (found.score, found.called, found.held_out, found.high) == (alone.score, 0, 6, alone.high)
    assert found.map == pytest.approx(15.75, abs=1e-4)
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 6))
    assert "from 6 normal items in 24 images (drawn), of which it calls 0 anomalous, an item if" in found.sentences()[0]
    assert "of the next 100 normal items" in found.sentences()[0]
    assert (
        "promised with 6 normal items"
        in choose_threshold(HeldOut(scores, None, None, "", items=things), 0.01).sentences()[1]
    )
    assert Threshold.of(found.plain()) == found
    rows = [{"image": f"{i}.png", "item": f"part {i // 4}"} for i in range(8)]
    called = Predictions(np.array([9, 0, 0, 0, 9, 9, 9, 9]), None, make_samples(rows, "here"))
    assert agreement(found, called).startswith("Of 2 normal test items 2 are called anomalous")
    assert agreement(alone, called).startswith("Of 8 normal test images 5 are called anomalous")
    second = choose_threshold(HeldOut(np.arange(24.0), np.arange(24.0), None, "drawn", items=things), 0.3)
    assert [second.score, second.map] == pytest.approx([19, 19])  # of the second highest item, not the second picture
    each = HeldOut(scores, None, None, "drawn", items=np.arange(24))  # an image each: these are images
    assert choose_threshold(each, 0.2) == choose_threshold(held(scores), 0.2)


def test_mirrored_copies_are_learned_with_their_picture_and_are_no_further_held_out_images(tmp_path):
    samples = load_samples("folder", make_tree(tmp_path))
    enlarged = choose_training_images(samples, train_enlarged=24)

    class Copies(Brightness):
        def fit(self, images, **_):  # three of the six pictures, each with its three copies
            assert images.samples.groupby("image").size().tolist() == [4, 4, 4]
            return super().fit(images)

    found = cross_fit(Copies, enlarged, {"size": 16}, folds=2)
    assert sorted(found.images) == sorted(select(samples, split="train")["image"])
    assert (len(found.scores), len(found.peaks)) == (6, 6)
    first, *others = choose_threshold(found, 0.2).sentences()
    # Of 6 pictures none is called: the upper end of Clopper and Pearson's interval is 1 - 0.025 ** (1 / 6).
    assert "from 6 normal images" in first and "at most 45.9% of all" in first and others == []


def test_a_normal_image_that_looks_like_no_other_is_named():
    names = tuple("abcdefghij")
    usual = HeldOut(np.arange(10, dtype=np.float32), None, None, "drawn", names)
    assert doubts(usual) == ""
    odd = HeldOut(np.array([*range(9), 99], np.float32), None, None, "drawn", names)
    assert doubtful_normals(odd)["image"].tolist() == ["j"]
    assert doubts(odd).startswith("j score far above the other normal images (99, where 4.5 is usual)")
    two = HeldOut(np.array([0, 50, *range(1, 8), 99], np.float32), None, None, "drawn", names)
    assert doubtful_normals(two)["image"].tolist() == ["j", "b"]
    assert doubts(two).startswith("j and 1 more score far above the other normal images (99, where 4.5 is usual)")


def test_no_threshold_is_chosen_among_scores_that_are_no_numbers():
    for wrong in (np.nan, np.inf):
        held = HeldOut(np.array([0.1, wrong, 0.3], np.float32), None, None, "drawn")
        with pytest.raises(InputError, match="is no finite number, so no threshold can be chosen"):
            choose_threshold(held, 0.2)
