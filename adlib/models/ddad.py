"""DDAD: "Anomaly Detection with Conditioned Denoising Diffusion Models".

Mousakhan, Brox, Tayyub; 2023; arXiv 2305.15956. A UNet learns to denoise normal images. To score an image, noise
is added to it and taken away in ten steps, each drawn towards the image itself: normal structure stays, anomalies are
replaced. Image and reconstruction are compared by their pixels and by the features of a network that was adapted to
reconstructions before.

Follows the official code, also where the paper differs: noise is added for time 250 but the first step takes away that
of time 225; the feature map of the first stage counts in the adaptation but not in the score. The UNet and the noise
schedule are those of the library diffusers, set up as the official network, with as many parameters: 32,952,707
(8.26 million for DDAD-S) and the same initial zeros. What is ours:
- the score of an image does not depend on its batch. The official code weighs the two comparisons by their largest
  values in the TEST batch (balance="batch"); here by those on the training images, or per "image";
- every image is scored under the same noise, drawn from the seed, so that its score is always the same;
- maps cover the whole image. The official ones, of 224 pixels, lack a border of 16, and so do the masks that they are
  compared with (crop_maps=True); here it is left out of image scores only;
- one setting for all categories. The published numbers chose epochs (1000 to 3000), conditioning (0 to 11) and
  adaptation_epochs (0 to 16) for each category; without such a choice users report far lower ones.

Other readings, as parameters:
- DDAD-S: width=32, heads=2, dropout=0.3, batch_size=16. VisA: keep=0.01, pixel_weight=7.
- ISP-AD: batch_size=8, learning_rate=5e-5 to 1e-4, and steps=3000 if "3000 steps" is taken at its word.
"""

from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from adlib.anomaly_map import smooth
from adlib.detector import Detector, Facts
from adlib.errors import InputError
from adlib.features.backbones import Backbone, build_network, fill_network, hold_statistics, normalised
from adlib.features.fusion import fused
from adlib.networks.denoising_unet import denoising_unet
from adlib.networks.distillation import levels_loss
from adlib.parameters import Count, NotNegative, Positive, ShareBelowOne, Some, Stages, Whole
from adlib.training.loop import PRECISIONS, train

TIMES = 1000  # of the diffusion; its variances rise linearly from 1e-4 to 0.02
BALANCES = ("training", "image", "batch")


class Features(nn.Module):
    """Feature maps as of adlib.features.backbones.Backbone, but to be trained: float [B, 3, H, W] in [0, 1] -> list."""

    def __init__(self, backbone: str, stages: tuple[int, ...], weights: str, seed: int):
        super().__init__()
        self.net = build_network(backbone, stages, seed)
        self.origin = fill_network(self.net, backbone, weights, seed)
        hold_statistics(self, self.net)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = normalised(self, x)
        return fused(self.net, x)(x)


# Comparison


def pixel_distance(image: torch.Tensor, denoised: torch.Tensor) -> torch.Tensor:
    """Mean over channels of the absolute difference: float [B, 3, H, W] in [-1, 1] twice -> [B, H, W]."""
    return (image - denoised).abs().mean(1)


def feature_distance(image: list[torch.Tensor], denoised: list[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
    """Sum over stages of 1 - cosine of 3x3 means, at image size: float [B, C, h, w] per stage -> [B, H, W].

    Zeros past the border; enlarged so that corners meet corners (align_corners=True).
    """
    total = 0
    for pair in zip(image, denoised, strict=True):
        distance = 1 - F.cosine_similarity(*(F.avg_pool2d(stage.float(), 3, stride=1, padding=1) for stage in pair))
        total = total + F.interpolate(distance[:, None], size=size, mode="bilinear", align_corners=True)[:, 0]
    return total


class DDAD(Detector):
    """DDAD. Images of 256 pixels; sides must be multiples of 2 ** (levels of the UNet - 1), 32 by default.

    backbone, weights, stages: of the features that are adapted and compared (adlib.features.backbones); all stages
        count in the adaptation, all but the first in the score.
    width, multipliers, attention, heads, dropout: of the UNet, see `denoising_unet`.
    epochs, batch_size, learning_rate, weight_decay: of Adam (not AdamW), for the UNet.
    steps: train for so many batches instead of epochs.
    chunk: so many images of a batch pass the UNet at once; changes the memory (about 0.8 GiB per image of 256
        pixels, beside 1.7 GiB) and not what is learned.
    start: the time for which noise is added, of 1000. step: by how much the time falls at once; it must divide both.
    conditioning: w, how strongly each step draws towards the image: copies more of it, its anomalies too. The paper
        chose 0 to 11; 3 is what it used for bottles and cables and what ISP-AD used.
    adaptation_epochs, adaptation_batch_size, adaptation_rate, adaptation_weight_decay: of AdamW, for the features; 0
        epochs leave them as they are. adaptation_conditioning: w while adapting. keep: weight of the distance to the
        frozen features.
    balance: the pixels' distance is scaled so that its largest value equals the features': on all "training" images,
        per "image", or in the "batch" (official: the scores then depend on what else is in the batch).
    pixel_weight: v, weight of the pixels' distance after that.
    smoothing: sigma of the anomaly map's blur in pixels. border: pixels along each edge of the image that image scores
        leave out, of those with tiles too; crop_maps: and maps as well: predictions then are of the images' centre
        crop, and so are their masks.
    precision: of the UNet's training, see adlib.training.loop; float16 is not possible here.
    """

    name = "ddad"
    facts = Facts("image reconstruction, diffusion", 2023)

    def __init__(
        self,
        backbone: str = "wide_resnet101_2.tv_in1k",
        weights: str = "pretrained",
        stages: Stages = (1, 2, 3),
        width: Count = 64,
        multipliers: Annotated[tuple[Count, ...], Some()] = (1, 1, 2, 2, 4, 4),
        attention: tuple[Count, ...] = (8, 16, 32),
        heads: Count = 4,
        dropout: ShareBelowOne = 0.0,
        epochs: Count = 3000,
        steps: Count | None = None,
        batch_size: Count = 32,
        learning_rate: Positive = 3e-4,
        weight_decay: NotNegative = 0.05,
        chunk: Count = 4,
        start: Count = 250,
        step: Count = 25,
        conditioning: NotNegative = 3.0,
        adaptation_epochs: Whole = 4,
        adaptation_batch_size: Count = 16,
        adaptation_rate: Positive = 1e-4,
        adaptation_weight_decay: NotNegative = 0.01,
        adaptation_conditioning: NotNegative = 3.0,
        keep: NotNegative = 0.1,
        balance: Literal[*BALANCES] = "training",
        pixel_weight: NotNegative = 1.0,
        smoothing: NotNegative = 4.0,
        border: Whole = 16,
        crop_maps: bool = False,
        precision: Literal[*PRECISIONS] = "float32",
    ):
        if not step <= start < TIMES or start % step or TIMES % step:
            raise InputError(f"step={step} must divide {TIMES} and start={start}, which must lie below {TIMES}.")
        if len(stages) < 2:
            raise InputError(f"stages={stages} must be two at least: the first one does not count in the score.")
        if any(reduced & (reduced - 1) for reduced in attention):
            raise InputError(f"attention={attention} must be powers of 2: each level of the UNet halves the images.")
        groups = min(32, width)
        if any(width * factor % heads or width * factor % groups for factor in multipliers):
            raise InputError(
                f"width={width} times each of {multipliers} must be a multiple of heads={heads} and {groups}."
            )

    @property
    def origin(self):
        return self.features_.origin

    @property
    def side_multiple(self) -> int:
        return 2 ** (len(self.multipliers) - 1)

    def check_shape(self, height, width):
        super().check_shape(height, width)
        if 2 * self.border >= min(height, width):
            raise InputError(f"border={self.border} leaves nothing of images of {height} x {width}.")

    def fit_images(self, images, val, progress):
        self.build(self.weights)
        self.to(self.device_)
        self.fit_unet(images, progress)
        if self.adaptation_epochs:
            self.adapt_features(images, progress)
        self.fit_balance(images, progress)

    def build(self, weights: str) -> None:
        from diffusers import DDIMScheduler

        self.schedule_ = DDIMScheduler(TIMES, beta_start=1e-4, beta_end=0.02, clip_sample=False)
        self.schedule_.set_timesteps(TIMES // self.step)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed_)
            self.unet_ = denoising_unet(self.width, self.multipliers, self.attention, self.heads, self.dropout)
        self.features_ = Features(self.backbone, self.stages, weights, self.seed_).eval()
        self.features_.requires_grad_(self.adaptation_epochs > 0)

    # Training

    def fit_unet(self, images, progress: bool) -> None:
        optimiser = torch.optim.Adam(
            self.unet_.parameters(), self.learning_rate, weight_decay=self.weight_decay, fused=True
        )

        def update(batch: torch.Tensor) -> dict[str, torch.Tensor]:
            clean, noise = 2 * batch - 1, torch.randn_like(batch)
            times = torch.randint(TIMES, (len(batch),), device=batch.device)
            optimiser.zero_grad(set_to_none=True)
            total = 0
            for part in zip(clean.split(self.chunk), noise.split(self.chunk), times.split(self.chunk), strict=True):
                loss = self.noise_loss(*part).sum() / len(batch)
                loss.backward()
                total = total + loss.detach()
            optimiser.step()
            return {"loss": total}

        self.losses_ = train(
            self,
            images,
            None,
            {"unet": self.unet_},
            optimiser,
            update=update,
            epochs=self.epochs if self.steps is None else None,
            steps=self.steps,
            batch_size=self.batch_size,
            drop_last=True,
            precision=self.precision,
            stage="unet",
            progress=progress,
        )

    def noise_loss(self, clean: torch.Tensor, noise: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """Squared error of the predicted noise, summed over an image: float [B, 3, H, W] twice, times [B] -> [B]."""
        predicted = self.unet_(self.schedule_.add_noise(clean, noise, times), times).sample
        return (predicted.float() - noise).square().sum((1, 2, 3))

    def adapt_features(self, images, progress: bool) -> None:
        """Train the features to see no difference between a normal image and what another one is denoised to."""
        frozen = Backbone(self.backbone, self.stages, self.weights, self.seed_).to(self.device_)
        self.adaptation_losses_ = train(
            self,
            images,
            lambda batch: self.adaptation_losses(batch, frozen),
            {"features": self.features_},
            torch.optim.AdamW(
                self.features_.parameters(), self.adaptation_rate, weight_decay=self.adaptation_weight_decay, fused=True
            ),
            epochs=self.adaptation_epochs,
            batch_size=self.adaptation_batch_size,
            drop_last=True,
            stage="adaptation",
            progress=progress,
        )

    def adaptation_losses(self, batch: torch.Tensor, frozen: Backbone) -> dict[str, torch.Tensor]:
        """The batch's second half is noised and denoised towards its first half."""
        half = max(1, len(batch) // 2)
        target, other = 2 * batch[:half] - 1, 2 * batch[-half:] - 1
        noise = torch.randn(self.start // self.step + 1, *other.shape, device=batch.device)
        with torch.no_grad():
            denoised = (self.denoise(other, target, self.adaptation_conditioning, noise) + 1) / 2
        target = batch[:half]
        rebuilt, wanted = self.features_(denoised), self.features_(target)
        kept = levels_loss(wanted, frozen(target)) + levels_loss(rebuilt, frozen(denoised))
        return {"same": levels_loss(rebuilt, wanted), "kept": self.keep * kept}

    @torch.no_grad()
    def fit_balance(self, images, progress: bool) -> None:
        """Find the largest distances of features and of pixels on the training images: float [2]."""
        self.largest_ = torch.ones(2, device=self.device_)
        if self.balance == "training":
            parts = [
                torch.stack([distance.amax() for distance in self.distances(batch)])
                for _, batch in self.batches(images, 8, progress, "balance")
            ]
            self.largest_ = torch.stack(parts).amax(0)

    # Scoring

    def denoise(
        self, images: torch.Tensor, target: torch.Tensor, conditioning: float, noise: torch.Tensor
    ) -> torch.Tensor:
        """Add noise to images and take it away while drawing towards the target.

        images, target: float [B, 3, H, W] in [-1, 1]. noise: [start / step + 1, 3, H, W], or with a B before the 3; the
        first one is added to the images, the others during the steps. Returns float like images, hardly beyond [-1, 1].
        """
        x = self.schedule_.add_noise(images, noise[0], torch.tensor([self.start], device=images.device))
        for number, time in enumerate(range(self.start - self.step, -1, -self.step), 1):
            kept = self.schedule_.alphas_cumprod[time]  # share of the image's variance in x
            predicted = self.unet_(x, time).sample.float()
            wanted = kept.sqrt() * target + (1 - kept).sqrt() * predicted
            predicted = predicted - (1 - kept).sqrt() * conditioning * (wanted - x)
            x = self.schedule_.step(predicted, time, x, eta=1.0, variance_noise=noise[number]).prev_sample
        return x

    def denoised(self, batch: torch.Tensor) -> torch.Tensor:
        """Images float [B, 3, H, W] in [0, 1] -> their reconstructions in [-1, 1], each under the same noise."""
        generator = torch.Generator().manual_seed(self.seed_)  # on the CPU: every device sees the same noise
        noise = torch.randn(self.start // self.step + 1, *batch.shape[1:], generator=generator).to(batch.device)
        return self.denoise(2 * batch - 1, 2 * batch - 1, self.conditioning, noise)

    def distances(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of features and of pixels between images and their reconstructions: float [B, H, W] each."""
        denoised = self.denoised(batch)
        features = [self.features_(images)[1:] for images in (batch, (denoised + 1) / 2)]
        return feature_distance(*features, batch.shape[-2:]), pixel_distance(2 * batch - 1, denoised)

    def score_batch(self, batch):
        features, pixels = self.distances(batch)
        if self.balance == "training":
            largest = self.largest_
        elif self.balance == "image":
            largest = torch.stack([features.amax((1, 2)), pixels.amax((1, 2))])[..., None, None]
        else:
            largest = torch.stack([features.amax(), pixels.amax()])
        maps = smooth(features + self.pixel_weight * largest[0] / largest[1] * pixels, self.smoothing)
        inner = slice(self.border, -self.border or None)
        return maps[:, inner, inner].amax((1, 2)), maps

    def score_samples(self, batch, samples):
        """Of tiles the border is that of the image: a tile's edge inside of it counts."""
        scores, maps = self.score_batch(batch)
        if "tile" in samples:
            inner = [self.inside(tuple(map(int, place.split())), maps.shape[-1]) for place in samples["tile"]]
            scores = torch.stack([own[place].amax() for own, place in zip(maps, inner, strict=True)])
        return scores, maps

    def inside(self, corner: tuple[int, int], side: int) -> tuple[slice, slice]:
        """The part of a tile, with this corner in its image, that lies inside the image's border."""
        rows, columns = (
            slice(max(0, self.border - first), min(side, full - self.border - first))
            for first, full in zip(corner, self.whole, strict=True)
        )
        return rows, columns

    def predict(self, images, device="auto", batch_size=8, progress=True):
        self.whole = images.whole  # for the places of its tiles
        found = super().predict(images, device, batch_size, progress)
        if not self.crop_maps:
            return found
        inner = slice(self.border, -self.border or None)
        maps = np.ascontiguousarray(found.maps[:, inner, inner])
        settings = {name: value for name, value in found.settings.items() if name != "tile"}  # what is judged has none
        return replace(found, maps=maps, settings=settings | {"crop": maps.shape[1:]}, seen=found.settings)

    def illustrate(self, batch):
        return {"denoised": (self.denoised(batch) + 1) / 2}
