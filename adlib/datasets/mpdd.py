"""MPDD: painted and bare metal parts, six categories (Jezek et al., ICUMT 2021)."""

from pathlib import Path

import pandas as pd

from adlib.datasets import Facts
from adlib.datasets.mvtec_tree import read_categories

FACTS = Facts(
    title="MPDD",
    source="Jezek, Jonak, Burget, Dvorak, Skotak: Deep learning-based defect detection of metal parts, ICUMT 2021",
    licence="CC BY-NC-SA 4.0",
    get="download it in a browser from the link in the README of github.com/stepanje/MPDD and unpack it, so that "
    "<root>/bracket_black/train/good exists.",
    counts={
        "bracket_black": (289, 32, 47),
        "bracket_brown": (185, 26, 51),
        "bracket_white": (110, 30, 30),
        "connector": (128, 30, 14),
        "metal_plate": (54, 26, 71),
        "tubes": (122, 32, 69),
    },
)


def samples(root: Path, category: str | None = None) -> pd.DataFrame:
    """Samples of all categories below root, or of one. Every anomalous image must have its mask."""
    return read_categories(root, category)
