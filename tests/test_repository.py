"""The repository itself: packages in step, notebooks clean, make targets explained."""

import ast
import json
import re
import subprocess
import tomllib

import pytest
import yaml
from conftest import REPOSITORY
from packaging.requirements import Requirement

CONDA_NAMES = {"torch": "pytorch", "opencv-python-headless": "opencv"}
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
    for file in [*REPOSITORY.glob("adlib/**/*.py"), *REPOSITORY.glob("tests/*.py")]:
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
    assert {"setup", "reproduce", "test", "lab", "report", "bench", "lint", "clean"} <= set(targets)


@pytest.mark.skipif(not tracked, reason="not a git checkout")
def test_data_and_reports_are_not_in_git():
    inside = [name for name in tracked.splitlines() if name.startswith(("data/", "reports/"))]
    assert inside == ["data/README.md", "reports/README.md"]
