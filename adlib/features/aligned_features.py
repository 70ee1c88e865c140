"""Aligned features: several stages of a frozen backbone on one grid, which UniAD, OneNIP and CRAD learn to rebuild.

The three share the official code's feature extractor, an EfficientNet-B4 whose stages are resized to one grid and
stacked, and the way in which the distance between features and rebuilt features becomes a map and a score. Every resize
is bilinear with the corners of both grids on one another (align_corners=True).
"""

import torch
import torch.nn.functional as F

from adlib.features.backbones import Backbone


class AlignedBackbone(Backbone):
    """A Backbone whose stages come as one stack of channels.

    grid: the stage to whose positions all others are resized, "coarsest" or "finest".

    backbone(x): x float [B, 3, H, W] in [0, 1] -> a list of one float [B, C, h, w]. The arguments and errors are
    those of Backbone; `channels` and `strides` have one entry each.
    """

    def __init__(self, name, stages, weights, seed=0, grid: str = "coarsest"):
        super().__init__(name, stages, weights, seed)
        if hasattr(self.net, "blocks"):  # timm leaves an EfficientNet the stages behind the last one that is asked for
            self.net.blocks = self.net.blocks[: max(info["stage"] for info in self.net.feature_info.get_dicts())]
        self.leading = {"coarsest": -1, "finest": 0}[grid]
        self.channels, self.strides = [sum(self.channels)], [self.strides[self.leading]]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        stages = super().forward(x)
        return [torch.cat([resized(stage, stages[self.leading].shape[-2:]) for stage in stages], 1).contiguous()]

    def grid(self, shape: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of the features of images of H x W pixels."""
        return tuple(-(-side // self.strides[0]) for side in shape)


def resized(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """float [B, C, h, w] -> [B, C, H, W], bilinear, corners on corners."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def distances(features: torch.Tensor, rebuilt: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Euclidean distance over the channels of float [B, C, h, w] twice, at image size: [B, H, W]."""
    return resized((rebuilt - features).norm(dim=1, keepdim=True), size)[:, 0]


def window_maximum(maps: torch.Tensor, window: int) -> torch.Tensor:
    """The largest mean over a square window of so many pixels inside the map: float [B, H, W] -> [B].

    A side that is shorter than the window is averaged as a whole.
    """
    sides = tuple(min(window, side) for side in maps.shape[-2:])
    return F.avg_pool2d(maps[:, None], sides, stride=1).amax((1, 2, 3))
