"""Figures: what they show, and that they are read on light and on dark pages."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_tree
from matplotlib.colors import to_rgba
from pretended_cuda import gpu

from adlib import ImageSet, Predictions, figures, load_samples
from adlib.samples import select


def _tiff(file, values):
    import cv2

    cv2.imwrite(str(file), values)
    row = {"image": str(file), "mask": "", "label": 0, "split": "test", "category": "a", "group": "", "defect": "good"}
    return pd.DataFrame([row])


def test_floating_point_images_beyond_0_to_1_are_scaled_and_say_so(tmp_path):
    values = np.linspace(-5, 20, 64, dtype=np.float32).reshape(8, 8)
    axis = figures.show_samples(_tiff(tmp_path / "raw.tiff", values), columns=1, rows=1).axes[0]
    assert axis.get_title() == "a · good\n-5 to 20, scaled"
    shown = axis.images[0].get_array()
    assert (shown.min(), shown.max()) == (0, 1)


def test_as_many_defects_are_shown_as_there_are_and_none_in_a_sentence(tmp_path):
    samples = load_samples("folder", make_tree(tmp_path, train=1, normal=1, anomalous=2))
    assert len(figures.show_defects(samples, each=4).axes) == 2 * 3
    normal = select(samples, label=0)
    area = pd.DataFrame({"area": [1.0, 2.0]})
    for figure, words in (
        (figures.show_defects(normal), "no defective image with a mask"),
        (figures.show_samples(samples.iloc[:0]), "no image of this kind"),
        (figures.plot_distribution({}, "area", "area (pixels)"), r"nothing whose area (pixels) there is"),
        (figures.plot_distribution({"none": area.iloc[:0]}, "area", "area (pixels)", log=True), "nothing whose area"),
    ):
        assert words in figure.axes[0].texts[0].get_text()
    assert (
        figures.plot_distribution({"some": area, "none": area.iloc[:0]}, "area", "area").axes[0].get_xlabel() == "area"
    )


def test_validation_images_have_a_colour_in_the_shift_of_light():
    levels = pd.DataFrame({"category": "a", "split": ["train", "val", "test"], "mean": [1.0, 2.0, 3.0]})
    legend = figures.plot_brightness(levels).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["train", "val", "test"]


def test_floating_point_images_within_0_to_1_are_shown_as_they_are(tmp_path):
    values = np.full((8, 8), 0.25, np.float32)
    axis = figures.show_samples(_tiff(tmp_path / "raw.tiff", values), columns=1, rows=1).axes[0]
    assert axis.get_title() == "a · good"
    assert np.all(axis.images[0].get_array() == 0.25)


@pytest.fixture
def predictions(tmp_path) -> Predictions:
    images = ImageSet(select(load_samples("folder", make_tree(tmp_path)), split="test"), size=32)
    return Predictions(images.labels, images.masks().astype(np.float32), images.samples, images.settings)


def test_a_histogram_shows_its_thresholds_by_name_and_value(predictions):
    axis = figures.score_histogram(predictions, {"oracle": 0.5, "held out": 0.75}).axes[0]
    texts = [text.get_text() for text in axis.get_legend().get_texts()]
    assert {"oracle: 0.5", "held out: 0.75"} <= set(texts)
    assert [line.get_xdata()[0] for line in axis.lines] == [0.5, 0.75]


def test_scores_that_are_equal_but_for_their_last_digits_have_a_histogram(predictions):
    predictions.scores[:] = np.float32(1)
    predictions.scores[0] = np.nextafter(np.float32(1), np.float32(2))
    axis = figures.score_histogram(predictions).axes[0]
    assert sum(bar.get_height() for bar in axis.patches) == len(predictions.scores)


def test_heat_maps_carry_a_bar_of_their_values_and_no_index_gives_a_sentence(predictions):
    drawn = figures.show_predictions(predictions, [4, 5])
    assert len(drawn.axes) == 5
    assert drawn.axes[-1].get_ylabel() == "anomaly map"
    assert "none" in figures.show_predictions(predictions, []).data


def test_pictures_that_a_method_makes_on_a_gpu_are_shown(predictions):
    asked = []

    def illustrate(batch):
        asked.append(batch.device.type)
        return {"darker": batch / 2}

    with gpu():
        model = SimpleNamespace(device_=torch.device("cuda"), illustrate=illustrate)
        above, below = figures.show_illustrations(model, predictions, [4]).axes
    assert asked == ["cuda"]
    np.testing.assert_allclose(below.images[0].get_array(), above.images[0].get_array() / 2, rtol=1e-5)


def test_figures_have_no_background_and_no_black_ink(predictions):
    drawn = figures.score_histogram(predictions, {"oracle": 0.5})
    assert to_rgba(drawn.get_facecolor()) == (0, 0, 0, 0)
    axis = drawn.axes[0]
    inks = [axis.xaxis.label.get_color(), axis.xaxis.get_ticklabels()[0].get_color()]
    assert {to_rgba(ink) for ink in inks} == {to_rgba("#7a7f87")}


def test_samples_are_shown_of_every_category(tmp_path):
    rows = [_tiff(tmp_path / f"{index}.tiff", np.zeros((4, 4), np.float32)) for index in range(12)]
    samples = pd.concat(rows, ignore_index=True).assign(category=["a"] * 9 + ["b", "b", "c"])
    shown = [axis.get_title() for axis in figures.show_samples(samples, columns=3, rows=1).axes]
    assert [title.split(" ")[0] for title in shown] == ["a", "b", "c"]


def test_a_notebook_shows_a_figure_once_as_a_picture(predictions):
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    shell = InteractiveShell.instance()
    for drawn in (figures.show_predictions(predictions, [4]), figures.score_histogram(predictions)):
        with capture_output() as shown:
            assert shell.display_formatter.format(drawn) == ({}, {})  # it has shown itself
        (output,) = shown.outputs
        assert output.data["image/png"].startswith(b"\x89PNG")


def test_panels_are_as_high_as_what_they_show_and_titles_stay_above_their_own(tmp_path):
    wide = _tiff(tmp_path / "wide.tiff", np.zeros((4, 16), np.float32)).assign(
        defect="a defect with a rather long name"
    )
    drawn = figures.show_samples(wide, columns=1, rows=1)
    place = drawn.axes[0].get_position()
    width, height = drawn.get_size_inches()
    assert place.height * height == pytest.approx(place.width * width / 4)
    assert drawn.axes[0].get_title().count("\n") == 1
    assert (1 - place.y1) * height > 0.3  # room for two lines
