"""RD++: "Revisiting Reverse Distillation for Anomaly Detection".

Tien, Nguyen, Tran, Huy, Duong, Nguyen, Truong; CVPR 2023, pages 24511-24520. Reverse distillation as in RD4AD, with a
small projection of each scale before the bottleneck. Patches of simplex noise are laid on normal images; the
projection learns to bring their features back to the clean image's, which keeps anomalies out of the embedding.

Follows the official code, except that
- the last epoch is kept; there, the epoch is chosen by its results on the TEST images;
- its Sinkhorn term is left out: it compares a set of features with a permutation of the same set, is therefore zero
  together with its gradient, and only costs time. The divisor 1.11 that belongs to it stays;
- item i of epoch e carries noise from (seed, e, i) alone, so that runs can be repeated; there, one table of gradients,
  drawn at the start, serves all images.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import nn

from adlib.detector import Facts
from adlib.models.rd4ad import RD4AD
from adlib.networks.distillation import cosine_distance, image_cosine_distance, levels_loss
from adlib.parameters import Count, NotNegative, Positive, ShareBelowOne
from adlib.synthesis import SyntheticImages
from adlib.training.loop import PRECISIONS, train

# Epochs of the official code per MVTec AD category.
MVTEC_EPOCHS = {
    "carpet": 10,
    "leather": 10,
    "wood": 100,
    "hazelnut": 160,
    "metal_nut": 160,
    "pill": 200,
    "bottle": 200,
    "cable": 240,
    "grid": 260,
    "tile": 260,
    "screw": 280,
    "toothbrush": 280,
    "capsule": 300,
    "transistor": 300,
    "zipper": 300,
}


# Noise

# The directions from a rhombicuboctahedron's centre to its 24 corners, as OpenSimplex takes them.
GRADIENTS = np.array(
    [(1 - 2 * np.array(signs)) * np.roll([11, 4, 4], axis) for axis in range(3) for signs in np.ndindex(2, 2, 2)]
)


def simplex_noise(shape: tuple[int, int, int], frequency: float, table: np.ndarray) -> np.ndarray:
    """Smooth noise in three dimensions, one feature about every `frequency` positions: float32 of `shape` in (-1, 1).

    OpenSimplex (K. Spencer, 2014). The nodes are a cubic grid stretched along its diagonal; the value at a point is the
    sum over all nodes within sqrt(2) of (2 - r^2)^4 x (the node's gradient . offset from the node), divided by 103.
    table: a permutation of 0 to 255, which gives the nodes their gradients.
    """
    points = np.stack(np.meshgrid(*(np.arange(side) for side in shape), indexing="ij"), -1).reshape(-1, 3) / frequency
    cell = np.floor(points - points.sum(1, keepdims=True) / 6).astype(int)
    offset = points - (cell + cell.sum(1, keepdims=True) / 3)
    value = np.zeros(len(points))
    for step in _NEAR:
        away = offset - (step + step.sum() / 3)
        near = np.flatnonzero((strength := 2 - np.einsum("ij,ij->i", away, away)) > 0)
        hashed = np.zeros(len(near), int)
        for axis in range(3):
            hashed = table[(hashed + cell[near, axis] + step[axis]) % 256]
        slope = np.einsum("ij,ij->i", GRADIENTS[hashed % 24], away[near])
        value[near] += strength[near] ** 4 * slope
    return (value / 103).reshape(shape).astype(np.float32)


def _near() -> np.ndarray:
    """The nodes, counted from a cell's first corner, that lie within sqrt(2) of any point of the cell."""
    steps = np.array(list(np.ndindex(4, 4, 4))) - 1
    inside = np.array(list(np.ndindex(9, 9, 9))) / 8
    inside = inside + inside.sum(1, keepdims=True) / 3
    nodes = steps + steps.sum(1, keepdims=True) / 3
    squares = ((inside[:, None] - nodes) ** 2).sum(2).min(0)
    return steps[squares < 2]


_NEAR = _near()


@dataclass(frozen=True)
class SimplexPatch:
    """A synthesiser: simplex noise added to one random rectangle (adlib.synthesis says how synthesisers are called).

    sides: (smallest, largest) of the rectangle in pixels; strength: what the noise is multiplied by.
    octaves, persistence, frequency: every further octave has half the frequency and `persistence` of the amplitude.
    """

    sides: tuple[int, int] = (10, 31)
    strength: float = 0.2
    octaves: int = 6
    persistence: float = 0.6
    frequency: float = 32.0

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        sides = [min(int(rng.integers(*self.sides, endpoint=True)), side) for side in image.shape[:2]]
        room = [full - part for full, part in zip(image.shape[:2], sides, strict=True)]
        top, left = (int(rng.integers(min(1, space), max(space, 1))) for space in room)  # a pixel from the border
        table = rng.permutation(256)
        noise = sum(
            self.persistence**octave * simplex_noise((3, *sides), self.frequency / 2**octave, table)
            for octave in range(self.octaves)
        )
        area = (slice(top, top + sides[0]), slice(left, left + sides[1]))
        noisy, mask = image.copy(), np.zeros(image.shape[:2], bool)
        noisy[area] += self.strength * noise.transpose(1, 2, 0)  # not clipped to [0, 1], as in the official code
        mask[area] = (noisy[area] != image[area]).any(2)
        return noisy, mask


# Network


class Projection(nn.Sequential):
    """Brings the features of one scale back to normal: float [B, C, h, w] -> the same shape.

    Four 3x3 convolutions to C/2, C/4, C/2 and C channels, each with instance norm and leaky ReLU.
    """

    def __init__(self, channels: int):
        layers = []
        widths = (channels, channels // 2, channels // 4, channels // 2, channels)
        for inside, outside in pairwise(widths):
            layers += [nn.Conv2d(inside, outside, 3, padding=1), nn.InstanceNorm2d(outside), nn.LeakyReLU(0.01)]
        super().__init__(*layers)


# Loss


def projection_loss(
    noisy: list[torch.Tensor], projected_noisy: list[torch.Tensor], projected: list[torch.Tensor]
) -> torch.Tensor:
    """Noise is to vanish from the projected features, and they are to stay away from the noisy image's raw ones.

    noisy: the teacher's features of the noisy images; projected_noisy, projected: the projections of noisy and clean
    images; float [B, C, h, w] per level. Returns a scalar: (0.01 reconstruction + 0.1 contrast) / 1.11.
    """
    levels = list(zip(noisy, projected_noisy, projected, strict=True))
    reconstruction = sum(cosine_distance(after, clean).mean() for _, after, clean in levels)
    similarity = [1 - image_cosine_distance(before, clean) for before, _, clean in levels]
    contrast = sum((level - 0.5).clamp_min(0).mean() for level in similarity)
    return (0.01 * reconstruction + 0.1 * contrast) / 1.11


class RDPP(RD4AD):
    """RD++. Images of 256 pixels.

    backbone, weights: the teacher, any timm ResNet (adlib.features.backbones); its stages 1, 2 and 3 are used.
    epochs: the official number depends on the category, see MVTEC_EPOCHS; 200 is its bottle's.
    batch_size, accumulate: the gradients of `accumulate` batches add up, undivided, before each step; they are counted
        anew in each epoch (adlib.training.loop).
    learning_rate, projection_rate, betas: of the two Adams, for bottleneck with decoder and for the projections;
        without weight decay or schedule.
    projection_weight: of the projection loss beside the distillation loss.
    smoothing: sigma of the anomaly map's blur in pixels, 0 for none.
    precision: of training, see adlib.training.loop.
    """

    name = "rdpp"
    facts = Facts("student and teacher", 2023)
    image_defaults = {"resize": "linear"}

    def __init__(
        self,
        backbone: str = "wide_resnet50_2.tv_in1k",
        weights: str = "pretrained",
        epochs: Count = 200,
        batch_size: Count = 16,
        accumulate: Count = 2,
        learning_rate: Positive = 0.005,
        projection_rate: Positive = 0.001,
        betas: tuple[ShareBelowOne, ShareBelowOne] = (0.5, 0.999),
        projection_weight: NotNegative = 0.2,
        smoothing: NotNegative = 4.0,
        precision: Literal[*PRECISIONS] = "float32",
    ): ...

    def fit_images(self, images, val, progress):
        self.build(self.weights)
        self.to(self.device_)
        distilled = [*self.bottleneck_.parameters(), *self.decoder_.parameters()]
        self.losses_ = train(
            self,
            self.synthetic_images(images, self.seed_),
            self.losses,
            self.trained(),
            [
                torch.optim.Adam(self.projection_.parameters(), self.projection_rate, self.betas, fused=True),
                torch.optim.Adam(distilled, self.learning_rate, self.betas, fused=True),
            ],
            epochs=self.epochs,
            batch_size=self.batch_size,
            accumulate=self.accumulate,
            drop_last=False,
            precision=self.precision,
            progress=progress,
        )

    def synthetic_images(self, images, seed):
        """For adlib.report.training_preview, too."""
        return SyntheticImages(images, SimplexPatch(), probability=1.0, seed=seed, keep_normal=True)

    def build(self, weights):
        super().build(weights)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed_ + 1)
            projections = nn.ModuleList(Projection(channels) for channels in self.backbone_.channels)
            self.projection_ = projections.to(memory_format=torch.channels_last)

    def trained(self):
        return {"projection": self.projection_, **super().trained()}

    def project(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        return [projection(level) for projection, level in zip(self.projection_, features, strict=True)]

    def embed(self, features):
        return self.bottleneck_(self.project(features))

    def losses(self, batch: dict) -> dict[str, torch.Tensor]:
        clean, noisy = self.backbone_(batch["normal"]), self.backbone_(batch["image"])
        projected, projected_noisy = self.project(clean), self.project(noisy)
        rebuilt = self.decoder_(self.bottleneck_(projected))
        levels = ([level.float() for level in one] for one in (noisy, projected_noisy, projected))
        projection = self.projection_weight * projection_loss(*levels)
        return {"distillation": levels_loss(clean, rebuilt), "projection": projection}
