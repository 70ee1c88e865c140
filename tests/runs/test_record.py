"""The record: what it says of undefined metrics, oracles and sub-classes."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import make_tree
from PIL import Image

from adlib import ImageSet, InputError, Predictions, evaluate, load_samples
from adlib.memory.unfinished import Unfinished
from adlib.report.banner import banner
from adlib.runs import Recorder, Run, Store
from adlib.runs.changed_files import changed_files
from adlib.runs.execute import _complete
from adlib.runs.one_place import in_one_place
from adlib.runs.paired import Comparison, compare_runs
from adlib.runs.record import code_of, write_record
from adlib.runs.schema import record_problem
from adlib.runs.selection import sorted_runs
from adlib.runs.standing import compared, dash, done_before, of_other_code
from adlib.samples import select


@pytest.fixture
def recorder(tmp_path):
    settings = {"backbone": "resnet18.tv_in1k", "weights": "random", "size": 32, "crop": None}
    return Recorder(Run("folder", str(make_tree(tmp_path / "tree")), "patchcore", "thing", settings))


def _truth(recorder):
    """The ground truth as predictions."""
    test = ImageSet(select(load_samples("folder", recorder.run.root), split="test"), size=32)
    return Predictions(test.labels, test.masks(), test.samples, test.settings)


def finish(recorder, change, out=""):
    """The record of predictions that `change` made of the ground truth."""
    predictions = change(_truth(recorder))
    model = recorder.run.create_model()
    model.device_ = "cpu"
    return recorder.finish(model, predictions, evaluate(predictions), out)


@pytest.mark.parametrize(("step", "kept"), [(1e-4, np.float32), (0.2, np.float16)])
def test_stored_maps_give_the_pixel_metrics_of_the_record(recorder, tmp_path, step, kept):
    def close(truth):
        maps = truth.maps + np.random.default_rng(0).random(truth.maps.shape)
        return replace(truth, maps=(0.48 + step * maps).astype(np.float32))

    record = finish(recorder, close, tmp_path / "out")
    found = Predictions.load(tmp_path / "out" / "predictions")
    assert found.maps.dtype == kept
    again = evaluate(found)
    for name in ("pixel_auroc", "pixel_ap", "aupro"):
        assert record["metrics"][name] == pytest.approx(again[name], abs=5e-4)


def test_undefined_metrics_are_null_with_a_reason(recorder, tmp_path):
    def one_class(predictions):
        return predictions.select(predictions.samples["label"] == 1)

    record = finish(recorder, one_class, tmp_path / "out")
    assert record["metrics"]["image_auroc"] is None
    assert "normal" in record["reasons"]["image_auroc"]
    assert record["oracle"] == {}
    written = json.loads((tmp_path / "out" / "record.json").read_text())
    assert written["metrics"]["image_auroc"] is None


def test_maps_that_outline_nothing_are_kept_and_counted_nowhere(recorder, tmp_path):
    record = finish(recorder, lambda truth: replace(truth, outlines=False), tmp_path / "out")
    assert record["metrics"]["image_auroc"] == 1
    assert record["metrics"]["pixel_auroc"] is record["metrics"]["aupro"] is None
    assert record["ground_truth"] == {}
    kept = Predictions.load(tmp_path / "out" / "predictions")
    assert kept.maps is not None
    assert not kept.outlines


def test_oracle_decisions_are_at_the_best_f1(recorder):
    record = finish(recorder, lambda predictions: predictions)
    assert record["oracle"]["mcc"] == 1
    assert [record["oracle"][name] for name in ("tp", "fp", "fn", "tn")] == [4, 0, 0, 4]
    assert record["groups"] == {}


def test_constant_scores_leave_undefined_decisions_null(recorder):
    def constant(predictions):
        return Predictions(np.ones(len(predictions)), None, predictions.samples, predictions.settings)

    record = finish(recorder, constant)
    assert record["oracle"]["mcc"] is None
    assert record["metrics"]["aupro"] is None
    json.dumps(record, allow_nan=False)


def test_the_record_says_of_how_many_images_was_learned_and_that_they_are_drawn(recorder):
    root = Path(recorder.run.root)
    (root / "PHANTOM.json").write_text(json.dumps({"seed": 3}))
    run = replace(recorder.run, settings=recorder.run.settings | {"train_limit": 2})
    data = finish(Recorder(run), lambda predictions: predictions)["data"]
    assert data["training"] == {"thing": {"there": 6, "learned": 2, "unscreened": 0, "mirrored": 0}}
    assert data["phantom"]["seed"] == 3


@pytest.mark.parametrize(("kind", "why"), [("random", "needs CLIP's weights"), ("pretrained", ""), ("file", "")])
def test_numbers_stand_for_nothing_where_what_a_method_needs_was_drawn_at_random(kind, why):
    record = {"run": {"method": "adaclip"}, "weights": {"kind": kind}}
    assert (dash(record), compared(record, "image_auroc")) == (why, not why)
    assert dash(record | {"run": {"method": "padim"}}) == ""


def test_runs_that_were_done_by_other_code_are_counted_and_named_with_it(recorder):
    run, now = recorder.run, code_of(recorder.run)
    old = [{"key": run.key, "code": now | {"version": version}} for version in ("0.0.1", "0.0.1", "0.0.2")]
    pairs = [(record | {"ended": "2026-01-02T03:04:05+00:00"}, run) for record in [*old, {"code": now}]]
    said = of_other_code(pairs)
    assert said.startswith("3 of 4 runs were done before by other code than this, and not again: adlib 0.0.1")
    assert "(2); adlib 0.0.2" in said and "(1). Their numbers may be others" in said
    said = done_before(pairs[2][0] | {"started": "2026-01-01T00:00:00+00:00"}, run)
    assert said.startswith("Done before, until 2026-01-02 03:04 UTC: nothing was computed anew. Its numbers are of ")
    assert said.index("0.0.2") < said.index("; this is adlib") < said.index(now["version"])


def test_the_seconds_of_a_phase_are_those_that_passed_in_it(recorder, monkeypatch):
    clock = iter([100.0, 102.5, 110.0, 110.25])
    monkeypatch.setattr("adlib.runs.record.time.perf_counter", lambda: next(clock))
    for name in ("fit", "predict"):
        with recorder.phase(name):
            pass
    assert recorder.seconds == {"fit": 2.5, "predict": 0.25}


def test_sub_classes_are_scored_by_themselves(recorder):
    def grouped(predictions):
        groups = ["a", "b"] * 4
        scores = np.where(np.array(groups) == "a", predictions.scores, 1 - predictions.scores)
        samples = predictions.samples.assign(group=groups)
        return Predictions(scores, predictions.maps, samples, predictions.settings)

    groups = finish(recorder, grouped)["groups"]
    assert {name: values["image_auroc"] for name, values in groups.items()} == {"a": 1, "b": 0}
    assert {name: values["intervals"]["image_auroc"]["high"] for name, values in groups.items()} == {"a": 1, "b": 0}


def test_a_group_that_is_called_as_its_category_is_no_sub_class(recorder):
    groups = np.array(["thing", "thing", "x", "x", "thing", "x", "y", "y"])
    record = finish(recorder, lambda found: replace(found, samples=found.samples.assign(group=groups)))
    assert set(record["groups"]) == {"x", "y"}


def test_images_of_unknown_label_are_in_no_sub_class(recorder):
    labels = np.array([0, 0, -1, 0, 1, 1, -1, 1])
    about = {"label": labels, "group": np.where(labels < 0, "unsorted", "subclass4")}
    record = finish(recorder, lambda found: replace(found, samples=found.samples.assign(**about)))
    assert list(record["groups"]) == ["subclass4"]


def test_sub_classes_of_a_joint_run_are_of_one_category_each(recorder):
    """Two products have a sub-class "a" each: one is found, the other's scores are the wrong way round."""

    def scored(predictions):
        labels, categories = np.array([0, 0, 1, 1] * 2), np.repeat(["cloth", "metal"], 4)
        samples = predictions.samples.assign(category=categories, group="a", label=labels)
        scores = np.where(categories == "cloth", labels, 1 - labels).astype(np.float32)
        return Predictions(scores, None, samples, predictions.settings)

    groups = finish(recorder, scored)["groups"]
    assert {name: values["image_auroc"] for name, values in groups.items()} == {"cloth/a": 1, "metal/a": 0}


def test_the_only_sub_class_of_a_category_has_its_metrics(recorder):
    def alone(predictions):
        samples = predictions.samples.assign(group="subclass4")
        return Predictions(predictions.scores, predictions.maps, samples, predictions.settings)

    record = finish(recorder, alone)
    assert list(record["groups"]) == ["subclass4"]
    whole = record["metrics"] | record["oracle"] | {"intervals": record["intervals"]}
    assert record["groups"]["subclass4"] == whole


def test_vanished_and_cut_masks_are_counted_and_warned_of(recorder):
    def tiny(predictions):
        settings = predictions.settings | {"size": 2, "mask_resize": "nearest"}
        return Predictions(predictions.scores, predictions.maps[:, :2, :2], predictions.samples, settings)

    record = finish(recorder, tiny)
    lost = record["ground_truth"]["regions_lost"]
    assert 0 < lost <= record["ground_truth"]["regions"] == 4
    assert record["ground_truth"]["images_lost"] == lost  # one region an image
    assert any(f"{lost} of 4 defect regions have no ground truth left" in text for text in record["warnings"])

    def cropped(predictions):
        settings = predictions.settings | {"size": 64, "crop": 14}
        return Predictions(predictions.scores, np.zeros((8, 14, 14)), predictions.samples, settings)

    record = finish(recorder, cropped)
    cut = record["ground_truth"]["regions_cut"]
    assert cut > 0
    assert f"{cut} of 4 defect regions are cut by the crop." in record["warnings"]


def test_the_record_says_over_how_many_regions_aupro_is_taken(recorder):
    record = finish(recorder, lambda predictions: predictions)
    assert record["metrics"]["aupro_regions"] == record["ground_truth"]["aupro_regions"] == 4
    assert record["ground_truth"]["regions_lost"] == 0


def test_intervals_are_wider_over_items_than_over_their_images(recorder):
    def photographed_twice(predictions):
        scores = np.linspace(0, 1, len(predictions)).astype(np.float32)[::-1].copy()
        scores[-1] = 2  # neither perfect nor hopeless
        return Predictions(scores, None, predictions.samples, predictions.settings)

    def named(predictions):
        twice = photographed_twice(predictions)
        samples = twice.samples.assign(item=[str(row // 2) for row in range(len(twice))])
        return Predictions(twice.scores, None, samples, twice.settings)

    plain = finish(recorder, photographed_twice)["intervals"]["image_auroc"]
    clustered = finish(recorder, named)["intervals"]["image_auroc"]
    assert plain != clustered


def test_trivial_baselines_are_those_of_the_predictions_that_are_recorded(recorder):
    shown = []

    def half(predictions):
        shown.append(recorder.trivial(predictions))  # the notebook shows those of all images
        return predictions.select(np.arange(len(predictions)) % 2 == 0)

    record = finish(recorder, half)
    assert record["baselines"] == Recorder(recorder.run).trivial(half(_truth(recorder)))
    assert record["baselines"] != shown[0]


def test_trivial_baselines_are_computed_once_for_the_same_predictions(recorder, monkeypatch):
    predictions = _truth(recorder)
    shown = recorder.trivial(predictions)
    monkeypatch.setattr("adlib.baselines.trivial_metrics", lambda *_: pytest.fail("computed again"))
    assert finish(recorder, lambda _: predictions)["baselines"] == shown


def test_one_anomalous_image_gives_a_reason_instead_of_an_interval(recorder):
    def single(predictions):
        return predictions.select([*range(4), 7])

    interval = finish(recorder, single)["intervals"]["image_auroc"]
    assert interval["low"] is None
    assert "one anomalous image" in interval["reason"]


def test_how_images_were_resized_is_in_the_record_and_makes_another_run(recorder):
    run = recorder.run
    others = [{"resize": "linear"}, {"resize": "lanczos"}, {"sides": "both"}]
    keys = {replace(run, settings=run.settings | other).key for other in others}
    assert len(keys | {run.key}) == 4
    asked_for_the_default = replace(run, settings=run.settings | {"resize": "antialias", "sides": "shorter"})
    assert asked_for_the_default.key == run.key
    images = replace(run, settings=run.settings | {"resize": "lanczos"}).images("test")
    record = finish(recorder, lambda found: Predictions(found.scores, found.maps, found.samples, images.settings))
    assert record["images"]["resize"] == "lanczos"
    assert record["images"]["sides"] == "shorter"
    whole = finish(recorder, lambda found: replace(found, seen=found.settings | {"crop": [30, 30]}))
    assert whole["images"]["crop"] == [30, 30]


@pytest.fixture
def stored(recorder, tmp_path):
    """A store with one finished run, and its folder there."""
    store = Store(tmp_path / "runs")
    with store.claim(recorder.run.key) as folder:
        finish(recorder, lambda predictions: predictions, folder)
        (folder / "run.ipynb").write_text("{}")
        _complete(folder, [], maps=True)
    return store, store.path(recorder.run.key)


def test_a_record_that_was_edited_is_named_and_its_run_done_again(stored):
    store, folder = stored
    assert store.damaged() == {}
    assert store.is_finished(folder.name)
    record = json.loads((folder / "record.json").read_text())
    (folder / "record.json").write_text(json.dumps(record))  # laid out otherwise, and the same
    assert store.is_finished(folder.name)
    record["metrics"]["image_auroc"] = 0.99
    (folder / "record.json").write_text(json.dumps(record))
    assert "record.json is no record: it was changed after the run" in store.damaged()[folder.name]
    assert not store.is_finished(folder.name)


@pytest.mark.parametrize("name", ["predictions/samples.csv", "predictions/maps.npy", "run.ipynb"])
def test_a_file_that_was_edited_after_the_run_is_named(name, stored):
    store, folder = stored
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert f"{name} was changed after the run" in store.damaged()[folder.name]
    assert not store.is_finished(folder.name)


@pytest.mark.parametrize(("lowest", "kind"), [(-65000, np.float16), (-1e6, np.float32), (1e6, np.float32)])
def test_maps_are_kept_in_half_the_bytes_where_these_hold_them(recorder, tmp_path, lowest, kind):
    def far(predictions):
        return replace(predictions, maps=np.where(predictions.maps, 0, lowest).astype(np.float32))

    finish(recorder, far, tmp_path / "out")
    kept = Predictions.load(tmp_path / "out" / "predictions").maps
    assert kept.dtype == kind
    assert {np.min(kept), np.max(kept)} == {0, kind(lowest)}


def test_a_run_without_maps_is_whole_without_them(recorder, tmp_path):
    store = Store(tmp_path / "runs")
    with store.claim(recorder.run.key) as folder:
        finish(recorder, lambda predictions: predictions, folder)
        _complete(folder, [], maps=False)
    assert store.damaged() == {}
    found = Predictions.load(store.path(recorder.run.key) / "predictions")
    assert found.maps is None
    assert found.maps_dropped
    assert evaluate(found)["reasons"]["pixel_auroc"] == "its maps were not kept"
    found.save(tmp_path / "copy")
    assert Predictions.load(tmp_path / "copy").maps_dropped


def test_only_a_run_that_went_on_from_a_checkpoint_says_so(recorder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()

    def attempt():
        training = Unfinished(recorder.checkpoint(out), {"seed": 0})
        noted = training.read()
        training.note(step=noted.get("step", 0) + 1)
        return finish(recorder, lambda truth: truth)["resumed"], noted

    (out / "checkpoint.partial").write_bytes(b"cut off")  # as a kill leaves them: a note, and patches without a note
    (out / "checkpoint.stage-patches.stage-values").write_bytes(b"0000")
    assert attempt() == (False, {})
    assert attempt() == (True, {"step": 1})
    (out / "checkpoint").unlink()
    assert attempt() == (False, {})


def test_a_comparison_prints_percentages_with_two_decimals_and_100_for_nothing_less():
    rows = [
        ("image_auroc", 73.96, 99.96, -26.0, -0.0012, 3.456, 0.03125),
        ("image_ap", 99.9961, 100.0, -0.0039, float("nan"), float("nan"), float("nan")),
    ]
    names = ["metric", "first", "second", "difference", "low", "high", "p_value"]
    lines = Comparison("a", "b", 8, pd.DataFrame(rows, columns=names)).text().splitlines()
    assert [line.split() for line in lines] == [
        names,
        ["image_auroc", "73.96", "99.96", "-26.00", "0.00", "3.46", "0.0312"],
        ["image_ap", "<100", "100.00", "0.00", "-", "-", "-"],
    ]


def test_two_stored_runs_are_compared_on_the_images_whose_label_is_known(stored, tmp_path):
    store, folder = stored
    record = json.loads((folder / "record.json").read_text())
    with pytest.raises(InputError, match="are one run"):
        compare_runs(store, record["key"], record["key"][:8])
    other = Run(**record["run"] | {"seed": 7})
    with store.claim(other.key) as place:
        finish(Recorder(other), lambda predictions: predictions, place)
        (place / "run.ipynb").write_text("{}")
        _complete(place, [], maps=True)
    found = compare_runs(store, record["key"][:10], other.key, pixels=True, replicates=100)
    assert found.images == 8
    table = found.table.set_index("metric")
    assert {"image_auroc", "pixel_auroc"} <= set(table.index)
    assert (table["difference"] == 0).all()
    assert (table["low"] <= 0).all() and (table["high"] >= 0).all()
    first, *_, last = found.text().splitlines()[1:]  # both rank all images right: no interval could show a difference
    assert first.split() == ["image_auroc", "100.00", "100.00", "0.00", "-", "-", "-"]
    assert "image_auroc, image_ap" in last and "the same however these images are drawn" in last
    third = Run(**record["run"] | {"seed": 8})
    with store.claim(third.key) as place:
        finish(Recorder(third), lambda predictions: replace(predictions, outlines=False), place)
        (place / "run.ipynb").write_text("{}")
        _complete(place, [], maps=True)
    assert compare_runs(store, other.key, third.key, replicates=100).images == 8
    with pytest.raises(InputError, match="outline defects"):
        compare_runs(store, other.key, third.key, pixels=True, replicates=100)


def test_two_stored_runs_are_compared_over_items(stored, monkeypatch):
    store, folder = stored
    other = stored_again(store, json.loads((folder / "record.json").read_text()), 7)
    # All normal images show one item, all anomalous ones another: how a third would score nobody knows.
    monkeypatch.setattr("adlib.samples.items", lambda samples: samples["label"].to_numpy())
    found = compare_runs(store, folder.name, other, pixels=True, replicates=20)
    table = found.table
    assert "there is but one anomalous item" in found.text().splitlines()[-1]
    assert {"image_auroc", "aupro"} <= set(table["metric"]) and table[["low", "high", "p_value"]].isna().all(axis=None)


def test_a_run_whose_numbers_stand_for_nothing_is_compared_with_none(stored):
    store, folder = stored
    record = json.loads((folder / "record.json").read_text())
    other = stored_again(store, record, 7)
    record["run"]["method"], record["weights"] = "adaclip", {"kind": "random"}
    write_record(folder, record)
    with pytest.raises(InputError, match=f"The run {folder.name} needs CLIP's weights, and its were drawn at random"):
        compare_runs(store, folder.name, other, replicates=100)


def stored_again(store, record, seed):
    """The key of a further run of the same settings, of the files as they are now."""
    run = Run(**record["run"] | {"seed": seed})
    with store.claim(run.key) as folder:
        finish(Recorder(run), lambda predictions: predictions, folder)
        (folder / "run.ipynb").write_text("{}")
        _complete(folder, [], maps=True)
    return run.key


def change(file):
    """Turn a picture upside down."""
    Image.open(file).transpose(Image.Transpose.FLIP_TOP_BOTTOM).save(file)


@pytest.mark.parametrize("gone", [False, True])
def test_runs_are_compared_across_a_move_of_their_data(stored, gone, tmp_path):
    store, folder = stored
    record = json.loads((folder / "record.json").read_text())
    root = Path(record["run"]["root"])
    shutil.copytree(root, tmp_path / "moved" / root.name)
    if gone:
        shutil.rmtree(root)
    record["run"]["root"] = str(tmp_path / "moved" / root.name)
    other = stored_again(store, record, 7)
    found = compare_runs(store, folder.name, other, pixels=True, replicates=100)
    assert found.images == 8 and found.warning == "" and (found.table["difference"] == 0).all()
    one, two = in_one_place(Predictions.load(store.path(key) / "predictions") for key in (folder.name, other))
    place = tmp_path / "moved" if gone else root
    for column in ("image", "mask"):
        assert one.samples[column].equals(two.samples[column])
        assert all(Path(name).is_relative_to(place) for name in one.samples[column] if name)


def test_runs_that_saw_other_pictures_in_files_of_one_name_are_not_compared(stored):
    store, folder = stored
    record = json.loads((folder / "record.json").read_text())
    assert changed_files(folder / "predictions") == []
    change(record["run"]["root"] + "/thing/test/square/000.png")
    assert changed_files(folder / "predictions") == ["images"]
    other = stored_again(store, record, 7)
    with pytest.raises(InputError, match=f"The images that the run {folder.name} scored have changed since"):
        compare_runs(store, folder.name, other)


def test_corrected_masks_leave_scores_comparable_and_pixels_not(stored):
    store, folder = stored
    record = json.loads((folder / "record.json").read_text())
    change(record["run"]["root"] + "/thing/ground_truth/square/000_mask.png")
    assert changed_files(folder / "predictions") == ["masks"]
    other = stored_again(store, record, 7)
    assert compare_runs(store, folder.name, other, replicates=100).images == 8
    with pytest.raises(InputError, match=f"The masks of the run {folder.name} have changed since it was done"):
        compare_runs(store, folder.name, other, pixels=True, replicates=100)


def test_pixels_of_a_run_whose_maps_were_not_kept_are_not_compared(stored):
    store, folder = stored
    record = json.loads((folder / "record.json").read_text())
    other = stored_again(store, record, 7)
    _complete(store.path(other), [], maps=False)
    with pytest.raises(InputError, match=f"Those of the run {other} were not kept"):
        compare_runs(store, folder.name, other, pixels=True, replicates=100)


def test_of_files_that_are_gone_or_no_files_nothing_is_said(stored):
    folder = stored[1]
    record = json.loads((folder / "record.json").read_text())
    image = Path(record["run"]["root"], "thing/test/square/000.png")
    image.unlink()
    assert changed_files(folder / "predictions") is None
    os.mkfifo(image)
    assert changed_files(folder / "predictions") is None


def test_other_training_images_leave_runs_comparable(stored):
    store, folder = stored
    record = json.loads((folder / "record.json").read_text())
    change(record["run"]["root"] + "/thing/train/good/000.png")
    found = compare_runs(store, folder.name, stored_again(store, record, 7), replicates=100)
    assert (found.images, found.warning) == (8, "")


def test_records_of_versions_before_are_compared_with_a_warning_where_their_data_differ(stored):
    store, folder = stored
    record = json.loads((folder / "record.json").read_text())
    other = stored_again(store, record, 7)
    assert compare_runs(store, folder.name, other, replicates=100).warning == ""
    data = {"fingerprint": "d1", "phantom": None}
    write_record(folder, {name: value for name, value in record.items() if name != "checksum"} | {"data": data})
    found = compare_runs(store, folder.name, other, replicates=100)
    assert found.warning.startswith("The data of the two runs differ (fingerprints d1 and ")


def test_runs_are_sorted_by_a_metric_with_those_that_lack_it_last():
    table = pd.DataFrame({"key": list("abc"), "image_auroc": [0.5, None, 0.9], "ended": ["2", "1", "3"]})
    assert sorted_runs(table, "image_auroc")["key"].tolist() == ["c", "a", "b"]
    assert sorted_runs(table, "ended")["key"].tolist() == ["b", "a", "c"]
    with pytest.raises(InputError, match="Did you mean 'image_auroc'"):
        sorted_runs(table, "imageauroc")


def test_a_run_that_went_on_from_other_code_says_so(recorder, tmp_path, monkeypatch):
    images = recorder.run.images("train")

    def fitted(commit):
        found = {"version": "0.1.0", "commit": commit, "dirty": False}
        monkeypatch.setattr("adlib.training.checkpoint.code", lambda: found)
        model = recorder.run.create_model()
        return model.fit(images, device="cpu", progress=False, checkpoint=tmp_path / "c", keep_checkpoint=True)

    assert fitted("a").resumed_notes == []
    with pytest.warns(UserWarning, match="Resumed from other code"):
        model = fitted("b")
    predictions = model.predict(recorder.run.images("test"), device="cpu", progress=False)
    record = recorder.finish(model, predictions, evaluate(predictions), tmp_path / recorder.run.key)
    (warning,) = [text for text in record["warnings"] if text.startswith("Resumed from other code: ")]
    assert "0.1.0 at a," in warning and "0.1.0 at b," in warning
    assert [one["commit"] for one in record["resumed_from"]] == ["a"]
    assert record_problem(record, recorder.run.key) == ""
    assert "background:#b00020" in banner(record["warnings"]).data
