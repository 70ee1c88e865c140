"""DeSTSeg: "DeSTSeg: Segmentation Guided Denoising Student-Teacher for Anomaly Detection".

Zhang, Li, Li, Huang, Shan, Chen; CVPR 2023, pages 3914-3923; arXiv 2211.11317. A student sees an image with a pasted
texture and learns to give a frozen teacher's features of the clean image. A small network then learns, from the masks
of the pasted textures, to fuse the levels' teacher-student similarities into one map.

Follows the official code. What is ours:
- the images of the two stages are drawn from two seeds, there from one stream;
- a turn by a multiple of 90 degrees and the slight one are made in one step;
- without a folder of textures they are drawn (adlib.synthesis), and the detector warns of it.
The official code was written for an older timm whose "resnet18" means today's tag tv_in1k.
"""

from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import nn

from adlib.anomaly_map import upsample
from adlib.detector import Facts
from adlib.errors import InputError
from adlib.features.backbones import Backbone, build_network, hold_statistics
from adlib.networks.distillation import ResidualBlock, cosine_distance
from adlib.parameters import Count, NotNegative, Positive, Range, Share, ShareBelowOne
from adlib.synthesis import TexturePaste
from adlib.training.loop import PRECISIONS, train
from adlib.training.pasted_textures import TEXTURES, PastingDetector, Turn, TurnedSyntheticImages

# How the official code turns the normal images of each MVTec AD category before the synthesis; not at all those that
# are missing here.
MVTEC_ROTATION = {category: {"rotation": 5.0} for category in ("wood", "zipper", "cable")} | {
    category: {"rotation": 5.0, "quarter_turns": True}
    for category in ("bottle", "grid", "hazelnut", "leather", "tile", "carpet", "screw")
}
GREY = 114 / 255  # comes in at the corners of a turned image


def _blocks(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(ResidualBlock(inside, outside, None), ResidualBlock(outside, outside, None))


class DenoisingStudent(nn.Module):
    """An encoder of the teacher's architecture up to layer4, and a decoder without skips; from random weights.

    student(x): float [B, 3, H, W] in [0, 1] -> list of float [B, C, h, w] like the teacher's three, finest first.
    """

    def __init__(self, backbone: str, seed: int):
        super().__init__()
        self.encoder = build_network(backbone, (1, 2, 3, 4), seed + 1)  # not the draw of a teacher with random weights
        channels = self.encoder.feature_info.channels()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            widths = [channels[3], *reversed(channels)]  # 512, 512, 256, 128, 64 for a ResNet-18
            self.decoder = nn.ModuleList(_blocks(*pair) for pair in pairwise(widths))
        hold_statistics(self, self.encoder)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        encoded = self.encoder(((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last))
        x = self.decoder[0](encoded[3])
        decoded = []
        for block, level in zip(self.decoder[1:], reversed(encoded[:3]), strict=True):
            x = block(F.interpolate(x, size=level.shape[-2:], mode="bilinear", align_corners=False))
            decoded.append(x)
        return decoded[::-1]


class Pyramid(nn.Module):
    """Atrous spatial pyramid pooling: the mean of all positions and three dilated 3x3 convolutions, fused by another.

    float [B, C, h, w] -> the same shape. Chen et al., "Rethinking Atrous Convolution", 2017.
    """

    def __init__(self, width: int, rates: tuple[int, ...] = (6, 12, 18)):
        super().__init__()
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), *self._layer(width, width, 1))
        self.dilated = nn.ModuleList(nn.Sequential(*self._layer(width, width, 3, rate)) for rate in rates)
        self.fuse = nn.Sequential(*self._layer((1 + len(rates)) * width, width, 3))

    @staticmethod
    def _layer(inside: int, outside: int, kernel: int, rate: int = 1) -> list[nn.Module]:
        conv = nn.Conv2d(inside, outside, kernel, padding=rate * (kernel // 2), dilation=rate, bias=False)
        return [conv, nn.BatchNorm2d(outside), nn.ReLU(inplace=True)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branches = [self.pooled(x).expand_as(x), *(dilated(x) for dilated in self.dilated)]
        return self.fuse(torch.cat(branches, 1))


class Segmentation(nn.Module):
    """Similarities float [B, C, h, w] -> logits [B, h, w]: two residual blocks, the pyramid, two convolutions."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.residual = _blocks(channels, width)
        last = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.head = nn.Sequential(
            Pyramid(width), last, nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.Conv2d(width, 1, 1)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.residual(x))[:, 0]


def similarities(teacher: list[torch.Tensor], student: list[torch.Tensor]) -> torch.Tensor:
    """Minus the products, channel by channel, of unit-length feature vectors: lists of float [B, C, h, w], finest first
    -> [B, sum of C, h, w] on the finest grid. Their sum over a level's channels is minus the cosine.
    """
    grid = teacher[0].shape[-2:]
    products = [-F.normalize(one, dim=1) * F.normalize(two, dim=1) for one, two in zip(teacher, student, strict=True)]
    return torch.cat([F.interpolate(one, size=grid, mode="bilinear", align_corners=False) for one in products], 1)


def binary_focal_loss(logits: torch.Tensor, target: torch.Tensor, gamma: float) -> torch.Tensor:
    """(1 - p)^gamma times the cross-entropy, p the probability of the right class: mean over float of equal shapes."""
    probability = logits.sigmoid()
    right = probability * target + (1 - probability) * (1 - target)
    return ((1 - right) ** gamma * F.binary_cross_entropy_with_logits(logits, target, reduction="none")).mean()


class DeSTSeg(PastingDetector):
    """DeSTSeg. Images of 256 pixels.

    backbone, weights: the teacher, any timm network with four stages (adlib.features.backbones), of which 1, 2 and 3
        are used. The student has its architecture.
    textures: a folder of pictures such as DTD's images, or None to draw textures.
    student_steps, segmentation_steps: batches of the two stages.
    batch_size: a smaller last batch is dropped. The student's loss is SUMMED over the batch, so its learning rate
        belongs to 32.
    student_rate, residual_rate, head_rate: learning rates of the student, and of the two parts of the segmentation.
    momentum, weight_decay: of both stages' SGD; there is no schedule.
    image_weight: range of the image's weight inside a blob.
    rotation, quarter_turns: normal images are turned by up to so many degrees, and by multiples of 90, before the
        synthesis. The official choice for each category of MVTec AD is MVTEC_ROTATION; for other data it depends on
        how poses vary, and none is turned by default.
    segmentation_width: channels of the segmentation network.
    gamma: of the focal loss. top: the image score is the mean of so many of the map's largest pixels.
    precision: of training, see adlib.training.loop.
    """

    name = "destseg"
    facts = Facts("student and teacher", 2023, TEXTURES)
    smallest_side = 32
    texture_resizing = ("antialias", "both")

    def __init__(
        self,
        backbone: str = "resnet18.tv_in1k",
        weights: str = "pretrained",
        textures: str | None = None,
        student_steps: Count = 1000,
        segmentation_steps: Count = 4000,
        batch_size: Annotated[int, Range(2)] = 32,
        student_rate: Positive = 0.4,
        residual_rate: Positive = 0.1,
        head_rate: Positive = 0.01,
        momentum: ShareBelowOne = 0.9,
        weight_decay: NotNegative = 1e-4,
        image_weight: tuple[Share, Share] = (0.0, 0.8),
        rotation: NotNegative = 0.0,
        quarter_turns: bool = False,
        segmentation_width: Count = 256,
        gamma: NotNegative = 4.0,
        top: Count = 100,
        precision: Literal[*PRECISIONS] = "float32",
    ): ...

    def fit_images(self, images, val, progress):
        if min(len(images), self.batch_size) < 2:
            raise InputError("destseg needs at least two images and batch_size=2: it normalises over the batch.")
        synthetic = {name: self.synthetic_images(images, self.seed_, name) for name in ("student", "segmentation")}
        self.build(self.weights)
        self.to(self.device_)

        def stage(name: str, network: nn.Module, loss, steps: int, rates: dict[nn.Module, float]) -> list[dict]:
            groups = [{"params": list(part.parameters()), "lr": rate} for part, rate in rates.items()]
            return train(
                self,
                synthetic[name],
                loss,
                {name: network},
                torch.optim.SGD(groups, momentum=self.momentum, weight_decay=self.weight_decay),
                steps=steps,
                batch_size=self.batch_size,
                drop_last=True,
                precision=self.precision,
                stage=name,
                progress=progress,
            )

        student, segmentation = self.student_, self.segmentation_
        rates = {segmentation.residual: self.residual_rate, segmentation.head: self.head_rate}
        self.losses_ = {
            "student": stage(
                "student", student, self.distillation_loss, self.student_steps, {student: self.student_rate}
            ),
            "segmentation": stage("segmentation", segmentation, self.segmentation_loss, self.segmentation_steps, rates),
        }

    def synthetic_images(self, images, seed, stage: str = "student"):
        """As of all methods that paste, of one of the two stages."""
        paste = TexturePaste(self.texture_source(), self.image_weight, operations=0)
        turn = Turn(self.rotation, quarters=self.quarter_turns, fill=GREY)
        return TurnedSyntheticImages(images, paste, turn, probability=1.0, seed=2 * seed + (stage == "segmentation"))

    def build(self, weights: str) -> None:
        self.backbone_ = Backbone(self.backbone, (1, 2, 3), weights, self.seed_)
        self.student_ = DenoisingStudent(self.backbone, self.seed_).eval()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed_)
            segmentation = Segmentation(sum(self.backbone_.channels), self.segmentation_width).eval()
            self.segmentation_ = segmentation.to(memory_format=torch.channels_last)

    def distillation_loss(self, batch: dict) -> torch.Tensor:
        """Cosine distance of the student's features of the pasted image from the teacher's of the clean one: the mean
        over positions, summed over levels and over the batch.
        """
        pairs = zip(self.backbone_(batch["normal"]), self.student_(batch["image"]), strict=True)
        return sum(cosine_distance(one.float(), two.float()).mean((1, 2)).sum() for one, two in pairs)

    def segment(self, batch: torch.Tensor) -> torch.Tensor:
        """float [B, 3, H, W] -> logits [B, h, w] on the teacher's finest grid; no gradient reaches the student."""
        with torch.no_grad():
            joined = similarities(self.backbone_(batch), self.student_(batch))
        return self.segmentation_(joined)

    def segmentation_loss(self, batch: dict) -> dict[str, torch.Tensor]:
        logits = self.segment(batch["image"]).float()
        small = F.interpolate(batch["mask"][:, None].float(), logits.shape[-2:], mode="bilinear", align_corners=False)
        target = (small[:, 0] >= 0.5).float()
        focal = binary_focal_loss(logits, target, self.gamma)
        return {"focal": focal, "absolute": (logits.sigmoid() - target).abs().mean()}

    def score_batch(self, batch):
        maps = upsample(self.segment(batch).sigmoid(), batch.shape[-2:])
        values = maps.flatten(1)
        return values.topk(min(self.top, values.shape[1])).values.mean(1), maps
