"""Options that several commands have, and how a warning is printed."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer


def _completed(list_names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """What a shell offers for the beginning of a name; nothing is imported before somebody asks."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in list_names() if name.startswith(incomplete)]

    return complete


def _methods() -> Iterable[str]:
    from adlib.models import list_models

    return list_models()


def _datasets() -> Iterable[str]:
    from adlib.datasets import list_datasets

    return list_datasets()


def _papers() -> Iterable[str]:
    from adlib.papers import list_papers, list_studies

    return [*list_papers(), *list_studies()]


def _phantoms() -> Iterable[str]:
    from adlib.phantoms import list_phantoms

    return list_phantoms()


complete_method, complete_dataset = _completed(_methods), _completed(_datasets)
complete_paper, complete_phantom = _completed(_papers), _completed(_phantoms)

Method = Annotated[str, typer.Argument(autocompletion=complete_method)]
Dataset = Annotated[str, typer.Argument(autocompletion=complete_dataset)]
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
PaperNames = Annotated[
    list[str] | None,
    typer.Argument(metavar="[PAPER]...", help="all papers if none is given", autocompletion=complete_paper),
]


def print_warnings(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        print(f"warning: {sentence}", file=sys.stderr)
