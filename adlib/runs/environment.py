"""What a run ran on: code version (adlib.code_version), library versions, hardware."""

import ctypes
import os
import platform
import re
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from adlib.code_version import REPOSITORY
from adlib.code_version import code as code
from adlib.code_version import code_text as code_text
from adlib.errors import InputError, did_you_mean

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
OTHER_OPENCV = ["opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"]  # any of them gives cv2
COMMAND = "ADLIB_COMMAND"  # the variable by which a run's kernel knows the command line that has asked for it


def notebook(name: str) -> Path:
    """A notebook of the repository by name ("01_run"). Raises InputError where there is none."""
    file = REPOSITORY / "notebooks" / f"{name}.ipynb"
    if not file.is_file():
        if known := sorted(other.stem for other in file.parent.glob("*.ipynb")):
            raise InputError(f"No notebook {name!r}; there are {', '.join(known)}.{did_you_mean(name, known)}")
        raise InputError(
            f"{file} does not exist: adlib runs its notebooks from a clone of its repository, installed with "
            "`pip install -e .` (or `make setup`)."
        )
    return file


def versions() -> dict[str, str]:
    """Version of Python and of each library that numbers depend on ("" where one is not installed); of torch with its
    build ("2.15.0+cu132"), of OpenCV under the name of the package that it came by.
    """
    found = {"python": platform.python_version()}
    for name in [*LIBRARIES, *OTHER_OPENCV]:
        try:
            found[name] = _own_version(name) or version(name)
        except PackageNotFoundError:
            found[name] = ""
    return {name: text for name, text in found.items() if text or name not in OTHER_OPENCV}


def _own_version(name: str) -> str:
    """What torch or torchvision says of itself, without importing it: its package's metadata leave out the build."""
    if name not in ("torch", "torchvision"):
        return ""
    try:
        text = Path(find_spec(name).origin).with_name("version.py").read_text(encoding="utf-8")
    except (AttributeError, ImportError, OSError, TypeError, ValueError):  # not there, or laid out otherwise
        return ""
    found = re.search(r"""^__version__\b[^='"]*=\s*["']([^"']+)""", text, re.MULTILINE)
    return found[1] if found else ""


def command_line() -> str:
    """The command line of this process, as a shell would take it; that which has asked for a run, in its kernel."""
    return os.environ.get(COMMAND) or shlex.join(sys.argv)


def hardware(device: str = "cpu") -> dict:
    """Machine, processor count, and the name of the device that was used; of a GPU also the versions of CUDA and cuDNN
    that torch has, of the driver, and what it rounds to TF32.
    """
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
        facts |= {"cuda": torch.version.cuda or "", "cudnn": _cudnn(), "driver": driver()}
        facts["tf32"] = _tf32() if torch.cuda.get_device_capability(device) >= (8, 0) else "nothing"
    return facts


def _cudnn() -> str:
    import torch

    try:
        return str(torch.backends.cudnn.version() or "")
    except RuntimeError:  # one that does not fit this GPU
        return ""


def _tf32() -> str:
    """What torch lets a GPU compute in TF32, which keeps 10 of float32's 23 bits after the point, though a method's
    precision is "float32": convolutions, unless somebody forbids it; matrix products, memory banks' distances among
    them, where somebody allows it, as NVIDIA's containers do by a variable.
    """
    import torch

    if (given := os.environ.get("NVIDIA_TF32_OVERRIDE", "")) in ("0", "1"):  # it outdoes whatever torch is told
        allowed = (given == "1",) * 2
    else:
        try:
            parts = torch.backends.cudnn.conv, torch.backends.cuda.matmul
            allowed = [part.fp32_precision == "tf32" for part in parts]
        except AttributeError:  # torch before 2.9
            allowed = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    names = ("convolutions", "matrix products")
    return ", ".join(name for name, one in zip(names, allowed, strict=True) if one) or "nothing"


def driver() -> str:
    """Version of NVIDIA's driver ("580.65.06"), "" where its library does not answer."""
    try:
        nvml = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
        text = ctypes.create_string_buffer(80)
        if nvml.nvmlInit_v2() != 0:
            return ""
        failed = nvml.nvmlSystemGetDriverVersion(text, ctypes.c_uint(len(text)))
        nvml.nvmlShutdown()
    except (AttributeError, OSError):  # no such library, or one without these functions
        return ""
    return "" if failed else text.value.decode("ascii", "replace")


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


def allow_open_files(jobs: int) -> None:
    """Raise this process's limit of open files as far as it may. Raises InputError if not even so many are allowed as
    this many runs at once need.
    """
    try:
        import resource
    except ImportError:  # a system without such limits
        return
    needed = 128 + 32 * jobs
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft != unlimited and soft < 4096:
        soft = 4096 if hard == unlimited else min(hard, 4096)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft != unlimited and soft < needed:
        raise InputError(
            f"This process may open {soft} files, and {jobs} runs at once need about {needed}: raise the limit "
            f"(`ulimit -n {max(needed, 1024)}`)" + (", or give fewer --jobs." if jobs > 1 else ".")
        )


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
