"""The courseworks' targets, checked on the files of a hand-in.

    rows = check_all(output_root, ["AE", "VAE"], {"flowers": None, "MNIST": None})

Losses are computed and pictures plotted again from the weights, and compared with what the files claim. Nothing that
the checked files hold is run as code.
"""

import math
import os
import re
import warnings
from functools import cache
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from common import UserError
from common.checkpoints import one_line
from common.run import count_since_best
from data import create_flower_dataloaders, create_mnist_dataloaders
from datasets.images import ImageDataset, make_loaders
from grading.evidence import check_figures, describe_figure, problem_of_log
from grading.losses import MAX_EPOCHS, mean_image_loss, problem_of_losses, recompute
from trained.loading import load_model, name_model
from trained.registry import MODELS, checkpoint_file, root_flag, training_command

NOT_CHECKED = "not checked, for what fails above"
BATCH = 256  # images at once, as in validation
FEW = 2000  # training digits: their loss is compared to within 5 %, and all 55,000 would take half a minute
MLP = "1728 -> 256 -> 128 -> 64 -> 128 -> 256 -> 1728"
CNN = "3x24x24 -> 32x12x12 -> 64x6x6 -> 128x6x6 -> 64 -> 128x6x6 -> 64x6x6 -> 32x12x12 -> 3x24x24"
GRIDS = ("train", "valid", "random")
DIGITS = ("samples", "reconstruction", "latent")


class Target(NamedTuple):
    """What a coursework asks of a model; its losses in the unit of the log."""

    figures: tuple[str, ...]
    loss_below: dict[str, float] = {}
    max_epochs: float = math.inf
    layers: str = ""
    better_than: str = ""  # the model whose losses are to be above


TARGETS = {
    "MLPAE": Target(("train", "valid"), {"train": 0.03, "valid": 0.03}, layers=MLP),
    "AE": Target(GRIDS, {"train": 0.01, "valid": 0.012}, 15, CNN, "MLPAE"),
    "VAE": Target(GRIDS, {"train": 800, "valid": 800}, 20, CNN),
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
    finding: str
    ratio: float = math.nan  # of validation to training loss, in the row "weights"


def plan(name: str) -> dict[str, str]:
    """{check: target} of a model: as many, whatever is missing."""
    target = TARGETS[name]
    checks = {f"models/{checkpoint_file(name)}": "the best of its run", f"log/train_{name}.txt": "all of that run"}
    checks |= {describe_figure(kind, name)[0]: "as that model draws it" for kind in target.figures}
    if target.layers:
        checks["layers"] = "the coursework's"
    if target.max_epochs < math.inf:
        checks["epochs"] = f"at most {target.max_epochs}"
    checks |= {"data": f"the real {MODELS[name].data}", "weights": "the losses claimed", "outputs": "in [0, 1]"}
    checks |= {f"{split} loss": f"below {below:g}" for split, below in target.loss_below.items()}
    if target.better_than:
        checks["both losses"] = f"below {target.better_than}'s"
    if MODELS[name].data == "MNIST":
        checks["test loss"] = "below the mean image's"
    return checks


@cache
def find_images(data: str, root: str | None) -> tuple[tuple | None, str]:
    """(the loaders of the real "flowers" or "MNIST", or None where they are not in the folder; why they are not, or
    which files in it were skipped)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if data == "flowers":
                loaders = create_flower_dataloaders(BATCH, root, data="real")
            else:
                train, valid, test = (part.dataset for part in create_mnist_dataloaders(BATCH, root, data="real"))
                few = ImageDataset(train.images[:FEW], train.labels[:FEW], train.info)
                loaders = make_loaders(BATCH, few, valid, test)
        except UserError as error:
            reason = re.split(r"\. Name|: put", str(error))[0]  # its advice names the flags of other scripts
            return None, f"{reason}; `python -m grading --{data.lower()} DIR` names the folder"
    return loaders, "; ".join(str(warning.message) for warning in caught)


def check_all(root: Path, models, roots: dict[str, str | None]) -> list[Row]:
    """The rows of models below an output root; roots: the folders of the "flowers" and of "MNIST", None where they are
    the project's."""
    return [row for name in models for row in check_model(name, root, roots)]


def check_model(name: str, root: Path, roots: dict[str, str | None]) -> list[Row]:
    """The rows of a model."""
    first, *_ = plan(name)
    findings = {}
    try:
        with one_line("it cannot be checked"):
            model, checkpoint = load_model(name, root)
            check_history(checkpoint)
            findings[first] = (True, name_model(checkpoint))
            findings |= check_loaded(model, checkpoint, root, roots)
    except UserError as error:
        findings[first] = (False, str(error))
    advice = advise(name, root)
    findings = {
        check: finding if finding[0] or "`" in finding[1] else (False, finding[1] + advice, *finding[2:])
        for check, finding in findings.items()
    }
    return make_rows(name, findings)


def make_rows(name: str, findings: dict[str, tuple]) -> list[Row]:
    """The rows of a model, of {check: (passed, finding)} of those checks that were made."""
    return [
        Row(name, check, target, *findings.get(check, (False, NOT_CHECKED))) for check, target in plan(name).items()
    ]


def is_training(name: str, root: Path) -> bool:
    """Whether a run is training a model below a root."""
    lock = FileLock(root / "models" / f"LastModel_{name}.lock")
    if not os.path.isfile(lock.lock_file):
        return False
    try:
        with lock.acquire(timeout=0):
            return False
    except (OSError, Timeout) as error:
        return isinstance(error, Timeout)


def advise(name: str, root: Path) -> str:
    """What ends a finding that names no command: the one that trains the model, and writes its whole log."""
    if is_training(name, root):
        return "; its training is still going on: check again when it has ended"
    log = f"log/train_{name}.txt"
    target = f'"{root / log}"' if root_flag(root) else f"./{log}"
    last = root / "models" / checkpoint_file(name).replace("Best", "Last")
    if last.is_file():
        command = f"{training_command(name, root)} --resume > {target}"
        return f"; `{command}`, with the flags of its training, ends it and writes all of its log"
    return f"; train again and keep what it prints, `{training_command(name, root)} > {target}`"


def check_history(checkpoint: dict) -> None:
    """Raise UserError where a checkpoint is not the best of the history that it holds, or was not tested."""
    history = checkpoint["history"]
    epochs = [row["epoch"] for row in history]
    if epochs != list(range(1, len(history) + 1)) or len(history) > MAX_EPOCHS:
        raise UserError(f"its history has the epochs {epochs[:5]}..., expected 1, 2, 3, ..., at most {MAX_EPOCHS}")
    best = min(history, key=lambda row: row["valid_loss"])
    if any(checkpoint[key] != value for key, value in best.items()):
        raise UserError(f"it claims to be epoch {checkpoint['epoch']}, its history's best is epoch {best['epoch']}")
    planned = checkpoint["settings"].get("epochs")
    patience = checkpoint["settings"].get("patience")
    stopped_early = count_since_best(history) >= patience
    if len(history) > planned or len(history) < planned and not stopped_early:
        raise UserError(f"its settings say {planned} epochs and a patience of {patience}, it has {len(history)} epochs")
    if MODELS[checkpoint["model"]].data == "MNIST" and "test_loss" not in checkpoint:
        raise UserError("it lacks the test after its training")


def check_loaded(model, checkpoint: dict, root: Path, roots: dict[str, str | None]) -> dict[str, tuple[bool, str]]:
    """{check: (passed, finding)} of all that is compared with a checkpoint."""
    name = checkpoint["model"]
    target = TARGETS[name]
    findings = check_log(root, checkpoint)
    epochs = len(checkpoint["history"])
    findings["epochs"] = epochs <= target.max_epochs, str(epochs)
    loaders, note = find_images(MODELS[name].data, roots[MODELS[name].data])
    problem = problem_of_data(checkpoint["data"], loaders[0].dataset.info) if loaders else note
    text = problem or f"fingerprint {checkpoint['data']['fingerprint']}"
    findings["data"] = not problem, f"{text}; here were {note}" if loaders and note else text
    layers = model.describe_layers() if target.layers else ""
    if layers != target.layers:  # which may take any memory
        findings["layers"] = False, f"{layers}, expected {target.layers}"
        return findings
    findings["layers"] = True, layers
    findings |= check_figures(target.figures, root, model, checkpoint, None if problem else loaders)
    if not problem:
        findings |= check_losses(model, checkpoint, root, loaders)
    return findings


def check_log(root: Path, checkpoint: dict) -> dict[str, tuple[bool, str]]:
    """{check: (passed, finding)} of the log."""
    log = f"log/train_{checkpoint['model']}.txt"
    problem = problem_of_log(root / log, checkpoint)
    return {log: (not problem, problem or "as in the checkpoint")}


def problem_of_data(trained: dict, here: dict) -> str:
    """What keeps the images that a model was trained on from being the real ones, or ""; both: as in checkpoints."""
    if all(trained[key] == here[key] for key in ("fingerprint", "image_size")):
        return ""
    texts = [f"{data['name']} at {data['image_size']}, fingerprint {data['fingerprint']}" for data in (trained, here)]
    return f"trained on {texts[0]}, but here is {texts[1]}"


def check_losses(model, checkpoint: dict, root: Path, loaders) -> dict[str, tuple]:
    """{check: (passed, finding), with the ratio in "weights"} of what the weights give."""
    target = TARGETS[checkpoint["model"]]
    try:
        losses, (low, high) = recompute(model, checkpoint, loaders)
    except UserError as error:
        return {"weights": (False, str(error))}
    problem = problem_of_losses(losses, checkpoint)
    ratio = losses["valid"]["loss"] / losses["train"]["loss"]
    text = f"validation loss {losses['valid']['loss']:.6g}, claimed {checkpoint['valid_loss']:.6g}"
    text += f", {ratio:.2f} times the training loss; only --retrain shows how it was trained"
    findings = {"weights": (not problem, problem or text, ratio)}
    findings["outputs"] = 0 <= low <= high <= 1, f"{low:.6f} to {high:.6f}"
    for split, below in target.loss_below.items():
        loss = losses[split]["loss"]
        claimed = checkpoint[f"{split}_loss"]
        findings[f"{split} loss"] = loss < below and claimed < below, f"{loss:.4g}, by the log {claimed:.4g}"
    if target.better_than:
        findings["both losses"] = compare(losses, target.better_than, root, loaders)
    if "test" in losses:
        metrics = losses["test"]
        loss = metrics["recon"] + metrics["kl"] if "kl" in metrics else metrics["loss"]  # whatever beta is
        bound = mean_image_loss(model, checkpoint, loaders[0].dataset, loaders[2].dataset)
        findings["test loss"] = loss < bound, f"{loss:.4g}, the mean image's {bound:.4g}"
    return findings


def compare(losses: dict, other: str, root: Path, loaders) -> tuple[bool, str]:
    """(whether losses are below another model's, on both splits; which they are)."""
    try:
        model, checkpoint = load_model(other, root)
        check_history(checkpoint)
        problem = problem_of_data(checkpoint["data"], loaders[0].dataset.info)
        if problem:
            return False, f"{other} was {problem}"
        others, _ = recompute(model, checkpoint, loaders)
    except (UserError, TypeError) as error:
        return False, f"those of {other} cannot be computed ({error})"
    pairs = [(losses[split]["loss"], others[split]["loss"]) for split in losses]
    text = ", ".join(f"{ours:.6f} against {theirs:.6f}" for ours, theirs in pairs)
    return all(ours < theirs for ours, theirs in pairs), text
