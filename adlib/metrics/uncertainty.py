"""Uncertainty without resampling: DeLong's variance of image AUROC, and mean and deviation over seeds.

E. R. DeLong, D. M. DeLong, D. L. Clarke-Pearson, "Comparing the areas under two or more correlated receiver
operating characteristic curves: a nonparametric approach", Biometrics 44, 1988.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from adlib.errors import InputError
from adlib.metrics.inputs import labels_and_scores


def delong(labels, scores, level: float = 0.95) -> dict:
    """Image AUROC with DeLong's standard error and a confidence interval.

    The interval is formed on the logit of the AUROC and mapped back, so that it stays inside [0, 1].
    Returns image_auroc, std, low, high; what is undefined is NaN, with "reasons".
    """
    if not 0 < level < 1:
        raise InputError(f"level must lie in (0, 1), got {level}")
    anomalous, scores = labels_and_scores(labels, scores)
    parts = _placements(anomalous, scores)
    keys = ("image_auroc", "std", "low", "high")
    reason = _too_few(anomalous)
    if parts is None:
        return _nan(keys, reason)
    value = float(parts[0].mean())
    if reason:
        return {"image_auroc": value, **_nan(keys[1:], reason)}
    std = math.sqrt(_covariance(parts, parts))
    if std == 0:
        why = f"every image is ranked alike, DeLong's variance is 0 at AUROC {value:g} and gives no interval"
        return {"image_auroc": value, "std": 0.0, **_nan(("low", "high"), why)}
    reach = NormalDist().inv_cdf((1 + level) / 2) * std / (value * (1 - value))
    logit = math.log(value / (1 - value))
    low, high = (1 / (1 + math.exp(-(logit + sign * reach))) for sign in (-1, 1))
    return {"image_auroc": value, "std": std, "low": low, "high": high}


def delong_compare(labels, first, second) -> dict:
    """DeLong's paired test: do two detectors differ in image AUROC on the same images?

    Returns first, second (AUROC), difference, std (of the difference) and the two-sided p_value.
    """
    anomalous, first = labels_and_scores(labels, first)
    _, second = labels_and_scores(labels, second)
    keys = ("first", "second", "difference", "std", "p_value")
    one, other = _placements(anomalous, first), _placements(anomalous, second)
    reason = _too_few(anomalous)
    if one is None or other is None:
        return _nan(keys, reason)
    values = {"first": float(one[0].mean()), "second": float(other[0].mean())}
    values["difference"] = values["first"] - values["second"]
    if reason:
        return {**values, **_nan(("std", "p_value"), reason)}
    variance = _covariance(one, one) + _covariance(other, other) - 2 * _covariance(one, other)
    std = math.sqrt(max(variance, 0.0))
    if std < 1e-12:  # identical up to rounding
        if abs(values["difference"]) < 1e-12:
            return {**values, "std": 0.0, "p_value": 1.0}
        why = "every image differs alike between the two, so DeLong's variance is 0 and gives no p-value"
        return {**values, "std": 0.0, **_nan(("p_value",), why)}
    z = abs(values["difference"]) / std
    return {**values, "std": std, "p_value": math.erfc(z / math.sqrt(2))}


def over_seeds(runs: Sequence[dict]) -> dict:
    """Mean and sample standard deviation (n - 1) of each metric over runs with different seeds.

    runs: one dict of metrics per seed, all with the same keys ("reasons" aside).
    Returns {metric: {"mean", "std", "n"}}; a metric that is NaN in one run is NaN here, never left out, and
    the deviation of a single run is NaN; "reasons" says so.
    """
    if not runs:
        raise InputError("over_seeds needs the metrics of at least one run")
    keys = [key for key in runs[0] if key != "reasons"]
    result, reasons = {}, {}
    for number, run in enumerate(runs):
        if set(run) - {"reasons"} != set(keys):
            raise InputError(f"run {number} has other metrics than run 0: {sorted(set(run) ^ set(runs[0]))}")
    for key in keys:
        values = np.array([run[key] for run in runs], np.float64)
        undefined = np.flatnonzero(np.isnan(values))
        std = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
        result[key] = {"mean": float(values.mean()), "std": std, "n": len(values)}
        if len(undefined):
            why = runs[undefined[0]].get("reasons", {}).get(key, "not a number")
            reasons[key] = f"undefined in run {undefined[0]}: {why}"
        elif len(values) == 1:
            reasons[key] = "a single run has no deviation"
    return {**result, "reasons": reasons} if reasons else result


def _placements(anomalous: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """(share of normal images below each anomalous one, share of anomalous images above each normal one).

    Ties count half. None with one class only. The mean of either is the AUROC.
    """
    positive, negative = np.sort(scores[anomalous]), np.sort(scores[~anomalous])
    if not len(positive) or not len(negative):
        return None

    def rank(sorted_scores, values):
        return (sorted_scores.searchsorted(values, "left") + sorted_scores.searchsorted(values, "right")) / 2

    below = rank(negative, scores[anomalous]) / len(negative)
    above = 1 - rank(positive, scores[~anomalous]) / len(positive)
    return below, above


def _covariance(one, other) -> float:
    """DeLong's covariance of two AUROCs on the same images (the variance where both are the same)."""
    return sum(float(np.cov(a, b)[0, 1]) / len(a) for a, b in zip(one, other, strict=True))


def _too_few(anomalous: np.ndarray) -> str | None:
    positive, negative = int(anomalous.sum()), int((~anomalous).sum())
    if positive >= 2 and negative >= 2:
        return None
    return f"DeLong's variance needs two images of each class; there are {positive} anomalous, {negative} normal"


def _nan(keys, reason: str) -> dict:
    return {**dict.fromkeys(keys, float("nan")), "reasons": dict.fromkeys(keys, reason)}
