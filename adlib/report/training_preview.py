"""Training preview: the pictures that a method's training sees, because synthetic anomalies are where it goes wrong."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from IPython.display import HTML

from adlib.figure_style import finish
from adlib.report.tables import read_plan
from adlib.runs.record import FINISHED
from adlib.runs.run import Run
from adlib.runs.store import Store

if TYPE_CHECKING:  # the other reports need neither torch nor matplotlib
    from matplotlib.figure import Figure

    from adlib.detector import Detector
    from adlib.images import ImageSet


def training_preview(model: "Detector", images: "ImageSet", count: int = 6, seed: int = 0) -> "Figure":
    """Normal image, mask and what the network sees of it, one column for each of some training images.

    model: a detector, fitted or not. images: what it is fitted on, of images with tiles these. count: how many, chosen
    at random. seed: of the fit, whose first epoch sees exactly these pictures; DeSTSeg's first stage does.
    Methods that synthesise features instead of pictures say so below. Their blobs, if they have any, are like those of
    the training, not the same ones. A method without synthetic images shows its images.
    """
    import matplotlib.pyplot as plt

    first = "image" if images.tile is None else f"tile of {images.tile[0]} x {images.tile[0]}"
    images = images.tiles()
    chosen = sorted(np.random.default_rng(seed).permutation(len(images))[:count].tolist())
    note = getattr(model, "feature_synthesis", "")
    if hasattr(model, "synthetic_images"):
        synthetic = model.synthetic_images(images, seed)
        items = [synthetic[index] for index in chosen]
        rows = [first, "mask", "what the network sees"]
        if all(item["image"].equal(item["normal"]) for item in items) and note:
            rows.pop()
    else:
        items = [{"normal": images.pixels(index)} for index in chosen]
        rows = [first]
        note = note or f"{model.name} offers no synthetic images to show: it is fitted on images like these."

    figure, axes = plt.subplots(
        len(rows), len(items), figsize=(1.9 * len(items), 2.0 * len(rows) + 0.3), squeeze=False, layout="constrained"
    )
    for column, item in enumerate(items):
        pictures = [item["normal"], item.get("mask"), item.get("image")][: len(rows)]
        for axis, picture in zip(axes[:, column], pictures, strict=True):
            shown = picture.permute(1, 2, 0) if picture.ndim == 3 else picture
            axis.imshow(shown.numpy(), cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
        if "mask" in item:
            share = float(item["mask"].float().mean())
            axes[0, column].set_title(f"{share:.1%} anomalous" if share else "normal", fontsize=8)
    for axis, name in zip(axes[:, 0], rows, strict=True):
        axis.set_ylabel(name, fontsize=8)
    if note:
        figure.supxlabel(note, fontsize=8)
    return finish(figure)


def paper_training_preview(paper: str, method: str, out: str | Path, count: int = 6) -> "Figure | HTML":
    """`training_preview` of a method's first finished run behind a paper's tables; a sentence where there is none."""
    store = Store(Path(out) / "runs")
    for cell in (read_plan(paper, out) or {"cells": []})["cells"]:
        record = store.record(cell["key"]) if cell["method"] == method and cell["key"] else None
        if record and record["status"] == FINISHED:
            run = Run(**record["run"])
            return training_preview(run.create_model(), run.images("train"), count, run.seed)
    return HTML(f"<p>No run of {method} for these tables is done: there is no training to look at.</p>")
