"""Photographs and new flowers on the page, and that every command on it exists."""

import re
import shlex
import struct
import zlib
from html import unescape

import numpy as np
import pytest
from helpers import logged
from PIL import Image
from playing import DIGITS, bar, encoded, photograph, pictures_of, url_of

import main
import MLPAE_train_script
import random_generation
import train_script
import visualization
from evaluation.models import RECONSTRUCTS, SAMPLES, load_model, training_command
from evaluation.playground.digit_answers import Digits
from evaluation.playground.flower_answers import COUNT, Flowers, Request
from evaluation.playground.flowers import SIDE, read_photograph
from training import PROJECT, UserError

SCRIPTS = {f"{script.__name__}.py": script for script in (main, train_script, visualization, random_generation)}
SCRIPTS["MLPAE_train_script.py"] = MLPAE_train_script
pytestmark = pytest.mark.xdist_group("trained_flowers")


@pytest.fixture(scope="module")
def flowers(trained_flowers):
    """Of models that were trained on images of 12x16, whatever the shipped ones were."""
    root = trained_flowers[0]
    return Flowers({name: load_model(name, root) for name in ("AE", "VAE", "GAN", "DDPM")}, root)


def huge_png(side):
    """A PNG that says that it is as large, in few bytes."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def bad_uploads():
    """{what is wrong: (a file, a part of the sentence)}."""
    png, jpeg = encoded("PNG"), encoded("JPEG")
    animated = {"save_all": True, "append_images": [photograph(1)]}
    return {
        "empty": (b"", "it is empty"),
        "text": (b"hello", "not an image"),
        "html": (b"<html><script>alert(1)</script>", "not an image"),
        "truncated PNG": (png[: len(png) // 2], "damaged"),
        "truncated JPEG": (jpeg[: len(jpeg) // 2], "damaged"),
        "20,000 pixels a side": (huge_png(20_000), "too many pixels"),
        "9,000 pixels a side": (huge_png(9_000), "pixels are too many"),
        "animated GIF": (encoded("GIF", **animated), "animated"),
        "animated PNG": (encoded("PNG", **animated), "animated"),
        "animated WebP": (encoded("WEBP", **animated), "animated"),
        "EPS": (encoded("EPS"), "a program"),
    }


@pytest.mark.parametrize("what", bad_uploads())
def test_a_bad_upload_is_a_sentence(what, tmp_path):
    data, expected = bad_uploads()[what]
    (tmp_path / "upload").write_bytes(data)
    with pytest.raises(UserError) as error:
        read_photograph(str(tmp_path / "upload"))
    assert re.fullmatch(r"This file cannot be used: .*\.", str(error.value))
    assert expected in str(error.value)
    assert "upload" not in str(error.value)
    with pytest.raises(UserError, match="cannot be used"):
        read_photograph(str(tmp_path / "not there"))


def test_photographs_of_any_kind_are_read(tmp_path):
    path = str(tmp_path / "upload")
    for form in ("PNG", "JPEG", "WEBP", "BMP", "TIFF"):
        photograph(size=(900, 600)).save(path, form)
        image = read_photograph(path)
        assert (image.size, image.mode) == ((SIDE, round(SIDE * 2 / 3)), "RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    photograph().save(path, "JPEG", exif=exif)
    assert read_photograph(path).size == (60, 90)
    Image.new("RGBA", (8, 8)).save(path, "PNG")
    assert np.asarray(read_photograph(path)).min() == 255  # transparent: white
    Image.new("L", (30_000, 1), 7).save(path, "PNG")
    assert read_photograph(path).size == (SIDE, 1)


def test_photographs_are_redrawn_with_their_errors_and_walked_between(flowers):
    pair = [photograph(0), photograph(1)]
    html = flowers.answer(pair)
    shown = pictures_of(html)
    assert {picture.shape for picture in shown.values()} == {(12, 16, 3)}
    original, redrawn = (
        shown["the first photograph, as the models see it"],
        shown["the first photograph, redrawn by the AE"],
    )
    error = ((original / 255.0 - redrawn / 255.0) ** 2).mean()
    assert float(re.search(r"AE: ([\d.]+)", html)[1]) == pytest.approx(error, abs=1e-3)
    assert np.array_equal(shown["the second photograph"], shown["the second photograph, as the models see it"])
    assert html.count("<img") == 2 * 3 + 2 * 8
    assert list(shown).index("AE, step 1") < list(shown).index("VAE, step 1")
    assert np.abs(shown["AE, step 1"].astype(int) - redrawn).max() <= 1
    swapped = pictures_of(flowers.answer(pair[::-1]))
    assert np.array_equal(
        swapped["the first photograph, redrawn by the VAE"], shown["the second photograph, redrawn by the VAE"]
    )


def test_flowers_to_pick_from_are_drawn_where_there_are_no_photographs(flowers):
    images, what = flowers.offered()
    assert [image.size for image in images] == 12 * [(16, 12)]
    assert len({image.tobytes() for image in images}) == 12
    assert "./flowers" in what


REQUESTS = [
    Request("AE"),
    Request("VAE", temperature=0.7, seed=3),
    Request("GAN", temperature=1.3),
    Request("DDPM", seed=2),
    Request("DDPM", label="calendula", guidance=2.5),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=str)
def test_the_command_below_new_flowers_makes_them(request_, flowers):
    *_, html = flowers.sample(request_)
    shown = np.stack([*pictures_of(html).values()])
    python, script, *argv = shlex.split(flowers.command(request_))
    assert (python, script) == ("python", "random_generation.py")
    images = logged(random_generation.main, *argv)[0]
    assert np.array_equal(shown, (images * 255).round().byte().permute(0, 2, 3, 1).numpy())


def test_only_flags_of_the_model_count(flowers):
    everything = {"label": "calendula", "sampler": "gmm", "temperature": 0.5, "guidance": 2.0, "seed": 1}
    root = f'--output-root "{flowers.root}"'
    expected = {
        "VAE": "--sampler gmm --temperature 0.5 --seed 1",
        "GAN": "--temperature 0.5 --seed 1",
        "DDPM": "--label calendula --guidance 2 --seed 1",
    }
    for name, flags in expected.items():
        command = flowers.command(Request(name, **everything))
        assert command == f"python random_generation.py --model {name} --n {COUNT} {flags} {root}"
    with pytest.raises(UserError, match="trained on"):  # on other photographs than those in ./flowers, or none
        list(flowers.sample(Request("AE", sampler="gmm")))


def test_the_steps_of_the_ddpm_lead_to_its_samples(flowers):
    pages = list(flowers.sample(Request("DDPM", seed=5)))
    assert [int(re.search(r"Step (\d+):", page)[1]) for page in pages] == list(range(1, len(pages) + 1))
    assert len(pages) > 10
    first, last = (np.stack([*pictures_of(page).values()]) for page in (pages[0], pages[-1]))
    assert len(first) == COUNT
    assert np.abs(first.astype(float) - last).mean() > 5


def test_without_a_model_the_page_says_which_command_trains_it(flowers, tmp_path):
    alone = Flowers({"VAE": flowers.models["VAE"]}, tmp_path)
    notes = unescape(alone.absent(RECONSTRUCTS) + alone.absent(SAMPLES))
    for name in ("MLPAE", "AE", "GAN", "DDPM"):
        assert f"<code>{training_command(name, tmp_path)}</code>" in notes
    assert "model VAE is not there" not in notes
    assert pictures_of(alone.answer([photograph(), photograph(1)]))
    without = Digits({"MNIST_AE": load_model("MNIST_AE", PROJECT)}, tmp_path).answer(url_of(bar()), None)
    for name in DIGITS[1:]:
        assert f"<code>{training_command(name, tmp_path)}</code>" in unescape(without)
    assert "redrawn by the AE" in without


def test_every_command_on_the_page_exists(flowers, tmp_path):
    digits = Digits({name: load_model(name, PROJECT) for name in DIGITS}, tmp_path / "with space")
    pages = [
        digits.answer(url_of(bar()), None),
        digits.write("40", 12, digits.values(12)),
        Digits({}, tmp_path).absent(),
    ]
    pages += [
        answer for kind in digits.kinds for answer in (digits.pick(kind, (0, 0)), digits.walk(kind, [(0, 0), (1, 1)]))
    ]
    pages += [flowers.answer([photograph(), photograph(1)]), Flowers({}, tmp_path).absent()]
    commands = {unescape(code) for page in pages for code in re.findall(r"<code>(.*?)</code>", page)}
    commands |= {flowers.command(request) for request in REQUESTS}
    commands |= {Flowers({}, PROJECT).command(Request("VAE", sampler="gmm"))}
    assert len(commands) > 20
    for command in commands:
        python, script, *argv = shlex.split(command)
        assert python == "python"
        SCRIPTS[script].parse_args(argv)  # SystemExit for flags that are none
