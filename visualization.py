"""Flowers: what a trained model reconstructs, originals above reconstructions, and its loss curves.

    python visualization.py --model MLPAE       # or AE, VAE; of GAN, DDPM and Classifier the losses alone

Writes vis/train_<M>.png, vis/valid_<M>.png and vis/loss_<M>.png. The model is rebuilt from its checkpoint alone.
"""

from pathlib import Path

import torch

from common.figures import plot_reconstructions
from common.flags import add_data_flags, make_parser
from common.process import run_script
from datasets.images import choose_output_root
from trained.loading import find_loaders, load_model, name_model, name_source, plot_loss_curves, three_digits
from trained.registry import MODELS

FLOWER_MODELS = [name for name, entry in MODELS.items() if entry.data == "flowers"]
SHOWN = 20  # images
BATCH = 256  # images to reconstruct at once


def parse_args(argv=None):
    """The flags."""
    parser = make_parser("Show what a trained model reconstructs, and its losses.")
    parser.add_argument("--model", choices=FLOWER_MODELS, required=True, help="whose checkpoint to show")
    add_data_flags(parser)
    return parser.parse_args(argv)


def plot_split(model, checkpoint: dict, split: str, dataset, root: Path) -> float:
    """Plot the first images of a split, "train" or "valid", above their reconstructions; returns the mean squared error
    of the whole split."""
    originals = dataset[:SHOWN][0]
    reconstructions, error = reconstruct(model, dataset)
    title = f"{name_model(checkpoint)}\n{split} split of {name_source(dataset.info, checkpoint)}"
    title += f"\nmean squared error of the whole split {three_digits(error)}"
    if MODELS[checkpoint["model"]].variational:
        title += ", decoded from the mean of q(z|x)"
    path = root / "vis" / f"{split}_{checkpoint['model']}.png"
    plot_reconstructions(originals.numpy(), reconstructions.numpy(), path, title)
    return error


@torch.inference_mode()
def reconstruct(model, dataset) -> tuple[torch.Tensor, float]:
    """(the reconstructions of the first SHOWN images, the mean squared error of all)."""
    shown = []
    squared = 0.0
    for start in range(0, len(dataset), BATCH):  # in batches: large images would not fit into memory at once
        images, _ = dataset[start : start + BATCH]
        reconstructions = model.reconstruct(images)
        squared += (reconstructions - images).double().square().sum().item()
        shown.append(reconstructions[: max(0, SHOWN - start)])
    return torch.cat(shown), squared / (len(dataset) * images[0].numel())


def main(argv=None):
    """Plot the losses and the reconstructions of both splits; returns the mean squared error of each split."""
    args = parse_args(argv)
    model, checkpoint = load_model(args.model, args.output_root)
    plot_loss_curves(checkpoint, args.output_root)
    errors = {}
    if MODELS[args.model].reconstructs:
        loaders = find_loaders(checkpoint["data"], args.data, args.data_root)
        for split, loader in zip(("train", "valid"), loaders, strict=True):
            root = choose_output_root(args.output_root, loader.dataset.info, checkpoint["data"])
            errors[split] = plot_split(model, checkpoint, split, loader.dataset, root)
    return errors


if __name__ == "__main__":
    run_script(main)
