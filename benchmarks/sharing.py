"""Sharing: what a batch gains when methods read the same frozen features through the cache.

    python benchmarks/sharing.py [--images 40] [--test 24] [--backbone wide_resnet50_2.tv_in1k]

Several methods are fitted on the same drawn X-rays and predict the same test images, one after the other: without a
cache, then with a fresh one, which the first method fills. Maps must agree to the last bit. Seconds are those
that processor cores worked, which other programs disturb least. Prints a Markdown table; quote its ratios.
"""

import argparse
import inspect
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch

import adlib
from adlib.models import model_class
from adlib.samples import select

METHODS = ("padim", "patchcore", "fastflow")
# Short trainings: what is measured is the share of the frozen features.
SETTINGS = {"coreset_ratio": 0.01, "channels": 100, "epochs": 1, "steps": 2}


def run(method: str, backbone: str, sets: tuple, folder: str) -> tuple[float, np.ndarray, dict]:
    """Core seconds of fit and predict, the maps, and what was read and computed."""
    known = inspect.signature(model_class(method).__init__).parameters
    chosen = {name: value for name, value in SETTINGS.items() if name in known}
    model = adlib.create_model(method, backbone=backbone, weights="random", **chosen).share(folder)
    start = time.process_time()
    maps = model.fit(sets[0], device="cpu", progress=False).predict(sets[1], device="cpu", progress=False).maps
    return time.process_time() - start, maps, {} if model.feature_cache is None else model.feature_cache.counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--test", type=int, default=24)
    parser.add_argument("--pixels", type=int, default=256)
    parser.add_argument("--backbone", default="wide_resnet50_2.tv_in1k")
    given = parser.parse_args()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}"
    print(f"{versions}, CPU, {torch.get_num_threads()} threads")
    print(f"{given.backbone}, random weights, {given.images} + {given.test} images of {given.pixels} pixels\n")
    with tempfile.TemporaryDirectory() as folder:
        counts = {"UB": (given.images, given.test // 2, given.test // 2)}
        adlib.phantoms.draw("cxr_ad", f"{folder}/x", counts=counts, size=given.pixels)
        samples = adlib.load_samples("cxr_ad", f"{folder}/x")
        sets = tuple(adlib.ImageSet(select(samples, split=split), size=given.pixels) for split in ("train", "test"))
        run(METHODS[0], given.backbone, sets, "")  # warm-up
        totals = [0.0, 0.0]
        print("| method | alone, core s | sharing, core s | ratio | features of images read, computed |")
        print("|---|---|---|---|---|")
        for method in METHODS:
            alone, expected, _ = run(method, given.backbone, sets, "")
            sharing, found, counts = run(method, given.backbone, sets, f"{folder}/cache")
            if not np.array_equal(expected, found):
                raise SystemExit(f"{method} gives other maps with the cache.")
            totals = [totals[0] + alone, totals[1] + sharing]
            said = f"{counts['features_read']}, {counts['features_computed']}"
            print(f"| {method} | {alone:.1f} | {sharing:.1f} | {alone / sharing:.2f} | {said} |", flush=True)
        print(f"| together | {totals[0]:.1f} | {totals[1]:.1f} | {totals[0] / totals[1]:.2f} | |")
        held = sum(file.stat().st_size for file in Path(folder, "cache").iterdir())
        print(f"\nThe cache holds {held / 1e6:.0f} MB.")


if __name__ == "__main__":
    main()
