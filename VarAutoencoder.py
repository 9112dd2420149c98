"""Flowers, part 4: the variational autoencoder, a convolutional autoencoder whose latent vectors can be sampled.

    model = VarAutoencoder(encoding_dim=64)
    outputs = model(images)
    reconstructions, mu, log_var = outputs                      # (B, 3, 24, 24), (B, 64), (B, 64)
    loss = VAE_loss_function(outputs, images)

The layers and their shapes are the Autoencoder's, with a second Linear layer to encoding_dim for log_var.
"""

import torch
from torch import nn

from Autoencoder import Autoencoder

VAE_ENCODING_DIM = 64
VAE_UNIT = 16  # images: the log's loss is the sum over so many, as we read the coursework's target of 800
LOG_VAR_RANGE = (-10.0, 10.0)  # of the logarithm of a variance, so that exp neither overflows nor vanishes
INITIAL_LOG_VAR = -2.0  # less noise at the start than N(0, 1) has


# 作业 Part 4.1 (Part 4 合计 7.5 分): VarAutoencoder 的模型框架
class VarAutoencoder(Autoencoder):
    """An encoder that returns a distribution, q(z|x) = N(mu(x), diag(exp(log_var(x)))) (Kingma & Welling 2014).

    `encoder` gives mu, and the layer `log_var` beside its last one gives log_var.
    Raises ValueError where the height or the width is not a multiple of 4.
    """

    last_gains = (2**0.5, 2**0.5)  # instead of the Autoencoder's (1.0, 0.3)

    def __init__(self, encoding_dim: int = VAE_ENCODING_DIM, img_height: int = 24, img_width: int = 24):
        super().__init__(encoding_dim, img_height, img_width)
        self.log_var = nn.Linear(self.encoder[-1].in_features, encoding_dim)
        nn.init.zeros_(self.log_var.weight)
        nn.init.constant_(self.log_var.bias, INITIAL_LOG_VAR)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images (B, 3, H, W) -> (reconstructions, mu, log_var).

        z is sampled in validation as in training, so that the two losses compare. `reconstruct`, for the pictures,
        decodes mu.
        """
        mu, log_var = self.posterior(images)
        z = reparameterise(mu, log_var)
        return self.decode(z), mu, log_var

    def posterior(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (B, 3, H, W) -> mu and log_var of q(z|x), each (B, encoding_dim)."""
        self.check(images)
        features = self.encoder[:-1](images)  # (B, 128 * H/4 * W/4)
        mu = self.encoder[-1](features)
        log_var = self.log_var(features).clamp(*LOG_VAR_RANGE)
        return mu.to(images.dtype), log_var.to(images.dtype)  # autocast makes them bfloat16, too coarse for exp

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) -> mu, the mean of q(z|x): (B, encoding_dim)."""
        return self.posterior(images)[0]

    def loss(self, outputs: tuple, images: torch.Tensor) -> tuple[torch.Tensor, dict]:
        """(the loss to minimise, the metrics for the log) for what `forward` returned.

        The loss to minimise is a mean over the pixels: one learning rate suits every batch and image size. The log has
        the sum over VAE_UNIT images, and both parts per image.
        """
        _, mu, log_var = outputs
        loss = VAE_loss_function(outputs, images)
        per_image = loss.item() / len(images)
        kl = kl_divergence(mu, log_var).item() / len(images)
        return loss / images.numel(), {"loss": VAE_UNIT * per_image, "recon": per_image - kl, "kl": kl}


def reparameterise(mu: torch.Tensor, log_var: torch.Tensor) -> torch.Tensor:
    """z = mu + sigma * epsilon with epsilon from N(0, I): a sample of N(mu, exp(log_var)) through which gradients reach
    both (the reparameterization trick, Kingma & Welling 2014, section 2.4)."""
    sigma = torch.exp(0.5 * log_var)
    return mu + sigma * torch.randn_like(mu)


def kl_divergence(mu: torch.Tensor, log_var: torch.Tensor) -> torch.Tensor:
    """KL(N(mu, exp(log_var)) || N(0, I)) in nats, summed over the batch and the latent dimensions: a number.

    1/2 sum of  mu^2 + exp(log_var) - 1 - log_var       (Kingma & Welling 2014, appendix B)
    """
    return 0.5 * (mu.square() + log_var.exp() - 1 - log_var).sum()


# 作业 Part 4.2: VAE_loss_function
def VAE_loss_function(outputs, images: torch.Tensor) -> torch.Tensor:
    """The negative evidence lower bound, up to a constant, summed over the batch: a number.

    sum over images of  ||x - x'||^2 + KL(q(z|x) || N(0, I))      (Kingma & Welling 2014, equation 10)

    The squared error is -log p(x|z) of a Gaussian with variance 1/2 around the reconstruction x'.
    outputs: what `VarAutoencoder.forward` returns.
    """
    reconstructions, mu, log_var = outputs
    squared_error = (reconstructions - images).square().sum()
    return squared_error + kl_divergence(mu, log_var)
