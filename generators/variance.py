"""A VAE of the flowers whose decoder learns its variances, for sharper reconstructions and a likelihood.

    model = LearnedVariance(encoding_dim=64)
    outputs = model(images)
    loss, metrics = model.loss(outputs, images)     # in nats per image

With the coursework's variance of 1/2 a nat of KL must save a whole unit of squared error, and images are blurred. Here
the variance is first the one that makes the photographs most likely (Rybkin et al. 2021, section 3.2). Then the errors
of each band of Haar's transform (a scale, a direction, a mixture of colours) have a variance of their own at each place
of the coarsest image, which depends on z: a smooth background is known more exactly than petals are.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from common.distributed import all_reduce_sum
from generators.wavelets import pyramid
from VarAutoencoder import VarAutoencoder, kl_divergence, reparameterise

MIN_VARIANCE = 1 / (12 * 255**2)  # of the error of rounding to 256 levels: no image is known more exactly
MOMENTUM = 0.02  # of the running means of the batches' squared errors, over about fifty batches
SINGLE_BATCHES = 2600  # that are trained with one variance: with many from the start, z leaves out the large shapes
FACTOR_RANGE = (-8.0, 8.0)  # of the logarithm of a factor on a variance, so that exp neither overflows nor vanishes
COLOURS = F.normalize(torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [1.0, -2.0, 1.0]]))  # orthonormal rows: grey,
# red against blue, and green against both: the errors of red, green and blue are nearly the same, these are not


class LearnedVariance(VarAutoencoder):
    """p(x|z) is a Gaussian around the reconstruction, whose errors are independent as `band_squares` transforms them,
    with variances never below MIN_VARIANCE."""

    def __init__(self, encoding_dim: int = 64, img_height: int = 24, img_width: int = 24):
        super().__init__(encoding_dim, img_height, img_width)
        counts = sum_places([torch.ones_like(part) for part in pyramid(torch.zeros(1, 3, img_height, img_width))])[0]
        self.register_buffer("counts", counts)  # of the numbers that share a variance: (bands, h, w)
        self.register_buffer("variance", torch.full_like(counts, 0.5))  # running means of their squared errors
        self.register_buffer("batches", torch.tensor(0.0))  # that these are means of
        self.log_factor = nn.Linear(encoding_dim, counts.numel())  # of the variances, for z
        nn.init.zeros_(self.log_factor.weight)
        nn.init.zeros_(self.log_factor.bias)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images (B, 3, H, W) -> (reconstructions, mu, log_var, variances (B, bands, h, w)). In the first batches of a
        training the variances are all the mean squared error of the batch, which makes it most likely."""
        mu, log_var = self.posterior(images)
        z = reparameterise(mu, log_var)
        reconstructions = self.decode(z)
        if self.training:
            single = self.update((reconstructions - images).detach())
            if self.batches <= SINGLE_BATCHES:
                return reconstructions, mu, log_var, single.expand(len(images), *self.counts.shape)
        return reconstructions, mu, log_var, self.variances(z)

    def update(self, errors: torch.Tensor) -> torch.Tensor:
        """Move the running means towards the squared errors of a batch (B, 3, H, W); returns their mean, a number."""
        squares = band_squares(errors).sum(dim=0)
        *sums, images = all_reduce_sum([*squares.flatten().tolist(), float(len(errors))])
        sums = torch.tensor(sums).to(squares).view_as(squares)
        self.batches += 1
        means = (sums / images / self.counts).clamp(min=MIN_VARIANCE)
        self.variance.lerp_(means, max(MOMENTUM, 1 / self.batches.item()))
        return (means * self.counts).sum() / self.counts.sum()

    def variances(self, z: torch.Tensor) -> torch.Tensor:
        """Latent vectors (B, encoding_dim) -> the variances of the errors (B, bands, h, w)."""
        factors = self.log_factor(z).clamp(*FACTOR_RANGE).exp().unflatten(1, self.counts.shape)
        return (self.variance * factors).clamp(min=MIN_VARIANCE)

    def log_likelihood(self, errors: torch.Tensor, variances: torch.Tensor) -> torch.Tensor:
        """log p(x|z), in nats (B,), of errors x - x' (B, 3, H, W) with their variances (B, bands, h, w)."""
        parts = band_squares(errors) / variances + self.counts * torch.log(2 * math.pi * variances)
        return -0.5 * parts.flatten(1).sum(dim=1)

    def loss(self, outputs: tuple, images: torch.Tensor) -> tuple[torch.Tensor, dict]:
        """(the loss to minimise, the metrics for the log): the negative evidence lower bound in nats per image, divided
        by the number of its pixels where it is minimised."""
        reconstructions, mu, log_var, variances = outputs
        errors = reconstructions - images
        recon = -self.log_likelihood(errors, variances).sum()
        kl = kl_divergence(mu, log_var)
        metrics = {"recon": recon.item() / len(images), "kl": kl.item() / len(images)}
        metrics["error"] = errors.detach().square().mean().item()
        return (recon + kl) / images.numel(), {"loss": metrics["recon"] + metrics["kl"], **metrics}


def band_squares(errors: torch.Tensor) -> torch.Tensor:
    """Errors (B, 3, H, W) -> the sum of their squared Haar coefficients of each band, for mixtures of colours, at each
    place of the coarsest image: (B, bands, h, w). All of this is orthonormal: the total is that of the pixels."""
    mixed = torch.einsum("mc,bchw->bmhw", COLOURS.to(errors), errors)
    return sum_places([part.square() for part in pyramid(mixed)])


def sum_places(parts: list[torch.Tensor]) -> torch.Tensor:
    """What `pyramid` returns, summed over the numbers that belong to one place of the coarsest image (h, w), all bands
    in a row: (B, bands, h, w)."""
    height, width = parts[-1].shape[2:]
    blocks = [part.unflatten(3, (width, -1)).unflatten(2, (height, -1)) for part in parts]
    return torch.cat([block.sum(dim=(3, 5)) for block in blocks], dim=1)
