"""SimpleNet: "SimpleNet: A Simple Network for Image Anomaly Detection and Localization".

Liu, Zhou, Xu, Wang; CVPR 2023; arXiv 2303.15140. A linear adaptor takes frozen patch features into a space of their
own; Gaussian noise added there makes anomalous ones; a small discriminator learns to tell the two apart, and its
answer on the patches of an image, negated, is the score.

Follows the official code with the settings of its MVTec AD script, where they differ from the paper too. What is ours:
- the last epoch counts; the published numbers are of the epoch with the best image AUROC on the TEST images, one of 40;
- 40 rounds of 4 epochs are 160 epochs, because nothing happens between the rounds but that choice.

Other readings, as parameters:
- Texture-AD: images of 329 pixels without a crop, adaptor_optimiser="adam", adaptor_weight_decay=1e-5.

There is no mixed precision: it would round the noise away.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from adlib.anomaly_map import smooth, upsample
from adlib.detector import Detector, Facts
from adlib.features.backbones import Backbone
from adlib.features.patch_embedding import pooled_embedding
from adlib.networks.discriminator import Discriminator, linear
from adlib.parameters import Count, NotNegative, Positive, Stages
from adlib.training.frozen_features import features_of, frozen_features
from adlib.training.loop import train

OPTIMISERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def margin_loss(normal: torch.Tensor, noisy: torch.Tensor, margin: float) -> dict[str, torch.Tensor]:
    """The truncated L1 loss: answers to normal patches [N] should exceed the margin, to noisy ones [M] fall below
    its negative.
    """
    return {"normal": (margin - normal).clamp_min(0).mean(), "noisy": (margin + noisy).clamp_min(0).mean()}


class SimpleNet(Detector):
    """SimpleNet. Images of 329 pixels, centre crop 288.

    backbone, weights, stages: the frozen features (adlib.features.backbones).
    embedding_size: values per patch, into which its 3x3 neighbourhood on all stages is pooled (as in PatchCore). The
        default suits wide ResNets; a ResNet-18 has 384 channels to pool.
    hidden: width of the discriminator's middle layer. slope: of its leaky ReLU.
    noise: standard deviation of the noise. It is absolute, and suits features of the size of torchvision's weights.
    margin: of the loss.
    epochs, batch_size: without a schedule.
    adaptor_rate, adaptor_weight_decay, adaptor_optimiser: "adamw" or "adam".
    discriminator_rate, discriminator_weight_decay: of Adam.
    smoothing: sigma of the anomaly map's blur in pixels, 0 for none.
    cache_gib: frozen features of the training images are kept in memory if they need no more; 0 never keeps them.
    """

    name = "simplenet"
    facts = Facts("discriminator of features", 2023)
    feature_synthesis = "No picture is changed: noise is added to the feature of every patch."
    image_defaults = {"size": 329, "crop": 288, "sides": "shorter"}

    def __init__(
        self,
        backbone: str = "wide_resnet50_2.tv_in1k",
        weights: str = "pretrained",
        stages: Stages = (2, 3),
        embedding_size: Count = 1536,
        hidden: Count = 1024,
        slope: NotNegative = 0.2,
        noise: NotNegative = 0.015,
        margin: NotNegative = 0.5,
        epochs: Count = 160,
        batch_size: Count = 8,
        adaptor_rate: Positive = 1e-4,
        adaptor_weight_decay: NotNegative = 0.01,
        adaptor_optimiser: Literal[*OPTIMISERS] = "adamw",
        discriminator_rate: Positive = 2e-4,
        discriminator_weight_decay: NotNegative = 1e-5,
        smoothing: NotNegative = 4.0,
        cache_gib: NotNegative = 2.0,
    ): ...

    def fit_images(self, images, val, progress):
        self.build(self.weights)
        self.to(self.device_)
        adaptor_optimiser = OPTIMISERS[self.adaptor_optimiser]
        self.losses_ = train(
            self,
            frozen_features(self, images, self.cache_gib, progress),
            self.loss,
            self.trained(),
            [
                adaptor_optimiser(
                    self.adaptor_.parameters(), self.adaptor_rate, weight_decay=self.adaptor_weight_decay, fused=True
                ),
                torch.optim.Adam(
                    self.discriminator_.parameters(),
                    self.discriminator_rate,
                    weight_decay=self.discriminator_weight_decay,
                    fused=True,
                ),
            ],
            epochs=self.epochs,
            batch_size=self.batch_size,
            drop_last=False,
            progress=progress,
        )

    def build(self, weights: str) -> None:
        """The networks before training; the trained ones' initial weights come from the fit's seed."""
        self.backbone_ = Backbone(self.backbone, self.stages, weights, self.seed_)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed_)
            self.adaptor_ = linear(self.embedding_size, self.embedding_size)
            self.discriminator_ = Discriminator(self.embedding_size, self.hidden, self.slope)

    def trained(self) -> dict[str, nn.Module]:
        return {"adaptor": self.adaptor_, "discriminator": self.discriminator_}

    def patches(self, features: list[torch.Tensor]) -> torch.Tensor:
        """The adapted patches of feature maps [B, C, h, w] per stage, finest first: float [B * h * w, D]."""
        return self.adaptor_(pooled_embedding(features, self.embedding_size).flatten(0, 1))

    def loss(self, batch: torch.Tensor | list[torch.Tensor]) -> dict[str, torch.Tensor]:
        normal = self.patches(features_of(self, batch))
        noisy = normal + self.noise * torch.randn_like(normal)
        answers = self.discriminator_(torch.cat([normal, noisy]))  # one batch of the batch norm
        return margin_loss(*answers.chunk(2), self.margin)

    def answers(self, features: list[torch.Tensor]) -> torch.Tensor:
        """What the discriminator says of the patches of feature maps: float [B * h * w].

        The adaptor and the discriminator's first layer are linear, so for prediction they are multiplied into one.
        """
        adaptor, first = self.adaptor_, self.discriminator_.linear
        weight, bias = first.weight @ adaptor.weight, F.linear(adaptor.bias, first.weight, first.bias)
        embedded = pooled_embedding(features, self.embedding_size).flatten(0, 1)
        return self.discriminator_.head(F.linear(embedded, weight, bias))

    @staticmethod
    def patch_scores(answers: torch.Tensor) -> torch.Tensor:
        """float [N] of the discriminator -> [N], higher for anomalous."""
        return -answers

    def score_batch(self, batch):
        features = self.backbone_(batch)
        scores = self.patch_scores(self.answers(features)).view(len(batch), *features[0].shape[-2:])
        return scores.amax((1, 2)), smooth(upsample(scores, batch.shape[-2:]), self.smoothing)
