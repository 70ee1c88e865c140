"""What the metrics accept: arrays, tensors, lists, iterators and files, checked and made plain NumPy."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from adlib.errors import InputError


def is_tensor(values) -> bool:
    """True for a torch tensor; does not import torch."""
    return hasattr(values, "detach") and hasattr(values, "device")


def is_array(values) -> bool:
    return isinstance(values, np.ndarray) or is_tensor(values)


def to_numpy(values) -> np.ndarray:
    """NumPy view (or copy, where dtype or device ask for one) of an array, a tensor or nested numbers.

    bfloat16, which NumPy does not have, becomes float32; that is exact.
    """
    if is_tensor(values):
        values = values.detach()
        if str(values.dtype) == "torch.bfloat16":
            values = values.float()
        return values.cpu().numpy()
    return np.asarray(values)


def as_scores(values, name: str, keep: bool = False) -> np.ndarray:
    """Scores as float32 where that is exact (floats up to float32, bool, integers of 8 and 16 bits), else
    as float64. Raises InputError, naming the input, for anything that is not a finite real number, and for numbers
    that float64 would round, as integers beyond 2**53: two scores might become one. keep: leave those in their own
    dtype instead, for who only compares them."""
    array = to_numpy(values)
    kind, size = array.dtype.kind, array.dtype.itemsize
    if array.dtype.name == "bfloat16" or (kind == "f" and size < 4) or (kind in "biu" and size < 4):
        array = array.astype(np.float32)
    elif kind in "iu" or (kind == "f" and size > 8):
        rounded = array.astype(np.float64)
        if size < 8 or not (lost := _first_rounded(array, rounded)):
            array = rounded
        elif not keep:
            raise InputError(
                f"{name}: the score {lost} is beyond what float64 holds exactly ({array.dtype} was given), so that "
                "scores would be rounded into ties; subtract what they have in common, or give their ranks"
            )
    elif kind != "f":
        raise InputError(f"{name}: scores must be real numbers, not {array.dtype}")
    elif not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))
        raise InputError(
            f"{name}: {len(bad)} of {array.size} scores are not finite (first: {array[tuple(bad[0])]} at "
            f"{bad[0].tolist()}); a detector that returns NaN or Inf has failed there, so look at its input or training"
        )
    return array


def _first_rounded(array: np.ndarray, rounded: np.ndarray) -> str:
    """The first of the numbers that its float64 is not equal to; "" if there is none."""
    if array.dtype.kind == "f":
        other = np.flatnonzero((array != rounded).ravel() & np.isfinite(array).ravel())
        return str(array.ravel()[other[0]]) if len(other) else ""
    large = np.flatnonzero((np.abs(rounded) >= 2**53).ravel())
    exact, given = rounded.ravel()[large].tolist(), array.ravel()[large].tolist()
    return next((str(one) for one, other in zip(given, exact, strict=True) if one != int(other)), "")


def _check_not_rounded(values) -> None:
    """Raise InputError where NumPy, making an array of a list, has rounded an integer to a float."""
    for one in values if isinstance(values, (list, tuple)) else ():
        if isinstance(one, (int, np.integer)) and int(float(one)) != int(one):
            raise InputError(f"the score {one} is beyond what float64 holds exactly; give one dtype for all of them")


def as_mask(values, name: str) -> np.ndarray:
    """Ground truth as bool: bool as it is, integers by != 0, floats only where they are exactly 0 or 1."""
    array = to_numpy(values)
    if array.dtype.kind == "b":
        return array
    if array.dtype.kind in "iu":
        return array != 0
    if array.dtype.kind == "f" and ((array == 0) | (array == 1)).all():
        return array != 0
    raise InputError(
        f"{name}: a mask must be bool, integer (anomalous where not 0) or float with only 0 and 1; got "
        f"{array.dtype}{' with other values, so binarise it first' if array.dtype.kind == 'f' else ''}"
    )


def labels_and_scores(labels, scores, keep: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(bool[N] anomalous, float[N] scores) of images. Labels are 0 or 1; the image at fault is named.

    keep: as of `as_scores`.
    """
    labels, given = to_numpy(labels), scores
    scores = to_numpy(given)
    if scores.dtype.kind == "f":
        _check_not_rounded(given)
    if labels.ndim != 1 or scores.ndim != 1 or len(labels) != len(scores):
        raise InputError(
            f"labels and scores must be two lists of one length, one number per image; got shapes "
            f"{labels.shape} and {scores.shape}"
        )
    if labels.size == 0:
        return np.zeros(0, bool), np.zeros(0, np.float32)
    try:
        scores = as_scores(scores, "scores", keep)
    except InputError:
        if scores.dtype.kind == "f" and not np.isfinite(scores).all():
            first = int(np.flatnonzero(~np.isfinite(scores))[0])
            raise InputError(f"image {first}: its score is {scores[first]}, not a finite number") from None
        raise
    wrong = np.flatnonzero(~((labels == 0) | (labels == 1)))
    if len(wrong):
        raise InputError(f"image {wrong[0]}: its label is {labels[wrong[0]]!r}; 0 is normal, 1 is anomalous")
    return labels == 1, scores


def load_array(item, name: str):
    """An array or tensor as it is; the path of a map read (.npy memory-mapped, anything else as an image)."""
    if not isinstance(item, (str, Path)):
        return item if is_array(item) else np.asarray(item)
    path = Path(item)
    if not path.is_file():
        raise InputError(f"{name}: there is no file {str(item)!r}")
    if path.suffix == ".npy":
        return np.load(path, mmap_mode="r")
    import cv2

    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise InputError(f"{name}: {path} can be read neither as .npy nor as an image")
    if image.ndim == 3:
        if (image[..., :3] != image[..., :1]).any():
            raise InputError(f"{name}: {path} is a colour image; maps have one channel")
        image = image[..., 0]
    return image


def load_mask(item, name: str):
    """As `load_array`, for ground truth: a picture is read as everywhere, by rule "auto" (decoding.masks), to bool."""
    if not isinstance(item, (str, Path)) or Path(item).suffix == ".npy" or not Path(item).is_file():
        return load_array(item, name)
    from adlib.decoding.masks import inspect_mask  # reads pictures, which metrics of arrays need not wait for

    try:
        return inspect_mask(item).foreground
    except InputError as error:
        raise InputError(
            f"{name}: {error} (To name a rule: adlib.decoding.masks.read_mask, and give its array.)"
        ) from error


def planes(array, name: str):
    """[N, H, W] view of [H, W], [N, H, W] or [N, 1, H, W]."""
    if array.ndim == 2:
        return array[None]
    if array.ndim == 4 and array.shape[1] == 1:
        return array[:, 0]
    if array.ndim == 3:
        return array
    raise InputError(f"{name}: expected [H, W], [N, H, W] or [N, 1, H, W], got shape {tuple(array.shape)}")


def _chunks(masks, maps) -> Iterator[tuple]:
    """(mask, map) chunks out of every accepted form."""
    if maps is None:
        for number, pair in enumerate(masks):
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise InputError(f"chunk {number}: expected a pair (mask, map), got {type(pair).__name__}")
            yield tuple(pair)
        return
    if is_array(masks) and is_array(maps):
        yield masks, maps
        return
    masks = planes(masks, "masks") if is_array(masks) else masks
    maps = planes(maps, "maps") if is_array(maps) else maps
    try:
        yield from zip(masks, maps, strict=True)
    except ValueError as error:
        if "zip()" not in str(error):
            raise
        raise InputError(f"masks and maps do not have one length ({error}); there must be one mask per map") from None


def image_pairs(masks, maps=None) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(name, bool[H, W], float[H, W]) for one image after the other, checked.

    masks, maps: arrays or tensors [N, H, W], lists of [H, W] of any sizes, iterators of images or of chunks
    [n, H, W], or paths (of masks, as decoding.masks reads them); or masks alone, an iterable of (mask, map) pairs of
    those. A mask that is the number 0 stands for a normal image. Only one chunk is held at a time.
    """
    index = 0
    for mask, scores in _chunks(masks, maps):
        name = f"image {index}" + (f" ({scores})" if isinstance(scores, (str, Path)) else "")
        if mask is None or (isinstance(mask, str) and not mask):
            raise InputError(
                f"{name} has no mask: pass 0 (or an array of zeros) for a normal image, leave out an "
                "anomalous image whose mask is not known"
            )
        scores = planes(load_array(scores, name), name)
        mask = load_mask(mask, name)
        if mask.ndim == 0 and not mask:
            mask = np.broadcast_to(np.False_, scores.shape)
        mask = planes(mask, f"{name}, mask")
        if tuple(mask.shape) != tuple(scores.shape):
            raise InputError(
                f"{name}: mask {tuple(mask.shape)} and map {tuple(scores.shape)} differ in shape; resize the "
                "map to the mask (or the mask, nearest neighbour, to the map) before scoring"
            )
        if not is_tensor(scores) or scores.device.type != "cpu":  # a tensor of the CPU goes image by image
            scores = to_numpy(scores)
        mask = to_numpy(mask)
        many = len(scores) > 1
        for one_mask, one_map in zip(mask, scores, strict=True):
            label = f"image {index}" if many else name
            yield label, as_mask(one_mask, f"{label}, mask"), as_scores(one_map, label)
            index += 1


def needs_float64(maps) -> bool:
    """True where a list of maps holds at least one that float32 cannot represent exactly."""
    if is_array(maps) or not isinstance(maps, Sequence):
        return False
    kinds = [str(m.dtype).removeprefix("torch.") for m in maps if is_array(m)]
    exact = {"float32", "float16", "bfloat16", "bool", "int8", "uint8", "int16", "uint16"}
    return any(kind not in exact for kind in kinds)


def region_areas(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """8-connected regions of a mask with at least one anomalous pixel.

    mask: bool [H, W]. Returns (int32[anomalous pixels] area of the region of each anomalous pixel, row by
    row; int32[regions] areas).
    """
    import cv2

    _, labels = cv2.connectedComponents(np.ascontiguousarray(mask).view(np.uint8), connectivity=8)
    region = labels[mask]
    areas = np.bincount(region).astype(np.int32)  # areas[0] is 0: label 0 is the background
    return areas[region], areas[1:]


def is_pairs(masks: Iterable) -> bool:
    """True for an iterable of (mask, map) pairs: an iterator, or a list whose first entry is a tuple."""
    if masks is None or is_array(masks):
        return False
    if isinstance(masks, Sequence):
        return len(masks) > 0 and isinstance(masks[0], tuple) and len(masks[0]) == 2
    return isinstance(masks, Iterable)
