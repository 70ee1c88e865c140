"""Training on collages: a small network learns the feature maps of one that was trained on photographs.

The teacher (EfficientNet-Lite2 by default, which pip brings: adlib.features.installed) sees drawn collages, and so does
the pupil: part of a timm network, up to `stages`. The teacher sees them magnified, as EfficientAD's does: of two of its
maps with the same grid the deeper one, of the larger image, finds more small defects. Two losses, per map of the
teacher:

- the teacher's maps, normalised per channel, are read off the pupil's map of the same or the next finer grid by a small
  head that is thrown away: smooth L1, as the teacher of EfficientAD is made;
- the distances between places in the pupil's map are those between places in the teacher's, up to one factor (Park et
  al., "Relational Knowledge Distillation", CVPR 2019, arXiv 1904.05068): a head can unravel what a memory bank cannot.

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
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from tqdm.auto import tqdm

from adlib.detector import choose_device
from adlib.errors import InputError
from adlib.features.backbones import Backbone, build_network, hold_statistics, normalised
from adlib.features.weights import bundled_file, fill_from_file
from adlib.file_hashes import file_hash
from adlib.pretrain.collage import Collages
from adlib.pretrain.photographs import Photographs

TEACHER = "tf_efficientnet_lite2.in1k"
SAVE_EVERY = 120  # seconds between two checkpoints


def pretrain(
    out: str | Path,
    minutes: float = 60,
    *,
    backbone: str = "resnet18.tv_in1k",
    stages: tuple[int, ...] = (1, 2, 3),
    start: str | Path = "bundled",
    teacher: str = TEACHER,
    teacher_weights: str | Path = "pretrained",
    magnifications: tuple[int, ...] = (2,),
    sizes: tuple[int, ...] = (128, 192, 256),
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.02,
    relation_weight: float = 0.5,
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
    magnifications: of the images that the teacher sees, each for a set of maps, that much finer than its strides say.
        Both 1 and 2 gave features between those of either alone.
    sizes: sides of the collages in pixels, one per batch. batch_size: collages of 128 pixels in a batch; of larger ones
        as many as have the same number of pixels, at least 2.
    relation_weight: of the second loss. With 1 a training in bfloat16 diverged.
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
    if minutes <= 0:
        raise InputError(f"minutes={minutes} must be above 0.")
    if min(sizes) < 32 or any(size % 32 for size in sizes):
        raise InputError(f"sizes={tuple(sizes)} must be multiples of 32 pixels.")
    if not 0 <= share <= 1:
        raise InputError(f"share={share} must be from 0 (drawings alone) to 1 (photographs alone).")
    pictures = None if photographs is None else Photographs(photographs)
    place = choose_device(device)
    taught = pupil(backbone, tuple(stages), start, seed)
    lesson = Lesson(Backbone(teacher, (1, 2, 3, 4), teacher_weights, seed), taught, seed, tuple(magnifications))
    lesson.to(place, memory_format=torch.channels_last)
    settings = {
        "backbone": backbone,
        "stages": list(stages),
        "start": start if start == "random" else file_hash(start_file(backbone, stages, start)),
        "teacher": teacher,
        "teacher_weights": {key: value for key, value in lesson.teacher.origin.items() if key != "file"},
        "magnifications": list(magnifications),
        "sizes": list(sizes),
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "relation_weight": relation_weight,
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


class Lesson(nn.Module):
    """Teacher, pupil, and a head per map of the teacher.

    teacher: a Backbone. pupil: a features_only network of timm's. seed: of the heads.
    magnifications: of the images that the teacher sees.
    targets: (magnification, stage's place in the teacher) of every map that is no finer than the pupil's finest.
    means, deviations: of the teacher's channels per map, as `measure` finds them.
    Raises InputError for a magnification below 1, and where the pupil's last stage would have nothing to learn.
    """

    def __init__(self, teacher: Backbone, pupil: nn.Module, seed: int, magnifications: tuple[int, ...] = (2,)):
        super().__init__()
        self.teacher, self.pupil, self.magnifications = teacher, pupil, magnifications
        if not magnifications or min(magnifications) < 1:
            raise InputError(f"magnifications={magnifications} must be whole numbers from 1.")
        strides = pupil.feature_info.reduction()
        wanted = {
            (times, place): stride // times
            for times in magnifications
            for place, stride in enumerate(teacher.strides)
            if stride % times == 0 and stride // times >= strides[0]
        }
        if max(wanted.values(), default=0) < strides[-1]:
            raise InputError(
                f"magnifications={magnifications}: no map of {teacher.name} is as coarse as the pupil's last stage (one"
                f" value for {strides[-1]} pixels), which would learn nothing. Take smaller ones, or fewer stages."
            )
        self.targets = list(wanted)
        # For every map of the teacher: the coarsest map of the pupil that is not coarser, and how many times finer.
        self.sources = [max(i for i, own in enumerate(strides) if own <= stride) for stride in wanted.values()]
        self.factors = [stride // strides[i] for stride, i in zip(wanted.values(), self.sources, strict=True)]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            widths = pupil.feature_info.channels()
            pairs = zip(self.sources, self.targets, strict=True)
            self.heads = nn.ModuleList(_head(widths[source], teacher.channels[place]) for source, (_, place) in pairs)
        hold_statistics(self, pupil)
        for number, (_, place) in enumerate(self.targets):
            self.register_buffer(f"mean_{number}", torch.zeros(1, teacher.channels[place], 1, 1))
            self.register_buffer(f"deviation_{number}", torch.ones(1, teacher.channels[place], 1, 1))

    def taught(self) -> list[nn.Parameter]:
        return [*self.pupil.parameters(), *self.heads.parameters()]

    def taught_state(self) -> dict[str, torch.Tensor]:
        """Everything but the teacher."""
        return {key: value for key, value in self.state_dict().items() if not key.startswith("teacher.")}

    @torch.no_grad()
    def measure(self, batches: list[torch.Tensor]) -> None:
        """Mean and deviation of the teacher's channels on some batches of images."""
        maps = [self.taught_maps(images) for images in batches]
        for number, of_batches in enumerate(zip(*maps, strict=True)):
            values = torch.cat([each.float().transpose(0, 1).flatten(1) for each in of_batches], 1)
            getattr(self, f"mean_{number}").copy_(values.mean(1).view(1, -1, 1, 1))
            getattr(self, f"deviation_{number}").copy_(values.std(1).view(1, -1, 1, 1) + 1e-3)

    def taught_maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """What the teacher says of images float [B, 3, H, W] in [0, 1]: a map per target."""
        maps = {}
        for times in self.magnifications:
            seen = F.interpolate(images, scale_factor=times, mode="bicubic").clamp(0, 1) if times > 1 else images
            maps |= {(times, place): one for place, one in enumerate(self.teacher(seen))}
        return [maps[target] for target in self.targets]

    def forward(self, images: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Of images float [B, 3, H, W] in [0, 1]: the losses of maps, and those of distances, one per map."""
        wanted = [maps.float() for maps in self.taught_maps(images)]
        seen = self.pupil(normalised(self, images))
        of_maps, of_distances = [], []
        for number, (target, source, factor) in enumerate(zip(wanted, self.sources, self.factors, strict=True)):
            normal = (target - getattr(self, f"mean_{number}")) / getattr(self, f"deviation_{number}")
            own = F.avg_pool2d(seen[source], factor) if factor > 1 else seen[source]
            of_maps.append(F.smooth_l1_loss(self.heads[number](own).float(), normal.clamp(-5, 5)))
            if factor == 1:
                of_distances.append(distance_loss(own.float(), target))
        return of_maps, of_distances


def _head(channels: int, wanted: int) -> nn.Sequential:
    hidden = [nn.Conv2d(channels, 2 * channels, 1), nn.BatchNorm2d(2 * channels), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Conv2d(2 * channels, wanted, 1))


def distance_loss(own: torch.Tensor, wanted: torch.Tensor, places: int = 64) -> torch.Tensor:
    """How far the distances between places differ, both divided by their mean: smooth L1, a scalar.

    own, wanted: float [B, C, h, w] and [B, D, h, w]. Distances are those among `places` random places of one image and
    as many of another.
    """
    count = own.shape[0] // 2 * 2
    chosen = torch.randint(own.shape[2] * own.shape[3], (count, 1, places), device=own.device)
    pairs = torch.triu_indices(2 * places, 2 * places, 1, device=own.device)
    tables = []
    # In full precision: distances of like places are small differences of large products.
    with torch.autocast(own.device.type, enabled=False):
        for maps in (own[:count].float(), wanted[:count].float()):
            cells = maps.flatten(2).gather(2, chosen.expand(-1, maps.shape[1], -1)).transpose(1, 2)
            cells = cells.reshape(count // 2, 2 * places, -1)
            cells = cells - cells.mean(1, keepdim=True)
            products = cells @ cells.transpose(1, 2)
            squares = products.diagonal(dim1=1, dim2=2)
            distances = (squares[:, :, None] + squares[:, None] - 2 * products)[:, *pairs].clamp(min=0)
            # The root of nothing has an infinite slope: a little is added, of the distances' own size.
            distances = (distances + 1e-3 * distances.mean().detach() + 1e-12).sqrt()
            tables.append(distances / distances.mean())
        return F.smooth_l1_loss(*tables, beta=0.1)


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


def _train(lesson, optimiser, settings, done, pictures, place, workers, checkpoint, progress):
    """Steps until the minutes are spent. Returns (what was done, mean losses of late)."""
    # Low precision pays on a GPU, and on CPUs that multiply in it; elsewhere it only costs.
    low = place.type == "cuda" or _multiplies_bfloat16()
    seconds, means = 60 * settings["minutes"], None
    stream = _Stream(settings, pictures, done["steps"])
    loader = iter(
        DataLoader(
            stream, None, num_workers=workers, pin_memory=place.type == "cuda", prefetch_factor=8 if workers else None
        )
    )

    def images() -> torch.Tensor:
        batch = torch.as_tensor(next(loader)).to(place, non_blocking=True)
        return batch.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last).float() / 255

    if done["steps"] == 0:
        lesson.measure([images() for _ in range(12)])
    lesson.train()
    saved = clock = time.monotonic()
    with tqdm(
        total=round(seconds), initial=round(done["seconds"]), unit="s", desc="pretrain", disable=not progress
    ) as bar:
        while done["seconds"] < seconds:
            for group in optimiser.param_groups:
                group["lr"] = settings["learning_rate"] * learning_rate_share(done["seconds"] / seconds)
            batch = images()
            with torch.autocast(place.type, torch.bfloat16, enabled=low):
                of_maps, of_distances = lesson(batch)
            loss = sum(of_maps) + settings["relation_weight"] * sum(of_distances)
            if not math.isfinite(loss.item()):
                raise RuntimeError(f"The loss became {loss.item()} at step {done['steps']}: try a lower learning rate.")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()

            late = np.array([each.item() for each in (*of_maps, *of_distances)])
            means = late if means is None else 0.98 * means + 0.02 * late
            now = time.monotonic()
            done["steps"] += 1
            done["images"] += len(batch)
            done["pixels"] += batch[:, 0].numel()
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
    """Batches of collages from as many streams as there are worker processes."""

    def __init__(self, settings: dict, pictures: Photographs | None, done: int):
        self.settings, self.pictures, self.done = settings, pictures, done

    def __iter__(self) -> Iterator[np.ndarray]:
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
    partial = file.with_name(file.name + ".partial")
    saved = {"settings": json.dumps(settings, sort_keys=True), "done": done}
    torch.save(saved | {"lesson": lesson.taught_state(), "optimiser": optimiser.state_dict()}, partial)
    partial.replace(file)


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
