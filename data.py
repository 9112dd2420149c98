"""The data sets as DataLoaders.

    train_loader, valid_loader = create_flower_dataloaders(batch_size=16)
    for images, labels in train_loader:     # float32 (16, 3, 24, 24) in [0, 1], int64 (16,)
    train_loader, valid_loader, test_loader = create_mnist_dataloaders(batch_size=128)
    for images, labels in train_loader:     # float32 (128, 1, 28, 28) in [0, 1], int64 (128,)

Images are decoded once and held as uint8; batches are sliced from them.
"""

import hashlib
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from datasets import mnist
from datasets.flowers import find_photographs, read_photographs, synthetic_photographs
from datasets.synthetic import make_digits
from training import PROJECT, UserError, is_synthetic, printable
from training.distributed import broadcast, rank, world_size

VALID_FRACTION = 0.2
VALID_BATCH = 256  # without a backward pass large batches are faster, and the weighted loss is the same
STANDIN_FOLDER = "synthetic"  # below the output root
MNIST_VALID = 12  # one digit in so many of the training file is for validation: 5,000 of 60,000
SYNTHETIC_TRAIN = 60_000  # digits of the stand-in that stand for the training file; the other 10,000 are its test set
MAX_SHIFT = 1  # pixels
BINARIZE_SEED = 0  # of the digits to validate and to test on, which are drawn once


class ImageDataset(Dataset):
    """Images held as one uint8 tensor; an index or a list of indices gives floats in [0, 1].

    images: uint8 (N, C, H, W); labels: int64 (N,); info: what checkpoints say of the data (`data`);
    transform: what is done to the floats, anew each time.
    """

    def __init__(
        self, images: torch.Tensor, labels: torch.Tensor, info: dict, transform: Callable = lambda images: images
    ):
        self.images, self.labels, self.info, self.transform = images, labels, info, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.transform(self.images[index] / 255), self.labels[index]

    def to(self, device) -> "ImageDataset":
        """Hold the images on a device from now on, so that no batch has to be copied there."""
        self.images, self.labels = self.images.to(device), self.labels.to(device)
        return self


def mirror(images: torch.Tensor) -> torch.Tensor:
    """Each of the images (..., C, H, W) turned left to right with probability 1/2."""
    mirrored = (torch.rand(images.shape[:-3]) < 0.5).to(images.device)
    return torch.where(mirrored[..., None, None, None], images.flip(-1), images)


def shift(images: torch.Tensor, share: float) -> torch.Tensor:
    """Each of the images (..., C, H, W), with the probability `share`, moved by up to MAX_SHIFT pixels in both
    directions; the edges are repeated."""
    chosen = torch.rand(images.shape[:-3]) < share
    for dim in (-2, -1):
        size, shape = images.shape[dim], [1] * images.dim()
        moved = torch.randint(-MAX_SHIFT, MAX_SHIFT + 1, chosen.shape) * chosen
        index = (torch.arange(size) + moved[..., None]).clamp(0, size - 1).to(images.device)  # (..., size)
        shape[: len(moved.shape)], shape[dim] = moved.shape, size
        images = images.gather(dim, index.view(shape).expand_as(images))
    return images


def binarize(dataset: ImageDataset) -> ImageDataset:
    """The same digits with pixels of 0 and 1, drawn once and for all: each is 1 with its grey value's probability."""
    generator = torch.Generator().manual_seed(BINARIZE_SEED)
    drawn = 255 * torch.bernoulli(dataset.images / 255, generator=generator).byte()
    return ImageDataset(drawn, dataset.labels, dataset.info)


def create_flower_dataloaders(
    batch_size: int,
    root: str | Path | None = None,
    img_width: int = 24,
    img_height: int = 24,
    data: str = "auto",
    split_seed: int = 0,
    transform: Callable = lambda images: images,
) -> tuple[DataLoader, DataLoader]:
    """The flowers, 80 % to train on (shuffled anew each epoch) and 20 % to validate on (in fixed order).

    root, or ./flowers in the project's folder, holds one sub-folder a class with images of any format that Pillow
    reads, at any depth; files beside the sub-folders and names that begin with a dot are passed over. data is "real",
    "synthetic" (the procedural stand-in) or "auto": the stand-in where no root is named and ./flowers does not exist.
    Batches are (images, labels): float32 (B, 3, img_height, img_width) in [0, 1] and int64 (B,), where B is
    batch_size in training and at least 256 in validation. transform, `mirror` for example, changes the training images.
    Raises UserError where root is missing, holds no class, an empty class, or fewer than two images.
    """
    folder = find_photographs(root, data)
    if folder is None:
        images, labels, classes = synthetic_photographs(img_height, img_width, split_seed)
    else:
        images, labels, classes = read_photographs(folder, img_height, img_width, split_seed)
    images, labels = torch.from_numpy(images), torch.from_numpy(labels)
    info = _info(_name(folder) if folder else "synthetic flowers", classes, [images], split_seed)
    cut = len(images) - max(1, round(VALID_FRACTION * len(images)))
    train = ImageDataset(images[:cut], labels[:cut], info, transform)
    valid = ImageDataset(images[cut:], labels[cut:], info)
    return _loaders(batch_size, train, valid)


def create_mnist_dataloaders(
    batch_size: int,
    root: str | Path | None = None,
    data: str = "auto",
    binarized: bool = False,
    shifted: float | None = None,
) -> tuple[DataLoader, DataLoader, DataLoader]:
    """MNIST: 55,000 digits to train on (shuffled anew each epoch), the last 5,000 of the training file to validate on,
    and the official 10,000 to test on (both in order).

    root, or ./mnist in the project's folder, holds MNIST/raw/, as torchvision lays it out; where a file is missing, all
    are downloaded. data is "real", "synthetic" (the procedural stand-in) or "auto": the stand-in where no root is given
    and the download fails. Batches are (images, labels): float32 (B, 1, 28, 28) in [0, 1] and int64 (B,) from 0 to 9,
    where B is batch_size in training, else at least 256. binarized: pixels are 0 or 1, drawn with the grey value as the
    probability of 1: for training anew each time (Burda et al. 2016, section 5), else once. shifted: the share of the
    training digits that are moved by a pixel, others each time.
    Raises UserError where a file is damaged, or missing and not to be had.
    """
    folder = mnist.find_mnist(root, data)
    if folder is None:
        images, labels = make_digits()
        cut = SYNTHETIC_TRAIN
        parts = (images[:cut], labels[:cut]), (images[cut:], labels[cut:])
    else:
        parts = mnist.read_mnist(folder, "train"), mnist.read_mnist(folder, "t10k")
    images, labels = zip(*parts, strict=True)
    info = _info("MNIST" if folder else "synthetic digits", map(str, range(10)), images, None, labels)
    if folder and info["fingerprint"] != mnist.FINGERPRINT:
        info["name"] = "MNIST-like images"  # fewer, swapped, or of clothes: the files say no more of what they hold
    if binarized:
        info["name"] = f"{info['name']}, binarized"
    (images, labels), test = parts
    cut = len(images) - max(1, len(images) // MNIST_VALID)
    transform = partial(_vary_digits, binarized=binarized, shifted=shifted)
    train = ImageDataset(images[:cut], labels[:cut], info, transform)
    held_out = ImageDataset(images[cut:], labels[cut:], info), ImageDataset(*test, info)
    return _loaders(batch_size, train, *(map(binarize, held_out) if binarized else held_out))


def describe(*loaders: DataLoader) -> str:
    """The log's `Data:` line; loaders: to train, to validate and perhaps to test on."""
    info = loaders[0].dataset.info
    height, width = info["image_size"]
    standin = ""
    if is_synthetic(info):
        standin = f", a procedural stand-in for the real ones (its results go to ./{STANDIN_FOLDER} by default)"
    parts = zip(loaders, ("train", "valid", "test"), strict=False)
    sizes, split = [f"{len(loader.dataset)} {part}" for loader, part in parts], f"split seed {info['split_seed']}"
    if info["split_seed"] is None:
        split = "official split" if info["fingerprint"] == mnist.FINGERPRINT else "fixed split"
    return (
        f"{info['name']}{standin}, {info['images']} images of {len(info['classes'])} classes"
        f" ({', '.join(info['classes'])}) at {height}x{width}, {' / '.join(sizes)}, {split},"
        f" fingerprint {info['fingerprint']}"
    )


def output_root(root: Path, shown: dict, trained: dict | None = None) -> Path:
    """Where to write what is made of the images `shown`: below `root`, but for the stand-in in a folder of its own, so
    that it never takes the place of what real images gave. In the project's folder a run on the stand-in does so, and
    below any root the pictures of it that a model makes which was trained on other images."""
    apart = root == PROJECT if trained is None else not is_synthetic(trained)
    if not (is_synthetic(shown) and apart):
        return root
    if rank() == 0:
        print(f'the stand-in: what it gives goes to "{root / STANDIN_FOLDER}", an --output-root', file=sys.stderr)
    return root / STANDIN_FOLDER


def mean_image_loss(loaders, measure, *posterior) -> float:
    """The validation loss of answering every image with the mean training image: what a model must beat.

    measure(outputs, images) -> (..., {"loss": mean of the batch}), where the outputs are answers (B, C, H, W) or, with
    the parameters of a posterior that is equal to the prior, (answers, *posterior).
    """
    train, total, count = loaders[0].dataset, 0.0, 0
    mean = train.images.sum(dim=0, dtype=torch.int64) / (255 * len(train))
    for images, _ in loaders[1]:
        answers = mean.expand_as(images)
        total += measure((answers, *posterior) if posterior else answers, images)[1]["loss"] * len(images)
        count += len(images)
    return total / count


def _vary_digits(images, binarized, shifted):
    images = shift(images, shifted) if shifted else images
    return torch.bernoulli(images) if binarized else images


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


def _name(folder):
    """What titles call the photographs in a folder: those of the coursework are in one called flowers."""
    name = printable(os.path.basename(os.path.abspath(folder)))
    return name if name == "flowers" else f"photographs in {name[:100]}"


def _loaders(batch_size, train, *held_out):
    """Loaders of the images that fall to this process."""
    sizes = [len(part) for part in (train, *held_out)]
    if min(sizes) < world_size():
        found = " + ".join(map(str, sizes))
        raise UserError(f"{world_size()} processes cannot share {found} images: use fewer")
    in_order = [
        _loader(part, max(batch_size, VALID_BATCH), range(rank(), len(part), world_size())) for part in held_out
    ]
    return _loader(train, batch_size, _Shuffled(train)), *in_order


def _loader(dataset, batch_size, sampler):
    # The sampler yields whole lists of indices and batch_size=None leaves them as they are, so a
    # batch is one slice of the tensor instead of batch_size single images stacked.
    return DataLoader(dataset, sampler=BatchSampler(sampler, batch_size, drop_last=False), batch_size=None)


class _Shuffled(RandomSampler):
    """A new order each epoch, from rank 0, of which each process takes every world_size-th index: so their batches
    together are those of a single process. All take as many, up to world_size - 1 images are left out of an epoch."""

    def __iter__(self):
        order = broadcast(list(super().__iter__()))
        return iter(order[rank() : len(self) * world_size() : world_size()])

    def __len__(self):
        return super().__len__() // world_size()
