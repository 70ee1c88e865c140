"""Beside anomalib, method by method: prediction and a training step, time, memory, and what bounds them.

    python benchmarks/peers.py [--methods padim cfa] [--turns 5] [--size 256] [--threads 2] [--env FOLDER] [--out FILE]

Every method that both have, on the same ResNet-18 (random weights: speed does not depend on them), in batches of 8.
Each side predicts in one fresh process and trains in another, and both take turns: a turn is the prediction of a batch,
one training step, or with a method that has no steps the whole fit of 16 images. The first turns warm up and do not
count; the table has medians, and the median of the turns' ratios. Our step is what `fit` does between two calls of its
loss, loader and synthesis included; anomalib's is its module's own `training_step` with its own optimisers, without
Lightning, on a batch that lies in memory and is normalised already.

The bound is the time of our convolutions and matrix products alone: those of one turn are recorded, and in each turn
run again by themselves, on tensors of the same shapes and layouts. Where ours takes more than one and a half times as
long, the shares of the products and of the three operators that take most of the rest stand beside it, by torch's
profiler. The bound does not count what runs in threads of a method's own: the search in the memory of PatchCore and
of CFA, when predicting.

Memory is the highest resident size above that before the method was built. Prints Markdown; quote ratios.
"""

import argparse
import collections
import ctypes
import datetime
import gc
import json
import operator
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import torch
from metrics import HERE, prepare_environment, version
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

BATCH, IMAGES = 8, 16
LAYERS = ["layer1", "layer2", "layer3"]
STAGES = ("prediction", "training")
WORTH_SAYING = 1.5  # times the bound, from where on the rest is explained


@dataclass(frozen=True)
class Pair:
    """A method on both sides. ours, theirs: parameters beside the backbone that make both do the same work."""

    peer: str  # class of anomalib.models
    ours: dict = field(default_factory=dict)
    theirs: dict = field(default_factory=dict)
    backbone: bool = True  # whether both take one
    whole_fit: bool = False  # no training steps: a turn is the fit of all images


PAIRS = {
    "padim": Pair("Padim", {"channels": 100}, {"layers": LAYERS, "n_features": 100}, whole_fit=True),
    "patchcore": Pair(
        "Patchcore",
        {"stages": (2, 3), "coreset_ratio": 0.1, "neighbours": 1, "embedding": "concatenated"},
        {"layers": LAYERS[1:], "coreset_sampling_ratio": 0.1, "num_neighbors": 1},
        whole_fit=True,
    ),
    "cfa": Pair("Cfa"),
    "stfpm": Pair("Stfpm", {"validation_share": 0, "loss": "batch"}, {"layers": LAYERS}),
    "rd4ad": Pair("ReverseDistillation", {}, {"layers": LAYERS}),
    "fastflow": Pair("Fastflow", {"kernels": (3, 1)}, {"flow_steps": 8}),
    "uflow": Pair("Uflow", {}, {"flow_steps": 4}),
    # The ICPR paper's, as ours; anomalib's default, the journal's, trains less: its classification reads frozen
    # features.
    "supersimplenet": Pair("Supersimplenet", {}, {"layers": LAYERS[1:], "adapt_cls_features": True}),
    "glass": Pair("Glass", {}, {"input_shape": "SHAPE", "layers": LAYERS[1:]}),
    "draem": Pair("Draem", {"textures": "PICTURES"}, {"dtd_dir": "PICTURES"}, backbone=False),
    "efficientad": Pair("EfficientAd", {"penalty": "PICTURES"}, {}, backbone=False),
    "ganomaly": Pair("Ganomaly", {}, {"batch_size": BATCH}, backbone=False),
}


# --- a side: reads words from standard input, answers with a line of JSON each


class Side:
    """What the parent says: "turn" and "bound" (both answered in seconds), "memory" (the peak), "record" (a turn whose
    products make the bound) and "profile" (one that tells where the time goes).
    """

    def __init__(self):
        self.answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what libraries print is no answer
        self.base = resident("VmRSS")

    def listen(self) -> str:
        line = sys.stdin.readline()
        if not line:
            raise SystemExit  # the parent is done
        return line.strip()

    def answer(self, **values) -> None:
        self.answers.write(json.dumps(values) + "\n")
        self.answers.flush()

    def begin(self) -> None:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what was freed before is nobody's now
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here

    def next(self, record: "Products | None") -> str:
        """The word of the next work, once all questions are answered that need none."""
        while (word := self.listen()) in ("bound", "memory"):
            if word == "bound":
                self.answer(seconds=record.seconds())
            else:
                self.answer(memory=(resident("VmHWM") - self.base) / 2**20)
        return word

    def serve(self, work) -> NoReturn:
        """Do one piece of work for every word, until there are no more: see `listen`."""
        record = None
        self.begin()
        while True:
            word = self.next(record)
            if word == "record":
                record = Products()
                with record:
                    work()
                self.answer()
                continue
            if word == "profile":
                with profiled() as seen:
                    work()
                self.answer(rest=rest(seen))
                continue
            start = time.perf_counter()
            work()
            self.answer(seconds=time.perf_counter() - start)


class Gate:
    """A loss that lets the training around it do one step for every word."""

    def __init__(self, side: Side, loss):
        self.side, self.loss, self.start, self.record, self.seen, self.word = side, loss, 0.0, None, None, ""

    def __call__(self, batch):
        if self.word == "record":
            self.record.__exit__(None, None, None)
            self.side.answer()
        elif self.word == "profile":
            self.seen.__exit__(None, None, None)
            self.side.answer(rest=rest(self.seen))
        elif self.word:
            self.side.answer(seconds=time.perf_counter() - self.start)
        else:
            self.side.begin()
        self.word = self.side.next(self.record)
        if self.word == "record":
            self.record = Products()
            self.record.__enter__()
        if self.word == "profile":
            self.seen = profiled()
            self.seen.__enter__()
        self.start = time.perf_counter()
        return self.loss(batch)


def resident(line: str) -> int:
    """Bytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(words.split()[1]) for words in lines if words.startswith(line))


# --- the bound


PRODUCTS = {"convolution", "convolution_backward", "mm", "addmm", "bmm", "baddbmm", "linear", "_int_mm"}
PRODUCTS |= {"conv2d", "conv_transpose2d", "mkldnn_convolution", "matmul", "dot", "mv", "addmv"}
PRODUCTS |= {"_convolution_pointwise"}  # with a sum and a ReLU behind it (adlib.features.fusion)
PRODUCTS |= {"_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention_for_cpu_backward"}


def described(value):
    """What makes two calls take equally long: of a tensor its shape, strides and type, else the value."""
    if isinstance(value, torch.Tensor):
        return ("tensor", tuple(value.shape), tuple(value.stride()), value.dtype)
    return repr(value)


def alike(value):
    """A tensor of new numbers in the same layout."""
    if not isinstance(value, torch.Tensor):
        return value
    if not value.dtype.is_floating_point:
        return value.clone()
    made = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
    return made.copy_(torch.rand(value.shape).sub_(0.5)) if 0 not in value.stride() else made.fill_(0.5)


class Products(TorchDispatchMode):
    """Records the convolutions and matrix products that run under it."""

    def __init__(self):
        super().__init__()
        self.counts: collections.Counter = collections.Counter()
        self.calls: dict = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function.overloadpacket.__name__ in PRODUCTS:
            key = (str(function), *map(described, tree_flatten((args, kwargs))[0]))
            self.counts[key] += 1
            if key not in self.calls:
                blank = tree_map(lambda one: one.detach().to("meta") if _large(one) else one, (args, kwargs))
                self.calls[key] = (function, *blank)
        return function(*args, **kwargs)

    def seconds(self) -> float:
        """Of all recorded calls, one after the other by themselves: of equal ones the second counts."""
        total = 0.0
        for key, (function, args, kwargs) in self.calls.items():
            args, kwargs = tree_map(alike, (args, kwargs))
            taken = []
            with torch.no_grad():
                for _ in range(2):
                    start = time.perf_counter()
                    function(*args, **kwargs)
                    taken.append(time.perf_counter() - start)
            total += self.counts[key] * taken[1]
        return total


def _large(value) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype.is_floating_point


def profiled():
    """A context that notes how long every operator takes."""
    return torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU])


def rest(seen) -> str:
    """Shares of the time of all operators: the products', and those of the three others that took most."""
    products = tuple(f"{of}::{name}" for name in PRODUCTS | {"_convolution"} for of in ("aten", "mkldnn"))
    events = [event for event in seen.key_averages() if not event.key.startswith("Profiler")]
    whole = sum(event.self_cpu_time_total for event in events)
    made = sum(event.self_cpu_time_total for event in events if event.key in products)
    others = [event for event in events if event.key not in products]
    others = sorted(others, key=lambda event: -event.self_cpu_time_total)[:3]
    return f"products {100 * made / whole:.0f} %, " + ", ".join(
        f"{event.key.removeprefix('aten::')} {100 * event.self_cpu_time_total / whole:.0f} %" for event in others
    )


# --- ours


def run_ours(side: Side, method: str, folder: Path, size: int, stage: str) -> None:
    import adlib
    from adlib.kept_memory import freed_memory_kept
    from adlib.samples import select
    from adlib.training import loop

    pair, whole = PAIRS[method], loop.train
    known = adlib.create_model(method).parameters
    common = {"backbone": "resnet18.tv_in1k", "weights": "random", "batch_size": BATCH}
    chosen = {name: value for name, value in common.items() if name in known and (pair.backbone or name != "backbone")}
    chosen |= {key: str(folder / "pictures") if value == "PICTURES" else value for key, value in pair.ours.items()}
    samples = select(adlib.load_samples("cxr_ad", folder / "cxr_ad"), split="train")
    images = adlib.ImageSet(samples, size=size, cache=folder / "cache")
    for index in range(len(images)):
        images.pixels(index)

    def model(steps: int):
        counts = {name: steps for name in ("epochs", "steps") if name in known and name not in pair.ours}
        if method in ("fastflow", "uflow"):  # their `steps` are the flow's
            counts.pop("steps", None)
        return adlib.create_model(method, **chosen, **counts)

    if stage == "prediction":
        batch = torch.stack([images.pixels(index) for index in range(BATCH)])
        predict = partial(model(1).fit(images, progress=False).score_batch, batch)
        with torch.inference_mode(), freed_memory_kept():  # as in predict()
            side.serve(predict)
    if pair.whole_fit:
        side.serve(lambda: model(1).fit(images, progress=False))

    def gated(detector, images, loss, *given, update=None, **options):
        gate = Gate(side, update or loss)
        return whole(detector, images, None if update else gate, *given, update=gate if update else None, **options)

    for module in list(sys.modules.values()):
        if module and module.__name__.startswith("adlib.") and getattr(module, "train", None) is whole:
            module.train = gated
    model(10_000).fit(images, progress=False)


# --- anomalib's


def run_theirs(side: Side, method: str, folder: Path, size: int, stage: str) -> None:
    import timm
    import torchvision

    create = timm.create_model
    timm.create_model = lambda *given, **options: create(*given, **{**options, "pretrained": False})
    plain = torchvision.models.resnet18
    torchvision.models.resnet18 = lambda weights=None: plain()
    import anomalib.models
    from anomalib.data import ImageBatch

    pair = PAIRS[method]
    images = torch.load(folder / "images.pt", weights_only=True)

    def batches():
        for part in images.split(BATCH):
            masks = torch.zeros(len(part), *part.shape[-2:])
            yield ImageBatch(image=part, gt_mask=masks, gt_label=torch.zeros(len(part), dtype=torch.long))

    def make():
        chosen = {"backbone": "resnet18"} if pair.backbone else {}
        chosen |= {key: folder / "pictures" if value == "PICTURES" else value for key, value in pair.theirs.items()}
        if "input_shape" in chosen:
            chosen["input_shape"] = tuple(images.shape[-2:])
        off = dict.fromkeys(("pre_processor", "post_processor", "evaluator", "visualizer"), False)
        kind = getattr(anomalib.models, pair.peer)
        kind.input_size = property(lambda self: tuple(images.shape[-2:]))
        module = kind(**chosen, **off)
        module.log = module.log_dict = module.toggle_optimizer = module.untoggle_optimizer = nothing
        module.manual_backward = lambda loss, *given, **options: loss.backward(*given, **options)
        loader = list(batches())
        data = SimpleNamespace(train_dataloader=lambda: loader, train_batch_size=BATCH)
        trainer = {"max_epochs": 100, "max_steps": -1, "current_epoch": 0, "train_dataloader": loader}
        trainer |= {"datamodule": data, "estimated_stepping_batches": 1000, "global_step": 0}
        type(module).trainer = property(lambda self: SimpleNamespace(**trainer))
        type(module).current_epoch = property(lambda self: 0)
        if method == "efficientad":  # the penalty pictures, as many as images
            module.imagenet_iterator = repeat((loader[0].image,))
            module.model.mean_std.update(module.teacher_channel_mean_std(loader))
        if method == "cfa":
            module.on_train_start()
        if method == "glass":
            module.on_train_epoch_start()
        return module

    def fitted():
        module = make().train()
        for batch in batches():
            module.training_step(batch, 0)
        module.fit()
        return module

    module = fitted() if pair.whole_fit else make()
    module.eval()
    batch = next(batches()).image
    if stage == "prediction":
        with torch.inference_mode():
            side.serve(lambda: module.model(batch))
    if pair.whole_fit:
        side.serve(fitted)
    module.train()
    optimisers = configured(module)
    module.optimizers = lambda *given, **options: optimisers if len(optimisers) > 1 else optimisers[0]
    supply = endless(batches)

    def step():
        if not module.automatic_optimization:
            module.training_step(next(supply), 0)
            return
        loss = module.training_step(next(supply), 0)
        loss = loss["loss"] if isinstance(loss, dict) else loss
        for one in optimisers:
            one.zero_grad()
        module.backward(loss)
        for one in optimisers:
            one.step()

    side.serve(step)


def nothing(*given, **options) -> None:
    pass


def endless(batches):
    while True:
        yield from batches()


def configured(module) -> list[torch.optim.Optimizer]:
    """The optimisers of a Lightning module, whose method may give them in several forms."""
    found = module.configure_optimizers()
    if isinstance(found, tuple):
        found = found[0]
    if isinstance(found, dict):
        found = found["optimizer"]
    found = found if isinstance(found, list) else [found]
    return [one["optimizer"] if isinstance(one, dict) else one for one in found]


# --- the parent


class Process:
    """One side in a fresh process."""

    def __init__(self, python, which: str, method: str, stage: str, folder: Path, given):
        self.errors = Path(folder, f"{which}-{method}-{stage}.log")
        command = [str(python), __file__, "--side", which, "--methods", method, "--folder", str(folder)]
        command += ["--size", str(given.size), "--threads", str(given.threads), "--stages", stage]
        environment = os.environ | {"PYTHONPATH": str(HERE.parent), "OMP_NUM_THREADS": str(given.threads)}
        with self.errors.open("w") as log:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log}
            self.process = subprocess.Popen(command, text=True, env=environment, **pipes)

    def say(self, word: str) -> dict:
        try:
            self.process.stdin.write(word + "\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            self.process.wait()
            last = self.errors.read_text().strip().splitlines()[-1:]
            raise RuntimeError(f"{self.process.args[3]}: {' '.join(last)}") from None

    def close(self) -> None:
        try:
            self.process.communicate(timeout=20)  # ends its standard input, at which it stops
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def compare(method: str, stage: str, python, folder: Path, given) -> dict:
    """A row: both sides in fresh processes, so that neither what another stage left in memory nor its gaps count."""
    taken: dict[str, list[float]] = {"ours": [], "theirs": [], "bound": []}
    row = {"method": method, "stage": stage}
    ours = Process(sys.executable, "ours", method, stage, folder, given)
    theirs = Process(python, "theirs", method, stage, folder, given) if python else None
    try:
        for turn in range(given.turns + given.warmup):
            for name, one, word in (("ours", ours, "turn"), ("theirs", theirs, "turn"), ("bound", ours, "bound")):
                if one and (name != "bound" or turn >= given.warmup):
                    seconds = one.say(word)["seconds"]
                    if turn >= given.warmup:
                        taken[name].append(seconds)
            if turn == given.warmup - 1:
                row["memory"] = ours.say("memory")["memory"]  # without what recording takes
                ours.say("record")
                row |= ours.say("profile")
        row |= {name: statistics.median(values) for name, values in taken.items() if values}
        row["over"] = statistics.median(map(operator.truediv, taken["ours"], taken["bound"]))
        if theirs:
            row["ratio"] = statistics.median(map(operator.truediv, taken["theirs"], taken["ours"]))
            row["their_memory"] = theirs.say("memory")["memory"]
    finally:
        for one in (ours, theirs):
            if one:
                one.close()
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def table(rows: list[dict], stage: str) -> list[str]:
    per = "ms/image" if stage == "prediction" else "s"
    scale = 1e3 / BATCH if stage == "prediction" else 1
    heads = [f"adlib, {per}", f"anomalib, {per}", "anomalib/adlib", f"bound, {per}", "adlib/bound", "adlib, MiB"]
    lines = ["", "| " + " | ".join(["method", *heads, "anomalib, MiB", "where the time goes"]) + " |", "|---" * 9 + "|"]
    for row in (row for row in rows if row["stage"] == stage):
        cells = [row["method"], f"{scale * row['ours']:.3g}", f"{scale * row['theirs']:.3g}" if "theirs" in row else ""]
        cells += [f"{row['ratio']:.2f}" if "ratio" in row else "", f"{scale * row['bound']:.3g}", f"{row['over']:.2f}"]
        cells += [f"{row['memory']:.0f}", f"{row['their_memory']:.0f}" if "their_memory" in row else ""]
        lines.append("| " + " | ".join([*cells, row["rest"] if row["over"] > WORTH_SAYING else ""]) + " |")
    return lines


def prepare(folder: Path, size: int) -> None:
    """Images for both sides, and pictures to paste."""
    import adlib
    from adlib.samples import select

    adlib.phantoms.draw("cxr_ad", folder / "cxr_ad", counts={"UB": (IMAGES, 1, 1)}, size=size)
    images = adlib.ImageSet(select(adlib.load_samples("cxr_ad", folder / "cxr_ad"), split="train"), size=size)
    torch.save(torch.stack([images.pixels(index) for index in range(len(images))]), folder / "images.pt")
    (folder / "pictures").mkdir()
    for index, file in enumerate(images.samples["image"][:8]):
        source = Path(images.samples.attrs.get("root", folder / "cxr_ad"), file)
        (folder / "pictures" / f"{index}{source.suffix}").write_bytes(source.read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(PAIRS), choices=list(PAIRS))
    parser.add_argument("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1, help="turns before those that count")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--env", type=Path, default=HERE / "results" / "metrics-env", help="environment of anomalib")
    parser.add_argument("--out", type=Path, help="file of the rows as JSON, which later runs with it add to")
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        torch.set_num_threads(given.threads)
        side = Side()
        {"ours": run_ours, "theirs": run_theirs}[given.side](
            side, given.methods[0], given.folder, given.size, given.stages[0]
        )
        return
    python, why = prepare_environment(given.env.resolve())
    rows = json.loads(given.out.read_text()) if given.out and given.out.is_file() else []
    failures = [f"anomalib is left out: {why}"] if why else []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(folder, given.size)
        for method in given.methods:
            for stage in given.stages:
                try:
                    found = compare(method, stage, python, folder, given)
                except RuntimeError as error:
                    failures.append(f"{method}, {stage}, failed: {error}")
                    continue
                rows = [row for row in rows if (row["method"], row["stage"]) != (method, stage)] + [found]
                if given.out:
                    given.out.write_text(json.dumps(rows))
    versions = f"torch {torch.__version__}, anomalib {version(python, 'anomalib') if python else '-'}"
    print(f"{datetime.date.today()}, {given.threads} threads of {os.cpu_count()} cores, load average ", end="")
    print(
        f"{os.getloadavg()[1]:.1f}, Python {platform.python_version()}, {versions}, {given.size} pixels, batch {BATCH}"
    )
    for stage in STAGES:
        print("\n".join(table(sorted(rows, key=lambda row: list(PAIRS).index(row["method"])), stage)))
    print("".join(f"\n{line}" for line in failures))


if __name__ == "__main__":
    main()
