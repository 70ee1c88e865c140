"""Speed of the synthesisers: anomalies per second on one drawn X-ray, one core.

    python benchmarks/synthesis.py [--size 256]

Prints a Markdown table.
"""

import argparse
import time

import cv2
import numpy as np

from adlib.phantoms.xray import draw_image
from adlib.synthesis import NSA, CutPaste, CutPasteScar, RandomWalk, TexturePaste


def rate(synthesiser, image: np.ndarray, seconds: float = 2.0) -> float:
    """Images per second, after one that is not counted."""
    synthesiser(image, np.random.default_rng(0))
    start, number = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        number += 1
        synthesiser(image, np.random.default_rng(number))
    return number / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    size = parser.parse_args().size
    cv2.setNumThreads(1)
    grey, _ = draw_image("CDIP", "train", 0, size=size)
    image = np.repeat(grey[..., None], 3, axis=2).astype(np.float32) / 255
    print(f"| synthesiser, {size} pixels | images/s |\n|---|---|")
    for synthesiser in (TexturePaste(), CutPaste(), CutPasteScar(), NSA(), RandomWalk()):
        print(f"| {type(synthesiser).__name__} | {rate(synthesiser, image):.0f} |", flush=True)


if __name__ == "__main__":
    main()
