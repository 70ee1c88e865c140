"""A SURROGATE of IAD + inpainting: "Joint Anomaly Detection and Inpainting for Microscopy Images via Deep Self-
Supervised Learning", Huang, Cheng, Yang, Lin, Shi, Yang, Gwee, Wen; ICIP 2021, the paper that introduced MIIC.

Published is that the network resembles GANomaly with one encoder for both codes, that it first learns to reconstruct
normal images and then to inpaint, and that MIIC ships pairs of normal images with and without a drawn anomaly. NOT
published, or not found, and therefore chosen here: layers, code, losses and their weights, optimisers, lengths, how
the phases follow each other, whether the discriminator stays, how the score is made. Every such choice is a parameter;
the detector says in its `warnings` that it is a surrogate. Its numbers are not the published method's.

Choices:
- Networks and training of adlib.models.ganomaly, grey, with one encoder. It could make the latent term small by making
  all codes small, so the image's code is a fixed target there (`fixed_code`).
- Inpainting: the same networks and losses restore the normal image from one with a synthetic anomaly; some images stay
  as they are, so that normal ones are not repaired. Without the latent term: both codes would have to agree on
  anomalous images too.
- Synthetic anomalies are cut and pasted within the image. MIIC's own pairs are not read: how their files are named is
  not documented, and whether their normal images are test images is not known.
- The score: mean of the largest hundredth of the map, which is the blurred absolute difference of image and
  restoration. The other two candidates are the codes' distance, and the map's mean.

Collapse (adlib.training.adversarial): the restorations of up to 64 training images hardly differ from one another.
"""

from typing import Literal

from adlib.anomaly_map import smooth
from adlib.detector import Facts
from adlib.models.ganomaly import GANomaly, adversarial_step
from adlib.parameters import Count, NotNegative, Positive, Share, ShareAboveZero, ShareBelowOne
from adlib.synthesis import NSA, CutPaste, CutPasteScar, RandomWalk, SyntheticImages, TexturePaste
from adlib.training.adversarial import signed
from adlib.training.loop import train

SURROGATE = (
    "Surrogate: only part of IAD + inpainting is published. Layers, losses, inpainting and score are adlib's choice: "
    "these numbers do not reproduce the published ones."
)
ANOMALIES = {
    "cutpaste": CutPaste,
    "scar": CutPasteScar,
    "random_walk": RandomWalk,
    "nsa": NSA,
    "texture": TexturePaste,  # drawn textures
}
SCORES = ("top", "mean", "code")


class IADInpainting(GANomaly):
    """A surrogate of IAD + inpainting. Square images whose side is a power of two, 32 or more. All defaults are ours.

    channels: 1 (grey), or 3. code: length of the latent code. width: channels after the first layer.
    epochs, loss_weights: of the first phase; adversarial, reconstruction and latent term.
    fixed_code: the image's code is a target and learns nothing from the latent term.
    inpainting_epochs, inpainting_rate, inpainting_weights: of the second phase, with an Adam of its own.
    anomalies: "cutpaste", "scar", "random_walk", "nsa" or "texture"; probability: of one in an image.
    batch_size; learning_rate, betas: of the Adams.
    smoothing: blur of the map in pixels. score: "top", "mean" of the map, or distance of the "code".
    top: share of the map's pixels that make the score.
    """

    name = "iad_inpainting"
    facts = Facts("image reconstruction, adversarial", 2021, surrogate=True)
    shared = True

    def __init__(
        self,
        channels: Literal[1, 3] = 1,
        code: Count = 100,
        width: Count = 64,
        epochs: Count = 15,
        loss_weights: tuple[NotNegative, NotNegative, NotNegative] = (1.0, 50.0, 1.0),
        fixed_code: bool = True,
        inpainting_epochs: Count = 15,
        inpainting_rate: Positive = 2e-4,
        inpainting_weights: tuple[NotNegative, NotNegative, NotNegative] = (1.0, 50.0, 0.0),
        anomalies: Literal[*ANOMALIES] = "cutpaste",
        probability: Share = 0.5,
        batch_size: Count = 64,
        learning_rate: Positive = 2e-4,
        betas: tuple[ShareBelowOne, ShareBelowOne] = (0.5, 0.999),
        smoothing: NotNegative = 2.0,
        score: Literal[*SCORES] = "top",
        top: ShareAboveZero = 0.01,
    ): ...

    @property
    def warnings(self):
        return [SURROGATE, *super().warnings]

    def fit_images(self, images, val, progress):
        self.side_ = images.shape[0]
        self.build()
        self.to(self.device_)
        pairs = self.synthetic_images(images, self.seed_)
        self.losses_ = {
            "reconstruction": self.train_phase(
                images, self.epochs, self.learning_rate, self.loss_weights, "reconstruction", progress
            ),
            "inpainting": self.train_phase(
                pairs, self.inpainting_epochs, self.inpainting_rate, self.inpainting_weights, "inpainting", progress
            ),
        }
        self.diversity_ = self.diversity(images)

    def synthetic_images(self, images, seed):
        """Of the second phase; for adlib.report.training_preview, too."""
        return SyntheticImages(images, ANOMALIES[self.anomalies](), self.probability, seed, keep_normal=True)

    def train_phase(self, dataset, epochs: int, learning_rate: float, loss_weights, stage: str, progress: bool):
        """Batches of normal images are restored to themselves, those of pairs to the normal image of each pair."""
        optimisers = self.optimisers(learning_rate)

        def update(batch):
            pair = (batch["image"], batch["normal"]) if isinstance(batch, dict) else (batch, batch)
            image, target = (signed(part, self.channels) for part in pair)
            networks = self.generator_, self.discriminator_
            return adversarial_step(*networks, optimisers, image, target, loss_weights, self.fixed_code)

        settings = {"epochs": epochs, "batch_size": self.batch_size, "drop_last": True}
        settings |= {"stage": stage, "progress": progress}
        return train(self, dataset, None, self.networks(), optimisers, update=update, **settings)

    def score_batch(self, batch):
        distances, residual = self.codes_and_residual(batch)
        maps = smooth(residual, self.smoothing)
        if self.score == "code":
            return distances, maps
        pixels = maps.flatten(1)
        count = max(1, round(self.top * pixels.shape[1])) if self.score == "top" else pixels.shape[1]
        return pixels.topk(count, dim=1).values.mean(1), maps
