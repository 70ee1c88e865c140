"""Findings: what a detector says of images, written to files one image after the other, whatever their number.

scores.csv     a line per image: image, score, threshold, anomalous, regions, error
scores.json    the same, with the regions of each image: box, area, score
regions.csv    a line per region: image, left, top, width, height, area, score
maps/          NAME.tiff, the map over the picture, float32; NAME.png, the picture with the map as heat
masks/         NAME.png, 255 where the map reaches the threshold

Boxes, areas, maps and masks are in pixels of the picture at full size, turned as its EXIF or TIFF orientation asks.
"""

import csv
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import cv2
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from adlib.datasets.folders import IMAGE_SUFFIXES, MASK_FOLDERS, OTHER_SUFFIXES, is_data, is_named
from adlib.decoding import resizing
from adlib.decoding.pictures import image_shape, read_image
from adlib.detector import choose_device
from adlib.errors import InputError
from adlib.files import check_writable, is_unicode, replacing
from adlib.images import ImageSet
from adlib.samples import UNKNOWN, make_samples

CHUNK = 16  # images whose maps are in memory at a time
TABLES = ("scores.csv", "regions.csv", "scores.json")
PICTURES = ("maps", "masks")  # folders
SCORES = ("image", "score", "threshold", "anomalous", "regions", "error")
REGIONS = ("left", "top", "width", "height", "area", "score")


@dataclass(frozen=True)
class Summary:
    """images: how many were looked at; anomalous: called so; unreadable: of which nothing could be said."""

    images: int
    anomalous: int
    unreadable: int


def list_images(places: Iterable[str | Path]) -> pd.DataFrame:
    """Samples of unknown label: the files, and all pictures below the folders, each once. Links are followed.

    What `write_findings` left below a folder is none of its pictures. `passed_over` says what else is not read. Raises
    InputError for a place that does not exist, and where there is no picture.
    """
    found, places = {}, [Path(place).expanduser() for place in places]
    for place in places:
        if place.is_dir():
            for folder, files in _folders_below(place):
                pictures = [file for file in files if Path(file).suffix.lower() in IMAGE_SUFFIXES]
                found |= dict.fromkeys(str((folder / picture).resolve()) for picture in pictures)
        elif place.is_file():
            found[str(place.resolve())] = None
        else:
            raise InputError(f"{place} does not exist: give images, or folders of images.")
    where = ", ".join(map(str, places[:3]))
    return make_samples([{"image": image, "label": UNKNOWN, "split": "test"} for image in found], where)


def passed_over(places: Iterable[str | Path]) -> list[str]:
    """A sentence per folder in which pictures lie that `list_images` does not read, for their suffix is not known; and
    per folder below that is called as those of masks are, whose pictures it does read.
    """
    known, texts, masks = ", ".join(sorted(IMAGE_SUFFIXES)), [], {}
    for place in (Path(place).expanduser() for place in places):
        for folder, files in _folders_below(place) if place.is_dir() else ():
            others = [file for file in files if Path(file).suffix.lower() in OTHER_SUFFIXES]
            if others:
                number = f"{len(others)} pictures are" if len(others) > 1 else "A picture is"
                texts.append(
                    f"{number} not read: {folder / others[0]} has another suffix than {known}: convert it, or name it."
                )
            below = folder.relative_to(place).parts
            named = [number for number, part in enumerate(below) if is_named(part, MASK_FOLDERS)]
            if named and any(Path(file).suffix.lower() in IMAGE_SUFFIXES for file in files):
                masks[place.joinpath(*below[: named[0] + 1])] = None
    return texts + [f"{folder} is called as folders of masks are: what is in it is judged, too." for folder in masks]


def _folders_below(place: Path) -> Iterator[tuple[Path, list[str]]]:
    """(folder, its files that may be data, sorted) of a folder and all below it, each once though links may lead in a
    circle; without the maps and masks of earlier findings.
    """
    seen = set()
    for name, below, files in os.walk(place, followlinks=True):
        real = os.path.realpath(name)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        written = PICTURES if set(TABLES) <= set(files) else ()
        below[:] = sorted(child for child in below if is_data(child) and child not in written)
        yield Path(name), [file for file in sorted(files) if is_data(file)]


def map_on_picture(values: np.ndarray, shape: tuple[int, int], settings: dict) -> np.ndarray:
    """A map laid over its picture: float32 [*shape], bilinear; NaN where the detector has not looked (a crop).

    values: float [h, w]. shape: (H, W) of the picture. settings: of the ImageSet.
    """
    left, top, right, bottom = resizing.frame(shape, settings)
    across = _places(shape[1], left, right, values.shape[1])
    down = _places(shape[0], top, bottom, values.shape[0])
    grid_x, grid_y = np.meshgrid(across, down)
    laid = cv2.remap(
        np.ascontiguousarray(values, np.float32), grid_x, grid_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    outside = 0.5 + 1e-3
    laid[(down < -outside) | (down > values.shape[0] - 1 + outside)] = np.nan
    laid[:, (across < -outside) | (across > values.shape[1] - 1 + outside)] = np.nan
    return laid


def _places(side: int, low: float, high: float, pixels: int) -> np.ndarray:
    """Where the centres of a picture's pixels lie along one side of the map, in its pixels: float32 [side]."""
    shares = (np.arange(side) + 0.5) / side
    return ((shares - low) / (high - low) * pixels - 0.5).astype(np.float32)


def find_regions(laid: np.ndarray, threshold: float) -> list[dict]:
    """The 8-connected regions where a map reaches the threshold, the highest score first.

    laid: float [H, W]. Each: left, top, width, height of its box and its area, in pixels; score, its highest value.
    """
    with np.errstate(invalid="ignore"):
        mask = laid >= threshold
    number, regions, boxes, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
    found = []
    for region in range(1, number):
        left, top, width, height, area = map(int, boxes[region])
        part = (slice(top, top + height), slice(left, left + width))
        score = float(laid[part][regions[part] == region].max())
        found.append(dict(zip(REGIONS, (left, top, width, height, area, score), strict=True)))
    return sorted(found, key=lambda region: -region["score"])


def write_findings(
    model, samples: pd.DataFrame, out: str | Path, maps: bool = True, device: str = "auto", progress: bool = True
) -> Summary:
    """Score images and write all that is found into a folder; a chunk of them is in memory at a time.

    model: fitted or loaded; its threshold decides, and without one nothing is called anomalous. maps: write maps and
    masks too. An image that cannot be read has its reason in the column `error`, and the others are done.
    The tables appear when all is done. Maps and masks of images that the tables in their place named, and that were not
    written anew, are deleted with these: they are another detector's, or other images'.
    Raises InputError for a detector whose file does not say how images are prepared, or that gives no finite numbers;
    for a device that is not here; and where maps would be written among the images, or would replace files that are no
    findings.
    """
    if model.images_ is None:
        raise InputError("This detector was saved by an adlib that did not keep how images are prepared: fit it anew.")
    model.check_fitted()
    choose_device(device)  # what is wrong with it is no image's fault
    out, threshold = Path(out), model.threshold_ or {}
    _refuse_own_pictures(samples, out if maps else None)
    names, counts = file_names(samples["image"]), [0, 0]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be made: {error.strerror}.") from error
    _refuse_others(out, names if maps else [])
    earlier, written = _earlier(out), set()
    with ExitStack() as stack:
        opened = {name: stack.enter_context(_table(out / name)) for name in TABLES}
        scores, regions = (csv.writer(opened[name]) for name in ("scores.csv", "regions.csv"))
        scores.writerow(SCORES)
        regions.writerow(("image", *REGIONS))
        about = {"method": model.name, "images": model.images_, "threshold": model.threshold_}
        opened["scores.json"].write(json.dumps(about)[:-1] + ', "findings": [')
        with tqdm(total=len(samples), desc=f"{model.name} predict", unit="image", disable=not progress) as bar:
            for row, found in _findings(model, samples, device):
                image = samples["image"].iat[row]
                said = _one(image, found, threshold, model.images_, out / "maps" if maps else None, names[row])
                if maps and not said["error"]:
                    written |= _pictures(out, names[row], found.maps is not None, threshold.get("map") is not None)
                opened["scores.json"].write((",\n" if row else "\n") + json.dumps(said))
                each = said | {"regions": len(said["regions"])}
                scores.writerow([each[name] for name in SCORES])
                regions.writerows([said["image"], *region.values()] for region in said["regions"])
                counts[0] += bool(said["anomalous"])
                counts[1] += bool(said["error"])
                bar.update()
        opened["scores.json"].write("\n]}\n")
        for file in earlier - written:
            file.unlink(missing_ok=True)
    return Summary(len(samples), *counts)


def _refuse_own_pictures(samples: pd.DataFrame, out: Path | None) -> None:
    """Raise InputError for an image that lies where maps and masks will be written: it is one, or would be replaced."""
    places = [] if out is None else [(out / name).resolve() for name in PICTURES]
    for image in samples["image"]:
        if any(place in Path(image).parents for place in places):
            raise InputError(f"{image} lies where maps and masks are written: choose another place than {out}.")


def _refuse_others(out: Path, names: list[str]) -> None:
    """Raise InputError for a file that would be replaced and is none of ours: a table of another kind, a mask or a
    picture of a map without the map itself, which is written first.

    names: of `file_names`, where maps and masks are written.
    """
    for name in TABLES:
        check_writable(out / name, "findings")
    for name in names:
        for file in (out / "maps" / f"{name}.png", out / "masks" / f"{name}.png"):
            if file.exists() and not (out / "maps" / f"{name}.tiff").exists():
                raise InputError(f"{file} is there and no finding of adlib's: it would be lost. Choose another place.")


def _earlier(out: Path) -> set[Path]:
    """The maps and masks of the findings that lie in a folder, as its scores.csv names them; without one none."""
    try:
        with (out / "scores.csv").open(encoding="utf-8", newline="") as table:
            images = [row["image"] for row in csv.DictReader(table)]
        names = [name for name in file_names(images) if ".." not in Path(name).parts]
    except (OSError, ValueError, KeyError, TypeError, csv.Error):  # nothing there, or edited into something else
        return set()
    return set().union(*(_pictures(out, name) for name in names if (out / "maps" / f"{name}.tiff").exists()))


def _pictures(out: Path, name: str, maps: bool = True, masks: bool = True) -> set[Path]:
    """The files of one image's map and mask."""
    of_map = {out / "maps" / f"{name}.tiff", out / "maps" / f"{name}.png"}
    return (of_map if maps else set()) | ({out / "masks" / f"{name}.png"} if maps and masks else set())


@contextmanager
def _table(file: Path) -> Iterator[TextIO]:
    """A table to write, which appears when all is done."""
    with replacing(file) as partial, partial.open("w", encoding="utf-8", newline="") as opened:
        yield opened


def _findings(model, samples: pd.DataFrame, device: str) -> Iterator[tuple[int, object]]:
    """(row, predictions of this one image or the InputError that it raised) over all images in their order."""
    for start in range(0, len(samples), CHUNK):
        chunk = samples.iloc[start : start + CHUNK]
        try:
            found = model.predict(ImageSet(chunk, **model.images_), device=device, progress=False)
            yield from ((start + index, found.select([index])) for index in range(len(chunk)))
        except InputError:
            for index in range(len(chunk)):  # the chunk's other images shall not suffer for one
                try:
                    one = ImageSet(chunk.iloc[index : index + 1], **model.images_)
                    yield start + index, model.predict(one, device=device, progress=False)
                except InputError as error:
                    yield start + index, error


def _one(image: str, found, threshold: dict, settings: dict, folder: Path | None, name: str) -> dict:
    """What is said of one image, and its pictures written."""
    limit = threshold.get("score")
    said = {"image": _unicode(image), "score": None, "threshold": limit, "anomalous": None, "regions": [], "error": ""}
    if isinstance(found, InputError):
        return said | {"error": _unicode(str(found))}
    if not (np.isfinite(found.scores).all() and (found.maps is None or np.isfinite(found.maps).all())):
        raise InputError(
            f"The detector's score or map of {image} is no finite number: what it learned is damaged, or its training "
            "went astray; fit it anew."
        )
    said["score"] = float(found.scores[0])
    said["anomalous"] = None if limit is None else bool(said["score"] >= limit)
    if found.maps is None:
        return said
    laid = map_on_picture(found.maps[0], image_shape(image), settings)
    if threshold.get("map") is not None:
        said["regions"] = find_regions(laid, threshold["map"])
    if folder is not None:
        _write_picture(folder / f"{name}.tiff", laid)
        _write_picture(folder / f"{name}.png", _heat(image, laid, threshold, settings))
        if threshold.get("map") is not None:
            with np.errstate(invalid="ignore"):
                mask = 255 * (laid >= threshold["map"]).astype(np.uint8)
            _write_picture(folder.with_name("masks") / f"{name}.png", mask)
    return said


def _unicode(text: str) -> str:
    """A text as tables can hold it: bytes of a file's name that are no Unicode are spelled out."""
    return text if is_unicode(text) else text.encode("utf-8", "backslashreplace").decode()


def _heat(image: str, laid: np.ndarray, threshold: dict, settings: dict) -> np.ndarray:
    """The picture, grey, with the map over it: uint8 [H, W, 3] BGR. Colours begin at the usual and end at twice the
    threshold's height above it, the same for all images; without a threshold, at the map's own ends.
    """
    picture = read_image(image, settings.get("window"))
    if picture.dtype != np.uint8:
        picture = (picture / np.iinfo(picture.dtype).max * 255).astype(np.uint8)
    if picture.ndim == 3:
        picture = cv2.cvtColor(np.ascontiguousarray(picture[..., :3]), cv2.COLOR_RGB2GRAY)
    low, high = threshold.get("usual"), threshold.get("map")
    if low is None or high is None:
        low, high = float(np.nanmin(laid)), float(np.nanmax(laid))
    else:
        high = low + 2 * (high - low)
    share = np.nan_to_num(np.clip((laid - low) / ((high - low) or 1), 0, 1))
    colours = cv2.applyColorMap((share * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    return cv2.addWeighted(cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR), 0.5, colours, 0.5, 0)


def _write_picture(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    done, encoded = cv2.imencode(file.suffix, pixels)
    if not done:
        raise InputError(f"{file} cannot be written: no such picture has the form {file.suffix}.")
    with replacing(file) as partial:
        partial.write_bytes(encoded.tobytes())


def file_names(images: Iterable[str]) -> list[str]:
    """A name below a folder for what is written of each image: its path below the folder that all share, without its
    suffix; with it where two differ by nothing else, or where another has that name with its suffix.
    """
    images = list(images)
    base = os.path.commonpath([str(Path(image).parent) for image in images])
    paths = [Path(os.path.relpath(image, base)) for image in images]
    short = [path.with_suffix("") for path in paths]
    # The same name counts once for an image, so that one without a suffix is not in its own way.
    taken = Counter(name.casefold() for pair in zip(paths, short, strict=True) for name in set(map(str, pair)))
    return [str(path if taken[str(name).casefold()] > 1 else name) for path, name in zip(paths, short, strict=True)]
