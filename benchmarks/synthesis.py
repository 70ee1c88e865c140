"""Speed of the synthesisers: anomalies per second on one drawn X-ray, one core.

    python benchmarks/synthesis.py [--size 256]

Prints a Markdown table. The folder of textures holds JPEGs of DTD's usual size, 640 x 480, drawn for the occasion.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from adlib.phantoms.xray import draw_image
from adlib.synthesis import (
    NSA,
    CutPaste,
    CutPaste3Way,
    CutPasteScar,
    ProceduralTextures,
    RandomWalk,
    TextureFolder,
    TexturePaste,
    perlin_mask,
)


def rate(work: Callable[[np.random.Generator], object], seconds: float = 2.0) -> float:
    """Calls per second, after one that is not counted; each call has a generator of its own, as in training."""
    work(np.random.default_rng(0))
    start, number = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        number += 1
        work(np.random.default_rng(number))
    return number / (time.perf_counter() - start)


def write_textures(folder: Path, number: int = 20) -> TextureFolder:
    """A folder of drawn JPEGs."""
    for index in range(number):
        texture = ProceduralTextures()((480, 640), np.random.default_rng(index))
        (folder / f"{index:02}.jpg").write_bytes(cv2.imencode(".jpg", texture[..., ::-1])[1].tobytes())
    return TextureFolder(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    size = parser.parse_args().size
    cv2.setNumThreads(1)
    grey = [draw_image("CDIP", "train", index, size=size)[0] for index in range(4)]
    image, *others = (np.repeat(one[..., None], 3, axis=2).astype(np.float32) / 255 for one in grey)
    with tempfile.TemporaryDirectory() as temporary:
        folder = write_textures(Path(temporary))
        synthesisers = {
            "TexturePaste, procedural textures": TexturePaste(),
            "TexturePaste, folder of JPEGs": TexturePaste(folder),
            "CutPaste": CutPaste(),
            "CutPasteScar": CutPasteScar(),
            "CutPaste3Way": CutPaste3Way(),
            "NSA, sources in memory": NSA(others),
            "RandomWalk": RandomWalk(),
        }
        parts = {
            "perlin_mask": lambda rng: perlin_mask((size, size), rng),
            "ProceduralTextures": lambda rng: ProceduralTextures()((size, size), rng),
            "TextureFolder": lambda rng: folder((size, size), rng),
        }
        print(f"| synthesiser, {size} pixels | images/s |\n|---|---|")
        for name, synthesiser in synthesisers.items():
            print(f"| {name} | {rate(lambda rng, one=synthesiser: one(image, rng)):.0f} |", flush=True)
        print(f"\n| part, {size} pixels | per second |\n|---|---|")
        for name, part in parts.items():
            print(f"| {name} | {rate(part):.0f} |", flush=True)


if __name__ == "__main__":
    main()
