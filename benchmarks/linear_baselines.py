"""What principal components reach, the best linear autoencoder: the least that a network must beat.

    python benchmarks/linear_baselines.py       # half a minute; needs ./flowers and ./mnist

Mean squared errors of a pixel, reconstructions clamped to [0, 1]; bits per dimension of probabilistic principal
components (Tipping & Bishop 1999), whose density is a Gaussian; and how good random photographs are whose components
are drawn from a fitted mixture, by the score of `random_generation.py --score`. Plots vis/random_images_PCA.png.
"""

import common  # noqa: F401  (the path of the scripts)
import torch
from sklearn.decomposition import PCA

from data import create_flower_dataloaders, create_mnist_dataloaders
from evaluation.likelihood import bits_per_dimension
from evaluation.measures import PatchFeatures, kernel_distance, two_sample_accuracy
from evaluation.sampling import fit_mixture, sample_latents
from evaluation.score import SEEDS, describe
from training import PROJECT
from training.figures import plot_samples

SHOWN = 60


def errors(pca, parts) -> str:
    """The mean squared error of each part, clamped."""
    restored = (pca.inverse_transform(pca.transform(part)).clip(0, 1) for part in parts)
    found = [((images - part) ** 2).mean() for images, part in zip(restored, parts, strict=True)]
    return " / ".join(f"{error:.5f}" for error in found)


def vectors(loaders):
    """The images of each loader as arrays (N, D)."""
    return [loader.dataset.images.flatten(1).numpy() / 255 for loader in loaders]


def random_photographs(pca, prior, shape, seed: int) -> torch.Tensor:
    """As many images as were held out, whose components are drawn from a prior."""
    codes = sample_latents(prior, shape[0], seed)
    return torch.from_numpy(pca.inverse_transform(codes.double().numpy())).float().clamp(0, 1).view(shape)


def main():
    """Print it all."""
    parts = vectors(create_mnist_dataloaders(128, data="real"))
    for components in (2, 20):
        pca = PCA(components, svd_solver="covariance_eigh").fit(parts[0])
        print(f"MNIST, {components} components, train / valid / test: {errors(pca, parts)}")
    loaders = create_flower_dataloaders(128, data="real")
    parts = vectors(loaders)
    pca = PCA(64, svd_solver="full").fit(parts[0])
    print(f"flowers, 64 components, train / valid: {errors(pca, parts)}")
    bits = " / ".join(f"{bits_per_dimension(-pca.score(part), part.shape[1]):.3f}" for part in parts)
    print(f"flowers, 64 probabilistic components, bits per dimension, train / valid: {bits}")

    train, held_out = (loader.dataset[:][0] for loader in loaders)
    features, told, distances = PatchFeatures(train), [], []
    expected = features(held_out)
    prior = fit_mixture(torch.from_numpy(pca.transform(parts[0])))
    for seed in range(SEEDS):
        images = random_photographs(pca, prior, held_out.shape, seed)
        of_images = features(images)
        told.append(two_sample_accuracy(of_images, expected))
        distances.append(kernel_distance(of_images, expected))
        if seed == 0:
            title = "64 principal components of flowers, drawn from a fitted mixture, seed 0"
            plot_samples(images[:SHOWN].numpy(), PROJECT / "vis" / "random_images_PCA.png", title)
    print(f"flowers, random images of 64 components, told from photographs: {describe(told, '.1%')}")
    print(f"flowers, random images of 64 components, kernel distance: {describe(distances)}")


if __name__ == "__main__":
    main()
