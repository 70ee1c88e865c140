"""Scores of any number of pixels as sorted runs, within a fixed amount of memory.

Scores are collected into runs; a full run is sorted and kept, in memory while the budget lasts and in one temporary
file afterwards. Memory then grows by a sample per 4096 scores only.
"""

import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from adlib.errors import InputError

RUN_BYTES = 1 << 23  # one run: 2 million float32 scores
SAMPLE_EVERY = 4096  # every so many-th score of a run is remembered


class SortedRuns:
    """Sorted runs of scores; with `companions`, an int32 beside each score (the area of its region)."""

    def __init__(self, dtype, memory: int, companions: bool = False, folder: str | None = None):
        self.dtype, self.size = np.dtype(dtype), 0
        self._length = RUN_BYTES // self.dtype.itemsize
        if companions:  # ordering them takes indices and copies besides: shorter runs for the same memory
            self._length //= 4
        self._memory, self._folder = memory, folder
        self._buffer = np.empty(0, self.dtype)
        self._beside = np.empty(0, np.int32) if companions else None
        self._used = 0
        self._runs: list[tuple] = []  # (scores, companions) in memory, (offset, length) in the file
        self._file, self._lock = None, threading.Lock()
        self._kept = 0  # bytes of runs in memory
        self._sorter, self._sorting = ThreadPoolExecutor(1), None  # a run is sorted while the next one fills
        self._spare = None  # buffers of a run that went to the file, to be filled again
        self.samples: list[np.ndarray] = []  # of each run, sample i stands at sample_every / 2 + i sample_every
        self.sample_every = SAMPLE_EVERY

    def append(self, scores: np.ndarray, companions: np.ndarray | None = None) -> None:
        """Take in scores [n] (and their companions) of any order."""
        start = 0
        while start < len(scores):
            self._make_room(len(scores) - start)
            count = min(len(scores) - start, len(self._buffer) - self._used)
            room = slice(self._used, self._used + count)
            self._buffer[room] = scores[start : start + count]
            if self._beside is not None:
                self._beside[room] = companions[start : start + count]
            self._used += count
            start += count
            if self._used == self._length:
                self._close_run()
        self.size += len(scores)

    def _make_room(self, wanted: int) -> None:
        """Grow the buffer geometrically up to a run, so that small sets take little memory."""
        if self._used < len(self._buffer):
            return
        length = max(2 * len(self._buffer), wanted, 1 << 16)
        length = self._length if self.samples else min(self._length, length)  # later runs at once in full
        buffer, beside = np.empty(length, self.dtype), None
        buffer[: self._used] = self._buffer[: self._used]
        if self._beside is not None:
            beside = np.empty(length, np.int32)
            beside[: self._used] = self._beside[: self._used]
        self._buffer, self._beside = buffer, beside

    def _close_run(self) -> None:
        if self._used == 0:
            return
        self._wait()
        beside = None if self._beside is None else self._beside[: self._used]
        self._sorting = self._sorter.submit(self._keep, self._buffer[: self._used], beside)
        empty = np.empty(0, self.dtype), None if beside is None else np.empty(0, np.int32)
        (self._buffer, self._beside), self._spare = self._spare or empty, None
        self._used = 0

    def _wait(self) -> None:
        """Wait for the run that is being sorted; what went wrong there is raised here."""
        if self._sorting is not None:
            self._sorting.result()
        self._sorting = None

    def _keep(self, scores: np.ndarray, beside: np.ndarray | None) -> None:
        """Sort one run and keep it, in memory or in the file."""
        buffers = scores, beside
        if beside is None:
            scores.sort()
        else:
            order = scores.argsort()
            scores, beside = scores[order], beside[order]
        self.samples.append(scores[self.sample_every // 2 :: self.sample_every].copy())
        if self._file is None and self._kept + scores.nbytes > self._memory:
            self._move_to_file()
        if self._file is None:
            self._runs.append((scores, beside))
            self._kept += scores.nbytes
        else:
            self._write(scores, beside)
            self._spare = buffers

    def _move_to_file(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="adlib-scores-", dir=self._folder, buffering=0)  # noqa: SIM115
        kept, self._runs, self._kept = self._runs, [], 0
        for scores, beside in kept:
            self._write(scores, beside)

    def _write(self, scores, beside) -> None:
        offset = self._file.seek(0, 2)
        try:
            for part in (scores, beside):
                if part is not None:
                    _write_all(self._file, part)
        except OSError as error:
            raise InputError(
                f"no room for sorted scores in {self._folder or tempfile.gettempdir()} ({error.strerror}); "
                f"{offset / 1e9:.1f} GB were written; name another folder (folder=…, or TMPDIR)"
            ) from error
        self._runs.append((offset, len(scores)))

    def finish(self) -> None:
        """Sort the last, unfinished run; the buffer is given back."""
        self._close_run()
        self._wait()
        self._buffer, self._beside, self._spare = np.empty(0, self.dtype), None, None

    def __len__(self) -> int:
        return len(self._runs)

    def read(self, run: int, start: int, stop: int, companions: bool = False) -> np.ndarray:
        """scores[start:stop] (or their companions) of one run."""
        first, second = self._runs[run]
        if not isinstance(first, int):
            return (second if companions else first)[start:stop]
        dtype = np.dtype(np.int32) if companions else self.dtype
        offset = first + (second * self.dtype.itemsize if companions else 0) + start * dtype.itemsize
        out = np.empty(stop - start, dtype)
        view, done = memoryview(out).cast("B") if len(out) else memoryview(b""), 0
        with self._lock:
            self._file.seek(offset)
            while done < len(view):
                got = self._file.readinto(view[done:])
                if not got:
                    raise OSError("the temporary file of sorted scores ended early")
                done += got
        return out

    def length(self, run: int) -> int:
        first, second = self._runs[run]
        return second if isinstance(first, int) else len(first)

    def close(self) -> None:
        """Remove the temporary file and free the runs."""
        self._sorter.shutdown()
        if self._file is not None:
            self._file.close()
        self._file, self._runs, self.samples = None, [], []


def _write_all(file, array: np.ndarray) -> None:
    view, done = memoryview(np.ascontiguousarray(array)).cast("B"), 0
    while done < len(view):
        done += file.write(view[done:])
