"""Joined predictions: several methods' predictions of the same images as one table, with pictures read on demand."""

import mmap
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from adlib.decoding import resizing
from adlib.decoding.pictures import read_levels
from adlib.errors import InputError
from adlib.hdf5 import file_and_inside
from adlib.images import image_shape, read_mask
from adlib.predictions import Predictions


class Joined:
    """The images that all predictions share, in the order of the first.

    predictions: Predictions, or {name: Predictions}. root: as in `move`.

    names: list of the M methods; samples: the samples table of the first, with the others' masks where it has none, N
        rows, paths as stored; scores: float32 [N, M].
    left_out: number of images that not every method has.
    """

    def __init__(self, predictions: Predictions | Mapping[str, Predictions], root: str | Path | None = None):
        self._predictions = _named(predictions)
        self.names = list(self._predictions)
        tables = [given.samples for given in self._predictions.values()]
        for name, table in zip(self.names, tables, strict=True):
            if table["image"].duplicated().any():
                image = table.loc[table["image"].duplicated(), "image"].iloc[0]
                raise InputError(f"{image} is listed twice in the predictions of {name}.")
        images = tables[0]["image"]
        shared = images.isin(set.intersection(*(set(table["image"]) for table in tables)))
        self.samples = tables[0][shared].reset_index(drop=True)
        self.left_out = len(set().union(*(table["image"] for table in tables))) - len(self.samples)
        if self.samples.empty:
            raise InputError(
                f"The predictions of {', '.join(self.names)} have no image in common"
                + (": were the images moved between the runs?" if len(tables) > 1 else ": they are empty.")
            )
        self._rows = [pd.Index(table["image"]).get_indexer(self.samples["image"]) for table in tables]
        self._check_labels(tables)
        self._add_masks(tables)
        pairs = zip(self._predictions.values(), self._rows, strict=True)
        self.scores = np.stack([given.scores[rows] for given, rows in pairs], axis=1)
        if not np.isfinite(self.scores).all():
            row, method = np.argwhere(~np.isfinite(self.scores))[0]
            raise InputError(f"The score of {self.names[method]} for {self.samples['image'][row]} is not finite.")
        self._moves: dict[str, tuple[str, str]] = {}
        self._kept = lru_cache(3)(self.read)
        self.mask = lru_cache(8)(self._mask)
        if root is not None:
            self.move(root)

    def __len__(self) -> int:
        return len(self.samples)

    def _check_labels(self, tables: list[pd.DataFrame]) -> None:
        labels = self.labels
        for name, table, rows in zip(self.names, tables, self._rows, strict=True):
            differs = table["label"].to_numpy()[rows] != labels
            if differs.any():
                image = self.samples["image"][int(np.argmax(differs))]
                raise InputError(f"{image} is labelled one way in {self.names[0]} and the other way in {name}.")

    def _add_masks(self, tables: list[pd.DataFrame]) -> None:
        """Where the first table names no mask, take that of the next one that does, with its rule."""
        for table, rows in zip(tables[1:], self._rows[1:], strict=True):
            other = table.iloc[rows].reset_index(drop=True)
            taken = (self.samples["mask"] == "") & (other["mask"] != "")
            for name in ("mask", "mask_rule"):
                if taken.any() and (name in self.samples or name in other):
                    own = self.samples.get(name, pd.Series("", self.samples.index))
                    self.samples[name] = own.mask(taken, other.get(name, ""))

    @property
    def labels(self) -> np.ndarray:
        """int8 [N]: 0 normal, 1 anomalous, -1 unknown."""
        return self.samples["label"].to_numpy("int8")

    @property
    def folders(self) -> list[Path]:
        """The folders that the predictions were loaded from, of those that were."""
        return [given.folder for given in self._predictions.values() if given.folder is not None]

    def map(self, index: int, method: int) -> np.ndarray | None:
        """float32 [h, w]: the anomaly map of one image by one method, or None for a method without maps."""
        maps = list(self._predictions.values())[method].maps
        if maps is None:
            return None
        found = np.array(maps[self._rows[method][index]], np.float32)
        if isinstance(maps.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            # What was read stays in the system's cache, but no longer counts as this process's memory.
            maps.base.madvise(mmap.MADV_DONTNEED)
        return found

    def maps_dropped(self, method: int) -> bool:
        """Whether a method gave maps that were not kept."""
        return list(self._predictions.values())[method].maps_dropped

    def outlines(self, method: int) -> bool:
        """Whether a method's maps outline defects, so that a threshold makes a mask of them."""
        return list(self._predictions.values())[method].judges_pixels

    def frame(self, method: int, index: int = 0) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of a method's map of one image, as shares of the image's sides: what it saw.

        Below 0 and above 1 where the image was padded: then the map reaches past it.
        index: matters only where the proportions of the image were kept or its middle alone was read; an image that is
        gone counts as square there.
        """
        predictions, row = list(self._predictions.values())[method], self._rows[method][index]
        settings, table = predictions.settings, predictions.samples
        middle = int(table["middle"].iat[row]) if "middle" in table else 0
        shape = (1, 1)
        if middle or settings.get("sides") == "shorter" or settings.get("fit") == "pad":
            with suppress(InputError):
                shape = image_shape(self.path(index))
        if not middle or shape == (1, 1):
            return resizing.frame(shape, settings)
        left, top, right, bottom = resizing.frame((middle, middle), settings)
        (down, across), (height, width) = resizing.crop_corner(shape, (middle, middle)), shape
        return (
            (across + middle * left) / width,
            (down + middle * top) / height,
            (across + middle * right) / width,
            (down + middle * bottom) / height,
        )

    def map_range(self, method: int, samples: int = 32) -> tuple[float, float] | None:
        """Median and 99.9th percentile of a method's maps, from `samples` of them spread over its ordered scores.

        None for a method without maps, and where these hold no finite number.
        """
        if self.map(0, method) is None:
            return None
        order = np.argsort(self.scores[:, method], kind="stable")
        chosen = order[np.unique(np.linspace(0, len(order) - 1, samples).astype(int))]
        values = np.concatenate([self.map(index, method)[::2, ::2].ravel() for index in chosen])
        finite = values[np.isfinite(values)]
        return tuple(np.percentile(finite, [50, 99.9]).tolist()) if finite.size else None

    def path(self, index: int, column: str = "image") -> str:
        """Where an image ("image") or its ground truth ("mask") lies now; "" where there is no mask."""
        stored = self.samples[column].iat[index]
        if not stored or column not in self._moves:
            return stored
        old, new = self._moves[column]
        return new + stored[len(old) :] if stored.startswith(old) else stored

    def read(self, index: int) -> tuple[np.ndarray, tuple[float, float] | None]:
        """One image at full size, uint8 or uint16, [H, W] or RGB [H, W, 3], and the grey levels that the first method
        saw as black and white, None for the full range.

        Levels are as stored; of a file that holds neither 8 nor 16 bits they span the method's window. `image` and
        `window` keep three images. Raises InputError for a file that is missing or cannot be read.
        """
        window = next(iter(self._predictions.values())).settings.get("window")
        return read_levels(self.path(index), None if window is None else tuple(window))

    def image(self, index: int) -> np.ndarray:
        """The image of `read`."""
        return self._kept(index)[0]

    def window(self, index: int) -> tuple[float, float] | None:
        """The levels of `read`."""
        return self._kept(index)[1]

    def _mask(self, index: int) -> np.ndarray | None:
        """The ground truth at full size, bool [H, W], or None for an image without a mask."""
        path = self.path(index, "mask")
        if not path:
            return None
        rule = self.samples["mask_rule"].iat[index] if "mask_rule" in self.samples else ""
        return read_mask(path, image_shape(self.path(index)), self.path(index), rule)

    @cached_property
    def areas(self) -> np.ndarray:
        """float [N]: share of each image that the ground truth marks, 0 without a mask, NaN for an unreadable one.

        Reads every mask once, at full size.
        """

        def area(index: int) -> float:
            try:
                return self._mask(index).mean()
            except InputError:
                return np.nan

        areas, marked = np.zeros(len(self)), np.flatnonzero(self.samples["mask"] != "")
        with ThreadPoolExecutor(os.cpu_count()) as threads:  # decoding frees the interpreter
            areas[marked] = list(threads.map(area, marked))
        return areas

    def move(self, root: str | Path) -> None:
        """Read images and masks below `root` from now on; the stored paths stay as they are.

        Of an old path, the longest end that exists below `root` is kept: /old/bottle/test/1.png is found as
        /new/bottle/test/1.png for the root /new. Raises InputError if the first image is not found that way.
        """
        moves = {}
        for column in ("image", "mask"):
            stored = self.samples.loc[self.samples[column] != "", column]
            if len(stored) and (move := _move(stored.iloc[0], Path(root))):
                moves[column] = move
        if "image" not in moves:
            raise InputError(
                f"Below {root} there is no {Path(self.samples['image'][0]).name} at any end of "
                f"{self.samples['image'][0]}: give the folder that now stands for a part of this path."
            )
        self._moves = moves
        self._kept.cache_clear()
        self.mask.cache_clear()
        self.__dict__.pop("areas", None)


def _move(stored: str, root: Path) -> tuple[str, str] | None:
    """(old beginning, new beginning) of a path that now lies below root, or None if nothing is there."""
    file, _ = file_and_inside(stored)
    parts = Path(file).parts
    for cut in range(1 if Path(file).is_absolute() else 0, len(parts)):
        end = Path(*parts[cut:])
        if (root / end).is_file():
            return file[: len(file) - len(str(end))], f"{root}{os.sep}"
    return None


def _named(predictions) -> dict[str, Predictions]:
    named = {"detector": predictions} if isinstance(predictions, Predictions) else predictions
    if not isinstance(named, Mapping) or not named:
        raise InputError(f"inspect needs predictions or a dictionary of them by name; got {predictions!r:.80}.")
    for name, given in named.items():
        if not isinstance(given, Predictions):
            raise InputError(f"inspect needs predictions; {name!r} is {type(given).__name__}.")
    return {str(name): given for name, given in named.items()}
