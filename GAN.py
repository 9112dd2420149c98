"""The generative adversarial network of the flowers: one network draws, another tells its pictures from photographs.

    model = GAN(encoding_dim=64)
    images = model.generator(latents)               # (B, 64) from N(0, I) -> (B, 3, 24, 24) in [0, 1]
    loss, log = model.measure(model(photographs, labels), photographs)

The critic scores a photograph x and a generated picture y, and learns to score x higher; the generator learns to make
it score y higher (Goodfellow et al. 2014). Both losses are of pairs, softplus(critic(y) - critic(x)) and the reverse,
and the critic's slope is held down at x and at y, lest the two oscillate or the generator drop species (R3GAN, Huang et
al. 2024; Mescheder et al. 2018). The slope is measured by adding noise, instead of differentiating twice (Lin et al.
2025). What the critic sees is changed at random first, or it would know 2,000 photographs by heart (Zhao et al. 2020).
"""

import torch
from torch import nn
from torch.nn.functional import softplus

from Autoencoder import quarter

PENALTY = 1.0  # on the critic's slope: gamma
STEP = 0.05  # standard deviation of the noise by which the slope is measured; pixels go from -1 to 1
EXACT = "donot_use_mm_for_euclid_dist"  # or the distance of an image to itself would not be 0
PATCH = 2  # the last layer draws, and the first one sees, so many pixels a side as one


class GAN(nn.Module):
    """A generator of images (B, 3, img_height, img_width) from latent vectors, and its critic.

    Raises ValueError where the height or the width is not a multiple of 4.
    """

    name = "GAN"

    def __init__(self, encoding_dim: int, img_height: int = 24, img_width: int = 24, width: int = 32):
        super().__init__()
        self.encoding_dim, size = encoding_dim, quarter(img_height, img_width)
        self.generator, self.critic = build_generator(encoding_dim, *size, width), build_critic(*size, width)

    def forward(self, photographs: torch.Tensor, labels: torch.Tensor) -> dict:
        """Photographs (B, 3, H, W), whose labels do not matter -> as many generated pictures and the critic's scores of
        both (B,): as seen by the critic's loss, with noise of STEP on them, and as seen by the generator's loss."""
        latents = torch.randn(len(photographs), self.encoding_dim, device=photographs.device)
        pictures = self.generator(latents).float()
        with torch.autocast(photographs.device.type, enabled=False):  # bfloat16 is too coarse for differences of scores
            seen = torch.cat([augment(2 * photographs - 1), augment(2 * pictures.detach() - 1)])
            beside = seen + STEP * torch.randn_like(seen)
            scores = self.critic(torch.cat([seen, beside])).squeeze(1).chunk(4)
            self.critic.requires_grad_(False)  # the generator's loss is not to train it
            deceived = self.critic(augment(2 * pictures - 1)).squeeze(1)
            self.critic.requires_grad_(True)
        names = ("of_photographs", "of_pictures", "beside_photographs", "beside_pictures")
        return {"pictures": pictures, "deceived": deceived, **dict(zip(names, scores, strict=True))}

    @staticmethod
    def measure(outputs: dict, photographs: torch.Tensor) -> tuple[torch.Tensor, dict]:
        """(the loss to minimise, what the log says of it) for what `forward` returns.

        The log's loss is neither player's, whose losses say how even the game is and not how good the pictures are,
        but the distance of the generated pictures to the photographs.
        """
        real, fake, deceived = (outputs[name] for name in ("of_photographs", "of_pictures", "deceived"))
        steps = [real - outputs["beside_photographs"], fake - outputs["beside_pictures"]]
        critic = softplus(fake - real).mean()
        penalty = sum(step.square().mean() for step in steps) / STEP**2  # about the squared norm of the gradient
        generator = softplus(real.detach() - deceived).mean()
        distance = energy_distance(outputs["pictures"].detach(), photographs)
        log = {"loss": distance.item(), "critic": critic.item(), "generator": generator.item()}
        return critic + PENALTY / 2 * penalty + generator, log


def build_generator(encoding_dim: int, height: int, width: int, channels: int) -> nn.Sequential:
    """Latent vectors (B, encoding_dim) -> images (B, 3, 4 height, 4 width) in [0, 1]."""
    wide, narrow = 4 * channels, 2 * channels
    return nn.Sequential(
        nn.Linear(encoding_dim, wide * height * width),
        nn.Unflatten(1, (wide, height, width)),  # (B, 4 channels, H/4, W/4)
        Residual(wide, normalise=True),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(wide, narrow, 3, padding=1),  # (B, 2 channels, H/2, W/2)
        Residual(narrow, normalise=True),
        nn.GroupNorm(8, narrow),
        nn.LeakyReLU(0.2),
        nn.Conv2d(narrow, 3 * PATCH**2, 3, padding=1),
        nn.PixelShuffle(PATCH),
        nn.Sigmoid(),  # (B, 3, H, W)
    )


def build_critic(height: int, width: int, channels: int) -> nn.Sequential:
    """Images (B, 3, 4 height, 4 width) from -1 to 1 -> scores (B, 1). It does not normalise: its slope has to count."""
    wide, narrow = 4 * channels, 2 * channels
    return nn.Sequential(
        nn.PixelUnshuffle(PATCH),
        nn.Conv2d(3 * PATCH**2, narrow, 3, padding=1),  # (B, 2 channels, H/2, W/2)
        Residual(narrow),
        nn.Conv2d(narrow, wide, 3, stride=2, padding=1),  # (B, 4 channels, H/4, W/4)
        Residual(wide),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(wide * height * width, 1),
    )


class Residual(nn.Module):
    """x (B, C, H, W), and what two convolutions add to it, at first nothing (He et al. 2016)."""

    def __init__(self, channels: int, normalise: bool = False):
        super().__init__()
        layers = []
        for _ in range(2):
            layers += [nn.GroupNorm(8, channels)] if normalise else []
            layers += [nn.LeakyReLU(0.2), nn.Conv2d(channels, channels, 3, padding=1)]
        nn.init.zeros_(layers[-1].weight)
        nn.init.zeros_(layers[-1].bias)
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W)."""
        return x + self.layers(x)


def augment(images: torch.Tensor) -> torch.Tensor:
    """Images (B, 3, H, W) from -1 to 1, each changed at random, differentiably (Zhao et al. 2020): its brightness,
    saturation and contrast; moved by up to an eighth of its size; and a piece, nearly half as high and wide, cut out.
    Where there is no image any more it is grey."""
    count, _, *size = images.shape
    device = images.device

    def uniform(low, high):
        return low + (high - low) * torch.rand(count, 1, 1, 1, device=device)

    images = images + uniform(-0.5, 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = grey + uniform(0, 2) * (images - grey)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = mean + uniform(0.5, 1.5) * (images - mean)

    sources, inside, outside_hole = [], [], []
    for length in size:
        places = torch.arange(length, device=device)
        source = places + torch.randint(-(length // 8), length // 8 + 1, (count, 1), device=device)
        sources.append(source.clamp(0, length - 1))  # (B, H), then (B, W)
        inside.append((source >= 0) & (source < length))
        outside_hole.append((places - torch.randint(length, (count, 1), device=device)).abs() >= length // 4)
    each = torch.arange(count, device=device)[:, None, None]
    images = images[each, :, sources[0][:, :, None], sources[1][:, None, :]].permute(0, 3, 1, 2)
    seen = inside[0][:, :, None] & inside[1][:, None, :] & (outside_hole[0][:, :, None] | outside_hole[1][:, None, :])
    return images * seen[:, None]


def energy_distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """2 E|x - y| - E|x - x'| - E|y - y'| of images x and y, (B, ...) each, of which x' and y' are others: 0 where both
    are of one distribution (Szekely & Rizzo 2013). Estimated without bias, so it may fall below 0; of one image each,
    which has no others, 2 |x - y|."""
    x, y = x.flatten(1), y.flatten(1)
    across, within_x, within_y = (torch.cdist(a, b, compute_mode=EXACT) for a, b in ((x, y), (x, x), (y, y)))
    others = max(1, len(x) * (len(x) - 1))
    return 2 * across.mean() - (within_x.sum() + within_y.sum()) / others
