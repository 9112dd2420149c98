"""The MLP autoencoder's training step: our NumPy graph against PyTorch eager, and against the arithmetic limit.

    python benchmarks/mlp_numpy_vs_torch.py --batch-size 16

Both train the same network from the same weights on the same batches, in turns, in one process. A turn is
one epoch after a short warm-up. The limit is the time that the step's matrix products would take at the speed of a
large one, measured in the same run.
"""

import argparse
import statistics
import time

import common
import torch

from autograd import MSE, Linear
from data import create_flower_dataloaders
from MLPAE_train_script import MLPAutoencoder, flatten
from training.flags import positive_int
from training.script import seed_everything

WARM_UP = 10  # steps before each turn: the caches and thread pools belong to the other one until then


def numpy_step(model, lr):
    """One training step of our graph, on a batch (B, 3*H*W) -> the loss before it."""
    mse = MSE()

    def step(x):
        loss = mse.forward(model.forward(x), x)
        model.backward(mse.backward())
        model.optimstep(lr)
        return loss

    return step


def torch_step(model, lr):
    """The same in PyTorch, as its tutorials write it, from copies of the same weights."""
    layers = []
    for node in [node for part in model.nodes for node in part.nodes]:
        if isinstance(node, Linear):
            weight, bias = map(torch.tensor, node.params)
            layers.append(torch.nn.Linear(weight.shape[1], weight.shape[0]))
            layers[-1].load_state_dict({"weight": weight, "bias": bias})
        else:
            layers.append(getattr(torch.nn, type(node).__name__)())
    twin, criterion = torch.nn.Sequential(*layers), torch.nn.MSELoss()
    optimizer = torch.optim.SGD(twin.parameters(), lr=lr)

    def step(x):
        optimizer.zero_grad()
        loss = criterion(twin(x), x)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def turn(step, batches):
    """Seconds a step over all batches, and the mean loss."""
    for x in batches[:WARM_UP]:
        step(x)
    start = time.perf_counter()
    losses = [step(x) for x in batches]
    return (time.perf_counter() - start) / len(batches), statistics.mean(losses)


def step_flops(model, batch_size):
    """A layer of n weights takes 2n operations a sample forward, 2n for dW, and 2n for dX but in the first."""
    sizes = [param.size for param in model.params if param.ndim == 2]
    return 2 * batch_size * (3 * sum(sizes) - sizes[0])


def main(argv=None):
    """Write two rows; the ratio is the median of PyTorch's time over ours, turn by turn."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch-size", type=positive_int, default=16)
    parser.add_argument("--turns", type=positive_int, default=15)
    args = parser.parse_args(argv)
    seed_everything(0)
    loaders = create_flower_dataloaders(args.batch_size, data="real")
    batches = [images for images, _ in loaders[0] if len(images) == args.batch_size]
    model = MLPAutoencoder([24, 24])
    model.initialise(loaders[0].dataset.images.numpy().mean(axis=0).ravel() / 255)

    lr = 1.0
    ours = numpy_step(model, lr), [flatten(images) for images in batches]
    theirs = torch_step(model, lr), [images.flatten(1) for images in batches]
    rows = [(*turn(*ours), *turn(*theirs)) for _ in range(args.turns)]
    t_numpy, loss_numpy, t_torch, loss_torch = (list(column) for column in zip(*rows, strict=True))
    ratio = statistics.median(theirs / ours for ours, theirs in zip(t_numpy, t_torch, strict=True))
    limit, rows = step_flops(model, args.batch_size) / common.matmul_peak(), []
    for name, seconds, losses, of_numpy in (("NumPy", t_numpy, loss_numpy, 1), ("torch", t_torch, loss_torch, ratio)):
        median = statistics.median(seconds)
        what = f"{name}, batch {args.batch_size}: a step (loss of the last turn {losses[-1]:.6f})"
        rows.append((what, f"{median * 1e3:.2f} ms", f"{of_numpy:.2f}", f"{median / limit:.2f}"))
    common.record("MLP, NumPy against torch eager", rows)


if __name__ == "__main__":
    main()
