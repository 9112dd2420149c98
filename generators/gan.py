"""The generative adversarial network of the flowers: a generator, and a critic that distinguishes its samples from
photographs.

    model = GAN(encoding_dim=64)
    images = model.generator(latents)               # (B, 64) from N(0, I) -> (B, 3, 24, 24) in [0, 1]
    loss, metrics = model.loss(model(photographs), photographs)

R3GAN (Huang et al. 2024) on a small scale. The critic gives photographs x and generated images y a logit each, and both
losses are of pairs, softplus(critic(y) - critic(x)) and the reverse (a relativistic GAN). Zero-centred gradient
penalties at x and at y (R1 and R2, Mescheder et al. 2018) keep the two from oscillating and the generator from dropping
species; the squared gradient is estimated by finite differences, instead of differentiating twice (Lin et al. 2025).
What the critic sees is augmented at random, or it would learn 2,000 photographs by heart (Zhao et al. 2020), and its
details are standardised: a penalised critic cannot tell what differs by little, and fine details are small.
"""

import torch
from torch import nn
from torch.nn.functional import softplus

from Autoencoder import quarter
from generators.wavelets import Standardise

PENALTY = 0.3  # gamma, the weight of R1 and R2
FD_SIGMA = 0.1  # standard deviation of the noise of the finite differences; what the critic sees has about 1
PATCH = 2  # pixels a side that the generator's last layer makes, and the critic's first one sees, as one


class GAN(nn.Module):
    """A generator of images (B, 3, img_height, img_width) from latent vectors, and its critic.

    Raises ValueError where the height or the width is not a multiple of 4.
    """

    def __init__(self, encoding_dim: int, img_height: int = 24, img_width: int = 24, width: int = 32):
        super().__init__()
        size = quarter(img_height, img_width)
        self.encoding_dim = encoding_dim
        self.generator = build_generator(encoding_dim, *size, width)
        self.critic = build_critic(*size, width)
        self.standardised = Standardise(img_height, img_width)

    def standardise(self, images: torch.Tensor) -> None:
        """From now on the critic sees details over their standard deviations in these images (N, 3, H, W) in [0, 1]."""
        self.standardised.fit(2 * images - 1)

    def forward(self, photographs: torch.Tensor) -> dict:
        """Photographs (B, 3, H, W) -> as many generated images and the critic's logits (B,): of both as its own loss
        sees them, the same with noise of FD_SIGMA added, and of the generated images as the generator's loss sees them.
        """
        latents = torch.randn(len(photographs), self.encoding_dim, device=photographs.device)
        images = self.generator(latents).float()
        with torch.autocast(photographs.device.type, enabled=False):  # bfloat16 is too coarse for differences of logits
            seen = torch.cat([self.show(photographs), self.show(images.detach())])
            perturbed = seen + FD_SIGMA * torch.randn_like(seen)
            logits = self.critic(torch.cat([seen, perturbed])).squeeze(1).chunk(4)
            self.critic.requires_grad_(False)  # the generator's loss is not to train it
            generator_logits = self.critic(self.show(images)).squeeze(1)
            self.critic.requires_grad_(True)
        names = ("real_logits", "fake_logits", "perturbed_real", "perturbed_fake")
        return {"images": images, "generator_logits": generator_logits, **dict(zip(names, logits, strict=True))}

    def show(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) in [0, 1] -> what the critic sees of them, of the same shape."""
        return self.standardised(augment(2 * images - 1))

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latent vectors (B, encoding_dim) -> images (B, 3, H, W) in [0, 1]."""
        return self.generator(latents)

    @staticmethod
    def loss(outputs: dict, photographs: torch.Tensor) -> tuple[torch.Tensor, dict]:
        """(the loss to minimise, the metrics for the log) for what `forward` returned.

        The log's loss is neither player's, whose losses say how even the game is and not how good the images are,
        but the distance of the generated images to the photographs.
        """
        real = outputs["real_logits"]
        fake = outputs["fake_logits"]
        differences = [real - outputs["perturbed_real"], fake - outputs["perturbed_fake"]]
        critic = softplus(fake - real).mean()
        penalty = sum(difference.square().mean() for difference in differences) / FD_SIGMA**2  # E |gradient|^2, about
        generator = softplus(real.detach() - outputs["generator_logits"]).mean()
        distance = energy_distance(outputs["images"].detach(), photographs)
        metrics = {"loss": distance.item(), "critic": critic.item(), "generator": generator.item()}
        return critic + PENALTY / 2 * penalty + generator, metrics


def build_generator(encoding_dim: int, height: int, width: int, channels: int) -> nn.Sequential:
    """Latent vectors (B, encoding_dim) -> images (B, 3, 4 height, 4 width) in [0, 1]."""
    wide = 4 * channels
    narrow = 2 * channels
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
    """What `show` returns (B, 3, 4 height, 4 width) -> logits (B, 1). No normalisation: its gradient is penalised."""
    wide = 4 * channels
    narrow = 2 * channels
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
    """x (B, C, H, W) plus two convolutions of it, which are zero at first (He et al. 2016)."""

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
    """Images (B, 3, H, W) from -1 to 1, each augmented at random, differentiably (Zhao et al. 2020): brightness,
    saturation and contrast; translation by up to an eighth of the size, the border mirrored."""
    count, _, *size = images.shape
    device = images.device

    def uniform(low, high):
        return low + (high - low) * torch.rand(count, 1, 1, 1, device=device)

    images = images + uniform(-0.25, 0.25)
    grey = images.mean(dim=1, keepdim=True)
    images = grey + uniform(0.5, 1.5) * (images - grey)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = mean + uniform(0.75, 1.25) * (images - mean)

    sources = []  # (B, H), then (B, W)
    for length in size:
        moved = torch.randint(-(length // 8), length // 8 + 1, (count, 1), device=device)
        source = torch.arange(length, device=device) + moved
        source = torch.maximum(source, -1 - source)
        sources.append(torch.minimum(source, 2 * length - 1 - source))
    each = torch.arange(count, device=device)[:, None, None]
    return images[each, :, sources[0][:, :, None], sources[1][:, None, :]].permute(0, 3, 1, 2)


def energy_distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """2 E|x - y| - E|x - x'| - E|y - y'| of images x and y, (B, ...) each, of which x' and y' are others: 0 where both
    are of one distribution (Szekely & Rizzo 2013). Estimated without bias, so it may fall below 0; of one image each,
    which has no others, 2 |x - y|."""
    exact = "donot_use_mm_for_euclid_dist"  # or the distance of an image to itself would not be 0
    x = x.flatten(1)
    y = y.flatten(1)
    between = torch.cdist(x, y, compute_mode=exact)
    within_x = torch.cdist(x, x, compute_mode=exact)
    within_y = torch.cdist(y, y, compute_mode=exact)
    others = max(1, len(x) * (len(x) - 1))
    return 2 * between.mean() - (within_x.sum() + within_y.sum()) / others
