"""NSA: patches of another normal image, rescaled and blended in without a seam.

Schlueter, Tan, Hou, Kainz, "Natural Synthetic Anomalies for Self-Supervised Anomaly Detection and Localization", ECCV
2022, arXiv 2109.15222, section 3. Distributions are the official code's, among them that what bounds a patch's half
sides where it is cut bounds its whole sides once it is rescaled. Blending is Poisson image editing (Perez, Gangnet,
Blake, SIGGRAPH 2003) by OpenCV's seamlessClone, which works on 8 bits.

Deviations: the source is a random one of `sources`, where the official loader takes the image it read before. Within
the patch the blended pixels are used where either image has foreground; a pixel counts as changed when its difference,
mean over the channels, exceeds one grey level after a 5 x 5 median vote, as in the official code, but it also has to
differ at all, and what an earlier patch changed stays marked under a later one. The soft labels for regression
(logistic in the change) are not made here: masks are bool. The ellipses are true ones, where the official formula
leans them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from adlib.errors import InputError
from adlib.synthesis.change import check_image, check_range

_TEXTURE = {"max_patches": 4, "resize": (0.5, 2.0), "mixed": True}
_WHITE, _BLACK = (200, 60), (20, 20)
# The official settings per category of MVTec AD: NSA(images, **MVTEC_AD["bottle"]). They suit these objects and do not
# transfer; which of two bounds is the height is read off the objects' shapes.
MVTEC_AD: dict[str, dict[str, Any]] = {
    "bottle": {"background": _WHITE},
    "cable": {"height": (0.05, 0.4), "width": (0.05, 0.4)},
    "capsule": {"background": _WHITE, "height": (0.03, 0.15)},
    "carpet": _TEXTURE,
    "grid": _TEXTURE,
    "hazelnut": {"background": _BLACK, "height": (0.03, 0.35), "width": (0.03, 0.35)},
    "leather": _TEXTURE,
    "metal_nut": {"background": _BLACK, "min_object": 0.5},
    "pill": {"background": _BLACK, "height": (0.03, 0.2)},
    "screw": {
        "background": _WHITE,
        "min_object": 0.5,
        "height": (0.03, 0.12),
        "width": (0.03, 0.12),
        "max_patches": 4,
    },
    "tile": _TEXTURE,
    "toothbrush": {"background": _BLACK, "min_object": 0.25, "width": (0.03, 0.2)},
    "transistor": {},
    "wood": _TEXTURE,
    "zipper": {"background": _WHITE, "width": (0.03, 0.2), "max_patches": 4},
}


@dataclass(frozen=True)
class NSA:
    """Blend patches of other normal images into an image. About 120/s at 256 px with sources in memory.

    sources: an ImageSet, of whose normal images one is read each time; or a list of arrays, float32 [H, W, 3]; or None
        for the image itself. All of the image's size.
    max_patches: the first patch always, each further one with probability 0.5. Screw, zipper and textures: 4.
    height, width: bounds of a patch's HALF height and width, as shares of the image. Drawn 0.03 + Gamma(2, 0.05).
    resize: bounds of the scale, drawn from N(1, 0.5). Textures: (0.5, 2).
    rescaled_bounds: what height and width bound once the patch is rescaled: its "side", as in the official code, or
        its "half" side, as where it was cut, which allows patches of twice that side.
    background: (value, tolerance) of 255 of a plain background, compared with the mean of the channels; or None where
        everything is foreground.
    min_object: share of foreground that the source patch must exceed; unused without a background.
    min_overlap: share of the patch's foreground that must fall on the image's.
    shape: "rectangle", or "ellipses": the union of five inside it, half axes from the smallest half side to half of
        the patch's own.
    mixed: keep the stronger gradient of source and image (textures); else the source's (objects).
    threshold: smallest change that is marked, in grey levels of 255. Where noise makes any two patches differ, a
        larger one says better what is anomalous.
    attempts, min_pixels: tries to cut or to place a patch before it is left out; smallest cloned area in pixels.

    Poisson blending takes constant differences away, so on smooth parts a patch may leave nothing to see: the mask is
    then empty and the image normal.
    """

    sources: Any = None
    max_patches: int = 3
    height: tuple[float, float] = (0.03, 0.4)
    width: tuple[float, float] = (0.03, 0.4)
    resize: tuple[float, float] = (0.7, 1.3)
    rescaled_bounds: str = "side"
    background: tuple[float, float] | None = None
    min_object: float = 0.7
    min_overlap: float = 0.25
    shape: str = "rectangle"
    mixed: bool = False
    threshold: float = 1.0
    attempts: int = 200
    min_pixels: int = 50

    def __post_init__(self):
        check_range(self.height, "height", 0, 0.5)
        check_range(self.width, "width", 0, 0.5)
        check_range(self.resize, "resize", 0)
        if self.rescaled_bounds not in ("side", "half"):
            raise InputError(f"rescaled_bounds={self.rescaled_bounds!r} must be 'side' or 'half'.")
        if self.shape not in ("rectangle", "ellipses"):
            raise InputError(f"shape={self.shape!r} must be 'rectangle' or 'ellipses'.")
        if self.sources is not None and not len(_normal(self.sources)):
            raise InputError("sources holds no normal image to take patches from.")

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """image: float32 [H, W, 3] in [0, 1]. Returns the image with the patches, and its mask, bool [H, W]."""
        before = _eight_bits(check_image(image))
        source = _eight_bits(self._source(image, rng))
        foreground, source_foreground = self._foreground(before), self._foreground(source)
        after, region = before.copy(), np.zeros(before.shape[:2], bool)
        for number in range(self.max_patches):
            if number and rng.random() < 0.5:
                continue
            if (cut := self._cut(source, source_foreground, rng)) is None:
                continue
            patch, patch_foreground, inside = cut
            place = self._place(patch_foreground, inside, foreground, rng)
            if place is not None:
                self._blend(after, region, patch, patch_foreground | foreground[place], inside, place)

        difference = np.abs(after.astype(np.float32) - before).mean(axis=2)
        changed = cv2.medianBlur((difference > self.threshold).astype(np.uint8), 5) > 0
        mask = changed & region & (difference > 0)
        return np.where(mask[..., None], after / np.float32(255), image), mask

    def _source(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if self.sources is None:
            return image
        choice = rng.choice(_normal(self.sources))
        if hasattr(self.sources, "pixels"):
            source = self.sources.pixels(choice).numpy().transpose(1, 2, 0)
        else:
            source = check_image(self.sources[choice], f"sources[{choice}]")
        if source.shape != image.shape:
            raise InputError(f"sources[{choice}] is {source.shape[:2]} but the image is {image.shape[:2]} (H, W).")
        return source

    def _foreground(self, image: np.ndarray) -> np.ndarray:
        """bool [H, W]: what differs from the plain background."""
        if self.background is None:
            return np.ones(image.shape[:2], bool)
        grey = image.mean(axis=2)
        return cv2.medianBlur((np.abs(grey - self.background[0]) > self.background[1]).astype(np.uint8), 7) > 0

    def _cut(self, source: np.ndarray, foreground: np.ndarray, rng: np.random.Generator):
        """A rescaled patch, uint8 [h, w, 3], its foreground and its shape, bool [h, w]; None if none has enough
        foreground.
        """
        sides = np.array(source.shape[:2])
        low, high = (np.rint(sides * [self.height[k], self.width[k]]).astype(int).clip(1) for k in (0, 1))
        half = ((0.03 + rng.gamma(2, 0.05, 2)) * sides).astype(int).clip(low, high)
        for _ in range(self.attempts):
            centre = rng.integers(low, np.maximum(sides - low, low + 1))
            top, left = (centre - half).clip(0)
            bottom, right = np.minimum(centre + half, sides)
            part = foreground[top:bottom, left:right]
            inside = _ellipses(part.shape, low, half, rng) if self.shape == "ellipses" else np.ones_like(part)
            if self.background is None or (part & inside).sum() > self.min_object * inside.sum():
                break
        else:
            return None
        height, width = self.rescaled(part.shape, np.clip(rng.normal(1, 0.5), *self.resize), tuple(sides))

        def resized(picture: np.ndarray) -> np.ndarray:
            return cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)

        shown, inside = resized(part.astype(np.uint8)) > 0, resized(inside.astype(np.uint8)) > 0
        return resized(source[top:bottom, left:right]), shown, inside

    def rescaled(self, patch: tuple[int, int], scale: float, image: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of a patch after rescaling, its proportions kept where the bounds allow both sides.

        patch, image: (H, W) in pixels. scale: as drawn, within `resize`.
        """
        low, high = (np.rint(np.array(image) * [self.height[k], self.width[k]]).astype(int) for k in (0, 1))
        if self.rescaled_bounds == "half":
            low, high = 2 * low, 2 * high
        height = np.clip(scale * patch[0], low[0], high[0])
        width = int(np.clip(int(height / patch[0] * patch[1]), low[1], high[1]))
        height = int(np.clip(int(width / patch[1] * patch[0]), low[0], high[0]))  # the width's bounds may have moved it
        return min(max(height, 1), image[0]), min(max(width, 1), image[1])

    def _place(self, part: np.ndarray, inside: np.ndarray, foreground: np.ndarray, rng: np.random.Generator):
        """Where the patch goes, a pair of slices; None if its foreground never meets enough of the image's."""
        height, width = part.shape
        room = np.array(foreground.shape) - part.shape
        if self.background is not None and not part.sum() > self.min_object * inside.sum():
            return None
        for _ in range(self.attempts):
            top, left = rng.integers(room > 1, np.maximum(room, 1))  # a pixel from the border, where there is room
            place = np.s_[top : top + height, left : left + width]
            if self.background is None or (part & inside & foreground[place]).sum() > self.min_overlap * part.sum():
                return place
        return None

    def _blend(self, image, region, patch, used, inside, place) -> None:
        """Clone the patch into the image (uint8, changed in place) and add the used pixels to the region."""
        # What is background in both stays part of the clone: cut off there, the object's edge would get a halo.
        clone = np.where(used & ~inside, 0, 255).astype(np.uint8)
        clone[[0, -1]] = 0
        clone[:, [0, -1]] = 0
        used = used & (clone > 0)
        if (clone > 0).sum() < self.min_pixels:
            return
        # OpenCV centres the BOUNDING BOX of the clone mask on the point, so the point has to be that box's centre.
        left, top, box_width, box_height = cv2.boundingRect(clone)
        point = (int(place[1].start + left + box_width // 2), int(place[0].start + top + box_height // 2))
        flags = cv2.MIXED_CLONE if self.mixed else cv2.NORMAL_CLONE
        blended = cv2.seamlessClone(patch, image, clone, point, flags)
        image[place][used] = blended[place][used]
        region[place] |= used


def _normal(sources: Any) -> Sequence[int]:
    """Indices of the normal images."""
    return np.flatnonzero(sources.labels == 0) if hasattr(sources, "labels") else np.arange(len(sources))


def _eight_bits(image: np.ndarray) -> np.ndarray:
    return np.rint(image * 255).astype(np.uint8)


def _ellipses(shape: tuple[int, int], low: np.ndarray, half: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """bool [h, w]: the union of five random ellipses. low: smallest half axes; half: the patch's half sides; pixels."""
    canvas = np.zeros(shape, np.uint8)
    for _ in range(5):
        centre = rng.integers(0, shape[::-1])
        axes = rng.integers(low, np.maximum(low + 1, half // 2))[::-1]
        cv2.ellipse(canvas, centre.tolist(), axes.tolist(), rng.uniform(0, 180), 0, 360, 1, -1)
    return canvas > 0
