"""Ranks of methods: agreement of two orders, mean ranks and their tests, and what is drawn of them."""

import math

import numpy as np
import pandas as pd
import pytest

from adlib.errors import InputError
from adlib.report import comparisons
from adlib.report.rank_figures import critical_difference_diagrams, rank_heat_map
from adlib.report.ranks import (
    blocks,
    critical_difference,
    dataset_means,
    equal_groups,
    order_agreement,
    rank_agreement,
    rank_test,
    rank_tests,
    ranks,
    standing,
)

NAN = float("nan")


def cells(rows, **more):
    """Cells of a comparison from (category, method, published, ours)."""
    table = pd.DataFrame(rows, columns=["category", "method", "published", "ours"])
    place = {"paper": "p", "table": "1", "dataset": "p", "setting": "", "metric": "image_auroc"}
    return table.assign(**(place | {"state": "done", "phantom": False} | more))


def wide(values, methods="abc"):
    """Blocks from rows of numbers."""
    index = pd.MultiIndex.from_tuples([("p", "p", f"c{row}") for row in range(len(values))])
    return pd.DataFrame(values, index.set_names(["paper", "dataset", "category"]), list(methods), dtype=float)


@pytest.mark.parametrize(
    ("ours", "tau"),
    [
        ((3, 2, 1), 1.0),
        ((1, 2, 3), -1.0),
        ((3, 1, 2), 1 / 3),  # two pairs agree, one does not
        ((3, 1, 1), 2 / math.sqrt(3 * 2)),  # tau-b: two pairs agree, one is a tie of ours
    ],
)
def test_tau_counts_pairs_in_the_same_order(ours, tau):
    rows = [("x", method, published, value) for method, published, value in zip("abc", (30, 20, 10), ours, strict=True)]
    found = rank_agreement(cells(rows)).iloc[0]
    assert found["tau"] == pytest.approx(tau)
    assert (found["methods"], found["categories"], found["reason"]) == (3, 1, "")


def test_orders_are_of_the_categories_that_all_methods_have():
    """The printed average is not used, nor the category that c lacks, in which a would lead."""
    rows = [("x", "a", 10, 10), ("x", "b", 20, 20), ("x", "c", 30, 30)]
    rows += [("y", "a", 99, 1), ("y", "b", 20, 99), ("y", "c", 10, NAN)]
    rows += [("average", "a", 99, 1), ("average", "b", 2, 2), ("average", "c", 1, 3)]
    found = rank_agreement(cells(rows)).iloc[0]
    assert (found["tau"], found["categories"]) == (1, 1)


@pytest.mark.parametrize(("state", "tau"), [("done", 1.0), ("partly", NAN)])
def test_an_average_counts_only_where_no_category_is_printed_and_ours_is_complete(state, tau):
    rows = [("average", method, value, value) for value, method in enumerate("abc")]
    found = rank_agreement(cells(rows, state=state)).iloc[0]
    assert found["tau"] == pytest.approx(tau, nan_ok=True)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([("x", "a", 1, 1), ("x", "b", 2, 2), ("x", "c", 3, NAN)], "fewer than three methods"),
        ([("x", "a", 1, 1), ("x", "b", 2, 2), ("x", "iad_inpainting", 3, 3)], "fewer than three methods"),  # surrogate
        ([("x", "a", 1, 1), ("x", "b", 2, 2), ("y", "c", 3, 3)], "no category in which all"),
        ([("x", "a", 1, 5), ("x", "b", 2, 5), ("x", "c", 3, 5)], "all methods are equal"),
    ],
)
def test_no_tau_without_reason(rows, reason):
    found = rank_agreement(cells(rows)).iloc[0]
    assert math.isnan(found["tau"])
    assert reason in found["reason"]


def test_a_test_at_another_level_has_its_own_critical_difference():
    values = wide([[1, 2, 3], [1, 3, 2], [1, 2, 3], [2, 1, 3]])
    for alpha in (0.05, 0.1):
        found = rank_test(values, alpha)
        assert (found.alpha, found.critical_difference) == (alpha, critical_difference(3, 4, alpha))


def test_of_false_alarms_the_fewest_are_the_best():
    rows = [(place, name, rate, rate) for place in ("c1", "c2") for name, rate in {"a": 1, "b": 2, "c": 3}.items()]
    for metric, first in (("fpr", "a"), ("recall", "c")):
        (test,) = rank_tests(cells(rows, metric=metric), metric, "published").values()
        assert test.mean_ranks.index[0] == first
    assert standing(wide([[1, 2, 3]]), lower_is_better=True)["p"].tolist() == [1, 0.5, 0]
    assert standing(wide([[1, 2, 3]]))["p"].tolist() == [0, 0.5, 1]


def test_two_datasets_are_compared_over_categories_in_which_all_shared_methods_have_a_number():
    one, other = wide([[1, 2, 3], [9, NAN, 9]]), wide([[1, 2, 3]])  # with the second category "a" would be the best
    other.index = pd.MultiIndex.from_tuples([("p", "other", "c0")], names=one.index.names)
    assert order_agreement(pd.concat([one, other]))["tau"].tolist() == [1]


def test_means_of_a_dataset_are_over_the_same_categories_for_all():
    values = wide([[1, 2, 3], [9, NAN, 9]])  # the second category would raise two of the means alone
    assert dataset_means(values)["p"].tolist() == [1, 2, 3]


def test_means_that_differ_by_rounding_alone_are_tied():
    ours = {"patchcore": (0.1, 0.2), "padim": (0.3, 0.0), "cfa": (0.9, 0.9)}  # in floats two means differ
    rows = [
        (place, name, rank, of[place == "c2"]) for rank, (name, of) in enumerate(ours.items()) for place in ("c1", "c2")
    ]
    assert rank_agreement(cells(rows))["tau"].iat[0] == pytest.approx(2 / math.sqrt(3 * 2))


def test_tau_of_phantoms_is_marked():
    rows = [("x", method, value, value) for value, method in enumerate("abc")]
    found = rank_agreement(cells(rows, phantom=True))
    assert found["phantom"].tolist() == [True]
    assert math.isnan(found["tau"].iat[0]) and found["reason"].iat[0] == "ours are of drawn data"


def test_settings_of_one_method_are_ranked_like_methods_but_are_no_block():
    table = pd.concat([cells([("x", "a", n, n)], setting=f"without part {n}") for n in range(3)])
    assert rank_agreement(table)["tau"].tolist() == [1]
    assert blocks(table, "image_auroc", "published").empty


def test_blocks_hold_published_or_ours_and_averages_only_in_place_of_categories():
    own = cells([("x", "a", 1, 10), ("average", "a", 5, 50), ("x", "b", 2, NAN)])
    other = cells([("average", "a", 7, 70)], dataset="q")
    partly = cells([("average", "a", 8, 80)], dataset="r", state="partly")
    table = pd.concat([own, other, partly])
    published = blocks(table, "image_auroc", "published")
    assert published.index.tolist() == [("p", "p", "x"), ("p", "q", "average"), ("p", "r", "average")]
    assert published["a"].tolist() == [1, 7, 8]
    ours = blocks(table, "image_auroc", "ours")
    assert ours["a"].tolist() == [10, 70]
    assert ours["b"].isna().all()


def test_surrogates_of_ours_are_called_so():
    table = cells([("x", "iad_inpainting", 1, 2)])
    assert list(blocks(table, "image_auroc", "published")) == ["iad_inpainting"]
    assert list(blocks(table, "image_auroc", "ours")) == ["iad_inpainting (surrogate)"]


def test_ranks_start_at_the_best_and_share_ties():
    table = wide([[90, 80, 70], [50, 50, 40], [1, NAN, 2]])
    assert ranks(table).to_numpy().tolist() == [[1, 2, 3], [1.5, 1.5, 3]]  # the incomplete block is left out
    assert ranks(table, lower_is_better=True).to_numpy().tolist() == [[3, 2, 1], [2.5, 2.5, 1]]


def test_friedman_by_hand():
    """Ranks 123, 123, 132: 12 N / k(k+1) (sum of squared mean ranks - k(k+1)^2 / 4) = 14/3, W that over N (k - 1)."""
    found = rank_test(wide([[9, 8, 7], [9, 8, 7], [9, 7, 8]]))
    assert found.mean_ranks.to_dict() == pytest.approx({"a": 1, "b": 7 / 3, "c": 8 / 3})
    assert found.chi2 == pytest.approx(14 / 3)
    assert found.agreement == pytest.approx(7 / 9)
    assert found.p == pytest.approx(math.exp(-7 / 3))  # chi-square with two degrees of freedom
    assert found.blocks == 3
    assert found.reason == ""


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([[1, 2, NAN], [1, 2, NAN]], "methods 2"),
        ([[1, 2, 3]], "all have a number 1"),
        ([[2, 2, 2], [3, 3, 3]], "equal in every category"),
        ([[NAN, NAN, NAN]], "no number"),
    ],
)
def test_no_rank_test_without_reason(values, reason):
    found = rank_test(wide(values))
    assert reason in found.reason
    assert math.isnan(found.p)
    assert math.isnan(found.critical_difference)


def test_methods_without_any_value_are_named():
    assert rank_test(wide([[1, 2, NAN], [2, 1, NAN]])).left_out == ["c"]


@pytest.mark.parametrize(
    ("methods", "quantile"), [(3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (10, 3.164)]
)  # Demšar (2006), table 5 (a)
def test_critical_difference_has_the_tabulated_quantiles(methods, quantile):
    scale = math.sqrt(methods * (methods + 1) / (6 * 14))
    assert critical_difference(methods, 14) / scale == pytest.approx(quantile, abs=1e-3)


def test_critical_difference_of_demsars_example():
    """Section 3.2.2: four methods on 14 data sets; at 0.05 none differ, at 0.10 two do from the one without pruning."""
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=0.005)
    assert critical_difference(4, 14, 0.10) == pytest.approx(1.12, abs=0.005)
    mean_ranks = pd.Series({"C4.5": 3.143, "m": 2.000, "cf": 2.893, "m+cf": 1.964})
    assert equal_groups(mean_ranks, 1.25) == [["m+cf", "m", "cf", "C4.5"]]
    assert equal_groups(mean_ranks, 1.12) == [["m+cf", "m", "cf"], ["cf", "C4.5"]]


def test_groups_are_the_largest_ones_and_have_two_members():
    assert equal_groups(pd.Series({"a": 1.0, "b": 2.0, "c": 3.0}), 1.0) == []
    assert equal_groups(pd.Series({"a": 1.0, "b": 1.5, "c": 2.4, "d": 5.0}), 1.0) == [["a", "b"], ["b", "c"]]


def two_datasets():
    """Dataset p: a > b > c in two categories; another paper's q: c > b > a, and d that p does not have."""
    first = cells([("x", m, v, NAN) for m, v in zip("abc", (9, 8, 7), strict=True)])
    second = cells([("y", m, v, NAN) for m, v in zip("abc", (6, 5, 4), strict=True)])
    third = cells([("z", m, v, NAN) for m, v in zip("abcd", (1, 2, 3, 4), strict=True)], paper="o", dataset="q")
    return pd.concat([first, second, third])


def test_datasets_are_kept_apart():
    table = blocks(two_datasets(), "image_auroc", "published")
    means = dataset_means(table)
    assert means["p"].tolist()[:3] == [7.5, 6.5, 5.5]
    assert math.isnan(means.loc["d", "p"])
    place = standing(table)
    assert place["p"].tolist()[:3] == [1, 0.5, 0]
    assert place["q (o)"].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    found = order_agreement(table)
    assert found.to_numpy().tolist() == [["p", "q (o)", "a, b, c", -1.0, ""]]
    tests = rank_tests(two_datasets(), "image_auroc", "published")
    assert [test.blocks for test in tests.values()] == [2, 1]


def test_two_shared_methods_have_no_tau():
    table = blocks(two_datasets().query("method != 'c'"), "image_auroc", "published")
    assert order_agreement(table)["reason"].tolist() == ["fewer than three methods in both"]


def test_pictures_say_what_they_show_and_what_not():
    tests = {"p": rank_test(wide([[9, 8, 7]] * 8)), "one": rank_test(wide([[1, 2, 3]]))}
    figure = critical_difference_diagrams(tests, "Published")
    texts = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert {"a  1.00", "b  2.00", "3.00  c"} <= set(texts)
    assert any("one: methods 3" in text for text in texts)
    assert "the methods differ" in figure.axes[0].get_title(loc="left")
    shown = rank_heat_map(pd.DataFrame({"x": [1.0, NAN], "y": [NAN, 0.5]}, index=["a", "b"]), "Published")
    assert sorted(text.get_text() for text in shown.axes[0].texts) == ["0.50", "1.00", "–", "–"]
    nearly = rank_heat_map(pd.DataFrame({"x": [0.996, 0.5]}, index=["a", "b"]), "share of methods beaten")
    assert [text.get_text() for text in nearly.axes[0].texts] == ["<1", "0.50"]


def test_a_picture_says_what_is_found_at_the_tests_own_level():
    for alpha, said, bars in ((0.05, "the methods differ", 2), (0.001, "no difference found", 0)):
        test = rank_test(wide([[9, 8, 7]] * 4), alpha)  # p is 0.018
        axis = critical_difference_diagrams({"p": test}, "Published").axes[0]
        assert said in axis.get_title(loc="left")
        assert axis.get_title(loc="left").endswith(f" at level {alpha:g}")
        assert sum(line.get_linewidth() == 3.5 for line in axis.lines) == bars  # where nothing differs, none join


def test_pictures_of_nothing_stand():
    empty = pd.DataFrame({"x": [np.nan]}, index=["a"])
    assert [text.get_text() for text in rank_heat_map(empty, "Ours").axes[0].texts] == ["no number yet"]
    assert len(critical_difference_diagrams({}, "Ours").axes) == 1


def test_what_the_notebook_says_of_the_published_tables(tmp_path):
    """60_across_papers, "What to take away"."""
    table = comparisons(tmp_path)
    published = blocks(table, "image_auroc", "published")
    places = published.notna().groupby(level="paper").any().sum()
    assert (places > 1).sum() == 7
    orders = order_agreement(published).set_index(["first", "second"])
    assert orders.loc[("three_cad", "mvtec_ad (three_cad)"), "tau"] == pytest.approx(-0.25, abs=0.005)
    assert orders["tau"].dropna().between(-0.34, 0.34).all()
    assert orders["tau"].count() == 3
    tests = rank_tests(table, "image_auroc", "published")
    assert tests["three_cad"].agreement == pytest.approx(0.64, abs=0.005)
    assert tests["texture_ad"].agreement == pytest.approx(0.09, abs=0.005)
    assert tests["texture_ad"].p > 0.05
    first = equal_groups(tests["three_cad"].mean_ranks, tests["three_cad"].critical_difference)[0]
    assert first == list(tests["three_cad"].mean_ranks.index[:6])
    assert rank_agreement(table)["tau"].isna().all()  # none of our runs is done
    place = standing(published)
    assert place.loc["patchcore", "mvtec_ad (cxr_ad)"] == place.loc["simplenet", "mvtec_ad (three_cad)"] == 1
    assert place.loc["patchcore", "cxr_ad"] < 0.5
    assert place.loc["simplenet", "three_cad"] < 0.5


def test_a_metric_that_no_paper_prints_is_refused_and_one_that_some_print_may_have_no_cells():
    table = cells([("a", "padim", 1.0, NAN)])
    with pytest.raises(InputError, match=r"'image_aurok' .*image_auroc.*Did you mean 'image_auroc'"):
        blocks(table, "image_aurok", "published")
    assert blocks(table, "pro", "published").empty
