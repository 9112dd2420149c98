"""The epoch loop, with a model of one number that adds up random ones."""

import shutil

import numpy as np
import pytest
import torch
from helpers import best_checkpoint, last_checkpoint
from test_flags_and_script import parse

from training import UserError
from training.checkpoints import save_checkpoint
from training.loop import fit, last_line

ABOUT = {"model": "Toy", "config": {"size": 1}, "data": {"name": "numbers", "fingerprint": "0"}}
TRAIN = [(np.ones(3), None), (np.zeros(1), None)]  # batches of three samples and of one
FILE = "BestModel_Toy.pth"


class Toy:
    """A learner with the validation losses it is given; its weight is the sum of the random numbers it has seen."""

    suffix = ".pth"

    def __init__(self, valid_losses):
        self.losses, self.weight, self.epoch, self.drawn = valid_losses, torch.zeros(1, dtype=torch.float64), 0, []

    def draw(self):
        self.drawn.append(np.random.random() + torch.rand(1).item())
        return self.drawn[-1]

    def train_step(self, images, labels, epoch):
        self.epoch = epoch
        self.weight += self.draw()
        return {"loss": float(images.mean())}

    def valid_step(self, images, labels):
        self.draw()
        return {"loss": self.losses[self.epoch - 1]}

    def state_dict(self):
        return {"state_dict": {"w": self.weight.clone()}, "epoch_seen": self.epoch}

    def load_state_dict(self, state):
        self.weight, self.epoch = state["state_dict"]["w"].clone(), state["epoch_seen"]


def train(root, valid_losses, *argv, learner=None):
    """Run fit; returns (history, weight)."""
    learner = learner or Toy(valid_losses)
    best = fit(parse("--output-root", root, *argv), ABOUT, (TRAIN, TRAIN[:1]), learner)
    return best["history"], learner.weight.item()


def test_the_log_the_history_and_the_best_model(tmp_path, capsys):
    history, _ = train(tmp_path, [0.5, 0.25, 0.375], "--epochs", 3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Settings: ")
    assert "lr 0.5" in lines[0]
    assert lines[1:] == [
        "Epoch: 1, Train Loss: 0.750000, Valid Loss: 0.500000 *",  # 0.75: weighted by sample
        "Epoch: 2, Train Loss: 0.750000, Valid Loss: 0.250000 *",
        "Epoch: 3, Train Loss: 0.750000, Valid Loss: 0.375000",
    ]
    best = best_checkpoint(tmp_path, "Toy")
    assert last_line(best, ".pth") == f"Best Valid Loss: 0.250000 (epoch 2), saved to models/{FILE}"
    assert [row["valid_loss"] for row in history] == [0.5, 0.25, 0.375]
    assert best["history"] == history
    assert (best["epoch"], best["valid_loss"], best["seed"], best["config"]) == (2, 0.25, 0, ABOUT["config"])


def test_more_metrics_than_the_loss_follow_it_in_the_log(tmp_path, capsys):
    learner = Toy([])
    learner.valid_step = lambda images, labels: {"loss": 1.0, "kl": 0.25}
    learner.train_step = lambda images, labels, epoch: {"loss": 1.0, "kl": 0.5}
    train(tmp_path, [], "--epochs", 1, learner=learner)
    expected = "Epoch: 1, Train Loss: 1.000000, Valid Loss: 1.000000, Train KL: 0.500000, Valid KL: 0.250000 *"
    assert capsys.readouterr().out.splitlines()[-1] == expected


def test_every_validation_sees_the_same_random_numbers(tmp_path):
    learner = Toy([1.0, 1.0])
    train(tmp_path, [], "--epochs", 2, learner=learner)
    first, second = learner.drawn[:3], learner.drawn[3:]  # two training steps and one of validation each
    assert first[2] == second[2]
    assert len({*first, *second}) == 5


def test_patience_counts_validations_without_a_better_loss(tmp_path, capsys):
    history, _ = train(tmp_path, [0.5, 0.4, 0.4, 0.6, 0.5, 0.1], "--epochs", 6)
    assert len(history) == 5
    assert best_checkpoint(tmp_path, "Toy")["epoch"] == 2
    assert "--patience 3" in capsys.readouterr().err


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_its_batch(tmp_path, value):
    learner = Toy([0.5])
    learner.train_step = lambda images, labels, epoch: {"loss": value if len(images) == 1 else 1.0}
    with pytest.raises(UserError, match=f"epoch 1, training, batch 2: .*{value}.*--lr"):
        train(tmp_path, [], learner=learner)
    with pytest.raises(UserError, match=f"epoch 2, validation, batch 1: .*{value}.*--lr"):
        train(tmp_path, [0.5, value])


def test_other_processes_must_find_the_same_images(tmp_path, monkeypatch):
    monkeypatch.setattr("training.loop.broadcast", lambda value: {"name": "others"})
    with pytest.raises(UserError, match="other images"):
        train(tmp_path, [0.5])


def test_a_resumed_run_ends_like_one_that_never_stopped(tmp_path, capsys):
    losses = [0.5, 0.6, 0.4, 0.3]
    expected = train(tmp_path / "whole", losses, "--epochs", 4), capsys.readouterr().out
    train(tmp_path / "parts", losses, "--epochs", 2)
    capsys.readouterr()
    assert (train(tmp_path / "parts", losses, "--epochs", 4, "--resume"), capsys.readouterr().out) == expected
    # and of a finished run it changes nothing
    assert (train(tmp_path / "parts", losses, "--epochs", 4, "--resume"), capsys.readouterr().out) == expected


def test_ctrl_c_in_an_epoch_costs_that_epoch_alone(tmp_path):
    losses = [0.5, 0.4, 0.3]
    expected = train(tmp_path / "whole", losses, "--epochs", 3)
    learner = Toy(losses)
    step = learner.train_step

    def interrupted(images, labels, epoch):
        if (epoch, len(images)) == (2, 1):
            raise KeyboardInterrupt
        return step(images, labels, epoch)

    learner.train_step = interrupted
    with pytest.raises(KeyboardInterrupt, match="--resume.*after epoch 1"):
        train(tmp_path / "parts", [], "--epochs", 3, learner=learner)
    assert train(tmp_path / "parts", losses, "--epochs", 3, "--resume") == expected


def test_resume_never_makes_the_best_model_worse(tmp_path):
    train(tmp_path, [0.2, 0.5], "--epochs", 2)
    train(tmp_path, [0.2, 0.5, 0.4], "--epochs", 3, "--resume")
    best = best_checkpoint(tmp_path, "Toy")
    assert (best["epoch"], best["valid_loss"], len(best["history"])) == (1, pytest.approx(0.2), 3)


def test_resume_with_nothing_to_resume_from_says_so(tmp_path, capsys):
    history, _ = train(tmp_path, [0.5], "--epochs", 1, "--resume")
    assert len(history) == 1
    assert "LastModel_Toy" in capsys.readouterr().err


def test_a_new_run_is_not_mistaken_for_the_old_one(tmp_path):
    train(tmp_path, [0.5, 0.4], "--epochs", 2)
    learner = Toy([])
    learner.train_step = lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, [], "--epochs", 2, "--seed", 1, learner=learner)
    assert last_checkpoint(tmp_path, "Toy")["history"] == []


@pytest.mark.parametrize(("name", "was", "now"), [("lr", "0.5", "1.5"), ("seed", "0", "1"), ("batch_size", "4", "8")])
def test_resume_with_other_settings_is_refused(tmp_path, name, was, now):
    train(tmp_path, [0.5], "--epochs", 1)
    with pytest.raises(UserError, match=f"cannot resume.*{name} was {was}, now {now}"):
        train(tmp_path, [0.5, 0.4], "--epochs", 2, "--resume", f"--{name.replace('_', '-')}", now)


def test_resume_beside_no_best_model_or_another_runs_is_refused(tmp_path):
    train(tmp_path / "one", [0.5], "--epochs", 1)
    train(tmp_path / "other", [0.4], "--epochs", 1)
    shutil.copy(tmp_path / "other" / "models" / FILE, tmp_path / "one" / "models")
    with pytest.raises(UserError, match=f"{FILE} is of another run"):
        train(tmp_path / "one", [0.5, 0.4], "--epochs", 2, "--resume")
    (tmp_path / "one" / "models" / FILE).unlink()
    with pytest.raises(UserError, match=f"{FILE} does not exist"):
        train(tmp_path / "one", [0.5, 0.4], "--epochs", 2, "--resume")


@pytest.mark.parametrize("damage", [lambda last: last.pop("epoch_seen"), lambda last: last["state_dict"].clear()])
def test_a_last_state_that_lacks_something_is_one_line(tmp_path, damage):
    train(tmp_path, [0.5], "--epochs", 1)
    last = last_checkpoint(tmp_path, "Toy")
    damage(last)
    save_checkpoint(tmp_path / "models" / "LastModel_Toy.pth", last)
    with pytest.raises(UserError, match="cannot resume .*LastModel_Toy.pth") as error:
        train(tmp_path, [0.5, 0.4], "--epochs", 2, "--resume")
    assert str(error.value).isprintable()
