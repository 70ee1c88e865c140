"""GANomaly: "GANomaly: Semi-Supervised Anomaly Detection via Adversarial Training".

Akcay, Atapour-Abarghouei, Breckon; ACCV 2018; arXiv 1805.06725. An encoder, a decoder and a second encoder learn on
normal images alone, against a discriminator. Of a normal image the second encoder finds the first one's code again; of
an anomalous image it does not: the distance of the two codes is the image's score.

Follows the official code: feature matching as adversarial loss, the mean squared distance of the codes, the initial
weights, the discriminator that starts anew when its loss falls under 1e-5. What differs, and why:
- Prediction is in eval mode. The official test stays in train mode: scores then depend on the other images of the
  batch, and on their order. Known: eval mode costs the method some of its published AUROC.
- Scores are not scaled to [0, 1] over the test set. That changes no ranking, and would make each depend on the others.
- The last epoch is kept; the official code keeps the epoch with the best AUROC on the TEST images.
- Images of 256 pixels, where the official default, 32, would lose most defects; 15 epochs of batches of 64 are too few
  for a small set. Images are made square; the official code cuts out their middle.
- A map: the absolute difference of image and reconstruction. The method itself has none, and no map makes its score.

anomalib's port, which is not offered: it compares the discriminator's probabilities instead of its features, takes a
smooth L1 distance of the codes, and pads the first convolution by 4 (131 pixels of 256).

`losses_` has the means of every epoch; "restarts" is the share of steps after which the discriminator started anew.
Collapse (adlib.training.adversarial): the reconstructions of up to 64 training images hardly differ from one another.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from adlib.detector import Facts
from adlib.errors import InputError
from adlib.images import ImageSet
from adlib.parameters import Count, NotNegative, Positive, ShareBelowOne
from adlib.training.adversarial import AdversarialDetector, diversity, in_parts, signed, unsigned
from adlib.training.loop import train

WON = 1e-5  # loss under which the discriminator starts anew

# Networks

MANY = 32  # weights per value of the input from which a convolution is faster as a product


class Halving(nn.Conv2d):
    """A 4x4 convolution with stride 2 and padding 1, which halves the side.

    On a CPU, where weights outnumber values many times over, it is one matrix product, which reads each weight once; a
    convolution would lay out all of them anew first.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 4, 2, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        few = self.weight.numel() <= MANY * x.numel()
        if few or x.device.type != "cpu" or torch.jit.is_tracing():  # a graph that leaves Python keeps the convolution
            return super().forward(x)
        patches = F.pad(x, (1, 1, 1, 1)).unfold(2, 4, 2).unfold(3, 4, 2)  # [B, C, h, w, 4, 4]
        patches = patches.permute(0, 2, 3, 4, 5, 1).flatten(3)  # as channels-last weights lie
        return F.linear(patches, self.weight.permute(0, 2, 3, 1).flatten(1)).permute(0, 3, 1, 2)


class Encoder(nn.Module):
    """float [B, C, S, S] -> features [B, F, 4, 4] and code [B, K, 1, 1]; F = width * S / 8.

    S: a power of two, 32 or more. With K = 1 it is the discriminator: a logit, of which a sigmoid makes "real".
    """

    def __init__(self, channels: int, width: int, side: int, code: int):
        super().__init__()
        layers = [Halving(channels, width), nn.LeakyReLU(0.2, inplace=True)]
        while side > 8:  # ends at 4 x 4
            layers += [Halving(width, 2 * width), nn.BatchNorm2d(2 * width)]
            layers += [nn.LeakyReLU(0.2, inplace=True)]
            width, side = 2 * width, side // 2
        self.features = nn.Sequential(*layers)
        self.code = nn.Conv2d(width, code, 4, bias=False)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.features(x)
        return features, self.code(features)


class Decoder(nn.Sequential):
    """The encoder backwards: code [B, K, 1, 1] -> image [B, C, S, S] in (-1, 1)."""

    def __init__(self, channels: int, width: int, side: int, code: int):
        widest = width * side // 8
        layers = [nn.ConvTranspose2d(code, widest, 4, bias=False), nn.BatchNorm2d(widest), nn.ReLU(inplace=True)]
        while widest > width:
            layers += [nn.ConvTranspose2d(widest, widest // 2, 4, 2, 1, bias=False), nn.BatchNorm2d(widest // 2)]
            layers += [nn.ReLU(inplace=True)]
            widest //= 2
        super().__init__(*layers, nn.ConvTranspose2d(width, channels, 4, 2, 1, bias=False), nn.Tanh())


class Generator(nn.Module):
    """float [B, C, S, S] in [-1, 1] -> reconstruction (same shape), its code and the code found again [B, K, 1, 1].

    shared: one encoder makes both codes; in GANomaly there are two.
    """

    def __init__(self, channels: int, width: int, side: int, code: int, shared: bool = False):
        super().__init__()
        self.encoder = Encoder(channels, width, side, code)
        self.decoder = Decoder(channels, width, side, code)
        self.again = None if shared else Encoder(channels, width, side, code)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        code = self.encoder(x)[1]
        restored = self.decoder(code)
        again = self.encoder if self.again is None else self.again
        return restored, code, again(restored)[1]


def initialise(network: nn.Module) -> None:
    """Weights of convolutions from N(0, 0.02), of batch norms from N(1, 0.02) with bias 0; in place."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)


# Training


def adversarial_step(
    generator: Generator,
    discriminator: Encoder,
    optimisers: list[torch.optim.Optimizer],
    image: torch.Tensor,
    target: torch.Tensor,
    loss_weights: tuple[float, float, float],
    fixed_code: bool = False,
) -> dict[str, torch.Tensor]:
    """One step of the generator, then one of the discriminator on what the generator gave before its step.

    image -> target: float [B, C, S, S] in [-1, 1], what is restored and to what; in GANomaly they are the same.
    optimisers: of generator and discriminator. loss_weights: adversarial, reconstruction, latent.
    fixed_code: the image's code is the latent term's target alone; in GANomaly both codes learn.
    Returns the terms, unweighted.
    """
    restored, code, again = generator(image)
    real_features, real = discriminator(target)
    terms = {
        "adversarial": F.mse_loss(discriminator(restored)[0], real_features.detach()),
        "reconstruction": F.l1_loss(restored, target),
        "latent": F.mse_loss(again, code.detach() if fixed_code else code),
    }
    optimisers[0].zero_grad(set_to_none=True)
    sum(weight * term for weight, term in zip(loss_weights, terms.values(), strict=True)).backward()
    optimisers[0].step()

    false = discriminator(restored.detach())[1]
    told = F.binary_cross_entropy_with_logits(real, torch.ones_like(real))
    told = 0.5 * (told + F.binary_cross_entropy_with_logits(false, torch.zeros_like(false)))
    optimisers[1].zero_grad(set_to_none=True)  # the generator's step has left gradients here
    told.backward()
    optimisers[1].step()
    won = bool(told < WON)
    if won:
        initialise(discriminator)
    return terms | {"discriminator": told, "restarts": torch.tensor(float(won), device=told.device)}


class GANomaly(AdversarialDetector):
    """GANomaly. Square images whose side is a power of two, 32 or more.

    channels: 3, or 1 for grey. code: length of the latent code. width: channels after the first layer, of all networks.
    epochs, batch_size; learning_rate, betas: of two Adams without schedule.
    loss_weights: of the generator's adversarial, reconstruction and latent terms.
    """

    name = "ganomaly"
    facts = Facts("image reconstruction, adversarial", 2018)
    image_defaults = {"sides": "shorter"}
    shared = False  # one encoder for both codes

    def __init__(
        self,
        channels: Literal[1, 3] = 3,
        code: Count = 100,
        width: Count = 64,
        epochs: Count = 15,
        batch_size: Count = 64,
        learning_rate: Positive = 2e-4,
        betas: tuple[ShareBelowOne, ShareBelowOne] = (0.5, 0.999),
        loss_weights: tuple[NotNegative, NotNegative, NotNegative] = (1.0, 50.0, 1.0),
    ): ...

    def check_shape(self, height, width):
        if height != width or height < 32 or height & (height - 1):
            raise InputError(
                f"{self.name} halves square images down to 4 x 4: their side must be a power of two, 32 or more. "
                f"They are {height} x {width}; set size=256, for example."
            )

    def fit_images(self, images, val, progress):
        self.side_ = images.shape[0]
        self.build()
        self.to(self.device_)
        optimisers = self.optimisers(self.learning_rate)

        def update(batch):
            seen = signed(batch, self.channels)
            return adversarial_step(self.generator_, self.discriminator_, optimisers, seen, seen, self.loss_weights)

        settings = {"epochs": self.epochs, "batch_size": self.batch_size, "drop_last": True, "progress": progress}
        self.losses_ = train(self, images, None, self.networks(), optimisers, update=update, **settings)
        self.diversity_ = self.diversity(images)

    def optimisers(self, learning_rate: float) -> list[torch.optim.Adam]:
        """Of generator and discriminator."""
        networks = self.networks().values()
        return [torch.optim.Adam(network.parameters(), learning_rate, self.betas, fused=True) for network in networks]

    def diversity(self, images: ImageSet) -> float:
        """Of the reconstructions of training images."""
        seen = self.watched(images)
        return diversity(in_parts(lambda part: self.generator_(part)[0], seen), seen)

    def build(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed_)
            self.generator_ = Generator(self.channels, self.width, self.side_, self.code, self.shared)
            self.discriminator_ = Encoder(self.channels, self.width, self.side_, 1)
            for network in self.networks().values():
                initialise(network)
                network.to(memory_format=torch.channels_last)  # the layout that convolutions prefer

    def codes_and_residual(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """float [B, 3, S, S] in [0, 1] -> squared distance of the codes [B], |image - reconstruction| [B, S, S]."""
        if tuple(batch.shape[-2:]) != (self.side_, self.side_):
            raise InputError(
                f"This {self.name} was fitted on images of {self.side_} x {self.side_} pixels; these are "
                f"{batch.shape[-2]} x {batch.shape[-1]}. Predict with the size and crop of the training images."
            )
        seen = signed(batch, self.channels)
        restored, code, again = self.generator_(seen)
        return (code - again).square().mean((1, 2, 3)), (seen - restored).abs().mean(1)

    def score_batch(self, batch):
        return self.codes_and_residual(batch)

    def illustrate(self, batch):
        return {"reconstruction": unsigned(self.generator_(signed(batch, self.channels))[0])}

    def state(self):
        return {"side": torch.tensor(self.side_)} | super().state()

    def build_for(self, state):
        self.side_ = int(state.pop("side"))
        super().build_for(state)
