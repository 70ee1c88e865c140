"""Surfaces lit from one side: the maps, shapes and camera that the phantoms of metal parts and of textures share.

Nothing here follows a paper. A surface is a relief with a reflectance; what faces the light is brighter, so that
chamfers, dents and threads need no painting. Lengths are shares of the image's side; maps have twice its resolution.
"""

from collections.abc import Iterable

import cv2
import numpy as np

NOTICEABLE = 5.0  # grey levels of 255 in any channel: a change of less is not in the mask
Window = tuple[slice, slice]


class Surface:
    """Maps of a surface, float32 [side, side].

    height: relief in shares of the side. reflectance: 0 to 1. texture: relative unevenness of the reflectance around 0.
    second, stain: weights 0 to 1 of a second material and of a stain, each with a colour of its own.
    """

    def __init__(self, side: int):
        self.side = side
        self.height, self.reflectance, self.texture, self.second, self.stain = np.zeros((5, side, side), np.float32)

    def copy(self) -> "Surface":
        other = Surface.__new__(type(self))
        other.__dict__ = {name: value.copy() if hasattr(value, "copy") else value for name, value in vars(self).items()}
        return other


def photograph(
    surface: Surface, colours: np.ndarray, towards: tuple[float, float], beam: np.ndarray, relief: float = 0.6
) -> np.ndarray:
    """The surface as a camera without noise sees it: float32 [size, size, 3] in 0..255, half the surface's resolution.

    colours: [3, 3], RGB of the material, of the second material and of the stain, each 0 to 1. towards: from where the
    light comes, x to the right, y down. beam: float32 [side, side], how strong the light is. relief: how much brighter
    a slope towards the light is.
    """
    side = surface.side
    height = cv2.GaussianBlur(surface.height, (0, 0), 0.0035 * side)
    x, y = towards
    uphill = cv2.filter2D(height, -1, np.array([[0, -y, 0], [-x, 0, x], [0, y, 0]], np.float32) * side / 2)
    grey = surface.reflectance * (1 + surface.texture) * (1 - relief * np.tanh(uphill)) * beam
    grey, second, stain = (
        cv2.resize(each, (side // 2, side // 2), interpolation=cv2.INTER_AREA)[..., None]
        for each in (grey, surface.second, surface.stain)
    )
    material, other, dirt = np.asarray(colours, np.float32)
    colour = material + second * (other - material)
    return 255 * grey * (colour + stain * (dirt - colour))


def develop(photo: np.ndarray, random: np.random.Generator, noise: float = 1.5) -> np.ndarray:
    """A photograph with the camera's noise (standard deviation in grey levels): uint8 [size, size, 3]."""
    grain = random.standard_normal(photo.shape, np.float32) * np.float32(noise)
    return np.rint((photo + grain * np.sqrt(0.4 + photo.clip(0, 255) / 200)).clip(0, 255)).astype(np.uint8)


def noticeable(change: np.ndarray, limit: float = NOTICEABLE) -> np.ndarray:
    """Where a defect changes the picture by more than `limit` grey levels: uint8 0 or 1, of the shape of `change`.

    A faint defect in a small image may change no pixel that much; then half of its largest change is the limit, so that
    what is called defective always has a mask.
    """
    return (change > (limit if change.max() > limit else change.max() / 2)).astype(np.uint8)


def changed(photo: np.ndarray, without: np.ndarray, spots: Iterable[Window] = ()) -> np.ndarray:
    """The mask of a defect from photographs with and without it: uint8 [size, size], foreground 255.

    Foreground is what differs noticeably, and gaps in it up to 2 % of the side. spots: where round defects lie on the
    surface, of twice the size; each becomes the convex hull of what differs there: the middle of a dent is part of it.
    """
    differs = noticeable(np.abs(np.clip(photo, 0, 255) - np.clip(without, 0, 255)).max(axis=2))
    reach = max(1, round(0.01 * len(differs)))
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    framed = cv2.copyMakeBorder(differs, reach, reach, reach, reach, cv2.BORDER_CONSTANT, value=0)
    mask = 255 * cv2.morphologyEx(framed, cv2.MORPH_CLOSE, disc)[reach:-reach, reach:-reach]
    for rows, columns in spots:
        top, left = rows.start // 2, columns.start // 2
        points = cv2.findNonZero(mask[top : rows.stop // 2 + 1, left : columns.stop // 2 + 1])
        if points is not None:
            cv2.fillConvexPoly(mask, np.add(cv2.convexHull(points), (left, top)).astype(np.int32), 255)
    return mask


def light(side: int, gain: float, slope: np.ndarray, random: np.random.Generator, uneven: float = 0.03) -> np.ndarray:
    """A beam of the given gain that falls off along `slope` (x, y) and is a little uneven: float32 [side, side]."""
    across = np.linspace(-1, 1, side, dtype=np.float32)
    plane = 1 + np.float32(slope[0]) * across[None, :] + np.float32(slope[1]) * across[:, None]
    return np.float32(gain) * (plane + uneven * clouds(side, 4, random))


def clouds(side: int, cells: int, random: np.random.Generator) -> np.ndarray:
    """Smooth noise, about 1 strong, with `cells` cells along the side: float32 [side, side]."""
    field = random.standard_normal((cells, cells), np.float32)
    return cv2.resize(field, (side, side), interpolation=cv2.INTER_CUBIC)


def brushed(side: int, random: np.random.Generator) -> np.ndarray:
    """Horizontal strokes of a brush, standard deviation 1: float32 [side, side]."""
    long = cv2.resize(random.standard_normal((side, 3), np.float32), (side, side), interpolation=cv2.INTER_LINEAR)
    short = cv2.resize(random.standard_normal((side, 24), np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
    strokes = cv2.GaussianBlur(long + short, (0, 0), sigmaX=0.1, sigmaY=0.6 * side / 512 + 0.1)
    return strokes / strokes.std()


def matte(side: int, random: np.random.Generator) -> np.ndarray:
    """The grain of a blasted or etched face, standard deviation 1: float32 [side, side]."""
    grain = cv2.GaussianBlur(random.standard_normal((side, side), np.float32), (0, 0), 1.1 * side / 512 + 0.2)
    return grain / grain.std()


def around(side: int, centre, reach: float) -> tuple[Window, np.ndarray, np.ndarray]:
    """The window of a map within `reach` of a centre (x, y), and the distances x, y to the centre (of the side)."""
    low = np.clip(((np.asarray(centre) - reach) * side - 2).astype(int), 0, side - 1)
    high = np.clip(((np.asarray(centre) + reach) * side + 3).astype(int), low + 1, side)
    y, x = np.mgrid[low[1] : high[1], low[0] : high[0]].astype(np.float32)
    return (slice(low[1], high[1]), slice(low[0], high[0])), x / side - centre[0], y / side - centre[1]


def blob(
    side: int, centre, radius: float, random: np.random.Generator, stretch: float = 1.4, rough: float = 0.08
) -> tuple[Window, np.ndarray, np.ndarray]:
    """An ellipse with a wavering outline: its window, the distance from its middle (1 on the outline), the angle."""
    radius = max(radius, 1.0 / side)
    window, x, y = around(side, centre, 1.6 * stretch * radius)
    turn, stretch = random.uniform(0, np.pi), random.uniform(1, stretch)
    u, v = (x * np.cos(turn) + y * np.sin(turn)) / stretch, (y * np.cos(turn) - x * np.sin(turn)) * stretch
    angle, waver = np.arctan2(v, u), 1.0
    for harmonic in (2, 3, 5, 8):
        waver = waver + random.normal(0, rough) / harmonic**0.3 * np.cos(harmonic * angle + random.uniform(0, 7))
    return window, np.hypot(u, v) / (radius * waver), angle


def curve(
    side: int,
    centre,
    length: float,
    width: float,
    random: np.random.Generator,
    bend: float = 0.1,
    fades: bool = True,
    upright: bool = False,
) -> tuple[Window, np.ndarray]:
    """A line that wanders (`bend`: radians per step of 16) and fades towards its ends: window and weight 0 to 1.

    upright: it sets out along a side of the image, as threads run, and not in any direction.
    """
    start = random.uniform(0, 2 * np.pi)
    start = np.pi / 2 * round(start / (np.pi / 2)) if upright else start
    heading = start + np.cumsum(random.normal(0, bend, 16))
    steps = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1), axis=0) * length / 16
    points = np.asarray(centre) + steps - steps[8]
    window, _, _ = around(side, centre, np.abs(points - centre).max() + width + 2 / side)
    origin = np.array([window[1].start, window[0].start])
    pixels = np.rint((points * side - origin) * 16).astype(int)
    layer = np.zeros((window[0].stop - window[0].start, window[1].stop - window[1].start), np.float32)
    strength = (np.sin(np.pi * np.linspace(0.12, 0.9, 15)) if fades else np.ones(15)) * random.uniform(0.75, 1, 15)
    for start, end, weight in zip(pixels, pixels[1:], strength, strict=False):
        cv2.line(layer, start.tolist(), end.tolist(), float(weight), max(2, round(width * side)), shift=4)
    return window, cv2.GaussianBlur(layer, (0, 0), 0.7)


def edge(distance: np.ndarray, softness: float = 0.15) -> np.ndarray:
    """Weight 0 to 1 of what lies inside the distance 1, with a soft border."""
    return np.clip((1 - distance) / softness + 0.5, 0, 1)
