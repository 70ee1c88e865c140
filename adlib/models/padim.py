"""PaDiM: "PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and Localization".

Defard, Setkov, Loesch, Audigier; ICPR 2020 workshops; arXiv 2011.08785. One Gaussian per position of the feature
grid, over a random choice of channels of three stages; a patch is as anomalous as its Mahalanobis distance to the
Gaussian of its own position. Nothing is trained. It supposes that all images show the object at the same place.

The authors published no code; this follows the reimplementation that others compare with (xiahaifeng1995,
PaDiM-Anomaly-Detection-Localization-MVTec-AD), down to its choice of channels. anomalib's PaDiM, which 3CAD ran, is
    create_model("padim", backbone="resnet18.tv_in1k", regularisation=0.01001) on images of 256 pixels without crop:
it adds 1e-5 to the 0.01 before it inverts, and draws other channels. Its blur mirrors the map without repeating the
edge pixel, ours repeats it.

Memory: one D x D matrix per position, float32. At 224 pixels (56 x 56 positions) that is 125 MB for a ResNet-18
(D = 100) and 3.8 GB for a wide ResNet-50 (D = 550), in fit and predict and in the saved file alike, whatever the
number of images.
"""

import random
from typing import Literal

import torch

from adlib.anomaly_map import smooth, upsample
from adlib.detector import Detector, Facts
from adlib.errors import InputError
from adlib.features.backbones import Backbone
from adlib.parameters import Count, NotNegative, Positive, Stages, Whole

# How many channels the paper keeps of stages 1 to 3, by timm name without its tag.
CHANNELS = {"resnet18": 100, "wide_resnet50_2": 550}


def choose_channels(total: int, count: int, seed: int) -> torch.Tensor:
    """`count` of `total` channels without replacement, ascending: int64 [count]. The reference's draw for seed 1024."""
    return torch.tensor(sorted(random.Random(seed).sample(range(total), count)))


class GaussianPerPosition:
    """Mean and scatter of vectors at many positions, gathered batch by batch in one pass.

    Every batch is centred on its own mean before its squares are summed (Chan, Golub, LeVeque 1979), so that
    float32 does not cancel where the mean is large against the spread.
    """

    def __init__(self, positions: int, dimensions: int, device: torch.device):
        self.count = 0
        self.mean = torch.zeros(positions, dimensions, device=device)
        self.scatter = torch.zeros(positions, dimensions, dimensions, device=device)

    def add(self, vectors: torch.Tensor) -> None:
        """vectors: float [P, B, D], B of them at each position."""
        new = vectors.shape[1]
        total = self.count + new
        batch_mean = vectors.mean(1)
        step = batch_mean - self.mean
        # Between the two means lies a scatter of its own, which one more row brings in.
        between = step * (self.count * new / total) ** 0.5
        rows = torch.cat([vectors - batch_mean[:, None], between[:, None]], 1)  # [P, B + 1, D]
        self.scatter.baddbmm_(rows.transpose(1, 2), rows)
        self.mean += step * (new / total)
        self.count = total

    def whitening(self, regularisation: float, chunk: int = 64) -> torch.Tensor:
        """W with |W (x - mean)|² = (x - mean)ᵀ (covariance + regularisation I)⁻¹ (x - mean): float [P, D, D].

        The inverse of the Cholesky factor, worked out in float64 for `chunk` positions at a time. It takes the place
        of the scatter in memory, so nothing can be added afterwards.
        """
        unit = torch.eye(self.mean.shape[1], dtype=torch.float64, device=self.mean.device)
        for part in self.scatter.split(chunk):
            covariance = part.double() / max(self.count - 1, 1) + regularisation * unit
            part.copy_(torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), unit, upper=False))
        whitening, self.scatter = self.scatter, None
        return whitening


class PaDiM(Detector):
    """PaDiM. Images of 256 pixels, centre crop 224.

    backbone, weights, stages: the frozen features (adlib.features.backbones).
    channels: how many of the stages' channels are kept; None takes 100 of a ResNet-18, 550 of a wide ResNet-50 (the
        paper's) and at most 550 of any other backbone.
    channel_seed: of their random choice, on which results depend visibly; None takes the seed of fit.
    regularisation: added to the diagonal of every covariance; try more if scores explode on few images.
    smoothing: sigma of the anomaly map's blur in pixels, 0 for none.
    image_score: largest value of the "smoothed" map (official), or of the "raw" distances.
    """

    name = "padim"
    facts = Facts("distribution of features", 2020, trained=False)
    image_defaults = {"crop": 224, "resize": "lanczos", "sides": "shorter"}

    def __init__(
        self,
        backbone: str = "wide_resnet50_2.tv_in1k",
        weights: str = "pretrained",
        stages: Stages = (1, 2, 3),
        channels: Count | None = None,
        channel_seed: Whole | None = 1024,
        regularisation: Positive = 0.01,
        smoothing: NotNegative = 4.0,
        image_score: Literal["smoothed", "raw"] = "smoothed",
    ): ...

    @torch.inference_mode()
    def fit_images(self, images, val, progress):
        self.build(self.weights)
        self.backbone_.to(self.device_)
        total = sum(self.backbone_.channels)
        count = self.channels or min(CHANNELS.get(self.backbone.split(".")[0], 550), total)
        if not 0 < count <= total:
            raise InputError(f"channels={count}, but stages {self.stages} of {self.backbone} have {total}.")
        seed = self.seed_ if self.channel_seed is None else self.channel_seed
        self.kept_ = choose_channels(total, count, seed).to(self.device_)

        gaussian, waiting = None, []
        for start, batch in self.batches(images, 8, progress, "fit"):
            vectors, self.grid_ = self.embed(batch)
            gaussian = gaussian or GaussianPerPosition(len(vectors), count, self.device_)
            waiting.append(vectors)
            if len(waiting) == 4 or start + len(batch) == len(images):  # products over more images at once are faster
                gaussian.add(torch.cat(waiting, 1))
                waiting.clear()
        self.mean_ = gaussian.mean
        self.whitening_ = gaussian.whitening(self.regularisation)

    def embed(self, batch: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """Images [B, 3, H, W] -> kept channels at every position, [h * w, B, D], and the finest stage's grid (h, w)."""
        features = self.backbone_(batch)
        grid = tuple(features[0].shape[-2:])
        parts, first = [], 0
        for stage in features:
            kept = self.kept_[(self.kept_ >= first) & (self.kept_ < first + stage.shape[1])] - first
            first += stage.shape[1]
            part = stage.permute(0, 2, 3, 1).index_select(3, kept)  # [B, h', w', channels kept of this stage]
            # Nearest neighbour: coarse features are repeated, not blended.
            for axis, (fine, coarse) in enumerate(zip(grid, part.shape[1:3], strict=True), start=1):
                if coarse != fine:
                    part = part.index_select(axis, torch.arange(fine, device=part.device) * coarse // fine)
            parts.append(part)
        return torch.cat(parts, 3).flatten(1, 2).transpose(0, 1), grid

    def score_batch(self, batch):
        vectors, grid = self.embed(batch)
        if grid != self.grid_:
            raise InputError(
                f"This padim was fitted on a grid of {self.grid_[0]}x{self.grid_[1]} positions, these images give "
                f"{grid[0]}x{grid[1]}: use images of the size it was fitted on."
            )
        whitened = torch.bmm(vectors - self.mean_[:, None], self.whitening_.transpose(1, 2))  # [h * w, B, D]
        distances = whitened.square_().sum(2).sqrt_().T.reshape(len(batch), *grid)
        maps = smooth(upsample(distances, batch.shape[-2:]), self.smoothing)
        return (maps if self.image_score == "smoothed" else distances).amax((1, 2)), maps

    def build(self, weights: str) -> None:
        self.backbone_ = Backbone(self.backbone, self.stages, weights, self.seed_)

    def state(self):
        return super().state() | {"grid": torch.tensor(self.grid_)}

    def build_for(self, state):
        self.grid_ = tuple(state.pop("grid").tolist())
        self.build("random")
