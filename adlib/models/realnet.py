"""RealNet: "RealNet: A Feature Selection Network with Realistic Synthetic Anomaly for Anomaly Detection".

Zhang, Xu, Zhou; CVPR 2024; arXiv 2403.05897. Of a frozen network's channels those are kept that change where an
anomaly is pasted (AFS, anomaly-aware features selection); per stage a U-Net restores the normal image's features from
the pasted image's; of the residuals the largest are selected for each image (RRS, reconstruction residuals selection),
from which a decoder marks the anomaly. The networks stand in adlib.networks.realnet_blocks.

The paper pastes pictures from a diffusion model that was trained on the normal images (SDAS): give a folder of such
pictures as `synthesised`. adlib.synthesis.diffusion trains a small model of that kind and fills a folder, which takes
far longer than the rest of the method. Without one, textures are pasted, and the detector warns of it.

Follows the official code, which reads anomalies from files likewise, except that
- the last epoch is kept; there, the epoch is chosen by its results on the TEST images;
- pasting is not rounded to 8 bits;
- the selection of channels draws its own random anomalies, the same for every stage.
Pasting pictures and textures in turn, each with half the probability, is the official mixture, if both are given.
The official code was written for an older timm whose "wide_resnet50_2" means today's tag racm_in1k.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from adlib.detector import Facts, loader_workers
from adlib.errors import InputError
from adlib.features.backbones import Backbone
from adlib.networks.realnet_blocks import FeatureReconstruction, FeatureSelection, ResidualSelection, selection_errors
from adlib.parameters import Count, Positive, Range, Share, Some, Whole
from adlib.synthesis import SyntheticImages, TextureFolder, TexturePaste
from adlib.training.loop import PRECISIONS, to_device, train
from adlib.training.pasted_textures import FOREGROUNDS, PastingDetector, foreground_mask

NO_SDAS = "RealNet without SDAS: textures are pasted, where the paper pastes pictures from a diffusion model."
# The official rule for each category of MVTec AD; "all" for those that are missing here.
MVTEC_FOREGROUND = {
    "pill": "bright",
    **dict.fromkeys(("hazelnut", "metal_nut", "toothbrush"), "triangle"),
    **dict.fromkeys(("bottle", "capsule", "grid", "screw", "zipper"), "dark"),
}


# Synthesis


@dataclass(frozen=True)
class ForegroundPaste:
    """A synthesiser: one of `pastes`, chosen at random, kept where the foreground is."""

    pastes: tuple[TexturePaste, ...]
    foreground: str

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        pasted, mask = self.pastes[rng.integers(len(self.pastes))](image, rng)
        mask = mask & foreground_mask(image, self.foreground)
        return np.where(mask[..., None], pasted, image), mask


Channels = Annotated[int, Range(64, multiple=64)]


class RealNet(PastingDetector):
    """RealNet. Images of 256 pixels; sides must be multiples of four times the last stage's stride, 128.

    backbone, weights, stages: the frozen network (adlib.features.backbones). Bundled weights need stages=(1, 2, 3).
    channels: kept of stages 1, 2, 3 and 4; a stage that has fewer keeps all it has.
    selection_batches: batches of pasted images on which channels are selected.
    residuals: how many residual channels are chosen for each image by their largest value, and by their mean; the same
        channel may be chosen twice. One of the two may be 0.
    synthesised: a folder of pictures that a diffusion model drew of slightly abnormal objects (SDAS), or None.
    textures: a folder of pictures such as DTD's images, or None: drawn ones if `synthesised` is None too.
    probability: of an attempt at an anomaly in an image.
    synthesised_weight, texture_weight: range of the IMAGE's weight inside a blob, for the two sources.
    foreground: where anomalies may lie, "all" or a rule of `foreground_mask`; of MVTec AD see MVTEC_FOREGROUND.
    epochs, batch_size, learning_rate: of Adam without weight decay or schedule.
    score_window: side of the mean filter (inside the image) before the map's maximum is taken as image score.
    precision: of training, see adlib.training.loop.
    """

    name = "realnet"
    facts = Facts("feature reconstruction", 2024, "drawn defects (SDAS), or textures (DTD; drawn without)")

    def __init__(
        self,
        backbone: str = "wide_resnet50_2.racm_in1k",
        weights: str = "pretrained",
        stages: Annotated[tuple[Annotated[int, Range(1, 4)], ...], Some(distinct=True, ascending=True)] = (1, 2, 3, 4),
        channels: tuple[Channels, Channels, Channels, Channels] = (256, 512, 512, 256),
        selection_batches: Count = 64,
        residuals: tuple[Whole, Whole] = (256, 256),
        synthesised: str | None = None,
        textures: str | None = None,
        probability: Share = 0.5,
        synthesised_weight: tuple[Share, Share] = (0.0, 0.5),
        texture_weight: tuple[Share, Share] = (0.0, 0.8),
        foreground: Literal[*FOREGROUNDS] = "all",
        epochs: Count = 1000,
        batch_size: Count = 16,
        learning_rate: Positive = 1e-4,
        score_window: Count = 16,
        precision: Literal[*PRECISIONS] = "float32",
    ):
        if not any(residuals):
            raise InputError(f"residuals={residuals} leave no residual to look at: one of the two must be at least 1.")

    @property
    def warnings(self):
        if self.synthesised is None:
            return [*super().warnings, NO_SDAS]
        return super(PastingDetector, self).warnings  # no texture is drawn

    def synthesiser(self) -> ForegroundPaste:
        pastes = []
        if self.synthesised is not None:
            pastes.append(TexturePaste(TextureFolder(self.synthesised), self.synthesised_weight, operations=0))
        if self.synthesised is None or self.textures is not None:
            pastes.append(TexturePaste(self.texture_source(), self.texture_weight))
        return ForegroundPaste(tuple(pastes), self.foreground)

    @property
    def side_multiple(self) -> int:
        return 4 * 2 ** (1 + self.stages[-1])  # of the last stage's grid, which is halved twice

    def fit_images(self, images, val, progress):
        synthetic = self.synthetic_images(images, self.seed_)
        self.build(self.weights)
        self.to(self.device_)
        self.select_channels(images, synthetic.synthesiser)
        trained = {"reconstruction": self.reconstruction_, "decoder": self.decoder_}
        parameters = [value for network in trained.values() for value in network.parameters()]
        self.losses_ = train(
            self,
            synthetic,
            self.losses,
            trained,
            torch.optim.Adam(parameters, self.learning_rate, fused=True),
            epochs=self.epochs,
            batch_size=self.batch_size,
            drop_last=False,
            precision=self.precision,
            progress=progress,
        )

    def synthetic_images(self, images, seed):
        return SyntheticImages(images, self.synthesiser(), self.probability, 2 * seed, keep_normal=True)

    def build(self, weights: str) -> None:
        self.backbone_ = Backbone(self.backbone, self.stages, weights, self.seed_)
        wanted = [self.channels[stage - 1] for stage in self.stages]
        kept = [min(pair) for pair in zip(wanted, self.backbone_.channels, strict=True)]
        self.selection_ = FeatureSelection(kept)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed_)
            self.reconstruction_ = FeatureReconstruction(kept).eval()
            self.decoder_ = ResidualSelection(sum(kept), self.residuals).eval()

    def select_channels(self, images, synthesiser: ForegroundPaste) -> None:
        """AFS: keep the channels whose change by pasting is most like the mask, summed over batches."""
        dataset = SyntheticImages(images, synthesiser, 1.0, 2 * self.seed_ + 1, keep_normal=True)
        order = torch.Generator().manual_seed(self.seed_)
        workers = loader_workers(self.device_)
        loader = DataLoader(dataset, self.batch_size, shuffle=True, num_workers=workers, generator=order)
        errors = [torch.zeros(count, device=self.device_) for count in self.backbone_.channels]
        done, epoch = 0, 0
        while done < self.selection_batches:
            dataset.set_epoch(epoch)
            for batch in loader:
                batch = to_device(batch, self.device_)
                stages = zip(errors, self.backbone_(batch["normal"]), self.backbone_(batch["image"]), strict=True)
                for total, normal, pasted in stages:
                    total += selection_errors(normal, pasted, batch["mask"])
                done += 1
                if done == self.selection_batches:
                    break
            epoch += 1
        self.selection_.choose(errors)

    def losses(self, batch: dict) -> dict[str, torch.Tensor]:
        pasted = self.selection_(self.backbone_(batch["image"]))
        normal = self.selection_(self.backbone_(batch["normal"]))
        restored = self.reconstruction_(pasted)
        residuals = [(one - two).square() for one, two in zip(pasted, restored, strict=True)]
        logits = self.decoder_(residuals, batch["image"].shape[-2:]).float()
        pairs = zip(restored, normal, strict=True)
        return {
            "reconstruction": sum(F.mse_loss(one.float(), two.float()) for one, two in pairs),
            "segmentation": F.cross_entropy(logits, batch["mask"].long()),
        }

    def score_batch(self, batch):
        # One by one: the ranks of residuals that are nearly equal would else depend on the rounding of a whole batch.
        maps = torch.cat([self._map(image[None]) for image in batch])
        side = min(self.score_window, *maps.shape[-2:])
        return F.avg_pool2d(maps[:, None], side, stride=1).amax((1, 2, 3)), maps

    def _map(self, image: torch.Tensor) -> torch.Tensor:
        features = self.selection_(self.backbone_(image))
        pairs = zip(features, self.reconstruction_(features), strict=True)
        return self.decoder_([(one - two).square() for one, two in pairs], image.shape[-2:]).softmax(1)[:, 1]
