"""Polygons of LabelMe as masks: how CXR-AD and Texture-AD were annotated (CXR-AD, section III)."""

import json
from pathlib import Path

import cv2
import numpy as np

from adlib.errors import InputError

_FARTHEST = 1_000_000  # pixels; no image is that long


def labelme_mask(file: str | Path, labels: list[str] | None = None) -> np.ndarray:
    """The mask of a LabelMe annotation, bool [H, W]: every pixel in or on the border of one of its polygons.

    file: LabelMe's JSON, with imageHeight, imageWidth and shapes. Corners are rounded to the nearest pixel.
    labels: take shapes of these names alone; None takes all. Shapes other than polygons are refused.
    What lies outside of the image is cut off.
    Raises InputError for a file that is none, for a polygon of fewer than three corners, and for a corner that is no
    number or lies more than 1,000,000 pixels away.
    """
    try:
        about = json.loads(Path(file).read_text(encoding="utf-8"))
        mask = np.zeros((int(about["imageHeight"]), int(about["imageWidth"])), np.uint8)
        shapes = [shape for shape in about["shapes"] if labels is None or shape["label"] in labels]
        kinds = {shape.get("shape_type", "polygon") for shape in shapes} - {"polygon"}
        polygons = [np.array(shape["points"], float).reshape(-1, 2) for shape in shapes]
    except (OSError, ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        raise InputError(f"{file} cannot be read as an annotation of LabelMe: {error!r}.") from error
    if kinds or any(len(polygon) < 3 for polygon in polygons):
        seen = ", ".join(sorted(kinds)) or "a polygon of fewer than three corners"
        raise InputError(f"{file} holds {seen}: only polygons enclose a defect. Outline it anew in LabelMe.")
    # fillPoly walks along all of an outline, also outside of the image, and never returns from numbers beyond int32.
    if not all((np.abs(polygon) <= _FARTHEST).all() for polygon in polygons):  # false of NaN
        raise InputError(
            f"{file} holds a polygon with a corner that is no number or lies more than {_FARTHEST:,} pixels away: "
            "outline it anew in LabelMe."
        )
    return cv2.fillPoly(mask, [np.rint(polygon).astype(np.int32) for polygon in polygons], 1).astype(bool)
