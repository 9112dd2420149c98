"""The NumPy autograd against central differences and against PyTorch, in float64."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from autograd import MSE, Graph, Linear, Node, ReLU, Sigmoid
from training import PROJECT

STEP = 1e-6


def central_difference(function, array):
    """dL/d(array) of the scalar function(), which reads the array anew each time."""
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        kept = array[index]
        array[index] = kept + STEP
        above = function()
        array[index] = kept - STEP
        below = function()
        array[index] = kept
        gradient[index] = (above - below) / (2 * STEP)
    return gradient


def check_gradients(node, X):
    """Compare every gradient of the node with central differences, under a random gradient from above."""
    upstream = np.random.default_rng(1).standard_normal(node.forward(X).shape)

    def loss():
        return float((node.forward(X) * upstream).sum())

    node.forward(X)
    found = [node.backward(upstream), *node.grad]
    for gradient, array in zip(found, [X, *node.params], strict=True):
        np.testing.assert_allclose(gradient, central_difference(loss, array), rtol=1e-5, atol=1e-8)


def away_from_zero(shape, seed=0):
    """Random numbers at least 0.1 away from the kink of ReLU."""
    X = np.random.default_rng(seed).standard_normal(shape)
    return X + 0.1 * np.sign(X)


def small_graph():
    np.random.seed(0)
    linears = [Linear(7, 6, dtype=np.float64), Linear(6, 5, dtype=np.float64), Linear(5, 7, dtype=np.float64)]
    for linear in linears:
        linear.params[1][:] = np.random.standard_normal(linear.params[1].shape)
    return Graph([linears[0], ReLU(), Graph([linears[1], ReLU()]), linears[2], Sigmoid()])


def torch_twin(graph):
    """The same network with the same weights in PyTorch."""
    layers = []
    for node in graph.nodes:
        if isinstance(node, Graph):
            layers.append(torch_twin(node))
        elif isinstance(node, Linear):
            weight, bias = map(torch.from_numpy, node.params)
            layer = torch.nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
            layer.load_state_dict({"weight": weight.clone(), "bias": bias.clone()})
            layers.append(layer)
        else:
            layers.append({ReLU: torch.nn.ReLU, Sigmoid: torch.nn.Sigmoid}[type(node)]())
    return torch.nn.Sequential(*layers)


@pytest.mark.parametrize("node", [Linear(7, 4, dtype=np.float64), ReLU(), Sigmoid(), small_graph()])
def test_gradients_match_central_differences(node):
    check_gradients(node, away_from_zero((5, 7)))


@pytest.mark.parametrize("output", [0, 1, 2], ids=["dX", "dW", "db"])
def test_the_checker_catches_an_error_of_a_thousandth(output):
    class Wrong(Linear):
        def backward(self, grad_output):
            gradients = [super().backward(grad_output), *self.grad]
            gradients[output] = gradients[output] * 1.001
            self.grad = gradients[1:]
            return gradients[0]

    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_gradients(Wrong(7, 4, dtype=np.float64), away_from_zero((5, 7)))


def test_mse_matches_central_differences_and_torch():
    prediction, target = away_from_zero((4, 3)), away_from_zero((4, 3), seed=1)
    mse = MSE()
    value = mse.forward(prediction, target)
    gradient = mse.backward()
    numeric = central_difference(lambda: MSE().forward(prediction, target), prediction)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-5)
    p = torch.from_numpy(prediction).requires_grad_()
    loss = torch.nn.functional.mse_loss(p, torch.from_numpy(target))
    loss.backward()
    np.testing.assert_allclose(value, loss.item(), rtol=1e-12)
    np.testing.assert_allclose(gradient, p.grad.numpy(), rtol=1e-12)
    np.testing.assert_allclose(mse.backward(3.0), 3 * gradient, rtol=1e-12)


def test_mse_does_not_depend_on_the_batch_size():
    one = MSE().forward(np.ones((1, 8)), np.zeros((1, 8)))
    assert one == MSE().forward(np.ones((100, 8)), np.zeros((100, 8))) == 1.0


def test_the_graph_matches_torch():
    graph, X = small_graph(), away_from_zero((5, 7))
    twin, x = torch_twin(graph), torch.from_numpy(X).requires_grad_()
    upstream = np.random.default_rng(1).standard_normal((5, 7))
    Y, y = graph.forward(X), twin(x)
    np.testing.assert_allclose(Y, y.detach().numpy(), rtol=1e-10)
    dX = graph.backward(upstream)
    y.backward(torch.from_numpy(upstream))
    np.testing.assert_allclose(dX, x.grad.numpy(), rtol=1e-10)
    for gradient, parameter in zip(graph.grad, twin.parameters(), strict=True):
        np.testing.assert_allclose(gradient, parameter.grad.numpy(), rtol=1e-10)


def test_a_hundred_sgd_steps_match_torch():
    graph, mse = small_graph(), MSE()
    twin = torch_twin(graph)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.5)
    rng = np.random.default_rng(2)
    for _ in range(100):
        X, target = rng.standard_normal((8, 7)), rng.random((8, 7))
        mse.forward(graph.forward(X), target)
        graph.backward(mse.backward())
        graph.optimstep(0.5)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(twin(torch.from_numpy(X)), torch.from_numpy(target)).backward()
        optimizer.step()
    for param, parameter in zip(graph.params, twin.parameters(), strict=True):
        np.testing.assert_allclose(param, parameter.detach().numpy(), rtol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigmoid_is_stable_and_silent(dtype):
    node = Sigmoid()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Y = node.forward(np.array([[-1000, -30, 0, 30, 1000]], dtype))
        gradient = node.backward(np.ones_like(Y))
    assert Y.dtype == dtype
    expected = torch.sigmoid(torch.tensor([[-1000, -30, 0, 30, 1000]], dtype=torch.float64)).numpy()
    np.testing.assert_allclose(Y, expected, rtol=10 * np.finfo(dtype).eps, atol=1e-40)
    np.testing.assert_array_equal(gradient[0, [0, -1]], 0)


@pytest.mark.parametrize("node", [Linear(3, 2), ReLU(), Sigmoid(), MSE(), Graph([Linear(3, 2), ReLU()])])
def test_backward_needs_a_forward(node):
    with pytest.raises(RuntimeError, match="forward"):
        node.backward(np.ones((4, 2)))
    inputs = [np.ones((4, 3))] * (2 if isinstance(node, MSE) else 1)
    node.forward(*inputs)
    node.flush()
    with pytest.raises(RuntimeError, match="forward"):
        node.backward(np.ones((4, 2)))


def test_shapes_that_do_not_fit_are_named():
    linear = Linear(3, 2)
    with pytest.raises(ValueError, match=r"\(B, 3\).*\(4, 5\)"):
        linear.forward(np.ones((4, 5)))
    with pytest.raises(ValueError, match=r"\(B, 3\).*\(3,\)"):
        linear.forward(np.ones(3))
    linear.forward(np.ones((4, 3)))
    with pytest.raises(ValueError, match=r"\(4, 2\).*\(1, 2\)"):
        linear.backward(np.ones((1, 2)))
    for node in (ReLU(), Sigmoid()):
        node.forward(np.ones((4, 3)))
        with pytest.raises(ValueError, match=r"\(4, 3\).*\(4, 1\)"):
            node.backward(np.ones((4, 1)))
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(4, 1\)"):
        MSE().forward(np.ones((4, 3)), np.ones((4, 1)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_dtype_of_the_parameters_is_kept(dtype):
    linear, mse = Linear(3, 3), MSE()
    linear.params[:] = [param.astype(dtype) for param in linear.params]
    graph = Graph([linear, ReLU(), Sigmoid()])
    Y = graph.forward(np.ones((2, 3)))  # float64, whatever the parameters are
    mse.forward(Y, np.zeros((2, 3), dtype))
    gradients = [mse.backward(), graph.backward(mse.backward()), *graph.grad]
    graph.optimstep(np.float64(0.1))
    assert {array.dtype for array in [Y, *gradients, *graph.params]} == {np.dtype(dtype)}


def test_gradients_are_overwritten_and_flushed():
    linear = Linear(3, 2, dtype=np.float64)
    linear.forward(np.ones((4, 3)))
    linear.backward(np.ones((4, 2)))
    linear.backward(np.ones((4, 2)))
    np.testing.assert_array_equal(linear.grad[0], np.full((2, 3), 4.0))
    np.testing.assert_array_equal(linear.grad[1], [4.0, 4.0])
    linear.flush()
    assert not any(gradient.any() for gradient in linear.grad)


@pytest.mark.parametrize("order", ["C", "F"])
def test_optimstep_updates_in_place_whatever_the_layout(order):
    linear = Linear(1000, 300)  # larger than the blocks that it is updated in
    linear.params[0] = np.array(linear.params[0], order=order)
    before = [param.copy() for param in linear.params]
    arrays = list(linear.params)
    linear.grad = [np.random.standard_normal(param.shape).astype(np.float32) for param in before]
    gradients = [gradient.copy() for gradient in linear.grad]
    Graph([linear]).optimstep(0.5)
    for param, array, old, kept, gradient in zip(linear.params, arrays, before, gradients, linear.grad, strict=True):
        assert param is array
        np.testing.assert_array_equal(gradient, kept)
        np.testing.assert_allclose(param, old - 0.5 * gradient, rtol=1e-6)


def test_forward_does_not_touch_what_it_returned_before():
    graph = small_graph()
    first = graph.forward(away_from_zero((5, 7)))
    kept = first.copy()
    graph.forward(away_from_zero((5, 7), seed=3))
    np.testing.assert_array_equal(first, kept)


def test_a_layer_that_reads_the_data_can_leave_its_input_gradient_out():
    linear = Linear(3, 2, input_grad=False)
    linear.forward(np.ones((4, 3)))
    assert linear.backward(np.ones((4, 2))) is None
    np.testing.assert_array_equal(linear.grad[1], [4.0, 4.0])


def test_the_base_class_has_no_function_of_its_own():
    for call in (Node().forward, Node().backward):
        with pytest.raises(NotImplementedError):
            call(np.ones((1, 1)))


def test_the_autograd_needs_numpy_alone():
    code = "import autograd, sys; print([m for m in ('torch', 'PIL', 'matplotlib', 'tqdm') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=PROJECT, text=True).strip() == "[]"
