"""What a record says of the machine and the libraries that a run had, and of who asked for it."""

import ctypes
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import pytest
import torch
import torchvision
from conftest import make_tree
from pretended_cuda import gpu
from test_batch import leaves_a_record, quick_runs

from adlib.runs import Run, Store, environment
from adlib.runs.batch import run_all
from adlib.runs.conditions import Conditions
from adlib.runs.execute import execute
from adlib.runs.failures import NotebookFailed
from adlib.runs.record import failure


def test_torch_is_named_with_its_build_and_not_imported_for_that():
    found = environment.versions()
    assert (found["torch"], found["torchvision"]) == (torch.__version__, torchvision.__version__)
    script = "import sys; from adlib.runs.environment import versions; versions(); print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "False"


def test_opencv_is_named_by_the_package_that_it_came_by(monkeypatch):
    def version(name):
        if name != "opencv-contrib-python":
            raise PackageNotFoundError
        return "4.12"

    assert "opencv-contrib-python" not in environment.versions()
    monkeypatch.setattr(environment, "version", version)
    found = environment.versions()
    assert (found["opencv-python-headless"], found["opencv-contrib-python"]) == ("", "4.12")
    assert "opencv-python" not in found


class Library:
    """NVIDIA's, as far as it is asked."""

    def __init__(self, status):
        self.status = status

    def nvmlInit_v2(self):
        return 0

    def nvmlSystemGetDriverVersion(self, text, length):
        text.value = b"580.65.06"
        return self.status

    def nvmlShutdown(self):
        return 0


@pytest.mark.parametrize("library, expected", [(Library(0), "580.65.06"), (Library(3), ""), (SimpleNamespace(), "")])
def test_a_gpu_is_told_with_cuda_cudnn_and_driver(monkeypatch, library, expected):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library)
    with gpu():
        facts = environment.hardware("cuda")
    assert (facts["cuda"], facts["driver"]) == (torch.version.cuda or "", expected)
    assert facts["cudnn"] == str(torch.backends.cudnn.version() or "")
    assert "driver" not in environment.hardware("cpu")


def test_a_cudnn_that_does_not_fit_the_gpu_ends_no_run(monkeypatch):
    def refuses():
        raise RuntimeError("cuDNN version 91100 is not compatible with devices with SM < 7.5.")

    monkeypatch.setattr(torch.backends.cudnn, "version", refuses)
    with gpu():
        assert environment.hardware("cuda")["cudnn"] == ""


@pytest.mark.parametrize(
    "convolutions, products, override, expected",
    [
        (True, False, "", "convolutions"),
        (True, True, "", "convolutions, matrix products"),
        (False, False, "", "nothing"),
        (True, True, "0", "nothing"),
        (False, False, "1", "convolutions, matrix products"),
    ],
)
def test_what_a_gpu_rounds_to_tf32_is_told(monkeypatch, convolutions, products, override, expected):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", convolutions)
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", override)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if products else "highest")
    try:
        with gpu():
            assert environment.hardware("cuda")["tf32"] == expected
    finally:
        torch.set_float32_matmul_precision(before)
    assert "tf32" not in environment.hardware("cpu")


def test_a_gpu_that_knows_no_tf32_rounds_nothing_to_it(monkeypatch):
    with gpu():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
        assert environment.hardware("cuda")["tf32"] == "nothing"
        monkeypatch.undo()


def test_without_nvidias_library_there_is_no_driver(monkeypatch):
    def missing(name):
        raise OSError

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert environment.driver() == ""


@pytest.mark.parametrize("given", ["", "adlib reproduce cxr_ad"])
def test_a_kernel_is_told_which_command_line_asked_for_its_run(tmp_path, monkeypatch, given):
    monkeypatch.setenv("ADLIB_COMMAND", "another, whose child this process is")
    monkeypatch.setattr(sys, "argv", ["adlib", "run", "two words"])
    told = []

    def fails(*_):
        told.append(environment.command_line())
        raise NotebookFailed("error", "of no interest")

    monkeypatch.setattr("adlib.runs.execute.execute_notebook", fails)
    run = Run("folder", str(make_tree(tmp_path / "tree")), "padim", "thing", {"weights": "random"})
    record = execute(run, Store(tmp_path / "runs"), conditions=Conditions(command=given))
    assert told == [given or "adlib run 'two words'"] == [record["environment"]["command"]]


def test_the_workers_of_a_batch_are_told_its_command_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["adlib", "reproduce"])
    body = "(__import__('pathlib').Path(folder) / 'asked').write_text(conditions.command)"
    run_all(quick_runs(1), Store(tmp_path), 1, False, leaves_a_record(body))
    assert (tmp_path / "asked").read_text() == "adlib reproduce"


def test_a_record_names_the_command_line(tmp_path, monkeypatch):
    monkeypatch.delenv("ADLIB_COMMAND", raising=False)
    monkeypatch.setattr(sys, "argv", ["own.py", "--fast"])
    assert failure(quick_runs(1)[0], "error", "of no interest")["environment"]["command"] == "own.py --fast"
