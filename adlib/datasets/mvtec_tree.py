"""Read the folder scheme that MVTec AD made common, with its small variations.

<category>/train/good/NAME.png
<category>/test/good/NAME.png, <category>/test/<defect>/NAME.png
<category>/ground_truth/<defect>/NAME_mask.png, or ground_truth/<split>/<defect>/NAME_mask.png
"""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from adlib.datasets.folders import (
    MASK_FOLDERS,
    by_stem,
    find_categories,
    folders_in,
    images_in,
    is_named,
    need_images,
    need_no_masks,
    need_no_masks_beside,
    pair_masks,
)
from adlib.errors import InputError
from adlib.samples import UNKNOWN, make_samples

MASK_ENDINGS = ("_mask", "", "_gt")  # NAME_mask.png, NAME.png, NAME_gt.png


def read_categories(root: Path, category: str | None, name_of: Callable[[str], str] = str, **options) -> pd.DataFrame:
    """Samples of every category folder below root (a folder with train/ and test/), or of one.

    name_of: the category's name for a folder's name, where they differ.
    options: passed on to `read_category`. Raises InputError when there is no such folder.
    """
    found = find_categories(root, category, is_category=_is_category, holds="train/ and test/", name_of=name_of)
    return pd.concat([read_category(folder, name, **options) for name, folder in found.items()], ignore_index=True)


def _is_category(folder: Path) -> bool:
    return (folder / "train").is_dir() and (folder / "test").is_dir()


def read_category(
    folder: Path,
    category: str,
    *,
    group: str = "",
    normal_names: tuple[str, ...] = ("good",),
    unknown_names: tuple[str, ...] = (),
    mask_endings: tuple[str, ...] = MASK_ENDINGS,
    masks_required: bool = True,
    train_required: bool = True,
) -> pd.DataFrame:
    """Samples of one category folder.

    group: modality or sub-class, for the column of that name.
    normal_names: names of the folders whose images are normal, in small or capital letters.
    unknown_names: names of the folders below test/ whose images may be either; the same. They need no masks, and may
        be empty, as they are when all is sorted.
    mask_endings: what a mask's name has after its image's name, the usual one first.
    masks_required: every anomalous image must have a mask. If False, a category without any ground_truth/
        folder is read with image labels alone; one that has some masks must still have all.
    train_required: whether there must be training images (a sub-class may be there for testing alone).
    Raises InputError for an empty class, a train folder with defects, an anomalous image without a mask, a mask without
    an image, masks in a folder of another name than ground_truth/, among the folders of images or beside the images.
    """
    truth = folder / "ground_truth"
    with_masks = masks_required or truth.is_dir()
    normal_names = [name.casefold() for name in normal_names]
    rows, defective = [], {}
    for split in ("train", "val", "validation", "test"):
        for kind in folders_in(folder / split) if (folder / split).is_dir() else ():
            normal = kind.name.casefold() in normal_names
            unknown = not normal and split == "test" and is_named(kind.name, unknown_names)
            if not (normal or unknown):
                need_no_masks(kind, f"move what it holds to {truth}", truth, truth / split)
            if split == "train" and not normal:
                raise InputError(
                    f"{kind} is in train/ but not named {' or '.join(normal_names)}: training images must be "
                    "normal. Move it to test/, or describe the set by a CSV file (dataset 'folder')."
                )
            images = images_in(kind) if unknown else need_images(kind)
            if normal or unknown or not with_masks:  # else they are paired
                need_no_masks_beside(images)
            for image in images:
                row = {
                    "image": str(image),
                    "label": UNKNOWN if unknown else int(not normal),
                    "split": "val" if split == "validation" else split,
                    "category": category,
                    "group": group,
                    "defect": "good" if normal else kind.name,
                }
                rows.append(row)
                if not (normal or unknown):
                    own = truth / split / kind.name  # masks sorted by split, as the images are
                    defective.setdefault(own if own.is_dir() else truth / kind.name, []).append(row)
    if defective and not truth.is_dir() and (other := _misnamed(folder)):
        raise InputError(
            f"Masks are looked for in {truth}, and there is {other}: rename it, or take it away if it holds no masks."
        )
    if with_masks:  # of all splits together: none of them may take what belongs to another
        for place, wanted in defective.items():
            images = [Path(row["image"]) for row in wanted]
            for row, mask in zip(wanted, pair_masks(images, _masks_in(place), mask_endings, place), strict=True):
                row["mask"] = str(mask)
    if train_required and not any(row["split"] == "train" for row in rows):
        raise InputError(f"{folder / 'train'} holds no folder named {' or '.join(normal_names)} with images.")
    if truth.is_dir():
        known = {row["defect"] for row in rows} | {"train", "val", "validation", "test"}
        for unknown in folders_in(truth):
            if (
                unknown.name not in known
                and unknown.name.casefold() not in normal_names
                and (masks := images_in(unknown))
            ):
                raise InputError(f"{masks[0]} is a mask without an image in {folder / 'test' / unknown.name}.")
    return make_samples(rows, folder)


def masks_of_normal(samples: pd.DataFrame) -> dict[str, str]:
    """Masks that lie beside normal samples, which need none: {image: mask}. In ground_truth/<normal folder> they are of
    test images, in ground_truth/<split>/<normal folder> of that split's.
    """
    found = {}
    normal = samples[(samples["label"] == 0) & (samples["mask"] == "")]
    for image, split in zip(normal["image"].map(Path), normal["split"], strict=True):
        truth = image.parents[min(2, len(image.parents) - 1)] / "ground_truth"
        places = [truth / image.parent.parent.name / image.parent.name]
        for place in places + [truth / image.parent.name] * (split == "test"):
            masks = _masks_in(place)
            mask = next((masks[image.stem + end] for end in MASK_ENDINGS if image.stem + end in masks), None)
            if mask is not None:
                found.setdefault(str(image), str(mask))
    return found


def _misnamed(folder: Path) -> Path | None:
    """A folder of pictures that is called as masks are, but not ground_truth/."""
    alike = [each for each in folders_in(folder) if is_named(each.name, MASK_FOLDERS)]
    return next((each for each in alike if any(images_in(place) for place in (each, *folders_in(each)))), None)


def _masks_in(folder: Path) -> dict[str, Path]:
    """Masks of one defect folder by file stem ("000_mask")."""
    return by_stem(images_in(folder)) if folder.is_dir() else {}
