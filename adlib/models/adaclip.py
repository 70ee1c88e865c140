"""AdaCLIP: "AdaCLIP: Adapting CLIP with Hybrid Learnable Prompts for Zero-Shot Anomaly Detection".

Cao, Zhang, Frittoli, Cheng, Shen, Boracchi; ECCV 2024, pages 55-72; arXiv 2407.15795. Prompts in both towers of a
frozen CLIP, each the sum of a learned part and one computed from the image, are trained on other data sets with
annotated defects. Then every patch, and the image, is compared with sentences that name what is inspected, with and
without a flaw: no image of the target is needed.

`fit` takes labelled images of the auxiliary sets (Run takes those of `auxiliary`), `predict` the target's; what is on
an image is told by the category of its sample, or by `class_names`. Follows the official code, also where it differs
from the paper (semantic fusion; sets: VisA and ColonDB is what CXR-AD used). What is ours:
- the towers have QuickGELU, with which OpenAI trained them; the official code builds them with the exact GELU, to which
  the authors' trained prompts belong, so with `prompts` that is the default;
- float32, where the official code casts prompts to half precision; its authors find its training unstable;
- the last epoch is kept, there the one with the best pixel F1 on the test images of another set;
- k-means is drawn from the seed for each image by itself, over patches in their order; an empty cluster counts for
  nothing, and patches are ranked by the difference of logits, which does not saturate as their softmax does;
- masks are resized by nearest neighbour (there bilinear, cut at a half).
"""

import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from adlib.anomaly_map import smooth
from adlib.datasets import mvtec_ad
from adlib.detector import Detector, Facts
from adlib.errors import InputError
from adlib.features.clip_towers import ClipTowers, check_towers, find_towers, tokenise
from adlib.features.prompts import ANOMALOUS, NORMAL, TEMPLATES, HybridPrompts, fill_from_official, sentences
from adlib.file_hashes import file_hash
from adlib.images import ImageSet
from adlib.networks.losses import focal_loss
from adlib.parameters import Count, NotNegative, Positive, Share
from adlib.synthesis.seeded_items import SeededItems
from adlib.training.loop import PRECISIONS, train

SCALE = 100.0  # of cosines, before a softmax


def fused_feature(patches: torch.Tensor, logits: torch.Tensor, clusters: int, seed: int) -> torch.Tensor:
    """Hybrid semantic fusion: the mean of the centres of the most suspicious patches' clusters, of unit length.

    patches: float [B, N, T, D], N patches in T layers. logits: float [B, N, 2], normal and anomalous.
    The 5 * clusters patches with the largest difference are clustered by their T layers together; a centre is the mean
    over members and layers. Returns float [B, D].
    """
    count = min(5 * clusters, patches.shape[1])
    chosen = (logits[..., 1] - logits[..., 0]).topk(count).indices.sort().values
    chosen = torch.stack([own[rows] for own, rows in zip(patches, chosen, strict=True)])  # [B, count, T, D]
    weights = []
    # A training that diverged is reported by its loss, not by k-means.
    for points in chosen.detach().flatten(2).float().nan_to_num().cpu().numpy():
        kmeans = KMeans(min(clusters, count), n_init=1, random_state=seed)
        with warnings.catch_warnings(category=ConvergenceWarning, action="ignore"):  # fewer distinct points
            labels = kmeans.fit_predict(points)
        sizes = np.bincount(labels)
        weights.append(1 / (sizes[labels] * np.count_nonzero(sizes)))
    weights = torch.as_tensor(np.stack(weights), dtype=chosen.dtype, device=chosen.device)
    return F.normalize((weights[..., None] * chosen.mean(2)).sum(1), dim=-1)


# Losses


def dice_loss(probability: torch.Tensor, target: torch.Tensor, rows: bool) -> torch.Tensor:
    """1 - (2 |p t| + 1) / (|p| + |t| + 1), the mean over float [B, H, W]'s images, or over all their rows.

    Rows are what the official code's loss takes for images, because it squeezes masks and trains on one at a time.
    """
    p, t = (one.flatten(0, 1) if rows else one.flatten(1) for one in (probability, target))
    return (1 - (2 * (p * t).sum(1) + 1) / (p.sum(1) + t.sum(1) + 1)).mean()


class LabelledImages(SeededItems):
    """An ImageSet's items with the name of what is on the image; some of them are mosaics instead.

    mosaic: share of items, one number per image, that show four images (or tiles) of the item's category, normal or
    not, drawn without replacement and laid 2 x 2 at half their size, with their masks. Name and label stay the item's
    own, also where they contradict the mosaic's masks, as in the official code. Item i of epoch e depends on
    (seed, e, i) alone.
    """

    def __init__(self, images: ImageSet, names: list[str], mosaic: np.ndarray, seed: int):
        super().__init__(seed)
        self.images, self.names, self.mosaic = images, names, mosaic
        height, width = images.shape
        if (mosaic > 0).any() and (height % 2 or width % 2):
            raise InputError(f"Mosaics are laid of halved images: {height} x {width} pixels must be even, or mosaic=0.")
        settings, samples = images.settings, images.samples
        for name in ("size", "crop"):
            settings[name] = settings[name] and tuple(-(-part // 2) for part in settings[name])
        if "tile" in samples:  # the same part of the image at half its size
            settings["tile"] = tuple(part // 2 for part in settings["tile"])
            places = [[int(part) // 2 for part in place.split()] for place in samples["tile"]]
            samples = samples.assign(tile=[f"{top} {left}" for top, left in places])
        self.halves = ImageSet(samples, **settings)
        categories = images.samples["category"]
        rows = categories.reset_index(drop=True).groupby(categories.to_numpy()).indices
        self.members = [rows[category] for category in categories]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        rng = self.draws(index)
        members = self.members[index]
        if len(members) < 4 or rng.random() >= self.mosaic[index]:
            return self.images[index] | {"name": self.names[index]}
        parts = [self.halves[int(row)] for row in rng.choice(members, 4, replace=False)]
        laid = {
            key: torch.cat(
                [torch.cat([parts[0][key], parts[1][key]], -1), torch.cat([parts[2][key], parts[3][key]], -1)], -2
            )
            for key in ("image", "mask")
        }
        label = int(self.images.samples["label"].iat[index])
        return laid | {"label": label, "index": index, "name": self.names[index]}


class AdaCLIP(Detector):
    """AdaCLIP. Images of 518 pixels; sides must be multiples of the towers' patch (14).

    towers: "<open_clip name>.<tag>" of a CLIP with a plain vision transformer, or "tiny" for tests.
    weights: "pretrained", "random" or a .safetensors file (adlib.features.clip_towers).
    prompts: a checkpoint of the official code (.pth): fit then learns nothing and needs no labels; or None to train.
    auxiliary: data sets whose labelled test images a Run trains on, found beside the target's folder, or
        "dataset:folder". Never the target. For VisA as target the official code takes mvtec_ad and colondb.
    class_names: what is on the images: a text for all that are predicted, or texts by category; else the category's
        own name. The published names are those of the data sets' folders.
    quick_gelu: None for what fits the prompts: QuickGELU, or with `prompts` the exact GELU of their training.
    prompt_length, prompt_depth: tokens of a prompt, and how many layers of each tower get one.
    clusters, fusion: of the semantic fusion, and its share of the image feature.
    epochs, batch_size, learning_rate: of AdamW with beta 0.5 and 0.999. The official code trains on single images.
    row_dice: see dice_loss; False takes whole images.
    mosaic: share of the training items that show four images of a category, see LabelledImages. None: as in the
        official code 0.2 of those of MVTec AD, known by their categories, and of no others.
    smoothing: sigma of the Gaussian on the map, pixels; the image score does not use the map.
    precision: of training, see adlib.training.loop.
    """

    name = "adaclip"
    facts = Facts(
        "vision and language",
        2024,
        "labelled images of other sets (VisA, ColonDB)",
        joint="no target",
        needs="CLIP's weights",
    )
    image_defaults = {"size": 518, "resize": "bicubic"}
    accepts_anomalous = True

    def __init__(
        self,
        towers: str = "ViT-L-14-336.openai",
        weights: str = "pretrained",
        prompts: str | None = None,
        auxiliary: tuple[str, ...] = ("visa", "colondb"),
        class_names: str | dict[str, str] | None = None,
        quick_gelu: bool | None = None,
        prompt_length: Count = 5,
        prompt_depth: Count = 4,
        clusters: Count = 20,
        fusion: Share = 0.2,
        epochs: Count = 5,
        batch_size: Count = 1,
        learning_rate: Positive = 0.01,
        row_dice: bool = True,
        mosaic: Share | None = None,
        smoothing: NotNegative = 4.0,
        precision: Literal[*PRECISIONS] = "float32",
    ):
        shortest = len(TEMPLATES[0].split()) + 1  # its words, of which the name has at least one, and its full stop
        if not 1 <= prompt_length <= shortest:
            raise InputError(f"prompt_length={prompt_length} must lie in 1..{shortest}, a sentence's words.")

    @property
    def learns_from(self) -> tuple[str, ...]:
        """The data sets that a Run has to fit it on instead of the target's own training images."""
        return self.auxiliary if self.prompts is None else ()

    @property
    def origin(self):
        return self.towers_.origin | ({"prompts": self.prompts_origin_} if self.prompts else {})

    def weight_files(self, fetch=False):
        files = {} if self.weights == "random" else {self.towers: find_towers(self.towers, self.weights, fetch)}
        return files | ({"prompts": Path(self.prompts).expanduser()} if self.prompts else {})

    def check_networks(self, fetch=True):
        check_towers(self.towers, self.weights, fetch)
        if self.prompts is not None and not Path(self.prompts).expanduser().is_file():
            raise InputError(f"prompts={self.prompts!r} is no file.")

    @property
    def side_multiple(self) -> int:
        return self.towers_.patch if hasattr(self, "towers_") else 1  # what is not known before they are built

    def fit_images(self, images, val, progress):
        if self.prompts is None and not (images.labels == 1).any():
            raise InputError(
                "adaclip learns from labelled defects of other data sets than the target, but every image to fit on is "
                "normal. Give the labelled test images of e.g. VisA and ColonDB, or prompts=FILE with the authors' own."
            )
        if not images.has_masks and self.prompts is None:
            raise InputError("adaclip learns from masks, but not every anomalous image to fit on has one.")
        self.build(self.weights)
        self.check_shape(*images.shape)
        self.losses_ = []
        if self.prompts is not None:
            fill_from_official(self.prompts_, Path(self.prompts).expanduser())
            self.prompts_origin_ = {"file": self.prompts, "sha256": file_hash(Path(self.prompts).expanduser())}
            self.prompts_.eval()
            return
        self.to(self.device_)
        by_category = self.class_names if isinstance(self.class_names, dict) else None
        self.losses_ = train(
            self,
            LabelledImages(images, class_names(images.samples, by_category), self.mosaics(images), self.seed_),
            self.losses,
            {"prompts": self.prompts_},
            torch.optim.AdamW(self.prompts_.parameters(), self.learning_rate, (0.5, 0.999)),
            epochs=self.epochs,
            batch_size=self.batch_size,
            drop_last=False,
            precision=self.precision,
            progress=progress,
        )

    def mosaics(self, images: ImageSet) -> np.ndarray:
        """float [N]: how likely each training item is a mosaic."""
        if self.mosaic is not None:
            return np.full(len(images), float(self.mosaic))
        return 0.2 * images.samples["category"].isin(mvtec_ad.FACTS.counts).to_numpy(float)

    def build(self, weights: str) -> None:
        quick = self.prompts is None if self.quick_gelu is None else self.quick_gelu
        self.towers_ = ClipTowers(self.towers, weights, quick, self.seed_)
        layers = len(self.towers_.image_layers)
        most = min(layers, len(self.towers_.text_layers))
        if layers < 4:
            raise InputError(f"{self.towers} has {layers} layers; needed are 4 or more.")
        if self.prompt_depth > most:
            raise InputError(f"prompt_depth={self.prompt_depth}: the smaller tower of {self.towers} has {most} layers.")
        self.taps_ = tuple(layers // 4 * quarter for quarter in (1, 2, 3, 4))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed_)
            self.prompts_ = HybridPrompts(self.towers_, self.prompt_length, self.prompt_depth, len(self.taps_))

    def sentence_features(self, names: list[str], features: torch.Tensor) -> torch.Tensor:
        """What is on B images, and their features [B, D] -> unit vectors of normal and anomalous, float [B, 2, D]."""
        tokens = [tokenise(sentences(name)) for name in names]
        longest = max(one.shape[1] for one in tokens)
        tokens = torch.stack([F.pad(one, (0, longest - one.shape[1])) for one in tokens]).to(features.device)
        encoded = self.towers_.encode_sentences(
            tokens.flatten(0, 1), self.prompts_.in_text(features, tokens.shape[1])
        )  # [B * 48, D]
        encoded = F.normalize(encoded, dim=-1).unflatten(0, tokens.shape[:2])
        parts = encoded.split([len(TEMPLATES) * len(NORMAL), len(TEMPLATES) * len(ANOMALOUS)], 1)
        return F.normalize(torch.stack([part.mean(1) for part in parts], 1), dim=-1)

    def logits(self, batch: torch.Tensor, names: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """float [B, 3, H, W] -> of images [B, 2], of patches in each tapped layer [B, T, 2, h, w]; normal first."""
        with torch.no_grad():
            features, _ = self.towers_.encode_images(batch)  # without prompts
        text = self.sentence_features(names, features)
        image, tapped = self.towers_.encode_images(batch, self.taps_, self.prompts_.in_image(features))
        image = F.normalize(self.prompts_.project_image(image), dim=-1)
        pairs = zip(self.prompts_.project_patches, tapped, strict=True)
        patches = torch.stack([F.normalize(linear(tokens), dim=-1) for linear, tokens in pairs], 2)  # [B, N, T, D]
        pixels = SCALE * torch.einsum("bntd,bkd->bntk", patches, text)
        fused = fused_feature(patches, pixels.mean(2), self.clusters, self.seed_)
        image = F.normalize(self.fusion * fused + (1 - self.fusion) * image, dim=-1)
        grid = [side // self.towers_.patch for side in batch.shape[-2:]]
        return SCALE * torch.einsum("bd,bkd->bk", image, text), pixels.permute(0, 2, 3, 1).unflatten(3, grid)

    def losses(self, batch: dict) -> dict[str, torch.Tensor]:
        image, pixels = (value.float() for value in self.logits(batch["image"], batch["name"]))
        anomalous, mask = batch["label"][:, None, None] > 0, batch["mask"]
        terms = {"image": focal_loss(image[..., None, None], anomalous), "pixels": 0.0, "dice": 0.0}
        for level in pixels.unbind(1):
            level = enlarged(level, mask.shape[-2:])
            terms["pixels"] += focal_loss(level, mask)
            normal, defect = level.softmax(1).unbind(1)
            terms["dice"] += dice_loss(defect, mask.float(), self.row_dice)
            terms["dice"] += dice_loss(normal, (~mask).float(), self.row_dice)
        return terms

    def score_samples(self, batch, samples):
        return self.score(batch, class_names(samples, self.class_names))

    def score_batch(self, batch):
        """Of images that no sample names."""
        return self.score(batch, [self.class_names if isinstance(self.class_names, str) else "object"] * len(batch))

    def score(self, batch: torch.Tensor, names: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and what is on them -> probability of an anomaly, of the image and per pixel (smoothed)."""
        image, pixels = self.logits(batch, names)
        maps = enlarged(pixels.mean(1), batch.shape[-2:]).softmax(1)[:, 1]
        return image.softmax(1)[:, 1], smooth(maps, self.smoothing)

    def build_for(self, state):
        self.build("random")
        self.prompts_origin_ = {"file": self.prompts}


def enlarged(logits: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """float [B, 2, h, w] -> [B, 2, H, W], bilinear, corners on corners."""
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=True)


def class_names(samples: pd.DataFrame, given: str | dict[str, str] | None) -> list[str]:
    """What is on each image: the text given for all or for its category, else the category; "object" without any."""
    if isinstance(given, str):
        return [given] * len(samples)
    return [(given or {}).get(category, category) or "object" for category in samples["category"]]
