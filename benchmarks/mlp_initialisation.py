"""What the initial weights of the MLP autoencoder are worth: the same training from several starts.

    python -m benchmarks.mlp_initialisation --seeds 0 1 2       # about 40 s for each start and seed

Everything else is the coursework's: plain SGD, batch 16, learning rate 1.0 x 0.9 every 5 epochs, 100 epochs.
"""

import argparse
from unittest import mock

import numpy as np

from benchmarks.tools import train_quietly
from common.flags import natural_int, positive_int
from MLPAE_train_script import MLPAutoencoder, orthogonal
from MLPAE_train_script import main as train

initialise = MLPAutoencoder.initialise


def pytorch_default(model, mean_image):
    """Uniform in ±1/√in_features, weights and biases."""
    for weight, bias in zip(model.params[::2], model.params[1::2], strict=True):
        bound = 1 / np.sqrt(weight.shape[1])
        weight[...] = np.random.uniform(-bound, bound, weight.shape)
        bias[...] = np.random.uniform(-bound, bound, bias.shape)


def variant(pairs: bool = True, centred: bool = True, zero_last: bool = True, gain: float = 2**0.5):
    """Our initial weights with some of the choices left out."""

    def initialise_without(model, mean_image):
        initialise(model, mean_image)
        weights = model.params[::2]
        first_bias = model.params[1]
        for weight in weights:
            if not pairs:
                weight[...] = 2**0.5 * orthogonal(*weight.shape)
            weight *= gain / 2**0.5
        if zero_last:
            weights[-1].fill(0)
        first_bias[...] = -weights[0] @ mean_image if centred else 0

    return initialise_without


VARIANTS = {
    "PyTorch's default": pytorch_default,
    "orthogonal, gain √2, last bias at the mean image": variant(pairs=False, centred=False, zero_last=False),
    "+ last weights zero": variant(pairs=False, centred=False),
    "+ hidden units in antisymmetric pairs": variant(centred=False),
    "+ first bias subtracts the mean image (ours)": initialise,
    "ours, gain 1": variant(gain=1.0),
    "ours, gain 1.7": variant(gain=1.7),
}


def main(argv=None):
    """Print a row for each start and seed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=natural_int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=positive_int, default=100)
    args = parser.parse_args(argv)
    print("| initial weights | seed | train | valid | epoch |\n|---|---|---|---|---|")
    for name, start in VARIANTS.items():
        for seed in args.seeds:
            with mock.patch.object(MLPAutoencoder, "initialise", start):
                best = train_quietly(train, "--seed", seed, "--epochs", args.epochs)
            losses = f"{best['train_loss']:.4f} | {best['valid_loss']:.4f}"
            print(f"| {name} | {seed} | {losses} | {best['epoch']} |", flush=True)


if __name__ == "__main__":
    main()
