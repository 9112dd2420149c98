"""Measures of generated images against photographs; benchmarks/score_calibration.py says what each of them detects.

    features = ImageFeatures(training)                                      # (N, 3, H, W) -> (N, D)
    accuracy, error = two_sample_accuracy(features(samples), features(held_out))
    distance, error = kernel_distance(features(samples), features(held_out))

    distances = view_distances(samples, torch.cat([training, held_out]))    # (M, N + K)
    of_training, of_held_out, p = count_copies(distances, len(training))

Nothing has to be downloaded, and the numbers compare only with those of the same photographs.
"""

import itertools
import math

import numpy as np
import torch
from scipy.stats import chi2_contingency, hypergeom, nhypergeom
from scipy.stats.contingency import crosstab
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import RepeatedStratifiedKFold, cross_validate
from threadpoolctl import threadpool_limits
from torch.nn import functional as F

from generators.wavelets import haar

PATCH_SIDES = (3, 5, 7)  # pixels
FILTERS = 64  # of each size
PATCHES = 100_000  # that the filters are whitened by
NUMBERS = 2**19  # in the images that are convolved at once
PHOTOGRAPHS = 128  # compared at once, in all their views
REPEATS = 5  # of the two-fold cross-validation
REGULARISATION = 0.1  # C of the logistic regression: the inverse weight of the squared weights
TAIL = 0.01  # of the held-out photographs: those that are nearest to a training photograph
SMALL = 1e-3  # a detail that counts as none: a quarter of a grey level
MAX_MOVE = 2  # by how many 24ths of its side a copy is moved
MAX_CROP = 3  # how many 24ths of its side are cut off from each edge of a copy
MUCH_NEARER = 0.5  # of the distance to the second nearest photograph


class ImageFeatures:
    """Features of images (N, 3, H, W): their similarity to random patches of photographs, at three scales, and how
    large their details are.

    Filters are whitened patches (Coates & Ng 2012, section 3.1); the positive and the negative part of their responses
    are averaged over each quarter of the image, and their root mean square over all of it. Beside these stand the mean
    colours of sixteen squares, the standard deviation of each colour, and `detail_sizes`. An image and its mirror image
    have the same features. They are standardised by those of the photographs.
    """

    def __init__(self, photographs: torch.Tensor):
        generator = torch.Generator().manual_seed(0)
        sides = [side for side in PATCH_SIDES if side <= min(photographs.shape[2:])]
        self.filters = [make_filters(photographs, side, generator) for side in sides]
        self.mean = 0.0
        self.std = 1.0
        features = self(photographs)
        self.mean = features.mean(dim=0)
        self.std = features.std(dim=0).clamp(min=1e-6)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(N, D)."""
        batches = images.split(max(1, NUMBERS // images[0].numel()))
        features = torch.cat([(self._respond(batch) + self._respond(batch.flip(-1))) / 2 for batch in batches])
        return (features - self.mean) / self.std

    def _respond(self, images):
        features = [F.adaptive_avg_pool2d(images, 4).flatten(1), images.flatten(2).std(dim=-1)]
        for weight, bias in self.filters:
            response = F.conv2d(images, weight, bias)
            for part in (response.relu(), (-response).relu()):
                features.append(F.adaptive_avg_pool2d(part, 2).flatten(1))
                features.append(part.square().mean(dim=(2, 3)).sqrt())
        return torch.cat([*features, *detail_sizes(images)], dim=1)


def detail_sizes(images: torch.Tensor) -> list[torch.Tensor]:
    """How large the details of images (N, 3, H, W) are, as logarithms of means: (N, 9) each, for blocks of two and of
    four pixels whose corner lies on even or on odd rows and columns. Upsampling leaves a grid behind: the details
    inside its blocks are smaller than those across their borders, which a mean over all positions cannot show."""
    sizes = []
    for _ in range(2):
        height, width = images.shape[2:]
        if min(height, width) < 4:
            break
        for top, left in ((0, 0), (0, 1), (1, 0), (1, 1)):
            even_height = (height - top) // 2 * 2
            even_width = (width - left) // 2 * 2
            _, details = haar(images[:, :, top : top + even_height, left : left + even_width])
            sizes.append((details.abs().mean(dim=(2, 3)) + SMALL).log())
            sizes.append((details.square().mean(dim=(2, 3)).sqrt() + SMALL).log())
        images = F.avg_pool2d(images, 2)
    return sizes


def make_filters(photographs: torch.Tensor, side: int, generator) -> tuple[torch.Tensor, torch.Tensor]:
    """(weight, bias) of a convolution with FILTERS random patches, whitened and of length 1; side: theirs in pixels."""
    patches_per_image = math.prod((size - side) // 2 + 1 for size in photographs.shape[2:])
    order = torch.randperm(len(photographs), generator=generator)
    chosen = photographs[order[: max(1, PATCHES // patches_per_image)]]
    patches = F.unfold(chosen, side, stride=2).transpose(1, 2).flatten(0, 1)
    mean = patches.mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))
    scales = (values + 1e-4 * values.max()).clamp(min=1e-12).rsqrt()
    whiten = vectors @ torch.diag(scales) @ vectors.T
    some = patches[torch.randint(len(patches), (FILTERS,), generator=generator)]
    weight = F.normalize((some - mean) @ whiten) @ whiten
    return weight.unflatten(1, (3, side, side)), -weight @ mean


@threadpool_limits.wrap(limits=1, user_api="blas")  # its products are small: threads would wait for each other
def two_sample_accuracy(x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """(balanced accuracy, its binomial error) with which a classifier distinguishes x (M, D) from y (N, D).

    A logistic regression of standardised features is trained on half of both and tested on the other half, then the
    other way round (the classifier two-sample test of Lopez-Paz & Oquab 2017), for several random halves. 0.5: it
    cannot distinguish them. The error is that of one split: several have the same samples. M and N are 2 or more.
    """
    features = torch.cat([x, y]).double().numpy()
    labels = np.repeat([0, 1], [len(x), len(y)])
    folds = RepeatedStratifiedKFold(n_splits=2, n_repeats=REPEATS, random_state=0)
    scores = cross_validate(make_classifier(), features, labels, cv=folds, scoring=score_both)
    return balanced_accuracy(scores["test_x"].mean(), scores["test_y"].mean(), len(x), len(y))


@threadpool_limits.wrap(limits=1, user_api="blas")
def trained_accuracy(
    x: torch.Tensor, y: torch.Tensor, test_x: torch.Tensor, test_y: torch.Tensor
) -> tuple[float, float]:
    """(balanced accuracy, its binomial error) on test_x and test_y (K, D) of a logistic regression that was trained to
    distinguish x (M, D) from y (N, D). The more images it is trained on, the more differences it sees: an accuracy is
    a lower bound on what a better classifier would reach."""
    classifier = make_classifier()
    classifier.fit(torch.cat([x, y]).double().numpy(), np.repeat([0, 1], [len(x), len(y)]))
    test_labels = np.repeat([0, 1], [len(test_x), len(test_y)])
    right = score_both(classifier, torch.cat([test_x, test_y]).double().numpy(), test_labels)
    return balanced_accuracy(right["x"], right["y"], len(test_x), len(test_y))


def make_classifier() -> LogisticRegression:
    """The untrained classifier of both accuracies; its two classes weigh the same."""
    return LogisticRegression(C=REGULARISATION, class_weight="balanced", max_iter=1000)


def balanced_accuracy(right_x: float, right_y: float, m: int, n: int) -> tuple[float, float]:
    """(the mean of the shares of m and of n images that are classified correctly, its binomial error)."""
    variance = right_x * (1 - right_x) / m + right_y * (1 - right_y) / n
    return float(right_x + right_y) / 2, math.sqrt(variance) / 2


def score_both(classifier, features: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """A scorer of scikit-learn's: the shares of x, whose label is 0, and of y that are classified correctly."""
    is_right = classifier.predict(features) == labels
    return {"x": is_right[labels == 0].mean(), "y": is_right[labels == 1].mean()}


def kernel_distance(x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    """(distance, its standard error) between the distributions of which features x (M, D) and y (N, D) are samples.

    The squared maximum mean discrepancy with the kernel (x.y / D + 1)^3, estimated without bias, so it may fall below
    0 (Binkowski et al. 2018, section 4: the kernel Inception distance, with our features). The standard error is the
    jackknife's, from leaving out each x and each y in turn (Efron & Stein 1981). M and N are 3 or more.
    """
    m = len(x)
    n = len(y)
    sum_x = cubic_kernel(x, x).fill_diagonal_(0).sum(dim=1)  # (M,)
    sum_y = cubic_kernel(y, y).fill_diagonal_(0).sum(dim=1)  # (N,)
    between = cubic_kernel(x, y)  # (M, N)
    total = between.sum()
    distance = sum_x.sum() / (m * (m - 1)) + sum_y.sum() / (n * (n - 1)) - 2 * total / (m * n)
    without_x = (sum_x.sum() - 2 * sum_x) / ((m - 1) * (m - 2)) - 2 * (total - between.sum(dim=1)) / ((m - 1) * n)
    without_y = (sum_y.sum() - 2 * sum_y) / ((n - 1) * (n - 2)) - 2 * (total - between.sum(dim=0)) / ((n - 1) * m)
    variance = (m - 1) * without_x.var(correction=0) + (n - 1) * without_y.var(correction=0)
    return distance.item(), variance.sqrt().item()


def cubic_kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(x.y / D + 1)^3 for each pair of x (M, D) and y (N, D): (M, N)."""
    return ((x.double() @ y.double().T) / x.shape[1] + 1) ** 3


def species_p(species: torch.Tensor, held_out_species: torch.Tensor) -> float:
    """The p-value of the hypothesis that each species is as frequent in samples, species (M,), as in held-out
    photographs, held_out_species (N,) (chi-squared test)."""
    labels = np.repeat([0, 1], [len(species), len(held_out_species)])
    counts = crosstab(labels, torch.cat([species, held_out_species]).numpy()).count
    return float(chi2_contingency(counts).pvalue)


def standardise(images: torch.Tensor) -> torch.Tensor:
    """Images (N, 3, H, W) as vectors (N, 3 H W) with mean 0 and length 1: without brightness and contrast, as a pale or
    dark image is near to all others."""
    vectors = images.flatten(1) - images.mean(dim=(1, 2, 3))[:, None]
    return vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-6)


def view_distances(images: torch.Tensor, photographs: torch.Tensor) -> torch.Tensor:
    """Distances (M, N) from images (M, 3, H, W) to the nearest view of each photograph (N, 3, H, W), brightness and
    contrast left aside, without the edge of both: 0 for copies, square root of 2 for images that have nothing in
    common. A view is mirrored or not, and moved by up to MAX_MOVE, or cropped and enlarged."""
    edge = max(1, round(MAX_MOVE * images.shape[2] / 24))
    inner = slice(edge, -edge)
    vectors = standardise(images[:, :, inner, inner])
    columns = []
    for part in photographs.split(PHOTOGRAPHS):
        views = itertools.chain(make_views(part, edge), make_views(part.flip(-1), edge))
        distances = [torch.cdist(vectors, standardise(view[:, :, inner, inner])) for view in views]
        columns.append(torch.stack(distances).amin(dim=0))
    return torch.cat(columns, dim=1)


def make_views(photographs: torch.Tensor, edge: int):
    """Photographs (N, 3, H, W), moved by up to `edge` pixels in each direction, and cropped, one view after another."""
    height, width = photographs.shape[2:]
    padded = F.pad(photographs, (edge,) * 4, mode="replicate")
    step = max(1, edge // MAX_MOVE)
    for top in range(0, 2 * edge + 1, step):
        for left in range(0, 2 * edge + 1, step):
            yield padded[:, :, top : top + height, left : left + width]
    cut = max(1, round(MAX_CROP * height / 24))
    yield F.interpolate(photographs[:, :, cut:-cut, cut:-cut], (height, width), mode="bilinear", antialias=True)


def tail_share(distances: torch.Tensor, held_out_distances: torch.Tensor) -> tuple[float, float]:
    """(share of samples that are nearer to training photographs than the nearest 1 % of held-out ones, p-value).

    distances (M,): from samples to the nearest training photograph; held_out_distances (N,): from held-out photographs.
    If both had the same distribution, the number of samples below the k-th nearest photograph would be negative
    hypergeometric.
    """
    m = len(distances)
    n = len(held_out_distances)
    rank = max(1, round(TAIL * n))
    count = (distances < held_out_distances.sort().values[rank - 1]).sum().item()
    p = nhypergeom.pmf(np.arange(count, m + 1), n + m, m, rank).sum()  # nhypergeom.sf rounds to 1e-15
    return count / m, min(float(p), 1.0)


def count_copies(distances: torch.Tensor, training_count: int) -> tuple[int, int, float]:
    """(training photographs that a sample is much nearer to than to all others, held-out ones, one-sided p-value), for
    the distances (M, N + K) from samples to N training photographs, then to K held-out ones.

    Much nearer: at most half as far as from the second nearest photograph (Yoon et al. 2023 take a third). A test of
    three samples, as in Meehan et al. 2020: for a model that saw none of the N + K photographs, which of them are
    called training ones is random, so that their number is hypergeometric. A photograph counts once, however many
    samples are near to it.
    """
    two, indices = distances.topk(2, largest=False)  # (M, 2) each
    is_copy = two[:, 0] <= MUCH_NEARER * two[:, 1]
    copied = indices[is_copy, 0].unique()
    of_training = (copied < training_count).sum().item()
    p = hypergeom.sf(of_training - 1, distances.shape[1], training_count, len(copied))
    return of_training, len(copied) - of_training, float(p)
