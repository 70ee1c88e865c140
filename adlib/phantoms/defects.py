"""Defects of a drawn surface: what a scratch, a dent or a stain does to its relief, its reflectance and its colour.

The names are common in the field; forms and strengths are invented. Sizes are shares of the image's side.
"""

from dataclasses import dataclass

import numpy as np

from adlib.phantoms.surfaces import Surface, Window, blob, curve, edge


@dataclass(frozen=True)
class Defect:
    """A form, and what it does to the surface where it is strongest (see adlib.phantoms.surfaces.Surface)."""

    form: str  # "spot", "ring", "line", "crack", "stripes", "print" or "spur"
    size: tuple[float, float]  # radius, or length of a line
    height: float = 0.0
    brighter: float = 0.0  # the reflectance is multiplied by exp(brighter)
    stain: float = 0.0
    worn: float = 0.0  # share of the texture that is rubbed off
    width: float = 0.006  # of a line
    upright: bool = False  # a line that runs along a side of the image
    at_edge: bool = False  # where the part ends, or else anywhere on its face


DEFECTS = {
    "scratch": Defect("line", (0.10, 0.40), height=-0.004, brighter=0.5),
    "dent": Defect("spot", (0.015, 0.045), height=-0.012),
    "bump": Defect("spot", (0.012, 0.035), height=0.012),
    "stain": Defect("spot", (0.02, 0.07), stain=0.5),
    "wear": Defect("spot", (0.03, 0.07), brighter=0.28, worn=0.9),
    "gouge": Defect("line", (0.04, 0.10), height=-0.02, brighter=-0.7, width=0.014),
    "pinhole": Defect("spot", (0.004, 0.010), height=-0.01, brighter=-1.5),
    "burr": Defect("spur", (0.010, 0.022), height=0.014, brighter=0.5, at_edge=True),
    "chip": Defect("spur", (0.012, 0.028), height=-0.02, brighter=-0.8, at_edge=True),
    "discoloration": Defect("spot", (0.05, 0.11), stain=0.35, brighter=0.06),
    "watermark": Defect("ring", (0.03, 0.08), brighter=0.22, stain=0.1),
    "fingerprint": Defect("print", (0.05, 0.07), brighter=0.2),
    "fibre": Defect("line", (0.06, 0.14), height=0.004, brighter=-0.5),
    "chatter": Defect("stripes", (0.05, 0.10), height=0.003),
}


def damage(surface: Surface, defect: Defect, centre, random: np.random.Generator) -> Window | None:
    """Put a defect on a surface, at a centre (x, y) in shares of the side; its size and strength vary.

    Returns where it lies if it is round, None else: slanting light shows a dent by its rim alone, and whoever draws the
    mask needs to know that there is one thing within (`changed`).
    """
    side, strength = surface.side, random.uniform(0.7, 1.25)
    size = np.exp(random.uniform(*np.log(defect.size)))
    if defect.form in ("line", "crack"):
        line = defect.form == "line"
        bend, width = (0.08, random.uniform(0.6, 1) * defect.width) if line else (0.6, defect.width)
        bend = 0.01 if defect.upright else bend
        window, weight = curve(side, centre, size, width, random, bend, fades=line, upright=defect.upright)
    else:
        stretch, rough = (2.2, 0.2) if defect.form == "spur" else (1.4, 0.08)
        window, distance, angle = blob(side, centre, size, random, stretch, rough)
        weight = edge(distance, 0.35)
        if defect.form == "ring":
            weight = np.exp(-(((distance - 0.9) / 0.13) ** 2))
        elif defect.form == "stripes":
            weight = weight * np.sin(2 * np.pi * 3.5 * distance * np.cos(angle - random.uniform(0, np.pi)))
        elif defect.form == "print":
            whorl = 6 * distance + 0.4 * np.sin(2 * angle + random.uniform(0, np.pi))
            weight = weight * (0.5 + 0.5 * np.sin(2 * np.pi * whorl))
    weight = (strength * weight).astype(np.float32)
    surface.height[window] += defect.height * weight
    surface.reflectance[window] *= np.exp(defect.brighter * weight)
    surface.stain[window] = np.maximum(surface.stain[window], defect.stain * weight)
    surface.texture[window] *= 1 - np.clip(defect.worn * weight, 0, 1)
    return window if defect.form == "spot" else None
