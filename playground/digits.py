"""What MNIST's models make of a drawing, and digits to order.

label, z = guess_label(cvae, image)
answers = ten_digits(cvae, z)           # (10, 1, 28, 28), in this handwriting
"""

import torch
from torch.nn.functional import binary_cross_entropy, mse_loss

from evaluation.digits import HANDS, normal_latents
from evaluation.sampling import BATCH
from model import CLASSES
from VarAutoencoder import kl_divergence

MOVED = 6  # latents with a slider


@torch.no_grad()
def guess_label(cvae, image: torch.Tensor, recon: str = "bce") -> tuple[int, torch.Tensor]:
    """(the label whose evidence lower bound is the best, the mean of q(z|x, y) for each label (10, D)) of an image
    (1, 1, 28, 28). The reconstruction is that of the mean. recon: what the model was trained with, "bce" or "mse"."""
    labels = torch.arange(CLASSES)
    images = image.expand(CLASSES, -1, -1, -1)
    mu, sigma = cvae.encoder(images, labels)
    error = binary_cross_entropy if recon == "bce" else mse_loss
    distortion = error(cvae.decode(mu, labels), images, reduction="none").flatten(1).sum(dim=1)
    rate = kl_divergence(mu, 2 * sigma.log()).sum(dim=1)
    return int((distortion + rate).argmin()), mu


def ten_digits(cvae, z: torch.Tensor) -> torch.Tensor:
    """A latent vector (D,) decoded with each of the ten labels: (10, 1, 28, 28)."""
    return cvae.decode(z.expand(CLASSES, -1), torch.arange(CLASSES))


def hand(model, number: int) -> torch.Tensor:
    """The latent vector (D,) of a handwriting: row number % HANDS of what main.py --labels draws with --seed number //
    HANDS."""
    return normal_latents(model, seed=number // HANDS)[number % HANDS]


@torch.no_grad()
def kl_of_latents(model, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The KL of each latent dimension, the mean over images (N, 1, 28, 28) in nats: (D,)."""
    batches = zip(images.split(BATCH), labels.split(BATCH), strict=True)
    mu, sigma = (torch.cat(part) for part in zip(*(model.encoder(*batch) for batch in batches), strict=True))
    return kl_divergence(mu, 2 * sigma.log()).mean(dim=0)


@torch.no_grad()
def complete(model, image: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """As many completions (N, 1, 28, 28) of a half-drawn digit (1, 1, 28, 28) as there are rows of noise (N, D)."""
    mu, sigma = model.prior(model.known(image))
    return model.complete(image, mu + sigma * noise[:, None])[:, 0]
