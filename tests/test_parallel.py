"""Several processes, as torchrun starts them."""

import contextlib
import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from conftest import assert_same_weights, last_weights, logged

import data
import main
import train_script
from data import create_flower_dataloaders
from training import PROJECT, UserError


def torchrun(script, root, data_root, *flags):
    """Two processes of a script, in a process group of their own."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    command = [*launcher, PROJECT / script, "--data-root", data_root, "--output-root", root, *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen(list(map(str, command)), **pipes)


@contextlib.contextmanager
def ended(process):
    """Whatever happens, no process stays behind."""
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def finished(*args):
    """(log, errors) of two processes that end well."""
    with ended(torchrun(*args)) as process:
        log, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    return log.splitlines(), errors


def losses(log):
    return [float(loss) for line in log for loss in re.findall("(?:Train|Valid) Loss: ([0-9.]+)", line)]


def test_two_processes_train_as_one(tiny_mnist, tmp_path):
    flags = ["--model", "AE", "--hidden-size", 16, "--epochs", 2]
    one, two = tmp_path / "one", tmp_path / "two"
    _, alone = logged(main.main, *flags, "--batch-size", 20, "--data-root", tiny_mnist, "--output-root", one)
    log, errors = finished("main.py", two, tiny_mnist, *flags, "--batch-size", 10)
    assert [line.partition(":")[0] for line in log] == [line.partition(":")[0] for line in alone]
    assert losses(log) == pytest.approx(losses(alone), rel=1e-4)  # only the order of the sums differs
    assert errors.count("finished after") == 1
    assert sorted(path.name for path in two.rglob("*.p*")) == sorted(path.name for path in one.rglob("*.p*"))


def test_two_processes_resume(tiny_flowers, tmp_path):
    flags = ["--model", "VAE", "--image-size", 8, "--schedule", "step", "--batch-size", 8]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    log, _ = finished("train_script.py", whole, tiny_flowers, *flags, "--epochs", 2)
    finished("train_script.py", parts, tiny_flowers, *flags, "--epochs", 1)
    log_of_parts, _ = finished("train_script.py", parts, tiny_flowers, *flags, "--epochs", 2, "--resume")
    assert log_of_parts[3:] == log[3:]
    assert_same_weights(last_weights(parts, "VAE"), last_weights(whole, "VAE"))
    alone = [*flags, "--data-root", tiny_flowers, "--output-root", whole, "--resume"]
    with pytest.raises(UserError, match="processes was 2, now None"):
        train_script.main(list(map(str, alone)))


def test_a_process_that_dies_stops_the_others(tiny_mnist, tmp_path):
    flags = ["--model", "VAE", "--hidden-size", 16, "--epochs", 100_000, "--patience", 100_000]
    with ended(torchrun("main.py", tmp_path, tiny_mnist, *flags)) as process:
        assert any(line.startswith("Epoch: 2,") for line in iter(process.stdout.readline, ""))
        children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
        workers = [int(pid) for pid in children.stdout.split()]
        assert len(workers) == 2
        os.kill(workers[1], signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Signal 9 (SIGKILL)" in errors  # torchrun says who died
    # the other one finds out by itself, or is told by torchrun
    assert errors.count("another process of this training has ended") + errors.count("stopped; the same command") == 1
    assert not any(os.path.exists(f"/proc/{pid}") for pid in workers)


@pytest.mark.parametrize("processes", [2, 3])
def test_every_image_falls_to_one_process(processes, tiny_flowers, monkeypatch):
    shares = []
    monkeypatch.setattr(data, "WORLD_SIZE", processes)
    for rank in range(processes):
        torch.manual_seed(0)
        monkeypatch.setattr(data, "RANK", rank)
        loaders = create_flower_dataloaders(4, tiny_flowers, 8, 8)
        shares.append([[i for batch in loader.sampler for i in batch] for loader in loaders])
    for part, most_left_out in ((0, processes - 1), (1, 0)):
        images = len(loaders[part].dataset)
        taken = [i for share in shares for i in share[part]]
        assert len(set(taken)) == len(taken) >= images - most_left_out
    assert len({len(share[0]) for share in shares}) == 1  # as many steps in each
    assert sorted(shares[0][0]) != shares[0][0]
    monkeypatch.setattr(data, "WORLD_SIZE", 13)
    with pytest.raises(UserError, match="13 processes cannot share 48 training and 12 validation images"):
        create_flower_dataloaders(4, tiny_flowers, 8, 8)


def test_images_can_be_held_on_a_device(tiny_flowers):
    dataset = create_flower_dataloaders(4, tiny_flowers, 8, 8, mirror=True)[0].dataset.to("meta")
    images, labels = dataset[[0, 1]]
    assert (images.device.type, labels.device.type) == ("meta", "meta")
    assert (images.dtype, dataset.images.dtype) == (torch.float32, torch.uint8)
