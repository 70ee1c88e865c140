"""Tiles of large images: their places, their maps put together, and what they find that a resize loses."""

import numpy as np
import pytest
import torch
from conftest import write

from adlib import ImageSet, InputError, create_model, evaluate, load_samples
from adlib.decoding.tiles import Mosaic, corners
from adlib.samples import select


def test_tiles_cover_the_image_and_the_last_ones_end_with_it():
    assert corners((10, 8), (4, 1)) == [(top, left) for top in (0, 3, 6) for left in (0, 3, 4)]
    assert corners((8, 8), (8, 2)) == [(0, 0)]
    assert corners((9, 8), (8, 2)) == [(0, 0), (1, 0)]


@pytest.mark.parametrize(("shape", "tile"), [((40, 33), (16, 4)), ((16, 16), (16, 8)), ((31, 47), (10, 0))])
def test_cut_and_put_together_again_a_map_is_as_it_was(shape, tile):
    whole = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)
    cuts = [image[top : top + tile[0], left : left + tile[0]] for image in whole for top, left in corners(shape, tile)]
    found, mosaic = np.zeros_like(whole), Mosaic(shape, tile)
    for start in range(0, len(cuts), 3):  # batches that end anywhere
        mosaic.add(np.stack(cuts[start : start + 3]), start, found)
    np.testing.assert_allclose(found, whole, atol=1e-6)


def test_tiles_that_disagree_pass_over_into_one_another_without_a_seam():
    tile, shape = (16, 8), (16, 24)
    found = np.zeros((1, *shape), np.float32)
    Mosaic(shape, tile).add(np.stack([np.zeros((16, 16)), np.ones((16, 16))]).astype(np.float32), 0, found)
    line = found[0, 8]
    assert (line[:8] == 0).all() and np.allclose(line[16:], 1)
    assert (np.diff(line) >= 0).all() and np.diff(line).max() < 0.2  # eight small steps, no jump


@pytest.fixture
def large(tmp_path):
    """An MVTec-like tree of noise of 300 x 200 pixels, and one image with a mark of 3 pixels in its last tile."""
    rng = np.random.default_rng(0)
    picture = lambda: rng.normal(120, 6, (300, 200)).clip(0, 255).astype(np.uint8)  # noqa: E731
    for index in range(3):
        write(tmp_path / "thing" / "train" / "good" / f"{index}.png", picture())
    write(tmp_path / "thing" / "test" / "good" / "0.png", picture())
    image, mask = picture(), np.zeros((300, 200), np.uint8)
    image[290:293, 190:193], mask[290:293, 190:193] = 250, 255
    write(tmp_path / "thing" / "test" / "spot" / "0.png", image)
    write(tmp_path / "thing" / "ground_truth" / "spot" / "0_mask.png", mask)
    return load_samples("mvtec_ad", tmp_path, "thing")


@pytest.mark.parametrize("cached", [False, True])
def test_the_items_of_tiles_are_cuts_of_the_images(large, cached, tmp_path):
    images = ImageSet(large, size=(300, 200), tile=(128, 32), cache=tmp_path / "cache" if cached else None)
    tiles = images.tiles()
    places = corners((300, 200), (128, 32))
    assert (images.shape, tiles.shape, len(tiles)) == ((300, 200), (128, 128), len(images) * len(places))
    assert tiles.tiles() is tiles and ImageSet(large, size=64).tiles().shape == (64, 64)
    for index in range(len(tiles)):
        whole, (top, left) = images[index // len(places)], places[index % len(places)]
        cut = (..., slice(top, top + 128), slice(left, left + 128))
        assert torch.equal(tiles[index]["image"], whole["image"][cut])
        assert torch.equal(tiles[index]["mask"], whole["mask"][cut])
        assert tiles[index]["label"] == int(whole["mask"][cut].any())
    again = ImageSet(tiles.samples.iloc[3:5], **tiles.settings)  # as methods take parts of their images
    assert torch.equal(again[0]["image"], tiles[3]["image"])


def test_a_detector_learns_and_looks_by_tiles(large, tmp_path):
    settings = {"size": (300, 200), "tile": (128, 32)}
    train, test = (ImageSet(select(large, split=split), **settings) for split in ("train", "test"))
    model = create_model("padim", backbone="resnet18.tv_in1k", weights="bundled", stages=(1,), channels=20)
    predictions = model.fit(train, progress=False).predict(test, progress=False)
    assert predictions.maps.shape == (2, 300, 200)
    metrics = evaluate(predictions)
    assert metrics["image_auroc"] == 1 and metrics["pixel_auroc"] > 0.99
    batches = model.predict(test, batch_size=3, progress=False)
    np.testing.assert_allclose(batches.maps, predictions.maps, rtol=1e-4, atol=1e-4)
    loaded = type(predictions).load(predictions.save(tmp_path / "kept"))
    assert loaded.masks.shape == (2, 300, 200) and loaded.masks.sum() == 9


def test_maps_that_memory_should_not_hold_are_the_same_from_a_file(large, monkeypatch):
    settings = {"size": (300, 200), "tile": (128, 32)}
    train, test = (ImageSet(select(large, split=split), **settings) for split in ("train", "test"))
    model = create_model("padim", backbone="resnet18.tv_in1k", weights="bundled", stages=(1,), channels=5)
    inside = model.fit(train, progress=False).predict(test, progress=False)
    monkeypatch.setattr("adlib.detector.MAPS_IN_MEMORY", 1000)
    outside = model.predict(test, progress=False)
    assert isinstance(outside.maps, np.memmap) and np.array_equal(inside.maps, outside.maps)


def test_padding_keeps_proportions_and_all_of_the_image(large):
    images = ImageSet(large, size=150, fit="pad")
    item = images[int(np.flatnonzero(images.labels)[0])]
    assert item["image"].shape == (3, 150, 150)
    assert torch.equal(item["image"][..., :25], item["image"][..., 25:26].expand(-1, -1, 25))
    plain = ImageSet(large, size=(150, 100))[item["index"]]
    assert torch.equal(item["image"][..., 25:125], plain["image"])
    assert torch.equal(item["mask"][:, 25:125], plain["mask"]) and item["mask"].sum() == plain["mask"].sum() > 0
    assert images.settings["fit"] == "pad" and "fit" not in ImageSet(large).settings


def test_a_tile_may_be_an_array_of_whole_numbers(large):
    images = ImageSet(large, size=100, tile=np.array([32.0, 8.0]))
    assert images.tile == (32, 8) and images.seen == images.tiles().shape == (32, 32)
    assert ImageSet(large, size=100).seen == (100, 100)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"tile": 64}, r"must be \(side, overlap\)"),
        ({"tile": "51"}, r"must be \(side, overlap\)"),
        ({"tile": (0, 0)}, r"tile=\(0, 0\) must be .* the side of at least 1"),
        ({"tile": (5, float("inf"))}, r"must be \(side, overlap\)"),
        ({"tile": (True, 0)}, r"must be \(side, overlap\)"),
        ({"tile": (32.7, 8.9)}, r"tile=\(32.7, 8.9\) must be .* whole numbers"),
        ({"tile": (32, -1)}, r"must be \(side, overlap\)"),
        ({"tile": (10**400, 0)}, r"must be \(side, overlap\)"),
        ({"tile": (64, 40)}, "between 0 and half of the side"),
        ({"tile": (300, 10)}, "larger than the images of 256 x 256"),
        ({"fit": "squeeze"}, "must be 'stretch' or 'pad'"),
        ({"fit": "pad", "sides": "shorter"}, "choose one"),
    ],
)
def test_wrong_tiles_and_fits_get_their_sentence(large, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        ImageSet(large, **settings)


@pytest.mark.slow
def test_defects_of_3_pixels_in_2000_are_found_by_tiles_and_lost_by_a_resize(tmp_path):
    rng = np.random.default_rng(0)
    lines = 120 + 30 * np.sin(np.arange(2000) / 9)[None] * np.ones((2000, 1))

    def picture():
        return (lines + rng.normal(0, 5, lines.shape)).clip(0, 255).astype(np.uint8)

    for split, number in (("train", 1), ("test", 2)):
        for index in range(number):
            write(tmp_path / "chip" / split / "good" / f"{index}.png", picture())
    for index in range(2):
        image, mask = picture(), np.zeros((2000, 2000), np.uint8)
        for top, left in rng.integers(20, 1970, (3, 2)):
            mask[top : top + 3, left : left + 3] = 255
        image[mask > 0] = 255
        write(tmp_path / "chip" / "test" / "void" / f"{index}.png", image)
        write(tmp_path / "chip" / "ground_truth" / "void" / f"{index}_mask.png", mask)
    samples = load_samples("mvtec_ad", tmp_path, "chip")
    found = {}
    for name, settings in {"tiled": {"size": 2000, "tile": (512, 32)}, "resized": {"size": 256}}.items():
        train, test = (ImageSet(select(samples, split=split), **settings) for split in ("train", "test"))
        model = create_model(
            "patchcore",
            backbone="resnet18.tv_in1k",
            weights="bundled",
            stages=(1,),
            embedding="concatenated",
            coreset_limit=300,
            coreset_ratio=0.01,
            smoothing=2.0,
        )
        found[name] = evaluate(model.fit(train, progress=False).predict(test, progress=False))
    assert found["tiled"]["image_auroc"] == 1 and found["tiled"]["pixel_auroc"] > 0.98
    assert found["resized"]["image_auroc"] <= 0.75 or found["resized"]["pixel_auroc"] < 0.8
