"""What several benchmarks need: trainings inside this process and as processes of their own, and their times."""

import contextlib
import io
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable

from common import PROJECT


def seconds_of(function: Callable) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def train_quietly(main: Callable, *flags, **options) -> dict:
    """Train by a script's main(), silently and in a folder that is deleted; returns the row of the best epoch."""
    silent = io.StringIO()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(silent),
        contextlib.redirect_stderr(silent),
    ):
        history = main([*map(str, flags), "--output-root", folder], **options)
    return min(history, key=lambda row: row["valid_loss"])


def seconds_to(target: float, command: list) -> float:
    """Run a training as a process; returns the seconds from its start to the log's line with a validation loss of at
    most `target`. Raises RuntimeError where it fails or never reaches the target."""
    started = time.perf_counter()
    seconds = None
    argv = list(map(str, command))
    process = subprocess.Popen(argv, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for line in process.stdout:
        match = re.match(r"Epoch: \d+, .*Valid Loss: ([\d.]+)", line)
        if match and seconds is None and float(match[1]) <= target:
            seconds = time.perf_counter() - started
    if process.wait() or seconds is None:
        raise RuntimeError(f"{argv} ended with status {process.returncode}, and its loss at {target}: {seconds}")
    return seconds


def compare_trainings(target: float, commands: dict[str, list], turns: int) -> None:
    """Run {name: command} in turns and print a table: median seconds to the target, and the median over the turns of
    their ratio to the first command's, as the speed of a machine changes from turn to turn."""
    seconds = {name: [] for name in commands}
    for _ in range(turns):
        for name, command in commands.items():
            seconds[name].append(seconds_to(target, command))
    first = next(iter(seconds.values()))
    print(f"| | seconds to {target:g} | ratio |\n|---|---|---|")
    for name, times in seconds.items():
        ratio = statistics.median(time / reference for time, reference in zip(times, first, strict=True))
        print(f"| {name} | {statistics.median(times):.1f} | {ratio:.2f} |")
