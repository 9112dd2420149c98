"""What a run leaves beside its weights, compared with them: the log field by field, the pictures pixel by pixel.

    problem = problem_of_log(root / "log" / "train_AE.txt", checkpoint)      # "" where it is the log of that run

Each function returns what is wrong, or "". Nothing in the files is run as code.
"""

import codecs
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from evaluation.models import SIZE, TABLE, checkpoint_file, flag_for, name_model
from training import UserError
from training.loop import epoch_line, epochs_since_best, last_lines
from VarAutoencoder import describe_parts

FIGURES_ONLY = "main.py --model {0} --figures-only"
FIGURES = {  # {kind: (file, what its title says after the model's name, the command that plots it)}
    "train": ("train_{0}.png", "\ntrain split of {1}\n", "visualization.py --model {0}"),
    "valid": ("valid_{0}.png", "\nvalid split of {1}\n", "visualization.py --model {0}"),
    "random": ("random_images_{0}.png", "trained on {1}: z from", "random_generation.py --model {0}"),
    "reconstruction": ("mnist_{0}_reconstruction.png", "test images of {1}", FIGURES_ONLY),
    "latent": ("mnist_{0}_latent.png", "test images of {1}", FIGURES_ONLY),
    "interpolation": ("mnist_{0}_interpolation.png", "test images of {1}", FIGURES_ONLY),
    "samples": ("mnist_{0}_samples.png", "trained on {1}: z from", FIGURES_ONLY),
}
PIXEL_TOLERANCE, PIXELS_TOLERATED = 12, 0.001  # of 255 levels; the share of pixels that may differ by more
SEEDED = ("random", "samples")  # kinds whose titles say a seed
NOT_LOGGED = {"data", "classes", "class_prior", "image_size", *SIZE}  # settings that are no flags, or differ as such


def problem_of_log(path: Path, checkpoint: dict) -> str:
    """What keeps a log from being the whole one of the checkpoint's run."""
    if not os.path.isfile(path):
        return "missing"
    try:
        lines = read_log(path)
    except OSError as error:
        return f"not to be read ({error.strerror})"
    return problem_of_epochs(lines, checkpoint) or problem_of_settings(lines, checkpoint)


def read_log(path: Path) -> list[str]:
    """The lines of a log that are not empty. Raises OSError."""
    data = path.read_bytes()
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # what > makes in the shell of Windows
    text = data.decode("utf-16" if is_utf16 else "utf-8-sig", "replace")
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def problem_of_epochs(lines: list[str], checkpoint: dict) -> str:
    """What differs in the lines of the epochs and in the last line."""
    history = checkpoint["history"]
    found = [line for line in lines if line.startswith("Epoch: ")]
    expected = [epoch_line(history[:epochs]) for epochs in range(1, len(history) + 1)]
    if sum(line.startswith("Epoch: 1,") for line in found) > 1:
        return "of several runs, perhaps written with >>, which --resume does not need"
    different = [pair for pair in zip(found, expected, strict=False) if pair[0] != pair[1]]
    if different:
        first = zip(*(line.split(", ") for line in different[0]), strict=False)
        ours, theirs = next((pair for pair in first if pair[0] != pair[1]), different[0])
        count = f"{len(different)} of {len(expected)} epochs differ from the checkpoint's"
        epoch = different[0][1].partition(",")[0]
        return f"of another run, or edited: {count}, the first in {epoch}: {ours} instead of {theirs}"
    if len(found) != len(expected):
        return f"of another run, or cut: {len(found)} epochs, but the checkpoint's run had {len(expected)}"
    last = last_lines(checkpoint, TABLE[checkpoint["model"]].suffix)
    found = lines[-len(last) :]
    return "" if found == last else f'of another run, cut or edited: it does not end with "{", ".join(last)}"'


def problem_of_settings(lines: list[str], checkpoint: dict) -> str:
    """What differs in the lines on the data and the settings, field by field, and on the parts of a VAE's loss."""
    trained, entry = checkpoint["data"], TABLE[checkpoint["model"]]
    words = [f"{trained['name']},", f"{trained['images']} images of {len(trained['classes'])} classes ("]
    words += [] if trained.get("split_seed") is None else [f"split seed {trained['split_seed']},"]
    data = f", {find_line(lines, 'Data: ')},"  # each field with its end: "split seed 0" is no "split seed 07"
    missing = [
        word.rstrip(" (,") for word in [*words, f"fingerprint {trained['fingerprint']},"] if f", {word}" not in data
    ]
    if "kl" in entry.metrics and entry.data == "flowers":
        parts = describe_parts(checkpoint)
        missing += [] if parts in find_line(lines, "Diagnostics: ") else [parts]
    if missing:
        return f'of another run, or edited: it does not say "{missing[0]}"'
    flags = dict(item.partition(" ")[::2] for item in re.split(r", (?=[a-z_]+ )", find_line(lines, "Settings: ")))
    settings = {name: value for name, value in checkpoint["settings"].items() if name not in NOT_LOGGED}
    for name, value in settings.items():
        found = flags.get(name)
        if found != (None if value is None else str(value)):
            return f'of another run, or edited: its settings say "{name} {found}", the checkpoint "{name} {value}"'
    return problem_of_length(flags, checkpoint["history"])


def problem_of_length(flags: dict[str, str], history: list[dict]) -> str:
    """Whether the run ended before its --epochs, though not by its --patience."""
    epochs, patience = (flags.get(name, "") for name in ("epochs", "patience"))
    if not epochs.isdecimal() or not patience.isdecimal():
        return "edited: its settings do not say epochs and patience"
    if len(history) == int(epochs) or len(history) < int(epochs) and epochs_since_best(history) >= int(patience):
        return ""
    return f"of another run, or edited: its settings say epochs {epochs}, patience {patience}, it has {len(history)}"


def find_line(lines: list[str], start: str) -> str:
    """The rest of the only line that starts so, or ""."""
    found = [line.removeprefix(start) for line in lines if line.startswith(start)]
    return found[0] if len(found) == 1 else ""


def describe_figure(kind: str, name: str, data: str = "") -> list[str]:
    """[file, what its title says, the command that plots it] of a figure of a model that was trained on that data."""
    return [text.format(name.removeprefix("MNIST_"), data) for text in FIGURES[kind]]


def check_figures(name: str, kinds, root: Path, checkpoint: dict, run: Callable, has_data: bool) -> dict:
    """{file: (passed, found)} of the figures of a model, compared with what their commands plot from its checkpoint.

    run(command, output_root, *flags): runs a script; has_data: whether the model's images are here.
    """
    found, plotted, model = {}, set(), root / "models" / checkpoint_file(name)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "models").mkdir()
        shutil.copyfile(model, Path(folder) / "models" / model.name)
        for kind in kinds:
            file, shows, command = describe_figure(kind, name, checkpoint["data"]["name"])
            problem, title = problem_of_title(root / "vis" / file, name_model(checkpoint), shows)
            if not problem and not has_data and kind != "random":
                found[f"vis/{file}"] = False, "not checked, it shows the data"
                continue
            try:
                if not problem and command not in plotted:
                    seed = re.search(r", seed (\d{1,18})\b", title) if kind in SEEDED else None
                    run(command, Path(folder), *([f"--seed={seed[1]}"] if seed else []))
                    plotted.add(command)  # which may plot several
                problem = problem or problem_of_pixels(root / "vis" / file, Path(folder) / "vis" / file)
            except UserError as error:
                problem = f"not to be plotted anew ({error})"
            again = f"{problem}; plot it with `python {command}{flag_for(root)}`"
            found[f"vis/{file}"] = not problem, again if problem else "as plotted anew from the weights"
    return found


def problem_of_title(path: Path, model: str, shows: str) -> tuple[str, str]:
    """(what keeps a PNG from being one of the model that titles call so, or ""; its title)."""
    if not os.path.isfile(path):
        return "missing", ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=["PNG"]) as image:
                image.load()
                title = image.text.get("Title", "no title")
    except Exception as error:  # a damaged file can make Pillow raise almost anything
        return f"not a PNG that can be read ({type(error).__name__})", ""
    if title.startswith(model) and shows in title:
        return "", title
    return f'of another model or run: it says "{title[:100]}", expected "{model}" and "{shows.strip()}"', title


def problem_of_pixels(path: Path, expected: Path) -> str:
    """How the plot in a PNG differs from that in another, which says where it is: on another machine a few pixels may
    (other fonts are outside of it)."""
    with Image.open(path) as image, Image.open(expected) as other:
        if image.size != other.size:
            return f"not as the weights draw it: {image.size} pixels, expected {other.size}"
        box = [int(side) for side in other.text["Plot"].split()]
        found, drawn = (np.asarray(picture.convert("RGB").crop(box), np.int16) for picture in (image, other))
    share = (np.abs(found - drawn).max(axis=2) > PIXEL_TOLERANCE).mean()
    return f"not as the weights draw it: {share:.1%} of the pixels differ" if share > PIXELS_TOLERATED else ""
