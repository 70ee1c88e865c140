"""Where a detector is good: metrics per defect type, and recall against the size of the defect.

The questions of CXR-AD (which defect scales are missed, bins at 1, 10 and 50 % of the largest defect) and of
3CAD (defect area over image area, aspect ratio of the smallest rotated rectangle).
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from scipy.stats import binomtest

from adlib.errors import InputError
from adlib.metrics.inputs import image_pairs, is_array, labels_and_scores, to_numpy
from adlib.metrics.ranking import image_metrics, pixel_metrics
from adlib.metrics.regions import regions


def image_metrics_by_defect(labels, scores, defects: Sequence[str]) -> dict[str, dict]:
    """image_metrics of each defect type: its images against all normal images.

    defects: [N] type of each anomalous image; entries of normal images are not looked at.
    Returns {type: image_metrics and "n", its number of images}, types in alphabetical order.
    """
    anomalous, scores = labels_and_scores(labels, scores)
    kept = _members(anomalous, defects)
    return {
        name: {"n": int(members.sum()), **image_metrics(anomalous[members | ~anomalous], scores[members | ~anomalous])}
        for name, members in kept.items()
    }


def pixel_metrics_by_defect(masks, maps, defects: Sequence[str], **options) -> dict[str, dict]:
    """pixel_metrics of each defect type: its images and all images without an anomalous pixel.

    masks, maps: arrays or lists; defects: [N] type of each image with a defect. options: of pixel_metrics.
    Returns {type: pixel_metrics and "n", its number of images}.
    """
    if not (is_array(maps) or isinstance(maps, (list, tuple))):
        raise InputError("every type goes through the maps anew: give arrays or lists, not an iterator")
    pairs = [(mask, scores) for _, mask, scores in image_pairs(masks, maps)]
    anomalous = np.array([mask.any() for mask, _ in pairs], bool)
    result = {}
    for name, members in _members(anomalous, defects).items():
        chosen = [pair for pair, take in zip(pairs, members | ~anomalous, strict=True) if take]
        result[name] = {"n": int(members.sum()), **pixel_metrics(chosen, **options)}
    return result


def defect_regions(masks, maps=None) -> dict[str, np.ndarray]:
    """One row per 8-connected region of the masks, as columns.

    masks, maps: as in pixel_metrics; maps may be left out.
    Returns arrays of one length: image (index), area (pixels), area_share (of its image), aspect_ratio (as of
    adlib.metrics.regions); with maps also score_max and score_mean.
    """
    rows: dict[str, list] = {name: [] for name in ("image", "area", "area_share", "aspect_ratio")}
    if maps is not None:
        rows.update(score_max=[], score_mean=[])
    pairs = image_pairs(masks, maps) if maps is not None else image_pairs((m, np.zeros(np.shape(m))) for m in masks)
    for image, (_, mask, scores) in enumerate(pairs):
        for y, x, aspect_ratio in regions(mask):
            rows["image"].append(image)
            rows["area"].append(len(y))
            rows["area_share"].append(len(y) / mask.size)
            rows["aspect_ratio"].append(aspect_ratio)
            if maps is not None:
                rows["score_max"].append(float(scores[y, x].max()))
                rows["score_mean"].append(float(scores[y, x].mean(dtype=np.float64)))
    kinds = {"image": np.int64, "area": np.int64}
    return {name: np.array(column, kinds.get(name, np.float64)) for name, column in rows.items()}


def size_edges(sizes, shares: Sequence[float] = (0.01, 0.1, 0.5)) -> list[float]:
    """Bin edges at shares of the largest size, from 0 to just above it: CXR-AD's 1, 10 and 50 %."""
    largest = float(np.max(sizes)) if len(sizes) else 0.0
    if largest <= 0:
        raise InputError("size_edges needs at least one defect with a size above 0")
    return [0.0, *(share * largest for share in shares), math.nextafter(largest, math.inf)]


def recall_by_size(sizes, found, edges: Sequence[float], level: float = 0.95) -> list[dict]:
    """Recall in bins of defect size.

    sizes: [M] size of each defect, in any unit; per region (columns of defect_regions) or per image.
    found: bool [M], for example regions["score_max"] >= threshold, or image scores >= threshold.
    edges: rising; a bin holds low <= size < high.
    Returns a row per bin: size_from, size_to, n, found, recall, and recall_low, recall_high (Wilson's
    interval); an empty bin has NaN there and a "reason". Raises InputError if a size falls outside all bins.
    """
    sizes, found = np.asarray(to_numpy(sizes), np.float64), np.asarray(to_numpy(found))
    if sizes.ndim != 1 or sizes.shape != found.shape or found.dtype.kind != "b":
        raise InputError("sizes (numbers) and found (bool) must be two lists of one length, one entry per defect")
    edges = [float(edge) for edge in edges]
    if len(edges) < 2 or sorted(set(edges)) != edges:
        raise InputError(f"edges must rise and there must be two or more, got {edges}")
    outside = ~((sizes >= edges[0]) & (sizes < edges[-1]))
    if outside.any():
        raise InputError(f"size {sizes[outside][0]:g} lies in no bin; the edges go from {edges[0]:g} to {edges[-1]:g}")
    rows = []
    for low, high in pairwise(edges):
        inside = (sizes >= low) & (sizes < high)
        n, hit = int(inside.sum()), int(found[inside].sum())
        row = {"size_from": low, "size_to": high, "n": n, "found": hit, "recall": hit / n if n else math.nan}
        row["recall_low"], row["recall_high"] = wilson_interval(hit, n, level)
        rows.append(row if n else {**row, "reason": "no defect of this size"})
    return rows


def wilson_interval(found: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share found / n; (NaN, NaN) for n = 0."""
    if n == 0:
        return math.nan, math.nan
    interval = binomtest(int(found), int(n)).proportion_ci(level, method="wilson")
    return float(interval.low), float(interval.high)


def _members(anomalous: np.ndarray, defects: Sequence[str]) -> dict[str, np.ndarray]:
    """{type: bool[N] anomalous images of that type}."""
    defects = np.asarray(list(defects), dtype=object)
    if defects.shape != anomalous.shape:
        raise InputError(f"defects: expected one entry per image ({len(anomalous)}), got {len(defects)}")
    names = sorted({str(name) for name in defects[anomalous]})
    return {name: anomalous & (defects.astype(str) == name) for name in names}
