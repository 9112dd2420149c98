"""The convolutional autoencoder of the flowers.

    model = Autoencoder(encoding_dim=64)
    reconstructions = model(images)         # (B, 3, 24, 24) in [0, 1] -> the same shape and range

3xHxW -> 32xH/2xW/2 -> 64xH/4xW/4 -> 128xH/4xW/4 -> encoding_dim, and the same way back.
"""

import torch
from torch import nn
from torch.nn.functional import mse_loss

AE_ENCODING_DIM = 64


class Autoencoder(nn.Module):
    """Images (B, 3, img_height, img_width) in [0, 1] -> their reconstructions.

    Raises ValueError where the height or the width is not a multiple of 4, or where images are not of that size.
    """

    name = "AE"
    is_dist = has_label = False  # what the encoder answers with, and whether `forward` takes labels
    last_gains = 1.0, 0.3  # of the initial weights of the encoder's and the decoder's last layer (`initialise`)

    def __init__(self, encoding_dim: int = AE_ENCODING_DIM, img_height: int = 24, img_width: int = 24):
        super().__init__()
        self.image_shape, self.encoding_dim = (3, img_height, img_width), encoding_dim
        self.encoder = build_encoder(encoding_dim, img_height, img_width, self.last_gains[0])
        self.decoder = build_decoder(encoding_dim, img_height, img_width, self.last_gains[1])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The reconstructions of images (B, 3, H, W)."""
        return self.reconstruct(images)

    def reconstruct(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) through the bottleneck and back."""
        self.check(images)
        return self.decoder(self.encoder(images))

    def check(self, images: torch.Tensor) -> None:
        """Refuse images of another size: the layers would take 16x12 for 12x16, and answer wrongly."""
        if images.shape[1:] != self.image_shape:
            raise ValueError(f"expected images (B, *{self.image_shape}), found {tuple(images.shape)}")

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latent vectors (B, encoding_dim) -> images (B, 3, H, W) in [0, 1]."""
        return self.decoder(latents)

    def measure(self, outputs: torch.Tensor, images: torch.Tensor) -> tuple[torch.Tensor, dict]:
        """(the loss to minimise, what the log says of it): the mean squared error of what `forward` returned."""
        loss = mse_loss(outputs, images, reduction="sum")
        return loss / images.numel(), {"loss": loss.item() / images.numel()}

    def describe_layers(self) -> str:
        """The sizes of the image, of what the ReLUs give, of the latent vector and of the reconstruction."""
        x = torch.zeros(1, *self.image_shape)
        sizes = [x.shape[1:]]
        for stack in (self.encoder, self.decoder):
            for layer in stack:
                x = layer(x)
                if isinstance(layer, nn.ReLU):
                    sizes.append(x.shape[1:])
            sizes.append(x.shape[1:])
        return " -> ".join("x".join(map(str, size)) for size in sizes)


def build_encoder(encoding_dim: int, img_height: int, img_width: int, last_gain: float = 1.0) -> nn.Sequential:
    """Images (B, 3, H, W) -> latent vectors (B, encoding_dim)."""
    height, width = quarter(img_height, img_width)
    encoder = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.MaxPool2d(2),
        nn.ReLU(),  # (B, 32, H/2, W/2); after the pooling it gives the same as before, for a quarter of the work
        nn.Conv2d(32, 64, 3, padding=1),
        nn.MaxPool2d(2),
        nn.ReLU(),  # (B, 64, H/4, W/4)
        nn.Conv2d(64, 128, 3, padding=1),
        nn.ReLU(),  # (B, 128, H/4, W/4)
        nn.Flatten(),
        nn.Linear(128 * height * width, encoding_dim),
    )
    initialise(encoder, last_gain)
    if not encoder[0].weight.is_meta:
        with torch.no_grad():  # subtract mid-grey, so that each unit is active for about half of the images
            encoder[0].bias -= 0.5 * encoder[0].weight.sum(dim=(1, 2, 3))
    return encoder


def build_decoder(encoding_dim: int, img_height: int, img_width: int, last_gain: float) -> nn.Sequential:
    """Latent vectors (B, encoding_dim) -> images (B, 3, H, W) in [0, 1]."""
    height, width = quarter(img_height, img_width)
    decoder = nn.Sequential(
        nn.Linear(encoding_dim, 128 * height * width),
        nn.Unflatten(1, (128, height, width)),
        nn.ReLU(),  # (B, 128, H/4, W/4)
        nn.Conv2d(128, 64, 3, padding=1),
        nn.ReLU(),  # (B, 64, H/4, W/4)
        nn.Upsample(scale_factor=2),
        nn.Conv2d(64, 32, 3, padding=1),
        nn.ReLU(),  # (B, 32, H/2, W/2)
        nn.Upsample(scale_factor=2),
        nn.Conv2d(32, 3, 3, padding=1),
        nn.Sigmoid(),  # (B, 3, H, W)
    )
    initialise(decoder, last_gain)
    return decoder


@torch.no_grad()
def initialise(stack: nn.Sequential, last_gain: float) -> None:
    """Orthogonal weights (Saxe et al. 2014) in antisymmetric pairs: a network that starts linear.

    Each hidden channel is paired with one of the opposite weights, and the next layer subtracts it: relu(a) - relu(-a)
    = a, so no ReLU loses anything at the start ("looks linear", Balduzzi et al. 2017). Biases are zero. The gain is √2,
    last_gain in the last layer. What each of these is worth stands in benchmarks/README.md. On the device "meta" there
    is nothing to do.
    """
    if stack[0].weight.is_meta:
        return
    layers = [layer for layer in stack if isinstance(layer, (nn.Linear, nn.Conv2d))]
    for layer in layers:
        paired_in, paired_out = layer is not layers[0], layer is not layers[-1]
        rows, columns, *kernel = layer.weight.shape
        block = torch.empty(rows // (1 + paired_out), columns // (1 + paired_in), *kernel)
        nn.init.orthogonal_(block, 2**0.5 if paired_out else last_gain)
        block = torch.cat([block, -block], dim=1) if paired_in else block
        layer.weight.copy_(torch.cat([block, -block]) if paired_out else block)
        layer.bias.zero_()


def quarter(img_height: int, img_width: int) -> tuple[int, int]:
    """Height and width after two halvings. Raises ValueError where they are not multiples of 4."""
    if min(img_height, img_width) < 4 or img_height % 4 or img_width % 4:
        size = f"{img_height}x{img_width}"
        raise ValueError(f"expected a height and a width that are multiples of 4, for two halvings, found {size}")
    return img_height // 4, img_width // 4
