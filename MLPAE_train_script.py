"""Flowers, part 2: an MLP autoencoder on hand-written backpropagation, trained by plain SGD.

    python MLPAE_train_script.py                            # trains and shows the log
    python MLPAE_train_script.py > ./log/train_MLPAE.txt    # keeps the log, for the hand-in
    python MLPAE_train_script.py --resume                   # goes on after a stop

Writes models/BestModel_MLPAE.pkl, models/LastModel_MLPAE.pkl and vis/loss_MLPAE.png.
"""

from training.flags import LR_DECAY, LR_DECAY_EVERY, add_data_flags, add_training_flags, make_parser, parse_first


def parse_args(argv=None):
    """The coursework's five settings are the defaults."""
    parser = make_parser("Train the MLP autoencoder on the flowers.")
    add_data_flags(parser)
    add_training_flags(parser, epochs=100, batch_size=16, lr=1.0, patience=5)
    return parser.parse_args(argv)


if __name__ == "__main__":
    parse_first(parse_args)

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from autograd import MSE, Graph, Linear, ReLU, Sigmoid
from data import create_flower_dataloaders, describe, mean_image_loss, output_root
from training import UserError
from training.distributed import world_size
from training.figures import plot_losses
from training.loop import fit, last_lines, warn_unless_below
from training.script import log, run_script, seed_everything

LOSS_UNIT = "mean squared error"


class MLPAutoencoder(Graph):
    """3*H*W -> 256 -> 128 -> 64 (latent) -> 128 -> 256 -> 3*H*W, of images in [0, 1]."""

    name = "MLPAE"
    is_dist = has_label = False

    def __init__(self, image_size: list[int]):
        height, width = image_size
        pixels = 3 * height * width
        encoder = Graph([Linear(pixels, 256, input_grad=False), ReLU(), Linear(256, 128), ReLU(), Linear(128, 64)])
        decoder = Graph([Linear(64, 128), ReLU(), Linear(128, 256), ReLU(), Linear(256, pixels), Sigmoid()])
        super().__init__([encoder, decoder])

    def initialise(self, mean_image: np.ndarray) -> None:
        """Start from a network that is linear and answers with the mean image (3*H*W,), values in [0, 1].

        Hidden units come in antisymmetric pairs: one of each pair has the opposite weights, and the next layer
        subtracts it, relu(a) - relu(-a) = a, so no ReLU loses anything at the start ("looks linear", Balduzzi et al.
        2017). The weights are orthogonal (Saxe et al. 2014) with gain √2. The first bias subtracts the mean image, so
        that each unit is active for about half of the images. The last weights are zero and the last bias is the logit
        of the mean image, so the first loss is the variance of the images.
        What each of these is worth stands in benchmarks/README.md.
        """
        nodes = [node for part in self.nodes for node in part.nodes]
        for previous, node, following in zip([None, *nodes[:-1]], nodes, [*nodes[1:], None], strict=True):
            if isinstance(node, Linear):
                weight = node.params[0]
                paired_in, paired_out = isinstance(previous, ReLU), isinstance(following, ReLU)
                block = orthogonal(weight.shape[0] // (1 + paired_out), weight.shape[1] // (1 + paired_in))
                block = np.hstack([block, -block]) if paired_in else block
                weight[...] = np.sqrt(2) * (np.vstack([block, -block]) if paired_out else block)
        first_weight, first_bias, *_, last_weight, last_bias = self.params
        first_bias[...] = -first_weight @ mean_image
        last_weight.fill(0)
        mean = mean_image.clip(0.01, 0.99)  # the logit of 0 or 1 is infinite
        last_bias[...] = np.log(mean / (1 - mean))

    def describe_layers(self) -> str:
        """The numbers of units, "1728 -> 256 -> ..."."""
        weights = [param for param in self.params if param.ndim == 2]  # (out_features, in_features)
        return " -> ".join(str(size) for size in (weights[0].shape[1], *(weight.shape[0] for weight in weights)))

    def state_dict(self) -> dict:
        """{"encoder": [W, b, W, b, ...], "decoder": [...]}; the arrays are the model's own."""
        return {"encoder": self.nodes[0].params, "decoder": self.nodes[1].params}

    def load_state_dict(self, weights: dict) -> None:
        """Copy what `state_dict` returned into the model. Raises ValueError where it does not fit."""
        for part, own in self.state_dict().items():
            if [np.shape(array) for array in weights[part]] != [param.shape for param in own]:
                raise ValueError(f"the checkpoint's {part} has not the layers of {self.name}")
            for param, array in zip(own, weights[part], strict=True):
                param[...] = array

    def reconstruct(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) through the bottleneck and back."""
        return torch.from_numpy(self.forward(flatten(images)).reshape(images.shape))

    __call__ = reconstruct

    def measure(self, outputs: torch.Tensor, images: torch.Tensor) -> tuple[float, dict]:
        """(the loss, what the log says of it) for what `reconstruct` returned."""
        loss = MSE().forward(flatten(outputs), flatten(images))
        return loss, {"loss": loss}


def orthogonal(rows: int, columns: int) -> np.ndarray:
    """A random (rows, columns) matrix with orthonormal rows or columns, whichever are fewer."""
    q, r = np.linalg.qr(np.random.standard_normal((max(rows, columns), min(rows, columns))))
    q *= np.sign(np.diag(r))  # without it q would depend on the sign convention of the library
    return q if rows >= columns else q.T


def flatten(images: torch.Tensor) -> np.ndarray:
    """A tensor (B, 3, H, W) -> an array (B, 3*H*W), stored feature by feature like every layer's output."""
    return np.asfortranarray(images.numpy().reshape(len(images), -1))


class PerceptronLearner:
    """What `fit` trains: the model and plain SGD, see training/learner.py for PyTorch's."""

    suffix = ".pkl"

    def __init__(self, model: MLPAutoencoder, lr: float):
        self.model, self.mse, self.lr = model, MSE(), lr

    def train_step(self, images: torch.Tensor, labels: torch.Tensor, epoch: int) -> dict:
        """Forward, loss, backward, step."""
        lr = self.lr * LR_DECAY ** ((epoch - 1) // LR_DECAY_EVERY)
        x = flatten(images)
        loss = self.mse.forward(self.model.forward(x), x)
        self.model.backward(self.mse.backward())
        self.model.optimstep(lr)
        return {"loss": loss}

    def valid_step(self, images: torch.Tensor, labels: torch.Tensor) -> dict:
        """The loss alone."""
        x = flatten(images)
        return {"loss": self.mse.forward(self.model.forward(x), x)}

    def state_dict(self) -> dict:
        """The weights: plain SGD has no other state."""
        return {"state_dict": self.model.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` returned."""
        self.model.load_state_dict(state["state_dict"])


def main(argv=None):
    """Train; returns the history."""
    args = parse_args(argv)
    if world_size() > 1:
        raise UserError("MLPAE trains in one process: start it with python, not with torchrun")
    torch.set_num_threads(1)  # it only slices batches
    loaders = create_flower_dataloaders(args.batch_size, args.data_root, data=args.data)
    train_set = loaders[0].dataset
    log(f"Data: {describe(*loaders)}")
    args.output_root = output_root(args.output_root, train_set.info)

    seed_everything(args.seed)
    model = MLPAutoencoder(train_set.info["image_size"])
    model.initialise(train_set.images.numpy().mean(axis=0).ravel() / 255)
    parameters = sum(param.size for param in model.params)
    log(f"Model: {model.name}, {model.describe_layers()}, {parameters:,} parameters")
    about = {"model": model.name, "config": {"image_size": train_set.info["image_size"]}, "data": train_set.info}
    learner = PerceptronLearner(model, args.lr)
    with threadpool_limits(1):  # two threads of NumPy's BLAS are hardly faster, and beside another program far slower
        best = fit(args, about, loaders, learner)
    warn_unless_below(mean_image_loss(loaders, model.measure), best)
    for line in last_lines(best, learner.suffix):
        log(line)
    path = args.output_root / "vis" / f"loss_{model.name}.png"
    plot_losses(best["history"], path, f"{model.name} on {train_set.info['name']}", LOSS_UNIT)
    return best["history"]


if __name__ == "__main__":
    run_script(main)
