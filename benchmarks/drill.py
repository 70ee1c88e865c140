"""The long drill: faults at random during batches of real runs, then 2,000 runs that do nothing; `make drill`.

    python benchmarks/drill.py [--rounds N] [--runs N] [--jobs N] [--seed N]

Each round starts a batch (a process of its own, as `adlib reproduce` is) on one store. While it works, kernels,
workers or the batch end by kill -9, a kernel is stopped so that it hangs, predictions are cut, a record is spoiled, or
the data are taken away for a moment. Links that go down are tests/runs/test_links.py's.
After the last round a batch without faults ends the work. What must hold: every run is finished, no record that was
whole was written again, every record says what evaluating its predictions says. Prints how many faults there were.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests"), str(REPOSITORY / "tests" / "runs")]

from conftest import make_tree  # noqa: E402
from test_batch import leaves_a_record, quick_runs  # noqa: E402
from test_faults import command_line  # noqa: E402

from adlib.papers import list_papers  # noqa: E402
from adlib.runs import Run, Store  # noqa: E402
from adlib.runs.batch import run_all  # noqa: E402
from adlib.runs.execute import Conditions  # noqa: E402
from adlib.runs.plan import plan, read_profile, write_plan  # noqa: E402
from adlib.runs.workers import Workers  # noqa: E402

QUIET = 600  # seconds that a batch may take from the last fault to its end
SETTINGS = {"backbone": "resnet18.tv_in1k", "weights": "random", "size": 32, "crop": None}


def drill_runs(tree: Path, number: int) -> list[Run]:
    """Trained and untrained methods in turn, each with its own seed."""
    methods = [("padim", {}), ("stfpm", {"epochs": 8, "batch_size": 4}), ("patchcore", {"coreset_ratio": 0.1})]
    return [
        Run("folder", str(tree), *methods[seed % 3][:1], "thing", SETTINGS | methods[seed % 3][1], seed)
        for seed in range(number)
    ]


def batch(tree: Path, store: Store, number: int, jobs: int) -> subprocess.Popen:
    command = [sys.executable, __file__, "--batch", str(tree), str(store.folder), str(number), str(jobs)]
    return subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)


def whole(store: Store, runs: list[Run]) -> dict[str, int]:
    """key -> when its record was written, of the runs that are finished."""
    keys = [run.key for run in runs if store.is_finished(run.key)]
    return {key: (store.path(key) / "record.json").stat().st_mtime_ns for key in keys}


def do_harm(rng: random.Random, process: subprocess.Popen, store: Store, tree: Path) -> str:
    """One fault; returns its name, or "" where there was nothing to harm."""
    below = psutil.Process(process.pid).children(recursive=True)
    servers = {each.pid for each in below if "adlib.runs.kernels" in command_line(each)}
    kernels = [each for each in below if each.ppid() in servers]
    workers = [psutil.Process(pid).parent() for pid in servers if psutil.Process(pid).ppid() != process.pid]
    finished = [entry.parent for entry in store.folder.glob("[0-9a-f]*/record.json")]
    kinds = ["kernel", "kernel stopped", "worker", "batch", "cut predictions", "corrupt record", "data gone"]
    kind = rng.choice(kinds)
    if kind == "kernel" and kernels:
        rng.choice(kernels).kill()
    elif kind == "kernel stopped" and kernels:
        rng.choice(kernels).suspend()
    elif kind == "worker" and workers:
        rng.choice(workers).kill()
    elif kind == "batch":
        process.kill()
    elif (
        kind == "cut predictions" and finished and (file := rng.choice(finished) / "predictions" / "maps.npy").exists()
    ):
        file.write_bytes(file.read_bytes()[:-7])
    elif kind == "corrupt record" and finished:
        file = rng.choice(finished) / "record.json"
        file.write_text(file.read_text()[: rng.randrange(200)])
    elif kind == "data gone":
        tree.rename(tree.with_name("away"))
        time.sleep(1)
        tree.with_name("away").rename(tree)
    else:
        return ""
    return kind


def fault_drill(rounds: int, number: int, jobs: int, seed: int) -> None:
    folder, rng, faults = Path(tempfile.mkdtemp(prefix="adlib-drill-")), random.Random(seed), Counter()
    tree, store = make_tree(folder / "tree"), Store(folder / "runs")
    runs = drill_runs(tree, number)
    for run in runs:
        assert run.key
    rewritten = 0
    for _ in range(rounds):
        process = batch(tree, store, number, jobs)
        while process.poll() is None:
            time.sleep(rng.uniform(1, 6))
            before = whole(store, runs)
            try:
                kind = do_harm(rng, process, store, tree)
            except psutil.NoSuchProcess:
                continue
            faults[kind] += bool(kind)
            damaged = set(store.damaged())
            after = whole(store, runs)
            rewritten += sum(after.get(key, at) != at for key, at in before.items() if key not in damaged)
            if kind == "batch":
                break
        try:
            process.wait(QUIET)
        except subprocess.TimeoutExpired:
            raise SystemExit(f"a batch has not ended within {QUIET} s of the last fault") from None
        psutil.wait_procs(psutil.Process().children(recursive=True), timeout=30)
    before = whole(store, runs)
    assert batch(tree, store, number, jobs).wait() == 0
    after = whole(store, runs)
    assert len(after) == number, f"{number - len(after)} runs are not finished"
    rewritten += sum(after[key] != at for key, at in before.items())
    assert rewritten == 0, f"{rewritten} whole records were written again"
    lies = [key for key in after if not _is_true(store, key)]
    assert not lies, f"records that their predictions do not bear out: {lies}"
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(faults.items()) if kind)
    print(f"{sum(faults.values())} faults ({told}) in {rounds} rounds: all {number} runs finished, none done twice.")


def _is_true(store: Store, key: str) -> bool:
    """Whether the image metrics of a record are those of its predictions, which are kept in full precision."""
    from adlib.metrics import image_metrics
    from adlib.predictions import Predictions

    predictions = Predictions.load(store.path(key) / "predictions")
    found = image_metrics(predictions.samples["label"].to_numpy(), predictions.scores)
    metrics = store.record(key)["metrics"]
    return all(abs(metrics[name] - found[name]) < 1e-6 for name in ("image_auroc", "image_ap", "image_f1max"))


def scale_drill(number: int = 2000, jobs: int = 4) -> None:
    """Runs that do nothing: what a batch costs per run, and what listing the store costs."""
    store = Store(tempfile.mkdtemp(prefix="adlib-scale-"))
    runs = quick_runs(number)
    with Workers(jobs) as workers:
        run_all(runs[:jobs], store, workers, False, leaves_a_record())  # start the workers
        start = time.perf_counter()
        records = run_all(runs, store, workers, False, leaves_a_record())
        seconds = time.perf_counter() - start
    assert [record["status"] for record in records] == ["finished"] * number
    begun = (store.folder / "begun").read_text().split()
    assert sorted(map(int, begun)) == list(range(number))
    start = time.perf_counter()
    rows = len(store.table())
    listing = time.perf_counter() - start
    size = sum(len(json.dumps(record)) for record in records) // number
    print(f"{number} runs that do nothing, {jobs} workers: {1000 * seconds / number:.1f} ms each;")
    print(f"listing {rows} records of {size} bytes: {listing:.2f} s")


def report_drill(number: int = 2000) -> None:
    """List and render a store of as many real records: one run's, again and again under other keys and seeds.

    The report has the tables of all papers, too, without any data in them.
    """
    from adlib.report.pages import render_report
    from adlib.runs.execute import execute

    out = Path(tempfile.mkdtemp(prefix="adlib-report-"))
    store = Store(out / "runs")
    (run,) = drill_runs(make_tree(out / "tree"), 1)
    record = execute(run, store, False)
    for seed in range(1, number):
        folder = store.path(f"{seed:016x}")
        folder.mkdir()
        content = record | {"key": folder.name, "run": record["run"] | {"seed": seed}, "files": {}}
        (folder / "record.json").write_text(json.dumps(content))
    profile = read_profile("smoke")
    write_plan(plan(list_papers(), profile, out / "nothing"), profile, out)
    start = time.perf_counter()
    rows = len(store.table())
    listing, start = time.perf_counter() - start, time.perf_counter()
    render_report(out)
    print(f"{rows} real records: listing {listing:.2f} s, report {time.perf_counter() - start:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["faults", "scale"])
    parser.add_argument("--batch", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.batch:
        tree, folder, number, jobs = given.batch
        with Workers(int(jobs), conditions=Conditions(stall_limit=10)) as workers:
            records = run_all(drill_runs(Path(tree), int(number)), Store(folder), workers, False)
        sys.exit(any(record["status"] != "finished" for record in records))
    if given.only != "scale":
        fault_drill(given.rounds, given.runs, given.jobs, given.seed)
    if given.only != "faults":
        scale_drill()
        report_drill()


if __name__ == "__main__":
    main()
