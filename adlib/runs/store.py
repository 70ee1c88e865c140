"""The store: a folder of finished and failed runs, safe against kills and against a second writer.

<store>/<key>/record.json      the record; a folder of this name is whole, never half a run
<store>/<key>/run.ipynb        the executed notebook
<store>/<key>/predictions/     scores, maps, samples
<store>/.<key>.*.partial/      a run under way, or one that was killed: cleared when the run is redone
<store>/.locks/<key>.lock      held by the process that executes the run; the system frees it on a kill
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from filelock import FileLock

from adlib.runs.record import FINISHED, write_json


class Store:
    """The runs below a folder."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def path(self, key: str) -> Path:
        """Where a run's record, notebook and predictions are, if it has ended."""
        return self.folder / key

    def record(self, key: str) -> dict | None:
        """The record of a run that has ended, well or not; None if there is none that can be read."""
        try:
            return json.loads((self.path(key) / "record.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None  # never begun, or damaged: either way the run is to be done

    def is_finished(self, key: str) -> bool:
        """Whether the run ended well, so that it need not be done again."""
        record = self.record(key)
        return record is not None and record.get("status") == FINISHED and record.get("key") == key

    def records(self) -> list[dict]:
        """The records of all runs that have ended, oldest first."""
        keys = [entry.name for entry in self.folder.glob("[0-9a-f]*") if entry.is_dir()]
        found = [record for record in map(self.record, sorted(keys)) if record]
        return sorted(found, key=lambda record: record.get("ended", ""))

    def table(self) -> pd.DataFrame:
        """One row per run: key, status, dataset, category, method, seed, its metrics, seconds per phase, reason."""
        rows = []
        for record in self.records():
            run = record["run"]
            row = {"key": record["key"], "status": record["status"]}
            row |= {name: run[name] for name in ("dataset", "category", "method", "seed")}
            row |= record.get("metrics", {})
            row |= {f"{phase}_seconds": value for phase, value in record.get("seconds", {}).items()}
            rows.append(row | {"reason": record.get("reason", "")})
        return pd.DataFrame(rows)

    @contextmanager
    def claim(self, key: str) -> Iterator[Path | None]:
        """Work on a run alone: yields an empty folder to work in, or None if the run is finished by now.

        Waits while another process works on the same run. What is in the folder when the block ends becomes the
        run, at once and whole, if a record is in it; otherwise it is dropped.
        """
        locks = self.folder / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{key}.lock"):
            if self.is_finished(key):
                yield None
                return
            for left in self.folder.glob(f".{key}.*.partial"):
                shutil.rmtree(left)
            partial = Path(tempfile.mkdtemp(dir=self.folder, prefix=f".{key}.", suffix=".partial"))
            partial.chmod(0o755)
            try:
                yield partial
                if (partial / "record.json").exists():
                    if self.path(key).exists():  # a failed attempt: the new one replaces it
                        shutil.rmtree(self.path(key))
                    partial.replace(self.path(key))
            finally:
                shutil.rmtree(partial, ignore_errors=True)

    def write_failure(self, folder: Path, record: dict) -> None:
        """Leave a failed run's record in its claimed folder."""
        write_json(folder / "record.json", record)
