"""Completing digits: from one, two or three of their quadrants to the others (Sohn, Lee & Yan 2015, section 4.1).

    model = build_completion("CVAE", hidden_size=512, latent_size=50, given=2)
    completions, mu, sigma, prior_mu, prior_sigma = model(images)   # (B, 1, 28, 28), and four of (B, 50)

"NN" has one answer, the mean of all possible ones; "CVAE" one for each z, and a network that says which z are likely.
Both return whole digits, whose given pixels are unchanged.
"""

import math

import torch

from model import IMAGE_SHAPE, AutoEncoder, Decoder, Encoder, VariationalAutoEncoder, sample

QUADRANTS = {1: "the lower left quadrant", 2: "the left half", 3: "all but the lower right quadrant"}


def given_pixels(quadrants: int, device=None) -> torch.Tensor:
    """True where a pixel is given, False where it is to be predicted: (1, 28, 28)."""
    _, height, width = IMAGE_SHAPE
    given = torch.zeros(IMAGE_SHAPE, dtype=torch.bool, device=device)
    given[:, height // 2 :, : width // 2] = True
    if quadrants >= 2:
        given[:, : height // 2, : width // 2] = True
    if quadrants == 3:
        given[:, : height // 2, width // 2 :] = True
    return given


class Completion:
    """The input and the output of both models; quadrants: how many are given."""

    quadrants: int

    def known(self, xs: torch.Tensor) -> torch.Tensor:
        """Images (B, 1, 28, 28) with 0 where a pixel is to be predicted."""
        return xs * given_pixels(self.quadrants, xs.device)

    def paste(self, xs: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        """The given part of images (B, 1, 28, 28), and beside it pixels (..., B, 784): (..., B, 1, 28, 28)."""
        return torch.where(given_pixels(self.quadrants, xs.device), xs, pixels.unflatten(-1, IMAGE_SHAPE))


class CompletionNetwork(Completion, AutoEncoder):
    """The deterministic baseline: p(rest | given), each pixel by itself.

    Encoder and decoder are an AE's; between them is a vector as wide as the hidden layers, so it is no bottleneck.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, given: int) -> None:
        super().__init__(encoder, decoder)
        self.quadrants = given

    def forward(self, xs: torch.Tensor) -> torch.Tensor:
        """Whole images (B, 1, 28, 28), of which only the given part is used -> completions."""
        return self.paste(xs, self.decoder(self.encoder(self.known(xs))))


class CompletionCVAE(Completion, VariationalAutoEncoder):
    """p(rest | given) = the integral over z of p(rest | z, given) p(z | given), with q(z | given, rest) to train it.

    encoder: the recognition network q, which sees the whole image; prior: the network p(z | given); the decoder gets z
    and the given pixels.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, given: int, prior: Encoder) -> None:
        super().__init__(encoder, decoder)
        self.quadrants = given
        self.prior = prior

    def forward(self, xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Images (B, 1, 28, 28) -> (completions, mu and sigma of q, mu and sigma of the prior)."""
        mu, sigma = self.encoder(xs)
        prior_mu, prior_sigma = self.prior(self.known(xs))
        return self.complete(xs, sample(mu, sigma)), mu, sigma, prior_mu, prior_sigma

    def complete(self, xs: torch.Tensor, zs: torch.Tensor) -> torch.Tensor:
        """The completions (..., B, 1, 28, 28) of images (B, 1, 28, 28) with latent vectors (..., B, latent_size)."""
        known = self.known(xs).flatten(1).expand(*zs.shape[:-1], -1)
        return self.paste(xs, self.decoder(torch.cat([zs, known], dim=-1)))


def build_completion(name: str, hidden_size: int = 512, latent_size: int = 50, given: int = 1):
    """The "NN" or the "CVAE" for so many quadrants; latent_size is the CVAE's."""
    pixels = math.prod(IMAGE_SHAPE)
    if name == "NN":
        return CompletionNetwork(
            Encoder(pixels, hidden_size, hidden_size), Decoder(pixels, hidden_size, hidden_size), given
        )
    encoder = Encoder(pixels, hidden_size, latent_size, is_dist=True)
    prior = Encoder(pixels, hidden_size, latent_size, is_dist=True)
    decoder = Decoder(pixels, hidden_size, latent_size + pixels, decode_type="VAE")
    return CompletionCVAE(encoder, decoder, given, prior)
