"""Our diffusion model against a widely used library, after as many minutes of training.

    pip install denoising-diffusion-pytorch
    python benchmarks/diffusion_library.py --minutes 10         # 25 minutes; needs ./flowers

Both see the same photographs, 24x24 pixels, on the same processor, one after the other. The library has its own
defaults: Unet(64), 35.7 million weights; GaussianDiffusion; batch size, optimizer and averaged weights of its Trainer,
whose loop needs a folder of images and is written out here. Only its sampler takes 50 steps (DDIM) instead of 1000,
which take hours here; ours takes 25 for each of two stages. Prints a table, and plots benchmarks/diffusion_library.png.
"""

import argparse
import tempfile
import time
from pathlib import Path

import common
import torch

import train_script
from data import create_flower_dataloaders, mirror
from datasets.mnist import import_torchvision
from evaluation.measures import PatchFeatures, kernel_distance, two_sample_accuracy
from evaluation.models import load_model
from evaluation.sampling import sample_diffusion
from evaluation.score import describe
from training.figures import plot_samples
from training.flags import positive_float

SIZE, SAMPLES, SHOWN, STEPS, BATCH = 24, 256, 10, 50, 16
PICTURE = Path(__file__).with_suffix(".png")


def train_ours(minutes: float, device: str) -> tuple[torch.Tensor, str]:
    """(samples, what was done) of train_script.py with as many epochs as fit in."""
    with tempfile.TemporaryDirectory() as root:
        command = f"--model DDPM --image-size {SIZE} --data real --device {device} --output-root {root}".split()

        def train(epochs):
            length = ["--epochs", str(epochs), "--patience", str(epochs)]
            return common.seconds_of(lambda: train_script.main([*command, *length]))

        first = train(1)
        seconds = train(2) - first  # of an epoch; the rest is the start
        epochs = max(1, int((60 * minutes - first + seconds) / seconds))
        taken, model = train(epochs), load_model("DDPM", Path(root))[0]
    started = time.perf_counter()
    samples = sample_diffusion(model, SAMPLES, seed=0)
    return samples, f"{epochs} epochs, {taken / 60:.1f} minutes; sampled in {time.perf_counter() - started:.0f} s"


def train_library(training: torch.Tensor, minutes: float, device: str) -> tuple[torch.Tensor, str]:
    """(samples, what was done) of the library's model, trained for so long."""
    import_torchvision()  # the library's own import of it fails beside a CPU build of PyTorch
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from ema_pytorch import EMA

    torch.manual_seed(0)
    model = GaussianDiffusion(Unet(64), image_size=SIZE, sampling_timesteps=STEPS).to(device)
    averaged = EMA(model, beta=0.995, update_every=10)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.9, 0.99))
    started, steps = time.perf_counter(), 0
    while time.perf_counter() < started + 60 * minutes:
        images = mirror(training[torch.randint(len(training), (BATCH,))])
        model(images.to(device)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        averaged.update()
        steps += 1
    started = time.perf_counter()
    averaged.ema_model.eval()
    with torch.no_grad():
        samples = averaged.ema_model.sample(batch_size=SAMPLES).clamp(0, 1).cpu()
    epochs = steps * BATCH / len(training)
    return samples, f"{epochs:.1f} epochs, {minutes:g} minutes; sampled in {time.perf_counter() - started:.0f} s"


def main(argv=None):
    """Print the table, and plot samples of both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", metavar="X", type=positive_float, default=10.0)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    training, held_out = (loader.dataset[:][0] for loader in create_flower_dataloaders(BATCH, data="real"))
    features, shown, labels = PatchFeatures(training), [], []
    expected = features(held_out)
    ways = {
        "ours": lambda: train_ours(args.minutes, args.device),
        "library": lambda: train_library(training, args.minutes, args.device),
    }
    print("| | | told from photographs with | kernel distance |\n|---|---|---|---|")
    for name, train in ways.items():
        samples, done = train()
        found = features(samples)
        told = describe([two_sample_accuracy(found, expected)], ".1%")
        print(f"| {name} | {done} | {told} | {describe([kernel_distance(found, expected)])} |", flush=True)
        shown.append(samples[:SHOWN])
        labels.append(f"{name}\n{told}")
    title = f"Diffusion models, as many epochs as fit into {args.minutes:g} minutes"
    plot_samples(torch.cat(shown).numpy(), PICTURE, title, SHOWN, labels)


if __name__ == "__main__":
    main()
