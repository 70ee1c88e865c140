"""Picture files: formats, their orientation, their range, and the limits."""

import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from adlib import ImageSet, InputError
from adlib.decoding.pictures import image_shape, read_image
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
