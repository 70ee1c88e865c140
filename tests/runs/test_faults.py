"""Faults: whatever is killed, cut, filled up or taken away, finished runs stay whole, the others are done again, and no
record says what is not so. `make drill` does the same for longer, at random.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import psutil
import pytest
from conftest import REPOSITORY, finished_record, make_tree
from papermill.exceptions import PapermillExecutionError
from test_batch import leaves_a_record, quick_runs

from adlib import InputError
from adlib.runs import Run, Store
from adlib.runs.attempts import Attempts
from adlib.runs.batch import run_all
from adlib.runs.conditions import Conditions
from adlib.runs.execute import _short_folder, execute, execute_notebook
from adlib.runs.failures import WORTH_A_RETRY, NotebookFailed, of_exception
from adlib.runs.kernels import KernelServer, can_fork
from adlib.runs.record import FAILED, write_json
from adlib.runs.workers import Workers

KEY = "0" * 16

# The store, without any kernel


def write_run(store: Store) -> None:
    with store.claim(KEY) as folder:
        if folder is not None:
            (folder / "predictions").mkdir()
            (folder / "predictions" / "maps.npy").write_bytes(b"12345678")
            (folder / "run.ipynb").write_text("{}")
            record = finished_record(KEY, files={"predictions/maps.npy": 8, "run.ipynb": 2})
            write_json(folder / "record.json", record)


def crash_at(event: int, work: Callable) -> bool:
    """Do the work in a fork that ends, as by kill -9, at its n-th access to the disk; returns whether it got so far."""
    pid = os.fork()
    if pid == 0:
        left = event

        def hook(name: str, _) -> None:
            nonlocal left
            if name in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir"):
                left -= 1
                if left < 0:
                    os._exit(9)

        sys.addaudithook(hook)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


def leave_nothing(store: Store) -> None:
    pass


def leave_a_failed_run(store: Store) -> None:
    with store.claim(KEY) as folder:
        store.write_failure(folder, finished_record(KEY, status=FAILED, kind="error", reason="before"))


def leave_a_cut_run(store: Store) -> None:
    write_run(store)
    (store.path(KEY) / "predictions" / "maps.npy").write_bytes(b"1")


def leave_a_killed_run(store: Store) -> None:
    crash_at(12, lambda: write_run(store))


KILLED = pytest.param(leave_a_killed_run, marks=pytest.mark.slow)


@pytest.mark.parametrize("before", [leave_nothing, leave_a_failed_run, leave_a_cut_run, KILLED])
def test_a_crash_at_any_instant_leaves_a_finished_run_or_one_that_is_done_again(tmp_path, before):
    for event in count():
        store = Store(tmp_path / str(event))
        before(store)
        crashed = crash_at(event, lambda store=store: write_run(store))
        if store.is_finished(KEY):
            assert (store.path(KEY) / "predictions" / "maps.npy").read_bytes() == b"12345678"
        assert crashed or store.is_finished(KEY)
        write_run(store)
        assert store.is_finished(KEY)
        assert [entry.name for entry in store.folder.iterdir() if entry.name != ".locks"] == [KEY]
        if not crashed:
            break
    assert event > 10  # the work has as many instants at least


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", "{}", "[" * 9999, '{"earlier": 3, "now": null}', '{"earlier": [3], "now": null}'),
        *('{"earlier": [{"kind": "error"}], "now": null}', '{"earlier": [], "now": {"host": 1}}', "folder", "pipe"),
    ],
)
def test_a_file_of_attempts_of_any_shape_tells_nothing_and_stops_nothing(tmp_path, content):
    file = tmp_path / "attempts.json"
    if content in ("folder", "pipe"):
        file.mkdir() if content == "folder" else os.mkfifo(file)
    else:
        file.write_text(content)
    attempts = Attempts(tmp_path)
    assert attempts.earlier == []
    attempts.begin()
    attempts.end(NotebookFailed("error", "why"))
    assert [one["kind"] for one in attempts.earlier] == ["error"]


def test_a_store_that_cannot_be_written_is_said_at_once():
    folder = Path(tempfile.mkdtemp())  # not tmp_path, into which no other user may look
    folder.chmod(0o555)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if os.getuid() == 0:
                os.setuid(65534)  # root may write everywhere
            run_all(quick_runs(1), Store(folder), 1, False)
        except InputError as error:
            status = 0 if f"Nothing can be written into {folder} (Permission denied)" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    folder.rmdir()


ON_A_SMALL_DISK = """
import subprocess, sys
sys.path[:0] = [{tests!r} + "/runs", {tests!r}, {repository!r}]
from pathlib import Path
from test_batch import leaves_a_record, quick_runs
from adlib.runs import Store
from adlib.runs.batch import run_all
from adlib.runs.workers import Workers

def main():
    store, body = Store({disk!r} + "/runs"), "(partial / 'maps.npy').write_bytes(bytes(100_000))"
    with Workers(jobs=2) as workers:
        first = run_all(quick_runs(8), store, workers, False, leaves_a_record(body))
        for record in first:
            assert record["status"] == "finished" or record["kind"] == "disk full", record
        done = [record for record in first if record["status"] == "finished"]
        assert 0 < len(done) < 8, len(done)
        for record in done:
            assert (store.path(record["key"]) / "maps.npy").stat().st_size == 100_000
        times = {{record["key"]: (store.path(record["key"]) / "record.json").stat().st_mtime_ns for record in done}}
        subprocess.run(["mount", "-o", "remount,size=8m", {disk!r}], check=True)
        second = run_all(quick_runs(8), store, workers, False, leaves_a_record(body))
    assert [record["status"] for record in second] == ["finished"] * 8
    for key, at in times.items():
        assert (store.path(key) / "record.json").stat().st_mtime_ns == at
    print("survived")

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_a_full_disk_fails_the_runs_that_do_not_fit_and_spoils_none(tmp_path):
    disk, script = tmp_path / "disk", tmp_path / "script.py"
    disk.mkdir()
    script.write_text(
        ON_A_SMALL_DISK.format(disk=str(disk), tests=str(REPOSITORY / "tests"), repository=str(REPOSITORY))
    )
    mount = f"mount -t tmpfs -o size=400k tmpfs {disk}"
    unshare = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    if shutil.which("unshare") is None or subprocess.run([*unshare, mount], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs user namespaces, which are not allowed here")
    done = subprocess.run(
        [*unshare, f"{mount} && exec {sys.executable} {script}"], capture_output=True, text=True, check=False
    )
    assert "survived" in done.stdout, done.stdout + done.stderr


# What a worker records


@pytest.mark.parametrize("harm", ["a file less", "damaged", "gone"])
def test_a_failure_is_recorded_under_the_planned_key_whatever_became_of_the_data(tree, tmp_path, monkeypatch, harm):
    store, planned = Store(tmp_path / "store"), Run("folder", str(tree), "padim", "thing", SMALL)
    key, fingerprint = planned.key, planned.fingerprint
    if harm == "a file less":
        (tree / "thing" / "train" / "good" / "000.png").unlink()
    elif harm == "damaged":
        shutil.rmtree(tree / "thing" / "train")
    else:
        shutil.rmtree(tree)

    def fails(*_):
        raise NotebookFailed("time limit", "It took too long.")

    monkeypatch.setattr("adlib.runs.execute.execute_notebook", fails)
    given = Run(**planned.as_dict())  # as it arrives in a worker: with nothing computed
    record = execute(given, store, False, key, Conditions(), None, fingerprint)
    assert (record["key"], record["kind"], record["reason"]) == (key, "time limit", "It took too long.")
    assert record["data"]["fingerprint"] == fingerprint
    assert store.record(key) == record
    assert not {"key", "samples", "fingerprint"} & given.__dict__.keys()  # nothing was read again


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("DataLoader worker (pid 4711) is killed by signal: Killed. ", "kernel died"),
        ("DataLoader worker (pid(s) 4711, 4712) exited unexpectedly", "kernel died"),
        (
            "DataLoader worker (pid 4711) is killed by signal: Bus error. It is possible that dataloader's workers are "
            "out of shared memory. Please try to raise your shared memory limit.",
            "out of memory",
        ),
        (
            "unable to allocate shared memory(shm) for file </torch_47_11_0>: No space left on device (28)",
            "out of memory",
        ),
        ("unable to write to file </torch_47_11_0>: No space left on device (28)", "out of memory"),
        ("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory", "out of memory"),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "out of GPU memory"),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "out of GPU memory"),
        ("Caught ValueError in DataLoader worker process 0.\nOriginal Traceback ...", "error"),
        ("mat1 and mat2 shapes cannot be multiplied", "error"),
    ],
)
def test_what_depends_on_what_else_the_machine_does_is_tried_again_from_its_checkpoint(
    tree, tmp_path, monkeypatch, text, kind
):
    store, run = Store(tmp_path / "store"), Run("folder", str(tree), "padim", "thing", SMALL)

    def fails(name, out, *_):
        (out.parent / "checkpoint").write_bytes(b"ten hours")
        raise of_exception("RuntimeError", text)

    monkeypatch.setattr("adlib.runs.execute.execute_notebook", fails)
    record = execute(run, store, False, conditions=Conditions(retries=1))
    passing = kind in WORTH_A_RETRY
    assert record["kind"] == kind and passing == (kind != "error")
    assert [attempt["kind"] for attempt in record["attempts"]] == [kind] * passing
    assert (store.path(run.key) / "checkpoint").exists() == passing


@pytest.mark.parametrize(
    ("method", "advice"),
    [
        ("stfpm", "a smaller size, a smaller batch_size or precision=bfloat16; each gives"),
        ("simplenet", "a smaller size or a smaller batch_size; each gives"),
        ("patchcore", "a smaller size or a limit such as memory=2GB; each gives"),
        ("padim", "a smaller size; it gives"),
    ],
)
def test_where_a_gpus_memory_is_short_nothing_is_advised_that_the_method_does_not_have(
    tree, tmp_path, monkeypatch, method, advice
):
    def fails(*_, **__):
        raise PapermillExecutionError(0, 1, "", "OutOfMemoryError", "CUDA out of memory. Tried to allocate 20 GiB.", [])

    monkeypatch.setattr("papermill.execute_notebook", fails)
    run = Run("folder", str(tree), method, "thing", {"weights": "random"})
    record = execute(run, Store(tmp_path), False, conditions=Conditions(retries=0))
    assert record["reason"] == (
        f"OutOfMemoryError: CUDA out of memory. Tried to allocate 20 GiB. Less memory is needed with {advice} other "
        "numbers, so it is for you to choose."
    )


def test_a_run_just_typed_that_fails_of_wrong_input_leaves_nothing(tree, tmp_path, monkeypatch):
    store, run = Store(tmp_path / "store"), Run("folder", str(tree), "padim", "thing", SMALL)

    def fails(*_):
        raise failed

    monkeypatch.setattr("adlib.runs.execute.execute_notebook", fails)
    for kind, worked, error in [("wrong input", True, InputError), ("kernel died", False, NotebookFailed)]:
        failed = NotebookFailed(kind, "why")
        failed.worked = worked
        with pytest.raises(error, match="why"):
            execute(run, store, False, keep_mistakes=False)
        assert [entry.name for entry in store.folder.iterdir()] == [".locks"]
    failed = NotebookFailed("error", "why")  # behind the first cells it is work, and stays
    assert execute(run, store, False, keep_mistakes=False)["kind"] == "error"


def test_a_run_removes_the_sockets_that_killed_ones_have_left_and_nothing_else(tmp_path, monkeypatch):
    folder = Path(tempfile.mkdtemp(dir=_short_folder()))  # a short name, as sockets need
    monkeypatch.setattr("adlib.runs.execute._short_folder", lambda: str(folder))
    monkeypatch.setattr("papermill.execute_notebook", lambda *_, **__: None)
    names = _, living, fresh, mixed, empty = [f"adlib-{number}abcdefg" for number in range(5)]
    with contextlib.ExitStack() as open_sockets:
        for name in names:
            (folder / name).mkdir()
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(str(folder / name / "kernel-1"))
            listening = open_sockets.enter_context(socket.socket(socket.AF_UNIX))
            listening.bind(str(folder / name / "kernel-2"))
            if name == living:
                listening.listen()
        (folder / mixed / "mine.txt").touch()
        (folder / empty / "kernel-1").unlink()
        (folder / empty / "kernel-2").unlink()
        for name in set(names) - {fresh}:
            os.utime(folder / name, (0, 0))
        execute_notebook("01_run", tmp_path / "run.ipynb", {}, False)
    assert {entry.name for entry in folder.iterdir()} == {living, fresh, mixed, empty}
    assert len(list((folder / mixed).iterdir())) == 3
    shutil.rmtree(folder)


def test_sockets_find_a_short_folder_where_the_temporary_one_has_a_long_name(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    assert len(_short_folder()) < 80
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="too long a name for sockets"):
        _short_folder()


def test_few_open_files_are_said_and_more_are_taken_where_allowed():
    code = "import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (64, {hard})); "
    code += "from adlib.runs.environment import allow_open_files; allow_open_files({jobs}); "
    code += "print(r.getrlimit(r.RLIMIT_NOFILE)[0])"

    def limited(**values) -> subprocess.CompletedProcess:
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-c", code.format(**values)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    assert limited(hard=1024, jobs=4).stdout == "1024\n"
    assert "may open 64 files, and 1 runs at once need about 160: raise the limit" in limited(hard=64, jobs=1).stderr


# Kernels of real runs

ENDLESS = {"epochs": 100_000, "batch_size": 4}
SMALL = {"backbone": "resnet18.tv_in1k", "weights": "random", "size": 32, "crop": None}
# Read by the kernel server alone, when it starts: checkpoints after every step, and one method that is broken, by seed.
FAULTY = """
import os, resource, signal
import numpy, torch
import adlib.detector
adlib.detector.Detector.checkpoint_interval = 0.0
from adlib.models.padim import PaDiM

def injected():
    raise ArithmeticError("injected")

def short_of_memory(work):
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
    work()

def on_the_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

FAULTS = [
    injected,
    lambda: short_of_memory(lambda: bytearray(2**34)),
    lambda: short_of_memory(lambda: numpy.ones(2**31)),
    lambda: short_of_memory(lambda: torch.ones(2**32)),
    on_the_gpu,
    lambda: os.kill(os.getpid(), signal.SIGKILL),
]
def sleeps():
    import time
    time.sleep(3600)

def spins():
    while True:
        pass

FAULTS += [sleeps, spins, lambda: os.kill(os.getpid(), signal.SIGSTOP)]
PaDiM.fit_images = lambda self, *_: FAULTS[self.seed_]()
"""
forking = pytest.mark.skipif(not can_fork(), reason="kernels are forked on Linux alone")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faulty")
    (folder / "sitecustomize.py").write_text(FAULTY)
    variables = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    started = KernelServer(os.environ | variables | {"PYTHONPATH": os.pathsep.join([str(folder), str(REPOSITORY)])})
    yield started
    started.close()


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):  # ended meanwhile
        return []


@forking
@pytest.mark.slow
def test_a_server_of_kernels_that_is_killed_takes_them_along_and_is_started_anew(server, tmp_path):
    def start():
        imports = ["adlib.models.stfpm", "adlib.models.nothing_of_this_name"]
        arguments = ["-f", str(tmp_path / "connection.json")]
        return server.start(arguments, str(tmp_path), dict(os.environ), tmp_path / "log", imports)

    kernel = start()
    parent = psutil.Process(kernel.pid).parent()
    names = [(Path("/proc") / str(parent.pid) / "task" / str(one.id) / "comm").read_text() for one in parent.threads()]
    others = [name for name in names if name != "jemalloc_bg_thd\n"]  # pyarrow's memory, which expects to be forked
    assert len(others) == 1  # what makes it safe to fork
    parent.kill()
    assert kernel.wait(10) == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while is_alive(kernel.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    again = start()
    again.kill()
    assert again.wait(30) == -signal.SIGKILL


def trained(tree: Path, **settings) -> Run:
    return Run("folder", str(tree), "stfpm", "thing", SMALL | settings)


def kernels() -> list[psutil.Process]:
    """The kernels below this process that have been forked."""
    below = [each for each in psutil.Process().children(recursive=True) if is_alive(each.pid)]
    servers = {process.pid for process in below if "adlib.runs.kernels" in command_line(process)}
    parents = {process.pid: process.ppid() for process in below if process.pid in servers and is_alive(process.pid)}
    return [process for process in below if parents.get(process.pid) in servers]


def kill_each_kernel_when(ready: Callable[[], bool], times: int) -> threading.Thread:
    """Kill the kernels when it is time, as often as that."""

    def kill() -> None:
        killed: set[int] = set()
        while len(killed) < times:
            for process in kernels():
                if process.pid not in killed and ready():
                    process.kill()
                    killed.add(process.pid)
            time.sleep(0.02)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def has_begun_to_fit(store: Store) -> bool:
    logs = list(store.folder.glob(".*.partial/run.log"))
    return any("recorder.checkpoint(out)" in log.read_text().rstrip().rpartition("\n")[2] for log in logs)


@forking
@pytest.mark.slow
def test_what_ends_a_run_is_told_apart(server, tree, tmp_path):
    store = Store(tmp_path / "store")

    def outcome(run: Run, **conditions) -> tuple[str, str]:
        record = execute(run, store, False, conditions=Conditions(**{"retries": 0} | conditions), server=server)
        assert not list(store.folder.glob(".*.partial"))
        return record["kind"], record["reason"]

    assert outcome(Run("folder", str(tree), "padim", "thing", SMALL)) == ("error", "ArithmeticError: injected")
    kind, reason = outcome(trained(tree, epochs=20, learning_rate=1e30))
    assert kind == "diverged"
    assert "The training of stfpm diverged" in reason
    endless = trained(tree, **ENDLESS)
    assert outcome(endless, time_limit=3) == ("time limit", "The run took longer than its limit of 3 s.")
    killer = kill_each_kernel_when(lambda: has_begun_to_fit(store), 2)
    kind, reason = outcome(endless, retries=1)
    killer.join(5)
    assert (kind, reason) == ("kernel died", "The kernel was ended by signal 9 (SIGKILL).")
    assert [attempt["kind"] for attempt in store.record(endless.key)["attempts"]] == ["kernel died"]

    gone = trained(tree, epochs=1)
    assert gone.key
    shutil.rmtree(tree)
    kind, reason = outcome(gone)
    assert kind == "wrong input"
    assert str(tree) in reason
    make_tree(tree)
    (tree / "thing" / "train" / "good" / "000.png").unlink()
    assert outcome(gone)[0] == "data changed"  # what was fitted is not what was planned


@forking
@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "kills", "kind", "reason"),
    [
        (1, 0, "out of memory", "MemoryError: "),
        (2, 0, "out of memory", "MemoryError: Unable to allocate 16.0 GiB"),
        (3, 0, "out of memory", "RuntimeError: "),
        (4, 0, "out of GPU memory", "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB."),
        (5, 1, "out of memory", "The system ended the kernel because memory was short."),
        (5, 0, "kernel died", "The kernel was ended by signal 9 (SIGKILL)."),
    ],
)
def test_short_memory_is_told_apart_and_tried_again(server, tree, tmp_path, monkeypatch, seed, kills, kind, reason):
    """Python, NumPy and torch under a limit that the system sets; kills: by how many the system's own count rises."""
    counter = count(step=kills)
    monkeypatch.setattr("adlib.runs.execute.oom_kills", lambda: next(counter))
    run = Run("folder", str(tree), "padim", "thing", SMALL, seed)
    record = execute(run, Store(tmp_path), False, conditions=Conditions(retries=1), server=server)
    assert record["kind"] == kind
    assert record["reason"].startswith(reason)
    assert [attempt["kind"] for attempt in record["attempts"]] == [kind]


@forking
@pytest.mark.slow
@pytest.mark.parametrize(
    ("seed", "reason"),
    [
        (6, "no file written and no processor used for 4 s."),  # sleeps
        (7, "it computed for 8 s and wrote no file."),
        (8, "no file written and no processor used for 4 s."),  # stopped
    ],
)
def test_a_kernel_that_hangs_is_ended_and_said(server, tree, tmp_path, monkeypatch, seed, reason):
    monkeypatch.setattr("adlib.runs.watch.BUSY_LIMITS", 2)
    run = Run("folder", str(tree), "padim", "thing", SMALL, seed)
    record = execute(run, Store(tmp_path), False, conditions=Conditions(retries=0, stall_limit=4), server=server)
    assert record["kind"] == "stalled"
    assert record["reason"].startswith("The kernel hung in cell ")
    assert record["reason"].endswith(reason)


@forking
@pytest.mark.slow
def test_a_run_killed_half_way_goes_on_and_ends_with_the_record_of_one_that_was_not(server, tree, tmp_path):
    run = trained(tree, epochs=12, batch_size=4)
    calm, disturbed = Store(tmp_path / "calm"), Store(tmp_path / "disturbed")
    expected = execute(run, calm, False, server=server)

    killer = kill_each_kernel_when(lambda: bool(list(disturbed.folder.glob(".*.partial/checkpoint"))), 1)
    record = execute(run, disturbed, False, conditions=Conditions(retries=1), server=server)
    killer.join(5)
    assert [attempt["kind"] for attempt in record["attempts"]] == ["kernel died"]
    assert record["resumed"]
    assert not expected["resumed"]
    same = ("status", "key", "run", "parameters", "images", "data", "weights", "metrics", "intervals", "oracle", "code")
    assert {name: record[name] for name in same} == {name: expected[name] for name in same}
    maps = [np.load(store.path(run.key) / "predictions" / "maps.npy", mmap_mode="r") for store in (calm, disturbed)]
    assert maps[0].dtype == np.float16
    assert np.array_equal(*maps)
    assert not list(disturbed.path(run.key).glob("checkpoint*"))


@forking
@pytest.mark.slow
def test_an_interrupted_run_leaves_its_checkpoint_and_no_record(server, tree, tmp_path):
    store, run, stop = Store(tmp_path / "store"), trained(tree, **ENDLESS), tmp_path / "stop"

    def ask() -> None:
        while not list(store.folder.glob(".*.partial/checkpoint")):
            time.sleep(0.02)
        stop.touch()

    threading.Thread(target=ask, daemon=True).start()
    with pytest.raises(NotebookFailed, match="interrupted"):
        execute(run, store, False, conditions=Conditions(stop=str(stop)), server=server)
    assert store.record(run.key) is None
    (partial,) = store.folder.glob(".*.partial")
    assert {entry.name for entry in partial.iterdir()} == {"checkpoint", "attempts.json"}
    assert kernels() == []


BATCH = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with Ctrl-C ignored
sys.path[:0] = [{tests!r} + "/runs", {tests!r}, {repository!r}]
from pathlib import Path
from adlib.runs import Run, Store
from adlib.runs.batch import run_all
from adlib.runs.workers import Workers
from test_faults import ENDLESS, trained

if __name__ == "__main__":
    tree, store = Path({tree!r}), Store({store!r})
    runs = [trained(tree, epochs=1), trained(tree, **ENDLESS)]
    with Workers(jobs=1) as workers:
        run_all(runs, store, workers, False)
"""


@forking
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_when_the_batch_itself_is_ended_its_workers_and_kernels_end_too(tree, tmp_path, number):
    """And the run that was finished stays, while the other one can be claimed at once."""
    store, script = Store(tmp_path / "store"), tmp_path / "batch.py"
    places = {"tests": REPOSITORY / "tests", "repository": REPOSITORY, "tree": tree, "store": store.folder}
    script.write_text(BATCH.format(**{name: str(place) for name, place in places.items()}))
    batch = subprocess.Popen([sys.executable, str(script)], start_new_session=True, stderr=subprocess.PIPE, text=True)
    below = []
    try:
        deadline = time.monotonic() + 120
        while not (list(store.folder.glob("*/record.json")) and has_begun_to_fit(store)):
            assert batch.poll() is None, batch.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        below = psutil.Process(batch.pid).children(recursive=True)
        assert len(below) >= 3  # worker, kernel server, kernel
        if number == signal.SIGINT:
            os.killpg(batch.pid, number)  # as a terminal does, to all
        else:
            batch.kill()
        _, alive = psutil.wait_procs(below, timeout=30)
        assert alive == []
        assert batch.wait(30) != 0
    finally:  # a run without end must not outlive a test that failed
        for process in (batch, *below):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    finished, endless = trained(tree, epochs=1), trained(tree, **ENDLESS)
    assert store.is_finished(finished.key)
    assert store.running() == set()
    assert store.record(endless.key) is None
    with store.claim(endless.key, wait=0) as folder:
        assert folder is not None
    assert json.loads((store.path(finished.key) / "record.json").read_text())["attempts"] == []


def test_a_batch_goes_on_behind_any_fault_of_a_worker(tmp_path):
    """Worker killed, exception, corrupt record and cut predictions at once: then a restart does what is left."""
    store, runs = Store(tmp_path), quick_runs(6)
    faulty = "import os, signal; mark = folder + '/mark'\n"
    faulty += "if run['seed'] == 0: raise ArithmeticError('injected')\n"
    faulty += "if run['seed'] == 1 and not os.path.exists(mark):\n"
    faulty += "    open(mark, 'w').close(); os.kill(os.getpid(), signal.SIGKILL)"
    with Workers(jobs=2) as workers:
        first = run_all(runs, store, workers, False, leaves_a_record(faulty))
        assert [record["status"] for record in first] == ["failed"] + ["finished"] * 5
        (store.path(runs[2].key) / "record.json").write_text('{"status": "finished", "key"')
        before = {run.seed: (store.path(run.key) / "record.json").stat().st_mtime_ns for run in runs[3:]}
        second = run_all(runs, store, workers, False, leaves_a_record())
    assert [record["status"] for record in second] == ["finished"] * 6
    assert before == {run.seed: (store.path(run.key) / "record.json").stat().st_mtime_ns for run in runs[3:]}
