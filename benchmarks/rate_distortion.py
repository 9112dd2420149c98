"""What the weight of the KL buys: rate against distortion, and whether the CVAE's samples are the digits asked for.

    python benchmarks/rate_distortion.py --output-root DIR      # 14 trainings, about 20 minutes; trained ones are kept

Trains VAE and CVAE at constant weights of the KL (`main.py --beta`), and both with a weight that rises and falls
(`--kl-peak`); all is measured on validation digits and on samples. "Read as asked": the share of 10,000 samples of the
CVAE, z from N(0, I), that a classifier reads as the digit asked for. Spread: the mean squared distance of the
classifier's features of samples from those of their digit's mean sample, over that of validation digits: a CVAE that
writes one perfect 7 has 0. Prints a table, and plots vis/rate_distortion.png.
"""

import argparse
from pathlib import Path

import common  # noqa: F401  (the path of the scripts)
import torch
from mnist_samples import COUNT, read, train_classifier

import main as mnist_script
from data import create_mnist_dataloaders
from evaluation.models import load_model
from training import PROJECT, UserError
from training.figures import plot_rate_distortion
from training.flags import natural_int
from training.script import seed_everything

BETAS = (0.25, 0.5, 1.0, 1.5, 2.0, 4.0)
PEAK = 3.3  # times beta half-way, and 1 at both ends


def run(model: str, beta: float, peak: float, seed: int, root: Path):
    """(model, checkpoint) of a training with these weights, which is done where it is not there already."""
    root = root / f"{model}_beta{beta:g}_peak{peak:g}_seed{seed}"
    try:
        return load_model(f"MNIST_{model}", root)
    except UserError:
        flags = ["--model", model, "--beta", beta, "--kl-peak", peak, "--seed", seed, "--data", "real"]
        mnist_script.main([*map(str, flags), "--output-root", str(root)])
        return load_model(f"MNIST_{model}", root)


def spread(features, digits) -> float:
    """The mean squared distance of features (N, D) from the mean of their digit's."""
    return sum((features[digits == digit].var(dim=0).sum() for digit in range(10)), torch.zeros(())).item() / 10


@torch.no_grad()
def judge(classifier, model, usual: float) -> dict:
    """How samples are read: {"asked": share or None, "spread": over the usual one}."""
    seed_everything(0)
    zs = torch.randn(COUNT, model.encoder.mu.out_features)
    labels = torch.arange(10).repeat(COUNT // 10) if model.has_label else None
    images = model.decode(zs, labels)
    digits, features = read(classifier, images)[1], features_of(classifier, images)
    asked = None if labels is None else (digits == labels).float().mean().item()
    return {"asked": asked, "spread": spread(features, digits) / usual}


def features_of(classifier, images):
    """The classifier's features (N, 128)."""
    return torch.cat([classifier[:-1](part) for part in images.split(1000)])


@torch.no_grad()
def main(argv=None):
    """Print the table and plot the figure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output-root", type=Path, required=True, help="where the trained models are, or will be")
    parser.add_argument("--seed", type=natural_int, default=0, help="of the trainings")
    args = parser.parse_args(argv)
    loaders = create_mnist_dataloaders(128, data="real")
    with torch.enable_grad():
        classifier = train_classifier(loaders[0])
    images, labels = loaders[1].dataset[:]
    usual = spread(features_of(classifier, images), labels)
    print(f"validation digits: read rightly {(read(classifier, images)[1] == labels).float().mean():.2%}, spread 1")
    lines = {}
    for name in ("CVAE", "VAE"):
        for beta, peak in [*((beta, 1.0) for beta in BETAS), (1.0, PEAK)]:
            with torch.enable_grad():
                model, checkpoint = run(name, beta, peak, args.seed, args.output_root)
            parts = {"rate": checkpoint["valid_kl"], "distortion": checkpoint["valid_recon"]}
            row = {"beta": beta, **parts, "bound": sum(parts.values()), **judge(classifier, model, usual)}
            line = name if peak == 1 else f"{name}, --kl-peak {peak:g}"
            lines.setdefault(line, []).append(row)
            print(describe(line, row), flush=True)
    title = f"MNIST, validation digits, weights β of the KL, seed {args.seed}"
    plot_rate_distortion(lines, PROJECT / "vis" / "rate_distortion.png", title)


def describe(line: str, row: dict) -> str:
    """A row of the table."""
    asked = "" if row["asked"] is None else f", read as asked {row['asked']:.2%}"
    bound = f"bound {row['bound']:.2f} = distortion {row['distortion']:.2f} + rate {row['rate']:.2f}"
    return f"{line}, beta {row['beta']:g}: {bound}{asked}, spread {row['spread']:.3f}"


if __name__ == "__main__":
    main()
