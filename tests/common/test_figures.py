"""What the figures look like, as far as a test can see."""

import logging
from itertools import groupby

import numpy as np
import pytest
from helpers import assert_figure
from PIL import Image

from common import figures


def read(path):
    """(pixels, title, the box of its images) of a PNG."""
    with Image.open(path) as image:
        box = [int(side) for side in image.text["Plot"].split()]
        return np.asarray(image.convert("RGB")), image.text["Title"], box


@pytest.mark.parametrize(("side", "title"), [(24, "a title"), (28, "a longer title " * 20), (400, "two\nlines")])
def test_each_pixel_of_an_image_is_a_square_of_the_figure(side, title, tmp_path):
    images = np.random.default_rng(0).random((13, 3, side, side))
    figures.plot_samples(images, tmp_path / "grid.png", title, labels=["a", "b"])
    pixels, saved_title, (left, upper, right, lower) = read(tmp_path / "grid.png")
    assert saved_title == title
    scale = max(1, round(120 / side))
    step = max(1, round(side / 120))
    size = -(-side // step)
    grid = pixels[upper:lower, left:right]
    assert grid.shape[:2] == (scale * (2 * size + 1), scale * (10 * size + 9))
    for number in (0, 11):
        top, start = (scale * (size + 1) * place for place in divmod(number, 10))
        square = grid[top : top + scale * size, start : start + scale * size] / 255
        expected = images[number, :, ::step, ::step].transpose(1, 2, 0).repeat(scale, axis=0).repeat(scale, axis=1)
        np.testing.assert_allclose(square, expected, atol=1 / 255)
    assert lower == len(pixels) - figures.MARGIN  # no white strip below
    assert (pixels[:, [0, -1]] == 255).all()  # the title has room


def test_originals_stand_above_reconstructions(tmp_path):
    originals = np.zeros((12, 3, 8, 6))
    reconstructions = np.zeros((12, 3, 8, 6))
    originals[:, 0] = 1  # red
    reconstructions[:, 2] = 1  # blue
    figures.plot_reconstructions(originals, reconstructions, tmp_path / "grid.png", "title")
    pixels, _, (left, upper, _, lower) = read(tmp_path / "grid.png")
    names = {(255, 0, 0): "original", (0, 0, 255): "reconstruction"}
    column = [names.get(tuple(pixel)) for pixel in pixels[upper:lower, left + 3].tolist()]
    assert [name for name, _ in groupby(filter(None, column))] == ["original", "reconstruction"] * 2


def test_letters_without_a_font_and_formulas_are_no_noise(tmp_path, recwarn, caplog, capfd):
    title = "photographs in 花\u0378, été, $x$"
    with caplog.at_level(logging.WARNING):
        figures.plot_samples(np.zeros((1, 1, 28, 28)), tmp_path / "flower.png", title, labels=["花"])
        history = [{"epoch": 1, "train_loss": 2.0, "valid_loss": 1.0}]
        figures.plot_losses(history, tmp_path / "loss.png", title, "$")
    assert read(tmp_path / "flower.png")[1] == title
    assert_figure(tmp_path / "loss.png")
    assert capfd.readouterr().err.splitlines() == [f"wrote {tmp_path / name}" for name in ("flower.png", "loss.png")]
    assert [str(warning.message) for warning in recwarn] == []
    assert caplog.messages == []


def test_the_colour_bar_is_as_tall_as_the_plot(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, *_: saved.append(figure))
    points = np.random.default_rng(0).normal(size=(50, 2)) * [3, 1]
    figures.plot_latent_space(points, np.arange(50) % 10, tmp_path / "x.png", "title", "principal component")
    saved[0].canvas.draw()
    plot, bar = (axes.get_window_extent() for axes in saved[0].axes)
    assert (bar.y0, bar.y1) == (plot.y0, plot.y1)


def test_a_picture_that_differs_by_rounding_alone_is_left_as_it_is(tmp_path, capsys):
    path = tmp_path / "grid.png"
    images = np.full((2, 3, 8, 8), 0.5)
    figures.plot_samples(images, path, "a title")
    before = path.read_bytes()
    figures.plot_samples(images + 1 / 255, path, "a title")
    assert path.read_bytes() == before
    assert capsys.readouterr().err == f"wrote {path}\n{path} is up to date\n"
    for change, title in ((2 / 255, "a title"), (0, "another title")):
        figures.plot_samples(images + change, path, title)
        assert read(path)[1] == title
        assert path.read_bytes() != before
    path.write_bytes(b"no picture")
    figures.plot_samples(images, path, "a title")
    assert path.read_bytes() == before
