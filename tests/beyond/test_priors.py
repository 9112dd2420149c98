"""Distributions of latent vectors, against closed forms, and what `python -m beyond.priors` makes of them."""

import itertools
import shutil

import pytest
import torch
from helpers import assert_figure

from beyond import priors
from common import UserError
from trained.loading import load_model, load_photographs
from trained.sampling import encode, interpolate, normal_latents, project


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def test_normal_latents_depend_on_the_seed_alone_and_leave_the_global_generator_as_it_is():
    before = torch.get_rng_state()
    normal = priors.fit_prior("normal", torch.zeros(1, 64))
    for sample in (lambda seed: normal_latents(64, 60, seed), lambda seed: priors.sample_latents(normal, 60, seed)):
        latents = sample(3)
        assert torch.equal(latents, sample(3))
        assert not torch.equal(latents, sample(4))
        assert latents.mean().item() == pytest.approx(0, abs=0.07)
        assert latents.std().item() == pytest.approx(1, abs=0.05)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_gaussian_has_the_moments_of_the_codes():
    codes = torch.randn(500, 3) @ torch.tensor([[2.0, 1, 0], [0, 1, 0], [0, 0, 0.1]]) + 5
    gaussian = priors.fit_gaussian(codes)
    torch.testing.assert_close(gaussian.mean.float(), codes.mean(dim=0))
    torch.testing.assert_close(gaussian.covariance_matrix.float(), codes.T.cov(correction=0), atol=1e-5, rtol=1e-5)


def test_the_mixture_finds_clusters_that_the_gaussian_blurs():
    centres = torch.tensor([[-10.0, 0], [10, 0], [0, 10]])
    codes = centres.repeat(200, 1) + torch.randn(600, 2)
    others = centres.repeat(200, 1).double() + torch.randn(600, 2)
    mixture = priors.fit_mixture(codes)
    assert mixture.log_prob(others).mean() > priors.fit_gaussian(codes).log_prob(others).mean() + 1
    samples = priors.sample_latents(mixture, 1000, seed=0)
    assert (torch.cdist(samples, centres).min(dim=1).values < 4).float().mean() > 0.97


def test_priors_can_be_fitted_to_fewer_codes_than_dimensions_but_no_mixture_to_one():
    for count, name in itertools.product([1, 2, 5], priors.SAMPLERS):
        if (count, name) != (1, "gmm"):
            prior = priors.fit_prior(name, torch.randn(count, 8))
            assert priors.sample_latents(prior, 20, seed=0).isfinite().all()
    with pytest.raises(UserError, match=r"2 or more .* found 1"):
        priors.fit_prior("gmm", torch.randn(1, 8))


def test_interpolations_go_straight():
    codes = torch.tensor([[0.0, 0.0], [2.0, 4.0], [1.0, 1.0], [1.0, 1.0]])
    assert interpolate(codes, 3).tolist() == [[0, 0], [1, 2], [2, 4]] + 3 * [[1, 1]]


def test_the_projection_keeps_the_directions_of_most_variance():
    hidden = torch.randn(500, 2) * torch.tensor([5.0, 2.0])
    basis = torch.linalg.qr(torch.randn(8, 8)).Q
    points = project(hidden @ basis[:2] + 0.01 * torch.randn(500, 8) + 3)
    correlations = torch.corrcoef(torch.cat([points, hidden], dim=1).T)[:2, 2:]
    assert (correlations.diagonal().abs() > 0.99).all()
    assert torch.equal(project(hidden), hidden)
    assert torch.equal(project(hidden[:, :1]), hidden * torch.tensor([1.0, 0.0]))


# ---------------------------------------------------------------- the script


@pytest.fixture
def generate(trained_flowers, tiny_flowers, tmp_path):
    """generate(model, *flags): the images of the script, below tmp_path, with the models of `trained_flowers`."""
    shutil.copytree(trained_flowers[0] / "models", tmp_path / "models", ignore=shutil.ignore_patterns("Last*"))
    roots = ["--data-root", str(tiny_flowers), "--output-root", str(tmp_path)]
    return lambda model, *flags: priors.main(["--model", model, *roots, *flags])


@pytest.mark.xdist_group("trained_flowers")
@pytest.mark.parametrize(("name", "sampler"), [("AE", "gmm"), ("VAE", "gaussian")])
def test_random_images_depend_on_the_seed_and_the_temperature(name, sampler, generate, tmp_path):
    images = generate(name, "--n", "12", "--sampler", sampler)
    assert images.shape == (12, 3, 12, 12)
    assert_figure(tmp_path / "vis" / f"random_images_{name}_{sampler}.png")
    assert_figure(tmp_path / "vis" / f"samplers_{name}.png")
    assert torch.equal(generate(name, "--n", "12", "--sampler", sampler), images)
    assert not torch.equal(generate(name, "--n", "12", "--sampler", sampler, "--seed", "1"), images)
    cold = generate(name, "--n", "12", "--sampler", sampler, "--temperature", "0.001")
    assert cold.std(dim=0).max() < 0.01 < images.std(dim=0).max()


@pytest.mark.xdist_group("trained_flowers")
def test_a_prior_is_fitted_to_the_codes_of_the_training_photographs(generate, tmp_path, tiny_flowers, monkeypatch):
    fitted = {}
    fit = priors.fit_prior
    monkeypatch.setattr(priors, "fit_prior", lambda sampler, codes: fit(sampler, fitted.setdefault(sampler, codes)))
    for name in ("AE", "VAE"):
        fitted.clear()
        generate(name)
        model, checkpoint = load_model(name, tmp_path)
        photographs = load_photographs(checkpoint, data_root=tiny_flowers)[0][:][0]
        means = encode(model, photographs)
        if name == "AE":
            assert torch.equal(fitted["gmm"], means)
        else:
            with torch.no_grad():
                sigma = (0.5 * model.posterior(photographs)[1]).exp()
            noise = (fitted["gmm"] - means) / sigma
            assert noise.std().item() == pytest.approx(1, abs=0.15)
            assert noise.mean().item() == pytest.approx(0, abs=0.2)


@pytest.mark.xdist_group("trained_flowers")
@pytest.mark.parametrize("name", ["AE", "VAE"])
def test_interpolations_go_from_one_held_out_photograph_to_another(name, generate, tmp_path, tiny_flowers):
    images = generate(name, "--interpolate")
    assert images.shape == (72, 3, 12, 12)
    assert_figure(tmp_path / "vis" / f"interpolation_{name}.png")
    model, checkpoint = load_model(name, tmp_path)
    held_out = load_photographs(checkpoint, data_root=tiny_flowers)[1][:12][0]
    torch.testing.assert_close(images[::12], held_out[::2])
    torch.testing.assert_close(images[11::12], held_out[1::2])
    with torch.no_grad():
        torch.testing.assert_close(images[1::12], model.reconstruct(held_out[::2]))
        torch.testing.assert_close(images[10::12], model.reconstruct(held_out[1::2]))


@pytest.mark.xdist_group("trained_flowers")
def test_flags_and_photographs_that_do_not_fit_are_refused(generate, capsys, tmp_path, monkeypatch):
    for flags in (["GAN"], ["AE", "--interpolate", "--sampler", "gaussian"], ["AE", "--n", "0"], ["AE", "--n", "5001"]):
        with pytest.raises(SystemExit, match="2"):
            generate(*flags)
        assert "error: argument --" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"AE was trained on flowers .* found synthetic flowers"):
        priors.main(["--model", "AE", "--data", "synthetic", "--output-root", str(tmp_path)])
    monkeypatch.setattr("data.VALID_FRACTION", 1 / 60)
    with pytest.raises(UserError, match=r"expected 2 or more held-out .* found 1"):
        generate("AE", "--interpolate")
