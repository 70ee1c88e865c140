"""Commands for the images of a dataset: fetch, check, draw."""

from pathlib import Path
from typing import Annotated

import typer

from adlib.cli.options import Abnormal, Dataset, Normal, OptionalRoot, Seed, complete_phantom
from adlib.errors import InputError, did_you_mean


def check(
    dataset: Dataset,
    root: OptionalRoot = None,
    category: str | None = None,
    normal: Normal = None,
    abnormal: Abnormal = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="mask_rule, items, normal_names ...")
    ] = None,
    size: Annotated[int | None, typer.Option(help="count the defects that vanish at this side in pixels")] = None,
    crop: Annotated[int | None, typer.Option(help="and in its centre crop of this side")] = None,
) -> None:
    """Open every file of a dataset: counts beside the published ones, bad files, masks, duplicates by content."""
    from adlib.datasets.check import check as check_dataset
    from adlib.datasets.folder import place_of_two
    from adlib.runs.settings import DATA_SETTINGS, parse_settings, said_once

    root, folders = place_of_two(dataset, root, normal, abnormal)
    options = parse_settings(set_ or [])
    if unknown := sorted(set(options) - set(DATA_SETTINGS)):
        raise InputError(
            f"--set {unknown[0]}: check knows {', '.join(DATA_SETTINGS)}.{did_you_mean(unknown[0], DATA_SETTINGS)}"
        )
    findings = check_dataset(dataset, root, category, size=size, crop=crop, **said_once(options, folders))
    print("images: train / test normal / test anomalous")
    print(findings.counts.to_string())
    for remark in findings.remarks:
        print(f"remark   {remark}")
    for problem in findings.problems:
        print(f"problem  {problem}")
    if findings.problems:
        raise typer.Exit(1)


def fetch(
    dataset: Dataset,
    out: Annotated[Path, typer.Option("--out", help="folder of datasets; it goes into DIR/DATASET")],
    address: Annotated[str | None, typer.Option(help="fetch this instead (a mirror, a link you were sent)")] = None,
) -> None:
    """Download a dataset that has a public address, verify and unpack it. Call again to resume."""
    from adlib.datasets.fetch import fetch as fetch_dataset

    print(fetch_dataset(dataset, out, address))


def phantoms(
    dataset: Annotated[str, typer.Argument(autocompletion=complete_phantom)],
    out: Annotated[Path, typer.Option("--out", help="folder to draw into")],
    seed: Seed = 0,
    size: Annotated[int | None, typer.Option(min=16, help="side of the images in pixels")] = None,
    bits: Annotated[int | None, typer.Option(help="8 or 16, where the set has both")] = None,
    counts: Annotated[str, typer.Option(help="small, or published for the paper's counts")] = "small",
) -> None:
    """Draw the stand-in of a dataset, in the dataset's own layout."""
    from adlib.phantoms import draw

    given = {"size": size, "bits": bits, "counts": counts}
    print(draw(dataset, out, seed=seed, **{name: value for name, value in given.items() if value is not None}))


COMMANDS = (check, fetch, phantoms)
