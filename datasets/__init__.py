"""Where images come from: photographs, MNIST's files, and procedural stand-ins for both."""

import os
import warnings
from pathlib import Path

from common import PROJECT, UserError


def find_folder(root: str | Path | None, default: str, data: str, expected: str, needed: bool) -> Path:
    """The folder `root`, or for None the project's folder `default`.

    Raises UserError where it does not exist though it is needed, was named, or is a dangling link; expected: what
    should be in it.
    """
    if data not in ("auto", "real", "synthetic"):
        raise UserError(f'data must be "auto", "real" or "synthetic", not "{data}"')
    folder = Path(root) if root else PROJECT / default
    dangling_link = data == "auto" and os.path.lexists(folder)
    if not folder.is_dir() and (root or needed or dangling_link):
        raise UserError(
            f"{folder} is not a folder: expected one with {expected}."
            " Name it with --data-root, or use --data synthetic alone for the procedural stand-in"
        )
    if data == "synthetic" and root:
        warnings.warn(f"--data synthetic makes its images, {folder} is not read", stacklevel=4)
    return folder
