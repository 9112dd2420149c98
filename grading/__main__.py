"""Is it ready to hand in? Every target of the courseworks, checked on the files themselves, and the archive.

    python -m grading                               # the table: target, pass or FAIL, and what was found
    python -m grading --model MLPAE                 # the compulsory part of the flowers alone
    python -m grading --retrain AE                  # do the settings that it claims give the loss that it claims?
    python -m grading --output-root DIR             # somebody else's models/, vis/ and log/
    python -m grading --zip hand-in.zip             # packs what passes
    python -m grading --hand-ins DIR --csv FILE     # grades a class: a folder or an archive for each hand-in
    python -m grading --hand-ins DIR --feedback DIR --retrain 3     # a text for each student; three trained again
    python -m grading --tables                      # prints the tables of README and report

Losses are computed and pictures plotted again from the weights, and compared with what is handed in. Nothing that the
checked files hold is run as code, and what they cost is limited (SECURITY.md). Exit status 0 only where everything
passes, or with --hand-ins once all are graded.
"""

import argparse
import os
import textwrap
from pathlib import Path

import torch

from common import PROJECT, UserError, printable
from common.flags import add_output_flag, make_parser
from common.process import run_script
from grading.archives import find_hand_ins, pack
from grading.checks import TARGETS, Row, find_images, make_rows, plan
from grading.copies import describe_origins, find_groups
from grading.feedback import write_feedback
from grading.limits import run_limited
from grading.losses import check_retrained
from grading.marks import Grade, find_traces, grade_all, grade_models, print_marks, retrain_some, save_marks, tabulate
from grading.tables import markdown, tables
from trained.registry import MODELS

WIDTH = 120  # columns of what is printed


def parse_args(argv=None):
    """The flags."""
    parser = make_parser("Check what is handed in, and pack it.", module="grading")
    names = list(TARGETS)
    parser.add_argument("--model", nargs="+", choices=names, default=names, help="which ones to check")
    text = "train these again, with the settings that they claim; with --hand-ins: how many models at random"
    parser.add_argument("--retrain", metavar="MODEL", nargs="+", default=[], help=text)
    task = parser.add_mutually_exclusive_group()
    task.add_argument("--zip", metavar="NAME.zip", type=archive_name, help="pack the project, if all of them pass")
    task.add_argument("--hand-ins", metavar="DIR", type=Path, help="grade all the folders and archives in it")
    task.add_argument("--tables", action="store_true", help="print the tables of README and report")
    parser.add_argument("--force", action="store_true", help="pack it even if not all pass")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="where to write the table of --hand-ins")
    parser.add_argument("--feedback", metavar="DIR", type=Path, help="where to write a text for each of --hand-ins")
    parser.add_argument("--flowers", metavar="DIR", help="the photographs, instead of ./flowers")
    parser.add_argument("--mnist", metavar="DIR", help="the folder of MNIST's four files, instead of ./mnist")
    add_output_flag(parser)
    args = parser.parse_args(argv)
    elsewhere = args.output_root != PROJECT
    chosen = args.retrain or args.model != names
    conflicts = {  # {what is wrong: whether it is}
        "argument --force: there is nothing to force without --zip": args.force and not args.zip,
        "argument --tables: not together with --model or --retrain, it prints all": args.tables and chosen,
        "argument --csv: it is for the table of --hand-ins": args.csv and not args.hand_ins,
        "argument --feedback: it is for the students of --hand-ins": args.feedback and not args.hand_ins,
        "argument --output-root: not together with --zip, which packs the project": elsewhere and args.zip,
        "argument --output-root: not together with --hand-ins": elsewhere and args.hand_ins,
    }
    for problem, is_wrong in conflicts.items():
        if is_wrong:
            parser.error(problem)
    problem = problem_of_retrain(args.retrain, None if args.hand_ins else args.model)
    if problem:
        parser.error(problem)
    return args


def archive_name(text: str) -> Path:
    """argparse type: the name of a zip archive."""
    if not text.endswith(".zip"):
        raise argparse.ArgumentTypeError(f"expected NAME.zip, found {text}")
    return Path(text)


def problem_of_retrain(retrain: list[str], models: list[str] | None) -> str:
    """What is wrong with --retrain, or ""; models: those that are checked, None with --hand-ins."""
    if models is None:
        is_count = not retrain or len(retrain) == 1 and retrain[0].isdecimal()
        return "" if is_count else "argument --retrain: with --hand-ins, say how many models, as in --retrain 3"
    others = [name for name in retrain if name not in models]
    return f"argument --retrain: it is for models that --model names, found {', '.join(others)}" if others else ""


def print_table(lines: list[list[str]]) -> None:
    """Columns as wide as they need to be, the last one wrapped, and a blank line where the first one changes."""
    lines = [[printable(cell) for cell in line] for line in lines]  # an untrusted file may hold control characters
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)][:-1]
    indent = " " * (sum(widths) + 2 * len(widths))
    model = lines[0][0]
    for *cells, last in lines:
        if cells[0] != model:
            print()
        model = cells[0]
        first = "".join(f"{cell:{width}}  " for cell, width in zip(cells, widths, strict=True))
        print(textwrap.fill(last, WIDTH, initial_indent=first, subsequent_indent=indent) or first.rstrip())


def print_tables(root: Path) -> dict[str, list[list[str]]]:
    """The tables of README and report."""
    printed = tables(root)
    for name, rows in printed.items():
        print(f"<!-- table: {name} -->\n{markdown(rows)}\n")
    return printed


def load_images(models: list[str], roots: dict[str, str | None]) -> dict[str, str]:
    """Load the images of models here, for all processes that open their files; returns {data: why they are not there}.
    Forked processes compute alone, so this one must not have started threads that they would wait for."""
    torch.set_num_threads(1)
    problems = {}
    for data in sorted({MODELS[name].data for name in models}):
        loaders, problem = find_images(data, roots[data])
        if loaders is None:
            problems[data] = problem
    return problems


def grade_class(
    folder: Path, models: list[str], roots: dict, retrain: str, csv: Path | None, feedback: Path | None
) -> list[dict[str, str]]:
    """Print what all hand-ins in a folder show, and who shares models; write it where files are named. retrain: how
    many models to train again. Returns a row for each hand-in. Raises UserError where there are none, or no images."""
    sources, skipped = find_hand_ins(folder)
    problems = load_images(models, roots)
    if problems:
        raise UserError("; ".join(problems.values()))
    own = find_traces(PROJECT, models, roots)
    grades = dict(zip([source.name for source in sources], grade_all(sources, models, roots), strict=True))
    groups = find_groups({"the project": own, **{name: grade.traces for name, grade in grades.items()}})
    retrained = retrain_some(grades, int(retrain), roots) if retrain else {}
    print_marks(grades, groups, retrained)
    if skipped:
        print(printable(f"skipped, no hand-ins: {', '.join(skipped)}"))
    table = tabulate(grades, groups, retrained)
    if csv:
        save_marks(csv, table)
    if feedback:
        write_feedback(feedback, grades)
    return table


def check_project(root: Path, models: list[str], roots: dict, retrained: list[str]) -> tuple[list[Row], int]:
    """Print the table of what lies below an output root, each model checked in a process of its own. Returns (its rows,
    how many fail)."""
    load_images(models, roots)
    tasks = [(root, [name], roots) for name in models]
    grades = dict(run_limited(grade_models, tasks, os.cpu_count() or 1))
    rows = []
    for number, name in enumerate(models):
        first, *_ = plan(name)
        grade = grades[number]
        if isinstance(grade, UserError):
            grade = Grade(make_rows(name, {first: (False, f"not graded: {grade}")}))
        rows += grade.rows
        if name in retrained and name in grade.traces:
            finding = check_retrained(grade.traces[name].claim, roots[MODELS[name].data])
            rows.append(Row(name, "trained again", "the loss claimed", *finding))
    lines = [[row.model, row.check, row.target, "pass" if row.passed else "FAIL", row.finding] for row in rows]
    print_table([["model", "check", "target", "result", "finding"], *lines])
    passed = sum(row.passed for row in rows)
    [(_, origins)] = run_limited(describe_origins, [(root, models)], 1)
    print(f"\n{passed} of {len(rows)} checks pass{printable(origins)}")
    return rows, len(rows) - passed


def main(argv=None):
    """Check, grade, pack or print; returns the rows. Raises UserError unless all pass."""
    args = parse_args(argv)
    roots = {"flowers": args.flowers, "MNIST": args.mnist}
    if args.hand_ins:
        return grade_class(args.hand_ins, args.model, roots, "".join(args.retrain), args.csv, args.feedback)
    if not args.output_root.is_dir():
        raise UserError(f"there is no folder {args.output_root}: expected one with models/, vis/ and log/")
    if args.tables:
        return print_tables(args.output_root)
    rows, failed = check_project(args.output_root, args.model, roots, args.retrain)
    if args.zip and (args.force or not failed):
        data_sets = [Path(root or PROJECT / data.lower()).resolve() for data, root in roots.items()]
        packed = pack(args.zip, PROJECT, data_sets)
        print(f"packed {len(packed)} files, {args.zip.stat().st_size / 2**20:.1f} MiB: {args.zip}")
    if failed:
        refused = "; not packed, --force packs it even so" if args.zip and not args.force else ""
        raise UserError(f"{failed} of {len(rows)} checks fail{refused}")
    return rows


if __name__ == "__main__":
    run_script(main)
