"""MNIST (LeCun et al. 1998): its four files found, downloaded where they are missing, checked and read."""

import contextlib
import math
import socket
import sys
import warnings
from pathlib import Path

import torch

from datasets import find_folder
from training import UserError

FILES = [f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
FINGERPRINT = "b3fe36794a3a345d"  # of the official files
DOWNLOAD_TIMEOUT = 20  # seconds that a server may be silent


def import_torchvision():
    """torchvision, also beside a PyTorch that it was not built for.

    A package index may serve a CUDA build of torchvision beside a CPU build of PyTorch. Importing it then fails,
    because it describes operators (non-maximum suppression, for object detection) that its compiled part did not
    register. Data sets and image transforms need none of them, so it is enough to declare that they exist.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        declarations = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            declarations.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision

        torchvision.declarations = declarations  # they last as long as this object does
    return torchvision


def find_mnist(root: str | Path | None, data: str) -> Path | None:
    """The folder that holds the four files, downloaded where they were missing, or None for the stand-in; see
    `data.create_mnist_dataloaders`."""
    folder = find_folder(root, "mnist", data, "MNIST/raw/ in it", needed=False) / "MNIST" / "raw"
    if data == "synthetic":
        return None
    missing = [name for name in FILES if not (folder / name).is_file()]
    if not missing:
        return folder
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    reason = _download(folder.parent.parent)
    if reason is None:
        return folder
    found = f"there is no MNIST in {folder}"
    if there:
        found = f"{folder} holds {', '.join(there)}, but no {', '.join(missing)}"
    problem = f"{found}, and the download failed ({reason})"
    if data == "auto" and not root:
        warnings.warn(f"{problem}: procedural digits stand in", stacklevel=3)
        return None
    raise UserError(f"{problem}: put MNIST's four files there, or use --data synthetic alone for the stand-in")


def _download(root):
    """Let torchvision fetch and unpack what is missing; returns why it could not, or None."""
    before = socket.getdefaulttimeout()
    made = [path for path in (root / "MNIST" / "raw", root / "MNIST", root) if not path.exists()]
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it prints, and standard output is the log
            import_torchvision().datasets.MNIST(root, download=True)
    except Exception as error:  # no network, no right to write, a damaged archive, ...
        for folder in made:  # an empty one would stand in the way of a link to the data
            with contextlib.suppress(OSError):
                folder.rmdir()
        return (str(error).strip().splitlines() or [type(error).__name__])[-1]
    finally:
        socket.setdefaulttimeout(before)


def read_mnist(folder: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(images, labels) of the split "train" or "t10k": uint8 (N, 1, 28, 28), int64 (N,). Raises UserError."""
    mnist = import_torchvision().datasets.mnist
    paths = folder / f"{split}-images-idx3-ubyte", folder / f"{split}-labels-idx1-ubyte"
    images, labels = _read(mnist.read_image_file, paths[0]), _read(mnist.read_label_file, paths[1])
    if images.shape[1:] != (28, 28):
        raise UserError(f"{paths[0]} holds images of {tuple(images.shape[1:])} pixels, expected (28, 28)")
    if len(images) != len(labels) or len(labels) < 2:
        found = f"{paths[0]} holds {len(images)} images, but {paths[1]} holds {len(labels)} labels"
        raise UserError(f"{found}: expected as many, and two or more")
    if labels.max() > 9:
        raise UserError(f"{paths[1]} holds the label {labels.max()}, expected 0 to 9")
    return images[:, None], labels


def peek_mnist(folder: Path, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first `count` test digits, or as many as there are, as `read_mnist` has them; but without torchvision, whose
    import takes two seconds. Raises UserError where the files are not there, or not MNIST's."""
    parts = []
    for name, magic, shape in ((FILES[2], b"\0\0\x08\x03", (1, 28, 28)), (FILES[3], b"\0\0\x08\x01", ())):
        try:
            with open(folder / name, "rb") as file:
                header = file.read(16 if shape else 8)  # the magic number, how many, and the sides of images
                data = file.read(count * math.prod(shape))
        except OSError as error:
            raise UserError(f"cannot read {folder / name} ({error.strerror})") from None
        sides = [int.from_bytes(header[start : start + 4], "big") for start in range(8, len(header), 4)]
        if header[:4] != magic or (*sides,) != shape[1:] or not data or len(data) % math.prod(shape):
            raise UserError(f"{folder / name} is not a valid file of MNIST")
        parts.append(torch.frombuffer(bytearray(data), dtype=torch.uint8).view(-1, *shape))
    images, labels = parts
    if len(images) != len(labels) or labels.max() > 9:
        raise UserError(f"the test images and labels in {folder} do not fit together")
    return images, labels.long()


def _read(read, path):
    try:
        return read(str(path))
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from None
    except Exception as error:  # what a damaged file makes torchvision raise is anybody's guess
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"{path} is not a valid file of MNIST ({reason}): copy it anew, or remove it, so that MNIST is downloaded"
        ) from None
