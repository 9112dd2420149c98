"""Every plot, as a PNG with a title; the only file that imports matplotlib. No display is needed."""

import io
import sys
from functools import cache

import matplotlib
import numpy as np
from matplotlib.figure import Figure  # not pyplot, which would look for a display
from matplotlib.font_manager import findfont, fontManager, get_font
from matplotlib.text import Text
from matplotlib.ticker import AutoLocator, NullLocator
from PIL import Image

from training.checkpoints import atomic_write

COLUMNS = 10  # images a row of a grid
matplotlib.rcdefaults()  # whatever the user's own file says
matplotlib.rcParams["text.parse_math"] = False  # titles name folders, which may have a $
DPI, FONT_SIZE = 150, 11
CELL, MARGIN = 120, 15  # pixels: of an image of a grid, and around the grid
LETTER, LINE = 12.5, 30  # pixels of a letter, on average at most, and of a line
COLUMNS_BESIDE = 8  # images a row beside a histogram


def plot_reconstructions(originals: np.ndarray, reconstructions: np.ndarray, path, title: str) -> None:
    """Blocks of two rows, originals above reconstructions; both (N, 3, H, W) or (N, 1, H, W) in [0, 1]."""
    rows = _pair(originals, reconstructions, COLUMNS)
    figure, plot = _plot_grid(rows, title, ["original", "reconstruction"] * (len(rows) // 2))
    _save(figure, path, title, plot)


def plot_samples(images: np.ndarray, path, title: str, columns: int = COLUMNS, labels: list[str] | None = None) -> None:
    """Images (N, C, H, W) in [0, 1], `columns` a row; labels: one for each row."""
    figure, plot = _plot_grid(_split(images, columns), title, labels)
    _save(figure, path, title, plot)


def plot_film(frames: list[np.ndarray], path, titles: list[str]) -> None:
    """A GIF whose frames are what `plot_samples` plots, half a second each and the last one longer."""
    images = []
    for samples, title in zip(frames, titles, strict=True):
        png = io.BytesIO()
        _plot_grid(_split(samples, COLUMNS), title)[0].savefig(png, dpi=DPI // 2)
        images.append(Image.open(png).convert("L").quantize(16))  # 16 greys: a third of the size
    duration = [500] * (len(images) - 1) + [3000]
    with atomic_write(path) as file:
        images[0].save(file, format="GIF", save_all=True, append_images=images[1:], duration=duration, loop=0)
    print(f"wrote {path}", file=sys.stderr)


def plot_latent_space(points: np.ndarray, labels: np.ndarray, path, title: str, axis: str) -> None:
    """Points (N, 2), coloured by their labels (N,) from 0 to 9; axis: what the two coordinates are called."""
    figure = _empty_figure(1125, 1005)
    axes, beside = figure.add_axes([0.1, 0.1, 0.72, 0.8]), figure.add_axes([0.85, 0.1, 0.04, 0.8])  # of equal height
    scatter = axes.scatter(*points.T, c=labels, cmap="tab10", vmin=-0.5, vmax=9.5, s=4, linewidths=0, antialiased=False)
    figure.colorbar(scatter, beside, label="digit", ticks=range(10))
    axes.set(xlabel=f"{axis} 1", ylabel=f"{axis} 2")
    if points[:, 1].any():
        axes.set_aspect("equal", adjustable="datalim")
    figure.text(0.5, 0.985, title, ha="center", va="top", fontsize=FONT_SIZE)
    left, bottom, right, top = (round(side) for side in axes.get_window_extent().extents)
    _save(figure, path, title, (left, 1005 - top, right, 1005 - bottom))


def plot_samplers(points: dict, rows: list[np.ndarray], labels: list[str], path, title: str) -> None:
    """Where latent vectors lie, {name: their two principal components (N, 2)}, beside rows of decoded images
    (n, 3, H, W); labels: one for each row. The first of the points are those of photographs."""
    figure, (left, right) = _figure(13, 4.5, columns=2)
    for number, (name, where) in enumerate(points.items()):
        style = {"s": 14, "color": f"C{number}"} if number else {"s": 5, "color": "lightgrey"}
        left.scatter(*where.T, **style, linewidths=0, label=name)
    left.set(xlabel="principal component 1", ylabel="principal component 2", title="latent vectors")
    figure.legend(loc="outside lower left", ncols=len(points), markerscale=2)
    _show_grid(right, rows, labels)
    right.set_title("the decoder's images of them")
    figure.suptitle(title)
    _save(figure, path, title)


def plot_nearest(images: np.ndarray, nearest: np.ndarray, distances, usual, path, title: str) -> None:
    """Blocks of two rows, images above the nearest training images, both (N, 3, H, W), and beside them how far such
    images are away: distances (M,), and those of held-out photographs, usual (N,)."""
    figure, (left, right) = _figure(13, 4.5, columns=2)
    rows = _pair(images, nearest, COLUMNS_BESIDE)
    _show_grid(left, rows, ["sample", "nearest"] * (len(rows) // 2))
    bins = np.histogram_bin_edges(np.concatenate([distances, usual]), 30)
    for name, values in (("samples", distances), ("held-out photographs", usual)):
        right.hist(values, bins, density=True, alpha=0.5, label=name)
    right.set(xlabel="distance to the nearest training image (0: the same, √2: nothing in common)", ylabel="density")
    right.legend()
    figure.suptitle(title)
    _save(figure, path, title)


def plot_losses(history: list[dict], path, title: str, unit: str) -> None:
    """The train and validation loss of each epoch, on a logarithmic scale if all are above 0, and where the best is."""
    figure, axes = _figure(7, 4.5)
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
    axes.yaxis.set_minor_formatter(lambda loss, _: f"{loss:g}" if f"{loss:e}"[0] in "25" else "")  # all have no room
    axes.grid(which="both", alpha=0.3)
    axes.legend()
    _save(figure, path, title)


def plot_latents(kl, z, posterior, prior, path, title: str) -> None:
    """What the latent dimensions of a VAE carry: their KL (D,), sorted, in nats per image; and on a grid z (K,) the
    density of the aggregate posterior of each, posterior (K, D), against the prior's (K,)."""
    figure, (left, right) = _figure(10, 4.5, columns=2)
    left.bar(range(1, len(kl) + 1), kl, width=1.0)
    left.set(title="KL of each latent dimension, sorted", xlabel="dimension", ylabel="nats per image")
    right.plot(z, posterior, "C0", alpha=0.2, linewidth=0.7)
    right.plot(z, posterior.mean(1), "C0", linewidth=2, label="mean of all dimensions")
    right.plot(z, prior, "k--", label="N(0, 1)")
    right.set(title="aggregate posterior q(z), a thin line a dimension", xlabel="z", ylabel="density")
    figure.legend(loc="outside lower right", ncols=2)  # nowhere inside is free of curves
    figure.suptitle(title)
    _save(figure, path, title)


PANELS = {  # of `plot_rate_distortion`: {(x, y): their labels}
    ("rate", "distortion"): ("rate (KL), nats per image", "distortion (cross-entropy), nats per image"),
    ("bound", "asked"): ("bound = rate + distortion, nats per image", "samples read as the digit asked for"),
    ("bound", "spread"): ("bound = rate + distortion, nats per image", "spread of samples (validation digits: 1)"),
}


def plot_rate_distortion(lines: dict[str, list[dict]], path, title: str) -> None:
    """Trainings {name: [{"rate", "distortion", "bound", "asked", "spread", "beta"}, ...]}, a line each: distortion
    against rate, and against the bound what samples are read as (perhaps None) and how much they differ."""
    figure, axes = _figure(14, 4.8, columns=3)
    sides = iter([(-6, "right", "top"), (6, "left", "bottom")])  # of the labels of the two lines
    for name, rows in lines.items():
        style = {"marker": "o" if len(rows) > 1 else "*", "markersize": 5 if len(rows) > 1 else 14}
        for plot, (x, y) in zip(axes, PANELS, strict=True):
            shown = [row for row in rows if row[y] is not None]
            plot.plot([row[x] for row in shown], [row[y] for row in shown], label=name, **style)
        for offset, ha, va in [next(sides)] if len(rows) > 1 else []:
            place = {"xytext": (offset, offset), "textcoords": "offset points", "ha": ha, "va": va}
            for row in rows:
                axes[0].annotate(f"β {row['beta']:g}", (row["rate"], row["distortion"]), **place)
    axes[0].margins(0.15)  # for the labels
    for plot, (xlabel, ylabel) in zip(axes, PANELS.values(), strict=True):
        plot.set(xlabel=xlabel, ylabel=ylabel)
        plot.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(lines))
    figure.suptitle(title)
    _save(figure, path, title)


def plot_scores(found: dict[str, list[dict]], chance: tuple[float, float], path, title: str) -> None:
    """The accuracy with which samples {name: a dict a seed} are told from photographs, and their kernel distance, a dot
    for each seed with its standard error; chance: the range of the accuracy of photographs against photographs."""
    figure, plots = _figure(11, 1.5 + 0.45 * len(found), columns=2)
    labels = {"accuracy": "told from photographs, share right (0.5: not at all)", "distance": "kernel distance"}
    for plot, (key, label) in zip(plots, labels.items(), strict=True):
        for row, numbers in enumerate(found.values()):
            places = [row + 0.15 * (number - (len(numbers) - 1) / 2) for number in range(len(numbers))]
            values, errors = zip(*(found[key] for found in numbers), strict=True)
            plot.errorbar(values, places, xerr=errors, fmt="o", markersize=4, color="C0", elinewidth=1)
        plot.set(xlabel=label)
        plot.set_yticks(range(len(found)), list(found) if key == "accuracy" else [])
        plot.invert_yaxis()
        plot.grid(axis="x", alpha=0.3)
    plots[0].axvspan(*chance, color="C2", alpha=0.25, label="photographs against photographs")
    plots[0].legend()
    plots[1].set_xscale("symlog", linthresh=0.1)
    distances = [of["distance"][0] for numbers in found.values() for of in numbers]
    plots[1].set_xlim(min(-0.1, 2 * min(distances)), max(0.1, 2 * max(distances)))
    plots[1].xaxis.set_major_formatter("{x:g}")
    figure.suptitle(title)
    _save(figure, path, title)


def _figure(width, height, columns=1):
    figure = _empty_figure(width * DPI, height * DPI)
    figure.set_layout_engine("constrained")
    return figure, figure.subplots(ncols=columns)


def _split(images, columns):
    return [images[start : start + columns] for start in range(0, len(images), columns)]


def _pair(above, below, columns):
    """Rows of the one and of the other in turn."""
    return [row for pair in zip(_split(above, columns), _split(below, columns), strict=True) for row in pair]


def _plot_grid(rows, title, labels=None):
    """(figure of rows of images below a title, where they are). Each of their pixels is a square of pixels of the
    figure, which depends on no font, so that figures of two machines can be compared pixel by pixel."""
    cell, side = CELL * min(1, COLUMNS / max(map(len, rows))), rows[0].shape[3]
    step, scale = (max(1, round(ratio)) for ratio in (side / cell, cell / side))
    canvas = _join([row[..., ::step, ::step] for row in rows]).repeat(scale, axis=0).repeat(scale, axis=1)
    height, width = canvas.shape[:2]
    beside, above = max(map(_width, labels)) if labels else 0, LINE * title.count("\n") + LINE + 2 * MARGIN
    whole = max(width + beside, _width(title)) + 2 * MARGIN
    left, bottom = (whole - beside - width) // 2 + beside, above + height
    figure = _empty_figure(whole, bottom + MARGIN)
    figure.figimage(np.broadcast_to(canvas, (height, width, 3)), left, MARGIN, vmin=0, vmax=1, origin="upper")
    for row, label in enumerate(labels or []):
        middle = 1 - (above + (row + 0.5) * height / len(rows)) / (bottom + MARGIN)
        figure.text((left - 8) / whole, middle, label, ha="right", va="center", fontsize=FONT_SIZE - 1)
    figure.text(0.5, 1 - MARGIN / (bottom + MARGIN), title, ha="center", va="top", fontsize=FONT_SIZE)
    return figure, (left, above, left + width, bottom)


def _width(text):
    """The most pixels that a text is wide; Chinese letters are twice as wide as others."""
    return round(LETTER * max(sum(1 + (letter > "\u2e7f") for letter in line) for line in text.split("\n")))


def _empty_figure(width, height):
    """A figure of so many pixels."""
    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI)


def _show_grid(axes, rows, labels=None):
    height = rows[0].shape[2]
    axes.imshow(_join(rows), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_yticks([(height + 1) * (row + 0.5) - 0.5 for row in range(len(rows))] if labels else [], labels or [])
    axes.set_xticks([])
    axes.set_frame_on(False)
    axes.tick_params(length=0)


def _join(rows):
    """Rows of images (n, C, H, W) -> one image (H', W', C) with white lines one pixel wide between."""
    columns, (_, channels, height, width) = max(map(len, rows)), rows[0].shape
    canvas = np.ones((len(rows) * (height + 1) - 1, columns * (width + 1) - 1, channels), np.float32)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = i * (height + 1), j * (width + 1)
            canvas[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return canvas


def _save(figure, path, title, plot=()):
    """plot: left, upper, right and lower end, in pixels, of what check_submission.py compares, beside the title."""
    _replace_unknown_letters(figure)
    metadata = {"Title": title} | ({"Plot": " ".join(map(str, plot))} if plot else {})
    with atomic_write(path) as file:
        figure.savefig(file, format="png", metadata=metadata)
    print(f"wrote {path}", file=sys.stderr)


def _replace_unknown_letters(figure):
    """Folders and classes have names in any script: take another font for letters that matplotlib's own lacks, and
    question marks for those that no font of this machine has."""
    for text in figure.findobj(Text):
        unknown = set(text.get_text()) - _letters_of(findfont("DejaVu Sans")) - {"\n"}
        if unknown:
            font, known = _find_font(frozenset(unknown))
            text.set_fontfamily(["DejaVu Sans", *font])
            text.set_text("".join("?" if letter in unknown - known else letter for letter in text.get_text()))


@cache
def _find_font(letters):
    """([the name of the font that has most of the letters], those it has), or ([], set())."""
    best = [], set()
    for entry in fontManager.ttflist:
        is_last_resort = "last" in entry.name.lower()  # which has a box for every letter
        known = set() if is_last_resort else letters & _letters_of(entry.fname)
        best = max(best, ([entry.name], known), key=lambda found: len(found[1]))
    return best


@cache
def _letters_of(path):
    """The letters that the font in a file has."""
    return {chr(code) for code in get_font(path).get_charmap()}
