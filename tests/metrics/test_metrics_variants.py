"""Variants used by papers: against their definition written out, and against the exact value they stand beside."""

import math

import cv2
import numpy as np
import pytest
from scipy import ndimage

from adlib.errors import InputError
from adlib.metrics import (
    PRO_LABELS,
    PRO_VARIANTS,
    aupro,
    image_scores,
    pro_200_thresholds,
    pro_anomalous_images,
    pro_at_image_f1,
    pro_both_rescaled,
    pro_dilated,
    pro_per_image,
    pro_variant,
)


def smooth_set(seed=0, images=6, size=40):
    rng = np.random.default_rng(seed)
    masks = np.zeros((images, size, size), bool)
    maps = np.stack([cv2.GaussianBlur(rng.standard_normal((size, size)), (0, 0), 2) * 5 for _ in masks])
    for mask in masks[: images // 2]:
        for _ in range(3):
            y, x = rng.integers(0, size - 8, 2)
            mask[y : y + rng.integers(2, 8), x : x + rng.integers(2, 8)] = True
    return masks, maps + 1.5 * masks


def sweep(masks, maps, levels, dilate=False):
    """(FPR, PRO) at each level, as the papers' loops do it: threshold, dilate, count."""
    fpr, pro = [], []
    for level in levels:
        called = maps > level
        fpr.append((called & ~masks).sum() / (~masks).sum())
        overlaps = []
        for mask, one in zip(masks, called, strict=True):
            reached = cv2.dilate(one.astype(np.uint8), np.ones((5, 5))) if dilate else one
            label, count = ndimage.label(mask, np.ones((3, 3)))
            overlaps += [reached[label == r].mean() for r in range(1, count + 1)]
        pro.append(np.mean(overlaps))
    return np.array(fpr), np.array(pro)


def stretch(values):
    return (values - values.min()) / (values.max() - values.min())


def levels_up(maps):
    return maps.min() + np.arange(200) * (maps.max() - maps.min()) / 200


def test_pro_per_image_equals_its_loop():
    masks, maps = smooth_set(1)
    values = []
    for mask, one in zip(masks[:3], maps[:3], strict=True):
        fpr, pro = sweep(mask[None], one[None], levels_up(one))
        fpr, pro = fpr[fpr < 0.3], pro[fpr < 0.3]
        values.append(-np.trapezoid(pro, fpr / fpr.max()))
    assert pro_per_image(masks, maps) == pytest.approx({"pro_per_image": np.mean(values)}, abs=1e-12)


def test_pro_200_thresholds_equals_its_loop():
    masks, maps = smooth_set(2)
    fpr, pro = sweep(masks, maps, levels_up(maps))
    fpr, pro = fpr[fpr < 0.3], pro[fpr < 0.3]
    expected = -np.trapezoid(pro, stretch(fpr))
    assert pro_200_thresholds(masks, maps)["pro_200_thresholds"] == pytest.approx(expected, abs=1e-12)


def test_pro_both_rescaled_equals_its_loop():
    masks, maps = smooth_set(3)
    levels = maps.max() - np.arange(200) * (maps.max() - maps.min()) / 200
    fpr, pro = sweep(masks, maps, levels)
    fpr, pro = fpr[fpr <= 0.3], pro[fpr <= 0.3]
    expected = np.trapezoid(stretch(pro), stretch(fpr))
    assert pro_both_rescaled(masks, maps)["pro_both_rescaled"] == pytest.approx(expected, abs=1e-12)


def test_pro_dilated_equals_its_loop():
    masks, maps = smooth_set(4)
    fpr, pro = sweep(masks, maps, levels_up(maps), dilate=True)
    fpr, pro = fpr[fpr < 0.3], pro[fpr < 0.3]
    expected = -np.trapezoid(pro, fpr / fpr.max())
    assert pro_dilated(masks, maps)["pro_dilated"] == pytest.approx(expected, abs=1e-12)
    assert pro_dilated(masks, maps)["pro_dilated"] > aupro(masks, maps)


def test_a_point_at_the_limit_itself_is_kept_where_the_original_code_keeps_it():
    masks, maps = smooth_set(2)
    fpr, pro = sweep(masks, maps, levels_up(maps))
    limit = fpr[fpr < 0.3].max()
    below = fpr < limit
    expected = -np.trapezoid(pro[below], stretch(fpr[below]))
    assert pro_200_thresholds(masks, maps, limit=limit)["pro_200_thresholds"] == pytest.approx(expected, abs=1e-12)
    fpr, pro = sweep(masks, maps, maps.max() - np.arange(200) * (maps.max() - maps.min()) / 200)
    limit = fpr[fpr < 0.3].max()
    upto = fpr <= limit
    expected = np.trapezoid(stretch(pro[upto]), stretch(fpr[upto]))
    assert pro_both_rescaled(masks, maps, limit=limit)["pro_both_rescaled"] == pytest.approx(expected, abs=1e-12)


def test_a_pixel_at_a_threshold_itself_is_not_called():
    masks, maps = smooth_set(8)
    maps = np.round(200 * stretch(maps))  # every score is a threshold, but the highest
    fpr, pro = sweep(masks, maps, levels_up(maps))
    below = fpr < 0.3
    expected = -np.trapezoid(pro[below], stretch(fpr[below]))
    assert pro_200_thresholds(masks, maps)["pro_200_thresholds"] == pytest.approx(expected, abs=1e-12)


def test_pro_of_anomalous_images_leaves_normal_images_out():
    masks, maps = smooth_set(5)
    value = pro_anomalous_images(masks, maps)["pro_anomalous_images"]
    assert value == aupro(masks[:3], maps[:3])
    assert pro_anomalous_images(masks, maps, limit=0.05)["pro_anomalous_images"] == aupro(masks[:3], maps[:3], 0.05)
    maps[3:] += 100
    assert pro_anomalous_images(masks, maps)["pro_anomalous_images"] == value
    assert aupro(masks, maps) < value


def test_thresholds_on_a_grid_depend_on_the_scale_of_scores_and_the_exact_value_does_not():
    masks, maps = smooth_set(6)
    bent = np.exp(4 * maps)
    assert aupro(masks, bent) == aupro(masks, maps)
    assert abs(pro_200_thresholds(masks, bent)["pro_200_thresholds"] - aupro(masks, maps)) > 0.01


@pytest.mark.parametrize("name", sorted(PRO_VARIANTS))
def test_variants_without_a_value_are_nan_with_a_reason(name):
    variant = PRO_VARIANTS[name]
    masks, maps = smooth_set(7)
    assert set(variant(masks, maps)) == {name}
    for some_masks, some_maps in ((np.zeros((2, 4, 4)), np.ones((2, 4, 4))), (np.ones((2, 4, 4)), maps[:2, :4, :4])):
        result = variant(some_masks, some_maps)
        assert math.isnan(result[name]) and result["reasons"][name]
    if name != "pro_anomalous_images":
        result = variant(masks, np.zeros(masks.shape))
        assert math.isnan(result[name]) and "the same" in result["reasons"][name]
    with pytest.raises(InputError, match="arrays or lists"):
        variant(iter(masks), iter(maps))
    with pytest.raises(InputError, match="image 2"):
        variant(masks, np.where(np.arange(6)[:, None, None] == 2, np.nan, maps))


def test_image_scores_by_hand():
    maps = [np.array([[1, 2], [3, 4]]), np.array([[5, 0, 1]])]
    assert image_scores(maps).tolist() == [4, 5]
    assert image_scores(maps, "top_k_mean", k=2).tolist() == [3.5, 3]
    assert image_scores(maps, "top_k_mean", k=0.5).tolist() == [3.5, 5]
    assert image_scores(np.stack([maps[0]] * 3), "top_k_mean", k=4).tolist() == [2.5] * 3
    with pytest.raises(InputError, match="image 1: k = 4"):
        image_scores(maps, "top_k_mean", k=4)
    with pytest.raises(InputError, match="rule"):
        image_scores(maps, "median")


def by_hand():
    """Two images of 4 x 5. In the first one a region of 2 x 2, half of it found at 1 and half at 0.25, and far from it
    four of sixteen normal pixels at 0.5. The second one is normal, and 0 everywhere.
    """
    masks, maps = np.zeros((2, 4, 5), bool), np.zeros((2, 4, 5))
    masks[0, :2, :2] = True
    maps[0, 0, :2], maps[0, 1, :2], maps[0, :, 4] = 1, 0.25, 0.5
    return masks, maps


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Points (FPR, PRO) of all: (0, 0), (0, 1/2), (4/n, 1/2), (4/n, 1) with n normal pixels, 36 or 16.
        ("aupro", (4 / 36 * 0.5 + (0.3 - 4 / 36)) / 0.3),  # all 36 normal pixels, exactly up to 0.3
        ("pro_anomalous_images", (4 / 16 * 0.5 + 0.05) / 0.3),  # the normal image does not count
        ("pro_200_thresholds", 0.5),  # ends at the last threshold before 0.3, which is at 4/36
        ("pro_per_image", 0.5),
        ("pro_both_rescaled", 0.5),
        ("pro_dilated", 1.0),  # what is found at 1 reaches the whole region
        ("pro_at_image_f1", 0.5),  # of the region 2 of 4 pixels reach the anomalous image's score
    ],
)
def test_every_definition_of_pro_by_hand(name, expected):
    masks, maps = by_hand()
    found = aupro(masks, maps) if name == "aupro" else pro_variant(name, masks, maps, [1, 0], [1.0, 0.0])[name]
    assert found == pytest.approx(expected)


def test_every_definition_has_a_label():
    assert {*PRO_VARIANTS, "pro_at_image_f1"} == set(PRO_LABELS)
    with pytest.raises(InputError, match="There is no PRO variant 'pro'; there are pro_per_image"):
        pro_variant("pro", *by_hand(), [1, 0], [1, 0])


def test_overlap_at_the_threshold_of_the_best_image_f1_follows_the_image_scores():
    masks, maps = by_hand()
    assert pro_at_image_f1(masks, maps, [1, 0], [0.25, 0.1])["pro_at_image_f1"] == 1  # 0.25 itself is found
    assert pro_at_image_f1(masks, maps, [1, 0], [7, 1])["pro_at_image_f1"] == 0  # the scores' unit is not the maps'
    masks[0, 3, 2] = True  # a second region, of one pixel, that nothing finds
    assert pro_at_image_f1(masks, maps, [1, 0], [0.25, 0.1])["pro_at_image_f1"] == pytest.approx(0.5)
    undefined = pro_at_image_f1(masks[:1], maps[:1], [1], [0.5])
    assert math.isnan(undefined["pro_at_image_f1"])
    assert "no normal image" in undefined["reasons"]["pro_at_image_f1"]
