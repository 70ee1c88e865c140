"""Ranking metrics of images and pixels: AUROC, average precision, F1-max, AUPRO, partial AUROC; all exact.

Definitions are those of scikit-learn (ROC with ties counted half, step-wise average precision) and of MVTec's
evaluation (PRO over 8-connected regions, false-positive rate over all normal pixels of the set, area up to
the limit by linear interpolation, divided by the limit). AUROC is never flipped. What is undefined is NaN,
and the extra key "reasons" says why.
"""

from collections.abc import Callable, Iterable

import numpy as np

from adlib.errors import InputError
from adlib.metrics.inputs import (
    image_pairs,
    is_array,
    is_pairs,
    is_tensor,
    labels_and_scores,
    needs_float64,
    region_areas,
)
from adlib.metrics.score_ranges import descending_ranges
from adlib.metrics.sorted_runs import SortedRuns
from adlib.metrics.sums import RankingSums

STREAM_MEMORY = 8 << 20  # bytes of sorted scores kept in memory for an iterator, before a file is used
ARRAY_MEMORY = 320 << 20  # the same when the maps lie in memory anyway


def image_metrics(labels, scores, auroc_limit: float | None = None) -> dict:
    """AUROC, average precision and F1-max of image scores.

    labels: [N] 0 normal, 1 anomalous. scores: [N] real numbers, higher is more anomalous; array, tensor or
    list. auroc_limit: false-positive rate in (0, 1]; adds image_partial_auroc, the area left of it divided by
    it. Returns floats: image_auroc, image_ap, image_f1max, image_f1max_threshold (score >= threshold is
    anomalous; the highest of several best; chosen on these labels, hence an oracle); and "reasons" where one
    is NaN. Integers are ranked as they are, beyond 2**53 too; a threshold there is an int. Raises InputError for
    scores that are not finite, naming the image.
    """
    anomalous, scores = labels_and_scores(labels, scores, keep=True)
    limits = () if auroc_limit is None else (_checked_limit(auroc_limit),)
    keys = ["image_auroc", "image_ap", "image_f1max", "image_f1max_threshold"]
    keys += ["image_partial_auroc"] if limits else []
    positive, negative = scores[anomalous], np.sort(scores[~anomalous])
    reason = _why_undefined("image", len(positive), len(negative))
    if reason:
        return _undefined(keys, reason)
    sums = RankingSums(len(positive), len(negative), limits=limits)
    distinct, count = np.unique(positive, return_counts=True)
    below, upto = (negative.searchsorted(distinct, side) for side in ("left", "right"))
    places = np.arange(len(distinct))  # in place of the scores, which may be more than float64 can tell apart
    sums.add(places[::-1], count[::-1], (len(negative) - upto)[::-1], (upto - below)[::-1])
    values = [sums.auroc, sums.average_precision, sums.f1_max, distinct[int(sums.threshold)]]
    values += [sums.partial_auroc(limit) for limit in limits]
    return {key: _plain(value) for key, value in zip(keys, values, strict=True)}


def _plain(value) -> float | int:
    """A float; an int where that is the only number equal to the value, a threshold among integers beyond 2**53."""
    if isinstance(value, np.integer) and int(float(value)) != int(value):
        return int(value)
    return float(value)


def pixel_metrics(
    masks,
    maps=None,
    pro_limit: float | Iterable[float] = 0.3,
    auroc_limit: float | None = None,
    folder: str | None = None,
    regions: bool = False,
) -> dict:
    """AUROC, average precision, F1-max and AUPRO of anomaly maps, over all pixels of all images.

    masks: bool or integer, anomalous where not 0; maps: real numbers of the same shape, higher is more
    anomalous. Both [N, H, W] arrays or tensors (a GPU tensor is worked on where it is), or lists of [H, W] of
    any sizes, or iterators of images or of chunks [n, H, W], or paths (.npy, images); or masks alone, an
    iterator of (mask, map) pairs of any of these, read once. A mask that is the number 0 stands for a normal
    image.
    pro_limit: false-positive rate in (0, 1] at which the area under the PRO curve ends; of several, the first
    one is "aupro" and each is also given as "aupro_<limit>". auroc_limit: the same for pixel_partial_auroc,
    which is left out without it.
    folder: where sorted scores go that do not fit in memory (default: the system's temporary folder). Arrays
    and lists stay in memory up to 80 million float32 scores, iterators up to 2 million; beyond, one unnamed
    file takes 4 bytes per normal pixel and 8 per anomalous one (8 and 12 for float64 maps), 4.3 GB for 16,546
    maps of 256x256, and is gone when the function returns.

    regions: give the int aupro_regions besides, over how many regions aupro is taken, where it is defined.

    Returns floats: pixel_auroc, pixel_ap, pixel_f1max, pixel_f1max_threshold (oracle, as in image_metrics)
    and aupro; and "reasons" where one is NaN. Raises InputError for wrong shapes and scores that are not
    finite, naming the image.
    """
    limits = tuple(_checked_limit(x) for x in ([pro_limit] if np.ndim(pro_limit) == 0 else pro_limit))
    if not limits:
        raise InputError("pro_limit: give at least one false-positive rate, 0.3 for example")
    partial = () if auroc_limit is None else (_checked_limit(auroc_limit),)
    keys = ["pixel_auroc", "pixel_ap", "pixel_f1max", "pixel_f1max_threshold", "aupro"]
    keys += [f"aupro_{limit:g}" for limit in limits] if np.ndim(pro_limit) else []
    keys += ["pixel_partial_auroc"] if partial else []
    if masks is None:
        return _undefined(keys, "there are no masks, so nothing says which pixels are anomalous")
    if maps is None and not is_pairs(masks):
        return _undefined(keys, "there are no anomaly maps (this detector may give image scores only)")

    if is_tensor(maps) and maps.device.type == "cuda":
        from adlib.metrics.gpu import rank_on_device

        sums = rank_on_device(masks, maps, (*limits, *partial))
    else:
        sums = rank_pixels(masks, maps, (*limits, *partial), folder)
    reason = _why_undefined("pixel", sums.n_anomalous, sums.n_normal)
    if reason:
        return _undefined(keys, reason)
    values = [sums.auroc, sums.average_precision, sums.f1_max, sums.threshold, sums.aupro(limits[0])]
    values += [sums.aupro(limit) for limit in limits] if np.ndim(pro_limit) else []
    values += [sums.partial_auroc(limit) for limit in partial]
    found = {key: float(value) for key, value in zip(keys, values, strict=True)}
    return found | {"aupro_regions": int(sums.n_regions)} if regions else found


def rank_pixels(masks, maps, limits=(), folder: str | None = None, sums: Callable = RankingSums):
    """All pixels in the order of their scores, given to what `sums` makes: a RankingSums, or what takes its place.

    masks, maps, folder: as of `pixel_metrics`. limits: false-positive rates at which partial areas end.
    """
    in_memory = is_array(maps) or isinstance(masks if maps is None else maps, (list, tuple))
    memory = ARRAY_MEMORY if in_memory else STREAM_MEMORY
    normal = anomalous = None
    n_regions = 0
    try:
        for name, mask, scores in image_pairs(masks, maps):
            if normal is None:
                dtype = np.dtype(np.float64) if needs_float64(maps) else scores.dtype
                normal = SortedRuns(dtype, memory, folder=folder)
                anomalous = SortedRuns(dtype, memory // 4, companions=True, folder=folder)
            if scores.dtype.itemsize > normal.dtype.itemsize:
                raise InputError(f"{name}: {scores.dtype} after maps of {normal.dtype}; give all maps one dtype")
            if mask.any():
                areas, regions = region_areas(mask)
                anomalous.append(scores[mask], areas)
                normal.append(scores[~mask])
                n_regions += len(regions)
            else:
                normal.append(scores.ravel())
        if normal is None:
            return sums(0, 0)
        normal.finish()
        anomalous.finish()
        taken = sums(anomalous.size, normal.size, n_regions, limits)
        if anomalous.size and normal.size:
            for part in descending_ranges(anomalous, normal):
                taken.add(part.scores, part.anomalous, part.normal_above, part.normal_tied, part.region_weight)
        return taken
    finally:
        for runs in (normal, anomalous):
            if runs is not None:
                runs.close()


def auroc(labels, scores) -> float:
    """Area under the ROC curve of image scores, ties counted half; NaN with one class only. Never flipped."""
    return image_metrics(labels, scores)["image_auroc"]


def average_precision(labels, scores) -> float:
    """Step-wise average precision (no interpolation), as scikit-learn's average_precision_score."""
    return image_metrics(labels, scores)["image_ap"]


def f1_max(labels, scores) -> tuple[float, float]:
    """(highest F1 over all thresholds, that threshold). An oracle: the threshold has seen the labels."""
    metrics = image_metrics(labels, scores)
    return metrics["image_f1max"], metrics["image_f1max_threshold"]


def partial_auroc(labels, scores, limit: float, standardised: bool = False) -> float:
    """Area under the ROC curve left of FPR = limit, divided by limit: 1 is perfect, limit / 2 is chance.

    standardised: McClish's correction instead (0.5 is chance), as scikit-learn's
    roc_auc_score(max_fpr=limit).
    """
    value = image_metrics(labels, scores, auroc_limit=limit)["image_partial_auroc"]
    if not standardised or limit == 1:
        return value
    return 0.5 * (1 + (value - limit / 2) / (1 - limit / 2))


def aupro(masks, maps, limit: float = 0.3) -> float:
    """Area under the per-region-overlap curve up to FPR = limit, divided by limit (Bergmann et al. 2021)."""
    return pixel_metrics(masks, maps, pro_limit=limit)["aupro"]


def _checked_limit(limit) -> float:
    if not 0 < float(limit) <= 1:
        raise InputError(f"a false-positive rate limit must lie in (0, 1], got {limit}")
    return float(limit)


def _why_undefined(thing: str, n_anomalous, n_normal) -> str | None:
    if n_anomalous == 0 and n_normal == 0:
        return f"there is no {thing} at all"
    if n_anomalous == 0:
        return f"there is no anomalous {thing}, only {int(n_normal)} normal ones"
    if n_normal == 0:
        return f"there is no normal {thing}, only {int(n_anomalous)} anomalous ones"
    return None


def _undefined(keys, reason: str) -> dict:
    return {**dict.fromkeys(keys, float("nan")), "reasons": dict.fromkeys(keys, reason)}
