"""OneNIP: "Learning to Detect Multi-class Anomalies with Just One Normal Image Prompt".

Gao; ECCV 2024, pages 454-470. A transformer as UniAD's (adlib.networks.feature_transformer) rebuilds the frozen
features of an image out of a second, normal image of the same category, the prompt: the output is read from the
prompt's stream, so what the prompt does not show is hard to rebuild. It also learns to restore the normal features of
images with synthetic anomalies, and a small refiner learns to mark these from the difference.

One model of all categories is what the paper trains: give fit images of several categories. The category of a test
image chooses its prompt, so it must be known. Every category has ONE prompt at prediction, a training image drawn by
the fit's seed or named in `prompts`; the official code draws another one for every test image, so that its scores
differ from call to call.

Follows the official code (its second version; in the first, of the paper's numbers, a slip in the decoder passed the
prompt's feed-forward answer where the image's attention belongs). What is ours besides:
- the last epoch counts; the official code keeps the best of every tenth epoch's pixel AUROC on the TEST images. It
  also replaces an AUROC below 0.5 by 1 minus it; adlib does so nowhere;
- the official map adds up distance and refiner's answer, the latter scaled by the largest and smallest distance in the
  whole TEST set (scale="test"). Here both come from the training images and one synthetic anomaly in each, so that an
  image's score does not depend on which others are tested with it;
- without a folder of textures they are drawn (adlib.synthesis), and the detector warns of it;
- weights and seed as in adlib.models.uniad.

Other readings, as parameters:
- CXR-AD: images of 320 pixels.
- the official 8 GPUs with 8 images each: batch_size=64. Eight images of 320 pixels need 7 GiB, and so many times more
  about as many times that; the batch norm of the refiner saw 8 at a time there too.
"""

import json
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

from adlib.decoding.tiles import corners
from adlib.detector import Facts, choose_device
from adlib.errors import InputError
from adlib.features.aligned_features import distances, resized, window_maximum
from adlib.gpu_memory import Parts, part_of
from adlib.images import ImageSet
from adlib.networks.feature_transformer import Attention, FeatureTransformer, feed_forward, initialise, jittered
from adlib.parameters import Count, NotNegative, Positive, Share, ShareBelowOne, Stages, Whole
from adlib.samples import make_samples
from adlib.synthesis import CutPaste, CutPaste3Way, CutPasteScar, SyntheticImages, TexturePaste
from adlib.synthesis.texture_operations import ONENIP_OPERATIONS
from adlib.training.feature_reconstruction import FeatureReconstruction
from adlib.training.loop import PRECISIONS
from adlib.training.pasted_textures import TEXTURES, PastingDetector

# Networks


class DecoderLayer(nn.Module):
    """The prompt's tokens look at the image's, think, and are looked at by the image's."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.to_image = Attention(width, heads, dropout)
        self.feed = feed_forward(width, hidden, dropout=0.0)
        self.to_prompt = Attention(width, heads, dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(self, prompt, image, positions, blocked):
        """prompt, image: float [B, N, D]; returns both."""
        prompt = self.norms[0](prompt + self.dropout(self.to_image(prompt, image, positions, blocked)))
        prompt = self.norms[1](prompt + self.dropout(self.feed(prompt)))
        image = self.norms[2](image + self.dropout(self.to_prompt(image, prompt, positions, blocked)))
        return prompt, image


class Restoration(FeatureTransformer):
    """Features of images and of prompts, float [B, C, h, w] each -> the images' normal features, of the same shape."""

    def __init__(self, channels, grid, neighbours, width, heads, hidden, encoder_layers, decoder_layers, dropout):
        super().__init__(channels, grid, neighbours, width, heads, hidden, encoder_layers, dropout)
        self.decoder = nn.ModuleList(DecoderLayer(width, heads, hidden, dropout) for _ in range(decoder_layers))
        self.last = Attention(width, heads, dropout)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        initialise(self.modules())

    def forward(self, images: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        positions = self.positions()
        encoded = self.encode(self.tokens(torch.cat([images, prompts])), positions)
        image, prompt = encoded.split([len(images), len(prompts)])
        prompt = prompt.repeat(len(images) // len(prompts), 1, 1)  # an image and its synthetic anomaly share one
        for layer in self.decoder:
            prompt, image = layer(prompt, image, positions, self.blocked)
        prompt = prompt + self.dropout(self.last(prompt, image, positions))  # here nothing is blocked
        return self.features(self.norm(prompt))


class Refiner(nn.Module):
    """From the absolute difference of features [B, C, h, w] to logits of the anomalous pixels [B, 1, 4h, 4w]."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        layers = []
        for inside in (channels, width):
            layers += [nn.Conv2d(inside, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [nn.ConvTranspose2d(width, width, 2, stride=2)]
        self.net = nn.Sequential(*layers, nn.Conv2d(width, 1, 1))
        initialise(self.modules())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


def dice_loss(probabilities: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """1 - (sum p t + 1) / (sum p^2 + sum t^2 + 1), mean over the images of float [B, H, W] and bool [B, H, W].

    The official formula, which lacks the usual factor 2: a perfect mask of many pixels has a loss of one half.
    """
    target = masks.to(probabilities.dtype)
    above = (probabilities * target).sum((1, 2)) + 1
    return (1 - above / (probabilities.square().sum((1, 2)) + target.sum((1, 2)) + 1)).mean()


# Data


TEST_SCALE = "Map scale from the test images: a score depends on which images are tested together, as in the paper."


@dataclass(frozen=True)
class PasteEither:
    """Of two synthesisers one at random: the image's own pieces, or a texture."""

    pieces: CutPaste3Way
    texture: TexturePaste

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return (self.pieces if rng.random() < 0.5 else self.texture)(image, rng)


class PromptedImages(Dataset):
    """The items of a SyntheticImages with "prompt", the picture of any image of the same category (also itself), of
    tiles that of the same place.

    Item i of epoch e depends on (seed, e, i) alone.
    """

    def __init__(self, images: SyntheticImages):
        self.images = images
        samples = images.images.samples
        shown = (samples["category"] + "\n" + samples.get("tile", "")).to_numpy(str)
        rows = {one: np.flatnonzero(shown == one) for one in np.unique(shown)}
        self.members = [rows[one] for one in shown]

    def set_epoch(self, epoch: int) -> None:
        self.images.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict:
        rng = np.random.default_rng([self.images.seed, self.images.epoch, index, 1])
        prompt = int(rng.choice(self.members[index]))
        item = self.images[index]
        return {name: item[name] for name in ("normal", "image", "mask")} | {
            "prompt": self.images.images.pixels(prompt)
        }


class OneNIP(FeatureReconstruction, PastingDetector):
    """OneNIP. Images of 224 pixels (256 and 320 as well); at prediction they must have the size that was learned.

    backbone, weights, stages: the frozen features, all resized to the coarsest stage's grid (adlib.features.backbones).
        A ResNet-18 has the same stages 0 to 3, of 64, 64, 128 and 256 channels.
    padded_for: pixels for which an EfficientNet pads, 380 in the official code (adlib.features.aligned_features).
    prompts: category -> path of its normal image at prediction, of which a tile sees the tile of its own place. A
        category of the training images that is not named gets one of these by the fit's seed (`choices` tells which);
        one that was not learned can be named too.
    textures: a folder of pictures such as DTD's images, or None to draw textures.
    neighbours: side of the square of tokens around each that it does not see; None takes half the grid's, as there.
    width, heads, hidden, encoder_layers, decoder_layers, dropout: of the transformer. refiner_width: its channels.
    jitter: amount of the features' noise in training.
    dice_weight: of the refiner's loss beside the mean squared error.
    refinement: share of the refiner in the map; the distance has the rest.
    scale: what brings the refiner's probabilities to the size of distances, the mean of the largest and the smallest of
        these: in "training" images and a synthetic anomaly in each, so that an image's score is its own; or in all
        "test" images that are predicted together, as in the official code.
    epochs, batch_size, learning_rate, weight_decay, clip_norm: of AdamW.
    milestone, decay: one epoch after this share of them, as in the official code, the learning rate is multiplied by
        decay.
    score_window: side of the mean filter before the map's maximum is taken as image score.
    precision: of training, see adlib.training.loop.
    """

    name = "onenip"
    facts = Facts("feature reconstruction", 2024, TEXTURES, joint="meant")
    image_defaults = {"size": 224}

    def __init__(
        self,
        backbone: str = "tf_efficientnet_b4.aa_in1k",
        weights: str = "pretrained",
        stages: Stages = (0, 1, 2, 3),
        padded_for: Count | None = 380,
        prompts: dict[str, str] | None = None,
        textures: str | None = None,
        neighbours: Whole | None = None,
        width: Count = 256,
        heads: Count = 8,
        hidden: Count = 1024,
        encoder_layers: Count = 4,
        decoder_layers: Count = 4,
        dropout: ShareBelowOne = 0.1,
        refiner_width: Count = 128,
        jitter: NotNegative = 20.0,
        dice_weight: NotNegative = 0.5,
        refinement: Share = 0.5,
        scale: Literal["training", "test"] = "training",
        epochs: Count = 1000,
        batch_size: Count = 8,
        learning_rate: Positive = 1e-4,
        weight_decay: NotNegative = 1e-4,
        clip_norm: Positive = 0.1,
        milestone: Share = 0.8,
        decay: Positive = 0.1,
        score_window: Count = 16,
        precision: Literal[*PRECISIONS] = "float32",
    ): ...

    @property
    def warnings(self) -> list[str]:
        return super().warnings + ([TEST_SCALE] if self.scale == "test" else [])

    @property
    def choices(self):
        return super().choices | ({"prompts": self.prompt_names_} if hasattr(self, "prompt_names_") else {})

    def fit_images(self, images, val, progress):
        prompted = PromptedImages(self.synthetic_images(images, self.seed_))
        self.build_for_images(images)
        self.prompt_names_ = self.choose_prompts(images)
        self.prompts_ = self.features_of_prompts(images)
        self.train_on(prompted, [*self.restoration_.parameters(), *self.refiner_.parameters()], progress)
        self.scale_ = self.scale_of_distances(prompted)

    def synthetic_images(self, images, seed):
        pieces = CutPaste3Way(CutPaste(jitter=0.4, hue=0.1), CutPasteScar(jitter=0.4, hue=0.1))
        texture = TexturePaste(
            self.texture_source(), (0.0, 0.8), exponents=(1, 5), rotation=5.0, among=ONENIP_OPERATIONS
        )
        return SyntheticImages(images, PasteEither(pieces, texture), 1.0, seed, keep_normal=True)

    def make_networks(self, channels, grid):
        transformer = (self.neighbours, self.width, self.heads, self.hidden, self.encoder_layers, self.decoder_layers)
        self.restoration_ = Restoration(channels, grid, *transformer, self.dropout)
        self.refiner_ = Refiner(channels, self.refiner_width)

    def choose_prompts(self, images: ImageSet) -> dict[str, str]:
        """category -> the path of its prompt."""
        chosen = {}
        for category, rows in images.samples.groupby("category", sort=True):
            place = np.random.default_rng([self.seed_, len(chosen)]).integers(len(rows))
            chosen[category] = rows["image"].iat[place]
        return chosen | (self.prompts or {})

    def features_of_prompts(self, images: ImageSet) -> torch.Tensor:
        """float [categories, C, h, w], in the order of their names; of tiles [categories * places, C, h, w], each
        category's in the order of their places. Files are prepared as the training images are.
        """
        features = []
        for path in self.prompt_names_.values():
            prompt = ImageSet(make_samples([{"image": path}], path), **images.settings).tiles()
            for index in range(len(prompt)):
                features += self.backbone_(prompt.pixels(index)[None].to(self.device_))
        return torch.cat(features)

    @torch.no_grad()
    def scale_of_distances(self, prompted: PromptedImages) -> torch.Tensor:
        """The mean of the largest and the smallest distance in the training images and a synthetic anomaly in each."""
        prompted.set_epoch(0)
        samples, low, high = prompted.images.images.samples, float("inf"), 0.0
        for index in range(len(prompted)):
            item = prompted[index]
            batch = torch.stack([item["normal"], item["image"]]).to(self.device_)
            (features,) = self.backbone_(batch)
            rebuilt = self.restoration_(features, self.prompts_of(samples.iloc[[index, index]]))
            distance = (rebuilt - features).norm(dim=1)
            low, high = min(low, float(distance.min())), max(high, float(distance.max()))
        return torch.tensor((low + high) / 2, device=self.device_)

    def predict(self, images, device="auto", batch_size=8, progress=True):
        if self.scale != "test" or not len(images):
            return super().predict(images, device, batch_size, progress)
        self.check_fitted()
        self.device_ = choose_device(device)
        self.to(self.device_)
        learned, found = self.scale_, []
        items, parts = images.tiles(), Parts("images were scored {} at a time")
        with torch.inference_mode():
            for start, batch in self.batches(items, batch_size, progress, "scale"):
                rows = items.samples.iloc[start : start + len(batch)]
                found += parts.of(partial(self.extremes, batch, rows), len(batch))
        low, high = min(low for low, _ in found), max(0.0, *(high for _, high in found))
        self.scale_ = torch.full_like(learned, (low + high) / 2)
        try:
            return super().predict(images, device, batch_size, progress)
        finally:
            self.scale_ = learned

    def extremes(self, batch: torch.Tensor, samples, part: slice) -> tuple[float, float]:
        """The smallest and the largest distance in the maps of a part of the images."""
        (features,) = self.backbone_(part_of(batch, part))
        restored = self.restoration_(features, self.prompts_of(samples.iloc[part]))
        found = distances(features, restored, batch.shape[-2:])
        return float(found.min()), float(found.max())

    def prompts_of(self, samples) -> torch.Tensor:
        """The prompts' features for rows of a samples table: float [B, C, h, w]."""
        known = list(self.prompt_names_)
        categories = samples["category"].replace("", known[0]) if len(known) == 1 else samples["category"]
        for category in categories:
            if category not in known:
                raise InputError(
                    f"onenip has no prompt for category {category!r}; it has one for {', '.join(known)}. Fit it on "
                    "normal images of that category too, or name one in the parameter prompts."
                )
        places = self.places()
        shown = [""] * len(samples) if places == [""] or "tile" not in samples else list(samples["tile"])
        if set(shown) - set(places):
            height, width = self.images_["crop"] or self.images_["size"]
            raise InputError(
                "onenip compares a tile with that of the same place in its prompt: give it images of "
                f"{height} x {width} pixels with tile={list(self.images_['tile'])}, as those that it was fitted on."
            )
        pairs = zip(categories, shown, strict=True)
        return self.prompts_[[known.index(category) * len(places) + places.index(place) for category, place in pairs]]

    def places(self) -> list[str]:
        """Where the tiles of a prompt lie, as in the column `tile`; of a whole image [""]."""
        settings = self.images_ or {}
        if not settings.get("tile"):
            return [""]
        return [f"{top} {left}" for top, left in corners(settings["crop"] or settings["size"], settings["tile"])]

    def loss(self, batch: dict) -> dict[str, torch.Tensor]:
        # One after the other, because an EfficientNet's first layers are large.
        normal, changed, prompts = (self.backbone_(batch[name])[0] for name in ("normal", "image", "prompt"))
        images = torch.cat([normal, changed])
        restored = self.restoration_(jittered(images, self.jitter), jittered(prompts, self.jitter)).float()
        masks = torch.cat([torch.zeros_like(batch["mask"]), batch["mask"]])
        return {
            "squared": F.mse_loss(restored, torch.cat([normal, normal])),
            "dice": self.dice_weight * dice_loss(self.refine(images, restored, masks.shape[-2:]), masks),
        }

    def refine(self, features: torch.Tensor, restored: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """The refiner's probability that a pixel is anomalous: float [B, H, W]."""
        return resized(self.refiner_((restored - features).abs()).float(), size)[:, 0].sigmoid()

    def score_samples(self, batch, samples):
        return self.score(batch, self.prompts_of(samples))

    def score_batch(self, batch):
        """The score of images whose category need not be told, because there is only one prompt."""
        if len(self.prompt_names_) > 1:
            raise InputError(f"onenip learned {', '.join(self.prompt_names_)}: it must be told the images' categories.")
        if len(self.prompts_) > 1:
            raise InputError("onenip learned a prompt for each place of a tile: it must be told the tiles' places.")
        return self.score(batch, self.prompts_.expand(len(batch), -1, -1, -1))

    def score(self, batch: torch.Tensor, prompts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.features(batch)
        restored = self.restoration_(features, prompts)
        size = batch.shape[-2:]
        refined = self.refine(features, restored, size) * self.scale_
        maps = (1 - self.refinement) * distances(features, restored, size) + self.refinement * refined
        return window_maximum(maps, self.score_window), maps

    def state(self):
        names = list(json.dumps(self.prompt_names_).encode())
        return super().state() | {"prompt_names": torch.tensor(names, dtype=torch.uint8)}

    def build_for(self, state):
        self.prompt_names_ = json.loads(bytes(state.pop("prompt_names").tolist()))
        super().build_for(state)

    def grid_of(self, state):
        return tuple(state["prompts"].shape[-2:])
