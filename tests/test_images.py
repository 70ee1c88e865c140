"""Images: decoding, scaling, resizing, masks, the cache."""

import multiprocessing
import resource
import time

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_tree, write
from PIL import Image

from adlib import ImageSet, InputError, load_samples
from adlib.decoding import image_cache, resizing
from adlib.images import image_shape, read_image, read_mask
from adlib.samples import make_samples, select


def one(path, mask="", label=0):
    return make_samples([{"image": str(path), "mask": str(mask), "label": label}], "test")


def test_an_item_has_the_promised_types(tree):
    images = ImageSet(load_samples("folder", tree), size=32)
    item = images[4]  # after four normal test images
    assert item["image"].dtype == torch.float32
    assert item["image"].shape == (3, 32, 32)
    assert 0 <= item["image"].min() < item["image"].max() <= 1
    assert item["mask"].dtype == torch.bool
    assert item["mask"].shape == (32, 32)
    assert item["label"] == 1
    assert item["index"] == 4
    assert images.labels.dtype == np.int8
    assert images.masks().shape == (14, 32, 32)
    assert images.masks().any((1, 2)).tolist() == (images.labels == 1).tolist()


def test_colours_keep_their_order(tmp_path):
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 2] = 255  # OpenCV writes blue, green, red
    item = ImageSet(one(write(tmp_path / "red.png", red)), size=4)[0]["image"]
    assert item[:, 0, 0].tolist() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
def test_grey_values_are_divided_by_the_range_of_their_depth(tmp_path, dtype, top):
    ramp = np.array([[0, top // 5, top]], dtype).repeat(3, 0)
    item = ImageSet(one(write(tmp_path / "grey.png", ramp)), size=3)[0]["image"]
    assert item[0, 0].tolist() == pytest.approx([0, 0.2, 1])
    assert torch.equal(item[0], item[2])


def test_window_maps_level_and_width_and_clips(tmp_path):
    ramp = np.array([[500, 1000, 2000, 3000, 4000]], np.uint16).repeat(5, 0)
    item = ImageSet(one(write(tmp_path / "grey.png", ramp)), size=5, window=(1000, 3000))[0]["image"]
    assert item[0, 0].tolist() == pytest.approx([0, 0, 0.5, 1, 1], abs=1e-4)


def test_resize_agrees_with_pillow(tmp_path):
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.integers(0, 256, (90, 120, 3)).astype(np.uint8), (0, 0), 2)
    path = write(tmp_path / "noise.png", picture)
    ours = ImageSet(one(path), size=(40, 50))[0]["image"]
    theirs = np.asarray(Image.open(path).resize((50, 40), Image.BILINEAR), np.float32) / 255
    assert np.abs(ours.permute(1, 2, 0).numpy() - theirs).max() <= 1.01 / 255


def test_crop_is_central_for_image_and_mask(tmp_path):
    picture = np.zeros((8, 8), np.uint8)
    picture[2:6, 2:6] = 255
    image, mask = write(tmp_path / "i.png", picture), write(tmp_path / "m.png", picture // 255)
    item = ImageSet(one(image, mask, 1), size=8, crop=4)[0]
    assert item["image"].min() == 1
    assert item["mask"].all()


def test_exif_rotation_alpha_and_cmyk(tmp_path):
    tall = np.zeros((6, 4, 3), np.uint8)
    picture = Image.fromarray(tall)
    exif = picture.getexif()
    exif[0x0112] = 6  # lying on its side
    picture.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (4, 6, 3)
    assert image_shape(tmp_path / "turned.jpg") == (4, 6)
    picture.save(tmp_path / "turned.png", exif=exif)
    data = (tmp_path / "turned.png").read_bytes()
    start, end = data.index(b"eXIf") - 4, data.index(b"IDAT") - 4
    (tmp_path / "behind.png").write_bytes(data[:start] + data[end:-12] + data[start:end] + data[-12:])
    for name in ("turned.png", "behind.png"):  # PNG may carry it before or behind its pixels
        assert read_image(tmp_path / name).shape == (4, 6, 3)
        assert image_shape(tmp_path / name) == (4, 6)

    Image.fromarray(np.full((4, 4, 4), 100, np.uint8), "RGBA").save(tmp_path / "alpha.png")
    assert read_image(tmp_path / "alpha.png").shape == (4, 4, 3)
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg")
    assert read_image(tmp_path / "cmyk.jpg")[0, 0].tolist() == pytest.approx([255, 0, 0], abs=30)


def test_names_with_spaces_and_other_letters(tmp_path):
    path = write(tmp_path / "größe 日本 1.png", np.full((4, 4), 7, np.uint8))
    assert (read_image(path) == 7).all()


@pytest.mark.parametrize("foreground", [1, 7, 255])
def test_mask_foreground_is_every_value_above_zero(tmp_path, foreground):
    mask = np.zeros((6, 6), np.uint8)
    mask[1:3, 1:3] = foreground
    assert read_mask(write(tmp_path / "m.png", mask), (6, 6)).sum() == 4


def test_jpeg_mask_is_cut_at_half(tmp_path):
    path = tmp_path / "m.jpg"
    Image.fromarray(np.array([[0, 100, 140, 255]] * 4, np.uint8).repeat(8, 0).repeat(8, 1)).save(path, quality=95)
    columns = read_mask(path, (32, 32)).mean(0).reshape(4, 8).mean(1)
    assert columns.round().tolist() == [0, 0, 1, 1]


def test_bad_files_get_their_sentence(tmp_path):
    good = write(tmp_path / "good.png", np.random.default_rng(0).integers(0, 255, (32, 32)).astype(np.uint8))
    cases = {
        "empty.png": (b"", "is empty"),
        "text.png": (b"not an image", "cannot be decoded"),
        "cut.png": (good.read_bytes()[:40], "cannot be decoded"),
    }
    for name, (content, sentence) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name} {sentence}"):
            read_image(tmp_path / name)
    with pytest.raises(InputError, match=r"missing\.png cannot be read"):
        read_image(tmp_path / "missing.png")
    Image.fromarray(np.zeros((4, 4), np.int32)).save(tmp_path / "whole.tif")
    with pytest.raises(InputError, match="int32 values; adlib reads 8- and 16-bit"):
        read_image(tmp_path / "whole.tif")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp"])
def test_a_truncated_file_is_never_half_an_image(tmp_path, suffix):
    whole = write(tmp_path / f"cut{suffix}", np.random.default_rng(0).integers(0, 255, (99, 99, 3)).astype(np.uint8))
    whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    with pytest.raises(InputError, match="cannot be decoded"):
        read_image(whole)


def test_mask_of_another_size_is_named(tmp_path):
    image = write(tmp_path / "i.png", np.zeros((8, 8), np.uint8))
    mask = write(tmp_path / "m.png", np.ones((4, 8), np.uint8))
    with pytest.raises(InputError, match=r"m\.png is 8x4 pixels but .*i\.png is 8x8"):
        ImageSet(one(image, mask, 1), size=8).masks()


def test_a_mask_that_contradicts_its_label_is_named(tmp_path):
    image = write(tmp_path / "i.png", np.zeros((8, 8), np.uint8))
    half = np.repeat([[0, 0, 0, 0, 0, 1, 1, 1]], 8, 0).astype(np.uint8)
    empty, filled = (write(tmp_path / f"m{value}.png", value * half) for value in (0, 1))
    with pytest.raises(InputError, match=r"i\.png is labelled anomalous but its mask .*m0\.png is empty"):
        ImageSet(one(image, empty, 1), size=8)[0]
    with pytest.raises(InputError, match=r"i\.png is labelled normal but its mask .*m1\.png is not empty"):
        ImageSet(one(image, filled, 0), size=8).masks()


@pytest.mark.parametrize(
    "arguments",
    [{"size": 0}, {"size": (1, 2, 3)}, {"size": 8, "crop": 9}, {"size": 8, "window": (5, 5)}, {"resize": ["area"]}],
)
def test_wrong_settings_are_refused(tree, arguments):
    with pytest.raises(InputError):
        ImageSet(load_samples("folder", tree), **arguments)


def test_a_table_without_columns_is_refused():
    with pytest.raises(InputError, match="mask, label, split, category, group, defect is missing"):
        ImageSet(pd.DataFrame({"image": ["a.png"]}))


@pytest.mark.parametrize("absent", [None, float("nan")])
def test_a_mask_that_is_none_is_no_mask(tree, absent):
    """A table that went through a CSV file has NaN for an empty text: such an image would count as without defect."""
    samples = load_samples("folder", tree)
    samples["mask"] = samples["mask"].where(samples.index != samples.index[samples["label"] == 1][0], absent)
    assert not ImageSet(samples, size=16).has_masks


def test_a_table_that_went_through_a_csv_file_is_the_same(tree, tmp_path):
    samples = load_samples("folder", tree)
    samples.to_csv(tmp_path / "samples.csv", index=False)
    for options in ({}, {"dtype": str}):
        read = pd.read_csv(tmp_path / "samples.csv", **options)
        images = ImageSet(read, size=16)
        assert images.samples.astype(object).equals(samples.astype(object))
        assert images.labels.tolist() == samples["label"].tolist()


@pytest.mark.parametrize(
    ("column", "value", "sentence"),
    [
        ("label", 2, "has a label that is neither 0"),
        ("label", "bad", "has a label that is neither 0"),
        ("split", "Test", "has a split that is none of train, val, test"),
        ("image", None, "names no image in row 0"),
    ],
)
def test_a_table_with_other_values_is_refused(tree, column, value, sentence):
    with pytest.raises(InputError, match=sentence):
        ImageSet(load_samples("folder", tree).assign(**{column: value}))


def test_missing_masks_are_known(tree):
    samples = load_samples("folder", tree)
    assert ImageSet(samples).has_masks
    assert not ImageSet(samples.assign(mask="")).has_masks
    assert ImageSet(select(samples, label=0)).has_masks


def test_a_cache_of_no_name_is_none(tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ImageSet(load_samples("folder", tree), size=16, cache="")[0]["image"].shape == (3, 16, 16)
    assert not list(tmp_path.glob("*.npy"))


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_cache_changes_nothing(tree, tmp_path, depth):
    if depth == np.uint16:  # one 16-bit image among 8-bit ones
        write(tree / "thing" / "train" / "good" / "003.png", np.full((64, 64), 40000, np.uint16))
    samples = load_samples("folder", tree)
    plain, cached = ImageSet(samples, size=48, crop=32), ImageSet(samples, size=48, crop=32, cache=tmp_path / "cache")
    for index in range(len(samples)):
        assert torch.equal(plain[index]["image"], cached[index]["image"])
    assert sorted(file.suffix for file in (tmp_path / "cache").iterdir()) == [".lock", ".npy"]


@pytest.mark.parametrize("crop", [None, 40, 16, (16, 40)])
@pytest.mark.parametrize("shape", [(64, 64), (64, 32), (32, 64)])
def test_what_a_crop_takes_of_padded_images_counts_as_it_is(crop, shape, tmp_path):
    """A defect in the middle, one at the left edge and one across the crop's own."""
    mask = np.zeros(shape, np.uint8)
    mask[shape[0] // 2 - 2 : shape[0] // 2 + 2, shape[1] // 2 - 2 : shape[1] // 2 + 2] = 1
    mask[:2, :2] = 1
    mask[shape[0] // 2 + 5, shape[1] // 2 :] = 1
    image, file = write(tmp_path / "i.png", np.zeros(shape, np.uint8)), write(tmp_path / "m.png", mask)
    images = ImageSet(one(image, mask=str(file), label=1), size=64, fit="pad", crop=crop)
    left = images[0]["mask"].numpy()
    whole = ImageSet(one(image, mask=str(file), label=1), size=64, fit="pad")[0]["mask"].numpy()
    _, regions = cv2.connectedComponents(whole.astype(np.uint8), connectivity=8)
    top, start = ((64 - side) // 2 for side in left.shape)
    part = regions[top : top + left.shape[0], start : start + left.shape[1]]
    kept = [np.count_nonzero(part == number) / np.count_nonzero(regions == number) for number in (1, 2, 3)]
    truth = images.ground_truth()
    assert (truth["regions_lost"], truth["regions_cut"]) == (kept.count(0), sum(0 < share < 1 for share in kept))


@pytest.mark.parametrize("library", ["cv2", "PIL"])
def test_what_another_version_has_decoded_is_decoded_anew(library, tree, tmp_path, monkeypatch):
    image_cache.decoder.cache_clear()
    images = ImageSet(load_samples("folder", tree), size=32, cache=tmp_path)
    before = images.cache_file
    monkeypatch.setattr(f"{library}.__version__", "0.1")
    image_cache.decoder.cache_clear()
    assert images.cache_file != before
    image_cache.decoder.cache_clear()


def _fill_cache(root, cache):
    ImageSet(load_samples("folder", root), size=32, cache=cache)[0]


def test_two_processes_can_build_the_cache_at_once(tmp_path):
    root, cache = make_tree(tmp_path / "tree", train=40), tmp_path / "cache"
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_fill_cache, args=(root, cache)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    assert len(list(cache.glob("*.npy"))) == 1


def test_a_killed_builder_leaves_nothing_that_looks_whole(tmp_path):
    root, cache = make_tree(tmp_path / "tree", train=1000), tmp_path / "cache"
    builder = multiprocessing.get_context("fork").Process(target=_fill_cache, args=(root, cache))
    builder.start()
    while not list(cache.glob("*.partial")):
        assert builder.is_alive()
        time.sleep(0.002)
    builder.kill()
    builder.join(60)
    assert list(cache.glob("*.npy")) == []
    samples = load_samples("folder", root)
    cached, plain = ImageSet(samples, size=32, cache=cache), ImageSet(samples, size=32)
    assert all(torch.equal(cached.pixels(index), plain.pixels(index)) for index in (0, 200, len(samples) - 1))
    assert list(cache.glob("*.partial")) == []


def test_a_cache_that_finds_no_room_leaves_the_room_that_there_is(tmp_path):
    images = ImageSet(load_samples("folder", make_tree(tmp_path / "tree")), size=32, cache=tmp_path / "cache")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))  # of each file; a full disk fails in the same way
    try:
        with pytest.raises(OSError, match="File too large"):
            images.build_cache()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [file.name for file in (tmp_path / "cache").iterdir() if file.suffix != ".lock"] == []


@pytest.fixture(scope="module")
def oblong() -> np.ndarray:
    """A picture with edges and noise, uint8 [90, 121, 3], RGB."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (90, 121, 3)).astype(np.uint8)
    picture[20:60, 30:90] = cv2.GaussianBlur(picture, (0, 0), 2)[20:60, 30:90]
    picture[:, 60] = 0
    return picture


def as_levels(images: ImageSet) -> np.ndarray:
    """The first image of a set, in its 8-bit levels: float [H, W, 3]."""
    return images[0]["image"].permute(1, 2, 0).numpy() * 255


@pytest.mark.parametrize("size", [(40, 50), (150, 200)], ids=["smaller", "larger"])
@pytest.mark.parametrize("name", resizing.FILTERS)
def test_every_filter_gives_the_pixels_of_the_library_it_is_named_for(tmp_path, oblong, name, size):
    path = write(tmp_path / "oblong.png", cv2.cvtColor(oblong, cv2.COLOR_RGB2BGR))
    ours = as_levels(ImageSet(one(path), size=size, resize=name))
    pillow = {"antialias": Image.BILINEAR, "lanczos": Image.LANCZOS, "bicubic": Image.BICUBIC}
    opencv = {"linear": cv2.INTER_LINEAR, "area": cv2.INTER_AREA}
    if name in pillow:
        theirs = np.asarray(Image.fromarray(oblong).resize(size[::-1], pillow[name]), np.float32)
    else:
        theirs = cv2.resize(oblong, size[::-1], interpolation=opencv[name]).astype(np.float32)
    bound = 1 if name == "antialias" else 0
    assert np.abs(ours.round() - theirs).max() <= bound
    if name == "linear":  # and torch's without antialiasing, which some official codes call on floats
        tensor = torch.from_numpy(oblong).permute(2, 0, 1)[None].float()
        floats = torch.nn.functional.interpolate(tensor, size=size, mode="bilinear", align_corners=False)[0]
        assert np.abs(ours - floats.permute(1, 2, 0).numpy()).max() <= 1


@pytest.mark.parametrize("name", resizing.FILTERS)
def test_16_bits_are_resized_as_finely_as_8(tmp_path, oblong, name):
    grey = oblong[..., 0]
    eight = ImageSet(one(write(tmp_path / "8.png", grey)), size=(40, 50), resize=name)[0]["image"]
    sixteen = ImageSet(one(write(tmp_path / "16.png", grey.astype(np.uint16) * 257)), size=(40, 50), resize=name)
    assert (sixteen[0]["image"] - eight).abs().max() <= 1.5 / 255  # Pillow rounds 8 bits between its two passes too
    assert len(torch.unique(sixteen[0]["image"])) > len(torch.unique(eight))


@pytest.mark.parametrize(("turned", "crop"), [(False, 48), (True, 48), (False, None)])
def test_shorter_side_and_centre_crop_are_torchvisions(tmp_path, oblong, turned, crop):
    from torchvision.transforms import v2

    picture = np.ascontiguousarray(oblong.transpose(1, 0, 2)) if turned else oblong
    path = write(tmp_path / "oblong.png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    mask = write(tmp_path / "mask.png", (picture[..., 0] > 200).astype(np.uint8))
    images = ImageSet(one(path, mask, 1), size=64, crop=crop, sides="shorter", resize="lanczos")
    steps = v2.Compose([v2.Resize(64, v2.InterpolationMode.LANCZOS), v2.CenterCrop(crop or 64)])
    theirs = np.asarray(steps(Image.fromarray(picture)))
    assert np.array_equal(as_levels(images).round(), theirs)
    assert images.shape == theirs.shape[:2]
    assert images[0]["mask"].shape == images.shape
    saw = resizing.frame(picture.shape[:2], images.settings)
    long, part = int(64 * 121 / 90), crop or 64
    start = round((long - part) / 2) / long
    expected = (start, (64 - part) / 128, start + part / long, (64 + part) / 128)
    assert saw == pytest.approx((expected[1], expected[0], expected[3], expected[2]) if turned else expected)


def test_resizing_is_part_of_the_cache_and_of_the_settings(tmp_path, oblong):
    samples = one(write(tmp_path / "oblong.png", oblong))
    sets = [
        ImageSet(samples, size=32, cache=tmp_path / "cache", **setting)
        for setting in ({}, {"resize": "linear"}, {"resize": "lanczos"}, {"sides": "shorter"})
    ]
    assert len({images.cache_file for images in sets}) == len(sets)
    pictures = [images[0]["image"] for images in sets]
    assert not any(torch.equal(pictures[0], picture) for picture in pictures[1:])
    again = ImageSet(samples, **sets[3].settings)
    assert torch.equal(again[0]["image"], pictures[3])
    for wrong in ({"resize": "fast"}, {"sides": "longer"}, {"sides": "shorter", "size": (32, 48)}):
        with pytest.raises(InputError, match=r"resize=|sides="):
            ImageSet(samples, **wrong)


@pytest.mark.parametrize("size", [0, -3, 64.5, "64", (64,), (64, 64, 3), True, None, float("nan"), "fast"])
def test_a_size_that_is_none_gets_its_sentence(tree, size):
    samples = load_samples("folder", tree)
    with pytest.raises(InputError, match=r"^size=.* must be a number of pixels or a pair \(height, width\)\.$"):
        ImageSet(samples, size=size)
    with pytest.raises(InputError, match="window='wide' must be"):
        ImageSet(samples, size=64, window="wide")
