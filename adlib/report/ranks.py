"""Ranks: do we order the methods as a paper does, which differences of mean ranks mean anything, what carries over.

Pure functions of the cells that `adlib.report.comparison` returns; published values and ours go in one at a time. A
block is one category of a dataset in one paper: methods are ranked within it, 1 for the best, ties at their mean rank.

Friedman's test and the studentised range are scipy's; scikit-posthocs adds statsmodels and pairs' p-values to them but
not the critical difference, which its diagram wants to be given.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import friedmanchisquare, kendalltau, studentized_range

from adlib import papers
from adlib.models import is_surrogate
from adlib.report.labels import check_metric

LOWER_IS_BETTER = ("fpr", "fp", "fn")
BLOCK = ["paper", "dataset", "category"]


def rank_agreement(table: pd.DataFrame) -> pd.DataFrame:
    """Kendall's tau-b between the published and our order of methods, one row per paper, table, dataset and metric.

    table: of `comparison`, or several of them together. Orders are of means over the categories in which all methods
    that have any number of both kinds have one; where a paper prints no category, of its average, if ours is complete.
    Rows of one method with different settings count as methods. Surrogates are other methods than the paper's
    and left out.
    Columns: paper, table, dataset, metric, methods and categories (how many), tau (1 same order, -1 reversed, NaN with
    a reason), reason, phantom (whether any of our numbers is of drawn data: then they are compared with nothing).
    """
    keys = ["paper", "table", "dataset", "metric"]
    rows = [
        dict(zip(keys, values, strict=True)) | _agreement(cells) for values, cells in table.groupby(keys, sort=False)
    ]
    return pd.DataFrame(rows, columns=[*keys, "methods", "categories", "tau", "reason", "phantom"])


def best(cells: pd.DataFrame, value: str) -> set[tuple]:
    """(dataset, category, metric, method, setting) of the best cell of each column, and of all that are equal to it.

    cells: of one table's `comparison`. value: "published" or "ours". Where all are equal none is best; an
    average that lacks categories is compared with nothing.
    """
    whole = cells[cells[value].notna() & ((value == "published") | (cells["state"] != "partly"))]
    found = set()
    for place, rows in whole.groupby(["dataset", "category", "metric"], sort=False):
        values = rows[value].round(9)
        if values.nunique() > 1:
            first = rows[values == (values.min() if place[2] in LOWER_IS_BETTER else values.max())]
            found |= {(*place, *row) for row in first[["method", "setting"]].itertuples(index=False, name=None)}
    return found


def _agreement(cells: pd.DataFrame) -> dict:
    """What `rank_agreement` says of the cells of one metric."""
    average = cells["category"] == "average"
    if cells.loc[~average, "published"].notna().any():
        chosen = cells[~average]
    else:
        chosen = cells[average & (cells["state"] == "done")]
    both = chosen[~chosen["method"].map(is_surrogate).astype(bool)].dropna(subset=["published", "ours"])
    wide = both.pivot(index="category", columns=["method", "setting"], values=["published", "ours"]).dropna()
    methods = both[["method", "setting"]].drop_duplicates().shape[0]
    tau, reason = float("nan"), ""
    phantom = bool(both["phantom"].any())
    if phantom:
        reason = "ours are of drawn data"
    elif methods < 3:
        reason = "fewer than three methods have both numbers"
    else:
        tau, reason = _tau(wide["published"].mean(), wide["ours"].mean())
    return {"methods": methods, "categories": len(wide), "tau": tau, "reason": reason, "phantom": phantom}


def _tau(first: pd.Series, second: pd.Series) -> tuple[float, str]:
    """Kendall's tau-b of two means over the same methods; NaN and why where there is no order."""
    if first.isna().any() or second.isna().any():
        return float("nan"), "no category in which all methods have a number"
    tau = float(kendalltau(first.round(9), second.round(9)).statistic)  # rounded: equal means are ties
    return tau, "all methods are equal" if np.isnan(tau) else ""


def blocks(cells: pd.DataFrame, metric: str, value: str) -> pd.DataFrame:
    """One metric as a wide table: a row per block (paper, dataset, category), a column per method, NaN where none.

    cells: of `comparison` or `comparisons`. value: "published" or "ours". A paper's average stands for a dataset of
    which it prints no category (ours only if complete); else averages are left out, for they are no further block. Rows
    with a setting (ablations, injected defects) are left out: they are variants of one method. Surrogates of ours are
    called so. Raises InputError for a metric that no table of a paper has.
    """
    check_metric(metric, _printed_metrics())
    chosen = cells[(cells["metric"] == metric) & (cells["setting"] == "")]
    average = chosen["category"] == "average"
    place = pd.MultiIndex.from_frame(chosen[BLOCK[:2]])
    printed = place.isin(place[(~average & chosen["published"].notna()).to_numpy()])
    chosen = chosen[~average | ~printed]
    if value == "ours":
        chosen = chosen[(chosen["category"] != "average") | (chosen["state"] == "done")]
    chosen = chosen.drop_duplicates([*BLOCK, "method"])
    rows = chosen[BLOCK].drop_duplicates()
    wide = chosen.pivot(index=BLOCK, columns="method", values=value)
    wide = wide.reindex(index=pd.MultiIndex.from_frame(rows), columns=chosen["method"].unique())
    if value == "ours":
        wide = wide.rename(columns={name: f"{name} (surrogate)" for name in wide if is_surrogate(name)})
    return wide


def _printed_metrics() -> list[str]:
    """The metrics of all papers' benchmark tables."""
    tables = [table for paper in papers.list_papers() for table in papers.shared_protocol(paper)["tables"].values()]
    return list(dict.fromkeys(metric for table in tables for metric in table["metrics"]))


def complete(wide: pd.DataFrame) -> pd.DataFrame:
    """The blocks in which every method has a value; methods without any value are left out first."""
    return wide.dropna(axis="columns", how="all").dropna(axis="index")


def ranks(wide: pd.DataFrame, lower_is_better: bool = False) -> pd.DataFrame:
    """Ranks of the methods within each complete block: 1 for the best, ties share the mean of their ranks."""
    return complete(wide).round(9).rank(axis="columns", ascending=lower_is_better)


@dataclass
class RankTest:
    """Friedman's test and Nemenyi's critical difference of mean ranks.

    mean_ranks: by method, the best first. blocks: how many they are over. left_out: methods without any value.
    chi2, p: Friedman's statistic, corrected for ties, and its probability if all methods were equal (an approximation
    that wants more than 10 blocks and 5 methods). agreement: Kendall's W, 1 if all blocks have one order, 0 if none.
    critical_difference: mean ranks that differ by as much differ at level alpha. reason: why there is no test, or "".
    """

    mean_ranks: pd.Series
    blocks: int
    left_out: list[str]
    alpha: float
    chi2: float = float("nan")
    p: float = float("nan")
    agreement: float = float("nan")
    critical_difference: float = float("nan")
    reason: str = ""


def rank_test(wide: pd.DataFrame, alpha: float = 0.05, lower_is_better: bool = False) -> RankTest:
    """Mean ranks over the complete blocks, with Friedman's and Nemenyi's tests. Demšar (JMLR 7, 2006), section 3.2.2.

    wide: of `blocks`. The tests take blocks for independent; categories of one dataset are less than that, so read the
    critical difference as the least that a difference should have. Under three methods or two blocks there is no test.
    """
    found = ranks(wide, lower_is_better)
    count, methods = found.shape
    means = found.mean().sort_values(kind="stable") if count else pd.Series(dtype=float)
    test = RankTest(means, count, [name for name in wide if wide[name].isna().all()], alpha)
    if methods < 3 or count < 2:
        test.reason = f"methods {methods}, categories in which all have a number {count}" if methods else "no number"
        return test
    if (found.nunique(axis="columns") == 1).all():
        test.reason = "the methods are equal in every category"
        return test
    test.chi2, test.p = (float(number) for number in friedmanchisquare(*found.to_numpy().T))
    test.agreement = test.chi2 / (count * (methods - 1))
    test.critical_difference = critical_difference(methods, count, alpha)
    return test


def critical_difference(methods: int, blocks: int, alpha: float = 0.05) -> float:
    """Nemenyi's critical difference of mean ranks: q sqrt(k (k + 1) / 6 N), k methods, N blocks, q the studentised
    range over sqrt(2). Demšar (2006), section 3.2.2: 1.25 for 4 methods, 14 blocks and alpha 0.05.
    """
    quantile = studentized_range.ppf(1 - alpha, methods, np.inf) / np.sqrt(2)
    return float(quantile * np.sqrt(methods * (methods + 1) / (6 * blocks)))


def equal_groups(mean_ranks: pd.Series, difference: float) -> list[list[str]]:
    """The largest groups of methods of which no two differ by the critical difference or more, two methods at least."""
    ordered, groups, reached = mean_ranks.sort_values(kind="stable"), [], 0
    for start in range(len(ordered)):
        stop = int((ordered - ordered.iloc[start] < difference).sum())
        if stop > max(reached, start + 1):
            groups.append(list(ordered.index[start:stop]))
            reached = stop
    return groups


def rank_tests(cells: pd.DataFrame, metric: str, value: str, alpha: float = 0.05) -> dict[str, RankTest]:
    """`rank_test` on the `blocks` of each dataset, by its name: fields of different methods share no ranks."""
    tests = {}
    for _, group in cells[cells["metric"] == metric].groupby("paper", sort=False):
        for name, wide in _datasets(blocks(group, metric, value)).items():
            tests[name] = rank_test(wide, alpha, metric in LOWER_IS_BETTER)
    return tests


def _datasets(wide: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The blocks of each dataset, by its name, with the paper's in brackets where it is another's."""
    groups = wide.groupby(level=["paper", "dataset"], sort=False)
    return {name if name == paper else f"{name} ({paper})": group for (paper, name), group in groups}


def dataset_means(wide: pd.DataFrame) -> pd.DataFrame:
    """Methods x datasets: means over the complete blocks of each dataset, NaN where a method has none."""
    means = {name: complete(group).mean() for name, group in _datasets(wide).items()}
    return pd.DataFrame(means, index=wide.columns)


def standing(wide: pd.DataFrame, lower_is_better: bool = False) -> pd.DataFrame:
    """Methods x datasets: the mean share of the dataset's other methods that a method beats (ties count half).

    1 is always first, 0 always last: ranks that fields of different size can be compared by, though not their strength.
    """
    found = {}
    for name, group in _datasets(wide).items():
        within = ranks(group, lower_is_better)
        rivals = within.shape[1] - 1
        found[name] = (
            (within.shape[1] - within.mean()) / rivals if rivals > 0 and len(within) else pd.Series(dtype=float)
        )
    return pd.DataFrame(found, index=wide.columns)


def order_agreement(wide: pd.DataFrame) -> pd.DataFrame:
    """Kendall's tau-b between the orders of methods on two datasets, for each pair that shares two methods or more.

    Columns: first, second, methods (names), tau (NaN with a reason under three methods), reason.
    """
    rows = []
    for (first, one), (second, two) in combinations(_datasets(wide).items(), 2):
        shared = [name for name in wide if one[name].notna().any() and two[name].notna().any()]
        if len(shared) < 2:
            continue
        one_mean, two_mean = complete(one[shared]).mean(), complete(two[shared]).mean()
        tau, reason = float("nan"), "fewer than three methods in both"
        if len(shared) > 2:
            tau, reason = _tau(one_mean, two_mean)
        rows.append([first, second, ", ".join(shared), tau, reason])
    return pd.DataFrame(rows, columns=["first", "second", "methods", "tau", "reason"])
