"""The networks of the diffusion model, whose input is an image, a timestep and a label.

    unet = UNet(inputs=3, outputs=3, classes=3, width=48)
    v = unet(x, t, labels)                          # (B, 3, 12, 12), (B,), (B,) -> (B, 3, 12, 12)

Both are of residual blocks: those of the UNet see all of the image, those of the LocalNet what is near a place.
"""

import torch
from torch import nn
from torch.nn import functional as F

TIMESTEPS = 1000  # T
GROUPS, HEADS = 8, 4  # of the channels: in the normalisation, and of the attention
LOCAL_BLOCKS = 6  # which see 13 places to each side


class UNet(nn.Module):
    """x (B, inputs, H, W), timesteps (B,) and labels (B,), `classes` for none -> (B, outputs, H, W) (Ronneberger et al.
    2015). H and W are even.

    Residual blocks at H and, twice as wide, at H/2, down and up again, with skip connections from the one to the other.
    """

    def __init__(self, inputs: int, outputs: int, classes: int, width: int):
        super().__init__()
        fine = width
        coarse = 2 * width
        emb = 4 * width
        self.embedding = Embedding(classes, width)
        self.conv_in = nn.Conv2d(inputs, fine, 3, padding=1)
        self.down1 = nn.ModuleList([Block(fine, fine, emb), Block(fine, fine, emb)])
        self.downsample = nn.Conv2d(fine, fine, 3, stride=2, padding=1)
        self.down2 = nn.ModuleList([Block(fine, coarse, emb), Block(coarse, coarse, emb)])
        self.mid1, self.mid2 = Block(coarse, coarse, emb), Block(coarse, coarse, emb)
        self.attention = Attention(coarse)
        self.up2 = nn.ModuleList([Block(2 * coarse, coarse, emb), Block(2 * coarse, fine, emb)])
        self.upsample = nn.Conv2d(fine, fine, 3, padding=1)
        self.up1 = nn.ModuleList([Block(2 * fine, fine, emb), Block(2 * fine, fine, emb)])
        self.out = last_layer(fine, outputs)

    def forward(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(B, outputs, H, W)."""
        emb = self.embedding(t, labels)
        x = self.conv_in(x)  # (B, width, H, W)
        skips = []
        for block in self.down1:
            skips.append(x := block(x, emb))
        x = self.downsample(x)  # (B, width, H/2, W/2)
        for block in self.down2:
            skips.append(x := block(x, emb))  # (B, 2 width, H/2, W/2)
        x = self.mid2(self.attention(self.mid1(x, emb)), emb)
        for block in self.up2:
            x = block(torch.cat([x, skips.pop()], dim=1), emb)
        x = self.upsample(F.interpolate(x, scale_factor=2.0))  # (B, width, H, W)
        for block in self.up1:
            x = block(torch.cat([x, skips.pop()], dim=1), emb)
        return self.out(x)


class LocalNet(nn.Module):
    """x (B, inputs, H, W), timesteps (B,) and labels (B,) -> (B, outputs, H, W), with residual blocks at H alone."""

    def __init__(self, inputs: int, outputs: int, classes: int, width: int):
        super().__init__()
        self.embedding = Embedding(classes, width)
        self.conv_in = nn.Conv2d(inputs, width, 3, padding=1)
        self.blocks = nn.ModuleList([Block(width, width, 4 * width) for _ in range(LOCAL_BLOCKS)])
        self.out = last_layer(width, outputs)

    def forward(self, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(B, outputs, H, W)."""
        emb = self.embedding(t, labels)
        x = self.conv_in(x)
        for block in self.blocks:
            x = block(x, emb)
        return self.out(x)


class Embedding(nn.Module):
    """Timesteps (B,) and labels (B,) -> (B, 4 width). The label for none is the number of classes."""

    def __init__(self, classes: int, width: int):
        super().__init__()
        emb = 4 * width
        self.width = width
        self.timestep_mlp = nn.Sequential(nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.label_embedding = nn.Embedding(classes + 1, emb)

    def forward(self, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """(B, 4 width)."""
        return F.silu(self.timestep_mlp(timestep_embedding(t, self.width)) + self.label_embedding(labels))


def last_layer(width: int, outputs: int) -> nn.Sequential:
    """From (B, width, H, W) to (B, outputs, H, W), which are 0 at first."""
    return nn.Sequential(nn.GroupNorm(GROUPS, width), nn.SiLU(), zero_init(nn.Conv2d(width, outputs, 3, padding=1)))


class Block(nn.Module):
    """x (B, inputs, H, W) -> (B, outputs, H, W): x plus two convolutions of it, which are zero at first.

    emb (B, E), of the timestep and the label, scales and shifts between them (Dhariwal & Nichol 2021, section 3).
    """

    def __init__(self, inputs: int, outputs: int, emb: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.scale_shift = nn.Linear(emb, 2 * outputs)
        self.norm2 = nn.GroupNorm(GROUPS, outputs)
        self.conv2 = zero_init(nn.Conv2d(outputs, outputs, 3, padding=1))
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
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.query_key_value = nn.Conv2d(channels, 3 * channels, 1)
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
