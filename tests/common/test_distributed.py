"""Several processes, as torchrun starts them. They take seconds to start, so `in_each_process` does much in one go."""

import os
import signal
import sys
from functools import partial
from unittest.mock import Mock

import pytest
import torch
from helpers import assert_same_weights, files_below, last_checkpoint, logged, run, write_mnist

import main
import train_script
from common import PROJECT, UserError, distributed
from common.process import run_script, seed_everything
from common.run import Run
from data import create_flower_dataloaders
from datasets import images

AE = ["--model", "AE", "--epochs", 2, "--latent-size", 3]
VAE = ["--model", "VAE", "--image-size", 8, "--optimizer", "sgd", "--batch-size", 8, "--epochs", 2]


def without_pictures():
    """Let main.py and train_script.py plot nothing, and main.py train a small model."""
    main.HIDDEN_SIZE = 16
    for script in (main, train_script):
        script.plot_loss_curves = Mock()
    main.plot_pictures = Mock()


def in_each_process(root, flowers, mnist):
    """A training of main.py; of train_script.py a whole one, one in two parts, and one in which a process is killed."""
    print("process", os.getpid(), flush=True)
    without_pictures()
    device = distributed.init_distributed("cpu")  # once is enough
    train_script.init_distributed = main.init_distributed = Mock(return_value=device)
    main.main([*map(str, AE), "--data-root", mnist, "--batch-size", "10", "--output-root", f"{root}/two"])
    train = partial(lambda *flags: train_script.main([*map(str, VAE), "--data-root", flowers, *flags]), "--output-root")
    train(f"{root}/whole")
    train(f"{root}/parts", "--epochs", "1")
    train(f"{root}/parts", "--resume")
    if distributed.rank() == 1:
        Run.record = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    train(f"{root}/killed")


def test_two_processes_train_as_one_resume_to_the_same_bits_and_one_that_dies_stops_the_other(
    tiny_flowers, tmp_path, monkeypatch
):
    mnist = tmp_path / "mnist"
    write_mnist(mnist, train=240)  # 220 of them to train on: of an odd number one would be left out
    launcher = ["timeout", 100, sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2]
    env = {**os.environ, "PYTHONPATH": f"{PROJECT}{os.pathsep}{PROJECT / 'tests'}"}
    status, out, errors = run([*launcher, __file__, tmp_path, tiny_flowers, mnist], env=env)
    assert (status, "Signal 9 (SIGKILL)" in errors) == (1, True), errors
    assert errors.count("another process of this training has ended") + errors.count("stopped; the same command") == 1
    assert errors.count("finished after") == 4  # of rank 0 alone
    pids = [line.split()[1] for line in out.splitlines() if line.startswith("process ")]
    assert [os.path.exists(f"/proc/{pid}") for pid in pids] == [False, False]
    two, whole, begun, resumed, killed = (part.splitlines() for part in out.split("Data: ")[1:])

    with monkeypatch.context() as patch:
        for name in ("HIDDEN_SIZE", "plot_loss_curves", "plot_pictures"):
            patch.setattr(main, name, 16 if name == "HIDDEN_SIZE" else Mock())
        flags = ["--data-root", mnist, "--batch-size", 20, "--output-root", tmp_path / "one"]
        history, log = logged(main.main, *AE, *flags)
    assert [line.partition(":")[0] for line in two[1:]] == [line.partition(":")[0] for line in log[1:]]
    for row, expected in zip(last_checkpoint(tmp_path / "two", "MNIST_AE")["history"], history, strict=True):
        assert row == pytest.approx(expected, rel=1e-4)  # only the order of the sums differs
    assert files_below(tmp_path / "two" / "models").keys() == files_below(tmp_path / "one" / "models").keys()

    assert_same_weights(*(last_checkpoint(tmp_path / part, "VAE")["state_dict"] for part in ("parts", "whole")))
    assert [line.replace("/parts/", "/whole/") for line in resumed] == whole
    assert [sum(line.startswith("Epoch: ") for line in part) for part in (whole, begun, killed)] == [2, 1, 0]
    with pytest.raises(UserError, match="processes was 2, now None"):
        logged(train_script.main, *VAE, "--data-root", tiny_flowers, "--output-root", tmp_path / "whole", "--resume")


def become(monkeypatch, rank, processes):
    """Set the environment that torchrun sets for one of several processes."""
    for name, value in {"TORCHELASTIC_RUN_ID": 7, "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes}.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize("processes", [2, 5])
def test_every_image_falls_to_one_process_with_random_numbers_of_its_own(processes, tiny_flowers, monkeypatch):
    orders = []
    shares = []
    monkeypatch.setattr(images, "broadcast", lambda order: orders.append(order) or orders[0])  # rank 0's
    for rank in range(processes):
        become(monkeypatch, rank, processes)
        seed_everything(0)
        loaders = create_flower_dataloaders(4, tiny_flowers, 8, 8)
        shares.append([[i for batch in loader.sampler for i in batch] for loader in loaders])
    assert len(set(map(tuple, orders))) == processes
    for part, most_left_out in ((0, processes - 1), (1, 0)):
        taken = [i for share in shares for i in share[part]]
        assert len(set(taken)) == len(taken) >= len(loaders[part].dataset) - most_left_out
    assert len({len(share[0]) for share in shares}) == 1  # as many steps in each
    become(monkeypatch, 0, 13)
    with pytest.raises(UserError, match="13 processes cannot share 48 \\+ 12 images"):
        create_flower_dataloaders(4, tiny_flowers, 8, 8)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")  # a process that torchrun did not start is alone
    assert (distributed.rank(), distributed.world_size()) == (0, 1)


def test_processes_that_cannot_train_together_are_refused(monkeypatch, tiny_flowers, tmp_path):
    with monkeypatch.context() as patch, pytest.raises(UserError, match="other images"):
        patch.setattr("common.run.broadcast", lambda info: {**info, "fingerprint": "of rank 0"})
        logged(train_script.main, *VAE, "--data-root", tiny_flowers, "--output-root", tmp_path)
    become(monkeypatch, 1, 2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(distributed, "_find_device", torch.device)
    for device, message in (("cuda", "process 2 .* 1 GPUs"), ("mps", "not on mps")):
        with pytest.raises(UserError, match=f"{message}.*--device cpu"):
            distributed.init_distributed(device)


if __name__ == "__main__":
    run_script(lambda: in_each_process(*sys.argv[1:]))
