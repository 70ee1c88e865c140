"""A report made of a stranger's store, opened in Chromium: nothing runs, nothing is asked of the network."""

import shutil

import pytest

if not shutil.which("chromium"):
    pytest.skip("no Chromium here (`apt-get install chromium`): browser tests left out", allow_module_level=True)
pytest.importorskip("playwright", reason="no Playwright here (`make setup`): browser tests left out")

import strangers
from servers import chromium

from adlib.report.pages import render_report


def test_no_page_of_a_strangers_store_runs_its_script_and_ours_still_does(tmp_path):
    strangers.leave_store(tmp_path)
    index = render_report(tmp_path)
    with chromium() as browser:
        for file in [index, *(tmp_path / "html").rglob("*.html")]:
            page, ran, asked = browser.new_page(), [], []
            page.on("dialog", lambda dialog, ran=ran: (ran.append(dialog.message), dialog.dismiss()))
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(file.as_uri())
            for link in page.locator("main a[href]:visible").all():
                if "script:" in link.get_attribute("href") or "data:" in link.get_attribute("href"):
                    link.click()
            page.wait_for_timeout(300)
            assert ran == [], file
            assert [url for url in asked if not url.startswith(("file:", "data:"))] == [], file
            page.close()
        page = browser.new_page()
        page.goto(index.as_uri())
        assert page.locator("table.adlib-list thead [role=button]").count() > 0  # sorting works under the policy
        page.close()
