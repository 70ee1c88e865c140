"""Texture operations: the ten ways in which DRAEM changes a texture before pasting it.

DRAEM (ICCV 2021), official code: three different ones of the ten, in random order, from the library imgaug; RealNet
does the same. Ranges are the official ones; where the official code leaves imgaug's defaults, sharpness (0 to 2) and
autocontrast (0 to 20 %) are those of imgaug's source, posterising (1 to 8 bits) is from memory. Written anew here, with
two differences: brightness is changed in RGB, not in a colour space drawn at random, and autocontrast reads its limits
off every fourth row and column.

Each operation takes and returns a texture, uint8 [H, W, 3] RGB.
"""

import cv2
import numpy as np
from PIL import Image, ImageOps

from adlib.errors import InputError


def change_texture(texture: np.ndarray, rng: np.random.Generator, operations: int = 3, among=None) -> np.ndarray:
    """Apply that many different operations in random order. uint8 [H, W, 3]; three take about 1 ms at 256 px.

    among: the operations to choose from, None for OPERATIONS.
    """
    among = OPERATIONS if among is None else among
    if not 0 <= operations <= len(among):
        raise InputError(f"operations={operations} must lie in 0..{len(among)}.")
    for choice in rng.permutation(len(among))[:operations]:
        texture = among[choice](texture, rng)
    return texture


def gamma(texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gamma 0.5 to 2, one per channel."""
    levels = np.arange(256)[:, None] / 255
    return _look_up(texture, 255 * levels ** rng.uniform(0.5, 2.0, 3))


def brightness(texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Times 0.8 to 1.2, plus -30 to 30."""
    return _look_up(texture, np.arange(256)[:, None] * rng.uniform(0.8, 1.2) + rng.uniform(-30, 30) * np.ones(3))


def sharpness(texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Between smoothed (0) and sharpened (2); 1 leaves the texture as it is."""
    kernel = np.ones((3, 3), np.float32)
    kernel[1, 1] = 5
    smooth = cv2.filter2D(texture, -1, kernel / kernel.sum())
    factor = rng.uniform(0, 2)
    return cv2.addWeighted(texture, factor, smooth, 1 - factor, 0)


def hue_and_saturation(texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Hue and saturation each plus -50 to 50 of 255; 255 of hue are the whole circle."""
    hsv = cv2.cvtColor(texture, cv2.COLOR_RGB2HSV_FULL)
    hue, saturation = rng.integers(-50, 51, 2)
    levels = np.arange(256)
    table = np.stack([(levels + hue) % 256, (levels + saturation).clip(0, 255), levels], axis=-1)
    return cv2.cvtColor(_look_up(hsv, table), cv2.COLOR_HSV2RGB_FULL)


def solarise(texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """With probability 0.5, invert what reaches a threshold of 32 to 128."""
    if rng.random() >= 0.5:
        return texture
    levels = np.arange(256)
    solarised = np.where(levels >= rng.integers(32, 129), 255 - levels, levels)
    return _look_up(texture, np.repeat(solarised[:, None], 3, axis=1))


def posterise(texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Keep the highest 1 to 8 bits."""
    return texture & np.uint8(256 - 2 ** (8 - int(rng.integers(1, 9))))


def invert(texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """255 minus the value."""
    return 255 - texture


def autocontrast(texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Stretch each channel to 0..255 after clipping 0 to 20 % of its pixels at either end."""
    cutoff = rng.uniform(0, 20)
    low, high = np.percentile(texture[::4, ::4], [cutoff, 100 - cutoff], axis=(0, 1))  # a sixteenth of it is plenty
    stretch = np.where(high > low, 255 / np.maximum(high - low, 1), 1.0)
    return _look_up(texture, (np.arange(256)[:, None] - np.where(high > low, low, 0)) * stretch)


def equalise(texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Equalise the histogram of each channel, in Pillow's whole steps: the mean comes out near 124, OpenCV's at 131."""
    return np.asarray(ImageOps.equalize(Image.fromarray(texture)))


def rotate(texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turn by -45 to 45 degrees; black comes in at the corners."""
    height, width = texture.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), rng.uniform(-45, 45), 1)
    return cv2.warpAffine(texture, turn, (width, height))


def mirror(texture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """With probability 0.5, left to right."""
    return np.ascontiguousarray(texture[:, ::-1]) if rng.random() < 0.5 else texture


def _look_up(texture: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Replace each value by its entry in a table [256, 3], rounded and clipped to 0..255."""
    return cv2.LUT(texture, np.rint(table).clip(0, 255).astype(np.uint8)[None])


OPERATIONS = (
    gamma,
    brightness,
    sharpness,
    hue_and_saturation,
    solarise,
    posterise,
    invert,
    autocontrast,
    equalise,
    rotate,
)
# OneNIP mirrors where DRAEM and RealNet turn.
ONENIP_OPERATIONS = (*OPERATIONS[:-1], mirror)
