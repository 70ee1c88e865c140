"""Misses and false alarms of one run: by kind of defect, and by the size and contrast of defects and alarms."""

import math
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from IPython.display import HTML

from adlib.metrics import image_metrics_by_defect, pixel_metrics, recall_by_size
from adlib.predictions import Predictions, oracle_threshold
from adlib.report.labels import metric_text
from adlib.report.threshold_transfer import items_note, share

if TYPE_CHECKING:  # the other reports need no torch
    from adlib.images import ImageSet

PARTS = 3  # bins with as many defects each
RING = 1 / 32  # of the picture's longer side: how far around a region its background lies


def defect_table(predictions: Predictions) -> HTML:
    """Images found and missed of every kind of defect, at the threshold of best F1 on these images (an oracle), with
    Wilson's 95 % interval, and the AUROC of the kind's images against all normal ones. A sentence without a threshold;
    one below where items have several images, which these intervals take for independent.
    """
    predictions = predictions.known
    threshold = oracle_threshold(predictions)
    if threshold is None:
        return HTML("<p>Images of one kind alone have no threshold of best F1.</p>")
    labels, kinds = predictions.samples["label"].to_numpy(), predictions.samples["defect"].to_numpy()
    called, rows = predictions.scores.astype(np.float64) >= threshold, []
    for kind, values in image_metrics_by_defect(labels, predictions.scores, kinds).items():
        found = int(called[(labels == 1) & (kinds == kind)].sum())
        row = {"kind of defect": kind, "images": values["n"], "found": found, "missed": values["n"] - found}
        row["recall % (95 % interval)"] = share(found, values["n"])
        rows.append(row | {"image AUROC": metric_text("image_auroc", values["image_auroc"])})
    note = items_note(predictions)
    return HTML(_html(pd.DataFrame(rows)).data + (f"<p>{escape(note)}</p>" if note else ""))


def region_table(predictions: Predictions, images: "ImageSet | None" = None) -> HTML:
    """Defect regions found and missed, and false-alarm regions, by size and by contrast; a row per bin.

    Regions are 8-connected, at the size that is scored. A pixel is called at the threshold of best pixel F1 on these
    images (an oracle). A defect is found if one of its pixels is called; a false alarm is a region of called pixels
    that touches no defect. Bins hold a third of the defects each. Recall stands with Wilson's 95 % interval.
    images: the ImageSet that was predicted on, which may have its pictures decoded already. A sentence where there is
    nothing to count. After CXR-AD's question which scales are missed, and 3CAD, Fig. 3.
    """
    if images is None or images.shape != predictions.images.shape:  # a detector may judge the centre alone
        images = predictions.images
    if predictions.known is not predictions:  # what is called of an unknown image is neither right nor wrong
        predictions, images = predictions.known, predictions.known.images
    masks = predictions.masks if predictions.judges_pixels else None
    if masks is None or not masks.any():
        return HTML("<p>Regions are counted where there are maps that outline defects, and masks of the defects.</p>")
    threshold = pixel_metrics(masks, predictions.maps)["pixel_f1max_threshold"]
    defects, alarms = _regions(predictions, masks, images, threshold)
    pixels = masks[0].size

    def size(area: float) -> str:
        return f"{area:.0f} px ({100 * area / pixels:.2g} %)"

    tables = [
        _binned("size (share of the image)", "area", defects, alarms, size),
        _binned("contrast to the surroundings", "contrast", defects, alarms, lambda value: f"{100 * value:.1f} %"),
    ]
    note = (
        f"At the pixel threshold {threshold:.4g}, of best F1 on these images (an oracle). Contrast: |inside - ring| / "
        f"ring, mean luminance, the ring {_ring(masks[0].shape)} pixels wide. {items_note(predictions, 'defects')}"
    ).rstrip()
    return HTML("".join(table.data for table in tables) + f"<p>{escape(note)}</p>")


def _regions(
    predictions: Predictions, masks, images: "ImageSet", threshold: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Defects and false alarms, one row per region. Columns: area (pixels), contrast (NaN where undefined), found."""
    from adlib.baselines import LUMINANCE

    defects, alarms = [], []
    for index, mask in enumerate(masks):
        called = np.asarray(predictions.maps[index], np.float32) >= threshold
        if not (called.any() or mask.any()):
            continue
        grey = np.tensordot(LUMINANCE, images.pixels(index).numpy(), 1)
        for inside, area, contrast in measured_regions(mask, mask, grey):
            defects.append((area, contrast, bool(called[inside].any())))
        for inside, area, contrast in measured_regions(called, mask, grey):
            if not mask[inside].any():
                alarms.append((area, contrast, True))
    columns = ["area", "contrast", "found"]
    return pd.DataFrame(defects, columns=columns), pd.DataFrame(alarms, columns=columns)


def measured_regions(regions: np.ndarray, mask: np.ndarray, grey: np.ndarray):
    """(rows and columns, area, contrast) of each 8-connected region of a bool [H, W]."""
    import cv2

    _, label, stats, _ = cv2.connectedComponentsWithStats(np.ascontiguousarray(regions).view(np.uint8), connectivity=8)
    reach = _ring(mask.shape)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    for number, (left, top, width, height, area) in enumerate(stats[1:], 1):
        place = np.s_[max(0, top - reach) : top + height + reach, max(0, left - reach) : left + width + reach]
        inside = label[place] == number
        around = cv2.dilate(inside.view(np.uint8), disc).astype(bool) & ~inside & ~mask[place]
        ring = float(grey[place][around].mean()) if around.any() else 0.0
        contrast = abs(float(grey[place][inside].mean()) - ring) / ring if ring > 0 else math.nan
        rows, columns = np.nonzero(inside)
        yield (rows + place[0].start, columns + place[1].start), int(area), contrast


def _ring(shape: tuple[int, int]) -> int:
    return max(2, round(RING * max(shape)))


def _binned(title: str, column: str, defects: pd.DataFrame, alarms: pd.DataFrame, name) -> HTML:
    """A row per bin, and one of the regions in which the column is undefined. name: how a value of it is written."""
    known = defects[defects[column].notna()]
    inner = np.unique(np.quantile(known[column], np.arange(1, PARTS) / PARTS)) if len(known) >= 2 * PARTS else []
    inner = [edge for edge in inner if (known[column] < edge).any()]
    counted = np.searchsorted(inner, alarms[column].dropna().to_numpy(float), side="right")
    unknown, others = defects[defects[column].isna()], int(alarms[column].isna().sum())
    lacks, rows = len(unknown) or others, []
    for part, row in enumerate(recall_by_size(known[column], known["found"], [0.0, *inner, math.inf])):
        low, high = row["size_from"], row["size_to"]
        if not inner:
            text = "defined" if lacks else "all"
        elif part == 0:
            text = f"below {name(high)}"
        else:
            text = f"{name(low)} and more" if math.isinf(high) else f"{name(low)} to {name(high)}"
        found = {title: text, "defects": row["n"], "found": row["found"], "missed": row["n"] - row["found"]}
        found["recall % (95 % interval)"] = share(row["found"], row["n"])
        rows.append(found | {"false-alarm regions": int((counted == part).sum())})
    if lacks:  # nothing lies around them, or nothing but black: counted all the same
        number, hit = len(unknown), int(unknown["found"].sum())
        found = {title: "undefined", "defects": number, "found": hit, "missed": number - hit}
        rows.append(found | {"recall % (95 % interval)": share(hit, number), "false-alarm regions": others})
    return _html(pd.DataFrame(rows))


def _html(table: pd.DataFrame) -> HTML:
    return HTML(f'<div class="adlib-scroll">{table.to_html(index=False, border=0)}</div>')
