"""What stands on the page about flowers: reconstructions of photographs, walks between them, and new ones, as HTML.

flowers = Flowers(models, output_root)      # models: {name in the table: (model, checkpoint)}, those that are there
html = flowers.answer([photograph, another])
for html in flowers.sample(Request("DDPM", "calendula", guidance=2.0, seed=1)):     # a step each
"""

from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from evaluation.models import RECONSTRUCTS, SAMPLES, TABLE, flag_for
from evaluation.playground.flowers import (
    as_input,
    fit_to_photographs,
    new_flowers,
    reconstruct,
    sample_photographs,
    walk,
)
from evaluation.playground.pictures import commands, group, missing, picture
from evaluation.sampling import denoise_diffusion

OFFERED, STEPS, COUNT = 12, 6, 12  # photographs to pick from, images of a walk, new images
ORDINALS = ("first", "second")


class Request(NamedTuple):
    """New flowers to sample; which of the flags count depends on the model (`Flowers.flags_of`)."""

    model: str
    label: str | None = None
    sampler: str = "normal"
    temperature: float = 1.0
    guidance: float = 1.0
    seed: int = 0


class Flowers:
    """What the flowers' models answer."""

    def __init__(self, models: dict, output_root: Path):
        self.models, self.root = models, output_root
        self.offered, self.prior = cache(self._offered), lru_cache(maxsize=8)(self._prior)

    def named(self, *roles: str) -> list[str]:
        """The names in the table of the flowers' models that have these roles, whether they are there or not."""
        return [name for name, entry in TABLE.items() if entry.data == "flowers" and {*roles} <= {*entry.roles}]

    def there(self, *roles: str) -> list[str]:
        """The same of those that are there."""
        return [name for name in self.named(*roles) if name in self.models]

    def absent(self, *roles: str) -> str:
        """Notes on those that are not there."""
        return "".join(missing(name, self.root) for name in self.named(*roles) if name not in self.models)

    def _offered(self) -> tuple[list[Image.Image], str]:
        """(photographs to pick from, what they are)."""
        return sample_photographs(self.models[self.there(RECONSTRUCTS)[0]][1], OFFERED)

    def answer(self, photographs: list[Image.Image]) -> str:
        """What the models make of two photographs, and the way from the one to the other."""
        shown, names = [], self.there(RECONSTRUCTS)
        for ordinal, photograph in zip(ORDINALS, photographs, strict=True):
            original = as_input(photograph, self.models[names[0]][1])[0]
            shown.append(picture(original, f"the {ordinal} photograph, as the models see it", ordinal))
            for name in names:
                image, error = reconstruct(*self.models[name], photograph)
                shown.append(picture(image, f"the {ordinal} photograph, redrawn by the {name}", f"{name}: {error:.4f}"))
        title = "Redrawn from 64 numbers, with the mean squared error"
        lines = [f"python visualization.py --model {name}{flag_for(self.root)}" for name in names]
        below = commands("The photographs in ./flowers, or in a folder named by --data-root, redrawn:", *lines)
        return group("flowers", shown, 1 + len(names), title) + below + self._walk(photographs)

    def _walk(self, photographs):
        shown, names = [], self.there(RECONSTRUCTS, SAMPLES)
        for name in names:
            images = walk(*self.models[name], photographs, STEPS)
            alts = ["the first photograph", *(f"{name}, step {n + 1}" for n in range(STEPS)), "the second photograph"]
            shown += [picture(image, alt) for image, alt in zip(images, alts, strict=True)]
        title = f"From the one to the other: {' above '.join(names)}"
        lines = [f"python random_generation.py --model {name} --interpolate{flag_for(self.root)}" for name in names]
        below = commands("Between held-out photographs:", *lines)
        return group("walk", shown, STEPS + 2, title, fixed=True) + below if names else ""

    def flags_of(self, name: str) -> set[str]:
        """The fields of a request that count for a model."""
        if "encoding_dim" not in TABLE[name].config:
            return {"label", "guidance"}
        return {"temperature", "sampler"} if RECONSTRUCTS in TABLE[name].roles else {"temperature"}

    def species(self, name: str) -> list[str]:
        """The species that a model was trained on."""
        return self.models[name][1]["data"]["classes"]

    def _prior(self, name, sampler, seed):
        model, checkpoint = self.models[name]
        return fit_to_photographs(model, checkpoint, sampler, seed)

    def sample(self, request: Request) -> Iterator[str]:
        """New flowers; those of a diffusion model after each of its steps, with their number."""
        model, below = self.models[request.model][0], commands("These flowers:", self.command(request))
        name = f"flowers-{request.model}-{request.seed}"
        if "temperature" in self.flags_of(request.model):
            prior = self.prior(request.model, request.sampler, request.seed)
            images = new_flowers(model, prior, COUNT, request.seed, request.temperature)
            yield group(name, self._pictures(images, request.model), 6) + below
            return
        label = self.species(request.model).index(request.label) if request.label else None
        steps = denoise_diffusion(model, COUNT, request.seed, label, request.guidance)
        for step, images in enumerate(steps, start=1):
            shown = self._pictures(images, f"{request.model}, step {step}")
            yield group(name, shown, 6, f"Step {step}: what the noise is predicted to become") + below

    def _pictures(self, images, by):
        return [picture(image, f"new flower {number} of the {by}") for number, image in enumerate(images, start=1)]

    def command(self, request: Request) -> str:
        """The command line that makes the pictures of a request."""
        wanted, default = self.flags_of(request.model), Request(request.model)
        fields = [name for name in request._fields if name in {*wanted, "seed"}]
        given = {name: getattr(request, name) for name in fields if getattr(request, name) != getattr(default, name)}
        values = {name: f"{value:g}" if isinstance(value, float) else value for name, value in given.items()}
        flags = "".join(f" --{name} {value}" for name, value in values.items())
        return f"python random_generation.py --model {request.model} --n {COUNT}{flags}{flag_for(self.root)}"
