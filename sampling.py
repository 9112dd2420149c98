"""New pictures from the trained models of the flowers, and the distributions that their latent vectors come from.

    images = decode(vae, draw_latents(standard_normal(64), count=60, seed=0))       # (60, 3, 24, 24) in [0, 1]
    images = decode(ae, draw_latents(fit_prior("gmm", codes), 60, seed=0))
    images = diffuse(ddpm, count=60, seed=0)

All on the CPU, where `load_model` puts models; the seed alone decides what is drawn.
"""

import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal
from tqdm import tqdm

from checkpoints import UserError

BATCH = 256  # pictures at once
COMPONENTS, ROUNDS = 10, 50  # of the mixture, and to fit it


@torch.no_grad()
def encode(model, images: torch.Tensor) -> torch.Tensor:
    """The codes (N, D) of images (N, 3, H, W): what an AE makes of them, or a VAE's mu."""
    return _finite(model, [model.encoder(batch) for batch in images.split(BATCH)])


@torch.no_grad()
def decode(model, latents: torch.Tensor) -> torch.Tensor:
    """Latent vectors (N, D) -> images (N, 3, H, W) in [0, 1], of an AE, a VAE or a GAN."""
    decoder = model.generator if model.name == "GAN" else model.decoder
    return _finite(model, [decoder(batch) for batch in latents.split(BATCH)])


def draw_latents(prior, count: int, seed: int) -> torch.Tensor:
    """`count` latent vectors from a distribution: (count, D)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return prior.sample((count,)).float()


def diffuse(model, count: int, seed: int, label: int | None = None, guidance: float = 1.0) -> torch.Tensor:
    """Images (count, 3, H, W) of a diffusion model; without a label the species come as often as in the photographs.

    guidance: see `Diffusion.sample`.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, *model.image_shape, generator=generator)
    labels = model.draw_labels(count, generator) if label is None else torch.full((count,), label)
    pairs = list(zip(noise.split(BATCH), labels.split(BATCH), strict=True))
    bar = tqdm(pairs, "DDPM draws", unit="batch", disable=None, leave=False)
    return _finite(model, [model.sample(*pair, guidance=guidance) for pair in bar])


def standard_normal(dims: int):
    """N(0, I) of that many dimensions."""
    return Independent(Normal(torch.zeros(dims), torch.ones(dims)), 1)


def fit_prior(sampler: str, codes: torch.Tensor):
    """The distribution of latent vectors that --sampler names, fitted to codes (N, D) but for "normal"."""
    fits = {"normal": lambda codes: standard_normal(codes.shape[1]), "gaussian": fit_gaussian, "gmm": fit_mixture}
    return fits[sampler](codes)


def fit_gaussian(codes: torch.Tensor) -> MultivariateNormal:
    """The Gaussian with the mean and the covariance of codes (N, D)."""
    return MultivariateNormal(codes.double().mean(dim=0), _covariance(codes))


def fit_mixture(codes: torch.Tensor) -> MixtureSameFamily:
    """The mixture of Gaussians that expectation maximisation (Dempster et al. 1977) finds for codes (N, D).

    A component may have fewer codes than its covariance has numbers, so each is given D more, spread like all codes, in
    the manner of Fraley & Raftery (2007).
    """
    count, dims = codes.shape
    components, overall, codes = min(COMPONENTS, count), _covariance(codes), codes.double()
    chosen = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:components]
    weights, means = torch.full((components,), 1 / components), codes[chosen]
    covariances = overall.expand(components, -1, -1)
    for _ in range(ROUNDS):
        log_p = MultivariateNormal(means, covariances).log_prob(codes[:, None]) + weights.log()
        shares = log_p.softmax(dim=1)  # (N, K), of each code in each component
        sizes = shares.sum(dim=0).clamp(min=1e-6)  # (K,); a component may have lost all
        weights, means = sizes / count, shares.T @ codes / sizes[:, None]
        apart = codes[:, None] - means  # (N, K, D)
        scatter = (shares.T[:, None] * apart.permute(1, 2, 0)) @ apart.transpose(0, 1)  # (K, D, D)
        covariances = (scatter + dims * overall) / (sizes + dims)[:, None, None]
    return MixtureSameFamily(Categorical(weights), MultivariateNormal(means, covariances))


def _covariance(codes):
    codes = codes.double()
    spread = codes.T.cov(correction=0).reshape(codes.shape[1], -1)
    ridge = 1e-6 * (1 + spread.diagonal().mean())  # there may be fewer codes than dimensions
    return spread + ridge * torch.eye(len(spread), dtype=spread.dtype)


def _finite(model, batches):
    """The batches as one tensor. Raises UserError where weights, finite themselves, made of it what is not."""
    tensor = torch.cat(batches)
    if not tensor.isfinite().all():
        raise UserError(
            f"what {model.name} makes is not finite: use a smaller --temperature or --guidance,"
            " or train it anew, its weights are damaged"
        )
    return tensor
