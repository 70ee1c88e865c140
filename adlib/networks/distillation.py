"""Reverse distillation: the blocks that RD4AD and RD++ share.

A frozen teacher reads the image at three scales; the bottleneck brings them together into a small embedding; the
decoder, a mirrored teacher, rebuilds the three feature maps from it. Where it fails, the image is unlike the normal
ones. Networks follow the official code of RD4AD (Deng and Li, CVPR 2022), which RD++ takes over.

Both are built for any timm ResNet of basic or bottleneck blocks (resnet18, resnet34, resnet50, wide_resnet50_2 ...):
widths and numbers of blocks mirror the teacher's.
"""

from dataclasses import dataclass

import timm
import torch
import torch.nn.functional as F
from torch import nn

from adlib.errors import InputError
from adlib.features.fusion import fused


@dataclass(frozen=True)
class Shape:
    """What the bottleneck and the decoder must know of their teacher."""

    channels: tuple[int, int, int]  # of the feature maps at strides 4, 8, 16
    blocks: tuple[int, int, int, int]  # residual blocks in layer1 to layer4
    inner: float | None  # inner width of a bottleneck block over its output; None for basic blocks


def teacher_shape(backbone: str) -> Shape:
    """Read a timm ResNet's shape. Raises InputError for a network of another family."""
    with torch.device("meta"):  # no memory, no time
        net = timm.create_model(backbone, pretrained=False)
    if not all(hasattr(net, f"layer{level}") for level in (1, 2, 3, 4)):
        raise InputError(f"backbone={backbone!r} is not a ResNet: reverse distillation mirrors layer1 to layer4.")
    channels = tuple(net.feature_info[level]["num_chs"] for level in (1, 2, 3))
    block = net.layer3[0]
    inner = block.conv1.out_channels / channels[2] if hasattr(block, "conv3") else None
    return Shape(channels, tuple(len(getattr(net, f"layer{level}")) for level in (1, 2, 3, 4)), inner)


def _conv(inside: int, outside: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    conv = nn.Conv2d(inside, outside, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _enlarge(inside: int, outside: int) -> nn.ConvTranspose2d:
    """Twice the height and width. Initialised as torch does: the official code fills ordinary convolutions only."""
    return nn.ConvTranspose2d(inside, outside, kernel_size=2, stride=2, bias=False)


def _down(inside: int, outside: int) -> list[nn.Module]:
    """Half the height and width: 3x3 convolution, batch norm, ReLU."""
    return [_conv(inside, outside, 3, stride=2), nn.BatchNorm2d(outside), nn.ReLU(inplace=True)]


class ResidualBlock(nn.Module):
    """The block of a ResNet: basic (3x3, 3x3) if inner is None, else a bottleneck (1x1, 3x3, 1x1).

    scale: 0.5 halves the grid as an encoder does, 2 doubles it as a decoder does (the strided 3x3 becomes a 2x2
    transposed convolution, and so does the shortcut), 1 keeps it.
    """

    def __init__(self, inside: int, outside: int, inner: float | None, scale: float = 1):
        super().__init__()
        width = outside if inner is None else int(outside * inner)

        def resize(inside: int, outside: int, kernel: int = 3) -> nn.Module:
            return _enlarge(inside, outside) if scale == 2 else _conv(inside, outside, kernel, int(1 / scale))

        if inner is None:
            convs = [resize(inside, width), _conv(width, outside, 3)]
        else:
            convs = [_conv(inside, width, 1), resize(width, width), _conv(width, outside, 1)]
        layers = []
        for conv in convs:
            layers += [conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*layers[:-1])  # the last ReLU comes after the sum
        self.shortcut = nn.Identity()
        if scale != 1 or inside != outside:
            self.shortcut = nn.Sequential(resize(inside, outside, kernel=1), nn.BatchNorm2d(outside))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class Bottleneck(nn.Module):
    """One-class bottleneck embedding (OCBE): three feature maps -> one embedding of half the deepest grid.

    Multi-scale fusion brings all to the deepest grid and concatenates; residual blocks like a ResNet's layer4 follow.
    Of a wide ResNet-50 at 256 pixels: 256 @64, 512 @32, 1024 @16 -> 3072 @16 -> 2048 @8. The official code's unused
    1x1 convolution (conv4) is left out.
    """

    def __init__(self, shape: Shape):
        super().__init__()
        first, second, third = shape.channels
        self.fuse1 = nn.Sequential(*_down(first, second), *_down(second, third))
        self.fuse2 = nn.Sequential(*_down(second, third))
        blocks = [ResidualBlock(3 * third, 2 * third, shape.inner, scale=0.5)]
        blocks += [ResidualBlock(2 * third, 2 * third, shape.inner) for _ in range(shape.blocks[3] - 1)]
        self.embed = nn.Sequential(*blocks)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        first, second, third = features
        joined = [fused(self.fuse1, first)(first), fused(self.fuse2, second)(second), third]
        return fused(self.embed, first)(torch.cat(joined, 1))


class Decoder(nn.Module):
    """The mirrored teacher: the embedding -> float [B, C, h, w] per level, in the teacher's order (finest first).

    A stage has as many blocks as the teacher's layer whose output it rebuilds, counted from the deep end as in the
    official code: of a wide ResNet-50 3 blocks at 16, 4 at 32 and 6 at 64 pixels.
    """

    def __init__(self, shape: Shape):
        super().__init__()
        self.stages = nn.ModuleList()
        inside = 2 * shape.channels[2]
        for outside, blocks in zip(reversed(shape.channels), shape.blocks[:3], strict=True):
            stage = [ResidualBlock(inside, outside, shape.inner, scale=2)]
            stage += [ResidualBlock(outside, outside, shape.inner) for _ in range(blocks - 1)]
            self.stages.append(nn.Sequential(*stage))
            inside = outside

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        rebuilt = []
        for stage in self.stages:
            x = fused(stage, x)(x)
            rebuilt.append(x)
        return rebuilt[::-1]


def cosine_distance(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """1 - cosine similarity per position: float [B, C, h, w] twice -> [B, h, w] in [0, 2]."""
    return 1 - F.cosine_similarity(first, second, dim=1)


def image_cosine_distance(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """1 - cosine similarity of whole feature maps: float [B, C, h, w] twice -> [B] in [0, 2]."""
    product = (first * second).sum((1, 2, 3))
    return 1 - product / (first.square().sum((1, 2, 3)) * second.square().sum((1, 2, 3))).sqrt().clamp_min(1e-8)


def levels_loss(first: list[torch.Tensor], second: list[torch.Tensor], distance=image_cosine_distance) -> torch.Tensor:
    """The sum over the levels of the mean distance, in float32, of [B, C, h, w] per level twice: a scalar."""
    return sum(distance(one.float(), other.float()).mean() for one, other in zip(first, second, strict=True))


def distance_map(teacher: list[torch.Tensor], student: list[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
    """The sum of all levels' cosine distances, each enlarged bilinearly (align_corners=True): float [B, H, W]."""
    total = 0
    for expected, rebuilt in zip(teacher, student, strict=True):
        distance = cosine_distance(expected, rebuilt)[:, None]
        total = total + F.interpolate(distance, size=size, mode="bilinear", align_corners=True)[:, 0]
    return total
