"""Resizing: how a picture is made smaller or larger, each way as the library does it that official codes call.

A network's features, and so its scores, depend on the filter: without antialiasing a thin line vanishes or stays by
chance, Lanczos sharpens. A method's default is the way of its official code (`image_defaults`).
"""

import cv2
import numpy as np
from PIL import Image

from adlib.errors import InputError

# name: how, and whose pixels these are. Bounds are for 8-bit pictures, in grey levels.
FILTERS = {
    "antialias": "bilinear with antialiasing: torch's, and Pillow's and torchvision's BILINEAR within 1 level",
    "lanczos": "Lanczos over 3 pixels with antialiasing: Pillow's to the bit (its old name is ANTIALIAS)",
    "bicubic": "bicubic with antialiasing: Pillow's to the bit",
    "linear": "bilinear between the 4 nearest pixels, no antialiasing: OpenCV's INTER_LINEAR to the bit",
    "area": "mean over the pixels that fall together: OpenCV's INTER_AREA to the bit",
}
SIDES = ("both", "shorter")
_PILLOW = {"lanczos": Image.Resampling.LANCZOS, "bicubic": Image.Resampling.BICUBIC}
_OPENCV = {"linear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA}


def check_filter(name: str) -> str:
    """Return the name of a filter, or raise InputError with those there are."""
    if not isinstance(name, str) or name not in FILTERS:
        raise InputError(f"resize={name!r} must be one of {', '.join(FILTERS)}.")
    return name


def check_sides(sides: str) -> str:
    """Return "both" or "shorter", or raise InputError."""
    if sides not in SIDES:
        raise InputError(f"sides={sides!r} must be one of {', '.join(SIDES)}.")
    return sides


def check_fit(fit: str) -> str:
    """Return "stretch" or "pad", or raise InputError."""
    if fit not in ("stretch", "pad"):
        raise InputError(f"fit={fit!r} must be 'stretch' or 'pad'.")
    return fit


def padded(pixels: np.ndarray, size: tuple[int, int], fill: bool | None = None) -> np.ndarray:
    """Pictures [..., H, W] in the middle of [..., *size]: around them their edge pixels again, or a value."""
    room = [full - part for full, part in zip(size, pixels.shape[-2:], strict=True)]
    if not any(room):
        return pixels
    widths = [(0, 0)] * (pixels.ndim - 2) + [(part // 2, part - part // 2) for part in room]
    return np.pad(pixels, widths, mode="edge") if fill is None else np.pad(pixels, widths, constant_values=fill)


def resized_shape(
    shape: tuple[int, int], size: tuple[int, int], sides: str = "both", fit: str = "stretch"
) -> tuple[int, int]:
    """(H, W) of a picture of that shape once it is resized.

    fit: "pad" keeps the proportions and all of the picture within the size; `padded` then fills it up.
    sides: "both" get the size; or the "shorter" gets size[0] and the other what keeps the proportions, cut to whole
    pixels as torchvision's Resize does.
    """
    if fit == "pad":
        scale = min(full / part for full, part in zip(size, shape, strict=True))
        return tuple(min(full, max(1, round(part * scale))) for full, part in zip(size, shape, strict=True))
    if sides == "both":
        return size
    height, width = shape
    side = size[0]
    if height <= width:
        return side, int(side * width / height)
    return int(side * height / width), side


def crop_corner(shape: tuple[int, int], crop: tuple[int, int]) -> tuple[int, int]:
    """(top, left) of the centre crop of a picture, rounded as torchvision's CenterCrop does."""
    return tuple(round((full - part) / 2) for full, part in zip(shape, crop, strict=True))


def frame(shape: tuple[int, int], settings: dict) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of what a detector saw of a picture, as shares of the picture's sides.

    shape: (H, W) of the picture as stored. settings: of its ImageSet, or {} where all of it was seen.
    """
    size = settings.get("size")
    if size is None:
        return 0.0, 0.0, 1.0, 1.0
    size = (size, size) if np.isscalar(size) else tuple(size)
    sides, crop = settings.get("sides", "both"), settings.get("crop")
    full = resized_shape(shape, size, sides, settings.get("fit", "stretch"))
    if settings.get("fit") == "pad":  # what was seen reaches past the picture
        crop = size if crop is None else (crop, crop) if np.isscalar(crop) else tuple(crop)
        top, left = ((part - side) // -2 for part, side in zip(full, crop, strict=True))
        return -left / full[1], -top / full[0], (crop[1] - left) / full[1], (crop[0] - top) / full[0]
    if crop is None:
        crop = size if sides == "shorter" else full
    crop = (crop, crop) if np.isscalar(crop) else tuple(crop)
    top, left = crop_corner(full, crop)
    return left / full[1], top / full[0], (left + crop[1]) / full[1], (top + crop[0]) / full[0]


def resize(pixels: np.ndarray, size: tuple[int, int], filter: str = "antialias") -> np.ndarray:
    """Pictures [C, H, W], uint8 or uint16, resized to [C, *size] and rounded to their own depth.

    filter: one of FILTERS.
    """
    if pixels.shape[1:] == tuple(size):
        return pixels
    if filter in _OPENCV:
        planes = [
            cv2.resize(np.ascontiguousarray(plane), size[::-1], interpolation=_OPENCV[filter]) for plane in pixels
        ]
        return np.stack(planes)
    if filter in _PILLOW:
        return np.stack([_pillow(plane, size, _PILLOW[filter]) for plane in pixels])
    import torch  # takes seconds; reports that only ask for frames do without
    import torch.nn.functional as F

    tensor = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))[None]
    resized = F.interpolate(tensor, size=tuple(size), mode="bilinear", align_corners=False, antialias=True)[0]
    limit = np.iinfo(pixels.dtype).max
    return resized.round_().clamp_(0, limit).numpy().astype(pixels.dtype)


def _pillow(plane: np.ndarray, size: tuple[int, int], filter: Image.Resampling) -> np.ndarray:
    """Pillow resizes 8 bits as they are; of 16 bits it would keep 8, so these pass as floating-point numbers."""
    if plane.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize(size[::-1], filter))
    resized = np.asarray(Image.fromarray(plane.astype(np.float32)).resize(size[::-1], filter))
    return np.rint(resized).clip(0, np.iinfo(plane.dtype).max).astype(plane.dtype)
