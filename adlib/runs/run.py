"""A run: one detector on one category of one dataset, with all that decides its outcome."""

import hashlib
import inspect
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from adlib.errors import InputError
from adlib.parameters import LARGEST_SIDE
from adlib.runs.settings import DATA_SETTINGS, IMAGE_SETTINGS, given_settings, is_plain
from adlib.runs.settings import parse_settings as parse_settings
from adlib.runs.titles import run_name, titled
from adlib.training_set import TRAINING_SETTINGS, check_training_settings, choose_training_images

LONGEST_WORD = 4096  # characters of a setting


@dataclass(frozen=True)
class Run:
    """dataset, root, category: the samples. method, settings: the detector, its images and its training set; what is
    not set is the method's default, and all training images; a dictionary, or the text of one. seed: of all that is
    random. device: where it runs; as the root, not part of its identity.
    """

    dataset: str
    root: str
    method: str
    category: str = ""  # "" for all categories of a dataset together
    settings: dict = field(default_factory=dict)
    seed: int = 0
    device: str = "auto"

    def __post_init__(self):
        object.__setattr__(self, "settings", given_settings(self.settings))  # papermill -p gives them as text

    @cached_property
    def samples(self) -> pd.DataFrame:
        """The samples table of the run's category, with the training images that the run's settings choose
        (adlib.training_set).
        """
        if self.training_settings and self.auxiliary_roots:
            raise InputError(
                f"{', '.join(self.training_settings)}: {self.method} learns from other data sets, as a whole."
            )
        samples = self.all_samples
        if "train_real" in self.training_settings:
            samples = self._as_told(pd.concat([samples, self._real_defects()], ignore_index=True))
            samples["middle"] = samples["middle"].fillna(0).astype(int)
        return choose_training_images(samples, self.seed, **self.training_settings)

    def _real_defects(self) -> pd.DataFrame:
        """The dataset's real defects for training, if the method has a place for them."""
        from adlib.datasets import training_defects
        from adlib.models import model_class

        if hasattr(model_class(self.method), "training_samples"):
            raise InputError(f"train_real: {self.method} injects real defects itself, see its parameters.")
        if not model_class(self.method).accepts_anomalous:
            raise InputError(
                f"train_real: {self.method} learns from normal images alone, and has no place for defects."
            )
        return training_defects(self.dataset, self.all_samples)

    @cached_property
    def data_settings(self) -> dict:
        """How the dataset is read, options of load_samples: what this run sets."""
        return {name: value for name, value in self.settings.items() if name in DATA_SETTINGS and value is not None}

    @cached_property
    def loaded_samples(self) -> pd.DataFrame:
        """The samples table of the run's category as it lies on disk."""
        from adlib.datasets import load_samples

        return load_samples(self.dataset, self.root, self.category or None, **self.data_settings)

    @cached_property
    def all_samples(self) -> pd.DataFrame:
        """The samples table of the run's category as the dataset has it. Its training images are the supervised part of
        the dataset for a method that learns from that and says so by a function `training_samples`.
        """
        from adlib.models import model_class

        samples = self.loaded_samples
        supervised = getattr(model_class(self.method), "training_samples", None)
        return self._as_told(supervised(self.dataset, samples)) if supervised else samples

    def _as_told(self, samples: pd.DataFrame) -> pd.DataFrame:
        """Samples of which some have joined the loaded ones: what is told of files is told of theirs, too."""
        from adlib.datasets import as_told

        return as_told(samples, *map(self.data_settings.get, ("mask_rule", "items")))

    def check_settings(self) -> None:
        """Raise InputError for what cannot be run on any data: an unknown method, parameter or device, a setting of a
        wrong kind, a seed that no generator takes.
        """
        from adlib.detector import choose_device
        from adlib.images import ImageSet
        from adlib.samples import COLUMNS

        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**32:
            raise InputError(f"seed={self.seed!r}: a seed is a whole number from 0 to 4294967295.")
        for name, value in self.settings.items():
            if not isinstance(name, str) or not is_plain(value):
                raise InputError(
                    f"{name}={value!r}: a setting is a number, a word, true, false, null, or a list of these."
                )
            if name in ("weights", "backbone") and not isinstance(value, str | None):
                raise InputError(f"{name}={value!r}: expected a name or the path of a file.")
            if isinstance(value, str) and len(value) > LONGEST_WORD:
                raise InputError(f"{name}={value[:40]!r}... has {len(value)} characters: no name or path is as long.")
        try:
            self.create_model()
            images = ImageSet(pd.DataFrame(columns=COLUMNS), **self.image_settings)
            if max(images.size) > LARGEST_SIDE:
                raise InputError(f"size={self.image_settings['size']} is more than {LARGEST_SIDE} pixels a side.")
            choose_device(self.device)
            Path(self.root).exists()
        except InputError:
            raise
        except (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError) as error:
            given = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
            lines = str(error).splitlines() or [""]
            if isinstance(error, OSError):
                raise InputError(f"{self.root} cannot be looked at: {error.strerror}.") from error
            raise InputError(
                f"{self.method} on {self.device} does not take {given or 'these settings'} ({lines[0]}): "
                f"`adlib models {self.method}` shows what it has and its defaults."
            ) from error

    @cached_property
    def image_settings(self) -> dict:
        """size, crop, resize, sides (and window): the method's defaults, then this run's settings."""
        from adlib.models import model_class

        own = {name: value for name, value in self.settings.items() if name in IMAGE_SETTINGS}
        return model_class(self.method).image_defaults | own

    @cached_property
    def training_settings(self) -> dict:
        """What of the training images the run learns from, see adlib.training_set; {} for all of them."""
        return check_training_settings({name: self.settings.get(name) for name in TRAINING_SETTINGS})

    @property
    def pro_variants(self) -> tuple[str, ...]:
        """The definitions of PRO that the papers on this dataset measured, computed beside AUPRO."""
        from adlib.papers import pro_variants

        return pro_variants(self.dataset)

    @cached_property
    def model_settings(self) -> dict:
        """The method's parameters that this run sets."""
        others = (*IMAGE_SETTINGS, *DATA_SETTINGS, *TRAINING_SETTINGS)
        return {name: value for name, value in self.settings.items() if name not in others}

    @property
    def quantities(self) -> dict:
        """All that a protocol may speak of, by name: the detector's parameters, the settings of its images and of its
        training set (None for what is not set), and `input`, the side of the pictures that it sees.
        """
        side = self.image_settings["crop"] or self.image_settings["size"]
        training = dict.fromkeys(TRAINING_SETTINGS) | self.training_settings
        return self.create_model().parameters | self.image_settings | training | {"input": side}

    def create_model(self):
        """The run's detector, not yet fitted. Raises InputError for a parameter that the method does not have."""
        from adlib.models import create_model

        return create_model(self.method, **self.model_settings)

    @cached_property
    def auxiliary_roots(self) -> list[tuple[str, Path]]:
        """Data sets that the method learns from instead of this one, and their folders: as the method's `learns_from`
        names them ("visa:/elsewhere/visa"), or beside this one's root. Empty for all but zero-shot methods. One name
        may have several folders ("folder:/a", "folder:/b"); the same one given twice counts once.
        """
        entries = (entry.partition(":") for entry in self.create_model().learns_from)
        return list(dict.fromkeys((name, Path(folder or Path(self.root).parent / name)) for name, _, folder in entries))

    @cached_property
    def auxiliary(self) -> pd.DataFrame | None:
        """The labelled test images of those data sets, or None without any.

        Raises InputError for a set that is not there, with how to get it, and for the target among them.
        """
        from adlib.datasets import load_samples
        from adlib.samples import select

        tables = []
        names = [name for name, _ in self.auxiliary_roots]
        for name, root in self.auxiliary_roots:
            if name == self.dataset != "folder" or root == Path(self.root):
                raise InputError(f"{self.method} must not learn from its target, {name}: set auxiliary to other sets.")
            try:
                tables.append(select(load_samples(name, root), split="test"))
            except InputError as error:
                raise InputError(f"{self.method} learns from {', '.join(names)}: {error}") from error
        return pd.concat(tables, ignore_index=True) if tables else None

    def images(self, split: str, shared=None):
        """The ImageSet of one split: "train", "val" or "test". A zero-shot method's "train" are the auxiliary sets.

        shared: a FeatureCache in whose folder the decoded images are kept for other runs, if there is room.
        """
        from adlib.images import ImageSet
        from adlib.samples import select

        if split == "train" and self.auxiliary is not None:
            # A window is the target's own.
            return self._shared(ImageSet(self.auxiliary, **self.image_settings | {"window": None}), shared)
        rows = select(self.samples, split=split)
        if rows.empty:
            raise InputError(f"{self.dataset} {self.category} in {self.root} has no {split} images.")
        return self._shared(ImageSet(rows, **self.image_settings), shared)

    def _shared(self, images, shared):
        """The images, decoded into the folder of a FeatureCache if one is given, and has room for twice their bytes."""
        from adlib.detector import choose_device, loader_workers

        if shared is None:
            return images
        images.cache, decoded = shared.folder, True
        try:
            decoded = not images.is_cached
            if decoded and shared.room() < 2 * images.cache_bytes:
                images.cache = None
            else:
                images.build_cache(loader_workers(choose_device(self.device)))
        except OSError:  # a disk that others have filled meanwhile
            images.cache = None
        shared.counts["images_decoded" if decoded else "images_read"] += len(images)
        return images

    @property
    def selection_images(self):
        """The test images, for a method that is set to choose its epoch by them (selection="test"), as some papers did;
        None otherwise. Images of the split "val" are never given to fit: what a method holds out is a parameter
        (validation_share), as its paper has it; `warnings` says so where there are some.
        """
        chosen = self.create_model().parameters.get("selection") == "test"
        return self.images("test") if chosen else None

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the data (adlib.samples.fingerprint)."""
        from adlib.samples import fingerprint

        return fingerprint(self.samples)

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits: equal for equal work, wherever the data lies and whatever paper asks for it.

        Covers the method with every parameter, defaults included, the settings of images and training set, the seed,
        the data's fingerprint, that of what a zero-shot method learns from, and the content of all weights, wherever
        they come from, and of files and folders that a parameter names (textures, say). Weights that are not on this
        machine yet count as none: `fetch_weights` brings them.
        """
        from adlib.file_hashes import content, file_hash
        from adlib.samples import fingerprint

        model = self.create_model()
        parameters = {name: content(value) for name, value in model.parameters.items()}
        files = model.weight_files()
        identity = {
            "dataset": self.dataset,
            "category": self.category,
            "method": self.method,
            "parameters": parameters,
            "images": self.image_settings,
            "seed": self.seed,
            "data": self.fingerprint,
            "weights": {name: file_hash(file) if file and file.is_file() else "" for name, file in files.items()},
        }
        if self.training_settings:
            identity["training"] = self.training_settings
        if self.pro_variants:
            identity["pro"] = self.pro_variants
        if self.auxiliary is not None:
            identity["parameters"]["auxiliary"] = [name for name, _ in self.auxiliary_roots]
            identity["auxiliary"] = fingerprint(self.auxiliary)
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]

    def fetch_weights(self) -> None:
        """Ask the hub for weights that are not on this machine, before `key` is first asked for; without a network, or
        where the hub has none, the run itself says so.
        """
        self.create_model().weight_files(fetch=True)

    def check(self, fetch: bool = True) -> None:
        """Raise InputError for whatever of this run can be known to fail before it begins: a parameter, the device, the
        images' size, a split without images, a backbone or weights that are not to be had.

        fetch: ask the hub for weights that are not on this machine; else these are among what is raised.
        """
        from adlib.detector import choose_device

        self.check_settings()
        model = self.create_model()
        choose_device(self.device)
        model.check_images(self.images("train"))
        model.check_seen(self.images("test"))
        model.check_networks(fetch)  # last, because it may wait for the hub

    @cached_property
    def warnings(self) -> list[str]:
        """What a reader must know before believing the numbers: phantom data, images that are not as many as the set's
        publication counts, pictures that were not read, items in training and test, random weights, a crop that is the
        method's own, validation images that were passed over.
        """
        from adlib.datasets import left_out, unlike_published
        from adlib.samples import phantom_facts

        data = self.dataset, self.root, self.loaded_samples, self.category or None, self.data_settings
        texts = data_warnings(self.samples, self.dataset, left_out(*data), self.create_model().warnings)
        # A phantom has its own numbers, and says that it is one.
        unlike = "" if phantom_facts(self.samples) else unlike_published(self.dataset, self.loaded_samples, data[3])
        own = [*self._auxiliary_warnings(), *self._crop_warnings(), *self._validation_warnings()]
        return [*([unlike] if unlike else []), *texts, *own]

    def _auxiliary_warnings(self) -> list[str]:
        """A sentence for each set that a zero-shot method learned from and that is drawn, or not as published."""
        from adlib.datasets import load_samples, unlike_published
        from adlib.samples import phantom_facts

        texts = []
        for name, root in self.auxiliary_roots if self.auxiliary is not None else ():
            samples = load_samples(name, root)
            if phantom_facts(samples):
                texts.append(f"Learned from phantom data: {name} in {root} is drawn by adlib.")
            elif unlike := unlike_published(name, samples):
                texts.append(f"Learned from {name}. {unlike}")
        return texts

    def _crop_warnings(self) -> list[str]:
        """A sentence if the size is set above the method's own and its crop is not: less of each image is seen then."""
        from adlib.models import model_class

        usual, now = model_class(self.method).image_defaults, self.image_settings
        shares = [np.prod(np.ones(2) * one["crop"] / one["size"]) for one in (usual, now) if one["crop"]]
        if "crop" in self.settings or len(shares) < 2 or shares[1] >= shares[0]:
            return []
        return [
            f"At most {shares[1]:.0%} of each image is seen: size={now['size']} is set, and crop={now['crop']} is "
            f"{self.method}'s own, for size={usual['size']}. Set crop too, or crop=none."
        ]

    def _validation_warnings(self) -> list[str]:
        """A sentence if there are validation images and the method holds out training images instead."""
        from adlib.samples import select

        parameters = self.create_model().parameters
        share, number = parameters.get("validation_share"), len(select(self.samples, split="val"))
        if not (share and number) or parameters.get("selection") == "test":
            return []
        return [
            f"The split val ({number} {'image' if number == 1 else 'images'}) is not used: {self.method} holds out "
            f"{share:.0%} of its training images (validation_share), as in runs without that split."
        ]

    @property
    def name(self) -> str:
        """ "patchcore on cxr_ad/UB, seed 0": what runs that differ only in settings have in common."""
        return run_name(self.method, self.dataset, self.category, self.seed)

    @property
    def title(self) -> str:
        """The name, and in brackets every setting that is not the method's default: "... (size 128, train_limit 500)".

        Among other runs `adlib.runs.titles.distinct_titles` is shorter.
        """
        return titled(self.name, self.unusual_settings)

    @cached_property
    def usual_settings(self) -> dict:
        """The method's defaults: of its parameters and of its images."""
        from adlib.models import model_class

        method = model_class(self.method)
        parameters = list(inspect.signature(method.__init__).parameters.values())[1:]  # without self
        return {parameter.name: parameter.default for parameter in parameters} | method.image_defaults

    @cached_property
    def unusual_settings(self) -> dict:
        """The settings that are not the method's defaults."""
        usual = self.usual_settings
        return {name: value for name, value in self.settings.items() if _plain(value) != _plain(usual.get(name))}

    def as_dict(self) -> dict:
        return asdict(self)


def data_warnings(samples: pd.DataFrame, dataset: str, unread: list[str], of_model: Iterable[str] = ()) -> list[str]:
    """What a reader must know of the data: that it is drawn, which pictures were not read, items in training and test.

    unread: as of adlib.datasets.left_out. of_model: a detector's own warnings, to be among them.
    """
    from adlib.samples import phantom_warning, torn_items

    texts = [phantom_warning(samples, dataset), *of_model, *unread[:3]]
    if len(unread) > 3:
        texts.append(f"{len(unread) - 3} more folders hold pictures that are no samples: `adlib check` lists them.")
    if torn := torn_items(samples):
        texts.append(f"{len(torn)} items have images in training and in another split, such as {torn[0]}.")
    return [text for text in texts if text]


def _plain(value):
    """A value as it compares: pairs are lists in YAML and tuples in Python."""
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value
