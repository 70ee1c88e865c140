"""ISP-AD: screen-printed foils in three modalities, real and synthetic defects (Krassnig and Gruber, arXiv 2503.04997).

`samples` reads the unsupervised part: the MVTec scheme once per modality, 256 x 256 PNG (RGB for LSM-1 and LSM-2, grey
for ASM), defect folders of any name. `supervised_samples` reads the HDF5 files of normal and synthetic patches,
`real_defects` the folders of real defective patches (512 x 512) that the mixed supervised method injects, and
`training_defects` those for other methods (the setting train_real, adlib.training_set).
"""

import re
from functools import partial
from pathlib import Path

import pandas as pd

from adlib import hdf5
from adlib.datasets import Facts
from adlib.datasets.folders import folders_in, need_images
from adlib.datasets.mvtec_tree import read_categories
from adlib.decoding.pictures import image_shape
from adlib.errors import InputError
from adlib.samples import make_samples

REAL_FOLDER = "real_defects"  # in a modality's folder: real_defects/area, real_defects/points

FACTS = Facts(
    title="ISP-AD",
    source="Krassnig, Gruber: ISP-AD, a large-scale real-world dataset for advancing industrial anomaly detection with "
    "synthetic and real defects, arXiv 2503.04997",
    licence="not stated",
    get="`adlib fetch isp_ad --out DIR`, or download it from doi.org/10.5281/zenodo.14911043; lay the unsupervised "
    "part out as <root>/LSM-1/train/good, <root>/LSM-1/test/good, <root>/LSM-1/test/<defect>, "
    "<root>/LSM-1/ground_truth/<defect>/NAME.png or NAME_mask.png, and so for LSM-2 and ASM.",
    # Table 7, unsupervised; anomalous: area + points
    counts={"LSM-1": (3678, 1470, 49 + 46), "LSM-2": (401, 382, 63 + 33), "ASM": (500, 1916, 33 + 41)},
    unknown="names of archives, folders, masks and HDF5 files; licence; which 500 of LSM-1's 3678 normal images the "
    "paper trained on",
    zenodo="14911043",
)


def samples(root: Path, category: str | None = None) -> pd.DataFrame:
    """Samples of the unsupervised part: all modalities below root, or one ("LSM-1", "LSM-2", "ASM").

    `group` is the modality, like `category`. Every anomalous image must have its mask.
    """
    table = read_categories(root, category, name_of=_modality)
    return table.assign(group=table["category"])


def supervised_samples(
    root: str | Path,
    file: str | None = None,
    images_key: str = "syn_stream",
    masks_key: str = "ground_truth",
    labels_key: str | None = None,
    category: str | None = None,
) -> pd.DataFrame:
    """Training samples of one HDF5 file of the supervised part: normal patches and synthetic defects, masks as drawn.

    file: the HDF5 file's path below root; None takes the only one there.
    images_key, masks_key: its datasets, [N, H, W] or [N, H, W, 1]. labels_key: [N] numbers, 0 normal and anything else
        anomalous; None opens every mask and calls those with foreground anomalous.
    category: the modality; None takes it from the file's path.
    Returns a samples table, all of it split "train", whose images and masks are named "file.h5::dataset::index"
    (adlib.images reads them); defect is "synthetic".
    Raises InputError when there is no such file or dataset (with all datasets that there are, their shapes and dtypes),
    when the numbers of images, masks and labels differ, when no modality is named.
    """
    path = _hdf5_file(Path(root).expanduser().resolve(), file)
    lengths = {key: hdf5.need_dataset(path, key)[:1] for key in (images_key, masks_key, labels_key) if key}
    if len(set(lengths.values())) > 1 or () in lengths.values():
        told = ", ".join(f"{key} {length[0] if length else 'a single value'}" for key, length in lengths.items())
        raise InputError(f"{path}: the datasets differ in length: {told}.")
    anomalous = hdf5.read_values(path, labels_key) if labels_key else hdf5.has_foreground(path, masks_key)
    if anomalous.dtype.kind not in "biuf":
        raise InputError(f"{path}: labels_key={labels_key!r} holds no numbers: 0 is normal, any other anomalous.")
    if anomalous.size != len(anomalous):
        raise InputError(f"{path}: labels_key={labels_key!r} has shape {list(anomalous.shape)}; labels are [N].")
    named = [_modality(part) for part in reversed(path.parts)]  # the file's own name before its folders
    category = category or next((name for name in named if name in FACTS.counts), None)
    if category is None:
        raise InputError(f"{path} names no modality ({', '.join(FACTS.counts)}): give category=.")
    rows = [
        {
            "image": f"{path}::{images_key}::{index}",
            "mask": f"{path}::{masks_key}::{index}" if defective else "",
            "label": int(defective),
            "split": "train",
            "category": category,
            "group": category,
            "defect": "synthetic" if defective else "good",
        }
        for index, defective in enumerate(anomalous.reshape(-1) != 0)
    ]
    return make_samples(rows, path)


def supervised_files(root: str | Path) -> list[Path]:
    """The HDF5 files in a folder and in the folders in it: absolute paths, sorted."""
    root = Path(root).expanduser().resolve()
    return sorted(file for file in (*root.glob("*"), *root.glob("*/*")) if file.suffix.lower() in hdf5.SUFFIXES)


def beside(samples: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """What lies beside the samples of the unsupervised part for other trainings: real defects, and the patches of HDF5
    files; and a sentence for each folder and file that cannot be listed.
    """
    tables, problems = [], []
    for category, rows in samples.groupby("category", sort=True):
        home = Path(rows["image"].iloc[0]).parents[2]
        parts = [partial(real_defects, home / REAL_FOLDER, category)] if (home / REAL_FOLDER).is_dir() else []
        parts += [partial(supervised_samples, home, file, category=category) for file in supervised_files(home)]
        for part in parts:
            try:
                tables.append(part())
            except InputError as error:
                problems.append(str(error))
    return pd.concat([samples.iloc[:0], *tables], ignore_index=True), problems


def real_defects(folder: str | Path, category: str) -> pd.DataFrame:
    """Training samples of real defective patches: folder/<defect>/NAME.png, labelled by their folder, without masks.

    Raises InputError when the folder is missing or a defect folder holds no image.
    """
    folder = Path(folder).expanduser().resolve()
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist: give the folder that holds the defect folders (area, points).")
    rows = [
        {
            "image": str(image),
            "label": 1,
            "split": "train",
            "category": category,
            "group": category,
            "defect": kind.name,
        }
        for kind in folders_in(folder)
        for image in need_images(kind)
    ]
    return make_samples(rows, folder)


def training_defects(samples: pd.DataFrame) -> pd.DataFrame:
    """The real defects that lie beside a table's modalities, as training samples to join its normal patches.

    samples: of the unsupervised part. The picture of a real defect has 512 pixels where a patch has 256: of a larger
    one the column `middle` names the side, in pixels, of the part around its centre that is as large as a patch, and so
    shows the defect at the patches' scale; 0 for a picture no larger than a patch.
    Raises InputError where a modality has no such folder.
    """
    parts = []
    for category, rows in samples.groupby("category", sort=True):
        defects = real_defects(Path(rows["image"].iloc[0]).parents[2] / REAL_FOLDER, category)
        side = max(image_shape(rows["image"].iloc[0]))
        parts.append(defects.assign(middle=[side if min(image_shape(name)) > side else 0 for name in defects["image"]]))
    return pd.concat(parts, ignore_index=True)


def _modality(name: str) -> str:
    """ "LSM-1" for LSM1, lsm_1 ...; other names as they are."""
    found = re.search(r"(?<![a-z])(lsm)[-_ ]?([12])(?!\d)|(?<![a-z])(asm)(?![a-z])", name.lower())
    return name if found is None else "ASM" if found[3] else f"LSM-{found[2]}"


def _hdf5_file(root: Path, file: str | None) -> Path:
    if file is not None:
        return root / file
    if not root.is_dir():
        raise InputError(f"{root} is no folder: give the folder of the HDF5 file, and file=.")
    found = supervised_files(root)
    if len(found) != 1:
        names = ", ".join(str(child.relative_to(root)) for child in found) or "none"
        raise InputError(f"{root} does not hold one HDF5 file but {names}: name it, file=.")
    return found[0]
