"""The courseworks' targets, checked on the files of a hand-in.

    rows = check_model("VAE", output_root, measured, scripts)

Losses are computed anew from the weights, pictures are plotted anew, and both are compared with what the files claim.
Nothing that the checked files hold is run as code.
"""

import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from data import mean_image_loss
from evaluation.evidence import check_figures, describe_figure, problem_of_log
from evaluation.losses import compare, conventions, problem_of_losses, recompute
from evaluation.models import TABLE, checkpoint_file, fingerprint, flag_for, load_model, name_model, training_command
from training import UserError, is_synthetic
from VarAutoencoder import HALF

RETRAIN_TOLERANCE = 0.03  # between the best losses of two runs with one seed: processors round differently
NOT_CHECKED = "not checked, for what fails above"
MAX_EPOCHS = 1000  # that are checked, or trained anew
RETRAIN_FLAGS = ("batch_size", "lr", "seed", "encoding_dim", "beta", "optimizer", "schedule")  # settings to repeat
RETRAIN_FLAGS += ("shift", "hidden_size", "latent_size", "recon", "kl_peak", "samples")
RETRAIN_SWITCHES = ("amp", "binarize")
MLP = "1728 -> 256 -> 128 -> 64 -> 128 -> 256 -> 1728"
CNN = "3x24x24 -> 32x12x12 -> 64x6x6 -> 128x6x6 -> 64 -> 128x6x6 -> 64x6x6 -> 32x12x12 -> 3x24x24"
# the kind whose title says a seed comes before others of the same command
GRIDS, DIGITS = ("train", "valid", "random"), ("samples", "reconstruction", "latent")


SHIPPED = {  # fingerprints of the weights that come with the project
    "MLPAE": "60c69be3886aff93",
    "AE": "48633fcf93142f82",
    "VAE": "c433153ca518e5e6",
    "MNIST_AE": "1490e8667ee5401d",
    "MNIST_VAE": "aa30c15224632933",
    "MNIST_CVAE": "f319e989553495e4",
}


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


class Scripts(NamedTuple):
    """What grading needs of the scripts, which it does not import."""

    losses: Callable  # main.py's Losses
    run: Callable  # run(command, output_root, *flags), on the images that are here; returns what its main() does
    images: Callable  # images(name, settings): the loaders of those here, or the UserError that says why not


def plan(name: str) -> dict[str, str]:
    """{check: target} of a model: as many, whatever is missing."""
    target, of = TARGETS[name], {f"models/{checkpoint_file(name)}": "the best of its run"}
    of[f"log/train_{name}.txt"] = "all of that run"
    of |= {f"vis/{describe_figure(kind, name)[0]}": "as that model draws it" for kind in target.figures}
    if target.layers:
        of["layers"] = "the coursework's"
    if target.max_epochs < math.inf:
        of["epochs"] = f"at most {target.max_epochs}"
    of |= {"data": f"the real {TABLE[name].data}", "weights": "the losses claimed", "outputs": "in [0, 1]"}
    of |= {f"{split} loss": f"below {below:g}" for split, below in target.loss_below.items()}
    if target.better_than:
        of["both losses"] = f"below {target.better_than}'s"
    if TABLE[name].data == "MNIST":
        of["test loss"] = "below the mean image's"
    return of


def check_model(name: str, root: Path, measured: dict, scripts: Scripts, anew: bool = False) -> list[Row]:
    """The rows of a model; its losses are put into measured[name]: {"train": {unit: value}, "valid": ...}; anew: also
    train it anew."""
    found, target, (file, log, *_) = {}, TARGETS[name], plan(name)
    try:
        model, checkpoint = load_model(name, root)
        check_history(checkpoint)
    except UserError as error:
        found[file] = False, str(error)
    else:
        shipped = "; these weights come with the project" if fingerprint(model) == SHIPPED.get(name) else ""
        found[file] = True, name_model(checkpoint) + shipped
        loaders = scripts.images(name, checkpoint["settings"])
        problem = problem_of_data(checkpoint["data"], TABLE[name].data, loaders)
        found["data"] = not problem, problem or f"fingerprint {checkpoint['data']['fingerprint']}"
        found |= check_log(name, root, checkpoint)
        found |= check_layers(name, model, checkpoint)
        if found["layers"][0]:  # others may take any memory
            found |= check_figures(name, target.figures, root, checkpoint, scripts.run, not problem)
        if found["layers"][0] and not problem:
            found |= check_losses(name, model, checkpoint, loaders, measured, scripts.losses)
            found |= check_retrained(name, checkpoint, scripts.run) if anew and found[log][0] else {}
    planned = plan(name) | ({"trained anew": "the loss claimed"} if anew else {})
    return [Row(name, check, to, *found.get(check, (False, NOT_CHECKED))) for check, to in planned.items()]


def check_history(checkpoint: dict) -> None:
    """Raise UserError where a checkpoint is not the best of the history that it holds."""
    history, beta = checkpoint["history"], checkpoint["settings"].get("beta")
    epochs = [row["epoch"] for row in history]
    if epochs != list(range(1, len(history) + 1)) or len(history) > MAX_EPOCHS:
        counted = f"{str(epochs[:5])[:-1]}, ...]" if len(epochs) > 5 else str(epochs)
        raise UserError(f"its history counts the epochs {counted}, expected 1, 2, 3, ..., at most {MAX_EPOCHS}")
    expected = min(history, key=lambda row: row["valid_loss"])
    if any(checkpoint[key] != value for key, value in expected.items()):
        found = f"it claims to be epoch {checkpoint['epoch']}"
        raise UserError(f"{found}, its history's best is epoch {expected['epoch']}: {expected}")
    if beta is not None and not (type(beta) in (int, float) and 0 < beta <= 100):
        raise UserError(f"it was trained with --beta {beta}, expected about 1")
    if checkpoint["config"].get("variance", HALF) != HALF:
        raise UserError("it was trained with --variance learned, and the target of 800 is stated for the variance 1/2")
    if TABLE[checkpoint["model"]].data == "MNIST" and "test_loss" not in checkpoint:
        raise UserError("it lacks the test after its training, which --resume adds")


def check_log(name: str, root: Path, checkpoint: dict) -> dict:
    """{check: (passed, found)} of the log."""
    log = f"log/train_{name}.txt"
    problem, target = problem_of_log(root / log, checkpoint), f'"{root / log}"' if flag_for(root) else f"./{log}"
    again = f"{problem}; train again and keep what it prints, `{training_command(name, root)} > {target}`"
    return {log: (not problem, again if problem else "as in the checkpoint")}


def check_layers(name: str, model, checkpoint: dict) -> dict:
    """{check: (passed, found)} of the layers and the epochs."""
    target, layers, epochs = TARGETS[name], "", len(checkpoint["history"])
    if target.layers:
        layers = model.describe_layers()
    expected = "" if layers == target.layers else f", expected {target.layers}"
    return {"layers": (not expected, layers + expected), "epochs": (epochs <= target.max_epochs, str(epochs))}


def problem_of_data(trained: dict, name: str, loaders) -> str:
    """What keeps the images that a model was trained on from being the real ones that are here, or ""."""
    source = f"trained on {trained['name']} at {trained['image_size']}, fingerprint {trained['fingerprint']}"
    if is_synthetic(trained):
        return f"{source}: a stand-in, not to hand in; train on the {name} with --data real"
    if isinstance(loaders, UserError):
        return f"no loss can be computed: {loaders}"
    here = loaders[0].dataset.info
    if any(trained[key] != here[key] for key in ("fingerprint", "image_size")):
        return f"{source}, but here is {here['name']} at {here['image_size']}, fingerprint {here['fingerprint']}"
    return ""


def check_losses(name: str, model, checkpoint: dict, loaders, measured: dict, mnist_losses) -> dict:
    """{check: (passed, found)} of what the weights give."""
    target, pixels = TARGETS[name], loaders[0].dataset.images[0].numel()
    try:
        losses, (low, high) = recompute(name, model, checkpoint, loaders, mnist_losses)
    except UserError as error:  # a loss that is not finite
        return {"weights": (False, str(error))}
    recon = checkpoint["settings"]["recon"] if TABLE[name].data == "MNIST" else "mse"
    measured[name] = {split: conventions(loss, recon, pixels) for split, loss in losses.items()}
    problem = problem_of_losses(losses, checkpoint)
    text = f"validation {losses['valid']['loss']:.6g}, claimed {checkpoint['valid_loss']:.6g}"
    found = {"weights": (not problem, problem or text)}
    found["outputs"] = 0 <= low <= high <= 1, f"{low:.6f} to {high:.6f}"
    for split, below in target.loss_below.items():
        loss, claimed = measured[name][split][target.unit], checkpoint[f"{split}_loss"]
        found[f"{split} loss"] = loss < below and claimed < below, f"{loss:.4g}, by the log {claimed:.4g}"
    if target.better_than:
        found["both losses"] = compare(name, target.better_than, measured)
    if TABLE[name].data == "MNIST":
        loss, reconstruction = measured[name]["test"], mnist_losses(recon).reconstruction
        mean = mean_image_loss(loaders[::2], lambda *both: (None, {"loss": reconstruction(*both).mean().item()}))
        text = f"{loss['sum']:.4g} {loss['recon is']} per image, the mean image's {mean:.4g}"
        found["test loss"] = loss["sum"] < mean, text
    return found


def check_retrained(name: str, checkpoint: dict, run: Callable) -> dict:
    """{check: (passed, found)} of a training with the settings that a checkpoint claims."""
    settings, claimed = {**checkpoint["settings"], **checkpoint["config"]}, checkpoint["valid_loss"]
    count = len(checkpoint["history"])
    flags = {flag: settings.get(flag) for flag in RETRAIN_FLAGS}
    flags |= {"epochs": settings.get("epochs", count), "patience": count}
    argv = [f"--{flag.replace('_', '-')}={value}" for flag, value in flags.items() if value is not None]
    argv += [f"--{switch}" for switch in RETRAIN_SWITCHES if settings.get(switch)]
    if settings.get("processes") or type(flags["epochs"]) is not int or not 0 < flags["epochs"] <= MAX_EPOCHS:
        problem = f"not to be trained anew: several processes, or more than {MAX_EPOCHS} epochs"
        return {"trained anew": (False, problem)}
    print(f"training {name} anew: about {count} epochs", file=sys.stderr)
    try:
        with tempfile.TemporaryDirectory() as folder:
            history = run(training_command(name).removeprefix("python "), Path(folder), *argv)
    except SystemExit:  # of argparse
        return {"trained anew": (False, f"its settings are none that the script takes: {' '.join(argv)}")}
    except (UserError, MemoryError, RuntimeError) as error:
        return {"trained anew": (False, str(error))}
    loss = min(row["valid_loss"] for row in history[:count])
    passed = abs(loss - claimed) <= RETRAIN_TOLERANCE * loss
    return {"trained anew": (passed, f"validation loss {loss:.6g} in {count} epochs, claimed {claimed:.6g}")}
