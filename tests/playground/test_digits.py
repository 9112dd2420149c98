"""Drawings become digits as MNIST has them, and what the models answer to them."""

import io

import numpy as np
import pytest
import torch
from helpers import REAL_MNIST, needs_mnist, write_mnist
from PIL import Image
from playing import DIGITS, bar, pictures_of, url_of
from torch.distributions import Normal, kl_divergence

from datasets.mnist import peek_mnist, read_mnist
from evaluation.digits import latents_and_labels
from evaluation.models import load_model
from evaluation.playground.digit_answers import Digits
from evaluation.playground.digits import guess_label, hand, kl_of_latents, ten_digits
from evaluation.playground.drawing import MAX_SIDE, as_drawn, normalise, read_drawing
from evaluation.playground.latents import Plane
from evaluation.playground.pictures import data_url, encode_png
from evaluation.sampling import project
from generators.completion import build_completion, given_pixels
from model import build_model
from training import PROJECT, UserError


@pytest.fixture(scope="module")
def models():
    return {name: load_model(name, PROJECT) for name in DIGITS}


@pytest.fixture(scope="module")
def mnist():
    return peek_mnist(REAL_MNIST / "MNIST" / "raw", 300)


@needs_mnist
@pytest.mark.parametrize("size", [100, 150, 200])
def test_mnist_digits_enlarged_and_moved_come_back(size, mnist):
    errors, naive = [], []
    for digit in mnist[0][:100, 0].numpy():
        drawn = np.zeros((300, 300), np.float32)
        drawn[3 : 3 + size, 15 : 15 + size] = np.asarray(Image.fromarray(digit).resize((size, size))) / 255
        errors.append((normalise(drawn)[0, 0] - torch.tensor(digit / 255)).square().mean().item())
        naive.append((as_drawn(drawn)[0, 0] - torch.tensor(digit / 255)).square().mean().item())
    assert np.median(errors) < 0.01
    assert np.median(errors) < np.median(naive) / 3


@pytest.mark.parametrize(("height", "width"), [(120, 30), (20, 100), (9, 9)])
def test_a_drawing_fills_the_box_and_has_its_mass_in_the_middle(height, width):
    image = normalise(bar(height, width, left=20))[0, 0].numpy()
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    assert max(np.ptp(rows), np.ptp(columns)) == 19
    assert np.ptp(rows) + 1 == pytest.approx(20 * height / max(height, width), abs=0.5)
    assert (rows.mean(), columns.mean()) == pytest.approx((14, 14), abs=0.51)


def test_no_drawing_is_an_empty_image_and_half_a_digit_stays_where_it_is():
    assert not normalise(read_drawing("")).any()
    assert not normalise(np.zeros((140, 140), np.float32)).any()
    left = as_drawn(bar(left=10))[0, 0]
    assert left[:, 14:].sum() == 0
    assert left[4:28, 2:8].mean() > 0.99


@pytest.mark.parametrize(
    "url",
    [
        "hello",
        "data:image/png;base64,",
        "data:image/png;base64,%%%",
        "data:image/jpeg;base64,aaaa",
        "data:text/html,<script>",
        url_of(bar())[:-400],
        url_of(np.zeros((4, MAX_SIDE + 1))),
        "data:image/png;base64," + 10_000_000 * "A",
    ],
)
def test_what_is_no_drawing_is_a_sentence(url):
    with pytest.raises(UserError, match=r"^This is no drawing: .*\.$"):
        read_drawing(url)


@needs_mnist
def test_the_guess_is_the_label_of_most_test_digits(models, mnist):
    cvae, images = models["MNIST_CVAE"][0], mnist[0] / 255
    right = [guess_label(cvae, image[None])[0] == label for image, label in zip(images, mnist[1], strict=True)]
    assert np.mean(right) > 0.93


def test_a_drawing_is_answered_by_three_models_and_ten_digits(models):
    digits = Digits(models, PROJECT)
    html = digits.answer(url_of(bar()), None)
    shown = pictures_of(html)
    assert [alt.split()[-1] for alt in shown][1:4] == ["AE", "VAE", "1"]
    assert "CVAE, guessed 1: error 0.0" in html
    ten = [shown[f"the digit {digit} in your handwriting"] for digit in range(10)]
    assert len({picture.tobytes() for picture in ten}) == 10
    assert np.array_equal(ten[1], shown["the drawing, redrawn by the CVAE, guessed 1"])
    assert pictures_of(digits.answer(url_of(bar(width=10)), None)).keys() == shown.keys()
    assert "CVAE, told 7" in digits.answer(url_of(bar()), 7)
    assert pictures_of(digits.answer("", None)) == {}


def test_the_ten_digits_are_the_latent_vector_with_each_label(models):
    cvae = models["MNIST_CVAE"][0]
    z = torch.randn(20, generator=torch.Generator().manual_seed(1))
    expected = torch.cat([cvae.decode(z[None], torch.tensor([label])) for label in range(10)])
    assert torch.allclose(ten_digits(cvae, z), expected, atol=1e-5)


@pytest.mark.parametrize("number", [0, 3, 7])
def test_a_hand_is_a_row_of_what_the_command_draws(number, models):
    cvae = models["MNIST_CVAE"][0]
    assert torch.equal(hand(cvae, number), latents_and_labels(cvae, seed=number // 5)[0][number % 5])


def test_a_number_is_written_and_a_slider_changes_it(models):
    digits = Digits(models, PROJECT)
    own = digits.values(6)
    html = digits.write(" 2026 ", 6, own)
    assert [alt[-1] for alt in pictures_of(html)] == ["2", "0", "6"]  # both 2 are one entry
    assert html.count("<img") == 4
    assert "Row 2 of vis/mnist_CVAE_labels.png:" in html
    assert "--labels 2 0 2 6 --seed 1<" in html
    moved = digits.write("2026", 6, [3.0, *own[1:]])
    assert "before the sliders moved" in moved
    assert not np.array_equal(pictures_of(moved)["the digit 2"], pictures_of(html)["the digit 2"])
    for text in ("", None, "12a", "-3", "1.5", "²", "٣", "1" * 13):
        with pytest.raises(UserError, match="Type 1 to 12 digits"):
            digits.write(text, 0, digits.values(0))


def test_the_sliders_are_those_of_the_latents_with_the_highest_kl(models):
    digits, cvae = Digits(models, PROJECT), models["MNIST_CVAE"][0]
    images, labels, _ = digits.test()
    with torch.no_grad():
        kl = kl_divergence(Normal(*cvae.encoder(images[:1000], labels[:1000])), Normal(0.0, 1.0)).mean(dim=0)
    assert torch.allclose(kl_of_latents(cvae, images[:1000], labels[:1000]), kl, atol=1e-4)
    assert [dim for dim, _ in digits.latents()] == kl.argsort(descending=True)[:6].tolist()


@pytest.mark.parametrize("name", DIGITS)
def test_the_plane_is_that_of_the_principal_components(name, models):
    model = models[name][0]
    images, labels, _ = Digits(models, PROJECT).test()
    plane = Plane(model, images[:200], labels[:200])
    assert torch.allclose(plane.points.abs(), project(plane.codes).abs().float(), atol=1e-3)
    x, y = plane.points[17].tolist()
    assert plane.nearest(x, y) == 17
    digit, label = plane.decode(x, y)
    assert label == labels[17]
    back = (model.encode(digit[None], labels[17][None] if model.has_label else None) - plane.mean) @ plane.axes.T
    assert (back - plane.points[17]).norm() < plane.points.std() * 1.5
    walk = plane.walk(17, 30, steps=4)
    assert torch.equal(walk[[0, -1]], images[[17, 30]])
    ends = model.decode(plane.codes[[17, 30]], labels[[17, 30]] if model.has_label else None)
    assert torch.allclose(walk[[1, -2]], ends, atol=1e-5)


def test_a_model_with_two_latents_is_its_own_plane():
    model = build_model("AE", hidden_size=8, latent_size=2)
    plane = Plane(model, torch.rand(5, 1, 28, 28), torch.arange(5))
    assert torch.allclose(plane.points, plane.codes)
    assert torch.allclose(plane.decode(*plane.points[3].tolist())[0], model.decode(plane.codes[3:4])[0], atol=1e-6)


def test_half_a_digit_is_completed_five_times_where_the_model_is_there(models):
    completes = build_completion("CVAE", hidden_size=16, latent_size=4, given=2).eval()
    checkpoint = {"config": {"hidden_size": 16, "latent_size": 4, "samples": 1}}
    drawing = url_of(bar(left=30))
    html = Digits({**models, "MNIST_CVAE_given2": (completes, checkpoint)}, PROJECT).answer(drawing, None)
    shown = pictures_of(html)
    drawn = (as_drawn(read_drawing(drawing))[0, 0] * 255).round().byte().numpy()
    given = given_pixels(2)[0].numpy()
    answers = [shown[f"completion {number}"] for number in range(1, 6)]
    assert all(np.array_equal(answer[given], drawn[given]) for answer in answers)
    assert len({answer.tobytes() for answer in answers}) == 5
    without = Digits(models, PROJECT).answer(drawing, None)
    assert "<code>python main.py --model CVAE --given 2</code>" in without
    assert "completion 1" not in without


def test_digits_stand_in_where_mnist_is_not_there_or_damaged(tmp_path, monkeypatch):
    raw = write_mnist(tmp_path / "mnist")
    assert all(torch.equal(a, b[:7]) for a, b in zip(peek_mnist(raw, 7), read_mnist(raw, "t10k"), strict=True))
    assert len(peek_mnist(raw, 5000)[0]) == 100
    for damage in (b"", b"hello", (raw / "t10k-labels-idx1-ubyte").read_bytes()):
        (raw / "t10k-images-idx3-ubyte").write_bytes(damage)
        with pytest.raises(UserError, match="not a valid file of MNIST"):
            peek_mnist(raw, 7)
    monkeypatch.setattr("evaluation.playground.digit_answers.PROJECT", tmp_path)
    images, labels, what = Digits({}, PROJECT).test()
    assert (len(images), len(labels)) == (2000, 2000)
    assert "MNIST is not in ./mnist" in what


@pytest.mark.parametrize("channels", [1, 3])
def test_small_pngs_are_what_pillow_reads(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, channels), dtype=np.uint8)
    with Image.open(io.BytesIO(encode_png(pixels))) as image:
        assert np.array_equal(np.asarray(image).reshape(pixels.shape), pixels)
    assert data_url(torch.full((channels, 4, 4), 2.0)) == data_url(torch.ones(channels, 4, 4))
