"""TorchLearner against a plain loop: training, validation, averaged weights, and its state."""

import copy

import pytest
import torch
from helpers import assert_same_weights
from torch.nn import BatchNorm1d, Dropout, Linear, Sequential
from torch.nn.functional import mse_loss
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim.lr_scheduler import OneCycleLR

from training.learner import TorchLearner


def measure(outputs, images):
    loss = mse_loss(outputs, images)
    return loss, {"loss": loss.item()}


def make_learner(ema=False, seed=0, hidden=8):
    """Its model is random in training, which also changes its running statistics."""
    torch.manual_seed(seed)
    model = Sequential(Linear(5, hidden), BatchNorm1d(hidden), Dropout(), Linear(hidden, 5)).double()
    model.has_label = False
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    return TorchLearner(model, measure, optimizer, OneCycleLR(optimizer, 0.01, 100), ema=ema)


def batch(step):
    """The images of a step; seeds its dropout too."""
    torch.manual_seed(step)
    return torch.rand(16, 5, dtype=torch.float64)


def train(learner, steps):
    return [learner.train_step(batch(step), None, epoch=1)["loss"] for step in steps]


@pytest.mark.parametrize(("ema", "start"), [(False, 0), (True, 0), (True, 100_000)])
def test_training_and_validation_match_a_plain_loop_with_averages_that_warm_up(ema, start):
    learner, plain = make_learner(ema), make_learner()
    averaged = parameters_to_vector(plain.model.parameters()).detach()
    if ema:
        learner.averaged.n_averaged.fill_(start)
    for n in range(start, start + 20):
        images = batch(n)
        loss = mse_loss(plain.model.train()(images), images)
        plain.optimizer.zero_grad()
        loss.backward()
        plain.optimizer.step()
        plain.scheduler.step()
        decay = min(0.999, (1 + n) / (10 + n)) if ema and n else 0.0
        averaged = decay * averaged + (1 - decay) * parameters_to_vector(plain.model.parameters()).detach()
        assert train(learner, [n]) == [loss.item()]
        found = learner.valid_step(images, None)
        assert found == learner.valid_step(images, None)  # without dropout
    assert_same_weights(learner.model.state_dict(), plain.model.state_dict())  # validation changed no statistics
    vector_to_parameters(averaged, plain.model.parameters())
    torch.testing.assert_close(learner.state_dict()["state_dict"], plain.model.state_dict())
    assert found["loss"] == pytest.approx(mse_loss(plain.model.eval()(images), images).item())


@pytest.mark.parametrize("ema", [False, True])
def test_a_saved_state_continues_exactly(ema):
    whole, first, resumed = make_learner(ema), make_learner(ema), make_learner(ema, seed=1)
    losses = train(whole, range(6))
    train(first, range(3))
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    assert train(resumed, range(3, 6)) == losses[3:]
    for found, expected in ((resumed.saved, whole.saved), (resumed.model, whole.model)):
        assert_same_weights(found.state_dict(), expected.state_dict())


def test_a_foreign_state_is_refused():
    state, larger, plain = (make_learner(*args).state_dict() for args in ((True,), (True, 0, 9), ()))
    fewer = torch.optim.AdamW(Linear(2, 2).parameters()).state_dict()
    for foreign in ({}, larger, plain, {**state, "optimizer": fewer}, {**state, "state_dict": {}}):
        with pytest.raises((KeyError, ValueError, RuntimeError)):
            make_learner(ema=True).load_state_dict(foreign)
