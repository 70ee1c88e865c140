"""The repository itself: packages in step, notebooks clean, make targets explained."""

import ast
import copy
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY
from packaging.requirements import Requirement

CONDA_NAMES = {"torch": "pytorch", "opencv-python-headless": "opencv", "playwright": "playwright-python"}
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
tracked = subprocess.run(["git", "-C", str(REPOSITORY), "ls-files"], capture_output=True, text=True, check=False).stdout


def requirements() -> dict[str, str]:
    """name -> version range, of everything in pyproject.toml."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    listed = map(Requirement, project["dependencies"] + project["optional-dependencies"]["test"])
    return {requirement.name: str(requirement.specifier) for requirement in listed}


def test_environment_yml_agrees_with_pyproject():
    listed = yaml.safe_load((REPOSITORY / "environment.yml").read_text())["dependencies"]
    conda = dict((*entry.split(maxsplit=1), "")[:2] for entry in listed)
    expected = {CONDA_NAMES.get(name, name): version for name, version in requirements().items()}
    assert conda.pop("python") == ">=3.11,<3.14"
    assert conda.pop("pip") == ""
    assert conda == expected


def test_constraints_pin_every_requirement_within_its_range():
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()[1:]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9a-z.]+", line) for line in lines)
    pinned = dict(line.split("==") for line in lines)
    for name, versions in requirements().items():
        assert Requirement(f"{name}{versions}").specifier.contains(pinned[name])


def test_every_file_says_what_it_is_for():
    for file in [*REPOSITORY.glob("adlib/**/*.py"), *REPOSITORY.glob("tests/**/*.py")]:
        docstring = ast.get_docstring(ast.parse(file.read_text()))
        assert docstring, f"{file} has no docstring"
        assert not docstring[0].islower() or docstring.startswith("adlib"), file


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebook_is_clean(file):
    notebook = json.loads(file.read_text())
    assert notebook["cells"][0]["cell_type"] == "markdown"
    assert "".join(notebook["cells"][0]["source"]).startswith("# ")
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in code) == 1
    for cell in code:
        assert cell["outputs"] == []
        assert cell["execution_count"] is None
        assert len("".join(cell["source"]).splitlines()) <= 15


@pytest.mark.parametrize(
    "file", [file for file in NOTEBOOKS if "62" <= file.stem[:2] <= "69"], ids=lambda file: file.stem
)
def test_tables_of_studies_round_nothing_to_the_whole(file):
    """By adlib.rounding: 99.96 % of recall is not 100.0. Odds have no whole."""
    lines = [line for cell in json.loads(file.read_text())["cells"] for line in cell["source"]]
    assert [line for line in lines if ".round(" in line and "what_decides" not in line] == []


def stripped(folder: Path, notebook: dict) -> dict:
    """What git stores of a notebook in a checkout of `folder`: `git add` and read back."""
    (folder / "notebooks").mkdir(exist_ok=True)
    (folder / "notebooks" / "ran.ipynb").write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")
    subprocess.run(["git", "-C", folder, "add", "notebooks/ran.ipynb"], check=True)
    return json.loads(subprocess.check_output(["git", "-C", folder, "show", ":notebooks/ran.ipynb"]))


@pytest.mark.skipif(not shutil.which("git"), reason="no git here")
def test_outputs_are_stripped_on_commit(tmp_path):
    """A notebook that was run and saved by JupyterLab is committed as it was before, once `make setup` was done."""
    for name in ("Makefile", ".gitattributes", "pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    # An environment that make finds up to date: this test is about the filter, not about pip.
    (tmp_path / "env" / "bin").mkdir(parents=True)
    python = tmp_path / "env" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    setup = ["make", "-s", "-C", tmp_path, "--touch", "setup", "VENV=env"]
    subprocess.run(setup, check=True)
    subprocess.run([word for word in setup if word != "--touch"], check=True)  # a folder that is no git checkout
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    subprocess.run([word for word in setup if word != "--touch"], check=True)

    clean = json.loads((REPOSITORY / "notebooks" / "02_inspect.ipynb").read_text())
    ran = copy.deepcopy(clean)
    ran["metadata"]["language_info"] |= {"version": "3.13.0", "file_extension": ".py", "mimetype": "text/x-python"}
    ran["metadata"]["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    for number, cell in enumerate(cell for cell in ran["cells"] if cell["cell_type"] == "code"):
        cell["execution_count"] = number
        cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": ["secret\n"]}]
        cell["metadata"] |= {"execution": {"iopub.execute_input": "2026-01-01"}}
    assert stripped(tmp_path, ran) == clean
    assert "secret" in (tmp_path / "notebooks" / "ran.ipynb").read_text()  # the file itself keeps its outputs


@pytest.mark.parametrize("stated", ["grey_share", "local_contrast"])
def test_what_is_measured_of_another_class_is_not_called_as_the_papers(stated):
    """Notebook 10 measures the class that `studied` names; what the paper states is of UB."""
    import pandas as pd

    import adlib

    cells = json.loads((REPOSITORY / "notebooks" / "10_cxr_ad_data.ipynb").read_text())["cells"]
    (cell,) = [cell for cell in cells if f'"{stated}"' in "".join(cell["source"])]
    names = {"adlib": adlib, "pd": pd, "studied": "DC", "histograms": {}, "contrasts": {}}
    if stated == "local_contrast":
        names["contrasts"] = {"ring": pd.DataFrame({"contrast": [0.1, -0.2]})}
    *lines, shown = "".join(cell["source"]).splitlines()
    exec("\n".join([*lines, f"shown = {shown}"]), names)
    assert {name.partition(":")[0] for name in names["shown"].columns} == {"DC", "UB"}


@pytest.mark.slow
def test_first_notebook_runs_in_a_fresh_kernel(tmp_path):
    from adlib.runs.execute import execute_notebook

    execute_notebook("00_start_here", tmp_path / "out.ipynb", {}, progress=False)


def test_make_help_explains_every_target():
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = re.search(r"\.PHONY: (.*)", makefile)[1].split()
    shown = subprocess.check_output(["make", "-s", "-C", str(REPOSITORY), "help"], text=True)
    for target in targets:
        assert re.search(rf"^{target}\s+\S", shown, re.MULTILINE), target
    assert {"setup", "reproduce", "test", "test-browser", "lab", "report", "bench", "lint", "clean"} <= set(targets)


@pytest.mark.skipif(not tracked, reason="not a git checkout")
def test_data_and_reports_are_not_in_git():
    inside = [name for name in tracked.splitlines() if name.startswith(("data/", "reports/"))]
    assert inside == ["data/README.md", "reports/README.md"]
