"""One thread a worker, and what the tests share: small data, and models that are trained once for all of them."""

import os
import sys
import warnings

os.environ["OMP_NUM_THREADS"] = "1"  # before PyTorch loads; the scripts that tests start inherit it

import pytest
from helpers import logged, write_flowers, write_mnist

import main
import train_script
from common.process import run_script


@pytest.fixture
def status_of(monkeypatch):
    """status_of(main): what a script with this main() ends with: its status, or the line printed for status 1. What
    `run_script` changes in this process is put back, as in a notebook."""
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)

    def status_of(main):
        with pytest.raises(SystemExit) as status:
            run_script(main)
        return status.value.code

    with warnings.catch_warnings():
        yield status_of


@pytest.fixture(scope="session")
def tiny_flowers(tmp_path_factory):
    """A folder of three classes with 20 PNGs each."""
    return write_flowers(tmp_path_factory.mktemp("tiny data") / "flowers")


@pytest.fixture(scope="session")
def tiny_mnist(tmp_path_factory):
    """A folder with MNIST's four files, 300 digits to train on and 100 to test on."""
    root = tmp_path_factory.mktemp("tiny mnist")
    write_mnist(root)
    return root


@pytest.fixture(scope="session")
def trained_flowers(tiny_flowers, tmp_path_factory):
    """(output root, {model: (history, log)}): all of train_script.py's models, trained for three epochs on images of
    12x12. Tests that write below the root copy what they need first."""
    root = tmp_path_factory.mktemp("trained flowers")
    runs = {}
    flags = ["--data-root", tiny_flowers, "--output-root", root, "--image-size", 12, "--epochs", 3]
    for name, training in train_script.TRAININGS.items():
        dims = ["--encoding-dim", 8] if training.encoding_dim else []
        runs[name] = logged(train_script.main, "--model", name, *flags, *dims)
    return root, runs


@pytest.fixture(scope="session")
def trained_mnist(tiny_mnist, tmp_path_factory):
    """(output root, {model: (history, log)}): main.py's models with 16 hidden units and 3 latents, after three epochs.
    Tests that write below the root copy what they need first."""
    root = tmp_path_factory.mktemp("trained mnist")
    runs = {}
    flags = ["--data-root", tiny_mnist, "--output-root", root, "--latent-size", 3, "--epochs", 3]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "HIDDEN_SIZE", 16)
        for name in main.BETAS:
            runs[name] = logged(main.main, "--model", name, *flags)
    return root, runs
