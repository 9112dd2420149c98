"""Flowers, part 2: an MLP autoencoder on hand-written backpropagation, trained by plain SGD.

    python MLPAE_train_script.py                            # trains and shows the log
    python MLPAE_train_script.py > ./log/train_MLPAE.txt    # keeps the log, for the hand-in
    python MLPAE_train_script.py --resume                   # goes on after a stop

Writes models/BestModel_MLPAE.pkl, models/LastModel_MLPAE.pkl and vis/loss_MLPAE.png.
"""

import argparse

import numpy as np

from autograd import MSE, Graph, Linear, ReLU, Sigmoid
from checkpoints import UserError
from parallel import WORLD_SIZE
from training import (
    FLOWERS_ROOT,
    LR_DECAY,
    LR_DECAY_EVERY,
    HelpFormatter,
    add_data_flags,
    add_training_flags,
    fit,
    log,
    run_script,
    seed_everything,
)

NAME = "MLPAE"


def build_autoencoder(height: int, width: int) -> Graph:
    """3*H*W -> 256 -> 128 -> 64 (latent) -> 128 -> 256 -> 3*H*W, as Graph([encoder, decoder])."""
    pixels = 3 * height * width
    encoder = Graph([Linear(pixels, 256, input_grad=False), ReLU(), Linear(256, 128), ReLU(), Linear(128, 64)])
    decoder = Graph([Linear(64, 128), ReLU(), Linear(128, 256), ReLU(), Linear(256, pixels), Sigmoid()])
    return Graph([encoder, decoder])


def initialise(model: Graph, mean_image: np.ndarray) -> None:
    """Start from a network that is linear and answers with the mean image.

    Each hidden unit gets a twin with the opposite weights, and the next layer subtracts the twin:
    relu(a) - relu(-a) = a, so no ReLU loses anything at the start ("looks linear", Balduzzi et al.
    2017). The weights are orthogonal (Saxe et al. 2014) with gain √2. The first bias takes the mean
    image away, so that each unit is on for about half of the images. The last weights are zero and
    the last bias is the logit of the mean image, so the first loss is the variance of the images.
    What each of these is worth stands in benchmarks/README.md.

    mean_image: (3*H*W,), values in [0, 1].
    """
    nodes = [node for part in model.nodes for node in part.nodes]
    for before, node, after in zip([None, *nodes[:-1]], nodes, [*nodes[1:], None], strict=True):
        if isinstance(node, Linear):
            weight = node.params[0]
            twins_in, twins_out = isinstance(before, ReLU), isinstance(after, ReLU)
            block = orthogonal(weight.shape[0] // (1 + twins_out), weight.shape[1] // (1 + twins_in))
            block = np.hstack([block, -block]) if twins_in else block
            weight[...] = np.sqrt(2) * (np.vstack([block, -block]) if twins_out else block)
    first_weight, first_bias, *_, last_weight, last_bias = model.params
    first_bias[...] = -first_weight @ mean_image
    last_weight.fill(0)
    mean = mean_image.clip(0.01, 0.99)  # the logit of 0 or 1 is infinite
    last_bias[...] = np.log(mean / (1 - mean))


def orthogonal(rows: int, columns: int) -> np.ndarray:
    """A random (rows, columns) matrix with orthonormal rows or columns, whichever are fewer."""
    q, r = np.linalg.qr(np.random.standard_normal((max(rows, columns), min(rows, columns))))
    q *= np.sign(np.diag(r))  # without it q would depend on the sign convention of the library
    return q if rows >= columns else q.T


def describe_layers(model: Graph) -> str:
    """The numbers of units, "1728 -> 256 -> ..."."""
    weights = [param for param in model.params if param.ndim == 2]  # (out_features, in_features)
    return " -> ".join(str(size) for size in (weights[0].shape[1], *(weight.shape[0] for weight in weights)))


def get_weights(model: Graph) -> dict:
    """{"encoder": [W, b, W, b, ...], "decoder": [...]}; the arrays are the model's own."""
    return {"encoder": model.nodes[0].params, "decoder": model.nodes[1].params}


def set_weights(model: Graph, weights: dict) -> None:
    """Copy what `get_weights` gave into the model. Raises UserError where it does not fit."""
    for part, own in get_weights(model).items():
        if [np.shape(array) for array in weights[part]] != [param.shape for param in own]:
            raise UserError(f"the checkpoint's {part} has not the layers of {NAME}")
        for param, array in zip(own, weights[part], strict=True):
            param[...] = array


def flatten(images) -> np.ndarray:
    """A tensor (B, 3, H, W) -> an array (B, 3*H*W), stored feature by feature like every layer's output."""
    return np.asfortranarray(images.numpy().reshape(len(images), -1))


def parse_args(argv=None):
    """The coursework's five settings are the defaults."""
    parser = argparse.ArgumentParser(
        description="Train the MLP autoencoder on the flowers.", formatter_class=HelpFormatter
    )
    add_data_flags(parser)
    add_training_flags(parser, epochs=100, batch_size=16, lr=1.0, patience=5)
    return parser.parse_args(argv)


def main(argv=None):
    """Train; returns the history."""
    args = parse_args(argv)
    if WORLD_SIZE > 1:
        raise UserError(f"{NAME} trains in one process: start it with python, not with torchrun")
    import torch  # after the flags: it takes a second to load

    from data import create_flower_dataloaders, describe
    from visualization import LOSS_UNIT, plot_losses

    torch.set_num_threads(1)  # it only slices batches; with threads of its own it fights NumPy's for the cores
    loaders = create_flower_dataloaders(args.batch_size, args.data_root or FLOWERS_ROOT, data=args.data)
    train_set = loaders[0].dataset
    log(f"Data: {describe(*loaders)}")

    seed_everything(args.seed)
    model, mse = build_autoencoder(*train_set.info["image_size"]), MSE()
    initialise(model, train_set.images.numpy().mean(axis=0).ravel() / 255)
    log(f"Model: {NAME}, {describe_layers(model)}, {sum(param.size for param in model.params):,} parameters")

    def train_step(images, labels, epoch):
        lr = args.lr * LR_DECAY ** ((epoch - 1) // LR_DECAY_EVERY)
        x = flatten(images)
        loss = mse.forward(model.forward(x), x)
        model.backward(mse.backward())
        model.optimstep(lr)
        return {"loss": loss}

    def valid_step(images, labels):
        x = flatten(images)
        return {"loss": mse.forward(model.forward(x), x)}

    history = fit(
        args,
        {"model": NAME, "config": {"image_size": train_set.info["image_size"]}, "data": train_set.info},
        ".pkl",
        loaders,
        train_step,
        valid_step,
        state=lambda: {"state_dict": get_weights(model)},
        load_state=lambda state: set_weights(model, state["state_dict"]),
    )
    title = f"{NAME} on {train_set.info['name']}"
    plot_losses(history, args.output_root / "vis" / f"loss_{NAME}.png", title, LOSS_UNIT[NAME])
    return history


if __name__ == "__main__":
    run_script(main)
