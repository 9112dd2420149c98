"""How good generated images of flowers are, measured against photographs that no model was trained on.

    distance, error = kernel_distance(features, features_of_held_out)       # (M, D), (N, D)
    p = mann_whitney_p(distances_of_samples, distances_of_held_out)         # are they nearer to training photographs?

`score` measures the trained models in both ways, for `python random_generation.py --score`. The features are those of
our own classifier (generators/classifier.py): nothing has to be downloaded, and the distances compare with no others.
"""

from functools import partial

import torch
from scipy.stats import mannwhitneyu

from evaluation.models import RECONSTRUCTS, SAMPLES, TABLE, load_model, load_photographs, name_model
from evaluation.sampling import BATCH, decode, encode, fit_mixture, sample_diffusion, sample_latents, standard_normal
from training import UserError
from training.figures import plot_nearest, plot_samples
from training.script import log

SEEDS = 3  # sets of samples that are scored, each of as many as there are held-out photographs
SHOWN = 10  # samples of each model in the comparison
SHOWN_NEAREST = 16  # samples of each model beside the nearest training photographs
PHOTOGRAPHS, NOISE = "training photographs", "noise"  # the best and the worst that there can be


def score(args) -> dict:
    """Score --model, or all. Plots vis/nearest_<M>.png of each model and, of all, vis/generation_comparison.png.

    The classifier was trained on the training photographs, and the best epochs were chosen by the held-out ones: both
    flatter what is near to them a little. Returns {name: [(kernel distance, its standard error) for each seed]}. Raises
    UserError where a model is missing, or was trained on other photographs.
    """
    classifier, checkpoint = load_model("Classifier", args.output_root)
    training, held_out = (dataset[:][0] for dataset in load_photographs(args, checkpoint))
    if len(held_out) < 3:
        raise UserError(f"expected 3 or more held-out photographs to compare with, found {len(held_out)}")
    models = samplers(args, checkpoint, training, len(held_out))
    source, vis = checkpoint["data"]["name"], args.output_root / "vis"
    about = f"trained on {source}, seed {args.seed}"
    log(f"Data: {source}, {len(held_out)} held-out images, compared with as many samples for each seed")
    log(f"Features: {name_model(checkpoint)}, right on {checkpoint['valid_accuracy']:.1%} of the held-out images")

    seeds = [args.seed + number for number in range(SEEDS)]
    log(f"Kernel distance to the held-out images ± standard error, mean of the seeds {', '.join(map(str, seeds))}:")
    samples, distances, expected = {}, {}, features(classifier, held_out)
    for name, sample in {**references(training, held_out), **models}.items():
        samples[name] = [sample(seed) for seed in seeds]
        distances[name] = [kernel_distance(features(classifier, images), expected) for images in samples[name]]
        each = ", ".join(f"{distance:.4f} ± {error:.4f}" for distance, error in distances[name])
        log(f"{name}: {describe(distances[name])} ({each})")
    log("Distance to the nearest training image, median, and one-sided p-value (Mann-Whitney), each seed:")
    shown_to_models = torch.cat([training, training.flip(-1)])
    spaces = {"pixels": lambda images: images.flatten(1), "standardised": standardise}
    usual = {space: nearest(vectors(held_out), vectors(shown_to_models))[0] for space, vectors in spaces.items()}
    for name in models:
        compare_nearest(name, samples[name], shown_to_models, spaces, usual, vis, about)
    if not args.model:
        compare_all(samples, distances, models, vis / "generation_comparison.png", about)
    return distances


def features(classifier, images: torch.Tensor) -> torch.Tensor:
    """The classifier's features (N, 128) of images (N, 3, H, W)."""
    with torch.no_grad():
        return torch.cat([classifier.features(batch) for batch in images.split(BATCH)])


def describe(found: list[tuple[float, float]]) -> str:
    """The mean distance of the seeds, and the mean of their standard errors, which share the held-out photographs."""
    distance, error = (sum(numbers) / len(found) for numbers in zip(*found, strict=True))
    return f"{distance:.3f} ± {error:.3f}"


def references(training, held_out) -> dict:
    """{name: sample(seed) -> images as many as held_out}: the best and the worst that there can be."""

    def photographs(seed):
        order = torch.randperm(len(training), generator=torch.Generator().manual_seed(seed))
        return training[order[: len(held_out)]]

    def noise(seed):
        return torch.rand(held_out.shape, generator=torch.Generator().manual_seed(seed))

    return {PHOTOGRAPHS: photographs, NOISE: noise}


def samplers(args, scored: dict, training, count: int) -> dict:
    """{name: sample(seed) -> images (count, 3, H, W)} of --model, or of all models; of the AE also with a fitted prior.

    scored: the classifier's checkpoint. Raises UserError where a model is missing, or was trained on other photographs.
    """
    found = {}
    for name in [args.model] if args.model else [name for name, entry in TABLE.items() if SAMPLES in entry.roles]:
        model, checkpoint = load_model(name, args.output_root)
        if any(checkpoint["data"][key] != scored["data"][key] for key in ("fingerprint", "image_size", "split_seed")):
            raise UserError(f"{name} and Classifier were trained on different images: train one of them anew")
        if "encoding_dim" in checkpoint["config"]:
            found[name] = partial(sample_prior, model, standard_normal(model.encoding_dim), count)
        else:
            found[name] = partial(sample_diffusion, model, count)
        if RECONSTRUCTS in TABLE[name].roles and not model.is_dist:  # an AE's codes are not those of N(0, I)
            prior = fit_mixture(encode(model, training))
            found[f"{name}, fitted mixture"] = partial(sample_prior, model, prior, count)
    return found


def sample_prior(model, prior, count: int, seed: int) -> torch.Tensor:
    """Images (count, 3, H, W) of an AE, a VAE or a GAN."""
    return decode(model, sample_latents(prior, count, seed))


def compare_nearest(name: str, sets: list, shown_to_models, spaces: dict, usual: dict, vis, about: str) -> None:
    """Log how near sets of a model's samples, each (M, 3, H, W), are to the images that the models were shown, beside
    the usual distances of held-out ones, in each of the spaces {name: what makes vectors (M, D) of images}. Plot it for
    the first set, without brightness and contrast: a pale or dark image is near to all others."""
    lines = []
    for space, vectors in spaces.items():
        near = vectors(shown_to_models)
        found = [nearest(vectors(images), near) for images in sets]
        p = ", ".join(f"{mann_whitney_p(distances, usual[space]):.2g}" for distances, _ in found)
        medians = ", ".join(f"{distances.median():.3f}" for distances, _ in found)
        lines.append(f"{space} {medians}, held-out images {usual[space].median():.3f}, p = {p}")
    log(f"{name}: {'; '.join(lines)}")
    (distances, which), usual_ones = found[0], usual["standardised"]
    pairs = sets[0][:SHOWN_NEAREST].numpy(), shown_to_models[which[:SHOWN_NEAREST]].numpy()
    path = vis / f"nearest_{name.replace(', ', '_').replace(' ', '_')}.png"
    title = f"{name}, {about}: samples above the nearest training images, brightness and contrast left aside;"
    title += "\none-sided p-value of their being no nearer than held-out photographs: "
    title += f"{mann_whitney_p(distances, usual_ones):.2g}"
    plot_nearest(*pairs, distances.numpy(), usual_ones.numpy(), path, title)


def compare_all(samples: dict, distances: dict, models, path, about: str) -> None:
    """Plot a row of samples of each model, {name: sets (N, 3, H, W)}, and one of photographs, with their distances."""
    names, columns = [*models, PHOTOGRAPHS], min(SHOWN, len(samples[PHOTOGRAPHS][0]))
    rows = torch.cat([samples[name][0][:columns] for name in names])
    labels = [f"{name.replace(', ', chr(10))}\n{describe(distances[name])}" for name in names]
    title = f"Random samples of models {about},\nand their kernel distance to held-out photographs: 0 is alike,"
    plot_samples(rows.numpy(), path, f"{title} noise is at {describe(distances[NOISE])}", columns, labels)


def standardise(images: torch.Tensor) -> torch.Tensor:
    """Images (N, 3, H, W) as vectors (N, 3 H W) with mean 0 and length 1."""
    vectors = images.flatten(1) - images.mean(dim=(1, 2, 3))[:, None]
    return vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-6)


def kernel_distance(x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """(distance, its standard error) between the distributions of which features x (M, D) and y (N, D) are samples.

    The squared maximum mean discrepancy with the kernel (x.y / D + 1)^3, estimated without bias, so it may fall below
    0 (Binkowski et al. 2018, section 4: the kernel Inception distance, with our features). The standard error is the
    jackknife's, from leaving out each x and each y in turn (Efron & Stein 1981). M and N are 3 or more.
    """
    x, y = x.double(), y.double()
    within_x, within_y, between = (((a @ b.T) / x.shape[1] + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    m, n = between.shape
    of_x, of_y = (kernel.fill_diagonal_(0).sum(dim=1) for kernel in (within_x, within_y))  # (M,), (N,)
    mean_x, mean_y, mean_between = of_x.sum() / (m * (m - 1)), of_y.sum() / (n * (n - 1)), between.mean()
    without_x = (of_x.sum() - 2 * of_x) / ((m - 1) * (m - 2)) - 2 * (between.sum() - between.sum(1)) / ((m - 1) * n)
    without_y = (of_y.sum() - 2 * of_y) / ((n - 1) * (n - 2)) - 2 * (between.sum() - between.sum(0)) / ((n - 1) * m)
    variance = sum((len(part) - 1) * part.var(correction=0) for part in (without_x, without_y))
    return (mean_x + mean_y - 2 * mean_between).item(), variance.sqrt().item()


def nearest(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(distances, indices), each (M,), from each of x (M, D) to the nearest of y (N, D), Euclidean."""
    return torch.cdist(x, y).min(dim=1)


def mann_whitney_p(distances: torch.Tensor, others: torch.Tensor) -> float:
    """The one-sided p-value of distances (M,) being as low as they are, were they of the others' distribution (N,)."""
    ours, theirs = distances.double().numpy(), others.double().numpy()  # in float32 small p-values would be 0
    return mannwhitneyu(ours, theirs, alternative="less", method="asymptotic").pvalue
