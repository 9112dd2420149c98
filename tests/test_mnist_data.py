"""MNIST: what is read, downloaded, refused and, where it cannot be had, drawn."""

import gzip
import hashlib
import http.server
import threading
from functools import partial

import numpy as np
import pytest
import torch
from conftest import needs_mnist, write_idx, write_mnist

import data
from data import create_mnist_dataloaders, describe, import_torchvision
from synthetic import make_digits
from training import UserError


@pytest.fixture
def raw(tmp_path):
    """The folder of a small MNIST that a test may damage."""
    return write_mnist(tmp_path / "mnist", train=40, test=20)


@pytest.fixture
def offline(monkeypatch):
    """No server of MNIST answers: nothing listens on that port."""
    monkeypatch.setattr(import_torchvision().datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])


@pytest.fixture
def no_data(offline, monkeypatch, tmp_path):
    """A project folder without data, and a small stand-in."""
    monkeypatch.setattr(data, "PROJECT", tmp_path)
    monkeypatch.setattr(data, "make_digits", lambda: make_digits(70))
    monkeypatch.setattr(data, "MNIST_TRAIN", 60)
    return tmp_path


def test_batches_are_floats_in_the_unit_interval(tiny_mnist):
    train, test = create_mnist_dataloaders(64, tiny_mnist)
    assert isinstance(train, torch.utils.data.DataLoader)
    assert [len(images) for images, _ in train] == [64, 64, 64, 64, 44]
    assert [len(images) for images, _ in test] == [100]
    assert train.dataset.images.dtype == torch.uint8
    for images, labels in (*train, *test):
        assert images.shape[1:] == (1, 28, 28)
        assert images.dtype == torch.float32
        assert images.min() == 0
        assert 0.9 < images.max() <= 1
        assert labels.dtype == torch.int64
        assert set(labels.tolist()) <= set(range(10))


def test_the_files_bytes_arrive_in_order(tiny_mnist):
    raw = tiny_mnist / "MNIST" / "raw"
    for split, loader in zip(("train", "t10k"), create_mnist_dataloaders(64, tiny_mnist), strict=True):
        pixels = np.frombuffer((raw / f"{split}-images-idx3-ubyte").read_bytes()[16:], np.uint8)
        np.testing.assert_array_equal(loader.dataset.images.numpy().ravel(), pixels)
        labels = np.frombuffer((raw / f"{split}-labels-idx1-ubyte").read_bytes()[8:], np.uint8)
        np.testing.assert_array_equal(loader.dataset.labels, labels)


def test_training_digits_come_in_a_new_order_each_epoch_and_test_digits_in_one(tiny_mnist):
    train, test = create_mnist_dataloaders(64, tiny_mnist)

    def epoch(loader):
        return torch.cat([images for images, _ in loader]).flatten(1)

    first, second = epoch(train), epoch(train)
    assert not torch.equal(first, second)
    assert torch.equal(first.sum(dim=1).sort().values, second.sum(dim=1).sort().values)
    assert torch.equal(epoch(test), test.dataset.images.flatten(1) / 255)


def test_the_data_line_names_what_it_is(tiny_mnist, no_data):
    line = describe(*create_mnist_dataloaders(64, tiny_mnist))
    assert line.startswith(
        "MNIST-like images, 400 images of 10 classes (0, 1, 2, 3, 4, 5, 6, 7, 8, 9) at 28x28, 300 train / 100 valid"
    )
    assert "fixed split" in line
    line = describe(*create_mnist_dataloaders(64, data="synthetic"))
    assert line.startswith("synthetic digits, a procedural stand-in for the real ones, 70 images of 10 classes")
    assert "60 train / 10 valid" in line


@needs_mnist
def test_the_real_data():
    train, test = create_mnist_dataloaders(128, data="real")
    assert (len(train.dataset), len(test.dataset)) == (60_000, 10_000)
    assert train.dataset.info["name"] == "MNIST"
    assert "60000 train / 10000 valid, official split" in describe(train, test)
    assert train.dataset.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert test.dataset.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert (train.dataset.images / 255.0).mean() == pytest.approx(0.1307, abs=1e-4)


def test_without_data_and_network_digits_stand_in_and_the_reason_is_one_line(no_data, capsys):
    with pytest.warns(
        UserWarning, match="there is no MNIST in .*download failed .*refused.*procedural digits stand in"
    ) as caught:
        train, test = create_mnist_dataloaders(16)
    assert "\n" not in str(caught[0].message)
    assert train.dataset.info["name"] == "synthetic digits"
    assert (len(train.dataset), len(test.dataset)) == (60, 10)
    assert capsys.readouterr().out == ""
    assert not (no_data / "mnist").exists()  # an empty folder would stand in the way of a link to the data


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte"])
def test_what_a_failed_download_left_behind_changes_nothing(no_data, name):
    raw = no_data / "mnist" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / name).write_bytes(b"<html>please log in</html>")
    with pytest.warns(UserWarning, match=f"holds {name}, but no .*download failed.*procedural digits stand in"):
        train, _ = create_mnist_dataloaders(16)
    assert train.dataset.info["name"] == "synthetic digits"


def test_files_in_the_wrong_place_are_not_called_mnist(raw, tmp_path):
    for kind in ("images-idx3", "labels-idx1"):
        names = [raw / f"{split}-{kind}-ubyte" for split in ("train", "t10k", "other")]
        for old, new in ((0, 2), (1, 0), (2, 1)):
            names[old].rename(names[new])
    train, test = create_mnist_dataloaders(16, tmp_path / "mnist")
    assert (len(train.dataset), len(test.dataset)) == (20, 40)
    assert train.dataset.info["name"] == "MNIST-like images"


def test_the_fingerprint_is_of_the_labels_too(raw, tmp_path):
    before = create_mnist_dataloaders(16, tmp_path / "mnist")[0].dataset.info["fingerprint"]
    write_idx(raw / "t10k-labels-idx1-ubyte", np.zeros(20))
    assert create_mnist_dataloaders(16, tmp_path / "mnist")[0].dataset.info["fingerprint"] != before


def test_without_data_and_network_real_is_an_error(no_data):
    with pytest.raises(UserError, match=r"there is no MNIST in .*refused.*--data synthetic"):
        create_mnist_dataloaders(16, data="real")


def test_a_root_named_by_hand_is_never_replaced_by_the_stand_in(offline, tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder: expected one with MNIST/raw/ in it"):
        create_mnist_dataloaders(16, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="there is no MNIST in .*the download failed"):
        create_mnist_dataloaders(16, tmp_path / "empty")
    with pytest.raises(UserError, match='data must be "auto", "real" or "synthetic"'):
        create_mnist_dataloaders(16, tmp_path / "empty", data="reel")


def test_what_is_missing_is_downloaded_and_the_log_stays_clean(raw, tmp_path, monkeypatch, capsys):
    served = tmp_path / "server"
    served.mkdir()
    resources = []
    for path in sorted(raw.iterdir()):
        packed = gzip.compress(path.read_bytes())
        (served / f"{path.name}.gz").write_bytes(packed)
        resources.append((f"{path.name}.gz", hashlib.md5(packed).hexdigest()))
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=served)
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *args: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        mnist = import_torchvision().datasets.MNIST
        monkeypatch.setattr(mnist, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        monkeypatch.setattr(mnist, "resources", resources)
        (tmp_path / "fresh").mkdir()
        train, _ = create_mnist_dataloaders(16, tmp_path / "fresh", data="real")
        server.shutdown()
    assert capsys.readouterr().out == ""
    assert torch.equal(train.dataset.images, create_mnist_dataloaders(16, tmp_path / "mnist")[0].dataset.images)


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize(
    "damage",
    {
        "truncated": lambda content: content[:-100],
        "cut in its header": lambda content: content[:6],
        "empty": lambda content: b"",
        "wrong magic number": lambda content: b"\x00\x00\x07\x09" + content[4:],
        "a text": lambda content: b"<!DOCTYPE html><html>not found</html>",
        "of another type": lambda content: content[:2] + b"\x0d" + content[3:],
        "claims billions": lambda content: content[:4] + b"\x7f\xff\xff\xff" + content[8:],
    }.items(),
    ids=lambda damage: damage[0],
)
def test_a_damaged_file_is_named(raw, tmp_path, name, damage):
    path = raw / name
    path.write_bytes(damage[1](path.read_bytes()))
    with pytest.raises(UserError) as caught:
        create_mnist_dataloaders(16, tmp_path / "mnist")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("train-labels-idx1-ubyte", np.zeros(39), "holds 40 images, but .*train-labels-idx1-ubyte holds 39 labels"),
        ("train-labels-idx1-ubyte", np.full(40, 12), "train-labels-idx1-ubyte holds the label 12, expected 0 to 9"),
        ("t10k-labels-idx1-ubyte", np.zeros(1), "holds 20 images, but .* 1 labels"),
        ("t10k-images-idx3-ubyte", np.zeros((20, 28, 27)), r"t10k-images-idx3-ubyte holds images of \(28, 27\) pixels"),
    ],
)
def test_files_that_do_not_fit_together_are_named(raw, tmp_path, name, array, message):
    write_idx(raw / name, array)
    with pytest.raises(UserError, match=message):
        create_mnist_dataloaders(16, tmp_path / "mnist")


def test_a_single_test_digit_is_too_few(raw, tmp_path):
    write_idx(raw / "t10k-images-idx3-ubyte", np.zeros((1, 28, 28)))
    write_idx(raw / "t10k-labels-idx1-ubyte", np.zeros(1))
    with pytest.raises(UserError, match="holds 1 images, .* 1 labels: expected as many, and two or more"):
        create_mnist_dataloaders(16, tmp_path / "mnist")


def test_a_gzip_that_is_not_one_is_named(offline, raw, tmp_path):
    (raw / "train-images-idx3-ubyte").rename(raw / "train-images-idx3-ubyte.gz")
    with pytest.raises(UserError, match=r"holds .*train-images-idx3-ubyte\.gz.*, but no train-images-idx3-ubyte, "):
        create_mnist_dataloaders(16, tmp_path / "mnist")


def test_digits_are_seeded():
    images, labels = make_digits(50)
    again = make_digits(50)
    assert torch.equal(images, again[0])
    assert torch.equal(labels, again[1])
    assert not torch.equal(images, make_digits(50, seed=1)[0])


def test_digits_look_like_mnist():
    images, labels = make_digits(3000)
    assert images.shape == (3000, 1, 28, 28)
    assert images.dtype == torch.uint8
    assert labels.bincount(minlength=10).min() > 200
    assert images.amax(dim=(1, 2, 3)).min() > 200  # no digit has faded away
    ink = images[:, 0] / 255
    assert ink.mean() == pytest.approx(0.1307, abs=0.02)  # of MNIST
    places, mass = torch.arange(28) - 13.5, ink.sum(dim=(1, 2))
    for across in (1, 2):
        centres = ink.sum(dim=across) @ places / mass
        assert centres.abs().mean() < 0.5
    assert ink[:, (0, -1)].mean() < 0.01  # the margin is black


def test_digits_can_be_told_apart_but_differ_within_a_class():
    images, labels = make_digits(3000)
    pixels = images.flatten(1) / 255
    means = torch.stack([pixels[:2000][labels[:2000] == digit].mean(dim=0) for digit in range(10)])
    nearest = torch.cdist(pixels[2000:], means).argmin(dim=1)
    assert (nearest == labels[2000:]).float().mean() > 0.6  # the same classifier reads 82 % of MNIST
    assert pixels[labels == 3].std(dim=0).max() > 0.3
