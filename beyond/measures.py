"""Measures of generated images against photographs. benchmarks/score_calibration.py says what each of them sees.

    features = PatchFeatures(training)                                      # (N, 3, H, W) -> (N, D)
    accuracy, error = two_sample_accuracy(features(samples), features(held_out))
    share, p = tail_share(nearest(samples, training)[0], nearest(held_out, training)[0])
    near, far, p = three_sample(samples, training[None], held_out[None])

Nothing has to be downloaded, and the numbers compare with no others than those of the same photographs.
"""

import math

import numpy as np
import torch
from scipy.stats import chi2_contingency, hypergeom, nhypergeom
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch.nn import functional as F

SIZES, FILTERS, PATCHES = (3, 5, 7), 64, 100_000  # of patches: pixels a side, how many of each, and to whiten them by
NUMBERS = 2**19  # in the images that are convolved at once
SPLITS = 5  # of samples and photographs into halves, whose accuracies are averaged
REGULARISATION = 0.1  # C of the logistic regression: the inverse weight of the squared weights
TAIL = 0.01  # of the held-out photographs: those that are nearest to a training photograph
MUCH_NEARER = 0.5  # of the distance to the second nearest photograph


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
        parts = images.split(max(1, NUMBERS // images[0].numel()))
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
    places = math.prod((side - size) // 2 + 1 for side in photographs.shape[2:])  # where patches are taken from
    chosen = torch.randperm(len(photographs), generator=generator)[: max(1, PATCHES // places)]
    patches = F.unfold(photographs[chosen], size, stride=2).transpose(1, 2).flatten(0, 1)
    mean, (values, vectors) = patches.mean(dim=0), torch.linalg.eigh(torch.cov(patches.T))
    whiten = vectors @ torch.diag((values + 1e-4 * values.max()).clamp(min=1e-12).rsqrt()) @ vectors.T
    some = patches[torch.randint(len(patches), (FILTERS,), generator=generator)]
    weight = F.normalize((some - mean) @ whiten) @ whiten
    return weight.unflatten(1, (3, size, size)), -weight @ mean


@threadpool_limits.wrap(limits=1, user_api="blas")  # its products are small: threads would wait for each other
def two_sample_accuracy(x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """(balanced accuracy, its binomial error) with which samples x (M, D) are told from photographs y (N, D).

    A logistic regression of standardised features is trained on half of both and tested on the other half, then the
    other way round (the classifier two-sample test of Lopez-Paz & Oquab 2017); the mean of SPLITS random halves. 0.5:
    not to be told apart. The error is that of one split: several have the same samples.
    """
    right, sets = [[], []], [part.double().numpy() for part in (x, y)]
    for seed in range(SPLITS):
        generator = np.random.default_rng(seed)
        halves = [np.array_split(generator.permutation(len(part)), 2) for part in sets]
        for train, test in ((0, 1), (1, 0)):
            parts = [part[half[train]] for part, half in zip(sets, halves, strict=True)]
            labels = np.repeat([0, 1], [len(part) for part in parts])
            model = LogisticRegression(C=REGULARISATION, class_weight="balanced", max_iter=1000)
            model.fit(np.concatenate(parts), labels)
            for label, part in enumerate(sets):
                right[label].append(model.predict(part[halves[label][test]]) == label)
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


def both_ways(images: torch.Tensor) -> torch.Tensor:
    """Images (N, 3, H, W) and their mirror images, standardised: (2, N, 3 H W)."""
    return torch.stack([standardise(images), standardise(images.flip(-1))])


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
    counts = np.arange(count, len(distances) + 1)
    p = nhypergeom.pmf(counts, len(usual) + len(distances), len(distances), rank).sum()  # nhypergeom.sf rounds to 1e-15
    return count / len(distances), min(float(p), 1.0)


def three_sample(x: torch.Tensor, training: torch.Tensor, held_out: torch.Tensor) -> tuple[int, int, float]:
    """(training photographs that a sample is much nearer to than to all others, held-out ones, one-sided p-value), for
    samples x (M, D); training (V, N, D) and held_out (V, K, D): photographs in V views each, mirrored or not.

    Much nearer: at most half as far as from the second nearest photograph (Yoon et al. 2023 take a third). Three
    samples as in Meehan et al. 2020: for samples of a model that saw none of them, which of the N + K photographs are
    called training ones is random, so that their number is hypergeometric. A photograph counts once, however many
    samples are near to it.
    """
    distances = torch.stack([torch.cdist(x, view) for view in torch.cat([training, held_out], dim=1)]).amin(dim=0)
    two, which = distances.topk(2, largest=False)  # (M, 2) each
    close = which[two[:, 0] <= MUCH_NEARER * two[:, 1], 0].unique()
    near, photographs = (close < training.shape[1]).sum().item(), distances.shape[1]
    p = hypergeom.sf(near - 1, photographs, training.shape[1], len(close))
    return near, len(close) - near, float(p)
