"""Which adlib ran: the files as they were imported, in a clone that is edited while it runs."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import REPOSITORY, make_tree

from adlib.code_version import code_text
from adlib.runs import Recorder, Run, environment

ASK = "import json; from adlib.runs.environment import code; "


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A clone of this adlib whose files are those of its commit."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(REPOSITORY / "adlib", folder / "adlib", ignore=shutil.ignore_patterns("__pycache__", "bundled"))
    (folder / ".gitignore").write_text("__pycache__/\n/reports/\nmine_*.py\n")
    who = ["-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false"]
    for arguments in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "all"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    return folder


@pytest.fixture
def clone(clean, tmp_path):
    return shutil.copytree(clean, tmp_path / "clone")


def dirty(clone, script: str = "") -> bool:
    return said(clone, script)["dirty"]


def said(clone, script: str = "") -> dict:
    """What a new process of the clone says at its end, after a script that may edit `file`."""
    script = f"{ASK}\nfrom pathlib import Path\nfile = Path('adlib/rounding.py')\n{script}\nprint(json.dumps(code()))"
    variables = os.environ | {"PYTHONPATH": str(clone), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", script], cwd=clone, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_clone_is_clean_until_one_of_its_files_is_changed(clone):
    assert dirty(clone) is False
    (clone / "adlib" / "rounding.py").write_text("NEW = 1\n")
    assert dirty(clone) is True


@pytest.mark.parametrize(
    "name, counts",
    [
        ("adlib/models/zzz.py", True),
        ("adlib/models/mine_ignored.py", True),
        ("adlib/papers/new/paper.yaml", True),
        ("adlib/papers/new/table_1.csv", True),
        ("adlib/models/.ipynb_checkpoints/zzz-checkpoint.py", False),
        ("adlib/notes.txt", False),
        ("reports/results.csv", False),
        ("own.py", False),
    ],
)
def test_new_files_count_where_they_are_part_of_adlib(clone, name, counts):
    (clone / name).parent.mkdir(parents=True, exist_ok=True)
    (clone / name).write_text("")
    assert dirty(clone) is counts


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adlib/rounding.py", "adlib/models/zzz.py"])
def test_two_uncommitted_states_of_a_commit_are_told_apart(clone, name):
    assert "changes" not in said(clone)
    states = []
    for text in ("A = 1", "A = 2", "A = 1"):
        (clone / name).write_text(text)
        states.append(said(clone))
    assert states[0] == states[2]
    first, second, _ = map(code_text, states)
    assert first != second and first.split(" (")[0] == second.split(" (")[0]


EDIT = "import time; time.sleep(0.05); old = file.read_text(); file.write_text('NEW = 1'); "
UNDO = "file.write_text(old); "


def test_the_code_is_that_which_was_imported_not_what_the_files_are_at_the_end(clone):
    assert dirty(clone, f"import adlib.rounding; code(); {EDIT}") is False


def test_a_module_that_was_imported_after_an_edit_counts(clone):
    assert dirty(clone, f"code(); {EDIT} import adlib.rounding; {UNDO}") is True
    assert dirty(clone, f"{EDIT} import adlib.rounding; {UNDO} code()") is True


def test_a_run_asks_when_it_begins(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(environment, "code", lambda: asked.append(1) or {})
    Recorder(Run("folder", str(make_tree(tmp_path)), "padim", "thing"))
    assert asked
