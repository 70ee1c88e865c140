"""Tables of papers as text: long and wide, Markdown, LaTeX, CSV."""

import pytest

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
