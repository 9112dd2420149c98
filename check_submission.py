"""Is it ready to hand in? Every target of the courseworks, checked on the files themselves, and the archive.

    python check_submission.py                          # the table: target, pass or FAIL, and what was found
    python check_submission.py --model MLPAE            # the compulsory part of the flowers alone
    python check_submission.py --ledger                 # and each loss in every unit in use
    python check_submission.py --zip hand-in.zip        # packs what passes
    python check_submission.py --output-root DIR        # somebody else's models/, vis/ and log/

Losses are computed anew from the weights and compared with what log and checkpoint claim. Nothing that the checked
files hold is run as code. Exit status 0 only where everything passes.
"""

from pathlib import Path

from training import PROJECT
from training.flags import add_output_flag, make_parser, parse_first

MODELS = ("MLPAE", "AE", "VAE", "MNIST_AE", "MNIST_VAE", "MNIST_CVAE")


def parse_args(argv=None):
    """The flags."""
    parser = make_parser("Check what is handed in, and pack it.")
    parser.add_argument("--model", choices=MODELS, nargs="+", default=list(MODELS), help="which ones to check")
    parser.add_argument("--ledger", action="store_true", help="also print each loss in every unit in use")
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
    return args


if __name__ == "__main__":
    parse_first(parse_args)

import json
import os
import re
import zipfile
from fnmatch import fnmatch
from functools import cache, partial

from data import create_flower_dataloaders, create_mnist_dataloaders
from evaluation.models import TABLE
from evaluation.submission import TARGETS, Row, check_model
from main import Losses
from training import UserError, printable
from training.checkpoints import atomic_write
from training.script import run_script

BATCH = 256  # images at once, as in validation
NOT_HANDED_IN = ("flowers", "mnist", ".git", "__pycache__", "LastModel_*", "*.tmp", "*.zip", ".DS_Store")
NOT_HANDED_IN += (".ipynb_checkpoints", ".hypothesis")
MARKERS = ("CACHEDIR.TAG", "pyvenv.cfg", "conda-meta")  # what caches and virtual environments hold


def find_images(args, data: str):
    """(train loader, validation loader) of "flowers" or "MNIST", or the UserError that says why not."""
    try:
        if data == "flowers":
            return create_flower_dataloaders(BATCH, args.flowers, data="real")
        return create_mnist_dataloaders(BATCH, args.mnist, data="real")
    except UserError as error:
        reason = re.split(r"\. Name|: put", str(error))[0]  # its advice names the flags of other scripts
        return UserError(f"{reason} (--{data.lower()} names the folder)")


def check_all(args) -> tuple[list[Row], dict]:
    """The rows, and the losses in every unit: {model: {"train": {unit: value, ...}, "valid": ...}}."""
    find, measured, rows = cache(partial(find_images, args)), {}, []
    needed = {TARGETS[name].better_than for name in args.model}
    for name in MODELS:
        if name in args.model or name in needed:
            found = list(check_model(name, args.output_root, find(TABLE[name].data), measured, Losses))
            rows += found if name in args.model else []
    return rows, {name: measured[name] for name in args.model if name in measured}


def pack(path: Path, root: Path, data_sets: list[Path]) -> dict[str, int]:
    """Write what belongs to a hand-in (no data sets, caches, virtual environments, archives, nor LastModel_*) into an
    archive, in one folder; returns {file: bytes}."""
    files = {source.relative_to(root).as_posix(): source for source in _list_files(root, data_sets)}
    with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as out:
        for name, source in files.items():
            out.write(source, f"{path.stem}/{name}")
    return {name: source.stat().st_size for name, source in files.items()}


def _list_files(root, data_sets):
    files = []
    for folder, folders, names in os.walk(root):
        here = Path(folder)
        folders[:] = [name for name in folders if _belongs(here / name) and (here / name).resolve() not in data_sets]
        files += [here / name for name in names if _belongs(here / name) and (here / name).is_file()]
    return sorted(files)


def _belongs(path):
    named = any(fnmatch(path.name, pattern) for pattern in NOT_HANDED_IN)
    return not named and not any((path / marker).exists() for marker in MARKERS)


def print_table(lines: list[list[str]]) -> None:
    """Columns as wide as they need to be, and a blank line where the first one, the model, changes."""
    lines = [[format_cell(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for previous, line in zip([lines[0], *lines], lines, strict=False):
        print("" if line[0] == previous[0] else "\n", end="")
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def format_cell(value) -> str:
    """A cell of a table; what an untrusted file says may hold control characters."""
    if value is None:
        return "-"
    return printable(value) if isinstance(value, str) else f"{value:.5g}"


def print_report(rows: list[Row], ledger: dict) -> None:
    """The table, the ledger where there is one, and what fails."""
    lines = [[*row[:3], "pass" if row.passed else "FAIL", row.found] for row in rows]
    print_table([["model", "check", "target", "result", "found"], *lines])
    if ledger:
        print("\nEach loss that the weights give, of an image unless the column says otherwise:\n")
        units = next(iter(ledger.values()))["train"]
        splits = [[name, split, *found.values()] for name, of in ledger.items() for split, found in of.items()]
        print_table([["model", "split", *units], *splits])
    print()
    for row in rows:
        if not row.passed:
            print(f"{row.model}, {row.check}: {format_cell(row.found)}")
    print(f"{sum(row.passed for row in rows)} of {len(rows)} checks pass")


def print_files(path: Path, packed: dict[str, int], models: list[str]) -> None:
    """What went into the archive."""
    print(f"\n{path}, in KiB:")
    for name, size in packed.items():
        print(f"{size / 1024:10,.1f}  {name}")
    unchecked = [name for name in MODELS if name not in models]
    print(f"{len(packed)} files, {path.stat().st_size / 2**20:.1f} MiB as an archive", end="")
    print(f"; not checked, but in it: {', '.join(unchecked)}" if unchecked else "")


def main(argv=None):
    """Check, pack and print; returns the rows. Raises UserError unless everything passes."""
    args = parse_args(argv)
    rows, ledger = check_all(args)
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
