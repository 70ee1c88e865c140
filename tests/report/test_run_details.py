"""Details of the runs behind a table, from records made by hand."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from adlib import InputError, Predictions
from adlib.report import below_limits, real_defect_runs, recall_by_defect, run_details, share_of_gap
from adlib.runs import Run
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


def test_few_normal_images_cannot_show_that_a_rate_lies_below_a_limit():
    rows = [("fpr", 0.2, 0.0), ("tn", 1467, 20), ("fp", 3, 0)]
    table = pd.DataFrame([("mixed 10", *row) for row in rows], columns=["setting", "metric", "published", "ours"])
    found = below_limits(table, "fpr", {"strict": 0.33, "loose": 7.0}).loc["mixed 10"]
    assert found["published below 0.33 (strict)"] == "yes"
    assert found["ours below 0.33 (strict)"] == "20 are too few"
    assert found["ours below 7 (loose)"] == "yes"


@pytest.mark.parametrize(("alarms", "answer"), [(0, "yes"), (1, "no")])
def test_a_rate_at_the_limit_is_not_below_it_and_as_many_images_as_reach_it_can_tell(alarms, answer):
    rows = [("fpr", None, 5.0 * alarms), ("tn", None, 20 - alarms), ("fp", None, alarms)]
    table = pd.DataFrame([("none 0", *row) for row in rows], columns=["setting", "metric", "published", "ours"])
    assert below_limits(table, "fpr", {"loose": 5.0}).loc["none 0", "ours below 5 (loose)"] == answer


def test_a_rate_is_that_of_its_counts_with_all_digits():
    """ISP-AD's Table 3 prints 0.6 for 11 of 1,915, which is 0.574."""
    rows = [("fpr", 0.6, None), ("tn", 1904, None), ("fp", 11, None)]
    table = pd.DataFrame([("none 0", *row) for row in rows], columns=["setting", "metric", "published", "ours"])
    assert below_limits(table, "fpr", {"loose": 0.59}).loc["none 0", "published below 0.59 (loose)"] == "yes"


def test_shares_of_a_gap_have_no_negative_zero():
    table = pd.DataFrame({"setting": ["a", "b"], "metric": "fn", "published": [22.0, 4.0], "ours": None})
    assert not np.signbit(share_of_gap(table, ["fn"], "a", "b").loc["a", "fn"])


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


def test_a_run_that_fills_several_rows_is_found_by_each_of_their_settings(tmp_path, monkeypatch):
    """Numbers above what there is are the same run, whose first row is not the one that is asked for."""
    one, two = (stored(tmp_path, "mixed_supervised", {"number": number}, [number / 100] * 8) for number in (0, 146))
    cells = [
        {"table": "3", "category": "ASM", "setting": setting, "method": "mixed_supervised", "key": record["key"]}
        for setting, record in (("none 0", one), ("mixed 36", two), ("mixed 146", two))
    ]
    monkeypatch.setattr(run_details, "read_plan", lambda paper, out: {"cells": cells})
    monkeypatch.setattr(run_details.Store, "record", lambda self, key: one if key == one["key"] else two)
    for setting, score in (("mixed 146", 1.46), ("mixed 36", 1.46), ("none 0", 0), ("unknown", 0)):
        found = run_details.stored_predictions("isp_ad", "mixed_supervised", tmp_path, "ASM", setting)
        assert found.scores == pytest.approx(8 * [score])


def test_a_run_on_several_categories_is_none_of_them(two_runs, monkeypatch):
    parts = {"ASM": {"image_auroc": 0.9}, "LSM-1": {"image_auroc": 0.6}}
    groups = {"ASM/a": {"image_auroc": 0.5}, "ASM/b": {"image_auroc": 0.7}, "LSM-1/a": {"image_auroc": 0.6}}
    record = {"status": "finished", "metrics": {"image_auroc": 0.8}, "groups": groups, "categories": parts}
    monkeypatch.setattr(run_details.Store, "record", lambda self, key: record)
    cell = {"table": "3", "setting": "", "method": "uniad", "seed": 0, "key": "0" * 16}
    cells = [cell | {"category": name} for name in parts]
    monkeypatch.setattr(run_details, "read_plan", lambda paper, out: {"cells": cells})
    assert [cell["category"] for cell, _ in run_details.finished_cells("isp_ad", two_runs)] == ["all"]
    by_category = run_details.finished_cells("isp_ad", two_runs, by_category=True)
    assert [cell["category"] for cell, _ in by_category] == list(parts)
    (row,) = run_details.pooled_table("isp_ad", two_runs).to_dict("records")
    assert (row["category"], row["groups"], row["pooled"], row["mean over groups"]) == ("ASM", 2, 90.0, 60.0)


def test_pooled_score_stands_beside_the_mean_over_groups(two_runs):
    (row,) = run_details.pooled_table("isp_ad", two_runs).to_dict("records")
    assert (row["groups"], row["pooled"], row["mean over groups"], row["difference"]) == (2, 80.0, 70.0, 10.0)


def test_pooled_scores_are_of_the_mean_and_of_no_run_that_stands_for_nothing(two_runs, monkeypatch):
    groups = {name: {"image_auroc": value} for name, value in {"a": 0.9, "b": 0.9, "c": 0.3}.items()}
    record = {"metrics": {"image_auroc": 0.8}, "groups": groups, "run": {"method": "adaclip"}, "status": "finished"}
    monkeypatch.setattr(run_details.Store, "record", lambda self, key: record)
    assert run_details.pooled_table("isp_ad", two_runs)["mean over groups"].tolist() == [70.0]
    record["weights"] = {"kind": "random"}  # without CLIP's
    assert "None of these runs" in run_details.pooled_table("isp_ad", two_runs).data


# Real defects in other methods


def stored(out, method, settings, scores, seed=0):
    """A finished run on ASM: 4 normal images, 2 area and 2 point defects."""
    run = Run("isp_ad", "/data", method, "ASM", settings, seed)
    key = f"{len(list((out / 'runs').glob('*'))):016x}"
    samples = pd.DataFrame({"image": list("abcdefgh"), "mask": "", "label": [0] * 4 + [1] * 4, "split": "test"})
    samples = samples.assign(category="ASM", group="ASM", defect=4 * ["good"] + 2 * ["area"] + 2 * ["points"])
    folder = Store(out / "runs").path(key)
    folder.mkdir(parents=True)
    Predictions(np.array(scores, np.float32), None, samples, {}).save(folder / "predictions")
    return {"status": "finished", "key": key, "run": run.as_dict(), "data": {"phantom": None}}


def test_runs_with_real_defects_stand_beside_the_papers_rows(tmp_path, monkeypatch):
    clear, blind = [0.1] * 4 + [0.9] * 4, [0.5, 0.5, 0.5, 0.8, 0.2, 0.9, 0.7, 0.7]
    records = [
        stored(tmp_path, "supersimplenet", {"train_real": 9, "train_real_kind": "area"}, clear),
        stored(tmp_path, "supersimplenet", {}, blind),
        stored(tmp_path, "glass", {"textures": "/data/ASM/real_defects/area"}, clear),
        stored(tmp_path, "mixed_supervised", {"synthetic": False, "probability": 0.5}, clear),
        stored(tmp_path, "mixed_supervised", {"number": 9}, clear),  # a row of Table 3, shown there
        stored(tmp_path, "padim", {}, clear),
    ]
    monkeypatch.setattr(run_details.Store, "records", lambda self: records)
    found = real_defect_runs("isp_ad", tmp_path)
    ours = found[found["whose"] == "ours"].set_index(["method", "learned"])
    assert ours.index.tolist() == [
        ("supersimplenet", "area 9"),
        ("supersimplenet", "none"),
        ("glass", "textures real_defects/area"),
        ("mixed_supervised", "mixed all, real alone"),
    ]
    # One alarm among four normal images would be 25 %: none of them says little of 0.33 %.
    limits = ours["fpr below 0.33 (strict)"]
    assert (ours["mcc"].iloc[0], ours["fpr"].iloc[0], limits.iloc[0]) == (1, 0, "4 are too few")
    # Best F1 takes all but the faintest defect, and the false alarm above them: 3 of 4 found, 1 of 4 normal.
    assert ours.iloc[1][["recall", "fpr", "recall of area", "recall of points"]].tolist() == [75, 25, 50, 100]
    assert ours["fpr below 0.59 (lenient)"].iloc[1] == "4 are too few"
    printed = found[found["whose"] == "published"].set_index("learned")
    records[0]["data"]["phantom"] = {"seed": 0}
    assert real_defect_runs("isp_ad", tmp_path)["whose"].tolist()[8] == "ours, phantom"
    assert printed.loc["area 9", ["category", "mcc", "recall", "fpr"]].tolist() == ["ASM", 0.91, 91.9, 0.4]
    assert printed["fpr below 0.33 (strict)"].tolist() == ["no", "yes", "no", "yes", "yes", "yes", "yes", "yes"]


def test_a_printed_rate_is_judged_by_the_printed_counts():
    """Table 3's "none 0" of ASM: 11 of 1916, 0.574 %, is printed as 0.6 and lies below 0.59."""
    (row,) = [row for row in run_details._published_decisions("isp_ad", {"ASM"}) if row["learned"] == "none 0"]
    assert (row["fpr"], row["fp"], row["tn"] + row["fp"]) == (0.6, 11, 1916)


def test_printed_rows_answer_as_below_limits_does(tmp_path, monkeypatch):
    records = [stored(tmp_path, "supersimplenet", {"train_real": 9, "train_real_kind": "area"}, [0.1] * 4 + [0.9] * 4)]
    monkeypatch.setattr(run_details.Store, "records", lambda self: records)
    found = real_defect_runs("isp_ad", tmp_path)
    printed = found[found["whose"] == "published"].set_index("learned")
    assert printed.loc["none 0", "fpr below 0.59 (lenient)"] == "yes"


def test_runs_that_learned_alike_are_told_apart_by_what_they_set(tmp_path, monkeypatch):
    clear, alone = [0.1] * 4 + [0.9] * 4, {"synthetic": False}
    records = [stored(tmp_path, "mixed_supervised", alone | {"epochs": number}, clear) for number in (1, 2)]
    monkeypatch.setattr(run_details.Store, "records", lambda self: records)
    found = real_defect_runs("isp_ad", tmp_path)
    learned = found.loc[found["whose"] == "ours", "learned"].tolist()
    assert learned == ["mixed all, real alone (epochs 1)", "mixed all, real alone (epochs 2)"]


def test_without_runs_with_real_defects_there_is_a_sentence(tmp_path, monkeypatch):
    records = [stored(tmp_path, "supersimplenet", {}, [0.1] * 4 + [0.9] * 4)]
    monkeypatch.setattr(run_details.Store, "records", lambda self: records)
    assert "No run that learns from real defects" in real_defect_runs("isp_ad", tmp_path).data


def test_a_runs_kernel_starts_without_what_reads_notebooks():
    """Importing nbformat takes longer than many a run's figures."""
    code = "import sys, adlib.report; print([name for name in ('nbformat', 'jsonschema') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
