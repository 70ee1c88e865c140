"""What do all methods miss? Recall per defect, at one rate of false alarms, against area, contrast, kind and place.

A defect is an 8-connected region of a mask. A method finds it if its map reaches the method's threshold in it anywhere.
The threshold is the lowest that keeps the asked rate of false alarms on average: a normal test image is a false alarm
where its map reaches it anywhere. No defect is looked at for it, but the normal images are those of the test set.

Defects of one image are not independent, and neither are the methods' verdicts on one defect: every interval here is a
bootstrap of images, each drawn with all its defects and all methods.
"""

import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from adlib.baselines import LUMINANCE
from adlib.decoding.pictures import image_shape
from adlib.figure_style import finish, plain_log
from adlib.findings import map_on_picture
from adlib.images import ImageSet
from adlib.metrics.bootstrap import draw_counts
from adlib.predictions import Predictions
from adlib.report.region_breakdown import measured_regions
from adlib.rounding import rounded_text
from adlib.runs.changed_files import changed_files
from adlib.samples import items
from adlib.screening import HeldOut, choose_threshold
from adlib.studies.common import LEVEL, NOTHING, first_predictions, item_names, share_interval

NAME = "study/what_is_missed"
SIDE = 512  # pixels at most of the longer side of a picture on which defects and maps are compared
DEFECT = ["dataset", "category", "image", "region"]
PROPERTIES = {"area": "area", "contrast": "contrast", "place": "distance from the centre"}
REPLICATES = 500
ENOUGH = 10  # defects that some method finds, that some misses, and images: with fewer there is no model
FLAT = 1e-9  # a property whose spread is no more does not vary
RIDGE = 1.0  # how strongly the model's coefficients, per standard deviation, are drawn to 0


def verdicts(out: str | Path, rate: float = 0.1, study: str = NAME) -> pd.DataFrame:
    """Every defect with every method's verdict on it, one row for each.

    Methods without maps, images without masks and categories without normal test images are left out, and runs whose
    images or masks have changed since (`left_out` says which). Of several seeds of a method the first is taken.
    Columns: dataset, category, image, region (its number in the image), kind (of defect), area (percent of the
    picture), contrast (percent: |inside - surroundings| / surroundings, mean luminance; NaN where undefined), place
    (distance of the defect's middle from the picture's, 0 to 1 in a corner), left, top, right, bottom (of its box, as
    shares of the picture), method, score (the map's highest value inside; NaN where the method has not looked), found,
    promised (the rate of false alarms that so many normal images can keep: `rate`, or more where they are few), item
    (what the image shows; the image itself where no item is named). Where items are photographed several times, the
    rate is of items (adlib.screening).
    """
    found: dict[tuple[str, str], dict[str, Predictions]] = {}
    for dataset, category, method, predictions in first_predictions(study, out):
        if not _lacks(predictions):
            found.setdefault((dataset, category), {})[method] = predictions
    rows = []
    for (dataset, category), methods in found.items():
        for row in _judged(methods, rate):
            rows.append({"dataset": dataset, "category": category} | row)
    columns = [
        *DEFECT,
        "kind",
        "area",
        "contrast",
        "place",
        "left",
        "top",
        "right",
        "bottom",
        "method",
        "score",
        "found",
        "promised",
        "item",
    ]
    return pd.DataFrame(rows, columns=columns).astype({"found": bool})


def _lacks(predictions: Predictions) -> str:
    """Why stored predictions cannot be judged defect by defect, "" where they can."""
    if predictions.maps_dropped:
        return "the maps were not kept"
    if not predictions.judges_pixels:
        return "there are no maps that outline defects"
    if not (predictions.samples["label"] == 0).any():
        return "there are no normal test images"
    if not (predictions.samples["mask"] != "").any():
        return "there are no masks of the defects"
    changed = changed_files(predictions.folder)
    return f"the {' and '.join(changed)} have changed since they were scored" if changed else ""


def left_out(out: str | Path, study: str = NAME) -> list[str]:
    """What `verdicts` leaves out whole, and why, a sentence each."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for dataset, category, method, predictions in first_predictions(study, out):
        if lacks := _lacks(predictions):
            found.setdefault((dataset, category, lacks), []).append(method)
    return [
        f"{dataset}/{category} is left out for {', '.join(methods)}: {lacks}."
        for (dataset, category, lacks), methods in found.items()
    ]


def _judged(methods: dict[str, Predictions], rate: float):
    """The rows of one category."""
    thresholds, places, promised = {}, {}, {}
    for method, predictions in methods.items():
        normal = np.flatnonzero(predictions.samples["label"] == 0)
        peaks = np.array([np.max(predictions.maps[index]) for index in normal])
        held = HeldOut(peaks, None, None, "normal test images", items=items(predictions.samples.iloc[normal]))
        chosen = choose_threshold(held, rate)
        thresholds[method] = chosen.score
        promised[method] = max(rate, 1 / (chosen.held_out + 1))
        places[method] = {image: index for index, image in enumerate(predictions.samples["image"])}
    first = next(iter(methods.values())).samples
    first = first.assign(item=item_names(first))
    for sample in first[first["mask"] != ""].to_dict("records"):
        image = sample["image"]
        if not all(image in known for known in places.values()):
            continue
        shape = image_shape(image)
        shape = tuple(max(1, round(side * min(1, SIDE / max(shape)))) for side in shape)
        picture = ImageSet(pd.DataFrame([sample]), size=shape)
        grey, mask = np.tensordot(LUMINANCE, picture.pixels(0).numpy(), 1), picture.masks()[0]
        laid = {
            method: map_on_picture(predictions.maps[places[method][image]], shape, predictions.settings)
            for method, predictions in methods.items()
        }
        for region, ((down, across), area, contrast) in enumerate(measured_regions(mask, mask, grey)):
            middle = np.hypot((down.mean() + 0.5) / shape[0] - 0.5, (across.mean() + 0.5) / shape[1] - 0.5)
            about = {"image": image, "region": region, "kind": sample["defect"], "area": 100 * area / mask.size}
            about |= {"item": sample["item"], "contrast": 100 * contrast, "place": middle / math.sqrt(0.5)}
            about |= {"left": across.min() / shape[1], "right": (across.max() + 1) / shape[1]}
            about |= {"top": down.min() / shape[0], "bottom": (down.max() + 1) / shape[0]}
            for method, values in laid.items():
                inside = values[down, across]
                score = float(np.nanmax(inside)) if np.isfinite(inside).any() else math.nan
                verdict = {"method": method, "score": score, "found": bool(score >= thresholds[method])}
                yield about | verdict | {"promised": promised[method]}


def defects(table: pd.DataFrame) -> pd.DataFrame:
    """One row per defect: the columns of `verdicts` that are the defect's own, methods (how many judged it), finders
    (how many of them find it), alone (the one of several that does, "" where none or more do), item where the verdicts
    have it.
    """
    own = ["kind", "area", "contrast", "place", "left", "top", "right", "bottom"]
    rows = table.groupby(DEFECT, sort=False)
    summary = rows[own].first()
    if "item" in table:
        summary["item"] = rows["item"].first()
    summary["methods"], summary["finders"] = rows.size(), rows["found"].sum().astype(int)
    finder = table[table["found"]].groupby(DEFECT, sort=False)["method"].first().reindex(summary.index)
    summary["alone"] = finder.where((summary["finders"] == 1) & (summary["methods"] > 1), "").fillna("")
    return summary.reset_index()


def judged_by_all(table: pd.DataFrame) -> pd.DataFrame:
    """The verdicts on defects that all methods of their dataset have judged: only these say what all miss, or who finds
    more. table: of `verdicts`.
    """
    judges = table.groupby(DEFECT)["method"].transform("nunique")
    return table[judges == table.groupby("dataset")["method"].transform("nunique")]


def drawn_by(table: pd.DataFrame) -> pd.Series:
    """What intervals draw: the items that the images of verdicts (or of `defects`) show; images where they say none."""
    return table["item"] if "item" in table else table["image"]


def share_of(values: pd.Series, images: pd.Series, seed: int = 0) -> tuple[float, float, float]:
    """A share of defects with its interval by drawing images: (share, low, high); the ends are NaN for one image. Where
    every image has the same share, it is Wilson's for as many images.

    values: 0, 1 or between, one per defect. images: which one it is on, or which item (`drawn_by`).
    """
    if values.empty:
        return math.nan, math.nan, math.nan
    sums = values.astype(float).groupby(images).agg(["sum", "size"]).to_numpy(float)
    share = float(sums[:, 0].sum() / sums[:, 1].sum())
    if len(sums) < 2:
        return share, math.nan, math.nan
    if np.ptp(sums[:, 0] / sums[:, 1]) == 0:  # no drawing moves it, which is no certainty
        return share, *share_interval(share, len(sums))
    counts = draw_counts(np.zeros(len(sums), int), 2 * REPLICATES, seed)
    drawn = (counts @ sums[:, 0]) / (counts @ sums[:, 1])
    return share, *map(float, np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))


def recall_by(table: pd.DataFrame, name: str, parts: int = 3) -> pd.DataFrame:
    """Recall, the mean over methods, of each kind of defect, or in parts of a property with as many defects each, of
    those that all methods judged.

    table: of `verdicts`. name: "kind", or one of PROPERTIES.
    Columns: dataset, part (the kind, or its bounds), defects, images, recall, low, high (percent).
    """
    rows, known = [], judged_by_all(table).dropna(subset=name)
    for dataset, mine in known.groupby("dataset", sort=False):
        part = mine[name]
        if name != "kind":
            one = mine.drop_duplicates(DEFECT)[name]
            edges = np.unique(np.quantile(one, np.arange(1, parts) / parts))
            part = pd.Series(np.searchsorted(edges, mine[name], side="right"), mine.index)
        for value, inside in mine.groupby(part):
            label = value if name == "kind" else f"{_plain(inside[name].min())} to {_plain(inside[name].max())}"
            recall = share_of(inside["found"], drawn_by(inside))
            row = {"dataset": dataset, "part": label, "defects": len(inside.drop_duplicates(DEFECT))}
            row["images"] = inside["image"].nunique()
            rows.append(row | dict(zip(("recall", "low", "high"), (100 * x for x in recall), strict=True)))
    return pd.DataFrame(rows, columns=["dataset", "part", "defects", "images", "recall", "low", "high"])


def what_decides(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """What makes a defect be found: a logistic model per dataset, of area, contrast and place together, the method and
    the category aside.

    table: of `verdicts`. Odds of being found, and how they change: per doubling of area and of contrast, and from the
    middle of the picture to a corner. Coefficients are drawn to no effect a little (RIDGE, per standard deviation), so
    that they stay finite where a property decides all. Intervals: bootstrap of images, or items
    where there are some. Defects without a contrast are left out, and so are datasets with fewer than ENOUGH images (or
    items), defects found by some method, or missed by some.
    Columns: dataset, property, change, odds, low, high, defects, images.
    """
    rows = []
    for dataset, mine in table.dropna(subset="contrast").groupby("dataset", sort=False):
        columns = {"area": np.log2(mine["area"]), "contrast": np.log2(mine["contrast"].clip(lower=0.1))}
        columns["place"] = mine["place"]
        values = np.stack([column.to_numpy(float) for column in columns.values()], axis=1)
        spread = values.std(axis=0)
        if not _enough(mine):
            continue
        scaled = (values - values.mean(axis=0)) / np.where(spread > FLAT, spread, 1)
        groups = pd.get_dummies(mine["method"] + "\0" + mine["category"]).to_numpy(float)
        design, found = np.hstack([scaled, groups]), mine["found"].to_numpy(float)
        image = pd.factorize(mine["category"] + "\0" + drawn_by(mine))[0]
        images = len(mine.drop_duplicates(["category", "image"]))
        counts = draw_counts(np.zeros(image.max() + 1, int), REPLICATES, seed)
        drawn = np.array([logistic(design, found, weights[image])[:3] for weights in counts])
        whole = logistic(design, found, np.ones(len(mine)))[:3]
        low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
        changes = ("per doubling", "per doubling", "from the middle to a corner")
        for number, (name, change) in enumerate(zip(columns, changes, strict=True)):
            if spread[number] <= FLAT:
                continue
            odds = np.exp(np.array([whole[number], low[number], high[number]]) / spread[number])
            row = {"dataset": dataset, "property": PROPERTIES[name], "change": change}
            row |= dict(zip(("odds", "low", "high"), odds.tolist(), strict=True))
            rows.append(row | {"defects": len(mine.drop_duplicates(DEFECT)), "images": images})
    return pd.DataFrame(rows, columns=["dataset", "property", "change", "odds", "low", "high", "defects", "images"])


def _enough(mine: pd.DataFrame) -> bool:
    each = defects(mine)
    found, missed = (each["finders"] > 0).sum(), (each["finders"] < each["methods"]).sum()
    return min(found, missed, drawn_by(each).nunique()) >= ENOUGH


def logistic(design: np.ndarray, found: np.ndarray, weights: np.ndarray, ridge: float = RIDGE) -> np.ndarray:
    """float64 [D]: coefficients of a logistic model with a ridge penalty, by Newton's method.

    design: float [N, D]. found: 0 or 1, [N]. weights: how often each row counts, [N]. The maximum of the weighted
    log-likelihood less ridge / 2 times the sum of squared coefficients.
    """
    coefficients = np.zeros(design.shape[1])
    for _ in range(100):
        chance = 1 / (1 + np.exp(-np.clip(design @ coefficients, -30, 30)))
        slope = design.T @ (weights * (found - chance)) - ridge * coefficients
        bend = (design * (weights * chance * (1 - chance))[:, None]).T @ design + ridge * np.eye(len(coefficients))
        step = np.linalg.solve(bend, slope)
        coefficients += np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-8:
            break
    return coefficients


def conclusions(table: pd.DataFrame) -> list[str]:
    """What is seen, sentences per dataset, of the defects that all methods judged; of the model, of all of them. table:
    of `verdicts`.
    """
    said, model, common = [], what_decides(table), judged_by_all(table)
    for dataset, whole in table.groupby("dataset", sort=False):
        mine = common[common["dataset"] == dataset]
        said += _not_judged(dataset, whole) + (_found_and_missed(dataset, mine) if len(mine) else [])
        if dataset not in set(model["dataset"]):
            said.append(
                f"{dataset}: what decides is not modelled: that takes {ENOUGH} images, {ENOUGH} defects that a method "
                f"finds and {ENOUGH} that a method misses."
            )
        for row in model[model["dataset"] == dataset].itertuples():
            verdict = "more" if row.low > 1 else "less" if row.high < 1 else ""
            told = f"makes defects {verdict} likely to be found" if verdict else "is not shown to matter"
            said.append(
                f"{dataset}: {row.property} {told}, the others being equal: the odds change by a factor of "
                f"{_plain(row.odds)} {row.change} (95 % interval {_plain(row.low)} to {_plain(row.high)})."
            )
    return said


def _not_judged(dataset: str, table: pd.DataFrame) -> list[str]:
    """How many defects of a dataset not all methods judged, and which methods lack which categories."""
    judged = table.drop_duplicates([*DEFECT, "method"]).groupby(["method", "category"], sort=False).size().unstack()
    lacking = judged.isna() | (judged < judged.max())
    lacks = "; ".join(f"{name} lacks {', '.join(row.index[row])}" for name, row in lacking.iterrows() if row.any())
    each = defects(table)
    number = int((each["methods"] < table["method"].nunique()).sum())
    if not number:
        return []
    return [
        f"{dataset}: {number} of {len(each)} defects are left out of what is found and missed, since not all "
        f"{len(judged)} methods judged them: {lacks}."
    ]


def _found_and_missed(dataset: str, mine: pd.DataFrame) -> list[str]:
    """What all miss, who finds the most and who finds what no other does. mine: verdicts that all methods gave."""
    each = defects(mine)
    share, low, high = share_of(each["finders"] == 0, drawn_by(each))
    found = mine.groupby("method")["found"].sum()
    number, images = int((each["finders"] == 0).sum()), each["image"].nunique()
    independent = (1 - found / len(each)).prod()
    missed = (
        f"{dataset}: {number} of {len(each)} defects on {images} images {'is' if number == 1 else 'are'} missed by "
        f"all {len(found)} methods at {mine['promised'].mean():.0%} of false alarms: {_percent(share)} (95 % interval "
        f"{_range(low, high)}). Were the methods' misses independent, it would be {_percent(independent)}."
    )
    recalls = []
    for name in found.index[found == found.max()]:
        its = mine[mine["method"] == name]
        recall, low, high = share_of(its["found"], drawn_by(its))
        recalls.append((name, f"{_percent(recall)} ({_range(low, high)})"))
    best = " and ".join(f"{name}, {recall}," for name, recall in recalls) + " tie: none finds more"
    if len(recalls) == 1:
        best = "{} finds the most, {}".format(*recalls[0])
    alone = each.loc[each["alone"] != "", "alone"].value_counts()
    names = ", ".join(f"{name} {number}" for name, number in alone.items())
    lone = f"Found by one method alone: {names}." if names else "No defect is found by one method alone."
    return [missed, f"{dataset}: {best}. {lone}"]


def _plain(value: float) -> str:
    """Two digits that count, all those before the point: 0.027, 2.3, 120."""
    return f"{value:.0f}" if value >= 99.5 else f"{value:.2g}"


def _percent(share: float) -> str:
    return f"{rounded_text(100 * share, decimals=0)}%"


def _range(low: float, high: float) -> str:
    return "none: one image" if math.isnan(low) else f"{_percent(low)} to {_percent(high)}"


def show_map(table: pd.DataFrame) -> Figure:
    """Every defect as a point, by its area and contrast, coloured by how many methods find it; a panel per dataset.

    table: of `verdicts`; shown are the defects that all methods judged. A cross is missed by all, a ring found by one
    method alone.
    """
    each = defects(judged_by_all(table)).dropna(subset="contrast")
    parts = list(each.groupby("dataset", sort=False)) or [(NOTHING, each)]
    figure, axes = plt.subplots(
        1, len(parts), figsize=(max(6, 4.4 * len(parts)), 4.2), squeeze=False, layout="constrained"
    )
    points = None
    for axis, (dataset, part) in zip(axes.flat, parts, strict=True):
        share, contrast = part["finders"] / part["methods"], part["contrast"].clip(lower=0.1)
        none, one = part["finders"] == 0, part["alone"] != ""
        style = {"cmap": "viridis", "vmin": 0, "vmax": 1, "s": 42}
        points = axis.scatter(part["area"][~none], contrast[~none], c=share[~none], **style)
        axis.scatter(part["area"][none], contrast[none], marker="x", color="#cc3311", s=60, linewidths=2)
        axis.scatter(part["area"][one], contrast[one], s=150, facecolors="none", edgecolors="#ee7733", linewidths=2)
        axis.set(title=dataset, xlabel="area, % of the picture")
        if len(part):
            axis.set(xscale="log", yscale="log")
            plain_log(axis.xaxis)
            plain_log(axis.yaxis)
    axes[0, 0].set_ylabel("contrast to the surroundings, %")
    bar = figure.colorbar(points, ax=axes, label="share of methods that find it")
    bar.ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    cross = plt.Line2D([], [], marker="x", color="#cc3311", linestyle="", markersize=8, markeredgewidth=2)
    ring = plt.Line2D(
        [], [], marker="o", fillstyle="none", color="#ee7733", linestyle="", markersize=11, markeredgewidth=2
    )
    figure.legend(
        [cross, ring], ["missed by all", "found by one alone"], loc="outside lower center", ncols=2, fontsize=9
    )
    return finish(figure)


def points(table: pd.DataFrame) -> pd.DataFrame:
    """The defects as samples to open (adlib.inspector.sample_points), those that most methods miss first.

    table: of `verdicts`. Columns: label, dataset, category, image.
    """
    found = defects(table)
    found = found.assign(share=found["finders"] / found["methods"]).sort_values("share", kind="stable")
    labels = [
        f"{row.dataset}/{row.category} {Path(row.image).stem}, {row.kind}, {_plain(row.area)} %: found by "
        f"{row.finders} of {row.methods}" + (f", {row.alone} alone" if row.alone else "")
        for row in found.itertuples()
    ]
    return found.assign(label=labels)[["label", "dataset", "category", "image"]]


def gallery(table: pd.DataFrame, each: int = 6) -> dict[str, pd.DataFrame]:
    """Which defects to look at, of those that all methods judged, by rule: {rule: rows of `defects`}, of all datasets
    in turn, at most `each` a rule. table: of `verdicts`.
    """
    found = defects(judged_by_all(table))
    rules = {
        "missed by all, the largest": found[found["finders"] == 0].sort_values("area", ascending=False, kind="stable"),
        "found by one alone, the smallest": found[found["alone"] != ""].sort_values("area", kind="stable"),
        "found by all, the smallest": found[found["finders"] == found["methods"]].sort_values("area", kind="stable"),
    }
    chosen = {}
    for rule, rows in rules.items():
        turn = rows.groupby("dataset").cumcount()
        chosen[rule] = rows.iloc[np.argsort(turn.to_numpy(), kind="stable")[:each]]
    return chosen


def show_gallery(chosen: dict[str, pd.DataFrame]) -> Figure:
    """The defects of a `gallery`, a row per rule: the part of the picture around each, the defect in its box."""
    rows = {rule: part for rule, part in chosen.items() if len(part)} or {NOTHING: None}
    columns = max(3, *(0 if part is None else len(part) for part in rows.values()))
    figure = plt.figure(figsize=(1.9 * columns, 2.6 * len(rows)), layout="constrained")
    strips = np.atleast_1d(figure.subfigures(len(rows), 1))
    for strip, (rule, part) in zip(strips, rows.items(), strict=True):
        strip.set_facecolor("none")
        strip.suptitle(rule, fontsize=10, x=0.01, ha="left")
        axes = strip.subplots(1, columns, squeeze=False)[0]
        for axis in axes:
            axis.axis("off")
        for axis, defect in zip(axes, () if part is None else part.itertuples(), strict=False):
            _draw(axis, defect)
    return finish(figure)


def _draw(axis, defect) -> None:
    """One defect with as much around it as it is wide, at least a quarter of the picture."""
    height, width = image_shape(defect.image)
    sample = pd.DataFrame(
        [{"image": defect.image, "mask": "", "label": 0, "split": "test", "category": "", "group": ""}]
    )
    scale = min(1, SIDE / max(height, width))
    height, width = max(1, round(scale * height)), max(1, round(scale * width))
    picture = ImageSet(sample.assign(defect="good"), size=(height, width)).pixels(0).numpy().transpose(1, 2, 0)
    box = np.array([defect.left * width, defect.top * height, defect.right * width, defect.bottom * height])
    reach = max(1.5 * max(box[2] - box[0], box[3] - box[1]), 0.25 * max(height, width)) / 2
    middle = (box[:2] + box[2:]) / 2
    axis.imshow(picture, interpolation="nearest")
    axis.add_patch(plt.Rectangle(box[:2] - 0.5, *(box[2:] - box[:2]), fill=False, edgecolor="#ee7733", linewidth=1.5))
    axis.set_xlim(max(-0.5, middle[0] - reach), min(width - 0.5, middle[0] + reach))
    axis.set_ylim(min(height - 0.5, middle[1] + reach), max(-0.5, middle[1] - reach))
    who, where = f"\n{defect.alone}" if defect.alone else "", f"{defect.dataset}: {defect.kind}"
    axis.set_title(f"{where}\n{Path(defect.image).stem}, {_plain(defect.area)} %{who}", fontsize=7)
