"""What a run leaves beside its weights, compared with them: the log line by line, the pictures pixel by pixel.

    problem = problem_of_log(root / "log" / "train_AE.txt", checkpoint)      # "" where it is the log of that run

Each function whose name begins with problem_of returns what is wrong, or "". Nothing in the files is run as code.
"""

import codecs
import os
import re
import tempfile
from contextlib import redirect_stderr
from io import StringIO
from itertools import zip_longest
from pathlib import Path

import numpy as np
from PIL import Image

import main as mnist_script
from common import UserError
from common.checkpoints import one_line
from common.run import epoch_line, last_lines
from datasets.images import ImageDataset
from random_generation import generate
from trained.loading import name_model
from trained.registry import root_flag
from visualization import SHOWN, plot_split

FLOWER_FIGURES = {  # {kind: (file, the script that plots it)}
    "train": ("train_{}.png", "visualization.py"),
    "valid": ("valid_{}.png", "visualization.py"),
    "random": ("random_images_{}.png", "random_generation.py"),
}
RANDOM = ("random", "samples")  # kinds that show no data, and whose titles say a seed
RANDOM_IMAGES = 60  # of random_generation.py without --n
STARTS = ("Data: ", "Settings: ", "Epoch: ", "Best Valid Loss: ", "Test Loss: ")  # of a log's lines that are compared
NOT_COMPARED = re.compile("(?<=^Data: ).*(?=fingerprint)|, saved to .*")  # in these lines
QUOTED = 100  # letters of a log or a title in a finding
PIXEL_TOLERANCE = 12  # of 255 levels
PIXELS_TOLERATED = 0.001  # the share of pixels that may differ by more: other machines round differently


# ---------------------------------------------------------------- the log


def problem_of_log(path: Path, checkpoint: dict) -> str:
    """What keeps a log from being the whole one of the checkpoint's run."""
    if not os.path.isfile(path):
        return "missing"
    try:
        lines = read_log(path)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    expected = expected_lines(checkpoint)
    lines = [line for line in lines if line.startswith(STARTS)]
    if sum(line.startswith("Epoch: 1,") for line in lines) > 1:
        return "of several runs, perhaps written with >>, which --resume does not need"
    for pair in zip_longest(expected, lines, fillvalue="nothing"):
        difference = find_difference(*pair)
        if difference:
            return f"of another run, cut or edited: {difference}"
    return ""


def read_log(path: Path) -> list[str]:
    """The lines of a log that are not empty. Raises OSError."""
    data = path.read_bytes()
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # what > makes in the shell of Windows
    text = data.decode("utf-16" if is_utf16 else "utf-8-sig", "replace")
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def expected_lines(checkpoint: dict) -> list[str]:
    """The lines of a log that a checkpoint determines, and of the one on the data its end."""
    settings = ", ".join(f"{name} {value}" for name, value in checkpoint["settings"].items())
    history = checkpoint["history"]
    epochs = [epoch_line(history[:length]) for length in range(1, len(history) + 1)]
    data = f"Data: fingerprint {checkpoint['data']['fingerprint']}"
    return [data, f"Settings: {settings}", *epochs, *last_lines(checkpoint, Path())]


def find_difference(expected: str, line: str) -> str:
    """The first difference between a line of a log as its checkpoint determines it and as it is, or ""."""
    fields = [NOT_COMPARED.sub("", text).split(", ") for text in (expected, line)]
    for field, logged in zip_longest(*fields, fillvalue="nothing"):
        if field != logged:
            start, logged, field = (text[:QUOTED] for text in (fields[0][0], logged, field))
            return f'where the checkpoint has "{start}", it says "{logged}" instead of "{field}"'
    return ""


# ---------------------------------------------------------------- the pictures


def describe_figure(kind: str, name: str) -> tuple[str, str]:
    """(file, the command that plots it) of a picture of a model."""
    model = name.removeprefix("MNIST_")
    file, script = FLOWER_FIGURES.get(kind, (f"mnist_{{}}_{kind}.png", "-m beyond.digits"))
    return f"vis/{file.format(model)}", f"{script} --model {model}"


def check_figures(kinds, root: Path, model, checkpoint: dict, loaders) -> dict[str, tuple[bool, str]]:
    """{file: (passed, finding)} of the pictures of a model, compared with what is plotted from its checkpoint; loaders:
    of the images that it was trained on, or None where they are not here."""
    findings = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds:
            file, command = describe_figure(kind, checkpoint["model"])
            if loaders is None and kind not in RANDOM:
                findings[file] = False, "not checked, it shows the data"
                continue
            problem = problem_of_figure(kind, root / file, Path(folder) / file, model, checkpoint, loaders)
            again = f"{problem}; plot it with `python {command}{root_flag(root)}`"
            findings[file] = (False, again) if problem else (True, "as plotted again from the weights")
    return findings


def problem_of_figure(kind: str, path: Path, again: Path, model, checkpoint: dict, loaders) -> str:
    """How a picture differs from the same one plotted again; at the edges of pixels, another machine's may."""
    if not os.path.isfile(path):
        return "missing"
    try:
        with one_line("not a PNG that can be read"), Image.open(path, formats=["PNG"]) as image:
            title = str(image.info.get("Title", ""))
            if title.partition("\n")[0] != name_model(checkpoint):
                return f'of another model or run: its title is "{title[:QUOTED]}", expected "{name_model(checkpoint)}"'
            seed = re.search(r", seed (\d{1,18})\b", title)
            if not again.exists():  # some are plotted together
                plot_again(kind, again.parent.parent, model, checkpoint, loaders, int(seed[1]) if seed else 0)
            with Image.open(again) as expected:
                return compare_pixels(image, expected)
    except UserError as error:
        return str(error)


def compare_pixels(image: Image.Image, expected: Image.Image) -> str:
    """How the plot in a picture differs from the one expected, or ""; the text around it has the fonts of its machine.
    It is decoded only where it has the size expected."""
    if image.size != expected.size:
        return f"not as the weights draw it: {image.size} pixels, expected {expected.size}"
    differences = np.abs(np.subtract(*(np.asarray(picture.convert("RGB"), np.int16) for picture in (image, expected))))
    left, top, right, bottom = map(int, expected.info["Plot"].split())
    share = (differences[top:bottom, left:right].max(axis=2) > PIXEL_TOLERANCE).mean()
    return f"not as the weights draw it: {share:.1%} of the pixels differ" if share > PIXELS_TOLERATED else ""


def plot_again(kind: str, root: Path, model, checkpoint: dict, loaders, seed: int) -> None:
    """Plot a picture, and perhaps others with it, below a root. Raises UserError."""
    with redirect_stderr(StringIO()):  # where it was written is of no interest
        if kind == "random":
            generate(model, checkpoint, RANDOM_IMAGES, seed, 1.0, root)
        elif kind == "samples":
            path = mnist_script.picture_path(root, checkpoint, "samples")
            latents = mnist_script.random_latents(checkpoint, seed)
            mnist_script.plot_random_digits(model, checkpoint, latents, path, f"z from N(0, 1), seed {seed}")
        elif kind in ("train", "valid"):
            train_loader, valid_loader = loaders
            images = (train_loader if kind == "train" else valid_loader).dataset
            shown = ImageDataset(images.images[:SHOWN], images.labels[:SHOWN], images.info)
            plot_split(model, checkpoint, kind, shown, root)  # its title has another error, which is not compared
        else:
            mnist_script.plot_test_digits(model, checkpoint, loaders[2].dataset, root)
