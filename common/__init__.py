"""What every script shares and no model needs to know: flags, messages, the run, checkpoints, figures, torchrun."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


class UserError(ValueError):
    """Something the user can fix: a script prints it as one line and exits with status 1."""


def is_synthetic(data: dict) -> bool:
    """Whether images are a procedural stand-in; data: what a checkpoint records about its images."""
    return data["name"].startswith("synthetic")


def printable(text) -> str:
    """The text without line breaks and control characters, which file names and their contents may hold."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text))
