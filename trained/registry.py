"""The one table of models. The names are those of --model, with MNIST_ before main.py's.

    entry = MODELS["VAE"]
    model = entry.build(encoding_dim=64, img_height=24, img_width=24)
    outputs = model(images, *entry.condition(labels))

Code that needs to know a property of a model reads it here.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from Autoencoder import Autoencoder
from common import PROJECT
from generators.classifier import Classifier
from generators.completion import QUADRANTS, build_completion
from generators.diffusion import Diffusion
from generators.gan import GAN
from generators.iwae import build_iwae
from generators.variance import LearnedVariance
from MLPAE_train_script import LOSS_UNIT, MLPAutoencoder
from model import build_model
from VarAutoencoder import VarAutoencoder

IMAGE_SIZE = {"img_height": int, "img_width": int}
LATENT = {"encoding_dim": int, **IMAGE_SIZE}
DIGITS = {"hidden_size": int, "latent_size": int}


class Entry(NamedTuple):
    """The properties of a model."""

    build: Callable  # makes the untrained model from its config
    config: dict[str, type]  # the arguments of `build`
    command: str  # that trains it
    loss_unit: str  # of the loss in the log
    data: str = "flowers"
    suffix: str = ".pth"  # of its checkpoints
    reconstructs: bool = False
    samples: bool = False  # images from random numbers
    classifies: bool = False
    variational: bool = False  # its encoder returns a distribution
    needs_labels: bool = False  # beside the images
    averages: bool = False  # saves the moving average of its weights
    standardises: bool = False  # measures the photographs before the training, by `standardise`

    def condition(self, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """What the model gets beside the images or the latent vectors: (labels,), or ()."""
        return (labels,) if self.needs_labels else ()


FLOWERS = "train_script.py --model {}"
DENSITY = "negative evidence lower bound, nats per image"
AUTOENCODER = {"reconstructs": True, "samples": True}
VAE = {**AUTOENCODER, "variational": True}
GENERATOR = {"samples": True, "averages": True, "standardises": True}
MODELS = {
    "MLPAE": Entry(
        MLPAutoencoder, {"image_size": list}, "MLPAE_train_script.py", LOSS_UNIT, suffix=".pkl", reconstructs=True
    ),
    "AE": Entry(Autoencoder, LATENT, FLOWERS, "mean squared error", **AUTOENCODER),
    "VAE": Entry(VarAutoencoder, LATENT, FLOWERS, "squared errors + KL, sum over 16 images", **VAE),
    "VAE_learned": Entry(LearnedVariance, LATENT, "-m beyond.variance", DENSITY, **VAE),
    "GAN": Entry(GAN, LATENT, FLOWERS, "energy distance", **GENERATOR),
    "DDPM": Entry(
        Diffusion,
        {"class_prior": list, **IMAGE_SIZE},
        FLOWERS,
        "mean squared error of v",
        needs_labels=True,
        **GENERATOR,
    ),
    "Classifier": Entry(
        Classifier,
        {"classes": int, **IMAGE_SIZE},
        FLOWERS,
        "cross-entropy, nats per image",
        classifies=True,
        needs_labels=True,
    ),
}

MNIST = Entry(None, DIGITS, "main.py --model {}", "cross-entropy + {kl}, nats per image", "MNIST", variational=True)
MNIST_AE = MNIST._replace(loss_unit="mean squared error", variational=False)
IWAE = MNIST._replace(
    build=build_iwae,
    config={**DIGITS, "samples": int},
    command="-m beyond.iwae",
    loss_unit="importance-weighted bound of {samples} samples, nats per image",
)
MODELS |= {
    "MNIST_AE": MNIST_AE._replace(build=partial(build_model, "AE"), **AUTOENCODER),
    "MNIST_VAE": MNIST._replace(build=partial(build_model, "VAE"), **AUTOENCODER),
    "MNIST_CVAE": MNIST._replace(build=partial(build_model, "CVAE"), needs_labels=True, **AUTOENCODER),
    "MNIST_IWAE": IWAE,
}
for quadrants in QUADRANTS:
    command = f"-m beyond.completion --model {{}} --given {quadrants}"
    cvae = MNIST._replace(build=partial(build_completion, "CVAE", given=quadrants), command=command.format("CVAE"))
    MODELS[f"MNIST_CVAE_given{quadrants}"] = cvae
    MODELS[f"MNIST_NN_given{quadrants}"] = cvae._replace(
        build=partial(build_completion, "NN", given=quadrants),
        config={"hidden_size": int},
        command=command.format("NN"),
        loss_unit="cross-entropy, nats per image",
        variational=False,
    )


def loss_unit(name: str, settings: dict) -> str:
    """The unit of a model's loss in the log; settings: of its training."""
    beta = settings.get("beta", 1)
    return MODELS[name].loss_unit.format(**settings, kl="KL" if beta == 1 else f"{beta:g} KL")


def checkpoint_file(name: str) -> str:
    """The name of the file of a model's best checkpoint."""
    return f"BestModel_{name}{MODELS[name].suffix}"


def training_command(name: str, output_root: Path = PROJECT) -> str:
    """The command that trains a model below an output root."""
    return f"python {MODELS[name].command.format(name.removeprefix('MNIST_'))}{root_flag(output_root)}"


def root_flag(output_root: Path) -> str:
    """The flag by which a command uses another output root than the project's folder, with a space before it."""
    return "" if output_root == PROJECT else f' --output-root "{output_root}"'
