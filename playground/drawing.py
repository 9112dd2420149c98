"""From a drawing to an image as MNIST has them.

ink = read_drawing("data:image/png;base64,...")     # float32 (H, W), 0 paper, 1 ink
image = normalise(ink)                              # (1, 1, 28, 28) in [0, 1]
"""

import base64
import io

import numpy as np
import torch
from PIL import Image

from datasets.synthetic import DIGIT_BOX, DIGIT_SIDE
from training import UserError

MAX_BYTES, MAX_SIDE = 200_000, 1000  # of a drawing's PNG, and pixels a side
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
    except (ValueError, OSError, SyntaxError):  # what Pillow raises of a damaged PNG
        raise UserError(f"This is no drawing: expected a PNG of at most {MAX_SIDE} pixels a side.") from None


def normalise(ink: np.ndarray) -> torch.Tensor:
    """A drawing (H, W) in [0, 1], scaled to a box of 20x20 pixels, aspect ratio kept, antialiased, and its centre of
    mass moved to the middle of 28x28 pixels (LeCun et al. 1998, section III.A): (1, 1, 28, 28)."""
    image = np.zeros((DIGIT_SIDE, DIGIT_SIDE), np.float32)
    inked = ink > FAINTEST * max(ink.max(), FAINTEST)
    if not inked.any():
        return torch.from_numpy(image)[None, None]
    rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    box = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (max(1, round(side * DIGIT_BOX / max(box.shape))) for side in box.shape)
    small = resize(box, height, width)
    top, left = (place_of_middle(small.sum(axis=1 - axis)) for axis in (0, 1))
    image[top : top + height, left : left + width] = small
    return torch.from_numpy(image)[None, None]


def place_of_middle(mass: np.ndarray) -> int:
    """Where rows or columns with so much ink (n,) begin so that their centre of mass is at index 14, MNIST's middle, as
    far as they fit into the image."""
    centre = (mass * np.arange(len(mass))).sum() / mass.sum()
    return int(np.clip(round(DIGIT_SIDE / 2 - centre), 0, DIGIT_SIDE - len(mass)))


def as_drawn(ink: np.ndarray) -> torch.Tensor:
    """A drawing (H, W) where it is, at 28x28 pixels: (1, 1, 28, 28). Half a digit has its place beside the other."""
    return torch.from_numpy(resize(ink, DIGIT_SIDE, DIGIT_SIDE))[None, None]


def resize(ink: np.ndarray, height: int, width: int) -> np.ndarray:
    """Antialiased, float32 (height, width) in [0, 1]."""
    return np.asarray(Image.fromarray(ink).resize((width, height), Image.Resampling.BOX)).clip(0, 1)
