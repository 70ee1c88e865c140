"""KolektorSDD2: surfaces of production items, normal and defective images side by side (Bozic et al., 2021).

train/NNNNN.png, train/NNNNN_GT.png and so in test/; an image is anomalous when its GT has a value above 0. The
training folder holds 246 anomalous images (of 2331): unsupervised methods train on normal images, so those are left
out; `anomalous_in_train` lists them.
"""

from pathlib import Path

import pandas as pd

from adlib.datasets import Facts
from adlib.datasets.folders import by_stem, need_folders, need_images, only_category, pair_masks
from adlib.samples import make_samples

FACTS = Facts(
    title="KolektorSDD2",
    source="Bozic, Tabernik, Skocaj: Mixed supervision for surface-defect detection, Computers in Industry 2021",
    licence="CC BY-NC-SA 4.0",
    get="`adlib fetch ksdd2 --out DIR`, or unpack KolektorSDD2.zip from vicos.si (Resources, KolektorSDD2), so that "
    "<root>/train and <root>/test exist. 246 anomalous images of train/ are left out: training images must be normal.",
    counts={"ksdd2": (2085, 894, 110)},
    archives=(("https://data.vicos.si/datasets/KSDD/KolektorSDD2.zip", "", 0),),
)


def samples(root: Path, category: str | None = None) -> pd.DataFrame:
    """Samples of the one category "ksdd2", the anomalous training images left out.

    Opens every GT file, since nothing else tells the label. Raises InputError for a missing folder, an image without
    GT or a GT without image, an unreadable GT.
    """
    only_category("ksdd2", category)
    rows = [row for split in ("train", "test") for row in _read(root, split)]
    return make_samples([row for row in rows if row["split"] == "test" or row["label"] == 0], root)


def anomalous_in_train(root: str | Path) -> list[str]:
    """Paths of the anomalous images in train/, which `samples` leaves out: 246 in the published set."""
    return [row["image"] for row in _read(Path(root), "train") if row["label"] == 1]


def _read(root: Path, split: str) -> list[dict]:
    from adlib.images import read_image

    need_folders(root, "train", "test")
    # The published archive has a stray second copy of one pair, "10301 (copy).png" and "10301_GT (copy).png".
    files = [file for file in need_images(root / split) if not file.stem.endswith(" (copy)")]
    images = [file for file in files if not file.stem.endswith("_GT")]
    masks = by_stem(file for file in files if file.stem.endswith("_GT"))
    rows = []
    for image, mask in zip(images, pair_masks(images, masks, ("_GT",), root / split), strict=True):
        anomalous = bool(read_image(mask).any())
        row = {"image": str(image), "mask": str(mask) if anomalous else "", "label": int(anomalous)}
        rows.append(row | {"split": split, "category": "ksdd2"})
    return rows
