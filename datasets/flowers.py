"""Photographs of flowers: found, decoded in threads, and put in a seeded order."""

import os
import stat
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from common import UserError
from datasets import find_folder
from datasets.synthetic import FLOWER_CLASSES, make_flowers

FORMATS = ["JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000", "TGA"]  # of photographs; some of
# Pillow's others hold a program that it would hand to Ghostscript
DECODE_CHUNK = 8  # images that a thread decodes at a time
MAX_PIXELS = 50_000_000  # of an image: each thread needs ten bytes for one


def find_photographs(root: str | Path | None, data: str) -> Path | None:
    """The folder to read photographs from, or None for the stand-in; see `data.create_flower_dataloaders`."""
    folder = find_folder(root, "flowers", data, "a sub-folder of images for each class", needed=data == "real")
    if data == "auto" and not folder.is_dir():
        warnings.warn("there are no photographs in ./flowers: procedural flowers stand in", stacklevel=3)
    return folder if data != "synthetic" and folder.is_dir() else None


def synthetic_photographs(height: int, width: int, split_seed: int):
    """The stand-in, shuffled: what `read_photographs` returns."""
    images, labels = make_flowers(height=height, width=width)
    order = np.random.default_rng(split_seed).permutation(len(images))
    return images[order], labels[order], FLOWER_CLASSES


def read_photographs(root: Path, height: int, width: int, split_seed: int):
    """(images, uint8 (N, 3, height, width); labels, int64 (N,); names of the classes), in an order that depends only on
    the names of the files and the seed. Raises UserError for a folder that cannot be trained on."""
    files = _list_images(root)
    classes = list(dict.fromkeys(map(_class_of, files)))
    files = [files[i] for i in np.random.default_rng(split_seed).permutation(len(files))]
    images = np.empty((len(files), 3, height, width), np.uint8)
    problems = {}

    def decode_chunk(start):
        for i in range(start, min(start + DECODE_CHUNK, len(files))):
            try:
                image = open_photograph(root / files[i], height, width)
            except UserError as error:
                problems[i] = f"{root / files[i]} ({error})"
            else:
                images[i] = to_array(image, height, width)

    with ThreadPoolExecutor(os.cpu_count()) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # open_photograph has a lower limit
        # Pillow decodes outside the interpreter's lock; a Ctrl-C waits for the chunks that are begun
        list(pool.map(decode_chunk, range(0, len(files), DECODE_CHUNK)))
    labels = np.array([classes.index(_class_of(file)) for file in files], np.int64)
    if problems:
        skipped = sorted(problems.values())
        names = ", ".join(skipped[:5]) + (f" and {len(skipped) - 5} more" if len(skipped) > 5 else "")
        warnings.warn(f"skipped {len(skipped)} of {len(files)} files, not readable images: {names}", stacklevel=3)
        readable = [i for i in range(len(files)) if i not in problems]
        images, labels = images[readable], labels[readable]
    _check(root, classes, labels)
    return images, labels, classes


def _class_of(file):
    return file.partition("/")[0]


def _list_images(root):
    """["class/name", ...], sorted by name wherever it runs."""
    try:
        folders = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        _raise(error)
    listed = []
    for folder in folders:
        names = _list_class(root, folder)
        if not names:
            raise UserError(f"the class folder {root / folder} is empty: put images into it, or remove it")
        listed += sorted(names)
    return listed


def _list_class(root, folder):
    """["class/name", ...] of one class, at any depth; a dangling link counts as a file, and so does one to a folder,
    which could lead back here."""
    names = []
    for here, below, files in os.walk(root / folder, onerror=_raise):
        below[:] = [name for name in below if not name.startswith(".")]
        links = [name for name in below if os.path.islink(os.path.join(here, name))]
        for name in files + links:
            path = os.path.join(here, name)
            if not name.startswith(".") and not _is_pipe(path):
                names.append(os.path.relpath(path, root).replace(os.sep, "/"))
    return names


def _raise(error):
    raise UserError(f"cannot read {error.filename} ({error.strerror}): allow it, or remove it") from None


def _is_pipe(path):
    return os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))


def _check(root, classes, labels):
    for label, name in enumerate(classes):
        if label not in labels:
            raise UserError(f"no file in {root / name} is a readable image: put images into it, or remove it")
    if len(labels) < 2:
        raise UserError(
            f"{root} holds {len(labels)} image(s), need 2 or more to train and to validate on."
            " Images belong into one sub-folder a class"
        )


def open_photograph(path, height, width):
    """One image file, decoded. Raises UserError, whatever Pillow raises."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe would wait for ever
            raise UserError("not a file")
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{image.width}x{image.height} pixels are too many")
            image.draft("RGB", (max(height, width),) * 2)  # a JPEG decodes at 1/2, 1/4 or 1/8 size, many times faster
            if image.mode == "F":
                raise UserError("floating-point images have no fixed range of values")
            ImageOps.exif_transpose(image, in_place=True)
            image.load()
            return image
    except UserError:
        raise
    except Exception as error:  # a damaged file can make Pillow raise almost anything
        raise UserError(type(error).__name__) from None


def to_array(image, height, width):
    """An image of any mode -> uint8 (3, height, width): 16 bits are scaled, not clipped, transparency becomes white."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image, np.float32) / 257).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)  # antialiased
    return np.asarray(image).transpose(2, 0, 1)
