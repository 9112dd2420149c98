"""The three autoencoders of MNIST, fully connected: AE, VAE and CVAE.

    encoder = Encoder(784, 512, 20, is_dist=True)
    decoder = Decoder(784, 512, 20, decode_type="CVAE")
    model = ConditionalVariationalAutoEncoder(encoder, decoder)
    reconstructions, mu, sigma = model(images, labels)      # (B, 1, 28, 28), (B, 20), (B, 20)

`build_model("CVAE")` does the same. Pixels lie in [0, 1]; sigma is a standard deviation.
"""

import math

import torch
from torch import nn
from torch.nn.functional import one_hot

IMAGE_SHAPE, CLASSES = (1, 28, 28), 10
LOG_SIGMA_RANGE = (-10.0, 10.0)  # so that exp neither overflows nor vanishes


class Hidden(nn.Module):
    """The two hidden layers that encoder and decoder have in common: (B, in_features) -> (B, hidden_size)."""

    def __init__(self, in_features: int, hidden_size: int):
        super().__init__()
        self.first, self.label = nn.Linear(in_features, hidden_size), None
        self.rest = nn.Sequential(
            nn.LayerNorm(hidden_size),
            nn.GELU(),
            nn.Linear(hidden_size, hidden_size),
            nn.LayerNorm(hidden_size),
            nn.GELU(),
        )

    def add_label(self) -> None:
        """From now on a label goes in beside the input: W x + V onehot(y) is [W V] times the two in one vector.
        It adds weights: make the optimizer afterwards."""
        if self.label is None:
            self.label = nn.Linear(CLASSES, self.first.out_features, bias=False).to(self.first.weight)

    def forward(self, inputs: torch.Tensor, ys: torch.Tensor | None = None) -> torch.Tensor:
        """inputs (B, in_features), and int64 labels (B,) where it was made for them. Raises ValueError."""
        if inputs.shape[1:] != (self.first.in_features,):
            raise ValueError(f"expected (B, {self.first.in_features}), found {tuple(inputs.shape)}")
        if (ys is None) != (self.label is None):
            raise ValueError("labels are for the CVAE" if self.label is None else "the CVAE needs labels")
        hidden = self.first(inputs)
        if ys is not None:
            if ys.min() < 0 or ys.max() >= CLASSES:
                raise ValueError(f"expected labels from 0 to {CLASSES - 1}, found {ys.min()} to {ys.max()}")
            hidden = hidden + self.label(one_hot(ys, CLASSES).to(inputs.dtype))
        return self.rest(hidden)


class Encoder(nn.Module):
    """Images -> latent vectors (B, latent_size), or with is_dist (mu, sigma) of q(z|x) = N(mu, diag(sigma^2))."""

    def __init__(self, x_dim: int, hidden_size: int, latent_size: int, is_dist: bool = False, **kwargs) -> None:
        super().__init__()
        self.hidden = Hidden(x_dim, hidden_size)
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
        self.hidden = Hidden(latent_size, hidden_size)
        self.pixels = nn.Linear(hidden_size, x_dim)
        if decode_type == "CVAE":
            self.hidden.add_label()

    def forward(self, zs: torch.Tensor, **otherinputs) -> torch.Tensor:
        """otherinputs: ys for "CVAE"; nothing else has a use here, zs is drawn already."""
        logits = self.pixels(self.hidden(zs, otherinputs.get("ys")))
        return torch.sigmoid(logits.to(zs.dtype))  # bfloat16 rounds all above 0.998 to 1


class AutoEncoder(nn.Module):
    """Compresses and restores: xs -> reconstructions of the same shape.

    Raises ValueError where the encoder or the decoder is made for another of the three models.
    """

    is_dist = has_label = False

    def __init__(self, encoder: Encoder, decoder: Decoder, **kwargs) -> None:
        super().__init__()
        if (encoder.sigma is not None) != self.is_dist:
            raise ValueError(f"expected an encoder with is_dist={self.is_dist}, found {not self.is_dist}")
        if (decoder.hidden.label is not None) != self.has_label:
            raise ValueError(f'expected a decoder {"" if self.has_label else "not "}of decode_type="CVAE"')
        self.encoder, self.decoder = encoder, decoder

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, ...) -> their reconstructions."""
        return self.decoder(self.encoder(x)).view_as(x)

    @torch.no_grad()
    def encode(self, xs: torch.Tensor, ys: torch.Tensor | None = None) -> torch.Tensor:
        """Images (B, ...) -> latent vectors (B, latent_size), means where there are distributions; ys: the CVAE's."""
        code = self.encoder(xs, ys)
        return code[0] if isinstance(code, tuple) else code

    @torch.no_grad()
    def decode(self, zs: torch.Tensor, ys: torch.Tensor | None = None) -> torch.Tensor:
        """Latent vectors (B, latent_size) -> images (B, 1, 28, 28); ys: the CVAE's."""
        return self.decoder(zs, ys=ys).view(-1, *IMAGE_SHAPE)


class VariationalAutoEncoder(AutoEncoder):
    """The encoder answers with a distribution, of which the decoder gets a sample (Kingma & Welling 2014)."""

    is_dist = True

    def forward(self, xs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images (B, ...) -> (reconstructions, mu, sigma)."""
        mu, sigma = self.encoder(xs)
        return self.decoder(sample(mu, sigma)).view_as(xs), mu, sigma


class ConditionalVariationalAutoEncoder(AutoEncoder):
    """Encoder and decoder are told the label, so that z need not say which digit it is (Sohn et al. 2015)."""

    is_dist = has_label = True

    def __init__(self, encoder: Encoder, decoder: Decoder, **kwargs) -> None:
        super().__init__(encoder, decoder)
        encoder.hidden.add_label()  # nothing in an encoder's own arguments says that it is a CVAE's

    def forward(self, xs: torch.Tensor, ys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images (B, ...) and labels (B,) -> (reconstructions, mu, sigma)."""
        mu, sigma = self.encoder(xs, ys)
        return self.decoder(sample(mu, sigma), ys=ys).view_as(xs), mu, sigma


def sample(mu: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Of N(mu, sigma^2), so that gradients reach both (the reparameterisation of Kingma & Welling 2014)."""
    return mu + sigma * torch.randn_like(mu)


MODELS = {"AE": AutoEncoder, "VAE": VariationalAutoEncoder, "CVAE": ConditionalVariationalAutoEncoder}


def build_model(name: str, hidden_size: int = 512, latent_size: int = 20) -> AutoEncoder:
    """The model of that name, for MNIST."""
    sizes = math.prod(IMAGE_SHAPE), hidden_size, latent_size
    return MODELS[name](Encoder(*sizes, is_dist=name != "AE"), Decoder(*sizes, decode_type=name))


# ---------------------------------------------------------------- what to look at


def draw_latents(name: str, latent_size: int, count: int, seed: int):
    """`count` latent vectors from N(0, I), and their labels or None: for the CVAE, ten rows, one for each digit,
    with the same latent vectors in every row."""
    zs = torch.randn(count, latent_size, generator=torch.Generator().manual_seed(seed))
    if name != "CVAE":
        return zs, None
    return zs[: count // CLASSES].repeat(CLASSES, 1), torch.arange(CLASSES).repeat_interleave(count // CLASSES)


def interpolate(codes: torch.Tensor, steps: int) -> torch.Tensor:
    """Latent vectors (2 N, D), in pairs, to those on the straight lines between them: (N * steps, D)."""
    starts, ends = codes[::2, None], codes[1::2, None]  # (N, 1, D)
    return (starts + torch.linspace(0, 1, steps)[:, None] * (ends - starts)).flatten(0, 1)


def manifold(side: int) -> torch.Tensor:
    """(side^2, 2) latent vectors on a grid, as densely as N(0, I) has them (Kingma & Welling 2014, figure 4)."""
    quantiles = torch.distributions.Normal(0.0, 1.0).icdf(torch.linspace(0.02, 0.98, side))
    return torch.cartesian_prod(-quantiles, quantiles).flip(1)  # the second goes up, the first to the right


def project(codes: torch.Tensor) -> torch.Tensor:
    """Latent vectors (N, D) to their first two principal components (N, 2), where they have more than two numbers."""
    dims = codes.shape[1]
    if dims <= 2:
        return nn.functional.pad(codes, (0, 2 - dims))
    _, axes = torch.linalg.eigh(codes.T.cov())  # the eigenvalues rise
    return (codes - codes.mean(dim=0)) @ axes[:, -2:].flip(1)
