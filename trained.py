"""The trained models, rebuilt from their checkpoints alone.

    model, checkpoint = load_model("VAE", output_root)

The names are those of --model, with MNIST_ before main.py's.
"""

import sys
from functools import partial

from checkpoints import UserError, check_types, load_checkpoint
from training import FLOWERS_ROOT, PROJECT

DRAWING = ("AE", "VAE", "GAN", "DDPM")  # the models that draw random flowers
LARGEST = 1024  # pixels a side of images that a checkpoint may be for


def script_of(name: str) -> str:
    """The command that trains a model."""
    if name == "MLPAE":
        return "MLPAE_train_script.py"
    return f"{'main' if name.startswith('MNIST_') else 'train_script'}.py --model {name.removeprefix('MNIST_')}"


def flower_model(name: str):
    """The class of a PyTorch model of the flowers, by what --model calls it."""
    from Classifier import Classifier
    from Diffusion import Diffusion
    from GAN import GAN
    from VarAutoencoder import MODELS

    return {**MODELS, "DDPM": Diffusion, "GAN": GAN, "Classifier": Classifier}[name]


def load_model(name: str, output_root):
    """(model, checkpoint) of the best model of that name, on the CPU: MLPAE (a Graph), one of `flower_model`, MNIST_AE,
    MNIST_VAE or MNIST_CVAE. Raises UserError."""
    if name == "MLPAE":
        return _rebuild(name, output_root, ".pkl", _build_mlpae)
    if name.startswith("MNIST_"):
        from model import build_model

        make = partial(build_model, name.removeprefix("MNIST_"))
    else:
        make = flower_model(name)

    def build(checkpoint):
        import torch

        with torch.device("meta"):  # without memory, however large a stranger's file says that its layers are
            model = make(**checkpoint["config"])
        weights = {name: weight.float().contiguous() for name, weight in checkpoint["state_dict"].items()}
        model.load_state_dict(weights, assign=True)
        return model

    return _rebuild(name, output_root, ".pth", build)


def _build_mlpae(checkpoint):
    from MLPAE_train_script import build_autoencoder, set_weights

    height, width = checkpoint["config"]["image_size"]
    if checkpoint["state_dict"]["encoder"][0].shape != (256, 3 * height * width):  # before there is memory for as many
        raise ValueError(f"its layers are not for images of {height}x{width}")
    model = build_autoencoder(height, width)
    set_weights(model, checkpoint["state_dict"])
    return model


def _rebuild(name, output_root, suffix, build):
    """(build(checkpoint), checkpoint) of the best model of that name."""
    elsewhere = "" if output_root == PROJECT else f' --output-root "{output_root}"'
    path, made_by = output_root / "models" / f"BestModel_{name}{suffix}", f"`python {script_of(name)}{elsewhere}`"
    checkpoint = load_checkpoint(path, made_by)
    if checkpoint["model"] != name or "epoch" not in checkpoint:
        found = f"the {'best' if 'epoch' in checkpoint else 'last'} state of {checkpoint['model']}"
        raise UserError(f"{path} holds {found}, expected the best of {name}; make it anew with {made_by}")
    try:
        check_types(checkpoint["data"], {"name": str, "image_size": list, "fingerprint": str})
        _check_use(checkpoint)
        return build(checkpoint), checkpoint
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} does not describe the model {name} ({reason}); make it anew with {made_by}") from None


def _check_use(checkpoint):
    """Raise ValueError, or KeyError, where pictures of the model could not be drawn, or not in as much memory as it."""
    config, data, settings = (checkpoint[name] for name in ("config", "data", "settings"))
    if checkpoint["model"].startswith("MNIST_"):
        check_types(settings, {"recon": str, "beta": type(None) if checkpoint["model"] == "MNIST_AE" else float})
        return
    if "classes" in config:
        _check_classes(checkpoint, config["classes"], data.get("classes"))
    size = config.get("image_size") or [config["img_height"], config["img_width"]]
    if not all(type(side) is int and side <= LARGEST for side in size):  # no weight of a convolution hangs on it
        raise ValueError(f"its images are {size}, expected at most {LARGEST}x{LARGEST}")
    if data["image_size"] != size or not isinstance(data["split_seed"], int) or data["split_seed"] < 0:
        raise ValueError("what it says of its data does not fit")


def _check_classes(checkpoint, count, names):
    """The same of what the classifier and the diffusion model need."""
    if not isinstance(names, list) or not 0 < count == len(names) or not all(isinstance(name, str) for name in names):
        raise ValueError("what it says of its classes does not fit")
    if checkpoint["model"] == "Classifier":
        check_types(checkpoint, {"valid_accuracy": float})
    else:
        share = checkpoint["state_dict"]["share"]
        if share.min() < 0 or share.sum() <= 0:
            raise ValueError("its classes have no shares")


def load_reconstruction(name: str, output_root):
    """(reconstruct, checkpoint) of a flower model; reconstruct maps a tensor (B, 3, H, W) to an array."""
    model, checkpoint = load_model(name, output_root)
    if name == "MLPAE":
        from MLPAE_train_script import flatten

        return lambda images: model.forward(flatten(images)).reshape(images.shape), checkpoint
    import torch

    @torch.inference_mode()
    def reconstruct(images):
        return model.reconstruct(images).numpy()

    return reconstruct, checkpoint


def name_model(checkpoint: dict) -> str:
    """What titles call a trained model. It tells one run's pictures from another's."""
    name, loss = checkpoint["model"].removeprefix("MNIST_"), checkpoint["valid_loss"]
    return f"{name}, epoch {checkpoint['epoch']}, validation loss {loss:.6g}"


def name_source(shown: dict, checkpoint: dict) -> str:
    """What a title calls the images shown, with a note where the model was trained on others."""
    trained = checkpoint["data"]
    if shown["fingerprint"] == trained["fingerprint"]:
        return shown["name"]
    print(
        f"note: these are not the images that {checkpoint['model']} was trained on: {trained['name']}", file=sys.stderr
    )
    return f"{shown['name']}\n(not the images it was trained on: {trained['name']})"


def load_photographs(args, checkpoint):
    """The data sets (those trained on, those held out) of a checkpoint. Raises UserError where others are here."""
    from data import create_flower_dataloaders  # after the flags: PyTorch takes a second to load

    trained = checkpoint["data"]
    (height, width), root, data = trained["image_size"], args.data_root or FLOWERS_ROOT, args.data
    if data == "auto":  # what it was trained on, and no stand-in for that
        data = "synthetic" if trained["name"].startswith("synthetic") and not args.data_root else "real"
    loaders = create_flower_dataloaders(1, root, width, height, data, trained["split_seed"])
    here = loaders[0].dataset.info
    if here["fingerprint"] != trained["fingerprint"]:
        expected, found = (f"{data['name']} with the fingerprint {data['fingerprint']}" for data in (trained, here))
        raise UserError(
            f"{checkpoint['model']} was trained on {expected}, found {found}:"
            " name the right ones with --data-root or --data, or train it anew"
        )
    return [loader.dataset for loader in loaders]
