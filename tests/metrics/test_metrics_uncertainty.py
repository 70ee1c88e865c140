"""Bootstrap, DeLong, comparison of detectors, seeds: against resampling written out, and cases known by hand."""

import math

import numpy as np
import pytest
from scipy import ndimage

from adlib.errors import InputError
from adlib.metrics import (
    bootstrap_images,
    bootstrap_pixels,
    compare_images,
    compare_pixels,
    delong,
    delong_compare,
    image_metrics,
    over_seeds,
    pixel_metrics,
)
from adlib.metrics.bootstrap import _ImageEvidence, _PixelEvidence, draw_counts

PIXEL = ("pixel_auroc", "pixel_ap", "pixel_f1max", "aupro")
IMAGE = ("image_auroc", "image_ap", "image_f1max")


def pixel_set(seed, images=8, size=12, levels=None):
    rng = np.random.default_rng(seed)
    masks = np.zeros((images, size, size), bool)
    for mask in masks[: images // 2]:
        mask |= ndimage.binary_dilation(rng.random(mask.shape) < 0.03)
        mask[0, 0] = True
    maps = rng.standard_normal(masks.shape) + masks
    return masks, (np.round(maps * levels) if levels else maps).astype(np.float32)


def image_set(seed, n=60, gain=1.0):
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 3 == 0).astype(int)
    return labels, rng.standard_normal(n) + gain * labels


@pytest.mark.parametrize("levels", [None, 2, 20])
def test_pixel_replicates_are_the_metrics_of_the_resampled_set(levels):
    masks, maps = pixel_set(1, levels=levels)
    evidence = _PixelEvidence(masks, maps, 0.3)
    counts = draw_counts(evidence.anomalous.astype(int), 10, seed=3)
    assert (counts == 0).any()
    for drawn, values in zip(counts, evidence.replicate(counts), strict=True):
        resampled = pixel_metrics(np.repeat(masks, drawn, axis=0), np.repeat(maps, drawn, axis=0))
        assert values == pytest.approx([resampled[k] for k in PIXEL], abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_image_replicates_are_the_metrics_of_the_resampled_set(ties):
    labels, scores = image_set(2)
    scores = np.round(scores) if ties else scores
    evidence = _ImageEvidence(labels, scores)
    counts = draw_counts(labels, 10, seed=3)
    for drawn, values in zip(counts, evidence.replicate(counts), strict=True):
        resampled = image_metrics(np.repeat(labels, drawn), np.repeat(scores, drawn))
        assert values == pytest.approx([resampled[k] for k in IMAGE], abs=1e-12)


def test_strata_keep_their_size_and_same_seed_gives_same_draws():
    strata = np.array([0, 0, 0, 1, 1, 2])
    counts = draw_counts(strata, 50, seed=7)
    for stratum, size in ((0, 3), (1, 2), (2, 1)):
        assert (counts[:, strata == stratum].sum(1) == size).all()
    assert (counts == draw_counts(strata, 50, seed=7)).all()
    assert (counts != draw_counts(strata, 50, seed=8)).any()


def test_labels_are_never_mixed_within_a_users_stratum():
    labels, scores = image_set(4, n=12)
    result = bootstrap_images(labels, scores, replicates=200, strata=["line 1"] * 12)
    assert all(not math.isnan(result[key]["low"]) for key in IMAGE)
    assert result == bootstrap_images(labels, scores, replicates=200)  # the labels are strata by themselves
    with pytest.raises(InputError, match="strata"):
        bootstrap_images(labels, scores, strata=["line 1"])


def test_intervals_hold_the_value_and_narrow_with_more_images():
    widths = []
    for n in (60, 600):
        result = bootstrap_images(*image_set(5, n=n), replicates=400)
        for key in IMAGE:
            assert result[key]["low"] <= result[key]["value"] <= result[key]["high"]
        widths.append(result["image_auroc"]["high"] - result["image_auroc"]["low"])
    assert widths[1] < widths[0] / 2
    pixels = bootstrap_pixels(*pixel_set(5), replicates=100)
    assert set(pixels) == set(PIXEL)
    for key in PIXEL:
        assert pixels[key]["low"] <= pixels[key]["value"] <= pixels[key]["high"]
        assert pixels[key]["std"] > 0


def test_an_interval_goes_from_quantile_to_quantile_of_the_replicates():
    labels, scores = image_set(10)
    drawn = _ImageEvidence(labels, scores).replicate(draw_counts(labels, 300, seed=5))[:, 0]
    for level, ends in ((0.95, (0.025, 0.975)), (0.8, (0.1, 0.9))):
        found = bootstrap_images(labels, scores, replicates=300, seed=5, level=level)["image_auroc"]
        assert (found["low"], found["high"]) == pytest.approx(np.quantile(drawn, ends))
        assert found["std"] == pytest.approx(drawn.std(ddof=1))


def test_the_interval_of_a_difference_is_that_of_paired_replicates_of_items():
    labels, first = image_set(11)
    second, items = first + np.random.default_rng(1).standard_normal(60), np.arange(60) // 6
    counts = draw_counts(labels, 300, 5, items)
    one, other = (_ImageEvidence(labels, scores).replicate(counts)[:, 0] for scores in (first, second))
    options = {"replicates": 300, "seed": 5, "items": items}
    for level, ends in ((0.95, (0.025, 0.975)), (0.8, (0.1, 0.9))):
        found = compare_images(labels, first, second, level=level, **options)["image_auroc"]
        assert (found["low"], found["high"]) == pytest.approx(np.quantile(one - other, ends))


def test_both_of_two_compared_are_up_to_the_same_false_positive_rate():
    masks, maps = pixel_set(12)
    found = compare_pixels(masks, maps, maps, replicates=10, pro_limit=0.05)["aupro"]
    assert found["first"] == found["second"] == pixel_metrics(masks, maps, pro_limit=0.05)["aupro"]
    assert found["low"] == found["high"] == 0


def test_one_stratum_of_a_single_image_leaves_the_interval_that_the_others_give():
    labels, scores = image_set(13, n=12)
    found = bootstrap_images(labels, scores, replicates=50, strata=["alone"] + ["others"] * 11)
    assert "reasons" not in found and found["image_auroc"]["low"] < found["image_auroc"]["high"]


def test_bootstrap_of_one_class_is_nan_with_a_reason():
    result = bootstrap_images([0, 0], [1.0, 2.0])
    assert math.isnan(result["image_auroc"]["low"])
    assert "no anomalous image" in result["reasons"]["image_auroc"]
    result = bootstrap_pixels(np.zeros((2, 4, 4)), np.zeros((2, 4, 4)))
    assert math.isnan(result["aupro"]["value"])
    assert "no anomalous pixel" in result["reasons"]["aupro"]
    assert "no anomalous pixel" in compare_pixels(*[np.zeros((2, 4, 4))] * 3)["reasons"]["aupro"]


def test_bootstrap_refuses_senseless_settings():
    labels, scores = image_set(0)
    with pytest.raises(InputError, match="replicates"):
        bootstrap_images(labels, scores, replicates=1)
    with pytest.raises(InputError, match="level"):
        bootstrap_images(labels, scores, level=95)
    with pytest.raises(InputError, match="not an iterator"):
        compare_pixels(iter(np.zeros((1, 2, 2))), np.zeros((1, 2, 2)), np.zeros((1, 2, 2)))
    with pytest.raises(InputError, match="differ in shape"):
        compare_pixels(np.zeros((1, 2, 2)), np.zeros((1, 2, 2)), np.zeros((2, 2, 2)))


def test_a_detector_does_not_differ_from_itself():
    labels, scores = image_set(6)
    assert compare_images(labels, scores, scores, replicates=50)["image_ap"]["p_value"] == 1.0
    assert delong_compare(labels, scores, 2 * scores)["p_value"] == 1.0
    masks, maps = pixel_set(6)
    assert compare_pixels(masks, maps, np.exp(maps), replicates=20)["aupro"]["difference"] == 0


def test_a_clearly_better_detector_is_told_apart_and_a_noisy_copy_is_not():
    labels, good = image_set(7, n=200, gain=3.0)
    bad = np.random.default_rng(8).standard_normal(200)
    better = compare_images(labels, good, bad, replicates=500)["image_auroc"]
    assert better["difference"] > 0 and better["low"] > 0
    assert better["p_value"] == pytest.approx(2 / 501)
    assert delong_compare(labels, good, bad)["p_value"] < 1e-6
    noisy = good + 1e-3 * bad
    assert compare_images(labels, good, noisy, replicates=500)["image_auroc"]["p_value"] > 0.05
    masks, maps = pixel_set(9, images=20)
    lost = np.random.default_rng(1).standard_normal(maps.shape)
    assert compare_pixels(masks, maps, lost, replicates=200)["pixel_auroc"]["p_value"] < 0.05


def _logit(share):
    return math.log(share / (1 - share))


def delong_by_definition(labels, first, second):
    """Structural components as in the paper's equations 3 to 5, pair by pair."""
    labels = np.asarray(labels, bool)
    components = []
    for scores in (first, second):
        wins = 0.5 + np.sign(scores[labels][:, None] - scores[~labels][None]) / 2
        components.append((wins.mean(1), wins.mean(0), wins.mean()))
    m, n = labels.sum(), (~labels).sum()
    s10 = np.cov(components[0][0], components[1][0])
    s01 = np.cov(components[0][1], components[1][1])
    covariance = s10 / m + s01 / n
    return components[0][2], components[1][2], covariance


@pytest.mark.parametrize("ties", [False, True])
def test_delong_equals_its_definition(ties):
    labels, first = image_set(10)
    second = first + np.random.default_rng(11).standard_normal(60)
    if ties:
        first, second = np.round(first), np.round(second)
    one, two, covariance = delong_by_definition(labels, first, second)
    alone = delong(labels, first)
    assert alone["image_auroc"] == pytest.approx(one, abs=1e-12)
    assert alone["std"] == pytest.approx(math.sqrt(covariance[0, 0]), abs=1e-12)
    assert 0 < alone["low"] < one < alone["high"] < 1
    reach = {level: _logit(delong(labels, first, level)["high"]) - _logit(one) for level in (0.8, 0.95)}
    assert reach[0.95] / reach[0.8] == pytest.approx(1.9600 / 1.2816, abs=1e-4)  # quantiles of the normal distribution
    paired = delong_compare(labels, first, second)
    std = math.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert paired["std"] == pytest.approx(std, abs=1e-12)
    assert paired["difference"] == pytest.approx(one - two, abs=1e-12)
    assert paired["p_value"] == pytest.approx(math.erfc(abs(one - two) / std / math.sqrt(2)), abs=1e-9)


def test_delong_and_bootstrap_agree_on_many_images():
    labels, scores = image_set(12, n=600)
    boot = bootstrap_images(labels, scores, replicates=2000)["image_auroc"]
    assert delong(labels, scores)["std"] == pytest.approx(boot["std"], rel=0.1)


def test_delong_says_why_it_has_no_interval():
    perfect = delong([0, 0, 1, 1], [1.0, 2.0, 3.0, 4.0])
    assert perfect["image_auroc"] == 1.0 and math.isnan(perfect["low"])
    assert "variance is 0" in perfect["reasons"]["low"]
    single = delong([0, 0, 1], [1.0, 2.0, 3.0])
    assert single["image_auroc"] == 1.0 and "two images of each class" in single["reasons"]["std"]
    none = delong([0, 0], [1.0, 2.0])
    assert math.isnan(none["image_auroc"]) and "0 anomalous" in none["reasons"]["image_auroc"]
    assert "0 anomalous" in delong_compare([0, 0], [1.0, 2.0], [1.0, 2.0])["reasons"]["p_value"]
    opposite = delong_compare([0, 0, 1, 1], [1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0])
    assert math.isnan(opposite["p_value"]) and "variance is 0" in opposite["reasons"]["p_value"]


def test_mean_and_deviation_over_seeds():
    runs = [{"image_auroc": value, "aupro": 0.5} for value in (0.8, 0.9, 1.0)]
    result = over_seeds(runs)
    assert result["image_auroc"] == pytest.approx({"mean": 0.9, "std": 0.1, "n": 3})
    assert result["aupro"]["std"] == 0.0 and "reasons" not in result


def test_a_seed_without_a_value_is_not_left_out():
    nan = {"aupro": math.nan, "reasons": {"aupro": "there are no masks"}}
    result = over_seeds([{"aupro": 0.5}, nan])
    assert math.isnan(result["aupro"]["mean"])
    assert result["reasons"]["aupro"] == "undefined in run 1: there are no masks"
    assert "single run" in over_seeds([{"aupro": 0.5}])["reasons"]["aupro"]
    with pytest.raises(InputError, match="run 1 has other metrics"):
        over_seeds([{"aupro": 0.5}, {"image_ap": 0.5}])
    with pytest.raises(InputError, match="at least one run"):
        over_seeds([])


# --- items


def test_without_items_every_image_is_one():
    labels, scores = np.arange(20) % 2, np.random.default_rng(0).normal(size=20)
    assert bootstrap_images(labels, scores) == bootstrap_images(labels, scores, items=np.arange(20))


def test_the_interval_over_items_is_that_of_one_image_an_item():
    rng = np.random.default_rng(1)
    labels = np.arange(40) % 2
    scores = rng.normal(size=40) + labels
    once = bootstrap_images(labels, scores, replicates=4000)["image_auroc"]
    six = np.repeat(labels, 6), np.repeat(scores, 6)  # the same picture six times says nothing new
    over_items = bootstrap_images(*six, replicates=4000, items=np.repeat(np.arange(40), 6))["image_auroc"]
    over_images = bootstrap_images(*six, replicates=4000)["image_auroc"]
    assert over_items["value"] == pytest.approx(once["value"])
    assert over_items["std"] == pytest.approx(once["std"], rel=0.05)
    assert over_images["std"] < 0.5 * over_items["std"]


def test_all_images_of_an_item_are_drawn_together():
    items = np.array([0, 0, 1, 1, 1, 2, 3, 3])
    strata = np.array([0, 1, 0, 1, 1, 0, 0, 0])  # items 0 and 1 show both, 2 and 3 one kind
    counts = draw_counts(strata, 50, 0, items)
    for item in range(4):
        assert (counts[:, items == item] == counts[:, items == item][:, :1]).all()
    assert (counts[:, [0, 2]].sum(1) == 2).all()
    assert (counts[:, [5, 6]].sum(1) == 2).all()


@pytest.mark.parametrize("anomalous", [1, 9])
def test_one_image_of_a_class_gives_a_reason_and_no_interval(anomalous):
    labels = np.arange(10) < anomalous
    found = bootstrap_images(labels, labels.astype(float))
    assert found["image_auroc"]["value"] == 1
    assert np.isnan(found["image_auroc"]["low"])
    name = "anomalous" if anomalous == 1 else "normal"
    assert f"there is but one {name} image" in found["reasons"]["image_auroc"]
    compared = compare_images(labels, labels.astype(float), 1 - labels)
    assert compared["image_auroc"]["difference"] == 1
    assert np.isnan(compared["image_auroc"]["p_value"])


def test_one_anomalous_item_photographed_often_is_still_one():
    labels = np.array([0, 0, 0, 1, 1, 1])
    found = bootstrap_images(labels, labels, items=np.array([0, 1, 2, 3, 3, 3]))
    assert "there is but one anomalous item" in found["reasons"]["image_ap"]


def test_pixel_metrics_are_resampled_over_items():
    rng = np.random.default_rng(0)
    masks = np.zeros((6, 4, 4), bool)
    masks[:3, 0] = True
    maps = rng.normal(size=masks.shape) + masks
    twice = np.repeat(masks, 2, 0), np.repeat(maps, 2, 0)
    once = bootstrap_pixels(masks, maps, 1000)["aupro"]
    assert bootstrap_pixels(*twice, 1000, items=np.repeat(np.arange(6), 2))["aupro"]["std"] == pytest.approx(
        once["std"], rel=0.1
    )
