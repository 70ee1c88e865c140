"""A scheduler and workers that come back: Dask's own programs, started anew whenever they end by themselves.

A Dask worker that has lost its scheduler, because a link was down or the scheduler was started anew, ends for good, and
its nanny with it. Here it is started again, as soon as something answers at the scheduler's address, until nothing has
answered for an hour.

    python -m adlib.runs.cluster scheduler --host HOST
    python -m adlib.runs.cluster worker tcp://HOST:8786 --resources GPU=1,CPU=8

The same as `adlib scheduler` and `adlib worker`. All arguments are those of `dask scheduler` and `dask worker`, and
stand behind ours: one run at a time, no limit of memory (the kernels' is what counts), no dashboard.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

OURS = {
    "scheduler": ["--no-dashboard"],
    "worker": ["--nthreads", "1", "--memory-limit", "0", "--no-dashboard"],
}
# glibc's: what a training step frees is kept for the next one. Dask's own threshold gives it back at once.
MALLOC = {"MALLOC_TRIM_THRESHOLD_": str(512 * 2**20), "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20)}
# How long a network may be away before connections are given up, and with them what is under way. Dask's own 30 s end a
# run for a cable that is plugged into another socket.
VARIABLES = MALLOC | {
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "300s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "60s",
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION": "1.0",
}
PATIENCE = 3600.0  # seconds without a scheduler at the address, after which a worker ends
SHORT_LIFE = 20.0  # seconds; a program that ends before may be one that cannot run at all
SHORT_LIVES = 10  # as many in a row, and it is given up
LONGEST_PAUSE = 30.0  # seconds between two starts; the first is a second
USAGE = 2  # exit status for wrong arguments, which the program has explained


def keep(program: str, arguments: Sequence[str], patience: float = PATIENCE) -> int:
    """Run Dask's "scheduler" or "worker", and again whenever it has ended; returns the exit status.

    0 after SIGTERM, SIGINT or SIGHUP, which end the program, too; 1 when it is given up: nothing answered at the
    scheduler's address for `patience` seconds, or it ended SHORT_LIVES times soon after its start; 2 for arguments
    that Dask refuses.
    """
    command = [sys.executable, "-m", f"distributed.cli.dask_{program}", *OURS[program], *arguments]
    variables = VARIABLES | os.environ
    address = next((argument for argument in arguments if "://" in argument), "") if program == "worker" else ""
    asked = _Asked()
    short, reached = 0, time.monotonic()
    while not asked.to_end:
        if address and not _answers(address):
            if time.monotonic() - reached > patience:
                _say(program, f"nothing answers at {address}: given up.")
                return 1
            asked.pause(2)
            continue
        reached = begin = time.monotonic()
        asked.process = subprocess.Popen(command, env=variables, preexec_fn=_end_with_parent)
        if asked.to_end:  # meanwhile
            asked.process.terminate()
        status = asked.process.wait()
        reached = time.monotonic()
        if asked.to_end:
            break
        short = short + 1 if reached - begin < SHORT_LIFE else 0
        if status == USAGE or short >= SHORT_LIVES:
            return USAGE if status == USAGE else 1
        _say(program, f"it has ended (status {status}) and is started anew.")
        asked.pause(min(2**short, LONGEST_PAUSE))
    return 0


class _Asked:
    """Whether somebody has asked us to end; the program that runs is asked in turn, and killed if it does not."""

    def __init__(self):
        self.to_end, self.process = False, None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._ask)
        signal.signal(signal.SIGALRM, self._kill)

    def _ask(self, number: int, frame) -> None:
        self.to_end = True
        if self.process and self.process.poll() is None:
            self.process.terminate()
            signal.alarm(30)

    def _kill(self, number: int, frame) -> None:
        self.process.kill()

    def pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self.to_end and time.monotonic() < end:
            time.sleep(0.2)


def _answers(address: str) -> bool:
    """Whether something listens at "tcp://host:port"."""
    try:
        place = urlsplit(address)
        with socket.create_connection((place.hostname, place.port), timeout=5):
            return True
    except OSError:
        return False
    except ValueError:  # no such address: Dask itself will say so
        return True


def _end_with_parent() -> None:
    """In the child: end when the parent does, also by kill -9, where the system can see to that."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _say(program: str, text: str) -> None:
    print(f"adlib {program}: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in OURS:
        sys.exit("usage: python -m adlib.runs.cluster scheduler|worker ...")
    sys.exit(keep(sys.argv[1], sys.argv[2:]))
