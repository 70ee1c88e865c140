"""Where weights come from: a folder, the hub, the package, a file.

"pretrained"  a file <name>.safetensors in the folder ADLIB_WEIGHTS if there is one, else an installed package that
              carries them (adlib.features.installed), else the hub that the network's own library names; <name> is
              timm's (adlib.features.backbones) or open_clip's (adlib.features.clip_towers)
"random"      drawn from a seed; a run with them says so
"bundled"     in the package, made by `adlib pretrain`
a path        of a .safetensors file, or of a .pth file with a state dictionary, with the library's key names

Name the weights' tag ("wide_resnet50_2.tv_in1k"): a bare name has meant different weights in different releases.
"""

import os
import socket
import urllib.parse
import urllib.request
from pathlib import Path

import torch
from safetensors.torch import load_file
from timm.models._features import FeatureGetterNet
from torch import nn

from adlib.errors import InputError
from adlib.file_hashes import file_hash

BUNDLED = Path(__file__).parent / "bundled"


def bundled_file(name: str, stages: tuple[int, ...] = (1, 2, 3)) -> Path:
    """The weights in the package for a timm name, with or without tag (adlib/features/bundled/README.md).

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
    """Copy a file with timm's key names, of any float type, into net. Returns its path and hash.

    Raises InputError for a file that is missing, unreadable, or of another network.
    """
    state = read_state(file)
    fill_from_state(net, state, file)
    return {"file": str(file), "sha256": file_hash(file)}


def read_state(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors file, or of a .pth file, which is read as tensors alone and never run.

    Raises InputError for a file of another kind, or one that is missing or unreadable.
    """
    if file.suffix not in (".safetensors", ".pth"):
        raise InputError(
            f"weights={str(file)!r}: expected 'pretrained', 'bundled', 'random' or a .safetensors path (or .pth)."
        )
    if not file.is_file():
        raise InputError(f"The weights file {file} does not exist.")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, weights_only=True, map_location="cpu")
    except Exception as error:  # safetensors and pickle raise their own types, without a common base class
        raise InputError(f"{file} cannot be read as {file.suffix[1:]}: {error}.") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    if not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise InputError(f"{file} holds no state dictionary: save the network's state_dict() there.")
    return dict(state)


def fill_from_state(net: nn.Module, state: dict[str, torch.Tensor], file: Path) -> None:
    """Copy tensors under timm's key names into net. file: where they are from, for messages.

    Raises InputError where one is missing or of another shape.
    """
    # timm's feature extractors write "stages_0" or "model.stages.0" where the whole network writes "stages.0".
    state = {key.replace(".", "_"): value for key, value in state.items()}
    inside = "model." if isinstance(net, FeatureGetterNet) else ""
    names = {key: key.removeprefix(inside).replace(".", "_") for key in net.state_dict()}
    wanted = {key: tensor for key, tensor in net.state_dict().items() if not key.endswith("num_batches_tracked")}
    missing = [key for key in wanted if names[key] not in state]
    if missing:
        raise InputError(
            f"{file} lacks {len(missing)} of {len(wanted)} tensors, {missing[0]} for one: are these weights of "
            "another network, or under other than timm's key names?"
        )
    for key, tensor in wanted.items():
        value = state[names[key]]
        if value.shape != tensor.shape:
            raise InputError(f"{file}: {key} has shape {list(value.shape)}, needed {list(tensor.shape)}.")
        tensor.copy_(value)  # state_dict() shares memory with the network


def from_hub(name: str, repository: str, filename: str, advice: str) -> Path:
    """A file of the hub, from its cache on this machine or over the network: its path.

    name: what the weights are called here. advice: how to bring them to a machine without a network.
    Raises InputError with it when the hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download

    if there := in_hub_cache(repository, filename):
        return there
    try:
        if no_network():
            raise ConnectionError("its address cannot be resolved")
        return Path(hf_hub_download(repository, filename))
    except OSError as error:
        raise InputError(
            f"No weights for {name}: not in ADLIB_WEIGHTS, and the hub was not reached ({error}). {advice}; or give "
            "weights=FILE, or backbone='resnet18' with weights='bundled', which is in the package."
        ) from error


def in_hub_cache(repository: str, filename: str) -> Path | None:
    """A file of the hub in its cache on this machine, or None."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, filename, local_files_only=True))
    except OSError:
        return None


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
