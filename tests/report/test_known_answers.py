"""What runs on plain phantoms found of what was drawn: judged, counted, and named where it is too little."""

import numpy as np
import pandas as pd
import pytest
from conftest import finished_record
from typer.testing import CliRunner

from adlib import Predictions, create_model, evaluate
from adlib.report import known_answers as answers
from adlib.report.known_answers import floors, known_answers, verdict
from adlib.report.pages import render_report
from adlib.report.tables import comparison
from adlib.runs import Run, Store
from adlib.runs.record import failure, write_json

PLAIN = {"dataset": "miic", "seed": 0, "options": {"difficulty": "plain"}, "state": "complete"}


def metrics_of(sign: int = 1) -> dict:
    """Of a method on two normal and two defective images: of one that knows the truth, or, negated, of a broken one."""
    masks = np.zeros((4, 8, 8), bool)
    masks[2:, 2:4, 2:4] = True
    labels = np.array([0, 0, 1, 1])
    samples = pd.DataFrame({"label": labels, "image": list("abcd"), "mask": "", "split": "test"})
    samples = samples.assign(category="MIIC", group="", defect=["good", "good", "blot", "blot"])
    scores, maps = sign * labels.astype("float32"), sign * masks.astype("float32")
    found = evaluate(Predictions(scores, maps, samples), masks)
    return {name: found[name] for name in ("image_auroc", "pixel_auroc")}


def leave(out, method, metrics, phantom=PLAIN, **more):
    """A finished run on MIIC in the store; returns its cell for the plan. metrics: None for a run that failed."""
    run, key = Run("miic", "/data", method, "MIIC", {}), f"{sum(map(ord, method)):016x}"
    folder = Store(out / "runs").path(key)
    folder.mkdir(parents=True)
    object.__setattr__(run, "key", key)
    data = {"fingerprint": "d0", "phantom": phantom}
    record = failure(run, "error", "boom")
    if metrics is not None:
        record = finished_record(key, run.as_dict(), data=data, metrics=metrics, **more)
    write_json(folder / "record.json", record)
    place = {"paper": "miic", "table": "3", "method": method, "dataset": "miic", "category": "MIIC", "setting": ""}
    return place | {"seed": 0, "missing": "", "key": key}


def plan(out, cells, difficulty="plain", paper="miic"):
    (out / "plans").mkdir()
    content = {"paper": paper, "data": "phantoms", "difficulty": difficulty, "cells": cells}
    write_json(out / "plans" / f"{paper}.json", content)


@pytest.mark.parametrize(("difficulty", "judged"), [("plain", 2), ("hard", 0)])
def test_runs_that_are_to_do_are_judged_where_they_will_be_on_plain_phantoms(tmp_path, difficulty, judged):
    place = {"paper": "miic", "table": "3", "method": "padim", "dataset": "miic", "category": "MIIC", "setting": ""}
    plan(tmp_path, [place | {"seed": 0, "missing": "", "key": "a" * 16}], difficulty)
    assert len(known_answers(tmp_path)) == judged


def test_a_method_that_is_broken_on_purpose_is_named_on_the_index(tmp_path):
    cells = [leave(tmp_path, "patchcore", metrics_of()), leave(tmp_path, "padim", metrics_of(-1))]
    plan(tmp_path, cells)
    index = render_report(tmp_path).read_text()
    assert "1 of 2 found what was drawn" in index
    assert "padim on miic/MIIC: image AUROC 0.000, at least 0.85; pixel AUROC 0.000, at least 0.85" in index
    assert "patchcore on miic/MIIC:" not in index


def test_where_all_found_it_the_index_says_so_and_names_none(tmp_path):
    plan(tmp_path, [leave(tmp_path, "patchcore", metrics_of())])
    index = render_report(tmp_path).read_text()
    assert "✓ 1 of 1 found what was drawn" in index
    assert "at least 0.85" not in index


def test_floors_are_those_of_the_method_and_of_what_its_maps_are():
    assert floors("patchcore") == {"image_auroc": 0.85, "pixel_auroc": 0.85}
    assert {floors(name)["image_auroc"] for name in ("ganomaly", "fanogan", "iad_inpainting")} == {0.75}
    assert set(floors("msad")) == {"image_auroc"}  # no maps
    assert set(floors("mixed_supervised")) == {"image_auroc"}  # its maps explain the score
    assert set(floors("a_plug_in_that_is_gone")) == {"image_auroc", "pixel_auroc"}


@pytest.mark.parametrize(
    ("method", "image", "pixel", "found"),
    [
        ("padim", 0.85, 0.85, True),
        ("padim", 0.849, 0.9, False),
        ("padim", 0.9, 0.849, False),
        ("padim", 0.9, None, False),  # undefined is not found
        ("ganomaly", 0.75, 0.85, True),
        ("msad", 0.9, None, True),
    ],
)
def test_a_cell_is_found_where_all_its_floors_are_reached(tmp_path, method, image, pixel, found):
    plan(tmp_path, [leave(tmp_path, method, {"image_auroc": image, "pixel_auroc": pixel})])
    result = verdict(known_answers(tmp_path))
    assert (result.found, result.cells, len(result.lines)) == (int(found), 1, int(not found))


@pytest.mark.parametrize(
    "phantom", [None, {"seed": 0}, {"options": {"difficulty": "hard"}}, {"options": "plain"}, {"options": {}}]
)
def test_real_data_and_hard_phantoms_are_not_judged(tmp_path, phantom):
    plan(tmp_path, [leave(tmp_path, "padim", metrics_of(-1), phantom=phantom)], difficulty="hard")
    assert known_answers(tmp_path).empty
    assert verdict(known_answers(tmp_path)).sentence == ""
    assert "found what was drawn" not in render_report(tmp_path).read_text()


def test_a_joint_run_is_judged_by_category_and_counted_once_in_several_tables(tmp_path):
    parts = {"AI": {"image_auroc": 0.9, "pixel_auroc": 0.9}, "CS": {"image_auroc": 0.5, "pixel_auroc": 0.9}}
    cell = leave(tmp_path, "uniad", {"image_auroc": 0.99, "pixel_auroc": 0.99}, categories=parts)
    cells = [cell | {"category": name, "dataset": "three_cad", "table": table} for name in parts for table in "345"]
    plan(tmp_path, cells)
    result = verdict(known_answers(tmp_path))
    assert result.sentence == "1 of 2 found what was drawn"
    assert result.lines == ["uniad on three_cad/CS: image AUROC 0.500, at least 0.85"]


def test_failed_runs_are_named_and_those_to_do_are_counted(tmp_path):
    cells = [leave(tmp_path, "padim", None), leave(tmp_path, "cfa", metrics_of())]
    cells.append(cells[1] | {"method": "stfpm", "key": "e" * 16})
    cells.append(cells[1] | {"method": "rd4ad", "key": "", "missing": "not in this profile"})
    plan(tmp_path, cells)
    result = verdict(known_answers(tmp_path, ["miic"]))
    assert result.sentence == "1 of 3 found what was drawn, 1 still to do"
    assert result.lines == ["padim on miic/MIIC: the run failed"]


RANDOM = {"kind": "random", "seed": 0}


def test_a_known_answer_of_some_of_the_runs_alone_says_so(tmp_path):
    done, failed = leave(tmp_path, "padim", metrics_of()), leave(tmp_path, "cfa", None) | {"method": "padim", "seed": 1}
    plan(tmp_path, [done, failed])
    index = render_report(tmp_path).read_text()
    assert index.count("✓ 100.00 (partly)</td>") == 2  # of images, of pixels
    assert "1 of 2 found what was drawn" in index


def test_a_method_without_the_weights_that_it_needs_is_a_dash_and_counts_neither_way(tmp_path):
    cells = [leave(tmp_path, "adaclip", metrics_of(-1), weights=RANDOM), leave(tmp_path, "patchcore", metrics_of())]
    cells = [cell | {"paper": "cxr_ad", "table": "II", "dataset": "cxr_ad", "category": "DC"} for cell in cells]
    plan(tmp_path, cells, paper="cxr_ad")
    result = verdict(known_answers(tmp_path))
    assert result.sentence == "1 of 1 found what was drawn, 1 not judged"
    assert result.lines == []
    assert result.dashes == ["adaclip on cxr_ad/DC: needs CLIP's weights; what is drawn at random cannot find anything"]
    index = render_report(tmp_path).read_text()
    assert "✓ 1 of 1 found what was drawn, 1 not judged" in index
    assert "adaclip on cxr_ad/DC: needs CLIP&#39;s weights" in index
    ours = comparison("cxr_ad", "II", tmp_path).query("category == 'DC' and method == 'adaclip'")
    assert set(ours["state"]) == {"needs CLIP's weights"}
    assert ours["ours"].isna().all()


def test_with_the_weights_that_it_needs_a_method_is_judged_and_so_are_random_ones_of_other_methods(tmp_path):
    cells = [leave(tmp_path, "adaclip", metrics_of(-1)), leave(tmp_path, "padim", metrics_of(-1), weights=RANDOM)]
    plan(tmp_path, cells)
    result = verdict(known_answers(tmp_path))
    assert (result.sentence, len(result.lines), result.dashes) == ("0 of 2 found what was drawn", 2, [])


def test_the_record_of_a_method_without_the_weights_that_it_needs_says_so():
    assert create_model("adaclip", towers="tiny", weights="random").warnings == [
        "Random weights: it needs CLIP's weights; what is drawn at random cannot find anything."
    ]


def test_the_sentence_on_floors_is_made_of_the_floors(monkeypatch):
    monkeypatch.setattr(answers, "FLOORS", {"image_auroc": 0.123})
    monkeypatch.setattr(answers, "LOWER_FLOORS", {"cfa": {"image_auroc": 0.045}})
    assert "image AUROC of 0.123" in answers.floor_sentence()
    assert "image AUROC of 0.045 for cfa" in answers.floor_sentence()


@pytest.mark.parametrize(("lines", "code"), [([], 0), (["padim on miic/MIIC: image AUROC 0.1, at least 0.85"], 1)])
def test_reproduce_ends_with_the_sentence_and_fails_by_name_if_strict(tmp_path, monkeypatch, lines, code):
    from adlib import reproduce
    from adlib.cli import app

    known = answers.Verdict(2, 2 - len(lines), 0, lines)
    outcome = reproduce.Outcome(tmp_path / "index.html", 2, [], known)
    monkeypatch.setattr(reproduce, "reproduce", lambda *_, **__: outcome)
    command = ["reproduce", "miic", "--out", str(tmp_path), "--jobs", "1"]
    assert CliRunner().invoke(app, command).exit_code == 0
    result = CliRunner().invoke(app, [*command, "--strict"])
    assert result.exit_code == code
    assert f"{2 - len(lines)} of 2 found what was drawn." in result.output
    assert all(f"not found: {line}" in result.output for line in lines)
