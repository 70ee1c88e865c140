"""NSA: patches of another normal image, rescaled and blended in without a seam.

Schlueter, Tan, Hou, Kainz, "Natural Synthetic Anomalies for Self-Supervised Anomaly Detection and Localization", ECCV
2022, arXiv 2109.15222, section 3. Distributions are the official code's. Blending is Poisson image editing (Perez,
Gangnet, Blake, SIGGRAPH 2003) by OpenCV's seamlessClone, which works on 8 bits.

Deviations: the source is a random one of `sources`, where the official loader takes the image it read before. Within
the patch the blended pixels are used where either image has foreground; a pixel counts as changed when its difference,
mean over the channels, exceeds one grey level after a 5 x 5 median vote, as in the official code, but it also has to
differ at all. The soft labels for regression (logistic in the change) are not made here: masks are bool.
Unknown, chosen by us: the ellipses' sizes.
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
    background: (grey value, tolerance) of 255 of a plain background, or None where everything is foreground.
    min_object: share of foreground that the source patch must exceed; unused without a background.
    min_overlap: share of the source's foreground that must fall on the image's.
    shape: "rectangle", or "ellipses": the union of five inside it.
    mixed: keep the stronger gradient of source and image (textures); else the source's (objects).
    threshold: smallest change that is marked, in grey levels of 255. Where noise makes any two patches differ, a
        larger one says better what is anomalous.
    attempts, min_pixels: tries to place a patch before it is left out; smallest blended area in pixels.

    Poisson blending takes constant differences away, so on smooth parts a patch may leave nothing to see: the mask is
    then empty and the image normal.
    """

    sources: Any = None
    max_patches: int = 3
    height: tuple[float, float] = (0.03, 0.4)
    width: tuple[float, float] = (0.03, 0.4)
    resize: tuple[float, float] = (0.7, 1.3)
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
            patch, patch_foreground = self._cut(source, source_foreground, rng)
            if patch is not None:
                place = self._place(patch_foreground, foreground, rng)
                if place is not None:
                    self._blend(after, region, patch, patch_foreground | foreground[place], place, rng)

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
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
        return cv2.medianBlur((np.abs(grey - self.background[0]) > self.background[1]).astype(np.uint8), 7) > 0

    def _cut(self, source: np.ndarray, foreground: np.ndarray, rng: np.random.Generator):
        """A rescaled patch, uint8 [h, w, 3], and its foreground; (None, None) if none has enough foreground."""
        sides = np.array(source.shape[:2])
        low, high = (sides * [self.height[k], self.width[k]] for k in (0, 1))
        for _ in range(self.attempts):
            half = ((0.03 + rng.gamma(2, 0.05, 2)) * sides).clip(low, high)
            centre = rng.uniform(low, sides - low)
            top, left = np.rint(centre - half).astype(int).clip(0)
            bottom, right = np.minimum(np.rint(centre + half).astype(int), sides)
            part = foreground[top:bottom, left:right]
            if part.size and (self.background is None or part.mean() > self.min_object):
                break
        else:
            return None, None
        size = np.array(part.shape)
        scale = np.clip(rng.normal(1, 0.5), *self.resize)
        scale = np.clip(scale, (2 * low / size).max(), (2 * high / size).min())  # both sides within their bounds again
        height, width = np.rint(size * scale).astype(int).clip(1, sides)
        enlarged = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
        patch = cv2.resize(source[top:bottom, left:right], (width, height), interpolation=enlarged)
        part = cv2.resize(part.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        return patch, part > 0

    def _place(self, part: np.ndarray, foreground: np.ndarray, rng: np.random.Generator):
        """Where the patch goes, a pair of slices; None if its foreground never meets enough of the image's."""
        height, width = part.shape
        room = np.array(foreground.shape) - part.shape
        for _ in range(self.attempts):
            top, left = rng.integers(0, room + 1)
            place = np.s_[top : top + height, left : left + width]
            if self.background is None or (part & foreground[place]).sum() > self.min_overlap * part.sum():
                return place
        return None

    def _blend(self, image, region, patch, used, place, rng) -> None:
        """Clone the patch into the image (uint8, changed in place) and add the used pixels to the region."""
        clone = np.full(used.shape, 255, np.uint8)
        if self.shape == "ellipses":
            # What is background in both stays part of the clone: cut off there, the object's edge would get a halo.
            inside = _ellipses(used.shape, rng)
            clone[used & ~inside] = 0
            used = used & inside
        clone[[0, -1]] = 0
        clone[:, [0, -1]] = 0
        used = used & (clone > 0)
        if used.sum() < self.min_pixels:
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


def _ellipses(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """bool [h, w]: the union of five random ellipses, half axes a tenth to a half of the sides."""
    canvas = np.zeros(shape, np.uint8)
    for _ in range(5):
        centre = rng.uniform(0.2, 0.8, 2) * shape[::-1]
        axes = np.maximum(1, rng.uniform(0.1, 0.5, 2) * shape[::-1])
        cv2.ellipse(canvas, centre.astype(int).tolist(), axes.astype(int).tolist(), rng.uniform(0, 180), 0, 360, 1, -1)
    return canvas > 0
