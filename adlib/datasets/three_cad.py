"""The set 3CAD: surfaces of aluminium, copper and iron parts, eight classes (Yang, Xing et al., AAAI 2025)."""

from pathlib import Path

import pandas as pd

from adlib.datasets import Facts
from adlib.datasets.mvtec_tree import read_categories

# folder name -> the paper's name
CATEGORIES = {
    "Aluminum_Camera_Cover": "ACC",
    "Aluminum_Ipad": "AI",
    "Aluminum_Middle_Frame": "AMF",
    "Aluminum_New_Middle_Frame": "ANMF",
    "Aluminum_New_Ipad": "ANI",
    "Aluminum_Pc": "AP",
    "Copper_Stator": "CS",
    "Iron_Stator": "IS",
}

FACTS = Facts(
    title="3CAD",
    source="Yang, Xing et al.: 3CAD, AAAI 2025",
    licence="not stated",
    get="download it in a browser from the Google Drive link in the README of github.com/EnquanYang2022/3CAD (file "
    "1BIX0H8TZp0wmrAnXPw8_aCAIX1j1Fzwz) and unpack it, so that <root>/Aluminum_Camera_Cover/train/good exists "
    "(folders named ACC, AI ... are read too).",
    # Table 1
    counts={
        "ACC": (784, 369, 1077),
        "AI": (2096, 913, 1134),
        "AMF": (1548, 731, 748),
        "ANMF": (1072, 670, 736),
        "ANI": (2233, 999, 3937),
        "AP": (1698, 911, 2250),
        "CS": (409, 196, 763),
        "IS": (653, 295, 817),
    },
    unknown="licence; the folder names of the archive with Pinyin names",
)


def samples(root: Path, category: str | None = None) -> pd.DataFrame:
    """Samples of all classes below root, or of one, which may be given as "ACC" or as "Aluminum_Camera_Cover".

    A mask has its image's name, without "_mask". Every anomalous image must have its mask.
    """
    return read_categories(root, category, lambda name: CATEGORIES.get(name, name), mask_endings=("", "_mask"))
