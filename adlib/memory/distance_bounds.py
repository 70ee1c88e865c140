"""Lower bounds of distances from a few dimensions: most far pairs need no more than that to be told apart.

Rotated to its principal axes, a feature keeps most of what sets it apart in its first coordinates. Those, and the
length of all the rest as one more coordinate, are its outline: for any two features,

    |x - y|² = |x' - y'|² + |x" - y"|²  >=  |x' - y'|² + (|x"| - |y"|)²  =  |outline(x) - outline(y)|²

because x" and y" differ by at least the difference of their lengths. Searches compare outlines first and whole
features only where the outlines leave a doubt, so that what they find is exact.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

# Costs of a search, in multiplications of a fast product: the share of a bank that a query is compared with in outline;
# a multiplication of an axis, at full precision; a value of a pair of features that are fetched from main memory.
OPEN, AXIS, PAIR = 0.5, 4, 80


@dataclass
class Outline:
    """A fitted outline: float mean [D] and orthonormal axes [D, k].

    outline(features): float [N, D] -> float [N, k + 1]: coordinates on the axes, and the length of what is left.
    """

    mean: torch.Tensor
    axes: torch.Tensor

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        features = features.to(self.mean.dtype)
        axes = F.pad(self.axes, (0, 1))  # room for the rest; and a product is fastest with a multiple of 8 columns
        outline = torch.addmm(-(self.mean @ axes), features, axes)
        length = torch.cdist(features, self.mean[None], compute_mode="donot_use_mm_for_euclid_dist")[:, 0]
        outline[:, -1] = (length.square_() - outline.square().sum(1)).clamp_(min=0).sqrt_()
        return outline


def fit_outline(features: torch.Tensor, energy: float = 0.95, largest: float = 0.5) -> Outline:
    """The outline on the principal axes of the features, float [N, D] of any precision, on any device.

    energy: share of the variance that the axes hold, with as few axes as that takes and at most `largest` of all D;
    their number plus four is a multiple of 16 where it can be, which leaves room for what products are padded with.
    """
    mean, values, vectors = _principal_axes(features)
    needed = int((values.cumsum(0) < energy * values.sum()).sum()) + 1
    kept = min(-(-(needed + 4) // 16) * 16 - 4, max(1, int(largest * features.shape[1])))
    return Outline(mean, vectors[:, :kept].contiguous())


def fit_search_outline(bank: torch.Tensor, queries: torch.Tensor, neighbours: int = 1) -> Outline:
    """The outline with which the search for the k nearest in a bank, float32 [M, D], is cheapest for such queries
    [Q, D]: more axes make each comparison dearer and leave fewer pairs whose features must be compared in full.

    At most 256 queries and 20,000 members, spread over all, decide; k is at most their number.
    """
    mean, _, axes = _principal_axes(bank)
    members = (_spread(bank, 20000) - mean) @ axes
    queries = (_spread(queries, 256) - mean) @ axes
    distance = torch.cdist(queries, members).square_()
    nearest = distance.kthvalue(neighbours, 1, keepdim=True).values
    best, axes_of_best, inside, done = torch.inf, 0, torch.zeros_like(distance), 0
    for kept in (count for count in range(7, bank.shape[1], 16) if count < 128 or count % 64 == 55):
        inside += torch.cdist(queries[:, done:kept], members[:, done:kept]).square_()
        rest = queries[:, kept:].norm(dim=1, keepdim=True) - members[:, kept:].norm(dim=1)
        left = (inside + rest.square() <= nearest).sum() / len(queries) * len(bank) / len(members)
        cost = kept * (OPEN * len(bank) + AXIS * bank.shape[1]) + PAIR * bank.shape[1] * float(left)
        if cost < best:
            best, axes_of_best = cost, kept
        done = kept
    return Outline(mean, axes[:, :axes_of_best].contiguous())


def _principal_axes(features: torch.Tensor, sample: int = 20000) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean [D], variances [D] and orthonormal axes [D, D], the largest variance first, of rows spread over all."""
    rows = _spread(features, sample).to(torch.promote_types(features.dtype, torch.float32))
    mean = rows.mean(0)
    covariance = ((rows - mean).T @ (rows - mean)).double()
    values, vectors = torch.linalg.eigh(covariance)
    return mean, values.flip(0).clamp(min=0), vectors.flip(1).to(rows.dtype)


def _spread(rows: torch.Tensor, most: int) -> torch.Tensor:
    """At most so many of the rows, one from each of as many equal stretches, at a place that moves by the golden ratio.

    Rows are patches, image by image: every 32nd of a grid of 32 x 32 would be all of one column, on the images' edge.
    """
    if len(rows) <= most:
        return rows
    stretch = torch.arange(most, dtype=torch.float64)
    place = (stretch * (5**0.5 - 1) / 2).frac()
    return rows[((stretch + place) * len(rows) / most).long().to(rows.device)]
