"""CRAD: "Continuous Memory Representation for Anomaly Detection".

Lee, Kim, Park, Woo, Ko; ECCV 2024; arXiv 2402.18293. Normal features are kept in two learned grids that are read
between their nodes: a fine one gives a vector for each position of an image, a coarse one a whole feature map for an
image, both at coordinates that small networks choose from the image's frozen features. Convolutions fuse the two into
rebuilt features; the memory holds nothing that could rebuild an anomaly.

One model of all categories is what the paper trains: give fit images of several categories. Of one it learns as well.

Follows the official code. What is ours:
- the last epoch counts; the official code keeps the best of every tenth epoch's image AUROC on the TEST images. It
  also replaces an AUROC below 0.5 by 1 minus it; adlib does so nowhere;
- the weights are timm's of the same origin; the seed is fit's, where theirs was not set.

Other readings, as parameters:
- CRAD-S, the smaller one: expansion=0.5.
- 3CAD: images of 256 pixels; whether one model learned all classes is not stated.
- the official 4 GPUs with 16 images each: batch_size=64, the learning rate unchanged. Sixteen images of 256 pixels
  need 7 GiB.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from adlib.detector import Facts
from adlib.features.aligned_features import distances, window_maximum
from adlib.parameters import Count, NotNegative, Odd, Positive, Share, Stages
from adlib.training.feature_reconstruction import FeatureReconstruction
from adlib.training.frozen_features import features_of, frozen_features
from adlib.training.loop import PRECISIONS


class ContinuousMemory(nn.Module):
    """Features float [B, C, h, w] -> what the two grids hold for them, float [B, 2C, h, w]: the whole map, then the
    single positions.

    local_side, global_side: nodes along either side of the grids.
    jitter: in training, of half the batches the local coordinates (-1 to 1 across the grid) get this much noise.
    """

    def __init__(self, channels: int, shape: tuple[int, int], local_side: int, global_side: int, jitter: float):
        super().__init__()
        self.shape, self.jitter = (channels, *shape), jitter
        whole = channels * shape[0] * shape[1]
        self.local_grid = nn.Parameter(nn.init.xavier_normal_(torch.empty(1, channels, local_side, local_side)))
        self.global_grid = nn.Parameter(nn.init.xavier_normal_(torch.empty(1, whole, global_side, global_side)))
        # A linear layer over the channels of [B, h, w, C] is the official code's 1x1 convolution.
        self.local_coordinates = _coordinates(channels)
        self.global_coordinates = _coordinates(channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        count, _, height, width = features.shape
        places = self.local_coordinates(features.permute(0, 2, 3, 1))  # [B, h, w, 2]
        if self.training and torch.rand(()) < 0.5:
            places = places + self.jitter * torch.randn_like(places)
        # One grid for all images: their rows are laid under one another, so that the grid is not copied per image.
        local = _read(self.local_grid, places.reshape(1, count * height, width, 2))[0]  # [C, B * h, w]
        local = local.unflatten(1, (count, height)).transpose(0, 1)
        whole = _read(self.global_grid, self.global_coordinates(features.mean((2, 3))).view(1, count, 1, 2))
        return torch.cat([whole[0, :, :, 0].T.reshape(count, *self.shape), local], 1)


def _coordinates(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(channels, channels), nn.Tanh(), nn.Linear(channels, 2), nn.Tanh())


def _read(grid: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Bilinear values of a grid [1, C, s, s] at places [1, h, w, 2] (x, y; -1 and 1 are the outer edges): [1, C, h, w].

    Beyond the outermost nodes the values fade to zero.
    """
    return F.grid_sample(grid, places, mode="bilinear", padding_mode="zeros", align_corners=False)


class FusionBlock(nn.Module):
    """An inverted residual block of MobileNetV3: float [B, C, h, w] -> the same shape, by way of `inner` channels."""

    def __init__(self, channels: int, inner: int):
        super().__init__()
        self.widen = nn.Sequential(nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.Hardswish())
        depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.look_around = nn.Sequential(depthwise, nn.BatchNorm2d(inner))
        self.excite = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(inner, inner // 4, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(inner // 4, inner, 1, bias=False),
            nn.Hardsigmoid(),
        )
        self.narrow = nn.Sequential(nn.Conv2d(inner, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = self.look_around(self.widen(x))
        return x + self.narrow(F.hardswish(inner * self.excite(inner)))


class Reconstruction(nn.Module):
    """Features float [B, C, h, w] -> rebuilt features of the same shape, before the refinement."""

    def __init__(self, channels, shape, local_side, global_side, jitter, blocks, expansion):
        super().__init__()
        self.memory = ContinuousMemory(channels, shape, local_side, global_side, jitter)
        inner = round(2 * channels * expansion)
        self.fusion = nn.Sequential(*(FusionBlock(2 * channels, inner) for _ in range(blocks)))
        self.out = nn.Conv2d(2 * channels, channels, 1, bias=False)
        # The official code names no initialiser, which there means N(0, 0.01) everywhere but in the grids.
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.out(self.fusion(self.memory(features)))

    def grids(self) -> list[nn.Parameter]:
        return [self.memory.local_grid, self.memory.global_grid]

    def layers(self) -> list[nn.Parameter]:
        return [value for name, value in self.named_parameters() if not name.endswith("_grid")]


def refine(
    features: torch.Tensor, rebuilt: torch.Tensor, error_scale: float, error_weight: float, cosine_weight: float
) -> torch.Tensor:
    """Rebuilt features [B, C, h, w], drawn towards the given ones where they resemble them anyway.

    With s = error_weight x close + cosine_weight x cosine similarity per position, s x features + (1 - s) x rebuilt;
    close is 1 where error_scale x mean squared error rounds to 0 (is at most one half), else 0, and has no gradient.
    """
    error = (rebuilt - features).square().mean(1, keepdim=True)
    close = 1 - (error_scale * error.detach()).clamp(0, 1).round()
    share = error_weight * close + cosine_weight * F.cosine_similarity(rebuilt, features, dim=1)[:, None]
    return share * features + (1 - share) * rebuilt


class CRAD(FeatureReconstruction):
    """CRAD. Images of 224 pixels; at prediction they must have the size that was learned.

    backbone, weights, stages: the frozen features, all resized to the finest stage's grid (adlib.features.backbones).
    padded_for: pixels for which an EfficientNet pads, 380 in the official code (adlib.features.aligned_features).
    local_side, global_side: nodes along the sides of the grids. The global one holds that square times the size of all
        features of an image: 2.7 million values by default, more for larger images and finer stages.
    coordinate_jitter: noise on the local coordinates in training.
    blocks, expansion: of the fusion; its inner channels are so many times the 2C that it is given.
    error_scale, error_weight, cosine_weight: of the refinement, see `refine`. The scale is absolute and suits
        features of the default backbone.
    epochs, batch_size, learning_rate, grid_rate, weight_decay, clip_norm: of AdamW; the grids have a rate of their own.
    milestone, decay: one epoch after this share of them, as in the official code, both rates are multiplied by decay.
    smoothing_window: side of the mean filter of the map, zeros past the border. score_window: side of a second one
        before the map's maximum is taken as image score.
    cache_gib: frozen features of the training images are kept in memory if they need no more; 0 never keeps them.
    precision: of training, see adlib.training.loop.
    """

    name = "crad"
    facts = Facts("feature reconstruction", 2024, joint="meant")
    image_defaults = {"size": 224}
    grid = "finest"

    def __init__(
        self,
        backbone: str = "tf_efficientnet_b4.aa_in1k",
        weights: str = "pretrained",
        stages: Stages = (2, 3),
        padded_for: Count | None = 380,
        local_side: Count = 8,
        global_side: Count = 4,
        coordinate_jitter: NotNegative = 0.05,
        blocks: Count = 11,
        expansion: Positive = 2.0,
        error_scale: NotNegative = 0.05,
        error_weight: NotNegative = 0.3,
        cosine_weight: NotNegative = 0.7,
        epochs: Count = 50,
        batch_size: Count = 16,
        learning_rate: Positive = 1e-3,
        grid_rate: Positive = 0.1,
        weight_decay: NotNegative = 0.01,
        clip_norm: Positive = 0.1,
        milestone: Share = 0.8,
        decay: Positive = 0.1,
        smoothing_window: Odd = 21,
        score_window: Count = 32,
        cache_gib: NotNegative = 2.0,
        precision: Literal[*PRECISIONS] = "float32",
    ): ...

    def fit_images(self, images, val, progress):
        self.build_for_images(images)
        network = self.reconstruction_
        groups = [{"params": network.layers()}, {"params": network.grids(), "lr": self.grid_rate}]
        self.train_on(frozen_features(self, images, self.cache_gib, progress), groups, progress)

    def make_networks(self, channels, grid):
        memory = (self.local_side, self.global_side, self.coordinate_jitter)
        self.reconstruction_ = Reconstruction(channels, grid, *memory, self.blocks, self.expansion)

    def rebuild(self, features: torch.Tensor) -> torch.Tensor:
        """Features float [B, C, h, w] -> rebuilt and refined ones."""
        rebuilt = self.reconstruction_(features).float()
        return refine(features, rebuilt, self.error_scale, self.error_weight, self.cosine_weight)

    def loss(self, batch: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
        (features,) = features_of(self, batch)
        return F.mse_loss(self.rebuild(features), features)

    def score_batch(self, batch):
        features = self.features(batch)
        maps = distances(features, self.rebuild(features), batch.shape[-2:])
        reach = self.smoothing_window // 2
        maps = F.avg_pool2d(maps[:, None], self.smoothing_window, stride=1, padding=reach)[:, 0]
        return window_maximum(maps, self.score_window), maps

    def state(self):
        return super().state() | {"grid": torch.tensor(self.shape_[1:])}

    def grid_of(self, state):
        return tuple(state.pop("grid").tolist())
