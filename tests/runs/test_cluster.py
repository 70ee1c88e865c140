"""The examples of nbconfig/cluster, as far as one machine without Slurm and ssh can show: the job that Slurm would get,
and workers of ssh.sh with a program in place of ssh.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
from conftest import REPOSITORY
from test_batch import leaves_a_record, quick_runs

from adlib.runs import Store
from adlib.runs.batch import run_all
from adlib.runs.workers import Workers

EXAMPLES = REPOSITORY / "nbconfig" / "cluster"
VARIABLES = os.environ | {"PYTHONPATH": str(REPOSITORY)}


@pytest.mark.slow
def test_the_slurm_example_asks_for_one_worker_with_one_gpu_in_each_job():
    pytest.importorskip("dask_jobqueue", reason="the extra `cluster` is not installed")
    arguments = [
        "--partition",
        "gpu",
        "--cpus",
        "6",
        "--memory",
        "20GB",
        "--hours",
        "12",
        "--interface",
        "lo",
        "--show",
    ]
    shown = subprocess.run(
        [sys.executable, str(EXAMPLES / "slurm.py"), *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=VARIABLES,
    )
    lines = shown.stdout.splitlines()
    for asked in ("-p gpu", "--cpus-per-task=6", "--mem=19G", "-t 12:00:00", "--gres=gpu:1", "-n 1"):
        assert f"#SBATCH {asked}" in lines, asked
    (worker,) = [line for line in lines if line.startswith(sys.executable)]
    assert re.search(r" -m adlib\.runs\.cluster worker tcp://127\.0\.0\.1:\d+ ", worker)
    assert "--nthreads 1 " in worker
    assert "--resources GPU=1,CPU=6 --no-dashboard" in worker


# What the example needs of dask-jobqueue 0.9, which makes SystemExit of Ctrl-C.
LIKE_JOBQUEUE = """
import signal, sys
signal.signal(signal.SIGINT, lambda *_: sys.exit())
class SLURMCluster:
    scheduler_address = "tcp://here"
    def __init__(self, **settings): ...
    def adapt(self, **jobs): ...
    def close(self): print("closed")
"""


def test_ctrl_c_ends_the_jobs_of_the_slurm_example(tmp_path):
    (tmp_path / "dask_jobqueue.py").write_text(LIKE_JOBQUEUE)
    path = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY)])}
    command = [sys.executable, str(EXAMPLES / "slurm.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=VARIABLES | path) as started:
        assert "tcp://here" in started.stdout.readline()
        started.send_signal(signal.SIGINT)
        assert started.stdout.read() == "closed\n"


# Runs what ssh would run there, here: `ssh OPTIONS HOST COMMAND`; and leaves a note of the host.
LIKE_SSH = """#!/bin/sh
shift $(($# - 2))
echo "$1" >> "$HOSTS"
exec sh -c "$2"
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_the_ssh_example_starts_a_worker_for_each_gpu_and_ends_them(tmp_path):
    hosts, store = tmp_path / "hosts", Store(tmp_path / "runs")
    (tmp_path / "ssh").write_text(LIKE_SSH)
    (tmp_path / "ssh").chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    variables = VARIABLES | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOSTS": str(hosts), "PORT": port}
    command = ["sh", str(EXAMPLES / "ssh.sh"), "127.0.0.1", "one:2", "two:1"]
    started = subprocess.Popen(
        command,
        env=variables | {"PYTHON": sys.executable, "CPUS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        cwd=tmp_path,
    )
    below = []
    try:
        address = started.stdout.readline().split()[-1]
        assert address == f"tcp://127.0.0.1:{port}"
        body = "import os; (partial / 'gpu').write_text(os.environ['CUDA_VISIBLE_DEVICES'])"
        with Workers(scheduler=address) as workers:
            deadline = time.monotonic() + 60
            while workers.client.nthreads() is None or len(workers.client.nthreads()) < 3:
                assert time.monotonic() < deadline
                time.sleep(0.2)
            assert workers.resources() == {"GPU": 1}
            body += "; import time; time.sleep(0.3)"
            records = run_all(quick_runs(9), store, workers, False, leaves_a_record(body))
        assert [record["status"] for record in records] == ["finished"] * 9
        assert sorted(hosts.read_text().split()) == ["one", "one", "two"]
        assert {file.read_text() for file in store.folder.glob("*/gpu")} == {"0", "1"}
        below = psutil.Process(started.pid).children(recursive=True)
        os.killpg(started.pid, signal.SIGINT)  # as a terminal does
        _, alive = psutil.wait_procs(below, timeout=30)
        assert alive == []
        started.wait(10)
    finally:
        for process in (started, *below):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_worker_is_started_again_when_it_ends_and_ends_with_its_keeper(tmp_path, number):
    """A program in place of Dask's notes that it began: ended by itself it comes again, ended with its keeper not."""
    folder = tmp_path / "distributed" / "cli"
    folder.mkdir(parents=True)
    for package in (folder.parent, folder):
        (package / "__init__.py").touch()
    (folder / "dask_worker.py").write_text(
        "import os, sys, time\n"
        f"open({str(tmp_path / 'begun')!r}, 'a').write(' '.join([str(os.getpid()), *sys.argv[1:]]) + '\\n')\n"
        f"time.sleep(0.2 if len(open({str(tmp_path / 'begun')!r}).readlines()) == 1 else 600)\n"
    )
    variables = os.environ | {"PYTHONPATH": f"{tmp_path}:{REPOSITORY}"}
    with socket.create_server(("127.0.0.1", 0)) as scheduler:  # accepts connections, which is all that is looked for
        address = f"tcp://127.0.0.1:{scheduler.getsockname()[1]}"
        command = [sys.executable, "-m", "adlib.runs.cluster", "worker", address, "--resources", "GPU=1"]
        keeper = subprocess.Popen(command, env=variables, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
        try:
            deadline = time.monotonic() + 60
            while not (tmp_path / "begun").exists() or len((tmp_path / "begun").read_text().splitlines()) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            first, second = (line.split() for line in (tmp_path / "begun").read_text().splitlines())
            assert first[1:] == second[1:]
            assert first[1:4] == ["--nthreads", "1", "--memory-limit"]
            assert first[-3:] == [address, "--resources", "GPU=1"]
            worker = psutil.Process(int(second[0]))
            keeper.send_signal(number)
            assert keeper.wait(30) == (-number if number == signal.SIGKILL else 0)
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.wait(30)
            assert "it has ended (status 0) and is started anew" in keeper.stderr.read()
        finally:
            keeper.kill()


@pytest.mark.slow
def test_a_worker_whose_scheduler_never_answers_is_given_up(capfd):
    code = "from adlib.runs.cluster import keep; raise SystemExit(keep('worker', ['tcp://127.0.0.1:9'], patience=0.5))"
    done = subprocess.run([sys.executable, "-c", code], env=VARIABLES, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "adlib worker: nothing answers at tcp://127.0.0.1:9: given up." in done.stderr
