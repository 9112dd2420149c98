"""Are the samples digits, and the CVAE's the digits asked for? A classifier that never saw a model reads them.

    python -m benchmarks.mnist_samples                              # the project's models, about 2 minutes
    python -m benchmarks.mnist_samples --output-root DIR --output-root ANOTHER

The classifier is a small convolutional network, trained here on the training images; where it reads fewer than 99 % of
the test images correctly, this ends with an error. It reads 10,000 samples of z from N(0, I) of each model; for the
CVAE, 1,000 for each digit. It is sure where it gives a digit a probability over 95 %.
"""

import argparse
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from common import PROJECT
from common.process import seed_everything
from data import create_mnist_dataloaders
from main import BETAS
from trained.loading import load_model
from trained.registry import MODELS
from trained.sampling import decode, normal_latents

COUNT = 10_000  # samples of each model
SURE = 0.95
BATCH = 1000


def train_classifier(train_loader, epochs: int = 4) -> nn.Sequential:
    """A network that maps images (B, 1, 28, 28) to logits (B, 10)."""
    seed_everything(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10)),
    )
    optimizer = torch.optim.AdamW(model.parameters())
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, epochs * len(train_loader))
    for _ in range(epochs):
        for images, labels in train_loader:
            optimizer.zero_grad()
            cross_entropy(model(images), labels).backward()
            optimizer.step()
            scheduler.step()
    return model.eval()


@torch.no_grad()
def read_digits(classifier: nn.Sequential, images: torch.Tensor) -> tuple[float, torch.Tensor]:
    """(the share of images that it is sure of, the digits that it reads)."""
    logits = torch.cat([classifier(batch) for batch in images.split(BATCH)])
    probabilities, digits = logits.softmax(dim=1).max(dim=1)
    return (probabilities > SURE).float().mean().item(), digits


def draw_samples(model, checkpoint: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """(COUNT samples of a model, the digits that the CVAE is asked for)."""
    zs = normal_latents(checkpoint["config"]["latent_size"], COUNT, seed=0)
    digits = torch.arange(10).repeat(COUNT // 10)
    return decode(model, zs, *MODELS[checkpoint["model"]].condition(digits)), digits


def main(argv=None):
    """Print how the classifier reads the test images and each model's samples."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output-root", type=Path, action="append", help="folder of the models; may be repeated")
    args = parser.parse_args(argv)
    train_loader, _, test_loader = create_mnist_dataloaders(128, data="real")
    classifier = train_classifier(train_loader)
    images, labels = test_loader.dataset[:]
    sure, digits = read_digits(classifier, images)
    correct = (digits == labels).float().mean()
    if correct <= 0.99:
        raise RuntimeError(f"the classifier reads only {correct:.2%} of the test images correctly")
    print("| | seed | weight of the KL | sure of | read as asked |\n|---|---|---|---|---|")
    print(f"| test images | | | {sure:.1%} | {correct:.2%} |")
    for root in args.output_root or [PROJECT]:
        for name in BETAS:
            model, checkpoint = load_model(f"MNIST_{name}", root)
            samples, asked = draw_samples(model, checkpoint)
            sure, digits = read_digits(classifier, samples)
            as_asked = f"{(digits == asked).float().mean():.2%}" if name == "CVAE" else ""
            beta = checkpoint["settings"].get("beta", "")
            print(f"| {name} | {checkpoint['seed']} | {beta} | {sure:.1%} | {as_asked} |", flush=True)


if __name__ == "__main__":
    main()
