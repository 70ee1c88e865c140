"""What a TIFF file says of itself: size, orientation, kind of grey, number of pictures; no pixel is read."""

import struct
from dataclasses import dataclass
from typing import BinaryIO

from adlib.errors import InputError

_WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _SUBFILE = 256, 257, 259, 262, 274, 254
_BITS, _SAMPLES, _EXTRA = 258, 277, 338
_STRAIGHT = 2  # alpha that the colours are not multiplied with
_NUMBERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}  # type of a tag -> how it is unpacked
_MOST_PAGES = 10_000  # a chain of pages that leads in a circle ends here
_MOST_TAGS = 65_535  # of a page, all that a TIFF can count; a BigTIFF that claims more is damaged


@dataclass(frozen=True)
class Header:
    """height, width: as stored, before turning. orientation: 1 to 8, as in EXIF. white_is_zero: photometric 0.

    lossy: the first page is compressed as JPEG. pages: pictures in the file; smaller copies and transparency masks of
    one, which the file marks as such, are not counted. alpha_at: the byte that says that the colours are not multiplied
    with alpha, 0 where none does. grey_alpha_16: 16-bit grey with alpha.
    """

    height: int
    width: int
    orientation: int
    white_is_zero: bool
    lossy: bool
    pages: int
    alpha_at: int = 0
    grey_alpha_16: bool = False


def is_tiff(start: bytes) -> bool:
    """Whether a file that starts with these bytes is a TIFF (or BigTIFF) file."""
    return start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def read_header(file: BinaryIO, name: str) -> Header:
    """The header of an opened TIFF file. name: for the message. Raises InputError where it is cut or makes no sense."""
    try:
        file.seek(0)
        start = file.read(16)
        order = "<" if start[:2] == b"II" else ">"
        big = 43 in (start[2], start[3])
        offset = struct.unpack_from(order + ("Q" if big else "I"), start, 8 if big else 4)[0]
        pages = []
        while offset and len(pages) < _MOST_PAGES:
            tags, places, offset = _page(file, offset, order, big)
            pages.append(tags)
            if len(pages) == 1:
                alpha_at = places[_EXTRA] if tags.get(_EXTRA) == _STRAIGHT else 0
        first = pages[0]
        return Header(
            first[_HEIGHT],
            first[_WIDTH],
            first.get(_ORIENTATION, 1) if 1 <= first.get(_ORIENTATION, 1) <= 8 else 1,
            first.get(_PHOTOMETRIC) == 0,
            first.get(_COMPRESSION) in (6, 7),
            1 + sum(not tags.get(_SUBFILE, 0) & 0b101 for tags in pages[1:]),
            alpha_at + (order == ">") if alpha_at else 0,  # of the two bytes of its value the lower
            first.get(_SAMPLES) == 2 and first.get(_BITS) == 16,
        )
    except (struct.error, IndexError, KeyError, OSError, ValueError, OverflowError) as error:
        raise InputError(f"{name} cannot be decoded as an image: its TIFF header is damaged.") from error


def _page(file: BinaryIO, offset: int, order: str, big: bool) -> tuple[dict[int, int], dict[int, int], int]:
    """The single numbers among one page's tags, where in the file each lies, and where the next page lies (0 for none).

    What libtiff ignores is ignored, as it decodes the pixels: a second tag of one number, and several values where one
    belongs. Of the bits of each channel the first counts.
    """
    file.seek(offset)
    (count,) = struct.unpack(order + ("Q" if big else "H"), file.read(8 if big else 2))
    if count > _MOST_TAGS:
        raise ValueError(f"{count} tags")
    entry, slot, begin = (20, 8, offset + 8) if big else (12, 4, offset + 2)
    data = file.read(count * entry + slot)
    tags, places = {}, {}
    for start in range(0, count * entry, entry):
        tag, kind, length = struct.unpack_from(order + "HH" + ("Q" if big else "I"), data, start)
        form = order + _NUMBERS.get(kind, "")
        size = struct.calcsize(form)
        if size and size * length <= slot and (length == 1 or tag == _BITS):
            places.setdefault(tag, begin + start + entry - slot)
            tags.setdefault(tag, struct.unpack_from(form, data, start + entry - slot)[0])
    return tags, places, struct.unpack_from(order + ("Q" if big else "I"), data, count * entry)[0]
