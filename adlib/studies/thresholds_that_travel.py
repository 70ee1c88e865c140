"""Does a threshold hold where it was not chosen? False alarms and recall of one detector's scores at four thresholds.

A place is a category, or where a dataset tells sub-classes apart (the lights of Texture-AD) one of them. Of each place
the images are decided at a threshold from

oracle             best F1 on these very images, as ISP-AD and MIIC decide: hindsight
own normals        other normal test images of the place: they are dealt to five parts, and each part, with its share of
                   the defects, is decided by the normal images of the others
another light      the normal test images of each other place of the category, by the same detector
another category   the normal test images of each other category, by the same method

All but the oracle's are the lowest that keep a rate of false alarms on average (adlib.screening.choose_threshold).
Where items are photographed several times, all images of one lie in one part, and the rate is of items: an item counts
by its highest image, and is a false alarm if one of its images is called.
"""

import math
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from adlib.figure_style import INK, finish
from adlib.metrics import threshold_best_f1
from adlib.predictions import Predictions
from adlib.report.run_details import finished_cells
from adlib.report.threshold_transfer import kinds_of_items
from adlib.rounding import rounded_text
from adlib.runs.store import Store
from adlib.screening import HeldOut, choose_threshold
from adlib.studies.common import NOTHING, item_names, share_interval

NAME = "study/thresholds_that_travel"
RULES = ("oracle", "own normals", "another light", "another category")
COLOURS = dict(zip(RULES, ("#bbbbbb", "#228833", "#ccbb44", "#cc3311"), strict=True))
PLACE = ["dataset", "method", "seed", "category", "place"]
PARTS = 5


def scores(out: str | Path, study: str = NAME) -> pd.DataFrame:
    """The score of every test image of known label, of every finished run of the study.

    Columns: dataset, method, seed, category, place ("" where a category has one), image, item (what it shows; the image
    itself where no item is named), label, score.
    """
    store, tables = Store(Path(out) / "runs"), []
    for cell, record in finished_cells(study, out):
        found = Predictions.load(store.path(record["key"]) / "predictions").known
        table = found.samples[["category", "image", "label"]].assign(score=found.scores.astype(float), place="")
        table["item"] = item_names(found.samples)
        groups = found.samples["group"]
        several = groups.groupby(found.samples["category"]).transform("nunique") > 1
        table["place"] = groups.where(several, "")
        tables.append(table.assign(**{name: cell[name] for name in ("dataset", "method", "seed")}))
    columns = [*PLACE, "image", "item", "label", "score"]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def decisions(table: pd.DataFrame, rate: float = 0.1, seed: int = 0) -> pd.DataFrame:
    """How often each image is called anomalous, by each rule that its place allows; one row per image and rule.

    table: of `scores`; without the column item every image is one by itself. rate: of false alarms that is asked
    for. seed: of the dealing to parts.
    Columns: those of `scores` but the score, rule, promised (the rate that so many normal images can keep: `rate`, or
    more where they are few), kept (what they keep of it on average: a threshold moves by one in n + 1), called (0 or 1,
    or the share of several foreign thresholds by which it is called). Places that lack normal or anomalous images are
    left out, and so are thresholds from fewer than two normal images (items).
    """
    found = []
    table = table if "item" in table else table.assign(item=table["image"])
    for (dataset, method, number), mine in table.groupby(["dataset", "method", "seed"], sort=False):
        places = {key: rows for key, rows in mine.groupby(["category", "place"], sort=False)}
        normal = {key: _highest(rows[rows["label"] == 0]) for key, rows in places.items()}
        for key, rows in places.items():
            if rows["label"].nunique() < 2:
                continue
            about = {"dataset": dataset, "method": method, "seed": number, "category": key[0], "place": key[1]}
            for rule, promised, kept, called in _ruled(key, rows, normal, rate, seed):
                part = pd.DataFrame(
                    {name: rows[name].to_numpy() for name in ("image", "item", "label")} | {"called": called}
                )
                found.append(part.assign(rule=rule, promised=promised, kept=kept, **about))
    columns = [*PLACE, "image", "item", "label", "rule", "promised", "kept", "called"]
    return pd.concat(found, ignore_index=True)[columns] if found else pd.DataFrame(columns=columns)


def _ruled(
    key: tuple[str, str], rows: pd.DataFrame, normal: dict, rate: float, seed: int
) -> Iterator[tuple[str, float, float, np.ndarray]]:
    """(rule, promised rate, what of it is kept, called float [N]) for the images of one place.

    normal: of each place the highest normal score of each item.
    """
    values, labels = rows["score"].to_numpy(), rows["label"].to_numpy()
    yield "oracle", math.nan, math.nan, (values >= threshold_best_f1(labels, values)).astype(float)
    if len(normal[key]) > 2:
        things = pd.factorize(rows["item"])[0]
        kinds = kinds_of_items(labels, things)
        part_of_item = np.empty(len(kinds), int)
        for kind in (0, 1):  # each kind dealt out evenly
            members = np.flatnonzero(kinds == kind)
            part_of_item[np.random.default_rng(seed).permutation(members)] = np.arange(len(members)) % PARTS
        part, called, sizes = part_of_item[things], np.zeros(len(rows)), []
        for number in np.unique(part):
            others = _highest(rows[(labels == 0) & (part != number)])
            called[part == number] = values[part == number] >= _threshold(others, rate)
            sizes.append(len(others))
        yield "own normals", _promised(rate, min(sizes)), float(np.mean([_kept_of(rate, n) for n in sizes])), called
    lights = [other for other in normal if other != key and other[0] == key[0]]
    foreign = [other for other in normal if other[0] != key[0]]
    for rule, sources in (("another light", lights), ("another category", foreign)):
        chosen = [normal[source] for source in sources if len(normal[source]) > 1]
        if chosen:
            called = np.mean([values >= _threshold(source, rate) for source in chosen], axis=0)
            promised, kept = (np.mean([of(rate, len(source)) for source in chosen]) for of in (_promised, _kept_of))
            yield rule, float(promised), float(kept), called


def _highest(rows: pd.DataFrame) -> np.ndarray:
    """float [number of items]: the highest score of each item."""
    return rows.groupby("item", sort=False)["score"].max().to_numpy()


def _threshold(normal: np.ndarray, rate: float) -> float:
    return choose_threshold(HeldOut(normal, None, None, "normal test images"), rate).score


def _promised(rate: float, images: int) -> float:
    return max(rate, 1 / (images + 1))


def _kept_of(rate: float, images: int) -> float:
    """The rate that `choose_threshold` keeps on average: the largest of 1 / (n + 1), 2 / (n + 1) ... up to `rate`."""
    return max(1, math.floor(rate * (images + 1) + 1e-9)) / (images + 1)


def points(decided: pd.DataFrame) -> pd.DataFrame:
    """The images that some rule calls otherwise than the oracle does, as samples to open
    (adlib.inspector.sample_points); those that most rules do first.

    decided: of `decisions`. Of several foreign thresholds the half decides. Columns: label, dataset, category, image,
    method, seed.
    """
    key, rows = [*PLACE, "image", "label"], []
    wide = decided.assign(called=decided["called"] >= 0.5).pivot(index=key, columns="rule", values="called")
    for place, called in wide.iterrows():
        about = dict(zip(key, place, strict=True))
        others = [rule for rule in RULES[1:] if called.get(rule) in (True, False) and called[rule] != called["oracle"]]
        if others:
            kind = "defect" if about["label"] else "normal"
            where = "/".join(filter(None, (about["dataset"], about["category"], about["place"])))
            said = f"{'passed' if called['oracle'] else 'called'} by {', '.join(others)}, not by the oracle"
            label = f"{about['method']} on {where} {Path(about['image']).stem}, {kind}: {said}"
            rows.append(about | {"label": label, "rules": len(others)})
    found = pd.DataFrame(rows, columns=[*key, "rules"]).sort_values("rules", ascending=False, kind="stable")
    return found[["label", "dataset", "category", "image", "method", "seed"]]


def travel(decided: pd.DataFrame) -> pd.DataFrame:
    """False alarms, recall and F1 by rule, over all places of a dataset and seeds together.

    decided: of `decisions`. Intervals are Wilson's at 95 % over the images of one seed, for these thresholds; where
    several thresholds call a share of an image, or several seeds are averaged, they are rather too wide. Where items
    are photographed several times, they are over as many items; false alarms are of items, as promised (an item is
    called as its most called image is), and recall is of images. What is promised is averaged over the normal items
    that false alarms are of: a place with few of them says little, however many defects it has. So is what is kept.
    Columns: dataset, method, rule, promised, kept, normal, anomalous (images, or items), fpr, fpr_low, fpr_high,
    recall, recall_low, recall_high, f1 (of images; all shares).
    """
    decided = decided if "item" in decided else decided.assign(item=decided["image"])
    rows = []
    for (dataset, method), mine in decided.groupby(["dataset", "method"], sort=False):
        for rule in RULES:
            part = mine[mine["rule"] == rule]
            if part.empty:
                continue
            normal, anomalous = (part[part["label"] == label] for label in (0, 1))
            of_items = normal.groupby([*PLACE, "item"], sort=False)
            alarms, promised, kept = of_items["called"].max(), *of_items[["promised", "kept"]].max().mean()
            row = {"dataset": dataset, "method": method, "rule": rule, "promised": promised, "kept": kept}
            for name, rows_of, called in (("fpr", normal, alarms), ("recall", anomalous, anomalous["called"])):
                number = len(rows_of.drop_duplicates(["category", "item"]))
                row["normal" if name == "fpr" else "anomalous"] = number
                low, high = share_interval(called.mean(), number)
                row |= {name: called.mean(), f"{name}_low": low, f"{name}_high": high}
            normal, anomalous = normal["called"], anomalous["called"]
            rows.append(row | {"f1": 2 * anomalous.sum() / (anomalous.sum() + len(anomalous) + normal.sum())})
    columns = ["dataset", "method", "rule", "promised", "kept", "normal", "anomalous", "fpr", "fpr_low", "fpr_high"]
    return pd.DataFrame(rows, columns=[*columns, "recall", "recall_low", "recall_high", "f1"])


def conclusions(table: pd.DataFrame) -> list[str]:
    """What is seen, a sentence or two per dataset, method and rule. table: of `travel`."""
    said = []
    for (dataset, method), mine in table.groupby(["dataset", "method"], sort=False):
        rows = {row.rule: row for row in mine.itertuples()}
        for rule in RULES[1:]:
            if row := rows.get(rule):
                said.append(f"{method} on {dataset}, {rule}: {_kept(row)}")
        if "own normals" in rows:
            peeked, honest = 100 * rows["oracle"].f1, 100 * rows["own normals"].f1
            best, kept = (rounded_text(value, decimals=1) for value in (peeked, honest))
            said.append(
                f"{method} on {dataset}: of the oracle's F1 of {best}, the threshold from normal images keeps "
                f"{kept}; {peeked - honest:.1f} points needed the labels of the test images."
            )
    return said


def _kept(row) -> str:
    """Whether a promised rate of false alarms is kept, in a sentence."""
    came = f"{row.fpr:.1%} came (95 % interval {row.fpr_low:.1%} to {row.fpr_high:.1%})"
    verdict = (
        "more than the chance of these images explains"
        if row.fpr_low > row.promised
        else "fewer than the chance of these images explains, and defects are missed for it"
        if row.fpr_high < min(row.promised, row.kept)
        else f"as so few normal images keep {row.kept:.1%} on average: a threshold moves by whole images"
        if row.fpr_high < row.promised
        else "which does not contradict it"
    )
    recall, low, high = (
        f"{rounded_text(100 * value, decimals=1)}%" for value in (row.recall, row.recall_low, row.recall_high)
    )
    recall = f"{recall} of the defects are found ({low} to {high})"
    return f"{row.promised:.1%} of false alarms promised, {came}, {verdict}; {recall}."


def show_travel(table: pd.DataFrame) -> Figure:
    """Promised and real false alarms, and recall, a row per dataset and method, a colour per rule.

    table: of `travel`. Bars are its intervals; the tick is the rate that was promised.
    """
    groups = list(table.groupby(["dataset", "method"], sort=False))
    names = [f"{method}\n{dataset}" for (dataset, method), _ in groups] or [NOTHING]
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 1.3 + 0.95 * len(names)), sharey=True, layout="constrained")
    for number, (_, mine) in enumerate(groups):
        for row in mine.itertuples():
            height = number + 0.2 * (RULES.index(row.rule) - 1.5)
            for axis, name in zip(axes, ("fpr", "recall"), strict=True):
                low, high = getattr(row, f"{name}_low"), getattr(row, f"{name}_high")
                axis.plot([low, high], [height, height], color=COLOURS[row.rule], linewidth=3, solid_capstyle="butt")
                axis.plot(getattr(row, name), height, "o", color=COLOURS[row.rule], markeredgecolor="black")
            if not math.isnan(row.promised):
                axes[0].plot([row.promised] * 2, [height - 0.09, height + 0.09], color="black", linewidth=2)
    axes[0].set_yticks(range(len(names)), names, fontsize=9)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    axes[0].set_title("False alarms: share of normal images called", fontsize=10)
    axes[1].set_title("Recall: share of defective images called", fontsize=10)
    for axis in axes:
        axis.set_xlim(-0.03, 1.03)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axis.grid(axis="x", color=INK, alpha=0.3)
        axis.set_axisbelow(True)
    present = [rule for rule in RULES if rule in set(table["rule"])]
    marks = [plt.Line2D([], [], color=COLOURS[rule], marker="o", markeredgecolor="black") for rule in present]
    marks.append(plt.Line2D([], [], color=INK, marker="|", linestyle="", markersize=11, markeredgewidth=2))
    figure.legend(marks, [*present, "promised"], loc="outside lower center", ncols=5, fontsize=9, framealpha=0)
    return finish(figure)
