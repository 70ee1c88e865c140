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

Other readings, as parameters:
- moviad, which the MIIC benchmark ran: embedding="concatenated", enlargement="nearest", distance="euclidean",
  image_score="reweighted", coreset_ratio=1, coreset_limit=10000.
- AnomalyDINO (Damm, Laszkiewicz, Lederer, Fischer, "AnomalyDINO: Boosting Patch-based Few-shot Anomaly Detection with
  DINOv2", WACV 2025, arXiv 2405.14529), this memory with the tokens of a foundation model, on images of 448 pixels:
  backbone="vit_small_patch14_dinov2.lvd142m" (of DINOv3 "vit_small_patch16_dinov3.lvd1689m"), stages=(11,),
  normed=True, embedding="tokens", distance="cosine", coreset_ratio=1, image_score="worst"; and masked=True for objects
  before a plain background. Its turned copies of few training images are left to the training set (adlib.training_set).
"""

from typing import Literal

import torch
import torch.nn.functional as F

from adlib.anomaly_map import smooth, upsample
from adlib.detector import Detector, Facts
from adlib.errors import InputError
from adlib.features.backbones import Backbone
from adlib.features.foreground import foreground
from adlib.features.patch_embedding import concatenated_embedding, pooled_embedding
from adlib.gpu_memory import SHORT, is_short
from adlib.memory.coreset import k_centre_greedy_in_shards
from adlib.memory.memory_bank import BankSearch, random_projection
from adlib.memory.patch_store import PatchStore, parse_bytes
from adlib.memory.unfinished import Unfinished
from adlib.parameters import Count, NotNegative, ShareAboveZero, Stages, Whole
from adlib.training.checkpoint import unfinished_fit


class PatchCore(Detector):
    """PatchCore. Images of 256 pixels, centre crop 224, as in the paper's main results.

    backbone, weights, stages: the frozen features (adlib.features.backbones).
    normed: tokens of a transformer after its last normalisation (adlib.features.backbones).
    embedding: "pooled" (official), "concatenated", or the "tokens" themselves, which is concatenated without means over
        neighbours; embedding_size: width of the pooled one.
    coreset_ratio: share of all patches that is kept: 0.1 in the main results, 0.01 for larger images.
    coreset_limit: keep no more patches than this, or None. Bounds memory and time on large sets.
    projection_size: dimensions in which the coreset is chosen; 0 chooses on the full embedding.
    memory: main memory that the training patches may take while the coreset is chosen ("8GB"), or None for no limit.
        Beyond it they are kept on disk in half precision; if their projections exceed it too, the coreset is chosen
        in parts (adlib.memory.coreset), which the detector warns of. Bounds on distances take about as much as
        the projections again (1.3 times where it was measured), which this does not limit.
    neighbours: k; the patch score is the mean of the k smallest distances.
    enlargement: of coarser stages in the concatenated embedding, and of the map: "bilinear" or "nearest".
    distance: "squared" (official), "euclidean", or "cosine": 1 - cosine.
    image_score: "max", the largest patch score (official); "reweighted" by the `support` stored patches around its
        nearest one (the paper's eq. 7); or "worst": the mean of the largest `worst_share` of the patch scores.
    masked: whether patches of the background count for nothing (adlib.features.foreground).
    smoothing: sigma of the anomaly map's blur in pixels, 0 for none.
    """

    name = "patchcore"
    facts = Facts("memory of features", 2022, trained=False)
    why_no_graph = (
        "it compares patches with a memory through an index that decides image by image what is computed; use "
        "`adlib predict`, or a method without a memory such as padim or simplenet"
    )
    image_defaults = {"crop": 224, "sides": "shorter"}
    bank_outside = False  # whether the memory bank lies on the CPU, because a GPU had no room for it
    search_: BankSearch | None = None  # of the memory bank, made when it is first searched

    def __init__(
        self,
        backbone: str = "wide_resnet50_2.tv_in1k",
        weights: str = "pretrained",
        stages: Stages = (2, 3),
        embedding: Literal["pooled", "concatenated", "tokens"] = "pooled",
        embedding_size: Count = 1024,
        coreset_ratio: ShareAboveZero = 0.1,
        coreset_limit: Count | None = None,
        projection_size: Whole = 128,
        memory: str | Whole | None = None,
        neighbours: Count = 1,
        enlargement: Literal["bilinear", "nearest"] = "bilinear",
        distance: Literal["squared", "euclidean", "cosine"] = "squared",
        image_score: Literal["max", "reweighted", "worst"] = "max",
        support: Count = 9,
        smoothing: NotNegative = 4.0,
        normed: bool = False,
        masked: bool = False,
        worst_share: ShareAboveZero = 0.01,
    ):
        if memory is not None:
            parse_bytes(memory)
        if image_score == "reweighted" and support < 2:
            raise InputError(f"support={support}: image_score='reweighted' compares at least 2 stored patches.")
        needed = max(neighbours, 2 if image_score == "reweighted" else 1)
        if coreset_limit is not None and coreset_limit < needed:
            raise InputError(f"coreset_limit={coreset_limit} keeps fewer patches than a score asks for, {needed}.")

    @torch.inference_mode()
    def fit_images(self, images, val, progress):
        self.build(self.weights)
        self.backbone_.to(self.device_)
        unfinished = unfinished_fit(self, images)
        chosen = unfinished.part("memory_bank")
        if noted := chosen.read():  # an earlier process was killed after its fit
            self.memory_bank_, self.shards_ = noted["memory_bank"], noted["shards"]
            self.to(self.device_)
            return
        patches, _, _ = self.compared(torch.zeros(1, 3, *images.shape, device=self.device_))
        store = self._store(len(images) * patches.shape[1], patches.shape[2], unfinished)
        for _, batch in self.batches(images, 8, progress, "fit", first=store.images):
            patches, counted, _ = self.compared(batch)
            store.add(patches[counted], len(batch))

        store.note()
        store.trim()
        total = len(store.projections)
        if not total:
            raise InputError("masked=True took all of the training images for background: use masked=False for them.")
        if self.neighbours > total:
            raise InputError(f"neighbours={self.neighbours}, but the training images have {total} patches in all.")
        if self.image_score == "reweighted" and total < 2:
            raise InputError("image_score='reweighted' compares stored patches: the training images have one in all.")
        count = max(1, int(total * self.coreset_ratio))
        if self.coreset_limit:
            count = min(count, self.coreset_limit)
        count = max(count, self.neighbours, 2 if self.image_score == "reweighted" else 1)
        self.shards_ = -(-total // store.shard_rows)
        projections = torch.from_numpy(store.projections)
        if self.shards_ == 1:
            projections = projections.to(self.device_)
        kept = k_centre_greedy_in_shards(
            projections, count, store.shard_rows, seed=self.seed_, progress=progress, unfinished=unfinished
        )
        self.memory_bank_ = store.take(kept)
        chosen.note(memory_bank=self.memory_bank_, shards=self.shards_)
        self.to(self.device_)
        del projections
        store.close()

    def _store(self, total: int, size: int, unfinished: Unfinished) -> PatchStore:
        """Room for the embeddings of all training patches, and for the projections that decide on the coreset."""
        limit = None if self.memory is None else parse_bytes(self.memory)
        if not 0 < self.projection_size < size:
            return PatchStore(total, size, size, limit, lambda patches: patches, unfinished)
        matrix = random_projection(size, self.projection_size, self.seed_).to(self.device_)
        return PatchStore(total, size, self.projection_size, limit, lambda patches: patches @ matrix, unfinished)

    @property
    def warnings(self):
        shards = getattr(self, "shards_", 1)
        sharded = f"Coreset chosen in {shards} parts, then among their choices: memory={self.memory!r} holds no more."
        return super().warnings + ([sharded] if shards > 1 else [])

    def embed(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Size]:
        """Images [B, 3, H, W] -> patch embeddings [B, h * w, D] and the grid (h, w)."""
        features = self.backbone_(batch)
        if self.embedding == "pooled":
            return pooled_embedding(features, self.embedding_size), features[0].shape[-2:]
        window = 1 if self.embedding == "tokens" else 3
        return concatenated_embedding(features, self.enlargement, window), features[0].shape[-2:]

    def compared(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Size]:
        """The embeddings as the memory holds them, of length 1 where only their direction counts; which of them count,
        bool [B, h * w]; and the grid.
        """
        patches, grid = self.embed(batch)
        counted = foreground(patches, grid) if self.masked else torch.ones_like(patches[..., 0], dtype=torch.bool)
        return F.normalize(patches, dim=-1) if self.distance == "cosine" else patches, counted, grid

    def score_batch(self, batch):
        patches, counted, grid = self.compared(batch)
        self.search_ = BankSearch.of(self.memory_bank_, self.search_)
        distances = self.search_.nearest(patches.flatten(0, 1), self.neighbours)
        if self.distance == "euclidean":
            distances = distances.clamp_min(0).sqrt()
        if self.distance == "cosine":  # of unit vectors the squared distance is 2 - 2 cosine
            distances = distances / 2
        patch_scores = (distances.mean(1).view(len(batch), -1) * counted).view(len(batch), *grid)
        maps = smooth(upsample(patch_scores, batch.shape[-2:], self.enlargement), self.smoothing)
        if self.image_score == "max":
            return patch_scores.amax((1, 2)), maps
        if self.image_score == "worst":
            number = max(1, int(self.worst_share * patch_scores[0].numel()))
            return patch_scores.flatten(1).topk(number).values.mean(1), maps
        return self.reweighted(patches, patch_scores.flatten(1)), maps

    def reweighted(self, patches: torch.Tensor, patch_scores: torch.Tensor) -> torch.Tensor:
        """The largest patch score of each image, less where the bank is dense around the patch's nearest one.

        patches: [B, n, D]; patch_scores: [B, n]. Returns [B]. PatchCore's paper, eq. 7, with the softmax over the
        distances from the patch to the `support` stored patches that are nearest to its nearest one, itself among them.
        """
        worst, rows = patch_scores.max(1)
        bank = self.memory_bank_
        patch = patches[torch.arange(len(rows), device=rows.device), rows].to(bank.device)  # [B, D]
        nearest = torch.cdist(patch, bank).argmin(1)
        around = torch.cdist(bank[nearest], bank).topk(min(self.support, len(bank)), largest=False).indices
        distances = torch.linalg.vector_norm(patch[:, None] - bank[around], dim=2)  # [B, support], the nearest first
        return (1 - distances.softmax(1)[:, 0]).to(worst.device) * worst

    def to(self, device):
        """A memory bank that does not fit into a GPU stays on the CPU, whose distances are the same."""
        self.backbone_.to(device)
        try:
            self.memory_bank_, self.bank_outside = self.memory_bank_.to(device), False
        except RuntimeError as error:
            if not is_short(error):
                raise
            self.memory_bank_, self.bank_outside = self.memory_bank_.cpu(), True

    @property
    def memory_notes(self):
        outside = [SHORT.format("the memory bank was searched on the CPU")] if self.bank_outside else []
        return super().memory_notes + outside

    def build(self, weights: str) -> None:
        self.backbone_ = Backbone(self.backbone, self.stages, weights, self.seed_, self.normed)
