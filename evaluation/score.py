"""How good generated images of flowers are, measured against photographs that no model was trained on.

`score` measures the trained models, for `python random_generation.py --score`, in the ways of evaluation/measures.py:
can samples be told from photographs, how far are they away, do the species come as often, are any of them copies.
"""

from functools import partial

import torch

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
from evaluation.sampling import BATCH, decode, encode, fit_mixture, sample_labelled, sample_latents, standard_normal
from training import UserError
from training.figures import plot_nearest, plot_samples, plot_scores
from training.script import log

SEEDS = 3  # sets of samples that are scored, each of as many as there are held-out photographs
SHOWN = 10  # samples of each model in the comparison
SHOWN_NEAREST = 16  # samples of each model beside the nearest training photographs
PHOTOGRAPHS, NOISE = "training photographs", "noise"  # the best and the worst that there can be
DRAWS = 20  # of photographs, scored against held-out ones: what chance does


def score(args) -> dict:
    """Score --model, or all. Plots vis/nearest_<M>.png of each model and, of all, vis/scores.png and
    vis/generation_comparison.png.

    Returns {name: a dict for each seed, of what `measure` returns}. Raises UserError where a model is missing, or was
    trained on other photographs.
    """
    classifier, checkpoint = load_model("Classifier", args.output_root)
    training, held_out = (dataset[:][0] for dataset in load_photographs(args, checkpoint))
    if len(held_out) < 4:
        raise UserError(f"expected 4 or more held-out photographs to compare with, found {len(held_out)}")
    models = samplers(args, checkpoint, training, len(held_out))
    source, vis = checkpoint["data"]["name"], args.output_root / "vis"
    about = f"trained on {source}, seed {args.seed}"
    seeds = [args.seed + number for number in range(SEEDS)]
    log(f"Data: {source}, {len(held_out)} held-out images, compared with as many samples for each seed")
    log(f"Species: {name_model(checkpoint)}, right on {checkpoint['valid_accuracy']:.1%} of the held-out images")
    features = PatchFeatures(training)
    measure = build_measure(features, classifier, held_out)
    low, high = measure_chance(features, training, held_out, first_seed=args.seed + SEEDS)
    log(f"Chance: training images are told from held-out ones with {low:.1%} to {high:.1%}, range over {DRAWS} draws")
    samples, found = {}, {}
    for name, sample in {**references(training, held_out), **models}.items():
        samples[name] = [sample(seed) for seed in seeds]
        found[name] = [measure(images) for images in samples[name]]
        log(describe_scores(name, found[name]))
    ratio = f"{len(training) / len(held_out):.1f} : 1"
    log(f"Copies: samples nearer to a training image than the nearest {TAIL:.0%} of held-out ones; training : held-out")
    log(f"images much nearer to a sample than all others ({ratio} by chance); one-sided p-values, each seed:")
    known, unseen = both_ways(training), both_ways(held_out)
    for name in models:
        log(compare_nearest(name, samples[name], training, known, unseen, vis, about))
    if not args.model:
        shown = {name: numbers for name, numbers in found.items() if name != NOISE}  # which is far off any scale
        plot_scores(shown, (low, high), vis / "scores.png", f"Samples of models {about}, against held-out photographs")
        compare_all(samples, found, models, vis / "generation_comparison.png", about)
    return found


def measure_chance(features, training, held_out, first_seed: int) -> tuple[float, float]:
    """The range of the accuracy with which as many training photographs are told from held-out ones."""
    expected = features(held_out)
    draws = (photographs(training, len(held_out), first_seed + number) for number in range(DRAWS))
    accuracies = [two_sample_accuracy(features(images), expected)[0] for images in draws]
    return min(accuracies), max(accuracies)


def build_measure(features, classifier, held_out):
    """measure(images (M, 3, H, W)) -> {"accuracy" with which they are told from held-out photographs, "distance", each
    with its standard error, "species_p"}."""
    expected, usual = features(held_out), read_species(classifier, held_out)

    def measure(images):
        found = features(images)
        classes = classifier.species.out_features
        return {
            "accuracy": two_sample_accuracy(found, expected),
            "distance": kernel_distance(found, expected),
            "species_p": species_p(read_species(classifier, images), usual, classes),
        }

    return measure


@torch.no_grad()
def read_species(classifier, images: torch.Tensor) -> torch.Tensor:
    """The most likely species of images (N, 3, H, W): (N,)."""
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


def samplers(args, scored: dict, training, count: int) -> dict:
    """{name: sample(seed) -> images (count, 3, H, W)} of --model, or of all models; of the AE also with a fitted prior.

    scored: the classifier's checkpoint. Raises UserError where a model is missing, or was trained on other photographs.
    """
    found = {}
    for name in [args.model] if args.model else [name for name, entry in TABLE.items() if SAMPLES in entry.roles]:
        model, checkpoint = load_model(name, args.output_root)
        if any(checkpoint["data"][key] != scored["data"][key] for key in ("fingerprint", "image_size", "split_seed")):
            raise UserError(f"{name} and Classifier were trained on different images: train one of them anew")
        if model.has_label:
            found[name] = partial(sample_labelled, model, count)
        else:
            found[name] = partial(sample_prior, model, standard_normal(model.encoding_dim), count)
        if RECONSTRUCTS in TABLE[name].roles and not model.is_dist:  # an AE's codes are not those of N(0, I)
            prior = fit_mixture(encode(model, training))
            found[f"{name}, fitted mixture"] = partial(sample_prior, model, prior, count)
    return found


def sample_prior(model, prior, count: int, seed: int) -> torch.Tensor:
    """Images (count, 3, H, W) of an AE or a VAE."""
    return decode(model, sample_latents(prior, count, seed))


def compare_nearest(name: str, sets: list, training, known, unseen, vis, about: str) -> str:
    """A line for the log: are sets of a model's samples, each (M, 3, H, W), copies of training photographs? Plots the
    nearest ones of the first set.

    known (2, N, D), unseen (2, K, D): photographs trained on and held out, mirrored too, as the models were shown them.
    """
    near, vectors = known.flatten(0, 1), [standardise(images) for images in sets]
    usual, found = nearest(unseen[0], near)[0], [nearest(x, near) for x in vectors]
    tails = [tail_share(distances, usual) for distances, _ in found]
    threes = [three_sample(x, known, unseen) for x in vectors]
    tail = ", ".join(f"{share:.1%} (p = {p:.2g})" for share, p in tails)
    three = ", ".join(f"{close}:{far} (p = {p:.2g})" for close, far, p in threes)
    (distances, which), path = found[0], vis / f"nearest_{name.replace(', ', '_').replace(' ', '_')}.png"
    shown_to_models = torch.cat([training, training.flip(-1)])
    pairs = sets[0][:SHOWN_NEAREST].numpy(), shown_to_models[which[:SHOWN_NEAREST]].numpy()
    title = f"{name}, {about}: samples above the nearest training images, brightness and contrast left aside;"
    title += f"\nnearer than the nearest {TAIL:.0%} of held-out photographs: {tails[0][0]:.1%}, p = {tails[0][1]:.2g}"
    plot_nearest(*pairs, distances.numpy(), usual.numpy(), path, title)
    return f"{name}: {tail}; {three}"


def compare_all(samples: dict, found: dict, models, path, about: str) -> None:
    """Plot a row of samples of each model, {name: sets (N, 3, H, W)}, and one of photographs, with their scores."""
    names, columns = [*models, PHOTOGRAPHS], min(SHOWN, len(samples[PHOTOGRAPHS][0]))
    rows = torch.cat([samples[name][0][:columns] for name in names])
    told = {name: describe([numbers["accuracy"] for numbers in found[name]], ".1%") for name in names}
    labels = [f"{name.replace(', ', chr(10))}\n{accuracy}" for name, accuracy in told.items()]
    title = f"Random samples of models {about},\nand the accuracy with which they are told from held-out photographs"
    plot_samples(rows.numpy(), path, title, columns, labels)
