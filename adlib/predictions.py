"""Predictions: a score per image, a map per image, and the samples they belong to; and their evaluation."""

import json
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from adlib.datasets.folders import is_data
from adlib.errors import InputError
from adlib.file_hashes import file_hash
from adlib.files import read_json, write_text
from adlib.samples import OPTIONAL, check_columns, is_known

FILES = ("samples.csv", "settings.json", "maps.npy")  # of saved predictions; the last where there are maps
CHECKSUMS = "checksums.json"  # their hashes


@dataclass
class Predictions:
    """What a detector says about a set of images.

    scores: float32 [N], higher is more anomalous; the unit is the method's.
    maps: float32 [N, H, W], the same per pixel, or None for a method without maps.
    samples: the samples table, row i for scores[i].
    settings: of the ImageSet, such as size and crop: with them the ground truth can be read again.
    folder: where they were loaded from, or None.
    outlines: whether the maps outline defects (adlib.detector.Facts). Where not, they explain the score: they are for
        looking at, and no metric of pixels is defined.
    maps_dropped: whether there were maps that were not kept (`drop_maps`).
    seen: settings of the images that the detector looked at, where `settings` are of the part of them that it judges.
    """

    scores: np.ndarray
    maps: np.ndarray | None
    samples: pd.DataFrame
    settings: dict = field(default_factory=dict)
    folder: Path | None = None
    outlines: bool = True
    maps_dropped: bool = False
    seen: dict | None = None

    def __post_init__(self):
        self.scores = np.asarray(self.scores, np.float32)
        self.samples = check_columns(self.samples)
        if len(self.scores) != len(self.samples):
            raise InputError(f"{len(self.scores)} scores for {len(self.samples)} samples.")
        if self.maps is not None and len(self.maps) != len(self.samples):
            raise InputError(f"{len(self.maps)} maps for {len(self.samples)} samples.")

    def __len__(self) -> int:
        return len(self.scores)

    def select(self, rows) -> "Predictions":
        """The predictions of some samples. rows: a boolean mask or indices."""
        rows = np.flatnonzero(rows) if np.asarray(rows).dtype == bool else np.asarray(rows)
        maps = None if self.maps is None else self.maps[rows]
        return replace(self, scores=self.scores[rows], maps=maps, samples=self.samples.iloc[rows])

    @cached_property
    def known(self) -> "Predictions":
        """The predictions of the images whose label is known, which alone are counted; itself if all are."""
        known = is_known(self.samples)
        return self if known.all() else self.select(known)

    @property
    def judges_pixels(self) -> bool:
        """Whether there are maps that outline defects, so that pixels can be called by them and be counted."""
        return self.maps is not None and self.outlines

    @property
    def no_maps(self) -> str:
        """Why there are no maps, in a few words; "" where there are."""
        if self.maps is not None:
            return ""
        return "its maps were not kept" if self.maps_dropped else "the method gives no maps"

    @cached_property
    def images(self):
        """The ImageSet that was predicted on."""
        from adlib.images import ImageSet

        return ImageSet(self.samples, **self.settings)

    @property
    def seen_settings(self) -> dict:
        """Settings of the ImageSet that the detector looked at: `settings`, or with more around what is judged."""
        return self.settings if self.seen is None else self.seen

    @cached_property
    def masks(self) -> np.ndarray | None:
        """bool [N, H, W]: the ground truth at the maps' size, read once; None where an anomalous image lacks one."""
        return self.images.masks() if self.images.has_masks else None

    def save(self, folder: str | Path) -> Path:
        """Write scores and samples (samples.csv), maps (maps.npy), settings.json and checksums; returns the folder.

        Written beside and then renamed, so the folder is whole or absent; one with saved predictions is replaced.
        Raises InputError for a folder that holds anything else.
        """
        folder = Path(folder)
        _refuse_other_content(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            # float32 written with 9 digits reads back as the same float32.
            table = self.samples.assign(score=[f"{score:.9g}" for score in self.scores])
            table.to_csv(partial / "samples.csv", index=False)
            # Told even where it is the usual way: of a file without it, `load` takes the way there was before.
            settings = self.settings and {"mask_resize": "area"} | self.settings
            settings = settings if self.outlines else settings | {"outlines": False}
            settings = settings | {"maps_dropped": True} if self.maps_dropped else settings
            settings = settings if self.seen is None else settings | {"seen": self.seen}
            (partial / "settings.json").write_text(json.dumps(settings))
            if self.maps is not None:
                np.save(partial / "maps.npy", np.asarray(self.maps, np.float32))
            seal(partial)
            partial.chmod(0o755)
            if folder.exists():
                shutil.rmtree(folder)
            partial.replace(folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "Predictions":
        """Read what `save` wrote; maps are memory-mapped. Raises InputError for another or a damaged folder, and names
        the file whose content is not what was saved (checksums.json; predictions of versions before that have none).
        """
        folder = Path(folder)
        for name in (*FILES, CHECKSUMS):
            if (folder / name).exists() and not (folder / name).is_file():  # a pipe would be waited for
                raise InputError(f"{folder} does not hold predictions saved by adlib: {name} is no file.")
        if changed := changed_file(folder):
            raise InputError(f"{changed}, so it is not what the detector said: predict again, or do the run again.")
        try:
            text = {name: str for name in ("image", "mask", "split", "category", "group", "defect", *OPTIONAL)}
            table = pd.read_csv(folder / "samples.csv", dtype=text | {"label": "int8"}, keep_default_na=False)
            settings = read_json(folder / "settings.json")
            if not isinstance(settings, dict):
                raise InputError("settings.json holds no object")
            outlines, dropped = bool(settings.pop("outlines", True)), bool(settings.pop("maps_dropped", False))
            seen = settings.pop("seen", None)
            settings = settings and {"mask_resize": "nearest"} | settings  # the only way there was before it was told
            maps_file = folder / "maps.npy"
            maps = np.load(maps_file, mmap_mode="r") if maps_file.exists() else None
            scores = table.pop("score").to_numpy(np.float32)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder} does not hold predictions saved by adlib: {str(error).rstrip('.')}.") from error
        return cls(scores, maps, table, settings, folder, outlines, dropped, seen)


def drop_maps(folder: Path) -> None:
    """Delete the maps of saved predictions, if there are some, and leave word that there were."""
    if (folder / "maps.npy").exists():
        settings = read_json(folder / "settings.json") | {"maps_dropped": True}
        write_text(folder / "settings.json", json.dumps(settings))
        (folder / "maps.npy").unlink()
        seal(folder)


def _refuse_other_content(folder: Path) -> None:
    """Raise InputError for a file, and for a folder with more in it than predictions and what systems leave behind:
    saving replaces the whole folder.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file, where a folder is to be written: choose another place.")
    own = (*FILES, CHECKSUMS)
    if others := sorted(file.name for file in folder.iterdir() if file.name not in own and is_data(file.name)):
        raise InputError(f"{folder} holds {others[0]}, which is no part of predictions: choose a folder of their own.")


def seal(folder: Path) -> None:
    """Write the hashes of the files of saved predictions beside them."""
    hashes = {name: file_hash(folder / name) for name in FILES if (folder / name).exists()}
    write_text(folder / CHECKSUMS, json.dumps(hashes, indent=1))


def changed_file(folder: Path) -> str:
    """Which file of saved predictions has changed since, or is gone, as the beginning of a sentence; "" if none.

    The first time it reads them all, and a few per mille of that once it knows them (adlib.file_hashes).
    """
    if not (folder / CHECKSUMS).exists():
        return ""
    hashes = read_json(folder / CHECKSUMS)
    if not isinstance(hashes, dict):
        return f"{folder / CHECKSUMS} is damaged"
    for name in FILES:
        if (folder / name).exists() != (name in hashes):
            return f"{folder / name} is {'gone' if name in hashes else 'new'} since it was saved"
        if name in hashes and file_hash(folder / name) != hashes[name]:
            return f"{folder / name} has changed since it was saved"
    return ""


def oracle_threshold(predictions: Predictions) -> float | None:
    """The threshold of best F1 on these very images, an oracle; None where they are of one kind alone."""
    from adlib.metrics import threshold_best_f1

    known = predictions.known
    threshold = threshold_best_f1(known.samples["label"].to_numpy(), known.scores)
    return None if np.isnan(threshold) else float(threshold)


def evaluate(predictions: Predictions, masks: np.ndarray | None = None, pro_variants: Iterable[str] = ()) -> dict:
    """All ranking metrics of a set of predictions, image and pixel level.

    Images whose label is unknown are left out. masks: bool [N, H, W] ground truth at the maps' size, of all images;
    None reads the mask files. pro_variants: names of further
    definitions of PRO (adlib.metrics.PRO_LABELS) that are computed as well, for a paper that used them.
    Returns image_auroc, image_ap, image_f1max, pixel_auroc, pixel_ap, pixel_f1max, aupro (limit 0.3), as floats
    between 0 and 1, and NaN where undefined; `reasons` then says why, per metric. Where aupro is defined,
    `aupro_regions` says over how many defect regions it is taken.
    """
    from adlib.metrics import image_metrics, pixel_metrics, pro_variant

    if not isinstance(predictions, Predictions):
        given = type(predictions).__name__
        raise InputError(f"evaluate takes Predictions, which predict returns and Predictions.load reads, not {given}.")
    if (known := predictions.known) is not predictions:
        masks = None if masks is None else np.asarray(masks)[is_known(predictions.samples)]
        return evaluate(known, masks, pro_variants)
    values = image_metrics(predictions.samples["label"].to_numpy(), predictions.scores)
    reasons = values.pop("reasons", {})
    pixel_names = ("pixel_auroc", "pixel_ap", "pixel_f1max", "aupro", *pro_variants)
    missing = ""
    if predictions.maps is None:
        missing = predictions.no_maps
    elif not predictions.outlines:
        missing = "the method's maps explain its score and outline nothing"
    elif masks is None and (masks := predictions.masks) is None:
        missing = "not every anomalous image has a mask"
    if missing:
        values |= dict.fromkeys(pixel_names, float("nan"))
        reasons |= dict.fromkeys(pixel_names, missing)
    else:
        pixel_values = pixel_metrics(masks, predictions.maps, regions=True)
        reasons |= pixel_values.pop("reasons", {})
        values |= pixel_values
        labels = predictions.samples["label"].to_numpy()
        for name in pro_variants:
            found = pro_variant(name, masks, predictions.maps, labels, predictions.scores)
            reasons |= found.pop("reasons", {})
            values |= found
    return values | ({"reasons": reasons} if reasons else {})
