"""Joint runs: one run learns all categories of a dataset, and each category's cell reads its own numbers from it."""

import json

import numpy as np
import pytest
from conftest import finished_record, make_tree, write

import adlib
from adlib import ImageSet, InputError, Predictions, evaluate, load_samples, papers
from adlib.file_hashes import folder_hash
from adlib.report import category_table, comparison
from adlib.report.tables import read_plan
from adlib.runs import Recorder, Run, Store
from adlib.runs.obstacles import in_the_way, in_the_way_lines, rows_without_images, unreadable_lines
from adlib.runs.plan import (
    Cell,
    Profile,
    _share_where_all_are_injected,
    cell_settings,
    distinct_runs,
    draw_phantoms,
    plan,
    read_profile,
    state,
    write_plan,
)
from adlib.runs.plan_text import plan_text
from adlib.runs.record import failure, write_json
from adlib.samples import make_samples, select
from adlib.training_set import SYNTHETIC

TINY = {"backbone": "resnet18.tv_in1k", "weights": "random", "stages": [1], "epochs": 1, "size": 32}


@pytest.fixture
def data(tmp_path):
    """Two of 3CAD's eight classes, with the folder names of its archive."""
    for category in ("Aluminum_Ipad", "Copper_Stator"):
        make_tree(tmp_path / "three_cad", category, train=2)
    return tmp_path


def cells_of(data, method, **content):
    content = {"methods": {method: TINY}, "categories": {method: None, "other": 0}} | content
    file = data / "quick.yaml"
    file.write_text(json.dumps(content))
    profile = read_profile(str(file), data=data, seeds=content.get("seeds"))
    return [cell for cell in plan(["three_cad"], profile, data) if cell.method == method], profile


def test_a_joint_method_has_one_run_per_dataset_and_seed(data):
    cells, _ = cells_of(data, "uniad", seeds=2)
    ready = [cell for cell in cells if cell.run]
    assert {cell.table for cell in ready} == {"3", "4", "5"}
    assert {cell.category for cell in ready} == {"AI", "CS"}
    assert {(cell.run.category, cell.run.seed, cell.seed) for cell in ready} == {("", 0, 0), ("", 1, 1)}
    assert len(distinct_runs(cells)) == 2
    assert {cell.missing for cell in cells if not cell.run} == {"no data"}


def test_settings_for_all_say_how_data_are_read_too(data):
    """What speaks of folders is of "folder" alone, whose layout is not given."""
    settings = {"mask_rule": "dark", "items": r"(\d+)", "normal_names": "fine", "coreset_ratio": 0.5, "size": 48}
    cells, _ = cells_of(data, "uniad", settings=settings)
    run = next(cell.run for cell in cells if cell.run)
    assert run.data_settings == {"mask_rule": "dark", "items": r"(\d+)"}
    assert set(run.samples["mask_rule"]) == {"dark"}
    assert run.settings["size"] == TINY["size"]  # the method's own
    assert "coreset_ratio" not in run.settings  # uniad has none


@pytest.mark.parametrize(
    ("method", "dataset", "there"),
    [
        ("padim", "isp_ad", {"train_limit"}),
        ("supersimplenet", "isp_ad", {"train_limit", "train_real", "train_real_kind"}),  # learns from defects, too
        ("supersimplenet", "miic", {"train_limit"}),  # which has none to learn from
        ("mixed_supervised", "isp_ad", {"train_limit"}),  # injects them itself
        ("adaclip", "isp_ad", set()),  # learns from other sets
    ],
)
def test_a_training_set_for_all_methods_is_of_those_that_have_a_place_for_it(method, dataset, there):
    profile = Profile("mine", settings={"train_limit": 3, "train_real": 2, "train_real_kind": "area"})
    found = cell_settings(Cell("study/cost", "main", method, dataset, "ASM", "", 0), "ASM", {}, profile)
    assert {name for name in found if name.startswith("train_")} == there


def test_a_number_of_training_images_takes_the_place_of_a_papers_share_and_a_rows_of_both():
    cell = Cell("miic", "3", "patchcore", "miic", "MIIC", "", 0)
    settings = [
        cell_settings(cell, "MIIC", row, Profile("mine", settings=given))
        for given, row in (({}, {}), ({"train_limit": 50}, {}), ({"train_limit": 50}, {"train_share": 0.1}))
    ]
    found = [{name: each[name] for name in ("train_limit", "train_share") if name in each} for each in settings]
    assert found == [{"train_share": 0.5}, {"train_limit": 50}, {"train_share": 0.1}]
    smoke = cell_settings(cell, "MIIC", {}, read_profile("smoke"))
    assert (smoke["train_limit"], smoke["train_share"]) == (None, None)


def test_the_categories_of_a_set_of_ones_own_are_read_with_the_settings_for_all(tmp_path):
    part = make_tree(tmp_path, "part", train=2) / "part"
    for split in ("train", "test"):
        (part / split / "good").rename(part / split / "fine")
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps({"settings": {"normal_names": "fine"}, "methods": None}))
    cells = plan(["study/what_is_missed"], read_profile(str(file), data=part), tmp_path)
    assert {(cell.dataset, cell.category, cell.missing) for cell in cells} == {("folder", "part", "")}
    assert all((cell.run.samples["split"] == "train").sum() == 2 for cell in cells)


def test_a_joint_run_learns_every_category_whatever_the_limit_but_none(data):
    limited, _ = cells_of(data, "uniad", categories={"other": 1})
    assert {cell.category for cell in limited if cell.run} == {"AI", "CS"}
    left_out, _ = cells_of(data, "uniad", categories={"other": 0})
    assert {cell.missing for cell in left_out} == {"no data", "not in this profile"}


def test_rows_that_ask_for_more_real_defects_than_there_are_share_a_run(tmp_path):
    adlib.phantoms.draw("isp_ad", tmp_path / "isp_ad", size=32, supervised=4, real=[6, 6])
    cells = [cell for cell in plan(["isp_ad"], read_profile("smoke", tmp_path), tmp_path) if cell.table == "2"]
    numbers = {cell.setting: cell.run.settings["number"] for cell in cells}
    assert {name: number for name, number in numbers.items() if not name.endswith(f" {number}")} == {
        "mixed 21": 172,  # of 12
        "mixed 43": 172,
        "mixed 86": 172,
    }
    assert len(distinct_runs(cells)) == len(cells) - 3


def test_rows_share_a_run_from_as_many_real_defects_on_as_there_are_of_their_kind():
    kinds = ["area"] * 3 + ["spot"] * 2 + [SYNTHETIC] * 4
    about = {"category": "ASM", "split": "train", "label": 1}
    samples = make_samples([about | {"image": f"{row}.png", "defect": kind} for row, kind in enumerate(kinds)], "here")
    cells = []
    for kind, number in [("mixed", 4), ("mixed", 5), ("mixed", 9), ("area", 2), ("area", 3), ("area", 4)]:
        run = Run("isp_ad", "/data", "mixed_supervised", "ASM", {"defects": kind, "number": number})
        vars(run)["all_samples"] = samples
        cells.append(Cell("isp_ad", "2", run.method, run.dataset, "ASM", f"{kind} {number}", 0, run))
    _share_where_all_are_injected(cells)
    assert [cell.run.settings["number"] for cell in cells] == [4, 9, 9, 2, 4, 4]


def test_seeds_that_are_asked_for_hold_over_those_of_a_paper(tmp_path):
    for seeds, planned in ((None, papers.replicates("texture_ad")), (2, 2)):
        cells = plan(["texture_ad"], read_profile("paper", data=tmp_path, seeds=seeds), tmp_path)
        assert {cell.seed for cell in cells} == set(range(planned))
    assert papers.replicates("texture_ad") == 3


def test_a_profile_says_otherwise_than_the_paper(data):
    apart, _ = cells_of(data, "uniad", joint=[])
    assert {cell.run.category for cell in apart if cell.run} == {"AI", "CS"}
    together, _ = cells_of(data, "rd4ad", joint=["rd4ad"], methods={})
    assert {cell.run.category for cell in together if cell.run} == {""}


def test_each_category_reads_its_own_numbers_from_the_joint_record(data):
    """AI is scored by the truth, CS by its opposite: 100 and 0 percent, never flipped; pooled neither."""
    cells, profile = cells_of(data, "uniad")
    out, run = data / "out", next(cell.run for cell in cells if cell.run)
    record = joint_record(run, out)
    assert 0 < record["metrics"]["image_auroc"] < 1
    assert record["categories"]["CS"]["image_auroc"] == 0
    assert record["categories"]["CS"]["intervals"]["image_auroc"] == {"low": 0, "high": 0, "std": 0}
    assert (record["categories"]["AI"]["tp"], record["categories"]["AI"]["fp"]) == (4, 0)
    shown = category_table(record["categories"])  # as the run's notebook does
    assert shown["image_auroc"].to_dict() == {"AI": 100, "CS": 0}
    assert not {"tp", "intervals", "image_f1max_threshold"} & set(shown)
    assert set(record["data"]["counts"]) == {"AI", "CS"}

    write_plan(cells, profile, out)
    assert {state(cell, Store(out / "runs")) for cell in cells if cell.run} == {"done"}
    table = comparison("three_cad", "4", out)
    ours = table[(table["method"] == "uniad") & (table["metric"] == "image_auroc")].set_index("category")
    assert ours.loc[["AI", "CS", "average"], "ours"].tolist() == pytest.approx([100, 0, 50])
    assert ours.loc["average", "state"] == "partly"
    assert ours.loc["ACC", "state"] == "no data"


def joint_record(run: Run, out) -> dict:
    """The record of predictions made of the ground truth, in the store."""
    test = ImageSet(select(load_samples("three_cad", run.root), split="test"), size=32)
    scores = np.where(test.samples["category"] == "AI", test.labels, 1 - test.labels)
    predictions = Predictions(scores, test.masks(), test.samples, test.settings)
    model = run.create_model()
    model.device_ = "cpu"
    record = Recorder(run).finish(model, predictions, evaluate(predictions))
    folder = Store(out / "runs").path(run.key)
    folder.mkdir(parents=True)
    write_json(folder / "record.json", record)
    return record


def test_a_run_on_one_category_has_no_numbers_by_category(data):
    run = Run("three_cad", str(data / "three_cad"), "uniad", "AI", TINY)
    test = ImageSet(select(run.samples, split="test"), size=32)
    model = run.create_model()
    model.device_ = "cpu"
    predictions = Predictions(test.labels, None, test.samples, test.settings)
    record = Recorder(run).finish(model, predictions, evaluate(predictions))
    assert record["categories"] == {}
    assert record["choices"] == {}


# What `adlib plan` prints


def test_a_plan_without_data_says_what_is_missing_and_how_to_get_it(tmp_path):
    folder = tmp_path / "datasets"
    profile = read_profile("paper", data=folder)
    text = plan_text(plan(["cxr_ad"], profile, tmp_path), profile, Store(tmp_path / "runs"))
    assert f"Data that are not in {folder}, which does not exist:" in text
    assert f"`adlib fetch mvtec_ad --out {folder}`" in text
    assert "cxr_ad (15 cells): the paper calls the set public" in text
    assert str(folder / "cxr_ad" / "CDIP" / "train" / "good") in text
    assert text.endswith("60 cells of tables: 60 no data.\nNo run is possible yet.")


def test_a_study_takes_one_set_of_ones_own_for_all_of_its_data(tmp_path):
    several = make_tree(tmp_path / "several", "part", train=2)
    for root in (several / "part", several):
        profile = read_profile("paper", data=root)
        cells = plan(["study/what_is_missed"], profile, tmp_path)
        assert {(cell.dataset, cell.category, cell.missing) for cell in cells} == {("folder", "part", "")}
        assert {cell.run.root for cell in cells} == {str(root)}
    (several / "visa").mkdir()  # now it has a folder per dataset
    profile = read_profile("paper", data=several)
    cells = plan(["study/what_is_missed"], profile, tmp_path)
    assert not any(cell.run for cell in cells)
    assert "A set of yours: give --data its own folder" in plan_text(cells, profile, Store(tmp_path / "runs"))


def test_a_plan_notes_how_hard_its_own_phantoms_are(tmp_path):
    for paper, difficulty in (("cxr_ad", "plain"), ("study/cost", "hard")):
        write_plan([Cell(paper, "main", "padim", "cxr_ad", "UB", "", 0)], read_profile("smoke"), tmp_path)
        assert read_plan(paper, tmp_path)["difficulty"] == difficulty


def test_a_sub_class_that_is_learned_and_not_tested_is_named_and_drawn_ones_are_not(tmp_path):
    rows = [("train", "subclass1"), ("test", "dark"), *(("test", f"subclass{number}") for number in (2, 3, 4, 5))]
    samples = make_samples(
        [
            {"image": str(tmp_path / f"{split}_{group}.png"), "category": "cloth", "split": split, "group": group}
            for split, group in rows
        ],
        "here",
    )
    run = Run("texture_ad", str(tmp_path), "padim", "cloth")
    vars(run)["loaded_samples"] = samples
    cells = [Cell("texture_ad", "2", "padim", "texture_ad", "cloth", "", 0, run)]
    (said,) = rows_without_images(cells)
    assert "no test images of subclass1, of which" in said and "folders are dark, subclass2" in said
    (tmp_path / "PHANTOM.json").write_text(json.dumps({"seed": 0}))
    assert rows_without_images(cells) == []


@pytest.mark.slow
def test_sub_classes_that_are_not_called_as_a_tables_rows_are_named_before_anything_is_run(tmp_path):
    for name in ("steady", "subclass2", "dark"):
        make_tree(tmp_path / "texture_ad" / "cloth", name)
    profile = Profile("mine", str(tmp_path), settings={"train_enlarged": None})
    cells = plan(["texture_ad"], profile, tmp_path)
    said = [
        "texture_ad/cloth: there are no test images of subclass1, subclass3, subclass4, subclass5, of which texture_ad "
        "prints rows; the folders are dark, steady, subclass2. Rename them as the rows, or these stay empty."
    ]
    assert rows_without_images(cells) == said
    assert said[0] in plan_text(cells, profile, Store(tmp_path / "runs"))
    (tmp_path / "texture_ad" / "PHANTOM.json").write_text(json.dumps({"seed": 0}))
    assert rows_without_images(cells) == []


def test_phantoms_drawn_by_several_processes_are_those_of_one(tmp_path):
    small = Profile("small", data="phantoms", difficulty="plain", phantoms={"miic": {"size": 64}})
    for processes in (1, 2):
        draw_phantoms(["miic"], small, tmp_path / str(processes), processes)
    assert folder_hash(tmp_path / "1") == folder_hash(tmp_path / "2")
    assert sum(file.is_file() for file in (tmp_path / "2").rglob("*")) > 20


def test_a_plan_on_phantoms_says_of_which_data_sets_there_is_none(tmp_path):
    profile = read_profile("smoke")
    text = plan_text(plan(["cxr_ad"], profile, tmp_path), profile, Store(tmp_path / "runs"))
    assert "No phantom can be drawn of" in text
    assert "mvtec_ad (45 cells)" in text
    assert "--data DIR" in text


def test_what_stands_in_the_way_of_runs_is_said_before_a_batch_begins_and_asked_once_for_all_seeds(data, monkeypatch):
    asked, images = [], Run.images
    monkeypatch.setattr(Run, "images", lambda run, split: asked.append(run.seed) or images(run, split))
    small = TINY | {"crop": None}
    cells, profile = cells_of(
        data, "rd4ad", methods={"rd4ad": {"size": 50, "crop": None, "weights": "random"}}, seeds=2
    )
    text = plan_text(cells, profile, Store(data / "runs"))
    assert "These cannot work as planned:\n  rd4ad on three_cad/AI, seed 0 and 3 more: rd4ad needs sides" in text
    assert set(asked) == {0}
    good, profile = cells_of(
        data, "padim", methods={"padim": {name: small[name] for name in small if name != "epochs"}}
    )
    assert "cannot work" not in plan_text(good, profile, Store(data / "runs"))
    absent, _ = cells_of(data, "padim", methods={"padim": {"backbone": "resnet50.a1_in1k"}})
    assert in_the_way_lines(distinct_runs(absent))[0].endswith(
        "the weights of resnet50.a1_in1k are not on this machine; the hub is asked for them."
    )


def test_runs_on_other_data_or_on_data_read_otherwise_are_not_taken_for_the_same(tmp_path):
    def runs():
        for root, train, settings in (("a", 2, {}), ("b", 3, {}), ("b", 3, {"items": r"(\d+)"})):
            if not (tmp_path / root).exists():
                make_tree(tmp_path / root, train=train)
            yield Run("folder", str(tmp_path / root), "padim", "thing", {"weights": "random"} | settings)

    cells = [Cell("study/cost", "main", "padim", "folder", "thing", "", 0, run) for run in runs()]
    assert [run.key for run in distinct_runs(cells)] == [run.key for run in runs()]
    assert [len(cell.run.samples) for cell in cells] == [10, 11, 11]


def test_what_stands_in_the_way_of_one_run_is_not_said_of_another_of_its_method(tmp_path):
    small = {"weights": "random", "backbone": "resnet18.tv_in1k", "crop": None}
    root = str(make_tree(tmp_path, train=2))
    good, bad = (Run("folder", root, "rd4ad", "thing", small | {"size": size}) for size in (64, 50))
    assert set(in_the_way([good, bad])) == set(in_the_way([bad, good])) == {bad.key}


def test_a_plan_reads_the_images_of_like_runs_once(data, monkeypatch):
    read, load_samples = [], adlib.datasets.load_samples
    monkeypatch.setattr(adlib.datasets, "load_samples", lambda *a, **k: (read.append(a[2]), load_samples(*a, **k))[1])
    cells, profile = cells_of(data, "padim", methods={"padim": {"weights": "random"}}, seeds=3)
    plan_text(cells, profile, Store(data / "runs"))
    assert sorted(read) == ["AI", "CS"]


def test_a_plan_says_what_is_done_running_failed_damaged_and_half_there(data):
    cells, profile = cells_of(data, "padim", methods={"padim": {"weights": "random"}}, seeds=2)
    cells = [cell for cell in cells if cell.table == "3"]
    store, (done, failed, running, cut) = Store(data / "runs"), distinct_runs(cells)
    for run in (done, cut):
        with store.claim(run.key) as folder:
            (folder / "run.ipynb").write_text("{}")
            files = {"run.ipynb": 2 if run is done else 3}
            write_json(folder / "record.json", finished_record(run.key, run.as_dict(), files=files))
    with store.claim(failed.key) as folder:
        store.write_failure(folder, failure(failed, "out of memory", "MemoryError: too large"))
    with store.claim(running.key):
        text = plan_text(cells, profile, store)
        listed = plan_text(cells, profile, store, every_cell=True)
    assert "  padim  three_cad   1 done, 1 running, 1 failed, 1 to do, 12 no data" in text
    assert f"  {failed.name}: out of memory: MemoryError: too large" in text
    assert "three_cad (12 cells): there, but without ACC" in text
    assert "16 cells of tables: 1 done, 1 running, 1 failed, 1 to do, 12 no data.\n4 runs fill 4 of them.\n" in text
    assert "of disk for 3 runs; 3 of them were never timed" in text
    assert (
        f"running             three_cad table 3: padim on three_cad/{running.category}, seed {running.seed}" in listed
    )
    assert listed.count("three_cad table 3: padim on") == 16


def test_a_plan_with_nothing_left_says_whether_data_are_missing(data):
    cells, profile = cells_of(data, "padim", methods={"padim": {"weights": "random"}})
    cells = [cell for cell in cells if cell.table == "3"]
    store = Store(data / "runs")
    for run in distinct_runs(cells):
        with store.claim(run.key) as folder:
            write_json(folder / "record.json", finished_record(run.key, run.as_dict()))
    assert plan_text(cells, profile, store).endswith("Nothing is left to do with the data that are there.")
    there = [cell for cell in cells if cell.run]
    assert plan_text(there, profile, store).endswith("2 runs fill 2 of them.\nNothing is left to do.")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"- 1", "no names with values"),
        (b"data: 5", "data is 5"),
        (b"data: phantoms\nseeds: many", "seeds is 'many'"),
        (b"data: phantoms\nseeds: -1", "must be 1 or more"),
        (b"data: phantoms\nmethods: 3", "methods is 3"),
        (b"data: phantoms\nmethods: {padim: 3}", "padim is 3"),
        (b"data: phantoms\ndifficulty: 5", "odd.yaml is not a profile: difficulty is 5, neither hard nor plain"),
        (b"data: phantoms\nsettings: {size: " + b"9" * 5000 + b"}", "it has a number of 5000 characters"),
        (b"colour: red", "unexpected keyword"),
        (b"\xff\xfe\x00", "not a profile"),
        (b"[" * 5000, "not a profile"),
    ],
)
def test_a_profile_of_the_wrong_kind_is_refused_in_a_sentence(tmp_path, content, sentence):
    (tmp_path / "odd.yaml").write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        read_profile(str(tmp_path / "odd.yaml"))


def test_empty_fields_of_a_profile_are_as_if_left_out(tmp_path):
    names = ("seeds", "phantoms", "difficulty", "settings", "methods", "categories", "joint")
    file, plain = tmp_path / "bare.yaml", tmp_path / "plain" / "bare.yaml"
    file.write_text("data: phantoms\n" + "".join(f"{name}:\n" for name in names))
    plain.parent.mkdir()
    plain.write_text("data: phantoms\n")
    empty, without = read_profile(str(file)), read_profile(str(plain))
    assert {name: getattr(empty, name) for name in names} == {name: getattr(without, name) for name in names}
    assert (empty.settings, empty.difficulty, empty.limit("padim")) == ({}, "hard", None)


def test_numbers_of_a_profile_are_read_as_those_on_the_command_line(tmp_path):
    file = tmp_path / "numbers.yaml"
    file.write_text(
        "data: phantoms\nsettings: {learning_rate: 1e-3, size: 0100, tile: [1:00, '064'], crop: null}\n"
        "methods: {crad: {<<: {epochs: 2}, blocks: 0x2, recovery: no}}\n"
    )
    profile = read_profile(str(file))
    assert profile.settings == {"learning_rate": 0.001, "size": 100, "tile": ["1:00", "064"], "crop": None}
    assert profile.methods == {"crad": {"epochs": 2, "blocks": 2, "recovery": False}}


def test_paths_of_a_profile_are_read_as_those_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_tree(tmp_path / "sets" / "cxr_ad", "UB")
    prompt, file = write(tmp_path / "prompts" / "UB.png", np.zeros((8, 8), np.uint8)), tmp_path / "mine" / "mine.yaml"
    file.parent.mkdir()
    file.write_text(
        "data: sets\nsettings: {weights: mine/w.safetensors}\n"
        "methods: {onenip: {prompts: {UB: prompts/UB.png}}, draem: {textures: ./prompts}, glass: {hypothesis: mine}}\n"
    )
    profile = read_profile(str(file))
    assert profile.data == str(tmp_path / "sets")
    assert profile.settings == {"weights": str(file.parent / "w.safetensors")}
    assert profile.methods["onenip"] == {"prompts": {"UB": str(prompt)}}
    assert profile.methods["draem"] == {"textures": str(prompt.parent)}
    assert profile.methods["glass"] == {"hypothesis": "mine"}  # a word, though there is a folder of that name
    file.write_text("data: ~/sets\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_profile(str(file)).data == str(tmp_path / "sets")
    assert read_profile("smoke").data == "phantoms"
    assert read_profile("smoke", data="phantoms").data == str(tmp_path / "phantoms")


def test_a_setting_of_a_wrong_kind_names_the_profile(tmp_path):
    make_tree(tmp_path / "cxr_ad", "UB")
    file = tmp_path / "fast.yaml"
    file.write_text(f"data: {tmp_path}\nmethods: {{patchcore: {{coreset_ratio: fast}}}}\n")
    with pytest.raises(InputError, match=r"patchcore with the profile .*fast.*: coreset_ratio='fast' must be a number"):
        plan(["cxr_ad"], read_profile(str(file)), tmp_path)


@pytest.mark.parametrize("broken", ["an empty folder", "a link that leads nowhere"])
def test_a_set_that_cannot_be_read_leaves_the_others_their_runs(data, broken):
    (data / "cxr_ad").mkdir()
    if "link" in broken:
        for category in ("UB", "DC"):
            make_tree(data / "cxr_ad", category, train=2)
        (data / "cxr_ad" / "UB" / "train" / "good" / "z.png").symlink_to(data / "nowhere.png")
    profile = Profile("quick", data=str(data))
    cells = plan(["cxr_ad", "three_cad"], profile, data)
    of_one = {("cxr_ad", "DC")} if "link" in broken else set()
    assert {(cell.dataset, cell.category) for cell in cells if cell.run} == {
        ("three_cad", "AI"),
        ("three_cad", "CS"),
        *of_one,
    }
    (said,) = unreadable_lines(cells)
    lost = [cell for cell in cells if cell.why]
    assert {cell.missing for cell in lost} == {"no data"} and said.startswith(f"cxr_ad: {len(lost)} cells have no run")
    text = plan_text(cells, profile, Store(data / "runs"))
    assert said in text and "without UB" not in text
    write_plan(cells, profile, data)
    if not of_one:
        with pytest.raises(InputError, match="cxr_ad"):
            plan(["cxr_ad"], profile, data)
