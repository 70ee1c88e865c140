"""Files of the phantoms: written beside and renamed, so that an interruption leaves no half of one."""

from pathlib import Path

import cv2
import numpy as np


def save(file: Path, pixels: np.ndarray, quality: int = 95) -> None:
    """Write an image and make its folder; the format follows the name (.png without loss, .jpg).

    pixels: grey [H, W] or RGB [H, W, 3], uint8 or (PNG) uint16. quality: of a JPEG, up to 100.
    """
    if pixels.ndim == 3:
        pixels = np.ascontiguousarray(pixels[..., ::-1])  # OpenCV writes BGR
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if file.suffix == ".jpg" else []
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_bytes(cv2.imencode(file.suffix, pixels, options)[1].tobytes())
    partial.replace(file)
