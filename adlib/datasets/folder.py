"""Your own images: any MVTec-like tree, a CSV file that lists them, or a folder of normal and one of abnormal images.

A tree: one category (root/train/good, root/test/good, root/test/<defect>) or several (root/<category>/train ...).
Normal images lie in folders named good, ok or normal, in small or capital letters (normal_names says otherwise); masks
in ground_truth/<defect>/ as NAME_mask.png, NAME.png or NAME_gt.png. Without any ground_truth folder the images are
scored, their pixels are not. Images below test in folders named unknown, unsorted, unlabelled, to_review and so on
(unknown_names says otherwise) are scored and listed, and counted nowhere.

A CSV file: the column `image`, and of `mask, label, split, category, group, defect, item, mask_rule` those that apply;
any usual encoding and separator (adlib.datasets.lists). Paths are relative to the CSV file. Without `label`, an image
with a mask is anomalous. Without `split`, the file must be split first: adlib does not choose which normal images to
train on.

Two folders: `normal` and `abnormal`, each with images or with one level of folders, which name the defects. A fifth of
the normal images, drawn at random but always the same, is for test, unless `normal_test` is a folder of such images.
"""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd

from adlib.datasets import Facts, list_datasets
from adlib.datasets.folders import (
    NORMAL_NAMES,
    UNKNOWN_NAMES,
    by_stem,
    folders_in,
    images_in,
    need_no_masks,
    need_no_masks_beside,
    pair_masks,
)
from adlib.datasets.lists import need_images_named, read_list
from adlib.datasets.mvtec_tree import MASK_ENDINGS, read_categories, read_category
from adlib.errors import InputError, did_you_mean
from adlib.samples import COLUMNS, OPTIONAL, draw_share, make_samples, name_items, select

TEST_SHARE = 0.2  # of the normal images, where nothing says which are for test

FACTS = Facts(
    title="A folder or CSV file of yours",
    source="you",
    licence="yours",
    get="give a folder with train/good and test/<defect> inside, or a .csv file with a column `image`.",
)


def samples(
    root: Path,
    category: str | None = None,
    normal_names: str | list[str] | None = None,
    unknown_names: str | list[str] | None = None,
    normal: str | Path | None = None,
    abnormal: str | Path | None = None,
    normal_test: str | Path | None = None,
    masks: str | Path | None = None,
    items: str | None = None,
) -> pd.DataFrame:
    """Samples of a tree, of a CSV file, or of two folders.

    normal_names: what folders of normal images are called in a tree, a list or a text with commas; else NORMAL_NAMES.
    unknown_names: of folders below test/ of which nobody knows yet what they show; the same, else UNKNOWN_NAMES.
    normal, abnormal, normal_test: folders that follow no layout, below root or by their full path; the category is
        root's name. masks: the folder of their masks, named as in a tree; without one no pixels are scored.
    items: as in load_samples.
    Raises InputError for a CSV without the column `image` or `split`, with unknown columns or missing files, for a
    folder that is missing or empty, an option of another kind or of another layout, and for all that
    adlib.datasets.mvtec_tree refuses.
    """
    for option, place in {"normal": normal, "abnormal": abnormal, "normal_test": normal_test, "masks": masks}.items():
        if place is not None and not isinstance(place, str | Path):
            raise InputError(f"{option}={place!r} must be the path of a folder, as text.")
    named = "normal_names" if normal_names else "unknown_names" if unknown_names else ""
    if named and (root.is_file() or normal is not None or abnormal is not None):
        says = "the list says" if root.is_file() else "normal and abnormal say"
        raise InputError(f"{named} is of a tree's folders; here {says} what each image is: leave it out.")
    if normal is not None or abnormal is not None:
        if normal is None or abnormal is None:
            raise InputError("normal and abnormal belong together: give both folders.")
        if category not in (None, "", root.name):
            raise InputError(f"No category {category!r}: two folders have the one category {root.name!r}.")
        return _read_two(root, normal, abnormal, normal_test, masks, items)
    if normal_test is not None or masks is not None:
        raise InputError("normal_test and masks go with normal and abnormal: give these too.")
    if root.is_file():
        table = _read_csv(root)
        if category is None:
            return table
        if category not in set(table["category"]):
            found = sorted(set(table["category"]))
            near = did_you_mean(category, found)
            raise InputError(f"No category {category!r} in {root}: found {', '.join(found)}.{near}")
        return select(table, category=category)
    options = {
        "normal_names": _names(normal_names, NORMAL_NAMES, "normal_names"),
        "unknown_names": _names(unknown_names, UNKNOWN_NAMES, "unknown_names"),
        "masks_required": False,
    }
    if (root / "train").is_dir() and category in (None, root.name):
        return read_category(root, root.name, **options)
    return read_categories(root, category, **options)


def is_own_set(root: Path) -> bool:
    """Whether a path is a tree or a CSV file of one's own, and no folder of data sets: it has train/ inside, or some of
    its folders have, none of which is called as a data set is.
    """
    if not root.is_dir():
        return root.is_file()
    inside = [path for path in root.iterdir() if path.is_dir()]
    names = {path.name for path in inside}
    return "train" in names or (not names & set(list_datasets()) and any((path / "train").is_dir() for path in inside))


def _names(given: str | int | list[str | int] | None, usual: tuple[str, ...], option: str) -> tuple[str, ...]:
    """Names of folders as a person gives them: a list, or a text with commas; the usual ones if none is given.

    Raises InputError for what names no folder, as the True that YAML makes of a folder called yes.
    """
    parts = given.split(",") if isinstance(given, str) else given if isinstance(given, list | tuple) else [given]
    parts = [] if given is None else parts
    if wrong := [part for part in parts if isinstance(part, bool) or not isinstance(part, str | int)]:
        raise InputError(
            f"{option}={given!r}: {wrong[0]!r} is no name of a folder: give a list of texts, or one with commas."
        )
    return tuple(name for part in parts if (name := str(part).strip())) or usual


def place_of_two(
    dataset: str, root: Path | None, normal: Path | None, abnormal: Path | None
) -> tuple[Path, dict[str, str]]:
    """Root and options of two folders as a person names them, relative to the working folder; root is the folder that
    both lie in, if it is not given. Without the two folders: root alone. Raises InputError where something is missing.
    """
    if normal is None and abnormal is None:
        if root is None:
            raise InputError(
                f"Where is {dataset}? Give --root DIR{', or --normal DIR --abnormal DIR' * (dataset == 'folder')}."
            )
        return root, {}
    if dataset != "folder":
        raise InputError(f"--normal and --abnormal are for the dataset folder: {dataset} has a layout of its own.")
    if normal is None or abnormal is None:
        raise InputError("--normal and --abnormal belong together: give both.")
    good, bad = normal.expanduser().resolve(), abnormal.expanduser().resolve()
    return root or Path(os.path.commonpath([good, bad])), {"normal": str(good), "abnormal": str(bad)}


def _read_two(root: Path, normal, abnormal, normal_test, masks, items: str | None) -> pd.DataFrame:
    good, bad = root / Path(normal).expanduser(), root / Path(abnormal).expanduser()
    truth = None if masks is None else root / Path(masks).expanduser()
    rows = [{"image": str(image), "split": "train"} for image, _ in _images_below(good, truth)]
    if normal_test is not None:
        tested = _images_below(root / Path(normal_test).expanduser(), truth)
        rows += [{"image": str(image), "split": "test"} for image, _ in tested]
    defective = [
        {"image": str(image), "label": 1, "split": "test", "defect": "" if kind == bad else kind.name}
        for image, kind in _images_below(bad, truth)
    ]
    if truth is not None:
        _give_masks(defective, truth)
    table = name_items(make_samples([row | {"category": root.name} for row in rows + defective], root), items)
    if normal_test is None:
        train = table[table["split"] == "train"]
        try:
            table.loc[draw_share(train, TEST_SHARE, np.random.default_rng(0)), "split"] = "test"
        except InputError as error:
            raise InputError(f"Of the normal images in {good} some are for test. {error}") from error
    return table.sort_values(["split", "category", "image"], ignore_index=True)


def _images_below(folder: Path, truth: Path | None) -> list[tuple[Path, Path]]:
    """(image, its folder) of the images in a folder and in its folders, other than that of the masks."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder.")
    inside = [place for place in folders_in(folder) if truth is None or place.resolve() != truth.resolve()]
    for place in inside:
        need_no_masks(place, "name it by masks=DIR", *([truth] if truth else []))
    found = [(image, place) for place in (folder, *inside) for image in need_no_masks_beside(images_in(place))]
    if not found:
        raise InputError(f"{folder} holds no image, and no folder of images.")
    return found


def _give_masks(rows: list[dict], folder: Path) -> None:
    """Add to each row its mask out of the folder, or out of its folder that is named as the image's."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder of masks.")
    places: dict[Path, list[dict]] = {}
    for row in rows:
        own = folder / Path(row["image"]).parent.name
        places.setdefault(own if own.is_dir() else folder, []).append(row)
    for place, wanted in places.items():
        images = [Path(row["image"]) for row in wanted]
        for row, mask in zip(wanted, pair_masks(images, by_stem(images_in(place)), MASK_ENDINGS, place), strict=True):
            if mask == Path(row["image"]):
                raise InputError(f"{mask} would be its own mask: masks={folder} is the folder of the images.")
            row["mask"] = str(mask)


def _read_csv(file: Path) -> pd.DataFrame:
    if file.suffix.lower() not in (".csv", ".tsv", ".txt"):
        raise InputError(f"{file} is neither a folder nor a .csv file.")
    table = read_list(file)
    known = [*COLUMNS, *OPTIONAL]
    if unknown := sorted(set(table) - set(known)):
        raise InputError(f"{file} has unknown columns {', '.join(unknown)}; known are {', '.join(known)}.")
    if absent := [name for name in ("image", "split") if name not in table]:
        raise InputError(f"{file} has no column {' and no column '.join(absent)}; it has {', '.join(table)}.")
    need_images_named(table, file)
    for column in ("image", "mask"):
        if column in table:
            table[column] = [_path(file, name, column) for name in table[column]]
    if "label" not in table:
        if "mask" not in table:
            raise InputError(f"{file} has neither a column label nor a column mask: which images are normal?")
        table["label"] = (table["mask"] != "").astype(int)
    table["split"] = table["split"].str.casefold()
    samples = make_samples(table.to_dict("records"), file)
    _refuse_shared_masks(samples, file)
    return samples


def _path(file: Path, name: str, column: str) -> str:
    """Where a file of the list lies; a path with backslashes is one of Windows if there is no such file here."""
    if not name:
        return ""
    for written in (name, name.replace("\\", "/")):
        for form in ("NFC", "NFD"):  # umlauts as one letter, or as two, as macOS writes them
            if (path := file.parent / unicodedata.normalize(form, written)).is_file():
                short = Path(os.path.normpath(path))  # "a/../b.png" is "b.png", unless a is a link to elsewhere
                return str(short if short.is_file() and short.samefile(path) else path)
    raise InputError(f"{file.parent / name} does not exist; {file} lists it as {column}.")


def _refuse_shared_masks(samples: pd.DataFrame, file: Path) -> None:
    """Two images have one mask at most if they show one item."""
    named = samples[samples["mask"] != ""]
    owner = named["item"].where(named["item"] != "", named["image"]) if "item" in named else named["image"]
    owners = owner.groupby(named["mask"]).nunique()
    if (owners > 1).any():
        mask = owners.index[owners > 1][0]
        one, other = named.loc[named["mask"] == mask, "image"].iloc[:2]
        raise InputError(
            f"{one} and {other} share the mask {mask} in {file}: give each its own, or say in a column item that both "
            "show the same item."
        )
