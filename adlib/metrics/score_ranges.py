"""From sorted runs to counts: how many normal pixels lie above and at every distinct anomalous score.

All scores are walked through from the highest to the lowest, a range at a time, each range small enough to be sorted in
memory. A value that is tied so often that it alone would not fit is counted, never loaded.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from adlib.metrics.sorted_runs import SortedRuns

RANGE_BYTES = 3 << 20  # scores aimed at per range
BATCH = 256  # ranges located at a time


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
    step = max(wanted // normal.sample_every, 1)
    return np.unique(samples[step // 2 :: step])


def _cuts(runs: SortedRuns, pivots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int64[runs, pivots] twice: how many scores of each run are below, and are at or below, each pivot."""
    below = np.zeros((len(runs), len(pivots)), np.int64)
    upto = below.copy()
    if len(pivots):
        every = runs.sample_every
        for run, samples in enumerate(runs.samples):  # the samples say which part of the run to look at
            left, right = samples.searchsorted(pivots[0], "left"), samples.searchsorted(pivots[-1], "right")
            start = every // 2 + (left - 1) * every if left else 0
            stop = every // 2 + right * every if right < len(samples) else runs.length(run)
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
