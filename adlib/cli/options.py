"""Options that several commands have, and how a warning is printed."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

OptionalRoot = Annotated[
    Path | None, typer.Option("--root", help="the dataset's folder (or a .csv file); not needed with --normal")
]
Normal = Annotated[Path | None, typer.Option("--normal", metavar="DIR", help="of folder: normal images, in no layout")]
Abnormal = Annotated[Path | None, typer.Option("--abnormal", metavar="DIR", help="of folder: abnormal images")]
Out = Annotated[Path, typer.Option("--out", help="folder of runs and report")]
Data = Annotated[Path | None, typer.Option("--data", help="a folder per dataset inside, or one set of yours")]
Seeds = Annotated[int | None, typer.Option("--seeds", min=1, help="repeat every run with this many seeds")]
Seed = Annotated[int, typer.Option(min=0, help="of all that is random")]
CacheLimit = Annotated[str, typer.Option("--cache-limit", metavar="SIZE", help="of the cache: it grows no further")]
ProfileName = Annotated[str, typer.Option("--profile", help="smoke, paper, or a .yaml file")]
PaperNames = Annotated[list[str] | None, typer.Argument(metavar="[PAPER]...", help="all papers if none is given")]


def print_warnings(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        print(f"warning: {sentence}", file=sys.stderr)
