"""Links that go down: hosts in network namespaces, as far as the system lets a user have them.

Each test is a script in namespaces of its own (network, mounts, processes), which end with it. A bridge in the outer
one is the switch; the batch sits there, scheduler and workers on hosts of their own. All addresses are those of the
namespaces.
"""

import shutil
import subprocess
import sys

import pytest
from conftest import REPOSITORY

NAMESPACES = ["unshare", "--map-root-user", "--net", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child"]

HOSTS = """
import contextlib, os, psutil, subprocess, sys, threading, time
sys.path[:0] = [{tests!r}, {repository!r}]
os.environ["PYTHONPATH"] = {repository!r}
os.environ["DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP"] = {tcp!r}
os.environ["DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT"] = "4s"
from test_batch import leaves_a_record, quick_runs
from adlib import InputError
from adlib.runs import Store, batch
from adlib.runs import workers as cluster
from adlib.runs.batch import run_all
from adlib.runs.workers import Workers

ADDRESS = "tcp://10.99.0.2:8786"
cluster.CONNECT_SECONDS = 120  # a busy machine starts programs slowly
batch.SILENCE = 2.0
batch.LOOK_WAITING = 1.0

def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)

def plug(number):
    name = f"host{{number}}"
    ip("netns", "add", name)
    ip("link", "add", f"cable{{number}}", "type", "veth", "peer", "name", "eth", "netns", name)
    ip("link", "set", f"cable{{number}}", "master", "switch", "up")
    ip("-n", name, "addr", "add", f"10.99.0.{{number}}/24", "dev", "eth")
    ip("-n", name, "link", "set", "eth", "up")
    ip("-n", name, "link", "set", "lo", "up")

def on(number, *command):
    return subprocess.Popen(
        ["ip", "netns", "exec", f"host{{number}}", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

def start(number, *arguments):
    return on(number, sys.executable, "-m", "adlib.runs.cluster", *arguments)

def build():
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    ip("link", "set", "lo", "up")
    ip("link", "add", "switch", "type", "bridge")
    ip("addr", "add", "10.99.0.1/24", "dev", "switch")
    ip("link", "set", "switch", "up")
    for number in (2, 3, 4):
        plug(number)

def start_cluster(workers=2):
    scheduler = start(2, "scheduler", "--host", "10.99.0.2", "--port", "8786")
    for number in range(3, 3 + workers):
        start(number, "worker", ADDRESS, "--resources", "GPU=1,CPU=1", "--local-directory", {folder!r})
    return scheduler

def later(seconds, *steps):
    def do():
        time.sleep(seconds)
        for step in steps:
            step()
    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    return thread

def cable(number, way):
    return lambda: ip("link", "set", f"cable{{number}}", way)

def do_runs(name, number, seconds, workers):
    store = Store({folder!r} + "/" + name)
    body = f"import os, time; time.sleep({{seconds}}); (partial / 'who').write_text(str(os.getppid()))"
    records = run_all(quick_runs(number), store, workers, False, leaves_a_record(body))
    assert [record["status"] for record in records] == ["finished"] * number, records
    return store

"""

CUT = (
    HOSTS
    + """
def kill_the_scheduler():
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # ended meanwhile
            if "distributed.cli.dask_scheduler" in process.cmdline():
                process.kill()

def wait(seconds):
    return lambda: time.sleep(seconds)

def main():
    build()
    start_cluster()
    faults = {{
        "the scheduler's link": [cable(2, "down"), wait(16), cable(2, "up")],
        "a worker's link": [cable(3, "down"), wait(16), cable(3, "up")],
        "the scheduler": [kill_the_scheduler],
    }}
    with Workers(scheduler=ADDRESS, patience=90) as workers:
        do_runs("calm", 2, 0.1, workers)
        for number, (name, steps) in enumerate(faults.items()):
            while len(workers.offers()) < 2:
                time.sleep(0.2)
            fault = later(1.5, *steps)
            begin = time.monotonic()
            store = do_runs(f"fault{{number}}", 8, 1, workers)
            began = sorted((store.folder / "begun").read_text().split())
            print(f"{{name}}: {{time.monotonic() - begin:.0f}} s, {{len(began)}} begun", flush=True)
            fault.join()
        while len(workers.offers()) < 2:
            time.sleep(0.2)
    print("survived")

main()
"""
)

SHORT = (
    HOSTS
    + """
def main():
    build()
    start_cluster()
    with Workers(scheduler=ADDRESS, patience=60) as workers:
        while len(workers.offers()) < 2:
            time.sleep(0.2)
        later(1.5, cable(2, "down"), lambda: time.sleep(5), cable(2, "up"))
        store = do_runs("runs", 8, 1, workers)
    assert sorted(map(int, (store.folder / "begun").read_text().split())) == [*range(8)]
    assert len({{file.read_text() for file in store.folder.glob("*/who")}}) == 2
    print("survived")

main()
"""
)

NOBODY = (
    HOSTS
    + """
def main():
    build()
    start_cluster(workers=0)
    time.sleep(1)
    try:
        with Workers(scheduler=ADDRESS, patience=6) as workers:
            do_runs("runs", 3, 1, workers)
    except InputError as error:
        print("ended:", error)

main()
"""
)


def in_namespaces(script: str, tmp_path, tcp: str) -> subprocess.CompletedProcess:
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("hosts on this machine need unshare and iproute2's ip, which are not installed")
    tried = subprocess.run(
        [*NAMESPACES, "sh", "-c", "mount -t tmpfs tmpfs /run && ip link add switch type bridge && ip netns add host"],
        capture_output=True,
        text=True,
        check=False,
    )
    if tried.returncode:
        pytest.skip(f"network namespaces are not allowed here: {tried.stderr.strip()}")
    file = tmp_path / "script.py"
    places = {"tests": REPOSITORY / "tests" / "runs", "repository": REPOSITORY, "folder": tmp_path, "tcp": tcp}
    (tmp_path / "conftest.py").symlink_to(REPOSITORY / "tests" / "conftest.py")
    file.write_text(script.format(**{name: str(place) for name, place in places.items()}))
    return subprocess.run(
        [*NAMESPACES, sys.executable, str(file)], capture_output=True, text=True, check=False, timeout=280
    )


@pytest.mark.slow
def test_links_and_a_scheduler_that_are_lost_come_back_and_fail_no_run(tmp_path):
    """Down for longer than connections are kept: workers end and are started again, the batch gives its runs anew."""
    done = in_namespaces(CUT, tmp_path, "11s")  # the least that Dask allows
    assert "survived" in done.stdout, done.stdout + done.stderr[-3000:]
    assert "tcp://10.99.0.2:8786 does not answer" in done.stderr
    assert "the batch goes on" in done.stderr


@pytest.mark.slow
def test_a_link_that_is_down_for_less_than_connections_are_kept_costs_nothing(tmp_path):
    done = in_namespaces(SHORT, tmp_path, "60s")
    assert "survived" in done.stdout, done.stdout + done.stderr[-3000:]


@pytest.mark.slow
def test_a_batch_without_workers_says_so_and_ends_when_its_patience_does(tmp_path):
    done = in_namespaces(NOBODY, tmp_path, "60s")
    assert "No worker is here. 3 runs wait; the batch ends in" in done.stderr
    assert "ended: No worker is here. It has been so for 6 s: 3 runs are left." in done.stdout, done.stderr[-3000:]
