"""The page in a real browser, headless: what a hand on a mouse, on a keyboard or on a telephone gets to see.

PLAYGROUND_SCREENSHOT=vis/playground.png python -m pytest tests/playground -k draws     # writes README's picture
"""

import os
import re

import numpy as np
import pytest
from PIL import Image
from playing import CHROMIUM, encoded, needs_browser, photograph

pytestmark = [pytest.mark.xdist_group("playground"), needs_browser]
SIZES = {"desktop": (1280, 800), "telephone": (390, 844)}
TABS = ("Draw a digit", "Digits to order", "The latent space", "Flowers", "New flowers")
THREE = [(85, 80), (105, 55), (140, 45), (175, 60), (180, 90), (160, 115), (125, 128)]
THREE += [(165, 140), (185, 170), (175, 205), (140, 225), (105, 218), (82, 195)]
ONE = [(140, 50), (140, 220)]
SOURCES = "(images) => images.map((image) => image.src)"
OVERLAPS = """() => {
  const kinds = 'canvas, img, button:not(.overflow-dropdown *), input, label, h3, code, figcaption, p';
  const all = [...document.querySelectorAll(kinds)].map((element) => [element, element.getBoundingClientRect()]);
  const shown = all.filter(
    ([element, box]) => element.offsetParent && box.width > 1 && !element.closest('.visually-hidden')
      && element.checkVisibility({ opacityProperty: true, visibilityProperty: true }));
  const found = [], name = (element) => element.outerHTML.slice(0, 80);
  for (const [a, boxA] of shown) {
    if (boxA.left < -1 || boxA.right > innerWidth + 1) found.push(`cut off: ${name(a)}`);
    for (const [b, boxB] of shown) {
      const x = Math.min(boxA.right, boxB.right) - Math.max(boxA.left, boxB.left);
      const y = Math.min(boxA.bottom, boxB.bottom) - Math.max(boxA.top, boxB.top);
      if (a !== b && x > 2 && y > 2 && !a.contains(b) && !b.contains(a)) found.push(`overlap: ${name(a)} ${name(b)}`);
    }
  }
  return found;
}"""
CONTROLS = """() => [...document.querySelectorAll('button, input, canvas, textarea, [tabindex="0"]')].filter(
  (element) => element.offsetParent && !element.disabled && element.tabIndex >= 0 && element.type !== 'file'
    && element.checkVisibility({ visibilityProperty: true }))"""

UNREACHED = """(element) => !reached.has(element) && !(element.type === 'radio'
  && [...document.getElementsByName(element.name)].some((other) => reached.has(other)))"""  # arrows move in a group


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright  # only where it is installed

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, server, request):
    """The page at one of the sizes; nothing may be asked of another machine, or fail in the browser."""
    width, height = SIZES[getattr(request, "param", "desktop")]
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(20_000)
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server.url)
    page.wait_for_selector("#board canvas")
    yield page
    assert [url for url in asked if not url.startswith((server.url, "data:", "blob:"))] == []
    assert errors == []
    page.close()


def open_tab(page, name):
    """Open a tab, which narrow screens have in a menu."""
    tab = page.get_by_role("tab", name=name, exact=True)
    if not tab.is_visible():
        page.locator(".overflow-menu > button").click()
        tab = page.locator(".overflow-dropdown").get_by_role("button", name=name, exact=True)
    tab.click()
    page.wait_for_timeout(500)  # its controls are mounted, and then listen


def draw(page, points):
    """Draw a line on the board with the mouse; points: on its 280 pixels."""
    box = page.locator("#board canvas").bounding_box()
    places = [(box["x"] + x * box["width"] / 280, box["y"] + y * box["height"] / 280) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=3)
    page.mouse.up()


def sources(page, selector):
    """What the pictures are."""
    return page.eval_on_selector_all(f"{selector} img", SOURCES)


def wait_for(page, selector, text):
    page.locator(selector, has_text=text).first.wait_for()


def order(page, text):
    """Type a number."""
    page.locator("#number textarea").click()
    page.keyboard.press("Control+a")
    page.keyboard.type(text, delay=20)


def save(page, selector):
    """The PNG that a button saves."""
    with page.expect_download() as download:
        page.locator(f"{selector} .save").first.click()
    assert download.value.suggested_filename.endswith(".png")
    return Image.open(download.value.path())


def test_one_draws_a_3_and_three_answers_and_ten_digits_change(page):
    draw(page, ONE)
    wait_for(page, "#answers", "guessed 1")
    page.wait_for_timeout(300)  # the answer to the last of the stroke
    before = sources(page, "#answers")
    page.locator("#board button").click()
    wait_for(page, "#answers", "appear here")
    draw(page, THREE)
    wait_for(page, "#answers", "guessed 3")
    page.wait_for_timeout(300)
    after = sources(page, "#answers")
    assert (len(before), len(after)) == (14, 14)
    assert [a != b for a, b in zip(before, after, strict=True)] == 14 * [True]
    if path := os.environ.get("PLAYGROUND_SCREENSHOT"):
        page.screenshot(path=path)
    page.get_by_label("5", exact=True).check()
    wait_for(page, "#answers", "told 5")
    with save(page, "#answers") as image:
        assert (image.format, image.size) == ("PNG", (4 * 116 - 4, 112))
        assert np.asarray(image.convert("L"))[:, :112].std() > 40  # the drawing


def test_one_orders_2026_in_several_hands(page):
    open_tab(page, "Digits to order")
    order(page, "40")
    wait_for(page, "#written", "--labels 4 0")
    order(page, "2026")
    wait_for(page, "#written", "--labels 2 0 2 6")
    first = sources(page, "#written")
    assert len(first) == 4
    assert first[0] == first[2] != first[3]
    page.locator("#another").click()
    wait_for(page, "#written", "Row 2 of")
    second = sources(page, "#written")
    assert not {*first} & {*second}
    slider = page.locator("input[type=range]:visible").first
    slider.focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    wait_for(page, "#written", "before the sliders moved")
    assert sources(page, "#written") != second
    order(page, "abc")
    wait_for(page, "#written", "Type 1 to 12 digits")


def test_one_clicks_and_walks_through_the_latent_space(page):
    open_tab(page, "The latent space")
    canvas = page.locator("#plane canvas")
    canvas.wait_for()
    before = sources(page, "#place")
    canvas.click(position={"x": 120, "y": 250})
    page.wait_for_function("(before) => document.querySelector('#place img').src !== before", arg=before[0])
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 150, box["y"] + 300)
    page.mouse.down()
    page.mouse.move(box["x"] + 350, box["y"] + 380, steps=4)
    page.mouse.up()
    wait_for(page, "#place", re.compile(r"From a \d to a \d"))
    assert len({*sources(page, "#place")}) == 10
    canvas.focus()
    for key in ("ArrowLeft", "ArrowUp", "Enter"):
        page.keyboard.press(key)
    wait_for(page, "#place", "decoded here")
    page.get_by_label("CVAE", exact=True).check()
    wait_for(page, "#place", "decoded here, told")


def test_one_uploads_a_photograph_and_nonsense(page, tmp_path):
    (tmp_path / "flower.png").write_bytes(encoded("PNG"))
    (tmp_path / "broken.png").write_bytes(encoded("PNG")[:300])
    open_tab(page, "Flowers")
    page.locator("#redrawn img").first.wait_for()
    before = sources(page, "#redrawn")
    with page.expect_file_chooser() as opened:
        page.get_by_role("button", name="Upload a photograph").click()
    opened.value.set_files(tmp_path / "broken.png")
    wait_for(page, "#notice", "This file cannot be used: it is damaged.")
    assert sources(page, "#redrawn") == before
    with page.expect_file_chooser() as opened:
        page.get_by_role("button", name="Upload a photograph").click()
    opened.value.set_files(tmp_path / "flower.png")
    page.wait_for_function("(before) => document.querySelector('#redrawn img').src !== before", arg=before[0])
    after = sources(page, "#redrawn")
    assert len(after) == 2 * 4 + 2 * 8
    assert [a != b for a, b in zip(before[:8], after[:8], strict=True)] == 4 * [True] + 4 * [False]
    expected = np.asarray(photograph().resize((24, 24), Image.Resampling.BILINEAR), float)
    with save(page, "#redrawn") as image:
        shown = np.asarray(image.convert("RGB"), float)[2:120:5, 2:120:5][: len(expected)]
    assert np.abs(shown - expected).mean() < 3
    page.get_by_label("second", exact=True).check()
    page.locator("#offered button").nth(7).click()
    page.wait_for_function("(before) => document.querySelectorAll('#redrawn img')[4].src !== before", arg=after[4])
    assert sources(page, "#redrawn")[:4] == after[:4]


def test_one_watches_the_ddpm_and_stops_it(page):
    open_tab(page, "New flowers")
    page.get_by_label("number input for Guidance").fill("2")  # which takes twice the time
    page.locator("#sample").click()
    wait_for(page, "#new", re.compile(r"Step \d+:"))
    page.locator("#stop").click()
    page.wait_for_timeout(500)
    stopped = page.locator("#new h3").text_content()
    page.wait_for_timeout(500)
    assert page.locator("#new h3").text_content() == stopped
    assert int(re.search(r"\d+", stopped)[0]) < 75
    assert len({*sources(page, "#new")}) == 12
    page.locator("#model").get_by_label("GAN").check()
    page.locator("#sample").click()
    wait_for(page, "#new", "--model GAN")


@pytest.mark.parametrize("page", SIZES, indirect=True)
def test_nothing_overlaps_or_is_cut_off_and_every_picture_has_an_alternative_text(page):
    draw(page, THREE)
    wait_for(page, "#answers", "guessed")
    for name in TABS:
        open_tab(page, name)
        if name == "Flowers":
            page.locator("#redrawn img").first.wait_for()
        if name == "New flowers":
            page.locator("#model").get_by_label("GAN").check()
            page.locator("#sample").click()
            page.locator("#new img").first.wait_for()
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, name
        assert page.evaluate(OVERLAPS) == [], name
        texts = page.eval_on_selector_all("img", "(images) => images.map((image) => image.alt)")
        assert texts and all(texts)


def test_the_keyboard_alone_reaches_every_control_and_draws(page):
    page.locator("#board canvas").focus()
    page.keyboard.press("Space")
    for _ in range(16):
        page.keyboard.press("ArrowDown")
    wait_for(page, "#answers", "guessed 1")
    for name in TABS:
        open_tab(page, name)
        page.wait_for_timeout(300)
        page.evaluate("document.activeElement.blur()")
        expected = page.evaluate(f"(window.reached = new Set(), ({CONTROLS})().length)")
        for _ in range(expected + 10):
            page.keyboard.press("Tab")
            page.evaluate("reached.add(document.activeElement)")
        unreached = page.evaluate(f"({CONTROLS})().filter({UNREACHED}).map((element) => element.outerHTML)")
        assert unreached == [], name
