"""What a model of the flowers has learnt: originals above reconstructions, and the loss curves.

    python visualization.py --model MLPAE       # or AE, or VAE; of GAN, DDPM and Classifier the losses alone

Writes vis/train_<M>.png, vis/valid_<M>.png and vis/loss_<M>.png. The model is rebuilt from its checkpoint alone.
"""

from training.flags import add_data_flags, add_model_flag, make_parser, parse_first

MODELS = ("MLPAE", "AE", "VAE", "GAN", "DDPM", "Classifier")


def parse_args(argv=None):
    """The flags."""
    parser = make_parser("Show what a trained model reconstructs, and its losses.")
    add_model_flag(parser, MODELS, "whose checkpoint to show", required=True)
    add_data_flags(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_first(parse_args)

import torch

from data import output_root
from evaluation.models import (
    RECONSTRUCTS,
    TABLE,
    find_loaders,
    load_model,
    loss_unit,
    name_model,
    name_source,
    three_digits,
)
from training.figures import plot_losses, plot_reconstructions
from training.script import run_script

SHOWN = 20  # images
BATCH = 256  # images to reconstruct at once


def plot_splits(args, model, checkpoint: dict, loaders) -> dict:
    """Reconstructions of both splits; returns the mean squared error of each."""
    trained, errors = checkpoint["data"], {}
    shown = loaders[0].dataset.info
    source, root = name_source(shown, checkpoint), output_root(args.output_root, shown, trained)
    for split, loader in zip(("train", "valid"), loaders, strict=True):
        originals, reconstructions, errors[split] = compare(model, loader.dataset)
        title = f"{name_model(checkpoint)}\n{split} split of {source}"
        title += f"\nmean squared error of the whole split {three_digits(errors[split])}"
        title += ", decoded from the mean of q(z|x)" if model.is_dist else ""
        path = root / "vis" / f"{split}_{args.model}.png"
        plot_reconstructions(originals.numpy(), reconstructions.numpy(), path, title)
    return errors


@torch.inference_mode()
def compare(model, dataset):
    """(SHOWN originals, their reconstructions, mean squared error of the whole data set)."""
    shown, squared = None, 0.0
    for start in range(0, len(dataset), BATCH):  # in batches: large images would not fit into memory at once
        images = dataset[start : start + BATCH][0]
        reconstructions = model.reconstruct(images)
        squared += (reconstructions - images).double().square().sum().item()
        shown = shown or (images[:SHOWN], reconstructions[:SHOWN])
    return *shown, squared / (len(dataset) * images[0].numel())


def main(argv=None, loaders=None):
    """Plot the reconstructions of both splits, and the losses; returns the mean squared error of each split.

    loaders: those of the photographs, where they are read already.
    """
    args = parse_args(argv)
    model, checkpoint = load_model(args.model, args.output_root)
    errors = {}
    if RECONSTRUCTS in TABLE[args.model].roles:
        errors = plot_splits(args, model, checkpoint, loaders or find_loaders(args, checkpoint["data"], "auto", BATCH))
    path, title = args.output_root / "vis" / f"loss_{args.model}.png", f"{args.model} on {checkpoint['data']['name']}"
    plot_losses(checkpoint["history"], path, title, loss_unit(args.model, checkpoint["settings"]))
    return errors


if __name__ == "__main__":
    run_script(main)
