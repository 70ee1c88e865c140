"""Soon: do expensive work a moment later and once, however often it is asked for, so that sliders stay smooth."""

import asyncio
from collections.abc import Callable


class Soon:
    """Calls `action` once, `seconds` after the first of several requests.

    In a kernel the requests of a dragged slider come one after the other and share one call. Where no event loop runs
    (a script, a test) the action is done at once.
    """

    def __init__(self, action: Callable[[], None], seconds: float):
        self.action = action
        self.seconds = seconds
        self._waiting: asyncio.TimerHandle | None = None

    def __call__(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.action()
            return
        if self._waiting is None:
            self._waiting = loop.call_later(self.seconds, self.now)

    def now(self) -> None:
        """Do it at once; a waiting request is thereby met."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        self.action()
