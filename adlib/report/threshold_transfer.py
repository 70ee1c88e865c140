"""Threshold transfer: what a threshold chosen without any anomaly gives on test images, beside the oracle.

The threshold of best F1 is chosen on the labels that it is then judged by. In use there are normal images alone, which
the detector has not learned from. Here these are test images: dealt at random into two halves, each half is judged by
the threshold that the normal images of the other half give. So every image is judged once, by a threshold that has seen
neither it nor any anomalous one.
"""

from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd
from IPython.display import HTML

from adlib.errors import InputError
from adlib.metrics import confusion_metrics, wilson_interval
from adlib.predictions import Predictions, oracle_threshold

RATES = (0.1, 0.05, 0.01)  # of false alarms


@dataclass(frozen=True)
class Transfer:
    """Decisions of every image at a threshold that did not see it.

    rate: of false alarms that was asked for. thresholds: of either half. called: bool [N]. held_out: normal images that
    each threshold was chosen on. kept: whether they are enough to promise the rate.
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
    judged as well. Raises InputError with fewer than two normal images.
    """
    from adlib.screening import HeldOut, choose_threshold  # the other reports need no torch

    labels = predictions.samples["label"].to_numpy()
    if (labels == 0).sum() < 2:
        raise InputError("A threshold from held-out normal images needs two normal test images.")
    half = np.zeros(len(labels), np.int64)
    random = np.random.default_rng(seed)
    for label in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == label))
        half[rows[len(rows) // 2 :]] = 1
    thresholds, held_out, called = [], [], np.zeros(len(labels), bool)
    for side in (0, 1):
        normal = predictions.scores[(half != side) & (labels == 0)]
        threshold = choose_threshold(HeldOut(normal, None, None, "the other half of the test images"), rate).score
        called[half == side] = predictions.scores[half == side].astype(np.float64) >= threshold
        thresholds.append(threshold)
        held_out.append(len(normal))
    return Transfer(rate, tuple(thresholds), called, tuple(held_out))


def threshold_table(predictions: Predictions, seed: int = 0) -> HTML:
    """What thresholds from held-out normal images find on test, a row per rate of false alarms, and the oracle's row.

    Shares stand with Wilson's 95 % interval, MCC as a fraction. A sentence where there is no threshold to choose.
    """
    from adlib.screening import images_needed

    predictions = predictions.known
    labels = predictions.samples["label"].to_numpy()
    oracle = oracle_threshold(predictions)
    if oracle is None or (labels == 0).sum() < 2:
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
    note = f"Each threshold comes from {held} normal images of the other half."
    if lacking:
        promised = ", ".join(f"{100 * one.rate:.0f} % (takes {images_needed(one.rate)})" for one in lacking)
        note += f" That is too few to promise {promised}: such a threshold lies above all of them."
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
        "F1 %": "–" if np.isnan(values["f1"]) else f"{100 * values['f1']:.1f}",
        "MCC": "–" if np.isnan(values["mcc"]) else f"{values['mcc']:.2f}",
    }


def share(part: int, whole: int) -> str:
    """A share in percent with Wilson's 95 % interval: "90.0 (69.9 to 97.2)"; "–" of nothing."""
    if not whole:
        return "–"
    low, high = wilson_interval(part, whole)
    return f"{100 * part / whole:.1f} ({100 * low:.1f} to {100 * high:.1f})"
