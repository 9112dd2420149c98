"""How far an epoch of a model of the flowers is from its arithmetic, and how its time grows with the images' size.

    python benchmarks/flowers_epoch.py --model VAE --sizes 24 48 96

The arithmetic: the multiplications and additions that PyTorch counts in an epoch, at the speed at which the same
process multiplies two 1024x1024 matrices in float32. Epochs in float32 and in bfloat16 (--amp) take turns.
"""

import argparse
import statistics

import common
from torch.utils.flop_counter import FlopCounterMode

import train_script
from data import create_flower_dataloaders, mirror
from training.flags import multiple_of_4, positive_int
from training.script import seed_everything


def epoch_of(model_name: str, *flags: str, root=None):
    """A function that trains and validates for one epoch, with the script's flags."""
    args = train_script.parse_args(["--model", model_name, "--epochs", "1000", *flags])
    (height, width), args.device = args.image_size, "cpu"
    loaders = create_flower_dataloaders(args.batch_size, root, width, height, "real", transform=mirror)
    seed_everything(args.seed)
    model, _ = train_script.build_model(args, loaders[0].dataset)
    learner = train_script.build_learner(args, model, len(loaders[0]))

    def epoch():
        for images, labels in loaders[0]:
            learner.train_step(images, labels, 1)
        for images, labels in loaders[1]:
            learner.valid_step(images, labels)

    return epoch


def main(argv=None):
    """Write two rows for each image size."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=list(train_script.DEFAULTS), default="AE")
    parser.add_argument("--sizes", type=multiple_of_4, nargs="+", default=[24])
    parser.add_argument("--batch-size", type=positive_int, help="default: the script's")
    parser.add_argument("--turns", type=positive_int, default=5)
    args = parser.parse_args(argv)
    args.batch_size = args.batch_size or train_script.DEFAULTS[args.model]["batch_size"]
    rows = []
    for size in args.sizes:
        flags = ["--image-size", str(size), "--batch-size", str(args.batch_size)]
        exact, mixed = epoch_of(args.model, *flags), epoch_of(args.model, *flags, "--amp")
        mixed()  # warm up
        with FlopCounterMode(display=False) as counter:
            exact()
        flops, turns = counter.get_total_flops(), []
        for _ in range(args.turns):
            turns.append((flops / common.matmul_peak(), common.seconds_of(exact), common.seconds_of(mixed)))
        first = statistics.median(turn[1] for turn in turns)
        for i, name in ((1, "float32"), (2, "--amp")):
            seconds = statistics.median(turn[i] for turn in turns)
            limit = statistics.median(turn[i] / turn[0] for turn in turns)
            what = f"{args.model} at {size}x{size}, batch {args.batch_size}, {name}: an epoch"
            rows.append((what, f"{seconds:.2f} s", f"{seconds / first:.2f}", f"{limit:.2f}"))
    common.record("flowers, epoch", rows)


if __name__ == "__main__":
    main()
