"""MNIST: pictures of a trained AE, VAE or CVAE, without training.

    python -m beyond.digits --model CVAE --labels 2 0 2 6       # these digits, in several styles; needs no data
    python -m beyond.digits --model AE --sampler gmm            # latent vectors from a fitted mixture
    python -m beyond.digits --model VAE                         # the pictures of main.py again

The first writes vis/mnist_CVAE_labels.png, the second vis/mnist_<M>_samples_<sampler>.png; the third also writes, of a
VAE with two latents, vis/mnist_VAE_manifold.png.
"""

from pathlib import Path

import torch
from torch.distributions import Normal

from beyond.likelihood import find_digits
from beyond.priors import SAMPLERS, fit_prior, sample_latents
from common.figures import plot_samples
from common.flags import MNIST_HELP, add_data_flags, make_parser, natural_int, number
from common.process import run_script
from datasets.images import ImageDataset, choose_output_root
from main import BETAS, SAMPLES, picture_path, plot_pictures, plot_random_digits, random_latents, title_of
from model import CLASSES, sample
from trained.loading import check_images, load_model, plot_loss_curves
from trained.registry import MODELS
from trained.sampling import BATCH, check_finite, decode

FITTED_TO = 10_000  # training digits; more would take longer and change little
STYLES = 5  # rows for --labels
SIDE = 20  # digits of the manifold, in each direction

digit = number(int, "a digit from 0 to 9", lambda value: 0 <= value <= 9)


def parse_args(argv=None):
    """The flags."""
    parser = make_parser("Plot what a trained model of MNIST does.", module="beyond.digits")
    parser.add_argument("--model", choices=BETAS, required=True, help="whose checkpoint to plot")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--labels", metavar="DIGIT", type=digit, nargs="+", help="digits to write, for the CVAE")
    group.add_argument("--sampler", choices=SAMPLERS, help="distribution of latent vectors for random digits")
    parser.add_argument("--seed", metavar="N", type=natural_int, default=0, help="of the random numbers")
    add_data_flags(parser, MNIST_HELP)
    args = parser.parse_args(argv)
    if args.labels and args.model != "CVAE":
        parser.error(f"argument --labels: the {args.model} knows no labels; use --model CVAE")
    return args


def plot_labels(model, checkpoint: dict, labels: list[int], seed: int, path: Path) -> None:
    """Plot rows of these digits, each row with one latent vector: one style."""
    styles = random_latents(checkpoint, seed)[:STYLES]
    zs = styles.repeat_interleave(len(labels), dim=0)
    ys = torch.tensor(labels).repeat(STYLES)
    title = f"{title_of(checkpoint)}, trained on {checkpoint['data']['name']}: z from N(0, 1), seed {seed}, one per row"
    plot_samples(decode(model, zs, ys).numpy(), path, title, columns=len(labels))


def fit_digits(sampler: str, model, checkpoint: dict, train_set: ImageDataset, seed: int):
    """The distribution of latent vectors of that name, fitted to those of training digits; a VAE's are samples of
    q(z|x), which together are a sample of the aggregate posterior."""
    entry = MODELS[checkpoint["model"]]
    torch.manual_seed(seed)
    codes = []
    with torch.no_grad():
        for start in range(0, min(FITTED_TO, len(train_set)), BATCH):
            images, labels = train_set[start : start + BATCH]
            code = model.encoder(images, *entry.condition(labels))
            codes.append(sample(*code) if entry.variational else code)
    return fit_prior(sampler, check_finite(codes))


def plot_sampler(sampler: str, model, checkpoint: dict, train_set: ImageDataset, seed: int, root: Path) -> None:
    """Plot random digits whose latent vectors come from a fitted distribution; for the CVAE, the same in each row."""
    prior = fit_digits(sampler, model, checkpoint, train_set, seed)
    zs = sample_latents(prior, SAMPLES, seed)
    if MODELS[checkpoint["model"]].needs_labels:
        zs = zs[: SAMPLES // CLASSES].repeat(CLASSES, 1)
    path = picture_path(root, checkpoint, f"samples_{sampler}")
    plot_random_digits(model, checkpoint, zs, path, f"z from {SAMPLERS[sampler]}, seed {seed}")


def make_manifold(side: int) -> torch.Tensor:
    """Latent vectors (side^2, 2) on a grid, as dense as those of N(0, I) (Kingma & Welling 2014, figure 4)."""
    quantiles = Normal(0.0, 1.0).icdf(torch.linspace(0.02, 0.98, side))
    return torch.cartesian_prod(-quantiles, quantiles).flip(1)  # the first goes to the right, the second up


def plot_manifold(model, checkpoint: dict, path: Path) -> None:
    """Plot the digits of a grid over the plane of two latents."""
    title = f"{title_of(checkpoint)}, trained on {checkpoint['data']['name']}"
    title += ": z at evenly spaced quantiles of N(0, 1)"
    plot_samples(decode(model, make_manifold(SIDE)).numpy(), path, title, columns=SIDE)


def main(argv=None):
    """Plot what the flags ask for; returns the history of the training."""
    args = parse_args(argv)
    root = args.output_root
    model, checkpoint = load_model(f"MNIST_{args.model}", root)
    if args.labels:
        plot_labels(model, checkpoint, args.labels, args.seed, picture_path(root, checkpoint, "labels"))
        return checkpoint["history"]
    train_set, test_set = find_digits(checkpoint["data"], args.data, args.data_root)
    if args.sampler:
        check_images(train_set, checkpoint)
        plot_sampler(args.sampler, model, checkpoint, train_set, args.seed, root)
        return checkpoint["history"]
    plot_loss_curves(checkpoint, root)
    plot_pictures(model, checkpoint, test_set, choose_output_root(root, test_set.info, checkpoint["data"]), args.seed)
    if args.model == "VAE" and checkpoint["config"]["latent_size"] == 2:
        plot_manifold(model, checkpoint, picture_path(root, checkpoint, "manifold"))
    return checkpoint["history"]


if __name__ == "__main__":
    run_script(main)
