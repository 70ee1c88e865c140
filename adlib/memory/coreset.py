"""Coreset: thin a memory bank so that every feature stays near one that is kept (greedy k-centre).

Sener & Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set Approach", ICLR 2018; as used by
PatchCore (Roth et al., CVPR 2022, algorithm 1).
"""

import numpy as np
import torch
from tqdm.auto import tqdm

from adlib.memory.distance_bounds import Outline, fit_outline
from adlib.memory.unfinished import Unfinished

CANDIDATES = 512  # of which one round of choices is made
BLOCK = 8192  # rows that are compared with a round's choices at a time; small enough for a processor's cache


def k_centre_greedy(
    features: torch.Tensor,
    count: int,
    seed: int = 0,
    starts: int = 10,
    progress: bool = False,
    unfinished: Unfinished | None = None,
) -> torch.Tensor:
    """Choose `count` rows of `features`, each time the one farthest from all rows chosen before.

    features: float [N, D] of any precision, on any device. count: 1 .. N.
    starts: before anything is chosen, a row's distance is its MEAN Euclidean distance to this many random rows,
        which are not kept themselves: PatchCore's official "approximate greedy" start. 0 starts from one random
        row, which is kept: the textbook algorithm.
    unfinished: where the choice is noted now and then, and gone on from if it was; it ends as it would have without.
    Returns int64 [count], distinct, in the order of choice: that of the plain loop, up to distances that are equal
    within rounding. Deterministic for a seed on one machine.

    The plain loop reads all N x D values for each choice and is bound by memory bandwidth. Here a round takes the rows
    that are farthest now and follows the greedy choice among them alone, for as long as its next row is farther than
    all others were when the round began, which no choice can make farther. Then one matrix product brings all rows'
    distances up to date, of outlines first (adlib.memory.distance_bounds) and of whole features for those few rows
    that may have come nearer.
    """
    total = len(features)
    if not 1 <= count <= total:
        raise ValueError(f"count={count} must lie in 1..{total}, the number of features.")
    unfinished = (unfinished or Unfinished(None)).part("coreset", rows=total, count=count, seed=seed, starts=starts)
    noted = unfinished.read()
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(total, generator=generator)[: max(1, starts)].to(features.device)
    chosen = np.empty(count, np.int64)
    done = len(noted.get("chosen", ()))
    chosen[:done] = noted.get("chosen", [])
    if done == count:
        return torch.from_numpy(chosen)
    if done:
        distance = noted["distance"].to(features.device)
    elif starts:
        distance = _mean_distance(features, features[rows]).square()
    else:
        chosen[0], done = int(rows[0]), 1
        distance = _mean_distance(features, features[rows]).square()
        distance[rows] = -1.0
    bound = _Bound(features)
    with tqdm(total=count, initial=done, desc="coreset", unit="patch", disable=not progress) as bar:
        while done < count:
            picks = _round(features, distance, count - done)
            chosen[done : done + len(picks)] = picks
            done += len(picks)
            bar.update(len(picks))
            if done < count:
                bound.update(distance, torch.from_numpy(picks).to(features.device))
            if unfinished.due:
                unfinished.note(chosen=torch.from_numpy(chosen[:done].copy()), distance=distance.cpu())
    unfinished.note(chosen=torch.from_numpy(chosen))
    return torch.from_numpy(chosen)


def k_centre_greedy_in_shards(
    features: torch.Tensor,
    count: int,
    shard_rows: int,
    spare: float = 2.0,
    seed: int = 0,
    progress: bool = False,
    unfinished: Unfinished | None = None,
) -> torch.Tensor:
    """The greedy choice for features that do not fit into memory together, say of a memory-mapped array.

    From every shard of at most shard_rows consecutive rows, the greedy choice takes `spare` times the shard's share of
    `count`; from the union of those it takes `count`. With one shard it is `k_centre_greedy`. The covering radius is
    at most three times the exact greedy's in theory; what it is in practice stands in benchmarks/README.md.
    unfinished: as for `k_centre_greedy`; each shard has a file of its own.
    Returns int64 [count], distinct, in the order of choice.
    """
    if shard_rows >= len(features):
        return k_centre_greedy(features, count, seed, progress=progress, unfinished=unfinished)
    unfinished, kept = unfinished or Unfinished(None), []
    for first in range(0, len(features), shard_rows):
        shard = features[first : first + shard_rows]
        share = min(len(shard), max(1, -(-int(spare * count) * len(shard) // len(features))))
        file = unfinished.part(f"from-{first}")
        kept.append(k_centre_greedy(shard, share, seed, progress=progress, unfinished=file) + first)
    union = torch.cat(kept)
    file = unfinished.part("union")
    return union[k_centre_greedy(features[union], count, seed, progress=progress, unfinished=file)]


def covering_radius(features: torch.Tensor, chosen: torch.Tensor) -> float:
    """The largest Euclidean distance from any row to its nearest chosen one: what the greedy choice keeps small."""
    kept = features[chosen.to(features.device)]
    nearest = [_squared_distances(part, kept).min(1).values.max() for part in features.split(BLOCK // 8)]
    return float(torch.stack(nearest).max().sqrt())


def _squared_distances(some: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Float [A, D], [B, D] -> [A, B], at least in single precision; both are centred, to lose fewer digits."""
    precision = torch.promote_types(some.dtype, torch.float32)
    some, others = some.to(precision), others.to(precision)
    centre = others.mean(0)
    some, others = some - centre, others - centre
    squared = torch.addmm(others.square().sum(1), some, others.T, alpha=-2)
    return squared.add_(some.square().sum(1, keepdim=True)).clamp_(min=0)


def _mean_distance(features: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    return torch.cat([_squared_distances(part, others).sqrt_().mean(1) for part in features.split(BLOCK)])


def _round(features: torch.Tensor, distance: torch.Tensor, most: int) -> np.ndarray:
    """The next rows of the greedy choice, at least one and at most `most`.

    Candidates are the rows that are farthest now. Distances only fall, so a candidate that is farther than the
    farthest other row was is farther than all other rows are.
    """
    first = int(distance.argmax())  # the lowest of equal rows, as in the plain loop
    farthest = distance.topk(min(CANDIDATES + 1, len(distance)))
    limit = float(farthest.values[-1]) if len(distance) > CANDIDATES else -1.0
    rows = farthest.indices[:CANDIDATES].cpu().numpy()
    if first not in rows:
        rows[-1] = first
    rows = np.sort(rows)
    there = torch.from_numpy(rows).to(features.device)
    left = distance[there].cpu().numpy()
    between = _squared_distances(features[there], features[there]).cpu().numpy()
    picks = [int(np.searchsorted(rows, first))]
    while True:
        np.minimum(left, between[picks[-1]], out=left)
        left[picks[-1]] = -1.0  # never twice, even among equal rows
        following = int(left.argmax())
        if len(picks) == min(most, len(rows)) or left[following] <= limit:
            return rows[picks]
        picks.append(following)


class _Bound:
    """Brings the distances of all rows up to date; outlines tell which rows need a look at the whole features."""

    def __init__(self, features: torch.Tensor):
        self.features = features
        self.outline: Outline | None = None
        if features.shape[1] >= 32 and len(features) > BLOCK:
            self.outline = fit_outline(features)
            size = self.outline(features[:1]).shape[1]
            self.outlines = self.outline.mean.new_empty(len(features), size)  # filled in place: joining doubles it
            for start in range(0, len(features), BLOCK):
                self.outlines[start : start + BLOCK] = self.outline(features[start : start + BLOCK])
            self.norms = self.outlines.square().sum(1)
            # Rounding may lift a bound above its distance; by far less than this.
            self.doubt = 1e-5 * self.norms + 1e-5 * float(self.norms.mean())

    def update(self, distance: torch.Tensor, picks: torch.Tensor) -> None:
        """Lower `distance`, squared, float [N], to that from the nearest of the picked rows; theirs becomes -1."""
        kept = self.features[picks]
        if self.outline is not None:
            outlines = self.outlines[picks]
            norms = outlines.square().sum(1)
        for start in range(0, len(distance), BLOCK):
            block = slice(start, start + BLOCK)
            if self.outline is None:
                nearest = _squared_distances(self.features[block], kept).amin(1)
                distance[block] = torch.minimum(distance[block], nearest)
                continue
            lower = torch.addmm(norms, self.outlines[block], outlines.T, alpha=-2).amin(1) + self.norms[block]
            rows = (lower - self.doubt[block] < distance[block]).nonzero()[:, 0] + start
            nearest = _squared_distances(self.features.index_select(0, rows), kept).amin(1)
            distance[rows] = torch.minimum(distance[rows], nearest)
        distance[picks] = -1.0
