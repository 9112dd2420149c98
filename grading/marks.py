"""Many hand-ins at once: a row for each, with what its files show of each part of the courseworks' own scheme.

What they show is evidence: of each part the share of its checks that pass. Code and report are for a person.
"""

import csv
import io
import os
import random
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from unicodedata import east_asian_width

from tqdm import tqdm

from common import UserError, printable
from common.checkpoints import atomic_write
from common.process import say
from grading.archives import collect
from grading.checks import NOT_CHECKED, TARGETS, Row, check_all, plan
from grading.copies import Trace, trace
from grading.limits import run_limited
from grading.losses import check_retrained
from trained.registry import MODELS

MAX_WORKERS = 4  # processes
MAX_NAME = 24  # columns of a name on the screen
MAX_TEXT = 1000  # letters of a finding
ODD_RATIO = 1.1  # of validation to training loss; 1.14 (AE) and 1.23 (MLPAE) of honest runs, 1.06 of a borrowed AE
ODD_MODELS = ("MLPAE", "AE")  # whose ratio says anything
BACKPROPAGATION = ("weights", "train loss", "valid loss")  # the checks that only right gradients pass
MNIST_MODELS = ("models/", "weights", "outputs", "test loss")  # the checks of model.py, by how they begin
SCHEME = {  # {part: (points, whether a row counts for it)}
    "flowers 1": (12.5, lambda row: row.model == "MLPAE" and row.check in BACKPROPAGATION),
    "flowers 2": (12.5, lambda row: row.model == "MLPAE"),
    "flowers 3": (7.5, lambda row: row.model == "AE"),
    "flowers 4": (7.5, lambda row: row.model == "VAE"),
    "model.py": (55, lambda row: row.model.startswith("MNIST") and row.check.startswith(MNIST_MODELS)),
    "main.py": (45, lambda row: row.model.startswith("MNIST") and not row.check.startswith(MNIST_MODELS)),
}


class Grade(NamedTuple):
    """What the files of a hand-in show."""

    rows: list[Row] = []
    traces: dict[str, Trace] = {}
    problem: str = ""  # why it is not graded

    @property
    def points(self) -> dict[str, float]:
        """{part: points}, of the parts with checks."""
        passed = {part: [row.passed for row in self.rows if counts(row)] for part, (_, counts) in SCHEME.items()}
        return {part: SCHEME[part][0] * sum(made) / len(made) for part, made in passed.items() if made}

    @property
    def failures(self) -> list[Row]:
        """The checks that were made and failed."""
        return [row for row in self.rows if not row.passed and row.finding != NOT_CHECKED]

    @property
    def checks(self) -> str:
        """How many checks pass."""
        return f"{sum(row.passed for row in self.rows)} of {len(self.rows)}" if self.rows else ""


def grade_all(sources: list[Path], models: list[str], roots: dict[str, str | None]) -> list[Grade]:
    """The grades of hand-ins, each in a process of its own."""
    grades = {}
    with tempfile.TemporaryDirectory() as folder:
        tasks = [(source, Path(folder, str(number)), models, roots) for number, source in enumerate(sources)]
        answers = run_limited(grade, tasks, min(MAX_WORKERS, os.cpu_count() or 1))
        for number, answer in tqdm(answers, "hand-ins", len(sources), disable=None):
            grades[number] = Grade(problem=str(answer)[:MAX_TEXT]) if isinstance(answer, UserError) else answer
    return [grades[number] for number in range(len(sources))]


def grade(source: Path, folder: Path, models: list[str], roots: dict[str, str | None]) -> Grade:
    """The grade of one hand-in, whose files are copied to a new folder. Raises UserError where nothing can be read."""
    wanted = [file for name in TARGETS for file in plan(name) if "/" in file]
    problems = collect(source, wanted, folder)
    rows, traces, _ = grade_models(folder, models, roots)
    for number, row in enumerate(rows):  # in the student's folder the commands need no --output-root
        finding = row.finding.replace(f' --output-root "{folder}"', "").replace(f"{folder}{os.sep}", "")
        if row.check in problems:
            finding = f"{problems[row.check]}; hand it in again"
        rows[number] = row._replace(finding=finding)
    return Grade(rows, traces)


def grade_models(root: Path, models: list[str], roots: dict[str, str | None]) -> Grade:
    """The grade of the models below an output root."""
    rows = [row._replace(finding=row.finding[:MAX_TEXT]) for row in check_all(root, models, roots)]
    return Grade(rows, find_traces(root, models, roots))


def find_traces(root: Path, models: list[str], roots: dict[str, str | None]) -> dict[str, Trace]:
    """{model: its trace} of the models below an output root that can be read."""
    traces = {}
    for name in models:
        with suppress(UserError):
            traces[name] = trace(name, root, roots[MODELS[name].data])
    return traces


def find_odd(row: Row) -> bool:
    """Whether the weights of a model fit validation images suspiciously well."""
    return row.model in ODD_MODELS and row.ratio < ODD_RATIO


def describe_odd(grade: Grade) -> str:
    """The odd ratios of a hand-in."""
    return ", ".join(f"{row.model} {row.ratio:.2f}" for row in grade.rows if find_odd(row))


def retrain_some(grades: dict[str, Grade], count: int, roots: dict[str, str | None]) -> dict[str, list[str]]:
    """{hand-in: findings} of training again the models with an odd ratio, and so many others at random."""
    odd = []
    others = []
    for name, grade in grades.items():
        for row in grade.rows:
            if row.check == "weights" and row.passed and row.model in grade.traces:
                (odd if find_odd(row) else others).append((name, row.model))
    findings = {}
    for name, model in odd + random.sample(others, min(count, len(others))):
        agrees, finding = check_retrained(grades[name].traces[model].claim, roots[MODELS[model].data])
        findings.setdefault(name, []).append(f"{model}: {'pass' if agrees else 'FAIL'}, {finding}")
    return findings


def tabulate(grades: dict[str, Grade], groups: Iterable[tuple[str, ...]], retrained: dict) -> list[dict[str, str]]:
    """A row {column: text} for each hand-in, for a spreadsheet."""
    table = []
    for name, grade in grades.items():
        points = grade.points
        row = {"hand-in": name}
        for part, (most, _) in SCHEME.items():
            row[f"{part}: evidence, of {most:g}"] = f"{points[part]:.4g}" if part in points else ""
        numbers = [str(number) for number, members in enumerate(groups, 1) if name in members]
        failures = "; ".join(f"{row.model}, {row.check}: {row.finding}" for row in grade.failures)
        row |= {"checks passed": grade.checks, "group of copies": ", ".join(numbers), "odd ratio": describe_odd(grade)}
        row["trained again"] = "; ".join(retrained.get(name, []))
        row["what fails"] = f"not graded: {grade.problem}" if grade.problem else failures
        table.append({column: harmless(text) for column, text in row.items()})
    return table


def print_marks(grades: dict[str, Grade], groups: dict[tuple[str, ...], list[str]], retrained: dict) -> None:
    """Print a line for each hand-in, then what a person should look at."""
    width = max(columns(crop(name)) for name in (*grades, "evidence, of"))
    most = {part: points for part, (points, _) in SCHEME.items()}
    print("  ".join([pad("hand-in", width), *SCHEME, "checks"]))
    print("  ".join([pad("evidence, of", width), *align(most)]))
    for name, grade in grades.items():
        cells = (
            [f"not graded: {printable(grade.problem)[:80]}"] if grade.problem else [*align(grade.points), grade.checks]
        )
        print("  ".join([pad(crop(name), width), *cells]))
    print("\nThe points are evidence from weights, logs and pictures; code and report are for a person.")
    for number, (members, models) in enumerate(groups.items(), 1):
        print(printable(f"group {number}: {', '.join(members)}: {', '.join(models)}"))
    if groups:
        print("Equal seeds and settings give equal bits on equal processors: ask before you judge.")
    for name, grade in grades.items():
        for finding in retrained.get(name, []):
            print(printable(f"{name}: trained again, {finding}"))
        if describe_odd(grade) and name not in retrained:
            text = (
                f"validation loss / training loss is only {describe_odd(grade)}: perhaps trained on validation images"
            )
            print(printable(f"{name}: {text}; --retrain 0 trains it again"))


def align(points: dict[str, float]) -> list[str]:
    """The points as cells below the names of the parts."""
    return [f"{points[part]:>{len(part)}.4g}" if part in points else " " * len(part) for part in SCHEME]


def columns(text: str) -> int:
    """The width of a text on a terminal, where Chinese letters take two columns."""
    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)


def crop(name: str) -> str:
    """A name of at most MAX_NAME columns."""
    name = printable(name)
    if columns(name) <= MAX_NAME:
        return name
    while columns(name) > MAX_NAME - 1:
        name = name[:-1]
    return f"{name}…"


def pad(text: str, width: int) -> str:
    """The text, filled to so many columns."""
    return text + " " * (width - columns(text))


def harmless(text: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    text = printable(text)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text


def save_marks(path: Path, table: list[dict[str, str]]) -> None:
    """Write the rows as a table that spreadsheets open. Raises UserError."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(table)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode("utf-8-sig"))  # with the mark by which spreadsheets know the encoding
    say(f"wrote {path}")
