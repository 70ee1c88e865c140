"""Decisions at a threshold: the confusion table, what follows from it, and ways to choose the threshold.

A score >= threshold is called anomalous, everywhere. A threshold chosen with test labels is an oracle; the
others need only scores of held-out normal images.
"""

import math

import numpy as np

from adlib.errors import InputError
from adlib.metrics.inputs import as_mask, as_scores, labels_and_scores, to_numpy
from adlib.metrics.ranking import f1_max


def decision_metrics(labels, scores, threshold: float) -> dict:
    """Confusion table at a threshold, and MCC, recall, precision, FPR and F1.

    labels: [N] 0 normal, 1 anomalous, or masks [N, H, W], anomalous where not 0; scores: the same shape.
    Decision: score >= threshold is anomalous, compared in float64.
    Returns floats: mcc, recall, precision, fpr, f1, tn, tp, fn, fp; a ratio with nothing below the line is
    NaN, and the extra key "reasons" says why. (scikit-learn returns 0 there.)
    """
    number = to_numpy(threshold)
    if number.shape or number.dtype.kind not in "iuf" or not np.isfinite(number):
        raise InputError(f"threshold must be a finite number, got {threshold!r}")
    threshold = number.item()
    labels, scores = to_numpy(labels), to_numpy(scores)
    if labels.shape != scores.shape:
        raise InputError(f"labels {labels.shape} and scores {scores.shape} differ in shape")
    tn = tp = fn = fp = 0
    # pixels image by image, so that they take no extra memory worth mentioning
    pieces = [labels_and_scores(labels, scores)] if labels.ndim == 1 else zip(labels, scores, strict=True)
    for index, (truth, values) in enumerate(pieces):
        name = f"image {index}"
        truth = as_mask(truth, f"{name}, labels")
        flagged = as_scores(values, name).astype(np.float64) >= threshold
        hit = int(np.count_nonzero(truth & flagged))
        positive, called = int(np.count_nonzero(truth)), int(np.count_nonzero(flagged))
        tp, fn, fp = tp + hit, fn + positive - hit, fp + called - hit
        tn += truth.size - positive - called + hit
    return confusion_metrics(tn=tn, tp=tp, fn=fn, fp=fp)


def confusion_metrics(tn: int, tp: int, fn: int, fp: int) -> dict:
    """MCC, recall, precision, FPR and F1 of a confusion table (also of a published one)."""
    tn, tp, fn, fp = int(tn), int(tp), int(fn), int(fp)
    values, reasons = {}, {}

    def ratio(name: str, above: float, below: float, reason: str) -> None:
        values[name] = above / below if below else float("nan")
        if not below:
            reasons[name] = reason

    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)  # exact: Python integers do not overflow
    ratio("mcc", tp * tn - fp * fn, math.sqrt(product), "a row or column of the confusion table is empty")
    ratio("recall", tp, tp + fn, "nothing is anomalous")
    ratio("precision", tp, tp + fp, "nothing was called anomalous")
    ratio("fpr", fp, fp + tn, "nothing is normal")
    ratio("f1", 2 * tp, 2 * tp + fp + fn, "nothing is anomalous and nothing was called so")
    values.update(tn=float(tn), tp=float(tp), fn=float(fn), fp=float(fp))
    return {**values, "reasons": reasons} if reasons else values


def threshold_best_f1(labels, scores) -> float:
    """ORACLE: the threshold of the best F1 on the very labels it is then judged by.

    ISP-AD's Tables 2 to 6 use it ("optimal image-level F1 on the test set"). The highest of several best.
    """
    return f1_max(labels, scores)[1]


def threshold_quantile(normal_scores, quantile: float = 0.99) -> float:
    """The quantile (linear interpolation) of scores of held-out normal images: no anomaly needed."""
    if not 0 <= quantile <= 1:
        raise InputError(f"quantile must lie in [0, 1], got {quantile}")
    return float(np.quantile(_normal(normal_scores).astype(np.float64), quantile))


def threshold_maximum(normal_scores) -> float:
    """The lowest threshold that calls no held-out normal image anomalous: just above their maximum."""
    return threshold_fpr_budget(normal_scores, 0.0)


def threshold_fpr_budget(normal_scores, budget: float) -> float:
    """The lowest threshold at which at most `budget` of the held-out normal images are called anomalous.

    budget: a share, 0.0059 and 0.0033 for the process requirements quoted by ISP-AD. The threshold lies one
    floating-point step above a normal score, in the scores' own precision, so that score >= threshold leaves
    it out.
    """
    if not 0 <= budget < 1:
        raise InputError(f"budget must lie in [0, 1): a share of normal images, not percent; got {budget}")
    scores = np.sort(_normal(normal_scores))[::-1]
    allowed = sum(1 for k in range(1, len(scores)) if k / len(scores) <= budget)
    return float(np.nextafter(scores[allowed], scores.dtype.type(np.inf)))


def _normal(scores) -> np.ndarray:
    scores = as_scores(to_numpy(scores).ravel(), "normal scores")
    if scores.size == 0:
        raise InputError("a threshold needs at least one normal score: hold normal images out of training")
    return scores
