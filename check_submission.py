"""Is it ready to hand in? Every target of the courseworks, checked on the files themselves, and the archive.

    python check_submission.py                          # the table: target, pass or FAIL, and what was found
    python check_submission.py --model MLPAE            # the compulsory part of the flowers alone
    python check_submission.py --ledger                 # and each loss in every unit in use
    python check_submission.py --zip hand-in.zip        # packs what passes
    python check_submission.py --output-root DIR        # somebody else's models/, vis/ and log/

Losses are computed anew from the weights and compared with what log and checkpoint claim. Nothing that the checked
files hold is run as code. Exit status 0 only where everything passes.
"""

import argparse
import codecs
import json
import math
import os
import re
import warnings
import zipfile
from fnmatch import fnmatch
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from checkpoints import UserError, atomic_write, printable
from training import (
    FLOWERS_ROOT,
    MNIST_ROOT,
    PROJECT,
    HelpFormatter,
    add_output_flag,
    average,
    epoch_line,
    last_line,
    run_script,
    seed_everything,
)

BATCH = 256  # images at once, as in validation
EXACT = 1e-4  # relative difference between two computations of one loss: processors round differently
SAMPLED = 1e-2  # the same where random latent vectors enter: other devices draw others
DURING = 0.05  # how much worse the train loss may be after an epoch than its mean over it: it should be better
BLANK, CONTRAST = 0.05, 10  # a picture has more pixels that are not background, a larger deviation of its 256 greys
NOT_HANDED_IN = (
    "flowers",
    "mnist",
    ".git",
    "__pycache__",
    "LastModel_*",
    "*.tmp",
    "*.zip",
    ".DS_Store",
    ".ipynb_checkpoints",
    ".hypothesis",
)
MARKERS = ("CACHEDIR.TAG", "pyvenv.cfg", "conda-meta")  # what caches and virtual environments hold
MLP = "1728 -> 256 -> 128 -> 64 -> 128 -> 256 -> 1728"
CNN = "3x24x24 -> 32x12x12 -> 64x6x6 -> 128x6x6 -> 64 -> 128x6x6 -> 64x6x6 -> 32x12x12 -> 3x24x24"


class Task(NamedTuple):
    """What a coursework asks of a model; its losses in one of the units of `conventions`."""

    data: str
    unit: str = "sum"
    loss_below: dict = {}
    most_epochs: float = math.inf
    layers: str = ""


TASKS = {
    "MLPAE": Task("flowers", "recon/pixel", {"train": 0.03, "valid": 0.03}, layers=MLP),
    "AE": Task("flowers", "recon/pixel", {"train": 0.01, "valid": 0.012}, 15, CNN),
    "VAE": Task("flowers", "sum x 16", {"train": 800, "valid": 800}, 20, CNN),
    "MNIST_AE": Task("MNIST"),
    "MNIST_VAE": Task("MNIST"),
    "MNIST_CVAE": Task("MNIST"),
}


class Row(NamedTuple):
    """A line of the table."""

    model: str
    check: str
    target: str
    passed: bool
    found: str


# ---------------------------------------------------------------- losses


def load_images(args, data: str):
    """(train loader, validation loader) of "flowers" or "MNIST", or the UserError that says why not."""
    from data import create_flower_dataloaders, create_mnist_dataloaders

    try:
        if data == "flowers":
            return create_flower_dataloaders(BATCH, args.flowers, data="real")
        return create_mnist_dataloaders(BATCH, args.mnist, data="real")
    except UserError as error:
        reason = re.split(r"\. Name|: put", str(error))[0]  # its advice names the flags of other scripts
        return UserError(f"{reason} (--{data.lower()} names the folder)")


def functions_of(name: str, model, settings: dict):
    """answer(images, labels) -> the model's outputs, and measure(outputs, images) -> (loss, {"loss": ..., ...})."""
    import torch

    import train_script
    from main import Losses
    from MLPAE_train_script import flatten

    if name == "MLPAE":
        return lambda x, _: torch.from_numpy(model.forward(flatten(x)).reshape(x.shape)), train_script.measure
    measure = partial(train_script.measure, beta=settings.get("beta"))
    if TASKS[name].data == "MNIST":
        measure = Losses(settings["recon"], settings["beta"])
    return model if name == "MNIST_CVAE" else lambda images, _: model(images), measure


def recompute(name: str, model, checkpoint: dict, loaders):
    """({"train": {"loss": ...}, "valid": {...}} in the terms of the log, the outputs' least and greatest value)."""
    import torch

    answer, measure = functions_of(name, model, checkpoint["settings"])
    bounds, losses = [], {}

    def step(images, labels):
        outputs = answer(images, labels)
        reconstructions = outputs[0] if isinstance(outputs, tuple) else outputs
        bounds.extend(bound.item() for bound in reconstructions.aminmax())
        return measure(outputs, images)[1]

    with tqdm(unit="batch", disable=None, leave=False) as bar, torch.inference_mode():
        for split, loader in zip(("train", "valid"), loaders, strict=True):
            seed_everything(checkpoint["seed"])  # the draws of every validation
            losses[split] = average(step, loader, f"{name}, {split} images", bar)
    return losses, (min(bounds), max(bounds))


def conventions(losses: dict, recon: str, pixels: int) -> dict:
    """A loss of the log, {"loss": ...} and perhaps "recon" and "kl", in every unit; of an image unless the name says.

    recon: "mse", squared errors, or "bce", cross-entropy in nats; pixels: of an image, times channels.
    bits/dim: the negative evidence lower bound, recon + KL, in bits over pixels; squared errors are a Gaussian's of
    variance 1/2, up to ln(pi)/2 a pixel, and 256 levels in [0, 1] take 8 bits more.
    """
    from train_script import VAE_UNIT

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


# ---------------------------------------------------------------- checks


def check_model(name: str, root: Path, find_images, measured: dict):
    """Yield the rows of a model, and put its losses into measured[name]: {"train": {unit: value}, "valid": ...}."""
    import Autoencoder
    import MLPAE_train_script
    from trained import load_model, name_model, script_of

    task, file = TASKS[name], f"BestModel_{name}{'.pkl' if name == 'MLPAE' else '.pth'}"
    try:
        model, checkpoint = load_model(name, root)
        check_claims(checkpoint)
    except UserError as error:
        yield Row(
            name, f"models/{file}", "the best of its run", False, f"{error}; without it no more of {name} is checked"
        )
        return
    yield Row(name, f"models/{file}", "the best of its run", True, name_model(checkpoint))
    elsewhere, log = "" if root == PROJECT else f' --output-root "{root}"', f"log/train_{name}.txt"
    problem = problem_of_log(root / log, checkpoint, file)
    target = f'"{root / log}"' if elsewhere else f"./{log}"
    again = f"{problem}; train again and keep what it prints, `python {script_of(name)}{elsewhere} > {target}`"
    yield Row(name, log, "all of that run", not problem, again if problem else "as in the checkpoint")
    for picture, shows, command in pictures(name, checkpoint["data"]["name"]):
        problem = problem_of_picture(root / "vis" / picture, name_model(checkpoint), shows)
        found = f"{problem}; draw it with `python {command}{elsewhere}`" if problem else "named in its title, not blank"
        yield Row(name, f"vis/{picture}", "of this model", not problem, found)
    if task.layers:
        script, epochs = MLPAE_train_script if name == "MLPAE" else Autoencoder, len(checkpoint["history"])
        layers = script.describe_layers(model)
        expected = "" if layers == task.layers else f", expected {task.layers}"
        yield Row(name, "layers", "the coursework's", not expected, layers + expected)
        if task.most_epochs < math.inf:
            yield Row(name, "epochs", f"at most {task.most_epochs}", epochs <= task.most_epochs, str(epochs))
    loaders = find_images(task.data)
    problem = problem_of_data(checkpoint["data"], task.data, loaders)
    found = problem or f"{task.data}, fingerprint {checkpoint['data']['fingerprint']}"
    yield Row(name, "data", f"the real {task.data}", not problem, found)
    if not problem:
        yield from check_losses(name, model, checkpoint, loaders, measured)


def check_claims(checkpoint: dict) -> None:
    """Raise UserError where a checkpoint is not the best of the history that it holds, or claims what is no number."""
    history, beta = checkpoint["history"], checkpoint["settings"].get("beta")
    best = {key: checkpoint[key] for key in history[0]}
    numbers = [number for row in (best, *history) for number in row.values()]
    if not all(map(math.isfinite, numbers)):
        raise UserError("its history holds what is no number")
    epochs = [row["epoch"] for row in history]
    if epochs != list(range(1, len(history) + 1)):
        raise UserError(f"its history counts the epochs {epochs}, expected 1, 2, 3, ...")
    expected = min(history, key=lambda row: row["valid_loss"])
    if best != expected:
        raise UserError(
            f"it claims to be epoch {best['epoch']}, its history's best is epoch {expected['epoch']}: {expected}"
        )
    if beta is not None and not 0 < beta <= 100:
        raise UserError(f"it was trained with --beta {beta}, expected about 1")


def problem_of_log(path: Path, checkpoint: dict, file: str) -> str:
    """What keeps a log from being the whole one of the checkpoint's run, or ""."""
    if not path.is_file():
        return "missing"
    data, history = path.read_bytes(), checkpoint["history"]
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # what > makes in the shell of Windows
    text = data.decode("utf-16" if is_utf16 else "utf-8", "replace")
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    found = [line for line in lines if line.startswith("Epoch: ")]
    expected = [epoch_line(history[:epochs]) for epochs in range(1, len(history) + 1)]
    if sum(line.startswith("Epoch: 1,") for line in found) > 1:
        return "of several runs, perhaps written with >>, which --resume does not need"
    different = [pair for pair in zip(found, expected, strict=False) if pair[0] != pair[1]]
    if different:
        ours, theirs = (line.split(", ") for line in different[0])
        first = next((pair for pair in zip(ours[1:], theirs[1:], strict=False) if pair[0] != pair[1]), different[0])
        count = f"{len(different)} of {len(expected)} epochs differ from the checkpoint's"
        return f"of another run, or edited: {count}, the first in {theirs[0]}: {first[0]} instead of {first[1]}"
    if len(found) != len(expected):
        return f"of another run, or cut: {len(found)} epochs, but the checkpoint's run had {len(expected)}"
    if lines[-1:] != [last_line(checkpoint, file)]:
        return f'of another run, cut or edited: its last line is not "{last_line(checkpoint, file)}"'
    missing = [words for words in words_of_log(checkpoint) if not any(words in line for line in lines)]
    return f'of another run, or edited: it does not say "{missing[0]}"' if missing else ""


def words_of_log(checkpoint: dict):
    """Yield what the log says of data, settings and the VAE's parts."""
    from train_script import describe_parts

    trained, settings = checkpoint["data"], checkpoint["settings"]
    yield f"Data: {trained['name']}"
    yield f"{trained['images']} images of "
    yield f"fingerprint {trained['fingerprint']}"
    yield from (f"{key} {settings[key]}" for key in ("batch_size", "lr", "seed"))
    if checkpoint["model"] == "VAE":
        yield describe_parts(checkpoint)


def pictures(name: str, trained_on: str) -> list[tuple[str, str, str]]:
    """(file in vis/, what its title says after the model's name, the command that draws it) of a model."""
    if TASKS[name].data == "MNIST":
        short = name.removeprefix("MNIST_")
        shows = dict.fromkeys(("reconstruction", "latent"), f"test images of {trained_on}")
        shows["samples"] = f"trained on {trained_on}:\nz from"
        if short == "VAE":
            shows["interpolation"] = shows["latent"]
        command = f"main.py --model {short} --figures-only"
        return [(f"mnist_{short}_{kind}.png", text, command) for kind, text in shows.items()]
    command = f"visualization.py --model {name}" + " --data synthetic" * trained_on.startswith("synthetic")
    grids = [(f"{split}_{name}.png", f"{split} split of {trained_on}\n", command) for split in ("train", "valid")]
    samples = f"trained on {trained_on}:\nz from", f"random_generation.py --model {name}"
    return grids if name == "MLPAE" else [*grids, (f"random_images_{name}.png", *samples)]


def problem_of_picture(path: Path, title: str, shows: str) -> str:
    """What keeps a picture from being one of the model that titles call `title`, or ""."""
    from PIL import Image, ImageStat

    if not path.is_file():
        return "missing"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=["PNG"]) as image:
                grey, found = image.convert("L"), image.text.get("Title", "no title")
    except Exception as error:  # a damaged file can make Pillow raise almost anything
        return f"not a PNG that can be read ({type(error).__name__})"
    histogram = grey.histogram()
    if min(grey.size) < 200 or 1 - max(histogram) / sum(histogram) < BLANK or ImageStat.Stat(grey).stddev[0] < CONTRAST:
        return "blank, or hardly anything in it"
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


def check_losses(name: str, model, checkpoint: dict, loaders, measured: dict):
    """Yield the rows on what the weights give."""
    task, pixels = TASKS[name], loaders[0].dataset.images[0].numel()
    try:
        losses, (low, high) = recompute(name, model, checkpoint, loaders)
    except UserError as error:  # a loss that is not finite
        yield Row(name, "weights", "the losses claimed", False, str(error))
        return
    recon = checkpoint["settings"]["recon"] if task.data == "MNIST" else "mse"
    measured[name] = {split: conventions(found, recon, pixels) for split, found in losses.items()}
    problem = problem_of_losses(losses, checkpoint)
    found = f"validation {losses['valid']['loss']:.6g}, claimed {checkpoint['valid_loss']:.6g}"
    yield Row(name, "weights", "the losses claimed", not problem, problem or found)
    yield Row(name, "outputs", "in [0, 1]", 0 <= low <= high <= 1, f"{low:.6f} to {high:.6f}")
    for split, below in task.loss_below.items():
        found, claimed = measured[name][split][task.unit], checkpoint[f"{split}_loss"]
        passed = found < below and claimed < below
        yield Row(name, f"{split} loss", f"below {below:g}", passed, f"{found:.4g}, by the log {claimed:.4g}")
    if name == "AE":
        yield compare_with_perceptron(measured)
    if task.data == "MNIST":
        found, mean = measured[name]["valid"], loss_of_mean_image(recon, loaders)
        text = f"{found['sum']:.4g} {found['recon is']} per image, the mean image's {mean:.4g}"
        yield Row(name, "test loss", "below the mean image's", found["sum"] < mean, text)


def problem_of_losses(losses: dict, checkpoint: dict) -> str:
    """How the losses that the weights give differ from those that the checkpoint claims, or ""."""
    for key, found in losses["valid"].items():
        claimed, sampled = checkpoint[f"valid_{key}"], "kl" in losses["valid"] and key != "kl"
        if not abs(found - claimed) <= (SAMPLED if sampled else EXACT) * abs(found):
            return f"they give a validation {key} of {found:.6g}, but {claimed:.6g} is claimed"
    found, claimed = losses["train"]["loss"], checkpoint["train_loss"]
    if not found <= (1 + DURING) * claimed:
        return f"they give a train loss of {found:.6g}, but {claimed:.6g} is claimed as the mean over the epoch"
    return ""


def compare_with_perceptron(measured: dict) -> Row:
    """The row on whether the AE is better than the MLP, on both splits."""
    if "MLPAE" not in measured:
        return Row("AE", "both losses", "below MLPAE's", False, "those of MLPAE could not be computed")
    losses = [[measured[name][split]["recon/pixel"] for name in ("AE", "MLPAE")] for split in ("train", "valid")]
    found = ", ".join(f"{own:.6f} against {other:.6f}" for own, other in losses)
    return Row("AE", "both losses", "below MLPAE's", all(own < other for own, other in losses), found)


def loss_of_mean_image(recon: str, loaders) -> float:
    """The reconstruction loss of a test image of MNIST, where each is answered with the mean of the training images."""
    from main import Losses

    train, test = (loader.dataset for loader in loaders)
    mean, (xs, _) = train.images.float().mean(dim=0) / 255, test[:]
    return Losses(recon).reconstruction(mean.expand_as(xs), xs).mean().item()


# ---------------------------------------------------------------- the archive


def list_files(root: Path, data_sets: list[Path]) -> list[Path]:
    """What belongs to a hand-in, sorted: no data sets, caches, virtual environments, archives, nor LastModel_*."""
    files = []
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        folders[:] = [name for name in folders if belongs(here / name) and (here / name).resolve() not in data_sets]
        files += [here / name for name in names if belongs(here / name) and (here / name).is_file()]
    return sorted(files)


def belongs(path: Path) -> bool:
    """Whether a file or folder is to hand in, by its name and by what marks caches and environments."""
    named = any(fnmatch(path.name, pattern) for pattern in NOT_HANDED_IN)
    return not named and not any((path / marker).exists() for marker in MARKERS)


def pack(path: Path, root: Path, data_sets: list[Path]) -> dict[str, int]:
    """Write what `list_files` finds into an archive, in one folder; returns {file: bytes}."""
    files = {source.relative_to(root).as_posix(): source for source in list_files(root, data_sets)}
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as out:
        for name, source in files.items():
            out.write(source, f"{path.stem}/{name}")
    return {name: source.stat().st_size for name, source in files.items()}


# ---------------------------------------------------------------- the script


def parse_args(argv=None):
    """The flags."""
    parser = argparse.ArgumentParser(description="Check what is handed in, and pack it.", formatter_class=HelpFormatter)
    parser.add_argument("--model", choices=list(TASKS), nargs="+", default=list(TASKS), help="which ones to check")
    parser.add_argument("--ledger", action="store_true", help="also print each loss in every unit in use")
    parser.add_argument("--json", action="store_true", help="print it all for machines")
    parser.add_argument("--zip", metavar="NAME.zip", type=Path, help="pack the project, if all of them pass")
    parser.add_argument("--force", action="store_true", help="pack it even if not")
    parser.add_argument("--flowers", metavar="DIR", default=FLOWERS_ROOT, help="the photographs, a sub-folder a class")
    parser.add_argument("--mnist", metavar="DIR", default=MNIST_ROOT, help="the folder that holds MNIST/raw/")
    add_output_flag(parser)
    args = parser.parse_args(argv)
    if args.zip and args.zip.suffix != ".zip":
        parser.error(f"argument --zip: expected NAME.zip, found {args.zip}")
    if args.zip and not args.zip.parent.is_dir():
        parser.error(f"argument --zip: there is no folder {args.zip.parent}")
    if args.force and not args.zip:
        parser.error("argument --force: there is nothing to force without --zip")
    if args.zip and args.output_root != PROJECT:
        parser.error("argument --output-root: --zip packs the project, with its own models/ and vis/")
    return args


def check_all(args) -> tuple[list[Row], dict]:
    """The rows, and the losses in every unit: {model: {"train": {unit: value, ...}, "valid": ...}}."""
    find_images, measured, rows = cache(partial(load_images, args)), {}, []
    for name in TASKS:
        if name in args.model or (name == "MLPAE" and "AE" in args.model):
            try:
                rows += check_model(name, args.output_root, find_images, measured)
            except Exception as error:  # what a forged file makes of our code is anybody's guess
                reason = f"not to be checked to the end ({type(error).__name__}: {error})"
                rows.append(Row(name, "all of it", "of the form that its script saves", False, reason))
    chosen = {name: measured[name] for name in args.model if name in measured}
    return [row for row in rows if row.model in args.model], chosen


def print_table(lines: list[list[str]]) -> None:
    """Columns as wide as they need to be, and a blank line where the first one, the model, changes."""
    lines = [[cell_of(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for before, line in zip([lines[0], *lines], lines, strict=False):
        print("" if line[0] == before[0] else "\n", end="")
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def cell_of(value) -> str:
    """A cell of a table; what a stranger's file says may hold control characters."""
    if value is None:
        return "-"
    return printable(value) if isinstance(value, str) else f"{value:.5g}"


def print_report(rows: list[Row], ledger: dict) -> None:
    """The table, the ledger where there is one, and what fails."""
    lines = [[*row[:3], "pass" if row.passed else "FAIL", row.found] for row in rows]
    print_table([["model", "check", "target", "result", "found"], *lines])
    if ledger:
        print("\nEach loss that the weights give, of an image unless the column says otherwise:\n")
        units = next(iter(ledger.values()))["train"]
        of_splits = [[name, split, *of.values()] for name, splits in ledger.items() for split, of in splits.items()]
        print_table([["model", "split", *units], *of_splits])
    print()
    for row in rows:
        if not row.passed:
            print(f"{row.model}, {row.check}: {cell_of(row.found)}")
    print(f"{sum(row.passed for row in rows)} of {len(rows)} checks pass")


def print_files(path: Path, packed: dict[str, int], models: list[str]) -> None:
    """What went into the archive."""
    print(f"\n{path}, in KiB:")
    for name, size in packed.items():
        print(f"{size / 1024:10,.1f}  {name}")
    unchecked = [name for name in TASKS if name not in models]
    print(f"{len(packed)} files, {path.stat().st_size / 2**20:.1f} MiB as an archive", end="")
    print(f"; not checked, but in it: {', '.join(unchecked)}" if unchecked else "")


def main(argv=None):
    """Check, pack and print; returns the rows. Raises UserError unless everything passes."""
    args = parse_args(argv)
    rows, ledger = check_all(args)
    failed, packed = [row for row in rows if not row.passed], None
    if args.zip and (args.force or not failed):
        packed = pack(args.zip, PROJECT, [Path(root).resolve() for root in (args.flowers, args.mnist)])
    if args.json:
        checks = [row._asdict() for row in rows]
        print(json.dumps({"passed": not failed, "checks": checks, "ledger": ledger, "packed": packed}, indent=1))
    else:
        print_report(rows, ledger if args.ledger else {})
        if packed:
            print_files(args.zip, packed, args.model)
    if failed:
        refused = "; not packed, --force does it even so" if args.zip and not args.force else ""
        raise UserError(f"{len(failed)} of {len(rows)} checks fail{refused}")
    return rows


if __name__ == "__main__":
    run_script(main)
