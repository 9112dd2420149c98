"""The three autoencoders of MNIST, fully connected: AE, VAE and CVAE.

    encoder = Encoder(784, 512, 20, is_dist=True, has_label=True)
    decoder = Decoder(784, 512, 20, decode_type="CVAE")
    model = ConditionalVariationalAutoEncoder(encoder, decoder)
    reconstructions, mu, sigma = model(images, labels)      # (B, 1, 28, 28), (B, 20), (B, 20)

`build_model("CVAE")` does the same. Pixels lie in [0, 1]; sigma is a standard deviation.
"""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import one_hot

IMAGE_SHAPE, CLASSES = (1, 28, 28), 10
BLOCKS = 2  # of the hidden layers, beside the first one
LOG_SIGMA_RANGE = (-10.0, 10.0)  # so that exp neither overflows nor vanishes
LOGIT_RANGE = (-15.0, 15.0)  # so that no pixel is certain, and no error in it costs more than 15 nats


class Hidden(nn.Module):
    """The hidden layers that encoder and decoder have in common: (B, in_features) -> (B, hidden_size).

    The first one, and BLOCKS that each add to what they are given (He et al. 2016, "Identity mappings in deep residual
    networks"). has_label: a label is given beside the input: W x + V onehot(y) is [W V] times the two in one vector.
    """

    def __init__(self, in_features: int, hidden_size: int, has_label: bool):
        super().__init__()
        self.first = nn.Linear(in_features, hidden_size)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(hidden_size), nn.GELU(), nn.Linear(hidden_size, hidden_size))
            for _ in range(BLOCKS)
        )
        self.last = nn.Sequential(nn.LayerNorm(hidden_size), nn.GELU())
        self.label = nn.Linear(CLASSES, hidden_size, bias=False) if has_label else None

    def forward(self, inputs: torch.Tensor, ys: torch.Tensor | None = None) -> torch.Tensor:
        """inputs (B, in_features), and int64 labels (B,) where it was made for them: else a ValueError."""
        if (ys is None) != (self.label is None):
            raise ValueError("labels are for the CVAE" if self.label is None else "the CVAE needs labels")
        hidden = self.first(inputs)
        if ys is not None:
            hidden = hidden + self.label(one_hot(ys, CLASSES).to(inputs.dtype))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.last(hidden)


class Encoder(nn.Module):
    """Images -> latent vectors (B, latent_size), or with is_dist (mu, sigma) of q(z|x) = N(mu, diag(sigma^2)).

    kwargs: has_label=True for the CVAE's, which is given labels.
    """

    def __init__(self, x_dim: int, hidden_size: int, latent_size: int, is_dist: bool = False, **kwargs) -> None:
        super().__init__()
        self.hidden = Hidden(x_dim, hidden_size, kwargs.get("has_label", False))
        self.mu = nn.Linear(hidden_size, latent_size)
        self.sigma = nn.Linear(hidden_size, latent_size) if is_dist else None  # gives the logarithm of sigma

    def forward(self, xs: torch.Tensor, ys: torch.Tensor | None = None):
        """Images (B, ...) of x_dim pixels each; ys, labels (B,), are the CVAE's."""
        hidden = self.hidden(xs.flatten(1), ys)
        mu = self.mu(hidden).to(xs.dtype)  # autocast makes it bfloat16
        if self.sigma is None:
            return mu
        log_sigma = self.sigma(hidden).to(xs.dtype)  # bfloat16 would be too coarse for exp
        return mu, log_sigma.clamp(*LOG_SIGMA_RANGE).exp()


class Decoder(nn.Module):
    """Latent vectors (B, latent_size) -> pixels (B, x_dim) in [0, 1], each the mean of a Bernoulli distribution.

    decode_type: "AE", "VAE" or "CVAE"; the last one needs `ys`, labels (B,), beside the latent vectors.
    Raises NotImplementedError for any other.
    """

    def __init__(self, x_dim: int, hidden_size: int, latent_size: int, decode_type: str = "AE", **kwargs) -> None:
        super().__init__()
        if decode_type not in MODELS:
            raise NotImplementedError(f'decode_type is one of {", ".join(MODELS)}, not "{decode_type}"')
        self.hidden = Hidden(latent_size, hidden_size, MODELS[decode_type].has_label)
        self.pixels = nn.Linear(hidden_size, x_dim)

    def forward(self, zs: torch.Tensor, **otherinputs) -> torch.Tensor:
        """otherinputs: ys for "CVAE"; nothing else is of use here, zs is sampled already."""
        logits = self.pixels(self.hidden(zs, otherinputs.get("ys")))
        return torch.sigmoid(logits.to(zs.dtype).clamp(*LOGIT_RANGE))  # bfloat16 rounds all above 0.998 to 1


class AutoEncoder(nn.Module):
    """Compresses and restores: xs -> reconstructions of the same shape.

    Raises ValueError where the encoder or the decoder is made for another of the three models.
    """

    is_dist = has_label = False

    def __init__(self, encoder: Encoder, decoder: Decoder, **kwargs) -> None:
        super().__init__()
        found = {"is_dist": encoder.sigma is not None, "has_label": encoder.hidden.label is not None}
        for name, value in found.items():
            if value != getattr(self, name):
                raise ValueError(f"expected an encoder with {name}={not value}, found {value}")
        if (decoder.hidden.label is not None) != self.has_label:
            raise ValueError(f'expected a decoder {"" if self.has_label else "not "}of decode_type="CVAE"')
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, ...) -> their reconstructions."""
        return self.decoder(self.encoder(x)).view_as(x)

    @torch.no_grad()
    def encode(self, xs: torch.Tensor, ys: torch.Tensor | None = None, sampled: bool = False) -> torch.Tensor:
        """Images (B, ...) -> latent vectors (B, latent_size), where there are distributions their means, or samples of
        them; ys: the CVAE's."""
        if not self.is_dist:
            return self.encoder(xs, ys)
        mu, sigma = self.encoder(xs, ys)
        return sample(mu, sigma) if sampled else mu

    @torch.no_grad()
    def decode(self, zs: torch.Tensor, ys: torch.Tensor | None = None) -> torch.Tensor:
        """Latent vectors (B, latent_size) -> images (B, 1, 28, 28); ys: the CVAE's."""
        return self.decoder(zs, ys=ys).view(-1, *IMAGE_SHAPE)


class VariationalAutoEncoder(AutoEncoder):
    """The encoder answers with a distribution, of which the decoder gets a sample (Kingma & Welling 2014).

    kwargs: samples=K, latent vectors for each image, for the importance-weighted loss (Burda et al. 2016); who trains
    may set `train_samples`, a function that says how many there are in training.
    """

    is_dist = True
    train_samples: Callable[[], int] | None = None

    def __init__(self, encoder: Encoder, decoder: Decoder, **kwargs) -> None:
        super().__init__(encoder, decoder)
        self.samples = kwargs.get("samples", 1)

    def forward(self, xs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Images (B, ...) -> (reconstructions, mu, sigma), or what `decode_samples` returns."""
        return self.decode_samples(lambda zs: self.decoder(zs).view_as(xs), *self.encoder(xs))

    def decode_samples(self, decode: Callable, mu, sigma, *prior) -> tuple[torch.Tensor, ...]:
        """(reconstructions (B, ...), mu, sigma, *prior); decode(z (B, latent_size)) makes the reconstructions.

        With K > 1 samples (reconstructions (K, B, ...) without gradients, mu, sigma, *prior, zs (K, B, latent_size),
        decode).
        """
        samples = self.train_samples() if self.training and self.train_samples else self.samples
        if samples == 1:
            return decode(sample(mu, sigma)), mu, sigma, *prior
        zs = sample(mu.expand(samples, *mu.shape), sigma)
        with torch.no_grad():
            return torch.stack([decode(z) for z in zs]), mu, sigma, *prior, zs, decode


class ConditionalVariationalAutoEncoder(VariationalAutoEncoder):
    """Encoder and decoder are told the label, so that z need not say which digit it is (Sohn et al. 2015)."""

    has_label = True

    def forward(self, xs: torch.Tensor, ys: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Images (B, ...) and labels (B,) -> (reconstructions, mu, sigma), or what `decode_samples` returns."""
        return self.decode_samples(lambda zs: self.decoder(zs, ys=ys).view_as(xs), *self.encoder(xs, ys))


def sample(mu: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Of N(mu, sigma^2), so that gradients reach both (the reparameterisation of Kingma & Welling 2014)."""
    return mu + sigma * torch.randn_like(mu)


MODELS = {"AE": AutoEncoder, "VAE": VariationalAutoEncoder, "CVAE": ConditionalVariationalAutoEncoder}


def build_model(name: str, hidden_size: int = 512, latent_size: int = 20, samples: int = 1) -> AutoEncoder:
    """The model of that name, for MNIST; samples are the VAE's and the CVAE's."""
    kind, sizes = MODELS[name], (math.prod(IMAGE_SHAPE), hidden_size, latent_size)
    encoder = Encoder(*sizes, is_dist=kind.is_dist, has_label=kind.has_label)
    return kind(encoder, Decoder(*sizes, decode_type=name), samples=samples)
