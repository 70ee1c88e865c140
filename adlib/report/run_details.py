"""What the runs behind a paper's tables say beyond them: scores pooled over sub-classes, recall by kind of defect,
masks; and readings of a comparison (shares of a gap, limits that are met)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import HTML

from adlib.errors import InputError
from adlib.predictions import Predictions
from adlib.report.tables import read_plan
from adlib.runs.record import FINISHED
from adlib.runs.store import Store

NONE = HTML("<p>None of these runs is done.</p>")


def finished_cells(paper: str, out: str | Path, tables: Sequence[str] | None = None) -> Iterator[tuple[dict, dict]]:
    """(cell of the plan, record) of every finished run behind a paper's tables, each run once."""
    store, seen = Store(Path(out) / "runs"), set()
    for cell in (read_plan(paper, out) or {"cells": []})["cells"]:
        record = store.record(cell["key"]) if cell["key"] else None
        wanted = (tables is None or cell["table"] in tables) and cell["key"] not in seen
        if wanted and record is not None and record["status"] == FINISHED:
            seen.add(cell["key"])
            yield cell, record


def pooled_table(paper: str, out: str | Path, metric: str = "image_auroc") -> pd.DataFrame | HTML:
    """A metric over all test images of a category together beside its mean over the groups, in percent, per run.

    Columns: category, method, seed, groups (how many), pooled, mean over groups, difference. Groups in which the metric
    is undefined are left out of the mean. A sentence where no run has groups.
    """
    rows = []
    for cell, record in finished_cells(paper, out):
        values = [part[metric] for part in record["groups"].values() if part.get(metric) is not None]
        if values and record["metrics"].get(metric) is not None:
            pooled, mean = 100 * record["metrics"][metric], 100 * float(np.mean(values))
            row = {name: cell[name] for name in ("category", "method", "seed")} | {"groups": len(values)}
            rows.append(row | {"pooled": pooled, "mean over groups": mean, "difference": pooled - mean})
    return pd.DataFrame(rows).round(2) if rows else NONE


def recall_by_defect(paper: str, out: str | Path, tables: Sequence[str]) -> pd.DataFrame | HTML:
    """Recall of each kind of defect at the threshold of best F1 on the test images (an oracle), in percent, per run.

    Columns: category, setting, seed, what the method chose by its seed (numbers of injected defects and epochs, where
    it says so), then "<defect>, n = <test images>". A sentence where no run is done.
    """
    rows, store = [], Store(Path(out) / "runs")
    for cell, record in finished_cells(paper, out, tables):
        found = Predictions.load(store.path(cell["key"]) / "predictions")
        threshold = record["metrics"]["image_f1max_threshold"]
        row = {name: cell[name] for name in ("category", "setting", "seed")}
        choices = record.get("choices", {})
        row |= {"injected": len(choices["real defects"])} if "real defects" in choices else {}
        row |= {"epochs": choices["epochs"]} if "epochs" in choices else {}
        for defect, place in found.samples[found.samples["label"] == 1].groupby("defect").groups.items():
            caught = found.scores[found.samples.index.get_indexer(place)] >= threshold
            row[f"{defect}, n = {len(place)}"] = round(100 * float(caught.mean()), 1)
        rows.append(row)
    return pd.DataFrame(rows) if rows else NONE


def stored_predictions(
    paper: str, method: str, out: str | Path, category: str | None = None, setting: str | None = None
) -> Predictions | None:
    """The predictions of a method's first finished run behind a paper's tables, of that category, and of that setting
    if there is one; None without a run.
    """
    keys = [
        (cell["category"] == category, cell["setting"] == setting, cell["key"])
        for cell, _ in finished_cells(paper, out)
        if cell["method"] == method and category in (None, cell["category"])
    ]
    if not keys:
        return None
    best = max(keys, key=lambda key: key[:2])
    return Predictions.load(Store(Path(out) / "runs").path(best[2]) / "predictions")


def segmentations(paper: str, method: str, out: str | Path, each: int = 5):
    """Anomalous images with the highest scores, and below each the method's map cut at a threshold, truth outlined.

    The threshold is that of best pixel F1 on these test images: an oracle. Returns a Figure, or a sentence where no run
    with maps is done. MIIC, Fig. 1.
    """
    from adlib.figures import show_segmentations, telling_samples
    from adlib.metrics import pixel_metrics

    found = stored_predictions(paper, method, out)
    if found is None or found.maps is None:
        return NONE
    threshold = pixel_metrics(found.images.masks(), found.maps)["pixel_f1max_threshold"]
    return show_segmentations(found, telling_samples(found, each)["found"], threshold)


def share_of_gap(table: pd.DataFrame, metrics: Sequence[str], first: str, last: str) -> pd.DataFrame:
    """How much of the way from one row to another each row of a comparison has come, in percent, as published.

    table: of `comparison`, one category; first, last: settings of its rows. One row per setting, a column per metric.
    """
    values = table[table["metric"].isin(metrics)].pivot(index="setting", columns="metric", values="published")
    if missing := {first, last} - set(values.index):
        raise InputError(f"The table has no row {', '.join(sorted(missing))}; it has {', '.join(values.index)}.")
    order = table["setting"].unique()
    return (100 * (values - values.loc[first]) / (values.loc[last] - values.loc[first])).loc[order, list(metrics)]


def below_limits(table: pd.DataFrame, metric: str, limits: Mapping[str, float]) -> pd.DataFrame:
    """Which rows of a comparison lie below stated limits: a column per limit for the published and for our values.

    "yes", "no", or "" where there is no value. limits: name -> value in the table's unit.
    """
    rows = table[table["metric"] == metric].set_index("setting")
    found = {}
    for name, limit in limits.items():
        for column in ("published", "ours"):
            answers = np.where(rows[column].isna(), "", np.where(rows[column] < limit, "yes", "no"))
            found[f"{column} below {limit:g} ({name})"] = answers
    return pd.DataFrame(found, index=rows.index)
