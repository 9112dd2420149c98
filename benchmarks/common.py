"""What the benchmarks share: the machine's peak, whole runs as processes, and the table of results."""

import datetime
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

RESULTS = Path(__file__).with_name("results.md")
sys.path.insert(0, str(RESULTS.parent.parent))  # the scripts


def seconds_of(function) -> float:
    """How long one call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def matmul_peak(size: int = 1024, repeats: int = 20) -> float:
    """Floating-point operations a second of a product of two float32 matrices in PyTorch, the median."""
    import torch

    a = torch.randn(size, size)
    return 2 * size**3 / statistics.median(seconds_of(lambda: a @ a) for _ in range(repeats))


def run_to(target: float, command: list) -> dict:
    """Run a training as a process: seconds until a line of its log has a validation loss of at most `target`, the
    epoch and the loss there, seconds until its end, and the peak memory in MiB (of the largest of its processes)."""
    started, reached = time.perf_counter(), {}
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    for line in process.stdout:
        found = re.match(r"Epoch: (\d+), .*Valid Loss: ([\d.]+)", line)
        if found and not reached and float(found[2]) <= target:
            reached = {"seconds": time.perf_counter() - started, "epoch": int(found[1]), "loss": float(found[2])}
    _, status, usage = os.wait4(process.pid, 0)
    if status or not reached:
        raise RuntimeError(f"{command} ended with status {status}, at {target}: {reached}")
    return {**reached, "whole": time.perf_counter() - started, "peak": usage.ru_maxrss / 1024}


def compare_runs(title: str, target: float, ways: dict[str, list], turns: int) -> None:
    """Run {name: command} in turns, and write a row for each; the ratio is the median over the turns, to the first."""
    runs = {name: [] for name in ways}
    for _ in range(turns):
        for name, command in ways.items():
            runs[name].append(run_to(target, command))
    first, rows = next(iter(runs.values())), []
    for name, results in runs.items():
        median = statistics.median(result["seconds"] for result in results)
        ratio = statistics.median(a["seconds"] / b["seconds"] for a, b in zip(results, first, strict=True))
        last = results[-1]
        whole = f"{last['whole']:.1f} s and {last['peak']:.0f} MiB in all, last turn"
        there = f"epoch {last['epoch']}, {last['loss']:.4g}; {whole}"
        rows.append((f"{name}: {there}", f"{median:.1f} s to {target:g}", f"{ratio:.2f}", ""))
    record(title, rows)


def record(title: str, rows: list[tuple[str, str, str, str]]) -> None:
    """Print (what, median, time over the first, time over the arithmetic) and append them to the table at the end of
    results.md."""
    import torch

    day = datetime.date.today().isoformat()
    machine = (
        f"{os.cpu_count()} cores {platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    with RESULTS.open("a", encoding="utf-8") as file:
        for row in rows:
            line = f"| {day} | {machine} | {title} | {' | '.join(row)} |"
            print(line, flush=True)
            file.write(line + "\n")
