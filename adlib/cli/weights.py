"""The commands that make or fetch weights: `adlib pretrain`, `adlib distill`, `adlib weights`."""

from pathlib import Path
from typing import Annotated

import typer

weights_app = typer.Typer(help="Pretrained weights: which are needed, and how to take them to an offline machine.")


def pretrain(
    minutes: Annotated[float, typer.Option("--minutes", help="time to train")],
    out: Annotated[Path, typer.Option("--out", help=".safetensors file to write")],
    on: Annotated[Path | None, typer.Option("--on", help="folder of your own normal images to adapt to")] = None,
    start: Annotated[
        str | None, typer.Option("--start", help="weights to begin from: a file, bundled, or random")
    ] = None,
    backbone: Annotated[str, typer.Option(help="timm name")] = "resnet18",
    classes: Annotated[int, typer.Option(min=2, help="formulas to tell apart")] = 1000,
    size: Annotated[int, typer.Option(min=32, help="side of the training images, pixels")] = 96,
    learning_rate: Annotated[float, typer.Option(help="at its highest")] = 0.1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda")] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="processes that draw images")] = 1,
    seed: int = 0,
) -> None:
    """Train features on images drawn from formulas, for --set weights=FILE; the same call resumes what was stopped.

    With --on, the bundled features are adapted to your images unless --start says otherwise.
    """
    from adlib.features.weights import bundled_file
    from adlib.pretrain import pretrain as train

    start = start or ("bundled" if on else "random")
    file = {"bundled": lambda: bundled_file(backbone), "random": lambda: None}.get(start, lambda: Path(start))()
    settings = {"backbone": backbone, "classes": classes, "size": size, "seed": seed, "on": on, "start": file}
    print(train(out, minutes, learning_rate=learning_rate, device=device, workers=workers, **settings))


def distill(
    images: Annotated[Path, typer.Option("--images", help="folder of photographs, the more varied the better")],
    out: Annotated[Path, typer.Option("--out", help=".safetensors file to write")],
    network: Annotated[str, typer.Option(help="small or medium")] = "small",
    backbone: Annotated[str, typer.Option(help="timm name of the network to learn from")] = "wide_resnet101_2.tv_in1k",
    weights: Annotated[str, typer.Option(help="its weights: pretrained, bundled, or a file")] = "pretrained",
    steps: Annotated[int, typer.Option(min=1)] = 60_000,
    batch_size: Annotated[int, typer.Option(min=1, help="photographs per step")] = 16,
    learning_rate: Annotated[float, typer.Option(help="of Adam")] = 1e-4,
    size: Annotated[int, typer.Option(min=32, help="side of the teacher's images, pixels")] = 256,
    precision: Annotated[str, typer.Option(help="float32, bfloat16, or float16 (GPU)")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda")] = "auto",
    seed: int = 0,
) -> None:
    """Make the teacher that efficientad needs from your photographs; the same call resumes what was stopped.

    In the folder ADLIB_WEIGHTS it is found as efficientad_teacher_small.safetensors, or _medium; elsewhere give
    --set teacher=FILE.
    """
    from adlib.pretrain import distil

    settings = {"network": network, "backbone": backbone, "weights": weights, "steps": steps, "size": size}
    settings |= {"batch_size": batch_size, "learning_rate": learning_rate, "precision": precision}
    print(distil(images, out, device=device, seed=seed, **settings))


@weights_app.command("list")
def list_weights() -> None:
    """Which weights the methods need by default, and whether they are here."""
    from adlib.features.weights import weights_file
    from adlib.models import needed_weights

    for name, methods in needed_weights().items():
        print(f"{name}: {', '.join(methods)}: {weights_file(name) or 'not in ADLIB_WEIGHTS'}")


@weights_app.command("pack")
def pack_weights(
    folder: Path, name: Annotated[list[str] | None, typer.Option(help="timm names; the defaults if not given")] = None
) -> None:
    """Fetch weights into a folder, to be copied to an offline machine and named by ADLIB_WEIGHTS."""
    from adlib.features.packing import pack
    from adlib.models import needed_weights

    for each in name or needed_weights():
        print(pack(each, folder))
