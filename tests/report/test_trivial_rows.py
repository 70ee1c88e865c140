"""Trivial baselines in tables: beside ours, marked, and nowhere that methods are ranked or judged."""

import pytest
from conftest import finished_record

from adlib.report import comparison, show_table
from adlib.report.printed_text import printed_text
from adlib.report.trivial_rows import trivial_rows
from adlib.runs import Store
from adlib.runs.record import write_json


def leave_runs(out, paper: str, table: str, runs: list[dict], phantom=None) -> None:
    """A plan of a paper and its finished records. runs: method, dataset, category, baselines, perhaps groups;
    joint for all of them.
    """
    cells = []
    for number, run in enumerate(runs):
        place = {name: run[name] for name in ("method", "dataset", "category")}
        own = place | {"category": "" if run.get("joint") else run["category"]}
        data = {"fingerprint": "d0", "phantom": phantom}
        more = {"baselines": run["baselines"], "groups": run.get("groups", {})}
        record = finished_record(f"{number:016x}", own, data=data, **more)
        folder = Store(out / "runs").path(record["key"])
        folder.mkdir(parents=True)
        write_json(folder / "record.json", record)
        about = {"paper": paper, "table": table, "setting": "", "seed": 0, "missing": "", "key": record["key"]}
        cells.append(place | about)
    (out / "plans").mkdir(parents=True)
    write_json(out / "plans" / f"{paper}.json", {"paper": paper, "cells": cells})


@pytest.fixture
def out(tmp_path):
    def said(grey):
        return {"": {"mean grey": {"image_auroc": grey}, "deviation map": {"image_auroc": 0.5, "pixel_auroc": 0.75}}}

    place = {"method": "patchcore", "dataset": "cxr_ad"}
    runs = [place | {"category": "UB", "baselines": said(0.25)}, place | {"category": "DC", "baselines": said(0.75)}]
    leave_runs(tmp_path, "cxr_ad", "II", [*runs, runs[0] | {"method": "padim", "baselines": said(0.1)}])
    return tmp_path


def test_each_baseline_has_a_row_in_percent_of_the_first_run_of_each_category_and_their_mean(out):
    cells = comparison("cxr_ad", "II", out)
    rows = trivial_rows(cells, out)
    assert list(rows.columns) == list(cells.columns)
    assert rows["published"].isna().all()
    image = rows[(rows["method"] == "baseline: mean grey")].set_index(["metric", "category"])["ours"].to_dict()
    expected = {"UB": 25, "DC": 75, "average": 50}
    assert image == {("image_auroc", name): value for name, value in expected.items()}
    pixels = rows[rows["metric"] == "pixel_auroc"]
    assert set(pixels["method"]) == {"baseline: deviation map"}
    assert set(pixels["ours"]) == {75}


def test_their_average_says_when_categories_are_missing(out, tmp_path):
    cells = comparison("cxr_ad", "II", out)
    rows = trivial_rows(cells, out)
    assert set(rows.loc[rows["category"] == "average", "state"]) == {"partly"}  # two of five
    assert set(rows.loc[rows["category"] != "average", "state"]) == {"done"}
    assert "<td>50.00 (partly)</td>" in show_table("cxr_ad", "II", out).data
    text = printed_text(cells, cells.iloc[:0], rows).split("no detectors\n")[1]
    assert "50.00 partly" in text
    assert text.count("partly") == 3  # mean grey, and the deviation map by images and by pixels

    place = {"method": "uniad", "dataset": "cxr_ad", "joint": True}
    parts = {name: {"spread": {"image_auroc": 0.5}} for name in ("UB", "DC", "CDIP", "CFP16", "CFP20")}
    leave_runs(tmp_path / "all", "cxr_ad", "II", [place | {"category": name, "baselines": parts} for name in parts])
    rows = trivial_rows(comparison("cxr_ad", "II", tmp_path / "all"), tmp_path / "all")
    assert set(rows["state"]) == {"done"}


def test_where_pro_has_no_average_of_theirs_aupro_is_marked_alone(tmp_path):
    joint = {"method": "uniad", "dataset": "three_cad", "category": "AI", "joint": True}
    leave_runs(tmp_path, "three_cad", "4", [joint | {"baselines": {"AI": {"spread": {"aupro": 0.25}}}}])
    page = show_table("three_cad", "4", tmp_path).data.split("Trivial baselines")[-1]
    assert '<td class="missing">–</td><td>25.00 (partly)</td>' in page


def test_they_stand_apart_from_what_is_published_and_are_not_among_the_methods(out):
    assert not comparison("cxr_ad", "II", out)["method"].str.startswith("baseline").any()
    page = show_table("cxr_ad", "II", out).data
    methods, apart = page.split("Trivial baselines: ours, of no paper, and no detectors")[:2]
    assert "baseline: mean grey" not in methods
    assert '<th scope="row">baseline: mean grey</th>' in apart
    assert "<td>25.00</td>" in apart
    assert 'class="published"' not in apart.split("</table>")[0]
    cells = comparison("cxr_ad", "II", out)
    text = printed_text(cells, cells.iloc[:0], trivial_rows(cells, out))
    assert text.split("no detectors\n")[1].splitlines()[1].split()[:3] == ["baseline:", "mean", "grey"]


def test_on_drawn_data_they_are_folded_as_our_other_numbers_are(tmp_path):
    place = {"method": "patchcore", "dataset": "cxr_ad", "category": "UB"}
    said = {"": {"spread": {"image_auroc": 0.5}}}
    leave_runs(tmp_path, "cxr_ad", "II", [place | {"baselines": said}], {"difficulty": "hard"})
    page = show_table("cxr_ad", "II", tmp_path).data
    assert "<summary>Trivial baselines on drawn data: ours, of no paper, and no detectors</summary>" in page


def test_sub_classes_and_joint_runs_have_their_own_parts(tmp_path):
    place = {"method": "uflow", "dataset": "texture_ad", "category": "cloth"}
    parts = {"": {"spread": {"image_auroc": 0.5}}, "/subclass1": {"spread": {"image_auroc": 0.9}}}
    leave_runs(tmp_path, "texture_ad", "2", [place | {"baselines": parts}])
    cells = comparison("texture_ad", "2", tmp_path)
    found = trivial_rows(cells, tmp_path).set_index(["category", "metric"])["ours"]
    assert found["cloth/subclass1", "image_auroc"] == pytest.approx(90)
    assert "cloth/subclass2" not in found.index

    joint = {"method": "uniad", "dataset": "three_cad", "category": "AI", "joint": True}
    parts = {"": {"spread": {"aupro": 0.5}}, "AI": {"spread": {"aupro": 0.25}}}
    leave_runs(tmp_path / "joint", "three_cad", "4", [joint | {"baselines": parts}])
    cells = comparison("three_cad", "4", tmp_path / "joint")
    rows = trivial_rows(cells, tmp_path / "joint").set_index(["category", "metric"])
    assert rows.loc[("AI", "pro"), "aupro"] == 25
    assert rows["ours"].isna().all()


def test_the_only_sub_class_and_those_of_a_joint_run_have_baselines(tmp_path):
    place = {"method": "uflow", "dataset": "texture_ad", "category": "cloth"}
    whole = {"": {"spread": {"image_auroc": 0.5}}}
    groups = {"groups": {"subclass4": {"image_auroc": 0.6}}}
    leave_runs(tmp_path, "texture_ad", "2", [place | groups | {"baselines": whole}])
    found = trivial_rows(comparison("texture_ad", "2", tmp_path), tmp_path).set_index(["category", "metric"])["ours"]
    assert found["cloth/subclass4", "image_auroc"] == 50
    assert "cloth/subclass1" not in found.index

    parts = whole | {name: {"spread": {"image_auroc": 0.7}} for name in ("cloth", "metal")}
    parts |= {"cloth/subclass1": {"spread": {"image_auroc": 0.9}}, "metal/subclass1": {"spread": {"image_auroc": 0.1}}}
    joint = place | {"method": "simplenet", "joint": True, "baselines": parts}
    leave_runs(tmp_path / "joint", "texture_ad", "2", [joint])
    cells = comparison("texture_ad", "2", tmp_path / "joint")
    found = trivial_rows(cells, tmp_path / "joint").set_index(["category", "metric"])["ours"]
    assert found["cloth/subclass1", "image_auroc"] == pytest.approx(90)


def test_a_run_of_the_category_alone_stands_before_one_on_all_together(tmp_path):
    joint = {"method": "uniad", "dataset": "cxr_ad", "category": "UB", "joint": True}
    joint |= {"baselines": {"UB": {"nearest thumbnail": {"image_auroc": 0.1}}}}
    alone = joint | {"method": "padim", "joint": False, "baselines": {"": {"nearest thumbnail": {"image_auroc": 0.25}}}}
    for name, runs in (("joint first", [joint, alone]), ("alone first", [alone, joint])):
        leave_runs(tmp_path / name, "cxr_ad", "II", runs)
        found = trivial_rows(comparison("cxr_ad", "II", tmp_path / name), tmp_path / name)
        assert set(found["ours"].dropna()) == {25}


def test_without_any_run_there_are_none(tmp_path):
    cells = comparison("cxr_ad", "II", tmp_path)
    assert trivial_rows(cells, tmp_path).empty
    assert "Trivial" not in show_table("cxr_ad", "II", tmp_path).data
