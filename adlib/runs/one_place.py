"""One place: runs on data that were moved between them, or lie elsewhere on another machine, name the same images by
other paths.
"""

import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from adlib.hdf5 import file_and_inside
from adlib.predictions import Predictions
from adlib.runs.store import Store


def in_one_place(predictions: Iterable[Predictions]) -> list[Predictions]:
    """Predictions in their order; those of stored runs that have scored the same images, by the bytes of these, name
    them by the same paths: of the first of these runs whose images are where it says. So they do of the same masks.
    """
    found = list(predictions)
    scored = [_scored(each.folder) for each in found]
    alike = defaultdict(list)
    for at, each in enumerate(found):
        if "images" in scored[at]:
            alike[scored[at]["images"], len(each)].append(at)
    for places in alike.values():
        here = next((at for at in places if _is_here(found[at])), places[0])
        there = found[here].samples
        for at in places:
            samples = found[at].samples
            if (samples["image"].to_numpy() == there["image"].to_numpy()).all() or _below(samples) != _below(there):
                continue
            same_masks = scored[at].get("masks") == scored[here].get("masks")
            moved = {name: there[name].to_numpy() for name in ("image", "mask")[: 1 + same_masks]}
            found[at] = replace(found[at], samples=samples.assign(**moved))
    return found


def _scored(folder: Path | None) -> dict[str, str]:
    """The fingerprints of the files that a stored run has scored (adlib.samples.file_fingerprints); {} without any."""
    record = Store(folder.parent.parent).record(folder.parent.name) if folder is not None else None
    return (record or {}).get("data", {}).get("scored", {})


def _is_here(predictions: Predictions) -> bool:
    images = predictions.samples["image"]
    return bool(len(images)) and Path(file_and_inside(images.iat[0])[0]).is_file()


def _below(samples) -> list[str]:
    """The paths of images below the folder that all of them share."""
    images = samples["image"].tolist()
    base = os.path.commonpath([file_and_inside(image)[0].rpartition("/")[0] or "/" for image in images])
    return [os.path.relpath(image, base) for image in images]
