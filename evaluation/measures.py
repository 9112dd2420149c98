"""Measures of generated images against photographs. benchmarks/score_calibration.py says what each of them sees.

    features = PatchFeatures(training)                                      # (N, 3, H, W) -> (N, D)
    accuracy, error = two_sample_accuracy(features(samples), features(held_out))
    share, p = tail_share(nearest(samples, training)[0], nearest(held_out, training)[0])

Nothing has to be downloaded, and the numbers compare with no others than those of the same photographs.
"""

import math

import numpy as np
import torch
from scipy.stats import binomtest, chi2_contingency, nhypergeom
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

SIZES, FILTERS, PATCHES = (3, 5, 7), 64, 20_000  # of patches: pixels a side, how many of each, and to whiten them by
REGULARISATION = 0.1  # C of the logistic regression: the inverse weight of the squared weights
TAIL = 0.01  # of the held-out photographs: those that are nearest to a training photograph
MUCH_NEARER = 0.5  # of the distance to the other set


class PatchFeatures:
    """What images (N, 3, H, W) consist of: their likeness to random patches of photographs, at three scales.

    Filters are whitened patches (Coates & Ng 2012, section 3.1); the positive and the negative part of their responses
    are averaged over each quarter of the image, and their root mean square over all of it; beside these stand the mean
    colours of sixteen squares, and the standard deviation of each colour. An image and its mirror image have the same
    features. They are standardised by those of the photographs.
    """

    def __init__(self, photographs: torch.Tensor):
        generator = torch.Generator().manual_seed(0)
        sizes = [size for size in SIZES if size <= min(photographs.shape[2:])]
        self.banks = [_filters(photographs, size, generator) for size in sizes]
        self.mean, self.std = 0.0, 1.0
        features = self(photographs)
        self.mean, self.std = features.mean(dim=0), features.std(dim=0).clamp(min=1e-6)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(N, D)."""
        parts = images.split(256)
        features = torch.cat([(self._responses(part) + self._responses(part.flip(-1))) / 2 for part in parts])
        return (features - self.mean) / self.std

    def _responses(self, images):
        found = [F.adaptive_avg_pool2d(images, 4).flatten(1), images.flatten(2).std(dim=-1)]
        for weight, bias in self.banks:
            response = F.conv2d(images, weight, bias)
            for part in (response.relu(), (-response).relu()):
                found += [F.adaptive_avg_pool2d(part, 2).flatten(1), part.square().mean(dim=(2, 3)).sqrt()]
        return torch.cat(found, dim=1)


def _filters(photographs, size, generator):
    """(weight, bias) of a convolution with FILTERS random patches, whitened and of length 1."""
    chosen = torch.randperm(len(photographs), generator=generator)[: max(1, PATCHES // size**2)]
    patches = F.unfold(photographs[chosen], size, stride=2).transpose(1, 2).flatten(0, 1)
    mean, (values, vectors) = patches.mean(dim=0), torch.linalg.eigh(torch.cov(patches.T))
    whiten = vectors @ torch.diag((values + 1e-4 * values.max()).rsqrt()) @ vectors.T
    some = patches[torch.randint(len(patches), (FILTERS,), generator=generator)]
    weight = F.normalize((some - mean) @ whiten) @ whiten
    return weight.unflatten(1, (3, size, size)), -weight @ mean


def two_sample_accuracy(x: torch.Tensor, y: torch.Tensor, seed: int = 0) -> tuple[float, float]:
    """(balanced accuracy, its binomial error) with which samples x (M, D) are told from photographs y (N, D).

    A logistic regression of standardised features is trained on half of both and tested on the other half, then the
    other way round (the classifier two-sample test of Lopez-Paz & Oquab 2017). 0.5: not to be told apart.
    """
    generator, right = np.random.default_rng(seed), [[], []]
    halves = [np.array_split(generator.permutation(len(part)), 2) for part in (x, y)]
    for train, test in ((0, 1), (1, 0)):
        parts = [part.double().numpy()[half[train]] for part, half in zip((x, y), halves, strict=True)]
        labels = np.repeat([0, 1], [len(part) for part in parts])
        model = LogisticRegression(C=REGULARISATION, class_weight="balanced", max_iter=1000)
        model.fit(np.concatenate(parts), labels)
        for label, part in enumerate((x, y)):
            right[label].append(model.predict(part.double().numpy()[halves[label][test]]) == label)
    accuracies = [np.concatenate(of).mean() for of in right]
    errors = [accuracy * (1 - accuracy) / len(part) for accuracy, part in zip(accuracies, (x, y), strict=True)]
    return sum(accuracies) / 2, math.sqrt(sum(errors)) / 2


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


def species_p(species: torch.Tensor, of_held_out: torch.Tensor, classes: int) -> float:
    """The p-value of samples' species (M,) and held-out photographs' (N,) coming equally often (chi-squared test)."""
    counts = np.stack([torch.bincount(found, minlength=classes).numpy() for found in (species, of_held_out)])
    counts = counts[:, counts.any(axis=0)]
    return chi2_contingency(counts).pvalue if counts.shape[1] > 1 else 1.0


def standardise(images: torch.Tensor) -> torch.Tensor:
    """Images (N, 3, H, W) as vectors (N, 3 H W) with mean 0 and length 1: without brightness and contrast, as a pale or
    dark image is near to all others."""
    vectors = images.flatten(1) - images.mean(dim=(1, 2, 3))[:, None]
    return vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-6)


def nearest(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(distances, indices), each (M,), from each of x (M, D) to the nearest of y (N, D), Euclidean."""
    return torch.cdist(x, y).min(dim=1)


def tail_share(distances: torch.Tensor, usual: torch.Tensor) -> tuple[float, float]:
    """(share of samples that are nearer to training photographs than the nearest 1 % of held-out ones, p-value).

    distances (M,): from samples to the nearest training photograph; usual (N,): from held-out photographs. Were all
    drawn alike, the number of samples below the k-th nearest photograph would be negative hypergeometric.
    """
    rank = max(1, round(TAIL * len(usual)))
    count = (distances < usual.sort().values[rank - 1]).sum().item()
    p = nhypergeom.sf(count - 1, len(usual) + len(distances), len(distances), rank)
    return count / len(distances), float(p)


def three_sample(x: torch.Tensor, training: torch.Tensor, held_out: torch.Tensor) -> tuple[int, int, float]:
    """(samples much nearer to training photographs, samples much nearer to held-out ones, one-sided p-value) of x
    (M, D), as many (N, D) of either: the idea of Meehan et al. 2020, for copies of some photographs.

    Much nearer: at most half as far. The training photographs are taken in parts as many as the held-out ones.
    """
    from_held_out, near, far = nearest(x, held_out)[0], 0, 0
    parts = training.split(len(held_out))
    parts = [part for part in parts if len(part) == len(held_out)] or [training]
    for part in parts:
        from_training = nearest(x, part)[0]
        near += (from_training <= MUCH_NEARER * from_held_out).sum().item()
        far += (from_held_out <= MUCH_NEARER * from_training).sum().item()
    return near, far, binomtest(near, near + far, 0.5, "greater").pvalue if near + far else 1.0
