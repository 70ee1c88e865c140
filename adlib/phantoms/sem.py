"""Electron micrographs of a circuit's metal layer, drawn: the stand-in of MIIC (Barusco et al., arXiv 2505.07576).

What follows the paper and the set's own description: one family of circuits, the metal layer alone, grey JPEG files
of 512 pixels in MIIC's folders, masks as JPEG; few anomalous images among many normal ones; counts. What is invented,
since they are shown only in pictures: the routing (straight wires on tracks, with gaps and vias), its pitch, the
microscope's contrast and noise, and the defects: bridges between wires, opens, particles, necks.

An image is a map of the distance to the next metal edge: metal is bright, edges are brightest (they emit more
electrons), the dielectric is dark and charges along the scan lines.
"""

import zlib
from pathlib import Path

import cv2
import numpy as np

from adlib.errors import InputError
from adlib.phantoms.files import save
from adlib.phantoms.options import Difficulty, Named, Seed, Side, Three
from adlib.phantoms.plain import ENOUGH, check_difficulty, photographed_again, piece, plant
from adlib.phantoms.surfaces import noticeable

PUBLISHED = (23_888, 1_272, 116)  # train, test normal, test anomalous
SMALL = (24, 10, 12)
KINDS = ("train", "normal", "abnormal")
DEFECTS = ("bridge", "open", "particle", "neck")
PITCH, WIDTH = 32, 17  # of the tracks, in pixels of 512
NOTICEABLE = 8  # grey levels by which a defect changes a pixel of its mask, before noise


def write(
    out: Path,
    *,
    seed: Seed = 0,
    size: Side = 512,
    counts: Named | Three = "small",
    difficulty: Difficulty = "hard",
) -> Path:
    """Write <out>/Anomaly_train and <out>/Anomaly_test/{normal_img,abnormal_img,abnormal_mask}, JPEG files.

    counts: "small" (24 + 10 + 12; plain 24 + 20 + 20), "published" (23,888 + 1,272 + 116), or (train, test normal,
    test anomalous). difficulty: see `draw_image`.
    """
    if isinstance(counts, str):
        named = {"small": SMALL if difficulty == "hard" else ENOUGH, "published": PUBLISHED}
        counts = named[counts]
    names = {
        "train": "Anomaly_train/train_normal_{:05}.jpg",
        "normal": "Anomaly_test/normal_img/normal_{:05}.jpg",
        "abnormal": "Anomaly_test/abnormal_img/abnormal_{:05}.jpg",
    }
    for (kind, name), number in zip(names.items(), counts, strict=True):
        for index in range(number):
            image, mask = draw_image("MIIC", kind, index, seed=seed, size=size, difficulty=difficulty)
            save(Path(out, name.format(index)), image)
            if kind == "abnormal":
                save(Path(out, f"Anomaly_test/abnormal_mask/abnormal_{index:05}_mask.jpg"), 255 * mask, quality=100)
    return Path(out)


def draw_image(
    category: str,
    kind: str,
    index: int,
    *,
    seed: int = 0,
    size: int = 512,
    defects: bool = True,
    difficulty: str = "hard",
) -> tuple[np.ndarray, np.ndarray]:
    """One image and its mask: uint8 [size, size], and uint8 [size, size] with foreground 1.

    category: "MIIC". kind: "train", "normal" or "abnormal". Depends on these arguments alone, whatever else is drawn.
    defects=False leaves the defect out of the same layer. difficulty: "hard", as the paper's statistics have it, or
    "plain", with defects that any working method finds (adlib.phantoms.plain).
    """
    if category != "MIIC" or kind not in KINDS:
        raise InputError(f"No micrograph of {category!r}, {kind!r}: the category is MIIC, kinds {', '.join(KINDS)}.")
    check_difficulty(difficulty)
    identity = [seed, zlib.crc32(category.encode()), KINDS.index(kind), index]
    if difficulty == "plain":
        image, mask = piece(draw_image, category, "train", index, seed=seed, size=size)
        image, mask = photographed_again(image, identity), mask.copy()
        if kind == "abnormal" and defects:
            image, where = plant(image, identity)
            mask[where] = 1
        return image, mask
    # Streams of their own: a layer is the same with and without its defect.
    layer_random, defect_random, noise_random = (np.random.default_rng([*identity, stream]) for stream in range(3))

    metal, wires = _route(layer_random)
    view = _View(layer_random)
    image = clean = view.expose(metal)
    mask = np.zeros((size, size), np.uint8)
    if kind == "abnormal" and defects:
        name = DEFECTS[index % len(DEFECTS)]
        for attempt in range(40):  # a defect may fall where it changes nothing: elsewhere then, and larger
            image = view.expose(*_damage(name, metal, wires, 1.05**attempt, defect_random))
            change = cv2.resize(np.abs(image - clean), (size, size), interpolation=cv2.INTER_AREA)
            mask = cv2.morphologyEx(noticeable(change, NOTICEABLE), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
            if change.max() > NOTICEABLE and mask.sum() > 2e-4 * size**2:
                break
    image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    rows = noise_random.standard_normal((size, 1)).astype(np.float32)  # each scan line has its own offset
    noise = noise_random.standard_normal((size, size)).astype(np.float32)
    image = image + 1.2 * rows + noise * np.sqrt(0.35 * image.clip(1) + 20)
    return np.rint(image.clip(0, 255)).astype(np.uint8), mask


def _route(random: np.random.Generator) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Metal (1) and dielectric (0), uint8 [512, 512], wires running down; and the wires as (left, top, bottom).

    Each track carries wires with gaps between them; some ends carry a landing pad for a via.
    """
    side, offset = 512, int(random.integers(0, PITCH))
    metal, wires = np.zeros((side, side), np.uint8), []
    for left in range(offset - PITCH, side, PITCH):
        top = -int(random.integers(0, 200))
        while top < side:
            bottom = top + int(random.choice([90, 160, 280, 500]) * random.uniform(0.8, 1.2))
            cv2.rectangle(metal, (left, top), (left + WIDTH, bottom), 1, -1)
            wires.append((left, top, bottom))
            for end in (top, bottom - 18):
                if random.random() < 0.35:
                    cv2.rectangle(metal, (left - 3, end), (left + WIDTH + 3, end + 18), 1, -1)
            top = bottom + int(random.choice([16, 24, 60]))
    return metal, wires


class _View:
    """One look through the microscope: how rough the edges are, where the layer lies, how bright it is."""

    def __init__(self, random: np.random.Generator):
        self.turned = random.random() < 0.5  # wires run down or across
        rough = [_clouds(70, random) * 0.9 + _clouds(200, random) * 0.5 for _ in range(2)]
        y, x = np.mgrid[:512, :512].astype(np.float32)
        angle = np.deg2rad(random.normal(0, 0.4))
        across = (x - 256) * np.cos(angle) - (y - 256) * np.sin(angle) + 256 + rough[0]
        down = (x - 256) * np.sin(angle) + (y - 256) * np.cos(angle) + 256 + rough[1]
        self.x, self.y = across.astype(np.float32), down.astype(np.float32)
        self.swell = random.normal(0, 0.5)  # over- or under-etched: pixels that every edge moves
        self.gain, self.charge = random.normal(1, 0.03), 1 + 0.035 * _clouds(4, random)
        self.grain = 3.0 * _clouds(160, random)

    def expose(self, metal: np.ndarray, dirt: np.ndarray | None = None) -> np.ndarray:
        """Grey levels without noise, float32 [512, 512]. dirt: what lies on the layer, 0 to 1."""
        inside = cv2.distanceTransform(metal, cv2.DIST_L2, 5) - cv2.distanceTransform(1 - metal, cv2.DIST_L2, 5)
        inside = cv2.remap(inside, self.x, self.y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) + self.swell
        cover = 1 / (1 + np.exp(-inside / 0.9))
        rim = np.exp(-(((inside - 0.8) / 1.8) ** 2))
        shadow = np.exp(-((np.minimum(inside, 0) / 5) ** 2)) * (1 - cover)  # a narrow gap lets few electrons out
        image = 58 + (70 + self.grain) * cover + 45 * rim - 14 * shadow
        if dirt is not None:
            lump = cv2.GaussianBlur(dirt, (0, 0), 1.2)
            image = image + lump * (150 - image) + 60 * np.clip(lump - cv2.GaussianBlur(dirt, (0, 0), 3.5), 0, 1)
        image = cv2.GaussianBlur(image * self.gain * self.charge, (0, 0), 0.8)
        return image.T if self.turned else image


def _clouds(cells: int, random: np.random.Generator) -> np.ndarray:
    """Smooth noise of unit strength, with `cells` cells along the side: float32 [512, 512]."""
    return cv2.resize(random.standard_normal((cells, cells), np.float32), (512, 512), interpolation=cv2.INTER_CUBIC)


def _damage(name: str, metal: np.ndarray, wires: list, grow: float, random: np.random.Generator) -> tuple:
    """The metal with a defect in it, and a map of dirt, or None. grow: factor on the defect's size."""
    metal, dirt = metal.copy(), None
    inner = [wire for wire in wires if 60 < wire[0] < 420 and min(wire[2], 470) - max(wire[1], 40) > 60]
    left, top, bottom = inner[random.integers(len(inner))]
    y = int(random.integers(max(top, 40) + 20, min(bottom, 470) - 20))
    half = max(2, round(grow * random.uniform(4, 11)))
    if name == "bridge":
        waist = max(1, round(half * random.uniform(0.3, 0.8)))
        right = left + PITCH
        outline = [(left + WIDTH, y - half), (left + WIDTH + 8, y - waist), (right, y - half)]
        outline += [(right, y + half), (left + WIDTH + 8, y + waist), (left + WIDTH, y + half)]
        cv2.fillPoly(metal, [np.array(outline)], 1)
    elif name == "open":
        cv2.ellipse(metal, (left + WIDTH // 2, y), (WIDTH, half), random.uniform(-25, 25), 0, 360, 0, -1)
    elif name == "neck":
        for x, depth in ((left - 2, random.uniform(0.3, 0.5)), (left + WIDTH + 2, random.uniform(0.2, 0.45))):
            cv2.ellipse(metal, (x, y), (round(WIDTH * depth) + 2, half + 4), 0, 0, 360, 0, -1)
    else:
        dirt = np.zeros(metal.shape, np.float32)
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        radius = half * random.uniform(0.9, 1.8) * (1 + 0.18 * np.sin(3 * angles + random.uniform(0, 6)))
        radius = radius * (1 + random.normal(0, 0.08, 24))
        centre = np.array([left + random.uniform(-10, 26), y])
        outline = centre + radius[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        cv2.fillPoly(dirt, [np.rint(outline).astype(np.int32)], random.uniform(0.55, 0.9))
    return metal, dirt
