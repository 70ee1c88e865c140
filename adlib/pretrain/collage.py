"""Collages: training images put together from drawings, or from cuts of photographs too, and photographed.

A ground, drawn or repeated as a lattice; pieces of other drawings on it, few large ones or many small ones that cover
one another ("dead leaves", whose statistics are near to photographs': Baradad et al., arXiv 2106.05963); relief, as of
a surface that is lit from one side; small marks, the size of defects. Then what cameras, X-ray and electron
microscopes add: light that falls off, blur, contrast, noise, compression.

Every collage is taken twice, the second time moved a little and with defects: as a memory bank meets the next image.
"""

from collections.abc import Iterator

import cv2
import numpy as np

from adlib.pretrain.formulas import draw
from adlib.pretrain.photographs import Photographs

CANVAS = 256  # pixels of a drawing's side


class Collages:
    """An endless, seeded stream of collages.

    pool: drawings kept at a time. refresh: how many of them are drawn anew per collage of 128 pixels, the oldest first:
        drawing costs more than cutting, so a drawing serves several times before it goes.
    seed: of everything. stream: tells the drawings of one process, or of one run, from those of another.
    photographs, share: cuts of them take the place of this share of the drawings.

    pair(size) is one collage as two images uint8 [size, size, 3] RGB, whole and with defects, and where those are: bool
    [size, size].
    """

    def __init__(
        self,
        pool: int = 400,
        refresh: float = 0.25,
        seed: int = 0,
        stream: tuple[int, ...] = (0,),
        photographs: Photographs | None = None,
        share: float = 0.6,
    ):
        self.refresh, self.owed, self.drawn = refresh, 0.0, 0
        self.photographs, self.share = photographs, share
        self.rng = np.random.default_rng([seed, *stream, 7])
        self.pool = np.empty((pool, CANVAS, CANVAS, 3), np.uint8)
        self._draw_more(pool)

    def batches(self, pixels: int, sizes: tuple[int, ...]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Batches of pairs of one size out of `sizes` each, of about so many pixels.

        Whole and spoilt uint8 [B, size, size, 3], and where bool [B, size, size].
        """
        while True:
            size = int(self.rng.choice(sizes))
            pairs = [self.pair(size) for _ in range(max(2, round(pixels / size**2)))]
            yield tuple(np.stack(parts) for parts in zip(*pairs, strict=True))

    def pair(self, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = self.rng
        whole = self._scene(size)
        spoilt, where = self._spoilt(whole)
        # Moved a little, as the next part under the same camera.
        move = cv2.getRotationMatrix2D((size / 2, size / 2), rng.normal(0, 1), np.exp(rng.normal(0, 0.01)))
        move[:, 2] += rng.normal(0, 0.015 * size, 2)
        options = {"dsize": (size, size), "borderMode": cv2.BORDER_REFLECT}
        spoilt = cv2.warpAffine(spoilt, move, flags=cv2.INTER_LINEAR, **options)
        where = cv2.warpAffine(where.astype(np.uint8), move, flags=cv2.INTER_NEAREST, **options) > 0
        camera = int(rng.integers(2**31))
        first, second = (self._photograph(image, np.random.default_rng(camera)) for image in (whole, spoilt))
        if rng.random() < 0.5:  # a little more or less light
            second = (second * np.float32(np.exp(rng.normal(0, 0.04)))).clip(0, 255).astype(np.uint8)
        return first, second, where

    def _scene(self, size: int) -> np.ndarray:
        rng = self.rng
        self.owed += self.refresh * (size / 128) ** 2
        self._draw_more(int(self.owed))
        self.owed -= int(self.owed)

        image = self._lattice(size) if rng.random() < 0.2 else self._cut(size, size).copy()
        many = rng.random() < 0.25
        for _ in range(rng.integers(8, 30) if many else rng.integers(0, 5)):
            self._lay(image, 0.2 if many else 0.5)
        if rng.random() < 0.25:
            image = self._relief(image)
        if rng.random() < 0.5:
            self._mark(image)
        return image

    def _spoilt(self, whole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The image with defects, and where it differs by more than 8 grey levels: in a flat one perhaps nowhere."""
        spoilt = whole.copy()
        for _ in range(20):
            self._spoil(spoilt)
            where = np.abs(spoilt.astype(np.int16) - whole).max(2) > 8
            if where.sum() >= 6:
                break
        return spoilt, where

    def _spoil(self, image: np.ndarray) -> None:
        """Marks, pieces of other drawings, or a region in another light, out of focus, or moved."""
        rng, size = self.rng, len(image)
        kind = rng.integers(5)
        if kind == 0:
            self._mark(image)
            return
        if kind == 1:
            for _ in range(rng.integers(1, 3)):
                self._lay(image, 0.15)
            return
        region = self._region(size, 0.2)
        if kind == 2:
            centre = image.mean((0, 1))
            other = (image - centre) * np.exp(rng.normal(0, 0.4)) + centre + rng.normal(0, 25)
            other += rng.normal(0, 12, 3) * (rng.random() < 0.4)
        elif kind == 3:
            other = cv2.GaussianBlur(image, (0, 0), np.exp(rng.uniform(0, 1.6)))
        else:
            angle = rng.choice([0, 0, 90, 180, rng.uniform(0, 360)])
            turn = cv2.getRotationMatrix2D((size / 2, size / 2), angle, np.exp(rng.normal(0, 0.15)))
            turn[:, 2] += rng.normal(0, 0.1 * size, 2)
            other = cv2.warpAffine(image, turn, (size, size), borderMode=cv2.BORDER_REFLECT)
        edge = cv2.GaussianBlur(region, (0, 0), np.exp(rng.uniform(-0.7, 0.9)))[..., None].astype(np.float32) / 255
        image[:] = (image + edge * (np.float32(other) - image)).clip(0, 255).astype(np.uint8)

    def _draw_more(self, number: int) -> None:
        for _ in range(number):
            cut = self.photographs is not None and self.rng.random() < self.share
            picture = self.photographs.cut(CANVAS, self.rng) if cut else draw(CANVAS, self.rng)
            self.pool[self.drawn % len(self.pool)] = picture
            self.drawn += 1

    def _cut(self, height: int, width: int) -> np.ndarray:
        """A cut of a random drawing, magnified by 0.4 to 2, flipped or not."""
        rng = self.rng
        zoom = np.exp(rng.uniform(np.log(0.4), np.log(2)))
        rows, columns = (min(CANVAS, max(8, int(side / zoom))) for side in (height, width))
        top, left = rng.integers(0, CANVAS - rows + 1), rng.integers(0, CANVAS - columns + 1)
        cut = self.pool[rng.integers(len(self.pool)), top : top + rows, left : left + columns]
        if rng.random() < 0.5:
            cut = cut[:, ::-1]
        shrinks = rows > height or columns > width
        return cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)

    def _lattice(self, size: int) -> np.ndarray:
        """One cut again and again, as in fabric, print and chips; turned a little."""
        rng = self.rng
        height, width = np.exp(rng.uniform(np.log(8), np.log(size / 2), 2)).astype(int)
        cell = self._cut(int(height), int(width))
        if rng.random() < 0.5:  # mirrored, so that its edges meet
            cell = np.concatenate([cell, cell[:, ::-1]], 1)
            cell = np.concatenate([cell, cell[::-1]], 0)
        full = int(1.5 * size)
        image = np.tile(cell, (-(-full // cell.shape[0]), -(-full // cell.shape[1]), 1))[:full, :full]
        turn = cv2.getRotationMatrix2D((full / 2, full / 2), rng.normal(0, 15), 1)
        turn[:, 2] -= size / 4
        return cv2.warpAffine(np.ascontiguousarray(image), turn, (size, size), flags=cv2.INTER_LINEAR)

    def _lay(self, image: np.ndarray, largest: float) -> None:
        """Lay a piece of another drawing onto the image, some with a shadow."""
        rng, size = self.rng, len(image)
        mask = self._region(size, largest)
        left, top, width, height = cv2.boundingRect(mask)
        if min(height, width) < 4:
            return
        if rng.random() < 0.2:
            shadow = cv2.GaussianBlur(np.roll(mask, rng.integers(-4, 5, 2), (0, 1)), (0, 0), rng.uniform(1, 4))
            image[:] = cv2.multiply(image, cv2.merge([255 - (0.7 * shadow).astype(np.uint8)] * 3), scale=1 / 255)
        piece = self._cut(height, width)
        place = (slice(top, top + height), slice(left, left + width))
        inside = mask[place]
        if rng.random() < 0.5:  # a soft edge
            inside = cv2.GaussianBlur(inside, (0, 0), rng.uniform(0.4, 1.5))
            share = inside[..., None].astype(np.float32) / 255
            image[place] = image[place] + share * (piece.astype(np.float32) - image[place])
        else:
            cv2.copyTo(piece, inside, image[place])

    def _region(self, size: int, largest: float) -> np.ndarray:
        """uint8 [size, size], 0 or 255: a half-plane, an ellipse, a rectangle or a blob."""
        rng = self.rng
        mask = np.zeros((size, size), np.uint8)
        centre = rng.uniform(0, size, 2)
        radii = size * np.exp(rng.uniform(np.log(0.02), np.log(largest), 2))
        kind = rng.integers(4)
        if kind == 0 and largest > 0.3:
            angle = rng.uniform(0, 2 * np.pi)
            normal, along = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
            corners = [centre + 2 * size * along, centre - 2 * size * along]
            corners += [corner + 4 * size * normal for corner in corners[::-1]]
            cv2.fillPoly(mask, [np.round(corners).astype(np.int32)], 255)
        elif kind <= 1:
            cv2.ellipse(mask, (tuple(centre), tuple(2 * radii), rng.uniform(0, 180)), 255, -1)
        elif kind == 2:
            corners = cv2.boxPoints((tuple(centre), tuple(1.8 * radii), rng.uniform(0, 90)))
            cv2.fillPoly(mask, [corners.round().astype(np.int32)], 255)
        else:
            angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
            waves = sum(rng.normal(0, 0.3 / n) * np.sin(n * angles + rng.uniform(0, 6.3)) for n in range(2, 7))
            outline = centre + radii.mean() * (1 + waves)[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
            cv2.fillPoly(mask, [outline.round().astype(np.int32)], 255)
        return mask

    def _relief(self, image: np.ndarray) -> np.ndarray:
        """The image as a surface, its grey values as heights, lit from one side."""
        rng = self.rng
        heights = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), rng.uniform(0.7, 3))
        slopes = cv2.spatialGradient(heights)
        angle = rng.uniform(0, 2 * np.pi)
        slope = np.cos(angle) * slopes[0].astype(np.float32) + np.sin(angle) * slopes[1].astype(np.float32)
        lit = np.tanh(slope * (rng.uniform(0.5, 2) / (slope.std() + 4)))[..., None]
        flat = image.mean((0, 1)) if rng.random() < 0.5 else image
        return (flat * (1 + rng.uniform(0.2, 0.6) * lit)).clip(0, 255).astype(np.uint8)

    def _mark(self, image: np.ndarray) -> None:
        """Spots, scratches and specks of 1 to 8 % of the side, faint or strong."""
        rng, size = self.rng, len(image)
        for _ in range(rng.integers(1, 9)):
            place = rng.uniform(0, size, 2)
            here = image[min(size - 1, int(place[1])), min(size - 1, int(place[0]))].astype(np.float64)
            change = rng.normal(0, 60) + rng.normal(0, 25, 3) * (rng.random() < 0.3)
            colour = tuple((here + change).clip(0, 255).tolist())
            length = size * np.exp(rng.uniform(np.log(0.01), np.log(0.08)))
            if rng.random() < 0.5:
                radii = np.maximum(0.6, length * rng.uniform(0.3, 1, 2))
                cv2.ellipse(image, (tuple(place), tuple(2 * radii), rng.uniform(0, 180)), colour, -1, cv2.LINE_AA)
            else:
                steps = np.cumsum(rng.normal(0, 1, (6, 2)) + rng.normal(0, 2, 2), axis=0) * length / 6
                points = np.round(place + steps).astype(np.int32)
                cv2.polylines(image, [points], False, colour, int(rng.integers(1, 3)), cv2.LINE_AA)

    def _photograph(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Channels, blur, light, contrast and compression, drawn by rng, the camera; noise that is new every time."""
        size = len(image)
        if rng.random() < 0.3:
            image = np.ascontiguousarray(image[..., rng.permutation(3)])
        if rng.random() < 0.3:
            image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        grey = bool((image[..., 0] == image[..., 1]).all())
        if rng.random() < 0.5:
            image = cv2.GaussianBlur(image, (0, 0), np.exp(rng.uniform(np.log(0.3), np.log(2.5))))
        image = image.astype(np.float32)
        if rng.random() < 0.5:  # light, uneven
            light = cv2.resize(
                rng.normal(0, 0.25, (3, 3)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC
            )
            image *= np.exp(light)[..., None]
        centre = np.float32(rng.uniform(60, 190))
        image = (image - centre) * np.float32(np.exp(rng.normal(-0.15, 0.4))) + centre + np.float32(rng.normal(0, 20))
        channels = 1 if grey else 3
        strength = np.float32(abs(rng.normal(0, 6)))
        noise = strength * self.rng.standard_normal((size, size, channels), dtype=np.float32)
        if rng.random() < 0.25:  # correlated, as of a detector's grain
            noise = 2 * cv2.GaussianBlur(noise, (0, 0), rng.uniform(0.5, 1.5)).reshape(noise.shape)
        image = (image + noise).clip(0, 255).astype(np.uint8)
        if rng.random() < 0.25:
            quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 96))]
            image = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR)
        return image
