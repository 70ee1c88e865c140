"""Thresholds, published confusion tables, and breakdowns by defect type and size."""

import math

import numpy as np
import pytest
from sklearn.metrics import matthews_corrcoef

from adlib.errors import InputError
from adlib.metrics import (
    confusion_metrics,
    decision_metrics,
    defect_regions,
    image_metrics,
    image_metrics_by_defect,
    pixel_metrics,
    pixel_metrics_by_defect,
    recall_by_size,
    size_edges,
    threshold_best_f1,
    threshold_fpr_budget,
    threshold_maximum,
    threshold_quantile,
    wilson_interval,
)


def test_mcc_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 200), rng.random(200)
    ours = decision_metrics(labels, scores, 0.4)
    assert ours["mcc"] == pytest.approx(matthews_corrcoef(labels, scores >= 0.4), abs=1e-12)


def test_published_confusion_tables_of_isp_ad():
    # ISP-AD, Table 2, 172 real defects: MCC 0.96, recall 95.8 %, FPR 0.2 %
    metrics = confusion_metrics(tn=1467, tp=91, fn=4, fp=3)
    assert round(metrics["mcc"], 2) == 0.96
    assert round(100 * metrics["recall"], 1) == 95.8
    assert round(100 * metrics["fpr"], 1) == 0.2


def test_pixel_decisions_count_pixels():
    masks = np.array([[[1, 1], [0, 0]], [[0, 0], [0, 0]]])
    maps = np.array([[[0.9, 0.1], [0.6, 0.2]], [[0.1, 0.5], [0.2, 0.3]]])
    metrics = decision_metrics(masks, maps, 0.5)
    assert [metrics[k] for k in ("tp", "fn", "fp", "tn")] == [1, 1, 2, 4]


def test_a_threshold_is_not_rounded_to_the_scores():
    score = np.float32(0.1)
    just_above = float(score) + 1e-9  # which float32 cannot tell from the score
    assert decision_metrics([1], [score], float(score))["tp"] == 1
    assert decision_metrics(np.array([1]), np.array([score]), just_above)["tp"] == 0


def test_best_f1_threshold_is_the_oracle_of_image_metrics():
    rng = np.random.default_rng(1)
    labels, scores = rng.integers(0, 2, 50), rng.standard_normal(50).astype(np.float32)
    threshold = threshold_best_f1(labels, scores)
    best = image_metrics(labels, scores)["image_f1max"]
    assert decision_metrics(labels, scores, threshold)["f1"] == pytest.approx(best, abs=1e-15)
    assert all(decision_metrics(labels, scores, t)["f1"] <= best + 1e-15 for t in scores.tolist())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("budget", [0.0, 0.0033, 0.0059, 0.01, 0.5])
def test_fpr_budget_is_kept_and_not_wasted(dtype, budget):
    scores = np.random.default_rng(2).permutation(1470).astype(dtype) / 7
    threshold = threshold_fpr_budget(scores, budget)
    flagged = (scores >= threshold).sum()
    assert flagged / 1470 <= budget < (flagged + 1) / 1470
    assert decision_metrics(np.zeros(1470), scores, threshold)["fp"] == flagged


def test_fpr_budget_with_ties_flags_less_rather_than_more():
    assert threshold_fpr_budget([1.0, 2.0, 2.0, 2.0], 0.5) == np.nextafter(2.0, 3.0)


def test_maximum_flags_no_held_out_image_and_quantile_interpolates():
    scores = np.array([3.0, 1.0, 2.0], np.float32)
    assert not (scores >= threshold_maximum(scores)).any()
    assert (scores >= np.nextafter(np.float32(threshold_maximum(scores)), np.float32(0))).sum() == 1
    assert threshold_quantile(scores, 0.75) == 2.5


def test_thresholds_refuse_senseless_input():
    with pytest.raises(InputError, match="not percent"):
        threshold_fpr_budget([1.0], 59)
    with pytest.raises(InputError, match="at least one normal score"):
        threshold_maximum([])
    with pytest.raises(InputError, match="quantile"):
        threshold_quantile([1.0], 99)
    for threshold in (math.nan, None, "0.5", [0.5], True):
        with pytest.raises(InputError, match="threshold must be"):
            decision_metrics([0, 1], [0.0, 1.0], threshold)
    with pytest.raises(InputError, match="differ in shape"):
        decision_metrics([0, 1], [0.0], 0.5)
    with pytest.raises(InputError, match="not finite"):
        threshold_quantile([1.0, math.inf])


def test_each_defect_type_stands_against_all_normal_images():
    labels = [0, 0, 1, 1, 1]
    scores = [1.0, 3.0, 2.0, 4.0, 5.0]
    result = image_metrics_by_defect(labels, scores, ["good", "good", "scratch", "dent", "dent"])
    assert list(result) == ["dent", "scratch"]
    assert result["dent"] == {"n": 2, **image_metrics([0, 0, 1, 1], [1.0, 3.0, 4.0, 5.0])}
    assert result["scratch"]["image_auroc"] == 0.5
    with pytest.raises(InputError, match="one entry per image"):
        image_metrics_by_defect(labels, scores, ["scratch"])


def test_pixel_metrics_by_defect_use_the_images_of_the_type_and_the_normal_ones():
    rng = np.random.default_rng(3)
    masks = rng.random((4, 8, 8)) < 0.2
    masks[0] = False
    maps = rng.random((4, 8, 8))
    result = pixel_metrics_by_defect(masks, maps, ["good", "a", "b", "a"], pro_limit=0.1)
    assert result["a"] == {"n": 2, **pixel_metrics(masks[[0, 1, 3]], maps[[0, 1, 3]], pro_limit=0.1)}
    assert result["b"]["n"] == 1


def test_defect_regions_by_hand():
    mask = np.zeros((2, 10, 10), bool)
    mask[1, 2, 1:9] = True  # a line of 8 pixels
    mask[1, 5:8, 5:8] = True  # a square of 9 pixels
    maps = np.zeros(mask.shape)
    maps[1, 2, 1] = 8.0
    regions = defect_regions(mask, maps)
    assert regions["image"].tolist() == [1, 1]
    assert regions["area"].tolist() == [8, 9]
    assert regions["area_share"] == pytest.approx([0.08, 0.09])
    assert regions["aspect_ratio"] == pytest.approx([8.0, 1.0])
    assert regions["score_max"].tolist() == [8.0, 0.0]
    assert regions["score_mean"].tolist() == [1.0, 0.0]
    without = defect_regions(mask)
    assert "score_max" not in without and without["area"].tolist() == [8, 9]
    assert len(defect_regions(np.zeros((1, 4, 4)))["area"]) == 0


def test_recall_by_size_by_hand():
    rows = recall_by_size([1, 2, 10, 100], np.array([False, True, True, True]), [0, 5, 20, 50, 101])
    assert [row["n"] for row in rows] == [2, 1, 0, 1]
    assert [row["recall"] for row in rows[:2]] == [0.5, 1.0]
    assert math.isnan(rows[2]["recall"]) and rows[2]["reason"] == "no defect of this size"
    assert all(row["recall_low"] <= row["recall"] <= row["recall_high"] for row in rows if row["n"])
    half = recall_by_size([1, 2], np.array([False, True]), [0, 5], level=0.5)[0]
    assert (half["recall_low"], half["recall_high"]) == wilson_interval(1, 2, 0.5) != wilson_interval(1, 2)


def test_bins_of_the_largest_defect_hold_every_defect():
    sizes = [1, 9, 40, 100]
    edges = size_edges(sizes)
    assert edges[:-1] == [0.0, 1.0, 10.0, 50.0]
    rows = recall_by_size(sizes, np.ones(4, bool), edges)
    assert [row["n"] for row in rows] == [0, 2, 1, 1]


def test_recall_by_size_refuses_senseless_input():
    with pytest.raises(InputError, match="lies in no bin"):
        recall_by_size([5], np.array([True]), [0, 5])
    with pytest.raises(InputError, match="edges must rise"):
        recall_by_size([5], np.array([True]), [5, 0])
    with pytest.raises(InputError, match="one length"):
        recall_by_size([5, 6], np.array([True]), [0, 9])
    with pytest.raises(InputError, match="one length"):
        recall_by_size([5], np.array([0.7]), [0, 9])
    with pytest.raises(InputError, match="at least one defect"):
        size_edges([])


def test_wilson_interval_of_a_textbook_case():
    low, high = wilson_interval(8, 10)
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson_interval(10, 10)[1] == 1.0
    assert all(math.isnan(x) for x in wilson_interval(0, 0))
