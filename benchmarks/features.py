"""What detectors find by one kind of weights or another, on real and drawn images: the bundled ones' model card.

    python benchmarks/features.py --mvtec DIR --castings DIR --weights bundled pretrained FILE ...

--mvtec: a folder in MVTec AD's layout; each of its categories is a set. --castings: GDXray's series C0001 as `images/`
and `masks/`, of one name each: images without a mask are learned from, though nobody says that they have no flaw.
Without either, or as well with --drawn, the hard phantoms of three papers. Images are seen whole, at 256 pixels (STFPM:
128). PaDiM keeps 100 channels of stages 1 to 3, others with each seed, as one choice of them tells little of a network;
PatchCore keeps 1 % of the patches of stages 2 and 3, concatenated; STFPM trains for 54 epochs.

Prints a Markdown row for every set and method: pixel AUROC / AUPRO, and image AUROC where there are normal test images,
mean of the seeds.
"""

import argparse
import os
import tempfile
from pathlib import Path

import numpy as np
import torch

import adlib
from adlib.samples import select

METHODS = {
    "padim": {"stages": (1, 2, 3), "channels": 100, "channel_seed": None},
    "patchcore": {"stages": (2, 3), "embedding": "concatenated", "coreset_ratio": 0.01},
    "stfpm": {"epochs": 54, "batch_size": 8, "precision": "bfloat16"},
}
SIZES = {"stfpm": 128}
DRAWN = {"miic": "", "cxr_ad": "CDIP", "three_cad": "Aluminum_Camera_Cover"}


def castings(folder: Path, scratch: Path):
    """Samples of a folder of X-rays: those without a mask to train on, those with one to test on."""
    folder, lines = folder.resolve(), ["image,mask,split"]
    for image in sorted((folder / "images").iterdir()):
        mask = folder / "masks" / image.name
        lines.append(f"{image},{mask},test" if mask.is_file() else f"{image},,train")
    listing = scratch / "castings.csv"
    listing.write_text("\n".join(lines), encoding="utf-8")
    return adlib.load_samples("folder", listing)


def sets(given, scratch: Path):
    """(name, samples) of everything that was asked for."""
    if given.mvtec:
        for category in given.categories or sorted(path.parent.name for path in given.mvtec.glob("*/train")):
            yield category, adlib.load_samples("mvtec_ad", given.mvtec, category)
    if given.castings:
        yield "castings", castings(given.castings, scratch)
    if given.drawn or not (given.mvtec or given.castings):
        for dataset, category in DRAWN.items():
            root = adlib.phantoms.draw(dataset, scratch / dataset)
            yield f"{dataset} {category}", adlib.load_samples(dataset, root, category or None)


def measure(samples, method: str, weights: str, backbone: str, seeds: list[int]) -> dict[str, float]:
    """Means of the metrics over the seeds."""
    prepared = {"size": SIZES.get(method, 256), "crop": None}
    train, test = (adlib.ImageSet(select(samples, split=split), **prepared) for split in ("train", "test"))
    found = []
    for seed in seeds:
        model = adlib.create_model(method, backbone=backbone, weights=weights, **METHODS[method])
        model.fit(train, device="cpu", seed=seed, progress=False)
        found.append(adlib.evaluate(model.predict(test, device="cpu", progress=False)))
    return {name: float(np.mean([one[name] for one in found])) for name in ("image_auroc", "pixel_auroc", "aupro")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mvtec", type=Path)
    parser.add_argument("--categories", nargs="+")
    parser.add_argument("--castings", type=Path)
    parser.add_argument("--drawn", action="store_true")
    parser.add_argument("--weights", nargs="+", default=["random", "bundled"])
    parser.add_argument("--files", type=Path, help="folder of pretrained weights, as ADLIB_WEIGHTS")
    parser.add_argument("--backbone", default="resnet18.tv_in1k")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    given = parser.parse_args()
    if given.files:
        os.environ["ADLIB_WEIGHTS"] = str(given.files)
    print(f"{given.backbone}, torch {torch.__version__}, seeds {', '.join(map(str, given.seeds))}\n")
    print(f"| set | method | {' | '.join(given.weights)} |\n|---|---|{'---|' * len(given.weights)}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name, samples in sets(given, Path(scratch)):
            for method in given.methods:
                cells = []
                for weights in given.weights:
                    value = measure(samples, method, weights, given.backbone, given.seeds)
                    image = "" if np.isnan(value["image_auroc"]) else f" ({value['image_auroc']:.3f})"
                    cells.append(f"{value['pixel_auroc']:.3f} / {value['aupro']:.3f}{image}")
                print(f"| {name} | {method} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
