"""Whole training runs on the photographs, from a cold start: our script against the usual way.

    python benchmarks/flowers_training.py --model VAE --turns 3         # about 10 minutes

The usual way: the same model, optimizer, schedule and epochs, fed by torchvision's ImageFolder and a DataLoader
that decodes every image in every epoch, without workers and with two. Each run is a process of its own, in turns;
its time runs from the command to the end.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import train_script
from training import FLOWERS_ROOT, PROJECT, natural_int, positive_int, seed_everything


def usual_way(args, workers):
    """Train as the tutorials do; prints the losses of the last epoch."""
    import torch

    from data import import_torchvision

    torchvision = import_torchvision()
    from torchvision.transforms import Compose, RandomHorizontalFlip, Resize, ToTensor

    seed_everything(args.seed)
    resize = [Resize(args.image_size), ToTensor()]
    train_set, valid_set = (
        torchvision.datasets.ImageFolder(PROJECT / FLOWERS_ROOT, Compose(steps))
        for steps in ([RandomHorizontalFlip(), *resize], resize)
    )
    train_indices, valid_indices = torch.utils.data.random_split(range(len(train_set)), [0.8, 0.2])
    train_loader, valid_loader = (
        torch.utils.data.DataLoader(
            torch.utils.data.Subset(dataset, list(indices)),
            batch_size=args.batch_size,
            shuffle=shuffle,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        for dataset, indices, shuffle in ((train_set, train_indices, True), (valid_set, valid_indices, False))
    )
    config = dict(zip(("encoding_dim", "img_height", "img_width"), (args.encoding_dim, *args.image_size), strict=True))
    model = train_script.build_model(args.model, config)
    optimizer, scheduler = train_script.build_optimizer(args, model.parameters(), len(train_loader))

    def loss_of(images):
        outputs = model(images)
        if args.model == "AE":
            return torch.nn.functional.mse_loss(outputs, images)
        from VarAutoencoder import VAE_loss_function

        return VAE_loss_function(outputs, images) / images.numel()

    for _ in range(args.epochs):
        train_loss = valid_loss = 0.0
        for images, _ in train_loader:
            optimizer.zero_grad()
            loss = loss_of(images)
            loss.backward()
            optimizer.step()
            scheduler.step()
            train_loss += loss.item() * len(images) / len(train_indices)
        with torch.no_grad():
            for images, _ in valid_loader:
                valid_loss += loss_of(images).item() * len(images) / len(valid_indices)
    scale = 1 if args.model == "AE" else train_script.VAE_UNIT * 3 * args.image_size[0] * args.image_size[1]
    print(f"Train Loss: {scale * train_loss:.6f}, Valid Loss: {scale * valid_loss:.6f}")


def run(command):
    """(seconds, peak memory in MiB, the last line with losses) of a process, its workers' memory not included."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    losses = [line for line in process.stdout if "Valid Loss: " in line and "Best" not in line][-1]
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{command} ended with status {status}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024, losses.strip()


def main(argv=None):
    """Print a row for each way: seconds, ratio, memory and losses."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=["AE", "VAE"], default="VAE")
    parser.add_argument("--turns", type=positive_int, default=3)
    parser.add_argument(
        "--usual", type=natural_int, metavar="WORKERS", help="only train the usual way, in this process"
    )
    args = parser.parse_args(argv)
    if args.usual is not None:
        usual_way(train_script.parse_args(["--model", args.model]), args.usual)
        return
    with tempfile.TemporaryDirectory() as folder:
        script = [sys.executable, str(PROJECT / "train_script.py"), "--model", args.model, "--output-root", folder]
        usual = [sys.executable, __file__, "--model", args.model, "--usual"]
        ways = {
            "train_script.py": script,
            "train_script.py --amp": [*script, "--amp"],
            "usual way": [*usual, "0"],
            "usual way, 2 workers": [*usual, "2"],
        }
        results = {name: [] for name in ways}
        for _ in range(args.turns):
            for name, command in ways.items():
                results[name].append(run(command))
    seconds = {name: [result[0] for result in runs] for name, runs in results.items()}
    print(f"{args.model}\n| way | seconds, each turn | time over ours | peak memory, MiB | last epoch |")
    print("|---|---|---|---|---|")
    for name, runs in results.items():
        ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds["train_script.py"], strict=True))
        each = ", ".join(f"{s:.1f}" for s in seconds[name])
        print(f"| {name} | {each} | {ratio:.2f} | {max(run[1] for run in runs):.0f} | {runs[0][2]} |")


if __name__ == "__main__":
    main()
