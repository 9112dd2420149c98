"""The classifier of the flowers, by which the score counts how often each species appears among generated images.

model = Classifier(classes=3)
logits, labels = model(images, labels)          # (B, 3, 24, 24), (B,) -> (B, 3), (B,)
features = model.features(images)               # (B, 128)
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from Autoencoder import build_encoder


class Classifier(nn.Module):
    """The species of an image: the convolutions of the Autoencoder's encoder, their mean over
    positions, a Linear layer.

    Raises ValueError where the height or the width is not a multiple of 4.
    """

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
    def loss(outputs: tuple, images: torch.Tensor) -> tuple[torch.Tensor, dict]:
        """(the loss to minimise, the metrics for the log) for what `forward` returned."""
        logits, labels = outputs
        loss = cross_entropy(logits.float(), labels)
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        return loss, {"loss": loss.item(), "accuracy": accuracy.item()}
