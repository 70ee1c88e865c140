"""Texture-AD: cloth, wafer and metal plate, tested on other sub-classes than trained on (Lei et al., 2024).

The archives' layout is not published. Read here: the MVTec scheme once per sub-class, below its product. A sub-class
may have training images, test images or both.
"""

from pathlib import Path

import pandas as pd

from adlib.datasets import Facts
from adlib.datasets.folders import find_categories, folders_in
from adlib.datasets.mvtec_tree import read_category
from adlib.errors import InputError

ADDRESS = "https://huggingface.co/datasets/texture-ad/Texture-AD-Benchmark/resolve/main"

FACTS = Facts(
    title="Texture-AD",
    source="Lei, Wang, Chen, Cao, Zou: Texture-AD, an anomaly detection dataset and benchmark for real algorithm "
    "development, arXiv 2409.06367",
    licence="Apache-2.0",
    get="`adlib fetch texture_ad --out DIR` fetches Cloth.zip and Wafer.zip from huggingface.co/datasets/texture-ad/"
    "Texture-AD-Benchmark (metal plate is not there); lay it out as <root>/cloth/<sub-class>/train/good, test/good, "
    "test/<defect>, ground_truth/<defect>/NAME_mask.png, and so for wafer and metal; call the tested "
    "sub-classes subclass1, subclass2 ..., as the rows of the paper's tables.",
    totals={"cloth": (4569, 1714), "wafer": (10525, 4336), "metal": (13879, 8097)},  # Fig. 2
    unknown="folder and file names, which sub-classes are tested, normal and anomalous test images apart",
    archives=((f"{ADDRESS}/Cloth.zip", "", 4_600_000_000), (f"{ADDRESS}/Wafer.zip", "", 8_160_000_000)),
)


def samples(root: Path, category: str | None = None) -> pd.DataFrame:
    """Samples of all products below root, or of one ("cloth", "wafer", "metal"); `group` is the sub-class.

    A product trains on all its sub-classes together. One test sub-class: adlib.samples.select(samples, split="test",
    group=...). Raises InputError as adlib.datasets.mvtec_tree does, and for a product without training images.
    """
    products = find_categories(
        root, category, is_category=_is_product, holds="<sub-class>/train or <sub-class>/test", name_of=_product
    )
    tables = []
    for product, folder in products.items():
        parts = [
            read_category(child, product, group=child.name, train_required=False)
            for child in folders_in(folder)
            if _is_subclass(child)
        ]
        table = pd.concat(parts, ignore_index=True)
        if not (table["split"] == "train").any():
            raise InputError(f"{folder} holds no sub-class with train/good: a product needs training images.")
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _product(folder_name: str) -> str:
    """ "cloth", "wafer" or "metal" for Cloth, WAFER, metal_plate ..."""
    name = folder_name.lower()
    return "metal" if name.startswith("metal") else name


def _is_subclass(folder: Path) -> bool:
    return (folder / "train").is_dir() or (folder / "test").is_dir()


def _is_product(folder: Path) -> bool:
    return folder.is_dir() and not _is_subclass(folder) and any(map(_is_subclass, folders_in(folder)))
