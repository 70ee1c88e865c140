"""What metrics, places and rows are called in tables."""

import math
from collections.abc import Iterable

from adlib.errors import InputError, did_you_mean
from adlib.metrics import PRO_LABELS
from adlib.models import is_surrogate
from adlib.rounding import rounded_text

# Metrics of a run's record: of its image scores, of all that ranks, of all that are shares and better the higher, all.
IMAGE_METRICS = ("image_auroc", "image_ap", "image_f1max")
RANKING_METRICS = (*IMAGE_METRICS, "pixel_auroc", "pixel_ap", "pixel_f1max", "aupro")
SHARES = (*RANKING_METRICS, *PRO_LABELS, "recall", "precision", "f1")
METRICS = (*SHARES, "mcc", "fpr", "tn", "tp", "fn", "fp")

_METRICS = {"auroc": "AUROC", "ap": "AP", "f1max": "F1-max"}
_SHORT = ("aupro", "pro", "mcc", "fpr", "tn", "tp", "fn", "fp")


def metric_label(metric: str) -> str:
    """ "image AUROC", "PRO", "recall"; a metric that has no other name by its own."""
    level, _, name = metric.partition("_")
    return f"{level} {_METRICS[name]}" if name in _METRICS else metric.upper() if metric in _SHORT else metric


def check_metric(metric: str, known: Iterable[str] = METRICS) -> None:
    """Raises InputError, with what is possible, for a metric that is none of `known`.

    known: METRICS (all that the record of a run can have), or of them SHARES, RANKING_METRICS or IMAGE_METRICS.
    """
    known = list(known)
    if metric not in known:
        near = "" if metric in METRICS else did_you_mean(metric, known)
        raise InputError(f"metric = {metric!r} cannot be taken here; possible are {', '.join(known)}.{near}")


def metric_text(metric: str, value: float | None) -> str:
    """A metric's value as text, a share as a fraction; "undefined" for None and NaN.

    Thresholds lie anywhere that scores do, and have four significant digits, all else four decimals ("<1" for what is
    below 1 and would read as 1).
    """
    if value is None or math.isnan(value):
        return "undefined"
    if isinstance(value, int):
        return str(value)
    return f"{value:.4g}" if "threshold" in metric else rounded_text(value, 1, 4)


def place_label(dataset: str, category: str, several: bool) -> str:
    """A column's category or sub-class ("subclass4" of "cloth/subclass4"); of an average also the dataset, where a
    table has several.
    """
    return f"{dataset}, average" if several and category == "average" else category.rpartition("/")[2]


def row_label(method: str, setting: str = "") -> str:
    """The method, whether it stands in for the published one, and the setting that tells its rows apart."""
    name = f"{method} (surrogate)" if is_surrogate(method) else method
    return f"{name}, {setting}" if setting else name
