"""Tiles: large images cut into overlapping squares, and maps of the squares put together again.

A defect of a few pixels does not survive a resize to the size that networks like. With tiles a method sees squares of
that size at full resolution, one after the other; it never knows of the whole. In the overlap the maps of neighbours
pass over into one another, so that no seam is left.
"""

import numpy as np

from adlib.errors import InputError
from adlib.parameters import Count, Whole, checked


def check_tile(tile, shape: tuple[int, int]) -> tuple[int, int] | None:
    """(side, overlap) in pixels, or None; shape: (H, W) of the images. Raises InputError for what cannot be."""
    if tile is None:
        return None
    given = tile.tolist() if isinstance(tile, np.ndarray) else tile
    try:
        side, overlap = checked("tile", given, tuple[Count, Whole])
    except InputError as error:
        raise InputError(
            f"tile={tile!r} must be (side, overlap), both in pixels: whole numbers, the side of at least 1."
        ) from error
    if not 0 <= overlap <= side // 2:
        raise InputError(f"tile={tile!r}: the overlap must lie between 0 and half of the side.")
    if side > min(shape):
        raise InputError(f"tile={tile!r} is larger than the images of {shape[0]} x {shape[1]} pixels.")
    return side, overlap


def corners(shape: tuple[int, int], tile: tuple[int, int]) -> list[tuple[int, int]]:
    """(top, left) of every tile, row by row; the last of a row or column ends with the image, so overlaps more."""
    side, overlap = tile
    steps = []
    for full in shape:
        count = -(-(full - side) // (side - overlap)) + 1
        steps.append([min(index * (side - overlap), full - side) for index in range(count)])
    return [(top, left) for top in steps[0] for left in steps[1]]


def share(tile: tuple[int, int]) -> np.ndarray:
    """How much a tile's map counts at each of its pixels, before shares are divided by their sum: float32 [side, side].

    It falls from one to next to nothing along the overlap.
    """
    side, overlap = tile
    inside = np.minimum(np.arange(side), np.arange(side)[::-1]) + 0.5
    line = np.minimum(inside / max(overlap, 0.5), 1).astype(np.float32)
    return np.outer(line, line)


class Mosaic:
    """Maps of tiles, in the order of `corners`, put together image by image.

    shape: (H, W) of the images. tile: (side, overlap).
    """

    def __init__(self, shape: tuple[int, int], tile: tuple[int, int]):
        self.side, self.corners, self.share = tile[0], corners(shape, tile), share(tile)
        self.total = np.zeros(shape, np.float32)
        for place in map(self._place, self.corners):
            self.total[place] += self.share

    def _place(self, corner: tuple[int, int]) -> tuple[slice, slice]:
        top, left = corner
        return slice(top, top + self.side), slice(left, left + self.side)

    def add(self, maps: np.ndarray, first: int, whole: np.ndarray) -> None:
        """Add maps float32 [B, side, side] of the tiles from number `first` on, counted over all images, to the images'
        maps `whole` float32 [N, H, W], which begin as zeros.
        """
        for number, tile_map in enumerate(maps, start=first):
            image, place = number // len(self.corners), self._place(self.corners[number % len(self.corners)])
            whole[image][place] += tile_map * self.share / self.total[place]
