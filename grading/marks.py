"""Many hand-ins at once: a row of points for each, by the courseworks' own scheme.

The points are what the files show: of each part the share of its checks that pass. Code and report are for a person.
"""

import csv
import io
import os
import signal
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from evaluation.archives import collect
from evaluation.models import fingerprint, load_model
from evaluation.submission import NOT_CHECKED, SHIPPED, TARGETS, Row, plan
from training import UserError, printable
from training.checkpoints import atomic_write

MAX_WORKERS = 4  # processes, each of which holds the images
BACKPROPAGATION = ("weights", "train loss", "valid loss")  # the checks that only right gradients pass
MNIST_MODELS = ("models/", "weights", "outputs", "test loss")  # the checks of model.py, by how they begin
SCHEME = {  # {part: (points, whether a row counts for it)}
    "flowers 1": (12.5, lambda row: row.model == "MLPAE" and row.check in BACKPROPAGATION),
    "flowers 2": (12.5, lambda row: row.model == "MLPAE"),
    "flowers 3": (7.5, lambda row: row.model == "AE"),
    "flowers 4": (7.5, lambda row: row.model == "VAE"),
    "MNIST model.py": (55, lambda row: row.model.startswith("MNIST") and row.check.startswith(MNIST_MODELS)),
    "MNIST main.py": (45, lambda row: row.model.startswith("MNIST") and not row.check.startswith(MNIST_MODELS)),
}
COLUMNS = ("hand-in", *SCHEME, "checks passed", "same weights as", "what fails")


def find_hand_ins(folder: Path) -> list[Path]:
    """The folders and zip archives in a folder, sorted by name. Raises UserError where there is none."""
    sources = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if not sources:
        raise UserError(f"{folder} is empty: expected a folder or a zip archive for each hand-in")
    return sources


def grade_all(sources: list[Path], models, check: Callable[[Path], list[Row]]) -> list[dict[str, str]]:
    """A row {column: text} for each hand-in. check(output_root) -> the rows of the models; other processes call it."""
    graded, owners = {}, {(name, weights): ["the project"] for name, weights in SHIPPED.items()}
    workers = min(MAX_WORKERS, os.cpu_count() or 1, len(sources))
    with _make_pool(workers) as pool:
        futures = [pool.submit(grade, models, check, source) for source in sources]
        try:
            for source, future in tqdm(zip(sources, futures, strict=True), "hand-ins", len(sources), disable=None):
                graded[source.name], weights = _result(future, grade, models, check, source)
                for key in weights:
                    owners.setdefault(key, []).append(source.name)
        finally:
            pool.shutdown(cancel_futures=True)  # after a Ctrl-C none is begun that waits
    for name, row in graded.items():
        shared = {}  # {another hand-in, or the project: models}
        for (model, _), of in owners.items():
            for other in of if name in of else ():
                shared.setdefault(other, []).append(model)
        shared.pop(name, None)
        row["same weights as"] = "; ".join(f"{other} ({', '.join(models)})" for other, models in shared.items())
    return [{column: _harmless({"hand-in": name, **row}[column]) for column in COLUMNS} for name, row in graded.items()]


def grade(models, check: Callable[[Path], list[Row]], source: Path) -> tuple[dict[str, str], list]:
    """({column: text}, [(model, fingerprint of its weights), ...]) of one hand-in."""
    wanted = [file for name in TARGETS for file in plan(name) if "/" in file]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        try:
            collect(source, wanted, root)
        except UserError as error:
            return _nothing(str(error)), []
        try:
            rows, weights = check(root), [(name, mark) for name in models if (mark := _fingerprint(name, root))]
        except (Exception, SystemExit) as error:  # one hand-in that we did not foresee must not cost the others
            return _nothing(f"it could not be graded ({type(error).__name__}: {error})"), []
        row = {part: f"{points * share(rows, counts):.4g}" for part, (points, counts) in SCHEME.items()}
        row["checks passed"] = f"{sum(row.passed for row in rows)} of {len(rows)}"
        failures = [f"{r.model}, {r.check}: {r.found}" for r in rows if not r.passed and r.found != NOT_CHECKED]
        row["what fails"] = "; ".join(failures).replace(str(root), source.name)
        return row, weights


def _nothing(reason):
    return {**dict.fromkeys(SCHEME, "0"), "checks passed": "0", "what fails": reason}


def _make_pool(workers):
    return ProcessPoolExecutor(workers, get_context("spawn"), initializer=_set_up_worker)


def _result(future, *task):
    """What a task returned. Where its process died, or one beside it, it is done again in one of its own."""
    try:
        return future.result()
    except BrokenProcessPool:
        with _make_pool(1) as pool, suppress(BrokenProcessPool):
            return pool.submit(*task).result()
    return _nothing("it could not be graded: its process was ended, perhaps for lack of memory"), []


def share(rows: list[Row], counts: Callable[[Row], bool]) -> float:
    """Of the rows that count, the share that passes; 0 where none counts."""
    passed = [row.passed for row in rows if counts(row)]
    return sum(passed) / max(1, len(passed))


def save_marks(path: Path, rows: list[dict[str, str]]) -> None:
    """Write the rows as a table that spreadsheets open. Raises UserError."""
    with atomic_write(path) as file:
        text = io.TextIOWrapper(file, "utf-8-sig", newline="")  # with the mark by which spreadsheets know the encoding
        writer = csv.DictWriter(text, COLUMNS, quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
        text.detach()  # flushes it


def _set_up_worker():
    """One thread a process, and none that a Ctrl-C stops by itself."""
    torch.set_num_threads(1)
    threadpool_limits(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _fingerprint(name, root):
    try:
        return fingerprint(load_model(name, root)[0])
    except UserError:
        return None


def _harmless(text):
    """A cell that no spreadsheet takes for a formula."""
    text = printable(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
