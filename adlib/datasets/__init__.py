"""The datasets: what each one is, and its samples.

A dataset is one file in this folder with two things: `FACTS` (what it is, counts, licence, how to get it) and
`samples(root, category=None)`, which turns a root folder into a samples table. To add one, write the file and
name it in `_NAMES`; those of installed packages are found as adlib.plugins says.
"""

from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import pandas as pd

from adlib import plugins
from adlib.errors import InputError
from adlib.samples import check_phantom, phantom_root

_NAMES = [
    "btad",
    "colondb",
    "cxr_ad",
    "folder",
    "isp_ad",
    "ksdd2",
    "miic",
    "mpdd",
    "mvtec_ad",
    "texture_ad",
    "three_cad",
    "visa",
]


@dataclass(frozen=True)
class Facts:
    """What is known of a dataset, beside its images."""

    title: str
    source: str  # the publication
    licence: str
    get: str  # how to get it, and how to lay it out
    # category -> (train, test normal, test anomalous), as published
    counts: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    unknown: str = ""  # what the publication does not say
    # (address, SHA-256 or its beginning or "", bytes or 0) of what adlib.datasets.fetch may download; empty where a
    # form must be filled in, or no direct address is known
    archives: tuple[tuple[str, str, int], ...] = ()
    zenodo: str = ""  # number of the set's record on Zenodo, which lists its archives with their checksums

    def count_table(self) -> pd.DataFrame:
        """The published counts: one row per category, columns train, test_normal, test_anomalous."""
        table = pd.DataFrame.from_dict(self.counts, orient="index", columns=["train", "test_normal", "test_anomalous"])
        return table.rename_axis("category")


def list_datasets() -> list[str]:
    """Names that `load_samples` knows."""
    return sorted({*_NAMES, *plugins.plugins("adlib.datasets")})


def _module(name: str):
    if name in _NAMES:
        return import_module(f"adlib.datasets.{name}")
    if name not in list_datasets():
        raise InputError(f"Unknown dataset {name!r}; known are {', '.join(list_datasets())}.")
    module = plugins.load("adlib.datasets", name)
    if not isinstance(getattr(module, "FACTS", None), Facts) or not callable(getattr(module, "samples", None)):
        raise InputError(f"The dataset {name!r} has to be a module with FACTS and samples(root, category): {module}.")
    return module


def broken_datasets() -> dict[str, str]:
    """name -> why it cannot be used, for the datasets of installed packages."""
    return plugins.broken("adlib.datasets", _NAMES, _module)


def facts(name: str) -> Facts:
    """What is known of a dataset. Raises InputError for an unknown name."""
    return _module(name).FACTS


def load_samples(name: str, root: str | Path, category: str | None = None) -> pd.DataFrame:
    """The samples table of a dataset on disk (columns: see adlib.samples).

    name: one of `list_datasets()`.
    root: the dataset's folder (for "folder": any MVTec-like tree, or a .csv file).
    category: read only this one; None reads all.
    Images are not opened here: `adlib check` does that. Raises InputError for an unknown name or category, a
    missing folder, an empty class, an anomalous image without a mask, and a phantom that is not whole.
    """
    root = Path(root).expanduser().resolve()
    module = _module(name)
    if not root.exists():
        raise InputError(f"{root} does not exist. {module.FACTS.title}: {module.FACTS.get}")
    check_phantom(root)
    samples = module.samples(root, category)
    if (drawn := phantom_root(samples)) and drawn not in (root, *root.parents):  # a list of files that lie elsewhere
        check_phantom(drawn)
    return samples
