"""beyond.outliers: letters that look like MNIST's digits, and its table."""

import numpy as np
import torch
from helpers import logged

from beyond import outliers


def test_letters_are_centred_by_their_mass_in_a_box_of_twenty_pixels():
    letters = outliers.draw_letters(60)
    assert letters.shape == (60, 1, 28, 28)
    assert letters.dtype == torch.uint8
    places = np.indices((28, 28))
    for image in letters[:, 0].numpy():
        inked = [np.flatnonzero(image.any(axis=axis)) for axis in (0, 1)]
        sides = [ink[-1] - ink[0] + 1 for ink in inked]
        assert 18 <= max(sides) <= 20
        assert image.max() > 200
        for place, side in zip(places, sides[::-1], strict=True):
            at_edge = image[0].any() or image[-1].any() or image[:, 0].any() or image[:, -1].any()
            assert at_edge or abs(np.average(place, weights=image) - 13.5) <= 0.51
    assert torch.equal(letters, outliers.draw_letters(60))


def test_shuffled_pixels_keep_their_means_and_lose_the_shapes():
    images = torch.arange(40).view(20, 1, 1, 2)
    shuffled = outliers.shuffle_pixels(images, torch.Generator().manual_seed(0))
    assert torch.equal(shuffled.sort(dim=0).values, images)
    assert (shuffled[..., 1] - shuffled[..., 0] != 1).any()


def test_the_script_compares_each_kind_with_test_digits(trained_mnist, tiny_mnist):
    flags = ["--model", "MNIST_VAE", "--samples", 5, "--data-root", tiny_mnist, "--output-root", trained_mnist[0]]
    estimates, lines = logged(outliers.main, *flags)
    assert lines[2] == "| images | log p(x) | less likely than a test digit |"
    assert len(lines[4:]) == len(estimates) == 9
    for line, (kind, nll) in zip(lines[4:], estimates.items(), strict=True):
        assert line.startswith(f"| {kind} | {-nll.double().mean().item():.2f} +- ")
    assert estimates["uniform noise"].min() > estimates["test digits"].max()
    assert " 100.0% |" in lines[11]
