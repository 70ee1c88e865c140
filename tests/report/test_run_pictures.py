"""The papers' figures of results: which sample a grid shows, where its maps lie, and what stands where nothing is."""

import base64

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import finished_record, write

from adlib import InputError
from adlib.predictions import Predictions
from adlib.report import prediction_grid, published_bars, run_illustration
from adlib.report.run_pictures import typical_sample
from adlib.runs import Run, Store
from adlib.runs.record import write_json
from adlib.samples import make_samples

KEYS = {"patchcore": "a" * 16, "onenip": "b" * 16, "adaclip": "c" * 16}


def cell(method, category="UB", key="", missing="", seed=0):
    place = {"paper": "cxr_ad", "table": "II", "dataset": "cxr_ad", "category": category, "setting": ""}
    return place | {"method": method, "seed": seed, "missing": missing, "key": key}


def leave_plan(out, *cells):
    (out / "plans").mkdir(parents=True, exist_ok=True)
    write_json(out / "plans" / "cxr_ad.json", {"paper": "cxr_ad", "cells": list(cells)})


def make_data(root, category="UB", anomalous=5):
    """Some anomalous test images of 16 x 32 pixels with masks, image i of grey level i, and a normal one behind."""
    rows = []
    for index in range(anomalous + 1):
        defective = index < anomalous
        image = write(root / category / f"{index}.png", np.full((16, 32), index, np.uint8))
        mask = np.zeros((16, 32), np.uint8)
        mask[4:8, 4:8] = 255
        rows.append(
            {
                "image": str(image),
                "mask": str(write(root / category / f"{index}_mask.png", mask)) if defective else "",
                "label": int(defective),
                "split": "test",
                "category": category,
                "defect": ("bubble" if index % 2 else "crack") if defective else "good",
            }
        )
    return rows


def leave_run(out, root, method, scores, maps=True, rows=None, phantom=None, size=(8, 16), crop=None, key=None):
    """A finished run with these scores of the rows' samples; map i is filled with i, and hot in one pixel."""
    key = key or KEYS[method]
    rows = make_data(root) if rows is None else rows
    filled = np.arange(len(rows), dtype=np.float32)[:, None, None] * np.ones((1, *(crop or size)), np.float32)
    filled[:, 0, 0] = 100
    settings = {"size": size, "crop": crop, "window": None}
    predictions = Predictions(scores, filled if maps else None, make_samples(rows, root), settings)
    predictions.save(Store(out / "runs").path(key) / "predictions")
    run = Run("cxr_ad", str(root), method, "UB")
    record = finished_record(key, run.as_dict(), data={"fingerprint": "d0", "phantom": phantom})
    write_json(Store(out / "runs").path(key) / "record.json", record)
    return cell(method, key=key)


def panels(figure):
    """The axes of a grid, row by row, without the bar of colours."""
    columns = figure.axes[0].get_gridspec().ncols
    axes = [axis for axis in figure.axes if axis.get_label() != "<colorbar>"]
    return [axes[start : start + columns] for start in range(0, len(axes), columns)]


def shown(axis):
    return np.asarray(axis.images[0].get_array())


def said(axis):
    return " ".join(text.get_text() for text in axis.texts).replace("\n", " ")


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"one": [3, 1, 2]}, "c"),  # the middle score
        ({"one": [3, 1, 2, 0]}, "b"),  # of two middle ones the less anomalous
        ({"one": [1, 2, 3], "other": [100, 300, 200]}, "b"),  # ranks 1, 2.5, 2.5: the unit of a score does not matter
        ({"one": [5, 5, 5]}, "b"),  # ties go by name
        ({"one": [7]}, "a"),
    ],
)
def test_the_typical_sample_is_in_the_middle_of_mean_ranks(scores, expected):
    table = pd.DataFrame(scores)
    assert typical_sample(table.set_axis(list("abcd")[: len(table)])) == expected


def test_the_grid_shows_the_typical_defect_whatever_its_maps_are(tmp_path):
    # Image 2 has the middle rank among the five anomalous ones of both; the normal one, scored higher, does not count.
    first = leave_run(tmp_path, tmp_path / "data", "patchcore", [0.1, 0.2, 0.3, 0.4, 0.5, 9])
    second = leave_run(tmp_path, tmp_path / "data", "onenip", [50, 10, 30, 20, 40, 90])
    leave_plan(tmp_path, first, second)
    figure = prediction_grid("cxr_ad", "II", tmp_path)
    ((image, mask, *maps),) = panels(figure)
    assert [axis.get_title() for axis in (image, mask, *maps)] == ["input", "ground truth", "patchcore", "onenip"]
    assert (image.get_ylabel(), image.get_xlabel()) == ("UB\ncrack", "2.png")
    assert (shown(image) == 2).all()
    assert shown(mask).sum() == 16
    assert all(shown(axis)[1, 1] == 2 for axis in maps)
    assert "Phantom" not in figure.get_supxlabel()


def test_every_method_has_its_own_colours_from_median_to_the_brightest(tmp_path):
    place = leave_run(tmp_path, tmp_path / "data", "patchcore", [1, 2, 3, 4, 5, 0], phantom={"seed": 0})
    leave_plan(tmp_path, place)
    figure = prediction_grid("cxr_ad", "II", tmp_path)
    ((_, _, axis),) = panels(figure)
    values = np.load(Store(tmp_path / "runs").path(KEYS["patchcore"]) / "predictions" / "maps.npy")
    assert axis.images[0].get_clim() == pytest.approx(np.percentile(values, [50, 99.9]))
    assert "Phantom data" in figure.get_supxlabel()


def test_the_map_of_a_centre_crop_lies_in_the_middle_of_the_image(tmp_path):
    place = leave_run(tmp_path, tmp_path / "data", "patchcore", [1, 2, 3, 4, 5, 0], size=(10, 20), crop=(8, 10))
    leave_plan(tmp_path, place)
    ((image, _, axis),) = panels(prediction_grid("cxr_ad", "II", tmp_path))
    assert axis.images[0].get_extent() == pytest.approx([5 / 20, 15 / 20, 9 / 10, 1 / 10])
    assert axis.get_xlim() == image.get_xlim() == (0, 1)
    assert axis.get_aspect() == image.get_aspect() == 0.5


def test_what_is_missing_leaves_a_panel_that_says_so(tmp_path):
    one = leave_run(tmp_path, tmp_path / "data", "patchcore", [1, 2, 3, 4, 5, 0], maps=False)
    cells = [
        one,
        cell("onenip", key=KEYS["onenip"]),
        cell("adaclip", missing="no data"),
        cell("patchcore", "DC", "d" * 16),
    ]
    leave_plan(tmp_path, *cells)
    figure = prediction_grid("cxr_ad", "II", tmp_path)
    ((_, _, *maps),) = panels(figure)  # no row for DC, of which nothing is done
    assert [said(axis) for axis in maps] == ["no map", "to do", "no data"]
    # Their run has failed; its predictions have been deleted.
    for method, status in (("onenip", "failed"), ("adaclip", "finished")):
        (tmp_path / "runs" / KEYS[method]).mkdir()
        record = finished_record(KEYS[method], status=status, kind="error", reason="why")
        write_json(tmp_path / "runs" / KEYS[method] / "record.json", record)
    leave_plan(tmp_path, one, cell("onenip", key=KEYS["onenip"]), cell("adaclip", key=KEYS["adaclip"]))
    (line,) = panels(prediction_grid("cxr_ad", "II", tmp_path, methods=["onenip", "adaclip", "patchcore"]))
    assert [axis.get_title() for axis in line[2:]] == ["onenip", "adaclip", "patchcore"]
    assert [said(axis) for axis in line[2:]] == ["failed", "predictions are gone", "no map"]


def test_images_that_are_gone_leave_a_word_and_the_maps(tmp_path):
    leave_plan(tmp_path, leave_run(tmp_path, tmp_path / "data", "patchcore", [1, 2, 3, 4, 5, 0]))
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    ((image, mask, axis),) = panels(prediction_grid("cxr_ad", "II", tmp_path))
    assert said(image) == said(mask) == "image not found"
    assert shown(axis)[1, 1] == 2
    # A second run, made where the images lie now: the same samples by their names below the root.
    second = leave_run(tmp_path, tmp_path / "elsewhere", "onenip", [1, 2, 3, 4, 5, 0])
    leave_plan(tmp_path, cell("patchcore", key=KEYS["patchcore"]), second)
    ((image, mask, *_),) = panels(prediction_grid("cxr_ad", "II", tmp_path))
    assert (shown(image) == 2).all()
    assert shown(mask).any()


def test_one_row_per_kind_of_defect_and_the_first_finished_seed(tmp_path):
    later = leave_run(tmp_path, tmp_path / "data", "patchcore", [1, 2, 3, 4, 5, 0])
    leave_plan(tmp_path, cell("patchcore", key="e" * 16), later | {"seed": 1})
    bubble, crack = panels(prediction_grid("cxr_ad", "II", tmp_path, by_defect=True))
    assert (bubble[0].get_ylabel(), bubble[0].get_xlabel()) == ("UB\nbubble", "1.png")  # of 1 and 3
    assert (crack[0].get_ylabel(), crack[0].get_xlabel()) == ("UB\ncrack", "2.png")  # of 0, 2 and 4


def test_a_joint_run_shows_each_category_with_its_own_samples(tmp_path):
    rows = make_data(tmp_path / "data", "DC", 1) + make_data(tmp_path / "data", "UB", 3)
    joint = leave_run(tmp_path, tmp_path / "data", "onenip", [9, 8, 1, 3, 2, 0], rows=rows)
    leave_plan(tmp_path, joint, joint | {"category": "DC"})
    ub, dc = panels(prediction_grid("cxr_ad", "II", tmp_path))
    assert (ub[0].get_xlabel(), shown(ub[2])[1, 1]) == ("2.png", 4)
    assert (dc[0].get_xlabel(), shown(dc[2])[1, 1]) == ("0.png", 0)
    (alone,) = panels(prediction_grid("cxr_ad", "II", tmp_path, categories=["DC"]))
    assert alone[0].get_ylabel() == "DC\ncrack"


def test_without_a_run_a_sentence_stands_for_the_figure(tmp_path):
    assert "are not done yet" in prediction_grid("cxr_ad", "II", tmp_path).data
    leave_plan(tmp_path, cell("patchcore", missing="no data"))
    assert "are not done yet" in prediction_grid("cxr_ad", "II", tmp_path).data
    rows = make_data(tmp_path / "data", anomalous=2)
    first = leave_run(tmp_path, tmp_path / "data", "patchcore", [1, 0], rows=rows[:1] + rows[2:])
    second = leave_run(tmp_path, tmp_path / "data", "onenip", [1, 0], rows=rows[1:])
    leave_plan(tmp_path, first, second)
    assert "no anomalous test image in common" in prediction_grid("cxr_ad", "II", tmp_path).data
    with pytest.raises(InputError, match="no benchmark table IX; it has II"):
        prediction_grid("cxr_ad", ["II", "IX"], tmp_path)


def test_an_illustration_comes_from_the_notebook_of_the_run(tmp_path):
    assert "No run of patchcore on UB is done" in run_illustration("cxr_ad", "patchcore", "UB", tmp_path).data
    leave_plan(tmp_path, leave_run(tmp_path, tmp_path / "data", "patchcore", [1, 2, 3, 4, 5, 0]))
    assert "holds no picture" in run_illustration("cxr_ad", "patchcore", "UB", tmp_path).data
    cells = [
        nbformat.v4.new_code_cell(source, outputs=[nbformat.v4.new_output("display_data", {"image/png": picture})])
        for source, picture in (
            ("adlib.figures.show_predictions(predictions)", "AAAA"),
            ("adlib.figures.show_illustrations(model, predictions)", base64.b64encode(b"\x89PNG ...").decode()),
        )
    ]
    notebook = Store(tmp_path / "runs").path(KEYS["patchcore"]) / "run.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), notebook)
    assert run_illustration("cxr_ad", "patchcore", "UB", tmp_path).data == b"\x89PNG ..."


def test_bars_keep_printed_numbers_and_ours_apart():
    columns = ["method", "published", "ours", "sd", "state", "phantom"]
    nan = float("nan")
    left = [["cfa", 87.96, 50.0, 2.0, "done", True], ["iad_inpainting", nan, nan, nan, "to do", False]]
    right = [["cfa", 75.5, 40.0, nan, "partly", False], ["stfpm", 99.0, 1.0, nan, "done", False]]
    figure = published_bars({"a": pd.DataFrame(left, columns=columns), "b": pd.DataFrame(right, columns=columns)}, "F1")
    first, second = figure.axes
    assert [label.get_text() for label in first.get_yticklabels()] == ["cfa", "iad_inpainting (surrogate)"]
    assert sorted(text.get_text() for text in first.texts) == ["87.96", "drawn data", "not printed", "to do"]
    assert sorted(text.get_text() for text in second.texts) == ["", "40.00 (partly)", "75.5", "not printed"]
    printed, ours = (bars for bars in first.containers if hasattr(bars, "patches"))
    assert printed[0].get_width() == 87.96
    assert np.isnan(ours[0].get_width())  # of drawn data
    assert printed[0].get_y() < ours[0].get_y()
    assert second.containers[-1][0].get_width() == 40
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["published", "ours"]


def test_where_all_of_ours_are_of_drawn_data_printed_bars_stand_alone():
    columns = ["method", "published", "ours", "sd", "state", "phantom"]
    rows = [["cfa", 87.96, 100.0, float("nan"), "done", True], ["stfpm", 99.0, 98.0, float("nan"), "done", True]]
    figure = published_bars({"a": pd.DataFrame(rows, columns=columns)}, "F1")
    assert [text.get_text() for text in figure.axes[0].texts] == ["87.96", "99.00"]
    assert len(figure.axes[0].patches) == 2
    assert "drawn data" in figure.legends[0].get_texts()[0].get_text()
