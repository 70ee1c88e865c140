"""Properties every exact metric must have, and equality with definitions written out by brute force."""

import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from adlib.errors import InputError
from adlib.metrics import image_metrics, pixel_metrics, ranking, score_ranges, sorted_runs
from adlib.metrics.gpu import rank_on_device

METRICS = ("pixel_auroc", "pixel_ap", "pixel_f1max", "aupro", "aupro_0.05", "pixel_partial_auroc")
LIMITS = (0.3, 0.05)
exactly = settings(deadline=None, derandomize=True, max_examples=100)


def metrics(masks, maps=None, **options):
    return pixel_metrics(masks, maps, pro_limit=LIMITS, auroc_limit=0.2, **options)


def curve_area(x, y, limit):
    """Area below a curve of points with rising x, cut at limit by linear interpolation, divided by limit."""
    inside = x <= limit
    end = np.searchsorted(x, limit, side="right")
    if end < len(x):
        cut = y[end - 1] + (y[end] - y[end - 1]) * (limit - x[end - 1]) / (x[end] - x[end - 1])
        return np.trapezoid([*y[inside], cut], [*x[inside], limit]) / limit
    return np.trapezoid(y[inside], x[inside]) / limit


def brute_force(masks, maps):
    """Every threshold there is, one after the other."""
    truth, scores = masks.ravel(), np.asarray(maps, np.float64).ravel()
    regions = []
    for mask, one in zip(masks, np.asarray(maps, np.float64), strict=True):
        label, count = ndimage.label(mask, np.ones((3, 3)))
        regions += [one[label == r] for r in range(1, count + 1)]
    points = [(0.0, 0.0, 0.0)]
    ap, f1, before = 0.0, [0.0], 0
    for threshold in np.unique(scores)[::-1]:
        called = scores >= threshold
        tp, fp = (called & truth).sum(), (called & ~truth).sum()
        ap += (tp - before) / truth.sum() * tp / (tp + fp)
        before = tp
        f1.append(2 * tp / (tp + fp + truth.sum()))
        points.append((fp / (~truth).sum(), tp / truth.sum(), np.mean([(r >= threshold).mean() for r in regions])))
    fpr, tpr, pro = np.array(points).T
    pairs = np.sign(scores[truth][:, None] - scores[~truth][None])
    return {
        "pixel_auroc": (pairs.mean() + 1) / 2,
        "pixel_ap": ap,
        "pixel_f1max": max(f1),
        "aupro": curve_area(fpr, pro, 0.3),
        "aupro_0.05": curve_area(fpr, pro, 0.05),
        "pixel_partial_auroc": curve_area(fpr, tpr, 0.2),
    }


@st.composite
def sets(draw, most_images=4):
    """(masks, maps) with at least one anomalous and one normal pixel; often many ties."""
    n = draw(st.integers(1, most_images))
    height, width = draw(st.integers(2, 7)), draw(st.integers(2, 7))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    masks = rng.random((n, height, width)) < draw(st.sampled_from([0.05, 0.3, 0.7]))
    masks[0, 0, 0], masks[0, 0, 1] = True, False
    levels = draw(st.sampled_from([1, 2, 4, 50, 10_000]))
    maps = rng.integers(0, levels, masks.shape) + rng.integers(0, 2) * (levels // 3) * masks
    return masks, maps.astype(draw(st.sampled_from([np.float32, np.float64, np.int64])))


@exactly
@given(sets())
def test_equals_the_brute_force_definition(case):
    ours, truth = metrics(*case), brute_force(*case)
    for key in METRICS:
        assert ours[key] == pytest.approx(truth[key], abs=1e-12), key


@exactly
@given(sets(), st.sampled_from(["exp", "cube", "shift", "distance"]))
def test_monotone_maps_of_the_scores_change_nothing(case, name):
    masks, maps = case
    maps = maps.astype(np.float64)
    moved = {
        "exp": np.exp(maps / 1000),
        "cube": maps**3,
        "shift": maps - 12345,
        "distance": 3000 + 7 * maps,
    }[name]
    before, after = metrics(masks, maps), metrics(masks, moved)
    assert [before[k] for k in METRICS] == [after[k] for k in METRICS]


@exactly
@given(sets(), st.randoms(use_true_random=False))
def test_order_of_images_changes_nothing(case, random):
    masks, maps = case
    order = list(range(len(masks)))
    random.shuffle(order)
    before, after = metrics(masks, maps), metrics(masks[order], maps[order])
    for key in METRICS:
        assert after[key] == pytest.approx(before[key], abs=1e-13)


@exactly
@given(sets(), st.integers(2, 3))
def test_duplicating_the_set_changes_nothing(case, times):
    masks, maps = case
    before = metrics(masks, maps)
    after = metrics(np.concatenate([masks] * times), np.concatenate([maps] * times))
    for key in METRICS:
        assert after[key] == pytest.approx(before[key], abs=1e-12)


@exactly
@given(sets())
def test_auroc_of_the_complement_is_the_same_and_of_negated_scores_is_one_minus(case):
    masks, maps = case
    before = metrics(masks, maps)["pixel_auroc"]
    assert metrics(~masks, -maps)["pixel_auroc"] == pytest.approx(before, abs=1e-13)
    assert metrics(masks, -maps)["pixel_auroc"] == pytest.approx(1 - before, abs=1e-13)


@exactly
@given(sets())
def test_metrics_lie_between_0_and_1_and_perfect_maps_reach_1(case):
    masks, maps = case
    assert all(0 <= metrics(masks, maps)[key] <= 1 for key in METRICS)
    assert all(metrics(masks, masks.astype(float))[key] == pytest.approx(1, abs=1e-13) for key in METRICS)


@exactly
@given(sets())
def test_image_metrics_are_pixel_metrics_of_one_pixel_images(case):
    masks, maps = case
    image = image_metrics(masks.ravel(), maps.ravel(), auroc_limit=0.2)
    pixel = metrics(masks, maps)
    assert image["image_auroc"] == pytest.approx(pixel["pixel_auroc"], abs=1e-13)
    assert image["image_ap"] == pytest.approx(pixel["pixel_ap"], abs=1e-13)
    assert image["image_f1max_threshold"] == pixel["pixel_f1max_threshold"]
    assert image["image_partial_auroc"] == pytest.approx(pixel["pixel_partial_auroc"], abs=1e-13)


@pytest.fixture
def tiny_runs(monkeypatch):
    """Sizes at which a few hundred pixels already make many runs, ranges and a temporary file."""
    monkeypatch.setattr(sorted_runs, "RUN_BYTES", 64)
    monkeypatch.setattr(score_ranges, "RANGE_BYTES", 32)
    monkeypatch.setattr(sorted_runs, "SAMPLE_EVERY", 2)
    monkeypatch.setattr(score_ranges, "BATCH", 3)
    monkeypatch.setattr(ranking, "STREAM_MEMORY", 0)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_runs_spilled_to_a_file_give_the_same_values(tiny_runs, tmp_path, seed, dtype):
    rng = np.random.default_rng(seed)
    masks = rng.random((5, 9, 8)) < rng.choice([0.02, 0.3, 0.9])
    masks[0, 0, :2] = [True, False]
    maps = rng.integers(0, rng.choice([1, 3, 30, 10_000]), masks.shape).astype(dtype)
    truth = brute_force(masks, maps)
    for ours in (
        metrics(zip(masks, maps, strict=True), None, folder=str(tmp_path)),
        metrics(iter(masks), iter(maps)),
        metrics(masks, maps),
    ):
        for key in METRICS:
            assert ours[key] == pytest.approx(truth[key], abs=1e-12), key
    assert list(tmp_path.iterdir()) == []


def test_a_stream_never_holds_more_than_its_chunks(tiny_runs):
    alive = set()

    def chunks():
        for seed in range(6):
            maps = np.random.default_rng(seed).random((2, 4, 4))
            alive.add(seed)
            weakref.finalize(maps, alive.discard, seed)
            yield np.arange(32).reshape(2, 4, 4) % 5 == 0, maps
            del maps
            assert alive <= {seed}, "chunks that were read are still held"

    assert 0 < metrics(chunks())["pixel_auroc"] < 1


DTYPES = ["float16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "int64", "bool"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_type_gives_the_value_of_its_float64_copy(dtype):
    rng = np.random.default_rng(4)
    masks = rng.random((3, 12, 10)) < 0.2
    maps = (rng.random(masks.shape) * 100 + 20 * masks).astype(dtype)
    expected = metrics(masks, maps.astype(np.float64))
    assert metrics(masks, maps) == expected
    assert metrics(masks.astype(np.int32) * 255, maps) == expected
    assert metrics(list(masks), list(maps)) == expected
    twice = np.repeat(maps, 2, axis=2)[:, :, ::2]  # not contiguous
    assert metrics(np.asfortranarray(masks), twice) == expected
    assert metrics(masks[:, None], maps[:, None]) == expected
    if dtype not in ("uint16",):  # torch has few operations for it
        tensor = torch.from_numpy(maps)
        assert metrics(torch.from_numpy(masks), tensor) == expected
        assert metrics(masks, tensor.transpose(1, 2).contiguous().transpose(1, 2)) == expected


def test_bfloat16_gives_the_value_of_its_float64_copy():
    rng = np.random.default_rng(4)
    masks = torch.from_numpy(rng.random((3, 12, 10)) < 0.2)
    maps = (torch.from_numpy(rng.random((3, 12, 10))) + masks).to(torch.bfloat16)
    assert metrics(masks, maps) == metrics(masks, maps.double())
    scores = image_metrics(masks.flatten(1).any(1), maps.flatten(1).amax(1)) if not masks.all() else {}
    assert "image_auroc" in scores


def test_float64_scores_closer_than_float32_can_tell_are_told_apart():
    masks = np.array([[[True, False]]])
    assert pixel_metrics(masks, 1000 + np.array([[[1e-9, 0.0]]]))["pixel_auroc"] == 1.0
    integers = np.array([[[2**40 + 1, 2**40]]])
    assert pixel_metrics(masks, integers)["pixel_auroc"] == 1.0


def test_maps_of_different_sizes_are_one_set():
    rng = np.random.default_rng(5)
    shapes = [(4, 9), (12, 3), (6, 6)]
    masks = [rng.random(s) < 0.3 for s in shapes]
    maps = [rng.integers(0, 9, s).astype(np.float32) for s in shapes]
    ours = pixel_metrics(masks, maps)
    flat = image_metrics(np.concatenate([m.ravel() for m in masks]), np.concatenate([m.ravel() for m in maps]))
    assert ours["pixel_auroc"] == pytest.approx(flat["image_auroc"], abs=1e-13)
    regions = sum(ndimage.label(m, np.ones((3, 3)))[1] for m in masks)
    padded = [np.pad(m, ((0, 20 - m.shape[0]), (0, 20 - m.shape[1]))) for m in masks]
    assert regions == sum(ndimage.label(m, np.ones((3, 3)))[1] for m in padded)
    assert 0 < ours["aupro"] < 1


def test_files_and_chunks_give_the_value_of_the_arrays(tmp_path):
    import cv2

    rng = np.random.default_rng(6)
    masks = rng.random((4, 8, 8)) < 0.2
    masks[3] = False
    maps = rng.random((4, 8, 8)).astype(np.float32)
    expected = metrics(masks, maps)
    files = []
    for i, (mask, one) in enumerate(zip(masks, maps, strict=True)):
        cv2.imwrite(str(tmp_path / f"{i}.png"), mask.astype(np.uint8) * 255)
        cv2.imwrite(str(tmp_path / f"{i}.tiff"), one)
        np.save(tmp_path / f"{i}.npy", one)
        files.append((tmp_path / f"{i}.png" if mask.any() else 0, tmp_path / f"{i}.{('npy', 'tiff')[i % 2]}"))
    assert metrics(iter(files)) == expected
    assert metrics(files) == expected
    assert metrics([m for m, _ in files], [str(s) for _, s in files]) == expected
    assert metrics((masks[i : i + 3], maps[i : i + 3]) for i in (0, 3)) == expected
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="broken"):
        metrics([0], [tmp_path / "broken.png"])
    cv2.imwrite(str(tmp_path / "colour.png"), np.full((2, 2, 3), [0, 128, 255], np.uint8))
    with pytest.raises(InputError, match="colour"):
        metrics([0], [tmp_path / "colour.png"])


def test_a_masks_file_is_read_by_the_rule_of_the_loaders(tmp_path):
    import cv2

    mask = np.zeros((32, 32), np.uint8)
    mask[8:16, 8:16] = 255
    maps = [np.random.default_rng(0).random((32, 32)).astype(np.float32)]
    expected = metrics([mask > 0], maps)
    cv2.imwrite(str(tmp_path / "lossy.jpg"), mask)
    cv2.imwrite(str(tmp_path / "soft.png"), cv2.GaussianBlur(mask, (3, 3), 0))
    cv2.imwrite(str(tmp_path / "colour.png"), cv2.merge([mask // 2, mask // 4, mask]))
    mask[8:12, 8:16] = 1
    cv2.imwrite(str(tmp_path / "classes.png"), np.where(mask > 1, 2, mask))
    for name in ("lossy.jpg", "colour.png", "classes.png"):
        assert metrics([tmp_path / name], maps) == expected, name
    assert metrics([tmp_path / "soft.png"], maps)["pixel_auroc"] > 0
    cv2.imwrite(str(tmp_path / "inverted.png"), 255 - mask)
    with pytest.raises(InputError, match=r"image 0: The mask .*inverted\.png .* 0 and 255"):
        metrics([tmp_path / "inverted.png"], maps)


def test_a_stream_that_turns_to_float64_is_refused_and_a_list_is_not():
    masks = [np.array([[True, False]])] * 2
    maps = [np.array([[1, 0]], np.float32), np.array([[1, 0]], np.float64)]
    with pytest.raises(InputError, match="image 1: float64 after maps of float32"):
        pixel_metrics(iter(masks), iter(maps))
    assert pixel_metrics(masks, maps)["pixel_auroc"] == 1.0


@exactly
@given(sets())
def test_the_device_path_gives_the_same_values(case):
    masks, maps = case
    expected = metrics(masks, maps)
    sums = rank_on_device(masks, torch.from_numpy(maps), (*LIMITS, 0.2))
    ours = [sums.auroc, sums.average_precision, sums.f1_max, sums.aupro(0.3), sums.aupro(0.05)]
    ours.append(sums.partial_auroc(0.2))
    assert [float(x) for x in ours] == pytest.approx([expected[k] for k in METRICS], abs=1e-12)
    assert float(sums.threshold) == expected["pixel_f1max_threshold"]


def test_the_device_path_checks_its_input():
    maps = torch.zeros(3, 4, 4)
    maps[1, 2, 2] = torch.nan
    with pytest.raises(InputError, match="image 1"):
        rank_on_device(np.zeros((3, 4, 4)), maps)
    with pytest.raises(InputError, match="differ in shape"):
        rank_on_device(np.zeros((2, 4, 4)), maps)
