"""Flowers: how good the images of the trained models are, measured against photographs that no model was trained on.

    python -m beyond.score > ./log/score.txt        # AE, VAE, GAN and DDPM: 13 minutes
    python -m beyond.score --model GAN --seed 10

Can a classifier distinguish samples from held-out photographs, at what distance are they, are the species as frequent,
are any of them copies? (beyond/measures.py) Writes vis/nearest_<M>.png and, of all models, vis/scores.png and
vis/generation_comparison.png. Needs the photographs and the trained Classifier, which reads the species.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn.functional import interpolate

from beyond.figures import plot_nearest, plot_scores
from beyond.measures import (
    TAIL,
    ImageFeatures,
    count_copies,
    kernel_distance,
    species_p,
    tail_share,
    trained_accuracy,
    two_sample_accuracy,
    view_distances,
)
from beyond.priors import fit_mixture, sample_latents
from common import UserError
from common.figures import plot_samples
from common.flags import add_data_flags, make_parser, natural_int
from common.process import log, run_script
from generators.diffusion import Diffusion
from random_generation import GENERATORS
from trained.loading import load_model, load_photographs, name_model
from trained.registry import MODELS
from trained.sampling import BATCH, decode, encode, normal_latents, sample_diffusion

SCORED = ("AE", "VAE", "GAN", "DDPM")  # without --model
SEEDS = 3  # sets of samples of each model, each of as many as there are held-out photographs
MORE_SEEDS = 2  # further sets: on all but the first one together another classifier is trained
DRAWS = 20  # of photographs, scored against held-out ones: what chance does
SHOWN = 10  # samples of each model in the comparison
SHOWN_NEAREST = 16  # samples beside the nearest training photographs
PHOTOGRAPHS = "training photographs"  # scored beside the models: the best that there can be
LEGEND = (
    f"Of {SEEDS} sets of samples, each of as many as there are held-out images, the means (or each):",
    "accuracy: a classifier trained on half of both distinguishes them from held-out images, 50% at best",
    "of thousands: another one, trained on four times as many images; the more, the more differences it sees",
    "species p: of the hypothesis that each species is as frequent among them as among held-out images",
    f"near training images: the share that is nearer to one than the nearest {TAIL:.0%} of held-out images are",
    "copies: training : held-out images that a sample is much nearer to than to all others",
)
SCORE_LINE = re.compile(
    r"(?P<name>.+): accuracy (?P<accuracy>\S+ ± \S+) \(.+?\), of thousands (?P<thousands>\S+ ± \S+),"
    r" kernel distance (?P<distance>\S+ ± \S+),"
    r" species p = (?P<species>[^;]+)(?:; near training images (?P<near>.+); copies (?P<copies>.+))?"
)


class Score(NamedTuple):
    """Of one set of samples: values with their standard errors, and p-values."""

    accuracy: tuple[float, float]
    distance: tuple[float, float]
    species_p: float
    near: tuple[float, float] | None = None  # (share, p)
    copies: tuple[int, int, float] | None = None  # (of training photographs, of held-out ones, p)


class Judge:
    """Compares images with the held-out photographs of one size; training and held_out: (N, 3, H, W) and (K, 3, H, W).

    Raises UserError for fewer than four held-out photographs.
    """

    def __init__(self, training: torch.Tensor, held_out: torch.Tensor, classifier):
        if len(held_out) < 4:
            raise UserError(f"expected 4 or more held-out photographs to compare with, found {len(held_out)}")
        self.training = training
        self.held_out = held_out
        self.size = f"{held_out.shape[2]}x{held_out.shape[3]}"
        self.classifier = classifier
        self.features = ImageFeatures(training)
        self.training_features = self.features(training)
        self.held_out_features = self.features(held_out)
        self.held_out_species = read_species(classifier, held_out)
        self.held_out_distances = view_distances(held_out, training).amin(dim=1)

    def score(self, images: torch.Tensor) -> Score:
        """The quality of images (M, 3, H, W)."""
        features = self.features(images)
        return Score(
            two_sample_accuracy(features, self.held_out_features),
            kernel_distance(features, self.held_out_features),
            species_p(read_species(self.classifier, images), self.held_out_species),
        )

    def find_distances(self, images: torch.Tensor) -> torch.Tensor:
        """Distances (M, N + K) from images (M, 3, H, W) to the training and the held-out photographs."""
        return view_distances(images, torch.cat([self.training, self.held_out]))

    def score_samples(self, images: torch.Tensor, distances: torch.Tensor) -> Score:
        """The quality of images (M, 3, H, W) of a model, and whether they are copies of training photographs."""
        near = tail_share(distances[:, : len(self.training)].amin(dim=1), self.held_out_distances)
        copies = count_copies(distances, len(self.training))
        return self.score(images)._replace(near=near, copies=copies)

    def score_thousands(self, images: torch.Tensor, more: torch.Tensor) -> tuple[float, float]:
        """(accuracy, error) on images (M, 3, H, W) and held-out photographs of a classifier that was trained on further
        samples (N, 3, H, W) and the training photographs."""
        others = (self.features(more), self.training_features)
        return trained_accuracy(*others, self.features(images), self.held_out_features)

    def score_photographs_thousands(self) -> tuple[float, float]:
        """The same for training photographs in place of samples: a third of them as images, the others in halves."""
        images, more, others = self.training_features.chunk(3)
        return trained_accuracy(more, others, images, self.held_out_features)

    def draw_photographs(self, seed: int) -> torch.Tensor:
        """Random training photographs, as many as there are held-out ones."""
        order = torch.randperm(len(self.training), generator=torch.Generator().manual_seed(seed))
        return self.training[order[: len(self.held_out)]]


def measure_chance(judge: Judge, first_seed: int) -> list[float]:
    """Log and return the accuracies with which the classifier distinguishes training photographs from held-out ones."""
    draws = [judge.features(judge.draw_photographs(first_seed + draw)) for draw in range(DRAWS)]
    accuracies = [two_sample_accuracy(features, judge.held_out_features)[0] for features in draws]
    log(f"Data: {len(judge.training)} training and {len(judge.held_out)} held-out images of {judge.size}")
    log(f"Chance: accuracy {min(accuracies):.1%} to {max(accuracies):.1%} for {DRAWS} draws of training images")
    return accuracies


@torch.no_grad()
def read_species(classifier, images: torch.Tensor) -> torch.Tensor:
    """The most likely species of images (N, 3, H, W), in the size that the classifier knows: (N,)."""
    images = interpolate(images, classifier.image_size, mode="area")
    return torch.cat([classifier.species(classifier.features(batch)).argmax(dim=1) for batch in images.split(BATCH)])


def find_judges(names: list[str], root: Path, data: str, data_root) -> list[tuple[Judge, dict[str, Callable]]]:
    """For each image size of these models: (a judge, their samplers). Raises UserError where a model is missing, or was
    trained on other photographs."""
    classifier, scored = load_model("Classifier", root)
    load_photographs(scored, data, data_root)
    log(f"Species: {name_model(scored)}, right on {scored['valid_accuracy']:.1%} of its held-out images")
    judges = {}
    for name in names:
        model, checkpoint = load_model(name, root)
        if checkpoint["data"]["split_seed"] != scored["data"]["split_seed"]:
            raise UserError(f"{name} and Classifier were trained on different images: train one of them again")
        training, held_out = load_photographs(checkpoint, data, data_root)
        size = tuple(checkpoint["data"]["image_size"])
        if size not in judges:
            judges[size] = Judge(training[:][0], held_out[:][0], classifier), {}
        judge, samplers = judges[size]
        samplers |= make_samplers(name, model, judge.training, len(judge.held_out))
    return [judges[size] for size in sorted(judges)]


def make_samplers(name: str, model, training: torch.Tensor, count: int) -> dict[str, Callable]:
    """{name: sample(seed) -> images (count, 3, H, W)} of a model; of an AE also with a fitted prior."""
    if isinstance(model, Diffusion):
        return {name: lambda seed: sample_diffusion(model, count, seed)}
    samplers = {name: lambda seed: decode(model, normal_latents(model.encoding_dim, count, seed))}
    if MODELS[name].reconstructs and not MODELS[name].variational:  # an AE's codes are not those of N(0, I)
        prior = fit_mixture(encode(model, training))
        samplers[f"{name}, fitted mixture"] = lambda seed: decode(model, sample_latents(prior, count, seed))
    return samplers


def score_line(name: str, scores: list[Score], thousands: tuple[float, float]) -> str:
    """The log's line of a model, with a score for each seed and the accuracy (and its error) of a classifier trained on
    thousands of images; SCORE_LINE matches it."""
    accuracies = [score.accuracy for score in scores]
    each = ", ".join(f"{accuracy:.1%}" for accuracy, _ in accuracies)
    species = ", ".join(f"{score.species_p:.2g}" for score in scores)
    line = f"{name}: accuracy {mean_and_error(accuracies, '.1%')} ({each}),"
    line += f" of thousands {mean_and_error([thousands], '.1%')},"
    line += f" kernel distance {mean_and_error([score.distance for score in scores])}, species p = {species}"
    if scores[0].near:
        near = ", ".join(f"{share:.1%} (p = {p:.2g})" for share, p in (score.near for score in scores))
        counts = [score.copies for score in scores]
        copies = ", ".join(f"{of_training}:{of_held_out} (p = {p:.2g})" for of_training, of_held_out, p in counts)
        line += f"; near training images {near}; copies {copies}"
    return line


def mean_and_error(pairs: list[tuple[float, float]], form: str = ".3f") -> str:
    """The mean of the values of several seeds and of their standard errors, which several seeds do not lower: they
    share the held-out photographs."""
    values, errors = zip(*pairs, strict=True)
    return f"{sum(values) / len(pairs):{form}} ± {sum(errors) / len(pairs):{form}}"


def plot_copies(
    judge: Judge, name: str, images: torch.Tensor, distances: torch.Tensor, score: Score, seed: int, root: Path
) -> None:
    """Plot samples above the nearest training photographs; distances: of `Judge.find_distances`."""
    smallest, indices = distances[:, : len(judge.training)].min(dim=1)
    share, p = score.near
    title = f"{name}, seed {seed}: samples above the nearest training images, brightness and contrast left aside,"
    title += " also where\nthey are mirrored, moved or cropped;"
    title += f" nearer than the nearest {TAIL:.0%} of held-out photographs: {share:.1%}, p = {p:.2g}"
    histograms = {"samples": smallest.numpy(), "held-out photographs": judge.held_out_distances.numpy()}
    path = root / "vis" / f"nearest_{name.replace(', ', '_').replace(' ', '_')}.png"
    photographs = judge.training[indices[:SHOWN_NEAREST]]
    plot_nearest(images[:SHOWN_NEAREST].numpy(), photographs.numpy(), histograms, path, title)


def plot_comparison(scores: dict, thousands: dict, samples: dict, chance: list[float], seed: int, root: Path) -> None:
    """Plot the scores of all models, {name: a Score for each seed} and {name: (accuracy of thousands, error)}, and a
    row of samples of each, {name: images}."""
    accuracies = {name: [score.accuracy for score in seeds] for name, seeds in scores.items()}
    distances = {name: [score.distance for score in seeds] for name, seeds in scores.items()}
    title = f"Samples of models, seed {seed}, against held-out photographs"
    plot_scores(accuracies, thousands, distances, (min(chance), max(chance)), root / "vis" / "scores.png", title)

    rows = [samples[name][:SHOWN] for name in scores]
    largest = max(row.shape[2:] for row in rows)
    images = torch.cat([interpolate(row, largest, mode="nearest-exact") for row in rows])
    labels = [name.replace(", ", "\n") + f"\n{mean_and_error(accuracies[name], '.1%')}" for name in scores]
    title = f"Random samples of models, seed {seed}, and the accuracy with which\na classifier distinguishes them"
    title += " from held-out photographs"
    plot_samples(images.numpy(), root / "vis" / "generation_comparison.png", title, len(rows[0]), labels)


def main(argv=None):
    """Score --model, or all; returns {"name, size": a Score for each seed}."""
    parser = make_parser("Compare the images of trained models with photographs.", module="beyond.score")
    parser.add_argument("--model", choices=GENERATORS, help=f"score this one alone; otherwise {', '.join(SCORED)}")
    parser.add_argument("--seed", metavar="N", type=natural_int, default=0, help="of the first set of samples")
    add_data_flags(parser)
    args = parser.parse_args(argv)
    root = args.output_root
    names = [args.model] if args.model else SCORED
    judges = find_judges(names, root, args.data, args.data_root)
    for line in LEGEND:
        log(line)

    scores = {}
    thousands = {}
    samples = {}
    chance = []
    for judge, samplers in judges:
        chance += measure_chance(judge, args.seed + SEEDS)
        for name, sample in {PHOTOGRAPHS: judge.draw_photographs, **samplers}.items():
            key = f"{name}, {judge.size}"
            sets = [sample(args.seed + number) for number in range(SEEDS)]
            samples[key] = sets[0]
            if name == PHOTOGRAPHS:
                scores[key] = [judge.score(images) for images in sets]
                thousands[key] = judge.score_photographs_thousands()
            else:
                distances = [judge.find_distances(images) for images in sets]
                scores[key] = [judge.score_samples(*pair) for pair in zip(sets, distances, strict=True)]
                more = [sample(args.seed + SEEDS + number) for number in range(MORE_SEEDS)]
                thousands[key] = judge.score_thousands(sets[0], torch.cat([*sets[1:], *more]))
                plot_copies(judge, name, sets[0], distances[0], scores[key][0], args.seed, root)
            log(score_line(key, scores[key], thousands[key]))
    if not args.model:
        plot_comparison(scores, thousands, samples, chance, args.seed, root)
    return scores


if __name__ == "__main__":
    run_script(main)
