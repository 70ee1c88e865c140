"""What notebooks say of the printed tables, held against these: a sentence and the numbers that it rests on."""

from collections import Counter
from functools import cache
from itertools import combinations

import nbformat
import pandas as pd
import pytest
from conftest import REPOSITORY

from adlib import list_papers, published, report
from adlib.datasets import facts
from adlib.papers import protocol


def text_of(notebook: str) -> str:
    """All text cells of a notebook, on one line."""
    file = REPOSITORY / "notebooks" / f"{notebook}.ipynb"
    cells = nbformat.read(file, 4).cells
    return " ".join(" ".join(cell.source for cell in cells if cell.cell_type == "markdown").split())


def values(paper: str, table: str, metric: str, index: str = "category", **where: str) -> pd.Series:
    """The printed values of one metric in one table, by category (or method, or setting)."""
    found = published(paper).query("table == @table and metric == @metric")
    for column, value in where.items():
        found = found[found[column] == value]
    return found.set_index(index)["value"]


def normal_test_images_of_cxr_ad():
    counts = values("cxr_ad", "I", "test_normal").drop("total")
    return (counts.min(), counts.max()) == (10, 31)


def isp_rates_above_the_limit():
    rates = pd.concat([values("isp_ad", table, "fpr") for table in "456"])
    return (rates >= 0.59).sum() > len(rates) / 2


def isp_pro_of_a_few_percent_beside_high_auroc():
    tables = [
        pd.concat([values("isp_ad", table, metric, "method") for metric in ("pro", "pixel_auroc")], axis=1)
        for table in "456"
    ]
    tables = [table.set_axis(["pro", "auroc"], axis=1) for table in tables]
    return all((table["auroc"] > 80).all() for table in tables) and sum((t["pro"] < 7).sum() for t in tables) >= 3


def asm_area_against_points():
    mcc = values("isp_ad", "3", "mcc", "setting")
    return (mcc["none 0"], mcc["area 9"], mcc["points 9"]) == (0.70, 0.91, 0.76)


def steps_between_mixed_numbers():
    steps = []
    for table in "23":
        counts = pd.concat([values("isp_ad", table, metric, "setting") for metric in ("fn", "fp")], axis=1)
        steps.append(counts[counts.index.str.startswith("mixed")].diff().abs().set_axis(["fn", "fp"], axis=1))
    steps = pd.concat(steps)
    return (steps["fn"].max(), steps.sum(axis=1).max()) == (5, 6)


def lsm_missed():
    missed = values("isp_ad", "2", "fn", "setting")
    return missed["mixed 172"] == 4 and missed["none 0"] == 22


def chance_on_miic():
    share = 116 / 1390
    return round(100 * share) == 8 and round(100 * 2 * share / (1 + share)) == 15


def pixel_auroc_of_miic():
    return values("miic", "3", "pixel_auroc", "method").min() > 98


def leaders_on_miic():
    image = values("miic", "3", "image_f1max", "method").drop(["fanogan", "ganomaly", "iad_inpainting"])
    pixel = values("miic", "3", "pixel_f1max", "method")
    third = image.sort_values(ascending=False).index[2]
    behind = pixel["fastflow"] < min(pixel["patchcore"], pixel["rd4ad"])
    return (image.idxmax(), pixel.idxmax(), third, behind) == ("cfa", "stfpm", "fastflow", True)


def losses_against_mvtec():
    image = values("three_cad", "5", "image_auroc", "method", dataset="mvtec_ad")
    drop = (image - values("three_cad", "5", "image_auroc", "method", dataset="three_cad")).dropna()
    return round(drop.min()) == 12 and round(drop.max()) == 26


def ablation_of_cfrg():
    metrics = ("image_auroc", "pixel_auroc", "pixel_ap")
    by = {metric: values("three_cad", "6", metric, "setting") for metric in metrics}
    loss = {metric: (column[""] - column).round(1) for metric, column in by.items()}
    image = (loss["image_auroc"]["no segmentation"], loss["image_auroc"]["no recovery"])
    return (
        image == (7.4, 4.3)
        and 6.5 < loss["pixel_auroc"]["no recovery"] < 7
        and -2.5 < loss["pixel_ap"]["no recovery"] < -1.5
    )


def texture_between_40_and_65():
    image = pd.concat([values("texture_ad", table, "image_auroc") for table in "234"]).drop("average")
    return image.between(40, 65).mean() > 0.75


def texture_against_mvtec():
    mvtec = values("three_cad", "5", "image_auroc", "method", dataset="mvtec_ad")[["simplenet", "draem"]]
    here = pd.concat([values("texture_ad", table, "image_auroc", "method", category="average") for table in "234"])[
        ["simplenet", "draem"]
    ]
    return mvtec.min() >= 98 and here.between(45, 65).all()


def texture_methods_without_mvtec():
    methods = protocol("texture_ad")["tables"]["2"]["methods"]
    there = values("three_cad", "5", "image_auroc", "method", dataset="mvtec_ad").dropna().index
    return len(set(methods) - set(there)) == 4


def image_aurocs_far_below_50():
    image = published("cxr_ad").query("table == 'II' and metric == 'image_auroc' and dataset == 'cxr_ad'")
    lowest = image.groupby("method")["value"].min()
    return set(lowest.index[lowest < 40]) == {"patchcore", "adaclip"}


def one_image_of_recall():
    defects = [area_and_points for _, _, area_and_points in facts("isp_ad").counts.values()]
    bounds = [round(100 / max(defects), 1), round(100 / min(defects), 1)]
    return (min(defects), max(defects), bounds) == (74, 96, [1.0, 1.4])


def small_losses_of_cfrg():
    """The five rows against the whole method, the largest loss of any metric."""
    by = [values("three_cad", "6", metric, "setting") for metric in protocol("three_cad")["tables"]["6"]["metrics"]]
    largest = pd.concat([(column[""] - column).abs() for column in by], axis=1).max(axis="columns").round(1)
    return sorted(largest.drop("")[largest <= 1.5].index) == ["homogeneous student", "no push", "no recovery weight"]


def pixel_losses_of_cfrg():
    pixel = values("three_cad", "6", "pixel_auroc", "setting")
    loss = (pixel[""] - pixel.drop("")).sort_values(ascending=False)
    return loss.index[:2].tolist() == ["no recovery", "no segmentation"] and loss.iloc[2] <= 0.51


# Across papers


@cache
def everything() -> pd.DataFrame:
    """All benchmark tables as printed, none of ours."""
    return report.comparisons("nowhere")


def image_blocks():
    return report.blocks(everything(), "image_auroc", "published")


def order_of_two(first: str, second: str) -> pd.Series:
    """The row of `order_agreement` for two datasets."""
    rows = report.order_agreement(image_blocks()).set_index(["first", "second"])
    return rows.loc[(first, second) if (first, second) in rows.index else (second, first)]


def mvtec_and_three_cad():
    row = order_of_two("three_cad", "mvtec_ad (three_cad)")
    return (round(row["tau"], 2), len(row["methods"].split(", "))) == (-0.25, 9)


def three_pairs_without_a_common_order():
    rows = report.order_agreement(image_blocks())
    rows = rows[rows["tau"].notna()]
    return len(rows) == 3 and (rows["methods"].str.count(", ") >= 2).all() and (rows["tau"] < 0.5).all()


def ranks_on_three_cad():
    test = report.rank_tests(everything(), "image_auroc", "published", 0.05)["three_cad"]
    beyond = (test.mean_ranks - test.mean_ranks.min() >= test.critical_difference).tolist()
    return (round(test.agreement, 2), test.blocks, beyond[:7]) == (0.64, 8, 6 * [False] + [True])


def ranks_on_texture_ad():
    test = report.rank_tests(everything(), "image_auroc", "published", 0.05)["texture_ad"]
    return round(test.agreement, 2) == 0.09 and test.p > 0.05 and len(test.mean_ranks) == 6


def shared_methods():
    of = {paper: set() for paper in list_papers()}
    for paper, methods in of.items():
        methods.update(*(table["methods"] for table in protocol(paper)["tables"].values()))
    times = Counter(method for methods in of.values() for method in methods)
    pairs = {pair for pair in combinations(of, 2) if len(of[pair[0]] & of[pair[1]]) >= 3}
    return sum(number > 1 for number in times.values()) == 7 and pairs == {("miic", "three_cad")}


def first_on_mvtec_and_low_on_the_next():
    place = report.standing(image_blocks(), False)
    first = place.loc["patchcore", "mvtec_ad (cxr_ad)"] == place.loc["simplenet", "mvtec_ad (three_cad)"] == 1
    return first and place.loc["patchcore", "cxr_ad"] < 0.5 and place.loc["simplenet", "three_cad"] < 0.5


SENTENCES = [
    (
        "11_cxr_ad_benchmark",
        "Image AUROCs far below 50 are printed for PatchCore and AdaCLIP",
        image_aurocs_far_below_50,
    ),
    ("22_isp_ad_mixed_supervision", "among 74 to 96 defects moves recall by 1.0 to 1.4 points", one_image_of_recall),
    (
        "42_three_cad_ablation",
        "at most 1.5 points, which is all that three of the five rows show",
        small_losses_of_cfrg,
    ),
    (
        "42_three_cad_ablation",
        "recovery matters most, then segmentation; the other three cost half a point or less",
        pixel_losses_of_cfrg,
    ),
    ("51_texture_ad_benchmark", "for four of the six methods there is none", texture_methods_without_mvtec),
    ("60_across_papers", "tau is -0.25 over nine methods", mvtec_and_three_cad),
    ("60_across_papers", "Three pairs of datasets share three methods or more", three_pairs_without_a_common_order),
    ("60_across_papers", "(Kendall's W 0.64), yet with eight of them the first six methods", ranks_on_three_cad),
    ("60_across_papers", "they do not agree at all (0.09)", ranks_on_texture_ad),
    ("60_across_papers", "Seven of the methods stand in more than one of the five papers", shared_methods),
    ("60_across_papers", "PatchCore and SimpleNet are first on MVTec AD", first_on_mvtec_and_low_on_the_next),
    ("11_cxr_ad_benchmark", "With 10 to 31 normal test images per class", normal_test_images_of_cxr_ad),
    ("21_isp_ad_unsupervised", "most rows miss the false-positive rates of 0.59 %", isp_rates_above_the_limit),
    (
        "21_isp_ad_unsupervised",
        "PRO falls to a few percent where pixel AUROC stays above 80",
        isp_pro_of_a_few_percent_beside_high_auroc,
    ),
    (
        "22_isp_ad_mixed_supervision",
        "Real area defects do more than the same number of points",
        asm_area_against_points,
    ),
    (
        "22_isp_ad_mixed_supervision",
        "rows differ by five missed defects at most, by six images with the false alarms",
        steps_between_mixed_numbers,
    ),
    ("22_isp_ad_mixed_supervision", "How much of the way from no real defect to all of them", lsm_missed),
    ("31_miic_benchmark", "chance is 8 % for AP and 15 % for F1", chance_on_miic),
    ("31_miic_benchmark", "Pixel AUROC above 98 for every method", pixel_auroc_of_miic),
    ("31_miic_benchmark", "CFA leads at image level among the methods that the study ran", leaders_on_miic),
    ("41_three_cad_benchmark", "lose 12 to 26 points of image AUROC against MVTec AD", losses_against_mvtec),
    ("42_three_cad_ablation", "without segmentation (7.4 points), not without recovery (4.3)", ablation_of_cfrg),
    ("51_texture_ad_benchmark", "Most image AUROCs lie between 40 and 65", texture_between_40_and_65),
    (
        "51_texture_ad_benchmark",
        "SimpleNet and DRAEM reach 98 and more on MVTec AD and 45 to 65",
        texture_against_mvtec,
    ),
]


@pytest.mark.parametrize(("notebook", "sentence", "holds"), SENTENCES)
def test_a_sentence_says_what_the_printed_table_says(notebook, sentence, holds):
    assert sentence in text_of(notebook)
    assert holds()
