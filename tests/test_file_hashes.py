"""Hashes of files: remembered while nothing changes, never believed when something did, never fatal."""

import hashlib
import json
import multiprocessing
import os
import time

import pytest

from adlib import InputError, file_hashes
from adlib.file_hashes import cache_folder, file_hash, folder_hash


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of its own, and no memory of what this process knows."""
    monkeypatch.setenv("ADLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(file_hashes, "_known", {})
    return tmp_path / "cache" / "file_hashes"


@pytest.fixture
def settled(monkeypatch):
    """Files count as settled at once, where a test would have to wait."""
    monkeypatch.setattr(file_hashes, "SETTLED", -1)


@pytest.fixture
def reads(monkeypatch):
    """The files that are read in full."""
    seen, hash_one = [], file_hashes._hash
    monkeypatch.setattr(file_hashes, "_hash", lambda file: seen.append(file) or hash_one(file))
    return seen


def make(folder, number: int = 3):
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{index}.bmp" for index in range(number)]
    for index, file in enumerate(files):
        file.write_bytes(bytes([index]) * 1000)
    return files


def forget(monkeypatch):
    """As a new process would begin."""
    monkeypatch.setattr(file_hashes, "_known", {})


def test_a_hash_is_that_of_the_bytes_and_is_read_once(cache, settled, reads, tmp_path, monkeypatch):
    files = make(tmp_path / "data")
    expected = {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    for _ in range(3):
        assert file_hashes.file_hashes(files) == expected
        forget(monkeypatch)
    assert len(reads) == 3


def test_an_edit_in_place_with_restored_times_is_seen(cache, settled, tmp_path, monkeypatch):
    file = make(tmp_path / "data")[0]
    before, times = file_hash(file), file.stat()
    time.sleep(0.02)  # the clock of the file system ticks every few milliseconds
    with file.open("r+b") as stream:
        stream.write(b"x")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (times.st_size, times.st_mtime_ns)
    assert file_hash(file) == hashlib.sha256(file.read_bytes()).hexdigest() != before


def test_what_has_just_changed_is_not_remembered(cache, reads, tmp_path):
    file = make(tmp_path / "data")[0]
    file_hash(file)
    file_hash(file)
    assert len(reads) == 2
    assert not cache.exists()


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: data.replace(b"a", b"b"), lambda _: b""])
def test_a_damaged_cache_is_not_believed(damage, cache, settled, tmp_path, monkeypatch):
    files = make(tmp_path / "data")
    expected = file_hashes.file_hashes(files)
    (entry,) = cache.iterdir()
    entry.write_bytes(damage(entry.read_bytes()))
    forget(monkeypatch)
    assert file_hashes.file_hashes(files) == expected


@pytest.mark.parametrize("trouble", ["a file in the way", "no home"])
def test_without_a_cache_hashes_are_the_same(trouble, settled, tmp_path, monkeypatch):
    forget(monkeypatch)
    if trouble == "no home":
        monkeypatch.setattr(file_hashes, "cache_folder", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    else:
        (tmp_path / "cache").write_text("")
        monkeypatch.setenv("ADLIB_CACHE", str(tmp_path / "cache"))
    file = make(tmp_path / "data")[0]
    for _ in range(2):
        assert file_hash(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_cache_follows_the_usual_variables(monkeypatch, tmp_path):
    monkeypatch.delenv("ADLIB_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "adlib"


def test_deleted_files_are_forgotten_and_others_kept(cache, settled, tmp_path, monkeypatch):
    files = make(tmp_path / "data")
    file_hashes.file_hashes(files[:2])
    forget(monkeypatch)  # another process, which knows the third alone
    files[0].unlink()
    file_hash(files[2])
    (entry,) = cache.iterdir()
    assert sorted(json.loads(entry.read_text().partition("\n")[2])["files"]) == ["1.bmp", "2.bmp"]


def test_a_cache_does_not_grow_without_end(cache, settled, tmp_path, monkeypatch):
    monkeypatch.setattr(file_hashes, "MOST", 4)
    for number in range(20):
        file_hash(make(tmp_path / str(number), 1)[0])
    assert len(list(cache.iterdir())) <= 4


def _hash_all(folder) -> None:
    file_hashes._known.clear()
    assert len(file_hashes.file_hashes(sorted(folder.iterdir()))) == 50


def test_several_processes_may_hash_at_once(cache, settled, tmp_path):
    make(tmp_path / "data", 50)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_hash_all, args=(tmp_path / "data",)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    (entry,) = cache.iterdir()
    assert len(file_hashes._read(entry, str(tmp_path / "data"))) == 50


def test_a_missing_file_is_named(cache, tmp_path):
    with pytest.raises(InputError, match=r"gone\.png cannot be read: No such file"):
        file_hash(tmp_path / "gone.png")


def test_a_folder_is_known_by_names_and_contents(cache, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        make(folder / "deep")
    assert folder_hash(one) == folder_hash(two)
    (two / "deep" / "0.bmp").rename(two / "deep" / "9.bmp")
    assert folder_hash(one) != folder_hash(two)
