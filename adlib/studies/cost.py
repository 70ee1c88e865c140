"""What does quality cost? A metric against seconds and memory, from the records of runs: a frontier per dataset.

Methods are compared over the categories that all of them have done: an average over others would compare categories.

Times are those of the machine that did the runs, with all else that ran on it, and no two runs take the same: they are
shown with the spread over the runs, and a method is only called faster where its slowest run beat the other's fastest.
Times of runs that took images or features over from others, or went on from a checkpoint, are too short and are left
out of the times (not out of the quality), and so is their memory: they did not hold what others had computed. Peak
memory is that of the whole process, with all libraries in it.
"""

import math
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from adlib.errors import InputError, did_you_mean
from adlib.figure_style import INK, finish, plain_log
from adlib.report.labels import SHARES, check_metric
from adlib.report.run_details import finished_cells
from adlib.report.tables import part_of
from adlib.rounding import rounded_text
from adlib.runs.standing import taken_over
from adlib.studies.common import NOTHING, mean_interval, share_label

NAME = "study/cost"
COSTS = {
    "seconds_per_image": "seconds per test image",
    "fit_seconds": "seconds of fitting",
    "memory_mib": "peak memory, MiB",
    "gpu_memory_mib": "peak memory of the GPU, MiB",
}


def spent(out: str | Path, metric: str = "image_auroc", study: str = NAME) -> pd.DataFrame:
    """What every finished run reached and what it took, one row per run.

    Columns: dataset, category, method, seed, value (percent; of a run on several categories over all images), low,
    high (the record's bootstrap interval over its test images, where it has one), those of COSTS (NaN where the times
    are too short, as above; of a GPU's memory, where there was none), machine (processor, or GPU, and its threads).
    Runs in which the metric is undefined are left out. Raises InputError for a metric that is not a share and better
    the higher.
    """
    check_metric(metric, SHARES)
    rows = []
    for cell, record in finished_cells(study, out):
        alone = record["run"]["category"]
        part = part_of(record, alone) if alone else record["metrics"] | record.get("oracle", {})
        value = part.get(metric)
        if value is None:
            continue
        seconds, whole = record["seconds"], not record.get("resumed") and not taken_over(record)
        tested = sum(
            sum(number for name, number in part.items() if name.startswith("test"))
            for part in record["data"]["counts"].values()
        )
        interval = record.get("intervals", {}).get(metric, {})
        row = {name: cell[name] for name in ("dataset", "method", "seed")} | {"category": alone or "all"}
        row |= {"value": 100 * value} | {end: _percent(interval.get(end)) for end in ("low", "high")}
        row["seconds_per_image"] = seconds["predict"] / tested if whole else math.nan
        row["fit_seconds"] = seconds["fit"] if whole else math.nan
        for name in ("memory_mib", "gpu_memory_mib"):
            row[name] = record.get(f"peak_{name}") if whole else math.nan
        where = record["environment"]
        device = where.get("gpu") or where.get("processor") or where.get("machine", "")
        rows.append(row | {"machine": f"{device}, {where.get('threads', '?')} threads"})
    columns = ["dataset", "category", "method", "seed", "value", "low", "high", *COSTS, "machine"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(["value", "low", "high", *COSTS], float))


def _percent(value: float | None) -> float:
    return math.nan if value is None else 100 * value


def compared(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `spent` of the categories that all methods of the dataset have: other means do not compare."""
    having = table.groupby(["dataset", "category"])["method"].transform("nunique")
    return table[having == table.groupby("dataset")["method"].transform("nunique")]


def methods(table: pd.DataFrame) -> pd.DataFrame:
    """One row per dataset and method, over the categories that all its methods have. table: of `spent`.

    Columns: dataset, method, runs, categories, value (the mean over the categories, each the mean of its seeds), low,
    high, over (what the interval is over: "categories", Student's; of one category "seeds", Student's; of one run "test
    images", its record's bootstrap; NaN where all are alike, which tells no spread), then of each of COSTS the median,
    and its least and most over the runs as NAME_least and NAME_most; NaN where a category has none.
    """
    rows = []
    for (dataset, method), mine in compared(table).groupby(["dataset", "method"], sort=False):
        categories = mine.groupby("category")["value"].mean()
        over = "categories" if len(categories) > 1 else "seeds" if len(mine) > 1 else "test images"
        value, low, high = mean_interval(categories if over == "categories" else mine["value"])
        low, high = np.clip([low, high], 0, 100)  # the ends of percents
        if over == "test images":
            low, high = mine[["low", "high"]].iloc[0]
        if low == high:
            low = high = math.nan
        row = {"dataset": dataset, "method": method, "runs": len(mine), "categories": len(categories)}
        row |= {"value": value, "low": low, "high": high, "over": over}
        for name in COSTS:
            if mine.groupby("category")[name].count().eq(0).any():  # a median over fewer categories does not compare
                row |= dict.fromkeys([name, f"{name}_least", f"{name}_most"], math.nan)
                continue
            row |= {name: mine[name].median(), f"{name}_least": mine[name].min(), f"{name}_most": mine[name].max()}
        rows.append(row)
    columns = ["dataset", "method", "runs", "categories", "value", "low", "high", "over"]
    costs = [column for name in COSTS for column in (name, f"{name}_least", f"{name}_most")]
    return pd.DataFrame(rows, columns=[*columns, *costs])


def frontier(found: pd.DataFrame, cost: str = "seconds_per_image") -> pd.DataFrame:
    """The rows of `methods` that know their cost, each with the method that makes it needless, the cheapest first.

    A method is beaten by another that costs less and is no worse. Added columns: beaten_by (the best of those, "" on
    the frontier), shown (whether neither the values' intervals nor the spreads of the costs overlap; never of single
    runs, whose times have no spread). Raises InputError for a cost that is not of COSTS.
    """
    if cost not in COSTS:
        raise InputError(f"cost = {cost!r} is not known; possible are {', '.join(COSTS)}.{did_you_mean(cost, COSTS)}")
    known, rows = found.dropna(subset=cost), []
    for _, mine in known.groupby("dataset", sort=False):
        for row in mine.sort_values(cost, kind="stable").to_dict("records"):
            others = mine[(mine[cost] < row[cost]) & (mine["value"] >= row["value"])]
            row |= {"beaten_by": "", "shown": False}
            if len(others):
                other = others.loc[others["value"].idxmax()]
                row["beaten_by"] = other["method"]
                apart = other["low"] > row["high"] and other[f"{cost}_most"] < row[f"{cost}_least"]
                row["shown"] = bool(apart and min(row["runs"], other["runs"]) > 1)
            rows.append(row)
    return pd.DataFrame(rows, columns=[*found.columns, "beaten_by", "shown"])


def conclusions(edge: pd.DataFrame, metric: str = "image_auroc", cost: str = "seconds_per_image") -> list[str]:
    """What is seen, sentences per dataset. edge: of `frontier`, by the same cost."""
    said, label, unit = [], share_label(metric), COSTS[cost]
    for dataset, mine in edge.groupby("dataset", sort=False):
        on = mine[mine["beaten_by"] == ""]
        steps = "; ".join(_named(row, cost) for row in on.itertuples())
        said.append(f"{dataset}: on the frontier of {label} against {unit}, the cheapest first: {steps}.")
        if len(on) > 1:
            cheap, dear = on.iloc[0], on.iloc[-1]
            apart = dear["low"] > cheap["high"]
            said.append(
                f"{dataset}: {dear['method']} takes {_ratio(dear[cost], cheap[cost])} times what {cheap['method']} "
                f"does for {dear['value'] - cheap['value']:.1f} points more"
                + ("." if apart else ", a gain that these runs do not show: intervals overlap or are missing.")
            )
        for row in mine[mine["beaten_by"] != ""].itertuples():
            proof = "" if row.shown else " in these runs, though intervals or times overlap or have no spread"
            said.append(f"{dataset}: {_named(row, cost)} is beaten by {row.beaten_by}, cheaper and no worse{proof}.")
    return said


def costless(found: pd.DataFrame, cost: str = "seconds_per_image") -> list[str]:
    """Which methods no figure against a cost shows, since none is known of them, a sentence per dataset. found: of
    `methods`.
    """
    said, lack, name = [], found[found[cost].isna()], COSTS[cost].removesuffix(", MiB")
    for dataset, mine in lack.groupby("dataset", sort=False):
        said.append(f"{dataset}: without {name}, so not in the figure: {', '.join(mine['method'])}.")
    if len(lack) and cost == "gpu_memory_mib":
        said.append("Only runs on a GPU have its memory.")
    return said


def beside_trivial(found: pd.DataFrame, trivial: pd.DataFrame, metric: str = "image_auroc") -> list[str]:
    """What the best trivial baseline of each dataset reaches, and which methods are no better, a sentence each.

    found: of `methods`. trivial: of `adlib.studies.common.best_trivial`.
    """
    said = []
    for row in trivial.itertuples():
        worse = found[(found["dataset"] == row.dataset) & (found["value"] <= row.value)]
        beaten = ", ".join(f"{other.method} ({rounded_text(other.value, decimals=1)})" for other in worse.itertuples())
        said.append(
            f"{row.dataset}: without any detector, {row.baseline} reaches {share_label(metric)} "
            f"{rounded_text(row.value, decimals=1)}, the best of the trivial baselines on these very images. "
            f"{f'No better: {beaten}' if beaten else 'All are better'}."
        )
    return said


def lacking(table: pd.DataFrame) -> list[str]:
    """Which methods lack which categories, and what is compared then, a sentence per dataset. table: of `spent`."""
    said, common = [], compared(table)
    for dataset, mine in table.groupby("dataset", sort=False):
        there, methods = set(mine["category"]), mine.groupby("method", sort=False)["category"]
        gaps = {method: ", ".join(sorted(there - set(names))) for method, names in methods}
        lacks = "; ".join(f"{method} lacks {gap}" for method, gap in gaps.items() if gap)
        left = common.loc[common["dataset"] == dataset, "category"].nunique()
        if lacks and left:
            said.append(f"{dataset}: compared over {left} of {len(there)} categories, which all methods have: {lacks}.")
        elif lacks:
            said.append(f"{dataset}: nothing is compared, since no category is done by all methods: {lacks}.")
    return said


def left_out(table: pd.DataFrame) -> list[str]:
    """Whose times are not told, and on what machines the others were taken. table: of `spent`."""
    said, short = [], table["seconds_per_image"].isna()
    if short.any():
        said.append(
            f"The times of {short.sum()} of {len(table)} runs are left out, and their memory: they took images or "
            "features over from other runs, or went on from a checkpoint; a method with none left in a category has no "
            "cost. Into an empty folder, `adlib reproduce study/cost` shares none."
        )
    machines = table.loc[~short, "machine"].value_counts()
    said += [f"{number} runs were timed on {machine}." for machine, number in machines.items()]
    return said + (["Times of different machines or threads do not compare."] if len(machines) > 1 else [])


def _named(row, cost: str) -> str:
    value = partial(rounded_text, decimals=1)
    least, most = getattr(row, f"{cost}_least"), getattr(row, f"{cost}_most")
    interval = "no interval"
    if not math.isnan(row.low):
        interval = f"{value(row.low)} to {value(row.high)} over {_what(row)}"
    runs = f"{least:.3g} to {most:.3g}, {row.runs} runs" if row.runs > 1 else "1 run"
    return f"{row.method} {value(row.value)} ({interval}) at {getattr(row, cost):.3g} ({runs})"


def _what(row) -> str:
    return f"{row.categories} categories" if row.over == "categories" else row.over


def _ratio(dear: float, cheap: float) -> str:
    return f"{dear / cheap:.1f}" if cheap > 0 else "many"


def show_frontier(
    found: pd.DataFrame,
    metric: str = "image_auroc",
    cost: str = "seconds_per_image",
    trivial: pd.DataFrame | None = None,
) -> Figure:
    """Quality against cost, a panel per dataset: the staircase of the frontier, and what lies under it faded.

    found: of `methods`. trivial: of `adlib.studies.common.best_trivial`, drawn as a dotted line. Whiskers: the interval
    of the value, and the least and most cost of the runs.
    """
    edge = frontier(found, cost)
    parts = list(edge.groupby("dataset", sort=False)) or [(NOTHING, edge)]
    width = max(6, 4.6 * len(parts))
    figure, axes = plt.subplots(1, len(parts), figsize=(width, 4.2), squeeze=False, layout="constrained")
    for axis, (dataset, part) in zip(axes.flat, parts, strict=True):
        on = part[part["beaten_by"] == ""]
        axis.step(on[cost], on["value"], where="post", color="#228833", linewidth=6, alpha=0.25)
        for number, row in enumerate(part.itertuples()):  # the cheapest first: neighbours' names above and below
            x, colour = getattr(row, cost), "#228833" if row.beaten_by == "" else "#9aa0a6"
            sides = [[x - getattr(row, f"{cost}_least")], [getattr(row, f"{cost}_most") - x]]
            ends = [[max(0, row.value - row.low)], [max(0, row.high - row.value)]]
            axis.errorbar([x], [row.value], ends, sides, marker="o", markersize=8, color=colour, capsize=2)
            axis.annotate(
                row.method,
                (x, row.value),
                (7, -15 if number % 2 else 7),
                textcoords="offset points",
                fontsize=9,
                color=colour,
            )
        for row in () if trivial is None else trivial[trivial["dataset"] == dataset].itertuples():
            axis.axhline(row.value, color=INK, linestyle=":", linewidth=1.5)
            where = {"xy": (0.01, row.value), "xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
            axis.annotate(f"{row.baseline}: no detector", xytext=(2, 3), fontsize=8, color=INK, **where)
        axis.set(title=dataset, xlabel=COSTS[cost])
        if len(part):
            axis.set_xscale("log")
            axis.margins(x=0.25, y=0.12)
            plain_log(axis.xaxis)
    axes[0, 0].set_ylabel(f"{share_label(metric)}, %")
    return finish(figure)
