"""Small tables for notebooks: what was run, its metrics, the runs behind a paper's table."""

import math
from collections.abc import Mapping
from html import escape
from pathlib import Path

import pandas as pd
from IPython.display import HTML

from adlib import papers
from adlib.report.banner import banner
from adlib.report.tables import read_plan
from adlib.runs.record import FINISHED
from adlib.runs.store import Store


def fact_table(facts: Mapping[str, object]) -> HTML:
    """Names and values, one line each, escaped."""
    lines = "".join(
        f'<tr><th scope="row">{escape(str(name))}</th><td class="word">{escape(str(value))}</td></tr>'
        for name, value in facts.items()
    )
    return HTML(f"<table>{lines}</table>")


def metric_table(metrics: Mapping) -> HTML:
    """The dictionary of `adlib.evaluate` as a table; an undefined metric says why."""
    reasons = metrics.get("reasons", {})
    return fact_table(
        {
            name: f"undefined: {reasons.get(name, 'no reason given')}" if math.isnan(value) else f"{value:.4f}"
            for name, value in metrics.items()
            if name != "reasons"
        }
    )


def published_table(paper: str, table: str) -> pd.DataFrame:
    """One table of a paper as text: rows dataset and category, columns its metrics, "" where nothing is printed."""
    printed = papers.published(paper)
    printed = printed[printed["table"] == table]
    wide = printed.pivot_table(index=["dataset", "category"], columns="metric", values="value", sort=False)
    return wide.map(lambda value: "" if math.isnan(value) else f"{value:.10g}")


def _records(paper: str, out: str | Path) -> list[dict]:
    """The finished records behind a paper's tables, each once."""
    store = Store(Path(out) / "runs")
    keys = dict.fromkeys(cell["key"] for cell in (read_plan(paper, out) or {"cells": []})["cells"] if cell["key"])
    found = map(store.record, keys)
    return [record for record in found if record and record["status"] == FINISHED]


def warnings_of(paper: str, out: str | Path) -> list[str]:
    """All that a reader must know before believing our numbers in a paper's tables."""
    return [text for record in _records(paper, out) for text in record["warnings"]]


def paper_banner(paper: str, out: str | Path) -> HTML:
    """The banner above a paper's tables; where no run is done it says that there is no number of ours."""
    if not _records(paper, out):
        return HTML("<p>None of our runs for these tables is done: the numbers are the published ones alone.</p>")
    return banner(warnings_of(paper, out))


def run_table(paper: str, out: str | Path) -> pd.DataFrame:
    """The finished runs behind a paper's tables, one row each: metrics in percent, seconds of fit and predict."""
    rows = []
    for record in _records(paper, out):
        run, seconds = record["run"], record["seconds"]
        row = {name: run[name] for name in ("method", "dataset", "category", "seed")}
        row |= {
            name: 100 * value
            for name, value in record["metrics"].items()
            if value is not None and "threshold" not in name
        }
        rows.append(row | {"fit s": seconds["fit"], "predict s": seconds["predict"]})
    return pd.DataFrame(rows).round(2)
