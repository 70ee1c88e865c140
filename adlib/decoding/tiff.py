"""What a TIFF file says of itself: size, orientation, kind of grey, number of pictures; no pixel is read."""

import struct
from dataclasses import dataclass
from typing import BinaryIO

from adlib.errors import InputError

_WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _SUBFILE = 256, 257, 259, 262, 274, 254
_NUMBERS = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}  # type of a tag -> how it is unpacked
_MOST_PAGES = 10_000  # a chain of pages that leads in a circle ends here


@dataclass(frozen=True)
class Header:
    """height, width: as stored, before turning. orientation: 1 to 8, as in EXIF. white_is_zero: photometric 0.

    lossy: the first page is compressed as JPEG. pages: pictures in the file; smaller copies and transparency masks of
    one, which the file marks as such, are not counted.
    """

    height: int
    width: int
    orientation: int
    white_is_zero: bool
    lossy: bool
    pages: int


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
            tags, offset = _page(file, offset, order, big)
            pages.append(tags)
        first = pages[0]
        return Header(
            first[_HEIGHT],
            first[_WIDTH],
            first.get(_ORIENTATION, 1) if 1 <= first.get(_ORIENTATION, 1) <= 8 else 1,
            first.get(_PHOTOMETRIC) == 0,
            first.get(_COMPRESSION) in (6, 7),
            1 + sum(not tags.get(_SUBFILE, 0) & 0b101 for tags in pages[1:]),
        )
    except (struct.error, IndexError, KeyError, OSError) as error:
        raise InputError(f"{name} cannot be decoded as an image: its TIFF header is damaged.") from error


def _page(file: BinaryIO, offset: int, order: str, big: bool) -> tuple[dict[int, int], int]:
    """The single numbers among one page's tags, and where the next page lies (0 for none)."""
    file.seek(offset)
    count, entry = (
        (struct.unpack(order + "Q", file.read(8))[0], 20)
        if big
        else (
            struct.unpack(order + "H", file.read(2))[0],
            12,
        )
    )
    data = file.read(count * entry + (8 if big else 4))
    tags = {}
    for start in range(0, count * entry, entry):
        tag, kind = struct.unpack_from(order + "HH", data, start)
        if kind in _NUMBERS:
            tags[tag] = struct.unpack_from(order + _NUMBERS[kind], data, start + entry - (8 if big else 4))[0]
    return tags, struct.unpack_from(order + ("Q" if big else "I"), data, count * entry)[0]
