"""PRO like with like: each paper's column beside our value of its own definition, AUPRO beside both."""

import pytest
from conftest import finished_record

from adlib import Predictions, evaluate, papers, phantoms
from adlib.metrics import PRO_LABELS
from adlib.report import comparison, show_comparison
from adlib.runs import Run, Store
from adlib.runs.record import write_json


@pytest.mark.parametrize("name", papers.list_papers())
def test_what_a_paper_says_of_pro_is_known(name):
    protocol = papers.protocol(name)
    prints = any("pro" in table["metrics"] for table in protocol["tables"].values())
    assert prints >= ("pro" in protocol)
    if "pro" in protocol:
        assert papers.pro_variant(name, protocol["pro"].get("datasets", [name])[0]) in PRO_LABELS
        assert {"variant", "where", "why"} <= set(protocol["pro"]) <= {"variant", "where", "why", "datasets"}


def test_a_run_computes_what_the_papers_on_its_dataset_measured():
    of = {name: papers.pro_variants(name) for name in ("isp_ad", "miic", "three_cad", "mvtec_ad", "cxr_ad")}
    assert of == {
        "isp_ad": ("pro_at_image_f1",),
        "miic": ("pro_both_rescaled",),
        "three_cad": ("pro_per_image",),
        "mvtec_ad": (),
        "cxr_ad": (),
    }


def test_a_run_that_was_done_before_a_paper_measured_pro_otherwise_does_not_stand_for_it(tree, monkeypatch):
    def key():
        return Run("folder", str(tree), "patchcore", settings={"weights": "random"}).key

    before = key()
    monkeypatch.setattr(papers, "pro_variants", lambda dataset: ("pro_per_image",))
    assert key() != before


def test_the_variants_are_evaluated_from_the_maps(tmp_path):
    root = phantoms.draw("miic", tmp_path / "miic")
    run = Run("miic", str(root), "patchcore", "MIIC", {"size": 64, "crop": None})
    images = run.images("test")
    masks = images.masks()
    found = evaluate(
        Predictions(images.labels, masks.astype("float32"), images.samples, images.settings), masks, run.pro_variants
    )
    assert found["aupro"] == 1
    assert "pro_both_rescaled" in found
    without_maps = evaluate(Predictions(images.labels, None, images.samples), pro_variants=run.pro_variants)
    assert without_maps["reasons"]["pro_both_rescaled"] == "the method gives no maps"


@pytest.fixture
def out(tmp_path):
    """A folder with one finished run of the ISP-AD table on LSM-1."""
    run, key = Run("isp_ad", "/data", "glass", "LSM-1", {}), "a" * 16
    metrics = {"image_auroc": 0.9, "pixel_auroc": 0.9, "aupro": 0.75, "pro_at_image_f1": 0.125}
    folder = Store(tmp_path / "runs").path(key)
    folder.mkdir(parents=True)
    write_json(folder / "record.json", finished_record(key, run.as_dict(), metrics=metrics))
    cell = {"paper": "isp_ad", "table": "4", "method": "glass", "dataset": "isp_ad", "category": "LSM-1"}
    (tmp_path / "plans").mkdir()
    cells = [cell | {"setting": "", "seed": 0, "missing": "", "key": key}]
    write_json(tmp_path / "plans" / "isp_ad.json", {"paper": "isp_ad", "cells": cells})
    return tmp_path


def test_ours_is_of_the_papers_own_definition_and_aupro_stands_beside(out):
    table = comparison("isp_ad", "4", out)
    found = table[(table["method"] == "glass") & (table["metric"] == "pro")].iloc[0]
    assert (found["published"], found["ours"], found["aupro"]) == (13.0, 12.5, 75)
    assert found["difference"] == -0.5
    assert table.loc[table["metric"] != "pro", "aupro"].isna().all()
    page = show_comparison(table, "pro").data
    assert "AUPRO, ours" in page
    assert "<td>75.00</td>" in page
    assert "PRO, ours: region overlap at the threshold of the best image F1." in page
    assert "AUPRO, ours" not in show_comparison(table, "pixel_auroc").data
    assert "<td>75.00 (partly)</td>" in show_comparison(table.assign(state="partly"), "pro").data


def test_values_from_the_methods_own_papers_are_compared_with_aupro(tmp_path):
    """Table 5 of 3CAD prints both data sets: on MVTec AD the numbers are not of its own code."""
    cells = []
    for dataset, category, key in (("mvtec_ad", "bottle", "a" * 16), ("three_cad", "AI", "b" * 16)):
        run = Run(dataset, "/data", "cfrg", category, {})
        folder = Store(tmp_path / "runs").path(key)
        folder.mkdir(parents=True)
        metrics = {"image_auroc": 0.9, "pixel_auroc": 0.9, "aupro": 0.75, "pro_per_image": 0.5}
        write_json(folder / "record.json", finished_record(key, run.as_dict(), metrics=metrics))
        cell = {"paper": "three_cad", "table": "5", "method": "cfrg", "dataset": dataset, "category": category}
        cells.append(cell | {"setting": "", "seed": 0, "missing": "", "key": key})
    (tmp_path / "plans").mkdir()
    write_json(tmp_path / "plans" / "three_cad.json", {"paper": "three_cad", "cells": cells})
    table = comparison("three_cad", "5", tmp_path).query("method == 'cfrg' and metric == 'pro'").set_index("dataset")
    assert table["ours"].to_dict() == {"mvtec_ad": 75, "three_cad": 50}
    assert "except on other sets than three_cad" in show_comparison(comparison("three_cad", "5", tmp_path), "pro").data
