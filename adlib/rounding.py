"""How measured values are rounded where people read them: what is below the whole never reads as the whole."""

import math

import pandas as pd

NOISE = 1e-9  # of a whole of 100; a sum of floats may miss the whole by as much


def rounded_text(value: float, whole: float = 100, decimals: int = 2) -> str:
    """A value, finite or not, with so many decimals: "99.95"; "<100" for what is below the whole and would read as it.

    whole: what a share cannot exceed, in the value's unit: 100 in percent, 1 of a fraction.
    """
    text = f"{value:.{decimals}f}"
    if _reads_as_whole(value, whole, decimals):
        return f"<{whole:g}"
    return text.removeprefix("-") if float(text) == 0 else text  # never -0.00


def rounded(values: pd.Series, whole: float = 100, decimals: int = 2) -> pd.Series:
    """`values.round(decimals)`, numbers still: what is below the whole and would read as it keeps its digits.

    A series of anything but floats stays as it is, so that a table's columns can all be given.
    """
    if not pd.api.types.is_float_dtype(values):
        return values
    return values.round(decimals).mask(values.map(lambda value: _reads_as_whole(value, whole, decimals)), values)


def _reads_as_whole(value: float, whole: float, decimals: int) -> bool:
    below = math.isfinite(value) and value < whole * (1 - NOISE / 100)
    return below and float(f"{value:.{decimals}f}") == whole
