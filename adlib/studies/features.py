"""Which features does a detector need? The same methods on other frozen features, on the same test images.

Within a dataset the features of one method are compared by a paired bootstrap over the test images of each category:
its interval says what other test images would change. Across datasets each domain counts once, as the mean over its
categories, and the interval is Student's over the domains: it says what another domain would change.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from adlib.errors import InputError, did_you_mean
from adlib.features.backbones import find_weights
from adlib.figure_style import INK, finish
from adlib.metrics import compare_images, image_metrics
from adlib.papers import protocol
from adlib.predictions import Predictions
from adlib.report.labels import IMAGE_METRICS, check_metric, metric_label
from adlib.report.run_details import finished_cells
from adlib.report.tables import read_plan
from adlib.runs.one_place import in_one_place
from adlib.runs.store import Store
from adlib.samples import items
from adlib.studies.common import NOTHING, mean_interval
from adlib.studies.differences import change, interval_text, told

NAME = "study/features"
PLACE = ["method", "dataset", "category", "seed"]


def runs(out: str | Path, study: str = NAME) -> pd.DataFrame:
    """The study's finished runs. Columns: method, dataset, category, seed, features, predictions (their folder)."""
    store = Store(Path(out) / "runs")
    rows = [
        {name: cell[name] for name in PLACE}
        | {"features": cell["setting"], "predictions": store.path(record["key"]) / "predictions"}
        for cell, record in finished_cells(study, out)
    ]
    return pd.DataFrame(rows, columns=[*PLACE, "features", "predictions"])


def comparisons(
    table: pd.DataFrame, reference: str = "bundled", metric: str = "image_auroc", replicates: int = 1000
) -> pd.DataFrame:
    """What features change against the reference, one row per method, dataset, category, seed and features.

    table: of `runs`. metric: of image scores. replicates: of the paired bootstrap.
    Columns: method, dataset, category, seed, features, value, difference, low, high (percent and points; the interval
    is the bootstrap's over the test images, NaN where no draw of them moves the difference), images (that both tested).
    Places without the reference, and such in which the metric is undefined, are left out. Raises InputError for a
    metric that is not of image scores, and for a reference that is neither planned nor in the table.
    """
    check_metric(metric, IMAGE_METRICS)
    known = list(dict.fromkeys([*_planned(NAME), *table["features"]]))
    if reference not in known:
        near = did_you_mean(reference, known)
        raise InputError(f"reference = {reference!r} is none of the features; these are {', '.join(known)}.{near}")
    rows = []
    for place, mine in table.groupby(PLACE, sort=False):
        loaded = in_one_place(map(Predictions.load, mine["predictions"]))
        found = {features: each.known for features, each in zip(mine["features"], loaded, strict=True)}
        if reference not in found:
            continue
        base, here = found.pop(reference), dict(zip(PLACE, place, strict=True))
        for features, other in found.items():
            places = pd.Index(other.samples["image"]).get_indexer(base.samples["image"])
            one, other = base.select(places >= 0), other.select(places[places >= 0])
            labels = one.samples["label"].to_numpy()
            if len(np.unique(labels)) < 2:
                continue
            compared = compare_images(labels, other.scores, one.scores, replicates, items=items(one.samples))[metric]
            if compared["low"] == compared["high"]:  # which says nothing of other images
                compared = compared | {"low": np.nan, "high": np.nan}
            row = here | {"features": features, "value": 100 * compared["first"], "images": len(labels)}
            rows.append(row | {name: 100 * compared[name] for name in ("difference", "low", "high")})
        value = image_metrics(base.samples["label"].to_numpy(), base.scores)[metric]
        if found and not np.isnan(value):
            row = here | {"features": reference, "value": 100 * value, "images": len(base)}
            rows.append(row | {"difference": 0.0, "low": 0.0, "high": 0.0})
    return pd.DataFrame(rows, columns=[*PLACE, "features", "value", "difference", "low", "high", "images"])


def across(compared: pd.DataFrame) -> pd.DataFrame:
    """What features change across the domains, one row per method and features.

    compared: of `comparisons`. Each dataset counts once, as the mean over its categories and seeds; the interval is
    Student's over the datasets. Columns: method, features, value, difference, low, high, datasets, better (in how many
    of them the difference is above 0).
    """
    rows = []
    for (method, features), mine in compared.groupby(["method", "features"], sort=False):
        domains = mine.groupby("dataset")[["value", "difference"]].mean()
        difference, low, high = mean_interval(domains["difference"])
        row = {"method": method, "features": features, "value": domains["value"].mean(), "difference": difference}
        better = int((domains["difference"] > 0).sum())
        rows.append(row | {"low": low, "high": high, "datasets": len(domains), "better": better})
    return pd.DataFrame(
        rows, columns=["method", "features", "value", "difference", "low", "high", "datasets", "better"]
    )


def features_there(out: str | Path, study: str = NAME) -> pd.DataFrame:
    """All features that the study names, with what is done of them, or why nothing is.

    Columns: features, backbone, weights, runs (finished), missing ("" where there are some).
    """
    planned = {cell["setting"] for cell in (read_plan(study, out) or {"cells": []})["cells"]}
    done = runs(out, study)["features"].value_counts()
    rows = []
    for features, row in _planned(study).items():
        there = row["weights"] == "random" or find_weights(row["backbone"], row["weights"]) is not None
        why = [] if features in planned else ["not in this profile"]
        why += [] if there else ["no weights here"]
        about = {"features": features, "backbone": row["backbone"], "weights": row["weights"]}
        count = int(done.get(features, 0))
        rows.append(about | {"runs": count, "missing": "" if count else ", ".join(why) or "not done"})
    return pd.DataFrame(rows)


def _planned(study: str) -> dict[str, dict]:
    """The features that a study's tables name, with their settings."""
    return {name: row for table in protocol(study)["tables"].values() for name, row in table["settings"].items()}


def conclusions(
    table: pd.DataFrame, there: pd.DataFrame, reference: str = "bundled", metric: str = "image_auroc"
) -> list[str]:
    """What is seen, a sentence per method and features, and one on what is missing. table: of `across`; there: of
    `features_there`.
    """
    said = []
    for row in table[table["features"] != reference].itertuples():
        than = "as" if abs(row.difference) < 0.05 else "than"
        said.append(
            f"{row.method} on features {row.features}: {metric_label(metric)} is {change(row.difference)} {than} on "
            f"{reference}, higher in {row.better} of {row.datasets} data sets "
            f"({interval_text(row.low, row.high, row.datasets, 'data sets')}"
            f"{'' if told(row.low, row.high) or pd.isna(row.low) else '; not told from none'})."
        )
    missing = there[there["runs"] == 0]
    if said and len(missing):
        named = "; ".join(f"{row.features} ({row.missing})" for row in missing.itertuples())
        said.append(f"Nothing is said of {named}.")
    return said


def show_features(
    compared: pd.DataFrame, there: pd.DataFrame, reference: str = "bundled", metric: str = "image_auroc"
) -> Figure:
    """What features change against the reference: a panel per method, a column per features, a point per data set.

    compared: of `comparisons`; there: of `features_there`. The wide mark is the mean over the data sets with its
    interval; a dash stands for features of which no run is done.
    """
    methods = list(compared["method"].unique()) or [NOTHING]
    means = across(compared)
    names = [name for name in there["features"] if name != reference]
    datasets = sorted(compared["dataset"].unique())
    width = max(6, 1.4 + 0.75 * len(names)) if len(methods) == 1 else (1.2 + 0.62 * len(names)) * len(methods)
    figure, axes = plt.subplots(1, len(methods), figsize=(width, 4.2), squeeze=False, sharey=True, layout="constrained")
    for axis, method in zip(axes.flat, methods, strict=True):
        axis.axhline(0, color="black", linewidth=1)
        mine, mean = compared[compared["method"] == method], means[means["method"] == method]
        for place, name in enumerate(names):
            for number, dataset in enumerate(datasets):
                found = mine[(mine["features"] == name) & (mine["dataset"] == dataset)]["difference"]
                if len(found):
                    shift = 0.1 * (number - (len(datasets) - 1) / 2)
                    axis.plot(place + shift, found.mean(), "o", color=f"C{number}", markersize=6)
            row = mean[mean["features"] == name]
            if row.empty:
                axis.text(place, 0, "–", ha="center", va="bottom", fontsize=14)
            else:
                row = row.iloc[0]
                reach = [[row["difference"] - row["low"]], [row["high"] - row["difference"]]]
                axis.errorbar(place + 0.36, row["difference"], reach, color=INK, marker="D", capsize=4)
        axis.set_xticks(range(len(names)), names, rotation=40, ha="right")
        axis.set(title=method, xlim=(-0.6, len(names) - 0.3))
    axes[0, 0].set_ylabel(f"{metric_label(metric)} against {reference}, points")
    marks = [plt.Line2D([], [], color=f"C{number}", marker="o", linestyle="") for number in range(len(datasets))]
    marks.append(plt.Line2D([], [], color=INK, marker="D"))
    figure.legend(
        marks, [*datasets, "mean, 95 % interval"], loc="outside lower center", ncols=4, fontsize=9, framealpha=0
    )
    return finish(figure)
