"""Prediction time of every method as a multiple of its own backbone's forward pass.

    python benchmarks/predict.py [--methods padim cfa] [--device cuda] [--size 256] [--repeats 7]

The backbone is the part that a method cannot do without; one that has none is held against ResNet-18, layers 1 to 3,
and says so. It runs as timm has it, without what adlib.features.fusion makes of it for predictions. Both are timed by
turns in one run and the best time of each counts, so that what else runs on the machine disturbs both alike. Random
weights and one epoch on eight images: speed does not depend on weights.

On a CPU a method's bound stands beside it: its own convolutions and matrix products, run again by themselves as in
benchmarks/peers.py. Where the whole takes more than one and a half times as long, shares of its time say on what.

Prints a Markdown table; quote its ratios, the times are this machine's.
"""

import argparse
import inspect
import platform
import tempfile
import time
from unittest import mock

import timm
import torch
from peers import WORTH_SAYING, Products, profiled, rest

import adlib
from adlib.detector import Detector
from adlib.features.backbones import Backbone
from adlib.kept_memory import freed_memory_kept
from adlib.models import model_class
from adlib.samples import select

BATCH = 8
# What every method gets, if it has such a parameter, and what single methods get beside.
COMMON = {"backbone": "resnet18.tv_in1k", "weights": "random", "epochs": 1}
SETTINGS = {
    "destseg": {"student_steps": 1, "segmentation_steps": 1},
    "efficientad": {"steps": 1},
    "fanogan": {"gan_steps": 1, "encoder_steps": 1},
    "glass": {"epoch_images": BATCH},
    "iad_inpainting": {"inpainting_epochs": 1},
    "patchcore": {"coreset_ratio": 0.3},  # of 8 images: the memory bank of a tenth of 24 images
    "realnet": {"channels": (64, 128, 256, 256), "selection_batches": 1},  # of ResNet-18's 64, 128, 256 and 512
}
BUDGETS = {"weights", "epochs", "student_steps", "segmentation_steps", "steps", "gan_steps", "encoder_steps"}
BUDGETS |= {"epoch_images", "inpainting_epochs", "selection_batches"}  # of the training: no matter for prediction
# Left out unless named: they need labelled defects or another data set, take minutes per batch, or have no ResNet.
UNTIMED = {"adaclip", "ddad", "dinomaly", "mixed_supervised", "riad"}
# A second row of a method whose network is another one elsewhere: anomalib's FastFlow on a ResNet-18.
VARIANTS = {"fastflow": {"kernels": (3, 1)}}
TARGETS = {"padim": 1.5, "stfpm": 2.3, "rd4ad": 3.3, "fastflow": 2.5}


def settings(method: str) -> dict:
    """The parameters with which a method is timed."""
    known = inspect.signature(model_class(method).__init__).parameters
    return {name: value for name, value in COMMON.items() if name in known} | SETTINGS.get(method, {})


def seconds(work, device: str) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - start


def backbone_alone(backbone: torch.nn.Module, batch: torch.Tensor) -> list[torch.Tensor]:
    """Features by timm's network as it is."""
    with mock.patch("adlib.features.backbones.fused", lambda net, _: net):
        return backbone(batch)


@torch.inference_mode()
def measure(model: Detector, batch: torch.Tensor, device: str, repeats: int) -> list[float]:
    """[best time of the bare backbone, best time of the whole prediction] of one batch, after one warm-up of each."""
    backbone = getattr(model, "backbone_", None) or Backbone(COMMON["backbone"], (1, 2, 3), "random").to(device)
    works = (lambda: backbone_alone(backbone, batch), lambda: model.score_batch(batch))
    best = [float("inf")] * 2
    with freed_memory_kept(device == "cpu"):  # as in predict()
        for attempt in range(repeats + 1):
            for index, work in enumerate(works):
                taken = seconds(work, device)
                if attempt:
                    best[index] = min(best[index], taken)
    return best


@torch.inference_mode()
def bound(model: Detector, batch: torch.Tensor, repeats: int) -> float:
    """Best time of the products of a prediction alone."""
    record = Products()
    with record:
        model.score_batch(batch)
    with freed_memory_kept():
        return min(record.seconds() for _ in range(min(3, repeats)))


@torch.inference_mode()
def where(model: Detector, batch: torch.Tensor) -> str:
    """Shares of the time of a prediction's operators."""
    with profiled() as seen:
        model.score_batch(batch)
    return rest(seen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    timed = [method for method in adlib.list_models() if method not in UNTIMED]
    parser.add_argument("--methods", nargs="+", default=timed, choices=adlib.list_models())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    on_gpu = arguments.device.startswith("cuda")
    hardware = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}"
    print(f"{versions}, {hardware}, batch {BATCH}, {arguments.size} pixels\n")
    heads = ["method", "settings", "bare backbone, ms/image", "prediction, ms/image", "ratio", "target"]
    heads += ["its products, ms/image", "prediction/products", "where the time goes"]
    print(f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|")
    with tempfile.TemporaryDirectory() as folder:
        adlib.phantoms.draw("cxr_ad", f"{folder}/cxr_ad", size=arguments.size, counts={"UB": (BATCH, 1, 1)})
        samples = select(adlib.load_samples("cxr_ad", f"{folder}/cxr_ad"), split="train")
        rows = [(method, settings(method)) for method in arguments.methods]
        rows += [(name, settings(name) | other) for name, other in VARIANTS.items() if name in arguments.methods]
        for method, chosen in rows:
            images = adlib.ImageSet(samples, size=arguments.size)
            model = adlib.create_model(method, **chosen)
            model.fit(images, device=arguments.device, progress=False)
            batch = torch.stack([images.pixels(index) for index in range(BATCH)]).to(arguments.device)
            bare, whole = (1e3 * best / BATCH for best in measure(model, batch, arguments.device, arguments.repeats))
            own = {name: value for name, value in chosen.items() if name not in BUDGETS}
            if getattr(model, "backbone_", None) is None:
                own["against"] = COMMON["backbone"]
            said = ", ".join(f"{name}={value}" for name, value in own.items())
            target = f"≤ {TARGETS[method]}" if method in TARGETS else ""
            row = [method, said, f"{bare:.1f}", f"{whole:.1f}", f"{whole / bare:.2f}", target]
            if on_gpu:
                row += ["", "", ""]
            else:
                products = 1e3 * bound(model, batch, arguments.repeats) / BATCH
                above = whole / products
                row += [f"{products:.1f}", f"{above:.2f}", where(model, batch) if above > WORTH_SAYING else ""]
            print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
