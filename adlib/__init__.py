"""adlib: industrial visual anomaly detection, from samples to published tables.

`import adlib` is light: each public name is imported from its module when first used (PEP 562), so torch loads
only when something needs it.
"""

import os
import time
from importlib import import_module

IMPORTED_AT = time.time_ns()  # files changed later are not what was imported (adlib.code_version)

# Read by torch at its first allocation: features of a batch lie in large pages, of which a fresh one costs the system
# a moment where small ones cost as much as the arithmetic on them. Linux only, elsewhere without effect.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

__version__ = "0.1.0"

# Where each public name lives. To add one, add a line here and below.
_HOME = {
    "InputError": "adlib.errors",
    "list_datasets": "adlib.datasets",
    "load_samples": "adlib.datasets",
    "ImageSet": "adlib.images",
    "list_models": "adlib.models",
    "create_model": "adlib.models",
    "load_model": "adlib.models",
    "Predictions": "adlib.predictions",
    "evaluate": "adlib.predictions",
    "inspect": "adlib.inspector",
    "list_papers": "adlib.papers",
    "published": "adlib.papers",
}
_MODULES = {
    "analysis",
    "baselines",
    "datasets",
    "detector",
    "export",
    "features",
    "figures",
    "findings",
    "images",
    "inspector",
    "memory",
    "metrics",
    "models",
    "networks",
    "own_images",
    "papers",
    "phantoms",
    "predictions",
    "pretrain",
    "report",
    "runs",
    "samples",
    "screening",
    "studies",
    "synthesis",
    "training",
}

__all__ = ["__version__", *sorted(_HOME), *sorted(_MODULES)]


def __getattr__(name: str):
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    elif name in _MODULES:
        value = import_module(f"adlib.{name}")
    else:
        raise AttributeError(f"module 'adlib' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)
