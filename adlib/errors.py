"""Errors that are for the person who made the mistake; and the words of others by which they are known."""

from collections.abc import Iterable
from difflib import get_close_matches

# What CUDA and its libraries (cuBLAS, cuDNN, cuSOLVER, cuFFT) say where a GPU has no room, be it not torch's allocator
# that asked and torch.OutOfMemoryError that was raised.
GPU_MEMORY_SHORT = ("CUDA out of memory", "CUDA error: out of memory", "_ALLOC_FAILED")


class InputError(ValueError):
    """Wrong use or missing input: the message says what was wrong, where, and what to do.

    The command line prints the message alone (no traceback) and exits with code 2.
    """


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The end of a sentence about a name that does not exist: " Did you mean 'padim'?", or "" if none is like it."""
    plain = {one.casefold().replace("-", "_"): one for one in known}
    found = get_close_matches(str(name)[:200].casefold().replace("-", "_"), plain, 1, 0.6)
    return f" Did you mean {plain[found[0]]!r}?" if found else ""
