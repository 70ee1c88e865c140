"""PyramidFlow: "High-Resolution Defect Contrastive Localization using Pyramid Normalizing Flow".

Lei, Hu, Wang, Liu; CVPR 2023, 14143-14152; arXiv 2303.02595. An invertible network over a Laplacian pyramid learns to
map two normal images to nearly the same latents (they are compared after a Fourier transform); what differs from the
mean latents of the training images, the template, is anomalous. All steps preserve volume, so that no likelihood is
needed to keep the network from shrinking everything.

Follows the official code. Notes:
- Its encoder gets no gradients, but its batch norms run in train mode during training: they normalise by the two
  images at hand, and their running statistics drift to those of the training images. drifting_encoder=False keeps
  the pretrained statistics throughout.
- Its memory-saving container repeats forward passes, so that running means of log-scales are updated several times
  per step; here once. Gradients are the same.
- A "down" step takes the mean off log-scales before it enlarges or shrinks them to the level that it changes, so it
  preserves volume only nearly.
- It measures on maps of 256 pixels and keeps the best epoch on the TEST images. Here maps are enlarged to the images'
  size, and the last epoch counts.
- Levels, normalisation and augmentation are chosen per category of MVTec AD: MVTEC_AD lists them.
- Of an oblong image, whose shorter side it resizes and which it takes whole, the centre square is taken.
Texture-AD (tables 2 to 4): backbone="none", channels=24, levels=8, images of 256 pixels; its number of stacks varies.
"""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import nn

from adlib.anomaly_map import upsample
from adlib.detector import Detector, Facts
from adlib.errors import InputError
from adlib.features.backbones import MEAN, STD, Backbone
from adlib.networks.flow_blocks import (
    InvertibleConvolution,
    at_least_float32,
    atan_clamp,
)
from adlib.parameters import Count, NotNegative, Odd, Positive, Range, Share
from adlib.training.loop import PRECISIONS, train

# What the official code chooses where a category of MVTec AD departs from the defaults.
MVTEC_AD = {
    "bottle": {"normalisation": "spatial"},
    "carpet": {"normalisation": "spatial", "levels": 8, "augment": True},
    "grid": {"normalisation": "spatial", "augment": True},
    "leather": {"augment": True},
    "metal_nut": {"levels": 8},
    "screw": {"levels": 2},
    "tile": {"augment": True},
    "transistor": {"normalisation": "spatial", "levels": 8},
    "wood": {"augment": True},
}


class Projection(nn.Module):
    """The encoder of backbone="none": a fixed orthogonal 1x1 convolution, [B, 3, h, w] -> a list with [B, C, h, w]."""

    def __init__(self, channels: int, seed: int = 0):
        super().__init__()
        self.origin = {"kind": "random", "seed": seed}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            weight = nn.init.orthogonal_(torch.empty(channels, 3))
        self.register_buffer("weight", weight[:, :, None, None])
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    @torch.no_grad()
    def forward(self, x):
        return [F.conv2d((x - self.mean) / self.std, self.weight)]


# The pyramid.


def blur(x: torch.Tensor) -> torch.Tensor:
    """5x5 binomial filter of every channel, zeros around."""
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=x.dtype, device=x.device) / 16
    channels = x.shape[1]
    x = F.conv2d(x, line.view(1, 1, 1, 5).expand(channels, -1, -1, -1), padding=(0, 2), groups=channels)
    return F.conv2d(x, line.view(1, 1, 5, 1).expand(channels, -1, -1, -1), padding=(2, 0), groups=channels)


def enlarged(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return blur(F.interpolate(x, size=size, mode="nearest"))


def build_pyramid(x: torch.Tensor, levels: int) -> list[torch.Tensor]:
    """float [B, C, h, w] -> what each level adds to the enlarged next one, finest first, and the smallest image."""
    pyramid = []
    for _ in range(levels - 1):
        smaller = F.max_pool2d(blur(x), 2)
        pyramid.append(x - enlarged(smaller, x.shape[-2:]))
        x = smaller
    return [*pyramid, x]


def compose_pyramid(pyramid: list[torch.Tensor]) -> torch.Tensor:
    """The exact inverse of `build_pyramid`."""
    x = pyramid[-1]
    for level in reversed(pyramid[:-1]):
        x = enlarged(x, level.shape[-2:]) + level
    return x


# The flow.


class VolumeNorm(nn.Module):
    """Takes off the mean of log-scales: of the batch in training, a running one (from 0) afterwards.

    "channel": a mean over images and channels for each position (CVN); "spatial": over images and positions for each
    channel (SVN). shape: (C, h, w) of the log-scales. momentum: share of the batch in the running mean.
    """

    def __init__(self, kind: str, shape: tuple[int, int, int], momentum: float = 0.1):
        super().__init__()
        self.momentum = momentum
        channels, height, width = shape
        self.axes = (0, 1) if kind == "channel" else (0, 2, 3)
        mean = torch.zeros(1, 1, height, width) if kind == "channel" else torch.zeros(1, channels, 1, 1)
        self.register_buffer("running_mean", mean)

    def forward(self, log_scale):
        if not self.training:
            return log_scale - self.running_mean
        mean = log_scale.mean(self.axes, keepdim=True)
        self.running_mean.lerp_(mean.detach(), self.momentum)
        return log_scale - mean


class PyramidStep(nn.Module):
    """Affine coupling of one level of the pyramid, given its neighbours, and an invertible 1x1 convolution of it.

    sources: the neighbouring levels, (target + 1,), (target - 1,) or both. shapes: (C, h, w) of all levels.
    Neighbours are brought to the target's grid before the subnet, but a single finer one after it.
    """

    def __init__(
        self,
        sources: tuple[int, ...],
        target: int,
        shapes: list,
        kernel: int,
        normalisation: str,
        momentum: float = 0.1,
    ):
        super().__init__()
        self.sources, self.target = sources, target
        self.late = sources == (target - 1,)
        channels = shapes[target][0]
        settings = {"padding": kernel // 2, "bias": False}
        self.subnet = nn.Sequential(
            nn.Conv2d(len(sources) * channels, 2 * channels, kernel, **settings),
            nn.LeakyReLU(0.01),
            nn.Conv2d(2 * channels, 2 * channels, kernel, **settings),
        )
        nn.init.zeros_(self.subnet[-1].weight)
        self.norm = VolumeNorm(normalisation, shapes[target - 1 if self.late else target], momentum)
        self.mix = InvertibleConvolution(channels)

    def change(self, levels: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-scale and shift of the target level."""
        size = levels[self.target].shape[-2:]
        given = [levels[source] for source in self.sources]
        if not self.late:
            given = [F.interpolate(level, size=size, mode="nearest") for level in given]
        outputs = self.subnet(torch.cat(given, 1))
        raw, shift = at_least_float32(outputs).chunk(2, 1)
        log_scale = self.norm(atan_clamp(raw, 2.0))
        if self.late:
            log_scale, shift = (F.interpolate(one, size=size, mode="nearest") for one in (log_scale, shift))
        return log_scale, shift

    def forward(self, levels):
        log_scale, shift = self.change(levels)
        changed = self.mix(levels[self.target] * log_scale.exp() + shift)
        return [*levels[: self.target], changed, *levels[self.target + 1 :]]

    def inverse(self, levels):
        log_scale, shift = self.change(levels)
        restored = (self.mix.inverse(levels[self.target]) - shift) * (-log_scale).exp()
        return [*levels[: self.target], restored, *levels[self.target + 1 :]]


class PyramidFlowNet(nn.Module):
    """Pyramid and stacks of steps.

    shape: (C, h, w) of the encoder's output. A stack is an even pass and an odd one: level i + 1 is changed given
    levels i and i + 2 (or i alone) for even i, then level 0 given level 1, then the same for odd i.

    net(x): float [B, C, h, w] -> latents, one per level, finest first; net.inverse gives x back.
    """

    def __init__(self, shape, levels=4, stacks=4, kernel=7, normalisation="channel", momentum=0.1):
        super().__init__()
        self.levels = levels
        channels, height, width = shape
        shapes = [(channels, height >> level, width >> level) for level in range(levels)]
        passes = []
        for first in (0, 1):
            passes += [((1,), 0)] if first else []
            for start in range(first, levels - 1, 2):
                passes.append(((start, start + 2) if start + 2 < levels else (start,), start + 1))
        self.steps = nn.ModuleList(
            PyramidStep(sources, target, shapes, kernel, normalisation, momentum)
            for _ in range(stacks)
            for sources, target in passes
        )

    def forward(self, x):
        levels = build_pyramid(x, self.levels)
        for step in self.steps:
            levels = step(levels)
        return levels

    def inverse(self, levels):
        for step in reversed(self.steps):
            levels = step.inverse(levels)
        return compose_pyramid(levels)


def contrast(latents: list[torch.Tensor]) -> torch.Tensor:
    """Mean magnitude of the Fourier transform of the difference of pairs: the loss.

    latents: float [B, C, h, w] per level, of at least two images; each is compared with every other, in
    B (B - 1) / 2 pairs.
    """
    first, second = torch.triu_indices(len(latents[0]), len(latents[0]), 1)
    squares = [(level[first] - level[second]).square() for level in latents]
    return torch.fft.fft2(compose_pyramid(squares).mean(1).float()).abs().mean()


def flipped(batch: torch.Tensor) -> torch.Tensor:
    """Each image mirrored left to right, top to bottom and turned by 90 degrees, each with probability one half."""
    chosen = torch.rand(len(batch), 3) < 0.5
    images = []
    for image, (left, top, turn) in zip(batch, chosen.tolist(), strict=True):
        image = image.flip(-1) if left else image
        image = image.flip(-2) if top else image
        images.append(image.rot90(1, (-2, -1)) if turn else image)
    return torch.stack(images)


class PyramidFlow(Detector):
    """PyramidFlow. Images of 1024 pixels with a ResNet (a grid of 256), of 256 with backbone="none".

    backbone: a ResNet up to layer1 (64 channels at a quarter of the size), or "none" for a fixed projection of the
        pixels to `channels` channels. weights: as of adlib.features.backbones; without meaning for "none".
    drifting_encoder: the encoder's batch norms run in train mode during training, see above.
    levels: of the pyramid; the grid must be divisible by 2^(levels - 1). stacks, kernel: of the flow.
    normalisation: of log-scales, "channel" or "spatial" (VolumeNorm). momentum: of its running mean.
    augment: mirror and turn training images (textures).
    epochs, batch_size (2 or more), learning_rate, weight_decay: of Adam, epsilon 1e-4, betas 0.5 and 0.9, no schedule.
    clip_norm: largest norm of the gradient. precision: of the training (adlib.training.loop).
    """

    name = "pyramidflow"
    facts = Facts("normalising flow", 2023)
    image_defaults = {"size": 1024, "sides": "shorter"}

    def __init__(
        self,
        backbone: str = "resnet18.tv_in1k",
        weights: str = "pretrained",
        channels: Count = 16,
        drifting_encoder: bool = True,
        levels: Annotated[int, Range(2)] = 4,
        stacks: Count = 4,
        kernel: Odd = 7,
        normalisation: Literal["channel", "spatial"] = "channel",
        momentum: Share = 0.1,
        augment: bool = False,
        epochs: Count = 15,
        batch_size: Annotated[int, Range(2, multiple=2)] = 2,
        learning_rate: Positive = 2e-4,
        weight_decay: NotNegative = 1e-5,
        clip_norm: Positive = 1.0,
        precision: Literal[*PRECISIONS] = "float32",
    ): ...

    def build_backbone(self, weights: str, seed: int) -> nn.Module:
        if self.backbone == "none":
            return Projection(self.channels, seed)
        return Backbone(self.backbone, (1,), weights, seed)

    def build_flow(self, shape: tuple[int, int, int]) -> PyramidFlowNet:
        """The trained network for an encoder's output of shape (C, h, w)."""
        return PyramidFlowNet(shape, self.levels, self.stacks, self.kernel, self.normalisation, self.momentum)

    def fit_images(self, images, val, progress):
        if len(images) < 2:
            raise InputError("pyramidflow compares images in pairs: fit needs at least two.")
        if self.augment and images.shape[0] != images.shape[1]:
            raise InputError(f"augment=True turns images by 90 degrees: they must be square, not {images.shape}.")
        self.backbone_ = self.build_backbone(self.weights, self.seed_).to(self.device_)
        self.shape_ = tuple(self.backbone_(images.pixels(0)[None].to(self.device_))[0].shape[1:])
        if any(side % 2 ** (self.levels - 1) for side in self.shape_[1:]):
            raise InputError(
                f"levels={self.levels} halve the encoder's grid {self.shape_[1:]} {self.levels - 1} times, which it "
                "does not allow: choose fewer levels or another image size."
            )
        self.flow_ = self.build_flow(self.shape_).to(self.device_)

        def loss(batch):
            drifting = self.drifting_encoder and isinstance(self.backbone_, Backbone)
            if drifting:
                self.backbone_.net.train()  # the backbone itself stays in eval mode
            features = self.backbone_(flipped(batch) if self.augment else batch)[0]
            self.backbone_.eval()
            return contrast(self.flow_(features))

        settings = {"lr": self.learning_rate, "eps": 1e-4, "weight_decay": self.weight_decay, "betas": (0.5, 0.9)}
        optimiser = torch.optim.Adam(self.flow_.parameters(), **settings)
        settings = {"epochs": self.epochs, "batch_size": self.batch_size, "drop_last": True}
        settings |= {"clip_norm": self.clip_norm}
        settings |= {"precision": self.precision, "progress": progress}
        train(self, images, loss, {"flow": self.flow_, "encoder": self.backbone_}, optimiser, **settings)
        self.template_ = self.mean_latents(images, progress)

    @torch.no_grad()
    def mean_latents(self, images, progress: bool) -> list[torch.Tensor]:
        """The template: mean over the images of the latents of each level, [1, C, h, w]."""
        sums = [0] * self.levels
        for _, batch in self.batches(images, 2, progress, "template"):
            latents = self.flow_(self.backbone_(batch)[0])
            sums = [total + level.sum(0, keepdim=True) for total, level in zip(sums, latents, strict=True)]
        return [total / len(images) for total in sums]

    def score_batch(self, batch):
        features = self.backbone_(batch)[0]
        if tuple(features.shape[1:]) != self.shape_:
            raise InputError(
                f"This pyramidflow was fitted on images that gave features {self.shape_}; these give "
                f"{tuple(features.shape[1:])}. Predict with the size and crop of the training images."
            )
        latents = self.flow_(features)
        differences = [(level - mean).abs() for level, mean in zip(latents, self.template_, strict=True)]
        coarse = compose_pyramid(differences).mean(1)
        return coarse.amax((1, 2)), upsample(coarse, batch.shape[-2:])

    def state(self):
        template = {f"template.{level}": mean for level, mean in enumerate(self.template_)}
        return {"shape": torch.tensor(self.shape_), **template, **super().state()}

    def build_for(self, state):
        self.shape_ = tuple(state.pop("shape").tolist())
        self.template_ = [state.pop(f"template.{level}") for level in range(self.levels)]
        self.backbone_ = self.build_backbone("random", 0)
        self.flow_ = self.build_flow(self.shape_)

    def to(self, device):
        super().to(device)
        self.template_ = [mean.to(device) for mean in self.template_]
