"""Kill training runs again and again, resume them, and compare what they end with; called by test_faults.py.

    python tests/kill_loop.py KILLS FOLDER FLOWERS MNIST [MODEL ...]       # prints a line of JSON for each model

Each run is a fork of this process, which has done nothing but import: starting Python and PyTorch anew would take most
of the time. Half of the kills fall at a random moment, half as soon as a half-written file is seen.
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

import data
import main
import MLPAE_train_script
import train_script
import visualization
from checkpoints import load_checkpoint

RUNS = {
    "MLPAE": (MLPAE_train_script.main, ["--epochs", "24", "--patience", "24"]),
    "AE": (train_script.main, ["--model", "AE", "--image-size", "8", "--epochs", "24"]),
    "VAE": (train_script.main, ["--model", "VAE", "--image-size", "8", "--epochs", "24"]),
    "GAN": (train_script.main, ["--model", "GAN", "--image-size", "8", "--epochs", "6"]),
    "MNIST_VAE": (main.main, ["--model", "VAE", "--hidden-size", "16", "--epochs", "24"]),
}

for name in ("model", "trained", "Diffusion", "GAN", "VarAutoencoder", "torch.optim.lr_scheduler", "torch._dynamo"):
    importlib.import_module(name)
data.import_torchvision()
for name in ("plot_losses", "plot_latents", "plot_samples", "plot_reconstructions", "plot_latent_space"):
    setattr(visualization, name, lambda *_, **__: None)  # pictures take longer than the training


def start(work) -> int:
    """Run work() in a fork, silently; returns the process's id. Its status is 0, or 1 for an exception."""
    pid = os.fork()
    if pid:
        return pid
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        work()
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)


def finished(work) -> bool:
    """Whether work() ends without an exception."""
    return os.waitpid(start(work), 0)[1] == 0


def kill_at_a_bad_moment(pid, folder) -> str:
    """SIGKILL; returns "saving", "running" or, if it was over before, "done"."""
    deadline, wait_for_save = time.monotonic() + random.uniform(0, 0.2), random.random() < 0.5
    while time.monotonic() < deadline or wait_for_save:
        if os.waitpid(pid, os.WNOHANG)[0]:
            return "done"
        if wait_for_save and list(folder.glob(".*.tmp")):
            break
        time.sleep(0.0005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "saving" if list(folder.glob(".*.tmp")) else "running"


def check(folder):
    """Every checkpoint that is there loads."""
    for path in folder.glob("[BL]*Model_*.p??"):
        load_checkpoint(path, made_by="test")


def compare(folder, other):
    """The best and the last states are the same, bit for bit."""
    paths = sorted(folder.glob("[BL]*Model_*.p??"))
    assert [path.name[:4] for path in paths] == ["Best", "Last"], paths
    for path in paths:
        one, two = (load_checkpoint(file, made_by="test") for file in (path, other / path.name))
        different = [(a, b) for a, b in zip(one["history"], two["history"], strict=True) if a != b]
        assert not different, f"{len(different)} epochs differ, the first: {different[0]}"
        for entry in ("state_dict", "in_training"):
            weights = [flat(checkpoint.get(entry, {})) for checkpoint in (one, two)]
            assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True)), entry


def flat(weights):
    """The tensors of a state dict, or of the perceptron's lists of arrays."""
    arrays = [array for value in weights.values() for array in (value if isinstance(value, list) else [value])]
    return [torch.as_tensor(array) for array in arrays]


def kill_and_resume(run, kills, root) -> dict:
    """Kill run(["--output-root", ...]) so often; returns how many kills fell into what, and the hidden files left."""
    killed, whole = root / "killed", root / "whole"
    models = killed / "models"
    models.mkdir(parents=True)
    assert finished(lambda: run(["--output-root", str(whole)]))
    counts = {"saving": 0, "running": 0}
    while sum(counts.values()) < kills:
        moment = kill_at_a_bad_moment(start(lambda: run(["--output-root", str(killed), "--resume"])), models)
        if moment == "done":
            assert finished(lambda: compare(models, whole / "models"))
            for path in models.iterdir():
                path.unlink()  # and from the beginning
        else:
            counts[moment] += 1
            assert finished(lambda: check(models)), "a checkpoint does not load"
    assert finished(lambda: run(["--output-root", str(killed), "--resume"])), "it does not resume"
    assert finished(lambda: compare(models, whole / "models")), "it ends with other weights"
    return {**counts, "left": [path.name for path in models.glob(".*")]}


if __name__ == "__main__":
    kills, root, flowers, mnist, *names = sys.argv[1:]
    for name in names or RUNS:
        script, flags = RUNS[name]
        flags = [*flags, "--data-root", mnist if name.startswith("MNIST") else flowers]
        result = kill_and_resume(lambda argv, s=script, f=flags: s([*f, *argv]), int(kills), Path(root) / name)
        print(json.dumps({"model": name, **result}), flush=True)
