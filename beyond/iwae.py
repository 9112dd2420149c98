"""Binarized MNIST: train the importance-weighted autoencoder, a VAE with a tighter bound (Burda et al. 2016).

    python -m beyond.iwae --samples 5 --output-root iwae                        # --samples 1: a VAE
    python -m beyond.likelihood --model MNIST_IWAE --output-root iwae           # its likelihood of the test digits

Writes models/BestModel_MNIST_IWAE.pth, models/LastModel_MNIST_IWAE.pth and vis/loss_MNIST_IWAE.png.
"""

import torch

from common.distributed import init_distributed
from common.flags import MNIST_HELP, add_data_flags, add_device_flag, add_training_flags, make_parser, positive_int
from common.process import log, run_script, seed_everything
from common.run import Run
from data import create_mnist_dataloaders
from datasets.images import choose_output_root, data_line
from generators.iwae import build_iwae, importance_weighted_loss
from main import HIDDEN_SIZE, PATIENCE, train

NAME = "MNIST_IWAE"
BINARIZE_SEED = 0  # for the pixels of the validation and the test digits


def parse_args(argv=None):
    """The flags."""
    parser = make_parser("Train an importance-weighted autoencoder on binarized MNIST.", module="beyond.iwae")
    text = "samples of q(z|x) per image; in training they rise from 1 to K"
    parser.add_argument("--samples", metavar="K", type=positive_int, default=5, help=text)
    parser.add_argument("--latent-size", metavar="N", type=positive_int, default=50, help="length of the latent vector")
    add_training_flags(parser, epochs=40, batch_size=128, lr=4e-3)
    add_device_flag(parser)
    add_data_flags(parser, MNIST_HELP)
    return parser.parse_args(argv)


class RisingSamples(Run):
    """A run whose number of importance samples rises geometrically, from 1 in the first epoch to K in the last: the
    early epochs need no tight bound, and cost as much as a VAE's."""

    def epochs(self):
        """The numbers of the epochs that are still to train."""
        model = self.parts["state_dict"]
        last = self.about["settings"]["epochs"]
        for epoch in super().epochs():
            done = (epoch - 1) / max(1, last - 1)  # from 0 to 1
            model.train_samples = round(model.samples**done)
            yield epoch


def binarize(images: torch.Tensor) -> torch.Tensor:
    """Digits, uint8, with pixels of 0 and 255: each is 255 with its grey value as the probability, always the same."""
    generator = torch.Generator().manual_seed(BINARIZE_SEED)
    return 255 * torch.bernoulli(images / 255, generator=generator).byte()


def create_binarized_dataloaders(batch_size: int, root=None, data: str = "auto"):
    """`create_mnist_dataloaders`, with pixels of 0 and 1. Those of the training digits are drawn again each time (Burda
    et al. 2016, section 5), the others once."""
    loaders = create_mnist_dataloaders(batch_size, root, data, transform=torch.bernoulli)
    info = loaders[0].dataset.info  # of all three
    info["name"] += ", binarized"
    for loader in loaders[1:]:
        loader.dataset.images = binarize(loader.dataset.images)
    return loaders


def main(argv=None):
    """Train and plot the losses; returns the history."""
    args = parse_args(argv)
    device = init_distributed(args.device)
    loaders = create_binarized_dataloaders(args.batch_size, args.data_root, args.data)
    root = choose_output_root(args.output_root, loaders[0].dataset.info)
    log(data_line(*loaders))

    seed_everything(args.seed)
    config = {"hidden_size": HIDDEN_SIZE, "latent_size": args.latent_size, "samples": args.samples}
    settings = {"samples": args.samples, "epochs": args.epochs, "patience": PATIENCE}
    settings |= {"batch_size": args.batch_size, "lr": args.lr}
    best = train(
        NAME,
        build_iwae(**config),
        importance_weighted_loss,
        loaders,
        root,
        device,
        config=config,
        settings=settings,
        seed=args.seed,
        resume=args.resume,
        run_class=RisingSamples,
    )
    return best["history"]


if __name__ == "__main__":
    run_script(main)
