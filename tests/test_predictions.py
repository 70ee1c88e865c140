"""Predictions: saving, loading, evaluating, and which samples are shown."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import make_tree

from adlib import ImageSet, InputError, Predictions, evaluate, load_samples
from adlib.figures import telling_samples
from adlib.predictions import oracle_threshold
from adlib.samples import select


@pytest.fixture
def perfect(tmp_path) -> Predictions:
    """Predictions that equal the ground truth."""
    images = ImageSet(select(load_samples("folder", make_tree(tmp_path)), split="test"), size=32, crop=24)
    return Predictions(images.labels, images.masks().astype(np.float32), images.samples, images.settings)


def test_perfect_predictions_score_one(perfect):
    metrics = evaluate(perfect)
    names = ["image_auroc", "image_ap", "image_f1max", "pixel_auroc", "pixel_ap", "pixel_f1max", "aupro"]
    assert [metrics[name] for name in names] == pytest.approx([1] * 7)
    assert "reasons" not in metrics


def test_given_masks_replace_the_files(perfect):
    assert evaluate(perfect, masks=~perfect.masks)["pixel_auroc"] == 0


def test_the_overlap_at_the_images_threshold_is_at_that_of_the_scores(perfect):
    faint = replace(perfect, maps=0.5 * perfect.maps)  # whose highest pixels are no scores of images
    name = "pro_at_image_f1"
    assert [evaluate(each, pro_variants=[name])[name] for each in (perfect, faint)] == [1, 0]


def test_without_maps_or_masks_pixel_metrics_are_nan_with_a_reason(perfect):
    no_maps = Predictions(perfect.scores, None, perfect.samples, perfect.settings)
    no_masks = Predictions(perfect.scores, perfect.maps, perfect.samples.assign(mask=""), perfect.settings)
    for predictions, reason in ((no_maps, "no maps"), (no_masks, "not every anomalous image has a mask")):
        metrics = evaluate(predictions)
        assert metrics["image_auroc"] == 1
        assert np.isnan(metrics["aupro"])
        assert reason in metrics["reasons"]["aupro"]


def test_predictions_know_what_was_seen_around_what_is_judged_also_when_stored(perfect, tmp_path):
    assert perfect.seen_settings == perfect.settings
    whole = perfect.settings | {"crop": None}
    loaded = Predictions.load(replace(perfect, seen=whole).save(tmp_path / "seen"))
    assert loaded.images.shape == (24, 24)
    assert ImageSet(loaded.samples, **loaded.seen_settings).shape == (32, 32)


def test_maps_that_outline_nothing_have_no_pixel_metric_also_when_stored(perfect, tmp_path):
    explaining = replace(perfect, outlines=False)
    loaded = Predictions.load(explaining.save(tmp_path / "predictions"))
    assert loaded.settings.keys() == perfect.settings.keys()
    for predictions in (explaining, loaded, loaded.select([0, 1])):
        metrics = evaluate(predictions)
        assert np.isnan(metrics["pixel_auroc"])
        assert "outline nothing" in metrics["reasons"]["aupro"]
        assert predictions.maps is not None
    assert evaluate(perfect)["pixel_auroc"] == 1
    bare = Predictions(perfect.scores, perfect.maps, perfect.samples, outlines=False)
    assert Predictions.load(bare.save(tmp_path / "bare")).settings == {}


def test_one_class_alone_is_undefined_not_wrong(perfect):
    normal = perfect.samples["label"] == 0
    metrics = evaluate(Predictions(perfect.scores[normal], None, perfect.samples[normal], perfect.settings))
    assert np.isnan(metrics["image_auroc"])
    assert metrics["reasons"]["image_auroc"]


def test_saved_and_loaded_they_are_the_same(perfect, tmp_path):
    perfect.scores[:] = np.random.default_rng(0).normal(size=len(perfect)).astype(np.float32) * 1e3
    perfect.save(tmp_path / "predictions")
    loaded = Predictions.load(perfect.save(tmp_path / "predictions"))  # a second time replaces the first
    assert np.array_equal(loaded.scores, perfect.scores)
    assert np.array_equal(loaded.maps, perfect.maps)
    assert isinstance(loaded.maps, np.memmap)
    assert loaded.samples.equals(perfect.samples)
    assert (loaded.folder, perfect.folder) == (tmp_path / "predictions", None)
    assert np.array_equal(loaded.masks, perfect.masks)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith((".", "predictions"))] == ["predictions"]


def test_damaged_folder_is_refused(perfect, tmp_path):
    folder = perfect.save(tmp_path / "predictions")
    maps = folder / "maps.npy"
    maps.write_bytes(maps.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"maps\.npy has changed since it was saved"):
        Predictions.load(folder)
    (folder / "checksums.json").unlink()  # as versions before checksums left it
    with pytest.raises(InputError, match="does not hold predictions saved by adlib"):
        Predictions.load(folder)
    with pytest.raises(InputError, match="does not hold predictions"):
        Predictions.load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["samples.csv", "settings.json", "maps.npy"])
def test_what_changed_after_saving_is_named(name, perfect, tmp_path):
    folder = perfect.save(tmp_path / "predictions")
    file = folder / name
    content = file.read_bytes()
    file.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
    with pytest.raises(InputError, match=f"{name} has changed since it was saved, so it is not what the detector said"):
        Predictions.load(folder)
    file.unlink()
    with pytest.raises(InputError, match=f"{name} is gone since it was saved"):
        Predictions.load(folder)
    file.write_bytes(content)
    assert np.array_equal(Predictions.load(folder).maps, perfect.maps)


def test_lengths_must_agree(perfect):
    with pytest.raises(InputError, match="3 scores for 8 samples"):
        Predictions(perfect.scores[:3], None, perfect.samples)
    with pytest.raises(InputError, match="2 maps for 8 samples"):
        Predictions(perfect.scores, perfect.maps[:2], perfect.samples)


@pytest.mark.parametrize("given", ["name", "samples", "none"])
def test_what_is_no_predictions_is_not_evaluated(given, perfect):
    with pytest.raises(InputError, match="evaluate takes Predictions"):
        evaluate({"name": {"a method": perfect}, "samples": perfect.samples, "none": None}[given])


def test_nan_in_maps_names_the_image(perfect):
    perfect.maps[5, 3, 3] = np.nan
    with pytest.raises(InputError, match="5"):
        evaluate(perfect)


def test_telling_samples_are_chosen_by_score(perfect):
    perfect.scores[:] = [0.1, 0.9, 0.2, 0.3, 0.8, 0.5, 0.6, 0.7]  # four normal ones first
    chosen = telling_samples(perfect, each=2)  # at the oracle's 0.5
    assert (chosen["found"], chosen["missed"], chosen["alarming"]) == ([4, 7], [], [1])
    assert (chosen["barely found"], chosen["barely passed"]) == ([5, 6], [3, 2])
    stricter = telling_samples(perfect, each=2, threshold=0.65)
    assert (stricter["found"], stricter["missed"], stricter["alarming"]) == ([4, 7], [5, 6], [1])


def test_nothing_is_called_where_there_is_no_threshold(perfect):
    chosen = telling_samples(perfect.select(perfect.samples["label"] == 0), each=2)
    assert (chosen["found"], chosen["missed"], chosen["alarming"]) == ([], [], [])


@pytest.mark.parametrize("name", ["samples.csv", "settings.json", "maps.npy"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "rubbish"])
def test_predictions_of_any_damage_are_refused_and_never_waited_for(tmp_path, name, kind):
    table = pd.DataFrame({"image": ["a.png"], "mask": "", "label": 0, "split": "test", "category": "", "group": ""})
    folder = Predictions([0.5], np.zeros((1, 2, 2)), table.assign(defect="good"), {"size": 2}).save(tmp_path / "kept")
    (folder / name).unlink()
    {"pipe": os.mkfifo, "folder": Path.mkdir, "rubbish": lambda file: file.write_bytes(b"[1, 2")}[kind](folder / name)
    with pytest.raises(InputError, match=r"does not hold predictions|not what the detector said"):
        Predictions.load(folder)


def test_images_of_unknown_label_change_no_metric(perfect):
    labels, defects = perfect.samples["label"].to_numpy().copy(), perfect.samples["defect"].to_numpy().copy()
    labels[[0, 7]], defects[[0, 7]] = -1, "unsorted"
    unsure = Predictions(1 - perfect.scores, perfect.maps, perfect.samples.assign(label=labels, defect=defects))
    unsure.settings = perfect.settings
    unsure.scores[1:7] = perfect.scores[1:7]
    metrics, masks = evaluate(unsure), unsure.masks
    assert [metrics[name] for name in ("image_auroc", "pixel_auroc", "aupro")] == pytest.approx([1, 1, 1])
    assert evaluate(unsure, masks=masks) == metrics == evaluate(unsure.known)
    assert oracle_threshold(unsure) == oracle_threshold(unsure.known) == 1
    assert len(unsure.known) == 6


def test_predictions_that_say_their_size_alone_have_the_same_masks_when_stored(perfect, tmp_path):
    plain = Predictions(perfect.scores, None, perfect.samples, {"size": 7})
    assert np.array_equal(Predictions.load(plain.save(tmp_path / "plain")).masks, plain.masks)


def test_masks_of_predictions_that_do_not_say_how_are_shrunk_as_they_were_then(perfect, tmp_path):
    folder = perfect.save(tmp_path / "older")
    (folder / "checksums.json").unlink()
    settings = json.loads((folder / "settings.json").read_text())
    del settings["mask_resize"]
    (folder / "settings.json").write_text(json.dumps(settings))
    assert Predictions.load(folder).images.mask_resize == "nearest" != perfect.images.mask_resize


def test_unknown_images_alone_leave_every_metric_undefined_with_a_reason(perfect):
    unsure = Predictions(perfect.scores, None, perfect.samples.assign(label=-1, defect="unsorted"), perfect.settings)
    metrics = evaluate(unsure)
    assert np.isnan(metrics["image_auroc"])
    assert "image_auroc" in metrics["reasons"]


def test_a_folder_of_anything_else_is_not_replaced(perfect, tmp_path):
    folder = tmp_path / "mine"
    (folder / "pictures").mkdir(parents=True)
    (folder / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"mine holds pictures, which is no part of predictions: choose a folder"):
        perfect.save(folder)
    assert {file.name for file in folder.rglob("*")} == {"pictures", "thesis.tex"}
    with pytest.raises(InputError, match=r"thesis.tex is a file, where a folder is to be written"):
        perfect.save(folder / "thesis.tex")
    for _ in range(2):
        perfect.save(tmp_path / "saved")
        (tmp_path / "saved" / ".DS_Store").touch()
    assert len(Predictions.load(tmp_path / "saved")) == len(perfect)


def test_saving_that_fails_leaves_nothing_beside(perfect, tmp_path, monkeypatch):
    def fail(folder):
        raise OSError("disk full")

    monkeypatch.setattr("adlib.predictions.seal", fail)
    with pytest.raises(OSError, match="disk full"):
        perfect.save(tmp_path / "new" / "saved")
    assert list((tmp_path / "new").iterdir()) == []
