"""Machined metal of consumer electronics, drawn: the stand-in of 3CAD (Yang et al., AAAI 2025).

What follows the paper: eight categories by name and their counts (Table 1); how many types of defects each has, how
many regions (NE) and types (TE) one image may show; defects from bumps and dents to scratches and pinholes, many small,
some like the part's own features; several types in one image. The files lie as in the release: the MVTec scheme, masks
under the image's own name. What is invented, since the paper shows it only in pictures: the shape of each part, the
names of the types (the paper gives their number only), how often several meet. An image with several types lies in the
folder of its first type, which has the most regions; its mask covers all. All images are square.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from adlib.errors import InputError
from adlib.phantoms.defects import DEFECTS, damage
from adlib.phantoms.files import save
from adlib.phantoms.options import Difficulty, Named, Seed, Side, Three
from adlib.phantoms.plain import ENOUGH, check_difficulty, photographed_again, piece, plant
from adlib.phantoms.surfaces import Surface, around, brushed, changed, develop, light, matte, photograph

# Table 1: category -> (train, test normal, test anomalous)
PUBLISHED = {
    "Aluminum_Camera_Cover": (784, 369, 1077),
    "Aluminum_Ipad": (2096, 913, 1134),
    "Aluminum_Middle_Frame": (1548, 731, 748),
    "Aluminum_New_Ipad": (2233, 999, 3937),
    "Aluminum_New_Middle_Frame": (1072, 670, 736),
    "Aluminum_Pc": (1698, 911, 2250),
    "Copper_Stator": (409, 196, 763),
    "Iron_Stator": (653, 295, 817),
}
SMALL = (16, 6, 10)
KINDS = ("train", "normal", "defective")


@dataclass(frozen=True)
class Part:
    """What is drawn for a category, and Table 1's columns on its defects."""

    draw: Callable[["Sheet", np.random.Generator], None]
    colours: tuple[tuple[float, float, float], tuple[float, float, float]]  # RGB of the metal and of a second material
    defects: tuple[str, ...]
    regions: int  # NE: the most in one image
    types: int  # TE: the most in one image


class Sheet(Surface):
    """A surface in the plane from -1 to 1, on which the part lies a little shifted, turned and scaled.

    face: where defects may lie, 0 or 1.
    """

    def __init__(self, side: int, random: np.random.Generator):
        super().__init__(side)
        self.face = np.zeros_like(self.height)
        angle, scale = np.deg2rad(random.normal(0, 1.0)), side / 2 * random.normal(1, 0.012)
        self.matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        self.shift = side / 2 * (1 + random.normal(0, 0.02, 2))
        self.reflectance += 0.03  # what lies below the part

    def paint(self, points: np.ndarray, **values: float) -> None:
        """Set maps inside a polygon."""
        pixels = np.rint((np.asarray(points) @ self.matrix.T + self.shift) * 16).astype(np.int32)
        for name, value in values.items():
            cv2.fillPoly(getattr(self, name), [pixels], value, shift=4)

    def hole(self, points: np.ndarray, depth: float = -0.01, reflectance: float = 0.05) -> None:
        self.paint(points, height=depth, reflectance=reflectance, face=0)

    def turned(self, centre, radius: float, random: np.random.Generator, strength: float = 0.10) -> None:
        """Rings that a lathe leaves, and the fan of light on them."""
        centre = (self.matrix @ centre + self.shift) / self.side
        radius *= self.matrix[0, 0] / self.side
        window, x, y = around(self.side, centre, radius)
        distance = np.hypot(x, y) / radius
        rings = np.interp(distance, np.linspace(0, 1, 90), random.normal(0, strength, 90))
        fan = 0.18 * np.cos(2 * (np.arctan2(y, x) - random.normal(0.8, 0.15)))
        self.texture[window] = np.where(distance < 1, rings + fan, self.texture[window])

    def polar(self) -> tuple[np.ndarray, np.ndarray]:
        """Radius and angle of every pixel in the plane: float32 [side, side]."""
        place = np.arange(self.side, dtype=np.float32)
        inverse = np.linalg.inv(self.matrix).astype(np.float32)
        x, y = np.meshgrid(place - np.float32(self.shift[0]), place - np.float32(self.shift[1]))
        return cv2.cartToPolar(inverse[0, 0] * x + inverse[0, 1] * y, inverse[1, 0] * x + inverse[1, 1] * y)


def box(half, centre=(0.0, 0.0), corner: float = 0.0) -> np.ndarray:
    """A rectangle with round corners, or a disc when the corner is as large as its halves: [N, 2]."""
    turn = np.linspace(0, np.pi / 2, 10)
    quarter = np.stack([np.cos(turn), np.sin(turn)], axis=1) * corner + (np.asarray(half) - corner)
    mirrored = [quarter, quarter[::-1] * (-1, 1), quarter * (-1, -1), quarter[::-1] * (1, -1)]
    return np.concatenate(mirrored) + centre


def disc(radius: float, centre=(0.0, 0.0)) -> np.ndarray:
    return box((radius, radius), centre, radius)


def _camera_cover(part: Sheet, random: np.random.Generator) -> None:
    part.texture = 0.06 * matte(part.side, random)
    part.paint(box((0.88, 0.88), corner=0.34), height=0.02, reflectance=0.62, face=1)
    part.paint(box((0.80, 0.80), corner=0.27), height=0.035, reflectance=0.55)
    for centre in ((-0.34, -0.36), (-0.34, 0.36), (0.36, 0.0)):
        part.paint(disc(0.31, centre), height=0.05, reflectance=0.66)
        part.turned(centre, 0.31, random)
        part.hole(disc(0.22, centre), 0.03, 0.3)
        part.hole(disc(0.19, centre))
    part.hole(disc(0.085, (0.42, -0.50)))
    part.hole(disc(0.025, (0.42, 0.52)))


def _ipad(part: Sheet, random: np.random.Generator) -> None:
    part.texture = 0.07 * matte(part.side, random)
    part.paint(box((1.8, 1.8), (0.92, 0.92), 0.5), height=0.008, reflectance=0.8, face=1)
    part.paint(box((1.75, 1.75), (0.92, 0.92), 0.45), height=0.03, reflectance=0.6)
    part.paint(disc(0.20, (-0.38, -0.38)), height=0.042, reflectance=0.72)
    part.turned((-0.38, -0.38), 0.20, random)
    part.hole(disc(0.13, (-0.38, -0.38)))
    part.hole(disc(0.02, (-0.08, -0.38)))
    for column in range(7):
        part.hole(disc(0.026, (0.10 + 0.11 * column, -0.66)))


def _new_ipad(part: Sheet, random: np.random.Generator) -> None:
    part.texture = 0.07 * brushed(part.side, random)
    part.paint(box((1.8, 1.8), (-0.98, -0.98), 0.42), height=0.008, reflectance=0.75, face=1)
    part.paint(box((1.76, 1.76), (-0.98, -0.98), 0.38), height=0.03, reflectance=0.55)
    for column in (-0.16, 0.0, 0.16):
        part.paint(disc(0.045, (column - 0.3, 0.55)), height=0.024, reflectance=0.85)
    part.paint(box((0.05, 0.30), (0.62, -0.40), 0.05), height=0.018, reflectance=0.35)
    part.paint(box((0.035, 0.285), (0.62, -0.40), 0.035), height=0.034, reflectance=0.65)
    part.hole(box((0.035, 0.10), (0.62, 0.30), 0.035))


def _middle_frame(part: Sheet, random: np.random.Generator) -> None:
    part.texture = 0.05 * matte(part.side, random) + 0.03 * brushed(part.side, random)
    part.paint(box((0.92, 0.80), corner=0.22), height=0.04, reflectance=0.66, face=1)
    part.paint(box((0.80, 0.68), corner=0.14), height=0.012, reflectance=0.42)  # milled floor
    part.hole(box((0.30, 0.36), (-0.34, 0.14), 0.05))  # room of the battery
    part.paint(box((0.02, 0.68), (0.10, 0.0)), height=0.03, reflectance=0.58)  # ribs
    part.paint(box((0.36, 0.02), (0.46, -0.12)), height=0.03, reflectance=0.58)
    part.hole(disc(0.15, (0.46, -0.40)))
    part.hole(box((0.22, 0.055), (0.48, 0.22), 0.05))
    for centre in ((-0.72, -0.60), (0.72, -0.60), (-0.72, 0.60), (0.72, 0.60), (-0.05, -0.58), (0.30, 0.50)):
        part.paint(disc(0.07, centre), height=0.032, reflectance=0.72)
        part.turned(centre, 0.07, random)
        part.hole(disc(0.034, centre))


def _new_middle_frame(part: Sheet, random: np.random.Generator) -> None:
    part.texture = 0.08 * brushed(part.side, random)
    part.paint(box((1.3, 0.56)), height=0.008, reflectance=0.78, face=1)
    part.paint(box((1.3, 0.50)), height=0.03, reflectance=0.56)
    for column in (-0.80, 0.80):
        part.paint(box((0.035, 0.56), (column, 0)), second=1.0, reflectance=0.5)  # plastic over the antenna
    part.paint(box((0.27, 0.13), corner=0.13), height=0.022, reflectance=0.8)
    part.hole(box((0.24, 0.10), corner=0.10))
    part.hole(box((0.16, 0.022), corner=0.02), 0.0, 0.22)
    for column in (-0.38, 0.38):
        part.paint(disc(0.06, (column, 0)), height=0.022, reflectance=0.5)
        part.turned((column, 0), 0.06, random)
    for column in (-0.52, -0.61, -0.70, 0.52, 0.61, 0.70):
        part.hole(disc(0.034, (column, 0)))


def _pc(part: Sheet, random: np.random.Generator) -> None:
    part.texture = 0.05 * brushed(part.side, random) + 0.03 * matte(part.side, random)
    part.paint(box((1.3, 1.3)), height=0.03, reflectance=0.58, face=1)
    for row in range(3):
        for column in range(-4, 5):
            centre = (0.32 * column + 0.08 * row - 0.05, -0.78 + 0.31 * row)
            part.hole(box((0.128, 0.122), centre, 0.025), 0.01, 0.06)
    part.paint(box((0.66, 0.72), (0.05, 0.96), 0.05), height=0.016, reflectance=0.4)  # groove of the track pad
    part.paint(box((0.645, 0.705), (0.05, 0.96), 0.04), height=0.029, reflectance=0.6)
    for row in range(4):
        part.hole(disc(0.016, (-0.80, 0.42 + 0.12 * row)))


def _copper_stator(part: Sheet, random: np.random.Generator) -> None:
    radius, angle = part.polar()
    teeth, layers, inner, outer = 12, 10, 0.44, 0.83
    turn = angle * np.float32(teeth / (2 * np.pi)) + np.float32(random.uniform(0, 1))
    coil = turn.astype(np.int32) % teeth
    across = (turn - np.floor(turn) - 0.5) * radius * np.float32(2 * np.pi / teeth)  # of a tooth, in the plane
    wide = 0.115 + 0.30 * (radius - inner) * 0.45
    bulge = np.clip(1 - (across / wide) ** 2, 0, 1)
    wire = (radius - inner) / (outer - inner) * layers - 0.25 * bulge + np.take(random.normal(0, 0.12, teeth), coil)
    layer = np.clip(wire, 0, layers - 1).astype(np.int32)
    lie = random.normal(0, 0.07, (teeth, layers)).astype(np.float32)[coil, layer]  # no wire lies as its neighbour
    section = np.sqrt(np.clip(1 - (2 * (wire + 2 * lie * (across / wide) - np.floor(wire)) - 1) ** 2, 0.02, 1))
    wound = (bulge > 0) & (radius > inner) & (radius < outer)
    iron = ((radius > 0.855) & (radius < 0.98)) | ((radius > 0.36) & (radius < 0.41) & (np.abs(across) < 0.088))
    bobbin = ((np.abs(radius - 0.425) < 0.015) | (np.abs(radius - 0.842) < 0.012)) & (np.abs(across) < wide + 0.012)
    part.texture = 0.05 * matte(part.side, random)
    part.reflectance += 0.30 * iron + 0.16 * bobbin + wound * (0.12 + 0.48 * section * np.sqrt(bulge) * (1 + lie))
    part.height += 0.02 * iron + 0.03 * bobbin + wound * (0.012 * section + 0.05 * np.sqrt(bulge))
    part.second, part.face = wound.astype(np.float32), wound.astype(np.float32)


def _iron_stator(part: Sheet, random: np.random.Generator) -> None:
    radius, angle = part.polar()
    slots = 18
    turn = angle * np.float32(slots / (2 * np.pi)) + np.float32(random.uniform(0, 1))
    across = np.abs(turn - np.floor(turn) - 0.5) * radius * np.float32(2 * np.pi / slots)  # from a slot's middle
    slot = (across < 0.052 + 0.12 * (radius - 0.5)) & (radius > 0.50) & (radius < 0.78)
    slot |= (across < 0.026) & (radius <= 0.50)
    sheet = (radius > 0.44) & (radius < 0.96) & ~slot
    wall = (radius > 0.37) & (radius <= 0.44) & ~slot  # the stack of sheets, seen down the bore
    stack = np.interp(radius, np.linspace(0.37, 0.44, 60), random.normal(0, 0.35, 60)).astype(np.float32)
    part.texture = 0.07 * matte(part.side, random) + wall * stack
    part.reflectance += 0.42 * sheet + 0.16 * wall
    part.height += 0.03 * sheet + wall * (0.03 - 0.4 * (0.44 - radius))
    part.face = sheet.astype(np.float32)
    for number in range(6):
        at = np.array([np.cos(number * np.pi / 3 + 0.3), np.sin(number * np.pi / 3 + 0.3)])
        if number % 2:
            part.hole(disc(0.045, 0.87 * at))
        else:
            part.paint(box((0.05, 0.022), 0.87 * at, 0.01), height=0.02, reflectance=0.38)  # where sheets interlock
        part.paint(disc(0.03, 0.97 * np.array([at[1], at[0]])), height=0.0, reflectance=0.62, face=0)  # weld seam


ALUMINIUM, STEEL, COPPER = (0.97, 0.98, 1.0), (0.92, 0.96, 1.0), (1.0, 0.58, 0.34)
PARTS = {
    "Aluminum_Camera_Cover": Part(_camera_cover, ((0.80, 0.86, 1.0), STEEL), tuple(DEFECTS)[:10], 6, 1),
    "Aluminum_Ipad": Part(_ipad, (ALUMINIUM, STEEL), ("scratch", "dent", "stain"), 10, 2),
    "Aluminum_Middle_Frame": Part(
        _middle_frame, (ALUMINIUM, STEEL), ("scratch", "dent", "burr", "gouge", "stain"), 9, 4
    ),
    "Aluminum_New_Ipad": Part(_new_ipad, ((1.0, 0.91, 0.85), STEEL), ("scratch", "pinhole", "wear", "bump"), 23, 2),
    "Aluminum_New_Middle_Frame": Part(
        _new_middle_frame,
        ((0.98, 0.95, 0.90), (0.55, 0.56, 0.60)),
        ("scratch", "dent", "stain", "chip", "wear", "pinhole"),
        6,
        2,
    ),
    "Aluminum_Pc": Part(_pc, ((0.90, 0.91, 0.94), STEEL), tuple(DEFECTS), 12, 3),
    "Copper_Stator": Part(_copper_stator, (STEEL, COPPER), ("scratch",), 9, 1),
    "Iron_Stator": Part(_iron_stator, (STEEL, STEEL), ("scratch", "burr", "stain", "gouge"), 12, 2),
}


def write(
    out: Path,
    *,
    seed: Seed = 0,
    size: Side = 256,
    counts: Named | dict[str, Three] = "small",
    difficulty: Difficulty = "hard",
) -> Path:
    """Write the phantom as <out>/<category>/{train/good,test/good,test/<type>,ground_truth/<type>}/NNN.png.

    size: side in pixels. counts: "small" (16 + 6 + 10 per category; plain 24 + 20 + 20), "published" (Table 1), or
    {category: (train, test normal, test anomalous)}. difficulty: see `draw_image`.
    """
    if isinstance(counts, str):
        named = {"small": dict.fromkeys(PARTS, SMALL if difficulty == "hard" else ENOUGH), "published": PUBLISHED}
        counts = named[counts]
    for category, numbers in counts.items():
        for kind, number in zip(KINDS, numbers, strict=True):
            for index in range(number):
                image, mask = draw_image(category, kind, index, seed=seed, size=size, difficulty=difficulty)
                name, split = f"{index:04}.png", "train" if kind == "train" else "test"
                if kind != "defective":
                    save(Path(out, category, split, "good", name), image)
                    continue
                first = types_in(category, index, seed=seed)[0]
                save(Path(out, category, "test", first, name), image)
                save(Path(out, category, "ground_truth", first, name), mask)
    return Path(out)


def types_in(category: str, index: int, *, seed: int = 0) -> list[str]:
    """The type of each region of defect that is put on a defective part; the first type is the most frequent."""
    return _types(category, _streams(seed, category, "defective", index)[1])


def draw_image(
    category: str,
    kind: str,
    index: int,
    *,
    seed: int = 0,
    size: int = 256,
    defects: bool = True,
    difficulty: str = "hard",
) -> tuple[np.ndarray, np.ndarray]:
    """One image and its mask: RGB uint8 [size, size, 3], and uint8 [size, size] with foreground 255.

    kind: "train", "normal" or "defective". Depends on these arguments alone, whatever else is drawn. defects=False
    leaves the defects out of the same part: what it would look like without them. difficulty: "hard", as the paper's
    statistics have it, or "plain", with defects that any working method finds (adlib.phantoms.plain).
    """
    if category not in PARTS or kind not in KINDS:
        raise InputError(f"No part {category!r}, {kind!r}: categories {', '.join(PARTS)}; kinds {', '.join(KINDS)}.")
    check_difficulty(difficulty)
    if difficulty == "plain":
        identity = [seed, zlib.crc32(category.encode()), KINDS.index(kind), index]
        image, mask = piece(draw_image, category, "train", index, seed=seed, size=size)
        image, mask = photographed_again(image, identity), mask.copy()
        if kind == "defective" and defects:
            image, where = plant(image, identity)
            mask[where] = 255
        return image, mask
    part_random, defect_random, noise_random = _streams(seed, category, kind, index)
    metal, second = PARTS[category].colours
    sheet = Sheet(2 * size, part_random)
    PARTS[category].draw(sheet, part_random)
    sheet.reflectance *= 1 + 0.025 * part_random.standard_normal()
    lamp = np.deg2rad(part_random.normal(225, 12))  # from the upper left
    beam = light(sheet.side, 0.92 * part_random.normal(1, 0.03), part_random.normal(0, 0.05, 2), part_random)
    dirt = [(0.45, 0.33, 0.20), (0.30, 0.33, 0.42), (0.62, 0.50, 0.28)][part_random.integers(3)]
    colours = np.array([metal, second, dirt]) * part_random.normal(1, 0.008, 3)
    setting = (colours, (np.cos(lamp), np.sin(lamp)), beam)

    photo = without = photograph(sheet, *setting)
    spots = []
    if kind == "defective" and defects:
        spoiled = sheet.copy()
        taken = []
        for name in _types(category, defect_random):
            taken.append(_place(sheet, DEFECTS[name].at_edge, taken, defect_random))
            spots.append(damage(spoiled, DEFECTS[name], taken[-1], defect_random))
        photo = photograph(spoiled, *setting)
    return develop(photo, noise_random), changed(photo, without, filter(None, spots))


def _streams(seed: int, category: str, kind: str, index: int) -> list[np.random.Generator]:
    """Random numbers for the part, its defects and the noise: a part is the same with and without its defects."""
    identity = [seed, zlib.crc32(category.encode()), KINDS.index(kind), index]
    return [np.random.default_rng([*identity, stream]) for stream in range(3)]


def _types(category: str, random: np.random.Generator) -> list[str]:
    part = PARTS[category]
    regions = 1 + min(part.regions - 1, random.poisson(0.6) + random.geometric(0.5) - 1)
    kinds = min(regions, part.types, random.geometric(0.6))
    chosen = random.choice(part.defects, kinds, replace=False).tolist()
    return chosen + [
        chosen[0] if random.random() < 0.6 else chosen[number % kinds] for number in range(regions - kinds)
    ]


def _place(sheet: Sheet, at_edge: bool, taken: list, random: np.random.Generator) -> np.ndarray:
    """A point (x, y) on the part's face or at its edge, in shares of the side; clear of the others if there is room."""
    step = max(1, sheet.side // 128)
    face = sheet.face[::step, ::step].astype(np.uint8)
    face = cv2.morphologyEx(face, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) if at_edge else face
    margin = len(face) // 16
    rows, columns = np.nonzero(face[margin:-margin, margin:-margin])
    for _ in range(30):
        pick = random.integers(len(rows))
        place = (np.array([columns[pick], rows[pick]]) + margin + random.uniform(0, 1, 2)) * step / sheet.side
        if all(np.hypot(*(place - other)) > 0.15 for other in taken):
            break
    return place
