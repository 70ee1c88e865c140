"""The report's index in Chromium, without a network: sorted, filtered, followed; narrow, dark, on paper."""

import re
import shutil

import pytest

if not shutil.which("chromium"):
    pytest.skip("no Chromium here (`apt-get install chromium`): browser tests left out", allow_module_level=True)
pytest.importorskip("playwright", reason="no Playwright here (`make setup`): browser tests left out")

import nbformat
from playwright.sync_api import expect
from servers import chromium
from test_report import leave_plan, leave_run

from adlib.report.pages import render_report
from adlib.runs import Run, Store
from adlib.runs.record import failure, write_json

A4 = 688  # pixels between the margins of 14 mm
RUNS = 250
# Tables and pictures that reach beyond an edge, unless they lie in a box that scrolls (which paper does not).
TOO_WIDE = """edge => [...document.querySelectorAll('table, img, pre')]
  .map(node => Math.round(node.getBoundingClientRect().right)).filter(right => right > edge + 1)"""


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """A paper's tables with runs of two categories, 250 runs in all, and one that failed."""
    out = tmp_path_factory.mktemp("report")
    cells = [leave_run(out, "UB", 0.9), leave_run(out, "DC", 0.7), leave_run(out, "CDIP", 0.8)]
    leave_plan(out, cells)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# A run")])
    for cell in cells:
        nbformat.write(notebook, Store(out / "runs").path(cell["key"]) / "run.ipynb")
    for seed in range(1, RUNS - len(cells) + 1):
        leave_run(out, "CFP16", seed / RUNS, seed)
    failed = Run("folder", "/data", "padim", "<b>bold</b>", {}, 7)
    object.__setattr__(failed, "key", "f" * 16)
    folder = Store(out / "runs").path(failed.key)
    folder.mkdir(parents=True)
    write_json(folder / "record.json", failure(failed, "error", "a <script>alert(1)</script> " + "long " * 60))
    return render_report(out)


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser, index):
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
    page, errors = context.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: errors.append(dialog.message))
    page.goto(index.as_uri())
    yield page
    assert errors == []
    context.close()


def shown(page, column: int) -> list[str]:
    rows = page.locator("#list-of-runs tbody tr:visible")
    return rows.evaluate_all("(rows, column) => rows.map(row => row.cells[column].textContent)", column)


def test_runs_are_sorted_by_keyboard(page):
    headers = page.locator("#list-of-runs thead [role=button]")
    assert headers.evaluate_all("buttons => buttons.map(button => button.tabIndex)").count(0) == 1
    page.locator(".adlib-filter input").first.focus()
    for _ in range(2):  # by "Show all"
        page.keyboard.press("Tab")
    expect(headers.first).to_be_focused()
    assert headers.first.evaluate("button => getComputedStyle(button).outlineStyle") == "solid"
    page.keyboard.press("ArrowRight")
    expect(headers.nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#list-of-runs th[aria-sort=ascending]")).to_have_text("image AUROC")
    assert shown(page, 1)[:2] == ["0.40", "0.80"]
    page.keyboard.press("Enter")
    expect(page.locator("#list-of-runs th[aria-sort=descending]")).to_have_text("image AUROC")
    assert shown(page, 1)[0] == "98.80"
    page.keyboard.press("Enter")
    assert page.locator("#list-of-runs th[aria-sort]").count() == 0
    assert shown(page, 0) == sorted(shown(page, 0))


def test_what_is_just_below_100_is_sorted_as_a_number(browser, tmp_path):
    for category, value in {"UB": 0.99996, "DC": 1.0, "CDIP": 0.5, "CFP16": None}.items():
        leave_run(tmp_path, category, value)
    page = browser.new_page()
    page.goto(render_report(tmp_path).as_uri())
    header = page.locator("#list-of-runs thead [role=button]").nth(1)
    header.click()
    assert shown(page, 1) == ["50.00", "<100", "100.00", "undefined"]
    header.click()
    assert shown(page, 1) == ["100.00", "<100", "50.00", "undefined"]
    page.close()


def test_runs_are_filtered_and_the_first_ones_shown(page):
    field, count = page.locator(".adlib-filter input").first, page.locator(".adlib-filter output").first
    assert len(shown(page, 0)) == 200
    expect(count).to_have_text("250 of 250, the first 200 shown")
    page.get_by_role("button", name="Show all 250").click()
    assert len(shown(page, 0)) == RUNS
    field.fill("ub patchcore")
    assert shown(page, 0) == ["patchcore on cxr_ad/UB, seed 0"]
    expect(count).to_have_text("1 of 250")
    field.fill("nothing")
    assert shown(page, 0) == []


def test_an_average_leads_to_its_runs_and_a_number_to_its_page(page):
    average = page.locator('table.adlib-comparison a[title="3 runs"]').first
    assert average.inner_text() == "80.00"
    average.click()
    expect(page.locator(".adlib-filter input").first).to_have_value("patchcore on cxr_ad")
    runs = [f"patchcore on cxr_ad/{category}, seed 0" for category in ("CDIP", "DC", "UB")]
    assert shown(page, 0) == runs  # of 250 that are called so
    expect(page.locator(".adlib-filter output").first).to_have_text("3 of 250, the runs of that number")
    page.get_by_role("button", name="Show all").click()
    page.locator("#list-of-runs a", has_text="cxr_ad/UB").click()
    expect(page).to_have_title("patchcore on cxr_ad/UB, seed 0")
    page.get_by_role("link", name="adlib report").click()
    expect(page).to_have_title("adlib report")


def test_a_paper_s_table_is_sorted_by_the_numbers_of_a_column(page):
    table = page.locator("table.adlib-comparison").first
    table.locator("thead [role=button]", has_text="published").first.click()  # of CDIP: 21.93, 40.95, 98.78
    names = table.locator("tbody th").all_inner_texts()
    assert [re.match("[a-z]+", name)[0] for name in names] == ["adaclip", "patchcore", "onenip"]
    assert table.locator("thead [role=button]", has_text="CDIP").count() == 0  # it spans two columns


def test_a_failed_run_is_listed_with_its_reason_as_text(page):
    row = page.locator("#list-of-failed-runs tbody tr")
    assert "<b>bold</b>" in row.inner_text()
    assert "<script>alert(1)</script>" in row.inner_text()


def test_the_page_fits_narrow_screens_and_paper_and_is_dark_where_wanted(page):
    for width in (1280, 390):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.set_viewport_size({"width": A4, "height": 1000})
    page.emulate_media(media="print")
    assert page.evaluate(TOO_WIDE, A4) == []
    assert page.locator(".adlib-filter").first.is_hidden()
    assert page.locator(".adlib-part").first.inner_text() == "250 of 250, the first 200 shown"
    page.emulate_media(media="screen", color_scheme="dark")
    ink, paper = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    assert brightness(ink) > 200 > 50 > brightness(paper)


def brightness(colour: str) -> float:
    """Of "rgb(20, 24, 29)", the mean of its channels."""
    channels = [float(number) for number in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    return sum(channels) / 3
