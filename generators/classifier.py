"""The classifier of the flowers, which tells the score how often each species comes among generated images.

model = Classifier(classes=3)
logits, labels = model(images, labels)          # (B, 3, 24, 24), (B,) -> (B, 3), (B,)
features = model.features(images)               # (B, 128)
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from Autoencoder import build_encoder


class Classifier(nn.Module):
    """Which species is it? The convolutions of the Autoencoder's encoder, their mean over positions, a Linear layer.

    Raises ValueError where the height or the width is not a multiple of 4.
    """

    name = "Classifier"
    is_dist, has_label = False, True

    def __init__(self, classes: int, img_height: int = 24, img_width: int = 24):
        super().__init__()
        self.image_size = (img_height, img_width)
        self.convolutions = build_encoder(1, img_height, img_width)[:-2]  # (B, 3, H, W) -> (B, 128, H/4, W/4)
        self.species = nn.Linear(128, classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W) in [0, 1] -> (B, 128)."""
        return self.convolutions(images).mean(dim=(2, 3))

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (B, 3, H, W) and their labels (B,) -> (logits (B, classes), labels)."""
        return self.species(self.features(images)), labels

    @staticmethod
    def measure(outputs, images) -> tuple[torch.Tensor, dict]:
        """(the loss to minimise, what the log says of it) for what `forward` returns."""
        logits, labels = outputs
        loss = cross_entropy(logits.float(), labels)
        return loss, {"loss": loss.item(), "accuracy": (logits.argmax(dim=1) == labels).float().mean().item()}
