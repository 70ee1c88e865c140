"""Full size: 3CAD's 27,039 images through all but a method, and MIIC's 18.7 million patches through PatchCore.

    python benchmarks/full_size.py three_cad|miic FOLDER

Everything is drawn at the counts that the papers print, into FOLDER, once; called again it goes on where it was.

three_cad: images of 64 pixels, seen at 256. The paper is planned, every file is checked, a method that does nothing
(a pixel is as anomalous as it is bright) is run on each of the eight categories, and the report is rendered.
miic: images of 256 pixels, seen at 224; ResNet-18, bundled weights, official embedding of 1024 values, of which
1 % are kept, with memory="16GB": 38 GB of patches and 10 GB of their projections lie in FOLDER. Takes hours.

Prints a Markdown table of each command: seconds, seconds that processor cores worked, and the highest memory (resident
size) of its largest process. Needs /proc, that is Linux.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import timm
import torch

import adlib
from adlib.datasets import load_samples
from adlib.phantoms.parts import PARTS

NULL = '''"""A method that does nothing: what a run costs besides its method."""

from adlib.detector import Detector, Facts


class Brightness(Detector):
    """A pixel is as anomalous as it is bright, an image as its mean."""

    name = "brightness"
    facts = Facts("nothing", trained=False)

    def fit_images(self, images, val, progress):
        pass

    def score_batch(self, batch):
        maps = batch.mean(1)
        return maps.mean((1, 2)), maps
'''
ENTRY = "[adlib.models]\nbrightness = nothing_at_all\n"
ABOUT = "Metadata-Version: 2.1\nName: nothing-at-all\nVersion: 1.0\n"


def install_null(folder: Path) -> None:
    """Leave the method as an installed package in the folder, and let all processes from here on see it."""
    about = folder / "nothing_at_all-1.0.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (folder / "nothing_at_all.py").write_text(NULL, encoding="utf-8")
    (about / "METADATA").write_text(ABOUT, encoding="utf-8")
    (about / "entry_points.txt").write_text(ENTRY, encoding="utf-8")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


def measured(what: str, *command) -> None:
    """Run a command of adlib, and print a row on it. Ends with the command's exit code where that is not 0."""
    start, ended, largest = time.perf_counter(), threading.Event(), [0]
    before = os.times()
    process = subprocess.Popen([sys.executable, "-m", "adlib", *map(str, command)], stdout=subprocess.DEVNULL)

    def watch() -> None:
        while not ended.wait(0.5):
            try:
                family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
                largest[0] = max(largest[0], *(each.memory_info().rss for each in family))
            except psutil.NoSuchProcess:
                continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    ended.set()
    watcher.join()
    if code:
        raise SystemExit(code)
    after = os.times()
    worked = sum(after[2:4]) - sum(before[2:4])
    print(f"| {what} | {time.perf_counter() - start:.0f} | {worked:.0f} | {largest[0] / 1e6:.0f} |", flush=True)


def three_cad(folder: Path) -> None:
    root = adlib.phantoms.draw("three_cad", folder / "data" / "three_cad", counts="published", size=64)
    install_null(folder / "site")
    images = len(load_samples("three_cad", root))
    measured(f"plan of the paper, {images} images", "plan", "three_cad", "--data", folder / "data", "--out", folder)
    measured("the same again", "plan", "three_cad", "--data", folder / "data", "--out", folder)
    measured("every file checked", "check", "three_cad", "--root", root)
    for category in PARTS:
        where = ["--root", root, "--category", category, "--out", folder / "reports"]
        measured(f"run on {category}", "run", "three_cad", "brightness", *where, "--device", "cpu")
    measured("report", "report", "--out", folder / "reports")


def miic(folder: Path) -> None:
    root = adlib.phantoms.draw("miic", folder / "data" / "miic", counts="published", size=256)
    settings = "backbone=resnet18.tv_in1k weights=bundled size=224 crop=none sides=both coreset_ratio=0.01 memory=16GB"
    settings = [part for setting in settings.split() for part in ("--set", setting)]
    out = folder / "reports"
    measured("run", "run", "miic", "patchcore", "--root", root, *settings, "--out", out, "--device", "cpu")
    for file in (out / "runs").glob("*/record.json"):
        record = json.loads(file.read_text(encoding="utf-8"))
        print(
            json.dumps(
                {name: record.get(name) for name in ("metrics", "seconds", "peak_memory", "resumed", "attempts")},
                indent=1,
            )
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dataset", choices=["three_cad", "miic"])
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}"
    print(f"{versions}, CPU, {torch.get_num_threads()} threads\n")
    print("| command | s | core s | largest process, MB |\n|---|---|---|---|", flush=True)
    {"three_cad": three_cad, "miic": miic}[given.dataset](given.folder.resolve())


if __name__ == "__main__":
    main()
