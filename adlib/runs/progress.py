"""What a batch says while it works: a bar in a terminal, lines elsewhere."""

import sys
from datetime import datetime

from tqdm.auto import tqdm

from adlib.runs.record import FAILED


class Bar:
    """The bar of a batch: done, failed, running, time left; and a line above it for each task that has ended.

    Where nobody watches, as in a file or in CI, there is no bar: the lines count instead.
    """

    def __init__(self, what: str, done: int, waiting: int, progress: bool):
        watched = sys.stderr.isatty() or "ipykernel" in sys.modules
        self.bar = tqdm(total=done + waiting, initial=done, desc=what, disable=not (progress and watched), unit="")
        self.what, self.done, self.all = what, done, done + waiting
        self.failed, self.slots, self.progress, self.watched = 0, 0, progress and waiting > 0, watched

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.bar.close()

    def say(self, line: str) -> None:
        if self.progress:
            self.bar.write(line, file=sys.stderr)

    def alarm(self, line: str) -> None:
        """Say what nobody may miss: a batch that waits says so also where no bar is wanted."""
        self.bar.write(f"{datetime.now():%H:%M:%S} {line}", file=sys.stderr)
        sys.stderr.flush()

    def ended(self, title: str, outcome: dict) -> None:
        self.done += 1
        self.failed += outcome["state"] == FAILED
        reason = f": {outcome['reason']}" if outcome.get("reason") else ""
        count = "" if self.watched else f"{self.what} {self.done}/{self.all} "
        self.say(f"{datetime.now():%H:%M:%S} {count}{outcome['state']} {title}{reason}")
        self.bar.update()
        self.show()

    def show(self, slots: int | None = None) -> None:
        self.slots = self.slots if slots is None else slots
        running = min(self.slots, self.all - self.done)
        self.bar.set_postfix_str(f"{self.failed} failed, {running} running")
