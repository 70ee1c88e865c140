"""The doctor: what works on this machine, what is missing, and how to get it."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from adlib.runs import environment


@dataclass
class Finding:
    """One line: what was looked at, whether it is fine ("ok"), missing but not needed ("note") or broken ("bad")."""

    what: str
    state: str
    text: str


def examine(data: str | Path | None = None) -> list[Finding]:
    """Look at Python, the libraries, the GPU, weights, data, Jupyter and notebooks.

    data: a folder with one folder per dataset, to look for the datasets in.
    """
    findings = [_python(), *_libraries(), _torch(), _weights(), *_data(data), *_plugins(), _jupyter(), _notebooks()]
    return [finding for finding in findings if finding]


def _python() -> Finding:
    version = environment.versions()["python"]
    fine = sys.version_info >= (3, 11)
    return Finding("python", "ok" if fine else "bad", f"{version}, {sys.executable}" + ("" if fine else ": needs 3.11"))


def _libraries() -> list[Finding]:
    found = environment.versions()
    missing = [name for name in environment.LIBRARIES if not found[name] and name != "opencv-python-headless"]
    texts = ", ".join(f"{name} {version}" for name, version in found.items() if version and name != "python")
    findings = [Finding("libraries", "ok", texts)]
    if missing:
        findings.append(Finding("libraries", "bad", f"{', '.join(missing)} not installed: run `make setup`."))
    return findings


def _torch() -> Finding:
    # In a process of its own: a broken pair of torch and torchvision fails at import and stays broken.
    script = (
        "import json, torch, torchvision.ops, timm\n"
        "gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]\n"
        "print(json.dumps([gpus, torch.version.cuda, torch.get_num_threads()]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return Finding("torch", "bad", explain_torch_failure(done.stderr))
    gpus, cuda, threads = json.loads(done.stdout.splitlines()[-1])
    if gpus:
        return Finding("torch", "ok", f"CUDA {cuda}, {len(gpus)} GPU: {', '.join(gpus)}")
    return Finding("torch", "ok", f"works on the CPU with {threads} threads; no GPU found")


def explain_torch_failure(message: str) -> str:
    """One sentence for what an import of torch, torchvision and timm printed when it failed."""
    if "torchvision::nms" in message:
        return (
            "torch and torchvision were built for different devices (operator torchvision::nms does not exist): a "
            "CPU-only torch needs the CPU build of torchvision, so install both from the same index, or let "
            "`make setup` install both."
        )
    last = message.strip().splitlines()[-1] if message.strip() else "no message"
    return f"importing torch, torchvision and timm failed: {last}"


def _weights() -> Finding:
    folder = os.environ.get("ADLIB_WEIGHTS")
    if not folder:
        return Finding(
            "weights",
            "note",
            "ADLIB_WEIGHTS is not set: pretrained weights come from timm's hub (needs a network once). Offline: "
            "`adlib weights pack DIR` elsewhere, copy DIR here, set ADLIB_WEIGHTS=DIR.",
        )
    files = sorted(file.stem for file in Path(folder).glob("*.safetensors"))
    if not files:
        return Finding("weights", "bad", f"ADLIB_WEIGHTS={folder} holds no .safetensors file.")
    return Finding("weights", "ok", f"{folder}: {', '.join(files)}")


def _data(data: str | Path | None) -> list[Finding]:
    from adlib.datasets import broken_datasets, facts, list_datasets

    if data is None:
        return [Finding("data", "note", "give --data DIR to look for the datasets; phantoms need none.")]
    findings = []
    for name in list_datasets():
        if name == "folder" or name in broken_datasets():
            continue
        there = (Path(data) / name).is_dir()
        text = str(Path(data) / name) if there else f"not in {data}. {facts(name).title}: {facts(name).get}"
        findings.append(Finding(f"data: {name}", "ok" if there else "note", text))
    return findings


def _plugins() -> list[Finding]:
    from adlib.datasets import broken_datasets
    from adlib.models import broken_models
    from adlib.papers import broken_papers
    from adlib.phantoms import broken_phantoms
    from adlib.plugins import GROUPS, plugins

    findings = []
    for group, listing in zip(GROUPS, (broken_models, broken_datasets, broken_phantoms, broken_papers), strict=True):
        broken = listing()
        if fine := [name for name in plugins(group) if name not in broken]:
            findings.append(Finding(f"plug-ins: {group}", "ok", ", ".join(fine)))
        findings += [Finding(f"plug-ins: {group}", "bad", why) for why in broken.values()]
    return findings


def _jupyter() -> Finding:
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        return Finding("jupyter", "bad", "no kernel python3: install ipykernel (`make setup`).")
    program = shutil.which("jupyter-lab", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if not program:
        return Finding("jupyter", "bad", "jupyter-lab is not installed: run `make setup`.")
    return Finding("jupyter", "ok", f"{program}, kernel {spec.argv[0]}")


def _notebooks() -> Finding:
    folder = environment.REPOSITORY / "notebooks"
    number = len(list(folder.glob("*.ipynb")))
    if not number:
        return Finding("notebooks", "bad", f"{folder} holds none: install adlib from a clone with `pip install -e .`.")
    return Finding("notebooks", "ok", f"{number} in {folder}")
