"""Tables: published numbers, ours, and the difference, side by side and never mixed."""

import json
from html import escape
from pathlib import Path

import pandas as pd
from IPython.display import HTML

from adlib import papers
from adlib.errors import InputError
from adlib.report.ranks import SURROGATES, rank_agreement
from adlib.runs.record import FINISHED
from adlib.runs.store import Store


def read_plan(paper: str, out: str | Path) -> dict | None:
    """The plan that the last `adlib reproduce` left for a paper, or None."""
    file = Path(out) / "plans" / f"{paper}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


KEYS = ["dataset", "category", "setting", "method", "metric"]
# Where a record keeps a metric that papers name otherwise, and what is not a share that we print in percent.
OUR_NAMES = {"pro": "aupro"}
COUNTS = ("tn", "tp", "fn", "fp")
AS_FRACTION = (*COUNTS, "mcc")
# The difference of a cell by its size: up to how many percentage points, class, marks below and above. The tints let
# light and dark pages through, blue and orange are told apart by colour-blind readers, and the marks do without colour.
AGREEMENT = [
    (1, "close", "≈", "≈", "rgba(0, 114, 178, .2)"),
    (5, "near", "▽", "△", "rgba(240, 228, 66, .3)"),
    (float("inf"), "far", "▼", "▲", "rgba(213, 94, 0, .3)"),
]
# Notes of a protocol on metrics; a key that is a metric or a method itself speaks for itself.
NOTES_ON_METRICS = {
    "f1": ("image_f1max", "pixel_f1max"),
    "pr": ("image_ap", "pixel_ap"),
    "thresholds": ("mcc", "recall", "precision", "fpr", *COUNTS),
}


def comparison(paper: str, table: str, out: str | Path = "reports") -> pd.DataFrame:
    """A benchmark table of a paper, one row per cell and metric.

    out: the folder with runs/ and plans/.
    Columns: paper, table, dataset, category, setting, method, metric, published, recomputed, ours, sd, seeds, low,
    high, difference, state, phantom.
    published: as printed, percent but for MCC and counts; NaN for a dash. recomputed: in average rows the mean of the
    printed categories, else NaN. ours: mean over seeds, in the same unit; sd: standard deviation over seeds (NaN for
    one). low, high: of one run, its 95 % bootstrap interval over the test images (image metrics of whole runs), else
    NaN. difference: ours - published, in percentage points. state: "done", "partly" (an average that lacks categories,
    or seeds missing), "to do", "failed", "not implemented", "no data", "not in this profile". phantom: whether any of
    our numbers comes from drawn data. Decision metrics (MCC, recall ...) are ours at the threshold of best F1 on the
    test images: an oracle.
    Raises InputError for a table that the paper does not have.
    """
    spec = papers.protocol(paper)["tables"].get(table)
    if spec is None:
        known = ", ".join(papers.protocol(paper)["tables"])
        raise InputError(f"{paper} has no benchmark table {table!r}; it has {known}.")
    printed = papers.published(paper)
    printed = printed[(printed["table"] == table) & printed["metric"].isin(spec["metrics"])]
    printed = _with_dashes(printed, spec["methods"])
    ours = average_rows(_our_cells(paper, table, printed, out))

    joined = printed[[*KEYS, "value"]].rename(columns={"value": "published"}).merge(ours, on=KEYS, how="left")
    joined["state"] = joined["state"].fillna("to do")
    joined["phantom"] = joined["phantom"].eq(True)
    joined["difference"] = joined["ours"] - joined["published"]
    joined["recomputed"] = _recomputed(joined)
    ours = ["ours", "sd", "seeds", "low", "high", "difference", "state", "phantom"]
    return joined.assign(paper=paper, table=table)[["paper", "table", *KEYS, "published", "recomputed", *ours]]


def comparisons(out: str | Path = "reports") -> pd.DataFrame:
    """`comparison` of every benchmark table of every paper, one below the other."""
    tables = [(paper, table) for paper in papers.list_papers() for table in papers.protocol(paper)["tables"]]
    return pd.concat([comparison(paper, table, out) for paper, table in tables], ignore_index=True)


def _with_dashes(printed: pd.DataFrame, methods: list[str]) -> pd.DataFrame:
    """Every method in every row of a metric: without a value where the paper prints a dash, as for a method without
    maps.
    """
    rows = printed[[key for key in KEYS if key != "method"]].drop_duplicates()
    return rows.merge(pd.DataFrame({"method": methods}), how="cross").merge(printed, on=KEYS, how="left")


def _our_cells(paper: str, table: str, printed: pd.DataFrame, out: str | Path) -> pd.DataFrame:
    """Per key: mean and sd over seeds, interval of a single run, state. From the plan and the records."""
    store, rows = Store(Path(out) / "runs"), []
    metrics, categories = printed["metric"].unique(), printed["category"].unique()
    for cell in (read_plan(paper, out) or {"cells": []})["cells"]:
        if cell["table"] != table:
            continue
        record = store.record(cell["key"]) if cell["key"] else None
        done = record is not None and record["status"] == FINISHED
        state = cell["missing"] or ("to do" if record is None else "done" if done else "failed")
        phantom = bool(done and record["data"]["phantom"])
        groups = [name for name in categories if name.startswith(f"{cell['category']}/")]
        for category in groups or [cell["category"]]:
            for metric in metrics:
                value = _our_value(record, category, metric) if done else float("nan")
                low, high = _our_interval(record, category, metric) if done else (float("nan"), float("nan"))
                key = [cell["dataset"], category, cell["setting"], cell["method"], metric]
                rows.append([*key, value, low, high, state, phantom])
    seeds = pd.DataFrame(rows, columns=[*KEYS, "value", "low", "high", "state", "phantom"])
    means = seeds.groupby(KEYS, sort=False).agg(
        ours=("value", "mean"),
        sd=("value", "std"),
        seeds=("value", "count"),
        low=("low", "min"),
        high=("high", "max"),
        state=("state", lambda states: _joint_state(list(states))),
        phantom=("phantom", "any"),
    )
    means.loc[means["seeds"] != 1, ["low", "high"]] = float("nan")  # the spread over seeds stands for it
    return means.reset_index()


def unit(metric: str) -> str:
    """What a metric is printed in: "count", "fraction" (MCC) or "percent"."""
    return "count" if metric in COUNTS else "fraction" if metric in AS_FRACTION else "percent"


def _our_value(record: dict, category: str, metric: str) -> float:
    """One number of a record in the paper's unit; NaN where it is undefined or not recorded.

    category: of the table, "cloth/subclass4" for a sub-class. A run on several categories has them one by one.
    """
    category, _, group = category.partition("/")
    if group:
        metrics = record.get("groups", {}).get(group, {})
    elif record.get("categories"):
        metrics = record["categories"].get(category, {})
    else:
        metrics = record["metrics"] | record.get("oracle", {})
    value = metrics.get(OUR_NAMES.get(metric, metric))
    if value is None:
        return float("nan")
    return value if metric in AS_FRACTION else 100 * value


def _our_interval(record: dict, category: str, metric: str) -> tuple[float, float]:
    """The bootstrap interval of a metric in the paper's unit; NaN for a part of a run and where none is kept."""
    found = record.get("intervals", {}).get(metric) or {}
    whole = "/" not in category and not record.get("categories")
    low, high = (found.get(end) if whole else None for end in ("low", "high"))
    scale = 1 if metric in AS_FRACTION else 100
    return tuple(float("nan") if end is None else scale * end for end in (low, high))


def _joint_state(states: list[str]) -> str:
    """One state for several runs: theirs if they agree, "partly" if only some are done, else the worst."""
    if len(set(states)) == 1:
        return states[0]
    return "partly" if "done" in states else next(state for state in ("failed", *states) if state in states)


def average_rows(cells: pd.DataFrame) -> pd.DataFrame:
    """Add the category "average" to each dataset, setting, method and metric: the mean over its categories.

    The mean covers the categories that are done; `state` is "partly" unless all are.
    """
    rows = []
    for (dataset, setting, method, metric), group in cells.groupby(
        ["dataset", "setting", "method", "metric"], sort=False
    ):
        rows.append(
            {
                "dataset": dataset,
                "category": "average",
                "setting": setting,
                "method": method,
                "metric": metric,
                "ours": group["ours"].mean(),
                "sd": float("nan"),
                "seeds": group["seeds"].min(),
                "low": float("nan"),
                "high": float("nan"),
                "state": _joint_state(list(group["state"])),
                "phantom": group["phantom"].any(),
            }
        )
    return pd.concat([cells, pd.DataFrame(rows, columns=cells.columns)], ignore_index=True) if rows else cells


def _recomputed(joined: pd.DataFrame) -> pd.Series:
    """The mean of the printed categories, in the average rows of tables that print categories."""
    keys = [key for key in KEYS if key != "category"]
    means = joined[joined["category"] != "average"].groupby(keys)["published"].mean()
    found = means.reindex(pd.MultiIndex.from_frame(joined[keys])).set_axis(joined.index)
    return found.where(joined["category"] == "average")


def show_comparison(table: pd.DataFrame, metric: str) -> HTML:
    """One metric of a comparison as an HTML table, rows as the paper has them: per method published, ours, difference.

    A cell without a number says why. An average that was printed differently from the mean of its own printed
    categories carries that mean in brackets. Differences are marked by their size (see `AGREEMENT`). Below stand
    Kendall's tau between the two orders of the methods, and what the paper's protocol says of methods and metric.
    """
    return HTML(comparison_page(table[table["metric"] == metric]))


def comparison_page(table: pd.DataFrame) -> str:
    """The HTML of `show_comparison`; every text escaped."""
    methods = list(dict.fromkeys(table["method"]))
    on_methods, on_metrics = _notes(table)
    marks = {method: number for number, (names, _) in enumerate(on_methods, 1) for method in names}
    ours_title = "ours, phantom" if table["phantom"].any() else "ours"
    titles = [escape(_title(method)) + _mark(marks.get(method), on_methods) for method in methods]
    top = "".join(f'<th colspan="3" scope="colgroup">{title}</th>' for title in titles)
    second = f'<th scope="col">published</th><th scope="col">{ours_title}</th><th scope="col">difference</th>'
    decimals = table["published"].map(_decimals).max()
    several = table["dataset"].nunique() > 1
    lines = []
    for (dataset, category, setting), rows in table.groupby(["dataset", "category", "setting"], sort=False):
        name = ", ".join(filter(None, [dataset if several and category == "average" else "", category, setting]))
        cells = []
        for method in methods:
            found = rows[rows["method"] == method]
            empty = '<td class="published"></td><td></td><td></td>'
            cells.append(_cells(found.iloc[0], decimals) if len(found) else empty)
        kind = ' class="average"' if category == "average" else ""
        lines.append(f'<tr{kind}><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    return (
        '<div class="adlib-scroll"><table class="adlib-comparison"><thead>'
        f'<tr><th rowspan="2" scope="col">category</th>{top}</tr><tr>{second * len(methods)}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
        f'<div class="adlib-notes">{_legend(table)}{_tau_line(table)}{_note_list(on_methods, on_metrics)}</div>'
    )


def _notes(table: pd.DataFrame) -> tuple[list[tuple[list[str], str]], list[str]]:
    """What the protocols say of the table's methods, as (methods, text), and of its metrics and the table itself.

    A key of paper.yaml's notes may name several methods: "fanogan and ganomaly".
    """
    methods, metrics, on_methods, on_metrics = list(table["method"].unique()), set(table["metric"]), [], []
    for paper, name in table[["paper", "table"]].drop_duplicates().itertuples(index=False):
        protocol = papers.protocol(paper)
        for key, text in protocol.get("notes", {}).items():
            if concerned := [method for method in key.split(" and ") if method in methods]:
                on_methods.append((concerned, text))
            elif metrics & {key, *NOTES_ON_METRICS.get(key, ())}:
                on_metrics.append(text)
        on_metrics += filter(None, [protocol["tables"][name].get("notes")])
    return sorted(on_methods, key=lambda note: methods.index(note[0][0])), on_metrics  # numbered from left to right


def _mark(number: int | None, notes: list[tuple[list[str], str]]) -> str:
    """The raised number of a method's note; the note itself shows when the pointer rests on it."""
    return f'<sup title="{escape(notes[number - 1][1])}">{number}</sup>' if number else ""


def _note_list(on_methods: list[tuple[list[str], str]], on_metrics: list[str]) -> str:
    """The notes below a table: numbered ones on methods, then those on its metric and the table."""
    numbered = "".join(f"<li>{escape(' and '.join(names))}: {escape(text)}</li>" for names, text in on_methods)
    return (f"<ol>{numbered}</ol>" if numbered else "") + "".join(f"<p>{escape(text)}</p>" for text in on_metrics)


def _legend(table: pd.DataFrame) -> str:
    """What the marks of the differences mean, where there are any."""
    if not table.apply(_agreement, axis="columns").any():
        return ""
    return "<p>Difference: ≈ within 1 point, △ ▽ within 5, ▲ ▼ beyond; points are percent, or hundredths of MCC.</p>"


def _tau_line(table: pd.DataFrame) -> str:
    """How well our order of methods agrees with the published one, one sentence per dataset; "" without our numbers."""
    if table["ours"].isna().all():
        return ""
    lines, several = [], table["dataset"].nunique() > 1
    for row in rank_agreement(table).itertuples():
        place = f" on {escape(row.dataset)}" if several else ""
        if row.reason:
            lines.append(f"Order of methods{place}: not compared, {escape(row.reason)}.")
            continue
        lines.append(
            f"Order of methods{place}: Kendall's tau {row.tau:+.2f} over {row.methods} methods and {row.categories} "
            + ("category" if row.categories == 1 else "categories")
            + (", of phantom data and without meaning." if row.phantom else ".")
        )
    return f"<p>{' '.join(lines)}</p>"


def _title(method: str) -> str:
    """The method's name over its columns."""
    return f"{method} (surrogate)" if method in SURROGATES else method


def _decimals(value: float) -> int:
    """How many decimals a printed number needs, at most 4."""
    return len(f"{value:.4f}".rstrip("0").partition(".")[2])


def _agreement(cell: pd.Series) -> tuple | None:
    """The row of AGREEMENT that a cell's difference falls into; None where its size says nothing: for counts, phantoms,
    surrogates, and averages that lack some of our categories.
    """
    incomplete = cell["category"] == "average" and cell["state"] == "partly"
    if pd.isna(cell["difference"]) or cell["phantom"] or incomplete or cell["method"] in SURROGATES:
        return None
    if (kind := unit(cell["metric"])) == "count":
        return None
    points = round(abs(cell["difference"]) * (100 if kind == "fraction" else 1), 9)
    return next(level for level in AGREEMENT if points <= level[0])


def _cells(cell: pd.Series, decimals: int) -> str:
    """Published, ours and difference; published with the decimals of its table, ours with two (counts with none)."""
    published = "–" if pd.isna(cell["published"]) else f"{cell['published']:.{decimals}f}"
    if pd.notna(cell["recomputed"]) and f"{cell['recomputed']:.{decimals}f}" != published:
        mean = f"{cell['recomputed']:.{decimals}f}"
        published += f' <span title="mean of the printed categories">({mean})</span>'
    if pd.isna(cell["ours"]):
        undefined = "–" if pd.isna(cell["published"]) else "undefined"
        state = undefined if cell["state"] == "done" else cell["state"]
        return f'<td class="published">{published}</td><td class="missing" colspan="2">{escape(state)}</td>'
    digits = 0 if cell["metric"] in COUNTS else 2
    ours = f"{cell['ours']:.{digits}f}" + (f" ± {cell['sd']:.2f}" if pd.notna(cell["sd"]) else "")
    if pd.notna(cell["low"]) and pd.notna(cell["high"]):
        interval = f"{cell['low']:.{digits}f} to {cell['high']:.{digits}f}"
        ours += f'<br><small title="95 % bootstrap interval over the test images">({interval})</small>'
    ours += " (partly)" if cell["state"] == "partly" else ""
    return f'<td class="published">{published}</td><td>{ours}</td>{_difference(cell, digits)}'


def _difference(cell: pd.Series, digits: int) -> str:
    """The cell of the difference, marked and tinted by its size. Inline, for JupyterLab has no style sheet of ours."""
    text = (
        "" if pd.isna(cell["difference"]) else f"{round(cell['difference'], digits) + 0.0:+.{digits}f}"
    )  # never -0.00
    level = _agreement(cell)
    if level is None:
        return f"<td>{text}</td>"
    _, name, below, above, tint = level
    return f'<td class="{name}" style="background:{tint}">{text} {below if cell["difference"] < 0 else above}</td>'
