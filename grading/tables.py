"""The tables of README and report whose numbers stand in checkpoints and logs: `python -m grading --tables`.

    for name, rows in tables(PROJECT).items():
        print(markdown(rows))

In a text each stands below <!-- table: its name -->, with a header in the language of the text; the tests compare the
numbers.
"""

import math
from itertools import chain
from pathlib import Path

from beyond.score import SCORE_LINE
from grading.checks import TARGETS
from grading.evidence import read_log
from main import ADAM_BETAS, PATIENCE, WEIGHT_DECAY
from train_script import TRAININGS
from trained.loading import load_model, three_digits
from trained.registry import MODELS, checkpoint_file

NONE = "-"


def tables(root: Path) -> dict[str, list[list[str]]]:
    """{name: rows, the header first} of the models below an output root. Raises UserError for a damaged checkpoint."""
    models = load_models(root)
    checkpoints = [checkpoint for _, checkpoint in models]
    flowers = [checkpoint for checkpoint in checkpoints if MODELS[checkpoint["model"]].data == "flowers"]
    digits = [checkpoint for checkpoint in checkpoints if MODELS[checkpoint["model"]].data == "MNIST"]
    columns = ["", "weights", "latents", "epochs", "patience", "batch", "learning rate", "weight decay", "betas"]
    columns += ["weight of the KL", "shifted"]
    return {
        "settings": [columns, *(settings(*pair) for pair in models)],
        "flowers": [["", "asked for", "train", "validation", "best epoch"], *map(flower_losses, flowers)],
        "digits": [["", "validation", "test", "reconstruction", "KL"], *map(digit_losses, digits)],
        "scores": [
            ["", "accuracy", "of thousands", "kernel distance", "species p"],
            *scores(root, "accuracy", "thousands", "distance", "species"),
        ],
        "copies": [["", "near training images", "copies, training : held-out"], *scores(root, "near", "copies")],
    }


def load_models(root: Path) -> list[tuple]:
    """[(model, checkpoint), ...] of those below an output root that reconstruct, sample or classify."""
    names = [name for name, entry in MODELS.items() if entry.reconstructs or entry.samples or entry.classifies]
    return [load_model(name, root) for name in names if (root / "models" / checkpoint_file(name)).exists()]


def scores(root: Path, *fields: str) -> list[list[str]]:
    """Fields of SCORE_LINE, in a row for each line of log/score.txt that has them."""
    path = root / "log" / "score.txt"
    lines = read_log(path) if path.exists() else []
    matches = [match for match in map(SCORE_LINE.fullmatch, lines) if match and match[fields[0]]]
    return [list(match.group("name", *fields)) for match in matches]


def settings(model, checkpoint: dict) -> list[str]:
    """A model's size, and the settings that it was trained with: of its checkpoint, and what its script always uses."""
    name = checkpoint["model"]
    config = checkpoint["config"]
    trained = checkpoint["settings"]
    weights = model.parameters() if hasattr(model, "parameters") else chain(*model.state_dict().values())
    count = sum(math.prod(array.shape) for array in weights)
    latents = 64 if name == "MLPAE" else config.get("encoding_dim", config.get("latent_size"))
    kl = trained.get("beta", 1) if "valid_kl" in checkpoint else None
    patience, weight_decay, betas = fixed_settings(name)
    patience = trained.get("patience", patience)
    numbers = [
        latents,
        len(checkpoint["history"]),
        patience,
        trained.get("batch_size"),
        trained.get("lr"),
        weight_decay,
    ]
    formatted = [NONE if value is None else f"{value:g}" for value in numbers]
    last = [NONE if not value else f"{value:g}" for value in (kl, trained.get("shift"))]
    return [name, f"{count:,}", *formatted, betas, *last]


def fixed_settings(name: str) -> tuple:
    """(patience, weight decay, betas of AdamW) of a model's script; the perceptron's optimizer is plain SGD."""
    if name in TRAININGS:
        training = TRAININGS[name]
        return training.patience, training.weight_decay, "0.95 to 0.85, 0.99" if training.has_momentum else "0, 0.99"
    if name == "MLPAE":
        return None, None, NONE
    return PATIENCE, WEIGHT_DECAY, ", ".join(f"{beta:g}" for beta in ADAM_BETAS)


def flower_losses(checkpoint: dict) -> list[str]:
    """The losses of the best epoch, in the unit of the log, and what the coursework asks for."""
    name = checkpoint["model"]
    targets = TARGETS[name].loss_below.values() if name in TARGETS else ()
    asked = " / ".join(f"{target:g}" for target in targets) or NONE
    losses = [three_digits(checkpoint[f"{split}_loss"]) for split in ("train", "valid")]
    return [name, asked, *losses, str(checkpoint["epoch"])]


def digit_losses(checkpoint: dict) -> list[str]:
    """The losses of the best epoch, in the unit of the log, and the parts of that of the test set."""
    losses = [f"{checkpoint[f'{split}_loss']:#.4g}" for split in ("valid", "test")]
    parts = [checkpoint.get(f"test_{part}") for part in ("recon", "kl")]
    return [checkpoint["model"], *losses, *(NONE if part is None else f"{part:.2f}" for part in parts)]


def markdown(rows: list[list[str]]) -> str:
    """A table of Markdown."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])
