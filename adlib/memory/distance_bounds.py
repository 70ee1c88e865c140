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

# Costs of a search, in multiplications of a sieve of integers (adlib.memory.sieve): the share of a bank that a query is
# compared with; one of a sieve in float32; of an axis and a value of a query; a pair that passes the sieve; a value of
# a pair whose features are compared. And what rounding to integers allows a squared distance to be wrong by, as a share
# of the product of both lengths.
OPEN, FLOAT, AXIS, PASSED, PAIR, ROUNDED = 0.3, 4, 4, 8_000, 30, 0.08


@dataclass
class Outline:
    """A fitted outline: float mean [D] and orthonormal axes [D, k].

    outline(features): float [N, D] -> float [N, k + 1]: coordinates on the axes, and the length of what is left.
    """

    mean: torch.Tensor
    axes: torch.Tensor

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        centred = features.to(self.mean.dtype) - self.mean
        outline = centred @ F.pad(self.axes, (0, 1))  # room for the rest; a product likes a multiple of 8 columns, too
        rest = centred.norm(dim=1).square_() - outline.square().sum(1)
        outline[:, -1] = rest.clamp_(min=0).sqrt_()
        return outline


def rounding_of_rest(outlines: torch.Tensor) -> torch.Tensor:
    """By how much the last coordinate of outlines, float32 [N, k + 1], may be wrong, [N]: a small rest, as the
    difference of large squares, is by up to a thousandth of the whole length.
    """
    squared = 1e-6 * outlines.square().sum(1)
    return torch.minimum(squared.sqrt(), squared / (2 * outlines[:, -1]).clamp(min=1e-30))


def fit_outline(features: torch.Tensor, energy: float = 0.95, largest: float = 0.5) -> Outline:
    """The outline on the principal axes of the features, float [N, D] of any precision, on any device.

    energy: share of the variance that the axes hold, with as few axes as that takes and at most `largest` of all D;
    their number plus four is a multiple of 16 where it can be, which leaves room for what products are padded with.
    """
    mean, values, vectors = _principal_axes(features)
    needed = int((values.cumsum(0) < energy * values.sum()).sum()) + 1
    kept = min(-(-(needed + 4) // 16) * 16 - 4, max(1, int(largest * features.shape[1])))
    return Outline(mean, vectors[:, :kept].contiguous())


def fit_search_outline(
    bank: torch.Tensor, queries: torch.Tensor, neighbours: int = 1, integers: bool = True
) -> tuple[Outline, bool]:
    """The outline with which the search for the k nearest in a bank, float32 [M, D], is cheapest for such queries
    [Q, D] (more axes make each comparison of outlines dearer, and leave fewer whole features to compare); and whether
    a first comparison should round outlines to integers, if these are fast here: where the nearest are very near,
    rounding hides too much.

    At most 256 queries and 20,000 members, spread over all, decide; k is at most their number. The axes are rotated
    among themselves, at random, so that no coordinate is much longer than another, as suits rounding.
    """
    mean, _, axes = _principal_axes(bank)
    members = (spread(bank, 20000) - mean) @ axes
    queries = (spread(queries, 256) - mean) @ axes
    distance = torch.cdist(queries, members).square_()
    nearest = distance.kthvalue(neighbours, 1, keepdim=True).values
    rounded = nearest + ROUNDED * queries.norm(dim=1, keepdim=True) * members.norm(dim=1)
    each = len(bank) / len(members) / len(queries)
    inside, done, costs = torch.zeros_like(distance), 0, {}
    for kept in range(7, bank.shape[1], 16):
        inside += torch.cdist(queries[:, done:kept], members[:, done:kept]).square_()
        rest = queries[:, kept:].norm(dim=1, keepdim=True) - members[:, kept:].norm(dim=1)
        bound = rest.square_().add_(inside)
        left = float((bound <= nearest).sum()) * each
        for kind in (False, True) if integers else (False,):
            passed = float((bound <= rounded).sum()) * each if kind else left
            compared = OPEN * len(bank) * kept * (1 if kind else FLOAT) + PASSED * passed
            costs[kept, kind] = compared + bank.shape[1] * (AXIS * kept + PAIR * left)
        done = kept
        if left <= neighbours + 1:
            break
    kept, kind = min(costs, key=costs.get)
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(kept, kept, generator=generator))[0]
    return Outline(mean, axes[:, :kept] @ rotation), kind


def _principal_axes(features: torch.Tensor, sample: int = 20000) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean [D], variances [D] and orthonormal axes [D, D], the largest variance first, of rows spread over all."""
    rows = spread(features, sample).to(torch.promote_types(features.dtype, torch.float32))
    mean = rows.mean(0)
    covariance = ((rows - mean).T @ (rows - mean)).double()
    values, vectors = torch.linalg.eigh(covariance)
    return mean, values.flip(0).clamp(min=0), vectors.flip(1).to(rows.dtype)


def spread(rows: torch.Tensor, most: int) -> torch.Tensor:
    """At most so many of the rows, one from each of as many equal stretches, at a place that moves by the golden ratio.

    Rows are patches, image by image: every 32nd of a grid of 32 x 32 would be all of one column, on the images' edge.
    """
    if len(rows) <= most:
        return rows
    stretch = torch.arange(most, dtype=torch.float64)
    place = (stretch * (5**0.5 - 1) / 2).frac()
    return rows[((stretch + place) * len(rows) / most).long().to(rows.device)]
