"""Stored runs as a person selects them: listed, deleted, done again."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import pandas as pd

from adlib.errors import InputError, did_you_mean
from adlib.runs.batch import run_all
from adlib.runs.run import Run
from adlib.runs.store import Store
from adlib.runs.workers import Workers

STATUSES = ("finished", "failed", "running", "damaged")


@dataclass
class Selection:
    """table: a row per run that has ended (`Store.table`). running: the keys of those under way. damaged: of those that
    cannot be taken for done, with why; one whose files are cut is in the table, too.
    """

    table: pd.DataFrame
    running: list[str] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)

    @property
    def keys(self) -> list[str]:
        ended = self.table["key"].tolist() if len(self.table) else []
        return list(dict.fromkeys([*ended, *self.running, *self.damaged]))


def select_runs(store: Store, keys: Iterable[str] = (), status: str | None = None, **conditions) -> Selection:
    """The runs of a store with these keys (or beginnings of keys), this status, and this dataset, category, method.

    What is under way or damaged has no record to go by: it is selected by key and status alone. Raises InputError for
    a status that does not exist, and for a key that no run has.
    """
    if status is not None and status not in STATUSES:
        raise InputError(f"Unknown status {status!r}: a run is {', '.join(STATUSES)}.{did_you_mean(status, STATUSES)}")
    keys = list(keys)
    conditions = {name: value for name, value in conditions.items() if value is not None}
    table, running, damaged = store.table(), sorted(store.running()), store.damaged()
    known = [*(table["key"] if len(table) else ()), *running, *damaged]
    for key in keys:
        if not key or not any(one.startswith(key) for one in known):
            raise InputError(f"No run in {store.folder} has the key {key!r}: `adlib runs` lists them.")

    def chosen(key: str) -> bool:
        return not keys or key.startswith(tuple(keys))

    for column, value in (({"status": status} if status else {}) | conditions).items():
        table = table[table[column].astype(str) == str(value)] if len(table) else table
    if len(table):
        table = table[table["key"].map(chosen)].reset_index(drop=True)
    # Of a run under way or damaged nothing more is known than its key, unless its record can be read.
    listed = set(table["key"]) if len(table) else set()
    running = [key for key in running if chosen(key) and status in (None, "running") and not conditions]
    damaged = {
        key: reason
        for key, reason in damaged.items()
        if chosen(key) and status in (None, "damaged") and (not conditions or key in listed)
    }
    return Selection(table, running, damaged)


def sorted_runs(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """The rows by a column of `Store.table`: "ended", and all that is text, ascending, numbers the highest first; rows
    without a value last. Raises InputError for a column that no run has.
    """
    if not len(table):
        return table
    if column not in table:
        known = [name for name in table if name != "reason"]
        raise InputError(
            f"Runs cannot be sorted by {column!r}: there are {', '.join(known)}.{did_you_mean(column, known)}"
        )
    ascending = not pd.api.types.is_numeric_dtype(table[column])
    return table.sort_values(column, ascending=ascending, na_position="last", kind="stable", ignore_index=True)


def settings_text(record: dict | None) -> str:
    """All that a run sets, as its command line would say it: "size=256 coreset_ratio=0.1 seed=0 device=cpu"."""
    run = (record or {}).get("run", {})
    values = dict(run.get("settings", {})) | {name: run[name] for name in ("seed", "device") if name in run}
    return " ".join(f"{name}={value}" for name, value in values.items())


def one_key(store: Store, key: str) -> str:
    """The whole key of the run that a beginning names. Raises InputError if it names none, or several."""
    found = select_runs(store, [key]).keys
    if len(found) > 1:
        raise InputError(f"The key {key!r} is the beginning of {len(found)} runs: {', '.join(found[:5])}.")
    return found[0]


def delete_runs(store: Store, keys: Iterable[str]) -> tuple[list[str], list[str]]:
    """Delete runs; returns the keys of those that are gone, and of those that some process works on, which stay."""
    outcome = {key: store.delete(key) for key in keys}
    return [key for key, gone in outcome.items() if gone], [key for key, gone in outcome.items() if not gone]


def rerun(store: Store, keys: Iterable[str], workers: Workers, progress: bool = True) -> tuple[list[dict], list[str]]:
    """Do runs again, finished ones too, which are replaced only by such as finish; returns their records, and a line
    for each that cannot even begin, because its record cannot be read, or its data or weights are gone.

    Data or weights that have changed meanwhile make another run, with another key, beside the old one.
    workers: with conditions that say `again`.
    """
    runs, lines = [], []
    for key in keys:
        record = store.record(key)
        if record is None:
            lines.append(f"{key}: its record cannot be read; delete it, or do it by `adlib reproduce`.")
            continue
        try:
            run = Run(**record["run"])
            run.check_settings()
            run.key  # noqa: B018  reads the data
            runs.append(run)
        except (InputError, TypeError) as error:
            lines.append(f"{key}: {error}")
    return run_all(runs, store, workers, progress) if runs else [], lines
