"""beyond.outliers: letters that look like MNIST's digits, and its table."""

import numpy as np
import torch
from helpers import logged

from beyond import anatomy, outliers


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


def test_the_kinds_of_images():
    digits = torch.randint(256, (20, 1, 28, 28), generator=torch.Generator().manual_seed(0)).byte()
    kinds = outliers.make_outliers(digits, seed=0)
    mixed = kinds["each pixel of another digit"]
    assert torch.equal(mixed.sort(dim=0).values, digits.sort(dim=0).values)
    assert not torch.equal(mixed, digits)
    assert torch.equal(kinds["flipped left to right"][..., 0], digits[..., -1])
    assert {name: images.unique().tolist() for name, images in kinds.items() if len(images) < 20} == {
        "black": [0],
        "grey": [128],
        "white": [255],
    }


def test_the_script_compares_each_kind_with_test_digits(trained_mnist, tiny_mnist, monkeypatch):
    monkeypatch.setattr(anatomy, "STEPS", 20)
    monkeypatch.setattr(outliers, "SAMPLES", 5)
    flags = ["--model", "MNIST_VAE", "--data-root", tiny_mnist, "--output-root", trained_mnist[0]]
    nats, lines = logged(outliers.main, *flags)
    assert lines[2].startswith("| images | log p(x) | ")
    assert len(lines[4:]) == len(nats) == 8
    for line, (kind, nll) in zip(lines[4:], nats.items(), strict=True):
        assert line.startswith(f"| {kind} | {-nll.double().mean().item():.2f} +- ")
    assert nats["uniform noise"].min() > nats["test digits"].max()
    assert " 100.0% |" in lines[10]
