"""Conformance: one table, on the page and in `adlib models METHOD`, that knows every method."""

import re
from pathlib import Path

import pytest

from adlib import conformance
from adlib.models import own_models

PAGE = Path(conformance.__file__).parents[1] / "docs" / "conformance.md"


def test_every_method_of_ours_has_a_row_and_no_other():
    assert list(conformance.table()) == own_models()
    assert all(set(row) == set(conformance.COLUMNS) and row["official"] for row in conformance.table().values())


def test_the_page_shows_the_table_as_it_is():
    text = PAGE.read_text("utf-8")
    assert conformance.page_tables() in text
    assert conformance.MEASURED["date"] in text
    assert conformance.MEASURED["commit"] in text


@pytest.mark.parametrize("name", own_models())
def test_a_methods_lines_say_all_of_its_row(name):
    said = "\n".join(conformance.lines(name))
    assert all(value in said for column, value in conformance.table()[name].items() if column != "method")
    assert conformance.MEASURED["commit"] in said


def test_a_method_without_a_row_says_so():
    assert conformance.lines("somebody_elses") == ["conformance: never compared with an official code"]


def test_what_changed_is_to_be_compared_again():
    changed = [name for name, row in conformance.table().items() if row["changed"]]
    assert {"rdpp", "crad", "adaclip", "msflow", "uflow", "draem", "pyramidflow"} <= set(changed)
    assert all("compared again" in "\n".join(conformance.lines(name)) for name in changed)


def test_figures_are_figures():
    """A number with an exponent, wherever one stands, is small: these are relative differences."""
    for row in conformance.table().values():
        for column in ("forward", "loss", "gradient", "map", "score"):
            numbers = re.findall(r"\d+(?:\.\d+)?e-\d+", row[column])
            assert all(float(number) < 0.01 for number in numbers)
