"""Masks: which pixels of a ground-truth file are anomalous, and what becomes of them at another size.

A mask is plain when it holds 0 and one other value. Anything else is read by a stated rule, or refused with a sentence
that says what was seen. The rule "auto" goes by the content of the file, never by its suffix:

- one value above 0 beside 0, whatever it is: that value is foreground;
- class numbers (whole values up to 20, as 0, 1, 2, 3), flat grey areas, as of severities or the numbers of instances,
  and flat colours on black: all but 0 and black;
- values between 0 and the brightest, as a lossy or interpolated file has them: what lies above half of the brightest;
- refused: no pixel is 0 (all white, 1 and 2, a coloured background); bright on more than half of the pixels and of the
  border (inverted); dim values that may be areas or the traces of a lossy format; class numbers beside 255, which
  mostly marks pixels to be ignored; several colours that run into each other; class numbers in a JPEG file; negative
  values and NaN; transparency that says something else than the colours.

The other rules are for masks that "auto" refuses, and for those who know better:

nonzero      all that is not 0 or black, alpha aside
half         above half of the brightest value
dark         up to half of the brightest value: bright background, dark defects
background   all that differs from the most frequent colour of the border
alpha        more than half opaque
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from adlib.decoding.pictures import decode
from adlib.errors import InputError

RULES = ("auto", "nonzero", "half", "dark", "background", "alpha")
RESIZES = ("area", "nearest")
_CLASSES = 20  # the highest class number
_SHADES = 32  # more values than these are no class codes
_COLOURS = 16  # nor are more colours
_NEARLY_GREY = 40  # channels of a grey picture differ by less, also behind lossy compression, of 255


@dataclass(frozen=True)
class Reading:
    """foreground: bool [H, W]. said: what was seen and made of it, "" for a plain mask."""

    foreground: np.ndarray
    said: str = ""


def read_mask(path: str | Path, shape: tuple[int, int], image: str | Path = "its image", rule: str = "") -> np.ndarray:
    """Decode one ground-truth mask at full size.

    shape: (H, W) of the image it belongs to; image: that image's path, for the message.
    rule: one of RULES; "" for "auto".
    Returns bool [H, W], foreground as the rule says.
    Raises InputError for an unreadable file, for another size than the image's, and for a mask that the rule refuses.
    """
    return inspect_mask(path, shape, image, rule).foreground


def inspect_mask(
    path: str | Path, shape: tuple[int, int] | None = None, image: str | Path = "its image", rule: str = ""
) -> Reading:
    """As `read_mask`, with what there is to say of the mask. shape: None takes any size."""
    rule = check_rule(rule or "auto")
    pixels, lossy = decode(path, alpha=True)
    if shape is not None and pixels.shape[:2] != tuple(shape):
        raise InputError(
            f"The mask {path} is {pixels.shape[1]}x{pixels.shape[0]} pixels but {image} is {shape[1]}x{shape[0]}."
        )
    if pixels.dtype == bool:
        pixels = pixels.view(np.uint8)
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise InputError(f"The mask {path} holds values that are no numbers (NaN or infinite): correct the file.")
    colours, alpha = (pixels[..., :3], pixels[..., 3]) if pixels.ndim == 3 and pixels.shape[2] == 4 else (pixels, None)
    if rule != "auto":
        return Reading(_by_rule(colours, alpha, rule, path))
    reading = _automatic(colours, lossy, path)
    if alpha is not None and alpha.min() != alpha.max() and ((alpha > alpha.max() / 2) != reading.foreground).any():
        raise _refusal(
            path,
            f"is transparent in part (alpha from {alpha.min()} to {alpha.max()}), and elsewhere than its background is",
            "alpha, or nonzero to ignore the transparency",
        )
    return reading


def check_rule(rule: str) -> str:
    """The rule. Raises InputError for one that is not in RULES."""
    if not isinstance(rule, str) or rule not in RULES:
        raise InputError(f"mask_rule={rule!r} must be one of {', '.join(RULES)}.")
    return rule


def check_resize(how: str) -> str:
    """How masks are resized. Raises InputError for what is not in RESIZES."""
    if how not in RESIZES:
        raise InputError(f"mask_resize={how!r} must be one of {', '.join(RESIZES)}.")
    return how


def _refusal(path: str | Path, seen: str, rules: str) -> InputError:
    return InputError(
        f"The mask {path} {seen}: adlib will not guess what is anomalous. Save it as 0 and 255, or name the rule by "
        f"which it is to be read, mask_rule={rules}."
    )


def _by_rule(colours: np.ndarray, alpha: np.ndarray | None, rule: str, path: str | Path) -> np.ndarray:
    if rule == "alpha":
        if alpha is None or not alpha.any():
            raise InputError(f"The mask {path} has no alpha channel to read, as mask_rule=alpha asks: choose another.")
        return alpha > alpha.max() / 2
    if rule == "background":
        flat = colours if colours.ndim == 3 else colours[..., None]
        found, number = np.unique(_border(flat), axis=0, return_counts=True)
        return (flat != found[number.argmax()]).any(2)
    grey = colours if colours.ndim == 2 else colours.max(2)
    if rule == "nonzero":
        return grey > 0
    above = grey > grey.max() / 2
    return above if rule == "half" else ~above


def _border(pixels: np.ndarray) -> np.ndarray:
    """The pixels along the four sides, [n, ...]."""
    if min(pixels.shape[:2]) < 3:
        return pixels.reshape(-1, *pixels.shape[2:])
    return np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])


def _automatic(colours: np.ndarray, lossy: bool, path: str | Path) -> Reading:
    if colours.ndim == 3:
        spread = int((colours.max(2) - colours.min(2)).max())
        limit = _NEARLY_GREY * (257 if colours.dtype == np.uint16 else 1)
        if spread > (limit if lossy or _has_shades(colours[..., 1]) else 0):
            return _questioned(_of_colours(colours, path), path)
        colours = colours[..., 1]  # green: of a lossy file the channel that keeps brightness best
    return _questioned(_of_grey(colours, lossy, path), path)


def _has_shades(grey: np.ndarray) -> bool:
    """Whether there are more values than a drawing by hand has."""
    return len(_values(grey)) > _SHADES


def _questioned(reading: Reading, path: str | Path) -> Reading:
    """The reading, unless it looks inverted."""
    foreground = reading.foreground
    if 2 * np.count_nonzero(foreground) > foreground.size:
        border = _border(foreground)
        if 2 * np.count_nonzero(border) > border.size:
            raise _refusal(
                path,
                f"is not 0 on {_share(foreground)} of its pixels and {_share(border)} of its border, as an inverted "
                "mask is",
                "dark if so, nonzero if the defect is that large",
            )
    return reading


def _share(foreground: np.ndarray) -> str:
    return f"{np.count_nonzero(foreground) / foreground.size:.0%}"


def _values(grey: np.ndarray) -> np.ndarray:
    """The distinct values, rising."""
    if grey.dtype == np.uint8:
        return np.flatnonzero(cv2.calcHist([grey], [0], None, [256], [0, 256]).ravel())
    if grey.dtype == np.uint16:
        return np.flatnonzero(np.bincount(grey.ravel()))
    return np.unique(grey)


def _of_grey(grey: np.ndarray, lossy: bool, path: str | Path) -> Reading:
    if grey.dtype == np.uint8 and not lossy:  # nearly all masks: no need to count every value
        grey = np.ascontiguousarray(grey)
        low, top, _, _ = cv2.minMaxLoc(grey)
        if low == 0 and not cv2.countNonZero(cv2.inRange(grey, 1, max(top - 1, 0))):
            return Reading(grey != 0)
    values = _values(grey)
    low, top = values[0], values[-1]
    if low == top == 0 or (len(values) == 2 and low == 0 and not (lossy and top <= _CLASSES)):
        return Reading(grey != 0)
    told = _list(values)
    if low == top:
        raise _refusal(path, f"is {low:g} everywhere, so that nothing is background", "nonzero if all is a defect")
    if low < 0:
        raise _refusal(path, f"holds negative values ({told})", "half, or background")
    whole = grey.dtype.kind in "iu" or bool((values == np.round(values)).all())
    small = whole and top > 0 and top <= _CLASSES
    if low > 0 and (small or len(values) <= 2 or low > 0.05 * top):
        raise _refusal(path, f"holds no pixel of value 0 ({told}), so its background is not 0", "dark, or background")
    if small and lossy:
        raise _refusal(path, f"holds class numbers ({told}) that its lossy format has changed", "half, or nonzero")
    if small:
        return Reading(grey != 0, f"class numbers ({told}): all but 0 are foreground")
    if not lossy and low == 0 and whole and len(values) <= 5 and top == 255 and values[-2] <= _CLASSES:
        raise _refusal(
            path,
            f"holds class numbers beside 255 ({told}), which often marks pixels to be ignored",
            "nonzero to count these as anomalous, or half to take 255 alone",
        )
    if not lossy:
        seen = _dark_side(grey, top)
        if seen == "areas":
            return Reading(grey != 0, f"grey areas ({told}): all but 0 are foreground")
        if seen == "either" and len(values) <= _SHADES:
            raise _refusal(
                path,
                f"holds dim values ({told}) that may be areas of their own or the traces of a lossy format",
                "nonzero if they are areas, half if not",
            )
        if seen != "traces" and len(values) > _SHADES and _is_soft(grey, top):
            raise _refusal(path, f"holds areas of middling grey ({told}), neither background nor foreground", "half")
    cut = top / 2
    return Reading(grey > cut, f"values between ({told}), lossy or interpolated: above {cut:g} is foreground")


def _dark_side(grey: np.ndarray, top: float) -> str:
    """What the pixels up to half of the brightest value are, on which alone the two readings of a mask differ.

    "areas": of classes, severities or instances, each even and with sharp borders: foreground; also where there is no
    such pixel. "edges": between dark and bright. "traces" of a lossy format: faint and uneven. "either" where they may
    be one or the other.
    The limits come from drawn masks: 180 of instances, and 766 saved as JPEG or WebP and then as PNG.
    """
    wide = grey if grey.dtype in (np.uint8, np.uint16) else grey.astype(np.float32)
    near = np.ones((3, 3))
    lowest, highest = cv2.erode(wide, near), cv2.dilate(wide, near)
    ramp = (lowest < wide) & (highest > wide)
    dark = (grey > 0) & (grey <= top / 2)
    if not dark.any():
        return "areas"

    def share(chosen: np.ndarray) -> float:
        return np.count_nonzero(chosen & dark) / np.count_nonzero(dark)

    flat = cv2.erode(wide, np.ones((2, 2))) == cv2.dilate(wide, np.ones((2, 2)))  # the lower right of four equal pixels
    flat = cv2.dilate(flat.astype(np.uint8), np.ones((2, 2)), anchor=(0, 0)) > 0
    # Even: beside a pixel lies nothing but its own value and 0.
    least = cv2.erode(np.where(wide > 0, wide, highest.max()).astype(wide.dtype), near)
    even = share((least == wide) & (highest == wide))
    faint = share(grey <= 0.2 * top)
    if share(flat) >= 0.95 and (faint < 0.75 or even >= 0.75):
        # WebP lifts whole blocks beside a blob by a level, and leaves the blob uneven.
        lifted = share(grey <= 0.03 * top) >= 0.5 and len(np.unique(grey[grey > top / 2])) > 1
        return "either" if lifted else "areas"
    if share(ramp) >= 0.5:
        return "edges"
    if faint < 0.75 and max(share(flat), even) >= 0.75:
        return "areas"
    if faint < 0.75:
        return "either"
    # Traces are many specks; a thin line or two of a faint class look like them, but for their number.
    shades = _values(np.where(dark, wide, 0).astype(wide.dtype))[1:]
    if even >= 0.9 and share(grey <= 0.03 * top) < 0.5 and len(shades) <= _SHADES:
        pieces = sum(cv2.connectedComponents((grey == v).view(np.uint8), connectivity=8)[0] - 1 for v in shades)
        if pieces <= 3 * len(shades):
            return "either"
    return "traces"


def _is_soft(grey: np.ndarray, top: float) -> bool:
    """Whether most of what is neither dark nor bright is flat: an area of its own, or a heat map, and no edge."""
    scaled = grey.astype(np.float32) / float(top)
    middle = (scaled > 0.1) & (scaled < 0.9)
    near = np.ones((3, 3))
    flat = cv2.dilate(scaled, near) - cv2.erode(scaled, near) <= 0.08
    return 2 * np.count_nonzero(flat & middle) > np.count_nonzero(middle)


def _of_colours(colours: np.ndarray, path: str | Path) -> Reading:
    if colours.dtype not in (np.uint8, np.uint16):
        raise _refusal(path, f"is coloured, of {colours.dtype} values", "nonzero, or background")
    codes = colours.astype(np.uint64)
    codes = codes[..., 0] << np.uint64(32) | codes[..., 1] << np.uint64(16) | codes[..., 2]
    found, places, number = np.unique(codes, return_inverse=True, return_counts=True)
    named = [tuple(int(c >> s & np.uint64(0xFFFF)) for s in map(np.uint64, (32, 16, 0))) for c in found]
    usual = ", ".join(str(named[i]) for i in np.argsort(-number, kind="stable")[:3])
    told = f"{len(found)} colours, mostly {usual}"
    if found[0] != 0:
        raise _refusal(path, f"is coloured ({told}) and holds no black, so its background is not 0", "background")
    if len(found) > _COLOURS:
        raise _refusal(path, f"is coloured ({told}), and the colours run into each other", "nonzero, or half")
    return Reading(places.reshape(codes.shape) != 0, f"colours ({told}): all but black are foreground")


def _list(values: np.ndarray) -> str:
    if len(values) <= 5:
        return ", ".join(f"{value:g}" for value in values)
    return f"{len(values)} values from {values[0]:g} to {values[-1]:g}"


@dataclass(frozen=True)
class Fate:
    """What becomes of the 8-connected regions of a mask that is resized and cropped.

    regions: in the file. lost: those of which no pixel is left. cut: those that lie partly outside the crop.
    """

    regions: int = 0
    lost: int = 0
    cut: int = 0


def fit_mask(
    mask: np.ndarray,
    size: tuple[int, int],
    corner: tuple[int, int] = (0, 0),
    shape: tuple[int, int] | None = None,
    how: str = "area",
) -> tuple[np.ndarray, Fate]:
    """A mask at the size that is scored, and what it lost on the way.

    mask: bool [H, W]. size: (h, w) after resizing. corner, shape: of the part that is then cut out; None for all.
    how: "area", where a pixel is foreground when at least half of what it covers is, so that areas and outlines stay
        the same on average; a region that reaches half nowhere keeps the pixels that it covers at least half as much
        as the one that it covers most, so that a speck keeps a pixel and a scratch its line. "nearest" takes the
        mask's value in the middle of each pixel, so that what is thinner than a pixel may vanish: the way of anomalib
        and of most papers' evaluations (others, patchcore-inspection and SimpleNet among them, interpolate bilinearly
        and keep what stays exactly 1; RD4AD what stays above one half).
    Returns bool [h, w] (or `shape`) and the Fate of the mask's regions.
    """
    check_resize(how)
    mask = np.ascontiguousarray(mask, bool)
    (height, width), (top, left) = size, corner
    shape = shape or (height - top, width - left)
    part = slice(top, top + shape[0]), slice(left, left + shape[1])
    if not mask.any():
        return np.zeros(shape, bool), Fate()
    x, y, across, down = cv2.boundingRect(mask.view(np.uint8))  # mostly a small part, and all that matters here
    inner = np.ascontiguousarray(mask[y : y + down, x : x + across]).view(np.uint8)
    number, inner_regions = cv2.connectedComponents(inner, connectivity=8)
    columns, rows = cv2.findNonZero(inner).reshape(-1, 2).T
    region = inner_regions[rows, columns] - 1
    columns, rows = columns + x, rows + y
    # The pixel in which the middle of each foreground pixel comes to lie.
    y = ((2 * rows.astype(np.int64) + 1) * height) // (2 * mask.shape[0])
    x = ((2 * columns.astype(np.int64) + 1) * width) // (2 * mask.shape[1])
    if how == "nearest" or (height >= mask.shape[0] and width >= mask.shape[1]):
        small = _nearest(mask, size)
    else:
        small = _covered(mask, size) >= 0.5
        _keep_small_regions(small, region, number - 1, y * width + x)
    inside = (y >= top) & (y < top + shape[0]) & (x >= left) & (x < left + shape[1])
    if how == "nearest":
        regions = np.zeros(mask.shape, np.int32)
        regions[rows, columns] = region + 1
        left_over = np.unique(_nearest(regions, size)[part])
        kept = np.isin(np.arange(1, number), left_over)
    else:
        kept = np.bincount(region[inside & small[y, x]], minlength=number - 1) > 0
    outside = np.bincount(region[~inside], minlength=number - 1) > 0
    return small[part], Fate(number - 1, int((~kept).sum()), int((kept & outside).sum()))


def _nearest(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest neighbour, of pixels' middles: bool or int32 [H, W]."""
    if values.shape == tuple(size):
        return values
    plain = values.view(np.uint8) if values.dtype == bool else values.astype(np.float64)
    small = cv2.resize(plain, (size[1], size[0]), interpolation=cv2.INTER_NEAREST_EXACT)
    return small.astype(values.dtype)


def _covered(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The share of each pixel's area that is foreground, float32; a side that grows is repeated."""
    shrunk = min(size[0], mask.shape[0]), min(size[1], mask.shape[1])
    share = cv2.resize(mask.astype(np.float32), (shrunk[1], shrunk[0]), interpolation=cv2.INTER_AREA)
    return share if shrunk == tuple(size) else cv2.resize(share, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)


def _keep_small_regions(small: np.ndarray, region: np.ndarray, number: int, place: np.ndarray) -> None:
    """Give each region without a pixel of `small` those where most of its own pixels come to lie; changes `small`.

    region, place: int [n], of each foreground pixel of the file: its region, and the flat index into `small`.
    """
    found = np.bincount(region[small.ravel()[place]], minlength=number) > 0
    if found.all():
        return
    lost = ~found[region]
    pairs, count = np.unique(np.stack([region[lost], place[lost]]), axis=1, return_counts=True)
    most = np.zeros(number, count.dtype)
    np.maximum.at(most, pairs[0], count)
    small.ravel()[pairs[1][2 * count >= most[pairs[0]]]] = True
