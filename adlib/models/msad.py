"""MSAD: "Mean-Shifted Contrastive Loss for Anomaly Detection".

Reiss, Hoshen; AAAI 2023, 37(2), pages 2155-2162; arXiv 2106.03844. A pretrained network is tuned on normal images by a
contrastive loss between two changed views of each, whose angles are measured around the mean of the normal features
instead of the origin. An image is as anomalous as its features are far from the nearest ones of normal images. It
scores images only: there are no maps. (Texture-AD's tables print "Mean-Shift".)

Follows the official code: batch norms keep their ImageNet statistics all the time, though those of trained layers
learn their weights; the centre comes from the untouched network and is never updated; the neighbours are sought among
the unit-length features, not the mean-shifted ones; a smaller last batch is used. What is ours:
- views are cut from the prepared image (resized, centre crop), there from the stored one;
- any images; the official loaders read CIFAR-10 only.
With epochs=0 nothing is tuned and the score is that of plain nearest neighbours: worth standing beside the tuned one,
because at this learning rate few images mean few and tiny steps.

Other readings, as parameters:
- ResNet-18, official and one of two in Texture-AD: backbone="resnet18.tv_in1k", trained_layers=None, images of 224
  pixels without a crop (there by bicubic interpolation).
- Texture-AD: epochs=10 of ResNet-152. Which of its two networks its tables print is not stated.

The contrastive loss needs its batch in one piece: at the paper's settings about 13 GiB of memory on a CPU.
"""

from typing import Literal

import timm
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms import v2

from adlib.detector import Detector, Facts
from adlib.errors import InputError
from adlib.features.backbones import build_network, fill_network, hold_statistics, normalised
from adlib.features.fusion import fused
from adlib.parameters import Count, NotNegative, Positive, ShareBelowOne, Whole
from adlib.training.loop import PRECISIONS, train


class UnitFeatures(nn.Module):
    """A network's features, averaged over all positions, at unit length: float [B, 3, H, W] in [0, 1] -> [B, D].

    backbone, weights, seed: as of adlib.features.backbones. stage: whose features, 4 for a ResNet's layer4.
    trained_layers: names of the layers that learn, None for all of the network.
    It stays in eval mode whatever a training loop does: statistics of small batches would destroy the features.
    """

    def __init__(self, backbone: str, stage: int, weights: str, trained_layers: tuple[str, ...] | None, seed: int):
        super().__init__()
        self.net = build_network(backbone, (stage,), seed)
        self.origin = fill_network(self.net, backbone, weights, seed)
        if trained_layers is not None:
            self.net.requires_grad_(False)
            learning = [part for name, part in self.net.named_children() if name in trained_layers]
            unknown = set(trained_layers) - {name for name, _ in self.net.named_children()}
            if not learning or (unknown and unknown - layers_of(backbone)):
                known = ", ".join(name for name, _ in self.net.named_children())
                which = f"{', '.join(sorted(unknown - layers_of(backbone)))}, which is none" if learning else "none"
                raise InputError(f"trained_layers={trained_layers} names {which} of {backbone}'s layers {known}.")
            for part in learning:
                part.requires_grad_(True)
        hold_statistics(self, self.net)
        self.eval().to(memory_format=torch.channels_last)

    def train(self, mode: bool = True):
        return super().train(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = normalised(self, x)
        return F.normalize(fused(self.net, x)(x)[0].float().mean((2, 3)))


def layers_of(backbone: str) -> set[str]:
    """The layers of a whole network, those past the stage that is used among them; found without its weights."""
    with torch.device("meta"):
        return {name for name, _ in timm.create_model(backbone).named_children()}


def random_view(size: tuple[int, int]) -> v2.Compose:
    """The change that makes a view of float [3, H, W]: crop, colours, grey, blur, mirror, by torch's random numbers."""
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.2, 1.0)),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(17, (0.1, 2.0))], p=0.5),
            v2.RandomHorizontalFlip(0.5),
        ]
    )


def mean_shifted_loss(
    first: torch.Tensor, second: torch.Tensor, centre: torch.Tensor, temperature: float
) -> torch.Tensor:
    """The contrastive loss of angles around a centre, averaged over the 2B views.

    first, second: float [B, D], features of two views of each image; centre: float [D]. Each view should point, as
    seen from the centre, where its partner does, rather than where any of the other 2B - 2 does.
    """
    views = F.normalize(torch.cat([first, second]) - centre)
    similarities = views @ views.T / temperature
    similarities.fill_diagonal_(-torch.inf)  # not to itself
    partner = torch.arange(len(views), device=views.device).roll(len(first))
    return F.cross_entropy(similarities, partner)


class MSAD(Detector):
    """MSAD. Images of 256 pixels, centre crop 224. Image scores only.

    backbone, weights: any timm network (adlib.features.backbones).
    stage: of the backbone, whose averaged features are used: 4 is the last of a ResNet.
    trained_layers: names of the layers that learn; None for all.
    epochs (0: no training), batch_size, learning_rate, momentum, weight_decay: of SGD without schedule.
    temperature: of the contrastive loss.
    angular: the official option that also draws the views towards the centre, there of unit length.
    neighbours: k; the score is the sum of the squared distances to the k nearest training images.
    precision: of training, see adlib.training.loop.
    """

    name = "msad"
    facts = Facts("memory of features", 2023, maps=False)
    smallest_side = 32
    image_defaults = {"crop": 224, "sides": "shorter"}

    def __init__(
        self,
        backbone: str = "resnet152.tv_in1k",
        weights: str = "pretrained",
        stage: Whole = 4,
        trained_layers: tuple[str, ...] | None = ("layer3", "layer4"),
        epochs: Whole = 20,
        batch_size: Count = 64,
        learning_rate: Positive = 1e-5,
        momentum: ShareBelowOne = 0.0,
        weight_decay: NotNegative = 5e-5,
        temperature: Positive = 0.25,
        angular: bool = False,
        neighbours: Count = 2,
        precision: Literal[*PRECISIONS] = "float32",
    ): ...

    @property
    def origin(self):
        return self.features_.origin

    def fit_images(self, images, val, progress):
        if self.neighbours > len(images):
            raise InputError(f"neighbours={self.neighbours}, but there are {len(images)} training images in all.")
        self.build(self.weights)
        self.to(self.device_)
        self.view = random_view(images.shape)
        self.centre_ = self.all_features(images, progress).mean(0)
        if self.angular:
            self.centre_ = F.normalize(self.centre_, dim=0)
        learning = [value for value in self.features_.parameters() if value.requires_grad]
        self.losses_ = {}
        if self.epochs:
            self.losses_ = train(
                self,
                images,
                self.loss,
                {"features": self.features_},
                torch.optim.SGD(learning, self.learning_rate, self.momentum, weight_decay=self.weight_decay),
                epochs=self.epochs,
                batch_size=self.batch_size,
                drop_last=False,
                precision=self.precision,
                progress=progress,
            )
        self.memory_bank_ = self.all_features(images, progress)

    def build(self, weights: str) -> None:
        self.features_ = UnitFeatures(self.backbone, self.stage, weights, self.trained_layers, self.seed_)

    @torch.no_grad()
    def all_features(self, images, progress: bool) -> torch.Tensor:
        """Of every image as it is: float [N, D], on the device."""
        # A DataLoader draws a random number: the training's own should not depend on it.
        with torch.random.fork_rng(devices=[]):
            return torch.cat([self.features_(batch) for _, batch in self.batches(images, 8, progress, "features")])

    def loss(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        first, second = (self.features_(torch.stack([self.view(image) for image in batch])) for _ in range(2))
        terms = {"contrastive": mean_shifted_loss(first, second, self.centre_, self.temperature)}
        if self.angular:
            terms["angular"] = sum((view - self.centre_).square().sum(1).mean() for view in (first, second))
        return terms

    def score_batch(self, batch):
        features = self.features_(batch)
        # At unit length the nearest is the one with the largest cosine; their distance, often tiny, is taken as a
        # difference, because 1 - cosine would lose its digits.
        rows = (features @ self.memory_bank_.T).topk(self.neighbours).indices
        return (features[:, None] - self.memory_bank_[rows]).square().sum((1, 2)), None
