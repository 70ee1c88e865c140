"""What a few real defects add to synthetic ones: mixed supervision on drawn screen prints, as in ISP-AD's Table 3.

python benchmarks/mixed_supervision.py [--modality ASM] [--seeds 0 1 2] ...

Small patches are cut out of the phantom of one modality. Synthetic defects are random walks on normal patches; the real
ones are area defects (smears, strokes, missing and thick print), which no walk makes. A classifier is trained on none,
a few and all of these, and tested on normal patches, area and point defects that were drawn apart. Prints MCC and what
goes with it per seed, then mean and standard deviation.

Budgets are those of minutes on one core: few patches of 64 pixels, a high learning rate, a higher probability of
injection than the paper's 1/32, since the stream is short. The last epoch counts. Nothing is chosen on test images but
the threshold of best F1, which is the paper's: an oracle; a classifier that then flags all or nothing has MCC 0. Beside
it, at probability 0.5, nothing is chosen at all.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

import adlib
from adlib.metrics import decision_metrics, image_metrics
from adlib.metrics.decision import threshold_best_f1
from adlib.phantoms.files import save
from adlib.phantoms.screen_print import draw_image
from adlib.samples import make_samples, select

EACH = 4  # patches that are cut out of one normal drawing
# defect -> split -> kind of drawing; of a real defect twice the side is kept, so that it can be shown off the centre
DRAWN = {
    "good": {"train": "train", "test": "normal"},
    "area": {"train": "real area", "test": "area"},
    "points": {"test": "points"},
}


def cut(picture: np.ndarray, centre: np.ndarray, side: int) -> np.ndarray:
    """The square of that side around a pixel (row, column), moved as far as it must to lie inside."""
    top, left = np.clip(centre - side // 2, 0, np.array(picture.shape[:2]) - side)
    return picture[top : top + side, left : left + side]


def drawn(folder: Path, arguments: argparse.Namespace) -> tuple[adlib.ImageSet, adlib.ImageSet]:
    """Training and test images. A defective patch lies around a pixel of the defect's mask."""
    random, rows = np.random.default_rng(0), []
    normal, area, points = arguments.test
    numbers = {("good", "train"): arguments.patches, ("good", "test"): normal}
    numbers |= {("area", "train"): arguments.real, ("area", "test"): area, ("points", "test"): points}
    for (defect, split), number in numbers.items():
        kind = DRAWN[defect][split]
        side = arguments.patch * (2 if kind == "real area" else 1)
        for index in range(number):
            drawing = index // EACH if defect == "good" else index
            if defect != "good" or index % EACH == 0:
                picture, mask = draw_image(arguments.modality, kind, drawing, size=arguments.size)
            places = np.argwhere(mask) if mask.any() else np.argwhere(np.ones_like(mask))
            centre = places[random.integers(len(places))]
            file = folder / split / defect / f"{index:04}.png"
            save(file, cut(picture, centre, side))
            rows.append({"image": str(file), "split": split, "defect": defect, "label": int(defect != "good")})
    samples = make_samples(rows, folder)
    return tuple(adlib.ImageSet(select(samples, split=split), arguments.patch) for split in ("train", "test"))


def trained(number: int, seed: int, train: adlib.ImageSet, arguments: argparse.Namespace):
    """A classifier that saw so many real area defects. The seed also shuffles them."""
    model = adlib.create_model(
        "mixed_supervised",
        weights=arguments.weights,
        defects="area" if number else "none",
        number=number or None,
        shuffle_seed=seed,
        probability=arguments.probability,
        augmentation=arguments.augmentation,
        brightness=1.5 if arguments.modality == "LSM-1" else 1.0,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        first_cycle=arguments.epochs
        * (arguments.patches // arguments.batch_size),  # one fall of the cosine, no restart
        validation_share=0,
    )
    return model.fit(train, device=arguments.device, seed=seed, progress=False)


def measured(model, test: adlib.ImageSet, device: str) -> dict:
    """Decisions at the two thresholds, recall of each group at the oracle, image AUROC, the last epoch's loss."""
    predictions = model.predict(test, device=device, batch_size=32, progress=False)
    labels, scores, kinds = test.labels, predictions.scores, test.samples["defect"].to_numpy()
    threshold = threshold_best_f1(labels, scores)
    oracle, fair = (decision_metrics(labels, scores, value) for value in (threshold, 0.0))
    recalls = {kind: float(np.mean(scores[kinds == kind] >= threshold)) for kind in ("area", "points")}
    auroc = image_metrics(labels, scores)["image_auroc"]
    mcc, fair_mcc = (
        0.0 if np.isnan(found["mcc"]) else found["mcc"] for found in (oracle, fair)
    )  # all flagged, or none
    values = {"MCC": mcc, "MCC at 0.5": fair_mcc, "FPR": oracle["fpr"], **recalls, "AUROC": auroc}
    return values | {"training loss": model.losses_[-1]["loss"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modality", default="ASM", choices=["LSM-1", "LSM-2", "ASM"])
    parser.add_argument("--size", type=int, default=128, help="of a drawing, which shows 256 of the published pixels")
    parser.add_argument("--patch", type=int, default=64, help="side of the patches that are cut out of it")
    parser.add_argument("--patches", type=int, default=1200, help="normal ones, of which half get a synthetic defect")
    parser.add_argument("--real", type=int, default=200, help="real area defects that there are")
    parser.add_argument("--numbers", type=int, nargs="+", default=[0, 9, 200], help="how many of them are learned from")
    parser.add_argument("--test", type=int, nargs=3, default=[150, 100, 20], help="normal, area, points")
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=0.02)
    parser.add_argument("--probability", type=float, default=1 / 4)
    parser.add_argument("--augmentation", default="ASM", help="of normal patches and real defects alike, or none")
    parser.add_argument("--weights", default="bundled")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        train, test = drawn(Path(folder), arguments)
        results: dict[int, list[dict]] = {number: [] for number in arguments.numbers}
        for seed in arguments.seeds:
            for number, found in results.items():
                start = time.perf_counter()
                found.append(measured(trained(number, seed, train, arguments), test, arguments.device))
                numbers = ", ".join(f"{name} {value:.3f}" for name, value in found[-1].items())
                print(f"seed {seed}, {number} real: {numbers}; {time.perf_counter() - start:.0f} s", flush=True)

    names = list(results[arguments.numbers[0]][0])
    print(f"\n{vars(arguments)}\n\n| real area defects | {' | '.join(names)} |\n|{'---|' * (1 + len(names))}")
    for number, found in results.items():
        table = np.array([[one[name] for name in names] for one in found])
        spread = table.std(0, ddof=1) if len(found) > 1 else np.full(len(names), np.nan)
        cells = [f"{mean:.3f} ± {sd:.3f}" for mean, sd in zip(table.mean(0), spread, strict=True)]
        print(f"| {number} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
