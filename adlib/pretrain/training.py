"""Training on collages: every cell of the last feature map names the class of the drawing it lies in.

The network is the part of a timm network up to `stages`; a small classifier on its last feature map predicts the class
at a quarter and three quarters of each cell, by cross-entropy with label smoothing. The time is the budget: warm-up,
then a cosine down to zero at its end. What was measured about the choices stands in the model card beside the bundled
weights (adlib/features/bundled).
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
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm.auto import tqdm

from adlib.detector import choose_device
from adlib.errors import InputError
from adlib.features.backbones import MEAN, STD
from adlib.features.weights import file_hash, fill_from_file
from adlib.pretrain.collage import Collages


def pretrain(
    out: str | Path,
    minutes: float = 60,
    *,
    backbone: str = "resnet18",
    stages: tuple[int, ...] = (1, 2, 3),
    classes: int = 1000,
    size: int = 96,
    batch_size: int = 48,
    learning_rate: float = 0.1,
    weight_decay: float = 3e-4,
    device: str = "auto",
    workers: int = 1,
    seed: int = 0,
    on: str | Path | None = None,
    start: str | Path | None = None,
    progress: bool = True,
) -> Path:
    """Train a feature extractor on formula-drawn collages; write float16 weights with timm's names. Returns `out`.

    out: a .safetensors file, for `weights=` of every method. While training, OUT.checkpoint lies beside it: the same
        call goes on from there after an interruption, for the minutes that are left.
    minutes: of training, drawing the first pictures not counted.
    backbone, stages: timm name, and the feature maps up to which it is trained.
    classes, size, batch_size: of the collages. workers: processes that draw them; 0 draws in this one.
    on: a folder of your own normal images. Every step then also asks that two photographs of one place of them, with
        other light, noise and blur, get similar features, and those of different places different ones
        (adlib.pretrain.own_images). Begin from a trained file (`start`), else features have to be learned anew.
    start: a .safetensors file to begin from; None begins from random weights.
    seed: of weights, recipes and drawings. The budget is time, so the result depends on the machine's speed all the
        same: a second training gives features as good, not the same file.
    Raises InputError for wrong arguments, and for a checkpoint of another call.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise InputError(f"{out}: name a .safetensors file to write.")
    if minutes <= 0:
        raise InputError(f"minutes={minutes} must be above 0.")
    out.parent.mkdir(parents=True, exist_ok=True)
    settings = {
        "backbone": backbone,
        "stages": list(stages),
        "classes": classes,
        "size": size,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "seed": seed,
        "minutes": minutes,
        "on": None if on is None else str(Path(on).expanduser().resolve()),
        "start": None if start is None else file_hash(_existing(start)),
    }
    place = choose_device(device)
    torch.manual_seed(seed)
    trainee = Trainee(backbone, tuple(stages), classes).to(place, memory_format=torch.channels_last)
    if start is not None:
        fill_from_file(trainee.features, Path(start).expanduser())
    optimiser = torch.optim.SGD(
        trainee.parameters(), learning_rate, momentum=0.9, weight_decay=weight_decay, nesterov=True
    )
    own_loss = None
    if on is not None:
        from adlib.pretrain.own_images import OwnImages

        own_loss = OwnImages(on, trainee, size, batch_size, seed).loss

    checkpoint = out.with_name(out.name + ".checkpoint")
    spent, steps = _resume(checkpoint, settings, trainee, optimiser)
    batches = _batches(settings, steps, workers, place)
    spent, steps, loss = _train(
        trainee, optimiser, batches, own_loss, place, 60 * minutes, spent, steps, settings, checkpoint, progress
    )

    about = settings | {"steps": steps, "images": steps * batch_size, "seconds": round(spent), "loss": round(loss, 3)}
    about |= {"device": torch.cuda.get_device_name(place) if place.type == "cuda" else f"{torch.get_num_threads()} CPU"}
    about |= {"torch": torch.__version__, "timm": timm.__version__}
    write_weights(trainee.features, out, about)
    checkpoint.unlink(missing_ok=True)
    return out


class Trainee(nn.Module):
    """Stages of a timm network, and a small classifier on the last of them.

    Its hidden layer keeps the last stage from having to tell classes apart by itself: measured, features detect better.

    features: loads wherever timm's features_only network of the same name and stages does.
    forward(x): x float [B, 3, H, W] in [0, 1] -> logits float32 [B, classes, h, w].
    """

    def __init__(self, backbone: str, stages: tuple[int, ...], classes: int):
        super().__init__()
        try:
            self.features = timm.create_model(backbone, pretrained=False, features_only=True, out_indices=stages)
        except (RuntimeError, IndexError, AssertionError) as error:
            raise InputError(f"timm cannot build {backbone!r} with feature stages {stages}: {error}.") from error
        channels = self.features.feature_info.channels()[-1]
        hidden = [nn.Conv2d(channels, 512, 3, padding=1, bias=False), nn.BatchNorm2d(512), nn.ReLU()]
        self.classifier = nn.Sequential(*hidden, nn.Conv2d(512, classes, 1))
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def maps(self, x: torch.Tensor) -> list[torch.Tensor]:
        return self.features(((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.maps(x)[-1])


def cell_loss(logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.1) -> torch.Tensor:
    """Cross-entropy of each cell against the labels at four places in it, with label smoothing.

    logits: [B, classes, h, w]; labels: int64 [B, H, W], H a multiple of h. Four places stand for the share of each
    class in the cell, which at a border is more than one.
    """
    cell = labels.shape[-1] // logits.shape[-1]
    log_shares = F.log_softmax(logits.float(), dim=1)
    low, high = cell // 4, 3 * cell // 4
    corners = [labels[:, row::cell, column::cell] for row in (low, high) for column in (low, high)]
    right = sum(F.nll_loss(log_shares, corner) for corner in corners) / 4
    return (1 - smoothing) * right - smoothing * log_shares.mean()


def write_weights(features: nn.Module, out: Path, about: dict) -> None:
    """The network as float16 safetensors, with `about` in its metadata."""
    state = {
        key: value.detach().to("cpu", torch.float16).contiguous()
        for key, value in features.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    partial = out.with_name(out.name + ".partial")
    save_file(state, partial, metadata={"adlib": json.dumps(about, sort_keys=True)})
    partial.replace(out)


def _train(trainee, optimiser, batches, own_loss, place, seconds, spent, steps, settings, checkpoint, progress):
    """Steps until the seconds are spent. Returns (seconds spent, steps done, mean loss of late)."""
    # Low precision pays on a GPU, and on CPUs that multiply in it; elsewhere it only costs.
    precise = place.type == "cpu" and not _multiplies_bfloat16()
    trainee.train()
    mean_loss, saved, clock = None, time.monotonic(), None
    with tqdm(total=round(seconds), initial=round(spent), unit="s", desc="pretrain", disable=not progress) as bar:
        for images, labels in batches:
            clock = clock or time.monotonic()  # starts when the first batch is there
            rate = settings["learning_rate"] * learning_rate_share(spent / seconds)
            for group in optimiser.param_groups:
                group["lr"] = rate
            images = images.to(place, non_blocking=True).permute(0, 3, 1, 2).float() / 255
            labels = labels.to(place, non_blocking=True)
            with torch.autocast(place.type, torch.bfloat16, enabled=not precise):
                logits = trainee(images)
                extra = own_loss() if own_loss else 0.0
            loss = cell_loss(logits, labels) + extra
            if not math.isfinite(loss.item()):
                raise RuntimeError(f"The loss became {loss.item()} at step {steps}: try a lower learning rate.")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

            steps += 1
            mean_loss = loss.item() if mean_loss is None else 0.98 * mean_loss + 0.02 * loss.item()
            now = time.monotonic()
            spent, clock = spent + now - clock, now
            bar.update(min(round(spent), bar.total) - bar.n)
            bar.set_postfix(loss=f"{mean_loss:.3f}", steps=steps, refresh=False)
            if spent >= seconds:
                break
            if now - saved > 120:
                _save_checkpoint(checkpoint, settings, trainee, optimiser, spent, steps)
                saved = now
    return spent, steps, mean_loss


def learning_rate_share(done: float) -> float:
    """Share of the full learning rate when `done` (0 to 1) of the time is spent: 2 % of warm-up, then a cosine."""
    return min(1.0, 0.02 + done / 0.02) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _multiplies_bfloat16() -> bool:
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


class _Stream(IterableDataset):
    """Collages from as many streams as there are worker processes."""

    def __init__(self, classes: int, size: int, seed: int, done: int):
        self.classes, self.size, self.seed, self.done = classes, size, seed, done

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        cv2.setNumThreads(1)
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        # All workers together keep 8 drawings of each class; after an interruption they draw others than before.
        yield from Collages(
            self.classes, self.size, per_class=max(2, 8 // workers), seed=self.seed, stream=(self.done, number)
        )


def _batches(settings: dict, done: int, workers: int, place: torch.device) -> DataLoader:
    stream = _Stream(settings["classes"], settings["size"], settings["seed"], done)
    return DataLoader(stream, settings["batch_size"], num_workers=workers, pin_memory=place.type == "cuda")


def _existing(file: str | Path) -> Path:
    file = Path(file).expanduser()
    if not file.is_file():
        raise InputError(f"The weights file {file} does not exist.")
    return file


def _save_checkpoint(file: Path, settings: dict, trainee: nn.Module, optimiser, spent: float, steps: int) -> None:
    partial = file.with_name(file.name + ".partial")
    torch.save(
        {
            "settings": json.dumps(settings, sort_keys=True),
            "trainee": trainee.state_dict(),
            "optimiser": optimiser.state_dict(),
            "spent": spent,
            "steps": steps,
        },
        partial,
    )
    partial.replace(file)


def _resume(file: Path, settings: dict, trainee: nn.Module, optimiser) -> tuple[float, int]:
    """(seconds spent, steps done) of a checkpoint that is loaded, (0, 0) without one."""
    if not file.is_file():
        return 0.0, 0
    saved = torch.load(file, weights_only=True, map_location="cpu")
    if saved["settings"] != json.dumps(settings, sort_keys=True):
        raise InputError(f"{file} is from a training with other settings: repeat those, or delete it.")
    trainee.load_state_dict(saved["trainee"])
    optimiser.load_state_dict(saved["optimiser"])
    return saved["spent"], saved["steps"]
