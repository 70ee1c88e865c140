"""Adversarial training: what GANomaly, f-AnoGAN and the surrogate of IAD + inpainting share.

Their generators end in a tanh, so images are seen in [-1, 1], in colour or grey. And all of them are watched for
collapse: a generator that gives nearly the same image whatever it is asked for.

The criterion, which is ours: `diversity`, the spread of generated images over that of real ones. Under COLLAPSED, a
tenth, the detector says so in its `warnings`. A watch is no proof: normal images that differ by their noise alone look
the same to it.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from adlib.detector import Detector
from adlib.images import ImageSet

COLLAPSED = 0.1  # diversity under which a generator counts as collapsed
WATCHED = 64  # images that are looked at
LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)


def signed(images: torch.Tensor, channels: int) -> torch.Tensor:
    """RGB images, float [B, 3, H, W] in [0, 1] -> [B, channels, H, W] in [-1, 1]; grey for channels=1."""
    if channels == 1:
        weights = torch.tensor(LUMINANCE, device=images.device, dtype=images.dtype)
        images = torch.einsum("bchw,c->bhw", images, weights)[:, None]
    return 2 * images - 1


def unsigned(images: torch.Tensor) -> torch.Tensor:
    """Back to RGB: float [B, 1 or 3, H, W] in [-1, 1] -> [B, 3, H, W] in [0, 1]."""
    return ((images + 1) / 2).expand(-1, 3, -1, -1)


def spread(images: torch.Tensor) -> float:
    """How much images differ from one another: float [N, C, H, W] -> standard deviation over the N, root mean square.

    Of means over 4 x 4 pixels, because no generator owes us the noise.
    """
    return float(F.avg_pool2d(images, 4).std(0, correction=0).square().mean().sqrt())


def diversity(generated: torch.Tensor, real: torch.Tensor) -> float:
    """Spread of generated images over that of real ones, both float [N, C, H, W]; NaN where the real ones are equal."""
    whole = spread(real)
    return spread(generated) / whole if whole > 0 else float("nan")


class AdversarialDetector(Detector):
    """Base of the methods with a GAN. A subclass has the parameter `channels`, and writes `build` and `networks`."""

    diversity_ = float("nan")  # of the fitted generator; kept with the weights

    @property
    def warnings(self) -> list[str]:
        if not self.diversity_ < COLLAPSED:  # NaN: nothing to compare
            return super().warnings
        return [
            *super().warnings,
            f"Collapsed: what the generator of {self.name} gives varies {self.diversity_:.1%} as much as the training "
            f"images do (under {COLLAPSED:.0%}). Its scores say how far an image is from that one picture, no more.",
        ]

    def watched(self, images: ImageSet) -> torch.Tensor:
        """Up to 64 training images, evenly over the set: float [N, channels, H, W] in [-1, 1] on the device."""
        chosen = np.unique(np.linspace(0, len(images) - 1, WATCHED).round().astype(int))
        return signed(torch.stack([images.pixels(index) for index in chosen]), self.channels).to(self.device_)

    def build(self) -> None:
        """Make the networks with their initial weights, from seed_."""
        raise NotImplementedError

    def state(self):
        return super().state() | {"diversity": torch.tensor(self.diversity_, dtype=torch.float64)}

    def build_for(self, state):
        self.diversity_ = float(state.pop("diversity"))
        self.build()


@torch.no_grad()
def in_parts(function: Callable[[torch.Tensor], torch.Tensor], batch: torch.Tensor) -> torch.Tensor:
    """function(batch), eight images at a time, without gradients."""
    return torch.cat([function(part) for part in batch.split(8)])
