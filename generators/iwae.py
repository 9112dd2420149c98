"""The importance-weighted autoencoder (IWAE) of binarized MNIST: a VAE trained with a tighter bound on log p(x).

    model = build_iwae(hidden_size=512, latent_size=50, samples=5)
    loss, metrics = importance_weighted_loss(model(images), images)

With K samples z_1, ..., z_K of q(z|x) (Burda et al. 2016, equation 8)

    log p(x) >= E log 1/K sum over k of w_k,   w_k = p(x|z_k) p(z_k) / q(z_k|x),

which for K = 1 is the evidence lower bound.
"""

import math

import torch
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import binary_cross_entropy

from model import IMAGE_SHAPE, Decoder, Encoder, VariationalAutoEncoder, sample


class ImportanceWeightedAutoEncoder(VariationalAutoEncoder):
    """samples: K in evaluation; `train_samples`: K in training, which may change from epoch to epoch."""

    def __init__(self, encoder: Encoder, decoder: Decoder, samples: int) -> None:
        super().__init__(encoder, decoder)
        self.samples = samples
        self.train_samples = samples

    def forward(self, xs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images (B, ...) -> of each image (B,): the negative "bound" in nats, the "surrogate" whose gradient is the
        bound's, and for the log "recon", the mean of -log p(x|z), and "kl".

        The gradient of the bound is the mean over the K samples of that of -log w_k, weighted by w_k / sum w. So one z,
        drawn with these weights, gives an unbiased gradient for the price of a VAE's. The encoder's gradient, which
        drowns in noise as K grows, is replaced by the doubly reparameterized one (Tucker et al. 2019, equation 8):
        through z alone, times the weight.
        """
        mu, sigma = self.encoder(xs)
        samples = self.train_samples if self.training else self.samples
        zs = sample(mu.expand(samples, *mu.shape), sigma)  # (K, B, D)
        with torch.no_grad():
            recon = torch.stack([self.negative_log_likelihood(z, xs) for z in zs])  # (K, B)
            log_w = -recon - log_ratio(zs, mu, sigma)
            bound = math.log(samples) - log_w.logsumexp(dim=0)
            kl = kl_divergence(Normal(mu, sigma, validate_args=False), Normal(0.0, 1.0)).sum(dim=1)
            parts = {"bound": bound, "surrogate": bound, "recon": recon.mean(dim=0), "kl": kl}
            if not self.training:
                return parts
            weights = log_w.softmax(dim=0).nan_to_num(1.0)  # of a loss that is not finite the run says more
            chosen = weights.T.multinomial(1)  # (B, 1)
        z = zs[chosen[:, 0], torch.arange(len(xs), device=xs.device)]  # (B, D)
        z = z.detach() + weights.T.gather(1, chosen) * (z - z.detach())
        surrogate = self.negative_log_likelihood(z, xs) + log_ratio(z, mu.detach(), sigma.detach())
        return {**parts, "surrogate": surrogate}

    def negative_log_likelihood(self, zs: torch.Tensor, xs: torch.Tensor) -> torch.Tensor:
        """-log p(x|z) of binarized images (B, ...) for latent vectors (B, D), in nats: (B,)."""
        pixels = self.decoder(zs)
        if not pixels.isfinite().all():  # cross-entropy would raise; the run says more
            return pixels.sum(dim=1)
        return binary_cross_entropy(pixels, xs.flatten(1), reduction="none").sum(dim=1)


def importance_weighted_loss(outputs: dict, xs: torch.Tensor) -> tuple[torch.Tensor, dict]:
    """(the loss to minimise, the metrics for the log) for what `forward` returned, means over the images."""
    bound = outputs["bound"].mean()
    surrogate = outputs["surrogate"].mean()
    metrics = {"loss": bound.item(), "recon": outputs["recon"].mean().item(), "kl": outputs["kl"].mean().item()}
    return bound + surrogate - surrogate.detach(), metrics


def log_ratio(zs: torch.Tensor, mu: torch.Tensor, sigma: torch.Tensor, prior_mu=0.0, prior_sigma=1.0) -> torch.Tensor:
    """log q(z|x) - log p(z) of latent vectors (..., B, D), where q(z|x) = N(mu, sigma^2), each (B, D), and p is N(0, I)
    or has another mean and standard deviation: (..., B)."""
    q = Normal(mu, sigma, validate_args=False)
    p = Normal(prior_mu, prior_sigma, validate_args=False)
    return (q.log_prob(zs) - p.log_prob(zs)).sum(dim=-1)


def build_iwae(hidden_size: int = 512, latent_size: int = 50, samples: int = 1) -> ImportanceWeightedAutoEncoder:
    """The model for MNIST."""
    sizes = (math.prod(IMAGE_SHAPE), hidden_size, latent_size)
    return ImportanceWeightedAutoEncoder(Encoder(*sizes, is_dist=True), Decoder(*sizes, decode_type="VAE"), samples)
