"""The data sets as DataLoaders; the only file that knows folders and splits.

    train_loader, valid_loader = create_flower_dataloaders(batch_size=16)
    for images, labels in train_loader:     # float32 (16, 3, 24, 24) in [0, 1], int64 (16,)
    train_loader, test_loader = create_mnist_dataloaders(batch_size=128)
    for images, labels in train_loader:     # float32 (128, 1, 28, 28) in [0, 1], int64 (128,)

Images are decoded once and held as uint8; batches are sliced from them.
"""

import contextlib
import hashlib
import os
import socket
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from checkpoints import UserError, printable
from parallel import RANK, WORLD_SIZE, from_rank_0
from synthetic import FLOWER_CLASSES, make_digits, make_flowers
from training import FLOWERS_ROOT, MNIST_ROOT, PROJECT

VALID_FRACTION = 0.2
SHARE = 8  # images that a thread decodes at a time
MOST_PIXELS = 50_000_000  # of an image: each thread needs ten bytes for one
VALID_BATCH = 256  # without a backward pass large batches are faster, and the weighted loss is the same
MNIST_FILES = [f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
MNIST_FINGERPRINT = "b3fe36794a3a345d"  # of the official files
MNIST_TRAIN = 60_000  # digits of the stand-in to train on; the other 10,000 are its test set
PATIENCE = 20  # seconds that a server of MNIST may be silent


class ImageDataset(Dataset):
    """Images held as one uint8 tensor; an index or a list of indices gives floats in [0, 1].

    images: uint8 (N, C, H, W); labels: int64 (N,); info: what checkpoints say of the data (`data`);
    mirror: turn each image left to right with probability 1/2, anew each time.
    """

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, info: dict, mirror: bool = False):
        self.images, self.labels, self.info, self.mirror = images, labels, info, mirror

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        images = self.images[index]
        if self.mirror:
            mirrored = (torch.rand(images.shape[:-3]) < 0.5).to(images.device)
            images = torch.where(mirrored[..., None, None, None], images.flip(-1), images)
        return images / 255, self.labels[index]

    def to(self, device) -> "ImageDataset":
        """Hold the images on a device from now on, so that no batch has to be brought there."""
        self.images, self.labels = self.images.to(device), self.labels.to(device)
        return self


def create_flower_dataloaders(
    batch_size: int,
    root: str | Path = FLOWERS_ROOT,
    img_width: int = 24,
    img_height: int = 24,
    data: str = "auto",
    split_seed: int = 0,
    mirror: bool = False,
) -> tuple[DataLoader, DataLoader]:
    """The flowers, 80 % to train on (shuffled anew each epoch) and 20 % to validate on (in fixed order).

    root holds one sub-folder a class with images of any format that Pillow reads, at any depth; files
    beside the sub-folders and names that begin with a dot are passed over. data is "real", "synthetic"
    (the procedural stand-in) or "auto": the stand-in where the default root does not exist, else real.
    Batches are (images, labels): float32 (B, 3, img_height, img_width) in [0, 1] and int64 (B,), where B is
    batch_size in training and at least 256 in validation. mirror turns half of the training images left to right.
    Raises UserError where root is missing, holds no class, an empty class, or fewer than two images.
    """
    folder = _find_flowers(root, data)
    if folder is None:
        images, labels, classes = _draw_flowers(img_height, img_width, split_seed)
    else:
        images, labels, classes = _read_flowers(folder, img_height, img_width, split_seed)
    images, labels = torch.from_numpy(images), torch.from_numpy(labels)
    info = _info("flowers" if folder else "synthetic flowers", classes, [images], split_seed)
    cut = len(images) - max(1, round(VALID_FRACTION * len(images)))
    train = ImageDataset(images[:cut], labels[:cut], info, mirror)
    valid = ImageDataset(images[cut:], labels[cut:], info)
    return _loaders(train, valid, batch_size)


def create_mnist_dataloaders(
    batch_size: int, root: str | Path = MNIST_ROOT, data: str = "auto"
) -> tuple[DataLoader, DataLoader]:
    """MNIST (LeCun et al. 1998): 60,000 digits to train on (shuffled anew each epoch), 10,000 to test on (in order).

    root holds MNIST/raw/, as torchvision lays it out; where a file is missing, all are downloaded. data is "real",
    "synthetic" (the procedural stand-in) or "auto": the stand-in where the default root lacks a file and the download
    fails, else real. Batches are (images, labels): float32 (B, 1, 28, 28) in [0, 1] and int64 (B,) from 0 to 9, where B
    is batch_size in training and at least 256 in the test.
    Raises UserError where a file is damaged, or missing and not to be had.
    """
    folder = _find_mnist(root, data)
    if folder is None:
        images, labels = make_digits()
        parts = (images[:MNIST_TRAIN], labels[:MNIST_TRAIN]), (images[MNIST_TRAIN:], labels[MNIST_TRAIN:])
    else:
        parts = _read_mnist(folder, "train"), _read_mnist(folder, "t10k")
    images, labels = zip(*parts, strict=True)
    info = _info("MNIST" if folder else "synthetic digits", map(str, range(10)), images, None, labels)
    if folder and info["fingerprint"] != MNIST_FINGERPRINT:
        info["name"] = "MNIST-like images"  # fewer, swapped, or of clothes: the files say no more of what they hold
    return _loaders(*(ImageDataset(*part, info) for part in parts), batch_size)


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


def describe(train_loader: DataLoader, valid_loader: DataLoader) -> str:
    """The log's `Data:` line."""
    info = train_loader.dataset.info
    height, width = info["image_size"]
    standin = ", a procedural stand-in for the real ones" if info["name"].startswith("synthetic") else ""
    split = f"split seed {info['split_seed']}"
    if info["split_seed"] is None:
        split = "official split" if info["name"] == "MNIST" else "fixed split"
    return (
        f"{info['name']}{standin}, {info['images']} images of {len(info['classes'])} classes"
        f" ({', '.join(info['classes'])}) at {height}x{width}, {len(train_loader.dataset)} train /"
        f" {len(valid_loader.dataset)} valid, {split}, fingerprint {info['fingerprint']}"
    )


def _info(name, classes, images, split_seed, labels=()):
    """What checkpoints say of the data; images and, where the fingerprint is also of them, labels: tensors in order."""
    fingerprint = hashlib.sha256()
    for tensor in (*images, *labels):
        fingerprint.update(tensor.numpy())
    return {
        "name": name,
        "classes": [printable(name) for name in classes],
        "images": sum(map(len, images)),
        "image_size": list(images[0].shape[2:]),
        "split_seed": split_seed,
        "fingerprint": fingerprint.hexdigest()[:16],
    }


def _locate(root, default, data, expected, needed):
    """The folder that root names. Raises UserError for none where it is needed or named by hand, or a dead link."""
    if data not in ("auto", "real", "synthetic"):
        raise UserError(f'data must be "auto", "real" or "synthetic", not "{data}"')
    folder = PROJECT / root if root == default else Path(root)
    dead_link = data == "auto" and os.path.lexists(folder)
    if not folder.is_dir() and (root != default or needed or dead_link):
        raise UserError(
            f"{folder} is not a folder: expected one with {expected}."
            " Name it with --data-root, or use --data synthetic alone for the procedural stand-in"
        )
    if data == "synthetic" and root != default:
        warnings.warn(f"--data synthetic draws its images, {folder} is not read", stacklevel=4)
    return folder


def _find_flowers(root, data):
    """The folder to read photographs from, or None for the stand-in."""
    folder = _locate(root, FLOWERS_ROOT, data, "a sub-folder of images for each class", needed=data == "real")
    if data == "auto" and not folder.is_dir():
        warnings.warn(f"there are no photographs in {FLOWERS_ROOT}: procedural flowers stand in", stacklevel=3)
    return folder if data != "synthetic" and folder.is_dir() else None


def _find_mnist(root, data):
    """The folder that holds MNIST's four files, downloaded where they were missing, or None for the stand-in."""
    folder = _locate(root, MNIST_ROOT, data, "MNIST/raw/ in it", needed=False) / "MNIST" / "raw"
    if data == "synthetic":
        return None
    missing = [name for name in MNIST_FILES if not (folder / name).is_file()]
    if not missing:
        return folder
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    reason = _download_mnist(folder.parent.parent)
    if reason is None:
        return folder
    found = (
        f"{folder} holds {', '.join(there)}, but no {', '.join(missing)}" if there else f"there is no MNIST in {folder}"
    )
    problem = f"{found}, and the download failed ({reason})"
    if data == "auto" and root == MNIST_ROOT:
        warnings.warn(f"{problem}: procedural digits stand in", stacklevel=3)
        return None
    raise UserError(f"{problem}: put MNIST's four files there, or use --data synthetic alone for the stand-in")


def _download_mnist(root):
    """Let torchvision fetch and unpack what is missing; returns why it could not, or None."""
    before = socket.getdefaulttimeout()
    made = [path for path in (root / "MNIST" / "raw", root / "MNIST", root) if not path.exists()]
    socket.setdefaulttimeout(PATIENCE)
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


def _read_mnist(folder, split):
    """(images, labels) of the split "train" or "t10k": uint8 (N, 1, 28, 28), int64 (N,)."""
    mnist = import_torchvision().datasets.mnist
    paths = folder / f"{split}-images-idx3-ubyte", folder / f"{split}-labels-idx1-ubyte"
    images, labels = _read_idx(mnist.read_image_file, paths[0]), _read_idx(mnist.read_label_file, paths[1])
    if images.shape[1:] != (28, 28):
        raise UserError(f"{paths[0]} holds images of {tuple(images.shape[1:])} pixels, expected (28, 28)")
    if len(images) != len(labels) or len(labels) < 2:
        found = f"{paths[0]} holds {len(images)} images, but {paths[1]} holds {len(labels)} labels"
        raise UserError(f"{found}: expected as many, and two or more")
    if labels.max() > 9:
        raise UserError(f"{paths[1]} holds the label {labels.max()}, expected 0 to 9")
    return images[:, None], labels


def _read_idx(read, path):
    try:
        return read(str(path))
    except OSError:
        raise
    except Exception as error:  # what a damaged file makes the reader raise is anybody's guess
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(
            f"{path} is not a valid file of MNIST ({reason}): copy it anew, or remove it, so that MNIST is downloaded"
        ) from None


def _loaders(train, valid, batch_size):
    """Loaders of the images that fall to this process."""
    if min(len(train), len(valid)) < WORLD_SIZE:
        raise UserError(
            f"{WORLD_SIZE} processes cannot share {len(train)} training and {len(valid)} validation images: start fewer"
        )
    in_order = range(RANK, len(valid), WORLD_SIZE)
    return _loader(train, batch_size, _Shuffled(train)), _loader(valid, max(batch_size, VALID_BATCH), in_order)


class _Shuffled(RandomSampler):
    """A new order each epoch, drawn by rank 0, of which each process takes every WORLD_SIZE-th index: so their batches
    together are those of a single process. All take as many, up to WORLD_SIZE - 1 images are left out of an epoch."""

    def __iter__(self):
        order = from_rank_0(list(super().__iter__()))
        return iter(order[RANK : len(self) * WORLD_SIZE : WORLD_SIZE])

    def __len__(self):
        return super().__len__() // WORLD_SIZE


def _loader(dataset, batch_size, sampler):
    # The sampler hands out whole lists of indices and batch_size=None leaves them as they are, so a
    # batch is one slice of the tensor instead of batch_size single images glued together.
    return DataLoader(dataset, sampler=BatchSampler(sampler, batch_size, drop_last=False), batch_size=None)


def _draw_flowers(height, width, split_seed):
    images, labels = make_flowers(height=height, width=width)
    order = np.random.default_rng(split_seed).permutation(len(images))
    return images[order], labels[order], FLOWER_CLASSES


def _read_flowers(root, height, width, split_seed):
    """Decode every photograph, in an order that depends on the names and the seed alone."""
    files = _list_images(root)
    classes = list(dict.fromkeys(map(_class_of, files)))
    files = [files[i] for i in np.random.default_rng(split_seed).permutation(len(files))]
    images = np.empty((len(files), 3, height, width), np.uint8)
    problems = {}

    def decode(share):
        for i in share:
            try:
                images[i] = _decode(root / files[i], height, width)
            except Exception as error:  # a damaged file can make Pillow raise almost anything
                problems[i] = f"{root / files[i]} ({type(error).__name__})"

    with ThreadPoolExecutor(os.cpu_count()) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # _decode knows a lower limit
        # Pillow decodes outside the interpreter's lock; a Ctrl-C waits for the shares that are begun
        list(pool.map(decode, [range(i, min(i + SHARE, len(files))) for i in range(0, len(files), SHARE)]))
    labels = np.array([classes.index(_class_of(file)) for file in files], np.int64)
    if problems:
        readable = [i for i in range(len(files)) if i not in problems]
        skipped = sorted(problems.values())
        names = ", ".join(skipped[:5]) + (f" and {len(skipped) - 5} more" if len(skipped) > 5 else "")
        warnings.warn(f"skipped {len(skipped)} of {len(files)} files, not readable images: {names}", stacklevel=3)
        images, labels = images[readable], labels[readable]
    _check_flowers(root, classes, labels)
    return images, labels, classes


def _class_of(file):
    return file.partition("/")[0]


def _list_images(root):
    """["class/name", ...], sorted by name wherever it runs; a dangling link counts as a file."""
    found = []
    for folder in sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
        names = []
        for here, below, files in os.walk(root / folder, onerror=_raise):
            below[:] = [name for name in below if not name.startswith(".")]
            files += [name for name in below if os.path.islink(os.path.join(here, name))]  # it could lead back here
            paths = [os.path.join(here, name) for name in files if not name.startswith(".")]
            paths = [path for path in paths if not _is_pipe(path)]
            names += [os.path.relpath(path, root).replace(os.sep, "/") for path in paths]
        if not names:
            raise UserError(f"the class folder {root / folder} is empty: put images into it, or remove it")
        found += sorted(names)
    return found


def _raise(error):
    raise UserError(f"cannot read {error.filename} ({error.strerror}): allow it, or remove it")


def _is_pipe(path):
    return os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))


def _check_flowers(root, classes, labels):
    for label, name in enumerate(classes):
        if label not in labels:
            raise UserError(f"no file in {root / name} is a readable image: put images into it, or remove it")
    if len(labels) < 2:
        raise UserError(
            f"{root} holds {len(labels)} image(s), need 2 or more to train and to validate on."
            " Images belong into one sub-folder a class"
        )


def _decode(path, height, width):
    """One image file -> uint8 (3, height, width)."""
    with Image.open(path) as image:
        if image.format == "EPS":
            raise ValueError("it is a program, which Pillow hands to Ghostscript")
        image.draft("RGB", (max(height, width),) * 2)  # a JPEG decodes at 1/2, 1/4 or 1/8 size, many times faster
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels are too many")
        ImageOps.exif_transpose(image, in_place=True)
        image = _to_rgb(image).resize((width, height), Image.Resampling.BILINEAR)  # antialiased
    return np.asarray(image).transpose(2, 0, 1)


def _to_rgb(image):
    """Any mode to RGB: 16 bits are scaled, not clipped, and what is transparent becomes white."""
    if image.mode == "F":
        raise ValueError("floating-point images have no fixed range of values")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image, np.float32) / 257).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
