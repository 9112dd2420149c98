"""The flags that several scripts share, and the types of their values."""

import argparse
import difflib
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

from common import PROJECT

FLOWERS_HELP = "folder with one sub-folder of photographs per class (default: ./flowers)"
MNIST_HELP = "folder of MNIST's four files (default: ./mnist)"
MAX_INT = 2**63 - 1  # the largest number that seeds and sizes are stored in


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Adds the default to the help of each flag that has one."""

    def _get_help_string(self, action):
        has_default = action.default is not None and action.default is not False
        return super()._get_help_string(action) if has_default else action.help


class Parser(argparse.ArgumentParser):
    """Answers wrong arguments in two lines, and an unknown flag with the nearest known one."""

    def parse_known_args(self, args=None, namespace=None):
        """As argparse's, but an unknown flag is named before a required one that is missing because of it."""
        args = sys.argv[1:] if args is None else args
        known = list(self._option_string_actions)
        for text in args:
            flag = text.partition("=")[0]
            if flag.startswith("--") and not any(name.startswith(flag) for name in known):  # argparse knows beginnings
                nearest = difflib.get_close_matches(flag, known, n=1, cutoff=0.7)
                self.error(f"unknown flag {flag}" + (f", did you mean {nearest[0]}?" if nearest else ""))
        return super().parse_known_args(args, namespace)

    def error(self, message):
        required = [
            f"{action.option_strings[-1]} {self._choices(action)}" for action in self._actions if action.required
        ]
        usage = " ".join([f"usage: {self.prog}", *required, "[flags]"])
        self.exit(2, f"{usage}; --help lists them\nerror: {message}\n")

    @staticmethod
    def _choices(action):
        return "|".join(action.choices) if action.choices else action.metavar


def make_parser(
    description: str, defaults: dict[str, dict] | None = None, module: str | None = None
) -> argparse.ArgumentParser:
    """A parser. defaults: {model: {flag: value}}, those that depend on --model; they are listed below the flags.
    module: the name by which `python -m` starts the script, where it does."""
    lines = ["defaults that depend on --model:"] if defaults else []
    for model, values in (defaults or {}).items():
        flags = [f"--{name.replace('_', '-')} {value}" for name, value in values.items() if value is not None]
        lines.append(f"  {model}: {', '.join(flags)}")
    return Parser(
        f"python -m {module}" if module else None,
        description=description,
        formatter_class=HelpFormatter,
        epilog="\n".join(lines),
    )


def add_data_flags(parser: argparse.ArgumentParser, root_help: str = FLOWERS_HELP) -> None:
    """--data, --data-root and --output-root."""
    group = parser.add_argument_group("data and output")
    choices = ["auto", "real", "synthetic"]
    group.add_argument("--data", choices=choices, default="auto", help="auto: real if it is there, else synthetic")
    group.add_argument("--data-root", metavar="DIR", type=Path, help=root_help)
    add_output_flag(group)


def add_output_flag(parser) -> None:
    """--output-root, for a parser or a group of flags."""
    text = "folder in which models/ and vis/ are read and written"
    parser.add_argument("--output-root", metavar="DIR", type=folder, default=PROJECT, help=text)


def add_training_flags(parser: argparse.ArgumentParser, **defaults) -> None:
    """--epochs, --batch-size, --lr, --seed and --resume; defaults: of the first three."""
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", metavar="N", type=positive_int, help="most epochs to train")
    group.add_argument("--batch-size", metavar="N", type=positive_int, help="images per step")
    group.add_argument("--lr", metavar="X", type=positive_float, help="learning rate, at its highest")
    group.add_argument("--seed", metavar="N", type=natural_int, default=0, help="of all random numbers")
    group.add_argument("--resume", action="store_true", help="continue from models/LastModel_*")
    parser.set_defaults(**defaults)


def add_device_flag(parser: argparse.ArgumentParser) -> None:
    """--device."""
    parser.add_argument("--device", metavar="NAME", default="auto", help="cuda, mps or cpu; auto: the first available")


def folder(text: str) -> Path:
    """argparse type: a folder, which need not exist yet."""
    if os.path.exists(text) and not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"expected a folder, found the file {text}")
    return Path(text)


def number(kind: type, expected: str, is_valid) -> Callable:
    """argparse type: a number of that kind for which is_valid(number) is true; expected: says so in the message."""

    def convert(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not is_valid(value):
            raise argparse.ArgumentTypeError(f"expected {expected}, found {text}")
        return value

    return convert


natural_int = number(int, "a whole number from 0 to 2^63 - 1", lambda value: 0 <= value <= MAX_INT)
positive_int = number(int, "a whole number from 1 to 2^63 - 1", lambda value: 1 <= value <= MAX_INT)
positive_float = number(float, "a number above 0", lambda value: 0 < value < math.inf)
