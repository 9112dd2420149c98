"""How far an epoch of the flowers' AE or VAE is from its arithmetic, and how its time grows with the images' size.

    python benchmarks/flowers_epoch.py --model VAE --sizes 24 48 96

The arithmetic: the multiplications and additions that PyTorch counts in an epoch, at the speed at which the same
process multiplies two 1024x1024 matrices in float32. Epochs in float32 and in bfloat16 (--amp) take turns.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import train_script
from data import create_flower_dataloaders
from training import positive_int, seed_everything
from VarAutoencoder import MODELS

CPU = torch.device("cpu")


def seconds_of(function) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def peak() -> float:
    """Operations a second of a product of two 1024x1024 matrices, the median of 20."""
    a = torch.randn(1024, 1024)
    return 2 * 1024**3 / statistics.median(seconds_of(lambda: a @ a) for _ in range(20))


def epoch_of(model_name, size, *flags):
    """A function that trains and validates for one epoch at that image size."""
    args = train_script.parse_args(["--model", model_name, "--image-size", str(size), "--epochs", "1000", *flags])
    loaders = create_flower_dataloaders(args.batch_size, img_width=size, img_height=size, mirror=True)
    seed_everything(args.seed)
    model = MODELS[model_name](img_height=size, img_width=size)
    model.to(memory_format=train_script.memory_format(CPU))
    optimizer, scheduler = train_script.build_optimizer(args, model.parameters(), len(loaders[0]))
    train_step, valid_step, *_ = train_script.make_steps(args, model, optimizer, scheduler, CPU)

    def epoch():
        for images, labels in loaders[0]:
            train_step(images, labels, 1)
        for images, labels in loaders[1]:
            valid_step(images, labels)

    return epoch


def main(argv=None):
    """Print a row for each image size."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=["AE", "VAE"], default="AE")
    parser.add_argument("--sizes", type=train_script.multiple_of_4, nargs="+", default=[24])
    parser.add_argument("--turns", type=positive_int, default=5)
    args = parser.parse_args(argv)
    print(f"{args.model}, {torch.get_num_threads()} threads, medians of {args.turns} turns")
    print("| side | arithmetic, s | epoch, s | over its arithmetic | epoch with --amp, s | over its arithmetic |")
    print("|---|---|---|---|---|---|")
    for size in args.sizes:
        exact, mixed = epoch_of(args.model, size), epoch_of(args.model, size, "--amp")
        mixed()  # warm up
        with FlopCounterMode(display=False) as counter:
            exact()
        turns = [(counter.get_total_flops() / peak(), seconds_of(exact), seconds_of(mixed)) for _ in range(args.turns)]
        limit, full, half = (statistics.median(column) for column in zip(*turns, strict=True))
        ratios = [statistics.median(turn[i] / turn[0] for turn in turns) for i in (1, 2)]
        print(f"| {size} | {limit:.2f} | {full:.2f} | {ratios[0]:.2f} | {half:.2f} | {ratios[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
