"""Pictures for notebooks and reports: samples, heat maps, score histograms, and the papers' data figures.

Every function returns a closed matplotlib Figure: a notebook shows it once, a script can save it. It has no background
(figure_style.py): pages are light or dark.
"""

import textwrap
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from adlib.analysis import largest_defect, read_grey
from adlib.decoding.pictures import decode
from adlib.decoding.resizing import crop_corner, frame
from adlib.decoding.tiles import corners, share
from adlib.figure_style import ANOMALOUS, INK, NORMAL, finish, plain_log
from adlib.gpu_memory import Parts, part_of
from adlib.images import ImageSet, read_image, read_mask
from adlib.predictions import Predictions, oracle_threshold
from adlib.samples import UNKNOWN

OUTLINE = "#00e5ff"  # ground truth
CELL, GAP = 2.1, 0.08  # inches: width of a panel, and between two


def _grid(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    """Panels for pictures without axes; `_placed` says where they lie, once it is known how high the pictures are."""
    figure, axes = plt.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
        axis.set(xticks=[], yticks=[])  # else ticks that nobody sees are made and measured, most of a figure's time
        axis.set_anchor("N")
    return figure, axes


def _nothing(what: str) -> Figure:
    """A figure that says what there is none of, in place of pictures."""
    figure, axis = plt.subplots(figsize=(5, 0.5))
    axis.axis("off")
    axis.text(0, 0.5, f"– {what} –", va="center", fontsize=9)
    return finish(figure)


def _placed(figure: Figure, axes: np.ndarray, bar: Axes | None = None) -> Figure:
    """The finished figure of a `_grid`, its rows as high as their highest picture with its title.

    bar: lies right of the last row. All places are plain sums: a layout engine would draw the figure to find them.
    """
    heights = [CELL * max((_proportion(axis) for axis in row if axis.images), default=1.0) for row in axes]
    above = [0.08 + 0.16 * max(_title_lines(axis) for axis in row) for row in axes]
    heading = 0.3 if figure.get_suptitle() else 0.0
    width = (CELL + GAP) * axes.shape[1] + GAP
    whole = width + (0.9 if bar is not None else 0.0), sum(heights) + sum(above) + heading + GAP
    figure.set_size_inches(*whole)
    top = whole[1] - heading
    for row, height, space in zip(axes, heights, above, strict=True):
        top -= space + height
        for column, axis in enumerate(row):
            left = GAP + column * (CELL + GAP)
            axis.set_position((left / whole[0], top / whole[1], CELL / whole[0], height / whole[1]))
    if bar is not None:
        bar.set_position((width / whole[0], top / whole[1], 0.11 / whole[0], heights[-1] / whole[1]))
    if heading:
        figure.suptitle(figure.get_suptitle(), fontsize=10, y=1 - 0.08 / whole[1])
    return finish(figure)


def _proportion(axis: Axes) -> float:
    """Height over width of what a panel shows."""
    (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
    return abs((high - low) / (right - left))


def _title(axis: Axes, text: str, loc: str = "center") -> None:
    """A title in lines no wider than its panel; one on the left may lie over the panels beside it, which have none."""
    if loc == "center":
        text = "\n".join(textwrap.fill(line, 34) for line in text.split("\n"))
    axis.set_title(text, fontsize=8, y=1.0, loc=loc)


def _title_lines(axis: Axes) -> int:
    titles = [axis.get_title(loc) for loc in ("center", "left")]
    return max(title.count("\n") + 1 if title else 0 for title in titles)


def _outline(axis, mask: np.ndarray) -> None:
    if mask.any():
        axis.contour(mask, levels=[0.5], colors=OUTLINE, linewidths=1.0)


def _shown(image: str) -> tuple[np.ndarray, str]:
    """A picture as matplotlib shows it, and in words how its values were scaled; "" for those that mean black to white.

    Floating-point values beyond 0 to 1 have no black and white (a run says by `window` which they are): here the least
    is black, the greatest white. Those that are no numbers are black.
    """
    values, _ = decode(image)
    if values.dtype.kind != "f":
        values = values if values.dtype in (np.uint8, np.uint16) else read_image(image)  # which says what is wrong
        return values / np.float32(np.iinfo(values.dtype).max), ""
    finite = np.isfinite(values)
    low, high = (float(values[finite].min()), float(values[finite].max())) if finite.any() else (0.0, 1.0)
    if finite.all() and low >= 0 and high <= 1:
        return values, ""
    scaled = (np.where(finite, values, low) - low) / max(high - low, 1e-12)
    return scaled.astype(np.float32), f"{low:.4g} to {high:.4g}, scaled"


def show_samples(samples: pd.DataFrame, columns: int = 6, rows: int = 2, seed: int = 0) -> Figure:
    """Images drawn at random, as evenly from a table's categories as can be, at full size; defects outlined.

    Floating-point images beyond 0 to 1 are scaled from their least to their greatest value, and say so.
    """
    if samples.empty:
        return _nothing("no image of this kind")
    mixed = samples.sample(frac=1, random_state=seed)
    turns = mixed.groupby("category").cumcount().sort_values(kind="stable").index
    chosen = mixed.loc[turns[: rows * columns]].sort_values(["category", "defect"])
    figure, axes = _grid(-(-len(chosen) // columns), columns)
    for axis, row in zip(axes.flat, chosen.itertuples(), strict=False):
        image, scaled = _shown(row.image)
        axis.imshow(image, cmap="gray", vmin=0, vmax=1)
        if row.mask:
            _outline(axis, read_mask(row.mask, image.shape[:2], row.image, getattr(row, "mask_rule", "")))
        _title(axis, "\n".join(filter(None, [f"{row.category} · {row.defect}", scaled])))
    return _placed(figure, axes)


def show_seen(images: ImageSet, count: int = 4, seed: int = 0) -> Figure:
    """What a detector sees of images: each as stored, with what is cut off darkened (above), and as it goes into the
    network, with its size (below): of images with tiles the tile in their middle. The images are drawn at random.
    """
    chosen = sorted(np.random.default_rng(seed).permutation(len(images))[:count].tolist())
    figure, axes = _grid(2, max(1, len(chosen)))
    for (above, below), index in zip(axes.T, chosen, strict=False):
        image, scaled = _shown(images.samples["image"].iat[index])
        height, width = image.shape[:2]
        left, top, right, bottom = frame((height, width), images.settings)
        above.imshow(image, cmap="gray", vmin=0, vmax=1)
        seen = np.zeros((height, width), bool)
        rows, columns = (
            (round(max(0, low) * side), round(min(1, high) * side))
            for low, high, side in ((top, bottom, height), (left, right, width))
        )
        seen[slice(*rows), slice(*columns)] = True
        above.imshow(np.dstack([np.zeros((height, width, 3)), np.where(seen, 0, 0.65)]))
        title = [f"{height} x {width}, {seen.mean():.0%} seen", scaled]
        _title(above, "\n".join(filter(None, title)))
        below.imshow(_scored_item(images, index, None)["image"].permute(1, 2, 0).numpy())
        size = f"{images.shape[0]} x {images.shape[1]}"
        if images.tile is not None:
            number = len(corners(images.whole, images.tile))
            size = f"{images.tile[0]} x {images.tile[0]}, one of {number} tiles of {size}"
        _title(below, size)
    return _placed(figure, axes)


def show_defects(samples: pd.DataFrame, each: int = 1, seed: int = 0) -> Figure:
    """Image, ground truth and overlay, one row per defective image: `each` per category and defect type, or as many as
    there are, drawn at random. ISP-AD, Figs. 1 and 2.
    """
    defective = samples[(samples["mask"] != "") & (samples["label"] == 1)]
    if defective.empty:
        return _nothing("no defective image with a mask")
    kinds = defective.groupby(["category", "defect"], sort=False)
    chosen = pd.concat([kind.sample(min(each, len(kind)), random_state=seed) for _, kind in kinds])
    figure, axes = _grid(len(chosen), 3)
    for axis, row in zip(axes, chosen.itertuples(), strict=True):
        image, scaled = _shown(row.image)
        mask = read_mask(row.mask, image.shape[:2], row.image, getattr(row, "mask_rule", ""))
        for picture in (axis[0], axis[2]):
            picture.imshow(image, cmap="gray", vmin=0, vmax=1)
        axis[1].imshow(mask, cmap="gray", vmin=0, vmax=1)
        _outline(axis[2], mask)
        for picture, title in zip(
            axis, (f"{row.category} · {row.defect}", "ground truth", scaled or "overlay"), strict=True
        ):
            _title(picture, title)
    return _placed(figure, axes)


def show_enlargements(samples: pd.DataFrame, columns: int = 5, seed: int = 0) -> Figure:
    """One defective image per category above, its largest defect enlarged below. CXR-AD, Figs. 1 and 2."""
    defective = samples[(samples["mask"] != "") & (samples["label"] == 1)]
    chosen = defective.groupby("category", sort=False).sample(1, random_state=seed).head(columns)
    figure, axes = _grid(2, max(1, len(chosen)))
    for (whole, enlarged), row in zip(axes.T, chosen.itertuples(), strict=False):
        image, _ = _shown(row.image)
        mask = read_mask(row.mask, image.shape[:2], row.image, getattr(row, "mask_rule", ""))
        if mask.any():
            rows, columns_ = largest_defect(mask, margin=1.5)
            for axis, place in ((whole, np.s_[:, :]), (enlarged, (rows, columns_))):
                axis.imshow(image[place], cmap="gray", vmin=0, vmax=1)
            whole.add_patch(_box(rows, columns_))
            _outline(enlarged, mask[rows, columns_])
        _title(whole, row.category)
    return _placed(figure, axes)


def _box(rows: slice, columns: slice) -> Rectangle:
    corner, sides = (columns.start, rows.start), (columns.stop - columns.start, rows.stop - rows.start)
    return Rectangle(corner, *sides, fill=False, edgecolor=OUTLINE, linewidth=1)


def telling_samples(predictions: Predictions, each: int = 4, threshold: float | None = None) -> dict[str, list[int]]:
    """Indices of the samples worth looking at, chosen by score alone, `each` of a kind at most.

    threshold: from here on an image is called anomalous; None for that of best F1 on these images, an oracle. Images of
    one kind alone have none: then nothing is called.
    Keys: "found" (anomalous, called; highest scores first), "missed" (anomalous, not called; lowest first), "alarming"
    (normal, called; highest first), "barely found" (found, lowest first) and "barely passed" (normal, not called;
    highest first).
    """
    labels, order = predictions.samples["label"].to_numpy(), np.argsort(predictions.scores, kind="stable")
    if threshold is None:
        threshold = oracle_threshold(predictions)
    called = predictions.scores[order].astype(np.float64) >= (np.inf if threshold is None else threshold)
    anomalous, normal = labels[order] == 1, labels[order] == 0
    rising = {"missed": anomalous & ~called, "barely found": anomalous & called}
    falling = {"found": anomalous & called, "alarming": normal & called, "barely passed": normal & ~called}
    chosen = {name: order[rows][:each].tolist() for name, rows in rising.items()}
    return chosen | {name: order[rows][::-1][:each].tolist() for name, rows in falling.items()}


def show_predictions(predictions: Predictions, indices: list[int], title: str = "") -> Figure | HTML:
    """Image with the ground truth outlined (upper row) and heat map over it (lower row), one column per sample.

    The heat maps share one colour scale, from the median of all maps to their 99.9th percentile, so that columns can
    be compared; the bar beside them has its values. Without maps only the upper row is drawn. Without indices a
    sentence says that there is none.
    """
    if not indices:
        return HTML("<p>There is none.</p>")
    figure, axes = _grid(1 if predictions.maps is None else 2, len(indices))
    if predictions.maps is not None:
        low, high = np.percentile(predictions.maps[:: max(1, len(predictions) // 64)], [50, 99.9])
    for column, index in enumerate(indices):
        item = predictions.images[index]
        picture, sample = item["image"].permute(1, 2, 0).numpy(), predictions.samples.iloc[index]
        axes[0, column].imshow(picture)
        _outline(axes[0, column], item["mask"].numpy())
        _title(axes[0, column], f"{sample['defect']} · {predictions.scores[index]:.3g}")
        if predictions.maps is not None:
            axes[1, column].imshow(picture)
            axes[1, column].imshow(predictions.maps[index], cmap="inferno", vmin=low, vmax=high, alpha=0.6)
            _outline(axes[1, column], item["mask"].numpy())
    bar = None if predictions.maps is None else _colour_bar(figure, low, high)
    if title:
        figure.suptitle(title)
    return _placed(figure, axes, bar)


def _colour_bar(figure: Figure, low: float, high: float) -> Axes:
    """A bar of the heat maps' colours, opaque, in the unit of the maps."""
    scale = plt.cm.ScalarMappable(plt.Normalize(low, high), "inferno")
    bar = figure.colorbar(scale, cax=figure.add_axes((0, 0, 1, 1)), extend="both")
    bar.set_label("anomaly map", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return bar.ax


def show_segmentations(predictions: Predictions, indices: list[int], threshold: float) -> Figure:
    """Image with the ground truth outlined (upper row) and what lies above a threshold of the map (lower row)."""
    figure, axes = _grid(2, max(1, len(indices)))
    for (above, below), index in zip(axes.T, indices, strict=False):
        item = predictions.images[index]
        above.imshow(item["image"].permute(1, 2, 0).numpy())
        below.imshow(np.asarray(predictions.maps[index], np.float32) >= threshold, cmap="gray", vmin=0, vmax=1)
        for axis in (above, below):
            _outline(axis, item["mask"].numpy())
        _title(above, f"{predictions.samples.iloc[index]['defect']} · {predictions.scores[index]:.3g}")
    return _placed(figure, axes)


def show_illustrations(model, predictions: Predictions, indices: list[int]) -> Figure | None:
    """The pictures that a method makes on its way to its scores (Detector.illustrate), one column per sample.

    The images stand in the first row with the ground truth outlined, and one row per kind of picture below. They are
    what the detector looked at: of images with tiles the tile in which the map is highest. Images that do not fit into
    a GPU's memory together are illustrated in parts. None for a method that makes no pictures, and for no samples.
    """
    import torch

    if not indices:
        return None
    images = ImageSet(predictions.samples, **predictions.seen_settings)
    title = "image" if images.tile is None else f"its tile of {images.tile[0]} x {images.tile[0]} with the highest map"
    items = [_scored_item(images, index, predictions.maps) for index in indices]
    batch = torch.stack([item["image"] for item in items])

    def work(part: slice) -> dict[str, torch.Tensor]:
        pictures = model.illustrate(part_of(batch, part).to(model.device_))
        return {name: shown.float().cpu() for name, shown in pictures.items()}

    with torch.inference_mode():
        found = Parts().of(work, len(batch))  # in as many parts as the GPU's memory asks for
    pictures = {name: torch.cat([part[name] for part in found]) for name in found[0]}
    if not pictures:
        return None
    figure, axes = _grid(1 + len(pictures), len(indices))
    for row, (name, shown) in zip(axes, {title: batch, **pictures}.items(), strict=True):
        for axis, picture in zip(row, shown, strict=True):
            axis.imshow(picture.clamp(0, 1).permute(1, 2, 0).numpy())
        _title(row[0], name, loc="left")
    for axis, item in zip(axes[0], items, strict=True):
        _outline(axis, item["mask"].numpy())
    return _placed(figure, axes)


def _scored_item(images: ImageSet, index: int, maps: np.ndarray | None) -> dict:
    """The item of an ImageSet as a detector looked at it; of tiles the one in which the map float [H, W] is highest,
    where neighbours overlap that to which the tile counts more, and without maps the middle one.

    maps: of the images, or of as much of their middle as is judged.
    """
    if images.tile is None:
        return images[index]
    places, side = corners(images.whole, images.tile), images.tile[0]
    best = len(places) // 2
    if maps is not None:
        found = np.asarray(maps[index], np.float32)
        whole = np.full(images.whole, found.min(), np.float32)
        top, left = crop_corner(images.whole, found.shape)
        whole[top : top + found.shape[0], left : left + found.shape[1]] = found
        above = whole - whole.min()
        peaks = [(above[top : top + side, left : left + side] * share(images.tile)).max() for top, left in places]
        best = int(np.argmax(peaks))
    return ImageSet(images.samples.iloc[[index]], **images.settings).tiles()[best]


def score_histogram(predictions: Predictions, thresholds: dict[str, float] | None = None) -> Figure:
    """Image scores of normal and anomalous images; the overlap is what AUROC measures. Unknown ones, where there are
    some, stand in grey.

    thresholds: lines to draw, by what they are called; from a line on images are called anomalous.
    """
    figure, axis = plt.subplots(figsize=(7, 2.8), layout="constrained")
    # In float64: of scores that are equal but for their last digits float32 has too few numbers between.
    bins = np.histogram_bin_edges(predictions.scores.astype(float), 40)
    for label, name, colour in ((0, "normal", NORMAL), (1, "anomalous", ANOMALOUS), (UNKNOWN, "unknown", "0.6")):
        scores = predictions.scores[predictions.samples["label"] == label]
        if label == UNKNOWN and not len(scores):
            continue
        axis.hist(scores, bins, label=f"{name} ({len(scores)})", color=colour, alpha=0.6)
    for style, (name, threshold) in zip(cycle(("-", "--", ":")), (thresholds or {}).items(), strict=False):
        axis.axvline(threshold, color=INK, linestyle=style, label=f"{name}: {threshold:.4g}")
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(xlabel="image score", ylabel="images")
    axis.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return finish(figure)


def plot_grey_histogram(histograms: dict[str, np.ndarray], low: int, high: int) -> Figure:
    """Shares of grey levels 0..255, one line per histogram, the range low..high shaded. CXR-AD, Fig. 3."""
    figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
    axis.axvspan(low, high, color=INK, alpha=0.2, linewidth=0, label=f"{low} to {high}")
    for name, histogram in histograms.items():
        axis.plot(np.arange(256), histogram / max(1, histogram.sum()), label=name, linewidth=1.2)
    axis.set(xlabel="grey level", ylabel="share of pixels", xlim=(0, 255))
    axis.legend(frameon=False, fontsize=8)
    return finish(figure)


def plot_distribution(tables: dict[str, pd.DataFrame], column: str, xlabel: str, log: bool = False) -> Figure:
    """Histograms of one column of several tables, one above the other's axis. CXR-AD, Figs. 6 and 8."""
    parts = [table[[column]].assign(reading=name) for name, table in tables.items() if len(table)]
    if not parts:
        return _nothing(f"nothing whose {xlabel} there is")
    figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
    joined = pd.concat(parts, ignore_index=True)
    sns.histplot(joined, x=column, hue="reading", bins=30, log_scale=log, element="step", ax=axis)
    axis.get_legend().set_title("")
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set(xlabel=xlabel, ylabel="count")
    if log:
        plain_log(axis.xaxis)
    return finish(figure)


def plot_brightness(table: pd.DataFrame) -> Figure:
    """Mean grey level of images by category, training beside validation images, where there are some, and test: the
    shift of lighting. table: of `brightness`.
    """
    figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
    order = {
        "hue": "split",
        "hue_order": [split for split in ("train", "val", "test") if (table["split"] == split).any()],
    }
    sns.stripplot(table, x="category", y="mean", dodge=True, size=4.5, alpha=0.8, ax=axis, **order)
    axis.set(xlabel="", ylabel="mean grey level")
    return finish(figure)


def plot_shares(tables: dict[str, pd.DataFrame]) -> Figure:
    """The column `share` of several tables side by side, in percent. CXR-AD, Fig. 7."""
    figure, axis = plt.subplots(figsize=(7, 3), layout="constrained")
    joined = pd.concat([table.reset_index().assign(reading=name) for name, table in tables.items()], ignore_index=True)
    joined["percent"] = 100 * joined["share"]
    sns.barplot(joined, x=joined.columns[0], y="percent", hue="reading", ax=axis)
    axis.get_legend().set_title("")
    for bars in axis.containers:
        axis.bar_label(bars, fmt="%.0f", fontsize=8)
    axis.set(xlabel="", ylabel="percent of defects")
    return finish(figure)


def plot_grey_surface(
    image: str, grey: np.ndarray, mask: np.ndarray, window: tuple[float, float] | None = None
) -> Figure:
    """An image beside the grey-level surface of one of its defects. CXR-AD, Fig. 4. grey, mask: of `grey_peak` with the
    same window.
    """
    figure = plt.figure(figsize=(8.5, 3.6), layout="constrained")
    left = figure.add_subplot(1, 2, 1)
    left.imshow(read_grey(image, window), cmap="gray", vmin=0, vmax=255)
    left.axis("off")
    right = figure.add_subplot(1, 2, 2, projection="3d")
    y, x = np.mgrid[: grey.shape[0], : grey.shape[1]]
    colours = plt.get_cmap("viridis")((grey - grey.min()) / max(1e-6, np.ptp(grey)))
    colours[~mask] = colours[~mask] * 0.35 + 0.6  # pale outside the defect
    right.plot_surface(x, y, grey, facecolors=np.clip(colours, 0, 1), rcount=80, ccount=80, linewidth=0)
    right.set(xlabel="x", ylabel="y", zlabel="grey level")
    right.view_init(elev=45, azim=-60)
    for side in (right.xaxis, right.yaxis, right.zaxis):
        side.set_pane_color((0, 0, 0, 0))
    return finish(figure)
