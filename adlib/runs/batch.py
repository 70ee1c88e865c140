"""A batch: many runs or notebooks at once on Dask's workers; one that fails stops no other.

Workers, the scheduler and the way to either may be lost at any time. None of that is a failure of what was under way:
it is looked for in the store, and given out again if it is not there.
"""

import queue
import shlex
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import monotonic, sleep

from adlib.errors import InputError
from adlib.runs.attempts import deaths
from adlib.runs.conditions import Conditions
from adlib.runs.execute import execute, execute_notebook
from adlib.runs.failures import NotebookFailed
from adlib.runs.progress import Bar
from adlib.runs.record import FAILED, FINISHED, failure
from adlib.runs.run import Run
from adlib.runs.store import Busy, Store
from adlib.runs.titles import distinct_titles
from adlib.runs.workers import Workers, check_device, default_jobs, kernel_server

BUSY, INTERRUPTED = "busy", "interrupted"
PATIENCE = 5.0  # seconds that a worker waits for a run that another process works on, before it does others first
SILENCE = 10.0  # seconds without an answer of the scheduler, or without workers, before the batch says so
REMINDER = 600.0  # seconds until it says so again
LOOK_EVERY = 60.0  # seconds between looks into the store; LOOK_WAITING while nothing can be done
LOOK_WAITING = 5.0
GATHER_SECONDS = 20.0  # to wait for an outcome whose worker may have gone with it
DEATHS = 3  # workers that may die under one run


@dataclass
class Task:
    """One piece of a batch: work(*arguments, conditions) in a worker returns its outcome.

    An outcome is a dictionary: state (FINISHED, FAILED, BUSY or INTERRUPTED), and of a failure kind and reason.
    look: returns the outcome if the task has ended since the batch began, whoever did it, as far as that can be seen
    without a worker. deaths: how many workers are known to have died under it, None where nobody knows.
    """

    name: str
    title: str
    work: Callable
    arguments: tuple
    look: Callable[[], dict | None] = lambda: None
    deaths: Callable[[], int | None] = lambda: None


def run_all(
    runs: list[Run],
    store: Store,
    jobs: int | Workers | None = None,
    progress: bool = True,
    work: Callable | None = None,
) -> list[dict]:
    """Do all runs that the store does not have; returns the records of all of them, in their order.

    jobs: how many at once on this machine, processors (or GPUs) being shared among them; or Workers, whose conditions
    may say that finished runs are done again.
    work: what a worker does with (run, key, store's folder, conditions), `do_run` if None.
    A failure of any kind is recorded as one and stops no other run. A run that another process works on is left to it.
    Ctrl-C ends what is under way, keeps every finished run and every checkpoint, and raises KeyboardInterrupt.
    Raises InputError when nothing can be written into the store, for a run that wants one of several GPUs by its
    number, and when there has been no worker for longer than the workers' patience.
    """
    store.check_writable()
    folder = store.folder.resolve()
    again = isinstance(jobs, Workers) and jobs.conditions.again
    wanted = {run.key: run for run in runs}
    titles = dict(zip(wanted, distinct_titles(wanted.values()), strict=True))  # also among those that are done already
    waiting = {key: run for key, run in wanted.items() if again or not store.is_finished(key)}
    tasks = []
    for run in waiting.values():
        if ":" in run.device and not (isinstance(jobs, Workers) and jobs.scheduler):
            check_device(run.device, _local_jobs(jobs, len(waiting)))
    for key, run in waiting.items():
        arguments = (run.as_dict(), key, str(folder)) + (() if work else (run.__dict__.get("fingerprint", ""),))
        look = partial(_look, store, key, store.record(key))
        tasks.append(Task(key, titles[key], work or do_run, arguments, look, partial(deaths, store, key)))
    lost = {}
    with _open(jobs, len(tasks)) as workers, _stopper(folder, store, set(waiting)) as stop:
        for task, outcome in _do_all(workers, tasks, stop, "runs", len(runs) - len(waiting), progress):
            if outcome.get("unrecorded"):
                lost[task.name] = _record_loss(waiting[task.name], store, outcome)
            elif again and outcome["state"] == FAILED:  # what was finished before stays so
                lost[task.name] = failure(waiting[task.name], outcome["kind"], outcome["reason"])
    return [lost.get(run.key) or store.record(run.key) or _unknown(run) for run in runs]


def _look(store: Store, key: str, before: dict | None) -> dict | None:
    """The outcome of a run by its record, if that is another one than before."""
    record = store.record(key)
    if record is None or record == before or (record["status"] == FINISHED and not store.is_finished(key)):
        return None
    return {"state": record["status"], "kind": record.get("kind", ""), "reason": record.get("reason", "")}


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
        if jobs is not None and jobs < 1:
            raise InputError(f"jobs={jobs}: at least one run at once.")
        with Workers(_local_jobs(jobs, tasks)) as workers:
            yield workers


def _local_jobs(jobs: int | Workers | None, tasks: int) -> int:
    """How many workers a batch has on this machine: those that were given, or no more than there are tasks."""
    if isinstance(jobs, Workers):
        return jobs.jobs or default_jobs()
    return max(1, min(jobs or default_jobs(), tasks))


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
    asked = shlex.join(sys.argv)
    with Bar(what, done, len(tasks), progress) as bar:
        if tasks:
            conditions = replace(workers.conditions, stop=str(stop), command=workers.conditions.command or asked)
            yield from _Dispatch(workers, tasks, conditions, bar, what).outcomes()


class _Dispatch:
    """Gives the tasks of a batch to the workers, and again whenever workers, scheduler or the way to them were lost."""

    def __init__(self, workers: Workers, tasks: list[Task], conditions: Conditions, bar: Bar, what: str):
        self.workers, self.conditions, self.bar, self.what = workers, conditions, bar, what
        self.open = {task.name: task for task in tasks}
        self.given: dict[str, tuple[Task, object]] = {}  # the future's key -> the task and its future
        self.ended: queue.SimpleQueue = queue.SimpleQueue()
        self.resources: dict | None = None
        self.waiting_since: float | None = None  # when work became impossible
        self.said, self.looked = "", monotonic()
        self.say_again = 0.0

    def outcomes(self) -> Iterator[tuple[Task, dict]]:
        """Each task with its outcome when it has ended."""
        client = self.workers.client
        if dashboard := self.workers.dashboard():
            self.bar.say(f"Dask's dashboard: {dashboard}")
        self.pulse = _Pulse(self.workers, client)
        try:
            for task in self.open.values():
                self._give(task)
            while self.open:
                for task, outcome in [*self._news(), *self._found_in_the_store()]:
                    if self.open.pop(task.name, None):
                        self.bar.ended(task.title, outcome)
                        yield task, outcome
                self._watch_the_cluster()
        finally:
            self.pulse.left.set()
            if self.given and self.pulse.silent() < SILENCE:
                with suppress(Exception):  # the scheduler may be what has failed
                    self.workers.client.cancel([future for _, future in self.given.values()], force=True)

    def _give(self, task: Task, priority: int = 0) -> None:
        if self.resources is None:
            self.resources = self.workers.resources()
        key = f"{task.work.__name__}-{uuid.uuid4().hex}"
        options = {"key": key, "pure": False, "resources": self.resources or None, "priority": priority}
        future = self.workers.client.submit(task.work, *task.arguments, self.conditions, **options)
        self.given[key] = (task, future)
        future.add_done_callback(self.ended.put)

    def _news(self) -> Iterator[tuple[Task, dict]]:
        """What has ended, waiting up to a second for it. A task that was lost is given again when that is possible."""
        try:
            ended = [self.ended.get(timeout=1)]
        except queue.Empty:
            ended = []
        with suppress(queue.Empty):
            while True:
                ended.append(self.ended.get_nowait())
        for future in ended:
            task, _ = self.given.pop(future.key, (None, None))
            if task is None or task.name not in self.open:
                continue
            outcome = _outcome(future, task) or task.look()
            if outcome is None:
                continue  # lost: it is open, and given to nobody
            if outcome["state"] == BUSY:
                self._give(task, priority=-1)
            else:
                yield task, outcome

    def _found_in_the_store(self) -> Iterator[tuple[Task, dict]]:
        """What has ended without a word to the batch; looked for now and then, and before it waits."""
        every = LOOK_EVERY if self.waiting_since is None else LOOK_WAITING
        if monotonic() - self.looked < every:
            return
        begin = monotonic()
        for task in list(self.open.values()):
            if outcome := task.look():
                for key in [key for key, (given, _) in self.given.items() if given is task]:
                    self.given.pop(key)[1].release()
                yield task, outcome
        self.looked = monotonic() + 10 * (monotonic() - begin)  # a slow disk is asked less often

    def _watch_the_cluster(self) -> None:
        """Say what the batch waits for, end it when patience does, and give out again what was lost."""
        reached = self.workers.reach()
        if reached and self.pulse.client is not self.workers.client:
            self.pulse.left.set()
            self.pulse = _Pulse(self.workers, self.workers.client)
        for key in [key for key, (_, future) in self.given.items() if future.status in ("cancelled", "lost")]:
            del self.given[key]
        asleep = {task.name for task, _ in self.given.values()}
        lost = [task for name, task in self.open.items() if name not in asleep]
        if reached and lost and self.pulse.silent() < SILENCE:
            self.resources = None  # the workers may be others now
            self.bar.say(f"{len(lost)} {self.what} were lost with workers or scheduler and are given out again.")
            with suppress(OSError, RuntimeError):  # lost once more: what was not given stays open
                for task in lost:
                    self._give(task)
        trouble = self._trouble(reached)
        now = monotonic()
        if not trouble:
            if self.said:
                self.bar.alarm("Workers are here again: the batch goes on.")
            self.waiting_since, self.said = None, ""
            return
        if self.waiting_since is None:
            self.waiting_since, self.looked = now, -LOOK_WAITING  # look before waiting
        if now - self.waiting_since > self.workers.patience:
            raise InputError(
                f"{trouble} It has been so for {_minutes(self.workers.patience)}: {len(self.open)} {self.what} are "
                "left. What is finished is kept; start scheduler and workers as the README says, and call again."
            )
        if now - self.waiting_since > SILENCE and (trouble != self.said or now > self.say_again):
            left = self.workers.patience - (now - self.waiting_since)
            self.bar.alarm(
                f"{trouble} {len(self.open)} {self.what} wait; the batch ends in {_minutes(left)} if it stays so."
            )
            self.said, self.say_again = trouble, now + REMINDER

    def _trouble(self, reached: bool) -> str:
        """Why nothing can be done now, in a sentence; "" where something can."""
        if not reached or self.pulse.silent() > SILENCE:
            return f"The scheduler {self.workers.address()} does not answer."
        self.bar.show(sum(offer.get("slots", 0) for offer in self.pulse.offers))
        able = [offer for offer in self.pulse.offers if all(offer.get(name) for name in self.resources or ())]
        if not self.pulse.offers:
            return "No worker is here."
        return "" if able else f"No worker here offers {' and '.join(self.resources)}, which the {self.what} ask for."


class _Pulse(threading.Thread):
    """Asks the scheduler every second what its workers offer; a thread, because the answer may take as long as it
    takes a connection to be given up.

    offers: of each worker its resources, and its slots as "slots".
    """

    def __init__(self, workers: Workers, client):
        super().__init__(daemon=True, name="pulse")
        self.workers, self.client, self.left = workers, client, threading.Event()
        self.offers: list[dict] = [{}]  # until it is known better
        self.answered = monotonic()
        self.start()

    def run(self) -> None:
        while not self.left.wait(1):
            with suppress(Exception):  # whatever it is: no answer
                self.offers = self.workers.offers(self.client)
                self.answered = monotonic()

    def silent(self) -> float:
        """Seconds since the last answer."""
        return monotonic() - self.answered


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _outcome(future, task: Task) -> dict | None:
    """What became of a task, also where its worker could not say it; None if it was lost on the way."""
    from distributed import KilledWorker

    if future.status in ("cancelled", "lost"):
        return None
    returned = future.status == "finished"
    try:
        return future.result(timeout=GATHER_SECONDS)
    except KilledWorker as error:
        died = task.deaths()
        if died is not None and died < DEATHS:  # the others were not killed: the way to them was lost
            return None
        worker = getattr(error.last_worker, "address", error.last_worker)
        reason = f"Several workers ended, or were ended, under this run; the last was {worker}."
        return {"state": FAILED, "kind": "worker died", "reason": reason, "unrecorded": True}
    except Exception as error:  # whatever it was, it is this task's and not the batch's
        if returned or future.status in ("cancelled", "lost", "pending"):
            return None  # the work has ended, and its outcome was lost with its worker
        kind = "disk full" if isinstance(error, OSError) and "No space left" in str(error) else "error"
        lines = str(error).strip().splitlines() or [""]
        reason = f"{type(error).__name__}: {lines[0]}"
        return {"state": FAILED, "kind": kind, "reason": reason, "unrecorded": True}


def _record_loss(run: Run, store: Store, outcome: dict) -> dict:
    """A run failed, and its worker could not record it: do so, if the disk lets us; returns the record."""
    record = failure(run, outcome["kind"], outcome["reason"])
    with suppress(OSError, Busy), store.claim(run.key, wait=0) as folder:
        if folder is not None:  # else another process has finished it meanwhile
            store.write_failure(folder, record)
    found = store.record(run.key)
    return found or record


def _unknown(run: Run) -> dict:
    """A run that ended and whose record is gone at once: its folder was deleted or damaged under the batch."""
    return failure(run, "error", "The run has ended, but its record cannot be read.")
