"""Read the folder scheme that MVTec AD made common, with its small variations.

<category>/train/good/NAME.png
<category>/test/good/NAME.png, <category>/test/<defect>/NAME.png
<category>/ground_truth/<defect>/NAME_mask.png
"""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from adlib.datasets.folders import by_stem, find_categories, images_in, need_images, pair_masks
from adlib.errors import InputError
from adlib.samples import make_samples

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
    mask_endings: tuple[str, ...] = MASK_ENDINGS,
    masks_required: bool = True,
    train_required: bool = True,
) -> pd.DataFrame:
    """Samples of one category folder.

    group: modality or sub-class, for the column of that name.
    normal_names: names of the folders whose images are normal.
    mask_endings: what a mask's name has after its image's name, the usual one first.
    masks_required: every anomalous image must have a mask. If False, a category without any ground_truth/
        folder is read with image labels alone; one that has some masks must still have all.
    train_required: whether there must be training images (a sub-class may be there for testing alone).
    Raises InputError for an empty class, a train folder with defects, an anomalous image without a mask, a
    mask without an image.
    """
    truth = folder / "ground_truth"
    with_masks = masks_required or truth.is_dir()
    rows = []
    for split in ("train", "val", "validation", "test"):
        if not (folder / split).is_dir():
            continue
        for kind in sorted(child for child in (folder / split).iterdir() if child.is_dir()):
            images = need_images(kind)
            normal = kind.name in normal_names
            if split == "train" and not normal:
                raise InputError(
                    f"{kind} is in train/ but not named {' or '.join(normal_names)}: training images must be "
                    "normal. Move it to test/, or describe the set by a CSV file (dataset 'folder')."
                )
            masks = [""] * len(images)
            if with_masks and not normal:
                masks = pair_masks(images, _masks_in(truth / kind.name), mask_endings, truth / kind.name)
            rows += [
                {
                    "image": str(image),
                    "mask": str(mask),
                    "label": int(not normal),
                    "split": "val" if split == "validation" else split,
                    "category": category,
                    "group": group,
                    "defect": "good" if normal else kind.name,
                }
                for image, mask in zip(images, masks, strict=True)
            ]
    if train_required and not any(row["split"] == "train" for row in rows):
        raise InputError(f"{folder / 'train'} holds no folder named {' or '.join(normal_names)} with images.")
    if truth.is_dir():
        known = {row["defect"] for row in rows} | set(normal_names)
        for unknown in sorted(child for child in truth.iterdir() if child.is_dir() and child.name not in known):
            if masks := images_in(unknown):
                raise InputError(f"{masks[0]} is a mask without an image in {folder / 'test' / unknown.name}.")
    return make_samples(rows, folder)


def _masks_in(folder: Path) -> dict[str, Path]:
    """Masks of one defect folder by file stem ("000_mask")."""
    return by_stem(images_in(folder)) if folder.is_dir() else {}
