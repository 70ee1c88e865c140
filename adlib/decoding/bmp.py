"""BMP files that OpenCV reads in wrong colours: those with bit masks of their own, and those with OS/2's old header."""

import io
import struct

import numpy as np
from PIL import Image

from adlib.errors import InputError

_OLD = 12  # bytes of OS/2's header
_MASKED = (3, 6)  # compressions "none, with bit masks", without and with one of alpha
_USUAL = {32: [(0xFF0000, 0xFF00, 0xFF)], 16: [(0xF800, 0x7E0, 0x1F), (0x7C00, 0x3E0, 0x1F)]}  # OpenCV is right


def read_unusual(data: bytes, name: str) -> np.ndarray | None:
    """The pixels of a BMP file that OpenCV would read wrongly or not at all; None for every other file.

    Returns RGB [H, W, 3], RGBA [H, W, 4] where a mask of alpha is given, or [H, W] for a grey file of OS/2; uint8, or
    uint16 where a channel has more than 8 bits.
    name: for the message. Raises InputError for a cut file, and for masks that overlap, are empty or have holes.
    """
    if data[:2] != b"BM" or len(data) < 26:
        return None
    length = struct.unpack_from("<I", data, 14)[0]
    if length == _OLD:
        return _old(data, name)
    if length < 40 or len(data) < 70:
        return None
    offset = struct.unpack_from("<I", data, 10)[0]
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    if compression not in _MASKED or bits not in _USUAL:
        return None
    masks = struct.unpack_from("<IIII", data, 54)
    masks = masks if (compression == 6 or length >= 56) and masks[3] else masks[:3]
    if masks[:3] in _USUAL[bits] and compression == 3 and (bits == 32 or length == 40):
        return None
    _check(masks, bits, name)
    row = -(-width * bits // 32) * 4
    if width <= 0 or height == 0 or len(data) < offset + row * abs(height):
        raise InputError(f"{name} cannot be decoded as an image: it is truncated, or its size makes no sense.")
    rows = np.frombuffer(data, np.uint8, row * abs(height), offset).reshape(abs(height), row)
    pixels = rows[:, : width * bits // 8].copy().view(f"<u{bits // 8}")
    pixels = pixels[::-1] if height > 0 else pixels  # a positive height counts from below
    top = 65535 if any(mask.bit_count() > 8 for mask in masks) else 255
    planes = [_scaled(pixels, mask, top) for mask in masks]
    return np.stack(planes, -1)


def _check(masks: tuple[int, ...], bits: int, name: str) -> None:
    seen = 0
    for mask in masks:
        bare = mask // (mask & -mask) if mask else 0  # without the zeros on its right
        if not mask or bare & (bare + 1) or mask & seen or mask >> bits:
            raise InputError(
                f"{name} has bit masks that make no sense ({', '.join(f'{m:#x}' for m in masks)}): convert it."
            )
        seen |= mask


def _scaled(pixels: np.ndarray, mask: int, top: int) -> np.ndarray:
    """One channel, so that all bits of its mask set become `top`."""
    values = ((pixels & mask) // (mask & -mask)).astype(np.float64)
    return np.rint(values * top / (mask // (mask & -mask))).astype(np.uint16 if top > 255 else np.uint8)


def _old(data: bytes, name: str) -> np.ndarray:
    """A file with OS/2's header, of which OpenCV keeps no colours."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            colours = np.array(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, IndexError, struct.error, Image.DecompressionBombError) as error:
        raise InputError(f"{name} cannot be decoded as an image: it is truncated or damaged ({error}).") from error
    return colours if (colours != colours[..., :1]).any() else colours[..., 0]
