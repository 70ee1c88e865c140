"""The inspector: joining, filters, decisions, pictures, notes, and the page without a kernel."""

import base64
import csv
import io
import re
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import make_tree, write

import adlib
from adlib import ImageSet, InputError, Predictions, load_samples
from adlib.findings import map_on_picture
from adlib.inspector import ReviewNotes, inspect, panels, render, suspected_label_errors
from adlib.inspector.contact_sheet import telling
from adlib.inspector.histogram import score_histogram
from adlib.inspector.joined import Joined
from adlib.inspector.notes import NoteConflict
from adlib.inspector.selection import disagreement, in_order, outcomes, suspicious_normals
from adlib.metrics import decision_metrics
from adlib.samples import make_samples, select


@pytest.fixture(scope="module")
def tested(tmp_path_factory) -> ImageSet:
    """Four normal and four anomalous images, the anomalous ones last."""
    root = make_tree(tmp_path_factory.mktemp("data"))
    return ImageSet(select(load_samples("folder", root), split="test"), size=32, crop=24)


@pytest.fixture
def first(tested) -> Predictions:
    """A method that knows the masks and ranks one normal image above two anomalous ones."""
    scores = np.array([0.1, 0.2, 0.3, 0.6, 0.4, 0.5, 0.7, 0.9], np.float32)
    maps = tested.masks() * scores[:, None, None]
    return Predictions(scores, maps, tested.samples, tested.settings)


@pytest.fixture
def second(first) -> Predictions:
    """A method without maps, in another unit."""
    return Predictions(np.array([10, 20, 30, 40, 50, 60, 70, 80]), None, first.samples, first.settings)


@pytest.fixture
def inspector(first, second, tmp_path):
    return inspect({"one": first, "two": second}, notes=tmp_path / "notes.csv", threshold={"one": 0.5, "two": 45})


def decoded(png: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)


def shown_names(inspector) -> list[str]:
    return [Path(inspector.joined.path(index)).parent.name for index in inspector.shown]


def test_it_is_a_public_name():
    assert adlib.inspect is inspect
    assert "inspect" in dir(adlib)


# Joining


def test_methods_are_joined_by_image_not_by_row(first, second):
    turned = second.select(np.arange(8)[::-1])
    joined = Joined({"one": first, "two": turned})
    assert joined.scores[:, 1].tolist() == [10, 20, 30, 40, 50, 60, 70, 80]
    assert joined.left_out == 0


def test_images_that_one_method_lacks_are_left_out_and_counted(first, second):
    joined = Joined({"one": first, "two": second.select([6, 1, 2])})
    assert joined.samples["image"].tolist() == first.samples["image"][[1, 2, 6]].tolist()
    assert joined.scores[:, 1].tolist() == [20, 30, 70]
    assert joined.left_out == 5


def test_masks_that_the_first_method_lacks_are_those_of_the_next(first, second, tmp_path):
    rules = first.samples["mask"].mask(first.samples["mask"] != "", "auto")
    bare = replace(second, samples=second.samples.assign(mask="")).select([7, 6, 5, 4, 3, 2, 1])
    ruled = replace(first, samples=first.samples.assign(mask_rule=rules))
    joined = Joined({"bare": bare, "first": ruled})
    for name in ("mask", "mask_rule"):
        assert joined.samples[name].tolist() == ruled.samples[name].tolist()[:0:-1]
    pictures = []
    for given in ({"first": first, "bare": bare}, {"bare": bare, "first": ruled}):
        inspector = inspect(given, notes=tmp_path / "notes.csv")
        inspector.go([Path(path).name for path in inspector.joined.samples["mask"]].index("002_mask.png"))
        inspector.draw()
        assert "ground truth outlined" in inspector.canvas.panels[0]["alt"]
        pictures.append(decoded(inspector.canvas.panels[0]["png"]))
    assert np.array_equal(*pictures)
    assert (pictures[0][..., ::-1] == render.TRUTH).all(axis=2).any()
    assert Joined({"first": first, "bare": bare}).samples.equals(first.samples[1:].reset_index(drop=True))


def test_what_cannot_be_inspected_is_refused(first, second):
    other = second.samples.assign(image=second.samples["image"] + ".other")
    swapped = second.samples.assign(label=1 - second.samples["label"])
    spoilt = first.scores.copy()
    spoilt[3] = np.nan
    for wrong, message in (
        ({}, "needs predictions"),
        (3, "needs predictions"),
        ({"one": "reports/runs"}, "'one' is str"),
        (first.select(np.zeros(8, bool)), "empty"),
        ({"one": first.select([0, 1, 0])}, "listed twice"),
        ({"one": first, "two": Predictions(second.scores, None, other)}, "no image in common"),
        ({"one": first, "two": Predictions(second.scores, None, swapped)}, "labelled one way in one"),
        (Predictions(spoilt, None, first.samples), "003.png is not finite"),
    ):
        with pytest.raises(InputError, match=message):
            inspect(wrong)


def test_the_crop_frames_the_map(first):
    joined = Joined(first)
    assert joined.frame(0) == (4 / 32, 4 / 32, 28 / 32, 28 / 32)
    assert Joined(Predictions(first.scores, first.maps, first.samples)).frame(0) == (0, 0, 1, 1)


def test_maps_are_read_from_a_memory_mapped_file(first, tmp_path):
    loaded = Predictions.load(first.save(tmp_path / "saved"))
    joined = Joined(loaded)
    for index in (5, 0, 5):
        assert np.array_equal(joined.map(index, 0), first.maps[index])
    assert joined.folders == [tmp_path / "saved"]


def test_moved_images_are_found_below_their_new_root(first, tmp_path):
    old = Path(first.samples["image"][0]).parents[3]
    moved = tmp_path / "moved"
    away = first.samples.assign(
        **{name: first.samples[name].str.replace(str(old), "/gone/away", regex=False) for name in ("image", "mask")}
    )
    moved.symlink_to(old)
    lost = Predictions(first.scores, first.maps, away, first.settings)

    inspector = inspect(lost, notes=tmp_path / "notes.csv")
    inspector.draw()
    assert inspector.canvas.panels == []
    assert "/gone/away/thing/test/good/000.png cannot be read" in inspector.canvas.message
    assert "images in" in inspector.canvas.message
    inspector.controls.root.value = str(tmp_path / "nowhere")
    assert "there is no 000.png" in inspector.controls.status.value
    inspector.controls.root.value = str(moved)
    inspector.draw()
    assert len(inspector.canvas.panels) == 2
    assert inspector.joined.path(7, "mask").startswith(str(moved / "thing" / "ground_truth"))
    assert inspector.joined.samples["image"][0].startswith("/gone")  # notes keep the name

    assert len(Joined(lost, root=moved / "thing").mask(7)) == 64  # a folder inside the old root serves as well
    with pytest.raises(InputError, match="give the folder"):
        inspect(lost, root=tmp_path / "nowhere")


# Selection


def test_outcomes_by_hand():
    labels, scores = np.array([0, 0, 1, 1]), np.array([1.0, 2.0, 2.0, 1.0], np.float32)
    assert outcomes(labels, scores, 2.0).tolist() == ["TN", "FP", "TP", "FN"]


def test_outcomes_agree_with_decision_metrics_at_every_score():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 60), rng.normal(size=60).astype(np.float32)
    for threshold in (*scores.astype(float), float(scores.max()) + 1, np.nextafter(float(scores[3]), 9)):
        counts = pd.Series(outcomes(labels, scores, threshold)).value_counts()
        metrics = decision_metrics(labels, scores, threshold)
        assert all(counts.get(name, 0) == metrics[name.lower()] for name in ("TP", "FP", "FN", "TN"))


def test_disagreement_is_in_ranks_not_in_units():
    scores = np.array([[1, 1000], [2, 2000], [3, 3000], [4, 500]])
    assert disagreement(scores).tolist() == [0.25, 0.25, 0.25, 0.75]
    assert disagreement(scores[:, :1]).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("stored", [0, 1, 2, 3]),
        ("score_high", [2, 0, 3, 1]),
        ("score_low", [1, 0, 3, 2]),
        ("area_large", [3, 1, 0, 2]),
        ("area_small", [1, 3, 0, 2]),
        ("disagreement", [1, 0, 2, 3]),
    ],
)
def test_orders(order, expected):
    scores, spread, areas = np.array([2.0, 1, 3, 2]), np.array([0.0, 0.5, 0, 0]), np.array([0, 0.1, np.nan, 0.2])
    assert in_order(order, scores, spread, areas).tolist() == expected


def test_suspected_label_errors_need_every_method(first, second):
    # Anomalous: 0.4 0.5 0.7 0.9 (median 0.6) and 50 60 70 80 (median 65). Normal image 3 is above in one alone.
    scores = np.array([10, 20, 99, 99, 50, 60, 70, 80])
    first.scores[3] = 0.65
    fooled = Predictions(scores, None, first.samples, first.settings)
    assert suspected_label_errors({"one": first, "two": second}).empty
    found = suspected_label_errors({"one": first, "two": fooled})
    assert found["image"].tolist() == [first.samples["image"][3]]
    assert found[["one", "two", "rank"]].iloc[0].tolist() == pytest.approx([0.65, 99, 6 / 8])
    assert suspected_label_errors(first.select([0, 1])).empty
    assert not suspicious_normals(np.zeros(3), np.ones((3, 1))).any()


# The widget, driven without a browser


def test_filters_narrow_and_show_all_widens(inspector):
    control = inspector.controls
    control.filter_outcome.value = ("FP",)
    assert inspector.shown.tolist() == [3]
    assert "of 1 shown, 8 in all" in control.status.value
    control.filter_outcome.value = ("FP", "FN")
    assert inspector.shown.tolist() == [3, 4]
    control.filter_clear.click()
    assert inspector.shown.tolist() == list(range(8))
    control.filter_defect.value = "square"
    assert set(shown_names(inspector)) == {"square"}
    control.filter_score.value = (0.45, 0.75)
    assert inspector.shown.tolist() == [5, 6]
    control.filter_clear.click()
    assert [control.filter_category.label, control.filter_defect.label, control.filter_mark.label] == ["all"] * 3
    control.filter_disagree.value = True
    assert inspector.shown.tolist() == [3, 4]  # 0.6 and 40, 0.4 and 50
    control.method.value = 1
    control.filter_clear.click()
    control.filter_outcome.value = ("TP",)
    assert inspector.shown.tolist() == [4, 5, 6, 7]


def test_no_sample_left_says_so_and_recovers(inspector):
    inspector.controls.filter_outcome.value = ("FP",)
    inspector.controls.filter_defect.value = "square"
    inspector.draw()
    assert inspector.index is None
    assert inspector.canvas.panels == []
    assert "No sample passes" in inspector.canvas.message
    assert inspector.controls.next.disabled
    assert inspector.controls.note_save.disabled
    inspector.step(1)
    inspector.controls.filter_clear.click()
    inspector.draw()
    assert len(inspector.canvas.panels) == 3
    assert inspector.canvas.message == ""


def test_a_count_is_a_button_that_narrows_the_list_and_widens_it_again(inspector):
    for shown in ([3], list(range(8))):
        inspector.canvas._handle_custom_msg({"outcome": "FP"}, [])
        assert inspector.shown.tolist() == shown
    assert inspector.controls.filter_outcome.label == "all"
    inspector.canvas._handle_custom_msg({"outcome": "other"}, [])
    assert len(inspector.shown) == 8


def test_the_map_of_one_method_alone_follows_the_focus(inspector, first, tmp_path):
    control = inspector.controls
    assert not control.alone.value
    control.alone.value = True
    inspector.draw()
    assert [panel["title"] for panel in inspector.canvas.panels] == ["image", "one"]
    control.method.value = 1
    inspector.draw()
    assert [panel["title"] for panel in inspector.canvas.panels] == ["image", "two"]
    many = {f"method {number}": first for number in range(5)}
    assert adlib.inspect(many, notes=tmp_path / "notes.csv").controls.alone.value  # else each would be a stamp


def test_order_by_defect_area_reads_the_masks(inspector, tested):
    inspector.controls.sort.value = "area_large"
    areas = [cv2.imread(path, 0).astype(bool).mean() for path in tested.samples["mask"][4:]]
    assert inspector.joined.areas[4:].tolist() == pytest.approx(areas)
    assert set(inspector.shown[:4].tolist()) == {4, 5, 6, 7}


def test_steps_by_button_by_key_and_by_thumbnail(inspector):
    control = inspector.controls
    assert control.previous.disabled
    control.next.click()
    assert (inspector.position, control.position.value) == (1, 2)
    inspector.canvas._handle_custom_msg({"step": 2}, [])
    assert inspector.position == 3
    inspector.strip._handle_custom_msg({"go": 7}, [])
    assert inspector.position == 7
    assert control.next.disabled
    inspector.step(5)
    assert inspector.position == 7
    control.position.value = 1
    assert inspector.index == 0


def test_the_sample_stays_while_it_passes_the_filters(inspector):
    inspector.go(5)
    inspector.controls.sort.value = "score_high"
    assert inspector.index == 5
    inspector.controls.filter_defect.value = "good"
    assert inspector.index == inspector.shown[0]


def test_threshold_moves_the_confusion_matrix_and_the_line(inspector, first):
    control = inspector.controls
    for threshold in (0.55, 0.3, 5.0, -2.0):
        control.threshold_exact.value = threshold
        metrics = decision_metrics(first.samples["label"], first.scores, threshold)
        for name in ("tp", "fp", "fn", "tn"):
            assert re.search(rf'data-count="{name}"><button[^>]*>{metrics[name]:.0f}<', control.confusion.value)
        assert f"threshold {threshold:.4g}<" in control.histogram.value
        assert str(inspector.decisions.metrics(0)) == str(metrics)  # as text, so that NaN equals NaN
    assert inspector.decisions.thresholds == [-2.0, 45.0]


def test_a_threshold_of_an_unknown_name_is_refused(first, second, tmp_path):
    notes = tmp_path / "notes.csv"
    named = {"one": first, 2: second}
    with pytest.raises(
        InputError, match=r"threshold names 'One', of which .*: give one number, or name 'one' or '2'\.$"
    ):
        inspect(named, notes, threshold={"One": 0.123})
    with pytest.raises(InputError, match=r"threshold names 'typo', 'b', .*: give one number, or name 'detector'\.$"):
        inspect(first, notes, threshold={"typo": 0.123, "b": 1})
    assert inspect(first, notes, threshold={"detector": 0.123}).decisions.thresholds == [0.123]
    assert inspect(named, notes, threshold={2: 45}).decisions.thresholds == [pytest.approx(0.4), 45]


def test_the_highest_score_alone_has_rank_100_and_none_has_0(tmp_path):
    samples = make_samples([{"image": f"/x/{number:03}.png"} for number in range(400)], tmp_path)
    inspector = inspect(Predictions(np.arange(400), None, samples), notes=tmp_path / "notes.csv")
    ranks = {}
    for index in (0, 1, 199, 398, 399):
        inspector.go(index)
        ranks[index] = re.search(r"<td>([^<]*) %</td>", inspector.controls.sample_scores.value)[1]
    assert ranks == {0: "&lt;1", 1: "&lt;1", 199: "50", 398: "&lt;100", 399: "100"}


def test_a_slider_that_a_browser_rounds_leaves_the_threshold_alone(inspector):
    slider = inspector.controls.threshold
    slider.value = 0.5 + 0.4 * slider.step
    assert inspector.decisions.thresholds[0] == 0.5
    slider.value = 0.5 + slider.step
    assert inspector.decisions.thresholds[0] == slider.value


class Handle:
    """A slider as ipywidgets shows it in a browser: told of a change, it answers with its value at the nearest step.

    What comes in one message is followed in its order, and a value that comes before the ends is cut off at the old.
    """

    def __init__(self, slider):
        self.slider, self.answers = slider, []
        self.model = slider.get_state(("min", "max", "step", "value"))
        self.ends = [self.model[name] for name in ("min", "max", "step")]
        slider._send = self.hear

    def hear(self, message, buffers=None):
        told = {name: value for name, value in message["state"].items() if name in self.model}
        if message["method"] != "update":
            return
        self.model |= told
        for name in told:
            if name != "value":
                self.ends = [self.model[end] for end in ("min", "max", "step")]
            low, high, step = self.ends
            value = min(max(low + round((self.model["value"] - low) / step) * step, low), high)
            if value != self.model["value"]:
                self.model["value"] = value
                self.answers.append(value)

    def answer(self):
        for _ in range(20):
            if self.answers:
                self.slider.set_state({"value": self.answers.pop(0)})
        assert self.answers == []


def test_what_a_browser_answers_to_another_method_in_focus_moves_no_threshold(first, second, tmp_path):
    second = replace(second, maps=100 * first.maps)
    inspector = inspect({"one": first, "two": second}, notes=tmp_path / "notes.csv", threshold={"one": 0.5, "two": 50})
    inspector.decisions.own[1] += 0.123  # between two steps, as 50 is
    decisions, control = inspector.decisions, inspector.controls
    before = [*decisions.thresholds, *decisions.own]
    handles = [Handle(slider) for slider in (control.threshold, control.mask_threshold)]
    for method in (1, 0, 1):
        control.method.value = method
        for handle in handles:
            handle.answer()
        assert [*decisions.thresholds, *decisions.own] == before
    inspector.set_threshold(500)  # beyond the slider, which ends at the highest score and a little
    handles[0].answer()
    assert decisions.thresholds[1] == 500


def test_what_a_browser_answers_to_the_method_s_window_is_no_window_of_the_reviewer(tmp_path):
    samples = make_samples([{"image": str(write(tmp_path / "x.png", np.full((64, 64), 99, np.uint8)))}], tmp_path)
    images = ImageSet(samples, size=64, window=(10.3, 200))
    inspector = inspect(Predictions([1.0], None, samples, images.settings), notes=tmp_path / "notes.csv")
    handles = [Handle(slider) for slider in (inspector.controls.level, inspector.controls.width)]
    inspector.draw()
    assert all(handle.answers for handle in handles)  # 105.15 and 189.7 lie between two steps
    for handle in handles:
        handle.answer()
    inspector.draw()
    assert inspector._look.window == (10.3, 200)


def test_the_threshold_opens_at_the_best_f1_and_says_that_it_is_an_oracle(first, tmp_path):
    inspector = inspect(first, notes=tmp_path / "notes.csv")
    assert inspector.decisions.thresholds == [pytest.approx(0.4)]  # one false alarm, nothing missed
    assert "oracle" in inspector.controls.confusion.value
    assert "oracle" in inspector.contact_sheet()
    inspector.set_threshold(0.45)
    assert "oracle" not in inspector.controls.confusion.value
    with pytest.raises(InputError, match="finite"):
        inspector.set_threshold(float("nan"))


def test_threshold_recolours_the_mask(inspector):
    inspector.go(7)
    inspector.draw()
    before = inspector.canvas.panels
    inspector._seen = True  # as if a browser showed it
    inspector.controls.threshold.value = 0.95  # above the map's 0.9: no mask left
    after = inspector.canvas.panels
    assert before[0]["png"] == after[0]["png"]
    assert not np.array_equal(decoded(before[1]["png"]), decoded(after[1]["png"]))
    inspector.controls.mask_follows.value = False
    inspector.controls.mask_threshold.value = 0.5
    assert np.array_equal(decoded(before[1]["png"]), decoded(inspector.canvas.panels[1]["png"])) is True


def test_a_map_that_outlines_nothing_makes_no_mask(first, tmp_path):
    pictures = []
    for given in (first, replace(first, outlines=False)):
        inspector = inspect(given, threshold=0.5, notes=tmp_path / "notes.csv")
        inspector.go(7)
        inspector.draw()
        pictures.append(decoded(inspector.canvas.panels[1]["png"]))
        assert inspector.controls.mask_follows.disabled == (given is not first)
    inspector.controls.own_mask.value = False
    inspector.draw()
    assert np.array_equal(pictures[1], decoded(inspector.canvas.panels[1]["png"]))
    assert not np.array_equal(*pictures)


def test_nothing_is_drawn_before_a_browser_shows_it(inspector):
    inspector.step(1)
    assert inspector.canvas.panels == []
    inspector.canvas._handle_custom_msg({"ready": True}, [])
    assert len(inspector.canvas.panels) == 3
    assert len(inspector.strip.thumbnails) == 8
    assert all(thumbnail["jpeg"] for thumbnail in inspector.strip.thumbnails)


def test_a_map_that_was_not_kept_is_no_map_that_the_method_lacks(first, tmp_path):
    said = {}
    for dropped in (False, True):
        found = inspect(replace(first, maps=None, maps_dropped=dropped), threshold=0.5, notes=tmp_path / "notes.csv")
        found.draw()
        said[dropped] = found.canvas.panels[1]["alt"] + found.canvas.panels[1]["caption"]
    assert "no anomaly map of " in said[False]
    assert "(no map)" in said[False]
    assert "no anomaly map was kept of " in said[True]
    assert "(its map was not kept)" in said[True]


def test_maps_without_finite_numbers_are_none_and_holes_are_let_through(first, tmp_path):
    def opened(maps):
        inspector = inspect(replace(first, maps=maps), threshold=0.5, notes=tmp_path / "notes.csv")
        inspector.controls.ground_truth.value = inspector.controls.own_mask.value = False
        inspector.controls.scale.value = "image"
        inspector.go(7)
        inspector.draw()
        image, panel = inspector.canvas.panels
        assert inspector.contact_sheet().count("<img") == 14
        return inspector, decoded(image["png"]), decoded(panel["png"]), panel

    inspector, image, drawn, panel = opened(np.full_like(first.maps, np.nan))
    assert inspector.decisions.scales == [None]
    assert np.array_equal(image, drawn)
    assert "(its map holds no finite number)" in panel["caption"]
    assert "an anomaly map without a finite number of 003.png" in panel["alt"]
    assert (panel["low"], panel["high"]) == ("", "")

    holed = first.maps.copy()
    holed[7, :12] = np.nan
    _, image, drawn, panel = opened(holed)
    assert (panel["low"], panel["high"]) == ("0", "0.9")
    below = opened(first.maps)[2]
    seen = 512 // 8  # the crop's border; 12 of its 24 rows are a hole
    assert np.array_equal(drawn[seen : 256 - 16, seen:-seen], image[seen : 256 - 16, seen:-seen])
    assert np.array_equal(drawn[256 + 16 :], below[256 + 16 :])
    assert not np.array_equal(below[256 + 16 : -seen, seen:-seen], image[256 + 16 : -seen, seen:-seen])


def test_panels_have_text_alternatives_and_values(inspector):
    inspector.go(4)
    inspector.draw()
    image, one, two = inspector.canvas.panels
    assert "anomalous" in image["alt"]
    assert "ground truth outlined" in image["alt"]
    assert "FN: missed, score 0.4" in one["alt"]
    assert "no anomaly map" in two["alt"]
    values = inspector.canvas.values
    stored = cv2.imread(inspector.joined.path(4), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(np.frombuffer(values["grey"], np.uint8).reshape(64, 64), stored)
    assert np.frombuffer(values["maps"][0]["data"], "<f4").max() == np.float32(0.4)
    assert values["maps"][1]["data"] is None


def test_colour_scale_is_shared_or_of_each_image(inspector):
    inspector.go(4)
    inspector.draw()
    shared = inspector.canvas.panels[1]["high"]
    inspector.controls.scale.value = "image"
    inspector.draw()
    assert inspector.canvas.panels[1]["high"] == "0.4" != shared


def test_every_control_has_a_name_a_tooltip_and_a_class(inspector):
    for name, control in vars(inspector.controls).items():
        assert f"adlib-{name.replace('_', '-')}" in control._dom_classes
        if not isinstance(control, adlib.inspector.controls.widgets.HTML):
            assert control.description
            assert control.tooltip


def test_one_sample_without_maps_or_mask(tmp_path):
    image = write(tmp_path / "a.png", np.full((40, 60, 3), 90, np.uint8))
    samples = make_samples([{"image": str(image), "label": 1}], tmp_path)
    inspector = inspect(Predictions([1.5], None, samples), notes=tmp_path / "notes.csv")
    inspector.draw()
    assert [panel["title"] for panel in inspector.canvas.panels] == ["image", "detector"]
    assert "undefined" in inspector.controls.confusion.value  # FPR: nothing is normal
    assert inspector.controls.mask_follows.disabled
    assert "a.png" in inspector.contact_sheet()


def test_sixteen_bits_are_windowed(tmp_path):
    grey = np.linspace(1000, 3000, 64 * 64).reshape(64, 64).astype(np.uint16)
    samples = make_samples([{"image": str(write(tmp_path / "x.png", grey))}], tmp_path)
    inspector = inspect(Predictions([1.0], None, samples), notes=tmp_path / "notes.csv")
    inspector.draw()
    assert decoded(inspector.canvas.panels[0]["png"]).max() <= 12  # 3000 of 65535
    inspector.controls.window_auto.click()
    inspector.draw()
    shown = decoded(inspector.canvas.panels[0]["png"])
    assert (shown.min(), shown.max()) == (0, 255)
    inspector.controls.level.value, inspector.controls.width.value = 2000, 4000
    inspector.draw()
    assert abs(int(decoded(inspector.canvas.panels[0]["png"])[256, 0, 0]) - 127) <= 1
    assert inspector.canvas.values["bits"] == 16
    assert np.array_equal(np.frombuffer(inspector.canvas.values["grey"], "<u2").reshape(64, 64), grey)


def sheet_pictures(html: str) -> list[np.ndarray]:
    """The pictures of a contact sheet in their order."""
    return [decoded(base64.b64decode(data)) for data in re.findall(r"base64,([^\"]+)", html)]


@pytest.mark.parametrize(
    ("low", "high", "kind"), [(0, 0.5, np.float32), (0, 100, np.float32), (-10.5, 3, np.float32), (0, 2**20, np.int32)]
)
def test_files_of_other_values_are_shown_in_the_window_of_the_method(tmp_path, low, high, kind):
    ramp = np.linspace(low, high, 64 * 64).reshape(64, 64).astype(kind)
    samples = make_samples([{"image": str(write(tmp_path / "x.tiff", ramp))}], tmp_path)
    images = ImageSet(samples, size=64, window=(low, high))
    given = Predictions([1.0], None, samples, images.settings)
    seen = 255 * images[0]["image"][0].numpy()
    for predictions in (given, Predictions.load(given.save(tmp_path / "saved"))):
        inspector = inspect(predictions, notes=tmp_path / "notes.csv")
        inspector._seen = True
        inspector.controls.full_resolution.value = True
        inspector.draw()
        assert inspector.canvas.message == ""
        shown = decoded(inspector.canvas.panels[0]["png"])[..., 0]
        assert np.abs(shown - seen).max() <= 1
        inspector._draw_strip()
        for small in (decoded(inspector.strip.thumbnails[0]["jpeg"]), sheet_pictures(inspector.contact_sheet())[0]):
            assert [small[0].mean(), small.mean(), small[-1].mean()] == pytest.approx([2, 127, 253], abs=6)


def test_images_of_8_and_of_16_bits_are_each_shown_as_the_method_saw_them(tmp_path):
    files = [
        write(tmp_path / f"{number}.png", np.full((64, 64), 200 if kind == np.uint8 else 500, kind))
        for number, kind in enumerate((np.uint8, np.uint16, np.uint8, np.uint16))
    ]
    samples = make_samples([{"image": str(file)} for file in files], tmp_path)
    images = ImageSet(samples, size=64, window=(0, 1000))
    given = Predictions([1.0, 2, 3, 4], None, samples, images.settings)
    seen = [round(255 * float(image["image"][0, 9, 9])) for image in images]
    assert seen == [51, 128, 51, 128]
    inspector = inspect(Predictions.load(given.save(tmp_path / "saved")), notes=tmp_path / "notes.csv")
    control = inspector.controls

    def drawn(index: int) -> int:
        inspector.go(index)
        inspector.draw()
        return int(decoded(inspector.canvas.panels[0]["png"])[9, 9, 0])

    def in_sheet() -> list[int]:
        """Of the normal images with the highest scores: 16, 8 and 16 bits; beside each is the method's panel."""
        return [int(picture[9, 9, 0]) for picture in sheet_pictures(inspector.contact_sheet())[::2]]

    assert in_sheet() == pytest.approx([128, 51, 128], abs=2)
    assert [drawn(index) for index in range(4)] == pytest.approx(seen, abs=1)
    assert in_sheet() == pytest.approx([128, 51, 128], abs=2)
    assert (control.level.value, control.width.value) == (500, 1000)
    drawn(0)
    assert (control.level.value, control.width.value) == (500, 1000)

    control.window_full.click()  # of 8 bits alone
    assert [drawn(index) for index in range(4)] == pytest.approx([200, 128, 200, 128], abs=1)
    assert in_sheet() == pytest.approx([128, 200, 128], abs=2)
    drawn(2)
    assert (control.level.value, control.width.value) == (127.5, 255)


def test_full_resolution_on_demand(tmp_path):
    image = write(tmp_path / "big.png", np.zeros((700, 1400), np.uint8))
    inspector = inspect(
        Predictions([1.0], None, make_samples([{"image": str(image)}], tmp_path)), notes=tmp_path / "notes.csv"
    )
    inspector.draw()
    assert decoded(inspector.canvas.panels[0]["png"]).shape == (256, 512, 3)
    inspector.controls.full_resolution.value = True
    inspector.draw()
    assert decoded(inspector.canvas.panels[0]["png"]).shape == (700, 1400, 3)
    assert inspector.canvas.values["size"] == [700, 1400]


# Pictures


def test_outline_has_a_halo_and_keeps_a_single_pixel():
    ground = np.full((50, 50, 3), 128, np.uint8)
    mask = np.zeros((500, 500), bool)
    mask[250, 250] = True
    render.outline(ground, mask, render.TRUTH)
    assert (ground == render.TRUTH).all(axis=2).any()
    assert (ground == 0).all(axis=2).any()


def test_map_is_stretched_over_its_frame_only():
    drawn = np.full((100, 100, 3), 200, np.uint8)
    scores = np.ones((10, 10), np.float32)
    look = panels.Look(decided=False, opacity=1.0)
    panel = panels.method_panel(drawn, None, scores, (0.25, 0.25, 0.75, 0.75), (0, 1), 2, look)
    assert (panel[:25] == 100).all()  # darkened: not seen by the method
    assert (panel[30:70, 30:70] == panel[50, 50]).all()
    assert not (panel[50, 50] == 200).all()


FITS = {
    "stretched": {"size": 64},
    "to a rectangle": {"size": (48, 80)},
    "cropped": {"size": 64, "crop": 48},
    "shorter side": {"size": 64, "sides": "shorter"},
    "shorter side, cropped": {"size": 64, "sides": "shorter", "crop": 50},
    "padded": {"size": 64, "fit": "pad"},
    "padded to a rectangle": {"size": (48, 80), "fit": "pad"},
    "padded, cropped": {"size": 64, "fit": "pad", "crop": 50},
    "in tiles": {"size": 64, "tile": (32, 8)},
    "padded, in tiles": {"size": 64, "fit": "pad", "tile": (32, 8)},
}


@pytest.mark.parametrize("settings", FITS.values(), ids=FITS)
@pytest.mark.parametrize("shape", [(127, 61), (53, 131), (67, 67)])
def test_the_map_and_its_mask_lie_where_the_method_saw_them(tmp_path, settings, shape):
    grey = cv2.resize(np.random.default_rng(0).integers(0, 256, (6, 6), np.uint8), shape[::-1])
    samples = make_samples([{"image": str(write(tmp_path / "a.png", grey)), "label": 1}], tmp_path)
    images = ImageSet(samples, **settings)
    seen = images[0]["image"].mean(0).numpy()  # a map that is the picture itself
    inspector = inspect(Predictions([0.5], seen[None], samples, images.settings), notes=tmp_path / "notes.csv")
    control, low = inspector.controls, inspector.decisions.scales[0]
    control.full_resolution.value, control.opacity.value, control.own_mask.value = True, 1.0, False
    inspector.draw()
    shown = decoded(inspector.canvas.panels[1]["png"])[..., ::-1]

    laid = map_on_picture(seen, shape, images.settings)
    drawn = cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
    expected = np.where(
        np.isnan(laid)[..., None], drawn // 2, render.heat(drawn, np.nan_to_num(laid), low, 1.0, "inferno")
    )
    differs = np.abs(shown.astype(int) - expected).max(axis=2)
    assert np.median(differs) <= 2
    assert (differs > 12).mean() < 0.05  # the border of a crop may lie a pixel off
    inside = ~np.isnan(laid)
    assert np.corrcoef(laid[inside], grey[inside])[0, 1] > 0.97

    control.own_mask.value, control.mask_follows.value, control.mask_threshold.value = True, False, 0.5
    inspector.draw()
    outlined = decoded(inspector.canvas.panels[1]["png"])[..., ::-1]
    left, top, right, bottom = inspector.joined.frame(0)
    sides = list(zip(shape, (top, left), (bottom, right), strict=True))
    down, across = (
        np.floor(((np.arange(side) + 0.5) / side - low) / (high - low) * pixels).astype(int).clip(0, pixels - 1)
        for (side, low, high), pixels in zip(sides, seen.shape, strict=True)
    )
    box = np.zeros(shape, bool)
    box[tuple(slice(round(max(low, 0) * side), round(min(high, 1) * side)) for side, low, high in sides)] = True
    mask = (seen[np.ix_(down, across)] >= 0.5) & box
    expected = np.ascontiguousarray(shown)
    render.outline(expected, mask, render.DECIDED, dashed=True)
    assert 0.05 < mask.mean() < 0.9
    drawn_over, expected_over = (np.any(picture != shown, axis=2) for picture in (outlined, expected))
    assert (drawn_over ^ expected_over).mean() < 0.04  # a pixel of the map that lies on the threshold


def test_of_a_padded_map_the_middle_lies_over_the_whole_image():
    drawn = np.full((100, 50, 3), 200, np.uint8)
    scores = np.zeros((8, 8), np.float32)
    scores[3, 4:6] = 1  # of the 8 columns, 2 to 5 are of the image; rows 37 to 50, columns 25 to 50 of its pixels
    look = panels.Look(decided=False, opacity=1.0)
    panel = panels.method_panel(drawn, None, scores, (-0.5, 0, 1.5, 1), (0, 1), 0.5, look)
    changed = np.argwhere((panel != drawn).any(axis=2))
    assert changed.min(axis=0).tolist() == pytest.approx([31, 19], abs=1)  # it fades within a pixel of the map
    assert changed.max(axis=0).tolist() == pytest.approx([56, 49], abs=1)
    assert (panel[:30] == 200).all()  # nothing is darkened: all was seen
    assert (panel[44, 26:] != 200).any(axis=1).all()

    outlined = panels.method_panel(drawn, None, scores, (-0.5, 0, 1.5, 1), (0, 2), 0.5, replace(look, decided=True))
    white = np.argwhere((outlined == 255).all(axis=2))
    assert white.min(axis=0).tolist() == pytest.approx([38, 25], abs=1)
    assert white.max(axis=0).tolist() == pytest.approx([49, 49], abs=1)


def test_a_map_of_the_middle_of_an_image_lies_there(tmp_path):
    grey = np.full((60, 100), 90, np.uint8)
    samples = make_samples([{"image": str(write(tmp_path / "a.png", grey))}], tmp_path).assign(middle=40)
    images = ImageSet(samples, size=20, crop=10)
    given = Predictions([0.5], np.ones((1, 10, 10), np.float32), samples, images.settings)
    assert Joined(given).frame(0) == pytest.approx((0.4, 20 / 60, 0.6, 40 / 60))


def test_the_frame_of_moved_images_is_that_of_their_shape(tmp_path):
    write(tmp_path / "new" / "a.png", np.zeros((40, 80), np.uint8))
    samples = make_samples([{"image": "/gone/a.png"}], tmp_path)
    given = Predictions([0.5], np.zeros((1, 16, 16), np.float32), samples, {"size": 16, "fit": "pad"})
    assert Joined(given).frame(0) == (0, 0, 1, 1)
    assert Joined(given, tmp_path / "new").frame(0) == (0, -0.5, 1, 1.5)


def test_low_scores_leave_the_image_as_it_is():
    ground = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    assert np.array_equal(render.heat(ground, np.zeros((20, 20), np.float32), (0, 1), 0.6, "viridis"), ground)


def test_histogram_has_a_text_alternative_and_survives_one_value():
    svg = score_histogram(np.array([0, 0, 1]), np.array([1.0, 1.0, 1.0]), 1.0)
    assert "2 normal and 1 anomalous" in svg
    assert "nan" not in svg


# Notes


def test_a_note_is_saved_at_once_and_read_again(inspector, first, second, tmp_path):
    inspector.go(3)
    inspector.controls.note_mark.value = "label noise"
    inspector.controls.note_text.value = 'a scratch, "here"\nand there'
    saved = pd.read_csv(tmp_path / "notes.csv")
    assert saved[["image", "mark", "text"]].iloc[0].tolist() == [
        first.samples["image"][3], "label noise", 'a scratch, "here"\nand there'
    ]  # fmt: skip
    inspector.controls.next.click()
    assert (inspector.controls.note_mark.value, inspector.controls.note_text.value) == ("", "")
    assert len(ReviewNotes(tmp_path / "notes.csv")) == 1

    again = inspect({"one": first, "two": second}, notes=tmp_path / "notes.csv")
    again.go(3)
    assert again.controls.note_mark.value == "label noise"
    again.controls.filter_mark.value = "label noise"
    assert again.shown.tolist() == [3]
    again.controls.note_mark.value = again.controls.note_text.value = ""
    again.controls.note_save.click()
    assert len(pd.read_csv(tmp_path / "notes.csv")) == 0


def test_two_reviewers_keep_each_others_notes(first, tmp_path):
    one, two = ReviewNotes(tmp_path / "n.csv"), ReviewNotes(tmp_path / "n.csv")
    one.put(first.samples.iloc[0], "interesting")
    two.put(first.samples.iloc[1], "mask wrong", "too small")
    assert ReviewNotes(tmp_path / "n.csv").table()["mark"].tolist() == ["interesting", "mask wrong"]
    exported = two.export(tmp_path / "deep" / "copy.csv")
    assert exported.read_text() == (tmp_path / "n.csv").read_text()
    assert not list(tmp_path.glob(".n.csv.??????*[!k]"))  # nothing partial is left


def test_a_note_that_somebody_else_changed_meanwhile_is_shown_and_asked_about(first, tmp_path):
    file = tmp_path / "n.csv"
    one, two = inspect(first, notes=file), inspect(first, notes=file)
    one.controls.note_mark.value = "label noise"
    one.controls.note_text.value = "A: a real <scratch>"
    two.controls.note_mark.value = "interesting"
    assert ReviewNotes(file).get(first.samples["image"][0]) == ("label noise", "A: a real <scratch>")
    said = two.controls.note_path.value
    assert "label noise: A: a real &lt;scratch&gt;" in said
    assert "<dd>interesting</dd>" in said
    assert two.controls.note_both.layout.display is None
    two.go(1)  # what was typed waits
    assert two.controls.note_mark.value == ""
    assert two.controls.note_both.layout.display == "none"
    two.go(0)
    assert two.controls.note_mark.value == "interesting"
    two.controls.note_both.click()
    assert ReviewNotes(file).get(first.samples["image"][0]) == ("label noise / interesting", "A: a real <scratch>")
    assert 'role="alert"' not in two.controls.note_path.value
    one.controls.note_text.value = ""
    one.controls.note_mine.click()
    assert ReviewNotes(file).get(first.samples["image"][0]) == ("label noise", "")
    two.controls.note_text.value = "B"
    two.controls.note_theirs.click()
    assert (two.controls.note_mark.value, two.controls.note_text.value) == ("label noise", "")


def test_nothing_that_was_not_seen_is_deleted(first, tmp_path):
    one, two, sample = ReviewNotes(tmp_path / "n.csv"), ReviewNotes(tmp_path / "n.csv"), first.samples.iloc[0]
    one.put(sample, "interesting", "measured")
    two.put(first.samples.iloc[1], "mask wrong")  # reads the file, and shows nobody the note on the first
    for mark in ("", "other"):
        with pytest.raises(NoteConflict) as caught:
            two.put(sample, mark)
        assert caught.value.theirs == ("interesting", "measured")
    two.put(sample, "interesting", "measured")  # the same note is none that another could be lost by
    two.put(sample, "")
    assert len(ReviewNotes(tmp_path / "n.csv")) == 1


@pytest.mark.parametrize("text", ["=1+1", "+a", "-a", "@a", "'=a", "a\r\nb\rc", "a\x00b", "", "\u2028", "a;=1", '"'])
def test_a_note_reads_back_as_it_was_written_and_starts_no_formula(first, tmp_path, text):
    ReviewNotes(tmp_path / "n.csv").put(first.samples.iloc[0], text or "mark", text)
    read = ReviewNotes(tmp_path / "n.csv").get(first.samples["image"][0])
    assert read.text == text.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "").strip()
    cells = [cell for row in csv.reader(io.StringIO((tmp_path / "n.csv").read_text(), newline="")) for cell in row]
    assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells)


HEADER = "image,category,defect,label,mark,text,written\n"


def test_commas_that_a_spreadsheet_adds_to_notes_move_no_cell(first, tmp_path):
    file, row = tmp_path / "n.csv", ["a.png", "thing", "hole", "1", "interesting", "a, b", "2026"]
    file.write_text(f"\ufeff{HEADER}a.png,thing,hole,1,interesting,'=a,2026,\n", encoding="utf-8")
    notes = ReviewNotes(file)
    notes.put(first.samples.iloc[0], "mask wrong")
    assert notes.get("a.png") == ReviewNotes(file).get("a.png") == ("interesting", "=a")
    assert list(ReviewNotes(file).table()["image"]) == ["a.png", first.samples["image"][0]]
    file.write_text(HEADER.replace("\n", ",,\n\n") + '"'.join([",".join(row[:5]) + ",", row[5], ",2026,,\n"]))
    assert ReviewNotes(file).table().values.tolist() == [row]
    file.write_text(HEADER + "a.png\n")
    assert ReviewNotes(file).table().values.tolist() == [["a.png", *[""] * 6]]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("a.png,thing,hole,1,interesting,a, b,2026", "n.csv have 8 cells in line 2, and 7 columns: put a text"),
        ('"a.png,thing,hole,1,mark,text,2026', "n.csv cannot be read: unexpected end of data"),
    ],
)
def test_a_row_of_notes_that_has_no_one_reading_is_refused_and_kept(first, tmp_path, row, sentence):
    notes, file = ReviewNotes(tmp_path / "n.csv"), tmp_path / "n.csv"
    file.write_text(HEADER + row)
    for read in (lambda: ReviewNotes(file), lambda: notes.put(first.samples.iloc[0], "mask wrong")):
        with pytest.raises(InputError, match=sentence):
            read()
    assert file.read_text() == HEADER + row


def test_a_full_disk_leaves_the_notes_as_they_were_and_nothing_else(first, tmp_path, monkeypatch):
    notes = ReviewNotes(tmp_path / "n.csv")
    notes.put(first.samples.iloc[0], "interesting")
    before = (tmp_path / "n.csv").read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("adlib.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        notes.put(first.samples.iloc[1], "interesting")
    assert (tmp_path / "n.csv").read_bytes() == before
    assert {file.name for file in tmp_path.iterdir() if file.is_file()} <= {"n.csv", ".n.csv.lock"}


def test_notes_lie_beside_the_predictions(first, second, tmp_path, monkeypatch):
    saved = {
        name: Predictions.load(given.save(tmp_path / "runs" / name / "predictions"))
        for name, given in (("one", first), ("two", second))
    }
    assert inspect(saved["one"]).notes.path == tmp_path / "runs" / "one" / "review_notes.csv"
    assert inspect(saved).notes.path == tmp_path / "runs" / "review_notes.csv"
    monkeypatch.chdir(tmp_path)
    inspector = inspect(first)
    assert inspector.notes.path == tmp_path / "review_notes.csv"
    assert str(inspector.notes.path) in inspector.controls.note_path.value


def test_a_note_that_cannot_be_saved_says_so(first, tmp_path):
    (tmp_path / "file").write_text("")
    inspector = inspect(first, notes=tmp_path / "file" / "notes.csv")
    inspector.controls.note_mark.value = "interesting"
    assert "not saved" in inspector.controls.note_path.value


def test_a_file_that_holds_no_notes_is_refused(first, tmp_path):
    (tmp_path / "samples.csv").write_text("image,score\na,1\n")
    with pytest.raises(InputError, match="no review notes"):
        inspect(first, notes=tmp_path / "samples.csv")


# Without a kernel


def test_a_rendered_page_shows_the_contact_sheet(inspector):
    data = inspector._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data
    sheet = data["text/html"]
    assert sheet.count("<img") == sheet.count('alt="') >= 12
    assert "found (TP)" in sheet
    assert data["text/plain"] == "Inspector: 8 samples, one, two"


def test_methods_that_rank_alike_disagree_on_nothing():
    labels, ranks = np.array([0] * 8 + [1] * 8), np.arange(16.0)
    assert "disputed" not in telling(labels, np.stack([ranks, 10 * ranks + 5], axis=1), each=1)
    swapped = ranks.copy()
    swapped[[3, 4]] = swapped[[4, 3]]
    assert telling(labels, np.stack([ranks, swapped], axis=1))["disputed"] == [3, 4]


def test_what_nobody_has_sorted_is_shown_with_its_highest_scores():
    """A folder of these alone is what one has at first: the page had shown none of them."""
    assert telling(np.full(3, -1), np.array([[0.1], [0.3], [0.2]]), each=2) == {"unsorted": [1, 2]}


def test_of_several_methods_the_contact_sheet_says_whose_scores_are_highest(first, second, tmp_path):
    def headings(predictions):
        sheet = inspect(predictions, notes=tmp_path / "notes.csv").contact_sheet()
        return re.findall(r"<h4[^>]*>([^<]*)</h4>", sheet)

    whole = ["Anomalous, highest scores", "Anomalous, lowest scores", "Normal, highest scores"]
    assert headings(first) == whole
    assert headings({"a<b": first, "two": second}) == [f"{text} of a&lt;b" for text in whole]


def test_names_and_paths_are_escaped(first, tmp_path):
    samples = first.samples.assign(category="<b>&")
    inspector = inspect({"<i>": Predictions(first.scores, first.maps, samples)}, notes=tmp_path / "notes.csv")
    for html in (inspector.controls.sample.value, inspector.controls.confusion.value, inspector.contact_sheet()):
        assert "<i>" not in html
        assert "<b>&" not in html


@pytest.mark.slow
def test_a_step_is_quick_with_many_samples(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (512, 512), np.uint8)
    files = [write(tmp_path / "0000.png", pixels)]
    for number in range(1, 1500):
        files.append(tmp_path / f"{number:04}.png")
        files[-1].hardlink_to(files[0])
    samples = make_samples([{"image": str(file), "label": i % 2} for i, file in enumerate(files)], tmp_path)
    rng = np.random.default_rng(1)
    methods = {}
    for name in "abcd":
        maps = rng.random((len(samples), 32, 32), np.float32)
        saved = Predictions(maps.max((1, 2)), maps, samples).save(tmp_path / name)
        methods[name] = Predictions.load(saved)
    start = time.process_time()  # of this process: a busy machine makes no difference
    inspector = inspect(methods)
    assert time.process_time() - start < 2
    inspector.draw()
    start = time.process_time()
    for _ in range(10):
        inspector.step(1)
        inspector.draw()
    assert (time.process_time() - start) / 10 < 0.3


def test_an_unknown_label_has_no_outcome_and_is_not_counted(first, tmp_path):
    labels = np.array([0, 0, 0, -1, 1, 1, 1, -1])
    unsure = Predictions(first.scores, first.maps, first.samples.assign(label=labels, defect="x"), first.settings)
    widget = inspect(unsure, notes=tmp_path / "notes.csv", threshold=0.5)
    assert widget.decisions.outcomes(0).tolist() == ["TN", "TN", "TN", "?", "FN", "TP", "TP", "?"]
    metrics = widget.decisions.metrics(0)
    assert (metrics["tp"], metrics["fp"], metrics["fn"], metrics["tn"]) == (2, 0, 1, 3)
    assert "3 normal and 3 anomalous and 2 unknown images" in widget.controls.histogram.value
    assert len(widget.shown) == 8
    assert not suspicious_normals(labels, first.scores[:, None])[3]
    assert inspect(unsure, notes=tmp_path / "notes.csv").decisions.is_oracle(0)


def test_notes_where_none_can_be_are_refused_in_a_sentence(first, tmp_path):
    """As root writes everywhere, the place that is closed is /proc."""
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "n.csv", "/proc/adlib/n.csv"):
        notes = ReviewNotes(place)
        with pytest.raises(InputError, match=rf"notes {place} cannot be written \(.+\): name another file"):
            notes.put(first.samples.iloc[0], "mask wrong")
    with pytest.raises(InputError, match=r"cannot be read: File name too long"):
        ReviewNotes(tmp_path / ("n" * 300))
    with pytest.raises(InputError, match=r"notes .*m\.csv cannot be written \(.+\): name another file"):
        ReviewNotes(tmp_path / "n.csv").export(tmp_path / "file" / "m.csv")
    shown = inspect(first, notes="/proc/adlib/n.csv")
    shown.controls.note_mark.value = "mask wrong"
    assert "The note is not saved: The review notes /proc/adlib/n.csv cannot be" in shown.controls.note_path.value
