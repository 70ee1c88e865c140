"""Change: what a synthesiser really altered, so that its mask marks these pixels and no others.

Every synthesiser ends here: a pixel that hardly changed gets its old value back and is not marked. So for every one of
them `mask == (image != before).any(2)` holds exactly, and nothing is labelled anomalous that cannot be seen.
"""

import numpy as np

from adlib.errors import InputError


def check_image(image: np.ndarray, name: str = "image") -> np.ndarray:
    """Return the image, or raise InputError unless it is float32 [H, W, 3] with values in [0, 1]."""
    if not isinstance(image, np.ndarray) or image.dtype != np.float32 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError(f"{name} must be a numpy array, float32 [H, W, 3], RGB in [0, 1]; got {found}.")
    low, high = float(image.min()), float(image.max())
    if not (low >= 0 and high <= 1):  # also true for NaN
        raise InputError(f"{name} must have values in [0, 1]; they run from {low:.4g} to {high:.4g}.")
    return image


def check_range(value: tuple[float, float], name: str, low: float = 0.0, high: float = np.inf) -> None:
    """Raise InputError unless value is a pair (smallest, largest), in order, within low to high."""
    if len(value) != 2 or not low <= value[0] <= value[1] <= high:
        raise InputError(f"{name}={value} must be (smallest, largest) with {low:g} <= smallest <= largest <= {high:g}.")


def keep_changes(
    before: np.ndarray, after: np.ndarray, region: np.ndarray, threshold: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """The altered image, with every pixel put back that lies outside the region or changed too little.

    before, after: float32 [H, W, 3]; after is clipped to [0, 1]. region: bool [H, W], where a change is meant.
    threshold: a pixel counts as changed when its absolute difference, mean over the channels, is larger.
    Returns (image float32 [H, W, 3], mask bool [H, W]).
    """
    new = after[region].clip(0, 1)  # [pixels of the region, 3]: most regions are small
    mask = np.zeros_like(region)
    mask[region] = np.abs(new - before[region]).mean(axis=1) > threshold
    image = before.copy()
    image[mask] = new[mask[region]]
    return image, mask
