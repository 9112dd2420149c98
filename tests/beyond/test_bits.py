"""benchmarks.bits against Gaussians, whose densities are known, and files of known content."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from benchmarks import bits
from generators.variance import LearnedVariance


def test_standardised_errors_have_the_density_of_the_models_bound(monkeypatch):
    model = LearnedVariance(4, 12, 12).eval()
    torch.nn.init.normal_(model.log_factor.weight)
    images = torch.rand(5, 3, 12, 12)
    monkeypatch.setattr(bits, "reparameterise", lambda mu, log_var: mu)
    vectors, rest = bits.standardised_errors(model, images)
    nll = rest - Normal(0.0, 1.0).log_prob(vectors).sum(dim=1)
    mu, log_var = model.posterior(images)
    log_p = model.log_likelihood(images - model.decode(mu), model.variances(mu))
    kl = kl_divergence(Normal(mu, (log_var / 2).exp()), Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(nll.float(), kl - log_p, rtol=1e-4, atol=1e-2)


class Constant(torch.nn.Module):
    """A network that always predicts the same v."""

    def __init__(self, channels, value=0.0):
        super().__init__()
        self.channels = channels
        self.value = value

    def forward(self, x, t, labels):
        return torch.full_like(x[:, : self.channels], self.value)


def test_the_shrunk_gaussian_is_between_independent_numbers_and_the_whole_covariance():
    torch.manual_seed(0)
    train = torch.randn(300, 4).double() @ torch.randn(4, 4).double() + 3
    test = train[:50] + 0.1
    mean = train.mean(dim=0)
    whole = MultivariateNormal(mean, train.T.cov(correction=0))
    alone = Normal(mean, train.std(dim=0))
    nll = bits.shrunk_gaussian_nll(train, test, [0.0, 0.5, 1.0])
    assert nll[0].item() == pytest.approx(-whole.log_prob(test).mean().item(), abs=0.02)
    assert nll[2].item() == pytest.approx(-alone.log_prob(test).sum(dim=1).mean().item(), abs=0.02)
    assert nll[1] < nll[2]


def test_more_is_shrunk_where_fewer_vectors_are_known():
    torch.manual_seed(0)
    vectors = torch.randn(2000, 20).double() @ torch.randn(20, 20).double()
    assert bits.choose_share(vectors) < bits.choose_share(vectors[:60])
    independent = torch.randn(60, 20).double()
    assert bits.choose_share(independent) > 0.8


def test_dequantised_images_keep_their_levels():
    levels = torch.arange(256.0).view(1, 1, 16, 16).expand(4, 1, 16, 16)
    images = bits.dequantise(levels / 255)
    assert torch.equal((256 * images).floor(), levels)
    assert (256 * images - levels).mean().item() == pytest.approx(0.5, abs=0.05)


def test_haar_vectors_have_the_length_of_the_images_and_mirror_images_stand_behind_their_originals():
    images = torch.rand(5, 3, 12, 12)
    torch.testing.assert_close(bits.haar_vectors(images).norm(dim=1), images.double().flatten(1).norm(dim=1))
    assert torch.equal(bits.with_mirrored(images)[6:8], torch.stack([images[3], images[3].flip(-1)]))


@pytest.mark.parametrize("file_format", ["PNG", "WebP"])
def test_files_of_noise_have_eight_bits_for_each_number_and_those_of_one_colour_hardly_any(file_format):
    noise = torch.randint(256, (6, 3, 24, 24), generator=torch.Generator().manual_seed(0)).byte()
    assert bits.mosaic_bits(noise, file_format) == pytest.approx(8, abs=0.4)
    assert bits.mosaic_bits(torch.full_like(noise, 7), file_format) < 0.3


def test_the_diffusion_models_bound_of_gaussian_images_is_nearly_their_entropy():
    """The best prediction of v for x0 from N(0, I) is 0; other predictions cost their squared error."""
    torch.manual_seed(0)
    std = torch.tensor([0.5, 2.0, 1.0, 9.0])[:, None, None]  # of three channels and of one of the condition
    stage = SimpleNamespace(channels=3, std=std, network=Constant(3))
    x0 = std[:3] * torch.randn(200, 3, 6, 6)
    condition = torch.zeros(200, 1, 6, 6)
    entropy = 36 * (3 / 2 * math.log(2 * math.pi * math.e) + math.log(0.5 * 2))
    nll = bits.stage_nll(stage, x0, condition, torch.zeros(200, dtype=torch.long))
    error = nll.std().item() / math.sqrt(200)
    assert nll.mean().item() == pytest.approx(entropy, abs=4 * error)
    stage.network = Constant(3, 0.3)
    worse = bits.stage_nll(stage, x0, condition, torch.zeros(200, dtype=torch.long))
    _, sigma = bits.schedule(torch.zeros(1))
    cost = -sigma.log().item() * 108 * 0.09
    assert (worse - nll).mean().item() == pytest.approx(cost, rel=0.05)
    torch.testing.assert_close(
        bits.timesteps_of(bits.schedule(torch.tensor([0.0, 7.0]))[1].flatten()),
        torch.tensor([0.0, 7.0]),
        atol=1e-3,
        rtol=1e-5,
    )


def test_the_stages_bounds_add_up_to_that_of_the_image(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(bits, "TIMES", 500)
    model = bits.load_model("DDPM", bits.PROJECT)[0]
    images = torch.rand(2, 3, 48, 48)
    for stage in model.stages:
        stage.network = Constant(stage.channels)
        stage.std.fill_(0.5)  # a Gaussian of this deviation for 2 x - 1
    with_prior = bits.diffusion_nll(model, images, torch.tensor([0, 1]))
    gaussian = -Normal(0.0, 0.25).log_prob(images - 0.5).sum(dim=(1, 2, 3))
    expected = gaussian - torch.tensor(model.class_prior)[:2].log()
    torch.testing.assert_close(with_prior, expected, rtol=0, atol=100)  # of 6,912 numbers; the standard error is 23
