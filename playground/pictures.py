"""HTML: pictures with alternative texts, in groups that can be saved as one PNG; command lines; sentences."""

import base64
import io
from html import escape

import numpy as np
import torch
from PIL import Image

from trained.registry import training_command


def encode_png(image: torch.Tensor) -> str:
    """An image (1, H, W) or (3, H, W) in [0, 1] as a data URL."""
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def picture(image: torch.Tensor, alt: str, caption: str = "") -> str:
    """A <figure> of an image (C, H, W), with a caption below it."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="{encode_png(image)}" alt="{escape(alt)}">{below}</figure>'


def group(name: str, pictures: list[str], columns: int, title: str = "") -> str:
    """Figures side by side, `columns` in each row, with a button that saves them as <name>.png."""
    head = f"<h3>{escape(title)}</h3>" if title else ""
    grid = f'<div class="grid" style="--columns: {columns}" data-columns="{columns}">{"".join(pictures)}</div>'
    save = f'<button type="button" class="save" data-name="{escape(name)}">Save as PNG</button>'
    return f'<section class="pictures">{head}{grid}{save}</section>'


def choices(photographs: list[Image.Image]) -> str:
    """Buttons with photographs to choose from."""
    buttons = []
    for number, photograph in enumerate(photographs):
        image = torch.from_numpy(np.array(photograph)).permute(2, 0, 1) / 255
        picture = f'<img src="{encode_png(image)}" alt="flower {number + 1}">'
        buttons.append(f'<button type="button" data-number="{number}">{picture}</button>')
    return f'<div class="offered">{"".join(buttons)}</div>'


def commands(lead: str, *lines: str) -> str:
    """Command lines; lead: what they do."""
    codes = "".join(f"<code>{escape(line)}</code>" for line in lines)
    return f'<p class="command">{escape(lead)} {codes}</p>'


def sentence(text: str) -> str:
    """A message in place of an answer."""
    return f'<p class="sentence" role="status">{escape(text)}</p>'


def missing(names, models: dict, output_root) -> str:
    """Notes that name the commands that train those of the models that are not there."""
    notes = []
    for name in names:
        if name not in models:
            text = f"The model {name} is not there. This command trains it; then start the playground again:"
            command = training_command(name, output_root)
            notes.append(f'<p class="sentence">{escape(text)} <code>{escape(command)}</code></p>')
    return "".join(notes)
