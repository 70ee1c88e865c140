"""Images: decode, resize and crop the files of a samples table, as plain RGB in [0, 1].

Normalising (mean and standard deviation) is the model's business, so plots, synthesis and the inspector need no
undoing. Colour images become RGB, grey ones three equal channels, an alpha channel is dropped, an EXIF rotation
is applied. 8-bit values are divided by 255 and 16-bit values by 65535, the same for every image of a set, and
floating-point values are taken from 0 to 1; where a file holds another range (a 12-bit detector, say),
`window=(0, 4095)` names the grey values that become black and white, and what lies outside is clipped. A picture
inside an HDF5 file is named "file.h5::dataset::index". Files are decoded in adlib.decoding, pictures and masks.
"""

import hashlib
import math
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from torch.utils.data import DataLoader, Dataset

from adlib.decoding import image_cache, resizing
from adlib.decoding.masks import Fate, check_resize, check_rule, fit_mask, read_mask
from adlib.decoding.pictures import image_shape, read_image
from adlib.decoding.tiles import check_tile, corners
from adlib.errors import InputError
from adlib.parameters import Count, checked
from adlib.samples import UNKNOWN, check_columns, fingerprint, is_known


class ImageSet(Dataset):
    """A torch Dataset over a samples table: all images of one size.

    samples: the table (adlib.samples); row i is item i.
    size: S for S x S pixels or (H, W), to which the image is resized and rounded to the file's depth.
    sides: "both" are resized to the size, and proportions change if they differ; or the "shorter" to S, with the
        proportions kept: then the centre is cut out, S x S if crop is None, so that all images have one shape.
    resize: how, one of adlib.decoding.resizing.FILTERS: "antialias" (bilinear), "lanczos", "bicubic", "linear"
        (bilinear without antialiasing), "area".
    crop: side (or (H, W)) of the centre crop taken after resizing, or None.
    window: (low, high) stored grey values that become 0 and 1, or None for the full range of 8 or 16 bits.
    cache: a folder in which the resized images are kept as one file with checksums, or None or "". It is built at the
        first access and speeds up every later one; it is as big as the resized pixels. What another version of OpenCV,
        Pillow or adlib has decoded is not taken for this one's.
    mask_rule: what is foreground in a mask file, one of adlib.decoding.masks.RULES; None goes by the samples' column of
        that name, else "auto": plain masks, class numbers and lossy ones are taken, what had to be guessed is refused.
    mask_resize: "area", by which no defect vanishes, or "nearest", as most papers' codes do (`fit_mask` there).
    fit: "stretch" (see sides), or "pad", which keeps the proportions and all of the image: it is made to fit into the
        size and its edge pixels are repeated around it. What is repeated counts as normal in pixel metrics.
    tile: (side, overlap) in pixels, for images that a resize to what networks like would ruin: give their own size (or
        what is needed of it), and detectors learn from and look at tiles, and join their maps (adlib.decoding.tiles).
        Items, masks and maps of the set stay whole images; `tiles()` is the set of tiles. A cache saves decoding an
        image anew for tiles in random order.

    A column `mirror` of the table ("", "horizontal", "vertical", "both"; adlib.training_set) mirrors single items; an
    image that is listed several times for it is decoded and cached once. A column `middle` names the side, in stored
    pixels, of the square around a picture's centre that is all that is read of it; 0 for the whole picture.

    images[i] is {"image": float32 [3, H, W] in [0, 1], "mask": bool [H, W], "label": int, "index": int}.
    Masks are cropped as the images are; an anomalous image without a mask file has an all-False mask here, so ask
    `has_masks` before scoring pixels, and `ground_truth` what resizing and cropping took away.
    Raises InputError, naming the file, for unreadable images, masks of the wrong size or that mask_rule refuses, and a
    mask that contradicts its label: an empty one of an anomalous image, or a filled one of a normal image.
    """

    def __init__(
        self,
        samples: pd.DataFrame,
        size: int | tuple[int, int] = 256,
        crop: int | tuple[int, int] | None = None,
        cache: str | Path | None = None,
        window: tuple[float, float] | None = None,
        resize: str = "antialias",
        sides: str = "both",
        mask_rule: str | None = None,
        mask_resize: str = "area",
        fit: str = "stretch",
        tile: tuple[int, int] | None = None,
    ):
        self.samples = check_columns(samples)
        self.size = _pair(size, "size")
        self.resize = resizing.check_filter(resize)
        self.sides = resizing.check_sides(sides)
        if sides == "shorter" and self.size[0] != self.size[1]:
            raise InputError(f"size={size!r} names both sides: with sides='shorter' it must be one number of pixels.")
        self.crop = None if crop is None else _pair(crop, "crop")
        if self.crop and (self.crop[0] > self.size[0] or self.crop[1] > self.size[1]):
            raise InputError(f"crop={crop} is larger than size={size}.")
        self.window = check_window(window)
        self.mask_resize = check_resize(mask_resize)
        if mask_rule is not None:
            self.samples = self.samples.assign(mask_rule=check_rule(mask_rule))
        self.fit = resizing.check_fit(fit)
        if fit == "pad" and sides == "shorter":
            raise InputError("fit='pad' keeps all of the image, sides='shorter' cuts the longer side: choose one.")
        self.tile = check_tile(tile, self.whole)
        self.cache = None if cache is None or cache == "" else Path(cache)  # "" is none, as in `Detector.share`
        self._cached = None
        # Where the table mirrors images or cuts them into tiles, several items share one file: the row by which each of
        # them is decoded.
        several = [name for name in ("mirror", "tile") if name in self.samples]
        self._files = self.samples.drop_duplicates("image").drop(columns=several) if several else self.samples
        self._file_of = pd.factorize(self.samples["image"])[0] if several else np.arange(len(self.samples))
        self._mirror = self.samples["mirror"].to_numpy() if "mirror" in self.samples else None
        self._corners = None
        if "tile" in self.samples:
            self._corners = [tuple(map(int, place.split())) for place in self.samples["tile"]]
        self._decoded: tuple[int, np.ndarray] = (-1, np.empty(0))  # the last file: tiles follow one another
        self._fates: dict[int, Fate] = {}
        self._seen: dict[int, bool] = {}

    @property
    def settings(self) -> dict:
        """All that decides pixels and masks, as plain values: ImageSet(samples, **settings) gives the same ones."""
        names = ("size", "crop", "window", "resize", "sides", "mask_resize")
        large = {"fit": self.fit} if self.fit != "stretch" else {}
        large |= {} if self.tile is None else {"tile": self.tile}
        return {name: getattr(self, name) for name in names} | large

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of every item: of the images, or of their tiles where the table names some."""
        return self.whole if self._corners is None else (self.tile[0], self.tile[0])

    @property
    def whole(self) -> tuple[int, int]:
        """(H, W) of every image, resized and cropped."""
        return self.crop or self.size

    @property
    def seen(self) -> tuple[int, int]:
        """(H, W) of what a detector sees at once: of a tile where the images have some, else of an image."""
        return self.whole if self.tile is None else (self.tile[0], self.tile[0])

    def tiles(self) -> "ImageSet":
        """The set of all tiles of these images, image by image; of a set without `tile`, or of tiles, itself.

        A tile's label is whether its part of the mask is filled, and its image's where there is no mask.
        """
        if self.tile is None or self._corners is not None:
            return self
        places = corners(self.whole, self.tile)
        table = self.samples.loc[self.samples.index.repeat(len(places))].reset_index(drop=True)
        table["tile"] = [f"{top} {left}" for top, left in places] * len(self.samples)
        side, labels = self.tile[0], np.repeat(self.labels, len(places)).reshape(len(self.samples), -1)
        for index in np.flatnonzero((self.samples["mask"] != "") & is_known(self.samples)):
            mask = self._mask(index)[0]
            labels[index] = [mask[top : top + side, left : left + side].any() for top, left in places]
        table["label"] = labels.reshape(-1)
        return ImageSet(table, cache=self.cache, **self.settings)

    @property
    def labels(self) -> np.ndarray:
        """int8 [N]: 0 normal, 1 anomalous, -1 unknown."""
        return self.samples["label"].to_numpy("int8")

    @property
    def has_masks(self) -> bool:
        """Whether every anomalous image has a mask file, so that pixels can be scored."""
        return bool((self.samples.loc[self.samples["label"] == 1, "mask"] != "").all())

    def masks(self) -> np.ndarray:
        """bool [N, H, W]: the ground truth of all images."""
        masks = np.zeros((len(self), *self.shape), bool)
        for index in np.flatnonzero(self.samples["mask"] != ""):
            masks[index], self._fates[index] = self._mask(index)
            self._seen[index] = bool(masks[index].any())
        return masks

    def ground_truth(self) -> dict[str, int]:
        """How much of the ground truth is left at this size; reads all masks, unless `masks` has done so.

        Returns the numbers of masks ("images") and of 8-connected regions in them ("regions"), of those of which
        resizing and cropping left no pixel ("images_lost", "regions_lost"), and of those cut by the crop's border
        ("regions_cut").
        """
        if not self._fates:
            self.masks()
        anomalous = [index for index, fate in self._fates.items() if fate.regions]
        return {
            "images": len(anomalous),
            "images_lost": sum(not self._seen[index] for index in anomalous),
            "regions": sum(fate.regions for fate in self._fates.values()),
            "regions_lost": sum(fate.lost for fate in self._fates.values()),
            "regions_cut": sum(fate.cut for fate in self._fates.values()),
        }

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict:
        index = range(len(self))[index]  # negative indices, IndexError past the end
        return {
            "image": self.pixels(index),
            "mask": torch.from_numpy(self._mask(index)[0]),
            "label": int(self.samples["label"].iat[index]),
            "index": index,
        }

    def pixels(self, index: int) -> torch.Tensor:
        """The picture of one item alone: float32 [3, H, W] in [0, 1]."""
        if self.cache is None and self._corners is not None:
            if self._decoded[0] != self._file_of[index]:
                self._decoded = (self._file_of[index], self._load(index))
            stored = self._decoded[1]
        else:
            stored = self._load(index) if self.cache is None else self._from_cache(index)
        stored = self._tile_of(self._mirrored(stored, index), index)
        return torch.from_numpy(stored.astype(np.float32)) / np.iinfo(stored.dtype).max

    def _mirrored(self, pixels: np.ndarray, index: int) -> np.ndarray:
        """Pixels [..., H, W] of an item, mirrored as its row says."""
        mirror = "" if self._mirror is None else self._mirror[index]
        axes = {"": (), "horizontal": (-1,), "vertical": (-2,), "both": (-2, -1)}[mirror]
        return np.flip(pixels, axes) if axes else pixels

    def _tile_of(self, pixels: np.ndarray, index: int) -> np.ndarray:
        """Pixels [..., H, W] of an image, or of the tile of it that an item is."""
        if self._corners is None:
            return pixels
        (top, left), side = self._corners[index], self.tile[0]
        return pixels[..., top : top + side, left : left + side]

    def _load(self, index: int) -> np.ndarray:
        pixels = read_image(self.samples["image"].iat[index], self.window)
        pixels = self._middle(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1), index)
        size = resizing.resized_shape(pixels.shape[1:], self.size, self.sides, self.fit)
        pixels = resizing.padded(resizing.resize(pixels, size, self.resize), self.size if self.fit == "pad" else size)
        return np.broadcast_to(self._cropped(pixels), (3, *self.whole))

    def _mask(self, index: int) -> tuple[np.ndarray, Fate]:
        path = self.samples["mask"].iat[index]
        if not path:
            return np.zeros(self.shape, bool), Fate()
        image = self.samples["image"].iat[index]
        mask = read_mask(path, shape=image_shape(image), image=image, rule=self._rule(index))
        label = self.samples["label"].iat[index]
        if self._corners is None and label != UNKNOWN and mask.any() != label:
            said, seen = ("normal", "not empty") if mask.any() else ("anomalous", "empty")
            raise InputError(f"{image} is labelled {said} but its mask {path} is {seen}: correct one of them.")
        mask = self._middle(mask, index)
        size = resizing.resized_shape(mask.shape, self.size, self.sides, self.fit)
        if self.fit == "pad":
            small, fate = fit_mask(mask, size, (0, 0), size, self.mask_resize)
            small = self._cropped(resizing.padded(small, self.size, fill=False))
            if self.whole != self.size:  # what the crop takes of the picture in the middle of its padding
                starts = resizing.crop_corner(self.size, self.whole)
                edges = [(full - part) // 2 for full, part in zip(self.size, size, strict=True)]
                spans = zip(starts, self.whole, edges, size, strict=True)
                ends = [(max(0, a - edge), min(part, a + side - edge)) for a, side, edge, part in spans]
                corner, shape = zip(*((low, high - low) for low, high in ends), strict=True)
                _, fate = fit_mask(mask, size, corner, shape, self.mask_resize)
        else:
            corner = resizing.crop_corner(size, self.whole)
            small, fate = fit_mask(mask, size, corner, self.whole, self.mask_resize)
        return np.ascontiguousarray(self._tile_of(self._mirrored(small, index), index)), fate

    def _middle(self, pixels: np.ndarray, index: int) -> np.ndarray:
        """Pixels [..., H, W] of an item, or the square around their centre that its row names."""
        side = int(self.samples["middle"].iat[index]) if "middle" in self.samples else 0
        if not side:
            return pixels
        top, left = resizing.crop_corner(pixels.shape[-2:], (side, side))
        return pixels[..., top : top + side, left : left + side]

    def _rule(self, index: int) -> str:
        return self.samples["mask_rule"].iat[index] if "mask_rule" in self.samples else ""

    def _cropped(self, pixels: np.ndarray) -> np.ndarray:
        """The centre crop of the last two axes; whole pictures of that shape stay as they are."""
        height, width = self.whole
        top, left = resizing.crop_corner(pixels.shape[-2:], self.whole)
        return pixels[..., top : top + height, left : left + width]

    @property
    def cache_file(self) -> Path:
        """The file of the cache, whether it is there yet or not."""
        pixels = [item for item in self.settings.items() if item[0] not in ("mask_resize", "tile")]
        identity = f"{fingerprint(self._files)} {pixels} {image_cache.decoder()}"
        return self.cache / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.npy"

    @property
    def cache_bytes(self) -> int:
        """What the cache takes on disk, with 16-bit images twice that."""
        return len(self._files) * 3 * math.prod(self.whole)

    def build_cache(self, workers: int = 0) -> Path:
        """Decode and resize all images into the cache, if it is not there yet; returns its file.

        workers: processes that do so beside this one. Raises OSError when the disk is full.
        """
        file = self.cache_file
        if self.is_cached:
            return file
        self.cache.mkdir(parents=True, exist_ok=True)
        # One process builds and the others wait; one that is killed leaves its lock to the system and no file of the
        # final name, only a partial one, which the next builder overwrites.
        with FileLock(file.with_suffix(".lock")):
            if not self.is_cached:
                partial = file.with_suffix(".partial")
                try:
                    if not self._write_all(partial, np.uint8, workers):
                        self._write_all(partial, np.uint16, workers)
                    partial.replace(file)
                finally:
                    partial.unlink(missing_ok=True)  # on a full disk, the record needs the room
        return file

    @property
    def is_cached(self) -> bool:
        """Whether the cache's file is there and whole; its images are checked when they are read."""
        return image_cache.open_cache(self.cache_file, self._cache_shape) is not None

    @property
    def _cache_shape(self) -> tuple[int, ...]:
        return len(self._files), 3, *self.whole

    def _from_cache(self, index: int) -> np.ndarray:
        """The stored pixels of an item. A cache that is damaged, cut or deleted is built anew once; where that does not
        help, images are decoded from their own files from then on.
        """
        for _ in range(2):
            if self._cached is None:
                self._cached = image_cache.open_cache(self.build_cache(), self._cache_shape)
            if self._cached and (stored := self._cached.read(self._file_of[index])) is not None:
                return stored
            self._cached = None
            with suppress(OSError):
                self.cache_file.unlink(missing_ok=True)
        self.cache = None
        return self._load(index)

    def _write_all(self, name: Path, dtype: type, workers: int) -> bool:
        """Write every image into one file; False as soon as an image has more bits than dtype."""
        options = {"batch_size": None, "num_workers": workers, "collate_fn": _unchanged}
        # A generator of its own: the random numbers of a training must not depend on whether the cache was there.
        images = DataLoader(_Stored(self), **options, generator=torch.Generator())
        return image_cache.write(name, images, self._cache_shape, dtype)


def check_window(window: tuple[float, float] | None) -> tuple[float, float] | None:
    """The window, as two numbers, or None. Raises InputError for anything else, and where the two do not rise."""
    pair = checked("window", window, tuple[float, float] | None)
    if pair and not pair[0] < pair[1]:
        raise InputError(f"window={window} must be (low, high) with low < high.")
    return pair


class _Stored(Dataset):
    """The pixels of an ImageSet as its cache keeps them, each file once."""

    def __init__(self, images: ImageSet):
        self.images = images
        self.rows = images._files.index

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.images._load(self.rows[index])


def _unchanged(item):
    return item


def _pair(value: int | tuple[int, int], name: str) -> tuple[int, int]:
    try:
        pair = checked(name, value, Count | tuple[Count, Count])
    except InputError as error:
        raise InputError(f"{name}={value!r} must be a number of pixels or a pair (height, width).") from error
    return (pair, pair) if isinstance(pair, int) else pair
