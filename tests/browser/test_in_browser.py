"""The inspector as a person meets it: in JupyterLab, as the app, and in a page without a kernel.

Screenshots at both widths go to the folder that ADLIB_SCREENSHOTS names, or to pytest's temporary one.
"""

import contextlib
import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

if not shutil.which("chromium"):
    pytest.skip("no Chromium here (`apt-get install chromium`): browser tests left out", allow_module_level=True)
pytest.importorskip("playwright", reason="no Playwright here (`make setup`): browser tests left out")

from playwright.sync_api import Browser, Page, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from servers import CATEGORY, OWN, chromium, crowd, inspector_app, jupyter_lab, make_workplace, stored

from adlib.metrics import decision_metrics
from adlib.predictions import Predictions

WIDTHS = (1280, 1920)
NOTE = "a scratch at the rim, “faint”"
PATIENT = 240_000  # milliseconds: a kernel that imports torch on a busy machine

expect.set_options(timeout=60_000)

# Controls and pictures of the inspector that lie over one another or beyond its right edge, and words that are broken.
MISPLACED = """() => {
  const root = document.querySelector('.adlib-inspector'), edge = root.getBoundingClientRect().right + 1;
  const parts = [...root.querySelectorAll(
    'button, canvas, table, input:not([type=checkbox]), select, textarea, .noUi-base, svg')]
    .map(node => [node, node.getBoundingClientRect()]).filter(([, box]) => box.width > 1 && box.height > 1);
  const name = node => (node.closest('[class*="adlib-"]')?.className ?? '') + ' ' + node.tagName;
  const found = parts.filter(([node, box]) => box.right > edge && !node.closest('.adlib-thumbnails'))
    .map(([node]) => 'cut: ' + name(node));
  parts.forEach(([a, p], i) => parts.slice(i + 1).forEach(([b, q]) => {
    const width = Math.min(p.right, q.right) - Math.max(p.left, q.left);
    const height = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
    if (width > 1 && height > 1 && !a.contains(b) && !b.contains(a)) found.push(name(a) + ' over ' + name(b));
  }));
  const words = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  for (let text = words.nextNode(); text; text = words.nextNode()) {
    if (text.parentElement.closest('td.word, code')) continue; // paths may break anywhere
    for (const match of text.data.matchAll(/[^\\s/_=-]+/g)) {
      const range = document.createRange();
      range.setStart(text, match.index);
      range.setEnd(text, match.index + match[0].length);
      const lines = new Set([...range.getClientRects()].map(box => Math.round(box.top)));
      if (lines.size > 1) found.push('broken: ' + match[0]);
    }
  }
  return found;
}"""

# What a reviewer needs at every image, and which of it does not lie wholly within the window.
ESSENTIAL = (
    ".adlib-panels figure:nth-child(1) canvas",
    ".adlib-panels figure:nth-child(2) canvas",
    *(f".adlib-{name}" for name in ("previous", "next", "position", "sort", "status", "thumbnails")),
    *(f".adlib-{name}" for name in ("threshold", "threshold-exact", "histogram svg", "confusion table")),
    *(f".adlib-filter-{name}" for name in ("outcome", "category", "defect", "mark", "score", "clear")),
    *(f".adlib-filter-{name}" for name in ("disagree", "suspected")),
    *(f".adlib-note-{name}" for name in ("mark", "text", "save", "path")),
    ".adlib-sample tr",
    ".adlib-data",
    ".adlib-warning",
)
OUTSIDE = """selectors => selectors.filter(selector => {
  const node = document.querySelector(selector);
  if (!node) return true;
  let { left, top, right, bottom } = node.getBoundingClientRect();
  const inside = edge => left >= edge.left - 1 && top >= edge.top - 1
    && right <= edge.right + 1 && bottom <= edge.bottom + 1;
  if (right - left < 20 || bottom - top < 10) return true;
  for (let box = node.parentElement; box && box !== document.body; box = box.parentElement) {
    const style = getComputedStyle(box);
    const cuts = style.display !== 'contents' && style.overflow !== 'visible';
    if (cuts && !inside(box.getBoundingClientRect())) return true;
  }
  return !inside({ left: 0, top: 0, right: innerWidth, bottom: innerHeight });
})"""

# Brightness, 0 to 255, of the inspector's text and of what it stands on.
CONTRAST = """() => {
  const bright = colour => colour.match(/[\\d.]+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0) / 3;
  let node = document.querySelector('.adlib-status');
  const ink = getComputedStyle(node).color;
  while (/rgba\\(.*, 0\\)|transparent/.test(getComputedStyle(node).backgroundColor)) node = node.parentElement;
  return [bright(ink), bright(getComputedStyle(node).backgroundColor)];
}"""


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def workplace(tmp_path) -> Path:
    (tmp_path / "home").mkdir()
    return make_workplace(tmp_path / "workplace")


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory) -> Path:
    folder = Path(os.environ.get("ADLIB_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def open_page(browser: Browser) -> tuple[Page, list[str]]:
    """A page, and the list of the JavaScript errors in it."""
    page, errors = browser.new_page(viewport={"width": WIDTHS[0], "height": 1000}), []
    page.set_default_timeout(120_000)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: dialog.accept())
    return page, errors


def counts(page: Page) -> dict[str, float]:
    cells = page.locator(".adlib-confusion td[data-count]")
    return {cell.get_attribute("data-count"): float(cell.inner_text()) for cell in cells.all()}


def threshold(page: Page) -> float:
    return float(page.locator(".adlib-threshold-exact input").input_value())


def use_inspector(page: Page, predictions: Predictions) -> None:
    """What a reviewer does: decide, step, filter, note. predictions: of the method in focus."""
    labels = predictions.samples["label"].to_numpy()

    def expected() -> dict[str, float]:
        metrics = decision_metrics(labels, predictions.scores, threshold(page))
        return {name: metrics[name] for name in ("tp", "fn", "fp", "tn")}

    page.locator(".adlib-panels canvas").first.wait_for()
    before = counts(page)
    assert before == expected()
    assert sum(before.values()) == len(predictions)

    for name in ("outcome", "category", "defect", "mark"):
        chosen = page.locator(f".adlib-filter-{name} select option:checked")
        expect(chosen).to_have_text("all")

    slider = page.locator(".adlib-threshold .noUi-base")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    handle = page.locator(".adlib-threshold .noUi-handle").bounding_box()
    page.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.99 * box["width"], box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    expect(page.locator(".adlib-confusion td[data-count=tp]")).to_have_text("0")  # beyond the highest score
    assert counts(page) == expected() != before

    middle = float(pd.Series(predictions.scores[labels == 1]).median())
    page.locator(".adlib-threshold-exact input").fill(str(middle))
    page.keyboard.press("Enter")
    expect(page.locator(".adlib-confusion td[data-count=fn]")).to_have_text("2")  # of 4 anomalous images
    assert counts(page) == expected()

    position, canvas = page.locator(".adlib-position input"), page.locator(".adlib-panels canvas").first
    canvas.click()
    first = page.locator(".adlib-sample").inner_text()
    for key, place in (("ArrowRight", "2"), ("ArrowRight", "3"), ("ArrowLeft", "2")):
        page.keyboard.press(key)
        expect(position).to_have_value(place)
    assert page.locator(".adlib-sample").inner_text() != first

    page.locator(".adlib-confusion td[data-count=fn] button").click()
    expect(page.locator(".adlib-filter-outcome select option:checked")).to_have_text("FN: missed")
    expect(page.locator(".adlib-status")).to_contain_text("of 2 shown, 8 in all")
    expect(page.locator(".adlib-sample")).to_contain_text("anomalous")

    page.locator(".adlib-note-text textarea").fill(NOTE)
    page.locator(".adlib-note-save").click()
    expect(page.locator(".adlib-note-path")).to_contain_text("1 note in")


def find_note(page: Page, name: str) -> None:
    """After a reload: the note is at its image, and nowhere else."""
    seen, before = set(), ""
    page.locator(".adlib-panels canvas").first.wait_for()
    for place in range(1, 9):
        expect(page.locator(".adlib-position input")).to_have_value(str(place))
        # The number is the page's own; what belongs to it comes from the kernel, a moment later.
        expect(page.locator(".adlib-sample")).not_to_have_text(before, use_inner_text=True)
        before = page.locator(".adlib-sample").inner_text()
        image = re.search(r"image\s+(\S+)", before)[1]
        expect(page.locator(".adlib-note-text textarea")).to_have_value(NOTE if image == name else "")
        seen.add(image)
        if place < 8:
            page.locator(".adlib-next").click()
    assert name in seen and len(seen) == 8


def noted(workplace: Path) -> str:
    """The one image that has the note in the notes' file."""
    notes = pd.read_csv(workplace / "reports" / "review_notes.csv")
    assert notes["text"].tolist() == [NOTE]
    return notes["image"][0]


def photograph(page: Page, folder: Path, name: str) -> None:
    """A screenshot at each width, high enough for the whole inspector, in which nothing is cut or overlaps."""
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 1800})
        page.wait_for_timeout(1000)  # sliders and canvases follow the new width
        page.locator(".adlib-inspector").evaluate("inspector => inspector.scrollIntoView()")
        page.screenshot(path=folder / f"{name}_{width}.png")
        assert page.evaluate(MISPLACED) == [], width


def fits_one_screen(page: Page, folder: Path, name: str, width: int, height: int) -> None:
    """All that is essential lies within a window of this size, in light and dark; in the end it is light again."""
    page.set_viewport_size({"width": width, "height": height})
    for scheme in ("dark", "light"):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_timeout(1000)
        page.locator(".adlib-runs").evaluate("inspector => inspector.scrollIntoView()")
        page.screenshot(path=folder / f"{name}_{width}x{height}_{scheme}.png")
        assert page.evaluate(OUTSIDE, ESSENTIAL) == [], scheme
        ink, paper = page.evaluate(CONTRAST)
        assert abs(ink - paper) > 90
        assert (ink > paper) == (scheme == "dark")
        side = page.locator(".adlib-panels canvas").nth(1).bounding_box()["width"]
        assert side > 150  # no stamp


def focused(workplace: Path) -> Predictions:
    """Predictions of the method that the inspector opens with: the first of its list, the newest run."""
    newest = max(stored(workplace), key=lambda record: (record["ended"], record["key"]))
    return Predictions.load(workplace / "reports" / "runs" / newest["key"] / "predictions")


def run_all_cells(page: Page) -> None:
    """In the notebook 02_inspect, which may be one of several open ones."""
    page.locator(".jp-RenderedMarkdown h1", has_text="Which images did the detectors get wrong?").click()
    # What is run before the kernel is there is never run.
    page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook-ExecutionIndicator[data-status=idle]").wait_for(
        timeout=PATIENT
    )
    run = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-InputPrompt", has_text=re.compile(r"\[[*\d]"))
    for _ in range(3):  # what is clicked while Lab still restores its panels goes nowhere
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        with contextlib.suppress(PlaywrightTimeout):
            run.first.wait_for(state="attached", timeout=PATIENT / 12)
            break
    page.locator(".adlib-inspector").wait_for(state="attached", timeout=PATIENT)
    page.locator(".adlib-inspector").evaluate("inspector => inspector.scrollIntoView()")


def test_inspector_in_jupyterlab(browser, workplace, tmp_path, screenshots):
    with jupyter_lab(workplace, tmp_path / "home") as address:
        page, errors = open_page(browser)
        assert page.goto(address.partition("?")[0]).url.partition("?")[0].endswith("/login")  # not without the token
        page.goto(address)  # the first notebook, with its table of contents
        page.locator(".jp-RenderedMarkdown h1", has_text="Where do I start?").first.wait_for()
        expect(page.locator(".jp-TableOfContents >> text=A detector")).to_be_visible()
        page.screenshot(path=screenshots / "start_1280.png")

        page.goto(address.replace("00_start_here", "02_inspect"))
        run_all_cells(page)
        page.locator(".adlib-panels canvas").first.wait_for()
        fits_one_screen(page, screenshots, "lab", 1400, 1000)
        use_inspector(page, focused(workplace))
        photograph(page, screenshots, "lab")
        page.keyboard.press("Control+s")
        page.reload()
        run_all_cells(page)
        find_note(page, noted(workplace))
        assert errors == []
        page.close()


def test_inspector_as_an_app(browser, workplace, tmp_path, screenshots):
    crowd(workplace)
    with inspector_app(workplace, tmp_path / "home") as address:
        page, errors = open_page(browser)
        asked = []
        page.on("request", lambda request: asked.append(request))
        assert "login" in page.goto(address.partition("?")[0]).url
        page.goto(address, timeout=PATIENT)  # it is sent as the kernel goes on
        page.locator(".adlib-inspector").wait_for(timeout=PATIENT)
        assert page.locator("text=inspect_runs").count() == 0  # no code
        page.locator(".adlib-panels canvas").first.wait_for()
        names = page.locator(".adlib-data option").all_inner_texts()
        told = [
            f"{OWN}/{CATEGORY} ({text})".replace(" ", "\xa0") for text in ("4 training images", "5 training images")
        ]
        assert names == told
        fits_one_screen(page, screenshots, "app", 1280, 800)
        assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")
        for method in (1, 0):  # each opens at its best F1, and no slider moves it
            page.locator(".adlib-method select").select_option(index=method)
            page.wait_for_timeout(2000)
            expect(page.locator(".adlib-oracle")).to_have_count(1)
        use_inspector(page, focused(workplace))
        photograph(page, screenshots, "app")
        page.reload(timeout=PATIENT)
        page.locator(".adlib-inspector").wait_for(timeout=PATIENT)
        find_note(page, noted(workplace))
        assert errors == []
        here = (address.partition("?")[0], "data:", "blob:")
        sent = [request.url for request in asked if request.failure != "csp"]  # others the policy has kept here
        assert [url for url in sent if not url.startswith(here)] == []
        page.close()


def test_a_rendered_page_has_pictures_without_a_kernel(browser, workplace, screenshots):
    from adlib.report.notebooks import render_notebook
    from adlib.runs.execute import execute_notebook

    executed = execute_notebook(
        "02_inspect", workplace / "02_inspect.ipynb", {"out": str(workplace / "reports")}, False
    )
    html = render_notebook(executed, workplace / "page.html", "index.html")
    page, errors = open_page(browser)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(html.as_uri())
    pictures = page.locator(".adlib-contact-sheet img")
    expect(pictures.first).to_be_visible()
    assert all(picture.evaluate("image => image.complete && image.naturalWidth > 0") for picture in pictures.all())
    assert page.locator(".adlib-warning").count() == 1  # random weights are named in red
    assert page.locator(".adlib-inspector").count() == 0
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 1080})
        page.screenshot(path=screenshots / f"report_{width}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert errors == []
    page.close()
