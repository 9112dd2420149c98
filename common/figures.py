"""The plots of the coursework, as PNGs with a title. No display is needed.

Each pixel of an image becomes a square of pixels of the figure, whatever fonts a machine has, so that the figures of
two machines can be compared pixel by pixel.
"""

import io
import os
import warnings

import matplotlib
import numpy as np
from matplotlib.figure import Figure  # not pyplot, which would look for a display
from matplotlib.font_manager import fontManager
from matplotlib.ticker import AutoLocator, NullLocator
from PIL import Image

from common.checkpoints import atomic_write
from common.process import say

matplotlib.rcdefaults()  # not the settings in the user's own file
matplotlib.rcParams["text.parse_math"] = False  # titles contain folder names, which may have a $
FONTS = ["DejaVu Sans", "Noto Sans CJK SC", "WenQuanYi Micro Hei", "Microsoft YaHei", "PingFang SC", "Arial Unicode MS"]
INSTALLED = {font.name for font in fontManager.ttflist}
matplotlib.rcParams["font.family"] = [font for font in FONTS if font in INSTALLED]  # the first that has a letter
DPI = 150
FONT_SIZE = 11
COLUMNS = 10  # images per row of a grid
CELL = 120  # pixels of an image in a grid, at most
MARGIN = 15  # pixels around a grid
LETTER = 12.5  # pixels of a letter, on average at most
LINE = 30  # pixels of a line of text


def plot_reconstructions(originals: np.ndarray, reconstructions: np.ndarray, path, title: str) -> None:
    """Blocks of two rows, originals above reconstructions; both (N, 3, H, W) or (N, 1, H, W) in [0, 1]."""
    rows = pair_rows(originals, reconstructions, COLUMNS)
    figure, grid = draw_grid(rows, title, ["original", "reconstruction"] * (len(rows) // 2))
    save_figure(figure, path, title, grid)


def plot_samples(images: np.ndarray, path, title: str, columns: int = COLUMNS, labels: list[str] | None = None) -> None:
    """Images (N, C, H, W) in [0, 1], `columns` per row; labels: one for each row."""
    figure, grid = draw_grid(split_rows(images, columns), title, labels)
    save_figure(figure, path, title, grid)


def plot_latent_space(points: np.ndarray, labels: np.ndarray, path, title: str, axis: str) -> None:
    """Points (N, 2), coloured by their labels (N,) from 0 to 9; axis: the name of the two coordinates."""
    width = 1125
    height = 1005
    figure = empty_figure(width, height)
    axes = figure.add_axes([0.1, 0.1, 0.72, 0.8])
    scatter = axes.scatter(*points.T, c=labels, cmap="tab10", vmin=-0.5, vmax=9.5, s=4, linewidths=0, antialiased=False)
    figure.colorbar(scatter, figure.add_axes([0.85, 0.1, 0.04, 0.8]), label="digit", ticks=range(10))
    axes.set(xlabel=f"{axis} 1", ylabel=f"{axis} 2")
    if points[:, 1].any():
        axes.set_aspect("equal", adjustable="datalim")
    figure.text(0.5, 0.985, title, ha="center", va="top", fontsize=FONT_SIZE)
    left, bottom, right, top = (round(side) for side in axes.get_window_extent().extents)
    save_figure(figure, path, title, (left, height - top, right, height - bottom))


def plot_losses(history: list[dict], path, title: str, unit: str) -> None:
    """The training and the validation loss of each epoch, on a logarithmic scale if all are positive."""
    figure, axes = make_axes(7, 4.5)
    epochs = [row["epoch"] for row in history]
    losses = [row[name] for row in history for name in ("train_loss", "valid_loss")]
    best = min(history, key=lambda row: row["valid_loss"])
    if min(losses) > 0:  # a GAN's may not be
        axes.set_yscale("log")
    axes.plot(epochs, [row["train_loss"] for row in history], ".-", label="train")
    axes.plot(epochs, [row["valid_loss"] for row in history], ".-", label="validation")
    label = f"best: {best['valid_loss']:.3g} in epoch {best['epoch']}"
    axes.plot(best["epoch"], best["valid_loss"], "k*", markersize=10, label=label)
    axes.set(title=title, xlabel="epoch", ylabel=unit)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    if max(losses) < 10 * min(losses):  # a logarithmic scale would have few ticks
        axes.yaxis.set_major_locator(AutoLocator())
        axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(lambda loss, _: f"{loss:g}" if f"{loss:e}"[0] in "25" else "")  # not all: no room
    axes.grid(which="both", alpha=0.3)
    axes.legend()
    save_figure(figure, path, title)


def make_axes(width: float, height: float, columns: int = 1):
    """(a figure of so many inches, its axes: one, or an array of several side by side)."""
    figure = empty_figure(width * DPI, height * DPI)
    figure.set_layout_engine("constrained")
    return figure, figure.subplots(ncols=columns)


def empty_figure(width: float, height: float) -> Figure:
    """A figure of so many pixels."""
    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI)


def split_rows(images: np.ndarray, columns: int) -> list[np.ndarray]:
    """Images (N, C, H, W) as rows of `columns` each."""
    return [images[start : start + columns] for start in range(0, len(images), columns)]


def pair_rows(above: np.ndarray, below: np.ndarray, columns: int) -> list[np.ndarray]:
    """Two arrays of images (N, C, H, W) as rows, one of the first above one of the second, and so on."""
    pairs = zip(split_rows(above, columns), split_rows(below, columns), strict=True)
    return [row for pair in pairs for row in pair]


def draw_grid(rows: list[np.ndarray], title: str, labels: list[str] | None = None):
    """(figure of rows of images below a title, the box of pixels of the images in it); labels: one for each row."""
    side = rows[0].shape[3]
    cell = CELL * min(1, COLUMNS / max(map(len, rows)))
    step = max(1, round(side / cell))
    scale = max(1, round(cell / side))
    canvas = join_rows([row[..., ::step, ::step] for row in rows]).repeat(scale, axis=0).repeat(scale, axis=1)
    height, width = canvas.shape[:2]
    beside = max(map(_text_width, labels)) if labels else 0
    above = LINE * (1 + title.count("\n")) + 2 * MARGIN
    whole = max(width + beside, _text_width(title)) + 2 * MARGIN
    left = (whole - beside - width) // 2 + beside
    bottom = above + height
    figure = empty_figure(whole, bottom + MARGIN)
    figure.figimage(np.broadcast_to(canvas, (height, width, 3)), left, MARGIN, vmin=0, vmax=1, origin="upper")
    for row, label in enumerate(labels or []):
        middle = 1 - (above + (row + 0.5) * height / len(rows)) / (bottom + MARGIN)
        figure.text((left - 8) / whole, middle, label, ha="right", va="center", fontsize=FONT_SIZE - 1)
    figure.text(0.5, 1 - MARGIN / (bottom + MARGIN), title, ha="center", va="top", fontsize=FONT_SIZE)
    return figure, (left, above, left + width, bottom)


def join_rows(rows: list[np.ndarray]) -> np.ndarray:
    """Rows of images (n, C, H, W) -> one image (H', W', C) with white lines one pixel wide between them."""
    columns = max(map(len, rows))
    channels, height, width = rows[0].shape[1:]
    canvas = np.ones((len(rows) * (height + 1) - 1, columns * (width + 1) - 1, channels), np.float32)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top = i * (height + 1)
            left = j * (width + 1)
            canvas[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return canvas


def _text_width(text):
    """The most pixels that a text is wide; Chinese letters are twice as wide as others."""
    return round(LETTER * max(sum(1 + (letter > "\u2e7f") for letter in line) for line in text.split("\n")))


def save_figure(figure: Figure, path, title: str, box: tuple = ()) -> None:
    """Write a figure as PNG. Its metadata are its title and the box of pixels that `python -m grading` compares."""
    metadata = {"Title": title} | ({"Plot": " ".join(map(str, box))} if box else {})
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a letter that no font of this machine has becomes a box
        figure.savefig(drawn, format="png", metadata=metadata)
    if _is_same(path, drawn):
        say(f"{path} is up to date")
        return
    with atomic_write(path) as file:
        file.write(drawn.getbuffer())
    say(f"wrote {path}")


def _is_same(path, drawn):
    """Whether the PNG at a path differs from the drawn one by rounding alone, as where another processor drew it."""
    if not os.path.isfile(path):
        return False
    try:
        with Image.open(path, formats=["PNG"]) as old, Image.open(drawn) as new:
            if (old.size, old.mode, old.text.get("Title")) != (new.size, new.mode, new.text.get("Title")):
                return False
            return np.abs(np.asarray(old, np.int16) - np.asarray(new, np.int16)).max() <= 1
    except Exception:  # a damaged file can make Pillow raise almost anything, and is replaced
        return False
