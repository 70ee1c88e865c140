"""Picture files: formats, their orientation, their range, and the limits."""

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from adlib import ImageSet, InputError
from adlib.decoding.pictures import decode, image_shape, read_image
from adlib.samples import make_samples

CORNER = np.zeros((4, 6), np.uint8)
CORNER[0, 0] = 200
# orientation -> where the first pixel of the first row comes to lie
PLACES = {1: (0, 0), 2: (0, 5), 3: (3, 5), 4: (3, 0), 5: (0, 0), 6: (0, 3), 7: (5, 3), 8: (5, 0)}


def rewritten(file, tag, value):
    """Change a tag of a little-endian TIFF file with short values."""
    data = bytearray(file.read_bytes())
    offset = struct.unpack("<I", data[4:8])[0]
    for entry in range(offset + 2, offset + 2 + 12 * struct.unpack("<H", data[offset : offset + 2])[0], 12):
        if struct.unpack("<H", data[entry : entry + 2])[0] == tag:
            data[entry + 8 : entry + 10] = struct.pack("<H", value)
    file.write_bytes(data)
    return file


@pytest.mark.parametrize("orientation", PLACES)
@pytest.mark.parametrize("kind", ["tif", "tif 16", "tif float", "tif rgb", "png", "webp"])
def test_size_and_pixels_are_turned_alike(tmp_path, orientation, kind):
    suffix, _, form = kind.partition(" ")
    file = tmp_path / f"turned.{suffix}"
    values = {
        "16": CORNER.astype(np.uint16) * 257,
        "float": CORNER.astype(np.float32) / 255,
        "rgb": np.stack([CORNER] * 3, -1),
    }
    picture = Image.fromarray(values.get(form, CORNER))
    if suffix == "tif":
        picture.save(file, tiffinfo={274: orientation})
    else:
        exif = picture.getexif()
        exif[274] = orientation
        picture.save(file, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    read = read_image(file)
    assert image_shape(file) == read.shape[:2] == ((4, 6) if orientation < 5 else (6, 4))
    assert np.argwhere(read.reshape(*read.shape[:2], -1)[..., 0]).tolist() == [list(PLACES[orientation])]


@pytest.mark.parametrize(("kind", "top"), [(np.uint8, 255), (np.uint16, 65535), (bool, 255)])
def test_a_tiff_whose_zero_is_white_becomes_black_at_zero(tmp_path, kind, top):
    Image.fromarray(np.eye(4).astype(kind) if kind is bool else (np.eye(4) * top).astype(kind)).save(tmp_path / "w.tif")
    assert (read_image(rewritten(tmp_path / "w.tif", 262, 0)) == top - np.eye(4) * top).all()


def test_palettes_become_colours(tmp_path):
    picture = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    picture.putpalette([10, 20, 30, 40, 50, 60])
    for name in ("p.png", "p.tif"):
        picture.save(tmp_path / name)
        assert read_image(tmp_path / name).tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_floating_point_values_are_read_from_0_to_1_or_in_a_window(tmp_path):
    Image.fromarray(np.array([[0, 0.5, 1]], np.float32)).save(tmp_path / "unit.tif")
    assert read_image(tmp_path / "unit.tif").tolist() == [[0, 32768, 65535]]
    cv2.imwrite(str(tmp_path / "wide.tif"), np.array([[-100, 0, 300]], np.float64))
    with pytest.raises(InputError, match=r"wide\.tif holds float64 values from -100 to 300; .* give window"):
        read_image(tmp_path / "wide.tif")
    assert image_shape(tmp_path / "wide.tif") == (1, 3)
    samples = make_samples([{"image": str(tmp_path / "wide.tif")}], "test")
    pixels = ImageSet(samples, size=(1, 3), window=(-100, 300)).pixels(0)
    assert pixels[0, 0].tolist() == pytest.approx([0, 0.25, 1], abs=1e-4)
    Image.fromarray(np.array([[0, np.nan]], np.float32)).save(tmp_path / "nan.tif")
    with pytest.raises(InputError, match="no numbers"):
        read_image(tmp_path / "nan.tif")


def test_a_file_of_several_pictures_is_refused_and_a_thumbnail_is_none(tmp_path):
    page = Image.fromarray(CORNER)
    page.save(tmp_path / "pages.tif", save_all=True, append_images=[page, page])
    frames = [Image.fromarray(CORNER + add) for add in (0, 1, 2)]
    frames[0].save(tmp_path / "frames.webp", save_all=True, append_images=frames[1:], lossless=True)
    for name in ("pages.tif", "frames.webp"):
        with pytest.raises(InputError, match=rf"{name} holds 3 pictures"):
            read_image(tmp_path / name)
    page.encoderinfo = {}
    small = Image.fromarray(CORNER[::2, ::2])
    small.encoderinfo = {"tiffinfo": {254: 1}}
    page.save(tmp_path / "thumbnail.tif", save_all=True, append_images=[small])
    assert read_image(tmp_path / "thumbnail.tif").shape == (4, 6)


def test_an_opencv_from_before_4_13_is_silenced_too(tmp_path, monkeypatch):
    levels = []
    monkeypatch.delattr(cv2.utils, "logging")
    monkeypatch.setattr(cv2, "setLogLevel", lambda level: levels.append(level) or 3, raising=False)
    Image.fromarray(CORNER).save(tmp_path / "corner.png")
    assert read_image(tmp_path / "corner.png").shape == (4, 6)
    assert levels == [0, 3]


def test_a_very_large_picture_names_the_limit_and_how_to_raise_it(tmp_path, monkeypatch):
    Image.fromarray(CORNER).save(tmp_path / "large.png")
    monkeypatch.setenv("ADLIB_MAX_PIXELS", "23")
    for read in (read_image, image_shape):
        with pytest.raises(InputError, match=r"has 24 pixels, more than the limit of 23: .*ADLIB_MAX_PIXELS=24"):
            read(tmp_path / "large.png")
    monkeypatch.setenv("ADLIB_MAX_PIXELS", "24")
    assert read_image(tmp_path / "large.png").shape == (4, 6)
    monkeypatch.delenv("ADLIB_MAX_PIXELS")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3)  # Pillow would call this a decompression bomb
    assert image_shape(tmp_path / "large.png") == (4, 6)
    assert Image.MAX_IMAGE_PIXELS == 3


def test_a_damaged_tiff_header_is_one_sentence(tmp_path):
    (tmp_path / "cut.tif").write_bytes(b"II*\0\x08\0\0\0\x09")
    for read in (read_image, image_shape):
        with pytest.raises(InputError, match="TIFF header is damaged"):
            read(tmp_path / "cut.tif")


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_tiff_keeps_its_colours_where_it_is_transparent(tmp_path, compression, orientation):
    rgba = np.random.default_rng(0).integers(0, 256, (8, 6, 4), np.uint8)
    rgba[:4, :, 3] = 0
    file = tmp_path / "alpha.tif"
    Image.fromarray(rgba).save(file, compression=compression, tiffinfo={274: orientation})
    want = rgba if orientation == 1 else np.rot90(rgba, -1)
    assert (read_image(file) == want[..., :3]).all()
    assert (decode(file, alpha=True)[0] == want).all()


def big_endian_tiff(file, values, **tags):
    """Write grey values with the tags {name: (type, values)} beside those that every TIFF has."""
    number = {"bits": 258, "orientation": 274, "samples": 277, "extra": 338}
    height, width = values.shape[:2]
    entries = {256: (4, [width]), 257: (4, [height]), 258: (3, [8]), 259: (3, [1]), 262: (3, [1]), 278: (4, [height])}
    entries |= {277: (3, [1]), 279: (4, [values.nbytes])} | {number[name]: tag for name, tag in tags.items()}
    start = 8 + 2 + 12 * (len(entries) + 1) + 4
    entries[273] = (4, [start])
    data = b"MM\0*" + struct.pack(">IH", 8, len(entries))
    for tag, (kind, numbers) in sorted(entries.items()):
        packed = b"".join(struct.pack({3: ">H", 4: ">I"}[kind], each) for each in numbers)
        data += struct.pack(">HHI", tag, kind, len(numbers)) + packed[:4].ljust(4, b"\0")
    file.write_bytes(data + struct.pack(">I", 0) + values.astype(values.dtype.newbyteorder(">")).tobytes())
    return file


def test_several_values_of_an_orientation_turn_neither_size_nor_pixels(tmp_path):
    assert image_shape(big_endian_tiff(tmp_path / "t.tif", CORNER, orientation=(3, [6]))) == (6, 4)
    file = big_endian_tiff(tmp_path / "many.tif", CORNER, orientation=(3, [6] * 198))
    assert image_shape(file) == read_image(file).shape == (4, 6)
    second = big_endian_tiff(tmp_path / "twice.tif", CORNER)
    data = bytearray(second.read_bytes())
    data[10 + 12 * 3 : 12 + 12 * 3] = struct.pack(">H", 257)  # the compression's tag becomes a second height, of 1
    second.write_bytes(data)
    assert image_shape(second) == read_image(second).shape == (4, 6)


def test_16_bit_grey_with_alpha_is_refused_rather_than_read_as_8_bits(tmp_path):
    values = np.zeros((4, 6, 2), np.uint16)
    file = big_endian_tiff(tmp_path / "ga.tif", values, bits=(3, [16, 16]), samples=(3, [2]), extra=(3, [2]))
    with pytest.raises(InputError, match=r"ga\.tif holds 16-bit grey with alpha"):
        read_image(file)


@pytest.mark.parametrize("place", ["beyond 2**63", "2**62 tags", "2**35 tags"])
def test_a_damaged_bigtiff_header_is_one_sentence(tmp_path, place):
    count = {"beyond 2**63": 0, "2**62 tags": 2**62, "2**35 tags": 2**35}[place]
    offset = 16 if count else 2**63 + 5
    file = tmp_path / "big.tif"
    file.write_bytes(b"II+\0" + struct.pack("<HHQQ", 8, 0, offset, count) + b"\0" * 50)
    for read in (read_image, image_shape):
        with pytest.raises(InputError, match=r"big\.tif cannot be decoded as an image: its TIFF header is damaged\.$"):
            read(file)


@pytest.mark.parametrize(("kind", "place", "value"), [("GIF", 169, 255), ("AVIF", 77, 0)])
def test_a_damaged_file_of_another_format_is_one_sentence(tmp_path, kind, place, value):
    if kind not in Image.registered_extensions().values():
        pytest.skip(f"Pillow without {kind}")
    written = io.BytesIO()
    picture = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6))
    more = [Image.fromarray(255 - np.arange(24, dtype=np.uint8).reshape(4, 6))] if kind == "GIF" else []
    picture.save(written, kind, save_all=True, append_images=more)
    data = bytearray(written.getvalue())
    data[place] = value
    (tmp_path / "odd.png").write_bytes(data)
    for read in (read_image, image_shape):
        with pytest.raises(InputError, match=r"odd\.png cannot be decoded as an image: .*\.$"):
            read(tmp_path / "odd.png")


def bmp_file(file, data, bits, masks, header=40, compression=3, height=4):
    """Write a BMP of 6 x 4 pixels with bit masks."""
    after = struct.pack(f"<{len(masks)}I", *masks)
    after = after.ljust(header - 40, b"\0") if header > 40 else after
    about = struct.pack("<IiiHHIIiiII", header, 6, height, 1, bits, compression, len(data), 0, 0, 0, 0) + after
    start = 14 + len(about)
    file.write_bytes(b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + about + data)
    return file


@pytest.mark.parametrize("header", [40, 108, 124])
@pytest.mark.parametrize("height", [4, -4])
@pytest.mark.parametrize("order", ["rgb_", "_rgb", "bgr_", "_bgr", "gbr_"])
def test_a_bmp_with_masks_of_its_own_keeps_its_colours(tmp_path, header, height, order):
    rgb = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    stored = np.zeros((4, 6, 4), np.uint8)
    for place, channel in enumerate(order):  # the first byte in the file is the lowest
        if channel != "_":
            stored[..., place] = rgb[..., "rgb".index(channel)]
    masks = [0xFF << 8 * order.index(channel) for channel in "rgb"]
    file = bmp_file(tmp_path / "m.bmp", stored[:: -1 if height > 0 else 1].tobytes(), 32, masks, header, height=height)
    assert (read_image(file) == rgb).all()
    assert image_shape(file) == (4, 6)


def test_alpha_and_other_depths_of_a_bmp_follow_its_masks(tmp_path):
    rgba = np.random.default_rng(0).integers(0, 256, (4, 6, 4), np.uint8)
    masks = [0xFF, 0xFF00, 0xFF0000, 0xFF000000]
    file = bmp_file(tmp_path / "a.bmp", rgba[::-1].tobytes(), 32, masks, 108)
    assert (read_image(file) == rgba[..., :3]).all()
    assert (decode(file, alpha=True)[0] == rgba).all()
    deep = np.zeros((4, 6), "<u4")
    deep[0, 0], deep[3, 5] = 1023 << 20, 512 << 10 | 1023  # 10 bits each: red, and green with blue
    read = read_image(bmp_file(tmp_path / "deep.bmp", deep[::-1].tobytes(), 32, [0x3FF00000, 0xFFC00, 0x3FF]))
    assert read.dtype == np.uint16
    assert read[0, 0].tolist() == [65535, 0, 0]
    assert read[3, 5].tolist() == [0, round(512 * 65535 / 1023), 65535]
    small = np.full((4, 6), 0xF05, "<u2")
    read = read_image(bmp_file(tmp_path / "444.bmp", small.tobytes(), 16, [0xF00, 0xF0, 0xF]))
    assert (read == [255, 0, 85]).all()


@pytest.mark.parametrize(
    ("masks", "length", "said"),
    [
        ([0xFF0000, 0xFF00, 0xFF00], 96, "bit masks that make no sense"),
        ([0xFF0000, 0xF0F0, 0x0F], 96, "bit masks that make no sense"),
        ([0, 0xFF00, 0xFF], 96, "bit masks that make no sense"),
        ([0xFF, 0xFF00, 0xFF0000], 95, "truncated"),
    ],
)
def test_a_bmp_whose_masks_or_pixels_do_not_fit_is_refused(tmp_path, masks, length, said):
    file = bmp_file(tmp_path / "odd.bmp", bytes(length), 32, masks)
    with pytest.raises(InputError, match=rf"odd\.bmp .*{said}"):
        read_image(file)


def test_a_bmp_with_the_header_of_os2_keeps_its_colours(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (4, 8, 3), np.uint8)
    about = struct.pack("<IHHHH", 12, 8, 4, 1, 24)
    start = b"BM" + struct.pack("<IHHI", 26 + rgb.size, 0, 0, 26) + about
    file = tmp_path / "os2.bmp"
    file.write_bytes(start + rgb[::-1, :, ::-1].tobytes())
    assert (read_image(file) == rgb).all()
    assert image_shape(file) == (4, 8)
    grey = np.repeat(rgb[..., :1], 3, -1)
    file.write_bytes(start + grey[::-1].tobytes())
    assert (read_image(file) == grey[..., 0]).all()
    file.write_bytes(start + b"cut")
    with pytest.raises(InputError, match=r"os2\.bmp cannot be decoded as an image: it is truncated or damaged"):
        read_image(file)
