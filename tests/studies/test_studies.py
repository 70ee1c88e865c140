"""Studies as plans: they resolve under every profile, and are done, repeated and resumed as papers are."""

import json
import shutil

import matplotlib.pyplot as plt
import numpy as np
import pytest
import yaml
from conftest import REPOSITORY, make_tree
from stored import store_study

from adlib import InputError, Predictions, papers
from adlib.figure_style import plain_log
from adlib.papers import list_papers, list_studies, protocol, published
from adlib.report.known_answers import known_answers
from adlib.report.pages import render_report
from adlib.runs.plan import adapted, plan, read_profile
from adlib.runs.record import write_json
from adlib.runs.store import Store
from adlib.samples import make_samples
from adlib.studies import study_banner
from adlib.studies.common import first_predictions


@pytest.mark.parametrize("name", list_studies())
@pytest.mark.parametrize("profile", ["smoke", "paper"])
def test_a_study_resolves_on_a_set_of_ones_own(name, profile, tmp_path):
    make_tree(tmp_path / "folder", train=2, normal=1, anomalous=1)
    cells = plan([name], read_profile(profile, data=tmp_path), tmp_path)
    ready = [cell for cell in cells if cell.run]
    assert {(cell.dataset, cell.category) for cell in ready} == {("folder", "thing")}
    assert {cell.missing for cell in cells} <= {"", "no data", "not in this profile"}
    rows = {(cell.method, cell.setting) for cell in cells}
    assert {(cell.method, cell.setting) for cell in ready} == rows  # every row is tried on it


@pytest.mark.parametrize("name", list_studies())
def test_a_study_has_a_question_and_a_notebook_and_no_published_numbers(name):
    about = protocol(name)
    assert about["question"].endswith("?")
    for notebooks in about["notebooks"].values():
        for notebook in notebooks:
            assert (REPOSITORY / "notebooks" / f"{notebook}.ipynb").is_file()
    assert name not in list_papers()
    with pytest.raises(InputError, match="has no published numbers"):
        published(name)


def test_the_banner_of_a_study_names_the_profile_as_those_of_papers_do(tmp_path):
    name, run = "study/how_many_normals", {"method": "patchcore", "dataset": "cxr_ad", "category": "UB"}
    assert "No run of this study is done" in study_banner(name, tmp_path).data
    store_study(tmp_path, name, [run])  # under the profile "test"
    assert "Profile test: its budgets, image sizes and other settings" in study_banner(name, tmp_path).data
    assert "Profile test: its budgets" in render_report(tmp_path).read_text()
    file = tmp_path / "plans" / f"{name}.json"
    write_json(file, json.loads(file.read_text()) | {"profile": "paper"})
    assert "Real data, trained weights." in study_banner(name, tmp_path).data


def test_of_a_joint_run_each_category_has_the_predictions_of_its_own_images(tmp_path):
    name, place = "study/significance", {"method": "uniad", "dataset": "folder"}
    rows = [{"image": f"{row}.png", "label": 0, "split": "test", "category": "ab"[row > 2]} for row in range(5)]
    joint = Predictions(np.arange(5.0), None, make_samples(rows, "numbers given by hand"))
    store_study(tmp_path, name, [place | {"category": "a", "predictions": joint}])
    found = {category: part.scores.tolist() for _, category, _, part in first_predictions(name, tmp_path)}
    assert found == {"a": [0, 1, 2], "b": [3, 4]}


def test_the_banner_of_a_study_says_how_many_of_its_runs_are_not_done(tmp_path):
    """Of 4, 8 and 16 epochs the first two are done: the last epoch is the eighth, which no sentence would say."""
    name, run = "study/choosing_the_epoch_on_test", {"method": "stfpm", "dataset": "cxr_ad", "category": "UB"}
    store_study(tmp_path, name, [run | {"settings": {"epochs": epochs}} for epochs in (4, 8, 16)])
    assert "Unfinished" not in study_banner(name, tmp_path).data
    (tmp_path / "runs" / f"{2:016x}" / "record.json").unlink()
    assert "Unfinished batch: 2 of 3 runs are done." in study_banner(name, tmp_path).data


@pytest.mark.parametrize(("low", "high"), [(60, 150), (72, 140), (30, 180), (0.06, 0.15), (3, 40), (0.1, 100)])
def test_a_logarithmic_axis_has_two_numbers_at_least_and_not_too_many(low, high):
    figure, axis = plt.subplots()
    axis.semilogy([low, high])
    plain_log(axis.yaxis)
    bottom, top = axis.get_ylim()
    assert 2 <= sum(bottom <= place <= top for place in axis.get_yticks()) <= 10
    plt.close(figure)


def test_an_unknown_study_is_told_the_near_one():
    with pytest.raises(InputError, match="Did you mean 'study/how_many_normals'"):
        protocol("study/how_many_normal")


def test_seeds_from_the_command_line_hold_over_those_of_the_study(tmp_path):
    name = "study/how_many_normals"
    assert adapted(name, read_profile("smoke"))[1].seeds == 4
    assert adapted(name, read_profile("smoke", seeds=2))[1].seeds == 2
    assert adapted("cxr_ad", read_profile("smoke"))[1] == read_profile("smoke")


def test_what_a_study_changes_of_a_profile_is_of_no_other_paper():
    profile = read_profile("smoke")
    for name in list_studies():
        own = adapted(name, profile)[1]
        assert profile == read_profile("smoke")
        assert set(profile.methods) <= set(own.methods)  # what it does not name stays
    assert own != profile


@pytest.mark.slow
def test_a_study_repeats_its_numbers_and_goes_on_after_a_kill(tmp_path, monkeypatch):
    from adlib.reproduce import reproduce

    make_tree(tmp_path / "folder", size=32)
    study = protocol("study/how_many_normals")
    study["tables"]["main"] |= {"methods": ["padim"], "datasets": ["folder"], "settings": {"2": {"train_limit": 2}}}
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "how_many_normals.yaml").write_text(yaml.safe_dump(study | {"profiles": {}}))
    monkeypatch.setattr(papers, "_STUDIES", tmp_path / "studies")
    tiny = {"weights": "random", "backbone": "resnet18.tv_in1k", "stages": [1], "channels": 8, "size": 32, "crop": None}
    (tmp_path / "tiny.yaml").write_text(json.dumps({"settings": tiny}))
    profile = read_profile(str(tmp_path / "tiny.yaml"), data=tmp_path, seeds=2)

    def done():
        outcome = reproduce(["study/how_many_normals"], profile, tmp_path / "out", 1, progress=False)
        assert (outcome.done, outcome.failures) == (2, [])
        return outcome, {record["key"]: record for record in Store(tmp_path / "out" / "runs").records()}

    outcome, first = done()
    assert 'href="html/63_how_many_normals.html"' in outcome.index.read_text()
    assert known_answers(tmp_path / "out", ["study/how_many_normals"]).empty
    lost, kept = sorted(first)
    runs = tmp_path / "out" / "runs"
    shutil.move(runs / lost, runs / f".{lost}.partial")  # as a kill leaves it
    (runs / f".{lost}.partial" / "record.json").unlink()
    again = done()[1]
    assert again[kept] == first[kept]  # not done again
    assert again[lost]["ended"] >= first[lost]["ended"]
    assert again[lost]["metrics"] == first[lost]["metrics"]
