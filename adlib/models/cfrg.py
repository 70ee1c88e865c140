"""CFRG: coarse-to-fine detection with recovery guidance, the method of the 3CAD paper.

Yang, Xing, Sun, Guo, Ma, Li, Zeng, "3CAD: A Large-Scale Real-World 3C Product Dataset for Unsupervised Anomaly
Detection", AAAI 2025. A frozen teacher and a student of another family disagree on pasted textures (coarse); a reverse
distillation branch recovers the clean image's features from the pasted image's; both disagreements weight the teacher's
features, from which a decoder segments the pasted texture (fine).

Follows the official code, where the paper differs:
- the paper describes two stages; the code trains everything jointly and detaches nothing;
- the paper has AdamW; the code has Adam, and its weight decay is never used;
- the paper's distillation loss sums over the levels; the code divides by three;
- the code's README chooses the epoch by its results on TEST images; the last epoch is kept here.
What is ours:
- every pasted image draws its texture anew; there, an image meets the same texture in all epochs;
- the student's initial weights are drawn as timm does for an EfficientNet;
- mixed precision, the code's default, is not: see `precision`;
- without a folder of textures they are drawn (adlib.synthesis), and the detector warns of it.

Ablation, table 6 of the paper: recovery=False, segmentation=False, push=False, recovery_weight=False, and for the
homogeneous student student=None, drop_path=0, norm_momentum=0.1 (both as a ResNet has them). The official code has no
switches, so their meaning is our reading: without recovery the map is the segmentation alone, without segmentation the
recovery's distance alone, to which the student then adds nothing, so that it is not built; the homogeneous student has
the teacher's architecture, random weights, and keeps its adapters.
"""

from typing import Literal

import timm
import torch
import torch.nn.functional as F
from torch import nn

from adlib.anomaly_map import smooth
from adlib.detector import Facts
from adlib.errors import InputError
from adlib.features.backbones import Backbone, hold_statistics
from adlib.networks.distillation import (
    Bottleneck,
    Decoder,
    cosine_distance,
    distance_map,
    levels_loss,
    teacher_shape,
)
from adlib.parameters import Count, NotNegative, Positive, Share, ShareAboveZero, ShareBelowOne
from adlib.synthesis import SyntheticImages, TexturePaste
from adlib.training.loop import PRECISIONS, step_schedule, train
from adlib.training.pasted_textures import TEXTURES, PastingDetector


class Adapter(nn.Sequential):
    """Brings a student's level to the teacher's channels: float [B, C, h, w] -> [B, D, h, w], not negative."""

    def __init__(self, inside: int, outside: int):
        super().__init__(
            nn.Conv2d(inside, inside, 3, padding=1, groups=inside, bias=False),
            nn.Conv2d(inside, inside, 1, bias=False),
            nn.BatchNorm2d(inside),
            nn.ReLU(inplace=True),
            nn.Conv2d(inside, inside, 3, padding=1, bias=False),
            nn.Conv2d(inside, outside, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(inplace=True),
        )


class Student(nn.Module):
    """A timm network from random weights with an adapter behind each of three levels, at strides 4, 8 and 16.

    drop_path: its stochastic depth. momentum: of its batch norms' running means, not of the adapters'.

    student(x): float [B, 3, H, W] in [0, 1] -> list of float [B, C, h, w], with the teacher's channels.
    """

    def __init__(self, name: str, channels: list[int], drop_path: float, momentum: float, seed: int):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)  # not the draw of a teacher with random weights
            try:
                self.net = timm.create_model(
                    name, pretrained=False, features_only=True, out_indices=(1, 2, 3), drop_path_rate=drop_path
                )
            except (RuntimeError, IndexError, AssertionError, TypeError) as error:
                raise InputError(f"timm cannot build student={name!r}: {error}.") from error
            if self.net.feature_info.reduction() != [4, 8, 16]:
                raise InputError(f"student={name!r} has no feature maps at strides 4, 8 and 16, which cfrg needs.")
            if hasattr(self.net, "blocks"):  # timm leaves an EfficientNet's stages past the last level in
                last = self.net.feature_info.module_name()[-1].split(".")[1]
                self.net.blocks = self.net.blocks[: int(last) + 1]
            for module in self.net.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = momentum
            pairs = zip(self.net.feature_info.channels(), channels, strict=True)
            self.adapters = nn.ModuleList(Adapter(*pair) for pair in pairs)
        hold_statistics(self, self.net)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        levels = self.net(((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last))
        return [adapter(level) for adapter, level in zip(self.adapters, levels, strict=True)]


class Enlarge(nn.Module):
    """Twice the height and width by a transposed convolution; beside it a skip, if any; then two 3x3 convolutions."""

    def __init__(self, inside: int, outside: int, skip: int):
        super().__init__()
        self.larger = nn.ConvTranspose2d(inside, outside, 4, stride=2, padding=1)
        layers = []
        for channels in (outside + skip, outside):
            layers += [nn.Conv2d(channels, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU(inplace=True)]
        self.convs = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor, *skip: torch.Tensor) -> torch.Tensor:
        return self.convs(torch.cat([self.larger(x), *skip], 1))


class Segmentation(nn.Module):
    """Weighted features at strides 4, 8, 16 -> logits [B, H, W]. channels: (256, 512, 1024) as published."""

    def __init__(self, channels: list[int]):
        super().__init__()
        first, second, third = channels
        self.skipping = nn.ModuleList([Enlarge(third, second, second), Enlarge(second, first, first)])
        self.plain = nn.Sequential(Enlarge(first, first // 2, 0), Enlarge(first // 2, first // 4, 0))
        self.out = nn.Conv2d(first // 4, 1, 3, padding=1)

    def forward(self, weighted: list[torch.Tensor]) -> torch.Tensor:
        first, second, third = weighted
        x = self.skipping[1](self.skipping[0](third, second), first)
        return self.out(self.plain(x))[:, 0]


def distillation_loss(
    teacher: list[torch.Tensor], student: list[torch.Tensor], mask: torch.Tensor, push: bool = True
) -> torch.Tensor:
    """Student close to teacher on normal pixels and, if push, far from it on pasted ones.

    Lists of float [B, C, h, w], mask float [B, H, W] in {0, 1} -> mean over levels, images and pixels of the cosine
    distance d where the mask is 0 and of 1 - d where it is 1; d is enlarged to the mask's size first.
    """
    total = 0
    for one, two in zip(teacher, student, strict=True):
        distance = cosine_distance(one, two)[:, None]
        distance = F.interpolate(distance, mask.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
        total = total + ((1 - mask) * distance).mean()
        if push:
            total = total + (mask * (1 - distance)).mean()
    return total / len(teacher)


class CFRG(PastingDetector):
    """CFRG. Images of 256 pixels; sides must be multiples of 32.

    backbone, weights: the teacher, any timm ResNet (adlib.features.backbones); its stages 1, 2 and 3 are used.
    student: timm name of the student's network, or None for the backbone's own architecture (a homogeneous student);
        always from random weights. drop_path: its stochastic depth.
    norm_momentum: of the student's batch norms. They follow the data slowly, 1 % per batch: a training of much less
        than 300 batches needs more, such as 0.1.
    textures: a folder of pictures such as DTD's images, or None to draw textures.
    recovery, segmentation, push, recovery_weight: parts of the method that can be left out, see above.
    epochs, batch_size, learning_rate, betas: of Adam without weight decay.
    milestones, decay: after these shares of the epochs the learning rate is multiplied by decay.
    image_weight: range of the image's weight inside a blob; every image gets blobs, whose mask may be empty.
    smoothing: sigma of the anomaly map's blur in pixels, 0 for none.
    precision: of training, see adlib.training.loop; the official code has float16.
    """

    name = "cfrg"
    facts = Facts("student and teacher", 2025, TEXTURES)
    side_multiple = 32
    texture_resizing = ("antialias", "both")

    def __init__(
        self,
        backbone: str = "wide_resnet50_2.tv_in1k",
        weights: str = "pretrained",
        student: str | None = "tf_efficientnet_b0",
        drop_path: ShareBelowOne = 0.2,
        norm_momentum: ShareAboveZero = 0.01,
        textures: str | None = None,
        recovery: bool = True,
        segmentation: bool = True,
        push: bool = True,
        recovery_weight: bool = True,
        epochs: Count = 50,
        batch_size: Count = 32,
        learning_rate: Positive = 5e-4,
        betas: tuple[ShareBelowOne, ShareBelowOne] = (0.5, 0.999),
        milestones: tuple[Share, ...] = (0.8, 0.9),
        decay: Positive = 0.2,
        image_weight: tuple[Share, Share] = (0.0, 0.8),
        smoothing: NotNegative = 4.0,
        precision: Literal[*PRECISIONS] = "float32",
    ):
        if not (recovery or segmentation):
            raise InputError("recovery and segmentation cannot both be left out: nothing would be scored.")

    def fit_images(self, images, val, progress):
        synthetic = self.synthetic_images(images, self.seed_)
        self.build(self.weights)
        self.to(self.device_)
        optimiser = torch.optim.Adam(self.trained_.parameters(), self.learning_rate, self.betas, fused=True)
        self.losses_ = train(
            self,
            synthetic,
            self.losses,
            dict(self.trained_.items()),
            optimiser,
            epochs=self.epochs,
            batch_size=self.batch_size,
            schedules=[step_schedule(optimiser, self.epochs, self.milestones, self.decay)],
            drop_last=False,
            precision=self.precision,
            progress=progress,
        )

    def synthetic_images(self, images, seed):
        paste = TexturePaste(self.texture_source(), self.image_weight, operations=0)
        return SyntheticImages(images, paste, probability=1.0, seed=seed, keep_normal=True)

    def build(self, weights: str) -> None:
        self.backbone_ = Backbone(self.backbone, (1, 2, 3), weights, self.seed_)
        channels, shape = self.backbone_.channels, teacher_shape(self.backbone)
        self.trained_ = nn.ModuleDict()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed_)
            if self.recovery:
                self.trained_.update({"bottleneck": Bottleneck(shape), "decoder": Decoder(shape)})
            if self.segmentation:
                name = self.student or self.backbone
                student = Student(name, channels, self.drop_path, self.norm_momentum, self.seed_)
                self.trained_.update({"student": student, "segmentation": Segmentation(channels)})
        self.trained_.eval().to(memory_format=torch.channels_last)

    def recover(self, teacher: list[torch.Tensor]) -> list[torch.Tensor]:
        """The clean image's features, recovered from these: float32 [B, C, h, w] per level."""
        return [level.float() for level in self.trained_["decoder"](self.trained_["bottleneck"](teacher))]

    def segment(
        self, teacher: list[torch.Tensor], student: list[torch.Tensor], recovered: list[torch.Tensor] | None
    ) -> torch.Tensor:
        """Logits [B, H, W] from the teacher's features, weighted by what student and recovery make of them."""
        weighted = []
        for level, features in enumerate(teacher):
            weight = cosine_distance(features, student[level])
            if recovered and self.recovery_weight:
                weight = weight * cosine_distance(features, recovered[level])
            weighted.append(weight[:, None] * features)
        return self.trained_["segmentation"](weighted).float()

    def losses(self, batch: dict) -> dict[str, torch.Tensor]:
        teacher = [level.float() for level in self.backbone_(batch["image"])]
        losses, recovered = {}, None
        if self.recovery:
            clean, recovered = self.backbone_(batch["normal"]), self.recover(teacher)
            losses["recovery"] = levels_loss(clean, recovered)
        if self.segmentation:
            mask = batch["mask"].float()
            student = [level.float() for level in self.trained_["student"](batch["image"])]
            losses["distillation"] = distillation_loss(teacher, student, mask, self.push)
            logits = self.segment(teacher, student, recovered)
            losses["segmentation"] = F.binary_cross_entropy_with_logits(logits, mask)
        return losses

    def score_batch(self, batch):
        teacher = self.backbone_(batch)
        maps, recovered = 0, None
        if self.recovery:
            recovered = self.recover(teacher)
            maps = distance_map(teacher, recovered, batch.shape[-2:])
        if self.segmentation:
            maps = maps + self.segment(teacher, self.trained_["student"](batch), recovered).sigmoid()
        maps = smooth(maps, self.smoothing)
        return maps.amax((1, 2)), maps

    def networks(self):
        return {"backbone": self.backbone_, **self.trained_}
