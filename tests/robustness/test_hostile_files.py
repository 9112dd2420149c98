"""Files from untrusted sources: damaged, swapped, or made to run code, to hang or to fill the memory."""

import io
import os
import pickle
import shutil
import struct
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import train_script
import visualization
from evaluation.models import load_model
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


def hostile(suffix, tmp_path):
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
    originals = saved(suffix, tmp_path), hostile(suffix, tmp_path)
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
    (tmp_path / f"a{suffix}").write_bytes(hostile(suffix, tmp_path))
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


def test_small_files_that_claim_to_be_large_take_neither_memory_nor_time(tmp_path):
    code = "import re, sys, time, torch; from pathlib import Path; from training import UserError\n"
    code += "from training.checkpoints import load_checkpoint\n"
    code += "started = time.monotonic()\n"
    code += "for name in sys.argv[1:]:\n"
    code += "    try: load_checkpoint(Path(name), made_by='test'); print('read', name)\n"
    code += "    except UserError as error: print('refused', error)\n"
    # not ru_maxrss, which begins with the memory of the process that started this one
    code += "peak = re.search('VmHWM:[^0-9]*([0-9]+)', Path('/proc/self/status').read_text())[1]\n"
    code += "print(time.monotonic() - started, peak)"
    files = []
    for claim, (name, data) in claims(tmp_path).items():
        assert len(data) < 2**20
        files.append(tmp_path / f"{claim}{name[1:]}")
        files[-1].write_bytes(data)
    argv = [sys.executable, "-c", code, *map(str, files)]
    done = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, timeout=60)
    *lines, last = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert len(lines) == len(files)
    assert all(line.startswith("refused") for line in lines), lines
    seconds, peak = map(float, last.split())
    assert seconds < 10
    assert peak < 1_000_000  # KiB; importing PyTorch alone takes 300,000


def test_layers_larger_than_the_file_are_never_built(tmp_path):
    (tmp_path / "models").mkdir()
    for name, config in (
        ("AE", {"encoding_dim": 10**9}),
        ("VAE", {"encoding_dim": 64, "img_height": 10**6, "img_width": 10**6}),
        ("MNIST_CVAE", {"hidden_size": 10**7, "latent_size": 10**7}),
        ("MLPAE", {"image_size": [10**5, 10**5]}),
    ):
        suffix = ".pkl" if name == "MLPAE" else ".pth"
        checkpoint = load_checkpoint(PROJECT / "models" / f"BestModel_{name}{suffix}", made_by="test")
        save_checkpoint(tmp_path / "models" / f"BestModel_{name}{suffix}", {**checkpoint, "config": config})
        started = time.monotonic()
        with pytest.raises(UserError, match=f"does not describe the model {name}"):
            load_model(name, tmp_path)
        assert time.monotonic() - started < 5


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")  # to open it would wait for ever
    (tmp_path / "endless.pth").symlink_to("/dev/zero")
    for path in (tmp_path, tmp_path / "pipe.pth", tmp_path / "endless.pth"):
        with pytest.raises(UserError, match="is not a file; make it with test"):
            load_checkpoint(path, made_by="test")


@pytest.mark.parametrize(
    ("entry", "change"),
    [
        ("data", {"image_size": []}),
        ("data", {"image_size": ["a", "b"]}),
        ("data", {"image_size": [300_000, 300_000]}),
        ("data", {"split_seed": -1}),
        ("data", {"split_seed": None}),
        ("data", {"name": "a\n\x1b[2J"}),
        ("data", {"name": "x" * 10**6}),
        ("settings", {"lr": float("nan")}),
        ("history", [{**ROW, "valid_loss": 10**400}]),
        ("history", [{**ROW, "valid_\x1b[2J": 1.0}]),
        ("history", [ROW, {**ROW, "valid_kl": 1.0}]),
        ("state_dict", {"log_var.bias": torch.full((64,), float("nan"))}),
    ],
)
def test_what_a_checkpoint_says_of_itself_is_checked_before_it_is_used(entry, change, tmp_path):
    checkpoint = load_checkpoint(PROJECT / "models" / "BestModel_VAE.pth", made_by="test")
    changed = change if isinstance(change, list) else {**checkpoint[entry], **change}
    (tmp_path / "models").mkdir()
    save_checkpoint(tmp_path / "models" / "BestModel_VAE.pth", {**checkpoint, entry: changed})
    with pytest.raises(UserError) as error:
        visualization.main(["--model", "VAE", "--data", "synthetic", "--output-root", str(tmp_path)])
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 2000
    assert list(tmp_path.rglob("*.png")) == []


def test_a_last_state_that_is_cut_or_another_kind_of_file_is_one_line(trained_flowers, tiny_flowers, tmp_path):
    shutil.copytree(trained_flowers[0] / "models", tmp_path / "models")
    path, flags = tmp_path / "models" / "LastModel_AE.pth", ["--model", "AE", "--image-size", 12, 16, "--epochs", 3]
    flags += ["--encoding-dim", 8, "--data-root", tiny_flowers, "--output-root", tmp_path, "--resume"]
    for content in (path.read_bytes()[:5000], path.with_name("BestModel_AE.pth").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(UserError, match="LastModel_AE.pth") as error:
            train_script.main(list(map(str, flags)))
        assert str(error.value).isprintable()


def test_another_versions_checkpoint_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "a.pth")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"encoder": [np.zeros(2)]}))
    for name in ("a.pth", "a.pkl"):
        with pytest.raises(UserError, match="it has no model"):
            load_checkpoint(tmp_path / name, made_by="test")
