"""Training on collages: a small network learns the feature maps of one that was trained on photographs.

What is learned, and by which losses: adlib.pretrain.lesson.

The time is the budget: warm-up, then a cosine down to zero at its end. What was measured stands in the model card
beside the bundled weights (adlib/features/bundled).
"""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm.auto import tqdm

from adlib.detector import choose_device
from adlib.errors import InputError
from adlib.features.backbones import build_network
from adlib.features.weights import bundled_file, fill_from_file
from adlib.file_hashes import file_hash
from adlib.files import check_writable, replacing
from adlib.memory.unfinished import save_progress
from adlib.pretrain.collage import Collages
from adlib.pretrain.lesson import Lesson
from adlib.pretrain.photographs import Photographs

TEACHER = "tf_efficientnet_lite2.in1k"
SAVE_EVERY = 120  # seconds between two checkpoints
SCALE_WEIGHT = 0.1  # of the loss of how much each stage varies


def pretrain(
    out: str | Path,
    minutes: float = 60,
    *,
    backbone: str = "resnet18.tv_in1k",
    stages: tuple[int, ...] = (1, 2, 3),
    start: str | Path = "bundled",
    teacher: str = TEACHER,
    teacher_weights: str | Path = "pretrained",
    magnifications: tuple[int, ...] = (2, 1),
    sizes: tuple[int, ...] = (128, 192, 256),
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.02,
    relation_weight: float = 0.5,
    neighbour_weight: float = 0.5,
    drawings: int = 400,
    photographs: str | Path | None = None,
    share: float = 0.6,
    device: str = "auto",
    workers: int = 1,
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """Teach a feature extractor on collages of drawings and photographs; write float16 weights with timm's names.

    out: a .safetensors file, for `weights=` of every method. While training, OUT.checkpoint lies beside it: the same
        call goes on from there after an interruption, for the minutes that are left.
    minutes: of training, drawing the first pictures not counted.
    backbone, stages: the pupil: timm name, and the feature maps up to which it is trained.
    start: what it begins from: "bundled", "random" or a file of weights.
    teacher, teacher_weights: timm name of the network to learn from, and its weights (adlib.features.weights).
    magnifications: of the images that the teacher sees, one per stage of the pupil; the last counts for all after it.
    sizes: sides of the collages in pixels, one per batch. batch_size: collages of 128 pixels in a batch; of larger ones
        as many as have the same number of pixels, at least 2.
    relation_weight, neighbour_weight: of the second and the third loss. With 1 for the second a training in bfloat16
        and at a rate of 1e-3 diverged.
    photographs, share: a folder of pictures, cuts of which take the place of this share of the drawings. A few dozen,
        of anything, already help; each is decoded for every cut, so pictures beyond a megapixel are best made smaller.
    drawings: kept per worker. workers: processes that draw them; 0 draws in this one.
    seed: of weights and drawings. The budget is time, so the result depends on the machine's speed all the same: a
        second training gives features as good, not the same file.
    Raises InputError for wrong arguments, and for a checkpoint of another call.
    """
    out = Path(out).expanduser()
    if out.suffix != ".safetensors":
        raise InputError(f"{out}: name a .safetensors file to write.")
    check_writable(out, "detector or weights")
    if minutes <= 0:
        raise InputError(f"minutes={minutes} must be above 0.")
    if min(sizes) < 32 or any(size % 32 for size in sizes):
        raise InputError(f"sizes={tuple(sizes)} must be multiples of 32 pixels.")
    if not 0 <= share <= 1:
        raise InputError(f"share={share} must be from 0 (drawings alone) to 1 (photographs alone).")
    pictures = None if photographs is None else Photographs(photographs)
    place = choose_device(device)
    taught = pupil(backbone, tuple(stages), start, seed)
    lesson = Lesson(teacher, teacher_weights, taught, seed, tuple(magnifications))
    lesson.to(place, memory_format=torch.channels_last)
    settings = {
        "backbone": backbone,
        "stages": list(stages),
        "start": start if start == "random" else file_hash(start_file(backbone, stages, start)),
        "teacher": teacher,
        "teacher_weights": {key: value for key, value in lesson.teachers[0].origin.items() if key != "file"},
        "magnifications": list(magnifications),
        "sizes": list(sizes),
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "relation_weight": relation_weight,
        "neighbour_weight": neighbour_weight,
        "drawings": drawings,
        "photographs": pictures and {"number": len(pictures), "fingerprint": pictures.fingerprint(), "share": share},
        "seed": seed,
        "minutes": minutes,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    optimiser = torch.optim.AdamW(lesson.taught(), learning_rate, weight_decay=weight_decay)
    checkpoint = out.with_name(out.name + ".checkpoint")
    done = _resume(checkpoint, settings, lesson, optimiser)
    done, losses = _train(lesson, optimiser, settings, done, pictures, place, workers, checkpoint, progress)

    about = settings | done | {"seconds": round(done["seconds"]), "losses": [round(loss, 4) for loss in losses]}
    about |= {"device": torch.cuda.get_device_name(place) if place.type == "cuda" else f"{torch.get_num_threads()} CPU"}
    about |= {"torch": torch.__version__, "timm": timm.__version__}
    write_weights(lesson.pupil, out, about)
    checkpoint.unlink(missing_ok=True)
    return out


def start_file(backbone: str, stages: tuple[int, ...], start: str | Path) -> Path:
    return bundled_file(backbone, tuple(stages)) if start == "bundled" else Path(start).expanduser()


def pupil(backbone: str, stages: tuple[int, ...], start: str | Path, seed: int) -> nn.Module:
    """The network to be taught: stages of a timm network, filled with what it begins from."""
    net = build_network(backbone, stages, seed)
    if start != "random":
        fill_from_file(net, start_file(backbone, stages, start))
    return net


def write_weights(features: nn.Module, out: Path, about: dict) -> None:
    """The network as float16 safetensors, with `about` in its metadata."""
    state = {
        key: value.detach().to("cpu", torch.float16).contiguous()
        for key, value in features.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    with replacing(out) as partial:
        save_file(state, partial, metadata={"adlib": json.dumps(about, sort_keys=True)})


def _train(lesson, optimiser, settings, done, pictures, place, workers, checkpoint, progress):
    """Steps until the minutes are spent. Returns (what was done, mean losses of late)."""
    # Low precision pays on a GPU, and on CPUs that multiply in it; elsewhere it only costs.
    low = place.type == "cuda" or _multiplies_bfloat16()
    seconds, means = 60 * settings["minutes"], None
    weights = (1.0, settings["relation_weight"], settings["neighbour_weight"], SCALE_WEIGHT)
    stream = _Stream(settings, pictures, done["steps"])
    loader = iter(
        DataLoader(
            stream, None, num_workers=workers, pin_memory=place.type == "cuda", prefetch_factor=8 if workers else None
        )
    )

    def images(batch) -> torch.Tensor:
        batch = torch.as_tensor(batch).to(place, non_blocking=True)
        return batch.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last).float() / 255

    if done["steps"] == 0:
        lesson.measure([images(next(loader)[1]) for _ in range(12)])
    lesson.train()
    saved = clock = time.monotonic()
    with tqdm(
        total=round(seconds), initial=round(done["seconds"]), unit="s", desc="pretrain", disable=not progress
    ) as bar:
        while done["seconds"] < seconds:
            for group in optimiser.param_groups:
                group["lr"] = settings["learning_rate"] * learning_rate_share(done["seconds"] / seconds)
            whole, spoilt, where = next(loader)
            with torch.autocast(place.type, torch.bfloat16, enabled=low):
                losses = lesson(images(whole), images(spoilt), torch.as_tensor(where).to(place))
            loss = sum(weight * sum(part) for weight, part in zip(weights, losses, strict=True))
            if not math.isfinite(loss.item()):
                raise RuntimeError(f"The loss became {loss.item()} at step {done['steps']}: try a lower learning rate.")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()

            late = np.array([each.item() for part in losses for each in part])
            means = late if means is None else 0.98 * means + 0.02 * late
            now = time.monotonic()
            done["steps"] += 1
            done["images"] += 2 * len(whole)
            done["pixels"] += 2 * torch.as_tensor(where).numel()
            done["seconds"], clock = done["seconds"] + now - clock, now
            bar.update(min(round(done["seconds"]), bar.total) - bar.n)
            bar.set_postfix(loss=" ".join(f"{each:.3f}" for each in means), steps=done["steps"], refresh=False)
            if now - saved > SAVE_EVERY and done["seconds"] < seconds:
                _save_checkpoint(checkpoint, settings, lesson, optimiser, done)
                saved = now
    return done, [] if means is None else means.tolist()


def learning_rate_share(done: float) -> float:
    """Share of the full learning rate when `done` (0 to 1) of the time is spent: 2 % of warm-up, then a cosine."""
    return min(1.0, 0.02 + done / 0.02) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _multiplies_bfloat16() -> bool:
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


class _Stream(IterableDataset):
    """Batches of pairs of collages from as many streams as there are worker processes."""

    def __init__(self, settings: dict, pictures: Photographs | None, done: int):
        self.settings, self.pictures, self.done = settings, pictures, done

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        cv2.setNumThreads(1)
        worker = get_worker_info()
        # After an interruption the workers draw others than before.
        stream = (self.done, worker.id if worker else 0)
        share = self.settings["photographs"]["share"] if self.pictures else 0
        collages = Collages(
            self.settings["drawings"], seed=self.settings["seed"], stream=stream, photographs=self.pictures, share=share
        )
        yield from collages.batches(self.settings["batch_size"] * 128**2, tuple(self.settings["sizes"]))


def _save_checkpoint(file: Path, settings: dict, lesson: Lesson, optimiser, done: dict) -> None:
    saved = {"settings": json.dumps(settings, sort_keys=True), "done": done}
    save_progress(saved | {"lesson": lesson.taught_state(), "optimiser": optimiser.state_dict()}, file)


def _resume(file: Path, settings: dict, lesson: Lesson, optimiser) -> dict:
    """What was done before the checkpoint, which is loaded; nothing without one."""
    if not file.is_file():
        return {"steps": 0, "images": 0, "pixels": 0, "seconds": 0.0}
    saved = torch.load(file, weights_only=True, map_location="cpu")
    if saved.get("settings") != json.dumps(settings, sort_keys=True):
        raise InputError(f"{file} is from a training with other settings: repeat those, or delete it.")
    lesson.load_state_dict(saved["lesson"], strict=False)  # all but the teacher, which has its own file
    optimiser.load_state_dict(saved["optimiser"])
    return saved["done"]
