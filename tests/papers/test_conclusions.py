"""What notebooks say of the printed tables, held against these: a sentence and the numbers that it rests on."""

import nbformat
import pandas as pd
import pytest
from conftest import REPOSITORY

from adlib import published


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


SENTENCES = [
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
