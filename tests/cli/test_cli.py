"""The command line: what it prints, and its exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, make_tree
from conftest import command_line as adlib
from typer.testing import CliRunner

from adlib import InputError
from adlib.cli.commands import app
from adlib.cli.doctor import examine, explain_torch_failure


def test_the_package_is_the_command():
    command = [sys.executable, "-m", "adlib", "table", "cxr_ad", "--format", "latx"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("adlib: ")
    assert done.stderr.count("\n") == 1


def test_lists():
    assert "CC BY-NC-SA 4.0" in adlib("datasets").stdout
    assert "coreset_ratio = 0.1" in adlib("models", "patchcore").stdout
    table = adlib("models").stdout.splitlines()
    assert table[0].split() == ["method", "family", "year", "scores", "trained", "weights", "data", "joint", "papers"]
    assert any(line.startswith("patchcore ") and line.endswith("cxr_ad, miic") for line in table)
    assert "table II" in adlib("papers").stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["check", "mvtec_ad", "--root", "nowhere"], "nowhere does not exist. MVTec AD: download"),
        (["run", "cxr_ad", "patchcor", "--root", "tests"], "Did you mean 'patchcore'?"),
        (["run", "folder", "patchcore", "--root", "tests", "--set", "coreset_rate=1"], "Did you mean 'coreset_ratio'?"),
        (["run", "folder", "patchcore", "--root", "tests", "--set", "sizes=64"], "Did you mean 'size'?"),
        (["check", "mvtecad", "--root", "tests"], "Did you mean 'mvtec_ad'?"),
        (["table", "cxr_ad", "--format", "latx"], "Did you mean 'latex'?"),
        (["run", "folder", "patchcore", "--root", "tests", "--set", "size"], "expected name=value"),
        (["run", "folder", "padim", "size=64", "--root", "tests", "--set", "size=128"], "size is set twice, to 128"),
        (["reproduce", "nature"], "Unknown paper 'nature'"),
        (["reproduce", "--profile", "paper"], "needs data: give --data DIR"),
        (["table", "cxr_ad", "IX"], "no benchmark table 'IX'"),
        (["phantoms", "imagenet", "--out", "x"], "imagenet"),
        (["runs", "--status", "done"], "Unknown status 'done'"),
        (["runs", "--out", "a" * 300], "File name too long"),
        (["report", "--out", "Makefile"], "Makefile"),
        (["inspect", "--out", "tests"], "There is no finished run in"),
        (["fetch", "mpdd", "--out", "tests/x", "--address", "http://[::1"], "no http or https address"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(arguments, sentence):
    done = adlib(*arguments)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.startswith("adlib: ")
    assert "Traceback" not in done.stderr


def test_every_name_that_is_mistyped_is_answered_with_the_one_that_was_meant(tmp_path):
    from adlib.runs.environment import notebook

    root = make_tree(tmp_path)
    run = ["run", "folder", "patchcore", "--root", str(root)]
    for arguments, meant in (
        (["fitt"], "fit"),
        (["weights", "lst"], "list"),
        (["models", "patchcor"], "patchcore"),
        ([*run, "--category", "thin"], "thing"),
        ([*run, "--set", "image_score=rewighted"], "reweighted"),
        ([*run, "--set", "weights=bundle"], "bundled"),
        ([*run, "--set", "weights=random", "--set", "backbone=resnt18"], "resnet18"),
        (["plan", "cxr_da"], "cxr_ad"),
        (["plan", "--profile", "smok"], "smoke"),
        (["table", "cxr_ad", "IIx"], "II"),
        (["phantoms", "cxr_add", "--out", str(tmp_path / "x")], "cxr_ad"),
        (["phantoms", "cxr_ad", "--counts", "smal", "--out", str(tmp_path / "x")], "small"),
    ):
        done = CliRunner().invoke(app, arguments)
        assert f"Did you mean '{meant}'" in f"{done.output} {done.exception}", arguments
    with pytest.raises(InputError, match="Did you mean '70_your_own_data'"):
        notebook("70_your_data")


def test_check_exit_codes(tmp_path):
    root = make_tree(tmp_path)
    good = adlib("check", "folder", "--root", root)
    assert good.returncode == 0
    assert "6 / 4 / 4" in good.stdout
    (root / "thing" / "test" / "good" / "000.png").write_bytes(b"")
    bad = adlib("check", "folder", "--root", root)
    assert bad.returncode == 1
    assert "is empty (0 bytes)" in bad.stdout


@pytest.mark.parametrize("dataset", ["cxr_ad", "miic"])
def test_phantoms_are_drawn_and_checked(dataset, tmp_path):
    drawn = adlib("phantoms", dataset, "--out", tmp_path / "drawn", "--size", 64)
    assert drawn.returncode == 0, drawn.stderr
    assert drawn.stdout.strip() == str(tmp_path / "drawn")
    checked = adlib("check", dataset, "--root", tmp_path / "drawn")
    assert checked.returncode == 0, checked.stdout
    assert "This is a phantom, drawn by adlib with seed 0" in checked.stdout
    assert "images found" in checked.stdout  # fewer than published, which is worth a remark


def test_table_without_runs_prints_the_published_one(tmp_path):
    done = adlib("table", "cxr_ad", "II", "--out", tmp_path)
    assert done.returncode == 0
    assert "56.58" in done.stdout


@pytest.mark.slow
def test_run_takes_several_settings_after_set(tmp_path):
    """`--set a=1 b=2`, as in the README."""
    root = make_tree(tmp_path / "tree")
    settings = ["--set", "backbone=resnet18.tv_in1k", "weights=random", "size=64", "crop=null", "coreset_ratio=0.05"]
    done = adlib("run", "folder", "patchcore", "--root", root, *settings, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    record, page = done.stdout.splitlines()[:2]
    assert record.endswith("record.json")
    assert "image_auroc" in done.stdout
    assert "Random weights" in done.stderr
    assert "patchcore on folder, seed 0" in Path(page).read_text()


def test_doctor_finds_this_machine_fit(tmp_path):
    findings = {finding.what: finding for finding in examine(data=tmp_path)}
    assert findings["torch"].state == "ok"
    assert findings["jupyter"].state == "ok"
    assert findings["data: mvtec_ad"].state == "note"
    assert "download" in findings["data: mvtec_ad"].text


def test_doctor_explains_a_torch_that_does_not_match_torchvision():
    text = explain_torch_failure("Traceback ...\nRuntimeError: operator torchvision::nms does not exist\n")
    assert "built for different devices" in text
    assert text.count(". ") == 0  # one sentence
    assert "ModuleNotFoundError: No module named 'timm'" in explain_torch_failure(
        "ModuleNotFoundError: No module named 'timm'"
    )


def test_import_is_light():
    script = (
        "import sys, time; start = time.perf_counter(); import adlib; "
        "print(time.perf_counter() - start, 'torch' in sys.modules)"
    )
    seconds, torch_loaded = subprocess.check_output([sys.executable, "-c", script], cwd=REPOSITORY, text=True).split()
    assert float(seconds) < 0.2
    assert torch_loaded == "False"


def test_the_version_and_the_completion_of_a_shell_are_printed():
    from adlib import __version__

    assert adlib("--version").stdout.strip() == __version__
    # Which shell asks is guessed from the processes above, among which a test may have none.
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    assert "completion" in adlib("--show-completion", "bash", **named).stdout


def test_from_a_folder_to_a_detector_to_a_list_by_the_command_line_alone(tmp_path):
    tree, detector, out = make_tree(tmp_path) / "thing", tmp_path / "d.safetensors", tmp_path / "out"
    sets = ["backbone=resnet18.tv_in1k", "weights=random", "size=64", "coreset_ratio=0.5"]

    def run(*arguments: object) -> str:
        done = CliRunner().invoke(app, [*map(str, arguments)])
        assert done.exit_code == 0, done.output
        return done.output

    settings = [word for one in sets for word in ("--set", one)]
    said = run("fit", tree, "--out", detector, "--rate", "0.2", "--folds", "2", "--device", "cpu", *settings)
    assert "false alarms to expect" in said
    assert "normal images 4" in said
    assert "8 images" in run("predict", detector, tree / "test", "--out", out, "--device", "cpu")
    assert {file.name for file in out.iterdir()} == {"scores.csv", "scores.json", "regions.csv", "maps", "masks"}
    assert "from 4 normal images" in run("threshold", detector, tree, "--device", "cpu")
    said = run("bench", detector, tree / "test", "--number", "2")
    assert "2 images one at a time" in said and "p95" in said
    assert "9 looks at 8 images one at a time" in run("bench", detector, tree / "test", "--number", "9")
    assert "2 drawn images of 64 x 64 pixels" in run("bench", detector, "--number", "2")
    used = "cuda" if torch.cuda.is_available() else "cpu"
    assert f"patchcore on {used}, 2 drawn" in run("bench", detector, "--number", "2", "--device", "auto")


@pytest.mark.parametrize(
    ("begun", "offered"),
    [
        ("expo", ["export"]),
        ("run mi", ["miic"]),
        ("run miic padi", ["padim"]),
        ("fit parts --method simplen", ["simplenet"]),
        ("models glas", ["glass"]),
        ("reproduce study/co", ["study/cost"]),
        ("table isp", ["isp_ad"]),
        ("phantoms texture", ["texture_ad"]),
        ("predict --no-m", ["--no-maps"]),
    ],
)
def test_a_shell_completes_commands_options_and_names(begun, offered):
    words = ["adlib", *begun.split()]
    environment = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1), "_ADLIB_COMPLETE": "complete_bash"}
    found = CliRunner().invoke(app, prog_name="adlib", env=environment)
    assert found.output.split() == offered
