"""How many normal images: losses within a draw, and the number that is shown to be enough."""

import math

import pandas as pd
import pytest
from stored import run_notebook, store_study

from adlib import InputError
from adlib.studies import how_many_normals as study


def runs(values: dict) -> list[dict]:
    """One run per (method, limit or None for all) and seed; values in percent, one per seed."""
    return [
        {
            "method": method,
            "dataset": "folder",
            "category": "thing",
            "seed": seed,
            "settings": {} if limit is None else {"train_limit": limit},
            "images": limit or 9,
            "metrics": {"image_auroc": value / 100, "aupro": value / 100},
        }
        for (method, limit), by_seed in values.items()
        for seed, value in enumerate(by_seed)
    ]


VALUES = {
    ("padim", None): [90, 91, 92],
    ("padim", 4): [89.5, 90.6, 91.4],  # loses 0.5, 0.4, 0.6
    ("padim", 2): [80, 91, 86],  # loses 10, 0, 6
    ("patchcore", None): [70, 70, 70],
    ("patchcore", 4): [60, 70, 72],  # loses 10, 0, -2: rather nothing, and perhaps much
}


@pytest.fixture
def out(tmp_path):
    store_study(tmp_path, study.NAME, runs(VALUES))
    return tmp_path


def test_a_loss_is_taken_within_a_draw_and_its_interval_is_students(out):
    table = study.losses(study.learning_curve(out)).set_index(["method", "images"])
    four = table.loc["padim", 4]
    assert four[["loss", "value", "seeds"]].tolist() == pytest.approx([0.5, 90.5, 3])
    reach = 4.302653 * 0.1 / math.sqrt(3)  # t of 2 degrees of freedom, standard deviation of 0.5, 0.4, 0.6
    assert four[["low", "high"]].tolist() == pytest.approx([0.5 - reach, 0.5 + reach])
    assert table.loc["padim", 9][["loss", "low", "high"]].tolist() == [0, 0, 0]


@pytest.mark.parametrize("metric", ["fpr", "image_aurok"])
def test_a_metric_that_is_no_share_or_better_low_is_refused(metric, out):
    with pytest.raises(InputError, match=f"metric = '{metric}' cannot be taken here; possible are image_auroc, "):
        study.learning_curve(out, metric)


def test_a_number_of_which_no_category_has_more_leaves_the_others_numbers(tmp_path):
    values = VALUES | {("padim", 100): [90, 91, 92], ("patchcore", 100): [70, 70, 70]}
    store_study(tmp_path, study.NAME, runs(values))
    table = study.losses(study.learning_curve(tmp_path))
    assert 100 not in set(table["asked"])
    assert [str(table[name].dtype) for name in ("value", "loss", "low", "high")] == ["float64"] * 4
    assert not any(math.copysign(1, value) < 0 for value in table["low"] if value == 0)


@pytest.mark.parametrize("few", [20, 50])
def test_a_category_that_has_no_more_images_does_not_dilute_a_loss(few):
    """Of a set of 20 (or 50) and one of 200 images only the larger learns fewer when 50 are asked for: it loses 3."""
    rows = [
        {"category": category, "seed": seed, "asked": asked, "learned": min(asked or there, there), "value": value}
        for seed in (0, 1)
        for category, there, values in (("small", few, (90, 90, 80)), ("large", 200, (95, 92, 75)))
        for asked, value in zip((None, 50, 10), values, strict=True)
    ]
    curve = pd.DataFrame(rows).assign(dataset="folder", method="padim").astype({"asked": float})
    table = study.losses(curve).set_index("images")
    assert table.loc[50, ["loss", "value", "categories"]].tolist() == [3, 92, 1]
    assert table.loc[10, ["loss", "value", "categories"]].tolist() == [15, 77.5, 2]
    assert table.loc[200, ["loss", "value", "categories"]].tolist() == [0, 92.5, 2]


def test_enough_is_the_smallest_number_down_to_which_every_interval_lies_below_the_margin(out):
    found = study.enough(study.losses(study.learning_curve(out)), margin=1).set_index("method")
    assert found.loc["padim", "images"] == 4
    assert math.isnan(found.loc["patchcore", "images"])  # a mean below the margin shows nothing by itself


def test_of_several_numbers_that_are_enough_the_smallest_is_told():
    rows = [(math.nan, 9, 0.0), (6.0, 6, 0.1), (4.0, 4, 0.2), (2.0, 2, 3.0)]  # asked, images, loss
    table = pd.DataFrame(rows, columns=["asked", "images", "loss"]).assign(dataset="folder", method="padim", seeds=3)
    (row,) = study.enough(table.assign(low=table["loss"] - 0.1, high=table["loss"] + 0.1)).to_dict("records")
    assert (row["images"], row["loss"], row["tried"]) == (4, 0.2, 4)


def test_a_small_number_does_not_count_where_a_larger_one_fails(out):
    table = study.losses(study.learning_curve(out))
    table.loc[(table["method"] == "padim") & (table["images"] == 2), ["low", "high"]] = (-0.1, 0.1)
    table.loc[(table["method"] == "padim") & (table["images"] == 4), "high"] = 1.5
    assert math.isnan(study.enough(table, margin=1).set_index("method").loc["padim", "images"])


def test_draws_that_are_all_alike_claim_no_interval(tmp_path):
    store_study(tmp_path, study.NAME, runs({("padim", None): [90, 91, 92], ("padim", 4): [90, 91, 92]}))
    (said,) = study.conclusions(study.enough(study.losses(study.learning_curve(tmp_path))))
    assert "4 of 9 normal images are enough for these test images." in said
    assert "alike in all 3 draws, which have no spread for an interval" in said and "95 %" not in said


def test_a_loss_that_is_alike_in_all_draws_claims_no_interval_either(tmp_path):
    store_study(tmp_path, study.NAME, runs({("padim", None): [90, 91, 92], ("padim", 4): [80, 81, 82]}))
    (said,) = study.conclusions(study.enough(study.losses(study.learning_curve(tmp_path))))
    assert "is shown to be enough. With 4 of them image AUROC is 10.0 points lower (loss 10.0, alike in all 3" in said


@pytest.mark.parametrize("margin", [0, -1])
def test_a_margin_in_which_nothing_may_be_lost_is_refused(margin, out):
    with pytest.raises(InputError, match="must be above 0"):
        study.enough(study.losses(study.learning_curve(out)), margin)


def test_all_images_under_another_number_are_no_smaller_number():
    rows = [(math.nan, 9, 0.0), (20.0, 9, 0.0), (4.0, 4, 3.0)]  # asked, images, loss
    table = pd.DataFrame(rows, columns=["asked", "images", "loss"]).assign(dataset="folder", method="padim", seeds=3)
    found = study.enough(table.assign(low=table["loss"] - 0.1, high=table["loss"] + 0.1))
    assert math.isnan(found["images"][0]) and found[["all", "tried"]].to_numpy().tolist() == [[9, 4]]


def test_conclusions_follow_the_numbers(out):
    said = study.conclusions(study.enough(study.losses(study.learning_curve(out))))
    assert said[0].startswith(
        "padim on folder: 4 of 9 normal images are enough. With them image AUROC is 0.5 points lower"
    )
    assert "patchcore on folder: no number short of all 9 images is shown to be enough" in said[1]
    assert "With 4 of them image AUROC is 2.7 points lower (loss 2.7, 95 % interval -13.3 to 18.6, 3 draws)" in said[1]


def test_one_draw_gives_no_interval_and_no_answer(tmp_path):
    store_study(tmp_path, study.NAME, runs({key: values[:1] for key, values in VALUES.items()}))
    said = study.conclusions(study.enough(study.losses(study.learning_curve(tmp_path))))
    assert all("one draw has no interval" in sentence for sentence in said)


def test_the_notebook_runs_on_stored_runs_and_on_none(out, tmp_path):
    run_notebook("63_how_many_normals", out)
    run_notebook("63_how_many_normals", tmp_path / "nothing")
