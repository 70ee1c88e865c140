"""What is missed: verdicts on single defects, and what follows from verdicts that are given."""

import math

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from stored import run_notebook, store_study

from adlib import Predictions
from adlib.metrics.bootstrap import draw_counts
from adlib.predictions import drop_maps
from adlib.samples import file_fingerprints, make_samples
from adlib.studies import study_banner
from adlib.studies import what_is_missed as study

SIDE = 32
FAINT, BRIGHT = (slice(2, 4), slice(2, 4)), (slice(12, 20), slice(12, 20))  # two defects of one image


def stored(out, items=("",) * 5, score=2.0) -> None:
    """Three normal pictures and two with both defects; patchcore sees the bright one, padim (at half the size) both.

    items: that the pictures show. score: of the map where a defect is seen; one of normal pictures reaches 1.
    """
    rows, mask = [], np.zeros((SIDE, SIDE), np.uint8)
    mask[FAINT] = mask[BRIGHT] = 255
    out.mkdir(exist_ok=True)
    Image.fromarray(mask).save(out / "mask.png")
    for number in range(5):
        bad = number > 2
        picture = np.full((SIDE, SIDE), 100, np.uint8)
        if bad:
            picture[FAINT], picture[BRIGHT] = 110, 200
        Image.fromarray(picture).save(out / f"{number}.png")
        row = {"image": str(out / f"{number}.png"), "label": int(bad), "split": "test", "category": "cloth"}
        row["item"] = items[number]
        rows.append(row | {"mask": str(out / "mask.png") if bad else "", "defect": "blot" if bad else "good"})
    samples, runs = make_samples(rows, "pictures drawn by hand"), []
    for method, size, seen in (("patchcore", SIDE, [BRIGHT]), ("padim", SIDE // 2, [BRIGHT, FAINT])):
        maps = np.zeros((5, SIDE, SIDE), np.float32)
        maps[0, 0, 31] = 1  # the highest score of a normal picture
        for place in seen:
            maps[3:, place[0], place[1]] = score
        maps = maps.reshape(5, size, SIDE // size, size, SIDE // size).max(axis=(2, 4))
        settings = {"size": [size, size]}
        found = Predictions(np.arange(5.0), maps, samples, settings)
        place = {"dataset": "three_cad", "category": "cloth", "method": method}
        runs.append(place | {"predictions": found})
    store_study(out, study.NAME, runs)


def given(found: dict[str, list[int]], areas=None) -> pd.DataFrame:
    """Verdicts on defects of one image each. found: method -> 0 or 1 per defect."""
    rows = []
    for method, values in found.items():
        for number, value in enumerate(values):
            area = 1.0 if areas is None else areas[number]
            about = {"dataset": "set", "category": "cloth", "image": f"{number:03}.png", "region": 0, "kind": "blot"}
            about |= {"area": area, "contrast": 10.0, "place": 0.5, "left": 0, "top": 0, "right": 1, "bottom": 1}
            rows.append(about | {"method": method, "score": float(value), "found": bool(value), "promised": 0.1})
    return pd.DataFrame(rows)


def test_each_defect_is_judged_by_itself_and_alike_at_any_size_of_the_map(tmp_path):
    stored(tmp_path / "runs_of")
    table = study.verdicts(tmp_path / "runs_of", rate=0.1)
    assert len(table) == 2 * 2 * 2  # images, defects, methods
    each = study.defects(table).sort_values(["area", "image"])
    assert each["area"].tolist() == pytest.approx([100 * 4 / 1024] * 2 + [100 * 64 / 1024] * 2)
    assert set(table["promised"]) == {0.25}  # three normal pictures keep no less than one in four
    assert each["contrast"].tolist() == pytest.approx([10, 10, 100, 100], abs=0.01)
    assert each["finders"].tolist() == [1, 1, 2, 2]
    assert each["alone"].tolist() == ["padim", "padim", "", ""]
    assert each["place"].tolist() == pytest.approx([13 / 16, 13 / 16, 0, 0])  # (3, 3) and (16, 16) of 32
    assert table.equals(study.verdicts(tmp_path / "runs_of", rate=0.1))
    assert (table["item"] == table["image"]).all()


def test_the_box_of_a_defect_is_in_shares_of_the_side_that_it_lies_along(tmp_path):
    mask = np.zeros((SIDE, 2 * SIDE), np.uint8)
    mask[8:16, 32:48] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    rows = [{"label": number, "split": "test", "category": "cloth", "mask": ""} for number in (0, 1)]
    for number, row in enumerate(rows):
        row["image"] = str(tmp_path / f"{number}.png")
        Image.fromarray(np.full(mask.shape, 100, np.uint8)).save(row["image"])
    rows[1] |= {"mask": str(tmp_path / "mask.png"), "defect": "blot"}
    samples = make_samples(rows, "pictures drawn by hand")
    found = Predictions(np.arange(2.0), np.zeros((2, *mask.shape)), samples, {"size": list(mask.shape)})
    place = {"dataset": "three_cad", "category": "cloth", "method": "padim"}
    store_study(tmp_path / "out", study.NAME, [place | {"predictions": found}])
    (defect,) = study.verdicts(tmp_path / "out").to_dict("records")
    assert [defect[side] for side in ("left", "top", "right", "bottom")] == [0.5, 0.25, 0.75, 0.5]


def test_more_false_alarms_find_what_fewer_miss(tmp_path):
    stored(tmp_path / "runs_of", score=0.5)
    for rate, found in ((0.1, 0), (0.5, 6)):  # above the highest normal picture, and above the two that are dark
        assert study.verdicts(tmp_path / "runs_of", rate)["found"].sum() == found


def test_photographs_of_an_item_are_drawn_together_and_promise_no_lower_rate(tmp_path):
    stored(tmp_path / "runs_of", ("a", "a", "b", "c", "c"))
    table = study.verdicts(tmp_path / "runs_of", rate=0.1)
    assert set(table["promised"]) == {1 / 3}  # two normal items
    assert set(table["item"]) == {"cloth/c"}
    assert math.isnan(study.share_of(table["found"], study.drawn_by(table))[1])  # one item says nothing of others
    once = given({"a": [1, 1, 0, 0], "b": [1, 0, 0, 0]})
    once["item"] = once["image"]
    twice = pd.concat([once, once.assign(image="again_" + once["image"])], ignore_index=True)
    before, after = (study.recall_by(table, "kind").iloc[0] for table in (once, twice))
    assert after[["recall", "low", "high"]].tolist() == before[["recall", "low", "high"]].tolist()
    assert (before["images"], after["images"], after["recall"]) == (4, 8, 37.5)


def test_a_set_without_masks_is_told_to_be_left_out(tmp_path):
    rows = [{"image": f"{number}.png", "label": number, "split": "test", "category": "cloth"} for number in (0, 1)]
    found = Predictions(np.arange(2.0), np.zeros((2, 4, 4)), make_samples(rows, "numbers given by hand"))
    place = {"dataset": "folder", "category": "cloth", "predictions": found}
    store_study(tmp_path, study.NAME, [place | {"method": "padim"}, place | {"method": "cfa"}])
    assert study.verdicts(tmp_path).empty
    said = ["folder/cloth is left out for padim, cfa: there are no masks of the defects."]
    assert study.left_out(tmp_path) == said


def test_a_run_whose_maps_were_not_kept_is_told_so(tmp_path):
    stored(tmp_path / "runs_of")
    drop_maps(tmp_path / "runs_of" / "runs" / f"{0:016x}" / "predictions")
    said = ["three_cad/cloth is left out for patchcore: the maps were not kept."]
    assert study.left_out(tmp_path / "runs_of") == said


def test_a_run_whose_masks_were_moved_since_is_left_out_and_warned_of(tmp_path):
    out = tmp_path / "runs_of"
    stored(out)
    samples = Predictions.load(out / "runs" / f"{0:016x}" / "predictions").samples
    runs = [
        {"dataset": "three_cad", "category": "cloth", "method": method}
        | {"data": {"scored": file_fingerprints(samples)}}
        | {"predictions": Predictions(np.arange(5.0), np.zeros((5, SIDE, SIDE)), samples, {"size": [SIDE, SIDE]})}
        for method in ("patchcore", "padim")
    ]
    store_study(tmp_path / "later", study.NAME, runs)
    assert study.left_out(tmp_path / "later") == []
    assert "Changed data" not in study_banner(study.NAME, tmp_path / "later").data
    mask = np.roll(np.array(Image.open(out / "mask.png")), 9, axis=1)
    Image.fromarray(mask).save(out / "mask.png")
    said = "three_cad/cloth is left out for patchcore, padim: the masks have changed since they were scored."
    assert study.left_out(tmp_path / "later") == [said]
    assert study.verdicts(tmp_path / "later").empty
    warned = study_banner(study.NAME, tmp_path / "later").data
    assert "Changed data: the masks of 2 runs are no longer those that were scored." in warned


def test_conclusions_count_defects_and_name_the_lone_finder():
    said = study.conclusions(given({"a": [1, 1, 0, 0], "b": [1, 0, 0, 0]}))
    assert said[0].startswith("set: 2 of 4 defects on 4 images are missed by all 2 methods at 10% of false alarms: 50%")
    assert "Were the methods' misses independent, it would be 38%." in said[0]  # 2/4 times 3/4
    assert said[1].startswith("set: a finds the most, 50% (")
    assert said[1].endswith("Found by one method alone: a 1.")
    assert "what decides is not modelled: that takes 10 images" in said[2]


def with_a_lost_run() -> pd.DataFrame:
    """Four defects of one category that a and b judged, a the better; two of another, whose run of b is missing."""
    table = given({"a": [1, 1, 1, 0, 0, 1], "b": [1, 1, 0, 0, 0, 0]}, areas=[1, 2, 3, 4, 9, 0.1])
    table["category"] = np.where(table["image"] < "004", "cloth", "hard")
    return table[(table["category"] == "cloth") | (table["method"] == "a")]


def test_what_is_missed_and_who_finds_the_most_is_said_of_the_defects_that_all_methods_judged():
    said = study.conclusions(with_a_lost_run())
    assert said[0].startswith("set: 2 of 6 defects are left out")
    assert said[0].endswith("not all 2 methods judged them: b lacks hard.")
    assert said[1].startswith("set: 1 of 4 defects on 4 images is missed by all 2 methods at 10% of false alarms: 25%")
    assert "it would be 12%." in said[1]  # 1/4 times 2/4
    assert said[2].startswith("set: a finds the most, 75% (")
    assert said[2].endswith("Found by one method alone: a 1.")


def test_what_one_method_alone_judged_is_neither_missed_by_all_nor_found_by_one_alone():
    table = with_a_lost_run()
    chosen = study.gallery(table, each=3)
    assert [rows["area"].tolist() for rows in chosen.values()] == [[4], [3], [1, 2]]
    assert study.recall_by(table, "kind")[["defects", "recall"]].values.tolist() == [[4, 62.5]]
    assert study.defects(table)["alone"].tolist() == ["", "", "a", "", "", ""]
    axis = study.show_map(table).axes[0]
    assert [len(points.get_offsets()) for points in axis.collections] == [3, 1, 1]  # found, crosses, rings
    lost = table[(table["category"] == "hard") | (table["method"] == "b")]
    assert study.conclusions(lost)[0].endswith("judged them: a lacks cloth; b lacks hard.")
    assert "not modelled" in study.conclusions(lost)[1]


def test_methods_that_find_as_many_are_said_to_tie():
    (_, said, _) = study.conclusions(given({"a": [1, 1, 0, 0], "b": [0, 1, 1, 0], "c": [0, 0, 0, 0]}))
    assert said.startswith("set: a, 50% (")
    assert " and b, 50% (" in said
    assert "), tie: none finds more. Found by one method alone: a 1, b 1." in said


def test_a_share_of_defects_is_drawn_by_images():
    share, low, high = study.share_of(pd.Series([1, 1, 1, 0]), pd.Series(["x", "x", "x", "y"]))
    assert (share, low, high) == (0.75, 0, 1)  # of two images either may be drawn twice
    share, low, high = study.share_of(pd.Series([0, 0, 0]), pd.Series(["x", "y", "z"]))
    assert (share, low) == (0, 0)
    assert high == pytest.approx(0.5615, abs=1e-4)  # none of three is no certainty: Wilson's
    share, low, high = study.share_of(pd.Series([1, 0]), pd.Series(["x", "x"]))
    assert share == 0.5
    assert math.isnan(low)
    assert math.isnan(high)


def test_all_that_is_found_is_no_certainty_however_many_defects_an_image_has():
    share, low, high = study.share_of(pd.Series([1, 1, 1]), pd.Series(["x", "x", "y"]))
    assert (share, high) == (1, 1) and low == pytest.approx(0.3424, abs=1e-4)  # Wilson's, of two images


def test_photographs_of_few_items_give_no_model():
    found = [0] * study.ENOUGH + [1] * study.ENOUGH
    table = given({"a": found}, np.arange(1.0, 2 * study.ENOUGH + 1))
    each = table["image"]
    assert len(study.what_decides(table.assign(item=each))) == 1
    assert study.what_decides(table.assign(item=each.where(each < "000", "one of few"))).empty


def test_the_interval_of_a_share_holds_95_of_100_draws_of_images():
    values = pd.Series(np.arange(40) % 3 == 0)
    share, low, high = study.share_of(values, pd.Series(np.arange(40)), seed=7)
    drawn = draw_counts(np.zeros(40, int), 2 * study.REPLICATES, 7) @ values.to_numpy() / 40
    assert (share, low, high) == pytest.approx((14 / 40, *np.quantile(drawn, [0.025, 0.975])))


def test_the_samples_to_open_begin_with_those_that_most_miss():
    labels = study.points(given({"a": [1, 0, 0], "b": [1, 0, 1]}))["label"].tolist()
    assert [label.partition(": ")[2] for label in labels] == [
        "found by 0 of 2",
        "found by 1 of 2, b alone",
        "found by 2 of 2",
    ]


def test_recall_is_told_by_kind_and_in_parts_with_as_many_defects():
    table = given({"a": [0, 0, 1, 1, 1, 1]}, areas=[1, 2, 3, 4, 5, 6])
    parts = study.recall_by(table, "area")
    assert parts["part"].tolist() == ["1 to 2", "3 to 4", "5 to 6"]
    assert parts["recall"].tolist() == [0, 100, 100]
    assert parts["defects"].tolist() == [2, 2, 2]
    assert study.recall_by(table, "kind")["recall"].tolist() == pytest.approx([100 * 4 / 6])
    contrasts = study.recall_by(table.assign(contrast=[0.012, 9, 10, 99.4, 120, 1234]), "contrast")["part"]
    assert contrasts.tolist() == ["0.012 to 9", "10 to 99", "120 to 1234"]


def test_the_model_sees_that_area_decides_and_that_nothing_else_varies():
    rng = np.random.default_rng(0)
    areas = 2.0 ** rng.integers(-3, 4, 80)
    found = (rng.random(80) < 1 / (1 + 1 / areas)).astype(int)  # odds equal to the area: a factor of 2 per doubling
    model = study.what_decides(given({"a": found.tolist()}, areas))
    assert model["property"].tolist() == ["area"]
    row = model.iloc[0]
    assert 1 < row["low"] < 2 < row["high"]
    assert "makes defects more likely to be found" in study.conclusions(given({"a": found.tolist()}, areas))[2]


def test_a_property_matters_where_its_whole_interval_says_so(monkeypatch):
    row = {"dataset": "set", "property": "area", "change": "per doubling", "odds": 1.5, "defects": 20, "images": 20}
    for low, high, said in ((0.8, 3, "is not shown to matter"), (1.1, 3, "makes defects more likely")):
        monkeypatch.setattr(
            study,
            "what_decides",
            lambda _, ends=(low, high): pd.DataFrame([row | dict(zip(("low", "high"), ends, strict=True))]),
        )
        assert any(f"area {said}" in text for text in study.conclusions(given({"a": [0, 1]})))


def test_the_model_asks_for_defects_that_some_method_misses_and_not_that_all_do():
    missed = [0] * study.ENOUGH + [1] * study.ENOUGH
    areas = np.arange(1.0, 2 * study.ENOUGH + 1)
    for misses, models in ((missed, 3), ([0] + [1] * (2 * study.ENOUGH - 1), 0)):
        table = given({"a": [1] * len(missed), "b": misses}, areas)
        table["contrast"], table["place"] = table["area"] % 5 + 1, table["area"] % 3 / 3
        assert len(study.what_decides(table)) == models


def test_odds_are_per_doubling_of_the_area():
    small, large = [1] * 25 + [0] * 75, [1] * 50 + [0] * 50  # odds of 1 to 3, and of 1 to 1 where the area is double
    (row,) = study.what_decides(given({"a": small + large}, [1.0] * 100 + [2.0] * 100)).to_dict("records")
    assert (row["property"], row["change"]) == ("area", "per doubling")
    assert row["odds"] == pytest.approx(3, rel=0.05)  # drawn to no effect a little
    assert 1 < row["low"] < row["odds"] < row["high"]


def test_the_logistic_model_stands_where_its_penalised_likelihood_is_flat():
    rng = np.random.default_rng(1)
    design, found, weights = rng.normal(size=(50, 3)), rng.integers(0, 2, 50), rng.integers(0, 3, 50)
    coefficients = study.logistic(design, found, weights, ridge=0.7)
    chance = 1 / (1 + np.exp(-design @ coefficients))
    assert design.T @ (weights * (found - chance)) == pytest.approx(0.7 * coefficients, abs=1e-9)
    separated = study.logistic(np.array([[-1.0], [1.0]]), np.array([0, 1]), np.ones(2))
    assert 0 < separated[0] < 2  # finite all the same


def test_the_gallery_takes_the_largest_that_all_miss_and_the_smallest_that_one_finds():
    table = given({"a": [0, 0, 1, 1, 1], "b": [0, 0, 0, 1, 1]}, areas=[1, 5, 3, 2, 4])
    chosen = study.gallery(table, each=1)
    assert [rows["area"].tolist() for rows in chosen.values()] == [[5], [3], [2]]


def test_the_notebook_runs_on_stored_runs_and_on_none(tmp_path):
    stored(tmp_path / "runs_of")
    run_notebook("62_what_is_missed", tmp_path / "runs_of")
    run_notebook("62_what_is_missed", tmp_path / "nothing")
