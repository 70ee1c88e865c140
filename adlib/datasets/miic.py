"""MIIC: scanning electron microscope images of the metal layer of an integrated circuit (Huang et al., ICIP 2021).

Anomaly_test/ repeats images of Anomaly_train/, so training on all of Anomaly_train/ would train on the test set. Here
every training image with the same bytes as a test image is left out: 23,888 normal training images remain.
"""

from pathlib import Path

import pandas as pd

from adlib.datasets import Facts
from adlib.datasets.folders import (
    by_stem,
    content_hash,
    images_in,
    need_folders,
    need_images,
    only_category,
    pair_masks,
)
from adlib.errors import InputError
from adlib.samples import make_samples

FACTS = Facts(
    title="MIIC",
    source="Huang, Cheng, Yang, Lin, Shi, Yang, Gwee, Wen: Joint anomaly detection and inpainting for microscopy "
    "images via deep self-supervised learning, ICIP 2021",
    licence="non-commercial research only",
    get="accept the conditions at doi.org/10.21979/N9/WBLTFI (NTU research data), download and unpack it, so that "
    "<root>/Anomaly_train and <root>/Anomaly_test/normal_img exist.",
    # the set's own description; 25,160 normal images less the 1,272 of the test
    counts={"MIIC": (23888, 1272, 116)},
    unknown="whether file names tell the split. The comparative study (arXiv 2505.07576) prints 1,274 normal test "
    "images, which with its 23,888 training images would be two more than there are",
)


def samples(root: Path, category: str | None = None) -> pd.DataFrame:
    """Samples of the one category "MIIC".

    Train: Anomaly_train/*train_normal_* where there are such names, else everything there; in both cases without the
    images whose content is a test image's. Masks are JPEG (adlib.images.read_mask cuts them at 128) and pair by name:
    NAME.jpg and NAME_mask.jpg.
    Raises InputError for a missing or empty folder, an image without a mask, a mask without an image.
    """
    only_category("MIIC", category)
    need_folders(root, "Anomaly_train", "Anomaly_test")
    test = root / "Anomaly_test"
    normal, abnormal = need_images(test / "normal_img"), need_images(test / "abnormal_img")
    masks = pair_masks(abnormal, by_stem(need_images(test / "abnormal_mask")), ("_mask",), test / "abnormal_mask")
    train = _training_images(root / "Anomaly_train", normal + abnormal)
    rows = [{"image": str(image), "split": "train"} for image in train]
    rows += [{"image": str(image), "split": "test"} for image in normal]
    rows += [
        {"image": str(image), "mask": str(mask), "label": 1, "split": "test"}
        for image, mask in zip(abnormal, masks, strict=True)
    ]
    return make_samples([row | {"category": "MIIC"} for row in rows], root)


def left_out(samples: pd.DataFrame) -> list[str]:
    """A sentence on the training images that `samples` leaves out, because their content is a test image's."""
    folder = next((Path(image).parent for image in samples.loc[samples["split"] == "train", "image"]), None)
    copies = sorted({*map(str, _candidates(folder))} - {*samples["image"]}) if folder else []
    if not copies:
        return []
    return [f"{len(copies)} images in {folder} are test images' copies and are not learned from, such as {copies[0]}."]


def _candidates(folder: Path) -> list[Path]:
    files = images_in(folder)
    return [file for file in files if "train_normal_" in file.name] or files


def _training_images(folder: Path, test: list[Path]) -> list[Path]:
    candidates = _candidates(folder)
    tested = {content_hash(file) for file in test}
    sizes = {file.stat().st_size for file in test}  # only a file of equal size can have equal content
    train = [file for file in candidates if _size(file) not in sizes or content_hash(file) not in tested]
    if not train:
        raise InputError(f"{folder} holds no image that is not also in {folder.parent / 'Anomaly_test'}.")
    return train


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}.") from error
