"""The score histogram as SVG: it takes the page's text colour, so it reads in light and dark themes."""

import math
from html import escape

import numpy as np

NORMAL, ANOMALOUS, UNKNOWN = (
    "#4477aa",
    "#ee7733",
    "#999999",
)  # told apart by colour-blind readers, on light and dark ground


def score_histogram(labels: np.ndarray, scores: np.ndarray, threshold: float, bins: int = 40, current=None) -> str:
    """SVG of the image scores of normal and anomalous images, the threshold as a line; unknown ones behind them, grey.

    labels, scores: [N]. current: score of the sample that is being looked at, drawn as a small triangle, or None.
    """
    width, height, foot = 360, 80, 18
    low, high = float(min(scores.min(), threshold)), float(max(scores.max(), threshold))
    span = (high - low) or 1.0
    edges = np.linspace(low, low + span, bins + 1)
    counts = [np.histogram(scores[labels == label], edges)[0] for label in (0, 1, -1)]
    looks = [(0.4, 4.2, NORMAL), (4.3, 4.2, ANOMALOUS), (0.2, 8.6, UNKNOWN)]
    top = max(1, *(int(count.max()) for count in counts))
    # A square root keeps single images visible beside hundreds.
    bars = [
        f'<rect x="{at * width / bins + left:.1f}" width="{wide}" fill="{colour}" '
        f'y="{height - high_bar:.1f}" height="{high_bar:.1f}"/>'
        for count, (left, wide, colour) in reversed(list(zip(counts, looks, strict=True)))
        for at, number in enumerate(count)
        if (high_bar := (height - 22) * math.sqrt(number / top))
    ]

    def place(score: float) -> float:
        return width * (score - low) / span

    line = place(threshold)
    anchor = "end" if line > width / 2 else "start"
    text = line + (-4 if anchor == "end" else 4)
    mark = ""
    if current is not None:
        x = place(float(current))
        mark = f'<path d="M{x:.1f} {height} l-5 9 h10 z" fill="currentColor"/>'
    unknown = int((labels == -1).sum())
    named = f"{int((labels == 0).sum())} normal and {int((labels == 1).sum())} anomalous"
    named += f" and {unknown} unknown" if unknown else ""
    legend = f'<rect x="165" width="9" height="9" fill="{UNKNOWN}"/><text x="178" y="9">unknown</text>' * bool(unknown)
    said = f"Histogram of {named} images' scores from {low:.4g} to {high:.4g}; threshold {threshold:.4g}."
    return (
        f'<svg class="adlib-histogram-svg" viewBox="-6 0 {width + 12} {height + foot + 12}" role="img" '
        f'aria-label="{escape(said)}" style="width:100%;max-width:420px;display:block;font:11px sans-serif" '
        f'fill="currentColor">'
        f"{''.join(bars)}"
        f'<line x1="0" x2="{width}" y1="{height}" y2="{height}" stroke="currentColor" stroke-width="0.7"/>'
        f'<line x1="{line:.1f}" x2="{line:.1f}" y1="10" y2="{height}" stroke="currentColor" stroke-width="1.6" '
        f'stroke-dasharray="5 2"/><text x="{text:.1f}" y="10" text-anchor="{anchor}">threshold {threshold:.4g}</text>'
        f'{mark}<text x="0" y="{height + 21}">{low:.4g}</text>'
        f'<text x="{width}" y="{height + 21}" text-anchor="end">{high:.4g}</text>'
        f'<g transform="translate({width / 2 - 75} {height + 13})"><rect width="9" height="9" fill="{NORMAL}"/>'
        f'<text x="13" y="9">normal</text><rect x="75" width="9" height="9" fill="{ANOMALOUS}"/>'
        f'<text x="88" y="9">anomalous</text>{legend}</g></svg>'
    )
