"""A paper's table as HTML: as printed, a row per method; ours beside it, marked by size, linked to its runs.

On real data published and ours stand side by side, and their difference below. On drawn data nothing is subtracted: the
published table stands as printed, and apart from it what our runs found of what was drawn (known_answers.py).
Every text is escaped, and what matters is styled inline: JupyterLab has no style sheet of ours.
"""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path
from urllib.parse import quote, urlencode

import pandas as pd
from IPython.display import HTML

from adlib.report.known_answers import JUDGED, known_answers
from adlib.report.labels import metric_label, place_label, row_label
from adlib.report.ranks import best
from adlib.report.table_notes import (
    SHORT,
    agreement,
    code_line,
    legend,
    note_list,
    note_mark,
    order_line,
    protocol_notes,
    shared_runs,
    unnamed_rows,
)
from adlib.report.tables import COUNTS, comparison, largest, profile_of
from adlib.report.trivial_rows import trivial_rows
from adlib.rounding import rounded_text

PLACES_BESIDE = 9  # of all metrics together, on a screen of 1280 pixels; else each metric has a table of its own
MANY_COLUMNS = 12  # beyond which a table is set smaller


@dataclass
class Column:
    """One column: its headings from top to bottom, and what stands in the row of (method, setting)."""

    headings: tuple[str, ...]
    cell: Callable[[tuple[str, str]], str]


def show_table(paper: str, table: str, out: str | Path = "reports", home: str = "../") -> HTML:
    """A whole table of a paper, as printed: a row per method (and setting), metrics or categories as columns.

    On real data published and ours stand side by side, the difference below ours, marked by its size (see `AGREEMENT`),
    the interval or the spread over seeds folded below. On drawn data no difference is shown: beside the published table
    stands what our runs found of what was drawn, and our other numbers are folded. The best of a column is bold. A cell
    without a number says why. An average that was printed differently from the mean of its own printed categories
    carries that mean in brackets. Below stands what the paper's protocol says of methods and metrics, and on real data
    whether we order the methods as the paper does. A number of ours links to the page of its run, a mean of several to
    their rows in the report's list of runs. Trivial baselines stand in a table of their own below.
    home: the way from the page to the report's folder; the default is that of executed notebooks and of their pages.
    """
    cells = comparison(paper, table, out)
    known, trivial = known_answers(out, [paper]), trivial_rows(cells, out)
    return HTML(table_page(cells, known, home, trivial, profile_of(paper, out)))


def show_comparison(table: pd.DataFrame, metric: str, home: str = "../") -> HTML:
    """One metric of a `comparison`, as `show_table` shows all of them, without the known answers."""
    return HTML(table_page(table[table["metric"] == metric], None, home))


def table_page(
    cells: pd.DataFrame,
    known: pd.DataFrame | None = None,
    home: str = "../",
    trivial: pd.DataFrame | None = None,
    profile: str = "",
) -> str:
    """The HTML of `show_table`; every text escaped.

    cells: of `comparison`. known: of `known_answers`, of any tables. trivial: of `trivial_rows`. profile: of the runs.
    """
    metrics = list(dict.fromkeys(cells["metric"]))
    places = cells[["dataset", "category"]].drop_duplicates()
    together = len(places) * len(metrics) <= PLACES_BESIDE
    on_methods, on_metrics = protocol_notes(cells)
    on_metrics += [*shared_runs(cells), *unnamed_rows(cells)]
    marks: dict[str, str] = {}
    for number, (names, text) in enumerate(on_methods, 1):
        marks |= {method: marks.get(method, "") + note_mark(number, text) for method in names}
    known = None if known is None else known[known["table"].isin(cells["table"]) & known["paper"].isin(cells["paper"])]
    blocks = []
    for shown in [metrics] if together else [[metric] for metric in metrics]:
        view = _View(cells[cells["metric"].isin(shown)], shown, known, marks, home)
        caption = "" if together else f'<p class="adlib-caption"><strong>{escape(metric_label(shown[0]))}</strong></p>'
        blocks.append(view.page(caption))
        if trivial is not None and trivial["metric"].isin(shown).any():
            blocks.append(_View(trivial[trivial["metric"].isin(shown)], shown, None, {}, home).trivial())
    notes = f"{legend(cells, known)}{code_line(cells)}{order_line(cells)}{note_list(on_methods, on_metrics, profile)}"
    return f'<div class="adlib-table">{"".join(blocks)}<div class="adlib-notes">{notes}</div></div>'


class _View:
    """The tables of some metrics: which columns there are, and what stands in them."""

    def __init__(self, cells: pd.DataFrame, metrics: list[str], known, marks: dict[str, str], home: str):
        self.cells, self.metrics, self.known, self.marks, self.home = cells, metrics, known, marks, home
        self.places = list(cells[["dataset", "category"]].drop_duplicates().itertuples(index=False, name=None))
        self.rows = list(cells[["method", "setting"]].drop_duplicates().itertuples(index=False, name=None))
        self.drawn = bool(cells["phantom"].any()) or (known is not None and not known.empty)
        keys = ["method", "setting", "dataset", "category", "metric"]
        self.found = {tuple(cell[key] for key in keys): cell for cell in cells.to_dict("records")}
        self.decimals = {metric: part["published"].map(_decimals).max() for metric, part in cells.groupby("metric")}
        self.best_published, self.best_ours = best(cells, "published"), best(cells, "ours")

    def page(self, caption: str) -> str:
        """The table under its caption, which paper does not part, and what is folded below."""
        if self.drawn:
            columns = [Column(("published", *path), self._at(_published, place)) for place, path in self._leaves()]
            columns, fold = columns + self._known_columns(), self._fold("All our numbers on drawn data", self._ours())
        else:
            columns, fold = self._pairs(), self._fold("Intervals, or spread over seeds", self._spreads())
        return f'<div class="adlib-block">{caption}{self._table(columns)}</div>{fold}'

    def trivial(self) -> str:
        """Ours alone, of trivial baselines: open on real data, folded on drawn ones, as our other numbers are."""
        about = "ours, of no paper, and no detectors"
        seen = '<p class="adlib-caption">Images as the first run of their category saw them.</p>'
        said = f'<p class="adlib-caption">Trivial baselines: {about}</p>{seen}'
        self.drawn = True  # the best of them is nothing to be proud of
        if not self.cells["phantom"].any():
            return said + self._table(self._ours())
        return self._fold(f"Trivial baselines on drawn data: {about}", self._ours(), seen)

    def _leaves(self) -> list[tuple[tuple, tuple[str, ...]]]:
        """((dataset, category, metric), headings) of every column of numbers; no heading that all of them share."""
        several = len({dataset for dataset, _ in self.places}) > 1
        leaves = []
        for metric in self.metrics:
            for dataset, category in self.places:
                path = [metric_label(metric)] if len(self.metrics) > 1 or "pro" in self.metrics else []
                path += [place_label(dataset, category, several)] if len(self.places) > 1 else []
                leaves.append(((dataset, category, metric), tuple(path)))
        return leaves

    def _at(self, write: Callable, place: tuple) -> Callable[[tuple[str, str]], str]:
        """What `write` makes of the cell of a row at a place."""
        return lambda row: write(self, self.found[(*row, *place)]) if (*row, *place) in self.found else "<td></td>"

    def _pairs(self) -> list[Column]:
        columns = []
        for place, path in self._leaves():
            columns.append(Column((*path, "published"), self._at(_published, place)))
            columns.append(Column((*path, "ours"), self._at(_beside, place)))
            if place[2] == "pro" and len(self.places) == 1:  # else it stands in the cell of ours
                columns.append(Column((*path, "AUPRO, ours"), self._at(_aupro, place)))
        return columns

    def _ours(self) -> list[Column]:
        """Ours alone; with AUPRO beside PRO."""
        columns = []
        for place, path in self._leaves():
            columns.append(Column(path, self._at(_ours, place)))
            if place[2] == "pro":
                columns.append(Column((metric_label("aupro"), *path[1:]), self._at(_aupro, place)))
        return columns

    def _spreads(self) -> list[Column]:
        has = {
            (cell["dataset"], cell["category"], cell["metric"]) for cell in self.found.values() if _spread(cell) != "–"
        }
        return [
            Column(path, self._at(lambda _, cell: f"<td>{escape(_spread(cell))}</td>", place))
            for place, path in self._leaves()
            if place in has
        ]

    def _known_columns(self) -> list[Column]:
        """What the runs found of what was drawn: of images, of pixels, as the table's metrics are."""
        if self.known is None or self.known.empty:
            return []
        pixels = [metric.startswith(("pixel_", "pro")) for metric in self.metrics]
        wanted = ["image_auroc"] * (not all(pixels)) + ["pixel_auroc"] * any(pixels)
        between = len(self._leaves()[0][1]) - 1
        return [
            Column(("known answer", *[""] * between, metric_label(metric)), self._known_cell(metric))
            for metric in wanted
        ]

    def _known_cell(self, metric: str) -> Callable[[tuple[str, str]], str]:
        def cell(row: tuple[str, str]) -> str:
            method, setting = row
            mine = self.known[(self.known["method"] == method) & (self.known["setting"] == setting)]
            judged = mine[(mine["metric"] == metric) & (mine["state"] == "done")]
            beside = self.cells[(self.cells["method"] == method) & (self.cells["setting"] == setting)]
            if judged.empty:
                if not mine.empty:  # its maps outline nothing, or there are none; or the run is not done
                    states = set(mine["state"]) - {"done"}
                    return f'<td class="known missing">{escape(", ".join(sorted(states)) or "–")}</td>'
                return f'<td class="known missing">{_state(beside["state"].iloc[0])}</td>'
            lowest = judged.loc[judged["value"].fillna(-1).idxmin()]
            number = "undefined" if pd.isna(lowest["value"]) else rounded_text(100 * lowest["value"])
            mark = "✓" if judged["found"].all() else "✗"
            keys = [key for key in dict.fromkeys(judged["key"]) if key in set(" ".join(beside["runs"]).split())]
            text = _linked(f"{mark} {number}", keys, method, lowest["dataset"], "average", self.home)
            more = f"<br><small>lowest of {len(judged)}</small>" if len(judged) > 1 else ""
            wanted = mine[(mine["metric"] == metric) & mine["state"].isin(JUDGED)]
            more = " (partly)" * (len(wanted) > len(judged)) + more  # others failed, or are to do
            kind = "known found" if mark == "✓" else "known failed"
            return f'<td class="{kind}" title="at least {100 * lowest["floor"]:g}">{text}{more}</td>'

        return cell

    def _fold(self, title: str, columns: list[Column], above: str = "") -> str:
        if not columns:
            return ""
        return f"<details><summary>{escape(title)}</summary>{above}{self._table(columns)}</details>"

    def _table(self, columns: list[Column]) -> str:
        columns = columns or [Column(("",), lambda _: "<td></td>")]
        lines = []
        for method, setting in self.rows:
            label = escape(row_label(method, setting)) + self.marks.get(method, "")
            cells = "".join(column.cell((method, setting)) for column in columns)
            lines.append(f'<tr><th scope="row">{label}</th>{cells}</tr>')
        heads = _headings([column.headings or ("",) for column in columns])
        kind = "adlib-comparison adlib-wide" if len(columns) > MANY_COLUMNS else "adlib-comparison"
        return (
            f'<div class="adlib-scroll"><table class="{kind}">'
            f"<thead>{heads}</thead><tbody>{''.join(lines)}</tbody></table></div>"
        )


def _headings(paths: list[tuple[str, ...]]) -> str:
    """The rows of a table's head: what neighbours share spans them."""
    lines = []
    for level in range(len(paths[0])):
        first = f'<th rowspan="{len(paths[0])}" scope="col">method</th>' if level == 0 else ""
        spans = [(path[level], len(list(group))) for path, group in groupby(path[: level + 1] for path in paths)]
        scope = "col" if level == len(paths[0]) - 1 else "colgroup"
        cells = "".join(f'<th colspan="{width}" scope="{scope}">{escape(text)}</th>' for text, width in spans)
        lines.append(f"<tr>{first}{cells}</tr>")
    return "".join(lines)


def _published(view: _View, cell: dict) -> str:
    """Published, with the decimals of its metric in this table."""
    decimals = view.decimals[cell["metric"]]
    text = "–" if pd.isna(cell["published"]) else f"{cell['published']:.{decimals}f}"
    shown = f"<strong>{text}</strong>" if _key(cell) in view.best_published else text
    # Off by half a unit of the last place it may be rounded, or cut, and is right either way.
    if abs(cell["recomputed"] - cell["published"]) > 0.5 * 10.0**-decimals + 1e-6:
        mean = escape(rounded_text(cell["recomputed"], largest(cell["metric"]), int(decimals)))
        shown += f' <span title="mean of the printed categories">({mean})</span>'
    return f'<td class="published">{shown}</td>'


def _ours(view: _View, cell: dict, below: str = "", attributes: str = "") -> str:
    """Ours with two decimals (counts with none), linked to its runs; or why there is none."""
    if pd.isna(cell["ours"]):
        state = "undefined" if cell["state"] == "done" else cell["state"]
        beside = pd.notna(cell["aupro"])  # what there is of it is in the column of AUPRO
        if (cell["state"] == "done" or beside) and pd.isna(cell["published"]):
            return '<td class="missing">–</td>'
        return f'<td class="missing">{_state(state, cell, view.home)}</td>'
    spread = f" ± {cell['sd']:.2f}" if pd.notna(cell["sd"]) else ""
    text = _linked_cell(f"{_number(cell, 'ours')}{spread}", cell, view.home)
    if not view.drawn and _key(cell) in view.best_ours:
        text = f"<strong>{text}</strong>"
    text += " (partly)" if cell["state"] == "partly" else ""
    return f"<td{attributes}>{text}{below}</td>"


def _beside(view: _View, cell: dict) -> str:
    """Ours with its difference below, marked and tinted by its size; the interval shows under the pointer."""
    title = "" if _spread(cell) == "–" else f' title="{escape(_spread(cell))}"'
    beside = pd.notna(cell["aupro"]) and len(view.places) > 1
    aupro = f"<br><small>AUPRO<br>{escape(rounded_text(cell['aupro']))}</small>" if beside else ""
    if pd.isna(cell["difference"]):
        return _ours(view, cell, aupro, title)
    difference = round(cell["difference"], _digits(cell)) + 0.0  # never -0.00
    text = f"{difference:+.{_digits(cell)}f}"
    # Of a whole average it is to the printed one, which may be no mean of the printed categories.
    whole = abs(cell["difference"] - (cell["ours"] - cell["published"])) < 1e-9
    over = "" if whole else ' title="over the categories that both have"'
    level = agreement(cell)
    if level is None:
        return _ours(view, cell, f"<br><small{over}>{text}</small>{aupro}", title)
    _, name, below, above, tint = level
    mark = below if difference < 0 else above
    kind = f' class="{name}" style="background:{tint}"{title}'
    return _ours(view, cell, f"<br><small{over}>{text} {mark}</small>{aupro}", kind)


def _aupro(view: _View, cell: dict) -> str:
    """AUPRO, beside PRO: of the same runs, so that where there is none the reason is the same."""
    if pd.notna(cell["aupro"]):
        return f"<td>{escape(rounded_text(cell['aupro']))}{' (partly)' if cell['state'] == 'partly' else ''}</td>"
    return f"<td>{'–' if pd.notna(cell['ours']) or cell['state'] == 'done' else _state(cell['state'])}</td>"


def _spread(cell: dict) -> str:
    """The interval of one run, or the spread of several; without either why, or "–"."""
    if pd.notna(cell["sd"]):
        return f"± {cell['sd']:.2f} over {cell['seeds']:.0f} seeds"
    if pd.isna(cell["low"]) or pd.isna(cell["high"]):
        return f"none: {cell['no_interval']}" if cell["no_interval"] else "–"
    return f"{_number(cell, 'low')} to {_number(cell, 'high')}"


def _state(state: str, cell: dict | None = None, home: str = "") -> str:
    """Why there is no number; what fills whole tables is a sign whose meaning stands below."""
    if state in SHORT:
        return f'<span title="{escape(state)}">{SHORT[state]}</span>'
    return escape(state) if cell is None else _linked_cell(state, cell, home)


def _key(cell: dict) -> tuple:
    return tuple(cell[name] for name in ("dataset", "category", "metric", "method", "setting"))


def _number(cell: dict, name: str) -> str:
    """A measured value of a cell as text, in the unit of its metric."""
    return rounded_text(cell[name], largest(cell["metric"]), _digits(cell))


def _digits(cell: dict) -> int:
    return 0 if cell["metric"] in COUNTS else 2


def _decimals(value: float) -> int:
    """How many decimals a printed number needs, at most 4."""
    return len(f"{value:.4f}".rstrip("0").partition(".")[2])


def _linked_cell(text: str, cell: dict, home: str) -> str:
    # Runs on all categories together are called by their dataset alone, with a comma behind it (adlib.runs.titles).
    category = "" if cell["joint"] and cell["category"] != "average" else cell["category"]
    return _linked(text, cell["runs"].split(), cell["method"], cell["dataset"], category, home)


def _linked(text: str, keys: list[str], method: str, dataset: str, category: str, home: str) -> str:
    """A text as a link to its run, or to the list of its runs; without one where there is no run.

    category: of the runs; "" for all together, "average" for runs of whatever category.
    """
    if not keys:
        return escape(text)
    if len(keys) == 1:
        return f'<a href="{escape(home)}html/runs/{escape(keys[0])}.html">{escape(text)}</a>'
    of = category.partition("/")[0]
    place = dataset if category == "average" else f"{dataset}/{of}," if of else f"{dataset},"
    # The words stand in the filter's field; runs of another setting, table or study have them as well: the keys tell.
    query = urlencode({"find": f"{method} on {place}", "runs": ".".join(keys)}, quote_via=quote)
    return f'<a href="{escape(home)}index.html?{escape(query)}#runs" title="{len(keys)} runs">{escape(text)}</a>'
