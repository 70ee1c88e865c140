"""A report made of a stranger's store runs no script and loads nothing; tests/browser tries the same in Chromium."""

from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest
import strangers

from adlib.report.harmless import harmless_html, policy
from adlib.report.pages import SCRIPT, render_report


class Active(HTMLParser):
    """What could run or load something in a page, but for the one script that the policy names."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[str] = []
        self.policy = ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag in ("script", "iframe", "object", "embed", "form", "base", "svg", "math", "template", "input", "video"):
            self.found.append(tag)
        given = dict(attributes)
        if tag == "meta" and given.get("http-equiv") == "Content-Security-Policy":
            self.policy = given["content"]
        elif "http-equiv" in given or (tag == "link" and given.get("href") != "data:,"):
            self.found.append(tag)
        if "url(" in given.get("style", ""):
            self.found.append("style")
        for name, value in attributes:
            kind = urlsplit("".join((value or "").split())).scheme if name in ("href", "src", "action") else ""
            if name.startswith("on") or name in ("srcdoc", "formaction"):
                self.found.append(f"{tag} {name}")
            elif tag == "a" and kind in ("http", "https"):
                pass  # a person may follow it, or not
            elif kind not in ("", "data") or (kind == "data" and name == "href" and tag != "link"):
                self.found.append(f"{tag} {name}={value}")


@pytest.mark.parametrize("html", strangers.HTML)
def test_html_of_others_neither_runs_nor_loads(html):
    assert Active(harmless_html(html)).found == []


def test_html_of_ours_stays_as_it_is():
    for html in (
        '<table border="1" class="dataframe"><thead><tr><th>a</th></tr></thead></table>'.replace(' border="1"', ""),
        '<div class="adlib-warning" role="alert" style="background: #b00020; color: #fff;">red</div>',
        '<a href="../index.html?find=a%20b#runs" title="2 runs">80.00</a>',
        '<img src="data:image/jpeg;base64,AAAA" width="8" height="8" style="display: block;" alt="a">',
    ):
        assert harmless_html(html) == html


def test_every_page_of_a_strangers_store_is_harmless(tmp_path):
    strangers.leave_store(tmp_path)
    index, script = render_report(tmp_path), SCRIPT.read_text()
    pages = [index, *(tmp_path / "html").rglob("*.html")]
    assert len(pages) == 5  # with two runs and two notebooks; the page of no run is gone
    for page in pages:
        active = Active(page.read_text())
        assert active.policy == policy(script if page == index else "")
        assert active.found == (["script"] if page == index else [])
    assert index.read_text().count(f"<script>{script}</script>") == 1
    assert policy(script).endswith("='")
    assert "unsafe-inline" not in policy(script).partition("script-src")[2]
