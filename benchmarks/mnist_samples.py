"""Are the samples digits, and the CVAE's the digits asked for? A classifier that never saw a model reads them.

    python benchmarks/mnist_samples.py                              # the models of this folder, about 2 minutes
    python benchmarks/mnist_samples.py --output-root DIR --output-root ANOTHER

The classifier is a small convolutional network, trained here on the training images; where it does not read over 99 %
of the test images rightly, this ends with an error. It reads 10,000 samples of z from N(0, I) of each model; for the
CVAE, 1,000 for each digit. What it is sure of, it gives a probability over 95 %.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from data import create_mnist_dataloaders
from evaluation.models import load_model
from model import MODELS
from training import PROJECT
from training.script import seed_everything

COUNT, SURE = 10_000, 0.95


def train_classifier(train_loader, epochs: int = 4):
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
def read(classifier, images):
    """(the share of images that it is sure of, the digits that it reads)."""
    probability, digits = torch.cat([classifier(part).softmax(dim=1) for part in images.split(1000)]).max(dim=1)
    return (probability > SURE).float().mean(), digits


def main(argv=None):
    """Print what the classifier makes of the test images and of each model's samples."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--output-root", type=Path, action="append", help="where the models are, or several such places"
    )
    args = parser.parse_args(argv)
    train_loader, _, test_loader = create_mnist_dataloaders(128, data="real")
    classifier = train_classifier(train_loader)
    images, labels = test_loader.dataset[:]
    sure, digits = read(classifier, images)
    right = (digits == labels).float().mean()
    if right <= 0.99:
        raise RuntimeError(f"the classifier reads only {right:.2%} of the test images rightly")
    print(f"test images: sure of {sure:.1%}, read rightly {right:.2%}")
    for root in args.output_root or [PROJECT]:
        for name in MODELS:
            if (root / "models" / f"BestModel_MNIST_{name}.pth").exists():
                print(judge(classifier, name, root), flush=True)


def judge(classifier, name: str, root: Path) -> str:
    """What the classifier makes of the model's samples: a line."""
    model, checkpoint = load_model(f"MNIST_{name}", root)
    seed_everything(0)
    zs = torch.randn(COUNT, checkpoint["config"]["latent_size"])
    labels = torch.arange(10).repeat(COUNT // 10) if name == "CVAE" else None
    sure, digits = read(classifier, model.decode(zs, labels))
    flags = ", ".join(f"{flag} {checkpoint['settings'][flag]}" for flag in ("seed", "recon", "beta", "kl_peak"))
    line = f"{name} ({flags}): sure of {sure:.1%}"
    if labels is None:
        return line
    right = digits == labels
    each = ", ".join(f"{digit}: {right[labels == digit].float().mean():.1%}" for digit in range(10))
    return f"{line}, read as asked {right.float().mean():.2%} ({each})"


if __name__ == "__main__":
    main()
