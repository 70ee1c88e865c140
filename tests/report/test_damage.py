"""Damage of every kind to what a report is made of: it is named with its reason, and the rest is there."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from conftest import finished_record
from typer.testing import CliRunner

from adlib.cli.commands import app
from adlib.errors import InputError
from adlib.report import comparison
from adlib.report.pages import render_report
from adlib.runs import Store

WHOLE, HURT = "a" * 16, "b" * 16


@pytest.fixture
def out(tmp_path) -> Path:
    """Two runs with notebooks and predictions behind a table, and an executed notebook of the paper."""
    store = Store(tmp_path / "runs")
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A page")])
    cells = []
    for key, category in ((WHOLE, "UB"), (HURT, "DC")):
        folder = store.path(key)
        (folder / "predictions").mkdir(parents=True)
        (folder / "predictions" / "samples.csv").write_text("image,score\n")
        nbformat.write(page, folder / "run.ipynb")
        run = {"dataset": "cxr_ad", "method": "patchcore", "category": category}
        files = {"predictions/samples.csv": 12}
        (folder / "record.json").write_text(json.dumps(finished_record(key, run, files=files)))
        cells.append({"table": "II", "dataset": "cxr_ad", "category": category, "setting": "", "seed": 0})
        cells[-1] |= {"method": "patchcore", "missing": "", "key": key}
    for folder in ("plans", "notebooks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "plans" / "cxr_ad.json").write_text(json.dumps({"cells": cells}))
    nbformat.write(page, tmp_path / "notebooks" / "11_cxr_ad_benchmark.ipynb")
    return tmp_path


def changed(change: Callable[[dict], None]) -> Callable[[Path], None]:
    """Damage that changes what a JSON file holds."""

    def damage(file: Path) -> None:
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return damage


def instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Damage that puts something else in the file's place."""

    def damage(file: Path) -> None:
        shutil.move(file, file.with_name("elsewhere"))
        make(file)

    return damage


def written(content: bytes) -> Callable[[Path], None]:
    return lambda file: file.write_bytes(content) and None


ANY_FILE = {
    "empty": (written(b""), "damaged"),
    "cut": (lambda file: file.write_bytes(file.read_bytes()[:-40]), "damaged"),
    "no text": (written(bytes(range(128, 256))), "damaged"),
    "a list": (written(b"[]"), "no"),
    "null": (written(b"null"), "no"),
    "deep": (written(b"[" * 100_000 + b"]" * 100_000), "deep"),
    "deep enough to read": (written(b'{"a":' * 200 + b"1" + b"}" * 200), "deep"),
    "a pipe": (instead(os.mkfifo), "pipe"),
    "a folder": (instead(Path.mkdir), "folder"),
    "a link": (instead(lambda file: file.symlink_to("elsewhere")), "link"),
    "a link to nothing": (instead(lambda file: file.symlink_to("nowhere")), "link"),
    "a link to itself": (instead(lambda file: file.symlink_to(file)), "link"),
    "a device": (instead(lambda file: file.symlink_to("/dev/zero")), "link"),
}
RECORD = {
    **{
        f"without {name}": (changed(lambda record, name=name: record.pop(name)), f"{name} is missing")
        for name in ("key", "run", "ended", "parameters", "images", "data", "warnings", "metrics", "seconds", "code")
    },
    "without status": (changed(lambda record: record.pop("status")), "status"),
    "another status": (changed(lambda record: record.update(status="running")), "status"),
    "an older version": (changed(lambda record: record.update(version=0)), "an older version"),
    "a newer version": (changed(lambda record: record.update(version=9)), "a newer version"),
    "a version in words": (changed(lambda record: record.update(version="1")), "version"),
    "another run's key": (changed(lambda record: record.update(key="c" * 16)), "is of the run"),
    "a key that is none": (changed(lambda record: record.update(key=7)), "key"),
    "run is a list": (changed(lambda record: record.update(run=[])), "run is not an object"),
    "run with an unknown field": (changed(lambda record: record["run"].update(colour=1)), "colour is unknown"),
    "run without method": (changed(lambda record: record["run"].pop("method")), "method is missing"),
    "seed is true": (changed(lambda record: record["run"].update(seed=True)), "seed"),
    "metrics are a list": (changed(lambda record: record.update(metrics=[0.5])), "metrics"),
    "a metric is text": (changed(lambda record: record["metrics"].update(image_auroc="0.5")), "metrics"),
    "a metric is an object": (changed(lambda record: record["metrics"].update(aupro={})), "metrics"),
    "a metric is true": (changed(lambda record: record["metrics"].update(aupro=True)), "metrics"),
    "a metric is NaN": (changed(lambda record: record["metrics"].update(aupro=float("nan"))), "NaN"),
    "a metric beyond 1": (changed(lambda record: record["metrics"].update(image_auroc=7.5)), "metrics"),
    "a huge number": (changed(lambda record: record["metrics"].update(threshold=10**400)), "beyond"),
    "a number of 5000 digits": (written(b'{"seconds": 1' + b"0" * 5000 + b"}"), "damaged"),
    "seconds are text": (changed(lambda record: record.update(seconds={"fit": "1 s"})), "seconds"),
    "warnings are one text": (changed(lambda record: record.update(warnings="none")), "warnings"),
    "data are null": (changed(lambda record: record.update(data=None)), "data"),
    "phantom is unknown": (changed(lambda record: record["data"].pop("phantom")), "phantom"),
    "categories of numbers": (changed(lambda record: record.update(categories={"UB": 0.5})), "categories"),
    "groups of lists": (changed(lambda record: record.update(groups={"a": {"aupro": []}})), "groups"),
    "intervals of numbers": (changed(lambda record: record.update(intervals={"aupro": 1})), "intervals"),
    "files of texts": (changed(lambda record: record.update(files={"run.ipynb": "long"})), "files"),
    "a text that is no Unicode": (changed(lambda record: record.update(ended="\ud800")), "Unicode"),
    "a failure without reason": (changed(lambda record: record.update(status="failed", kind="error")), "reason"),
}
NOTEBOOK = {
    "no cells": (changed(lambda notebook: notebook.pop("cells")), "cells"),
    "cells are text": (changed(lambda notebook: notebook.update(cells="x")), "cells"),
    "a cell is null": (changed(lambda notebook: notebook.update(cells=[None])), "no notebook"),
    "an id is a list": (changed(lambda notebook: notebook["cells"][0].update(id=[1])), "no notebook"),
    "an unknown cell": (changed(lambda notebook: notebook["cells"][0].update(cell_type="film")), "no notebook"),
    "format 3": (changed(lambda notebook: notebook.update(nbformat=3)), "format 4"),
    "source is a number": (changed(lambda notebook: notebook["cells"][0].update(source=1)), "no notebook"),
}
PLAN = {
    "no cells": (changed(lambda plan: plan.pop("cells")), "cells is missing"),
    "cells are an object": (changed(lambda plan: plan.update(cells={})), "cells"),
    "a cell is null": (changed(lambda plan: plan.update(cells=[None])), "cells"),
    "a cell without key": (changed(lambda plan: plan["cells"][0].pop("key")), "cell 1: key is missing"),
    "a key that leads elsewhere": (changed(lambda plan: plan["cells"][0].update(key="../../etc")), "cell 1: key"),
    "a seed of words": (changed(lambda plan: plan["cells"][1].update(seed="0")), "cell 2: seed"),
}
PREDICTIONS = {
    "cut": (lambda file: file.write_text("image"), "5 bytes long"),
    "gone": (Path.unlink, "is gone"),
}


def cases(damages: dict) -> list:
    return [pytest.param(damage, reason, id=name) for name, (damage, reason) in damages.items()]


def index_of(out: Path) -> str:
    index = render_report(out).read_text()
    assert "patchcore on cxr_ad/UB, seed 0" in index  # the whole run is there whatever has become of the other
    assert "A page" in (out / "html" / "runs" / f"{WHOLE}.html").read_text()
    return index


@pytest.mark.parametrize(("damage", "reason"), cases(ANY_FILE | RECORD))
def test_a_damaged_record_is_named_left_out_and_done_again(out, damage, reason):
    store = Store(out / "runs")
    damage(store.path(HURT) / "record.json")
    assert list(store.damaged()) == [HURT]
    assert reason in store.damaged()[HURT]
    index = index_of(out)
    assert "1 damaged" in index
    assert "patchcore on cxr_ad/DC" not in index
    listed = CliRunner().invoke(app, ["runs", "--out", str(out)])
    assert listed.exit_code == 0
    assert f"{HURT} damaged  will be done again: " in listed.output
    assert not store.is_finished(HURT)
    with store.claim(HURT) as folder:
        (folder / "record.json").write_text(json.dumps(finished_record(HURT)))
    assert store.is_finished(HURT)
    assert store.damaged() == {}


@pytest.mark.parametrize("make", [Path.touch, os.mkfifo, lambda path: path.symlink_to(path.with_name("elsewhere"))])
def test_what_is_no_folder_in_the_place_of_a_run_is_named_and_replaced(out, make):
    store = Store(out / "runs")
    instead(make)(store.path(HURT))
    assert list(store.damaged()) == [HURT]
    assert "is no folder of a run" in index_of(out)
    with store.claim(HURT) as folder:
        (folder / "record.json").write_text(json.dumps(finished_record(HURT)))
    assert store.is_finished(HURT)
    assert (out / "runs" / "elsewhere" / "record.json").exists()


@pytest.mark.parametrize(("damage", "reason"), cases(ANY_FILE | NOTEBOOK))
@pytest.mark.parametrize("place", [f"runs/{HURT}/run.ipynb", "notebooks/11_cxr_ad_benchmark.ipynb"])
def test_a_damaged_notebook_is_named_on_the_index_and_on_its_page(out, place, damage, reason):
    damage(out / place)
    index = index_of(out)
    assert "1 damaged" in index
    assert "patchcore on cxr_ad/DC, seed 0" in index
    page = out / "html" / ("11_cxr_ad_benchmark.html" if place.startswith("notebooks") else f"runs/{HURT}.html")
    assert "There is nothing to show" in page.read_text()
    assert reason in page.read_text()


@pytest.mark.parametrize(("damage", "reason"), cases(ANY_FILE | PLAN))
def test_a_damaged_plan_is_named_and_leaves_the_tables_of_its_paper_out(out, damage, reason):
    damage(out / "plans" / "cxr_ad.json")
    index = index_of(out)
    assert "1 damaged" in index
    assert "The plan of this paper is damaged" in index
    with pytest.raises(InputError, match=reason):
        comparison("cxr_ad", "II", out)
    listed = CliRunner().invoke(app, ["table", "cxr_ad", "--out", str(out)])
    assert isinstance(listed.exception, InputError)


@pytest.mark.parametrize(("damage", "reason"), cases(PREDICTIONS))
def test_damaged_predictions_are_named_and_their_run_is_done_again(out, damage, reason):
    damage(out / "runs" / HURT / "predictions" / "samples.csv")
    assert reason in Store(out / "runs").damaged()[HURT]
    assert "1 damaged" in index_of(out)
    assert not Store(out / "runs").is_finished(HURT)


def test_fields_that_a_later_adlib_adds_are_let_through(out):
    changed(lambda record: record.update(hashes={"predictions": "0" * 64}))(out / "runs" / HURT / "record.json")
    assert Store(out / "runs").damaged() == {}
    assert "damaged" not in index_of(out).partition("<script>")[0]
