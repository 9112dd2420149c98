"""Haar's wavelet transform, and images whose details are as large as the rest.

    half, details = haar(images)                    # (B, 3, 24, 24) -> (B, 3, 12, 12) and (B, 9, 12, 12)
    images = inverse_haar(half, details)

    standardise = Standardise(24, 24)
    standardise.fit(photographs)
    sharp = standardise(images)                     # (B, 3, 24, 24) -> (B, 3, 24, 24)

In photographs the finest details are small, and a network that sees pixels may overlook them.
"""

import torch
from torch import nn
from torch.nn import functional as F


def haar(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x (B, 3, H, W) -> twice the mean of each 2x2 pixels (B, 3, H/2, W/2), and the details (B, 9, H/2, W/2):
    horizontal, vertical and diagonal (Haar 1910). Noise from N(0, I) stays so: the transform is orthonormal."""
    a, b, c, d = F.pixel_unshuffle(x, 2).unflatten(1, (-1, 4)).unbind(2)
    return (a + b + c + d) / 2, torch.cat([a - b + c - d, a + b - c - d, a - b - c + d], dim=1) / 2


def inverse_haar(x: torch.Tensor, details: torch.Tensor) -> torch.Tensor:
    """The inverse of `haar`."""
    horizontal, vertical, diagonal = details.chunk(3, dim=1)
    corners = [
        x + horizontal + vertical + diagonal,
        x - horizontal + vertical - diagonal,
        x + horizontal - vertical - diagonal,
        x - horizontal - vertical + diagonal,
    ]
    return F.pixel_shuffle(torch.stack(corners, dim=2).flatten(1, 2) / 2, 2)


def pyramid(x: torch.Tensor) -> list[torch.Tensor]:
    """x (B, 3, H, W) -> the details of every scale, (B, 9, H/2, W/2) first, and last what is left (B, 3, h, w)."""
    parts = []
    while x.shape[-2] % 2 == x.shape[-1] % 2 == 0:
        x, details = haar(x)
        parts.append(details)
    return [*parts, x]


class Standardise(nn.Module):
    """Images (B, 3, height, width) whose details, at every scale, are divided by the standard deviation of those that
    it was fitted to; so is what is left when a side is odd. Before `fit` it changes nothing."""

    def __init__(self, height: int, width: int):
        super().__init__()
        self.scales = 0
        while height % 2 == width % 2 == 0:
            height //= 2
            width //= 2
            self.scales += 1
        self.register_buffer("details_std", torch.ones(self.scales, 9, 1, 1))
        self.register_buffer("coarsest_std", torch.ones(3, 1, 1))

    @torch.no_grad()
    def fit(self, images: torch.Tensor) -> None:
        """Standard deviations of these images (N, 3, H, W), of each colour and direction."""
        for std in self.details_std:
            images, details = haar(images)
            std.copy_(deviation(details))
        self.coarsest_std.copy_(deviation(images))

    def forward(self, images: torch.Tensor, scale: int = 0) -> torch.Tensor:
        """(B, 3, H, W); scale: how often they were halved."""
        if scale == self.scales:
            return images / self.coarsest_std
        images, details = haar(images)
        return inverse_haar(self(images, scale + 1), details / self.details_std[scale])


def deviation(x: torch.Tensor) -> torch.Tensor:
    """The standard deviation of each channel of x (N, C, H, W), to divide by: (C, 1, 1), not below 0.001."""
    return x.std(dim=(0, 2, 3))[:, None, None].nan_to_num().clamp(min=1e-3)  # of a single number it is NaN
