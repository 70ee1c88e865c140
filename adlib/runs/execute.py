"""Execute one run: papermill on 01_run.ipynb in a fresh kernel, into the store.

As a program, `python -m adlib.runs.execute STORE` reads a run as JSON from standard input, with `--notebook NAME OUT` a
notebook's parameters; batches start one such process per run, so that whatever happens to it happens to it alone.
"""

import json
import os
import signal
import sys
import tempfile
from pathlib import Path

from adlib.errors import InputError
from adlib.runs.environment import REPOSITORY, notebook
from adlib.runs.record import FAILED, FINISHED, failure
from adlib.runs.run import Run
from adlib.runs.store import Store


def execute(run: Run, store: Store, progress: bool = True) -> dict:
    """Do a run, unless the store has it, and return its record.

    A run that fails is recorded as failed, with its notebook up to the error. Wrong input (a missing folder, an
    unknown parameter) raises InputError before anything is begun.
    """
    key = run.key
    with store.claim(key) as folder:
        if folder is not None:
            try:
                execute_notebook("01_run", folder / "run.ipynb", run.as_dict() | {"out": str(folder)}, progress)
            except NotebookFailed as error:
                store.write_failure(folder, failure(run, error.kind, error.reason))
    record = store.record(key)
    if record is None:
        raise RuntimeError(f"{run.title} left no record in {store.path(key)}.")
    return record


class NotebookFailed(RuntimeError):
    """A notebook did not run through. kind: "wrong input", "error", "kernel died", "timed out"; reason: one line."""

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind, self.reason = kind, reason


def execute_notebook(name: str, out: Path, parameters: dict, progress: bool = True) -> Path:
    """Execute a notebook of the repository with papermill in a fresh kernel; the result is written to `out`.

    parameters: replace those in the notebook's cell tagged `parameters`.
    Raises NotebookFailed when a cell raises or the kernel dies; what was executed until then is in `out`.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    # The kernel must import the adlib that runs here, in this interpreter, whatever else is installed.
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    paths = [str(REPOSITORY), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    # Progress bars belong to the terminal: in a stored notebook they would be dead widgets.
    parameters = parameters | {"progress": False}
    try:
        # The kernel talks through sockets in a folder of its own, not through TCP ports, which every user of the
        # machine could reach; the folder's short name keeps them below the system's limit of about 100 characters.
        with tempfile.TemporaryDirectory(prefix="adlib-") as sockets:
            papermill.execute_notebook(
                str(notebook(name)),
                str(out),
                parameters,
                kernel_name="python3",
                progress_bar=progress,
                log_output=False,
                start_timeout=300,  # a busy machine may take minutes to start a dozen kernels at once
                cwd=str(REPOSITORY / "notebooks"),
                config=Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}}),
            )
    except PapermillExecutionError as error:
        lines = str(error.evalue).strip().splitlines() or [""]
        if error.ename == InputError.__name__:
            raise NotebookFailed("wrong input", lines[0]) from error
        raise NotebookFailed("error", f"{error.ename}: {lines[0]}") from error
    except DeadKernelError as error:
        raise NotebookFailed("kernel died", "The kernel died (out of memory, or killed from outside).") from error
    except CellTimeoutError as error:
        raise NotebookFailed("timed out", str(error).splitlines()[0]) from error
    return out


def main() -> int:
    """Exit status 0 when the run is finished in the store (the notebook ran through), 1 when it failed."""
    # A batch that is interrupted sends SIGTERM: end as after an exception, so that the kernel and its files go too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    given = json.load(sys.stdin)
    if sys.argv[1] == "--notebook":
        try:
            execute_notebook(sys.argv[2], Path(sys.argv[3]), given, progress=False)
        except NotebookFailed as error:
            print(error.reason, file=sys.stderr)
            return 1
        return 0
    run = Run(**given)
    record = execute(run, Store(sys.argv[1]), progress=False)
    if record["status"] == FAILED:
        print(record["reason"], file=sys.stderr)
    return 0 if record["status"] == FINISHED else 1


if __name__ == "__main__":
    sys.exit(main())
