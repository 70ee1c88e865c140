"""Batches on Dask: what a worker, a second batch and a cluster by hand do to the runs; and what the rest will cost.

Most of these runs do nothing but leave a record, so that they take milliseconds.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import REPOSITORY, finished_record, make_tree
from typer.testing import CliRunner

from adlib import InputError
from adlib.cli.commands import app
from adlib.runs import Run, Store
from adlib.runs.batch import run_all
from adlib.runs.estimate import GUESSED_HOURS, estimate
from adlib.runs.record import failure, write_json
from adlib.runs.store import Busy
from adlib.runs.workers import Workers


def quick_runs(number: int) -> list[Run]:
    """Runs whose keys are numbers: nothing has to be read for them."""
    runs = [Run("folder", "nowhere", "padim", "thing", {}, seed) for seed in range(number)]
    for run in runs:
        run.__dict__["key"] = f"{run.seed:016x}"
    return runs


def leaves_a_record(body: str = ""):
    """Work that notes its run in the file `begun`, does what `body` says, and leaves a record. Dask sends it whole."""

    record = finished_record("")  # made here: a worker cannot import this folder

    def work(run: dict, key: str, folder: str, conditions) -> dict:
        from adlib.runs.batch import BUSY

        try:
            with Store(folder).claim(key, wait=0.1) as partial:
                if partial is not None:
                    with (Path(folder) / "begun").open("a") as file:
                        file.write(f"{run['seed']}\n")
                    exec(body, {"run": run, "partial": partial, "folder": folder, "conditions": conditions})
                    write_json(partial / "record.json", record | {"key": key, "run": run})
        except Busy:
            return {"state": BUSY}
        return {"state": "finished"}

    return work


def begun(store: Store) -> list[int]:
    return sorted(int(line) for line in (store.folder / "begun").read_text().split())


@pytest.fixture(scope="module")
def workers():
    with Workers(jobs=2) as shared:
        yield shared


def test_each_run_is_done_once_and_a_finished_one_never_again(workers, tmp_path):
    store = Store(tmp_path)
    assert [record["run"]["seed"] for record in run_all(quick_runs(5), store, workers, False, leaves_a_record())] == [
        *range(5)
    ]
    run_all(quick_runs(7), store, workers, False, leaves_a_record())
    assert begun(store) == [*range(7)]
    assert not list(tmp_path.glob(".*.partial"))


def test_an_exception_in_a_worker_fails_its_run_alone_and_is_recorded(workers, tmp_path):
    work = leaves_a_record("if run['seed'] == 1: raise ZeroDivisionError('by zero')")
    records = run_all(quick_runs(3), Store(tmp_path), workers, False, work)
    assert [record["status"] for record in records] == ["finished", "failed", "finished"]
    assert records[1]["reason"] == "ZeroDivisionError: by zero"
    assert Store(tmp_path).record(records[1]["key"]) == records[1]
    assert len(run_all(quick_runs(3), Store(tmp_path), workers, False, leaves_a_record())) == 3
    assert begun(Store(tmp_path)) == [0, 1, 1, 2]


def test_a_worker_that_dies_is_replaced_and_its_run_done_by_another(workers, tmp_path):
    once = "import os, signal; mark = folder + '/mark'\nif run['seed'] == 1 and not os.path.exists(mark):\n"
    once += "    open(mark, 'w').close(); os.kill(os.getpid(), signal.SIGKILL)"
    records = run_all(quick_runs(4), Store(tmp_path), workers, False, leaves_a_record(once))
    assert [record["status"] for record in records] == ["finished"] * 4


@pytest.mark.slow
def test_a_run_that_kills_every_worker_is_given_up_and_says_so(workers, tmp_path):
    always = "import os, signal\nif run['seed'] == 1: os.kill(os.getpid(), signal.SIGKILL)"
    records = run_all(quick_runs(4), Store(tmp_path), workers, False, leaves_a_record(always))
    assert [record["status"] for record in records] == ["finished", "failed", "finished", "finished"]
    assert records[1]["kind"] == "worker died"


def test_a_run_that_another_process_works_on_is_left_to_it(workers, tmp_path):
    store, runs = Store(tmp_path), quick_runs(3)
    held, leave = threading.Event(), threading.Event()

    def other() -> None:
        with store.claim(runs[0].key) as partial:
            held.set()
            leave.wait(60)
            record = finished_record(runs[0].key, runs[0].as_dict(), by="another")
            write_json(partial / "record.json", record)

    thread = threading.Thread(target=other)
    thread.start()
    assert held.wait(10)
    assert store.running() == {runs[0].key}
    threading.Timer(2, leave.set).start()
    records = run_all(runs, store, workers, False, leaves_a_record())
    thread.join()
    assert records[0]["by"] == "another"
    assert begun(store) == [1, 2]
    assert store.running() == set()


@pytest.mark.slow
def test_two_batches_at_once_neither_repeat_nor_damage_a_run(workers, tmp_path):
    store = Store(tmp_path)
    results = []
    threads = [
        threading.Thread(
            target=lambda: results.append(
                run_all(quick_runs(12), store, workers, False, leaves_a_record("import time; time.sleep(0.1)"))
            )
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert begun(store) == [*range(12)]
    assert [[record["status"] for record in records] for records in results] == [["finished"] * 12] * 2


@pytest.mark.slow
def test_workers_started_by_hand_share_a_batch(tmp_path):
    """As the README says: a scheduler, two workers, and --scheduler."""
    variables = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    dask = [sys.executable, "-m", "dask"]

    def start(*arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*dask, *arguments], env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    file = tmp_path / "scheduler.json"
    scheduler = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file)]
    started = [start(*scheduler)]
    try:
        deadline = time.monotonic() + 60
        while not file.exists() or not file.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        address = json.loads(file.read_text())["address"]
        assert address.startswith("tcp://127.0.0.1:")
        options = ["--nthreads", "1", "--resources", "GPU=1,CPU=1", "--host", "127.0.0.1", "--no-dashboard"]
        started += [start("worker", address, *options, "--local-directory", str(tmp_path / "dask")) for _ in range(2)]
        body = "import os, time; time.sleep(0.3); (partial / 'who').write_text(str(os.getpid()))"
        with Workers(scheduler=address) as workers:
            records = run_all(quick_runs(12), Store(tmp_path / "runs"), workers, False, leaves_a_record(body))
            assert workers.resources() == {"GPU": 1}
        assert [record["status"] for record in records] == ["finished"] * 12
        assert len({file.read_text() for file in (tmp_path / "runs").glob("*/who")}) == 2
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def test_an_address_where_no_scheduler_answers_is_said(tmp_path, monkeypatch):
    workers = Workers(scheduler="tcp://127.0.0.1:9")
    monkeypatch.setattr("adlib.runs.workers.CONNECT_SECONDS", 1)
    with pytest.raises(InputError, match=r"No Dask scheduler answers at .tcp://127\.0\.0\.1:9"):
        run_all(quick_runs(1), Store(tmp_path), workers, False)


# The store's lists


def finished(store: Store, run: Run, **more) -> None:
    with store.claim(run.key) as folder:
        (folder / "predictions").mkdir()
        (folder / "predictions" / "maps.npy").write_bytes(b"12345678")
        record = finished_record(run.key, run.as_dict(), files={"predictions/maps.npy": 8})
        write_json(folder / "record.json", record | more)


def test_table_filters_runs(tmp_path):
    store, runs = Store(tmp_path), quick_runs(3)
    for run in runs:
        finished(store, run)
    assert len(store.table()) == 3
    assert store.table(seed=1)["key"].tolist() == [runs[1].key]
    assert store.table(method="patchcore").empty
    assert Store(tmp_path / "none").table(status="failed").empty


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"status": "finished"}', '{"status": "finished", "key": "0"}']
)
def test_what_is_no_record_of_this_run_is_none(tmp_path, content):
    store, (run,) = Store(tmp_path), quick_runs(1)
    finished(store, run)
    (store.path(run.key) / "record.json").write_text(content)
    assert store.record(run.key) is None
    assert store.records() == []
    assert list(store.damaged()) == [run.key]
    finished(store, run)
    assert store.is_finished(run.key)


def test_a_run_whose_predictions_are_cut_is_not_finished(tmp_path):
    store, (run,) = Store(tmp_path), quick_runs(1)
    finished(store, run)
    assert store.is_finished(run.key)
    maps = store.path(run.key) / "predictions" / "maps.npy"
    maps.write_bytes(b"1234")
    assert not store.is_finished(run.key)
    assert list(store.damaged()) == [run.key]
    maps.unlink()
    assert not store.is_finished(run.key)


def test_runs_are_listed_by_the_command_line(tmp_path):
    store, runs = Store(tmp_path / "runs"), quick_runs(3)
    finished(store, runs[0])
    finished(store, runs[1])
    cut = store.path(runs[1].key) / "predictions" / "maps.npy"
    cut.unlink()
    with store.claim(runs[2].key) as folder:
        store.write_failure(folder, failure(runs[2], "out of memory", "too large"))
        listed = CliRunner().invoke(app, ["runs", "--out", str(tmp_path)]).stdout.splitlines()
        assert listed == [
            f"{runs[0].key} finished padim on folder/thing, seed 0 image_auroc 0.5000",
            f"{runs[1].key} finished padim on folder/thing, seed 1 image_auroc 0.5000",
            f"{runs[2].key} running",
            f"{runs[1].key} damaged  will be done again: {cut} is gone, and was 8 bytes long",
            f"2 runs in {store.folder}",
        ]
    arguments = ["runs", "--out", str(tmp_path), "--status", "failed", "--csv", str(tmp_path / "runs.csv")]
    listed = CliRunner().invoke(app, arguments).stdout.splitlines()
    assert listed[0] == f"{runs[2].key} failed   padim on folder/thing, seed 2 out of memory: too large"
    assert (tmp_path / "runs.csv").read_text().count("too large") == 1


def three_runs(folder: Path) -> tuple[Store, list[Run]]:
    """Finished, cut and failed."""
    store, runs = Store(folder / "runs"), quick_runs(3)
    finished(store, runs[0])
    finished(store, runs[1])
    (store.path(runs[1].key) / "predictions" / "maps.npy").write_bytes(b"1")
    with store.claim(runs[2].key) as partial:
        store.write_failure(partial, failure(runs[2], "out of memory", "too large"))
    return store, runs


@pytest.mark.parametrize(
    ("selection", "left"),
    [(["--status", "failed"], [0, 1]), (["--status", "damaged"], [0, 2]), (["0000000000000000"], [1, 2])],
)
def test_runs_are_deleted_as_selected_after_asking(tmp_path, selection, left):
    store, runs = three_runs(tmp_path)
    command = ["runs", "--out", str(tmp_path), *selection, "--delete"]
    asked = CliRunner().invoke(app, command, input="n\n")
    assert "Delete these 1 runs? [y/N]: n" in asked.stdout
    assert len(list(store.folder.glob("0*"))) == 3
    done = CliRunner().invoke(app, [*command, "--yes"])
    assert "1 runs deleted." in done.stdout
    assert sorted(entry.name for entry in store.folder.glob("*[0-9a-f]")) == [runs[number].key for number in left]


def test_runs_are_done_again_as_selected_after_asking(tmp_path, monkeypatch):
    store, tree = Store(tmp_path / "runs"), make_tree(tmp_path / "tree")
    settings = {"backbone": "resnet18.tv_in1k", "weights": "random", "size": 64, "crop": None}
    run = Run("folder", str(tree), "padim", "thing", settings)
    with store.claim(run.key) as partial:
        store.write_failure(partial, failure(run, "out of memory", "too large"))
    done = []

    def run_all(runs, _, workers, progress):
        assert workers.conditions.again
        done.extend(one.key for one in runs)
        return [{"status": "finished", "key": one.key} for one in runs]

    monkeypatch.setattr("adlib.runs.selection.run_all", run_all)
    command = ["runs", "--out", str(tmp_path), "--status", "failed", "--rerun", "--jobs", "1"]
    asked = CliRunner().invoke(app, command, input="n\n")
    assert "Do again these 1 runs? [y/N]: n" in asked.stdout
    assert done == []
    again = CliRunner().invoke(app, [*command, "--yes"])
    assert "1 runs done, 0 failures." in again.stdout
    assert done == [run.key]
    shutil.rmtree(tree)
    gone = CliRunner().invoke(app, [*command, "--yes"])
    assert gone.exit_code == 1
    assert "0 runs done, 0 failures." in gone.stdout
    assert f"failed: {run.key}: {tree}" in gone.output


def test_a_run_that_is_worked_on_is_not_deleted(tmp_path):
    store, runs = three_runs(tmp_path)
    with store.claim(runs[2].key) as partial:
        done = CliRunner().invoke(app, ["runs", "--out", str(tmp_path), runs[2].key, "--delete", "--yes"])
        assert partial.is_dir()
    assert done.exit_code == 1
    assert "some process works on it" in done.output
    assert store.record(runs[2].key)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--status", "falied"], "a run is finished, failed, running, damaged"),
        (["--delete", "--yes"], "Say which runs"),
        (["0000000000000000", "--delete", "--rerun", "--yes"], "not both"),
        (["ffff", "--delete"], "has the key 'ffff'"),
    ],
)
def test_what_selects_no_runs_is_refused_in_a_sentence(tmp_path, arguments, message):
    store, _ = three_runs(tmp_path)
    done = CliRunner().invoke(app, ["runs", "--out", str(tmp_path), *arguments])
    assert isinstance(done.exception, InputError)
    assert message in str(done.exception)
    assert len(list(store.folder.glob("0*"))) == 3


def test_a_finished_run_that_is_done_again_is_replaced_by_a_finished_one_alone(workers, tmp_path):
    store, (run,) = Store(tmp_path), quick_runs(1)
    run_all([run], store, workers, False, leaves_a_record())
    before = store.record(run.key)
    for status in ("failed", "finished"):
        with store.claim(run.key, again=True) as partial:
            assert partial is not None
            more = {"kind": "error", "reason": "why"} if status == "failed" else {"metrics": {"image_auroc": 1.0}}
            write_json(partial / "record.json", before | {"status": status} | more)
        assert store.is_finished(run.key)
        assert (store.record(run.key) == before) == (status == "failed")


def test_a_report_of_a_folder_that_is_none_is_refused(tmp_path):
    done = CliRunner().invoke(app, ["report", "--out", str(tmp_path)])
    assert "has no runs, notebooks or plans in it" in str(done.exception)
    assert list(tmp_path.iterdir()) == []


# The estimate


def test_estimate_scales_what_was_timed_and_says_what_is_guessed(tmp_path):
    tree, store = make_tree(tmp_path / "tree"), Store(tmp_path / "runs")  # 14 images, 8 of them test images
    settings = {"backbone": "resnet18.tv_in1k", "weights": "random", "size": 64, "crop": None}
    runs = [Run("folder", str(tree), "padim", "thing", settings, seed) for seed in range(3)]
    other = Run("folder", str(tree), "padim", "thing", settings | {"smoothing": 2}, 0)
    counts = {"thing": {"train": 6, "test_normal": 4, "test_anomalous": 4}}
    for run, seconds in ((runs[0], 70.0), (runs[1], 140.0)):
        finished(store, run, seconds={"fit": seconds}, data={"fingerprint": "d0", "phantom": None, "counts": counts})
    found = estimate([*runs, other], store)
    assert (found.timed, found.guessed) == (1, 1)
    assert found.hours == pytest.approx(105 / 3600 + GUESSED_HOURS)
    assert found.disk_bytes == 2 * (8 * 64 * 64 * 2 + 2_000_000)
    assert "1 of them were never timed and are guessed at 0.5 hours each" in str(found)
    assert str(estimate(runs[:2], store)) == "Nothing is left to do."


def test_the_last_part_of_a_resumed_run_is_no_time_to_estimate_by(tmp_path):
    tree, store = make_tree(tmp_path / "tree"), Store(tmp_path / "runs")
    settings = {"backbone": "resnet18.tv_in1k", "weights": "random", "size": 64, "crop": None}
    runs = [Run("folder", str(tree), "padim", "thing", settings, seed) for seed in range(2)]
    data = {"fingerprint": "d0", "phantom": None, "counts": {"thing": {"train": 6}}}
    finished(store, runs[0], seconds={"fit": 1.0}, data=data, resumed=True)
    found = estimate(runs, store)
    assert (found.timed, found.guessed, found.hours) == (0, 1, GUESSED_HOURS)


def test_estimate_prefers_runs_that_took_nothing_over_from_others(tmp_path):
    tree, store = make_tree(tmp_path / "tree"), Store(tmp_path / "runs")
    settings = {"backbone": "resnet18.tv_in1k", "weights": "random", "size": 64, "crop": None}
    runs = [Run("folder", str(tree), "padim", "thing", settings, seed) for seed in range(3)]
    counts = {"thing": {"train": 6, "test_normal": 4, "test_anomalous": 4}}
    counts = {"data": {"fingerprint": "d0", "phantom": None, "counts": counts}}
    finished(store, runs[0], seconds={"fit": 10.0}, shared={"features_read": 14}, **counts)
    assert estimate(runs, store).hours == pytest.approx(2 * 10 / 3600)
    finished(store, runs[1], seconds={"fit": 70.0}, shared={"features_read": 0}, **counts)
    assert estimate(runs, store).hours == pytest.approx(70 / 3600)
