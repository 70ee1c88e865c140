"""The teacher of EfficientAD, distilled from a folder of photographs.

A small network learns to describe patches as two stages of a large ImageNet network do (Batzner et al., WACV 2024,
arXiv 2303.14535, section 3.1; settings of the unofficial code that reproduces it: 60,000 steps of 16 ImageNet images).
Any photographs will do in place of ImageNet's, the more varied the better; how much is lost with others is not known.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import timm
import torch
from safetensors.torch import save_file

from adlib.detector import choose_device
from adlib.errors import InputError
from adlib.features.backbones import Backbone
from adlib.files import check_writable, replacing
from adlib.networks.patch_description import NETWORKS, PatchDescription, PicturePairs
from adlib.networks.patch_description import distil as learn
from adlib.pretrain.photographs import Photographs


@dataclass
class Distillation:
    """What adlib.training.loop.train asks of a detector: a name, a seed, a device, a checkpoint and its identity."""

    parameters: dict
    seed_: int
    device_: torch.device
    checkpoint_: Path
    makers: list[dict] = field(default_factory=list)

    name: ClassVar[str] = "teacher"
    checkpoint_interval: ClassVar[float] = 300.0


def distil(
    images: str | Path,
    out: str | Path,
    *,
    network: str = "small",
    backbone: str = "wide_resnet101_2.tv_in1k",
    weights: str = "pretrained",
    steps: int = 60_000,
    batch_size: int = 16,
    learning_rate: float = 1e-4,
    size: int = 256,
    features: int = 384,
    width: int | None = None,
    precision: str = "float32",
    device: str = "auto",
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Distil a teacher and write its weights, float32 with the distillation's facts in the metadata. Returns `out`.

    images: a folder of photographs. out: a .safetensors file, for EfficientAD's `teacher`; named
        efficientad_teacher_<network>.safetensors and put into ADLIB_WEIGHTS it is found by itself. While distilling,
        OUT.checkpoint lies beside it: the same call goes on from there after an interruption.
    network, features, width: as of EfficientAD. backbone, weights: whose stages 2 and 3 it learns from
        (adlib.features.backbones). size: side of the teacher's images in pixels; the backbone sees twice that.
    steps, batch_size, learning_rate: of Adam with weight decay 1e-5. precision: see adlib.training.loop.
    Raises InputError for wrong arguments, and for a checkpoint of another call.
    """
    out = Path(out).expanduser()
    if out.suffix != ".safetensors":
        raise InputError(f"{out}: name a .safetensors file to write.")
    check_writable(out, "detector or weights")
    if network not in NETWORKS:
        raise InputError(f"network={network!r} must be one of {', '.join(NETWORKS)}.")
    if steps < 1:
        raise InputError(f"steps={steps} must be at least 1.")
    if size < 32 or size % 32:
        raise InputError(f"size={size} must be a multiple of 32 pixels.")
    photographs = Photographs(images)
    place = choose_device(device)
    source = Backbone(backbone, (2, 3), weights, seed).to(place)
    settings = {
        "network": network,
        "features": features,
        "width": width,
        "backbone": backbone,
        "weights": {key: value for key, value in source.origin.items() if key != "file"},
        "steps": steps,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "size": size,
        "precision": precision,
        "seed": seed,
        "photographs": len(photographs),
        "photographs_fingerprint": photographs.fingerprint(),
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        teacher = PatchDescription(network, features, width).to(place)
    job = Distillation(settings, seed, place, out.with_name(out.name + ".checkpoint"))
    losses = learn(
        job,
        teacher,
        source,
        PicturePairs(photographs, (size, size), seed),
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        precision=precision,
        progress=progress,
    )
    about = settings | {"loss": round(losses[-1]["loss"], 4), "torch": torch.__version__, "timm": timm.__version__}
    about |= {"device": torch.cuda.get_device_name(place) if place.type == "cuda" else f"{torch.get_num_threads()} CPU"}
    write_teacher(teacher, out, about)
    job.checkpoint_.unlink(missing_ok=True)
    return out


def write_teacher(teacher: PatchDescription, out: Path, about: dict) -> None:
    """The teacher's weights as safetensors, with `about` in the metadata; keys conv1.weight, conv1.bias and so on."""
    state = {key: value.detach().cpu().contiguous() for key, value in teacher.state_dict().items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as partial:
        save_file(state, partial, metadata={"adlib": json.dumps(about, sort_keys=True)})
