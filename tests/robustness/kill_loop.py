"""Kill training runs again and again, resume them, and compare what they end with; called by test_faults.py.

    python tests/robustness/kill_loop.py KILLS FOLDER FLOWERS [MODEL ...]    # a line of JSON for each model

Each run is a fork of this process, which has done nothing but import: to start Python and PyTorch each time would take
most of the time. Of four kills, two let the run save two states first, so that it makes progress. Then each waits for a
random moment, and two of the four until a half-written file is seen.
"""

import importlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

import MLPAE_train_script
import train_script
from common.checkpoints import load_checkpoint

RUNS = {
    "MLPAE": (MLPAE_train_script, ["--epochs", "6", "--patience", "6"]),
    "GAN": (train_script, ["--model", "GAN", "--image-size", "8", "--batch-size", "48", "--epochs", "4"]),
}

importlib.import_module("torch._dynamo")  # or each fork would import it, for the optimizer's first step
torch.set_num_threads(1)  # no fork may inherit threads; each makes its own
MLPAE_train_script.plot_losses = train_script.plot_loss_curves = lambda *_: None  # it takes longer than the training
os.fsync = lambda _: time.sleep(0.01)  # long enough for half-written files to be seen
torch.nn.init.orthogonal_ = lambda weight, *_, **__: torch.nn.init.normal_(weight, 0, 0.05)  # and so does this


def start(run, *argv) -> int:
    """Run run(*argv) in a fork, silently; returns the process's id. Its status is 0, or 1 for an exception."""
    pid = os.fork()
    if pid:
        return pid
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    try:
        run(*argv)
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)


def finish(run, *argv) -> None:
    """The same to its end."""
    assert os.waitpid(start(run, *argv), 0)[1] == 0, "a run does not end well"


def kill_at_a_bad_moment(pid, folder, saves, wait_for_save) -> str:
    """SIGKILL after so many saves; returns "saving", "running" or, if it was over before, "done"."""

    def last_saved():
        return [path.stat().st_mtime_ns for path in folder.glob("LastModel_*.p??")]

    seen = last_saved()
    moment = time.monotonic() + random.uniform(0, 0.1)
    while saves or time.monotonic() < moment or (wait_for_save and not list(folder.glob(".*"))):
        if os.waitpid(pid, os.WNOHANG)[0]:
            return "done"
        if saves and last_saved() != seen:
            saves -= 1
            seen = last_saved()
            moment = time.monotonic() + random.uniform(0, 0.1)
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "saving" if list(folder.glob(".*")) else "running"


def load_both(folder) -> list[dict]:
    """The best and the last state, where they exist; each has to load."""
    return [load_checkpoint(path, made_by="test") for path in sorted(folder.glob("[BL]*Model_*.p??"))]


def compare(folder, other) -> None:
    """The best and the last states are the same, bit for bit."""
    pairs = list(zip(load_both(folder), load_both(other), strict=True))
    assert len(pairs) == 2
    for one, two in pairs:
        assert one["history"] == two["history"]
        for entry in ("state_dict", "raw_state_dict"):
            weights = [flat(checkpoint.get(entry, {})) for checkpoint in (one, two)]
            assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True)), entry


def flat(weights):
    """The tensors of a state dict, or of the perceptron's lists of arrays."""
    arrays = [array for value in weights.values() for array in (value if isinstance(value, list) else [value])]
    return [torch.as_tensor(array) for array in arrays]


def kill_and_resume(run, kills, root) -> dict:
    """Kill run(output root, ...) so often; returns how many kills fell into what, the most epochs that were resumed,
    and the hidden files left."""
    killed = root / "killed"
    whole = root / "whole"
    models = killed / "models"
    models.mkdir(parents=True)
    finish(run, whole)
    counts = {"saving": 0, "running": 0}
    resumed = 0
    while (number := sum(counts.values())) < kills:
        pid = start(run, killed, "--resume")
        moment = kill_at_a_bad_moment(pid, models, saves=number % 2 * 2, wait_for_save=number % 4 < 2)
        if moment == "done":
            compare(models, whole / "models")
            for path in models.iterdir():
                path.unlink()  # and from the beginning
        else:
            counts[moment] += 1
            resumed = max([resumed, *(len(state["history"]) for state in load_both(models)[1:])])
    finish(run, killed, "--resume")
    compare(models, whole / "models")
    return {**counts, "resumed": resumed, "left": [path.name for path in models.glob(".*")]}


if __name__ == "__main__":
    kills, root, flowers, *names = sys.argv[1:]
    for name in names or RUNS:
        script, flags = RUNS[name]
        flags = [*flags, "--data-root", flowers, "--output-root"]
        result = kill_and_resume(lambda *argv: script.main([*flags, *map(str, argv)]), int(kills), Path(root) / name)  # noqa: B023
        print(json.dumps({"model": name, **result}), flush=True)
