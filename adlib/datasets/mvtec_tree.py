"""Read the folder scheme that MVTec AD made common, with its small variations.

<category>/train/good/NAME.png
<category>/test/good/NAME.png, <category>/test/<defect>/NAME.png
<category>/ground_truth/<defect>/NAME_mask.png
"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from adlib.errors import InputError
from adlib.samples import make_samples

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
MASK_ENDINGS = ("_mask", "", "_gt")  # NAME_mask.png, NAME.png, NAME_gt.png


def read_categories(root: Path, category: str | None, **options) -> pd.DataFrame:
    """Samples of every category folder below root (a folder with train/ and test/), or of one.

    options: passed on to `read_category`. Raises InputError when there is no such folder.
    """
    found = sorted(folder.name for folder in root.iterdir() if _is_category(folder))
    if category is not None and category not in found:
        raise InputError(
            f"No category {category!r} in {root}: "
            + (f"found {', '.join(found)}." if found else "no folder there holds train/ and test/.")
        )
    if not found:
        hint = ""
        if _is_category(root):
            hint = f" It is a category itself: give its parent, {root.parent}, and category={root.name!r}."
        elif deeper := next((d for d in sorted(root.glob("*/*")) if _is_category(d)), None):
            hint = f" One level deeper there are some: give {deeper.parent}."
        raise InputError(f"{root} holds no category folder with train/ and test/ inside.{hint}")
    chosen = found if category is None else [category]
    return pd.concat([read_category(root / name, name, **options) for name in chosen], ignore_index=True)


def _is_category(folder: Path) -> bool:
    return (folder / "train").is_dir() and (folder / "test").is_dir()


def read_category(
    folder: Path,
    category: str,
    *,
    normal_names: tuple[str, ...] = ("good",),
    masks_required: bool = True,
) -> pd.DataFrame:
    """Samples of one category folder.

    normal_names: names of the folders whose images are normal.
    masks_required: every anomalous image must have a mask. If False, a category without any ground_truth/
        folder is read with image labels alone; one that has some masks must still have all.
    Raises InputError for an empty class, a train folder with defects, an anomalous image without a mask, a
    mask without an image.
    """
    rows = []
    for split in ("train", "val", "validation", "test"):
        if not (folder / split).is_dir():
            continue
        for kind in sorted(child for child in (folder / split).iterdir() if child.is_dir()):
            normal = kind.name in normal_names
            images = list(_images_in(kind))
            if not images:
                raise InputError(f"{kind} holds no image ({', '.join(sorted(IMAGE_SUFFIXES))}).")
            if split == "train" and not normal:
                raise InputError(
                    f"{kind} is in train/ but not named {' or '.join(normal_names)}: training images must be "
                    "normal. Move it to test/, or describe the set by a CSV file (dataset 'folder')."
                )
            masks = {} if normal else _masks_of(folder / "ground_truth" / kind.name)
            for image in images:
                mask = "" if normal else _mask_for(image, masks, folder, masks_required)
                rows.append(
                    {
                        "image": str(image),
                        "mask": mask,
                        "label": int(not normal),
                        "split": "val" if split == "validation" else split,
                        "category": category,
                        "defect": "good" if normal else kind.name,
                    }
                )
            used = {row["mask"] for row in rows}
            if unused := sorted(set(map(str, masks.values())) - used):
                raise InputError(f"{unused[0]} is a mask without an image in {kind}.")
    if not any(row["split"] == "train" for row in rows):
        raise InputError(f"{folder / 'train'} holds no folder named {' or '.join(normal_names)} with images.")
    return make_samples(rows, folder)


def _images_in(folder: Path) -> Iterator[Path]:
    return (file for file in sorted(folder.iterdir()) if file.suffix.lower() in IMAGE_SUFFIXES)


def _masks_of(folder: Path) -> dict[str, Path]:
    """Masks of one defect folder by file stem ("000_mask")."""
    return {file.stem: file for file in _images_in(folder)} if folder.is_dir() else {}


def _mask_for(image: Path, masks: dict[str, Path], folder: Path, required: bool) -> str:
    for ending in MASK_ENDINGS:
        if mask := masks.get(image.stem + ending):
            return str(mask)
    if not required and not (folder / "ground_truth").is_dir():
        return ""
    expected = folder / "ground_truth" / image.parent.name / f"{image.stem}_mask.png"
    raise InputError(f"{image} is anomalous but has no mask: expected {expected}.")
