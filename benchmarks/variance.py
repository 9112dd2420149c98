"""Why the VAE's flowers are blurred: the decoder's variance of 1/2, and the prior that its latent vectors do not have.

    python -m benchmarks.variance --output-root DIR     # trains VAE_learned there, three minutes

Reconstructions and random images of the trained VAE (variance 1/2) and of one whose variance is learned, z from N(0, I)
and from a mixture that fits samples of q(z|x) of the training photographs; the images are means of p(x|z). Prints the
mean squared errors and, of random images, the kernel distance of `python -m beyond.score`; plots vis/variance_VAE.png.
"""

import argparse
from pathlib import Path

import torch

from beyond.measures import ImageFeatures, kernel_distance
from beyond.priors import SAMPLERS, fit_prior, sample_latents, sample_posterior
from beyond.score import SEEDS, mean_and_error
from beyond.variance import main as train
from common import PROJECT
from common.figures import plot_samples
from data import create_flower_dataloaders
from trained.loading import load_model, three_digits
from trained.sampling import decode, encode

SHOWN = 10  # images per row


def main(argv=None):
    """Print the figures and plot the images."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output-root", type=Path, required=True, help="where VAE_learned is, or will be")
    args = parser.parse_args(argv)
    if not (args.output_root / "models" / "BestModel_VAE_learned.pth").exists():
        train(["--data", "real", "--output-root", str(args.output_root)])
    models = {
        "variance 1/2": load_model("VAE", PROJECT)[0],
        "learned variance": load_model("VAE_learned", args.output_root)[0],
    }
    training, held_out = (loader.dataset[:][0] for loader in create_flower_dataloaders(16, data="real"))
    rows = {"held-out photographs": held_out}
    for name, model in models.items():
        images = decode(model, encode(model, held_out))
        error = three_digits((images - held_out).square().mean().item())
        rows[f"{name},\nreconstruction:\nerror {error}"] = images
    features = ImageFeatures(training)
    held_out_features = features(held_out)
    for name, model in models.items():
        codes = sample_posterior(model, training, seed=0)
        for sampler in ("normal", "gmm"):
            prior = fit_prior(sampler, codes)
            sets = [decode(model, sample_latents(prior, len(held_out), seed)) for seed in range(SEEDS)]
            distance = mean_and_error([kernel_distance(features(images), held_out_features) for images in sets])
            rows[f"{name},\n{SAMPLERS[sampler]}:\ndistance {distance}"] = sets[0]
    for label in rows:
        print(label.replace("\n", " "))
    title = "The VAE of the flowers: reconstructions of photographs, and random images with their kernel distance,\n"
    title += "for two variances of p(x|z) and two distributions of z"
    images = torch.cat([images[:SHOWN] for images in rows.values()]).numpy()
    plot_samples(images, PROJECT / "vis" / "variance_VAE.png", title, SHOWN, list(rows))


if __name__ == "__main__":
    main()
