"""Known answers: on plain phantoms the truth was planted, and any method that works finds it.

This file says what "finds" means, method by method, and judges the runs behind the papers' tables by it. It looks at
runs on plain phantoms alone (adlib.phantoms.plain): on other data nobody knows what a method should reach.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from adlib import papers
from adlib.report.labels import metric_label, row_label
from adlib.report.tables import part_of, read_plan
from adlib.rounding import rounded_text
from adlib.runs.record import FINISHED
from adlib.runs.standing import dash, judges_pixels
from adlib.runs.store import Store

# What a run on plain phantoms has to reach, as a share. Pixels count where the method's maps outline defects.
FLOORS = {"image_auroc": 0.85, "pixel_auroc": 0.85}
# Methods that judge a whole picture by how well it is drawn again: a budget of minutes blurs all of it.
LOWER_FLOORS = {method: {"image_auroc": 0.75} for method in ("fanogan", "ganomaly", "iad_inpainting")}

PLAIN = "plain"
JUDGED = ("done", "failed", "to do")  # any other state says why a run cannot be
COLUMNS = ["paper", "table", "method", "dataset", "category", "setting", "seed", "key", "metric", "value", "floor"]
COLUMNS += ["state", "found"]


def floors(method: str) -> dict[str, float]:
    """What a method's runs on plain phantoms have to reach, by metric: image AUROC, and pixel AUROC where its maps
    outline defects (adlib.detector.Facts).
    """
    found = FLOORS | LOWER_FLOORS.get(method, {})
    pixels = judges_pixels(method)
    return {name: floor for name, floor in found.items() if pixels or not name.startswith("pixel_")}


def on_plain_phantoms(record: dict) -> bool:
    """Whether the data of a finished run are plain phantoms, as their marker said."""
    options = (record["data"]["phantom"] or {}).get("options")
    return isinstance(options, dict) and options.get("difficulty") == PLAIN


def known_answers(out: str | Path, names: Iterable[str] | None = None) -> pd.DataFrame:
    """Every cell of the papers' tables that a run on plain phantoms fills, judged: one row per cell and floor.

    out: the folder with runs/ and plans/. names: papers, None for all.
    Columns: paper, table, method, dataset, category, setting, seed, key (of the run), metric, value (a share; NaN where
    it is undefined or there is no run yet), floor, state ("done", "failed", "to do", or why a run's numbers stand for
    nothing: "needs CLIP's weights"), found (whether the value reaches the floor). A joint run is judged category by
    category, sub-classes together. Cells on other data are left out, and so are those that the profile leaves out.
    Raises InputError for a damaged plan.
    """
    store, rows = Store(Path(out) / "runs"), []
    for paper in papers.list_papers() if names is None else names:
        plan = read_plan(paper, out) or {"cells": []}
        for cell in plan["cells"]:
            record = store.record(cell["key"]) if cell["key"] else None
            done = record is not None and record["status"] == FINISHED
            if not (on_plain_phantoms(record) if done else cell["key"] and plan.get("difficulty") == PLAIN):
                continue
            state = (dash(record) or "done") if done else "failed" if record else "to do"
            done = state == "done"
            place = [cell[name] for name in COLUMNS[1:8]]
            for metric, floor in floors(cell["method"]).items():
                value = part_of(record, cell["category"]).get(metric) if done else None
                value = float("nan") if value is None else value
                rows.append([paper, *place, metric, value, floor, state, value >= floor])
    return pd.DataFrame(rows, columns=COLUMNS).astype({"value": float, "floor": float, "found": bool})


@dataclass
class Verdict:
    """cells: how many cells were judged or are to be, each once though several tables show it; found: in how many what
    was drawn was found; to_do: how many have no run yet; lines: one for every cell whose run failed or found too
    little, by how much; dashes: one for every cell that cannot be judged, and why, which counts neither way.
    """

    cells: int
    found: int
    to_do: int
    lines: list[str]
    dashes: list[str] = field(default_factory=list)

    @property
    def sentence(self) -> str:
        """ "81 of 81 found what was drawn"; "" where no run is on plain phantoms."""
        if not self.cells and not self.dashes:
            return ""
        waiting = f", {self.to_do} still to do" if self.to_do else ""
        unjudged = f", {len(self.dashes)} not judged" if self.dashes else ""
        return f"{self.found} of {self.cells} found what was drawn{waiting}{unjudged}"


def verdict(answers: pd.DataFrame) -> Verdict:
    """The answers of `known_answers` in a sentence, and those cells by name that did not find what was drawn."""
    lines, dashes, found, to_do, judged = [], [], 0, 0, 0
    cells = answers.drop_duplicates(["key", "category", "metric"]).groupby(["key", "category"], sort=False)
    for _, cell in cells:
        state = cell["state"].iloc[0]
        if state not in JUDGED:
            dashes.append(f"{_place(cell)}: {state}; what is drawn at random cannot find anything")
            continue
        judged += 1
        found += bool(cell["found"].all())
        to_do += state == "to do"
        if state != "to do" and not cell["found"].all():
            lines.append(_line(cell, state))
    return Verdict(judged, found, to_do, lines, dashes)


def _place(cell: pd.DataFrame) -> str:
    """ "padim on miic/MIIC", the rows of one cell."""
    first = cell.iloc[0]
    seed = f", seed {first['seed']}" if first["seed"] else ""
    return f"{row_label(first['method'], first['setting'])} on {first['dataset']}/{first['category']}{seed}"


def _line(cell: pd.DataFrame, state: str) -> str:
    """ "padim on miic/MIIC: image AUROC 0.412, at least 0.85"."""
    where = _place(cell)
    if state == "failed":
        return f"{where}: the run failed"
    missed = cell[~cell["found"]]
    told = [
        f"{metric_label(row.metric)} {'undefined' if pd.isna(row.value) else rounded_text(row.value, 1, 3)}"
        f", at least {row.floor:g}"
        for row in missed.itertuples()
    ]
    return f"{where}: {'; '.join(told)}"


def floor_sentence() -> str:
    """What has to be reached, in one sentence."""
    usual = " and ".join(f"{metric_label(name)} of {floor:g}" for name, floor in FLOORS.items())
    groups: dict[str, list[str]] = {}
    for method, found in LOWER_FLOORS.items():
        for name, floor in found.items():
            groups.setdefault(f"{metric_label(name)} of {floor:g}", []).append(method)
    lower = "; ".join(f"{floor} for {', '.join(methods)}" for floor, methods in groups.items())
    return (
        f"Found means at least: {usual} where the method's maps outline defects; {lower}. Judged are the runs on plain "
        "phantoms: large blots, planted in a few pieces photographed again and again, which any working method finds."
    )
