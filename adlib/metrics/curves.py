"""The curves whose areas are the ranking metrics: ROC, precision over recall, and PRO. Exact, from one pass.

A curve has a point at every distinct score of an anomalous image or pixel, where alone it rises, and one on either
side of the normal ones that are tied with it. Nothing is on a grid of thresholds.
"""

from dataclasses import dataclass

import numpy as np

from adlib.errors import InputError
from adlib.metrics.inputs import labels_and_scores
from adlib.metrics.ranking import rank_pixels


@dataclass(frozen=True)
class Curves:
    """How much is found, and how much else is called, as the threshold falls; every array from strict to lenient.

    threshold: float64 [B], the distinct anomalous scores; score >= threshold is called anomalous.
    recall: [B], share of the anomalous images or pixels found. fpr: [B], share of the normal ones called.
    precision: [B]. fpr_above: [B], share of the normal ones with a higher score: from there to fpr the curve rises
    linearly. pro: [B], mean over defect regions of the share of their pixels found; None for images.
    """

    threshold: np.ndarray
    recall: np.ndarray
    fpr: np.ndarray
    precision: np.ndarray
    fpr_above: np.ndarray
    pro: np.ndarray | None

    def line(self, rise: str = "recall") -> tuple[np.ndarray, np.ndarray]:
        """The curve over the false-positive rate from (0, 0) to (1, 1) as (fpr, recall or pro): the trapezoid rule over
        it gives AUROC, or AUPRO's area, to rounding. rise: "recall" or "pro".
        """
        heights = getattr(self, rise)
        if heights is None:
            raise InputError("PRO is of pixels: curves of image scores have none.")
        below = np.concatenate([[0.0], heights[:-1]])
        across = np.stack([self.fpr_above, self.fpr], axis=1).ravel()
        up = np.stack([below, heights], axis=1).ravel()
        return np.concatenate([[0.0], across, [1.0]]), np.concatenate([[0.0], up, [1.0]])

    def best_f1(self) -> int:
        """The point of the best F1, the strictest of several: an oracle where the labels are those it is judged by."""
        return int(np.argmax(2 * self.precision * self.recall / (self.precision + self.recall)))


def image_curves(labels, scores) -> Curves | None:
    """Of image scores; labels: [N] 0 normal, 1 anomalous. None where one kind is missing: no curve is defined."""
    anomalous, scores = labels_and_scores(labels, scores)
    positive, negative = scores[anomalous], np.sort(scores[~anomalous])
    points = _Points(len(positive), len(negative))
    distinct, count = np.unique(positive, return_counts=True)
    below, upto = (negative.searchsorted(distinct, side) for side in ("left", "right"))
    points.add(distinct[::-1], count[::-1], (len(negative) - upto)[::-1], (upto - below)[::-1])
    return points.curves()


def pixel_curves(masks, maps) -> Curves | None:
    """Of anomaly maps; arguments as of `pixel_metrics`. None where no pixel is anomalous, or none normal."""
    return rank_pixels(masks, maps, sums=_Points).curves()


class _Points:
    """Takes the place of RankingSums, and keeps what that adds up."""

    def __init__(self, n_anomalous, n_normal, n_regions=0, limits=()):
        self.n_anomalous, self.n_normal, self.n_regions = n_anomalous, n_normal, n_regions
        self.parts = []

    def add(self, scores, anomalous, normal_above, normal_tied, region_weight=None) -> None:
        weight = np.zeros(len(scores)) if region_weight is None else region_weight
        self.parts.append(np.array([scores, anomalous, normal_above, normal_tied, weight], np.float64))

    def curves(self) -> Curves | None:
        if not (self.n_anomalous and self.n_normal):
            return None
        threshold, anomalous, above, tied, weight = np.concatenate(self.parts, axis=1)
        found, called = np.cumsum(anomalous), above + tied
        pro = np.minimum(np.cumsum(weight) / self.n_regions, 1) if self.n_regions else None
        return Curves(
            threshold,
            found / self.n_anomalous,
            called / self.n_normal,
            found / (found + called),
            above / self.n_normal,
            pro,
        )
