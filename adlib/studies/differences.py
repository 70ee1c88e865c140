"""Differences within a seed: what an alternative changes against a reference that differs in nothing else.

Both learned and were scored alike but for what is compared, so what the draw of a seed does to both cancels. Categories
are averaged within a seed, and the interval is over the seeds: it says nothing of other test images.
"""

from collections.abc import Hashable, Sequence

import pandas as pd

from adlib.studies.common import mean_interval

GROUP = ("dataset", "method")


def differences(values: pd.DataFrame, level: str, reference: Hashable, by: Sequence[str] = GROUP) -> pd.DataFrame:
    """What each level of something changes against the reference level, one row per group and level.

    values: columns of `by`, category, seed, `level`, value; one row each. The reference may be NaN. A difference is the
    value at a level minus that at the reference, of one category and seed. Seeds that lack a category are left out.
    Columns: those of `by`, `level`, value (mean), difference (mean), low, high (Student's at 95 % over the seeds; NaN
    for one), categories, seeds. The reference itself is in the table, with differences of 0.
    """
    by, keys = list(by), [*by, "category", "seed"]
    same = values[level].isna() if pd.isna(reference) else values[level] == reference
    base = values[same].set_index(keys)["value"].rename("base")
    paired = values.join(base, on=keys).dropna(subset=["base", "value"])
    rows = []
    for group, mine in paired.groupby(by, sort=False):
        categories = mine["category"].nunique()
        for name, part in mine.groupby(level, sort=False, dropna=False):
            by_seed = part.assign(difference=part["value"] - part["base"]).groupby("seed")
            complete = by_seed[["difference", "value"]].mean()[by_seed["category"].nunique() == categories]
            if complete.empty:
                continue
            difference, low, high = mean_interval(complete["difference"])
            row = dict(zip(by, group, strict=True)) | {level: name, "value": complete["value"].mean()}
            row |= {"difference": difference, "low": low, "high": high}
            rows.append(row | {"categories": categories, "seeds": len(complete)})
    columns = [*by, level, "value", "difference", "low", "high", "categories", "seeds"]
    numbers = dict.fromkeys(("value", "difference", "low", "high"), float) | dict.fromkeys(("categories", "seeds"), int)
    return pd.DataFrame(rows, columns=columns).astype(numbers | {level: values[level].dtype})  # without any row, too


def change(points: float) -> str:
    """ "2.1 points lower": a difference in words."""
    return (
        "as high to a tenth"
        if abs(points) < 0.05
        else f"{abs(points):.1f} points {'higher' if points > 0 else 'lower'}"
    )


def told(low: float, high: float) -> bool:
    """Whether an interval tells a difference from none: 0 lies outside. One value has none, and values that are all
    alike have no spread for one.
    """
    return low < high and not low <= 0 <= high


def interval_text(low: float, high: float, number: int, what: str) -> str:
    """ "95 % interval -0.3 to 2.0, 4 draws"; without an interval, why: it takes two, and a spread."""
    if pd.isna(low):
        return f"{number} {what}: no interval"
    if low == high and number > 1:
        return f"alike in all {number} {what}: no interval"
    return f"95 % interval {low:.1f} to {high:.1f}, {number} {what}"
