"""CVC-ColonDB: colonoscopy frames with polyps, an auxiliary training set of AdaCLIP (Cao et al., ECCV 2024).

Read here: <root>/images/NAME and <root>/masks/NAME with the polyp as foreground. Every frame is taken for an anomalous
test image, since every frame shows a polyp; there are no normal and no training images.
"""

from pathlib import Path

import pandas as pd

from adlib.datasets import Facts
from adlib.datasets.folders import by_stem, need_folders, need_images, only_category, pair_masks
from adlib.samples import make_samples

FACTS = Facts(
    title="CVC-ColonDB",
    source="Computer Vision Center, Barcelona; used by Cao et al., AdaCLIP, ECCV 2024, arXiv 2407.15795",
    licence="not stated",
    get="get it from mv.cvc.uab.es/projects/colon-qa/cvccolondb, or the copy that the README of "
    "github.com/caoyunkang/AdaCLIP links; lay it out as <root>/images/NAME.png and <root>/masks/NAME.png.",
    unknown="official layout, number of images, licence. Assumed: images/ and masks/, equal names, every image "
    "anomalous and for test",
)


def samples(root: Path, category: str | None = None) -> pd.DataFrame:
    """Samples of the one category "colondb": anomalous test images alone, each with its mask of the same name."""
    only_category("colondb", category)
    need_folders(root, "images", "masks")
    images, masks = need_images(root / "images"), root / "masks"
    pairs = zip(images, pair_masks(images, by_stem(need_images(masks)), ("", "_mask"), masks), strict=True)
    return make_samples(
        [
            {"image": str(image), "mask": str(mask), "label": 1, "category": "colondb", "defect": "polyp"}
            for image, mask in pairs
        ],
        root,
    )
