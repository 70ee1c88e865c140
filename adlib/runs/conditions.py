"""How a run is executed; nothing of it changes numbers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Conditions:
    """How a run is executed; nothing here changes its numbers.

    time_limit: seconds for the whole run, None for no limit. retries: further attempts after a failure of a kind that
    may not come again. maps: whether anomaly maps stay in the store. wait: seconds to wait for another process that
    works on the same run, -1 for ever. stop: a file; when it appears, the run is interrupted. cache: a folder in which
    runs share decoded images and frozen features, "" for none, and the bytes that it may hold. stall_limit: seconds
    after which a kernel that hangs is ended: one that begins no cell, writes no file and uses no processor; one that
    uses a processor may be as silent for BUSY_LIMITS times as long. None for no such limit. again: whether a run that
    is finished is done once more; it is replaced by one that finishes, never by one that fails. command: the command
    line that has asked for it, for its record; "" for that of the process which executes it.
    """

    time_limit: float | None = None
    retries: int = 1
    maps: bool = True
    wait: float = -1
    stop: str = ""
    cache: str = ""
    cache_limit: float = 20e9
    stall_limit: float | None = 1800.0
    again: bool = False
    command: str = ""


USUAL = Conditions()
