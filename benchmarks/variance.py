"""Why the VAE's flowers are blurred: the decoder's variance of 1/2, and the prior that its latent vectors do not have.

    python benchmarks/variance.py --output-root DIR     # trains `--variance learned` there, two minutes

Reconstructions and random images of the trained VAE (variance 1/2) and of one whose variance is learned, z from N(0, I)
and from a mixture that fits samples of q(z|x) of the training photographs; the images are means of p(x|z). Prints the
mean squared errors and, of random images, the kernel distance of `random_generation.py --score`; plots
vis/variance_VAE.png.
"""

import argparse
import contextlib
from pathlib import Path

import common  # noqa: F401  (the path of the scripts)
import torch

import train_script
from data import create_flower_dataloaders
from evaluation.measures import PatchFeatures, kernel_distance
from evaluation.models import load_model, three_digits
from evaluation.sampling import decode, encode, fit_prior, sample_latents
from evaluation.score import SEEDS, describe
from training import PROJECT, UserError
from training.figures import plot_samples

SHOWN = 10
PRIORS = {"normal": "N(0, I)", "gmm": "fitted mixture"}


def load_learned(root: Path):
    """The VAE with the learned variance, trained where it is not there."""
    with contextlib.suppress(UserError):
        model, _ = load_model("VAE", root)
        if model.learns_variance:
            return model
    train_script.main(["--model", "VAE", "--variance", "learned", "--data", "real", "--output-root", str(root)])
    return load_model("VAE", root)[0]


def main(argv=None):
    """Print the figures and plot the images."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output-root", type=Path, required=True, help="where the learned one is, or will be")
    args = parser.parse_args(argv)
    train, held_out = (loader.dataset[:][0] for loader in create_flower_dataloaders(16, data="real"))
    models = {"variance 1/2": load_model("VAE", PROJECT)[0], "learned variance": load_learned(args.output_root)}
    features, rows = PatchFeatures(train), {"held-out photographs": held_out}
    expected = features(held_out)
    for name, model in models.items():
        images = decode(model, encode(model, held_out))
        error = three_digits((images - held_out).square().mean().item())
        rows[f"{name},\nreconstruction:\nerror {error}"] = images
    for name, model in models.items():
        codes = encode(model, train, seed=0)
        for sampler, prior in PRIORS.items():
            fitted = fit_prior(sampler, codes)
            sets = [decode(model, sample_latents(fitted, len(held_out), seed)) for seed in range(SEEDS)]
            distance = describe([kernel_distance(features(images), expected) for images in sets])
            rows[f"{name},\n{prior}:\ndistance {distance}"] = sets[0]
    for label in rows:
        print(label.replace("\n", " "))
    title = "The VAE of the flowers: reconstructions of photographs, and random images with their kernel distance,\n"
    title += "for two variances of p(x|z) and two distributions of z"
    images = torch.cat([row[:SHOWN] for row in rows.values()]).numpy()
    plot_samples(images, PROJECT / "vis" / "variance_VAE.png", title, SHOWN, list(rows))


if __name__ == "__main__":
    main()
