"""How good generated images of flowers are, measured against photographs that no model was trained on.

`score` measures the trained models, for `python random_generation.py --score`, in the ways of evaluation/measures.py:
can samples be told from photographs, how far are they away, do the species come as often, are any of them copies.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch.nn.functional import interpolate

from evaluation.measures import (
    TAIL,
    PatchFeatures,
    both_ways,
    kernel_distance,
    nearest,
    species_p,
    standardise,
    tail_share,
    three_sample,
    two_sample_accuracy,
)
from evaluation.models import RECONSTRUCTS, SAMPLES, TABLE, load_model, load_photographs, name_model
from evaluation.sampling import BATCH, decode, encode, fit_mixture, sample_diffusion, sample_latents, standard_normal
from training import UserError
from training.figures import plot_nearest, plot_samples, plot_scores
from training.script import log

SEEDS = 3  # sets of samples that are scored, each of as many as there are held-out photographs
SHOWN = 10  # samples of each model in the comparison
SHOWN_NEAREST = 16  # samples of each model beside the nearest training photographs
PHOTOGRAPHS, NOISE = "training photographs", "noise"  # the best and the worst that there can be
DRAWS = 20  # of photographs, scored against held-out ones: what chance does


class Scores(NamedTuple):
    """Of all that was scored, by name."""

    samples: dict  # a tensor (M, 3, H, W) for each seed
    found: dict  # for each seed what `measure` returns
    chance: list  # accuracies with which photographs are told from photographs


def score(args) -> dict:
    """Score --model, or all. Plots vis/nearest_<M>.png of each model and, of all, vis/scores.png and
    vis/generation_comparison.png.

    Returns {name: a dict for each seed, of what `measure` returns}. Raises UserError where a model is missing, or was
    trained on other photographs.
    """
    classifier, checkpoint = load_model("Classifier", args.output_root)
    source, vis = checkpoint["data"]["name"], args.output_root / "vis"
    about, scores = f"trained on {source}, seed {args.seed}", Scores({}, {}, [])
    sizes = find_models(args, checkpoint)
    log(f"Species: {name_model(checkpoint)}, right on {checkpoint['valid_accuracy']:.1%} of its held-out images")
    for images, models in sizes:
        score_size(args, about, partial(read_species, classifier), *images, models, scores)
    if not args.model:
        shown = {name: numbers for name, numbers in scores.found.items() if not name.startswith(NOISE)}  # off any scale
        chance = min(scores.chance), max(scores.chance)
        plot_scores(shown, chance, vis / "scores.png", f"Samples of models {about}, against held-out photographs")
        compare_all(scores, vis / "generation_comparison.png", about)
    return scores.found


def score_size(args, about: str, read: Callable, training, held_out, models: dict, scores: Scores) -> None:
    """Add to the scores those of the models of one image size, {name: sample(seed)}, and log them.

    read(images) -> the species of each.
    """
    if len(held_out) < 4:
        raise UserError(f"expected 4 or more held-out photographs to compare with, found {len(held_out)}")
    size, seeds = "x".join(map(str, held_out.shape[2:])), [args.seed + number for number in range(SEEDS)]
    log(f"Data: {len(held_out)} held-out images of {size}, compared with as many samples for each seed")
    features = PatchFeatures(training)
    measure = build_measure(features, read, held_out)
    chance = measure_chance(features, training, held_out, seeds[-1] + 1)
    told = f"{min(chance):.1%} to {max(chance):.1%}, range over {DRAWS} draws"
    log(f"Chance: training images are told from held-out ones with {told}")
    scores.chance.extend(chance)
    for name, sample in {**references(training, held_out), **models}.items():
        sized = f"{name}, {size}"
        scores.samples[sized] = [sample(seed) for seed in seeds]
        scores.found[sized] = [measure(images) for images in scores.samples[sized]]
        log(describe_scores(sized, scores.found[sized]))
    ratio = f"{len(training) / len(held_out):.1f} : 1"
    log(f"Copies: samples nearer to a training image than the nearest {TAIL:.0%} of held-out ones; training : held-out")
    log(f"images much nearer to a sample than all others ({ratio} by chance); one-sided p-values, each seed:")
    known, unseen = both_ways(training), both_ways(held_out)
    for name in models:
        sets, path = scores.samples[f"{name}, {size}"], args.output_root / "vis" / f"nearest_{file_name(name)}.png"
        log(f"{name}, {size}: {compare_nearest(f'{name}, {about}', sets, training, known, unseen, path)}")


def file_name(name: str) -> str:
    """The part of a file's name that stands for a model: "AE, fitted mixture" -> "AE_fitted_mixture"."""
    return name.replace(", ", "_").replace(" ", "_")


def measure_chance(features, training, held_out, first_seed: int) -> list[float]:
    """The accuracies with which as many random training photographs are told from held-out ones."""
    expected = features(held_out)
    draws = (photographs(training, len(held_out), first_seed + number) for number in range(DRAWS))
    return [two_sample_accuracy(features(images), expected)[0] for images in draws]


def build_measure(features, read: Callable, held_out):
    """measure(images (M, 3, H, W)) -> {"accuracy" with which they are told from held-out photographs, "distance", each
    with its standard error, "species_p"}."""
    expected, usual = features(held_out), read(held_out)

    def measure(images):
        found, species = features(images), read(images)
        classes = 1 + max(species.max(), usual.max()).item()
        return {
            "accuracy": two_sample_accuracy(found, expected),
            "distance": kernel_distance(found, expected),
            "species_p": species_p(species, usual, classes),
        }

    return measure


@torch.no_grad()
def read_species(classifier, images: torch.Tensor) -> torch.Tensor:
    """The most likely species of images (N, 3, H, W), in the size that the classifier knows: (N,)."""
    images = interpolate(images, classifier.image_size, mode="area")
    return torch.cat([classifier.species(classifier.features(part)).argmax(dim=1) for part in images.split(BATCH)])


def describe(pairs: list[tuple[float, float]], form: str = ".3f") -> str:
    """The mean of what was measured for the seeds, and the mean of their standard errors, which is not smaller for
    several: they share the held-out photographs."""
    value, error = (sum(numbers) / len(pairs) for numbers in zip(*pairs, strict=True))
    return f"{value:{form}} ± {error:{form}}"


def describe_scores(name: str, found: list[dict]) -> str:
    """A line for the log."""
    accuracies, distances, species = ([numbers[key] for numbers in found] for key in found[0])
    each, p = ", ".join(f"{value:.1%}" for value, _ in accuracies), ", ".join(f"{p:.2g}" for p in species)
    told = f"told from held-out images with {describe(accuracies, '.1%')} ({each})"
    return f"{name}: {told}, kernel distance {describe(distances)}, species as often p = {p}"


def photographs(training, count: int, seed: int):
    """So many random training photographs."""
    return training[torch.randperm(len(training), generator=torch.Generator().manual_seed(seed))[:count]]


def references(training, held_out) -> dict:
    """{name: sample(seed) -> images as many as held_out}: the best and the worst that there can be."""

    def noise(seed):
        return torch.rand(held_out.shape, generator=torch.Generator().manual_seed(seed))

    return {PHOTOGRAPHS: partial(photographs, training, len(held_out)), NOISE: noise}


def find_models(args, scored: dict) -> list[tuple[list, dict]]:
    """[((images trained on, held-out images), {name: sample(seed) -> as many images as are held out})] for each image
    size, of --model or of all models; of the AE also with a fitted prior.

    scored: the classifier's checkpoint. Raises UserError where a model is missing, or was trained on other photographs
    than are here, or than the classifier.
    """

    def key_of(checkpoint):
        return (*checkpoint["data"]["image_size"], checkpoint["data"]["fingerprint"])

    def images_of(checkpoint):
        return [dataset[:][0] for dataset in load_photographs(args, checkpoint)]

    found = {key_of(scored): (images_of(scored), {})}
    for name in [args.model] if args.model else [name for name, entry in TABLE.items() if SAMPLES in entry.roles]:
        model, checkpoint = load_model(name, args.output_root)
        if checkpoint["data"]["split_seed"] != scored["data"]["split_seed"]:
            raise UserError(f"{name} and Classifier were trained on different images: train one of them anew")
        key = key_of(checkpoint)
        if key not in found:
            found[key] = images_of(checkpoint), {}
        (training, held_out), models = found[key]
        if model.has_label:
            models[name] = partial(sample_diffusion, model, len(held_out))
        else:
            models[name] = partial(sample_prior, model, standard_normal(model.encoding_dim), len(held_out))
        if RECONSTRUCTS in TABLE[name].roles and not model.is_dist:  # an AE's codes are not those of N(0, I)
            prior = fit_mixture(encode(model, training))
            models[f"{name}, fitted mixture"] = partial(sample_prior, model, prior, len(held_out))
    return [found[key] for key in sorted(found) if found[key][1]]


def sample_prior(model, prior, count: int, seed: int) -> torch.Tensor:
    """Images (count, 3, H, W) of an AE, a VAE or a GAN."""
    return decode(model, sample_latents(prior, count, seed))


def compare_nearest(title: str, sets: list, training, known, unseen, path) -> str:
    """Are sets of a model's samples, each (M, 3, H, W), copies of training photographs? For the log. Plots the nearest
    ones of the first set.

    known (2, N, D), unseen (2, K, D): photographs trained on and held out, mirrored too, as the models were shown them.
    """
    near, vectors = known.flatten(0, 1), [standardise(images) for images in sets]
    usual, found = nearest(unseen[0], near)[0], [nearest(x, near) for x in vectors]
    tails = [tail_share(distances, usual) for distances, _ in found]
    threes = [three_sample(x, known, unseen) for x in vectors]
    tail = ", ".join(f"{share:.1%} (p = {p:.2g})" for share, p in tails)
    three = ", ".join(f"{close}:{far} (p = {p:.2g})" for close, far, p in threes)
    distances, which = found[0]
    shown_to_models = torch.cat([training, training.flip(-1)])
    pairs = sets[0][:SHOWN_NEAREST].numpy(), shown_to_models[which[:SHOWN_NEAREST]].numpy()
    title += ": samples above the nearest training images, brightness and contrast left aside;"
    title += f"\nnearer than the nearest {TAIL:.0%} of held-out photographs: {tails[0][0]:.1%}, p = {tails[0][1]:.2g}"
    plot_nearest(*pairs, distances.numpy(), usual.numpy(), path, title)
    return f"{tail}; {three}"


def compare_all(scores: Scores, path, about: str) -> None:
    """Plot a row of samples of each model, and one of photographs of each size, with their scores."""
    rows = {name: sets[0][:SHOWN] for name, sets in scores.samples.items() if not name.startswith(NOISE)}
    largest = max(images.shape[2:] for images in rows.values())
    images = torch.cat([interpolate(images, largest, mode="nearest-exact") for images in rows.values()])
    told = {name: describe([numbers["accuracy"] for numbers in scores.found[name]], ".1%") for name in rows}
    labels = [f"{name.replace(', ', chr(10))}\n{told[name]}" for name in rows]
    title = f"Random samples of models {about},\nand the accuracy with which they are told from held-out photographs"
    plot_samples(images.numpy(), path, title, len(next(iter(rows.values()))), labels)
