"""Selection: outcomes at a threshold, what to show of them, and in which order. Pure functions of arrays."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from adlib.errors import InputError
from adlib.metrics import threshold_best_f1
from adlib.predictions import Predictions
from adlib.samples import UNKNOWN

OUTCOMES = {"TP": "found", "FP": "false alarm", "FN": "missed", "TN": "passed", "?": "label unknown"}
WRONG = ("FP", "FN")
ORDERS = {
    "stored": "as stored",
    "score_high": "highest score first",
    "score_low": "lowest score first",
    "area_large": "largest defect first",
    "area_small": "smallest defect first",
    "disagreement": "most disagreement first",
}


def called_anomalous(scores: np.ndarray, threshold) -> np.ndarray:
    """score >= threshold, compared in float64 as `adlib.metrics.decision_metrics` does."""
    return np.asarray(scores, np.float64) >= threshold


def outcomes(labels: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Per sample "TP", "FP", "FN" or "TN", where positive is anomalous, or "?" where the label is unknown.

    labels, scores: [N].
    """
    called = called_anomalous(scores, threshold)
    decided = np.where(labels == 1, np.where(called, "TP", "FN"), np.where(called, "FP", "TN"))
    return np.where(labels == UNKNOWN, "?", decided)


def score_ranks(scores: np.ndarray) -> np.ndarray:
    """float [N, M] in [0, 1]: place of each score among its method's, 1 the highest, ties in the middle.

    Ranks make methods comparable whose scores have different units. scores: [N, M].
    """
    return pd.DataFrame(scores).rank().to_numpy() / len(scores)


def disagreement(scores: np.ndarray) -> np.ndarray:
    """float [N]: highest minus lowest rank that the methods give a sample; 0 for one method. scores: [N, M]."""
    ranks = score_ranks(scores)
    return ranks.max(axis=1) - ranks.min(axis=1)


def decisions_differ(scores: np.ndarray, thresholds) -> np.ndarray:
    """bool [N]: some methods call the sample anomalous and others do not. scores: [N, M]; thresholds: [M]."""
    called = called_anomalous(scores, np.asarray(thresholds))
    return called.any(axis=1) & ~called.all(axis=1)


def suspicious_normals(labels: np.ndarray, scores: np.ndarray, quantile: float = 0.5) -> np.ndarray:
    """bool [N]: labelled normal, and above the `quantile` of the anomalous images' scores in every method.

    labels: [N]; scores: [N, M]. Without an anomalous image nothing is suspicious.
    """
    anomalous = labels == 1
    if not anomalous.any():
        return np.zeros(len(labels), bool)
    return (labels == 0) & (scores > np.quantile(scores[anomalous], quantile, axis=0)).all(axis=1)


def suspected_label_errors(predictions: Predictions | Mapping[str, Predictions], quantile: float = 0.5) -> pd.DataFrame:
    """Normal images that look anomalous to every method: candidates for a wrong label, to be looked at.

    The rule: labelled normal, and scored above the median (`quantile`) of the anomalous images' scores by every
    method. Returns the samples table of those images with one column of scores per method and `rank`, the lowest of
    the ranks (0 to 1, 1 the highest score) that the methods give it; the highest rank first.
    """
    from adlib.inspector.joined import Joined

    if not 0 <= quantile <= 1:
        raise InputError(f"quantile must lie in [0, 1], got {quantile}.")
    joined = Joined(predictions)
    found = suspicious_normals(joined.labels, joined.scores, quantile)
    table = joined.samples.assign(**dict(zip(joined.names, joined.scores.T, strict=True)))
    table["rank"] = score_ranks(joined.scores).min(axis=1)
    return table[found].sort_values("rank", ascending=False, kind="stable", ignore_index=True)


def both_classes(labels: np.ndarray) -> bool:
    """Whether some of the images are normal and some anomalous, as far as it is known."""
    return bool((labels == 0).any() and (labels == 1).any())


def opening_threshold(labels: np.ndarray, scores: np.ndarray) -> float:
    """The threshold of the best F1 on these labels, an ORACLE, or the middle of the scores if one class is missing."""
    if both_classes(labels):
        known = labels != UNKNOWN
        return float(threshold_best_f1(labels[known], scores[known]))
    return float((scores.min().astype(np.float64) + scores.max()) / 2)


def in_order(order: str, scores: np.ndarray, spread: np.ndarray, areas=None) -> np.ndarray:
    """Indices of all samples in one of ORDERS; ties and unknown areas as stored, the latter last.

    scores: [N] of the method in focus; spread: [N] `disagreement`; areas: [N], needed by the two area orders.
    """
    keys = {"score_high": -scores, "score_low": scores, "disagreement": -spread}
    if order == "stored":
        return np.arange(len(scores))
    if order in ("area_large", "area_small"):
        # Only defects have an area: samples without one come last in both orders.
        key = np.where(areas > 0, areas, np.nan) * (-1 if order == "area_large" else 1)
        return np.argsort(key, kind="stable")  # NaN sorts last
    return np.argsort(keys[order], kind="stable")
