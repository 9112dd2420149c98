"""beyond.digits and beyond.film: pictures of trained models, and the film of a training."""

import re
import shutil

import numpy as np
import pytest
import torch
from helpers import assert_same_weights, best_checkpoint, files_below, logged
from PIL import Image, ImageSequence

import main
from beyond import digits, film
from common import UserError
from datasets.synthetic import make_digits
from trained.loading import load_model

pytestmark = pytest.mark.xdist_group("trained_mnist")


@pytest.fixture
def copied(trained_mnist, tmp_path):
    """tmp_path, into which the checkpoints of `trained_mnist` are copied."""
    return shutil.copytree(trained_mnist[0] / "models", tmp_path / "models").parent


@pytest.fixture
def plot(copied, tiny_mnist):
    """plot(model, *flags): digits.py below tmp_path."""

    def run(name, *flags):
        return logged(digits.main, "--model", name, "--data-root", tiny_mnist, "--output-root", copied, *flags)

    return run


@pytest.fixture
def pictures(monkeypatch):
    """{file name: (images, title, columns)} of what digits.py plots, but for main.py's pictures."""
    plotted = {}

    def record(images, path, title, columns=10, labels=None):
        plotted[path.name] = (torch.from_numpy(images), title, columns)

    monkeypatch.setattr(digits, "plot_samples", record)
    monkeypatch.setattr(main, "plot_samples", record)
    return plotted


@pytest.mark.parametrize("name", list(main.BETAS))
def test_the_pictures_of_the_training_are_plotted_again(name, trained_mnist, plot, copied):
    root, runs = trained_mnist
    history, log = plot(name)
    assert (history, log) == (runs[name][0], [])
    again = files_below(copied / "vis")
    assert again == {file: data for file, data in files_below(root / "vis").items() if re.search(rf"_{name}[_.]", file)}
    assert len(again) >= 4


def test_labels_are_written_in_several_styles(plot, pictures):
    plot("CVAE", "--labels", 2, 0, 2, 6, "--data", "real", "--data-root", "no-such-folder")  # it needs no data
    assert list(pictures) == ["mnist_CVAE_labels.png"]
    images, _, columns = pictures["mnist_CVAE_labels.png"]
    plot("CVAE")
    assert (images.shape, columns) == ((20, 1, 28, 28), 4)
    samples = pictures["mnist_CVAE_samples.png"][0].unflatten(0, (10, 10))  # a row for each digit, a column for each z
    for style, row in enumerate(images.unflatten(0, (5, 4))):
        for image, digit in zip(row, (2, 0, 2, 6), strict=True):
            torch.testing.assert_close(image, samples[digit, style], rtol=0, atol=1e-6)
    for name, *flags in (("AE", 2), ("VAE", 2), ("CVAE", 2, "--sampler", "gmm")):
        with pytest.raises(SystemExit):
            plot(name, "--labels", *flags)


@pytest.mark.parametrize("name", list(main.BETAS))
def test_a_fitted_prior_has_the_mean_and_the_covariance_of_the_latent_vectors(name, plot, copied, pictures, tiny_mnist):
    plot(name, "--sampler", "gaussian")
    assert len(pictures) == 1
    images, title, _ = pictures[f"mnist_{name}_samples_gaussian.png"]
    assert images.shape == (100, 1, 28, 28)
    assert "z from a fitted Gaussian, seed 0" in title
    model, checkpoint = load_model(f"MNIST_{name}", copied)
    train_set, _ = digits.find_digits(checkpoint["data"], data_root=tiny_mnist)
    prior = digits.fit_digits("gaussian", model, checkpoint, train_set, seed=0)
    xs, ys = train_set[:]
    with torch.no_grad():
        if name == "AE":
            codes = model.encoder(xs)
            mean, covariance = codes.mean(dim=0), codes.T.cov(correction=0)
        else:  # the aggregate posterior is a mixture of all q(z|x)
            mu, sigma = model.encoder(xs, ys) if name == "CVAE" else model.encoder(xs)
            mean, covariance = mu.mean(dim=0), mu.T.cov(correction=0) + sigma.square().mean(dim=0).diag()
    scale = covariance.diagonal().sqrt()
    assert ((prior.mean - mean).abs() < 0.25 * scale).all()  # four standard errors of 275 codes
    assert ((prior.covariance_matrix - covariance).abs() < 0.4 * torch.outer(scale, scale)).all()
    if name == "CVAE":  # the same latent vectors in each row
        zs = digits.sample_latents(prior, 100, 0)[:10]
        with torch.no_grad():
            row = model.decode(zs, torch.full((10,), 7))
        torch.testing.assert_close(images[70:80], row, rtol=0, atol=1e-5)


def test_two_latents_are_plotted_as_a_manifold(tiny_mnist, tmp_path, pictures, monkeypatch):
    monkeypatch.setattr(main, "HIDDEN_SIZE", 8)
    flags = ["--model", "VAE", "--data-root", tiny_mnist, "--output-root", tmp_path]
    logged(main.main, *flags, "--latent-size", 2, "--epochs", 1)
    logged(digits.main, *flags)
    images, title, columns = pictures["mnist_VAE_manifold.png"]
    assert (images.shape, columns) == ((400, 1, 28, 28), 20)
    assert re.match(r"VAE, epoch 1, .*\n2 latents, trained on MNIST-like images: z at evenly spaced", title)
    model, _ = load_model("MNIST_VAE", tmp_path)
    z = torch.distributions.Normal(0, 1).icdf(torch.tensor([[0.98, 0.98]]))  # the upper right corner
    with torch.no_grad():
        torch.testing.assert_close(images[19:20], model.decode(z), rtol=0, atol=1e-5)


def test_pictures_of_the_stand_in_do_not_take_the_place_of_real_ones(copied, monkeypatch, capsys):
    monkeypatch.setattr("data.make_digits", lambda: make_digits(200))
    monkeypatch.setattr("data.SYNTHETIC_TRAIN", 150)
    flags = ["--model", "VAE", "--data", "synthetic", "--output-root", copied]
    logged(digits.main, *flags)
    assert [path.name for path in (copied / "vis").iterdir()] == ["loss_MNIST_VAE.png"]
    with Image.open(copied / "synthetic" / "vis" / "mnist_VAE_latent.png") as image:
        assert "test images of synthetic digits\n(not the images it was trained on: MNIST-like" in image.text["Title"]
    assert "not the images that" in capsys.readouterr().err
    with pytest.raises(UserError, match="was trained on MNIST-like images .*, found synthetic digits"):
        logged(digits.main, *flags, "--sampler", "gmm")


@pytest.mark.parametrize("name", ["VAE", "CVAE"])
def test_the_film_has_a_frame_before_the_training_and_after_each_epoch_and_changes_no_bit(
    name, trained_mnist, tiny_mnist, tmp_path, monkeypatch
):
    monkeypatch.setattr(main, "HIDDEN_SIZE", 16)
    frames = []
    monkeypatch.setattr(film, "plot_film", lambda images, *rest: frames.extend(images) or plot_film(images, *rest))
    flags = ["--model", name, "--data-root", tiny_mnist, "--output-root", tmp_path, "--latent-size", 3, "--epochs", 3]
    history, log = logged(film.main, *flags)
    root, runs = trained_mnist
    assert (history, log[:-2]) == (runs[name][0], runs[name][1][:-2])
    best = [best_checkpoint(folder, f"MNIST_{name}") for folder in (root, tmp_path)]
    assert_same_weights(*(checkpoint["state_dict"] for checkpoint in best))
    assert len(frames) == 4
    model, checkpoint = load_model(f"MNIST_{name}", tmp_path)
    zs = main.random_latents(checkpoint, seed=0)
    labels = [torch.arange(10).repeat_interleave(10)] if name == "CVAE" else []
    with torch.no_grad():
        torch.testing.assert_close(frames[checkpoint["epoch"]], model.decode(zs, *labels), rtol=0, atol=1e-5)
    with Image.open(tmp_path / "vis" / f"mnist_{name}_training.gif") as gif:
        pixels = [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(gif)]
    assert len(pixels) == 4
    assert all((earlier != later).mean() > 0.01 for earlier, later in zip(pixels, pixels[1:], strict=False))
    margins = [frame[-5:] for frame in pixels] + [frame[:, :5] for frame in pixels]
    assert all((margin == 255).all() for margin in margins)  # nothing is cut off
    with pytest.raises(UserError, match="leave out --resume"):
        logged(film.main, *flags, "--resume")


plot_film = film.plot_film
