"""Differences: within a seed, over the same categories in every seed, and in words."""

import math

import pandas as pd
import pytest

from adlib.studies.common import mean_interval
from adlib.studies.differences import change, differences, interval_text, told


def test_a_seed_that_lacks_a_category_is_left_out():
    rows = [(seed, category, level) for seed in (0, 1, 2) for category in ("a", "b") for level in (0, 1)]
    rows.remove((2, "b", 1))
    table = pd.DataFrame(rows, columns=["seed", "category", "level"]).assign(dataset="d", method="m")
    # At level 1 category a gains 1, 3 and 50 in the three seeds, b nothing.
    gains = table["seed"].map({0: 1.0, 1: 3.0, 2: 50.0}) * (table["level"] == 1) * (table["category"] == "a")
    found = differences(table.assign(value=90 + gains), "level", 0).set_index("level")
    assert found.loc[1, ["difference", "value", "categories", "seeds"]].tolist() == [1, 91, 2, 2]
    assert found.loc[0, ["difference", "seeds"]].tolist() == [0, 3]


@pytest.mark.parametrize(
    ("points", "said"), [(0.04, "as high to a tenth"), (0.2, "0.2 points higher"), (-0.05, "0.1 points lower")]
)
def test_a_difference_in_words_is_the_number_that_is_printed(points, said):
    assert change(points) == said


def test_an_interval_in_words_is_there_where_something_varies():
    assert interval_text(math.nan, math.nan, 1, "draws") == "1 draws: no interval"
    assert interval_text(2.0, 2.0, 3, "seeds") == "alike in all 3 seeds: no interval"
    assert interval_text(-0.3, 2.0, 4, "draws") == "95 % interval -0.3 to 2.0, 4 draws"


def test_draws_that_are_all_alike_tell_no_difference():
    assert told(-2.0, -0.1) and told(0.1, 2.0) and not told(-1.0, 1.0)
    assert not told(math.nan, math.nan)
    mean, low, high = mean_interval([-0.6, 100 * 0.946 - 100 * 0.952])  # equal but for their last digits
    assert low == high == mean
    assert not told(low, high)
