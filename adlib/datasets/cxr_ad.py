"""CXR-AD: X-ray images of chip packages, five classes (Bai et al., arXiv 2505.03412).

The paper does not describe its files. Read here: the MVTec scheme once per class, images 8- or 16-bit grey,
masks with foreground 1 (as the paper says) or 255; any name of a defect folder.
"""

from pathlib import Path

import pandas as pd

from adlib.datasets import Facts
from adlib.datasets.mvtec_tree import read_categories

FACTS = Facts(
    title="CXR-AD",
    source="Bai, Wang, Li, Li, Zhang, Yang: CXR-AD, Component X-ray Image Dataset for Industrial Anomaly "
    "Detection, arXiv 2505.03412",
    licence="not stated",
    get="the paper calls the set public but prints no address: ask its authors (e-mail on the first page), then "
    "lay it out as <root>/CDIP/train/good, <root>/CDIP/test/good, <root>/CDIP/test/<defect>, "
    "<root>/CDIP/ground_truth/<defect>/NAME_mask.png, and so for CFP16, CFP20, UB, DC.",
    # Table I
    counts={
        "CDIP": (94, 13, 164),
        "CFP16": (54, 10, 60),
        "CFP20": (135, 31, 185),
        "UB": (196, 20, 62),
        "DC": (80, 20, 90),
    },
    unknown="folder and file names, image size, stored bit depth, licence, address",
)


def samples(root: Path, category: str | None = None) -> pd.DataFrame:
    """Samples of all classes below root, or of one. Every anomalous image must have its mask."""
    return read_categories(root, category, normal_names=("good", "normal"))
