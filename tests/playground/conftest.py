"""One browser, with one page, for all tests of the playground; they skip where playwright or chromium is missing."""

import json
import re
import shutil

import pytest

from common import PROJECT

PAGE = PROJECT / "playground.html"


@pytest.fixture(scope="session")
def html():
    """The committed page."""
    return PAGE.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def facts(html):
    """What the page says of itself."""
    return json.loads(re.search(r'id="facts">(.*?)</script>', html)[1])


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not chromium:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def page(browser):
    """The page, opened from its file and without a network. Nothing may be asked of anybody, and nothing may fail."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, has_touch=True, offline=True)
    page = context.new_page()
    page.set_default_timeout(20_000)
    asked = []
    errors = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(PAGE.as_uri())
    page.locator("body.ready").wait_for()
    yield page
    assert [url for url in asked if not url.startswith((PAGE.as_uri(), "blob:", "data:"))] == []
    assert errors == []
