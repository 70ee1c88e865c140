"""Commands for images of one's own: fit, predict, threshold, bench."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from adlib.cli.options import complete_method
from adlib.errors import InputError
from adlib.files import check_writable, printable

Detector = Annotated[Path, typer.Argument(metavar="DETECTOR", help="a file that `adlib fit` wrote")]
Rate = Annotated[float, typer.Option("--rate", help="false alarms among normal images, a share")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 ...")]


def _warn(sentences: list[str]) -> None:
    """Print warnings, a line each, where they do not mix with results."""
    for sentence in sentences:
        print(f"warning: {printable(sentence)}", file=sys.stderr)


def fit(
    folder: Annotated[Path, typer.Argument(help="normal images, or a tree with train/good and test/...")],
    out: Annotated[Path, typer.Option("--out", metavar="DETECTOR", help="the file to write, .safetensors")],
    method: Annotated[
        str, typer.Option(help="`adlib models` lists them", autocompletion=complete_method)
    ] = "patchcore",
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="a parameter")] = None,
    rate: Rate = 0.05,
    folds: Annotated[int, typer.Option(min=2, help="parts of the normal images, to choose the threshold on")] = 4,
    seed: int = 0,
    device: Device = "auto",
    page: Annotated[Path | None, typer.Option(help="write a page on it, .html, where there are test images")] = None,
) -> None:
    """Learn what is normal from a folder, on whole images, and choose a threshold; says what it promises.

    Normal images in val, where there are some, choose the threshold, and nothing is learned from them.
    """
    from adlib.datasets.folders import IMAGE_SUFFIXES
    from adlib.images import ImageSet
    from adlib.own_images import fit_own, model_warnings, own_run, own_warnings
    from adlib.runs.settings import parse_settings
    from adlib.samples import select
    from adlib.screening import Threshold, agreement, contradiction, decision_counts, doubts

    run = own_run(folder, method, parse_settings(set_ or []), seed, device)
    run.check_settings()
    if page is not None and page.resolve() == out.resolve():
        raise InputError(f"{out} cannot be both the detector and its page: give two names.")
    for file, kind in ((out, "detector or weights"), (page, "page")):
        if file is not None:
            check_writable(file, kind)
    if out.suffix.lower() in IMAGE_SUFFIXES:
        raise InputError(f"{out} is the name of a picture: name a .safetensors file to write.")
    _warn(own_warnings(run))
    model, held, samples = fit_own(run, rate, folds)
    threshold = Threshold.of(model.threshold_)
    print(model.save(out))
    for sentence in [*model_warnings(model), *model.memory_notes, *threshold.sentences()]:
        print(sentence)
    if doubtful := doubts(held):
        print(f"warning: {doubtful}", file=sys.stderr)
    test = select(samples, split="test")
    if len(test):
        predictions = model.predict(ImageSet(test, **run.image_settings), device=device)
        print("Test images: " + ", ".join(f"{k} {v}" for k, v in decision_counts(threshold, predictions).items()))
        if said := agreement(threshold, predictions):
            print(said)
        if said := contradiction(threshold, predictions):
            print(f"warning: {said}", file=sys.stderr)
        if page is not None:
            from adlib.report.own_page import write_page

            print(write_page(model, samples, predictions, page, doubts=doubtful))
    elif page is not None:
        print(f"warning: {folder} has no test images, so there is no page to write.", file=sys.stderr)


def predict(
    detector: Detector,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="files, or folders of files")],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="scores.csv, scores.json, regions.csv, maps, masks")
    ],
    maps: Annotated[bool, typer.Option("--maps/--no-maps", help="write maps and masks as pictures")] = True,
    device: Device = "auto",
) -> None:
    """Score images and write what is found: scores, maps, masks, boxes of regions. Any number of images."""
    from adlib.findings import list_images, passed_over, write_findings
    from adlib.models import load_model

    model = load_model(detector)
    _warn(passed_over(images))
    said = write_findings(model, list_images(images), out, maps, device)
    if model.threshold_ is None:
        print("This detector has no threshold, so nothing is called anomalous: `adlib threshold DETECTOR FOLDER`.")
    print(
        f"{said.images} images, {said.anomalous} called anomalous, {said.unreadable} unreadable: {out / 'scores.csv'}"
    )
    if said.unreadable:
        raise typer.Exit(1)


def threshold(
    detector: Detector,
    folder: Annotated[Path, typer.Argument(help="normal images that the detector has not seen")],
    rate: Rate = 0.05,
    device: Device = "auto",
    items: Annotated[
        str | None, typer.Option(metavar="REGEX", help="finds in a file's name the part, if there are several of each")
    ] = None,
) -> None:
    """Choose the threshold of a detector anew, on normal images of today, and keep it in the detector's file."""
    from adlib.models import load_model
    from adlib.own_images import new_threshold, own_run, own_warnings

    model = load_model(detector)
    check_writable(detector)
    _warn(own_warnings(own_run(folder, model.name, {"items": items})))
    found = new_threshold(model, folder, rate, device, items=items)
    model.save(detector)
    for sentence in found.sentences():
        print(sentence)


def bench(
    detector: Detector,
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="[IMAGES]...", help="files, or folders; drawn ones if not given")
    ] = None,
    number: Annotated[int, typer.Option(min=1, help="images timed, after a few that warm up")] = 50,
    device: Device = "cpu",
) -> None:
    """How long one image takes, from its file to score and map, one at a time: median and 95th percentile."""
    from adlib.detector import choose_device
    from adlib.findings import list_images
    from adlib.models import load_model
    from adlib.own_images import bench as time_images

    model, device = load_model(detector), str(choose_device(device))  # what "auto" is here
    samples = list_images(images) if images else None
    found = time_images(model, samples, number, device=device)
    what = f"drawn images of {found['width']} x {found['height']} pixels"
    if samples is not None:  # few are taken again and again
        what = "images" if len(samples) >= number else f"looks at {len(samples)} image{'s' * (len(samples) > 1)}"
    print(printable(f"{model.name} on {device}, {number} {what} one at a time, file to score and map:"))
    print(f"p50 {found['p50']:.1f} ms, p95 {found['p95']:.1f} ms, mean {found['mean']:.1f} ms")


def export(
    detector: Detector,
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx", help="the file to write")],
) -> None:
    """Write a detector as ONNX, threshold inside, checked against it; memory banks cannot be. Needs extra "export"."""
    from adlib.export import OPSET
    from adlib.models import load_model

    model = load_model(detector)
    check_writable(file, "ONNX file")
    print(model.export(file))
    print(
        f"opset {OPSET}; image float32 [1, 3, H, W], RGB in [0, 1]; its preparation and threshold are in the metadata"
    )


COMMANDS = (fit, predict, threshold, bench, export)
