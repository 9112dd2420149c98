"""What every training script shares: flags, the epoch loop, checkpoints, figures. It knows no model and no data set."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


class UserError(ValueError):
    """Something the user can mend: scripts print it as one line and exit with status 1."""


def is_synthetic(data: dict) -> bool:
    """Whether images are a procedural stand-in; data: what checkpoints say of them."""
    return data["name"].startswith("synthetic")


def printable(text) -> str:
    """Without line breaks and control characters, which names of files and what is in them may hold."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text))
