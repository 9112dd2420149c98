"""The base class of everything that has a forward and a backward pass."""

import numpy as np


class Node:
    """One differentiable function Y = f(X; params) of arrays of floats, one sample a row: (B, features).

    `forward` keeps in `cache` what `backward` needs: not copies, so do not change X and Y in between.
    `backward` takes dL/dY, the gradient of the loss L with respect to the output, returns
    dL/dX, and overwrites `grad`, the list of dL/dparam that stands beside `params`.
    """

    def __init__(self, *params: np.ndarray):
        self.params = list(params)
        self.grad = [np.zeros_like(param) for param in params]
        self.cache = None

    def forward(self, X: np.ndarray) -> np.ndarray:
        """Y = f(X). Raises ValueError where the shape of X does not fit."""
        raise NotImplementedError

    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        """dL/dX from dL/dY. Raises RuntimeError before `forward`, ValueError where the shape does not fit."""
        raise NotImplementedError

    def flush(self) -> None:
        """Empty the cache of `forward`, and set the gradients to zero."""
        self.cache = None
        for grad in self.grad:
            grad.fill(0)

    def cached(self):
        """What the last `forward` kept. Raises RuntimeError where there was none."""
        if self.cache is None:
            raise RuntimeError(f"{type(self).__name__}.backward needs a forward first")
        return self.cache

    def check_shape(self, what: str, array: np.ndarray, *expected) -> None:
        """Raise ValueError unless the array has the expected shape, where "B" stands for any batch size."""
        shape = np.shape(array)
        fits = len(shape) == len(expected) and all(w in ("B", size) for w, size in zip(expected, shape, strict=True))
        if not fits:
            wanted = f"({', '.join(map(str, expected))})"
            raise ValueError(f"{type(self).__name__}: expected {what} of shape {wanted}, found {shape}")
