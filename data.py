"""The data sets as DataLoaders.

    train_loader, valid_loader = create_flower_dataloaders(batch_size=16)
    for images, labels in train_loader:     # float32 (16, 3, 24, 24) in [0, 1], int64 (16,)

    train_loader, valid_loader, test_loader = create_mnist_dataloaders(batch_size=128)
    for images, labels in train_loader:     # float32 (128, 1, 28, 28) in [0, 1], int64 (128,)

Images are decoded once and held as uint8; a batch is one slice of them. How photographs and MNIST's files are read
stands in datasets/.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from common.distributed import rank_0_first
from datasets import mnist
from datasets.flowers import find_photographs, read_photographs, synthetic_photographs
from datasets.images import ImageDataset, describe_data, make_loaders, name_folder
from datasets.synthetic import make_digits

VALID_FRACTION = 0.2  # of the photographs
MNIST_VALID = 12  # one digit in so many of the training file is for validation: 5,000 of 60,000
SYNTHETIC_TRAIN = 60_000  # digits of the stand-in that take the place of the training file; 10,000 are its test set


def create_flower_dataloaders(
    batch_size: int,
    root: str | Path | None = None,
    img_width: int = 24,
    img_height: int = 24,
    data: str = "auto",
    split_seed: int = 0,
    transform: Callable | None = None,
) -> tuple[DataLoader, DataLoader]:
    """The flowers, 80 % to train on (in a new random order each epoch) and 20 % to validate on (in fixed order).

    root, or ./flowers in the project's folder, holds one sub-folder per class with images of the usual formats (JPEG,
    PNG, ...), at any depth. data is "real", "synthetic" (the procedural stand-in) or "auto": the stand-in where no root
    is named and ./flowers does not exist. Batches are (images, labels): float32 (B, 3, img_height, img_width) in
    [0, 1] and int64 (B,), where B is batch_size in training and at least 256 in validation. transform, `mirror` for
    example, is applied to training images. Files that are not readable images are skipped with one warning. Raises
    UserError where root is missing, or holds fewer than two images.
    """
    folder = find_photographs(root, data)
    if folder is None:
        images, labels, classes = synthetic_photographs(img_height, img_width, split_seed)
    else:
        images, labels, classes = read_photographs(folder, img_height, img_width, split_seed)
    images = torch.from_numpy(images)
    labels = torch.from_numpy(labels)
    name = name_folder(folder) if folder else "synthetic flowers"
    info = describe_data(name, classes, [images], split_seed=split_seed)
    cut = len(images) - max(1, round(VALID_FRACTION * len(images)))
    train = ImageDataset(images[:cut], labels[:cut], info, transform)
    valid = ImageDataset(images[cut:], labels[cut:], info)
    return make_loaders(batch_size, train, valid)


# 作业 (MNIST, 不单独计分): 对数据集的处理, 包括得到 dataloader 的功能
def create_mnist_dataloaders(
    batch_size: int, root: str | Path | None = None, data: str = "auto", transform: Callable | None = None
) -> tuple[DataLoader, DataLoader, DataLoader]:
    """MNIST: 55,000 digits to train on (in a new random order each epoch), the last 5,000 of the training file to
    validate on, and the official 10,000 to test on (both in fixed order).

    root, or ./mnist in the project's folder, holds the four files, in raw/, in MNIST/raw/ or itself; where there are
    none, they are downloaded. data is "real", "synthetic" (the procedural stand-in) or "auto": the stand-in where no
    root is named and the download fails. Batches are (images, labels): float32 (B, 1, 28, 28) in [0, 1] and int64 (B,)
    from 0 to 9, where B is batch_size in training, else at least 256. transform is applied to training images.
    Raises UserError where a file is damaged, or missing and cannot be downloaded.
    """
    with rank_0_first():  # it may have to download them
        files = mnist.find_mnist(root, data)
    if files is None:
        images, labels = make_digits()
        images, test_images = images[:SYNTHETIC_TRAIN], images[SYNTHETIC_TRAIN:]
        labels, test_labels = labels[:SYNTHETIC_TRAIN], labels[SYNTHETIC_TRAIN:]
    else:
        images, labels = mnist.read_mnist(files, "train")
        test_images, test_labels = mnist.read_mnist(files, "t10k")
    name = "MNIST" if files else "synthetic digits"
    info = describe_data(name, map(str, range(10)), [images, test_images], [labels, test_labels])
    if files and info["fingerprint"] != mnist.FINGERPRINT:
        info["name"] = "MNIST-like images"  # fewer, or of clothes: the files do not say what they show
    cut = len(images) - max(1, len(images) // MNIST_VALID)
    train = ImageDataset(images[:cut], labels[:cut], info, transform)
    valid = ImageDataset(images[cut:], labels[cut:], info)
    test = ImageDataset(test_images, test_labels, info)
    return make_loaders(batch_size, train, valid, test)
