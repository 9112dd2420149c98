"""From typing a command to its first batch, and what the imports cost.

    python benchmarks/start_up.py --turns 5

Each measurement is a process of its own; `--help` should answer within half a second.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile

import common

from training import PROJECT
from training.flags import positive_int

SCRIPTS = ("MLPAE_train_script.py", "train_script.py", "main.py", "visualization.py", "random_generation.py")
SHOWN = ("numpy", "torch", "torch._dynamo", "tqdm")
FIRST_BATCH = """
import sys, {module}, training.loop
def stop(*_): sys.exit()
training.loop.average = stop
{module}.main(sys.argv[1:])
"""


def seconds_of(*command) -> float:
    """How long a process takes."""
    return common.seconds_of(lambda: run(*command))


def run(*command):
    """What a process of Python prints on standard error."""
    done = subprocess.run([sys.executable, *command], cwd=PROJECT, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"{command} ended with status {done.returncode}: {done.stderr.decode()}")
    return done.stderr.decode()


def import_costs(*command) -> dict[str, float]:
    """{name: seconds with all that it imports} of a script's start."""
    lines = run("-X", "importtime", *command).splitlines()
    found = (re.match(r"import time: +\d+ \| +(\d+) \| +(\S+)$", line) for line in lines)
    return {match[2]: int(match[1]) / 1e6 for match in found if match and match[2] in SHOWN}


def main(argv=None):
    """Write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--turns", type=positive_int, default=5)
    turns = parser.parse_args(argv).turns
    commands = {f"{script} --help": [script, "--help"] for script in SCRIPTS}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for module in ("MLPAE_train_script", "train_script", "main"):
            flags = ["--output-root", folder, *([] if module == "MLPAE_train_script" else ["--model", "AE"])]
            commands[f"{module}.py to its first batch"] = ["-c", FIRST_BATCH.format(module=module), *flags]
        for name, command in commands.items():
            seconds = statistics.median(seconds_of(*command) for _ in range(turns))
            rows.append((name, f"{seconds:.2f} s", "", ""))
        costs = import_costs(*commands["train_script.py to its first batch"])
    rows += [(f"import {name}, in train_script.py", f"{seconds:.2f} s", "", "") for name, seconds in costs.items()]
    common.record("start-up", rows)


if __name__ == "__main__":
    main()
