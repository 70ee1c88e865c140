"""The memory bank: exact nearest neighbours among stored features, and a random projection to choose them cheaply."""

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

import torch

from adlib.gpu_memory import Parts, part_of
from adlib.memory.distance_bounds import fit_search_outline

SMALLEST = 2048  # stored features below which the search in groups gains nothing
# Queries of one product, and values of the products that are made at once: always the same, because for each new shape
# the library that multiplies compiles a program.
BLOCK, VALUES = 64, 2**19
TABLE = 2**23  # pairs of queries and groups that are looked at at a time
EXTRA = 8  # columns beside the outline's: see _rows
NEVER = 1e38  # half the squared length of what fills up a group


def nearest(queries: torch.Tensor, bank: torch.Tensor, neighbours: int = 1, chunk: int = 1024) -> torch.Tensor:
    """Squared Euclidean distances to the nearest rows of the bank, by comparing with all of them.

    queries: float [Q, D]; bank: float [M, D] on the same device. neighbours: k, at most M.
    chunk: queries per step; bounds the memory to chunk x M values.
    Returns float [Q, k], ascending. Which rows are nearest is told by |q|² + |b|² - 2 q·b, whose rounding, of about
    1e-6 |q|², may decide between rows that are as near; how far they are, from differences, exact to about 1e-6 of it.
    """
    bank_norms = bank.square().sum(1)
    parts = []
    for part in queries.split(chunk):
        squared = torch.addmm(bank_norms, part, bank.T, alpha=-2)  # [chunk, M], lacks |q|²
        if neighbours == 1:
            rows = squared.argmin(1, keepdim=True)
        else:
            rows = squared.topk(neighbours, 1, largest=False).indices
        parts.append((part[:, None] - bank[rows]).square_().sum(2).sort(1).values)
    return torch.cat(parts)


class BankSearch:
    """Exact nearest neighbours in a memory bank, float32 [M, D], that is searched many times.

    On a CPU, a bank of some size is divided at its first search into groups, by k-means on the features' outlines (see
    adlib.memory.distance_bounds). For a query, the nearest member of the nearest group is an upper bound; a group
    whose ball lies farther away is skipped as a whole, a member whose outline lies farther away is rejected, and the
    few that are left are compared in full. Outlines are first compared in bfloat16 where the processor multiplies that
    faster, with limits that allow for all rounding. What is found is exact: the distances are those of `nearest`,
    computed from differences, to about 1e-6 of themselves. Each thread searches for queries of its own. On a GPU,
    where one large product beats many small ones, all rows are compared.
    """

    def __init__(self, bank: torch.Tensor):
        self.bank = self.features = bank
        self.grouped = bank.device.type == "cpu" and len(bank) >= SMALLEST and bank.shape[1] >= 32
        self.parts = Parts()
        self.outline = None  # of the features, once there are queries to choose it by

    def nearest(self, queries: torch.Tensor, neighbours: int = 1) -> torch.Tensor:
        """Float [Q, D] -> squared distances to the k nearest, float [Q, k], ascending, on the queries' device.

        On a GPU, as many queries are compared at once as its memory allows.
        """
        if queries.device != self.bank.device:
            return self.nearest(queries.to(self.bank.device), neighbours).to(queries.device)
        if self.grouped and self.outline is None:
            self._group(queries, neighbours)
        if self.grouped and neighbours <= self.width:
            rows = max(BLOCK, TABLE // len(self.sizes))
            return in_threads(lambda part: torch.cat([self._search(p, neighbours) for p in part.split(rows)]), queries)
        work = partial(nearest, bank=self.features, neighbours=neighbours)
        return torch.cat(self.parts.of(lambda part: work(part_of(queries, part)), len(queries)))

    @classmethod
    def of(cls, bank: torch.Tensor, last: "BankSearch | None") -> "BankSearch":
        """The last one made, if it is of this bank, else a new one: for detectors, whose bank may be exchanged."""
        return last if last is not None and last.bank is bank else cls(bank)

    def _group(self, queries: torch.Tensor, neighbours: int, rounds: int = 8) -> None:
        """Divide the bank: k-means from rows evenly spaced, so that the same bank always has the same groups; those of
        more than `width` members are divided further, by their distance from the centre.
        """
        number = max(16, int(1.5 * math.sqrt(len(self.features))))
        self.width = 2 ** math.ceil(math.log2(len(self.features) / number))  # members that a group has at most
        self.outline = fit_search_outline(self.features, queries, neighbours)
        outlines = torch.cat([self.outline(part) for part in self.features.split(65536)])
        centres = outlines[torch.linspace(0, len(outlines) - 1, number).long()]
        for _ in range(rounds):
            label = torch.cat([torch.cdist(part, centres).argmin(1) for part in outlines.split(8192)])
            centres, present = _means(outlines, label, len(centres))
            centres = centres[present]
        nearest_centres = [torch.cdist(part, centres).min(1) for part in outlines.split(8192)]
        away, label = map(torch.cat, zip(*nearest_centres, strict=True))
        rows = away.argsort()
        rows = rows[label[rows].argsort(stable=True)]  # group by group, from the centre outwards
        sizes = torch.bincount(label, minlength=len(centres))
        place = torch.arange(len(rows)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
        label = torch.unique_consecutive(label[rows] * len(rows) + place // self.width, return_inverse=True)[1]

        self.features = self.features.index_select(0, rows)  # a copy, in which members of a group are neighbours
        self.outlines = outlines.index_select(0, rows)
        self.sizes = torch.bincount(label)
        self.starts = self.sizes.cumsum(0) - self.sizes
        self.centres, _ = _means(self.outlines, label, len(self.sizes))
        self.centre_norms = self.centres.square().sum(1)
        self.radii = _largest((self.outlines - self.centres[label]).norm(dim=1), label, len(self.sizes))

        precision = fast_precision()
        rounded = self.outlines.to(precision)
        lost = _largest((self.outlines - rounded.float()).norm(dim=1), label, len(self.sizes))
        lengths = _largest(self.outlines.norm(dim=1), label, len(self.sizes))
        halves = _in_three(self.outlines.square().sum(1) / 2, precision)
        ones = rounded.new_ones(len(rounded), 3)
        errors = _rounded_up(torch.stack([lengths, lost], 1), precision)[label]
        self.members = rounded.new_zeros(len(self.sizes), self.width, rounded.shape[1] + EXTRA)
        self.members[..., -EXTRA] = NEVER  # places that no member takes are like no query
        place = torch.arange(len(label)) - self.starts[label]
        self.members[label, place] = torch.cat([rounded, halves, ones, errors], 1)

    def _search(self, queries: torch.Tensor, neighbours: int) -> torch.Tensor:
        outlines = self.outline(queries)
        norms = outlines.square().sum(1)
        away = torch.addmm(self.centre_norms, outlines, self.centres.T, alpha=-2).add_(norms[:, None])  # [Q, groups]
        rounded = outlines.to(self.members.dtype)

        # What the k-th nearest is not farther than: the k nearest in the nearest group, where there are so many.
        upper = torch.full((len(queries),), torch.inf)
        group, query = away.argmin(1).sort()
        pairs = []
        for groups, slots, likeness in self._likeness(self._rows(rounded, -norms / 2), group, query):
            there = (slots < len(queries)) & (self.sizes[groups] >= neighbours)[:, None]
            first = likeness.topk(neighbours, 2).indices + self.starts[groups][:, None, None]
            pairs.append((slots[there], first[there]))
        query, member = map(torch.cat, zip(*pairs, strict=True))
        distance = distances_of_pairs(queries, query.repeat_interleave(neighbours), self.features, member.flatten())
        upper[query] = distance.view(-1, neighbours).amax(1)
        upper = upper + 2e-5 * (norms + upper)  # for what float32 rounds

        # Members that may be nearer, of all groups whose balls reach that far.
        group, query = (away <= (self.radii + upper.sqrt()[:, None]).square_()).T.nonzero(as_tuple=True)
        errors = torch.stack([(outlines - rounded.float()).norm(dim=1), norms.sqrt()], 1)
        pairs = []
        for groups, slots, likeness in self._likeness(self._rows(rounded, (upper - norms) / 2, errors), group, query):
            hit = (likeness.amax(2) >= 0).flatten().nonzero()[:, 0]
            row, place = (likeness.flatten(0, 1).index_select(0, hit) >= 0).nonzero(as_tuple=True)
            hit = hit[row]
            pairs.append((slots.flatten()[hit], self.starts[groups][hit // BLOCK] + place))
        query, member = map(torch.cat, zip(*pairs, strict=True))
        lower = distances_of_pairs(outlines, query, self.outlines, member)
        near = lower <= upper[query]
        query, member, lower = query[near], member[near], lower[near]

        if neighbours == 1:  # the likeliest first, which spares most of the others
            best = torch.full_like(upper, torch.inf).scatter_reduce(0, query, lower, "amin")
            first = (lower == best[query]).nonzero()[:, 0]
            distance = distances_of_pairs(queries, query[first], self.features, member[first])
            found = torch.full_like(upper, torch.inf).scatter_reduce(0, query[first], distance, "amin")
            near = lower <= (found + 2e-5 * (norms + found))[query]
            query, member = query[near], member[near]
            distance = distances_of_pairs(queries, query, self.features, member)
            return found.scatter_reduce(0, query, distance, "amin")[:, None]
        distance = distances_of_pairs(queries, query, self.features, member)
        order = distance.argsort()
        order = order[query[order].argsort(stable=True)]  # by query, then by distance
        counts = torch.bincount(query, minlength=len(queries))
        return distance[order][(counts.cumsum(0) - counts)[:, None] + torch.arange(neighbours)]

    def _rows(self, rounded: torch.Tensor, limit: torch.Tensor, errors: torch.Tensor | None = None) -> torch.Tensor:
        """Queries as rows whose product with a member is q·b - |b|²/2 + limit [Q] + the products of both errors [Q, 2].

        A member that is nearer than r has q·b - |b|²/2 >= (|q|² - r²) / 2. So with (r² - |q|²) / 2 as the limit, only
        those whose product is not negative can be that near, if the errors allow for what rounding the outlines has
        lost: the query's loss times the member's length, and the other way round. The limit is added before anything
        is rounded, so the sign is that of the exact sum but for float32's rounding. The last row, for places that no
        query takes, has negative products only.
        """
        errors = limit.new_zeros(len(limit), 2) if errors is None else errors
        halves = rounded.new_full((len(rounded), 3), -1.0)
        limits = _in_three(limit.clamp(max=NEVER / 10), rounded.dtype)
        rows = torch.cat([rounded, halves, limits, _rounded_up(errors, rounded.dtype)], 1)
        last = rows.new_zeros(1, rows.shape[1])
        last[:, [-EXTRA, 3 - EXTRA]] = -1
        return torch.cat([rows, last])

    def _likeness(self, rows: torch.Tensor, group: torch.Tensor, query: torch.Tensor):
        """Products of queries and the groups that they are compared with, in blocks of BLOCK queries of one group.

        rows: of `_rows`; group, query: int64 [P], by group. Yields, some blocks [n] at a time, the blocks' groups [n],
        their queries [n, BLOCK] (Q where there is none), and their products, float32 [n, BLOCK, width].
        """
        counts = torch.bincount(group, minlength=len(self.sizes))
        blocks = -(-counts // BLOCK)
        first = BLOCK * (blocks.cumsum(0) - blocks) - (counts.cumsum(0) - counts)  # place minus position in the list
        groups = torch.arange(len(blocks)).repeat_interleave(blocks)
        slots = query.new_full((len(groups) * BLOCK,), len(rows) - 1)
        slots[torch.arange(len(group)) + first[group]] = query
        at_once = max(1, VALUES // (BLOCK * self.width))
        for some, rows_of in zip(groups.split(at_once), slots.view(-1, BLOCK).split(at_once), strict=True):
            left = rows.index_select(0, rows_of.flatten()).view(*rows_of.shape, -1)
            right = self.members.index_select(0, some).transpose(1, 2)
            yield some, rows_of, torch.bmm(left, right).float()


def distances_of_pairs(
    queries: torch.Tensor, query: torch.Tensor, members: torch.Tensor, member: torch.Tensor, chunk: int = 512
) -> torch.Tensor:
    """Squared distances of pairs: float [Q, D] and [M, D], indices int64 [P] of rows of each -> float [P].

    chunk: pairs at a time; few enough for a processor's cache.
    """
    # index_select copies whole rows where indexing would go value by value.
    pairs = zip(query.split(chunk), member.split(chunk), strict=True)
    differences = (queries.index_select(0, one).sub_(members.index_select(0, two)) for one, two in pairs)
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


def _means(rows: torch.Tensor, label: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Means of the rows of each label, [number, D], zero where there are none; and whether there are any."""
    sizes = torch.bincount(label, minlength=number)
    sums = torch.zeros(number, rows.shape[1]).index_add_(0, label, rows)
    return sums / sizes.clamp(min=1)[:, None], sizes > 0


def _largest(values: torch.Tensor, label: torch.Tensor, number: int) -> torch.Tensor:
    """The largest value of each label, [number]; none is negative."""
    return torch.zeros(number).scatter_reduce(0, label, values, "amax")


def _in_three(values: torch.Tensor, precision: torch.dtype) -> torch.Tensor:
    """Float32 [N] -> [N, 3] of that precision, whose sum is the value but for float32's own rounding."""
    parts = []
    for _ in range(3):
        parts.append(values.to(precision))
        values = values - parts[-1].float()
    return torch.stack(parts, 1)


def _rounded_up(values: torch.Tensor, precision: torch.dtype) -> torch.Tensor:
    """In that precision, and not smaller; values are not negative."""
    return (values * (1 + torch.finfo(precision).eps)).to(precision)


def random_projection(dimensions: int, target: int, seed: int = 0) -> torch.Tensor:
    """float [dimensions, target]: uniform in ±1/sqrt(dimensions), as a bias-free torch.nn.Linear starts."""
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(dimensions, target, generator=generator) - 1) / dimensions**0.5
