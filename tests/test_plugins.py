"""What other packages add: CONTRIBUTING's recipe word for word, and packages that cannot be used."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
from conftest import REPOSITORY, command_line, make_tree

import adlib
from adlib import InputError, plugins
from adlib.datasets import broken_datasets, facts, list_datasets, load_samples
from adlib.models import broken_models, is_surrogate, list_models, method_table, model_class
from adlib.papers import broken_papers, list_papers, protocol
from adlib.phantoms import broken_phantoms, draw, list_phantoms


def recipe() -> dict[str, str]:
    """The files of CONTRIBUTING's package: the first line of each block names its file."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8")
    return dict(re.findall(r"^```\w+\n# (\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


def install(site: Path, files: dict[str, str], entries: dict[str, dict[str, str]], package: str = "lab") -> Path:
    """Leave a package with its entry points in a folder, as pip would."""
    for name, text in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text, "utf-8")
    about = site / f"{package}-1.0.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = (f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in names.items()) for group, names in entries.items())
    (about / "entry_points.txt").write_text("\n".join(lines))
    return site


@pytest.fixture
def visible(monkeypatch):
    """A function that puts a folder of packages in front of Python's path, for this process and for those it starts."""

    def show(site: Path) -> None:
        monkeypatch.syspath_prepend(site)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")])))
        forget()

    def forget() -> None:
        for cached in (plugins._named, plugins._package_code, is_surrogate):
            cached.cache_clear()
        for name in [name for name in sys.modules if name.split(".")[0] in ("lab", "bad")]:
            del sys.modules[name]

    yield show
    monkeypatch.undo()
    forget()


@pytest.fixture
def lab(tmp_path, visible) -> Path:
    files = recipe()
    project = tomllib.loads(files.pop("pyproject.toml"))
    visible(install(tmp_path / "site", files, project["project"]["entry-points"]))
    return tmp_path


def test_a_package_adds_a_method_a_dataset_and_a_paper(lab):
    assert "mean_image" in list_models() and "bolts" in list_datasets() and "bolt_study" in list_papers()
    assert method_table().set_index("method").loc["mean_image", "papers"] == "bolt_study"
    assert adlib.create_model("mean_image", power=2.0).power == 2
    assert adlib.published("bolt_study")["value"].tolist() == [99.1]
    for listing, expected in (("models", "mean_image"), ("datasets", "bolts"), ("papers", "bolt_study")):
        done = command_line(listing)
        assert any(line.startswith(expected) for line in done.stdout.splitlines()), done.stdout
        assert done.stderr == ""


def test_two_states_of_a_package_are_told_apart_in_records_tables_and_before_a_run_is_taken_for_done(lab, tmp_path):
    from adlib.code_version import code_text
    from adlib.report.provenance import code_sentence
    from adlib.runs.record import failure
    from adlib.runs.run import Run
    from adlib.runs.schema import record_problem
    from adlib.runs.standing import done_before, of_other_code

    run = Run("bolts", str(make_tree(tmp_path / "bolts", "hex")), "mean_image", "hex")
    first = failure(run, "error", "it failed")
    assert re.fullmatch("[0-9a-f]{12}", first["code"]["packages"]["lab 1.0"])
    assert record_problem(first, run.key) == ""
    assert done_before(first, run).endswith("nothing was computed anew.") and of_other_code([(first, run)]) == ""
    module = lab / "site" / "lab" / "mean_image.py"
    module.write_text(module.read_text().replace("return maps", "return -maps"))
    plugins._package_code.cache_clear()  # as in the next process
    second = failure(run, "error", "it failed")
    assert second["key"] == first["key"]
    assert "2 states of adlib" in code_sentence(code_text(record["code"]) for record in (first, second))
    sentence = done_before(first, run)
    assert all(record["code"]["packages"]["lab 1.0"] in sentence for record in (first, second))
    assert f"`adlib runs {run.key} --rerun`" in sentence
    assert of_other_code([(first, run), (second, run)]).startswith("1 of 2 runs were done before by other code")


def test_of_adlibs_own_methods_no_package_is_recorded(lab):
    assert plugins.package_code("patchcore", "mvtec_ad") == {}
    assert set(plugins.package_code("patchcore", "bolts")["packages"]) == {"lab 1.0"}


@pytest.mark.slow
def test_its_paper_is_run_and_compared(lab):
    from adlib.report import comparison
    from adlib.runs.execute import execute
    from adlib.runs.plan import Profile, plan, write_plan
    from adlib.runs.store import Store

    make_tree(lab / "data" / "bolts", "hex")
    profile, out = Profile("own", data=str(lab / "data")), lab / "reports"
    (cell,) = cells = plan(["bolt_study"], profile, lab / "none")
    write_plan(cells, profile, out)
    record = execute(cell.run, Store(out / "runs"))
    assert record["status"] == "finished", record["reason"]
    row = comparison("bolt_study", "1", out).iloc[0]
    assert row["published"] == 99.1 and row["ours"] == 100 * record["metrics"]["image_auroc"]
    shown = command_line("table", "bolt_study", "--out", str(out)).stdout
    assert "mean_image" in shown and "99.10" in shown


@pytest.mark.slow
def test_the_tests_that_are_promised_hold_it_to_them(lab):
    rooms = ["tests/models/test_models.py", "tests/models/test_models_facts.py", "tests/datasets", "tests/papers"]
    asked = re.search(r"`pytest ([^`]*)`", (REPOSITORY / "CONTRIBUTING.md").read_text("utf-8"))[1].split()
    assert asked[: len(rooms)] == rooms
    chosen = ["-k", "mean_image or bolts or bolt_study", "-q", "-p", "no:cacheprovider", "-rN", "--tb=short"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *rooms, *chosen], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 12


BROKEN = {  # group -> the entry point's value, and what is said of it
    "adlib.models": ("bad.missing", "names bad.missing, which fails with ModuleNotFoundError: No module named"),
    "adlib.datasets": ("bad.empty", "has to be a module with FACTS and samples"),
    "adlib.phantoms": ("bad.empty", "has to be a module with write"),
    "adlib.papers": ("bad.leaflet", "cannot be read (while parsing"),
}


def test_broken_packages_are_named_and_take_nothing_down(tmp_path, visible):
    files = {"bad/__init__.py": "", "bad/empty.py": "", "bad/leaflet/paper.yaml": "title: [\n"}
    visible(install(tmp_path, files, {group: {"broken_one": value} for group, (value, _) in BROKEN.items()}, "bad"))
    assert "patchcore" in method_table()["method"].tolist()
    assert "broken_one" not in list_papers()
    listings = (broken_models, broken_datasets, broken_phantoms, broken_papers)
    for (_, sentence), listing in zip(BROKEN.values(), listings, strict=True):
        assert sentence in listing()["broken_one"]
    for call in (model_class, facts, draw, protocol):
        with pytest.raises(InputError, match="broken_one"):
            call("broken_one", tmp_path) if call is draw else call("broken_one")
    done = command_line("models")
    assert "patchcore" in done.stdout and "warning: 'broken_one' of adlib.models cannot be used" in done.stderr


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 1", "has to define one subclass of Detector; it defines 0"),
        ("from adlib.detector import Detector\nclass A(Detector): name = 'b'", "Detector with name = 'mine'"),
        ("from adlib.detector import Detector\nclass A(Detector): pass", "Detector with name = 'mine'"),
        ("raise SystemError('no licence')", "fails with SystemError: no licence"),
    ],
)
def test_a_method_that_is_none_says_what_it_lacks(tmp_path, visible, text, sentence):
    visible(install(tmp_path, {"bad/__init__.py": "", "bad/it.py": text}, {"adlib.models": {"mine": "bad.it"}}, "bad"))
    with pytest.raises(InputError, match=re.escape(sentence)):
        adlib.create_model("mine")


def test_nobody_takes_the_place_of_a_method_or_of_one_another(tmp_path, visible):
    files = {"bad/__init__.py": "", "bad/it.py": ""}
    for package in ("one", "two"):
        install(tmp_path, files, {"adlib.models": {"patchcore": "bad.it", "twice": "bad.it"}}, package)
    visible(tmp_path)
    assert model_class("patchcore").__module__ == "adlib.models.patchcore"
    assert "is adlib's own" in broken_models()["patchcore"]
    assert "named in adlib.models by several packages (one, two)" in broken_models()["twice"]


def test_a_package_draws_the_phantom_of_its_dataset(tmp_path, visible):
    text = "def write(out, *, seed=0, size=8):\n    (out / 'drawn.txt').write_text(f'{seed} {size}')\n"
    files = {"bad/__init__.py": "", "bad/drawn.py": text}
    visible(install(tmp_path / "site", files, {"adlib.phantoms": {"bolts": "bad.drawn"}}, "bad"))
    assert "bolts" in list_phantoms()
    assert (draw("bolts", tmp_path / "bolts", seed=3) / "drawn.txt").read_text() == "3 8"


def test_the_samples_of_a_package_are_held_to_what_a_samples_table_is(lab, tmp_path, monkeypatch):
    import lab.bolts as bolts

    root = make_tree(make_tree(tmp_path / "bolts", "hex"), "bolt")
    plain = load_samples("bolts", root)
    assert plain.equals(bolts.samples(root))  # its order too, by which runs are known
    for change, sentence in (
        (lambda table: pd.concat([table, table.tail(1)]), "is listed twice"),
        (lambda table: table.assign(defect="good"), "is labelled 1 but named good"),
        (lambda table: table.assign(split="exam"), "has a split that is none of train, val, test"),
        (lambda table: table.drop(columns="group"), "group is missing"),
        (lambda table: table.to_dict("records"), "has to return a samples table"),
        (lambda table: None, "it returned NoneType"),
    ):
        monkeypatch.setattr(bolts, "samples", lambda *_, change=change: change(plain))
        with pytest.raises(InputError, match=sentence):
            load_samples("bolts", root)
    for change in (
        lambda table: table.assign(image=table["image"].map(Path), mask=table["mask"].replace("", float("nan"))),
        lambda table: table.astype(dict.fromkeys(("split", "category", "defect"), "category")),
        lambda table: table.assign(label=table["label"].astype(bool)),
    ):
        monkeypatch.setattr(bolts, "samples", lambda *_, change=change: change(plain))
        assert load_samples("bolts", root).equals(plain)
    monkeypatch.setattr(bolts, "samples", lambda *_: plain.assign(operator="me"))
    assert load_samples("bolts", root)["operator"].eq("me").all()


def test_an_unknown_dataset_is_still_unknown():
    with pytest.raises(InputError, match="Unknown dataset 'nuts'; known are"):
        load_samples("nuts", "/")
