"""The NumPy autograd against central differences and against PyTorch, in float64."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes

from autograd import MSE, Graph, Linear, Node, ReLU, Sigmoid

STEP = 1e-6
sizes, dtypes = st.integers(1, 7), st.sampled_from([np.float32, np.float64])


def central_difference(function, array):
    """dL/d(array) of the scalar function(), which reads the array anew each time."""
    gradient = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        value, losses = array[index], []
        for step in (STEP, -STEP):
            array[index] = value + step
            losses.append(function())
        array[index] = value
        gradient[index] = (losses[0] - losses[1]) / (2 * STEP)
    return gradient


def check_gradients(node, X):
    """Compare every gradient of the node with central differences, under a random upstream gradient."""
    upstream = np.random.default_rng(1).standard_normal(node.forward(X).shape)
    found = [node.backward(upstream), *node.grad]
    for gradient, array in zip(found, [X, *node.params], strict=True):
        expected = central_difference(lambda: float((node.forward(X) * upstream).sum()), array)
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-8)


def away_from_zero(shape, seed=0):
    """Random numbers at least 0.1 away from the kink of ReLU."""
    X = np.random.default_rng(seed).standard_normal(shape)
    return X + 0.1 * np.sign(X)


def small_graph():
    """A nested graph with random biases."""
    np.random.seed(0)
    linears = [Linear(*sizes, dtype=np.float64) for sizes in ((7, 6), (6, 5), (5, 7))]
    for linear in linears:
        linear.params[1][:] = np.random.standard_normal(linear.params[1].shape)
    return Graph([linears[0], ReLU(), Graph([linears[1], ReLU()]), linears[2], Sigmoid()])


def in_torch(node):
    """The same network with the same weights in PyTorch."""
    if isinstance(node, Graph):
        return torch.nn.Sequential(*map(in_torch, node.nodes))
    if not isinstance(node, Linear):
        return {ReLU: torch.nn.ReLU, Sigmoid: torch.nn.Sigmoid}[type(node)]()
    weight, bias = map(torch.tensor, node.params)
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


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


@pytest.mark.parametrize("batch", [4, 1])
def test_mse_matches_torch(batch):
    mse, prediction, target = MSE(), away_from_zero((batch, 3)), away_from_zero((batch, 3), seed=1)
    value, gradient = mse.forward(prediction, target), mse.backward()
    p = torch.tensor(prediction, requires_grad=True)
    loss = torch.nn.functional.mse_loss(p, torch.tensor(target))
    loss.backward()
    for found, expected in ((value, loss.item()), (gradient, p.grad), (mse.backward(3.0), 3 * gradient)):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_hundred_sgd_steps_match_torch():
    graph, mse, rng, pairs = small_graph(), MSE(), np.random.default_rng(2), []
    network = in_torch(graph)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    for step in range(100):
        X, target = rng.standard_normal((8, 7)), rng.random((8, 7))
        x = torch.tensor(X, requires_grad=True)
        Y, y = graph.forward(X), network(x)
        mse.forward(Y, target)
        gradients = [graph.backward(mse.backward()), *graph.grad]
        graph.optimstep(0.5)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(y, torch.tensor(target)).backward()
        optimizer.step()
        if step < 10:
            expected = [x.grad, *(parameter.grad.clone() for parameter in network.parameters())]
            pairs += zip([Y, *gradients], [y.detach(), *expected], strict=True)
    pairs += zip(graph.params, (parameter.detach() for parameter in network.parameters()), strict=True)
    for found, tensor in pairs:  # at the end, so that no forward or backward may touch what an earlier one returned
        np.testing.assert_allclose(found, tensor, rtol=1e-10)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigmoid_is_stable_and_silent(dtype):
    X, node = np.array([[-1000, -30, 0, 30, 1000]], dtype), Sigmoid()
    Y = node.forward(X)
    expected = torch.sigmoid(torch.tensor(X, dtype=torch.float64)).numpy()
    assert Y.dtype == dtype
    np.testing.assert_allclose(Y, expected, rtol=10 * np.finfo(dtype).eps, atol=1e-40)
    np.testing.assert_array_equal(node.backward(np.ones_like(Y))[0, [0, -1]], 0)


@pytest.mark.parametrize("node", [Linear(3, 2), ReLU(), Sigmoid(), MSE(), Graph([Linear(3, 2), ReLU()])])
def test_backward_needs_a_forward(node):
    for _ in range(2):
        with pytest.raises(RuntimeError, match="forward"):
            node.backward(np.ones((4, 2)))
        node.forward(*[np.ones((4, 3))] * (2 if isinstance(node, MSE) else 1))
        node.flush()
    for method in (Node().forward, Node().backward):  # the base class has none of its own
        with pytest.raises(NotImplementedError):
            method(np.ones((1, 1)))


@settings(max_examples=100, deadline=None)
@given(array_shapes(max_dims=3, max_side=4), array_shapes(max_dims=3, max_side=4))
def test_shapes_that_do_not_fit_are_named(one, other):
    linear, relu, sigmoid = Linear(3, 2), ReLU(), Sigmoid()
    for node, shape in ((linear, (4, 3)), (relu, one), (sigmoid, one)):
        node.forward(np.ones(shape))
    calls = [(linear.forward, other if other[1:] == (3,) else "(B, 3)"), (linear.backward, (4, 2))]
    calls += [(call, one) for call in (relu.backward, sigmoid.backward, partial(MSE().forward, np.ones(one)))]
    for call, expected in calls:
        if expected != other:
            with pytest.raises(ValueError) as error:
                call(np.ones(other))
            for shape in (expected, other):
                assert str(shape).replace(",)", ")") in str(error.value).replace(",)", ")")


@settings(max_examples=100, deadline=None)
@given(sizes, sizes, sizes, dtypes, dtypes)
def test_a_graph_keeps_its_dtype_whatever_the_inputs_and_gives_back_the_shape(batch, features, out, dtype, of_input):
    graph, mse = Graph([Linear(features, out), ReLU(), Linear(out, 3), Sigmoid()]), MSE()
    for node in graph.nodes:
        node.params[:] = [param.astype(dtype) for param in node.params]
    x, target = np.ones((batch, features), of_input), np.zeros((batch, 3), of_input)
    y = graph.forward(x)
    assert np.isscalar(mse.forward(y, target))
    gradients = [graph.backward(mse.backward()), *graph.grad]
    assert [array.shape for array in (y, *gradients)] == [target.shape, x.shape, *(p.shape for p in graph.params)]
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


@pytest.mark.parametrize("order", ["C", "F"])
def test_optimstep_updates_in_place_whatever_the_layout(order):
    linear = Linear(1000, 300, dtype=np.float64)  # larger than the blocks that it is updated in
    linear.params[0] = np.array(linear.params[0], order=order)
    params, linear.grad = list(linear.params), [np.random.standard_normal(p.shape) for p in linear.params]
    expected, gradients = [p - 0.5 * g for p, g in zip(params, linear.grad, strict=True)], copy.deepcopy(linear.grad)
    Graph([linear]).optimstep(0.5)
    assert all(found is param for found, param in zip(linear.params, params, strict=True))
    for param, value, grad, gradient in zip(params, expected, linear.grad, gradients, strict=True):
        np.testing.assert_array_equal(grad, gradient)
        np.testing.assert_allclose(param, value, rtol=1e-6)
