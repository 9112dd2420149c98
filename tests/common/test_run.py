"""The run around a training loop, with a model of one number: log, best and last state, early stopping, --resume."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import best_checkpoint, files_below, last_checkpoint

from common import UserError
from common.checkpoints import load_checkpoint
from common.run import last_lines, start_run

NUMBERS = {"name": "numbers", "fingerprint": "0"}
STAND_IN = {"name": "synthetic numbers", "fingerprint": "1"}


class Loader(list):
    dataset = SimpleNamespace(images=torch.zeros(1))


TRAIN = Loader([(np.ones(3), None), (np.zeros(1), None)])  # three images and one: their mean is 0.75
VALID = Loader([(np.ones(3), None)])


class Toy:
    """Its weight moves by random numbers; `drawn` remembers which."""

    def __init__(self, suffix):
        self.suffix = suffix
        self.weight = 0.0
        self.drawn = []

    def step(self):
        self.drawn.append(np.random.random() + torch.rand(1).item())
        return self.drawn[-1]

    def state_dict(self):
        weight = torch.tensor(self.weight, dtype=torch.float64)
        return {"w": weight.numpy() if self.suffix == ".pkl" else weight}

    def load_state_dict(self, weights):
        self.weight = weights["w"].item()


def train(root, losses, suffix=".pth", resume=False, patience=3, train_loss=None, tests=False, **changed):
    """Train with one of the validation losses in each epoch, or with an error to raise there; returns the model and the
    best checkpoint. train_loss: of the last batch of epoch 2."""
    model = Toy(suffix)
    about = {"config": {"size": 1}, "data": NUMBERS, "seed": 0, "may_change": ("epochs", "patience")}
    about["settings"] = {"epochs": len(losses), "patience": patience, "lr": 0.5} | changed.pop("settings", {})
    about |= changed
    with start_run("Toy", root, {"state_dict": model}, suffix=suffix, resume=resume, **about) as run:
        for epoch in run.epochs():
            if run.epochs_since_best >= patience:
                break
            for images, _ in run.batches("train", TRAIN):
                model.weight += model.step()
                diverges = train_loss and epoch == 2 and len(images) == 1
                run.record({"loss": train_loss if diverges else images.mean(), "kl": 0.25})
            for _ in run.batches("valid", VALID):
                model.step()
                if losses[epoch - 1] is KeyboardInterrupt:
                    raise KeyboardInterrupt
                run.record({"loss": losses[epoch - 1], "kl": 0.125})
            if run.valid_loss < run.best_loss:
                run.save_best()
            run.end_epoch()
        if tests:
            run.load_best()
            for _ in run.batches("test", VALID):
                model.step()
                run.record({"loss": 0.5, "kl": 0.5})
        return model, run.finish()


def history_of(trained):
    return trained[1]["history"]


def test_the_log_and_the_checkpoints(tmp_path, capsys):
    model, best = train(tmp_path, [0.5, 0.25, 0.375])
    settings, *epochs, end = capsys.readouterr().out.splitlines()
    assert settings == "Settings: epochs 3, patience 3, lr 0.5"
    row = "Epoch: {}, Train Loss: 0.750000, Valid Loss: {:.6f}, Train KL: 0.250000, Valid KL: 0.125000{}"
    assert epochs == [row.format(*values) for values in ((1, 0.5, " *"), (2, 0.25, " *"), (3, 0.375, ""))]
    path = tmp_path / "models" / "BestModel_Toy.pth"
    assert end == f"Best Valid Loss: 0.250000 (epoch 2), saved to {path}"
    last = last_checkpoint(tmp_path, "Toy")
    assert best == best_checkpoint(tmp_path, "Toy")
    assert (best["epoch"], best["valid_loss"], best["seed"], best["config"]) == (2, 0.25, 0, {"size": 1})
    assert best["settings"] == {"epochs": 3, "patience": 3, "lr": 0.5}
    assert best["history"] == last["history"]
    assert len(best["history"]) == 3
    assert best["state_dict"]["w"] < last["state_dict"]["w"] == model.weight
    assert {path.name for path in path.parent.iterdir()} == {path.name, "LastModel_Toy.pth", "LastModel_Toy.lock"}


def test_the_best_weights_are_tested_once_after_the_training(tmp_path, capsys):
    model, best = train(tmp_path, [0.5, 0.25, 0.375], tests=True)
    assert model.weight == best["state_dict"]["w"] < last_checkpoint(tmp_path, "Toy")["state_dict"]["w"]
    assert (best["test_loss"], best["test_kl"]) == (0.5, 0.5)
    assert capsys.readouterr().out.endswith("\nTest Loss: 0.500000 (epoch 2)\n")
    assert len(model.drawn) == 3 * 3 + 1
    assert model.drawn[2] == model.drawn[5] == model.drawn[8] == model.drawn[9]  # each validation draws the same
    assert len(set(model.drawn)) == 3 * 2 + 1  # and each epoch numbers of its own


def test_a_path_in_the_project_is_relative_in_the_log(tmp_path, monkeypatch):
    monkeypatch.setattr("common.run.PROJECT", tmp_path)
    [line] = last_lines({"valid_loss": 1.0, "epoch": 1}, tmp_path / "models" / "x.pth")
    assert line.endswith("saved to models/x.pth")


def test_early_stopping_also_of_a_finished_run_that_is_resumed(tmp_path, capsys):
    losses = [0.5, 0.4, 0.4, 0.6, 0.5, 0.1]
    whole = train(tmp_path, losses)
    assert (len(history_of(whole)), whole[1]["epoch"]) == (5, 2)
    log, messages = capsys.readouterr()
    assert "stopped early" in messages
    assert history_of(train(tmp_path, losses, resume=True)) == history_of(whole)
    assert capsys.readouterr().out == log
    assert len(history_of(train(tmp_path, losses, resume=True, patience=4))) == 6


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_best_model(tmp_path, value):
    with pytest.raises(UserError, match=f"epoch 2, training, batch 2: the loss is {value}.*--lr"):
        train(tmp_path, [0.5, 0.4], train_loss=value)
    with pytest.raises(UserError, match=f"epoch 2, validation, batch 1: the loss is {value}.*--lr"):
        train(tmp_path, [0.5, value])
    assert best_checkpoint(tmp_path, "Toy")["epoch"] == last_checkpoint(tmp_path, "Toy")["history"][-1]["epoch"] == 1


@pytest.mark.parametrize(("suffix", "losses"), [(".pkl", [0.5, 0.4, 0.6, 0.3]), (".pth", [0.4, 0.5, 0.6, 0.45])])
def test_a_resumed_run_ends_like_one_that_never_stopped_and_so_does_its_log(tmp_path, suffix, losses, capsys):
    whole, _ = train(tmp_path / "whole", losses, suffix, resume=True, tests=True)
    log, messages = capsys.readouterr()
    assert "--resume: there is no " in messages
    train(tmp_path / "parts", losses[:2], suffix)
    for _ in range(2):  # to continue a finished run changes nothing
        capsys.readouterr()
        parts, _ = train(tmp_path / "parts", losses, suffix, resume=True, tests=True)
        assert parts.weight == whole.weight
        assert capsys.readouterr().out.replace("/parts/", "/whole/") == log
        for name in (f"BestModel_Toy{suffix}", f"LastModel_Toy{suffix}"):
            folders = (tmp_path / run / "models" for run in ("whole", "parts"))
            expected, resumed = (load_checkpoint(folder / name, "test") for folder in folders)
            assert resumed == expected


@pytest.mark.parametrize(("epoch", "message"), [(1, "from the beginning"), (2, "after epoch 1")])
def test_ctrl_c_costs_its_epoch_alone_and_names_the_way_to_continue(tmp_path, epoch, message):
    losses = [0.5, 0.4, 0.3]
    whole, _ = train(tmp_path / "whole", losses)
    with pytest.raises(KeyboardInterrupt, match=f"stopped; .*--resume .*{message}"):
        train(tmp_path / "parts", [*losses[: epoch - 1], KeyboardInterrupt])
    assert train(tmp_path / "parts", losses, resume=True)[0].weight == whole.weight


def test_a_kill_between_the_two_writes_costs_that_epoch_alone(tmp_path):
    whole, best = train(tmp_path / "whole", [0.5, 0.4])
    train(tmp_path / "parts", [0.5])
    shutil.copy(tmp_path / "whole/models/BestModel_Toy.pth", tmp_path / "parts/models")  # an epoch ahead of the last
    resumed, resumed_best = train(tmp_path / "parts", [0.5, 0.4], resume=True)
    assert (resumed.weight, resumed_best) == (whole.weight, best)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"settings": {"lr": 1.5}}, "lr was 0.5, now 1.5"),
        ({"settings": {"beta": 2.0}}, "beta was None, now 2.0"),
        ({"seed": 1}, "seed was 0, now 1"),
        ({"config": {"size": 2}}, "size was 1, now 2"),
        ({"may_change": ("patience",)}, "epochs was 1, now 2"),  # where the schedule depends on them
        ({"data": {**NUMBERS, "fingerprint": "1"}}, "data was numbers 0, now numbers 1"),
    ],
)
def test_resume_with_other_settings_is_refused(tmp_path, changed, message):
    train(tmp_path, [0.5])
    files = files_below(tmp_path)
    with pytest.raises(UserError, match=f"cannot resume .*LastModel_Toy.pth: {message}.*leave out --resume"):
        train(tmp_path, [0.5, 0.4], resume=True, **changed)
    assert files_below(tmp_path) == files


def test_resume_from_what_is_not_this_runs_last_state_is_refused(tmp_path):
    train(tmp_path / "other", [0.4])
    train(tmp_path, [0.5])
    best = tmp_path / "models" / "BestModel_Toy.pth"
    last = tmp_path / "models" / "LastModel_Toy.pth"

    def refused(message):
        with pytest.raises(UserError, match=message):
            train(tmp_path, [0.5, 0.4], resume=True)

    shutil.copy(tmp_path / "other" / "models" / best.name, best)
    refused("BestModel_Toy.pth is of another run")
    best.unlink()
    refused("BestModel_Toy.pth does not exist")
    last.write_bytes(last.read_bytes()[:-10])
    refused("LastModel_Toy.pth is not a readable checkpoint")


def kept(root):
    """{folder below replaced/: the validation loss of the best checkpoint in it}."""
    return {path.name: best_checkpoint(path, "Toy")["valid_loss"] for path in sorted((root / "replaced").glob("*"))}


def test_a_new_run_keeps_what_it_replaces_and_names_the_copy(tmp_path, capsys):
    train(tmp_path, [0.5, 0.25])
    first = files_below(tmp_path / "models")
    assert (kept(tmp_path), capsys.readouterr().err.count("kept")) == ({}, 0)
    train(tmp_path, [0.75])
    assert "Toy, epoch 2, validation loss 0.25, trained on numbers; visualization.py" in capsys.readouterr().err
    assert files_below(tmp_path / "replaced" / "Toy_1" / "models").items() < first.items()  # all but the lock
    train(tmp_path, [0.5, 0.25])
    train(tmp_path, [0.75])  # its weights are kept already, as those of the run before it are
    assert kept(tmp_path) == {"Toy_1": 0.25, "Toy_2": 0.75}


def test_a_run_that_was_stopped_in_its_first_epoch_or_is_resumed_is_not_kept(tmp_path):
    train(tmp_path, [0.5])
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, [KeyboardInterrupt], seed=1)
    assert last_checkpoint(tmp_path, "Toy")["history"] == []  # --resume now means the new run
    assert best_checkpoint(tmp_path, "Toy")["seed"] == 0  # the old model is whole until there is a new one
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, [0.25, KeyboardInterrupt], resume=True, seed=1)
    train(tmp_path, [0.25, 0.125], resume=True, seed=1)
    assert kept(tmp_path) == {"Toy_1": 0.5}


def test_a_file_that_cannot_be_read_is_kept_as_well(tmp_path, capsys):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "BestModel_Toy.pth").write_bytes(b"precious")
    train(tmp_path, [0.5])
    assert files_below(tmp_path / "replaced") == {"Toy_1/models/BestModel_Toy.pth": b"precious"}
    message = capsys.readouterr().err
    assert "kept, because this run will replace it: the old checkpoint; visualization.py" in message
    copies = tmp_path / "replaced" / "Toy_1"
    assert f'cp "{copies}"/models/* "{tmp_path / "models"}" takes it back' in message


def test_the_stand_in_never_takes_the_place_of_real_images(tmp_path):
    train(tmp_path, [0.5])
    before = files_below(tmp_path)
    with pytest.raises(UserError, match="BestModel_Toy.pth was trained on numbers, .* --output-root"):
        train(tmp_path, [0.25], data=STAND_IN)
    assert files_below(tmp_path) == before
    for data in (STAND_IN, STAND_IN, NUMBERS):  # the other way round it may
        train(tmp_path / "other", [0.25], data=data)
