"""What the figures look like, as far as a test can see."""

import numpy as np
import pytest
from helpers import assert_figure
from PIL import Image

from training import figures


def read(path):
    """(pixels, title, where its plot is) of a PNG."""
    with Image.open(path) as image:
        plot = [int(side) for side in image.text["Plot"].split()]
        return np.asarray(image.convert("RGB")), image.text["Title"], plot


@pytest.mark.parametrize(("side", "title"), [(24, "a title"), (28, "a longer title " * 20), (400, "two\nlines")])
def test_each_pixel_of_an_image_is_a_square_of_the_figure(side, title, tmp_path):
    images = np.random.default_rng(0).random((13, 3, side, side))
    figures.plot_samples(images, tmp_path / "grid.png", title, labels=["a", "b"])
    pixels, found, (left, upper, right, lower) = read(tmp_path / "grid.png")
    scale, step = max(1, round(120 / side)), max(1, round(side / 120))
    size = -(-side // step)
    grid = pixels[upper:lower, left:right]
    assert grid.shape[:2] == (scale * (2 * size + 1), scale * (10 * size + 9))
    assert found == title
    assert lower == len(pixels) - figures.MARGIN  # no white strip below
    for number, image in ((0, images[0]), (11, images[11])):
        top, start = (scale * (size + 1) * place for place in divmod(number, 10))
        shown = grid[top : top + scale * size, start : start + scale * size] / 255
        expected = image[:, ::step, ::step].transpose(1, 2, 0).repeat(scale, axis=0).repeat(scale, axis=1)
        np.testing.assert_allclose(shown, expected, atol=1 / 255)
    assert (pixels[:, [0, -1]] == 255).all()  # the title has room


def test_letters_that_the_font_lacks_are_taken_from_another_or_left_out(tmp_path, recwarn, monkeypatch):
    images, has_letter = np.zeros((1, 1, 28, 28)), figures._letters_of
    figures.plot_samples(images, tmp_path / "flower.png", "photographs in 花\u0378, été", labels=["花"])
    assert read(tmp_path / "flower.png")[1] == "photographs in 花\u0378, été"
    monkeypatch.setattr(figures, "_letters_of", lambda path: has_letter(path) | ({"花"} if "STIX" in path else set()))
    figures._find_font.cache_clear()
    [font], letters = figures._find_font(frozenset("花"))
    assert (font[:4], letters) == ("STIX", {"花"})
    figures._find_font.cache_clear()
    assert [str(warning.message) for warning in recwarn] == []  # matplotlib warns of a missing glyph


def test_the_colour_bar_is_as_tall_as_the_plot_and_the_legend_beside_the_curves(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(figures, "_save", lambda figure, *_: saved.append(figure))
    points = np.random.default_rng(0).normal(size=(50, 2)) * [3, 1]
    figures.plot_latent_space(points, np.arange(50) % 10, tmp_path / "x.png", "title", "principal component")
    figures.plot_latents(np.ones(8), np.linspace(-4, 4, 9), np.ones((9, 8)), np.ones(9), tmp_path / "y.png", "title")
    space, latents = saved
    for figure in saved:
        figure.canvas.draw()
    plot, bar = (axes.get_window_extent() for axes in space.axes)
    assert (bar.y0, bar.y1) == (plot.y0, plot.y1)
    legend = latents.legends[0].get_window_extent()
    assert not any(legend.overlaps(axes.get_window_extent()) for axes in latents.axes)


@pytest.mark.parametrize("distances", [(-0.5, -0.2), (-0.3, 0.02), (0.4, 30.0)])
def test_the_plot_of_the_scores_shows_every_distance_also_those_below_zero(distances, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(figures, "_save", lambda figure, *_: saved.append(figure))
    found = {str(distance): [{"accuracy": (0.6, 0.01), "distance": (distance, 0.01)}] for distance in distances}
    figures.plot_scores(found, (0.45, 0.55), tmp_path / "scores.png", "title")
    low, high = saved[0].axes[1].get_xlim()
    assert low < min(*distances, 0) <= max(*distances, 0) < high


def test_a_title_may_have_a_dollar_and_no_letter(tmp_path):
    figures.plot_losses([{"epoch": 1, "train_loss": 2.0, "valid_loss": 1.0}], tmp_path / "loss.png", "$x$", "$")
    assert_figure(tmp_path / "loss.png")
