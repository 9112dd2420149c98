"""The tables of README and report whose numbers stand in the checkpoints and the logs.

    for name, rows in tables(PROJECT).items():
        print(markdown(rows))

`python check_submission.py --tables` prints them. In a text each stands below <!-- table: its name -->, with headers in
the language of the text; the tests compare the numbers.
"""

import math
from pathlib import Path

from evaluation.evidence import read_log
from evaluation.models import CLASSIFIES, TABLE, checkpoint_file, load_model, three_digits
from evaluation.submission import TARGETS

NONE = "-"
SCORES = "score.txt"


def tables(root: Path) -> dict[str, list[list[str]]]:
    """{name: rows, the header first} of what is below an output root. Raises UserError for a damaged checkpoint."""
    there = [name for name in TABLE if (root / "models" / checkpoint_file(name)).exists()]
    loaded = {name: load_model(name, root) for name in there}
    flowers = [checkpoint for _, checkpoint in loaded.values() if "test_loss" not in checkpoint]
    digits = [checkpoint for _, checkpoint in loaded.values() if "test_loss" in checkpoint]
    return {
        "settings": [
            ["", "parameters", "latents", "epochs", "batch", "learning rate", "weight of the KL", "shifted"],
            *(settings(name, *loaded[name]) for name in there),
        ],
        "flowers": [["", "asked: train, validation", "train", "validation", "epoch"], *map(flower_losses, flowers)],
        "digits": [["", "validation", "test", "reconstruction", "KL"], *map(digit_losses, digits)],
        "scores": [["", "side", "told from photographs", "kernel distance"], *scores(root / "log" / SCORES)],
    }


def settings(name: str, model, checkpoint: dict) -> list[str]:
    """A model's size, and the settings that it was trained with."""
    found, weights = checkpoint["settings"], model.state_dict().values()
    count = sum(math.prod(array.shape) for of in weights for array in (of if isinstance(of, list) else [of]))
    latents = found.get("encoding_dim", found.get("latent_size", 64 if name == "MLPAE" else None))
    kl = found.get("beta") if "kl" in TABLE[name].metrics else None
    epochs = checkpoint["history"][-1]["epoch"]
    row = [latents, epochs, found["batch_size"], found["lr"], kl, found.get("shift") or None]
    return [name, f"{count:,}", *(NONE if value is None else f"{value:g}" for value in row)]


def flower_losses(checkpoint: dict) -> list[str]:
    """The losses of the best epoch, in the unit of the log, and the coursework's targets."""
    name, losses = checkpoint["model"], (checkpoint["train_loss"], checkpoint["valid_loss"])
    asked = TARGETS[name].loss_below.values() if name in TARGETS else ()
    found = [*map(three_digits, losses), str(checkpoint["epoch"])]
    return [name, " / ".join(f"{target:g}" for target in asked) or NONE, *found]


def digit_losses(checkpoint: dict) -> list[str]:
    """The validation loss and the test loss, in the unit of the log, and the test loss's parts."""
    parts = [checkpoint.get(f"test_{part}") for part in ("recon", "kl")]
    losses = [three_digits(checkpoint["valid_loss"]), three_digits(checkpoint["test_loss"])]
    return [checkpoint["model"], *losses, *(NONE if part is None else f"{part:.2f}" for part in parts)]
