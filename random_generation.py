"""Flowers: random images of the trained models.

    python random_generation.py --model VAE                              # also: AE, GAN, DDPM
    python random_generation.py --model AE --n 100 --seed 1 --temperature 0.7
    python random_generation.py --model DDPM --label calendula --guidance 2

Writes vis/random_images_<M>.png, or vis/random_images_DDPM_<species>.png; for DDPM also vis/species_DDPM.png and
vis/denoising_DDPM.png. No photographs are needed. Other samplers: `python -m beyond.priors`; how good the images are:
`python -m beyond.score`.
"""

from pathlib import Path

import torch

from common import UserError
from common.figures import plot_samples
from common.flags import add_output_flag, make_parser, natural_int, number, positive_float
from common.process import run_script
from trained.loading import load_model, name_model
from trained.registry import MODELS
from trained.sampling import check_finite, decode, noise_and_labels, normal_latents, sample_diffusion

GENERATORS = [name for name, entry in MODELS.items() if entry.data == "flowers" and entry.samples]
MAX_IMAGES = 5000  # a PNG may be 65,535 pixels high
SHOWN = 10  # images of each species, and steps of the denoising


def parse_args(argv=None):
    """The flags."""
    parser = make_parser("Generate images of flowers.")
    parser.add_argument("--model", choices=GENERATORS, required=True, help="which one generates")
    count = number(int, f"a whole number from 1 to {MAX_IMAGES}", lambda value: 1 <= value <= MAX_IMAGES)
    parser.add_argument("--n", metavar="N", type=count, default=60, help="number of images")
    parser.add_argument("--seed", metavar="N", type=natural_int, default=0, help="of the random numbers")
    text = "factor on the random latent vectors, not for DDPM"
    parser.add_argument("--temperature", metavar="X", type=positive_float, default=1.0, help=text)
    parser.add_argument("--label", metavar="SPECIES", help="of the images, the name of its folder; for DDPM")
    text = "above 1: truer to the species, less varied; for DDPM"
    parser.add_argument("--guidance", metavar="X", type=positive_float, default=1.0, help=text)
    add_output_flag(parser)
    args = parser.parse_args(argv)
    if args.model == "DDPM" and args.temperature != 1:
        parser.error("argument --temperature: it is not for DDPM")
    if args.model != "DDPM" and (args.label or args.guidance != 1):
        parser.error("argument --label or --guidance: it is for DDPM")
    return args


# 作业 Part 3.3: 随机采样生成图片
def generate(model, checkpoint: dict, count: int, seed: int, temperature: float, root: Path) -> torch.Tensor:
    """Sample latent vectors from N(0, 1), decode and plot them; returns the images (count, 3, H, W)."""
    latents = temperature * normal_latents(model.encoding_dim, count, seed)
    images = decode(model, latents)
    source = "N(0, 1)" if temperature == 1 else f"N(0, {temperature:g}²)"
    title = f"{title_of(checkpoint)}: z from {source}, seed {seed}"
    plot_samples(images.numpy(), root / "vis" / f"random_images_{checkpoint['model']}.png", title)
    return images


def generate_diffusion(
    model, checkpoint: dict, count: int, seed: int, species: str | None, guidance: float, root: Path
) -> torch.Tensor:
    """Sample and plot images of the diffusion model, of one species or of all; returns them (count, 3, H, W)."""
    label = find_label(species, checkpoint["data"]["classes"], model.class_prior)
    images = sample_diffusion(model, count, seed, label, guidance=guidance)
    name = f"random_images_DDPM_{species}" if species else "random_images_DDPM"
    title = f"{title_of(checkpoint)}: {species or 'all species'}, guidance {guidance:g}, seed {seed}"
    plot_samples(images.numpy(), root / "vis" / f"{name}.png", title)
    if species is None:
        plot_species(model, checkpoint, seed, guidance, root)
    return images


def find_label(species: str | None, classes: list[str], class_prior: list[float]) -> int | None:
    """The number of a species; class_prior: the share of each in the training images. Raises UserError where the model
    was trained on no image of that species."""
    if species is None:
        return None
    known = [name for name, share in zip(classes, class_prior, strict=True) if share > 0]
    if species not in known:
        raise UserError(f"argument --label: the model was not trained on {species}; it knows {', '.join(known)}")
    return classes.index(species)


def plot_species(model, checkpoint: dict, seed: int, guidance: float, root: Path) -> None:
    """Plot a row of samples of each species, and how one of each is denoised step by step."""
    classes = checkpoint["data"]["classes"]
    samples = []
    steps = []
    for label in range(len(classes)):
        samples.append(sample_diffusion(model, SHOWN, seed, label, guidance=guidance))
        steps.append(denoise(model, SHOWN, seed, label, guidance))
    title = f"{title_of(checkpoint)}: the same noise for all species, seed {seed}"
    plot_samples(torch.cat(samples).numpy(), root / "vis" / "species_DDPM.png", title, SHOWN, classes)
    title = f"{title_of(checkpoint)}: from noise (left) to image, and the prediction at each step, seed {seed}"
    labels = [text for name in classes for text in (name, "prediction")]
    plot_samples(torch.cat(steps).numpy(), root / "vis" / "denoising_DDPM.png", title, SHOWN, labels)


def denoise(model, frames: int, seed: int, label: int, guidance: float) -> torch.Tensor:
    """Images (2 * frames, 3, H, W) in [0, 1]: x_t at so many of the steps, then what the model predicts from each."""
    noise, labels = noise_and_labels(model, 1, seed, label)
    steps = list(model.denoise(noise, labels, guidance=guidance))
    chosen = [steps[round(step)] for step in torch.linspace(0, len(steps) - 1, frames).tolist()]
    states = check_finite([state for state, _ in chosen])
    predictions = check_finite([prediction for _, prediction in chosen])
    return torch.cat([states.clamp(0, 1), predictions])


def title_of(checkpoint: dict) -> str:
    """The first lines of a picture's title."""
    return f"{name_model(checkpoint)}\ntrained on {checkpoint['data']['name']}"


def main(argv=None):
    """Generate and plot images; returns them as a tensor (n, 3, H, W)."""
    args = parse_args(argv)
    model, checkpoint = load_model(args.model, args.output_root)
    if args.model == "DDPM":
        return generate_diffusion(model, checkpoint, args.n, args.seed, args.label, args.guidance, args.output_root)
    return generate(model, checkpoint, args.n, args.seed, args.temperature, args.output_root)


if __name__ == "__main__":
    run_script(main)
