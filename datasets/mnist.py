"""MNIST (LeCun et al. 1998): its four files found, downloaded where they are missing, checked and read."""

import contextlib
import gzip
import importlib
import socket
import sys
import tempfile
import warnings
from pathlib import Path

import torch

from common import UserError
from datasets import find_folder

FILES = [f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
FINGERPRINT = "b3fe36794a3a345d"  # of the official files
PLACES = ("MNIST/raw", "raw", ".")  # below the root; torchvision's comes first
MAX_NAMES = 5  # files that a message names
DOWNLOAD_TIMEOUT = 20  # seconds that a server may be silent


def import_torchvision():
    """torchvision, imported here and not above because it takes two seconds, which the flowers' scripts can save.

    A package index may serve a CUDA build of torchvision beside a CPU build of PyTorch. Importing it then fails,
    because it describes operators (non-maximum suppression, for object detection) that its compiled part did not
    register. Reading MNIST needs none of them, so it is enough to declare that they exist.
    """
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
    declarations = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        declarations.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    torchvision = importlib.import_module("torchvision")
    torchvision.declarations = declarations  # they last as long as this object does
    return torchvision


def find_mnist(root: str | Path | None, data: str) -> dict[str, Path] | None:
    """{name in FILES: path}, downloaded where nothing was there, or None for the stand-in; see
    `data.create_mnist_dataloaders`. Files that are there and incomplete are an error, never the stand-in."""
    folder = find_folder(root, "mnist", data, "MNIST's four files in it, in raw/ or in MNIST/raw/", needed=False)
    if data == "synthetic":
        return None
    files = find_files(folder)
    if len(files) < len(FILES):
        reason = _download(folder)
        files = find_files(folder)
    if len(files) == len(FILES):
        return files
    present = _list_present(folder)
    problem = f"there is no MNIST in {folder}"
    if present:
        missing = [name for name in FILES if name not in files]
        problem = f"{folder} holds {', '.join(present[:MAX_NAMES])}, but no {', '.join(missing)}"
    problem += f", and the download failed ({reason})"
    if data == "auto" and not root and not present:
        warnings.warn(f"{problem}: procedural digits stand in", stacklevel=3)
        return None
    raise UserError(f"{problem}: put MNIST's four files there, or use --data synthetic alone for the stand-in")


def _list_present(folder):
    """The names of all files in the places where MNIST's could be."""
    places = [folder / place for place in PLACES if (folder / place).is_dir()]
    return sorted(str(path.relative_to(folder)) for place in places for path in place.iterdir() if path.is_file())


def find_files(folder):
    """{name in FILES: path} of those that are there, under any of their usual names."""
    files = {}
    for name in FILES:
        dotted = name.replace("-idx", ".idx")  # as some programs unpack them
        candidates = [
            folder / place / f"{stem}{end}" for place in PLACES for stem in (name, dotted) for end in ("", ".gz")
        ]
        present = [path for path in candidates if path.is_file()]
        if present:
            files[name] = present[0]
    return files


def _download(root):
    """Let torchvision download and unpack the missing files. Returns why it could not, or None."""
    before = socket.getdefaulttimeout()
    made = [path for path in (root / "MNIST" / "raw", root / "MNIST", root) if not path.exists()]
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it prints, and standard output is the log
            import_torchvision().datasets.MNIST(root, download=True)
    except Exception as error:  # no network, no right to write, a damaged archive, ...
        for folder in made:  # an empty one would be in the way of a link to the data
            with contextlib.suppress(OSError):
                folder.rmdir()
        return (str(error).strip().splitlines() or [type(error).__name__])[-1]
    finally:
        socket.setdefaulttimeout(before)


def read_mnist(files: dict[str, Path], split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(images, labels) of the split "train" or "t10k": uint8 (N, 1, 28, 28), int64 (N,). Raises UserError."""
    mnist = import_torchvision().datasets.mnist
    image_path = files[f"{split}-images-idx3-ubyte"]
    label_path = files[f"{split}-labels-idx1-ubyte"]
    images = _read(mnist.read_image_file, image_path)
    labels = _read(mnist.read_label_file, label_path)
    if images.shape[1:] != (28, 28):
        raise UserError(f"{image_path} holds images of {tuple(images.shape[1:])} pixels, expected (28, 28)")
    if len(images) != len(labels) or len(labels) < 2:
        problem = f"{image_path} holds {len(images)} images, but {label_path} holds {len(labels)} labels"
        raise UserError(f"{problem}: expected as many, and two or more")
    if labels.max() > 9:
        raise UserError(f"{label_path} holds the label {labels.max()}, expected 0 to 9")
    return images[:, None], labels


def _read(read, path):
    try:
        if path.suffix != ".gz":
            return read(str(path))
        with tempfile.TemporaryDirectory() as folder:  # torchvision reads unpacked files alone
            unpacked = Path(folder, path.stem)
            with gzip.open(path) as packed:
                unpacked.write_bytes(packed.read())
            return read(str(unpacked))
    except Exception as error:  # a damaged file can make torchvision raise almost anything
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__
        advice = "copy it again, or remove it, so that MNIST is downloaded"
        raise UserError(f"cannot read {path} as a file of MNIST ({reason}): {advice}") from None
