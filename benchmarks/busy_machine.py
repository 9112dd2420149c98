"""How much longer the scripts take beside a program that keeps one core busy: at most 2.5 times as long as alone.

    python -m benchmarks.busy_machine --turns 5         # about 10 minutes

Whole runs, in turns: alone, then beside an endless loop. The sampling needs the trained DDPM.
"""

import argparse
import contextlib
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.tools import seconds_of
from common import PROJECT
from common.flags import positive_int

COMMANDS = {
    "MLPAE, 6 epochs": "MLPAE_train_script.py --epochs 6",
    "AE, 2 epochs": "train_script.py --model AE --epochs 2",
    "VAE, 2 epochs": "train_script.py --model VAE --epochs 2",
    "MNIST VAE, 1 epoch": "main.py --model VAE --epochs 1",
    "DDPM, 60 samples": "random_generation.py --model DDPM",
}


@contextlib.contextmanager
def busy_core():
    """A process that keeps one core busy."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def run(command: str) -> float:
    """Seconds of a whole run, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "models").mkdir()
        shutil.copy(PROJECT / "models" / "BestModel_DDPM.pth", Path(folder) / "models")
        argv = [sys.executable, *command.split(), "--output-root", folder]
        return seconds_of(lambda: subprocess.run(argv, cwd=PROJECT, check=True, capture_output=True))


def main(argv=None):
    """Print the table; returns {name: busy over alone}."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--turns", type=positive_int, default=5)
    args = parser.parse_args(argv)
    ratios = {}
    print("| command | alone, s | beside a busy core, s | ratio |\n|---|---|---|---|")
    for name, command in COMMANDS.items():
        alone = []
        busy = []
        for _ in range(args.turns):
            alone.append(run(command))
            with busy_core():
                busy.append(run(command))
        ratios[name] = statistics.median(b / a for a, b in zip(alone, busy, strict=True))
        row = f"{statistics.median(alone):.1f} | {statistics.median(busy):.1f} | {ratios[name]:.2f}"
        print(f"| {name} | {row} |", flush=True)
    return ratios


if __name__ == "__main__":
    main()
