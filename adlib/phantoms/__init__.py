"""Phantoms: drawn stand-ins of datasets, in the dataset's own layout, so that everything runs without any data.

A phantom is one file in this folder with a function `write(out, *, seed=0, ...)`. To add one, write the file and name
it in `_MODULES`; those of installed packages are found as adlib.plugins says, by their dataset. Its root carries
PHANTOM.json, by which every later step knows, and says, that the images are drawn.
"""

import inspect
import json
from importlib import import_module
from pathlib import Path

from filelock import FileLock

from adlib import plugins
from adlib.errors import InputError
from adlib.samples import PHANTOM_MARKER

_MODULES = {
    "cxr_ad": "xray",
    "isp_ad": "screen_print",
    "miic": "sem",
    "texture_ad": "textures",
    "three_cad": "parts",
}
UNDER_WAY = "PHANTOM.partial"  # written first and removed last: a folder with it was interrupted


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
        raise InputError(f"There is no phantom of {dataset!r}; there are {', '.join(list_phantoms())}.")
    module = plugins.load("adlib.phantoms", dataset)
    if not callable(getattr(module, "write", None)):
        raise InputError(f"The phantom of {dataset!r} has to be a module with write(out, *, seed=0): {module}.")
    return module


def draw(dataset: str, out: str | Path, *, seed: int = 0, **options) -> Path:
    """Draw the stand-in of a dataset into a folder; same seed and options, same bytes. Returns the folder.

    options: of the phantom's `write`, e.g. size, bits, counts. A finished phantom of the same seed and options is left
    as it is, an interrupted one is drawn again.
    Raises InputError for an unknown dataset or option, and for a folder with other files in it: nothing drawn is ever
    mixed with real data.
    """
    write = _module(dataset).write
    known = inspect.signature(write).parameters
    if unknown := sorted(set(options) - set(known)):
        raise InputError(f"The phantom of {dataset} has no option {', '.join(unknown)}; it has {', '.join(known)}.")
    options = {name: default.default for name, default in known.items() if name not in ("out", "seed")} | options

    out = Path(out)
    about = json.loads(json.dumps({"dataset": dataset, "seed": seed, "options": options}))
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out.with_name(f".{out.name}.lock")):  # two processes may want the same phantom at once
        if not _is_drawn(out, about):
            (out / UNDER_WAY).touch()
            write(out, seed=seed, **options)
            partial = out / f"{PHANTOM_MARKER}.partial"
            note = f"Images drawn by adlib in the layout of {dataset}; not the data set."
            partial.write_text(json.dumps(about | {"note": note}, indent=1), encoding="utf-8")
            partial.replace(out / PHANTOM_MARKER)
            (out / UNDER_WAY).unlink()
    return out


def _is_drawn(out: Path, about: dict) -> bool:
    """Whether the folder holds this phantom, finished. Raises InputError if it holds anything else."""
    marker = out / PHANTOM_MARKER
    if marker.is_file():
        found = json.loads(marker.read_text(encoding="utf-8"))
        if {name: found.get(name) for name in about} == about:
            return True
        raise InputError(
            f"{out} holds a phantom of {found.get('dataset')} with seed {found.get('seed')} and options "
            f"{found.get('options')}, not {about}: delete the folder or choose another."
        )
    if any(out.iterdir()) and not (out / UNDER_WAY).exists():
        raise InputError(f"{out} holds files that are no phantom: choose another folder for the drawn images.")
    return False
