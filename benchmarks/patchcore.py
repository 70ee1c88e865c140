"""PatchCore at full size: the coreset and the prediction, beside anomalib and beside what bounds them.

    python benchmarks/patchcore.py [--images 200] [--pixels 256] [--device cuda] [--env FOLDER] [--only prediction]
                                   [--mvtec DIR] [--castings DIR] [--weights bundled pretrained]

Coreset: 10 % of all patches of --images drawn X-rays (ResNet-18, bundled weights, concatenated embedding of 384
values), against the loop that reads all patches once per choice, over 60 choices, scaled up. Prediction: of 8 images
that were not learned, with a memory bank of that size, as a multiple of the bare backbone's forward pass (timm's, as of
benchmarks/predict.py). How long a search takes depends on how features lie, so on images and weights: --mvtec and
--castings (as of benchmarks/features.py) add real images, by each of --weights. anomalib runs on the same patches and
pictures in an environment of its own (made by benchmarks/metrics.py, left out with a word if it cannot be). Prints
Markdown tables; quote their ratios, the times are this machine's.
"""

import argparse
import ctypes
import json
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import timm
import torch
from features import sets
from metrics import HERE, prepare_environment
from predict import backbone_alone

import adlib
from adlib.features.backbones import Backbone
from adlib.features.patch_embedding import concatenated_embedding
from adlib.kept_memory import freed_memory_kept
from adlib.memory.coreset import covering_radius, k_centre_greedy
from adlib.memory.sieve import best_sieve
from adlib.samples import select

LOOP = 60  # choices over which the loops are timed
NARROW, WIDE = "resnet18.tv_in1k", "wide_resnet50_2.tv_in1k"
READINGS = "concatenated", "pooled"

# In anomalib's environment: its loop on patches.npy, and its prediction on batch.npy with a bank of `count` patches.
PEER = """
import json, sys, time
import numpy as np, torch
from anomalib.models.components import KCenterGreedy
from anomalib.models.image.patchcore.torch_model import PatchcoreModel
folder, loop, count, threads = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(threads)
patches, batch = (torch.from_numpy(np.load(f"{folder}/{name}.npy")) for name in ("patches", "batch"))
found = {}
def timed(choices):
    start = time.perf_counter()
    KCenterGreedy(patches, choices / len(patches)).select_coreset_idxs()
    return time.perf_counter() - start
timed(loop)
times = [(timed(loop // 4), timed(loop)) for _ in range(3)]
short, long = (min(column) for column in zip(*times))
found["choice"] = (long - short) / (loop - loop // 4)
model = PatchcoreModel(layers=["layer2", "layer3"], backbone="resnet18", pre_trained=False).eval()
model.memory_bank = patches[:: max(1, len(patches) // count)][:count].clone()
best = [float("inf")] * 2
with torch.inference_mode():
    for _ in range(4):
        for index, work in enumerate((model.feature_extractor, model)):
            start = time.perf_counter()
            work(batch)
            best[index] = min(best[index], time.perf_counter() - start)
found["bare"], found["whole"] = best
print(json.dumps(found))
"""


def seconds(work: Callable[[], object], device: str, repeats: int = 1, warm_up: bool = True) -> float:
    """The best of several wall-clock times of a call."""
    best = float("inf")
    for attempt in range(repeats + warm_up):
        start = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        if attempt or not warm_up:
            best = min(best, time.perf_counter() - start)
    return best


def memory(entry: str) -> int:
    """Bytes of this process in main memory: "VmRSS" now, "VmHWM" at the peak (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(entry))


def plain_greedy(features: torch.Tensor, count: int) -> torch.Tensor:
    """The usual loop: one matrix-vector product over all features per choice."""
    norms, chosen = features.square().sum(1), [0]
    distance = (norms + norms[0] - 2 * features @ features[0]).clamp_(min=0)
    while len(chosen) < count:
        row = int(distance.argmax())
        chosen.append(row)
        torch.minimum(distance, (norms + norms[row] - 2 * features @ features[row]).clamp_(min=0), out=distance)
    return torch.tensor(chosen)


@torch.inference_mode()
def patches_of(images: adlib.ImageSet, device: str) -> torch.Tensor:
    """The concatenated embedding of all patches, float32 [N, 384]."""
    backbone = Backbone(NARROW, (2, 3), "bundled").to(torch.device(device))
    parts = [torch.stack([images.pixels(index) for index in range(first, min(first + 8, len(images)))]).to(device)
             for first in range(0, len(images), 8)]  # fmt: skip
    return torch.cat([concatenated_embedding(backbone(part)).flatten(0, 1) for part in parts])


def measure_coreset(patches: torch.Tensor, count: int, device: str, peer: dict) -> None:
    """A table: seconds, ratio and covering radius of the plain loop, anomalib's loop and ours."""
    size = patches.nbytes
    choices = k_centre_greedy(patches, LOOP, starts=0)  # warm-up
    ctypes.CDLL(None).malloc_trim(0)  # what it has freed is not to hide what the choice takes
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    start = time.perf_counter()
    kept = k_centre_greedy(patches, count, starts=0)
    ours = time.perf_counter() - start
    grown = memory("VmHWM") - before
    short = seconds(lambda: plain_greedy(patches, LOOP // 4), device, repeats=3)
    plain = (seconds(lambda: plain_greedy(patches, LOOP), device, repeats=3) - short) / (LOOP - LOOP // 4) * count
    radius = covering_radius(patches, kept)
    print(f"| {len(patches)} patches of {patches.shape[1]} values, {count} chosen | s | times ours |")
    print("|---|---|---|")
    if peer:
        theirs = peer["choice"] * count
        print(f"| anomalib, {LOOP} choices scaled up | {theirs:.0f} | {theirs / ours:.0f} |")
    print(f"| plain loop, {LOOP} choices scaled up | {plain:.0f} | {plain / ours:.0f} |")
    print(f"| adlib | {ours:.1f} | 1 |\n")
    same = int((choices == k_centre_greedy(patches.double(), LOOP, starts=0)).sum())
    print(f"Covering radius {radius:.4f}. {same} of the first {LOOP} choices are float64's.")
    print(f"Beyond the features, memory grew by {grown / size:.2f} times their size at most.\n", flush=True)


@torch.inference_mode()
def measure_prediction(on: str, train: adlib.ImageSet, batch: torch.Tensor, name: str, weights: str, embedding: str,
                       count: int, device: str) -> None:  # fmt: skip
    """One table row: bare backbone, whole prediction of a batch, their ratio."""
    backbone = Backbone(name, (2, 3), weights).to(torch.device(device))
    model = adlib.create_model("patchcore", backbone=name, weights=weights, embedding=embedding, coreset_limit=count)
    model.fit(train, device=device, progress=False)
    bare = whole = float("inf")
    with freed_memory_kept(device == "cpu"):  # as in predict()
        for attempt in range(6):
            one = seconds(lambda: backbone_alone(backbone, batch), device, warm_up=attempt == 0)
            two = seconds(lambda: model.score_batch(batch), device, warm_up=attempt == 0)
            bare, whole = min(bare, one), min(whole, two)
    row = [on, f"{name}, {weights}, {embedding}", len(model.memory_bank_), f"{125 * bare:.1f}", f"{125 * whole:.1f}"]
    print(f"| {' | '.join(map(str, row))} | {whole / bare:.2f} |", flush=True)


def learned_and_not(samples: pd.DataFrame, arguments: argparse.Namespace) -> tuple[adlib.ImageSet, torch.Tensor]:
    """The first training images, and the first 8 test images as a batch on the device."""
    train, test = (select(samples, split=split) for split in ("train", "test"))
    images, others = (adlib.ImageSet(some, size=arguments.pixels) for some in (train[: arguments.images], test[:8]))
    return images, torch.stack([others.pixels(index) for index in range(len(others))]).to(arguments.device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--pixels", type=int, default=256)
    parser.add_argument("--env", type=Path, default=HERE / "results" / "metrics-env", help="environment of anomalib")
    parser.add_argument("--only", choices=["coreset", "prediction"])
    parser.add_argument("--mvtec", type=Path)
    parser.add_argument("--castings", type=Path)
    parser.add_argument("--weights", nargs="+", default=["bundled"], help="with --mvtec and --castings")
    arguments = parser.parse_args()
    arguments.categories, arguments.drawn = None, False  # all of them, and no other than the X-rays below
    on_gpu = arguments.device.startswith("cuda")
    hardware = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    bounds = "" if on_gpu else f", {best_sieve().__name__}"
    print(
        f"Python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}, {hardware}{bounds}\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        adlib.phantoms.draw("cxr_ad", f"{folder}/x", counts={"UB": (arguments.images, 8, 1)}, size=arguments.pixels)
        images, batch = learned_and_not(adlib.load_samples("cxr_ad", f"{folder}/x"), arguments)
        patches = patches_of(images, arguments.device)
        count = len(patches) // 10
        peer, why = {}, "it runs on the CPU only here"
        if not on_gpu:
            python, why = prepare_environment(arguments.env)
            np.save(f"{folder}/patches.npy", patches.numpy())
            np.save(f"{folder}/batch.npy", batch.numpy())
            if python:
                command = [python, "-c", PEER, folder, str(LOOP), str(count), str(torch.get_num_threads())]
                done = subprocess.run(command, capture_output=True, text=True)
                why = done.stderr.strip()[-300:]
                peer = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
        if not peer:
            print(f"anomalib is left out: {why}\n")
        if arguments.only != "prediction":
            measure_coreset(patches, count, arguments.device, peer)
        del patches
        if arguments.only == "coreset":
            return
        print("| 8 images | PatchCore | memory bank | bare backbone, ms/image | whole, ms/image | ratio |")
        print(f"|{'---|' * 6}")
        if peer:
            bare, whole = peer["bare"], peer["whole"]
            row = ["drawn X-rays", "anomalib, resnet18, random", count, f"{125 * bare:.1f}", f"{125 * whole:.1f}"]
            print(f"| {' | '.join(map(str, row))} | {whole / bare:.2f} |", flush=True)
        for name, weights in ((NARROW, "bundled"), (WIDE, "random")):
            for reading in READINGS:
                measure_prediction("drawn X-rays", images, batch, name, weights, reading, count, arguments.device)
        for on, samples in sets(arguments, Path(folder)) if arguments.mvtec or arguments.castings else ():
            images, batch = learned_and_not(samples, arguments)
            for weights in arguments.weights:
                for reading in READINGS:
                    measure_prediction(on, images, batch, NARROW, weights, reading, count, arguments.device)


if __name__ == "__main__":
    main()
