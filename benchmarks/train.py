"""Training: images per second of STFPM and RD4AD beside anomalib's and beside their bounds; and what the loader gives.

    python benchmarks/train.py [--turns 8] [--steps 4] [--pixels 256] [--device cuda] [--env FOLDER]

ResNet-18 with random weights, batches of 8, the same optimiser and loss on both sides. Ours is `fit` as a user calls
it, with its loader, on cached images; anomalib's is its model and loss in a plain loop that gathers batches from one
array in memory, already normalised, without Lightning: what its own training adds is left out. Each runs in a process
of its own, by turns of a few steps; the median turn counts, after one for warming up. The bound is what cannot be left
out: the teacher's forward pass and three times the trained networks' (forward, and backward for values and weights).

The loader: the training loop with a loss that costs nothing, on images that are decoded each time and on cached ones,
beside STFPM's training; if it gives more than the training takes, training is bound by computing. Prints Markdown
tables; quote their ratios, the times are this machine's.
"""

import argparse
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
from metrics import HERE, prepare_environment
from torch import nn

import adlib
from adlib.detector import Detector
from adlib.samples import select
from adlib.training.loop import train

BATCH, IMAGES = 8, 48
COMMON = {"backbone": "resnet18.tv_in1k", "weights": "random", "batch_size": BATCH}
SETTINGS = {"stfpm": {"validation_share": 0, "loss": "batch", "weight_decay": 1e-3}, "rd4ad": {"betas": (0.5, 0.99)}}

# In anomalib's environment: for every line on standard input one turn of training steps; prints its seconds, at the end
# (a line "end") the peak of its memory in bytes.
PEER = """
import json, resource, sys, time
import numpy as np, timm, torch
make = timm.create_model
timm.create_model = lambda *given, **options: make(*given, **{**options, "pretrained": False})
method, file, steps, size, threads, device = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6]), sys.argv[6]
torch.set_num_threads(threads)
layers = ["layer1", "layer2", "layer3"]
if method == "stfpm":
    from anomalib.models.image.stfpm.loss import STFPMLoss as Loss
    from anomalib.models.image.stfpm.torch_model import STFPMModel
    model = STFPMModel(layers=layers, backbone="resnet18")
    optimiser = torch.optim.SGD(model.student_model.parameters(), lr=0.4, momentum=0.9, weight_decay=1e-3)
else:
    from anomalib.models.image.reverse_distillation.anomaly_map import AnomalyMapGenerationMode
    from anomalib.models.image.reverse_distillation.loss import ReverseDistillationLoss as Loss
    from anomalib.models.image.reverse_distillation.torch_model import ReverseDistillationModel
    images = np.load(file, mmap_mode="r")
    model = ReverseDistillationModel("resnet18", images.shape[-2:], layers, AnomalyMapGenerationMode.ADD, False)
    trained = [*model.decoder.parameters(), *model.bottleneck.parameters()]
    optimiser = torch.optim.Adam(trained, lr=0.005, betas=(0.5, 0.99))
images = torch.from_numpy(np.load(file))
images = (images - images.mean((0, 2, 3), keepdim=True)) / images.std((0, 2, 3), keepdim=True)
model, loss = model.to(device).train(), Loss()
for line in sys.stdin:
    if line.strip() == "end":
        break
    start = time.perf_counter()
    for _ in range(steps):
        batch = images[torch.randperm(len(images))[:size]].to(device, non_blocking=True)
        value = loss(*model(batch))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    print(time.perf_counter() - start, flush=True)
on_gpu = device.startswith("cuda")
print(torch.cuda.max_memory_allocated() if on_gpu else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


class Peer:
    """anomalib's training in a process of its own; does nothing if it cannot be had."""

    def __init__(self, python: Path | None, *arguments):
        self.seconds, self.memory, self.process = [], None, None
        if python:
            command = [str(python), "-c", PEER, *map(str, arguments)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
            self.process = subprocess.Popen(command, text=True, **pipes)

    def turn(self) -> None:
        if self.process:
            self.seconds.append(float(self._say("go")))

    def end(self) -> None:
        if self.process:
            self.memory = int(self._say("end"))
            self.process.wait()

    def _say(self, line: str) -> str:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"anomalib's training failed: {self.process.stderr.read()[-500:]}")
        return answer


class Turns:
    """A loss that times the steps of the training which calls it, and lets the peer train after every turn."""

    def __init__(self, loss, steps: int, peer: Peer, device: str):
        self.loss, self.steps, self.peer, self.device = loss, steps, peer, device
        self.calls, self.begin = 0, 0.0
        self.seconds: list[float] = []
        self.utilisation: list[int] = []

    def __call__(self, batch):
        if self.calls % self.steps == 0:
            wait(self.device)
            if self.calls:
                self.seconds.append(time.perf_counter() - self.begin)
                self.peer.turn()
            self.begin = time.perf_counter()
        elif self.device.startswith("cuda"):
            self.utilisation.append(utilisation())
        self.calls += 1
        return self.loss(batch)


def wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def utilisation() -> int:
    """Per cent of the GPU's time, or -1 where the package that knows is not installed."""
    try:
        return torch.cuda.utilization()
    except (ModuleNotFoundError, RuntimeError):
        return -1


def peak_memory(device: str) -> int:
    """Bytes: of the GPU, or of this process (Linux)."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def bound(model: Detector, batch: torch.Tensor, device: str) -> tuple[float, float]:
    """Seconds of the teacher's forward pass; and of that and three times the trained networks', best of five each."""
    with torch.no_grad():
        features = model.backbone_(batch)
    if model.name == "stfpm":
        works = (lambda: model.backbone_(batch), lambda: model.student_(batch))
    else:
        works = (lambda: model.backbone_(batch), lambda: model.decoder_(model.embed(features)))
    best = [float("inf")] * 2
    for _ in range(6):
        for index, work in enumerate(works):
            wait(device)
            start = time.perf_counter()
            with torch.no_grad():
                work()
            wait(device)
            best[index] = min(best[index], time.perf_counter() - start)
    return best[0], best[0] + 3 * best[1]


def measure(method: str, images: adlib.ImageSet, python: Path | None, file: Path, given) -> float:
    """One table row; returns our images per second."""
    threads = torch.get_num_threads()
    peer = Peer(python, method, file, given.steps, BATCH, threads, given.device)
    epochs = -(-given.steps * (given.turns + 2) // (IMAGES // BATCH))
    model = adlib.create_model(method, **COMMON, **SETTINGS[method], epochs=epochs)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    turns = Turns(model.distillation_loss, given.steps, peer, given.device)
    model.distillation_loss = turns
    model.fit(images, device=given.device, progress=False)
    peer.end()
    pictures = given.steps * BATCH
    ours = pictures / statistics.median(turns.seconds[1:])
    batch = torch.stack([images.pixels(index) for index in range(BATCH)]).to(given.device)
    teacher, least = (BATCH / seconds for seconds in bound(model, batch, given.device))
    row = [method, f"{ours:.1f}"]
    row += [f"{pictures / statistics.median(peer.seconds[1:]):.1f}"] if python else ["left out"]
    row += [f"{ours * statistics.median(peer.seconds[1:]) / pictures:.2f}"] if python else [""]
    row += [f"{teacher:.1f}", f"{least:.1f}", f"{ours / least:.2f}", f"{peak_memory(given.device) / 2**20:.0f}"]
    row += [f"{peer.memory / 2**20:.0f}" if peer.memory else ""]
    if turns.utilisation:
        known = [value for value in turns.utilisation if value >= 0]
        row += [f"{statistics.mean(known):.0f} %" if known else "not known: pynvml is not installed"]
    print("| " + " | ".join(row) + " |", flush=True)
    return ours


def loader_speed(images: adlib.ImageSet, device: str, epochs: int) -> float:
    """Images per second of the training loop with a loss that costs nothing, the first epoch left out."""
    model = adlib.create_model("stfpm", **COMMON)
    model.device_, model.seed_, model.checkpoint_ = torch.device(device), 0, None
    zero, ends = torch.zeros(()), []

    def note(epoch: int, losses: dict) -> None:
        ends.append(time.perf_counter())

    nothing = nn.Linear(1, 1)
    optimiser = torch.optim.SGD(nothing.parameters(), 0.1)
    options = {"batch_size": BATCH, "drop_last": False, "epochs": epochs + 1, "on_epoch": note, "progress": False}
    train(model, images, None, {"nothing": nothing}, optimiser, update=lambda batch: {"loss": zero}, **options)
    return epochs * len(images) / (ends[-1] - ends[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--methods", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--pixels", type=int, default=256)
    parser.add_argument("--stored", type=int, default=1024, help="side of the stored pictures of the loader's table")
    parser.add_argument("--steps", type=int, default=4, help="of a turn")
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--env", type=Path, default=HERE / "results" / "metrics-env", help="environment of anomalib")
    given = parser.parse_args()
    on_gpu = given.device.startswith("cuda")
    hardware = torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads"
    print(f"Python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}, {hardware}\n")
    python, why = prepare_environment(given.env)
    if not python:
        print(f"anomalib is left out: {why}\n")
    with tempfile.TemporaryDirectory() as folder:
        adlib.phantoms.draw("cxr_ad", f"{folder}/x", counts={"UB": (IMAGES, 1, 1)}, size=given.stored)
        samples = select(adlib.load_samples("cxr_ad", f"{folder}/x"), split="train")
        images = adlib.ImageSet(samples, size=given.pixels, cache=f"{folder}/cache")
        file = Path(folder) / "images.npy"
        np.save(file, torch.stack([images.pixels(index) for index in range(len(images))]).numpy())
        heads = ["method", "adlib, images/s", "anomalib, images/s", "ratio", "teacher alone", "bound", "of the bound"]
        heads += ["adlib, MiB", "anomalib, MiB", *["GPU in use"] * on_gpu]
        print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
        speeds = {method: measure(method, images, python, file, given) for method in given.methods}
        if "stfpm" not in speeds:
            return
        print(f"\n| loader, pictures of {given.stored} pixels at {given.pixels} | images/s | times STFPM's training |")
        print("|---|---|---|")
        plain = adlib.ImageSet(samples, size=given.pixels)
        for name, one, epochs in (("decoded each time", plain, 2), ("cached", images, 20)):
            speed = loader_speed(one, given.device, epochs)
            print(f"| {name} | {speed:.0f} | {speed / speeds['stfpm']:.1f} |", flush=True)
        print(f"| STFPM's training, cached | {speeds['stfpm']:.1f} | 1 |")


if __name__ == "__main__":
    main()
