"""What do unscreened defects among the normal training images cost? Metrics against their share, on the same images.

A defect that was learned as normal is not tested, so a run with more of them has fewer and other test images. All
levels of a draw are therefore scored on the images that are left at the highest one: the test images that every level
of this draw, dataset, category and method has. Each level's number of training images is the same, and the defects of a
lower level are among those of a higher one.
"""

from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure

from adlib.figure_style import finish
from adlib.figures import OUTLINE
from adlib.predictions import Predictions, evaluate
from adlib.report.labels import RANKING_METRICS, check_metric, metric_label
from adlib.report.run_details import finished_cells
from adlib.runs.one_place import in_one_place
from adlib.runs.store import Store
from adlib.studies.common import NOTHING
from adlib.studies.differences import change, differences, interval_text, told

NAME = "study/unscreened_training"
GROUP = ["dataset", "method"]
DRAW = [*GROUP, "category", "seed"]


def runs(out: str | Path, study: str = NAME) -> pd.DataFrame:
    """The finished runs of the study, one row per run and category, but those whose share is less than one image.

    Columns: dataset, method, category, seed, share (of unscreened defects that was asked for), unscreened and learned
    (defects, and all images, that were learned from), predictions (their folder).
    """
    store, rows = Store(Path(out) / "runs"), []
    for cell, record in finished_cells(study, out, by_category=True):
        share = record["run"]["settings"].get("train_contamination") or 0.0
        training = record["data"]["training"][cell["category"]]
        if share and not training["unscreened"]:
            continue
        row = {name: cell[name] for name in DRAW} | {"share": float(share), "unscreened": training["unscreened"]}
        row |= {"learned": training["learned"] + training["unscreened"]}
        rows.append(row | {"predictions": store.path(record["key"]) / "predictions"})
    columns = [*DRAW, "share", "unscreened", "learned", "predictions"]
    return pd.DataFrame(rows, columns=columns).astype({"share": float})


def common_predictions(table: pd.DataFrame) -> Iterator[tuple[dict, dict[float, Predictions]]]:
    """(draw, share -> predictions of the images that all shares of this draw have tested), for each draw of `runs`.

    draw: dataset, method, category, seed. The images are in the same order at every share.
    """
    for draw, mine in table.groupby(DRAW, sort=False):
        loaded = in_one_place(map(Predictions.load, mine["predictions"]))
        found = {row.share: _of_category(row, each) for row, each in zip(mine.itertuples(), loaded, strict=True)}
        common = set.intersection(*(set(each.samples["image"]) for each in found.values()))
        yield (
            dict(zip(DRAW, draw, strict=True)),
            {share: _ordered(each, common) for share, each in sorted(found.items())},
        )


def _of_category(row, predictions: Predictions) -> Predictions:
    """The images of known label of a run's category: a run on several has those of others too."""
    found = predictions.known
    return found.select((found.samples["category"] == row.category).to_numpy())


def _ordered(predictions: Predictions, images: set[str]) -> Predictions:
    names = predictions.samples["image"].reset_index(drop=True)
    return predictions.select(names[names.isin(images)].sort_values().index.to_numpy())


def values(table: pd.DataFrame, metric: str = "image_auroc") -> pd.DataFrame:
    """A metric at every share of every draw, over the images that are left at its highest share.

    table: of `runs`. Columns: dataset, method, category, seed, share, tested, defects (test images, and the defective
    ones of them), value (percent). Runs in which the metric is undefined are left out. Raises InputError for a metric
    that is not of RANKING_METRICS.
    """
    check_metric(metric, RANKING_METRICS)
    rows = []
    for draw, found in common_predictions(table):
        for share, predictions in found.items():
            if metric.startswith("image_"):  # without the maps, whose metrics take longer
                predictions = Predictions(predictions.scores, None, predictions.samples, predictions.settings)
            value = 100 * evaluate(predictions)[metric]
            defects = int((predictions.samples["label"] == 1).sum())
            rows.append(draw | {"share": share, "tested": len(predictions), "defects": defects, "value": value})
    columns = [*DRAW, "share", "tested", "defects", "value"]
    return pd.DataFrame(rows, columns=columns).astype({"share": float, "value": float}).dropna(subset="value")


def costs(table: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """What each share costs against none, one row per dataset, method and share.

    table: of `runs`. found: of `values`. Columns: dataset, method, share, unscreened, learned (images, the most of a
    category), defects (the fewest that are left to test in a category), value (percent, mean), difference, low, high
    (percentage points against a share of 0; Student's over the draws), categories, seeds.
    """
    counts = table.groupby([*GROUP, "share"], as_index=False)[["unscreened", "learned"]].max()
    left = found.groupby([*GROUP, "share"], as_index=False)["defects"].min()
    costs = differences(found, "share", 0.0).merge(counts, on=[*GROUP, "share"]).merge(left, on=[*GROUP, "share"])
    order = [*GROUP, "share", "unscreened", "learned", "defects", "value", "difference", "low", "high"]
    return costs[[*order, "categories", "seeds"]].sort_values([*GROUP, "share"], ignore_index=True)


def conclusions(table: pd.DataFrame, metric: str = "image_auroc") -> list[str]:
    """What is seen, a sentence per dataset and method: the lowest share that is shown to cost something, or that none
    is. table: of `costs`.
    """
    label, said = metric_label(metric), []
    for (dataset, method), mine in table[table["share"] > 0].groupby(GROUP, sort=False):
        costly = mine[[row.difference < 0 and told(row.low, row.high) for row in mine.itertuples()]]
        row = (mine.iloc[-1] if costly.empty else costly.iloc[0]).to_dict()
        seen = (
            f"with {row['unscreened']} unscreened of {row['learned']} training images ({row['share']:.0%} asked for) "
            f"{label} is {change(row['difference'])} "
            f"({interval_text(row['low'], row['high'], row['seeds'], 'draws')}, {row['defects']} defects tested)"
        )
        verdict = (
            "one draw has no interval; repeat it with more seeds"
            if pd.isna(row["low"])
            else "no share that was tried is shown to cost anything"
            if costly.empty
            else "the lowest share that is shown to cost something"
        )
        said.append(f"{method} on {dataset}: {verdict}: {seen}.")
    return said


def show_costs(table: pd.DataFrame, metric: str = "image_auroc") -> Figure:
    """What unscreened defects cost, a panel per dataset, a line per method. table: of `costs`, with its intervals."""
    datasets = list(table["dataset"].unique()) or [NOTHING]
    width = max(6, 4.2 * len(datasets))
    figure, axes = plt.subplots(
        1, len(datasets), figsize=(width, 3.8), squeeze=False, sharey=True, layout="constrained"
    )
    for axis, dataset in zip(axes.flat, datasets, strict=True):
        mine = table[table["dataset"] == dataset]
        axis.axhline(0, color="black", linewidth=0.8)
        for number, (method, line) in enumerate(mine.groupby("method", sort=False)):
            reach = [line["difference"] - line["low"], line["high"] - line["difference"]]
            axis.errorbar(
                100 * line["share"] + 0.2 * number, line["difference"], reach, marker="o", capsize=3, label=method
            )
        ticks = sorted(mine["share"].unique())
        axis.set_xticks([100 * tick for tick in ticks], [f"{tick:.0%}" for tick in ticks])
        axis.set(title=dataset, xlabel="training images that are defects nobody screened")
        if len(mine):
            axis.legend(fontsize=8, loc="lower left")
    axes[0, 0].set_ylabel(f"{metric_label(metric)} against none, points")
    return finish(figure)


def contrast(predictions: Predictions) -> np.ndarray:
    """How far a map stands out where the defect is, float [N]: the mean inside the mask above the median of the maps of
    normal test images, in units of what lies between that median and their 99th percentile; NaN without a defect.
    """
    labels = predictions.samples["label"].to_numpy()
    middle, high = _scale(predictions)
    inside = [
        each[mask].mean() if mask.any() else np.nan
        for each, mask in zip(predictions.maps, predictions.masks, strict=True)
    ]
    return np.where(labels == 1, (np.asarray(inside, np.float64) - middle) / (high - middle), np.nan)


def _scale(predictions: Predictions) -> tuple[float, float]:
    normal = np.asarray(predictions.maps)[(predictions.samples["label"] == 0).to_numpy()]
    middle, high = np.percentile(normal.astype(np.float32), [50, 99])
    return float(middle), float(max(high, middle + 1e-12))


def _first_draws(table: pd.DataFrame) -> Iterator[tuple[dict, dict[float, Predictions], np.ndarray]]:
    """(draw, share -> predictions, lost contrast) of the first draw of each dataset and method that has several shares,
    maps and normal images to compare with.

    table: of `runs`. lost: float [N], the `contrast` at the lowest share less that at the highest, NaN if normal.
    """
    seen = set()
    for draw, found in common_predictions(table.drop_duplicates([*DRAW, "share"])):
        place = draw["dataset"], draw["method"]
        if place not in seen and len(found) > 1 and all(_shows(each) for each in found.values()):
            seen.add(place)
            yield draw, found, contrast(found[min(found)]) - contrast(found[max(found)])


def points(table: pd.DataFrame) -> pd.DataFrame:
    """The tested defects of the draws of `show_fading`, as samples to open (adlib.inspector.sample_points), of each
    those that fade most first.

    table: of `runs`. Columns: label, dataset, category, image, method, seed.
    """
    rows = []
    for draw, found, lost in _first_draws(table):
        samples = found[min(found)].samples
        for index in np.argsort(-lost, kind="stable")[: np.isfinite(lost).sum()]:
            image, kind = samples["image"].iloc[index], samples["defect"].iloc[index]
            where = f"{draw['method']} on {draw['dataset']}/{draw['category']}"
            label = f"{where} {Path(image).stem}, {kind}: stands out {_change(lost[index])}"
            rows.append(draw | {"label": label, "image": image})
    return pd.DataFrame(rows, columns=["label", "dataset", "category", "image", "method", "seed"])


def _change(lost: float) -> str:
    """Of contrast, in words: what has not faded stands out by more."""
    return "as much" if abs(lost) < 0.05 else f"by {abs(lost):.1f} {'less' if lost > 0 else 'more'}"


def show_fading(table: pd.DataFrame) -> Figure | HTML:
    """For each method the tested defect that fades most: its picture, and its map after each share of unscreened ones.

    table: of `runs`. Of the first draw of each dataset and method, as of `points`. The colours of each map run from the
    median of this detector's maps of normal images to three times the way to their 99th percentile, so that they tell
    how far the defect stands out, not in which unit.
    """
    chosen = [(draw, found, int(np.nanargmax(lost))) for draw, found, lost in _first_draws(table)]
    if not chosen:
        return HTML("<p>No draw with several shares, maps and masks is done.</p>")
    columns = 1 + max(len(found) for _, found, _ in chosen)
    size = (2.1 * columns, 2.5 * len(chosen))
    figure, axes = plt.subplots(len(chosen), columns, figsize=size, squeeze=False, layout="constrained")
    for row, (draw, found, index) in zip(axes, chosen, strict=True):
        for axis in row:
            axis.axis("off")
        item = found[min(found)].images[index]
        picture, mask = item["image"].permute(1, 2, 0).numpy(), item["mask"].numpy()
        row[0].imshow(picture)
        row[0].set_title(f"{draw['method']} on {draw['dataset']}", fontsize=9)
        for axis, (share, predictions) in zip(row[1:], found.items(), strict=False):
            middle, high = _scale(predictions)
            axis.imshow(predictions.maps[index], cmap="inferno", vmin=middle, vmax=middle + 3 * (high - middle))
            axis.set_title(f"{share:.0%}: stands out {contrast(predictions)[index]:.1f}", fontsize=9)
        for axis, outlined in zip(row, [mask] + [each.masks[index] for each in found.values()], strict=False):
            if outlined.any():
                axis.contour(outlined, levels=[0.5], colors=OUTLINE, linewidths=1)
    return finish(figure)


def _shows(predictions: Predictions) -> bool:
    """Whether there are maps that outline defects, masks and both kinds of images."""
    return predictions.judges_pixels and predictions.samples["label"].nunique() == 2 and predictions.masks is not None
