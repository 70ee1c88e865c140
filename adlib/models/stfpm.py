"""STFPM: "Student-Teacher Feature Pyramid Matching for Anomaly Detection".

Wang, Han, Ding, Huang; BMVC 2021; arXiv 2103.04257. A student of the teacher's architecture, from random weights,
learns to reproduce the teacher's features of normal images at three levels; where it fails at all of them, the image
is anomalous.

Follows the official code, also where the paper differs (the paper's loss has a further factor 1/2). What is ours:
- the epoch is chosen on a fifth of the training images as there, but the split is drawn from fit's seed, and images
  given as `val` take the place of that fifth;
- layer4, which the official code computes and never uses, is left out.

Other readings, as parameters:
- anomalib: loss="batch", weight_decay=1e-3, validation_share=0, multiply="image" and the backbone's weights of timm's
  default tag. Its further constant factor on the maps changes no ranking and is left out.
- moviad, some of whose versions train on the last level alone by mistake: train_levels="last", validation_share=0.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from adlib.anomaly_map import upsample
from adlib.detector import Detector, Facts
from adlib.features.backbones import Backbone, build_network, hold_statistics, normalised
from adlib.features.fusion import fused
from adlib.parameters import Count, NotNegative, Positive, ShareBelowOne, Stages
from adlib.training.held_out import hold_out
from adlib.training.loop import PRECISIONS, train


class Student(nn.Module):
    """The teacher's architecture, to be trained from random weights (convolutions and norms as torchvision draws them).

    student(x): x float [B, 3, H, W] in [0, 1] -> list of float [B, C, h, w], as the teacher's.
    """

    def __init__(self, backbone: str, stages: tuple[int, ...], seed: int):
        super().__init__()
        self.net = build_network(backbone, stages, seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)  # not the draw of a teacher with random weights
            for module in self.net.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                elif isinstance(module, nn.BatchNorm2d):
                    module.reset_parameters()
        hold_statistics(self, self.net)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = normalised(self, x)
        return fused(self.net, x)(x)


def level_distance(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Squared distance of unit-length feature vectors: float [B, C, h, w] twice -> [B, h, w] in [0, 4].

    It is 2 - 2 cos, but taken as a difference, because the product of three small values needs their small digits.
    """
    return (F.normalize(teacher.float(), dim=1) - F.normalize(student.float(), dim=1)).square().sum(1)


class STFPM(Detector):
    """STFPM. Images of 256 pixels.

    backbone, weights, stages: the teacher (adlib.features.backbones); the student takes its architecture.
    epochs, batch_size, learning_rate, momentum, weight_decay: of SGD without a schedule. The official documentation
        trains 200 epochs, the code's default is 100. If wide networks fail to learn, try learning_rate=0.1.
    validation_share: of the training images, held out to choose the epoch whose maps are lowest on them; 0 trains on
        all and keeps the last epoch. Images given to fit as `val` are used instead.
    loss: "mean" over images and positions, or "batch": half the sum over the batch of each image's mean.
    train_levels: "all" or only the "last".
    multiply: the levels' maps on the "finest" feature grid, or at the size of the "image".
    precision: of training, see adlib.training.loop. Scoring is always float32.
    """

    name = "stfpm"
    facts = Facts("student and teacher", 2021)
    smallest_side = 32

    def __init__(
        self,
        backbone: str = "resnet18.tv_in1k",
        weights: str = "pretrained",
        stages: Stages = (1, 2, 3),
        epochs: Count = 100,
        batch_size: Count = 32,
        learning_rate: Positive = 0.4,
        momentum: ShareBelowOne = 0.9,
        weight_decay: NotNegative = 1e-4,
        validation_share: ShareBelowOne = 0.2,
        loss: Literal["mean", "batch"] = "mean",
        train_levels: Literal["all", "last"] = "all",
        multiply: Literal["finest", "image"] = "finest",
        precision: Literal[*PRECISIONS] = "float32",
    ): ...

    def fit_images(self, images, val, progress):
        self.build(self.weights)
        self.to(self.device_)
        if val is None:
            images, val = hold_out(images, self.validation_share, self.seed_)

        def mean_map() -> float:
            total = sum(self.score_batch(batch)[1].sum().item() for _, batch in self.batches(val, 32, False, "val"))
            return total / len(val)

        self.losses_ = train(
            self,
            images,
            self.distillation_loss,
            {"student": self.student_},
            torch.optim.SGD(
                self.student_.parameters(), self.learning_rate, self.momentum, weight_decay=self.weight_decay
            ),
            epochs=self.epochs,
            batch_size=self.batch_size,
            drop_last=False,
            precision=self.precision,
            validate=mean_map if val is not None else None,
            progress=progress,
        )

    def distillation_loss(self, batch: torch.Tensor) -> torch.Tensor:
        levels = [level_distance(*pair) for pair in zip(self.backbone_(batch), self.student_(batch), strict=True)]
        if self.train_levels == "last":
            levels = levels[-1:]
        loss = sum(level.mean() for level in levels)
        return loss if self.loss == "mean" else 0.5 * len(batch) * loss

    def score_batch(self, batch):
        levels = [level_distance(*pair) for pair in zip(self.backbone_(batch), self.student_(batch), strict=True)]
        grid = levels[0].shape[-2:] if self.multiply == "finest" else batch.shape[-2:]
        product = upsample(levels[0], grid)
        for level in levels[1:]:
            product = product * upsample(level, grid)
        maps = upsample(product, batch.shape[-2:])
        return maps.amax((1, 2)), maps

    def build(self, weights: str) -> None:
        self.backbone_ = Backbone(self.backbone, self.stages, weights, self.seed_)
        self.student_ = Student(self.backbone, self.stages, self.seed_)
