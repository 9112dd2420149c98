"""What each choice in the flowers' AE and VAE is worth: the training script with one thing changed at a time.

python -m benchmarks.flowers_ablation --seeds 0 1 2             # about a minute for each row and seed
python -m benchmarks.flowers_ablation --models AE --flags=--optimizer=sgd --epochs 60
"""

import argparse
import contextlib
import sys
from unittest import mock

import torch
from torch import nn
from torch.optim.lr_scheduler import ConstantLR

import Autoencoder
import train_script
import VarAutoencoder
from benchmarks.tools import train_quietly
from common.flags import natural_int, positive_int
from train_script import TRAININGS

initialise = Autoencoder.initialise
build_encoder = Autoencoder.build_encoder


def without_pairs(stack, last_gain):
    """Orthogonal weights of the same gains, each channel for itself."""
    layers = [layer for layer in stack if isinstance(layer, (nn.Linear, nn.Conv2d))]
    for layer in layers:
        nn.init.orthogonal_(layer.weight, last_gain if layer is layers[-1] else 2**0.5)
        nn.init.zeros_(layer.bias)


def first_bias_zero(*args):
    """Our encoder with the first bias at zero."""
    encoder = build_encoder(*args)
    nn.init.zeros_(encoder[0].bias)
    return encoder


def constant(name, parameters, *_):
    """Adam at 1e-3 throughout, as usual examples have it."""
    optimizer = torch.optim.Adam(parameters, 1e-3)
    return optimizer, ConstantLR(optimizer, factor=1.0)


def patch(function, replacement):
    """A context in which the module of a function holds another in its place."""
    return mock.patch.object(sys.modules[function.__module__], function.__name__, replacement)


WITHOUT_DECAY = {name: TRAININGS[name]._replace(weight_decay=0.0) for name in ("AE", "VAE")}
VARIANTS = {
    "ours": contextlib.nullcontext(),
    "PyTorch's default weights, our biases": patch(initialise, lambda stack, last_gain: None),
    "orthogonal weights without pairs": patch(initialise, without_pairs),
    "gain √2 in the last layers as well": patch(initialise, lambda stack, last_gain: initialise(stack, 2**0.5)),
    "first bias zero": patch(build_encoder, first_bias_zero),
    "images not mirrored": mock.patch.object(train_script, "mirror", lambda images: images),
    "no weight decay": mock.patch.dict(TRAININGS, WITHOUT_DECAY),
    "Adam at a constant 1e-3": patch(train_script.build_optimizer, constant),
    "log_var starts at 0": mock.patch.object(VarAutoencoder, "INITIAL_LOG_VAR", 0.0),
}


def main(argv=None):
    """Print a row for each variant, model and seed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", choices=["AE", "VAE"], nargs="+", default=["AE", "VAE"])
    parser.add_argument("--variants", choices=list(VARIANTS), nargs="+", default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--seeds", type=natural_int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=positive_int, help="default: the script's")
    parser.add_argument("--flags", action="append", default=[], help="more flags of train_script.py")
    args = parser.parse_args(argv)
    flags = ["--epochs", args.epochs, *args.flags] if args.epochs else args.flags
    print("| what is changed | model | seed | train | valid |\n|---|---|---|---|---|")
    for name in args.variants:
        for model in args.models:
            for seed in args.seeds:
                with VARIANTS[name]:
                    best = train_quietly(train_script.main, "--model", model, "--seed", seed, *flags)
                print(
                    f"| {name} | {model} | {seed} | {best['train_loss']:.4g} | {best['valid_loss']:.4g} |", flush=True
                )


if __name__ == "__main__":
    main()
