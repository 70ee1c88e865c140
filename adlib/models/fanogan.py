"""Fast AnoGAN: "f-AnoGAN: Fast unsupervised anomaly detection with generative adversarial networks".

Schlegl, Seeboeck, Waldstein, Langs, Schmidt-Erfurth; Medical Image Analysis 54, 2019, pages 30-44. First a Wasserstein
GAN with gradient penalty learns to draw patches of normal images; then, with the GAN frozen, an encoder learns where
in the generator's space a patch lies (izi_f). An image is anomalous as far as its patches differ from what the
generator draws of their codes, in pixels and in the critic's features.

Follows the official code (TensorFlow): patches of 64 pixels, grey, mirrored with probability one half; its networks,
initial weights, losses and optimisers. What differs, and why:
- How images become patches is not published: here training cuts one at a random place of each image of a batch, and
  prediction cuts the image into 64 x 64 tiles; `image_score` says how their scores make the image's.
- 7 epochs, the official number, are of a set of very many patches, `patches_per_image` of each image here: a small
  set needs more, or `gan_steps`.
- The generator steps after every fifth step of the critic, there before the next five; its batch norms' averages
  follow also the batches it draws for the critic, there those of its own steps alone.
- RMSProp's averages start at 0, there at 1; its epsilon stands outside the root, where 1e-5 does as 1e-10 inside.
- Scores are left as they are: none is scaled by what the test set holds.

Watched: `losses_["gan"]` has of every epoch the means of the critic's loss, of the penalty and of the gradient's norm,
which the penalty wants at 1; where the last epoch's is outside 0.5 to 2 the detector warns. Collapse
(adlib.training.adversarial): 64 patches drawn from random codes hardly differ from one another; found out before the
second stage begins.
"""

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from adlib.detector import Facts
from adlib.errors import InputError
from adlib.parameters import Count, NotNegative, Positive, ShareAboveZero, ShareBelowOne
from adlib.training.adversarial import (
    WATCHED,
    AdversarialDetector,
    diversity,
    in_parts,
    signed,
    unsigned,
)
from adlib.training.loop import train

PATCH = 64  # side of a patch: 4 x 4, doubled four times
STEADY = (0.5, 2.0)  # gradient norms that count as near enough to 1

# Networks


class LayerNorm(nn.GroupNorm):
    """Over channels, height and width of each image; a scale and an offset per channel."""

    def __init__(self, channels: int):
        super().__init__(1, channels)


class Residual(nn.Module):
    """norm, ReLU, 3x3, norm, ReLU, 3x3, beside a 1x1: [B, I, h, w] -> [B, O, 2h, 2w] (up) or [B, O, h/2, w/2].

    norm: channels -> module. Enlarged by repeating pixels, made smaller by 2 x 2 means.
    """

    def __init__(self, inside: int, outside: int, norm, up: bool):
        super().__init__()
        middle = outside if up else inside
        self.up = up
        self.norms = nn.ModuleList([norm(inside), norm(middle)])
        self.first = nn.Conv2d(inside, middle, 3, padding=1, bias=False)
        self.second = nn.Conv2d(middle, outside, 3, padding=1)
        self.shortcut = nn.Conv2d(inside, outside, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norms[0](x))
        if self.up:
            x, y = (F.interpolate(value, scale_factor=2, mode="nearest") for value in (x, y))
            return self.shortcut(x) + self.second(F.relu(self.norms[1](self.first(y))))
        y = self.second(F.relu(self.norms[1](self.first(y))))
        return self.shortcut(F.avg_pool2d(x, 2)) + F.avg_pool2d(y, 2)


class Generator(nn.Module):
    """Codes, float [B, Z] -> patches [B, C, 64, 64] in (-1, 1)."""

    def __init__(self, channels: int, width: int, code: int, norm):
        super().__init__()
        widths = [8 * width, 8 * width, 4 * width, 2 * width, width]
        self.linear = nn.Linear(code, widths[0] * 16)
        self.blocks = nn.Sequential(*(Residual(*pair, norm, up=True) for pair in pairwise(widths)))
        self.norm = norm(width)
        self.out = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.linear(code).unflatten(1, (-1, 4, 4)))
        return self.out(F.relu(self.norm(x))).tanh()


class Trunk(nn.Module):
    """Patches [B, C, 64, 64] -> features [B, 128 * width] and a linear map of them [B, outputs]: critic or encoder."""

    def __init__(self, channels: int, width: int, outputs: int, norm):
        super().__init__()
        widths = [width, 2 * width, 4 * width, 8 * width, 8 * width]
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.Sequential(*(Residual(*pair, norm, up=False) for pair in pairwise(widths)))
        self.linear = nn.Linear(widths[-1] * 16, outputs)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.blocks(self.first(x)).flatten(1)
        return features, self.linear(features)


def initialise(network: nn.Module) -> None:
    """Uniform weights of variance 2 / (fan-in + fan-out), 3x3 convolutions but the first twice that; in place."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            doubled = isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3) and name != "first"
            nn.init.xavier_uniform_(module.weight, 2**0.5 if doubled else 1.0)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


# Patches


def random_patches(images: torch.Tensor) -> torch.Tensor:
    """One patch at a random place of each image, mirrored with probability one half: [B, C, H, W] -> [B, C, 64, 64]."""
    places = torch.rand(len(images), 3)
    rows = (places[:, 0] * (images.shape[-2] - PATCH + 1)).int().tolist()
    columns = (places[:, 1] * (images.shape[-1] - PATCH + 1)).int().tolist()
    patches = []
    for image, row, column, mirrored in zip(images, rows, columns, (places[:, 2] < 0.5).tolist(), strict=True):
        patch = image[:, row : row + PATCH, column : column + PATCH]
        patches.append(patch.flip(-1) if mirrored else patch)
    return torch.stack(patches)


def cut(images: torch.Tensor) -> torch.Tensor:
    """Images into tiles, row by row: float [B, C, H, W] -> [B * H/64 * W/64, C, 64, 64]."""
    tiles = images.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)  # [B, C, H/64, W/64, 64, 64]
    return tiles.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)


def join(tiles: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Tiles back into images of this (H, W): float [B * H/64 * W/64, C, 64, 64] -> [B, C, H, W]."""
    rows, columns = size[0] // PATCH, size[1] // PATCH
    tiles = tiles.unflatten(0, (-1, rows, columns))  # [B, H/64, W/64, C, 64, 64]
    return tiles.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


# Losses


def gradient_penalty(critic: nn.Module, real: torch.Tensor, drawn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean squared difference from 1 of the critic's gradient norm between real and drawn, and the mean norm.

    real, drawn: float [B, C, H, W]; one random place between the two for each image of the batch.
    """
    share = torch.rand(len(real), 1, 1, 1).to(real.device)
    between = (real + share * (drawn - real)).requires_grad_()
    gradient = torch.autograd.grad(critic(between)[1].sum(), between, create_graph=True)[0]
    norms = gradient.flatten(1).norm(dim=1)
    return (norms - 1).square().mean(), norms.detach().mean()


class FAnoGAN(AdversarialDetector):
    """f-AnoGAN. Sides of images must be multiples of 64 pixels.

    channels: 1 (grey), or 3. code, width: length of a code; channels of the networks at full size.
    norm_momentum: of the batch norms' averages (TensorFlow's 0.99 is 0.01 here); epsilon 1e-3.
    gan_epochs: over a set of `patches_per_image` random patches of each image, counted in steps of the critic;
        gan_steps: of the critic, in their place.
    critic_steps: of the critic for each of the generator. gan_rate, gan_betas: of their Adams.
    penalty_weight: of the gradient penalty.
    encoder_steps, encoder_rate: of RMSProp. bounded: the encoder's codes go through a tanh.
    feature_weight: kappa, of the distance of features in the encoder's loss and in the score.
    batch_size: of both stages.
    image_score: "max" or "mean" over the tiles of an image.
    """

    name = "fanogan"
    facts = Facts("image reconstruction, adversarial", 2019)
    gradient_norm_ = float("nan")  # of the critic, mean of the last epoch

    def __init__(
        self,
        channels: Literal[1, 3] = 1,
        code: Count = 128,
        width: Count = 64,
        norm_momentum: ShareAboveZero = 0.01,
        gan_epochs: Count = 7,
        patches_per_image: Count = 1,
        gan_steps: Count | None = None,
        critic_steps: Count = 5,
        gan_rate: Positive = 1e-4,
        gan_betas: tuple[ShareBelowOne, ShareBelowOne] = (0.0, 0.9),
        penalty_weight: NotNegative = 10.0,
        encoder_steps: Count = 50_000,
        encoder_rate: Positive = 5e-5,
        bounded: bool = True,
        feature_weight: NotNegative = 1.0,
        batch_size: Count = 64,
        image_score: Literal["max", "mean"] = "max",
    ): ...

    @property
    def warnings(self):
        low, high = STEADY
        if self.gradient_norm_ != self.gradient_norm_ or low <= self.gradient_norm_ <= high:
            return super().warnings
        return [
            *super().warnings,
            f"Unsteady: the gradient of {self.name}'s critic has a norm of {self.gradient_norm_:.2g} where the "
            f"penalty wants 1 ({low} to {high} is near enough): train longer, or with a larger penalty_weight.",
        ]

    def check_shape(self, height, width):
        check_tiles((height, width))

    def fit_images(self, images, val, progress):
        check_tiles(images.shape)
        self.build()
        self.to(self.device_)
        self.losses_ = {"gan": self.train_gan(images, progress)}
        self.generator_.eval()
        if self.losses_["gan"]:
            self.gradient_norm_ = self.losses_["gan"][-1]["gradient_norm"]
        codes = torch.randn(WATCHED, self.code, generator=torch.Generator().manual_seed(self.seed_))
        tiles = cut(self.watched(images))
        self.diversity_ = diversity(in_parts(self.generator_, codes.to(self.device_)), tiles)
        self.losses_["encoder"] = self.train_encoder(images, progress)

    def train_gan(self, images, progress: bool) -> list[dict[str, float]]:
        networks = {"critic": self.critic_, "generator": self.generator_}
        critic, generator = (
            torch.optim.Adam(network.parameters(), self.gan_rate, self.gan_betas) for network in networks.values()
        )

        def draw(count: int) -> torch.Tensor:
            return self.generator_(torch.randn(count, self.code).to(self.device_))

        def update(batch):
            real = random_patches(signed(batch, self.channels))
            with torch.no_grad():
                drawn = draw(len(real))
            distance = self.critic_(drawn)[1].mean() - self.critic_(real)[1].mean()
            penalty, norm = gradient_penalty(self.critic_, real, drawn)
            critic.zero_grad(set_to_none=True)
            (distance + self.penalty_weight * penalty).backward()
            critic.step()
            if steps_done(critic) % self.critic_steps == 0:
                generator.zero_grad(set_to_none=True)
                (-self.critic_(draw(len(real)))[1].mean()).backward()
                generator.step()
            return {"critic": distance, "penalty": penalty, "gradient_norm": norm}

        passes = self.gan_epochs * self.patches_per_image
        length = {"epochs": passes} if self.gan_steps is None else {"steps": self.gan_steps}
        settings = {"batch_size": self.batch_size, "drop_last": True, "stage": "gan", "progress": progress}
        return train(self, images, None, networks, [critic, generator], update=update, **length, **settings)

    def train_encoder(self, images, progress: bool) -> list[dict[str, float]]:
        frozen = [value for network in (self.generator_, self.critic_) for value in network.parameters()]
        for value in frozen:
            value.requires_grad_(False)

        def loss(batch):
            patches = random_patches(signed(batch, self.channels))
            squared, features = self.distances(patches, self.redraw(patches))
            return {"squared": squared.mean(), "features": self.feature_weight * features.mean()}

        optimiser = torch.optim.RMSprop(self.encoder_.parameters(), self.encoder_rate, alpha=0.9, eps=1e-5)
        settings = {"batch_size": self.batch_size, "drop_last": True, "stage": "encoder", "progress": progress}
        modules = {"encoder": self.encoder_}
        losses = train(self, images, loss, modules, optimiser, steps=self.encoder_steps, **settings)
        for value in frozen:
            value.requires_grad_(True)
        return losses

    def redraw(self, patches: torch.Tensor) -> torch.Tensor:
        """G(E(x)): what the generator draws of the codes of patches, float [B, C, 64, 64]."""
        codes = self.encoder_(patches)[1]
        return self.generator_(codes.tanh() if self.bounded else codes)

    def distances(self, patches: torch.Tensor, drawn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean squared distance of each pair of patches, of their pixels [B] and of the critic's features [B]."""
        features = self.critic_(drawn)[0] - self.critic_(patches)[0]
        return (drawn - patches).square().mean((1, 2, 3)), features.square().mean(1)

    def score_batch(self, batch):
        size = check_tiles(batch.shape[-2:])
        tiles = cut(signed(batch, self.channels))
        drawn = self.redraw(tiles)
        squared, features = self.distances(tiles, drawn)
        scores = (squared + self.feature_weight * features).view(len(batch), -1)
        maps = join((tiles - drawn).abs().mean(1, keepdim=True), size)[:, 0]
        return scores.amax(1) if self.image_score == "max" else scores.mean(1), maps

    def illustrate(self, batch):
        tiles = cut(signed(batch, self.channels))
        return {"drawn anew": unsigned(join(self.redraw(tiles), check_tiles(batch.shape[-2:])))}

    def build(self) -> None:
        def batch_norm(channels: int) -> nn.BatchNorm2d:
            return nn.BatchNorm2d(channels, eps=1e-3, momentum=self.norm_momentum)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed_)
            self.generator_ = Generator(self.channels, self.width, self.code, batch_norm)
            self.critic_ = Trunk(self.channels, self.width, 1, LayerNorm)
            self.encoder_ = Trunk(self.channels, self.width, self.code, batch_norm)
            for network in self.networks().values():
                initialise(network)
                network.to(memory_format=torch.channels_last)  # a fifth to a half faster on a CPU

    def state(self):
        return super().state() | {"gradient_norm": torch.tensor(self.gradient_norm_, dtype=torch.float64)}

    def build_for(self, state):
        self.gradient_norm_ = float(state.pop("gradient_norm"))
        super().build_for(state)


def steps_done(optimiser: torch.optim.Adam) -> int:
    """How often an Adam has stepped. It knows so itself, also when training resumes from a checkpoint."""
    return int(next(iter(optimiser.state.values()))["step"])


def check_tiles(size: tuple[int, int]) -> tuple[int, int]:
    """(H, W) of images, or an InputError where they cannot be cut into tiles."""
    height, width = size
    if height % PATCH or width % PATCH:
        raise InputError(
            f"fanogan cuts images into tiles of {PATCH} x {PATCH} pixels, which does not fit {height} x {width}: set a "
            "size that is a multiple, size=256 for example."
        )
    return height, width
