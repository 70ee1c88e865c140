"""Lower bounds of distances from a few dimensions: most far pairs need no more than that to be told apart.

Rotated to its principal axes, a feature keeps most of what sets it apart in its first coordinates. Those, and the
length of all the rest as one more coordinate, are its outline: for any two features,

    |x - y|² = |x' - y'|² + |x" - y"|²  >=  |x' - y'|² + (|x"| - |y"|)²  =  |outline(x) - outline(y)|²

because x" and y" differ by at least the difference of their lengths. Searches compare outlines first and whole
features only where the outlines leave a doubt, so that what they find is exact.
"""

from dataclasses import dataclass

import torch


@dataclass
class Outline:
    """A fitted outline: float mean [D] and orthonormal axes [D, k].

    outline(features): float [N, D] -> float [N, k + 1]: coordinates on the axes, and the length of what is left.
    """

    mean: torch.Tensor
    axes: torch.Tensor

    def __call__(self, features: torch.Tensor) -> torch.Tensor:
        centred = features.to(self.mean.dtype) - self.mean
        inside = centred @ self.axes
        rest = (centred.square().sum(1) - inside.square().sum(1)).clamp_(min=0).sqrt_()
        return torch.cat([inside, rest[:, None]], 1)


def fit_outline(features: torch.Tensor, energy: float = 0.95, largest: float = 0.5, sample: int = 20000) -> Outline:
    """The outline on the principal axes of the features, float [N, D] of any precision, on any device.

    energy: share of the variance that the axes hold, with as few axes as that takes and at most `largest` of all D;
    their number plus four is a multiple of 16 where it can be, which leaves room for what products are padded with.
    sample: how many rows, evenly spaced, decide.
    """
    rows = features[:: -(-len(features) // sample)].to(torch.promote_types(features.dtype, torch.float32))
    mean = rows.mean(0)
    covariance = ((rows - mean).T @ (rows - mean)).double()
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    needed = int((values.cumsum(0) < energy * values.sum()).sum()) + 1
    kept = min(-(-(needed + 4) // 16) * 16 - 4, max(1, int(largest * features.shape[1])))
    return Outline(mean, vectors[:, :kept].to(rows.dtype).contiguous())
