"""Is it ready to hand in? Every target of the courseworks, checked on the files themselves, and the archive.

    python -m grading                               # the table: target, pass or FAIL, and what was found
    python -m grading --model MLPAE                 # the compulsory part of the flowers alone
    python -m grading --retrain AE                  # do the settings that it claims give the loss that it claims?
    python -m grading --output-root DIR             # somebody else's models/, vis/ and log/
    python -m grading --zip hand-in.zip             # packs what passes
    python -m grading --hand-ins DIR --csv FILE     # grades a class: a folder or a zip archive for each hand-in
    python -m grading --tables                      # prints the tables of README and report

Losses are computed and pictures plotted again from the weights, and compared with what is handed in. Nothing that the
checked files hold is run as code. Exit status 0 only where everything passes, or with --hand-ins once all are graded.
"""

import textwrap
from functools import partial
from pathlib import Path

from common import PROJECT, UserError, printable
from common.flags import add_output_flag, make_parser
from common.process import run_script
from grading.archives import pack
from grading.checks import TARGETS, Row, check_all, find_images
from grading.marks import find_hand_ins, grade_all, save_marks
from grading.tables import markdown, tables
from trained.registry import MODELS

WIDTH = 120  # columns of what is printed


def parse_args(argv=None):
    """The flags."""
    parser = make_parser("Check what is handed in, and pack it.", module="grading")
    names = list(TARGETS)
    parser.add_argument("--model", nargs="+", choices=names, default=names, help="which ones to check")
    text = "also train these again, with the settings that they claim"
    parser.add_argument("--retrain", nargs="+", choices=names, default=[], help=text)
    task = parser.add_mutually_exclusive_group()
    task.add_argument("--zip", metavar="NAME.zip", type=Path, help="pack the project, if all of them pass")
    task.add_argument("--hand-ins", metavar="DIR", type=Path, help="grade all the folders and zip archives in it")
    task.add_argument("--tables", action="store_true", help="print the tables of README and report")
    parser.add_argument("--force", action="store_true", help="pack it even if not all pass")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="where to write the points of --hand-ins")
    parser.add_argument("--flowers", metavar="DIR", help="the photographs, instead of ./flowers")
    parser.add_argument("--mnist", metavar="DIR", help="the folder of MNIST's four files, instead of ./mnist")
    add_output_flag(parser)
    args = parser.parse_args(argv)
    if args.zip and args.zip.suffix != ".zip":
        parser.error(f"argument --zip: expected NAME.zip, found {args.zip}")
    if args.force and not args.zip:
        parser.error("argument --force: there is nothing to force without --zip")
    if args.tables and (args.retrain or args.model != names):
        parser.error("argument --tables: not together with --model or --retrain, it prints all and checks nothing")
    if args.csv and not args.hand_ins:
        parser.error("argument --csv: it is for the points of --hand-ins")
    if args.output_root != PROJECT and (args.zip or args.hand_ins):
        parser.error("argument --output-root: not together with --zip, which packs the project, or --hand-ins")
    if set(args.retrain) - set(args.model):
        parser.error("argument --retrain: it is for models that --model names")
    return args


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


def print_rows(rows: list[Row]) -> int:
    """Print the table of the checks; returns how many fail."""
    lines = [[row.model, row.check, row.target, "pass" if row.passed else "FAIL", row.finding] for row in rows]
    print_table([["model", "check", "target", "result", "finding"], *lines])
    passed = sum(row.passed for row in rows)
    print(f"\n{passed} of {len(rows)} checks pass")
    return len(rows) - passed


def print_tables(root: Path) -> dict[str, list[list[str]]]:
    """The tables of README and report."""
    printed = tables(root)
    for name, rows in printed.items():
        print(f"<!-- table: {name} -->\n{markdown(rows)}\n")
    return printed


def grade_class(folder: Path, models: list[str], roots: dict[str, str | None], retrain: list[str], csv: Path | None):
    """Print the points of all hand-ins in a folder, and who has the weights of whom; write them to a file where one is
    named. Returns a row for each hand-in. Raises UserError where there are none, or no images."""
    sources = find_hand_ins(folder)
    for data in {MODELS[name].data for name in models}:
        _, problem = find_images(data, roots[data])
        if problem:
            raise UserError(problem)
    marks = grade_all(sources, models, partial(check_all, models=models, roots=roots, retrain=retrain))
    columns = [column for column in marks[0] if column not in ("same weights as", "what fails")]
    print_table([columns, *([row[column] for column in columns] for row in marks)])
    print()
    for row in marks:
        if row["same weights as"]:
            print(textwrap.fill(f"{row['hand-in']}: same weights as {row['same weights as']}", WIDTH))
    if csv:
        save_marks(csv, marks)
    return marks


def main(argv=None):
    """Check, grade, pack or print; returns the rows. Raises UserError unless all pass."""
    args = parse_args(argv)
    roots = {"flowers": args.flowers, "MNIST": args.mnist}
    if args.hand_ins:
        return grade_class(args.hand_ins, args.model, roots, args.retrain, args.csv)
    if not args.output_root.is_dir():
        raise UserError(f"there is no folder {args.output_root}: expected one with models/, vis/ and log/")
    if args.tables:
        return print_tables(args.output_root)
    rows = check_all(args.output_root, args.model, roots, args.retrain)
    failed = print_rows(rows)
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
