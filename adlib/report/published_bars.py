"""Bars of printed numbers and ours, side by side and never mixed: the papers' figures that compare methods."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from adlib.figure_style import finish
from adlib.models import is_surrogate
from adlib.rounding import rounded_text

if TYPE_CHECKING:  # the other reports need no matplotlib
    from matplotlib.figure import Figure

PUBLISHED, OURS = "#bbbbbb", "#4477aa"


def published_bars(panels: dict[str, pd.DataFrame], xlabel: str, methods: Sequence[str] | None = None) -> "Figure":
    """Printed numbers as bars, one panel beside the other, and ours as bars of their own below them, but those of drawn
    data: they would look as if they could be compared.

    panels: title -> rows of `comparison`, one per method. methods: which, from top to bottom; None for those of the
    first panel. Where a number of ours is missing its place says why ("to do"), and where none is printed "not
    printed" stands. Whiskers are the standard deviation over our seeds.
    MIIC, Fig. 2; Texture-AD, Fig. 5.
    """
    import matplotlib.pyplot as plt

    methods = list(methods or dict.fromkeys(next(iter(panels.values()))["method"]))
    titles = [f"{name} (surrogate)" if is_surrogate(name) else name for name in methods]
    together = pd.concat(panels.values(), ignore_index=True)
    drawn = together["phantom"].eq(True)
    alone = drawn.any() and not together.loc[~drawn, "ours"].notna().any()  # nothing of ours to show
    high = 0.6 if alone else 0.38
    size = (1.4 + 2.9 * len(panels), 0.9 + (0.3 if alone else 0.46) * len(methods))
    figure, axes = plt.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False, layout="constrained")
    places = np.arange(len(methods))
    for axis, (title, rows) in zip(axes[0], panels.items(), strict=True):
        rows = rows.set_index("method").reindex(methods)
        label = "published; ours are of drawn data and not shown" if alone else "published"
        printed = axis.barh(places - 0.2 * (not alone), rows["published"], high, color=PUBLISHED, label=label)
        decimals = max(len(f"{value:.2f}".rstrip("0").partition(".")[2]) for value in rows["published"])
        for bar, value in zip(printed, rows["published"], strict=True):
            _write(axis, bar, _number(value, "not printed", decimals))
        of_ours = rows["phantom"].eq(True)
        shown = rows.mask(of_ours)
        ours = () if alone else axis.barh(places + 0.2, shown["ours"], high, xerr=shown["sd"], color=OURS, label="ours")
        for bar, (_, row), is_drawn in zip(ours, rows.iterrows(), of_ours, strict=False):
            # A finished run without the number: the metric is undefined. A method that this table lacks has no state.
            why = "" if pd.isna(row["state"]) else "undefined" if row["state"] == "done" else row["state"]
            number = _number(row["ours"], why) + (" (partly)" if row["state"] == "partly" else "")
            _write(axis, bar, "drawn data" if is_drawn else number, 0 if is_drawn else np.nan_to_num(row["sd"]))
        axis.set(xlim=(0, 125), xticks=range(0, 101, 25), xlabel=xlabel)
        axis.set_title(title, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set(yticks=places, yticklabels=titles, ylim=(len(methods) - 0.5, -0.5))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    return finish(figure)


def _number(value: float, why: str, decimals: int = 2) -> str:
    return why if pd.isna(value) else rounded_text(value, decimals=decimals)


def _write(axis, bar, text: str, sd: float = 0) -> None:
    """At the end of a bar and its whisker."""
    right, middle = np.nan_to_num(bar.get_width()) + sd, bar.get_y() + bar.get_height() / 2
    axis.text(right + 1, middle, text, va="center", fontsize=8)
