"""U-Flow: "A U-shaped Normalizing Flow for Anomaly Detection with Unsupervised Threshold".

Tailanian, Pardo, Musé; Journal of Mathematical Imaging and Vision 66, 678-696, 2024; arXiv 2211.12353. Frozen features
of two scales pass a U-shaped invertible network: the coarse scale is transformed, half of it becomes a latent, the
other half is enlarged and joins the finer scale. Low likelihood is anomalous; an a-contrario test turns the latents
into a number of false alarms (NFA), which has a threshold without having seen anomalies.

Follows the official code. Notes:
- It tunes learning rate and batch size per category of MVTec AD: MVTEC_AD lists them; the defaults are those of its
  default configuration. It stops early on pixel AUROC of the TEST images; here the number of epochs is fixed.
- Its learning rate falls from 1 to 0.4 times over 25,000 steps of a schedule that is stepped once per epoch, so it
  hardly moves. The same here.
- Its map is one minus the mean likelihood over scales, its image score the map's maximum. score="significance" gives
  -log10 NFA instead: positive is anomalous.
- The bound on which the NFA rests holds where a region is farther from 0 than noise is on average; elsewhere the
  official code evaluates it all the same, here it is 0 (no evidence).
- The bound takes a region's least energy; between siblings of equal significance the parent wins.
anomalib (ISP-AD, tables 2 to 4) differs by learning_rate=1e-3 for all categories and by batch_weighted=True: its loss
adds the energies of a batch and averages only the log-determinants.
"""

import math
from typing import Literal

import numpy as np
import scipy.ndimage
import torch
import torch.nn.functional as F
from torch import nn

from adlib.anomaly_map import upsample
from adlib.detector import Facts
from adlib.errors import InputError
from adlib.features.backbones import Backbone
from adlib.networks.flow_blocks import (
    Flow,
    ScaleNorms,
    TokenBackbone,
    convolutional_flow,
    log_likelihood,
    negative_log_likelihood,
)
from adlib.parameters import Count, NotNegative, Positive
from adlib.training.feature_flow import FeatureFlow
from adlib.training.loop import PRECISIONS

# Learning rate and batch size of the official configuration of each category of MVTec AD.
MVTEC_AD = {
    "bottle": (1.129e-4, 23), "cable": (1.616e-3, 14), "capsule": (1.212e-3, 14), "carpet": (3.163e-5, 13),
    "grid": (3.622e-5, 12), "hazelnut": (1.3269e-3, 21), "leather": (6.125e-4, 15), "metal_nut": (8.149e-4, 11),
    "pill": (1.0756e-3, 11), "screw": (4.156e-4, 11), "tile": (6.046e-3, 30), "toothbrush": (1.287e-4, 21),
    "transistor": (1.1213e-3, 20), "wood": (2.467e-4, 22), "zipper": (4.552e-5, 24),
}  # fmt: skip


class CaiTPair(nn.Module):
    """Two frozen CaiT: M48 on the image as it is (448 pixels), S24 on the image resized to 224.

    pair(x): float [B, 3, 448, 448] -> [B, 768, 28, 28] and [B, 384, 14, 14], after 41 of 48 and 21 of 24 blocks.
    """

    def __init__(self, fine: str, coarse: str, weights: str, seed: int = 0):
        super().__init__()
        if weights not in ("pretrained", "random"):
            raise InputError(
                f"weights={weights!r}: {fine} and {coarse} need two files. Put both into one folder, name it in "
                "ADLIB_WEIGHTS and say weights='pretrained'; or weights='random'."
            )
        self.weights = weights
        self.fine = TokenBackbone(fine, 40, weights, seed)
        self.coarse = TokenBackbone(coarse, 20, weights, seed)
        self.channels = [*self.fine.channels, *self.coarse.channels]
        self.strides = [*self.fine.strides, self.coarse.strides[0] * self.fine.side // self.coarse.side]
        self.origin = {**self.fine.origin, "second": self.coarse.origin}

    def forward(self, x):
        small = F.interpolate(x, size=(self.coarse.side, self.coarse.side), mode="bicubic", align_corners=True)
        return [*self.fine(x), *self.coarse(small)]


class UFlowNet(nn.Module):
    """The U-shaped flow.

    channels: of the feature maps, finest first, each map twice as wide and high as the next. norms: ScaleNorms or None.
    steps: of each stage; kernels 3 and 1 alternate.

    net(features) gives the latents, coarsest first, and the log-determinant [B]; net.inverse gives the features back.
    """

    def __init__(self, channels: list[int], steps: int = 4, norms: nn.Module | None = None):
        super().__init__()
        self.channels = channels
        self.norms = norms
        self.flows = nn.ModuleList()
        carried = 0
        for count in reversed(channels):
            width = count + carried
            self.flows.append(convolutional_flow(width, steps, (3, 1), 1.0))
            carried = width // 2 // 4

    def forward(self, features):
        log_dets = []

        def call(flow, x):
            latent, log_det = flow(x)
            log_dets.append(log_det)
            return latent

        return self.through(features, call), sum(log_dets)

    def latents(self, features):
        """The latents alone, for prediction."""
        return self.through(features, Flow.latent)

    def through(self, features, call):
        """Latents, coarsest first; call(flow, x) is the latent of a stage."""
        if self.norms is not None:
            features = self.norms(features)
        latents, carried = [], []
        for depth, (flow, stage) in enumerate(zip(self.flows, reversed(features), strict=True)):
            x = call(flow, torch.cat([stage, *carried], 1))
            if depth + 1 < len(self.flows):
                half, x = x.chunk(2, 1)
                carried = [F.pixel_shuffle(half, 2)]  # four channels become 2 x 2 positions: no change of volume
            latents.append(x)
        return latents

    def inverse(self, latents):
        """The (normalised) features, finest first, of latents, coarsest first."""
        features, carried = [], []
        for count, flow, latent in zip(self.channels, reversed(self.flows), reversed(latents), strict=True):
            x = flow.inverse(torch.cat([*(F.pixel_unshuffle(half, 2) for half in carried), latent], 1))
            features.append(x[:, :count])
            carried = [x[:, count:]]
        return features


# The a-contrario test.


def log_nfa(latents: list[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
    """log10 of the number of false alarms of every pixel; below 0 is anomalous (one false alarm per image expected).

    latents: float [B, C, h, w], any scales. Returns float32 [B, H, W]: the least value over the scales, each enlarged
    bilinearly, plus log10 of the number of regions that were tested.
    """
    tests = log10_tests([latent.shape[-2] * latent.shape[-1] for latent in latents])
    maps = []
    for latent in latents:
        energies = latent.float().square().sum(1).cpu().numpy()
        regions = np.stack([region_significance(energy, latent.shape[1]) for energy in energies])
        maps.append(upsample(torch.from_numpy(regions), size))
    return torch.stack(maps).amin(0) + tests


def log10_tests(cells: list[int]) -> float:
    """log10 of the number of tests: 4-connected regions (polyominoes) of every size, at every cell of every grid.

    cells: h * w of each scale. Of r cells there are about 0.316915 * 4.062570^r / r polyominoes.
    """
    logs = []
    for count in cells:
        sizes = np.arange(1, count + 1)
        logs.append(math.log(count * 0.316915) + np.logaddexp.reduce(sizes * math.log(4.062570) - np.log(sizes)))
    return float(np.logaddexp.reduce(logs)) / math.log(10)


def region_significance(energy: np.ndarray, channels: int) -> np.ndarray:
    """log10 of the probability of false alarm of the region that each cell belongs to, 0 for cells of no region.

    energy: float [h, w], sum of z^2 over the channels. Returns float32 [h, w], at most 0.

    Regions are the nodes of the tree of upper level sets (4-connected): from the highest cell down, a cell starts,
    grows or joins regions. A branch without forks keeps its most significant node; a fork takes the place of its
    branches if it is at least as significant as each of them.
    """
    height, width = energy.shape
    order = np.argsort(-energy, axis=None, kind="stable")
    values = energy.ravel()[order].astype(np.float64)
    excess = np.maximum(values / channels, 1.0)  # at or below the mean there is no evidence
    evidence = channels / 2 * (excess - 1 - np.log(excess)) / math.log(10)  # per cell (Chernoff, chi-squared)
    neighbours = np.full((height * width, 4), -1)
    index = np.arange(height * width).reshape(height, width)
    neighbours.reshape(height, width, 4)[1:, :, 0] = index[:-1]
    neighbours.reshape(height, width, 4)[:-1, :, 1] = index[1:]
    neighbours.reshape(height, width, 4)[:, 1:, 2] = index[:, :-1]
    neighbours.reshape(height, width, 4)[:, :-1, 3] = index[:, 1:]

    parent: dict[int, int] = {}  # cell -> cell, up to the root of its region
    area, branch = {}, {}  # by root; a branch is (significance, number of the node's last cell, its branches below)

    def root_of(cell: int) -> int:
        while parent[cell] != cell:
            parent[cell] = parent[parent[cell]]
            cell = parent[cell]
        return cell

    for number, cell in enumerate(order.tolist()):
        roots = {root_of(other) for other in neighbours[cell].tolist() if other in parent}
        parent[cell] = cell
        area[cell] = 1 + sum(area[root] for root in roots)
        here = -area[cell] * evidence[number]
        below = [branch[root] for root in roots]
        if len(below) == 1:
            significance, best, forks = below[0]
            branch[cell] = (here, number, forks) if here <= significance else (significance, best, forks)
        else:
            branch[cell] = (here, number, [_settled(one) for one in below])
        for root in roots:
            parent[root] = cell

    result = np.zeros(height * width, np.float32)
    rank = np.empty(height * width, int)
    rank[order] = np.arange(height * width)
    for significance, number in _leaves(_settled(branch[root_of(int(order[0]))])):
        labels, _ = scipy.ndimage.label(rank.reshape(height, width) <= number)
        result[(labels == labels.ravel()[order[number]]).ravel()] = significance
    return result.reshape(height, width)


def _settled(branch: tuple) -> tuple:
    """A finished branch: itself without what is below, if it is at least as significant; else as it is."""
    significance, number, below = branch
    if all(not deeper for _, _, deeper in below) and all(significance <= other for other, _, _ in below):
        return significance, number, []
    return branch


def _leaves(branch: tuple) -> list[tuple[float, int]]:
    pending, leaves = [branch], []
    while pending:
        significance, number, below = pending.pop()
        pending.extend(below)
        if not below and significance < 0:
            leaves.append((significance, number))
    return leaves


class UFlow(FeatureFlow):
    """U-Flow. Images of 448 pixels (the CaiT accept no other), no crop.

    backbone, second_backbone: two CaiT, or a ResNet whose layers 1 to 3 are taken, each through a trained LayerNorm;
        then the second has no meaning. weights: as of adlib.features.backbones; for the CaiT "pretrained" or "random".
    steps: of each of the flow's stages.
    score: "likelihood", in [0, 1], or "significance" (-log10 NFA; anomalous above 0).
    epochs: 200 officially, at most (500 for grid, hazelnut, leather, screw and wood, 400 for transistor).
    batch_size, learning_rate, weight_decay: of Adam. schedule_steps: of its schedule, see above.
    batch_weighted: anomalib's loss, see above.
    precision, cache_gib: as of FastFlow. CaiT features of one image take 2.6 MB and most of the time.
    """

    name = "uflow"
    facts = Facts("normalising flow", 2024)
    image_defaults = {"size": 448, "sides": "shorter"}

    def __init__(
        self,
        backbone: str = "cait_m48_448.fb_dist_in1k",
        second_backbone: str = "cait_s24_224.fb_dist_in1k",
        weights: str = "pretrained",
        steps: Count = 4,
        score: Literal["likelihood", "significance"] = "likelihood",
        epochs: Count = 200,
        batch_size: Count = 8,
        learning_rate: Positive = 1e-4,
        weight_decay: NotNegative = 1e-5,
        schedule_steps: Count = 25_000,
        batch_weighted: bool = False,
        precision: Literal[*PRECISIONS] = "float32",
        cache_gib: NotNegative = 4.0,
    ): ...

    def build_backbone(self, weights: str, seed: int) -> nn.Module:
        if self.backbone.startswith("cait"):
            return CaiTPair(self.backbone, self.second_backbone, weights, seed)
        return Backbone(self.backbone, (1, 2, 3), weights, seed)

    def build_flow(self, shapes: list[tuple[int, int, int]]) -> UFlowNet:
        """The trained network for feature maps of these shapes (C, h, w), finest first."""
        norms = None if self.backbone.startswith("cait") else ScaleNorms(shapes)
        return UFlowNet([channels for channels, _, _ in shapes], self.steps, norms)

    def weight_files(self, fetch=False):
        files = super().weight_files(fetch)
        if self.backbone.startswith("cait"):
            return files
        return {name: file for name, file in files.items() if name == self.backbone}  # there is no second network

    @property
    def side_multiple(self) -> int:
        return 1 if self.backbone.startswith("cait") else 32

    def fit_images(self, images, val, progress):
        self.build_for_images(images)
        optimiser = torch.optim.Adam(self.flow_.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.4, total_iters=self.schedule_steps)
        self.train_flow(images, optimiser, progress, schedules=[schedule], drop_last=False)

    def loss(self, latents: list[torch.Tensor], log_det: torch.Tensor) -> torch.Tensor:
        if not self.batch_weighted:
            return negative_log_likelihood(latents, log_det)
        return sum(0.5 * latent.float().square().sum() for latent in latents) - log_det.mean()

    def score_batch(self, batch):
        latents = self.latents(batch)
        if self.score == "significance":
            anomaly_map = -log_nfa(latents, batch.shape[-2:])
        else:
            maps = [upsample(log_likelihood(z).exp(), batch.shape[-2:]) for z in latents]
            anomaly_map = 1 - torch.stack(maps).mean(0)
        return anomaly_map.amax((1, 2)), anomaly_map
