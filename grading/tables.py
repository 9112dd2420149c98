"""The tables of README and report whose numbers stand in checkpoints and logs: `python -m grading --tables`.

    for name, rows in tables(PROJECT).items():
        print(markdown(rows))

In a text each stands below <!-- table: its name -->, with a header in the language of the text; the tests compare the
numbers.
"""

import math
import re
from itertools import chain
from pathlib import Path

from grading.checks import TARGETS
from grading.evidence import read_log
from trained.loading import load_model, three_digits
from trained.registry import MODELS, checkpoint_file

NONE = "-"
# the lines that python -m beyond.score prints for each model, in log/score.txt; the noise is off any scale
SCORE = re.compile(r"(?!noise)(.*): told from .* with (.*?) \(.*\), kernel distance (.*), species as often p = (.*)")
COPIES = re.compile(r"(.*): (\d+\.\d% .*); (\d+:\d+ .*)")


def tables(root: Path) -> dict[str, list[list[str]]]:
    """{name: rows, the header first} of the models below an output root. Raises UserError for a damaged checkpoint."""
    loaded = {}
    for name, entry in MODELS.items():
        has_task = entry.reconstructs or entry.samples or entry.classifies
        if has_task and (root / "models" / checkpoint_file(name)).exists():
            loaded[name] = load_model(name, root)
    checkpoints = {"flowers": [], "MNIST": []}
    for name, (_, checkpoint) in loaded.items():
        checkpoints[MODELS[name].data].append(checkpoint)
    score = root / "log" / "score.txt"
    lines = read_log(score) if score.exists() else []
    columns = ["", "weights", "latents", "epochs", "batch", "learning rate", "weight of the KL", "shifted"]
    return {
        "settings": [columns, *(settings(*pair) for pair in loaded.values())],
        "flowers": [
            ["", "asked for", "train", "validation", "best epoch"],
            *map(flower_losses, checkpoints["flowers"]),
        ],
        "digits": [["", "validation", "test", "reconstruction", "KL"], *map(digit_losses, checkpoints["MNIST"])],
        "scores": [["", "told from photographs", "kernel distance", "species as often, p"], *find_groups(SCORE, lines)],
        "copies": [
            ["", "nearer than the nearest 1 % of held-out photographs", "near copies, training : held-out"],
            *find_groups(COPIES, lines),
        ],
    }


def find_groups(pattern: re.Pattern, lines: list[str]) -> list[list[str]]:
    """The groups of each line that has the pattern."""
    matches = map(pattern.fullmatch, lines)
    return [list(match.groups()) for match in matches if match]


def settings(model, checkpoint: dict) -> list[str]:
    """A model's size, and the settings that it was trained with."""
    name = checkpoint["model"]
    config = checkpoint["config"]
    trained = checkpoint["settings"]
    weights = model.parameters() if hasattr(model, "parameters") else chain(*model.state_dict().values())
    count = sum(math.prod(array.shape) for array in weights)
    latents = 64 if name == "MLPAE" else config.get("encoding_dim", config.get("latent_size"))
    kl = trained.get("beta", 1) if "kl" in MODELS[name].metrics else None
    numbers = [latents, len(checkpoint["history"]), trained.get("batch_size"), trained.get("lr"), kl]
    numbers.append(trained.get("shift") or None)
    return [name, f"{count:,}", *(NONE if value is None else f"{value:g}" for value in numbers)]


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
