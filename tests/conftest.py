"""Shared by all tests: small trees of images, where the real images may be, and who runs beside whom."""

import contextlib
import copy
import gc
import io
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import cv2
import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
LARGE = 64 * 2**20  # bytes of a network of which no copy is kept
# Processes that run tests side by side share the processors, instead of each taking all of them.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    share = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(share))


def pytest_collection_modifyitems(items):
    """Give one process all tests of a file, or of a method in files that try every method: they share fixtures."""
    from adlib import list_models

    for item in items:
        values = item.callspec.params.values() if hasattr(item, "callspec") else []
        methods = [value for value in values if isinstance(value, str) and value in list_models()]
        item.add_marker(pytest.mark.xdist_group(" ".join([item.path.name, *methods[:1]])))


def pytest_collection_finish():
    """What was imported until here stays to the end: garbage is looked for among the rest, in less time."""
    gc.freeze()


def pytest_sessionfinish():
    """At the end it is garbage as well: libraries would call it leaked."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real images beside the repository (or ADLIB_REAL); tests that need it skip without it."""
    folder = Path(os.environ.get("ADLIB_REAL", REPOSITORY.parent / "shared" / "real"))
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}: set ADLIB_REAL to try the software on them")
    return folder


@pytest.fixture(scope="session")
def resnet18_weights(real) -> Path:
    """ImageNet weights of ResNet-18, layers 1 to 3, beside the real images."""
    file = real.parent / "weights" / "resnet18.tv_in1k.safetensors"
    if not file.is_file():
        pytest.skip(f"no weights at {file}")
    return file


@pytest.fixture(scope="session", autouse=True)
def networks_drawn_once():
    """Copies of timm's networks where one was made of the same arguments by the same random numbers: to draw them time
    and again took an eighth of all tests' time.
    """
    import timm  # here, for the process that only hands out tests needs neither
    import torch

    make, kept = timm.create_model, {}

    def create_model(*arguments, **named):
        conditions = torch.get_default_device(), torch.get_default_dtype(), torch.is_inference_mode_enabled()
        key = repr((arguments, named, conditions)), torch.get_rng_state().numpy().tobytes()
        if key in kept:
            network, drawn = kept[key]
            torch.set_rng_state(drawn)
            return copy.deepcopy(network)
        network = make(*arguments, **named)
        if sum(value.nbytes for value in network.parameters()) < LARGE:
            kept[key] = copy.deepcopy(network), torch.get_rng_state()
            if len(kept) > 12:
                del kept[next(iter(kept))]
        return network

    with patch.object(timm, "create_model", create_model):
        yield


def command_line(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    """What `adlib ARGUMENTS` prints and how it exits; in this process, since a new one imports torch for seconds."""
    from adlib.cli import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.chdir(REPOSITORY),
        patch.dict(os.environ, environment),
        patch.object(sys, "argv", ["adlib", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def write(path: Path, pixels: np.ndarray) -> Path:
    """Write an image, making its folder; the format follows the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
    return path


def make_tree(
    root: Path, category: str = "thing", train: int = 6, normal: int = 4, anomalous: int = 4, size: int = 64
) -> Path:
    """An MVTec-like tree of noisy stripes in which the anomalous images carry a bright square with an exact mask."""
    rng = np.random.default_rng(0)
    stripes = 90 + 40 * np.sin(np.arange(size) / 3)[None, :] * np.ones((size, 1))

    def picture() -> np.ndarray:
        return np.clip(stripes + rng.normal(0, 4, (size, size)), 0, 255).astype(np.uint8)

    for split, number in (("train", train), ("test", normal)):
        for index in range(number):
            write(root / category / split / "good" / f"{index:03}.png", picture())
    for index in range(anomalous):
        image, mask = picture(), np.zeros((size, size), np.uint8)
        top, left = rng.integers(size // 4, size // 2, 2)
        mask[top : top + size // 6, left : left + size // 6] = 255
        image[mask > 0] = 220
        write(root / category / "test" / "square" / f"{index:03}.png", image)
        write(root / category / "ground_truth" / "square" / f"{index:03}_mask.png", mask)
    return root


@pytest.fixture
def tree(tmp_path) -> Path:
    """A small MVTec-like tree with the one category "thing"."""
    return make_tree(tmp_path / "tree")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Tests leave nothing in the user's cache, and take nothing from it."""
    given = os.environ.get("ADLIB_CACHE")
    os.environ["ADLIB_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if given is None:
        del os.environ["ADLIB_CACHE"]
    else:
        os.environ["ADLIB_CACHE"] = given


def finished_record(key: str, run: dict | None = None, **more) -> dict:
    """A record as a run leaves it, with little in it; `more` replaces or adds fields."""
    place = {"dataset": "folder", "root": "/data", "method": "padim", "category": "thing", "settings": {}, "seed": 0}
    return {
        "version": 1,
        "status": "finished",
        "key": key,
        "run": place | (run or {}),
        "parameters": {},
        "images": {"size": [64, 64], "crop": None},
        "data": {"fingerprint": "d0", "phantom": None},
        "warnings": [],
        "metrics": {"image_auroc": 0.5},
        "seconds": {"fit": 1.0, "predict": 2.0},
        "environment": {"python": "3.12"},
        "code": {"version": "0.1.0", "commit": "abc", "dirty": False},
        "ended": "2026-01-01T00:00:00+00:00",
        **more,
    }


def untrained(name: str, **settings):
    """create_model, but taking trainings of 0 epochs or steps, which leave the networks as they were made."""
    from adlib import create_model

    none = [key for key, value in settings.items() if value == 0 and key.endswith(("epochs", "steps"))]
    model = create_model(name, **{key: value for key, value in settings.items() if key not in none})
    for key in none:
        setattr(model, key, 0)
    return model
