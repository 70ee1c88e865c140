"""A table beside its paper as text: for a terminal, for Markdown, LaTeX and spreadsheets."""

import pandas as pd

from adlib.files import spreadsheet_csv
from adlib.report.tables import largest
from adlib.rounding import rounded_text

FORMS = ("text", "markdown", "latex", "csv")
MEASURED = ("ours", "low", "high", "aupro")
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}"}
_LATEX |= {sign: "\\" + sign for sign in "&%$#_{}"}


def long_form(cells: pd.DataFrame) -> pd.DataFrame:
    """A row per cell and metric of `adlib.report.tables.comparison`, without the columns that say nothing here."""
    return cells.drop(
        columns=["paper", "table", "phantom", "recomputed", "runs", "joint", "code"]
        + ["setting"] * (not cells["setting"].any())
        + ["aupro"] * ("pro" not in set(cells["metric"]))
    )


def wide_form(cells: pd.DataFrame) -> pd.DataFrame:
    """A row per dataset, category, setting and metric, a column per method, in the table's order: "published / ours",
    each "-" where there is none, and "(partly)" behind a mean of ours that lacks seeds or categories.
    """
    keys = ["dataset", "category", *(["setting"] if cells["setting"].any() else []), "metric"]
    partly = (cells["state"].eq("partly") & cells["ours"].notna()).map({True: " (partly)", False: ""})
    said = cells.assign(cell=_said(cells["published"]) + " / " + _measured(cells, "ours") + partly)
    order = said[keys].drop_duplicates()
    wide = said.drop_duplicates([*keys, "method"]).pivot(index=keys, columns="method", values="cell")
    wide = wide.reindex(pd.MultiIndex.from_frame(order))[list(dict.fromkeys(said["method"]))]
    return wide.fillna("").rename_axis(columns=None).reset_index()


def _said(values: pd.Series) -> pd.Series:
    return values.map(lambda value: "-" if pd.isna(value) else f"{value:.2f}")


def _measured(cells: pd.DataFrame, column: str) -> pd.Series:
    """Our values as text, "-" where there is none; of a metric's whole nothing less is said (adlib.rounding)."""
    return pd.Series(
        [
            "-" if pd.isna(value) else rounded_text(value, largest(metric))
            for value, metric in zip(cells[column], cells["metric"], strict=True)
        ],
        cells.index,
        object,
    )


def table_text(table: pd.DataFrame, form: str = "text", title: str = "") -> str:
    """A table as text that ends with a newline. form: one of FORMS; csv has all digits and no title."""
    if form == "csv":
        return spreadsheet_csv(table)
    numbers = [pd.api.types.is_float_dtype(table[column]) for column in table]
    if "metric" in table:
        table = table.assign(**{name: _measured(table, name) for name in MEASURED if name in table})
    if form == "text":
        return "\n".join(
            [*([title] if title else []), table.to_string(index=False, na_rep="-", float_format="%.2f"), ""]
        )
    rows = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    if form == "markdown":
        lines = [_markdown(table.columns), "|" + "|".join("---:" if right else "---" for right in numbers) + "|"]
        lines += map(_markdown, rows)
        return "\n".join([*([f"**{title}**", ""] if title else []), *lines, ""])
    body = [r" \hline", *map(_latex, rows)]
    lines = [
        rf"\begin{{tabular}}{{{''.join('r' if right else 'l' for right in numbers)}}}",
        _latex(table.columns),
        *body,
    ]
    return "\n".join([*([f"% {title}"] if title else []), *lines, r"\end{tabular}", ""])


def _cell(value) -> str:
    if pd.isna(value):
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _markdown(cells) -> str:
    return "| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |"


def _latex(cells) -> str:
    return " & ".join("".join(_LATEX.get(sign, sign) for sign in str(cell)) for cell in cells) + r" \\"
