"""The tables of README and report whose numbers stand in checkpoints and logs: `check_submission.py --tables`.

    for name, rows in tables(PROJECT).items():
        print(markdown(rows))

In a text each stands below <!-- table: its name -->, with a header in the language of the text; the tests compare the
numbers.
"""

import math
import re
from itertools import chain
from pathlib import Path

from evaluation.evidence import read_log
from evaluation.models import TABLE, checkpoint_file, load_model, three_digits
from evaluation.score import NOISE
from evaluation.submission import TARGETS

NONE = "-"
SCORE = re.compile(r"(.*): told from .* with (.*?) \(.*\), kernel distance (.*), species as often p = (.*)")
COPIES = re.compile(r"(.*): (\d+\.\d% .*); (\d+:\d+ .*)")


def tables(root: Path) -> dict[str, list[list[str]]]:
    """{name: rows, the header first} of what is below an output root. Raises UserError for a damaged checkpoint."""
    there = [
        name for name, entry in TABLE.items() if entry.roles and (root / "models" / checkpoint_file(name)).exists()
    ]
    loaded = {name: load_model(name, root) for name in there}
    flowers, digits = ([name for name in there if TABLE[name].data == data] for data in ("flowers", "MNIST"))
    score = root / "log" / "score.txt"
    lines = read_log(score) if score.exists() else []
    return {
        "settings": [
            ["", "weights", "latents", "epochs", "batch", "learning rate", "weight of the KL", "shifted"],
            *(settings(name, *loaded[name]) for name in there),
        ],
        "flowers": [
            ["", "asked for", "train", "validation", "best epoch"],
            *(flower_losses(loaded[name][1]) for name in flowers),
        ],
        "digits": [
            ["", "validation", "test", "reconstruction", "KL"],
            *(digit_losses(name, loaded[name][1]) for name in digits),
        ],
        "scores": [
            ["", "told from photographs", "kernel distance", "species as often, p"],
            *(match.groups() for match in map(SCORE.fullmatch, lines) if match and not match[1].startswith(NOISE)),
        ],
        "copies": [
            ["", "nearer than the nearest 1 % of held-out photographs", "near copies, training : held-out"],
            *(match.groups() for match in map(COPIES.fullmatch, lines) if match),
        ],
    }


def settings(name: str, model, checkpoint: dict) -> list[str]:
    """A model's size, and the settings that it was trained with."""
    found = checkpoint["settings"]
    weights = model.parameters() if hasattr(model, "parameters") else chain(*model.state_dict().values())
    count = sum(math.prod(array.shape) for array in weights)
    latents = 64 if name == "MLPAE" else found.get("encoding_dim", found.get("latent_size"))
    kl = found["beta"] if "kl" in TABLE[name].metrics else None
    row = [latents, len(checkpoint["history"]), found["batch_size"], found["lr"], kl, found.get("shift") or None]
    return [name, f"{count:,}", *(NONE if value is None else f"{value:g}" for value in row)]


def flower_losses(checkpoint: dict) -> list[str]:
    """The losses of the best epoch, in the unit of the log, and what the coursework asks for."""
    asked = TARGETS[checkpoint["model"]].loss_below if checkpoint["model"] in TARGETS else {}
    losses = [three_digits(checkpoint[f"{split}_loss"]) for split in ("train", "valid")]
    below = " / ".join(f"{target:g}" for target in asked.values()) or NONE
    return [checkpoint["model"], below, *losses, str(checkpoint["epoch"])]


def digit_losses(name: str, checkpoint: dict) -> list[str]:
    """The losses of the best epoch, in the unit of the log, and the parts of that of the test set."""
    losses = [f"{checkpoint[f'{split}_loss']:#.4g}" for split in ("valid", "test")]
    parts = [checkpoint.get(f"test_{part}") for part in ("recon", "kl")]
    return [name, *losses, *(NONE if part is None else f"{part:.2f}" for part in parts)]


def markdown(rows: list[list[str]]) -> str:
    """A table of Markdown."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])
