"""Our diffusion model against a widely used library, which trains for as long as our epochs take.

    pip install denoising-diffusion-pytorch
    python -m benchmarks.diffusion_library --epochs 110         # half an hour; needs ./flowers

Both are trained on the same photographs, 24x24 pixels, on the same processor, one after the other. The library has its
own defaults: Unet(64), 35.7 million weights; GaussianDiffusion; batch size, optimizer and averaged weights of its
Trainer, whose loop needs a folder of images and is written out here. Only its sampler takes 50 steps (DDIM) instead of
1000, which take hours here; ours takes 25 for each of two stages. Prints a table, and plots
benchmarks/diffusion_library.png.
"""

import argparse
import importlib
import tempfile
import time
from pathlib import Path

import torch

import train_script
from benchmarks.tools import seconds_of
from beyond.measures import ImageFeatures, kernel_distance, two_sample_accuracy
from beyond.score import mean_and_error
from common.figures import plot_samples
from common.flags import positive_int
from data import create_flower_dataloaders
from datasets.images import mirror
from datasets.mnist import import_torchvision
from trained.loading import load_model
from trained.sampling import sample_diffusion

SIZE = 24  # pixels
SAMPLES = 256
SHOWN = 10  # samples in the picture
STEPS = 50  # of the library's sampler
BATCH = 16  # of the library


def train_ours(epochs: int, device: str) -> tuple[torch.Tensor, float]:
    """(samples, seconds of the training) of train_script.py."""
    patient = {"DDPM": train_script.TRAININGS["DDPM"]._replace(patience=epochs)}
    flags = ["--model", "DDPM", "--image-size", SIZE, "--epochs", epochs, "--data", "real", "--device", device]
    with tempfile.TemporaryDirectory() as root:
        argv = [*map(str, flags), "--output-root", root]
        seconds = seconds_of(lambda: train_script.main(argv, trainings=patient))
        model, _ = load_model("DDPM", Path(root))
    return sample_diffusion(model, SAMPLES, seed=0), seconds


def train_library(training: torch.Tensor, seconds: float, device: str) -> tuple[torch.Tensor, float]:
    """(samples, epochs) of the library's model after that time."""
    import_torchvision()  # the library's own import of it fails beside a CPU build of PyTorch
    library = importlib.import_module("denoising_diffusion_pytorch")
    torch.manual_seed(0)
    model = library.GaussianDiffusion(library.Unet(64), image_size=SIZE, sampling_timesteps=STEPS).to(device)
    averaged = importlib.import_module("ema_pytorch").EMA(model, beta=0.995, update_every=10)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.9, 0.99))
    started = time.perf_counter()
    steps = 0
    while time.perf_counter() < started + seconds:
        images = mirror(training[torch.randint(len(training), (BATCH,))])
        model(images.to(device)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        averaged.update()
        steps += 1
    averaged.ema_model.eval()
    with torch.no_grad():
        samples = averaged.ema_model.sample(batch_size=SAMPLES).clamp(0, 1).cpu()
    return samples, steps * BATCH / len(training)


def main(argv=None):
    """Print the table, and plot samples of both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", metavar="N", type=positive_int, default=110, help="of our model")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    training, held_out = (loader.dataset[:][0] for loader in create_flower_dataloaders(BATCH, data="real"))
    features = ImageFeatures(training)
    held_out_features = features(held_out)
    samples, seconds = train_ours(args.epochs, args.device)
    library_samples, library_epochs = train_library(training, seconds, args.device)
    rows = {"ours": (samples, args.epochs), "library": (library_samples, library_epochs)}
    images = []
    labels = []
    print(f"| after {seconds / 60:.1f} minutes | epochs | accuracy | kernel distance |\n|---|---|---|---|")
    for name, (samples, epochs) in rows.items():
        accuracy = mean_and_error([two_sample_accuracy(features(samples), held_out_features)], ".1%")
        distance = mean_and_error([kernel_distance(features(samples), held_out_features)])
        print(f"| {name} | {epochs:.1f} | {accuracy} | {distance} |")
        images.append(samples[:SHOWN])
        labels.append(f"{name}\n{accuracy}")
    title = f"Diffusion models after {seconds / 60:.0f} minutes of training"
    plot_samples(torch.cat(images).numpy(), Path(__file__).with_suffix(".png"), title, SHOWN, labels)


if __name__ == "__main__":
    main()
