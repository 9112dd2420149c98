"""beyond.anatomy against a linear VAE, whose q(z), best q(z|x) and likelihood are known exactly; and its script."""

import math

import pytest
import torch
from helpers import logged
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from beyond import anatomy
from beyond.priors import fit_gaussian

PIXELS = 6
VARIANCE = 0.5
COUNT = 2000
IMPERFECT = 1.5  # factor on the standard deviations of an encoder that is not the best


class LinearVAE:
    """p(x|z) = N(W z, VARIANCE I) of two latents whose exact posterior is no diagonal Gaussian."""

    def __init__(self):
        torch.manual_seed(0)
        self.weight = torch.tensor([[1.0, 0.8], [0.5, 0.9], [0, 0.4], [0.3, 0], [0.2, 0.2], [0, 0.1]]).double()
        self.covariance = self.weight @ self.weight.T + VARIANCE * torch.eye(PIXELS)  # of x
        self.precision = torch.eye(2) + self.weight.T @ self.weight / VARIANCE  # of p(z|x)
        self.projection = torch.linalg.solve(self.precision, self.weight.T / VARIANCE)  # x to the mean of p(z|x)
        self.p_x = MultivariateNormal(torch.zeros(PIXELS).double(), self.covariance)
        self.images = self.p_x.sample((COUNT,))
        self.best_sigma = self.precision.diagonal().rsqrt()  # of the diagonal q with the least KL(q || p(z|x))

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], self.images[index][:, 0]

    def posterior(self, images, _):
        mu = images @ self.projection.T
        return mu, (IMPERFECT * self.best_sigma).expand_as(mu)

    def log_likelihood(self, zs, images, _):
        return Normal(zs @ self.weight.T, math.sqrt(VARIANCE)).log_prob(images).sum(dim=-1)


@pytest.fixture
def vae():
    return LinearVAE()


def error_of(nats):
    return nats.std().item() / math.sqrt(len(nats))


def test_the_rate_is_the_information_and_the_aggregate_posteriors_divergence(vae):
    mu, sigma = anatomy.posteriors(vae.posterior, vae)
    zs = mu + sigma * torch.randn_like(mu)
    q_z = vae.projection @ vae.covariance @ vae.projection.T + sigma[0].square().diag()  # the covariance of q(z)
    exact = 0.5 * (q_z.logdet() - sigma[0].square().log().sum()).item()  # I(x; z) of jointly Gaussian x and z
    gaussian = MultivariateNormal(torch.zeros(2).double(), q_z)
    divergence = kl_divergence(gaussian, MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())).item()
    nats = anatomy.information(zs, mu, sigma)
    assert nats.mean().item() == pytest.approx(exact, abs=3 * error_of(nats) + 0.01)
    gains = anatomy.gain(fit_gaussian(zs), zs)
    assert gains.mean().item() == pytest.approx(divergence, abs=3 * error_of(gains) + 0.01)
    rate = kl_divergence(Normal(mu, sigma), Normal(0.0, 1.0)).sum(dim=1)
    assert rate.mean().item() == pytest.approx(exact + divergence, abs=3 * error_of(rate))


def test_the_information_is_capped_where_every_image_has_a_place_of_its_own(monkeypatch):
    monkeypatch.setattr(anatomy, "CHUNK", 3)
    mu = torch.arange(10.0).double()[:, None]
    nats = anatomy.information(mu, mu, torch.full_like(mu, 1e-3))  # I(x; z) of so many numbers has no such limit
    torch.testing.assert_close(nats, torch.full((10,), math.log(10)).double())
    same = anatomy.information(mu, torch.zeros_like(mu), torch.ones_like(mu))
    torch.testing.assert_close(same, torch.zeros(10).double(), atol=1e-6, rtol=0)


def test_the_gaps_are_those_of_the_closed_form(vae):
    images, labels = vae[:50]
    gaps = anatomy.measure_gaps(vae.posterior, vae.log_likelihood, images, labels)
    exact_nll = -vae.p_x.log_prob(images)
    torch.testing.assert_close(gaps["NLL by the optimised q"], exact_nll, atol=0.2, rtol=0)
    assert gaps["NLL by the optimised q"].mean().item() == pytest.approx(exact_nll.mean().item(), abs=0.02)
    approximation = 0.5 * (vae.precision.diagonal().log().sum() - vae.precision.logdet()).item()
    assert approximation > 0.1
    assert gaps["Approximation gap"].mean().item() == pytest.approx(approximation, rel=0.05)
    amortisation = 2 * (0.5 * (IMPERFECT**2 - 1) - math.log(IMPERFECT))  # of two latents: precision times variance is 1
    assert gaps["Amortisation gap"].mean().item() == pytest.approx(amortisation, rel=0.05)


def test_a_latent_is_active_where_its_mean_varies():
    mu = torch.tensor([[-1.0, 0, 0.09], [1, 0, -0.09]])
    sigma = torch.tensor([0.5, 1, 1]).expand(2, 3)
    kl = 0.5 * (1 + 0.25 - 1) - math.log(0.5)
    assert anatomy.describe_latents(mu, sigma) == f"2 of 3 active, KL {kl:.2f} 0.00 0.00"


@pytest.mark.parametrize("name", ["MNIST_VAE", "MNIST_CVAE"])
def test_the_script(name, trained_mnist, tiny_mnist, monkeypatch):
    for setting, value in {"COUNT": 20, "STEPS": 30, "SAMPLES": 200}.items():
        monkeypatch.setattr(anatomy, setting, value)
    flags = ["--model", name, "--data-root", tiny_mnist, "--output-root", trained_mnist[0]]
    gaps, lines = logged(anatomy.main, *flags)
    parts = ["Latents", "Rate", *2 * ["KL(q(z) || p(z))"], "I(x; z)"]
    assert [line.partition(":")[0] for line in lines[2:7]] == parts
    assert "it cannot exceed log 100 = 4.61" in lines[6]
    assert len(lines) == 13
    total = gaps["Bound with the encoder's q"] - gaps["NLL by the optimised q"]
    torch.testing.assert_close(gaps["Amortisation gap"] + gaps["Approximation gap"], total)
    assert gaps["Amortisation gap"].mean() > 0
