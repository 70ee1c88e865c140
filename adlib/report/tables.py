"""Tables: published numbers, ours, and the difference, side by side and never mixed."""

import json
from html import escape
from pathlib import Path

import pandas as pd
from IPython.display import HTML

from adlib import papers
from adlib.errors import InputError
from adlib.runs.record import FINISHED
from adlib.runs.store import Store


def read_plan(paper: str, out: str | Path) -> dict | None:
    """The plan that the last `adlib reproduce` left for a paper, or None."""
    file = Path(out) / "plans" / f"{paper}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def comparison(paper: str, table: str, out: str | Path = "reports") -> pd.DataFrame:
    """A benchmark table of a paper, one row per cell and metric.

    out: the folder with runs/ and plans/.
    Columns: dataset, category, method, metric, published, recomputed, ours, sd, seeds, difference, state, phantom.
    published: as printed, percent. recomputed: in average rows the mean of the printed categories, else NaN.
    ours: mean over seeds, percent; sd: standard deviation over seeds (NaN for one). difference: ours - published, in
    percentage points. state: "done", "partly" (an average that lacks categories, or seeds missing), "to do",
    "failed", "not implemented", "no data". phantom: whether any of our numbers comes from drawn data.
    Raises InputError for a table that the paper does not have.
    """
    spec = papers.protocol(paper)["tables"].get(table)
    if spec is None:
        known = ", ".join(papers.protocol(paper)["tables"])
        raise InputError(f"{paper} has no benchmark table {table!r}; it has {known}.")
    printed = papers.published(paper)
    printed = printed[(printed["table"] == table) & printed["metric"].isin(spec["metrics"])]
    ours = average_rows(_our_cells(paper, table, spec["metrics"], out))

    keys = ["dataset", "category", "method", "metric"]
    joined = printed[[*keys, "value"]].rename(columns={"value": "published"}).merge(ours, on=keys, how="left")
    joined["state"] = joined["state"].fillna("to do")
    joined["phantom"] = joined["phantom"].eq(True)
    joined["difference"] = joined["ours"] - joined["published"]
    joined["recomputed"] = _recomputed(joined)
    return joined[[*keys, "published", "recomputed", "ours", "sd", "seeds", "difference", "state", "phantom"]]


def _our_cells(paper: str, table: str, metrics: list[str], out: str | Path) -> pd.DataFrame:
    """Per dataset, category, method and metric: mean and sd over seeds, state. From the plan and the records."""
    keys = ["dataset", "category", "method", "metric"]
    columns = [*keys, "value", "state", "phantom"]
    store, rows = Store(Path(out) / "runs"), []
    for cell in (read_plan(paper, out) or {"cells": []})["cells"]:
        if cell["table"] != table:
            continue
        record = store.record(cell["key"]) if cell["key"] else None
        done = record is not None and record["status"] == FINISHED
        state = cell["missing"] or ("to do" if record is None else "done" if done else "failed")
        for metric in metrics:
            value = record["metrics"].get(metric) if done else None
            value = float("nan") if value is None else 100 * value
            phantom = bool(done and record["data"]["phantom"])
            rows.append([cell["dataset"], cell["category"], cell["method"], metric, value, state, phantom])
    seeds = pd.DataFrame(rows, columns=columns)
    grouped = seeds.groupby(keys, sort=False)
    table_of_means = grouped.agg(
        ours=("value", "mean"),
        sd=("value", "std"),
        seeds=("value", "count"),
        state=("state", lambda states: _joint_state(list(states))),
        phantom=("phantom", "any"),
    )
    return table_of_means.reset_index()


def _joint_state(states: list[str]) -> str:
    """One state for several runs: theirs if they agree, "partly" if only some are done, else the first one."""
    if len(set(states)) == 1:
        return states[0]
    return "partly" if "done" in states else next(state for state in ("failed", *states) if state in states)


def average_rows(cells: pd.DataFrame) -> pd.DataFrame:
    """Add the category "average" to each dataset, method and metric: the mean over its categories.

    The mean covers the categories that are done; `state` is "partly" unless all are.
    """
    rows = []
    for (dataset, method, metric), group in cells.groupby(["dataset", "method", "metric"], sort=False):
        rows.append(
            {
                "dataset": dataset,
                "category": "average",
                "method": method,
                "metric": metric,
                "ours": group["ours"].mean(),
                "sd": float("nan"),
                "seeds": group["seeds"].min(),
                "state": _joint_state(list(group["state"])),
                "phantom": group["phantom"].any(),
            }
        )
    return pd.concat([cells, pd.DataFrame(rows, columns=cells.columns)], ignore_index=True) if rows else cells


def _recomputed(joined: pd.DataFrame) -> pd.Series:
    """The mean of the printed categories, in the average rows of datasets whose categories are printed."""
    categories = joined[joined["category"] != "average"]
    means = categories.groupby(["dataset", "method", "metric"])["published"].mean()
    keys = pd.MultiIndex.from_frame(joined[["dataset", "method", "metric"]])
    return means.reindex(keys).set_axis(joined.index).where(joined["category"] == "average")


def show_comparison(table: pd.DataFrame, metric: str) -> HTML:
    """One metric of a comparison as an HTML table: rows dataset and category, per method published | ours | difference.

    A cell without a number says why. An average that was printed differently from the mean of its own printed
    categories carries that mean in brackets.
    """
    return HTML(comparison_page(table[table["metric"] == metric]))


def comparison_page(table: pd.DataFrame) -> str:
    """The HTML of `show_comparison`; every text escaped."""
    methods = list(dict.fromkeys(table["method"]))
    ours_title = "ours, phantom" if table["phantom"].any() else "ours"
    top = "".join(f'<th colspan="3" scope="colgroup">{escape(method)}</th>' for method in methods)
    second = f'<th scope="col">published</th><th scope="col">{ours_title}</th><th scope="col">difference</th>'
    lines = []
    for (dataset, category), rows in table.groupby(["dataset", "category"], sort=False):
        name = f"{dataset}, {category}" if category == "average" else category
        cells = []
        for method in methods:
            found = rows[rows["method"] == method]
            cells.append(_cells(found.iloc[0]) if len(found) else '<td class="published"></td><td></td><td></td>')
        kind = ' class="average"' if category == "average" else ""
        lines.append(f'<tr{kind}><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    return (
        '<div class="adlib-scroll"><table class="adlib-comparison"><thead>'
        f'<tr><th rowspan="2" scope="col">category</th>{top}</tr><tr>{second * len(methods)}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cells(cell: pd.Series) -> str:
    published = f"{cell['published']:.2f}"
    if pd.notna(cell["recomputed"]) and f"{cell['recomputed']:.2f}" != published:
        published += f' <span title="mean of the printed categories">({cell["recomputed"]:.2f})</span>'
    if pd.isna(cell["ours"]):
        return f'<td class="published">{published}</td><td class="missing" colspan="2">{escape(cell["state"])}</td>'
    ours = f"{cell['ours']:.2f}" + (f" ± {cell['sd']:.2f}" if pd.notna(cell["sd"]) else "")
    ours += " (partly)" if cell["state"] == "partly" else ""
    return f'<td class="published">{published}</td><td>{ours}</td><td>{cell["difference"]:+.2f}</td>'
