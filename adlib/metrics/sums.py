"""The formulas of the ranking metrics, as sums over distinct anomalous scores from the highest to the lowest.

AUROC, average precision, F1-max, AUPRO and partial AUROC need only this, at every distinct score s of an
anomalous pixel (or image): how many anomalous ones have it, how many normal ones lie above it, how many
normal ones are tied with it, and how much of the region average hangs on it. No threshold grid, hence no
error.
"""

import numpy as np

BLOCK = 1 << 15  # numbers worked on at a time: temporaries stay in the processor's cache


class RankingSums:
    """Feed `add` with blocks of scores, highest block first; read the values as attributes or from `aupro`.

    n_anomalous, n_normal: totals, numbers or float64[R] for R bootstrap replicates at once (then everything
    below carries that axis last). n_regions: number of 8-connected regions. limits: the false-positive
    rates at which partial areas end.
    """

    def __init__(self, n_anomalous, n_normal, n_regions=0, limits=()):
        self.n_anomalous = np.asarray(n_anomalous, np.float64)
        self.n_normal = np.asarray(n_normal, np.float64)
        self.n_regions = np.asarray(n_regions, np.float64)
        zero = np.zeros(self.n_anomalous.shape)
        self._found = zero
        self._losses, self._precision = zero.copy(), zero.copy()
        self.f1_max, self.threshold = zero.copy(), np.full(zero.shape, np.nan)
        self._area = {limit: zero.copy() for limit in limits}
        self._region_area = {limit: zero.copy() for limit in limits}

    def add(self, scores, anomalous, normal_above, normal_tied, region_weight=None) -> None:
        """Add one block.

        scores: float[B], distinct, falling, below those of the blocks before. anomalous: [B] or [B, R]
        anomalous items with exactly this score; normal_above, normal_tied: normal items with a higher score
        and with this score; region_weight: sum of 1 / area of its region over these anomalous pixels.
        """
        step = max(1, BLOCK // max(1, self.n_anomalous.size))
        for start in range(0, len(scores), step):
            part = slice(start, start + step)
            weight = None if region_weight is None else region_weight[part]
            self._add(scores[part], anomalous[part], normal_above[part], normal_tied[part], weight)

    def _add(self, scores, anomalous, normal_above, normal_tied, region_weight) -> None:
        anomalous = np.asarray(anomalous, np.float64)
        above = np.asarray(normal_above, np.float64)
        flagged = above + normal_tied
        found = np.cumsum(anomalous, axis=0)
        found += self._found
        self._found = found[-1]

        self._losses = self._losses + (anomalous * (above + flagged)).sum(0)
        called = found + flagged
        # max(…, 1): a replicate without the images of this block has nothing found and nothing flagged
        precision = found / np.maximum(called, 1)
        self._precision = self._precision + (anomalous * precision).sum(0)

        called += self.n_anomalous
        half_f1 = np.divide(found, called, out=called)
        value = 2 * half_f1.max(0)
        better = value > self.f1_max  # strictly, so of several best thresholds the highest stays
        if better.any():
            self.f1_max = np.where(better, value, self.f1_max)
            best = np.asarray(scores, np.float64)[half_f1.argmax(0)]
            self.threshold = np.where(better, best, self.threshold)

        for limit in self._area:
            reach = limit * self.n_normal
            if (above[0] >= reach).all():
                continue
            area = area_right_of(above, flagged, reach)
            self._area[limit] = self._area[limit] + (anomalous * area).sum(0)
            if region_weight is not None:
                self._region_area[limit] = self._region_area[limit] + (region_weight * area).sum(0)

    @property
    def auroc(self):
        return 1 - self._losses / (2 * self.n_anomalous * self.n_normal)

    @property
    def average_precision(self):
        return np.minimum(self._precision / self.n_anomalous, 1)  # the last digit of a sum may exceed 1

    def partial_auroc(self, limit: float):
        """Area under the ROC curve left of FPR = limit, divided by limit."""
        return np.minimum(self._area[limit] / (self.n_anomalous * self.n_normal * limit), 1)

    def aupro(self, limit: float):
        """Area under the PRO curve left of FPR = limit, divided by limit."""
        return np.minimum(self._region_area[limit] / (self.n_regions * self.n_normal * limit), 1)


def area_right_of(above, flagged, limit):
    """How much of the false-positive axis [0, limit] each anomalous item wins; all three as counts.

    above, flagged: float64[B] or [B, R] normal items with a higher score, and with a higher or the same one;
    between them the curve rises linearly, as the trapezoid rule has it. limit: number or [R]. Returns an
    array like above: limit - above without ties, 0 where above is beyond the limit.
    """
    area = np.maximum(limit - above, 0)
    rest = np.maximum(limit - flagged, 0)
    cut = (rest == 0) & (area > 0)  # the limit falls inside the ramp: a triangle of base area, cut at the limit
    triangle = area[cut] ** 2 / (2 * (flagged - above)[cut])
    area += rest
    area /= 2
    area[cut] = triangle
    return area
