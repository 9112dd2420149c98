"""Training on the photographs from a cold start to the coursework's target: our script against the usual way.

    python benchmarks/flowers_training.py --model VAE --turns 3         # about 10 minutes

The usual way: the same model, optimizer, schedule and epochs, fed by torchvision's ImageFolder and a DataLoader
that decodes every image in every epoch, without workers and with two; in PyTorch's default memory format, and
validated in batches of 16, as tutorials do. Each run is a process of its own, in turns; its time runs from the
command to the line that shows the loss.
"""

import argparse
import sys
import tempfile

import common
import torch
from torch.utils.data import DataLoader, Subset, random_split

import train_script
from datasets.mnist import import_torchvision
from evaluation.models import TABLE
from training import PROJECT
from training.flags import natural_int, positive_int
from training.script import seed_everything
from VarAutoencoder import VAE_UNIT

TARGETS = {"AE": 0.012, "VAE": 800}  # of the validation loss


def usual_loaders(args, workers):
    """DataLoaders of single images, decoded and resized each time; 80 % to train on, 20 % to validate on."""
    datasets = import_torchvision().datasets
    from torchvision.transforms import Compose, RandomHorizontalFlip, Resize, ToTensor

    resize = [Resize(args.image_size), ToTensor()]
    train_set = datasets.ImageFolder(PROJECT / "flowers", Compose([RandomHorizontalFlip(), *resize]))
    valid_set = datasets.ImageFolder(PROJECT / "flowers", Compose(resize))
    train_indices, valid_indices = random_split(torch.arange(len(train_set)), [0.8, 0.2])
    options = {"batch_size": args.batch_size, "num_workers": workers, "persistent_workers": workers > 0}
    return (
        DataLoader(Subset(train_set, list(train_indices)), shuffle=True, **options),
        DataLoader(Subset(valid_set, list(valid_indices)), **options),
    )


def usual_way(args, workers):
    """Train as tutorials do, in the default memory format; prints the validation loss of each epoch."""
    seed_everything(args.seed)
    train_loader, valid_loader = usual_loaders(args, workers)
    model = TABLE[args.model].build(args.encoding_dim, *args.image_size)
    optimizer, scheduler = train_script.build_optimizer(args, model.parameters(), len(train_loader))

    def loss_of(images):
        return model.measure(model(images), images)[0]

    scale = 1 if args.model == "AE" else VAE_UNIT * 3 * args.image_size[0] * args.image_size[1]
    for epoch in range(1, args.epochs + 1):
        valid_loss = 0.0
        for images, _ in train_loader:
            optimizer.zero_grad()
            loss_of(images).backward()
            optimizer.step()
            scheduler.step()
        with torch.no_grad():
            for images, _ in valid_loader:
                valid_loss += loss_of(images).item() * len(images) / len(valid_loader.dataset)
        print(f"Epoch: {epoch}, Valid Loss: {scale * valid_loss:.6f}", flush=True)


def main(argv=None):
    """Write a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=list(TARGETS), default="VAE")
    parser.add_argument("--turns", type=positive_int, default=3)
    parser.add_argument(
        "--usual", type=natural_int, metavar="WORKERS", help="only train the usual way, in this process"
    )
    args = parser.parse_args(argv)
    if args.usual is not None:
        usual_way(train_script.parse_args(["--model", args.model]), args.usual)
        return
    with tempfile.TemporaryDirectory() as folder:
        script = [sys.executable, PROJECT / "train_script.py", "--model", args.model, "--data", "real"]
        script += ["--output-root", folder]
        usual = [sys.executable, __file__, "--model", args.model, "--usual"]
        ways = {
            "train_script.py": script,
            "train_script.py --amp": [*script, "--amp"],
            "usual way": [*usual, 0],
            "usual way, 2 workers": [*usual, 2],
        }
        common.compare_runs(f"flowers, {args.model} to its target", TARGETS[args.model], ways, args.turns)


if __name__ == "__main__":
    main()
