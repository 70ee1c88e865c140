"""Audit: recompute what can be recomputed from the papers' tables as printed, and say where it does not agree.

Pure functions of `adlib.papers.printed`: each returns a list of findings, one per number that was recomputed. A number
agrees if it lies within half a unit of its last printed digit of what is recomputed; sums and means are exact.

What has no rule here stands in a paper's audit.yaml, with two keys:
checks: a list of numbers with the cells that they follow from:
    {table, where, kind, printed, plus, minus, add, count, rank, least, most, divide, percent}
    printed: the number as text, or a cell; its recomputation is (sum of the cells `plus` - those of `minus` + the
    numbers `add` + how many different values of a column `count` names) / `divide` (a number or a cell), times 100 if
    `percent`. A cell is a dictionary of columns and their values (or lists
    of them); if it fits several rows, they are summed.
    rank: the place of the one cell `of` among all that `among` names, 1 for the largest value. least, most: the
    smallest, the largest of the cells.
causes: "table | where" -> what probably happened, for findings that do not agree.
"""

from collections.abc import Iterable, Mapping
from fractions import Fraction
from itertools import combinations
from math import floor, sqrt

import pandas as pd

from adlib.errors import InputError
from adlib.papers import checks, list_papers, printed

DOUBTED = {"chance": "chance gives", "outlier": "the nearest of the others is"}  # kinds that recompute nothing
COLUMNS = ["paper", "table", "where", "printed", "recomputed", "difference", "tolerance", "kind", "agrees"]
COLUMNS += ["likely_cause"]
KINDS = ["mean", "sum", "confusion", "counts", "chance", "outlier", "cross-table", "copied", "text"]
# What a detector gets that scores at random. PRO as AUPRO up to a false-positive rate of 0.3.
CHANCE = {"image_auroc": 50, "pixel_auroc": 50, "pro": 15}
FEWEST = 5  # methods that must stand beside one for it to be called an outlier
# Counts that are the sum of those of their parts that are printed, within one row.
PARTS = {
    "images": ["normal", "anomalous", "anomalous_real", "anomalous_synthetic"],
    "test": ["test_normal", "test_anomalous"],
}
ANOMALOUS = ["test_anomalous", "test_area", "test_points"]  # what the anomalous test images are counted as
AGGREGATES = {"average", "total"}  # categories that are none
SERIES = ["table", "dataset", "method", "metric", "setting"]  # one value per category
ROW = ["table", "dataset", "method", "category", "setting"]  # one value per metric
PLACE = ["dataset", "category"]


def audit(papers: Iterable[str] | str | None = None) -> pd.DataFrame:
    """Every number of the papers' tables that follows from others, recomputed.

    papers: names, or one; None for all; the counts of one dataset in several papers are compared within these.
    Columns: paper; table ("text" for a number of the running text); where; printed and recomputed; difference =
    printed - recomputed; tolerance, half a unit of the last printed digit; kind, one of KINDS; agrees, whether the
    difference is within the tolerance; likely_cause, "" where none is known.
    Kind "copied" counts: printed are the rows (or cells) of a group, recomputed those that differ from each other.
    Kinds "chance" and "outlier" recompute nothing: `recomputed` is the bound that a value lies beyond.
    """
    papers = list_papers() if papers is None else [papers] if isinstance(papers, str) else papers
    tables = {name: printed(name) for name in papers}
    about = {name: checks(name) for name in tables}
    rows = []
    for name, table in tables.items():
        findings = [
            *means(table),
            *totals(table),
            *confusion(table),
            *reachable_aurocs(table),
            *below_chance(table),
            *outliers(table),
            *repeated_cells(table),
            *copied_rows(table),
            *relations(table, about[name].get("checks", [])),
        ]
        rows += [{"paper": name} | finding for finding in findings]
    rows += across_papers(tables)
    for row in rows:
        cause = about[row["paper"]].get("causes", {}).get(f"{row['table']} | {row['where']}")
        row["likely_cause"] = cause or row["likely_cause"]
    return pd.DataFrame(rows, columns=COLUMNS)


def disagreeing(found: pd.DataFrame, kind: str | None = None) -> pd.DataFrame:
    """The rows of an audit that do not agree, of one kind or of all, without the columns that say so."""
    rows = found[~found["agrees"] & (found["kind"].eq(kind) | (kind is None))]
    return rows.drop(columns=["kind", "agrees", "difference"]).reset_index(drop=True)


def tolerance(text: str) -> Fraction:
    """Half a unit of the last printed digit: "55.90" -> 0.005, "93" -> 0.5."""
    return Fraction(1, 2 * 10 ** len(text.partition(".")[2]))


def finding(table: str, where: str, text: str, recomputed: Fraction, kind: str, blur: Fraction = Fraction(0)) -> dict:
    """One row of the audit, without its paper. blur: how far rounded values can have moved the recomputation."""
    value, allowed = Fraction(text), tolerance(text)
    return {
        "table": table,
        "where": where,
        "printed": float(value),
        "recomputed": float(recomputed),
        "difference": float(value - recomputed),
        "tolerance": float(allowed),
        "kind": kind,
        "agrees": abs(value - recomputed) <= allowed,
        "likely_cause": _cause_in_digits(value, recomputed, allowed, blur),
    }


def _cause_in_digits(printed: Fraction, recomputed: Fraction, allowed: Fraction, blur: Fraction) -> str:
    """What the digits alone give away: cut, rounded twice, or computed from values with more digits."""

    def rounded(value: Fraction, unit: Fraction) -> Fraction:
        return floor(value / unit + Fraction(1, 2)) * unit

    unit, off = 2 * allowed, abs(printed - recomputed)
    cut = floor(recomputed / unit) * unit == printed
    if off < allowed or (off == allowed and not cut):
        return ""
    if cut:
        return f"{'half' if off == allowed else 'digits'} cut instead of rounded"
    between = rounded(recomputed, unit / 10)
    if rounded(between, unit) == printed:
        return f"rounded twice, by way of {float(between):g}"
    return "within the rounding of the values that it follows from" if off <= allowed + blur else ""


def means(table: pd.DataFrame) -> list[dict]:
    """Printed averages against the mean of the printed categories. Kind "mean"."""
    found = []
    for rows in _groups(table, SERIES).values():
        values = [row.value for row in rows if row.category not in AGGREGATES]
        for row in rows if values else ():
            if row.category == "average":
                blur = sum(map(tolerance, values)) / len(values)
                found.append(finding(row.table, _where(row), row.value, _sum(values) / len(values), "mean", blur))
    return found


def totals(table: pd.DataFrame) -> list[dict]:
    """Printed totals against the sum of the categories, and counts against the sum of their parts. Kind "sum"."""
    found = []
    for rows in _groups(table, SERIES).values():
        values = [row.value for row in rows if row.category not in AGGREGATES]
        for row in rows if values else ():
            if row.category == "total":
                found.append(finding(row.table, _where(row), row.value, _sum(values), "sum"))
    for rows in _groups(table, ROW).values():
        by_metric = {row.metric: row for row in rows}
        for whole, names in PARTS.items():
            parts = [name for name in names if name in by_metric]
            if whole in by_metric and len(parts) > 1:
                row = by_metric[whole]
                where = f"{_where(row)} = {' + '.join(parts)}"
                found.append(finding(row.table, where, row.value, _sum(by_metric[p].value for p in parts), "sum"))
    return found


def confusion(table: pd.DataFrame) -> list[dict]:
    """MCC, recall, precision and FPR from counts of the confusion matrix, in percent but for MCC. Kind "confusion".

    Where a row prints the counts, they are used, and compared with the number of test images that the paper prints.
    Where it prints none, they are the whole numbers that fit the row best and add up to the test images.
    """
    found = []
    images = {place: {row.metric: row.value for row in rows} for place, rows in _groups(table, PLACE).items()}
    for rows in _groups(table, ROW).values():
        row, values = rows[0], {row.metric: row.value for row in rows}
        counts = images[row.dataset, row.category]
        normal = int(counts.get("test_normal", 0))
        anomalous = sum(int(counts.get(name, 0)) for name in ANOMALOUS)
        if {"tn", "tp", "fn", "fp"} <= set(values):
            tn, tp, fn, fp = (int(values[name]) for name in ("tn", "tp", "fn", "fp"))
            for what, count, expected in (("tn + fp", tn + fp, normal), ("tp + fn", tp + fn, anomalous)):
                if expected:
                    where = f"{_label(row)}, {what}, against the test images"
                    found.append(finding(row.table, where, str(count), Fraction(expected), "cross-table"))
            basis = "its counts"
        elif {"recall", "fpr"} <= set(values) and normal and anomalous:
            tn, tp, fn, fp = implied_counts(values, normal, anomalous)
            basis = f"tn {tn}, tp {tp}, fn {fn}, fp {fp}"
        else:
            continue
        for metric, value in decision_values(tn, tp, fn, fp).items():
            if metric in values:
                where = f"{_label(row)}, {metric} from {basis}"
                found.append(finding(row.table, where, values[metric], value, "confusion"))
    return found


def reachable_aurocs(table: pd.DataFrame) -> list[dict]:
    """Image AUROCs against the nearest value that the printed numbers of test images can give at all. Kind "counts".

    With n normal and m anomalous images an AUROC is a multiple of 1 / (2 n m), the half for a tie. Only where these
    values lie farther apart than the printed digits, so that there is something to find; averages are left out.
    """
    images = {place: {row.metric: row.value for row in rows} for place, rows in _groups(table, PLACE).items()}
    found = []
    for row in table.itertuples(index=False):
        counts = images[row.dataset, row.category]
        pairs = int(counts.get("test_normal", 0)) * sum(int(counts.get(name, 0)) for name in ANOMALOUS)
        if row.metric != "image_auroc" or not pairs or row.category in AGGREGATES:
            continue
        step = Fraction(100, 2 * pairs)
        if step > 2 * tolerance(row.value):
            nearest = floor(Fraction(row.value) / step + Fraction(1, 2)) * step
            where = f"{_where(row)}, nearest possible with {counts['test_normal']} normal images"
            found.append(finding(row.table, where, row.value, nearest, "counts"))
    return found


def below_chance(table: pd.DataFrame) -> list[dict]:
    """AUROCs and PROs that are worse than what random scores get. Kind "chance".

    An AUROC below one half is an order turned round, a PRO below 15 another quantity than AUPRO up to 0.3, or maps that
    are darker on defects. Average rows are left out: they follow from the categories.
    """
    return [
        finding(row.table, f"{_where(row)}, at least chance", row.value, Fraction(CHANCE[row.metric]), "chance")
        for row in table.itertuples(index=False)
        if row.metric in CHANCE and row.category not in AGGREGATES and Fraction(row.value) < CHANCE[row.metric]
    ]


def outliers(table: pd.DataFrame) -> list[dict]:
    """Values beyond those of all other methods in their category by more than these differ from each other.

    Kind "outlier"; only where five other methods are printed. `recomputed` is the nearest of the others.
    """
    found = []
    results = table[(table["method"] != "") & ~table["category"].isin(AGGREGATES) & table["metric"].isin(CHANCE)]
    for rows in _groups(results, ["table", *PLACE, "metric", "setting"]).values():
        for row in rows:
            others = [Fraction(other.value) for other in rows if other is not row]
            value = Fraction(row.value)
            if len(others) < FEWEST:
                continue
            bound = max(others) if value > max(others) else min(others)
            outside = value > max(others) or value < min(others)
            if outside and abs(value - bound) > max(others) - min(others):
                found.append(
                    finding(row.table, f"{_where(row)}, against the nearest method", row.value, bound, "outlier")
                )
    return found


def decision_values(tn: int, tp: int, fn: int, fp: int) -> dict[str, Fraction]:
    """mcc as a fraction (0 where undefined), recall, precision and fpr in percent, those that are defined."""
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    values = {"mcc": Fraction((tp * tn - fp * fn) / sqrt(product)) if product else Fraction(0)}
    for name, part, whole in (("recall", tp, tp + fn), ("precision", tp, tp + fp), ("fpr", fp, fp + tn)):
        if whole:
            values[name] = Fraction(100 * part, whole)
    return values


def implied_counts(values: Mapping[str, str], normal: int, anomalous: int) -> tuple[int, int, int, int]:
    """The counts tn, tp, fn, fp whose metrics lie closest to the printed ones, in units of their tolerance.

    values: metric -> text, with recall and fpr at least. normal, anomalous: numbers of test images.
    """

    def distance(counts: tuple[int, int, int, int]) -> float:
        made = decision_values(*counts)
        names = [name for name in made if name in values]
        return max(abs(float((Fraction(values[n]) - made[n]) / tolerance(values[n]))) for n in names)

    def near(name: str, whole: int) -> range:
        middle, spread = Fraction(values[name]) * whole / 100, 2 * tolerance(values[name]) * whole / 100
        return range(max(0, floor(middle - spread)), min(whole, floor(middle + spread) + 1) + 1)

    matrices = [(normal - fp, tp, anomalous - tp, fp) for tp in near("recall", anomalous) for fp in near("fpr", normal)]
    return min(matrices, key=distance)


def repeated_cells(table: pd.DataFrame) -> list[dict]:
    """Results that a paper prints in several tables: each against the first one. Kind "cross-table".

    Averages are compared where the tables print the same categories, or one of them none.
    """
    found = []
    results = table[table["method"] != ""]
    categories = results[~results["category"].isin(AGGREGATES)].groupby(["table", "dataset"])["category"].agg(frozenset)
    for first, *others in _groups(results, [*PLACE, "method", "metric", "setting"]).values():
        for row in others:
            averaged = [categories.get((r.table, r.dataset)) for r in (first, row) if r.category in AGGREGATES]
            if None not in averaged and len(set(averaged)) > 1:
                continue  # averages over different categories
            where = f"{_where(row)}, against table {first.table}"
            found.append(finding(row.table, where, row.value, Fraction(first.value), "cross-table"))
    return found


def copied_rows(table: pd.DataFrame) -> list[dict]:
    """Methods whose rows are identical, and categories where two metrics of a method are. Kind "copied".

    Only rows of three categories or more. The averages of rows are left out: they follow from the categories.
    """
    found = []
    results = table[(table["method"] != "") & ~table["category"].isin(AGGREGATES)]
    lines = {}  # (table, metric) -> (method, setting) -> category -> value
    for (number, metric, *method), rows in _groups(results, ["table", "metric", "method", "setting"]).items():
        if len(rows) >= 3:
            lines.setdefault((number, metric), {})[tuple(method)] = {row.category: row.value for row in rows}
    for (number, metric), by_method in lines.items():
        same = [f"{a[0]} and {b[0]}" for a, b in combinations(by_method, 2) if by_method[a] == by_method[b]]
        different = {frozenset(row.items()) for row in by_method.values()}
        where = f"{metric}, different rows" + (f" ({', '.join(same)} are equal)" if same else "")
        found.append(finding(number, where, str(len(by_method)), Fraction(len(different)), "copied"))
    for (number, metric), (other_number, other) in combinations(lines, 2):
        for method, row in lines[number, metric].items() if number == other_number else ():
            second = lines[number, other].get(method, {})
            same = [category for category, value in row.items() if second.get(category) == value]
            where = f"{method[0]}, {metric} and {other}, different values"
            where += f" ({', '.join(same)} is equal)" if same else ""
            if second:
                found.append(finding(number, where, str(len(row)), Fraction(len(row) - len(same)), "copied"))
    return found


def relations(table: pd.DataFrame, entries: Iterable[Mapping]) -> list[dict]:
    """The checks of a paper's audit.yaml (see the top of this file)."""
    found = []
    for check in entries:
        numbers = check.get("add", [])
        value = _sum(map(str, numbers if isinstance(numbers, list) else [numbers]))
        value += sum(_cells(table, cell) for cell in check.get("plus", []))
        value -= sum(_cells(table, cell) for cell in check.get("minus", []))
        for column, cell in check.get("count", {}).items():
            value += _rows(table, cell)[column].nunique()
        if rank := check.get("rank"):
            own = _cells(table, rank["among"] | rank["of"])
            value += 1 + sum(Fraction(other) > own for other in _rows(table, rank["among"])["value"])
        for choose, name in ((min, "least"), (max, "most")):
            if cell := check.get(name):
                value += choose(map(Fraction, _rows(table, cell)["value"]))
        divisor = check.get("divide", 1)
        value /= _cells(table, divisor) if isinstance(divisor, dict) else Fraction(str(divisor))
        text = check["printed"]
        if isinstance(text, dict):
            text = _rows(table, {"table": check["table"]} | text)["value"].item()
        value *= 100 if check.get("percent") else 1
        found.append(finding(check["table"], check["where"], text, value, check["kind"]))
    return found


def across_papers(tables: Mapping[str, pd.DataFrame]) -> list[dict]:
    """Counts of one dataset that several papers print, pair by pair; which one errs stays open. Kind "cross-table"."""
    found = []
    for (name, table), (other_name, other) in combinations(tables.items(), 2):
        keys = ["dataset", "category", "metric"]
        counts = [t[(t["method"] == "") & t["metric"].isin(["images", "normal", "anomalous"])] for t in (table, other)]
        both = counts[0].merge(counts[1], on=keys, suffixes=("", "_other"))
        for row in both.itertuples():
            where = f"{row.dataset}, {row.metric}, against {other_name} table {row.table_other}"
            number = Fraction(row.value_other)
            found.append({"paper": name} | finding(row.table, where, row.value, number, "cross-table"))
    return found


def _groups(table: pd.DataFrame, columns: list[str]) -> dict[tuple, list]:
    """The rows of a table as named tuples, by their values in these columns, in the table's order."""
    groups = {}
    for row in table.itertuples(index=False):
        groups.setdefault(tuple(getattr(row, column) for column in columns), []).append(row)
    return groups


def _sum(values: Iterable[str]) -> Fraction:
    return sum(map(Fraction, values), Fraction(0))


def _label(row) -> str:
    return ", ".join(part for part in (row.method, row.dataset, row.category, row.setting) if part)


def _where(row) -> str:
    return f"{_label(row)}, {row.metric}"


def _rows(table: pd.DataFrame, cell: Mapping[str, str | list[str]]) -> pd.DataFrame:
    rows = table
    for column, value in cell.items():
        rows = rows[rows[column].isin(value if isinstance(value, list) else [value])]
    if rows.empty:
        raise InputError(f"audit.yaml names a cell that no table has: {dict(cell)}.")
    return rows


def _cells(table: pd.DataFrame, cell: Mapping[str, str]) -> Fraction:
    return _sum(_rows(table, cell)["value"])
