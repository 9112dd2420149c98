"""Checkpoints: written whole or not at all, opened anywhere, refused where they are none, locked by a run."""

import errno
import fcntl
import os
import pickle
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from common import UserError
from common.checkpoints import atomic_write, load_checkpoint, run_lock, save_checkpoint

ROW = {"epoch": 1, "train_loss": 0.5, "valid_loss": 0.25}
CHECKPOINT = {
    "model": "Toy",
    "config": {"size": [1, 2]},
    "data": {"name": "x"},
    "settings": {},
    "seed": 0,
    "history": [ROW],
}


def test_a_write_that_is_interrupted_or_fails_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "new folder" / "file.bin"
    with atomic_write(path) as file:
        file.write(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as file:
        file.write(b"ne")
        raise KeyboardInterrupt
    with pytest.raises(UserError, match=f"cannot write {path}/file "):
        save_checkpoint(path / "file", {})
    monkeypatch.setattr(os, "fsync", Mock(side_effect=OSError(28, "No space left on device")))
    with pytest.raises(UserError, match=f"cannot write {path} .*No space.*old file is whole"):
        save_checkpoint(path, {})
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["file.bin"]


def test_a_pickle_opens_anywhere(tmp_path):
    weights = [np.arange(6, dtype=np.float32).reshape(2, 3), np.zeros(0), np.asfortranarray(np.eye(3))]
    save_checkpoint(tmp_path / "a.pkl", {**CHECKPOINT, "state_dict": {"w": weights}})
    ours = load_checkpoint(tmp_path / "a.pkl", made_by="test")
    save_checkpoint(tmp_path / "b.pkl", ours)  # what was read can be saved again
    for loaded in (ours, *(pickle.loads((tmp_path / name).read_bytes()) for name in ("a.pkl", "b.pkl"))):
        for array, expected in zip(loaded.pop("state_dict")["w"], weights, strict=True):
            np.testing.assert_array_equal(array, expected)
            assert array.dtype == expected.dtype
        assert loaded == CHECKPOINT


def test_a_pth_is_safe_to_load(tmp_path):
    save_checkpoint(tmp_path / "a.pth", {**CHECKPOINT, "state_dict": {"w": torch.arange(3.0)}})
    for loaded in (torch.load(tmp_path / "a.pth", weights_only=True), load_checkpoint(tmp_path / "a.pth", "test")):
        assert torch.equal(loaded.pop("state_dict")["w"], torch.arange(3.0))
        assert loaded == CHECKPOINT


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_a_file_that_is_missing_damaged_or_no_checkpoint_is_one_line(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"a{suffix}"

    def refused(message):
        with pytest.raises(UserError, match=rf"\A[^\n]*{path}[^\n]*{message}[^\n]*\Z"):
            load_checkpoint(path, made_by="`python train.py`")

    refused("does not exist.*`python train.py`")
    save_checkpoint(path, {**CHECKPOINT, "state_dict": {}})
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2], whole[1:]):
        path.write_bytes(content)
        refused("not a readable checkpoint.*`python train.py`")
    for content, problem in (({"model": "Toy"}, "no config"), ([1, 2], "no dict"), (3, "no dict")):
        save_checkpoint(path, content)
        refused(f"not a readable checkpoint.*{problem}")
    for rows in ([], [1], [{"epoch": 1}], [ROW, {**ROW, "valid_kl": 1.0}], [{**ROW, "valid_loss": "x"}]):
        save_checkpoint(path, {**CHECKPOINT, **ROW, "state_dict": {}, "history": rows})
        refused("history")
    monkeypatch.setattr(Path, "read_bytes", Mock(side_effect=PermissionError(13, "Permission denied")))
    refused("Permission denied")


def test_one_run_at_a_time_trains_a_model_in_a_folder(tmp_path):
    models = tmp_path / "models"
    with run_lock(models, "AE"):
        with pytest.raises(UserError, match="AE in .*models.*--output-root"), run_lock(models, "AE"):
            pass
        for model in ("AE", "VAE"):
            (models / f".BestModel_{model}.pth.7.tmp").touch()  # of runs that were killed
        with run_lock(models, "DDPM"):
            assert len(list(models.glob(".*.tmp"))) == 2
    with run_lock(models, "AE"):
        assert [path.name for path in models.glob(".*.tmp")] == [".BestModel_VAE.pth.7.tmp"]
    with pytest.raises(UserError, match="cannot write to .*lock "), run_lock(models / "LastModel_AE.lock", "AE"):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
@pytest.mark.filterwarnings("ignore")
def test_a_drive_without_locks_is_a_warning_at_most(number, tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(fcntl, "flock", Mock(side_effect=OSError(number, os.strerror(number))))
    with run_lock(tmp_path / "models", "AE"):
        (tmp_path / "models" / "file").touch()
    with run_lock(tmp_path / "models", "AE"):
        pass
    if number != errno.ENOSYS:  # for which filelock has another lock
        assert any(f"the drive of {tmp_path / 'models'} has no locks" in str(warning.message) for warning in recwarn)
