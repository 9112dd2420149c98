"""What each choice in the flowers' AE and VAE is worth: the training script with one thing changed at a time.

python benchmarks/flowers_ablation.py --seeds 0 1 2         # about a minute for each row and seed
python benchmarks/flowers_ablation.py --models AE --flags=--optimizer=sgd --epochs 60
"""

import argparse
import contextlib
import io
import sys
import tempfile
from pathlib import Path
from unittest import mock

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import Autoencoder
import train_script
import VarAutoencoder
from training.flags import natural_int, positive_int

initialise, build_decoder = Autoencoder.initialise, Autoencoder.build_decoder
build_encoder, build_optimizer = Autoencoder.build_encoder, train_script.build_optimizer
build_learner = train_script.build_learner
create_flower_dataloaders = train_script.create_flower_dataloaders


def without_pairs(stack, last_gain):
    """Orthogonal weights of the same gains, each channel for itself."""
    layers = [layer for layer in stack if isinstance(layer, (nn.Linear, nn.Conv2d))]
    for layer in layers:
        nn.init.orthogonal_(layer.weight, last_gain if layer is layers[-1] else 2**0.5)
        nn.init.zeros_(layer.bias)


def averaged_learner(*args):
    """Our learner, validated with a moving average of the weights over about 100 steps."""
    learner = build_learner(*args)
    learner.averaged = AveragedModel(learner.model, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    learner.saved = learner.averaged.module
    return learner


def no_grey(*args):
    """Our encoder with the first bias at zero."""
    encoder = build_encoder(*args)
    nn.init.zeros_(encoder[0].bias)
    return encoder


def transposed_decoder(*args):
    """Our decoder with transposed convolutions (kernel 4, stride 2) for upsampling and convolution."""
    layers = [nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ConvTranspose2d(32, 3, 4, 2, 1)]
    for layer, paired_out, gain in zip(layers, (True, False), (2**0.5, 0.1), strict=True):
        rows, columns = layer.out_channels // (1 + paired_out), layer.in_channels // 2
        block = nn.init.orthogonal_(torch.empty(rows, columns, 4, 4), 2 * gain)  # a pixel sees a quarter of the kernel
        block = torch.cat([block, -block], dim=1)
        with torch.no_grad():
            layer.weight.copy_((torch.cat([block, -block]) if paired_out else block).transpose(0, 1))
            layer.bias.zero_()
    return nn.Sequential(*build_decoder(*args)[:5], layers[0], nn.ReLU(), layers[1], nn.Sigmoid())


def optimizer_with(**settings):
    """Our optimizer with some of its settings changed."""

    def build(*args):
        optimizer, scheduler = build_optimizer(*args)
        optimizer.param_groups[0].update(settings)
        return optimizer, scheduler

    return build


def cosine(args, parameters, steps_per_epoch):
    """One-cycle with cosines in place of straight lines."""
    optimizer, _ = build_optimizer(args, parameters, steps_per_epoch)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, args.epochs * steps_per_epoch)


def constant(args, parameters, steps_per_epoch):
    """Adam at 1e-3 throughout, as usual examples have it."""
    optimizer = torch.optim.Adam(parameters, 1e-3)
    return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)


def patch(function, replacement):
    """A context in which the module of a function holds another in its place."""
    return mock.patch.object(sys.modules[function.__module__], function.__name__, replacement)


VARIANTS = {
    "**ours**": [],
    "PyTorch's default weights, our biases": [patch(initialise, lambda stack, last_gain: None)],
    "orthogonal weights without pairs": [patch(initialise, without_pairs)],
    "gain √2 in the last layers as well": [patch(initialise, lambda stack, last_gain: initialise(stack, 2**0.5))],
    "first bias zero": [patch(build_encoder, no_grey)],
    "transposed convolutions": [patch(build_decoder, transposed_decoder)],
    "images not mirrored": [mock.patch.object(train_script, "mirror", lambda images: images)],
    "no weight decay": [patch(build_optimizer, optimizer_with(weight_decay=0.0))],
    "Adam's beta2 0.999": [patch(build_optimizer, optimizer_with(betas=(0.95, 0.999)))],
    "cosines in the one-cycle schedule": [patch(build_optimizer, cosine)],
    "Adam at a constant 1e-3": [patch(build_optimizer, constant)],
    "validated with averaged weights": [patch(build_learner, averaged_learner)],
    "log_var starts at 0": [mock.patch.object(VarAutoencoder, "INITIAL_LOG_VAR", 0.0)],
}


def train(flags, patches):
    """The best row of the history of one training run."""
    quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        for context in (*quiet, *patches):
            stack.enter_context(context)
        history = train_script.main([*flags, "--output-root", folder])
    return min(history, key=lambda row: row["valid_loss"])


def main(argv=None):
    """Print a row of the table in benchmarks/results.md for each variant."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", choices=["AE", "VAE"], nargs="+", default=["AE", "VAE"])
    parser.add_argument("--variants", choices=list(VARIANTS), nargs="+", default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--seeds", type=natural_int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=positive_int, help="the script's default where it is not given")
    parser.add_argument("--flags", action="append", default=[], help="more flags of train_script.py")
    args = parser.parse_args(argv)
    epochs = ["--epochs", str(args.epochs)] if args.epochs else []
    print("| what is changed | model | train / valid, a pair a seed |\n|---|---|---|")
    for name in args.variants:
        for model in args.models:
            rows = [
                train(["--model", model, "--seed", str(s), *epochs, *args.flags], VARIANTS[name]) for s in args.seeds
            ]
            style = "{:.4f} / {:.4f}" if model == "AE" else "{:.0f} / {:.0f}"
            pairs = ", ".join(style.format(row["train_loss"], row["valid_loss"]) for row in rows)
            print(f"| {name} | {model} | {pairs} |", flush=True)


if __name__ == "__main__":
    main()
