"""How likely a VAE finds images that it was not trained on: what its loss bounds, estimated by importance sampling.

    python -m beyond.likelihood --model VAE             # held-out photographs; also: VAE_learned
    python -m beyond.likelihood --model MNIST_VAE       # test digits; also: MNIST_CVAE, MNIST_IWAE

The evidence lower bound is log p(x) minus KL(q(z|x) || p(z|x)), which is unknown. With K samples z of q(z|x)

    log p(x) ~ log 1/K sum over k of p(x|z_k) p(z_k) / q(z_k|x)

is too low by less and less as K grows (Burda et al. 2016, theorem 1).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from beyond.iwae import NAME as IWAE
from beyond.iwae import binarize
from common import UserError, is_synthetic
from common.distributed import init_distributed
from common.flags import add_data_flags, add_device_flag, make_parser, natural_int, positive_int
from common.process import log, progress, run_script, warn_of_waiting
from data import create_mnist_dataloaders
from datasets.images import ImageDataset
from generators.iwae import log_ratio
from generators.variance import LearnedVariance
from main import Losses
from trained.loading import check_images, load_model, load_photographs, name_model
from trained.registry import MODELS, Entry

VAES = ["VAE", "VAE_learned", "MNIST_VAE", "MNIST_CVAE", IWAE]
BATCH = 64  # images at a time
DECODED = 2**23  # numbers in the images that are decoded at once
GREY_LEVELS = 256


class Estimate(NamedTuple):
    """Of each image, in nats: (N,)."""

    nll: torch.Tensor  # negative log-likelihood, by importance sampling
    distortion: torch.Tensor  # the mean of -log p(x|z) over the samples; distortion + rate is the bound
    rate: torch.Tensor  # KL(q(z|x) || p(z))


def parse_args(argv=None):
    """The flags."""
    parser = make_parser("Estimate how likely a trained VAE finds held-out images.", module="beyond.likelihood")
    parser.add_argument("--model", choices=VAES, required=True, help="whose likelihood")
    parser.add_argument("--samples", metavar="K", type=positive_int, default=1000, help="samples of q(z|x) per image")
    parser.add_argument("--seed", metavar="N", type=natural_int, default=0, help="of the samples")
    add_device_flag(parser)
    add_data_flags(parser, "folder of the images (default: ./flowers or ./mnist)")
    return parser.parse_args(argv)


@torch.no_grad()
def estimate_likelihood(
    dataset, posterior: Callable, log_likelihood: Callable, samples: int, seed: int = 0
) -> Estimate:
    """Estimate -log p(x) of all images of a data set with so many samples each, in bounded memory.

    posterior(images, labels) -> (mu, sigma) of q(z|x), each (B, D), and where the prior is not N(0, I) also its mu and
    sigma; log_likelihood(zs (K, B, D), images, labels) -> log p(x|z), (K, B), in nats. Raises UserError where a
    likelihood is not finite.
    """
    estimates = []
    torch.manual_seed(seed)
    starts = progress(range(0, len(dataset), BATCH), "likelihood")
    with warn_of_waiting(dataset.images.device.type):
        for start in starts:
            images, labels = dataset[start : start + BATCH]
            parameters = posterior(images, labels)
            estimates.append(estimate_batch(images, labels, log_likelihood, samples, *parameters))
    return Estimate(*check_finite(torch.cat(estimates, dim=1)))


@torch.no_grad()
def estimate_batch(images, labels, log_likelihood: Callable, samples: int, mu, sigma, *prior) -> torch.Tensor:
    """The three rows of an `Estimate` (3, B) of images (B, ...), from samples of N(mu, sigma^2)."""
    log_sum = mu.new_full((len(mu),), -math.inf)
    distortion = mu.new_zeros(len(mu))
    chunk = max(1, DECODED // images.numel())
    for done in range(0, samples, chunk):
        zs = mu + sigma * torch.randn(min(chunk, samples - done), *mu.shape, device=mu.device)
        log_p = log_likelihood(zs, images, labels)
        log_w = log_p - log_ratio(zs, mu, sigma, *prior)
        log_sum = torch.logaddexp(log_sum, log_w.logsumexp(dim=0))
        distortion -= log_p.sum(dim=0) / samples
    nll = math.log(samples) - log_sum
    q = Normal(mu, sigma, validate_args=False)
    p = Normal(*(prior or (0.0, 1.0)), validate_args=False)
    return torch.stack([nll, distortion, kl_divergence(q, p).sum(dim=1)]).cpu()


def check_finite(nats: torch.Tensor) -> torch.Tensor:
    """The likelihoods, unchanged. Raises UserError where one is not finite."""
    if not nats.isfinite().all():
        raise UserError("the likelihood is not finite: the weights are damaged, train the model again")
    return nats


def densities(model, entry: Entry) -> tuple[Callable, Callable]:
    """(posterior, log_likelihood) of a VAE, as `estimate_likelihood` needs them; of a CVAE for known labels."""
    return photograph_densities(model) if entry.data == "flowers" else digit_densities(model, entry)


def photograph_densities(model) -> tuple[Callable, Callable]:
    """The `densities` of a VAE of the flowers, whose p(x|z) is a Gaussian."""

    def posterior(images, _):
        mu, log_var = model.posterior(images)
        return mu, torch.exp(0.5 * log_var)

    def log_likelihood(zs, images, _):
        flat = zs.flatten(0, 1)
        errors = (model.decode(flat).unflatten(0, zs.shape[:2]) - images).flatten(0, 1)  # (K * B, 3, H, W)
        if isinstance(model, LearnedVariance):
            log_p = model.log_likelihood(errors, model.variances(flat))
        else:
            log_p = -errors.square().flatten(1).sum(dim=1) - errors[0].numel() / 2 * math.log(math.pi)  # variance 1/2
        return log_p.unflatten(0, zs.shape[:2])

    return posterior, log_likelihood


def digit_densities(model, entry: Entry) -> tuple[Callable, Callable]:
    """The `densities` of a VAE or a CVAE of MNIST, whose p(x|z) is a Bernoulli distribution of each pixel."""

    def posterior(images, labels):
        return model.encoder(images, *entry.condition(labels))

    def log_likelihood(zs, images, labels):
        repeated = labels.repeat(len(zs))
        decoded = model.decode(zs.flatten(0, 1), *entry.condition(repeated))
        return log_bernoulli(Losses("bce"), decoded.unflatten(0, zs.shape[:2]), images)

    return posterior, log_likelihood


def log_bernoulli(losses: Losses, decoded: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """log p(x|z), (K, B), of digits (B, 1, 28, 28) whose K latent vectors each are decoded to (K, B, 1, 28, 28)."""
    targets = images.expand_as(decoded)
    nll = losses.reconstruction(decoded.flatten(0, 1), targets.flatten(0, 1))
    return -nll.unflatten(0, decoded.shape[:2])


def find_images(name: str, checkpoint: dict, data: str = "auto", data_root=None) -> tuple[ImageDataset, ImageDataset]:
    """The (training, test) images of a VAE's checkpoint: photographs, or digits, which are binarized for MNIST_IWAE.
    Raises UserError where these are not here."""
    if MODELS[name].data == "flowers":
        return load_photographs(checkpoint, data, data_root)
    datasets = find_digits(checkpoint["data"], data, data_root)
    for dataset in datasets:
        check_images(dataset, checkpoint)
        if name == IWAE:
            dataset.images = binarize(dataset.images)
    return datasets


def find_digits(trained: dict, data: str = "auto", data_root=None) -> tuple[ImageDataset, ImageDataset]:
    """(training digits, test digits) for a checkpoint's data; "auto" is the stand-in where that was trained on."""
    if data == "auto" and is_synthetic(trained) and not data_root:
        data = "synthetic"
    train_loader, _, test_loader = create_mnist_dataloaders(1, data_root, data)
    return train_loader.dataset, test_loader.dataset


def describe_estimate(estimate: Estimate, samples: int, dims: int | None = None) -> list[str]:
    """Lines for the log; dims: numbers of an image, for bits per dimension, where p(x) is a density of grey levels."""
    nll, distortion, rate = (part.double().mean().item() for part in estimate)
    bound = distortion + rate
    nll_line = f"NLL: {describe_mean(estimate.nll)}"
    bound_line = f"Bound: {bound:.2f} = Distortion {distortion:.2f} + Rate {rate:.2f}"
    if dims:
        nll_line += f", {bits_per_dimension(nll, dims):.3f} bits per dimension"
        bound_line += f", {bits_per_dimension(bound, dims):.3f} bits per dimension"
    return [f"{nll_line} (importance weighted, {samples} samples, {len(estimate.nll)} images)", bound_line]


def describe_mean(nats: torch.Tensor) -> str:
    """The mean of images (N,) with its standard error: "86.12 +- 0.21 nats per image"."""
    error = nats.double().std() / len(nats) ** 0.5
    return f"{nats.double().mean().item():.2f} +- {error.item():.2f} nats per image"


def bits_per_dimension(nats: float, dims: int) -> float:
    """The negative log-density of an image in [0, 1]^dims as bits for each of its 256-level numbers: a uniform density
    is 0 nats and 8 bits."""
    return nats / dims / math.log(2) + math.log2(GREY_LEVELS)


def describe_grey(pixels: torch.Tensor) -> str:
    """A line for the log: the meaning of a likelihood of grey pixels (N, ...) in [0, 1], means of Bernoulli variables.

    By Jensen's inequality the mean of log p over binarized digits is not below log of the integral over z of p(z) times
    the exponential of their mean log p(x|z), which is the cross-entropy. No cross-entropy is below the entropy.
    """
    entropy = Bernoulli(probs=pixels.cpu().double()).entropy().sum().item() / len(pixels)
    meaning = "an upper bound on the mean negative log-likelihood of digits binarized with them as probabilities"
    return f"Grey pixels: the NLL is {meaning}; its lower bound is their entropy, {entropy:.2f} nats per image"


def log_subject(dataset: ImageDataset, checkpoint: dict) -> None:
    """Write to the log whose likelihood follows, and under which model."""
    data = checkpoint["data"]
    log(f"Data: {len(dataset)} held-out images of {data['name']}, fingerprint {data['fingerprint']}")
    log(f"Model: {name_model(checkpoint)}")


def main(argv=None):
    """Estimate and log; returns the `Estimate`."""
    args = parse_args(argv)
    entry = MODELS[args.model]
    device = init_distributed(args.device)
    model, checkpoint = load_model(args.model, args.output_root)
    model.to(device, memory_format=torch.contiguous_format)  # MPS computes channels last wrongly
    _, images = find_images(args.model, checkpoint, args.data, args.data_root)
    log_subject(images, checkpoint)
    estimate = estimate_likelihood(images.to(device), *densities(model, entry), args.samples, args.seed)
    dims = images.images[0].numel() if entry.data == "flowers" else None
    lines = describe_estimate(estimate, args.samples, dims)
    if entry.data == "MNIST" and args.model != IWAE:
        lines.append(describe_grey(images[:][0]))
    if entry.needs_labels:
        lines.append("Labels: the likelihood is that of the images given their labels")
    for line in lines:
        log(line)
    return estimate


if __name__ == "__main__":
    run_script(main)
