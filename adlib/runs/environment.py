"""What a run ran on: code version, library versions, hardware."""

import os
import platform
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import adlib
from adlib.errors import InputError

LIBRARIES = [
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "opencv-python-headless",
]
REPOSITORY = Path(adlib.__file__).resolve().parents[1]


def notebook(name: str) -> Path:
    """A notebook of the repository by name ("01_run"). Raises InputError when adlib is installed without it."""
    file = REPOSITORY / "notebooks" / f"{name}.ipynb"
    if not file.is_file():
        raise InputError(
            f"{file} does not exist: adlib runs its notebooks from a clone of its repository, installed with "
            "`pip install -e .` (or `make setup`)."
        )
    return file


def versions() -> dict[str, str]:
    """Version of Python and of each library that numbers depend on ("" where one is not installed)."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


@cache
def code() -> dict:
    """adlib's version, and the commit it stands at; `dirty` when tracked files differ from that commit.

    Asked once per process: what counts is the code as it was imported.
    """

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    facts = {"version": adlib.__version__, "commit": "", "dirty": False}
    try:
        facts["commit"] = git("rev-parse", "--short=12", "HEAD")
        facts["dirty"] = bool(git("status", "--porcelain", "--untracked-files=no"))
    except OSError:  # no git on this machine: the version alone must do
        pass
    return facts


def hardware(device: str = "cpu") -> dict:
    """Machine, processor count, and the name of the device that was used."""
    import torch

    facts = {
        "host": platform.node(),
        "machine": platform.platform(),
        "processor": processor(),
        "cpus": available_cpus(),
        "threads": torch.get_num_threads(),
        "device": str(device),
    }
    if str(device).startswith("cuda"):
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def processor() -> str:
    """Name of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def oom_kills() -> int:
    """How many processes this system has ended because memory was short (0 where it does not say)."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def available_cpus() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far, MiB."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def peak_gpu_memory_mib(device: str = "cpu") -> float | None:
    """Largest memory that torch has held on the GPU so far, MiB; None on other devices."""
    import torch

    return torch.cuda.max_memory_allocated(device) / 2**20 if str(device).startswith("cuda") else None
