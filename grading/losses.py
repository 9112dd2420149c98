"""The losses of trained autoencoders, computed anew from their weights, in every unit, beside what is claimed."""

import math
from functools import partial

import torch
from tqdm import tqdm

from evaluation.likelihood import bits_per_dimension
from evaluation.models import TABLE
from training.loop import average
from training.script import seed_everything
from VarAutoencoder import VAE_UNIT

SPLITS = {"train": "train", "valid": "validation", "test": "test"}
LOSS_TOLERANCE = 1e-4  # relative difference between two computations of one loss: processors round differently
SAMPLED_TOLERANCE = 1e-2  # the same where random latent vectors enter: other devices draw others
TRAIN_TOLERANCE = 0.05  # how much worse the train loss may be after an epoch than its mean over it


def recompute(name: str, model, checkpoint: dict, loaders, mnist_losses):
    """({"train": {"loss": ...}, "valid": {...}, ...} as the log has them, the outputs' least and greatest value)."""
    settings = {key: checkpoint["settings"][key] for key in TABLE[name].loss_settings}
    measure = mnist_losses(**settings) if TABLE[name].data == "MNIST" else partial(model.measure, **settings)
    bounds, losses = [], {}

    def step(images, labels):
        outputs = model(images, labels) if model.has_label else model(images)
        bounds.extend(bound.item() for bound in (outputs[0] if model.is_dist else outputs).aminmax())
        return measure(outputs, images)[1]

    with tqdm(unit="batch", disable=None, leave=False) as bar, torch.inference_mode():
        for split, loader in zip(SPLITS, loaders, strict=False):
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
    total = error + (kl or 0)
    bits = total / pixels / math.log(2)
    if squared:
        bits = bits_per_dimension(total + pixels * math.log(math.pi) / 2, pixels)
    return {
        "recon is": "squared error" if squared else "nats",
        "recon/pixel": error / pixels,
        "recon": error,
        "recon x 16": VAE_UNIT * error,
        "KL": kl,
        "sum": total,
        "sum x 16": VAE_UNIT * total,
        "bits/dim": None if kl is None else bits,
        "the log's": losses["loss"],
    }


def problem_of_losses(losses: dict, checkpoint: dict) -> str:
    """How the losses that the weights give differ from those that the checkpoint claims, or ""."""
    claims = {("valid", key): checkpoint[f"valid_{key}"] for key in losses["valid"]}
    claims |= {("test", key): checkpoint[f"test_{key}"] for key in losses.get("test", {})}
    for (split, key), claimed in claims.items():
        found, sampled = losses[split][key], "kl" in losses["valid"] and key != "kl"
        if not abs(found - claimed) <= (SAMPLED_TOLERANCE if sampled else LOSS_TOLERANCE) * abs(found):
            return f"they give a {SPLITS[split]} {key} of {found:.6g}, but {claimed:.6g} is claimed"
    found, claimed = losses["train"]["loss"], checkpoint["train_loss"]
    if not found <= (1 + TRAIN_TOLERANCE) * claimed:
        return f"they give a train loss of {found:.6g}, but {claimed:.6g} is claimed as the mean over the epoch"
    return ""


def compare(name: str, other: str, measured: dict) -> tuple[bool, str]:
    """(whether a model's losses are below another's, on both splits; which they are)."""
    if other not in measured:
        return False, f"those of {other} could not be computed"
    losses = [[measured[model][split]["recon/pixel"] for model in (name, other)] for split in ("train", "valid")]
    found = ", ".join(f"{ours:.6f} against {theirs:.6f}" for ours, theirs in losses)
    return all(ours < theirs for ours, theirs in losses), found
