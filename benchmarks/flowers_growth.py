"""How an epoch's time and the peak memory grow with the images, their side, the latent vector and the batch.

    python benchmarks/flowers_growth.py --model VAE

Each measurement is a process of its own, which reports the faster of two epochs (training and validation) after a
warm-up, and how far its peak memory is above that after the imports. One thing changes at a time; the exponent is the
slope of a line through the logarithms.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import common
import flowers_epoch
import numpy as np

from training import PROJECT

SWEEPS = {
    "images": ("--times", (1, 2, 6)),
    "pixels of a side": ("--image-size", (24, 48, 96)),
    "latent numbers": ("--encoding-dim", (64, 256)),
    "images a batch": ("--batch-size", (16, 64, 256)),
}


def links(folder: Path, times: int) -> Path:
    """A folder that names every photograph so many times."""
    for photograph in filter(Path.is_file, (PROJECT / "flowers").resolve().rglob("*")):
        (folder / photograph.parent.name).mkdir(exist_ok=True)
        for number in range(times):
            (folder / photograph.parent.name / f"{number} {photograph.name}").symlink_to(photograph)
    return folder


def measure(model: str, root: str, flags: list[str]) -> None:
    """Print [seconds of an epoch, peak memory in MiB above that before it] of this process."""
    before = peak()
    epoch = flowers_epoch.epoch_of(model, *flags, root=root)
    epoch()
    seconds = min(common.seconds_of(epoch) for _ in range(2))
    print(json.dumps([seconds, peak() - before]))


def peak() -> float:
    """The most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def sweep(model: str, flag: str, value: int) -> tuple[float, float]:
    """What `measure` prints in a process of its own, with one flag changed."""
    with tempfile.TemporaryDirectory() as folder:
        root = links(Path(folder), value if flag == "--times" else 1)
        flags = [] if flag == "--times" else [flag, str(value)]
        command = [sys.executable, __file__, "--model", model, "--measure", str(root), *flags]
        return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def main(argv=None):
    """Write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=["AE", "VAE"], default="AE")
    parser.add_argument("--measure", metavar="DIR", help="only measure, with the flags that follow, in this process")
    args, flags = parser.parse_known_args(argv)
    if args.measure:
        measure(args.model, args.measure, flags)
        return
    rows = []
    for what, (flag, values) in SWEEPS.items():
        seconds, peaks = zip(*(sweep(args.model, flag, value) for value in values), strict=True)
        slopes = [np.polyfit(np.log(values), np.log(column), 1)[0] for column in (seconds, peaks)]
        each = ", ".join(f"{value}: {s:.2f} s, {p:.0f} MiB" for value, s, p in zip(values, seconds, peaks, strict=True))
        exponents = f"exponent {slopes[0]:.2f} (time), {slopes[1]:.2f} (memory)"
        rows.append((f"{args.model}, {what}: {each}", exponents, "", ""))
    common.record("flowers, growth", rows)


if __name__ == "__main__":
    main()
