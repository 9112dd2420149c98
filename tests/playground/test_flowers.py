"""Photographs and new flowers on the page, and every command on it."""

import importlib
import re
import shlex
import struct
import zlib
from functools import partial
from html import unescape

import numpy as np
import pytest
from helpers import logged, write_flowers
from PIL import Image
from playing import bar, encoded, photograph, pictures_of, url_of

import random_generation
from beyond import priors
from common import PROJECT, UserError
from playground import digits as playground_digits
from playground import flowers as playground_flowers
from playground.digits import Digits
from playground.flowers import CONTROLS, COUNT, SIDE, Flowers, Request, read_photograph
from playground.pictures import missing
from trained.loading import load_model, load_photographs
from trained.registry import training_command
from trained.sampling import sample_diffusion

pytestmark = pytest.mark.xdist_group("trained_flowers")


@pytest.fixture(scope="module")
def answers(trained_flowers):
    """Of models that were trained on images of 12x12, whatever the committed ones were."""
    root = trained_flowers[0]
    return Flowers({name: load_model(name, root) for name in CONTROLS}, root)


@pytest.fixture
def with_photographs(tiny_flowers, monkeypatch):
    """The photographs of the training in the place of those in ./flowers."""
    monkeypatch.setattr(playground_flowers, "load_photographs", partial(load_photographs, data_root=tiny_flowers))


@pytest.fixture
def with_others(tmp_path, monkeypatch):
    """Other photographs in the place of those in ./flowers."""
    others = write_flowers(tmp_path / "others", per_class=4)
    monkeypatch.setattr(playground_flowers, "load_photographs", partial(load_photographs, data_root=others))


def huge_png(side):
    """A PNG that says that it is as large, in few bytes."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = b""
    for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")):
        parts += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    return b"\x89PNG\r\n\x1a\n" + parts


BAD_UPLOADS = {
    "empty": (b"", "it is damaged, or not a photograph"),
    "html": (b"<html><script>alert(1)</script>", "it is damaged, or not a photograph"),
    "truncated PNG": (encoded("PNG")[:300], "it is damaged, or not a photograph"),
    "truncated JPEG": (encoded("JPEG")[:300], "it is damaged, or not a photograph"),
    "20,000 pixels a side": (huge_png(20_000), "it is damaged, or not a photograph"),
    "9,000 pixels a side": (huge_png(9_000), "9000x9000 pixels are too many"),
    "EPS": (encoded("EPS"), "it is a program, which Pillow hands to Ghostscript"),
}


@pytest.mark.parametrize("name", BAD_UPLOADS)
def test_a_bad_upload_is_a_sentence(name, tmp_path):
    data, reason = BAD_UPLOADS[name]
    (tmp_path / "upload").write_bytes(data)
    with pytest.raises(UserError) as error:
        read_photograph(str(tmp_path / "upload"))
    assert str(error.value) == f"This file cannot be used: {reason}."


def test_photographs_of_any_kind_are_read(tmp_path):
    path = str(tmp_path / "upload")
    for form in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"):
        photograph(size=(900, 600)).save(path, form)
        image = read_photograph(path)
        assert (image.size, image.mode) == ((SIDE, SIDE), "RGB")
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    photograph().save(path, "PNG", exif=exif)
    upright = photograph().rotate(180).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    assert np.abs(np.asarray(read_photograph(path), int) - np.asarray(upright)).max() <= 1
    Image.new("RGBA", (8, 8)).save(path, "PNG")
    assert np.asarray(read_photograph(path)).min() == 255  # transparent: white


def test_photographs_are_redrawn_with_their_errors_and_interpolated(answers):
    pair = [photograph(0), photograph(1)]
    html = answers.answer(pair)
    pictures = pictures_of(html)
    assert {pixels.shape for pixels in pictures.values()} == {(12, 12, 3)}
    assert html.count("<img") == 2 * 3 + 2 * 8
    original = pictures["the first photograph, as the models see it"]
    redrawn = pictures["the first photograph, redrawn by the AE"]
    error = np.square(original / 255 - redrawn / 255).mean()
    assert float(re.search(r"AE: ([\d.]+)", html)[1]) == pytest.approx(error, abs=1e-3)
    assert np.array_equal(pictures["the second photograph"], pictures["the second photograph, as the models see it"])
    assert np.abs(pictures["AE, step 1"].astype(int) - redrawn).max() <= 1
    swapped = pictures_of(answers.answer(pair[::-1]))
    second = pictures["the second photograph, redrawn by the VAE"]
    assert np.array_equal(swapped["the first photograph, redrawn by the VAE"], second)


def test_flowers_to_choose_from_are_held_out_photographs(answers, tiny_flowers, with_photographs):
    images, source = Flowers(answers.models, answers.root).offered
    held_out = load_photographs(answers.models["AE"][1], data_root=tiny_flowers)[1].images[:12]
    assert np.array_equal(np.stack(images), held_out.permute(0, 2, 3, 1))
    assert "not trained on" in source


def test_without_the_photographs_of_the_training_others_are_drawn_and_no_prior_is_fitted(answers, with_others):
    alone = Flowers(answers.models, answers.root)
    images, source = alone.offered
    assert [image.size for image in images] == 12 * [(12, 12)]
    assert len({image.tobytes() for image in images}) == 12
    assert "not in ./flowers" in source
    with pytest.raises(UserError, match="trained on"):
        list(alone.sample(Request("AE", sampler="gmm")))


REQUESTS = [
    Request("VAE", temperature=0.7, seed=3),
    Request("AE", sampler="gmm", seed=1),
    Request("VAE", sampler="gaussian", temperature=0.5),
    Request("GAN", temperature=1.3),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=str)
def test_the_command_below_new_flowers_makes_them(request_, answers, tiny_flowers, with_photographs):
    (html,) = answers.sample(request_)
    shown = np.stack(list(pictures_of(html).values()))
    assert len(shown) == COUNT
    argv = shlex.split(answers.command(request_))
    if request_.sampler == "normal":
        assert argv[:2] == ["python", "random_generation.py"]
        images = logged(random_generation.main, *argv[2:])[0]
    else:
        assert argv[:3] == ["python", "-m", "beyond.priors"]
        images = logged(priors.main, *argv[3:], "--data-root", tiny_flowers)[0]
    assert np.array_equal(shown, (images * 255).round().byte().permute(0, 2, 3, 1).numpy())


def test_the_steps_of_the_ddpm_lead_to_the_samples_of_the_command(answers, monkeypatch):
    monkeypatch.setattr(playground_flowers, "COUNT", 2)
    request = Request("DDPM", label="calendula", guidance=2.5, seed=5)
    pages = list(answers.sample(request))
    assert [int(re.search(r"Step (\d+):", page)[1]) for page in pages] == list(range(1, len(pages) + 1))
    assert len(pages) > 10
    first = np.stack(list(pictures_of(pages[0]).values()))
    last = np.stack(list(pictures_of(pages[-1]).values()))
    assert np.abs(first.astype(float) - last).mean() > 5
    args = random_generation.parse_args(shlex.split(answers.command(request))[2:])
    model, checkpoint = answers.models["DDPM"]
    label = random_generation.find_label(args.label, checkpoint["data"]["classes"])
    images = sample_diffusion(model, args.n, args.seed, label, guidance=args.guidance)
    assert np.array_equal(last, (images * 255).round().byte().permute(0, 2, 3, 1).numpy())


def test_answers_need_no_more_than_one_model(answers, tmp_path):
    alone = Flowers({"VAE": answers.models["VAE"]}, tmp_path)
    assert "redrawn by the VAE" in alone.answer([photograph(), photograph(1)])
    digits = Digits({"MNIST_AE": load_model("MNIST_AE", PROJECT)}, tmp_path)
    assert list(pictures_of(digits.answer(url_of(bar()), None)))[1:] == ["the drawing, redrawn by the AE"]


def test_every_command_on_the_page_exists(answers, tmp_path):
    names = playground_digits.AUTOENCODERS
    digits = Digits({name: load_model(name, PROJECT) for name in names}, tmp_path / "with space")
    pages = [digits.answer(url_of(bar()), None), digits.write("40", 12, digits.slider_values(12))]
    for name in names:
        pages.append(digits.decode(name, (0, 0)))
        pages.append(digits.interpolate(name, [(0, 0), (1, 1)]))
    pages.append(answers.answer([photograph(), photograph(1)]))
    absent = [*names, *CONTROLS, *playground_flowers.AUTOENCODERS]
    pages.append(missing(absent, {}, tmp_path))
    commands = {unescape(code) for page in pages for code in re.findall(r"<code>(.*?)</code>", page)}
    assert {training_command(name, tmp_path) for name in absent} <= commands
    ddpm = Request("DDPM", label="calendula", guidance=2, seed=1)
    commands |= {answers.command(request) for request in (*REQUESTS, ddpm)}
    assert len(commands) > 20
    for command in commands:
        python, script, *argv = shlex.split(command.replace("-m ", ""))
        assert python == "python"
        importlib.import_module(script.removesuffix(".py")).parse_args(argv)  # SystemExit for flags that are none
