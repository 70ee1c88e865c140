"""Training on collages: a small network learns the feature maps of one that was trained on photographs.

The teacher (EfficientNet-Lite2 by default, which pip brings: adlib.features.installed) sees drawn collages, and so does
the pupil: part of a timm network, up to `stages`. Each of the pupil's stages learns from the teacher's stage of the
same grid. The first sees the collages magnified, as EfficientAD's teacher does: of two of its maps with the same grid
the deeper one, of the larger image, finds more small defects. Three losses per stage:

- the teacher's maps, normalised per channel, are read off the pupil's by a small head that is thrown away: smooth L1,
  as the teacher of EfficientAD is made;
- the distances between places in the pupil's map are those between places in the teacher's, up to one factor (Park et
  al., "Relational Knowledge Distillation", CVPR 2019, arXiv 1904.05068): a head can unravel what a memory bank cannot;
- so are the distances from places of a collage with defects to the nearest places of the same collage without: what a
  memory bank says of an image. Their logarithms, as a small distance counts as much as a large one.

None of them knows how large the pupil's values are, but methods that join stages do: what varies more counts more. A
fourth, small loss makes every stage vary half as much as the one before it, for defects are seen best in fine maps.

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
from timm.models.efficientnet import EfficientNetFeatures
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
DEVIATION = 0.4  # of the first stage's channels, root of the mean square; half of it of the second's, and so on
SCALE_WEIGHT = 0.1  # of the loss that brings it there


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


class Lesson(nn.Module):
    """Teacher, pupil, and a head per stage of the pupil.

    teacher, weights: a timm name, and where its weights come from (adlib.features.weights).
    pupil: a features_only network of timm's. seed: of the heads, and of a teacher's random weights.
    magnifications: of the images that the teacher sees, one per stage of the pupil; the last for all after it.
    teachers: the teacher as far as each magnification needs it, so that nothing is computed in vain.
    means, deviations: of the teacher's channels per stage, as `measure` finds them.
    Raises InputError for a magnification below 1, and where the teacher has no map of a stage's grid.
    """

    def __init__(
        self,
        teacher: str,
        weights: str | Path,
        pupil: nn.Module,
        seed: int,
        magnifications: tuple[int, ...] = (2, 1),
    ):
        super().__init__()
        self.pupil = pupil
        strides, widths = pupil.feature_info.reduction(), pupil.feature_info.channels()
        if not magnifications or min(magnifications) < 1 or len(magnifications) > len(strides):
            raise InputError(
                f"magnifications={magnifications} must be whole numbers from 1, at most one per stage of the pupil."
            )
        each = [*magnifications, *[magnifications[-1]] * (len(strides) - len(magnifications))]
        with torch.device("meta"):
            has = build_network(teacher, (1, 2, 3, 4), seed).feature_info.reduction()
        seen = [stride * times for stride, times in zip(strides, each, strict=True)]  # by the teacher, for one value
        if missing := [stride for stride in seen if stride not in has]:
            raise InputError(
                f"magnifications={magnifications}: {teacher} has no map with one value for {missing[0]} pixels, which a"
                f" stage of the pupil would learn from; it has them for {', '.join(map(str, has))}. Take smaller ones,"
                " or fewer stages."
            )
        self.magnifications = sorted(set(each))
        stages = {times: [] for times in self.magnifications}
        for times, stride in zip(each, seen, strict=True):
            stages[times].append(1 + has.index(stride))
        self.teachers = nn.ModuleList(_cut(Backbone(teacher, tuple(own), weights, seed)) for own in stages.values())
        # Per stage of the pupil: which teacher, and which of its maps.
        self.targets = [
            (self.magnifications.index(times), stages[times].index(1 + has.index(stride)))
            for times, stride in zip(each, seen, strict=True)
        ]
        wanted = [self.teachers[teacher].channels[place] for teacher, place in self.targets]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.heads = nn.ModuleList(map(_head, widths, wanted))
        hold_statistics(self, pupil)
        for number, channels in enumerate(wanted):
            self.register_buffer(f"mean_{number}", torch.zeros(1, channels, 1, 1))
            self.register_buffer(f"deviation_{number}", torch.ones(1, channels, 1, 1))

    def taught(self) -> list[nn.Parameter]:
        return [*self.pupil.parameters(), *self.heads.parameters()]

    def taught_state(self) -> dict[str, torch.Tensor]:
        """Everything but the teacher."""
        return {key: value for key, value in self.state_dict().items() if not key.startswith("teachers.")}

    @torch.no_grad()
    def measure(self, batches: list[torch.Tensor]) -> None:
        """Mean and deviation of the teacher's channels on some batches of images."""
        maps = [self.taught_maps(images) for images in batches]
        for number, of_batches in enumerate(zip(*maps, strict=True)):
            values = torch.cat([each.float().transpose(0, 1).flatten(1) for each in of_batches], 1)
            getattr(self, f"mean_{number}").copy_(values.mean(1).view(1, -1, 1, 1))
            getattr(self, f"deviation_{number}").copy_(values.std(1).view(1, -1, 1, 1) + 1e-3)

    def taught_maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """What the teacher says of images float [B, 3, H, W] in [0, 1]: a map per stage of the pupil."""
        maps = []
        for times, teacher in zip(self.magnifications, self.teachers, strict=True):
            seen = F.interpolate(images, scale_factor=times, mode="bicubic").clamp(0, 1) if times > 1 else images
            maps.append(teacher(seen))
        return [maps[teacher][place] for teacher, place in self.targets]

    def forward(self, whole: torch.Tensor, spoilt: torch.Tensor, where: torch.Tensor) -> list[list[torch.Tensor]]:
        """Of pairs float [B, 3, H, W] in [0, 1] and bool [B, H, W]: losses of maps, distances, neighbours, scale."""
        count, images = len(whole), torch.cat([whole, spoilt])
        wanted = [maps.float() for maps in self.taught_maps(images)]
        seen = self.pupil(normalised(self, images))
        of_maps, of_distances, of_neighbours, of_scale = [], [], [], []
        pooled = bool(torch.rand(()) < 0.5)  # half the time as PatchCore sees them
        for number, (own, target) in enumerate(zip(seen, wanted, strict=True)):
            normal = (target - getattr(self, f"mean_{number}")) / getattr(self, f"deviation_{number}")
            of_maps.append(F.smooth_l1_loss(self.heads[number](own).float(), normal.clamp(-5, 5)))
            own = own.float()
            of_distances.append(distance_loss(own[count:], target[count:]))
            deviation = own.var((0, 2, 3)).mean().add(1e-12).sqrt()
            of_scale.append((deviation * 2**number / DEVIATION).log().square())
            if pooled:
                own, target = (F.avg_pool2d(maps, 3, 1, 1) for maps in (own, target))
            of_neighbours.append(neighbour_loss(own.split(count), target.split(count), where))
        return [of_maps, of_distances, of_neighbours, of_scale]


def _cut(backbone: Backbone) -> Backbone:
    """Without the blocks after the last stage asked for, which timm's EfficientNets compute all the same."""
    if isinstance(backbone.net, EfficientNetFeatures):
        backbone.net.blocks = backbone.net.blocks[
            : max(info["stage"] for info in backbone.net.feature_info.get_dicts())
        ]
    return backbone


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


def neighbour_loss(
    own: tuple[torch.Tensor, torch.Tensor],
    wanted: tuple[torch.Tensor, torch.Tensor],
    where: torch.Tensor,
    places: int = 64,
) -> torch.Tensor:
    """How far logarithms of distances to the nearest places differ, both as shares of the mean distance: smooth L1.

    own, wanted: maps float [B, C, h, w] and [B, D, h, w] of whole images and of spoilt ones. where: bool [B, H, W].
    From `places` of each spoilt image where it is spoilt, and twice as many anywhere, to the place of the whole one
    that is nearest in the teacher's map, to the one that is nearest in the pupil's, and to a random one.
    """
    cover = F.adaptive_avg_pool2d(where[:, None].float(), own[0].shape[2:]).flatten(1)
    # Where nothing is spoilt, anywhere.
    spoilt = torch.multinomial(torch.where(cover > 0.05, 1.0, 1e-6), places, replacement=True)
    anywhere = torch.randint(cover.shape[1], (len(cover), 2 * places), device=cover.device)
    chosen = torch.cat([spoilt, anywhere], 1)[:, None]
    # In full precision, as distance_loss.
    with torch.autocast(cover.device.type, enabled=False):
        banks, asked = [], []
        for whole, spoilt in (own, wanted):
            bank = whole.float().flatten(2).transpose(1, 2)
            cells = spoilt.float().flatten(2).gather(2, chosen.expand(-1, whole.shape[1], -1)).transpose(1, 2)
            centre = bank.mean(1, keepdim=True).detach()
            banks.append(bank - centre)
            asked.append(cells - centre)
        with torch.no_grad():
            near = [
                (bank.square().sum(2)[:, None] - 2 * cells @ bank.transpose(1, 2)).argmin(2)
                for bank, cells in zip(banks, asked, strict=True)
            ]
        near.append(torch.randint(cover.shape[1], near[0].shape, device=cover.device))
        logarithms = []
        for bank, cells in zip(banks, asked, strict=True):
            others = bank.gather(1, torch.cat(near, 1)[..., None].expand(-1, -1, bank.shape[2]))
            squares = (cells.repeat(1, 3, 1) - others).square().sum(2)
            mean = squares[:, -near[-1].shape[1] :].mean(1, keepdim=True)
            logarithms.append(0.5 * (squares / (mean + 1e-12) + 1e-3).log())
        return F.smooth_l1_loss(*logarithms, beta=0.2)


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
