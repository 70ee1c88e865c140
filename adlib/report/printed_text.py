"""A paper's table as text, for the terminal: as printed, a row per method; ours beside the published numbers."""

import pandas as pd

from adlib.report.labels import metric_label, place_label, row_label
from adlib.report.tables import KEYS, largest, unit
from adlib.rounding import rounded_text


def printed_text(cells: pd.DataFrame, known: pd.DataFrame, trivial: pd.DataFrame | None = None) -> str:
    """One table, without a title. cells: of `comparison`. known: of `known_answers`, of any tables. trivial: of
    `trivial_rows`.

    Each number as "published | ours (difference)", or with the reason why there is none of ours; where the difference
    of averages is over some of the categories alone, it says over how many. On drawn data the published alone, and
    apart whether our runs found what was drawn. Each metric below the other where a table has several categories.
    Trivial baselines stand in a block of their own.
    """
    known = known[known["table"].isin(cells["table"]) & known["paper"].isin(cells["paper"])]
    drawn = bool(cells["phantom"].any()) or not known.empty
    several = cells["dataset"].nunique() > 1
    places = len(cells[["dataset", "category"]].drop_duplicates())
    texts = cells.assign(
        row=[row_label(method, setting) for method, setting in zip(cells["method"], cells["setting"], strict=True)],
        metric=cells["metric"].map(metric_label),
        place=[place_label(*place, several) for place in zip(cells["dataset"], cells["category"], strict=True)],
        text=[
            _cell(cell, drawn, over)
            for cell, over in zip(cells.to_dict("records"), differences_over(cells), strict=True)
        ],
    )
    column = "metric" if places == 1 else "place"
    blocks = []
    for name, part in [("", texts)] if places == 1 else texts.groupby("metric", sort=False):
        wide = part.pivot(index="row", columns=column, values="text")
        wide = wide.reindex(index=part["row"].unique(), columns=part[column].unique())
        blocks.append(f"{name}\n" * bool(name) + wide.rename_axis(index=None, columns=None).to_string(na_rep=""))
    if not known.empty:
        blocks.append("known answer, drawn data\n" + _known(known))
    if trivial is not None and not trivial.empty:
        blocks.append("Trivial baselines: ours, of no paper, and no detectors\n" + _trivial(trivial, several))
    return "\n\n".join(blocks)


def _trivial(trivial: pd.DataFrame, several: bool) -> str:
    """A row per baseline, a column per place and metric."""
    values = trivial["ours"].fillna(trivial["aupro"])
    metric = trivial["metric"].replace({"pro": "aupro"}).map(metric_label)
    place = [place_label(*place, several) for place in zip(trivial["dataset"], trivial["category"], strict=True)]
    text = values.map(rounded_text) + trivial["state"].map({"partly": " partly"}).fillna("")
    texts = trivial.assign(column=pd.Series(place, trivial.index) + " " + metric, text=text)
    wide = texts.pivot(index="method", columns="column", values="text")
    wide = wide.reindex(index=texts["method"].unique(), columns=texts["column"].unique())
    return wide.rename_axis(index=None, columns=None).to_string(na_rep="-")


def differences_over(cells: pd.DataFrame) -> list[str]:
    """Of each row of a `comparison`, over which part of its categories its difference is, where that is not what the
    numbers beside it are of: "2 of 5 categories" for an average, "" for all other rows.
    """
    keys = [key for key in KEYS if key != "category"]
    average = cells["category"] == "average"
    each = cells["difference"].where(~average).groupby([cells[key] for key in keys])
    both, all_ = each.transform("count"), each.transform("size") - 1
    part = average & cells["difference"].notna() & (both < all_)
    return [
        f"{count} of {total} categories" if partly else ""
        for partly, count, total in zip(part, both, all_, strict=True)
    ]


def _cell(cell: dict, drawn: bool, over: str = "") -> str:
    """The text of one cell. over: of `differences_over`."""
    published = "-" if pd.isna(cell["published"]) else f"{cell['published']:.10g}"
    if drawn:
        return published
    if pd.isna(cell["ours"]):
        return f"{published} | {'undefined' if cell['state'] == 'done' else cell['state']}"
    digits = 0 if unit(cell["metric"]) == "count" else 2
    ours = rounded_text(cell["ours"], largest(cell["metric"]), digits)
    spread = "" if pd.isna(cell["sd"]) else f" ± {cell['sd']:.2f}"
    over = f" over {over}" * bool(over)
    difference = "" if pd.isna(cell["difference"]) else f" ({cell['difference']:+.{digits}f}{over})"
    partly = " partly" if cell["state"] == "partly" else ""
    aupro = "" if pd.isna(cell["aupro"]) else f", AUPRO {rounded_text(cell['aupro'])}"
    return f"{published} | {ours}{spread}{difference}{partly}{aupro}"


def _known(known: pd.DataFrame) -> str:
    """The lowest value of each method's rows, by metric, in percent, and whether all reach their floors."""
    keys = ["method", "setting"]
    rows = {}
    for (method, setting, metric), part in known.groupby([*keys, "metric"], sort=False):
        done = part[part["state"] == "done"]
        text = part["state"].iloc[0] if done.empty else rounded_text(100 * done["value"].min())
        found = "" if done.empty else " found" if done["found"].all() else " NOT FOUND"
        rows.setdefault(row_label(method, setting), {})[metric_label(metric)] = text + found
    return pd.DataFrame(rows).T.to_string(na_rep="-")
