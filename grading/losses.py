"""The losses of trained autoencoders, computed again from their weights, or from their settings by a new training,
beside those that their checkpoints claim."""

import math
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from common import PROJECT, UserError
from common.run import SPLITS, Run
from main import choose_loss
from trained.loading import load_model
from trained.registry import MODELS, training_command

LOSS_TOLERANCE = 1e-4  # relative difference between two computations of one loss: processors round differently
SAMPLED_TOLERANCE = 1e-2  # the same where random latent vectors enter: other devices draw others
TRAIN_TOLERANCE = 0.05  # how much higher the training loss may be after an epoch than its mean over the epoch

RETRAIN_TOLERANCE = 0.03  # between the best losses of two runs with one seed: processors round differently
RETRAIN_FLAGS = ("epochs", "batch_size", "lr", "seed", "optimizer", "encoding_dim", "latent_size", "beta")
MAX_EPOCHS = 1000  # of a checkpoint


@torch.inference_mode()
def recompute(model, checkpoint: dict, loaders) -> tuple[dict, tuple[float, float]]:
    """({"train": {"loss": ...}, "valid": ..., "test": ...} as the log has them, the outputs' least and greatest value).
    Raises UserError where a loss is not finite."""
    entry = MODELS[checkpoint["model"]]
    loss_function = find_loss(model, checkpoint)
    run = Run(Path(), checkpoint, {}, set(), "")  # for the random numbers and the means of a validation
    low = math.inf
    high = -math.inf
    for split, loader in zip(SPLITS, loaders, strict=False):  # the flowers have no test images
        for images, labels in run.batches(split, loader):
            outputs = model(images, *entry.condition(labels))
            _, metrics = loss_function(outputs, images)
            run.record(metrics)
            reconstructions = outputs[0] if entry.variational else outputs
            low = min(low, reconstructions.min().item())
            high = max(high, reconstructions.max().item())
    return run.means, (low, high)


def find_loss(model, checkpoint: dict):
    """The loss function that a model was trained with: (outputs, images) -> (loss, metrics)."""
    name = checkpoint["model"]
    if MODELS[name].data == "MNIST":
        return choose_loss(name.removeprefix("MNIST_"), checkpoint["settings"].get("beta"))
    return model.loss


def mean_image_loss(model, checkpoint: dict, train_set, test_set) -> float:
    """The loss of answering every test image with the mean training image, from a posterior that equals the prior: what
    a model must beat."""
    mean_image = train_set.images.sum(dim=0, dtype=torch.int64) / (255 * len(train_set))
    images, _ = test_set[:]
    outputs = mean_image.expand_as(images)
    if MODELS[checkpoint["model"]].variational:
        mu = torch.zeros(len(images), 1)
        outputs = (outputs, mu, torch.ones_like(mu))
    _, metrics = find_loss(model, checkpoint)(outputs, images)
    return metrics["loss"]


def problem_of_losses(losses: dict, checkpoint: dict) -> str:
    """How the losses that the weights give differ from those that the checkpoint claims, or ""."""
    sampled = MODELS[checkpoint["model"]].variational
    for split, metrics in losses.items():
        for name, value in metrics.items():
            claimed = checkpoint[f"{split}_{name}"]
            if split == "train":  # the checkpoint has the mean over an epoch, in which the model was still worse
                agrees = name != "loss" or value <= (1 + TRAIN_TOLERANCE) * claimed
            else:
                tolerance = SAMPLED_TOLERANCE if sampled and name != "kl" else LOSS_TOLERANCE
                agrees = abs(value - claimed) <= tolerance * abs(value)
            if not agrees:
                return f"they give a {SPLITS[split]} {name} of {value:.6g}, but {claimed:.6g} is claimed"
    return ""


def read_claim(checkpoint: dict) -> dict:
    """What a checkpoint claims about its training, in plain values."""
    claim = {key: checkpoint[key] for key in ("model", "config", "settings", "seed", "valid_loss")}
    return {**claim, "epochs": len(checkpoint["history"])}


def check_retrained(claim: dict, data_root: str | None) -> tuple[bool, str]:
    """(passed, finding) of a training with the settings that a checkpoint claims; data_root: of the images, or None for
    the project's."""
    name = claim["model"]
    claimed = {**claim["settings"], **claim["config"], "seed": claim["seed"]}
    if claimed.get("epochs") not in range(1, MAX_EPOCHS + 1):
        return False, f"expected 1 to {MAX_EPOCHS} epochs in its settings, found {claimed.get('epochs')}"
    print(f"training {name} again: about {claim['epochs']} epochs", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        argv = [*retraining_flags(name, claimed, data_root), "--output-root", folder]
        training = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True)
        if training.returncode:
            return False, (training.stderr.splitlines() or [f"it ended with status {training.returncode}"])[-1]
        try:
            _, best = load_model(name, Path(folder))
        except UserError as error:
            return False, str(error)
    trained = {**best["settings"], **best["config"], "seed": best["seed"]}
    different = [f"{setting} {value}" for setting, value in claimed.items() if trained.get(setting) != value]
    if different:
        return False, f"it cannot be trained again: no flag sets {', '.join(different)}"
    passed = abs(best["valid_loss"] - claim["valid_loss"]) <= RETRAIN_TOLERANCE * best["valid_loss"]
    return passed, f"validation loss {best['valid_loss']:.6g}, claimed {claim['valid_loss']:.6g}"


def retraining_flags(name: str, claimed: dict, data_root: str | None) -> list[str]:
    """The command line of a training on real images with the settings claimed."""
    names = (*RETRAIN_FLAGS, "patience") if name == "MLPAE" else RETRAIN_FLAGS
    flags = [f"--{flag.replace('_', '-')}={claimed[flag]}" for flag in names if flag in claimed]
    if claimed.get("amp"):
        flags.append("--amp")
    if data_root:
        flags += ["--data-root", str(Path(data_root).resolve())]
    _, *command = training_command(name).split()
    return [sys.executable, *command, *flags, "--data", "real"]
