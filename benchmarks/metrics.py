"""Pixel metrics of adlib beside scikit-learn, torchmetrics and anomalib: time, peak memory, agreement.

    python benchmarks/metrics.py         # everything, about 15 minutes on 2 cores; writes benchmarks/metrics.md
    python benchmarks/metrics.py --sizes 100 --stream 1000 --out /dev/stdout         # a quick look

Every implementation runs in a fresh process on the same maps, after a warm-up on four of them. anomalib and
torchmetrics are installed into an environment of their own (--env), which sees the packages of the current one, so
that torch is not installed twice; if that fails, they are left out and the table says so.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
SIDE = 256
LIMIT = 0.3
METRICS = ("auroc", "ap", "f1max", "aupro")


# --- data


def draw_masks(rng: np.random.Generator, count: int) -> np.ndarray:
    """bool[count, 256, 256]; every second one has three regions of 10 to 50 pixels a side."""
    masks = np.zeros((count, SIDE, SIDE), bool)
    for mask in masks[::2]:
        for _ in range(3):
            y, x = rng.integers(0, SIDE - 50, 2)
            height, width = rng.integers(10, 51, 2)
            mask[y : y + height, x : x + width] = True
    return masks


def draw_maps(rng: np.random.Generator, masks: np.ndarray) -> np.ndarray:
    """float32 maps in [0, 1]: smooth noise, higher on the regions, through a logistic function."""
    import cv2

    maps = np.empty(masks.shape, np.float32)
    for one, mask in zip(maps, masks, strict=True):
        noise = cv2.GaussianBlur(rng.standard_normal(mask.shape, dtype=np.float32), (0, 0), 4) * 14
        one[:] = 1 / (1 + np.exp(3 - noise - 2 * cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 4)))
    return maps


def stream(count: int, chunk: int = 16, seed: int = 1):
    """(masks, maps) chunks made as they are asked for: 64 drawn maps, each time stretched and shifted anew."""
    rng = np.random.default_rng(seed)
    masks = draw_masks(rng, 64)
    maps = draw_maps(rng, masks)
    for start in range(0, count, chunk):
        size = min(chunk, count - start)
        chosen = (start + np.arange(size)) % 64
        stretch = rng.uniform(0.9, 1.1, (size, 1, 1)).astype(np.float32)
        yield masks[chosen], maps[chosen] * stretch + rng.uniform(0, 0.05, (size, 1, 1)).astype(np.float32)


# --- one implementation in one process


def ours(masks, maps):
    from adlib.metrics import pixel_metrics

    values = pixel_metrics(masks, maps, pro_limit=LIMIT)
    return {name: values["aupro" if name == "aupro" else f"pixel_{name}"] for name in METRICS}


def sklearn_metric(name):
    def run(masks, maps):
        from sklearn import metrics

        truth, scores = masks.ravel(), maps.ravel()
        if name != "f1max":
            return {name: {"auroc": metrics.roc_auc_score, "ap": metrics.average_precision_score}[name](truth, scores)}
        precision, recall, _ = metrics.precision_recall_curve(truth, scores)
        return {name: np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))}

    return run


def reference_aupro(masks, maps):
    """MVTec's definition: sort every pixel, walk through all thresholds, interpolate at the limit; float64."""
    from scipy.ndimage import label

    weight, n_regions = np.zeros(masks.shape), 0
    for mask, out in zip(masks, weight, strict=True):
        regions, count = label(mask, np.ones((3, 3)))
        n_regions += count
        out[mask] = 1 / np.bincount(regions[mask])[regions[mask]]
    order = np.argsort(-maps.ravel(), kind="stable")
    scores = maps.ravel()[order]
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    fpr = np.append(0, np.cumsum(~masks.ravel()[order])[last] / np.count_nonzero(~masks))
    pro = np.append(0, np.cumsum(weight.ravel()[order])[last] / n_regions)
    end = np.searchsorted(fpr, LIMIT, side="right")
    share = (LIMIT - fpr[end - 1]) / (fpr[end] - fpr[end - 1])
    fpr = np.append(fpr[:end], LIMIT)
    pro = np.append(pro[:end], pro[end - 1] + share * (pro[end] - pro[end - 1]))
    return {"aupro": np.trapezoid(pro, fpr) / LIMIT}


def torchmetrics_metric(name):
    def run(masks, maps):
        import torch
        import torchmetrics.classification as tm

        kind = {"auroc": "AUROC", "ap": "AveragePrecision", "f1max": "PrecisionRecallCurve"}[name]
        metric = getattr(tm, f"Binary{kind}")()
        metric.update(torch.from_numpy(maps).flatten(), torch.from_numpy(masks).flatten().int())
        if name != "f1max":
            return {name: float(metric.compute())}
        precision, recall, _ = metric.compute()
        return {name: float((2 * precision * recall / (precision + recall).clamp(min=1e-12)).max())}

    return run


def anomalib_metric(name):
    def run(masks, maps):
        import torch
        from anomalib import metrics

        kind = {"auroc": "AUROC", "ap": "AUPR", "f1max": "F1Max", "aupro": "AUPRO"}[name]
        metric = getattr(metrics, kind)(fields=["anomaly_map", "gt_mask"])
        metric.update(types.SimpleNamespace(anomaly_map=torch.from_numpy(maps), gt_mask=torch.from_numpy(masks).int()))
        return {name: float(metric.compute())}

    return run


IMPLEMENTATIONS = {
    "adlib": [ours],
    "reference": [reference_aupro],
    "scikit-learn": [sklearn_metric(name) for name in METRICS[:3]],
    "torchmetrics": [torchmetrics_metric(name) for name in METRICS[:3]],
    "anomalib": [anomalib_metric(name) for name in METRICS],
}


def resident(field: str) -> float:
    """MB of this process now (VmRSS) or at its peak (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def measure(function) -> tuple[object, dict]:
    """(result, seconds on the clock and of processor time, and peak MB above what was resident before)."""
    Path("/proc/self/clear_refs").write_text("5")  # start the peak anew
    before, start, processor_start = resident("VmRSS"), time.perf_counter(), time.process_time()
    result = function()
    cost = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - processor_start}
    return result, cost | {"peak": resident("VmHWM") - before}


def run_arrays(name: str, data: Path, count: int, distances: bool) -> dict:
    masks, maps = np.load(data / "masks.npy")[:count].copy(), np.load(data / "maps.npy")[:count].copy()
    if distances:
        maps = 3000 + 500 * maps
    values, total = {}, {"seconds": 0.0, "cpu": 0.0, "peak": 0.0}
    for function in IMPLEMENTATIONS[name]:
        function(masks[:4], maps[:4])
        costs = []
        for _ in range(5 if name == "adlib" else 1):
            value, cost = measure(lambda function=function: function(masks, maps))
            costs.append(cost)
        values |= {key: float(number) for key, number in value.items()}
        total["peak"] = max(total["peak"], *(cost["peak"] for cost in costs))
        for key in ("seconds", "cpu"):
            total[key] += statistics.median(cost[key] for cost in costs)
    return {"values": values} | total


def run_stream(count: int) -> dict:
    from adlib.metrics import pixel_metrics

    def exhaust(work):
        for _, maps in stream(count):
            work(maps)

    pixel_metrics(stream(16))
    making = measure(lambda: exhaust(lambda maps: None))[1]["seconds"]
    sorting = measure(lambda: exhaust(lambda maps: np.sort(maps, axis=None)))[1]["seconds"] - making
    values, cost = measure(lambda: pixel_metrics(stream(count)))
    return {"values": values, "sorting": sorting} | cost | {"seconds": cost["seconds"] - making}


def run_bootstrap(data: Path) -> dict:
    from adlib.metrics import bootstrap_pixels

    masks, maps = np.load(data / "masks.npy")[:150].copy(), np.load(data / "maps.npy")[:150].copy()
    bootstrap_pixels(masks[:4], maps[:4], replicates=10)
    values, cost = measure(lambda: bootstrap_pixels(masks, maps, replicates=1000))
    return {"values": values} | cost


# --- the whole comparison


def prepare_environment(folder: Path) -> tuple[Path | None, str]:
    """(python of an environment with anomalib and torchmetrics, "") or (None, why there is none)."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    try:
        if not (folder / "ready").is_file():
            subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
            show = [python, "-c", "import site; print(site.getsitepackages()[0])"]
            packages = subprocess.run(show, check=True, capture_output=True, text=True).stdout.strip()
            outside = "\n".join(p for p in sys.path if p.endswith("site-packages"))
            Path(packages, "outside.pth").write_text(outside + "\n")
            pins = folder / "pins.txt"
            pins.write_text("".join(f"{name}=={importlib.metadata.version(name)}\n" for name in ("torch", "numpy")))
            install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", pins]
            subprocess.run([*install, "anomalib", "torchmetrics"], check=True)
            (folder / "ready").write_text("")
        subprocess.run([python, "-c", "import anomalib.metrics"], check=True, capture_output=True)
    except (subprocess.CalledProcessError, OSError, importlib.metadata.PackageNotFoundError) as error:
        return None, f"{type(error).__name__}: {error}"
    return python, ""


def child(python, *arguments) -> dict | None:
    """Result of one measurement in a fresh process; None, with its last words printed, where it fails."""
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
    command = [str(python), str(Path(__file__).resolve()), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        print(f"  failed ({done.returncode}): {done.stderr.strip().splitlines()[-1:]}", flush=True)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def version(python, name: str) -> str:
    code = f"import importlib.metadata as m; print(m.version('{name}'))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "not installed"


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.processor()


def compare(arguments) -> str:
    """Run everything; return the page."""
    load = os.getloadavg()
    peer, why = prepare_environment(arguments.env.resolve())
    pythons = {"adlib": sys.executable, "reference": sys.executable, "scikit-learn": sys.executable}
    if peer:
        pythons |= {"torchmetrics": peer, "anomalib": peer}
    else:
        print(f"anomalib and torchmetrics are left out: {why}")
    results = {}
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        rng = np.random.default_rng(0)
        masks = draw_masks(rng, max(*arguments.sizes, 150))
        np.save(Path(folder, "masks.npy"), masks)
        np.save(Path(folder, "maps.npy"), draw_maps(rng, masks))
        share = masks[: max(arguments.sizes)].mean()
        del masks
        cases = [(size, False) for size in arguments.sizes] + [(min(arguments.sizes), True)]
        for size, distances in cases:
            for name, python in pythons.items():
                options = ["--distances"] if distances else []
                result = child(python, "--child", name, "--data", folder, "--images", size, *options)
                results[name, size, distances] = result
                print(name, size, "distances" if distances else "", result, flush=True)
        streams = {}
        for count in arguments.stream:
            streams[count] = child(sys.executable, "--child", "stream", "--images", count)
            print("stream", count, streams[count], flush=True)
        boot = child(sys.executable, "--child", "bootstrap", "--data", folder)
        print("bootstrap", boot, flush=True)
    return page(arguments, pythons, results, streams, boot, share, why, load)


def header(*columns: str) -> list[str]:
    return ["", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]


def page(arguments, pythons, results, streams, boot, share, why, load) -> str:
    versions = [f"Python {platform.python_version()}", f"NumPy {np.__version__}"]
    for name in ("scikit-learn", "torch", "torchmetrics", "anomalib"):
        versions.append(f"{name} {version(pythons.get('anomalib', sys.executable), name)}")
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    words = " ".join(["python benchmarks/metrics.py", *sys.argv[1:]])
    lines = [
        "# Pixel metrics: time, memory, agreement",
        "",
        f"`{words}`, {datetime.date.today()}, {processor()}, {os.cpu_count()} cores, OMP_NUM_THREADS {threads}; "
        f"{', '.join(versions)}.",
        "",
        f"Maps of {SIDE}x{SIDE} float32; every second one has three regions ({100 * share:.1f} % of all pixels are "
        f"anomalous). A fresh process each; adlib: median of five calls, the others: one call per metric, times added "
        f"up. Memory: highest resident size above that before the call, arrays not counted. Load average of the "
        f"machine {load[0]:.1f} at the start and {os.getloadavg()[0]:.1f} at the end; where other work runs beside, "
        f"CPU seconds (of all threads together) are the fairer measure.",
        "",
    ]
    if why:
        lines += [f"anomalib and torchmetrics are left out: they could not be installed ({why}).", ""]
    lines += [
        "## Time and memory",
        *header("maps", "implementation", "metrics", "s", "times adlib", "CPU s", "times adlib", "peak MB"),
    ]
    for (name, size, distances), result in results.items():
        if distances or name == "reference" or result is None:
            continue
        own = results["adlib", size, False]
        lines.append(
            f"| {size} | {name} | {', '.join(result['values'])} | {result['seconds']:.2f} | "
            f"{result['seconds'] / own['seconds']:.0f} | {result['cpu']:.2f} | {result['cpu'] / own['cpu']:.0f} | "
            f"{result['peak']:.0f} |"
        )
    lines += [
        "",
        "## Agreement",
        "",
        "Difference from the definition: scikit-learn for AUROC, AP and F1-max, and for AUPRO a sort of all pixels "
        "with every threshold in float64. Distances are the same maps as 3000 + 500 x, which a monotone transform "
        "must not matter to (up to the ties that rounding to float32 makes; the definition sees the same numbers).",
        *header("maps", "scores", "implementation", "AUROC", "AP", "F1-max", "AUPRO"),
    ]
    for (name, size, distances), result in results.items():
        if result is None or name in ("reference", "scikit-learn"):
            continue
        exact = {}
        for source in ("scikit-learn", "reference"):
            exact |= (results[source, size, distances] or {"values": {}})["values"]
        cells = [
            f"{result['values'][m] - exact[m]:+.0e}" if m in result["values"] and m in exact else "" for m in METRICS
        ]
        lines.append(f"| {size} | {'distances' if distances else 'in [0, 1]'} | {name} | {' | '.join(cells)} |")
    lines += [
        "",
        "## Streams",
        "",
        "An iterator of chunks of 16 maps, made as they are asked for, read once. Sorting alone is NumPy's sort of "
        "each chunk. Seconds without the making of the chunks.",
        *header("maps", "million pixels", "s", "million pixels/s", "sorting alone, s", "times sorting", "peak MB"),
    ]
    for count, result in streams.items():
        if result is None:
            continue
        pixels = count * SIDE**2 / 1e6
        lines.append(
            f"| {count} | {pixels:.0f} | {result['seconds']:.1f} | {pixels / result['seconds']:.0f} | "
            f"{result['sorting']:.1f} | {result['seconds'] / result['sorting']:.1f} | {result['peak']:.0f} |"
        )
    if boot:
        lines += [
            "",
            "## Bootstrap",
            "",
            f"1000 replicates of pixel AUROC, AP, F1-max and AUPRO over 150 images of {SIDE}x{SIDE}: "
            f"{boot['seconds']:.1f} s, {boot['peak']:.0f} MB. AUPRO "
            f"{boot['values']['aupro']['value']:.4f} [{boot['values']['aupro']['low']:.4f}, "
            f"{boot['values']['aupro']['high']:.4f}].",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 400, 1000], help="numbers of maps")
    parser.add_argument("--stream", type=int, nargs="*", default=[1000, 4000, 16546], help="numbers of streamed maps")
    parser.add_argument("--env", type=Path, default=HERE / "results" / "metrics-env", help="environment of the peers")
    parser.add_argument("--scratch", type=Path, default=None, help="folder for the maps (default: temporary)")
    parser.add_argument("--out", type=Path, default=HERE / "metrics.md")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--images", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--distances", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child == "stream":
        print(json.dumps(run_stream(arguments.images)))
    elif arguments.child == "bootstrap":
        print(json.dumps(run_bootstrap(arguments.data)))
    elif arguments.child:
        print(json.dumps(run_arrays(arguments.child, arguments.data, arguments.images, arguments.distances)))
    else:
        arguments.out.write_text(compare(arguments))


if __name__ == "__main__":
    main()
