"""The latent space as a plane: the latent vectors of test digits in their first two principal components.

plane = Plane("MNIST_VAE", model, images, labels)
digit, label = plane.decode(x, y)                   # (1, 28, 28), of the latent vector at that point
digits = plane.interpolate(start, end, steps=10)    # (steps + 2, 1, 28, 28), test digits at both ends
"""

import torch
from sklearn.decomposition import PCA
from torch.nn.functional import pad

from trained.registry import MODELS
from trained.sampling import add_endpoints, decode, encode, interpolate


class Plane:
    """Latent vectors (N, D) of images (N, 1, 28, 28), projected to points (N, 2).

    A point stands for the latent vector with these two components, and the mean of all in the others.
    """

    def __init__(self, name: str, model, images: torch.Tensor, labels: torch.Tensor):
        self.condition = MODELS[name].condition
        self.model = model
        self.images = images
        self.labels = labels
        self.codes = encode(model, images, *self.condition(labels))
        self.components = min(2, self.codes.shape[1])
        self.pca = PCA(self.components, svd_solver="full").fit(self.codes.numpy())
        points = torch.from_numpy(self.pca.transform(self.codes.numpy()))
        self.points = pad(points, (0, 2 - self.components))

    def nearest(self, x: float, y: float) -> int:
        """The number of the test digit that is nearest to a point of the plane."""
        return int((self.points - torch.tensor([x, y])).square().sum(dim=1).argmin())

    def decode(self, x: float, y: float) -> tuple[torch.Tensor, int]:
        """(the digit (1, 28, 28) at a point, the label of the nearest test digit, which the CVAE gets)."""
        label = self.labels[self.nearest(x, y)]
        code = torch.from_numpy(self.pca.inverse_transform([[x, y][: self.components]])).float()
        return decode(self.model, code, *self.condition(label[None]))[0], int(label)

    def interpolate(self, start: int, end: int, steps: int) -> torch.Tensor:
        """From one test digit to another in equal steps between their latent vectors, the digits themselves at the
        ends: (steps + 2, 1, 28, 28). The CVAE gets the label of the nearer end."""
        ends = torch.tensor([start, end])
        labels = self.labels[ends].repeat_interleave(torch.tensor([steps - steps // 2, steps // 2]))
        codes = interpolate(self.codes[ends], steps)
        return add_endpoints(self.images[ends], decode(self.model, codes, *self.condition(labels)))
