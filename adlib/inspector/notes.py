"""Review notes: a mark and a text per image, kept in a CSV file that is saved at every change."""

import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
from filelock import FileLock

from adlib.errors import InputError

COLUMNS = ["image", "category", "defect", "label", "mark", "text", "written"]
MARKS = ("label noise", "mask wrong", "interesting")  # offered; any other word is a mark too
FILE = "review_notes.csv"


def notes_file(folders: list[Path]) -> Path:
    """Where notes are kept if nobody says: beside the folder of the predictions, in the folder that holds them all
    if there are several, and in the working folder if they were not loaded from disk.
    """
    parents = [str(Path(folder).absolute().parent) for folder in folders]
    return Path(os.path.commonpath(parents) if parents else Path.cwd()) / FILE


class ReviewNotes:
    """The notes in one CSV file, one row per image; columns COLUMNS, `written` in UTC.

    The file is read when opened, read again before every change (a second reviewer's notes are kept), and replaced
    as a whole, so that it is never half written. Raises InputError for a file that holds something else.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._table = self._read()

    def __len__(self) -> int:
        return len(self._table)

    def table(self) -> pd.DataFrame:
        """All notes, in the order in which the images were first noted."""
        return self._table.copy()

    def get(self, image: str) -> tuple[str, str]:
        """(mark, text) of an image, ("", "") if there is none."""
        rows = self._table[self._table["image"] == image]
        return ("", "") if rows.empty else (rows["mark"].iloc[0], rows["text"].iloc[0])

    def marks(self) -> dict[str, str]:
        """image -> mark of every note."""
        return dict(zip(self._table["image"], self._table["mark"], strict=True))

    def put(self, sample: pd.Series | dict, mark: str, text: str = "") -> None:
        """Keep a note on a sample (a row of the samples table) and save; an empty mark and text delete it."""
        mark, text = mark.strip(), text.strip()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=10):
            table = self._read()
            known = table["image"] == sample["image"]
            row = {name: str(sample[name]) for name in COLUMNS[:4]}
            row |= {"mark": mark, "text": text, "written": datetime.now(UTC).isoformat(timespec="seconds")}
            if not (mark or text):
                table = table[~known]
            elif known.any():
                table.loc[known, COLUMNS] = [list(row.values())]
            else:
                table = pd.concat([table, pd.DataFrame([row])], ignore_index=True)
            _write(table, self.path)
        self._table = table.reset_index(drop=True)

    def export(self, path: str | Path) -> Path:
        """Write a copy of all notes to another CSV file; returns its path."""
        _write(self._table, Path(path))
        return Path(path)

    def csv(self) -> str:
        """The notes as the text of the CSV file."""
        return self._table.to_csv(index=False)

    def _read(self) -> pd.DataFrame:
        if not self.path.exists():
            return pd.DataFrame(columns=COLUMNS, dtype=str)
        try:
            table = pd.read_csv(self.path, dtype=str, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise InputError(f"The review notes {self.path} cannot be read: {error}.") from error
        if list(table.columns) != COLUMNS:
            raise InputError(f"{self.path} holds no review notes: its columns are not {', '.join(COLUMNS)}.")
        return table


def _write(table: pd.DataFrame, path: Path) -> None:
    """Written beside and then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
        table.to_csv(file, index=False)
    Path(partial).chmod(0o644)
    Path(partial).replace(path)
