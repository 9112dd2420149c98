"""Answers of the flowers' models, as HTML: reconstructions of photographs, interpolations between them, new flowers.

flowers = Flowers(models, output_root)      # models: {name in the registry: (model, checkpoint)}, those that are there
html = flowers.answer([photograph, another])
for html in flowers.sample(Request("DDPM", label="calendula", guidance=2.0, seed=1)):   # one page per step
"""

from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch.nn.functional import mse_loss

from beyond.priors import fit_prior, sample_latents, sample_posterior
from common import UserError
from datasets.flowers import open_photograph, to_array
from datasets.synthetic import make_flowers
from playground.pictures import commands, group, picture
from trained.loading import load_photographs
from trained.registry import MODELS, root_flag
from trained.sampling import add_endpoints, check_finite, decode, encode, interpolate, noise_and_labels, normal_latents

AUTOENCODERS = ("MLPAE", "AE", "VAE")
INTERPOLATORS = ("AE", "VAE")
CONTROLS = {  # of the models that sample: the fields of a request that count
    "AE": {"sampler", "temperature"},
    "VAE": {"sampler", "temperature"},
    "GAN": {"temperature"},
    "DDPM": {"label", "guidance"},
}
OFFERED = 12  # photographs to choose from
STEPS = 6  # images of an interpolation
COUNT = 12  # new images
ORDINALS = ("first", "second")
SIDE = 240  # pixels of an uploaded photograph


class Request(NamedTuple):
    """New flowers to sample; the names are those of the scripts' flags, and CONTROLS says which a model has."""

    model: str
    label: str | None = None
    sampler: str = "normal"
    temperature: float = 1.0
    guidance: float = 1.0
    seed: int = 0


def read_photograph(path: str) -> Image.Image:
    """An uploaded photograph, at SIDE x SIDE pixels. Raises UserError for what is none."""
    try:
        pixels = to_array(open_photograph(path, SIDE, SIDE), SIDE, SIDE)
    except UserError as error:  # a sentence, or the name of an exception of Pillow's
        reason = str(error) if " " in str(error) else "it is damaged, or not a photograph"
        raise UserError(f"This file cannot be used: {reason}.") from None
    return Image.fromarray(pixels.transpose(1, 2, 0))


def as_input(photograph: Image.Image, checkpoint: dict) -> torch.Tensor:
    """A photograph at the size that a model was trained on: (1, 3, H, W) in [0, 1]."""
    return torch.tensor(to_array(photograph, *checkpoint["data"]["image_size"]))[None] / 255


class Flowers:
    """The answers of those of the flowers' models that are there."""

    def __init__(self, models: dict, output_root: Path):
        self.models = models
        self.root = output_root
        self.autoencoders = [name for name in AUTOENCODERS if name in models]
        self.generators = [name for name in CONTROLS if name in models]
        self.sample_latents = lru_cache(maxsize=8)(self._sample_latents)

    # ------------------------------------------------------------ photographs

    @cached_property
    def offered(self) -> tuple[list[Image.Image], str]:
        """(photographs to choose from, their source): held-out ones where they are in ./flowers, else the stand-in."""
        checkpoint = self.models[self.autoencoders[0]][1]
        try:
            images = load_photographs(checkpoint)[1].images[:OFFERED].numpy()
            source = "photographs that the models were not trained on"
        except UserError:
            images, _ = make_flowers(OFFERED // 3, *checkpoint["data"]["image_size"])
            source = "drawn by formula: the photographs are not in ./flowers"
        return [Image.fromarray(image.transpose(1, 2, 0)) for image in images], source

    @torch.no_grad()
    def answer(self, photographs: list[Image.Image]) -> str:
        """Two photographs, redrawn by each autoencoder, and the interpolations between them."""
        pictures = []
        for ordinal, photograph in zip(ORDINALS, photographs, strict=True):
            original = as_input(photograph, self.models[self.autoencoders[0]][1])
            pictures.append(picture(original[0], f"the {ordinal} photograph, as the models see it", ordinal))
            for name in self.autoencoders:
                model, checkpoint = self.models[name]
                image = as_input(photograph, checkpoint)
                redrawn = model.reconstruct(image)
                caption = f"{name}: {mse_loss(redrawn, image).item():.4f}"
                pictures.append(picture(redrawn[0], f"the {ordinal} photograph, redrawn by the {name}", caption))
        title = "Redrawn from 64 numbers, with the mean squared error"
        lines = [f"python visualization.py --model {name}{root_flag(self.root)}" for name in self.autoencoders]
        below = commands("The photographs in ./flowers, or in a folder named by --data-root, redrawn:", *lines)
        html = group("flowers", pictures, 1 + len(self.autoencoders), title) + below
        return html + self.interpolations(photographs)

    def interpolations(self, photographs: list[Image.Image]) -> str:
        """Rows from one photograph to the other in equal steps between their latent vectors."""
        names = [name for name in INTERPOLATORS if name in self.models]
        pictures = []
        for name in names:
            model, checkpoint = self.models[name]
            ends = torch.cat([as_input(photograph, checkpoint) for photograph in photographs])
            images = add_endpoints(ends, decode(model, interpolate(encode(model, ends), STEPS)))
            steps = [f"{name}, step {step}" for step in range(1, STEPS + 1)]
            alts = ["the first photograph", *steps, "the second photograph"]
            pictures += [picture(image, alt) for image, alt in zip(images, alts, strict=True)]
        if not names:
            return ""
        title = f"From the first to the second: {' above '.join(names)}"
        lines = [f"python -m beyond.priors --model {name} --interpolate{root_flag(self.root)}" for name in names]
        return group("interpolation", pictures, STEPS + 2, title) + commands("Between held-out photographs:", *lines)

    # ------------------------------------------------------------ new flowers

    @property
    def species(self) -> list[str]:
        """The species that the DDPM was trained on."""
        return self.models["DDPM"][1]["data"]["classes"] if "DDPM" in self.models else []

    def _sample_latents(self, name: str, sampler: str, seed: int) -> torch.Tensor:
        """Latent vectors (COUNT, D). Raises UserError where a sampler is to be fitted and there are no photographs."""
        model, checkpoint = self.models[name]
        if sampler == "normal":
            return normal_latents(model.encoding_dim, COUNT, seed)
        images = load_photographs(checkpoint)[0][:][0]
        codes = sample_posterior(model, images, seed) if MODELS[name].variational else encode(model, images)
        return sample_latents(fit_prior(sampler, codes), COUNT, seed)

    def sample(self, request: Request) -> Iterator[str]:
        """New flowers; those of the DDPM after each of its steps. Raises UserError."""
        name = request.model
        model = self.models[name][0]
        below = commands("These flowers:", self.command(request))
        if name == "DDPM":
            label = self.species.index(request.label) if request.label else None
            noise, labels = noise_and_labels(model, COUNT, request.seed, label)
            for step, (_, images) in enumerate(model.denoise(noise, labels, guidance=request.guidance), 1):
                title = f"Step {step}: what the noise is predicted to become"
                yield self.new_flowers(request, check_finite([images]), title) + below
        else:
            latents = self.sample_latents(name, request.sampler, request.seed)
            yield self.new_flowers(request, decode(model, request.temperature * latents)) + below

    def new_flowers(self, request: Request, images: torch.Tensor, title: str = "") -> str:
        """Images (COUNT, 3, H, W) as a group."""
        alt = "new flower {} of the {}"
        pictures = [picture(image, alt.format(number, request.model)) for number, image in enumerate(images, 1)]
        return group(f"flowers-{request.model}-{request.seed}", pictures, 6, title)

    def command(self, request: Request) -> str:
        """The command that makes the pictures of a request."""
        script = "random_generation.py" if request.sampler == "normal" else "-m beyond.priors"
        flags = ""
        for name, default in request._field_defaults.items():
            if getattr(request, name) != default:
                flags += f" --{name} {getattr(request, name)}"
        return f"python {script} --model {request.model} --n {COUNT}{flags}{root_flag(self.root)}"
