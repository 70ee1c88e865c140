"""What the methods reach on real images, with budgets for a CPU, per kind of weights.

    python benchmarks/real.py --data MVTEC_AD [--weights FOLDER] [--categories bottle] [--methods padim cfa]
                              [--weights-rows random bundled pretrained] [--device cuda] [--seed 0]

--data: a folder in the MVTec layout, one sub-folder per category. --weights: the folder with
resnet18.tv_in1k.safetensors (sets ADLIB_WEIGHTS). Every method runs on a ResNet-18, on images as its paper prepares
them or smaller, with the settings below and nothing chosen on test images. Prints a Markdown table, row by row: the
numbers are of these budgets, not of the papers'.
"""

import argparse
import inspect
import os
import time
from pathlib import Path

import adlib
from adlib.errors import InputError
from adlib.models import model_class
from adlib.samples import select

BACKBONE = "resnet18.tv_in1k"
# method -> what differs from the paper's settings so that a category takes minutes on a CPU. A method that is not
# named here runs with the paper's settings.
SETTINGS = {
    "cfa": {"epochs": 1, "smoothing": 2.0},
    "cfrg": {
        "drop_path": 0.0,
        "norm_momentum": 0.1,
        "epochs": 4,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "image_weight": (0.0, 0.5),
        "precision": "bfloat16",
        "smoothing": 2.0,
    },
    "crad": {"blocks": 3, "expansion": 0.5, "epochs": 8, "smoothing_window": 11, "score_window": 16},
    "destseg": {
        "student_steps": 150,
        "segmentation_steps": 250,
        "batch_size": 4,
        "student_rate": 1.0,
        "head_rate": 0.1,
        "image_weight": (0.0, 0.5),
        "segmentation_width": 64,
        "precision": "bfloat16",
    },
    "draem": {
        "reconstruction_width": 16,
        "segmentation_width": 16,
        "epochs": 8,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "probability": 0.8,
        "image_weight": (0.0, 0.5),
        "rotation_share": 0.0,
        "score_window": 11,
    },
    "efficientad": {
        "width": 64,
        "features": 128,
        "distill_steps": 300,
        "distill_batch": 8,
        "distill_rate": 1e-3,
        "steps": 1500,
        "learning_rate": 1e-3,
    },
    "fastflow": {"epochs": 4, "batch_size": 8},
    "msflow": {"blocks": (1, 2, 3), "epochs": 4, "batch_size": 8, "learning_rate": 5e-4},
    "onenip": {
        "stages": (1, 2, 3),
        "width": 64,
        "hidden": 256,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "epochs": 24,
        "learning_rate": 1e-3,
    },
    "pyramidflow": {
        "stacks": 1,
        "normalisation": "spatial",
        "epochs": 5,
        "learning_rate": 5e-4,
        "precision": "bfloat16",
    },
    "rd4ad": {"epochs": 5, "batch_size": 8, "precision": "bfloat16", "smoothing": 2.0},
    "rdpp": {"epochs": 4, "batch_size": 8, "accumulate": 1, "precision": "bfloat16", "smoothing": 2.0},
    "realnet": {
        "stages": (1, 2, 3),
        "channels": (64, 128, 256, 256),
        "selection_batches": 16,
        "residuals": (128, 128),
        "probability": 0.8,
        "texture_weight": (0.0, 0.5),
        "foreground": "dark",
        "epochs": 5,
        "batch_size": 4,
        "learning_rate": 1e-3,
        "precision": "bfloat16",
    },
    "stfpm": {"epochs": 12, "batch_size": 8, "precision": "bfloat16"},
    "uflow": {"epochs": 4, "batch_size": 8, "learning_rate": 1e-3},
    "uniad": {
        "stages": (1, 2, 3),
        "width": 64,
        "hidden": 256,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "epochs": 40,
        "learning_rate": 1e-3,
    },
}
# method -> image size, where the paper's takes a CPU too long. The blur above is scaled with it.
IMAGES = {
    "cfa": {"size": 128, "crop": 112},
    "cfrg": {"size": 128},
    "crad": {"size": 128},
    "destseg": {"size": 128},
    "draem": {"size": 128},
    "efficientad": {"size": 128},
    "fastflow": {"size": 128},
    "msflow": {"size": 128},
    "onenip": {"size": 128},
    "pyramidflow": {"size": 256},
    "rd4ad": {"size": 128},
    "rdpp": {"size": 128},
    "realnet": {"size": 128},
    "stfpm": {"size": 128},
    "uflow": {"size": 128},
    "uniad": {"size": 128},
}
METRICS = ("image_auroc", "pixel_auroc", "aupro")


def settings(method: str, weights: str) -> dict:
    """The parameters of one row."""
    known = inspect.signature(model_class(method).__init__).parameters
    common = {"backbone": BACKBONE, "weights": weights}
    return {name: value for name, value in common.items() if name in known} | SETTINGS.get(method, {})


def measure(method: str, weights: str, train, test, device: str, seed: int) -> tuple[dict, float, float]:
    """(metrics, seconds of fit, seconds of predict) of one method on one category."""
    start = time.perf_counter()
    model = adlib.create_model(method, **settings(method, weights))
    model.fit(train, device=device, seed=seed, progress=False)
    fitted = time.perf_counter()
    predictions = model.predict(test, device=device, progress=False)
    predicted = time.perf_counter()
    return adlib.evaluate(predictions), fitted - start, predicted - fitted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--categories", nargs="+")
    parser.add_argument("--methods", nargs="+", default=adlib.list_models(), choices=adlib.list_models())
    kinds = ["random", "bundled", "pretrained"]
    parser.add_argument("--weights-rows", nargs="+", default=kinds, choices=kinds)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        print(f"Skipped: there is no folder {arguments.data}; --data names one in the MVTec layout.")
        return
    if arguments.weights:
        os.environ["ADLIB_WEIGHTS"] = str(arguments.weights)
    categories = arguments.categories or sorted(path.parent.name for path in arguments.data.glob("*/train"))

    print(f"ResNet-18, {arguments.device}, seed {arguments.seed}\n")
    print("| category | method | weights | image AUROC | pixel AUROC | AUPRO | budget | fit, s | predict, s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for category in categories:
        samples = adlib.load_samples("mvtec_ad", arguments.data, category)
        for method in arguments.methods:
            prepared = IMAGES.get(method, model_class(method).image_defaults)
            train, test = (adlib.ImageSet(select(samples, split=split), **prepared) for split in ("train", "test"))
            budget = SETTINGS.get(method, {}) | IMAGES.get(method, {})
            said = ", ".join(f"{name}={value}" for name, value in budget.items()) or "the paper's"
            for weights in arguments.weights_rows:
                row = f"| {category} | {method} | {weights} |"
                try:
                    metrics, fit, predict = measure(method, weights, train, test, arguments.device, arguments.seed)
                except InputError as error:
                    print(f"{row} not run: {error} | | | {said} | | |", flush=True)
                    continue
                numbers = " | ".join(f"{metrics[name]:.3f}" for name in METRICS)
                print(f"{row} {numbers} | {said} | {fit:.0f} | {predict:.0f} |", flush=True)


if __name__ == "__main__":
    main()
