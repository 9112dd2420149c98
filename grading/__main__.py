"""Is it ready to hand in? Every target of the courseworks, checked on the files themselves, and the archive.

    python check_submission.py                          # the table: target, pass or FAIL, and what was found
    python check_submission.py --model MLPAE            # the compulsory part of the flowers alone
    python check_submission.py --ledger                 # and each loss in every unit in use
    python check_submission.py --tables                 # instead, the tables of README and report
    python check_submission.py --html                   # instead, report.html with pictures and formulas inside
    python check_submission.py --zip hand-in.zip        # packs what passes
    python check_submission.py --retrain AE             # and whether the settings claimed give the losses claimed
    python check_submission.py --output-root DIR        # somebody else's models/, vis/ and log/
    python check_submission.py --hand-ins DIR --csv marks.csv   # a class: a folder or a zip archive each

Losses are computed and pictures plotted anew from the weights, and compared with what is handed in. Nothing that the
checked files hold is run as code. Exit status 0 only where everything passes, or with --hand-ins once all are graded.
"""

from pathlib import Path

from training import PROJECT
from training.flags import add_model_flag, add_output_flag, given, make_parser, model_type, parse_first

MODELS = ("MLPAE", "AE", "VAE", "MNIST_AE", "MNIST_VAE", "MNIST_CVAE")


def parse_args(argv=None):
    """The flags."""
    parser = make_parser("Check what is handed in, and pack it.")
    add_model_flag(parser, MODELS, "which ones to check", nargs="+", default=list(MODELS))
    retrain = {"type": model_type(MODELS), "metavar": "MODEL", "nargs": "+", "default": []}
    parser.add_argument("--retrain", **retrain, help="also train these anew, with the settings that they claim")
    parser.add_argument("--hand-ins", metavar="DIR", type=Path, help="grade all the folders and zip archives in it")
    parser.add_argument("--csv", metavar="FILE", type=Path, help="where to write the points of --hand-ins")
    parser.add_argument("--ledger", action="store_true", help="also print each loss in every unit in use")
    parser.add_argument("--tables", action="store_true", help="instead, print the tables of README and report")
    parser.add_argument("--html", action="store_true", help="instead, make report.html and report.zh-CN.html")
    parser.add_argument("--json", action="store_true", help="print it all for machines")
    parser.add_argument("--zip", metavar="NAME.zip", type=Path, help="pack the project, if all of them pass")
    parser.add_argument("--force", action="store_true", help="pack it even if not")
    parser.add_argument("--flowers", metavar="DIR", help="the photographs, a sub-folder a class, instead of ./flowers")
    parser.add_argument("--mnist", metavar="DIR", help="the folder that holds MNIST/raw/, instead of ./mnist")
    add_output_flag(parser)
    args = parser.parse_args(argv)
    if args.zip and args.zip.suffix != ".zip":
        parser.error(f"argument --zip: expected NAME.zip, found {args.zip}")
    if args.zip and not args.zip.parent.is_dir():
        parser.error(f"argument --zip: there is no folder {args.zip.parent}")
    if args.force and not args.zip:
        parser.error("argument --force: there is nothing to force without --zip")
    if args.zip and args.output_root != PROJECT:
        parser.error("argument --output-root: --zip packs the project, with its own models/ and vis/")
    if args.csv and not args.hand_ins:
        parser.error("argument --csv: it is for the points of --hand-ins")
    if args.hand_ins and not args.hand_ins.is_dir():
        parser.error(f"argument --hand-ins: there is no folder {args.hand_ins}")
    for name in {"zip", "force", "json", "ledger", "output_root"} & set(given(parser, args)) if args.hand_ins else ():
        parser.error(f"argument --{name.replace('_', '-')}: not together with --hand-ins")
    for instead in ("tables", "html"):
        for name in set(given(parser, args)) - {instead, "output_root"} if vars(args)[instead] else ():
            parser.error(f"argument --{name.replace('_', '-')}: not together with --{instead}, which checks nothing")
    if set(args.retrain) - set(args.model):
        parser.error("argument --retrain: it is for models that --model names")
    return args


if __name__ == "__main__":
    parse_first(parse_args)

import contextlib
import io
import json
import re
import textwrap
from functools import cache, partial

import torch

import main as mnist_script
import MLPAE_train_script
import random_generation
import train_script
import visualization
from data import create_flower_dataloaders, create_mnist_dataloaders
from evaluation.archives import pack
from evaluation.html import make_html
from evaluation.marks import find_hand_ins, grade_all, save_marks
from evaluation.models import TABLE
from evaluation.submission import TARGETS, Row, Scripts, check_model
from evaluation.tables import markdown, tables
from training import UserError, printable
from training.script import run_script

BATCH = 256  # images at once, as in validation
WIDTH = 120  # columns of what is printed
SCRIPTS = {"main.py": mnist_script, "visualization.py": visualization, "random_generation.py": random_generation}
SCRIPTS |= {"MLPAE_train_script.py": MLPAE_train_script, "train_script.py": train_script}


@cache
def find_images(data: str, root: str | None, **options):
    """The loaders of "flowers" or "MNIST", or the UserError that says why not."""
    try:
        create = create_flower_dataloaders if data == "flowers" else create_mnist_dataloaders
        return create(BATCH, root, data="real", **options)
    except UserError as error:
        reason = re.split(r"\. Name|: put", str(error))[0]  # its advice names the flags of other scripts
        return UserError(f"{reason} (--{data.lower()} names the folder)")


def images_of(args, name: str, settings: dict):
    """What `find_images` returns for a model that was trained with these settings."""
    if TABLE[name].data == "MNIST":
        return find_images("MNIST", args.mnist, binarized=bool(settings.get("binarize")))
    return find_images("flowers", args.flowers)


def run_command(args, command: str, output_root: Path, *flags: str):
    """Run a script in this process, silently, on the images of this check; returns what its main() does."""
    (script, *argv), options = command.split(), {}
    data, root = ("MNIST", args.mnist) if script == "main.py" else ("flowers", args.flowers)
    if script != "random_generation.py":
        argv += ["--data", "real", *(["--data-root", root] if root else [])]
    if script == "visualization.py":
        options["loaders"] = find_images(data, root)  # which takes seconds
    if "--figures-only" in argv:
        options["create"] = lambda *_, binarized, shifted: find_images(data, root, binarized=binarized)
    threads = torch.get_num_threads()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return SCRIPTS[script].main([*argv, *flags, "--output-root", str(output_root)], **options)
    finally:
        torch.set_num_threads(threads)  # the perceptron's script takes one


def check_all(args, root: Path) -> tuple[list[Row], dict]:
    """The rows of what is below a root, and {model: {"train": {unit: loss}, "valid": ...}}, in every unit."""
    measured, rows, scripts = {}, [], Scripts(mnist_script.Losses, partial(run_command, args), partial(images_of, args))
    needed = {TARGETS[name].better_than for name in args.model}
    for name in MODELS:
        if name in args.model or name in needed:
            found = check_model(name, root, measured, scripts, name in args.retrain)
            rows += found if name in args.model else []
    return rows, {name: measured[name] for name in args.model if name in measured}


def check_hand_in(args, root: Path) -> list[Row]:
    """The rows of one of many."""
    return check_all(args, root)[0]


def print_table(lines: list[list[str]]) -> None:
    """Columns as wide as they need to be, the last one wrapped, and a blank line where the first one, the model,
    changes."""
    lines = [[format_cell(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)][:-1]
    indent = " " * (sum(widths) + 2 * len(widths))
    for previous, line in zip([lines[0], *lines], lines, strict=False):
        print("" if line[0] == previous[0] else "\n", end="")
        first = "  ".join(cell.ljust(width) for cell, width in zip(line[:-1], widths, strict=True))
        print(textwrap.fill(line[-1], WIDTH, initial_indent=f"{first}  ", subsequent_indent=indent) or first.rstrip())


def format_cell(value) -> str:
    """A cell of a table; what an untrusted file says may hold control characters."""
    if value is None:
        return "-"
    return printable(value) if isinstance(value, str) else f"{value:.5g}"


def print_report(rows: list[Row], ledger: dict) -> None:
    """The table, and the ledger where there is one."""
    lines = [[*row[:3], "pass" if row.passed else "FAIL", row.found] for row in rows]
    print_table([["model", "check", "target", "result", "found"], *lines])
    if ledger:
        print("\nEach loss that the weights give, of an image unless the column says otherwise:\n")
        units = next(iter(ledger.values()))["train"]
        splits = [[name, split, *found.values()] for name, of in ledger.items() for split, found in of.items()]
        print_table([["model", "split", *units], *splits])
    print(f"\n{sum(row.passed for row in rows)} of {len(rows)} checks pass")


def print_files(path: Path, packed: dict[str, int], models: list[str]) -> None:
    """What went into the archive."""
    print(f"\n{path}, in KiB:")
    for name, size in packed.items():
        print(f"{size / 1024:10,.1f}  {name}")
    unchecked = [name for name in MODELS if name not in models]
    print(f"{len(packed)} files, {path.stat().st_size / 2**20:.1f} MiB as an archive", end="")
    print(f"; not checked, but in it: {', '.join(unchecked)}" if unchecked else "")


def grade(args) -> list[dict]:
    """Grade all hand-ins of --hand-ins; returns their rows. Raises UserError where there are none, or no images."""
    sources = find_hand_ins(args.hand_ins)
    for name in args.model:
        if isinstance(images_of(args, name, {}), UserError):
            raise images_of(args, name, {})
    marks = grade_all(sources, args.model, partial(check_hand_in, args))
    shown = [column for column in marks[0] if column not in ("same weights as", "what fails")]
    print_table([shown, *([row[column] for column in shown] for row in marks)])
    print()
    for row in marks:
        if row["same weights as"]:
            print(textwrap.fill(f"{row['hand-in']}: same weights as {row['same weights as']}", WIDTH))
    if args.csv:
        save_marks(args.csv, marks)
        print(f"what fails in each is in {args.csv}")
    return marks


def main(argv=None):
    """Check, pack and print; returns the rows, the tables, or the HTML files. Raises UserError unless all pass."""
    args = parse_args(argv)
    if args.hand_ins:
        return grade(args)
    if not args.output_root.is_dir():
        raise UserError(f"there is no folder {args.output_root}: expected one with models/, vis/ and log/")
    if args.tables:
        for name, rows in (found := tables(args.output_root)).items():
            print(f"<!-- table: {name} -->\n{markdown(rows)}\n")
        return found
    if args.html:
        return [make_html(path) for path in sorted(args.output_root.glob("report*.md"))]
    rows, ledger = check_all(args, args.output_root)
    failed, packed = [row for row in rows if not row.passed], None
    if args.zip and (args.force or not failed):
        data_sets = [args.flowers or PROJECT / "flowers", args.mnist or PROJECT / "mnist"]
        packed = pack(args.zip, PROJECT, [Path(root).resolve() for root in data_sets])
    if args.json:
        checks = [row._asdict() for row in rows]
        print(json.dumps({"passed": not failed, "checks": checks, "ledger": ledger, "packed": packed}, indent=1))
    else:
        print_report(rows, ledger if args.ledger else {})
        if packed:
            print_files(args.zip, packed, args.model)
    if failed:
        refused = "; not packed, --force does it even so" if args.zip and not args.force else ""
        raise UserError(f"{len(failed)} of {len(rows)} checks fail{refused}")
    return rows


if __name__ == "__main__":
    run_script(main)
