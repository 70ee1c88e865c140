"""Plain phantoms: a planted blot, and test images that are like the training images."""

import numpy as np
import pytest

from adlib import InputError, load_samples
from adlib.phantoms import draw, parts, screen_print, sem, textures, xray
from adlib.phantoms.plain import plant

DRAWINGS = {
    "cxr_ad": (xray, "UB", "bubble"),
    "isp_ad": (screen_print, "LSM-1", "area"),
    "miic": (sem, "MIIC", "abnormal"),
    "texture_ad": (textures, "cloth/subclass2", "defective"),
    "three_cad": (parts, "Iron_Stator", "defective"),
}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("grey", [0.1, 0.5, 0.9])
def test_a_blot_changes_the_pixels_of_its_mask_and_no_others(dtype, grey):
    top = np.iinfo(dtype).max
    image = np.full((64, 80, 3), grey * top, dtype)
    planted, mask = plant(image, [0, 1])
    change = np.abs(planted.astype(float) - image).max(2) / top
    assert (change > 0.1).tolist() == mask.tolist()
    assert 0.005 < mask.mean() < 0.06
    again, _ = plant(image, [0, 1])
    assert np.array_equal(planted, again)
    assert not np.array_equal(mask, plant(image, [0, 2])[1])


@pytest.mark.parametrize("dataset", sorted(DRAWINGS))
def test_plain_drawings_differ_from_normal_ones_by_the_blot_alone(dataset):
    module, category, kind = DRAWINGS[dataset]
    whole = "bubbles" if dataset == "cxr_ad" else "defects"
    image, mask = module.draw_image(category, kind, 3, size=64, difficulty="plain")
    without, empty = module.draw_image(category, kind, 3, size=64, difficulty="plain", **{whole: False})
    changed = image != without
    assert np.array_equal(changed.any(2) if changed.ndim == 3 else changed, mask > 0)
    assert not empty.any()
    assert mask.max() == module.draw_image(category, kind, 3, size=64)[1].max()


def test_plain_textures_test_what_was_trained_under_the_same_light():
    train = [textures.draw_image("metal/subclass11", "train", i, size=32)[0].mean() for i in range(8)]
    test = [
        textures.draw_image("metal/subclass1", "normal", i, size=32, difficulty="plain")[0].mean() for i in range(8)
    ]
    assert abs(np.mean(test) - np.mean(train)) < 3 * np.std(train)


@pytest.mark.parametrize("dataset", sorted(DRAWINGS))
def test_plain_sets_have_enough_test_images_in_the_same_layout(dataset, tmp_path):
    samples = load_samples(dataset, draw(dataset, tmp_path / dataset, size=32, difficulty="plain"))
    test = samples[samples["split"] == "test"]
    counts = test.groupby("category")["label"].value_counts().unstack()
    assert counts.to_numpy().min() >= 20
    assert (test.loc[test["label"] == 1, "mask"] != "").all()


def test_an_unknown_difficulty_is_refused(tmp_path):
    with pytest.raises(InputError, match="difficulty='easy' must be 'hard' or 'plain'"):
        draw("cxr_ad", tmp_path / "cxr_ad", difficulty="easy")
