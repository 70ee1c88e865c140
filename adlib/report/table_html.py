"""Comparisons as HTML: published, ours, difference; marked by size, linked to their runs, with the notes on them.

Every text is escaped, and what matters is styled inline: JupyterLab has no style sheet of ours.
"""

import math
from html import escape
from urllib.parse import quote, urlencode

import pandas as pd
from IPython.display import HTML

from adlib import papers
from adlib.metrics import PRO_LABELS
from adlib.models import is_surrogate
from adlib.papers.settings import footnotes
from adlib.report.provenance import code_sentence
from adlib.report.ranks import rank_agreement
from adlib.report.tables import COUNTS, unit

# The difference of a cell by its size: up to how many percentage points, class, marks below and above. The tints let
# light and dark pages through, blue and orange are told apart by colour-blind readers, and the marks do without colour.
AGREEMENT = [
    (1, "close", "≈", "≈", "rgba(0, 114, 178, .2)"),
    (5, "near", "▽", "△", "rgba(240, 228, 66, .3)"),
    (float("inf"), "far", "▼", "▲", "rgba(213, 94, 0, .3)"),
]
METHODS_BESIDE = 4  # what fits on a page of A4 and on a screen of 1280 pixels
# Notes of a protocol on metrics; a key that is a metric or a method itself speaks for itself.
NOTES_ON_METRICS = {
    "f1": ("image_f1max", "pixel_f1max"),
    "pr": ("image_ap", "pixel_ap"),
    "thresholds": ("mcc", "recall", "precision", "fpr", *COUNTS),
}


def show_comparison(table: pd.DataFrame, metric: str, home: str = "../") -> HTML:
    """One metric of a comparison as an HTML table, rows as the paper has them: per method published, ours, difference.

    A cell without a number says why. An average that was printed differently from the mean of its own printed
    categories carries that mean in brackets. Differences are marked by their size (see `AGREEMENT`). Below stand
    Kendall's tau between the two orders of the methods, and what the paper's protocol says of methods and metric.
    A number of ours links to the page of its run, a mean of several to their rows in the report's list of runs.
    home: the way from the page to the report's folder; the default is that of executed notebooks and of their pages.
    """
    return HTML(comparison_page(table[table["metric"] == metric], home))


def comparison_page(table: pd.DataFrame, home: str = "../") -> str:
    """The HTML of `show_comparison`; every text escaped. Many methods take several tables below one another."""
    methods = list(dict.fromkeys(table["method"]))
    on_methods, on_metrics = _notes(table)
    marks = {method: _mark(number, text) for number, (names, text) in enumerate(on_methods, 1) for method in names}
    beside = math.ceil(len(methods) / max(1, math.ceil(len(methods) / METHODS_BESIDE)))  # of about equal width
    parts = [methods[first : first + beside] for first in range(0, len(methods), beside or 1)]
    blocks = "".join(_block(table, part, marks, home) for part in parts)
    notes = f"{_legend(table)}{_code_line(table)}{_tau_line(table)}{_note_list(on_methods, on_metrics)}"
    return f'{blocks}<div class="adlib-notes">{notes}</div>'


def _block(table: pd.DataFrame, methods: list[str], marks: dict[str, str], home: str) -> str:
    """The table of some of the methods, in all rows. marks: of their notes, by method."""
    ours_title = "ours, phantom" if table["phantom"].any() else "ours"
    titles = [escape(_title(method)) + marks.get(method, "") for method in methods]
    aupro = (table["metric"] == "pro").any()  # ours is the paper's own definition, and AUPRO stands beside it
    width = 4 if aupro else 3
    top = "".join(f'<th colspan="{width}" scope="colgroup">{title}</th>' for title in titles)
    second = f'<th scope="col">published</th><th scope="col">{ours_title}</th><th scope="col">difference</th>'
    second += f'<th scope="col">AUPRO, {ours_title}</th>' if aupro else ""
    decimals = table["published"].map(_decimals).max()
    several = table["dataset"].nunique() > 1
    lines = []
    for (dataset, category, setting), rows in table.groupby(["dataset", "category", "setting"], sort=False):
        name = ", ".join(filter(None, [dataset if several and category == "average" else "", category, setting]))
        found = {cell["method"]: cell for _, cell in rows.iterrows()}
        empty = '<td class="published"></td>' + "<td></td>" * (width - 1)
        cells = [
            _cells(found[method], decimals, home) + (_aupro(found[method]) if aupro else "")
            if method in found
            else empty
            for method in methods
        ]
        kind = ' class="average"' if category == "average" else ""
        lines.append(f'<tr{kind}><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>')
    return (
        '<div class="adlib-scroll"><table class="adlib-comparison"><thead>'
        f'<tr><th rowspan="2" scope="col">category</th>{top}</tr><tr>{second * len(methods)}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _notes(table: pd.DataFrame) -> tuple[list[tuple[list[str], str]], list[str]]:
    """What the protocols say of the table's methods, as (methods, text), and of its metrics and the table itself.

    A key of paper.yaml's notes may name several methods: "fanogan and ganomaly".
    """
    methods, metrics, on_methods, on_metrics = list(table["method"].unique()), set(table["metric"]), [], []
    for paper, name in table[["paper", "table"]].drop_duplicates().itertuples(index=False):
        protocol = papers.protocol(paper)
        if "pro" in metrics and "pro" in protocol:
            on_metrics.append(_on_pro(protocol["pro"]))
        for key, text in protocol.get("notes", {}).items():
            if concerned := [method for method in key.split(" and ") if method in methods]:
                on_methods.append((concerned, text))
            elif metrics & {key, *NOTES_ON_METRICS.get(key, ())}:
                on_metrics.append(text)
        on_metrics += filter(None, [protocol["tables"][name].get("notes")])
        on_methods += [([method], text) for method in methods if (text := " ".join(footnotes(paper, method)))]
    return sorted(on_methods, key=lambda note: methods.index(note[0][0])), on_metrics  # numbered from left to right


def _on_pro(pro: dict) -> str:
    """What is compared in the columns of PRO. pro: as in paper.yaml."""
    return (
        f"PRO, ours: {PRO_LABELS[pro['variant']]}. {pro['why'].strip()} Beside it AUPRO, the exact area up to a "
        "false-positive rate of 0.3, which is another quantity"
        + (
            f", except on other sets than {' and '.join(pro['datasets'])}: ours is AUPRO there."
            if "datasets" in pro
            else "."
        )
    )


def _mark(number: int, note: str) -> str:
    """The raised number of a method's note; the note itself shows when the pointer rests on it."""
    return f'<sup title="{escape(note)}">{number}</sup>'


def _note_list(on_methods: list[tuple[list[str], str]], on_metrics: list[str]) -> str:
    """The notes below a table: those on its metric and the table, and folded, for they are long, those on methods."""
    numbered = "".join(f"<li>{escape(' and '.join(names))}: {escape(text)}</li>" for names, text in on_methods)
    folded = f"<details><summary>Notes on the methods</summary><ol>{numbered}</ol></details>" if numbered else ""
    return "".join(f"<p>{escape(text)}</p>" for text in on_metrics) + folded


def _legend(table: pd.DataFrame) -> str:
    """What the marks of the differences mean, where there are any."""
    if not table.apply(_agreement, axis="columns").any():
        return ""
    return "<p>Difference: ≈ within 1 point, △ ▽ within 5, ▲ ▼ beyond; points are percent, or hundredths of MCC.</p>"


def _code_line(table: pd.DataFrame) -> str:
    """Which states of adlib made our numbers, where that is not one clean commit."""
    cells = table[(table["category"] != "average") & table["ours"].notna()]
    sentence = code_sentence(line for text in cells["code"] for line in text.splitlines())
    return f"<p>{escape(sentence)}</p>" if sentence else ""


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
    return f"{method} (surrogate)" if is_surrogate(method) else method


def _decimals(value: float) -> int:
    """How many decimals a printed number needs, at most 4."""
    return len(f"{value:.4f}".rstrip("0").partition(".")[2])


def _agreement(cell: pd.Series) -> tuple | None:
    """The row of AGREEMENT that a cell's difference falls into; None where its size says nothing: for counts, phantoms,
    surrogates, and averages that lack some of our categories.
    """
    incomplete = cell["category"] == "average" and cell["state"] == "partly"
    if pd.isna(cell["difference"]) or cell["phantom"] or incomplete or is_surrogate(cell["method"]):
        return None
    if (kind := unit(cell["metric"])) == "count":
        return None
    points = round(abs(cell["difference"]) * (100 if kind == "fraction" else 1), 9)
    return next(level for level in AGREEMENT if points <= level[0])


def _cells(cell: pd.Series, decimals: int, home: str) -> str:
    """Published, ours and difference; published with the decimals of its table, ours with two (counts with none)."""
    published = "–" if pd.isna(cell["published"]) else f"{cell['published']:.{decimals}f}"
    if pd.notna(cell["recomputed"]) and f"{cell['recomputed']:.{decimals}f}" != published:
        mean = f"{cell['recomputed']:.{decimals}f}"
        published += f' <span title="mean of the printed categories">({mean})</span>'
    if pd.isna(cell["ours"]):
        state = "undefined" if cell["state"] == "done" else cell["state"]
        state = "–" if cell["state"] == "done" and pd.isna(cell["published"]) else _linked(state, cell, home)
        return f'<td class="published">{published}</td><td class="missing" colspan="2">{state}</td>'
    digits = 0 if cell["metric"] in COUNTS else 2
    spread = f" ± {cell['sd']:.2f}" if pd.notna(cell["sd"]) else ""
    ours = _linked(f"{cell['ours']:.{digits}f}{spread}", cell, home)
    if pd.notna(cell["low"]) and pd.notna(cell["high"]):
        interval = f"{cell['low']:.{digits}f} to {cell['high']:.{digits}f}"
        ours += f'<br><small title="95 % bootstrap interval over the test images">({interval})</small>'
    ours += " (partly)" if cell["state"] == "partly" else ""
    return f'<td class="published">{published}</td><td>{ours}</td>{_difference(cell, digits)}'


def _aupro(cell: pd.Series) -> str:
    """The cell of AUPRO beside PRO."""
    return f"<td>{'–' if pd.isna(cell['aupro']) else format(cell['aupro'], '.2f')}</td>"


def _linked(text: str, cell: pd.Series, home: str) -> str:
    """The text of a cell as a link to its run, or to the list of its runs; without one where there is no run."""
    keys = cell["runs"].split()
    if not keys:
        return escape(text)
    if len(keys) == 1:
        return f'<a href="{escape(home)}html/runs/{escape(keys[0])}.html">{escape(text)}</a>'
    place = cell["dataset"] + (f"/{cell['category'].partition('/')[0]}," if cell["category"] != "average" else "")
    query = urlencode({"find": f"{cell['method']} on {place}"}, quote_via=quote)
    return f'<a href="{escape(home)}index.html?{escape(query)}#runs" title="{len(keys)} runs">{escape(text)}</a>'


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
