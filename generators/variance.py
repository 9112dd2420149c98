"""A VAE of the flowers whose decoder learns its variance, for sharper reconstructions and a likelihood.

    model = LearnedVariance(encoding_dim=64)
    outputs = model(images)
    loss, metrics = model.loss(outputs, images)     # in nats per image

With the coursework's variance of 1/2 a nat of KL must save a whole unit of squared error, and images are blurred. Here
the variance is the one that makes the photographs most likely (Rybkin et al. 2021, section 3.2).
"""

import math

import torch

from common.distributed import all_reduce_sum
from VarAutoencoder import VarAutoencoder, kl_divergence

MIN_VARIANCE = 1 / (12 * 255**2)  # of the error of rounding to 256 levels: no image is known more exactly
MOMENTUM = 0.02  # of the running mean of the batches' squared errors, over about fifty batches


class LearnedVariance(VarAutoencoder):
    """p(x|z) is a Gaussian around the reconstruction, with one variance for all pixels, never below MIN_VARIANCE."""

    def __init__(self, encoding_dim: int = 64, img_height: int = 24, img_width: int = 24):
        super().__init__(encoding_dim, img_height, img_width)
        self.register_buffer("variance", torch.tensor(0.5))
        self.register_buffer("batches", torch.tensor(0.0))  # that the variance is a mean of

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images (B, 3, H, W) -> (reconstructions, mu, log_var, variance). In training the variance is the mean squared
        error of the batch, which makes it most likely; in evaluation the running mean of these."""
        reconstructions, mu, log_var = super().forward(images)
        variance = self.variance
        if self.training:
            squared = (reconstructions - images).detach().square().sum().item()
            total, numbers = all_reduce_sum([squared, images.numel()])
            variance = torch.full_like(self.variance, total / numbers).clamp(min=MIN_VARIANCE)
            self.batches += 1
            self.variance.lerp_(variance, max(MOMENTUM, 1 / self.batches.item()))
        return reconstructions, mu, log_var, variance

    def loss(self, outputs: tuple, images: torch.Tensor) -> tuple[torch.Tensor, dict]:
        """(the loss to minimise, the metrics for the log): the negative evidence lower bound in nats per image, divided
        by the number of its pixels where it is minimised."""
        reconstructions, mu, log_var, variance = outputs
        squared = (reconstructions - images).square().sum()
        recon = gaussian_nll(squared, variance, images.numel())
        kl = kl_divergence(mu, log_var)
        metrics = {"recon": recon.item() / len(images), "kl": kl.item() / len(images), "variance": variance.item()}
        return (recon + kl) / images.numel(), {"loss": metrics["recon"] + metrics["kl"], **metrics}


def gaussian_nll(squared: torch.Tensor, variance: torch.Tensor, numbers: int) -> torch.Tensor:
    """-log of the Gaussian density of so many numbers, from the sum of their squared errors and a variance, in nats."""
    return squared / (2 * variance) + numbers / 2 * torch.log(2 * math.pi * variance)
