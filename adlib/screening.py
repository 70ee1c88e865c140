"""Screening: images of one's own sorted by a threshold from held-out normal images, and the list of the flagged.

What a threshold promises rests on order statistics. Of n normal images that the detector has not seen, drawn as
tomorrow's will be, a share of tomorrow's normal images scores above the k + 1-th highest of them that is distributed
as Beta(k + 1, n - k), whatever the scores' distribution (Wilks 1941; in conformal prediction Vovk 2012). Its mean is
(k + 1) / (n + 1): n images cannot promise less than 1 / (n + 1).

Images of one item that is photographed several times are not drawn independently of each other; the items are. Where
samples name items, an item counts once, by the highest score of its images: n is the number of items, and what is
promised is how many items have an image above the threshold, of items with as many images. Of images there are no more.

Where every image was scored by a detector that had not learned from it, but from fewer than the one that will judge
tomorrow's, that one knows more and calls fewer normal images, nobody knows how many: then only the upper ends of the
intervals hold, and the lower ones are 0.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import betabinom, binomtest

from adlib.errors import InputError
from adlib.files import replacing
from adlib.images import ImageSet
from adlib.predictions import Predictions
from adlib.samples import draw_share, is_known, is_picture, item_numbers, items, select


def hold_out(samples: pd.DataFrame, share: float, seed: int) -> pd.DataFrame:
    """Samples in which a share of each category's normal training images, drawn at random, is the split "val".

    A detector must not see them: their scores then are those of normal images it does not know, and a threshold can
    be chosen on them. Where the data has normal validation images of its own, those stay, and nothing is drawn.
    share: between 0 and 1, rounded up to whole images; one image at least stays for training. Where the samples have
        a column `item`, all images of an item stay together.
    Raises InputError for another share, or a category with fewer than two normal training images (or items).
    """
    if not 0 < share < 1:
        raise InputError(f"share must lie between 0 and 1: of the training images to hold out; got {share}.")
    normal = samples["label"] == 0
    if ((samples["split"] == "val") & normal).any():
        return samples.copy()
    generator, held = np.random.default_rng(seed), samples.copy()
    for category, rows in samples[(samples["split"] == "train") & normal].groupby("category"):
        try:
            held.loc[draw_share(rows, share, generator), "split"] = "val"
        except InputError as error:
            raise InputError(f"Holding out normal training images of {category!r}: {error}") from error
    return held


BATCH = 100  # further images of which is said how many are called
RATES = (0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.001)  # of false alarms that people ask for


@dataclass(frozen=True)
class Threshold:
    """Where the line is drawn, and what it promises of normal images like the held-out ones.

    score: images from here on are called anomalous. map: pixels from here on are outlined, at the same promise for the
    highest pixel of an image; None without maps that outline defects. usual: median pixel of the held-out images, where
    colours begin. rate: the share of false alarms that was asked for. held_out: normal images it was chosen on, of
    which it calls `called`. low, high: 95 % interval of the false alarm rate to expect. how: how these were held out.
    by_others: whether they were scored by detectors that have learned from fewer images; then low is 0. images: 0 where
    these are images; where they are items with several images each (see the module), how many images these have: then
    rate, held_out, called, low and high are of items.
    """

    score: float
    map: float | None
    usual: float | None
    rate: float
    held_out: int
    called: int
    low: float
    high: float
    how: str
    by_others: bool = False
    images: int = 0

    @property
    def things(self) -> str:
        """What is counted: "images" or "items"."""
        return "items" if self.images else "images"

    @property
    def kept(self) -> bool:
        """Whether as many images (or items) were held out as it takes to promise the rate."""
        return self.held_out >= images_needed(self.rate)

    def plain(self) -> dict:
        """Plain values, as a detector's file keeps them."""
        return asdict(self)

    @classmethod
    def of(cls, values: dict | None) -> "Threshold | None":
        """What `plain` gave. Raises InputError for anything else."""
        if values is None:
            return None
        try:
            return cls(**values)
        except TypeError as error:
            raise InputError(f"The threshold of this detector cannot be read ({error}): choose it anew.") from error

    def sentences(self) -> list[str]:
        """What a person should know of it."""
        first, last = calls_to_expect(self, BATCH)
        of_next, in_the_long_run = f"of the next {BATCH} normal {self.things}", "of all in the long run"
        if self.by_others:
            expected = (
                f"at most {last} {of_next}, and at most {self.high:.1%} {in_the_long_run} (97.5 % bounds; there may be "
                "far fewer, since the detector has learned from more images than those that scored these)"
            )
        else:
            expected = (
                f"{first} to {last} {of_next}, and {self.low:.1%} to {self.high:.1%} {in_the_long_run} (95 % intervals)"
            )
        shown, rule = (f" in {self.images} images", ", an item if one of its images is") if self.images else ("", "")
        said = [
            f"Threshold {self.score:.6g}, from {self.held_out} normal {self.things}{shown} ({self.how}), of which it "
            f"calls {self.called} anomalous{rule}: false alarms to expect are {expected}."
        ]
        if not self.kept:
            said.append(
                f"A false alarm rate of {self.rate:.3g} cannot be promised with {self.held_out} normal {self.things}, "
                f"only {1 / (self.held_out + 1):.3g}: that takes {images_needed(self.rate)}. The threshold lies above "
                "all of them."
            )
        return said


@dataclass(frozen=True)
class HeldOut:
    """What detectors said of normal images that they had not seen.

    scores: float32 [N]. peaks: float32 [N], the highest pixel of each map, or None. usual: median of all pixels, or
    None. how: how the images were held out, in words. images: their names, [N]. by_others: whether the detectors that
    scored them have learned from fewer images than the one that will be used. items: int [N], images of one number show
    one item (adlib.samples.items); None where every image is one by itself.
    """

    scores: np.ndarray
    peaks: np.ndarray | None
    usual: float | None
    how: str
    images: tuple[str, ...] = ()
    by_others: bool = False
    items: np.ndarray | None = None


def doubtful_normals(held: HeldOut) -> pd.DataFrame:
    """Normal images that score far above the others by detectors that have not seen them: are they normal?

    Far is Tukey's outer fence, three interquartile ranges above the upper quartile. One such image among few decides
    the threshold. Columns: image, score, usual (the median of all); the highest first.
    """
    scores = np.asarray(held.scores, np.float64)
    lower, usual, upper = np.percentile(scores, [25, 50, 75])
    far = np.flatnonzero(scores > upper + 3 * (upper - lower))
    far = far[np.argsort(-scores[far], kind="stable")]
    return pd.DataFrame({"image": [held.images[row] for row in far], "score": scores[far], "usual": usual})


def doubts(held: HeldOut) -> str:
    """A sentence that names them; "" if there are none."""
    found = doubtful_normals(held)
    if found.empty:
        return ""
    first, many = found.iloc[0], f" and {len(found) - 1} more" if len(found) > 1 else ""
    scores = f"{first['score']:.4g}, where {first['usual']:.4g} is usual"
    return (
        f"{first['image']}{many} score far above the other normal images ({scores}): look "
        "whether they are normal, and move them out if not; they raise the threshold."
    )


def images_needed(rate: float, confidence: float | None = None) -> int:
    """How many held-out normal images it takes to promise a false alarm rate.

    confidence: None for a rate that is kept on average; 0.95 for one that is kept in 95 of 100 choices. Raises
    InputError for a rate or confidence outside of (0, 1).
    """
    _check_share("rate", rate)
    if confidence is None:
        return math.ceil(1 / rate - 1 - 1e-9)
    _check_share("confidence", confidence)
    return math.ceil(math.log(1 - confidence) / math.log(1 - rate) - 1e-9)


def promises(number: int, rates: tuple[float, ...] = RATES, confidence: float = 0.95) -> pd.DataFrame:
    """Which false alarm rates a number of held-out normal images can promise, before any of them is scored.

    Columns: rate; on_average, whether the rate can be promised on average, and needs, how many images that takes;
    surely, whether it can be promised with the confidence, and needs_surely.
    """
    rows = []
    for rate in rates:
        needs, surely = images_needed(rate), images_needed(rate, confidence)
        rows.append([rate, number >= needs, needs, number >= surely, surely])
    return pd.DataFrame(rows, columns=["rate", "on_average", "needs", "surely", "needs_surely"])


def choose_threshold(held: HeldOut, rate: float) -> Threshold:
    """The lowest threshold whose false alarm rate is at most `rate` on average over choices of the held-out images.

    Where there are too few of them for that, the lowest that calls none of them anomalous (`Threshold.kept` is False).
    Where several images show one item, the rate is of items, and the highest score of each counts (see the module).
    Raises InputError for a rate outside of (0, 1), without scores, and for scores that are not finite.
    """
    _check_share("rate", rate)
    scores = np.sort(highest_of_items(held.scores, held.items))[::-1]
    if not len(scores):
        raise InputError("no normal image was held out: a threshold needs some.")
    if not np.isfinite(scores).all():
        raise InputError(
            "A held-out image's score is no finite number, so no threshold can be chosen: what the detector learned is "
            "damaged, or its training went astray; fit it anew."
        )
    above = max(0, math.floor(rate * (len(scores) + 1) + 1e-9) - 1)
    chosen = float(np.nextafter(scores[above], np.float32(np.inf)))
    pixel = None
    if held.peaks is not None:
        peaks = np.sort(highest_of_items(held.peaks, held.items))[::-1]
        pixel = float(np.nextafter(peaks[above], np.float32(np.inf)))
    called = int((scores >= chosen).sum())
    low, high = binomtest(called, len(scores)).proportion_ci(method="exact")
    low = 0.0 if held.by_others else float(low)
    images = len(held.scores) if len(scores) < len(held.scores) else 0
    about = (held.how, held.by_others, images)
    return Threshold(chosen, pixel, held.usual, rate, len(scores), called, low, float(high), *about)


def highest_of_items(values: np.ndarray, items: np.ndarray | None) -> np.ndarray:
    """float32 [number of items]: the highest value of each item's images; the values themselves without items.

    values: [N]. items: int [N], as of adlib.samples.items.
    """
    values = np.asarray(values, np.float32)
    if items is None:
        return values
    names, numbers = np.unique(items, return_inverse=True)
    highest = np.full(len(names), -np.inf, np.float32)
    np.maximum.at(highest, numbers, values)
    return highest


def cross_fit(
    make_model: Callable,
    samples: pd.DataFrame,
    settings: dict,
    folds: int = 4,
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
) -> HeldOut:
    """Scores of all normal training images, each by a detector that learned from the others.

    The images (their items, where they have some) are dealt at random to `folds` parts; a detector is fitted on all
    parts but one and scores that one. All images count, where a single split would count a share of them, and no
    accident of the split decides. A detector fitted on all images knows more than these did, so that its false alarms
    are rather fewer: the less so the more parts there are.
    Mirrored copies (train_enlarged) are learned from in the part of their picture, and not scored: a copy is no further
    image, and a detector that knows the copy knows the picture.
    make_model: gives an unfitted detector. settings: of ImageSet.
    Raises InputError for fewer than two images or items, or folds.
    """
    normal = select(samples, split="train", label=0)
    group, picture = item_numbers(normal), is_picture(normal)
    names = np.unique(group)
    if len(names) < 2 or folds < 2:
        raise InputError(f"{len(names)} normal images in {folds} parts: cross-fitting needs two of each.")
    folds = min(folds, len(names))
    part = np.empty(group.max() + 1, np.int64)
    part[np.random.default_rng(seed).permutation(names)] = np.arange(len(names)) % folds
    scores, peaks, usual = np.empty(len(normal), np.float32), np.empty(len(normal), np.float32), []
    for fold in range(folds):
        learned = part[group] != fold
        away = ~learned & picture
        model = make_model().fit(ImageSet(normal[learned], **settings), device=device, seed=seed, progress=progress)
        found = scores_of(model, normal[away], settings, device, progress)
        scores[away] = found.scores
        if found.peaks is not None:
            peaks[away] = found.peaks
            usual.append(found.usual)
    how = f"each scored by a detector that learned from the others, in {folds} parts"
    middle = float(np.median(usual)) if usual else None
    peaks = peaks[picture] if usual else None
    names, things = tuple(normal["image"][picture]), items(normal[picture])
    return HeldOut(scores[picture], peaks, middle, how, names, by_others=True, items=things)


def scores_of(
    model, samples: pd.DataFrame, settings: dict, device: str = "auto", progress: bool = True, chunk: int = 64
) -> HeldOut:
    """Scores and peaks of normal images that a fitted detector has not seen; a chunk of maps in memory at a time.

    Mirrored copies among them are left out.
    """
    samples = samples[is_picture(samples)]
    scores, peaks, usual = [], [], []
    for start in range(0, len(samples), chunk):
        images = ImageSet(samples.iloc[start : start + chunk], **settings)
        found = model.predict(images, device=device, progress=progress)
        scores.append(found.scores)
        if found.judges_pixels:
            peaks.append(np.asarray(found.maps).reshape(len(found), -1).max(1))
            usual.append(float(np.median(found.maps)))
    if not scores:
        raise InputError("no normal image was held out: a threshold needs some.")
    peaks = np.concatenate(peaks) if peaks else None
    how = "held out of learning"
    middle = float(np.median(usual)) if usual else None
    return HeldOut(np.concatenate(scores), peaks, middle, how, tuple(samples["image"]), items=items(samples))


def calls_to_expect(threshold: Threshold, number: int, level: float = 0.95) -> tuple[int, int]:
    """How many of `number` further normal images the threshold calls anomalous: the ends of an exact interval, of
    which only the upper one is known, and the lower one 0, where other detectors scored the held-out images. Of items
    where the threshold is of items.

    Beta-binomial: the rate's own distribution (see above), and the chance of the further images.
    """
    n, k, tail = threshold.held_out, threshold.called, (1 - level) / 2
    low = int(betabinom.ppf(tail, number, k, n - k + 1)) if k and not threshold.by_others else 0
    high = int(betabinom.ppf(1 - tail, number, k + 1, n - k)) if k < n else number
    return max(low, 0), high


def agreement(threshold: Threshold, predictions: Predictions) -> str:
    """A sentence on how many of the images known to be normal are called, beside what was to be expected of so many.

    A share measured on few images lies outside of the long run's interval more often than not: this is what to hold it
    against. "" without normal images. Items are counted where the threshold is of items.
    """
    normal = _normal_scores(threshold, predictions)
    if not len(normal):
        return ""
    low, high = calls_to_expect(threshold, len(normal))
    called = int((normal >= threshold.score).sum())
    expected, interval = _expected(threshold, low, high)
    return (
        f"Of {len(normal)} normal test {threshold.things} {called} are called anomalous; {expected} were to be "
        f"expected ({interval})."
    )


def _normal_scores(threshold: Threshold, predictions: Predictions) -> np.ndarray:
    """float64 [N]: of the normal images; where the threshold is of items, the highest normal image of each."""
    normal = (predictions.samples["label"] == 0).to_numpy()
    things = items(predictions.samples[normal]) if threshold.images else None
    return highest_of_items(predictions.scores[normal], things).astype(np.float64)


def _expected(threshold: Threshold, low: int, high: int) -> tuple[str, str]:
    """How many false alarms were to be expected, and what kind of statement that is."""
    return (f"at most {high}", "97.5 % bound") if threshold.by_others else (f"{low} to {high}", "95 % interval")


def contradiction(threshold: Threshold, predictions: Predictions) -> str:
    """A sentence if the images known to be normal contradict what the threshold promises; "" if not, or without any."""
    normal = _normal_scores(threshold, predictions)
    if not len(normal):
        return ""
    called = int((normal >= threshold.score).sum())
    low, high = calls_to_expect(threshold, len(normal))
    if low <= called <= high:
        return ""
    much, why = (
        ("more", "these images differ from those it learned from")
        if called > high
        else ("fewer", "those it learned from vary more than these")
    )
    return (
        f"The promise does not hold: {called} of {len(normal)} normal test {threshold.things} are called anomalous, "
        f"where {_expected(threshold, low, high)[0]} were to be expected. That is {much} than chance explains: {why} "
        "(camera, light, batch of parts), or some are labelled wrongly. Look at them before you trust the threshold."
    )


def decision_counts(threshold: Threshold, predictions: Predictions) -> dict[str, int]:
    """How many images are called anomalous, of those known to be normal, known to be anomalous, and unknown."""
    called = predictions.scores.astype(np.float64) >= threshold.score
    labels = predictions.samples["label"].to_numpy()
    known = is_known(predictions.samples)
    kinds = {"normal": labels == 0, "anomalous": labels == 1, "unknown": ~known}
    counts = {}
    for name, rows in kinds.items():
        counts |= {f"{name} images": int(rows.sum()), f"{name} called anomalous": int((called & rows).sum())}
    return counts


def _check_share(name: str, value: float) -> None:
    if not (isinstance(value, int | float) and 0 < value < 1):
        raise InputError(f"{name} must lie between 0 and 1, a share and not percent; got {value!r}.")


def false_alarms(normal_scores: np.ndarray, threshold: float) -> dict:
    """What a threshold does to held-out normal images: how many it calls anomalous, and the false alarm rate to expect.

    The interval is Clopper and Pearson's, 95 %. It holds although the threshold was chosen on these very scores: the
    share of normal images above the k-th highest of n scores is distributed as Beta(k, n - k + 1), whatever the
    scores' distribution, and the interval's ends are quantiles of these two, for the scores on either side of the
    threshold. It is wide where few images were held out. normal_scores: [N], of an item that is photographed several
    times the highest one alone (highest_of_items). Raises InputError without any.
    """
    number, called = len(normal_scores), int((np.asarray(normal_scores, np.float64) >= threshold).sum())
    if not number:
        raise InputError("no normal image was held out: see adlib.screening.hold_out.")
    low, high = binomtest(called, number).proportion_ci(method="exact")
    return {
        "threshold": f"{threshold:.6g}",
        "held-out normal images": number,
        "of them called anomalous": called,
        "false alarms to expect": f"{called / number:.1%} of normal images (95 % interval {low:.1%} to {high:.1%})",
    }


def flagged(predictions: Predictions, threshold: float) -> pd.DataFrame:
    """The images called anomalous (score >= threshold, compared in float64), the highest score first.

    Columns: image, score, threshold, then label, category, group and defect as the samples have them.
    """
    if not math.isfinite(threshold):
        raise InputError(f"threshold must be a finite number, got {threshold}.")
    table = predictions.samples[["image"]].assign(score=predictions.scores, threshold=threshold)
    table = table.join(predictions.samples[["label", "category", "group", "defect"]])
    called = predictions.scores.astype(np.float64) >= threshold
    return table[called].sort_values("score", ascending=False, kind="stable", ignore_index=True)


def write_flagged(predictions: Predictions, threshold: float, file: str | Path) -> Path:
    """Write `flagged` as a CSV file, whole or not at all; returns its path."""
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial:
        flagged(predictions, threshold).to_csv(partial, index=False)
    return file
