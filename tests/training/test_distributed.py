"""Several processes, as torchrun starts them."""

import contextlib
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from helpers import assert_same_weights, last_checkpoint, logged, popen

import main
import train_script
from data import create_flower_dataloaders
from training import PROJECT, UserError


@contextlib.contextmanager
def torchrun(script, root, data_root, *flags):
    """Two processes of a script, in a process group of their own, of which none stays behind."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    argv = [*launcher, PROJECT / script, "--data-root", data_root, "--output-root", root, *flags]
    process = popen(argv, preexec_fn=None, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def finished(*args):
    """(log, errors) of two processes that end well."""
    with torchrun(*args) as process:
        log, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    return log.splitlines(), errors


def losses(log):
    return [float(loss) for line in log for loss in re.findall("(?:Train|Valid) Loss: ([0-9.]+)", line)]


@pytest.mark.xdist_group("one torchrun")
def test_two_processes_train_as_one(tiny_mnist, tmp_path):
    flags = ["--model", "AE", "--hidden-size", 16, "--epochs", 2]
    one, two = tmp_path / "one", tmp_path / "two"
    _, alone = logged(main.main, *flags, "--batch-size", 20, "--data-root", tiny_mnist, "--output-root", one)
    log, errors = finished("main.py", two, tiny_mnist, *flags, "--batch-size", 10)
    assert [line.partition(":")[0] for line in log] == [line.partition(":")[0] for line in alone]
    assert losses(log) == pytest.approx(losses(alone), rel=1e-4)  # only the order of the sums differs
    assert errors.count("finished after") == 1
    assert sorted(path.name for path in two.rglob("*.p*")) == sorted(path.name for path in one.rglob("*.p*"))


@pytest.mark.xdist_group("torchruns")
def test_a_process_that_dies_stops_the_others_and_both_resume(tiny_flowers, tmp_path):
    flags = ["--model", "VAE", "--image-size", 8, "--schedule", "step", "--batch-size", 8, "--patience", 100_000]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    with torchrun("train_script.py", parts, tiny_flowers, *flags, "--epochs", 100_000) as process:
        assert any(line.startswith("Epoch: 2,") for line in iter(process.stdout.readline, ""))
        children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
        workers = [int(pid) for pid in children.stdout.split()]
        assert len(workers) == 2
        os.kill(workers[1], signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "SIGKILL" in errors  # torchrun says who died
    assert ("another process" in errors) != ("--resume" in errors)  # the other one notices, or is told by torchrun
    assert not any(os.path.exists(f"/proc/{pid}") for pid in workers)

    epochs = len(last_checkpoint(parts, "VAE")["history"]) + 1
    log, _ = finished("train_script.py", whole, tiny_flowers, *flags, "--epochs", epochs)
    log_of_parts, _ = finished("train_script.py", parts, tiny_flowers, *flags, "--epochs", epochs, "--resume")
    assert log_of_parts[3:] == log[3:]
    last = (last_checkpoint(root, "VAE")["state_dict"] for root in (parts, whole))
    assert_same_weights(*last)
    alone = [*flags, "--data-root", tiny_flowers, "--output-root", whole, "--resume"]
    with pytest.raises(UserError, match="processes was 2, now None"):
        train_script.main(list(map(str, alone)))


@pytest.mark.parametrize("processes", [2, 3])
def test_every_image_falls_to_one_process(processes, tiny_flowers, monkeypatch):
    def loaders_of(rank, world_size):
        for name, value in (("TORCHELASTIC_RUN_ID", "test"), ("RANK", rank), ("WORLD_SIZE", world_size)):
            monkeypatch.setenv(name, str(value))
        return create_flower_dataloaders(4, tiny_flowers, 8, 8)

    monkeypatch.setattr("data.broadcast", lambda value: value)  # as the same seed gives every rank the same order
    parts = []
    for rank in range(processes):
        torch.manual_seed(0)
        loaders = loaders_of(rank, processes)
        parts.append([[i for batch in loader.sampler for i in batch] for loader in loaders])
    for split, most_left_out in ((0, processes - 1), (1, 0)):
        images = len(loaders[split].dataset)
        taken = [i for part in parts for i in part[split]]
        assert len(set(taken)) == len(taken) >= images - most_left_out
    assert len({len(part[0]) for part in parts}) == 1  # as many steps in each
    assert sorted(parts[0][0]) != parts[0][0]
    with pytest.raises(UserError, match="13 processes .* 48 .* 12 "):
        loaders_of(0, 13)


def test_images_can_be_held_on_a_device(tiny_flowers):
    dataset = create_flower_dataloaders(4, tiny_flowers, 8, 8, mirror=True)[0].dataset.to("meta")
    images, labels = dataset[[0, 1]]
    assert (images.device.type, labels.device.type) == ("meta", "meta")
    assert (images.dtype, dataset.images.dtype) == (torch.float32, torch.uint8)
