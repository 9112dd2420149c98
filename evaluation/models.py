"""The one table of trained models, and how each is rebuilt from its checkpoint alone.

    model, checkpoint = load_model("VAE", output_root)

The names are those of --model, with MNIST_ before main.py's. Whoever needs to know something of a model asks the table.
"""

import hashlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import NoneType
from typing import NamedTuple

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from Autoencoder import Autoencoder
from data import ImageDataset, create_flower_dataloaders
from generators.classifier import Classifier
from generators.completion import QUADRANTS, build_completion
from generators.diffusion import Diffusion
from generators.gan import GAN
from MLPAE_train_script import LOSS_UNIT, MLPAutoencoder
from model import build_model
from training import PROJECT, UserError, is_synthetic
from training.checkpoints import check_types, load_checkpoint
from training.flags import MAX_SAMPLES
from VarAutoencoder import HALF, LEARNED, VarAutoencoder

MAX_SIDE = 1024  # pixels a side of images that a checkpoint may be for
TRAIN_SCRIPT, MAIN = "train_script.py --model {}", "main.py --model {}"
RECONSTRUCTS, SAMPLES, CLASSIFIES = "reconstructs", "samples", "classifies"
SIZE, MNIST_SIZE = {"img_height": int, "img_width": int}, {"hidden_size": int, "latent_size": int}
LATENT = {"encoding_dim": int, **SIZE}


def mnist_loss_unit(settings: dict) -> str:
    """The unit of the loss in the log of main.py."""
    if settings["beta"] is None:  # the AE's
        return "mean squared error" if settings["recon"] == "mse" else "cross-entropy, nats per image"
    if settings.get("samples", 1) > 1:
        samples = settings["samples"]
        return f"importance-weighted bound of {samples} samples (training: rising to {samples}), in nats per image"
    kl = "KL" if settings["beta"] == 1 else f"{settings['beta']:g} KL"
    unit = "cross-entropy + {} per image, in nats" if settings["recon"] == "bce" else "squared errors + {} per image"
    return unit.format(kl)


class Entry(NamedTuple):
    """What there is to know of a model."""

    build: Callable  # makes one of its config
    config: dict[str, type]  # the arguments of `build`
    loss_unit: str | Callable[[dict], str]  # of the loss in the log; MNIST's depends on the settings
    roles: tuple[str, ...]
    loss_settings: dict[str, type] = {}  # the settings that the loss depends on
    metrics: tuple[str, ...] = ()  # in the log, beside the loss
    added: dict = {}  # to the config of a checkpoint from before there were such arguments
    script: str = TRAIN_SCRIPT  # what trains it
    data: str = "flowers"
    suffix: str = ".pth"  # of its checkpoints


MLPAE = Entry(MLPAutoencoder, {"image_size": list}, LOSS_UNIT, (RECONSTRUCTS,), script="MLPAE_train_script.py")
MNIST = Entry(build_model, MNIST_SIZE, mnist_loss_unit, (RECONSTRUCTS,), script=MAIN, data="MNIST")
MNIST_AE = MNIST._replace(loss_settings={"recon": str, "beta": NoneType})
MNIST_VAE = MNIST._replace(
    config={**MNIST_SIZE, "samples": int},
    loss_settings={"recon": str, "beta": float},
    metrics=("recon", "kl"),
    added={"samples": 1},
)


def name_mnist_model(model: str, given: int | None) -> str:
    """What main.py's --model is called in the table, perhaps with --given."""
    return f"MNIST_{model}_given{given}" if given else f"MNIST_{model}"


def completions(model: str, entry: Entry) -> dict[str, Entry]:
    """The entries of what main.py --given trains, for every number of quadrants; entry: what they have in common."""
    return {
        name_mnist_model(model, given): entry._replace(
            build=partial(build_completion, model, given=given),
            script=f"main.py --model {model} --given {given}",
            roles=(),
        )
        for given in QUADRANTS
    }


def flower_vae_unit(settings: dict) -> str:
    """The unit of the loss in the log of the flowers' VAE."""
    if settings.get("variance", HALF) == LEARNED:
        return "negative evidence lower bound, nats per image"
    return "squared errors + KL, sum over 16 images"


TABLE = {
    "MLPAE": MLPAE._replace(suffix=".pkl"),
    "AE": Entry(Autoencoder, LATENT, "mean squared error", (RECONSTRUCTS, SAMPLES)),
    "VAE": Entry(
        VarAutoencoder,
        {**LATENT, "variance": str},
        flower_vae_unit,
        (RECONSTRUCTS, SAMPLES),
        {"beta": float},
        ("recon", "kl"),
        added={"variance": HALF},
    ),
    "GAN": Entry(GAN, LATENT, "energy distance", (SAMPLES,), metrics=("critic", "generator")),
    "DDPM": Entry(Diffusion, {"class_prior": list, **SIZE}, "mean squared error of v", (SAMPLES,)),
    "Classifier": Entry(
        Classifier, {"classes": int, **SIZE}, "cross-entropy, nats per image", (CLASSIFIES,), metrics=("accuracy",)
    ),
    "MNIST_AE": MNIST_AE._replace(build=partial(build_model, "AE")),
    "MNIST_VAE": MNIST_VAE._replace(build=partial(build_model, "VAE")),
    "MNIST_CVAE": MNIST_VAE._replace(build=partial(build_model, "CVAE")),
    **completions("NN", MNIST_AE._replace(config={"hidden_size": int})),
    **completions("CVAE", MNIST_VAE),
}


def loss_unit(name: str, settings: dict) -> str:
    """The unit of a model's loss in the log."""
    unit = TABLE[name].loss_unit
    return unit if isinstance(unit, str) else unit(settings)


def checkpoint_file(name: str) -> str:
    """The name of the file of a model's best checkpoint."""
    return f"BestModel_{name}{TABLE[name].suffix}"


def training_command(name: str, output_root: Path = PROJECT) -> str:
    """What trains a model below that root."""
    return f"python {TABLE[name].script.format(name.removeprefix('MNIST_'))}{flag_for(output_root)}"


def flag_for(output_root: Path) -> str:
    """What a command needs for another output root than the project."""
    return "" if output_root == PROJECT else f' --output-root "{output_root}"'


def load_model(name: str, output_root: Path):
    """(model, checkpoint) of the best model of that name, on the CPU. Raises UserError."""
    path, made_by = output_root / "models" / checkpoint_file(name), f"`{training_command(name, output_root)}`"
    checkpoint = load_checkpoint(path, made_by)
    if checkpoint["model"] != name or "epoch" not in checkpoint:
        found = f"the {'best' if 'epoch' in checkpoint else 'last'} state of {checkpoint['model']}"
        raise UserError(f"{path} holds {found}, expected the best of {name}; make it anew with {made_by}")
    try:
        config = checkpoint["config"]
        config |= {key: value for key, value in TABLE[name].added.items() if key not in config}
        _check(TABLE[name], checkpoint)
        rebuild = _rebuild_mlp if TABLE[name].suffix == ".pkl" else _rebuild_torch
        return rebuild(TABLE[name].build, checkpoint["config"], checkpoint["state_dict"]), checkpoint
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split()[:30])  # PyTorch lists every layer that does not fit
        raise UserError(f"{path} does not describe the model {name} ({reason}); make it anew with {made_by}") from None


class _SkipInit(TorchFunctionMode):
    """Leaves out torch.nn.init: the weights come from the file, and `normal_` on the device "meta" would import
    PyTorch's compiler, which takes seconds."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))


def _rebuild_torch(build, config, state_dict):
    with torch.device("meta"), _SkipInit():  # without memory, however large an untrusted file says that its layers are
        model = build(**config)
    weights = {name: weight.float().contiguous() for name, weight in state_dict.items()}
    model.load_state_dict(weights, assign=True)
    return model.eval().to(memory_format=torch.channels_last)  # convolutions on the CPU take half the time


def _rebuild_mlp(build, config, state_dict):
    check_types(state_dict, {"encoder": list, "decoder": list})
    shapes = [getattr(array, "shape", None) for array in state_dict["encoder"]]
    height, width = config["image_size"]
    if shapes[:1] != [(256, 3 * height * width)]:  # before there is memory for as many
        raise ValueError(f"its layers are not for images of {height}x{width}")
    model = build(**config)
    model.load_state_dict(state_dict)
    return model


def _check(entry, checkpoint):
    """Raise ValueError where what a checkpoint says of itself cannot be, or would take more memory than its weights."""
    config, data, settings = (checkpoint[name] for name in ("config", "data", "settings"))
    if config.keys() != entry.config.keys():
        raise ValueError(f"it is configured by {', '.join(config)}, expected {', '.join(entry.config)}")
    check_types(config, entry.config)
    check_types(data, {"name": str, "image_size": list, "fingerprint": str, "classes": list, "images": int})
    check_types(settings, entry.loss_settings)
    check_types(checkpoint, {"seed": int, **{f"valid_{name}": (int, float) for name in entry.metrics}})
    if entry.data == "MNIST":
        settings.setdefault("binarize", False)  # from before there was such a flag
        check_types(settings, {"binarize": bool})
        check_types(config, {"samples": int} if "samples" in entry.config else {})
    if not 1 <= config.get("samples", 1) <= MAX_SAMPLES:
        raise ValueError(f"it has {config['samples']} samples, expected 1 to {MAX_SAMPLES}")
    if "test_loss" in checkpoint:
        check_types(checkpoint, {"test_images": int, **{f"test_{name}": float for name in ("loss", *entry.metrics)}})
    if settings.get("samples", 1) != config.get("samples", 1):
        raise ValueError("its settings say another number of samples than its config")
    if checkpoint["seed"] < 0 or settings.get("recon", "bce") not in ("bce", "mse"):
        raise ValueError("its settings do not fit")
    size = config.get("image_size") or [config.get("img_height", 28), config.get("img_width", 28)]
    if len(size) != 2 or not all(type(side) is int and 0 < side <= MAX_SIDE for side in size):
        raise ValueError(f"its images are {size}, expected at most {MAX_SIDE}x{MAX_SIDE}")
    split_seed = data.get("split_seed") if entry.data == "flowers" else 0
    if data["image_size"] != size or type(split_seed) is not int or split_seed < 0:
        raise ValueError("what it says of its data does not fit")
    names, prior = data["classes"], config.get("class_prior", [])
    count = config.get("classes", len(prior) or len(names))
    if count != len(names) or not all(type(p) is float for p in prior) or not all(isinstance(n, str) for n in names):
        raise ValueError("what it says of its classes does not fit")


def name_model(checkpoint: dict) -> str:
    """What titles call a trained model."""
    name, loss = checkpoint["model"].removeprefix("MNIST_"), three_digits(checkpoint["valid_loss"])
    unit = loss_unit(checkpoint["model"], checkpoint["settings"])
    return f"{name}, epoch {checkpoint['epoch']}, validation loss {loss} ({unit})"


def three_digits(number: float) -> str:
    """Rounded to three significant digits, without the exponent that large numbers have: 701.5 -> "702"."""
    rounded = float(f"{number:.3g}")
    return f"{rounded:.0f}" if abs(rounded) >= 1000 else f"{rounded:#.3g}".rstrip(".")


def fingerprint(model) -> str:
    """A hash of a model's weights, bit for bit."""
    digest = hashlib.sha256()
    for name, weights in sorted(model.state_dict().items()):
        for array in weights if isinstance(weights, list) else [weights]:
            digest.update(f"{name} {tuple(array.shape)}".encode() + np.asarray(array).tobytes())
    return digest.hexdigest()[:16]


def name_source(shown: dict, checkpoint: dict) -> str:
    """What a title calls the images shown, with a note where the model was trained on others."""
    trained = checkpoint["data"]
    if shown["fingerprint"] == trained["fingerprint"]:  # which may be in a folder of another name here
        return trained["name"]
    print(
        f"note: these are not the images that {checkpoint['model']} was trained on: {trained['name']}", file=sys.stderr
    )
    return f"{shown['name']}\n(not the images it was trained on: {trained['name']})"


def find_loaders(args, trained: dict, data: str, batch_size: int = 1):
    """(train loader, validation loader) of photographs, of the size and with the split that a model was trained on.

    data: what --data auto means, but for a model of the stand-in, which is shown that. Raises UserError.
    """
    if args.data != "auto":
        data = args.data
    elif is_synthetic(trained) and not args.data_root:
        data = "synthetic"
    height, width = trained["image_size"]
    return create_flower_dataloaders(batch_size, args.data_root, width, height, data, trained["split_seed"])


def load_photographs(args, checkpoint: dict) -> list[ImageDataset]:
    """The data sets (those trained on, those held out) of a checkpoint. Raises UserError where others are here."""
    trained = checkpoint["data"]
    loaders = find_loaders(args, trained, "real")
    here = loaders[0].dataset.info
    if here["fingerprint"] != trained["fingerprint"]:
        expected, found = (f"{data['name']} with the fingerprint {data['fingerprint']}" for data in (trained, here))
        raise UserError(
            f"{checkpoint['model']} was trained on {expected}, found {found}:"
            " name the right ones with --data-root or --data, or train it anew"
        )
    return [loader.dataset for loader in loaders]
