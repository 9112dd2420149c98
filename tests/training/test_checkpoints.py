"""Checkpoints: whole or not at all, open anywhere, refused where they are damaged. See also robustness/."""

import os
import pickle

import numpy as np
import pytest
import torch

from training import UserError
from training.checkpoints import atomic_write, load_checkpoint, run_lock, save_checkpoint

ROW = {"epoch": 1, "train_loss": 0.5, "valid_loss": 0.25}
PLAIN = {"model": "Toy", "config": {"size": [1, 2]}, "data": {"name": "x"}, "settings": {}, "history": [ROW]}


def test_an_interrupted_write_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "new folder" / "file.bin"
    with atomic_write(path) as file:
        file.write(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as file:
        file.write(b"ne")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["file.bin"]


def test_a_pickle_opens_anywhere_and_can_be_saved_again(tmp_path):
    weights = {"w": [np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros(0), np.asfortranarray(np.eye(3))]}
    save_checkpoint(tmp_path / "a.pkl", {**PLAIN, "state_dict": weights})
    ours = load_checkpoint(tmp_path / "a.pkl", made_by="test")
    save_checkpoint(tmp_path / "b.pkl", ours)
    for name in "ab":
        with open(tmp_path / f"{name}.pkl", "rb") as file:
            plain = pickle.load(file)
        assert {type(array) for array in plain["state_dict"]["w"]} == {np.ndarray}
        for loaded in (plain, load_checkpoint(tmp_path / f"{name}.pkl", made_by="test")):
            for array, expected in zip(loaded.pop("state_dict")["w"], weights["w"], strict=True):
                np.testing.assert_array_equal(array, expected)
                assert array.dtype == expected.dtype
            assert loaded == PLAIN


def test_a_pth_is_safe_to_load(tmp_path):
    weights = {"w": torch.arange(3.0)}
    save_checkpoint(tmp_path / "a.pth", {**PLAIN, "state_dict": weights})
    for loaded in (torch.load(tmp_path / "a.pth", weights_only=True), load_checkpoint(tmp_path / "a.pth", "test")):
        assert torch.equal(loaded["state_dict"]["w"], weights["w"])
        assert loaded["config"] == PLAIN["config"]


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_a_damaged_file_is_one_line(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    save_checkpoint(path, {**PLAIN, "state_dict": {}})
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2], whole[1:]):
        path.write_bytes(content)
        with pytest.raises(UserError) as error:
            load_checkpoint(path, made_by="`python train.py`")
        assert str(error.value).isprintable()
        assert str(path) in str(error.value)
        assert "`python train.py`" in str(error.value)


@pytest.mark.parametrize("content", [{"model": "Toy"}, [1, 2], 3, {**PLAIN, "state_dict": {}, "history": [1]}])
def test_a_file_that_is_not_a_checkpoint_is_refused(tmp_path, content):
    save_checkpoint(tmp_path / "a.pkl", content)
    with pytest.raises(UserError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path / "a.pkl", made_by="test")


@pytest.mark.parametrize("rows", [[], [{**ROW, "valid_loss": "x"}], [ROW, {**ROW, "valid_kl": 1.0}], [{"epoch": 1}]])
def test_a_best_model_without_its_history_is_refused(tmp_path, rows):
    save_checkpoint(tmp_path / "a.pkl", {**PLAIN, **ROW, "state_dict": {}, "history": rows})
    with pytest.raises(UserError, match="history"):
        load_checkpoint(tmp_path / "a.pkl", made_by="test")


def test_what_cannot_be_read_is_said(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="b.pkl does not exist.*`python train.py`"):
        load_checkpoint(tmp_path / "b.pkl", made_by="`python train.py`")
    (tmp_path / "a.pkl").touch()
    monkeypatch.setattr("pathlib.Path.read_bytes", lambda self: (_ for _ in ()).throw(OSError(5, "broken disk")))
    with pytest.raises(UserError, match="cannot read .*a.pkl .broken disk"):
        load_checkpoint(tmp_path / "a.pkl", made_by="test")


def test_the_lock_is_for_one_run_and_removes_what_a_killed_one_left(tmp_path):
    left, others = tmp_path / ".BestModel_Toy.pth.7.tmp", tmp_path / ".BestModel_Other.pth.7.tmp"
    left.touch()
    others.touch()
    with run_lock(tmp_path, "Toy"):
        assert (left.exists(), others.exists()) == (False, True)
        with pytest.raises(UserError, match="Toy.*--output-root"), run_lock(tmp_path, "Toy"):
            pass
        with run_lock(tmp_path, "Other"):
            assert not others.exists()
    with run_lock(tmp_path, "Toy"):
        assert list(tmp_path.glob("*.lock"))


class Call:
    """Pickles as a call of any function, and the state that the result is then given."""

    def __init__(self, function, arguments, *state):
        self.reduced = (function, arguments, *state)

    def __reduce__(self):
        return self.reduced


RECONSTRUCT = np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b")


@pytest.mark.parametrize(
    "forged",
    [
        Call(np.ndarray, ((1,), "O", b"A" * 8)),
        Call(np.ndarray, ((1 << 40,), "f4")),
        Call(np.dtype, ("O",)),
        Call(*RECONSTRUCT, (1, (1,), Call(np.dtype, ("O",)), False, b"A" * 8)),
        Call(*RECONSTRUCT, (1, (9,), np.dtype("f4"), False, b"A" * 8)),
        Call(*RECONSTRUCT, (1, (1,), np.dtype("f4"), False, [1.0])),
        np.array([Call(os.getcwd, ())], dtype=object),
        np.float64(1.0),
    ],
    ids=["pointers", "terabytes", "dtype", "state of pointers", "too few bytes", "a list", "objects", "scalar"],
)
def test_a_forged_array_is_never_built(tmp_path, forged):
    save_checkpoint(tmp_path / "a.pkl", {**PLAIN, "state_dict": {"w": forged}})
    try:
        loaded = load_checkpoint(tmp_path / "a.pkl", made_by="test")["state_dict"]["w"]
    except UserError:
        return
    assert not isinstance(loaded, np.ndarray)
