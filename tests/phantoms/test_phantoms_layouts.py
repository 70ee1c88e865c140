"""The phantoms of the other four papers: their dataset's layout, exact masks, and nothing that a mean could find."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from adlib import InputError, load_samples
from adlib.datasets import facts
from adlib.datasets.isp_ad import supervised_samples
from adlib.images import read_image, read_mask
from adlib.metrics import image_metrics
from adlib.phantoms import draw, parts, screen_print, sem, textures
from adlib.samples import count

# dataset -> module, its defective kinds, small counts, and the rows that adlib.samples.count makes of them
TINY = {"Copper_Stator": (2, 1, 2), "Aluminum_Pc": (1, 1, 1)}
SETS = {
    "isp_ad": (screen_print, ("area", "points"), {"counts": {"ASM": (2, 1, 1, 2)}, "supervised": 4}, [[2, 1, 3]]),
    "miic": (sem, ("abnormal",), {"counts": (3, 2, 2)}, [[3, 2, 2]]),
    "three_cad": (parts, ("defective",), {"counts": TINY}, [[1, 1, 1], [2, 1, 2]]),
    "texture_ad": (textures, ("defective",), {"counts": (2, 1, 3)}, [[6, 3, 9]] * 3),
}
CATEGORIES = {
    "isp_ad": list(screen_print.PRINTS),
    "miic": ["MIIC"],
    "three_cad": list(parts.PUBLISHED),
    "texture_ad": [f"{product}/{name}" for product, names in textures.SPECIFICATIONS.items() for name in names],
}
EVERY = [(name, category) for name, categories in CATEGORIES.items() for category in categories]


def digest(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.suffix != ".json")
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.parametrize("name", SETS)
def test_same_seed_same_bytes_and_the_datasets_layout(name, tmp_path):
    _, _, options, rows = SETS[name]
    first, second, other = (
        draw(name, tmp_path / str(n), seed=seed, size=64, **options) for n, seed in enumerate((0, 0, 1))
    )
    assert digest(first) == digest(second)
    assert digest(first) != digest(other)
    samples = load_samples(name, first)
    assert count(samples).to_numpy().tolist() == rows
    for row in samples[samples["label"] == 1].itertuples():
        image = read_image(row.image)
        assert read_mask(row.mask, image.shape[:2]).any()


def test_names_are_those_of_the_papers():
    assert set(CATEGORIES["isp_ad"]) == set(facts("isp_ad").counts)
    assert len(CATEGORIES["three_cad"]) == len(facts("three_cad").counts)
    assert [sum(column) for column in zip(*parts.PUBLISHED.values(), strict=True)] == [10493, 5084, 11462]
    for product, (train, test) in textures.PUBLISHED.items():
        dealt = np.sum([textures._counts("published", product, place) for place in range(3)], axis=0)
        assert dealt[0] == train
        assert dealt[1:].sum() == test


@pytest.mark.parametrize(("name", "category"), EVERY)
def test_masks_cover_what_the_defect_changes(name, category):
    module, kinds, _, _ = SETS[name]
    for kind in kinds:
        for index in range(4):
            image, mask = module.draw_image(category, kind, index, size=128)
            without, none = module.draw_image(category, kind, index, size=128, defects=False)
            change = np.abs(image.astype(int) - without).reshape(128, 128, -1).max(2)
            assert not none.any()
            assert 0 < (mask > 0).mean() < 0.5
            assert change[mask > 0].mean() > 4
            assert np.mean(change[mask == 0] > 25) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("name", "category"), EVERY)
def test_the_mean_grey_level_finds_nothing(name, category):
    module, kinds, _, _ = SETS[name]
    normal = [module.draw_image(category, "normal", index, size=64)[0].mean() for index in range(60)]
    defective = [
        module.draw_image(category, kinds[index % len(kinds)], index, size=64)[0].mean() for index in range(60)
    ]
    assert 0.25 < image_metrics([0] * 60 + [1] * 60, normal + defective)["image_auroc"] < 0.75


@pytest.mark.parametrize(("name", "category"), EVERY)
def test_every_defective_image_has_a_mask_however_small(name, category):
    module, kinds, _, _ = SETS[name]
    for index in range(30):
        assert module.draw_image(category, kinds[index % len(kinds)], index, size=48)[1].any(), index


def test_supervised_screen_prints_are_in_an_hdf5_file(tmp_path):
    root = draw("isp_ad", tmp_path, size=64, counts={"LSM-1": (1, 1, 1, 1)}, supervised=4)
    samples = supervised_samples(root)
    assert samples["label"].sum() == 2
    for row in samples[samples["label"] == 1].itertuples():
        assert read_mask(row.mask, read_image(row.image).shape).any()


def test_texture_light_moves_between_training_and_test():
    for category in CATEGORIES["texture_ad"]:
        train, test = (
            np.array([textures.draw_image(category, kind, index, size=64)[0].mean() for index in range(20)])
            for kind in ("train", "normal")
        )
        assert np.abs(test - train.mean()).mean() > 2 * train.std()


def test_jpeg_masks_come_back_exactly(tmp_path):
    root = draw("miic", tmp_path, counts=(1, 1, 4))
    for row in load_samples("miic", root).query("label == 1").itertuples():
        index = int(Path(row.image).stem[-5:])
        _, drawn = sem.draw_image("MIIC", "abnormal", index)
        assert np.array_equal(read_mask(row.mask, (512, 512)), drawn > 0)


@pytest.mark.parametrize("name", SETS)
def test_wrong_requests_get_their_sentence(name, tmp_path):
    module = SETS[name][0]
    with pytest.raises(InputError, match="'nothing'"):
        module.draw_image("nothing", "train", 0)
    with pytest.raises(InputError, match="counts='many' must be"):
        draw(name, tmp_path / name, counts="many")
