"""X-rays of chip packages, drawn: the stand-in of CXR-AD (Bai et al., arXiv 2505.03412).

What follows the paper: five classes by name; bubbles in the packaging as the only defect, brighter than their
surroundings (less material in the ray); grey levels mostly in 50..150 (95.47 % on the class UB); local contrast 0.01 to
0.22 (mean 0.11); 87 % of the defects small, read as at most 10 % of the largest defect's area; low contrast, dark, with
Gaussian-Poisson noise; masks with foreground 1. What is invented, since the paper shows it only in pictures: the parts
of each package, their sizes, and where bubbles form.

An image is physics in small: every part is a map of attenuation, the maps add up, and grey = brightness x exp(-sum)
(Beer-Lambert), blurred by the focal spot and covered with noise. A bubble takes attenuation away.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from adlib.errors import InputError
from adlib.phantoms.files import save as _save
from adlib.phantoms.options import Difficulty, Named, Seed, Side, Three
from adlib.phantoms.plain import ENOUGH, check_difficulty, photographed_again, piece, plant

# Table I: class -> (train, test normal, test anomalous)
PUBLISHED = {
    "CDIP": (94, 13, 164),
    "CFP16": (54, 10, 60),
    "CFP20": (135, 31, 185),
    "UB": (196, 20, 62),
    "DC": (80, 20, 90),
}
SMALL = (24, 8, 12)
KINDS = ("train", "normal", "bubble")


@dataclass(frozen=True)
class Package:
    """A package in the plane from -1 to 1; sizes are half widths and half heights. Attenuation is dimensionless."""

    body: tuple[float, float]  # the ceramic or moulded body
    cavity: tuple[float, float]  # the room inside, under the lid
    pad: tuple[float, float]  # the metal that the die is attached to
    die: tuple[float, float]
    leads: int  # on each of the left and right side
    lead_width: float
    lead_length: float  # beyond the body
    wires: int
    body_attenuation: float = 0.5
    lead_attenuation: float = 0.35
    pad_attenuation: float = 0.16
    brightness: float = 146.0  # grey level of the unattenuated beam


PACKAGES = {
    "CDIP": Package((0.62, 0.92), (0.34, 0.46), (0.25, 0.34), (0.18, 0.24), 7, 0.055, 0.30, 14),
    "CFP16": Package((0.55, 0.60), (0.36, 0.40), (0.27, 0.29), (0.20, 0.21), 8, 0.032, 0.42, 16),
    "CFP20": Package((0.50, 0.80), (0.33, 0.52), (0.24, 0.36), (0.17, 0.25), 10, 0.034, 0.46, 20),
    "UB": Package((0.97, 0.97), (0.80, 0.76), (0.62, 0.52), (0.24, 0.22), 2, 0.22, 0.02, 3, 0.54, 0.62, 0.05, 168.0),
    "DC": Package((0.90, 0.80), (0.74, 0.64), (0.66, 0.55), (0.50, 0.40), 3, 0.13, 0.08, 5, 0.42, 0.45, 0.16),
}


def write(
    out: Path,
    *,
    seed: Seed = 0,
    size: Side = 256,
    bits: Literal[8, 16] = 8,
    counts: Named | dict[str, Three] = "small",
    difficulty: Difficulty = "hard",
) -> Path:
    """Write the phantom as <out>/<class>/{train/good,test/good,test/bubble,ground_truth/bubble}/NNN.png.

    size: side in pixels. bits: 8 or 16. counts: "small" (24 + 8 + 12 per class; plain 24 + 20 + 20), "published"
    (Table I), or {class: (train, test normal, test anomalous)}. difficulty: see `draw_image`.
    """
    if isinstance(counts, str):
        named = {"small": dict.fromkeys(PACKAGES, SMALL if difficulty == "hard" else ENOUGH), "published": PUBLISHED}
        counts = named[counts]
    folders = {"train": ("train", "good"), "normal": ("test", "good"), "bubble": ("test", "bubble")}
    for category, numbers in counts.items():
        for kind, number in zip(KINDS, numbers, strict=True):
            for index in range(number):
                image, mask = draw_image(category, kind, index, seed=seed, size=size, bits=bits, difficulty=difficulty)
                _save(Path(out, category, *folders[kind], f"{index:03}.png"), image)
                if kind == "bubble":
                    _save(Path(out, category, "ground_truth", "bubble", f"{index:03}_mask.png"), mask)
    return Path(out)


def draw_image(
    category: str,
    kind: str,
    index: int,
    *,
    seed: int = 0,
    size: int = 256,
    bits: int = 8,
    bubbles: bool = True,
    difficulty: str = "hard",
) -> tuple[np.ndarray, np.ndarray]:
    """One image and its mask: uint8 or uint16 [size, size], and uint8 [size, size] with foreground 1.

    kind: "train", "normal" or "bubble". Depends on these arguments alone, whatever else is drawn. bubbles=False leaves
    the bubbles out of the same part: what it would look like without its defect. difficulty: "hard", as the paper's
    statistics have it, or "plain", with defects that any working method finds (adlib.phantoms.plain).
    """
    if category not in PACKAGES or kind not in KINDS:
        raise InputError(
            f"No X-ray of {category!r}, {kind!r}: classes {', '.join(PACKAGES)}; kinds {', '.join(KINDS)}."
        )
    check_difficulty(difficulty)
    package = PACKAGES[category]
    identity = [seed, zlib.crc32(category.encode()), KINDS.index(kind), index]
    if difficulty == "plain":
        image, mask = piece(draw_image, category, "train", index, seed=seed, size=size, bits=bits)
        image, mask = photographed_again(image, identity), mask.copy()
        if kind == "bubble" and bubbles:
            image, where = plant(image, identity)
            mask[where] = 1
        return image, mask
    # Streams of their own: a part is the same with and without its bubbles, and at 8 and 16 bits.
    part_random, bubble_random, noise_random = (np.random.default_rng([*identity, stream]) for stream in range(3))

    canvas = Canvas(2 * size, part_random)
    _draw_package(canvas, package, part_random)
    loss = np.zeros_like(canvas.attenuation)
    if kind == "bubble" and bubbles:
        loss = _bubbles(canvas, package, bubble_random)

    exposure = package.brightness * part_random.normal(1, 0.025)
    slope = part_random.normal(0, 0.02, 2)  # the beam is not equally strong everywhere
    across = np.linspace(-1, 1, 2 * size, dtype=np.float32)
    beam = exposure * (1 + slope[0] * across[None, :] + slope[1] * across[:, None])
    grey = beam * np.exp(-(canvas.attenuation - loss))
    grey = cv2.GaussianBlur(grey, (0, 0), 1.1 * size / 128)  # focal spot
    grey = cv2.resize(grey, (size, size), interpolation=cv2.INTER_AREA)
    noise = cv2.GaussianBlur(noise_random.standard_normal((size, size)).astype(np.float32), (0, 0), 0.6)
    noise /= noise.std()
    grey = grey + noise * np.sqrt(0.045 * grey + 3.0)  # Poisson grows with the dose, Gaussian does not

    depth = {8: (1, np.uint8), 16: (257, np.uint16)}[bits]
    image = np.rint(grey.clip(0, 255) * depth[0]).astype(depth[1])
    share = cv2.resize((loss > 0).astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    # A pixel is foreground when a bubble fills half of it; in a very small image, the one that is filled most.
    return image, ((share > 0) & (share >= min(0.5, share.max()))).astype(np.uint8)


class Canvas:
    """A map of attenuation, float32 [side, side], in which the part lies a little shifted, turned and scaled."""

    def __init__(self, side: int, random: np.random.Generator):
        self.attenuation = np.zeros((side, side), np.float32)
        angle = np.deg2rad(random.normal(0, 1.2))
        scale = side / 2 * random.normal(1, 0.012)
        self.matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        self.shift = side / 2 * (1 + random.normal(0, 0.02, 2))
        self.unit = scale  # pixels per unit of the plane

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Points [N, 2] of the plane (x right, y down) as pixels with 4 binary digits, for OpenCV's `shift`."""
        return np.rint((np.asarray(points) @ self.matrix.T + self.shift) * 16).astype(np.int32)

    def polygon(self, points: np.ndarray, attenuation: float) -> None:
        """Add a filled polygon."""
        outline, (window, origin) = self.pixels(points), self._window(points)
        layer = np.zeros_like(self.attenuation[window])
        cv2.fillPoly(layer, [outline - origin], attenuation, shift=4)
        self.attenuation[window] += layer

    def _window(self, points: np.ndarray, margin: int = 4) -> tuple[tuple[slice, slice], np.ndarray]:
        """The part of the map around the points, so that a small shape costs little; and its origin for `pixels`."""
        corners = self.pixels(points) // 16
        low = np.clip(corners.min(0) - margin, 0, self.attenuation.shape[0] - 1)
        high = np.clip(corners.max(0) + margin, low + 1, self.attenuation.shape[0])
        return (slice(low[1], high[1]), slice(low[0], high[0])), low * 16

    def box(self, half: tuple[float, float], attenuation: float, centre=(0.0, 0.0), corner: float = 0.04) -> None:
        """A rectangle with cut corners."""
        (w, h), c = half, corner
        outline = [
            (-w + c, -h),
            (w - c, -h),
            (w, -h + c),
            (w, h - c),
            (w - c, h),
            (-w + c, h),
            (-w, h - c),
            (-w, -h + c),
        ]
        self.polygon(np.array(outline) + centre, attenuation)

    def line(self, points: np.ndarray, width: float, attenuation: float) -> None:
        """A wire: a line of the given width in units of the plane."""
        window, origin = self._window(points, margin=8)
        layer = np.zeros_like(self.attenuation[window])
        thickness = max(1, round(width * self.unit))
        cv2.polylines(layer, [self.pixels(points) - origin], False, attenuation, thickness, cv2.LINE_8, shift=4)
        self.attenuation[window] += layer

    def clouds(self, strength: float, grain: float, random: np.random.Generator) -> None:
        """Unevenness of material: smooth noise; grain is its size in units of the plane."""
        side = self.attenuation.shape[0]
        coarse = max(4, round(2 / grain))
        field = random.standard_normal((coarse, coarse)).astype(np.float32)
        self.attenuation += strength * cv2.resize(field, (side, side), interpolation=cv2.INTER_CUBIC)


def _draw_package(canvas: Canvas, package: Package, random: np.random.Generator) -> None:
    (body_w, body_h), (cavity_w, cavity_h) = package.body, package.cavity
    canvas.box(package.body, package.body_attenuation)
    canvas.clouds(0.008, 0.30, random)
    canvas.clouds(0.006, 0.08, random)
    canvas.box((cavity_w + 0.05, cavity_h + 0.05), 0.14)  # sealing ring: its inside is taken away again
    canvas.box(package.cavity, -0.22)

    jitter = random.normal(0, 0.012, 2)
    places = np.linspace(-0.86, 0.86, package.leads) * body_h if package.leads > 2 else np.array([-0.5, 0.5]) * body_h
    inner = []
    for side in (-1, 1):
        for place in places:
            half = package.lead_width * random.normal(1, 0.05)
            tip = (side * (body_w + package.lead_length), place)
            foot = (side * (cavity_w + 0.02), place * (cavity_h * 0.9) / body_h)
            outline = [
                (tip[0], tip[1] - half),
                (side * body_w, place - half),
                (foot[0], foot[1] - 0.7 * half),
                (foot[0], foot[1] + 0.7 * half),
                (side * body_w, place + half),
                (tip[0], tip[1] + half),
            ]
            canvas.polygon(np.array(outline), package.lead_attenuation * random.normal(1, 0.03))
            inner.append(foot)

    canvas.box(package.pad, package.pad_attenuation, jitter, 0.02)
    canvas.box(package.die, 0.07 * random.normal(1, 0.1), jitter, 0.005)
    _draw_wires(canvas, package, np.array(inner), jitter, random)


def _draw_wires(canvas: Canvas, package: Package, feet: np.ndarray, centre: np.ndarray, random) -> None:
    """Bond wires from the die's edge to the leads, each a slightly bent line with a ball at the die."""
    for number in range(package.wires):
        foot = feet[number % len(feet)] + random.normal(0, 0.01, 2)
        die_w, die_h = package.die
        spread = 0.85 * foot[1] / max(1e-6, np.abs(feet[:, 1]).max()) * die_h
        ball = centre + np.array([np.sign(foot[0]) * 0.88 * die_w, spread]) + random.normal(0, 0.006, 2)
        along = np.linspace(0, 1, 12)[:, None]
        bend = random.normal(0, 0.02) * np.sin(np.pi * along) * np.array([[0.3, 1.0]])
        canvas.line(ball + along * (foot - ball) + bend, 0.011, 0.22)
        canvas.box((0.014, 0.014), 0.25, ball, 0.005)


def _bubbles(canvas: Canvas, package: Package, random: np.random.Generator) -> np.ndarray:
    """What the bubbles take away from the attenuation: float32 [side, side], 0 outside, never touching each other.

    Areas: 87 % of the bubbles small (0.8 to 6 % of the largest size there is), 10 % medium, 3 % large.
    """
    loss = np.zeros_like(canvas.attenuation)
    side = loss.shape[0]
    largest = np.pi * (0.115 * side) ** 2
    taken: list[tuple[np.ndarray, float]] = []
    for _ in range(1 + min(4, random.poisson(1.3))):
        scale = random.choice(3, p=[0.87, 0.10, 0.03])
        low, high = [(0.008, 0.06), (0.13, 0.45), (0.65, 1.0)][scale]
        radius = max(1.5, np.sqrt(largest * np.exp(random.uniform(np.log(low), np.log(high))) / np.pi))
        centre = _free_place(canvas, package, radius, taken, random)
        if centre is not None:
            taken.append((centre, radius))
            _add_bubble(loss, centre, radius, random)
    return loss


def _add_bubble(loss: np.ndarray, centre: np.ndarray, radius: float, random: np.random.Generator) -> None:
    """One bubble: an ellipse whose outline wavers; steep at its edge and flat inside, as gas pressed between plates."""
    left, top = np.maximum(0, centre - 2.2 * radius - 2).astype(int)
    right, bottom = np.minimum(loss.shape[0], centre + 2.2 * radius + 2).astype(int)
    y, x = np.mgrid[top:bottom, left:right].astype(np.float32)
    angle, stretch = random.uniform(0, np.pi), np.exp(random.uniform(0, 0.35))
    across, down = x - centre[0], y - centre[1]
    u = (across * np.cos(angle) + down * np.sin(angle)) / stretch
    v = (down * np.cos(angle) - across * np.sin(angle)) * stretch
    around, waver = np.arctan2(v, u), 1.0
    for harmonic in (2, 3, 5):
        waver = waver + random.normal(0, 0.06) * np.cos(harmonic * around + random.uniform(0, 2 * np.pi))
    distance = np.sqrt(u**2 + v**2) / (radius * waver)
    profile = np.where(distance < 1, 0.55 + 0.45 * np.sqrt(np.clip(1 - distance**2, 0, 1)), 0)
    depth = np.log1p(random.triangular(0.06, 0.13, 0.22))
    loss[top:bottom, left:right] = np.maximum(loss[top:bottom, left:right], depth * profile)


def _free_place(canvas: Canvas, package: Package, radius: float, taken: list, random) -> np.ndarray | None:
    """A pixel (x, y) in the die's attachment or the cavity around it, clear of the other bubbles; None if none is."""
    reach = np.array(package.cavity) * 0.92 - radius / canvas.unit
    for _ in range(40):
        place = random.uniform(-1, 1, 2) * np.maximum(reach, 0.02)
        centre = place @ canvas.matrix.T + canvas.shift
        if all(np.hypot(*(centre - other)) > 1.7 * (radius + size) + 4 for other, size in taken):
            return centre
    return None
