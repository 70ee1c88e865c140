"""What is known of earlier attempts at a run, also of those that were killed."""

import os
import socket
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from adlib.errors import InputError
from adlib.files import read_json
from adlib.runs.failures import NotebookFailed
from adlib.runs.record import write_json
from adlib.runs.store import Store


def deaths(store: Store, key: str) -> int | None:
    """How many workers are known to have died under a run that is not finished; None if nothing is known of it."""
    file = store.partial(key) / "attempts.json"
    if not file.is_file():
        return None
    known = Attempts.read(file)
    running = known["now"] and key in store.running()
    return sum(attempt["kind"] == "worker died" for attempt in known["earlier"]) + bool(known["now"] and not running)


class Attempts:
    """What is known of earlier attempts at a run, in a file of its folder that a kill leaves behind.

    earlier: a dictionary per attempt that failed: kind, reason, ended.
    """

    def __init__(self, folder: Path):
        self.file = folder / "attempts.json"
        known = self.read(self.file)
        self.earlier: list[dict] = known["earlier"]
        if known["now"]:
            where = "process {process} on {host}".format(**known["now"])
            self._add("worker died", f"The worker ({where}) ended, or was ended, before the run did.")

    @staticmethod
    def read(file: Path) -> dict:
        """What a kill has left: "earlier", and "now", the process that was at it; nothing where it is no such file."""
        try:
            known = read_json(file)
            earlier = [{name: str(one[name]) for name in ("kind", "reason", "ended")} for one in known["earlier"]]
            now = known["now"] and {name: known["now"][name] for name in ("host", "process")}
        except (InputError, KeyError, TypeError, IndexError):
            return {"earlier": [], "now": None}
        return {"earlier": earlier, "now": now}

    def begin(self) -> None:
        """A new attempt, by this process."""
        by = {"host": socket.gethostname(), "process": os.getpid(), "started": now()}
        self._write({"earlier": self.earlier, "now": by})

    def end(self, error: NotebookFailed) -> None:
        """The attempt has failed."""
        self._add(error.kind, error.reason)
        self._write({"earlier": self.earlier, "now": None})

    def _add(self, kind: str, reason: str) -> None:
        self.earlier.append({"kind": kind, "reason": reason, "ended": now()})

    def _write(self, content: dict) -> None:
        try:
            write_json(self.file, content)
        except (OSError, InputError):  # a full disk, a folder of that name: what there is to say, the record will
            with suppress(OSError):
                self.file.unlink(missing_ok=True)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
