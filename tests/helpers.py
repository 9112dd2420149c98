"""What several test files need: small data, scripts run in this process or as others, comparisons."""

import contextlib
import io
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from common import PROJECT
from common.checkpoints import load_checkpoint
from common.run import Run
from datasets.synthetic import FLOWER_CLASSES, make_digits, make_flowers

REAL_FLOWERS = PROJECT / "flowers"
REAL_MNIST = PROJECT / "mnist"
needs_flowers = pytest.mark.skipif(not REAL_FLOWERS.exists(), reason="the photographs are not in ./flowers")
needs_mnist = pytest.mark.skipif(not REAL_MNIST.exists(), reason="MNIST is not in ./mnist")


# ---------------------------------------------------------------- small data


def write_flowers(root, per_class=20):
    """A folder of three classes with so many PNGs each."""
    images, labels = make_flowers(per_class=per_class)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / FLOWER_CLASSES[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number:03}.png")
    return root


def write_idx(path, array):
    """A file as MNIST has them: a magic number, the sizes, and the bytes."""
    header = np.array([0x800 + array.ndim, *array.shape], ">i4")
    path.write_bytes(header.tobytes() + np.asarray(array, np.uint8).tobytes())


def write_mnist(root, train=300, test=100):
    """MNIST's four files with fewer digits, below root; returns their folder."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images, labels = (tensor.numpy() for tensor in make_digits(train + test))
    for split, part in (("train", slice(train)), ("t10k", slice(train, None))):
        write_idx(raw / f"{split}-images-idx3-ubyte", images[part, 0])
        write_idx(raw / f"{split}-labels-idx1-ubyte", labels[part])
    return raw


# ---------------------------------------------------------------- scripts


def logged(main, *argv):
    """Run a script's main() in this process; returns (what it returns, its log as lines)."""
    with contextlib.redirect_stdout(io.StringIO()) as log:
        result = main([str(arg) for arg in argv])
    return result, log.getvalue().splitlines()


def command(script, *argv):
    """The command line of a script, by any folder."""
    return [sys.executable, str(PROJECT / script), *map(str, argv)]


def popen(argv, **options):
    """A process that a signal can interrupt, also where this one is a background job of a shell."""
    interruptible = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(list(map(str, argv)), **{**pipes, **interruptible, **options})


def run(argv, **options):
    """(status, standard output, standard error) of a process."""
    process = popen(argv, **options)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def peak_memory(action) -> int:
    """By how many bytes the memory of this process grows at most while action() runs."""

    def memory(name):
        return 1024 * int(re.search(rf"{name}:\s*(\d+)", Path("/proc/self/status").read_text())[1])

    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = memory("VmRSS")
    action()
    return memory("VmHWM") - before


def interrupt_in_epoch(monkeypatch, epoch_to_stop):
    """Let every training be interrupted, as by Ctrl-C, after the first step of that epoch."""
    record = Run.record

    def interrupted(self, metrics):
        if len(self.history) + 1 == epoch_to_stop:
            raise KeyboardInterrupt
        record(self, metrics)

    monkeypatch.setattr(Run, "record", interrupted)


def skip_if_changed():
    """Skip where models/, vis/ or log/ hold other results than the repository's, after a training of the user's own."""
    git = ["git", "diff", "--quiet", "HEAD", "--", "models", "vis", "log"]
    with contextlib.suppress(FileNotFoundError):  # no git
        if subprocess.run(git, cwd=PROJECT, capture_output=True).returncode == 1:
            pytest.skip("models/, vis/ or log/ hold other results than the repository's")


# ---------------------------------------------------------------- comparisons


def best_checkpoint(root, name):
    """The best checkpoint of a model below an output root."""
    return load_checkpoint(root / "models" / f"BestModel_{name}{'.pkl' if name == 'MLPAE' else '.pth'}", "test")


def last_checkpoint(root, name):
    """The last state of a model below an output root."""
    return load_checkpoint(root / "models" / f"LastModel_{name}{'.pkl' if name == 'MLPAE' else '.pth'}", "test")


def assert_same_weights(found, expected):
    """Two state dicts are equal, bit for bit."""
    assert found.keys() == expected.keys()
    for name in found:
        assert torch.equal(found[name], expected[name]), name


def assert_figure(path):
    """A PNG that opens, has a sensible size, and is not blank."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[0] > 200
    assert pixels.shape[1] > 400
    assert pixels.std() > 5


def files_below(folder):
    """{path below folder: bytes} of every file."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
