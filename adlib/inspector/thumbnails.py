"""Thumbnails: small pictures of the samples near the current one, made only when they are visible."""

import numpy as np

from adlib.errors import InputError
from adlib.inspector import panels, render
from adlib.inspector.joined import Joined

NUMBER, BEFORE = 13, 5  # in the strip, and how many of them stand before the current one
KEPT = 400  # in memory, about 5 kB each


class Thumbnails:
    """Keeps the thumbnails that were made last."""

    def __init__(self, joined: Joined):
        self._joined = joined
        self._made: dict[int, bytes] = {}

    def near(self, shown: np.ndarray, position: int) -> tuple[int, list[int]]:
        """(first position, indices) of the part of the list that the strip shows."""
        first = max(0, min(position - BEFORE, len(shown) - NUMBER))
        return first, shown[first : first + NUMBER].tolist()

    def make(self, indices: list[int], at_most: int = 3) -> bool:
        """Make some of those that are missing; True if there are more. A few at a time, so that no step waits."""
        missing = [index for index in indices if index not in self._made]
        for index in missing[:at_most]:
            self._made[index] = _thumbnail(self._joined, index)
        while len(self._made) > KEPT:
            del self._made[next(iter(self._made))]
        return len(missing) > at_most

    def get(self, index: int) -> bytes:
        """JPEG of a sample; b"" if it is not made yet or cannot be read."""
        return self._made.get(index, b"")

    def forget(self) -> None:
        """Forget all: the files have moved."""
        self._made.clear()


def _thumbnail(joined: Joined, index: int) -> bytes:
    try:
        image, window = joined.read(index)
    except InputError:
        return b""
    # 16-bit files often use a small part of their range: without a window such a thumbnail would be black.
    if window is None and image.dtype == np.uint16:
        window = render.auto_window(image)
    return render.jpeg(panels.ground(image, panels.Look(window, longest=96)))
