"""What `fit` trains, where PyTorch does the work.

    learner = TorchLearner(model, model.measure, optimizer, scheduler)
    metrics = learner.train_step(images, labels, epoch=1)       # one optimizer step; {"loss": ..., ...} before it
    metrics = learner.valid_step(images, labels)                # the same, without a step

The perceptron's learner stands in MLPAE_train_script.py.
"""

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.distributed import average_gradients

EMA_DECAY = 0.999  # an average over about a thousand steps


class TorchLearner:
    """A model with its optimizer and its schedule, which goes one step on with every batch.

    measure(outputs, images) -> (the loss to minimise, what the log says of it: {"loss": ..., ...}).
    The model's `has_label` says whether it is called with the labels beside the images.
    amp: forward passes of the training in bfloat16 where it is precise enough.
    ema: what is validated and saved is the exponential moving average of the weights (`ema_update`).
    layout: the memory format of images.
    """

    suffix = ".pth"

    def __init__(self, model, measure, optimizer, scheduler, amp=False, ema=False, layout=torch.contiguous_format):
        self.model, self.measure, self.optimizer, self.scheduler = model, measure, optimizer, scheduler
        self.amp, self.layout = amp, layout
        self.averaged = AveragedModel(model, multi_avg_fn=ema_update) if ema else None
        self.saved = self.averaged.module if ema else model  # what is validated and saved
        self.parallel = average_gradients(model)

    def inputs(self, images, labels) -> tuple:
        """What the model is called with."""
        images = images.contiguous(memory_format=self.layout)
        return (images, labels) if self.model.has_label else (images,)

    def train_step(self, images, labels, epoch: int) -> dict:
        """One step of the optimizer; returns the metrics before it."""
        self.parallel.train()
        batch = self.inputs(images, labels)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.amp):
            outputs = self.parallel(*batch)
        loss, metrics = self.measure(outputs, batch[0])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        if self.averaged:
            self.averaged.update_parameters(self.model)
        return metrics

    @torch.no_grad()
    def valid_step(self, images, labels) -> dict:
        """The metrics, in evaluation mode."""
        self.saved.eval()
        batch = self.inputs(images, labels)
        return self.measure(self.saved(*batch), batch[0])[1]

    def load_weights(self, weights: dict) -> None:
        """Validate these weights from now on."""
        self.saved.load_state_dict(weights)

    def state_dict(self) -> dict:
        """All that the next step depends on; the weights on the CPU, to open without a GPU."""
        state = {"optimizer": self.optimizer.state_dict(), "scheduler": self.scheduler.state_dict()}
        state["state_dict"] = {name: weight.cpu() for name, weight in self.saved.state_dict().items()}
        if self.averaged:
            state |= {"raw_state_dict": self.model.state_dict(), "averaged_steps": self.averaged.n_averaged.item()}
        return state

    def load_state_dict(self, state: dict) -> None:
        """Go on from what `state_dict` returned. Raises KeyError, ValueError or RuntimeError where it does not fit."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.saved.load_state_dict(state["state_dict"])
        if self.averaged:
            self.model.load_state_dict(state["raw_state_dict"])
            self.averaged.n_averaged.fill_(state["averaged_steps"])


def ema_update(averaged: list, current: list, steps: torch.Tensor) -> None:
    """Move averaged weights, in place, towards the current ones after so many steps. The decay rises to EMA_DECAY: an
    average of few steps would be mostly the first one (TensorFlow's ExponentialMovingAverage does the same)."""
    decay = min(EMA_DECAY, (1 + steps.item()) / (10 + steps.item()))
    get_ema_multi_avg_fn(decay)(averaged, current, steps)
