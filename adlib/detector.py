"""The detector: what all methods share. Devices, batches, progress, saving; nothing about any one method.

A method subclasses `Detector` and writes
    facts          what a person who chooses a method asks first
    __init__       its parameters, annotated as adlib.parameters says, which the base class checks and stores
    fit_images     learns from normal images, into attributes that end in "_"
    score_batch    images [B, 3, H, W] -> scores [B], maps [B, H, W] or None
    build          only with networks: makes them anew for a saved detector
Networks and tensors in attributes that end in "_" are saved, loaded and moved to a device without further ado; `state`,
`build_for` and `to` are for what is learned in another form.
"""

import glob
import inspect
import json
import math
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from adlib.decoding.tiles import Mosaic
from adlib.errors import InputError, did_you_mean
from adlib.features.feature_cache import LIMIT, FeatureCache
from adlib.files import replacing
from adlib.gpu_memory import SHORT, Parts, part_of, shortages
from adlib.images import ImageSet
from adlib.kept_memory import freed_memory_kept
from adlib.parameters import Count, Range, checked, keeping
from adlib.predictions import Predictions
from adlib.samples import UNKNOWN
from adlib.training_set import TRAINING_SETTINGS

TOLD = ("origin", "choices")  # what a detector says of its fit, and its file keeps
MAPS_IN_MEMORY = 2 * 10**9  # bytes of maps beyond which they are kept in a file while predicting

# {}: what is compared with, "the paper's were"
BUNDLED = "Bundled weights: taught on drawn images and a few photographs by an ImageNet network, where {} ImageNet's."
_WEIGHTS_WARNINGS = {
    "random": "Random weights: the features were never trained, so detection is far below the method's.",
    "bundled": BUNDLED.format("the paper's were"),
}


@dataclass(frozen=True)
class Facts:
    """What a person who chooses a method asks first, and its parameters do not tell.

    family: what it does with normal images. year: of its publication. maps: whether it also scores pixels.
    trained: whether gradients change a network; if not, fit is one pass over the images.
    data: what fit takes besides normal images of the category. Where "drawn without" stands, adlib has a substitute,
        and a run with it warns.
    joint: "meant" for one model of all categories of a data set; "possible" if its paper has one per category and fit
        takes images of several all the same; "no target" if fit never sees the target.
    surrogate: whether only part of the method is published, so that ours stands in for it: tables say so.
    outlines: whether its maps outline defects. Where not, they explain the image's score (class activation maps), and
        no metric of their pixels is defined.
    needs: trained weights without which it cannot know anything, in words. A run with random ones shows that the code
        works, and has a dash in tables.
    """

    family: str = ""
    year: int | None = None
    data: str = ""
    maps: bool = True
    trained: bool = True
    joint: str = "possible"
    surrogate: bool = False
    outlines: bool = True
    needs: str = ""


def room_for_maps(shape: tuple[int, int, int]) -> np.ndarray:
    """Zeros float32 [N, H, W], in main memory up to MAPS_IN_MEMORY, else in a file that vanishes with the array."""
    if 4 * math.prod(shape) <= MAPS_IN_MEMORY:
        return np.zeros(shape, np.float32)
    return np.memmap(tempfile.TemporaryFile(), np.float32, "w+", shape=shape)


def remembered(told: property) -> property:
    """A property of what fit has told, which a loaded detector answers with what its file says."""

    @wraps(told.fget)
    def get(self):
        name = told.fget.__name__
        return self.told[name] if name in self.told else told.fget(self)

    return property(get)


def saved_checksum(about: str, tensors: dict[str, torch.Tensor]) -> str:
    """CRC-32 of a saved detector, 8 hexadecimal digits: of its description, and of each tensor's name, type, shape and
    bytes, in the order of their names.

    about: the description, as JSON. tensors: contiguous ones on the CPU. zlib's CRC-32 is the fastest hash of the
    standard library (50 ms for 100 MB on one core; SHA-256 takes 140 ms) and finds damage, not forgery.
    """
    found = zlib.crc32(about.encode("utf-8"))
    for name, tensor in sorted(tensors.items()):
        found = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), found)
        found = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy(), found)
    return f"{found:08x}"


class Detector:
    """Base of all methods. Higher scores are more anomalous, for images and for pixels."""

    name: str  # as in adlib.models: the name of the method's file, or of its entry point
    facts = Facts()
    quick: dict = {}  # parameters with which it learns within seconds, for the tests of a method from outside of adlib
    # How the method's official code prepares its images (adlib.images); a subclass names what differs from its parent.
    image_defaults: dict = {"size": 256, "crop": None, "resize": "antialias", "sides": "both"}
    checkpoint_interval: float = 300.0  # seconds between two writes of a training's checkpoint
    accepts_anomalous: bool = False  # whether fit also learns from images that are labelled anomalous
    side_multiple: int = 1  # of which the sides of images are multiples, in pixels
    smallest_side: int = 1  # below which a batch or a view has too few values
    images_: dict | None = None  # settings of the ImageSet that fit has seen; None for files of versions before
    why_no_graph: str = ""  # a sentence why the method cannot be exported (adlib.export); "" where that can be tried
    threshold_: dict | None = None  # adlib.screening.Threshold as plain values, where one was chosen
    learned_files: list[str] | None = None  # picture_hashes of adlib.samples of what fit saw, where it was noted
    category_: str = ""  # what images show of which it is not said: of one's own images the one kind that was learned
    done_in_parts: dict[str, dict[str, int]] = {}  # by the last "fit" and "predict", where a GPU's memory was short
    makers: list[dict] = []  # who had a part in a fit that keeps a checkpoint, this process first (Unfinished)
    told: dict = {}  # origin and choices as a file has them, for a loaded detector
    chosen_epoch: int | None = None  # from 1: whose weights remained, where images chose it (adlib.training.loop)
    feature_cache: FeatureCache | None = None  # where frozen features are shared, see `share`
    learns_from: tuple[
        str, ...
    ] = ()  # data sets that a zero-shot method is fitted on, instead of the one it is tried on

    def __init_subclass__(cls):
        super().__init_subclass__()
        cls.image_defaults = super(cls, cls).image_defaults | cls.image_defaults
        if "__init__" in vars(cls):
            cls.__init__ = keeping(cls.__init__)
        for name in TOLD:
            if isinstance(vars(cls).get(name), property):
                setattr(cls, name, remembered(vars(cls)[name]))

    def __init__(self):
        """A method without parameters needs no __init__ of its own."""

    @classmethod
    def create(cls, **parameters):
        known = list(inspect.signature(cls.__init__).parameters)[1:]
        if unknown := sorted(set(parameters) - set(known)):
            near = did_you_mean(
                unknown[0], [*known, *list(inspect.signature(ImageSet.__init__).parameters)[2:], *TRAINING_SETTINGS]
            )
            raise InputError(f"{cls.name} has no parameter {', '.join(unknown)}; it has {', '.join(known)}.{near}")
        return cls(**parameters)

    @property
    def parameters(self) -> dict:
        """The constructor's arguments: create_model(name, **parameters) gives an equal, unfitted detector."""
        return {name: getattr(self, name) for name in list(inspect.signature(type(self).__init__).parameters)[1:]}

    @remembered
    @property
    def origin(self) -> dict | None:
        """Where the pretrained weights came from (kind; file and sha256, or seed); None for a method without any, {}
        for a detector from a file of versions before, which does not say.
        """
        return self.backbone_.origin if hasattr(self, "backbone_") else None

    def weight_files(self, fetch: bool = False) -> dict[str, Path | None]:
        """The files that fit reads pretrained weights from, by the names of their networks; no network is built.

        None stands for a file that is not on this machine: one that the hub will be asked for, or one that fit will
        complain of. fetch: ask the hub for it now; where that fails, it stays None.
        """
        from adlib.features.backbones import find_weights

        weights = self.parameters.get("weights", "random")
        named = [value for name, value in self.parameters.items() if name.endswith("backbone")]
        named = [name for name in named if weights != "random" and name not in (None, "none")]
        return {name: find_weights(name, weights, fetch) for name in named}

    @remembered
    @property
    def choices(self) -> dict:
        """What fit drew by its seed or found in the images and a record should name, such as images that became
        prompts, or the "epoch" (from 1) whose weights remained where images chose it; {} for most.
        """
        return {} if self.chosen_epoch is None else {"epoch": self.chosen_epoch}

    @property
    def warnings(self) -> list[str]:
        """What a reader must know of the features before believing the numbers."""
        weights = self.parameters.get("weights")
        if self.parameters.get("backbone") == "none":  # then no network has any
            return []
        if weights == "random" and self.facts.needs:
            return [f"Random weights: it needs {self.facts.needs}; what is drawn at random cannot find anything."]
        return [_WEIGHTS_WARNINGS[weights]] if weights in _WEIGHTS_WARNINGS else []

    @property
    def resumed_from(self) -> list[dict]:
        """The other code, torch or kind of device that began this fit, as of adlib.memory.unfinished; [] for none."""
        return self.makers[1:]

    @property
    def resumed_notes(self) -> list[str]:
        """A sentence for each of them: the fit is of both, and no such run can be repeated."""
        from adlib.memory.unfinished import mixture

        return [mixture(other, self.makers[0]) for other in self.resumed_from]

    @property
    def memory_notes(self) -> list[str]:
        """What fit and predict did in another way because the GPU's memory was short, a sentence each; [] if it was
        not.
        """
        found = [(what, rows) for one in self.done_in_parts.values() for what, rows in one.items()]
        fewest = {what: min(rows for other, rows in found if other == what) for what, _ in found}
        return [SHORT.format(what.format(rows)) for what, rows in fewest.items()]

    def fit(
        self,
        images: ImageSet,
        val: ImageSet | None = None,
        device: str = "auto",
        seed: int = 0,
        progress: bool = True,
        checkpoint: str | Path | None = None,
        keep_checkpoint: bool = False,
    ):
        """Learn what is normal. Returns self.

        images: the training images; all must be normal, unless the method learns from labelled defects too.
        val: held-out normal images, for methods that need some; others ignore it. Who calls fit gives them: `adlib run`
            and `adlib fit` do not take the split "val" for it (Run.selection_images, own_images.fit_own).
        device: "auto" (CUDA where there is a device), "cpu", "cuda", "cuda:1" ...
        seed: of all that is random, from 0 to 4294967295. Same seed and machine, same result on a CPU.
        checkpoint: a file in which methods that train keep their progress, and PatchCore its patches that exceed
            `memory` and its choice among them; a call that finds it resumes there, and ends as an uninterrupted one
            would have, with a warning if other code, another torch or another kind of device has begun it. It is
            deleted when fit is done. Others ignore it.
        keep_checkpoint: not deleted then, so that whoever is killed later, while scoring, need not fit again.
        """
        need_images(images)
        self.check_images(images)
        if val is not None:
            need_images(val)
            if not len(val):
                raise InputError("val holds no image: give held-out images, or None.")
            self.check_seen(val)
        seed = checked("seed", seed, Annotated[int, Range(0, 2**32 - 1)])  # which numpy's generators take, too
        torch.manual_seed(seed)
        self.device_ = choose_device(device)
        self.seed_ = seed
        self.checkpoint_ = None if checkpoint is None else Path(checkpoint)
        self.fitted_, self.chosen_epoch, self.makers, self.told = False, None, [], {}
        self.images_, self.threshold_, self.category_ = images.settings, None, ""
        self.learned_files = None
        with shortages() as found:
            self.fit_images(images.tiles(), None if val is None else val.tiles(), progress)
        self.done_in_parts = {"fit": found}
        self.fitted_ = True
        if not keep_checkpoint:
            self._delete_checkpoints()
        return self

    def predict(
        self, images: ImageSet, device: str = "auto", batch_size: int = 8, progress: bool = True
    ) -> Predictions:
        """Score every image and every pixel; the batch size changes the speed and not the scores. A batch that does not
        fit into a GPU's memory is therefore scored in parts, and `memory_notes` says so.

        Of images with tiles, the map is that of the tiles put together, and the score that of the worst tile.
        Of no images there are no scores, and maps [0, H, W] by a method that has some.
        """
        self.check_fitted()
        need_images(images)
        self.check_seen(images)
        if not len(images):
            maps = np.zeros((0, *images.shape), np.float32) if self.facts.maps else None
            return Predictions(
                np.zeros(0, np.float32), maps, images.samples, images.settings, None, self.facts.outlines
            )
        self.device_ = choose_device(device)
        self.to(self.device_)
        items = images.tiles()
        told = items.samples.assign(category=items.samples["category"].replace("", self.category_))
        mosaic = None if items is images else Mosaic(images.whole, images.tile)
        scores, maps, parts = [], None, Parts("images were scored {} at a time")
        with shortages() as found, torch.inference_mode(), freed_memory_kept(self.device_.type == "cpu"):
            for start, batch in self.batches(items, batch_size, progress, "predict"):
                rows = told.iloc[start : start + len(batch)]
                for part_scores, part_maps in self._scored(batch, rows, parts):
                    scores.append(part_scores)
                    if part_maps is not None:
                        if maps is None:
                            maps = room_for_maps((len(images), *images.shape))
                        if mosaic is None:
                            self._need_maps_of(part_maps.shape[1:], images.shape)
                            maps[start : start + len(part_maps)] = part_maps
                        else:
                            mosaic.add(part_maps, start, maps)
                    start += len(part_scores)
        self.done_in_parts = self.done_in_parts | {"predict": found}
        scores = np.concatenate(scores)
        if mosaic is not None:
            scores = scores.reshape(len(images), -1).max(1)
        return Predictions(scores, maps, images.samples, images.settings, outlines=self.facts.outlines)

    def _scored(
        self, batch: torch.Tensor, rows: pd.DataFrame, parts: Parts
    ) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Scores float32 [n] and maps [n, H, W] of a batch, in as many parts as the GPU's memory asks for."""

        def work(part: slice):
            scored = self.score_samples(part_of(batch, part), rows.iloc[part])
            scores, maps = self._as_promised(scored, len(rows.iloc[part]))
            return scores.float().cpu().numpy(), None if maps is None else maps.float().cpu().numpy()

        return parts.of(work, len(batch))

    def _as_promised(self, scored, number: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What score_batch gave of so many images. Raises InputError for what it must not give, which numpy might
        well spread over the images that follow.
        """
        pair = scored if isinstance(scored, tuple | list) else (scored,)
        given = [tuple(one.shape) if isinstance(one, torch.Tensor) else type(one).__name__ for one in pair]
        right = len(pair) == 2 and given[0] == (number,)
        if not right or not (pair[1] is None or (len(given[1]) == 3 and given[1][0] == number)):
            raise InputError(
                f"score_batch of {type(self).__name__} ({type(self).__module__}) has to return two tensors, scores "
                f"[{number}] and maps [{number}, H, W] (or None), of {number} images; it returned "
                f"{' and '.join(map(str, given))}."
            )
        return pair[0], pair[1]

    def _need_maps_of(self, given: tuple[int, ...], shape: tuple[int, int]) -> None:
        if tuple(given) != tuple(shape):
            raise InputError(
                f"score_batch of {type(self).__name__} ({type(self).__module__}) has to return maps of the images' "
                f"size, {shape[0]} x {shape[1]}; it returned {given[0]} x {given[1]}."
            )

    def batches(
        self, images: ImageSet, batch_size: int, progress: bool, what: str, first: int = 0
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """(index of the first image, float [B, 3, H, W] on the device) over the images in their order, from `first`."""
        try:
            batch_size = checked("batch_size", batch_size, Count)
        except InputError as error:
            raise InputError(f"batch_size={batch_size!r} must be a whole number of images, at least 1.") from error
        left = torch.utils.data.Subset(PixelsOnly(images), range(first, len(images)))
        # A single batch is waited for in any case, and processes would have to start first.
        workers = loader_workers(self.device_) if len(left) > batch_size else 0
        loader = DataLoader(left, batch_size, num_workers=workers, pin_memory=workers > 0)
        if self.feature_cache is not None:
            self.feature_cache.begin()
        with tqdm(None, f"{self.name} {what}", len(images), unit="image", initial=first, disable=not progress) as bar:
            start = first
            for batch in loader:
                batch = batch.to(self.device_, non_blocking=True)
                if self.feature_cache is not None:
                    self.feature_cache.offer(batch)
                yield start, batch
                start += len(batch)
                bar.update(len(batch))

    def share(self, folder: str | Path | None, limit: float | str = LIMIT):
        """Look frozen features up in a folder before computing them, and keep new ones there for other detectors.

        No number changes, to the last bit. folder: as long as it holds less than `limit` (bytes, or "20GB") it grows;
        delete it when you like. "" or None shares nothing. Methods without a frozen backbone, and GPUs, ignore it.
        Returns self. Raises InputError for a limit that is no size.
        """
        from adlib.memory.patch_store import parse_bytes

        if isinstance(limit, bool) or not isinstance(limit, int | float):
            limit = parse_bytes(limit, "limit")
        self.feature_cache = FeatureCache(folder, limit) if folder is not None and str(folder) else None
        return self

    def check_images(self, images: ImageSet) -> None:
        """Raise InputError for images that this method cannot learn from, as far as it is seen without opening them."""
        if len(images) == 0:
            raise InputError("There is no image to fit on.")
        if (images.labels == UNKNOWN).any():
            first = images.samples.loc[images.labels == UNKNOWN, "image"].iloc[0]
            raise InputError(f"fit needs labelled images, but of {first} it is not known whether it is normal.")
        if (images.labels == 1).any() and not self.accepts_anomalous:
            first = images.samples.loc[images.labels == 1, "image"].iloc[0]
            raise InputError(f"fit needs normal images only, but {first} is labelled anomalous.")
        self.check_seen(images)

    def check_seen(self, images: ImageSet) -> None:
        """Raise InputError for images, or tiles of images, of a shape that the networks cannot take."""
        try:
            self.check_shape(*images.seen)
        except InputError as error:
            if images.tile is None:
                raise
            raise InputError(f"tile={list(images.tile)} is what is seen at once: {error}") from error

    def check_networks(self, fetch: bool = True) -> None:
        """Raise InputError for a backbone that timm cannot build and for weights that are not to be had, without
        building anything. fetch: see adlib.features.backbones.check_backbone.
        """
        from adlib.features.backbones import check_backbone

        weights, files = self.parameters.get("weights", "random"), self.weight_files()
        for parameter, name in self.parameters.items():
            first = parameter == "backbone" and name not in (None, "none")
            if first or (parameter.endswith("backbone") and name in files):
                stages = self.parameters.get("stages") if first else None
                check_backbone(name, stages, weights if name in files else "random", fetch)

    def check_shape(self, height: int, width: int) -> None:
        """Raise InputError for images of a shape that the networks cannot take, with those that they can."""
        multiple, smallest = self.side_multiple, self.smallest_side
        if min(height, width) < smallest:
            raise InputError(
                f"{self.name} needs sides of at least {smallest} pixels; the images are {height} x {width}."
            )
        if height % multiple or width % multiple:
            raise InputError(
                f"{self.name} needs sides that are multiples of {multiple} pixels; the images are {height} x {width}."
            )

    def check_fitted(self) -> None:
        if not getattr(self, "fitted_", False):
            raise InputError(f"This {self.name} is not fitted: call fit(images) before predict or save.")

    def _delete_checkpoints(self) -> None:
        """Delete what adlib.training.loop wrote: the checkpoint, and those of single stages beside it."""
        if self.checkpoint_ is not None:
            self.checkpoint_.unlink(missing_ok=True)
            for file in self.checkpoint_.parent.glob(f"{glob.escape(self.checkpoint_.name)}.stage-*"):
                file.unlink()

    def save(self, path: str | Path) -> Path:
        """Write parameters and learned tensors to one .safetensors file; returns its path.

        With them go how images are prepared (`images_`), what they show (`category_`) and the threshold, if one was
        chosen (`threshold_`, as of adlib.screening): all that a detector needs for tomorrow's images; what it tells of
        its fit (`origin`, `choices`); which files it learned, if that was noted (`learned_files`); and a checksum, by
        which `load_model` notices a damaged file.
        """
        self.check_fitted()
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"name": self.name, "parameters": self.parameters, "seed": self.seed_}
        about |= {"images": self.images_, "threshold": self.threshold_, "category": self.category_}
        about |= {"told": {name: getattr(self, name) for name in TOLD}, "learned_files": self.learned_files}
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in self.state().items()}
        text = json.dumps(about, default=str)
        with replacing(path) as partial:
            save_file(tensors, partial, metadata={"adlib": text, "crc32": saved_checksum(text, tensors)})
        return path

    def export(self, path: str | Path) -> Path:
        """Write the fitted detector as ONNX, normalisation and threshold inside (adlib.export); returns the path."""
        from adlib.export import export

        return export(self, path)

    # What a method writes.

    def fit_images(self, images: ImageSet, val: ImageSet | None, progress: bool) -> None:
        raise self._lacks("fit_images(self, images, val, progress), which learns what is normal")

    def score_batch(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        raise self._lacks("score_batch(self, batch), which gives scores [B] and maps [B, H, W] or None")

    def build(self, weights: str) -> None:
        """Make the networks, with weights as of adlib.features.backbones where one of them is pretrained."""
        raise self._lacks("build(self, weights), which makes its networks anew for a saved detector")

    def _lacks(self, what: str) -> InputError:
        return InputError(f"The method {type(self).__name__} ({type(self).__module__}) has to define {what}.")

    def score_samples(self, batch: torch.Tensor, samples: pd.DataFrame) -> tuple[torch.Tensor, torch.Tensor | None]:
        """score_batch of a method that must know what an image is meant to show. samples: the batch's rows, of which
        it may read the category and nothing about defects.
        """
        return self.score_batch(batch)

    def _learned(self, kind: type) -> dict:
        """Attributes of a kind whose names end in "_", by their names without it, in the order of their making."""
        return {
            name.removesuffix("_"): value
            for name, value in vars(self).items()
            if name.endswith("_") and isinstance(value, kind)
        }

    def networks(self) -> dict[str, torch.nn.Module]:
        """The networks by name: the attributes that are some."""
        return self._learned(torch.nn.Module)

    def build_for(self, state: dict[str, torch.Tensor]) -> None:
        """Make the networks that a state is then loaded into, and take from it what was learned in another form."""
        if any("." in key for key in state):
            self.build("random")

    def state(self) -> dict[str, torch.Tensor]:
        """All that was learned: tensors by their attributes' names, those of networks as "decoder.conv.weight"."""
        return self._learned(torch.Tensor) | joined_state(self.networks())

    def set_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take over what `state` gave, in a detector of the same parameters."""
        self.build_for(state)
        for name in [key for key in state if "." not in key]:
            setattr(self, f"{name}_", state[name])
        load_joined_state(self.networks(), state)
        for network in self.networks().values():
            network.eval()
        if hasattr(self, "backbone_"):
            self.backbone_.weights = self.weights

    def illustrate(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Pictures that a fitted method makes of images on its way to their scores, such as reconstructions.

        batch: float [B, 3, H, W] in [0, 1] on the device. Returns name -> float [B, 3, H, W], shown from 0 to 1; most
        methods have none.
        """
        return {}

    def to(self, device: torch.device) -> None:
        """Move networks and learned tensors to the device."""
        for network in self.networks().values():
            network.to(device)
        for name, tensor in self._learned(torch.Tensor).items():
            setattr(self, f"{name}_", tensor.to(device))


def need_images(images: object) -> None:
    """Raise InputError for what is no ImageSet: a table of samples, a folder, a part of an ImageSet that torch took."""
    if not isinstance(images, ImageSet):
        raise InputError(
            f"Detectors take an adlib.ImageSet, not {type(images).__name__}: make one of the samples that it "
            "shall hold, as ImageSet(samples, size=256)."
        )


class PixelsOnly(torch.utils.data.Dataset):
    """The pictures without their masks: a detector must not see ground truth, and need not wait for it."""

    def __init__(self, images: ImageSet):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images.pixels(index)


def loader_workers(device: torch.device) -> int:
    """How many processes load images. They pay where a GPU waits; on a CPU they would take cores from the network."""
    return min(8, torch.get_num_threads()) if device.type == "cuda" else 0


def choose_device(device: str) -> torch.device:
    """The torch device of "auto", "cpu", "cuda", or another kind that torch has. Raises InputError for one that is not
    here, or cannot hold a number.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device={device!r} is not a torch device: use 'auto', 'cpu' or 'cuda'.") from error
    if chosen.type == "cpu":
        return torch.device("cpu")  # there is one, whatever its number
    if chosen.type != "cuda":
        try:
            torch.zeros(1, device=chosen).cpu()
        except (RuntimeError, AssertionError, ImportError) as error:  # as torch says it of different kinds
            raise InputError(f"device={device!r} is not here: use 'auto', 'cpu' or 'cuda'.") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device={device!r}, but torch sees no CUDA device: use device='cpu', see `adlib doctor`.")
    if chosen.type == "cuda" and (chosen.index or 0) >= (count := torch.cuda.device_count()):
        raise InputError(f"device={device!r}, but the last of the CUDA devices that torch sees is 'cuda:{count - 1}'.")
    return chosen


def joined_state(modules: dict[str, torch.nn.Module]) -> dict[str, torch.Tensor]:
    """The tensors of several networks in one dictionary: "decoder.conv.weight" and so on."""
    return {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}


def load_joined_state(modules: dict[str, torch.nn.Module], state: dict[str, torch.Tensor]) -> None:
    """Give the networks what `joined_state` took from them."""
    for name, module in modules.items():
        own = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
        module.load_state_dict(own)
