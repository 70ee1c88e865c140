"""Files of the phantoms: named in a listing before they are there, written beside and renamed.

So an interruption leaves no half of a file, and none of which it is not known that it was drawn.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TextIO

import cv2
import numpy as np

_listing: ContextVar[tuple[Path, TextIO] | None] = ContextVar("listing", default=None)


@contextmanager
def listed(root: Path, listing: Path) -> Iterator[None]:
    """Name every file that is saved below `root` in this block in `listing`, one a line, by its path below `root`."""
    with listing.open("w", encoding="utf-8") as stream:
        before = _listing.set((Path(root), stream))
        try:
            yield
        finally:
            _listing.reset(before)


def announce(file: Path) -> None:
    """Name a file in the listing of the drawing under way, if there is one: it is about to be written."""
    if (under_way := _listing.get()) is not None:
        root, stream = under_way
        stream.write(f"{Path(file).relative_to(root).as_posix()}\n")
        stream.flush()


def save(file: Path, pixels: np.ndarray, quality: int = 95) -> None:
    """Write an image and make its folder; the format follows the name (.png without loss, .jpg).

    pixels: grey [H, W] or RGB [H, W, 3], uint8 or (PNG) uint16. quality: of a JPEG, up to 100.
    """
    if pixels.ndim == 3:
        pixels = np.ascontiguousarray(pixels[..., ::-1])  # OpenCV writes BGR
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if file.suffix == ".jpg" else []
    announce(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_bytes(cv2.imencode(file.suffix, pixels, options)[1].tobytes())
    partial.replace(file)
