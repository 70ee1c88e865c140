"""The cache of decoded images: damage is noticed, rebuilt, never believed and never fatal."""

import shutil

import numpy as np
import pytest
import torch

from adlib import ImageSet, load_samples


def flipped(data: bytes, place: int, length: int = 1) -> bytes:
    return data[:place] + bytes(byte ^ 0xFF for byte in data[place : place + length]) + data[place + length :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: flipped(data, len(data) // 2),
        lambda data: flipped(data, 128 + 500, 3000),
        lambda data: flipped(data, len(data) - 6),  # a checksum
        lambda data: data[:-5000],
        lambda data: b"",
        lambda data: data.replace(b"'|u1'", b"'|i1'"),
        lambda data: data.replace(b"14, 3", b"13, 3"),
    ],
    ids=["a byte", "some kB", "a checksum", "cut", "empty", "another type", "another shape"],
)
@pytest.mark.parametrize("when", ["before it is opened", "while it is in use"])
def test_a_damaged_cache_is_rebuilt_and_never_believed(when, damage, tree, tmp_path):
    samples = load_samples("folder", tree)
    plain, cached = (ImageSet(samples, size=32, cache=folder) for folder in (None, tmp_path / "cache"))
    file = cached.build_cache()
    whole = file.read_bytes()
    if when == "while it is in use":
        assert torch.equal(cached.pixels(0), plain.pixels(0))
    file.write_bytes(damage(whole))
    # An image that was checked is not checked again: the first one may be damaged unseen while it is in use.
    for index in range(1, len(plain)):
        assert torch.equal(cached.pixels(index), plain.pixels(index))
    again = ImageSet(samples, size=32, cache=tmp_path / "cache")
    assert all(torch.equal(again.pixels(index), plain.pixels(index)) for index in range(len(plain)))
    assert file.read_bytes() == whole


def test_a_cache_that_is_deleted_or_cannot_be_rebuilt_is_not_fatal(tree, tmp_path, monkeypatch):
    samples = load_samples("folder", tree)
    plain, cached = (ImageSet(samples, size=32, cache=folder) for folder in (None, tmp_path / "cache"))
    cached.pixels(0)
    shutil.rmtree(tmp_path / "cache")
    assert torch.equal(cached.pixels(1), plain.pixels(1))
    monkeypatch.setattr(
        "adlib.decoding.image_cache.CachedImages.read", lambda *_: None
    )  # a disk that gives back other bytes
    assert torch.equal(cached.pixels(2), plain.pixels(2))
    assert cached.cache is None


def test_a_cache_can_be_opened_as_any_array(tree, tmp_path):
    cached = ImageSet(load_samples("folder", tree), size=32, cache=tmp_path)
    stored = np.load(cached.build_cache())
    assert stored.shape == (len(cached), 3, 32, 32)
    assert torch.equal(torch.from_numpy(stored[3]) / 255, cached.pixels(3))
