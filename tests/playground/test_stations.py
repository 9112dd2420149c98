"""The page in a real browser: with the mouse, by touch and with the keyboard."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image
from playground_shapes import SHAPES

pytestmark = pytest.mark.xdist_group("playground")
STATIONS = ("squeeze", "dice", "latent", "order", "weight", "flowers")


@pytest.fixture(autouse=True)
def fresh(page):
    """Every test finds the page in English and in a window of 1280x800."""
    page.set_viewport_size({"width": 1280, "height": 800})
    page.evaluate("language === 'en' || setLanguage('en')")


def see(page, station):
    """Scroll to a station, and wait until it has shown something."""
    page.evaluate("(id) => $(`#${id}`).scrollIntoView({ behavior: 'instant' })", station)
    page.wait_for_function("(id) => !stations.find(({ element }) => element.id === id).isStale", arg=station)
    page.wait_for_timeout(20)


def pixels(page, selector):
    """The pixels of the canvases of a selector."""
    return page.eval_on_selector_all(selector, "(list) => list.map((canvas) => canvas.toDataURL())")


def wait_for_change(page, selector, before):
    page.wait_for_function(
        "([selector, before]) => $$(selector).some((canvas, i) => canvas.toDataURL() !== before[i])",
        arg=[selector, before],
    )


def wait_for_text(page, selector, text):
    page.locator(selector, has_text=re.compile(text)).wait_for()


def pad_places(page, shape):
    """The strokes of a shape, in the window."""
    box = page.locator("#pad").bounding_box()
    return [[(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke] for stroke in shape[1]]


def draw(page, shape):
    """Draw with the mouse."""
    page.locator("#clear").click()
    for stroke in pad_places(page, shape):
        page.mouse.move(*stroke[0])
        page.mouse.down()
        for place in stroke[1:]:
            page.mouse.move(*place, steps=2)
        page.mouse.up()


def test_a_digit_drawn_with_the_mouse_is_answered_by_three_models(page):
    see(page, "squeeze")
    before = pixels(page, ".model .decoded")
    draw(page, SHAPES[1])
    wait_for_text(page, "#read", "reads a 1")
    after = pixels(page, ".model .decoded")
    assert all(a != b for a, b in zip(before, after, strict=True))
    errors = [float(text.split()[1]) for text in page.locator(".model .error").all_text_contents()]
    assert max(errors) < 0.05
    first, second, total = map(int, re.findall(r"\d+", page.locator(".model.VAE .nats").text_content()))
    assert abs(first + second - total) <= 1


def test_a_digit_is_drawn_by_touch_and_with_the_keyboard(page):
    see(page, "squeeze")
    page.locator("#clear").click()
    touch = page.context.new_cdp_session(page)
    (stroke,) = pad_places(page, SHAPES[10])
    for kind, places in (("Start", stroke[:1]), *(("Move", [place]) for place in stroke), ("End", [])):
        points = [{"x": x, "y": y} for x, y in places]
        touch.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
    wait_for_text(page, "#read", "reads a 7")
    page.locator("#clear").click()
    page.locator("#pad").focus()
    for key in ["Space", *["ArrowDown"] * 14, "Space"]:
        page.keyboard.press(key)
    wait_for_text(page, "#read", "reads a 1")


def test_a_bar_is_dragged_and_moved_with_keys_and_z_is_sampled_again(page):
    see(page, "squeeze")
    page.locator("#means").click()
    decoded = ".model.VAE .decoded"
    before = pixels(page, decoded)
    box = page.locator(".model.VAE .bars").bounding_box()
    y = box["y"] + 2.5 * box["height"] / 20
    page.mouse.move(box["x"] + box["width"] / 2, y)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.95 * box["width"], y, steps=4)
    page.mouse.up()
    bar = page.locator(".model.VAE .bar").nth(2)
    assert float(bar.get_attribute("aria-valuenow")) == pytest.approx(3.6, abs=0.1)
    wait_for_change(page, decoded, before)
    page.keyboard.press("ArrowLeft")
    assert float(bar.get_attribute("aria-valuenow")) == pytest.approx(3.4, abs=0.1)
    page.locator("#means").click()
    assert pixels(page, decoded) == before
    cloud = pixels(page, ".cloud canvas")
    page.locator("#sample").click()
    wait_for_change(page, ".model.CVAE .cloud canvas", cloud[6:])
    assert not set(cloud) & set(pixels(page, ".cloud canvas"))
    assert pixels(page, decoded) != before


def test_a_test_digit_and_another_label(page):
    see(page, "squeeze")
    page.locator("#test-digits button").nth(4).click()
    wait_for_text(page, "#read", "reads a 4")
    before = pixels(page, ".model .decoded")
    page.locator("#label").select_option("8")
    wait_for_change(page, ".model.CVAE .decoded", before[2:])
    assert pixels(page, ".model .decoded")[:2] == before[:2]
    page.locator("#label").select_option("read")


def test_rolls_change_every_row_and_come_again(page):
    see(page, "dice")
    first = pixels(page, "#dice canvas")
    assert len(first) == len(set(first)) == 40
    page.locator("#roll").click()
    wait_for_text(page, "#roll-number", "roll 2")
    assert not set(first) & set(pixels(page, "#dice canvas"))
    page.evaluate("roll = 1; changed(dice);")
    assert pixels(page, "#dice canvas") == first


def test_hovering_decodes_and_dragging_walks_on_every_plane(page):
    see(page, "latent")
    page.wait_for_function("planes.length === 4")
    for name in ("AE", "VAE", "CVAE", "map"):
        here = f"#latent .{name} .here"
        box = page.locator(f"#latent .{name} .points").bounding_box()
        page.mouse.move(box["x"] + 100, box["y"] + 120)
        before = pixels(page, here)
        page.mouse.move(box["x"] + 180, box["y"] + 150)
        wait_for_change(page, here, before)
        page.mouse.down()
        page.mouse.move(box["x"] + 60, box["y"] + 60, steps=3)
        page.mouse.up()
        wait_for_text(page, "#walk-of", name if name != "map" else "two latents")
        assert len(set(pixels(page, "#walk canvas"))) == 9
    page.locator("#latent .AE .points").focus()
    before = pixels(page, "#latent .AE .here") + pixels(page, "#walk canvas")
    page.keyboard.press("Shift+ArrowDown")
    wait_for_text(page, "#walk-of", "AE")
    assert before != pixels(page, "#latent .AE .here") + pixels(page, "#walk canvas")


def test_digits_to_order_are_typed_and_erased_in_several_hands(page):
    see(page, "order")
    number = page.locator("#number")
    number.fill("")
    wait_for_text(page, "#written-as", "^Type 1 to 12 digits.$")
    number.press_sequentially("207")
    assert page.locator("#written canvas").count() == 3
    number.press("Backspace")
    wait_for_text(page, "#written-as", "^20, in the hand of your drawing.$")
    number.fill("２０ 26x")  # full-width digits, a space, a letter
    wait_for_text(page, "#written-as", "^2026, in the hand of your drawing. Type 1 to 12 digits.$")
    number.fill("2026")
    mine = pixels(page, "#written canvas")
    assert mine[0] == mine[2] != mine[1]
    page.locator("#other-hand").click()
    wait_for_text(page, "#written-as", "from N")
    others = pixels(page, "#written canvas")
    assert not set(mine) & set(others)
    page.locator("#sliders input").first.focus()
    page.keyboard.press("Home")
    assert not set(others) & set(pixels(page, "#written canvas"))
    page.locator("#my-hand").click()
    assert pixels(page, "#written canvas") == mine


def test_a_dear_code_collapses(page, facts):
    see(page, "weight")
    slider = page.locator("#beta")
    slider.focus()
    page.keyboard.press("Home")
    wait_for_text(page, "#beta-value", "0.01")
    page.wait_for_timeout(200)
    assert len(set(pixels(page, "#copies canvas"))) == 10
    page.keyboard.press("End")
    wait_for_text(page, "#beta-bound", "KL 0.0 .* 0 of 20 latents")

    def spread(selector):
        images = [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in pixels(page, selector)]
        return np.stack([np.asarray(image.convert("L"), float) for image in images]).std(axis=0).max()

    assert max(spread("#copies canvas"), spread("#news canvas")) < 12 < spread("#originals canvas")
    bounds = [vae["recon"] + sum(vae["kl_of_latents"]) for vae in facts["small"][:5]]
    assert min(bounds) == bounds[2]  # as the text says


def test_a_photograph_is_dropped_and_another_file_is_a_sentence(page, tmp_path):
    see(page, "flowers")
    page.wait_for_function("$$('#new-gan-normal canvas').length === 8")
    noise = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    photograph = Image.fromarray(noise).resize((90, 60), Image.Resampling.BICUBIC)
    photograph.save(tmp_path / "flower.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "flower.png").read_bytes()[:300])
    (tmp_path / "note.txt").write_text("hello")
    before = pixels(page, "#ends canvas")
    for name in ("broken.png", "note.txt"):
        page.locator("#file").set_input_files(tmp_path / name)
        wait_for_text(page, "#notice", "cannot read this file")
        assert pixels(page, "#ends canvas") == before
        page.evaluate("$('#notice').textContent = ''")
    page.locator("#slots input").nth(1).check()
    data = base64.b64encode((tmp_path / "flower.png").read_bytes()).decode()
    drop = """([data]) => {
        const files = new DataTransfer();
        const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
        files.items.add(new File([bytes], "a.png", { type: "image/png" }));
        $("#drop").dispatchEvent(new DragEvent("drop", { dataTransfer: files, cancelable: true }));
    }"""
    page.evaluate(drop, [data])
    wait_for_text(page, "#notice", "stays on this machine")
    wait_for_change(page, "#ends canvas", before)
    found = np.array(page.evaluate("[...photographs.ends[1]]")).reshape(3, 24, 24)
    expected = np.asarray(photograph.resize((24, 24), Image.Resampling.BILINEAR), float).transpose(2, 0, 1) / 255
    assert np.abs(found - expected).mean() < 0.03
    assert pixels(page, "#ends canvas")[0] == before[0]


def test_the_ddpm_is_started_twice_stopped_and_scrubbed(page):
    see(page, "flowers")
    start = page.locator("#start")
    start.click()
    wait_for_text(page, "#step", r"step [1-9]\d* of 75")
    start.click()
    stopped = page.locator("#step").text_content()
    page.wait_for_timeout(300)
    assert page.locator("#step").text_content() == stopped
    first = page.evaluate("[...diffusion.images[0]]")
    start.click()
    wait_for_text(page, "#step", r"step [3-9] of 75")
    assert page.evaluate("[...diffusion.images[0]]") != first  # another noise
    page.locator("#scrubber").focus()
    page.keyboard.press("Home")
    wait_for_text(page, "#step", "step 1 of 75")
    page.wait_for_timeout(300)
    assert page.evaluate("diffusion.step") == 1 < page.evaluate("diffusion.images.length")
    page.evaluate("stopDiffusion()")


@pytest.mark.parametrize("station", STATIONS)
def test_questions_are_answered_and_explained(station, page):
    see(page, station)
    section = page.locator(f"#{station}")
    buttons = section.locator(".question button")
    assert buttons.count() == 3
    assert section.locator(".question button[data-right]").count() == 1
    for number in range(3):
        buttons.nth(number).click()
        reply = section.locator(".reply")
        assert reply.inner_text()
        is_right = buttons.nth(number).get_attribute("data-right") is not None
        assert reply.evaluate("(reply) => reply.classList.contains('right')") == is_right
    assert section.locator(".seen > p").first.is_visible()
    assert section.locator(".code a").count() >= 1
    assert section.locator("pre").count() == 1


def test_the_language_is_switched_and_kept_in_the_address(page):
    see(page, "dice")
    page.get_by_role("link", name="中文").click()
    page.wait_for_function("language === 'zh'")
    assert page.url.endswith("#zh")
    assert page.title() == "VAE 有什么用？"
    visible = page.evaluate("document.body.innerText.replace(/<code>.*?<.code>/g, '')")
    assert len(re.findall(r"[\u4e00-\u9fff]", visible)) > 1500
    assert "What was to be seen" not in visible
    see(page, "dice")
    assert page.locator("#roll-number").text_content().startswith("第")
    assert "画一个数字" in page.locator("#pad").get_attribute("aria-label")
    page.get_by_role("link", name="English").click()
    page.wait_for_function("language === 'en'")


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 800)])
def test_the_drawing_and_the_answers_are_in_sight_together(width, height, page):
    page.set_viewport_size({"width": width, "height": height})
    see(page, "squeeze")
    places = [page.locator(selector).first.bounding_box() for selector in ("#pad", ".model.AE", ".model.CVAE .nats")]
    assert max(place["y"] + place["height"] for place in places) - places[0]["y"] < height
    for station in STATIONS:
        see(page, station)
    assert page.evaluate("document.documentElement.scrollWidth") == width
