"""Panels: the pictures of one sample, the image itself and one per method."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from adlib.inspector import render
from adlib.inspector.joined import Joined
from adlib.inspector.selection import OUTCOMES
from adlib.samples import UNKNOWN

LABELS = {0: "normal", 1: "anomalous", UNKNOWN: "unknown"}
_threads = ThreadPoolExecutor(4, thread_name_prefix="adlib-inspector")  # OpenCV frees the interpreter while it works


@dataclass(frozen=True)
class Look:
    """How panels are drawn.

    window: stored grey levels that become black and white, or None for the whole range of the file's type.
    opacity: weight of the heat map, 0 to 1. palette: one of render.PALETTES. truth: outline the ground truth.
    decided: outline where a map reaches the mask threshold. longest: longer side of a panel in pixels, None: as stored.
    """

    window: tuple[float, float] | None = None
    opacity: float = 0.6
    palette: str = "inferno"
    truth: bool = True
    decided: bool = True
    longest: int | None = 512


def ground(image: np.ndarray, look: Look) -> np.ndarray:
    """The image alone, uint8 RGB. image: as `adlib.images.read_image` returns it."""
    shape = render.fit_shape(image.shape[:2], look.longest)
    return render.picture(image, shape, look.window or render.full_window(image))


def kind_of(image: np.ndarray, levels: tuple[float, float] | None) -> tuple:
    """Images of one kind can share a window: of as many bits, and seen in the same levels. Both of `Joined.read`."""
    return 8 * image.itemsize, levels


def image_panel(drawn: np.ndarray, truth: np.ndarray | None, look: Look) -> np.ndarray:
    """The image with its ground truth outlined. drawn: of `ground`; truth: bool [H, W] of any size, or None."""
    panel = drawn.copy()
    if truth is not None and look.truth:
        render.outline(panel, truth, render.TRUTH)
    return panel


def method_panel(
    drawn: np.ndarray,
    truth: np.ndarray | None,
    scores: np.ndarray | None,
    frame: tuple[float, float, float, float],
    scale: tuple[float, float],
    mask_threshold: float,
    look: Look,
) -> np.ndarray:
    """The image under one method's heat map, with the ground truth and the method's own mask outlined.

    scores: float32 [h, w], the anomaly map, stretched over `frame` (left, top, right, bottom as shares of the image's
    sides; outside it the method saw nothing, and the picture is darkened there; where it reaches past the image, the
    part over the image is drawn); None for a method without maps.
    scale: the scores of the palette's ends. mask_threshold: scores from here on belong to the method's mask.
    """
    panel = drawn.copy()
    if scores is not None:
        shape = panel.shape[:2]
        rows, columns = render.box_of(frame, shape)
        over = render.laid(scores, frame, shape)[rows, columns]
        seen = render.heat(np.ascontiguousarray(panel[rows, columns]), over, scale, look.opacity, look.palette)
        if seen.shape != panel.shape:
            panel //= 2
        panel[rows, columns] = seen
        if look.decided:
            # The decision is made at the map's own pixels, so that the outline is that of the numbers.
            own = render.laid((scores >= mask_threshold).view(np.uint8), frame, shape, cv2.INTER_NEAREST)
            whole = np.zeros(shape, bool)
            whole[rows, columns] = own[rows, columns] > 0
            render.outline(panel, whole, render.DECIDED, dashed=True)
    if truth is not None and look.truth:
        render.outline(panel, truth, render.TRUTH)
    return panel


@dataclass(frozen=True)
class Decision:
    """What one method says about one sample: its score, its outcome ("TP" ...), its mask's threshold, and its colour
    scale, None for the range of each map.
    """

    score: float
    outcome: str
    mask_threshold: float
    scale: tuple[float, float] | None


def draw_sample(
    joined: Joined, index: int, look: Look, decisions: list[Decision], methods: Sequence[int]
) -> tuple[list[dict], list[np.ndarray | None]]:
    """The panels of one sample for the canvas, its image first, and its maps, one per method (None for a method without
    maps, and for one that is not drawn).

    decisions: one per method. methods: the numbers of those that are drawn.
    Raises InputError if the image or its mask cannot be read.
    """
    truth = joined.mask(index)
    drawn = _ground(joined, index, look.window, look.longest)
    maps = [joined.map(index, method) if method in methods else None for method in range(len(decisions))]
    name = joined.samples["image"].iat[index].replace("\\", "/").rpartition("/")[2]
    sample = joined.samples.iloc[index]
    said = f"{name}, {LABELS[sample['label']]}"
    marked = "" if truth is None else ", ground truth outlined" if look.truth else ""

    def image() -> dict:
        png = render.png(image_panel(drawn, truth, look))
        caption = " · ".join(filter(None, (sample["category"], sample["defect"])))
        return {
            "title": "image",
            "caption": caption,
            "alt": f"Image {said}{marked}.",
            "png": png,
            "low": "",
            "high": "",
        }

    def method(number: int) -> dict:
        decision, scores, title = decisions[number], maps[number], joined.names[number]
        none, lacks = "no anomaly map of", "no map"
        if joined.maps_dropped(number):
            none, lacks = "no anomaly map was kept of", "its map was not kept"
        finite = None if scores is None else scores[np.isfinite(scores)]
        if finite is not None and not finite.size:
            none, lacks, scores = "an anomaly map without a finite number of", "its map holds no finite number", None
        low, high = decision.scale or ((0, 1) if scores is None else (float(finite.min()), float(finite.max())))
        panel = method_panel(
            drawn, truth, scores, joined.frame(number, index), (low, high), decision.mask_threshold, look
        )
        verdict = f"{decision.outcome}: {OUTCOMES[decision.outcome]}, score {decision.score:.5g}"
        kind = none if scores is None else "anomaly map over the image"
        ends = {"low": "", "high": ""} if scores is None else {"low": f"{low:.4g}", "high": f"{high:.4g}"}
        return {
            "title": title,
            "caption": verdict + (f" ({lacks})" if scores is None else ""),
            "alt": f"{title}, {kind} {said}{marked}; {verdict}.",
            "png": render.png(panel),
        } | ends

    jobs = [_threads.submit(image), *(_threads.submit(method, number) for number in methods)]
    return [job.result() for job in jobs], maps


def pointer_values(joined: Joined, index: int, look: Look, maps: list[np.ndarray | None]) -> dict:
    """The numbers behind a sample's panels, for the read-out under the pointer: `Canvas.values`."""
    image = joined.image(index)
    grey = render.stored_values(image, render.fit_shape(image.shape[:2], look.longest))
    return {
        "size": list(image.shape[:2]),
        "grey": grey.astype(grey.dtype.newbyteorder("<")).tobytes(),
        "bits": 8 * grey.itemsize,
        "shape": [*grey.shape[:2], 1 if grey.ndim == 2 else grey.shape[2]],
        "maps": [
            {"name": name, "data": None}
            if scores is None
            else {
                "name": name,
                "data": scores.astype("<f4").tobytes(),
                "shape": list(scores.shape),
                "frame": list(joined.frame(number, index)),
            }
            for number, (name, scores) in enumerate(zip(joined.names, maps, strict=True))
        ],
    }


@lru_cache(2)
def _ground(joined: Joined, index: int, window: tuple | None, longest: int | None) -> np.ndarray:
    return ground(joined.image(index), Look(window, longest=longest))


def forget() -> None:
    """Forget the pictures that are kept: the files have changed."""
    _ground.cache_clear()
