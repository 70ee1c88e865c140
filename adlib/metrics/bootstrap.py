"""Bootstrap over images: intervals of every ranking metric, and paired comparison of two detectors.

Images are resampled with replacement, within strata (normal and anomalous images, or finer), never pixels:
pixels of one image are not independent. Neither are images of one item that was photographed several times: where
`items` names them, whole items are resampled (a cluster bootstrap), those with the same kinds of images apart.

Nothing is sorted again for a replicate. Each image is reduced once to counts of its normal pixels above every
anomalous score; a replicate weights images by how often they were drawn, so that the counts of all replicates
together are one matrix product, and the values are those of the exact kernel.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from adlib.errors import InputError
from adlib.metrics.inputs import image_pairs, is_array, labels_and_scores, region_areas
from adlib.metrics.ranking import image_metrics, pixel_metrics
from adlib.metrics.sums import RankingSums

COLUMNS = 1024  # anomalous scores per matrix product


def bootstrap_images(
    labels, scores, replicates: int = 1000, seed: int = 0, strata=None, level: float = 0.95, items=None
) -> dict:
    """Percentile intervals of image_auroc, image_ap and image_f1max.

    labels, scores: [N] as in image_metrics. strata: [N] anything that names the group an image is drawn from,
    its defect type for example (labels are never mixed); default: the labels. level: of the interval. items: [N]
    anything that names the item an image shows; default: every image is one by itself.
    Returns {metric: {"value", "low", "high", "std"}} with "reasons" where one is undefined: the interval is where
    there is but one anomalous or one normal image (or item, or one in every stratum), since nothing varies then.
    """
    return _bootstrap(_ImageEvidence(labels, scores), replicates, seed, strata, level, items)


def bootstrap_pixels(
    masks,
    maps,
    replicates: int = 1000,
    seed: int = 0,
    strata=None,
    level: float = 0.95,
    pro_limit: float = 0.3,
    items=None,
) -> dict:
    """Percentile intervals of pixel_auroc, pixel_ap, pixel_f1max and aupro, resampling images.

    masks, maps: as in pixel_metrics (an iterator is read once; a sorted copy of all scores is held in
    memory). strata, items: [N] as in bootstrap_images; default: images with and without an anomalous pixel.
    Returns as bootstrap_images. Time grows with replicates x images x distinct anomalous scores.
    """
    return _bootstrap(_PixelEvidence(masks, maps, pro_limit), replicates, seed, strata, level, items)


def compare_images(
    labels, first, second, replicates: int = 1000, seed: int = 0, strata=None, level: float = 0.95, items=None
) -> dict:
    """Is detector `first` better than `second` on the same images? Paired bootstrap of image metrics.

    Both are evaluated on the same replicates. Returns {metric: {"first", "second", "difference", "low",
    "high", "p_value"}}: difference first - second with its percentile interval, and the two-sided p-value 2
    min(share of replicates with difference <= 0, share with >= 0), each share counted with one added; it
    cannot fall below 2 / (replicates + 1). strata, items: as in bootstrap_images. For image AUROC,
    delong_compare needs no replicates.
    """
    one, other = _ImageEvidence(labels, first), _ImageEvidence(labels, second)
    return _compare(one, other, replicates, seed, strata, level, items)


def compare_pixels(
    masks,
    first,
    second,
    replicates: int = 1000,
    seed: int = 0,
    strata=None,
    level: float = 0.95,
    pro_limit: float = 0.3,
    items=None,
) -> dict:
    """Paired bootstrap of pixel metrics; masks, first and second: arrays or lists, one entry per image.

    Returns as compare_images.
    """
    if not (is_array(masks) or isinstance(masks, (list, tuple))):
        raise InputError("masks are needed twice, once per detector: give an array or a list, not an iterator")
    one, other = _PixelEvidence(masks, first, pro_limit), _PixelEvidence(masks, second, pro_limit)
    return _compare(one, other, replicates, seed, strata, level, items)


def draw_counts(strata: np.ndarray, replicates: int, seed: int, items: np.ndarray | None = None) -> np.ndarray:
    """int64[replicates, N]: how often each image is drawn, each stratum keeping its size.

    items: [N] numbers from 0; items are drawn then, each with all its images, among those of the same strata.
    """
    if items is not None:
        return draw_counts(_item_strata(strata, items), replicates, seed)[:, items]
    if replicates < 2:
        raise InputError(f"replicates must be at least 2, got {replicates}")
    rng = np.random.default_rng(seed)
    counts = np.zeros((replicates, len(strata)), np.int64)
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        size = len(members)
        counts[:, members] = rng.multinomial(size, np.full(size, 1 / size), size=replicates)
    return counts


class _ImageEvidence:
    """Image scores in falling order."""

    keys = ("image_auroc", "image_ap", "image_f1max")

    def __init__(self, labels, scores):
        self.anomalous, scores = labels_and_scores(labels, scores)
        self.values = image_metrics(self.anomalous, scores)
        self._order = np.argsort(-scores.astype(np.float64), kind="stable")
        falling = scores[self._order]
        self._first = np.flatnonzero(np.concatenate([[True], falling[1:] != falling[:-1]])) if len(scores) else []
        self._distinct = falling[self._first] if len(scores) else falling

    def replicate(self, counts: np.ndarray) -> np.ndarray:
        """float64[R, metrics] for counts [R, N]."""
        rows = max(1, (1 << 21) // counts.shape[1])
        return np.concatenate([self._some(counts[r : r + rows]) for r in range(0, len(counts), rows)])

    def _some(self, counts: np.ndarray) -> np.ndarray:
        drawn = counts.T[self._order].astype(np.float64)
        label = self.anomalous[self._order][:, None]
        found = np.add.reduceat(drawn * label, self._first)
        tied = np.add.reduceat(drawn * ~label, self._first)
        sums = RankingSums(found.sum(0), tied.sum(0))
        sums.add(self._distinct, found, np.cumsum(tied, axis=0) - tied, tied)
        return np.stack([sums.auroc, sums.average_precision, sums.f1_max], axis=1)


@dataclass
class _Entries:
    """Anomalous pixels of one image with one score, falling by score; arrays of one length."""

    score: np.ndarray
    image: np.ndarray
    count: np.ndarray
    weight: np.ndarray  # sum of 1 / area of its region


class _PixelEvidence:
    """Sorted normal scores of every image, and all anomalous scores in falling order."""

    keys = ("pixel_auroc", "pixel_ap", "pixel_f1max", "aupro")

    def __init__(self, masks, maps, pro_limit: float):
        self._limit = float(pro_limit)
        self._normal, entries, regions, pairs = [], [], [], []
        for index, (_, mask, scores) in enumerate(image_pairs(masks, maps)):
            pairs.append((mask, scores))
            self._normal.append(np.sort(scores[~mask]))
            areas, found = region_areas(mask) if mask.any() else (np.empty(0, np.int32), [])
            regions.append(len(found))
            score, inverse = np.unique(scores[mask], return_inverse=True)
            entries.append(
                _Entries(
                    score,
                    np.full(len(score), index),
                    np.bincount(inverse, minlength=len(score)).astype(np.float64),
                    np.bincount(inverse, weights=1.0 / areas, minlength=len(score)),
                )
            )
        self.values = pixel_metrics(pairs, pro_limit=pro_limit)
        self._regions = np.array(regions, np.float64)
        self._n_normal = np.array([len(x) for x in self._normal], np.float64)
        self._n_anomalous = np.array([e.count.sum() for e in entries])
        self.anomalous = self._n_anomalous > 0
        self._entries = _joined(entries) if entries else None

    def replicate(self, counts: np.ndarray) -> np.ndarray:
        """float64[R, metrics] for counts [R, N]."""
        counts = np.ascontiguousarray(counts.T, np.float64)  # [N, R]
        totals = (x @ counts for x in (self._n_anomalous, self._n_normal, self._regions))
        sums = RankingSums(*totals, (self._limit,))
        for part, distinct, first, above, tied in self._blocks():
            found, weight = _drawn(part, first, counts)
            both = np.zeros((len(distinct), counts.shape[1]))
            some = tied.any(1)
            both[some] = tied[some] @ counts
            sums.add(distinct, found, above @ counts, both, weight)
        return np.stack([sums.auroc, sums.average_precision, sums.f1_max, sums.aupro(self._limit)], axis=1)

    def _blocks(self) -> Iterator[tuple]:
        """Entries with their distinct scores, and normal pixels above and at each, [B, N images]."""
        scores = self._entries.score
        starts = np.flatnonzero(np.concatenate([[True], scores[1:] != scores[:-1]]))
        for a in range(0, len(starts), COLUMNS):
            begin = starts[a]
            end = starts[a + COLUMNS] if a + COLUMNS < len(starts) else len(scores)
            first = starts[a : a + COLUMNS] - begin
            part = _Entries(*(getattr(self._entries, f)[begin:end] for f in ("score", "image", "count", "weight")))
            distinct = part.score[first]
            rising = distinct[::-1]
            upto = np.stack([n.searchsorted(rising, "right")[::-1] for n in self._normal], axis=1)
            below = np.stack([n.searchsorted(rising, "left")[::-1] for n in self._normal], axis=1)
            yield part, distinct, first, self._n_normal - upto, (upto - below).astype(np.float64)


def _joined(entries: Sequence[_Entries]) -> _Entries:
    fields = [np.concatenate([getattr(e, f) for e in entries]) for f in ("score", "image", "count", "weight")]
    order = np.argsort(fields[0], kind="stable")[::-1]
    return _Entries(*(field[order] for field in fields))


def _drawn(part: _Entries, first: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Anomalous pixels and region weight at each distinct score, [B, R] for counts [N, R]."""
    drawn = counts[part.image[first]]
    found, weight = drawn * part.count[first, None], drawn * part.weight[first, None]
    tail = np.setdiff1d(np.arange(len(part.score)), first)  # more images with the same score
    for entry, group in zip(tail, first.searchsorted(tail) - 1, strict=True):
        drawn = counts[part.image[entry]]
        found[group] += drawn * part.count[entry]
        weight[group] += drawn * part.weight[entry]
    return found, weight


def _strata(evidence, strata) -> np.ndarray:
    """Label joined with the user's strata, as integers."""
    if strata is None:
        return evidence.anomalous.astype(np.int64)
    strata = np.asarray(strata)
    if strata.shape != evidence.anomalous.shape:
        raise InputError(f"strata: expected one entry per image ({len(evidence.anomalous)}), got {strata.shape}")
    _, number = np.unique(strata, return_inverse=True)
    return 2 * number + evidence.anomalous


def _items(evidence, items) -> np.ndarray | None:
    """Items as numbers from 0."""
    if items is None:
        return None
    items = np.asarray(items)
    if items.shape != evidence.anomalous.shape:
        raise InputError(f"items: expected one entry per image ({len(evidence.anomalous)}), got {items.shape}")
    return np.unique(items, return_inverse=True)[1]


def _item_strata(strata: np.ndarray, items: np.ndarray) -> np.ndarray:
    """int64[items]: equal for items whose images are of the same strata."""
    known: dict[tuple, int] = {}
    kinds = (tuple(np.unique(strata[items == item])) for item in range(items.max() + 1))
    return np.array([known.setdefault(kind, len(known)) for kind in kinds])


def _why_no_interval(anomalous: np.ndarray, strata: np.ndarray, items: np.ndarray | None) -> str | None:
    """A class of which every stratum has one image (or item) is the same in every replicate."""
    thing = "image" if items is None else "item"
    items = np.arange(len(strata)) if items is None else items
    of_item = _item_strata(strata, items) if thing == "item" else strata
    size = np.bincount(of_item)
    for name, members in (("anomalous", anomalous), ("normal", ~anomalous)):
        own = np.unique(items[members])
        if (size[of_item[own]] < 2).all():
            many = f"one {name} {thing}" if len(own) == 1 else f"one {name} {thing} in every stratum"
            return f"there is but {many}: drawing it again cannot say how another would have scored"
    return None


def _bootstrap(evidence, replicates, seed, strata, level, items) -> dict:
    if "reasons" in evidence.values:
        nothing = dict.fromkeys(("value", "low", "high", "std"), float("nan"))
        reasons = {key: evidence.values["reasons"][key] for key in evidence.keys}
        return {**{key: dict(nothing) for key in evidence.keys}, "reasons": reasons}
    strata, items = _strata(evidence, strata), _items(evidence, items)
    if reason := _why_no_interval(evidence.anomalous, strata, items):
        nothing = dict.fromkeys(("low", "high", "std"), float("nan"))
        found = {key: {"value": evidence.values[key], **nothing} for key in evidence.keys}
        return {**found, "reasons": dict.fromkeys(evidence.keys, reason)}
    drawn = evidence.replicate(draw_counts(strata, replicates, seed, items))
    result = {}
    for key, column in zip(evidence.keys, drawn.T, strict=True):
        low, high = _interval(column, level)
        result[key] = {"value": evidence.values[key], "low": low, "high": high, "std": float(column.std(ddof=1))}
    return result


def _compare(one, other, replicates, seed, strata, level, items) -> dict:
    fields = ("first", "second", "difference", "low", "high", "p_value")
    if "reasons" in one.values:
        reasons = {key: one.values["reasons"][key] for key in one.keys}
        return {**{key: dict.fromkeys(fields, float("nan")) for key in one.keys}, "reasons": reasons}
    strata, items = _strata(one, strata), _items(one, items)
    if reason := _why_no_interval(one.anomalous, strata, items):
        nothing = dict.fromkeys(("low", "high", "p_value"), float("nan"))
        pairs = {key: (one.values[key], other.values[key]) for key in one.keys}
        found = {key: {"first": a, "second": b, "difference": a - b, **nothing} for key, (a, b) in pairs.items()}
        return {**found, "reasons": dict.fromkeys(one.keys, reason)}
    counts = draw_counts(strata, replicates, seed, items)
    result = {}
    for key, column in zip(one.keys, (one.replicate(counts) - other.replicate(counts)).T, strict=True):
        smaller = min((column <= 0).sum(), (column >= 0).sum()) + 1
        values = one.values[key], other.values[key], one.values[key] - other.values[key]
        p_value = min(1.0, 2 * float(smaller) / (replicates + 1))
        result[key] = dict(zip(fields, (*values, *_interval(column, level), p_value), strict=True))
    return result


def _interval(values: np.ndarray, level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise InputError(f"level must lie in (0, 1), got {level}")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
