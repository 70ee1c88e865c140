"""Mixed supervision: a classifier of patches that learns from many synthetic defects and a few real ones.

Krassnig and Gruber, "ISP-AD: A Large-Scale Real-World Dataset for Advancing Industrial Anomaly Detection with Synthetic
and Real Defects", arXiv 2503.04997, sections 4.1, 4.2 and 5.2; the procedure is Haselmann, Krassnig and Gruber's (ASPAI
2022). A ResNet-18 from ImageNet tells normal patches from synthetic defects, half of each; every patch of this stream
is replaced by an augmented real defect with probability 1/32, so that these add to the synthetic ones and do not stand
in for them.

There is no public code. The paper sets the network, the optimiser, its schedule, the injection, the end of training
and the preprocessing (blur; LSM-1's brightness). It does not state, and we chose:
- batches of 64, binary cross-entropy, one linear output on the averaged last stage, at most 200 epochs;
- the augmentation of real defects: that of Table 8, of the patches on disk (adlib.training.patch_stream);
- grey input: the supervised patches are grey, test images of two modalities RGB; ImageNet's mean and deviation;
- which learning rate between 2.5e-5 and 5e-5 is whose: the upper one;
- training in float32, where the paper has mixed precision: see `precision`.

What differs by default: the paper stops training and chooses its epoch by the loss on the TEST images, for want of a
validation split. Here a share of the training patches is held out for that; selection="test" does as the paper did.
No real defect is held out, or ten would not be ten. Patches overlap, so the held-out loss is an optimistic one too.

fit takes images labelled 1: those whose defect is "synthetic", and real ones of any other name. Without any synthetic
one, normal images are augmented like real defects, and half of them get a defect from a random walk.

The map is a class activation map (Zhou et al., CVPR 2016): what each position of the last stage, a 32nd of the image's
side, adds to the score, which is their mean. It explains a decision and segments nothing: the paper reports no pixel
metric for this method, and one computed from it measures where the classifier looks, on a coarse grid.
"""

import warnings
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from adlib.anomaly_map import upsample
from adlib.detector import Detector, Facts, loader_workers
from adlib.errors import InputError
from adlib.features.backbones import build_network, fill_network, hold_statistics
from adlib.images import ImageSet
from adlib.parameters import Count, NotNegative, Positive, Share, ShareBelowOne, Whole
from adlib.training.loop import PRECISIONS, to_device, train
from adlib.training.patch_stream import AUGMENTATIONS, PatchStream, supervised_part
from adlib.training_set import SYNTHETIC, choose_real

LAST_STAGE = 4  # of a ResNet: layer4
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue in a grey value (ITU-R BT.601)
PARTLY_RANDOM = "Features of layer4 start random: these weights end with layer3, where the paper's are a whole network."
DRAWN_DEFECTS = (
    "Drawn defects: random walks on the normal training images, where the paper learns from synthetic patches on disk."
)
TEST_SELECTION = "Trained until the loss on the TEST images was lowest, as in the paper: the results are optimistic."


class PatchClassifier(nn.Module):
    """images float [B, 3, H, W] in [0, 1] -> activation map, float [B, h, w]; its mean over h and w is the logit.

    A linear layer on the averaged features is the mean of that layer at every position, so both are one.
    brightness: factor on the images. blur: sigma in pixels of a 3x3 Gaussian, 0 for none. grey: without colour.
    """

    def __init__(self, name: str, brightness: float, blur: float, grey: bool, seed: int):
        super().__init__()
        self.net = build_network(name, (LAST_STAGE,), seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = nn.Linear(self.net.feature_info.channels()[0], 1)
        self.brightness, self.grey = brightness, grey
        side = np.exp(-0.5 / blur**2) if blur else 0.0
        kernel = torch.tensor([side, 1.0, side], dtype=torch.float32) / (1 + 2 * side)
        self.register_buffer("kernel", kernel.outer(kernel).expand(3, 1, 3, 3).clone(), persistent=False)
        self.register_buffer("luma", torch.tensor(LUMA).view(1, 3, 1, 1), persistent=False)
        hold_statistics(self, self.net)
        self.to(memory_format=torch.channels_last)

    def prepared(self, images: torch.Tensor) -> torch.Tensor:
        """Grey, brightened, blurred; float [B, 3, H, W], in [0, 1] still."""
        if self.grey:
            images = (images * self.luma).sum(1, keepdim=True).expand_as(images)
        images = (images * self.brightness).clamp_max(1)
        return F.conv2d(F.pad(images, (1, 1, 1, 1), mode="reflect"), self.kernel, groups=3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        normalised = (self.prepared(images) - self.mean) / self.std
        (features,) = self.net(normalised.contiguous(memory_format=torch.channels_last))
        return self.head(features.movedim(1, -1))[..., 0]


def fill_classifier(net: nn.Module, name: str, weights: str, seed: int) -> dict:
    """Load weights into the whole network, or, where they end with layer3, into what is before layer4.

    Returns their origin, which then says so and why. Raises InputError where layer1 to layer3 are not there either.
    """
    try:
        return fill_network(net, name, weights, seed)
    except InputError as error:
        shallow = build_network(name, (LAST_STAGE - 1,), seed)
        origin = fill_network(shallow, name, weights, seed)
        net.load_state_dict(shallow.state_dict(), strict=False)
        return origin | {"layer4": f"random, seed {seed}: {error}"}


class Patience(nn.Module):
    """How long the validation loss has not fallen; a module, so that a checkpoint keeps it."""

    def __init__(self, epochs: int):
        super().__init__()
        self.epochs = epochs
        self.register_buffer("best", torch.tensor(float("inf"), dtype=torch.float64))
        self.register_buffer("waited", torch.tensor(0))

    def see(self, loss: float) -> None:
        self.waited.fill_(0 if loss < self.best else int(self.waited) + 1)
        self.best.fill_(min(loss, float(self.best)))

    @property
    def ended(self) -> bool:
        return int(self.waited) >= self.epochs


class MixedSupervised(Detector):
    """Mixed supervision with synthetic and real defects. Patches of 256 pixels.

    backbone, weights: the network that is trained, from the weights of adlib.features.backbones. Those without a layer4
        (the bundled ones) fill the layers before it, and a warning says so.
    defects: which real ones are injected: "mixed" for all, "none", or one kind by its name ("points", "area").
    number: of them, None for all; where there are fewer, all, and a warning says so. shuffle_seed: of the one shuffle
        from which fewer and more are taken, so that fewer are among more; None for the seed of fit, so that runs of
        several seeds show how much the choice of the defects matters, a limit that the paper names (section 5.2.2).
    probability: with which a patch of the stream becomes a real defect.
    synthetic: False leaves synthetic defects out; with a probability of 0.5 that is the oversampling of real defects
        alone with which section 5.2.1 compares.
    augmentation: "LSM-1", "LSM-2", "ASM" (Table 8 of the paper) or "none".
    brightness: factor on all images; 1.5 in the paper for LSM-1. blur: sigma of a 3x3 Gaussian, 0 for none.
    grey: colour is taken from all images.
    epochs, batch_size, learning_rate, momentum, weight_decay: of SGD.
    first_cycle, cycle_growth: batches until the learning rate restarts, and the factor by which that grows each time.
    patience: training ends after so many epochs without a lower validation loss; the lowest one's weights stay.
    selection: what that loss is of: "training", patches held out of the training images; or "test", the images given to
        fit as `val`, as the paper did with its test images.
    validation_share: of the training patches, held out; 0 keeps the last of all epochs.
    precision: of training, see adlib.training.loop; the paper trained in mixed precision, float16 presumably.
    """

    name = "mixed_supervised"
    facts = Facts("supervised classifier", 2025, "labelled synthetic and real defects, or neither", outlines=False)
    accepts_anomalous = True
    feature_synthesis = "Changed in training: drawn defects in half of the normal images, real ones in place of some."

    def __init__(
        self,
        backbone: str = "resnet18.tv_in1k",
        weights: str = "pretrained",
        defects: str = "mixed",
        number: Whole | None = None,
        shuffle_seed: Whole | None = None,
        probability: Share = 1 / 32,
        synthetic: bool = True,
        augmentation: Literal[*AUGMENTATIONS] = "LSM-1",
        brightness: NotNegative = 1.0,
        blur: NotNegative = 1.0,
        grey: bool = True,
        epochs: Count = 200,
        batch_size: Count = 64,
        learning_rate: Positive = 5e-5,
        momentum: ShareBelowOne = 0.9,
        weight_decay: NotNegative = 0.01,
        first_cycle: Count = 7813,
        cycle_growth: Count = 2,
        patience: Count = 20,
        selection: Literal["training", "test"] = "training",
        validation_share: ShareBelowOne = 0.05,
        precision: Literal[*PRECISIONS] = "float32",
    ): ...

    @staticmethod
    def training_samples(dataset: str, samples):
        """The samples of a run: for ISP-AD with the supervised part as training images, where it is on disk."""
        return supervised_part(samples) if dataset == "isp_ad" else samples

    @property
    def origin(self) -> dict | None:
        return getattr(self, "origin_", None)

    @property
    def choices(self) -> dict:
        """The files of the real defects that were injected, after how many epochs training ended, which was best."""
        drawn = {"real defects": getattr(self, "real_", []), "epochs": len(getattr(self, "losses_", []))}
        return drawn | super().choices

    @property
    def warnings(self) -> list[str]:
        partly = self.weights == "bundled" or "layer4" in (self.origin or {})
        drawn = bool(getattr(self, "drawn_", False))
        own = {PARTLY_RANDOM: partly, TEST_SELECTION: self.selection == "test", DRAWN_DEFECTS: drawn}
        injected = len(self.choices["real defects"])
        fewer = f"Asked for {self.number} real defects, the training images hold {injected}: all of them are injected."
        known = hasattr(self, "real_") or "choices" in self.told
        own[fewer] = known and self.defects != "none" and injected < (self.number or 0)
        return super().warnings + [sentence for sentence, holds in own.items() if holds]

    def check_images(self, images):
        super().check_images(images)
        self._real_defects(images.samples, 0)  # whatever the seed, there are some or none

    def _real_defects(self, samples, seed: int) -> np.ndarray:
        """Rows of the real defects to inject. Raises InputError where some are asked for and there are none."""
        real = choose_real(samples, self.defects, self.number, seed)
        if self.number and self.defects != "none" and not len(real):
            # A table's row is called by the number, and would show what was learned without any.
            raise InputError(
                f"number={self.number}, but the training images hold no real defect (ISP-AD's are read where "
                "real_defects lies beside the HDF5 file of supervised patches): give both, or defects=none."
            )
        return real

    def fit_images(self, images, val, progress):
        stream, held_out = self.streams(images, val)
        self.build(self.weights)
        self.to(self.device_)
        optimiser = torch.optim.SGD(
            self.classifier_.parameters(), self.learning_rate, self.momentum, weight_decay=self.weight_decay
        )
        restarts = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts
        patience = Patience(self.patience)

        def validate() -> float:
            loss = self.mean_loss(held_out)
            patience.see(loss)
            return loss

        self.losses_ = train(
            self,
            stream,
            self.loss,
            {"classifier": self.classifier_, "patience": patience},
            optimiser,
            epochs=self.epochs,
            batch_size=self.batch_size,
            drop_last=True,
            schedules=[restarts(optimiser, self.first_cycle, self.cycle_growth)],
            schedule_every="step",
            precision=self.precision,
            validate=validate if held_out is not None else None,
            on_epoch=lambda epoch, losses: patience.ended,
            progress=progress,
        )

    def streams(self, images: ImageSet, val: ImageSet | None) -> tuple[PatchStream, PatchStream | None]:
        """What is trained on, and what the epoch is chosen by (None for the last epoch)."""
        samples = images.samples
        normal = (samples["label"] == 0).to_numpy()
        synthetic = (samples["defect"] == SYNTHETIC).to_numpy() & ~normal
        if not normal.any():
            raise InputError("All training images are anomalous: a classifier needs normal ones, too.")
        shown = normal | synthetic if self.synthetic else normal
        patches = np.random.default_rng(self.seed_).permutation(np.flatnonzero(shown))
        count = round(self.validation_share * len(patches)) if self.selection == "training" else 0
        if self.selection == "training" and self.validation_share:
            count = min(max(1, count), len(patches) - 1)
        how = {"augmentation": AUGMENTATIONS[self.augmentation], "seed": self.seed_}
        how["synthesise"] = bool(self.synthetic and not synthetic.any())
        self.drawn_ = torch.tensor(how["synthesise"])  # for a loaded detector's warnings, too
        shuffle_seed = self.seed_ if self.shuffle_seed is None else self.shuffle_seed
        real = self._real_defects(samples, shuffle_seed)
        self.real_ = samples["image"].iloc[real].tolist()
        if not self.synthetic and not (len(real) and self.probability):
            raise InputError("synthetic=False leaves nothing anomalous to learn from: inject real defects.")
        stream = PatchStream(images, patches[count:], real, self.probability, **how)
        if self.selection == "training":
            # Without synthetic defects the held-out normal patches need real ones beside them, which are no others.
            beside = () if self.synthetic else (real, self.probability)
            return stream, PatchStream(images, patches[:count], *beside, **how) if count else None
        if val is None:
            raise InputError("selection='test' chooses the epoch by the test images: give them to fit as val=.")
        return stream, PatchStream(val, np.arange(len(val)))

    def build(self, weights: str) -> None:
        """The network before training; its head comes from the fit's seed."""
        self.classifier_ = PatchClassifier(self.backbone, self.brightness, self.blur, self.grey, self.seed_)
        self.origin_ = fill_classifier(self.classifier_.net, self.backbone, weights, self.seed_)
        if "layer4" in self.origin_ and weights != "bundled":  # of those it is known before
            warnings.warn(PARTLY_RANDOM, stacklevel=2)

    def loss(self, batch: dict) -> torch.Tensor:
        logits = self.classifier_(batch["image"]).mean((1, 2))
        return F.binary_cross_entropy_with_logits(logits, batch["label"])

    def mean_loss(self, stream: PatchStream) -> float:
        """The mean of the loss over all items of a stream, in evaluation mode."""
        loader = DataLoader(stream, self.batch_size, num_workers=loader_workers(self.device_))
        batches = (to_device(batch, self.device_) for batch in loader)
        return sum(float(self.loss(batch)) * len(batch["label"]) for batch in batches) / len(stream)

    def score_batch(self, batch):
        maps = self.classifier_(batch)
        return maps.mean((1, 2)), upsample(maps, batch.shape[-2:])  # logits: probabilities would round to 1
