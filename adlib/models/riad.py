"""RIAD: "Reconstruction by inpainting for visual anomaly detection".

Zavrtanik, Kristan, Skocaj; Pattern Recognition 112:107706, 2021. A U-Net learns to inpaint square cells that are
removed from normal images. To score an image, every pixel is removed once and inpainted from what surrounds it, for
several sizes of cells; where the inpainting's edges differ from the image's, the image is anomalous.

There is no official code. Defaults follow the unofficial ones that are most used (plutoyuxie, taikiinoue45), and in
scoring one from the authors' laboratory (blaz-r), as they agree with the paper. Where these differ:
- scoring: all sizes of cells weigh the same and maps are smoothed by a mean filter of 21 pixels (blaz-r). plutoyuxie's
  weights favour the largest cells 64 times over the smallest;
- edges are those of the grey image, without a median filter before them, zeros past the border (blaz-r, taikiinoue45);
- SSIM is taken of images in [0, 1], for which its constants are meant; the rest of the loss, as there, in [-1, 1];
- the epoch with the lowest loss on held-out normal images is kept, of all epochs: they stop 20 epochs after it;
- test masks are fixed by the seed. There they are drawn anew, so that an image never gets the same score twice.
"""

import math
from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import nn

from adlib.anomaly_map import upsample
from adlib.detector import Detector, Facts
from adlib.errors import InputError
from adlib.networks.losses import structural_similarity
from adlib.parameters import Count, NotNegative, Odd, Positive, Range, Share, ShareBelowOne, Some
from adlib.training.held_out import hold_out
from adlib.training.loop import PRECISIONS, step_schedule, train

SCALES = 4  # of the gradient-magnitude similarity

# Masks


def removed_cells(
    size: tuple[int, int], cell: int, sets: int, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Which pixels each of `sets` masks removes: bool [sets, H, W]; every pixel is removed by exactly one.

    The image is cut into cells of `cell` x `cell` pixels, which are dealt to the sets at random, so that their numbers
    differ by one at most. generator: None draws from torch's own random numbers.
    """
    rows, columns = size[0] // cell, size[1] // cell
    owner = torch.randperm(rows * columns, generator=generator).remainder(sets).view(rows, columns)
    owner = owner.repeat_interleave(cell, 0).repeat_interleave(cell, 1)
    return owner == torch.arange(sets).view(sets, 1, 1)


# Network


def _layer(inside: int, outside: int, kernel: int = 3) -> list[nn.Module]:
    """Convolution, batch norm, ReLU; a kernel of 4 halves height and width."""
    return [
        nn.Conv2d(inside, outside, kernel, stride=1 if kernel == 3 else 2, padding=1),
        nn.BatchNorm2d(outside),
        nn.ReLU(inplace=True),
    ]


class Inpainting(nn.Module):
    """A U-Net down to 1/16: float [B, 3, H, W] in [-1, 1], removed pixels 0 -> the whole image, of the same shape."""

    def __init__(self, width: int):
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width, 8 * width]
        self.down = nn.ModuleList([nn.Sequential(*_layer(3, width), *_layer(width, width))])
        for inside, outside in pairwise(widths):
            self.down.append(nn.Sequential(*_layer(inside, outside, 4), *_layer(outside, outside)))
        self.enlarge, self.join = nn.ModuleList(), nn.ModuleList()
        for inside, outside in pairwise(widths[::-1]):
            self.enlarge.append(nn.ConvTranspose2d(inside, outside, 4, stride=2, padding=1))
            self.join.append(nn.Sequential(*_layer(2 * outside, outside), *_layer(outside, outside)))
        self.out = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
        for enlarge, join, skip in zip(self.enlarge, self.join, skips[-2::-1], strict=True):
            x = join(torch.cat([enlarge(x), skip], 1))
        return torch.tanh(self.out(x))


# Loss


def gradient_magnitude(grey: torch.Tensor) -> torch.Tensor:
    """Strength of edges by Prewitt's filters: float [B, 1, H, W] -> the same shape."""
    across = torch.tensor([1.0, 0.0, -1.0], device=grey.device, dtype=grey.dtype).expand(3, 3) / 3
    edges = F.conv2d(grey, torch.stack([across, across.T])[:, None], padding=1)
    return (edges.square().sum(1, keepdim=True) + 1e-12).sqrt()  # the root of 0 has no gradient


def gradient_similarity(first: torch.Tensor, second: torch.Tensor) -> list[torch.Tensor]:
    """Gradient-magnitude similarity of float [B, 3, H, W] twice: [B, h, w] in (0, 1] per scale, 1 where edges agree.

    Of grey images at full, half, quarter and eighth size (2x2 means); c = 0.0026.
    """
    c, maps = 0.0026, []
    first, second = first.mean(1, keepdim=True), second.mean(1, keepdim=True)
    for scale in range(SCALES):
        if scale:
            first, second = F.avg_pool2d(first, 2), F.avg_pool2d(second, 2)
        one, two = gradient_magnitude(first), gradient_magnitude(second)
        maps.append(((2 * one * two + c) / (one.square() + two.square() + c))[:, 0])
    return maps


class RIAD(Detector):
    """RIAD. Images of 256 pixels; sides must be multiples of 16 and of every cell.

    cells: sides of the removed squares in pixels. Each batch of training draws one, scoring averages over all. Small
        ones also restore defects, large ones fail on images without a pattern.
    sets: into how many masks the cells of an image are dealt.
    partitions: how many random partitions scoring averages over, for each size of cells.
    epochs, batch_size, learning_rate, weight_decay: of Adam.
    milestone, decay: one epoch before this share of them is over, as in the code followed here, the learning rate is
        multiplied by decay: at epoch 250 of 300.
    gradient_weight, similarity_weight: of edges and of SSIM in the loss, beside the squared error.
    validation_share: of the training images, held out to choose the epoch with the lowest loss; 0 trains on all and
        keeps the last epoch. Images given to fit as `val` are used instead.
    width: of the network: channels at full size; the deepest have eight times as many.
    smoothing_window: side of the mean filter over the maps in pixels, odd.
    precision: of training, see adlib.training.loop.
    """

    name = "riad"
    facts = Facts("image reconstruction", 2021)
    image_defaults = {"resize": "lanczos", "sides": "shorter"}

    def __init__(
        self,
        cells: Annotated[tuple[Count, ...], Some()] = (2, 4, 8, 16),
        sets: Annotated[int, Range(2)] = 3,
        partitions: Count = 1,
        epochs: Count = 300,
        batch_size: Count = 4,
        learning_rate: Positive = 1e-4,
        weight_decay: NotNegative = 1e-5,
        milestone: Share = 5 / 6,
        decay: Positive = 0.1,
        gradient_weight: NotNegative = 1.0,
        similarity_weight: NotNegative = 1.0,
        validation_share: ShareBelowOne = 0.2,
        width: Count = 64,
        smoothing_window: Odd = 21,
        precision: Literal[*PRECISIONS] = "float32",
    ):
        if len(set(cells)) < len(cells):
            raise InputError(f"cells={cells} must be different from each other.")

    @property
    def side_multiple(self) -> int:
        return math.lcm(16, *self.cells)

    def fit_images(self, images, val, progress):
        self.build()
        self.to(self.device_)
        if val is None:
            images, val = hold_out(images, self.validation_share, self.seed_)
        optimiser = torch.optim.Adam(
            self.inpainting_.parameters(), self.learning_rate, weight_decay=self.weight_decay, fused=True
        )
        self.losses_ = train(
            self,
            images,
            self.training_losses,
            {"inpainting": self.inpainting_},
            optimiser,
            epochs=self.epochs,
            batch_size=self.batch_size,
            schedules=[step_schedule(optimiser, self.epochs, (self.milestone,), self.decay, late=-1)],
            drop_last=False,
            precision=self.precision,
            validate=None if val is None else lambda: self.mean_loss(val),
            progress=progress,
        )

    def build(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed_)
            self.inpainting_ = Inpainting(self.width).to(memory_format=torch.channels_last)

    def inpaint(self, batch: torch.Tensor, removed: torch.Tensor) -> torch.Tensor:
        """Every pixel as inpainted when it was removed.

        batch: float [B, 3, H, W] in [-1, 1]; removed: bool [sets, H, W] of `removed_cells`. Returns float32 like batch.
        """
        removed = removed.to(batch.device)
        parts = [self.inpainting_(batch.masked_fill(mask, 0)).float().masked_fill(~mask, 0) for mask in removed]
        return sum(parts)

    def training_losses(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        cell = self.cells[int(torch.randint(len(self.cells), ()))]
        return self.losses(batch, removed_cells(batch.shape[-2:], cell, self.sets))

    def losses(self, batch: torch.Tensor, removed: torch.Tensor) -> dict[str, torch.Tensor]:
        """The terms of the loss of images float [B, 3, H, W] in [0, 1] under one partition."""
        target = 2 * batch - 1
        inpainted = self.inpaint(target, removed)
        similarities = gradient_similarity(inpainted, target)
        return {
            "squared": F.mse_loss(inpainted, target),
            "gradient": self.gradient_weight * sum(1 - one.mean() for one in similarities) / SCALES,
            "ssim": self.similarity_weight * (1 - structural_similarity((inpainted + 1) / 2, batch)),
        }

    def fixed_partitions(self, size: torch.Size) -> dict[int, list[torch.Tensor]]:
        """cell -> the partitions that every image is scored with, bool [sets, H, W] each; they follow from the seed."""
        generator = torch.Generator().manual_seed(self.seed_)
        return {
            cell: [removed_cells(size, cell, self.sets, generator) for _ in range(self.partitions)]
            for cell in self.cells
        }

    def mean_loss(self, images) -> float:
        """The mean over images and cells of the loss."""
        total = 0.0
        for _, batch in self.batches(images, self.batch_size, False, "val"):
            for partitions in self.fixed_partitions(batch.shape[-2:]).values():
                total += len(batch) * sum(self.losses(batch, partitions[0]).values()).item()
        return total / (len(images) * len(self.cells))

    def score_batch(self, batch):
        target, maps = 2 * batch - 1, 0
        for partitions in self.fixed_partitions(batch.shape[-2:]).values():
            for removed in partitions:
                similarities = gradient_similarity(self.inpaint(target, removed), target)
                maps = maps + 1 - sum(upsample(one, batch.shape[-2:]) for one in similarities) / SCALES
        maps = maps / (len(self.cells) * self.partitions)
        maps = F.avg_pool2d(maps, self.smoothing_window, stride=1, padding=self.smoothing_window // 2)
        return maps.amax((1, 2)), maps

    def illustrate(self, batch):
        partitions = self.fixed_partitions(batch.shape[-2:]).items()
        return {
            f"inpainted, cells of {cell}": (self.inpaint(2 * batch - 1, removed) + 1) / 2
            for cell, (removed, *_) in partitions
        }

    def build_for(self, state):
        self.build()
