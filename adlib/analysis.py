"""What the papers measure about data: grey values, local contrast, defect areas and scales.

All functions take a samples table or plain arrays and return numbers, arrays or tables; pictures are made from them
by adlib.figures. Grey values are on the 8-bit scale 0..255 whatever the file's depth (16-bit values / 257), and
colour images are turned grey by their luminance. Where a file holds another range (a 12-bit detector, say), `window`
names the stored values that become 0 and 255, as in adlib.images.
"""

from collections.abc import Iterator

import cv2
import numpy as np
import pandas as pd

from adlib.errors import InputError
from adlib.images import check_window, image_shape, read_image, read_mask
from adlib.metrics.regions import regions

Window = tuple[float, float] | None


def read_grey(path: str, window: Window = None) -> np.ndarray:
    """An image at full size as float32 [H, W] grey values in 0..255."""
    image = read_image(path, check_window(window))
    scale = 257.0 if image.dtype == np.uint16 else 1.0
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return image.astype(np.float32) / scale


def defects(samples: pd.DataFrame, window: Window = None) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(row, grey float32 [H, W], mask bool [H, W]) of every image with a mask, at full size."""
    for row, sample in enumerate(samples.itertuples()):
        if sample.mask:
            grey = read_grey(sample.image, window)
            yield row, grey, read_mask(sample.mask, grey.shape, sample.image, getattr(sample, "mask_rule", ""))


def grey_histogram(samples: pd.DataFrame, defects_only: bool = False, window: Window = None) -> np.ndarray:
    """How many pixels have each grey level: int64 [256], rounded to whole levels. CXR-AD, eq. 1.

    defects_only: count pixels under the masks alone. The paper's figure is called global while its sentence speaks
    of defects, so both are worth a look.
    """
    counts = np.zeros(256, np.int64)
    if defects_only:
        pictures = (grey[mask] for _, grey, mask in defects(samples, window))
    else:
        pictures = (read_grey(image, window).ravel() for image in samples["image"])
    for grey in pictures:
        counts += np.bincount(np.rint(grey).astype(np.int64), minlength=256)
    return counts


def share_between(histogram: np.ndarray, low: int, high: int) -> float:
    """Share of the pixels whose grey level lies in low..high, both included; NaN for an empty histogram."""
    total = histogram.sum()
    return float(histogram[low : high + 1].sum() / total) if total else float("nan")


def local_contrast(
    samples: pd.DataFrame, background: str = "complement", ring: int = 10, window: Window = None
) -> pd.DataFrame:
    """Local contrast LC = (mean inside the mask - mean of the background) / mean of the background. CXR-AD, eq. 2.

    background: "complement", all pixels outside the mask; or "ring", those within `ring` pixels of it. The paper does
        not say which.
    Returns one row per image with a mask: image, category, mean_defect, mean_background, contrast (signed: positive
    where the defect is brighter). Images whose mask is empty or leaves no background are left out.
    """
    if background not in ("complement", "ring"):
        raise InputError(f"background={background!r} must be 'complement' or 'ring'.")
    rows = []
    for row, grey, mask in defects(samples, window):
        outside = ~mask
        if background == "ring":
            y, x = np.ogrid[-ring : ring + 1, -ring : ring + 1]
            disc = (y**2 + x**2 <= ring**2).astype(np.uint8)  # OpenCV's ellipse reaches half a pixel farther
            outside &= cv2.dilate(mask.view(np.uint8), disc).astype(bool)
        if mask.any() and outside.any():
            inside_mean, outside_mean = float(grey[mask].mean()), float(grey[outside].mean())
            if outside_mean > 0:
                rows.append(
                    {
                        "image": samples["image"].iat[row],
                        "category": samples["category"].iat[row],
                        "mean_defect": inside_mean,
                        "mean_background": outside_mean,
                        "contrast": (inside_mean - outside_mean) / outside_mean,
                    }
                )
    return pd.DataFrame(rows, columns=["image", "category", "mean_defect", "mean_background", "contrast"])


def defect_areas(samples: pd.DataFrame, unit: str = "component") -> pd.DataFrame:
    """Area of every defect in pixels, and as a share of its image.

    unit: "component", each 8-connected region of a mask; or "image", all of a mask together.
    Returns one row per defect: image, category, defect, area (pixels), ratio (of the image's pixels), aspect (ratio, as
    of adlib.metrics.regions). CXR-AD, Fig. 8; 3CAD, Fig. 3; Texture-AD, Fig. 3.
    """
    if unit not in ("component", "image"):
        raise InputError(f"unit={unit!r} must be 'component' or 'image'.")
    rows = []
    for sample in samples.itertuples():
        if not sample.mask:
            continue
        mask = read_mask(sample.mask, image_shape(sample.image), sample.image, getattr(sample, "mask_rule", ""))
        about = {"image": sample.image, "category": sample.category, "defect": sample.defect}
        for pixels, _, aspect in regions(mask, joined=unit == "image"):
            rows.append(about | {"area": len(pixels), "ratio": len(pixels) / mask.size, "aspect": aspect})
    return pd.DataFrame(rows, columns=["image", "category", "defect", "area", "ratio", "aspect"])


def defects_per_image(samples: pd.DataFrame) -> pd.DataFrame:
    """Per category the range of defects in a defective image, as 8-connected regions of its mask, and of defect types.

    Returns the columns images, instances_min, instances_max (NE of 3CAD, Table 1), types (distinct names of defects).
    A defective image whose mask is empty has no region, and counts. How many types one image shows (TE) is not in a
    binary mask, so it is not here.
    """
    shown = samples[(samples["mask"] != "") & (samples["label"] == 1)]
    found = defect_areas(shown).groupby("image").size()
    numbers = shown.assign(regions=shown["image"].map(found).fillna(0).astype(int)).groupby("category")
    ranges = numbers["regions"].agg(["size", "min", "max"])
    ranges.columns = ["images", "instances_min", "instances_max"]
    return ranges.assign(types=numbers["defect"].nunique())


def largest_defect_of(samples: pd.DataFrame) -> pd.Series:
    """The sample with the largest defect, as a connected region. Raises InputError where no mask shows any."""
    areas = defect_areas(samples)
    if areas.empty:
        names = ", ".join(samples["category"].unique())
        raise InputError(f"No mask of {names} shows a defect: name a category that has some.")
    return samples.set_index("image", drop=False).loc[areas.loc[areas["area"].idxmax(), "image"]]


def beside_published(found: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Two tables of numbers as one, for the columns of `found`: every column is a pair, found and published.

    Rows are those of either table; what one of them lacks is <NA>. Whole numbers stay whole.
    """
    published = published.reindex(columns=found.columns)
    both = pd.concat({"found": found, "published": published}, axis=1).swaplevel(axis=1).convert_dtypes()
    both = both[[(name, side) for name in found.columns for side in ("found", "published")]]
    return both.rename(columns=lambda name: name.replace("_", " "), level=0)


def brightness(samples: pd.DataFrame, window: Window = None) -> pd.DataFrame:
    """Mean and standard deviation of every image's grey levels (0..255): what a change of lighting moves.

    Returns the samples' columns image, category, group, split, label with mean and spread.
    """
    table = samples[["image", "category", "group", "split", "label"]].copy()
    moments = [(grey.mean(), grey.std()) for grey in (read_grey(image, window) for image in samples["image"])]
    table[["mean", "spread"]] = np.array(moments, float).reshape(-1, 2)
    return table


def light_shift(levels: pd.DataFrame) -> pd.DataFrame:
    """How far the light of normal test images lies from that of the training images, in the latter's spread.

    levels: of `brightness`, normal images. Training images of a category are taken together, whatever their group: a
    test group need not be among them (Texture-AD tests on other sub-classes than it trains on).
    Returns one row per category and test group: train and test, mean grey levels; spread, the standard deviation of
    the training images' mean grey level; shift = (test - train) / spread.
    """
    train = levels[levels["split"] == "train"].groupby("category")["mean"].agg(train="mean", spread="std")
    test = levels[levels["split"] == "test"].groupby(["category", "group"])["mean"].mean().rename("test")
    table = test.reset_index("group").join(train).set_index("group", append=True)
    return table.assign(shift=(table["test"] - table["train"]) / table["spread"])[["train", "test", "spread", "shift"]]


def image_sizes(samples: pd.DataFrame) -> pd.DataFrame:
    """Per category the least and largest height and width of its images, in pixels. 3CAD, Table 1."""
    shapes = pd.DataFrame([image_shape(image) for image in samples["image"]], columns=["height", "width"])
    found = shapes.groupby(samples["category"].to_numpy()).agg(["min", "max"]).rename_axis("category")
    return found.set_axis(["_".join(column) for column in found.columns], axis="columns")


# Two readings of "small, medium, and large groups based on 1%, 10%, and 50% of the maximum defect area" (CXR-AD, III):
# three thresholds, three groups.
SCALE_READINGS = {"1 % and 10 %": (0.01, 0.10), "10 % and 50 %": (0.10, 0.50)}


def defect_scales(areas: pd.DataFrame, reading: str = "10 % and 50 %", per_category: bool = False) -> pd.DataFrame:
    """Sort defects into small, medium and large by their share of the largest defect's area. CXR-AD, section III.

    areas: from `defect_areas`. reading: a key of SCALE_READINGS; up to the first threshold is small, up to the second
    medium. per_category: compare with the largest defect of the same category, else of all.
    Returns a table with the index small, medium, large and the columns count and share.
    """
    if reading not in SCALE_READINGS:
        raise InputError(f"reading={reading!r} must be one of {', '.join(map(repr, SCALE_READINGS))}.")
    largest = areas.groupby("category")["area"].transform("max") if per_category else areas["area"].max()
    bins = [0, *SCALE_READINGS[reading], 1]
    groups = pd.cut(areas["area"] / largest, bins, labels=["small", "medium", "large"], include_lowest=True)
    counts = groups.value_counts().reindex(["small", "medium", "large"]).fillna(0).astype(int)
    return pd.DataFrame({"count": counts, "share": counts / max(1, counts.sum())}).rename_axis("scale")


def largest_defect(mask: np.ndarray, margin: float = 0.5) -> tuple[slice, slice]:
    """Rows and columns around the largest 8-connected region of a mask, bool [H, W] with one True at least.

    margin: how much of the defect's height and width, four pixels at least, to add on each side.
    """
    stats = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)[2][1:]
    left, top, width, height, _ = stats[stats[:, cv2.CC_STAT_AREA].argmax()]
    down, across = max(4, int(height * margin)), max(4, int(width * margin))
    return slice(max(0, top - down), top + height + down), slice(max(0, left - across), left + width + across)


def grey_peak(
    image: str, mask: str, margin: float = 0.5, mask_rule: str = "", window: Window = None
) -> tuple[np.ndarray, np.ndarray]:
    """The surroundings of an image's largest defect, for a surface plot of its grey values. CXR-AD, Fig. 4.

    margin: how much of the defect's width and height to add on each side. mask_rule: what is foreground in the mask
        file (adlib.decoding.masks), where it must be told.
    Returns grey float32 [h, w] in 0..255 and mask bool [h, w]. Raises InputError for an empty mask.
    """
    grey = read_grey(image, window)
    inside = read_mask(mask, grey.shape, image, mask_rule)
    if not inside.any():
        raise InputError(f"The mask {mask} is empty: there is no defect to show.")
    place = largest_defect(inside, margin)
    return grey[place], inside[place]
