"""Files that others may have left: read with care, written as a whole.

A store may come from a colleague, from a disk that was full, or from a newer adlib. So nothing here waits for a pipe,
follows a link where a file is expected, or trusts a length; and what does not fit is an InputError with its reason.
"""

import csv
import io
import json
import math
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd

from adlib.errors import InputError

MEGABYTE = 1_000_000
DEEPEST = 50  # levels of a JSON file; ours have seven
# What a spreadsheet takes for the beginning of a formula; the last four are wide forms of the first four.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")


def read_bytes(file: Path, limit: int = 16 * MEGABYTE) -> bytes:
    """The content of a plain file. Raises InputError, with the reason, where there is none or it is above the limit."""
    try:
        kind = file.lstat().st_mode
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}).") from error
    except ValueError as error:  # a name with a zero byte
        raise InputError(f"{str(file)!r} is no name of a file ({error}).") from error
    if stat.S_ISLNK(kind):
        raise InputError(f"{file} is a link, not a file.")
    if not stat.S_ISREG(kind):
        raise InputError(f"{file} is a {'folder' if stat.S_ISDIR(kind) else 'pipe or device'}, not a file.")
    try:
        with file.open("rb") as opened:
            content = opened.read(limit + 1)
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}).") from error
    if len(content) > limit:
        raise InputError(f"{file} is larger than {limit / MEGABYTE:g} MB.")
    return content


def refuse_pipe(file: str | Path) -> None:
    """Raise InputError for a pipe or a device, which whoever opens it may wait for without end; links are followed.

    Of a folder, and of what is not there, the sentence comes from whoever opens it.
    """
    try:
        kind = Path(file).stat().st_mode
    except (OSError, ValueError):
        return
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        raise InputError(f"{file} is a pipe or device, not a file: take it out of the data.")


def read_json(file: Path, limit: int = 16 * MEGABYTE):
    """The content of a JSON file. Raises InputError for what is no JSON, and for NaN, numbers beyond float64, text that
    is no Unicode, and more than DEEPEST levels.
    """
    return parse_json(read_bytes(file, limit), str(file))


def parse_json(content: bytes, name: str):
    """`read_json` of what was read already. name: of the file, for the sentence."""
    try:
        value = json.loads(content.decode("utf-8"), parse_constant=_refuse)
        _check(value)
    except RecursionError as error:
        raise InputError(f"{name} is nested too deeply.") from error
    except ValueError as error:  # of JSON, of UTF-8, and those raised below
        raise InputError(f"{name} is damaged: {error}.") from error
    return value


def _refuse(constant: str):
    raise ValueError(f"it holds {constant}, which is no number of JSON")


def _check(value) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > DEEPEST:
            raise ValueError(f"it is nested more than {DEEPEST} levels deep")
        following = []
        for item in level:
            if isinstance(item, dict):
                following += [*item, *item.values()]
            elif isinstance(item, list):
                following += item
            elif isinstance(item, str):
                if not is_unicode(item):
                    raise ValueError(f"the text {item[:40]!a} is no Unicode")
            elif isinstance(item, int | float) and not is_finite(item):
                raise ValueError("it holds a number beyond what float64 can hold")
        level = following


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: names of files may hold bytes that Python reads and cannot write."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number beyond float64
        return False


def write_text(file: Path, text: str) -> None:
    """Write beside, then rename: the file is whole or as it was before, and a write that fails leaves nothing."""
    write_bytes(file, text.encode("utf-8", errors="backslashreplace"))


def write_bytes(file: Path, content: bytes) -> None:
    """`write_text` of bytes. Raises OSError for a full disk, and InputError where a folder has the file's name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial, partial.open("wb") as opened:
        opened.write(content)
        opened.flush()
        os.fsync(opened.fileno())  # on disk before it has its name: a power cut leaves no empty file


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """An empty file beside `file` to write into. It takes the file's name at the end, and is removed where something
    fails; its own name is nobody else's, so that two who write one file at once do not mix.

    Raises InputError where a folder has the file's name.
    """
    _refuse_folder(file)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name[:100]}.", suffix=".partial")
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o644)
        partial.replace(file)
    except BaseException as error:
        with suppress(OSError):
            partial.unlink()
        # Libraries in Rust, as safetensors, raise errors of their own where the system refused to write.
        if not isinstance(error, OSError) and (number := re.search(r"\(os error (\d+)\)", str(error))):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(file)) from error
        raise


# From the first bytes of a file, whether adlib may have written it as what it now wants to write.
WRITTEN = {
    "detector or weights": lambda start: start[8:9] == b"{" and b'"adlib"' in start,
    "page": lambda start: start[:15].lower() == b"<!doctype html>",
    "ONNX file": lambda start: start[:1] == b"\x08",
    "table": lambda start: b"\0" not in start,
    "findings": lambda start: start.startswith((b"image,score,", b"image,left,", b'{"method": ')),
}


def check_writable(file: Path, kind: str = "") -> None:
    """Raise InputError unless a file of this name can be written, before hours of work have nowhere to go.

    kind: of WRITTEN. A file that is there and is none of this kind would be lost, and is refused; an empty one is not.
    Makes the folder that it will lie in.
    """
    _refuse_folder(file)
    if kind:
        _refuse_others(file, kind)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=file.parent).close()
    except OSError as error:
        raise InputError(f"{file} cannot be written ({error.strerror}): choose another place.") from error


def _refuse_others(file: Path, kind: str) -> None:
    try:
        plain = stat.S_ISREG(file.stat().st_mode)
        start = b""
        if plain:
            with file.open("rb") as opened:
                start = opened.read(4096)
    except OSError:  # there is none, or whoever writes will say what is wrong
        return
    if not plain or (start and not WRITTEN[kind](start)):
        raise InputError(f"{file} is there and no {kind} of adlib's: it would be lost. Give another name.")


def _refuse_folder(file: Path) -> None:
    if file.is_dir() and not file.is_symlink():
        raise InputError(f"{file} is a folder, where a file is to be written: remove it or give another name.")


def csv_rows(text: str, separator: str = ",", strict: bool = False) -> dict[int, list[str]]:
    """The rows of a CSV text by the number of the line in which they end, counted from 1.

    Lines may end as on any system, cells may be of any length; rows of nothing but blanks are left out.

    strict: raise ValueError for quotes that do not end, or end within a cell.
    """
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # of the process; 131,072 characters if nobody asks
    reader, rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=strict), {}
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows[reader.line_num] = row
        return rows
    except csv.Error as error:
        raise ValueError(str(error)) from error


def spreadsheet_csv(table: pd.DataFrame) -> str:
    """A table as CSV that a spreadsheet opens without starting a formula: text that looks like one has a ' before it.

    `from_spreadsheet` takes it away again. Every text is quoted, so that a semicolon in it separates nothing either.
    """
    shown = table.map(lambda value: _guarded(value) if isinstance(value, str) else value)
    shown.columns = [_guarded(str(name)) for name in shown.columns]
    return shown.to_csv(index=False, quoting=2)  # csv.QUOTE_NONNUMERIC


def from_spreadsheet(text: str) -> str:
    """A cell as it was before `spreadsheet_csv` guarded it."""
    return text[1:] if text.startswith("'") and text.lstrip("'").startswith(FORMULA) else text


def _guarded(text: str) -> str:
    return f"'{text}" if text.lstrip("'").startswith(FORMULA) else text


def printable(text: object) -> str:
    """A text for a terminal: one line, without the characters that move its cursor or change its colours."""
    return "".join(each if each.isprintable() else " " if each in "\n\t" else repr(each)[1:-1] for each in str(text))
