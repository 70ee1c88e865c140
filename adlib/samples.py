"""The samples table: one row per image, what it shows, and where its mask lies.

Columns, all present, in this order:

image     path of the image file
mask      path of the ground-truth mask, "" where there is none (normal images; sets without pixel labels)
label     0 normal, 1 anomalous, -1 unknown: such images are scored and listed, and counted nowhere
split     "train", "val" or "test"
category  what is inspected ("bottle", "CDIP"); one detector is fitted per category
group     modality or sub-class, "" where a dataset has none
defect    name of the defect type, "good" for normal images, for unknown ones the name of their folder or "unknown"

And where there is something to say, in this order:

item       what the image shows, for items that are photographed several times: splits keep an item's images together,
           and intervals are drawn over items
mask_rule  what is foreground in the mask file, one of adlib.decoding.masks.RULES
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from adlib.errors import InputError
from adlib.file_hashes import absolute, file_hashes
from adlib.files import is_unicode
from adlib.hdf5 import file_and_inside

COLUMNS = ["image", "mask", "label", "split", "category", "group", "defect"]
OPTIONAL = ["item", "mask_rule"]
SPLITS = ("train", "val", "test")
UNKNOWN = -1  # the label of an image of which nobody has said yet whether it is normal
PHANTOM_MARKER = "PHANTOM.json"  # every drawn stand-in has this file in its root, from its first image on
PHANTOM_LISTING = "PHANTOM.files"  # beside it: the path of each of its files below the root, one a line


def make_samples(rows: Iterable[dict], source: str | Path) -> pd.DataFrame:
    """Build and check a samples table.

    rows: dictionaries with at least `image`; the other columns default to "", 0, "test", "good".
    source: the folder or file they came from, for error messages.
    Returns a DataFrame with `COLUMNS`, and those of `OPTIONAL` that some row has, sorted by split, category, image;
    `label` is int8.
    Raises InputError when there is no row, a split or label is unknown, an image is listed twice, or a label
    contradicts its defect name.
    """
    table = pd.DataFrame(list(rows))
    if table.empty:
        raise InputError(f"No images found in {source}.")
    defaults = {"mask": "", "label": 0, "split": "test", "category": "", "group": "", "defect": ""}
    for column, value in defaults.items():
        table[column] = table[column].fillna(value) if column in table else value
    for column in OPTIONAL:
        if column in table:
            table[column] = table[column].fillna("").astype(str)
    table = table[COLUMNS + [column for column in OPTIONAL if column in table and (table[column] != "").any()]]
    text = [column for column in COLUMNS if column != "label"]
    table[text] = table[text].astype(str)

    table["label"] = _labels(table, source)
    _need_splits(table, source)
    table.loc[(table["label"] == 0) & (table["defect"] == ""), "defect"] = "good"
    table.loc[(table["label"] == 1) & (table["defect"] == ""), "defect"] = "anomalous"
    table.loc[(table["label"] == UNKNOWN) & (table["defect"] == ""), "defect"] = "unknown"
    for value in (1, UNKNOWN):
        wrong = (table["defect"] == "good") & (table["label"] == value)
        _refuse(wrong, table, source, f"is labelled {value} but named good")
    for split in ("train", "val"):
        wrong = (table["label"] == UNKNOWN) & (table["split"] == split)
        _refuse(wrong, table, source, f"is not known to be normal or not (label -1), but its split is {split}")
    _refuse(table["image"].duplicated(), table, source, "is listed twice")
    return table.sort_values(["split", "category", "image"], ignore_index=True)


def _refuse(bad: pd.Series, table: pd.DataFrame, source: str | Path, what: str) -> None:
    if bad.any():
        more = f" (and {int(bad.sum()) - 1} more)" if bad.sum() > 1 else ""
        raise InputError(f"{table.loc[bad, 'image'].iloc[0]} {what}{more}; listed in {source}.")


def _labels(table: pd.DataFrame, source: str | Path) -> pd.Series:
    """The labels as int8. Raises InputError for one that is none of 0, 1 and -1 ("unknown" is -1 too)."""
    said = table["label"].where(table["label"].astype(str).str.strip().str.casefold() != "unknown", UNKNOWN)
    label = pd.to_numeric(said, errors="coerce")
    wrong = "has a label that is neither 0 (normal) nor 1 (anomalous) nor -1 (unknown)"
    _refuse(~label.isin([0, 1, UNKNOWN]), table, source, wrong)
    return label.astype("int8")


def _need_splits(table: pd.DataFrame, source: str | Path) -> None:
    _refuse(~table["split"].isin(SPLITS), table, source, f"has a split that is none of {', '.join(SPLITS)}")


def _is_text(values: pd.Series) -> bool:
    if isinstance(values.dtype, pd.StringDtype):  # a table of thousands is looked through often
        return not values.hasnans
    return all(isinstance(value, str) for value in values)


def check_columns(samples: pd.DataFrame) -> pd.DataFrame:
    """Return `samples` with a fresh index and with values as `make_samples` has them, or raise InputError.

    A table that went through a CSV file or was joined of two has NaN or None for an empty text, and labels of other
    types: a mask that is None counted as one that is there, and its anomalous image as having no anomalous pixel.
    """
    missing = [column for column in COLUMNS if column not in getattr(samples, "columns", ())]
    if missing:
        raise InputError(
            f"A samples table needs the columns {', '.join(COLUMNS)}; {', '.join(missing)} is missing. "
            "adlib.load_samples makes such a table."
        )
    samples, source = samples.reset_index(drop=True), "the samples table"
    for column in (*COLUMNS, *OPTIONAL):
        if column != "label" and column in samples and not _is_text(samples[column]):
            values = samples[column].astype(object)
            samples[column] = values.where(values.notna(), "").astype(str)
    if unnamed := np.flatnonzero(samples["image"] == "").tolist():
        raise InputError(f"The samples table names no image in row {unnamed[0]}, counted from 0: take the row out.")
    for name in samples["image"]:
        if not is_unicode(name):
            raise InputError(
                f"{name!a} is a name that no record and no table can hold, for it is no Unicode: rename it."
            )
    if samples["label"].dtype != "int8" or not samples["label"].isin([0, 1, UNKNOWN]).all():
        samples["label"] = _labels(samples, source)
    _need_splits(samples, source)
    return samples


def is_known(samples: pd.DataFrame) -> np.ndarray:
    """bool [N]: which images are labelled normal or anomalous; only these are counted, in metrics and everywhere."""
    return (samples["label"] != UNKNOWN).to_numpy()


def select(samples: pd.DataFrame, **conditions) -> pd.DataFrame:
    """Rows where each column equals the given value: select(samples, split="test", category="UB")."""
    for column, value in conditions.items():
        samples = samples[samples[column] == value]
    return samples.reset_index(drop=True)


def items(samples: pd.DataFrame) -> np.ndarray | None:
    """int64 [N]: rows of one number show one item; a row that names none is one by itself, together with the mirrored
    copies of its picture (adlib.training_set). None where every row is one by itself.
    """
    named = "item" in samples and (samples["item"] != "").any()
    if not named and is_picture(samples).all():
        return None
    alone = "\0\0" + samples["image"]
    if not named:
        return pd.factorize(alone)[0]
    return pd.factorize((samples["category"] + "\0" + samples["item"]).mask(samples["item"] == "", alone))[0]


def item_numbers(samples: pd.DataFrame) -> np.ndarray:
    """int64 [N]: as `items`, and the rows' own numbers where every row is one by itself."""
    numbers = items(samples)
    return np.arange(len(samples)) if numbers is None else numbers


def count_items(samples: pd.DataFrame) -> int:
    """How many things the rows show that are independent of each other: items, or images where no item is named."""
    return len(np.unique(item_numbers(samples)))


def is_picture(samples: pd.DataFrame) -> np.ndarray:
    """bool [N]: which rows are pictures themselves, and no mirrored copies of one (adlib.training_set)."""
    return (samples["mirror"] == "").to_numpy() if "mirror" in samples else np.ones(len(samples), bool)


def is_copy(samples: pd.DataFrame) -> np.ndarray:
    """bool [N]: which rows' files are byte by byte those of a row above, mirrored alike: links and exports made twice.
    Of one item that is named several images may be equal, for it counts once in any case.

    Raises InputError for a file that cannot be read.
    """
    mirrors = samples["mirror"] if "mirror" in samples else [""] * len(samples)
    names = list(zip(picture_hashes(samples), mirrors, strict=True))
    contents = pd.Series(pd.factorize(pd.Series(names, dtype=object))[0])
    named = samples["item"].to_numpy() if "item" in samples else np.full(len(samples), "")
    first = named[contents.drop_duplicates().index][contents]
    return contents.duplicated().to_numpy() & ((named == "") | (named != first))


def picture_hashes(samples: pd.DataFrame) -> list[str]:
    """Of each row the SHA-256 of its image's file, and behind it the place inside, of pictures in an HDF5 file.

    Raises InputError for a file that cannot be read.
    """
    places = [file_and_inside(image) for image in samples["image"]]
    hashes = file_hashes(file for file, _ in places)
    return [f"{hashes[file]}{inside}" for file, inside in places]


def name_items(samples: pd.DataFrame, pattern: str | None) -> pd.DataFrame:
    """Samples with the column `item` as the names of their files tell it; unchanged without a pattern.

    pattern: a regular expression, searched for in each file's name without suffix; the item is its first group, or all
    that matches. An image whose name does not match is an item by itself.
    Raises InputError for a pattern that is none, or that no name matches.
    """
    if pattern is None or pattern == "":
        return samples
    if not isinstance(pattern, str):
        raise InputError(f"items={pattern!r} must be a text, a regular expression: write it in quotes.")
    try:
        found = [re.search(pattern, Path(image).stem) for image in samples["image"]]
    except re.error as error:
        raise InputError(f"items={pattern!r} is no regular expression: {error}.") from error
    names = ["" if one is None else (one[1] if one.re.groups else one[0]) or "" for one in found]
    if not any(names):
        raise InputError(f"items={pattern!r} matches no file's name, {Path(samples['image'].iat[0]).stem!r} for one.")
    return samples.assign(item=names)


def torn_items(samples: pd.DataFrame) -> list[str]:
    """Items that have images in training and in another split: their test images are not new to the detector."""
    if items(samples) is None:
        return []
    named = samples[samples["item"] != ""]
    training = named["split"].eq("train").groupby([named["category"], named["item"]])
    mixed = training.any() & ~training.all()
    return [item for _, item in mixed[mixed].index]


def draw_share(samples: pd.DataFrame, share: float, generator: np.random.Generator) -> pd.Index:
    """Labels of rows drawn at random, about a share of them: rounded up to whole images, one at least stays.

    Where the samples have items, whole items are drawn until the share is reached, and one item at least stays. So are
    pictures with their mirrored copies.
    Raises InputError where there are fewer than two images, or items.
    """
    group = item_numbers(samples)
    thing = "item" if "item" in samples else "image"
    names, sizes = np.unique(group, return_counts=True)
    if len(names) < 2:
        raise InputError(f"There is {len(names)} {thing}: drawing a share and leaving the rest needs two.")
    order = generator.permutation(names)
    number = min(int(np.searchsorted(np.cumsum(sizes[order]), math.ceil(share * len(samples)))) + 1, len(names) - 1)
    return samples.index[np.isin(group, order[:number])]


def count(samples: pd.DataFrame) -> pd.DataFrame:
    """Images per category: columns `train`, `test_normal`, `test_anomalous`; and `val`, `test_unknown` where there are
    some.
    """
    kinds = {0: "test_normal", 1: "test_anomalous", UNKNOWN: "test_unknown"}
    kind = samples["split"].where(samples["split"] != "test", samples["label"].map(kinds))
    table = pd.crosstab(samples["category"], kind)
    wanted, where_some = ["train", "val", "test_normal", "test_anomalous", "test_unknown"], ("val", "test_unknown")
    table = table.reindex(columns=[name for name in wanted if name not in where_some or name in table], fill_value=0)
    return table.rename_axis(columns=None)


def phantom_root(samples: pd.DataFrame) -> Path | None:
    """The root of the drawn stand-in that any of these images belongs to, or None for real data.

    Looked up on disk (a file PHANTOM.json in a folder above), so that it survives every copy of the table.
    """
    folders = {file_and_inside(image)[0].rpartition("/")[0] or "." for image in samples["image"]}
    for folder in map(Path, folders):
        for parent in (folder, *folder.parents):
            if (parent / PHANTOM_MARKER).is_file():
                return parent
    return None


def phantom_facts(samples: pd.DataFrame) -> dict | None:
    """What the phantom's marker says (dataset, seed, options, state), or None for real data."""
    root = phantom_root(samples)
    return phantom_marker(root) if root else None


def phantom_marker(root: Path) -> dict | None:
    """What the phantom's marker in a folder says, None without one; of an unreadable one that it is "damaged".

    state: "drawing" until all files are there, then "complete"; markers of versions before that were written last.
    """
    marker = root / PHANTOM_MARKER
    if not marker.is_file():
        return {"seed": "unknown", "state": "drawing"} if (root / "PHANTOM.partial").exists() else None
    try:
        return {"seed": "unknown", "state": "complete"} | json.loads(marker.read_text(encoding="utf-8"))
    except (ValueError, TypeError):
        return {"seed": "unknown", "state": "damaged"}


def missing_of_phantom(root: Path) -> list[str]:
    """Which files of a phantom its folder lacks, by their paths below it; [] where no listing says what there was."""
    listing = root / PHANTOM_LISTING
    if not listing.is_file():
        return []
    names: dict[str, set[str]] = {}
    for path in listing.read_text(encoding="utf-8", errors="replace").splitlines():
        folder, _, name = path.rpartition("/")
        names.setdefault(folder, set()).add(name)
    missing = []
    for folder, wanted in names.items():
        there = {entry.name for entry in os.scandir(root / folder)} if (root / folder).is_dir() else set()
        missing += [f"{folder}/{name}" for name in sorted(wanted - there)]
    return missing


def check_phantom(place: Path) -> None:
    """Raise InputError if `place` lies in a drawn stand-in that is not whole: its drawing is under way or was ended,
    or files of it are missing.
    """
    for root in (place, *place.parents):
        if (marker := phantom_marker(root)) is None:
            continue
        again = f"Draw it again: `adlib phantoms {marker.get('dataset', 'DATASET')} --out {root}`."
        if marker["state"] != "complete":
            raise InputError(f"{root} is a phantom whose drawing was interrupted, or is still under way. {again}")
        if missing := missing_of_phantom(root):
            raise InputError(f"{root} is a phantom that lacks {len(missing)} of its files, e.g. {missing[0]}. {again}")
        return


def phantom_warning(samples: pd.DataFrame, dataset: str) -> str:
    """The sentence that belongs above every result on drawn data; "" for real data."""
    drawn = phantom_facts(samples)
    if drawn is None:
        return ""
    what = {
        "plain": " Plain ones: large blots, without the light, the contrasts and the sizes that make the data set "
        "hard.",
        "hard": " Hard ones, after what the paper says of its defects: the runs of the smoke profile see plain ones.",
    }.get((drawn.get("options") or {}).get("difficulty"), "")
    return (
        f"Phantom data: drawn by adlib (seed {drawn['seed']}), not {dataset}. The numbers show that the code works and "
        f"say nothing about the data set.{what}"
    )


def fingerprint(samples: pd.DataFrame) -> str:
    """16 hexadecimal digits that change when the data changes: the identity of a run's data.

    Covers every byte of every image and mask (of pictures in an HDF5 file: of that file), and every row as the loader
    made it: the path below the folder that all images share, and all other columns, with which it covers what was taken
    from lists of labels and splits. The folder's own place does not count: a copy on another disk has the same
    fingerprint. Files are read once and then remembered (adlib.file_hashes has the cost): a second for 27,000 images.
    Raises InputError for a file that cannot be read.
    """
    split = [[file_and_inside(name) for name in samples[column].tolist()] for column in ("image", "mask")]
    places = absolute(file for names in split for file, _ in names if file)
    hashes = file_hashes(places.values())
    base = os.path.commonpath({places[file].rpartition(os.sep)[0] or os.sep for file, _ in split[0]})
    below = base.rstrip(os.sep) + os.sep
    names = {}
    for file, path in places.items():
        name = path.removeprefix(below) if path.startswith(below) else os.path.relpath(path, base)
        names[file] = f"{name.replace(os.sep, '/')} {hashes[path]}"
    content = {
        column: [[names.get(file, ""), inside] for file, inside in parts]
        for column, parts in zip(("image", "mask"), split, strict=True)
    }
    content |= {column: samples[column].astype(str).tolist() for column in samples if column not in content}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def file_fingerprints(samples: pd.DataFrame) -> dict[str, str]:
    """The fingerprints of the files alone: of the "images" of a samples table and of their "masks", "" without any.

    Apart, because a mask that is corrected changes no score. Raises InputError for a file that cannot be read.
    """
    files = {f"{column}s": samples.loc[samples[column] != "", column] for column in ("image", "mask")}
    return {
        name: fingerprint(pd.DataFrame({"image": column, "mask": ""})) if len(column) else ""
        for name, column in files.items()
    }
