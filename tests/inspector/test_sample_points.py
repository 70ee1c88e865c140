"""The samples behind a study's figure: each opens in the inspector with the runs that are meant, and no page breaks."""

import numpy as np
import pandas as pd
import pytest
from conftest import finished_record, make_tree

import adlib
from adlib.inspector import open_points
from adlib.predictions import Predictions
from adlib.runs.record import write_json
from adlib.samples import select

STUDY = "study/what_is_missed"
RUNS = [("patchcore", 0, ""), ("patchcore", 1, ""), ("padim", 0, ""), ("padim", 0, "half")]


@pytest.fixture
def out(tmp_path):
    """A study's finished runs on one category, of scores drawn at random."""
    samples = select(adlib.load_samples("folder", make_tree(tmp_path / "data")), split="test")
    cells = []
    for number, (method, seed, setting) in enumerate(RUNS):
        key = f"{number:016x}"
        scores = np.random.default_rng(number).random(len(samples))
        Predictions(scores, None, samples, {"size": 64, "crop": None}).save(tmp_path / "runs" / key / "predictions")
        place = {"method": method, "dataset": "folder", "category": "thing", "seed": seed}
        record = finished_record(key, place, parameters={"k": number})
        write_json(tmp_path / "runs" / key / "record.json", record)
        about = {"paper": STUDY, "table": "main", "setting": setting, "missing": "", "key": key}
        cells.append(place | about)
    file = tmp_path / "plans" / f"{STUDY}.json"
    file.parent.mkdir(parents=True)
    write_json(file, {"paper": STUDY, "profile": "test", "cells": cells})
    return tmp_path


def point(out, name: str, **narrower) -> dict:
    image = str(out / "data" / "thing" / "test" / "square" / name)
    return {"label": name, "dataset": "folder", "category": "thing", "image": image} | narrower


def test_a_choice_opens_its_sample_with_every_methods_first_run(out):
    shown = open_points(STUDY, out, pd.DataFrame([point(out, "001.png"), point(out, "002.png")]))
    assert [label for label, _ in shown.menu.options] == ["choose a sample", "001.png", "002.png"]
    assert shown.place.children == () and shown.menu.index == 0  # without an index a browser shows a blank
    shown.menu.value = 1
    (inspector,) = shown.place.children
    assert inspector.joined.samples["image"][inspector.index].endswith("002.png")
    assert [record["run"]["seed"] for record in shown.records(shown.points.iloc[1])] == [0, 0, 0]
    shown.menu.value = None
    assert shown.place.children == ()


def test_points_say_which_runs_are_meant(out):
    (row,) = pd.DataFrame([point(out, "001.png", method="patchcore", seed=1)]).iloc
    shown = open_points(STUDY, out, pd.DataFrame([row]))
    assert [(record["run"]["method"], record["run"]["seed"]) for record in shown.records(row)] == [("patchcore", 1)]


def test_a_sample_that_no_run_has_is_told_in_its_place(out):
    shown = open_points(STUDY, out, pd.DataFrame([point(out, "gone.png"), point(out, "001.png", category="other")]))
    shown.menu.value = 0
    assert "is not among the images that these runs share" in shown.place.children[0].value
    shown.menu.value = 1
    assert "no longer there" in shown.place.children[0].value


def test_a_page_without_a_kernel_says_what_would_be_there(out, tmp_path):
    shown = open_points(STUDY, out, pd.DataFrame([point(out, "001.png"), point(out, "002.png")]))
    html = shown._repr_mimebundle_()["text/html"]
    assert html == "<p>In Jupyter a menu stands here that opens these 2 samples in the inspector.</p>"
    assert "no sample" in open_points(STUDY, out, pd.DataFrame()).data
