"""CFA: "CFA: Coupled-Hypersphere-Based Feature Adaptation for Target-Oriented Anomaly Localization".

Lee, Lee, Song; IEEE Access 10, 2022; arXiv 2206.04325. A single 1x1 convolution on frozen features, the patch
descriptor, learns to draw normal patches into small hyperspheres around memorised centres and away from the centres
beyond; a patch is as anomalous as it is far from its nearest centre, more so if no centre is clearly the nearest.

Follows the official code:
- the centres are made once, by the descriptor in its random state, and never move (the paper's algorithm moves them);
- distances of the loss are squared and go to the whole memory bank, not to the patch's own position;
- the radius is learned with the rest.
What is ours:
- the centres are the mean of all training images (theirs: of those in full batches);
- the last epoch counts (their numbers are of the best epoch on the test images);
- distances to the few nearest centres are taken as differences, which keeps the digits that |q|² + |c|² - 2 q·c loses;
- all backbones are alike (theirs divides each map of an EfficientNet by its width and doubles the descriptor's output).

Other readings:
- moviad, which the MIIC benchmark ran: image_score="raw", smoothing=0.8 (its blur is a 3x3 window of sigma 4, nearly a
  box, with this spread);
- anomalib leaves the radius as it starts, at 1e-5, so that its repulsion is always 0: learn_radius=False.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import nn

from adlib.anomaly_map import smooth, upsample
from adlib.detector import Detector, Facts
from adlib.errors import InputError
from adlib.features.backbones import Backbone
from adlib.memory.memory_bank import BankSearch
from adlib.parameters import Count, NotNegative, Positive, Stages
from adlib.training.loop import PRECISIONS, train


class PatchDescriptor(nn.Module):
    """3x3 means of all stages on the finest grid, then a 1x1 convolution that also sees each patch's coordinates.

    The convolution is written as the linear layer that it is, because CPUs compute that faster.
    channels: of the stages. reduction: the output has sum(channels) // reduction channels.
    radius: of the hyperspheres, where it starts; it is learned.
    descriptor(features): float [B, C, h, w] per stage, finest first -> [B, h, w, D].
    """

    def __init__(self, channels: list[int], reduction: int, radius: float):
        super().__init__()
        total = sum(channels)
        self.linear = nn.Linear(total + 2, total // reduction)
        self.radius = nn.Parameter(torch.tensor(radius))

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        grid = features[0].shape[-2:]
        means = [F.avg_pool2d(stage, kernel_size=3, stride=1, padding=1) for stage in features]
        means = [F.interpolate(mean, size=grid, mode="bilinear", align_corners=False) for mean in means]
        rows, columns = (torch.linspace(-1, 1, side, device=means[0].device) for side in grid)
        coordinates = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), 2)  # [h, w, 2]
        joined = [mean.permute(0, 2, 3, 1) for mean in means] + [coordinates.expand(len(means[0]), -1, -1, -1)]
        return self.linear(torch.cat(joined, 3))


@torch.no_grad()
def nearest_centres(patches: torch.Tensor, bank: torch.Tensor, count: int, chunk: int = 4096) -> torch.Tensor:
    """Rows of the bank [M, D] nearest to each patch [N, D], nearest first: int64 [N, count].

    chunk: patches per step; bounds the memory to chunk x M values.
    """
    norms = bank.square().sum(1)
    # Without |q|², which is the same for all centres.
    parts = [torch.addmm(norms, part, bank.T, alpha=-2).topk(count, 1, largest=False) for part in patches.split(chunk)]
    return torch.cat([part.indices for part in parts])


def squared_distances(patches: torch.Tensor, bank: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """From each patch [N, D] to chosen rows [N, k] of the bank [M, D]: float [N, k], ascending."""
    distances = torch.stack([(patches - bank[column]).square().sum(1) for column in rows.unbind(1)], 1)
    return distances.sort(1).values  # the search sees the order of near ties with rounding errors


def hypersphere_loss(
    squared: torch.Tensor, radius: torch.Tensor, attracted: int, margin: float, nu: float
) -> dict[str, torch.Tensor]:
    """The two terms of the loss (eqs. 2 to 4 of the paper; margin is its alpha).

    squared: float [N, K + J], squared distances to the nearest centres, ascending; attracted: K.
    The K nearest should lie within the radius, the J next ones beyond it (less the margin).
    """
    near, far = squared[:, :attracted], squared[:, attracted:]
    return {
        "attraction": F.relu(near - radius**2).mean() / nu,
        "repulsion": F.relu(radius**2 - far - margin).mean() / nu,
    }


class CFA(Detector):
    """CFA. Images of 256 pixels, centre crop 224.

    backbone, weights, stages: the frozen features (adlib.features.backbones).
    descriptor_reduction: gamma_d; the descriptor's output has sum of channels // gamma_d channels.
    bank_reduction: gamma_c; 1 keeps one centre per position, more thins them to 1/gamma_c by k-means, which makes
        training and prediction as much faster.
    attracted, repelled: K and J, the nearest centres that attract a patch and the next ones that repel it. K is also
        the number of distances that the patch score weighs.
    radius: where the learned radius starts; learn_radius=False leaves it there.
    margin, nu: alpha and nu of the loss.
    epochs, batch_size, learning_rate, weight_decay: of AdamW (AMSGrad) without a schedule.
    smoothing: sigma of the anomaly map's blur in pixels, 0 for none.
    image_score: largest value of the "smoothed" map (official), or of the "raw" patch scores.
    precision: of training, see adlib.training.loop. Scoring is always float32.
    """

    name = "cfa"
    facts = Facts("memory of features", 2022)
    why_no_graph = (
        "it compares patches with a memory through an index that decides image by image what is computed; use "
        "`adlib predict`, or a method without a memory such as padim or simplenet"
    )
    image_defaults = {"crop": 224, "resize": "lanczos", "sides": "shorter"}
    search_: BankSearch | None = None  # of the memory bank, made when it is first searched

    def __init__(
        self,
        backbone: str = "wide_resnet50_2.tv_in1k",
        weights: str = "pretrained",
        stages: Stages = (1, 2, 3),
        descriptor_reduction: Count = 1,
        bank_reduction: Count = 1,
        attracted: Count = 3,
        repelled: Count = 3,
        radius: NotNegative = 1e-5,
        learn_radius: bool = True,
        margin: NotNegative = 0.1,
        nu: Positive = 1e-3,
        epochs: Count = 30,
        batch_size: Count = 4,
        learning_rate: Positive = 1e-3,
        weight_decay: NotNegative = 5e-4,
        smoothing: NotNegative = 4.0,
        image_score: Literal["smoothed", "raw"] = "smoothed",
        precision: Literal[*PRECISIONS] = "float32",
    ):
        if learn_radius and radius == 0:
            raise InputError("radius=0 cannot be learned, for its gradient is 0 there: start above it.")

    def fit_images(self, images, val, progress):
        self.build(self.weights)
        self.backbone_.to(self.device_)
        self.descriptor_.to(self.device_)
        self.memory_bank_ = self.centres(images, progress)
        self.losses_ = train(
            self,
            images,
            self.loss,
            {"descriptor": self.descriptor_},
            torch.optim.AdamW(
                [value for value in self.descriptor_.parameters() if value.requires_grad],
                self.learning_rate,
                weight_decay=self.weight_decay,
                amsgrad=True,
            ),
            epochs=self.epochs,
            batch_size=self.batch_size,
            drop_last=True,
            precision=self.precision,
            progress=progress,
        )

    def build(self, weights: str) -> None:
        self.backbone_ = Backbone(self.backbone, self.stages, weights, self.seed_)
        self.descriptor_ = PatchDescriptor(self.backbone_.channels, self.descriptor_reduction, self.radius)
        self.descriptor_.radius.requires_grad_(self.learn_radius)

    @torch.no_grad()
    def centres(self, images, progress: bool) -> torch.Tensor:
        """The mean descriptor of every position, thinned by k-means if asked: float [M, D] on the device."""
        total = 0
        for _, batch in self.batches(images, 8, progress, "centres"):
            total = total + self.descriptor_(self.backbone_(batch)).sum(0)  # [h, w, D]
        bank = (total / len(images)).flatten(0, 1)
        count = len(bank) // self.bank_reduction
        if count < self.attracted + self.repelled:
            raise InputError(
                f"{count} centres are fewer than attracted + repelled = {self.attracted + self.repelled}: lower "
                f"bank_reduction={self.bank_reduction} or use larger images."
            )
        if self.bank_reduction == 1:
            return bank
        means = KMeans(count, n_init=10, max_iter=3000, random_state=self.seed_).fit(bank.cpu().numpy())
        return torch.from_numpy(means.cluster_centers_).to(bank)

    def patches(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Size]:
        """Images [B, 3, H, W] -> descriptors of all patches, float32 [B * h * w, D], and the grid (h, w)."""
        described = self.descriptor_(self.backbone_(batch)).float()
        return described.flatten(0, 2), described.shape[1:3]

    def loss(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        patches, _ = self.patches(batch)
        with torch.autocast(batch.device.type, enabled=False):  # neighbours need all digits
            rows = nearest_centres(patches, self.memory_bank_, self.attracted + self.repelled)
        squared = squared_distances(patches, self.memory_bank_, rows)
        return hypersphere_loss(squared, self.descriptor_.radius, self.attracted, self.margin, self.nu)

    def score_batch(self, batch):
        patches, grid = self.patches(batch)
        self.search_ = BankSearch.of(self.memory_bank_, self.search_)
        distances = self.search_.nearest(patches, self.attracted).sqrt()  # [B * h * w, K]
        scores = (F.softmin(distances, dim=1)[:, 0] * distances[:, 0]).view(len(batch), *grid)
        maps = smooth(upsample(scores, batch.shape[-2:]), self.smoothing)
        return (maps if self.image_score == "smoothed" else scores).amax((1, 2)), maps
