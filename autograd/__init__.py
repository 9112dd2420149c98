"""A reverse-mode automatic differentiation library in NumPy, for networks that are a chain of nodes.

    model = Graph([Linear(2, 8), ReLU(), Linear(8, 1)])
    mse = MSE()

    loss = mse.forward(model.forward(x), target)    # x: (B, 2), target: (B, 1)
    model.backward(mse.backward())                  # fills the gradient of every parameter
    model.optimstep(lr=0.1)                         # plain SGD

`Graph([encoder, decoder])` nests; every gradient is derived in the docstring of its `backward`.
"""

from autograd.BaseGraph import Graph
from autograd.BaseNode import Node
from autograd.Nodes import MSE, Linear, ReLU, Sigmoid

__all__ = ["MSE", "Graph", "Linear", "Node", "ReLU", "Sigmoid"]
