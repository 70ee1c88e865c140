"""Screening: images of one's own sorted by a threshold from held-out normal images, and the list of the flagged."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from adlib.errors import InputError
from adlib.predictions import Predictions
from adlib.samples import draw_share


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


def false_alarms(normal_scores: np.ndarray, threshold: float) -> dict:
    """What a threshold does to held-out normal images: how many it calls anomalous, and the false alarm rate to expect.

    The interval is Clopper and Pearson's, 95 %. It holds although the threshold was chosen on these very scores: the
    share of normal images above the k-th highest of n scores is distributed as Beta(k, n - k + 1), whatever the
    scores' distribution, and the interval's ends are quantiles of these two, for the scores on either side of the
    threshold. It is wide where few images were held out. normal_scores: [N]. Raises InputError without any.
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
    partial = file.with_name(file.name + ".partial")
    flagged(predictions, threshold).to_csv(partial, index=False)
    partial.replace(file)
    return file
