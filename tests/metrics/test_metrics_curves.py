"""Curves: their areas are the metrics, and their points can be counted by hand."""

import numpy as np
import pytest

from adlib.metrics import decision_metrics, image_curves, image_metrics, pixel_curves, pixel_metrics, sums


def test_points_of_a_curve_counted_by_hand():
    # From the top: 4 anomalous, 3 both kinds, 2 normal, 1 anomalous.
    found = image_curves([1, 1, 0, 0, 1], [4, 3, 3, 2, 1])
    assert found.threshold.tolist() == [4, 3, 1]
    assert found.recall.tolist() == pytest.approx([1 / 3, 2 / 3, 1])
    assert found.fpr_above.tolist() == [0, 0, 1]
    assert found.fpr.tolist() == [0, 0.5, 1]
    assert found.precision.tolist() == pytest.approx([1, 2 / 3, 3 / 5])
    assert found.pro is None


def test_without_one_of_the_kinds_there_is_no_curve():
    assert image_curves([0, 0], [1, 2]) is None
    assert pixel_curves(np.zeros((1, 2, 2), bool), np.ones((1, 2, 2))) is None


def test_areas_and_best_f1_are_those_of_the_metrics():
    random = np.random.default_rng(3)
    labels = random.integers(0, 2, 60)
    scores = random.integers(0, 9, 60) + labels  # many ties
    metrics, found = image_metrics(labels, scores), image_curves(labels, scores)
    assert np.trapezoid(*found.line()[::-1]) == pytest.approx(metrics["image_auroc"])
    best = found.best_f1()
    assert found.threshold[best] == metrics["image_f1max_threshold"]
    decisions = decision_metrics(labels, scores, found.threshold[best])
    assert (found.recall[best], found.fpr[best]) == pytest.approx((decisions["recall"], decisions["fpr"]))


@pytest.mark.parametrize("block", [1, 2, 1 << 15])
def test_of_several_thresholds_of_best_f1_the_highest_is_taken(block, monkeypatch):
    monkeypatch.setattr(sums, "BLOCK", block)
    labels, scores = [1, 0, 0, 1], [4, 3, 2, 1]  # one found of two and no alarm, or both and two alarms: 2 / 3
    found = image_metrics(labels, scores)
    assert (found["image_f1max"], found["image_f1max_threshold"]) == (pytest.approx(2 / 3), 4)
    assert image_curves(labels, scores).best_f1() == 0


def test_area_below_the_pro_curve_is_aupro():
    random = np.random.default_rng(4)
    masks = np.zeros((3, 12, 12), bool)
    masks[0, 1:4, 1:4] = masks[0, 7:9, 2:11] = masks[1, 5, 5] = True
    maps = np.round(random.random(masks.shape) + 0.4 * masks, 1)  # many ties
    across, up = pixel_curves(masks, maps).line("pro")
    metrics = pixel_metrics(masks, maps, pro_limit=1)
    assert np.trapezoid(up, across) == pytest.approx(metrics["aupro"])
    assert np.trapezoid(*pixel_curves(masks, maps).line()[::-1]) == pytest.approx(metrics["pixel_auroc"])
