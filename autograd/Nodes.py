"""The nodes of a multilayer perceptron: Linear, ReLU, Sigmoid, and the loss MSE.

L is the loss, B the batch size; dL/dY, the gradient from above, is `grad_output`.
"""

import numpy as np

from autograd.BaseNode import Node


# 作业 Part 1.2 (Part 1 合计 12.5 分): Linear 的 forward 和 backward
class Linear(Node):
    """Y = X Wᵀ + b with W: (out_features, in_features) and b: (out_features,), as in PyTorch.

    W starts at He's uniform distribution (He et al. 2015), b at zero. Inputs are cast to the dtype of
    the parameters. `input_grad=False` is for the layer that reads the data: the gradient with respect
    to a photograph is not needed, so `backward` leaves it out and returns None.
    """

    def __init__(self, in_features: int, out_features: int, dtype=np.float32, input_grad: bool = True):
        bound = np.sqrt(6 / in_features)
        weight = np.random.uniform(-bound, bound, (out_features, in_features)).astype(dtype)
        super().__init__(weight, np.zeros(out_features, dtype))
        self.input_grad = input_grad

    def forward(self, X):
        """(B, in_features) -> (B, out_features)."""
        W, b = self.params
        self.check_shape("X", X, "B", W.shape[1])
        X = np.asarray(X, dtype=W.dtype)
        self.cache = X
        return X @ W.T + b

    def backward(self, grad_output):
        """With Y_ni = Σ_j W_ij X_nj + b_i, the chain rule gives

        dL/dW_ij = Σ_n dL/dY_ni X_nj     dL/dW = (dL/dY)ᵀ X
        dL/db_i  = Σ_n dL/dY_ni          dL/db = (dL/dY)ᵀ 1
        dL/dX_nj = Σ_i dL/dY_ni W_ij     dL/dX = (dL/dY) W
        """
        X = self.cached()
        W, _ = self.params
        self.check_shape("grad_output", grad_output, len(X), W.shape[0])
        G = np.asarray(grad_output, dtype=W.dtype)
        self.grad = [G.T @ X, G.sum(axis=0)]
        return G @ W if self.input_grad else None


# 作业 Part 1.2: ReLU 的 forward 和 backward
class ReLU(Node):
    """Y = max(X, 0)."""

    def forward(self, X):
        """Any shape."""
        Y = np.maximum(X, 0)
        self.cache = Y
        return Y

    def backward(self, grad_output):
        """dY/dX is 1 where X > 0, else 0 (at 0 too, as in PyTorch); Y > 0 says the same."""
        Y = self.cached()
        self.check_shape("grad_output", grad_output, *Y.shape)
        return grad_output * (Y > 0)


# 作业 Part 1.2: Sigmoid 的 forward 和 backward
class Sigmoid(Node):
    """Y = 1 / (1 + exp(-X))."""

    def forward(self, X):
        """Any shape. Where exp overflows it gives infinity, and 1 / (1 + ∞) = 0 is the right answer."""
        with np.errstate(over="ignore"):
            Y = 1 / (1 + np.exp(-X))
        self.cache = Y
        return Y

    def backward(self, grad_output):
        """dY/dX = exp(-X) / (1 + exp(-X))² = Y (1 - Y)."""
        Y = self.cached()
        self.check_shape("grad_output", grad_output, *Y.shape)
        return grad_output * Y * (1 - Y)


# 作业 Part 1.2: MSE 的 forward 和 backward
class MSE(Node):
    """L = mean (P - T)² over all elements of the prediction P and the target T."""

    def forward(self, prediction, target):
        """Two arrays of one shape -> float."""
        self.check_shape("target", target, *np.shape(prediction))
        difference = prediction - np.asarray(target, dtype=prediction.dtype)
        self.cache = difference
        return float(np.mean(difference**2))

    def backward(self, grad_output=1.0):
        """dL/dP = 2 (P - T) / N, where N is the number of elements."""
        difference = self.cached()
        return difference * (2 * grad_output / difference.size)
