"""Patch description networks: what EfficientAD's teacher and student are, its autoencoder, and how a teacher is made.

A patch description network is four or six convolutions that describe every 33 x 33 patch of an image, one per four
pixels. A teacher learns to say of it what a large ImageNet network does (`distil`); its file is found by name
(`teacher_file`) and read whoever wrote it (`load_teacher`).
"""

import os
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, Subset

from adlib.detector import loader_workers
from adlib.errors import InputError
from adlib.features.backbones import MEAN, STD, Backbone
from adlib.features.patch_embedding import pooled_embedding
from adlib.file_hashes import file_hash
from adlib.images import ImageSet
from adlib.synthesis.seeded_items import SeededItems
from adlib.training.loop import to_device, train

# network -> (channels of the first convolution, its convolutions in order). A convolution: (side of the kernel, output
# channels as a multiple of the first's or "out", padding where there is any, whether 2x2 means follow).
NETWORKS = {
    "small": (128, ((4, 1, 3, True), (4, 2, 3, True), (3, 2, 1, False), (4, "out", 0, False))),
    "medium": (
        256,
        (
            (4, 1, 3, True),
            (4, 2, 3, True),
            (1, 2, 0, False),
            (3, 2, 1, False),
            (4, "out", 0, False),
            (1, "out", 0, False),
        ),
    ),
}
STRIDE = 4  # pixels from one described patch to the next
MARGIN = 4  # patches missing at each side of the map of a network without padding


class _OnImages(nn.Module):
    """A network that normalises its images itself, with ImageNet's mean and deviation."""

    def __init__(self):
        super().__init__()
        self.register_buffer("image_mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("image_std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def normalised(self, x: torch.Tensor) -> torch.Tensor:
        return ((x - self.image_mean) / self.image_std).contiguous(memory_format=torch.channels_last)


class PatchDescription(_OnImages):
    """The network of teacher and student: float [B, 3, H, W] in [0, 1] -> [B, C, H / 4 - 8, W / 4 - 8].

    network: "small" or "medium". channels: C. width: channels of the first convolution, None for the published ones.
    forward(x, padded=True), which distillation alone uses, gives the whole [B, C, H / 4, W / 4].
    Tensors: conv1.weight, conv1.bias, ... in the order of the convolutions.
    """

    def __init__(self, network: str, channels: int, width: int | None = None):
        super().__init__()
        first, self.layers = NETWORKS[network]
        inside = 3
        for number, (side, multiple, _, _) in enumerate(self.layers, start=1):
            outside = channels if multiple == "out" else multiple * (width or first)
            self.add_module(f"conv{number}", nn.Conv2d(inside, outside, side))
            inside = outside
        self.to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor, padded: bool = False) -> torch.Tensor:
        x = self.normalised(x)
        for number, (_, _, padding, pooled) in enumerate(self.layers, start=1):
            conv = self.get_submodule(f"conv{number}")
            x = F.conv2d(x, conv.weight, conv.bias, padding=padding if padded else 0)
            if number < len(self.layers):
                x = F.relu(x, inplace=True)
            if pooled:
                x = F.avg_pool2d(x, 2, padding=1 if padded else 0)
        return x


class Autoencoder(_OnImages):
    """The whole image through 64 numbers, and back to what the teacher says of each patch.

    float [B, 3, H, W] in [0, 1] -> [B, channels, H / 4 - 8, W / 4 - 8]. Published for 256 pixels, where the last
    convolution of the encoder covers 8 x 8; at other sizes it covers what is left of the image, as the sides to which
    the decoder enlarges follow from the image's.
    """

    def __init__(self, shape: tuple[int, int], channels: int, dropout: float = 0.2):
        super().__init__()
        widths = (3, 32, 32, 64, 64, 64)
        halving = [nn.Conv2d(*pair, 4, stride=2, padding=1) for pair in pairwise(widths)]
        self.encoder = nn.ModuleList([*halving, nn.Conv2d(64, 64, tuple(side // 32 for side in shape))])
        self.decoder = nn.ModuleList([nn.Conv2d(64, 64, 4, padding=2) for _ in range(6)])
        self.last = nn.ModuleList([nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, channels, 3, padding=1)])
        self.dropout = nn.Dropout(dropout)
        # At 256 pixels 3, 8, 15, 32, 63, 127 and 56.
        fractions = ((64, 1), (32, 0), (16, 1), (8, 0), (4, 1), (2, 1))
        self.sides = [tuple(max(1, side // part - less) for side in shape) for part, less in fractions]
        self.grid = tuple(side // STRIDE - 2 * MARGIN for side in shape)
        self.to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.normalised(x)
        for conv in self.encoder[:-1]:
            x = F.relu(conv(x), inplace=True)
        x = self.encoder[-1](x)  # [B, 64, 1, 1]
        for side, conv in zip(self.sides, self.decoder, strict=True):
            x = self.dropout(F.relu(conv(_resized(x, side)), inplace=True))
        x = F.relu(self.last[0](_resized(x, self.grid)), inplace=True)
        return self.last[1](x)


def _resized(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


# A teacher from a file


def teacher_file(network: str) -> Path:
    """The teacher's file in the folder ADLIB_WEIGHTS. Raises InputError, with what to do, if there is none."""
    name, folder = f"efficientad_teacher_{network}.safetensors", os.environ.get("ADLIB_WEIGHTS")
    if folder and (Path(folder) / name).is_file():
        return Path(folder) / name
    raise InputError(
        f"efficientad needs a teacher, and there is no {name} in ADLIB_WEIGHTS ({folder or 'not set'}). Make one with "
        f"`adlib distill --network {network} --images FOLDER_OF_PHOTOGRAPHS --out {name}` (hours on a GPU), give "
        "teacher=FILE, or set distill_steps=500 for a poor one that is made while fitting."
    )


def existing_teacher(file: str | Path) -> Path:
    """The path of a teacher's file. Raises InputError if there is none."""
    file = Path(file).expanduser()
    if not file.is_file():
        raise InputError(f"The teacher's file {file} does not exist; `adlib distill` makes one.")
    return file


def load_teacher(teacher: PatchDescription, file: str | Path) -> dict:
    """Copy the weights of a file into the teacher; returns their origin (kind, file, sha256).

    file: .safetensors as `adlib distill` writes it; or .safetensors, .pth or .pt with the tensors of the same
    convolutions under other names that number them in order, as "0.weight", "3.weight" ... of the unofficial code and
    "conv1.weight" ... of anomalib.
    Raises InputError for a file that is missing, unreadable, or of another network.
    """
    file = existing_teacher(file)
    try:
        # Anything but tensors is refused.
        state = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
        found = {key: value for key, value in state.items() if key.endswith((".weight", ".bias"))}
    except Exception as error:  # safetensors and torch raise half a dozen types for a file that is not theirs
        raise InputError(f"{file} cannot be read as the weights of a teacher: {error}.") from error
    for kind in ("weight", "bias"):
        names = sorted((key for key in found if key.endswith(f".{kind}")), key=_numbers)
        wanted = [conv.get_parameter(kind) for conv in teacher.children()]
        shapes = [list(found[name].shape) for name in names]
        if shapes != [list(tensor.shape) for tensor in wanted]:
            raise InputError(
                f"{file} is not of this teacher: its {kind} tensors have shapes {shapes}, needed "
                f"{[list(tensor.shape) for tensor in wanted]}. Is it of another network, small or medium?"
            )
        with torch.no_grad():
            for name, tensor in zip(names, wanted, strict=True):
                tensor.copy_(found[name])
    return {"kind": "teacher", "file": str(file), "sha256": file_hash(file)}


def _numbers(key: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", key)]


# A teacher by distillation


class PicturePairs(SeededItems):
    """Pictures at the size of the teacher and at twice that, for the network it learns from.

    images: anything with a length that gives picture number i of a generator: images(i, rng) -> float32 [3, h, w] in
        [0, 1]. size: (H, W), the teacher's. Every tenth picture, at random, is grey.

    Item: {"small": float32 [3, H, W], "large": float32 [3, 2 H, 2 W]}; it depends on (seed, epoch, index) alone.
    """

    def __init__(self, images, size: tuple[int, int], seed: int, grey_share: float = 0.1):
        super().__init__(seed)
        self.images, self.size, self.grey_share = images, tuple(size), grey_share

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        rng = self.draws(index)
        picture = self.images(index, rng)[None]
        if rng.random() < self.grey_share:
            picture = luminance(picture).expand(-1, 3, -1, -1)
        sizes = {"small": self.size, "large": tuple(2 * side for side in self.size)}
        # Antialiased as Pillow does it: teachers are sensitive to how their images were made smaller.
        return {
            name: F.interpolate(picture, size=size, mode="bilinear", align_corners=False, antialias=True)[0].clamp(0, 1)
            for name, size in sizes.items()
        }


class ImagesAndTextures:
    """Pictures for PicturePairs: by equal chances a training image at twice its size or, unless None, a texture.

    Of a tile, twice its size is the same part of the image at twice the image's size.
    """

    def __init__(self, images: ImageSet, textures):
        self.shape = _doubled(images.shape)
        settings, samples = images.settings, images.samples
        for name in ("size", "crop", "tile"):
            settings[name] = _doubled(settings.get(name))
        if "tile" in samples:
            places = [_doubled(map(int, place.split())) for place in samples["tile"]]
            samples = samples.assign(tile=[f"{top} {left}" for top, left in places])
        self.images, self.textures = ImageSet(samples, **settings), textures

    def __len__(self) -> int:
        return len(self.images)

    def __call__(self, index: int, rng: np.random.Generator) -> torch.Tensor:
        if self.textures is None or rng.random() < 0.5:
            return self.images.pixels(index)
        return as_tensor(self.textures(self.shape, rng))


def _doubled(pixels: Iterable[int] | None) -> tuple[int, ...] | None:
    return pixels and tuple(2 * part for part in pixels)


def as_tensor(picture: np.ndarray) -> torch.Tensor:
    """uint8 [H, W, 3] -> float32 [3, H, W] in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float() / 255


def luminance(images: torch.Tensor) -> torch.Tensor:
    """Grey values of float [..., 3, H, W]: [..., 1, H, W]."""
    weights = images.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    return (images * weights).sum(-3, keepdim=True)


def embedding(features: list[torch.Tensor], channels: int) -> torch.Tensor:
    """What a teacher learns to say: PatchCore's embedding of two stages, pooled to so many channels.

    features: float [B, C, h, w] per stage, finest first -> float [B, channels, h, w] on the finest grid. Each stage's
    3x3 neighbourhoods are pooled to 1024 values, then all values together to `channels`.
    """
    grid = features[0].shape[-2:]
    stages = [pooled_embedding([stage], 1024).transpose(1, 2).unflatten(2, stage.shape[-2:]) for stage in features]
    joined = torch.cat([_resized(stage, grid) for stage in stages], 1).flatten(2).transpose(1, 2)
    return F.adaptive_avg_pool1d(joined, channels).transpose(1, 2).unflatten(2, grid)


def distil(
    detector,
    teacher: PatchDescription,
    backbone: Backbone,
    pictures: PicturePairs,
    *,
    steps: int,
    batch_size: int = 16,
    learning_rate: float = 1e-4,
    weight_decay: float = 1e-5,
    statistics: int = 10_000,
    precision: str = "float32",
    stage: str = "",
    progress: bool = True,
) -> list[dict[str, float]]:
    """Train the teacher in place to say what the backbone's stages say; returns the loss of every epoch.

    The backbone sees twice the teacher's size, so that its stage at stride 8 and the padded teacher agree in grid. Its
    embedding is standardised per channel with the mean and deviation over this many pictures (`statistics`).
    detector, precision, stage: as adlib.training.loop.train takes them. All numbers are the unofficial code's.
    """
    channels = teacher.get_submodule(f"conv{len(teacher.layers)}").out_channels
    mean, std = _standardisation(detector, backbone, pictures, channels, statistics)

    def loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            target = (embedding([stage.float() for stage in backbone(batch["large"])], channels) - mean) / std
        return F.mse_loss(teacher(batch["small"], padded=True).float(), target)

    optimiser = torch.optim.Adam(teacher.parameters(), learning_rate, weight_decay=weight_decay, fused=True)
    return train(
        detector,
        pictures,
        loss,
        {"teacher": teacher},
        optimiser,
        steps=steps,
        batch_size=batch_size,
        drop_last=False,
        precision=precision,
        stage=stage,
        progress=progress,
    )


@torch.no_grad()
def _standardisation(detector, backbone, pictures, channels: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation [1, channels, 1, 1] of the backbone's embedding over up to `count` pictures."""
    order = np.random.default_rng([detector.seed_, 3]).permutation(len(pictures))[:count]
    workers = loader_workers(detector.device_)
    loader = DataLoader(
        Subset(pictures, order.tolist()), 8, num_workers=workers, generator=torch.Generator().manual_seed(0)
    )
    outputs = (embedding(backbone(to_device(batch, detector.device_)["large"]), channels) for batch in loader)
    return channel_statistics(outputs)


def channel_statistics(outputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation per channel of an iterable of float [B, C, h, w], each float32 [1, C, 1, 1]."""
    count, total, squares = 0, 0.0, 0.0
    for output in outputs:
        values = output.double().transpose(0, 1).flatten(1)  # [C, values]
        count, total, squares = count + values.shape[1], total + values.sum(1), squares + values.square().sum(1)
    mean = total / count
    std = (squares / count - mean.square()).clamp_min(0).sqrt()
    std = torch.where(std < 1e-6, 1, std)  # of a channel that never changes only rounding errors would be enlarged
    return tuple(value.float().view(1, -1, 1, 1) for value in (mean, std))
