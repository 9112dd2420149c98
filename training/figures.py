"""Every plot, as a PNG with a title; the only file that imports matplotlib. No display is needed."""

import io
import sys

import matplotlib
import numpy as np
from matplotlib.figure import Figure  # not pyplot, which would look for a display
from matplotlib.ticker import AutoLocator, NullLocator
from PIL import Image

from training.checkpoints import atomic_write

COLUMNS = 10  # images a row of a grid
COLUMNS_BESIDE = 8  # images a row beside a histogram


def plot_reconstructions(originals: np.ndarray, reconstructions: np.ndarray, path, title: str) -> None:
    """Blocks of two rows, originals above reconstructions; both (N, 3, H, W) or (N, 1, H, W) in [0, 1]."""
    rows = _pair(originals, reconstructions, COLUMNS)
    _save(_plot_grid(rows, title, ["original", "reconstruction"] * (len(rows) // 2)), path, title)


def plot_samples(images: np.ndarray, path, title: str, columns: int = COLUMNS, labels: list[str] | None = None) -> None:
    """Images (N, C, H, W) in [0, 1], `columns` a row; labels: one for each row."""
    _save(_plot_grid(_split(images, columns), title, labels), path, title)


def plot_film(frames: list[np.ndarray], path, titles: list[str]) -> None:
    """A GIF whose frames are what `plot_samples` plots, half a second each and the last one longer."""
    images = []
    for samples, title in zip(frames, titles, strict=True):
        png = io.BytesIO()
        _plot_grid(_split(samples, COLUMNS), title).savefig(png, dpi=75)
        images.append(Image.open(png).convert("L").quantize(16))  # 16 greys: a third of the size
    duration = [500] * (len(images) - 1) + [3000]
    with atomic_write(path) as file:
        images[0].save(file, format="GIF", save_all=True, append_images=images[1:], duration=duration, loop=0)
    print(f"wrote {path}", file=sys.stderr)


def plot_latent_space(points: np.ndarray, labels: np.ndarray, path, title: str, axis: str) -> None:
    """Points (N, 2), coloured by their labels (N,) from 0 to 9; axis: what the two coordinates are called."""
    figure, axes = _figure(7.5, 6.5)
    scatter = axes.scatter(*points.T, c=labels, cmap="tab10", vmin=-0.5, vmax=9.5, s=4, linewidths=0, antialiased=False)
    figure.colorbar(scatter, label="digit", ticks=range(10))
    axes.set(title=title, xlabel=f"{axis} 1", ylabel=f"{axis} 2", aspect="equal" if points[:, 1].any() else "auto")
    _save(figure, path, title)


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
    label = f"best: {best['valid_loss']:.4g} in epoch {best['epoch']}"
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
    right.legend(loc="lower center")
    figure.suptitle(title)
    _save(figure, path, title)


def _figure(width, height, columns=1):
    matplotlib.rcParams["text.parse_math"] = False  # titles name folders, which may have a $
    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    return figure, figure.subplots(ncols=columns)


def _split(images, columns):
    return [images[start : start + columns] for start in range(0, len(images), columns)]


def _pair(above, below, columns):
    """Rows of the one and of the other in turn."""
    return [row for pair in zip(_split(above, columns), _split(below, columns), strict=True) for row in pair]


def _plot_grid(rows, title, labels=None):
    columns, (height, width) = max(map(len, rows)), rows[0].shape[2:]
    cell = 0.8 * min(1, COLUMNS / columns)  # inches an image is wide
    margin = 1.4 if labels else 0
    header = 0.7 + 0.2 * max(0, title.count("\n") - 1)
    figure, axes = _figure(max(7, margin + cell * columns), header + cell * len(rows) * height / width)
    _show_grid(axes, rows, labels)
    axes.set_title(title)
    return figure


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


def _save(figure, path, title):
    with atomic_write(path) as file:
        figure.savefig(file, format="png", metadata={"Title": title})  # for check_submission.py, which cannot see
    print(f"wrote {path}", file=sys.stderr)
