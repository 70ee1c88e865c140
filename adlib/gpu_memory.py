"""What is done when a GPU's memory is short, where that changes no number: the same work in smaller parts.

Nothing is done where numbers would change: the batches and the precision of a training stay as they are. Such a run
fails, and adlib.runs.execute says what a person may choose.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from adlib.errors import GPU_MEMORY_SHORT

SHORT = "The GPU's memory was short: {}. No number depends on it."

_noting: list[dict[str, int]] = []  # of each block of `shortages` that is under way


@contextmanager
def shortages() -> Iterator[dict[str, int]]:
    """What is done in parts within the block, by whatever: sentence of `Parts` -> the fewest rows at once."""
    found: dict[str, int] = {}
    _noting.append(found)
    try:
        yield found
    finally:
        _noting.pop()


def note_shortages(found: dict[str, int]) -> None:
    """Something was done in parts: here, or by an earlier process whose work is gone on with."""
    for known in _noting:
        known |= {what: min(rows, known.get(what, rows)) for what, rows in found.items()}


def noted_shortages() -> dict[str, int]:
    """What has been done in parts so far within the innermost block of `shortages`."""
    return dict(_noting[-1]) if _noting else {}


def is_short(error: RuntimeError) -> bool:
    """Whether an error says that a GPU's memory was short."""
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in GPU_MEMORY_SHORT)


class Parts:
    """Gives rows to a function, all at once if they fit into a GPU's memory, else in parts that do.

    what: what is done to them, for `shortages`: "images were scored {} at a time".
    largest: rows at once, None as long as all have fitted; it is remembered from call to call.
    """

    def __init__(self, what: str = "rows were computed {} at a time"):
        self.what = what
        self.largest: int | None = None

    def of(self, work: Callable[[slice], object], count: int) -> list:
        """What work(part) returns for parts that follow each other, slices of range(count).

        Raises torch.OutOfMemoryError, or what else has said so, when not even a single row fits.
        """
        found, first = [], 0
        while first < count:
            rows = min(self.largest or count, count - first)
            try:
                found.append(work(slice(first, first + rows)))
                first += rows
                continue
            except RuntimeError as error:
                if rows == 1 or not is_short(error):
                    raise
            # Only here, outside of the exception, have its tensors gone.
            self.largest = rows // 2
            torch.cuda.empty_cache()
        if len(found) > 1:
            note_shortages({self.what: self.largest})
        return found


def part_of(batch: torch.Tensor, part: slice) -> torch.Tensor:
    """The rows of a part; the batch itself if these are all, with whatever it carries."""
    return batch if part.stop - part.start == len(batch) else batch[part]
