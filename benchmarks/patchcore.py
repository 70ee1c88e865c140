"""Speed of PatchCore: prediction as a multiple of the bare backbone, and the coreset against the plain loop.

    python benchmarks/patchcore.py [--device cuda] [--images 32]

The bound of prediction is the backbone's forward pass, of the coreset one pass over the projected patches per centre.
Random weights: speed does not depend on them. Prints a Markdown table; quote its ratios, the times are this machine's.
"""

import argparse
import platform
import tempfile
import time
from collections.abc import Callable

import timm
import torch

import adlib
from adlib.models.backbones import Backbone
from adlib.models.coreset import k_centre_greedy
from adlib.samples import select


def seconds(work: Callable[[], object], device: str, repeats: int = 3) -> float:
    """The best of several wall-clock times of a call, after one warm-up."""
    best = float("inf")
    for attempt in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        if attempt:
            best = min(best, time.perf_counter() - start)
    return best


def plain_greedy(features: torch.Tensor, count: int) -> torch.Tensor:
    """The usual loop: one matrix-vector product over all features per centre."""
    norms, chosen = features.square().sum(1), [0]
    distance = (norms + norms[0] - 2 * features @ features[0]).clamp_(min=0)
    while len(chosen) < count:
        row = int(distance.argmax())
        chosen.append(row)
        torch.minimum(distance, (norms + norms[row] - 2 * features @ features[row]).clamp_(min=0), out=distance)
    return torch.tensor(chosen)


def measure_prediction(name: str, images: adlib.ImageSet, device: str) -> None:
    """One table row per batch size: bare backbone, whole prediction, their ratio."""
    backbone = Backbone(name, (2, 3), "random").to(torch.device(device))
    model = adlib.create_model("patchcore", backbone=name, weights="random", coreset_ratio=0.1)
    model.fit(images, device=device, progress=False)
    for batch_size in (1, 8):
        loaded = torch.stack([images.pixels(index) for index in range(len(images))]).to(device)
        batches = loaded.split(batch_size)
        with torch.inference_mode():
            bare = seconds(lambda batches=batches: [backbone(batch) for batch in batches], device) / len(images)
            scored = seconds(lambda batches=batches: [model.score_batch(batch) for batch in batches], device)
        whole = scored / len(images)
        print(f"| {name} | {batch_size} | {1e3 * bare:.1f} | {1e3 * whole:.1f} | {whole / bare:.2f} |", flush=True)


def measure_coreset(patches: int, count: int, device: str) -> None:
    """One table row: the plain loop (over at most 300 centres, scaled up) against ours."""
    features = torch.randn(patches, 128, generator=torch.Generator().manual_seed(0)).to(device)
    some = min(count, 300)
    plain = seconds(lambda: plain_greedy(features, some), device, repeats=1) * count / some
    ours = seconds(lambda: k_centre_greedy(features, count, starts=0), device, repeats=1)
    print(f"| {patches} | {count} | {plain:.1f} | {ours:.1f} | {plain / ours:.1f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--images", type=int, default=32)
    arguments = parser.parse_args()
    on_gpu = arguments.device.startswith("cuda")
    hardware = torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} threads"
    print(f"Python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}, {hardware}\n")

    print("| backbone, 224 pixels | batch | bare backbone, ms/image | PatchCore, ms/image | ratio |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        adlib.phantoms.draw("cxr_ad", f"{folder}/cxr_ad", counts={"UB": (arguments.images, 1, 1)})
        samples = adlib.load_samples("cxr_ad", f"{folder}/cxr_ad")
        images = adlib.ImageSet(select(samples, split="train"), size=256, crop=224)
        for name in ("resnet18.tv_in1k", "wide_resnet50_2.tv_in1k"):
            measure_prediction(name, images, arguments.device)

    print("\n| patches of 128 dimensions | chosen | plain loop, s | adlib, s | ratio |")
    print("|---|---|---|---|---|")
    for patches in (25_000, 100_000):
        measure_coreset(patches, patches // 10, arguments.device)


if __name__ == "__main__":
    main()
