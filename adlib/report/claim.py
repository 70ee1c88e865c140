"""The claim of a run's page: what the run found, in one line above everything else."""

from collections.abc import Mapping
from html import escape

from adlib.report.facts import interval_text
from adlib.rounding import rounded_text
from adlib.runs.record import FAILED
from adlib.runs.standing import compared, dash

SHOWN = {"image_auroc": "image AUROC", "pixel_auroc": "pixel AUROC", "aupro": "AUPRO"}


def claim(record: Mapping) -> str:
    """HTML, escaped: what a run found and missed at the oracle threshold, and its areas with their intervals; of a run
    that failed, or whose numbers stand for nothing, why. Stands below the run's title.
    """
    if record["status"] == FAILED:
        return f'<p class="adlib-claim"><span class="failed">Failed: {escape(record["reason"])}</span></p>'
    if lacks := dash(record):
        return f'<p class="adlib-claim"><span class="failed">No number counts: {escape(lacks)}</span></p>'
    parts, decided, intervals = [], record.get("oracle") or {}, record.get("intervals") or {}
    counts = [decided.get(name) for name in ("tp", "fn", "fp", "tn")]
    if None not in counts:
        tp, fn, fp, tn = map(round, counts)
        parts.append(
            f"Found {tp} of {tp + fn} anomalous images, with {fp} false alarm{'' if fp == 1 else 's'} on {fp + tn} "
            "normal ones, at the threshold of best F1 (oracle)"
        )
    for metric, label in SHOWN.items():
        if (value := record["metrics"].get(metric)) is not None and compared(record, metric):
            interval = interval_text(intervals[metric]) if metric in intervals else "none"
            more = "" if interval.startswith("none") else f" ({interval})"
            parts.append(f"{label} {rounded_text(value, 1, 4)}{more}")
    if record["metrics"].get("pixel_auroc") is not None and not compared(record, "pixel_auroc"):
        parts.append("what the page says of pixels and regions is of maps that outline nothing")
    return f'<p class="adlib-claim">{escape("; ".join(parts) or "No metric is defined")}.</p>'
