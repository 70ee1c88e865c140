"""The store: a folder of finished and failed runs, safe against kills, full disks and a second writer.

<store>/<key>/record.json      the record; a folder of this name is whole, never half a run
<store>/<key>/run.ipynb        the executed notebook
<store>/<key>/run.log          what the kernel printed, and when which cell began
<store>/<key>/predictions/     scores, maps, samples
<store>/.<key>.partial/        a run under way, or one that was killed; its checkpoint is gone on from, all else dropped
<store>/.locks/<key>.lock      held by the process that executes the run; the system frees it on a kill
"""

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd
from filelock import FileLock, Timeout

from adlib.errors import InputError
from adlib.file_hashes import file_hashes
from adlib.files import read_json
from adlib.runs.record import FINISHED, write_record
from adlib.runs.schema import KEY, record_problem
from adlib.runs.titles import stored_titles

# In the folder of a run that was killed, this outlives the kill: progress of the training, and what is known of earlier
# attempts.
KEPT = ("checkpoint", "attempts.json")
SMALL = 16_000_000  # bytes of a file that is looked through whenever the store is asked whether a run is whole


class Busy(Exception):
    """Another process is working on the run."""


def check_is_output(out: Path) -> Path:
    """`out`, if it is a folder that `adlib run` or `adlib reproduce` has written into; raises InputError otherwise."""
    if not any((out / name).is_dir() for name in ("runs", "notebooks", "plans")):
        there = "has no runs, notebooks or plans in it" if out.is_dir() else "is no folder"
        raise InputError(f"{out} {there}: give the folder that was the --out of `adlib run` or `adlib reproduce`.")
    return out


class Store:
    """The runs below a folder."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def path(self, key: str) -> Path:
        """Where a run's record, notebook and predictions are, if it has ended."""
        return self.folder / key

    def record(self, key: str) -> dict | None:
        """The record of a run that has ended, well or not; None if there is none that fits its form (see `damaged`)."""
        return self._read(key)[0]

    def _read(self, key: str) -> tuple[dict | None, str]:
        """The record of a run, or None and why there is none; both None and "" where the run is not there at all."""
        folder = self.path(key)
        if folder.is_symlink() or not folder.is_dir():
            there = folder.is_symlink() or folder.exists()
            return None, f"{folder} is no folder of a run" if there else ""
        try:
            record = read_json(folder / "record.json")
        except InputError as error:
            return None, str(error).rstrip(".")
        problem = record_problem(record, key)
        return (None, f"{folder / 'record.json'} is no record: {problem}") if problem else (record, "")

    def is_finished(self, key: str) -> bool:
        """Whether the run ended well and is whole, so that it need not be done again.

        Whole: every file that the record names is there with the size, and unless it is large the content, that it had.
        """
        record = self.record(key)
        if record is None or record["status"] != FINISHED:
            return False
        return not _cut(self.path(key), record)

    def running(self) -> set[str]:
        """The keys of the runs that some process is working on now."""
        keys = {partial.name[1:].partition(".")[0] for partial in self.folder.glob(".*.partial")}
        return {key for key in keys if self._is_locked(key)}

    def _is_locked(self, key: str) -> bool:
        try:
            with FileLock(self._lock_file(key), timeout=0):
                return False
        except Timeout:
            return True
        except OSError:  # a store that cannot be written is one that nobody works in
            return False

    def _lock_file(self, key: str) -> Path:
        return self.folder / ".locks" / f"{key}.lock"

    def records(self) -> list[dict]:
        """The records of all runs that have ended, oldest first."""
        found = [record for record in map(self.record, self._keys()) if record]
        return sorted(found, key=lambda record: record.get("ended", ""))

    def damaged(self) -> dict[str, str]:
        """Why a run cannot be taken for done, by its key: its record does not fit, or its files are not those that the
        record names. Such a run is done again.
        """
        found = {}
        for key in self._keys():
            record, problem = self._read(key)
            problem = problem or _cut(self.path(key), record)
            if problem:
                found[key] = problem
        return found

    def _keys(self) -> list[str]:
        return sorted(entry.name for entry in self.folder.glob("[0-9a-f]*") if KEY.fullmatch(entry.name))

    def table(self, **conditions: str) -> pd.DataFrame:
        """One row per run that has ended: key, status, dataset, category, method, seed, a title that tells it from all
        others, its metrics, seconds per phase, peak memory, whether on a phantom, when it ended, and of a failed one
        kind and reason.

        conditions: only the rows in which these columns have these values: table(method="patchcore", status="failed").
        """
        rows, records = [], self.records()
        for record, title in zip(records, stored_titles(records), strict=True):
            run = record["run"]
            row = {"key": record["key"], "status": record["status"]}
            row |= {name: run.get(name, "") for name in ("dataset", "category", "method", "seed")}
            row |= {"title": title}
            row |= record.get("metrics", {})
            row |= {f"{phase}_seconds": value for phase, value in record.get("seconds", {}).items()}
            row |= {"peak_memory_mib": record.get("peak_memory_mib"), "ended": record.get("ended", "")}
            row |= {"phantom": bool(record.get("data", {}).get("phantom"))}
            rows.append(row | {"kind": record.get("kind", ""), "reason": record.get("reason", "")})
        table = pd.DataFrame(rows)
        for column, value in conditions.items():
            table = table[table[column].astype(str) == str(value)] if len(table) else table
        return table.reset_index(drop=True)

    def check_writable(self) -> None:
        """Raise InputError, with the sentence that helps, if nothing can be written here."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder) as file:
                file.write(b" " * 4096)
        except OSError as error:
            raise InputError(
                f"Nothing can be written into {self.folder} ({error.strerror}): make room or give another --out."
            ) from error

    @contextmanager
    def claim(self, key: str, wait: float = -1, again: bool = False) -> Iterator[Path | None]:
        """Work on a run alone: yields a folder to work in, or None if the run is finished by now.

        The folder is empty but for what an attempt that failed or was killed has left: its checkpoint, attempts.json.
        wait: how many seconds to wait while another process works on the same run, before Busy is raised; -1 for ever.
        What is in the folder when the block ends becomes the run, at once and whole, if a record is in it; otherwise
        it is dropped, but for a checkpoint. again: work on it even if it is finished; a finished run is then replaced
        by a finished one alone.
        """
        self._lock_file(key).parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._lock_file(key), timeout=wait)
        try:
            lock.acquire()
        except Timeout as error:
            raise Busy(key) from error
        try:
            finished = self.is_finished(key)
            if finished and not again:
                yield None
                return
            partial = self.partial(key)
            if partial.is_symlink() or not partial.is_dir():
                _replace(partial)
            partial.mkdir(exist_ok=True)
            _delete(entry for entry in _entries(partial) if not _outlives(entry))
            ended = [] if self.path(key).is_symlink() else self.path(key).glob("checkpoint*")
            for checkpoint in ended:  # of a failed run that may go on
                checkpoint.replace(partial / checkpoint.name)
            try:
                yield partial
                if (partial / "record.json").exists() and not (finished and _status(partial) != FINISHED):
                    _delete([partial / "attempts.json"])  # the record has them
                    _replace(self.path(key))  # a failed attempt or a damaged run
                    partial.replace(self.path(key))
            finally:
                resumable = any(entry.name.startswith("checkpoint") for entry in _entries(partial))
                _delete([entry for entry in _entries(partial) if not _outlives(entry)] if resumable else [partial])
        finally:
            lock.release()

    def delete(self, key: str) -> bool:
        """Delete a run with all that it has left, a killed one's checkpoint too; False while some process works on it.

        Half deleted, by a kill, it is what a run is that was killed: nothing that looks finished.
        """
        self._lock_file(key).parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self._lock_file(key), timeout=0):
                partial = self.partial(key)
                if partial.exists() or partial.is_symlink():
                    _replace(partial)
                if self.path(key).exists() or self.path(key).is_symlink():
                    self.path(key).replace(partial)
                    _replace(partial)
        except Timeout:
            return False
        return True

    def partial(self, key: str) -> Path:
        """Where a run is worked on, and where one that was killed has left its progress."""
        return self.folder / f".{key}.partial"

    def claimed_key(self, folder: Path) -> str:
        """The key of the run that a claimed folder is for."""
        return folder.name.removeprefix(".").removesuffix(".partial")

    def write_failure(self, folder: Path, record: dict) -> None:
        """Leave a failed run's record in its claimed folder."""
        write_record(folder, record)


def _status(folder: Path) -> str:
    return read_json(folder / "record.json").get("status", "")


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _outlives(entry: Path) -> bool:
    """Whether an entry of a killed run's folder is for the next attempt."""
    return entry.name.startswith(KEPT) and not entry.name.endswith(".partial")


def _delete(entries: Iterable[Path]) -> None:
    """Delete files and folders, as far as that is possible: what stays is deleted by the next attempt."""
    for entry in list(entries):
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            with suppress(OSError):
                entry.unlink()


def _replace(entry: Path) -> None:
    """Make room for a folder of this name, whatever is there."""
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except (OSError, ValueError):  # gone, or a name that no file can have
        return None


def _cut(folder: Path, record: dict) -> str:
    """Which file of a run is not what its record says; "" if all are. Up to SMALL bytes by content, larger ones, which
    are maps, by size: their content is checked when they are read (adlib.predictions).
    """
    for name, size in record.get("files", {}).items():
        if (found := _size(folder / name)) != size:
            return f"{folder / name} is {'gone' if found is None else f'{found} bytes long'}, and was {size} bytes long"
    sizes = record.get("files", {})
    small = [name for name in record.get("sha256", {}) if sizes.get(name, SMALL + 1) <= SMALL]
    found = file_hashes(folder / name for name in small)
    for name in small:
        if found[str(folder / name)] != record["sha256"][name]:
            return f"{folder / name} was changed after the run"
    return ""
