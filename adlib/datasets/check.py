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

from adlib import hdf5
from adlib import samples as table_of
from adlib.datasets import beside_published, isp_ad, left_out, load_samples
from adlib.datasets.mvtec_tree import masks_of_normal
from adlib.decoding import resizing
from adlib.decoding.masks import RESIZES, Fate, fit_mask, inspect_mask
from adlib.decoding.pictures import read_image
from adlib.errors import InputError
from adlib.parameters import Side, checked


@dataclass
class Findings:
    """What `check` found; `problems` make the set unfit to run on, `remarks` are worth knowing."""

    counts: pd.DataFrame  # per category: found and published counts, `agrees`
    problems: list[str]
    remarks: list[str]


def check(
    name: str,
    root: str | Path,
    category: str | None = None,
    progress: bool = True,
    size: int | tuple[int, int] | None = None,
    crop: int | tuple[int, int] | None = None,
    **options,
) -> Findings:
    """Open every image and mask of a dataset and say what is wrong with it.

    size, crop: as of ImageSet; count the defects that vanish there. options: as of load_samples.
    Problems: unreadable files, a mask of another size than its image, one that its rule refuses, an anomalous image
    whose mask is empty, a normal one whose mask is not, a test image that is also a training image (same pixels), one
    that is both normal and anomalous, an item in training and test. Opened too, but not counted: masks of normal
    images, and ISP-AD's real defects and HDF5 files, which other trainings take. Remarks: phantom data, counts that
    differ from the published ones, equal images inside a split, 16-bit images that use little of their range, pictures
    that are no samples, every mask that is not plain and what was made of it, masks that cover more than half of
    their image, and what is lost at the given size.
    Raises InputError where the samples themselves cannot be listed, and for a size or crop that cannot be.
    """
    if crop is not None and size is None:
        raise InputError(f"crop={crop} is cut out of images of a size: give size too.")
    fates = None if size is None else _Fates(size, crop)
    samples = load_samples(name, root, category, **options)
    problems, remarks = [], []
    if drawn := table_of.phantom_facts(samples):
        remarks.append(f"This is a phantom, drawn by adlib with seed {drawn['seed']}: not the real data set.")

    remarks += left_out(name, root, samples, category, options)
    if torn := table_of.torn_items(samples):
        problems.append(f"{len(torn)} items have images in training and in another split, such as {torn[0]}.")
    if unknown := int((~table_of.is_known(samples)).sum()):
        remarks.append(f"The label of {unknown} test images is unknown: they are scored and listed, never counted.")

    masks, more = masks_of_normal(samples), samples.iloc[:0]
    if name == "isp_ad":
        more, unread = isp_ad.beside(samples)
        problems += unread
    # By pixels: a copy whose file says another date, or is of another format, is a copy all the same.
    by_content, bytes_of = defaultdict(list), {}
    unusual = defaultdict(list)
    grey_maximum = defaultdict(int)
    opened = [*samples.itertuples(), *more.itertuples()]
    for row in tqdm(opened, desc="check", disable=not progress):
        try:
            image = read_image(row.image)
            pixels = f"{image.shape} {image.dtype}".encode() + np.ascontiguousarray(image).tobytes()
            stored = pixels if hdf5.split_name(row.image) else Path(row.image).read_bytes()
            by_content[hashlib.sha256(pixels).digest()].append(row)
            bytes_of[row.image] = hashlib.sha256(stored).digest()
            grey_maximum[image.dtype] = max(grey_maximum[image.dtype], image.max())
            if mask := row.mask or masks.get(row.image, ""):
                rule = getattr(row, "mask_rule", "")
                reading = inspect_mask(mask, image.shape[:2], row.image, rule)
                foreground, share = reading.foreground, reading.foreground.mean()
                if reading.said:
                    unusual[reading.said.split(" (")[0]].append(
                        f"The mask {mask} has {reading.said}; {share:.2%} of the image."
                    )
                if share > 0.5:
                    unusual["large"].append(f"The mask {mask} covers {share:.0%} of its image.")
                if fates and row.mask:
                    fates.add(row.image, foreground)
                if row.label == 1 and not foreground.any():
                    problems.append(f"{row.image} is in an anomalous folder but its mask {mask} is empty.")
                elif row.label == 0 and foreground.any():
                    problems.append(f"{row.image} is labelled normal but its mask {mask} is not empty.")
        except InputError as error:
            problems.append(str(error))

    for texts in unusual.values():
        remarks += texts
    remarks += fates.remarks() if fates else []
    for same in by_content.values():
        if len(same) > 1:
            by_split, by_label = ({getattr(row, key): row for row in reversed(same)} for key in ("split", "label"))
            splits, contradiction = sorted(by_split), {0, 1} <= by_label.keys()
            one, other = [by_split[split] for split in splits][:2] if len(splits) > 1 else same[:2]
            if len(splits) == 1 and contradiction:
                one, other = by_label[0], by_label[1]
            equal = "bytes" if bytes_of[one.image] == bytes_of[other.image] else "pixels"
            text = f"{one.image} has the same {equal} as {other.image}"
            text += f" and {len(same) - 2} more" if len(same) > 2 else ""
            said = [f"shared by {' and '.join(splits)}"] if len(splits) > 1 else []
            said += ["one normal, one anomalous"] if contradiction else []
            (problems if said else remarks).append(f"{text}: {', '.join(said) or 'a duplicate'}.")
    brightest = grey_maximum.get(np.dtype(np.uint16), 0)
    if 0 < brightest < 2**14:
        top = 2 ** int(brightest).bit_length() - 1
        remarks.append(
            f"The 16-bit images never exceed {brightest}: on the default scale (65535 = white) they are almost "
            f"black. Give window=(0, {top}) to ImageSet, or --set window=0,{top}."
        )
    counts = beside_published(name, samples, category)
    for row in counts[~counts["agrees"]].itertuples():
        remarks.append(f"{row.Index}: {row.found} images found, {row.published} published.")
    return Findings(counts, problems, remarks)


class _Fates:
    """What becomes of all defect regions at one size, by either way of resizing masks."""

    def __init__(self, size: int | tuple[int, int], crop: int | tuple[int, int] | None):
        pairs = [
            checked(name, sides, Side | tuple[Side, Side] | None) for name, sides in (("size", size), ("crop", crop))
        ]
        self.size, self.crop = ((sides, sides) if isinstance(sides, int) else sides for sides in pairs)
        if self.crop and (self.crop[0] > self.size[0] or self.crop[1] > self.size[1]):
            raise InputError(f"crop={crop} is larger than size={size}.")
        self.fates: dict[str, list[Fate]] = {how: [] for how in RESIZES}
        self.empty: dict[str, list[str]] = {how: [] for how in RESIZES}

    def add(self, image: str, mask: np.ndarray) -> None:
        shape = self.crop or self.size
        for how in RESIZES:
            small, fate = fit_mask(mask, self.size, resizing.crop_corner(self.size, shape), shape, how)
            self.fates[how].append(fate)
            if fate.regions and not small.any():
                self.empty[how].append(image)

    def remarks(self) -> list[str]:
        where = "x".join(map(str, self.size)) + (f", cropped to {'x'.join(map(str, self.crop))}" if self.crop else "")
        texts = []
        if not self.fates["area"]:
            return ["There are no masks, so no size takes any away."]
        for how, fates in self.fates.items():
            lost, regions = sum(fate.lost for fate in fates), sum(fate.regions for fate in fates)
            cut, empty = sum(fate.cut for fate in fates), self.empty[how]
            named = f" ({', '.join(empty[:3])}{' ...' if len(empty) > 3 else ''})" if empty else ""
            texts.append(
                f"At {where}, with mask_resize={how}: {lost} of {regions} defect regions have no ground truth left and "
                f"{cut} are cut by the crop; {len(empty)} of {len(fates)} masks are empty{named}."
            )
        return texts
