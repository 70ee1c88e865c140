"""Tables of papers as text: long and wide, Markdown, LaTeX, CSV."""

import pandas as pd
import pytest

from adlib.report.known_answers import COLUMNS
from adlib.report.printed_text import printed_text
from adlib.report.table_text import FORMS, long_form, table_text, wide_form
from adlib.report.tables import comparison


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return comparison("cxr_ad", "II", tmp_path_factory.mktemp("empty"))


def test_a_wide_table_has_a_column_per_method_and_loses_no_number(cells):
    wide = wide_form(cells)
    assert set(wide.columns) - {"dataset", "category", "setting", "metric"} == set(cells["method"])
    printed = cells.dropna(subset=["published"]).iloc[0]
    row = wide[(wide["category"] == printed["category"]) & (wide["metric"] == printed["metric"])].iloc[0]
    assert row[printed["method"]] == f"{printed['published']:.2f} / -"


def test_a_wide_table_marks_means_of_ours_that_lack_something(cells):
    there = cells["method"].eq("patchcore") & cells["category"].eq("average") & cells["dataset"].eq("cxr_ad")
    ours = cells["ours"].mask(there, 57.9)
    wide = wide_form(cells.assign(ours=ours, state=cells["state"].mask(there, "partly")))
    row = wide[(wide["dataset"] == "cxr_ad") & (wide["category"] == "average") & (wide["metric"] == "image_auroc")]
    assert row["patchcore"].item() == "56.58 / 57.90 (partly)"
    assert wide_form(cells).map(str).map(lambda text: "partly" in text).to_numpy().sum() == 0


def test_a_difference_of_averages_over_some_categories_says_over_how_many(cells):
    """The average of patchcore is printed as 56.58, of all five: (90 - 99.43 + 70 - 56.28) / 2 is of two of them."""
    image = cells[
        (cells["metric"] == "image_auroc") & (cells["method"] == "patchcore") & (cells["dataset"] == "cxr_ad")
    ]
    category, nothing = image["category"], pd.DataFrame(columns=COLUMNS)
    some = image.assign(
        ours=category.map({"UB": 90.0, "DC": 70.0, "average": 80.0}),
        difference=category.map({"UB": -9.43, "DC": 13.72, "average": 2.145}),
        state=category.map({"UB": "done", "DC": "done", "average": "partly"}).fillna("no data"),
    )
    text = printed_text(some, nothing)
    assert "56.58 | 80.00 (+2.15 over 2 of 5 categories) partly" in text
    assert text.count(" over ") == 1
    whole = image.assign(ours=image["published"] + 1, difference=1.0, state="done")
    assert "56.58 | 57.58 (+1.00)" in printed_text(whole, nothing)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_has_a_line_per_row(cells, form):
    for table in (long_form(cells), wide_form(cells)):
        text = table_text(table, form)
        assert text.endswith("\n")
        assert len(text.splitlines()) == len(table) + {"text": 1, "csv": 1, "markdown": 2, "latex": 4}[form]


def test_signs_that_latex_and_markdown_read_are_told_apart(cells):
    table = long_form(cells).head(1).assign(method="a_b|c%")
    assert r"a\_b|c\%" in table_text(table, "latex")
    assert r"a_b\|c%" in table_text(table, "markdown", "title")


def test_a_table_as_printed_has_a_row_per_method_and_subtracts_on_real_data_alone(cells):
    nothing = pd.DataFrame(columns=COLUMNS)
    image = cells[cells["metric"] == "image_auroc"]
    assert printed_text(image, nothing).splitlines()[2].split(" | ")[0].split() == ["patchcore", "40.95"]
    ours = {"ours": 95.0, "difference": -4.43, "state": "done"}
    there = image["method"].eq("patchcore") & image["category"].eq("UB")
    real = image.assign(**{name: image[name].mask(there, value) for name, value in ours.items()})
    assert "99.43 | 95.00 (-4.43)" in printed_text(real, nothing)
    answer = {"paper": "cxr_ad", "table": "II", "method": "patchcore", "setting": "", "metric": "image_auroc"}
    known = pd.DataFrame([answer | {"value": 0.8, "state": "done", "found": False}], columns=COLUMNS)
    text = printed_text(real.assign(phantom=True), known)
    assert "|" not in text
    assert "80.00 NOT FOUND" in text
