"""Collages: training images put together from drawings of several classes, with a label for every pixel.

A label per pixel says much more per image than one label does, and the borders between drawings teach features to tell
what belongs to one place from what lies beside it, which is what localising a defect asks for.
"""

from collections.abc import Iterator

import cv2
import numpy as np

from adlib.pretrain.formulas import draw, recipe


class Collages:
    """An endless, seeded stream of collages.

    classes: number of recipes. size: side of the collages in pixels.
    per_class: drawings kept of each class, a quarter larger than the collages, so that cuts differ.
    refresh: how many of all drawings are drawn anew per collage, the oldest first: drawing costs more than cutting, so
        a drawing serves several times before it goes.
    regions: largest number of drawings in a collage, besides its ground.
    seed: of recipes and drawings. stream: tells the drawings of one process, or of one run, from those of another.

    next(iter(collages)) is (uint8 [size, size, 3] RGB, int64 [size, size] labels).
    """

    def __init__(
        self,
        classes: int = 1000,
        size: int = 96,
        per_class: int = 8,
        refresh: float = 0.5,
        regions: int = 4,
        seed: int = 0,
        stream: tuple[int, ...] = (0,),
    ):
        self.classes, self.size, self.canvas = classes, size, size * 5 // 4
        self.refresh, self.regions = refresh, regions
        self.rng = np.random.default_rng([seed, *stream, 7])
        self.recipes = [recipe(label, seed) for label in range(classes)]
        self.pool = np.empty((per_class * classes, self.canvas, self.canvas, 3), np.uint8)
        self.drawn = 0

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        self._draw_more(len(self.pool) - self.drawn)
        owed = 0.0
        while True:
            owed += self.refresh
            self._draw_more(int(owed))
            owed -= int(owed)
            yield self._collage()

    def _draw_more(self, number: int) -> None:
        for _ in range(number):
            slot = self.drawn % len(self.pool)
            self.pool[slot] = draw(self.recipes[slot % self.classes], self.canvas, self.rng)
            self.drawn += 1

    def _collage(self) -> tuple[np.ndarray, np.ndarray]:
        rng = self.rng
        image, label = self._cut(self.size, self.size)
        labels = np.full((self.size, self.size), label, np.int64)
        for _ in range(rng.integers(0, self.regions + 1)):
            mask = self._region()
            top, left, height, width = _box(mask)
            if min(height, width) < 8:
                continue
            piece, label = self._cut(height, width)
            inside = mask[top : top + height, left : left + width]
            place = (slice(top, top + height), slice(left, left + width))
            image[place][inside] = piece[inside]
            labels[place][inside] = label
        return self._photograph(image), labels

    def _cut(self, height: int, width: int) -> tuple[np.ndarray, int]:
        """A cut of a random drawing, magnified by 0.8 to 1.6, flipped or not."""
        rng = self.rng
        slot = int(rng.integers(len(self.pool)))
        zoom = np.exp(rng.uniform(np.log(0.8), np.log(1.6)))
        rows, columns = (min(self.canvas, max(8, int(side / zoom))) for side in (height, width))
        top, left = rng.integers(0, self.canvas - rows + 1), rng.integers(0, self.canvas - columns + 1)
        cut = self.pool[slot, top : top + rows, left : left + columns]
        if rng.random() < 0.5:
            cut = cut[:, ::-1]
        return cv2.resize(cut, (width, height), interpolation=cv2.INTER_LINEAR), slot % self.classes

    def _region(self) -> np.ndarray:
        """bool [size, size]: a half-plane, an ellipse, a rectangle or a blob."""
        rng, size = self.rng, self.size
        mask = np.zeros((size, size), np.uint8)
        centre = rng.uniform(0, size, 2)
        radii = size * np.exp(rng.uniform(np.log(0.08), np.log(0.5), 2))
        kind = rng.integers(4)
        if kind == 0:
            angle = rng.uniform(0, 2 * np.pi)
            rows, columns = np.mgrid[:size, :size]
            return (columns - centre[0]) * np.cos(angle) + (rows - centre[1]) * np.sin(angle) > 0
        if kind == 1:
            cv2.ellipse(mask, (tuple(centre), tuple(2 * radii), rng.uniform(0, 180)), 1, -1)
        elif kind == 2:
            corners = cv2.boxPoints((tuple(centre), tuple(1.8 * radii), rng.uniform(0, 90)))
            cv2.fillPoly(mask, [corners.round().astype(np.int32)], 1)
        else:
            angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
            waves = sum(rng.normal(0, 0.3 / n) * np.sin(n * angles + rng.uniform(0, 6.3)) for n in range(2, 7))
            outline = centre + radii.mean() * (1 + waves)[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
            cv2.fillPoly(mask, [outline.round().astype(np.int32)], 1)
        return mask.astype(bool)

    def _photograph(self, image: np.ndarray) -> np.ndarray:
        """Light, contrast, channel order, blur and noise, as a camera would add them."""
        rng = self.rng
        if rng.random() < 0.3:
            image = image[..., rng.permutation(3)]
        if rng.random() < 0.3:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.2))
        gain, offset = np.exp(rng.normal(0, 0.2, 2)), rng.normal(0, 12)
        ramp = np.linspace(gain[0], gain[1], self.size, dtype=np.float32)
        ramp = ramp[None, :, None] if rng.random() < 0.5 else ramp[:, None, None]
        noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(abs(rng.normal(0, 5)))
        return (image * ramp + np.float32(offset) + noise).clip(0, 255).astype(np.uint8)


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the mask's bounding box; zeros for an empty one."""
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return top, left, height, width
