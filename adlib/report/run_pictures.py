"""Pictures from the runs behind a paper's tables: grids of heat maps, and what a method made of its test images.

Which images a grid shows is decided by a rule (`typical_sample`) that looks at image scores and at no map, so that
nobody picks the pictures that suit.
"""

import base64
import math
import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from IPython.display import HTML, Image

from adlib import papers
from adlib.decoding.resizing import frame
from adlib.errors import InputError
from adlib.figure_style import INK, finish
from adlib.models import is_surrogate
from adlib.predictions import Predictions
from adlib.report.harmless import picture_address
from adlib.report.notebooks import read_notebook
from adlib.report.tables import read_plan
from adlib.runs.record import FINISHED
from adlib.runs.standing import dash
from adlib.runs.store import Store

if TYPE_CHECKING:  # the other reports need neither torch nor matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NOTE = (
    "Input: the anomalous test image in the middle of the order that the methods' image scores give (mean of ranks).",
    "Colours: per method and category, from the median of the maps' values (black) to their 99.9th percentile.",
)
PHANTOM = "Phantom data, drawn by adlib."


def typical_sample(scores: pd.DataFrame) -> str:
    """The sample in the middle when samples are ordered by how anomalous the methods find them: neither the plainest
    defect nor the one that all miss.

    scores: image scores, one row per sample (the index: its name), one column per method. Each method ranks the
    samples, so that its unit does not matter, and the ranks are averaged; ties go by name, and of two middle ones the
    less anomalous is taken.
    """
    ranks = scores.rank().mean(axis="columns").round(9)
    order = sorted(ranks.index, key=lambda name: (ranks[name], name))
    return order[(len(order) - 1) // 2]


def prediction_grid(
    paper: str,
    tables: str | Sequence[str],
    out: str | Path,
    methods: Sequence[str] | None = None,
    categories: Sequence[str] | None = None,
    by_defect: bool = False,
) -> "Figure | HTML":
    """Input, ground truth and one heat map per method, one row per category: the runs behind a paper's tables.

    tables: names of benchmark tables ("II"), whose runs on the paper's own data set are shown. out: the folder with
    runs/ and plans/. methods, categories: only these, in this order; None for all of the tables. by_defect: one row for
    each kind of defect in a category.
    Of several seeds the first finished one is shown. The image of a row is the `typical_sample` of those that all
    finished methods of the category have scored. Heat maps are scaled from the median to the 99.9th percentile of the
    method's maps in the category (64 of them at most), and lie where the image lies: around a centre crop is nothing.
    A method without a finished run or without maps, and an image that is no longer there, leave an empty panel that
    says so. Categories without a finished run are left out; a sentence where none has one.
    Raises InputError for a table that the paper does not have. ISP-AD, Figs. 4 and 5; CXR-AD, Fig. 9; 3CAD, Fig. 5;
    Texture-AD, Fig. 6.
    """
    tables = [tables] if isinstance(tables, str) else list(tables)
    if unknown := set(tables) - set(papers.protocol(paper)["tables"]):
        known = ", ".join(papers.protocol(paper)["tables"])
        raise InputError(f"{paper} has no benchmark table {', '.join(sorted(unknown))}; it has {known}.")
    cells = [
        cell
        for cell in (read_plan(paper, out) or {"cells": []})["cells"]
        if cell["table"] in tables
        and cell["dataset"] == paper
        and (methods is None or cell["method"] in methods)
        and (categories is None or cell["category"] in categories)
    ]
    runs, missing = _finished_runs(cells, Store(Path(out) / "runs"))
    rows = []
    for category in categories or dict.fromkeys(cell["category"] for cell in cells):
        mine = {column: run for (place, column), run in runs.items() if place == category}
        rows += [(category, name, mine) for name in _chosen(mine, by_defect)]
    if not rows:
        why = "have no anomalous test image in common" if runs else "are not done yet"
        return HTML(f"<p>The runs behind this figure {why}: there is no map to look at.</p>")
    columns = dict.fromkeys(map(_column, cells))
    if methods:
        columns = sorted(columns, key=lambda column: methods.index(column.partition(" ")[0]))
    return _draw(rows, list(columns), missing)


@dataclass
class _Run:
    """A finished run in one category. rows: sample's name -> its row in the predictions."""

    predictions: Predictions
    rows: dict[str, int]
    phantom: bool

    def sample(self, name: str) -> pd.Series:
        return self.predictions.samples.iloc[self.rows[name]]


def _column(cell: dict) -> str:
    return f"{cell['method']} {cell['setting']}".strip()


def _finished_runs(cells: list[dict], store: Store) -> tuple[dict[tuple[str, str], _Run], dict[tuple[str, str], str]]:
    """The runs of the cells by category and column, and of the others why there is none."""
    runs, missing = {}, {}
    load = cache(Predictions.load)  # a joint model's are those of many cells
    for cell in cells:
        place = cell["category"], _column(cell)
        record = store.record(cell["key"]) if cell["key"] else None
        if place in runs:  # an earlier seed
            continue
        if record is None or record["status"] != FINISHED:
            missing.setdefault(place, cell["missing"] or ("to do" if record is None else "failed"))
            continue
        if lacks := dash(record):
            missing[place] = lacks
            continue
        try:
            predictions = load(store.path(cell["key"]) / "predictions")
        except InputError:
            missing[place] = "predictions are gone"
            continue
        samples, root = predictions.samples, record["run"]["root"]
        # Named as below its root, a sample is the same in runs that were made before and after the data moved.
        rows = {
            Path(os.path.relpath(samples["image"].iat[row], root)).as_posix(): int(row)
            for row in np.flatnonzero(samples["category"] == cell["category"])
        }
        runs[place] = _Run(predictions, rows, bool(record["data"]["phantom"]))
    return runs, missing


def _chosen(runs: dict[str, _Run], by_defect: bool) -> list[str]:
    """Names of the samples to show of a category: one, or one per kind of defect."""
    if not runs:
        return []
    scores = pd.DataFrame({column: _scores(run) for column, run in runs.items()}).dropna()
    first = next(iter(runs.values()))
    kinds = pd.Series({name: first.sample(name)["defect"] if by_defect else "" for name in scores.index}, dtype=object)
    return [typical_sample(scores[kinds == kind]) for kind in sorted(kinds.unique())]


def _scores(run: _Run) -> pd.Series:
    """Scores of the anomalous samples by name."""
    labels = run.predictions.samples["label"].to_numpy()
    return pd.Series({name: run.predictions.scores[row] for name, row in run.rows.items() if labels[row] == 1})


def _draw(rows: list[tuple[str, str, dict[str, _Run]]], columns: list[str], missing: dict) -> "Figure":
    """The grid. rows: category, sample's name, runs by column. missing: why there is no run, by category and column."""
    import matplotlib.pyplot as plt

    size = (1.7 * (len(columns) + 2), 1.85 * len(rows) + 0.6)
    figure, axes = plt.subplots(len(rows), len(columns) + 2, figsize=size, squeeze=False, layout="constrained")
    ranges = {}
    for line, (category, name, runs) in zip(axes, rows, strict=True):
        aspect = _draw_sample(line[0], line[1], name, list(runs.values()))
        defect = next(iter(runs.values())).sample(name)["defect"]
        line[0].set_ylabel(f"{category}\n{defect}", fontsize=8)
        line[0].set_xlabel(Path(name).name, fontsize=7)
        for axis, column in zip(line[2:], columns, strict=True):
            if column not in runs:
                _say(axis, missing.get((category, column), "not in this table"), aspect)
            elif runs[column].predictions.maps is None:
                _say(axis, "map not kept" if runs[column].predictions.maps_dropped else "no map", aspect)
            else:
                if (category, column) not in ranges:
                    ranges[category, column] = _range(runs[column])
                _draw_map(axis, runs[column], name, aspect, ranges[category, column])
    for axis, title in zip(axes[0], ("input", "ground truth", *map(_title, columns)), strict=True):
        axis.set_title(title, fontsize=8)
    if ranges:
        _colour_bar(figure, axes)
    phantom = any(run.phantom for _, _, runs in rows for run in runs.values())
    lines = [textwrap.fill(line, int(15 * size[0])) for line in (*NOTE, *([PHANTOM] if phantom else []))]
    figure.supxlabel("\n".join(lines), fontsize=8)
    return finish(figure)


def _colour_bar(figure: "Figure", axes: np.ndarray) -> None:
    """What the maps' colours stand for, right of the grid; each map has its own values there (NOTE)."""
    from matplotlib.cm import ScalarMappable

    shrink = min(1.0, 2 / len(axes))
    bar = figure.colorbar(
        ScalarMappable(cmap="inferno"), ax=axes, fraction=0.02, pad=0.01, shrink=shrink, extend="both"
    )
    bar.set_ticks([0, 1], labels=["median", "99.9th\npercentile"], fontsize=7)
    bar.set_label("anomaly map", fontsize=8)


def _title(column: str) -> str:
    method, _, setting = column.partition(" ")
    surrogate = "(surrogate)" if is_surrogate(method) else ""
    return "\n".join(filter(None, [method, surrogate, setting]))


def _draw_sample(left: "Axes", right: "Axes", name: str, runs: list[_Run]) -> float:
    """Image and ground truth, from the first place where a run has seen it and it still is; returns its H / W."""
    from adlib.images import read_image, read_mask

    settings = runs[0].predictions.settings
    height, width = settings.get("size", (1, 1))
    aspect, image, mask = height / width, None, None
    for sample in (run.sample(name) for run in runs):
        try:
            image = read_image(sample["image"], settings.get("window"))
            aspect = image.shape[0] / image.shape[1]
            if sample["mask"]:
                mask = read_mask(sample["mask"], image.shape[:2], sample["image"], sample.get("mask_rule", ""))
            break
        except InputError:
            continue
    if image is None:
        _say(left, "image not found", aspect)
    else:
        white = np.iinfo(image.dtype).max
        if image.ndim == 3:  # matplotlib scales grey pictures alone
            image, white = image / np.float32(white), None
        _show(left, image, aspect, cmap="gray", vmin=0, vmax=white)
    if mask is None:
        _say(right, "no mask" if image is not None else "image not found", aspect)
    else:
        _show(right, mask, aspect, cmap="gray", vmin=0, vmax=1)
    return aspect


def _draw_map(axis: "Axes", run: _Run, name: str, aspect: float, limits: tuple[float, float]) -> None:
    # Proportions are all that the frame needs of the image; a million pixels make their rounding invisible.
    left, top, right, bottom = frame((round(aspect * 1e6), 1_000_000), run.predictions.settings)
    extent = (left, right, bottom, top)
    shown = np.asarray(run.predictions.maps[run.rows[name]], np.float32)
    _show(axis, shown, aspect, extent, cmap="inferno", vmin=limits[0], vmax=limits[1])


def _range(run: _Run) -> tuple[float, float]:
    """Median and 99.9th percentile of the maps of a category, 64 of them at most, evenly spread."""
    rows = sorted(run.rows.values())
    chosen = rows[:: math.ceil(len(rows) / 64)]
    low, high = np.percentile(np.asarray(run.predictions.maps[chosen], np.float32), [50, 99.9])
    return float(low), float(high)


def _frame(axis: "Axes", aspect: float) -> None:
    """An empty panel for an image of proportions H / W = aspect, in coordinates from 0 to 1."""
    from matplotlib.colors import to_rgba

    axis.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[], aspect=aspect, facecolor=to_rgba(INK, 0.15))


def _show(axis: "Axes", picture: np.ndarray, aspect: float, extent=(0, 1, 1, 0), **colours) -> None:
    axis.imshow(picture, extent=extent, aspect=aspect, **colours)
    _frame(axis, aspect)


def _say(axis: "Axes", word: str, aspect: float) -> None:
    _frame(axis, aspect)
    axis.text(0.5, 0.5, word.replace(" ", "\n", 1), ha="center", va="center", fontsize=8, color=INK)


def run_illustration(paper: str, method: str, category: str, out: str | Path) -> "Image | HTML":
    """The pictures that a method made on its way to its scores, as the notebook of its run shows them.

    Of the first finished run of the method on the category behind a paper's tables: its anomalous test images with the
    highest scores, the ground truth outlined, and below what `Detector.illustrate` gives, a reconstruction for one. A
    sentence where there is no such run or no such picture in its notebook. ISP-AD, Fig. 6.
    """
    store = Store(Path(out) / "runs")
    for cell in (read_plan(paper, out) or {"cells": []})["cells"]:
        if (cell["method"], cell["category"]) != (method, category) or not cell["key"]:
            continue
        record = store.record(cell["key"])
        if record is None or record["status"] != FINISHED:
            continue
        for picture in _pictures(store.path(cell["key"]) / "run.ipynb", "show_illustrations("):
            return Image(picture)
        return HTML(f"<p>The notebook of {method} on {category} holds no picture of what it made.</p>")
    return HTML(f"<p>No run of {method} on {category} is done: there is no picture to look at.</p>")


def _pictures(notebook: Path, call: str) -> list[bytes]:
    """The PNG outputs of the cells of an executed notebook in which a call stands."""
    try:
        cells = read_notebook(notebook).cells
    except InputError:
        return []
    outputs = [output for cell in cells if call in "".join(cell["source"]) for output in cell.get("outputs", [])]
    found = [output.get("data", {}).get("image/png") for output in outputs]
    addresses = [picture_address(picture, "png") for picture in found if picture]
    return [base64.b64decode(address.partition(",")[2]) for address in addresses if address]
