"""The promised interface of adlib.metrics: small cases that can be checked by hand, and odd input."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from adlib.errors import InputError
from adlib.metrics import (
    aupro,
    decision_metrics,
    image_metrics,
    partial_auroc,
    pixel_metrics,
)

IMAGE_KEYS = {"image_auroc", "image_ap", "image_f1max", "image_f1max_threshold"}
PIXEL_KEYS = {"pixel_auroc", "pixel_ap", "pixel_f1max", "pixel_f1max_threshold", "aupro"}


def random_set(seed=0, images=6, size=24, levels=None, dtype=np.float32):
    """Masks with up to three squares on half of the images, maps a little higher there."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((images, size, size), bool)
    for mask in masks[: images // 2]:
        for _ in range(3):
            y, x = rng.integers(0, size - 6, 2)
            mask[y : y + rng.integers(1, 6), x : x + rng.integers(1, 6)] = True
    maps = rng.standard_normal(masks.shape) + 1.5 * masks
    if levels:
        maps = np.round(maps * levels / 4)
    return masks, maps.astype(dtype)


def test_importing_the_metrics_loads_neither_torch_nor_sklearn():
    code = "import sys, adlib.metrics as m; m.image_metrics([0, 1], [0.0, 1.0]); " + (
        "print([n for n in ('torch', 'sklearn', 'pandas') if n in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_image_metrics_by_hand():
    # normal 1 2 4, anomalous 3 5: of six pairs five are in order; F1 is best at >= 3 (2 found, 1 false)
    metrics = image_metrics([0, 0, 0, 1, 1], [1, 2, 4, 3, 5])
    assert metrics == pytest.approx(
        {
            "image_auroc": 5 / 6,
            "image_ap": (1 / 1 + 2 / 3) / 2,
            "image_f1max": 2 * 2 / (2 * 2 + 1),
            "image_f1max_threshold": 3,
        }
    )


def test_ties_count_half():
    assert image_metrics([0, 1], [7.0, 7.0])["image_auroc"] == 0.5
    assert image_metrics([0, 1], [-0.0, 0.0])["image_auroc"] == 0.5


def test_auroc_is_never_flipped():
    assert image_metrics([0, 1], [1.0, 0.0])["image_auroc"] == 0.0


def test_f1_threshold_is_the_highest_of_several_best_and_reaches_its_f1():
    labels, scores = [1, 0, 0, 1, 1], [4.0, 3.0, 2.5, 2.0, 1.0]
    metrics = image_metrics(labels, scores)
    decided = decision_metrics(labels, scores, metrics["image_f1max_threshold"])
    assert decided["f1"] == metrics["image_f1max"] == 0.75
    labels, scores = [1, 0, 0, 1], [4.0, 3.0, 2.0, 1.0]  # F1 is 2/3 at >= 4 and at >= 1
    assert image_metrics(labels, scores)["image_f1max_threshold"] == 4.0


@pytest.mark.parametrize("levels", [None, 8, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pixel_metrics_agree_with_scikit_learn(levels, dtype):
    masks, maps = random_set(3, levels=levels, dtype=dtype)
    truth, scores = masks.ravel(), maps.ravel()
    precision, recall, _ = precision_recall_curve(truth, scores)
    best = 2 * precision * recall / np.maximum(precision + recall, 1e-300)
    metrics = pixel_metrics(masks, maps, auroc_limit=0.1)
    assert metrics["pixel_auroc"] == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert metrics["pixel_ap"] == pytest.approx(average_precision_score(truth, scores), abs=1e-12)
    assert metrics["pixel_f1max"] == pytest.approx(best.max(), abs=1e-12)
    for limit in (0.01, 0.1, 0.5, 1.0):
        ours = partial_auroc(truth, scores, limit, standardised=True)
        assert ours == pytest.approx(roc_auc_score(truth, scores, max_fpr=limit), abs=1e-12)
    assert metrics["pixel_partial_auroc"] == partial_auroc(truth, scores, 0.1)


def test_aupro_counts_each_region_once():
    # one region of 1 pixel is found above every normal pixel, one of 9 pixels is missed: half of the regions
    mask = np.zeros((1, 20, 20), int)
    mask[0, 2, 2] = 1
    mask[0, 10:13, 10:13] = 1
    maps = np.where(mask, -1.0, 0.0)
    maps[0, 2, 2] = 1.0
    assert pixel_metrics(mask, maps)["aupro"] == pytest.approx(0.5)
    assert pixel_metrics(mask, maps, regions=True)["aupro_regions"] == 2


def test_pixels_that_touch_at_a_corner_are_one_region():
    mask = np.zeros((8, 8), bool)
    mask[2, 2] = mask[3, 3] = mask[3, 4] = mask[4, 4] = True
    maps = np.zeros((8, 8))
    maps[2, 2] = 1.0  # a quarter of the one region; of two regions (4-connected) it would be a half of one
    limit = 0.3
    # 3 of 4 pixels are tied with all normal ones: the curve rises linearly from 1/4 at FPR 0 to 1 at FPR 1
    expected = (0.25 * limit + 0.75 * limit**2 / 2) / limit
    assert aupro(mask, maps, limit) == pytest.approx(expected, abs=1e-12)


def test_several_pro_limits_at_once():
    masks, maps = random_set(1)
    both = pixel_metrics(masks, maps, pro_limit=(0.3, 0.05))
    assert both["aupro"] == both["aupro_0.3"] == aupro(masks, maps, 0.3)
    assert both["aupro_0.05"] == aupro(masks, maps, 0.05)


def test_values_are_plain_floats_that_json_can_write():
    masks, maps = random_set()
    for metrics, keys in (
        (image_metrics(np.array([0, 1]), np.array([0, 1])), IMAGE_KEYS),
        (pixel_metrics(masks, maps), PIXEL_KEYS),
        (
            decision_metrics([0, 1], [0.1, 0.9], 0.5),
            set(["mcc", "recall", "precision", "fpr", "f1", "tn", "tp", "fn", "fp"]),
        ),
    ):
        assert set(metrics) == keys
        assert all(type(value) is float for value in metrics.values())
        json.dumps(metrics, allow_nan=False)


@pytest.mark.parametrize(
    ("labels", "words"),
    [([0, 0], "no anomalous image"), ([1, 1], "no normal image"), ([], "no image at all")],
)
def test_one_class_of_images_is_nan_with_a_reason(labels, words):
    metrics = image_metrics(labels, np.arange(len(labels)))
    assert all(math.isnan(metrics[key]) for key in IMAGE_KEYS)
    assert set(metrics["reasons"]) == IMAGE_KEYS
    assert words in metrics["reasons"]["image_auroc"]


@pytest.mark.parametrize(
    ("masks", "maps", "words"),
    [
        (np.zeros((2, 4, 4)), np.zeros((2, 4, 4)), "no anomalous pixel"),
        (np.ones((2, 4, 4)), np.zeros((2, 4, 4)), "no normal pixel"),
        (None, np.zeros((2, 4, 4)), "no masks"),
        (np.zeros((2, 4, 4)), None, "no anomaly maps"),
        ([], [], "no pixel at all"),
        (np.zeros((0, 4, 4)), np.zeros((0, 4, 4)), "no pixel at all"),
        (iter([]), None, "no pixel at all"),
    ],
)
def test_undefined_pixel_metrics_are_nan_with_a_reason(masks, maps, words):
    metrics = pixel_metrics(masks, maps)
    assert all(math.isnan(metrics[key]) for key in PIXEL_KEYS)
    assert words in metrics["reasons"]["aupro"]


def test_scores_that_are_not_finite_name_the_image():
    masks, maps = random_set()
    for bad in (np.nan, np.inf, -np.inf):
        broken = maps.copy()
        broken[4, 3, 3] = bad
        with pytest.raises(InputError, match=r"image 4.*not finite"):
            pixel_metrics(masks, broken)
        with pytest.raises(InputError, match="image 2"):
            image_metrics([0, 1, 1], [0.0, 1.0, bad])
        with pytest.raises(InputError, match=r"image 4.*at \[3, 3\]"):
            decision_metrics(masks, broken, 0.0)
        with pytest.raises(InputError, match="image 2"):
            decision_metrics([0, 1, 1], [0.0, 1.0, bad], 0.5)


@pytest.mark.parametrize(
    ("masks", "maps", "words"),
    [
        (np.zeros((2, 4, 4)), np.zeros((2, 4, 5)), "differ in shape"),
        ([np.zeros((4, 4))], [np.zeros((4, 4))] * 2, "one length"),
        ([np.zeros((4, 4)), None], [np.zeros((4, 4))] * 2, "image 1 has no mask"),
        (np.full((1, 4, 4), 0.5), np.zeros((1, 4, 4)), "binarise"),
        (np.zeros(4), np.zeros(4), "expected \\[H, W\\]"),
        (["nowhere.npy"], ["nowhere.npy"], "no file"),
        (np.zeros((1, 4, 4)), np.full((1, 4, 4), "a"), "real numbers"),
    ],
)
def test_wrong_input_says_what_is_wrong(masks, maps, words):
    with pytest.raises(InputError, match=words):
        pixel_metrics(masks, maps)


def test_wrong_labels_and_limits_say_what_is_wrong():
    with pytest.raises(InputError, match="image 1: its label is"):
        image_metrics([0, 2], [0.0, 1.0])
    with pytest.raises(InputError, match="one length"):
        image_metrics([0, 1], [0.0])
    for limit in (0, -0.1, 30):
        with pytest.raises(InputError, match="limit must lie in"):
            pixel_metrics(np.zeros((1, 2, 2)), np.zeros((1, 2, 2)), pro_limit=limit)


def test_decision_metrics_by_hand():
    labels, scores = [0, 0, 0, 1, 1, 1], [0.1, 0.5, 0.2, 0.5, 0.4, 0.9]
    metrics = decision_metrics(labels, scores, 0.5)  # 0.5 itself counts as anomalous
    assert [metrics[k] for k in ("tn", "fp", "fn", "tp")] == [2, 1, 1, 2]
    assert metrics["recall"] == metrics["precision"] == metrics["f1"] == pytest.approx(2 / 3)
    assert metrics["fpr"] == pytest.approx(1 / 3)
    assert metrics["mcc"] == pytest.approx((2 * 2 - 1 * 1) / 9)


def test_decisions_about_no_image_are_nan_with_a_reason():
    metrics = decision_metrics([], [], 0.5)
    assert metrics["tn"] == 0.0 and set(metrics["reasons"]) == {"mcc", "recall", "precision", "fpr", "f1"}


def test_decision_without_a_denominator_is_nan_with_a_reason():
    metrics = decision_metrics([0, 0], [0.1, 0.2], 0.5)
    assert metrics["fpr"] == 0.0
    assert {k for k, v in metrics.items() if k != "reasons" and math.isnan(v)} == set(metrics["reasons"])
    assert set(metrics["reasons"]) == {"mcc", "recall", "precision", "f1"}


@pytest.mark.parametrize(("dtype", "base"), [("int64", 2**53), ("int64", -(2**63)), ("uint64", 2**64 - 8)])
def test_integers_that_float64_would_make_equal_keep_their_order(dtype, base):
    scores = np.array([base, base + 1, base + 2, base + 3], dtype)
    found = image_metrics([0, 0, 1, 1], scores)
    assert found["image_auroc"] == 1
    assert found["image_f1max_threshold"] == base + 2
    assert image_metrics([0, 1, 0, 1], scores)["image_auroc"] == 0.75
    assert image_metrics([0, 0, 1, 1], scores.tolist())["image_auroc"] == 1


@pytest.mark.parametrize(
    ("metric", "first", "second"),
    [
        (pixel_metrics, np.array([[[0, 1]]]), np.array([[[2**53, 2**53 + 1]]])),
        (lambda labels, scores: decision_metrics(labels, scores, 0.5), [0, 1], np.array([2**53, 2**53 + 1])),
        (image_metrics, [0, 1], [2**53 + 1, 0.5]),  # a list that NumPy rounds before anybody sees it
    ],
)
def test_what_would_be_rounded_into_ties_is_refused(metric, first, second):
    with pytest.raises(InputError, match="9007199254740993 is beyond what float64 holds exactly"):
        metric(first, second)
    assert metric(first, np.array(second, float) / 2**53)
