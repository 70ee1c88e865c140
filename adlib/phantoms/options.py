"""Options of drawing: what they may be, by the annotations of a phantom's `write`, and how they are checked."""

from collections.abc import Callable
from typing import Annotated, Literal, get_type_hints

from adlib.errors import InputError, did_you_mean
from adlib.parameters import Range, Whole, checked

Seed = Annotated[int, Range(0, 2**32 - 1)]
Side = Annotated[int, Range(16, 8192)]  # pixels; no product can be drawn in fewer
Named = Literal["small", "published"]
Three = tuple[Whole, Whole, Whole]
Difficulty = Literal["hard", "plain"]


def checked_options(write: Callable, options: dict, published: object = None) -> dict:
    """The options of `write`, seed among them, as its annotations want them; without annotations as they are.

    published: numbers by category, where counts may name these alone.
    Raises InputError for a value that is not allowed, and for a category that is none.
    """
    kinds = get_type_hints(write, include_extras=True)
    options = {name: checked(name, value, kinds[name]) if name in kinds else value for name, value in options.items()}
    counts = options.get("counts")
    if isinstance(counts, dict) and isinstance(published, dict):
        for name in counts:
            if name not in published:
                known = ", ".join(published)
                raise InputError(f"counts: there is no {name!r}, only {known}.{did_you_mean(name, published)}")
    return options
