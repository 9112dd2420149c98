"""Flowers, part 2: an MLP autoencoder on hand-written backpropagation, trained by plain SGD.

    python MLPAE_train_script.py                            # trains and shows the log
    python MLPAE_train_script.py > ./log/train_MLPAE.txt    # keeps the log, for the hand-in
    python MLPAE_train_script.py --resume                   # continues after a stop

Writes models/BestModel_MLPAE.pkl, models/LastModel_MLPAE.pkl and vis/loss_MLPAE.png.
"""

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from autograd import MSE, Graph, Linear, ReLU, Sigmoid
from common import UserError
from common.distributed import world_size
from common.figures import plot_losses
from common.flags import add_data_flags, add_training_flags, make_parser, positive_int
from common.process import log, run_script, seed_everything
from common.run import start_run
from data import create_flower_dataloaders
from datasets.images import choose_output_root, data_line

LR_DECAY = 0.9  # the coursework's schedule: the learning rate times 0.9
LR_DECAY_EVERY = 5  # every 5 epochs
LOSS_UNIT = "mean squared error"


def parse_args(argv=None):
    """The coursework's settings are the defaults."""
    parser = make_parser("Train the MLP autoencoder on the flowers.")
    add_training_flags(parser, epochs=100, batch_size=16, lr=1.0)
    text = "stop after N epochs without a lower validation loss"
    parser.add_argument("--patience", metavar="N", type=positive_int, default=5, help=text)
    add_data_flags(parser)
    return parser.parse_args(argv)


class MLPAutoencoder(Graph):
    """3*H*W -> 256 -> 128 -> 64 (latent) -> 128 -> 256 -> 3*H*W, of images in [0, 1]."""

    # 作业 Part 2.1 (Part 2 合计 12.5 分): encoder 和 decoder
    def __init__(self, image_size: list[int]):
        height, width = image_size
        pixels = 3 * height * width
        self.encoder = Graph([Linear(pixels, 256, input_grad=False), ReLU(), Linear(256, 128), ReLU(), Linear(128, 64)])
        self.decoder = Graph([Linear(64, 128), ReLU(), Linear(128, 256), ReLU(), Linear(256, pixels), Sigmoid()])
        super().__init__([self.encoder, self.decoder])

    def initialise(self, mean_image: np.ndarray) -> None:
        """Initial weights with which no ReLU loses anything and the output is the mean image (3*H*W,), in [0, 1].

        Hidden units come in antisymmetric pairs: one of each pair has the opposite weights, and the next layer
        subtracts it, relu(a) - relu(-a) = a, so no ReLU loses anything at the start ("looks linear", Balduzzi et al.
        2017). Each block of weights is orthogonal (Saxe et al. 2014) with gain √2. The first bias subtracts the mean
        image, so that each unit is active for about half of the images. The last weights are zero and the last bias is
        the logit of the mean image, so the first loss is the variance of the images.
        benchmarks/README.md shows what each of these is worth.
        """
        nodes = [*self.encoder.nodes, *self.decoder.nodes]
        for before, node, after in zip([None, *nodes[:-1]], nodes, [*nodes[1:], None], strict=True):
            if isinstance(node, Linear):
                weight = node.params[0]
                rows, columns = weight.shape
                paired_rows = isinstance(after, ReLU)
                paired_columns = isinstance(before, ReLU)
                block_rows = rows // 2 if paired_rows else rows
                block_columns = columns // 2 if paired_columns else columns
                block = orthogonal(block_rows, block_columns)
                if paired_columns:
                    block = np.hstack([block, -block])
                if paired_rows:
                    block = np.vstack([block, -block])
                weight[...] = np.sqrt(2) * block
        first_weight, first_bias, *_, last_weight, last_bias = self.params
        first_bias[...] = -first_weight @ mean_image
        last_weight.fill(0)
        mean = mean_image.clip(0.01, 0.99)  # the logit of 0 or 1 is infinite
        last_bias[...] = np.log(mean / (1 - mean))

    def describe_layers(self) -> str:
        """The numbers of units, "1728 -> 256 -> ..."."""
        weights = [param for param in self.params if param.ndim == 2]  # (out_features, in_features)
        sizes = [weights[0].shape[1], *(weight.shape[0] for weight in weights)]
        return " -> ".join(map(str, sizes))

    def state_dict(self) -> dict:
        """{"encoder": [W, b, W, b, ...], "decoder": [...]}; the arrays are the model's own."""
        return {"encoder": self.encoder.params, "decoder": self.decoder.params}

    def load_state_dict(self, weights: dict) -> None:
        """Copy what `state_dict` returned into the model. Raises ValueError where the shapes differ."""
        for part, own in self.state_dict().items():
            if [np.shape(array) for array in weights[part]] != [param.shape for param in own]:
                raise ValueError(f"the weights of the {part} do not have the shapes of its layers")
            for param, array in zip(own, weights[part], strict=True):
                param[...] = array

    def reconstruct(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) through the bottleneck and back."""
        return torch.from_numpy(self.forward(flatten(images)).reshape(images.shape))

    __call__ = reconstruct  # model(images), as with PyTorch's models

    def loss(self, outputs: torch.Tensor, images: torch.Tensor) -> tuple[float, dict]:
        """(the loss, the metrics of the log) for what `reconstruct` returned, as PyTorch's models have it."""
        loss = MSE().forward(flatten(outputs), flatten(images))
        return loss, {"loss": loss}


def orthogonal(rows: int, columns: int) -> np.ndarray:
    """A random (rows, columns) matrix with orthonormal rows or columns, whichever are fewer."""
    q, r = np.linalg.qr(np.random.standard_normal((max(rows, columns), min(rows, columns))))
    q *= np.sign(np.diag(r))  # without it q would depend on the sign convention of the library
    return q if rows >= columns else q.T


def flatten(images: torch.Tensor) -> np.ndarray:
    """A tensor (B, 3, H, W) -> an array (B, 3*H*W)."""
    return images.numpy().reshape(len(images), -1)


@threadpool_limits.wrap(limits=1, user_api="blas")  # two threads are hardly faster, and beside other programs slower
def main(argv=None):
    """Train; returns the losses of each epoch."""
    args = parse_args(argv)
    if world_size() > 1:
        raise UserError("MLPAE trains in one process: start it with python, not with torchrun")
    torch.set_num_threads(1)  # PyTorch only slices the batches
    train_loader, valid_loader = create_flower_dataloaders(args.batch_size, args.data_root, data=args.data)
    train_set = train_loader.dataset
    log(data_line(train_loader, valid_loader))

    seed_everything(args.seed)
    model = MLPAutoencoder(train_set.info["image_size"])
    mean_image = train_set.images.numpy().mean(axis=0).ravel() / 255  # bytes -> [0, 1]
    model.initialise(mean_image)
    mse = MSE()
    log(f"Model: MLPAE, {model.describe_layers()}, {sum(param.size for param in model.params):,} parameters")

    root = choose_output_root(args.output_root, train_set.info)
    settings = {"epochs": args.epochs, "patience": args.patience, "batch_size": args.batch_size, "lr": args.lr}
    with start_run(
        "MLPAE",
        root,
        {"state_dict": model},
        config={"image_size": train_set.info["image_size"]},
        data=train_set.info,
        settings=settings,
        may_change=("epochs", "patience"),
        seed=args.seed,
        resume=args.resume,
        suffix=".pkl",
    ) as run:
        for epoch in run.epochs():
            # 作业 Part 2.2: Early Stopping, after --patience epochs without a lower validation loss (checked here, so
            # that a run that is resumed after its end stops as well)
            if run.epochs_since_best >= args.patience:
                break

            # 作业 Part 2.2: Training Loop
            lr = args.lr * LR_DECAY ** ((epoch - 1) // LR_DECAY_EVERY)
            for images, _ in run.batches("train", train_loader):  # with a progress bar
                x = flatten(images)
                reconstruction = model.forward(x)
                loss = mse.forward(reconstruction, x)
                model.backward(mse.backward())
                model.optimstep(lr)
                run.record({"loss": loss})  # for the mean over the epoch

            # 作业 Part 2.2: Validation Loop
            for images, _ in run.batches("valid", valid_loader):
                x = flatten(images)
                reconstruction = model.forward(x)
                loss = mse.forward(reconstruction, x)
                run.record({"loss": loss})

            # 作业 Part 2.2: Model Saving, to models/BestModel_MLPAE.pkl, when the validation loss is the lowest so far
            if run.valid_loss < run.best_loss:
                run.save_best()
            run.end_epoch()  # the epoch's line of the log, and LastModel_MLPAE.pkl for --resume
        best = run.finish()
    plot_losses(best["history"], root / "vis" / "loss_MLPAE.png", f"MLPAE on {best['data']['name']}", LOSS_UNIT)
    return best["history"]


if __name__ == "__main__":
    run_script(main)
