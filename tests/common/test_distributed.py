"""Several processes, as torchrun starts them. They take seconds to start, so `in_each_process` does much at once."""

import os
import signal
import sys
from unittest.mock import Mock

import pytest
import torch
from helpers import assert_same_weights, files_below, last_checkpoint, logged, run, write_mnist

import data
import main
import train_script
from training import PROJECT, UserError, distributed, loop
from training.learner import TorchLearner
from training.script import run_script, seed_everything

AE = ["--model", "AE", "--hidden-size", 16, "--epochs", 2]
VAE = ["--model", "VAE", "--image-size", 8, "--schedule", "step", "--batch-size", 8, "--epochs", 2]


def torchrun(script, *argv):
    """(status, log, errors) of two processes."""
    launcher = ["timeout", 100, sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    env = {**os.environ, "PYTHONPATH": f"{PROJECT}{os.pathsep}{PROJECT / 'tests'}"}
    status, log, errors = run([*launcher, script, *argv], env=env)
    return status, log.splitlines(), errors


def in_each_process(root, *flags):
    """A whole training, one in two parts, and one in which a process is killed."""
    print("process", os.getpid(), flush=True)
    train_script.init_distributed = Mock(return_value=distributed.init_distributed("cpu"))  # once is enough
    train_script.plot_losses = train_script.plot_latents = Mock()
    train_script.main([*flags, "--output-root", f"{root}/whole"])
    train_script.main([*flags, "--output-root", f"{root}/parts", "--epochs", "1"])
    train_script.main([*flags, "--output-root", f"{root}/parts", "--resume"])
    if distributed.rank() == 1:
        TorchLearner.train_step = lambda *args, **options: os.kill(os.getpid(), signal.SIGKILL)
    train_script.main([*flags, "--output-root", f"{root}/killed"])


def test_two_processes_train_as_one(tmp_path, monkeypatch):
    write_mnist(tmp_path, train=240)  # 220 of them to train on: of an odd number one would be left out
    flags, one, two = [*AE, "--data-root", tmp_path, "--output-root"], tmp_path / "one", tmp_path / "two"
    status, log, errors = torchrun(PROJECT / "main.py", *flags, two, "--batch-size", 10)
    assert (status, errors.count("finished after")) == (0, 1), errors
    monkeypatch.setattr(main, "plot_all", Mock())
    history, alone = logged(main.main, *flags, one, "--batch-size", 20)
    assert [line.partition(":")[0] for line in log] == [line.partition(":")[0] for line in alone]
    for found, expected in zip(last_checkpoint(two, "MNIST_AE")["history"], history, strict=True):
        assert found == pytest.approx(expected, rel=1e-4)  # only the order of the sums differs
    assert files_below(two / "models").keys() == files_below(one / "models").keys()


def test_two_processes_resume_to_the_same_bits_and_one_that_dies_stops_the_other(tiny_flowers, tmp_path):
    flags = [*VAE, "--data-root", tiny_flowers]
    status, log, errors = torchrun(__file__, tmp_path, *flags)
    assert (status, "Signal 9 (SIGKILL)" in errors) == (1, True), errors  # the other finds out by itself, or is told
    assert_same_weights(*(last_checkpoint(tmp_path / run, "VAE")["state_dict"] for run in ("parts", "whole")))
    whole, begun, resumed, killed = (run.splitlines() for run in "\n".join(log).split("Data: ")[1:])
    assert resumed == whole
    assert [sum(line.startswith("Epoch: ") for line in run) for run in (whole, begun, killed)] == [2, 1, 0]
    assert errors.count("another process of this training has ended") + errors.count("stopped; the same command") == 1
    assert [os.path.exists(f"/proc/{line.split()[1]}") for line in log if line.startswith("process ")] == [False, False]
    with pytest.raises(UserError, match="processes was 2, now None"):
        logged(train_script.main, *flags, "--output-root", tmp_path / "whole", "--resume")


def become(monkeypatch, rank, processes):
    """Tell this process what torchrun tells one of several."""
    for name, value in {"TORCHELASTIC_RUN_ID": 7, "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes}.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize("processes", [2, 5])
def test_every_image_falls_to_one_process_with_random_numbers_of_its_own(processes, tiny_flowers, monkeypatch):
    orders, shares = [], []
    monkeypatch.setattr(data, "broadcast", lambda order: orders.append(order) or orders[0])  # rank 0's
    for rank in range(processes):
        become(monkeypatch, rank, processes)
        seed_everything(0)
        loaders = data.create_flower_dataloaders(4, tiny_flowers, 8, 8)
        shares.append([[i for batch in loader.sampler for i in batch] for loader in loaders])
    assert len(set(map(tuple, orders))) == processes
    for part, most_left_out in ((0, processes - 1), (1, 0)):
        taken = [i for share in shares for i in share[part]]
        assert len(set(taken)) == len(taken) >= len(loaders[part].dataset) - most_left_out
    assert len({len(share[0]) for share in shares}) == 1  # as many steps in each
    become(monkeypatch, 0, 13)
    with pytest.raises(UserError, match="13 processes cannot share 48 \\+ 12 images"):
        data.create_flower_dataloaders(4, tiny_flowers, 8, 8)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")  # what torchrun did not start is alone
    assert (distributed.rank(), distributed.world_size()) == (0, 1)


def test_processes_that_cannot_train_together_are_refused(monkeypatch, tiny_mnist, tmp_path):
    monkeypatch.setattr(loop, "broadcast", lambda info: {**info, "fingerprint": "of rank 0"})
    with pytest.raises(UserError, match="other images"):
        logged(main.main, *AE, "--data-root", tiny_mnist, "--output-root", tmp_path)
    become(monkeypatch, 1, 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(distributed, "_find_device", torch.device)
    for device, message in (("cuda", "process 2 .* 1 GPUs"), ("mps", "not on mps")):
        with pytest.raises(UserError, match=f"{message}.*--device cpu"):
            distributed.init_distributed(device)


if __name__ == "__main__":
    run_script(lambda: in_each_process(*sys.argv[1:]))
