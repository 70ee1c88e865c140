"""Picture files: decode one at full size, or ask for its size.

Size and pixels come from one reading of the header, so they always agree: a rotation that EXIF or TIFF ask for is
applied, a TIFF whose 0 means white becomes a picture whose 0 is black, a palette becomes its colours. Grey values are
8- or 16-bit; floating-point ones are read where they lie between 0 (black) and 1 (white), or in a window that is named.
A picture inside an HDF5 file is named "file.h5::dataset::index".
"""

import io
import os
import struct
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from adlib import hdf5
from adlib.decoding import bmp, tiff
from adlib.errors import InputError
from adlib.files import refuse_pipe

MAX_PIXELS = 2**28  # of one picture, 16,384 x 16,384; the environment variable ADLIB_MAX_PIXELS says otherwise
_OPENCV_PIXELS = 2**30  # OpenCV's own limit, OPENCV_IO_MAX_IMAGE_PIXELS
_TURNED = {  # what an orientation asks for; 5 to 8 exchange height and width
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}
# What some of Pillow's readers raise on damaged files of their format: IndexError for a GIF, RuntimeError for AVIF,
# AttributeError for SPIDER.
_DAMAGED = (LookupError, RuntimeError, AttributeError, TypeError, ArithmeticError, MemoryError, zlib.error)
_pillow_limit = threading.Lock()


@dataclass(frozen=True)
class _Header:
    """height, width: as stored. turn: the orientation that is still to be applied to the pixels that OpenCV decodes.

    alpha_at: in a TIFF file, the byte that says that the colours are not multiplied with alpha.
    grey_alpha_16: a TIFF file of 16-bit grey with alpha.
    """

    height: int
    width: int
    orientation: int = 1
    turn: int = 1
    white_is_zero: bool = False
    lossy: bool = False
    alpha_at: int = 0
    grey_alpha_16: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


def read_image(path: str | Path, window: tuple[float, float] | None = None) -> np.ndarray:
    """Decode one image at full size.

    window: (low, high) stored values that become black and white; what lies outside is clipped.
    Returns uint8 or uint16, [H, W] for grey files and [H, W, 3] RGB for colour files; uint16 with a window, and of
    floating-point files, whose 0 to 1 becomes 0 to 65535.
    Raises InputError for a file that is missing, empty, truncated, not an image, of several pages or of more than
    MAX_PIXELS pixels, for values that are neither 8- nor 16-bit nor floating-point, and for floating-point values
    outside 0 to 1 where no window says what they mean.
    """
    return _as_levels(decode(path)[0], path, window)


def read_levels(
    path: str | Path, window: tuple[float, float] | None = None
) -> tuple[np.ndarray, tuple[float, float] | None]:
    """Decode one image in grey levels to look at, with the levels that are black and white in it.

    Returns (image, levels). Of 8 and 16 bits, the values as stored and the window as given. Of other values, such
    as floating-point ones, what `read_image` makes of them: with a window uint16, of which 0 is black and 65535 white.
    Raises InputError as `read_image` does.
    """
    image, _ = decode(path)
    if image.dtype in (np.uint8, np.uint16):
        return image, window
    return _as_levels(image, path, window), None if window is None else (0.0, 65535.0)


def _as_levels(image: np.ndarray, path: str | Path, window: tuple[float, float] | None) -> np.ndarray:
    """Decoded values as uint8 or uint16, or an InputError that names the path."""
    floating = image.dtype.kind == "f"
    if floating and not np.isfinite(image).all():
        raise InputError(f"{path} holds values that are no numbers (NaN or infinite): correct the file.")
    if window is not None and (floating or image.dtype.kind in "iu"):
        low, high = window
        return np.round(((image.astype(np.float32) - low) / (high - low)).clip(0, 1) * 65535).astype(np.uint16)
    if floating:
        if image.min() < 0 or image.max() > 1:
            raise InputError(
                f"{path} holds {image.dtype} values from {image.min():g} to {image.max():g}; floating-point values are "
                "read from 0 (black) to 1 (white): give window=(low, high), or convert the file."
            )
        return np.round(image * 65535).astype(np.uint16)
    if image.dtype not in (np.uint8, np.uint16):
        raise InputError(f"{path} holds {image.dtype} values; adlib reads 8- and 16-bit images: convert it.")
    return image


def image_shape(path: str | Path) -> tuple[int, int]:
    """(H, W) of an image as `read_image` decodes it, from its header alone."""
    if hdf5.split_name(path):
        return hdf5.picture_shape(path)
    refuse_pipe(path)
    try:
        with Path(path).open("rb") as file:
            header = _read_header(file, path)
    except OSError as error:
        raise InputError(f"{path} cannot be read as an image: {error.strerror or error}.") from error
    return header.shape if header else decode(path)[0].shape[:2]


def decode(path: str | Path, alpha: bool = False) -> tuple[np.ndarray, bool]:
    """The stored values, and whether the file's format is one that changes values (JPEG, lossy WebP).

    alpha: keep an alpha channel. Returns [H, W], RGB [H, W, 3] or RGBA [H, W, 4], of whatever type the file holds.
    """
    if hdf5.split_name(path):
        return hdf5.read_picture(path), False
    refuse_pipe(path)
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    if not data:
        raise InputError(f"{path} is empty (0 bytes).")
    header = _read_header(io.BytesIO(data), path) or _Header(0, 0)
    unusual = bmp.read_unusual(data, str(path))
    if unusual is not None:
        has_alpha = unusual.ndim == 3 and unusual.shape[2] == 4
        return (np.ascontiguousarray(unusual[..., :3]) if has_alpha and not alpha else unusual), False
    if header.grey_alpha_16:
        raise InputError(f"{path} holds 16-bit grey with alpha, of which 8 bits could be read: save it without alpha.")
    if header.alpha_at:
        # OpenCV multiplies such colours with alpha, and leaves those alone that are said to be multiplied already.
        data = data[: header.alpha_at] + b"\1" + data[header.alpha_at + 1 :]
    colours = cv2.IMREAD_UNCHANGED if alpha else cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR
    previous = _set_log_level(0)  # LOG_LEVEL_SILENT
    try:
        # Bytes and imdecode rather than imread: imread fails on some systems for non-ASCII names.
        image = cv2.imdecode(np.frombuffer(data, np.uint8), colours | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as error:
        raise InputError(f"{path} cannot be decoded as an image: {error.err or error}.") from error
    finally:
        _set_log_level(previous)
    if image is None:
        raise InputError(f"{path} cannot be decoded as an image: is it truncated, or another kind of file?")
    if header.white_is_zero and image.dtype != np.uint8:  # OpenCV turns 8 bits, but no more
        if image.dtype != np.uint16:
            raise InputError(f"{path} says that 0 is white, of {image.dtype} values, which have no black: convert it.")
        image = 65535 - image
    image = np.ascontiguousarray(_TURNED[header.turn](image))
    if image.ndim == 3:
        order = cv2.COLOR_BGRA2RGBA if image.shape[2] == 4 else cv2.COLOR_BGR2RGB
        image = cv2.cvtColor(image, order)
    return image, header.lossy


def _set_log_level(level: int) -> int:
    """What OpenCV prints by itself of files that it cannot read; the level until now. It moved house in 4.13."""
    return getattr(cv2.utils, "logging", cv2).setLogLevel(level)


def _read_header(file, path: str | Path) -> _Header | None:
    """The header of an opened file; None for a format that only OpenCV knows, and for what is no picture at all."""
    start = file.read(16)
    if tiff.is_tiff(start):
        found = tiff.read_header(file, str(path))
        _need_one_page(found.pages, path)
        # OpenCV turns a TIFF whatever it is told.
        header = _Header(
            found.height,
            found.width,
            found.orientation,
            white_is_zero=found.white_is_zero,
            lossy=found.lossy,
            alpha_at=found.alpha_at,
            grey_alpha_16=found.grey_alpha_16,
        )
    else:
        file.seek(0)
        header = _read_with_pillow(file, path)
    if header is not None:
        _need_pixels(header.height * header.width, path)
    return header


def _read_with_pillow(file, path: str | Path) -> _Header | None:
    with _pillow_limit:  # Pillow's own limit warns and raises other errors than ours, and is the same for all threads
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            with Image.open(file) as picture:
                width, height = picture.size
                pages = getattr(picture, "n_frames", 1) if picture.format in ("GIF", "PNG", "WEBP") else 1
                lossy = picture.format in ("JPEG", "MPO") or (picture.format == "WEBP" and _webp_is_lossy(file))
                # Pillow decodes all of a PNG that has no EXIF to make sure.
                has_exif = picture.format != "PNG" or _png_has_exif(file)
                turn = picture.getexif().get(0x0112, 1) if has_exif else 1
        except (OSError, SyntaxError, ValueError, struct.error):  # no picture, or one that OpenCV may know better
            return None
        except _DAMAGED as error:
            raise InputError(f"{path} cannot be decoded as an image: it is damaged ({error}).") from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    _need_one_page(pages, path)
    turn = turn if turn in _TURNED else 1
    return _Header(height, width, turn, turn, lossy=lossy)


def _need_one_page(pages: int, path: str | Path) -> None:
    if pages > 1:
        raise InputError(f"{path} holds {pages} pictures; a sample is one picture: save each as a file of its own.")


def _need_pixels(number: int, path: str | Path) -> None:
    """Raise InputError for more pixels than the limit."""
    given = os.environ.get("ADLIB_MAX_PIXELS", str(MAX_PIXELS))
    if not given.isdecimal():
        raise InputError(f"ADLIB_MAX_PIXELS={given!r} must be a number of pixels.")
    if number <= int(given):
        return
    more = f", and OPENCV_IO_MAX_IMAGE_PIXELS={number} with it" if number > _OPENCV_PIXELS else ""
    raise InputError(
        f"{path} has {number} pixels, more than the limit of {int(given)}: cut it into tiles, or set the environment "
        f"variable ADLIB_MAX_PIXELS={number}{more} (decoding and resizing take up to 15 bytes of memory a pixel)."
    )


def _webp_is_lossy(file) -> bool:
    """Whether a WebP file holds a chunk of lossy pixels ("VP8 "), not lossless ones ("VP8L")."""
    place = file.tell()
    file.seek(12)
    lossy = False
    while len(header := file.read(8)) == 8:
        kind, length = struct.unpack("<4sI", header)
        if kind == b"VP8 ":
            lossy = True
            break
        file.seek(length + length % 2, 1)
    file.seek(place)
    return lossy


def _png_has_exif(file) -> bool:
    """Whether a PNG holds a chunk of EXIF, before or behind its pixels; skips from chunk to chunk."""
    place = file.tell()
    file.seek(8)
    found = False
    while len(header := file.read(8)) == 8 and not found:
        length, kind = struct.unpack(">I4s", header)
        found = kind == b"eXIf"
        file.seek(length + 4, 1)
    file.seek(place)
    return found
