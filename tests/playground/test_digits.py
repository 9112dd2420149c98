"""Drawings become digits like MNIST's, and the models answer them."""

import re

import numpy as np
import pytest
import torch
from helpers import REAL_MNIST, needs_mnist, write_mnist
from PIL import Image
from playing import bar, pictures_of, url_of

from common import PROJECT, UserError
from datasets.mnist import find_files, read_mnist
from generators.completion import build_completion, given_pixels
from main import Losses, random_latents
from model import build_model
from playground import digits as playground_digits
from playground.digits import AUTOENCODERS, CVAE, Digits, guess_label, kl_of_latents
from playground.drawing import MAX_SIDE, in_place, normalise, read_drawing
from playground.pictures import encode_png
from playground.plane import Plane
from trained.loading import load_model
from trained.sampling import decode, encode, project


@pytest.fixture(scope="module")
def models():
    """The committed models."""
    return {name: load_model(name, PROJECT) for name in AUTOENCODERS}


@pytest.fixture(scope="module")
def answers(models):
    return Digits(models, PROJECT)


@pytest.fixture(scope="module")
def mnist():
    """(images, labels) of 100 test digits."""
    images, labels = read_mnist(find_files(REAL_MNIST), "t10k")
    return images[:100], labels[:100]


@needs_mnist
@pytest.mark.parametrize("size", [100, 200])
def test_mnist_digits_enlarged_and_moved_come_back(size, mnist):
    errors = []
    errors_in_place = []
    for digit in mnist[0][:60, 0].numpy():
        drawn = np.zeros((300, 300), np.float32)
        drawn[3 : 3 + size, 15 : 15 + size] = np.asarray(Image.fromarray(digit).resize((size, size))) / 255
        errors.append((normalise(drawn)[0, 0] - torch.tensor(digit / 255)).square().mean().item())
        errors_in_place.append((in_place(drawn)[0, 0] - torch.tensor(digit / 255)).square().mean().item())
    assert np.median(errors) < 0.01
    assert np.median(errors) < np.median(errors_in_place) / 3


@pytest.mark.parametrize(("height", "width"), [(120, 30), (20, 100), (9, 9)])
def test_a_drawing_fills_the_box_and_has_its_mass_in_the_middle(height, width):
    image = normalise(bar(height, width, left=20))[0, 0].numpy()
    rows = np.flatnonzero(image.any(axis=1))
    columns = np.flatnonzero(image.any(axis=0))
    assert max(np.ptp(rows), np.ptp(columns)) == 19
    assert np.ptp(rows) + 1 == pytest.approx(20 * height / max(height, width), abs=0.5)
    assert (rows.mean(), columns.mean()) == pytest.approx((14, 14), abs=0.51)


def test_no_drawing_is_an_empty_image_and_half_a_digit_stays_where_it_is():
    assert not normalise(read_drawing("")).any()
    assert not normalise(np.zeros((140, 140), np.float32)).any()
    left = in_place(bar(left=10))[0, 0]
    assert left[:, 14:].sum() == 0
    assert left[4:28, 2:8].mean() > 0.99


BAD_DRAWINGS = [
    "hello",
    "data:image/png;base64,",
    "data:image/png;base64,%%%",
    "data:image/jpeg;base64,aaaa",
    "data:text/html,<script>",
    url_of(bar())[:-400],
    url_of(np.zeros((4, MAX_SIDE + 1))),
    "data:image/png;base64," + 10_000_000 * "A",
]


def test_what_is_no_drawing_is_a_sentence(answers):
    for url in BAD_DRAWINGS:
        with pytest.raises(UserError, match=r"^This is no drawing: .*\.$"):
            read_drawing(url)
    assert re.fullmatch('<p class="sentence".*>This is no drawing: .*</p>', answers.answer("hello", None))


@needs_mnist
def test_the_guess_is_the_label_of_most_test_digits(models, mnist):
    images, labels = mnist
    guesses = [guess_label(models[CVAE][0], image[None] / 255)[0] for image in images]
    assert np.mean(np.array(guesses) == labels.numpy()) > 0.93


def test_a_drawing_is_answered_by_three_models_and_ten_digits(answers, models):
    html = answers.answer(url_of(bar()), None)
    pictures = pictures_of(html)
    drawing = normalise(bar())
    for name in ("AE", "VAE"):
        model = models[f"MNIST_{name}"][0]
        expected = decode(model, encode(model, drawing))
        assert np.abs(pictures[f"the drawing, redrawn by the {name}"] / 255 - expected[0, 0].numpy()).max() < 0.003
        error = (expected - drawing).square().mean().item()
        assert f"{name}: error {error:.3f}" in html
    assert "CVAE, guess 1: error 0.0" in html
    code = encode(models[CVAE][0], drawing, torch.tensor([1]))
    ten = decode(models[CVAE][0], code.expand(10, -1), torch.arange(10))[:, 0].numpy()
    shown = np.stack([pictures[f"the digit {digit} in your handwriting"] for digit in range(10)])
    assert np.abs(shown / 255 - ten).max() < 0.003
    assert np.array_equal(shown[1], pictures["the drawing, redrawn by the CVAE, guess 1"])
    assert "CVAE, label 7: error" in answers.answer(url_of(bar()), 7)
    assert pictures_of(answers.answer("", None)) == {}


def test_a_number_is_written_in_the_style_of_the_command_and_a_slider_changes_it(answers, models):
    own = answers.slider_values(6)
    html = answers.write(" 2026 ", 6, own)
    assert "Row 2 of vis/mnist_CVAE_labels.png:" in html
    assert "--labels 2 0 2 6 --seed 1<" in html
    assert html.count("<img") == 4
    model, checkpoint = models[CVAE]
    style = random_latents(checkpoint, 1)[1]  # as beyond.digits plots it
    expected = decode(model, style.expand(3, -1), torch.tensor([2, 0, 6]))[:, 0].numpy()
    pictures = pictures_of(html)
    shown = np.stack([pictures[f"the digit {digit}"] for digit in (2, 0, 6)])
    assert np.abs(shown / 255 - expected).max() < 0.05  # the sliders' values are rounded
    moved = answers.write("2026", 6, [3.0, *own[1:]])
    assert "before the sliders moved" in moved
    assert np.abs(pictures_of(moved)["the digit 2"].astype(int) - pictures["the digit 2"]).max() > 30
    for text in ("", "12a", "-3", "1.5", "²", "٣", "1" * 13):
        assert "Type 1 to 12 digits" in answers.write(text, 0, answers.slider_values(0))


def test_the_sliders_are_those_of_the_latents_with_the_highest_kl(answers, models):
    cvae = models[CVAE][0]
    images, labels, _ = answers.test_digits
    with torch.no_grad():
        mu, sigma = cvae.encoder(images[:1000], labels[:1000])
    kl = kl_of_latents(cvae, images[:1000], labels[:1000])
    total = Losses().kl_div((mu, sigma), (torch.zeros_like(mu), torch.ones_like(sigma))).mean()
    assert kl.sum().item() == pytest.approx(total.item(), rel=1e-4)
    assert [dim for dim, _ in answers.sliders] == kl.argsort(descending=True)[:6].tolist()
    assert all(value == pytest.approx(kl[dim].item()) for dim, value in answers.sliders)


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_the_plane_is_that_of_the_principal_components(name, answers, models):
    plane = answers.planes[name]
    images, labels, _ = answers.test_digits
    assert torch.allclose(plane.points.abs(), project(plane.codes).abs().float(), atol=1e-3)
    x, y = plane.points[17].tolist()
    assert plane.nearest(x, y) == 17
    digit, label = plane.decode(x, y)
    assert label == labels[17]
    in_plane = torch.from_numpy(plane.pca.inverse_transform(plane.points[[17]].numpy()))
    condition = plane.condition(labels[[17]])
    assert torch.allclose(digit, decode(models[name][0], in_plane, *condition)[0], atol=1e-5)
    digits = plane.interpolate(17, 30, steps=4)
    assert torch.equal(digits[[0, -1]], images[[17, 30]])
    ends = decode(models[name][0], plane.codes[[17, 30]], *plane.condition(labels[[17, 30]]))
    assert torch.allclose(digits[[1, -2]], ends, atol=1e-5)


@pytest.mark.parametrize("latent_size", [1, 2])
def test_the_points_of_a_model_with_few_latents_are_its_latent_vectors(latent_size):
    model = build_model("AE", hidden_size=8, latent_size=latent_size)
    plane = Plane("MNIST_AE", model, torch.rand(5, 1, 28, 28), torch.arange(5))
    assert torch.allclose(torch.cdist(plane.points, plane.points), torch.cdist(plane.codes, plane.codes), atol=1e-5)
    decoded, _ = plane.decode(*plane.points[3].tolist())
    assert torch.allclose(decoded, decode(model, plane.codes[3:4])[0], atol=1e-5)


def test_half_a_digit_is_completed_five_times_where_the_model_is_there(answers, models):
    model = build_completion("CVAE", hidden_size=16, latent_size=4, given=2).eval()
    drawing = url_of(bar(left=30))
    html = Digits({**models, "MNIST_CVAE_given2": (model, {})}, PROJECT).answer(drawing, None)
    pictures = pictures_of(html)
    drawn = (in_place(read_drawing(drawing))[0, 0] * 255).round().byte().numpy()
    known = given_pixels(2)[0].numpy()
    completions = [pictures[f"completion {number}"] for number in range(1, 6)]
    assert all(np.array_equal(completion[known], drawn[known]) for completion in completions)
    assert len({completion.tobytes() for completion in completions}) == 5
    without = answers.answer(drawing, None)
    assert "<code>python -m beyond.completion --model CVAE --given 2</code>" in without
    assert "completion 1" not in without


def test_digits_stand_in_where_mnist_is_not_there_and_damaged_files_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(playground_digits, "PROJECT", tmp_path)
    images, labels, source = Digits({}, PROJECT).test_digits
    assert (len(images), len(labels)) == (2000, 2000)
    assert "MNIST is not in ./mnist" in source
    raw = write_mnist(tmp_path / "mnist")
    assert torch.equal(Digits({}, PROJECT).test_digits[1], read_mnist(find_files(tmp_path / "mnist"), "t10k")[1])
    (raw / "t10k-images-idx3-ubyte").write_bytes(b"hello")
    with pytest.raises(UserError, match="as a file of MNIST"):
        Digits({}, PROJECT).test_digits  # noqa: B018


def test_pictures_are_clipped_and_rounded():
    values = torch.tensor([-1.0, 0.0, 0.499, 0.501, 1.0, 2.0]).view(1, 2, 3)
    (pixels,) = pictures_of(f'<img src="{encode_png(values)}" alt="x">').values()
    assert pixels.tolist() == [[0, 0, 127], [128, 255, 255]]
    colours = torch.rand(3, 4, 5)
    (pixels,) = pictures_of(f'<img src="{encode_png(colours)}" alt="x">').values()
    assert np.array_equal(pixels, (255 * colours).round().byte().permute(1, 2, 0).numpy())
