"""Curves of one run: ROC and precision over recall of its images, PRO of its pixels, operating points marked."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from IPython.display import HTML

from adlib.figure_style import ANOMALOUS, INK, NORMAL, finish
from adlib.metrics import Curves, decision_metrics, image_curves, pixel_curves
from adlib.predictions import Predictions, oracle_threshold
from adlib.report.threshold_transfer import can_transfer, transferred
from adlib.rounding import rounded_text

if TYPE_CHECKING:  # the other reports need neither torch nor matplotlib
    from matplotlib.figure import Figure

PRO_LIMIT = 0.3  # false-positive rate at which AUPRO ends
POINTS = 2000  # drawn of a curve; its area is of all
ORACLE = "best F1 (oracle)"


def operating_thresholds(predictions: Predictions) -> dict[str, float]:
    """Thresholds by name, as lines of `score_histogram`: the oracle, and the two from held-out normal images at 10 %
    false alarms, or above all of these where they are too few for that (`adlib.report.transferred`). {}
    where images are of one kind alone.
    """
    known = predictions.known
    oracle = oracle_threshold(known)
    if oracle is None:
        return {}
    halves = transferred(known).thresholds if can_transfer(known) else ()
    return {ORACLE: oracle} | {f"held-out normals, half {number}": value for number, value in enumerate(halves, 1)}


def run_curves(predictions: Predictions, metrics: Mapping) -> "Figure | HTML":
    """ROC and precision-recall curves of the image scores, and the PRO curve of maps that outline defects.

    Exact: a point per distinct anomalous score. Marked are the oracle (best F1 on these labels; of pixels on the PRO
    curve) and what thresholds from held-out normal images give, at 10 % false alarms (`adlib.report.transferred`), or
    above all of these where they are too few to promise that. Areas stand above. metrics: of
    `adlib.evaluate` of these predictions. A sentence where images are of one kind alone.
    """
    import matplotlib.pyplot as plt

    predictions = predictions.known
    labels = predictions.samples["label"].to_numpy()
    images = image_curves(labels, predictions.scores)
    if images is None:
        return HTML("<p>Images of one kind alone have no curve.</p>")
    masks = predictions.masks if predictions.judges_pixels else None
    pixels = None if masks is None else pixel_curves(masks, predictions.maps)
    count = 2 if pixels is None else 3
    # Margins as shares, from inches: a layout engine would draw the figure once more to find them.
    width, height = 3.4 * count, 3.7
    margins = {"left": 0.6 / width, "right": 1 - 0.1 / width, "bottom": 0.85 / height, "top": 1 - 0.3 / height}
    between = 0.65 * count / (width - 0.7 - 0.65 * (count - 1))  # in widths of a panel
    figure, axes = plt.subplots(1, count, figsize=(width, height), gridspec_kw=margins | {"wspace": between})
    best = images.best_f1()
    points = {ORACLE: (images.fpr[best], images.recall[best], images.precision[best])}
    if can_transfer(predictions):
        held_out = transferred(predictions)
        found = decision_metrics(labels, held_out.called.astype(float), 0.5)
        points[held_out.name] = (found["fpr"], found["recall"], found["precision"])
    auroc, ap = (rounded_text(metrics[name], 1, 4) for name in ("image_auroc", "image_ap"))
    _draw(axes[0], images.line(), "false-positive rate", "recall", f"ROC, AUROC {auroc}")
    axes[0].plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=":")
    steps = np.append(1.0, images.precision), np.append(0.0, images.recall)
    _draw(axes[1], steps[::-1], "recall", "precision", f"precision-recall, AP {ap}", "steps-pre")
    share = float(labels.mean())
    axes[1].axhline(share, color=INK, linewidth=0.8, linestyle=":")
    for (name, (fpr, recall, precision)), marker in zip(points.items(), "os", strict=False):
        _mark(axes[0], fpr, recall, marker, name)
        _mark(axes[1], recall, precision, marker)
    if pixels is not None:
        _draw_pro(axes[2], pixels, metrics["aupro"])
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=2, frameon=False, fontsize=8)
    return finish(figure)


def _draw(axis, line, xlabel: str, ylabel: str, title: str, style: str = "default") -> None:
    x, y = _thinned(*line)
    axis.plot(x, y, color=NORMAL, linewidth=1.6, drawstyle=style)
    axis.set(xlabel=xlabel, ylabel=ylabel, xlim=(-0.02, 1.02), ylim=(-0.02, 1.04))
    axis.set_title(title, fontsize=9)


def _draw_pro(axis, pixels: Curves, area: float) -> None:
    """Up to the false-positive rate at which AUPRO ends, the area tinted."""
    x, y = _thinned(*pixels.line("pro"))
    axis.plot(x, y, color=NORMAL, linewidth=1.6)
    inside = x <= PRO_LIMIT  # and the limit itself, since the next point may lie far beyond
    below = np.append(x[inside], PRO_LIMIT), np.append(y[inside], np.interp(PRO_LIMIT, x, y))
    axis.fill_between(*below, color=NORMAL, alpha=0.15, linewidth=0)
    best = pixels.best_f1()
    if pixels.fpr[best] <= PRO_LIMIT:
        _mark(axis, pixels.fpr[best], pixels.pro[best], "o")
    axis.set(
        xlabel="false-positive rate of pixels", ylabel="per-region overlap", xlim=(-0.006, 0.306), ylim=(-0.02, 1.04)
    )
    axis.set_title(f"PRO, area up to {PRO_LIMIT}: AUPRO {rounded_text(area, 1, 4)}", fontsize=9)


def _mark(axis, x: float, y: float, marker: str, name: str | None = None) -> None:
    axis.plot(x, y, marker, color=ANOMALOUS, markersize=7, fillstyle="full" if marker == "o" else "none", label=name)


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A line of POINTS points at most, evenly spaced along it."""
    if len(x) <= POINTS:
        return x, y
    along = np.concatenate([[0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    chosen = np.unique(np.searchsorted(along, np.linspace(0, along[-1], POINTS)))
    return x[chosen], y[chosen]
