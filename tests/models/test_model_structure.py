"""The networks as published: trained and all parameters, feature maps, and the shapes of what is learned.

One row per method and setting. Each is fitted on two images with random weights and the smallest budget; the numbers
expected here come from the papers' and official codes' layer sizes, written as the sums they are.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
import torch
from conftest import make_tree, untrained
from torch import nn

from adlib import ImageSet, create_model, load_samples
from adlib.models import own_models
from adlib.samples import select

R18, WIDE = "resnet18.tv_in1k", "wide_resnet50_2.tv_in1k"


def convolution(inputs: int, outputs: int, side: int) -> int:
    """Parameters of a convolution without bias and the batch norm behind it."""
    return inputs * outputs * side**2 + 2 * outputs


def bottlenecks(blocks: int, inputs: int, width: int, outputs: int) -> int:
    """A stage of a wide ResNet: 1x1, 3x3 and 1x1 convolutions per block, and one 1x1 past the first block."""
    middle = convolution(width, width, 3) + convolution(width, outputs, 1)
    first = convolution(inputs, width, 1) + convolution(inputs, outputs, 1)
    return first + blocks * middle + (blocks - 1) * convolution(outputs, width, 1)


# Up to layer3, without layer4 and classifier: stem, layer1, layer2, layer3.
STEM = convolution(3, 64, 7)
R18_PARAMETERS = STEM + 147_968 + 525_568 + 2_099_712
WIDE_PARAMETERS = STEM + bottlenecks(3, 64, 128, 256) + bottlenecks(4, 256, 256, 512) + bottlenecks(6, 512, 512, 1024)


def mirrored(blocks: int, inputs: int, width: int, outputs: int) -> int:
    """A stage of a mirrored wide ResNet: 2x2 transposed for the first block's 3x3 and 1x1 for the shortcut."""
    less = convolution(width, width, 3) - convolution(width, width, 2)
    return bottlenecks(blocks, inputs, width, outputs) - less + 3 * inputs * outputs


def projections(channels: tuple[int, int, int]) -> int:
    """Of RD++: per stage four 3x3 convolutions with bias, from C to C/2, C/4, C/2 and C channels."""
    return sum(9 * 5 * c**2 // 4 + c // 2 + c // 4 + c // 2 + c for c in channels)


# Reverse distillation: one-class embedding (fusion, then a layer4 on three times the channels) and mirrored decoder.
FUSION = convolution(64, 128, 3) + 2 * convolution(128, 256, 3)
R18_EMBEDDING = FUSION + convolution(768, 512, 3) + convolution(768, 512, 1) + 3 * convolution(512, 512, 3)
R18_DECODER = sum(2 * convolution(2 * c, c, 2) + 3 * convolution(c, c, 3) for c in (256, 128, 64))
WIDE_EMBEDDING = convolution(256, 512, 3) + 2 * convolution(512, 1024, 3) + bottlenecks(3, 3072, 1024, 2048)
WIDE_DECODER = mirrored(3, 2048, 512, 1024) + mirrored(4, 1024, 256, 512) + mirrored(6, 512, 128, 256)
R18_REVERSE, WIDE_REVERSE = R18_EMBEDDING + R18_DECODER, WIDE_EMBEDDING + WIDE_DECODER  # 15.4 and 83.8 million
R18_PROJECTED = R18_REVERSE + projections((64, 128, 256))
WIDE_PROJECTED = WIDE_REVERSE + projections((256, 512, 1024))  # 99.3 million


def couplings(channels: int, steps: int, kernels: tuple[int, ...]) -> int:
    """A flow of FastFlow or U-Flow: per step two convolutions with bias, and a scale and an offset per channel."""
    half, sizes = channels // 2, [kernels[step % len(kernels)] ** 2 for step in range(steps)]
    return sum(half * half * k + half + half * channels * k + channels + 2 * channels for k in sizes)


def conditioned(channels: int, steps: int) -> int:
    """A parallel flow of MSFlow: its subnets see 64 channels of position and have a LayerNorm."""
    inputs = channels // 2 + 64
    return steps * (9 * inputs**2 + inputs + 2 * inputs + 9 * inputs * channels + channels + 2 * channels)


def fusion(channels: tuple[int, ...]) -> int:
    """The fusion of MSFlow: two subnets on half of all channels."""
    total = sum(channels) // 2
    mixed = 9 * total * (total // 4) * 2 + total // 4 + total + 2 * (total // 4)
    return 2 * (mixed + 2 * sum(9 * (c // 2) ** 2 + c // 2 for c in channels))


def pyramid(channels: int, levels: int, stacks: int) -> int:
    """PyramidFlow: 7x7 subnets without bias and 1x1 convolutions as two triangles and a diagonal."""
    single = 49 * (channels * 2 * channels + 4 * channels**2)
    double = 49 * (4 * channels**2 + 4 * channels**2)
    steps = {2: (2, 0), 4: (2, 2), 8: (2, 6)}[levels]  # with one neighbour, with two
    return stacks * (steps[0] * single + steps[1] * double + sum(steps) * (2 * channels**2 + channels))


R18_FLOW = couplings(64, 8, (3,)) + couplings(128, 8, (3,)) + couplings(256, 8, (3,))  # 4.66 million
R18_NORMS = 2 * (64 * 64**2 + 128 * 32**2 + 256 * 16**2)  # 0.92 million, of images of 256 pixels
WIDE_FLOW = sum(couplings(channels, 8, (3, 1)) for channels in (256, 512, 1024))  # 41.3 million
WIDE_NORMS_32 = 2 * (256 * 8**2 + 512 * 4**2 + 1024 * 2**2)
R18_U = couplings(256, 4, (3, 1)) + couplings(160, 4, (3, 1)) + couplings(84, 4, (3, 1))
R18_MS = conditioned(64, 2) + conditioned(128, 5) + conditioned(256, 8) + fusion((64, 128, 256))
WIDE_MS = conditioned(256, 2) + conditioned(512, 5) + conditioned(1024, 8) + fusion((256, 512, 1024))
R18_FIRST = STEM + 147_968


def biased(inputs: int, outputs: int) -> int:
    """Parameters of a 3x3 convolution with bias and the batch norm behind it."""
    return 9 * inputs * outputs + 3 * outputs


def chain(width: int, inputs: int, factors: str) -> int:
    """Of DRAEM: one such layer after the other, to as many channels as each digit times the width."""
    widths = [inputs, *(int(factor) * width for factor in factors)]
    return sum(biased(*pair) for pair in pairwise(widths))


# DRAEM: two layers per level down, three up; the second network's first layer of each level up has a skip beside it.
DRAEM_RECONSTRUCTION = chain(128, 3, "1122448888" + "884442221111") + 9 * 128 * 3 + 3
DRAEM_UP = sum(
    biased(64 * i, 64 * o) + biased(64 * (o + skip), 64 * o) + biased(64 * o, 64 * o)
    for i, o, skip in ((8, 8, 8), (8, 4, 8), (4, 2, 4), (2, 1, 2), (1, 1, 1))
)
DRAEM = DRAEM_RECONSTRUCTION + chain(64, 6, "112244888888") + DRAEM_UP + 9 * 64 * 2 + 2  # 97.4 million


def basics(inputs: int, outputs: int) -> int:
    """Two basic blocks of a ResNet, with a 1x1 convolution past the first if the number of channels changes."""
    shortcut = 0 if inputs == outputs else convolution(inputs, outputs, 1)
    return convolution(inputs, outputs, 3) + 3 * convolution(outputs, outputs, 3) + shortcut


# DeSTSeg: a ResNet-18 to layer4 and four pairs of blocks back; on 64 + 128 + 256 similarities two blocks and a pyramid.
LAYER4 = convolution(256, 512, 3) + 3 * convolution(512, 512, 3) + convolution(256, 512, 1)
R18_STUDENT = R18_PARAMETERS + LAYER4 + basics(512, 512) + basics(512, 256) + basics(256, 128) + basics(128, 64)
PYRAMID = convolution(256, 256, 1) + 3 * convolution(256, 256, 3) + convolution(1024, 256, 3)
R18_DESTSEG = R18_STUDENT + basics(448, 256) + PYRAMID + convolution(256, 256, 3) + 256 + 1


def plain(inputs: int, outputs: int, side: int) -> int:
    """Parameters of a convolution with bias."""
    return inputs * outputs * side**2 + outputs


def patches_small(features: int) -> int:
    """EfficientAD-S, teacher or student, of so many output channels."""
    return plain(3, 128, 4) + plain(128, 256, 4) + plain(256, 256, 3) + plain(256, features, 4)


def patches_medium(features: int) -> int:
    """EfficientAD-M likewise."""
    first = plain(3, 256, 4) + plain(256, 512, 4) + plain(512, 512, 1) + plain(512, 512, 3)
    return first + plain(512, features, 4) + plain(features, features, 1)


# EfficientAD's autoencoder of 64 pixels, which five halvings leave 2 x 2.
AUTOENCODER = plain(3, 32, 4) + plain(32, 32, 4) + plain(32, 64, 4) + 8 * plain(64, 64, 4) + plain(64, 64, 2)
AUTOENCODER += plain(64, 64, 3) + plain(64, 384, 3)


def inverted(inputs: int, outputs: int, side: int, expand: int = 6) -> int:
    """A block of an EfficientNet: 1x1, depthwise, squeeze and excitation to a quarter of its inputs, 1x1."""
    inner, squeezed = inputs * expand, inputs // 4
    widen = convolution(inputs, inner, 1) if expand > 1 else 0
    excite = 2 * inner * squeezed + squeezed + inner
    return widen + convolution(1, inner, side) + excite + convolution(inner, outputs, 1)


def adapter(inputs: int, outputs: int) -> int:
    """Of CFRG: depthwise 3x3 and 1x1 with a norm, full 3x3 and 1x1 with a norm."""
    return 9 * inputs + convolution(inputs, inputs, 1) + 9 * inputs**2 + convolution(inputs, outputs, 1)


def fine(first: int, second: int, third: int) -> int:
    """The decoder of CFRG: 4x4 transposed convolutions, two 3x3 behind each, skips beside the first two."""
    steps = ((third, second, second), (second, first, first), (first, first // 2, 0), (first // 2, first // 4, 0))
    total = sum(16 * i * o + o + biased(o + skip, o) + biased(o, o) for i, o, skip in steps)
    return total + 9 * (first // 4) + 1


# An EfficientNet-B0 up to stride 16: stem and five stages.
B0 = convolution(3, 32, 3) + inverted(32, 16, 3, expand=1)
B0 += inverted(16, 24, 3) + inverted(24, 24, 3) + inverted(24, 40, 5) + inverted(40, 40, 5)
B0 += inverted(40, 80, 3) + 2 * inverted(80, 80, 3) + inverted(80, 112, 5) + 2 * inverted(112, 112, 5)
R18_CFRG = R18_REVERSE + B0 + fine(64, 128, 256) + adapter(24, 64) + adapter(40, 128) + adapter(112, 256)
WIDE_CFRG = WIDE_REVERSE + B0 + fine(256, 512, 1024) + adapter(24, 256) + adapter(40, 512) + adapter(112, 1024)


def unet(channels: int) -> int:
    """Of RealNet: half of the channels, then once and twice as many; (inputs, outputs) of every block in turn."""
    b = channels // 2
    down = [(b, b), (b, b), (b, b), (b, 2 * b), (2 * b, 2 * b), (2 * b, 2 * b), (2 * b, 4 * b), (4 * b, 4 * b)]
    up = [(8 * b, 4 * b), (8 * b, 4 * b), (6 * b, 4 * b), (4 * b, 4 * b)]
    up += [(6 * b, 2 * b), (4 * b, 2 * b), (3 * b, 2 * b), (2 * b, 2 * b), (3 * b, b), (2 * b, b), (2 * b, b)]
    blocks = sum(2 * i + 9 * i * o + o + (i * o + o) * (i != o) for i, o in down + 2 * [(4 * b, 4 * b)] + up)
    attention = sum(2 * c + 3 * c * c + 3 * c + c * c + c for c in 5 * [2 * b] + 6 * [4 * b])
    enlarging = sum(2 * (16 * c * c + c) for c in (2 * b, 4 * b))
    return 9 * channels * b + b + blocks + attention + enlarging + 2 * b + 9 * b * channels + channels


# RealNet's decoder on 2 x 256 residual channels, to 128, 32, 8, 4 and 2.
RESIDUALS = 2 * 10 * 512**2 + biased(512, 128) + sum(9 * i * o + o for i, o in pairwise((128, 32, 8, 4, 2)))


# Adaptor and discriminator on pooled patches of D values: D -> D with bias, then D -> H with bias, batch norm, H -> 1.
def discriminator(size: int, hidden: int) -> int:
    return size * size + size + size * hidden + hidden + 2 * hidden + hidden


# SuperSimpleNet on C channels: adaptor and segmentation head as above, a 5x5 convolution with bias from C + 1 channels
# to 128 and its norm, and a score of 256 pooled values and 2 of the map.
def two_heads(channels: int, hidden: int) -> int:
    return discriminator(channels, hidden) + 25 * (channels + 1) * 128 + 128 + 2 * 128 + 258 + 1


# GANomaly: 4x4 convolutions without bias, the first without a norm, as many channels more as pixels fewer, to 4 x 4.
def narrowing(channels: int, widths: tuple[int, ...], code: int) -> int:
    middle = sum(16 * i * o + 2 * o for i, o in pairwise(widths))
    return 16 * channels * widths[0] + middle + 16 * widths[-1] * code


def widening(channels: int, widths: tuple[int, ...], code: int) -> int:
    """The same convolutions backwards, with a norm behind each but the last."""
    convolutions = narrowing(channels, widths, code) - sum(2 * o for o in widths[1:])
    return convolutions + sum(2 * o for o in widths)


# Of images of 64 pixels; of grey ones 10.7 and 2.8 million.
SIDE_64 = (64, 128, 256, 512)
GANOMALY = 2 * narrowing(3, SIDE_64, 100) + widening(3, SIDE_64, 100) + narrowing(3, SIDE_64, 1)
ONE_ENCODER = narrowing(1, SIDE_64, 100) + widening(1, SIDE_64, 100) + narrowing(1, SIDE_64, 1)


def residual(inputs: int, outputs: int, middle: int) -> int:
    """Of f-AnoGAN: two norms, a 3x3 without and one with bias, a 1x1 with bias."""
    convolutions = 9 * inputs * middle + 9 * middle * outputs + outputs + inputs * outputs + outputs
    return 2 * inputs + 2 * middle + convolutions


def trunk(outputs: int) -> int:
    """f-AnoGAN's critic (one output) or encoder (128): a 3x3, four blocks, a linear layer on 512 x 4 x 4."""
    blocks = sum(residual(i, o, i) for i, o in pairwise((64, 128, 256, 512, 512)))
    return 9 * 64 + 64 + blocks + 8192 * outputs + outputs


DRAWING = sum(residual(i, o, o) for i, o in pairwise((512, 512, 256, 128, 64)))
FANOGAN = (128 * 8192 + 8192 + DRAWING + 2 * 64 + 9 * 64 + 1) + trunk(1) + trunk(128)  # 8.54, 7.49, 8.53 million


# RIAD: two convolutions with bias and norm per level down (the first 4x4, but at full size) and up, beside a skip, and
# 4x4 transposed ones without a norm.
RIAD_DOWN = sum(plain(i, o, 4) + 2 * o + biased(o, o) for i, o in pairwise((64, 128, 256, 512, 512)))
RIAD_UP = sum(plain(i, o, 4) + biased(2 * o, o) + biased(o, o) for i, o in pairwise((512, 512, 256, 128, 64)))
RIAD = biased(3, 64) + biased(64, 64) + RIAD_DOWN + RIAD_UP + plain(64, 3, 3)  # 28.8 million


def timed(inputs: int, outputs: int, time: int) -> int:
    """A residual block of DDAD's UNet: norm and 3x3 twice, a linear layer of the time, a 1x1 past it if need be."""
    shortcut = 0 if inputs == outputs else plain(inputs, outputs, 1)
    convolutions = plain(inputs, outputs, 3) + plain(outputs, outputs, 3) + shortcut
    return 2 * inputs + 2 * outputs + convolutions + plain(time, outputs, 1)


def denoiser(width: int, multipliers: tuple[int, ...], attended: tuple[bool, ...]) -> int:
    """DDAD's UNet: two blocks per level down and three up, beside a skip each; self-attention behind some."""
    time, levels = 4 * width, [width * factor for factor in multipliers]
    total = plain(width, time, 1) + plain(time, time, 1) + plain(3, width, 3) + 2 * width + plain(width, 3, 3)
    channels, skips = width, [width]
    for level, attention in zip(levels, attended, strict=True):
        for _ in range(2):
            total += timed(channels, level, time) + attention * (2 * level + 4 * plain(level, level, 1))
            channels = level
            skips.append(level)
        if len(skips) < 3 * len(levels):  # halves, but for the last
            total += timed(level, level, time)
            skips.append(level)
    total += 2 * timed(channels, channels, time) + 2 * channels + 4 * plain(channels, channels, 1)
    for level, attention in zip(levels[::-1], attended[::-1], strict=True):
        for _ in range(3):
            total += timed(channels + skips.pop(), level, time) + attention * (2 * level + 4 * plain(level, level, 1))
            channels = level
        if skips:  # doubles
            total += timed(level, level, time)
    return total


# MSAD: a ResNet-152 of which the last two stages learn.
R152_FROZEN = STEM + bottlenecks(3, 64, 64, 256) + bottlenecks(8, 256, 128, 512)
R152_TRAINED = bottlenecks(36, 512, 256, 1024) + bottlenecks(3, 1024, 512, 2048)  # 58.1 million together

WITHOUT_MAPS = {"msad"}


# CLIP, as open_clip's transformers: two norms, attention, and a perceptron of four times the width.
def attending(width: int) -> int:
    return 4 * width + 4 * plain(width, width, 1) + plain(width, 4 * width, 1) + plain(4 * width, width, 1)


def clip(image: int, layers: int, patch: int, grid: int, text: int, text_layers: int, joint: int) -> int:
    """Both towers: patches and a class token with positions, norms before and after; 49,408 words, 77 positions."""
    seeing = 3 * patch**2 * image + image + (grid**2 + 1) * image + 4 * image + layers * attending(image)
    return seeing + 49408 * text + 77 * text + 2 * text + text_layers * attending(text) + (image + text) * joint + 1


def hybrid(image: int, text: int, joint: int) -> int:
    """AdaCLIP's prompts of 5 tokens for 4 layers, their generators, and projections of 4 layers and of the image."""
    prompts = 4 * 5 * (image + text) + 5 * (plain(joint, image, 1) + plain(joint, text, 1))
    return prompts + 4 * plain(image, joint, 1) + plain(joint, joint, 1)


TINY_CLIP = clip(64, 4, 8, 8, 32, 4, 48)


def attention(width: int) -> int:
    """Queries, keys, values and output of multi-head attention, with bias."""
    return 4 * (width**2 + width)


def feed(width: int, hidden: int) -> int:
    return 2 * width * hidden + width + hidden


def transformer_block(width: int, hidden: int) -> int:
    """Attention, perceptron, two norms."""
    return attention(width) + feed(width, hidden) + 4 * width


DINOMALY = feed(64, 256) + 4 * transformer_block(64, 256)
TEST_VIT = 3 * 16**2 * 64 + 64 + 64 + (1 + 10**2) * 64 + 5 * transformer_block(64, 192)


def tokens(channels: int, side: int, width: int, hidden: int, layers: int) -> int:
    """Of UniAD and OneNIP: into tokens and back, positions of side x side, encoder (two norms per layer)."""
    layer = attention(width) + feed(width, hidden) + 4 * width
    return 2 * channels * width + channels + width + side * width + layers * layer


def uniad(channels: int, side: int, width: int = 256, hidden: int = 1024, layers: int = 4) -> int:
    """Decoder: per layer a query per token, two attentions, three norms; a last norm."""
    layer = side**2 * width + 2 * attention(width) + feed(width, hidden) + 6 * width
    return tokens(channels, side, width, hidden, layers) + layers * layer + 2 * width


def onenip(channels: int, side: int, width: int = 256, hidden: int = 1024, layers: int = 4, refiner: int = 128) -> int:
    """Decoder: per layer two attentions, three norms; a last attention and norm. Refiner: 3x3, then 2x2 transposed."""
    decoder = layers * (2 * attention(width) + feed(width, hidden) + 6 * width) + attention(width) + 2 * width
    enlarging = 2 * (4 * refiner**2 + refiner)
    refined = convolution(channels, refiner, 3) + convolution(refiner, refiner, 3) + enlarging + refiner + 1
    return tokens(channels, side, width, hidden, layers) + decoder + refined


def crad(channels: int, side: int, expansion: float = 2, blocks: int = 11) -> int:
    """Grids of 8 x 8 vectors and 4 x 4 whole maps, two coordinate networks, fusion on twice the channels, a 1x1."""
    both, inner = 2 * channels, round(2 * channels * expansion)
    coordinates = 2 * (channels**2 + channels + 2 * channels + 2)
    excite = 2 * inner * (inner // 4)
    block = convolution(both, inner, 1) + convolution(1, inner, 3) + excite + convolution(inner, both, 1)
    return 64 * channels + 16 * channels * side**2 + coordinates + blocks * block + both * channels


# An EfficientNet-B4 up to stride 16: stem and five stages of 2, 4, 4, 6 and 6 blocks.
B4 = convolution(3, 48, 3) + inverted(48, 24, 3, expand=1) + inverted(24, 24, 3, expand=1)
for i, o, side, more in ((24, 32, 3, 3), (32, 56, 5, 3), (56, 112, 3, 5), (112, 160, 5, 5)):
    B4 += inverted(i, o, side) + more * inverted(o, o, side)


@dataclass
class Row:
    """method and settings: for create_model; size: of the two images in pixels.

    trained: parameters that an optimiser changes; total: those and the frozen ones.
    features: (C, h, w) of each stage of the backbone, if there is one. learned: shapes of tensors of model.state().
    """

    method: str
    settings: dict
    size: int
    trained: int
    total: int
    features: list[tuple[int, int, int]]
    learned: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.method, *(str(value) for value in self.settings.values())])


ROWS = [
    # two images x 28 x 28 positions, of which a tenth stays; 1024 pooled values
    Row("patchcore", {"backbone": R18}, 224, 0, R18_PARAMETERS, [(128, 28, 28), (256, 14, 14)],
        {"memory_bank": (156, 1024)}),
    Row("patchcore", {"backbone": WIDE}, 64, 0, WIDE_PARAMETERS, [(512, 8, 8), (1024, 4, 4)],
        {"memory_bank": (12, 1024)}),
    # one Gaussian for each of 56 x 56 positions
    Row("padim", {"backbone": R18}, 224, 0, R18_PARAMETERS, [(64, 56, 56), (128, 28, 28), (256, 14, 14)],
        {"kept": (100,), "mean": (3136, 100), "whitening": (3136, 100, 100)}),
    Row("padim", {"backbone": WIDE}, 32, 0, WIDE_PARAMETERS, [(256, 8, 8), (512, 4, 4), (1024, 2, 2)],
        {"kept": (550,), "mean": (64, 550), "whitening": (64, 550, 550)}),
    # a 1x1 convolution from all channels and two coordinates to as many channels, its bias, the radius
    Row("cfa", {"backbone": R18, "epochs": 1}, 64, 450 * 448 + 448 + 1, R18_PARAMETERS + 450 * 448 + 448 + 1,
        [(64, 16, 16), (128, 8, 8), (256, 4, 4)], {"memory_bank": (256, 448)}),
    Row("cfa", {"backbone": WIDE, "epochs": 1}, 32, 1794 * 1792 + 1793, WIDE_PARAMETERS + 1794 * 1792 + 1793,
        [(256, 8, 8), (512, 4, 4), (1024, 2, 2)], {"memory_bank": (64, 1792)}),
    # the student is a second teacher
    Row("stfpm", {"backbone": R18, "epochs": 1}, 64, R18_PARAMETERS, 2 * R18_PARAMETERS,
        [(64, 16, 16), (128, 8, 8), (256, 4, 4)], {"student.net.conv1.weight": (64, 3, 7, 7)}),
    Row("stfpm", {"backbone": WIDE, "epochs": 0}, 32, WIDE_PARAMETERS, 2 * WIDE_PARAMETERS,
        [(256, 8, 8), (512, 4, 4), (1024, 2, 2)]),
    Row("rd4ad", {"backbone": R18, "epochs": 1}, 64, R18_REVERSE, R18_REVERSE + R18_PARAMETERS,
        [(64, 16, 16), (128, 8, 8), (256, 4, 4)]),
    Row("rd4ad", {"backbone": WIDE, "epochs": 0}, 64, WIDE_REVERSE, WIDE_REVERSE + WIDE_PARAMETERS,
        [(256, 16, 16), (512, 8, 8), (1024, 4, 4)]),
    Row("rdpp", {"backbone": R18, "epochs": 1}, 64, R18_PROJECTED, R18_PROJECTED + R18_PARAMETERS,
        [(64, 16, 16), (128, 8, 8), (256, 4, 4)]),
    Row("rdpp", {"backbone": WIDE, "epochs": 0}, 64, WIDE_PROJECTED, WIDE_PROJECTED + WIDE_PARAMETERS,
        [(256, 16, 16), (512, 8, 8), (1024, 4, 4)]),
    Row("fastflow", {"backbone": R18, "epochs": 0}, 256, R18_FLOW + R18_NORMS,
        R18_FLOW + R18_NORMS + R18_PARAMETERS, [(64, 64, 64), (128, 32, 32), (256, 16, 16)]),
    Row("fastflow", {"backbone": WIDE, "epochs": 0}, 32, WIDE_FLOW + WIDE_NORMS_32,
        WIDE_FLOW + WIDE_NORMS_32 + WIDE_PARAMETERS, [(256, 8, 8), (512, 4, 4), (1024, 2, 2)]),
    # each scale carries a quarter of half its channels to the next finer one: 256 -> 32, 128 + 32 -> 20, 64 + 20
    Row("uflow", {"backbone": R18, "epochs": 0}, 256, R18_U + R18_NORMS, R18_U + R18_NORMS + R18_PARAMETERS,
        [(64, 64, 64), (128, 32, 32), (256, 16, 16)]),
    Row("msflow", {"backbone": R18, "epochs": 1}, 64, R18_MS, R18_MS + R18_PARAMETERS,
        [(64, 8, 8), (128, 4, 4), (256, 2, 2)]),
    Row("msflow", {"backbone": WIDE, "epochs": 0}, 64, WIDE_MS, WIDE_MS + WIDE_PARAMETERS,
        [(256, 8, 8), (512, 4, 4), (1024, 2, 2)]),
    Row("pyramidflow", {"backbone": R18, "epochs": 0}, 64, pyramid(64, 4, 4), pyramid(64, 4, 4) + R18_FIRST,
        [(64, 16, 16)], {"template.0": (1, 64, 16, 16), "template.3": (1, 64, 2, 2)}),
    Row("pyramidflow", {"backbone": "none", "levels": 8, "channels": 24, "stacks": 1, "epochs": 0}, 128,
        pyramid(24, 8, 1), pyramid(24, 8, 1), [(24, 128, 128)]),
    # both networks are trained, and nothing is pretrained
    Row("draem", {"epochs": 0}, 32, DRAEM, DRAEM, []),
    # the student has twice the teacher's channels: 384 for the teacher and 384 for the autoencoder
    Row("efficientad", {"network": "small", "weights": "random", "steps": 0}, 64, patches_small(768) + AUTOENCODER,
        patches_small(768) + AUTOENCODER + patches_small(384), [],
        {"statistics": (2, 1, 384, 1, 1), "quantiles": (2, 2), "student.conv4.weight": (768, 256, 4, 4)}),
    Row("efficientad", {"network": "medium", "weights": "random", "steps": 0}, 64, patches_medium(768) + AUTOENCODER,
        patches_medium(768) + AUTOENCODER + patches_medium(384), [], {"student.conv6.weight": (768, 768, 1, 1)}),
    Row("destseg", {"backbone": R18, "student_steps": 1, "segmentation_steps": 1}, 64, R18_DESTSEG,
        R18_DESTSEG + R18_PARAMETERS, [(64, 16, 16), (128, 8, 8), (256, 4, 4)]),
    Row("cfrg", {"backbone": R18, "epochs": 1}, 64, R18_CFRG, R18_CFRG + R18_PARAMETERS,
        [(64, 16, 16), (128, 8, 8), (256, 4, 4)]),
    Row("cfrg", {"backbone": WIDE, "epochs": 0}, 32, WIDE_CFRG, WIDE_CFRG + WIDE_PARAMETERS,
        [(256, 8, 8), (512, 4, 4), (1024, 2, 2)]),
    Row("realnet", {"backbone": R18, "channels": (64, 64, 128, 64), "selection_batches": 1, "epochs": 0}, 128,
        3 * unet(64) + unet(128) + RESIDUALS, 3 * unet(64) + unet(128) + RESIDUALS + R18_PARAMETERS + LAYER4,
        [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)],
        {"selection.kept0": (64,), "selection.kept2": (128,), "decoder.rank_norm.running_mean": (320,)}),
    # 7.72 million; 14 x 14 tokens of 24 + 32 + 56 + 160 channels
    Row("uniad", {"epochs": 0}, 224, uniad(272, 14), uniad(272, 14) + B4, [(272, 14, 14)],
        {"reconstruction.decoder.3.query": (196, 256), "reconstruction.rows": (14, 128)}),
    Row("uniad", {"backbone": R18, "epochs": 1}, 64, uniad(512, 4), uniad(512, 4) + R18_PARAMETERS, [(512, 4, 4)]),
    # bottleneck and four blocks; of the transformer, patches of 16, class token, places, and blocks 0 to 4
    Row("dinomaly", {"backbone": "test_vit", "stages": (1, 2, 3, 4), "heads": 2, "steps": 1}, 64, DINOMALY,
        DINOMALY + TEST_VIT, [(64, 4, 4)] * 4),
    # 8.37 million
    Row("onenip", {"epochs": 0}, 224, onenip(272, 14), onenip(272, 14) + B4, [(272, 14, 14)],
        {"prompts": (1, 272, 14, 14), "refiner.net.8.weight": (1, 128, 1, 1)}),
    Row("onenip", {"backbone": R18, "epochs": 1}, 64, onenip(512, 4), onenip(512, 4) + R18_PARAMETERS,
        [(512, 4, 4)]),
    # 15.4 and 5.3 million
    Row("crad", {"epochs": 0}, 224, crad(216, 28), crad(216, 28) + B4, [(216, 28, 28)],
        {"reconstruction.memory.local_grid": (1, 216, 8, 8),
         "reconstruction.memory.global_grid": (1, 169_344, 4, 4)}),
    Row("crad", {"expansion": 0.5, "epochs": 0}, 224, crad(216, 28, 0.5), crad(216, 28, 0.5) + B4, [(216, 28, 28)]),
    # 2.4 million in the adaptor, 1.6 in the discriminator
    Row("simplenet", {"backbone": R18, "embedding_size": 384, "epochs": 1}, 64, discriminator(384, 1024),
        discriminator(384, 1024) + R18_PARAMETERS, [(128, 8, 8), (256, 4, 4)],
        {"adaptor.weight": (384, 384), "discriminator.linear.weight": (1024, 384)}),
    Row("simplenet", {"backbone": WIDE, "epochs": 0}, 32, discriminator(1536, 1024),
        discriminator(1536, 1024) + WIDE_PARAMETERS, [(512, 4, 4), (1024, 2, 2)],
        {"adaptor.weight": (1536, 1536), "discriminator.linear.weight": (1024, 1536)}),
    Row("glass", {"backbone": R18, "embedding_size": 384, "epochs": 1}, 64, discriminator(384, 1024),
        discriminator(384, 1024) + R18_PARAMETERS, [(128, 8, 8), (256, 4, 4)]),
    Row("glass", {"backbone": WIDE, "epochs": 0}, 32, discriminator(1536, 1024),
        discriminator(1536, 1024) + WIDE_PARAMETERS, [(512, 4, 4), (1024, 2, 2)]),
    # another 4.9 million in the classification head
    Row("supersimplenet", {"backbone": R18, "epochs": 1}, 64, two_heads(384, 1024),
        two_heads(384, 1024) + R18_PARAMETERS, [(128, 8, 8), (256, 4, 4)]),
    Row("supersimplenet", {"backbone": WIDE, "epochs": 0}, 32, two_heads(1536, 1024),
        two_heads(1536, 1024) + WIDE_PARAMETERS, [(512, 4, 4), (1024, 2, 2)],
        {"adaptor.weight": (1536, 1536, 1, 1), "heads.classify.0.weight": (128, 1537, 5, 5)}),
    # two encoders or one, a decoder and a discriminator: generator and discriminator take turns
    Row("ganomaly", {"epochs": 1}, 64, GANOMALY, GANOMALY, [], {"generator.encoder.code.weight": (100, 512, 4, 4)}),
    Row("iad_inpainting", {"epochs": 1, "inpainting_epochs": 1}, 64, ONE_ENCODER, ONE_ENCODER, []),
    # generator and critic first, the encoder then
    Row("fanogan", {"gan_steps": 1, "encoder_steps": 1}, 64, FANOGAN, FANOGAN, [],
        {"generator.linear.weight": (8192, 128), "critic.linear.weight": (1, 8192),
         "encoder.linear.weight": (128, 8192)}),
    Row("adaclip", {"towers": "tiny", "weights": "random", "epochs": 0}, 32, hybrid(64, 32, 48),
        TINY_CLIP + hybrid(64, 32, 48), [],
        {"prompts.image_static.0": (5, 64), "prompts.project_patches.3.weight": (48, 64)}),
    Row("riad", {"epochs": 0}, 32, RIAD, RIAD, []),
    # the adapted features are trained too
    Row("ddad", {"backbone": R18, "weights": "random", "width": 32, "multipliers": (1, 2), "attention": (2,),
        "epochs": 1, "border": 4}, 32, denoiser(32, (1, 2), (False, True)) + R18_PARAMETERS,
        denoiser(32, (1, 2), (False, True)) + R18_PARAMETERS, [], {"largest": (2,)}),
    # the classifier of ImageNet without its 1000 classes, and one linear output; 11.2 million
    Row("mixed_supervised", {"backbone": R18, "weights": "random", "epochs": 0}, 64, R18_PARAMETERS + LAYER4 + 513,
        R18_PARAMETERS + LAYER4 + 513, [], {"classifier.head.weight": (1, 512)}),
    Row("msad", {"backbone": R18, "weights": "random", "trained_layers": None, "epochs": 1}, 64,
        R18_PARAMETERS + LAYER4, R18_PARAMETERS + LAYER4, [], {"memory_bank": (2, 512)}),
    Row("msad", {"weights": "random", "epochs": 0}, 32, R152_TRAINED, R152_FROZEN + R152_TRAINED, [],
        {"memory_bank": (2, 2048)}),
]  # fmt: skip


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return load_samples("folder", make_tree(tmp_path_factory.mktemp("tree"), train=2, normal=1, anomalous=1))


def networks(model) -> list[nn.Module]:
    return [value for name, value in vars(model).items() if name.endswith("_") and isinstance(value, nn.Module)]


# A method that is there on a small backbone too need not always be built on a large one.
SMALL = {row.method for row in ROWS if row.settings.get("backbone") == R18}
LARGE = [row.settings.get("backbone") == WIDE and row.method in SMALL for row in ROWS]


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=[pytest.mark.slow] * large) for row, large in zip(ROWS, LARGE, strict=True)],
    ids=str,
)
def test_network_is_the_published_one(row, samples):
    split = "test" if "auxiliary" in create_model(row.method).parameters else "train"
    images = ImageSet(select(samples, split=split), size=row.size)
    weights = {"weights": "random"} if row.features else {}
    model = untrained(row.method, **weights, **row.settings).fit(images, device="cpu", progress=False)
    parameters = {id(value): value for network in networks(model) for value in network.parameters()}.values()
    assert sum(value.numel() for value in parameters if value.requires_grad) == row.trained
    assert sum(value.numel() for value in parameters) == row.total

    batch = torch.stack([images.pixels(index) for index in range(2)])
    stages = model.backbone_(batch) if row.features else []
    assert [tuple(stage.shape[1:]) for stage in stages] == row.features
    state = model.state()
    assert {name: tuple(state[name].shape) for name in row.learned} == row.learned
    with torch.inference_mode():
        scores, maps = model.score_batch(batch)
    assert scores.shape == (2,)
    if row.method in WITHOUT_MAPS:
        assert maps is None
    else:
        assert maps.shape == (2, row.size, row.size)


def test_ddads_unet_adds_up_to_the_published_size():
    assert denoiser(64, (1, 1, 2, 2, 4, 4), (False, False, False, True, True, True)) == 32_952_707


def test_clip_and_adaclip_have_the_published_sizes():
    assert clip(1024, 24, 14, 24, 768, 12, 768) == 427_944_193  # ViT-L/14 of 336 pixels, by open_clip
    assert hybrid(1024, 768, 768) == 10_665_472  # 10.67 million


def test_every_method_has_a_row():
    assert {row.method for row in ROWS} == set(own_models())
