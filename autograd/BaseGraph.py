"""A chain of nodes, itself a node: forward runs along it, backward comes back."""

import numpy as np

from autograd.BaseNode import Node


class Graph(Node):
    """Y = f_k(... f_2(f_1(X))). Graphs nest: Graph([encoder, decoder])."""

    def __init__(self, nodes: list[Node]):
        self.nodes = list(nodes)

    @property
    def params(self) -> list[np.ndarray]:
        """The parameters of all nodes, in order."""
        return [param for node in self.nodes for param in node.params]

    @property
    def grad(self) -> list[np.ndarray]:
        """The gradients of all nodes, beside `params`."""
        return [grad for node in self.nodes for grad in node.grad]

    def forward(self, X: np.ndarray) -> np.ndarray:
        """Run X through the nodes."""
        for node in self.nodes:
            X = node.forward(X)
        return X

    # 作业 Part 1.1: BaseGraph 的 backward 函数
    def backward(self, grad_output: np.ndarray) -> np.ndarray:
        """The chain rule: dL/d(output of a node) is what the node behind it returned."""
        for node in reversed(self.nodes):
            grad_output = node.backward(grad_output)
        return grad_output

    # 作业 Part 1.1: BaseGraph 的 optimstep 函数
    def optimstep(self, lr: float) -> None:
        """One step of plain gradient descent, in place."""
        for param, grad in zip(self.params, self.grad, strict=True):
            param -= float(lr) * grad  # a NumPy float64 would make float32 gradients float64

    def flush(self) -> None:
        """Flush every node."""
        for node in self.nodes:
            node.flush()
