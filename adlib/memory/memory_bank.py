"""The memory bank: exact nearest neighbours among stored features, and a random projection to choose them cheaply."""

import math
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
import torch.nn.functional as F

from adlib.gpu_memory import Parts, part_of
from adlib.memory.distance_bounds import fit_search_outline, rounding_of_rest, spread
from adlib.memory.sieve import FloatSieve, IntegerSieve, best_sieve

SMALLEST = 2048  # stored features below which the search in groups gains nothing
TABLE = 2**20  # pairs of queries and groups that are looked at at a time
CACHED = 1024  # queries that are prepared at a time: a processor's cache holds what is worked out of them
ROUNDING = 2e-5  # of squared lengths: more than what float32 rounds


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
    adlib.memory.distance_bounds). For a query, a member of the nearest group is an upper bound. A group is skipped as a
    whole where its ball lies farther away, or where a plane between its centre and the nearest one tells so: of all
    that is a to one of two centres and b to the other, a² - b² grows along the line through both, by twice their
    distance (Connor, Cardillo, Vadicamo and Rabitti, "Hilbert Exclusion", 2016). Members of the other groups go through
    a sieve (adlib.memory.sieve), are rejected if their outlines lie farther away, and the few that are left are
    compared in full. What is found is exact: the distances are those of `nearest`, computed from differences, to about
    1e-6 of themselves. Each thread searches for queries of its own. On a GPU, where one large product beats many small
    ones, all rows are compared.
    """

    def __init__(self, bank: torch.Tensor):
        self.bank = self.features = bank
        self.grouped = bank.device.type == "cpu" and len(bank) >= SMALLEST and bank.shape[1] >= 32
        self.parts = Parts("the memory bank was searched for {} patches at a time")
        self.outline = None  # of the features, once there are queries to choose it by

    def nearest(self, queries: torch.Tensor, neighbours: int = 1) -> torch.Tensor:
        """Float [Q, D] -> squared distances to the k nearest, float [Q, k], ascending, on the queries' device.

        On a GPU, as many queries are compared at once as its memory allows.
        """
        if queries.device != self.bank.device:
            return self.nearest(queries.to(self.bank.device), neighbours).to(queries.device)
        if self.grouped and self.outline is None:
            self._group(queries, neighbours)
        if self.grouped:
            rows = max(1, TABLE // len(self.sizes))
            return in_threads(lambda part: torch.cat([self._search(p, neighbours) for p in part.split(rows)]), queries)
        work = partial(nearest, bank=self.features, neighbours=neighbours)
        return torch.cat(self.parts.of(lambda part: work(part_of(queries, part)), len(queries)))

    def __reduce__(self):
        """Copies divide the bank anew: the operands of some products are in a form that PyTorch does not copy."""
        return BankSearch, (self.bank,)

    @classmethod
    def of(cls, bank: torch.Tensor, last: "BankSearch | None") -> "BankSearch":
        """The last one made, if it is of this bank, else a new one: for detectors, whose bank may be exchanged."""
        return last if last is not None and last.bank is bank else cls(bank)

    def _group(self, queries: torch.Tensor, neighbours: int, rounds: int = 8) -> None:
        """Divide the bank: k-means from rows evenly spaced, so that the same bank always has the same groups; those of
        more than `width` members are divided further, by their distance from the centre.
        """
        number = max(16, math.isqrt(len(self.features)) // 2)
        self.width = 2 ** math.ceil(math.log2(len(self.features) / number))  # members that a group has at most
        fast = best_sieve() is IntegerSieve
        self.outline, integers = fit_search_outline(self.features, queries, neighbours, fast)
        sieve = IntegerSieve if integers else FloatSieve
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
        self.norms = self.features.square().sum(1)
        outlines = outlines.index_select(0, rows)
        self.sizes = torch.bincount(label)
        self.starts = (self.sizes.cumsum(0) - self.sizes).tolist()
        self.centres, _ = _means(outlines, label, len(self.sizes))
        self.centre_norms = self.centres.square().sum(1)
        self.radii = _largest((outlines - self.centres[label]).norm(dim=1), label, len(self.sizes))
        exactly = "donot_use_mm_for_euclid_dist"
        self.twice_apart = 2 * torch.cdist(self.centres, self.centres, compute_mode=exactly)
        self.nearer = torch.stack([self._nearer(*some) for some in enumerate(outlines.split(self.sizes.tolist()))], 1)
        norms = outlines.square().sum(1)
        self.longest = norms.max().sqrt()
        self.rounding = rounding_of_rest(outlines).max()
        # Beside the outlines, what is needed for products, in _search, that are positive for near pairs.
        self.outlines = torch.cat([outlines, torch.ones(len(outlines), 1), norms[:, None] / -2], 1)
        self.sieve = sieve(outlines, self.sizes, self.outline(spread(queries, 20000)))
        with warnings.catch_warnings():  # once, here: PyTorch says of its first sparse tensor that they are new
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            products_of_pairs(outlines[:1], label[:1], outlines, label[:1])

    def _away(self, outlines: torch.Tensor) -> torch.Tensor:
        """Squared distances of outlines from the groups' centres, [N, groups], to rounding."""
        norms = outlines.square().sum(1)
        return torch.addmm(self.centre_norms, outlines, self.centres.T, alpha=-2).add_(norms[:, None])

    def _nearer(self, group: int, outlines: torch.Tensor) -> torch.Tensor:
        """[groups]: of a group's outlines, the largest squared distance from its centre less that from each centre."""
        return ((outlines - self.centres[group]).square_().sum(1, keepdim=True) - self._away(outlines)).amax(0)

    def _search(self, queries: torch.Tensor, neighbours: int) -> torch.Tensor:
        prepared = zip(*map(self._prepared, queries.split(CACHED)), strict=True)
        lengths, outlines, norms, away, rows, start, slope = map(torch.cat, prepared)
        nearest_away, home = away.masked_fill(self.sizes < neighbours, torch.inf).min(1)

        upper = self._upper(queries, home, rows, neighbours)
        upper = torch.minimum(upper, (norms.sqrt() + self.longest).square_())
        unsure = rounding_of_rest(outlines) + self.rounding
        upper += 2 * upper.sqrt() * unsure + ROUNDING * (norms + upper)
        base, beyond = self.sieve.set_limits(rows, start + slope * upper)
        if beyond.any():
            found = queries.new_empty(len(queries), neighbours)
            found[beyond] = nearest(queries[beyond], self.features, neighbours)
            if not beyond.all():
                found[~beyond] = self._search(queries[~beyond], neighbours)
            return found

        # Members that may be nearer, of all groups that neither their balls nor the planes exclude.
        reach = upper.sqrt()[:, None]
        near = away <= (self.radii + reach).square_()
        farthest = self.twice_apart.index_select(0, home).mul_(reach).add_(self.nearer.index_select(0, home))
        near &= away <= farthest.add_((nearest_away + ROUNDING * (norms + self.longest**2))[:, None])
        query, member = self._passed(rows, *near.T.nonzero(as_tuple=True), base)

        # Of these, all whose outlines may be nearer; then, than the members whose outlines are the nearest.
        left = torch.cat([outlines, ((upper - norms) / 2)[:, None], torch.ones(len(queries), 1)], 1)
        within = products_of_pairs(left, query, self.outlines, member)  # half of upper less the squared distance
        query, member, within = _where(within >= 0, query, member, within)
        deepest = -_smallest(-within, query, len(queries), neighbours)[:, -1]
        first = _where(within >= deepest.index_select(0, query), query, member)
        last = _smallest(self._distances(queries, lengths, *first), first[0], len(queries), neighbours)[:, -1]
        last = (last + ROUNDING * (lengths + last)).clamp_(min=0)
        last += 2 * last.sqrt() * unsure + ROUNDING * (norms + upper)
        query, member = _where(within >= ((upper - last) / 2).index_select(0, query), query, member)

        # Of these, all that rounding leaves in doubt.
        distance = self._distances(queries, lengths, query, member)
        last = _smallest(distance, query, len(queries), neighbours)[:, -1]
        query, member = _where(distance <= (last + ROUNDING * (lengths + last)).index_select(0, query), query, member)
        distance = distances_of_pairs(queries, query, self.features, member)
        return _smallest(distance, query, len(queries), neighbours)

    def _prepared(self, queries: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Of each query: squared length, outline, the outline's squared length and its squared distances from the
        centres; and what the sieve makes of it.
        """
        outlines = self.outline(queries)
        own = queries.norm(dim=1).square_(), outlines, outlines.square().sum(1), self._away(outlines)
        return *own, *self.sieve.rows(outlines)

    def _distances(self, queries, lengths, query, member) -> torch.Tensor:
        """Squared distances of pairs [P] from products, so to rounding of squared lengths."""
        products = products_of_pairs(queries, query, self.features, member)
        return lengths.index_select(0, query) + self.norms.index_select(0, member) - 2 * products

    def _upper(self, queries, home, rows, neighbours) -> torch.Tensor:
        """[Q]: what the k-th nearest is not farther than: the k likeliest members of a group; infinite where no group
        has so many.
        """
        if int(self.sizes.max()) < neighbours:
            return queries.new_full((len(queries),), torch.inf)
        home, query = home.sort(stable=True)
        likeliest = []
        for group, part, count in self._by_group(home, query):
            # Of a query without end, what only fills the group up may seem the likeliest: clamp_().
            places = _likeliest(self.sieve.likeness(rows, part, group)[:count], neighbours)
            likeliest.append(places.clamp_(max=int(self.sizes[group]) - 1).add_(self.starts[group]))
        member = torch.empty(len(queries), neighbours, dtype=torch.int64).index_copy_(0, query, torch.cat(likeliest))
        return distances_to(queries, self.features, member).amax(1)

    def _by_group(self, group: torch.Tensor, query: torch.Tensor) -> Iterator[tuple[int, torch.Tensor, int]]:
        """Each group that occurs, its queries, and their number: behind them come others, as many as the sieve likes.

        group, query: int64 [P], by group.
        """
        counts = torch.bincount(group, minlength=len(self.sizes)).tolist()
        query = F.pad(query, (0, self.sieve.room(max(counts))))
        first = 0
        for number, count in enumerate(counts):
            if count:
                yield number, query.narrow(0, first, self.sieve.room(count)), count
            first += count

    def _passed(self, rows, group, query, base) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries, ascending, and members that the sieve lets through, of queries and groups int64 [P] each, by group.

        The sieve answers in bytes, of which eight at a time are looked at first.
        """
        eights, places, firsts = [], [], []
        for number, part, count in self._by_group(group, query):
            hits = self.sieve.hits(rows, part, number, base)[:count].view(torch.int64)
            hit = hits.view(-1).nonzero()[:, 0]
            eights.append(hits.view(-1).index_select(0, hit))
            row = hit // hits.shape[1]
            places.append(part.index_select(0, row))
            firsts.append(hit.sub_(row.mul_(hits.shape[1])).mul_(8).add_(self.starts[number]))
        if not eights:
            return query[:0], query[:0]
        place, order = torch.cat(places).int().sort(stable=True)
        hit, offset = torch.cat(eights).index_select(0, order).view(torch.uint8).view(-1, 8).nonzero().unbind(1)
        first = torch.cat(firsts).index_select(0, order)
        return place.index_select(0, hit).long(), first.index_select(0, hit).add_(offset)


def _where(chosen: torch.Tensor, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Of each [P], what is chosen, bool [P]."""
    places = chosen.nonzero()[:, 0]
    return tuple(value.index_select(0, places) for value in values)


def _likeliest(likeness: torch.Tensor, count: int) -> torch.Tensor:
    """Places of the largest values of each row, [n, count]; of the largest alone, in steps that vectorise."""
    if count > 1:
        return likeness.topk(count, 1).indices
    folded = likeness.view(len(likeness), 16, -1)
    column = folded.amax(1).max(1, keepdim=True).indices
    row = folded.gather(2, column[:, None].expand(-1, 16, -1)).squeeze(2).max(1, keepdim=True).indices
    return row.mul_(folded.shape[2]).add_(column)


def distances_to(queries: torch.Tensor, members: torch.Tensor, member: torch.Tensor, chunk: int = 256) -> torch.Tensor:
    """Squared distances of each query from members of its own: float [Q, D] and [M, D], rows int64 [Q, k] -> [Q, k].

    chunk: queries at a time; few enough for a processor's cache.
    """
    parts = []
    for some, own in zip(queries.split(chunk), member.split(chunk), strict=True):
        rows = members.index_select(0, own.flatten())  # copies whole rows where indexing would go value by value
        parts.append(rows.view(*own.shape, -1).sub_(some[:, None]).norm(dim=2).square_())
    return torch.cat(parts)


def distances_of_pairs(
    queries: torch.Tensor, query: torch.Tensor, members: torch.Tensor, member: torch.Tensor, chunk: int = 256
) -> torch.Tensor:
    """Squared distances of pairs: float [Q, D] and [M, D], indices int64 [P] of rows of each -> float [P]."""
    pairs = zip(query.split(chunk), member.split(chunk), strict=True)
    return torch.cat([distances_to(queries.index_select(0, one), members, two[:, None])[:, 0] for one, two in pairs])


def products_of_pairs(
    queries: torch.Tensor, query: torch.Tensor, members: torch.Tensor, member: torch.Tensor
) -> torch.Tensor:
    """Scalar products of pairs: arguments of `distances_of_pairs`, the queries' indices ascending -> float [P].

    In place, where distances ask for a copy of both sides of each pair.
    """
    counts = torch.bincount(query, minlength=len(queries))
    rows = F.pad(counts.cumsum(0), (1, 0))
    size = len(queries), len(members)
    asked = torch.sparse_csr_tensor(rows, member, torch.zeros(len(member)), size, check_invariants=False)
    return torch.sparse.sampled_addmm(asked, queries, members.T, beta=0).values()


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


def _means(rows: torch.Tensor, label: torch.Tensor, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Means of the rows of each label, [number, D], zero where there are none; and whether there are any."""
    sizes = torch.bincount(label, minlength=number)
    sums = torch.zeros(number, rows.shape[1]).index_add_(0, label, rows)
    return sums / sizes.clamp(min=1)[:, None], sizes > 0


def _largest(values: torch.Tensor, label: torch.Tensor, number: int) -> torch.Tensor:
    """The largest value of each label, [number]; none is negative."""
    return torch.zeros(number).scatter_reduce(0, label, values, "amax")


def _smallest(values: torch.Tensor, query: torch.Tensor, queries: int, count: int) -> torch.Tensor:
    """The smallest values of each query, ascending; each has so many: values and query [P] -> [queries, count]."""
    if count == 1:
        return torch.full((queries,), torch.inf).scatter_reduce(0, query, values, "amin")[:, None]
    order = values.argsort()
    order = order[query[order].argsort(stable=True)]  # by query, then by value
    counts = torch.bincount(query, minlength=queries)
    return values[order][(counts.cumsum(0) - counts)[:, None] + torch.arange(count)]


def random_projection(dimensions: int, target: int, seed: int = 0) -> torch.Tensor:
    """float [dimensions, target]: uniform in ±1/sqrt(dimensions), as a bias-free torch.nn.Linear starts."""
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.rand(dimensions, target, generator=generator) - 1) / dimensions**0.5
