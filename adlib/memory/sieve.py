"""A sieve in front of exact comparisons: which members of a memory bank may be within a distance of a query.

It lets through every member that is, and few others, from coarse vectors alone, of which distances are never longer
than those of the features that they stand for. A member b is within r of a query q where

    q·b - |b|²/2 + (r² - |q|²)/2 >= 0,

so one product tells; in eight-bit integers, where the processor has instructions for them, in a quarter of the time
that float32 takes. Members lie in groups, and queries are compared with one group at a time.
"""

import time
from collections.abc import Callable
from functools import cache

import torch

DIGITS = 8  # columns of bytes that hold a query's limit
HELD = 255 * DIGITS  # the most that they hold
NEVER = -1e30  # the likeness of what fills up a group


class FloatSieve:
    """In float32. members: [M, K], group by group; sizes: int64 [groups].

    Groups are filled up to a multiple of 32 places, which are like no query.
    """

    def __init__(self, members: torch.Tensor, sizes: torch.Tensor, queries: torch.Tensor):
        self.members = _by_group(torch.cat([members, members.new_ones(len(members), 1)], 1), sizes, 0.0)
        self.halves = _by_group(members.square().sum(1) / -2, sizes, NEVER)

    def rows(self, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries [Q, K] -> rows for the methods below, still without limits; start [Q] and slope [Q] of the limits:
        a query's limit is start + slope * r² for all that is within r of it.
        """
        rows = torch.cat([queries, queries.new_zeros(len(queries), 1)], 1)
        return rows, queries.square().sum(1) / -2, queries.new_full((len(queries),), 0.5)

    def set_limits(self, rows: torch.Tensor, limits: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Write the limits into the rows. Returns the base, for `hits`, and bool [Q]: queries whose limit cannot be
        written, and which have to be compared with all members in another way.
        """
        rows[:, -1] = limits
        return 0.0, limits.isnan()

    @staticmethod
    def room(count: int) -> int:
        """How many queries, at least so many, the methods below like at a time."""
        return count

    def likeness(self, rows: torch.Tensor, query: torch.Tensor, group: int) -> torch.Tensor:
        """Float [n, places] of these queries, int64 [n], and a group's members: the larger, the nearer, to rounding."""
        return torch.addmm(self.halves[group], rows.index_select(0, query), self.members[group].T)

    def hits(self, rows: torch.Tensor, query: torch.Tensor, group: int, base: float) -> torch.Tensor:
        """Uint8 [n, places], contiguous: not 0 where the member may be within the query's limit."""
        return (self.likeness(rows, query, group) >= 0).view(torch.uint8)


class IntegerSieve:
    """In eight-bit integers. queries: [Q, K], of the kind that is to come; all else as of FloatSieve.

    Vectors, of which no coordinate should be much longer than another, are centred, then rounded to steps. With q' and
    b' for the rounded ones, rounding can have lost

        q·b - q'·b'  <=  |q - q'| |b| + |q'| |b - b'|.

    Limits allow for it: a member's, for the loss that is usual with queries; a query's, for the largest loss of a
    member and for what its own goes beyond the usual. A query too long for the steps is divided by f: near members
    pass, and more others do, as

        q·b - |b|²/2 + c >= 0  implies  (q/f)·b - |b|²/2 + c/f + (1 - 1/f) max|b|²/2 >= 0.

    Limits are in units of both steps' product, and a query's lies in columns of its own: how far it is below the base,
    in 127s, not more than that.
    """

    def __init__(self, members: torch.Tensor, sizes: torch.Tensor, queries: torch.Tensor):
        self.centre = members.mean(0)
        members, queries = members - self.centre, queries - self.centre
        self.step = float(queries.abs().max()) / 127 or 1.0
        self.loss = float(((queries / self.step).round_() * self.step - queries).norm(dim=1).max())
        step = float(members.abs().max()) / 127 or 1.0
        self.unit = self.step * step
        rounded = (members / step).round_()
        self.member_loss = float((rounded * step - members).norm(dim=1).max())
        lengths = members.norm(dim=1)
        self.longest = float(lengths.max())
        halves = lengths.square() / -2
        self.halves = _by_group(halves / self.unit, sizes, NEVER)
        self.limits = _by_group((halves + self.loss * lengths) / self.unit, sizes, NEVER)
        columns = torch.cat([rounded, rounded.new_full((len(rounded), DIGITS), -127)], 1).to(torch.int8)
        self.members = [torch.ops.onednn.qlinear_prepack(some, None) for some in _by_group(columns, sizes, 0)]
        self.scale, self.zero = torch.ones(1), torch.zeros(1, dtype=torch.int32)

    def rows(self, queries):
        queries = queries - self.centre
        factor = (queries.abs().amax(1) / (127 * self.step)).clamp_(min=1)
        start = (queries.square().sum(1) / -2 + (factor - 1) * self.longest**2 / 2) / factor
        queries /= factor[:, None]
        rounded = (queries / self.step).round_().clamp_(-127, 127)
        back = rounded * self.step
        start += back.norm(dim=1) * self.member_loss
        start += queries.sub_(back).norm(dim=1).sub_(self.loss).clamp_(min=0) * self.longest
        rows = torch.full((len(queries), queries.shape[1] + DIGITS), 128, dtype=torch.uint8)  # a row means itself - 128
        rows[:, :-DIGITS] = rounded.add_(128)
        return rows, start, 0.5 / factor

    def set_limits(self, rows, limits):
        limits = limits / self.unit + 1  # more than what float32 and a byte round
        base = min(float(limits.nan_to_num(0.0).max()), float(limits.nanmedian().nan_to_num(0.0)) + 127 * HELD / 2)
        left = ((base - limits) / 127).floor_().nan_to_num_(0.0).clamp_(0, HELD)
        for digit in range(-DIGITS, 0):
            rows[:, digit] = left.clamp(max=255)
            left = (left - 255).clamp_(min=0)
        return base - 127 * 128 * DIGITS, ~(limits <= base)

    def likeness(self, rows, query, group):
        return self._product(rows, query, group, self.halves[group], torch.float32, "none")

    def hits(self, rows, query, group, base):
        return self._product(rows, query, group, self.limits[group] + base, torch.uint8, "relu")

    @staticmethod
    def room(count):
        step = max(32, 2 ** (count.bit_length() - 3))  # few numbers of rows, for each of which a program is compiled
        return -(-count // step) * step

    def _product(self, rows, query, group, added, precision, after):
        return torch.ops.onednn.qlinear_pointwise(
            rows.index_select(0, query),
            1.0,  # scale and zero of the rows
            128,
            self.members[group],
            self.scale,
            self.zero,
            added,
            1.0,  # scale and zero of the result
            0,
            precision,
            after,
            [],
            "",
        )


@cache
def best_sieve() -> type[FloatSieve] | type[IntegerSieve]:
    """The faster one on this processor, if its products are right; tried once. Bytes are multiplied by an operation
    that PyTorch has on x86 alone, and that saturates, or is slow, on processors without instructions for it.
    """
    members = torch.full((128, 120), 1.0)
    members[::2] = -1.0
    query = torch.arange(128).repeat(8)
    times = {}
    for kind in (FloatSieve, IntegerSieve):
        try:
            sieve = kind(members, torch.tensor([128]), members)
            rows = sieve.rows(members)[0]
            if kind is IntegerSieve:
                sieve.members = [torch.ops.onednn.qlinear_prepack(rows.new_full(rows.shape, 127).to(torch.int8), None)]
                largest = sieve.likeness(torch.full_like(rows, 255), query, 0) - sieve.halves[0]
                if not (largest.round() == 127 * 127 * rows.shape[1]).all():
                    continue
            times[kind] = min(_seconds(lambda: sieve.hits(rows, query, 0, 0.0)) for _ in range(9))  # noqa: B023
        except (AttributeError, NotImplementedError, RuntimeError):  # how PyTorch says that it lacks an operation
            continue
    return min(times, key=times.get)


def _seconds(work: Callable) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _by_group(values: torch.Tensor, sizes: torch.Tensor, fill: float) -> list[torch.Tensor]:
    """Values [M, ...] of each group, filled up to a multiple of 32."""
    groups = []
    for some in values.split(sizes.tolist()):
        group = some.new_full((-(-len(some) // 32) * 32, *some.shape[1:]), fill)
        group[: len(some)] = some
        groups.append(group)
    return groups
