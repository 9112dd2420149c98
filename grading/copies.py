"""Who handed in the same model, also in disguise, and which results are not a student's own.

Two models are compared by what they do with a few photographs or digits, which neither a permutation of hidden units
nor any other renaming of the same weights changes, and by their histories. The distance of two models is that of their
reconstructions, in units of the error of one. Copies with noise of 1e-6, or 0.9998 A + 0.0002 B, are at 0.003 or less;
the same training on another processor at 0.02 (MLPAE) to 0.24 (AE), one with another seed at 0.4 or more.
"""

import re
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from common import UserError
from common.checkpoints import one_line
from grading.checks import find_images
from grading.losses import read_claim
from trained.loading import load_model, name_model
from trained.registry import MODELS

IMAGES = 8  # that models are compared on
NEAR = 0.01  # the largest distance of two models that are taken for one
MODEL_NAME = re.compile(r"^\w+, epoch \d+, validation loss .*", re.MULTILINE)  # in the title of a picture
COMMITTED = {  # {model: the validation loss of the one that comes with the project}
    "MLPAE": 0.009015510579693386,
    "AE": 0.006800404025248924,
    "VAE": 697.5877709112573,
    "MNIST_AE": 0.0052610953871084715,
    "MNIST_VAE": 96.51447124023437,
    "MNIST_CVAE": 102.22769061279297,
}


class Trace(NamedTuple):
    """What identifies a trained model."""

    claim: dict  # as `read_claim` returns it
    history: list
    outputs: np.ndarray  # of IMAGES images, flat
    error: float  # the root of their mean squared error


def trace(name: str, root: Path, data_root: str | None) -> Trace:
    """The trace of a model below a root. Raises UserError where it has none."""
    model, checkpoint = load_model(name, root)
    loaders, problem = find_images(MODELS[name].data, data_root)
    if problem and loaders is None:
        raise UserError(problem)
    with one_line(f"{name} cannot be compared"), torch.no_grad():
        images, labels = loaders[1].dataset[:IMAGES]
        outputs = model.reconstruct(images, *MODELS[name].condition(labels))
        error = (outputs - images).square().mean().sqrt().item()
        return Trace(read_claim(checkpoint), checkpoint["history"], outputs.flatten().float().numpy(), error)


def find_groups(traces: dict[str, dict[str, Trace]]) -> dict[tuple[str, ...], list[str]]:
    """{hand-ins that share models: which, and how alike they are}; traces: {hand-in: {model: its trace}}."""
    groups = {}
    for name in MODELS:
        own = {owner: models[name] for owner, models in traces.items() if name in models}
        for members, distance in _connect(own):
            histories = [own[member].history for member in members]
            run = "the same run" if all(history == histories[0] for history in histories) else "other histories"
            alike = "equal outputs" if distance == 0 else f"outputs at a distance of {distance:.1g}"
            groups.setdefault(members, []).append(f"{name} ({run}, {alike})")
    return groups


def _connect(own):
    """[(hand-ins whose models are near each other or of one run, the largest distance between two that are), ...]."""
    distances = _find_pairs(own)
    group = {owner: {owner} for owner in own}
    for first, second in distances:
        joined = group[first] | group[second]
        group |= dict.fromkeys(joined, joined)
    connected = []
    for members in dict.fromkeys(tuple(sorted(members, key=list(own).index)) for members in group.values()):
        if len(members) > 1:
            largest = max(distance for (first, _), distance in distances.items() if first in members)
            connected.append((members, largest))
    return connected


def _find_pairs(own):
    """{(hand-in, hand-in): distance} of those with the same model."""
    pairs = {}
    for first, second in combinations(own, 2):
        distance = _distance(own[first], own[second])
        if distance < NEAR or own[first].history == own[second].history:
            pairs[first, second] = distance
    return pairs


def _distance(first, second):
    if first.outputs.shape != second.outputs.shape:
        return np.inf
    difference = np.sqrt(np.mean(np.square(first.outputs - second.outputs)))
    return float(difference / max(first.error, second.error, 1e-12))


def describe_origins(root: Path, names: list[str]) -> str:
    """What below an output root is not of the student's own models, as the end of a line; names: the models checked."""
    titles = set()
    committed = []
    for name in MODELS:
        with suppress(UserError):
            _, checkpoint = load_model(name, root)
            titles.add(name_model(checkpoint))
            if name in names and checkpoint["valid_loss"] == COMMITTED[name]:
                committed.append(name)
    text = (
        f"; {len(committed)} of {len(names)} models come with the project: {', '.join(committed)}" if committed else ""
    )
    others = [path.name for path in sorted((root / "vis").glob("*.png")) if not _model_names(path) <= titles]
    return text + (f"; these pictures are not of the models in models/: {', '.join(others)}" if others else "")


def _model_names(path):
    """The names of models in the title of a picture."""
    with suppress(UserError), one_line(""), Image.open(path, formats=["PNG"]) as image:
        return set(MODEL_NAME.findall(str(image.info.get("Title", ""))))
    return set()
