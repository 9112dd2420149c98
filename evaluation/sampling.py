"""New images from the trained models, and the distributions that their latent vectors are sampled from.

    images = decode(vae, sample_latents(standard_normal(64), count=60, seed=0))     # (60, 3, 24, 24) in [0, 1]
    images = decode(ae, sample_latents(fit_prior("gmm", codes), 60, seed=0))
    images = sample_diffusion(ddpm, count=60, seed=0)

All on the CPU, where `load_model` puts models; the seed alone determines the samples.
"""

import warnings

import torch
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal
from tqdm import tqdm

from training import UserError
from training.script import warn_of_waiting
from VarAutoencoder import reparameterise

BATCH = 256  # images at once
COMPONENTS = 10  # of the mixture


@torch.no_grad()
def encode(model, images: torch.Tensor, seed: int | None = None) -> torch.Tensor:
    """The codes (N, D) of images (N, 3, H, W): an AE's, or a VAE's mu; with a seed, a sample of each q(z|x) instead:
    together they are one of the aggregate posterior, which a prior is to fit."""
    if not model.is_dist or seed is None:
        return _check_finite(model, [model.encoder(batch) for batch in images.split(BATCH)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _check_finite(model, [reparameterise(*model.encode(batch)) for batch in images.split(BATCH)])


@torch.no_grad()
def decode(model, latents: torch.Tensor) -> torch.Tensor:
    """Latent vectors (N, D) -> images (N, 3, H, W) in [0, 1], of an AE, a VAE or a GAN."""
    return _check_finite(model, [model.decode(batch) for batch in latents.split(BATCH)])


def sample_latents(prior, count: int, seed: int) -> torch.Tensor:
    """`count` latent vectors from a distribution: (count, D)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return prior.sample((count,)).float()


def sample_diffusion(model, count: int, seed: int, label: int | None = None, **options) -> torch.Tensor:
    """Images (count, 3, H, W) of a diffusion model; without a label the classes come as often as in its class prior.
    The options are those of `Diffusion.sample`."""
    noise, labels = noise_and_labels(model, count, seed, label)
    pairs = list(zip(noise.split(BATCH), labels.split(BATCH), strict=True))
    bar = tqdm(pairs, "DDPM samples", unit="batch", disable=None, leave=False)
    with warn_of_waiting("cpu"):
        return _check_finite(model, [model.sample(*pair, **options) for pair in bar])


def denoising(model, frames: int, seed: int, label: int, **options) -> torch.Tensor:
    """How an image of a diffusion model comes into being: (2 * frames, 3, H, W) in [0, 1], x_t at so many of the steps,
    then what the model predicts from each."""
    steps = list(model.denoise(*noise_and_labels(model, 1, seed, label), **options))
    chosen = [steps[round(step)] for step in torch.linspace(0, len(steps) - 1, frames).tolist()]
    states, predictions = (torch.cat(part) for part in zip(*chosen, strict=True))
    return torch.cat([states.clamp(0, 1), predictions])


def noise_and_labels(model, count: int, seed: int, label: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """What a diffusion model makes images of: noise from N(0, I) (count, 3, H, W), and labels (count,)."""
    generator = torch.Generator().manual_seed(seed)
    noise, prior = torch.randn(count, *model.image_shape, generator=generator), torch.tensor(model.class_prior)
    if label is not None:
        return noise, torch.full((count,), label)
    return noise, torch.multinomial(prior, count, replacement=True, generator=generator)


def denoise_diffusion(model, count: int, seed: int, label: int | None = None, guidance: float = 1.0):
    """The images of `sample_diffusion`, at most BATCH of them, as they come about: yields (count, 3, H, W) a step."""
    for _, images in model.denoise(*noise_and_labels(model, count, seed, label), guidance=guidance):
        yield _check_finite(model, [images])


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
    """A mixture of Gaussians, fitted to codes (N, D) by variational inference (Bishop 2006, section 10.2).

    A component may have fewer codes than its covariance has numbers; the prior counts as D more, spread like all codes.
    Raises UserError for fewer than two codes.
    """
    if len(codes) < 2:
        raise UserError(f"expected 2 or more images to fit a mixture to, found {len(codes)}")
    mixture = BayesianGaussianMixture(
        n_components=min(COMPONENTS, len(codes)),
        weight_concentration_prior_type="dirichlet_distribution",
        covariance_prior=codes.shape[1] * _covariance(codes).numpy(),
        init_params="k-means++",
        max_iter=200,
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 200 steps are near enough
        fitted = mixture.fit(codes.double().numpy())
    weights, means, covariances = map(torch.from_numpy, (fitted.weights_, fitted.means_, fitted.covariances_))
    return MixtureSameFamily(Categorical(weights), MultivariateNormal(means, covariances))


def _covariance(codes):
    codes = codes.double()
    covariance = codes.T.cov(correction=0).reshape(codes.shape[1], -1)
    ridge = 1e-6 * (1 + covariance.diagonal().mean())  # there may be fewer codes than dimensions
    return covariance + ridge * torch.eye(len(covariance), dtype=covariance.dtype)


def _check_finite(model, batches):
    """The batches as one tensor. Raises UserError where finite weights made of it what is not."""
    tensor = torch.cat(batches)
    if not tensor.isfinite().all():
        raise UserError(
            f"what {model.name} makes is not finite: use a smaller --temperature or --guidance,"
            " or train it anew, its weights are damaged"
        )
    return tensor


def project(codes: torch.Tensor) -> torch.Tensor:
    """Latent vectors (N, D) to their first two principal components (N, 2), where they have more than two numbers."""
    dims = codes.shape[1]
    if dims <= 2:
        return torch.nn.functional.pad(codes, (0, 2 - dims))
    return torch.from_numpy(PCA(2, svd_solver="full").fit_transform(codes.double().numpy()))


def interpolate(codes: torch.Tensor, steps: int) -> torch.Tensor:
    """Latent vectors (2 N, D), in pairs, to those on the straight lines between them: (N * steps, D)."""
    starts, ends = codes[::2, None], codes[1::2, None]  # (N, 1, D)
    return (starts + torch.linspace(0, 1, steps)[:, None] * (ends - starts)).flatten(0, 1)


def between(images: torch.Tensor, walks: torch.Tensor) -> torch.Tensor:
    """Images (2 N, ...), in pairs, at the ends of what leads from the one to the other, walks (N * steps, ...):
    (N * (steps + 2), ...)."""
    pairs = images.unflatten(0, (-1, 2))
    return torch.cat([pairs[:, :1], walks.unflatten(0, (len(pairs), -1)), pairs[:, 1:]], dim=1).flatten(0, 1)


def manifold(side: int) -> torch.Tensor:
    """(side^2, 2) latent vectors on a grid, as densely as N(0, I) has them (Kingma & Welling 2014, figure 4)."""
    quantiles = Normal(0.0, 1.0).icdf(torch.linspace(0.02, 0.98, side))
    return torch.cartesian_prod(-quantiles, quantiles).flip(1)  # the second goes up, the first to the right
