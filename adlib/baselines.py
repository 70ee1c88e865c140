"""Trivial baselines: what no detector is needed for, on the very images that a detector is scored on.

On some sets the mean grey level alone tells anomalous images from normal ones, and a map of how far each pixel lies
from its image's own mean beats learned maps. A metric says little until it is seen beside these. Nothing is learned,
and no sign is chosen: AUROC is stated as it is, so that 0 tells images apart as perfectly as 1, the other way round.

mean grey      mean luminance of the picture that the detector sees
spread         its standard deviation
file size      bytes of the image's file; not for pictures in an HDF5 file
deviation map  |luminance - mean grey|, blurred; its maximum scores the image
"""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from adlib import hdf5
from adlib.images import ImageSet
from adlib.predictions import Predictions, evaluate

LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # of R, G, B; ITU-R BT.601
BLUR = 1 / 64  # of the picture's longer side: the Gaussian's standard deviation, 4 pixels of 256


def trivial_predictions(predictions: Predictions, images: ImageSet | None = None) -> dict[str, Predictions]:
    """What each baseline says of the images of some predictions, with maps where these have maps.

    images: the ImageSet that was predicted on, which may have its pictures decoded already.
    """
    images = predictions.images if images is None else images
    # Half the memory of the detector's own maps; luminance has 8 to 16 bits, of which float16 keeps 11.
    maps = None if predictions.maps is None else np.empty(predictions.maps.shape, np.float16)
    # Some detectors judge the centre of what they see: their maps and masks are smaller than the pictures.
    inner = () if maps is None else tuple(_centre(*sides) for sides in zip(images.shape, maps.shape[1:], strict=True))
    moments, highest = np.empty((2, len(images)), np.float32), np.empty(len(images), np.float32)
    for index in range(len(images)):
        grey = np.tensordot(LUMINANCE, images.pixels(index).numpy(), 1)  # [H, W] in [0, 1]
        moments[:, index] = grey.mean(), grey.std()
        deviation = cv2.GaussianBlur(np.abs(grey - moments[0, index]), (0, 0), BLUR * max(grey.shape))
        highest[index] = deviation.max()
        if maps is not None:
            maps[index] = deviation[inner]
    scores = {"mean grey": moments[0], "spread": moments[1]}
    if not any(map(hdf5.split_name, images.samples["image"])):
        scores["file size"] = np.array([Path(file).stat().st_size for file in images.samples["image"]], np.float32)
    found = {name: replace(predictions, scores=values, maps=None) for name, values in scores.items()}
    return found | {"deviation map": replace(predictions, scores=highest, maps=maps)}


def _centre(whole: int, part: int) -> slice:
    start = (whole - part) // 2
    return slice(start, start + part)


def trivial_metrics(predictions: Predictions, images: ImageSet | None = None) -> dict[str, dict[str, dict]]:
    """The metrics that the baselines reach on the images of some predictions, as `adlib.evaluate` gives them.

    Returns {"": {baseline: metrics}} of all images, and where they are of several categories the same by category:
    {"bottle": {baseline: metrics}, ...}. Undefined metrics, those of pixels without maps among them, are left out, and
    so are thresholds.
    """
    said = trivial_predictions(predictions, images)
    names = predictions.samples["category"]
    parts = {"": np.ones(len(names), bool)}
    parts |= {name: (names == name).to_numpy() for name in sorted(names.unique())} if names.nunique() > 1 else {}
    masks = predictions.masks if predictions.maps is not None else None
    return {
        part: {name: _metrics(each.select(rows), None if masks is None else masks[rows]) for name, each in said.items()}
        for part, rows in parts.items()
    }


def _metrics(predictions: Predictions, masks: np.ndarray | None) -> dict[str, float]:
    found = evaluate(predictions, masks)
    return {
        name: value
        for name, value in found.items()
        if name not in ("reasons", "aupro_regions") and "threshold" not in name and not np.isnan(value)
    }
