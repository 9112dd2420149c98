"""What the initial weights of the MLP autoencoder are worth: the same training from several starts.

    python benchmarks/mlp_initialisation.py --seeds 0 1 2       # about 40 s for each start and seed

Everything else is the coursework's: plain SGD, batch 16, learning rate 1.0 x 0.9 every 5 epochs, 100 epochs.
"""

import argparse
import contextlib
import io
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import MLPAE_train_script as script
from data import create_flower_dataloaders, describe
from training.flags import natural_int, positive_int

ours = script.MLPAutoencoder.initialise


def pytorch_default(model, mean_image):
    """Uniform in ±1/√in_features, weights and biases."""
    for weight, bias in zip(model.params[::2], model.params[1::2], strict=True):
        bound = 1 / np.sqrt(weight.shape[1])
        weight[...] = np.random.uniform(-bound, bound, weight.shape)
        bias[...] = np.random.uniform(-bound, bound, bias.shape)


def variant(pairs=True, centred=True, zero_last=True, gain=2**0.5):
    """Ours, with some of it left out."""

    def initialise(model, mean_image):
        ours(model, mean_image)
        weights, biases = model.params[::2], model.params[1::2]
        for weight in weights:
            if not pairs:
                weight[...] = 2**0.5 * script.orthogonal(*weight.shape)
            weight *= gain / 2**0.5
        if zero_last:
            weights[-1].fill(0)
        biases[0][...] = -weights[0] @ mean_image if centred else 0

    return initialise


VARIANTS = {
    "PyTorch's default": pytorch_default,
    "orthogonal, gain √2, last bias at the mean image": variant(pairs=False, centred=False, zero_last=False),
    "+ last weights zero": variant(pairs=False, centred=False),
    "+ hidden units in antisymmetric pairs": variant(centred=False),
    "+ first bias subtracts the mean image (ours)": ours,
    "ours, gain 1": variant(gain=1.0),
    "ours, gain 1.7": variant(gain=1.7),
}


def main(argv=None):
    """Print a row of the table in benchmarks/results.md for each start."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=natural_int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=positive_int, default=100)
    args = parser.parse_args(argv)
    loaders = create_flower_dataloaders(16)
    print("Data:", describe(*loaders))
    print("| initial weights | seed | train | valid | epoch |\n|---|---|---|---|---|")
    train, valid = (loader.dataset.images.numpy().reshape(len(loader.dataset), -1) / 255 for loader in loaders)
    errors = [((images - train.mean(axis=0)) ** 2).mean() for images in (train, valid)]
    print(f"| (no network: the mean image) | | {errors[0]:.4f} | {errors[1]:.4f} | |")
    for name, initialise in VARIANTS.items():
        script.MLPAutoencoder.initialise = initialise
        for seed in args.seeds:
            quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
            with tempfile.TemporaryDirectory() as folder, quiet[0], quiet[1]:
                flags = ["--output-root", folder, "--seed", str(seed), "--epochs", str(args.epochs)]
                history = script.main(flags)
            best = min(history, key=lambda row: row["valid_loss"])
            print(
                f"| {name} | {seed} | {best['train_loss']:.4f} | {best['valid_loss']:.4f} | {best['epoch']} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
