"""GLASS: "A Unified Anomaly Synthesis Strategy with Gradient Ascent for Industrial Anomaly Detection and Localization".

Chen, Luo, Lv, Zhang; ECCV 2024; arXiv 2407.09359. SimpleNet's adaptor and discriminator, taught by two kinds of
anomalies. Near ones: noisy normal patches that climb the discriminator's loss, to look as normal as they can, and are
kept at a distance from the normal ones ("global", in feature space). Far ones: images with a texture laid over part
of them ("local").

Follows the official code. What is ours:
- the last epoch counts; the published numbers are of the epoch with the best image and pixel AUROC on the TEST images;
- textures come from the folder `textures`, where the authors take the images of DTD (Describable Textures Dataset);
  without a folder they are drawn, and a warning says so. A picture is cropped before it is changed, theirs after;
- textures may lie anywhere, as in ISP-AD's study. On objects the authors keep to the foreground, by masks that they
  publish for MVTec AD and others; thresholds may stand in for them (foreground="dark" and others);
- an epoch of more than `epoch_images` images goes on where the last one ended, instead of drawing its images anew;
- the centre of the hypersphere is the adapted mean feature, which equals the mean adapted feature, so that it costs
  one pass over the images instead of one per epoch, and does not favour a smaller last batch;
- a mask that stays empty after 100 draws is given up, and its image is normal.

Other readings, as parameters:
- ISP-AD: images of 256 pixels, hypothesis="manifold", epochs=160, learning_rate of 1.25e-5 to 5e-5.

There is no mixed precision: it would round the noise away.
"""

from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

from adlib.detector import Facts, PixelsOnly
from adlib.errors import InputError
from adlib.features.patch_embedding import pooled_embedding
from adlib.images import ImageSet
from adlib.models.simplenet import SimpleNet
from adlib.parameters import Count, NotNegative, Positive, Share, ShareBelowOne, Stages, Whole
from adlib.synthesis import ProceduralTextures, SyntheticImages, compose, perlin_mask
from adlib.synthesis.texture_operations import equalise, rotate
from adlib.synthesis.textures import TextureSource
from adlib.training.frozen_features import FrozenFeatures, features_of, frozen_features
from adlib.training.loop import to_device, train
from adlib.training.pasted_textures import FOREGROUNDS, TEXTURES, PastingDetector, foreground_mask

# Local anomalies: a texture over part of the image


def contrast(texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    mean = float(cv2.cvtColor(texture, cv2.COLOR_RGB2GRAY).mean())
    factor = rng.uniform(0.8, 1.2)
    return cv2.addWeighted(texture, factor, np.full_like(texture, round(mean)), 1 - factor, 0)


def brightness(texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return cv2.convertScaleAbs(texture, alpha=rng.uniform(0.8, 1.2))


def saturation_and_hue(texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Saturation times 0.8 to 1.2; hue turned by up to a fifth of the circle."""
    factor = rng.uniform(0.8, 1.2)
    hsv = cv2.cvtColor(cv2.addWeighted(texture, factor, grey(texture, rng), 1 - factor, 0), cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(round(rng.uniform(-0.2, 0.2) * 256) % 256)  # runs round the circle
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def mirror(texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.ascontiguousarray(texture[:, ::-1])


def upside_down(texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.ascontiguousarray(texture[::-1])


def grey(texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return cv2.cvtColor(cv2.cvtColor(texture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def autocontrast(texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each channel stretched to 0..255."""
    return cv2.merge([cv2.normalize(one, None, 0, 255, cv2.NORM_MINMAX) for one in cv2.split(texture)])


# uint8 [H, W, 3] -> the same; three different ones are applied to every texture.
OPERATIONS = (
    contrast,
    brightness,
    saturation_and_hue,
    mirror,
    upside_down,
    grey,
    autocontrast,
    equalise,
    rotate,
)


@dataclass(frozen=True)
class LocalOverlay:
    """A synthesiser: lays a texture over Perlin blobs (adlib.synthesis says how synthesisers are called).

    The blobs are, with equal probability, the union or the intersection of two draws, or one of them. The image keeps
    a weight drawn from a normal distribution of mean 0.5 and deviation 0.1, within 0.2 to 0.8. (The official code
    blends normalised images, which comes to the same.)
    """

    textures: TextureSource = field(default_factory=ProceduralTextures)
    foreground: str = "all"

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        shape = image.shape[:2]
        allowed = foreground_mask(image, self.foreground)
        for _ in range(100):
            first, second = perlin_mask(shape, rng), perlin_mask(shape, rng)
            mask = (first | second, first & second, first)[rng.integers(3)] & allowed
            if mask.any():
                break
        else:
            return image.copy(), mask
        texture = self.textures(shape, rng)
        for choice in rng.permutation(len(OPERATIONS))[:3]:
            texture = OPERATIONS[choice](texture, rng)
        return compose(image, texture / np.float32(255), mask, float(np.clip(rng.normal(0.5, 0.1), 0.2, 0.8)))


class OverlaidImages(Dataset):
    """Images with an overlay, their masks, and the normal image behind each: its frozen features if there are any.

    Item: {"image": float32 [3, H, W], "mask": bool [H, W], "normal": float32 [3, H, W] or a tuple of features}.
    """

    def __init__(self, images: SyntheticImages, features: FrozenFeatures | ImageSet):
        self.images = images
        self.features = features if isinstance(features, FrozenFeatures) else None

    def set_epoch(self, epoch: int) -> None:
        self.images.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        item = self.images[index]
        if self.features is not None:
            item["normal"] = self.features[index]
        return {key: item[key] for key in ("image", "mask", "normal")}


# Manifold or hypersphere


def is_hypersphere(mean_image: np.ndarray) -> bool:
    """Which hypothesis the official code takes for a set of images, by the spectrum of their mean.

    mean_image: float [H, W, 3] in [0, 1]. Blurred, an image of one object keeps strong low frequencies, close together
    in a disc or a box; that speaks for the hypersphere. All numbers are the official code's.
    """
    levels = cv2.cvtColor(cv2.resize((mean_image * 255).astype(np.uint8), (289, 289)), cv2.COLOR_RGB2GRAY)
    spectrum = np.fft.fftshift(np.abs(np.fft.fft2(cv2.blur(levels, (39, 39)).astype(np.float32))))
    centre = 289 // 2
    rows, columns = np.abs(np.nonzero(spectrum > np.exp(170 / 20)) - np.array([[centre], [centre]]))
    if len(rows) <= 60:
        return False
    radius = np.hypot(rows, columns).max()
    y, x = np.ogrid[-centre : 2 * 289 - centre, -centre : 2 * 289 - centre]
    box = len(rows) / (4 * max(rows.max(), 1) * max(columns.max(), 1))
    disc = len(rows) / np.count_nonzero(np.hypot(y, x) <= radius)
    return bool(max(box, disc) > 0.21 and radius > 12)


class Centre(nn.Module):
    """Of the hypersphere: the mean adapted patch at every position, renewed every so many steps and kept in between.

    mean: float [h * w, D], the mean patch before the adaptor. centre(adaptor) -> float [h * w, D].
    """

    def __init__(self, mean: torch.Tensor, every: int):
        super().__init__()
        self.every = every
        self.register_buffer("mean", mean)
        self.register_buffer("adapted", torch.zeros_like(mean))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def forward(self, adaptor: nn.Module) -> torch.Tensor:
        if self.step % self.every == 0:
            self.adapted.copy_(adaptor(self.mean))
        self.step += 1
        return self.adapted


# Training


def project(points: torch.Tensor, centres: torch.Tensor, nearest, farthest) -> torch.Tensor:
    """Move points [N, D] straight towards or away from their centres, to a distance between nearest and farthest."""
    away = points - centres
    distance = away.norm(dim=1, keepdim=True)
    return centres + away * (distance.clamp(nearest, farthest) / (distance + 1e-10))


def hard_focal_loss(answers: torch.Tensor, masks: torch.Tensor, share: float, gamma: float = 2.0) -> torch.Tensor:
    """Mean focal loss over the positions whose squared error reaches the `share` quantile: the hardest ones.

    answers: float [N], no sigmoid; masks: bool [N].
    """
    right = torch.where(masks, answers, -answers).sigmoid()  # the probability of the right answer
    error = (1 - right.detach()).square()
    right = right[error >= torch.quantile(error, share)]
    right = right * (1 - 1e-5) + (1 - right) * 1e-5 + 1e-5  # the official code's smoothing
    return -((1 - right) ** gamma * right.log()).mean()


class GLASS(PastingDetector, SimpleNet):
    """GLASS. Images of 288 pixels.

    backbone, weights, stages, embedding_size, hidden: as of SimpleNet.
    hypothesis: where near anomalies are kept. "manifold": at a distance within `shell` of the normal patch they came
        from. "hypersphere": between one and two radii from the centre, and far ones between two and four. "auto": as
        the spectrum of the mean training image says (`choices` tells).
    noise: standard deviation of the noise from which near anomalies start; absolute, as `shell` is.
    ascent_steps, ascent_rate, project_every: steps of gradient ascent, their length, and how often they are kept off.
    radius_quantile: of the normal patches' distances to the centre; the radius.
    hard_share: quantile of the far patches' errors from which on they are learned from.
    textures: a folder of pictures such as DTD's images, or None for drawn textures.
    foreground: where textures may lie, "all" or a rule of adlib.training.pasted_textures.foreground_mask.
    epochs, epoch_images, batch_size: an epoch ends with the batch that takes it past epoch_images, or with the set.
    learning_rate: of the adaptor's Adam (weight decay 1e-5); the discriminator's AdamW (0.01) has twice that.
    smoothing: sigma of the anomaly map's blur in pixels, 0 for none.
    cache_gib: frozen features of the training images are kept in memory if they need no more; 0 never keeps them.
    """

    name = "glass"
    facts = Facts("discriminator of features", 2024, TEXTURES)
    texture_resizing = ("antialias", "shorter")
    slope = 0.2  # of the leaky ReLU, which for SimpleNet is a parameter
    feature_synthesis = "Near anomalies besides: noisy features that climb the discriminator's loss, without a picture."
    image_defaults = {"size": 288, "sides": "shorter"}

    def __init__(
        self,
        backbone: str = "wide_resnet50_2.tv_in1k",
        weights: str = "pretrained",
        stages: Stages = (2, 3),
        embedding_size: Count = 1536,
        hidden: Count = 1024,
        hypothesis: Literal["auto", "manifold", "hypersphere"] = "auto",
        noise: NotNegative = 0.015,
        shell: tuple[NotNegative, NotNegative] = (0.5, 1.0),
        ascent_steps: Whole = 20,
        ascent_rate: Positive = 0.001,
        project_every: Count = 5,
        radius_quantile: Share = 0.75,
        hard_share: ShareBelowOne = 0.5,
        textures: str | None = None,
        foreground: Literal[*FOREGROUNDS] = "all",
        epochs: Count = 640,
        epoch_images: Count = 392,
        batch_size: Count = 8,
        learning_rate: Positive = 1e-4,
        smoothing: NotNegative = 4.0,
        cache_gib: NotNegative = 2.0,
    ):
        if shell[0] > shell[1]:
            raise InputError(f"shell={shell} must be the nearest and the farthest distance, in this order.")

    def fit_images(self, images, val, progress):
        synthetic = self.synthetic_images(images, self.seed_)
        self.build(self.weights)
        self.to(self.device_)
        features = frozen_features(self, images, self.cache_gib, progress)
        epoch_steps = min(-(-len(images) // self.batch_size), self.epoch_images // self.batch_size + 1)
        self.hypersphere_ = self.on_hypersphere(images)
        self.centre_ = Centre(self.mean_patches(features), epoch_steps) if self.hypersphere_ else None
        self.losses_ = train(
            self,
            OverlaidImages(synthetic, features),
            self.losses,
            self.trained() | ({"centre": self.centre_} if self.centre_ else {}),
            [
                torch.optim.Adam(self.adaptor_.parameters(), self.learning_rate, weight_decay=1e-5, fused=True),
                torch.optim.AdamW(
                    self.discriminator_.parameters(), 2 * self.learning_rate, weight_decay=0.01, fused=True
                ),
            ],
            steps=self.epochs * epoch_steps,
            batch_size=self.batch_size,
            drop_last=False,
            progress=progress,
        )
        del self.centre_

    @property
    def choices(self):
        decided = getattr(self, "hypersphere_", None)
        if self.hypothesis != "auto" or decided is None:
            return super().choices
        return super().choices | {"hypothesis": "hypersphere" if decided else "manifold"}

    def synthetic_images(self, images, seed):
        overlay = LocalOverlay(self.texture_source(), self.foreground)
        return SyntheticImages(images, overlay, probability=1.0, seed=seed, keep_normal=True)

    def on_hypersphere(self, images: ImageSet) -> bool:
        if self.hypothesis != "auto":
            return self.hypothesis == "hypersphere"
        mean = sum(batch.sum(0).double() for _, batch in self.batches(images, 8, False, "spectrum")) / len(images)
        return is_hypersphere(mean.permute(1, 2, 0).cpu().numpy())

    @torch.no_grad()
    def mean_patches(self, features: FrozenFeatures | ImageSet) -> torch.Tensor:
        """The mean patch of every position before the adaptor: float [h * w, D]."""
        loader = DataLoader(features if isinstance(features, FrozenFeatures) else PixelsOnly(features), 8)
        total = 0
        with torch.random.fork_rng(devices=[]):  # for the reason that FrozenFeatures has
            for batch in loader:
                maps = features_of(self, to_device(batch, self.device_))
                total = total + pooled_embedding(maps, self.embedding_size).sum(0)
        return total / len(features)

    def losses(self, batch: dict) -> dict[str, torch.Tensor]:
        pasted = self.backbone_(batch["image"])
        grid = pasted[0].shape[-2:]
        masks = F.adaptive_max_pool2d(batch["mask"][:, None].float(), grid).flatten() > 0  # [B * h * w]
        pasted, normal = self.patches(pasted), self.patches(features_of(self, batch["normal"]))

        centres, nearest, farthest = normal, *self.shell
        if self.centre_ is not None:
            centres = self.centre_(self.adaptor_).repeat(len(batch["mask"]), 1)
            with torch.no_grad():
                away = torch.cat([pasted[~masks] - centres[~masks], normal - centres])
                nearest = torch.quantile(away.norm(dim=1), self.radius_quantile)
            farthest = 2 * nearest
            pasted = torch.where(masks[:, None], project(pasted, centres, 2 * nearest, 4 * nearest), pasted)

        near = self.ascended(normal, centres, nearest, farthest)
        answers, near_answers = self.discriminator_(torch.cat([normal, near])).chunk(2)
        return {
            "normal": F.binary_cross_entropy_with_logits(answers, torch.zeros_like(answers)),
            "near": F.binary_cross_entropy_with_logits(near_answers, torch.ones_like(near_answers)),
            "far": hard_focal_loss(self.discriminator_(pasted), masks, self.hard_share),
        }

    def ascended(self, normal: torch.Tensor, centres: torch.Tensor, nearest, farthest) -> torch.Tensor:
        """Near anomalies: normal patches [N, D] with noise, after gradient ascent and kept off the normal ones.

        The ascent's gradients are taken as constants; the adaptor learns through where each anomaly started.
        """
        near = normal + self.noise * torch.randn_like(normal)
        hidden = self.discriminator_.linear(normal).detach()  # the same in every step
        for step in range(1, self.ascent_steps + 1):
            answers = self.discriminator_.head(torch.cat([hidden, self.discriminator_.linear(near)]))[len(normal) :]
            loss = F.binary_cross_entropy_with_logits(answers, torch.ones_like(answers))
            (gradient,) = torch.autograd.grad(loss, near)
            near = near + self.ascent_rate * gradient / (gradient.norm(dim=1, keepdim=True) + 1e-10)
            if step % self.project_every == 0:
                near = project(near, centres, nearest, farthest)
        return near

    @staticmethod
    def patch_scores(answers):
        return answers.sigmoid()
