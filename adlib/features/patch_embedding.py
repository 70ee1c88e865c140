"""Patch embeddings: stages of a backbone as one vector per patch, in PatchCore's two readings.

"pooled" is the official code's; "concatenated", without its pooling of channels, is anomalib's and others'. SimpleNet,
GLASS and EfficientAD's teacher take the pooled one over.
"""

import math
from functools import cache

import torch
import torch.nn.functional as F


def pooled_embedding(features: list[torch.Tensor], size: int = 1024) -> torch.Tensor:
    """The official embedding: 3x3 neighbourhoods, pooled to `size` values per stage and then over all stages.

    features: one float [B, C, h, w] per stage, finest grid first.
    Returns float [B, h * w, size] on the finest grid, row by row.
    Pooling runs along the flattened (channel, 3, 3) axis, so for C = 512 and size 1024 a value mixes about half a
    channel's neighbourhood. All of it is linear, so a stage's pooling is one convolution (`pooling_kernel`), and the
    enlargement of the grid, for which the official code does it first, may come last.
    """
    grid = features[0].shape[-2:]
    together = len(features) if size % len(features) == 0 else 1
    pooled = []
    for stage in features:
        kernel, groups = pooling_kernel(stage.shape[1], size, together)
        pooled.append(_to_grid(F.conv2d(stage, kernel.to(stage), padding=1, groups=groups), grid))
    joined = torch.cat(pooled, 1).flatten(2).transpose(1, 2)  # [B, h * w, size], or [B, h * w, stages * size]
    return joined if together > 1 else F.adaptive_avg_pool1d(joined, size)


@cache
def pooling_kernel(channels: int, size: int, together: int) -> tuple[torch.Tensor, int]:
    """The official pooling of one stage as a 3x3 convolution: its kernel, and its number of groups.

    Value j of `size` is the mean of the entries floor(j n / size) to ceil((j + 1) n / size) of the n = 9 * channels
    that a neighbourhood has, as adaptive average pooling takes them; then the means of every `together` values.
    """
    entries = 9 * channels
    kernel = torch.zeros(size, entries)
    for value in range(size):
        first, last = value * entries // size, -(-(value + 1) * entries // size)
        kernel[value, first:last] = 1 / (last - first)
    kernel = kernel.view(size // together, together, entries).mean(1)
    groups = math.gcd(channels, len(kernel))
    blocks = kernel.view(groups, -1, groups, entries // groups)
    own = torch.stack([blocks[group, :, group] for group in range(groups)])
    if own.count_nonzero() < kernel.count_nonzero():  # a value reaches into another group's channels
        own, groups = kernel, 1
    return own.reshape(len(kernel), channels // groups, 3, 3), groups


def concatenated_embedding(
    features: list[torch.Tensor], enlargement: str = "bilinear", window: int = 3
) -> torch.Tensor:
    """The common embedding: 3x3 means, enlarged to the finest grid, concatenated. [B, h * w, sum of C].

    enlargement: "bilinear", or "nearest". window: side of the neighbourhood, odd; 1 takes the features as they are.
    """
    grid = features[0].shape[-2:]
    means = (F.avg_pool2d(stage, kernel_size=window, stride=1, padding=window // 2) for stage in features)
    means = [_to_grid(mean, grid, enlargement) for mean in means]
    return torch.cat(means, 1).flatten(2).transpose(1, 2)


def _to_grid(stage: torch.Tensor, grid: torch.Size, enlargement: str = "bilinear") -> torch.Tensor:
    if stage.shape[-2:] == grid:
        return stage
    if enlargement == "nearest":
        return F.interpolate(stage, size=grid, mode="nearest")
    return F.interpolate(stage, size=grid, mode="bilinear", align_corners=False)
