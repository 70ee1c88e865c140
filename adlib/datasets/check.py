"""Check a dataset on disk: counts against the published ones, unreadable files, masks, duplicates by content.

Unlike loading, which stops at the first mistake, this opens every file and lists all that it finds.
"""

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from adlib import samples as table_of
from adlib.datasets import facts, load_samples
from adlib.errors import InputError
from adlib.images import read_image, read_mask


@dataclass
class Findings:
    """What `check` found; `problems` make the set unfit to run on, `remarks` are worth knowing."""

    counts: pd.DataFrame  # per category: found and published counts, `agrees`
    problems: list[str]
    remarks: list[str]


def check(name: str, root: str | Path, category: str | None = None, progress: bool = True) -> Findings:
    """Open every image and mask of a dataset and say what is wrong with it.

    Problems: unreadable files, a mask of another size than its image, an anomalous image whose mask is empty,
    a test image that is also a training image (same bytes). Remarks: phantom data, counts that differ from the
    published ones, equal files inside a split, 16-bit images that use little of their range.
    Raises InputError where the samples themselves cannot be listed.
    """
    samples = load_samples(name, root, category)
    problems, remarks = [], []
    if drawn := table_of.phantom_facts(samples):
        remarks.append(f"This is a phantom, drawn by adlib with seed {drawn['seed']}: not the real data set.")

    by_content = defaultdict(list)
    grey_maximum = defaultdict(int)
    for row in tqdm(samples.itertuples(), total=len(samples), desc="check", disable=not progress):
        try:
            image = read_image(row.image)
            by_content[hashlib.sha256(Path(row.image).read_bytes()).digest()].append(row)
            grey_maximum[image.dtype] = max(grey_maximum[image.dtype], image.max())
            if row.mask:
                foreground = read_mask(row.mask, shape=image.shape[:2], image=row.image)
                if row.label == 1 and not foreground.any():
                    problems.append(f"{row.image} is in an anomalous folder but its mask {row.mask} is empty.")
                elif row.label == 0 and foreground.any():
                    problems.append(f"{row.image} is labelled normal but its mask {row.mask} is not empty.")
        except InputError as error:
            problems.append(str(error))

    for same in by_content.values():
        if len(same) > 1:
            splits = {row.split for row in same}
            text = f"{same[0].image} has the same bytes as {same[1].image}" + (
                f" and {len(same) - 2} more" if len(same) > 2 else ""
            )
            (problems if len(splits) > 1 else remarks).append(
                f"{text}: {'shared by ' + ' and '.join(sorted(splits)) if len(splits) > 1 else 'a duplicate'}."
            )
    brightest = grey_maximum.get(np.dtype(np.uint16), 0)
    if 0 < brightest < 2**14:
        top = 2 ** int(brightest).bit_length() - 1
        remarks.append(
            f"The 16-bit images never exceed {brightest}: on the default scale (65535 = white) they are almost "
            f"black. Give window=(0, {top}) to ImageSet, or --set window=0,{top}."
        )
    published = facts(name).count_table()
    if category is not None:  # named as in the samples: some sets know a category by two names
        published = published[published.index.isin(samples["category"])]
    counts = _compare(table_of.count(samples), published)
    for row in counts[~counts["agrees"]].itertuples():
        remarks.append(f"{row.Index}: {row.found} images found, {row.published} published.")
    return Findings(counts, problems, remarks)


def _compare(found: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Per category the counts "train / test normal / test anomalous" as found and as published."""
    columns = ["train", "test_normal", "test_anomalous"]

    def text(table: pd.DataFrame) -> pd.Series:
        return table[columns].astype(int).astype(str).agg(" / ".join, axis=1) if len(table) else pd.Series()

    both = pd.DataFrame({"found": text(found), "published": text(published)}).fillna("none")
    both["agrees"] = (both["found"] == both["published"]) | (len(published) == 0)
    return both.rename_axis("category")
