"""A batch: many runs at once, each in a process of its own; one that fails stops no other."""

import json
import os
import signal
import subprocess
import sys
import threading
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
    jobs = min(jobs or default_jobs(), max(1, len(waiting)))
    children: set[subprocess.Popen] = set()
    stopping = threading.Event()
    failed = 0
    with (
        ThreadPoolExecutor(jobs) as pool,
        tqdm(total=len(runs), initial=len(runs) - len(waiting), desc="runs", disable=not progress) as bar,
    ):
        tasks = {pool.submit(_run_in_child, run, store, jobs, children, stopping): run for run in waiting}
        try:
            for task in as_completed(tasks):
                record = task.result()
                failed += record["status"] == FAILED
                bar.set_postfix_str(f"{tasks[task].title}: {record['status']}" + (f"; {failed} failed" * (failed > 0)))
                bar.update()
        except KeyboardInterrupt:
            stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for child in list(children):
                os.killpg(child.pid, signal.SIGTERM)
            raise
    return [store.record(run.key) for run in runs]


def _run_in_child(run: Run, store: Store, jobs: int, children: set, stopping: threading.Event) -> dict:
    log = store.folder / "logs" / f"{run.key}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    threads = str(max(1, available_cpus() // jobs))
    environment = os.environ | {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "PYTHONUNBUFFERED": "1",
    }
    command = [sys.executable, "-m", "adlib.runs.execute", str(store.folder.resolve())]
    with log.open("w") as output:
        # Its own session, so that Ctrl-C reaches this process alone, which then ends the children in order.
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=REPOSITORY,
            start_new_session=True,
            text=True,
        )
        children.add(child)
        child.communicate(json.dumps(run.as_dict()))
        children.discard(child)
    record = store.record(run.key)
    if stopping.is_set():
        return record or failure(run, "interrupted", "interrupted")  # of no interest any more, and not stored
    if record is None or (child.returncode != 0 and record["status"] != FAILED):
        record = _record_death(run, store, child.returncode, log)
    return record


def _record_death(run: Run, store: Store, status: int, log: Path) -> dict:
    """The process of a run ended without a record: say so in one."""
    if status < 0:
        kind, reason = "process killed", f"The run's process was ended by signal {-status}."
        if -status == signal.SIGKILL:
            reason += " Often the system does this when memory is short."
    else:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        kind, reason = "error", lines[-1] if lines else f"The run's process ended with status {status}."
    record = failure(run, kind, reason)
    with store.claim(run.key) as folder:
        if folder is None:  # another process has finished it meanwhile
            return store.record(run.key)
        store.write_failure(folder, record)
    return record
