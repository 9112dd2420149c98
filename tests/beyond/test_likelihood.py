"""The estimated likelihood, where log p(x) has a closed form: a linear Gaussian model."""

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from evaluation.likelihood import (
    Estimate,
    bits_per_dimension,
    describe_estimate,
    describe_grey,
    estimate_likelihood,
    log_ratio,
)
from training import UserError
from VarAutoencoder import HALF, LEARNED, MIN_VARIANCE, VarAutoencoder

PIXELS, LATENTS, VARIANCE = 12, 4, 0.3


class Images:
    """A data set of the images of p(x) = N(0, W W^T + VARIANCE I), where W has orthogonal columns."""

    def __init__(self, count):
        generator = torch.Generator().manual_seed(0)
        columns = torch.linalg.qr(torch.randn(PIXELS, LATENTS, generator=generator))[0]
        self.weight = columns * torch.tensor([2.0, 1.5, 1.0, 0.5])
        covariance = self.weight @ self.weight.T + VARIANCE * torch.eye(PIXELS)
        self.images = torch.randn(count, PIXELS, generator=generator) @ torch.linalg.cholesky(covariance).T
        self.log_p = MultivariateNormal(torch.zeros(PIXELS), covariance).log_prob(self.images)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], None

    def posterior(self, images, _, widened=1.0, moved=0.0):
        """The exact one, or a worse one."""
        precision = 1 + self.weight.square().sum(dim=0) / VARIANCE
        mu = images @ self.weight / VARIANCE / precision + moved
        return mu, widened * precision.rsqrt().expand_as(mu)

    def log_likelihood(self, zs, images, _):
        p = Normal(zs @ self.weight.T, math.sqrt(VARIANCE), validate_args=False)  # its mean may be NaN
        return p.log_prob(images).sum(dim=-1)


def estimate(images, samples, **worse):
    return estimate_likelihood(images, lambda *batch: images.posterior(*batch, **worse), images.log_likelihood, samples)


def test_with_the_exact_posterior_one_sample_gives_the_exact_likelihood():
    images = Images(100)
    torch.testing.assert_close(estimate(images, 1).nll, -images.log_p, rtol=1e-4, atol=1e-4)


def test_with_another_posterior_it_agrees_within_its_error_and_more_samples_are_never_worse():
    images, worse = Images(400), {"widened": 1.4, "moved": 0.2}
    found = {samples: estimate(images, samples, **worse) for samples in (1, 5, 50, 1000)}
    gaps = {samples: (part.nll + images.log_p).mean().item() for samples, part in found.items()}
    assert gaps[1] > gaps[5] > gaps[50] > gaps[1000]
    assert gaps[1000] == pytest.approx(0, abs=0.01)
    bound = found[1000].distortion + found[1000].rate
    mu, sigma = images.posterior(images.images, None)
    q = torch.distributions.kl_divergence(Normal(mu + 0.2, 1.4 * sigma), Normal(mu, sigma)).sum(dim=1)
    assert (bound + images.log_p).mean().item() == pytest.approx(q.mean().item(), rel=0.02)  # what the bound lacks
    prior = torch.distributions.kl_divergence(Normal(mu + 0.2, 1.4 * sigma), Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(found[1].rate, prior, rtol=1e-4, atol=1e-4)


def test_the_seed_determines_it_and_it_is_the_same_in_parts(monkeypatch):
    images, worse = Images(64), {"widened": 1.4, "moved": 0.2}
    first, again = (estimate(images, 300, **worse).nll for _ in range(2))
    assert torch.equal(first, again)
    other = estimate_likelihood(images, lambda *batch: images.posterior(*batch, **worse), images.log_likelihood, 300, 1)
    assert (other.nll - first).abs().max() > 1e-3
    monkeypatch.setattr("evaluation.likelihood.DECODED", 64 * PIXELS)  # a sample of each image at a time
    torch.testing.assert_close(estimate(images, 300, **worse).nll, first, rtol=1e-4, atol=1e-4)


def test_a_likelihood_that_is_not_finite_is_an_error():
    images = Images(5)
    with pytest.raises(UserError, match="not finite: the weights are damaged"):
        estimate_likelihood(images, images.posterior, lambda zs, *_: zs.sum(dim=-1) * math.nan, 3)
    for worse in ({"moved": math.nan}, {"widened": 0.0}):
        with pytest.raises(UserError, match="not finite: the weights are damaged"):
            estimate(images, 3, **worse)


def test_log_ratio_is_the_closed_form_and_may_have_another_prior():
    mu, sigma, zs = torch.randn(9, 3), torch.rand(9, 3) + 0.1, torch.randn(5, 9, 3)

    def log_density(mu, sigma):
        return -(2 * math.pi * sigma**2).log() / 2 - (zs - mu) ** 2 / (2 * sigma**2)

    for prior in ((), (torch.randn(9, 3), torch.rand(9, 3) + 0.1)):
        p = log_density(*(prior or (torch.zeros(3), torch.ones(3))))
        expected = (log_density(mu, sigma) - p).sum(dim=-1)
        torch.testing.assert_close(log_ratio(zs, mu, sigma, *prior), expected, rtol=1e-4, atol=1e-4)


def test_the_lines_of_the_log():
    estimated = Estimate(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0]), torch.tensor([0.5, 1.5]))
    assert describe_estimate(estimated, 7) == [
        "NLL: 2.00 +- 1.00 nats per image (importance weighted, 7 samples, 2 images)",
        "Bound: 3.00 = Distortion 2.00 + Rate 1.00",
    ]
    assert "2.00 +- 1.00 nats per image, 8.029 bits per dimension (" in describe_estimate(estimated, 7, dims=100)[0]
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))  # of one pixel; the others are certain
    images = torch.tensor([[[[0.25, 1.0, 0.0]]]])
    assert f"{entropy:.2f} nats" in describe_grey(images)


def test_bits_per_dimension_by_hand():
    assert bits_per_dimension(0.0, 1728) == 8  # a uniform density
    assert bits_per_dimension(-3 * 4 * math.log(2), 4) == pytest.approx(5)  # a density of 8 for each of four numbers


@pytest.mark.parametrize("variance", [HALF, LEARNED])
def test_the_flowers_decoder_is_a_gaussian(variance):
    model = VarAutoencoder(8, 12, 16, variance).eval()
    images, reconstructions = torch.rand(5, 3, 12, 16), torch.rand(2, 5, 3, 12, 16)
    if variance == LEARNED:
        model.variance.fill_(0.07)
    deviation = math.sqrt(0.07 if variance == LEARNED else 0.5)
    expected = -Normal(reconstructions, deviation).log_prob(images).sum(dim=(2, 3, 4))
    torch.testing.assert_close(model.negative_log_likelihood(reconstructions, images), expected, rtol=1e-4, atol=1e-2)
    if variance == LEARNED:
        outputs = reconstructions[0], torch.zeros(5, 8), torch.zeros(5, 8)
        loss, metrics = model.measure(outputs, images)
        assert metrics["loss"] == metrics["recon"] == pytest.approx(expected[0].mean().item(), rel=1e-4)
        assert loss.item() == pytest.approx(metrics["loss"] / 576, rel=1e-5)


def test_the_learned_variance_is_the_mean_squared_error_and_has_a_floor():
    model = VarAutoencoder(8, 12, 16, LEARNED).train()
    images, latents = torch.full((5, 3, 12, 16), 0.5), torch.zeros(2, 5, 8)
    for error in (0.1, 0.0):  # the second is a perfect reconstruction, which any smaller variance would make likelier
        outputs = ((images + error).requires_grad_(), *latents)
        loss, metrics = model.measure(outputs, images)
        assert metrics["variance"] == pytest.approx(max(error**2, MIN_VARIANCE), rel=1e-4)
        assert model.variance.item() == pytest.approx(0.01 if error else (0.01 + MIN_VARIANCE) / 2, rel=1e-4)
        loss.backward()
        assert loss.isfinite()
        assert outputs[0].grad.isfinite().all()
