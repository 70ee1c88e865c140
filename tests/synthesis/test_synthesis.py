"""Synthesis: seeded, marked exactly, and the same whatever the loader does."""

import cv2
import numpy as np
import pytest
import torch
from conftest import make_tree
from torch.utils.data import DataLoader

from adlib import ImageSet, InputError, load_samples
from adlib.phantoms.xray import draw_image
from adlib.samples import select
from adlib.synthesis import (
    NSA,
    CutPaste,
    CutPaste3Way,
    CutPasteScar,
    ProceduralTextures,
    RandomWalk,
    SyntheticImages,
    TextureFolder,
    TexturePaste,
    perlin_mask,
    perlin_noise,
    texture_source,
)

SYNTHESISERS = [TexturePaste(), CutPaste(), CutPasteScar(), CutPaste3Way(), NSA(), RandomWalk()]


@pytest.fixture(scope="module")
def chip() -> np.ndarray:
    """A drawn X-ray, float32 [128, 128, 3] in [0, 1]."""
    grey, _ = draw_image("CDIP", "train", 0, size=128)
    return np.repeat(grey[..., None], 3, axis=2).astype(np.float32) / 255


@pytest.mark.parametrize("synthesiser", SYNTHESISERS, ids=lambda one: type(one).__name__)
def test_the_mask_is_exactly_what_changed(synthesiser, chip):
    before, found = chip.copy(), 0
    for seed in range(8):
        image, mask = synthesiser(chip, np.random.default_rng(seed))
        assert image.dtype == np.float32
        assert 0 <= image.min() <= image.max() <= 1
        assert mask.dtype == bool
        assert np.array_equal(mask, (image != chip).any(axis=2))
        found += mask.any()
    assert found >= 4  # some attempts may change nothing
    assert np.array_equal(chip, before)  # the image handed in is left alone


@pytest.mark.parametrize("synthesiser", SYNTHESISERS, ids=lambda one: type(one).__name__)
def test_same_generator_same_anomaly(synthesiser, chip):
    first, second, other = (synthesiser(chip, np.random.default_rng(seed))[0] for seed in (1, 1, 2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_cutpaste_areas_are_the_papers(chip):
    shares = [CutPaste()(chip, np.random.default_rng(seed))[1].mean() for seed in range(60)]
    assert 0.01 < np.median(shares) < 0.15  # drawn from 2 to 15 %; pixels that happen to be equal are not marked
    assert max(shares) < 0.16
    scars = [CutPasteScar()(chip, np.random.default_rng(seed))[1].sum() for seed in range(60)]
    assert max(scars) <= 16 * 25 * 1.6  # at most 16 x 25 pixels, turned


def test_perlin_noise_is_smooth_and_centred():
    noise = perlin_noise((64, 96), (4, 4), np.random.default_rng(0))
    assert noise.shape == (64, 96)
    assert np.abs(noise).max() <= 1.5
    assert abs(noise.mean()) < 0.2
    assert np.abs(np.diff(noise, axis=0)).max() < 0.3
    assert perlin_mask((64, 64), np.random.default_rng(1)).dtype == bool


def test_textures_come_from_the_folder_when_one_is_given(tmp_path, chip):
    stripes = np.zeros((40, 40, 3), np.uint8)
    stripes[::4] = (0, 0, 255)  # red, as OpenCV writes it
    (tmp_path / "striped").mkdir()
    (tmp_path / "striped" / "one.png").write_bytes(cv2.imencode(".png", stripes)[1].tobytes())
    source = texture_source(tmp_path)
    assert isinstance(source, TextureFolder)
    assert source.describe()["images"] == 1
    texture = source((128, 128), np.random.default_rng(0))
    assert texture.shape == (128, 128, 3)
    assert texture[..., 0].max() == 255
    assert texture[..., 1].max() == 0
    image, mask = TexturePaste(source, operations=0)(chip, np.random.default_rng(3))
    assert mask.any()
    assert (image[mask][:, 1] <= chip[mask][:, 1]).all()  # there is no green to paste
    assert isinstance(texture_source(None), ProceduralTextures)
    assert texture_source(None).describe()["textures"] == "procedural"


def test_useless_textures_are_refused(tmp_path):
    with pytest.raises(InputError, match="There is no folder of textures"):
        TextureFolder(tmp_path / "none")
    with pytest.raises(InputError, match="holds no pictures"):
        TextureFolder(tmp_path)
    (tmp_path / "flat.png").write_bytes(cv2.imencode(".png", np.full((9, 9, 3), 90, np.uint8))[1].tobytes())
    with pytest.raises(InputError, match="flat colour, not a texture"):
        TextureFolder(tmp_path)


@pytest.mark.parametrize("kind", ProceduralTextures().kinds)
def test_procedural_textures_are_never_flat(kind):
    for seed in range(10):
        texture = ProceduralTextures(kinds=(kind,))((64, 48), np.random.default_rng(seed))
        assert texture.dtype == np.uint8
        assert texture.shape == (64, 48, 3)
        assert texture.std() > 1


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> ImageSet:
    samples = load_samples("folder", make_tree(tmp_path_factory.mktemp("tree"), train=12))
    return ImageSet(select(samples, split="train"), size=64)


def items(dataset, workers: int) -> list[torch.Tensor]:
    loader = DataLoader(dataset, batch_size=3, num_workers=workers)
    return [torch.cat([batch[name] for batch in loader]) for name in ("image", "mask", "label")]


def test_items_depend_on_seed_epoch_and_index_alone(images):
    dataset = SyntheticImages(images, CutPaste(), probability=0.7, seed=3)
    alone, shared = items(dataset, 0), items(dataset, 2)
    assert all(torch.equal(one, two) for one, two in zip(alone, shared, strict=True))
    assert 0 < alone[2].sum() < len(images)
    assert torch.equal(alone[1].any((1, 2)).long(), alone[2])

    dataset.set_epoch(1)
    assert not torch.equal(items(dataset, 0)[0], alone[0])
    dataset.set_epoch(0)
    assert torch.equal(items(dataset, 0)[0], alone[0])
    other = SyntheticImages(images, CutPaste(), probability=0.7, seed=4)
    assert not torch.equal(items(other, 0)[0], alone[0])


def test_normal_image_is_kept_for_methods_that_restore_it(images):
    dataset = SyntheticImages(images, CutPaste(), probability=1, keep_normal=True)
    item = dataset[5]
    assert torch.equal(item["normal"], images[5]["image"])
    assert not torch.equal(item["normal"], item["image"])


def test_wrong_arguments_are_named(images, chip):
    for arguments in ({"probability": 2}, {"seed": -1}):
        with pytest.raises(InputError, match=next(iter(arguments))):
            SyntheticImages(images, CutPaste(), **arguments)
    with pytest.raises(InputError, match="area"):
        CutPaste(area=(0.5, 0.1))
    with pytest.raises(InputError, match=r"float32 \[H, W, 3\]"):
        CutPaste()((chip * 255).astype(np.uint8), np.random.default_rng(0))
