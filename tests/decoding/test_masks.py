"""Masks: what is foreground in a file, what is refused, and what becomes of it at another size."""

import io

import cv2
import numpy as np
import pytest
from conftest import write
from PIL import Image

from adlib import ImageSet, InputError, load_samples
from adlib.decoding.masks import fit_mask, inspect_mask, read_mask
from adlib.samples import make_samples

BOX = np.zeros((64, 64), bool)
BOX[20:30, 24:34] = True  # 100 pixels
TRUTH = np.where(BOX, 255, 0).astype(np.uint8)
CLASSES = np.zeros((64, 64), np.uint8)
CLASSES[2:8, 2:8], CLASSES[20:30, 20:30], CLASSES[40:42, 40:50] = 1, 2, 3  # 156 pixels
SMOOTH = np.asarray(Image.fromarray(TRUTH).resize((47, 47), Image.BILINEAR).resize((64, 64), Image.BILINEAR))
HEAT = np.exp(-(((np.arange(64) - 32) / 25) ** 2))
NOTHING = np.zeros_like(TRUTH)


def channels(*planes):
    return np.stack(planes, -1)


def palette(values, *colours):
    picture = Image.fromarray(values).convert("P")
    picture.putpalette([number for colour in colours for number in colour])
    return picture


def named(name, *values):
    return pytest.param(*values, id=name)


def saved(folder, picture, suffix=".png", **options):
    file = folder / f"mask{suffix}"
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    picture.save(file, **options)
    return file


@pytest.mark.parametrize(
    ("picture", "pixels"),
    [
        named("0 and 255", TRUTH, 100),
        named("0 and 1", TRUTH // 255, 100),
        named("one bit", BOX, 100),
        named("16 bit", BOX.astype(np.uint16) * 65535, 100),
        named("equal channels", channels(TRUTH, TRUTH, TRUTH), 100),
        named("opaque", channels(TRUTH, TRUTH, TRUTH, NOTHING + 255), 100),
        named("transparent where black", channels(TRUTH, NOTHING, NOTHING, TRUTH), 100),
        named("grey palette", Image.fromarray(TRUTH).convert("P", palette=Image.ADAPTIVE), 100),
    ],
)
def test_a_plain_mask_is_read_without_a_word(tmp_path, picture, pixels):
    reading = inspect_mask(saved(tmp_path, picture), (64, 64))
    assert reading.foreground.sum() == pixels


@pytest.mark.parametrize("kind", [np.float32, np.int32, bool])
def test_masks_in_tiff_files_of_any_type_are_read(tmp_path, kind):
    assert (read_mask(saved(tmp_path, BOX.astype(kind), ".tif"), (64, 64)) == BOX).all()


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".jpg", {"quality": 75}),
        (".png", {"format": "JPEG", "quality": 75}),
        (".webp", {"quality": 75}),
        (".tif", {"compression": "jpeg", "quality": 75}),
    ],
)
def test_a_lossy_mask_is_told_by_its_content_and_does_not_grow(tmp_path, suffix, options):
    reading = inspect_mask(saved(tmp_path, TRUTH, suffix, **options))
    assert (reading.foreground == BOX).all()
    assert "above 127.5 is foreground" in reading.said


def test_a_jpeg_saved_again_as_png_does_not_grow(tmp_path):
    picture = Image.open(saved(tmp_path, TRUTH, ".jpg", quality=30))
    assert (read_mask(saved(tmp_path, np.asarray(picture)), (64, 64)) == BOX).all()


@pytest.mark.parametrize("side", [24, 32, 47, 90, 200])
@pytest.mark.parametrize("scale", [1, 257, np.float32(1 / 255)])
def test_an_interpolated_mask_keeps_its_area(tmp_path, side, scale):
    small = Image.fromarray(TRUTH).resize((side, side), Image.BILINEAR)
    smooth = np.asarray(small.resize((64, 64), Image.BILINEAR))
    kind = {1: np.uint8, 257: np.uint16}.get(scale, np.float32)
    suffix = ".tif" if kind == np.float32 else ".png"
    assert abs(read_mask(saved(tmp_path, smooth.astype(kind) * kind(scale), suffix), (64, 64)).sum() - 100) <= 7


@pytest.mark.parametrize(
    "picture",
    [
        CLASSES,
        CLASSES * 80,
        CLASSES.astype(np.uint16),
        palette(CLASSES, (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)),
        channels(CLASSES == 1, CLASSES == 2, CLASSES == 3).astype(np.uint8) * 200,
    ],
    ids=["numbers", "grey areas", "16 bit", "palette", "colours"],
)
def test_every_class_is_foreground(tmp_path, picture):
    reading = inspect_mask(saved(tmp_path, picture))
    assert reading.foreground.sum() == 156
    assert reading.said


def blobs(top):
    mask = np.zeros((256, 256), np.uint8)
    for i in range(6):
        cv2.circle(mask, (20 + 40 * i, 60 + 30 * i), 2 + 3 * (i % 3), top, -1)
    return mask


@pytest.mark.parametrize("quality", [75, 85, 90, 95, 98, 100])
@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize("top", [40, 255])
@pytest.mark.parametrize("shape", ["blobs", "box"])
def test_traces_of_a_lossy_format_are_no_foreground_in_a_png(tmp_path, quality, kind, top, shape):
    truth = blobs(top) if shape == "blobs" else BOX.astype(np.uint8) * np.uint8(top)
    written = io.BytesIO()
    Image.fromarray(truth).save(written, kind, quality=quality)
    file = saved(tmp_path, np.asarray(Image.open(written).convert("L")))
    try:
        found = read_mask(file, truth.shape).sum()
    except InputError:
        assert kind == "WEBP"  # may lift a whole block by one level, like a class of its own: refused, and never grown
        return
    shrinks = 0.16 if (top, quality) == (40, 75) else 0.02  # the brightest pixel of a dim, poor file is much too bright
    assert -shrinks <= found / (truth > 0).sum() - 1 <= 0.02


def instances(side, apart, numbers):
    """Squares in rows of eight, numbered one by one."""
    mask = np.zeros((320, 320), np.uint8 if max(numbers) < 256 else np.uint16)
    for i, number in enumerate(numbers):
        y, x = (i // 8) * (side + apart) + 10, (i % 8) * (side + apart) + 10
        mask[y : y + side, x : x + side] = number
    return mask


@pytest.mark.parametrize("side", [2, 3, 4, 5, 6, 20])
@pytest.mark.parametrize("apart", [0, 2, 15])
@pytest.mark.parametrize("numbers", [range(1, 41), range(5, 205, 5), range(1000, 1280, 7), range(25, 256, 10)])
def test_every_instance_is_foreground(tmp_path, side, apart, numbers):
    mask = instances(side, apart, numbers)
    reading = inspect_mask(saved(tmp_path, mask))
    assert (reading.foreground == (mask > 0)).all()
    assert reading.said.startswith("grey areas")


@pytest.mark.parametrize("width", [1, 2, 3])
def test_lines_that_are_instances_are_foreground_where_they_cross(tmp_path, width):
    mask = np.zeros((320, 320), np.uint8)
    for i in range(30):
        ends = (5 + 10 * i, 2), ((5 + 70 * i) % 320, 317)
        cv2.line(mask, *ends, 7 * i + 7, width)
    assert (read_mask(saved(tmp_path, mask), mask.shape) == (mask > 0)).all()


def test_a_faint_class_is_foreground_where_it_is_flat_and_refused_where_it_is_thin(tmp_path):
    mask = np.where(BOX, 200, 0).astype(np.uint8)
    mask[40:50, 40:50] = 10
    assert read_mask(saved(tmp_path, mask), (64, 64)).sum() == 200
    mask[40:50, 40:50] = 0
    mask[40, 5:60] = 10
    with pytest.raises(InputError, match=r"dim values \(0, 10, 200\) that may be areas .* mask_rule=nonzero"):
        read_mask(saved(tmp_path, mask), (64, 64))


WHITE = (255, 255, 255)
REFUSED = {
    "inverted": (255 - TRUTH, {}, "is not 0 on 98% of its pixels and 100% of its border"),
    "inverted and smooth": (255 - SMOOTH, {}, "is not 0 on 98%"),
    "inverted, JPEG": (255 - TRUTH, {"suffix": ".jpg"}, "is not 0 on 9[78]%"),
    "1 and 2": (BOX + np.uint8(1), {}, r"holds no pixel of value 0 \(1, 2\)"),
    "all white": (NOTHING + 255, {}, "is 255 everywhere"),
    "brown": (np.where(BOX[..., None], [250, 50, 83], [120, 80, 40]).astype(np.uint8), {}, "holds no black"),
    "white palette": (palette(CLASSES, WHITE, (9, 0, 0), (0, 9, 0), (0, 0, 9)), {}, "holds no black"),
    "in alpha, black": (channels(NOTHING, NOTHING, NOTHING, TRUTH), {}, r"transparent in part \(alpha from 0 to 255\)"),
    "in alpha, white": (channels(*[NOTHING + 255] * 3, TRUTH), {}, "is 255 everywhere"),
    "to be ignored": (np.where(BOX, 1, np.roll(TRUTH, 4, 1)), {}, "class numbers beside 255"),
    "class numbers, JPEG": (CLASSES * 3, {"suffix": ".jpg"}, "that its lossy format has changed"),
    "colours, JPEG": (channels(TRUTH, NOTHING, NOTHING), {"suffix": ".jpg"}, "the colours run into each other"),
    "heat": ((255 * np.outer(HEAT, HEAT)).astype(np.uint8), {}, "areas of middling grey"),
    "negative": (BOX.astype(np.float32) - 1, {"suffix": ".tif"}, "negative values"),
    "NaN": (np.where(BOX, np.nan, 0).astype(np.float32), {"suffix": ".tif"}, "NaN"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_have_to_be_guessed_is_refused_with_what_was_seen(tmp_path, kind):
    picture, options, seen = REFUSED[kind]
    picture = picture if isinstance(picture, Image.Image) or picture.dtype != np.int64 else picture.astype(np.uint8)
    file = saved(tmp_path, picture, **options)
    with pytest.raises(InputError, match=seen) as raised:
        read_mask(file, (64, 64))
    assert str(file) in str(raised.value)


@pytest.mark.parametrize(
    ("rule", "picture"),
    [
        ("dark", 255 - TRUTH),
        ("dark", 255 - SMOOTH),
        ("background", BOX + np.uint8(1)),
        ("background", np.where(BOX[..., None], [250, 50, 83], [120, 80, 40]).astype(np.uint8)),
        ("alpha", channels(NOTHING, NOTHING, NOTHING, TRUTH)),
        ("nonzero", channels(TRUTH, NOTHING, NOTHING, NOTHING + 255)),
        ("half", np.where(BOX, 200, 90).astype(np.uint8)),
    ],
)
def test_a_rule_that_is_named_is_followed(tmp_path, rule, picture):
    assert abs(read_mask(saved(tmp_path, picture), (64, 64), rule=rule).sum() - 100) <= 1


def test_rules_are_taken_by_the_image_set_and_by_the_samples(tree):
    samples = load_samples("folder", tree)
    for file in samples["mask"][samples["mask"] != ""]:
        mask = cv2.imread(file, cv2.IMREAD_UNCHANGED)
        cv2.imwrite(file, 255 - mask)
    with pytest.raises(InputError, match="mask_rule=dark"):
        ImageSet(samples, size=64).masks()
    told = ImageSet(samples, size=64, mask_rule="dark")
    assert told.masks().sum() == 4 * 10 * 10
    assert ImageSet(told.samples, **told.settings).masks().sum() == 4 * 10 * 10
    with pytest.raises(InputError, match="mask_rule='bright' must be one of"):
        ImageSet(samples, mask_rule="bright")


def test_a_large_defect_in_the_middle_is_taken(tmp_path):
    assert read_mask(saved(tmp_path, np.pad(np.full((50, 50), 255, np.uint8), 7)), (64, 64)).sum() == 2500


# --- at another size


def specks(*places, side=1024, size=2):
    mask = np.zeros((side, side), bool)
    for top, left in places:
        mask[top : top + size, left : left + size] = True
    return mask


def test_a_speck_keeps_a_pixel_where_nearest_loses_it():
    mask = specks((101, 203), (108, 214), (500, 500))
    small, fate = fit_mask(mask, (256, 256))
    assert (fate.regions, fate.lost, fate.cut) == (3, 0, 0)
    assert cv2.connectedComponents(small.view(np.uint8))[0] - 1 == 3
    assert 3 <= small.sum() <= 6
    assert small[500 // 4, 500 // 4]
    small, fate = fit_mask(mask, (256, 256), how="nearest")
    assert fate.lost == 3 - (cv2.connectedComponents(small.view(np.uint8))[0] - 1) > 0


def test_a_scratch_thinner_than_a_pixel_keeps_its_length():
    mask = np.zeros((400, 400), bool)
    mask[201, 40:360] = True
    small, _ = fit_mask(mask, (100, 100))
    assert small.sum() == 80
    assert small[50, 10:90].all()


def test_areas_stay_the_same_on_average():
    rng = np.random.default_rng(0)
    ratio = []
    for _ in range(50):
        mask = np.zeros((300, 300), np.uint8)
        cv2.circle(mask, tuple(int(x) for x in rng.integers(60, 240, 2)), int(rng.integers(10, 50)), 1, -1)
        ratio.append(fit_mask(mask.astype(bool), (100, 100))[0].sum() * 9 / mask.sum())
    assert np.mean(ratio) == pytest.approx(1, abs=0.01)


def test_a_crop_counts_what_lies_outside_and_what_it_cuts():
    mask = specks((0, 0), (40, 40), side=100, size=10)
    mask[18:28, 50:60] = True  # half of it above the crop
    small, fate = fit_mask(mask, (100, 100), (25, 25), (50, 50))
    assert (fate.regions, fate.lost, fate.cut) == (3, 1, 1)
    assert small.sum() == 100 + 30


def test_a_mask_of_the_same_size_and_an_enlarged_one_are_unchanged():
    assert (fit_mask(BOX, (64, 64))[0] == BOX).all()
    assert (fit_mask(BOX, (128, 192))[0] == np.kron(BOX, np.ones((2, 3), bool))).all()
    assert (fit_mask(BOX, (128, 32))[0].sum()) == 100 * 2 / 2


def test_an_image_set_says_what_is_left_of_the_ground_truth(tmp_path):
    picture = write(tmp_path / "image.png", np.zeros((100, 100), np.uint8))
    other = write(tmp_path / "other.png", np.zeros((100, 100), np.uint8))
    corner = write(tmp_path / "corner.png", specks((0, 0), side=100).astype(np.uint8) * 255)
    both = write(tmp_path / "both.png", specks((0, 0), (50, 50), side=100).astype(np.uint8) * 255)
    samples = make_samples(
        [{"image": str(i), "mask": str(m), "label": 1} for i, m in ((picture, corner), (other, both))], "test"
    )
    left = ImageSet(samples, size=100, crop=50).ground_truth()
    assert left == {"images": 2, "images_lost": 1, "regions": 3, "regions_lost": 2, "regions_cut": 0}
    assert ImageSet(samples, size=50).ground_truth()["regions_lost"] == 0
