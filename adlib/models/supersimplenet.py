"""SuperSimpleNet: "Unifying Unsupervised and Supervised Learning for Fast and Reliable Surface Defect Detection".

Rolih, Fučka, Skočaj; ICPR 2024; arXiv 2408.03143. SimpleNet made anew: frozen features on a finer grid, a linear
adaptor, noise inside Perlin blobs instead of everywhere, a segmentation head for the map and a classification head
for the image's score. Real defects, where some are at hand, train the same network.

Follows the official code of the ICPR paper (the authors' later journal version, which anomalib has by default, feeds
the classification head with features that are not adapted). The last epoch is kept, as there. What is ours:
- blobs are drawn on the feature grid itself, where theirs are resized from the next power of two (256 pixels make a
  grid of 64, for which it is the same), and never from cells smaller than two positions, which hold no noise;
- beside real defects every normal image comes equally often, where theirs draws the rarely drawn ones more often.

Supervised: give `fit` images of which some are labelled 1. Each comes as it is, mirrored both ways and
turned by 180 degrees, with as many normal images. The official settings for it are threshold=0.6,
stop_gradient=False, clip_norm=1.0. The official code needs masks. That an anomalous image may come without one is our
extension, for sets whose real defects have image labels alone (ISP-AD): where its defect lies is unknown, so that no
noise is added to it, its pixels count for neither loss of the map, and the classification alone learns from it. With
stop_gradient=False the map learns of it through the classification.

Other readings, as parameters:
- VisA: threshold=0.6.
- moviad, which the MIIC benchmark ran: images of 224 pixels, adaptor_rate=1e-3, head_rate=2e-3,
  adaptor_weight_decay=1e-4, head_weight_decay=1e-4, schedule_every="step" (so that the rates fall to a sixth within
  the first few epochs), smoothing=0.4, align_corners=False.

There is no mixed precision: it would round the noise away.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

from adlib.anomaly_map import convolved, upsample
from adlib.detector import Detector, Facts
from adlib.errors import InputError
from adlib.features.backbones import Backbone, build_network
from adlib.images import ImageSet
from adlib.parameters import Count, NotNegative, Positive, Share, Stages
from adlib.synthesis import SyntheticImages, perlin_noise
from adlib.synthesis.seeded_items import SeededItems
from adlib.training.frozen_features import features_of, frozen_features
from adlib.training.loop import train

# Features


def upscaled(features: list[torch.Tensor], align_corners: bool) -> torch.Tensor:
    """All stages on twice the finest grid, concatenated, then 3x3 means: float [B, sum of C, 2h, 2w]."""
    height, width = features[0].shape[-2:]
    size = (2 * height, 2 * width)
    grown = [F.interpolate(stage, size=size, mode="bilinear", align_corners=align_corners) for stage in features]
    joined = torch.cat(grown, 1).contiguous(memory_format=torch.channels_last)
    return F.avg_pool2d(joined, kernel_size=3, stride=1, padding=1)


# Network


def convolution(inside: int, outside: int, kernel: int = 1, bias: bool = True) -> nn.Conv2d:
    """Keeps the grid; Xavier-normal weights, the bias as torch draws it. The adaptor is one of kernel 1."""
    conv = nn.Conv2d(inside, outside, kernel, padding="same", bias=bias)
    nn.init.xavier_normal_(conv.weight)
    return conv


class Heads(nn.Module):
    """Segmentation and classification of adapted features: float [B, C, h, w] -> map [B, h, w] and score [B].

    Both without a sigmoid, higher for anomalous. The classification head reads features and map; stop_gradient keeps
    its loss from reaching the segmentation head through the map.
    """

    def __init__(self, channels: int, hidden: int, stop_gradient: bool):
        super().__init__()
        self.stop_gradient = stop_gradient
        self.segment = nn.Sequential(
            convolution(channels, hidden),
            nn.BatchNorm2d(hidden),
            nn.LeakyReLU(0.2, inplace=True),
            convolution(hidden, 1, bias=False),
        )
        self.classify = nn.Sequential(convolution(channels + 1, 128, kernel=5), nn.BatchNorm2d(128), nn.ReLU())
        self.score = nn.Linear(2 * 128 + 2, 1)
        nn.init.xavier_normal_(self.score.weight)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps = self.segment(features)  # [B, 1, h, w]
        read = maps.detach() if self.stop_gradient else maps
        first, norm, rectify = self.classify
        # The convolution of both, joined, as the sum of two: joined they would be a copy of all features.
        weight = first.weight
        deep = F.conv2d(features, weight[:, :-1].contiguous(memory_format=torch.channels_last), first.bias, padding=2)
        deep = rectify(norm(deep + F.conv2d(read, weight[:, -1:], padding=2)))  # [B, 128, h, w]
        pooled = [deep.amax((2, 3)), deep.mean((2, 3)), read.amax((2, 3)), read.mean((2, 3))]
        return maps[:, 0], self.score(torch.cat(pooled, 1))[:, 0]


# Synthetic anomalies


def blobs(count: int, grid: tuple[int, int], threshold: float, rng: np.random.Generator) -> torch.Tensor:
    """Where noise goes: bool [count, h, w], thresholded Perlin noise of 1 to 32 cells per axis; half of them empty."""
    masks = np.zeros((count, *grid), bool)
    finest = [min(5, int(np.log2(max(2, side)) - 1)) for side in grid]
    for mask in masks:
        cells = tuple(2 ** int(rng.integers(0, most + 1)) for most in finest)
        noise = perlin_noise(grid, cells, rng)
        if rng.random() < 0.5:
            mask[:] = noise > threshold
    return torch.from_numpy(masks)


@dataclass(frozen=True)
class NoiseBlobs:
    """A synthesiser that changes no picture: its mask is where noise may go, on this grid of features."""

    grid: tuple[int, int]
    threshold: float

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        blob = blobs(1, self.grid, self.threshold, rng)[0].numpy().view(np.uint8)
        return image, cv2.resize(blob, image.shape[1::-1], interpolation=cv2.INTER_NEAREST_EXACT) > 0


# Loss


def truncated_loss(maps: torch.Tensor, masks: torch.Tensor, margin: float = 0.5) -> torch.Tensor:
    """Normal positions should lie below -margin, anomalous ones above it; the mean over each kind, summed.

    maps: float [B, h, w], no sigmoid; masks: bool [B, h, w]. A kind that is absent counts 0.
    """
    normal, anomalous = (maps + margin).clamp_min(0) * ~masks, (margin - maps).clamp_min(0) * masks
    return normal.sum() / (~masks).sum().clamp_min(1) + anomalous.sum() / masks.sum().clamp_min(1)


def focal_loss(logits: torch.Tensor, targets: torch.Tensor, gamma: float = 4.0) -> torch.Tensor:
    """Mean cross-entropy, of which well-judged values weigh little; float logits and bool targets of one shape. 0 for
    none.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="none")
    return ((1 - torch.exp(-entropy)) ** gamma * entropy).sum() / max(1, entropy.numel())


# Real defects


class BalancedImages(SeededItems):
    """A set's anomalous images, each in four positions, and as many normal ones: other normal ones in every epoch.

    Item: {"image": float32 [3, H, W] in [0, 1], "mask": bool [H, W], "label": int, "known": bool, whether it is known
    which pixels are anomalous}. It depends on (seed, epoch, index).
    """

    TURNS = ((), (1,), (2,), (1, 2))  # axes of a picture [C, H, W] that are reversed

    def __init__(self, images: ImageSet, seed: int):
        super().__init__(seed)
        self.source = images
        self.anomalous, self.normal = np.flatnonzero(images.labels == 1), np.flatnonzero(images.labels == 0)
        self.masked = (images.samples["mask"] != "").to_numpy()

    def __len__(self) -> int:
        return 2 * len(self.TURNS) * len(self.anomalous)

    def __getitem__(self, index: int) -> dict:
        half = len(self) // 2
        if index < half:
            turn, which = divmod(index, len(self.anomalous))
            row, axes = int(self.anomalous[which]), self.TURNS[turn]
            item = self.source[row]
            picture, mask = item["image"].flip(axes), item["mask"].flip([axis - 1 for axis in axes])
            return {"image": picture, "mask": mask, "label": 1, "known": bool(self.masked[row])}
        # All normal images in random order, then all again in another order, and so on through the epochs.
        cycle, place = divmod(self.epoch * half + index - half, len(self.normal))
        order = np.random.default_rng([self.seed, cycle]).permutation(self.normal)
        item = self.source[int(order[place])]
        return {key: item[key] for key in ("image", "mask", "label")} | {"known": True}


class SuperSimpleNet(Detector):
    """SuperSimpleNet. Images of 256 pixels.

    backbone, weights, stages: the frozen features (adlib.features.backbones).
    align_corners: how the stages are enlarged.
    hidden: width of the segmentation head.
    noise: standard deviation of the noise. It is absolute, and suits features of the size of torchvision's weights.
    threshold: of the Perlin noise; higher makes smaller blobs.
    stop_gradient: keep the classification's loss away from the segmentation head.
    epochs, batch_size: the rates are multiplied by `decay` at each share of the epochs in `milestones`; a share that
        falls between two epochs never comes, as in the official code.
    schedule_every: "epoch"; or "step", which counts the milestones in batches.
    adaptor_rate, adaptor_weight_decay, head_rate, head_weight_decay: of AdamW.
    clip_norm: the largest norm of all gradients, or None.
    smoothing: sigma of the anomaly map's blur in pixels, 0 for none.
    image_score: of the classification "head", or the "map"'s largest value.
    cache_gib: frozen features of the training images are kept in memory if they need no more; 0 never keeps them.
    """

    name = "supersimplenet"
    facts = Facts("discriminator of features", 2024, "labelled defects, or none")
    feature_synthesis = "No picture is changed: noise is added to features inside such blobs, new ones in every step."
    image_defaults = {"resize": "linear"}
    accepts_anomalous = True

    def __init__(
        self,
        backbone: str = "wide_resnet50_2.tv_in1k",
        weights: str = "pretrained",
        stages: Stages = (2, 3),
        align_corners: bool = True,
        hidden: Count = 1024,
        noise: NotNegative = 0.015,
        threshold: float = 0.2,
        stop_gradient: bool = True,
        epochs: Count = 300,
        batch_size: Count = 32,
        adaptor_rate: Positive = 1e-4,
        adaptor_weight_decay: NotNegative = 0.01,
        head_rate: Positive = 2e-4,
        head_weight_decay: NotNegative = 1e-5,
        milestones: tuple[Share, ...] = (0.8, 0.9),
        decay: Positive = 0.4,
        schedule_every: Literal["epoch", "step"] = "epoch",
        clip_norm: Positive | None = None,
        smoothing: NotNegative = 4.0,
        image_score: Literal["head", "map"] = "head",
        cache_gib: NotNegative = 2.0,
    ): ...

    def fit_images(self, images, val, progress):
        self.build(self.weights)
        self.to(self.device_)
        optimiser = torch.optim.AdamW(
            [
                {
                    "params": self.adaptor_.parameters(),
                    "lr": self.adaptor_rate,
                    "weight_decay": self.adaptor_weight_decay,
                },
                {"params": self.heads_.parameters(), "lr": self.head_rate, "weight_decay": self.head_weight_decay},
            ],
            fused=True,
        )
        milestones = [
            round(self.epochs * share, 6) for share in self.milestones
        ]  # 90 epochs * 0.7 is 62.99999999999999
        self.losses_ = train(
            self,
            self.training_images(images, progress),
            self.losses,
            self.trained(),
            optimiser,
            epochs=self.epochs,
            batch_size=self.batch_size,
            schedules=[torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones, self.decay)],
            schedule_every=self.schedule_every,
            clip_norm=self.clip_norm,
            drop_last=False,
            progress=progress,
        )

    def synthetic_images(self, images: ImageSet, seed: int) -> SyntheticImages:
        """For adlib.report.training_preview: the images as they are beside blobs like those that hold noise."""
        stride = build_network(self.backbone, self.stages, seed).feature_info.reduction()[0]
        grid = tuple(2 * -(-side // stride) for side in images.shape)
        return SyntheticImages(images, NoiseBlobs(grid, self.threshold), 1.0, seed, keep_normal=True)

    def training_images(self, images: ImageSet, progress: bool) -> Dataset:
        """The normal images' frozen features, or balanced images where some are anomalous."""
        if not (images.labels == 1).any():
            return frozen_features(self, images, self.cache_gib, progress)
        if (images.labels == 1).all():
            raise InputError("To learn from real defects, fit needs normal images too.")
        return BalancedImages(images, self.seed_)

    def build(self, weights: str) -> None:
        """The networks before training; the trained ones' initial weights come from the fit's seed."""
        self.backbone_ = Backbone(self.backbone, self.stages, weights, self.seed_)
        channels = sum(self.backbone_.channels)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed_)
            self.adaptor_ = convolution(channels, channels).to(memory_format=torch.channels_last)
            self.heads_ = Heads(channels, self.hidden, self.stop_gradient).to(memory_format=torch.channels_last)

    def trained(self) -> dict[str, nn.Module]:
        return {"adaptor": self.adaptor_, "heads": self.heads_}

    def adapted(self, features: list[torch.Tensor]) -> torch.Tensor:
        """Feature maps of all stages -> adapted ones, float [B, C, 2h, 2w]."""
        return self.adaptor_(upscaled(features, self.align_corners))

    def losses(self, batch: torch.Tensor | list[torch.Tensor] | dict) -> dict[str, torch.Tensor]:
        """batch: normal images or their features; or items of BalancedImages ("known" may be absent: all masks are)."""
        supervised = isinstance(batch, dict)
        adapted = self.adapted(features_of(self, batch["image"] if supervised else batch))
        grid = adapted.shape[-2:]
        masks = torch.zeros(len(adapted), *grid, dtype=torch.bool, device=adapted.device)
        labels = torch.zeros(len(adapted), dtype=torch.bool, device=adapted.device)
        known = ~labels
        if supervised:
            small = F.interpolate(batch["mask"][:, None].float(), size=grid, mode="bilinear", align_corners=False)
            masks, labels, known = small[:, 0] >= 0.5, batch["label"] > 0, batch.get("known", known)
        # Everything twice; the noise of the two differs, and leaves what is anomalous already as it is.
        adapted, masks, labels, known = (torch.cat([part, part]) for part in (adapted, masks, labels, known))
        rng = np.random.default_rng(int(torch.randint(2**62, ())))  # of torch's generator, which checkpoints keep
        noisy = blobs(len(adapted), grid, self.threshold, rng).to(adapted.device) & ~masks & known[:, None, None]
        noise = torch.zeros_like(adapted)  # drawn only where it goes: one thread draws random numbers
        drawn = torch.randn(int(noisy.sum()), adapted.shape[1], device=adapted.device, dtype=adapted.dtype)
        noise.movedim(1, -1)[noisy] = self.noise * drawn
        adapted = adapted + noise
        masks = masks | noisy
        maps, scores = self.heads_(adapted)
        return {
            "truncated": truncated_loss(maps[known], masks[known]),
            "focal": focal_loss(maps[known], masks[known]),
            "classification": focal_loss(scores, labels | masks.flatten(1).any(1)),
        }

    def score_batch(self, batch):
        maps, scores = self.heads_(self.adapted(self.backbone_(batch)))
        maps = blur(upsample(maps, batch.shape[-2:]), self.smoothing)
        return (scores.sigmoid() if self.image_score == "head" else maps.amax((1, 2))), maps


def blur(maps: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of float [B, H, W] as torchvision's: kernel cut at 3 sigma, border mirrored without the edge pixel.

    Returns a CPU tensor. sigma in pixels, 0 leaves the maps as they are.
    """
    maps = maps.float().cpu()
    if sigma == 0:
        return maps
    width = 2 * int(np.ceil(3 * sigma)) + 1
    if torch.jit.is_tracing():
        return convolved(maps, width, sigma, repeat_edge=False)
    blurred = [cv2.GaussianBlur(one, (width, width), sigma, borderType=cv2.BORDER_REFLECT_101) for one in maps.numpy()]
    return torch.from_numpy(np.stack(blurred))
