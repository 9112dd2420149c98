"""Files from untrusted sources: damaged, swapped, or made to run code, to hang or to fill the memory."""

import io
import os
import pickle
import struct
import sys
import time
import zipfile

import numpy as np
import pytest
import torch
from helpers import best_checkpoint, logged, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import train_script
from evaluation.models import checkpoint_file, load_model
from training import PROJECT, UserError
from training.checkpoints import load_checkpoint, save_checkpoint
from training.loop import epoch_line

ROW = {"epoch": 1, "train_loss": 0.5, "valid_loss": 0.25}
PLAIN = {"model": "AE", "config": {"size": 1}, "data": {"name": "x"}, "settings": {"lr": 1.0}, "history": [ROW], **ROW}
GIB = 2**30


class Code:
    """What runs os.mkdir where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("code was run",)


def saved(suffix, tmp_path, state_dict=None):
    """The bytes of a small checkpoint."""
    weights = [np.arange(6, dtype=np.float32).reshape(2, 3)] if suffix == ".pkl" else torch.arange(6.0).view(2, 3)
    path = tmp_path / f"whole{suffix}"
    save_checkpoint(path, {**PLAIN, "state_dict": state_dict or {"w": weights}})
    return path.read_bytes()


def hostile(suffix):
    """A small checkpoint with code in it."""
    checkpoint = {**PLAIN, "state_dict": {"w": Code()}}
    if suffix == ".pkl":
        return pickle.dumps(checkpoint, protocol=4)
    file = io.BytesIO()
    torch.save(checkpoint, file)
    return file.getvalue()


def mutate(data, cuts):
    """Each cut (where, how many bytes go, which bytes come, from where bytes are copied) changes a place."""
    data = bytearray(data)
    for where, gone, come, copied in cuts:
        i, j = int(where * len(data)), int(copied * len(data))
        data[i : i + gone] = come if come else data[j : j + gone]
    return bytes(data)


share = st.floats(0, 1, exclude_max=True)
cuts = st.lists(st.tuples(share, st.integers(0, 40), st.binary(max_size=8), share), min_size=1, max_size=4)


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_two_thousand_damaged_checkpoints_run_nothing_and_are_one_line(suffix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    originals = saved(suffix, tmp_path), hostile(suffix)
    path, count = tmp_path / f"damaged{suffix}", {"refused": 0, "read": 0}

    @settings(max_examples=1000, deadline=5000, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(originals), cuts, share)
    def check(original, cuts, kept):
        data = mutate(original, cuts)
        path.write_bytes(data[: int(2 * kept * len(data))])  # half of them are truncated too
        try:
            checkpoint = load_checkpoint(path, made_by="test")
        except UserError as error:
            assert str(error).isprintable()
            assert len(str(error)) < 2000
            count["refused"] += 1
        else:
            assert epoch_line(checkpoint["history"]).isprintable()
            count["read"] += 1

    check()
    assert not (tmp_path / "code was run").exists()
    assert count["refused"] >= 500
    assert sum(count.values()) >= 1000


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_code_is_refused_by_name(suffix, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"a{suffix}").write_bytes(hostile(suffix))
    with pytest.raises(UserError, match="not a readable checkpoint of this project .*mkdir"):
        load_checkpoint(tmp_path / f"a{suffix}", made_by="test")
    assert not (tmp_path / "code was run").exists()


def claims(tmp_path):
    """{what it claims: (file name, bytes)}, each small, and meant to take 2 GiB or for ever."""
    whole = saved(".pth", tmp_path)
    squeezed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(squeezed, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, bytes(200 * 2**20) if "/data/" in entry.filename else old.read(entry))
    posing = {"w": torch.zeros(1).expand(2**15, 2**14)}
    stretched = io.BytesIO()
    torch.save({**PLAIN, "state_dict": posing}, stretched)
    nested = "x"
    for _ in range(60):
        nested = [nested, nested]
    array = pickle.dumps({**PLAIN, "state_dict": {"w": [np.zeros(3, np.float32)]}}, protocol=4)
    return {
        "bytes": ("a.pkl", b"\x80\x04\x8e" + struct.pack("<Q", 2 * GIB) + b"x."),
        "text": ("a.pkl", b"\x80\x04\x8d" + struct.pack("<Q", 2 * GIB) + b"x."),
        "a frame": ("a.pkl", b"\x80\x04\x95" + struct.pack("<Q", 2 * GIB) + b"N."),
        "a table of objects": ("a.pkl", b"\x80\x04Nr" + struct.pack("<I", 2**31 - 1) + b"."),
        "a larger array": ("a.pkl", array.replace(b"K\x03\x85", b"J" + struct.pack("<i", 2**29) + b"\x85", 1)),
        "lists in lists": ("a.pkl", pickle.dumps({**PLAIN, "state_dict": {}, "config": {"size": nested}}, protocol=4)),
        "compressed zeros": ("a.pth", squeezed.getvalue()),
        "one number for many": ("a.pth", stretched.getvalue()),
    }


# says of each file whether it is refused, then the seconds and the most memory that it took, in KiB; not ru_maxrss,
# which begins with the memory of the process that started this one
LOAD = """
import re, sys, time, torch
from pathlib import Path
from training import UserError
from training.checkpoints import load_checkpoint
def peak():
    return int(re.search("VmHWM:[^0-9]*([0-9]+)", Path("/proc/self/status").read_text())[1])
started, imported = time.monotonic(), peak()
for name in sys.argv[1:]:
    try:
        load_checkpoint(Path(name), made_by="test")
        print("read", name)
    except UserError as error:
        print("refused", error)
print(time.monotonic() - started, peak() - imported)
"""


def test_small_files_that_claim_to_be_large_take_neither_memory_nor_time(tmp_path):
    files = []
    for claim, (name, data) in claims(tmp_path).items():
        assert len(data) < 2**20
        files.append(tmp_path / f"{claim}{name[1:]}")
        files[-1].write_bytes(data)
    status, out, errors = run([sys.executable, "-c", LOAD, *files], cwd=PROJECT)
    assert status == 0, errors
    *lines, last = out.splitlines()
    assert len(lines) == len(files)
    assert all(line.startswith("refused") for line in lines), lines
    seconds, kib = map(float, last.split())
    assert seconds < 10
    assert kib < 100_000


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")  # to open it would wait for ever
    (tmp_path / "endless.pth").symlink_to("/dev/zero")
    for path in (tmp_path, tmp_path / "pipe.pth", tmp_path / "endless.pth"):
        with pytest.raises(UserError, match="is not a file; make it with test"):
            load_checkpoint(path, made_by="test")


def of_images(*size):
    """Changes of a VAE's checkpoint to one of larger images."""
    return {"config": {"img_height": size[0], "img_width": size[1]}, "data": {"image_size": [*size]}}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("AE", {"config": {"encoding_dim": 10**9}}),  # layers larger than the file
        ("VAE", of_images(1024, 1024)),
        ("VAE", of_images(10**6, 10**6)),
        ("MNIST_CVAE", {"config": {"hidden_size": 10**7, "latent_size": 10**7}}),
        ("MLPAE", {"config": {"image_size": [1024, 1024]}, "data": {"image_size": [1024, 1024]}}),
        ("MLPAE", {"config": {"image_size": [10**5, 10**5]}, "data": {"image_size": [10**5, 10**5]}}),
        ("VAE", {"data": {"image_size": []}}),
        ("VAE", {"data": {"image_size": ["a", "b"]}}),
        ("VAE", {"data": {"image_size": [300_000, 300_000]}}),
        ("VAE", {"data": {"split_seed": -1}}),
        ("VAE", {"data": {"split_seed": None}}),
        ("VAE", {"data": {"name": "a\n\x1b[2J"}}),
        ("VAE", {"data": {"name": "x" * 10**6}}),
        ("VAE", {"data": {"classes": [1]}}),
        ("MNIST_VAE", {"settings": {"recon": "x"}}),
        ("MNIST_VAE", {"settings": {"samples": "5"}}),
        ("MNIST_VAE", {"settings": {"samples": None}}),
        ("MNIST_VAE", {"settings": {"samples": 10**12}}),
        ("VAE", {"settings": {"lr": float("nan")}}),
        ("VAE", {"history": [{**ROW, "train_loss": torch.tensor(0.5)}]}),
        ("VAE", {"history": [{**ROW, "valid_loss": 10**400}]}),
        ("VAE", {"history": [{**ROW, "valid_\x1b[2J": 1.0}]}),
        ("VAE", {"history": [ROW, {**ROW, "valid_kl": 1.0}]}),
        ("VAE", {"state_dict": {"log_var.bias": torch.full((64,), float("nan"))}}),
    ],
)
def test_what_a_checkpoint_says_of_itself_is_checked_before_it_is_used(name, changes, tmp_path):
    checkpoint, path = best_checkpoint(PROJECT, name), tmp_path / "models" / checkpoint_file(name)
    for entry, change in changes.items():
        checkpoint[entry] = change if isinstance(change, list) else {**checkpoint[entry], **change}
    path.parent.mkdir()
    save_checkpoint(path, checkpoint)
    started = time.monotonic()
    with pytest.raises(UserError, match=f"{path} ") as error:
        load_model(name, tmp_path)
    assert time.monotonic() - started < 5  # and so no layer was built
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 2000


@pytest.mark.parametrize(
    ("name", "entry", "setting"),
    [("MNIST_AE", "settings", "beta"), ("MNIST_VAE", "settings", "beta"), ("MNIST_VAE", "config", "hidden_size")],
)
def test_a_checkpoint_that_lacks_a_setting_is_refused(name, entry, setting, tmp_path):
    checkpoint, path = best_checkpoint(PROJECT, name), tmp_path / "models" / checkpoint_file(name)
    del checkpoint[entry][setting]
    path.parent.mkdir()
    save_checkpoint(path, checkpoint)
    with pytest.raises(UserError, match=f"{path} .*{setting}"):
        load_model(name, tmp_path)


def test_a_cut_or_foreign_last_state_is_not_resumed(tiny_flowers, tmp_path):
    path, whole = tmp_path / "models" / "LastModel_AE.pth", saved(".pth", tmp_path)
    path.parent.mkdir()
    torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    flags = ["--model", "AE", "--data-root", tiny_flowers, "--output-root", tmp_path, "--image-size", 8, "--resume"]
    for content in (path.read_bytes(), whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="LastModel_AE.pth is not a readable checkpoint") as error:
            logged(train_script.main, *flags)
        assert str(error.value).isprintable()  # and so one line
