"""The NumPy autograd against central differences and against PyTorch, in float64."""

import numpy as np
import pytest
import torch

from autograd import MSE, Graph, Linear, Node, ReLU, Sigmoid

STEP = 1e-6


def central_difference(function, array):
    """dL/d(array) of the scalar function(), which reads the array each time that it is called."""
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        value = array[index]
        array[index] = value + STEP
        above = function()
        array[index] = value - STEP
        below = function()
        array[index] = value
        gradient[index] = (above - below) / (2 * STEP)
    return gradient


def check_gradients(node, X):
    """Compare every gradient of the node with central differences, under a random upstream gradient."""
    upstream = np.random.default_rng(1).standard_normal(node.forward(X).shape)
    gradients = [node.backward(upstream), *node.grad]
    for gradient, array in zip(gradients, [X, *node.params], strict=True):
        expected = central_difference(lambda: float((node.forward(X) * upstream).sum()), array)
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-8)


def away_from_zero(*shape, seed=0):
    """Random numbers at least 0.1 away from the kink of ReLU."""
    X = np.random.default_rng(seed).standard_normal(shape)
    return X + 0.1 * np.sign(X)


def small_graph():
    """A nested graph with random biases."""
    np.random.seed(0)
    first, second, third = (Linear(*sizes, dtype=np.float64) for sizes in ((7, 6), (6, 5), (5, 7)))
    for linear in (first, second, third):
        linear.params[1][:] = np.random.standard_normal(linear.params[1].shape)
    return Graph([first, ReLU(), Graph([second, ReLU()]), third, Sigmoid()])


@pytest.mark.parametrize("node", [Linear(7, 4, dtype=np.float64), ReLU(), Sigmoid(), small_graph()])
def test_gradients_match_central_differences(node):
    check_gradients(node, away_from_zero(5, 7))


@pytest.mark.parametrize("output", [0, 1, 2], ids=["dX", "dW", "db"])
def test_the_checker_catches_an_error_of_a_thousandth(output):
    class Wrong(Linear):
        def backward(self, grad_output):
            gradients = [super().backward(grad_output), *self.grad]
            gradients[output] = gradients[output] * 1.001
            self.grad = gradients[1:]
            return gradients[0]

    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        check_gradients(Wrong(7, 4, dtype=np.float64), away_from_zero(5, 7))


def test_a_hundred_sgd_steps_match_torch():
    graph = small_graph()
    mse = MSE()
    rng = np.random.default_rng(2)
    layers = [torch.nn.Linear(*sizes, dtype=torch.float64) for sizes in ((7, 6), (6, 5), (5, 7))]
    network = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2], torch.nn.Sigmoid())
    for parameter, param in zip(network.parameters(), graph.params, strict=True):
        parameter.data = torch.tensor(param)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    params = list(graph.params)
    first_output = None
    for _ in range(100):
        X = rng.standard_normal((8, 7))
        target = rng.random((8, 7))
        x = torch.tensor(X, requires_grad=True)
        Y = graph.forward(X)
        y = network(x)
        first_output = first_output or (Y, y.detach())
        loss = torch.nn.functional.mse_loss(y, torch.tensor(target))
        assert mse.forward(Y, target) == pytest.approx(loss.item(), rel=1e-12)
        grad_input = graph.backward(mse.backward())
        optimizer.zero_grad()
        loss.backward()
        for gradient, parameter in zip([grad_input, *graph.grad], [x, *network.parameters()], strict=True):
            np.testing.assert_allclose(gradient, parameter.grad, rtol=1e-9, atol=1e-14)
        graph.optimstep(0.5)
        optimizer.step()
    for param, own, parameter in zip(graph.params, params, network.parameters(), strict=True):
        assert param is own  # updated in place
        np.testing.assert_allclose(param, parameter.detach(), rtol=1e-10)
    np.testing.assert_allclose(*first_output, rtol=1e-10)  # later steps did not touch what an earlier one returned


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigmoid_is_stable_and_silent(dtype):
    X = np.array([[-1000, -30, 0, 30, 1000]], dtype)
    node = Sigmoid()
    Y = node.forward(X)
    expected = torch.sigmoid(torch.tensor(X, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(Y, expected, rtol=10 * np.finfo(dtype).eps, atol=1e-40)
    np.testing.assert_array_equal(node.backward(np.ones_like(Y))[0, [0, -1]], 0)


@pytest.mark.parametrize("node", [Linear(3, 2), ReLU(), Sigmoid(), MSE(), Graph([Linear(3, 2), ReLU()])])
def test_backward_needs_a_forward(node):
    inputs = [np.ones((4, 3))] * (2 if isinstance(node, MSE) else 1)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="forward"):
            node.backward(np.ones((4, 2)))
        node.forward(*inputs)
        node.flush()
    for method in (Node().forward, Node().backward):  # the base class has none of its own
        with pytest.raises(NotImplementedError):
            method(np.ones((1, 1)))


@pytest.mark.parametrize("other", [(2,), (4, 5), (5, 3), (1, 4, 3), ()])
def test_shapes_that_do_not_fit_are_named(other):
    array = np.ones((4, 3))
    linear = Linear(3, 2)
    nodes = [linear, ReLU(), Sigmoid()]
    for node in nodes:
        node.forward(array)
    calls = [(linear.backward, "(4, 2)"), (nodes[1].backward, "(4, 3)"), (nodes[2].backward, "(4, 3)")]
    calls.append((lambda target: MSE().forward(array, target), "(4, 3)"))
    if other != (5, 3):
        calls.append((linear.forward, "(B, 3)"))
    for call, expected in calls:
        with pytest.raises(ValueError) as error:
            call(np.ones(other))
        assert expected in str(error.value)
        assert str(other) in str(error.value)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("input_dtype", [np.float32, np.float64])
def test_a_graph_keeps_its_dtype_whatever_the_inputs(dtype, input_dtype):
    graph = Graph([Linear(5, 4, dtype), ReLU(), Linear(4, 3, dtype), Sigmoid()])
    mse = MSE()
    x = np.ones((2, 5), input_dtype)
    y = graph.forward(x)
    assert np.isscalar(mse.forward(y, np.zeros((2, 3), input_dtype)))
    gradients = [graph.backward(mse.backward()), *graph.grad]
    assert [gradient.shape for gradient in gradients] == [x.shape, *(param.shape for param in graph.params)]
    graph.optimstep(np.float64(0.1))
    assert {array.dtype for array in [y, mse.backward(), *gradients, *graph.params]} == {np.dtype(dtype)}


@pytest.mark.parametrize("input_grad", [True, False])
def test_gradients_are_overwritten_and_flushed_and_a_first_layer_leaves_its_inputs_out(input_grad):
    linear = Linear(3, 2, dtype=np.float64, input_grad=input_grad)
    linear.forward(np.ones((4, 3)))
    for _ in range(2):
        assert (linear.backward(np.ones((4, 2))) is not None) == input_grad
    np.testing.assert_array_equal(linear.grad[0], np.full((2, 3), 4.0))
    np.testing.assert_array_equal(linear.grad[1], [4.0, 4.0])
    linear.flush()
    assert not any(gradient.any() for gradient in linear.grad)
