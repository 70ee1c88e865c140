"""Rows of trivial baselines for a paper's table: what needs no detector, on the images of our runs (adlib.baselines).

They are ours alone, of no paper, and stand apart from what is published: nothing that ranks, compares or judges methods
sees them. Every record holds them, so they cost no run.
"""

from pathlib import Path

import pandas as pd

from adlib.report.tables import read_plan
from adlib.runs.record import FINISHED
from adlib.runs.store import Store

PREFIX = "baseline: "


def trivial_part(record: dict, category: str) -> dict[str, dict]:
    """{baseline: metrics as fractions} of the part of a record that stands for a category of a table, or for one of its
    sub-classes ("cloth/subclass4"); {} where it has none.
    """
    found, (whole, _, group) = record.get("baselines", {}), category.partition("/")
    alone = bool(record["run"]["category"])
    if not group:
        return found.get("" if alone else whole, {})
    if alone and list(record.get("groups", {})) == [group]:  # its only one
        return found.get("", {})
    return found.get(f"/{group}" if alone else category, {})


def trivial_rows(cells: pd.DataFrame, out: str | Path = "reports") -> pd.DataFrame:
    """Rows like those of `adlib.report.tables.comparison`, of methods "baseline: mean grey" and so on.

    cells: of a `comparison`. ours: on the images of the first finished run of each category, in the plan's order, as
    that run saw them (size, crop), in percent; in the category "average" the mean over these, with the state "partly"
    unless they are all that the table has. In a table of PRO, `ours` is NaN, and `aupro` the area under the curve up to
    0.3. Decision metrics are left out, and so is what a baseline does not have: all but the deviation map score no
    pixels.
    """
    paper, table = cells["paper"].iloc[0], cells["table"].iloc[0]
    places = cells[["dataset", "category", "metric"]].drop_duplicates()
    records, values = _first_records(paper, table, out), {}
    each = places[places["category"] != "average"]
    for dataset, category, metric in each.itertuples(index=False):
        record = records.get((dataset, category.partition("/")[0]))
        for name, metrics in (trivial_part(record, category) if record else {}).items():
            own = {"ours": metrics.get(metric), "aupro": metrics.get("aupro") if metric == "pro" else None}
            own = {column: 100 * value for column, value in own.items() if value is not None}
            if own:
                values[name, dataset, category, metric] = own | {"phantom": bool(record["data"]["phantom"])}
    found = pd.DataFrame(
        [dict(zip(("method", "dataset", "category", "metric"), key, strict=True)) | own for key, own in values.items()],
        columns=["method", "dataset", "category", "metric", "ours", "aupro", "phantom"],
    )
    means = found.groupby(["method", "dataset", "metric"], sort=False, as_index=False).agg(
        ours=("ours", "mean"), aupro=("aupro", "mean"), phantom=("phantom", "any"), covered=("category", "size")
    )
    means = means.merge(each.groupby(["dataset", "metric"], as_index=False).agg(all=("category", "size")))
    states = ["partly" if partly else "done" for partly in means["covered"] < means["all"]]
    means = means.drop(columns=["covered", "all"]).assign(category="average", state=states)
    rows = places.merge(pd.concat([found.assign(state="done"), means]), on=["dataset", "category", "metric"])
    rows = rows.assign(method=PREFIX + rows["method"].astype(str), paper=paper, table=table, seeds=1)
    rows = rows.reindex(columns=cells.columns).assign(phantom=rows["phantom"].astype(bool), joint=False)
    empty = ["setting", "no_interval", "runs", "code"]
    return rows.assign(**{name: "" for name in empty}).astype({"ours": float, "aupro": float, "published": float})


def _first_records(paper: str, table: str, out: str | Path) -> dict[tuple[str, str], dict]:
    """(dataset, category) -> the first finished record that holds baselines; one of this category alone, if there is:
    a run on all together has seen the training images of all.
    """
    store, found = Store(Path(out) / "runs"), {}
    cells = [cell for cell in (read_plan(paper, out) or {"cells": []})["cells"] if cell["table"] == table]
    for cell in cells:
        record, place = store.record(cell["key"]) if cell["key"] else None, (cell["dataset"], cell["category"])
        if record is None or record["status"] != FINISHED or not record.get("baselines"):
            continue
        if place not in found or (record["run"]["category"] and not found[place]["run"]["category"]):
            found[place] = record
    return found
