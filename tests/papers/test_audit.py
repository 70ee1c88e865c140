"""The audit: its arithmetic on tables of a few cells, and what it finds in the papers."""

import subprocess
import sys
from fractions import Fraction

import pandas as pd
import pytest
from conftest import REPOSITORY, command_line

from adlib import InputError, list_papers
from adlib.papers import COLUMNS as CELL
from adlib.papers import checks, printed
from adlib.papers.audit import (
    COLUMNS,
    KINDS,
    audit,
    below_chance,
    confusion,
    copied_rows,
    decision_values,
    disagreeing,
    implied_counts,
    means,
    outliers,
    reachable_aurocs,
    relations,
    repeated_cells,
    tolerance,
    totals,
)


def cells(*rows: str) -> pd.DataFrame:
    """A table from lines "table method dataset category metric value setting", "-" for an empty one."""
    return pd.DataFrame([["" if part == "-" else part for part in row.split()] for row in rows], columns=CELL)


@pytest.fixture(scope="module")
def found() -> pd.DataFrame:
    return audit()


def one_mean(*categories: str, average: str) -> dict:
    rows = [f"1 padim mvtec_ad c{i} image_auroc {value} -" for i, value in enumerate(categories)]
    (row,) = means(cells(*rows, f"1 padim mvtec_ad average image_auroc {average} -"))
    return row


@pytest.mark.parametrize(("others", "doubted"), [(4, 0), (5, 1)])
def test_an_outlier_takes_five_others(others, doubted):
    rows = [f"1 m{number} miic a image_auroc {90 + number} -" for number in range(others)]
    assert len(outliers(cells(*rows, "1 padim miic a image_auroc 50 -"))) == doubted


@pytest.mark.parametrize(("categories", "compared"), [(2, 0), (3, 1)])
def test_rows_are_copies_of_each_other_only_over_three_categories(categories, compared):
    rows = [f"1 {name} miic c{place} image_auroc 9{place} -" for name in ("a", "b") for place in range(categories)]
    assert [row["agrees"] for row in copied_rows(cells(*rows))] == [False] * compared


def test_a_printed_total_is_no_category_of_an_average():
    rows = [f"1 - miic {place} images {value} -" for place, value in (("a", 10), ("b", 30), ("total", 40))]
    (row,) = means(cells(*rows, "1 - miic average images 20 -"))
    assert (row["recomputed"], row["agrees"]) == (20, True)


@pytest.mark.parametrize(("text", "expected"), [("55.90", "1/200"), ("9.6", "1/20"), ("93", "1/2")])
def test_tolerance_is_half_a_unit_of_the_last_printed_digit(text, expected):
    assert tolerance(text) == Fraction(expected)


@pytest.mark.parametrize(
    ("categories", "average", "agrees", "cause"),
    [
        (("90.0", "91.0"), "90.5", True, ""),
        (("90.0", "90.1"), "90.1", True, ""),  # 90.05: the half rounded up
        (("90.0", "90.1"), "90.0", True, "half cut instead of rounded"),
        (("90.0", "90.0", "90.2"), "90.0", False, "digits cut instead of rounded"),  # 90.0667
        (("90.0", "90.0", "90.1"), "90.1", False, "within the rounding of the values that it follows from"),  # 90.0333
        (("90.0",) * 10 + ("90.5",), "90.1", False, "rounded twice, by way of 90.05"),  # 90.0455
        (("90.0", "91.0"), "90.9", False, ""),
        (("90", "91"), "91", True, ""),
    ],
)
def test_average_agrees_within_half_a_digit_and_the_digits_hint_at_the_cause(categories, average, agrees, cause):
    row = one_mean(*categories, average=average)
    assert (row["agrees"], row["likely_cause"]) == (agrees, cause)


def test_an_average_without_categories_is_not_judged():
    assert means(cells("1 padim mvtec_ad average image_auroc 90 -")) == []


def test_an_auroc_must_be_a_multiple_of_what_the_test_images_give():
    # Two normal and three anomalous images make six pairs: with ties AUROC is a multiple of 1/12.
    counts = ["1 - a c test_normal 2 -", "1 - a c test_anomalous 3 -"]
    rows = reachable_aurocs(cells(*counts, "2 padim a c image_auroc 91.67 -", "2 cfa a c image_auroc 90.00 -"))
    assert [(row["agrees"], round(row["recomputed"], 2)) for row in rows] == [(True, 91.67), (False, 91.67)]
    # A thousand pairs lie closer than one decimal: nothing can be found.
    many = ["1 - a c test_normal 100 -", "1 - a c test_anomalous 100 -"]
    assert reachable_aurocs(cells(*many, "2 padim a c image_auroc 91.7 -")) == []


def test_values_below_chance_are_named():
    values = ["image_auroc 49.9", "pixel_auroc 50.0", "pro 14.9", "pro 15.0", "pixel_ap 1.0"]
    rows = below_chance(cells(*(f"1 padim a c{index} {value} -" for index, value in enumerate(values))))
    assert [row["printed"] for row in rows] == [49.9, 14.9]


def test_an_outlier_lies_farther_from_the_others_than_they_from_each_other():
    def found(value):
        others = [f"1 m{index} a c pro {number} -" for index, number in enumerate((60, 62, 64, 66, 70))]
        return [(row["printed"], row["recomputed"]) for row in outliers(cells(*others, f"1 own a c pro {value} -"))]

    assert found(80) == found(50) == []
    assert found(80.1) == [(80.1, 70)]
    assert found(49) == [(49, 60)]


def test_relations_rank_and_find_extremes():
    table = cells("1 padim a c pro 60 -", "1 cfa a c pro 80 -", "1 stfpm a c pro 70 -", "1 rd4ad a c pro 90 -")
    among = {"table": "1", "metric": "pro", "method": ["padim", "cfa", "stfpm"]}
    checks = [
        {"rank": {"among": among, "of": {"method": "stfpm"}}},
        {"least": among},
        {"most": {"table": "1", "metric": "pro"}},
    ]
    common = {"table": "text", "where": "here", "kind": "text", "printed": "2"}
    assert [row["recomputed"] for row in relations(table, [common | check for check in checks])] == [2, 60, 90]


def test_totals_and_parts():
    rows = totals(
        cells(
            "1 - a x train 3 -",
            "1 - a y train 4 -",
            "1 - a total train 8 -",
            "2 - b total images 10 -",
            "2 - b total normal 7 -",
            "2 - b total anomalous_real 1 -",
            "2 - b total anomalous_synthetic 2 -",
        )
    )
    assert [(row["printed"], row["recomputed"], row["agrees"]) for row in rows] == [(8, 7, False), (10, 10, True)]
    assert rows[1]["where"] == "b, total, images = normal + anomalous_real + anomalous_synthetic"


def test_decision_values_by_hand():
    values = decision_values(tn=90, tp=8, fn=2, fp=10)
    assert values["recall"] == 80
    assert values["fpr"] == 10
    assert values["precision"] == Fraction(800, 18)
    assert float(values["mcc"]) == pytest.approx((8 * 90 - 10 * 2) / (18 * 10 * 100 * 92) ** 0.5)
    assert decision_values(tn=5, tp=0, fn=5, fp=0) == {"mcc": 0, "recall": 0, "fpr": 0}


def test_confusion_uses_the_printed_counts_and_checks_them_against_the_test_images():
    row = "2 glass a x {} {} none"
    counts = {"tn": 90, "tp": 8, "fn": 2, "fp": 10, "recall": "80.0", "fpr": "9.0"}
    table = cells(*[row.format(*item) for item in counts.items()], "1 - a x test_normal 100 -", "1 - a x test_area 9 -")
    by_place = {row["where"]: row for row in confusion(table)}
    judged = {where.removeprefix("glass, a, x, none, "): row["agrees"] for where, row in by_place.items()}
    assert judged == {
        "tn + fp, against the test images": True,
        "tp + fn, against the test images": False,
        "recall from its counts": True,
        "fpr from its counts": False,
    }


def test_implied_counts_find_the_matrix_that_was_rounded():
    for tp, fp in [(0, 0), (3, 7), (19, 1), (20, 100), (11, 53)]:
        exact = decision_values(100 - fp, tp, 20 - tp, fp)
        values = {name: f"{float(value):.2f}" for name, value in exact.items()}
        assert implied_counts(values, normal=100, anomalous=20) == (100 - fp, tp, 20 - tp, fp)


def test_implied_counts_of_isp_ad():
    """True positives, false positives and false negatives of Tables 4 to 6, worked out by hand."""
    by_hand = {
        ("LSM-1", "efficientad"): (78, 5, 17),
        ("LSM-1", "uflow"): (72, 17, 23),
        ("LSM-1", "glass"): (88, 14, 7),
        ("LSM-1", "ddad"): (60, 36, 35),
        ("LSM-2", "efficientad"): (91, 1, 5),
        ("LSM-2", "uflow"): (92, 2, 4),
        ("LSM-2", "glass"): (93, 7, 3),
        ("LSM-2", "ddad"): (81, 12, 15),
        ("ASM", "efficientad"): (21, 33, 53),
        ("ASM", "uflow"): (39, 41, 35),
        ("ASM", "glass"): (36, 90, 38),
        ("ASM", "ddad"): (41, 97, 33),
    }
    sizes = {"LSM-1": (1470, 95), "LSM-2": (382, 96), "ASM": (1916, 74)}
    table = printed("isp_ad").query("table in ['4', '5', '6']")
    for (category, method), expected in by_hand.items():
        rows = table[(table["category"] == category) & (table["method"] == method)]
        _, tp, fn, fp = implied_counts(dict(zip(rows["metric"], rows["value"], strict=True)), *sizes[category])
        assert (tp, fp, fn) == expected, (category, method)


def test_a_cell_printed_twice_must_not_change():
    rows = repeated_cells(
        cells(
            "3 cfrg a average pro 82.0 -",
            "5 cfrg a average pro 82.1 -",
            "6 cfrg a average pro 59.8 no-recovery",
        )
    )
    assert [(row["table"], row["agrees"]) for row in rows] == [("5", False)]


def test_averages_over_different_categories_are_not_compared():
    table = cells(
        "2 draem a cloth image_auroc 50 -",
        "2 draem a average image_auroc 50 -",
        "3 draem a wafer image_auroc 60 -",
        "3 draem a average image_auroc 60 -",
    )
    assert repeated_cells(table) == []


def test_copied_rows_and_cells_are_counted():
    values = {"draem": "44 34 35", "msflow": "44 34 35", "glass": "44 34 36"}
    rows = [f"3 {m} a c{i} pro {v} -" for m, line in values.items() for i, v in enumerate(line.split())]
    (copied,) = copied_rows(cells(*rows))
    assert (copied["printed"], copied["recomputed"], copied["agrees"]) == (3, 2, False)
    assert "draem and msflow" in copied["where"]
    two_metrics = [f"3 glass a c{i} {m} {v} -" for m in ("pro", "pixel_ap") for i, v in enumerate([1, 2, m])]
    within = copied_rows(cells(*two_metrics))[-1]
    assert (within["printed"], within["recomputed"]) == (3, 1)
    assert "c0, c1 is equal" in within["where"]


def test_relations_do_what_audit_yaml_says():
    table = cells("1 a d x fn 22 -", "1 b d x fn 4 -", "1 b d x fp 6 -")
    entry = {"table": "text", "where": "fewer", "kind": "text"}
    first, second = {"method": "a"}, {"method": "b", "metric": "fn"}
    ratio = entry | {"printed": "81", "plus": [first], "minus": [second], "divide": first, "percent": True}
    summed = entry | {"printed": {"method": "a"}, "table": "1", "plus": [{"method": "b"}], "add": [10, 2]}
    methods = entry | {"printed": "2", "count": {"method": {"table": "1"}}}
    cut, same, counted = relations(table, [ratio, summed, methods])
    assert cut["recomputed"] == pytest.approx(100 * 18 / 22)
    assert cut["likely_cause"] == "digits cut instead of rounded"
    assert same["agrees"]
    assert counted["agrees"]
    with pytest.raises(InputError, match="names a cell that no table has"):
        relations(table, [entry | {"printed": "1", "plus": [{"method": "c"}]}])


KNOWN = {
    ("cxr_ad", "mean"): {("adaclip", "image_auroc", "55.284"), ("onenip", "pixel_auroc", "93.666")},
    ("texture_ad", "mean"): {
        ("msad", "image_auroc", "52.46"),
        ("msad", "image_auroc", "45.59"),
        ("draem", "image_auroc", "53.29"),
        ("efficientad", "image_auroc", "63.1533"),
        ("pyramidflow", "pixel_auroc", "53.3167"),
        ("msflow", "pixel_auroc", "61.0267"),
    },
    ("three_cad", "mean"): {
        ("destseg", "pixel_ap", "9.6875"),
        ("simplenet", "pro", "58.6375"),
        ("destseg", "pro", "77.4625"),
    },
}


def test_exactly_the_known_averages_disagree(found):
    rows = disagreeing(found, "mean")
    names = {}
    for row in rows.itertuples():
        parts = row.where.split(", ")
        names.setdefault((row.paper, "mean"), set()).add((parts[0], parts[-1], f"{row.recomputed:.6g}"))
    assert names == KNOWN


def test_exactly_the_known_halves_were_cut(found):
    halves = found[found["agrees"] & (found["likely_cause"] != "")]
    assert set(halves["likely_cause"]) == {"half cut instead of rounded"}
    assert set(halves["paper"]) == {"three_cad"}
    assert sorted(halves["recomputed"]) == pytest.approx([8.85, 72.85, 75.95, 80.45, 83.85, 86.15, 91.95])


def test_exactly_the_known_rest_disagrees(found):
    def places(kind):
        rows = disagreeing(found, kind)
        return {(row.paper, row.table, row.printed, round(row.recomputed, 4)) for row in rows.itertuples()}

    assert places("sum") == set()
    assert places("confusion") == {("isp_ad", "3", 0.97, 0.9647), ("isp_ad", "6", 0.38, 0.375)}
    assert places("copied") == {("texture_ad", "3", 5, 4), ("texture_ad", "2", 5, 4)}
    assert places("cross-table") == {
        ("isp_ad", "1", 2830, 2540),
        ("isp_ad", "1", 580, 290),
        ("isp_ad", "1", 9621, 10621),
        ("miic", "1", 290, 580),
        ("miic", "1", 9621, 10621),
    }
    assert places("counts") == {
        ("cxr_ad", "II", 84.44, 84.4167),
        ("cxr_ad", "II", 50.57, 50.5833),
        ("cxr_ad", "II", 83.38, 83.3889),
        ("cxr_ad", "II", 99.43, 99.4355),
        ("cxr_ad", "II", 99.36, 99.3548),
    }
    assert {place for place in places("chance") if place[0] == "isp_ad"} == {
        ("isp_ad", "4", 4.1, 15),
        ("isp_ad", "4", 13.0, 15),
        ("isp_ad", "6", 4.5, 15),
        ("isp_ad", "6", 4.0, 15),
        ("isp_ad", "6", 6.5, 15),
    }
    assert ("three_cad", "4", 86.3, 70.8) in places("outlier")
    assert places("text") == {
        ("cxr_ad", "text", 29.78, 29.79),
        ("cxr_ad", "text", 4.3, 4.24),
        ("isp_ad", "text", 81, 81.8182),
        ("isp_ad", "text", 7, 8),
        ("miic", "text", 1274, 1272),
        ("miic", "text", 9, 10),
        ("miic", "text", 6, 7),
        ("miic", "text", 87.9, 87.96),
        ("miic", "text", 2, 3),
        ("texture_ad", "text", 1, 2),
        ("three_cad", "text", 60, 13.1),
        ("three_cad", "text", 90, 93.5),
        ("three_cad", "text", 8, 47),
        ("three_cad", "text", 7.3, 8),
        ("three_cad", "text", 13.3, 13.4),
        ("three_cad", "text", 3.1, 7.4),
        ("three_cad", "text", 0.3, 0.4),
    }


def test_consistent_tables_are_called_consistent(found):
    sound = [("three_cad", "1"), ("three_cad", "2"), ("three_cad", "5"), ("three_cad", "6"), ("cxr_ad", "I")]
    sound += [("isp_ad", "2"), ("isp_ad", "4"), ("isp_ad", "5")]
    for paper, table in sound:
        rows = found[(found["paper"] == paper) & (found["table"] == table) & ~found["kind"].isin(["chance", "outlier"])]
        assert len(rows) > 0
        assert rows["agrees"].all(), (paper, table)


def test_the_audit_is_whole(found):
    assert list(found.columns) == COLUMNS
    assert set(found["kind"]) == set(KINDS)
    assert set(found["paper"]) == set(list_papers())
    assert not found.duplicated(["paper", "table", "where"]).any()
    assert (found["difference"] - (found["printed"] - found["recomputed"])).abs().max() < 1e-9
    assert audit(["miic"])["paper"].unique().tolist() == ["miic"]
    assert audit("miic").equals(audit(["miic"]))


def test_command_prints_what_disagrees_and_succeeds():
    command = [sys.executable, "-m", "adlib", "audit", "texture_ad"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    *rows, count = done.stdout.splitlines()
    assert done.returncode == 0
    assert "texture_ad 4, efficientad, texture_ad, average, image_auroc: printed 63.3, recomputed 63.1533" in rows
    assert count.startswith(f"{len(rows)} of ")
    assert not any("chance gives" in row or "nearest of the others" in row for row in rows)  # these recompute nothing
    doubtful = command_line("audit", "texture_ad", "--doubtful").stdout.splitlines()
    assert f"; {len(doubtful) - 1} more are doubtful" in count
    assert all("chance gives" in row or "nearest of the others" in row for row in doubtful[:-1])


def test_every_noted_cause_belongs_to_a_disagreement(found):
    wrong = {(row.paper, f"{row.table} | {row.where}") for row in disagreeing(found).itertuples()}
    noted = {(paper, place) for paper in list_papers() for place in checks(paper).get("causes", {})}
    assert noted <= wrong
