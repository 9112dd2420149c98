"""What z knows of the digit: logistic regression on the latent vectors of MNIST's autoencoders, and on pixels.

    python -m benchmarks.latent_probe                   # the project's models, a minute

Fitted to all 55,000 training digits, and to ten of each class (ten draws, mean and standard deviation); accuracies on
the test digits. The penalty is chosen on the validation digits. z of VAE and CVAE is a sample of q(z|x), which is what
the decoder gets; two rows use its mean. The CVAE's encoder has the label as an input and no need to repeat it.
"""

import warnings

import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from common import PROJECT
from data import create_mnist_dataloaders
from trained.loading import load_model
from trained.registry import MODELS

MODEL_NAMES = ("MNIST_AE", "MNIST_VAE", "MNIST_CVAE")
PER_CLASS = 10
DRAWS = 10  # of the few labels
STRENGTHS = (0.01, 0.1, 1.0)  # scikit-learn's C, the inverse of the penalty
ITERATIONS = 100


@torch.no_grad()
def encode_parts(name: str, root, parts: list) -> tuple[list, list]:
    """(samples of q(z|x), its means), each (N, D), of the images of each part; of the AE its codes, twice."""
    model, _ = load_model(name, root)
    entry = MODELS[name]
    torch.manual_seed(0)
    samples = []
    means = []
    for images, labels in parts:
        outputs = model.encoder(images, *entry.condition(labels))
        mu, sigma = outputs if entry.variational else (outputs, torch.zeros_like(outputs))
        samples.append(mu + sigma * torch.randn_like(mu))
        means.append(mu)
    return samples, means


def fit_and_test(inputs: list, labels: list, rows) -> float:
    """The test accuracy after a fit to some rows of the training part; inputs, labels: to train, validate and test."""
    best = (-1.0, 0.0)
    for strength in STRENGTHS:
        regression = LogisticRegression(C=strength, max_iter=ITERATIONS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the accuracy no longer changes then
            regression.fit(inputs[0][rows], labels[0][rows])
        accuracies = [regression.score(inputs[part], labels[part]) for part in (1, 2)]
        best = max(best, tuple(accuracies))
    return best[1]


def draw_few(labels: torch.Tensor, seed: int) -> torch.Tensor:
    """The indices of PER_CLASS random images of each class."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return torch.cat([order[labels[order] == digit][:PER_CLASS] for digit in range(10)])


def probe(inputs: list[torch.Tensor], labels: list[torch.Tensor]) -> str:
    """The cells of a row of the table: the accuracies with all labels and with few."""
    scale = inputs[0].std()
    inputs = [(part / scale).numpy() for part in inputs]
    every = fit_and_test(inputs, labels, slice(None))
    few = torch.tensor([fit_and_test(inputs, labels, draw_few(labels[0], seed)) for seed in range(DRAWS)])
    return f"{every:.2%} | {few.mean():.1%} ± {few.std():.1%}"


def main():
    """Print the table."""
    parts = [loader.dataset[:] for loader in create_mnist_dataloaders(128, data="real")]
    labels = [part[1] for part in parts]
    inputs = {"pixels": [images.flatten(1) for images, _ in parts]}
    for name in MODEL_NAMES:
        samples, means = encode_parts(name, PROJECT, parts)
        inputs[name] = samples
        if MODELS[name].variational:
            inputs[f"{name}, mean of q(z\\|x)"] = means
    print(f"| logistic regression on | all labels | {PER_CLASS} of each class |\n|---|---|---|")
    for name, latents in inputs.items():
        print(f"| {name} | {probe(latents, labels)} |", flush=True)


if __name__ == "__main__":
    main()
