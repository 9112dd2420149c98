"""Flowers: random images of latent vectors from a distribution that is fitted to those of the training photographs.

    python -m beyond.priors --model AE                      # a mixture of ten Gaussians; also: VAE, VAE_learned
    python -m beyond.priors --model AE --sampler gaussian --n 100 --seed 1
    python -m beyond.priors --model VAE --interpolate       # from one held-out photograph to another

The first two write vis/random_images_<M>_<sampler>.png and vis/samplers_<M>.png, where the samplers are compared; the
last one writes vis/interpolation_<M>.png. All of them read the photographs that the model was trained on.
"""

import warnings
from pathlib import Path

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from beyond.figures import plot_samplers
from common import UserError
from common.figures import plot_samples
from common.flags import add_data_flags, make_parser, natural_int, number, positive_float
from common.process import run_script
from random_generation import GENERATORS, MAX_IMAGES, title_of
from trained.loading import load_model, load_photographs
from trained.registry import MODELS
from trained.sampling import BATCH, add_endpoints, check_finite, decode, encode, interpolate, project
from VarAutoencoder import reparameterise

SAMPLERS = {"normal": "N(0, I)", "gaussian": "a fitted Gaussian", "gmm": "a fitted mixture"}
COMPONENTS = 10  # of the mixture
SHOWN = 10  # images of each sampler side by side
PAIRS = 6  # of photographs, to interpolate between
STEPS = 10  # images of an interpolation


def parse_args(argv=None):
    """The flags."""
    parser = make_parser("Generate images of flowers with fitted priors.", module="beyond.priors")
    autoencoders = [name for name in GENERATORS if MODELS[name].reconstructs]
    parser.add_argument("--model", choices=autoencoders, required=True, help="whose decoder generates")
    group = parser.add_mutually_exclusive_group()
    fitted = [sampler for sampler in SAMPLERS if sampler != "normal"]
    group.add_argument("--sampler", choices=fitted, default="gmm", help="distribution of the latent vectors")
    group.add_argument("--interpolate", action="store_true", help="instead, go from one photograph to another")
    count = number(int, f"a whole number from 1 to {MAX_IMAGES}", lambda value: 1 <= value <= MAX_IMAGES)
    parser.add_argument("--n", metavar="N", type=count, default=60, help="number of random images")
    parser.add_argument("--seed", metavar="N", type=natural_int, default=0, help="of the random numbers")
    text = "factor on the random latent vectors"
    parser.add_argument("--temperature", metavar="X", type=positive_float, default=1.0, help=text)
    add_data_flags(parser)
    args = parser.parse_args(argv)
    if args.interpolate and (args.n, args.seed, args.temperature) != (60, 0, 1.0):
        parser.error("argument --interpolate: not together with --n, --seed or --temperature, its pairs are fixed")
    return args


def fit_prior(sampler: str, codes: torch.Tensor):
    """The distribution of SAMPLERS of that name, fitted to codes (N, D), but for "normal", N(0, I)."""
    if sampler == "normal":
        dims = codes.shape[1]
        return Independent(Normal(torch.zeros(dims), torch.ones(dims)), 1)
    return fit_gaussian(codes) if sampler == "gaussian" else fit_mixture(codes)


def fit_gaussian(codes: torch.Tensor) -> MultivariateNormal:
    """The Gaussian with the mean and the covariance of codes (N, D)."""
    return MultivariateNormal(codes.double().mean(dim=0), covariance(codes))


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
        covariance_prior=codes.shape[1] * covariance(codes).numpy(),
        init_params="k-means++",
        max_iter=200,
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 200 iterations come near enough
        mixture.fit(codes.double().numpy())
    weights = torch.from_numpy(mixture.weights_)
    means = torch.from_numpy(mixture.means_)
    covariances = torch.from_numpy(mixture.covariances_)
    return MixtureSameFamily(Categorical(weights), MultivariateNormal(means, covariances))


def covariance(codes: torch.Tensor) -> torch.Tensor:
    """The covariance (D, D) of codes (N, D), with a ridge: there may be fewer codes than dimensions."""
    centred = codes.double() - codes.double().mean(dim=0)
    matrix = centred.T @ centred / len(codes)
    ridge = 1e-6 * (1 + matrix.diagonal().mean())
    return matrix + ridge * torch.eye(len(matrix), dtype=matrix.dtype)


def sample_latents(prior, count: int, seed: int) -> torch.Tensor:
    """`count` latent vectors (count, D) from a distribution."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return prior.sample((count,)).float()


@torch.no_grad()
def sample_posterior(model, images: torch.Tensor, seed: int) -> torch.Tensor:
    """A sample (N, D) of q(z|x) of a VAE for each of the images (N, 3, H, W): together they are a sample of the
    aggregate posterior, which a prior is to fit."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return check_finite([reparameterise(*model.posterior(batch)) for batch in images.split(BATCH)])


def sample_all(model, checkpoint: dict, codes: torch.Tensor, count: int, seed: int, root: Path) -> dict:
    """Latent vectors of each of the SAMPLERS, {name: (count, D)}, fitted to codes (N, D); plots where they lie and what
    the decoder makes of them."""
    latents = {sampler: sample_latents(fit_prior(sampler, codes), count, seed) for sampler in SAMPLERS}
    points = project(torch.cat([codes, *latents.values()])).split([len(codes), *[count] * len(latents)])
    names = ["training photographs", *(f"z from {text}" for text in SAMPLERS.values())]
    rows = [decode(model, zs[:SHOWN]).numpy() for zs in latents.values()]
    path = root / "vis" / f"samplers_{checkpoint['model']}.png"
    title = f"{title_of(checkpoint)}, seed {seed}"
    plot_samplers(dict(zip(names, points, strict=True)), rows, list(SAMPLERS.values()), path, title)
    return latents


def plot_interpolations(model, checkpoint: dict, held_out, root: Path) -> torch.Tensor:
    """Plot rows of images from one held-out photograph (left) to another (right); returns them (rows * (STEPS + 2), 3,
    H, W). Raises UserError for fewer than two photographs."""
    pairs = min(PAIRS, len(held_out) // 2)
    if pairs == 0:
        raise UserError(f"expected 2 or more held-out images to interpolate between, found {len(held_out)}")
    photographs, _ = held_out[: 2 * pairs]
    walks = decode(model, interpolate(encode(model, photographs), STEPS))
    images = add_endpoints(photographs, walks)
    title = f"{title_of(checkpoint)}: from one held-out image (left) to another (right)"
    title += "\nin equal steps between their latent vectors"
    path = root / "vis" / f"interpolation_{checkpoint['model']}.png"
    plot_samples(images.numpy(), path, title, columns=STEPS + 2)
    return images


def main(argv=None):
    """Generate and plot images; returns them as a tensor (n, 3, H, W)."""
    args = parse_args(argv)
    model, checkpoint = load_model(args.model, args.output_root)
    training, held_out = load_photographs(checkpoint, args.data, args.data_root)
    if args.interpolate:
        return plot_interpolations(model, checkpoint, held_out, args.output_root)
    images, _ = training[:]
    codes = sample_posterior(model, images, args.seed) if MODELS[args.model].variational else encode(model, images)
    latents = sample_all(model, checkpoint, codes, args.n, args.seed, args.output_root)

    images = decode(model, args.temperature * latents[args.sampler])
    path = args.output_root / "vis" / f"random_images_{args.model}_{args.sampler}.png"
    factor = "" if args.temperature == 1 else f", times {args.temperature:g}"
    title = f"{title_of(checkpoint)}: z from {SAMPLERS[args.sampler]}{factor}, seed {args.seed}"
    plot_samples(images.numpy(), path, title)
    return images


if __name__ == "__main__":
    run_script(main)
