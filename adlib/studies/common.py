"""What the studies share: their finished runs, the banner above their numbers, intervals, conclusions as a list."""

import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pandas as pd
from IPython.display import HTML
from scipy.stats import t as student

from adlib.predictions import Predictions
from adlib.report.banner import banner
from adlib.report.facts import warnings_of
from adlib.report.labels import check_metric as check_metric
from adlib.report.labels import metric_label
from adlib.report.provenance import profile_sentence
from adlib.report.run_details import ALL, finished_cells
from adlib.report.tables import profile_of, read_plan
from adlib.report.trivial_rows import trivial_part
from adlib.runs.changed_files import change_warning
from adlib.runs.one_place import in_one_place
from adlib.runs.store import Store

LEVEL = 0.95  # of every interval
NOTHING = "nothing to show"  # in a figure: no run is done, or none that has what is asked for


def study_banner(study: str, out: str | Path) -> HTML:
    """The banner above a study's numbers, of its finished runs, whether they are all that were planned, and whether
    their files have changed since; without any run, how to do them.
    """
    store = Store(Path(out) / "runs")
    folders = [store.path(record["key"]) / "predictions" for _, record in finished_cells(study, out)]
    if not folders:
        return HTML(f"<p>No run of this study is done: <code>adlib reproduce {escape(study)}</code> does them.</p>")
    profile = profile_sentence([profile_of(study, out)])
    return banner([_unfinished(study, out, len(folders)), *warnings_of(study, out), change_warning(folders), profile])


def _unfinished(study: str, out: str | Path, done: int) -> str:
    """A warning of a batch of which runs are failed or to do, "" of a whole one: what is seen of its first half (the
    last epoch, the largest share, a mean over the data sets) may be another thing than of all.
    """
    planned = len({cell["key"] for cell in (read_plan(study, out) or {"cells": []})["cells"]} - {""})
    rest = "Failed, or still to do, are the others: all here is of those that are done, whichever they are."
    return f"Unfinished batch: {done} of {planned} runs are done. {rest}" if done < planned else ""


def first_predictions(study: str, out: str | Path) -> Iterator[tuple[str, str, str, Predictions]]:
    """(dataset, category, method, predictions of known labels) of a study's finished runs, each method's first seed.

    A run on all categories together gives one of each. Maps are read when they are first looked at.
    """
    store, seen = Store(Path(out) / "runs"), set()
    pairs = sorted(finished_cells(study, out), key=lambda pair: pair[0]["seed"])
    loaded = in_one_place(Predictions.load(store.path(record["key"]) / "predictions") for _, record in pairs)
    for (cell, _), found in zip(pairs, (each.known for each in loaded), strict=True):
        for category in found.samples["category"].unique():
            key = cell["dataset"], category, cell["method"]
            if key not in seen:
                seen.add(key)
                yield *key, found.select((found.samples["category"] == category).to_numpy())


def best_trivial(study: str, out: str | Path, metric: str, places: pd.DataFrame | None = None) -> pd.DataFrame:
    """The best trivial baseline (adlib.baselines) of each dataset of a study, from its records: no detector, and chosen
    by the very images that it is scored on.

    places: a table whose dataset and category (or ALL) say over which categories, all that are done if None.
    Each is scored on the images of the first finished run of each category. Columns: dataset, baseline, value (percent,
    the mean over the categories). A baseline that lacks the metric in one of the categories is no candidate, and
    datasets without any are left out.
    """
    rows, seen = [], set()
    wanted = None if places is None else set(zip(places["dataset"], places["category"], strict=True))
    for cell, record in finished_cells(study, out, by_category=True):
        place = cell["dataset"], cell["category"]
        if place not in seen and (wanted is None or wanted & {place, (cell["dataset"], ALL)}):
            seen.add(place)
            for name, metrics in trivial_part(record, cell["category"]).items():
                row = {"dataset": cell["dataset"], "baseline": name, "value": metrics.get(metric, math.nan)}
                rows.append(row | {"value": 100 * row["value"]})
    each = pd.DataFrame(rows, columns=["dataset", "baseline", "value"]).astype({"value": float}).dropna()
    means = each.groupby(["dataset", "baseline"], sort=False, as_index=False)["value"].agg(["mean", "size"])
    categories = means["dataset"].map(pd.Series([dataset for dataset, _ in seen], dtype=object).value_counts())
    means = means[means["size"] == categories].rename(columns={"mean": "value"})[["dataset", "baseline", "value"]]
    return means.loc[means.groupby("dataset", sort=False)["value"].idxmax()].reset_index(drop=True)


def mean_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float, float]:
    """Mean of independent values and Student's interval around it: (mean, low, high).

    The ends are NaN for fewer than two values; both are the mean where all values are equal, but for their rounding.
    """
    values = np.asarray(values, np.float64)
    mean = float(values.mean()) if len(values) else math.nan
    if len(values) < 2:
        return mean, math.nan, math.nan
    if np.ptp(values) < 1e-9:  # of points; a sum of floats may miss another by as much
        return mean, mean, mean
    reach = float(student.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return mean, mean - reach, mean + reach


def share_interval(share: float, images: int, level: float = LEVEL) -> tuple[float, float]:
    """Wilson's interval of a share of `images` images; (NaN, NaN) for none.

    As adlib.metrics.wilson_interval, of a mean of values between 0 and 1 that are no counts: wide enough for these too,
    since none of them vary more than counts do.
    """
    if not images:
        return math.nan, math.nan
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (share + z**2 / (2 * images)) / (1 + z**2 / images)
    reach = z * math.sqrt(share * (1 - share) / images + z**2 / (4 * images**2)) / (1 + z**2 / images)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def item_names(samples: pd.DataFrame) -> pd.Series:
    """What each image shows: its item where the samples name one, else the image itself; equal for images of one item.

    samples: with the columns image and category, and item where there are some. Intervals are drawn over these names.
    """
    if "item" not in samples:
        return samples["image"]
    return samples["image"].where(samples["item"] == "", samples["category"] + "/" + samples["item"])


def share_label(metric: str) -> str:
    """`metric_label`; of a share of decisions also the threshold that records have it at."""
    return metric_label(metric) + (" at best F1 (an oracle)" if metric in ("recall", "precision", "f1") else "")


def sentences(found: Iterable[str]) -> HTML:
    """Conclusions as a list on the page."""
    lines = "".join(f"<li>{escape(sentence)}</li>" for sentence in found)
    return HTML(
        f"<ul>{lines}</ul>" if lines else "<p>Nothing can be concluded: no run is done, or none that allows it.</p>"
    )
