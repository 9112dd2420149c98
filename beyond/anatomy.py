"""What the bound of a trained VAE consists of, and what it lacks to the likelihood.

    python -m beyond.anatomy --model MNIST_VAE      # 5 minutes; also: MNIST_CVAE, MNIST_IWAE, VAE, VAE_learned

Hoffman & Johnson (2016): with the aggregate posterior q(z), the mean of q(z|x) over the images, the mean rate is

    E KL(q(z|x) || p(z)) = I(x; z) + KL(q(z) || p(z)).

I(x; z) is estimated from N held-out images, with the mean of their q(z|x) as q(z). That is too low, and at most log N.
So both terms are bracketed: for any density r, E log r(z) / p(z) is at most KL(q(z) || p(z)). For an r fitted to the
training images it is what the bound gains where r is the prior instead of p.

Cremer, Li & Duvenaud (2018, equation 6): log p(x) exceeds the bound by the approximation gap, which the best diagonal
Gaussian for x leaves, and by the amortisation gap between that one and the encoder's.
"""

import math

import torch
from torch.distributions import Normal, kl_divergence

from beyond.likelihood import VAES, densities, describe_mean, estimate_batch, find_images, log_subject
from beyond.priors import SAMPLERS, fit_prior
from common.flags import add_data_flags, make_parser, natural_int
from common.process import log, progress, run_script
from trained.loading import load_model
from trained.registry import MODELS
from trained.sampling import BATCH

COUNT = 100  # images whose q is optimised
STEPS = 500  # of the optimisation
DRAWS = 5  # samples of each q in a step
STEP_SIZE = 0.03  # at first; it falls to 0
SAMPLES = 5000  # of each q, to estimate bounds and log p(x)
ACTIVE = 0.01  # the least variance of a latent's mean that is called active
CHUNK = 250  # images whose z are compared with all q(z|x) at once


def parse_args(argv=None):
    """The flags."""
    parser = make_parser("Take the bound of a trained VAE apart.", module="beyond.anatomy")
    parser.add_argument("--model", choices=VAES, required=True, help="whose bound")
    parser.add_argument("--seed", metavar="N", type=natural_int, default=0, help="of the samples")
    add_data_flags(parser, "folder of the images (default: ./flowers or ./mnist)")
    return parser.parse_args(argv)


@torch.no_grad()
def posteriors(posterior, dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """mu and sigma of q(z|x), each (N, D), of all images of a data set."""
    pairs = [posterior(*dataset[start : start + BATCH]) for start in range(0, len(dataset), BATCH)]
    mus, sigmas = zip(*pairs, strict=True)
    return torch.cat(mus).double(), torch.cat(sigmas).double()  # double: small sigmas make large numbers cancel


def information(zs: torch.Tensor, mu: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """log q(z_n|x_n) - log 1/N sum over m of q(z_n|x_m) of a sample z_n of each q(z|x_n): (N,), in nats.

    zs, mu and sigma: (N, D). The mean is not above I(x; z), and not above log N (Poole et al. 2019).
    """
    precision = sigma.pow(-2)
    constant = (precision * mu.square() + 2 * sigma.log()).sum(dim=1)
    rows = []
    for start in range(0, len(zs), CHUNK):
        z = zs[start : start + CHUNK]
        log_q = z @ (precision * mu).T - 0.5 * (z.square() @ precision.T + constant)  # (CHUNK, N), up to a constant
        rows.append(log_q.diagonal(start) - log_q.logsumexp(dim=1) + math.log(len(mu)))
    return torch.cat(rows)


def describe_latents(mu: torch.Tensor, sigma: torch.Tensor) -> str:
    """The number of active latents, whose mean varies over the images by more than ACTIVE (Burda et al. 2016, section
    5.2), and the mean KL of each latent, in nats, from the largest on."""
    active = (mu.var(dim=0) > ACTIVE).sum().item()
    kl = kl_divergence(Normal(mu, sigma), Normal(0.0, 1.0)).mean(dim=0).sort(descending=True).values
    return f"{active} of {len(kl)} active, KL {' '.join(f'{nats:.2f}' for nats in kl)}"


def gain(prior, zs: torch.Tensor) -> torch.Tensor:
    """log r(z) - log p(z) of latent vectors (N, D) for a prior r and p = N(0, I): (N,), in nats."""
    return prior.log_prob(zs) - Normal(0.0, 1.0).log_prob(zs).sum(dim=1)


def optimise(log_likelihood, images, labels, mu: torch.Tensor, sigma: torch.Tensor):
    """mu and sigma, each (B, D), of the diagonal Gaussians with the best bounds; the search starts at mu and sigma."""
    mu = mu.clone().requires_grad_()
    log_sigma = sigma.log().requires_grad_()
    optimizer = torch.optim.Adam([mu, log_sigma], STEP_SIZE)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS)
    for _ in progress(range(STEPS), "optimised q"):
        sigma = log_sigma.exp()
        zs = mu + sigma * torch.randn(DRAWS, *mu.shape)
        recon = -log_likelihood(zs, images, labels).mean(dim=0)
        loss = (recon + kl_divergence(Normal(mu, sigma), Normal(0.0, 1.0)).sum(dim=1)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return mu.detach(), log_sigma.detach().exp()


def describe_rate(posterior, training, held_out) -> list[str]:
    """Lines for the log: the rate of held-out images and its parts."""
    mu, sigma = posteriors(posterior, held_out)
    zs = mu + sigma * torch.randn_like(mu)
    rate = kl_divergence(Normal(mu, sigma), Normal(0.0, 1.0)).sum(dim=1)
    lowest = information(zs, mu, sigma)
    lines = [f"Latents: {describe_latents(mu, sigma)}"]
    lines.append(f"Rate: {describe_mean(rate)} = I(x; z) + KL(q(z) || p(z))")
    mu, sigma = posteriors(posterior, training)
    codes = mu + sigma * torch.randn_like(mu)
    gains = {sampler: gain(fit_prior(sampler, codes), zs) for sampler in ("gaussian", "gmm")}
    for sampler, nats in gains.items():
        lines.append(f"KL(q(z) || p(z)): at least {describe_mean(nats)}, the gain of {SAMPLERS[sampler]} as the prior")
    most = (rate - max(gains.values(), key=torch.mean)).mean()
    cap = f"log {len(zs)} = {math.log(len(zs)):.2f}"
    lines.append(f"I(x; z): at least {describe_mean(lowest)} (it cannot exceed {cap}), at most {most:.2f}")
    return lines


def measure_gaps(posterior, log_likelihood, images, labels) -> dict[str, torch.Tensor]:
    """{quantity: nats of each image (B,)}: the two bounds, the likelihood, by either q, and the two gaps."""
    with torch.no_grad():
        mu, sigma = posterior(images, labels)
    best = optimise(log_likelihood, images, labels, mu, sigma)
    nll, *parts = estimate_batch(images, labels, log_likelihood, SAMPLES, mu, sigma)
    best_nll, *best_parts = estimate_batch(images, labels, log_likelihood, SAMPLES, *best)
    bound = sum(parts)
    best_bound = sum(best_parts)
    return {
        "Bound with the encoder's q": bound,
        "Bound with the optimised q": best_bound,
        "NLL by the encoder's q": nll,
        "NLL by the optimised q": best_nll,
        "Amortisation gap": bound - best_bound,
        "Approximation gap": best_bound - best_nll,
    }


def main(argv=None):
    """Measure and log; returns what `measure_gaps` does."""
    args = parse_args(argv)
    model, checkpoint = load_model(args.model, args.output_root)
    model.requires_grad_(False)
    posterior, log_likelihood = densities(model, MODELS[args.model])
    training, held_out = find_images(args.model, checkpoint, args.data, args.data_root)
    log_subject(held_out, checkpoint)
    torch.manual_seed(args.seed)
    for line in describe_rate(posterior, training, held_out):
        log(line)
    gaps = measure_gaps(posterior, log_likelihood, *held_out[:COUNT])
    for quantity, nats in gaps.items():
        log(f"{quantity}, {len(nats)} images: {describe_mean(nats)}")
    return gaps


if __name__ == "__main__":
    run_script(main)
