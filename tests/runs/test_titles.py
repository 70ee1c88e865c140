"""Titles: two runs of one name are told apart by what differs, the same way everywhere; and no two are the same."""

import json
from pathlib import Path

from conftest import finished_record
from typer.testing import CliRunner

from adlib.cli.commands import app
from adlib.inspector.stored_runs import run_names
from adlib.report.pages import render_report
from adlib.runs import Run, Store
from adlib.runs.record import failure
from adlib.runs.titles import distinct_tails, distinct_titles, stored_titles, told_apart

NAME = "padim on folder/thing, seed 0"


def record(key: str, settings: dict | None = None, **more) -> dict:
    """A finished PaDiM; its parameters are k, by default 10, and mean."""
    run = {"settings": settings or {}} | {name: more.pop(name) for name in ("seed", "root") if name in more}
    full = {"k": 10, "mean": True}
    full |= {name: value for name, value in (settings or {}).items() if name in full}
    return finished_record(key * 16, run, parameters=full, **more)


def test_runs_that_differ_in_a_setting_name_it():
    runs = [record("1"), record("2", {"k": 20}), record("3", {"k": 20, "mean": False})]
    told = ["default settings", "k 20", "mean False, k 20"]
    assert stored_titles(runs) == [f"{NAME} ({text})" for text in told]
    assert told_apart(runs) == told


def test_a_setting_that_all_share_or_that_says_the_default_is_no_difference():
    assert stored_titles([record("1", {"k": 20}), record("2", {"k": 20, "mean": False})]) == [
        f"{NAME} (default settings)",
        f"{NAME} (mean False)",
    ]
    assert stored_titles([record("1", {"k": 10, "train_limit": None}), record("2", {"mean": False})]) == [
        f"{NAME} (default settings)",
        f"{NAME} (mean False)",
    ]


def test_runs_that_differ_in_the_seed_alone_say_the_seed_alone():
    runs = [record("1"), record("2", seed=1)]
    assert stored_titles(runs) == [NAME, "padim on folder/thing, seed 1"]
    assert told_apart(runs) == ["seed 0", "seed 1"]
    assert told_apart([record("1"), record("2", {"k": 20}, seed=1)]) == ["seed 0", "seed 1, k 20"]


def test_the_same_name_of_other_data_says_where_they_lie():
    runs = [
        record("1", root="/data/plain/parts"),
        record("2", root="/data/hard/parts", data={"fingerprint": "d1", "phantom": None}),
    ]
    assert stored_titles(runs) == [f"{NAME} (data plain/parts)", f"{NAME} (data hard/parts)"]


def test_the_same_data_at_two_places_are_no_difference_and_then_the_key_is():
    runs = [record("1", root="/a"), record("2", root="/b")]
    assert stored_titles(runs) == [f"{NAME}, run 111111", f"{NAME}, run 222222"]
    assert told_apart(runs) == ["run 111111", "run 222222"]


def test_a_run_that_failed_is_told_by_what_it_sets():
    failed = failure(Run("folder", "/data", "padim", "thing", {"k": 20}), "error", "too large", key="f" * 16)
    assert stored_titles([record("1"), failed]) == [f"{NAME} (default settings)", f"{NAME} (k 20)"]


def test_planned_runs_are_told_apart_with_the_defaults_of_their_method():
    runs = [
        Run("folder", "/data", "patchcore", "thing", settings)
        for settings in ({"coreset_ratio": 0.1}, {"coreset_ratio": 0.5}, {})
    ]
    name = "patchcore on folder/thing, seed 0"
    assert runs[0].usual_settings["coreset_ratio"] == 0.1
    assert distinct_titles(runs) == [
        f"{name} (default settings)",
        f"{name} (coreset_ratio 0.5)",
        f"{name} (default settings)",
    ]


def test_paths_are_as_short_as_tells_them_apart():
    assert distinct_tails(["/a/x/parts", "/a/y/parts", "/a/other"]) == ["x/parts", "y/parts", "other"]
    assert distinct_tails(["/x/parts", "/y/x/parts"]) == ["/x/parts", "y/x/parts"]
    assert distinct_tails(["bundled", "/home/one.safetensors"]) == ["bundled", "one.safetensors"]


def test_the_list_the_report_and_the_inspector_say_the_same(tmp_path: Path):
    runs = [record("1"), record("2", {"k": 20}), record("3", {"k": 20}, seed=1)]
    for each in runs:
        folder = tmp_path / "runs" / each["key"]
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(json.dumps(each))
    assert Store(tmp_path / "runs").table()["title"].tolist() == stored_titles(runs)
    listed = CliRunner().invoke(app, ["runs", "--out", str(tmp_path)]).output
    index = render_report(tmp_path).read_text(encoding="utf-8")
    for title in (f"{NAME} (default settings)", f"{NAME} (k 20)", "padim on folder/thing, seed 1"):
        assert f"{title} " in listed
        assert f">{title}<" in index
    assert run_names(runs) == ["padim, seed 0", "padim, seed 0, k 20", "padim, seed 1, k 20"]
