"""The diffusion model of the flowers: it learns to take noise out of photographs, and draws by taking it out of noise.

    model = Diffusion(classes=3)
    found, v = model(images, labels)                # (B, 3, 24, 24) each; the loss is their mean squared error
    images = model.sample(noise, labels)            # (B, 3, 24, 24) and (B,) -> (B, 3, 24, 24) in [0, 1]

A photograph x0, with values from -1 to 1, drowns in noise over T = 1000 levels (Ho et al. 2020, equation 4):

    x_t = a_t x0 + s_t e,    e from N(0, I),    a_t = cos(pi/2 * (t/T + 0.008) / 1.008),    a_t^2 + s_t^2 = 1

which is the cosine schedule (Nichol & Dhariwal 2021, equation 17, but for their division by a_0; a_t^2 is their
alpha-bar). The network sees x_t and t and names v = a_t e - s_t x0, from which both x0 and e follow (Salimans & Ho
2022, section 4). Its squared error is that of e, the loss of Ho et al., over a_t^2: the levels of almost pure noise,
where e is plain to see, teach as well.
"""

import math

import torch
from torch import nn
from torch.nn.functional import (
    interpolate,
    mse_loss,
    pixel_shuffle,
    pixel_unshuffle,
    scaled_dot_product_attention,
    silu,
)

from Autoencoder import quarter

LEVELS = 1000  # T
UNLABELLED = 0.1  # share of the images that are trained without their label, for the guidance
PATCH = 2  # pixels a side that the network sees as one: a quarter of the work
GROUPS, HEADS = 8, 4  # of the channels: in the normalisation, and of the attention


class Diffusion(nn.Module):
    """A U-Net that finds v, and what turns it into pictures. The height and the width are multiples of 4.

    classes: how many species there are. `share` is that of each in the photographs (classes,), to draw labels from.
    Raises ValueError where the height or the width does not fit.
    """

    name = "DDPM"

    def __init__(self, classes: int, img_height: int = 24, img_width: int = 24, width: int = 56):
        super().__init__()
        quarter(img_height, img_width)  # the U-Net sees patches, and halves their number once
        self.image_shape, self.classes = (3, img_height, img_width), classes
        self.unet = UNet(classes, width)
        self.register_buffer("share", torch.full((classes,), 1 / classes))

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (B, 3, H, W) in [0, 1] and labels (B,) -> (v as the network finds it, v), at random levels.

        The levels are evenly spread over the batch, from a random one on (Kingma et al. 2021, appendix I.1).
        """
        count, device = len(images), images.device
        spread = torch.arange(count, device=device) * LEVELS // count
        level = (torch.randint(LEVELS, (1,), device=device) + spread) % LEVELS + 1
        labels = torch.where(torch.rand(count, device=device) < UNLABELLED, self.classes, labels)
        x0, noise = 2 * images - 1, torch.randn_like(images)
        signal, sigma = amplitudes(level)
        return self.unet(signal * x0 + sigma * noise, level, labels), signal * noise - sigma * x0

    @staticmethod
    def measure(outputs, images) -> tuple[torch.Tensor, dict]:
        """(the loss to minimise, what the log says of it) for what `forward` returns."""
        found, v = outputs
        loss = mse_loss(found.float(), v)
        return loss, {"loss": loss.item()}

    def draw_labels(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Labels (count,) of species, as often as the photographs have them."""
        return torch.multinomial(self.share.cpu(), count, replacement=True, generator=generator)

    @torch.no_grad()
    def sample(self, noise: torch.Tensor, labels: torch.Tensor, steps: int = 50, guidance: float = 1.0):
        """Noise from N(0, I) (B, 3, H, W) and labels (B,) -> images in [0, 1].

        Each step finds x0 and e, and blends them anew at a lower level (DDIM: Song et al. 2021, equation 12 with sigma
        0), so noise and label alone decide on the picture. guidance above 1 goes further away from what would be found
        without the label (classifier-free guidance, Ho & Salimans 2022, where it is 1 + w): truer to the species, and
        less varied.
        """
        x, levels = noise, torch.linspace(LEVELS, 0, steps + 1, device=noise.device).round().long()
        nothing = torch.full_like(labels, self.classes)
        for level, lower in zip(levels[:-1].expand(len(x), -1).T, levels[1:].expand(len(x), -1).T, strict=True):
            v = self.unet(x, level, labels)
            if guidance != 1:
                without = self.unet(x, level, nothing)
                v = without + guidance * (v - without)
            signal, sigma = amplitudes(level)
            x0 = (signal * x - sigma * v).clamp(-1, 1)
            e = (x - signal * x0) / sigma
            signal, sigma = amplitudes(lower)
            x = signal * x0 + sigma * e
        return x0 / 2 + 0.5


def amplitudes(level: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """a_t and s_t of levels (B,) from 0 to T, each (B, 1, 1, 1)."""
    angle = math.pi / 2 * (level[:, None, None, None] / LEVELS + 0.008) / 1.008
    return angle.cos(), angle.sin()


class UNet(nn.Module):
    """x_t (B, 3, H, W), levels (B,) and labels (B,), `classes` for none -> v (B, 3, H, W) (Ronneberger et al. 2015).

    Residual blocks at H/2 and, twice as wide, at H/4, down and up again; on the way up each is also given what the
    one across found on the way down.
    """

    def __init__(self, classes: int, width: int):
        super().__init__()
        fine, coarse, about, pixels = width, 2 * width, 4 * width, 3 * PATCH**2
        self.level = nn.Sequential(nn.Linear(width, about), nn.SiLU(), nn.Linear(about, about))
        self.label = nn.Embedding(classes + 1, about)
        self.first = nn.Conv2d(pixels, fine, 3, padding=1)
        self.fine_down = nn.ModuleList([Block(fine, fine, about), Block(fine, fine, about)])
        self.shrink = nn.Conv2d(fine, fine, 3, stride=2, padding=1)
        self.coarse_down = nn.ModuleList([Block(fine, coarse, about), Block(coarse, coarse, about)])
        self.before, self.after = Block(coarse, coarse, about), Block(coarse, coarse, about)
        self.attention = Attention(coarse)
        self.coarse_up = nn.ModuleList([Block(2 * coarse, coarse, about), Block(2 * coarse, fine, about)])
        self.grow = nn.Conv2d(fine, fine, 3, padding=1)
        self.fine_up = nn.ModuleList([Block(2 * fine, fine, about), Block(2 * fine, fine, about)])
        last = start_at_zero(nn.Conv2d(fine, pixels, 3, padding=1))
        self.last = nn.Sequential(nn.GroupNorm(GROUPS, fine), nn.SiLU(), last)

    def forward(self, x: torch.Tensor, level: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """v of shape (B, 3, H, W)."""
        about = silu(self.level(waves(level, self.level[0].in_features)) + self.label(labels))  # (B, 4 width)
        x, across = self.first(pixel_unshuffle(x, PATCH)), []  # (B, width, H/2, W/2)
        for block in self.fine_down:
            across.append(x := block(x, about))
        x = self.shrink(x)  # (B, width, H/4, W/4)
        for block in self.coarse_down:
            across.append(x := block(x, about))  # (B, 2 width, H/4, W/4)
        x = self.after(self.attention(self.before(x, about)), about)
        for block in self.coarse_up:
            x = block(torch.cat([x, across.pop()], dim=1), about)
        x = self.grow(interpolate(x, scale_factor=2.0))  # (B, width, H/2, W/2)
        for block in self.fine_up:
            x = block(torch.cat([x, across.pop()], dim=1), about)
        return pixel_shuffle(self.last(x), PATCH)


class Block(nn.Module):
    """x (B, inputs, H, W) -> (B, outputs, H, W): x and what two convolutions add, at first nothing.

    about (B, A), the level and the label, scales and shifts what is between them (Dhariwal & Nichol 2021, section 3).
    """

    def __init__(self, inputs: int, outputs: int, about: int):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(GROUPS, inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.about = nn.Linear(about, 2 * outputs)
        self.norm2, self.conv2 = nn.GroupNorm(GROUPS, outputs), start_at_zero(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: torch.Tensor, about: torch.Tensor) -> torch.Tensor:
        """(B, outputs, H, W)."""
        scale, shift = self.about(about)[..., None, None].chunk(2, dim=1)
        h = self.conv1(silu(self.norm1(x)))
        h = self.conv2(silu(self.norm2(h) * (1 + scale) + shift))
        return self.skip(x) + h


class Attention(nn.Module):
    """x (B, C, H, W), and what each position learns from all others (Vaswani et al. 2017), at first nothing."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm, self.query_key_value = nn.GroupNorm(GROUPS, channels), nn.Conv2d(channels, 3 * channels, 1)
        self.out = start_at_zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W)."""
        split = self.query_key_value(self.norm(x)).unflatten(1, (3, HEADS, -1)).flatten(4)
        query, key, value = split.transpose(-1, -2).unbind(1)  # each (B, HEADS, H W, C/HEADS)
        found = scaled_dot_product_attention(query, key, value)
        return x + self.out(found.transpose(-1, -2).reshape(x.shape))


def waves(level: torch.Tensor, count: int) -> torch.Tensor:
    """Levels (B,) as sines and cosines of `count` / 2 frequencies, slow to fast: (B, count)."""
    frequencies = torch.logspace(0, 3, count // 2).to(level.device)  # radians from level 0 to T; MPS has no logspace
    angles = level[:, None] / LEVELS * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def start_at_zero(layer: nn.Conv2d) -> nn.Conv2d:
    """The same layer, whose weights are 0 at first: what it is added to goes through unchanged."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
