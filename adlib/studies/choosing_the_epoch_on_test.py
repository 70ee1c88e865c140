"""What is it worth to choose the epoch by the test images? Four ways to stop the same trainings, on the same images.

last               the longest training that was tried: nobody chooses
validation loss    the epoch whose loss on held-out normal training images is lowest, which the method chose itself; it
                   has learned from fewer images for it
other test images  the epoch that is best on one half of the test images, scored on the other half: labels are used, but
                   never those of the images that are scored
best on test       the epoch that is best on the very images that are scored: hindsight

The trainings are runs of the plan, one for each number of epochs. Of a method whose learning rate has no schedule, one
of few epochs is the beginning of one of more with the same seed.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from adlib.figure_style import finish
from adlib.metrics import image_metrics
from adlib.predictions import Predictions
from adlib.report.labels import IMAGE_METRICS, check_metric, metric_label
from adlib.report.run_details import finished_cells
from adlib.runs.store import Store
from adlib.studies.common import NOTHING
from adlib.studies.differences import change, differences, interval_text, told

NAME = "study/choosing_the_epoch_on_test"
GROUP = ["dataset", "method"]
TRAINING = [*GROUP, "category", "seed"]
LAST, VALIDATION, OTHERS, BEST = "last", "validation loss", "other test images", "best on test"
COLOURS = {VALIDATION: "#4477aa", OTHERS: "#228833", BEST: "#cc3311"}
DEALS = 500  # of the test images to two halves, each of which chooses once


def runs(out: str | Path, study: str = NAME) -> pd.DataFrame:
    """The finished runs of the study, one row each.

    Columns: dataset, method, category, seed, epochs, validated (whether the method chose the epoch by held-out images),
    predictions (their folder).
    """
    store, rows = Store(Path(out) / "runs"), []
    for cell, record in finished_cells(study, out):
        row = {name: cell[name] for name in TRAINING} | {"epochs": record["run"]["settings"]["epochs"]}
        row |= {"validated": cell["table"] == "validation"}
        rows.append(row | {"predictions": store.path(record["key"]) / "predictions"})
    return pd.DataFrame(rows, columns=[*TRAINING, "epochs", "validated", "predictions"])


def curves(table: pd.DataFrame, metric: str = "image_auroc") -> pd.DataFrame:
    """A metric of the image scores after each number of epochs, over all test images of known label.

    table: of `runs`. Columns: dataset, method, category, seed, epochs, value (percent). Raises InputError for a metric
    that is not of IMAGE_METRICS, as `choices` does.
    """
    check_metric(metric, IMAGE_METRICS)
    rows = []
    for row in table[~table["validated"].astype(bool)].itertuples():
        value = 100 * _metric(_scored(row.predictions), metric)
        rows.append({name: getattr(row, name) for name in (*TRAINING, "epochs")} | {"value": value})
    found = pd.DataFrame(rows, columns=[*TRAINING, "epochs", "value"]).dropna(subset="value")
    return found.sort_values([*TRAINING, "epochs"], ignore_index=True)


def choices(table: pd.DataFrame, metric: str = "image_auroc", deals: int = DEALS, seed: int = 0) -> pd.DataFrame:
    """What each way to stop reaches, one row per training (dataset, method, category, seed) and rule.

    table: of `runs`. metric: of image scores. deals, seed: of the test images to two halves, normal and defective ones
    apart. Ties go to the longer training.
    The value of `other test images` is the last one's and what choosing by one half gains on the other on average, both
    ways round, so that all rules stand beside the same last one. It is left out below two images of each kind.
    Left out are trainings that lack a number of epochs that another seed of the category has, whose last is not the
    others' last, and those of one number; and a validated run of other epochs than the last.
    Columns: dataset, method, category, seed, rule, value (percent).
    """
    check_metric(metric, IMAGE_METRICS)
    rows = []
    tried = table[~table["validated"].astype(bool)].groupby([*GROUP, "category"])["epochs"].unique()
    for training, mine in table.groupby(TRAINING, sort=False):
        place = dict(zip(TRAINING, training, strict=True))
        mine = mine.sort_values("epochs", ascending=False)  # the first of equals is the longest
        validated = mine["validated"].astype(bool)
        finished = mine[~validated]
        if len(finished) < 2 or len(finished) < len(tried[training[:-1]]):
            continue
        labels, scores = _together(finished)
        whole = [_metric((labels, each), metric) for each in scores]
        found = {LAST: whole[0], BEST: max(whole)}
        found[OTHERS] = whole[0] + _gain(labels, scores, metric, np.random.default_rng([seed, place["seed"]]), deals)
        held_out = mine[validated & (mine["epochs"] == finished["epochs"].iat[0])]
        if len(held_out):
            found[VALIDATION] = _metric(_scored(held_out.iloc[0]["predictions"]), metric)
        rows += [place | {"rule": rule, "value": 100 * value} for rule, value in found.items()]
    return pd.DataFrame(rows, columns=[*TRAINING, "rule", "value"]).astype({"value": float}).dropna(subset="value")


def _scored(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(labels, scores) of the test images of known label, by the name of their file."""
    found = Predictions.load(folder).known
    order = np.argsort(found.samples["image"].to_numpy(), kind="stable")
    return found.samples["label"].to_numpy()[order], found.scores[order]


def _together(mine: pd.DataFrame) -> tuple[np.ndarray, list[np.ndarray]]:
    """Labels, and the scores after each number of epochs, of the same images in the same order."""
    pairs = [_scored(folder) for folder in mine["predictions"]]
    return (pairs[0][0], [scores for _, scores in pairs]) if pairs else (np.empty(0, int), [])


def _metric(pair: tuple[np.ndarray, np.ndarray], metric: str) -> float:
    return image_metrics(*pair)[metric]


def _gain(labels: np.ndarray, scores: list[np.ndarray], metric: str, rng: np.random.Generator, deals: int) -> float:
    """What the epoch that is best on one half of the images has above the last (the first of `scores`) on the other."""
    if min(np.bincount(labels, minlength=2)) < 2:
        return float("nan")
    gains = []
    for _ in range(deals):
        half = np.empty(len(labels), int)
        for label in (0, 1):
            members = np.flatnonzero(labels == label)
            half[rng.permutation(members)] = (np.arange(len(members)) + rng.integers(2)) % 2
        values = [[_metric((labels[half == side], each[half == side]), metric) for each in scores] for side in (0, 1)]
        gains += [values[1 - side][int(np.argmax(values[side]))] - values[1 - side][0] for side in (0, 1)]
    return float(np.mean(gains))


def worth(found: pd.DataFrame) -> pd.DataFrame:
    """What each rule gains against the last epoch, and what of the best on test is hindsight.

    found: of `choices`. Columns as of `differences`, of rule, with `hindsight` among the rules: the best on test minus
    the choice by other test images.
    """
    gained = differences(found, "rule", LAST)
    hindsight = differences(found, "rule", OTHERS)
    hindsight = hindsight[hindsight["rule"] == BEST].assign(rule="hindsight")
    return pd.concat([gained[gained["rule"] != LAST], hindsight], ignore_index=True)


def conclusions(table: pd.DataFrame, metric: str = "image_auroc") -> list[str]:
    """What is seen, a sentence or two per dataset and method. table: of `worth`."""
    label, said = metric_label(metric), []
    for (dataset, method), mine in table.groupby(GROUP, sort=False):
        rows = {row.rule: row for row in mine.itertuples()}
        parts = [
            f"{name} {change(rows[rule].difference)} ({_interval(rows[rule])})"
            for rule, name in (
                (BEST, "the best epoch on the test images is"),
                (OTHERS, "the best on other test images is"),
                (VALIDATION, "the lowest validation loss is"),
            )
            if rule in rows
        ]
        said.append(f"{method} on {dataset}, {label} against the last epoch: {'; '.join(parts)}.")
        if row := rows.get("hindsight"):
            said.append(
                f"{method} on {dataset}: {row.difference:.1f} points of the best epoch are hindsight, which other "
                f"images do not have ({_interval(row)}{'' if told(row.low, row.high) else '; not told from none'})."
            )
    return said


def _interval(row) -> str:
    return interval_text(row.low, row.high, row.seeds, "seeds")


def show_worth(table: pd.DataFrame, metric: str = "image_auroc") -> Figure:
    """What each rule gains against the last epoch, a row per dataset and method. table: of `worth`.

    Whiskers are its intervals. The hatched stretch, from the choice by other images to the best on test, is hindsight.
    """
    groups = list(table.groupby(GROUP, sort=False))
    names = [f"{method}\n{dataset}" for (dataset, method), _ in groups] or [NOTHING]
    figure, axis = plt.subplots(figsize=(8.5, 1.5 + 0.95 * len(names)), layout="constrained")
    axis.axvline(0, color="black", linewidth=1)
    for number, (_, mine) in enumerate(groups):
        rows = {row.rule: row for row in mine.itertuples()}
        if OTHERS in rows and BEST in rows:
            start, end = rows[OTHERS].difference, rows[BEST].difference
            style = {"facecolor": "none", "edgecolor": COLOURS[BEST], "hatch": "////", "linewidth": 0}
            axis.barh(number, end - start, 0.62, left=start, **style)
        for place, rule in enumerate(COLOURS):
            if row := rows.get(rule):
                height = number + 0.22 * (place - 1)
                reach = [[row.difference - row.low], [row.high - row.difference]]
                axis.errorbar(row.difference, height, xerr=reach, color=COLOURS[rule], marker="o", capsize=3)
    axis.set_yticks(range(len(names)), names, fontsize=9)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xlabel(f"{metric_label(metric)} against the last epoch, points")
    marks = [plt.Line2D([], [], color=colour, marker="o") for colour in COLOURS.values()]
    marks.append(plt.Rectangle((0, 0), 1, 1, facecolor="none", edgecolor=COLOURS[BEST], hatch="////", linewidth=0))
    figure.legend(marks, [*COLOURS, "hindsight"], loc="outside lower center", ncols=4, fontsize=9, framealpha=0)
    return finish(figure)


def show_curves(found: pd.DataFrame, metric: str = "image_auroc") -> Figure:
    """The metric after each number of epochs, a line per seed and category, a panel per dataset and method.

    found: of `curves`. A ring marks the best of each line, which hindsight would print, a square the last.
    """
    groups = [(f"{method} on {dataset}", mine) for (dataset, method), mine in found.groupby(GROUP, sort=False)]
    groups = groups or [(NOTHING, found)]
    width = max(5, 3.4 * len(groups))
    figure, axes = plt.subplots(1, len(groups), figsize=(width, 3.4), squeeze=False, sharey=True, layout="constrained")
    for axis, (name, mine) in zip(axes.flat, groups, strict=True):
        for _, line in mine.groupby(["category", "seed"]):
            (drawn,) = axis.plot(line["epochs"], line["value"], marker=".", linewidth=1)
            best, last = line.loc[line["value"][::-1].idxmax()], line.iloc[-1]
            ring = {"markersize": 12, "fillstyle": "none", "markeredgewidth": 2, "color": drawn.get_color()}
            axis.plot(best["epochs"], best["value"], "o", **ring)
            axis.plot(last["epochs"], last["value"], "s", color=drawn.get_color())
        axis.set_xscale("log")
        ticks = sorted(mine["epochs"].unique())
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.set(title=name, xlabel="epochs")
    axes[0, 0].set_ylabel(f"{metric_label(metric)}, percent")
    return finish(figure)
