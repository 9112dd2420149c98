"""The page as a server, and in a real browser, headless: with the mouse and with the keyboard."""

import importlib
import json
import os
import re
import runpy
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playing import CHROMIUM, encoded, free_port, needs_browser, needs_gradio, photograph

from common import PROJECT, UserError
from trained.registry import checkpoint_file, training_command

pytestmark = [pytest.mark.xdist_group("playground"), pytest.mark.filterwarnings("ignore::Warning:gradio")]
SECRETS = ("README.md", "playground/page.py", "models/BestModel_AE.pth", "log/train_AE.txt", "vis/loss_AE.png")
THREE = [(85, 80), (105, 55), (140, 45), (175, 60), (180, 90), (160, 115), (125, 128)]
THREE += [(165, 140), (185, 170), (175, 205), (140, 225), (105, 218), (82, 195)]
ONE = [(140, 50), (140, 220)]


@pytest.fixture(scope="module")
def playground():
    """The script, which takes seconds to import Gradio: only the worker that runs these tests does."""
    return importlib.import_module("playground.__main__")


@pytest.fixture(scope="module")
def server(playground):
    """The address of a page with the committed models. At its end the uploaded files are deleted."""
    with playground.serve(PROJECT, "127.0.0.1", free_port()) as blocks:
        yield blocks.local_url.rstrip("/")
    assert not os.path.exists(os.environ["GRADIO_TEMP_DIR"])


# ---------------------------------------------------------------- the script


def test_without_gradio_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "playground.page", raising=False)
    monkeypatch.delattr("playground.page", raising=False)
    script = runpy.run_module("playground.__main__")
    with pytest.raises(UserError, match=r"^the playground needs Gradio: pip install -r requirements-playground.txt$"):
        script["main"](["--port", str(free_port())])
    assert "gradio" in (PROJECT / "requirements-playground.txt").read_text()
    assert "gradio" not in (PROJECT / "requirements.txt").read_text()


@pytest.mark.parametrize("flags", ["--port 0", "--port 65536", "--port x", "--share", "--output-root README.md"])
def test_wrong_flags_are_status_2(flags, playground, monkeypatch):
    monkeypatch.chdir(PROJECT)
    with pytest.raises(SystemExit) as stop:
        playground.main(flags.split())
    assert stop.value.code == 2


def test_damaged_checkpoints_are_left_out_with_a_warning(playground, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / checkpoint_file("VAE")).write_bytes(b"hello")
    with pytest.warns(UserWarning, match="BestModel_VAE.pth"):
        assert playground.load_models(tmp_path) == {}


@needs_gradio
def test_an_address_that_is_taken_is_one_line(playground, tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"^cannot listen on 127.0.0.1, port {port}: try another --port"):
            playground.main(["--port", str(port), "--output-root", str(tmp_path)])


@needs_gradio
def test_without_models_each_tab_says_what_trains_them(playground, tmp_path):
    texts = [str(part["props"].get("value")) for part in playground.page.build_page({}, tmp_path).config["components"]]
    for name in playground.MODELS:
        if "given" not in name:
            command = training_command(name, tmp_path).replace('"', "&quot;")
            assert any(f"<code>{command}</code>" in text for text in texts), name


# ---------------------------------------------------------------- the server


def fetch(url, data=None):
    """(status, body) of a request, a POST of JSON where there are data."""
    body = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def call(server, name, *data):
    """The events of a function that is answered through the queue."""
    event = json.loads(fetch(f"{server}/gradio_api/call/{name}", {"data": data})[1])["event_id"]
    return fetch(f"{server}/gradio_api/call/{name}/{event}")[1].decode()


@needs_gradio
def test_no_file_of_the_machine_can_be_read(server):
    climb = "../" * 12
    encoded_climb = "%2e%2e%2f" * 12
    paths = [f"{PROJECT}/{name}" for name in SECRETS] + ["/etc/passwd"]
    for way in (climb, encoded_climb, encoded_climb.replace("%", "%25")):
        paths += [way + f"{PROJECT}/{SECRETS[0]}".lstrip("/"), f"{way}etc/passwd"]
    paths += [*SECRETS, *(f"./{name}" for name in SECRETS), f"..%2f{PROJECT.name}%2f{SECRETS[0]}"]
    secrets = [(PROJECT / name).read_bytes()[:100] for name in SECRETS] + [b"root:"]
    for route in ("", "file=", "gradio_api/file=", "gradio_api/file/", "static/", "assets/", "gradio_api/stream/"):
        for path in paths:
            status, body = fetch(f"{server}/{route}{path}")
            assert status in (400, 403, 404, 405, 422), (route, path, status)
            assert not any(secret in body for secret in secrets)
    for route in ("gradio_api/proxy=http://127.0.0.1/", "gradio_api/runs", "monitoring", "gradio_api/mcp/"):
        assert fetch(f"{server}/{route}")[0] in (400, 403, 404, 405), route
    assert str(PROJECT).encode() not in fetch(f"{server}/config")[1]


@needs_gradio
@pytest.mark.parametrize("path", [f"{PROJECT}/vis/train_AE.png", "/etc/passwd", "http://127.0.0.1:9/x.png"])
def test_no_file_of_the_machine_is_taken_for_an_upload(path, server):
    config = json.loads(fetch(f"{server}/config")[1])
    upload = next(part["id"] for part in config["components"] if part["type"] == "uploadbutton")
    event = next(part for part in config["dependencies"] if upload in part["inputs"])
    data = [None, "first", {"path": path, "meta": {"_type": "gradio.FileData"}}]
    events = call(server, event["api_name"], *data)
    assert "event: error" in events
    assert "<img" not in events


@needs_gradio
def test_it_listens_on_this_machine_alone(server):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing, but finds the address that others see
        except OSError:
            pytest.skip("this machine has no other address")
        address = probe.getsockname()[0]
    if address.startswith("127."):
        pytest.skip("this machine has no other address")
    with pytest.raises(OSError), socket.create_connection((address, int(server.rpartition(":")[2])), timeout=5):
        pass


# ---------------------------------------------------------------- the page in a browser


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright  # only where it is installed

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page(browser, server):
    """The page, for all tests; nothing may be asked of another machine, or fail in the browser."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(20_000)
    asked = []
    errors = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server)
    page.wait_for_selector("#board canvas")
    yield page
    assert [url for url in asked if not url.startswith((server, "data:", "blob:"))] == []
    assert errors == []


def open_tab(page, name):
    """Open a tab."""
    page.get_by_role("tab", name=name, exact=True).click()
    page.wait_for_timeout(400)  # its controls are mounted, and then listen


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
    """The data of the pictures."""
    return page.eval_on_selector_all(f"{selector} img", "(images) => images.map((image) => image.src)")


def wait_for(page, selector, text):
    page.locator(selector, has_text=text).first.wait_for()


def wait_for_change(page, selector, before):
    """Wait until the picture of a selector is another one."""
    page.wait_for_function(
        "([selector, before]) => document.querySelector(selector).src !== before", arg=[selector, before]
    )


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


@needs_browser
def test_a_drawn_3_changes_three_answers_and_ten_digits(page):
    draw(page, ONE)
    wait_for(page, "#answers", "guess 1")
    page.wait_for_timeout(300)  # the answer to the last of the stroke
    before = sources(page, "#answers")
    page.locator("#board button").click()
    wait_for(page, "#answers", "appear here")
    draw(page, THREE)
    wait_for(page, "#answers", "guess 3")
    page.wait_for_timeout(300)
    after = sources(page, "#answers")
    assert (len(before), len(after)) == (14, 14)
    assert all(a != b for a, b in zip(before, after, strict=True))
    page.get_by_label("5", exact=True).check()
    wait_for(page, "#answers", "label 5")
    with save(page, "#answers") as image:
        assert (image.format, image.size) == ("PNG", (4 * 116 - 4, 112))
        assert np.asarray(image.convert("L"))[:, :112].std() > 40  # the drawing


@needs_browser
def test_2026_is_written_in_several_styles(page):
    open_tab(page, "Digits to order")
    order(page, "2026")
    wait_for(page, "#written", "--labels 2 0 2 6")
    first = sources(page, "#written")
    assert len(first) == 4
    assert first[0] == first[2] != first[3]
    page.locator("#another").click()
    wait_for(page, "#written", "Row 2 of")
    second = sources(page, "#written")
    assert not {*first} & {*second}
    page.locator("input[type=range]:visible").first.focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    wait_for(page, "#written", "before the sliders moved")
    assert sources(page, "#written") != second
    order(page, "abc")
    wait_for(page, "#written", "Type 1 to 12 digits")


@needs_browser
def test_clicks_decode_and_drags_interpolate_in_the_latent_space(page):
    open_tab(page, "The latent space")
    canvas = page.locator("#plane canvas")
    canvas.wait_for()
    before = sources(page, "#place")
    canvas.click(position={"x": 120, "y": 250})
    wait_for_change(page, "#place img", before[0])
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
    wait_for(page, "#place", "decoded here, label")


@needs_browser
def test_an_uploaded_photograph_is_redrawn_and_nonsense_is_a_sentence(page, tmp_path):
    (tmp_path / "flower.png").write_bytes(encoded("PNG"))
    (tmp_path / "broken.png").write_bytes(encoded("PNG")[:300])
    open_tab(page, "Flowers")
    page.locator("#redrawn img").first.wait_for()
    before = sources(page, "#redrawn")

    def upload(name):
        with page.expect_file_chooser() as opened:
            page.get_by_role("button", name="Upload a photograph").click()
        opened.value.set_files(tmp_path / name)

    upload("broken.png")
    wait_for(page, "#notice", "This file cannot be used: it is damaged")
    assert sources(page, "#redrawn") == before
    upload("flower.png")
    wait_for_change(page, "#redrawn img", before[0])
    assert list(Path(os.environ["GRADIO_TEMP_DIR"]).rglob("flower.png"))  # until the end
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


@needs_browser
def test_the_ddpm_samples_step_by_step_and_can_be_stopped(page):
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
    wait_for(page, "#new", "--model GAN --n 12")
    assert "guidance" not in page.locator("#new code").text_content()


@needs_browser
def test_digits_are_drawn_with_the_keyboard_and_every_picture_has_an_alternative_text(page):
    open_tab(page, "Draw a digit")
    page.locator("#board button").click()
    page.locator("#board canvas").focus()
    page.keyboard.press("Space")
    for _ in range(16):
        page.keyboard.press("ArrowDown")
    page.get_by_label("guess", exact=True).check()
    wait_for(page, "#answers", "guess 1")
    texts = page.eval_on_selector_all("img", "(images) => images.map((image) => image.alt)")
    assert len(texts) > 50  # of all tabs
    assert all(texts)
