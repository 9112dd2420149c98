"""A trained model, rebuilt from its checkpoint alone, the images that it was trained on, and its name in titles.

model, checkpoint = load_model("VAE", output_root)
"""

from pathlib import Path

import numpy as np
import torch

from common import UserError, is_synthetic
from common.checkpoints import check_types, load_checkpoint, one_line
from common.figures import plot_losses
from common.process import say
from data import create_flower_dataloaders
from datasets.images import ImageDataset
from trained.registry import MODELS, Entry, checkpoint_file, loss_unit, training_command

MAX_SIDE = 1024  # pixels of the height and of the width of images that a checkpoint may be for
DATA = {"name": str, "image_size": list, "fingerprint": str, "classes": list, "images": int}


def load_model(name: str, output_root: Path):
    """(model, checkpoint) of the best model of that name, on the CPU. Raises UserError."""
    path = output_root / "models" / checkpoint_file(name)
    made_by = f"`{training_command(name, output_root)}`"
    checkpoint = load_checkpoint(path, made_by)
    if checkpoint["model"] != name or "epoch" not in checkpoint:
        state = f"the {'best' if 'epoch' in checkpoint else 'last'} state of {checkpoint['model']}"
        raise UserError(f"{path} holds {state}, expected the best of {name}; make a new one with {made_by}")
    entry = MODELS[name]
    with one_line(f"{path} does not hold the model {name}", f"; make a new one with {made_by}"):
        _check(entry, checkpoint)
        name_model(checkpoint)
        rebuild = _rebuild_mlp if entry.suffix == ".pkl" else _rebuild_torch
        return rebuild(entry.build, checkpoint["config"], checkpoint["state_dict"]), checkpoint


def _rebuild_torch(build, config, state_dict):
    with torch.device("meta"):  # without memory, and time to fill it: the checkpoint's weights take its place
        model = build(**config)
    weights = {name: weight.float().contiguous() for name, weight in state_dict.items()}
    model.load_state_dict(weights, assign=True)
    return model.eval().to(memory_format=torch.channels_last)  # convolutions on the CPU take half the time


def _rebuild_mlp(build, config, state_dict):
    check_types(state_dict, {"encoder": list, "decoder": list})
    if not all(isinstance(array, np.ndarray) for array in (*state_dict["encoder"], *state_dict["decoder"])):
        raise ValueError("its weights are not arrays")
    model = build(**config)
    model.load_state_dict(state_dict)
    return model


def _check(entry: Entry, checkpoint: dict) -> None:
    """Raise ValueError where a checkpoint contradicts itself, before anything is computed from it."""
    config = checkpoint["config"]
    data = checkpoint["data"]
    if config.keys() != entry.config.keys():
        raise ValueError(f"its configuration is {', '.join(config)}, expected {', '.join(entry.config)}")
    check_types(config, entry.config)
    check_types(data, DATA)
    seeds = [checkpoint["seed"], data.get("split_seed") if entry.data == "flowers" else 0]
    if not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise ValueError("its seed or its split seed is not a whole number from 0")
    _check_sizes(config, data)


def _check_sizes(config, data):
    """Raise ValueError unless the images and the classes that a model was built for are those of its data."""
    size = config.get("image_size") or [config.get("img_height", 28), config.get("img_width", 28)]
    if data["image_size"] != size or not all(type(side) is int and 0 < side <= MAX_SIDE for side in size):
        raise ValueError(f"its images are {size}, and its data {data['image_size']}, at most {MAX_SIDE}x{MAX_SIDE}")
    prior = config.get("class_prior", [])
    count = config.get("classes", len(prior) or len(data["classes"]))
    if count != len(data["classes"]) or not all(isinstance(value, float) for value in prior):
        raise ValueError("its classes are not those of its data")


def name_model(checkpoint: dict) -> str:
    """The name of a trained model in titles."""
    name = checkpoint["model"]
    loss = three_digits(checkpoint["valid_loss"])
    unit = loss_unit(name, checkpoint["settings"])
    return f"{name.removeprefix('MNIST_')}, epoch {checkpoint['epoch']}, validation loss {loss} ({unit})"


def plot_loss_curves(checkpoint: dict, root: Path) -> None:
    """Plot the losses of a training, vis/loss_<M>.png below a root."""
    name = checkpoint["model"]
    title = f"{name.removeprefix('MNIST_')} on {checkpoint['data']['name']}"
    unit = loss_unit(name, checkpoint["settings"])
    plot_losses(checkpoint["history"], root / "vis" / f"loss_{name}.png", title, unit)


def three_digits(number: float) -> str:
    """Rounded to three significant digits, without the exponent that large numbers have: 701.5 -> "702"."""
    rounded = float(f"{number:.3g}")
    return f"{rounded:.0f}" if abs(rounded) >= 1000 else f"{rounded:#.3g}".rstrip(".")


def name_source(shown: dict, checkpoint: dict) -> str:
    """The name of the images `shown` in titles, with a note where the model was trained on others."""
    trained = checkpoint["data"]
    if shown["fingerprint"] == trained["fingerprint"]:  # which may be in a folder of another name here
        return trained["name"]
    say(f"note: these are not the images that {checkpoint['model']} was trained on: {trained['name']}")
    return f"{shown['name']}\n(not the images it was trained on: {trained['name']})"


def find_loaders(trained: dict, data: str = "auto", data_root=None, otherwise: str = "auto"):
    """(train loader, validation loader) of photographs, of the size and with the split that a model was trained on.

    trained: its checkpoint's data; data and data_root: as flags; otherwise: takes the place of "auto", except for a
    model that was trained on the stand-in, which gets the stand-in. Raises UserError.
    """
    if data == "auto":
        data = "synthetic" if is_synthetic(trained) and not data_root else otherwise
    height, width = trained["image_size"]
    return create_flower_dataloaders(1, data_root, width, height, data, trained["split_seed"])


def load_photographs(checkpoint: dict, data: str = "auto", data_root=None) -> tuple[ImageDataset, ImageDataset]:
    """The training and the held-out photographs of a checkpoint. Raises UserError where these are not here."""
    train_loader, valid_loader = find_loaders(checkpoint["data"], data, data_root, "real")
    check_images(train_loader.dataset, checkpoint)
    return train_loader.dataset, valid_loader.dataset


def check_images(dataset: ImageDataset, checkpoint: dict) -> None:
    """Raise UserError unless these images are some of those that a model was trained on."""
    trained = checkpoint["data"]
    present = dataset.info
    if present["fingerprint"] != trained["fingerprint"]:
        raise UserError(
            f"the model {checkpoint['model']} was trained on {trained['name']} with the fingerprint"
            f" {trained['fingerprint']}, found {present['name']} with the fingerprint {present['fingerprint']}:"
            " name the right folder with --data-root or --data, or train the model again"
        )
