"""Review notes: a mark and a text per image, kept in a CSV file that is saved at every change."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from filelock import FileLock

from adlib.errors import InputError
from adlib.files import MEGABYTE, csv_rows, from_spreadsheet, read_bytes, spreadsheet_csv, write_text

COLUMNS = ["image", "category", "defect", "label", "mark", "text", "written"]
MARKS = ("label noise", "mask wrong", "interesting")  # offered; any other word is a mark too
FILE = "review_notes.csv"


class Note(NamedTuple):
    """A word and a text on an image; both empty where there is no note."""

    mark: str
    text: str


class NoteConflict(InputError):
    """Somebody else has changed the note on an image since it was read: nothing is saved.

    theirs: the note in the file; mine: the one that was to be saved. `ReviewNotes.put` with seen=theirs writes over it.
    """

    def __init__(self, image: str, theirs: Note, mine: Note):
        was = f"now reads {theirs.mark!r}, {theirs.text!r}" if any(theirs) else "was deleted"
        super().__init__(
            f"The note on {image} {was}: somebody changed it meanwhile. Yours is not saved: {tuple(mine)}."
        )
        self.image, self.theirs, self.mine = image, theirs, mine


def notes_file(folders: list[Path]) -> Path:
    """Where notes are kept if nobody says: beside the folder of the predictions, in the folder that holds them all
    if there are several, and in the working folder if they were not loaded from disk.
    """
    parents = [str(Path(folder).absolute().parent) for folder in folders]
    return Path(os.path.commonpath(parents) if parents else Path.cwd()) / FILE


class ReviewNotes:
    """The notes in one CSV file, one row per image; columns COLUMNS, `written` in UTC.

    The file is read when opened, read again before every change (a second reviewer's notes are kept), and replaced
    as a whole, so that it is never half written. A note that somebody else has written since this one was read is not
    written over, see `put`. Raises InputError for a file that holds something else.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._table = self._read()
        self._seen = _notes(self._table)

    def __len__(self) -> int:
        return len(self._table)

    def table(self) -> pd.DataFrame:
        """All notes, in the order in which the images were first noted."""
        return self._table.copy()

    def get(self, image: str) -> Note:
        """(mark, text) of an image, ("", "") if there is none."""
        self._seen[image] = _notes(self._table[self._table["image"] == image]).get(image, Note("", ""))
        return self._seen[image]

    def marks(self) -> dict[str, str]:
        """image -> mark of every note."""
        return dict(zip(self._table["image"], self._table["mark"], strict=True))

    def put(self, sample: pd.Series | dict, mark: str, text: str = "", seen: tuple[str, str] | None = None) -> None:
        """Keep a note on a sample (a row of the samples table) and save; an empty mark and text delete it.

        seen: the note that this one takes the place of, as its writer saw it; if not given, what `get` last gave, or
        the file held when it was opened. Raises NoteConflict, and saves nothing, where the file holds another one, and
        InputError where the file cannot be written.
        """
        mine, image = Note(_one_line(mark), _plain(text)), str(sample["image"])
        seen = Note(*seen) if seen is not None else self._seen.get(image, Note("", ""))
        with _in_a_sentence(self.path), self._locked():
            table = self._read()
            known = table["image"] == image
            theirs = _notes(table[known]).get(image, Note("", ""))
            if theirs not in (seen, mine):
                self._table = table
                raise NoteConflict(image, theirs, mine)
            row = {name: str(sample[name]) for name in COLUMNS[:4]} | mine._asdict()
            row |= {"written": datetime.now(UTC).isoformat(timespec="seconds")}
            if not any(mine):
                table = table[~known]
            elif known.any():
                table.loc[known, COLUMNS] = [list(row.values())]
            else:
                table = pd.concat([table, pd.DataFrame([row])], ignore_index=True)
            write_text(self.path, spreadsheet_csv(table))
        self._table = table.reset_index(drop=True)
        self._seen[image] = mine

    def export(self, path: str | Path) -> Path:
        """Write a copy of all notes to another CSV file; returns its path. Raises InputError where that cannot be."""
        with _in_a_sentence(path):
            write_text(Path(path), self.csv())
        return Path(path)

    def csv(self) -> str:
        """The notes as the text of the CSV file: no cell of it starts a formula in a spreadsheet."""
        return spreadsheet_csv(self._table)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=10):
            yield

    def _read(self) -> pd.DataFrame:
        try:
            self.path.lstat()
        except (FileNotFoundError, NotADirectoryError):  # `put` says what is wrong with the place
            return pd.DataFrame(columns=COLUMNS, dtype=str)
        except OSError as error:  # a name too long, a folder that is closed to us
            raise InputError(f"The review notes {self.path} cannot be read: {error.strerror}.") from error
        try:
            text = read_bytes(self.path, 200 * MEGABYTE).decode("utf-8-sig")  # spreadsheets put a mark before it
            rows = csv_rows(text, strict=True)
        except (InputError, ValueError) as error:
            raise InputError(f"The review notes {self.path} cannot be read: {error}.") from error
        first, *others = {line: _fitted(row) for line, row in rows.items()}.items() or [(0, [])]
        if first[1] != COLUMNS:
            raise InputError(f"{self.path} holds no review notes: its columns are not {', '.join(COLUMNS)}.")
        for line, row in others:
            if len(row) > len(COLUMNS):
                raise InputError(
                    f"The review notes {self.path} have {len(row)} cells in line {line}, and {len(COLUMNS)} columns: "
                    "put a text with a comma in quotes."
                )
        return pd.DataFrame([row for _, row in others], columns=COLUMNS, dtype=str).map(from_spreadsheet)


@contextmanager
def _in_a_sentence(path: str | Path) -> Iterator[None]:
    """InputError for a place that cannot be written: its folder is a file, or closed to us. A full disk is no such."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        why = error.strerror or "another process keeps it locked"
        raise InputError(f"The review notes {path} cannot be written ({why}): name another file.") from error


def _fitted(row: list[str]) -> list[str]:
    """A row with as many cells as there are columns; longer only where it says something there."""
    row = row + [""] * (len(COLUMNS) - len(row))
    while len(row) > len(COLUMNS) and not row[-1].strip():
        row = row[:-1]
    return row


def _notes(table: pd.DataFrame) -> dict[str, Note]:
    """image -> note; of a file with two rows for an image, the first."""
    rows = table.drop_duplicates("image")
    return dict(zip(rows["image"], map(Note, rows["mark"], rows["text"]), strict=True))


def _plain(text: str) -> str:
    """A text with line feeds alone between its lines, and without other characters that do not print."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    kept = "".join(each for each in lines if each in "\n\t" or ord(each) >= 32)
    return kept.encode("utf-8", errors="replace").decode("utf-8").strip()


def _one_line(text: str) -> str:
    return " ".join(_plain(text).split())
