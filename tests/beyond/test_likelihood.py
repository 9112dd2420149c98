"""beyond.likelihood: the estimate where log p(x) has a closed form, and of each model against its own losses."""

import math
import re

import pytest
import torch
from helpers import best_checkpoint, logged, write_mnist
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence

from beyond import likelihood, variance
from beyond.likelihood import Estimate, bits_per_dimension, describe_estimate, describe_grey, estimate_likelihood
from common import UserError
from data import create_mnist_dataloaders
from datasets.synthetic import make_digits
from trained.loading import load_model, load_photographs

PIXELS = 12
LATENTS = 4
VARIANCE = 0.3
NLL = r"NLL: (-?\d+\.\d\d) \+- \d+\.\d\d nats per image"


class Gaussians:
    """A data set of images of p(x) = N(0, W W^T + VARIANCE I), where W has orthogonal columns."""

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
        """The exact posterior, or a worse one."""
        precision = 1 + self.weight.square().sum(dim=0) / VARIANCE
        mu = images @ self.weight / VARIANCE / precision + moved
        return mu, widened * precision.rsqrt().expand_as(mu)

    def log_likelihood(self, zs, images, _):
        p = Normal(zs @ self.weight.T, math.sqrt(VARIANCE), validate_args=False)  # its mean may be NaN
        return p.log_prob(images).sum(dim=-1)

    def estimate(self, samples, seed=0, **worse):
        def posterior(*batch):
            return self.posterior(*batch, **worse)

        return estimate_likelihood(self, posterior, self.log_likelihood, samples, seed)


WORSE = {"widened": 1.4, "moved": 0.2}


def test_with_the_exact_posterior_one_sample_gives_the_exact_likelihood():
    images = Gaussians(100)
    torch.testing.assert_close(images.estimate(1).nll, -images.log_p, rtol=1e-4, atol=1e-4)


def test_with_another_posterior_more_samples_are_better_and_the_bound_lacks_its_kl_from_the_exact_one():
    images = Gaussians(400)
    estimates = {samples: images.estimate(samples, **WORSE) for samples in (1, 5, 50, 1000)}
    gaps = {samples: (estimate.nll + images.log_p).mean().item() for samples, estimate in estimates.items()}
    assert gaps[1] > gaps[5] > gaps[50] > gaps[1000]
    assert gaps[1000] == pytest.approx(0, abs=0.01)
    bound = estimates[1000].distortion + estimates[1000].rate
    mu, sigma = images.posterior(images.images, None)
    worse = Normal(mu + WORSE["moved"], WORSE["widened"] * sigma)
    lacking = kl_divergence(worse, Normal(mu, sigma)).sum(dim=1).mean().item()
    assert (bound + images.log_p).mean().item() == pytest.approx(lacking, rel=0.02)
    rate = kl_divergence(worse, Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(estimates[1].rate, rate, rtol=1e-4, atol=1e-4)


def test_the_seed_determines_it_and_so_it_is_when_few_samples_are_decoded_at_once(monkeypatch):
    images = Gaussians(64)
    first = images.estimate(300, **WORSE).nll
    assert torch.equal(first, images.estimate(300, **WORSE).nll)
    assert (images.estimate(300, seed=1, **WORSE).nll - first).abs().max() > 1e-3
    monkeypatch.setattr(likelihood, "DECODED", 64 * PIXELS)  # one sample of each image
    torch.testing.assert_close(images.estimate(300, **WORSE).nll, first, rtol=1e-4, atol=1e-4)


def test_a_likelihood_that_is_not_finite_is_an_error():
    images = Gaussians(5)
    with pytest.raises(UserError, match="not finite: the weights are damaged"):
        estimate_likelihood(images, images.posterior, lambda zs, *_: zs.sum(dim=-1) * math.nan, 3)
    for worse in ({"moved": math.nan}, {"widened": 0.0}):
        with pytest.raises(UserError, match="not finite: the weights are damaged"):
            images.estimate(3, **worse)


def test_the_lines_of_the_log_by_hand():
    estimate = Estimate(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0]), torch.tensor([0.5, 1.5]))
    assert describe_estimate(estimate, 7) == [
        "NLL: 2.00 +- 1.00 nats per image (importance weighted, 7 samples, 2 images)",
        "Bound: 3.00 = Distortion 2.00 + Rate 1.00",
    ]
    assert "2.00 +- 1.00 nats per image, 8.029 bits per dimension (" in describe_estimate(estimate, 7, dims=100)[0]
    assert bits_per_dimension(0.0, 1728) == 8  # a uniform density
    assert bits_per_dimension(-3 * 4 * math.log(2), 4) == pytest.approx(5)  # a density of 8 for each of four numbers
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))  # of one pixel; the others are certain
    assert f"{entropy / 2:.2f} nats" in describe_grey(torch.tensor([[[[0.25, 1.0, 0.0]]], [[[1.0, 1.0, 0.0]]]]))


@pytest.mark.xdist_group("trained_flowers")
def test_the_bound_of_photographs_is_that_of_a_gaussian_decoder(trained_flowers, tiny_flowers, tmp_path):
    sizes = ["--image-size", 12, "--encoding-dim", 8, "--epochs", 1]
    logged(variance.main, *sizes, "--data-root", tiny_flowers, "--output-root", tmp_path)
    for name, root in (("VAE", trained_flowers[0]), ("VAE_learned", tmp_path)):
        flags = ["--samples", 100, "--data-root", tiny_flowers, "--output-root", root]
        estimate, lines = logged(likelihood.main, "--model", name, *flags)
        assert lines[0].startswith("Data: 12 held-out images of ")
        assert lines[1].startswith(f"Model: {name}, epoch ")
        assert re.match(NLL + r", \d+\.\d{3} bits per dimension \(", lines[2])
        model, checkpoint = load_model(name, root)
        images, _ = load_photographs(checkpoint, data_root=tiny_flowers)[1][:]
        with torch.no_grad():
            outputs = [model(images) for _ in range(100)]
            mu, log_var = model.posterior(images)
        if name == "VAE_learned":
            nll = torch.stack([-model.log_likelihood(images - recon, last) for recon, *_, last in outputs]).mean(dim=0)
        else:
            recons = torch.stack([recon for recon, *_ in outputs])
            nll = -Normal(recons, math.sqrt(1 / 2)).log_prob(images).mean(dim=0).sum(dim=(1, 2, 3))
        kl = kl_divergence(Normal(mu, log_var.div(2).exp()), Normal(0.0, 1.0)).sum(dim=1)
        bound = estimate.distortion + estimate.rate
        assert bound.mean().item() == pytest.approx((nll + kl).mean().item(), rel=0.01)
        assert lines[3].endswith(f", {bits_per_dimension(bound.mean().item(), 432):.3f} bits per dimension")
        assert len(lines) == 4


@pytest.mark.parametrize("name", ["VAE", "CVAE"])
def test_the_bound_of_digits_is_the_test_loss_and_that_of_grey_ones_is_called_a_bound(name, trained_mnist, tiny_mnist):
    root, _ = trained_mnist
    before = (root / "models" / f"BestModel_MNIST_{name}.pth").read_bytes()
    flags = ["--data-root", tiny_mnist, "--output-root", root, "--samples", 20]
    estimate, lines = logged(likelihood.main, "--model", f"MNIST_{name}", *flags)
    checkpoint = best_checkpoint(root, f"MNIST_{name}")
    assert lines[0].startswith("Data: 100 held-out images of MNIST-like images, ")
    assert float(re.match(NLL + r" \(", lines[2])[1]) == pytest.approx(estimate.nll.mean().item(), abs=0.01)
    assert estimate.distortion.mean().item() == pytest.approx(checkpoint["test_recon"], rel=0.01)
    assert estimate.rate.mean().item() == pytest.approx(checkpoint["test_kl"], rel=1e-4)
    assert (estimate.nll < estimate.distortion + estimate.rate).float().mean() > 0.9
    images, _ = create_mnist_dataloaders(1, tiny_mnist)[2].dataset[:]
    entropy = Bernoulli(images.double()).entropy().sum(dim=(1, 2, 3)).mean().item()
    assert lines[4].startswith("Grey pixels: the NLL is an upper bound")
    assert lines[4].endswith(f"their entropy, {entropy:.2f} nats per image")
    assert [line.partition(":")[0] for line in lines[5:]] == (["Labels"] if name == "CVAE" else [])
    assert (root / "models" / f"BestModel_MNIST_{name}.pth").read_bytes() == before


def test_other_digits_are_refused(trained_mnist, tmp_path, monkeypatch):
    others = write_mnist(tmp_path, train=50, test=30).parent.parent
    flags = ["--model", "MNIST_VAE", "--samples", 2, "--output-root", trained_mnist[0]]
    with pytest.raises(UserError, match="trained on MNIST-like images .*, found MNIST-like images .*--data-root"):
        logged(likelihood.main, *flags, "--data-root", others)
    monkeypatch.setattr("data.make_digits", lambda: make_digits(200))
    monkeypatch.setattr("data.SYNTHETIC_TRAIN", 150)
    with pytest.raises(UserError, match="trained on MNIST-like images .*, found synthetic digits .*--data-root"):
        logged(likelihood.main, *flags, "--data", "synthetic")
    trained_on = {"name": "synthetic digits"}  # they need no flag
    assert len(likelihood.find_digits(trained_on)[1]) == 50
