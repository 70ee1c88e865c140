"""What browser tests need around the page: stored runs, JupyterLab and the app as a person starts them, Chromium."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from conftest import REPOSITORY, make_tree
from playwright.sync_api import Browser, sync_playwright

SHARES = (0.1, 0.5)  # coreset ratios of the two stored runs
OWN, CATEGORY = "connector_housings_of_line_3_night_shift", "left_side_after_the_second_soldering"


def make_workplace(folder: Path) -> Path:
    """A folder laid out as the repository: notebooks/, and reports/ with two runs on the same 8 test images."""
    from adlib.runs import Recorder, Run

    shutil.copytree(REPOSITORY / "notebooks", folder / "notebooks")
    tree = make_tree(folder / "data" / OWN, CATEGORY, train=4)
    for share in SHARES:
        settings = {
            "backbone": "resnet18.tv_in1k",
            "weights": "random",
            "coreset_ratio": share,
            "size": 64,
            "crop": None,
        }
        run = Run("folder", str(tree), "patchcore", CATEGORY, settings, device="cpu")
        recorder, model = Recorder(run), run.create_model()
        with recorder.phase("fit"):
            model.fit(run.images("train"), device="cpu", progress=False)
        with recorder.phase("predict"):
            predictions = model.predict(run.images("test"), device="cpu", progress=False)
        from adlib import evaluate

        recorder.finish(model, predictions, evaluate(predictions), folder / "reports" / "runs" / run.key)
    return folder


def crowd(workplace: Path, number: int = 12) -> None:
    """Beside its two runs some more of the same data, older, that differ in their seed alone; and one of other data."""
    runs = workplace / "reports" / "runs"
    record = stored(workplace)[0]
    for seed in range(1, number + 2):
        copy = json.loads(json.dumps(record)) | {"key": f"{seed:016x}", "ended": "2020-01-01T00:00:00+00:00"}
        copy["run"]["seed"] = seed
        if seed > number:
            copy["data"]["fingerprint"], copy["data"]["counts"] = "other", {CATEGORY: {"train": 5}}
        del copy["checksum"]
        shutil.copytree(runs / record["key"] / "predictions", runs / copy["key"] / "predictions")
        (runs / copy["key"] / "record.json").write_text(json.dumps(copy))


def _environment(home: Path) -> dict[str, str]:
    """The shell of somebody who has never used Jupyter, with this adlib."""
    jupyter = {f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTER")}
    return inherited | jupyter | {"HOME": str(home), "PYTHONPATH": str(REPOSITORY), "JUPYTER_PREFER_ENV_PATH": "1"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def _process(command: list[str], folder: Path, home: Path, log: Path) -> Iterator[subprocess.Popen]:
    """A program in a session of its own, ended with all that it has started."""
    with log.open("w") as output:
        program = subprocess.Popen(
            command, cwd=folder, env=_environment(home), stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield program
    finally:
        program.terminate()
        try:
            program.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(program.pid, signal.SIGKILL)
            program.wait()


def _wait(program: subprocess.Popen, log: Path, found, seconds: float = 90):
    """The first value of found() that is true; AssertionError with the log when the program ends or time is up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and program.poll() is None:
        if value := found():
            return value
        time.sleep(0.2)
    raise AssertionError(f"The server did not start:\n{log.read_text()[-3000:]}")


@contextlib.contextmanager
def jupyter_lab(workplace: Path, home: Path) -> Iterator[str]:
    """JupyterLab with the repository's configuration, over a workplace; yields the address that it opens itself."""
    log = home / "lab.log"
    config = REPOSITORY / "nbconfig" / "jupyter_lab_config.py"
    command = [sys.executable, "-m", "jupyter", "lab", "--config", str(config), "--no-browser"]
    command += [f"--ServerApp.root_dir={workplace}", f"--port={_free_port()}"]
    with _process(command, workplace, home, log) as program:
        yield _wait(program, log, lambda: re.search(r"http://127\.0\.0\.1:\S+token=\w+", log.read_text()))[0]


@contextlib.contextmanager
def inspector_app(workplace: Path, home: Path) -> Iterator[str]:
    """`adlib inspect --out reports`; yields the address that it prints."""
    log = home / "app.log"
    command = [sys.executable, "-m", "adlib", "inspect", "--out", "reports", "--port", str(_free_port())]
    with _process(command, workplace, home, log) as program:
        yield _wait(program, log, lambda: re.search(r"http://127\.0\.0\.1:\S+token=\w+", log.read_text()))[0]


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """The Chromium of this machine, without a window. As root it does not start inside its own sandbox."""
    options = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=options)
        yield browser
        browser.close()


def stored(workplace: Path) -> list[dict]:
    """Records of the workplace's runs, oldest first, as the inspector names them in its menu of methods."""
    files = (workplace / "reports" / "runs").glob("*/record.json")
    records = [json.loads(file.read_text()) for file in files]
    records = [record for record in records if record["run"]["seed"] == 0]
    return sorted(records, key=lambda record: record["parameters"]["coreset_ratio"])
