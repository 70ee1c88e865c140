"""Thresholds that travel: images are never decided by a threshold that saw them, but for the oracle's."""

import numpy as np
import pandas as pd
import pytest
from stored import run_notebook, store_study

from adlib import Predictions
from adlib.samples import make_samples
from adlib.studies import thresholds_that_travel as study

# Two lights of one category, ten normal images and four defects each: the second light adds 100 to every score.
NORMAL, DEFECTS = np.arange(10.0), np.array([3.5, 20, 21, 22])


def table(shift: float = 100, category: str = "cloth") -> pd.DataFrame:
    parts = []
    for place, added in (("dim", 0), ("bright", shift)):
        score = np.concatenate([NORMAL, DEFECTS]) + added
        label = [0] * len(NORMAL) + [1] * len(DEFECTS)
        image = [f"{place}_{number}.png" for number in range(len(label))]
        about = {"category": category, "place": place, "image": image}
        parts.append(pd.DataFrame(about | {"label": label, "score": score}))
    return pd.concat(parts, ignore_index=True).assign(dataset="texture_ad", method="padim", seed=0)


def rule(found: pd.DataFrame, name: str) -> pd.Series:
    return found.set_index("rule").loc[name]


def test_a_foreign_light_calls_all_or_nothing_where_scores_are_shifted():
    found = study.travel(study.decisions(table(), rate=0.1))
    light = rule(found, "another light")
    # The dim threshold (above 9) calls all 14 of the bright ones; the bright one (above 109) none of the dim ones.
    assert (light["fpr"], light["recall"]) == (0.5, 0.5)
    assert light["promised"] == pytest.approx(0.1)
    assert set(found["rule"]) == {"oracle", "own normals", "another light"}  # there is one category


def test_several_foreign_lights_call_an_image_by_their_share():
    middle = table(50).query("place == 'bright'").assign(place="middle")
    middle["image"] = "middle_" + middle["image"]
    found = study.decisions(pd.concat([table(), middle], ignore_index=True), rate=0.1)
    light = found[found["rule"] == "another light"].groupby("place")["called"].unique()
    assert {place: values.tolist() for place, values in light.items()} == {"dim": [0], "middle": [0.5], "bright": [1]}
    # Half of them is enough to open an image by: all normal ones in the middle, which the oracle passes.
    opened = study.points(found)
    middle = opened[opened["image"].str.startswith("middle") & opened["label"].str.contains("another light")]
    assert middle["label"].str.contains("normal: called by").sum() == len(NORMAL)


def test_one_normal_image_lends_no_threshold():
    for normal, lends in ((1, False), (2, True)):
        bright = table().query(f"place == 'dim' or label == 1 or score < {100 + normal}")
        found = study.decisions(bright, rate=0.1)
        assert ("dim" in set(found[found["rule"] == "another light"]["place"])) == lends


def test_the_promise_is_that_of_the_fewest_normal_images_that_chose():
    seven = table()[lambda rows: (rows["label"] == 1) | (rows["score"] % 100 < 7)]  # of five parts some leave 5, some 6
    found = study.decisions(seven, rate=0.1)
    assert found.loc[found["rule"] == "own normals", "promised"].tolist() == pytest.approx([1 / 6] * len(seven))


def test_own_normals_decide_each_image_by_others_and_the_oracle_by_itself():
    found = study.travel(study.decisions(table(), rate=0.1))
    own = rule(found, "own normals")
    # Eight of ten choose: they cannot keep a rate of 0.1, so the line lies above them all, and 9 alone above it.
    assert own["promised"] == pytest.approx(1 / 9)
    assert (own["normal"], own["anomalous"], own["fpr"], own["recall"]) == (20, 8, 0.1, 0.75)
    oracle = rule(found, "oracle")
    assert (oracle["fpr"], oracle["recall"]) == (0, 0.75)
    assert oracle["f1"] == pytest.approx(2 * 6 / (2 * 6 + 2))
    assert own["f1"] == pytest.approx(2 * 6 / (2 * 6 + 2 + 2))


def test_photographs_of_an_item_stay_together_and_count_once():
    """Two photographs of each item, the second lower by 1.25: what is promised and came is as of the first alone."""
    once = table()
    twice = [once.assign(item=once["image"])]
    twice.append(twice[0].assign(image="again_" + once["image"], score=once["score"] - 1.25))
    found, alone = (study.travel(study.decisions(each)) for each in (pd.concat(twice, ignore_index=True), once))
    numbers = ["promised", "normal", "anomalous", "fpr", "fpr_low", "fpr_high", "recall", "recall_low", "recall_high"]
    own, before = rule(found, "own normals"), rule(alone, "own normals")
    assert own[numbers].tolist() == pytest.approx(before[numbers].tolist())
    assert (own["promised"], own["normal"]) == (pytest.approx(1 / 9), 20)
    assert own["f1"] == pytest.approx(2 * 12 / (2 * 12 + 4 + 2))  # of images: the top item's lower one is passed


def test_the_promise_is_of_the_normal_images_that_false_alarms_are_of():
    """A place of many defects and few normal images, which can promise little, does not count by its defects."""
    few, many = table(), table(category="wafer")
    more = many[many["label"] == 0].assign(image="more_" + many["image"], score=many["score"] + 0.5)
    defects = [few[few["label"] == 1].assign(image=f"{number}_" + few["image"]) for number in range(20)]
    decided = study.decisions(pd.concat([few, *defects, many, more], ignore_index=True))
    own = decided[decided["rule"] == "own normals"]
    by_category = own.groupby("category")["promised"].unique()
    (cloth,), (wafer,) = by_category["cloth"], by_category["wafer"]
    assert (cloth, wafer) == pytest.approx((1 / 9, 0.1))
    normal = own[own["label"] == 0]["category"].value_counts()
    expected = (cloth * normal["cloth"] + wafer * normal["wafer"]) / normal.sum()
    assert rule(study.travel(decided), "own normals")["promised"] == pytest.approx(expected)


def test_another_category_is_another_detectors_threshold():
    both = pd.concat([table(0), table(0, "metal").assign(score=lambda rows: rows["score"] + 50)], ignore_index=True)
    found = rule(study.travel(study.decisions(both, rate=0.1)), "another category")
    assert (found["fpr"], found["recall"]) == (0.5, 0.5)


def test_the_same_scores_give_the_same_decisions():
    assert study.decisions(table()).equals(study.decisions(table()))


def test_conclusions_follow_the_numbers():
    said = study.conclusions(study.travel(study.decisions(table())))
    assert said[0].startswith(
        "padim on texture_ad, own normals: 11.1% of false alarms promised, 10.0% came (95 % interval"
    )
    assert "which does not contradict it; 75.0% of the defects are found" in said[0]
    assert "10.0% of false alarms promised, 50.0% came" in said[1]
    assert "more than the chance of these images explains" in said[1]
    assert "of the oracle's F1 of 85.7, the threshold from normal images keeps 75.0; 10.7 points needed" in said[2]


def test_a_category_under_one_light_has_no_place_of_its_own(tmp_path):
    about = {"split": "test", "category": "cloth", "defect": "hole"}
    for groups, places in ((("dim", "dim"), {""}), (("dim", "bright"), {"dim", "bright"})):
        rows = [about | {"image": f"{row}.png", "label": row, "group": group} for row, group in enumerate(groups)]
        found = Predictions(np.arange(2.0), None, make_samples(rows, "numbers given by hand"))
        run = {"dataset": "texture_ad", "category": "cloth", "method": "padim", "predictions": found}
        store_study(tmp_path / groups[1], study.NAME, [run])
        assert set(study.scores(tmp_path / groups[1])["place"]) == places


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.05, 0.3, "does not contradict"), (0.15, 0.3, "more than the chance"), (0.0, 0.08, "fewer than the chance")],
)
def test_a_promise_is_contradicted_by_the_interval_and_not_by_the_rate_that_came(low, high, verdict):
    row = study.travel(study.decisions(table())).query("rule == 'own normals'").assign(promised=0.1)
    for came in (0.09, 0.11):
        said = study.conclusions(row.assign(fpr=came, fpr_low=low, fpr_high=high, rule="another light"))
        assert verdict in said[0]


def test_steps_of_few_normal_images_are_no_contradiction():
    """Of 16 others the highest alone lies above the line: one in 17 is kept, where a tenth was asked for."""
    more = table().query("label == 0").assign(score=lambda rows: rows["score"] + 0.5)
    twenty = pd.concat([table(), more.assign(image="more_" + more["image"])], ignore_index=True)
    own = study.travel(study.decisions(twenty)).query("rule == 'own normals'")
    assert own[["promised", "kept"]].squeeze().tolist() == pytest.approx([0.1, 1 / 17])
    for high, verdict in ((0.08, "as so few normal images keep 5.9% on average"), (0.05, "fewer than the chance")):
        said = study.conclusions(own.assign(fpr=0.04, fpr_low=0.03, fpr_high=high, rule="another light"))
        assert verdict in said[0]


def test_the_notebook_runs_on_stored_runs_and_on_none(tmp_path):
    scores = table()
    kinds = scores["label"].map({0: "good", 1: "hole"})
    about = {"split": "test", "category": "cloth"}
    rows = enumerate(zip(scores["label"], scores["place"], kinds, strict=True))
    samples = make_samples(
        [
            about | {"image": f"{row:02}.png", "label": label, "group": place, "defect": kind}
            for row, (label, place, kind) in rows
        ],
        "numbers given by hand",
    )
    found = Predictions(scores["score"].to_numpy(), None, samples)
    run = {"method": "padim", "dataset": "texture_ad", "category": "cloth", "predictions": found}
    store_study(tmp_path, study.NAME, [run])
    assert len(study.scores(tmp_path)) == 28
    assert set(study.scores(tmp_path)["place"]) == {"dim", "bright"}
    run_notebook("65_thresholds_that_travel", tmp_path)
    run_notebook("65_thresholds_that_travel", tmp_path / "nothing")


def test_the_images_to_open_are_those_that_a_rule_calls_otherwise_than_the_oracle():
    found = study.points(study.decisions(table(), rate=0.1))
    called = found[found["label"].str.contains("normal: called by .*another light")]
    assert set(called["image"]) == {f"bright_{number}.png" for number in range(len(NORMAL))}
    passed = found[found["label"].str.contains("defect: passed by .*another light")]
    assert {"dim_11.png", "dim_12.png", "dim_13.png"} <= set(passed["image"])
    assert study.points(study.decisions(table().iloc[:0])).empty
