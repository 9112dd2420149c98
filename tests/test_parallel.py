"""Several processes, as torchrun starts them."""

import os
import re
import signal
import subprocess
import sys

import pytest
import torch
from conftest import assert_same_weights, last_weights, logged

import data
import train_script
from data import create_flower_dataloaders
from training import PROJECT, UserError


def torchrun(script, root, data_root, *flags):
    """Two processes of a script, in a process group of their own."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    command = [*launcher, PROJECT / script, "--data-root", data_root, "--output-root", root, *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen(list(map(str, command)), **pipes)


def finished(*args):
    """(log, errors) of two processes that end well."""
    process = torchrun(*args)
    log, errors = process.communicate(timeout=100)
    assert process.returncode == 0, errors
    return log.splitlines(), errors


def losses(log):
    return [float(loss) for line in log for loss in re.findall("(?:Train|Valid) Loss: ([0-9.]+)", line)]


def test_two_processes_train_as_one_and_resume(tiny_flowers, tmp_path):
    flags = ["--model", "AE", "--image-size", 8, "--schedule", "step", "--lr", 1e-3]
    one, whole, parts = (tmp_path / name for name in ("one", "whole", "parts"))
    _, alone = logged(train_script.main, *flags, "--data-root", tiny_flowers, "--output-root", one, "--epochs", 2)
    log, errors = finished("train_script.py", whole, tiny_flowers, *flags, "--batch-size", 8, "--epochs", 2)
    assert [line.partition(":")[0] for line in log] == [line.partition(":")[0] for line in alone]
    assert losses(log) == pytest.approx(losses(alone), rel=0.01)
    assert errors.count("finished after") == 1
    finished("train_script.py", parts, tiny_flowers, *flags, "--batch-size", 8, "--epochs", 1)
    log_of_parts, _ = finished(
        "train_script.py", parts, tiny_flowers, *flags, "--batch-size", 8, "--epochs", 2, "--resume"
    )
    assert log_of_parts[3:] == log[3:]
    assert_same_weights(last_weights(parts, "AE"), last_weights(whole, "AE"))
    with pytest.raises(UserError, match="processes was 2, now None"):
        main_flags = [*flags, "--batch-size", 8, "--data-root", tiny_flowers, "--output-root", whole, "--resume"]
        train_script.main(list(map(str, main_flags)))


def test_a_process_that_dies_stops_the_others(tiny_mnist, tmp_path):
    flags = ["--model", "VAE", "--hidden-size", 16, "--epochs", 100_000, "--patience", 100_000]
    process = torchrun("main.py", tmp_path, tiny_mnist, *flags)
    assert any(line.startswith("Epoch: 2,") for line in iter(process.stdout.readline, ""))
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    workers = [int(pid) for pid in children.stdout.split()]
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Signal 9 (SIGKILL)" in errors  # torchrun says who died
    assert errors.count("error: another process of this training has ended") == 1
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
    with pytest.raises(UserError, match="13 processes cannot share 12 validation images"):
        create_flower_dataloaders(4, tiny_flowers, 8, 8)


def test_images_can_be_held_on_a_device(tiny_flowers):
    dataset = create_flower_dataloaders(4, tiny_flowers, 8, 8, mirror=True)[0].dataset.to("meta")
    images, labels = dataset[[0, 1]]
    assert (images.device.type, labels.device.type) == ("meta", "meta")
    assert (images.dtype, dataset.images.dtype) == (torch.float32, torch.uint8)
