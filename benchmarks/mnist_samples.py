"""Does the CVAE draw the digit that it is asked for? A classifier that never saw it reads its samples.

    python benchmarks/mnist_samples.py                  # about 2 minutes
    python benchmarks/mnist_samples.py --output-root DIR [--output-root ANOTHER ...]

The classifier is a small convolutional network, trained here on the training images; it has to read over 99 % of the
test images rightly. The samples are of z from N(0, I), 1,000 for each digit, from models/BestModel_MNIST_CVAE.pth.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from data import create_mnist_dataloaders
from main import load_model
from training import PROJECT, natural_int, seed_everything


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
def accuracy(classifier, images, labels) -> torch.Tensor:
    """The share read as their labels, of each digit: (10,)."""
    read = torch.cat([classifier(part).argmax(dim=1) for part in images.split(1000)])
    return torch.stack([(read[labels == digit] == digit).float().mean() for digit in range(10)])


def main(argv=None):
    """Print the classifier's accuracy on the test images and on the samples of each model."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--output-root", type=Path, action="append", help="where the CVAE is; may be given several times"
    )
    parser.add_argument("--per-digit", type=natural_int, default=1000)
    args = parser.parse_args(argv)
    train_loader, test_loader = create_mnist_dataloaders(128, data="real")
    classifier = train_classifier(train_loader)
    images, labels = test_loader.dataset[:]
    right = accuracy(classifier, images, labels)
    print(f"classifier on the test images: {right.mean():.2%}")
    for root in args.output_root or [PROJECT]:
        model, checkpoint = load_model("CVAE", root)
        seed_everything(0)
        labels = torch.arange(10).repeat_interleave(args.per_digit)
        images = model.decode(torch.randn(len(labels), checkpoint["config"]["latent_size"]), labels)
        right = accuracy(classifier, images, labels)
        each = ", ".join(f"{digit}: {share:.1%}" for digit, share in enumerate(right))
        print(f"CVAE of seed {checkpoint['seed']}: {right.mean():.2%} of {len(labels)} samples read as asked ({each})")


if __name__ == "__main__":
    main()
