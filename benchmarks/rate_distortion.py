"""What the weight of the KL buys: rate against distortion, and whether the CVAE's samples are the digits asked for.

    python -m benchmarks.rate_distortion --output-root DIR      # 12 trainings, about 20 minutes; trained ones are kept

Trains VAE and CVAE with several weights of the KL (`main.py --beta`); all is measured on validation digits and on
samples. "Read as asked": the share of 10,000 samples of the CVAE that a classifier reads as the digit asked for.
Spread: the mean squared distance of the classifier's features of samples from those of their digit's mean sample, over
that of validation digits: a CVAE that writes one perfect 7 has 0. Latents: see
`beyond.anatomy.describe_latents`. Prints a table, and plots vis/rate_distortion.png.
"""

import argparse
from pathlib import Path

import torch

from benchmarks.mnist_samples import BATCH, draw_samples, read_digits, train_classifier
from beyond.anatomy import describe_latents, posteriors
from beyond.likelihood import densities
from common import PROJECT
from common.figures import make_axes, save_figure
from common.flags import natural_int
from data import create_mnist_dataloaders
from main import main as train
from trained.loading import load_model
from trained.registry import MODELS

BETAS = (0.25, 0.5, 1.0, 1.5, 2.0, 4.0)
COLUMNS = ("", "weight of the KL", "bound", "distortion", "rate", "read as asked", "spread", "latents")
PANELS = (  # (x, y, their labels)
    ("rate", "distortion", "rate (KL), nats per image", "distortion (cross-entropy), nats per image"),
    ("bound", "asked", "bound = rate + distortion, nats per image", "samples read as the digit asked for"),
    ("bound", "spread", "bound = rate + distortion, nats per image", "spread of samples (validation digits: 1)"),
)


def load_or_train(name: str, beta: float, seed: int, root: Path):
    """(model, checkpoint) of a training with this weight."""
    root = root / f"{name}_beta{beta:g}_seed{seed}"
    if not (root / "models" / f"BestModel_MNIST_{name}.pth").exists():
        flags = ["--model", name, "--beta", beta, "--seed", seed, "--data", "real", "--output-root", root]
        train([str(flag) for flag in flags])
    return load_model(f"MNIST_{name}", root)


@torch.no_grad()
def measure_spread(classifier, images: torch.Tensor, digits: torch.Tensor) -> float:
    """The mean squared distance of the classifier's features of images from the mean of their digit's."""
    features = torch.cat([classifier[:-1](batch) for batch in images.split(BATCH)])  # (N, 128)
    return sum(features[digits == digit].var(dim=0).sum().item() for digit in range(10)) / 10


def measure(classifier, usual_spread: float, valid_set, model, checkpoint: dict) -> dict:
    """{"beta", "rate", "distortion", "bound", "asked" (None for the VAE), "spread", "latents"} of a trained model."""
    samples, asked = draw_samples(model, checkpoint)
    _, digits = read_digits(classifier, samples)
    is_conditional = checkpoint["model"] == "MNIST_CVAE"
    posterior, _ = densities(model, MODELS[checkpoint["model"]])
    rate = checkpoint["valid_kl"]
    distortion = checkpoint["valid_recon"]
    return {
        "beta": checkpoint["settings"]["beta"],
        "rate": rate,
        "distortion": distortion,
        "bound": rate + distortion,
        "asked": (digits == asked).float().mean().item() if is_conditional else None,
        "spread": measure_spread(classifier, samples, digits) / usual_spread,
        "latents": describe_latents(*posteriors(posterior, valid_set)),
    }


def plot_rate_distortion(lines: dict[str, list[dict]], path: Path, title: str) -> None:
    """Plot what `measure` returned, a line for each model."""
    figure, axes = make_axes(14, 4.8, columns=3)
    for plot, (x, y, xlabel, ylabel) in zip(axes, PANELS, strict=True):
        for name, rows in lines.items():
            known = [row for row in rows if row[y] is not None]
            plot.plot([row[x] for row in known], [row[y] for row in known], "o-", markersize=5, label=name)
        plot.set(xlabel=xlabel, ylabel=ylabel)
        plot.grid(alpha=0.3)
    offsets = {"CVAE": (-6, "right", "top"), "VAE": (6, "left", "bottom")}  # of the labels
    for name, (offset, ha, va) in offsets.items():
        for row in lines[name]:
            place = {"xytext": (offset, offset), "textcoords": "offset points", "ha": ha, "va": va}
            axes[0].annotate(f"β {row['beta']:g}", (row["rate"], row["distortion"]), **place)
    axes[0].margins(0.15)  # for the labels
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(lines))
    figure.suptitle(title)
    save_figure(figure, path, title)


def main(argv=None):
    """Print the table and plot the figure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output-root", type=Path, required=True, help="where the trained models are, or will be")
    parser.add_argument("--seed", type=natural_int, default=0, help="of the trainings")
    args = parser.parse_args(argv)
    train_loader, valid_loader, _ = create_mnist_dataloaders(128, data="real")
    classifier = train_classifier(train_loader)
    usual_spread = measure_spread(classifier, *valid_loader.dataset[:])
    lines = {"CVAE": [], "VAE": []}
    print(f"| {' | '.join(COLUMNS)} |\n{len(COLUMNS) * '|---'}|")
    for name, rows in lines.items():
        for beta in BETAS:
            trained = load_or_train(name, beta, args.seed, args.output_root)
            row = measure(classifier, usual_spread, valid_loader.dataset, *trained)
            rows.append(row)
            asked = f"{row['asked']:.2%}" if name == "CVAE" else ""
            nats = f"{row['bound']:.2f} | {row['distortion']:.2f} | {row['rate']:.2f}"
            print(f"| {name} | {beta:g} | {nats} | {asked} | {row['spread']:.3f} | {row['latents']} |", flush=True)
    title = f"MNIST, validation digits, weights β of the KL, seed {args.seed}"
    plot_rate_distortion(lines, PROJECT / "vis" / "rate_distortion.png", title)


if __name__ == "__main__":
    main()
