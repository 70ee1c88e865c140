"""A watch over a kernel: it ends one that takes too long, hangs, or is no longer wanted."""

import threading
import time
from contextlib import suppress
from pathlib import Path

from adlib.runs import kernels
from adlib.runs.conditions import Conditions

IDLE = 0.005  # of a processor: a kernel that uses less does nothing
BUSY_LIMITS = 48  # how many times longer a kernel may be silent that computes
LEAVING = threading.Event()  # set when this process is about to end: what it executes is interrupted


class Watch(threading.Thread):
    """Ends the kernel when its time is over, when it hangs, or when the file appears that asks for it; `kind` and
    `reason` say why. folder: where the kernel writes.
    """

    def __init__(self, started: list, conditions: Conditions, folder: Path):
        super().__init__(daemon=True, name="watch")
        self.started, self.conditions, self.folder, self.left = started, conditions, folder, threading.Event()
        self.kind = self.reason = ""
        self.cell = self.cells = 0  # the place of the cell under way in the notebook, and how many with code have begun

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.left.set()

    def run(self) -> None:
        begin, limit = time.monotonic(), self.conditions.time_limit
        signs = _Signs(self)
        while not self.left.wait(0.5):
            if limit is not None and time.monotonic() - begin > limit:
                self.kind, self.reason = "time limit", f"The run took longer than its limit of {limit:g} s."
            elif self.conditions.stop and Path(self.conditions.stop).exists():
                self.kind, self.reason = "interrupted", "The batch was interrupted."
            elif LEAVING.is_set():
                self.kind, self.reason = "interrupted", "The worker lost its scheduler, or was asked to leave."
            elif self.started and (reason := signs.missing(self.conditions.stall_limit)):
                self.kind, self.reason = "stalled", reason
            if self.reason and self.started:
                self.started[-1].kill()
                return


class _Signs:
    """Signs of life of the kernel under a watch: cells begun, files written, and processor time."""

    def __init__(self, watch: Watch):
        self.watch = watch
        self.progress, self.progressed = None, time.monotonic()  # cell and files, and since when they are the same
        self.used, self.worked, self.asked = 0.0, time.monotonic(), 0.0  # processor seconds, and when they last grew

    def missing(self, limit: float | None) -> str:
        """Why the kernel must be thought to hang, in a sentence; "" if it need not be."""
        now = time.monotonic()
        if limit is None or now - self.asked < min(10.0, limit / 10):
            return ""
        self.asked = now
        if (progress := (self.watch.cell, _newest(self.watch.folder))) != self.progress:
            self.progress, self.progressed, self.worked = progress, now, now
        used = kernels.processor_seconds(self.watch.started[-1].pid)
        if used is None:  # this system does not say: only the long limit can be held
            self.worked = now
        elif used - self.used > IDLE * (now - self.worked):
            self.used, self.worked = used, now
        where = f"in cell {self.watch.cell}"
        if now - self.worked > limit:
            return f"The kernel hung {where}: no file written and no processor used for {limit:g} s."
        if now - self.progressed > BUSY_LIMITS * limit:
            return f"The kernel hung {where}: it computed for {BUSY_LIMITS * limit:g} s and wrote no file."
        return ""


def _newest(folder: Path) -> float:
    """When something was last written in a folder, such as a checkpoint."""
    newest = 0.0
    with suppress(OSError):
        for entry in folder.iterdir():
            with suppress(OSError):  # renamed meanwhile
                newest = max(newest, entry.stat().st_mtime)
    return newest
