"""Pictures of what a model has learnt: originals above reconstructions, and the loss curves.

    python visualization.py --model MLPAE

Writes vis/train_MLPAE.png, vis/valid_MLPAE.png and vis/loss_MLPAE.png. The model is rebuilt from its
checkpoint alone. The only file that imports matplotlib; no display is needed.
"""

import argparse
import sys

import numpy as np

from training import FLOWERS_ROOT, UserError, add_data_flags, atomic_write, load_checkpoint, run_script

COLUMNS, BLOCKS = 10, 2  # images a row, and pairs of rows, of a reconstruction grid


def plot_reconstructions(originals: np.ndarray, reconstructions: np.ndarray, path, title: str) -> None:
    """Blocks of two rows, originals above reconstructions; both (N, 3, H, W) or (N, 1, H, W) in [0, 1]."""
    count, columns = len(originals), min(COLUMNS, len(originals))
    starts = range(0, count, columns)
    rows = [part[start : start + columns] for start in starts for part in (originals, reconstructions)]
    labels = ["original", "reconstruction"] * len(starts)
    height, width = originals.shape[2:]
    figure, axes = _figure(max(7, 1.4 + 0.8 * columns), 0.7 + 0.8 * len(rows) * height / width)
    axes.imshow(_grid(rows, columns), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_yticks([(height + 1) * (row + 0.5) - 0.5 for row in range(len(rows))], labels)
    axes.set_xticks([])
    axes.set_frame_on(False)
    axes.tick_params(length=0)
    axes.set_title(title)
    _save(figure, path)


def plot_losses(history: list[dict], path, model: str, data: dict, unit: str = "mean squared error") -> None:
    """The train and validation loss of each epoch, on a logarithmic scale, and where the best one is."""
    figure, axes = _figure(7, 4.5)
    epochs = [row["epoch"] for row in history]
    best = min(history, key=lambda row: row["valid_loss"])
    axes.semilogy(epochs, [row["train_loss"] for row in history], ".-", label="train")
    axes.semilogy(epochs, [row["valid_loss"] for row in history], ".-", label="validation")
    label = f"best: {best['valid_loss']:.4f} in epoch {best['epoch']}"
    axes.plot(best["epoch"], best["valid_loss"], "k*", markersize=10, label=label)
    axes.set(title=f"{model} on {data['name']}", xlabel="epoch", ylabel=unit)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(which="both", alpha=0.3)
    axes.legend()
    _save(figure, path)


def _figure(width, height):
    from matplotlib.figure import Figure  # not pyplot, which would look for a display

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    return figure, figure.subplots()


def _save(figure, path):
    with atomic_write(path) as file:
        figure.savefig(file, format="png")
    print(f"wrote {path}", file=sys.stderr)


def _grid(rows, columns):
    """Rows of images (n, C, H, W) -> one image (H', W', C) with white lines one pixel wide between."""
    _, channels, height, width = rows[0].shape
    canvas = np.ones((len(rows) * (height + 1) - 1, columns * (width + 1) - 1, channels), np.float32)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = i * (height + 1), j * (width + 1)
            canvas[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return canvas


def load_mlpae(output_root):
    """(reconstruct, checkpoint), where reconstruct maps a tensor (B, 3, H, W) to an array of that shape."""
    from MLPAE_train_script import build_autoencoder, flatten, set_weights

    path, made_by = output_root / "models" / "BestModel_MLPAE.pkl", "`python MLPAE_train_script.py`"
    checkpoint = load_checkpoint(path, made_by)
    try:
        model = build_autoencoder(*checkpoint["config"]["image_size"])
        set_weights(model, checkpoint["state_dict"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not describe an MLPAE ({error}); make it anew with {made_by}") from None
    return lambda images: model.forward(flatten(images)).reshape(images.shape), checkpoint


def main(argv=None):
    """Draw the reconstructions of both splits, and the losses; returns the mean squared error of each split."""
    parser = argparse.ArgumentParser(
        description="Show what a trained model reconstructs.", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--model", choices=["MLPAE"], required=True, default=argparse.SUPPRESS, help="which model's checkpoint to show"
    )
    add_data_flags(parser)
    args = parser.parse_args(argv)
    reconstruct, checkpoint = load_mlpae(args.output_root)
    from data import create_flower_dataloaders  # after the flags: PyTorch takes a second to load

    trained = checkpoint["data"]
    height, width = checkpoint["config"]["image_size"]
    loaders = create_flower_dataloaders(
        256, args.data_root or FLOWERS_ROOT, width, height, args.data, trained["split_seed"]
    )
    shown = loaders[0].dataset.info
    source = shown["name"]
    if shown["fingerprint"] != trained["fingerprint"]:
        source += f" (not the images it was trained on: {trained['name']})"
        print(f"note: these are not the images that {args.model} was trained on: {trained['name']}", file=sys.stderr)

    errors, vis, count = {}, args.output_root / "vis", COLUMNS * BLOCKS
    for split, loader in zip(("train", "valid"), loaders, strict=True):
        images = loader.dataset[:][0]
        originals, reconstructions = images.numpy(), reconstruct(images)
        errors[split] = float(np.mean((reconstructions - originals) ** 2))
        title = f"{args.model}, epoch {checkpoint['epoch']}: {split} split of {source}"
        title += f"\nmean squared error of the whole split {errors[split]:.4f}"
        path = vis / f"{split}_{args.model}.png"
        plot_reconstructions(originals[:count], reconstructions[:count], path, title)
    plot_losses(checkpoint["history"], vis / f"loss_{args.model}.png", args.model, trained)
    return errors


if __name__ == "__main__":
    run_script(main)
