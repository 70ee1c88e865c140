"""A batch: many runs or notebooks at once on Dask's workers; one that fails stops no other."""

import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from time import monotonic, sleep

from tqdm.auto import tqdm

from adlib.runs.execute import Conditions, NotebookFailed, execute, execute_notebook
from adlib.runs.record import FAILED, FINISHED, failure
from adlib.runs.run import Run, distinct_titles
from adlib.runs.store import Busy, Store
from adlib.runs.workers import Workers, default_jobs, kernel_server

BUSY, INTERRUPTED = "busy", "interrupted"
PATIENCE = 5.0  # seconds that a worker waits for a run that another process works on, before it does others first


@dataclass
class Task:
    """One piece of a batch: work(*arguments, conditions) in a worker returns its outcome.

    An outcome is a dictionary: state (FINISHED, FAILED, BUSY or INTERRUPTED), and of a failure kind and reason.
    """

    name: str
    title: str
    work: Callable
    arguments: tuple


def run_all(
    runs: list[Run],
    store: Store,
    jobs: int | Workers | None = None,
    progress: bool = True,
    work: Callable | None = None,
) -> list[dict]:
    """Do all runs that the store does not have; returns the records of all of them, in their order.

    jobs: how many at once on this machine, processors (or GPUs) being shared among them; or Workers.
    work: what a worker does with (run, key, store's folder, conditions), `do_run` if None.
    A failure of any kind is recorded as one and stops no other run. A run that another process works on is left to it.
    Ctrl-C ends what is under way, keeps every finished run and every checkpoint, and raises KeyboardInterrupt.
    Raises InputError when nothing can be written into the store.
    """
    store.check_writable()
    folder = store.folder.resolve()
    waiting = {run.key: run for run in runs if not store.is_finished(run.key)}
    tasks = [
        Task(key, title, work, (run.as_dict(), key, str(folder)))
        if work
        else Task(key, title, do_run, (run.as_dict(), key, str(folder), run.fingerprint))
        for (key, run), title in zip(waiting.items(), distinct_titles(waiting.values()), strict=True)
    ]
    lost = {}
    with _open(jobs, len(tasks)) as workers, _stopper(folder, store, set(waiting)) as stop:
        for task, outcome in _do_all(workers, tasks, stop, "runs", len(runs) - len(waiting), progress):
            if outcome.get("unrecorded"):
                lost[task.name] = _record_loss(waiting[task.name], store, outcome)
    return [lost.get(run.key) or store.record(run.key) or _unknown(run) for run in runs]


def do_run(run: dict, key: str, folder: str, fingerprint: str, conditions: Conditions) -> dict:
    """In a worker: execute one run, under the key planned, into the store in `folder`; returns its outcome."""
    conditions = replace(conditions, wait=PATIENCE)
    try:
        record = execute(Run(**run), Store(folder), False, key, conditions, kernel_server(), fingerprint)
    except Busy:
        return {"state": BUSY}
    except NotebookFailed as error:
        return {"state": INTERRUPTED, "kind": error.kind, "reason": error.reason}
    return {"state": record["status"], "kind": record.get("kind", ""), "reason": record.get("reason", "")}


def execute_all(
    notebooks: list[tuple[str, dict]], folder: Path, jobs: int | Workers | None = None, progress: bool = True
) -> list[str]:
    """Execute notebooks (name, parameters) into folder/<name>.ipynb; returns a line for each that failed."""
    folder = Path(folder).resolve()
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    tasks = [Task(name, name, do_notebook, (name, values, str(folder))) for name, values in notebooks]
    with _open(jobs, len(tasks)) as workers, _stopper(folder) as stop:
        done = list(_do_all(workers, tasks, stop, "notebooks", 0, progress))
    return sorted(f"notebook {task.name}: {found['reason']}" for task, found in done if found["state"] == FAILED)


def do_notebook(name: str, parameters: dict, folder: str, conditions: Conditions) -> dict:
    """In a worker: execute one notebook into `folder`; returns its outcome."""
    out, log = Path(folder) / f"{name}.ipynb", Path(folder) / "logs" / f"{name}.log"
    log.unlink(missing_ok=True)
    try:
        execute_notebook(name, out, parameters, False, log, conditions, kernel_server())
    except NotebookFailed as error:
        return {"state": INTERRUPTED if error.kind == "interrupted" else FAILED, "reason": error.reason}
    return {"state": FINISHED}


@contextmanager
def _open(jobs: int | Workers | None, tasks: int) -> Iterator[Workers]:
    """The workers that were given, which stay; or new ones, no more than there are tasks, which end with the batch."""
    if isinstance(jobs, Workers):
        yield jobs
    else:
        with Workers(max(1, min(jobs or default_jobs(), tasks))) as workers:
            yield workers


@contextmanager
def _stopper(folder: Path, store: Store | None = None, keys: frozenset | set = frozenset()) -> Iterator[Path]:
    """The file that tells workers on whatever machine to stop; written when the block is interrupted, and deleted when
    they have let go of the runs.
    """
    stop = folder / f".stop-{uuid.uuid4().hex[:8]}"
    try:
        yield stop
    except KeyboardInterrupt:
        with suppress(OSError):
            stop.touch()
        deadline = monotonic() + 20
        while store is not None and store.running() & keys and monotonic() < deadline:
            sleep(0.2)
        raise
    finally:
        with suppress(OSError):
            stop.unlink(missing_ok=True)


def _do_all(
    workers: Workers, tasks: list[Task], stop: Path, what: str, done: int, progress: bool
) -> Iterator[tuple[Task, dict]]:
    """Have the workers do all tasks, with one bar for them; yields each task with its outcome when it has ended."""
    with _Bar(what, done, len(tasks), workers, progress) as bar:
        if not tasks:
            return
        from distributed import as_completed

        client = workers.client
        if dashboard := workers.dashboard():
            bar.say(f"Dask's dashboard: {dashboard}")
        resources = workers.resources() or None
        conditions = replace(workers.conditions, stop=str(stop))
        submitted: dict[str, Task] = {}

        def submit(task: Task, priority: int = 0):
            key = f"{task.work.__name__}-{uuid.uuid4().hex}"
            submitted[key] = task
            options = {"key": key, "pure": False, "resources": resources, "priority": priority}
            return client.submit(task.work, *task.arguments, conditions, **options)

        completed = as_completed([submit(task) for task in tasks], loop=client.loop)
        try:
            for future in completed:
                task, outcome = submitted[future.key], _outcome(future)
                if outcome["state"] == BUSY:
                    completed.add(submit(task, priority=-1))
                    continue
                bar.ended(task, outcome)
                yield task, outcome
        finally:
            if left := list(completed.futures):
                with suppress(Exception):  # the scheduler may be what has failed
                    client.cancel(left, force=True)


def _outcome(future) -> dict:
    """What became of a task, also where its worker could not say it."""
    from distributed import KilledWorker

    try:
        return future.result()
    except KilledWorker as error:
        worker = getattr(error.last_worker, "address", error.last_worker)
        reason = f"Several workers ended, or were ended, under this run; the last was {worker}."
        return {"state": FAILED, "kind": "worker died", "reason": reason, "unrecorded": True}
    except OSError as error:
        kind = "disk full" if "No space left" in str(error) else "error"
        return {"state": FAILED, "kind": kind, "reason": f"{type(error).__name__}: {error}", "unrecorded": True}
    except Exception as error:  # whatever it was, it is this task's and not the batch's
        lines = str(error).strip().splitlines() or [""]
        reason = f"{type(error).__name__}: {lines[0]}"
        return {"state": FAILED, "kind": "error", "reason": reason, "unrecorded": True}


def _record_loss(run: Run, store: Store, outcome: dict) -> dict:
    """A run failed, and its worker could not record it: do so, if the disk lets us; returns the record."""
    record = failure(run, outcome["kind"], outcome["reason"])
    with suppress(OSError, Busy), store.claim(run.key, wait=0) as folder:
        if folder is not None:  # else another process has finished it meanwhile
            store.write_failure(folder, record)
    found = store.record(run.key)
    return found if found and found["status"] == FINISHED else record


def _unknown(run: Run) -> dict:
    """A run that ended and whose record is gone at once: its folder was deleted or damaged under the batch."""
    return failure(run, "error", "The run has ended, but its record cannot be read.")


class _Bar:
    """The bar of a batch: done, failed, running, time left; and a line above it for each task that has ended."""

    def __init__(self, what: str, done: int, waiting: int, workers: Workers, progress: bool):
        self.bar = tqdm(total=done + waiting, initial=done, desc=what, disable=not progress, unit="")
        self.workers, self.failed, self.slots, self.left = workers, 0, 0, threading.Event()
        self.progress = progress and waiting > 0

    def __enter__(self):
        if self.progress:
            threading.Thread(target=self._tick, daemon=True, name="bar").start()
        return self

    def __exit__(self, *_) -> None:
        self.left.set()
        self.bar.close()

    def say(self, line: str) -> None:
        if self.progress:
            self.bar.write(line, file=sys.stderr)

    def ended(self, task: Task, outcome: dict) -> None:
        self.failed += outcome["state"] == FAILED
        reason = f": {outcome['reason']}" if outcome.get("reason") else ""
        self.say(f"{datetime.now():%H:%M:%S} {outcome['state']} {task.title}{reason}")
        self.bar.update()
        self._show()

    def _tick(self) -> None:
        while not self.left.wait(1):
            if self.workers.started:
                self.slots = self.workers.slots()
                self._show()

    def _show(self) -> None:
        running = min(self.slots, self.bar.total - self.bar.n)
        self.bar.set_postfix_str(f"{self.failed} failed, {running} running")
