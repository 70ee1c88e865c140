"""Your own images: any MVTec-like tree, or a CSV file that lists them.

A tree: one category (root/train/good, root/test/good, root/test/<defect>) or several (root/<category>/train ...).
Normal images lie in folders named good, ok, normal or OK; masks in ground_truth/<defect>/ as NAME_mask.png,
NAME.png or NAME_gt.png. Without any ground_truth folder the images are scored, their pixels are not.

A CSV file: the column `image`, and of `mask, label, split, category, group, defect` those that apply. Paths are
relative to the CSV file. Without `label`, an image with a mask is anomalous. Without `split`, the file must be
split first: adlib does not choose which normal images to train on.
"""

from pathlib import Path

import pandas as pd

from adlib.datasets import Facts
from adlib.datasets.mvtec_tree import read_categories, read_category
from adlib.errors import InputError
from adlib.samples import COLUMNS, make_samples, select

NORMAL_NAMES = ("good", "ok", "normal", "OK", "Good", "Normal")

FACTS = Facts(
    title="A folder or CSV file of yours",
    source="you",
    licence="yours",
    get="give a folder with train/good and test/<defect> inside, or a .csv file with a column `image`.",
)


def samples(root: Path, category: str | None = None) -> pd.DataFrame:
    """Samples of a tree or of a CSV file.

    Raises InputError for a CSV without the column `image` or `split`, with unknown columns or missing files, and
    for all that adlib.datasets.mvtec_tree refuses.
    """
    if root.is_file():
        table = _read_csv(root)
        if category is None:
            return table
        if category not in set(table["category"]):
            raise InputError(f"No category {category!r} in {root}: found {sorted(set(table['category']))}.")
        return select(table, category=category)
    options = {"normal_names": NORMAL_NAMES, "masks_required": False}
    if (root / "train").is_dir() and category in (None, root.name):
        return read_category(root, root.name, **options)
    return read_categories(root, category, **options)


def _read_csv(file: Path) -> pd.DataFrame:
    if file.suffix.lower() != ".csv":
        raise InputError(f"{file} is neither a folder nor a .csv file.")
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    if unknown := sorted(set(table) - set(COLUMNS)):
        raise InputError(f"{file} has unknown columns {', '.join(unknown)}; known are {', '.join(COLUMNS)}.")
    if absent := [name for name in ("image", "split") if name not in table]:
        raise InputError(f"{file} has no column {' and no column '.join(absent)}.")
    for column in ("image", "mask"):
        if column in table:
            table[column] = [str(file.parent / name) if name else "" for name in table[column]]
            for name in table[column]:
                if name and not Path(name).is_file():
                    raise InputError(f"{name} does not exist; {file} lists it as {column}.")
    if "label" not in table:
        if "mask" not in table:
            raise InputError(f"{file} has neither a column label nor a column mask: which images are normal?")
        table["label"] = (table["mask"] != "").astype(int)
    return make_samples(table.to_dict("records"), file)
