"""VisA: twelve objects, JPEG images, splits in CSV files (Zou et al., ECCV 2022)."""

from pathlib import Path

import pandas as pd

from adlib.datasets import Facts
from adlib.datasets.folders import by_stem, images_in, need_folders, pair_masks
from adlib.datasets.lists import need_images_named, read_list
from adlib.errors import InputError, did_you_mean
from adlib.samples import make_samples, select

COLUMNS = ["object", "split", "label", "image", "mask"]

FACTS = Facts(
    title="VisA",
    source="Zou, Jeong, Pemula, Zhang, Dabeer: SPot-the-Difference self-supervised pre-training for anomaly detection "
    "and segmentation, ECCV 2022",
    licence="CC BY 4.0 (README of the set)",
    get="`adlib fetch visa --out DIR`, or unpack VisA_20220922.tar, so that <root>/split_csv/1cls.csv and "
    "<root>/candle/Data/Images exist.",
    # split_csv/1cls.csv
    counts={
        "candle": (900, 100, 100),
        "capsules": (542, 60, 100),
        "cashew": (450, 50, 100),
        "chewinggum": (453, 50, 100),
        "fryum": (450, 50, 100),
        "macaroni1": (900, 100, 100),
        "macaroni2": (900, 100, 100),
        "pcb1": (904, 100, 100),
        "pcb2": (901, 100, 100),
        "pcb3": (905, 101, 100),
        "pcb4": (904, 101, 100),
        "pipe_fryum": (450, 50, 100),
    },
    archives=(
        (
            "https://amazon-visual-anomaly.s3.us-west-2.amazonaws.com/VisA_20220922.tar",
            "2eb8690c803ab37de0324772964100169ec8ba1fa3f7e94291c9ca673f40f362",
            0,
        ),
    ),
)


def samples(root: Path, category: str | None = None, split: str = "1cls") -> pd.DataFrame:
    """Samples of all objects below root, or of one, split as split_csv/<split>.csv says.

    split: "1cls" trains on normal images alone; "2cls_highshot" and "2cls_fewshot" have anomalous ones in train.
    Masks hold the class number of each defect; every value above 0 is foreground.
    Raises InputError for a split that is not there, a CSV with other columns, a file that it lists and that does not
    exist, an anomalous image without a mask, a mask without an image.
    """
    need_folders(root, "split_csv")
    file = root / "split_csv" / f"{split}.csv"
    if not file.is_file():
        known = ", ".join(sorted(other.stem for other in file.parent.glob("*.csv")))
        raise InputError(f"{file} does not exist; there are the splits {known or '(none)'}.")
    table = read_list(file)
    if absent := [name for name in COLUMNS if name not in table]:
        raise InputError(f"{file} has no column {' and no column '.join(absent)}.")
    need_images_named(table, file)
    if category is not None and category not in set(table["object"]):
        found = sorted(set(table["object"]))
        near = did_you_mean(category, found)
        raise InputError(f"No category {category!r} in {root}: found {', '.join(found)}.{near}")
    rows = []
    for row in (table if category is None else select(table, object=category)).to_dict("records"):
        if row["label"] not in ("normal", "anomaly"):
            raise InputError(f"{file} labels {row['image']} {row['label']!r}, neither normal nor anomaly.")
        if row["label"] == "anomaly" and not row["mask"]:
            raise InputError(f"{root / row['image']} is anomalous but has no mask in {file}.")
        for name in (row["image"], row["mask"]):
            if name and not (root / name).is_file():
                raise InputError(f"{root / name} does not exist; {file} lists it.")
        anomalous = row["label"] == "anomaly"
        rows.append(
            {
                "image": str(root / row["image"]),
                "mask": str(root / row["mask"]) if anomalous else "",
                "label": int(anomalous),
                "split": row["split"],
                "category": row["object"],
            }
        )
    for name in sorted({row["category"] for row in rows}):
        _need_pairs(root / name / "Data")
    return make_samples(rows, file)


def _need_pairs(data: Path) -> None:
    """The CSV file may list few of the images; on disk, every anomalous one has its mask, and every mask an image."""
    images, masks = data / "Images" / "Anomaly", data / "Masks" / "Anomaly"
    if images.is_dir() and masks.is_dir():
        pair_masks(images_in(images), by_stem(images_in(masks)), ("", "_mask"), masks)
