"""What is below the whole never reads as the whole."""

import numpy as np
import pandas as pd
import pytest

from adlib.rounding import rounded, rounded_text


@pytest.mark.parametrize(
    ("value", "whole", "decimals", "text"),
    [
        (99.994, 100, 2, "99.99"),
        (99.996, 100, 2, "<100"),
        (100.0, 100, 2, "100.00"),
        (100 - 1e-11, 100, 2, "100.00"),  # a sum's last digits
        (100.004, 100, 2, "100.00"),
        (99.96, 100, 1, "<100"),
        (0.99996, 1, 4, "<1"),
        (1, 1, 4, "1.0000"),
        (99.9, float("inf"), 0, "100"),  # of a count nothing is the whole
        (-0.001, 100, 2, "0.00"),
        (float("nan"), 100, 2, "nan"),
    ],
)
def test_only_the_whole_reads_as_the_whole(value, whole, decimals, text):
    assert rounded_text(value, whole, decimals) == text


def test_a_table_stays_numeric_and_keeps_the_digits_of_what_would_read_as_100():
    table = pd.DataFrame({"a": [99.996, 98.123, np.nan], "name": ["x", "y", "z"], "n": [1, 2, 3]}).apply(rounded)
    assert table["a"].tolist()[:2] == [99.996, 98.12]
    assert table["n"].dtype == int
