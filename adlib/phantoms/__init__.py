"""Phantoms: drawn stand-ins of datasets, in the dataset's own layout, so that everything runs without any data.

A phantom is one file in this folder with a function `write(out, *, seed=0, ...)`. To add one, write the file and name
it in `_MODULES`; those of installed packages are found as adlib.plugins says, by their dataset. Its root carries
PHANTOM.json from before the first image on, by which every later step knows, and says, that the images are drawn, and
PHANTOM.files, which names them (adlib.samples). A half-drawn phantom is no data.
"""

import inspect
import json
from contextlib import suppress
from importlib import import_module
from pathlib import Path, PurePosixPath

from filelock import FileLock

from adlib import plugins
from adlib.errors import InputError, did_you_mean
from adlib.phantoms.files import announce, listed
from adlib.phantoms.options import checked_options
from adlib.samples import PHANTOM_LISTING, PHANTOM_MARKER, missing_of_phantom, phantom_marker

_MODULES = {
    "cxr_ad": "xray",
    "isp_ad": "screen_print",
    "miic": "sem",
    "texture_ad": "textures",
    "three_cad": "parts",
}


def list_phantoms() -> list[str]:
    """Names of the datasets that can be drawn."""
    return sorted({*_MODULES, *plugins.plugins("adlib.phantoms")})


def broken_phantoms() -> dict[str, str]:
    """name -> why it cannot be used, for the phantoms of installed packages."""
    return plugins.broken("adlib.phantoms", _MODULES, _module)


def _module(dataset: str):
    if dataset in _MODULES:
        return import_module(f"adlib.phantoms.{_MODULES[dataset]}")
    if dataset not in list_phantoms():
        near = did_you_mean(dataset, list_phantoms())
        raise InputError(f"There is no phantom of {dataset!r}; there are {', '.join(list_phantoms())}.{near}")
    module = plugins.load("adlib.phantoms", dataset)
    if not callable(getattr(module, "write", None)):
        raise InputError(f"The phantom of {dataset!r} has to be a module with write(out, *, seed=0): {module}.")
    return module


def draw(dataset: str, out: str | Path, *, seed: int = 0, **options) -> Path:
    """Draw the stand-in of a dataset into a folder; same seed and options, same bytes. Returns the folder.

    options: of the phantom's `write`, e.g. size, bits, counts. A finished phantom of the same seed and options is left
    as it is; an interrupted one, of whatever options, and one that lacks a file are drawn anew, without what is left of
    them. No file that was not drawn is deleted.
    Raises InputError for an unknown dataset or option, for a value that it does not take, for a finished phantom of
    other options, and for a folder with other files in it: nothing drawn is ever mixed with real data.
    """
    module = _module(dataset)
    write = module.write
    known = inspect.signature(write).parameters
    if unknown := sorted(set(options) - set(known)):
        has = [name for name in known if name != "out"]
        near = did_you_mean(unknown[0], has)
        raise InputError(f"The phantom of {dataset} has no option {', '.join(unknown)}; it has {', '.join(has)}.{near}")
    options = {name: default.default for name, default in known.items() if name not in ("out", "seed")} | options
    options = checked_options(write, {"seed": seed} | options, getattr(module, "PUBLISHED", None))
    seed = options.pop("seed")

    out = Path(out)
    about = json.loads(json.dumps({"dataset": dataset, "seed": seed, "options": options}))
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out.with_name(f".{out.name}.lock")):  # two processes may want the same phantom at once
        if not _is_drawn(out, about):
            _clear(out)
            note = f"Images drawn by adlib in the layout of {dataset}; not the data set."
            _mark(out, about | {"note": note, "state": "drawing"})
            with listed(out, out / PHANTOM_LISTING):
                others = _files(out)
                write(out, seed=seed, **options)
                for file in sorted(_files(out) - others):  # saved by other means
                    announce(file)
            files = len((out / PHANTOM_LISTING).read_text(encoding="utf-8").splitlines())
            _mark(out, about | {"note": note, "state": "complete", "files": files})
    return out


def _files(folder: Path) -> set[Path]:
    """The files below a folder that the drawing under way has not named."""
    named = set((folder / PHANTOM_LISTING).read_text(encoding="utf-8").splitlines())
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file for file in files if file.relative_to(folder).as_posix() not in named}


def _mark(out: Path, content: dict) -> None:
    partial = out / f"{PHANTOM_MARKER}.partial"
    partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
    partial.replace(out / PHANTOM_MARKER)


def _is_drawn(out: Path, about: dict) -> bool:
    """Whether the folder holds this phantom, finished and whole. Raises InputError if it holds anything else."""
    marker = phantom_marker(out)
    if marker and marker["state"] == "complete":
        if {name: marker.get(name) for name in about} == about:
            return not missing_of_phantom(out)
        raise InputError(
            f"{out} holds a phantom of {marker.get('dataset')} with seed {marker.get('seed')} and options "
            f"{marker.get('options')}, not {about}: delete the folder or choose another."
        )
    if (out / PHANTOM_LISTING).is_file():  # an interrupted one
        return False
    if marker:
        raise InputError(f"{out} holds a phantom whose drawing was interrupted: delete the folder or choose another.")
    if any(out.iterdir()):
        raise InputError(f"{out} holds files that are no phantom: choose another folder for the drawn images.")
    return False


def _clear(out: Path) -> None:
    """Delete what an earlier drawing has left, as its listing names it, and the folders that are empty then."""
    listing = out / PHANTOM_LISTING
    if not listing.is_file():
        return
    folders = set()
    for name in listing.read_text(encoding="utf-8", errors="replace").splitlines():
        file = out / name
        if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:  # a damaged listing
            continue
        file.unlink(missing_ok=True)
        file.with_suffix(".partial").unlink(missing_ok=True)
        folders |= {parent for parent in file.parents if out in parent.parents}
    for folder in sorted(folders, reverse=True):  # the deepest first
        with suppress(OSError):  # somebody's files are in it
            folder.rmdir()
