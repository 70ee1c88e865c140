"""What is done when a GPU's memory is short, where that changes no number: the same work in smaller parts.

Nothing is done where numbers would change: the batches and the precision of a training stay as they are. Such a run
fails, and adlib.runs.execute says what a person may choose.
"""

from collections.abc import Callable

import torch

SHORT = "The GPU's memory was short: {}. No number depends on it."


class Parts:
    """Gives rows to a function, all at once if they fit into a GPU's memory, else in parts that do.

    largest: rows at once, None as long as all have fitted; it is remembered from call to call.
    """

    def __init__(self):
        self.largest: int | None = None

    def of(self, work: Callable[[slice], object], count: int) -> list:
        """What work(part) returns for parts that follow each other, slices of range(count).

        Raises torch.OutOfMemoryError when not even a single row fits.
        """
        found, first = [], 0
        while first < count:
            rows = min(self.largest or count, count - first)
            try:
                found.append(work(slice(first, first + rows)))
                first += rows
                continue
            except torch.OutOfMemoryError:
                if rows == 1:
                    raise
            # Only here, outside of the exception, have its tensors gone.
            self.largest = rows // 2
            torch.cuda.empty_cache()
        return found


def part_of(batch: torch.Tensor, part: slice) -> torch.Tensor:
    """The rows of a part; the batch itself if these are all, with whatever it carries."""
    return batch if part.stop - part.start == len(batch) else batch[part]
