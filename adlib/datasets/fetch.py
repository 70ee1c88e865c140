"""Fetch a dataset that has a public address: download (a broken one is resumed), verify, unpack.

What comes from outside is not trusted: an archive may write only below its own folder and may hold nothing but files
and folders; it is unpacked beside its place and renamed when complete.
"""

import hashlib
import json
import shutil
import stat
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPResponse
from io import BufferedReader
from lzma import LZMAError
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import Request, urlopen

from filelock import FileLock
from tqdm.auto import tqdm

from adlib.datasets import facts
from adlib.errors import InputError
from adlib.files import read_json, write_text

CHUNK = 1 << 20  # bytes
TIMEOUT = 60  # seconds without a byte
ZENODO = "https://zenodo.org"
PLAIN = {".h5", ".hdf5", ".yaml", ".yml", ".json", ".csv", ".txt", ".md", ".pdf"}  # kept as they are, not unpacked


def fetch(name: str, out: str | Path, address: str | None = None, progress: bool = True) -> Path:
    """Download and unpack a dataset into the folder out/name; returns that folder, ready for `load_samples`.

    out: the folder of datasets (`--data`). The archives lie in it while they are needed, NAME.part until complete.
    address: fetch this http(s) address instead of the published ones (a mirror, a link from an e-mail). What comes
        from there cannot be verified.
    Call it again after a broken download to go on where it stopped, or put an archive fetched elsewhere into `out`.
    Raises InputError when the set has no public address (with what to do instead), the folder exists, there is no
    network, a download breaks off, the checksum differs, the disk is too small, the archive is damaged or unsafe.
    """
    about = facts(name)
    archives = ((address, "", 0),) if address else about.archives or _listed_by_zenodo(about.zenodo)
    if not archives:
        raise InputError(f"{about.title} has no address that adlib could fetch it from: {about.get}")
    out = Path(out).expanduser().resolve()
    folder = out / name
    places = [_place(url, name, out) for url, _, _ in archives]
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be made: {error.strerror}.") from error
    with FileLock(out / f".{name}.lock"):  # a second process waits, and then finds the folder
        if folder.exists():
            raise InputError(
                f"{folder} exists already: `adlib check {name} --root {folder}` says what is in it. "
                "Remove it, or choose another --out, to fetch anew."
            )
        present = sum(path.stat().st_size for file in places for path in (file, _part(file)) if path.exists())
        _need_space(out, 2 * sum(size for _, _, size in archives) - present, about.title)
        for (url, checksum, _), file in zip(archives, places, strict=True):
            _download(url, file, checksum, progress)
        staging = out / f"{name}.partial"
        shutil.rmtree(staging, ignore_errors=True)  # left by a killed process
        try:
            for file in places:
                _unpack(file, staging, progress)
            _content(staging, about.counts).rename(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        for file in places:
            file.unlink()
    return folder


def _listed_by_zenodo(record: str) -> tuple[tuple[str, str, int], ...]:
    """(address, checksum, bytes) of every file of a Zenodo record, as its API lists them; none without a record."""
    if not record:
        return ()
    url = f"{ZENODO}/api/records/{record}"
    try:
        with _ask(url) as response:
            files = json.load(response)["files"]
        return tuple(
            (f"{ZENODO}/records/{record}/files/{file['key']}?download=1", file["checksum"], int(file["size"]))
            for file in files
        )
    except (OSError, HTTPException) as error:
        why = getattr(error, "reason", error)
        raise InputError(
            f"{url} cannot be reached ({why}): it lists what to download. Without a network, fetch the files of "
            f"{ZENODO}/records/{record} elsewhere, and unpack them by hand."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{url} answers with something else than a list of files ({error}).") from error


def _content(staging: Path, categories: dict) -> Path:
    """What is to become the dataset's folder: the archive's only folder, unless that is one of the categories."""
    inside = list(staging.iterdir())
    if not inside:
        raise InputError("The archive holds no file; does its address lead to the data set?")
    wrapped = len(inside) == 1 and inside[0].is_dir() and inside[0].name not in categories
    return inside[0] if wrapped else staging


def _need_space(folder: Path, needed: int, what: str) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder} has {free / 1e9:.1f} GB free, and {what} needs about {needed / 1e9:.1f} GB (the archive and "
            "what it holds): choose another --out, or make room."
        )


# --- download


def _place(url: str, name: str, folder: Path) -> Path:
    """Where the archive of an address goes: DATASET-NAME in folder."""
    try:
        known = urlsplit(url).scheme in ("http", "https")
    except ValueError:  # brackets that do not match
        known = False
    if not known:
        raise InputError(f"{url} is no http or https address.")
    return folder / f"{name}-{Path(unquote(urlsplit(url).path)).name or 'archive'}"


def _part(file: Path) -> Path:
    return file.with_name(f"{file.name}.part")


def _download(url: str, file: Path, checksum: str, progress: bool) -> None:
    """Bring the archive of an address to `file`, by way of its .part, and verify it. What is there is not asked for."""
    if not file.exists():
        _receive(url, file, progress)
        _part(file).replace(file)
        _known(_part(file)).unlink(missing_ok=True)
    if checksum:
        algorithm, _, expected = checksum.lower().rpartition(":")
        algorithm = algorithm or "sha256"
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, algorithm).hexdigest()
        if not found.startswith(expected):
            file.unlink()
            raise InputError(
                f"{url} gave another file than the published one: {algorithm} {found}, expected {expected}. It is "
                "removed; call again, or fetch from elsewhere with --address."
            )


def _known(part: Path) -> Path:
    """Beside a .part: which file it is the beginning of. Its address, its size (0 for unknown), and the validator by
    which the server tells its versions apart.
    """
    return part.with_name(f"{part.name}.json")


def _receive(url: str, file: Path, progress: bool) -> None:
    """Append to the .part what is missing of it. What has arrived is kept when the connection breaks."""
    part, total = _part(file), 0
    try:
        response, start = _connect(url, part)
        if response is None:
            return
        with response:
            length = response.headers.get("Content-Length", "")
            total = start + int(length) if length.isdecimal() else 0
            _need_space(part.parent, 2 * total - start, file.name)
            shown = {"desc": file.name, "unit": "B", "unit_scale": True, "disable": not progress}
            with part.open("ab" if start else "wb") as opened, tqdm(total=total or None, initial=start, **shown) as bar:
                known = {"url": url, "size": total, "validator": _validator(response)}
                write_text(_known(part), json.dumps(known))
                while chunk := response.read(CHUNK):
                    opened.write(chunk)
                    bar.update(len(chunk))
    except HTTPError as error:
        raise InputError(f"{url} answers {error.code} ({error.reason}): {_by_hand(url, file)}") from error
    except URLError as error:
        raise InputError(f"{url} cannot be reached ({error.reason}): {_by_hand(url, file)}") from error
    except (OSError, HTTPException) as error:
        raise InputError(_broken(url, part, 0, error)) from error
    if total and part.stat().st_size < total:
        raise InputError(_broken(url, part, total, "the connection was closed"))


def _connect(url: str, part: Path) -> tuple[HTTPResponse | None, int]:
    """The response to "the rest of this very file" and the byte it really begins with; None when nothing is missing.

    Only what is known to be the beginning of the file that the server still has is gone on with; otherwise the download
    starts anew, and says so.
    """
    have = part.stat().st_size if part.exists() else 0
    if not have:
        return _ask(url), 0
    known = _read_known(part)
    if known.get("url") != url or not known.get("validator"):
        return _anew(url, part, "nothing says which file it is the beginning of")
    if known["size"] and have > known["size"]:
        return _anew(url, part, "it is longer than the file")
    try:
        response = _ask(url, have, known["validator"])
    except HTTPError as error:
        whole = error.code == 416 and error.headers.get("Content-Range", "").rpartition("/")[2] == str(have)
        if whole and known["size"] in (0, have):
            return None, have
        if error.code != 416:
            raise
        return _anew(url, part, "the server has another file")
    said = response.headers.get("Content-Range", "")
    if response.status != 206:  # the server sends the whole
        _say_anew(part, "the file has changed, or the server cannot go on within it")
        return response, 0
    same_size = not known["size"] or said.rpartition("/")[2] in ("*", str(known["size"]))
    if said.startswith(f"bytes {have}-") and same_size and _validator(response) in ("", known["validator"]):
        return response, have
    response.close()
    return _anew(url, part, "the server has another file")


def _anew(url: str, part: Path, why: str) -> tuple[HTTPResponse, int]:
    response = _ask(url)
    _say_anew(part, why)
    return response, 0


def _say_anew(part: Path, why: str) -> None:
    tqdm.write(f"adlib: {part.name} is not gone on with ({why}): the download starts anew.", file=sys.stderr)


def _read_known(part: Path) -> dict:
    try:
        known = read_json(_known(part))
    except InputError:
        return {}
    fits = isinstance(known, dict) and isinstance(known.get("size"), int) and isinstance(known.get("validator"), str)
    return known if fits else {}


def _validator(response: HTTPResponse) -> str:
    """By what the server can tell later whether it still has this file: a strong ETag, or the time of its last change.

    A weak one promises no equal bytes.
    """
    tag = response.headers.get("ETag", "").strip()
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "").strip()


def _ask(url: str, start: int = 0, validator: str = "") -> HTTPResponse:
    headers = {"User-Agent": "adlib"} | ({"Range": f"bytes={start}-", "If-Range": validator} if start else {})
    ascii_url = quote(url, safe="%:/?#[]@!$&'()*+,;=~")
    return urlopen(Request(ascii_url, headers=headers), timeout=TIMEOUT)


def _broken(url: str, part: Path, total: int, why: object) -> str:
    have = part.stat().st_size if part.exists() else 0
    return (
        f"{url} broke off after {have}{f' of {total}' if total else ''} bytes ({why}). They are kept in {part}: "
        "call again to go on."
    )


def _by_hand(url: str, file: Path) -> str:
    return f"without a network, fetch it elsewhere, put it here as {file}, and call again."


# --- unpack


def _unpack(archive: Path, folder: Path, progress: bool) -> None:
    """Write an archive's files below folder. Raises InputError for a damaged archive or an unsafe member."""
    folder.mkdir(parents=True, exist_ok=True)
    if archive.suffix.lower() in PLAIN:
        shutil.copy2(archive, folder / archive.name)
        return
    try:
        for name, open_member in tqdm(_members(archive), desc=f"unpack {archive.name}", disable=not progress):
            target = folder / _safe(name, archive)
            if open_member is None:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with open_member() as source, target.open("wb") as opened:
                shutil.copyfileobj(source, opened, CHUNK)
    except OSError as error:
        if error.errno is None:  # raised by a decompressor, not by the disk
            raise InputError(_damaged(archive, error)) from error
        raise InputError(f"{archive} cannot be unpacked into {folder}: {error.strerror}.") from error
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, LZMAError, EOFError, RuntimeError) as error:
        raise InputError(_damaged(archive, error)) from error


def _damaged(archive: Path, error: Exception) -> str:
    return f"{archive} cannot be unpacked ({error}): it may be damaged. Remove it and fetch it again."


def _members(archive: Path) -> Iterator[tuple[str, Callable[[], BinaryIO] | None]]:
    """(name, how to open it) of every file, (name, None) of every folder. Raises InputError for anything else."""
    if tarfile.is_tarfile(archive):
        with tarfile.open(archive) as opened:
            for member in opened:
                if not (member.isfile() or member.isdir()):
                    raise InputError(_refused(archive, member.name, "is a link or a device"))
                yield member.name, None if member.isdir() else (lambda m=member: opened.extractfile(m))
            _need_end_mark(opened)
    elif zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            _need_space(archive.parent, sum(entry.file_size for entry in opened.infolist()), archive.name)
            for entry in opened.infolist():
                kind = stat.S_IFMT(entry.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise InputError(_refused(archive, entry.filename, "is a link or a device"))
                if not entry.filename.startswith("__MACOSX/"):  # a Mac's notes about the files, no part of the data
                    yield entry.filename, None if entry.is_dir() else (lambda e=entry: opened.open(e))
    else:
        archive.unlink()
        raise InputError(f"{archive.name} was no zip or tar archive, and is removed: does its address lead to a page?")


def _need_end_mark(opened: tarfile.TarFile) -> None:
    # tarfile takes a spoilt or missing header for the end. A compressed archive has checksums of its own.
    if isinstance(opened.fileobj, BufferedReader):
        opened.fileobj.seek(opened.offset)
        if opened.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"no end mark at byte {opened.offset}")


def _safe(name: str, archive: Path) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or PureWindowsPath(name).drive:
        raise InputError(_refused(archive, name, "would be written outside the dataset's folder"))
    return path


def _refused(archive: Path, name: str, why: str) -> str:
    return f"{archive} is not unpacked: its member {name!r} {why}, as in no honest dataset. Remove the archive."
