"""What tests of studies share: finished runs as they lie in a store, and a notebook run without a kernel."""

import json
from pathlib import Path

import nbformat
from conftest import REPOSITORY, finished_record

from adlib.runs.record import write_json, write_record
from adlib.runs.store import Store


def store_study(out: Path, study: str, runs: list[dict]) -> None:
    """Leave a plan and finished records in `out`.

    runs: each with method, dataset, category and what differs from usual: seed, setting, settings, metrics, images (the
    number learned from), unscreened, predictions, data (fields of the record's data), and fields of the record under
    "record".
    """
    cells, store = [], Store(out / "runs")
    for number, given in enumerate(runs):
        key = f"{number:016x}"
        place = {name: given[name] for name in ("method", "dataset", "category")} | {"seed": given.get("seed", 0)}
        counts = {"learned": given.get("images", 9), "unscreened": given.get("unscreened", 0), "mirrored": 0}
        training = {given["category"]: {"there": 9} | counts}
        data = {"fingerprint": "d0", "phantom": None, "training": training} | given.get("data", {})
        more = {"metrics": given.get("metrics", {"image_auroc": 0.5})} | given.get("record", {})
        run = place | {"settings": given.get("settings", {})}
        folder = store.path(key)
        folder.mkdir(parents=True)
        if "predictions" in given:
            given["predictions"].save(folder / "predictions")
        write_record(folder, finished_record(key, run, data=data, **more))
        more = {"table": given.get("table", "main"), "setting": given.get("setting", ""), "missing": "", "key": key}
        cells.append(place | more | {"paper": study})
    file = out / "plans" / f"{study}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, {"paper": study, "profile": "test", "cells": cells})


def run_notebook(name: str, out: Path) -> dict:
    """Execute a notebook's code from top to bottom, as it is but for `out`; returns its names."""
    names: dict = {}
    for cell in nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", 4).cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, f"{name}/{cell.id}", "exec"), names)
            if "parameters" in cell.metadata.get("tags", []):
                names["out"] = str(out)
    return json.loads(json.dumps(names, default=str))
