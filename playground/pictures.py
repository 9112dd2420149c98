"""HTML: pictures, each with an alternative text, in groups that can be saved as one PNG; command lines; sentences."""

import base64
import struct
import zlib
from functools import wraps
from html import escape

import numpy as np
import torch
from PIL import Image

from evaluation.models import training_command
from training import UserError


def data_url(image: torch.Tensor) -> str:
    """An image (1, H, W) or (3, H, W) in [0, 1] as a PNG in a data URL."""
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return f"data:image/png;base64,{base64.b64encode(encode_png(pixels)).decode()}"


def encode_png(pixels: np.ndarray) -> bytes:
    """A PNG of uint8 (H, W, 1) or (H, W, 3): for images as small as these, ten times as fast as Pillow's."""
    height, width, channels = pixels.shape
    rows = np.zeros((height, 1 + width * channels), np.uint8)  # each begins with the number of its filter, none
    rows[:, 1:] = pixels.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, {1: 0, 3: 2}[channels], 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 1)), (b"IEND", b"")
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def picture(image: torch.Tensor, alt: str, caption: str = "") -> str:
    """A <figure> of an image (C, H, W); caption: below it."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="{data_url(image)}" alt="{escape(alt)}">{below}</figure>'


def group(name: str, pictures: list[str], columns: int, title: str = "", fixed: bool = False) -> str:
    """Figures side by side, so many a row, with a button that saves them as <name>.png; on narrow screens half as many
    a row, unless that is fixed."""
    head = f"<h3>{escape(title)}</h3>" if title else ""
    save = f'<button type="button" class="save" data-name="{escape(name)}">Save as PNG</button>'
    narrow = columns if columns <= 5 or fixed else columns // 2
    style = f'class="grid" style="--columns: {columns}; --narrow: {narrow}" data-columns="{columns}"'
    grid = f"<div {style}>{''.join(pictures)}</div>"
    return f'<section class="pictures">{head}{grid}{save}</section>'


def commands(lead: str, *lines: str) -> str:
    """Command lines below pictures; lead: what they do."""
    codes = "".join(f"<code>{escape(line)}</code>" for line in lines)
    return f'<p class="command">{escape(lead)} {codes}</p>'


def sentence(text: str) -> str:
    """What cannot be shown, and why."""
    return f'<p class="sentence" role="status">{escape(text)}</p>'


def missing(name: str, output_root) -> str:
    """The note in place of what a model would show."""
    text = f"The model {name} is not there. This command trains it; then start the playground again:"
    return f'<p class="sentence">{escape(text)} <code>{escape(training_command(name, output_root))}</code></p>'


def offer(images: list[Image.Image], what: str) -> str:
    """Pictures to pick from, as buttons; what: what they are."""
    tensors = (torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 for image in images)
    buttons = (
        f'<button type="button" data-number="{number}"><img src="{data_url(image)}" alt="flower {number + 1}"></button>'
        for number, image in enumerate(tensors)
    )
    return f'<div class="offered">{"".join(buttons)}</div><p class="hint">{escape(what)}</p>'


def lead(gr, text: str) -> None:
    """The first sentence of a tab."""
    gr.HTML(f'<p class="lead">{escape(text)}</p>')


def answering(function):
    """The function, where a UserError is a sentence on the page."""

    @wraps(function)
    def answer(*args):
        try:
            return function(*args)
        except UserError as error:
            return sentence(str(error))

    return answer
