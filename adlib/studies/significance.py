"""Which differences between methods can be told from chance? On our runs, and with the papers' test sets.

Our runs: all pairs of methods on the same test images. The difference of their image AUROCs has the percentile
interval of a paired bootstrap over images (whole items where one was photographed several times), and DeLong's
p-value, corrected for all pairs of the dataset by Holm's rule. Two methods are told apart where both say so. DeLong's
variance takes images for independent: where items were photographed several times, the bootstrap's own p-value stands
in its place, which is never below 2 / (replicates + 1): many pairs then need many replicates.

The papers: with so many normal and anomalous test images, how large must a difference be to be found? The standard
error of one AUROC is Hanley and McNeil's (J. A. Hanley, B. J. McNeil, "The meaning and use of the area under a receiver
operating characteristic curve", Radiology 143, 1982); two methods on the same images are correlated, by how much no
paper says, so that it is an assumption. What training draws and seeds add is not in it.
"""

import math
from collections.abc import Sequence
from functools import cache
from itertools import combinations
from pathlib import Path
from statistics import NormalDist

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.optimize import brentq

from adlib import papers
from adlib.datasets import facts
from adlib.errors import InputError
from adlib.figure_style import finish
from adlib.metrics import compare_images, delong, delong_compare
from adlib.samples import items
from adlib.studies.common import LEVEL, NOTHING, first_predictions

NAME = "study/significance"
ALPHA = 1 - LEVEL  # errors that a test may make where nothing differs
POWER = 0.8  # of finding a difference that is there
CORRELATION = 0.5  # assumed between the AUROCs of two methods on the same images
CORRELATIONS = (0.0, 0.3, 0.5, 0.7, 0.9)  # what is tried in its place
FOUND, HIDDEN = "#228833", "#cc3311"


def holm(p_values: Sequence[float]) -> np.ndarray:
    """float64 [N]: p-values corrected for their number (S. Holm, Scand. J. Statist. 6, 1979), in the order given.

    An undefined one (NaN) stays so, and is counted as a test all the same.
    """
    p_values = np.asarray(p_values, np.float64)
    order = np.argsort(p_values)  # NaN last
    stepped = p_values[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return corrected


def comparisons(out: str | Path, study: str = NAME, replicates: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Every pair of methods of a dataset's category on the images that both have, one row per pair.

    Of several seeds of a method the first is taken. replicates, seed: of the bootstrap.
    Columns: dataset, category, better, other (methods), normal, anomalous (images), better_auroc, other_auroc
    (percent), difference, low, high (points, the bootstrap's interval), reason (why there is no interval, or ""),
    correlation (of the two AUROCs, by DeLong), p_value (DeLong's, the bootstrap's where there are items), holm
    (corrected for all pairs of the dataset), told (apart). Of a tie, the first name is under `better`.
    """
    found: dict[tuple[str, str], dict] = {}
    for dataset, category, method, predictions in first_predictions(study, out):
        if predictions.samples["label"].nunique() == 2:
            found.setdefault((dataset, category), {})[method] = predictions
    rows = []
    for (dataset, category), methods in found.items():
        for one, other in combinations(methods, 2):
            row = _compared(methods[one], methods[other], replicates, seed)
            if row["difference"] < 0:
                one, other, row = other, one, _turned(row)
            rows.append({"dataset": dataset, "category": category, "better": one, "other": other} | row)
    columns = ["dataset", "category", "better", "other", "normal", "anomalous", "better_auroc", "other_auroc"]
    columns += ["difference", "low", "high", "reason", "correlation", "p_value"]
    table = pd.DataFrame(rows, columns=columns)
    corrected = [pd.Series(holm(part), part.index) for _, part in table.groupby("dataset")["p_value"]]
    table["holm"] = pd.concat(corrected) if corrected else pd.Series(dtype=float)
    table["told"] = (table["holm"] < ALPHA) & (table["low"] > 0)
    return table


def _compared(one, other, replicates: int, seed: int) -> dict:
    """The numbers of one row of `comparisons`, `better` being the first."""
    places = pd.Index(other.samples["image"]).get_indexer(one.samples["image"])
    one, other = one.select(places >= 0), other.select(places[places >= 0])
    labels, things = one.samples["label"].to_numpy(), items(one.samples)
    resampled = compare_images(labels, one.scores, other.scores, replicates, seed, items=things)
    drawn, reason = resampled["image_auroc"], resampled.get("reasons", {}).get("image_auroc", "")
    both = delong_compare(labels, one.scores, other.scores)
    stds = [delong(labels, each.scores)["std"] for each in (one, other)]
    shared = math.prod(stds)
    correlation = (stds[0] ** 2 + stds[1] ** 2 - both["std"] ** 2) / (2 * shared) if shared > 0 else math.nan
    if drawn["low"] == drawn["high"]:  # which says nothing of other images
        drawn, reason = drawn | {"low": math.nan, "high": math.nan}, "no resampling moves it"
    row = {"reason": reason, "normal": int((labels == 0).sum()), "anomalous": int((labels == 1).sum())}
    row |= {"better_auroc": 100 * drawn["first"], "other_auroc": 100 * drawn["second"]}
    row |= {name: 100 * drawn[name] for name in ("difference", "low", "high")}
    return row | {"correlation": correlation, "p_value": both["p_value"] if things is None else drawn["p_value"]}


def _turned(row: dict) -> dict:
    """The same comparison with the other method first."""
    turned = {"better_auroc": row["other_auroc"], "other_auroc": row["better_auroc"]}
    return row | turned | {"difference": -row["difference"], "low": -row["high"], "high": -row["low"]}


def pair_conclusions(table: pd.DataFrame) -> list[str]:
    """What is seen between our runs, two sentences per dataset. table: of `comparisons`."""
    said = []
    for dataset, mine in table.groupby("dataset", sort=False):
        told, hidden = mine[mine["told"]], mine[~mine["told"]]
        text = f"{dataset}: {len(told)} of {len(mine)} pairs of methods are told apart, corrected for their number"
        if len(told):
            text += f"; the smallest difference among them is {_interval(told.loc[told['difference'].idxmin()])}"
        if len(hidden):
            text += f"; the largest that is not is {_interval(hidden.loc[hidden['difference'].idxmax()])}"
        said.append(f"{text}.")
        known = mine["correlation"].dropna().round(2)
        if len(known):
            spread = f" in the median of {len(known)} pairs ({known.min():.2f} to {known.max():.2f})"
            said.append(
                f"{dataset}: the AUROCs of two methods on the same images are correlated by "
                f"{known.median() + 0.0:.2f}{spread if len(known) > 1 else ', in the one pair where that is defined'}."
            )
    return said


def _interval(row: pd.Series) -> str:
    interval = f"95 % interval of it alone {row['low']:.1f} to {row['high']:.1f}"
    if math.isnan(row["low"]):
        interval = f"no interval: {row['reason']}"
    return (
        f"{row['difference']:.1f} points ({row['better']} over {row['other']} on {row['category']}, {interval}, "
        f"{row['normal']} normal and {row['anomalous']} anomalous images)"
    )


def auroc_variance(auroc: float, anomalous: int, normal: int) -> float:
    """The variance of an AUROC between 0 and 1 on so many images. Hanley and McNeil 1982, equation 1."""
    two_anomalous, two_normal = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    own = auroc * (1 - auroc)
    own += (anomalous - 1) * (two_anomalous - auroc**2) + (normal - 1) * (two_normal - auroc**2)
    return own / (anomalous * normal)


def difference_std(first: Sequence[float], second: Sequence[float], counts: Sequence, correlation: float) -> float:
    """Standard error of the difference of two methods' mean AUROCs over categories, on the same images.

    first, second: AUROC between 0 and 1 in each category. counts: its (normal, anomalous) test images.
    """
    total = 0.0
    for one, other, (normal, anomalous) in zip(first, second, counts, strict=True):
        a, b = (auroc_variance(value, anomalous, normal) for value in (one, other))
        total += max(0.0, a + b - 2 * correlation * math.sqrt(a * b))
    return math.sqrt(total) / len(counts)


def smallest_difference(
    best: Sequence[float], counts: Sequence, correlation: float = CORRELATION, power: float = POWER
) -> float:
    """How far a second method must lie below the best, to be found by a two-sided test at 5 % with this power.

    best, counts: as `first` and `counts` of `difference_std`. A fraction; NaN where no difference is large enough.
    One test is meant: with a correction for many it is larger. The normal approximation is rough for few images.
    """
    normal = NormalDist()
    reach = normal.inv_cdf(1 - ALPHA / 2) + normal.inv_cdf(power)

    def short(difference: float) -> float:
        below = [max(0.0, value - difference) for value in best]
        return reach * difference_std(best, below, counts, correlation) - difference

    largest = max(best)
    return brentq(short, 1e-9, largest, xtol=1e-7) if short(1e-9) > 0 > short(largest) else math.nan


def printed_leads(correlation: float = CORRELATION, power: float = POWER) -> pd.DataFrame:
    """The best image AUROC of every category and average that a paper prints, its lead over the second, and whether
    such a lead could be found on as many test images as the paper says.

    correlation: above -1 and below 1. power: above 0 and below 1; InputError for others.
    Columns: paper, table, dataset, category, best, second (methods), normal, anomalous (images; of an average those of
    all its categories), best_auroc, second_auroc (percent), lead, low, high (points; 95 % interval), smallest (points:
    `smallest_difference`), found (the lead is no smaller). Numbers of images that no publication tells apart give no
    row: those are of `uncounted`. In an average each category counts with what is printed of it, or with the average.
    """
    if not -1 < correlation < 1:
        raise InputError(f"correlation={correlation!r} of two AUROCs must lie above -1 and below 1, as 0.5 does.")
    if not 0 < power < 1:
        raise InputError(f"power={power!r} is a chance: it must lie above 0 and below 1, as 0.8 does.")
    rows, reach = [], NormalDist().inv_cdf(1 - ALPHA / 2)
    for row, known, pair in _columns():
        if not known:
            continue
        counts = [facts(row["dataset"]).counts[name][1:] for name in known]
        lead = row["best_auroc"] - row["second_auroc"]
        std = 100 * difference_std(*pair, counts, correlation)
        smallest = 100 * smallest_difference(pair[0], counts, correlation, power)
        normal, anomalous = map(sum, zip(*counts, strict=True))
        found = {"normal": normal, "anomalous": anomalous, "lead": lead, "smallest": smallest}
        found |= {"low": lead - reach * std, "high": lead + reach * std, "found": bool(lead >= smallest)}
        rows.append(row | found)
    names = ["paper", "table", "dataset", "category", "best", "second", "normal", "anomalous", "best_auroc"]
    return pd.DataFrame(rows)[[*names, "second_auroc", "lead", "low", "high", "smallest", "found"]]


def uncounted() -> pd.DataFrame:
    """How many printed columns of image AUROC have no published numbers of test images: paper, dataset, columns."""
    missing = [(row["paper"], row["dataset"]) for row, known, _ in _columns() if not known]
    counted = pd.Series(missing, dtype=object).value_counts(sort=False)
    return pd.DataFrame([(*key, number) for key, number in counted.items()], columns=["paper", "dataset", "columns"])


@cache
def _columns() -> list[tuple[dict, list[str], list[list[float]]]]:
    """Every printed column of image AUROC of two or more contenders, those that a paper prints again once: (paper,
    table, dataset, category, best, second and their AUROC in percent; the categories behind it, [] where their test
    images are not published; the AUROC of both, between 0 and 1, in each of these).
    """
    columns, seen = [], set()
    for paper in papers.list_papers():
        printed = papers.published(paper)
        printed = printed[(printed["metric"] == "image_auroc") & (printed["method"] != "")].dropna(subset="value")
        printed = printed.assign(contender=(printed["method"] + " " + printed["setting"]).str.strip())
        for (table, dataset), rows in printed.groupby(["table", "dataset"], sort=False):
            wide = rows.pivot(index="contender", columns="category", values="value")
            for category in rows["category"].unique():
                found = wide[category].dropna().sort_values(ascending=False, kind="stable")
                names, values = found.index[:2].tolist(), found.iloc[:2].tolist()
                if len(names) < 2 or (again := (paper, dataset, category, *names, *values)) in seen:
                    continue
                seen.add(again)
                row = {"paper": paper, "table": table, "dataset": dataset, "category": category}
                row |= dict(zip(("best", "second", "best_auroc", "second_auroc"), names + values, strict=True))
                known = _counted(dataset, category)
                parts = wide.reindex(columns=known).loc[names].T.fillna(found).T / 100
                columns.append((row, known, parts.to_numpy().tolist()))
    return columns


def _counted(dataset: str, category: str) -> list[str]:
    """The categories behind a printed column of which both numbers of test images are published."""
    counts = facts(dataset).counts
    names = list(counts) if category == "average" else [category]
    return names if names and all(name in counts and all(counts[name][1:]) for name in names) else []


def lead_conclusions(leads: pd.DataFrame, power: float = POWER) -> list[str]:
    """What is seen of the papers' tables, a sentence or two per paper. leads: of `printed_leads`."""
    counts = {
        value: printed_leads(value, power).groupby("paper")["found"].sum()
        for value in (CORRELATIONS[0], CORRELATIONS[-1])
    }
    said = []
    for paper, mine in leads.groupby("paper", sort=False):
        least, most = (int(counts[value][paper]) for value in counts)
        finest, coarsest = (mine.loc[index] for index in (mine["smallest"].idxmin(), mine["smallest"].idxmax()))
        said_of = _smallest(finest) + (f"; {_smallest(coarsest)}" if len(mine) > 1 else "")
        said.append(
            f"{paper}: {int(mine['found'].sum())} of {len(mine)} printed leads of the best image AUROC over the second "
            f"are large enough to be found with {power:.0%} power ({least} if the methods' AUROCs were correlated by "
            f"{CORRELATIONS[0]:g}, {most} by {CORRELATIONS[-1]:g}). The smallest that could be found: {said_of}."
        )
    for row in uncounted().itertuples():
        said.append(
            f"{row.paper}: of {row.columns} columns on {row.dataset} nothing can be said: no publication tells how "
            "many normal and anomalous test images stand behind each."
        )
    return said


def _smallest(row: pd.Series) -> str:
    where = f"{row['category']} of {row['dataset']} ({row['normal']} normal and {row['anomalous']} anomalous images)"
    return f"{row['smallest']:.1f} points on {where}, where {row['lead']:.1f} is printed"


def by_correlation(power: float = POWER) -> pd.DataFrame:
    """How many printed leads could be found under each assumed correlation; a row per paper, a column for each."""
    tables = {value: printed_leads(value, power).groupby("paper", sort=False)["found"] for value in CORRELATIONS}
    first = next(iter(tables.values()))
    return pd.DataFrame({"leads": first.size()} | {f"r = {value:g}": found.sum() for value, found in tables.items()})


def show_pairs(table: pd.DataFrame, most: int = 24) -> Figure:
    """Every pair's difference with its interval, green where the two are told apart; a panel per dataset.

    table: of `comparisons`. most: how many pairs a panel shows, those of the largest differences first.
    """
    parts = [(name, part.nlargest(most, "difference")) for name, part in table.groupby("dataset", sort=False)]
    parts = parts or [(NOTHING, table)]
    rows = max(1, *(len(part) for _, part in parts))
    figure, axes = plt.subplots(
        1,
        len(parts),
        figsize=(max(6, 4.6 * len(parts)), 1.4 + 0.3 * rows),
        squeeze=False,
        sharex=True,
        layout="constrained",
    )
    for axis, (dataset, part) in zip(axes.flat, parts, strict=True):
        for height, row in enumerate(part.itertuples()):
            colour = FOUND if row.told else HIDDEN
            axis.plot([row.low, row.high], [height, height], color=colour, linewidth=3, solid_capstyle="butt")
            axis.plot(row.difference, height, "o", color=colour, markersize=7)
        several = part["category"].nunique() > 1
        signs = [">" if difference > 0 else "=" for difference in part["difference"]]
        names = [f"{r.better} {sign} {r.other}" for r, sign in zip(part.itertuples(), signs, strict=True)]
        names = [f"{name}\n{place}" if several else name for name, place in zip(names, part["category"], strict=True)]
        axis.set_yticks(range(len(part)), names, fontsize=8)
        axis.set_ylim(max(1, len(part)) - 0.5, -0.5)
        axis.axvline(0, color="black", linewidth=0.8)
        title = dataset if several or part.empty else f"{dataset}, {part['category'].iloc[0]}"
        axis.set(title=title, xlabel="difference of image AUROC, points")
    marks = [plt.Line2D([], [], color=colour, marker="o", linewidth=3) for colour in (FOUND, HIDDEN)]
    figure.legend(marks, ["told apart", "not told apart"], loc="outside lower center", ncols=2, fontsize=9)
    return finish(figure)


def show_leads(leads: pd.DataFrame, power: float = POWER) -> Figure:
    """What the papers' test sets cannot see: a grey bar of differences too small to be found, and the printed lead.

    leads: of `printed_leads`; a row per column of a table, those of a paper together, the finest test set first.
    """
    rows = leads.sort_values(["paper", "smallest"], kind="stable", ignore_index=True)
    figure, axis = plt.subplots(figsize=(9.5, 1.3 + 0.25 * len(rows)), layout="constrained")
    for height, row in enumerate(rows.itertuples()):
        axis.barh(height, row.smallest, height=0.86, color="#9aa0a6", alpha=0.45, linewidth=0)
        colour = FOUND if row.found else HIDDEN
        axis.plot([row.low, row.high], [height, height], color=colour, linewidth=1.5)
        axis.plot(row.lead, height, "o", color=colour, markersize=7)
    names = [f"{r.paper} {r.table}: {r.dataset} {r.category} ({r.normal}/{r.anomalous})" for r in rows.itertuples()]
    axis.set_yticks(range(len(rows)), names, fontsize=8)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xscale("symlog", linthresh=1)
    lowest = min(0.0, rows["low"].min())
    ticks = [tick for tick in (-20, -10, -5, -2, -1, 0, 0.5, 1, 2, 5, 10, 20, 50) if tick >= lowest]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
    axis.minorticks_off()
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_xlim(1.1 * lowest, 90)
    axis.set_xlabel("printed lead of the best over the second, points of image AUROC")
    marks = [plt.Rectangle((0, 0), 1, 1, color="#9aa0a6", alpha=0.45, linewidth=0)]
    marks += [plt.Line2D([], [], color=colour, marker="o") for colour in (FOUND, HIDDEN)]
    names = [f"too small to be found with {power:.0%} power", "large enough", "too small"]
    figure.legend(marks, names, loc="outside lower center", ncols=3, fontsize=9)
    return finish(figure)
