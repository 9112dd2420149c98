"""Bits per dimension of the held-out photographs: trained models beside densities that need no network, and files.

    python -m benchmarks.bits --output-root DIR     # 5 minutes; trains VAE_learned there if it is not there

Densities are those of held-out photographs to whose 256 levels uniform noise of one level is added: so no density is
praised for the gaps between the levels, and each figure is an upper bound on the length of a lossless code (Theis et
al. 2016). PNG and WebP are such codes, of all held-out photographs as one mosaic. Covariances are fitted to the
training photographs and their mirror images. Photographs of 48x48 pixels, which the DDPM is for, have fewer bits per
number than those of 24x24.
"""

import argparse
import io
import math
from pathlib import Path

import torch
from PIL import Image
from sklearn.decomposition import PCA
from torch.nn.functional import interpolate

from beyond.likelihood import bits_per_dimension, densities, estimate_likelihood
from beyond.variance import NAME
from beyond.variance import main as train
from common import PROJECT
from data import create_flower_dataloaders
from generators.diffusion import schedule
from generators.unet import TIMESTEPS
from generators.variance import COLOURS, LearnedVariance
from generators.wavelets import pyramid
from trained.loading import load_model
from trained.registry import MODELS
from VarAutoencoder import reparameterise

COMPONENTS = (64, 128, 400)
SHARES = [0.01 * step for step in range(1, 100)]  # of the diagonal in a shrunk covariance
FOLDS = 5
SAMPLES = 100  # of q(z|x)
TIMES = 8  # timesteps for each photograph and stage
FORMATS = {"PNG": {"optimize": True}, "WebP": {"lossless": True, "quality": 100, "method": 6}}
BATCH = 64  # photographs


def dequantise(images: torch.Tensor) -> torch.Tensor:
    """Images in [0, 1] of 256 levels, with noise between their levels."""
    return (255 * images + torch.rand_like(images)) / 256


def mosaic_bits(images: torch.Tensor, file_format: str) -> float:
    """Bits per number of a file with all images, uint8 (N, 3, H, W), in rows of equal length."""
    columns = max(count for count in range(1, math.isqrt(len(images)) + 1) if len(images) % count == 0)
    rows = images.unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2)  # (rows, H, columns, W, 3)
    file = io.BytesIO()
    Image.fromarray(rows.flatten(2, 3).flatten(0, 1).numpy()).save(file, file_format, **FORMATS[file_format])
    return 8 * file.tell() / images.numel()


def shrunk_gaussian_nll(train: torch.Tensor, test: torch.Tensor, shares: list[float]) -> torch.Tensor:
    """-log of the density of test vectors, the mean in nats, for each share s: (len(shares),).

    The Gaussian has the mean of the training vectors (N, D), double, and s times the diagonal of their covariance plus
    1 - s times the whole.
    """
    mean = train.mean(dim=0)
    std = train.std(dim=0)
    train = (train - mean) / std
    values, axes = torch.linalg.eigh(train.T @ train / len(train))  # of the correlations
    squares = ((test - mean) / std @ axes).square().mean(dim=0)
    spectra = [(1 - share) * values + share for share in shares]
    nll = torch.stack([0.5 * (squares / spectrum + spectrum.log()).sum() for spectrum in spectra])
    return nll + std.log().sum() + len(std) / 2 * math.log(2 * math.pi)


def haar_vectors(images: torch.Tensor) -> torch.Tensor:
    """Images (N, 3, H, W) -> their Haar coefficients (N, D), double, which are less correlated than pixels and have the
    same density: the transform is orthonormal."""
    return torch.cat([part.flatten(1) for part in pyramid(images.double())], dim=1)


def with_mirrored(images: torch.Tensor) -> torch.Tensor:
    """Images (N, ...) and the mirror image of each behind it: (2 N, ...)."""
    return torch.stack([images, images.flip(-1)], dim=1).flatten(0, 1)


def choose_share(train: torch.Tensor) -> float:
    """The share of the diagonal with the best mean density of FOLDS held-out parts of the training vectors (2 N, D), of
    which each two belong to one photograph."""
    folds = torch.arange(len(train)) // 2 % FOLDS
    losses = [shrunk_gaussian_nll(train[folds != fold], train[folds == fold], SHARES) for fold in range(FOLDS)]
    return SHARES[sum(losses).argmin()]


@torch.no_grad()
def diffusion_nll(model, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The DDPM's bound on -log p(x, label) of images (B, 3, H, W), in nats: (B,). Haar's transform is orthonormal, so
    the bounds of the stages add up."""
    nll = -torch.tensor(model.class_prior)[labels].log() - images[0].numel() * math.log(2)  # it sees 2 x - 1
    for stage, (x0, condition) in zip(model.stages, model.decompose(2 * images - 1), strict=True):
        nll = nll + stage_nll(stage, x0, condition, labels)
    return nll


def stage_nll(stage, x0: torch.Tensor, condition: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The bound on -log p(x0 | condition, label), in nats: (B,) (Kingma et al. 2021, equation 17, in continuous time).

    Half the integral of the squared error of x0 over alpha^2 / sigma^2 is the integral of that of v over log sigma, as
    alpha^2 + sigma^2 = 1. So log sigma is drawn evenly, from that of timestep 0 to 0.
    """
    x0 = x0 / stage.std[: stage.channels]
    condition = condition / stage.std[stage.channels :]
    alpha, sigma = schedule(torch.zeros(1))
    error = torch.zeros(len(x0))
    for draw in range(TIMES):
        share = (draw + torch.rand(len(x0))) / TIMES
        t = timesteps_of(sigma.flatten() ** share)
        a, s = schedule(t)
        noise = torch.randn_like(x0)
        v = stage.network(torch.cat([a * x0 + s * noise, condition], dim=1), t, labels)
        error += (v - (a * noise - s * x0)).square().flatten(1).sum(dim=1) / TIMES
    first = x0[0].numel() * (0.5 + 0.5 * math.log(2 * math.pi) + torch.log(sigma / alpha))  # of x0 at timestep 0
    scale = stage.std[: stage.channels].log().sum() * x0[0, 0].numel()
    return first.item() + scale - sigma.log().item() * error  # at timestep T nothing of x0 is left


def timesteps_of(sigma: torch.Tensor) -> torch.Tensor:
    """The timesteps (B,) of these sigma (B,): the inverse of `schedule`."""
    return TIMESTEPS * (1.008 * sigma.asin() / (math.pi / 2) - 0.008)


@torch.no_grad()
def standardised_errors(model: LearnedVariance, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(the coefficients of a LearnedVariance's errors, divided by their standard deviations, (N, D), double; what its
    bound has beside their density, in nats: (N,)) for a sample of each q(z|x)."""
    mu, log_var = model.posterior(images)
    z = reparameterise(mu, log_var)
    variances = model.variances(z)
    parts = pyramid(torch.einsum("mc,bchw->bmhw", COLOURS, images - model.decode(z)))
    of_bands = variances.split([part.shape[1] for part in parts], dim=1)
    scales = [interpolate(values.sqrt(), part.shape[2:]) for values, part in zip(of_bands, parts, strict=True)]
    vectors = [(part / scale).flatten(1) for part, scale in zip(parts, scales, strict=True)]
    rest = 0.5 * (mu.square() + log_var.exp() - 1 - log_var).sum(dim=1)
    rest = rest + 0.5 * (model.counts * variances.log()).flatten(1).sum(dim=1)
    return torch.cat(vectors, dim=1).double(), rest


def correlated_row(model: LearnedVariance, training: torch.Tensor, held_out: torch.Tensor) -> tuple[str, float]:
    """(name, nats per image) of a LearnedVariance whose errors have the correlations of the training photographs'."""
    torch.manual_seed(0)
    vectors, _ = standardised_errors(model, with_mirrored(training))
    test, rest = standardised_errors(model, held_out)
    share = choose_share(vectors)
    nats = shrunk_gaussian_nll(vectors, test, [share]).item() + rest.mean().item()
    return f"{NAME}, bound, errors correlated, shrunk by {share:.0%}", nats


def linear_rows(training: torch.Tensor, held_out: torch.Tensor) -> dict[str, float]:
    """{density: nats per image} of probabilistic principal components (Tipping & Bishop 1999), shrunk Gaussian."""
    vectors = haar_vectors(with_mirrored(training))
    test = haar_vectors(held_out)
    rows = {}
    for components in COMPONENTS:
        pca = PCA(components, svd_solver="covariance_eigh").fit(vectors.numpy())
        rows[f"probabilistic PCA, {components} components"] = -pca.score(test.numpy())
    share = choose_share(vectors)
    name = f"full Gaussian, covariance shrunk by {share:.0%} to its diagonal"
    rows[name] = shrunk_gaussian_nll(vectors, test, [share]).item()
    return rows


def main(argv=None):
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output-root", type=Path, required=True, help="where VAE_learned is, or will be")
    args = parser.parse_args(argv)
    if not (args.output_root / "models" / f"BestModel_{NAME}.pth").exists():
        train(["--data", "real", "--output-root", str(args.output_root)])
    print("| held-out photographs | bits per dimension |\n|---|---|\n| uniform density | 8 |")
    training, held_out = (loader.dataset for loader in create_flower_dataloaders(16, data="real"))
    large = create_flower_dataloaders(16, None, 48, 48, "real")[1].dataset
    held_out.transform = large.transform = dequantise
    dims = held_out.images[0].numel()
    for name, root in (("VAE", PROJECT), (NAME, args.output_root)):
        model, _ = load_model(name, root)
        estimate = estimate_likelihood(held_out, *densities(model, MODELS[name]), SAMPLES)
        bound = (estimate.distortion + estimate.rate).mean().item()
        nll = estimate.nll.mean().item()
        print(f"| {name}, bound | {bits_per_dimension(bound, dims):.3f} |")
        print(f"| {name}, {SAMPLES} samples | {bits_per_dimension(nll, dims):.3f} |", flush=True)
    name, nats = correlated_row(model, training[:][0], held_out[:][0])
    print(f"| {name} | {bits_per_dimension(nats, dims):.3f} |", flush=True)
    for name, nats in linear_rows(training[:][0], held_out[:][0]).items():
        print(f"| {name} | {bits_per_dimension(nats, dims):.3f} |", flush=True)
    for size, dataset in (("24x24", held_out), ("48x48", large)):
        for file_format in FORMATS:
            print(f"| {file_format}, one mosaic, {size} | {mosaic_bits(dataset.images, file_format):.3f} |", flush=True)
    model, _ = load_model("DDPM", PROJECT)
    torch.manual_seed(0)
    batches = [large[start : start + BATCH] for start in range(0, len(large), BATCH)]
    nll = torch.cat([diffusion_nll(model, *batch) for batch in batches])
    print(f"| DDPM, bound, 48x48 | {bits_per_dimension(nll.mean().item(), large.images[0].numel()):.3f} |")


if __name__ == "__main__":
    main()
