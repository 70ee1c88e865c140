"""Conformance: how closely each method agreed with its official code, measured from outside (conformance.csv).

The table is kept once. `adlib models METHOD` prints a method's row and docs/conformance.md shows all of them; a test
holds the page against it.
"""

import csv
from functools import cache
from pathlib import Path

MEASURED = {"date": "2026-11-28", "commit": "773834c"}
# Column of the file: what it says.
COLUMNS = {
    "method": "method",
    "official": "compared with",
    "forward": "network's output",
    "loss": "loss",
    "gradient": "gradients",
    "map": "anomaly map",
    "score": "image score",
    "training": "optimiser steps, schedule, fitting",
    "changed": "changed since, so that it has to be compared again",
    "differs": "known to differ",
}
_FILE = Path(__file__).with_name("conformance.csv")


@cache
def table() -> dict[str, dict[str, str]]:
    """method -> column -> text. Figures are the largest difference over the largest official value."""
    with _FILE.open(encoding="utf-8", newline="") as file:
        return {row["method"]: row for row in csv.DictReader(file)}


def lines(method: str) -> list[str]:
    """A method's row as text, a line per column that says something; for a method without a row, one that says so."""
    if method not in table():
        return ["conformance: never compared with an official code"]
    row = table()[method]
    parts = ("forward", "loss", "gradient", "map", "score", "training")
    agreed = [f"{COLUMNS[name]} {row[name]}" for name in parts if row[name]]
    found = [f"conformance: compared on {MEASURED['date']} (commit {MEASURED['commit']}) with {row['official']}"]
    found += [f"conformance: {text}" for text in agreed]
    found += [f"conformance: {COLUMNS[name]}: {row[name]}" for name in ("changed", "differs") if row[name]]
    return found


def page_tables() -> str:
    """The two tables of docs/conformance.md, as Markdown: how closely methods agreed, and what changed or differs."""
    measured = ("official", "forward", "loss", "gradient", "map", "score", "training")
    rest = [name for name, row in table().items() if row["changed"] or row["differs"]]
    return "\n\n".join([_markdown(table(), measured), _markdown(rest, ("changed", "differs"))])


def _markdown(methods, columns: tuple[str, ...]) -> str:
    rows = [["method", *(COLUMNS[name] for name in columns)], ["---"] * (len(columns) + 1)]
    rows += [[method, *(table()[method][name] or "–" for name in columns)] for method in methods]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
