"""A training step of the MLP autoencoder: our NumPy graph against PyTorch eager.

    python -m benchmarks.mlp_numpy_vs_torch --batch-size 16

Both train the same network from the same weights on the same batches, in turns, in one process. A turn is one epoch
after a short warm-up.
"""

import argparse
import statistics

import torch
from torch import nn

from autograd import MSE
from benchmarks.tools import seconds_of
from common.flags import positive_int
from common.process import seed_everything
from data import create_flower_dataloaders
from MLPAE_train_script import MLPAutoencoder, flatten

LR = 1.0
WARM_UP = 10  # steps before each turn: the caches and thread pools belong to the other one until then


def numpy_step(model):
    """A function that makes one training step of our graph on a batch (B, 3*H*W)."""
    mse = MSE()

    def step(x):
        mse.forward(model.forward(x), x)
        model.backward(mse.backward())
        model.optimstep(LR)

    return step


def torch_step(model):
    """The same in PyTorch, as its tutorials write it, from copies of the same weights."""
    sizes = [param.shape for param in model.params if param.ndim == 2]  # (out_features, in_features)
    layers = [nn.Linear(columns, rows) for rows, columns in sizes]
    encoder = [layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2]]
    decoder = [layers[3], nn.ReLU(), layers[4], nn.ReLU(), layers[5], nn.Sigmoid()]
    twin = nn.Sequential(*encoder, *decoder)
    for param, array in zip(twin.parameters(), model.params, strict=True):
        param.data = torch.tensor(array)
    criterion = nn.MSELoss()
    optimizer = torch.optim.SGD(twin.parameters(), lr=LR)

    def step(x):
        optimizer.zero_grad()
        criterion(twin(x), x).backward()
        optimizer.step()

    return step


def seconds_per_step(step, batches) -> float:
    """Seconds of a step, the mean over all batches."""
    for x in batches[:WARM_UP]:
        step(x)
    return seconds_of(lambda: [step(x) for x in batches]) / len(batches)


def main(argv=None):
    """Print both times, and the median of their ratio, turn by turn."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch-size", type=positive_int, default=16)
    parser.add_argument("--turns", type=positive_int, default=15)
    args = parser.parse_args(argv)
    seed_everything(0)
    train_loader, _ = create_flower_dataloaders(args.batch_size, data="real")
    batches = [images for images, _ in train_loader if len(images) == args.batch_size]
    model = MLPAutoencoder([24, 24])
    model.initialise(train_loader.dataset.images.numpy().mean(axis=0).ravel() / 255)
    arrays = [flatten(images) for images in batches]
    tensors = [images.flatten(1) for images in batches]
    ours = numpy_step(model)
    theirs = torch_step(model)
    times = [(seconds_per_step(ours, arrays), seconds_per_step(theirs, tensors)) for _ in range(args.turns)]
    numpy_times, torch_times = zip(*times, strict=True)
    ratio = statistics.median(theirs / ours for ours, theirs in times)
    print("| batch | NumPy, ms per step | PyTorch, ms per step | ratio |\n|---|---|---|---|")
    milliseconds = f"{1e3 * statistics.median(numpy_times):.2f} | {1e3 * statistics.median(torch_times):.2f}"
    print(f"| {args.batch_size} | {milliseconds} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
