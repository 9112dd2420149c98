"""The epoch loop and the checkpoints, with a model of one number."""

import argparse
import os
import pickle
import shutil
import signal

import numpy as np
import pytest
import torch

from checkpoints import atomic_write
from training import (
    Terminated,
    UserError,
    add_data_flags,
    add_training_flags,
    fit,
    load_checkpoint,
    run_script,
    save_checkpoint,
)

ABOUT = {"model": "Toy", "config": {"size": 1}, "data": {"name": "numbers", "fingerprint": "0"}}
TRAIN = [(np.ones(3), None), (np.zeros(1), None)]  # batches of three samples and of one


def parse(tmp_path, *argv):
    parser = argparse.ArgumentParser()
    add_data_flags(parser)
    add_training_flags(parser, epochs=10, batch_size=4, lr=0.5, patience=3)
    return parser.parse_args(["--output-root", str(tmp_path), *argv])


def train(tmp_path, valid_losses, *argv, train_step=None, suffix=".pkl"):
    """Run fit with the given validation losses; the model adds up random numbers. Returns (history, weight)."""
    args = parse(tmp_path, *argv)
    weight = np.zeros(1)
    epochs = []

    def default_train_step(images, labels, epoch):
        epochs.append(epoch)
        weight[0] += np.random.random() + torch.rand(1).item()
        return {"loss": float(images.mean())}

    def valid_step(images, labels):
        return {"loss": valid_losses[epochs[-1] - 1]}

    def load_state(state):
        weight[:] = state["state_dict"]["w"]

    steps = (train_step or default_train_step, valid_step)
    state = lambda: {"state_dict": {"w": weight if suffix == ".pkl" else torch.from_numpy(weight.copy())}}  # noqa: E731
    history = fit(args, ABOUT, suffix, (TRAIN, TRAIN[:1]), *steps, state, load_state)
    return history, weight[0]


def best(tmp_path):
    return load_checkpoint(tmp_path / "models" / "BestModel_Toy.pkl", made_by="test")


def test_the_log_and_the_best_model(tmp_path, capsys):
    history, _ = train(tmp_path, [0.5, 0.25, 0.375], "--epochs", "3")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Settings: ")
    assert "lr 0.5" in lines[0]
    assert lines[1:] == [
        "Epoch: 1, Train Loss: 0.750000, Valid Loss: 0.500000 *",  # 0.75: weighted by sample
        "Epoch: 2, Train Loss: 0.750000, Valid Loss: 0.250000 *",
        "Epoch: 3, Train Loss: 0.750000, Valid Loss: 0.375000",
        "Best Valid Loss: 0.250000 (epoch 2), saved to models/BestModel_Toy.pkl",
    ]
    assert [row["valid_loss"] for row in history] == [0.5, 0.25, 0.375]
    checkpoint = best(tmp_path)
    assert (checkpoint["epoch"], checkpoint["valid_loss"], checkpoint["seed"]) == (2, 0.25, 0)
    assert checkpoint["history"] == history
    assert checkpoint["config"] == ABOUT["config"]


def test_more_figures_than_the_loss_follow_it_in_the_log(tmp_path, capsys):
    def step(images, labels, epoch):
        return {"loss": 1.0, "kl": 0.25}

    args = parse(tmp_path, "--epochs", "1")
    state = lambda: {"state_dict": {}}  # noqa: E731
    fit(args, ABOUT, ".pkl", (TRAIN, TRAIN), step, lambda x, y: step(x, y, 0), state, None)
    assert (
        "Epoch: 1, Train Loss: 1.000000, Valid Loss: 1.000000, Train KL: 0.250000, Valid KL: 0.250000 *"
        in capsys.readouterr().out
    )


def test_every_validation_draws_the_same_numbers(tmp_path):
    drawn = []

    def step(images, labels, epoch=None):
        drawn.append((epoch, np.random.random(), torch.rand(1).item()))
        return {"loss": 1.0}

    args = parse(tmp_path, "--epochs", "2")
    fit(args, ABOUT, ".pkl", (TRAIN[:1], TRAIN[:1]), step, step, lambda: {"state_dict": {}}, None)
    first, valid, second, again = drawn
    assert valid == again
    assert len({draw[1:] for draw in (first, valid, second)}) == 3


def test_patience_counts_validations_without_a_better_loss(tmp_path, capsys):
    history, _ = train(tmp_path, [0.5, 0.4, 0.4, 0.6, 0.5, 0.1], "--epochs", "6")
    assert len(history) == 5
    assert best(tmp_path)["epoch"] == 2
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1].startswith("Best Valid Loss: 0.400000 (epoch 2)")
    assert "stopped early: no better validation loss within --patience 3" in captured.err


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_a_resumed_run_ends_like_one_that_never_stopped(tmp_path, suffix):
    losses = [0.5, 0.4, 0.6, 0.3]
    expected = train(tmp_path / "whole", losses, "--epochs", "4", suffix=suffix)
    train(tmp_path / "parts", losses, "--epochs", "2", suffix=suffix)
    assert train(tmp_path / "parts", losses, "--epochs", "4", "--resume", suffix=suffix) == expected


def test_ctrl_c_in_an_epoch_costs_that_epoch_alone(tmp_path):
    losses, count = [0.5, 0.4, 0.3], iter(range(100))
    expected = train(tmp_path / "whole", losses, "--epochs", "3")

    def interrupted(images, labels, epoch):
        np.random.random()
        if next(count) == 1:
            raise KeyboardInterrupt
        return {"loss": 1.0}

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", losses, "--epochs", "3", train_step=interrupted)
    assert train(tmp_path / "parts", losses, "--epochs", "3", "--resume") == expected


def test_resume_never_makes_the_best_model_worse(tmp_path):
    train(tmp_path, [0.2, 0.5], "--epochs", "2")
    train(tmp_path, [0.2, 0.5, 0.4], "--epochs", "3", "--resume")
    assert (best(tmp_path)["epoch"], best(tmp_path)["valid_loss"]) == (1, pytest.approx(0.2))


def test_resume_of_a_finished_run_changes_nothing(tmp_path, capsys):
    expected = train(tmp_path, [0.2, 0.5], "--epochs", "2")
    capsys.readouterr()
    assert train(tmp_path, [0.2, 0.5], "--epochs", "2", "--resume") == expected
    assert capsys.readouterr().out.count("Epoch:") == 2


def test_resume_with_nothing_to_resume_from_says_so(tmp_path, capsys):
    history, _ = train(tmp_path, [0.5], "--epochs", "1", "--resume")
    assert len(history) == 1
    assert "starting from the beginning" in capsys.readouterr().err


def test_a_new_run_is_not_mistaken_for_the_old_one(tmp_path):
    train(tmp_path, [0.5, 0.4], "--epochs", "2")

    def interrupted(images, labels, epoch):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, [0.5], "--epochs", "2", "--seed", "1", train_step=interrupted)
    assert load_checkpoint(tmp_path / "models" / "LastModel_Toy.pkl", made_by="test")["history"] == []


@pytest.mark.parametrize(("name", "was", "now"), [("lr", "0.5", "1.5"), ("seed", "0", "1"), ("batch-size", "4", "8")])
def test_resume_with_other_settings_is_refused(tmp_path, name, was, now):
    train(tmp_path, [0.5], "--epochs", "1")
    with pytest.raises(UserError, match=f"cannot resume.*{name.replace('-', '_')} was {was}, now {now}"):
        train(tmp_path, [0.5, 0.4], "--epochs", "2", "--resume", f"--{name}", now)


def test_resume_without_the_best_model_is_refused(tmp_path):
    train(tmp_path, [0.5], "--epochs", "1")
    (tmp_path / "models" / "BestModel_Toy.pkl").unlink()
    with pytest.raises(UserError, match="BestModel_Toy.pkl does not exist; make it with a new training run"):
        train(tmp_path, [0.5, 0.4], "--epochs", "2", "--resume")


def test_resume_beside_another_runs_best_model_is_refused(tmp_path):
    train(tmp_path / "one", [0.5], "--epochs", "1")
    train(tmp_path / "other", [0.4], "--epochs", "1")
    shutil.copy(tmp_path / "other" / "models" / "BestModel_Toy.pkl", tmp_path / "one" / "models")
    with pytest.raises(UserError, match="BestModel_Toy.pkl is of another run"):
        train(tmp_path / "one", [0.5, 0.4], "--epochs", "2", "--resume")


def test_the_log_of_a_resumed_run_is_whole(tmp_path, capsys):
    train(tmp_path / "whole", [0.5, 0.6, 0.4], "--epochs", "3")
    expected = capsys.readouterr().out
    train(tmp_path / "parts", [0.5, 0.6], "--epochs", "2")
    capsys.readouterr()
    train(tmp_path / "parts", [0.5, 0.6, 0.4], "--epochs", "3", "--resume")
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, value):
    def diverging(images, labels, epoch):
        return {"loss": value if (epoch, len(images)) == (1, 1) else 1.0}

    with pytest.raises(UserError, match=f"epoch 1, training, batch 2: the loss is {value}.*--lr"):
        train(tmp_path, [0.5], train_step=diverging)


def test_an_interrupted_write_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "new folder" / "file.bin"
    with atomic_write(path) as file:
        file.write(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as file:
        file.write(b"ne")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["file.bin"]


CHECKPOINT = {
    "model": "Toy",
    "config": {"size": [1, 2]},
    "data": {"name": "x"},
    "settings": {},
    "history": [{"epoch": 1, "train_loss": 0.5, "valid_loss": 0.25}],
}


def test_a_pickle_opens_anywhere(tmp_path):
    weights = {"w": [np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros(0), np.asfortranarray(np.eye(3))]}
    save_checkpoint(tmp_path / "a.pkl", {**CHECKPOINT, "state_dict": weights})
    with open(tmp_path / "a.pkl", "rb") as file:
        plain = pickle.load(file)
    ours = load_checkpoint(tmp_path / "a.pkl", made_by="test")
    for loaded in (plain, ours):
        for array, expected in zip(loaded.pop("state_dict")["w"], weights["w"], strict=True):
            np.testing.assert_array_equal(array, expected)
            assert array.dtype == expected.dtype
        assert loaded == CHECKPOINT


def test_a_pth_is_safe_to_load(tmp_path):
    weights = {"w": torch.arange(3.0)}
    save_checkpoint(tmp_path / "a.pth", {**CHECKPOINT, "state_dict": weights})
    loaded = torch.load(tmp_path / "a.pth", weights_only=True)
    assert torch.equal(loaded["state_dict"]["w"], weights["w"])
    assert load_checkpoint(tmp_path / "a.pth", made_by="test")["config"] == CHECKPOINT["config"]


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Call:
    """Pickles as a call of any function, and the state that the result is then given."""

    def __init__(self, function, arguments, *state):
        self.reduced = (function, arguments, *state)

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_a_hostile_file_runs_no_code(tmp_path, suffix):
    path = tmp_path / f"hostile{suffix}"
    save_checkpoint(path, {**CHECKPOINT, "state_dict": Hostile(tmp_path / "was here")})
    with pytest.raises(UserError, match="not a readable checkpoint.*python train.py"):
        load_checkpoint(path, made_by="`python train.py`")
    assert not (tmp_path / "was here").exists()


@pytest.mark.parametrize(
    "forged",
    [
        Call(np.ndarray, ((1,), "O", b"A" * 8)),
        Call(np.ndarray, ((1 << 40,), "f4")),
        Call(np.dtype, ("O",)),
        Call(
            np._core.multiarray._reconstruct,
            (np.ndarray, (0,), b"b"),
            (1, (1,), Call(np.dtype, ("O",)), False, b"A" * 8),
        ),
        Call(np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), (1, (9,), np.dtype("f4"), False, b"A" * 8)),
        np.array([Hostile("nowhere")], dtype=object),
        np.float64(1.0),
    ],
    ids=["pointers", "a claim of terabytes", "dtype", "state of pointers", "too few bytes", "objects", "scalar"],
)
def test_a_forged_array_is_never_built(tmp_path, forged):
    save_checkpoint(tmp_path / "a.pkl", {**CHECKPOINT, "state_dict": {"w": forged}})
    try:
        loaded = load_checkpoint(tmp_path / "a.pkl", made_by="test")["state_dict"]["w"]
    except UserError:
        return
    assert not isinstance(loaded, np.ndarray)


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_a_damaged_file_is_one_line(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    save_checkpoint(path, {**CHECKPOINT, "state_dict": {}})
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2], whole[1:]):
        path.write_bytes(content)
        with pytest.raises(UserError) as error:
            load_checkpoint(path, made_by="`python train.py`")
        assert "\n" not in str(error.value)
        assert str(path) in str(error.value)


def test_a_file_that_is_not_a_checkpoint_is_refused(tmp_path):
    for content in ({"model": "Toy"}, [1, 2], 3):
        save_checkpoint(tmp_path / "a.pkl", content)
        with pytest.raises(UserError, match="not a readable checkpoint .*(it has no config|it holds no dict)"):
            load_checkpoint(tmp_path / "a.pkl", made_by="test")
    with pytest.raises(UserError, match="does not exist; make it with `python train.py`"):
        load_checkpoint(tmp_path / "b.pkl", made_by="`python train.py`")


@pytest.mark.parametrize(
    "argv",
    [
        *[["--epochs", "0"], ["--epochs", "x"], ["--batch-size", "-3"], ["--patience", "0"], ["--seed", "-1"]],
        *[["--lr", "nan"], ["--lr", "0"], ["--lr", "inf"], ["--data", "fake"], ["--no-such-flag"]],
    ],
)
def test_wrong_arguments_are_status_2(tmp_path, argv, capsys):
    with pytest.raises(SystemExit) as error:
        parse(tmp_path, *argv)
    assert error.value.code == 2
    assert argv[0] in capsys.readouterr().err


def test_how_a_script_ends(capsys):
    def fails(error):
        def main():
            raise error

        with pytest.raises(SystemExit) as status:
            run_script(main)
        return status.value.code

    assert fails(UserError("mend it")) == "error: mend it"  # printed, with status 1, by the interpreter
    assert "disk full" in fails(OSError("disk full"))
    assert "not enough memory" in fails(MemoryError("Unable to allocate 116. GiB"))
    of_a_gpu = fails(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nOf the allocated memory"))
    assert "not enough memory, use smaller batches" in of_a_gpu
    assert "\n" not in of_a_gpu
    with pytest.raises(RuntimeError, match="illegal memory access"):  # a mistake of ours
        fails(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert fails(KeyboardInterrupt("stopped after epoch 3")) == 128 + signal.SIGINT
    assert fails(Terminated()) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "stopped after epoch 3\nstopped\n"
    assert run_script(lambda: None) is None
