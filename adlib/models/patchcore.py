"""PatchCore: "Towards Total Recall in Industrial Anomaly Detection".

Roth, Pemula, Zepeda, Schölkopf, Brox, Gehler; CVPR 2022; arXiv 2106.08265. Keep locally averaged mid-level features
of normal patches, thinned by a greedy coreset; a patch is as anomalous as it is far from the nearest one kept, an
image as its worst patch. Nothing is trained.

Follows the official code rather than the paper where they differ:
- the patch score is the SQUARED distance to the nearest stored patch;
- the image score is the largest patch score, without the paper's softmax re-weighting (eq. 7), before any blur;
- the coreset is chosen on a random projection to 128 dimensions and starts from the mean distance to ten patches.

`embedding="concatenated"` is the other common reading (anomalib among others): each stage averaged over 3x3, brought
to the finest grid, concatenated at full width (1536 channels for a wide ResNet-50, against 1024).
"""

import torch
import torch.nn.functional as F

from adlib.errors import InputError
from adlib.models.anomaly_map import smooth, upsample
from adlib.models.backbones import Backbone
from adlib.models.coreset import k_centre_greedy
from adlib.models.detector import Detector
from adlib.models.memory_bank import nearest, random_projection


def pooled_embedding(features: list[torch.Tensor], size: int = 1024) -> torch.Tensor:
    """The official embedding: 3x3 neighbourhoods, pooled to `size` values per stage and then over all stages.

    features: one float [B, C, h, w] per stage, finest grid first.
    Returns float [B, h * w, size] on the finest grid, row by row.
    Pooling runs along the flattened (channel, 3, 3) axis, so for C = 512 and size 1024 a value mixes about half a
    channel's neighbourhood. The official code enlarges the grid before it pools; both are linear and act on
    different axes, so their order does not matter, and this one is cheaper.
    """
    grid = features[0].shape[-2:]
    pooled = []
    for stage in features:
        batch, _, height, width = stage.shape
        patches = F.unfold(stage, kernel_size=3, padding=1)  # [B, C * 9, h * w]
        patches = F.adaptive_avg_pool1d(patches.transpose(1, 2), size)  # [B, h * w, size]
        patches = patches.transpose(1, 2).reshape(batch, size, height, width)
        pooled.append(_to_grid(patches, grid))
    joined = torch.cat(pooled, 1).flatten(2).transpose(1, 2)  # [B, h * w, stages * size]
    return F.adaptive_avg_pool1d(joined, size)


def concatenated_embedding(features: list[torch.Tensor]) -> torch.Tensor:
    """The common embedding: 3x3 means, enlarged to the finest grid, concatenated. [B, h * w, sum of C]."""
    grid = features[0].shape[-2:]
    means = [_to_grid(F.avg_pool2d(stage, kernel_size=3, stride=1, padding=1), grid) for stage in features]
    return torch.cat(means, 1).flatten(2).transpose(1, 2)


def _to_grid(stage: torch.Tensor, grid: torch.Size) -> torch.Tensor:
    if stage.shape[-2:] == grid:
        return stage
    return F.interpolate(stage, size=grid, mode="bilinear", align_corners=False)


class PatchCore(Detector):
    """PatchCore. Images of 256 pixels, centre crop 224, as in the paper's main results.

    backbone, weights, stages: the frozen features (adlib.models.backbones).
    embedding: "pooled" (official) or "concatenated"; embedding_size: width of the pooled one.
    coreset_ratio: share of all patches that is kept: 0.1 in the main results, 0.01 for larger images.
    coreset_limit: keep no more patches than this, or None. Bounds memory and time on large sets.
    projection_size: dimensions in which the coreset is chosen; 0 chooses on the full embedding.
    neighbours: k; the patch score is the mean of the k smallest squared distances.
    smoothing: sigma of the anomaly map's blur in pixels, 0 for none.
    """

    name = "patchcore"
    image_defaults = {"size": 256, "crop": 224}

    def __init__(
        self,
        backbone: str = "wide_resnet50_2.tv_in1k",
        weights: str = "pretrained",
        stages: tuple[int, ...] = (2, 3),
        embedding: str = "pooled",
        embedding_size: int = 1024,
        coreset_ratio: float = 0.1,
        coreset_limit: int | None = None,
        projection_size: int = 128,
        neighbours: int = 1,
        smoothing: float = 4.0,
    ):
        if embedding not in ("pooled", "concatenated"):
            raise InputError(f"embedding={embedding!r} must be 'pooled' or 'concatenated'.")
        if not 0 < coreset_ratio <= 1:
            raise InputError(f"coreset_ratio={coreset_ratio} must lie in (0, 1].")
        self.backbone = backbone
        self.weights = weights
        self.stages = tuple(stages)
        self.embedding = embedding
        self.embedding_size = embedding_size
        self.coreset_ratio = coreset_ratio
        self.coreset_limit = coreset_limit
        self.projection_size = projection_size
        self.neighbours = neighbours
        self.smoothing = smoothing

    @torch.inference_mode()
    def fit_images(self, images, val, progress):
        self.backbone_ = Backbone(self.backbone, self.stages, self.weights, self.seed_).to(self.device_)
        # The embeddings of all training patches stay in main memory; only the projection goes to the device.
        patches = [self.embed(batch)[0].flatten(0, 1).cpu() for _, batch in self.batches(images, 8, progress, "fit")]
        patches = torch.cat(patches)  # [N, D]

        count = max(1, int(len(patches) * self.coreset_ratio))
        if self.coreset_limit:
            count = min(count, self.coreset_limit)
        count = max(count, min(self.neighbours, len(patches)))
        kept = k_centre_greedy(self._project(patches), count, self.seed_, progress=progress)
        self.memory_bank_ = patches[kept].to(self.device_)

    def _project(self, patches: torch.Tensor) -> torch.Tensor:
        """[N, D] -> [N, projection_size] on the device."""
        if not 0 < self.projection_size < patches.shape[1]:
            return patches.to(self.device_)
        matrix = random_projection(patches.shape[1], self.projection_size, self.seed_).to(self.device_)
        return torch.cat([part.to(self.device_) @ matrix for part in patches.split(65536)])

    def embed(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Size]:
        """Images [B, 3, H, W] -> patch embeddings [B, h * w, D] and the grid (h, w)."""
        features = self.backbone_(batch)
        if self.embedding == "pooled":
            return pooled_embedding(features, self.embedding_size), features[0].shape[-2:]
        return concatenated_embedding(features), features[0].shape[-2:]

    def score_batch(self, batch):
        patches, grid = self.embed(batch)
        distances = nearest(patches.flatten(0, 1), self.memory_bank_, self.neighbours).mean(1)
        patch_scores = distances.view(len(batch), *grid)
        return patch_scores.amax((1, 2)), smooth(upsample(patch_scores, batch.shape[-2:]), self.smoothing)

    def state(self):
        backbone = {f"backbone.{key}": value for key, value in self.backbone_.state_dict().items()}
        return {"memory_bank": self.memory_bank_, **backbone}

    def set_state(self, state):
        self.memory_bank_ = state.pop("memory_bank")
        self.backbone_ = Backbone(self.backbone, self.stages, "random")
        self.backbone_.load_state_dict({key.removeprefix("backbone."): value for key, value in state.items()})
        self.backbone_.weights = self.weights

    def to(self, device):
        self.backbone_.to(device)
        self.memory_bank_ = self.memory_bank_.to(device)
