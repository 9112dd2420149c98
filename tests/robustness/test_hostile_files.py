"""Files from untrusted sources: damaged, swapped, or made to run code, to hang or to fill the memory."""

import io
import multiprocessing
import os
import pickle
import re
import resource
import struct
import time
import zipfile
from collections import OrderedDict
from unittest.mock import ANY

import numpy as np
import pytest
import torch
from helpers import logged
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image

import train_script
from common import UserError
from common.checkpoints import load_checkpoint, save_checkpoint
from common.run import epoch_line
from datasets.flowers import open_photograph
from grading import limits
from grading.limits import run_limited
from trained.loading import load_model
from trained.registry import MODELS, checkpoint_file

ROW = {"epoch": 1, "train_loss": 0.5, "valid_loss": 0.25}
PLAIN = {"model": "AE", "config": {"size": 1}, "data": {"name": "x"}, "settings": {"lr": 1.0}, "history": [ROW], **ROW}
GIB = 2**30


class Call:
    """Pickles as a call of a function: its arguments, and the state of what it returns."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


def saved(suffix, weights, state_dict=None, **changes):
    """The bytes of a small checkpoint with these weights."""
    checkpoint = {**PLAIN, "state_dict": state_dict or {"w": weights}, "seed": 0, **changes}
    if suffix == ".pkl":
        return pickle.dumps(checkpoint, protocol=4)
    file = io.BytesIO()
    torch.save(checkpoint, file)
    return file.getvalue()


def mutate(data, cuts):
    """Each cut (where, how many bytes go, which bytes come, from where bytes are copied) changes a place."""
    data = bytearray(data)
    for where, gone, come, copied in cuts:
        i = int(where * len(data))
        j = int(copied * len(data))
        data[i : i + gone] = come or data[j : j + gone]
    return bytes(data)


share = st.floats(0, 1, exclude_max=True)
cuts = st.lists(st.tuples(share, st.integers(0, 40), st.binary(max_size=8), share), min_size=1, max_size=4)


def load_damaged(originals, path, allowed):
    """Load many damaged copies, each an error of one line or a checkpoint; returns how many are refused."""
    refused = []

    @settings(max_examples=300, deadline=5000, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(originals), cuts, share)
    def check(original, cuts, kept):
        data = mutate(original, cuts)
        path.write_bytes(data[: int(2 * kept * len(data))])  # half of them are truncated too
        try:
            checkpoint = load_checkpoint(path, made_by="test")
        except allowed as error:
            assert str(error).isprintable()
            assert len(str(error)) < 2000
            refused.append(error)
        else:
            assert epoch_line(checkpoint["history"]).isprintable()

    check()
    return len(refused)


@pytest.mark.parametrize("suffix", [".pkl", ".pth"])
def test_damaged_checkpoints_and_code_run_nothing_and_are_one_line(suffix, tmp_path, monkeypatch):
    """In a process with limits, as a damaged length can ask for any memory."""
    monkeypatch.chdir(tmp_path)
    weights = [np.arange(6, dtype=np.float32).reshape(2, 3)] if suffix == ".pkl" else torch.arange(6.0).view(2, 3)
    code = saved(suffix, Call(os.mkdir, ("code was run",)))
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(code)
    with pytest.raises(UserError, match="not a readable checkpoint of this project .*mkdir"):
        load_checkpoint(path, made_by="test")
    [(_, refused)] = run_limited(load_damaged, [([saved(suffix, weights), code], path, (UserError, MemoryError))], 1)
    assert not (tmp_path / "code was run").exists()
    assert refused > 100, refused


REBUILD = np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b")
FORGED = {
    "pointers": Call(np.ndarray, ((1,), "O", b"A" * 8)),
    "a claim of terabytes": Call(np.ndarray, ((1 << 40,), "f4")),
    "dtype": Call(np.dtype, ("O",)),
    "state of pointers": Call(*REBUILD, (1, (1,), Call(np.dtype, ("O",)), False, b"A" * 8)),
    "too few bytes": Call(*REBUILD, (1, (9,), np.dtype("f4"), False, b"A" * 8)),
    "a list": Call(*REBUILD, (1, (1,), np.dtype("f4"), False, [1.0])),
    "objects": np.array([Call(os.mkdir, ("nowhere",))], dtype=object),
    "scalar": np.float64(1.0),
}


@pytest.mark.parametrize("forged", FORGED)
def test_a_forged_array_is_never_built(tmp_path, forged):
    path = tmp_path / "a.pkl"
    path.write_bytes(saved(".pkl", FORGED[forged]))
    try:
        loaded = load_checkpoint(path, made_by="test")["state_dict"]["w"]
    except UserError:
        return
    assert not isinstance(loaded, np.ndarray)


# ---------------------------------------------------------------- what grading them costs

MIB = 2**20
NESTED = "x"
for _ in range(60):
    NESTED = [NESTED, NESTED]


def with_record(data, size):
    """A .pth file whose weights are compressed zeros, of so many bytes."""
    squeezed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(data)) as old,
        zipfile.ZipFile(squeezed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new,
    ):
        for entry in old.infolist():
            new.writestr(entry.filename, bytes(size) if "/data/" in entry.filename else old.read(entry))
    return squeezed.getvalue()


def pickled(**changes):
    return pickle.dumps({**PLAIN, "state_dict": {}, "seed": 0, **changes}, protocol=4)


ATTRIBUTES = Call(
    torch._tensor._rebuild_from_type_v2, (torch.zeros, torch.Tensor, ((3,),), {"isfinite": 3, "float": 4})
)
VALUES = Call(OrderedDict, (), {"values": 5, "items": 6, "keys": 7})
CLAIMS = {  # {file: (what it holds, or what makes it; what the answer is)}; the limits are 256 MiB and 2 s
    "bytes.pkl": (b"\x80\x04\x8e" + struct.pack("<Q", 2 * GIB) + b"x.", "more than"),
    "text.pkl": (b"\x80\x04\x8d" + struct.pack("<Q", 2 * GIB) + b"x.", "not a readable checkpoint"),
    "a frame.pkl": (b"\x80\x04\x95" + struct.pack("<Q", 2 * GIB) + b"N.", "not a readable checkpoint"),
    "a table of objects.pkl": (b"\x80\x04Nr" + struct.pack("<I", 2**31 - 1) + b".", "more than"),
    "empty sets.pkl": (b"\x80\x04(" + 4_000_000 * b"\x8f" + b"l.", "more than"),
    "a list in a list.pkl": (b"\x80\x04" + 100_000 * b"]" + 99_999 * b"a" + b".", "not a readable checkpoint"),
    "lists in lists.pkl": (pickled(config={"size": NESTED}), "holds the best state of AE, expected the best of MLPAE"),
    "compressed zeros.pth": (lambda: with_record(saved(".pth", torch.zeros(6)), 600 * MIB), "more than"),
    "one number for many.pth": (lambda: saved(".pth", torch.zeros(1).expand(2**15, 2**15)), "more than"),
    "attributes of a tensor.pth": (lambda: saved(".pth", ATTRIBUTES), "not a readable checkpoint"),
    "attributes of a dict.pth": (lambda: saved(".pth", torch.zeros(1), VALUES), "not a readable checkpoint"),
    "a word.pth": (lambda: saved(".pth", torch.zeros(1), model="out of memory"), "the best state of out of memory"),
}


def load(path):
    """In a process of its own: what grading does first."""
    name = "MLPAE" if path.suffix == ".pkl" else "AE"
    (path.parent / path.stem / "models").mkdir(parents=True)
    path.rename(path.parent / path.stem / "models" / checkpoint_file(name))
    load_model(name, path.parent / path.stem)


@pytest.fixture
def small_limits(monkeypatch):
    monkeypatch.setattr(limits, "MEMORY", 256 * MIB)
    monkeypatch.setattr(limits, "SECONDS", 2)


def test_a_hostile_file_costs_one_line_and_no_more_than_the_limits(tmp_path, small_limits):
    for name, (content, _) in CLAIMS.items():
        (tmp_path / name).write_bytes(content() if callable(content) else content)
    paths = [tmp_path / name for name in CLAIMS]
    assert sum(path.stat().st_size for path in paths) < 20 * MIB
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    answers = dict(run_limited(load, [(path,) for path in paths], 2))
    for number, (name, (_, words)) in enumerate(CLAIMS.items()):
        assert isinstance(answers[number], UserError), name
        assert str(answers[number]).isprintable()
        assert re.search(words, str(answers[number])), (name, answers[number])
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 2 * len(CLAIMS)


def allocate(count):
    return len(bytearray(count * MIB))


def compute_for_ever():
    while True:
        pass


def wait_for_ever():
    time.sleep(1000)


def end():
    os._exit(3)


def fail(text):
    raise KeyError(text)


def test_a_task_beyond_a_limit_costs_its_own_answer_alone(small_limits, monkeypatch):
    monkeypatch.setattr(limits, "WAITING", 2)
    assert dict(run_limited(allocate, [(100,), (600,), (20,)], 2)) == {0: 100 * MIB, 1: ANY, 2: 20 * MIB}
    expected = {
        (allocate, 600): "needs more than 1.5 GB$",
        (compute_for_ever,): "takes more than 60 s",
        (wait_for_ever,): "takes more than 60 s",
        (end,): "needs more than 1.5 GB, or its process was ended .status 3",
        (fail, "x\x1b[2J"): r"KeyError: 'x\\x1b\[2J'",
    }
    started = time.monotonic()
    for (function, *task), words in expected.items():
        [(_, answer)] = run_limited(function, [tuple(task)], 1)
        assert re.match(words, str(answer))
    assert time.monotonic() - started < 30
    assert multiprocessing.active_children() == []


# ---------------------------------------------------------------- photographs


def iptc_of(content):
    """A container of IPTC, whose image Pillow would open by its own format."""

    def record(number, data):
        return b"\x1c\x03" + bytes([number]) + struct.pack(">H", len(data)) + data

    layers = record(60, b"\x01\x00") + record(20, b"\0\0\0\x18") + record(30, b"\0\0\0\x18")
    return layers + record(120, b"\x01") + b"\x1c\x08\x0a" + struct.pack(">H", len(content)) + content


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 24 24\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize("content", [EPS, iptc_of(EPS), b"\xd7\xcd\xc6\x9a" + bytes(100)])
def test_no_program_is_taken_for_a_photograph(content, tmp_path, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("Ghostscript was called"))
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UserError):
        open_photograph(tmp_path / "a.jpg", 24, 24)


def test_the_size_of_a_photograph_is_limited_before_it_is_reduced(tmp_path):
    Image.new("L", (8000, 8000)).save(tmp_path / "large.jpg")  # to one eighth, it would be one megapixel
    with pytest.raises(UserError, match="8000x8000 pixels are too many"):
        open_photograph(tmp_path / "large.jpg", 24, 24)
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(UserError, match="not a file"):
        open_photograph(tmp_path / "pipe.jpg", 24, 24)


# ---------------------------------------------------------------- checkpoints that contradict themselves


def test_only_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.pth")  # to open it would wait for ever
    (tmp_path / "endless.pth").symlink_to("/dev/zero")
    for path in (tmp_path, tmp_path / "pipe.pth", tmp_path / "endless.pth"):
        with pytest.raises(UserError, match="is not a file; make it with test"):
            load_checkpoint(path, made_by="test")


CONFIG = {"encoding_dim": 8, "img_height": 8, "img_width": 8, "image_size": [8, 8], "hidden_size": 16, "latent_size": 3}
CONFIG |= {"classes": 3, "class_prior": [0.25, 0.25, 0.5]}


def make_checkpoint(name):
    """The checkpoint of an untrained model."""
    entry = MODELS[name]
    config = {argument: CONFIG[argument] for argument in entry.config}
    size = [8, 8] if entry.data == "flowers" else [28, 28]
    data = {"name": entry.data, "classes": ["a", "b", "c"], "images": 60, "image_size": size, "split_seed": 0}
    data["fingerprint"] = "0123456789abcdef"
    weights = entry.build(**config).state_dict()
    return {**PLAIN, "model": name, "config": config, "data": data, "seed": 0, "state_dict": weights}


def of_size(*size):
    """Changes of a checkpoint of photographs to one of another size."""
    return {"config": {"img_height": size[0], "img_width": size[1]}, "data": {"image_size": [*size]}}


CONTRADICTIONS = [  # a model, changes to the entries of its checkpoint, and what the error names
    ("AE", {"config": {"encoding_dim": 10**8}}, ""),  # layers larger than the file
    ("VAE", of_size(1024, 1024), ""),
    ("VAE", of_size(10**6, 10**6), "1024x1024"),
    ("MNIST_CVAE", {"config": {"hidden_size": 10**7, "latent_size": 10**7}}, ""),
    ("MLPAE", {"config": {"image_size": [10**5, 10**5]}, "data": {"image_size": [10**5, 10**5]}}, "1024x1024"),
    ("VAE", {"data": {"image_size": ["a", "b"]}}, "images"),
    ("VAE", {"data": {"split_seed": -1}}, "split seed"),
    ("AE", {"config": {"encoding_dim": True}}, "encoding_dim"),
    ("VAE", {"data": {"name": "a\n\x1b[2J"}}, "control characters"),
    ("VAE", {"data": {"name": "x" * 10**6}}, "1000000 letters"),
    ("VAE", {"data": {"classes": 3}}, "classes"),
    ("VAE", {"settings": {"lr": float("nan")}}, "number"),
    ("VAE", {"seed": -1}, "seed"),
    ("VAE", {"history": [{**ROW, "train_loss": torch.tensor(0.5)}]}, "Tensor"),
    ("VAE", {"history": [{**ROW, "valid_loss": 10**400}]}, "number"),
    ("VAE", {"history": [{**ROW, "valid_\x1b[2J": 1.0}]}, "control characters"),
    ("VAE", {"state_dict": {"log_var.bias": torch.full((8,), float("nan"))}}, "finite"),
    ("DDPM", {"config": {"class_prior": [1.0, -1.0, 1.0]}}, "probabilities"),
    ("DDPM", {"config": {"class_prior": [0.5, 0.5]}}, "classes"),
    ("DDPM", {"config": {"img_height": 8.0}}, "img_height"),
    ("DDPM", {"config": {"width": 56}}, "width"),
    ("Classifier", {"config": {"classes": 10**9}}, "classes"),
    ("Classifier", {"valid_loss": "high"}, "number"),
]


def write_changed(name, changes, root):
    """The checkpoint of an untrained model, changed and written below a root; returns its path."""
    checkpoint = make_checkpoint(name)
    for entry, change in changes.items():
        checkpoint[entry] = {**checkpoint[entry], **change} if isinstance(change, dict) else change
    path = root / "models" / checkpoint_file(name)
    save_checkpoint(path, checkpoint)
    return path


@pytest.mark.parametrize("name", ["MLPAE", "AE", "VAE", "GAN", "DDPM", "Classifier", "MNIST_CVAE"])
def test_a_checkpoint_that_nobody_changed_is_loaded(name, tmp_path):
    write_changed(name, {}, tmp_path)
    assert load_model(name, tmp_path)[1]["model"] == name


@pytest.mark.parametrize(("name", "changes", "reason"), CONTRADICTIONS)
def test_the_entries_of_a_checkpoint_are_checked_before_any_layer_is_built(name, changes, reason, tmp_path):
    path = write_changed(name, changes, tmp_path)

    with pytest.raises(UserError, match=f"{path} .*{reason}.*; make a new one with `python ") as error:
        load_model(name, tmp_path)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 2000


def test_a_checkpoint_of_another_model_or_of_a_last_state_is_refused(tmp_path):
    path = write_changed("AE", {}, tmp_path)
    path.rename(path.with_name("BestModel_VAE.pth"))
    with pytest.raises(UserError, match="holds the best state of AE, expected the best of VAE; .*--model VAE"):
        load_model("VAE", tmp_path)
    checkpoint = make_checkpoint("AE")
    del checkpoint["epoch"]
    save_checkpoint(path, checkpoint)
    with pytest.raises(UserError, match="holds the last state of AE, expected the best of AE"):
        load_model("AE", tmp_path)


def test_a_cut_or_foreign_last_state_is_not_resumed(tiny_flowers, tmp_path):
    path = tmp_path / "models" / "LastModel_AE.pth"
    path.parent.mkdir()
    torch.save(torch.nn.Linear(2, 2).state_dict(), path)
    whole = saved(".pth", torch.zeros(6))
    flags = ["--model", "AE", "--data-root", tiny_flowers, "--output-root", tmp_path, "--image-size", 8, "--resume"]
    for content in (path.read_bytes(), whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="LastModel_AE.pth is not a readable checkpoint") as error:
            logged(train_script.main, *flags)
        assert str(error.value).isprintable()  # and so one line
