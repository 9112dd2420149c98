"""The courseworks' targets, checked on the files of a hand-in.

    rows = list(check_model("VAE", output_root, loaders, measured, Losses))

Losses are computed anew from the weights and compared with what log and checkpoint claim. Nothing that the checked
files hold is run as code.
"""

import codecs
import math
import os
import warnings
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from tqdm import tqdm

from evaluation.models import TABLE, checkpoint_file, flag_for, load_model, name_model, training_command
from training import UserError
from training.loop import average, epoch_line, last_line
from training.script import seed_everything
from VarAutoencoder import VAE_UNIT, describe_parts

LOSS_TOLERANCE = 1e-4  # relative difference between two computations of one loss: processors round differently
SAMPLED_TOLERANCE = 1e-2  # the same where random latent vectors enter: other devices draw others
TRAIN_TOLERANCE = 0.05  # how much worse the train loss may be after an epoch than its mean over it
MLP = "1728 -> 256 -> 128 -> 64 -> 128 -> 256 -> 1728"
CNN = "3x24x24 -> 32x12x12 -> 64x6x6 -> 128x6x6 -> 64 -> 128x6x6 -> 64x6x6 -> 32x12x12 -> 3x24x24"
FIGURES_ONLY = "main.py --model {0} --figures-only"
FIGURES = {  # {kind: (file, what its title says after the model's name, the command that plots it)}
    "train": ("train_{0}.png", "train split of {1}\n", "visualization.py --model {0}"),
    "valid": ("valid_{0}.png", "valid split of {1}\n", "visualization.py --model {0}"),
    "random": ("random_images_{0}.png", "trained on {1}:\nz from", "random_generation.py --model {0}"),
    "reconstruction": ("mnist_{0}_reconstruction.png", "test images of {1}", FIGURES_ONLY),
    "latent": ("mnist_{0}_latent.png", "test images of {1}", FIGURES_ONLY),
    "interpolation": ("mnist_{0}_interpolation.png", "test images of {1}", FIGURES_ONLY),
    "samples": ("mnist_{0}_samples.png", "trained on {1}:\nz from", FIGURES_ONLY),
}
GRIDS, DIGITS = ("train", "valid", "random"), ("reconstruction", "latent", "samples")


class Target(NamedTuple):
    """What a coursework asks of a model; its losses in one of the units of `conventions`."""

    figures: tuple[str, ...]
    unit: str = "sum"
    loss_below: dict = {}
    max_epochs: float = math.inf
    layers: str = ""
    better_than: str = ""  # the model whose losses are to be above


TARGETS = {
    "MLPAE": Target(("train", "valid"), "recon/pixel", {"train": 0.03, "valid": 0.03}, layers=MLP),
    "AE": Target(GRIDS, "recon/pixel", {"train": 0.01, "valid": 0.012}, 15, CNN, "MLPAE"),
    "VAE": Target(GRIDS, "sum x 16", {"train": 800, "valid": 800}, 20, CNN),
    "MNIST_AE": Target(DIGITS),
    "MNIST_VAE": Target((*DIGITS, "interpolation")),
    "MNIST_CVAE": Target(DIGITS),
}


class Row(NamedTuple):
    """A line of the table."""

    model: str
    check: str
    target: str
    passed: bool
    found: str


def recompute(name: str, model, checkpoint: dict, loaders, mnist_losses):
    """({"train": {"loss": ...}, "valid": {...}} in the terms of the log, the outputs' least and greatest value)."""
    settings = {key: checkpoint["settings"][key] for key in TABLE[name].loss_settings}
    measure = mnist_losses(**settings) if TABLE[name].data == "MNIST" else partial(model.measure, **settings)
    bounds, losses = [], {}

    def step(images, labels):
        outputs = model(images, labels) if model.has_label else model(images)
        bounds.extend(bound.item() for bound in (outputs[0] if model.is_dist else outputs).aminmax())
        return measure(outputs, images)[1]

    with tqdm(unit="batch", disable=None, leave=False) as bar, torch.inference_mode():
        for split, loader in zip(("train", "valid"), loaders, strict=True):
            seed_everything(checkpoint["seed"])  # the random numbers of every validation
            losses[split] = average(step, loader, f"{name}, {split} images", bar)
    return losses, (min(bounds), max(bounds))


def conventions(losses: dict, recon: str, pixels: int) -> dict:
    """A loss of the log, {"loss": ...} and perhaps "recon" and "kl", in every unit; of an image unless the name says.

    recon: "mse", squared errors, or "bce", cross-entropy in nats; pixels: of an image, times channels.
    bits/dim: the negative evidence lower bound, recon + KL, in bits over pixels; squared errors are a Gaussian's of
    variance 1/2, up to ln(pi)/2 a pixel, and 256 levels in [0, 1] take 8 bits more.
    """
    squared, kl = recon == "mse", losses.get("kl")
    error = losses.get("recon", losses["loss"] * (pixels if squared else 1))
    total, constant = error + (kl or 0), math.log2(math.pi) / 2 + 8 if squared else 0
    return {
        "recon is": "squared error" if squared else "nats",
        "recon/pixel": error / pixels,
        "recon": error,
        "recon x 16": VAE_UNIT * error,
        "KL": kl,
        "sum": total,
        "sum x 16": VAE_UNIT * total,
        "bits/dim": None if kl is None else total / pixels / math.log(2) + constant,
        "the log's": losses["loss"],
    }


def check_model(name: str, root: Path, loaders, measured: dict, mnist_losses):
    """Yield the rows of a model, and put its losses into measured[name]: {"train": {unit: value}, "valid": ...}.

    loaders: (train loader, validation loader), or the UserError that says why not; mnist_losses: main.py's Losses.
    """
    target, file = TARGETS[name], checkpoint_file(name)
    try:
        model, checkpoint = load_model(name, root)
        check_history(checkpoint)
    except UserError as error:
        found = f"{error}; without it no more of {name} is checked"
        yield Row(name, f"models/{file}", "the best of its run", False, found)
        return
    yield Row(name, f"models/{file}", "the best of its run", True, name_model(checkpoint))
    yield from check_files(name, root, checkpoint)
    if target.layers:
        layers, epochs = model.describe_layers(), len(checkpoint["history"])
        expected = "" if layers == target.layers else f", expected {target.layers}"
        yield Row(name, "layers", "the coursework's", not expected, layers + expected)
        if target.max_epochs < math.inf:
            yield Row(name, "epochs", f"at most {target.max_epochs}", epochs <= target.max_epochs, str(epochs))
    data = TABLE[name].data
    problem = problem_of_data(checkpoint["data"], data, loaders)
    found = problem or f"{data}, fingerprint {checkpoint['data']['fingerprint']}"
    yield Row(name, "data", f"the real {data}", not problem, found)
    if not problem:
        yield from check_losses(name, model, checkpoint, loaders, measured, mnist_losses)


def check_history(checkpoint: dict) -> None:
    """Raise UserError where a checkpoint is not the best of the history that it holds."""
    history, beta = checkpoint["history"], checkpoint["settings"].get("beta")
    epochs = [row["epoch"] for row in history]
    if epochs != list(range(1, len(history) + 1)):
        raise UserError(f"its history counts the epochs {epochs}, expected 1, 2, 3, ...")
    expected = min(history, key=lambda row: row["valid_loss"])
    if any(checkpoint[key] != value for key, value in expected.items()):
        found = f"it claims to be epoch {checkpoint['epoch']}"
        raise UserError(f"{found}, its history's best is epoch {expected['epoch']}: {expected}")
    if beta is not None and not 0 < beta <= 100:
        raise UserError(f"it was trained with --beta {beta}, expected about 1")


def check_files(name: str, root: Path, checkpoint: dict):
    """Yield the rows on the log and the figures."""
    elsewhere, log = flag_for(root), f"log/train_{name}.txt"
    problem = problem_of_log(root / log, checkpoint)
    target = f'"{root / log}"' if elsewhere else f"./{log}"
    again = f"{problem}; train again and keep what it prints, `{training_command(name, root)} > {target}`"
    yield Row(name, log, "all of that run", not problem, again if problem else "as in the checkpoint")
    for kind in TARGETS[name].figures:
        words = name.removeprefix("MNIST_"), checkpoint["data"]["name"]
        figure, shows, command = (text.format(*words) for text in FIGURES[kind])
        problem = problem_of_figure(root / "vis" / figure, name_model(checkpoint), shows)
        found = f"{problem}; plot it with `python {command}{elsewhere}`" if problem else "named in its title"
        yield Row(name, f"vis/{figure}", "of this model", not problem, found)


def problem_of_log(path: Path, checkpoint: dict) -> str:
    """What keeps a log from being the whole one of the checkpoint's run, or ""."""
    if not os.path.isfile(path):
        return "missing"
    try:
        data, history = path.read_bytes(), checkpoint["history"]
    except OSError as error:
        return f"not to be read ({error.strerror})"
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # what > makes in the shell of Windows
    text = data.decode("utf-16" if is_utf16 else "utf-8", "replace")
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
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
    last, trained = last_line(checkpoint, TABLE[checkpoint["model"]].suffix), checkpoint["data"]
    if lines[-1:] != [last]:
        return f'of another run, cut or edited: its last line is not "{last}"'
    words = [f"Data: {trained['name']}", f"{trained['images']} images of ", f"fingerprint {trained['fingerprint']}"]
    words += [f"{key} {checkpoint['settings'].get(key)}" for key in ("batch_size", "lr", "seed")]
    if "kl" in TABLE[checkpoint["model"]].metrics and TABLE[checkpoint["model"]].data == "flowers":
        words.append(describe_parts(checkpoint))
    missing = [word for word in words if not any(word in line for line in lines)]
    return f'of another run, or edited: it does not say "{missing[0]}"' if missing else ""


def problem_of_figure(path: Path, title: str, shows: str) -> str:
    """What keeps a PNG from being one of the model that titles call `title`, or ""."""
    if not os.path.isfile(path):
        return "missing"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=["PNG"]) as image:
                image.load()
                found = image.text.get("Title", "no title")
    except Exception as error:  # a damaged file can make Pillow raise almost anything
        return f"not a PNG that can be read ({type(error).__name__})"
    if not (found.startswith(title) and shows in found):
        return f'of another model or run: it says "{found[:100]}", expected "{title}" and "{shows}"'
    return ""


def problem_of_data(trained: dict, name: str, loaders) -> str:
    """What keeps the images that a model was trained on from being the real ones that are here, or ""."""
    source = f"trained on {trained['name']} at {trained['image_size']}, fingerprint {trained['fingerprint']}"
    if trained["name"].startswith("synthetic"):
        return f"{source}: a stand-in, not to hand in; train on the {name} with --data real"
    if isinstance(loaders, UserError):
        return f"no loss can be computed: {loaders}"
    here = loaders[0].dataset.info
    if trained["fingerprint"] != here["fingerprint"] or trained["name"] != name:
        return f"{source}, but here is {here['name']} at {here['image_size']}, fingerprint {here['fingerprint']}"
    return ""


def check_losses(name: str, model, checkpoint: dict, loaders, measured: dict, mnist_losses):
    """Yield the rows on what the weights give."""
    target, pixels = TARGETS[name], loaders[0].dataset.images[0].numel()
    try:
        losses, (low, high) = recompute(name, model, checkpoint, loaders, mnist_losses)
    except UserError as error:  # a loss that is not finite
        yield Row(name, "weights", "the losses claimed", False, str(error))
        return
    recon = checkpoint["settings"]["recon"] if TABLE[name].data == "MNIST" else "mse"
    measured[name] = {split: conventions(found, recon, pixels) for split, found in losses.items()}
    problem = problem_of_losses(losses, checkpoint)
    found = f"validation {losses['valid']['loss']:.6g}, claimed {checkpoint['valid_loss']:.6g}"
    yield Row(name, "weights", "the losses claimed", not problem, problem or found)
    yield Row(name, "outputs", "in [0, 1]", 0 <= low <= high <= 1, f"{low:.6f} to {high:.6f}")
    for split, below in target.loss_below.items():
        found, claimed = measured[name][split][target.unit], checkpoint[f"{split}_loss"]
        passed = found < below and claimed < below
        yield Row(name, f"{split} loss", f"below {below:g}", passed, f"{found:.4g}, by the log {claimed:.4g}")
    if target.better_than:
        yield compare(name, target.better_than, measured)
    if TABLE[name].data == "MNIST":
        found, mean = measured[name]["valid"], loss_of_mean_image(mnist_losses(recon), loaders)
        text = f"{found['sum']:.4g} {found['recon is']} per image, the mean image's {mean:.4g}"
        yield Row(name, "test loss", "below the mean image's", found["sum"] < mean, text)


def problem_of_losses(losses: dict, checkpoint: dict) -> str:
    """How the losses that the weights give differ from those that the checkpoint claims, or ""."""
    for key, found in losses["valid"].items():
        claimed, sampled = checkpoint[f"valid_{key}"], "kl" in losses["valid"] and key != "kl"
        if not abs(found - claimed) <= (SAMPLED_TOLERANCE if sampled else LOSS_TOLERANCE) * abs(found):
            return f"they give a validation {key} of {found:.6g}, but {claimed:.6g} is claimed"
    found, claimed = losses["train"]["loss"], checkpoint["train_loss"]
    if not found <= (1 + TRAIN_TOLERANCE) * claimed:
        return f"they give a train loss of {found:.6g}, but {claimed:.6g} is claimed as the mean over the epoch"
    return ""


def compare(name: str, other: str, measured: dict) -> Row:
    """The row on whether a model's losses are below another's, on both splits."""
    if other not in measured:
        return Row(name, "both losses", f"below {other}'s", False, f"those of {other} could not be computed")
    losses = [[measured[model][split]["recon/pixel"] for model in (name, other)] for split in ("train", "valid")]
    found = ", ".join(f"{ours:.6f} against {theirs:.6f}" for ours, theirs in losses)
    return Row(name, "both losses", f"below {other}'s", all(ours < theirs for ours, theirs in losses), found)


def loss_of_mean_image(losses, loaders) -> float:
    """The reconstruction loss of a test image of MNIST, where each is answered with the mean of the training images."""
    train, test = (loader.dataset for loader in loaders)
    mean, (xs, _) = train.images.float().mean(dim=0) / 255, test[:]
    return losses.reconstruction(mean.expand_as(xs), xs).mean().item()
