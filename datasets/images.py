"""Images in memory: the data set, its DataLoaders, augmentation, and what the log and the checkpoints say about it."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

from common import PROJECT, UserError, is_synthetic, printable
from common.distributed import broadcast, rank, world_size
from common.process import say

VALID_BATCH = 256  # without a backward pass large batches are faster, and the weighted loss is the same
STANDIN_FOLDER = "synthetic"  # below the output root
MAX_SHIFT = 1  # pixels


class ImageDataset(Dataset):
    """Images held as one uint8 tensor; an index or a list of indices gives floats in [0, 1].

    images: uint8 (N, C, H, W); labels: int64 (N,); info: what checkpoints record about the data (`describe_data`);
    transform: of the floats, drawn again each time.
    """

    def __init__(self, images: torch.Tensor, labels: torch.Tensor, info: dict, transform: Callable | None = None):
        self.images = images
        self.labels = labels
        self.info = info
        self.transform = transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        images = self.images[index] / 255
        return self.transform(images) if self.transform else images, self.labels[index]

    def to(self, device) -> "ImageDataset":
        """Hold the images on a device from now on, so that no batch has to be copied there."""
        self.images = self.images.to(device)
        self.labels = self.labels.to(device)
        return self


def mirror(images: torch.Tensor) -> torch.Tensor:
    """Each of the images (..., C, H, W) mirrored left to right with probability 1/2."""
    mirrored = (torch.rand(images.shape[:-3]) < 0.5).to(images.device)
    return torch.where(mirrored[..., None, None, None], images.flip(-1), images)


def shift(images: torch.Tensor, share: float) -> torch.Tensor:
    """Each of the images (..., C, H, W), with the probability `share`, moved by up to MAX_SHIFT pixels in both
    directions; the edges are repeated."""
    chosen = torch.rand(images.shape[:-3]) < share
    for dim in (-2, -1):
        size = images.shape[dim]
        offset = torch.randint(-MAX_SHIFT, MAX_SHIFT + 1, chosen.shape) * chosen
        source = (torch.arange(size) + offset[..., None]).clamp(0, size - 1).to(images.device)  # (..., size)
        source = source[..., None, :, None] if dim == -2 else source[..., None, None, :]
        images = images.gather(dim, source.expand_as(images))
    return images


def describe_data(name: str, classes, images: list, labels: list = (), split_seed: int | None = None) -> dict:
    """What checkpoints record about the data; images and labels: tensors, in order, for the fingerprint."""
    fingerprint = hashlib.sha256()
    for tensor in (*images, *labels):
        fingerprint.update(tensor.numpy())
    return {
        "name": name,
        "classes": [printable(label) for label in classes],
        "images": sum(map(len, images)),
        "image_size": list(images[0].shape[2:]),
        "split_seed": split_seed,
        "fingerprint": fingerprint.hexdigest()[:16],
    }


def name_folder(folder: Path) -> str:
    """The name of the photographs in a folder: the coursework's are in one called flowers."""
    name = printable(os.path.basename(os.path.abspath(folder)))
    return name if name == "flowers" else f"photographs in {name[:100]}"


def data_line(*loaders: DataLoader) -> str:
    """The log's `Data:` line; loaders: to train, to validate and perhaps to test on."""
    info = loaders[0].dataset.info
    height, width = info["image_size"]
    stand_in = ", a procedural stand-in for the real ones" if is_synthetic(info) else ""
    parts = zip(loaders, ("train", "valid", "test"), strict=False)
    sizes = " / ".join(f"{len(loader.dataset)} {part}" for loader, part in parts)
    split = "fixed split" if info["split_seed"] is None else f"split seed {info['split_seed']}"
    return (
        f"Data: {info['name']}{stand_in}, {info['images']} images of {len(info['classes'])} classes"
        f" ({', '.join(info['classes'])}) at {height}x{width}, {sizes}, {split}, fingerprint {info['fingerprint']}"
    )


def choose_output_root(root: Path, shown: dict, trained: dict | None = None) -> Path:
    """Where to write the results of the images `shown` (as checkpoints describe them): below `root`, but for the
    stand-in in a folder of its own, so that it never takes the place of real results. In the project's folder a run on
    the stand-in does so; below any root, its pictures do so that a model makes which was trained on real images."""
    apart = root == PROJECT if trained is None else not is_synthetic(trained)
    if not (is_synthetic(shown) and apart):
        return root
    if rank() == 0:
        say(f'the results of the stand-in go to "{root / STANDIN_FOLDER}", an --output-root')
    return root / STANDIN_FOLDER


def make_loaders(batch_size: int, train: ImageDataset, *held_out: ImageDataset) -> tuple[DataLoader, ...]:
    """A loader that shuffles for the training images and one in fixed order for each of the others, of the images that
    fall to this process. Raises UserError where there are fewer images than processes."""
    sizes = [len(part) for part in (train, *held_out)]
    if min(sizes) < world_size():
        raise UserError(f"{world_size()} processes cannot share {' + '.join(map(str, sizes))} images: use fewer")
    in_order = [
        _loader(part, max(batch_size, VALID_BATCH), range(rank(), len(part), world_size())) for part in held_out
    ]
    return _loader(train, batch_size, _Shuffled(train)), *in_order


def _loader(dataset, batch_size, sampler):
    # The sampler yields whole lists of indices and batch_size=None leaves them as they are, so a
    # batch is one slice of the tensor instead of batch_size single images stacked.
    return DataLoader(dataset, sampler=BatchSampler(sampler, batch_size, drop_last=False), batch_size=None)


class _Shuffled(RandomSampler):
    """A new order each epoch, from rank 0, of which each process takes every world_size-th index: together their
    batches are those of a single process. All take equally many; up to world_size - 1 images are left out of an epoch.
    """

    def __iter__(self):
        order = broadcast(list(super().__iter__()))
        return iter(order[rank() : len(self) * world_size() : world_size()])

    def __len__(self):
        return super().__len__() // world_size()
