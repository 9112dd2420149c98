"""How likely a variational autoencoder finds images: what its loss bounds, estimated by importance sampling.

    estimate = estimate_likelihood(test_set, posterior, log_likelihood, samples=1000)
    nll_line, bound_line = describe_estimate(estimate, samples=1000)    # "NLL: 86.12 +- 0.21 nats per image (...)", ...

The evidence lower bound is log p(x) less the KL of q(z|x) from p(z|x), which nobody knows. With K samples z of q(z|x),
log p(x) ~ log 1/K sum of p(x|z) p(z) / q(z|x) is too low by ever less, the larger K is (Burda et al. 2016, theorem 1).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.distributions import Normal, kl_divergence
from tqdm import tqdm

from training import UserError
from training.script import warn_of_waiting

IMAGES, DECODED = 64, 2**23  # images at a time, and numbers in the images that are decoded at once
GREY_LEVELS = 256


class Estimate(NamedTuple):
    """Of each image, in nats: (N,)."""

    nll: torch.Tensor  # negative log-likelihood, by importance sampling
    distortion: torch.Tensor  # the bound is the sum of -log p(x|z), mean over the samples,
    rate: torch.Tensor  # and KL(q(z|x) || p(z))


def log_ratio(zs: torch.Tensor, mu: torch.Tensor, sigma: torch.Tensor, prior_mu=0.0, prior_sigma=1.0) -> torch.Tensor:
    """log q(z|x) - log p(z) of latent vectors (..., B, D), where q(z|x) = N(mu, sigma^2), each (B, D), and p = N(0, I)
    or of the mean and standard deviation given: (..., B)."""
    q, p = Normal(mu, sigma, validate_args=False), Normal(prior_mu, prior_sigma, validate_args=False)
    return (q.log_prob(zs) - p.log_prob(zs)).sum(dim=-1)


@torch.no_grad()
def estimate_likelihood(
    dataset, posterior: Callable, log_likelihood: Callable, samples: int, seed: int = 0
) -> Estimate:
    """Estimate -log p(x) of all images of a data set with so many samples each, in bounded memory.

    posterior(images, labels) -> mu and sigma of q(z|x), each (B, D), and where the prior is not N(0, I) also of that;
    log_likelihood(zs (K, B, D), images, labels) -> log p(x|z), (K, B), in nats. Raises UserError where a likelihood is
    not finite.
    """
    found = []
    torch.manual_seed(seed)
    starts = tqdm(range(0, len(dataset), IMAGES), "likelihood", unit="batch", disable=None, leave=False)
    with warn_of_waiting(dataset.images.device.type):
        for start in starts:
            images, labels = dataset[start : start + IMAGES]
            mu, sigma, *prior = posterior(images, labels)
            log_sum, distortion = mu.new_full((len(mu),), -math.inf), mu.new_zeros(len(mu))
            chunk = max(1, DECODED // images.numel())
            for done in range(0, samples, chunk):
                zs = mu + sigma * torch.randn(min(chunk, samples - done), *mu.shape, device=mu.device)
                log_p = log_likelihood(zs, images, labels)
                log_sum = torch.logaddexp(log_sum, (log_p - log_ratio(zs, mu, sigma, *prior)).logsumexp(dim=0))
                distortion -= log_p.sum(dim=0) / samples
            nll = math.log(samples) - log_sum
            q, p = (Normal(*of, validate_args=False) for of in ((mu, sigma), prior or (0.0, 1.0)))
            rate = kl_divergence(q, p).sum(dim=1)
            found.append(torch.stack([nll, distortion, rate]).cpu())
    return Estimate(*check_finite(torch.cat(found, dim=1)))


def check_finite(nats: torch.Tensor) -> torch.Tensor:
    """Likelihoods as they are. Raises UserError where one is not finite."""
    if not nats.isfinite().all():
        raise UserError("the likelihood is not finite: the weights are damaged, train the model anew")
    return nats


def describe_estimate(estimate: Estimate, samples: int, dims: int | None = None) -> list[str]:
    """Lines for the log; dims: of an image, for bits per dimension, where its density is that of 256 grey levels."""
    nll, distortion, rate = (part.double().mean().item() for part in estimate)
    bits = f", {bits_per_dimension(nll, dims):.3f} bits per dimension" if dims else ""
    how = f"importance weighted, {samples} samples, {len(estimate.nll)} images"
    bound = f"{distortion + rate:.2f} = Distortion {distortion:.2f} + Rate {rate:.2f}"
    bound_bits = f", {bits_per_dimension(distortion + rate, dims):.3f} bits per dimension" if dims else ""
    return [f"NLL: {describe_mean(estimate.nll)}{bits} ({how})", f"Bound: {bound}{bound_bits}"]


def describe_mean(nats: torch.Tensor) -> str:
    """The mean of images (N,) with its standard error: "86.12 +- 0.21 nats per image"."""
    nats = nats.double()
    return f"{nats.mean().item():.2f} +- {(nats.var() / len(nats)).sqrt().item():.2f} nats per image"


def bits_per_dimension(nats: float, dims: int) -> float:
    """The negative log-density of an image in [0, 1]^dims as bits for each of its 256-level numbers: a uniform density
    is 0 nats and 8 bits."""
    return nats / dims / math.log(2) + math.log2(GREY_LEVELS)


def describe_grey(images: torch.Tensor) -> str:
    """A line for the log: what the likelihood of grey pixels in [0, 1] is, each the mean of a Bernoulli variable.

    By Jensen's inequality the mean of log p over binarised digits is not below log of the integral over z of p(z) times
    the exponential of their mean log p(x|z), which is the cross-entropy. No cross-entropy is below the entropy.
    """
    entropy = torch.distributions.Bernoulli(probs=images.cpu().double()).entropy().flatten(1).sum(dim=1).mean().item()
    what = "an upper bound on the mean negative log-likelihood of digits binarized with them as probabilities"
    return f"Grey pixels: the NLL is {what}; its lower bound is their entropy, {entropy:.2f} nats per image"
