"""Photographs of flowers: found, decoded in threads, and put in a seeded order."""

import os
import stat
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from common import UserError
from datasets import find_folder
from datasets.synthetic import FLOWER_CLASSES, make_flowers

# of photographs; some of Pillow's others hold a program that it would hand to Ghostscript
FORMATS = ["JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP", "JPEG2000", "TGA"]
DECODE_CHUNK = 8  # images that a thread decodes at a time
MAX_NAMES = 5  # files that a warning names
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
    the names of the readable images and on the seed.

    A class is a folder with at least one readable image. One warning names the files and the folders that are skipped.
    Raises UserError for a folder that cannot be trained on.
    """
    folders = _list_folders(root)
    listed = [name for folder in folders if not folder.startswith(".") for name in _list_files(root, folder)]
    files = _shuffle(listed, split_seed)
    images, problems = _decode(root, files, height, width)
    if problems:  # a split of the readable images alone, as if the others were not there
        places = {file: place for place, file in enumerate(files)}
        files = _shuffle([file for file in listed if file not in problems], split_seed)
        images = images[[places[file] for file in files]]
    classes = sorted(set(map(_class_of, files)))
    _warn_of_skipped(root, listed, problems, [folder for folder in folders if folder not in classes])
    if len(files) < 2:
        problem = f"{root} holds {len(files)} readable image(s), need 2 or more to train and to validate on"
        raise UserError(f"{problem}. Images belong into one sub-folder per class")
    if len(classes) == 1:
        _warn_of_depth(root, files)
    labels = np.array([classes.index(_class_of(file)) for file in files], np.int64)
    return images, labels, classes


def _class_of(file):
    return file.partition("/")[0]


def _shuffle(files, seed):
    return [files[i] for i in np.random.default_rng(seed).permutation(len(files))]


def _decode(root, files, height, width):
    """(uint8 (N, 3, height, width), {file: what is wrong with it} of those that are not readable images)."""
    images = np.empty((len(files), 3, height, width), np.uint8)
    problems = {}

    def decode_chunk(start):
        for i in range(start, min(start + DECODE_CHUNK, len(files))):
            try:
                image = open_photograph(root / files[i], height, width)
            except UserError as error:
                problems[files[i]] = error
            else:
                images[i] = to_array(image, height, width)

    with ThreadPoolExecutor(os.cpu_count()) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # open_photograph has a lower limit
        # Pillow decodes outside the interpreter's lock; a Ctrl-C waits for the chunks that are begun
        list(pool.map(decode_chunk, range(0, len(files), DECODE_CHUNK)))
    return images, problems


def _warn_of_skipped(root, listed, problems, folders):
    """One warning for all files that are not readable images and all folders without one."""
    skipped = []
    if problems:
        names = [f"{root / file} ({problems[file]})" for file in sorted(problems)[:MAX_NAMES]]
        more = f" and {len(problems) - MAX_NAMES} more" if len(problems) > MAX_NAMES else ""
        skipped.append(f"{len(problems)} of {len(listed)} files, not readable images: {', '.join(names)}{more}")
    if folders:
        skipped.append(f"the folders without a readable image {', '.join(folders)}")
    if skipped:
        warnings.warn(f"skipped {'; '.join(skipped)}", stacklevel=4)


def _warn_of_depth(root, files):
    """Warn where all images are of one class because the folders of the classes lie deeper."""
    below = {Path(file).parent for file in files}
    above = {folder.parent for folder in below}
    if len(below) > 1 and len(above) == 1:
        deep = root / above.pop()
        advice = f"if the folders in {deep} are the classes, use --data-root {deep}"
        warnings.warn(f"all images are of one class; {advice}", stacklevel=4)


def _list_folders(root):
    """The names of the folders in root, sorted."""
    try:
        return sorted(path.name for path in root.iterdir() if path.is_dir())
    except OSError as error:
        _raise(error)


def _list_files(root, folder):
    """["folder/name", ...] of one folder, at any depth, sorted; a dangling link counts as a file, and so does one to a
    folder, which could lead back here. Hidden files are left out, and hidden folders."""
    names = []
    for here, below, files in os.walk(root / folder, onerror=_raise):
        below[:] = [name for name in below if not name.startswith(".")]
        links = [name for name in below if os.path.islink(os.path.join(here, name))]
        for name in files + links:
            if not name.startswith("."):
                names.append(os.path.relpath(os.path.join(here, name), root).replace(os.sep, "/"))
    return sorted(names)


def _raise(error):
    raise UserError(f"cannot read {error.filename} ({error.strerror}): allow it, or remove it") from None


def open_photograph(path, height, width):
    """One image file, decoded. Raises UserError, whatever Pillow raises, or where the format is not supported."""
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
    except UnidentifiedImageError:
        reason = "HEIC and AVIF are not supported: convert it to JPEG" if _is_heic(path) else "not an image"
        raise UserError(reason) from None
    except Exception as error:  # a damaged file can make Pillow raise almost anything
        raise UserError(type(error).__name__) from None


def _is_heic(path):
    """Whether a file is a telephone's photograph, HEIC or AVIF (a "file type box" of ISO/IEC 14496-12)."""
    with open(path, "rb") as file:
        return file.read(8)[4:] == b"ftyp"


def to_array(image, height, width):
    """An image of any mode -> uint8 (3, height, width): 16 bits are scaled, not clipped, transparency becomes white."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image, np.float32) / 257).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)  # antialiased
    return np.asarray(image).transpose(2, 0, 1)
