"""One run per GPU: each worker sees one of them, by the environment that it and its kernels get. GPUs are pretended."""

import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
from test_batch import leaves_a_record, quick_runs

from adlib import InputError
from adlib.runs import Store, workers
from adlib.runs.batch import run_all
from adlib.runs.workers import Workers, default_jobs

NOTES = """
import os, time
begin = time.time()
time.sleep(0.3)
with open(f"{folder}/gpus.csv", "a") as file:
    file.write(f"{os.environ['CUDA_VISIBLE_DEVICES']},{begin},{time.time()}\\n")
"""


@pytest.fixture
def gpus(monkeypatch):
    """Pretends to torch that there are so many GPUs, and to CUDA that somebody has named them so."""

    def pretend(count: int, named: str | None = None):
        monkeypatch.setattr("torch.cuda.is_available", lambda: count > 0)
        monkeypatch.setattr("torch.cuda.device_count", lambda: count)
        if named is None:
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        else:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)

    return pretend


@pytest.mark.parametrize(
    ("count", "named", "expected"),
    [
        (0, None, []),
        (0, "", []),
        (3, None, ["0", "1", "2"]),
        (2, "3,1", ["3", "1"]),
        (2, " GPU-5a, MIG-7", ["GPU-5a", "MIG-7"]),
        (1, "0,-1,1", ["0"]),  # CUDA takes no name behind one that it does not know
    ],
)
def test_gpus_have_the_names_that_cuda_knows_them_by(count, named, expected, gpus):
    gpus(count, named)
    assert workers._gpus() == expected
    assert count == 0 or default_jobs() == count


def test_two_gpus_do_one_run_each_at_a_time(gpus, tmp_path):
    gpus(2, "6,GPU-2b")
    with Workers() as pair:
        run_all(quick_runs(5), Store(tmp_path), pair, False, leaves_a_record(NOTES))
        assert pair.resources() == {"GPU": 1}
        assert [offer["GPU"] for offer in pair.offers()] == [1, 1]
    done = pd.read_csv(tmp_path / "gpus.csv", names=["gpu", "begin", "end"], dtype={"gpu": str})
    assert len(done) == 5 and set(done["gpu"]) == {"6", "GPU-2b"}
    for _, runs in done.sort_values("begin").groupby("gpu"):
        assert (runs["end"].to_numpy()[:-1] <= runs["begin"].to_numpy()[1:]).all()


def on(device: str, number: int = 2):
    """Runs that want to be on a device, with keys as quick_runs gives them."""
    runs = [replace(run, device=device) for run in quick_runs(number)]
    for run in runs:
        run.__dict__["key"] = f"{run.seed:016x}"
    return runs


@pytest.mark.parametrize("device, chosen", [("cuda:1", "GPU-2b"), ("cuda:0", "6")])
def test_a_run_that_wants_one_of_several_gpus_is_refused_before_its_batch_begins(gpus, tmp_path, device, chosen):
    gpus(2, "6,GPU-2b")
    for jobs in (None, 2, Workers()):
        with pytest.raises(InputError, match=f"^device='{device}': the workers .* CUDA_VISIBLE_DEVICES={chosen} for"):
            run_all([*quick_runs(1), *on(device, 3)[1:]], Store(tmp_path), jobs, False, leaves_a_record())
    assert list(Store(tmp_path).records()) == []


@pytest.mark.parametrize(
    "device, count, jobs",
    [
        ("cuda:0", 2, 1),
        ("cuda", 2, 2),
        *[pytest.param(*alike, marks=pytest.mark.slow) for alike in (("cuda:0", 1, 2), ("cpu", 2, 2))],
    ],
)
def test_a_run_whose_device_its_worker_sees_is_done(gpus, tmp_path, device, count, jobs):
    gpus(count)
    records = run_all(on(device), Store(tmp_path), jobs, False, leaves_a_record())
    assert [record["status"] for record in records] == ["finished"] * 2


def test_the_kernels_of_a_worker_see_its_gpu_alone(monkeypatch):
    started = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-2b")
    monkeypatch.setattr("adlib.runs.workers._server", None)
    monkeypatch.setattr("adlib.runs.kernels.can_fork", lambda: True)
    monkeypatch.setattr("adlib.runs.kernels.KernelServer", lambda variables: started.append(dict(variables)))
    worker = SimpleNamespace(state=SimpleNamespace(total_resources={"GPU": 1, "CPU": 2}, nthreads=1))
    monkeypatch.setattr("distributed.get_worker", lambda: worker)
    workers.kernel_server()
    assert (started[0]["CUDA_VISIBLE_DEVICES"], started[0]["OMP_NUM_THREADS"]) == ("GPU-2b", "2")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-2b"


@pytest.mark.slow
def test_kernels_get_nothing_from_dask_that_gives_memory_back_at_once():
    # A process of its own: once `distributed` has been imported, nothing of Dask's is filled in any more.
    script = (
        "import os\n"
        "from adlib.runs.workers import Workers\n"
        "if __name__ == '__main__':\n"
        "    with Workers(1) as workers:\n"
        "        print(workers.client.submit(os.environ.get, 'MALLOC_TRIM_THRESHOLD_').result(timeout=60))\n"
    )
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run([sys.executable, "-c", script], env=variables, capture_output=True, text=True, timeout=300)
    assert done.stdout.split() == ["None"], done.stderr


def test_kernels_keep_freed_memory_unless_somebody_says_otherwise(monkeypatch):
    started = []
    monkeypatch.setattr("adlib.runs.workers._server", None)
    monkeypatch.setattr("adlib.runs.kernels.can_fork", lambda: True)
    monkeypatch.setattr("adlib.runs.kernels.KernelServer", lambda variables: started.append(dict(variables)))
    worker = SimpleNamespace(state=SimpleNamespace(total_resources={"CPU": 1}, nthreads=1))
    monkeypatch.setattr("distributed.get_worker", lambda: worker)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "123")
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    workers.kernel_server()
    assert started[0]["MALLOC_TRIM_THRESHOLD_"] == "123"
    assert int(started[0]["MALLOC_MMAP_THRESHOLD_"]) == 32 * 2**20
