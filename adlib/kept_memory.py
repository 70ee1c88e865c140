"""Main memory that a process keeps while it computes, for tensors to come.

By the habit of glibc's malloc, the memory of a large tensor goes back to the system when the tensor is freed, and the
next one's pages are cleared by the system, one by one, as they are touched. Where one batch is like the next, that is
work for nothing: predictions by large feature maps spend a tenth to a sixth of their time on it. Kept memory lies in
one piece, whose gaps not every tensor fits: beside its model, a prediction holds 1.5 to 1.9 times as much at a time,
three times where that is little (64 MB), no more for more batches, and gives all of it back at the end. Not for
training, whose tensors of many sizes leave more gaps with every step: EfficientAD's held 1.8 times as much, for 8 % of
its time (GLASS's 1.2 times, for 19 %).
"""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

# Of mallopt(), in malloc.h: how much freed memory is kept; from what size, and how many, pieces come from the system.
TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4
LARGEST = 32 * 2**20  # the threshold to which malloc raises itself, and keeps twice as much, left to itself

_lock, _users = Lock(), 0


@contextmanager
def freed_memory_kept(kept: bool = True) -> Iterator[None]:
    """Within it, freed memory stays with the process; where malloc is not glibc's, nothing changes. May be nested.

    kept: False for no effect.
    """
    global _users
    malloc = _glibc() if kept else None
    if malloc is None:
        yield
        return
    with _lock:
        _users += 1
        if _users == 1:
            malloc.mallopt(MMAP_MAX, 0)
            malloc.mallopt(TRIM_THRESHOLD, -1)
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if not _users:
                malloc.mallopt(MMAP_MAX, 65536)  # glibc's own
                malloc.mallopt(MMAP_THRESHOLD, LARGEST)
                malloc.mallopt(TRIM_THRESHOLD, 2 * LARGEST)
                malloc.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
