"""The variational autoencoder of the flowers: a convolutional autoencoder whose latent vectors can be sampled.

    model = VarAutoencoder(encoding_dim=64)
    reconstructions, mu, log_var = outputs = model(images)      # (B, 3, 24, 24), (B, 64), (B, 64)
    loss = VAE_loss_function(outputs, images)

The layers and their shapes are the Autoencoder's, with a second Linear layer to encoding_dim for log_var.
"""

import math

import torch
from torch import nn

from Autoencoder import Autoencoder
from training.distributed import all_reduce_sum

VAE_ENCODING_DIM = 64
HALF, LEARNED = "0.5", "learned"  # the decoder's variance: the coursework's 1/2, or what fits
MIN_VARIANCE = 1 / (12 * 255**2)  # of the error that rounding to 256 levels makes: no image is known more exactly
VARIANCE_MOMENTUM = 0.02  # of the running mean of the batches' squared errors, over about fifty batches
VAE_UNIT = 16  # the coursework states the loss as the sum over a batch of 16, whatever --batch-size is
LOG_VAR_RANGE = (-10.0, 10.0)  # of the logarithm of a variance, so that exp neither overflows nor vanishes
INITIAL_LOG_VAR = -2.0  # less noise at the start than N(0, 1) has
ACTIVE_VARIANCE = 0.01  # of mu over the images, above which a latent dimension counts as active


class VarAutoencoder(Autoencoder):
    """An encoder that answers with a distribution, q(z|x) = N(mu(x), diag(exp(log_var(x)))) (Kingma & Welling 2014).

    `encoder` gives mu, and the layer `log_var` beside its last one gives log_var. variance: of p(x|z), a Gaussian
    around the reconstruction. "0.5": -log p(x|z) is the squared error, up to a constant. "learned": one for all pixels,
    never below MIN_VARIANCE, so that no image makes the likelihood infinite.
    Raises ValueError where the height or the width is not a multiple of 4, or for another variance.
    """

    name = "VAE"
    is_dist = True
    last_gains = 2**0.5, 2**0.5

    def __init__(
        self, encoding_dim: int = VAE_ENCODING_DIM, img_height: int = 24, img_width: int = 24, variance: str = HALF
    ):
        super().__init__(encoding_dim, img_height, img_width)
        if variance not in (HALF, LEARNED):
            raise ValueError(f"expected the variance {HALF} or {LEARNED}, found {variance}")
        self.learns_variance = variance == LEARNED
        if self.learns_variance:
            self.register_buffer("variance", torch.tensor(float(HALF)))
            self.register_buffer("batches", torch.tensor(0.0))  # that the variance is a mean of
        self.log_var = nn.Linear(self.encoder[-1].in_features, encoding_dim)
        nn.init.zeros_(self.log_var.weight)
        nn.init.constant_(self.log_var.bias, INITIAL_LOG_VAR)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images (B, 3, H, W) -> (reconstructions, mu, log_var).

        z is sampled, in training and in evaluation alike: the loss that is trained and validated is the
        one of sampled latent vectors, as the coursework states its target. `reconstruct`, for figures,
        decodes mu, the mean of q(z|x).
        """
        mu, log_var = self.encode(images)
        return self.decoder(reparameterise(mu, log_var)), mu, log_var

    def encode(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (B, 3, H, W) -> mu and log_var of q(z|x), each (B, encoding_dim)."""
        self.check(images)
        features = self.encoder[:-1](images)  # (B, 128 * H/4 * W/4)
        mu, log_var = self.encoder[-1](features), self.log_var(features)
        log_var = log_var.clamp(*LOG_VAR_RANGE)
        return mu.to(images.dtype), log_var.to(images.dtype)  # autocast makes them bfloat16, too coarse for exp

    def measure(self, outputs, images: torch.Tensor, beta: float = 1.0) -> tuple[torch.Tensor, dict]:
        """(the loss to minimise, what the log says of it) for what `forward` returned.

        The loss to minimise is a mean over the pixels: one learning rate suits every batch and image size.
        """
        if self.learns_variance:
            return self.measure_likelihood(outputs, images, beta)
        loss, (_, mu, log_var) = VAE_loss_function(outputs, images, beta), outputs
        kl = kl_divergence(mu.detach(), log_var.detach()).sum().item() / len(images)
        per_image = loss.item() / len(images)
        return loss / images.numel(), {"loss": VAE_UNIT * per_image, "recon": per_image - beta * kl, "kl": kl}

    def measure_likelihood(self, outputs, images: torch.Tensor, beta: float) -> tuple[torch.Tensor, dict]:
        """`measure` for a learned variance: the negative evidence lower bound in nats per image.

        In training the variance is the one that makes the batch most likely, its mean squared error (Rybkin et al.
        2021, section 3.2); in evaluation the running mean of these.
        """
        reconstructions, mu, log_var = outputs
        squared, kl = (reconstructions - images).square().sum(), kl_divergence(mu, log_var).sum()
        variance = self.variance
        if self.training:
            total, numbers = all_reduce_sum([squared.item(), images.numel()])
            variance = torch.full_like(variance, total / numbers).clamp(min=MIN_VARIANCE)
            self.batches += 1
            self.variance.lerp_(variance, max(VARIANCE_MOMENTUM, 1 / self.batches.item()))
        recon = gaussian_nll(squared, variance, images.numel())
        parts = {"recon": recon.item() / len(images), "kl": kl.item() / len(images), "variance": variance.item()}
        return (recon + beta * kl) / images.numel(), {"loss": parts["recon"] + beta * parts["kl"], **parts}

    def negative_log_likelihood(self, reconstructions: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """-log p(x|z) of images (B, 3, H, W) in nats, for their reconstructions from K samples of z: (K, B)."""
        variance = self.variance if self.learns_variance else images.new_tensor(float(HALF))
        return gaussian_nll((reconstructions - images).square().sum(dim=(2, 3, 4)), variance, images[0].numel())


def gaussian_nll(squared: torch.Tensor, variance: torch.Tensor, numbers: int) -> torch.Tensor:
    """-log of a Gaussian density of so many numbers with one variance, of the sum of their squared errors, in nats."""
    return squared / (2 * variance) + numbers / 2 * torch.log(2 * math.pi * variance)


def reparameterise(mu: torch.Tensor, log_var: torch.Tensor) -> torch.Tensor:
    """A sample of N(mu, exp(log_var)) through which gradients reach both (Kingma & Welling 2014, section 2.4)."""
    return mu + torch.exp(0.5 * log_var) * torch.randn_like(mu)


def kl_divergence(mu: torch.Tensor, log_var: torch.Tensor) -> torch.Tensor:
    """KL(N(mu, exp(log_var)) || N(0, 1)) of each latent dimension, in nats, of the shape of mu.

    1/2 (mu^2 + exp(log_var) - 1 - log_var)       (Kingma & Welling 2014, appendix B)
    """
    return 0.5 * (mu.square() + log_var.exp() - 1 - log_var)


def VAE_loss_function(outputs, images: torch.Tensor, beta: float = 1.0) -> torch.Tensor:
    """The negative evidence lower bound, up to a constant, summed over the batch: a number.

    sum over images of  ||x - x'||^2 + beta KL(q(z|x) || N(0, I))      (Kingma & Welling 2014, equation 10)

    The squared error is -log p(x|z) of a Gaussian with variance 1/2 around the reconstruction x'. beta
    other than 1 weights the KL (Higgins et al. 2017). outputs: what `VarAutoencoder.forward` returns.
    """
    reconstructions, mu, log_var = outputs
    return (reconstructions - images).square().sum() + beta * kl_divergence(mu, log_var).sum()


def active_dimensions(mu: torch.Tensor) -> int:
    """How many columns of mu (N, encoding_dim) tell images apart (Burda et al. 2016, section 5 and appendix C)."""
    return int((mu.var(dim=0, correction=0) > ACTIVE_VARIANCE).sum())


def dimensions_for(share: float, kl: torch.Tensor) -> int:
    """How many latent dimensions, those of the largest KL (encoding_dim,) first, together have that share of it."""
    carried = kl.sort(descending=True).values.cumsum(dim=0)
    return int((carried < share * carried[-1]).sum()) + 1


def aggregate_posterior(mu: torch.Tensor, log_var: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """The density at points z (K,) of the mean of q(z|x) over images whose mu and log_var are (N, D): (K, D)."""
    posteriors = torch.distributions.Normal(mu, (0.5 * log_var).exp())
    return torch.stack([posteriors.log_prob(point).exp().mean(dim=0) for point in z])


def describe_parts(best: dict) -> str:
    """What the log says of the two parts of the best checkpoint's loss."""
    return f"reconstruction {best['valid_recon']:.3f} + KL {best['valid_kl']:.3f} per validation image"
