"""Runs: identity, store, plan, execution by papermill, and what a kill leaves behind."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from conftest import REPOSITORY, finished_record, make_tree

from adlib import InputError, Predictions, create_model, evaluate
from adlib.features import backbones
from adlib.report.provenance import profile_sentence
from adlib.runs import Run, Store
from adlib.runs.batch import run_all
from adlib.runs.execute import execute
from adlib.runs.plan import adapted, distinct_runs, list_profiles, plan, read_profile, state
from adlib.runs.profile import PROFILES
from adlib.runs.record import failure, write_json
from adlib.runs.settings import parse_settings

SETTINGS = {"backbone": "resnet18.tv_in1k", "weights": "random", "coreset_ratio": 0.05, "size": 64, "crop": None}


def run_on(tree: Path, **changes) -> Run:
    arguments = {"dataset": "folder", "root": str(tree), "method": "patchcore", "category": "thing"}
    return Run(**arguments | {"settings": SETTINGS} | changes)


# Identity


def test_key_is_equal_for_equal_work(tree, tmp_path):
    base = run_on(tree).key
    assert len(base) == 16
    assert run_on(tree, device="cpu").key == base
    assert run_on(tree, settings=dict(reversed(SETTINGS.items()))).key == base
    assert run_on(tree, settings=SETTINGS | {"neighbours": 1}).key == base  # the default, spelled out
    assert run_on(make_tree(tmp_path / "copy")).key == base


def test_a_run_on_part_of_a_published_set_says_how_many_images_there_are(tmp_path):
    def said(**changes):
        run = run_on(tmp_path, **{"dataset": "cxr_ad"} | changes)
        return [text for text in run.warnings if "published" in text]

    make_tree(tmp_path, "CDIP")
    one = "Not the published images: train / test normal / test anomalous, and in brackets as published: "
    one += "CDIP 6 / 4 / 4 (94 / 13 / 164)"
    assert said(category="CDIP") == [one + "."]
    assert said(category="CDIP", settings=SETTINGS | {"train_limit": 5}) == [one + "."]  # those on disk
    rest = ", CFP16 none (54 / 10 / 60), CFP20 none (135 / 31 / 185) and 2 more."
    assert said(category="") == [one + rest]  # a joint model learns of one part what the paper's learned of five
    make_tree(tmp_path, "CFP16", train=54, normal=10, anomalous=60, size=8)
    assert said(category="CFP16") == []
    assert said(dataset="folder", category="CDIP") == []  # of which nothing is published
    (tmp_path / "PHANTOM.json").write_text(json.dumps({"seed": 0}))
    assert said(category="CDIP") == []  # it says what it is


def test_a_run_says_that_it_passes_validation_images_over(tmp_path):
    tree = make_tree(tmp_path)

    def said(method, **settings):
        settings = {"backbone": "resnet18.tv_in1k", "weights": "random"} | settings
        return [text for text in run_on(tree, method=method, settings=settings).warnings if "split val" in text]

    assert said("stfpm") == []
    shutil.copytree(tree / "thing" / "test" / "good", tree / "thing" / "val" / "good")
    assert said("stfpm") == [
        "The split val (4 images) is not used: stfpm holds out 20% of its training images (validation_share), as in "
        "runs without that split."
    ]
    assert said("stfpm", validation_share=0) == said("patchcore") == []
    assert said("mixed_supervised", selection="test") == []
    assert run_on(tree, method="stfpm", settings={}).selection_images is None


def test_a_run_says_how_little_a_larger_size_leaves_of_an_image_to_the_methods_own_crop(tree):
    def said(method="patchcore", **settings):
        settings = {"backbone": "resnet18.tv_in1k", "weights": "random"} | settings
        return [text for text in run_on(tree, method=method, settings=settings).warnings if "crop" in text]

    assert said(size=512) == [
        "At most 19% of each image is seen: size=512 is set, and crop=224 is patchcore's own, for size=256. Set crop "
        "too, or crop=none."
    ]
    assert said(size=[512, 448], sides="both")[0].startswith("At most 22% of each image is seen: size=[512, 448] is")
    for usual in ({}, {"size": 256}, {"size": 240}, {"size": 512, "crop": 448}, {"size": 512, "crop": None}):
        assert said(**usual) == []
    assert said("stfpm", size=512) == []


@pytest.mark.parametrize("changes", [{"seed": 1}, {"settings": SETTINGS | {"size": 32}}, {"settings": {}}])
def test_key_differs_for_other_work(tree, changes):
    assert run_on(tree, **changes).key != run_on(tree).key


def test_key_follows_the_content_of_data_and_weights(tree, tmp_path):
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"one")
    run = {"settings": SETTINGS | {"weights": str(weights)}}
    before = run_on(tree, **run).key
    weights.write_bytes(b"two")
    assert run_on(tree, **run).key != before
    base = run_on(tree).key
    (tree / "thing" / "train" / "good" / "000.png").unlink()
    assert run_on(tree).key != base


def test_key_follows_the_content_of_weights_wherever_they_come_from(tree, tmp_path, monkeypatch):
    file = tmp_path / "weights" / "resnet18.tv_in1k.safetensors"
    file.parent.mkdir()
    monkeypatch.setenv("ADLIB_WEIGHTS", str(file.parent))
    in_the_hub_cache = tmp_path / "hub.safetensors"
    in_the_hub_cache.write_bytes(b"of the hub")
    monkeypatch.setattr(backbones, "in_hub_cache", lambda repository, name: in_the_hub_cache)
    pretrained = {"settings": SETTINGS | {"weights": "pretrained"}}
    keys = [run_on(tree, **pretrained).key]
    in_the_hub_cache.write_bytes(b"another release")
    keys.append(run_on(tree, **pretrained).key)
    for content in (b"mine", b"mine, trained further"):
        file.write_bytes(content)
        keys.append(run_on(tree, **pretrained).key)
    bundled = tmp_path / "bundled.safetensors"
    monkeypatch.setattr(backbones, "bundled_file", lambda name: bundled)
    for content in (b"of this release", b"of the next"):
        bundled.write_bytes(content)
        keys.append(run_on(tree, settings=SETTINGS | {"weights": "bundled"}).key)
    assert len(set(keys)) == len(keys) == 6


def test_key_follows_the_content_of_a_teacher_and_of_textures(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("ADLIB_WEIGHTS", str(tmp_path))
    teacher, texture = tmp_path / "efficientad_teacher_small.safetensors", tmp_path / "textures" / "a.png"
    texture.parent.mkdir()
    keys = set()
    for content in (b"one", b"two"):
        teacher.write_bytes(content)
        texture.write_bytes(content)
        keys.add(run_on(tree, method="efficientad", settings={}).key)
        keys.add(run_on(tree, method="draem", settings={"textures": str(texture.parent)}).key)
    assert len(keys) == 4


def test_key_follows_the_content_of_files_that_a_parameter_names_by_category(tree, tmp_path):
    prompt, keys = tmp_path / "prompt.png", []
    for place, content in ((prompt, b"one"), (prompt, b"two"), (tmp_path / "moved.png", b"two")):
        place.write_bytes(content)
        keys.append(run_on(tree, method="onenip", settings={"weights": "random", "prompts": {"thing": str(place)}}).key)
    assert keys[0] != keys[1] == keys[2]


def test_weights_that_are_nowhere_yet_are_fetched_before_the_key_is_asked_for(tree, tmp_path, monkeypatch):
    monkeypatch.delenv("ADLIB_WEIGHTS", raising=False)
    here, asked = tmp_path / "w.safetensors", []
    monkeypatch.setattr(backbones, "in_hub_cache", lambda *_: here if here.exists() else None)
    monkeypatch.setattr(backbones, "download", lambda name: asked.append(name) or (here.write_bytes(b"x") and here))
    pretrained = {"settings": SETTINGS | {"weights": "pretrained"}}
    planned, run = run_on(tree, **pretrained).key, run_on(tree, **pretrained)
    run.fetch_weights()
    assert run.key == run_on(tree, **pretrained).key != planned
    assert asked == ["resnet18.tv_in1k"]


def test_settings_are_read_from_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.safetensors").touch()
    text = ["size=128", "coreset_ratio=1e-2", "crop=null", "window=0,4095", "stages=[1, 2]", "weights=w.safetensors"]
    assert parse_settings([*text, "backbone=resnet18.tv_in1k"]) == {
        "size": 128,
        "coreset_ratio": 0.01,
        "crop": None,
        "window": [0, 4095],
        "stages": [1, 2],
        "weights": str(tmp_path / "w.safetensors"),
        "backbone": "resnet18.tv_in1k",
    }
    (tmp_path / "bundled").mkdir()  # a folder by chance
    assert parse_settings(["textures=./bundled", "weights=bundled"]) == {
        "textures": str(tmp_path / "bundled"),
        "weights": "bundled",
    }
    with pytest.raises(InputError, match="expected name=value"):
        parse_settings(["size"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("None", None),
        ("null", None),
        ("~", None),
        ("none", "none"),  # a backbone's or an augmentation's name
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        (".5e-2", 0.005),
        ("-2", -2),
        ("True", True),
        ("(64,64)", [64, 64]),
        ("(64,)", [64]),
        ("64x96", [64, 96]),
        ("64 X 96", [64, 96]),
        ("0.5,0.999", [0.5, 0.999]),
        ("[1e-3, None]", [0.001, None]),
        ("(layer3, layer4)", ["layer3", "layer4"]),
        ("()", []),
        ("8GB", "8GB"),
        ("10%", "10%"),
        ("'64'", 64),
        ("0100", 100),  # 64 in YAML 1.1, as 1:00 is 60
        ("-0100", -100),
        ("0100x0200", [100, 200]),
        ("[010, 1:00]", [10, "1:00"]),
        ("1:00", "1:00"),
        ("1_000", 1000),
        ("0x40", 64),
        ("2020-01-01", "2020-01-01"),
        ("{01: 02, a: None}", {"01": 2, "a": None}),
        ("128,256", [128, 256]),
        ("off", False),
        ("a=b", "a=b"),
    ],
)
def test_settings_mean_what_a_person_means(text, value):
    read = parse_settings([f"name={text}"])["name"]
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("normal_names=01,yes", "01,yes"),
        ("normal_names=[01, no, 1e3]", ["01", "no", "1e3"]),
        ("unknown_names=(0, true)", ["0", "true"]),
        ("unknown_names=0", "0"),
        ("normal_names=64x96", "64x96"),
        ("normal_names='a, b'", "a, b"),
        ("normal_names=None", None),
        ("items=[a-z]+_0", "[a-z]+_0"),
        (r"items=(\d+)", r"(\d+)"),
        ("items=7", "7"),
        ("normal=0100", "0100"),
        ("train_real_kind=010", "010"),
    ],
)
def test_what_names_folders_stays_text(pair, value):
    assert parse_settings([pair]) == {pair.partition("=")[0]: value}


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        (None, {}),
        ("", {}),
        ('{"size": 64, "backbone": "resnet18.tv_in1k"}', {"size": 64, "backbone": "resnet18.tv_in1k"}),
        ("{size: 0100, learning_rate: 1e-3}", {"size": 100, "learning_rate": 0.001}),
    ],
)
def test_settings_of_a_run_may_be_the_text_that_a_notebook_gets(given, settings):
    assert Run("folder", "here", "padim", settings=given).settings == settings


@pytest.mark.parametrize("given", ["size=64", "[1, 2]", "{size: 64", 5, ["size"]])
def test_settings_of_a_run_that_are_none_are_refused(given):
    with pytest.raises(InputError, match=r"settings=.* must be names with values, such as \{'size': 128\}"):
        Run("folder", "here", "padim", settings=given)


def test_a_detector_shares_nothing_without_a_folder_and_reads_sizes(tmp_path):
    model = create_model("padim", weights="random")
    assert model.share(None, "20GB").feature_cache is None
    assert model.share(tmp_path, "20GB").feature_cache.limit == 20 * 10**9
    for wrong in ("much", None, True):
        with pytest.raises(InputError, match=r"limit=.* is not a size"):
            model.share(tmp_path, wrong)


@pytest.mark.parametrize("text", ["1,024", "1,280", "0,001", "1,000,000", "064,064"])
def test_a_comma_that_can_mean_either_is_asked_about(text):
    with pytest.raises(InputError, match=r"\(is it one number or several\? Write one without the comma"):
        parse_settings([f"size={text}"])


@pytest.mark.parametrize("text", ["9" * 400, "9" * 5000, "0x" + "f" * 5000, "&x [*x]", "[" * 5000, "!!bool abc"])
def test_a_value_without_end_gets_one_sentence(text):
    with pytest.raises(InputError, match=r"--set 'a=.*(has a number of \d+ characters|cannot be read)") as raised:
        parse_settings([f"a={text}"])
    assert len(str(raised.value)) < 500
    with pytest.raises(InputError, match="cannot be read"):
        parse_settings(["normal_names=[&x [*x]]"])


def test_an_image_without_crop_may_be_asked_for_in_words():
    assert parse_settings(["crop=48", "crop=none", "window=None"]) == {"crop": None, "window": None}


def test_a_value_that_is_no_yaml_gets_one_line():
    with pytest.raises(InputError, match=r"--set 'stages=\[1, 2': the value cannot be read") as raised:
        parse_settings(["stages=[1, 2"])
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"size": "abc"}}, "size='abc'"),
        ({"settings": {"size": None}}, "size=None"),
        ({"settings": {"size": 10**21}}, "more than 32768 pixels a side"),
        ({"settings": {"window": [1]}}, r"window=\[1\]"),
        ({"settings": {"coreset_ratio": float("nan")}}, "coreset_ratio=nan: a setting is a number"),
        ({"settings": {"weights": ["a"]}}, r"weights=\['a'\]: expected a name"),
        ({"settings": {"colour": "blue"}}, "patchcore has no parameter colour"),
        ({"seed": -1}, "seed=-1: a seed is a whole number"),
        ({"seed": True}, "seed=True: a seed is a whole number"),
        ({"device": "cudaa"}, "is not a torch device"),
        ({"method": "patchcor"}, "Unknown model 'patchcor'"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is_begun(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        execute(run_on(tmp_path / "nowhere", **changes), Store(tmp_path / "out" / "runs"), False)
    assert not (tmp_path / "out").exists()


# Store


def test_a_claimed_folder_appears_whole_or_not_at_all(tmp_path):
    store = Store(tmp_path)
    with store.claim("0" * 16) as folder:
        (folder / "something").write_text("half")
    assert store.record("0" * 16) is None
    assert [path.name for path in tmp_path.iterdir()] == [".locks"]

    with pytest.raises(OSError, match="disk"), store.claim("0" * 16) as folder:
        write_json(folder / "record.json", finished_record("0" * 16))
        raise OSError("disk is full")
    assert store.record("0" * 16) is None

    with store.claim("0" * 16) as folder:
        write_json(folder / "record.json", finished_record("0" * 16))
    assert store.is_finished("0" * 16)
    with store.claim("0" * 16) as folder:
        assert folder is None


def test_a_failed_run_is_done_again_and_replaced(tree, tmp_path):
    store, run = Store(tmp_path / "store"), run_on(tree)
    for kind in ("error", "kernel died"):
        with store.claim(run.key) as folder:
            store.write_failure(folder, failure(run, kind, "why"))
        assert store.record(run.key)["kind"] == kind
        assert not store.is_finished(run.key)
    assert store.table()["reason"].tolist() == ["why"]


def test_a_damaged_record_counts_as_not_done(tmp_path):
    store = Store(tmp_path)
    (tmp_path / ("a" * 16)).mkdir()
    (tmp_path / ("a" * 16) / "record.json").write_text('{"status": "fini')
    assert not store.is_finished("a" * 16)
    assert store.records() == []


def _hold(folder, ready, leave):
    with Store(folder).claim("b" * 16) as partial:
        write_json(partial / "record.json", finished_record("b" * 16))
        ready.set()
        leave.wait(60)


def test_a_second_process_waits_and_then_finds_it_done(tmp_path):
    context = multiprocessing.get_context("fork")  # it touches nothing but files; a new process imports torch
    ready, leave = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path, ready, leave))
    other.start()
    assert ready.wait(60)
    leave.set()
    with Store(tmp_path).claim("b" * 16) as folder:
        assert folder is None
    other.join(60)


# Plan


PATCHCORE_ALONE = {"categories": {"patchcore": None, "other": 0}}


def write_profile(folder: Path, **content) -> Path:
    file = folder / "quick.yaml"
    file.write_text(json.dumps({"methods": {"patchcore": SETTINGS}} | content))
    return file


def test_plan_covers_the_paper_and_says_what_is_missing(tmp_path):
    make_tree(tmp_path / "cxr_ad", "UB")
    profile = read_profile(str(write_profile(tmp_path, **PATCHCORE_ALONE)), data=tmp_path, seeds=2)
    cells = plan(["cxr_ad"], profile, tmp_path / "phantoms")
    assert len(cells) == (5 + 15) * 3 * 2
    absent = {"not implemented", "not in this profile", "no data"}
    assert {cell.missing for cell in cells if cell.method != "patchcore"} <= absent
    ready = [cell for cell in cells if cell.run]
    assert [(cell.category, cell.seed) for cell in ready] == [("UB", 0), ("UB", 1)]
    stated = {"neighbours": 1, "sides": "both"}  # by the paper; its crop of 224 is overridden by the profile
    assert ready[0].run.settings == SETTINGS | stated
    store = Store(tmp_path / "store")
    assert {state(cell, store) for cell in cells} - {"not implemented"} == {"to do", "no data", "not in this profile"}
    assert len(distinct_runs(cells + cells)) == 2


def test_rows_of_an_ablation_are_planned_with_what_makes_them(tmp_path):
    """Table 6 of 3CAD: what makes a row comes after the profile, and the whole method is the run of tables 3 to 5."""
    make_tree(tmp_path / "three_cad", "Aluminum_Ipad")
    profile = read_profile(str(write_profile(tmp_path, methods={"cfrg": {"epochs": 1, "push": True}})), data=tmp_path)
    cells = [cell for cell in plan(["three_cad"], profile, tmp_path) if cell.method == "cfrg" and cell.run]
    rows = {cell.setting: cell.run for cell in cells if cell.table == "6"}
    whole = rows.pop("")
    assert {name: run.settings for name, run in rows.items()} == {
        "no recovery": whole.settings | {"recovery": False},
        "no segmentation": whole.settings | {"segmentation": False},
        "no push": whole.settings | {"push": False},
        "no recovery weight": whole.settings | {"recovery_weight": False},
        "homogeneous student": whole.settings | {"student": None, "drop_path": 0.0, "norm_momentum": 0.1},
    }
    assert len(distinct_runs(cells)) == 6
    assert {cell.run.key for cell in cells if not cell.setting} == {whole.key}


def test_a_profile_may_try_a_method_on_some_categories_only(tmp_path):
    for category in ("UB", "DC"):
        make_tree(tmp_path / "cxr_ad", category)
    limited = {"categories": {"other": 1}}, {"categories": {"patchcore": None, "other": 1}}
    found = []
    for content in limited:
        profile = read_profile(str(write_profile(tmp_path, **content)), data=tmp_path, seeds=1)
        cells = [cell for cell in plan(["cxr_ad"], profile, tmp_path) if cell.method == "patchcore"]
        found.append([cell.category for cell in cells if cell.run])
        if len(found) == 1:
            assert [cell.missing for cell in cells if cell.category == "DC"] == ["not in this profile"]
    assert found == [["UB"], ["UB", "DC"]]


def test_profiles_are_named_and_checked(tmp_path):
    assert {"smoke", "paper"} <= set(list_profiles())
    with pytest.raises(InputError, match="No profile 'fast'; there are paper, smoke"):
        read_profile("fast")
    with pytest.raises(InputError, match="needs data: give --data DIR"):
        read_profile("paper")


def test_a_file_that_is_called_as_a_built_in_profile_does_not_pass_for_it(tmp_path):
    for name in ("paper", "smoke"):
        (tmp_path / f"{name}.yaml").write_text("settings: {size: 64}")
        own = read_profile(str(tmp_path / f"{name}.yaml"), data=tmp_path)
        assert own.name == f"{name}.yaml"
        assert f"Profile {name}.yaml: its budgets" in profile_sentence([own.name])
        assert adapted("study/how_many_normals", own)[1] == own  # the study's word is on the built-in one
        built_in = read_profile(str(PROFILES / f"{name}.yaml"), data=tmp_path)
        assert built_in == read_profile(name, data=tmp_path)
        assert built_in.name == name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"colour": "blue"}, "is not a profile"),
        ({"methods": {"patchcor": {}}}, "methods names 'patchcor', which does not exist. Did you mean 'patchcore'"),
        ({"methods": {"patchcore": 3}}, "is not a profile"),
        ({"methods": []}, "is not a profile"),
        ({"categories": {"padin": 1}}, "Did you mean 'padim'"),
        ({"categories": {"other": -1}}, "categories, other is -1"),
        ({"joint": ["uniat"]}, "Did you mean 'uniad'"),
        ({"joint": "uniad"}, "is not a profile"),
        ({"seeds": 0}, "is not a profile"),
        ({"seeds": "many"}, "is not a profile"),
        ({"phantoms": {"mvtec": {}}}, "phantoms names 'mvtec'"),
        ({"data": 3}, "is not a profile"),
        ({"settings": {"size": 64, "sise": 64}}, "settings names 'sise', .* Did you mean 'size'"),
        ({"settings": {"coreset_rati": 0.5}}, "settings names 'coreset_rati', .* Did you mean 'coreset_ratio'"),
        ({"settings": {"mask_rul": "dark"}}, "settings names 'mask_rul', .* Did you mean 'mask_rule'"),
        ({"settings": {"train_limits": 5}}, "settings names 'train_limits', .* Did you mean 'train_limit'"),
        ({"settings": {"self": 5}}, "settings names 'self', which is no parameter of any method"),
        ({"settings": {5: 5}}, "settings names '5', which is no parameter of any method"),
    ],
)
def test_a_profile_of_wrong_values_is_refused_in_a_sentence(tmp_path, content, message):
    file = tmp_path / "profile.yaml"
    file.write_text(json.dumps({"data": str(tmp_path)} | content))
    with pytest.raises(InputError, match=message):
        read_profile(str(file))


# Execution


def outputs_of(folder) -> list[dict]:
    """What the cells of a run's notebook show, each as a dictionary by MIME type."""
    cells = nbformat.read(folder / "run.ipynb", 4).cells
    return [output.get("data", {}) for cell in cells for output in cell.get("outputs", [])]


@pytest.mark.slow
def test_papermill_leaves_record_notebook_and_predictions(tree, tmp_path):
    store, run = Store(tmp_path / "store"), run_on(tree)
    record = execute(run, store, progress=False)
    assert record["status"] == "finished"
    assert record["key"] == run.key
    assert record["data"]["phantom"] is None
    assert record["weights"] == {"kind": "random", "seed": 0}
    assert any(text.startswith("Random weights") for text in record["warnings"])
    assert set(record["seconds"]) == {"fit", "predict", "evaluate", "baselines"}
    assert record["environment"]["torch"]

    folder = store.path(run.key)
    predictions = Predictions.load(folder / "predictions")
    again = evaluate(predictions)
    scored = {name for name in again if name.startswith("image_")}
    assert {name: record["metrics"][name] for name in scored} == pytest.approx({name: again[name] for name in scored})
    # Stored maps are float16: what is computed of them again differs by their rounding.
    assert record["metrics"] == pytest.approx(again, rel=2e-3, abs=2e-3)
    outputs = outputs_of(folder)
    assert sum("image/png" in output for output in outputs) == 5
    assert any("Random weights" in output.get("text/html", "") for output in outputs)

    before = (folder / "record.json").stat().st_mtime_ns
    assert execute(run, store, progress=False) == record  # done: nothing is redone
    assert (folder / "record.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_one_failing_run_stops_no_other(tree, tmp_path):
    bad = run_on(tree, settings=SETTINGS | {"weights": str(tmp_path / "gone.safetensors")})
    good = run_on(tree)
    store = Store(tmp_path / "store")
    first, second = run_all([bad, good], store, jobs=2, progress=False)
    assert first["status"] == "failed"
    assert first["kind"] == "wrong input"
    assert "gone.safetensors does not exist" in first["reason"]
    assert (store.path(bad.key) / "run.ipynb").exists()
    assert second["status"] == "finished"
    assert sum("image/png" in output for output in outputs_of(store.path(good.key))) == 5  # in a forked kernel, too


def adlib_command(*arguments: str, **options) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "adlib", *arguments]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_kill_in_mid_batch_loses_nothing_that_was_finished(tmp_path):
    """kill -9 of the whole process tree, as a power cut: the second call redoes only what was not finished."""
    for category in ("CDIP", "UB"):
        make_tree(tmp_path / "data" / "cxr_ad", category)
    out, profile = tmp_path / "out", write_profile(tmp_path, **PATCHCORE_ALONE)
    arguments = ["reproduce", "cxr_ad", "--profile", profile, "--data", tmp_path / "data", "--out", out, "--jobs", "1"]
    arguments = [str(argument) for argument in arguments]

    def finished() -> dict[Path, int]:
        return {file: file.stat().st_mtime_ns for file in (out / "runs").glob("[0-9a-f]*/record.json")}

    batch = adlib_command(*arguments)
    deadline = time.monotonic() + 300
    while not (finished() and list((out / "runs").glob(".*.partial"))):
        assert batch.poll() is None, batch.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    tree = [*psutil.Process(batch.pid).children(recursive=True), psutil.Process(batch.pid)]
    for process in tree:
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs(tree, timeout=30)
    batch.communicate()
    survivors = finished()
    assert len(survivors) == 1

    again = adlib_command(*arguments)
    output, errors = again.communicate(timeout=400)
    assert again.returncode == 0, errors
    assert "2 runs done, 0 failures." in output
    after = finished()
    assert len(after) == 2
    assert survivors.items() <= after.items()  # not rewritten
    assert list((out / "runs").glob(".*.partial")) == []

    index = (out / "index.html").read_text()
    assert index.count("patchcore on cxr_ad/") == 2
    assert "not in this profile" in index  # OneNIP and AdaCLIP
    assert "Random weights" in index
    benchmark = (out / "html" / "11_cxr_ad_benchmark.html").read_text()
    assert "56.58" in benchmark  # PatchCore's published average
    assert "no data" in benchmark  # MVTec AD is not there
    assert (out / "html" / "10_cxr_ad_data.html").exists()
