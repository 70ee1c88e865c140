"""Dinomaly: "Dinomaly: The Less Is More Philosophy in Multi-Class Unsupervised Anomaly Detection".

Guo, Lu, Zhang, Chen, Li, Liao; CVPR 2025; arXiv 2405.14325. A decoder of transformer blocks learns to rebuild what
the middle blocks of a frozen foundation model say of normal images; where it fails, by cosine, is anomalous. Four plain
means keep it from learning to rebuild anything: dropout in the bottleneck is the noise; linear attention cannot look at
one place; groups of blocks are rebuilt together, of single ones nothing is asked; and places that are rebuilt well
already count little in the gradient.

One model of all categories is what the paper trains: give fit images of several categories. Of one category it learns
as well (the paper's separated setting).

From the paper and, where it is silent, from what is known of the official code. What is ours or differs:
- AdamW in its AMSGrad form without the official StableAdamW's clipping of updates (the norm of gradients is clipped);
- the last step counts;
- the image is not resized again before scoring: the map, blurred with sigma 4 at image size instead of a window of 5
  pixels on a map of 256, is averaged over its largest hundredth;
- sums of groups are means, which changes no cosine.
Not compared with the official code's numbers: its foundation weights were not at hand.
"""

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from adlib.anomaly_map import smooth, upsample
from adlib.detector import Detector, Facts
from adlib.errors import InputError
from adlib.features.backbones import Backbone
from adlib.images import ImageSet
from adlib.parameters import Count, NotNegative, Positive, ShareAboveZero, ShareBelowOne, Stages
from adlib.training.loop import PRECISIONS, train


class Tokens(Backbone):
    """A Backbone of a vision transformer that also gives the tokens without a place (class, registers).

    backbone.tokens(x): x float [B, 3, H, W] in [0, 1] -> a list of float [B, prefix + h * w, D], one per stage.
    """

    def __init__(self, name, stages, weights, seed=0):
        super().__init__(name, stages, weights, seed)
        if not hasattr(getattr(self.net, "model", None), "num_prefix_tokens"):
            raise InputError(f"backbone={name!r} is no plain vision transformer of timm's, which dinomaly needs.")

    @torch.no_grad()
    def tokens(self, x: torch.Tensor) -> list[torch.Tensor]:
        options = {"return_prefix_tokens": True, "output_fmt": "NLC", "intermediates_only": True}
        ask = partial(self.net.model.forward_intermediates, indices=list(self.stages), **options)
        found = self.asked(ask, x)
        return [torch.cat(stage[::-1], 1) if isinstance(stage, tuple) else stage for stage in found]


class Bottleneck(nn.Module):
    """A multilayer perceptron with so much dropout that it is the anomaly: float [B, N, D] -> [B, N, D]."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.widen(self.dropout(x))
        return self.dropout(self.narrow(self.dropout(F.gelu(x))))


class LinearAttention(nn.Module):
    """Attention without softmax, which cannot concentrate on one token: float [B, N, D] -> [B, N, D].

    Queries and keys pass through ELU + 1 (Katharopoulos et al., ICML 2020, arXiv 2006.16236).
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, number, width = x.shape
        query, key, value = (
            self.qkv(x).view(batch, number, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        )  # [B, heads, N, C]
        query, key = F.elu(query) + 1, F.elu(key) + 1
        seen = query @ (key.transpose(2, 3) @ value)
        total = query @ key.sum(2)[..., None]
        return self.out((seen / total).transpose(1, 2).reshape(batch, number, width))


class Block(nn.Module):
    """A transformer block with linear attention."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attention, self.feed = (
            LinearAttention(width, heads),
            nn.ModuleList([nn.Linear(width, 4 * width), nn.Linear(4 * width, width)]),
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=1e-8) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norms[0](x))
        return x + self.feed[1](F.gelu(self.feed[0](self.norms[1](x))))


class Decoder(nn.Module):
    """Bottleneck and blocks: the encoder's tokens float [B, N, D], one per block -> as many rebuilt, last first.

    The bottleneck sees the mean of the encoder's blocks. The decoder's first block answers to the encoder's last.
    """

    def __init__(self, width: int, heads: int, blocks: int, dropout: float):
        super().__init__()
        self.bottleneck = Bottleneck(width, dropout)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.01, a=-0.03, b=0.03)
                nn.init.zeros_(module.bias)

    def forward(self, encoded: list[torch.Tensor]) -> list[torch.Tensor]:
        x = self.bottleneck(torch.stack(encoded).mean(0))
        rebuilt = []
        for block in self.blocks:
            x = block(x)
            rebuilt.append(x)
        return rebuilt[::-1]


def grouped(tokens: list[torch.Tensor], groups: int, prefix: int, grid: tuple[int, int]) -> list[torch.Tensor]:
    """Means over `groups` equal runs of blocks, patch tokens alone, as maps: float [B, D, h, w] each."""
    size = len(tokens) // groups
    runs = [tokens[start : start + size] for start in range(0, len(tokens), size)]
    means = [torch.stack(run).mean(0)[:, prefix:].transpose(1, 2) for run in runs]
    return [mean.unflatten(2, grid) for mean in means]


def hard_mining_loss(
    wanted: list[torch.Tensor], rebuilt: list[torch.Tensor], easy: float, factor: float = 0.1
) -> torch.Tensor:
    """1 - cosine of whole maps, mean over images and groups; the gradient of the places rebuilt best is shrunk.

    wanted, rebuilt: float [B, D, h, w] per group. easy: share of the batch's places whose gradient counts by `factor`.
    """
    total = 0.0
    for target, found in zip(wanted, rebuilt, strict=True):
        distance = 1 - F.cosine_similarity(target, found.detach(), dim=1)  # [B, h, w]
        hard = max(1, int(distance.numel() * (1 - easy)))
        threshold = distance.flatten().topk(hard).values[-1]
        weight = torch.where(distance < threshold, factor, 1.0)[:, None]
        if found.requires_grad:
            found.register_hook(lambda gradient, weight=weight: gradient * weight.to(gradient))
        total = total + (1 - F.cosine_similarity(target.flatten(1), found.flatten(1), dim=1)).mean()
    return total / len(wanted)


class Dinomaly(Detector):
    """Dinomaly. Images of 448 pixels, centre crop 392: sides that the patch of 14 divides.

    backbone, weights: a plain vision transformer of timm's (adlib.features.backbones).
    stages: its blocks, counted from 0, as many as the decoder has; groups: equal runs of them, rebuilt together.
    heads: of the decoder's attention, which divides the tokens' width.
    dropout: of the bottleneck: 0.2 in the paper for sets like MVTec AD, 0.4 for more varied ones.
    easy: share of places whose gradient is shrunk, reached within `easy_steps` steps.
    steps, batch_size, learning_rate, final_rate, warmup, weight_decay, clip_norm: of AdamW; the rate rises over
        `warmup` steps and falls by a cosine to final_rate.
    worst_share: of the map, over which the image score is the mean. smoothing: sigma of the map's blur in pixels.
    precision: of training, see adlib.training.loop.
    """

    name = "dinomaly"
    facts = Facts("feature reconstruction", 2025, joint="meant")
    image_defaults = {"size": 448, "crop": 392}

    def __init__(
        self,
        backbone: str = "vit_base_patch14_reg4_dinov2.lvd142m",
        weights: str = "pretrained",
        stages: Stages = (2, 3, 4, 5, 6, 7, 8, 9),
        groups: Count = 2,
        heads: Count = 12,
        dropout: ShareBelowOne = 0.2,
        easy: ShareBelowOne = 0.9,
        easy_steps: Count = 1000,
        steps: Count = 10_000,
        batch_size: Count = 16,
        learning_rate: Positive = 2e-3,
        final_rate: Positive = 2e-4,
        warmup: Count = 100,
        weight_decay: NotNegative = 1e-4,
        clip_norm: Positive = 0.1,
        worst_share: ShareAboveZero = 0.01,
        smoothing: NotNegative = 4.0,
        precision: Literal[*PRECISIONS] = "float32",
    ):
        if len(stages) % groups:
            raise InputError(f"groups={groups} must divide the number of stages, {len(stages)}.")

    def build(self, weights: str) -> None:
        self.backbone_ = Tokens(self.backbone, self.stages, weights, self.seed_)
        width = self.backbone_.channels[0]
        if width % self.heads:
            raise InputError(f"heads={self.heads} must divide the width of {self.backbone}'s tokens, {width}.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed_)
            self.decoder_ = Decoder(width, self.heads, len(self.stages), self.dropout)

    def fit_images(self, images: ImageSet, val, progress):
        self.build(self.weights)
        self.to(self.device_)
        optimiser = torch.optim.AdamW(
            self.decoder_.parameters(), self.learning_rate, weight_decay=self.weight_decay, eps=1e-10, amsgrad=True
        )
        self.schedule_ = torch.optim.lr_scheduler.LambdaLR(optimiser, self.rate)
        self.losses_ = train(
            self,
            images,
            self.loss,
            {"decoder": self.decoder_},
            optimiser,
            steps=self.steps,
            batch_size=self.batch_size,
            schedules=[self.schedule_],
            schedule_every="step",
            drop_last=True,
            clip_norm=self.clip_norm,
            precision=self.precision,
            progress=progress,
        )

    def rate(self, step: int) -> float:
        """Share of the learning rate at a step: a straight rise, then a cosine."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        last = self.final_rate / self.learning_rate
        return last + (1 - last) * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * done)).item())

    def both(self, batch: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """What the backbone says of images, and what the decoder makes of it: maps [B, D, h, w] per group."""
        encoded = self.backbone_.tokens(batch)
        grid = tuple(side // self.backbone_.strides[0] for side in batch.shape[-2:])
        prefix = encoded[0].shape[1] - grid[0] * grid[1]
        sides = (encoded, self.decoder_(encoded))
        return tuple(grouped([each.float() for each in side], self.groups, prefix, grid) for side in sides)

    def loss(self, batch: torch.Tensor) -> torch.Tensor:
        easy = self.easy * min(1.0, self.schedule_.last_epoch / self.easy_steps)
        return hard_mining_loss(*self.both(batch), easy)

    def score_batch(self, batch):
        wanted, rebuilt = self.both(batch)
        distances = [1 - F.cosine_similarity(*pair, dim=1) for pair in zip(wanted, rebuilt, strict=True)]
        maps = smooth(upsample(torch.stack(distances).mean(0), batch.shape[-2:]), self.smoothing)
        number = max(1, int(self.worst_share * maps[0].numel()))
        return maps.flatten(1).topk(number).values.mean(1), maps
