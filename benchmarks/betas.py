"""Small VAEs of MNIST, from one whose KL weighs almost nothing to one whose posterior collapses, for the page.

    python -m benchmarks.betas --output-root DIR        # 6 trainings, a minute each; trained ones are kept

Writes models/BestModel_betas.pth, of which `python -m playground` makes a station: the decoders, in the int8 that the
page holds (the weights of a float16 file would be rounded to it anyway, and are twice as large); for one test digit of
each class mu and sigma, so that no encoder is needed; and both parts of the bound over all test digits. The last VAE
has two latents and an ordinary KL: its latent space is a map. Prints a table.
"""

import argparse
from pathlib import Path

import torch

from common import PROJECT
from common.checkpoints import save_checkpoint
from common.process import seed_everything
from data import create_mnist_dataloaders
from datasets.images import ImageDataset
from main import PATIENCE, Losses, choose_loss, train
from model import CLASSES, VariationalAutoEncoder, build_model, sample
from playground.weights import dequantise, is_quantised, quantise
from trained.loading import load_model

HIDDEN_SIZE = 256
SMALL = ((0.01, 20), (0.2, 20), (1.0, 20), (5.0, 20), (40.0, 20), (1.0, 2))  # (weight of the KL, latents)
EPOCHS = 10
BATCH = 128


def load_or_train(beta: float, latent_size: int, root: Path):
    """(model, checkpoint) of a training."""
    root = root / f"beta{beta:g}_latents{latent_size}"
    if not (root / "models" / "BestModel_MNIST_VAE.pth").exists():
        seed_everything(0)
        config = {"hidden_size": HIDDEN_SIZE, "latent_size": latent_size}
        settings = {"epochs": EPOCHS, "patience": PATIENCE, "batch_size": BATCH, "lr": 4e-3, "beta": beta}
        train(
            "MNIST_VAE",
            build_model("VAE", **config),
            choose_loss("VAE", beta),
            create_mnist_dataloaders(BATCH, data="real"),
            root,
            torch.device("cpu"),
            config=config,
            settings=settings,
            seed=0,
            resume=False,
        )
    return load_model("MNIST_VAE", root)


@torch.no_grad()
def describe(model: VariationalAutoEncoder, checkpoint: dict, test_set: ImageDataset) -> dict:
    """What the page shows of a small VAE. The bound's two parts are means over the test digits, each reconstructed from
    one sample by the rounded weights."""
    model.load_state_dict(dequantise(model.state_dict()))
    images, digits = test_set[:]
    mu, sigma = model.encoder(images)
    torch.manual_seed(0)
    recon = Losses().reconstruction(model.decode(sample(mu, sigma)), images).mean()
    kl_of_latents = (0.5 * (mu.square() + sigma.square() - 1) - sigma.log()).mean(dim=0)
    shown = [int((digits == digit).nonzero()[0]) for digit in range(CLASSES)]  # the first test digit of each class
    return {
        "beta": checkpoint["settings"]["beta"],
        "latents": checkpoint["config"]["latent_size"],
        "epoch": checkpoint["epoch"],
        "seed": checkpoint["seed"],
        "recon": recon.item(),
        "kl_of_latents": kl_of_latents,
        "shown": torch.tensor(shown),
        "mu": mu[shown],
        "sigma": sigma[shown],
        "decoder": {name: to_int8(weight) for name, weight in model.decoder.state_dict().items()},
    }


def to_int8(weight: torch.Tensor) -> list[torch.Tensor]:
    """[rows, scales] of a layer's weight; [bias] of any other."""
    return list(quantise(weight)) if is_quantised(weight) else [weight]


def main(argv=None):
    """Train what is not trained yet, print the table, write the file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output-root", type=Path, required=True, help="where the trained models are, or will be")
    args = parser.parse_args(argv)
    test_set = create_mnist_dataloaders(BATCH, data="real")[2].dataset
    small = [describe(*load_or_train(*pair, args.output_root), test_set) for pair in SMALL]
    print("| weight of the KL | latents | reconstruction | KL | latents with a KL over 0.1 |\n|---|---|---|---|---|")
    for vae in small:
        kl = vae["kl_of_latents"]
        nats = f"{vae['recon']:.1f} | {kl.sum():.1f}"
        print(f"| {vae['beta']:g} | {vae['latents']} | {nats} | {(kl > 0.1).sum()} |")
    save_checkpoint(PROJECT / "models" / "BestModel_betas.pth", {"small": small})


if __name__ == "__main__":
    main()
