"""MVTec AD: 15 categories of objects and textures (Bergmann et al., CVPR 2019)."""

from pathlib import Path

import pandas as pd

from adlib.datasets import Facts
from adlib.datasets.mvtec_tree import read_categories

FACTS = Facts(
    title="MVTec AD",
    source="Bergmann, Fauser, Sattlegger, Steger: MVTec AD, a comprehensive real-world dataset for unsupervised "
    "anomaly detection, CVPR 2019",
    licence="CC BY-NC-SA 4.0",
    get="download mvtec_anomaly_detection.tar.xz from mvtec.com (Research, Datasets, MVTec AD), or by `adlib fetch "
    "mvtec_ad --out DIR`, and unpack it, so that <root>/bottle/train/good exists.",
    counts={
        "bottle": (209, 20, 63),
        "cable": (224, 58, 92),
        "capsule": (219, 23, 109),
        "carpet": (280, 28, 89),
        "grid": (264, 21, 57),
        "hazelnut": (391, 40, 70),
        "leather": (245, 32, 92),
        "metal_nut": (220, 22, 93),
        "pill": (267, 26, 141),
        "screw": (320, 41, 119),
        "tile": (230, 33, 84),
        "toothbrush": (60, 12, 30),
        "transistor": (213, 60, 40),
        "wood": (247, 19, 60),
        "zipper": (240, 32, 119),
    },
    archives=(
        (
            "https://www.mydrive.ch/shares/38536/3830184030e49fe74747669442f0f283/download/420938113-1629960298/"
            "mvtec_anomaly_detection.tar.xz",
            "cf4313b13603bec67abb49ca959488f7eedce2a9f7795ec54446c649ac98cd3d",
            0,
        ),
    ),
)


def samples(root: Path, category: str | None = None) -> pd.DataFrame:
    """Samples of all categories below root, or of one. Every anomalous image must have its mask."""
    return read_categories(root, category)
