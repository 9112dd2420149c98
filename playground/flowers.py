"""What the flowers' models make of photographs, and new flowers.

photograph = read_photograph(path)                              # a Pillow image, or UserError: a sentence
reconstruction, error = reconstruct(model, checkpoint, photograph)
"""

import os
from argparse import Namespace

import torch
from PIL import Image

from datasets.flowers import open_photograph, to_array
from datasets.synthetic import make_flowers
from evaluation.models import load_photographs
from evaluation.sampling import between, decode, encode, fit_prior, interpolate, sample_latents, standard_normal
from training import UserError

SIDE = 256  # pixels that an uploaded photograph is kept in
HERE = Namespace(data="auto", data_root=None)  # the photographs in ./flowers
REASONS = {  # of Pillow's exceptions
    "UnidentifiedImageError": "it is not an image that can be read",
    "DecompressionBombError": "it has too many pixels",
}


def read_photograph(path: str) -> Image.Image:
    """A photograph of at most SIDE pixels a side. Raises UserError, a sentence, for what is none."""
    try:
        if not os.path.getsize(path):
            raise UserError("it is empty")
        with Image.open(path) as image:
            if getattr(image, "is_animated", False) and image.format != "MPO":  # a camera's, with a preview
                raise UserError("it is animated, or holds several images")
        photograph = open_photograph(path, SIDE, SIDE)
        return Image.fromarray(to_array(photograph, *fit(photograph.height, photograph.width)).transpose(1, 2, 0))
    except UserError as error:
        reason = str(error)
    except Exception as error:  # a damaged file can make Pillow raise almost anything
        reason = type(error).__name__
    raise UserError(f"This file cannot be used: {REASONS.get(reason, reason if ' ' in reason else 'it is damaged')}.")


def fit(height: int, width: int) -> tuple[int, int]:
    """Height and width, scaled down to at most SIDE pixels."""
    scale = min(1, SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def as_input(photograph: Image.Image, checkpoint: dict) -> torch.Tensor:
    """A photograph at the size that a model was trained on: (1, 3, H, W) in [0, 1]."""
    return torch.tensor(to_array(photograph, *checkpoint["data"]["image_size"]))[None] / 255


def reconstruct(model, checkpoint: dict, photograph: Image.Image) -> tuple[torch.Tensor, float]:
    """(reconstruction (3, H, W), its mean squared error), of any model that reconstructs."""
    image = as_input(photograph, checkpoint)
    with torch.no_grad():
        reconstruction = model.reconstruct(image)
    return reconstruction[0], torch.nn.functional.mse_loss(reconstruction, image).item()


def walk(model, checkpoint: dict, photographs: list[Image.Image], steps: int) -> torch.Tensor:
    """From one photograph to another in equal steps between their latent vectors, the photographs at the ends: (steps +
    2, 3, H, W)."""
    ends = torch.cat([as_input(photograph, checkpoint) for photograph in photographs])
    return between(ends, decode(model, interpolate(encode(model, ends), steps)))


def sample_photographs(checkpoint: dict, count: int) -> tuple[list[Image.Image], str]:
    """(so many photographs, what they are): held-out ones where they are here, else of the procedural stand-in."""
    try:
        images = load_photographs(HERE, checkpoint)[1].images[:count].numpy()
        what = "photographs that the models were not trained on"
    except UserError:
        height, width = checkpoint["data"]["image_size"]
        images, labels = make_flowers(-(-count // 3), height, width)
        images = images[labels.argsort(kind="stable").reshape(3, -1).T.ravel()][:count]
        what = "drawn by formula: the photographs are not in ./flowers"
    return [Image.fromarray(image.transpose(1, 2, 0)) for image in images], what


def fit_to_photographs(model, checkpoint: dict, sampler: str, seed: int):
    """The distribution of latent vectors that a sampler fits to the training photographs, as random_generation.py does.
    Raises UserError where they are not here."""
    if sampler == "normal":
        return standard_normal(model.encoding_dim)
    photographs = load_photographs(HERE, checkpoint)[0]
    return fit_prior(sampler, encode(model, photographs[:][0], seed))


def new_flowers(model, prior, count: int, seed: int, temperature: float) -> torch.Tensor:
    """So many images (count, 3, H, W) of an AE, a VAE or a GAN, as random_generation.py makes them."""
    return decode(model, temperature * sample_latents(prior, count, seed))
