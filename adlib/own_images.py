"""Images of one's own: a detector from a folder, with a threshold that says what it promises; its speed on a line.

Benchmarks crop and stretch as their papers did. One's own images are seen whole, with their proportions: crop=None,
fit="pad", unless the settings say otherwise.
"""

import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import cv2
import numpy as np
import pandas as pd

from adlib import screening
from adlib.datasets import left_out
from adlib.datasets.folders import folders_in, images_in, need_no_masks_beside
from adlib.datasets.folders import left_out as left_out_below
from adlib.decoding.pictures import image_shape
from adlib.detector import BUNDLED
from adlib.errors import InputError
from adlib.files import write_bytes
from adlib.images import ImageSet
from adlib.models import model_class
from adlib.parameters import Range, checked
from adlib.runs import Run
from adlib.runs.run import data_warnings
from adlib.runs.settings import given_settings
from adlib.samples import UNKNOWN, is_copy, is_picture, make_samples, name_items, picture_hashes, select
from adlib.training_set import choose_training_images

WHOLE = {"crop": None, "sides": "both", "fit": "pad"}  # nothing is cut off, nothing is squashed
METHOD = "patchcore"


def whole_image_settings(method: str, settings: dict | None = None) -> dict:
    """Settings of a run that sees images whole: the given ones, and of WHOLE those that are not among them.

    settings: of the run; those of its method are left as they are. A side that the method's networks do not take
    without its crop becomes the crop's. With sides="shorter" images are meant to be cut: then nothing is added.
    """
    given = dict(given_settings(settings))
    if given.get("sides") == "shorter":
        return given
    settings = WHOLE | given
    if "size" not in settings and settings["crop"] is None:
        kind = model_class(method)
        size, crop = kind.image_defaults["size"], kind.image_defaults["crop"]
        fits = crop is None or np.all(np.asarray(size) % kind.side_multiple == 0)
        settings["size"] = size if fits else crop
    return settings


def own_run(
    folder: str | Path, method: str = METHOD, settings: dict | None = None, seed: int = 0, device="auto"
) -> Run:
    """The run of a folder of one's own, on whole images."""
    return Run(
        "folder", str(Path(folder).expanduser()), method, "", whole_image_settings(method, settings), seed, device
    )


def own_samples(run: Run) -> pd.DataFrame:
    """The run's samples; of a folder that holds nothing but pictures, all of them as normal ones to learn from: the
    run's settings name their items, and choose among them, as in a tree.

    Raises InputError for several categories: one detector is for one kind of part; and of a folder of nothing but
    pictures for settings that speak of folders and masks.
    """
    root = Path(run.root)
    if pictures := _flat_pictures(run):
        if meant_for_trees := sorted(run.data_settings.keys() - {"items"}):
            raise InputError(
                f"{', '.join(meant_for_trees)}: {root} holds nothing but pictures, which are all normal, and neither "
                "folders nor masks to read otherwise: leave it out."
            )
        need_no_masks_beside(pictures)
        rows = [{"image": str(picture), "split": "train", "category": root.name} for picture in pictures]
        samples = name_items(make_samples(rows, root), run.data_settings.get("items"))
        return choose_training_images(samples, run.seed, **run.training_settings)
    samples = run.samples
    if (names := sorted(set(samples["category"]))) and len(names) > 1:
        raise InputError(f"{root} holds {len(names)} kinds of parts ({', '.join(names[:5])}): fit each by itself.")
    return samples


def _flat_pictures(run: Run) -> list[Path]:
    """The pictures of a run's folder, if there are no folders of data inside, and no two folders named; else []."""
    root, two_folders = Path(run.root), run.data_settings.keys() & {"normal", "abnormal"}
    return images_in(root) if root.is_dir() and not two_folders and not folders_in(root) else []


def own_warnings(run: Run, samples: pd.DataFrame | None = None) -> list[str]:
    """What a reader must know of the data before believing what was learned, as `Run.warnings` has it: phantom data,
    pictures that were not read, items in training and test. samples: as `own_samples` gave them, if they are there.
    """
    samples = own_samples(run) if samples is None else samples
    copies = _copies_said(samples)
    if pictures := _flat_pictures(run):
        unread = left_out_below(Path(run.root), map(str, pictures))
    else:
        unread = left_out(run.dataset, run.root, run.loaded_samples, run.category or None, run.data_settings)
    return [*data_warnings(samples, "your images", unread), *copies]


def _for_threshold(samples: pd.DataFrame) -> pd.DataFrame:
    """The normal images of train, val and test, in this order, each once: a detector that has learned an image knows
    its copy, and a copy is no further image of which anything could be promised.
    """
    normal = pd.concat([select(samples, split=split, label=0) for split in ("train", "val", "test")], ignore_index=True)
    return normal[~is_copy(normal)].reset_index(drop=True)


def _copies_said(samples: pd.DataFrame) -> list[str]:
    """A sentence if normal images are copies of one another."""
    normal = samples[(samples["label"] == 0) & is_picture(samples)]
    lacking = sorted(set(normal["image"]) - set(_for_threshold(samples)["image"]))
    if not lacking:
        return []
    number = (
        f"{len(lacking)} of {len(normal)} normal images are copies of others"
        if len(lacking) > 1
        else f"One of {len(normal)} normal images is a copy of another"
    )
    return [f"{number}, byte by byte, such as {lacking[0]}: for the threshold each picture counts once."]


def model_warnings(model) -> list[str]:
    """The warnings of a detector of one's own images: of bundled weights without the paper, which nobody reproduces."""
    papers, own = (BUNDLED.format(whose) for whose in ("the paper's were", "the method's default are"))
    return [own if sentence == papers else sentence for sentence in model.warnings]


def nothing_to_judge(folder: str | Path, images: ImageSet) -> str:
    """A sentence where there are no images to be judged, which says where they belong; "" where there are some."""
    belong = "put those to be judged into test/unsorted, normal ones into train/good."
    return "" if len(images) else f"{folder} has no test images: {belong}"


def rate_and_folds(quantile: float, held_out: float) -> tuple[float, int]:
    """What `fit_own` is told for the share of normal images that shall pass, and the share that is kept from learning
    at a time: no more than half, since each image is kept once. Raises InputError, with the name, for other numbers.
    """
    between, at_most_half = (Annotated[float, Range(0, high, above=True, below=high == 1)] for high in (1, 0.5))
    return 1 - checked("quantile", quantile, between), round(1 / checked("held_out", held_out, at_most_half))


def fit_own(run: Run, rate: float = 0.05, folds: int = 4, progress: bool = True):
    """A detector fitted on all normal training images of a run, with its threshold in `threshold_`; what the held-out
    images scored (adlib.screening.HeldOut); and the samples.

    rate: of false alarms among normal images, on average. folds: parts of cross-fitting (adlib.screening.cross_fit);
    where the folder has normal images in val, these decide, and the detector is fitted once. As the threshold needs
    images that the detector has not seen, fit is given none of them. Raises InputError for settings that
    `Run.check_settings` refuses, and for what a folder of one's own cannot give: other data sets, test images to choose
    the epoch by.
    """
    run.check_settings()
    _check_learns_here(run)
    samples = own_samples(run)
    screening.images_needed(rate)  # a wrong rate is said before anything is learned
    once = _for_threshold(samples)
    training, normal = select(samples, split="train"), select(once, split="val")
    if normal.empty:
        held = screening.cross_fit(run.create_model, once, run.image_settings, folds, run.seed, run.device, progress)
    model = run.create_model().fit(
        ImageSet(training, **run.image_settings), device=run.device, seed=run.seed, progress=progress
    )
    if not normal.empty:
        held = screening.scores_of(model, normal, run.image_settings, run.device, progress)
    model.threshold_, model.category_ = screening.choose_threshold(held, rate).plain(), samples["category"].iat[0]
    if model.facts.joint != "no target":  # then it has learned nothing from these
        model.learned_files = sorted(set(picture_hashes(training)))
    return model, held, samples


def _check_learns_here(run: Run) -> None:
    """Raise InputError for a method that would not learn from the normal images of the folder alone."""
    parameters = run.create_model().parameters
    if run.auxiliary_roots:
        names = ", ".join(name for name, _ in run.auxiliary_roots)
        learned = ", or set prompts to a file of learned ones" if "prompts" in parameters else ""
        raise InputError(
            f"{run.method} learns from other data sets ({names}), which `adlib fit` does not read: take `adlib run`, "
            f"which does{learned}."
        )
    if parameters.get("selection") == "test":
        raise InputError(
            "selection='test' chooses the epoch by test images, which `adlib fit` does not learn from: leave it out, "
            "or take `adlib run`, which does."
        )


def new_threshold(
    model, folder: str | Path, rate: float, device: str = "auto", progress: bool = True, items: str | None = None
):
    """Choose the threshold of a fitted detector anew, on normal images that it has not seen: adlib.screening.Threshold.

    folder: pictures of normal parts; or a tree, whose normal images in val count, else those in test. items: a regular
    expression that finds in a file's name what it shows, where parts are photographed several times
    (adlib.samples.name_items): the promise then is of items.
    """
    _need_images_settings(model)
    samples = own_samples(Run("folder", str(Path(folder).expanduser()), model.name, settings={"items": items}))
    samples = samples.assign(category="")  # whatever the folder is called, they show what the detector has learned
    if set(samples["split"]) != {"train"}:
        samples = _for_threshold(samples)
        parts = [select(samples, split=split) for split in ("val", "test")]
        samples = next((part for part in parts if len(part)), None)
        if samples is None:
            raise InputError(f"{folder} holds no normal images in val or test: the detector has seen those in train.")
    samples = _for_threshold(samples)
    held = screening.scores_of(model, samples, model.images_, device, progress)
    found = screening.choose_threshold(replace(held, how=_how_held_out(model, samples)), rate)
    model.threshold_ = found.plain()
    return found


def _how_held_out(model, samples: pd.DataFrame) -> str:
    """Whether the detector has learned any of these images, as far as its file tells, in words."""
    if model.learned_files is None:
        return "which it must not have learned"
    known = set(model.learned_files)
    learned = sum(name in known for name in picture_hashes(samples))
    if not learned:
        return "held out of learning"
    return f"{learned} of which it has learned, so that the threshold is too low: take images that it has not seen"


def _need_images_settings(model) -> None:
    if model.images_ is None:
        raise InputError("This detector was saved by an adlib that did not keep how images are prepared: fit it anew.")


def bench(
    model, samples: pd.DataFrame | None, number: int = 50, warm: int = 5, device: str = "cpu"
) -> dict[str, float]:
    """Milliseconds from an image's file to its score and map, one image at a time: p50, p95, and the mean; and width
    and height of the first image in pixels.

    samples: the images, taken again and again; None for drawn ones of the size that the detector looks at, so that
    resizing larger pictures comes on top. number: how many are timed, after `warm` that are not.
    """
    _need_images_settings(model)
    with TemporaryDirectory() as folder:
        if samples is None:
            samples = _drawn(tuple(model.images_["size"]), Path(folder))
        height, width = image_shape(samples["image"].iat[0])
        seconds = []
        for index in range(warm + number):
            row = index % len(samples)
            start = time.perf_counter()
            one = ImageSet(samples.iloc[row : row + 1], **model.images_)
            model.predict(one, device=device, batch_size=1, progress=False)
            seconds.append(time.perf_counter() - start)
    timed = 1000 * np.array(seconds[warm:])
    found = {
        "p50": float(np.percentile(timed, 50)),
        "p95": float(np.percentile(timed, 95)),
        "mean": float(timed.mean()),
    }
    return found | {"width": width, "height": height}


def _drawn(size: tuple[int, int], folder: Path, number: int = 8) -> pd.DataFrame:
    """Samples of drawn pictures, noise upon noise, as PNG in a folder."""
    generator = np.random.default_rng(0)
    rows = []
    for index in range(number):
        coarse = cv2.resize(generator.random((8, 8, 3), np.float32), size[::-1], interpolation=cv2.INTER_CUBIC)
        picture = (255 * (0.9 * coarse + 0.1 * generator.random((*size, 3), np.float32))).clip(0, 255).astype(np.uint8)
        write_bytes(folder / f"{index}.png", cv2.imencode(".png", picture)[1].tobytes())
        rows.append({"image": str(folder / f"{index}.png"), "label": UNKNOWN, "split": "test"})
    return make_samples(rows, folder)
