"""CutPaste: cut a piece of an image and paste it elsewhere in the same image.

Li, Sohn, Yoon, Pfister, "CutPaste: Self-Supervised Learning for Anomaly Detection and Localization", CVPR 2021, arXiv
2104.04015. There is no official code; sizes are the paper's as two unofficial codes have them.
Patches are upright rectangles, scars thin turned ones; both get a slight colour jitter and keep hard edges.

Our choices and deviations: the aspect ratio is uniform within either of its two intervals; a scar's sizes, given in
pixels of a 256 px image, grow with the shorter side; the mask marks the pixels that changed, where segmentation uses of
CutPaste mark the whole rectangle (on an 8-bit image the two are the same almost everywhere).
"""

from dataclasses import dataclass, field

import cv2
import numpy as np

from adlib.synthesis.change import check_image, check_range, keep_changes

CLASSES = ("normal", "patch", "scar")  # of the three-way variant, in the order of its labels


def colour_jitter(
    patch: np.ndarray, rng: np.random.Generator, strength: float = 0.1, hue: float | None = None
) -> np.ndarray:
    """Brightness, contrast, saturation (factors 1 - strength to 1 + strength) and hue (+- hue of the circle).

    hue: None for as much as the strength.
    patch: float32 [H, W, 3] in [0, 1]; the result is clipped to that range. Random order. Grey stays grey.
    """
    factors = rng.uniform(1 - strength, 1 + strength, 3).astype(np.float32)
    reach = strength if hue is None else hue
    turn = np.float32(360 * rng.uniform(-reach, reach))
    for step in rng.permutation(4):
        grey = cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY)
        if step == 0:
            patch = patch * factors[0]
        elif step == 1:
            patch = (patch - grey.mean()) * factors[1] + grey.mean()
        elif step == 2:
            patch = (patch - grey[..., None]) * factors[2] + grey[..., None]
        else:
            hsv = cv2.cvtColor(patch, cv2.COLOR_RGB2HSV)
            hsv[..., 0] = (hsv[..., 0] + turn) % 360
            patch = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
        patch = patch.clip(0, 1)
    return patch


@dataclass(frozen=True)
class CutPaste:
    """An upright rectangle, pasted elsewhere. About 900/s at 256 px.

    area: share of the image, uniform. aspect: (smallest, largest) width / height; below and above 1 equally often.
    Source and destination are uniform and independent, the rectangle lies fully inside (in a long, narrow image it is
    cut to fit). jitter, hue: of `colour_jitter`. threshold: smallest change that is marked.
    """

    area: tuple[float, float] = (0.02, 0.15)
    aspect: tuple[float, float] = (0.3, 3.3)
    jitter: float = 0.1
    hue: float | None = None
    threshold: float = 0.0

    def __post_init__(self):
        check_range(self.area, "area", 0, 1)
        check_range(self.aspect, "aspect", 1e-3)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """image: float32 [H, W, 3] in [0, 1]. Returns the image with the patch, and its mask, bool [H, W]."""
        sides = np.array(check_image(image).shape[:2])
        area = rng.uniform(*self.area) * sides.prod()
        low, high = self.aspect
        flat = rng.random() < 0.5
        aspect = rng.uniform(max(1.0, low), max(1.0, high)) if flat else rng.uniform(min(1.0, low), min(1.0, high))
        size = np.rint([np.sqrt(area / aspect), np.sqrt(area * aspect)]).astype(int).clip(1, sides)
        (top, left), (to_top, to_left) = (rng.integers(0, sides - size + 1) for _ in range(2))

        after, region = image.copy(), np.zeros(image.shape[:2], bool)
        patch = image[top : top + size[0], left : left + size[1]]
        after[to_top : to_top + size[0], to_left : to_left + size[1]] = colour_jitter(patch, rng, self.jitter, self.hue)
        region[to_top : to_top + size[0], to_left : to_left + size[1]] = True
        return keep_changes(image, after, region, self.threshold)


@dataclass(frozen=True)
class CutPasteScar:
    """A thin rectangle, turned and pasted elsewhere. About 1500/s at 256 px.

    width, length: in pixels of a 256 px image, uniform. rotation: up to this many degrees to either side of upright.
    """

    width: tuple[float, float] = (2.0, 16.0)
    length: tuple[float, float] = (10.0, 25.0)
    rotation: float = 45.0
    jitter: float = 0.1
    hue: float | None = None
    threshold: float = 0.0

    def __post_init__(self):
        check_range(self.width, "width", 0)
        check_range(self.length, "length", 0)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """image: float32 [H, W, 3] in [0, 1]. Returns the image with the scar, and its mask, bool [H, W]."""
        sides = np.array(check_image(image).shape[:2])
        unit = sides.min() / 256
        size = np.array([rng.uniform(*self.length), rng.uniform(*self.width)]) * unit
        size = np.rint(size).astype(int).clip(1, sides)  # (H, W) of the piece before it is turned
        top, left = rng.integers(0, sides - size + 1)
        piece = colour_jitter(image[top : top + size[0], left : left + size[1]], rng, self.jitter, self.hue)

        # The upright box that the turned piece needs; for each of its pixels the place in the piece (v down, u right).
        angle = np.deg2rad(rng.uniform(-self.rotation, self.rotation))
        cos, sin = np.cos(angle), np.sin(angle)
        box = np.ceil(np.abs([[cos, sin], [sin, cos]]) @ size).astype(int).clip(1, sides)
        y, x = np.mgrid[: box[0], : box[1]] - (box[:, None, None] - 1) / 2
        v, u = y * cos - x * sin, y * sin + x * cos
        inside = (np.abs(v) <= size[0] / 2) & (np.abs(u) <= size[1] / 2)
        v, u = (v + (size[0] - 1) / 2).astype(np.float32), (u + (size[1] - 1) / 2).astype(np.float32)

        to_top, to_left = rng.integers(0, sides - box + 1)
        place = np.s_[to_top : to_top + box[0], to_left : to_left + box[1]]
        after, region = image.copy(), np.zeros(image.shape[:2], bool)
        after[place] = cv2.remap(piece, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        region[place] = inside
        return keep_changes(image, after, region, self.threshold)


@dataclass(frozen=True)
class CutPaste3Way:
    """Patch and scar together: called, it makes one of the two at random (the paper's union). About 1100/s at 256 px.

    The paper's best detector tells three classes apart; `views` gives an image in all of them.
    """

    patch: CutPaste = field(default_factory=CutPaste)
    scar: CutPasteScar = field(default_factory=CutPasteScar)

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """image: float32 [H, W, 3] in [0, 1]. Returns the image with a patch or a scar, and its mask, bool [H, W]."""
        return (self.patch if rng.random() < 0.5 else self.scar)(image, rng)

    def views(self, image: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The image as each of CLASSES: images float32 [3, H, W, 3], masks bool [3, H, W]; row k is of class k."""
        normal = (check_image(image), np.zeros(image.shape[:2], bool))
        images, masks = zip(normal, self.patch(image, rng), self.scar(image, rng), strict=True)
        return np.stack(images), np.stack(masks)
