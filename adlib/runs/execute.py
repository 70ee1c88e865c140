"""Execute one run: papermill on 01_run.ipynb in a kernel process of its own, into the store.

Nothing here imports torch: the kernel does.
"""

import json
import os
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from adlib.errors import InputError
from adlib.file_hashes import file_hash
from adlib.files import read_json
from adlib.predictions import seal
from adlib.runs import kernels
from adlib.runs.environment import REPOSITORY, allow_open_files, notebook, oom_kills
from adlib.runs.record import FINISHED, failure, write_json, write_record
from adlib.runs.run import Run
from adlib.runs.store import Store

# Kinds of failure that may not come again, because they depend on what else the machine does.
WORTH_A_RETRY = ("kernel died", "stalled", "out of memory", "out of GPU memory")
START_SECONDS = 300  # a busy machine may take minutes to start a dozen kernels at once
IDLE = 0.005  # of a processor: a kernel that uses less does nothing
BUSY_LIMITS = 48  # how many times longer a kernel may be silent that computes
LEAVING = threading.Event()  # set when this process is about to end: what it executes is interrupted
# Where a name says enough; other exceptions are of the kind "error".
KINDS = {
    InputError.__name__: "wrong input",
    "TrainingDiverged": "diverged",
    "MemoryError": "out of memory",
    "_ArrayMemoryError": "out of memory",
    "OutOfMemoryError": "out of GPU memory",
}
SENTENCES = {
    "DefaultCPUAllocator": "out of memory",
    "Cannot allocate memory": "out of memory",
    "CUDA out of memory": "out of GPU memory",
    "CUDA error: out of memory": "out of GPU memory",
    "No space left on device": "disk full",
}
# What changes no number has been tried by then (adlib.gpu_memory).
SMALLER = (
    "A smaller batch_size or size, or precision=bfloat16, needs less memory but gives other numbers, so it is for you "
    "to choose."
)


@dataclass(frozen=True)
class Conditions:
    """How a run is executed; nothing here changes its numbers.

    time_limit: seconds for the whole run, None for no limit. retries: further attempts after a failure of a kind that
    may not come again. maps: whether anomaly maps stay in the store. wait: seconds to wait for another process that
    works on the same run, -1 for ever. stop: a file; when it appears, the run is interrupted. cache: a folder in which
    runs share decoded images and frozen features, "" for none, and the bytes that it may hold. stall_limit: seconds
    after which a kernel that hangs is ended: one that begins no cell, writes no file and uses no processor; one that
    uses a processor may be as silent for BUSY_LIMITS times as long. None for no such limit. again: whether a run that
    is finished is done once more; it is replaced by one that finishes, never by one that fails.
    """

    time_limit: float | None = None
    retries: int = 1
    maps: bool = True
    wait: float = -1
    stop: str = ""
    cache: str = ""
    cache_limit: float = 20e9
    stall_limit: float | None = 1800.0
    again: bool = False


class NotebookFailed(RuntimeError):
    """A notebook did not run through.

    kind: "wrong input" (a parameter, or data that are gone), "error" (any other exception), "diverged" (a loss that is
    not finite), "out of memory", "out of GPU memory", "disk full", "kernel died", "stalled" (it hung), "time limit",
    "interrupted".
    reason: one line. worked: whether any cell had worked by then, that of the parameters apart.
    """

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind, self.reason = kind, reason
        self.worked = True


def execute(
    run: Run,
    store: Store,
    progress: bool = True,
    key: str = "",
    conditions: Conditions = Conditions(),
    server: kernels.KernelServer | None = None,
    fingerprint: str = "",
    keep_mistakes: bool = True,
) -> dict:
    """Do a run, unless the store has it, and return its record.

    key, fingerprint: of the run and of its data, where they are known already: from then on nothing here reads the
    data, so that a run whose data have changed or gone is recorded as failed at once, under the key planned.
    server: forks the kernel, else it is started as a program.
    A run that fails is recorded as failed, with its notebook up to the error. keep_mistakes: False for a run that
    somebody has just typed: what fails of wrong input, or before the first cell has worked, leaves nothing behind and
    raises InputError, or NotebookFailed. Without a key wrong input (a missing folder, an unknown parameter) raises
    InputError before anything is begun, in either case. Raises Busy as `Store.claim` does, NotebookFailed of
    the kind "interrupted" after an interruption, which leaves no record, and OSError when not even a record can be
    written.
    """
    if not key:
        run.check_settings()
        run.fetch_weights()
        key, fingerprint = run.key, run.fingerprint
    store.check_writable()
    failed = None
    with store.claim(key, conditions.wait, conditions.again) as folder:
        if folder is not None:
            folder = folder.resolve()
            attempts = Attempts(folder)
            for left in range(conditions.retries, -1, -1):
                attempts.begin()
                error = _attempt(run, key, folder, progress, conditions, server, fingerprint)
                if error is None:
                    _complete(folder, attempts.earlier, conditions.maps)
                    break
                attempts.end(error)
                if error.kind == "interrupted":
                    raise error
                if not keep_mistakes and error.kind == "wrong input":
                    raise InputError(error.reason)
                if not keep_mistakes and not error.worked:
                    raise error
                if error.kind not in WORTH_A_RETRY or not left:
                    failed = _record_failure(run, store, folder, error, attempts.earlier[:-1], fingerprint)
                    break
    record = store.record(key)
    if failed and record and record["status"] == FINISHED:  # done again, and the one before stays
        record = failed
    if record is None:
        raise RuntimeError(f"{run.title} left no record in {store.path(key)}.")
    return record


def _attempt(
    run: Run, key: str, folder: Path, progress: bool, conditions: Conditions, server, fingerprint: str
) -> NotebookFailed | None:
    """Execute the notebook of a run once; returns how it failed, or None."""
    given = run.as_dict() | {"out": str(folder), "cache": conditions.cache, "cache_limit": conditions.cache_limit}
    try:
        execute_notebook("01_run", folder / "run.ipynb", given, progress, folder / "run.log", conditions, server)
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        if record["key"] != key:
            (folder / "record.json").unlink()
            same_data = fingerprint and record["data"]["fingerprint"] == fingerprint
            what = "Weights or a method's parameters" if same_data else "Data or weights"
            raise NotebookFailed("data changed", f"{what} have changed since the run was planned: plan again.")
    except NotebookFailed as error:
        (folder / "record.json").unlink(missing_ok=True)  # the notebook failed behind its last cell
        return error
    except InputError as error:  # of this machine: no room for sockets, too few files
        failed = NotebookFailed("wrong input", str(error))
        failed.worked = False
        return failed
    except OSError as error:
        return _of_disk(error)
    return None


def _complete(folder: Path, earlier: list[dict], maps: bool) -> None:
    """Add to the record what its kernel cannot know: earlier attempts, and the sizes of the files beside it."""
    for left in folder.glob("checkpoint*"):
        left.unlink()
    if not maps:
        (folder / "predictions" / "maps.npy").unlink(missing_ok=True)
        seal(folder / "predictions")
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    files = {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}
    kept = {name: size for name, size in files.items() if name == "run.ipynb" or name.startswith("predictions/")}
    record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    hashes = {name: file_hash(folder / name) for name in kept}
    write_record(folder, record | {"attempts": earlier, "files": kept, "sha256": hashes})


def _record_failure(
    run: Run, store: Store, folder: Path, error: NotebookFailed, earlier: list[dict], fingerprint: str = ""
) -> dict:
    """Leave the record of a failed run in its claimed folder, on a full disk without its notebook; returns the record.

    Whatever the run failed of may be gone by now: nothing of it is asked again, not even the key.
    """
    if error.kind not in ("time limit", *WORTH_A_RETRY):  # from a checkpoint it would fail in the same way again
        for file in folder.glob("checkpoint*"):
            file.unlink()
    if error.kind == "disk full":
        for entry in folder.iterdir():
            shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink()
    record = failure(run, error.kind, error.reason, store.claimed_key(folder), fingerprint)
    record |= {"attempts": earlier}
    store.write_failure(folder, record)
    return record


def deaths(store: Store, key: str) -> int | None:
    """How many workers are known to have died under a run that is not finished; None if nothing is known of it."""
    file = store.partial(key) / "attempts.json"
    if not file.is_file():
        return None
    known = Attempts.read(file)
    running = known["now"] and key in store.running()
    return sum(attempt["kind"] == "worker died" for attempt in known["earlier"]) + bool(known["now"] and not running)


class Attempts:
    """What is known of earlier attempts at a run, in a file of its folder that a kill leaves behind.

    earlier: a dictionary per attempt that failed: kind, reason, ended.
    """

    def __init__(self, folder: Path):
        self.file = folder / "attempts.json"
        known = self.read(self.file)
        self.earlier: list[dict] = known["earlier"]
        if known["now"]:
            where = "process {process} on {host}".format(**known["now"])
            self._add("worker died", f"The worker ({where}) ended, or was ended, before the run did.")

    @staticmethod
    def read(file: Path) -> dict:
        """What a kill has left: "earlier", and "now", the process that was at it; nothing where it is no such file."""
        try:
            known = read_json(file)
            earlier = [{name: str(one[name]) for name in ("kind", "reason", "ended")} for one in known["earlier"]]
            now = known["now"] and {name: known["now"][name] for name in ("host", "process")}
        except (InputError, KeyError, TypeError, IndexError):
            return {"earlier": [], "now": None}
        return {"earlier": earlier, "now": now}

    def begin(self) -> None:
        """A new attempt, by this process."""
        now = {"host": socket.gethostname(), "process": os.getpid(), "started": _now()}
        self._write({"earlier": self.earlier, "now": now})

    def end(self, error: NotebookFailed) -> None:
        """The attempt has failed."""
        self._add(error.kind, error.reason)
        self._write({"earlier": self.earlier, "now": None})

    def _add(self, kind: str, reason: str) -> None:
        self.earlier.append({"kind": kind, "reason": reason, "ended": _now()})

    def _write(self, content: dict) -> None:
        try:
            write_json(self.file, content)
        except (OSError, InputError):  # a full disk, a folder of that name: what there is to say, the record will
            with suppress(OSError):
                self.file.unlink(missing_ok=True)


def execute_notebook(
    name: str,
    out: Path,
    parameters: dict,
    progress: bool = True,
    log: Path | None = None,
    conditions: Conditions = Conditions(),
    server: kernels.KernelServer | None = None,
) -> Path:
    """Execute a notebook of the repository with papermill in a fresh kernel; the result is written to `out`.

    parameters: replace those in the notebook's cell tagged `parameters`. log: a line per cell is added to this file,
    and what the kernel prints beside its cells. server: forks the kernel, else it is started as a program.
    Raises NotebookFailed when a cell raises or the kernel dies; what was executed until then is in `out`.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    # The kernel must import the adlib that runs here, in this interpreter, whatever else is installed.
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    paths = [str(REPOSITORY), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    allow_open_files(1)
    log = log or Path(os.devnull)
    imports = [f"adlib.models.{parameters['method']}"] if "method" in parameters else []
    started: list = []
    killed_before, watch = oom_kills(), Watch(started, conditions, out.parent)
    try:
        # The kernel talks through sockets in a folder of its own, not through TCP ports, which every user of the
        # machine could reach; the folder's short name keeps them below the system's limit of about 100 characters.
        with tempfile.TemporaryDirectory(prefix="adlib-", dir=_short_folder()) as sockets, watch:
            papermill.execute_notebook(
                str(notebook(name)),
                str(out),
                parameters | {"progress": False},  # bars are for terminals: in a stored notebook they would be dead
                kernel_name="python3",
                progress_bar=progress,
                log_output=False,
                start_timeout=START_SECONDS,
                cwd=str(REPOSITORY / "notebooks"),
                config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
                kernel_manager_class=kernels.kernel_manager(server, log, imports, started),
                shutdown_kernel="immediate",  # all that it has to leave is on disk
                on_cell_start=_cell_logger(log, watch),
            )
    except (PapermillExecutionError, DeadKernelError, RuntimeError) as error:
        if isinstance(error, PapermillExecutionError):
            failed = _of_exception(error.ename, str(error.evalue))
        elif watch.reason:
            failed = NotebookFailed(watch.kind, watch.reason)
        elif "Kernel didn't respond" in str(error):
            failed = NotebookFailed("stalled", f"The kernel gave no sign of life for {START_SECONDS} s.")
        elif isinstance(error, DeadKernelError) or "Kernel died" in str(error):
            failed = _of_death(started[-1].wait(5) if started else None, oom_kills() > killed_before)
        else:
            raise
        failed.worked = watch.cells > len(("parameters", "injected-parameters", "the one that failed"))
        raise failed from error
    _log(log, "done")
    return out


SOCKET_ROOM = 107 - len("/adlib-12345678/kernel-5")  # of the 107 characters that the path of a socket may have


def _short_folder() -> str | None:
    """A folder for sockets: None for the system's temporary one, unless its name is too long for them.

    Raises InputError where no folder is short enough.
    """
    folders = [tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm", "/tmp", "/var/tmp"]
    for folder in filter(None, folders):
        if len(os.fsencode(folder)) <= SOCKET_ROOM and os.access(folder, os.W_OK):
            return folder
    raise InputError(
        f"{folders[0]} is too long a name for sockets ({SOCKET_ROOM} characters), and /tmp cannot be written: set "
        "TMPDIR to a shorter folder."
    )


class Watch(threading.Thread):
    """Ends the kernel when its time is over, when it hangs, or when the file appears that asks for it; `kind` and
    `reason` say why. folder: where the kernel writes.
    """

    def __init__(self, started: list, conditions: Conditions, folder: Path):
        super().__init__(daemon=True, name="watch")
        self.started, self.conditions, self.folder, self.left = started, conditions, folder, threading.Event()
        self.kind = self.reason = ""
        self.cell = self.cells = 0  # the place of the cell under way in the notebook, and how many with code have begun

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.left.set()

    def run(self) -> None:
        begin, limit = time.monotonic(), self.conditions.time_limit
        signs = _Signs(self)
        while not self.left.wait(0.5):
            if limit is not None and time.monotonic() - begin > limit:
                self.kind, self.reason = "time limit", f"The run took longer than its limit of {limit:g} s."
            elif self.conditions.stop and Path(self.conditions.stop).exists():
                self.kind, self.reason = "interrupted", "The batch was interrupted."
            elif LEAVING.is_set():
                self.kind, self.reason = "interrupted", "The worker lost its scheduler, or was asked to leave."
            elif self.started and (reason := signs.missing(self.conditions.stall_limit)):
                self.kind, self.reason = "stalled", reason
            if self.reason and self.started:
                self.started[-1].kill()
                return


class _Signs:
    """Signs of life of the kernel under a watch: cells begun, files written, and processor time."""

    def __init__(self, watch: Watch):
        self.watch = watch
        self.progress, self.progressed = None, time.monotonic()  # cell and files, and since when they are the same
        self.used, self.worked, self.asked = 0.0, time.monotonic(), 0.0  # processor seconds, and when they last grew

    def missing(self, limit: float | None) -> str:
        """Why the kernel must be thought to hang, in a sentence; "" if it need not be."""
        now = time.monotonic()
        if limit is None or now - self.asked < min(10.0, limit / 10):
            return ""
        self.asked = now
        if (progress := (self.watch.cell, _newest(self.watch.folder))) != self.progress:
            self.progress, self.progressed, self.worked = progress, now, now
        used = kernels.processor_seconds(self.watch.started[-1].pid)
        if used is None:  # this system does not say: only the long limit can be held
            self.worked = now
        elif used - self.used > IDLE * (now - self.worked):
            self.used, self.worked = used, now
        where = f"in cell {self.watch.cell}"
        if now - self.worked > limit:
            return f"The kernel hung {where}: no file written and no processor used for {limit:g} s."
        if now - self.progressed > BUSY_LIMITS * limit:
            return f"The kernel hung {where}: it computed for {BUSY_LIMITS * limit:g} s and wrote no file."
        return ""


def _newest(folder: Path) -> float:
    """When something was last written in a folder, such as a checkpoint."""
    newest = 0.0
    with suppress(OSError):
        for entry in folder.iterdir():
            with suppress(OSError):  # renamed meanwhile
                newest = max(newest, entry.stat().st_mtime)
    return newest


def _of_exception(name: str, text: str) -> NotebookFailed:
    """What a notebook failed with: the exception's name and text."""
    lines = text.strip().splitlines() or [""]
    kind = KINDS.get(name) or next((kind for part, kind in SENTENCES.items() if part in text), "error")
    reason = lines[0] if kind in ("wrong input", "diverged") else f"{name}: {lines[0]}"
    return NotebookFailed(kind, reason + (f" {SMALLER}" if kind == "out of GPU memory" else ""))


def _of_death(status: int | None, memory_was_short: bool) -> NotebookFailed:
    """What the kernel ended of: its exit status, negative for a signal; whether the system ended processes meanwhile
    because memory was short.
    """
    if status == -signal.SIGKILL and memory_was_short:
        return NotebookFailed("out of memory", "The system ended the kernel because memory was short.")
    if status is not None and status < 0:
        return NotebookFailed("kernel died", f"The kernel was ended by signal {-status} ({_signal_name(-status)}).")
    return NotebookFailed("kernel died", f"The kernel ended by itself, with exit status {status}.")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _of_disk(error: OSError) -> NotebookFailed:
    """The worker itself could not write, or read what it wrote."""
    kind = "disk full" if "No space left" in str(error) or "quota" in str(error) else "error"
    return NotebookFailed(kind, f"{type(error).__name__}: {error}")


def _cell_logger(log: Path, watch: Watch) -> Callable:
    """A function for nbclient that logs which cell begins, and tells the watch."""

    def on_cell_start(cell, cell_index: int) -> None:
        watch.cell = cell_index
        if cell.cell_type == "code" and cell.source.strip():
            watch.cells += 1
            _log(log, f"cell {cell_index}: {cell.source.strip().splitlines()[0]}")

    return on_cell_start


def _log(log: Path, text: str) -> None:
    try:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"{_now()} {text}\n")
    except OSError:  # a full disk: the run itself will fail with it and say so
        pass


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
