"""Lists in CSV files, in whatever encoding and with whatever separator a spreadsheet wrote them."""

from pathlib import Path

import pandas as pd

from adlib.errors import InputError
from adlib.files import csv_rows, refuse_pipe

SEPARATORS = (",", ";", "\t", "|")
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def read_list(file: Path) -> pd.DataFrame:
    """The cells of a CSV file as text, "" for empty ones; names of columns in small letters, without blanks around.

    Encodings: UTF-8 with and without mark, UTF-16, else Windows' Western one (cp1252), as which Latin-1 is read too.
    Separators: comma, semicolon, tab or |, whichever the first line has most of. Columns without name and cells are
    left out. The table's index is each row's line in the file, counted from 1.
    Raises InputError for a file that cannot be read, is empty, is no text, names a column twice, or has a line of more
    cells than names.
    """
    refuse_pipe(file)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}.") from error
    text = _text(data, file)
    lines = text.strip().splitlines() or [""]
    separator = max(SEPARATORS, key=lines[0].count)  # of equally many the first
    if "\0" in text:
        raise InputError(f"{file} is no text: save the list as CSV.")
    rows = {line: [cell.strip() for cell in row] for line, row in csv_rows(text, separator).items()}
    if not rows:
        raise InputError(f"{file} is empty: its first line names the columns, such as image,label,split.")
    longest = max(map(len, rows.values()))
    (_, names), *cells = [(line, row + [""] * (longest - len(row))) for line, row in rows.items()]
    names = [name.casefold() for name in names]
    numbers = [line for line, _ in cells]
    table = pd.DataFrame([row for _, row in cells], index=numbers, columns=range(longest), dtype=str)
    kept = []
    for place, name in enumerate(names):
        if name:
            kept.append(place)
        elif (table[place] != "").any():
            line = table.index[table[place] != ""][0]
            raise InputError(f"{file} has more cells in line {line} than names of columns in line 1 ({lines[0]!r}).")
    table = table[kept].set_axis([names[place] for place in kept], axis=1)
    if twice := sorted({name for name in table if list(table).count(name) > 1}):
        raise InputError(f"{file} names the column {twice[0]} twice.")
    return table


def need_images_named(table: pd.DataFrame, file: Path) -> None:
    """Raise InputError for a row of `read_list` whose cell of the column `image` is empty."""
    if unnamed := list(table.index[table["image"] == ""]):
        raise InputError(f"{file} names no image in line {unnamed[0]}: fill in the path, or take the line out.")


def _text(data: bytes, file: Path) -> str:
    marked = next((name for mark, name in _MARKS.items() if data.startswith(mark)), None)
    if marked is None and data[:200].count(0) > len(data[:200]) // 4:  # every other byte of Western text in UTF-16
        marked = "utf-16-le" if data[1:2] == b"\0" else "utf-16-be"
    for encoding in [marked] if marked else ["utf-8", "cp1252", "latin-1"]:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise InputError(f"{file} cannot be read as {marked} text, as its first bytes say it is: save it as CSV in UTF-8.")
