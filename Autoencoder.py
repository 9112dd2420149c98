"""Flowers, part 3: the convolutional autoencoder.

    model = Autoencoder(encoding_dim=64)
    reconstructions = model(images)         # (B, 3, 24, 24) in [0, 1] -> the same shape and range

3xHxW -> 32xH/2xW/2 -> 64xH/4xW/4 -> 128xH/4xW/4 -> encoding_dim, and the same way back.
"""

import torch
from torch import nn
from torch.nn.functional import mse_loss

AE_ENCODING_DIM = 64


# 作业 Part 3.1 (Part 3 合计 7.5 分): Convolutional Autoencoder 的模型架构
class Autoencoder(nn.Module):
    """Images (B, 3, img_height, img_width) in [0, 1] -> their reconstructions.

    Raises ValueError where the height or the width is not a multiple of 4, or where images are not of that size.
    """

    last_gains = (1.0, 0.3)  # of the initial weights of the encoder's and of the decoder's last layer (`initialise`)

    def __init__(self, encoding_dim: int = AE_ENCODING_DIM, img_height: int = 24, img_width: int = 24):
        super().__init__()
        encoder_gain, decoder_gain = self.last_gains
        self.image_shape = (3, img_height, img_width)
        self.encoding_dim = encoding_dim
        self.encoder = build_encoder(encoding_dim, img_height, img_width, encoder_gain)
        self.decoder = build_decoder(encoding_dim, img_height, img_width, decoder_gain)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The reconstructions of images (B, 3, H, W)."""
        return self.decode(self.encode(images))

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) -> latent vectors (B, encoding_dim)."""
        self.check(images)
        return self.encoder(images)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latent vectors (B, encoding_dim) -> images (B, 3, H, W) in [0, 1]."""
        return self.decoder(latents)

    def reconstruct(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) through the bottleneck and back."""
        return self.decode(self.encode(images))

    def check(self, images: torch.Tensor) -> None:
        """Refuse images of another size: the layers would accept 16x12 for 12x16, and answer wrongly."""
        if images.shape[1:] != self.image_shape:
            raise ValueError(f"expected images (B, *{self.image_shape}), found {tuple(images.shape)}")

    def loss(self, outputs: torch.Tensor, images: torch.Tensor) -> tuple[torch.Tensor, dict]:
        """(the loss to minimise, the metrics for the log): the mean squared error of what `forward` returned."""
        loss = mse_loss(outputs, images)
        return loss, {"loss": loss.item()}

    def describe_layers(self) -> str:
        """The sizes of the image, after each ReLU, of the latent vector and of the reconstruction."""
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
        nn.ReLU(),  # (B, 32, H/2, W/2); after the pooling it gives the same as before it, for a quarter of the work
        nn.Conv2d(32, 64, 3, padding=1),
        nn.MaxPool2d(2),
        nn.ReLU(),  # (B, 64, H/4, W/4)
        nn.Conv2d(64, 128, 3, padding=1),
        nn.ReLU(),  # (B, 128, H/4, W/4)
        nn.Flatten(),
        nn.Linear(128 * height * width, encoding_dim),
    )
    initialise(encoder, last_gain)
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
    last_gain in the last layer. benchmarks/README.md shows what each of these is worth.
    """
    layers = [layer for layer in stack if isinstance(layer, (nn.Linear, nn.Conv2d))]
    for layer in layers:
        is_first = layer is layers[0]
        is_last = layer is layers[-1]
        rows, columns, *kernel = layer.weight.shape
        block_rows = rows if is_last else rows // 2
        block_columns = columns if is_first else columns // 2
        block = nn.init.orthogonal_(torch.empty(block_rows, block_columns, *kernel), last_gain if is_last else 2**0.5)
        if not is_first:
            block = torch.cat([block, -block], dim=1)
        if not is_last:
            block = torch.cat([block, -block], dim=0)
        layer.weight.copy_(block)
        layer.bias.zero_()


def quarter(img_height: int, img_width: int) -> tuple[int, int]:
    """Height and width after two halvings. Raises ValueError where they are not multiples of 4."""
    if min(img_height, img_width) < 4 or img_height % 4 or img_width % 4:
        size = f"{img_height}x{img_width}"
        raise ValueError(f"expected a height and a width that are multiples of 4, for two halvings, found {size}")
    return img_height // 4, img_width // 4
