"""Metrics as papers computed them, under their own names, to set beside their published numbers and no
others.

None of these is used unless asked for by name; a run computes those that the papers on its dataset need
(`pro` in their paper.yaml). The exact AUPRO is `adlib.metrics.aupro`. All but the last two sweep a fixed
number of evenly spaced thresholds, call a pixel anomalous where its score is above (not at) the threshold,
take regions 8-connected, and rescale an axis instead of interpolating at the limit; so their values depend on
the distribution of the scores and change under monotone transforms. Each returns {its name: value}, with
"reasons" where it is NaN.

PRO over the whole false-positive axis (PyramidFlow's code) is exact and needs no variant: pro_limit=1.
"""

from collections.abc import Iterable

import numpy as np

from adlib.errors import InputError
from adlib.metrics.inputs import image_pairs, is_array, region_areas
from adlib.metrics.ranking import pixel_metrics


def pro_per_image(masks, maps, limit: float = 0.3, thresholds: int = 200) -> dict:
    """PRO of every anomalous image by itself, then the mean: CFRG (3CAD), RD++ and RD4AD.

    Differs from AUPRO: each image has its own thresholds (its minimum upwards) and its own false-positive
    axis, made of its own normal pixels; normal images do not count; the points with FPR < limit are kept and
    their FPR divided by the largest of them; an image with many regions weighs no more than one with a single
    region.
    """
    name, values = "pro_per_image", []
    for image, mask, scores in _pairs(masks, maps):
        if not mask.any():
            continue
        curve = _Curve([(mask, scores)], thresholds)
        value, reason = curve.area(limit, fpr_from_zero=True)
        if reason:
            return _nan(name, f"{image}: {reason} (the original code stops with an error there)")
        values.append(value)
    return {name: float(np.mean(values))} if values else _nan(name, "there is no anomalous pixel in any mask")


def pro_200_thresholds(masks, maps, limit: float = 0.3, thresholds: int = 200) -> dict:
    """PRO pooled over all images on 200 thresholds: ADer's fallback and many method repositories.

    Differs from AUPRO: thresholds from the minimum of all scores upwards; points with FPR < limit are kept
    and their FPR stretched to [0, 1] by minimum and maximum, which ends the area at the last threshold before
    the limit.
    """
    return _pooled("pro_200_thresholds", masks, maps, limit, thresholds)


def pro_both_rescaled(masks, maps, limit: float = 0.3, thresholds: int = 200) -> dict:
    """PRO pooled over all images with both axes stretched to [0, 1]: moviad (MIIC paper), CFA; STFPM with
    4000.

    Differs from AUPRO: thresholds from the maximum of all scores downwards; points with FPR <= limit are
    kept, and FPR and PRO are each stretched by minimum and maximum. The curve then starts at 0 and ends at 1
    however little was found, which mostly inflates the value.
    """
    name = "pro_both_rescaled"
    return _pooled(name, masks, maps, limit, thresholds, from_top=True, inclusive=True, stretch_pro=True)


def pro_dilated(masks, maps, limit: float = 0.3, thresholds: int = 200) -> dict:
    """PRO with detections dilated by 5x5 before the overlap, but not before counting false ones: SimpleNet,
    GLASS.

    Differs from AUPRO: as pro_200_thresholds, with FPR divided by its maximum, and every detection reaches
    two pixels further than it does, at no cost.
    """
    return _pooled("pro_dilated", masks, maps, limit, thresholds, fpr_from_zero=True, dilate=True)


def pro_anomalous_images(masks, maps, limit: float = 0.3) -> dict:
    """Exact AUPRO over the anomalous images alone: PatchCore's published PRO (its table "anomaly PRO").

    Differs from AUPRO: normal pixels of normal images are left out of the false-positive rate.
    """
    kept = ((mask, scores) for _, mask, scores in _pairs(masks, maps) if mask.any())
    value = pixel_metrics(kept, pro_limit=limit)
    name = "pro_anomalous_images"
    return _nan(name, value["reasons"]["aupro"]) if "reasons" in value else {name: value["aupro"]}


def pro_at_image_f1(masks, maps, labels, scores) -> dict:
    """Mean overlap of the regions at one threshold, that of the best image F1: anomalib's PRO (ISP-AD).

    labels, scores: [N] of the images, 0 normal and 1 anomalous, higher is more anomalous. A pixel is found where
    its score is at or above the highest threshold at which the images' F1 is best, as an image is.
    Differs from AUPRO: not an area but one point of the curve, with no bound on the false-positive rate. It is 0
    where no pixel reaches the threshold, and 1 where all do; it means nothing where image scores and maps have
    different units. The threshold has seen the labels, hence an oracle.
    """
    from adlib.metrics.ranking import image_metrics

    name, images = "pro_at_image_f1", image_metrics(labels, scores)
    if "reasons" in images:
        return _nan(name, images["reasons"]["image_f1max"])
    threshold, overlap, n_regions = images["image_f1max_threshold"], 0.0, 0
    for _, mask, pixels in _pairs(masks, maps):
        if mask.any():
            areas, regions = region_areas(mask)
            overlap += float(np.sum((pixels[mask] >= threshold) / areas))
            n_regions += len(regions)
    return {name: overlap / n_regions} if n_regions else _nan(name, "there is no anomalous pixel in any mask")


PRO_VARIANTS = {
    function.__name__: function
    for function in (pro_per_image, pro_200_thresholds, pro_both_rescaled, pro_dilated, pro_anomalous_images)
}


# What a variant is called in the head of a column.
PRO_LABELS = {
    "pro_per_image": "PRO of every anomalous image by itself",
    "pro_200_thresholds": "PRO on 200 thresholds",
    "pro_both_rescaled": "PRO with both axes rescaled",
    "pro_dilated": "PRO of dilated detections",
    "pro_anomalous_images": "PRO of the anomalous images alone",
    "pro_at_image_f1": "region overlap at the threshold of the best image F1",
}


def pro_variant(name: str, masks, maps, labels, scores) -> dict:
    """One of PRO_LABELS by its name; labels and scores of the images are for `pro_at_image_f1`."""
    if name == "pro_at_image_f1":
        return pro_at_image_f1(masks, maps, labels, scores)
    if name not in PRO_VARIANTS:
        raise InputError(f"There is no PRO variant {name!r}; there are {', '.join(PRO_LABELS)}.")
    return PRO_VARIANTS[name](masks, maps)


def image_scores(maps, rule: str = "max", k: int | float = 100) -> np.ndarray:
    """Image scores out of anomaly maps; float64[N]. Models also give their own: use those for their tables.

    maps: [N, H, W] or a list of [H, W].
    rule "max": highest pixel (PaDiM, CFA, STFPM, RD4AD, RD++, CFRG, FastFlow, U-Flow, PyramidFlow).
    rule "top_k_mean": mean of the k highest pixels, or of the share k < 1 of them (DeSTSeg: 100 pixels,
    MSFlow: 0.03). PatchCore, SimpleNet and GLASS take the maximum before upsampling and smoothing; UniAD,
    OneNIP, RealNet and DRAEM the maximum after a mean filter; those are the model's own scores.
    """
    if rule not in ("max", "top_k_mean"):
        raise InputError(f'rule must be "max" or "top_k_mean", got {rule!r}')
    result = []
    for image, _, scores in image_pairs([(0, maps)] if is_array(maps) else ((0, one) for one in maps)):
        flat = scores.ravel()
        if rule == "max":
            result.append(flat.max())
            continue
        count = int(k) if k >= 1 else max(1, int(k * flat.size))
        if not 1 <= count <= flat.size:
            raise InputError(f"{image}: k = {k} asks for {count} of {flat.size} pixels")
        result.append(np.partition(flat, flat.size - count)[flat.size - count :].mean(dtype=np.float64))
    return np.array(result, np.float64)


class _Curve:
    """False-positive rate and mean region overlap at evenly spaced thresholds."""

    def __init__(self, pairs: Iterable, thresholds: int, from_top: bool = False, dilate: bool = False):
        pairs = list(pairs)
        low = min(float(scores.min()) for _, scores in pairs)
        high = max(float(scores.max()) for _, scores in pairs)
        steps = np.arange(thresholds) * ((high - low) / thresholds)
        levels = np.sort(high - steps) if from_top else low + steps
        false, overlap = np.zeros(thresholds), np.zeros(thresholds)
        self.constant = low == high
        n_normal = n_regions = 0
        for mask, scores in pairs:
            scores = scores.astype(np.float64)
            normal = np.sort(scores[~mask])
            false += len(normal) - np.searchsorted(normal, levels, side="right")
            n_normal += len(normal)
            if mask.any():
                areas, regions = region_areas(mask)
                found = _dilated(scores)[mask] if dilate else scores[mask]
                order = np.argsort(found)
                weight = np.concatenate([[0.0], np.cumsum(1.0 / areas[order])])
                overlap += weight[-1] - weight[np.searchsorted(found[order], levels, side="right")]
                n_regions += len(regions)
        self.n_normal = n_normal
        self.fpr = false / max(n_normal, 1)
        self.pro = overlap / max(n_regions, 1)

    def area(self, limit, inclusive=False, fpr_from_zero=False, stretch_pro=False) -> tuple[float, str | None]:
        """(area under the kept and rescaled points, None) or (NaN, reason)."""
        kept = self.fpr <= limit if inclusive else self.fpr < limit
        fpr, pro = self.fpr[kept], self.pro[kept]
        if self.n_normal == 0:
            return np.nan, "there is no normal pixel"
        if self.constant:
            return np.nan, "all scores are the same"
        if len(fpr) < 2 or fpr.max() == (0 if fpr_from_zero else fpr.min()):
            return np.nan, f"the thresholds leave no two points of different FPR below {limit}"
        low = 0.0 if fpr_from_zero else fpr.min()
        fpr = (fpr - low) / (fpr.max() - low)
        if stretch_pro:
            if pro.max() == pro.min():
                return np.nan, f"the overlap is the same at every threshold below FPR {limit}"
            pro = (pro - pro.min()) / (pro.max() - pro.min())
        order = np.lexsort((pro, fpr))
        return float(np.trapezoid(pro[order], fpr[order])), None


def _dilated(scores: np.ndarray) -> np.ndarray:
    """Highest score within 5x5: thresholding it equals dilating the thresholded map."""
    import cv2

    return cv2.dilate(scores, np.ones((5, 5), np.uint8))


def _pairs(masks, maps):
    if not (is_array(maps) or isinstance(maps, (list, tuple))):
        raise InputError("variants go through the maps several times: give arrays or lists, not an iterator")
    return image_pairs(masks, maps)


def _pooled(name, masks, maps, limit, thresholds, from_top=False, dilate=False, **rules) -> dict:
    pairs = [(mask, scores) for _, mask, scores in _pairs(masks, maps)]
    if not any(mask.any() for mask, _ in pairs):
        return _nan(name, "there is no anomalous pixel in any mask")
    value, reason = _Curve(pairs, thresholds, from_top, dilate).area(limit, **rules)
    return _nan(name, reason) if reason else {name: value}


def _nan(name: str, reason: str) -> dict:
    return {name: float("nan"), "reasons": {name: reason}}
