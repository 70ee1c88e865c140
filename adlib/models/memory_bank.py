"""The memory bank: exact nearest neighbours among stored features, and a random projection to choose them cheaply."""

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch

from adlib.models.distance_bounds import fit_search_outline

SMALLEST = 2048  # stored features below which the search in groups gains nothing
STEP, ROWS = 32, 256  # what the sides of products are rounded up to
NEVER = 1e38  # half the squared length of members that fill up a group
CHUNK = 512  # pairs that are compared at a time; few enough for a processor's cache


def nearest(queries: torch.Tensor, bank: torch.Tensor, neighbours: int = 1, chunk: int = 1024) -> torch.Tensor:
    """Squared Euclidean distances to the nearest rows of the bank, by comparing with all of them.

    queries: float [Q, D]; bank: float [M, D] on the same device. neighbours: k, at most M.
    chunk: queries per step; bounds the memory to chunk x M values.
    Returns float [Q, k], ascending. From |q|² + |b|² - 2 q·b, so a distance is exact to about 1e-6 |q|².
    """
    bank_norms = bank.square().sum(1)
    parts = []
    for part in queries.split(chunk):
        squared = torch.addmm(bank_norms, part, bank.T, alpha=-2)  # [chunk, M], lacks |q|²
        smallest = (
            squared.min(1, keepdim=True).values
            if neighbours == 1
            else squared.topk(neighbours, 1, largest=False).values
        )
        parts.append((smallest + part.square().sum(1, keepdim=True)).clamp_(min=0))
    return torch.cat(parts)


class BankSearch:
    """Exact nearest neighbours in a memory bank, float32 [M, D], that is searched many times.

    On a CPU, a bank of some size is divided into groups by k-means on the features' outlines (see
    adlib.models.distance_bounds). For a query, the nearest member of the nearest group is an upper bound; a group
    whose ball lies farther away is skipped as a whole, a member whose outline lies farther away is rejected, and the
    few that are left are compared in full. Outlines are first compared in bfloat16 where the processor multiplies that
    faster, with limits that allow for all rounding. What is found is exact: the distances are those of `nearest`,
    computed from differences, to about 1e-6 of themselves. Each thread searches for queries of its own. On a GPU,
    where one large product beats many small ones, all rows are compared.
    """

    def __init__(self, bank: torch.Tensor):
        self.bank = self.features = bank
        self.grouped = bank.device.type == "cpu" and len(bank) >= SMALLEST and bank.shape[1] >= 32
        if self.grouped:
            self._group(max(16, int(1.8 * math.sqrt(len(bank)))))

    def nearest(self, queries: torch.Tensor, neighbours: int = 1) -> torch.Tensor:
        """Float [Q, D] on the bank's device -> squared distances to the k nearest, float [Q, k], ascending."""
        if self.grouped:
            return in_threads(lambda part: self._search(part, neighbours), queries)
        return nearest(queries, self.features, neighbours)

    @classmethod
    def of(cls, bank: torch.Tensor, last: "BankSearch | None") -> "BankSearch":
        """The last one made, if it is of this bank, else a new one: for detectors, whose bank may be exchanged."""
        return last if last is not None and last.bank is bank else cls(bank)

    def _group(self, number: int, rounds: int = 8) -> None:
        """Divide the bank: k-means from rows evenly spaced, so that the same bank always has the same groups."""
        self.outline = fit_search_outline(self.features)
        outlines = torch.cat([self.outline(part) for part in self.features.split(65536)])
        centres = outlines[torch.linspace(0, len(outlines) - 1, number).long()]
        for _ in range(rounds):
            label = torch.cat([torch.cdist(part, centres).argmin(1) for part in outlines.split(8192)])
            sizes = torch.bincount(label, minlength=len(centres))
            sums = torch.zeros_like(centres).index_add_(0, label, outlines)
            centres = sums[sizes > 0] / sizes[sizes > 0, None]
        label = torch.cat([torch.cdist(part, centres).argmin(1) for part in outlines.split(8192)])
        radius = (outlines - centres[label]).norm(dim=1)  # from differences: cdist loses digits where it is small
        present, label = label.unique(return_inverse=True)
        rows = label.argsort(stable=True)  # group by group
        self.features = self.features.index_select(0, rows)  # a copy, in which members of a group are neighbours
        self.centres, self.centre_norms = centres[present], centres[present].square().sum(1)
        self.radii = torch.zeros(len(present)).scatter_reduce(0, label, radius, "amax")

        self.precision = fast_precision()
        sizes = torch.bincount(label)
        self.starts = [0, *sizes.cumsum(0).tolist()]
        rounded = outlines.to(self.precision)
        lost = (outlines - rounded.float()).norm(dim=1)
        self.lost = torch.zeros(len(present)).scatter_reduce(0, label, lost, "amax")
        self.lengths = torch.zeros(len(present)).scatter_reduce(0, label, outlines.norm(dim=1), "amax")
        halves = _in_three(outlines.square().sum(1, keepdim=True) / 2, self.precision)
        joined = torch.cat([rounded, halves], 1).index_select(0, rows)
        self.outlines = outlines.index_select(0, rows)
        self.members = [_padded(part).T for part in joined.split(sizes.tolist())]

    def _search(self, queries: torch.Tensor, neighbours: int) -> torch.Tensor:
        outlines = self.outline(queries)
        norms = outlines.square().sum(1)
        away = torch.addmm(self.centre_norms, outlines, self.centres.T, alpha=-2).add_(norms[:, None])
        own = away.argmin(1)
        rounded = outlines.to(self.precision)
        lost = (outlines - rounded.float()).norm(dim=1)
        rounded = torch.cat([rounded, rounded.new_full((len(rounded), 3), -1.0)], 1)
        # rounded @ members[group] is near q·b - |b|²/2, which is larger the nearer b is: (|q|² - |q - b|²) / 2.

        pairs, counts = [], torch.bincount(own, minlength=len(self.members)).tolist()
        for group, some, likeness in self._likeness(rounded, own.argsort(), counts):
            if self.starts[group + 1] - self.starts[group] >= neighbours:
                pairs.append((some, likeness.topk(neighbours, 1).indices + self.starts[group]))
        upper = torch.full((len(queries),), torch.inf)  # what the k-th nearest is not farther than
        if pairs:
            query, member = map(torch.cat, zip(*pairs, strict=True))
            distance = self._distances(queries, query.repeat_interleave(neighbours), member.flatten())
            upper[query] = distance.view(-1, neighbours).amax(1)
        upper = upper + 1e-5 * (norms + upper)  # for what float32 rounds

        open_groups = away <= (self.radii + upper.sqrt()[:, None]).square_()
        group, query = open_groups.T.nonzero(as_tuple=True)
        error = lost[query] * self.lengths[group] + norms.sqrt()[query] * self.lost[group]  # of a likeness
        error += (torch.finfo(self.precision).eps / 3 * (norms + upper))[query]  # it is rounded to eps / 2 of itself
        least = (((norms - upper) / 2)[query] - error).clamp_(min=-NEVER / 2)
        pairs, start = [], 0
        for group, some, likeness in self._likeness(rounded, query, open_groups.sum(0).tolist()):
            bound = least[start : start + len(some)]
            start += len(some)
            hit = (likeness.amax(1) >= bound).nonzero()[:, 0]
            row, member = (likeness.index_select(0, hit) >= bound[hit][:, None]).nonzero(as_tuple=True)
            pairs.append((some[hit[row]], member + self.starts[group]))
        query, member = map(torch.cat, zip(*pairs, strict=True))

        # What is left is compared in whole outlines, then in whole features: the likeliest first, if there is but one
        # to find, because it spares most of the others.
        lower = _distances(outlines, query, self.outlines, member)
        near = lower <= upper[query]
        query, member, lower = query[near], member[near], lower[near]
        if neighbours == 1:
            least = torch.full_like(upper, torch.inf).scatter_reduce(0, query, lower, "amin")
            best = (lower == least[query]).nonzero()[:, 0]
            nearest = torch.full_like(upper, torch.inf)
            nearest.scatter_reduce_(0, query[best], self._distances(queries, query[best], member[best]), "amin")
            near = lower <= (nearest + 1e-5 * (norms + nearest))[query]
            query, member = query[near], member[near]
            return nearest.scatter_reduce(0, query, self._distances(queries, query, member), "amin")[:, None]
        distance = self._distances(queries, query, member)
        order = distance.argsort()
        order = order[query[order].argsort(stable=True)]  # by query, then by distance
        counts = torch.bincount(query, minlength=len(queries))
        return distance[order][(counts.cumsum(0) - counts)[:, None] + torch.arange(neighbours)]

    def _likeness(self, rounded: torch.Tensor, query: torch.Tensor, counts: list[int]):
        """Products of groups: yields the group, its queries and float32 [queries, members padded to whole STEPs].

        query: indices, group by group; counts: of each group. Products are made for rounded-up numbers of rows, so
        that few shapes occur: for each new one, the library that multiplies compiles a program.
        """
        query = torch.cat([query, query.new_zeros(ROWS)])
        start = 0
        for group, count in enumerate(counts):
            if count:
                step = ROWS if count > ROWS else STEP
                some = query[start : start + -(-count // step) * step]
                yield group, some[:count], (rounded.index_select(0, some) @ self.members[group])[:count].float()
                start += count

    def _distances(self, queries: torch.Tensor, query: torch.Tensor, member: torch.Tensor) -> torch.Tensor:
        return _distances(queries, query, self.features, member)


def _distances(some: torch.Tensor, one: torch.Tensor, others: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    """Squared distances of pairs: indices int64 [P] of rows of one matrix and of another -> float [P]."""
    # index_select copies whole rows where indexing would go value by value; a few at a time stay in the cache.
    pairs = zip(one.split(CHUNK), two.split(CHUNK), strict=True)
    differences = (some.index_select(0, left).sub_(others.index_select(0, right)) for left, right in pairs)
    return torch.cat([difference.square_().sum(1) for difference in differences])


def in_threads(work: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor, fewest: int = 2048) -> torch.Tensor:
    """work(rows), in as many parts as torch has threads; each part, of at least `fewest` rows, in a thread of its own.

    For work of many small steps, in which threads that share each step would spend their time waiting for each other.
    """
    threads = torch.get_num_threads()
    parts = min(threads, len(rows) // fewest)
    if parts < 2:
        return work(rows)

    def alone(part: torch.Tensor) -> torch.Tensor:
        torch.set_num_threads(1)  # of this thread, and the default of threads to come
        with torch.inference_mode():
            return work(part)

    try:
        with ThreadPoolExecutor(parts) as pool:
            return torch.cat(list(pool.map(alone, rows.tensor_split(parts))))
    finally:
        torch.set_num_threads(threads)


@cache
def fast_precision() -> torch.dtype:
    """torch.bfloat16 if this processor multiplies it faster than float32, else torch.float32. Tried once."""
    best = {}
    for precision in (torch.float32, torch.bfloat16):
        some, others = torch.ones(1024, 128, dtype=precision), torch.ones(128, 512, dtype=precision)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            some @ others
            times.append(time.perf_counter() - start)
        best[precision] = min(times)
    return min(best, key=best.get)


def _padded(members: torch.Tensor) -> torch.Tensor:
    """Rows [n, d] filled up to whole STEPs with rows that are like no query: the last columns are the half norms."""
    filled = members.new_zeros(-(-len(members) // STEP) * STEP, members.shape[1])
    filled[: len(members)] = members
    filled[len(members) :, -1] = NEVER
    return filled


def _in_three(values: torch.Tensor, precision: torch.dtype) -> torch.Tensor:
    """Float32 [N, 1] -> [N, 3] of that precision, whose sum is the value but for float32's own rounding."""
    parts = []
    for _ in range(3):
        parts.append(values.to(precision))
        values = values - parts[-1].float()
    return torch.cat(parts, 1)


def random_projection(dimensions: int, target: int, seed: int = 0) -> torch.Tensor:
    """float [dimensions, target]: uniform in ±1/sqrt(dimensions), as a bias-free torch.nn.Linear starts."""
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(dimensions, target, generator=generator) - 1) / dimensions**0.5
