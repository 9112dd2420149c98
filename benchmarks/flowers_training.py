"""Training on the photographs from a cold start to the coursework's target: our script against the usual way.

    python -m benchmarks.flowers_training --model VAE --turns 3         # about 10 minutes

The usual way: the same model, optimizer, schedule and epochs, fed by torchvision's ImageFolder and a DataLoader
that decodes every image in every epoch, without workers and with two; in PyTorch's default memory format, and
validated in batches of 16, as tutorials do. Each run is a process of its own, in turns; its time runs from the
command to the line that shows the loss.
"""

import argparse
import sys
import tempfile

import torch
from torch.utils.data import DataLoader, Subset, random_split

from benchmarks.tools import compare_trainings
from common import PROJECT
from common.flags import natural_int, positive_int
from common.process import seed_everything
from datasets.mnist import import_torchvision
from train_script import TRAININGS, build_optimizer
from trained.registry import MODELS

TARGETS = {"AE": 0.012, "VAE": 800}  # of the validation loss
SIZE = 24


def usual_loaders(batch_size: int, workers: int) -> tuple[DataLoader, DataLoader]:
    """DataLoaders of single images, decoded and resized each time; 80 % to train on, 20 % to validate on."""
    torchvision = import_torchvision()
    transforms = torchvision.transforms
    resize = [transforms.Resize((SIZE, SIZE)), transforms.ToTensor()]
    augmented = transforms.Compose([transforms.RandomHorizontalFlip(), *resize])
    train_set = torchvision.datasets.ImageFolder(PROJECT / "flowers", augmented)
    valid_set = torchvision.datasets.ImageFolder(PROJECT / "flowers", transforms.Compose(resize))
    train_indices, valid_indices = random_split(torch.arange(len(train_set)), [0.8, 0.2])
    options = {"batch_size": batch_size, "num_workers": workers, "persistent_workers": workers > 0}
    train_loader = DataLoader(Subset(train_set, list(train_indices)), shuffle=True, **options)
    return train_loader, DataLoader(Subset(valid_set, list(valid_indices)), **options)


def train_usually(name: str, workers: int) -> None:
    """Train as tutorials do; prints the validation loss of each epoch."""
    training = TRAININGS[name]
    seed_everything(0)
    train_loader, valid_loader = usual_loaders(training.batch_size, workers)
    model = MODELS[name].build(training.encoding_dim, SIZE, SIZE)
    optimizer, scheduler = build_optimizer(
        "adam", model.parameters(), training.lr, training.epochs, len(train_loader), training
    )
    for epoch in range(1, training.epochs + 1):
        for images, _ in train_loader:
            loss, _ = model.loss(model(images), images)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
        total = 0.0
        with torch.no_grad():
            for images, _ in valid_loader:
                _, metrics = model.loss(model(images), images)
                total += metrics["loss"] * len(images)
        print(f"Epoch: {epoch}, Valid Loss: {total / len(valid_loader.dataset):.6f}", flush=True)


def main(argv=None):
    """Print a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=TARGETS, default="VAE")
    parser.add_argument("--turns", type=positive_int, default=3)
    parser.add_argument(
        "--usual", type=natural_int, metavar="WORKERS", help="only train the usual way, in this process"
    )
    args = parser.parse_args(argv)
    if args.usual is not None:
        train_usually(args.model, args.usual)
        return
    with tempfile.TemporaryDirectory() as folder:
        script = [sys.executable, "train_script.py", "--model", args.model, "--data", "real", "--output-root", folder]
        usual = [sys.executable, "-m", "benchmarks.flowers_training", "--model", args.model, "--usual"]
        commands = {
            "train_script.py": script,
            "train_script.py --amp": [*script, "--amp"],
            "usual way": [*usual, 0],
            "usual way, 2 workers": [*usual, 2],
        }
        compare_trainings(TARGETS[args.model], commands, args.turns)


if __name__ == "__main__":
    main()
