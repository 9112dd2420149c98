"""Like for like: Burda et al.'s own network (2016), which has 425,284 weights, trained by us on binarized MNIST.

    python -m benchmarks.burda_network --output-root DIR                # a VAE, 8 minutes; theirs has 86.76 nats
    python -m benchmarks.burda_network --output-root DIR --samples 50 --epochs 10      # in all epochs; theirs: 84.78

Two layers of 200 tanh units each way and 50 latents, in place of three of 512 with LayerNorm and GELU that add to their
input. Data, optimizer and schedule are those of `python -m beyond.iwae`; they trained for 3,280 epochs.
"""

import argparse
import contextlib
from pathlib import Path

import torch
from torch import nn

from beyond.iwae import NAME, create_binarized_dataloaders
from beyond.likelihood import densities, describe_estimate, estimate_likelihood
from common.flags import positive_int
from common.process import seed_everything
from generators.iwae import ImportanceWeightedAutoEncoder, build_iwae, importance_weighted_loss
from main import PATIENCE, train
from trained.registry import MODELS

HIDDEN_SIZE = 200
LATENT_SIZE = 50
ESTIMATE_SAMPLES = 100  # theirs: 5,000; more only lower an estimate


def tanh_layers(in_features: int) -> nn.Sequential:
    """(B, in_features) -> (B, 200), the deterministic layers of either half."""
    return nn.Sequential(nn.Linear(in_features, HIDDEN_SIZE), nn.Tanh(), nn.Linear(HIDDEN_SIZE, HIDDEN_SIZE), nn.Tanh())


def build_burda(samples: int) -> ImportanceWeightedAutoEncoder:
    """The IWAE with their layers."""
    model = build_iwae(HIDDEN_SIZE, LATENT_SIZE, samples)
    model.encoder.hidden = tanh_layers(784)
    model.decoder.decoder[0] = tanh_layers(LATENT_SIZE)
    return model


def main(argv=None):
    """Train, estimate and print; returns the `Estimate` of the test digits."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output-root", type=Path, required=True, help="for its checkpoints and its log.txt")
    parser.add_argument("--samples", metavar="K", type=positive_int, default=1)
    parser.add_argument("--epochs", metavar="N", type=positive_int, default=30)
    args = parser.parse_args(argv)
    loaders = create_binarized_dataloaders(128, data="real")
    seed_everything(0)
    model = build_burda(args.samples)
    config = {"hidden_size": HIDDEN_SIZE, "latent_size": LATENT_SIZE, "samples": args.samples}
    settings = {"samples": args.samples, "epochs": args.epochs, "patience": PATIENCE, "batch_size": 128, "lr": 4e-3}
    args.output_root.mkdir(parents=True, exist_ok=True)
    with open(args.output_root / "log.txt", "w") as file, contextlib.redirect_stdout(file):
        best = train(
            NAME,
            model,
            importance_weighted_loss,
            loaders,
            args.output_root,
            torch.device("cpu"),
            config=config,
            settings=settings,
            seed=0,
            resume=False,
        )
    weights = sum(map(torch.numel, model.parameters()))
    print(f"{weights:,} weights, epoch {best['epoch']} of {args.epochs}, validation bound {best['valid_loss']:.2f}")
    test_set = loaders[2].dataset
    estimate = estimate_likelihood(test_set, *densities(model, MODELS[NAME]), ESTIMATE_SAMPLES)
    for line in describe_estimate(estimate, ESTIMATE_SAMPLES):
        print(line)
    return estimate


if __name__ == "__main__":
    main()
