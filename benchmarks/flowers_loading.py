"""Reading the photographs: our loader against torchvision's ImageFolder in a DataLoader.

    python benchmarks/flowers_loading.py --turns 5

Time from nothing to the first batch of 16, and to go through the training images once more when they have been read
(what an epoch pays). In turns, in one process; the imports are done.
"""

import argparse
import statistics

import common
import flowers_training

import train_script
from data import create_flower_dataloaders, mirror
from training.flags import positive_int


def measure(make):
    """(seconds to the first training batch, seconds of an epoch after it) for make() -> loaders."""
    loaders = []
    first = common.seconds_of(lambda: loaders.append(make()[0]) or next(iter(loaders[0])))
    sum(len(images) for images, _ in loaders[0])  # warm up
    return first, common.seconds_of(lambda: sum(len(images) for images, _ in loaders[0]))


def main(argv=None):
    """Write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--turns", type=positive_int, default=5)
    turns = parser.parse_args(argv).turns
    args = train_script.parse_args(["--model", "AE"])
    ways = {
        "ours": lambda: create_flower_dataloaders(args.batch_size, data="real", transform=mirror),
        "ImageFolder": lambda: flowers_training.usual_loaders(args, workers=0),
        "ImageFolder, 2 workers": lambda: flowers_training.usual_loaders(args, workers=2),
    }
    results = {name: [] for name in ways}
    for _ in range(turns):
        for name, make in ways.items():
            results[name].append(measure(make))
    rows = []
    for i, what in enumerate(("first batch", "an epoch")):
        for name, pairs in results.items():
            ratio = statistics.median(a[i] / b[i] for a, b in zip(pairs, results["ours"], strict=True))
            median = statistics.median(pair[i] for pair in pairs)
            rows.append((f"{name}: {what}", f"{median * 1e3:.0f} ms", f"{ratio:.2f}", ""))
    common.record("flowers, loading", rows)


if __name__ == "__main__":
    main()
