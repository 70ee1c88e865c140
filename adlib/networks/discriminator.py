"""The small networks that SimpleNet and GLASS train on frozen patch features: an adaptor and a discriminator."""

import torch
import torch.nn.functional as F
from torch import nn


def linear(inside: int, outside: int, bias: bool = True) -> nn.Linear:
    """A linear layer with Xavier-normal weights; the adaptor is one. The bias starts as torch draws it."""
    layer = nn.Linear(inside, outside, bias)
    nn.init.xavier_normal_(layer.weight)
    return layer


class Discriminator(nn.Module):
    """Tells adapted normal patches from others: linear, batch norm, leaky ReLU of a slope, linear to one value.

    discriminator(patches): float [N, D] -> [N], without a sigmoid.

    The first layer may be called alone (`linear`) and the rest on its output (`head`): GLASS asks about the same
    normal patches twenty times over.
    """

    def __init__(self, size: int, hidden: int, slope: float = 0.2):
        super().__init__()
        self.slope = slope
        self.linear = linear(size, hidden)
        self.norm = nn.BatchNorm1d(hidden)
        self.out = linear(hidden, 1, bias=False)

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        return self.head(self.linear(patches))

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.out(F.leaky_relu(self.norm(hidden), self.slope))[:, 0]
