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

from common import PROJECT, UserError, printable
from common.checkpoints import atomic_write
from common.process import say
from grading.archives import collect
from grading.checks import NOT_CHECKED, TARGETS, Row, plan
from trained.loading import fingerprint, load_model

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
NOTHING = {**dict.fromkeys(SCHEME, "0"), "checks passed": "0"}
COLUMNS = ("hand-in", *SCHEME, "checks passed", "same weights as", "what fails")


def find_hand_ins(folder: Path) -> list[Path]:
    """The folders and zip archives in a folder, sorted by name. Raises UserError where there is none."""
    sources = sorted(path for path in folder.glob("*") if not path.name.startswith("."))
    if not sources:
        raise UserError(f"{folder} is no folder, or is empty: expected a folder or a zip archive for each hand-in")
    return sources


def grade_all(sources: list[Path], models: list[str], check: Callable[[Path], list[Row]]) -> list[dict[str, str]]:
    """A row {column: text} for each hand-in. check(output_root) -> the rows of the models; other processes call it."""
    graded = []
    with _make_pool(min(MAX_WORKERS, os.cpu_count() or 1, len(sources))) as pool:
        futures = [pool.submit(grade, models, check, source) for source in sources]
        try:
            for source, future in tqdm(zip(sources, futures, strict=True), "hand-ins", len(sources), disable=None):
                graded.append(_result(future, grade, models, check, source))
        finally:
            pool.shutdown(cancel_futures=True)  # after a Ctrl-C none is begun that waits
    weights = [("the project", find_fingerprints(models, PROJECT))]
    weights += [(source.name, own) for source, (_, own) in zip(sources, graded, strict=True)]
    rows = []
    for source, (row, own) in zip(sources, graded, strict=True):
        row |= {"hand-in": source.name, "same weights as": name_copies(own, weights)}
        rows.append({column: _harmless(row[column]) for column in COLUMNS})
    return rows


def grade(models: list[str], check: Callable[[Path], list[Row]], source: Path) -> tuple[dict[str, str], dict]:
    """({column: text}, {model: fingerprint of its weights}) of one hand-in."""
    wanted = [file for name in TARGETS for file in plan(name) if "/" in file]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        try:
            collect(source, wanted, root)
            row = count_points(check(root))
            row["what fails"] = row["what fails"].replace(str(root), source.name)
            return row, find_fingerprints(models, root)
        except UserError as error:
            reason = str(error)
        except (Exception, SystemExit) as error:  # one hand-in that we did not foresee must not cost the others
            reason = f"it could not be graded ({type(error).__name__}: {error})"
    return {**NOTHING, "what fails": reason}, {}


def count_points(rows: list[Row]) -> dict[str, str]:
    """{column: text} of the rows of a hand-in: the points of each part, and what fails."""
    marks = {}
    for part, (points, counts) in SCHEME.items():
        passed = [row.passed for row in rows if counts(row)]
        marks[part] = f"{points * sum(passed) / max(1, len(passed)):.4g}"
    failures = [row for row in rows if not row.passed and row.finding != NOT_CHECKED]
    marks["checks passed"] = f"{sum(row.passed for row in rows)} of {len(rows)}"
    marks["what fails"] = "; ".join(f"{row.model}, {row.check}: {row.finding}" for row in failures)
    return marks


def _make_pool(workers):
    return ProcessPoolExecutor(workers, get_context("spawn"), initializer=_set_up_worker)


def _result(future, *task):
    """The result of a task. Where its process died, or one beside it, it is done again in one of its own."""
    try:
        return future.result()
    except BrokenProcessPool:
        with _make_pool(1) as pool, suppress(BrokenProcessPool):
            return pool.submit(*task).result()
    return {**NOTHING, "what fails": "it could not be graded: its process was ended, perhaps for lack of memory"}, {}


def _set_up_worker():
    """One thread per process, and none that a Ctrl-C stops by itself."""
    torch.set_num_threads(1)
    threadpool_limits(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def find_fingerprints(models: list[str], root: Path) -> dict[str, str]:
    """{model: fingerprint of its weights} of the models below a root that can be read."""
    fingerprints = {}
    for name in models:
        with suppress(UserError):
            fingerprints[name] = fingerprint(load_model(name, root)[0])
    return fingerprints


def name_copies(own: dict[str, str], weights: list[tuple[str, dict[str, str]]]) -> str:
    """With whom a hand-in shares the weights of which models; weights: [(whose, {model: fingerprint}), ...]."""
    copies = []
    for owner, others in weights:
        same = [name for name, mark in own.items() if others.get(name) == mark]
        if same and others is not own:
            copies.append(f"{owner} ({', '.join(same)})")
    return "; ".join(copies)


def save_marks(path: Path, rows: list[dict[str, str]]) -> None:
    """Write the rows as a table that spreadsheets open. Raises UserError."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode("utf-8-sig"))  # with the mark by which spreadsheets know the encoding
    say(f"wrote {path}")


def _harmless(text):
    """A cell that no spreadsheet takes for a formula."""
    text = printable(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
