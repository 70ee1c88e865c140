"""Cloth, wafers and metal plates, drawn: the stand-in of Texture-AD (Lei et al., arXiv 2409.06367).

What follows the paper: three products in several specifications (sub-classes); training on some of them under steady
light, test on others under deliberately changed light; defects that cover a small part of the image, of the kinds that
each product has. What is invented, since the paper shows it only in pictures and its layout is not published: the
specifications (six per product here, fifteen, fourteen and ten there), their weaves, dies and finishes, how far the
light moves, the defects' forms, the folders (the MVTec scheme once per sub-class).

An image is a relief with a reflectance under a light (adlib.phantoms.surfaces); a defect changes the surface and not
the picture, so it looks as it must under either light.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from adlib.errors import InputError
from adlib.phantoms.defects import DEFECTS, Defect, damage
from adlib.phantoms.files import save
from adlib.phantoms.options import Difficulty, Named, Seed, Side, Three
from adlib.phantoms.plain import ENOUGH, check_difficulty, photographed_again, piece, plant
from adlib.phantoms.surfaces import NOTICEABLE, Surface, brushed, changed, clouds, develop, light, matte, photograph

# Figure 2: product -> (train, test); the test images' kinds are not published, here half of them are defective.
PUBLISHED = {"cloth": (4569, 1714), "wafer": (10_525, 4336), "metal": (13_879, 8097)}
SMALL = (10, 5, 5)
KINDS = ("train", "normal", "defective")


@dataclass(frozen=True)
class Finish:
    """A specification of a product: how it is made, its colours (RGB of both materials), its pitch (of the side).

    trained: whether it has training images alone; else test images alone.
    """

    draw: Callable[[Surface, "Finish", np.random.Generator], None]
    colours: tuple[tuple[float, float, float], tuple[float, float, float]]
    pitch: float = 0.05
    grain: float = 0.06
    trained: bool = False


def _weave(surface: Surface, finish: Finish, random: np.random.Generator) -> None:
    """Plain weave: threads across and along, over and under each other, each a little thicker or thinner."""
    y, x = np.mgrid[: surface.side, : surface.side].astype(np.float32) / surface.side
    turn = np.deg2rad(random.normal(0, 1.5))
    u = x * np.cos(turn) - y * np.sin(turn) + 0.004 * clouds(surface.side, 6, random) + random.uniform(0, 1)
    v = x * np.sin(turn) + y * np.cos(turn) + 0.004 * clouds(surface.side, 6, random) + random.uniform(0, 1)
    column, row = np.floor(u / finish.pitch).astype(int), np.floor(v / finish.pitch).astype(int)
    across, along = 2 * (u / finish.pitch - column) - 1, 2 * (v / finish.pitch - row) - 1
    over = (column + row) % 2 == 0  # which thread is on top here
    warp, weft = 1 + random.normal(0, 0.06, 400), 1 + random.normal(0, 0.06, 400)
    thick = np.where(over, warp[column % 400], weft[row % 400])
    profile = np.where(over, 1 - across**2, 1 - along**2) * (0.75 + 0.25 * np.where(over, 1 - along**2, 1 - across**2))
    surface.height += (0.35 * finish.pitch * thick * profile).astype(np.float32)
    surface.reflectance += (0.30 + 0.36 * np.clip(profile, 0, 1) * thick).astype(np.float32)
    surface.second += np.where(over, 0.0, 1.0).astype(np.float32)
    surface.texture += finish.grain * matte(surface.side, random)


def _dies(surface: Surface, finish: Finish, random: np.random.Generator) -> None:
    """A wafer: equal dies with pads and blocks of circuits, streets between them."""
    side, pitch = surface.side, round(finish.pitch * surface.side)
    layout = np.random.default_rng(round(1e4 * finish.pitch))  # of the product, not of the image
    die, metal = np.full((pitch, pitch), 0.42, np.float32), np.zeros((pitch, pitch), np.float32)
    street = max(2, pitch // 16)
    for _ in range(14):
        top, left = layout.integers(street + 2, int(0.7 * pitch), 2)
        height, width = layout.integers(max(2, pitch // 14), max(4, pitch // 3), 2)
        block = (slice(top, min(top + height, pitch - street)), slice(left, min(left + width, pitch - street)))
        die[block] = layout.uniform(0.34, 0.62)
        metal[block] = layout.uniform(0, 0.8)
    for pad in range(street + 3, pitch - street - 4, max(6, pitch // 9)):
        width = max(2, pitch // 22)
        die[pad : pad + width, street + 1 : street + 1 + width] = 0.85
        die[pad : pad + width, pitch - street - width : pitch - street] = 0.85
    die[:street], die[:, :street] = 0.24, 0.24
    repeats = side // pitch + 2
    offset = random.integers(0, pitch, 2)
    window = (slice(offset[0], offset[0] + side), slice(offset[1], offset[1] + side))
    surface.reflectance += np.tile(die, (repeats, repeats))[window]
    surface.second += np.tile(metal, (repeats, repeats))[window]
    surface.height += 0.004 * cv2.GaussianBlur(surface.reflectance, (0, 0), 1.0)
    surface.texture += finish.grain * matte(side, random) + 0.03 * clouds(side, 3, random)


def _plate(surface: Surface, finish: Finish, random: np.random.Generator) -> None:
    """A metal plate: brushed where the pitch is above 0, else matte."""
    side = surface.side
    surface.reflectance += 0.55
    surface.texture += 0.02 * clouds(side, 5, random)
    surface.texture += finish.grain * (brushed(side, random) if finish.pitch else matte(side, random))
    surface.height += 0.002 * clouds(side, 3, random)


SPECIFICATIONS = {
    "cloth": {
        "subclass1": Finish(_weave, ((0.80, 0.78, 0.70), (0.74, 0.72, 0.66)), 0.036),
        "subclass2": Finish(_weave, ((0.30, 0.40, 0.62), (0.62, 0.66, 0.72)), 0.050),
        "subclass3": Finish(_weave, ((0.62, 0.36, 0.32), (0.50, 0.28, 0.26)), 0.068),
        "subclass11": Finish(_weave, ((0.74, 0.66, 0.54), (0.66, 0.60, 0.52)), 0.042, trained=True),
        "subclass12": Finish(_weave, ((0.40, 0.46, 0.58), (0.66, 0.62, 0.66)), 0.056, trained=True),
        "subclass13": Finish(_weave, ((0.56, 0.42, 0.44), (0.44, 0.32, 0.36)), 0.062, trained=True),
    },
    "wafer": {
        "subclass1": Finish(_dies, ((0.62, 0.66, 0.74), (0.80, 0.66, 0.50)), 0.16, 0.03),
        "subclass2": Finish(_dies, ((0.60, 0.70, 0.62), (0.72, 0.60, 0.76)), 0.24, 0.03),
        "subclass3": Finish(_dies, ((0.72, 0.64, 0.58), (0.50, 0.66, 0.76)), 0.34, 0.03),
        "subclass11": Finish(_dies, ((0.64, 0.68, 0.70), (0.76, 0.70, 0.56)), 0.19, 0.03, trained=True),
        "subclass12": Finish(_dies, ((0.64, 0.66, 0.62), (0.66, 0.64, 0.74)), 0.27, 0.03, trained=True),
        "subclass13": Finish(_dies, ((0.70, 0.66, 0.62), (0.56, 0.66, 0.70)), 0.31, 0.03, trained=True),
    },
    "metal": {
        "subclass1": Finish(_plate, ((0.78, 0.78, 0.80), (0.78, 0.78, 0.80)), 1.0, 0.10),
        "subclass2": Finish(_plate, ((0.80, 0.70, 0.56), (0.80, 0.70, 0.56)), 1.0, 0.07),
        "subclass3": Finish(_plate, ((0.52, 0.56, 0.64), (0.52, 0.56, 0.64)), 0.0, 0.07),
        "subclass11": Finish(_plate, ((0.74, 0.76, 0.80), (0.74, 0.76, 0.80)), 1.0, 0.09, trained=True),
        "subclass12": Finish(_plate, ((0.76, 0.70, 0.62), (0.76, 0.70, 0.62)), 1.0, 0.08, trained=True),
        "subclass13": Finish(_plate, ((0.58, 0.60, 0.66), (0.58, 0.60, 0.66)), 0.0, 0.07, trained=True),
    },
}
# Defects of a product by name; those of fabric are its own, the others those of metal parts.
FABRIC = {
    "broken_thread": Defect("line", (0.08, 0.25), height=-0.02, brighter=-0.55, width=0.012, upright=True),
    "knot": Defect("spot", (0.012, 0.025), height=0.03, brighter=0.35),
    "stain": Defect("spot", (0.03, 0.09), stain=0.45, brighter=-0.1),
}
PRODUCT_DEFECTS = {
    "cloth": FABRIC,
    "wafer": {
        "scratch": DEFECTS["scratch"],
        "particle": Defect("spot", (0.006, 0.02), height=0.02, brighter=0.5),
        "die_crack": Defect("crack", (0.10, 0.25), height=-0.004, brighter=-0.6, width=0.005),
    },
    "metal": {"scratch": DEFECTS["scratch"], "pit": DEFECTS["pinhole"], "stain": DEFECTS["stain"]},
}
STAIN = (0.42, 0.34, 0.24)  # RGB


def write(
    out: Path,
    *,
    seed: Seed = 0,
    size: Side = 256,
    counts: Named | Three = "small",
    difficulty: Difficulty = "hard",
) -> Path:
    """Write <out>/<product>/<sub-class>/{train/good,test/good,test/<defect>,ground_truth/<defect>}/NNN.png.

    A sub-class has either training or test images. counts: (train, test normal, test defective) per sub-class that has
    such; "small" for 10, 5, 5; or "published" (Figure 2, spread over the sub-classes, half of the test images
    defective). difficulty: see `draw_image`.
    """
    for product, finishes in SPECIFICATIONS.items():
        for place, (subclass, finish) in enumerate(finishes.items()):
            for kind, number in zip(KINDS, _counts(counts, product, place % 3, difficulty), strict=True):
                for index in range(number if finish.trained == (kind == "train") else 0):
                    how = {"seed": seed, "size": size, "difficulty": difficulty}
                    image, mask = draw_image(f"{product}/{subclass}", kind, index, **how)
                    folder = Path(out, product, subclass)
                    if kind == "defective":
                        name = defect_name(product, index)
                        save(folder / "test" / name / f"{index:03}.png", image)
                        save(folder / "ground_truth" / name / f"{index:03}_mask.png", mask)
                    else:
                        save(folder / ("train" if kind == "train" else "test") / "good" / f"{index:03}.png", image)
    return Path(out)


def _counts(
    counts: str | tuple[int, int, int], product: str, place: int, difficulty: str = "hard"
) -> tuple[int, int, int]:
    """Images of one sub-class, the place-th of the three that train or test; published totals are dealt like cards."""
    if counts == "small":
        return SMALL if difficulty == "hard" else tuple(-(-number // 3) for number in ENOUGH)
    if counts == "published":
        train, test = PUBLISHED[product]
        return tuple((total + 2 - place) // 3 for total in (train, test - test // 2, test // 2))
    return counts


def defect_name(product: str, index: int) -> str:
    """The defect of a product's image of that number: each kind in turn."""
    names = list(PRODUCT_DEFECTS[product])
    return names[index % len(names)]


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
    """One image, uint8 [size, size, 3] in RGB, and its mask, uint8 [size, size] with foreground 255.

    category: "product/sub-class". kind: "train", "normal" or "defective"; the last two under changed light. Depends on
    these arguments alone, whatever else is drawn. defects=False leaves the defect out of the same piece. difficulty:
    "hard", as the paper has it, or "plain", where test pieces are of a trained specification under the training's
    light, with defects that any working method finds (adlib.phantoms.plain).
    """
    product, _, subclass = category.partition("/")
    if kind not in KINDS or subclass not in SPECIFICATIONS.get(product, {}):
        known = ", ".join(f"{name}/{each}" for name, finishes in SPECIFICATIONS.items() for each in finishes)
        raise InputError(f"No texture of {category!r}, {kind!r}: categories {known}; kinds {', '.join(KINDS)}.")
    check_difficulty(difficulty)
    finish = SPECIFICATIONS[product][subclass]
    identity = [seed, zlib.crc32(category.encode()), KINDS.index(kind), index]
    if difficulty == "plain":
        trained = category if finish.trained else f"{product}/subclass1{subclass.removeprefix('subclass')}"
        image, mask = piece(draw_image, trained, "train", index, seed=seed, size=size)
        image, mask = photographed_again(image, identity), mask.copy()
        if kind == "defective" and defects:
            image, where = plant(image, identity)
            mask[where] = 255
        return image, mask
    # Streams of their own: a piece is the same with and without its defect.
    piece_random, light_random, defect_random, noise_random = (
        np.random.default_rng([*identity, stream]) for stream in range(4)
    )
    surface = Surface(2 * size)
    finish.draw(surface, finish, piece_random)
    camera = _camera(finish, kind, surface.side, light_random)
    photo = camera(surface)
    mask = np.zeros((size, size), np.uint8)
    if kind == "defective" and defects:
        defect, without = PRODUCT_DEFECTS[product][defect_name(product, index)], photo
        for _ in range(20):  # a defect may fall where it changes next to nothing: elsewhere then
            broken = surface.copy()
            number = 1 + min(2, defect_random.poisson(0.4))
            spots = [damage(broken, defect, defect_random.uniform(0.1, 0.9, 2), defect_random) for _ in range(number)]
            photo = camera(broken)
            mask = changed(photo, without, filter(None, spots))
            if np.abs(photo - without).max() > NOTICEABLE and (mask > 0).sum() >= 3e-4 * size**2:
                break
    return develop(photo, noise_random), mask


def _camera(finish: Finish, kind: str, side: int, random: np.random.Generator) -> Callable[[Surface], np.ndarray]:
    """The light of a kind of image: steady in training, at test stronger or weaker, uneven and of another colour."""
    gain, slope, warmth = random.normal(1, 0.015), random.normal(0, 0.015, 2), random.normal(0, 0.004)
    angle = np.pi / 4 + random.normal(0, 0.05)
    if kind != "train":
        gain *= random.choice([random.uniform(0.72, 0.9), random.uniform(1.1, 1.28)])
        slope, warmth = slope + random.uniform(-0.16, 0.16, 2), warmth + random.uniform(-0.05, 0.05)
        angle += random.uniform(-0.8, 0.8)
    beam = light(side, gain, slope, random)
    tint = np.array([1 + warmth, 1, 1 - warmth])
    colours = np.array([*finish.colours, STAIN]) * tint
    towards = (float(np.cos(angle)), float(np.sin(angle)))
    return lambda surface: photograph(surface, colours, towards, beam)
