"""Execute one run: papermill on 01_run.ipynb in a kernel process of its own, into the store.

Nothing here imports torch: the kernel does (and the advice for a GPU whose memory was short).
"""

import contextlib
import errno
import json
import os
import shlex
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from adlib.errors import InputError
from adlib.file_hashes import file_hash
from adlib.predictions import drop_maps
from adlib.runs import kernels
from adlib.runs.attempts import Attempts, now
from adlib.runs.conditions import USUAL, Conditions
from adlib.runs.environment import COMMAND, REPOSITORY, allow_open_files, code, notebook, oom_kills
from adlib.runs.failures import WORTH_A_RETRY, NotebookFailed, of_death, of_disk, of_exception
from adlib.runs.record import FINISHED, failure, write_record
from adlib.runs.run import Run
from adlib.runs.store import Store
from adlib.runs.watch import Watch

START_SECONDS = 300  # a busy machine may take minutes to start a dozen kernels at once, or to hear of one


def execute(
    run: Run,
    store: Store,
    progress: bool = True,
    key: str = "",
    conditions: Conditions = USUAL,
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
    os.environ[COMMAND] = conditions.command or shlex.join(sys.argv)  # of this very process, whose kernels inherit it
    code()  # for the record of a failure: that of now, whatever becomes of the files meanwhile
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
        return of_disk(error)
    return None


def _complete(folder: Path, earlier: list[dict], maps: bool) -> None:
    """Add to the record what its kernel cannot know: earlier attempts, and the sizes of the files beside it."""
    for left in folder.glob("checkpoint*"):
        left.unlink()
    if not maps:
        drop_maps(folder / "predictions")
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


def execute_notebook(
    name: str,
    out: Path,
    parameters: dict,
    progress: bool = True,
    log: Path | None = None,
    conditions: Conditions = USUAL,
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

    from adlib.runs import engine

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
        folder = _short_folder()
        _remove_left_sockets(Path(folder or tempfile.gettempdir()))
        with tempfile.TemporaryDirectory(prefix="adlib-", dir=folder) as sockets, watch:
            papermill.execute_notebook(
                str(notebook(name)),
                str(out),
                parameters | {"progress": False},  # bars are for terminals: in a stored notebook they would be dead
                engine_name=engine.NAME,
                kernel_name="python3",
                progress_bar=progress,
                log_output=False,
                start_timeout=START_SECONDS,
                iopub_timeout=START_SECONDS,  # what a cell has shown may be long on its way, too
                cwd=str(REPOSITORY / "notebooks"),
                config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
                kernel_manager_class=kernels.kernel_manager(server, log, imports, started),
                shutdown_kernel="immediate",  # all that it has to leave is on disk
                on_cell_start=_cell_logger(log, watch),
            )
    except (PapermillExecutionError, DeadKernelError, RuntimeError) as error:
        if isinstance(error, PapermillExecutionError):
            failed = of_exception(error.ename, str(error.evalue), parameters.get("method", ""))
        elif watch.reason:
            failed = NotebookFailed(watch.kind, watch.reason)
        elif "Kernel didn't respond" in str(error):
            failed = NotebookFailed("stalled", f"The kernel gave no sign of life for {START_SECONDS} s.")
        elif isinstance(error, DeadKernelError) or "Kernel died" in str(error):
            failed = of_death(started[-1].wait(5) if started else None, oom_kills() > killed_before)
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


def _remove_left_sockets(folder: Path) -> None:
    """Remove what runs that were killed have left there: folders of nothing but sockets at which nobody listens."""
    for left in folder.glob("adlib-????????"):  # as tempfile names them
        with contextlib.suppress(OSError):  # another user's, or another run removes it
            old, files = left.stat().st_mtime < time.time() - 60, list(left.iterdir())
            if old and files and all(map(_is_dead, files)):
                for file in files:
                    file.unlink()
                left.rmdir()


def _is_dead(file: Path) -> bool:
    if not file.is_socket():
        return False
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(1)
        return asking.connect_ex(str(file)) == errno.ECONNREFUSED


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
            file.write(f"{now()} {text}\n")
    except OSError:  # a full disk: the run itself will fail with it and say so
        pass
