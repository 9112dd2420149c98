"""From typing a command to its first batch, and what the imports cost.

    python benchmarks/start_up.py --turns 5

Each measurement is a process of its own; `--help` should answer within half a second.
"""

import argparse
import re
import statistics
import subprocess
import sys

import common

from training import PROJECT, positive_int

SCRIPTS = ("MLPAE_train_script.py", "train_script.py", "main.py", "visualization.py", "random_generation.py")
SHOWN = ("numpy", "torch", "torch._dynamo", "torchvision", "matplotlib.figure", "tqdm")
FIRST_BATCH = """
import sys, {module}, training
def stop(*_): sys.exit()
training.average = stop
{module}.main(sys.argv[1:])
"""


def seconds_of(*command) -> float:
    """How long a process takes."""
    return common.seconds_of(lambda: subprocess.run([sys.executable, *command], cwd=PROJECT, capture_output=True))


def import_costs(module: str) -> dict[str, float]:
    """{name: seconds with all that it imports} of a script's start."""
    code = FIRST_BATCH.format(module=module)
    command = [sys.executable, "-X", "importtime", "-c", code, "--model", "AE"]
    lines = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True).stderr.splitlines()
    found = (re.match(r"import time: +\d+ \| +(\d+) \| +(\S+)$", line) for line in lines)
    return {match[2]: int(match[1]) / 1e6 for match in found if match and match[2] in SHOWN}


def main(argv=None):
    """Write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--turns", type=positive_int, default=5)
    turns = parser.parse_args(argv).turns
    commands = {f"{script} --help": [script, "--help"] for script in SCRIPTS}
    for module, flags in (("MLPAE_train_script", []), ("train_script", ["--model", "AE"]), ("main", ["--model", "AE"])):
        commands[f"{module}.py to its first batch"] = ["-c", FIRST_BATCH.format(module=module), *flags]
    rows = []
    for name, command in commands.items():
        seconds = statistics.median(seconds_of(*command) for _ in range(turns))
        rows.append((name, f"{seconds:.2f} s", "", ""))
    costs = import_costs("train_script")
    rows += [(f"import {name}, in train_script.py", f"{seconds:.2f} s", "", "") for name, seconds in costs.items()]
    common.record("start-up", rows)


if __name__ == "__main__":
    main()
