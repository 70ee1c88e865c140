"""EfficientAD: "EfficientAD: Accurate Visual Anomaly Detection at Millisecond-Level Latencies".

Batzner, Heckler, König; WACV 2024; arXiv 2303.14535. A small network, the teacher, describes patches as a large
ImageNet network would. A student of its kind learns from normal images to say the same, and an autoencoder to say it
from the whole image; the student's second half predicts the autoencoder. Where student and teacher disagree, a patch
is anomalous; where student and autoencoder do, its place in the image is. The networks, and how a teacher is made,
stand in adlib.networks.patch_description.

There is no official code. Follows the unofficial one that reproduces the paper (nelson1425/EfficientAD), with the
dropout that the paper gives the autoencoder. What is ours:
- the held-out images, on which the maps are brought to one scale, are drawn from fit's seed, and images given as `val`
  take their place;
- images of other than 256 pixels, for which the autoencoder is fitted to the size;
- without a teacher's file, a poor one can be made while fitting (distill_steps), with a warning;
- without a folder of natural images, drawn textures are the penalty's pictures, with a warning.

Other readings, as parameters:
- anomalib, which ISP-AD ran: calibration="image"; its teacher's statistics are of all training images and its held-out
  images are by default the test images, which we do not follow: give `val`. ImageNet's place is taken by Imagenette:
  penalty=FOLDER.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from adlib.detector import Detector, Facts
from adlib.errors import InputError
from adlib.features.backbones import Backbone
from adlib.images import ImageSet
from adlib.networks.patch_description import (
    MARGIN,
    NETWORKS,
    Autoencoder,
    ImagesAndTextures,
    PatchDescription,
    PicturePairs,
    as_tensor,
    channel_statistics,
    distil,
    existing_teacher,
    load_teacher,
    luminance,
    teacher_file,
)
from adlib.parameters import Count, NotNegative, Positive, Share, ShareBelowOne, Whole
from adlib.synthesis import TextureFolder, texture_source
from adlib.synthesis.seeded_items import SeededItems
from adlib.training.held_out import hold_out
from adlib.training.loop import PRECISIONS, train

DRAWN_PENALTY = "Penalty images: drawn textures, where the paper's are of ImageNet."
NO_PENALTY = "No penalty images: the paper keeps the student from generalising with ImageNet's."
QUICK_STEPS = 500  # of a distillation while fitting, where none is asked for and weights say that a file is not meant

# Training images


def jittered(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Another brightness, contrast or saturation, one of them, by a factor of 0.8 to 1.2. float [3, H, W] in [0, 1].

    The image is mixed with black, with its mean grey, or with its own grey values; what leaves [0, 1] is cut off.
    """
    grey = luminance(image)
    other = (torch.zeros_like(grey), grey.mean(), grey)[rng.integers(3)]
    factor = float(rng.uniform(0.8, 1.2))
    return (factor * image + (1 - factor) * other).clamp(0, 1)


class TrainingImages(SeededItems):
    """The images, the same with another light, and a penalty picture beside each.

    textures: a source of adlib.synthesis.textures, or None for no penalty. A folder's picture is resized to twice the
    image and its middle is taken; three in ten are grey.

    Item: {"image", "jittered", "penalty"}, each float32 [3, H, W] in [0, 1]; it depends on (seed, epoch, index) alone.
    """

    def __init__(self, images: ImageSet, textures, seed: int):
        super().__init__(seed)
        self.images, self.textures = images, textures

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        image = self.images.pixels(index)
        rng = self.draws(index)
        item = {"image": image, "jittered": jittered(image, rng)}
        if self.textures is not None:
            item["penalty"] = self.penalty(rng)
        return item

    def penalty(self, rng: np.random.Generator) -> torch.Tensor:
        height, width = self.images.shape
        if isinstance(self.textures, TextureFolder):
            picture = self.textures((2 * height, 2 * width), rng)
            picture = picture[height // 2 : height // 2 + height, width // 2 : width // 2 + width]
        else:
            picture = self.textures((height, width), rng)
        picture = as_tensor(picture)
        return luminance(picture).expand(3, -1, -1) if rng.random() < 0.3 else picture


# Loss


def hard_loss(squared: torch.Tensor, share: float) -> torch.Tensor:
    """Mean of each image's largest squared differences, those from its `share` quantile on. A scalar.

    squared: float [B, C, h, w], compared as single values over channels and positions alike. Paper, section 3.2.
    """
    values = squared.flatten(1)
    kept = values.shape[1] - int(np.ceil(share * (values.shape[1] - 1)))
    return values.topk(kept, dim=1, sorted=False).values.mean()


class EfficientAD(Detector):
    """EfficientAD. Images of 256 pixels; sides must be multiples of 32, from 64 on.

    network: "small" (EfficientAD-S) or "medium" (-M). teacher: the file of its weights, made by `adlib distill`, or of
        the unofficial code or anomalib; None looks for efficientad_teacher_<network>.safetensors in ADLIB_WEIGHTS.
    distill_steps: if above 0, no file is used: the teacher is distilled while fitting, in so many steps, from
        `backbone` with `weights` (adlib.features.backbones), on the training images and the penalty's pictures. None is
        500 where weights are bundled or a file, else 0. With 0 and weights="random" the teacher is a random one.
    distill_batch, distill_rate: pictures per step of that, and its learning rate; a short one learns more at 1e-3.
    features: channels of the teacher. width: of all networks' first convolution but the autoencoder's; None is the
        published 128 (small) or 256 (medium).
    penalty: pictures on which the student must keep silent: "drawn" textures, "off", or the path of a folder of any
        photographs, best ImageNet's.
    hard_share: quantile of the squared differences from which on the student learns from them.
    steps, batch_size, learning_rate, weight_decay: of Adam. decay_at: share of the steps after which the learning rate
        is multiplied by `decay`. The paper's images come one by one; here hard differences are chosen in each image.
    validation_share: of the training images, held out to bring both maps to one scale: 0 at their quantile `low`, 0.1
        at `high`. Images given to fit as `val` are used instead; 0 uses the training images.
    calibration: on the maps of the feature "grid", framed by zeros afterwards (unofficial code), or on those framed and
        enlarged to the "image" (anomalib), where the frame pulls the quantiles down. The frame stands for the outermost
        16 pixels, which are seen only as part of their neighbours' patches.
    precision: of training, see adlib.training.loop.
    """

    name = "efficientad"
    facts = Facts("student and teacher", 2024, "its teacher's file; natural images (ImageNet; drawn without)")

    def __init__(
        self,
        network: Literal[*NETWORKS] = "small",
        teacher: str | None = None,
        backbone: str = "wide_resnet101_2.tv_in1k",
        weights: str = "pretrained",
        distill_steps: Whole | None = None,
        distill_batch: Count = 16,
        distill_rate: Positive = 1e-4,
        features: Count = 384,
        width: Count | None = None,
        penalty: str = "drawn",
        hard_share: ShareBelowOne = 0.999,
        steps: Count = 70_000,
        batch_size: Count = 1,
        learning_rate: Positive = 1e-4,
        weight_decay: NotNegative = 1e-5,
        decay_at: Share = 0.95,
        decay: Positive = 0.1,
        validation_share: ShareBelowOne = 0.1,
        low: Share = 0.9,
        high: Share = 0.995,
        calibration: Literal["grid", "image"] = "grid",
        precision: Literal[*PRECISIONS] = "float32",
    ):
        if teacher is not None and distill_steps:
            raise InputError("teacher and distill_steps were both given: a teacher has one origin.")
        if not low < high:
            raise InputError(f"low={low} and high={high} must be quantiles with 0 <= low < high <= 1.")

    @property
    def steps_of_distillation(self) -> int:
        """Of the distillation while fitting; 0 for none."""
        if self.distill_steps is None and self.teacher is None:
            return 0 if self.weights in ("pretrained", "random") else QUICK_STEPS
        return self.distill_steps or 0

    @property
    def origin(self):
        return getattr(self, "origin_", None)

    def weight_files(self, fetch=False):
        if self.steps_of_distillation:
            return super().weight_files(fetch)
        if self.teacher is None and self.weights == "random":
            return {}
        try:
            return {"teacher": Path(self.teacher or teacher_file(self.network)).expanduser()}
        except InputError:  # fit says it
            return {"teacher": None}

    def check_networks(self, fetch=True):
        super().check_networks(fetch)
        if "teacher" in self.weight_files():
            existing_teacher(self.teacher or teacher_file(self.network))

    @property
    def warnings(self):
        unused = self.teacher is not None or (not self.steps_of_distillation and self.weights != "random")
        texts = [] if unused else super().warnings
        if self.steps_of_distillation:
            pictures = "the training images" if self.penalty == "off" else "the training images and penalty pictures"
            texts += [
                f"Teacher: distilled in {self.steps_of_distillation} steps from {self.backbone} on {pictures}, where "
                "the paper's took 60000 from a wide ResNet-101 on ImageNet."
            ]
        return texts + {"drawn": [DRAWN_PENALTY], "off": [NO_PENALTY]}.get(self.penalty, [])

    def check_shape(self, height, width):
        if height % 32 or width % 32 or min(height, width) < 64:
            raise InputError(
                f"efficientad needs sides that are multiples of 32 pixels, from 64 on; the images are "
                f"{height} x {width}."
            )

    def fit_images(self, images, val, progress):
        textures = None
        if self.penalty != "off":
            textures = texture_source(None if self.penalty == "drawn" else self.penalty, "antialias")
        if val is None:
            images, val = hold_out(images, self.validation_share, self.seed_)
        self.build(images.shape)
        self.to(self.device_)
        self.origin_ = self.prepare_teacher(images, textures, progress)
        self.teacher_.requires_grad_(False).eval()
        with torch.no_grad():
            outputs = (self.teacher_(batch) for _, batch in self.batches(images, 8, progress, "teacher"))
            self.statistics_ = torch.stack(channel_statistics(outputs))
        trained = {"student": self.student_, "autoencoder": self.autoencoder_}
        parameters = [value for module in trained.values() for value in module.parameters()]
        optimiser = torch.optim.Adam(parameters, self.learning_rate, weight_decay=self.weight_decay, fused=True)
        milestone = max(1, int(self.decay_at * self.steps))
        self.losses_ = train(
            self,
            TrainingImages(images, textures, self.seed_),
            self.losses,
            trained,
            optimiser,
            steps=self.steps,
            batch_size=self.batch_size,
            drop_last=False,
            schedules=[torch.optim.lr_scheduler.MultiStepLR(optimiser, [milestone], self.decay)],
            schedule_every="step",
            precision=self.precision,
            progress=progress,
        )
        self.quantiles_ = self.map_quantiles(val or images, progress)

    def build(self, shape: tuple[int, int]) -> None:
        """The networks before training; their initial weights come from fit's seed."""
        self.size_ = torch.tensor(shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed_)
            self.teacher_ = PatchDescription(self.network, self.features, self.width)
            self.student_ = PatchDescription(self.network, 2 * self.features, self.width)
            self.autoencoder_ = Autoencoder(shape, self.features)
        self.statistics_, self.quantiles_ = torch.zeros(2, 1, self.features, 1, 1), torch.zeros(2, 2)

    def prepare_teacher(self, images: ImageSet, textures, progress: bool) -> dict:
        """Load or distil the teacher's weights, or leave them random; returns where they came from."""
        if not self.steps_of_distillation:
            if self.teacher is None and self.weights == "random":
                return {"kind": "random", "seed": self.seed_}
            return load_teacher(self.teacher_, self.teacher or teacher_file(self.network))
        backbone = Backbone(self.backbone, (2, 3), self.weights, self.seed_).to(self.device_)
        distil(
            self,
            self.teacher_,
            backbone,
            PicturePairs(ImagesAndTextures(images, textures), images.shape, self.seed_),
            steps=self.steps_of_distillation,
            batch_size=self.distill_batch,
            learning_rate=self.distill_rate,
            precision=self.precision,
            stage="teacher",
            progress=progress,
        )
        described = {"textures": "off"} if textures is None else textures.describe()
        return {"kind": "distilled", "steps": self.steps_of_distillation, "from": backbone.origin, **described}

    def said_by_teacher(self, batch: torch.Tensor) -> torch.Tensor:
        """The teacher's description, standardised per channel: float32 [B, C, h, w]."""
        with torch.no_grad():
            return (self.teacher_(batch).float() - self.statistics_[0]) / self.statistics_[1]

    def losses(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        count, kinds = len(batch["image"]), [key for key in ("image", "jittered", "penalty") if key in batch]
        said = self.student_(torch.cat([batch[kind] for kind in kinds])).float().split(count)
        said = dict(zip(kinds, said, strict=True))
        of_teacher, of_autoencoder = said["image"][:, : self.features], said["jittered"][:, self.features :]
        rebuilt = self.autoencoder_(batch["jittered"]).float()
        losses = {
            "hard": hard_loss((self.said_by_teacher(batch["image"]) - of_teacher).square(), self.hard_share),
            "autoencoder": F.mse_loss(rebuilt, self.said_by_teacher(batch["jittered"])),
            "student of autoencoder": F.mse_loss(of_autoencoder, rebuilt),  # teaches both
        }
        if "penalty" in said:
            losses["penalty"] = said["penalty"][:, : self.features].square().mean()
        return losses

    def differences(self, batch: torch.Tensor) -> torch.Tensor:
        """Mean squared difference of the student to teacher and to autoencoder: float [B, 2, h, w], not calibrated."""
        said = self.student_(batch)
        to_teacher = self.said_by_teacher(batch) - said[:, : self.features]
        to_autoencoder = self.autoencoder_(batch) - said[:, self.features :]
        return torch.stack([to_teacher.square().mean(1), to_autoencoder.square().mean(1)], 1)

    def framed(self, maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """[B, K, h, w] -> [B, K, H, W]: a frame of zeros where the unpadded networks say nothing, then image size."""
        return F.interpolate(F.pad(maps, (MARGIN,) * 4), size=size, mode="bilinear", align_corners=False)

    @torch.no_grad()
    def map_quantiles(self, images: ImageSet, progress: bool) -> torch.Tensor:
        """float32 [2, 2]: quantiles `low` and `high` of both maps over all pixels of normal images."""
        maps = []
        for _, batch in self.batches(images, 8, progress, "quantiles"):
            differences = self.differences(batch)
            if self.calibration == "image":
                differences = self.framed(differences, batch.shape[-2:])
            maps.append(differences.transpose(0, 1).flatten(1).cpu().numpy())
        quantiles = np.quantile(np.concatenate(maps, 1), [self.low, self.high], axis=1)
        return torch.from_numpy(quantiles.astype(np.float32)).to(self.device_)

    def calibrated(self, maps: torch.Tensor) -> torch.Tensor:
        low, high = self.quantiles_.view(2, 1, 2, 1, 1)
        return 0.1 * (maps - low) / (high - low).clamp_min(1e-12)

    def score_batch(self, batch):
        if list(batch.shape[-2:]) != self.size_.tolist():
            raise InputError(
                f"This efficientad was fitted on images of {self.size_[0]} x {self.size_[1]} pixels; these have "
                f"{batch.shape[-2]} x {batch.shape[-1]}."
            )
        maps = self.differences(batch)
        if self.calibration == "image":
            maps = self.calibrated(self.framed(maps, batch.shape[-2:])).mean(1)
        else:
            maps = self.framed(self.calibrated(maps).mean(1, keepdim=True), batch.shape[-2:])[:, 0]
        return maps.amax((1, 2)), maps

    def build_for(self, state):
        self.build(tuple(state["size"].tolist()))
