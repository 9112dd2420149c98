"""What principal components reach, the best linear autoencoder: the least that a network must beat.

    python -m benchmarks.linear_baselines       # half a minute; needs ./flowers and ./mnist

Mean squared errors of a pixel, reconstructions clamped to [0, 1]. `benchmarks.bits` has the densities.
"""

import numpy as np
from sklearn.decomposition import PCA

from data import create_flower_dataloaders, create_mnist_dataloaders


def to_vectors(loaders) -> list[np.ndarray]:
    """The images of each loader as an array (N, D)."""
    return [loader.dataset.images.flatten(1).numpy() / 255 for loader in loaders]


def describe_errors(pca: PCA, parts: list[np.ndarray]) -> str:
    """The mean squared error of each part."""
    errors = []
    for images in parts:
        reconstructions = pca.inverse_transform(pca.transform(images)).clip(0, 1)
        errors.append(f"{((reconstructions - images) ** 2).mean():.5f}")
    return " / ".join(errors)


def main():
    """Print it all."""
    parts = to_vectors(create_mnist_dataloaders(128, data="real"))
    for components in (2, 20):
        pca = PCA(components, svd_solver="covariance_eigh").fit(parts[0])
        print(f"MNIST, {components} components, train / valid / test: {describe_errors(pca, parts)}")
    parts = to_vectors(create_flower_dataloaders(128, data="real"))
    pca = PCA(64, svd_solver="full").fit(parts[0])
    print(f"flowers, 64 components, train / valid: {describe_errors(pca, parts)}")


if __name__ == "__main__":
    main()
