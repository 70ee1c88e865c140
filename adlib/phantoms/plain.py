"""Plain phantoms: the same products with planted defects that any working method finds.

The hard ones follow the papers' statistics, and good methods fail on them as they do on the real data. The plain ones
are a known answer: a few pieces of each category, photographed again and again in training and test, and as a defect a
blot of rings, large and unlike its surroundings. A method that does not find it does not work.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from adlib.errors import InputError

DIFFICULTIES = ("hard", "plain")
ENOUGH = 24, 20, 20  # training, normal and anomalous images of a category: intervals of AUROC below ten points
PIECES = 6  # different training images of the hard phantom that a category is made of
LARGE_BLOT, SMALL_BLOT = 0.09, 0.075  # radius of a blot as a share of the image's side


def check_difficulty(difficulty: str) -> None:
    """Raise InputError for a difficulty that is none."""
    if difficulty not in DIFFICULTIES:
        raise InputError(f"difficulty={difficulty!r} must be 'hard' or 'plain'.")


@lru_cache(maxsize=64)
def piece(draw: Callable, category: str, kind: str, index: int, **options) -> tuple[np.ndarray, np.ndarray]:
    """A drawing of a phantom's `draw_image` and its mask, drawn once and then remembered: do not write into them."""
    return draw(category, kind, index % PIECES, **options)


def photographed_again(image: np.ndarray, identity: list[int]) -> np.ndarray:
    """The image with noise of its own, 1 % of the range; identity: numbers from which the noise is drawn."""
    top = np.iinfo(image.dtype).max
    noise = np.random.default_rng([*identity, 5]).normal(0, 0.01 * top, image.shape[:2])
    noisy = image + (noise[..., None] if image.ndim == 3 else noise)
    return np.rint(noisy.clip(0, top)).astype(image.dtype)


def plant(image: np.ndarray, identity: list[int], radius: float = LARGE_BLOT) -> tuple[np.ndarray, np.ndarray]:
    """The image with one blot, and where it is: same shape and type, and bool [H, W].

    image: grey [H, W] or RGB [H, W, 3], uint8 or uint16. identity: numbers from which place and form are drawn.
    radius: of the blot, as a share of the shorter side, give or take a fifth. Its mean lies two fifths of the range
    from what was there; rings go a tenth of the range to either side.
    """
    random = np.random.default_rng([*identity, 7])
    height, width = image.shape[:2]
    size = radius * min(height, width) * random.uniform(0.8, 1.2)
    centre = random.uniform(0.2, 0.8, 2) * (height, width)
    angle, stretch = random.uniform(0, np.pi), random.uniform(1, 1.3)
    rows, columns = np.mgrid[:height, :width]
    down, across = rows - centre[0], columns - centre[1]
    along = (across * np.cos(angle) + down * np.sin(angle)) / stretch
    beside = (down * np.cos(angle) - across * np.sin(angle)) * stretch
    distance = np.hypot(along, beside) / size
    mask = distance <= 1

    top = np.iinfo(image.dtype).max
    before = image[mask].astype(np.float64).mean(0) / top
    level = np.where(before < 0.5, before + 0.4, before - 0.4)
    rings = 0.1 * np.sin(4 * np.pi * distance[mask])
    blot = level + (rings[:, None] if image.ndim == 3 else rings)
    planted = image.copy()
    planted[mask] = np.rint(blot.clip(0, 1) * top).astype(image.dtype)
    return planted, mask
