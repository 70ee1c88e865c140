"""Backbones: frozen feature extractors by timm name. Where their weights come from: adlib.features.weights."""

from pathlib import Path

import timm
import torch
from torch import nn

from adlib.errors import InputError
from adlib.features.feature_cache import looked_up
from adlib.features.weights import bundled_file, fill_from_file, from_hub, in_hub_cache, weights_file

# ImageNet statistics: what all torchvision and most timm weights were trained with.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


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


def find_weights(name: str, weights: str | Path, fetch: bool = False) -> Path | None:
    """The file that `fill_network` would read, as far as it is on this machine; None without one.

    fetch: ask the hub for it; where that fails, it stays None.
    """
    try:
        if weights == "bundled":
            return bundled_file(name)
        if weights != "pretrained":
            return None if weights == "random" else Path(weights).expanduser()
        known = timm.models.get_pretrained_cfg(name)
        hub = known.hf_hub_id if known else None
        found = weights_file(name) or (in_hub_cache(hub, "model.safetensors") if hub else None)
        return download(name) if fetch and found is None else found
    except InputError:  # fit says it better, where the network is known
        return None


def download(name: str) -> Path:
    """The weights of a timm name from its hub, or from the hub's cache on this machine.

    Returns the path of a .safetensors file. Raises InputError when there is no such file or no network.
    """
    found = timm.models.get_pretrained_cfg(name)
    if found is None or not found.hf_hub_id:
        raise InputError(f"timm names no weights for {name!r}: add a tag, e.g. resnet18.tv_in1k.")
    advice = (
        f"On a machine with a network run `adlib weights pack DIR`, bring DIR/{name}.safetensors here and set "
        "ADLIB_WEIGHTS to its folder"
    )
    return from_hub(name, found.hf_hub_id, "model.safetensors", advice)
