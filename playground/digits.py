"""Answers of MNIST's models, as HTML: to a drawing, to a number, to a click on the latent space.

digits = Digits(models, output_root)        # models: {name in the registry: (model, checkpoint)}, those that are there
html = digits.answer("data:image/png;base64,...", label=None)
"""

from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch.distributions import Normal, kl_divergence

from beyond.completion import GREY, sample_completions
from beyond.digits import STYLES
from common import PROJECT, UserError
from datasets.mnist import find_files, read_mnist
from datasets.synthetic import make_digits
from generators.completion import QUADRANTS, given_pixels
from main import Losses, random_latents
from model import CLASSES
from playground.drawing import in_place, normalise, read_drawing
from playground.pictures import commands, group, picture, sentence
from playground.plane import Plane
from trained.registry import root_flag, training_command
from trained.sampling import decode, encode

AUTOENCODERS = ("MNIST_VAE", "MNIST_CVAE", "MNIST_AE")
CVAE = "MNIST_CVAE"
COMPLETERS = {quadrants: f"MNIST_CVAE_given{quadrants}" for quadrants in QUADRANTS}
POINTS = 2000  # test digits on the plane
MEASURED = 1000  # test digits over which the KL of a latent is averaged
SLIDERS = 6  # latents with a slider
COMPLETIONS = 5  # of a half-drawn digit
STEPS = 8  # digits of an interpolation
LONGEST = 12  # digits to order


@torch.no_grad()
def guess_label(cvae, image: torch.Tensor) -> tuple[int, torch.Tensor]:
    """(the label with the highest evidence lower bound, the mean of q(z|x, y) for each label (10, D)) of an image
    (1, 1, 28, 28). The reconstruction is that of the mean."""
    labels = torch.arange(CLASSES)
    images = image.expand(CLASSES, -1, -1, -1)
    mu, sigma = cvae.encoder(images, labels)
    recon = Losses().reconstruction(cvae.decode(mu, labels), images)
    kl = kl_divergence(Normal(mu, sigma), Normal(0.0, 1.0)).sum(dim=1)
    return int((recon + kl).argmin()), mu


@torch.no_grad()
def kl_of_latents(cvae, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The KL of each latent dimension, the mean over images (N, 1, 28, 28) in nats: (D,)."""
    return kl_divergence(Normal(*cvae.encoder(images, labels)), Normal(0.0, 1.0)).mean(dim=0)


class Digits:
    """The answers of those of MNIST's models that are there."""

    def __init__(self, models: dict, output_root: Path):
        self.models = models
        self.root = output_root
        self.names = [name for name in AUTOENCODERS if name in models]

    def command(self, name: str, flags: str = "") -> str:
        """The command that plots an autoencoder's pictures."""
        return f"python -m beyond.digits --model {name.removeprefix('MNIST_')}{flags}{root_flag(self.root)}"

    # ------------------------------------------------------------ draw a digit

    def answer(self, drawing: str, label: int | None) -> str:
        """The answers to a drawing, a data URL; label: for the CVAE, None for its own guess."""
        try:
            ink = read_drawing(drawing)
        except UserError as error:
            return sentence(str(error))
        image = normalise(ink)
        if not image.any():
            return sentence("The answers appear here while you draw.")
        pictures = [picture(image[0], "your drawing, centred and scaled like MNIST's digits", "what the models see")]
        ten = ""
        for name in self.names:
            model = self.models[name][0]
            if name == CVAE:
                guess, codes = guess_label(model, image)
                number = guess if label is None else label
                caption = f"CVAE, guess {number}" if label is None else f"CVAE, label {number}"
                digits = decode(model, codes[number].expand(CLASSES, -1), torch.arange(CLASSES))
                ten = self.ten_digits(digits)
                digit = digits[number : number + 1]
            else:
                caption = name.removeprefix("MNIST_")
                digit = decode(model, encode(model, image))
            error = (digit - image).square().mean().item()
            pictures.append(
                picture(digit[0], f"the drawing, redrawn by the {caption}", f"{caption}: error {error:.3f}")
            )
        lines = map(self.command, self.names)
        below = commands("Test digits redrawn, vis/mnist_*_reconstruction.png:", *lines)
        return group("answers", pictures, 4, "Redrawn from 20 numbers") + ten + self.completions(ink) + below

    def ten_digits(self, digits: torch.Tensor) -> str:
        """The ten digits (10, 1, 28, 28) in the style of a drawing."""
        pictures = [picture(digit, f"the digit {number} in your handwriting") for number, digit in enumerate(digits)]
        line = self.command(CVAE, " --labels 0 1 2 3 4 5 6 7 8 9")
        below = commands(f"The same digits in {STYLES} random styles, vis/mnist_CVAE_labels.png:", line)
        return group("ten-digits", pictures, CLASSES, "Ten digits in this handwriting") + below

    @torch.no_grad()
    def completions(self, ink: np.ndarray) -> str:
        """A half-drawn digit, completed by the models that are there, with the same latent vectors for each drawing."""
        image = in_place(ink)
        html = ""
        for quadrants, name in COMPLETERS.items():
            if name in self.models:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(0)
                    digits = sample_completions(self.models[name][0], image, COMPLETIONS)[:, 0]
                known = image[0].masked_fill(~given_pixels(quadrants), GREY)
                pictures = [picture(known, f"{QUADRANTS[quadrants]} of your drawing", "the known part")]
                pictures += [picture(digit, f"completion {number}") for number, digit in enumerate(digits, 1)]
                title = f"Completed from {QUADRANTS[quadrants]}, {COMPLETIONS} times"
                html += group(f"completed-{quadrants}", pictures, 1 + COMPLETIONS, title)
        line = training_command(COMPLETERS[2], self.root)
        return html or commands("No model that completes half-drawn digits is there. This command trains one:", line)

    # ------------------------------------------------------------ digits to order

    @cached_property
    def sliders(self) -> list[tuple[int, float]]:
        """(dimension, KL in nats) of the CVAE's latents that carry most of the KL of test digits, in falling order."""
        images, labels, _ = self.test_digits
        kl = kl_of_latents(self.models[CVAE][0], images[:MEASURED], labels[:MEASURED])
        values, dims = kl.topk(min(SLIDERS, len(kl)))
        return list(zip(dims.tolist(), values.tolist(), strict=True))

    def style(self, number: int) -> torch.Tensor:
        """The latent vector (D,) of a handwriting: row number % STYLES of what `python -m beyond.digits --labels` draws
        with the seed number // STYLES."""
        return random_latents(self.models[CVAE][1], number // STYLES)[number % STYLES]

    def slider_values(self, number: int) -> list[float]:
        """The values of the sliders that stand for a style."""
        z = self.style(number)
        return [round(z[dim].item(), 2) for dim, _ in self.sliders]

    def write(self, text: str, number: int, values) -> str:
        """Digits in a style, with the values of the sliders."""
        digits = text.strip()
        if not (digits.isascii() and digits.isdigit() and len(digits) <= LONGEST):
            return sentence(f"Type 1 to {LONGEST} digits, for example 2026.")
        z = self.style(number)
        for (dim, _), value in zip(self.sliders, values, strict=True):
            z[dim] = value
        labels = torch.tensor([int(digit) for digit in digits])
        images = decode(self.models[CVAE][0], z.expand(len(labels), -1), labels)
        pictures = [picture(image, f"the digit {digit}") for image, digit in zip(images, digits, strict=True)]
        line = self.command(CVAE, f" --labels {' '.join(digits)} --seed {number // STYLES}")
        moved = "" if list(values) == self.slider_values(number) else ", before the sliders moved"
        lead = f"Row {number % STYLES + 1} of vis/mnist_CVAE_labels.png{moved}:"
        return group(f"digits-{digits}", pictures, len(digits)) + commands(lead, line)

    # ------------------------------------------------------------ the latent space

    @cached_property
    def test_digits(self) -> tuple[torch.Tensor, torch.Tensor, str]:
        """(images (POINTS, 1, 28, 28), labels (POINTS,), their source) of MNIST's test set where it is in ./mnist, else
        of the procedural stand-in. Nothing is downloaded. Raises UserError where the files are damaged."""
        files = find_files(PROJECT / "mnist")
        if files:
            images, labels = read_mnist(files, "t10k")
            source = "test digits of MNIST"
        else:
            images, labels = make_digits(POINTS)
            source = "digits bent from printed fonts, because MNIST is not in ./mnist"
        return images[:POINTS] / 255, labels[:POINTS], source

    @cached_property
    def planes(self) -> dict[str, Plane]:
        """The latent space of each autoencoder."""
        images, labels, _ = self.test_digits
        return {name: Plane(name, self.models[name][0], images, labels) for name in self.names}

    def decode(self, name: str, place) -> str:
        """The digit at a place (x, y) of the plane."""
        plane = self.planes[name]
        digit, label = plane.decode(*place)
        nearest = plane.images[plane.nearest(*place)]
        caption = f"decoded here, label {label}" if name == CVAE else "decoded here"
        pictures = [
            picture(digit, "the digit decoded at the place clicked on", caption),
            picture(nearest, f"the test digit of the nearest point, a {label}", f"nearest point: a {label}"),
        ]
        return group("decoded", pictures, 2) + self.latent_command(name)

    def interpolate(self, name: str, places) -> str:
        """From the test digit nearest to one place of the plane to the one nearest to another."""
        plane = self.planes[name]
        start, end = (plane.nearest(*place) for place in places)
        first, last = plane.labels[[start, end]].tolist()
        steps = [f"step {step}" for step in range(1, STEPS + 1)]
        alts = [f"test digit, a {first}", *steps, f"test digit, a {last}"]
        images = plane.interpolate(start, end, STEPS)
        pictures = [picture(image, alt) for image, alt in zip(images, alts, strict=True)]
        return group("interpolation", pictures, len(alts), f"From a {first} to a {last}") + self.latent_command(name)

    def latent_command(self, name: str) -> str:
        """The command that plots the latent space."""
        file = f"vis/mnist_{name.removeprefix('MNIST_')}_latent.png"
        return commands(f"All test digits, {file}:", self.command(name))
