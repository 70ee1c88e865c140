"""Backbones: frozen feature extractors by timm name, and where their weights come from.

Sources of weights:
"pretrained"  a file <timm name>.safetensors in the folder ADLIB_WEIGHTS if there is one, else timm's hub
"random"      drawn from a seed; a run with them says so
"bundled"     in the package, trained by `adlib pretrain` on images drawn from formulas
a path        of a .safetensors file with timm's key names

Name the weights' tag ("wide_resnet50_2.tv_in1k"): a bare timm name has meant different weights in different
releases.
"""

import hashlib
import inspect
import os
import shutil
import socket
import urllib.parse
import urllib.request
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from torch import nn

from adlib.errors import InputError
from adlib.models.feature_cache import looked_up

# ImageNet statistics: what all torchvision and most timm weights were trained with.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
BUNDLED = Path(__file__).parent / "bundled"


class Backbone(nn.Module):
    """Feature maps of chosen stages of a timm network, frozen.

    name: timm name with tag, e.g. "wide_resnet50_2.tv_in1k".
    stages: which feature maps, counted as timm does (for a ResNet 1 = layer1 at stride 4, 2 = layer2 at stride
        8, 3 = layer3 at stride 16). Later stages are cut off.
    weights: "pretrained", "random", "bundled" or the path of a .safetensors file.
    seed: of random weights.

    backbone(x): x float [B, 3, H, W] in [0, 1], not normalised -> list of float [B, C, h, w], one per stage.
    It stays in eval mode whatever a training loop does to its parent, and keeps no gradients.
    Raises InputError for unknown names and stages, and for weights that are not there or do not fit.
    """

    def __init__(self, name: str, stages: tuple[int, ...], weights: str | Path, seed: int = 0):
        super().__init__()
        self.name, self.stages, self.weights = name, tuple(stages), str(weights)
        self.net = build_network(name, self.stages, seed)
        self.origin = fill_network(self.net, name, weights, seed)
        self.channels = self.net.feature_info.channels()
        self.strides = self.net.feature_info.reduction()
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        # The layout that convolutions prefer: 1.1 to 1.4 times the speed on a CPU, the same values.
        self.requires_grad_(False).eval().to(memory_format=torch.channels_last)

    def train(self, mode: bool = True):
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return looked_up(self, x, self.compute)

    def compute(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        return self.net(x)


def build_network(name: str, stages: tuple[int, ...], seed: int) -> nn.Module:
    """timm's network of a name, cut after the last stage: its feature maps, with random weights drawn from the seed.

    Raises InputError for unknown names and stages.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return timm.create_model(name, pretrained=False, features_only=True, out_indices=stages)
        except (RuntimeError, IndexError, AssertionError) as error:
            known = ", ".join(timm.list_models(f"{name.split('.')[0]}*")[:5]) or "see timm.list_models()"
            raise InputError(
                f"timm cannot build backbone={name!r} with feature stages {stages}: {error}. Known: {known}."
            ) from error


def fill_network(net: nn.Module, name: str, weights: str | Path, seed: int) -> dict:
    """Load weights into net; return their origin: kind, and the file with its hash where there is one."""
    if weights == "random":
        return {"kind": "random", "seed": seed}
    if weights == "bundled":
        return {"kind": "bundled", **fill_from_file(net, bundled_file(name, net.feature_info.out_indices))}
    if weights == "pretrained":
        return {"kind": "pretrained", **fill_from_file(net, weights_file(name) or download(name))}
    return {"kind": "file", **fill_from_file(net, Path(weights).expanduser())}


def bundled_file(name: str, stages: tuple[int, ...] = (1, 2, 3)) -> Path:
    """The weights in the package for a timm name, with or without tag (adlib/models/bundled/README.md).

    Raises InputError for another network, and for stages that they do not have.
    """
    file = BUNDLED / f"{name.split('.')[0]}.safetensors"
    known = ", ".join(sorted(file.stem for file in BUNDLED.glob("*.safetensors")))
    if not file.is_file():
        raise InputError(
            f"weights='bundled' exist for {known}, not for backbone={name!r}. Use one of those, 'pretrained', 'random' "
            "(and expect little), or the path of a .safetensors file, which `adlib pretrain` can make."
        )
    if max(stages) > 3:
        raise InputError(f"weights='bundled' end with stage 3, but stages={tuple(stages)} were asked for.")
    return file


def weights_file(name: str) -> Path | None:
    """The file of these weights in the folder ADLIB_WEIGHTS, or None."""
    folder = os.environ.get("ADLIB_WEIGHTS")
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise InputError(f"ADLIB_WEIGHTS={folder} is not a folder.")
    file = Path(folder) / f"{name}.safetensors"
    return file if file.is_file() else None


def fill_from_file(net: nn.Module, file: Path) -> dict:
    """Copy a .safetensors file with timm's key names, of any float type, into net. Returns its path and hash.

    Raises InputError for a file that is missing, unreadable, or of another network.
    """
    if file.suffix != ".safetensors":
        raise InputError(f"weights={str(file)!r}: expected 'pretrained', 'bundled', 'random' or a .safetensors path.")
    if not file.is_file():
        raise InputError(f"The weights file {file} does not exist.")
    try:
        state = load_file(file)
    except Exception as error:  # safetensors raises its own type, without a public base class
        raise InputError(f"{file} cannot be read as safetensors: {error}.") from error
    # timm's feature extractors write "stages_0" where the whole network writes "stages.0".
    state = {key.replace(".", "_"): value for key, value in state.items()}
    wanted = {key: tensor for key, tensor in net.state_dict().items() if not key.endswith("num_batches_tracked")}
    missing = [key for key in wanted if key.replace(".", "_") not in state]
    if missing:
        raise InputError(
            f"{file} lacks {len(missing)} of {len(wanted)} tensors, {missing[0]} for one: are these weights of "
            "another network, or under other than timm's key names?"
        )
    for key, tensor in wanted.items():
        value = state[key.replace(".", "_")]
        if value.shape != tensor.shape:
            raise InputError(f"{file}: {key} has shape {list(value.shape)}, needed {list(tensor.shape)}.")
        tensor.copy_(value)  # state_dict() shares memory with the network
    return {"file": str(file), "sha256": file_hash(file)}


def download(name: str) -> Path:
    """The weights of a timm name from its hub, or from the hub's cache on this machine.

    Returns the path of a .safetensors file. Raises InputError when there is no such file or no network.
    """
    from huggingface_hub import hf_hub_download

    repository = timm.models.get_pretrained_cfg(name)
    if repository is None or not repository.hf_hub_id:
        raise InputError(f"timm names no weights for {name!r}: add a tag, e.g. resnet18.tv_in1k.")
    arguments = {"repo_id": repository.hf_hub_id, "filename": "model.safetensors"}
    try:
        return Path(hf_hub_download(**arguments, local_files_only=True))
    except OSError:  # not in the cache
        pass
    try:
        if no_network():
            raise ConnectionError("its address cannot be resolved")
        return Path(hf_hub_download(**arguments))
    except OSError as error:
        raise InputError(
            f"No weights for {name}: not in ADLIB_WEIGHTS, and the hub was not reached ({error}). On a machine with "
            f"a network run `adlib weights pack DIR`, bring DIR/{name}.safetensors here and set ADLIB_WEIGHTS to "
            "its folder; or give weights=FILE, or weights='random'."
        ) from error


def pack(name: str, folder: str | Path) -> Path:
    """Put the weights of a timm or open_clip name into a folder, under the name that ADLIB_WEIGHTS is searched for."""
    import open_clip

    from adlib.models import clip_towers

    target = Path(folder).expanduser() / f"{name}.safetensors"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        fetch = clip_towers.download if open_clip.get_model_config(name.partition(".")[0]) else download
        shutil.copyfile(fetch(name), partial)
        partial.replace(target)
    return target


def needed_weights() -> dict[str, list[str]]:
    """timm name, or open_clip's of a pair of towers -> the methods whose default it is."""
    from adlib.models import list_models, model_class

    needed: dict[str, list[str]] = {}
    for method in list_models():
        parameters = inspect.signature(model_class(method).__init__).parameters
        for parameter in parameters.values():
            pretrained = parameter.name.endswith("backbone") or parameter.name == "towers"
            if pretrained and parameter.default not in (None, "none"):
                needed.setdefault(parameter.default, []).append(method)
    return needed


def no_network() -> bool:
    """Whether the hub's name cannot be resolved: known in a moment, where its client retries for most of a minute."""
    from huggingface_hub.constants import ENDPOINT

    if urllib.request.getproxies():
        return False
    try:
        socket.getaddrinfo(urllib.parse.urlparse(ENDPOINT).hostname, 443)
    except OSError:
        return True
    return False


def file_hash(file: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with Path(file).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
