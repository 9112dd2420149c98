"""The diffusion model of the flowers: a U-Net that learns to remove noise from photographs, and DDIM sampling.

    model = Diffusion(class_prior=[0.3, 0.3, 0.4])
    prediction, v = model(images, labels)           # (B, 3, 24, 24) each; the loss is their mean squared error
    images = model.sample(noise, labels)            # (B, 3, 24, 24) and (B,) -> (B, 3, 24, 24) in [0, 1]

A photograph x0, with values from -1 to 1, is diffused over T = 1000 timesteps (Ho et al. 2020, equation 4):

    x_t = alpha_t x0 + sigma_t e,  e from N(0, I),  alpha_t = cos(pi/2 * (t/T + 0.008) / 1.008),  alpha^2 + sigma^2 = 1

which is the cosine schedule (Nichol & Dhariwal 2021, equation 17, but for their division by alpha_0; alpha_t^2 is their
alpha-bar). The network is given x_t and t and predicts v = alpha_t e - sigma_t x0, from which both x0 and e follow
(Salimans & Ho 2022, section 4). Its squared error is that of e, the loss of Ho et al., over alpha_t^2: the timesteps of
almost pure noise, where e is plain to see, teach as well.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

from Autoencoder import quarter

TIMESTEPS = 1000  # T
LABEL_DROPOUT = 0.1  # probability of the null label in training, for classifier-free guidance
PATCH = 2  # pixels a side that the network sees as one: a quarter of the work
GROUPS, HEADS = 8, 4  # of the channels: in the normalisation, and of the attention


class Diffusion(nn.Module):
    """A U-Net that predicts v, and the sampler. The height and the width are multiples of 4.

    class_prior: the probability of each class, for labels to sample from; the null label is the number of classes.
    Raises ValueError where the height or the width does not fit, or where the prior is no distribution.
    """

    name = "DDPM"
    is_dist, has_label = False, True

    def __init__(self, class_prior: list[float], img_height: int = 24, img_width: int = 24, width: int = 56):
        super().__init__()
        quarter(img_height, img_width)  # the U-Net sees patches, and halves their number once
        if not class_prior or min(class_prior) < 0 or abs(sum(class_prior) - 1) > 1e-3:
            raise ValueError(f"expected the probabilities of the classes, found {class_prior}")
        self.image_shape, self.class_prior = (3, img_height, img_width), class_prior
        self.unet = UNet(len(class_prior), width)

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (B, 3, H, W) in [0, 1] and labels (B,) -> (the prediction of v, v), at random timesteps.

        The timesteps are evenly spaced over the batch, from a random one on (Kingma et al. 2021, appendix I.1).
        """
        count, device = len(images), images.device
        spacing = torch.arange(count, device=device) * TIMESTEPS // count
        t = (torch.randint(TIMESTEPS, (1,), device=device) + spacing) % TIMESTEPS + 1
        labels = torch.where(torch.rand(count, device=device) < LABEL_DROPOUT, len(self.class_prior), labels)
        x0, noise = 2 * images - 1, torch.randn_like(images)
        alpha, sigma = schedule(t)
        return self.unet(alpha * x0 + sigma * noise, t, labels), alpha * noise - sigma * x0

    @staticmethod
    def measure(outputs, images) -> tuple[torch.Tensor, dict]:
        """(the loss to minimise, what the log says of it) for what `forward` returns."""
        prediction, v = outputs
        loss = F.mse_loss(prediction.float(), v)
        return loss, {"loss": loss.item()}

    def sample_labels(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Labels (count,) from the class prior."""
        return torch.multinomial(torch.tensor(self.class_prior), count, replacement=True, generator=generator)

    def sample(self, noise: torch.Tensor, labels: torch.Tensor, steps: int = 50, guidance: float = 1.0):
        """Noise from N(0, I) (B, 3, H, W) and labels (B,) -> images in [0, 1]: the last of `denoise`."""
        for images in self.denoise(noise, labels, steps, guidance):
            last = images
        return last

    @torch.no_grad()
    def denoise(self, noise: torch.Tensor, labels: torch.Tensor, steps: int = 50, guidance: float = 1.0):
        """Noise from N(0, I) (B, 3, H, W) and labels (B,) -> the prediction of x0 after each step, in [0, 1].

        Each step predicts x0 and e, and combines them at an earlier timestep (DDIM: Song et al. 2021, equation 12 with
        sigma 0), so noise and label alone determine the image. guidance above 1 extrapolates away from the
        unconditional prediction (classifier-free guidance, Ho & Salimans 2022, where it is 1 + w): truer to the class,
        and less varied.
        """
        x, timesteps = noise, torch.linspace(TIMESTEPS, 0, steps + 1, device=noise.device).round().long()
        null_labels = torch.full_like(labels, len(self.class_prior))
        for t, earlier in zip(timesteps[:-1].expand(len(x), -1).T, timesteps[1:].expand(len(x), -1).T, strict=True):
            v = self.unet(x, t, labels)
            if guidance != 1:
                unconditional = self.unet(x, t, null_labels)
                v = unconditional + guidance * (v - unconditional)
            alpha, sigma = schedule(t)
            x0 = (alpha * x - sigma * v).clamp(-1, 1)
            yield x0 / 2 + 0.5
            e = (x - alpha * x0) / sigma
            alpha, sigma = schedule(earlier)
            x = alpha * x0 + sigma * e


def schedule(t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """alpha_t and sigma_t of timesteps (B,) from 0 to T, each (B, 1, 1, 1)."""
    angle = math.pi / 2 * (t[:, None, None, None] / TIMESTEPS + 0.008) / 1.008
    return angle.cos(), angle.sin()


class UNet(nn.Module):
    """x_t (B, 3, H, W), timesteps (B,) and labels (B,), `classes` for none -> v (B, 3, H, W) (Ronneberger et al. 2015).

    Residual blocks at H/2 and, twice as wide, at H/4, down and up again, with skip connections from the one to the
    other.
    """

    def __init__(self, classes: int, width: int):
        super().__init__()
        fine, coarse, emb, pixels = width, 2 * width, 4 * width, 3 * PATCH**2
        self.timestep_mlp = nn.Sequential(nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.label_embedding = nn.Embedding(classes + 1, emb)
        self.conv_in = nn.Conv2d(pixels, fine, 3, padding=1)
        self.down1 = nn.ModuleList([Block(fine, fine, emb), Block(fine, fine, emb)])
        self.downsample = nn.Conv2d(fine, fine, 3, stride=2, padding=1)
        self.down2 = nn.ModuleList([Block(fine, coarse, emb), Block(coarse, coarse, emb)])
        self.mid1, self.mid2 = Block(coarse, coarse, emb), Block(coarse, coarse, emb)
        self.attention = Attention(coarse)
        self.up2 = nn.ModuleList([Block(2 * coarse, coarse, emb), Block(2 * coarse, fine, emb)])
        self.upsample = nn.Conv2d(fine, fine, 3, padding=1)
        self.up1 = nn.ModuleList([Block(2 * fine, fine, emb), Block(2 * fine, fine, emb)])
        conv_out = zero_init(nn.Conv2d(fine, pixels, 3, padding=1))
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, fine), nn.SiLU(), conv_out)

    def forward(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """v of shape (B, 3, H, W)."""
        timesteps = timestep_embedding(t, self.timestep_mlp[0].in_features)
        emb = F.silu(self.timestep_mlp(timesteps) + self.label_embedding(labels))  # (B, 4 width)
        x, skips = self.conv_in(F.pixel_unshuffle(x, PATCH)), []  # (B, width, H/2, W/2)
        for block in self.down1:
            skips.append(x := block(x, emb))
        x = self.downsample(x)  # (B, width, H/4, W/4)
        for block in self.down2:
            skips.append(x := block(x, emb))  # (B, 2 width, H/4, W/4)
        x = self.mid2(self.attention(self.mid1(x, emb)), emb)
        for block in self.up2:
            x = block(torch.cat([x, skips.pop()], dim=1), emb)
        x = self.upsample(F.interpolate(x, scale_factor=2.0))  # (B, width, H/2, W/2)
        for block in self.up1:
            x = block(torch.cat([x, skips.pop()], dim=1), emb)
        return F.pixel_shuffle(self.out(x), PATCH)


class Block(nn.Module):
    """x (B, inputs, H, W) -> (B, outputs, H, W): x plus two convolutions of it, which are zero at first.

    emb (B, E), of the timestep and the label, scales and shifts between them (Dhariwal & Nichol 2021, section 3).
    """

    def __init__(self, inputs: int, outputs: int, emb: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(GROUPS, inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.scale_shift = nn.Linear(emb, 2 * outputs)
        self.norm2, self.conv2 = nn.GroupNorm(GROUPS, outputs), zero_init(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        """(B, outputs, H, W)."""
        scale, shift = self.scale_shift(emb)[..., None, None].chunk(2, dim=1)
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        return self.skip(x) + h


class Attention(nn.Module):
    """x (B, C, H, W) plus self-attention over the positions (Vaswani et al. 2017), which is zero at first."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm, self.query_key_value = nn.GroupNorm(GROUPS, channels), nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero_init(nn.Conv2d(channels, channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W)."""
        split = self.query_key_value(self.norm(x)).unflatten(1, (3, HEADS, -1)).flatten(4)
        query, key, value = split.transpose(-1, -2).unbind(1)  # each (B, HEADS, H W, C/HEADS)
        attended = F.scaled_dot_product_attention(query, key, value)
        return x + self.out(attended.transpose(-1, -2).reshape(x.shape))


def timestep_embedding(t: torch.Tensor, dims: int) -> torch.Tensor:
    """Timesteps (B,) as sines and cosines of `dims` / 2 frequencies, low to high: (B, dims)."""
    frequencies = torch.logspace(0, 3, dims // 2).to(t.device)  # radians from timestep 0 to T; MPS has no logspace
    angles = t[:, None] / TIMESTEPS * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def zero_init(layer: nn.Conv2d) -> nn.Conv2d:
    """The same layer, with weights and bias 0 at first: what it is added to passes through unchanged."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
