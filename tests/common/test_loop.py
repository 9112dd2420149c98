"""The epoch loop, with a model of one number: the log, the best and the last state, early stopping, --resume."""

import argparse
import shutil

import numpy as np
import pytest
import torch
from helpers import best_checkpoint, files_below, last_checkpoint

from training import UserError, flags
from training.checkpoints import load_checkpoint
from training.loop import fit, last_lines, warn_unless_below

ABOUT = {"model": "Toy", "config": {"size": 1}, "data": {"name": "numbers", "fingerprint": "0"}}
TRAIN = [(np.ones(3), None), (np.zeros(1), None)]  # batches of three samples and of one: their mean is 0.75


class Toy:
    """Adds random numbers to its weight. Its validation losses are given, one an epoch, or an error to raise there."""

    def __init__(self, valid_losses, suffix=".pth"):
        self.valid_losses, self.suffix, self.weight, self.steps, self.drawn = valid_losses, suffix, 0.0, 0, []

    def train_step(self, images, labels, epoch):
        self.drawn.append((epoch, np.random.random() + torch.rand(1).item()))
        self.weight, self.steps, self.epoch = self.weight + self.drawn[-1][1], self.steps + 1, epoch
        return {"loss": float(images.mean()), "kl": 0.25}

    def valid_step(self, images, labels):
        self.drawn.append(("validation", np.random.random() + torch.rand(1).item()))
        loss = self.valid_losses[self.epoch - 1]
        if loss is KeyboardInterrupt:
            raise loss
        return {"loss": loss, "kl": 0.125}

    def state_dict(self):
        weight = np.array(self.weight) if self.suffix == ".pkl" else torch.tensor(self.weight, dtype=torch.float64)
        return {"state_dict": {"w": weight}, "steps": self.steps}

    def load_state_dict(self, state):
        self.weight, self.steps = state["state_dict"]["w"].item(), state["steps"]

    def load_weights(self, weights):
        self.tested = weights["w"].item()


def train(root, learner, *argv, loaders=(TRAIN, TRAIN[:1]), **changed):
    """Train for as many epochs as there are validation losses; returns (history, state), what a run ends with."""
    parser = argparse.ArgumentParser()
    flags.add_data_flags(parser)
    flags.add_training_flags(parser, epochs=len(learner.valid_losses), batch_size=4, lr=0.5, patience=3)
    args = parser.parse_args(["--output-root", str(root), *argv])
    best = fit(args, {**ABOUT, **changed}, loaders, learner)
    return best["history"], (learner.weight, learner.steps)


def test_the_log_and_the_best_model(tmp_path, capsys):
    history, (weight, steps) = train(tmp_path, Toy([0.5, 0.25, 0.375]))
    settings, *epochs = capsys.readouterr().out.splitlines()
    assert "lr 0.5" in settings
    row = "Epoch: {}, Train Loss: 0.750000, Valid Loss: {:.6f}, Train KL: 0.250000, Valid KL: 0.125000{}"
    assert epochs == [row.format(*values) for values in ((1, 0.5, " *"), (2, 0.25, " *"), (3, 0.375, ""))]
    best, last = best_checkpoint(tmp_path, "Toy"), last_checkpoint(tmp_path, "Toy")
    assert (best["epoch"], best["valid_loss"], best["seed"], best["config"]) == (2, 0.25, 0, {"size": 1})
    assert best["history"] == last["history"] == history
    assert best["state_dict"]["w"] < last["state_dict"]["w"] == weight
    assert (best["data"], last["steps"], steps) == (ABOUT["data"], 6, 6)
    assert last_lines(best, ".pth") == ["Best Valid Loss: 0.250000 (epoch 2), saved to models/BestModel_Toy.pth"]


def test_the_best_weights_are_tested_once_after_the_training(tmp_path):
    test_loader = type("Loader", (list,), {"dataset": range(3)})(TRAIN[:1])
    learner = Toy([0.5, 0.25, 0.375])
    history, (weight, _) = train(tmp_path, learner, loaders=(TRAIN, TRAIN[:1], test_loader))
    best = best_checkpoint(tmp_path, "Toy")
    assert learner.tested == best["state_dict"]["w"].item() != weight
    assert [where for where, _ in learner.drawn].count("validation") == len(history) + 1
    assert learner.drawn[-1] == learner.drawn[2]  # with the random numbers of a validation
    assert (best["test_loss"], best["test_kl"], best["test_images"]) == (0.375, 0.125, 3)  # as the Toy's last one
    assert last_lines(best, ".pth")[1] == "Test Loss: 0.375000 (epoch 2, 3 images)"
    assert "test_loss" not in last_checkpoint(tmp_path, "Toy")


def test_every_validation_draws_the_same_numbers_and_no_epoch_those_of_another(tmp_path):
    train(tmp_path, learner := Toy([1.0, 1.0]))
    assert [where for where, _ in learner.drawn] == [1, 1, "validation", 2, 2, "validation"]
    assert learner.drawn[2] == learner.drawn[5]
    assert len({number for _, number in learner.drawn}) == 5


def test_patience_counts_validations_without_a_better_loss(tmp_path, capsys):
    history, _ = train(tmp_path, Toy([0.5, 0.4, 0.4, 0.6, 0.5, 0.1]))
    assert (len(history), best_checkpoint(tmp_path, "Toy")["epoch"]) == (5, 2)
    assert "--patience 3" in capsys.readouterr().err


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_best_model(tmp_path, value):
    class Diverging(Toy):
        def train_step(self, images, labels, epoch):
            metrics = super().train_step(images, labels, epoch)
            return {**metrics, "loss": value} if (epoch, len(images)) == (2, 1) else metrics

    with pytest.raises(UserError, match=f"epoch 2, training, batch 2: the loss is {value}.*--lr"):
        train(tmp_path, Diverging([0.5, 0.4]))
    with pytest.raises(UserError, match=f"epoch 2, validation, batch 1: the loss is {value}.*--lr"):
        train(tmp_path, Toy([0.5, value]))
    assert best_checkpoint(tmp_path, "Toy")["epoch"] == last_checkpoint(tmp_path, "Toy")["history"][-1]["epoch"] == 1


@pytest.mark.parametrize(("suffix", "losses"), [(".pkl", [0.5, 0.4, 0.6, 0.3]), (".pth", [0.4, 0.5, 0.6, 0.45])])
def test_a_resumed_run_ends_like_one_that_never_stopped_and_so_does_its_log(tmp_path, suffix, losses, capsys):
    expected = train(tmp_path / "whole", Toy(losses, suffix), "--resume", "--patience", "4")
    log, errors = capsys.readouterr()
    assert "--resume: there is no " in errors
    train(tmp_path / "parts", Toy(losses[:2], suffix))
    for _ in range(2):  # to go on when it is finished changes nothing
        capsys.readouterr()
        assert train(tmp_path / "parts", Toy(losses, suffix), "--resume", "--patience", "4") == expected
        assert capsys.readouterr().out == log
        for name in (f"BestModel_Toy{suffix}", f"LastModel_Toy{suffix}"):
            whole, parts = (load_checkpoint(tmp_path / run / "models" / name, "test") for run in ("whole", "parts"))
            assert whole == parts


@pytest.mark.parametrize(("epoch", "message"), [(1, "from the beginning"), (2, "after epoch 1")])
def test_ctrl_c_costs_its_epoch_alone_and_says_how_to_go_on(tmp_path, epoch, message):
    expected = train(tmp_path / "whole", Toy(losses := [0.5, 0.4, 0.3]))
    with pytest.raises(KeyboardInterrupt, match=f"--resume .*{message}"):
        train(tmp_path / "parts", Toy([*losses[: epoch - 1], KeyboardInterrupt]))
    assert train(tmp_path / "parts", Toy(losses), "--resume") == expected


def test_a_kill_between_the_two_writes_costs_that_epoch_alone(tmp_path):
    expected = train(tmp_path / "whole", Toy([0.5, 0.4]))
    train(tmp_path / "parts", Toy([0.5]))
    shutil.copy(tmp_path / "whole/models/BestModel_Toy.pth", tmp_path / "parts/models")  # an epoch ahead of the last
    assert train(tmp_path / "parts", Toy([0.5, 0.4]), "--resume") == expected


def test_a_new_run_is_not_mistaken_for_the_old_one(tmp_path):
    train(tmp_path, Toy([0.5, 0.4]))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, Toy([KeyboardInterrupt]), "--seed", "1")
    assert last_checkpoint(tmp_path, "Toy")["history"] == []
    assert best_checkpoint(tmp_path, "Toy")["seed"] == 0  # the old run's model is whole until there is a new one


@pytest.mark.parametrize(
    ("argv", "changed", "message"),
    [
        (["--lr", "1.5"], {}, "lr was 0.5, now 1.5"),
        (["--seed", "1"], {}, "seed was 0, now 1"),
        (["--batch-size", "8"], {}, "batch_size was 4, now 8"),
        ([], {"config": {"size": 2}}, "size was 1, now 2"),
        ([], {"settings": {"epochs": 2}}, "epochs was None, now 2"),  # where the schedule depends on them
        ([], {"data": {"name": "numbers", "fingerprint": "1"}}, "data was numbers 0, now numbers 1"),
    ],
)
def test_resume_with_other_settings_is_refused(tmp_path, argv, changed, message):
    train(tmp_path, Toy([0.5]))
    files = files_below(tmp_path)
    with pytest.raises(UserError, match=f"cannot resume .*LastModel_Toy.pth: {message}.*leave out --resume"):
        train(tmp_path, Toy([0.5, 0.4]), "--resume", *argv, **changed)
    assert files_below(tmp_path) == files


def test_resume_from_what_is_not_this_runs_last_state_is_refused(tmp_path):
    best, last = (tmp_path / "models" / f"{kind}Model_Toy.pth" for kind in ("Best", "Last"))
    train(tmp_path / "other", Toy([0.4]))
    train(tmp_path, Toy([0.5]))

    def refused(message):
        with pytest.raises(UserError, match=message):
            train(tmp_path, Toy([0.5, 0.4]), "--resume")

    shutil.copy(tmp_path / "other" / "models" / best.name, best)
    refused("BestModel_Toy.pth is of another run")
    best.unlink()
    refused("BestModel_Toy.pth does not exist")
    last.write_bytes(last.read_bytes()[:-10])
    refused("LastModel_Toy.pth is not a readable checkpoint")
    shutil.copy(tmp_path / "other" / "models" / best.name, best)
    shutil.copy(best, last)
    refused("cannot resume .*LastModel_Toy.pth.*steps")  # what training goes on from


def kept(root):
    """{folder below replaced/: the validation loss of the best checkpoint in it}."""
    return {path.name: best_checkpoint(path, "Toy")["valid_loss"] for path in sorted((root / "replaced").glob("*"))}


def test_a_new_run_keeps_what_it_replaces_and_says_where(tmp_path, capsys):
    train(tmp_path, Toy([0.5, 0.25]))
    first = files_below(tmp_path / "models")
    assert (kept(tmp_path), capsys.readouterr().err.count("kept")) == ({}, 0)
    train(tmp_path, Toy([0.75]))
    said = f'Toy, epoch 2, validation loss 0.25, trained on numbers; --output-root "{tmp_path / "replaced" / "Toy_1"}"'
    assert said in capsys.readouterr().err
    assert files_below(tmp_path / "replaced" / "Toy_1" / "models").items() < first.items()  # all but the lock
    assert best_checkpoint(tmp_path, "Toy")["valid_loss"] == 0.75
    train(tmp_path, Toy([0.5, 0.25]))
    train(tmp_path, Toy([0.75]))  # whose weights are kept already, as those of the run before it are
    assert kept(tmp_path) == {"Toy_1": 0.25, "Toy_2": 0.75}


def test_what_is_resumed_is_not_kept_nor_a_run_without_an_epoch(tmp_path):
    train(tmp_path, Toy([0.5]))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, Toy([KeyboardInterrupt]))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, Toy([0.25, KeyboardInterrupt]), "--resume")
    train(tmp_path, Toy([0.25, 0.125]), "--resume")
    assert kept(tmp_path) == {"Toy_1": 0.5}


def test_what_cannot_be_read_is_kept_as_well(tmp_path, capsys):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "BestModel_Toy.pth").write_bytes(b"precious")
    train(tmp_path, Toy([0.5]))
    assert files_below(tmp_path / "replaced") == {"Toy_1/models/BestModel_Toy.pth": b"precious"}
    assert "kept, as this run will replace it: what was there; --output-root" in capsys.readouterr().err


def test_the_stand_in_never_takes_the_place_of_real_images(tmp_path):
    standin = {"data": {"name": "synthetic numbers", "fingerprint": "1"}}
    train(tmp_path, Toy([0.5]))
    before = files_below(tmp_path)
    with pytest.raises(UserError, match="BestModel_Toy.pth was trained on numbers, .* --output-root"):
        train(tmp_path, Toy([0.25]), **standin)
    assert files_below(tmp_path) == before
    for data in (standin, standin, {}):  # the other way round it may
        train(tmp_path / "other", Toy([0.25]), **data)


def test_a_loss_that_the_mean_image_reaches_is_warned_of(capsys):
    best = {"history": [{"valid_loss": 0.5}, {"valid_loss": 0.25}]}
    warn_unless_below(0.3, best)
    assert capsys.readouterr().out == ""
    warn_unless_below(0.25, best)
    assert capsys.readouterr().out.startswith("Warning: the best validation loss is 0.25, and answering every image")
