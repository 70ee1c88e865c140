"""How many normal images does a detector need? Metrics against the number of training images, and where it is enough.

A draw of n images is contained in every larger one of the same seed, and all methods learn from the same draws, so
what fewer images cost is a difference within a seed. Its interval is over the draws: the categories and the test images
are those of the set, and say nothing of another one.
"""

import math
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from adlib.errors import InputError
from adlib.figure_style import finish
from adlib.report.labels import SHARES, check_metric
from adlib.report.run_details import finished_cells
from adlib.report.tables import part_of
from adlib.studies.common import NOTHING, share_label
from adlib.studies.differences import change, differences, interval_text

NAME = "study/how_many_normals"
GROUP = ["dataset", "method"]
MARGIN = 1.0  # percentage points that count as nothing


def learning_curve(out: str | Path, metric: str = "image_auroc", study: str = NAME) -> pd.DataFrame:
    """What every finished run of the study reached, one row per run, and per category of one on several.

    Columns: dataset, category, method, seed, asked (the limit of training images; NaN for all of them), learned (how
    many they were), value (percent). Runs in which the metric is undefined are left out. Raises InputError for a metric
    that is not a share and better the higher.
    """
    check_metric(metric, SHARES)
    rows = []
    for cell, record in finished_cells(study, out, by_category=True):
        value = part_of(record, cell["category"]).get(metric)
        if value is None:
            continue
        learned = record["data"]["training"][cell["category"]]["learned"]
        row = {name: cell[name] for name in ("dataset", "category", "method", "seed")}
        asked = record["run"]["settings"].get("train_limit")
        rows.append(row | {"asked": math.nan if asked is None else asked, "learned": learned, "value": 100 * value})
    columns = ["dataset", "category", "method", "seed", "asked", "learned", "value"]
    return pd.DataFrame(rows, columns=columns).astype({"asked": float})


def losses(curve: pd.DataFrame) -> pd.DataFrame:
    """What fewer images cost against all of them, one row per dataset, method and number, the largest first.

    curve: of `learning_curve`. A loss is the value with all images minus that with fewer, of one category and seed. It
    is averaged over the categories of a seed that learned fewer, for those that have no more lose nothing; the interval
    is Student's over the seeds.
    Columns: dataset, method, asked (NaN for all), images (the most that a category learned), value (mean over the same
    categories), loss, low, high (percentage points), categories, seeds. Seeds that lack a category are left out.
    """
    place = [*GROUP, "category"]
    whole = curve[curve["asked"].isna()]
    had = curve[place].merge(whole.groupby(place, as_index=False)["learned"].max(), how="left")["learned"].to_numpy()
    found = [differences(whole, "asked", math.nan)]
    for asked in sorted(curve["asked"].dropna().unique()):
        cut = curve[(had > asked) & (curve["asked"].isna() | (curve["asked"] == asked))]
        level = differences(cut, "asked", math.nan)
        found.append(level[level["asked"] == asked])
    found = pd.concat(found, ignore_index=True)
    images = curve.groupby([*GROUP, "asked"], as_index=False, dropna=False)["learned"].max()
    table = found.merge(images.rename(columns={"learned": "images"}), on=[*GROUP, "asked"])
    table = table.assign(loss=0 - table["difference"], low=0 - table["high"], high=0 - table["low"])
    columns = [*GROUP, "asked", "images", "value", "loss", "low", "high", "categories", "seeds"]
    return table.sort_values([*GROUP, "asked"], ascending=[True, True, False], na_position="first", ignore_index=True)[
        columns
    ]


def enough(table: pd.DataFrame, margin: float = MARGIN) -> pd.DataFrame:
    """The smallest number of images that is shown to cost less than `margin` points, one row per dataset and method.

    table: of `losses`. From the largest number down, as long as the interval's upper end lies below the margin: the
    first that does not ends it, so that trying many numbers makes no error likelier. Raises InputError for a margin
    that is not above 0: no interval around a loss of nothing lies below it.
    Columns: dataset, method, images (NaN if no number short of all is enough), all, loss, low, high (there, or at the
    largest number short of all), seeds.
    """
    if not margin > 0:
        raise InputError(f"margin = {margin!r} must be above 0: it is how many points may be lost, as 1 is.")
    rows = []
    for (dataset, method), mine in table.groupby(GROUP, sort=False):
        whole, fewer = mine[mine["asked"].isna()], mine[mine["asked"].notna()]
        fewer = fewer[fewer["images"] < whole["images"].max()]
        if fewer.empty:
            continue
        holds = (fewer["high"] < margin).cummin()
        told = fewer[holds].iloc[-1] if holds.any() else fewer.iloc[0]
        row = {"dataset": dataset, "method": method, "images": told["images"] if holds.any() else math.nan}
        row |= {"all": whole["images"].max()} | {name: told[name] for name in ("loss", "low", "high", "seeds")}
        rows.append(row | {"tried": int(told["images"])})
    return pd.DataFrame(rows, columns=[*GROUP, "images", "all", "loss", "low", "high", "seeds", "tried"])


def conclusions(found: pd.DataFrame, metric: str = "image_auroc", margin: float = MARGIN) -> list[str]:
    """What is seen, a sentence per dataset and method. found: of `enough`."""
    label, said = share_label(metric), []
    for row in found.itertuples():
        where = f"{row.method} on {row.dataset}"
        interval = f"(loss {row.loss:.1f}, {interval_text(row.low, row.high, row.seeds, 'draws')})"
        if math.isnan(row.low):
            said.append(f"{where}: one draw has no interval; repeat it with more seeds.")
        elif math.isnan(row.images):
            said.append(
                f"{where}: no number short of all {row.all} images is shown to be enough. With {row.tried} of them "
                f"{label} is {change(-row.loss)} {interval}; {margin:g} is what may be lost."
            )
        elif row.low == row.high:  # as at the top of the metric, where an interval would claim to be exact
            said.append(
                f"{where}: {row.images:.0f} of {row.all} normal images are enough for these test images. With them "
                f"{label} is {change(-row.loss)}, alike in all {row.seeds} draws, which have no spread for an interval."
            )
        else:
            said.append(
                f"{where}: {row.images:.0f} of {row.all} normal images are enough. With them {label} is "
                f"{change(-row.loss)} {interval}."
            )
    return said


def show_losses(table: pd.DataFrame, metric: str = "image_auroc", margin: float = MARGIN) -> Figure:
    """What fewer images cost, a panel per dataset: curves that climb into the band in which nothing is lost.

    table: of `losses`. Whiskers are its intervals; a ring marks the number that is enough.
    """
    datasets = list(table["dataset"].unique()) or [NOTHING]
    figure, axes = plt.subplots(
        1, len(datasets), figsize=(max(6, 4.2 * len(datasets)), 3.8), squeeze=False, sharey=True, layout="constrained"
    )
    rings = enough(table, margin).dropna(subset="images").set_index(GROUP)["images"]
    for axis, dataset in zip(axes.flat, datasets, strict=True):
        mine = table[table["dataset"] == dataset]
        axis.axhspan(-margin, margin, color="#228833", alpha=0.15, linewidth=0)
        axis.axhline(0, color="0.4", linewidth=0.8)
        for number, (method, curve) in enumerate(mine.groupby("method", sort=False)):
            shift = 1.03 ** (number - 0.5)  # whiskers beside and not over each other
            reach = [curve["high"] - curve["loss"], curve["loss"] - curve["low"]]
            line = axis.errorbar(curve["images"] * shift, -curve["loss"], reach, marker="o", capsize=3, label=method)
            if (dataset, method) in rings.index:
                ring = curve[curve["images"] == rings[dataset, method]].iloc[0]
                spot = (ring["images"] * shift, -ring["loss"])
                axis.plot(*spot, "o", markersize=15, fillstyle="none", markeredgewidth=2, color=line[0].get_color())
        axis.set_xscale("log")
        ticks = sorted(mine["images"].unique())
        axis.set_xticks(ticks, [str(tick) for tick in ticks], minor=False)
        axis.minorticks_off()
        axis.set(title=dataset, xlabel="normal training images (the last are all)")
        if len(mine):
            axis.legend(fontsize=8, loc="lower right")
    axes[0, 0].set_ylabel(f"{share_label(metric)} against all images, points")
    return finish(figure)
