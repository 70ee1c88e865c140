"""Pictures of ranks: a heat map of methods by datasets, and critical-difference diagrams. Closed Figures."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.figure import Figure

from adlib.figure_style import INK, finish
from adlib.report.ranks import RankTest, equal_groups
from adlib.rounding import rounded_text

EVEN = 0.18  # of a ground on which black and white are read equally well


def rank_heat_map(values: pd.DataFrame, title: str, label: str = "") -> Figure:
    """Methods x datasets, one number per cell, "–" where there is none; methods without any are left out.

    values: of `dataset_means` or `standing`. label: of the colour scale.
    """
    shown = values.astype(float).dropna(how="all").dropna(axis="columns", how="all")
    height = 1.6 + 0.28 * len(shown)
    figure, axis = plt.subplots(figsize=(2.8 + 1.1 * max(3, shown.shape[1]), height), layout="constrained")
    axis.set_title(title, fontsize=10)
    if shown.empty:
        axis.text(0.5, 0.5, "no number yet", ha="center", va="center")
        axis.axis("off")
    else:
        texts = shown.map(
            lambda value: (
                "–"
                if pd.isna(value)
                else rounded_text(value, whole=1)
                if value <= 1
                else rounded_text(value, decimals=1)
            )
        )
        axis.set_facecolor(to_rgba(INK, 0.15))
        bar = {"label": label}
        sns.heatmap(shown, annot=texts, fmt="", cmap="cividis", annot_kws={"size": 8}, cbar_kws=bar, ax=axis)
        grounds = axis.collections[0].get_facecolors()
        for text in axis.texts:  # seaborn's own choice of black or white is hard to read
            column, row = map(int, text.get_position())
            dark = _luminance(grounds[row * shown.shape[1] + column]) < EVEN
            text.set_color("white" if dark else "0.05")
        for row, column in zip(*shown.isna().to_numpy().nonzero(), strict=True):
            axis.text(column + 0.5, row + 0.5, "–", ha="center", va="center", fontsize=8)
        axis.set(xlabel="", ylabel="")
        axis.tick_params(axis="both", labelsize=8, rotation=0)
        axis.tick_params(axis="x", rotation=25)
    return finish(figure)


def _luminance(colour) -> float:
    """Relative luminance, 0 to 1 (WCAG 2)."""
    return sum(
        weight * (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4)
        for weight, value in zip((0.2126, 0.7152, 0.0722), to_rgb(colour), strict=True)
    )


def critical_difference_diagrams(tests: dict[str, RankTest], title: str) -> Figure:
    """One diagram per test: methods along their mean ranks, the best on the left; a bar joins those that do not differ.

    Demšar (JMLR 7, 2006), Fig. 1. tests: of `rank_tests`. No bar is drawn where Friedman's test finds no difference at
    its level. Datasets without a test have no diagram, and a line below that says why.
    """
    drawn = {name: test for name, test in tests.items() if not test.reason}
    others = [f"{name}: {test.reason}" for name, test in tests.items() if test.reason]
    heights = [1.1 + 0.2 * len(test.mean_ranks) for test in drawn.values()] + [0.3 + 0.17 * len(others)]
    figure, axes = plt.subplots(
        len(heights), figsize=(8, 0.4 + sum(heights)), height_ratios=heights, squeeze=False, layout="constrained"
    )
    figure.suptitle(title, fontsize=10)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (name, test) in zip(axes.flat, drawn.items(), strict=False):
        axis.set_title(f"{name}: {_heading(test)}", fontsize=8, loc="left")
        _diagram(axis, test)
    if others:
        axes[-1, 0].text(0, 1, "\n".join(["No test:", *others]), va="top", fontsize=8, transform=axes[-1, 0].transAxes)
    return finish(figure)


def _heading(test: RankTest) -> str:
    """Friedman's test in words."""
    verdict = "the methods differ" if test.p < test.alpha else "no difference found"
    return (
        f"{verdict} (Friedman p = {test.p:.2g}, {test.blocks} categories, Kendall's W {test.agreement:.2f}), "
        f"critical difference {test.critical_difference:.2f} at level {test.alpha:g}"
    )


def _diagram(axis, test: RankTest) -> None:
    """Draw one diagram: y grows downwards from the axis of ranks at 0, one line of text per method and side."""
    ranks, methods = test.mean_ranks, len(test.mean_ranks)
    half = -(-methods // 2)
    groups = equal_groups(ranks, test.critical_difference) if test.p < test.alpha else []
    first = 0.7 + 0.35 * len(groups)
    axis.set(xlim=(1 - 0.45 * methods, methods + 0.45 * methods), ylim=(first + half, -1.1))
    axis.plot([1, methods], [0, 0], color="black", linewidth=1)
    for tick in range(1, methods + 1):
        axis.plot([tick, tick], [0, -0.15], color="black", linewidth=1)
        axis.text(tick, -0.25, str(tick), ha="center", va="bottom", fontsize=7)
    for number, (name, rank) in enumerate(ranks.items()):
        left = number < half
        line = first + (number if left else methods - 1 - number)
        end = 0.8 if left else methods + 0.2
        axis.plot([rank, rank, end], [0, line, line], color="black", linewidth=0.8)
        axis.text(
            end - 0.1 if left else end + 0.1,
            line,
            f"{name}  {rank:.2f}" if left else f"{rank:.2f}  {name}",
            ha="right" if left else "left",
            va="center",
            fontsize=8,
        )
    for number, group in enumerate(groups):
        height = 0.35 * (number + 1)
        axis.plot([ranks[group[0]] - 0.05, ranks[group[-1]] + 0.05], [height, height], color="#0072b2", linewidth=3.5)
    axis.plot([1, 1 + test.critical_difference], [-0.85, -0.85], color="#d55e00", linewidth=2)
    axis.text(1 + test.critical_difference + 0.1, -0.85, "critical difference", va="center", fontsize=7)
