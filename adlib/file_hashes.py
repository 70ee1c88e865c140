"""Hashes of files, remembered: SHA-256 of all bytes, computed once for as long as a file stays what it is.

What is known of a file holds while its path, size, time of modification, time of status change, inode and device are
the same. Of these the time of status change cannot be set back by programs, so that a file edited in place is seen
whatever its other times say. (Windows keeps the time of creation in its place: there an edit that restores size and
time of modification is not seen.) A file that was changed within two seconds before it was read is read again the next
time, because a clock's tick may hide a further change.

Kept in the folder file_hashes of the user's cache: ADLIB_CACHE if that is set, else XDG_CACHE_HOME/adlib, else
~/.cache/adlib. One small file per folder of data, with a checksum, written beside and renamed: several processes may
write at once, and at worst hash a file twice. Where nothing can be written, files are hashed anew by each process.
Deleting the cache costs time and nothing else.

Cost on two busy cores: 38,501 small files (3CAD drawn with its full counts at 64 pixels: 27,039 images, 11,462 masks)
take 2 to 5 s the first time and 0.4 to 1 s from then on; large files take as long as they take to read.
"""

import hashlib
import json
import os
import stat
import time
import uuid
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from adlib.errors import InputError

THREADS = min(8, os.cpu_count() or 1)  # hashing and reading leave Python's lock
SETTLED = 2 * 10**9  # ns after its last change from which on a file's times tell every further one
MOST = 20_000  # files of the cache; beyond, the older half is deleted

Facts = tuple[int, int, int, int, int]  # size, time of modification, of status change (both ns), inode, device

_known: dict[Path, dict[str, list]] = {}  # file of the cache -> file's name -> [*facts, hash]


def cache_folder() -> Path:
    """The user's cache of adlib, whether it is there or not. Raises RuntimeError for a user without a home."""
    if os.environ.get("ADLIB_CACHE"):
        return Path(os.environ["ADLIB_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "adlib"


def absolute(files: Iterable[str | Path]) -> dict[str, str]:
    """Paths as given -> absolute ones without "..", as text. Each folder is looked at once: sets have many files."""
    found, folders = {}, {}
    for file in map(os.fspath, files):
        folder, _, name = file.rpartition(os.sep)
        if name in ("", ".", "..") or not folder:
            found[file] = os.path.abspath(file)  # noqa: PTH100  as text
            continue
        if folder not in folders:
            folders[folder] = os.path.abspath(folder).rstrip(os.sep)  # noqa: PTH100
        found[file] = f"{folders[folder]}{os.sep}{name}"
    return found


def file_hash(file: str | Path) -> str:
    """SHA-256 of one file, 64 hexadecimal digits. Raises InputError for a file that cannot be read."""
    return file_hashes([file])[os.fspath(file)]


def file_hashes(files: Iterable[str | Path]) -> dict[str, str]:
    """SHA-256 of files: path as given -> 64 hexadecimal digits.

    Raises InputError, naming the file, for one that cannot be read.
    """
    folders: dict[str, dict[str, str]] = {}  # folder -> name -> path as given
    for file, path in absolute(files).items():
        folder, _, name = path.rpartition(os.sep)
        folders.setdefault(folder, {})[name] = file
    found = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for folder, names in folders.items():
            known = _remembered(folder)
            missing = []
            for name, file in names.items():
                entry = known.get(name)
                if entry and tuple(entry[:5]) == _facts(os.stat, f"{folder}{os.sep}{name}"):
                    found[file] = entry[5]
                else:
                    missing.append(name)
            if missing:
                hashed = pool.map(_hash, [f"{folder}{os.sep}{name}" for name in missing])
                fresh = dict(zip(missing, hashed, strict=True))
                found |= {names[name]: value[-1] for name, value in fresh.items()}
                _remember(folder, {name: value for name, value in fresh.items() if len(value) > 1})
    return found


def folder_hash(folder: str | Path) -> str:
    """SHA-256 of the names and contents of all files below a folder, but hidden ones: the same wherever it lies."""
    folder = Path(folder)
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("[!.]*") if file.is_file()}
    hashes = file_hashes(files.values())
    listing = [(name, hashes[os.fspath(files[name])]) for name in sorted(files)]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def is_path(text: str) -> bool:
    """Whether a parameter's value names a file or a folder, rather than being a word."""
    try:
        path = Path(text).expanduser()
        path.is_file()
    except (OSError, ValueError, RuntimeError):  # too long for a name, or nobody's home
        return False
    # Without a slash, "bundled" stays a word also where somebody has a folder of that name.
    return path.is_file() or text.endswith(".safetensors") or ("/" in text and path.is_dir())


def content(value):
    """A parameter's value; of the path of a file or a folder, a hash of its content. In lists and dictionaries too."""
    if isinstance(value, dict):
        return {name: content(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [content(one) for one in value]
    if isinstance(value, str) and is_path(value):
        path = Path(value).expanduser()
        return folder_hash(path) if path.is_dir() else file_hash(path) if path.is_file() else value
    return value


def _facts(look, file) -> Facts:
    """What `look` says of a file: a path (os.stat) or a descriptor (os.fstat)."""
    try:
        about = look(file)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from error
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino, about.st_dev


def _hash(file: str) -> list:
    """[*facts, hash] of a file, or [hash] alone if it may have changed since without a trace."""
    try:
        if not stat.S_ISREG(Path(file).stat().st_mode):  # a pipe would be waited for without end
            raise InputError(f"{file} is a folder, pipe or device, not a file: take it out of the data.")
        with Path(file).open("rb") as stream:
            before = _facts(os.fstat, stream.fileno())
            value = hashlib.file_digest(stream, "sha256").hexdigest()
            after = _facts(os.fstat, stream.fileno())
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from error
    settled = before == after and time.time_ns() - max(after[1:3]) > SETTLED
    return [*after, value] if settled else [value]


def _remembered(folder: str) -> dict[str, list]:
    """name -> [*facts, hash] of the files of a folder, as far as this process or the cache knows them."""
    file = _cache_file(folder)
    if file is None:
        return {}
    if file not in _known:
        _known[file] = _read(file, folder)
    return _known[file]


def _remember(folder: str, fresh: dict[str, list]) -> None:
    """Add to what is known of a folder; what cannot be written stays known to this process."""
    file = _cache_file(folder)
    if file is None or not fresh:
        return
    _known[file].update(fresh)
    partial = file.with_name(f"{file.stem}.{uuid.uuid4().hex[:8]}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        there = {entry.name for entry in os.scandir(folder)}
        merged = _read(file, folder) | _known[file]  # another process may have written meanwhile
        content = json.dumps({"folder": folder, "files": {name: merged[name] for name in merged if name in there}})
        partial.write_text(f"{zlib.crc32(content.encode()):08x}\n{content}", encoding="ascii")
        if not file.exists():
            _make_room(file.parent)
        partial.replace(file)
    except OSError:  # no room, not writable: the next process hashes again
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _cache_file(folder: str) -> Path | None:
    try:
        return cache_folder() / "file_hashes" / f"{hashlib.sha256(os.fsencode(folder)).hexdigest()[:32]}.json"
    except RuntimeError:  # a user without a home
        return None


def _read(file: Path, folder: str) -> dict[str, list]:
    """What a file of the cache says; nothing if it is not there, cut or damaged."""
    try:
        checksum, _, content = file.read_text(encoding="ascii").partition("\n")
        if int(checksum, 16) != zlib.crc32(content.encode()):
            return {}
        found = json.loads(content)
        return found["files"] if found["folder"] == folder else {}
    except (OSError, ValueError):
        return {}


def _make_room(cache: Path) -> None:
    """Delete the older half of a cache that has grown too large, and what killed processes have left in it."""
    files = list(cache.iterdir())
    if len(files) >= MOST:
        for file in sorted(files, key=lambda one: one.stat().st_mtime)[: len(files) // 2]:
            file.unlink(missing_ok=True)
