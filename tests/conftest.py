"""Small data that the tests share."""

import contextlib
import io
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

from synthetic import FLOWER_CLASSES, make_digits, make_flowers
from training import PROJECT, load_checkpoint

REAL_FLOWERS, REAL_MNIST = PROJECT / "flowers", PROJECT / "mnist"
FIELDS = {
    "AE": r"Epoch: \d+, Train Loss: 0\.\d{6}, Valid Loss: 0\.\d{6}( \*)?",
    "VAE": r"Epoch: \d+, Train Loss: \d+\.\d{6}, Valid Loss: \d+\.\d{6}, Train Recon: \d+\.\d{6},"
    r" Valid Recon: \d+\.\d{6}, Train KL: \d+\.\d{6}, Valid KL: \d+\.\d{6}( \*)?",
}
needs_flowers = pytest.mark.skipif(not REAL_FLOWERS.exists(), reason="the photographs are not in ./flowers")
needs_mnist = pytest.mark.skipif(not REAL_MNIST.exists(), reason="MNIST is not in ./mnist")


def skip_if_changed():
    """Skip where models/, vis/ or log/ hold other results than the repository's, after a training of the user's own."""
    command = ["git", "diff", "--quiet", "HEAD", "--", "models", "vis", "log"]
    with contextlib.suppress(FileNotFoundError):  # no git
        if subprocess.run(command, cwd=PROJECT, capture_output=True).returncode == 1:
            pytest.skip("models/, vis/ or log/ hold other results than the repository's")


@pytest.fixture(scope="session")
def tiny_flowers(tmp_path_factory):
    """A folder of three classes with 20 PNGs each."""
    root = tmp_path_factory.mktemp("tiny flowers")
    images, labels = make_flowers(per_class=20)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / FLOWER_CLASSES[label]
        folder.mkdir(exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number:03}.png")
    return root


def write_idx(path, array):
    """A file as MNIST has them: a magic number, the sizes, and the bytes."""
    header = np.array([0x800 + array.ndim, *array.shape], ">i4")
    path.write_bytes(header.tobytes() + np.asarray(array, np.uint8).tobytes())


def write_mnist(root, train=300, test=100):
    """MNIST's four files with fewer digits, below root."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images, labels = (tensor.numpy() for tensor in make_digits(train + test))
    for split, part in (("train", slice(train)), ("t10k", slice(train, None))):
        write_idx(raw / f"{split}-images-idx3-ubyte", images[part, 0])
        write_idx(raw / f"{split}-labels-idx1-ubyte", labels[part])
    return raw


@pytest.fixture(scope="session")
def tiny_mnist(tmp_path_factory):
    """A folder with MNIST's four files, 300 digits to train on and 100 to test on."""
    root = tmp_path_factory.mktemp("tiny mnist")
    write_mnist(root)
    return root


def assert_picture(path):
    """A picture that opens, has a sensible size, and is not blank."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[0] > 200
    assert pixels.shape[1] > 400
    assert pixels.std() > 5


def logged(main, *argv):
    """Run a script's main(); returns (what it returns, its log as lines)."""
    with contextlib.redirect_stdout(io.StringIO()) as log:
        result = main([str(arg) for arg in argv])
    return result, log.getvalue().splitlines()


def last_weights(root, name):
    return load_checkpoint(root / "models" / f"LastModel_{name}.pth", made_by="test")["state_dict"]


def assert_same_weights(found, expected):
    assert found.keys() == expected.keys()
    for name in found:
        assert torch.equal(found[name], expected[name]), name


def stopped_in_epoch(stop, make_steps):
    """make_steps, whose train_step is interrupted by Ctrl-C in that epoch."""

    def make(*args):
        step, *others = make_steps(*args)

        def train_step(images, labels, epoch):
            if epoch == stop:
                raise KeyboardInterrupt
            return step(images, labels, epoch)

        return train_step, *others

    return make
