"""DRAEM: "DRAEM - A discriminatively trained reconstruction embedding for surface anomaly detection".

Zavrtanik, Kristan, Skocaj; ICCV 2021, pages 8330-8339; arXiv 2108.07610. Textures are pasted into normal images. One
network learns to restore the normal image, a second one sees the image beside its restoration and learns to mark what
was pasted. Both start from random weights; nothing is pretrained. (3CAD's tables print "DREAM".)

Follows the official code, also where the paper differs: the IMAGE weighs 0 to 0.8 inside a blob (the paper's range, of
the texture, is 0.1 to 1), and 30 % of the normal images, of every category, are turned by up to 90 degrees with black
corners before the synthesis. The last epoch is kept. What is ours:
- images are RGB, there BGR: of consequence only for the official trained weights, which are not read here;
- an epoch shows every image once, in random order; there, as many images are drawn with repetition;
- without a folder of textures they are drawn (adlib.synthesis), and the detector warns of it.

Other readings, as parameters:
- Texture-AD: rotation=45, decay=0.1, milestones=(4/7, 6/7), i.e. epochs 400 and 600. That its rotation concerns the
  normal images, and the share of them (0.3 here), is our reading.
- anomalib: rotation_share=0, image_weight=(0, 0.9), redraws=10, score_window=1, and milestones and decay as above. It
  also chooses the epoch on test images, which is not offered here.
"""

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from adlib.detector import Facts
from adlib.networks.losses import focal_loss, structural_similarity
from adlib.parameters import Count, NotNegative, Odd, Positive, Share, Whole
from adlib.synthesis import TexturePaste
from adlib.training.loop import PRECISIONS, step_schedule, train
from adlib.training.pasted_textures import TEXTURES, PastingDetector, Turn, TurnedSyntheticImages

# Network


def _layer(inside: int, outside: int) -> list[nn.Module]:
    return [nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU(inplace=True)]


def _double(inside: int, middle: int, outside: int) -> nn.Sequential:
    return nn.Sequential(*_layer(inside, middle), *_layer(middle, outside))


def _enlarge(inside: int, outside: int) -> nn.Sequential:
    """Twice the height and width, bilinear, then one layer."""
    larger = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
    return nn.Sequential(larger, *_layer(inside, outside))


class Reconstruction(nn.Module):
    """Restores the normal image: float [B, 3, H, W] -> the same shape. An autoencoder down to 1/16, without skips."""

    def __init__(self, width: int):
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width, 8 * width]
        layers = []
        for inside, outside in zip([3, *widths], widths, strict=False):
            layers += [_double(inside, outside, outside), nn.MaxPool2d(2)]
        layers.pop()  # no pooling past the deepest
        for inside, outside in pairwise((8 * width, 4 * width, 2 * width, width, width)):
            layers += [_enlarge(inside, inside), _double(inside, inside, outside)]
        self.net = nn.Sequential(*layers, nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


class Segmentation(nn.Module):
    """Marks what was pasted: float [B, 6, H, W], restoration and image -> logits [B, 2, H, W]. A U-Net down to 1/32."""

    def __init__(self, width: int):
        super().__init__()
        widths = [factor * width for factor in (1, 2, 4, 8, 8, 8)]
        pairs = zip([6, *widths], widths, strict=False)
        self.down = nn.ModuleList(_double(inside, outside, outside) for inside, outside in pairs)
        self.enlarge, self.join = nn.ModuleList(), nn.ModuleList()
        inside = widths[-1]
        for outside, skip in zip((8, 4, 2, 1, 1), reversed(widths[:-1]), strict=True):
            self.enlarge.append(_enlarge(inside, outside * width))
            self.join.append(_double(outside * width + skip, outside * width, outside * width))
            inside = outside * width
        self.out = nn.Conv2d(width, 2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for block in self.down:
            x = block(F.max_pool2d(x, 2) if skips else x)
            skips.append(x)
        for enlarge, join, skip in zip(self.enlarge, self.join, skips[-2::-1], strict=True):
            x = join(torch.cat([enlarge(x), skip], 1))
        return self.out(x)


def initialise(network: nn.Module) -> None:
    """The official initial weights: of convolutions N(0, 0.02), of batch norms N(1, 0.02); in place."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)


# Loss


def value_span(restored: torch.Tensor) -> torch.Tensor:
    """SSIM's L as the official code guesses it: 2 while any restored value of the batch is below -0.5, else 1."""
    return 1.0 + (restored.detach().amin() < -0.5).float()


class DRAEM(PastingDetector):
    """DRAEM. Images of 256 pixels; sides must be multiples of 32.

    textures: a folder of pictures such as DTD's images, or None to draw textures.
    epochs, batch_size, learning_rate: of Adam without weight decay.
    milestones, decay: after these shares of the epochs the learning rate is multiplied by decay.
    probability: of an attempt at an anomaly in an image. image_weight: range of the image's weight inside a blob.
    redraws: how often an empty blob mask is drawn again; the official code takes it as a normal image.
    rotation, rotation_share: this share of the normal images is turned by up to so many degrees before the synthesis.
    reconstruction_width, segmentation_width: channels at full size; the deepest have eight times as many.
    score_window: side of the mean filter (zeros past the border) before the map's maximum is taken as image score; it
        matters much. 1 takes the raw maximum.
    precision: of training, see adlib.training.loop.
    """

    name = "draem"
    facts = Facts("image reconstruction", 2021, TEXTURES)
    side_multiple = 32
    image_defaults = {"resize": "linear"}

    def __init__(
        self,
        textures: str | None = None,
        epochs: Count = 700,
        batch_size: Count = 8,
        learning_rate: Positive = 1e-4,
        milestones: tuple[Share, ...] = (0.8, 0.9),
        decay: Positive = 0.2,
        probability: Share = 0.5,
        image_weight: tuple[Share, Share] = (0.0, 0.8),
        redraws: Whole = 0,
        rotation: NotNegative = 90.0,
        rotation_share: Share = 0.3,
        reconstruction_width: Count = 128,
        segmentation_width: Count = 64,
        score_window: Odd = 21,
        precision: Literal[*PRECISIONS] = "float32",
    ): ...

    def fit_images(self, images, val, progress):
        synthetic = self.synthetic_images(images, self.seed_)
        self.build()
        self.to(self.device_)
        parameters = [value for network in self.networks().values() for value in network.parameters()]
        optimiser = torch.optim.Adam(parameters, self.learning_rate, fused=True)
        self.losses_ = train(
            self,
            synthetic,
            self.losses,
            self.networks(),
            optimiser,
            epochs=self.epochs,
            batch_size=self.batch_size,
            schedules=[step_schedule(optimiser, self.epochs, self.milestones, self.decay)],
            drop_last=False,
            precision=self.precision,
            progress=progress,
        )

    def synthetic_images(self, images, seed):
        paste = TexturePaste(self.texture_source(), self.image_weight, redraws=self.redraws)
        return TurnedSyntheticImages(images, paste, Turn(self.rotation, self.rotation_share), self.probability, seed)

    def build(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed_)
            self.reconstruction_ = Reconstruction(self.reconstruction_width)
            self.segmentation_ = Segmentation(self.segmentation_width)
            for network in self.networks().values():
                initialise(network)
                network.to(memory_format=torch.channels_last)

    def restore_and_segment(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """float [B, 3, H, W] -> restored images [B, 3, H, W], logits [B, 2, H, W]; gradients flow through both."""
        restored = self.reconstruction_(batch.contiguous(memory_format=torch.channels_last))
        return restored, self.segmentation_(torch.cat([restored, batch], 1))

    def losses(self, batch: dict) -> dict[str, torch.Tensor]:
        restored, logits = (value.float() for value in self.restore_and_segment(batch["image"]))
        return {
            "squared": F.mse_loss(restored, batch["normal"]),
            "ssim": 1 - structural_similarity(restored, batch["normal"], value_span(restored)),
            "focal": focal_loss(logits, batch["mask"]),
        }

    def score_batch(self, batch):
        maps = self.restore_and_segment(batch)[1].softmax(1)[:, 1]
        means = F.avg_pool2d(maps[:, None], self.score_window, stride=1, padding=self.score_window // 2)
        return means.amax((1, 2, 3)), maps

    def build_for(self, state):
        self.build()
