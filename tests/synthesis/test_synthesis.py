"""Synthesis: seeded, marked exactly, and the same whatever the loader does."""

import cv2
import numpy as np
import pytest
import torch
from conftest import make_tree
from PIL import Image
from torch.utils.data import DataLoader

from adlib import ImageSet, InputError, create_model, load_samples
from adlib.images import read_image
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
from adlib.synthesis.cutpaste import colour_jitter
from adlib.synthesis.nsa import MVTEC_AD
from adlib.synthesis.texture_operations import ONENIP_OPERATIONS, equalise, mirror, rotate

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


@pytest.mark.parametrize(
    ("cut", "scale", "bounds", "size"),
    [
        ((205, 205), 1.0, {}, (102, 102)),  # 0.4 of 256 pixels: what bounded the half side bounds the side
        ((205, 205), 1.0, {"rescaled_bounds": "half"}, (204, 204)),
        ((40, 60), 1.3, {}, (52, 78)),
        ((76, 204), 1.0, {"height": (0.03, 0.15)}, (38, 102)),  # the height's bound halves the width
        ((16, 80), 0.7, {}, (11, 56)),
    ],
)
def test_nsa_bounds_a_rescaled_patch_by_its_side(cut, scale, bounds, size):
    assert NSA(**bounds).rescaled(cut, scale, (256, 256)) == size


def test_nsa_cuts_centres_and_half_sides_as_drawn_and_resizes_without_antialiasing():
    source = np.random.default_rng(9).integers(0, 256, (64, 96, 3)).astype(np.uint8)
    synthesiser, everything = NSA(), np.ones((64, 96), bool)
    for seed in range(20):
        patch, _, _ = synthesiser._cut(source, everything, np.random.default_rng(seed))
        rng = np.random.default_rng(seed)
        half = ((0.03 + rng.gamma(2, 0.05, 2)) * (64, 96)).astype(int).clip([2, 3], [26, 38])
        row, column = rng.integers([2, 3], [64 - 2, 96 - 3])
        part = source[max(row - half[0], 0) : row + half[0], max(column - half[1], 0) : column + half[1]]
        height, width = synthesiser.rescaled(part.shape[:2], np.clip(rng.normal(1, 0.5), 0.7, 1.3), (64, 96))
        assert np.array_equal(patch, cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR))


def test_nsa_tells_background_by_the_mean_of_the_channels():
    green = np.zeros((16, 16, 3), np.uint8)
    green[4:12, 4:12, 1] = 240  # mean 80, where a weighted grey value would be 141
    assert not NSA(background=(80, 10))._foreground(green)[6:10, 6:10].any()
    assert NSA(background=(141, 10))._foreground(green)[6:10, 6:10].all()


def test_nsa_patches_are_small_where_the_official_ones_are(real):
    files = sorted((real / "mvtec_ad" / "bottle" / "train" / "good").glob("*.png"))[:40]
    bottles = [read_image(file).astype(np.float32) / 255 for file in files]
    synthesiser = NSA(bottles, **MVTEC_AD["bottle"])
    shares = [synthesiser(bottles[seed % 40], np.random.default_rng(seed))[1].mean() for seed in range(160)]
    # The official code's mean is 7.5 %; 160 draws scatter by 0.4 %, and bounds of the half side would give 10.3 %.
    assert 0.064 < np.mean(shares) < 0.09


def test_equalise_is_pillows_and_darker_than_opencvs():
    """Pillow's rule: whole steps of the cumulated histogram, the last grey value's pixels left out of their number."""
    texture = ProceduralTextures()((64, 64), np.random.default_rng(4))
    ours = equalise(texture, np.random.default_rng(0))
    for channel in range(3):
        counts = np.bincount(texture[..., channel].ravel(), minlength=256)
        step = (counts.sum() - counts[counts > 0][-1]) // 255
        before = np.cumsum(counts) - counts
        table = np.minimum((step // 2 + before) // step, 255)
        assert np.array_equal(ours[..., channel], table[texture[..., channel]])
    opencv = cv2.merge([cv2.equalizeHist(channel) for channel in cv2.split(texture)])
    assert ours.mean() < opencv.mean()


def test_onenip_mirrors_textures_and_turns_the_hue_of_pieces_less_than_their_saturation():
    texture = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
    drawn = [mirror(texture, np.random.default_rng(seed)) for seed in range(200)]
    turned = [np.array_equal(one, texture[:, ::-1]) for one in drawn]
    assert all(one or np.array_equal(two, texture) for one, two in zip(turned, drawn, strict=True))
    assert 72 <= sum(turned) <= 128  # 200 draws of one half, four deviations
    assert mirror in ONENIP_OPERATIONS
    assert rotate not in ONENIP_OPERATIONS
    assert len(ONENIP_OPERATIONS) == 10
    # Pure red, of which no brightness and no contrast change the hue: it turns by at most a tenth of the circle.
    red = np.zeros((8, 8, 3), np.float32) + np.float32([0.6, 0.3, 0.3])
    jittered = [colour_jitter(red, np.random.default_rng(seed), 0.4, hue=0.1)[0, 0] for seed in range(100)]
    turns = cv2.cvtColor(np.array([jittered]), cv2.COLOR_RGB2HSV)[0, :, 0]
    turns = np.minimum(turns, 360 - turns)
    assert 30 < turns.max() <= 36.5
    wider = [colour_jitter(red, np.random.default_rng(seed), 0.4)[0, 0] for seed in range(100)]
    assert cv2.cvtColor(np.array([wider]), cv2.COLOR_RGB2HSV)[0, :, 0].max() > 40


def test_a_folders_pictures_are_resized_as_the_official_code_of_the_method_does(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (90, 120, 3)).astype(np.uint8)
    (tmp_path / "noise.png").write_bytes(cv2.imencode(".png", picture[..., ::-1])[1].tobytes())

    def drawn(method: str, shape: tuple[int, int]) -> np.ndarray:
        source = create_model(method, textures=str(tmp_path)).texture_source()
        return source(shape, np.random.default_rng(0)).astype(float)

    plain = cv2.resize(picture, (40, 32), interpolation=cv2.INTER_LINEAR)
    smooth = np.asarray(Image.fromarray(picture).resize((40, 32), Image.BILINEAR), float)
    middle = np.asarray(Image.fromarray(picture).resize((42, 32), Image.BILINEAR), float)[:, 5:37]
    for method in ("draem", "realnet", "onenip"):
        assert np.array_equal(drawn(method, (32, 40)), plain)
    for method in ("destseg", "cfrg"):
        assert np.abs(drawn(method, (32, 40)) - smooth).max() <= 1
    assert np.abs(drawn("glass", (32, 32)) - middle).max() <= 1  # shorter side to 32, the longer one's middle
    assert plain.std() > 1.5 * smooth.std()  # noise that antialiasing takes away
    assert TextureFolder(tmp_path, "area").describe()["resize"] == "area"
    assert TextureFolder(tmp_path, sides="shorter")((32, 48), np.random.default_rng(0)).shape == (32, 48, 3)


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
