"""What a busy process beside them costs the scripts, and whether what helps there costs time on a free machine.

    python benchmarks/busy_machine.py --before DIR --turns 5      # DIR: another checkout, to compare with

Whole runs, in turns: each command of each checkout alone, then beside a loop that keeps one core busy. Both checkouts
need the data (link flowers and mnist there), and the models of this one are copied for the sampling.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import common

from training import PROJECT
from training.flags import positive_int

COMMANDS = {
    "MLPAE, 6 epochs": "MLPAE_train_script.py --epochs 6",
    "AE, 2 epochs": "train_script.py --model AE --epochs 2",
    "VAE, 2 epochs": "train_script.py --model VAE --epochs 2",
    "MNIST VAE, 1 epoch": "main.py --model VAE --epochs 1",
    "DDPM, 60 samples": "random_generation.py --model DDPM",
}


@contextmanager
def busy(is_busy: bool):
    """A process of its own that keeps one core busy."""
    if not is_busy:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.2)
        yield
    finally:
        process.kill()
        process.wait()


def run(checkout: Path, command: str, output_root: Path) -> float:
    """Seconds of a whole run."""
    script, *flags = command.split()
    argv = [sys.executable, checkout / script, *flags, "--output-root", output_root]
    return common.seconds_of(lambda: subprocess.run(list(map(str, argv)), check=True, capture_output=True))


def main(argv=None):
    """Write the rows: seconds alone and beside the loop, and the medians of the ratios turn by turn."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--before", metavar="DIR", type=Path, required=True, help="another checkout")
    parser.add_argument("--turns", type=positive_int, default=5)
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    args = parser.parse_args(argv)
    checkouts = {"before": args.before.resolve(), "now": PROJECT}
    for name in args.commands:
        seconds = {(when, is_busy): [] for when in checkouts for is_busy in (False, True)}
        for _ in range(args.turns):
            for (when, is_busy), found in seconds.items():
                with tempfile.TemporaryDirectory() as folder:
                    shutil.copytree(checkouts[when] / "models", Path(folder) / "models")
                    with busy(is_busy):
                        found.append(run(checkouts[when], COMMANDS[name], Path(folder)))
        rows = []
        for (when, is_busy), found in seconds.items():
            alone = seconds[when if is_busy else "before", False]
            ratio = statistics.median(a / b for a, b in zip(found, alone, strict=True))
            where = "beside a busy process, over alone" if is_busy else "alone, over before"
            rows.append((f"{name}, {when}: {where}", f"{statistics.median(found):.1f} s", f"{ratio:.2f}", ""))
        common.record("busy machine", rows)


if __name__ == "__main__":
    main()
