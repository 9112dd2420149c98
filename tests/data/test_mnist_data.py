"""MNIST: what is read, downloaded, refused and, where it cannot be had, drawn."""

import gzip
import hashlib
import http.server
import importlib
import threading
from functools import partial
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from helpers import needs_mnist, write_idx, write_mnist

import data
import datasets
from common import UserError
from data import create_mnist_dataloaders
from datasets import mnist
from datasets.images import data_line
from datasets.synthetic import make_digits


@pytest.fixture
def raw(tmp_path):
    """The folder of a small MNIST that a test may damage."""
    return write_mnist(tmp_path / "mnist", train=40, test=20)


@pytest.fixture
def no_data(monkeypatch, tmp_path):
    """A project folder without data, a small stand-in, and no server of MNIST."""
    monkeypatch.setattr(mnist.import_torchvision().datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])  # nobody listens
    monkeypatch.setattr(datasets, "PROJECT", tmp_path)
    monkeypatch.setattr(data, "make_digits", lambda: make_digits(70))
    monkeypatch.setattr(data, "SYNTHETIC_TRAIN", 60)
    return tmp_path


def test_batches_are_floats_in_the_unit_interval_in_a_new_order_each_epoch(tiny_mnist):
    train, valid, test = create_mnist_dataloaders(64, str(tiny_mnist))
    assert isinstance(train, torch.utils.data.DataLoader)
    assert [len(images) for images, _ in train] == [64, 64, 64, 64, 19]
    assert [len(images) for loader in (valid, test) for images, _ in loader] == [25, 100]
    for images, labels in (*train, *valid, *test):
        assert (images.shape[1:], images.dtype, labels.dtype) == ((1, 28, 28), torch.float32, torch.int64)
        assert images.min() == 0
        assert 0.9 < images.max() <= 1
        assert set(labels.tolist()) <= set(range(10))
    first, second, tested = (torch.cat([images for images, _ in loader]).flatten(1) for loader in (train, train, test))
    assert not torch.equal(first, second)
    assert torch.equal(first.sum(dim=1).sort().values, second.sum(dim=1).sort().values)
    assert torch.equal(tested, test.dataset.images.flatten(1) / 255)


def test_the_files_bytes_arrive_in_order(tiny_mnist):
    raw = tiny_mnist / "MNIST" / "raw"
    loaders = create_mnist_dataloaders(64, tiny_mnist)
    for split, parts in (("train", loaders[:2]), ("t10k", loaders[2:])):  # the last ones are to validate on
        images = torch.cat([loader.dataset.images for loader in parts])
        labels = torch.cat([loader.dataset.labels for loader in parts])
        assert (raw / f"{split}-images-idx3-ubyte").read_bytes()[16:] == images.numpy().tobytes()
        assert [*(raw / f"{split}-labels-idx1-ubyte").read_bytes()[8:]] == labels.tolist()
    expected = "Data: MNIST-like images, 400 images of 10 classes (0, 1, 2, 3, 4, 5, 6, 7, 8, 9) at 28x28, "
    assert data_line(*loaders).startswith(f"{expected}275 train / 25 valid / 100 test, fixed split, fingerprint ")


@needs_mnist
def test_the_real_data():
    train, valid, test = create_mnist_dataloaders(128, data="real")
    line = data_line(train, valid, test)
    assert line.startswith("Data: MNIST, 70000 images ")
    assert "55000 train / 5000 valid / 10000 test" in line
    assert [loader.dataset.labels[:5].tolist() for loader in (train, test)] == [[5, 0, 4, 1, 9], [7, 2, 1, 0, 4]]
    assert (torch.cat([train.dataset.images, valid.dataset.images]) / 255.0).mean() == pytest.approx(0.1307, abs=1e-4)


def test_the_transform_is_of_the_training_images_alone(tiny_mnist):
    plain = create_mnist_dataloaders(64, tiny_mnist)
    inverted = create_mnist_dataloaders(64, tiny_mnist, transform=lambda images: 1 - images)
    assert torch.equal(inverted[0].dataset[:][0], 1 - plain[0].dataset[:][0])
    for one, other in zip(plain[1:], inverted[1:], strict=True):
        assert torch.equal(one.dataset[:][0], other.dataset[:][0])


def test_without_data_and_network_digits_stand_in_and_the_reason_is_one_line(no_data, capsys):
    with pytest.warns(UserWarning, match="no MNIST in .*refused.*stand in") as caught:
        loaders = create_mnist_dataloaders(16)
    assert "\n" not in str(caught[0].message)
    line = data_line(*loaders)
    assert line.startswith("Data: synthetic digits, a procedural stand-in for the real ones, 70 images of 10 ")
    assert "55 train / 5 valid / 10 test" in line
    assert capsys.readouterr().out == ""
    assert not (no_data / "mnist").exists()  # an empty folder would stand in the way of a link to the data
    with pytest.raises(UserError, match="no MNIST in .*refused.*--data synthetic"):
        create_mnist_dataloaders(16, data="real")


def test_a_root_named_by_hand_is_never_replaced_by_the_stand_in(no_data, raw, tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder.*MNIST/raw/"):
        create_mnist_dataloaders(16, tmp_path / "nowhere")
    with pytest.raises(UserError, match=f"no MNIST in {tmp_path}.*download failed"):
        create_mnist_dataloaders(16, tmp_path)
    (raw / "train-images-idx3-ubyte").rename(raw / "train-images-idx3-ubyte.gz")  # which it is not
    with pytest.raises(UserError, match=r"cannot read .*train-images-idx3-ubyte\.gz .*Not a gzipped file"):
        create_mnist_dataloaders(16, tmp_path / "mnist")


@pytest.mark.parametrize("place", [".", "raw", "MNIST/raw"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dot", [False, True])
def test_the_files_are_read_wherever_and_however_they_were_unpacked(place, packed, dot, raw, no_data, tmp_path):
    expected = create_mnist_dataloaders(16, tmp_path / "mnist")[0].dataset
    folder = tmp_path / "other" / place
    folder.mkdir(parents=True)
    for path in raw.iterdir():
        name = path.name.replace("-idx", ".idx") if dot else path.name
        content = path.read_bytes()
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(content) if packed else content)
    assert torch.equal(create_mnist_dataloaders(16, tmp_path / "other")[0].dataset.images, expected.images)


def test_files_that_are_there_and_incomplete_are_never_replaced_by_the_stand_in(no_data, raw, tmp_path):
    (raw / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(UserError, match=r"mnist holds .*, but no t10k-labels-idx1-ubyte, and the download failed"):
        create_mnist_dataloaders(16)


def test_missing_files_are_downloaded_and_the_log_stays_clean(raw, tmp_path, monkeypatch, capsys):
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    resources = []
    for path in sorted(raw.iterdir()):
        packed = gzip.compress(path.read_bytes())
        (tmp_path / f"{path.name}.gz").write_bytes(packed)
        resources.append((f"{path.name}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *args: print(args))
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.01}).start()
        torchvision_mnist = mnist.import_torchvision().datasets.MNIST
        monkeypatch.setattr(torchvision_mnist, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        monkeypatch.setattr(torchvision_mnist, "resources", resources)
        train, *_ = create_mnist_dataloaders(16, fresh, data="real")
        server.shutdown()
    assert capsys.readouterr().out == ""
    assert torch.equal(train.dataset.images, create_mnist_dataloaders(16, tmp_path / "mnist")[0].dataset.images)


def test_other_files_are_not_called_mnist_and_have_another_fingerprint(raw, tmp_path):
    before = create_mnist_dataloaders(16, tmp_path / "mnist")[0].dataset.info
    write_idx(raw / "t10k-labels-idx1-ubyte", np.zeros(20))
    after = create_mnist_dataloaders(16, tmp_path / "mnist")[0].dataset.info
    assert after["fingerprint"] != before["fingerprint"]
    assert after["name"] == before["name"] == "MNIST-like images"


DAMAGE = {
    "truncated": lambda content: content[:-100],
    "cut in its header": lambda content: content[:6],
    "empty": lambda content: b"",
    "wrong magic number": lambda content: b"\x00\x00\x07\x09" + content[4:],
    "a text": lambda content: b"<!DOCTYPE html><html>not found</html>",
    "of another type": lambda content: content[:2] + b"\x0d" + content[3:],
    "claims billions": lambda content: content[:4] + b"\x7f\xff\xff\xff" + content[8:],
}


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named(raw, tmp_path, name, damage):
    (raw / name).write_bytes(DAMAGE[damage]((raw / name).read_bytes()))
    with pytest.raises(UserError, match=rf"\A[^\n]*{raw / name}[^\n]*\Z"):  # in one line
        create_mnist_dataloaders(16, tmp_path / "mnist")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train-labels-idx1": np.zeros(39)}, "40 images, but .*train-labels-idx1-ubyte holds 39 labels"),
        ({"train-labels-idx1": np.full(40, 12)}, "train-labels-idx1-ubyte holds the label 12.* 0 to 9"),
        ({"t10k-images-idx3": np.zeros((20, 28, 27))}, r"t10k-images-idx3-ubyte .*\(28, 27\).*\(28, 28\)"),
        ({"t10k-images-idx3": np.zeros((1, 28, 28)), "t10k-labels-idx1": [0]}, "1 images, .* 1 labels.* two or more"),
    ],
)
def test_files_that_do_not_fit_together_are_named(raw, tmp_path, changes, message):
    for name, array in changes.items():
        write_idx(raw / f"{name}-ubyte", np.asarray(array))
    with pytest.raises(UserError, match=message):
        create_mnist_dataloaders(16, tmp_path / "mnist")


def test_torchvision_is_imported_again_where_its_operators_are_missing_and_only_then(monkeypatch):
    missing = RuntimeError("operator torchvision::nms does not exist")
    torchvision = Mock()
    library = Mock()
    monkeypatch.setattr(torch.library, "Library", library)
    monkeypatch.setattr(importlib, "import_module", Mock(side_effect=[missing, torchvision]))
    assert mnist.import_torchvision() is torchvision
    library.assert_called_once_with("torchvision", "DEF")
    assert [call.args[0].partition("(")[0] for call in library().define.call_args_list] == ["nms", "qnms"]
    monkeypatch.setattr(importlib, "import_module", Mock(side_effect=RuntimeError("something else")))
    with pytest.raises(RuntimeError, match="something else"):
        mnist.import_torchvision()


def test_digits_are_seeded_look_like_mnist_and_differ_within_a_class():
    few, again, other = (make_digits(50, seed) for seed in (0, 0, 1))
    assert all(map(torch.equal, few, again))
    assert not torch.equal(few[0], other[0])
    images, labels = make_digits(3000)
    assert (images.shape, images.dtype) == ((3000, 1, 28, 28), torch.uint8)
    assert labels.bincount(minlength=10).min() > 200
    assert images.amax(dim=(1, 2, 3)).min() > 200  # no digit has faded away
    ink = images[:, 0] / 255
    assert ink.mean() == pytest.approx(0.1307, abs=0.02)  # of MNIST
    places = torch.arange(28) - 13.5
    mass = ink.sum(dim=(1, 2))
    assert all((ink.sum(dim=dim) @ places / mass).abs().mean() < 1 for dim in (1, 2))  # centred by mass
    pixels = ink.flatten(1)
    means = torch.stack([pixels[:2000][labels[:2000] == digit].mean(dim=0) for digit in range(10)])
    nearest = torch.cdist(pixels[2000:], means).argmin(dim=1)
    assert (nearest == labels[2000:]).float().mean() > 0.6  # the same classifier reads 82 % of MNIST
    assert pixels[labels == 3].std(dim=0).max() > 0.3
