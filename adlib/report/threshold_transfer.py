"""Threshold transfer: what a threshold chosen without any anomaly gives on test images, beside the oracle.

The threshold of best F1 is chosen on the labels that it is then judged by. In use there are normal images alone, which
the detector has not learned from. Here these are test images: dealt at random into two halves, each half is judged by
the threshold that the normal images of the other half give. So every image is judged once, by a threshold that has seen
neither it nor any anomalous one. Of items that are photographed several times all images lie in one half, and the rate
is kept of items, each counted by its highest normal image (adlib.screening).
"""

from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd
from IPython.display import HTML

from adlib.errors import InputError
from adlib.metrics import confusion_metrics, wilson_interval
from adlib.predictions import Predictions, oracle_threshold
from adlib.rounding import rounded_text
from adlib.samples import count_items, item_numbers

RATES = (0.1, 0.05, 0.01)  # of false alarms


@dataclass(frozen=True)
class Transfer:
    """Decisions of every image at a threshold that did not see it.

    rate: of false alarms that was asked for. thresholds: of either half. called: bool [N]. held_out: normal images (or
    items) that each threshold was chosen on. kept: whether they are enough to promise the rate.
    """

    rate: float
    thresholds: tuple[float, ...]
    called: np.ndarray
    held_out: tuple[int, ...]

    @property
    def kept(self) -> bool:
        from adlib.screening import images_needed

        return min(self.held_out) >= images_needed(self.rate)

    @property
    def name(self) -> str:
        """What its thresholds come from, and what they promise."""
        wanted = f"{100 * self.rate:.0f} %"
        if self.kept:
            return f"held-out normals, {wanted} false alarms"
        return f"held-out normals, above all of them (too few for {wanted})"


def transferred(predictions: Predictions, rate: float = 0.1, seed: int = 0) -> Transfer:
    """The decisions at thresholds from held-out normal images (see the module).

    rate: share of false alarms that the threshold keeps on average. seed: of the halves. Images of unknown label are
    judged as well. Raises InputError with fewer than two normal images (or items with some).
    """
    from adlib.screening import HeldOut, choose_threshold  # the other reports need no torch

    labels, things = predictions.samples["label"].to_numpy(), item_numbers(predictions.samples)
    if not can_transfer(predictions):
        raise InputError("A threshold from held-out normal images needs two normal test images, of two items.")
    kinds = kinds_of_items(labels, things)
    half_of_item = np.zeros(len(kinds), np.int64)
    random = np.random.default_rng(seed)
    for kind in np.unique(kinds):
        rows = random.permutation(np.flatnonzero(kinds == kind))
        half_of_item[rows[len(rows) // 2 :]] = 1
    half = half_of_item[things]
    thresholds, held_out, called = [], [], np.zeros(len(labels), bool)
    for side in (0, 1):
        others = (half != side) & (labels == 0)
        how = "the other half of the test images"
        found = choose_threshold(HeldOut(predictions.scores[others], None, None, how, items=things[others]), rate)
        called[half == side] = predictions.scores[half == side].astype(np.float64) >= found.score
        thresholds.append(found.score)
        held_out.append(found.held_out)
    return Transfer(rate, tuple(thresholds), called, tuple(held_out))


def can_transfer(predictions: Predictions) -> bool:
    """Whether there are normal images for both halves: two, of two items."""
    return count_items(predictions.samples[predictions.samples["label"] == 0]) > 1


def kinds_of_items(labels: np.ndarray, things: np.ndarray) -> np.ndarray:
    """int8 [number of items]: 0 of items with a normal image, 1 of others with an anomalous one, -1 of the rest.

    labels: [N] of images. things: int [N], which item each shows, from 0 on.
    """
    kinds = np.full(things.max() + 1, -1, np.int8)
    np.maximum.at(kinds, things, labels)
    kinds[things[labels == 0]] = 0
    return kinds


def items_note(predictions: Predictions, counted: str = "images") -> str:
    """A sentence for a table of counts with intervals, where items are photographed several times; "" where not.

    counted: what the intervals take for independent of each other.
    """
    images, things = len(predictions), count_items(predictions.samples)
    if things == images:
        return ""
    return f"Intervals take {counted} for independent; but {images} images show {things} items, so they are too narrow."


def threshold_table(predictions: Predictions, seed: int = 0) -> HTML:
    """What thresholds from held-out normal images find on test, a row per rate of false alarms, and the oracle's row.

    Shares are of images, with Wilson's 95 % interval, MCC a fraction; where items have several images, it is said that
    these intervals are too narrow. A sentence where there is no threshold to choose.
    """
    from adlib.screening import images_needed

    predictions = predictions.known
    labels = predictions.samples["label"].to_numpy()
    oracle = oracle_threshold(predictions)
    if oracle is None or not can_transfer(predictions):
        return HTML("<p>Thresholds need anomalous test images, and two normal ones at least.</p>")
    found = [transferred(predictions, rate, seed) for rate in RATES]
    kept, lacking = [one for one in found if one.kept], [one for one in found if not one.kept]
    rows = [_row(one.name, one.thresholds, labels, one.called) for one in kept]
    if lacking:
        rows.append(_row("held-out normals, above all of them", lacking[0].thresholds, labels, lacking[0].called))
    called = predictions.scores.astype(np.float64) >= oracle
    rows.append(_row("best F1 on these labels (oracle)", (oracle,), labels, called))
    table = pd.DataFrame(rows).to_html(index=False, border=0)
    held = " and ".join(str(number) for number in dict.fromkeys(found[0].held_out))
    narrow = items_note(predictions)
    note = f"Each threshold comes from {held} normal {'items' if narrow else 'images'} of the other half."
    if lacking:
        promised = ", ".join(f"{100 * one.rate:.0f} % (takes {images_needed(one.rate)})" for one in lacking)
        note += f" That is too few to promise {promised}: such a threshold lies above all of them."
    if narrow:
        note += f" Rates are of items, each called if one of its images is. {narrow}"
    return HTML(f'<div class="adlib-scroll">{table}</div><p>{escape(note)}</p>')


def _row(name: str, thresholds: tuple[float, ...], labels: np.ndarray, called: np.ndarray) -> dict[str, str]:
    anomalous = labels == 1
    tp, fp = int((called & anomalous).sum()), int((called & ~anomalous).sum())
    positives, negatives = int(anomalous.sum()), int((~anomalous).sum())
    values = confusion_metrics(tn=negatives - fp, tp=tp, fn=positives - tp, fp=fp)
    return {
        "threshold chosen on": name,
        "threshold": ", ".join(dict.fromkeys(f"{threshold:.4g}" for threshold in thresholds)),
        "found": f"{tp} of {positives}",
        "false alarms": f"{fp} of {negatives}",
        "recall % (95 % interval)": share(tp, positives),
        "false-alarm rate % (95 % interval)": share(fp, negatives),
        "F1 %": "–" if np.isnan(values["f1"]) else rounded_text(100 * values["f1"], decimals=1),
        "MCC": "–" if np.isnan(values["mcc"]) else rounded_text(values["mcc"], 1),
    }


def share(part: int, whole: int) -> str:
    """A share in percent with Wilson's 95 % interval: "90.0 (69.9 to 97.2)"; "–" of nothing."""
    if not whole:
        return "–"
    low, high = wilson_interval(part, whole)
    found, low, high = (rounded_text(100 * value, decimals=1) for value in (part / whole, low, high))
    return f"{found} ({low} to {high})"
