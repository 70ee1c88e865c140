"""BTAD: three industrial products with body and surface defects (Mishra et al., ISIE 2021)."""

from pathlib import Path

import pandas as pd

from adlib.datasets import Facts
from adlib.datasets.mvtec_tree import read_categories

FACTS = Facts(
    title="BTAD",
    source="Mishra, Verk, Fornasier, Piciarelli, Foresti: VT-ADL, a vision transformer network for image anomaly "
    "detection and localization, ISIE 2021",
    licence="CC BY-SA or CC BY-NC-SA 4.0: sources disagree",
    get="`adlib fetch btad --out DIR`, or unpack btad.zip from avires.dimi.uniud.it; <root> is its folder "
    "BTech_Dataset_transformed, so that <root>/01/train/ok exists.",
    counts={"01": (400, 21, 49), "02": (399, 30, 200), "03": (1000, 400, 41)},
    archives=(
        (
            "https://avires.dimi.uniud.it/papers/btad/btad.zip",
            "461c9387e515bfed41ecaae07c50cf6b10def647b36c9e31d239ab2736b10d2a",
            0,
        ),
    ),
)


def samples(root: Path, category: str | None = None) -> pd.DataFrame:
    """Samples of all products below root, or of one ("01").

    Normal folders are named ok, defective ones ko. Masks pair by name whatever their suffix: images and masks are bmp
    or png, differently per product and per copy of the set.
    """
    return read_categories(root, category, normal_names=("ok",))
