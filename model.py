"""MNIST: the three autoencoders, fully connected: AE, VAE and CVAE.

    encoder = Encoder(784, 512, 20, is_dist=True, has_label=True)
    decoder = Decoder(784, 512, 20, decode_type="CVAE")
    model = ConditionalVariationalAutoEncoder(encoder, decoder)
    reconstructions, mu, sigma = model(images, labels)      # (B, 1, 28, 28), (B, 20), (B, 20)

`build_model("CVAE")` does the same. Pixels lie in [0, 1]; sigma is a standard deviation.
"""

import math

import torch
from torch import nn
from torch.nn.functional import one_hot

IMAGE_SHAPE = (1, 28, 28)
CLASSES = 10
BLOCKS = 2  # residual blocks behind the first hidden layer
LABEL_SCALE = 5.0  # of the one-hot label, so that it is about as long as what it stands beside: pixels (9) or z (4.5)
LOG_SIGMA_RANGE = (-10.0, 10.0)  # so that exp neither overflows nor vanishes
LOGIT_RANGE = (-15.0, 15.0)  # so that no pixel is certain, and no error in it costs more than 15 nats


class Hidden(nn.Module):
    """The hidden layers of encoder and decoder: (B, in_features) -> (B, hidden_size).

    A Linear layer, then residual blocks h + Linear(GELU(LayerNorm(h))) (He et al. 2016, "Identity mappings in deep
    residual networks").
    """

    def __init__(self, in_features: int, hidden_size: int):
        super().__init__()
        self.first = nn.Linear(in_features, hidden_size)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(hidden_size), nn.GELU(), nn.Linear(hidden_size, hidden_size))
            for _ in range(BLOCKS)
        )
        self.last = nn.Sequential(nn.LayerNorm(hidden_size), nn.GELU())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(B, in_features) -> (B, hidden_size)."""
        hidden = self.first(inputs)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.last(hidden)


class Encoder(nn.Module):
    """Images -> latent vectors (B, latent_size), or with is_dist (mu, sigma) of q(z|x) = N(mu, diag(sigma^2)).

    kwargs: has_label=True for the CVAE's encoder, which gets the labels as well. Raises TypeError for any other name.
    """

    def __init__(self, x_dim: int, hidden_size: int, latent_size: int, is_dist: bool = False, **kwargs) -> None:
        super().__init__()
        self.is_dist = is_dist
        self.has_label = kwargs.pop("has_label", False)
        refuse_unknown("Encoder", kwargs, "has_label")
        self.hidden = Hidden(x_dim + CLASSES if self.has_label else x_dim, hidden_size)
        self.mu = nn.Linear(hidden_size, latent_size)
        if is_dist:
            self.log_sigma = nn.Linear(hidden_size, latent_size)

    # 作业 5/100: Encoder.forward
    def forward(self, xs: torch.Tensor, ys: torch.Tensor | None = None):
        """Images (B, ...) of x_dim pixels each and, for the CVAE, labels (B,)."""
        xs = xs.flatten(1)  # (B, x_dim)
        if self.has_label:
            xs = with_label(xs, ys)  # (B, x_dim + CLASSES)
        elif ys is not None:
            raise TypeError("this encoder takes no labels: make it with has_label=True")
        hidden = self.hidden(xs)  # (B, hidden_size)
        mu = self.mu(hidden)  # (B, latent_size)
        if not self.is_dist:
            return mu
        sigma = self.log_sigma(hidden).clamp(*LOG_SIGMA_RANGE).exp()
        return mu, sigma


class Decoder(nn.Module):
    """Latent vectors (B, latent_size) -> pixels (B, x_dim) in [0, 1], each the mean of a Bernoulli distribution.

    decode_type: "AE", "VAE" or "CVAE"; raises NotImplementedError for any other, TypeError for unknown kwargs.
    """

    def __init__(self, x_dim: int, hidden_size: int, latent_size: int, decode_type: str = "AE", **kwargs) -> None:
        super().__init__()
        refuse_unknown("Decoder", kwargs)
        self.decode_type = decode_type
        if decode_type == "AE":
            self.decoder = nn.Sequential(Hidden(latent_size, hidden_size), nn.Linear(hidden_size, x_dim))
        elif decode_type == "VAE":
            # 作业 5/100: VAE 的 decoder (its input is a sampled z, so the layers are the AE's)
            self.decoder = nn.Sequential(Hidden(latent_size, hidden_size), nn.Linear(hidden_size, x_dim))
        elif decode_type == "CVAE":
            # 作业 5/100: CVAE 的 decoder (its input is z and the label)
            self.decoder = nn.Sequential(Hidden(latent_size + CLASSES, hidden_size), nn.Linear(hidden_size, x_dim))
        else:
            raise NotImplementedError(f'expected the decode_type AE, VAE or CVAE, found "{decode_type}"')

    # 作业 10/100: Decoder.forward
    def forward(self, zs: torch.Tensor, **otherinputs) -> torch.Tensor:
        """Latent vectors (B, latent_size); otherinputs: ys, labels (B,), for "CVAE" alone. Raises TypeError for any
        other name, and where the labels are missing."""
        if self.decode_type == "CVAE":
            ys = otherinputs.pop("ys", None)
            refuse_unknown("Decoder of CVAE", otherinputs, "zs and ys=labels")
            zs = with_label(zs, ys)  # (B, latent_size + CLASSES)
        else:
            refuse_unknown(f"Decoder of {self.decode_type}", otherinputs, "zs alone")
        logits = self.decoder(zs)  # (B, x_dim)
        return torch.sigmoid(logits.clamp(*LOGIT_RANGE))


class AutoEncoder(nn.Module):
    """Compresses and restores: images (B, ...) -> reconstructions of the same shape."""

    def __init__(self, encoder: Encoder, decoder: Decoder, **kwargs) -> None:
        super().__init__()
        refuse_unknown(type(self).__name__, kwargs)
        self.encoder = encoder
        self.decoder = decoder

    # 作业 5/100: AutoEncoder.forward
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (B, ...) -> their reconstructions."""
        z = self.encoder(x)
        return self.decoder(z).view_as(x)

    def encode(self, xs: torch.Tensor) -> torch.Tensor:
        """Images (B, ...) -> latent vectors (B, latent_size)."""
        return self.encoder(xs)

    def decode(self, zs: torch.Tensor) -> torch.Tensor:
        """Latent vectors (B, latent_size) -> images (B, 1, 28, 28)."""
        return self.decoder(zs).view(-1, *IMAGE_SHAPE)

    def reconstruct(self, xs: torch.Tensor, *ys: torch.Tensor) -> torch.Tensor:
        """Images (B, ...) and, for the CVAE, labels (B,) -> images (B, 1, 28, 28), without random numbers."""
        return self.decode(self.encode(xs, *ys), *ys)


class VariationalAutoEncoder(AutoEncoder):
    """The encoder returns a distribution, of which the decoder gets a sample (Kingma & Welling 2014)."""

    # 作业 10/100: VariationalAutoEncoder.forward
    def forward(self, xs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images (B, ...) -> (reconstructions, mu, sigma)."""
        mu, sigma = self.encoder(xs)
        zs = sample(mu, sigma)
        return self.decoder(zs).view_as(xs), mu, sigma

    def encode(self, xs: torch.Tensor) -> torch.Tensor:
        """Images (B, ...) -> the means of q(z|x): (B, latent_size)."""
        return self.encoder(xs)[0]


class ConditionalVariationalAutoEncoder(AutoEncoder):
    """Encoder and decoder get the label, so that z need not say which digit it is (Sohn et al. 2015)."""

    # 作业 15/100: ConditionalVariationalAutoEncoder.forward
    def forward(self, xs: torch.Tensor, ys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images (B, ...) and labels (B,) -> (reconstructions, mu, sigma)."""
        mu, sigma = self.encoder(xs, ys)
        zs = sample(mu, sigma)
        return self.decoder(zs, ys=ys).view_as(xs), mu, sigma

    def encode(self, xs: torch.Tensor, ys: torch.Tensor) -> torch.Tensor:
        """Images (B, ...) and labels (B,) -> the means of q(z|x, y): (B, latent_size)."""
        return self.encoder(xs, ys)[0]

    def decode(self, zs: torch.Tensor, ys: torch.Tensor) -> torch.Tensor:
        """Latent vectors (B, latent_size) and labels (B,) -> images (B, 1, 28, 28)."""
        return self.decoder(zs, ys=ys).view(-1, *IMAGE_SHAPE)


def sample(mu: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """z = mu + sigma * epsilon with epsilon from N(0, I): a sample of N(mu, sigma^2) through which gradients reach both
    (the reparameterization trick, Kingma & Welling 2014, section 2.4)."""
    return mu + sigma * torch.randn_like(mu)


def with_label(inputs: torch.Tensor, ys: torch.Tensor | None) -> torch.Tensor:
    """Inputs (B, D) beside their labels (B,), one-hot times LABEL_SCALE: (B, D + CLASSES). Raises TypeError where the
    labels are missing."""
    if ys is None:
        raise TypeError("the CVAE needs the labels ys beside the images or the latent vectors")
    return torch.cat([inputs, LABEL_SCALE * one_hot(ys, CLASSES).to(inputs.dtype)], dim=1)


def refuse_unknown(owner: str, kwargs: dict, known: str = "no further arguments") -> None:
    """Raise TypeError, naming what the owner understands, unless all keyword arguments have been used."""
    if kwargs:
        raise TypeError(f"{owner} understands {known}, found {', '.join(kwargs)}")


def build_model(name: str, hidden_size: int = 512, latent_size: int = 20) -> AutoEncoder:
    """The "AE", the "VAE" or the "CVAE" for MNIST."""
    sizes = (math.prod(IMAGE_SHAPE), hidden_size, latent_size)
    decoder = Decoder(*sizes, decode_type=name)
    if name == "AE":
        return AutoEncoder(Encoder(*sizes), decoder)
    if name == "VAE":
        return VariationalAutoEncoder(Encoder(*sizes, is_dist=True), decoder)
    return ConditionalVariationalAutoEncoder(Encoder(*sizes, is_dist=True, has_label=True), decoder)
