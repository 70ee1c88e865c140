"""Trivial baselines: what no detector is needed for, on the very images that a detector is scored on.

On some sets the mean grey level alone tells anomalous images from normal ones, and a map of how far each pixel lies
from its image's own mean beats learned maps. A metric says little until it is seen beside these. Nothing is learned,
and no sign is chosen: AUROC is stated as it is, so that 0 tells images apart as perfectly as 1, the other way round.

mean grey          mean luminance of the picture that the detector sees
spread             its standard deviation
file size          bytes of the image's file; not for pictures in an HDF5 file
deviation map      |luminance - mean grey|, blurred; its maximum scores the image
nearest thumbnail  mean distance to the most similar normal training image that is given, both at 16 x 16 grey pixels
"""

from dataclasses import replace
from pathlib import Path
from weakref import WeakKeyDictionary

import cv2
import numpy as np

from adlib import hdf5
from adlib.images import ImageSet
from adlib.predictions import Predictions, evaluate

LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # of R, G, B; ITU-R BT.601
THUMBNAIL = 16  # pixels a side
BLUR = 1 / 64  # of the picture's longer side: the Gaussian's standard deviation, 4 pixels of 256


def trivial_predictions(
    predictions: Predictions, images: ImageSet | None = None, training: ImageSet | None = None
) -> dict[str, Predictions]:
    """What each baseline says of the images of some predictions, with maps where these have maps.

    images: the ImageSet that was predicted on, which may have its pictures decoded already. training: the images that
    the detector has learned from, of which the normal ones of the same categories are looked at; without any there is
    no nearest thumbnail.
    """
    images = predictions.images if images is None else images
    # Half the memory of the detector's own maps; luminance has 8 to 16 bits, of which float16 keeps 11.
    maps = None if predictions.maps is None else np.empty(predictions.maps.shape, np.float16)
    # Some detectors judge the centre of what they see: their maps and masks are smaller than the pictures.
    inner = () if maps is None else tuple(_centre(*sides) for sides in zip(images.shape, maps.shape[1:], strict=True))
    moments, highest = np.empty((2, len(images)), np.float32), np.empty(len(images), np.float32)
    known = None if training is None else _thumbnails(training, frozenset(images.samples["category"]))
    nearest = np.empty(len(images), np.float32)
    for index in range(len(images)):
        grey = _grey(images, index)
        if known is not None:
            nearest[index] = np.abs(known - _thumbnail(grey)).mean((1, 2)).min(initial=np.inf)
        moments[:, index] = grey.mean(), grey.std()
        deviation = cv2.GaussianBlur(np.abs(grey - moments[0, index]), (0, 0), BLUR * max(grey.shape))
        highest[index] = deviation.max()
        if maps is not None:
            maps[index] = deviation[inner]
    scores = {"mean grey": moments[0], "spread": moments[1]}
    if not any(map(hdf5.split_name, images.samples["image"])):
        scores["file size"] = np.array([Path(file).stat().st_size for file in images.samples["image"]], np.float32)
    if known is not None and len(known):
        scores["nearest thumbnail"] = nearest
    found = {name: replace(predictions, scores=values, maps=None) for name, values in scores.items()}
    return found | {"deviation map": replace(predictions, scores=highest, maps=maps)}


def _grey(images: ImageSet, index: int) -> np.ndarray:
    """Luminance of a picture, float32 [H, W] in [0, 1]."""
    return np.tensordot(LUMINANCE, images.pixels(index).numpy(), 1)


def _thumbnail(grey: np.ndarray) -> np.ndarray:
    """float32 [THUMBNAIL, THUMBNAIL]: mean luminance of each part of a picture."""
    return cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)


_KEPT: WeakKeyDictionary[ImageSet, dict[frozenset, np.ndarray]] = WeakKeyDictionary()  # decoded for them once


def _thumbnails(images: ImageSet, categories: frozenset[str]) -> np.ndarray:
    """Thumbnails of the normal images of some categories, float32 [N, THUMBNAIL, THUMBNAIL]."""
    kept = _KEPT.setdefault(images, {})
    if categories not in kept:
        rows = np.flatnonzero((images.labels == 0) & images.samples["category"].isin(categories).to_numpy())
        found = [_thumbnail(_grey(images, index)) for index in rows]
        kept[categories] = np.stack(found) if found else np.empty((0, THUMBNAIL, THUMBNAIL), np.float32)
    return kept[categories]


def _centre(whole: int, part: int) -> slice:
    start = (whole - part) // 2
    return slice(start, start + part)


def trivial_metrics(
    predictions: Predictions, images: ImageSet | None = None, training: ImageSet | None = None
) -> dict[str, dict[str, dict]]:
    """The metrics that the baselines reach on the images of some predictions, as `adlib.evaluate` gives them.

    images, training: as of `trivial_predictions`. Returns {"": {baseline: metrics}} of all images, and where they are
    of several categories the same by category: {"bottle": {baseline: metrics}, ...}, and of sub-classes or modalities
    by these: {"/subclass1": ...} of one category, {"cloth/subclass1": ...} of several. Undefined metrics, those of
    pixels without maps among them, are left out, and so are thresholds.
    """
    said = trivial_predictions(predictions, images, training)
    names, groups = predictions.samples["category"], predictions.samples["group"]
    parts = {"": np.ones(len(names), bool)}
    joint = names.nunique() > 1
    if joint:
        parts |= {name: (names == name).to_numpy() for name in sorted(names.unique())}
    if joint or groups.nunique() > 1:
        within = (names if joint else "") + "/" + groups
        inner = within[(groups != "") & (groups != names)]
        parts |= {name: (within == name).to_numpy() for name in sorted(inner.unique())}
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
