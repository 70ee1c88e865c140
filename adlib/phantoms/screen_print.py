"""Screen prints under three optics, drawn: the stand-in of ISP-AD (Krassnig and Gruber, arXiv 2503.04997).

What follows the paper: the modalities LSM-1 (line scan, dark field, RGB), LSM-2 (line scan, transmission, RGB) and ASM
(area scan, bright field, grey, with the edge of a direct reflection in view); patches of a larger structured print at
random offsets, 256 pixels; small, weakly contrasted defects in the groups "points" (pinholes, splashes, fibres) and
"area" (here smears, squeegee strokes, missing and thick print), their masks; the counts; synthetic defects of the
supervised part from a random walk with momentum, on patches augmented as in Table 8; the HDF5 keys; real defects of
that part in the middle of patches of twice the side, which no walk draws if they are of the group "area". What is
invented, since the paper shows it only in pictures: the print itself (conductor grids, fingers, pads, meanders over a
second, tinted ink), its colours, the size and contrast of each defect, the names of folders and of the HDF5 file.

An image is a map of ink thickness, seen by one of three optics, blurred, and covered with noise. Lengths are in units
of 1/256 of the image's side: pixels of the published patches.
"""

import zlib
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from adlib.errors import InputError
from adlib.parameters import Whole
from adlib.phantoms.files import announce, save
from adlib.phantoms.options import Difficulty, Named, Seed, Side
from adlib.phantoms.plain import (
    ENOUGH,
    LARGE_BLOT,
    SMALL_BLOT,
    check_difficulty,
    photographed_again,
    piece,
    plant,
)
from adlib.phantoms.surfaces import noticeable

# Table 7, unsupervised columns: modality -> (train, test good, test area, test points)
PUBLISHED = {"LSM-1": (3678, 1470, 49, 46), "LSM-2": (401, 382, 63, 33), "ASM": (500, 1916, 33, 41)}
SMALL = (24, 20, 6, 6)  # more normals than defects, as in the published test sets, if by less
KINDS = ("train", "normal", "area", "points", "augmented", "synthetic", "real area", "real points")
AREA, POINTS = ("smear", "missing", "thick", "stroke"), ("pinhole", "splash", "fibre")
DEFECTS = {"area": AREA, "points": POINTS, "synthetic": ("walk",), "real area": AREA, "real points": POINTS}
# Table 8: rotation in degrees, scale, shear in degrees, brightness and contrast
AUGMENTED = {
    "LSM-1": (45, (0.9, 1.1), 10, (0.75, 1.25)),
    "LSM-2": (45, (0.9, 1.1), 20, (0.75, 1.25)),
    "ASM": (10, (1.0, 1.2), 10, (1.0, 1.0)),
}
# What a print is made of: pitch and width of its lines, and the patterns in its cells
PRINTS = {
    "LSM-1": (14, 6, ("grid", "grid", "pads", "fingers", "field")),
    "LSM-2": (18, 8, ("fingers", "fingers", "grid", "meander", "pads")),
    "ASM": (20, 9, ("pads", "pads", "meander", "fingers", "field")),
}
CELL, CELLS = 128, 8  # a print is CELLS x CELLS cells, each of CELL units, and repeats beyond
NOTICEABLE = 6  # grey levels by which a defect changes a pixel of its mask, before noise


def write(
    out: Path,
    *,
    seed: Seed = 0,
    size: Side = 256,
    counts: Named | dict[str, tuple[Whole, Whole, Whole, Whole]] = "small",
    supervised: Whole = 16,
    real: tuple[Whole, Whole] = (6, 6),
    difficulty: Difficulty = "hard",
) -> Path:
    """Write <out>/<modality>/{train/good,test/good,test/area,test/points,ground_truth/<group>}/NNN.png.

    counts: "small" (24 + 20 + 6 + 6 per modality; plain 24 + 20 + 10 + 10), "published" (Table 7), or {modality:
    (train, test good, area, points)}. supervised: patches of <out>/<modality>/supervised.h5, every second with a
    synthetic defect; 0 for no such file. Its datasets, uint8: syn_stream and ground_truth [N, size, size] (0 or 255),
    labels [N]. real: numbers of <out>/<modality>/real_defects/{area,points}/NNN.png, twice the size. difficulty: see
    `draw_image`.
    """
    if isinstance(counts, str):
        named = {
            "small": dict.fromkeys(PRINTS, SMALL if difficulty == "hard" else (*ENOUGH[:2], 10, 10)),
            "published": PUBLISHED,
        }
        counts = named[counts]
    folders = {"train": "train/good", "normal": "test/good", "area": "test/area", "points": "test/points"}
    for category, numbers in counts.items():
        for kind, number in zip(folders, numbers, strict=True):
            for index in range(number):
                image, mask = draw_image(category, kind, index, seed=seed, size=size, difficulty=difficulty)
                save(Path(out, category, folders[kind], f"{index:03}.png"), image)
                if kind in DEFECTS:
                    save(Path(out, category, "ground_truth", kind, f"{index:03}_mask.png"), 255 * mask)
        if supervised:
            _write_supervised(Path(out, category, "supervised.h5"), category, supervised, seed, size, difficulty)
        for group, number in zip(("area", "points"), real, strict=True):
            for index in range(number):
                image, _ = draw_image(category, f"real {group}", index, seed=seed, size=size, difficulty=difficulty)
                save(Path(out, category, "real_defects", group, f"{index:03}.png"), image)
    return Path(out)


def _write_supervised(file: Path, category: str, number: int, seed: int, size: int, difficulty: str) -> None:
    """The supervised part: augmented grey patches, of which the odd ones have a synthetic defect."""
    import h5py  # here, since only this part needs it

    labels = np.arange(number, dtype=np.uint8) % 2
    drawn = [
        draw_image(category, "synthetic" if label else "augmented", index, seed=seed, size=size, difficulty=difficulty)
        for index, label in enumerate(labels)
    ]
    grey = [image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image, _ in drawn]
    announce(file)
    partial = file.with_suffix(".partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(partial, "w") as stream:
        stream["syn_stream"] = np.stack(grey)
        stream["ground_truth"] = 255 * np.stack([mask for _, mask in drawn])
        stream["labels"] = labels
    partial.replace(file)


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
    """One image, uint8 [size, size, 3] in RGB or (ASM) [size, size], and its mask, uint8 [size, size] of 0 and 1.

    kind: "train", "normal", "area", "points"; those of the supervised part are "augmented", "synthetic", and of twice
    the size "real area", "real points". Depends on these arguments alone, whatever else is drawn. defects=False leaves
    the defect out of the same patch. difficulty: "hard", as the paper's statistics have it, or "plain", with defects
    that any working method finds (adlib.phantoms.plain).
    """
    if category not in PRINTS or kind not in KINDS:
        raise InputError(
            f"No screen print of {category!r}, {kind!r}: modalities {', '.join(PRINTS)}; kinds {', '.join(KINDS)}."
        )
    check_difficulty(difficulty)
    identity = [seed, zlib.crc32(category.encode()), KINDS.index(kind), index]
    if difficulty == "plain":
        # A real defect is shown at the patches' scale on twice their side: its blot is half as large a share of it.
        like, share = (kind, 0.5) if kind.startswith("real") else ("train", 1)
        # Of the supervised patches every second one is defective: normal and defective ones are of the same pieces.
        number = index // 2 if kind in ("augmented", "synthetic") else index
        image, mask = piece(draw_image, category, like, number, seed=seed, size=size, defects=False)
        image, mask = photographed_again(image, identity), mask.copy()
        if kind in DEFECTS and defects:
            image, where = plant(image, identity, share * (SMALL_BLOT if kind.endswith("points") else LARGE_BLOT))
            mask[where] = 1
        return image, mask
    # Streams of their own: a patch is the same with and without its defect.
    part_random, defect_random, noise_random = (np.random.default_rng([*identity, stream]) for stream in range(3))

    wide = kind.startswith("real")
    patch = Patch(category, kind in ("augmented", "synthetic"), wide, seed, size, part_random)
    image = clean = OPTICS[category](patch, patch.ink, None)
    mask = np.zeros((patch.size, patch.size), np.uint8)
    if kind in DEFECTS and defects:
        for attempt in range(40):  # a defect may fall where it changes little: elsewhere then, larger, of another kind
            name = DEFECTS[kind][(index + attempt // 10) % len(DEFECTS[kind])]
            image = OPTICS[category](patch, *add_defect(name, patch, 1.06**attempt, defect_random))
            change = np.abs(image - clean).reshape(*mask.shape, -1).max(2)
            mask = noticeable(change, NOTICEABLE)
            if change.max() > NOTICEABLE and mask.sum() >= (250 if kind.endswith("area") else 6) / patch.step**2:
                break
    noise = noise_random.standard_normal(image.shape).astype(np.float32)
    image = image + noise * np.sqrt(0.02 * np.abs(image) + 1.5)  # Poisson grows with the light, Gaussian does not
    if category != "ASM":  # each pixel of a line sensor has its own gain
        gain = 1 + noise_random.normal(0, 0.006, patch.size).astype(np.float32)
        image = image * (gain[None, :, None])
    return np.rint(image).clip(0, 255).astype(np.uint8), mask


class Patch:
    """A piece of a print: where it lies, its ink, and what else varies from one normal patch to the next.

    It has 256 units, a wide one 512, from -128 to 384: its defects lie in the middle, within `reach` units of 128.
    """

    def __init__(self, category: str, augmented: bool, wide: bool, seed: int, size: int, random: np.random.Generator):
        self.step, self.reach, self.start = 256 / size, 24 if wide else 112, -128 if wide else 0
        self.size = size = 2 * size if wide else size
        across = (np.arange(size, dtype=np.float32) + 0.5) * self.step + self.start
        self.x, self.y = np.meshgrid(across, across)  # units in the patch
        matrix, tone = np.eye(2), (1.0, 1.0)
        turn, scale, shear = random.normal(0, 0.5), random.normal(1, 0.006), 0.0
        if augmented:
            rotation, scales, shears, tones = AUGMENTED[category]
            turn, scale, shear = random.uniform(-1, 1) * rotation, random.uniform(*scales), random.uniform(-1, 1)
            matrix = np.diag(random.choice([-1.0, 1.0], 2)) @ [[1, np.tan(np.deg2rad(shear * shears))], [0, 1]]
            tone = random.uniform(*tones, 2)
        c, s = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
        matrix = matrix @ np.array([[c, -s], [s, c]]) / scale
        side = CELL * CELLS
        offset = random.uniform(0, side, 2)
        self.waver = [self.clouds(45, random) * 0.5 for _ in range(2)]  # the foil is never quite flat
        self.across = matrix[0, 0] * (self.x - 128) + matrix[0, 1] * (self.y - 128) + offset[0] + self.waver[0]
        self.down = matrix[1, 0] * (self.x - 128) + matrix[1, 1] * (self.y - 128) + offset[1] + self.waver[1]
        self.distance = cv2.remap(  # units to the edge of the ink, positive inside it
            draw_print(category, seed),
            np.mod(self.across, side).astype(np.float32),
            np.mod(self.down, side).astype(np.float32),
            cv2.INTER_LINEAR,
        )
        self.distance += random.normal(0, 0.3) + 0.35 * self.clouds(4, random)  # ink spreads, and its edge is rough
        phase = random.uniform(0, 2 * np.pi, 2)
        mesh = np.sin(1.38 * self.across + 0.57 * self.down + phase[0]) * np.sin(
            1.38 * self.down - 0.57 * self.across + phase[1]
        )
        weave = 0.05 * max(0.0, 2 - self.step)  # the screen's threads, too fine for small images
        self.thickness = 1 + 0.05 * self.clouds(50, random) + weave * mesh
        self.ink = self.cover(self.distance) * self.thickness
        misprint = random.normal(0, 4, 2)  # the second ink is never quite in register
        bands = np.sin(2 * np.pi * (2 * (self.across + misprint[0]) + 3 * (self.down + misprint[1])) / side)
        self.tint = np.clip(0.5 + 40 * (bands + 0.25) / max(1, self.step), 0, 1).astype(np.float32)
        self.grain = self.clouds(1.6, random)
        self.light = random.normal(1, 0.03) * (
            1 + random.normal(0, 0.02) * (self.x / 128 - 1) + random.normal(0, 0.02) * (self.y / 128 - 1)
        )
        self.light, self.contrast = (self.light * tone[0]).astype(np.float32), tone[1]
        angle = random.uniform(-0.5, 0.5) + random.choice([0, np.pi])
        beside = np.cos(angle) * (self.x - 128) + np.sin(angle) * (self.y - 128) - random.uniform(-190, 190)
        self.gloss = (1 / (1 + np.exp(-beside / 22))).astype(np.float32)  # where the lamp is reflected directly

    def clouds(self, grain: float, random: np.random.Generator) -> np.ndarray:
        """Smooth noise of unit strength, float32 [size, size]; grain is its size in units."""
        coarse = max(3, min(self.size, round(self.size * self.step / grain)))
        field = random.standard_normal((coarse, coarse)).astype(np.float32)
        return cv2.resize(field, (self.size, self.size), interpolation=cv2.INTER_CUBIC)

    def cover(self, distance: np.ndarray) -> np.ndarray:
        """Share of each pixel that ink covers, 0 to 1."""
        return np.clip(0.5 + distance / max(1.8, 1.2 * self.step), 0, 1)

    def blur(self, picture: np.ndarray, sigma: float) -> np.ndarray:
        """Gaussian blur; sigma in units."""
        return cv2.GaussianBlur(picture, (0, 0), max(0.3, sigma / self.step))


@lru_cache(maxsize=6)
def draw_print(category: str, seed: int) -> np.ndarray:
    """The whole print as distance to the edge of the ink: float32 [1025, 1025], units, positive inside; repeats."""
    random = np.random.default_rng([seed, zlib.crc32(category.encode())])
    pitch, line, patterns = PRINTS[category]
    rows = [
        [np.rot90(_draw_cell(name, 2 * pitch, 2 * line), random.integers(4)) for name in random.choice(patterns, CELLS)]
        for _ in range(CELLS)
    ]
    ink = np.pad(np.block(rows), 64, mode="wrap").astype(np.uint8)  # drawn at 2 pixels per unit
    inside, outside = (cv2.distanceTransform(part, cv2.DIST_L2, 5) for part in (ink, 1 - ink))
    distance = np.clip((inside - outside) / 2, -20, 20)
    distance = cv2.resize(distance, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    return distance[32:-31, 32:-31]  # one row and column more than the period, for interpolation


def _draw_cell(pattern: str, pitch: int, line: int) -> np.ndarray:
    """One cell of a print, uint8 [256, 256] with ink 1: its pattern, and traces to its four neighbours."""
    side, low, high = 2 * CELL, 24, 2 * CELL - 24
    cell = np.zeros((side, side), np.uint8)
    steps = range(low, high - line + 1, pitch)
    end = steps[-1] + line
    middle = (side - line) // 2
    cell[middle : middle + line] = 1
    cell[:, middle : middle + line] = 1
    cell[low:end, low:end] = 0
    if pattern == "grid":
        for step in steps:
            cell[step : step + line, low:end] = cell[low:end, step : step + line] = 1
    elif pattern == "fingers":
        cell[low : low + 2 * line, low:end] = cell[end - 2 * line : end, low:end] = 1
        for number, step in enumerate(steps):
            gap = slice(low, end - 3 * line) if number % 2 else slice(low + 3 * line, end)
            cell[gap, step : step + line] = 1
    elif pattern == "pads":
        for row in (low + 32, side // 2, end - 33):
            cell[row - line // 2 : row + line - line // 2, low:end] = 1
            for column in (low + 32, side // 2, end - 33):
                cv2.circle(cell, (column, row), 21, 1, -1)
        cell[low:end, low : low + line] = cell[low:end, end - line : end] = 1
    elif pattern == "meander":
        turns = [(x, y) for n, y in enumerate(steps) for x in ((low, end)[n % 2], (end, low)[n % 2])]
        cv2.polylines(cell, [np.array(turns) + np.array([0, line // 2])], False, 1, line)
    else:  # a field of solid ink with windows
        cell[low:end, low:end] = 1
        for row in (low + 50, end - 50):
            for column in (low + 50, end - 50):
                cv2.circle(cell, (column, row), 13, 0, -1)
    return cell


def _dark_field(patch: Patch, ink: np.ndarray, dirt: np.ndarray | None) -> np.ndarray:
    """Light that rough ink and edges scatter; the smooth foil stays dark."""
    smooth = patch.blur(ink, 0.8)
    edge = np.hypot(cv2.Scharr(smooth, -1, 1, 0), cv2.Scharr(smooth, -1, 0, 1)) / 32 / patch.step
    scatter = (1 - np.exp(-1.3 * ink)) * (1 + 0.09 * patch.grain) + (0 if dirt is None else 0.45 * dirt)
    foil = np.float32([22, 27, 35]) + patch.tint[..., None] * np.float32([26, 10, -3])
    image = foil + scatter[..., None] * np.float32([70, 76, 82]) + 2.2 * edge[..., None] * np.float32([56, 62, 70])
    return _expose(patch, image, 0.7)


def _transmission(patch: Patch, ink: np.ndarray, dirt: np.ndarray | None) -> np.ndarray:
    """Light from behind that foil, inks and dirt let through."""
    absorbed = ink[..., None] * np.float32([1.3, 1.2, 1.05]) + patch.tint[..., None] * np.float32([0.04, 0.2, 0.42])
    if dirt is not None:
        absorbed = absorbed + 0.45 * dirt[..., None]
    light = np.float32([226, 220, 204]) * (1 + 0.008 * patch.grain[..., None])
    return _expose(patch, light * np.exp(-absorbed), 0.8)


def _bright_field(patch: Patch, ink: np.ndarray, dirt: np.ndarray | None) -> np.ndarray:
    """Grey of foil and ink, the relief of the ink's edges, and a direct reflection over part of the patch."""
    smooth = patch.blur(ink, 0.8)
    relief = (cv2.Scharr(smooth, -1, 1, 0) + 0.6 * cv2.Scharr(smooth, -1, 0, 1)) / 32 / patch.step
    diffuse = 112 - 12 * patch.tint - 42 * (1 - np.exp(-1.2 * ink)) * (1 + 0.05 * patch.grain)
    mirror = patch.gloss * (46 + 40 * (1 - np.exp(-1.2 * ink)) * (1 + 0.05 * patch.grain))
    image = diffuse + mirror + 26 * relief
    return _expose(patch, image if dirt is None else image - 34 * dirt, 0.9)


OPTICS = {"LSM-1": _dark_field, "LSM-2": _transmission, "ASM": _bright_field}


def _expose(patch: Patch, image: np.ndarray, blur: float) -> np.ndarray:
    """Illumination, contrast (of augmented patches), and the lens."""
    image = patch.blur(image * (patch.light if image.ndim == 2 else patch.light[..., None]), blur)
    return image if patch.contrast == 1 else image.mean() + patch.contrast * (image - image.mean())


def add_defect(name: str, patch: Patch, grow: float, random: np.random.Generator) -> tuple:
    """The patch's ink with a defect in it, and a map of dirt, or None: float32 [size, size].

    grow: factor on the defect's size.
    """
    ink, dirt = patch.ink.copy(), None
    if name == "pinhole":
        for _ in range(1 + random.poisson(0.6)):
            centre = _place(patch, patch.distance > 1.5, random)
            ink *= 1 - patch.cover(_blob(patch, centre, grow * random.uniform(1.3, 3.0), random))
    elif name == "splash":
        centre = _place(patch, patch.distance < -1.5, random)
        drops = [(centre, random.uniform(2.2, 4.5))]
        drops += [(centre + random.normal(0, 11, 2), random.uniform(0.8, 1.7)) for _ in range(random.poisson(4))]
        strength = random.uniform(0.35, 0.9)
        for place, radius in drops:
            ink = np.maximum(ink, strength * patch.cover(_blob(patch, place, grow * radius, random)))
    elif name == "fibre":
        dirt = random.uniform(0.5, 1.0) * _walk(patch, random.integers(25, 70), 0.16, 1.2 * grow, random)
    elif name == "walk":
        walk = _walk(patch, random.integers(4, 60), 0.6, random.uniform(1.2, 4) * grow, random)
        change = random.uniform(0.35, 0.9) * walk * (1 + 0.4 * patch.clouds(3, random)).clip(0, 1.5)
        ink = ink + change if random.random() < 0.4 else np.maximum(ink - change * ink.max(), 0)
    else:
        centre, radius = _place(patch, np.abs(patch.distance) < 3, random), grow * random.uniform(20, 46)
        region = np.clip(0.5 + _blob(patch, centre, radius, random) / 9, 0, 1)
        if name == "smear":  # ink dragged along the squeegee's way
            length = max(2, round(random.uniform(14, 30) / patch.step))
            dragged = cv2.filter2D(ink, -1, np.full((length, 1), 1 / length, np.float32), anchor=(0, length - 1))
            other = np.maximum(0.75 * ink, random.uniform(0.5, 0.8) * dragged)
        elif name == "missing":
            other = ink * (1 - random.uniform(0.3, 0.75) * np.clip(1 + 0.3 * patch.clouds(7, random), 0, 1))
        elif name == "thick":
            other = patch.cover(patch.distance + random.uniform(1.2, 2.6)) * patch.thickness * 1.2 + 0.05
        else:  # a stroke of the squeegee, through the whole patch
            region = np.exp(-(((patch.x + 3 * patch.waver[0] - centre[0]) / (grow * random.uniform(4, 11))) ** 2))
            other = ink * random.choice([0.6, 1.35]) + random.uniform(0.05, 0.13)
        ink = ink + region * (other - ink)
    return ink.astype(np.float32), dirt


def _place(patch: Patch, where: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A random place (x, y) in units, away from the border, where the condition holds (any, if it nowhere does)."""
    inner = (np.abs(patch.x - 128) < patch.reach) & (np.abs(patch.y - 128) < patch.reach)
    places = np.flatnonzero(inner & where if (inner & where).any() else inner)
    row, column = divmod(int(random.choice(places)), patch.size)
    return np.array([patch.x[row, column], patch.y[row, column]])


def _blob(patch: Patch, centre: np.ndarray, radius: float, random: np.random.Generator) -> np.ndarray:
    """Distance to the edge of a round thing with a wavering outline, positive inside, in units."""
    x, y = patch.x - centre[0], patch.y - centre[1]
    around, waver = np.arctan2(y, x), 1 + random.normal(0, 0.1) * np.cos(np.pi)
    for harmonic in (2, 3, 5):
        waver = waver + random.normal(0, 0.11) * np.cos(harmonic * around + random.uniform(0, 2 * np.pi))
    return radius * waver - np.hypot(x, y)


def _walk(patch: Patch, steps: int, bend: float, width: float, random: np.random.Generator) -> np.ndarray:
    """A random walk with momentum as a line of that width in units: float32 [size, size], 0 to 1."""
    heading = random.uniform(0, 2 * np.pi) + np.cumsum(random.normal(0, bend, steps))
    path = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1), 0)
    away = min(88, patch.reach)
    path += random.uniform(128 - away, 128 + away, 2) - path.mean(0)
    line = np.zeros((patch.size, patch.size), np.uint8)
    pixels = np.rint(((path - patch.start) / patch.step - 0.5) * 16).astype(np.int32)
    cv2.polylines(line, [pixels], False, 255, max(1, round(width / patch.step)), cv2.LINE_AA, 4)
    return patch.blur(line.astype(np.float32) / 255, 0.6)
