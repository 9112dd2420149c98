"""Checkpoints: written whole or not at all, and read without running what a hostile file may hold.

    save_checkpoint(path, {"model": "AE", "config": {...}, "state_dict": {...}, ...})
    checkpoint = load_checkpoint(path, made_by="`python train_script.py --model AE`")

A checkpoint is a dict of plain values; the weights are NumPy arrays in a `.pkl` file, tensors in a `.pth` file.
"""

import contextlib
import errno
import io
import os
import pickle
import re
import warnings
from contextlib import contextmanager
from filecmp import cmp
from itertools import count
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock, Timeout

from common import UserError, printable
from common.process import OUT_OF_MEMORY

ENTRIES = {
    "model": str,
    "config": dict,
    "data": dict,
    "settings": dict,
    "history": list,
    "state_dict": dict,
    "seed": int,
}
WEIGHTS = ("state_dict", "raw_state_dict", "averaged", "optimizer", "scheduler")  # entries that hold arrays or tensors
DTYPES = ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)  # of network drives; for ENOSYS filelock has another lock
MAX_STRING = 1000  # letters of a text in the other entries, and of an error message


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
            whole = io.BytesIO()  # PyTorch's own writer hides the reason where a disk is full
            torch.save(checkpoint, whole)
            file.write(whole.getbuffer())


@contextmanager
def run_lock(folder: Path, model: str):
    """Keep other runs from writing the checkpoints of a model in a folder, and remove the half-written files of a
    killed run. The system frees the lock when the process ends, however it ends. Raises UserError where another run
    has the lock. A drive without locks is a warning."""
    lock = FileLock(folder / f"LastModel_{model}.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        advice = "wait until it ends, or choose another folder for this one with --output-root"
        remedy = "if this command has emptied the log of that run, then its command with --resume prints it all again"
        raise UserError(f"another run is training {model} in {folder}: {advice}; {remedy}") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise UserError(f"cannot write to {folder} ({error.strerror})") from None
        problem = f"the drive of {folder} has no locks ({error.strerror})"
        warnings.warn(f"{problem}: do not start two trainings of {model} there at once", stacklevel=4)
    try:
        for left in folder.glob(f".*Model_{model}.p*.tmp"):
            left.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def keep_copies(paths: list[Path]) -> Path | None:
    """Copy the checkpoints of a run, in one models/ folder, to replaced/<model>_<number>/models/ beside it: a folder
    that every script accepts as its --output-root. Returns it, or None where the same copies exist. Raises UserError.
    """
    if not paths:
        return None
    for number in count(1):
        folder = paths[0].parent.parent / "replaced" / f"{paths[0].stem.partition('_')[2]}_{number}"
        copies = [folder / "models" / path.name for path in paths]
        if all(copy.is_file() and cmp(path, copy, shallow=False) for path, copy in zip(paths, copies, strict=True)):
            return None
        if not folder.exists():
            break
    for path, copy in zip(paths, copies, strict=True):
        with atomic_write(copy) as file:
            file.write(path.read_bytes())
    return folder


@contextmanager
def one_line(problem: str, advice: str = ""):
    """Turn whatever a damaged or hostile file makes a library raise into one line, "problem (reason)advice".

    Raises UserError, or MemoryError where there is not enough memory."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        text = printable(" ".join(str(error).split())[:MAX_STRING])
        if isinstance(error, MemoryError) or re.search(OUT_OF_MEMORY, text):
            raise MemoryError(text) from None
        pytorchs = re.search("(WeightsUnpickler error|Trying to load).*", text)  # after how to switch it off
        reason = pytorchs[0].partition(". ")[0] if pytorchs else text[:300]
        if not isinstance(error, ValueError):
            reason = f"{type(error).__name__}: {reason}"
        raise UserError(f"{problem} ({reason}){advice}") from None


def load_checkpoint(path: Path, made_by: str) -> dict:
    """Read what `save_checkpoint` wrote, without running any code that a hostile file may hold. The checkpoint has the
    entries of `ENTRIES`, of these types. What a hostile file may cost is not limited here: see SECURITY.md.

    made_by: the command that makes the file, for the error message. Raises UserError.
    """
    if not os.path.isfile(path):  # unlike pathlib it does not raise where a folder may not be entered
        problem = "is not a file" if os.path.lexists(path) else "does not exist, or may not be read"
        raise UserError(f"{path} {problem}; make it with {made_by}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from None
    with one_line(f"{path} is not a readable checkpoint of this project", f"; make a new one with {made_by}"):
        checkpoint = _ArrayUnpickler(io.BytesIO(data)).load() if path.suffix == ".pkl" else _load_tensors(data)
        _check_entries(checkpoint)
        if path.suffix == ".pth":
            _check_tensors(checkpoint["state_dict"])
    return checkpoint


def _load_tensors(data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is wrong with the file is an error, one line
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


class _ArrayUnpickler(pickle.Unpickler):
    """Reads plain Python values and arrays. A pickle names the functions that rebuild its objects, with any arguments;
    NumPy's own functions would build arrays of pointers from bytes, so ours take their place."""

    def find_class(self, module, name):
        if (module, name) == ("numpy", "dtype"):
            return _DType
        if (module, name) == ("numpy", "ndarray"):
            return name  # an argument of _reconstruct; it cannot be called
        if module.startswith("numpy.") and name == "_reconstruct":
            return lambda *_: _Array(0)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


class _DType:
    """A dtype in a pickle: its kind and size, then (by __setstate__) its byte order."""

    def __init__(self, name, *_):
        self.name, self.order = name, "="

    def __setstate__(self, state):
        self.order = state[1]

    def checked(self):
        if self.name not in DTYPES:
            raise pickle.UnpicklingError(f"it holds an array of {self.name}")
        return np.dtype(self.name).newbyteorder(self.order)


class _Array(np.ndarray):
    """An array that is filled from bytes alone, and saved again as a plain one."""

    def __setstate__(self, state):
        version, shape, dtype, is_fortran, data = state
        if not isinstance(data, bytes):
            raise pickle.UnpicklingError("it holds an array of objects")
        super().__setstate__((version, shape, dtype.checked(), is_fortran, data))

    def __reduce__(self):
        return self.view(np.ndarray).__reduce__()


def _check_entries(checkpoint):
    """Raise ValueError where a checkpoint lacks an entry, before any code works on it."""
    if type(checkpoint) is not dict:
        raise ValueError("it holds no dict")
    if isinstance(checkpoint.get("state_dict"), dict):
        checkpoint["state_dict"] = {**checkpoint["state_dict"]}  # an OrderedDict may have attributes of any kind
    check_types(checkpoint, ENTRIES)
    _check_plain({name: value for name, value in checkpoint.items() if name not in WEIGHTS}, set())
    rows = checkpoint["history"]
    names = set(rows[0]) if rows and isinstance(rows[0], dict) else set()
    if "epoch" in checkpoint:  # the best one, which repeats the losses of its epoch
        rows = [*rows, {name: checkpoint.get(name) for name in names}]
    for row in rows:
        _check_row(row, names)


def _check_row(row, names):
    """Raise ValueError unless a row of the history has the losses, and these numbers."""
    if not isinstance(row, dict) or row.keys() != names or not {"epoch", "train_loss", "valid_loss"} <= names:
        raise ValueError("its history lacks losses")
    if not all(type(number) in (int, float) for number in row.values()):
        raise ValueError("its history holds a loss that is not a number")


def check_types(entries: dict, expected: dict) -> None:
    """Raise ValueError unless the dict has entries of exactly the types in {name: type}."""
    for name, kind in expected.items():
        if type(entries.get(name)) is not kind:
            raise ValueError(f"it has no {name}, or not of the right type")


def _check_plain(value, seen):
    """Raise ValueError unless it is made of dicts, lists, short texts and finite numbers; seen: the ids of the parts
    that were checked, which one list may hold many times."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if type(value) is dict:
        if not all(type(name) is str for name in value):
            raise ValueError("it holds a dict whose entries have no names")
        value = [*value, *value.values()]
    if type(value) not in (list, tuple):
        _check_scalar(value)
        return
    for child in value:
        _check_plain(child, seen)


def _check_scalar(value):
    """Raise ValueError unless it is a short printable text, a number that is not too large, or None."""
    if type(value) is str:
        if len(value) > MAX_STRING or not value.isprintable():
            raise ValueError(f"it holds a text of {len(value)} letters or with control characters")
    elif type(value) in (int, float):
        if not abs(value) < 2**63:
            raise ValueError("it holds a number that is not finite, or 2^63 or more")
    elif type(value) is not bool and value is not None:
        raise ValueError(f"it holds a {type(value).__name__} where only weights are arrays")


def _check_tensors(state_dict):
    """Raise ValueError unless weights are finite floating-point tensors, without attributes that hide their methods."""
    for weight in state_dict.values():
        if type(weight) is not torch.Tensor or vars(weight) or not weight.is_floating_point():
            raise ValueError("its weights are not tensors of floating-point numbers")
        if not weight.isfinite().all():
            raise ValueError("its weights are not finite")
