"""Checkpoints: written whole or not at all, and read without running what a hostile file may hold.

    save_checkpoint(path, {"model": "AE", "config": {...}, "state_dict": {...}, ...})
    checkpoint = load_checkpoint(path, made_by="`python train_script.py --model AE`")

A checkpoint is a dict of plain values; the weights are NumPy arrays in a `.pkl` file, tensors in a `.pth` file.
"""

import contextlib
import errno
import io
import math
import os
import pickle
import pickletools
import re
import warnings
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np

ENTRIES = {"model": str, "config": dict, "data": dict, "settings": dict, "history": list, "state_dict": dict}
WEIGHTS = ("state_dict", "in_training", "optimizer", "scheduler", "film")  # entries that hold arrays or tensors
MOST_VALUES = 1_000_000  # in the others; a run of 10,000 epochs has 100,000
MOST_LETTERS = 1000  # of a name in them
# what a training changes in an optimizer's and a scheduler's state beside tensors
CHANGING = {"lr", "betas", "momentum", "last_epoch", "_last_lr", "_step_count"}


class UserError(ValueError):
    """Something the user can mend: scripts print it as one line and exit with status 1."""


def printable(text) -> str:
    """Without line breaks and control characters, which names of files and what is in them may hold."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text))


# ---------------------------------------------------------------- writing


@contextmanager
def atomic_write(path: Path):
    """A binary file to write to that takes the place of `path` at the end, whole or not at all. Raises UserError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        old = "; the old file is whole" if path.exists() else ""
        raise UserError(f"cannot write {path} ({error.strerror or error}){old}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def save_checkpoint(path: Path, checkpoint: dict) -> None:
    """Write plain Python values and NumPy arrays (.pkl) or tensors (.pth). Raises UserError."""
    with atomic_write(path) as file:
        if path.suffix == ".pkl":
            pickle.dump(checkpoint, file, protocol=4)  # 5 would shut out NumPy 1.26
        else:
            import torch

            whole = io.BytesIO()  # PyTorch's own writer hides the reason where a disk is full
            torch.save(checkpoint, whole)
            file.write(whole.getbuffer())


@contextmanager
def hold(folder: Path, model: str):
    """Keep other runs from writing the checkpoints of a model in a folder. Raises UserError where one does already.

    The lock is on a file that stays; the system frees it when the process ends, however it ends. What a run that was
    killed left half written is removed.
    """
    path = folder / f"LastModel_{model}.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror})") from None
    with open(path, "r+") as file:
        try:
            _lock(file)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                advice = "wait until it ends, or give this one another folder with --output-root"
                raise UserError(f"another run is training {model} in {folder}: {advice}") from None
            # else a file system without locks: nothing to be done about it
        for left in folder.glob(f".*Model_{model}.p*.tmp"):
            left.unlink(missing_ok=True)
        yield


def _lock(file):
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


# ---------------------------------------------------------------- reading


def load_checkpoint(path: Path, made_by: str) -> dict:
    """Read what `save_checkpoint` wrote, without running any code that a hostile file may hold, and in memory of about
    the file's size. What it returns has the entries that `fit` saves, of their types.

    made_by: what makes the file, for the error message. Raises UserError.
    """
    if not path.is_file():
        problem = "is not a file" if path.exists() else "does not exist"
        raise UserError(f"{path} {problem}; make it with {made_by}")
    try:
        data = path.read_bytes()
        checkpoint = _read_arrays(data) if path.suffix == ".pkl" else _read_tensors(data)
        _check(checkpoint)
        if path.suffix == ".pth":
            for name in ("state_dict", "in_training"):
                _check_tensors(checkpoint.get(name, {}).values(), len(data))
    except Exception as error:  # a damaged file can make the readers raise almost anything
        reason = printable(str(error).partition("\n")[0].partition(". ")[0])[:MOST_LETTERS]
        problem = f"is not a readable checkpoint of this project ({type(error).__name__}: {reason})"
        raise UserError(f"{path} {problem}; make it anew with {made_by}") from None
    return checkpoint


def _read_tensors(data):
    import torch

    with zipfile.ZipFile(io.BytesIO(data)) as archive:  # PyTorch does not compress: a small file that unpacks to a
        unpacked = sum(entry.file_size for entry in archive.infolist())  # large one is meant to fill the memory
    if unpacked > len(data):
        raise ValueError(f"its {len(data)} bytes claim to be {unpacked}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is wrong with the file is an error, one line
        try:
            return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:  # its first lines are about switching this protection off
            reason = re.search("(WeightsUnpickler error|Trying to load).*", str(error))
            raise pickle.UnpicklingError(reason[0] if reason else error) from None


def _read_arrays(data):
    for opcode, argument, _ in pickletools.genops(data):
        if "PUT" in opcode.name and argument is not None and argument > len(data):  # the length of a table of objects
            raise ValueError(f"its {len(data)} bytes claim to hold {argument} objects")
    return _ArrayUnpickler(io.BytesIO(data)).load()


def _check(checkpoint):
    """Raise ValueError where a checkpoint lacks what `fit` saves: no code is to work on what a stranger made up."""
    if not isinstance(checkpoint, dict):
        raise ValueError("it holds no dict")
    check_types(checkpoint, ENTRIES)
    _check_plain({name: value for name, value in checkpoint.items() if name not in WEIGHTS})
    history = checkpoint["history"]
    best = [{name: checkpoint.get(name) for name in history[0]}] if "epoch" in checkpoint else []
    for row in (*history, *best):
        if not {"epoch", "train_loss", "valid_loss"} <= row.keys() == history[0].keys():
            raise ValueError("its history lacks losses")
        if not all(type(number) in (int, float) for number in row.values()):
            raise ValueError("its history holds what is no number")


def check_types(found: dict, expected: dict) -> None:
    """Raise ValueError unless the dict has entries of the types in {name: type}."""
    for name, kind in expected.items():
        if not isinstance(found.get(name), kind):
            raise ValueError(f"it has no {name}, or not of the type {kind.__name__}")


def take_over(found, expected, may_differ: bool = False):
    """`found`, of a stranger's file, with its tensors laid out in memory as those of `expected`.

    Raises ValueError unless it is what `expected` can become in a training: the same entries of the same types, tensors
    of the same shapes, and the same values but of the entries in CHANGING. PyTorch's own loading takes any shape and
    layout, and its fused optimizers trust them.
    """
    if type(found) is not type(expected):
        raise ValueError(f"expected a {type(expected).__name__}, found a {type(found).__name__}")
    if isinstance(expected, dict):
        if found.keys() != expected.keys():
            raise ValueError(f"expected the entries {list(expected)}, found others")
        return {name: take_over(found[name], expected[name], may_differ or name in CHANGING) for name in expected}
    if isinstance(expected, (list, tuple)):
        if len(found) != len(expected):
            raise ValueError(f"expected {len(expected)} entries, found {len(found)}")
        return type(expected)(take_over(*pair, may_differ) for pair in zip(found, expected, strict=True))
    if hasattr(expected, "dtype"):
        kinds = [f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in (expected, found)]
        if kinds[0] != kinds[1]:
            raise ValueError(f"expected a tensor of {kinds[0]}, found one of {kinds[1]}")
        return expected.clone().copy_(found)
    if found != expected and not (may_differ and math.isfinite(found)):
        raise ValueError(f"expected {expected}, found {found}")
    return found


def _check_plain(value):
    """Raise ValueError unless it is made of dicts, lists, strings and numbers, none too many, too long or too large."""
    todo, count = [value], 0
    while todo:
        value = todo.pop()
        if isinstance(value, (dict, list, tuple)):
            inside = [*value, *value.values()] if isinstance(value, dict) else value
            count += len(inside)
            if count > MOST_VALUES:
                raise ValueError(f"it holds more than {MOST_VALUES} values")
            todo += inside
        elif isinstance(value, str):
            if len(value) > MOST_LETTERS or not value.isprintable():
                raise ValueError(f"it holds a text of {len(value)} letters or with control characters")
        elif isinstance(value, (int, float)):
            if not abs(value) < 2**63:
                raise ValueError("it holds a number that is none, or 2^63 or more")
        elif value is not None:
            raise ValueError(f"it holds a {type(value).__name__} where only weights are arrays")


def _check_tensors(weights, size):
    import torch

    if not all(isinstance(weight, torch.Tensor) and weight.layout is torch.strided for weight in weights):
        raise ValueError("its weights are not tensors")
    if sum(weight.numel() * weight.element_size() for weight in weights) > size:
        raise ValueError("its weights claim to be more than the file holds")  # one number can pose as many
    if not all(weight.isfinite().all() for weight in weights):
        raise ValueError("its weights are not finite")


class _ArrayUnpickler(pickle.Unpickler):
    """Reads plain Python values and arrays. A pickle names the functions that rebuild its objects, with any arguments
    it likes; NumPy's own would build arrays of pointers from bytes, so stand-ins of ours take their place."""

    def load(self):
        return _unwrap(super().load(), {})

    def find_class(self, module, name):
        if (module, name) == ("numpy", "dtype"):
            return _DType
        if (module, name) == ("numpy", "ndarray") or (module.startswith("numpy.") and name == "_reconstruct"):
            return _Array
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


class _DType:
    """What a pickle says of a dtype: its kind and size, then (by __setstate__) its byte order."""

    def __init__(self, name, *_):
        self.name, self.order = name, "="

    def __setstate__(self, state):
        self.order = state[1]

    def checked(self):
        if self.name not in ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"):
            raise pickle.UnpicklingError(f"it holds an array of {self.name}")
        return np.dtype(self.name).newbyteorder(self.order)


class _Array:
    """What a pickle says of an array; the array is made from its bytes alone."""

    def __init__(self, *_):
        self.array = None

    def __setstate__(self, state):
        _, shape, dtype, is_fortran, data = state
        if not isinstance(data, bytes):
            raise pickle.UnpicklingError("it holds an array of objects")
        order = "F" if is_fortran else "C"
        self.array = np.ndarray(shape, dtype.checked(), data, order=order).copy(order)


def _unwrap(value, seen):
    """Put the arrays into the place of their stand-ins. seen: {id: what it became}, as one list may be in many."""
    if isinstance(value, _Array):
        return value.array
    if isinstance(value, (dict, list, tuple)) and id(value) not in seen:
        if isinstance(value, dict):
            seen[id(value)] = {key: _unwrap(item, seen) for key, item in value.items()}
        else:
            seen[id(value)] = type(value)(_unwrap(item, seen) for item in value)
    return seen.get(id(value), value)
