"""The latent space as a plane: test digits' latent vectors in their first two principal components.

plane = Plane(model, images, labels)
digit, label = plane.decode(x, y)           # (1, 28, 28), of the latent vector at that point
walk = plane.walk(start, end, steps=10)     # (steps + 2, 1, 28, 28), test digits at both ends
"""

import torch

from evaluation.sampling import BATCH, between, interpolate


class Plane:
    """Latent vectors (N, D) of test digits, projected to points (N, 2).

    A point stands for the latent vector with these two components, and the mean of all in the others. Where there are
    no more than two dimensions, it is the latent vector.
    """

    def __init__(self, model, images: torch.Tensor, labels: torch.Tensor):
        self.model, self.images, self.labels = model, images, labels
        batches = zip(images.split(BATCH), labels.split(BATCH), strict=True)
        self.codes = torch.cat([model.encode(xs, ys if model.has_label else None) for xs, ys in batches])
        dims = self.codes.shape[1]
        self.mean = self.codes.mean(dim=0) if dims > 2 else torch.zeros(dims)
        axes = torch.linalg.svd(self.codes - self.mean, full_matrices=False).Vh[:2]
        self.axes = axes if dims > 2 else torch.eye(dims)  # (2, D), orthonormal
        self.points = torch.nn.functional.pad((self.codes - self.mean) @ self.axes.T, (0, 2 - len(self.axes)))

    def nearest(self, x: float, y: float) -> int:
        """The number of the test digit that is nearest to a point of the plane."""
        return int((self.points - torch.tensor([x, y], dtype=torch.float32)).square().sum(dim=1).argmin())

    def decode(self, x: float, y: float) -> tuple[torch.Tensor, int]:
        """(the digit (1, 28, 28) at a point, the label of the nearest test digit, which the CVAE is told)."""
        label = self.labels[self.nearest(x, y)]
        code = self.mean + torch.tensor([x, y], dtype=torch.float32)[: len(self.axes)] @ self.axes
        return self.model.decode(code[None], label[None] if self.model.has_label else None)[0], int(label)

    def walk(self, start: int, end: int, steps: int) -> torch.Tensor:
        """From one test digit to another in equal steps between their latent vectors, the digits themselves at the
        ends: (steps + 2, 1, 28, 28). The CVAE is told the label of the nearer end."""
        ends = torch.tensor([start, end])
        labels = self.labels[ends].repeat_interleave(torch.tensor([steps - steps // 2, steps // 2]))
        codes = interpolate(self.codes[ends], steps)
        return between(self.images[ends], self.model.decode(codes, labels if self.model.has_label else None))
