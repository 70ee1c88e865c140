"""Aligned features: several stages of a frozen backbone on one grid, which UniAD, OneNIP and CRAD learn to rebuild.

The three share the official code's feature extractor, an EfficientNet-B4 whose stages are resized to one grid and
stacked, and the way in which the distance between features and rebuilt features becomes a map and a score. Every resize
is bilinear with the corners of both grids on one another (align_corners=True).
"""

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import nn

from adlib.features.backbones import Backbone


class FixedPadding(nn.Conv2d):
    """A convolution with zeros on each side as TensorFlow's "same" adds them to pictures of one size, on any size.

    The weights are those of the given convolution. size: (H, W) of what it would see of that one size.
    """

    def __init__(self, same: Conv2dSame, size: tuple[int, int]):
        options = {name: getattr(same, name) for name in ("stride", "dilation", "groups")}
        shape = (same.in_channels, same.out_channels, same.kernel_size)
        super().__init__(*shape, bias=same.bias is not None, device="meta", **options)  # draws no weights of its own
        self.weight, self.bias = same.weight, same.bias
        self.sides = []  # left, right, top, bottom: as F.pad wants them
        for axis in (1, 0):
            reach = (-(-size[axis] // self.stride[axis]) - 1) * self.stride[axis]
            missing = max(reach + self.dilation[axis] * (self.kernel_size[axis] - 1) + 1 - size[axis], 0)
            self.sides += [missing // 2, missing - missing // 2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(F.pad(x, self.sides))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, sides={self.sides}"


def pad_for(net: nn.Module, side: int) -> bool:
    """Pad a network's "same" convolutions as for square pictures of so many pixels; whether it has any.

    EfficientNet's PyTorch port, on which UniAD, OneNIP and CRAD build, does so with the side of the network's training,
    380 for B4, whatever it is shown. At 224 pixels the first 5x5 convolution of stride 2 then sees its input moved by a
    pixel. They are found in the order in which a picture passes them, each halving its sides.
    """
    found = [name for name, module in net.named_modules() if isinstance(module, Conv2dSame)]
    for name in found:
        padded = FixedPadding(net.get_submodule(name), (side, side))
        net.set_submodule(name, padded)
        side = -(-side // padded.stride[0])
    return bool(found)


class AlignedBackbone(Backbone):
    """A Backbone whose stages come as one stack of channels.

    grid: the stage to whose positions all others are resized, "coarsest" or "finest".
    padded_for: an EfficientNet's strided convolutions are padded as for so many pixels, see `pad_for`; None: as for
        the images that come. Other networks do not ask.

    backbone(x): x float [B, 3, H, W] in [0, 1] -> a list of one float [B, C, h, w]. The arguments and errors are
    those of Backbone; `channels` and `strides` have one entry each.
    """

    def __init__(self, name, stages, weights, seed=0, grid: str = "coarsest", padded_for: int | None = None):
        super().__init__(name, stages, weights, seed)
        self.fixed = padded_for is not None and pad_for(self.net, padded_for)
        if hasattr(self.net, "blocks"):  # timm leaves an EfficientNet the stages behind the last one that is asked for
            self.net.blocks = self.net.blocks[: max(info["stage"] for info in self.net.feature_info.get_dicts())]
        self.leading = {"coarsest": -1, "finest": 0}[grid]
        self.channels, self.strides = [sum(self.channels)], [self.strides[self.leading]]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        stages = super().forward(x)
        return [torch.cat([resized(stage, stages[self.leading].shape[-2:]) for stage in stages], 1).contiguous()]

    def grid(self, shape: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of the features of images of H x W pixels."""
        if self.fixed:  # such paddings fit other sizes more or less
            return tuple(self.compute(torch.zeros(1, 3, *shape, device=self.mean.device))[self.leading].shape[-2:])
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
