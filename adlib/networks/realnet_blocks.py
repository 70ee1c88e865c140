"""RealNet's networks: selection of channels, reconstruction of features, selection of residuals.

Zhang, Xu, Zhou, CVPR 2024, arXiv 2403.05897; layer by layer as in the official code. The reconstruction is the U-Net of
a diffusion model (Dhariwal and Nichol, NeurIPS 2021) without its time steps and with a single convolution per block.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

# Selection of channels (AFS)


def selection_errors(normal: torch.Tensor, pasted: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """How unlike the mask each channel's change is: features float [B, C, h, w] twice, mask bool [B, H, W] -> [C].

    The squared change of a channel is stretched to 0..1 over all images and positions of the batch; the error is its
    mean squared difference from the mask, which is resized by nearest neighbour.
    """
    change = (pasted.float() - normal.float()).square().transpose(0, 1).flatten(1)  # [C, B h w]
    low, high = change.amin(1, keepdim=True), change.amax(1, keepdim=True)
    target = F.interpolate(mask[:, None].float(), normal.shape[-2:], mode="nearest").flatten()
    return ((change - low) / (high - low + 1e-4) - target).square().mean(1)


class FeatureSelection(nn.Module):
    """Keeps chosen channels of each stage: list of float [B, C, h, w] -> list of [B, kept, h, w]."""

    def __init__(self, kept: list[int]):
        super().__init__()
        for stage, count in enumerate(kept):
            self.register_buffer(f"kept{stage}", torch.arange(count))

    def indices(self) -> list[torch.Tensor]:
        """Which channels are kept of each stage, ascending."""
        return list(self.buffers())

    def choose(self, errors: list[torch.Tensor]) -> None:
        """Keep the channels with the lowest errors; one that is not a number counts as the worst."""
        for kept, error in zip(self.indices(), errors, strict=True):
            worst_last = torch.nan_to_num(error, nan=torch.inf)
            kept.copy_(worst_last.topk(len(kept), largest=False).indices.sort().values)

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        return [stage.index_select(1, kept) for stage, kept in zip(features, self.indices(), strict=True)]


# Reconstruction of features


class Block(nn.Module):
    """Group norm, SiLU, one 3x3 convolution, and a shortcut; scale 0.5 or 2 resizes both branches on the way."""

    def __init__(self, inside: int, outside: int, scale: float = 1):
        super().__init__()
        self.norm = nn.GroupNorm(32, inside)
        self.conv = nn.Conv2d(inside, outside, 3, padding=1)
        self.resize, self.resize_shortcut = (self._resize(inside, scale) for _ in range(2))
        self.shortcut = nn.Identity() if inside == outside else nn.Conv2d(inside, outside, 1)

    @staticmethod
    def _resize(channels: int, scale: float) -> nn.Module:
        if scale == 2:
            return nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1)
        return nn.AvgPool2d(2) if scale == 0.5 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shortcut(self.resize_shortcut(x)) + self.conv(self.resize(F.silu(self.norm(x))))


class Attention(nn.Module):
    """Self-attention over all positions with 64 channels per head, added to its input; starts as nothing."""

    def __init__(self, channels: int):
        super().__init__()
        self.heads = max(1, channels // 64)
        self.norm = nn.GroupNorm(32, channels)
        self.queries_keys_values = nn.Conv2d(channels, 3 * channels, 1)
        self.out = _zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        joined = self.queries_keys_values(self.norm(x))
        split = joined.reshape(batch, 3, self.heads, channels // self.heads, height * width).transpose(3, 4)
        attended = F.scaled_dot_product_attention(*split.unbind(1))  # [B, heads, positions, channels of a head]
        return x + self.out(attended.transpose(2, 3).reshape(x.shape))


def _zeroed(conv: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


class UNet(nn.Module):
    """Restores the normal features of one stage: float [B, C, h, w] -> the same shape; starts as zero.

    Half of C channels, then once and twice C at half and a quarter of the grid, where there is attention; two blocks
    per level on the way down, three on the way up; every output on the way down is a skip.
    """

    def __init__(self, channels: int, multipliers: tuple[int, ...] = (1, 2, 4), blocks: int = 2):
        super().__init__()
        widths = [channels // 2 * multiplier for multiplier in multipliers]
        self.down = nn.ModuleList([nn.Conv2d(channels, widths[0], 3, padding=1)])
        skips, now = [widths[0]], widths[0]
        for level, width in enumerate(widths):
            if level:
                self.down.append(Block(now, now, scale=0.5))
                skips.append(now)
            for _ in range(blocks):
                self.down.append(self._level_block(now, width, level))
                skips.append(width)
                now = width
        self.middle = nn.Sequential(Block(now, now), Attention(now), Block(now, now))
        self.up = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for number in range(blocks + 1):
                step = self._level_block(now + skips.pop(), width, level)
                if level and number == blocks:
                    step.append(Block(width, width, scale=2))
                self.up.append(step)
                now = width
        self.out = nn.Sequential(nn.GroupNorm(32, now), nn.SiLU(), _zeroed(nn.Conv2d(now, channels, 3, padding=1)))

    @staticmethod
    def _level_block(inside: int, outside: int, level: int) -> nn.Sequential:
        return nn.Sequential(Block(inside, outside), *([Attention(outside)] if level else []))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for step in self.down:
            x = step(x)
            skips.append(x)
        x = self.middle(x)
        for step in self.up:
            x = step(torch.cat([x, skips.pop()], 1))
        return self.out(x)


class FeatureReconstruction(nn.ModuleList):
    """A U-Net for each stage: list of float [B, C, h, w] -> list of the same shapes."""

    def __init__(self, channels: list[int]):
        super().__init__(UNet(count) for count in channels)

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        return [net(stage) for net, stage in zip(self, features, strict=True)]


# Selection of residuals (RRS)


class _Residual(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.wide = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.narrow = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.narrow(F.relu(self.wide(F.relu(x))))


class ResidualSelection(nn.Module):
    """Residuals of all stages, list of float [B, C, h, w] -> logits [B, 2, H, W].

    channels: of all stages together. counts: channels chosen for each image by their largest value and by their mean
    over positions (at most all of them). Residuals are ranked after normalising them over the batch, and passed on as
    they were, the worst first.
    """

    def __init__(self, channels: int, counts: tuple[int, int]):
        super().__init__()
        self.counts = [min(count, channels) for count in counts]
        self.rank_norm = nn.BatchNorm2d(channels, momentum=0.9, affine=False)
        width = sum(self.counts)
        layers = [_Residual(width), _Residual(width), nn.ReLU()]
        for inside, outside in pairwise((width, 128, 32, 8)):
            layers.append(nn.Conv2d(inside, outside, 3, padding=1))
            layers += [nn.BatchNorm2d(outside)] * (outside == 128) + [nn.ReLU()]
        self.decoder = nn.Sequential(*layers)
        self.out = nn.Sequential(nn.Conv2d(8, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))

    def forward(self, residuals: list[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        grid = residuals[0].shape[-2:]
        joined = torch.cat([_resized(stage, grid) for stage in residuals], 1)
        x = self.decoder(self.select(joined))
        x = self.out(_resized(x, (2 * grid[0], 2 * grid[1])))
        return _resized(x, size)

    def select(self, joined: torch.Tensor) -> torch.Tensor:
        """float [B, C, h, w] -> [B, sum of counts, h, w]: each image's worst channels, the worst first."""
        with torch.no_grad():
            ranked = self.rank_norm(joined.float()).flatten(2)
            values = (ranked.amax(2), ranked.mean(2))
        orders = [value.topk(count).indices for value, count in zip(values, self.counts, strict=True)]
        return joined.gather(1, torch.cat(orders, 1)[..., None, None].expand(-1, -1, *joined.shape[-2:]))


def _resized(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)
