"""Bars of printed numbers and ours, side by side and never mixed: the papers' figures that compare methods."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from adlib.figure_style import finish
from adlib.models import is_surrogate

if TYPE_CHECKING:  # the other reports need no matplotlib
    from matplotlib.figure import Figure

PUBLISHED, OURS = "#bbbbbb", "#4477aa"


def published_bars(panels: dict[str, pd.DataFrame], xlabel: str, methods: Sequence[str] | None = None) -> "Figure":
    """Printed numbers as bars, one panel beside the other, and ours as bars of their own below them.

    panels: title -> rows of `comparison`, one per method. methods: which, from top to bottom; None for those of the
    first panel. Where a number of ours is missing its place says why ("to do"), and where none is printed "not
    printed" stands. Whiskers are the standard deviation over our seeds. Bars of drawn data are hatched.
    MIIC, Fig. 2; Texture-AD, Fig. 5.
    """
    import matplotlib.pyplot as plt

    methods = list(methods or dict.fromkeys(next(iter(panels.values()))["method"]))
    titles = [f"{name} (surrogate)" if is_surrogate(name) else name for name in methods]
    phantom = any(rows["phantom"].any() for rows in panels.values())
    size = (1.4 + 2.9 * len(panels), 0.9 + 0.46 * len(methods))
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False, layout="constrained")
    places = np.arange(len(methods))
    for axis, (title, rows) in zip(axes[0], panels.items(), strict=True):
        rows = rows.set_index("method").reindex(methods)
        printed = axis.barh(places - 0.2, rows["published"], 0.38, color=PUBLISHED, label="published")
        label = "ours, phantom data" if phantom else "ours"
        ours = axis.barh(places + 0.2, rows["ours"], 0.38, xerr=rows["sd"], color=OURS, label=label)
        for bar, drawn in zip(ours, rows["phantom"].eq(True), strict=True):
            bar.set(hatch="////" if drawn else "", edgecolor="white", linewidth=0)
        decimals = max(len(f"{value:.2f}".rstrip("0").partition(".")[2]) for value in rows["published"])
        for place, (_, row) in zip(places, rows.iterrows(), strict=True):
            _write(axis, printed[place], _number(row["published"], "not printed", decimals))
            # A finished run without the number: the metric is undefined. A method that this table lacks has no state.
            why = "" if pd.isna(row["state"]) else "undefined" if row["state"] == "done" else row["state"]
            number = _number(row["ours"], why) + (" (partly)" if row["state"] == "partly" else "")
            _write(axis, ours[place], number, np.nan_to_num(row["sd"]))
        axis.set(xlim=(0, 125), xticks=range(0, 101, 25), xlabel=xlabel)
        axis.set_title(title, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set(yticks=places, yticklabels=titles, ylim=(len(methods) - 0.5, -0.5))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    return finish(figure)


def _number(value: float, why: str, decimals: int = 2) -> str:
    return why if pd.isna(value) else f"{value:.{decimals}f}"


def _write(axis, bar, text: str, sd: float = 0) -> None:
    """At the end of a bar and its whisker."""
    axis.text(np.nan_to_num(bar.get_width()) + sd + 1, bar.get_y() + 0.19, text, va="center", fontsize=7)
