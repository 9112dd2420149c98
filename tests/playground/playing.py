"""What the tests of the playground share: drawings, photographs, the pictures of a page."""

import base64
import io
import re
import shutil
import socket
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_gradio = pytest.mark.skipif(not find_spec("gradio"), reason="gradio is not installed")
needs_browser = pytest.mark.skipif(
    not (CHROMIUM and find_spec("playwright") and find_spec("gradio")),
    reason="gradio, playwright or chromium is missing",
)


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def url_of(ink):
    """A drawing as the canvas sends it; ink: (H, W) in [0, 1]."""
    png = io.BytesIO()
    Image.fromarray((255 * ink).astype(np.uint8)).convert("RGBA").save(png, "PNG")
    return f"data:image/png;base64,{base64.b64encode(png.getvalue()).decode()}"


def bar(height=120, width=30, top=20, left=90):
    """A drawing of a 1, not in the middle."""
    ink = np.zeros((140, 140), np.float32)
    ink[top : top + height, left : left + width] = 1
    return ink


def pictures_of(html):
    """{alternative text: pixels} of the pictures of a page."""
    pictures = {}
    for data, alt in re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)">', html):
        pictures[alt] = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    return pictures


def photograph(seed=0, size=(90, 60)):
    """A smooth image in colour."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def encoded(form, **options):
    """The bytes of a file of that format with a photograph."""
    file = io.BytesIO()
    photograph().save(file, form, **options)
    return file.getvalue()
