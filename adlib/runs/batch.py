"""A batch: many runs or notebooks at once, each in a process of its own; one that fails stops no other."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm.auto import tqdm

from adlib.runs.environment import REPOSITORY, available_cpus
from adlib.runs.record import FAILED, failure
from adlib.runs.run import Run
from adlib.runs.store import Store


def default_jobs() -> int:
    """How many runs at once when nobody says: one per GPU, else one per processor, at most eight."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.device_count()
    return max(1, min(available_cpus(), 8))


def run_all(runs: list[Run], store: Store, jobs: int | None = None, progress: bool = True) -> list[dict]:
    """Do all runs that the store does not have; returns the records of all of them, in their order.

    jobs: how many at once; processors are shared among them. Each run's output goes to <store>/logs/<key>.log.
    A run whose process dies is recorded as failed, with the last line of its log. Ctrl-C ends the processes under
    way, keeps every finished run and raises KeyboardInterrupt.
    """
    waiting = [run for run in runs if not store.is_finished(run.key)]

    def work(run: Run, start: Callable) -> str:
        log = store.folder / "logs" / f"{run.key}.log"
        status = start([str(store.folder.resolve())], run.as_dict(), log)
        record = store.record(run.key)
        if status is not None and (record is None or (status != 0 and record["status"] != FAILED)):
            record = _record_death(run, store, status, log)
        return f"{run.title}: {record['status'] if record else 'interrupted'}"

    _in_children(waiting, work, jobs, progress, "runs", len(runs) - len(waiting))
    return [store.record(run.key) for run in runs]


def execute_all(
    notebooks: list[tuple[str, dict]], folder: Path, jobs: int | None = None, progress: bool = True
) -> list[str]:
    """Execute notebooks (name, parameters) into folder/<name>.ipynb; returns a line for each that failed."""
    failures = []

    def work(task: tuple[str, dict], start: Callable) -> str:
        name, parameters = task
        log = folder / "logs" / f"{name}.log"
        if start(["--notebook", name, str((folder / f"{name}.ipynb").resolve())], parameters, log):
            failures.append(f"notebook {name}: {_last_line(log)}")
        return name

    _in_children(notebooks, work, jobs, progress, "notebooks")
    return sorted(failures)


def _in_children(tasks: list, work: Callable, jobs: int | None, progress: bool, what: str, done: int = 0) -> None:
    """Call work(task, start) for every task, `jobs` at a time.

    start(arguments, payload, log) runs adlib.runs.execute in a process of its own and returns its exit status, or None
    when the batch is being interrupted.
    """
    jobs = min(jobs or default_jobs(), max(1, len(tasks)))
    threads = str(max(1, available_cpus() // jobs))
    environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "PYTHONUNBUFFERED": "1"}
    children: set[subprocess.Popen] = set()
    stopping = threading.Event()

    def start(arguments: list[str], payload: dict, log: Path) -> int | None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as output:
            # Its own session, so that Ctrl-C reaches this process alone, which then ends the children in order.
            child = subprocess.Popen(
                [sys.executable, "-m", "adlib.runs.execute", *arguments],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=REPOSITORY,
                start_new_session=True,
                text=True,
            )
            children.add(child)
            child.communicate(json.dumps(payload))
            children.discard(child)
        return None if stopping.is_set() else child.returncode

    with (
        ThreadPoolExecutor(jobs) as pool,
        tqdm(total=len(tasks) + done, initial=done, desc=what, disable=not progress) as bar,
    ):
        futures = [pool.submit(work, task, start) for task in tasks]
        try:
            for future in as_completed(futures):
                bar.set_postfix_str(future.result())
                bar.update()
        except KeyboardInterrupt:
            stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for child in list(children):
                os.killpg(child.pid, signal.SIGTERM)
            raise


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "ended without a word"


def _record_death(run: Run, store: Store, status: int, log: Path) -> dict:
    """The process of a run ended without a record: say so in one."""
    kind, reason = "error", _last_line(log)
    if status < 0:
        kind, reason = "process killed", f"The run's process was ended by signal {-status}."
        if -status == signal.SIGKILL:
            reason += " Often the system does this when memory is short."
    with store.claim(run.key) as folder:
        if folder is not None:  # else another process has finished it meanwhile
            store.write_failure(folder, failure(run, kind, reason))
    return store.record(run.key)
