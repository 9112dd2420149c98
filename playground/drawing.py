"""From a drawing to an image like MNIST's.

ink = read_drawing("data:image/png;base64,...")     # float32 (H, W), 0 paper, 1 ink
image = normalise(ink)                              # (1, 1, 28, 28) in [0, 1]
"""

import base64
import io

import numpy as np
import torch
from PIL import Image

from common import UserError
from datasets.synthetic import DIGIT_BOX, DIGIT_SIDE

MAX_BYTES = 200_000  # of a drawing's PNG, in base64
MAX_SIDE = 1000  # pixels
FAINTEST = 0.05  # of the brightest ink; less does not count as ink


def read_drawing(url: str | None) -> np.ndarray:
    """The ink of a white-on-black PNG in a data URL: float32 (H, W) in [0, 1]; without a drawing (1, 1), no ink.

    Raises UserError for anything but a small PNG.
    """
    if not url:
        return np.zeros((1, 1), np.float32)
    try:
        header, _, data = url[: 2 * MAX_BYTES].partition(",")
        if header != "data:image/png;base64" or len(data) > MAX_BYTES:
            raise ValueError
        with Image.open(io.BytesIO(base64.b64decode(data, validate=True)), formats=["PNG"]) as image:
            if max(image.size) > MAX_SIDE:
                raise ValueError
            return np.asarray(image.convert("L"), np.float32) / 255
    except (ValueError, OSError, SyntaxError):  # Pillow raises the last two where a PNG is damaged
        raise UserError(f"This is no drawing: expected a PNG of at most {MAX_SIDE} pixels a side.") from None


def normalise(ink: np.ndarray) -> torch.Tensor:
    """A drawing (H, W) in [0, 1], scaled to a box of 20x20 pixels, aspect ratio kept, and its centre of mass moved to
    the middle of 28x28 pixels (LeCun et al. 1998, section III.A): (1, 1, 28, 28)."""
    image = torch.zeros(1, 1, DIGIT_SIDE, DIGIT_SIDE)
    inked = ink > FAINTEST * max(ink.max(), FAINTEST)
    if not inked.any():
        return image
    rows = np.flatnonzero(inked.any(axis=1))
    columns = np.flatnonzero(inked.any(axis=0))
    box = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (max(1, round(side * DIGIT_BOX / max(box.shape))) for side in box.shape)
    small = resize(box, height, width)
    top = find_start(small.sum(axis=1))
    left = find_start(small.sum(axis=0))
    image[0, 0, top : top + height, left : left + width] = torch.from_numpy(small)
    return image


def find_start(mass: np.ndarray) -> int:
    """The index at which rows or columns with so much ink (n,) begin so that their centre of mass is at index 14,
    MNIST's middle, as far as they fit into the image."""
    centre = (mass * np.arange(len(mass))).sum() / mass.sum()
    return int(np.clip(round(DIGIT_SIDE / 2 - centre), 0, DIGIT_SIDE - len(mass)))


def in_place(ink: np.ndarray) -> torch.Tensor:
    """A drawing (H, W) where it is, at 28x28 pixels: (1, 1, 28, 28). Half a digit keeps its place beside the rest."""
    return torch.from_numpy(resize(ink, DIGIT_SIDE, DIGIT_SIDE))[None, None]


def resize(ink: np.ndarray, height: int, width: int) -> np.ndarray:
    """Ink, antialiased: float32 (height, width) in [0, 1]."""
    return np.array(Image.fromarray(ink).resize((width, height), Image.Resampling.BOX)).clip(0, 1)
