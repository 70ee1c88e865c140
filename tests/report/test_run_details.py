"""Details of the runs behind a table, from records made by hand."""

import numpy as np
import pandas as pd
import pytest

from adlib import InputError, Predictions
from adlib.report import below_limits, recall_by_defect, run_details, share_of_gap
from adlib.runs.store import Store


def test_share_of_gap_and_limits():
    rows = [("none 0", "mcc", 0.7, None), ("area 9", "mcc", 0.9, None), ("mixed 9", "mcc", 0.95, None)]
    rows += [("none 0", "fpr", 0.6, 0.2), ("area 9", "fpr", 0.4, None), ("mixed 9", "fpr", 0.2, 0.5)]
    table = pd.DataFrame(rows, columns=["setting", "metric", "published", "ours"])
    shares = share_of_gap(table, ["mcc"], "none 0", "mixed 9")
    assert shares["mcc"].tolist() == pytest.approx([0, 80, 100])
    assert shares.index.tolist() == ["none 0", "area 9", "mixed 9"]
    found = below_limits(table, "fpr", {"strict": 0.33, "lenient": 0.59})
    assert found["published below 0.33 (strict)"].tolist() == ["no", "no", "yes"]
    assert found["published below 0.59 (lenient)"].tolist() == ["no", "yes", "yes"]
    assert found["ours below 0.33 (strict)"].tolist() == ["yes", "", "no"]
    with pytest.raises(InputError, match="no row mixed 99"):
        share_of_gap(table, ["mcc"], "none 0", "mixed 99")


@pytest.fixture
def two_runs(tmp_path, monkeypatch):
    """One finished run with predictions, and how the plan names it twice."""
    samples = pd.DataFrame({"image": list("abcde"), "mask": "", "label": [0, 1, 1, 1, 1]})
    samples = samples.assign(
        split="test", category="ASM", group="", defect=["good", "area", "area", "points", "points"]
    )
    store = Store(tmp_path / "runs")
    folder = store.path("0" * 16)
    folder.mkdir(parents=True)
    scores = np.array([0.1, 0.9, 0.2, 0.8, 0.7], np.float32)
    Predictions(scores, None, samples, {}).save(folder / "predictions")
    metrics = {"image_f1max_threshold": 0.5, "image_auroc": 0.8}
    groups = {"a": {"image_auroc": 0.9}, "b": {"image_auroc": 0.5}, "c": {"image_auroc": None}}
    choices = {"real defects": ["x", "y"], "epochs": 3}
    record = {"status": "finished", "metrics": metrics, "groups": groups, "choices": choices}
    cell = {"table": "3", "category": "ASM", "setting": "mixed 9", "method": "padim", "seed": 0, "key": "0" * 16}
    monkeypatch.setattr(run_details, "read_plan", lambda paper, out: {"cells": [cell, cell | {"table": "4"}]})
    monkeypatch.setattr(run_details.Store, "record", lambda self, key: record)
    return tmp_path


def test_recall_by_defect_counts_each_kind(two_runs):
    found = recall_by_defect("isp_ad", two_runs, ["3", "4"])
    (row,) = found.to_dict("records")
    assert row["injected"] == 2
    assert (row["area, n = 2"], row["points, n = 2"]) == (50.0, 100.0)


def test_pooled_score_stands_beside_the_mean_over_groups(two_runs):
    (row,) = run_details.pooled_table("isp_ad", two_runs).to_dict("records")
    assert (row["groups"], row["pooled"], row["mean over groups"], row["difference"]) == (2, 80.0, 70.0, 10.0)
