"""Scores of any number of pixels in sorted order, within a fixed amount of memory.

Scores are collected into runs; a full run is sorted and kept, in memory while the budget lasts and in one
temporary file afterwards. `descending_ranges` then walks through all of them from the highest score to the
lowest, a range of scores at a time, each range small enough to be sorted in memory. A value that is tied so
often that it alone would not fit is counted, never loaded.
"""

import tempfile
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from adlib.errors import InputError

RUN_BYTES = 1 << 23  # one run: 2 million float32 scores
RANGE_BYTES = 3 << 20  # scores aimed at per range
SAMPLE_EVERY = 4096  # every so many-th score of a run is remembered to choose the ranges
BATCH = 256  # ranges located at a time


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
        self.samples: list[np.ndarray] = []

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
        self.samples.append(scores[SAMPLE_EVERY // 2 :: SAMPLE_EVERY].copy())
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


@dataclass
class ScoreRange:
    """What lies in one range of scores; arrays are for the distinct anomalous scores in it, falling."""

    scores: np.ndarray  # float[B]
    anomalous: np.ndarray  # int64[B]
    region_weight: np.ndarray  # float64[B] sum of 1 / area
    normal_above: np.ndarray  # int64[B], in all of the set
    normal_tied: np.ndarray  # int64[B]


def descending_ranges(anomalous: SortedRuns, normal: SortedRuns) -> Iterator[ScoreRange]:
    """Walk through both sets together, from the highest scores to the lowest, and count (see ScoreRange)."""
    pivots = _pivots(anomalous, normal)
    ready: deque = deque()
    with ThreadPoolExecutor(1) as threads:  # the next range is prepared while one is worked on
        for top in range(len(pivots), -1, -BATCH):  # range k lies between pivots k - 1 and k
            bottom = max(top - BATCH + 1, 0)
            first = max(bottom - 1, 0)
            part = pivots[first : top + 1]
            cuts, normal_cuts = _cuts(anomalous, part), _cuts(normal, part)
            for k in range(top, bottom - 1, -1):
                ready.append(threads.submit(_one_range, anomalous, normal, part, cuts, normal_cuts, k - first))
                if len(ready) > 1:
                    yield from ready.popleft().result()
        for last in ready:
            yield from last.result()


def _one_range(anomalous, normal, pivots, cuts, normal_cuts, k: int) -> list[ScoreRange]:
    """The open range between pivots k - 1 and k, then pivot k - 1 itself."""
    found = _load(anomalous, *_open_range(cuts, anomalous, k), companions=True)
    start, stop = _open_range(normal_cuts, normal, k)
    above = int(normal.size - stop.sum())
    parts = [_count(*found, _load(normal, start, stop)[0], above)] if len(found[0]) else []
    if k == 0:
        return parts
    first, last = (side[:, k - 1] for side in cuts)
    if (last > first).any():
        weight = sum(_inverse_sum(anomalous, run, first[run], last[run]) for run in range(len(anomalous)))
        tied = (normal_cuts[1][:, k - 1] - normal_cuts[0][:, k - 1]).sum()
        above = normal.size - normal_cuts[1][:, k - 1].sum()
        counts = ((last - first).sum(), weight, above, tied)
        parts.append(ScoreRange(pivots[k - 1 : k], *(np.array([value]) for value in counts)))
    return parts


def _pivots(anomalous: SortedRuns, normal: SortedRuns) -> np.ndarray:
    """Distinct scores, rising, that cut both sets together into ranges of about RANGE_BYTES."""
    samples = np.sort(np.concatenate([np.empty(0, normal.dtype), *anomalous.samples, *normal.samples]))
    total = anomalous.size + normal.size
    wanted = RANGE_BYTES // normal.dtype.itemsize
    if total <= 2 * wanted:
        return samples[:0]
    step = max(wanted // SAMPLE_EVERY, 1)
    return np.unique(samples[step // 2 :: step])


def _cuts(runs: SortedRuns, pivots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64[runs, pivots] twice: how many scores of each run are below, and are at or below, each pivot."""
    below = np.zeros((len(runs), len(pivots)), np.int64)
    upto = below.copy()
    if len(pivots):
        for run, samples in enumerate(runs.samples):  # sample i stands at SAMPLE_EVERY / 2 + i SAMPLE_EVERY
            left, right = samples.searchsorted(pivots[0], "left"), samples.searchsorted(pivots[-1], "right")
            start = SAMPLE_EVERY // 2 + (left - 1) * SAMPLE_EVERY if left else 0
            stop = SAMPLE_EVERY // 2 + right * SAMPLE_EVERY if right < len(samples) else runs.length(run)
            scores = runs.read(run, int(start), int(stop))
            below[run] = start + scores.searchsorted(pivots, "left")
            upto[run] = start + scores.searchsorted(pivots, "right")
    return below, upto


def _open_range(cuts, runs: SortedRuns, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(start, stop) in each run of the scores strictly between pivots k - 1 and k."""
    below, upto = cuts
    start = upto[:, k - 1] if k else np.zeros(len(runs), np.int64)
    if k < below.shape[1]:
        return start, below[:, k]
    return start, np.array([runs.length(r) for r in range(len(runs))], np.int64)


def _load(runs: SortedRuns, start, stop, companions: bool = False) -> tuple[np.ndarray, ...]:
    """(sorted scores, or scores in any order and their companions) of one range out of all runs."""
    used = [r for r in range(len(runs)) if stop[r] > start[r]]
    if not used:
        return np.empty(0, runs.dtype), np.empty(0, np.int32)
    scores = [runs.read(r, int(start[r]), int(stop[r])) for r in used]
    if companions:
        areas = [runs.read(r, int(start[r]), int(stop[r]), companions=True) for r in used]
        return np.concatenate(scores), np.concatenate(areas)
    if len(used) == 1:
        return (scores[0],)
    scores = np.concatenate(scores)
    scores.sort()
    return (scores,)


def _count(scores, areas, normal, above: int) -> ScoreRange:
    order = scores.argsort()
    scores = scores[order]
    first = np.concatenate([[0], np.flatnonzero(scores[1:] != scores[:-1]) + 1])
    weight = np.add.reduceat(1.0 / areas[order], first)
    distinct = scores[first]
    count = np.diff(first, append=len(scores))
    below = normal.searchsorted(distinct, "left")
    upto = normal.searchsorted(distinct, "right")
    falling = slice(None, None, -1)
    return ScoreRange(
        distinct[falling],
        count[falling],
        weight[falling],
        (above + len(normal) - upto)[falling],
        (upto - below)[falling],
    )


def _inverse_sum(runs: SortedRuns, run: int, start: int, stop: int) -> float:
    """Sum of 1 / companion over a stretch of a run, read in pieces."""
    step = 1 << 20
    pieces = range(int(start), int(stop), step)
    return sum(float((1.0 / runs.read(run, a, min(a + step, int(stop)), companions=True)).sum()) for a in pieces)
