"""What stands on the page about digits: the answers to a drawing, to a number, to a click, as HTML.

digits = Digits(models, output_root)        # models: {name in the table: (model, checkpoint)}, those that are there
html = digits.answer("data:image/png;base64,...", label=None)
"""

from functools import cache, partial
from pathlib import Path
from threading import Lock

import torch

from datasets.mnist import peek_mnist
from datasets.synthetic import make_digits
from evaluation.completion import outline
from evaluation.models import flag_for, name_mnist_model, training_command
from evaluation.playground.digits import HANDS, MOVED, complete, guess_label, hand, kl_of_latents, ten_digits
from evaluation.playground.drawing import as_drawn, normalise, read_drawing
from evaluation.playground.latents import Plane
from evaluation.playground.pictures import commands, group, missing, picture, sentence
from generators.completion import QUADRANTS
from training import PROJECT, UserError

KINDS = ("AE", "VAE", "CVAE")
SHOWN, MEASURED = 2000, 1000  # test digits on the plane, and those that the KL is the mean of
ANSWERS, STEPS, LONGEST = 5, 8, 12  # completions, digits of a walk, digits to order
CVAE = name_mnist_model("CVAE", None)


def read_digits(count: int) -> tuple[torch.Tensor, torch.Tensor, str]:
    """(images (count, 1, 28, 28), labels (count,), what they are) of MNIST's test set in ./mnist, where it is, else of
    the procedural stand-in. Nothing is downloaded."""
    try:
        images, labels = peek_mnist(PROJECT / "mnist" / "MNIST" / "raw", count)
        what = "test digits of MNIST"
    except UserError:
        images, labels = make_digits(count)
        what = "digits bent from printed fonts, because MNIST is not in ./mnist"
    return images / 255, labels, what


class Digits:
    """What MNIST's models answer."""

    def __init__(self, models: dict, output_root: Path):
        self.models, self.root = models, output_root
        self.kinds = [kind for kind in KINDS if name_mnist_model(kind, None) in models]
        self.plane, self.latents = cache(self._plane), cache(self._latents)
        self.test = cache(partial(read_digits, SHOWN))
        self.turn = Lock()  # answers to several people in turn: at once they would wait for each other all the time
        generator = torch.Generator().manual_seed(0)
        self.noise = {  # the same while one draws
            given: torch.randn(ANSWERS, models[name][1]["config"]["latent_size"], generator=generator)
            for given in QUADRANTS
            if (name := name_mnist_model("CVAE", given)) in models
        }

    def model(self, kind: str):
        """The model of that kind."""
        return self.models[name_mnist_model(kind, None)][0]

    def command(self, flags: str) -> str:
        """A command line of main.py."""
        return f"python main.py {flags}{flag_for(self.root)}"

    def answer(self, drawing: str | None, label: int | None) -> str:
        """What the models make of a drawing, a data URL; label: what the CVAE is told, None for its own guess."""
        ink = read_drawing(drawing)
        image = normalise(ink)
        if not image.any():
            return sentence("The answers appear here while you draw.")
        with self.turn:
            return self._answer(ink, image, label)

    def _answer(self, ink, image, label):
        shown = [picture(image[0], "your drawing, centred and scaled like MNIST's digits", "what the models see")]
        with torch.no_grad():
            for kind in self.kinds[:-1] if CVAE in self.models else self.kinds:
                answer = self.model(kind).decode(self.model(kind).encode(image))
                shown.append(self._answer_picture(kind, answer, image))
            ten, absent = "", self.absent()
            if CVAE in self.models:
                label, z, told = self._label(image, label)
                digits = ten_digits(self.model("CVAE"), z)
                shown.append(self._answer_picture(f"CVAE, {told} {label}", digits[label][None], image))
                ten = self._ten(digits)
        redrawn = group("answers", shown, 4, "Redrawn from 20 numbers")
        lines = [self.command(f"--model {kind} --figures-only") for kind in self.kinds]
        below = commands("Test digits redrawn, vis/mnist_*_reconstruction.png:", *lines) if lines else ""
        return redrawn + absent + ten + self._completed(ink) + below

    def absent(self) -> str:
        """Notes on the models that are not there."""
        names = (name_mnist_model(kind, None) for kind in KINDS)
        return "".join(missing(name, self.root) for name in names if name not in self.models)

    def _label(self, image, label):
        guessed, mu = guess_label(self.model("CVAE"), image, self.models[CVAE][1]["settings"]["recon"])
        told = "guessed" if label is None else "told"
        label = guessed if label is None else label
        return label, mu[label], told

    def _answer_picture(self, name, answer, image):
        error = (answer - image).square().mean().item()
        return picture(answer[0], f"the drawing, redrawn by the {name}", f"{name}: error {error:.3f}")

    def _ten(self, digits):
        shown = [picture(digit, f"the digit {number} in your handwriting") for number, digit in enumerate(digits)]
        line = self.command("--model CVAE --figures-only --labels 0 1 2 3 4 5 6 7 8 9")
        below = commands(f"The same digits in {HANDS} random hands, vis/mnist_CVAE_labels.png:", line)
        return group("ten-digits", shown, 10, "Ten digits in this handwriting") + below

    def _completed(self, ink):
        """The rest of a half-drawn digit."""
        if not self.noise:
            line = training_command(name_mnist_model("CVAE", 2), self.root)
            return commands("A model that completes half-drawn digits is not there. This command trains one:", line)
        image, parts = as_drawn(ink), []
        for given, noise in self.noise.items():
            rest = complete(self.models[name_mnist_model("CVAE", given)][0], image, noise)
            shown = [picture(outline(image, given)[0], f"{QUADRANTS[given]} of your drawing", "given")]
            shown += [picture(digit, f"completion {number}") for number, digit in enumerate(rest, start=1)]
            title = f"Given {QUADRANTS[given]} of the square: the rest, {ANSWERS} times"
            parts.append(group(f"completed-{given}", shown, 6, title))
            parts.append(commands("For test digits:", self.command(f"--model CVAE --given {given} --figures-only")))
        return "".join(parts)

    def _latents(self) -> list[tuple[int, float]]:
        """(dimension, KL in nats) of the CVAE's latents that carry most of the KL of test digits, sorted."""
        images, labels, _ = self.test()
        kl = kl_of_latents(self.model("CVAE"), images[:MEASURED], labels[:MEASURED])
        return [(int(dim), kl[dim].item()) for dim in kl.argsort(descending=True)[:MOVED]]

    def values(self, number: int) -> list[float]:
        """What a hand has in `latents`."""
        z = hand(self.model("CVAE"), number)
        return [round(z[dim].item(), 2) for dim, _ in self.latents()]

    def write(self, text: str, number: int, values) -> str:
        """Digits in a hand, with other values in `latents`. Raises UserError for what is no number."""
        digits = str(text or "").strip()
        if not (digits.isascii() and digits.isdigit() and len(digits) <= LONGEST):
            raise UserError(f"Type 1 to {LONGEST} digits, for example 2026.")
        z, moved = hand(self.model("CVAE"), number), False
        for (dim, _), value, own in zip(self.latents(), values, self.values(number), strict=True):
            if value != own:
                z[dim], moved = value, True
        labels = torch.tensor([int(digit) for digit in digits])
        images = self.model("CVAE").decode(z.expand(len(labels), -1), labels)
        shown = [picture(image, f"the digit {digit}") for image, digit in zip(images, digits, strict=True)]
        seed = f" --seed {number // HANDS}" if number >= HANDS else ""
        line = self.command(f"--model CVAE --figures-only --labels {' '.join(digits)}{seed}")
        lead = f"Row {number % HANDS + 1} of vis/mnist_CVAE_labels.png{', before the sliders moved' if moved else ''}:"
        return group(f"digits-{digits}", shown, len(digits)) + commands(lead, line)

    def _plane(self, kind):
        return Plane(self.model(kind), *self.test()[:2])

    def pick(self, kind: str, place) -> str:
        """The digit at a place (x, y) of the plane."""
        plane = self.plane(kind)
        digit, label = plane.decode(*place)
        nearest = plane.nearest(*place)
        told = f", told {label}" if self.model(kind).has_label else ""
        shown = [picture(digit, "the digit decoded at the place clicked on", f"decoded here{told}")]
        shown.append(
            picture(
                plane.images[nearest], f"the test digit of the nearest point, a {label}", f"nearest point: a {label}"
            )
        )
        return group("decoded", shown, 2) + self._latent_command(kind)

    def walk(self, kind: str, places) -> str:
        """From the test digit nearest to one place of the plane to that nearest to another."""
        plane = self.plane(kind)
        ends = [plane.nearest(*place) for place in places]
        images, labels = plane.walk(*ends, STEPS), [plane.labels[end].item() for end in ends]
        alts = [f"test digit, a {labels[0]}", *(f"step {n + 1}" for n in range(STEPS)), f"test digit, a {labels[1]}"]
        shown = [picture(image, alt) for image, alt in zip(images, alts, strict=True)]
        title = f"From a {labels[0]} to a {labels[1]}"
        return group("walk", shown, STEPS + 2, title, fixed=True) + self._latent_command(kind)

    def _latent_command(self, kind):
        line = self.command(f"--model {kind} --figures-only")
        return commands(f"All test digits, vis/mnist_{kind}_latent.png:", line)
