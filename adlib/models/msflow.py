"""MSFlow: "Multi-Scale Flow-based Framework for Unsupervised Anomaly Detection".

Zhou, Xu, Song, Shen, Shen; IEEE Transactions on Neural Networks and Learning Systems, 2024; arXiv 2308.15300. Three
flows of different depth, told where they are by a position encoding, model three levels of a frozen network; a
fusion flow exchanges information between them. Two ways of merging the levels' likelihoods serve two purposes.

Follows the official code. Notes:
- Image scores come from the product of the levels' likelihoods; the map of that product is what the code measures PRO
  on, while pixel AUROC is measured on their sum. A detector has one map here: `maps` says which. Both are relative to
  the image's own maximum, so a degenerate flow gives the same score to every image.
- All three of its numbers are those of the best epoch on the TEST images, one choice per number (means 99.7 and 98.8
  instead of 99.4 and 98.5 at the end). Here the last epoch counts.
- Its soft clamp is that of FrEIA 0.2, the version that it runs with; clamp="scaled" is that of later versions.
- Warm-up and decay are shares of the epochs, as Texture-AD states them; of 100 epochs they are the code's 12, 70, 90.
Texture-AD (tables 2 to 4) used a wide ResNet-50 and a ResNet-18 without saying which is printed; input size unknown.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from adlib.detector import Facts
from adlib.features.backbones import Backbone
from adlib.networks.flow_blocks import (
    CouplingBlock,
    Flow,
    at_least_float32,
    atan_clamp,
    log_likelihood,
    negative_log_likelihood,
)
from adlib.parameters import Count, NotNegative, Positive, Share, ShareAboveZero
from adlib.training.feature_flow import FeatureFlow
from adlib.training.loop import PRECISIONS

LIMIT = 1.9  # of log-scales
CONDITION = 64  # channels of the position encoding
CLAMPS = {"tanh": 1.0, "scaled": LIMIT}  # their widths


class MSFlowBackbone(Backbone):
    """Layers 1 to 3 of a frozen ResNet whose convolutions pad by reflection, each averaged over 3x3 with stride 2.

    For a wide ResNet-50 and images of 512 pixels: [B, 256, 64, 64], [B, 512, 32, 32], [B, 1024, 16, 16].
    """

    def __init__(self, name: str, weights: str, seed: int = 0):
        super().__init__(name, (1, 2, 3), weights, seed)
        for module in self.net.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size != (1, 1):
                module.padding_mode = "reflect"
        self.strides = [2 * stride for stride in self.strides]

    @torch.no_grad()
    def forward(self, x):
        return [F.avg_pool2d(stage, kernel_size=3, stride=2, padding=1) for stage in super().forward(x)]


def position_encoding(channels: int, height: int, width: int) -> torch.Tensor:
    """Sines and cosines of the column (first half of the channels) and of the row (second half): [channels, h, w]."""
    quarter = channels // 4
    frequencies = torch.exp(torch.arange(quarter) * (-2 * math.log(10_000) / (channels // 2)))
    columns = torch.arange(width) * frequencies[:, None]
    rows = torch.arange(height) * frequencies[:, None]
    encoding = torch.empty(channels, height, width)
    encoding[0 : 2 * quarter : 2] = columns.sin()[:, None, :]
    encoding[1 : 2 * quarter : 2] = columns.cos()[:, None, :]
    encoding[2 * quarter :: 2] = rows.sin()[:, :, None]
    encoding[2 * quarter + 1 :: 2] = rows.cos()[:, :, None]
    return encoding


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of every position of [B, C, h, w]."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def subnet(inputs: int, outputs: int) -> nn.Module:
    """The network in the parallel flows' coupling blocks."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, padding=1),
        ChannelNorm(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, 3, padding=1),
    )


class FusionSubnet(nn.Module):
    """Log-scales and shifts for each level from the other halves of all levels. channels: c of each level's half."""

    def __init__(self, channels: list[int]):
        super().__init__()
        self.channels = channels
        total = sum(channels)
        self.mix = nn.Sequential(
            nn.Conv2d(total, total // 4, 3, padding=1),
            ChannelNorm(total // 4),
            nn.ReLU(),
            nn.Conv2d(total // 4, total, 3, padding=1),
            nn.ReLU(),
        )
        self.scales = nn.ModuleList(nn.Conv2d(count, count, 3, padding=1) for count in channels)
        self.shifts = nn.ModuleList(nn.Conv2d(count, count, 3, padding=1) for count in channels)

    def forward(self, halves):
        smallest = halves[-1].shape[-2:]
        mixed = self.mix(torch.cat([F.adaptive_avg_pool2d(half, smallest) for half in halves], 1))
        log_scales, shifts = [], []
        for level, part in enumerate(mixed.split(self.channels, 1)):
            grown = F.interpolate(part, size=halves[level].shape[-2:], mode="bilinear", align_corners=True)
            both = halves[level] + grown
            log_scales.append(atan_clamp(at_least_float32(self.scales[level](both)), LIMIT))
            shifts.append(at_least_float32(self.shifts[level](both)))
        return log_scales, shifts


class FusionFlow(nn.Module):
    """A fixed permutation of each level's channels, then one affine coupling of all levels in two halves."""

    def __init__(self, channels: list[int]):
        super().__init__()
        self.halves = [(count // 2, count - count // 2) for count in channels]
        self.from_second = FusionSubnet([second for _, second in self.halves])
        self.from_first = FusionSubnet([first for first, _ in self.halves])
        for level, count in enumerate(channels):
            self.register_buffer(f"order{level}", torch.randperm(count))

    def forward(self, levels):
        permuted = [x.index_select(1, getattr(self, f"order{level}")) for level, x in enumerate(levels)]
        first, second = zip(*(x.split(half, 1) for x, half in zip(permuted, self.halves, strict=True)), strict=True)
        first, gained = self._change(first, self.from_second(second))
        second, lost = self._change(second, self.from_first(first))
        return [torch.cat(pair, 1) for pair in zip(first, second, strict=True)], gained + lost

    @staticmethod
    def _change(values, change):
        log_scales, shifts = change
        changed = [(x * s.exp() + t).clamp(-1e6, 1e6) for x, s, t in zip(values, log_scales, shifts, strict=True)]
        return changed, sum(s.sum((1, 2, 3)) for s in log_scales)

    def inverse(self, levels):
        first, second = zip(*(z.split(half, 1) for z, half in zip(levels, self.halves, strict=True)), strict=True)
        second = self._restore(second, self.from_first(first))
        first = self._restore(first, self.from_second(second))
        joined = [torch.cat(pair, 1) for pair in zip(first, second, strict=True)]
        return [x.index_select(1, getattr(self, f"order{level}").argsort()) for level, x in enumerate(joined)]

    @staticmethod
    def _restore(values, change):
        return [(z - t) * (-s).exp() for z, s, t in zip(values, *change, strict=True)]


class MSFlowNet(nn.Module):
    """Parallel flows and their fusion.

    shapes: (C, h, w) of the levels, finest first; blocks: of each level's flow; clamp: "tanh" or "scaled".
    net(features) gives the latents, each [B, C, h, w], and the log-determinant [B]; net.inverse the features.
    """

    def __init__(self, shapes, blocks=(2, 5, 8), clamp="tanh"):
        super().__init__()
        self.parallel = nn.ModuleList(
            Flow([CouplingBlock(channels, subnet, LIMIT, CLAMPS[clamp], CONDITION) for _ in range(count)])
            for (channels, _, _), count in zip(shapes, blocks, strict=True)
        )
        self.fusion = FusionFlow([channels for channels, _, _ in shapes])
        for level, (_, height, width) in enumerate(shapes):
            encoding = position_encoding(CONDITION, height, width)[None]
            self.register_buffer(f"position{level}", encoding, persistent=False)

    def position(self, level: int, count: int) -> torch.Tensor:
        return getattr(self, f"position{level}").expand(count, -1, -1, -1)

    def forward(self, features):
        places = [self.position(level, len(x)) for level, x in enumerate(features)]
        outputs = [flow(x, place) for flow, x, place in zip(self.parallel, features, places, strict=True)]
        latents, log_det = self.fusion([latent for latent, _ in outputs])
        return latents, log_det + sum(part for _, part in outputs)

    def latents(self, features):
        """The latents alone, for prediction."""
        places = [self.position(level, len(x)) for level, x in enumerate(features)]
        parts = zip(self.parallel, features, places, strict=True)
        return self.fusion([flow.latent(x, place) for flow, x, place in parts])[0]

    def inverse(self, latents):
        levels = self.fusion.inverse(latents)
        places = [self.position(level, len(z)) for level, z in enumerate(levels)]
        return [flow.inverse(z, place) for flow, z, place in zip(self.parallel, levels, places, strict=True)]


def likelihood_maps(latents: list[torch.Tensor], size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Anomaly maps [B, H, W] of the product and of the sum of the levels' likelihoods, each relative to its maximum."""

    def enlarge(values):
        return F.interpolate(values[:, None], size=size, mode="bilinear", align_corners=True)[:, 0]

    levels = [log_likelihood(latent) for latent in latents]
    log_product = sum(enlarge(level) for level in levels)
    product = (log_product - log_product.amax((1, 2), keepdim=True)).exp()
    total = sum(enlarge((level - level.amax((1, 2), keepdim=True)).exp()) for level in levels)
    return 1 - product, total.amax((1, 2), keepdim=True) - total


class MSFlow(FeatureFlow):
    """MSFlow. Images of 512 pixels, no crop.

    backbone, weights: a ResNet (adlib.features.backbones). blocks: of the flows at its layers 1, 2 and 3.
    clamp: of log-scales, "tanh" (1.9 tanh(a)) or "scaled" (1.9 tanh(a / 1.9)).
    maps: "sum" (pixel AUROC of the official code) or "product" (its PRO); image scores are the product's in both cases.
    top: share of the pixels, the most anomalous ones, whose mean is the image score.
    epochs: 25 times 4 officially. batch_size: 16 in paper and default file, 8 on the command line that it documents.
    learning_rate: of Adam; warm-up from a tenth over the first `warmup` share of the epochs, times 0.33 at each of
        the shares `decays`.
    clip_norm: largest norm of the gradient.
    precision, cache_gib: as of FastFlow.
    """

    name = "msflow"
    facts = Facts("normalising flow", 2024)
    image_defaults = {"size": 512, "resize": "lanczos"}

    def __init__(
        self,
        backbone: str = "wide_resnet50_2.tv_in1k",
        weights: str = "pretrained",
        blocks: tuple[Count, Count, Count] = (2, 5, 8),
        clamp: Literal[*CLAMPS] = "tanh",
        maps: Literal["sum", "product"] = "sum",
        top: ShareAboveZero = 0.03,
        epochs: Count = 100,
        batch_size: Count = 16,
        learning_rate: Positive = 1e-4,
        warmup: Share = 0.12,
        decays: tuple[Share, ...] = (0.7, 0.9),
        clip_norm: Positive = 2.0,
        precision: Literal[*PRECISIONS] = "float32",
        cache_gib: NotNegative = 4.0,
    ): ...

    def rate(self, epoch: int) -> float:
        """Factor of the learning rate in an epoch, from 0."""
        warmup = round(self.warmup * self.epochs)
        rising = 0.1 + 0.9 * epoch / warmup if epoch < warmup else 1.0
        return rising * 0.33 ** sum(epoch >= round(share * self.epochs) for share in self.decays)

    def build_backbone(self, weights: str, seed: int) -> MSFlowBackbone:
        return MSFlowBackbone(self.backbone, weights, seed)

    def build_flow(self, shapes: list[tuple[int, int, int]]) -> MSFlowNet:
        return MSFlowNet(shapes, self.blocks, self.clamp)

    def fit_images(self, images, val, progress):
        self.build_for_images(images)
        optimiser = torch.optim.Adam(self.flow_.parameters(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self.rate)
        self.train_flow(images, optimiser, progress, schedules=[schedule], clip_norm=self.clip_norm, drop_last=False)

    def loss(self, latents: list[torch.Tensor], log_det: torch.Tensor) -> torch.Tensor:
        return negative_log_likelihood(latents, log_det)

    def score_batch(self, batch):
        product, total = likelihood_maps(self.latents(batch), batch.shape[-2:])
        count = max(1, int(self.top * product[0].numel()))
        scores = product.flatten(1).topk(count).values.mean(1)
        return scores, total if self.maps == "sum" else product
