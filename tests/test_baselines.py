"""Trivial baselines: right on images whose answer is known, stated beside the metrics of every run."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from conftest import write

from adlib import ImageSet, Predictions
from adlib.baselines import trivial_metrics, trivial_predictions
from adlib.metrics import image_metrics
from adlib.report import baseline_table
from adlib.samples import make_samples


def predictions_of(folder, pictures: dict[str, tuple[np.ndarray, np.ndarray | None]], categories=None, suffix="png"):
    """Predictions (all 0) of named pictures, each with its mask, or None for a normal one."""
    rows = []
    for number, (name, (picture, mask)) in enumerate(pictures.items()):
        row = {"image": str(write(folder / f"{name}.{suffix}", picture)), "label": int(mask is not None)}
        if mask is not None:
            row["mask"] = str(write(folder / "masks" / f"{name}.png", mask))
        rows.append(row | {"category": categories[number] if categories else "part"})
    images = ImageSet(make_samples(rows, folder), size=64)
    return Predictions(np.zeros(len(rows)), np.zeros((len(rows), 64, 64)), images.samples, images.settings), images


def flat(grey: int, square: int | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    picture, mask = np.full((64, 64), grey, np.uint8), np.zeros((64, 64), np.uint8)
    if square is not None:
        picture[20:36, 20:36], mask[20:36, 20:36] = square, 255
    return picture, None if square is None else mask


def test_the_mean_grey_level_alone_separates_lighter_from_darker_images_and_is_never_flipped(tmp_path):
    light, _ = predictions_of(tmp_path / "light", {"a": flat(90), "b": flat(100), "c": flat(120, 140)})
    dark, _ = predictions_of(tmp_path / "dark", {"a": flat(90), "b": flat(100), "c": flat(60, 40)})
    assert trivial_metrics(light)[""]["mean grey"]["image_auroc"] == 1
    assert trivial_metrics(dark)[""]["mean grey"]["image_auroc"] == 0


def test_scores_are_what_a_person_would_compute(tmp_path):
    colour = np.zeros((64, 64, 3), np.uint8)
    colour[:, :32] = (255, 0, 0)  # OpenCV's order: blue
    predictions, _ = predictions_of(tmp_path, {"a": (colour, None), "b": flat(100), "c": flat(100, 200)})
    said = trivial_predictions(predictions)
    inside = np.zeros((64, 64)) + 100 / 255
    inside[20:36, 20:36] = 200 / 255
    assert said["mean grey"].scores == pytest.approx([0.114 / 2, 100 / 255, inside.mean()], abs=1e-6)
    assert said["spread"].scores == pytest.approx([0.114 / 2, 0, inside.std()], abs=1e-6)
    assert said["file size"].scores.tolist() == [(tmp_path / f"{name}.png").stat().st_size for name in "abc"]
    expected = cv2.GaussianBlur(np.abs(inside - inside.mean()), (0, 0), 1)
    assert said["deviation map"].maps[2] == pytest.approx(expected, abs=1e-3)
    assert said["deviation map"].scores[2] == pytest.approx(expected.max(), abs=1e-5)


def test_the_deviation_map_finds_a_bright_square_among_pixels(tmp_path):
    predictions, images = predictions_of(tmp_path, {"a": flat(100), "b": flat(90), "c": flat(100, 250)})
    metrics = trivial_metrics(predictions, images)[""]
    assert metrics["deviation map"]["pixel_auroc"] > 0.99
    assert metrics["deviation map"]["image_auroc"] == 1
    assert "pixel_auroc" not in metrics["mean grey"]
    assert "aupro" in metrics["deviation map"]


def test_a_detector_that_judges_the_centre_alone_is_set_beside_the_deviation_of_that_centre(tmp_path):
    whole, images = predictions_of(tmp_path, {"a": flat(100), "b": flat(100, 200)})
    centre = replace(whole, maps=whole.maps[:, 8:56, 8:56], settings=whole.settings | {"crop": (48, 48)})
    said = trivial_predictions(centre, images)["deviation map"]
    assert np.array_equal(said.maps, trivial_predictions(whole, images)["deviation map"].maps[:, 8:56, 8:56])
    assert trivial_metrics(centre, images)[""]["deviation map"]["pixel_auroc"] > 0.99


def test_several_categories_are_scored_by_themselves_too(tmp_path):
    pictures = {"a": flat(10), "b": flat(50, 60), "c": flat(200), "d": flat(150, 140)}
    predictions, _ = predictions_of(tmp_path, pictures, ["one", "one", "two", "two"])
    metrics = trivial_metrics(predictions)
    assert {part: values["mean grey"]["image_auroc"] for part, values in metrics.items()} == {
        "": 0.5,
        "one": 1,
        "two": 0,
    }


def test_without_maps_there_are_image_metrics_alone(tmp_path):
    predictions, _ = predictions_of(tmp_path, {"a": flat(100), "c": flat(100, 250)})
    predictions.maps = None
    assert set(trivial_metrics(predictions)[""]["deviation map"]) == {"image_auroc", "image_ap", "image_f1max"}


def test_pictures_in_an_hdf5_file_have_no_size_of_their_own(tmp_path):
    import h5py

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.stack([flat(100)[0], flat(100, 250)[0]])
    rows = [{"image": f"{tmp_path}/a.h5::x::{index}", "label": index} for index in range(2)]
    samples = make_samples(rows, tmp_path)
    predictions = Predictions(np.zeros(2), None, samples, {"size": 64})
    assert set(trivial_metrics(predictions)[""]) == {"mean grey", "spread", "deviation map"}


def test_the_table_states_them_beside_the_run(tmp_path):
    predictions, _ = predictions_of(tmp_path, {"a": flat(100), "b": flat(90), "c": flat(100, 250)})
    metrics = image_metrics([0, 0, 1], [0, 1, 2]) | {"pixel_auroc": float("nan"), "reasons": {"pixel_auroc": "none"}}
    table = baseline_table(metrics, trivial_metrics(predictions))
    assert table.index.tolist() == ["this run", "mean grey", "spread", "file size", "deviation map"]
    assert table.loc["this run", "image_auroc"] == "100.00"
    assert table.loc["this run", "pixel_auroc"] == "–"
    assert float(table.loc["deviation map", "pixel_auroc"]) > 99


def test_the_nearest_thumbnail_is_of_a_normal_training_image_of_the_same_category(tmp_path):
    tested, _ = predictions_of(tmp_path / "test", {"a": flat(100), "b": flat(130), "c": flat(200, 210)})
    assert "nearest thumbnail" not in trivial_predictions(tested)
    seen = {"a": flat(90), "b": flat(120), "c": flat(200, 210), "d": flat(100)}
    _, training = predictions_of(tmp_path / "train", seen, ["part", "part", "part", "other"])
    scores = trivial_predictions(tested, None, training)["nearest thumbnail"].scores
    square = 200 + 10 / 16  # the square is a sixteenth of the picture
    assert scores == pytest.approx([10 / 255, 10 / 255, (square - 120) / 255], abs=1e-5)
    _, elsewhere = predictions_of(tmp_path / "elsewhere", {"a": flat(90)}, ["other"])
    assert "nearest thumbnail" not in trivial_predictions(tested, None, elsewhere)


def test_sub_classes_of_one_category_are_scored_by_themselves_too(tmp_path):
    predictions, _ = predictions_of(tmp_path, {"a": flat(10), "b": flat(50, 60), "c": flat(200), "d": flat(150, 140)})
    predictions.samples["group"] = ["one", "one", "two", "two"]
    metrics = trivial_metrics(predictions)
    assert {part: values["mean grey"]["image_auroc"] for part, values in metrics.items()} == {
        "": 0.5,
        "/one": 1,
        "/two": 0,
    }
    assert baseline_table({"image_auroc": 0.5}, metrics).index.tolist()[:2] == ["this run", "mean grey"]


def test_sub_classes_of_several_categories_are_not_mixed(tmp_path):
    pictures = {"a": flat(10), "b": flat(50, 60), "c": flat(200), "d": flat(150, 140)}
    predictions, _ = predictions_of(tmp_path, pictures, ["cloth", "cloth", "metal", "metal"])
    predictions.samples["group"] = "one"
    found = {part: values["mean grey"]["image_auroc"] for part, values in trivial_metrics(predictions).items()}
    assert found == {"": 0.5, "cloth": 1, "metal": 0, "cloth/one": 1, "metal/one": 0}
