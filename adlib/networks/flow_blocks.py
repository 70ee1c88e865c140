"""Parts of normalising flows: invertible blocks with exact log-determinants, Gaussian likelihoods, their features.

FastFlow, U-Flow and MSFlow stack the same block: an affine coupling, a scale and an offset per channel, a fixed
permutation of the channels (FrEIA's "all-in-one" block, which their official codes import; written anew here).
PyramidFlow uses the invertible 1x1 convolution. All that enters a likelihood is computed in float32.
"""

import copy
import math
from collections.abc import Callable
from itertools import repeat

import timm
import torch
import torch.nn.functional as F
from torch import nn

from adlib.errors import InputError
from adlib.features.backbones import Backbone, fill_network, hold_statistics
from adlib.features.fusion import forget, of_present_weights

# Soft clamps of a log-scale: the identity near 0 (times a constant), bounded far away, so that exp() stays finite.
# tanh(a) is written as 2 * sigmoid(2 a) - 1.


def tanh_clamp(raw: torch.Tensor, limit: float, width: float = 1.0) -> torch.Tensor:
    """limit * tanh(raw / width), within (-limit, limit). FrEIA: width 1 up to 0.2, the limit since August 2023."""
    return torch.sigmoid(raw * (2 / width)) * (2 * limit) - limit  # sigmoid takes a tenth of tanh's time on a CPU


def atan_clamp(raw: torch.Tensor, limit: float) -> torch.Tensor:
    """limit * 0.636 * atan(raw / limit), within (-limit, limit); 0.636 is about 2 / pi."""
    return limit * 0.636 * torch.atan(raw / limit)


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """What a subnet said, in a precision that exp() and sums can bear, whatever the precision of the training."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


CACHED_VALUES = 2**20  # of a feature map that a CPU's cache holds beside what is computed of it

# Blocks. forward(x) gives the latent and the log-determinant of its Jacobian per image; inverse(z) gives x back.


def convolutions(kernel: int, ratio: float) -> Callable[[int, int], nn.Module]:
    """Maker of the subnet of FastFlow and U-Flow: convolution, ReLU, convolution; `ratio` hidden per input channel."""

    def make(inputs: int, outputs: int) -> nn.Module:
        hidden = int(inputs * ratio)
        return nn.Sequential(
            nn.Conv2d(inputs, hidden, kernel, padding="same"),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, outputs, kernel, padding="same"),
        )

    return make


class CouplingBlock(nn.Module):
    """Affine coupling, scale and offset per channel, fixed random permutation of the channels.

    channels: C. The first ceil(C / 2) pass and, with the condition, parametrise the change of the rest.
    subnet: makes a network from (input channels, output channels); its output times 0.1 is log-scale and shift.
    limit, width: of the clamp of log-scales.
    condition: channels of a condition that every call brings along, 0 for none.

    The scale per channel is 0.1 * softplus(p) with beta 0.5, which starts at 1. The permutation is drawn from
    torch's global generator.
    """

    def __init__(self, channels: int, subnet: Callable, limit: float, width: float = 1.0, condition: int = 0):
        super().__init__()
        self.halves = (channels - channels // 2, channels // 2)
        self.subnet = subnet(self.halves[0] + condition, 2 * self.halves[1])
        self.limit, self.width = limit, width
        self.raw_scale = nn.Parameter(torch.full((channels,), 2 * math.log(math.exp(5) - 1)))
        self.offset = nn.Parameter(torch.zeros(channels))
        self.register_buffer("order", torch.randperm(channels))

    def scale(self) -> torch.Tensor:
        """[C], positive."""
        return 0.1 * F.softplus(self.raw_scale, beta=0.5)

    def parameters_of_change(self, passed: torch.Tensor, condition: torch.Tensor | None) -> tuple:
        """Log-scale and ten times the shift of the changed half, each [B, C // 2, h, w], at least float32."""
        given = passed if condition is None else torch.cat([passed, condition], 1)
        outputs = self.subnet(given)
        raw, shift = at_least_float32(outputs).chunk(2, 1)
        return tanh_clamp(0.1 * raw, self.limit, self.width), shift

    def forward(self, x, condition=None):
        passed, changed = x.split(self.halves, 1)
        log_scale, shift = self.parameters_of_change(passed, condition)
        changed = torch.add(changed * log_scale.exp(), shift, alpha=0.1)
        scale = self.scale()
        y = torch.cat([passed, changed], 1)
        y = torch.addcmul(self.offset.view(1, -1, 1, 1), y, scale.view(1, -1, 1, 1))
        log_det = log_scale.sum((1, 2, 3)) + x.shape[-2] * x.shape[-1] * scale.log().sum()
        return y.index_select(1, self.order), log_det

    def inverse(self, z, condition=None):
        y = (z.index_select(1, self.order.argsort()) - self.offset.view(1, -1, 1, 1)) / self.scale().view(1, -1, 1, 1)
        passed, changed = y.split(self.halves, 1)
        log_scale, shift = self.parameters_of_change(passed, condition)
        return torch.cat([passed, (changed - 0.1 * shift) * (-log_scale).exp()], 1)


class FoldedCoupling(nn.Module):
    """A coupling block for prediction, its constants folded into the last convolution of its subnet.

    block: whose subnet is a sequence that ends in a convolution. order: int64 [C], where the block's channels lie in
        what the one before gives.
    folded(x, condition): x [B, h, w, C] -> the block's latent [B, h, w, C], before its permutation.
    """

    def __init__(self, block: CouplingBlock, order: torch.Tensor):
        super().__init__()
        passed, changed = block.halves
        scale = block.scale()
        self.passed, self.changed = order.split(block.halves)
        self.scale, self.offset = scale[:passed], block.offset[:passed]
        # The scale of what is changed, times exp() of the clamp, is exp(added + doubled * sigmoid(raw)).
        self.added, self.doubled = scale[passed:].log() - block.limit, 2 * block.limit
        self.head, self.last = block.subnet[:-1], copy.deepcopy(block.subnet[-1]).requires_grad_(False)
        factors = torch.cat([scale.new_full((changed,), 0.2 / block.width), 0.1 * scale[passed:]])
        self.last.weight *= factors[:, None, None, None]
        self.last.bias *= factors
        self.last.bias += F.pad(block.offset[passed:], (changed, 0))

    def forward(self, x, condition=None):
        # gather() takes half the time of index_select(), and makes the halves dense, as convolutions want them.
        passed = x.gather(3, self.passed.expand(*x.shape[:3], -1))
        changed = x.gather(3, self.changed.expand(*x.shape[:3], -1))
        given = passed.permute(0, 3, 1, 2)
        given = given if condition is None else torch.cat([given, condition], 1)
        raw, shift = at_least_float32(self.last(self.head(given))).permute(0, 2, 3, 1).chunk(2, 3)
        growth = torch.sigmoid(raw)
        growth = torch.add(self.added, growth, alpha=self.doubled, out=growth).exp_()
        y = torch.empty_like(x)
        torch.addcmul(self.offset, passed, self.scale, out=y[..., : len(self.passed)])
        torch.addcmul(shift, changed, growth, out=y[..., len(self.passed) :])
        return y


def folded(flow: "Flow") -> list[FoldedCoupling]:
    """The blocks of a flow for prediction, each with the permutation of the one before."""
    first = torch.arange(len(flow.blocks[0].order), device=flow.blocks[0].order.device)
    orders = [first, *(block.order for block in flow.blocks[:-1])]
    return [FoldedCoupling(block, order) for block, order in zip(flow.blocks, orders, strict=True)]


class Flow(nn.Module):
    """Blocks one after the other: x [B, C, h, w] -> latent [B, C, h, w] and log-determinant [B]."""

    def __init__(self, blocks: list[CouplingBlock]):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.to(memory_format=torch.channels_last)  # the layout that convolutions prefer, for weights and features

    def forward(self, x, condition=None):
        forget(self)
        x = x.contiguous(memory_format=torch.channels_last)
        total = 0
        for block in self.blocks:
            x, log_det = block(x, condition)
            total = total + log_det
        return x, total

    @torch.no_grad()
    def latent(self, x, condition=None):
        """The latent alone, for prediction: forward's up to rounding, in fewer passes over memory. A CPU takes only as
        many images at a time as its cache holds.
        """
        if torch.jit.is_tracing():  # a graph that leaves Python knows no writing in place
            return self.forward(x, condition)[0]
        blocks, last = of_present_weights(self, folded), self.blocks[-1].order
        x = x.contiguous(memory_format=torch.channels_last)
        at_a_time = max(1, CACHED_VALUES // x[0].numel()) if x.device.type == "cpu" else len(x)
        conditions = repeat(None) if condition is None else condition.split(at_a_time)
        latents = []
        for part, given in zip(x.split(at_a_time), conditions, strict=False):
            part = part.permute(0, 2, 3, 1)
            for block in blocks:
                part = block(part, given)
            latents.append(part.gather(3, last.expand(part.shape)).permute(0, 3, 1, 2))
        return torch.cat(latents)

    def inverse(self, z, condition=None):
        for block in reversed(self.blocks):
            z = block.inverse(z, condition)
        return z


def convolutional_flow(channels: int, steps: int, kernels: tuple[int, ...], hidden_ratio: float) -> Flow:
    """The flow of FastFlow and U-Flow: so many coupling blocks, whose convolutions have these kernels in turn.

    hidden_ratio: hidden channels of their subnets per input channel. Log-scales lie within 2.
    """
    subnets = [convolutions(kernels[step % len(kernels)], hidden_ratio) for step in range(steps)]
    return Flow([CouplingBlock(channels, subnet, 2.0) for subnet in subnets])


class InvertibleConvolution(nn.Module):
    """1x1 convolution W = P L (U + diag(s)) with |det W| = 1, so that it changes no volume.

    P (a permutation) and the signs of s are fixed; L (ones on its diagonal), U (zeros on it) and log|s|, whose mean
    is taken off, are learned. Starts as a random rotation. Glow, section 3.2, with the volume fixed as in PyramidFlow.
    """

    def __init__(self, channels: int):
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(channels, channels)).Q
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        self.lower = nn.Parameter(lower.tril(-1))
        self.upper = nn.Parameter(upper.triu(1))
        self.log_diagonal = nn.Parameter(diagonal.abs().log())
        self.register_buffer("permutation", permutation)
        self.register_buffer("sign", diagonal.sign())

    def weight(self) -> torch.Tensor:
        """[C, C], determinant 1 or -1."""
        ones = torch.eye(len(self.sign), device=self.sign.device)
        diagonal = self.sign * (self.log_diagonal - self.log_diagonal.mean()).exp()
        return self.permutation @ (self.lower.tril(-1) + ones) @ (self.upper.triu(1) + diagonal.diag())

    def forward(self, x):
        return F.conv2d(x, self.weight()[:, :, None, None])

    def inverse(self, z):
        return F.conv2d(z, torch.linalg.inv(self.weight())[:, :, None, None])


# Likelihoods under a standard normal distribution, constants dropped.


def negative_log_likelihood(latents: list[torch.Tensor], log_det: torch.Tensor) -> torch.Tensor:
    """Mean over the batch of 0.5 * sum of z^2 over all scales, channels and positions, minus log_det [B]."""
    energy = sum(0.5 * latent.float().square().sum((1, 2, 3)) for latent in latents)
    return (energy - log_det).mean()


def log_likelihood(latent: torch.Tensor) -> torch.Tensor:
    """-0.5 * mean of z^2 over the channels: [B, C, h, w] -> float32 [B, h, w], at most 0."""
    return -0.5 * latent.float().square().mean(1)


# Features that flows model.


class ScaleNorms(nn.ModuleList):
    """A LayerNorm over [C, h, w] for each feature map, so bound to one image size.

    shapes: (C, h, w) of each map. affine: with a learned scale and offset for every value.
    """

    def __init__(self, shapes: list[tuple[int, int, int]], affine: bool = True):
        super().__init__([nn.LayerNorm(shape, elementwise_affine=affine) for shape in shapes])

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        return [self._normalised(norm, stage) for norm, stage in zip(self, features, strict=True)]

    @staticmethod
    def _normalised(norm: nn.LayerNorm, stage: torch.Tensor) -> torch.Tensor:
        """norm(stage), worked out on [h, w, C], the order in which a backbone's values lie in memory."""
        weight, bias = (value if value is None else value.permute(1, 2, 0) for value in (norm.weight, norm.bias))
        stage = stage.permute(0, 2, 3, 1)
        return F.layer_norm(stage, stage.shape[1:], weight, bias, norm.eps).permute(0, 3, 1, 2)


class TokenBackbone(Backbone):
    """Patch tokens of a frozen vision transformer after one block, through its final LayerNorm.

    name: timm name with tag. block: index of the last block that is run, from 0. weights, seed: as of Backbone.
    side: images must be side x side pixels, for the position embedding has a fixed size.

    backbone(x) is a list with one float [B, C, h, w], class and distillation tokens dropped.
    """

    def __init__(self, name: str, block: int, weights: str, seed: int = 0):
        nn.Module.__init__(self)
        if weights == "bundled":
            raise InputError(f"weights='bundled' are a ResNet-18's; {name} takes 'pretrained', a file or 'random'.")
        self.name, self.stages, self.weights = name, (block,), str(weights)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            try:
                self.net = timm.create_model(name, num_classes=0)
                self.net.prune_intermediate_layers([block])
            except (RuntimeError, IndexError, AssertionError, AttributeError) as error:
                raise InputError(f"timm cannot build backbone={name!r} up to block {block}: {error}.") from error
        self.origin = fill_network(self.net, name, weights, seed)
        self.channels = [self.net.num_features]
        self.strides = [self.net.patch_embed.patch_size[0]]
        self.side = self.net.patch_embed.img_size[0]
        hold_statistics(self, self.net)
        self.requires_grad_(False).eval()

    def compute(self, x: torch.Tensor) -> list[torch.Tensor]:
        if x.shape[-2:] != (self.side, self.side):
            raise InputError(
                f"{self.name} takes images of {self.side}x{self.side} pixels, these have "
                f"{x.shape[-1]}x{x.shape[-2]}: use ImageSet(samples, size={self.side})."
            )
        x = (x - self.mean) / self.std
        return self.net.forward_intermediates(x, indices=list(self.stages), norm=True, intermediates_only=True)
