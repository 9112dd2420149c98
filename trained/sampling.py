"""Images and latent vectors of trained models, in batches.

    images = decode(vae, normal_latents(64, count=60, seed=0))      # (60, 3, 24, 24) in [0, 1]
    images = sample_diffusion(ddpm, count=60, seed=0)

Everything runs on the CPU, where `load_model` puts models; the seed alone determines the samples.
"""

import torch

from common import UserError
from common.process import progress, warn_of_waiting

BATCH = 256  # images at once


@torch.no_grad()
def encode(model, images: torch.Tensor, *labels: torch.Tensor) -> torch.Tensor:
    """The latent vectors (N, D) of images (N, C, H, W), for the CVAE with their labels (N,); a VAE's are means."""
    batches = zip(*(part.split(BATCH) for part in (images, *labels)), strict=True)
    return check_finite([model.encode(*batch) for batch in batches])


@torch.no_grad()
def decode(model, latents: torch.Tensor, *labels: torch.Tensor) -> torch.Tensor:
    """Latent vectors (N, D), for the CVAE with labels (N,) -> images (N, C, H, W) in [0, 1]."""
    batches = zip(*(part.split(BATCH) for part in (latents, *labels)), strict=True)
    return check_finite([model.decode(*batch) for batch in batches])


def normal_latents(dims: int, count: int, seed: int) -> torch.Tensor:
    """Latent vectors (count, dims) from N(0, I)."""
    return torch.randn(count, dims, generator=torch.Generator().manual_seed(seed))


def sample_diffusion(model, count: int, seed: int, label: int | None = None, **options) -> torch.Tensor:
    """Images (count, 3, H, W) of a diffusion model; without a label the classes come as often as in its class prior.
    The options are those of `Diffusion.sample`."""
    noise, labels = noise_and_labels(model, count, seed, label)
    pairs = list(zip(noise.split(BATCH), labels.split(BATCH), strict=True))
    bar = progress(pairs, "DDPM samples")
    with warn_of_waiting("cpu"):
        return check_finite([model.sample(*pair, **options) for pair in bar])


def noise_and_labels(model, count: int, seed: int, label: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The input of a diffusion model: noise from N(0, I) (count, 3, H, W), and labels (count,)."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, *model.image_shape, generator=generator)
    if label is not None:
        return noise, torch.full((count,), label)
    prior = torch.tensor(model.class_prior)
    return noise, torch.multinomial(prior, count, replacement=True, generator=generator)


def check_finite(batches: list[torch.Tensor]) -> torch.Tensor:
    """The batches as one tensor. Raises UserError where a number is not finite, though the weights are."""
    tensor = torch.cat(batches)
    if not tensor.isfinite().all():
        raise UserError(
            "the model's output is not finite: use a smaller --temperature or --guidance,"
            " or train it again, its weights are damaged"
        )
    return tensor


def project(codes: torch.Tensor) -> torch.Tensor:
    """Latent vectors (N, D) to their first two principal components (N, 2), where they have more than two numbers."""
    dims = codes.shape[1]
    if dims <= 2:
        return torch.nn.functional.pad(codes, (0, 2 - dims))
    centred = codes.double() - codes.double().mean(dim=0)
    _, axes = torch.linalg.eigh(centred.T @ centred)  # in ascending order of the variance along them
    axes = axes[:, [-1, -2]]
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    return centred @ (axes * largest.sign())  # the same direction, whatever sign a library gives it


def interpolate(codes: torch.Tensor, steps: int) -> torch.Tensor:
    """Latent vectors (2 N, D), in pairs, to those on the straight lines between them: (N * steps, D)."""
    starts = codes[::2, None]  # (N, 1, D)
    ends = codes[1::2, None]
    weights = torch.linspace(0, 1, steps)[:, None]
    return (starts + weights * (ends - starts)).flatten(0, 1)


def add_endpoints(images: torch.Tensor, walks: torch.Tensor) -> torch.Tensor:
    """Images (2 N, ...), in pairs, at both ends of the walks between them (N * steps, ...): (N * (steps + 2), ...)."""
    pairs = images.unflatten(0, (-1, 2))
    walks = walks.unflatten(0, (len(pairs), -1))
    return torch.cat([pairs[:, :1], walks, pairs[:, 1:]], dim=1).flatten(0, 1)
