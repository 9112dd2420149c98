"""What MNIST's models make of a drawing, and digits to order.

label, z = guess_label(cvae, image)
answers = ten_digits(cvae, z)           # (10, 1, 28, 28), in this handwriting
"""

import torch
from torch.nn.functional import binary_cross_entropy, mse_loss

from evaluation.sampling import BATCH
from model import CLASSES

HANDS = 5  # rows that main.py --labels draws for one --seed
LATENTS = 100  # that main.py draws for one --seed; the first HANDS of them are those of --labels
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
    rate = kl(mu, sigma).sum(dim=1)
    return int((distortion + rate).argmin()), mu


def ten_digits(cvae, z: torch.Tensor) -> torch.Tensor:
    """A latent vector (D,) decoded with each of the ten labels: (10, 1, 28, 28)."""
    return cvae.decode(z.expand(CLASSES, -1), torch.arange(CLASSES))


def hand(model, number: int) -> torch.Tensor:
    """The latent vector (D,) of a handwriting: row number % HANDS of what main.py --labels draws with --seed number //
    HANDS."""
    generator = torch.Generator().manual_seed(number // HANDS)
    return torch.randn(LATENTS, model.encoder.mu.out_features, generator=generator)[number % HANDS]


@torch.no_grad()
def kl_of_latents(model, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The KL of each latent dimension, the mean over images (N, 1, 28, 28) in nats: (D,)."""
    batches = zip(images.split(BATCH), labels.split(BATCH), strict=True)
    return torch.cat([kl(*model.encoder(*batch)) for batch in batches]).mean(dim=0)


def kl(mu: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)) in nats (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mu.square() + sigma.square() - 1) - sigma.log()


@torch.no_grad()
def complete(model, image: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """As many completions (N, 1, 28, 28) of a half-drawn digit (1, 1, 28, 28) as there are rows of noise (N, D)."""
    mu, sigma = model.prior(model.known(image))
    return model.complete(image, mu + sigma * noise[:, None])[:, 0]
