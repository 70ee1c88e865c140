"""Images: decode, resize and crop the files of a samples table, as plain RGB in [0, 1].

Normalising (mean and standard deviation) is the model's business, so plots, synthesis and the inspector need no
undoing. Colour images become RGB, grey ones three equal channels, an alpha channel is dropped, an EXIF rotation
is applied. 8-bit values are divided by 255 and 16-bit values by 65535, the same for every image of a set; where
a 16-bit file holds fewer bits (a 12-bit detector, say), `window=(0, 4095)` names the grey values that become
black and white, and what lies outside is clipped. A picture inside an HDF5 file is named "file.h5::dataset::index".
"""

import hashlib
import math
import struct
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from adlib import hdf5, resizing
from adlib.errors import InputError
from adlib.samples import check_columns, fingerprint


def read_image(path: str | Path) -> np.ndarray:
    """Decode one image at full size.

    Returns uint8 or uint16, [H, W] for grey files and [H, W, 3] RGB for colour files.
    Raises InputError for a file that is missing, empty, truncated, not an image, or neither 8- nor 16-bit.
    """
    image = _decode(path)
    if image.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{path} holds {image.dtype} values; adlib reads 8- and 16-bit images: convert it.")
    return image


def image_shape(path: str | Path) -> tuple[int, int]:
    """(H, W) of an image as `read_image` decodes it, from its header alone."""
    if hdf5.split_name(path):
        return hdf5.picture_shape(path)
    try:
        with Image.open(path) as file:
            width, height = file.size
            # EXIF orientations 5 to 8 lie on their side. Pillow decodes all of a PNG that has none to make sure.
            has_exif = file.format != "PNG" or _png_has_exif(Path(path))
            turned = has_exif and file.getexif().get(0x0112, 1) >= 5
    except OSError as error:
        raise InputError(f"{path} cannot be read as an image: {error.strerror or error}.") from error
    return (width, height) if turned else (height, width)


def _png_has_exif(path: Path) -> bool:
    """Whether a PNG holds a chunk of EXIF, before or behind its pixels; skips from chunk to chunk."""
    with path.open("rb") as file:
        file.seek(8)
        while len(header := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", header)
            if kind == b"eXIf":
                return True
            file.seek(length + 4, 1)
    return False


def read_mask(path: str | Path, shape: tuple[int, int], image: str | Path = "its image") -> np.ndarray:
    """Decode one ground-truth mask at full size.

    shape: (H, W) of the image it belongs to; image: that image's path, for the message.
    Returns bool [H, W]: foreground is every value above 0 (files hold 0/1, 0/255 or class numbers); in a JPEG,
    which blurs values, every value of at least 128.
    Raises InputError for an unreadable file and for another size than the image's.
    """
    mask = _decode(path)
    if mask.ndim == 3:
        mask = mask.max(axis=2)
    if mask.shape != tuple(shape):
        raise InputError(
            f"The mask {path} is {mask.shape[1]}x{mask.shape[0]} pixels but {image} is {shape[1]}x{shape[0]}."
        )
    return mask >= 128 if Path(path).suffix.lower() in (".jpg", ".jpeg") else mask > 0


def _decode(path: str | Path) -> np.ndarray:
    """[H, W] or RGB [H, W, 3], of whatever type the file holds."""
    if hdf5.split_name(path):
        return hdf5.read_picture(path)
    # np.fromfile and imdecode rather than imread: imread fails on some systems for non-ASCII names.
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    if not data.size:
        raise InputError(f"{path} is empty (0 bytes).")
    previous = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        image = cv2.imdecode(data, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR)
    except cv2.error as error:
        raise InputError(f"{path} cannot be decoded as an image: {error.err or error}.") from error
    finally:
        cv2.utils.logging.setLogLevel(previous)
    if image is None:
        raise InputError(f"{path} cannot be decoded as an image: is it truncated, or another kind of file?")
    return image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


class ImageSet(Dataset):
    """A torch Dataset over a samples table: all images of one size.

    samples: the table (adlib.samples); row i is item i.
    size: S for S x S pixels or (H, W), to which the image is resized and rounded to the file's depth.
    sides: "both" are resized to the size, and proportions change if they differ; or the "shorter" to S, with the
        proportions kept: then the centre is cut out, S x S if crop is None, so that all images have one shape.
    resize: how, one of adlib.resizing.FILTERS: "antialias" (bilinear), "lanczos", "bicubic", "linear" (bilinear
        without antialiasing), "area".
    crop: side (or (H, W)) of the centre crop taken after resizing, or None.
    window: (low, high) stored grey values that become 0 and 1, or None for the full range of 8 or 16 bits.
    cache: a folder in which the resized images are kept as one memory-mapped file, or None. It is built at the
        first access and speeds up every later one; it is as big as the resized pixels.

    A column `mirror` of the table ("", "horizontal", "vertical", "both"; adlib.training_set) mirrors single items; an
    image that is listed several times for it is decoded and cached once.

    images[i] is {"image": float32 [3, H, W] in [0, 1], "mask": bool [H, W], "label": int, "index": int}.
    Masks are resized by nearest neighbour; an anomalous image without a mask file has an all-False mask here, so
    ask `has_masks` before scoring pixels.
    Raises InputError, naming the file, for unreadable images, masks of the wrong size, and a mask that contradicts its
    label: an empty one of an anomalous image, or a filled one of a normal image.
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
        self.window = None if window is None else tuple(float(value) for value in window)
        if self.window and not self.window[0] < self.window[1]:
            raise InputError(f"window={window} must be (low, high) with low < high.")
        self.cache = None if cache is None else Path(cache)
        self._cached = None
        # Where the table mirrors images, several items share one file: the row by which each of them is decoded.
        mirrored = "mirror" in self.samples
        self._files = self.samples.drop_duplicates("image").drop(columns="mirror") if mirrored else self.samples
        self._file_of = pd.factorize(self.samples["image"])[0] if mirrored else np.arange(len(self.samples))
        self._mirror = self.samples["mirror"].to_numpy() if mirrored else None

    @property
    def settings(self) -> dict:
        """All that decides the pixels, as plain values: ImageSet(samples, **settings) gives the same ones."""
        names = ("size", "crop", "window", "resize", "sides")
        return {name: getattr(self, name) for name in names}

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of every image."""
        return self.crop or self.size

    @property
    def labels(self) -> np.ndarray:
        """int8 [N]: 0 normal, 1 anomalous."""
        return self.samples["label"].to_numpy("int8")

    @property
    def has_masks(self) -> bool:
        """Whether every anomalous image has a mask file, so that pixels can be scored."""
        return bool((self.samples.loc[self.samples["label"] == 1, "mask"] != "").all())

    def masks(self) -> np.ndarray:
        """bool [N, H, W]: the ground truth of all images."""
        masks = np.zeros((len(self), *self.shape), bool)
        for index in np.flatnonzero(self.samples["mask"] != ""):
            masks[index] = self._mask(index)
        return masks

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict:
        index = range(len(self))[index]  # negative indices, IndexError past the end
        return {
            "image": self.pixels(index),
            "mask": torch.from_numpy(self._mask(index)),
            "label": int(self.samples["label"].iat[index]),
            "index": index,
        }

    def pixels(self, index: int) -> torch.Tensor:
        """The picture of one item alone: float32 [3, H, W] in [0, 1]."""
        if self.cache is None:
            stored = self._load(index)
        else:
            if self._cached is None:
                self._cached = np.load(self.build_cache(), mmap_mode="r")
            stored = self._cached[self._file_of[index]]
        stored = self._mirrored(stored, index)
        return torch.from_numpy(stored.astype(np.float32)) / np.iinfo(stored.dtype).max

    def _mirrored(self, pixels: np.ndarray, index: int) -> np.ndarray:
        """Pixels [..., H, W] of an item, mirrored as its row says."""
        mirror = "" if self._mirror is None else self._mirror[index]
        axes = {"": (), "horizontal": (-1,), "vertical": (-2,), "both": (-2, -1)}[mirror]
        return np.flip(pixels, axes) if axes else pixels

    def _load(self, index: int) -> np.ndarray:
        pixels = read_image(self.samples["image"].iat[index])
        if self.window:
            low, high = self.window
            scaled = (pixels.astype(np.float32) - low) / (high - low)
            pixels = np.round(scaled.clip(0, 1) * 65535).astype(np.uint16)
        pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        pixels = resizing.resize(pixels, resizing.resized_shape(pixels.shape[1:], self.size, self.sides), self.resize)
        return np.broadcast_to(self._cropped(pixels), (3, *self.shape))

    def _mask(self, index: int) -> np.ndarray:
        path = self.samples["mask"].iat[index]
        if not path:
            return np.zeros(self.shape, bool)
        image = self.samples["image"].iat[index]
        mask = read_mask(path, shape=image_shape(image), image=image)
        if mask.any() != self.samples["label"].iat[index]:
            said, seen = ("normal", "not empty") if mask.any() else ("anomalous", "empty")
            raise InputError(f"{image} is labelled {said} but its mask {path} is {seen}: correct one of them.")
        height, width = resizing.resized_shape(mask.shape, self.size, self.sides)
        small = cv2.resize(mask.view(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        return np.ascontiguousarray(self._mirrored(self._cropped(small.astype(bool)), index))

    def _cropped(self, pixels: np.ndarray) -> np.ndarray:
        """The centre crop of the last two axes; whole pictures of the set's shape stay as they are."""
        height, width = self.shape
        top, left = resizing.crop_corner(pixels.shape[-2:], self.shape)
        return pixels[..., top : top + height, left : left + width]

    @property
    def cache_file(self) -> Path:
        """The file of the cache, whether it is there yet or not."""
        identity = f"{fingerprint(self._files)} {list(self.settings.items())}"
        return self.cache / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.npy"

    @property
    def cache_bytes(self) -> int:
        """What the cache takes on disk, with 16-bit images twice that."""
        return len(self._files) * 3 * math.prod(self.shape)

    def build_cache(self, workers: int = 0) -> Path:
        """Decode and resize all images into the cache, if it is not there yet; returns its file.

        workers: processes that do so beside this one. Raises OSError when the disk is full.
        """
        file = self.cache_file
        if file.exists():
            return file
        self.cache.mkdir(parents=True, exist_ok=True)
        # One process builds and the others wait; one that is killed leaves its lock to the system and no file of the
        # final name, only a partial one, which the next builder overwrites.
        with FileLock(file.with_suffix(".lock")):
            if not file.exists():
                partial = file.with_suffix(".partial")
                if not self._write_all(partial, np.uint8, workers):
                    self._write_all(partial, np.uint16, workers)
                partial.replace(file)
        return file

    def _write_all(self, name: Path, dtype: type, workers: int) -> bool:
        """Write every image into one .npy file; False as soon as an image has more bits than dtype."""
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False}
        # Written as a stream: on a full disk a memory-mapped file would end the process, this raises OSError.
        with name.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header | {"shape": (len(self._files), 3, *self.shape)})
            options = {"batch_size": None, "num_workers": workers, "collate_fn": _unchanged}
            # A generator of its own: the random numbers of a training must not depend on whether the cache was there.
            for pixels in DataLoader(_Stored(self), **options, generator=torch.Generator()):
                if pixels.dtype == np.uint16 and dtype == np.uint8:
                    return False
                file.write(np.ascontiguousarray(pixels if pixels.dtype == dtype else pixels.astype(dtype) * 257))
        return True


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
    pair = (value, value) if np.isscalar(value) else tuple(value)
    if len(pair) != 2 or not all(float(side).is_integer() and side > 0 for side in pair):
        raise InputError(f"{name}={value!r} must be a number of pixels or a pair (height, width).")
    return int(pair[0]), int(pair[1])
