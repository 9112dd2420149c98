"""The flags that the scripts share, with their types and defaults. Imports no PyTorch, so that --help is quick."""

import argparse
import math
import os
import signal
import sys
from pathlib import Path

from training import PROJECT

FLOWERS_HELP = "one sub-folder of images a class, instead of ./flowers"
MNIST_HELP = "folder that holds MNIST/raw/, instead of ./mnist"
MAX_INT = 2**63 - 1  # what seeds and sizes are stored in
LR_DECAY, LR_DECAY_EVERY = 0.9, 5  # the coursework's schedule for plain SGD: x 0.9 every 5 epochs


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Adds to each flag's help its default, where it has one."""

    def _get_help_string(self, action):
        has_default = action.default is not None and action.default is not False
        return super()._get_help_string(action) if has_default else action.help


def make_parser(description: str, defaults: dict | None = None) -> argparse.ArgumentParser:
    """A parser whose --help ends with the defaults that depend on --model, {model: {flag: value}}."""
    lines = ["defaults that depend on --model:"] if defaults else []
    for model, values in (defaults or {}).items():
        flags = (f"--{name.replace('_', '-')} {value}" for name, value in values.items() if value is not None)
        lines.append(f"  {model}: {', '.join(flags)}")
    return argparse.ArgumentParser(description=description, formatter_class=HelpFormatter, epilog="\n".join(lines))


def parse_first(parse_args) -> None:
    """Answer --help and wrong flags before a script's slow imports; a Ctrl-C in these ends it without a traceback."""
    parse_args()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a background job ignores it
        signal.signal(signal.SIGINT, lambda *_: sys.exit(128 + signal.SIGINT))


def peek(argv, *names: str) -> argparse.Namespace:
    """The values of some flags alone, for the defaults of others; what is wrong with them is for the real parser."""
    parser = argparse.ArgumentParser(add_help=False)
    for name in names:
        parser.add_argument(f"--{name}")
    return parser.parse_known_args(argv)[0]


def add_data_flags(parser: argparse.ArgumentParser, data_root: str = FLOWERS_HELP) -> None:
    """--data, --data-root (with its help) and --output-root, the same in every script."""
    group = parser.add_argument_group("data and output")
    choices = ["auto", "real", "synthetic"]
    group.add_argument("--data", choices=choices, default="auto", help="auto: real if there, else synthetic")
    group.add_argument("--data-root", metavar="DIR", type=Path, help=data_root)
    add_output_flag(group)


def add_output_flag(parser) -> None:
    """--output-root, for a parser or a group of flags."""
    where = "where models/ and vis/ are, or will be"
    parser.add_argument("--output-root", metavar="DIR", type=folder, default=PROJECT, help=where)


def add_training_flags(parser: argparse.ArgumentParser, **defaults) -> None:
    """The flags of `fit`; defaults: of epochs, batch_size, lr and patience, here or by the parser's set_defaults."""
    group = parser.add_argument_group("training")
    group.add_argument("--epochs", metavar="N", type=positive_int, help="most epochs to train")
    group.add_argument("--batch-size", metavar="N", type=positive_int, help="images a step")
    group.add_argument("--lr", metavar="X", type=positive_float, help="learning rate, at its highest")
    group.add_argument("--patience", metavar="N", type=positive_int, help="stop after N validations without a gain")
    group.add_argument("--seed", metavar="N", type=natural_int, default=0, help="of the weights and the image order")
    group.add_argument("--resume", action="store_true", help="continue from models/LastModel_*")
    parser.set_defaults(**defaults)


def add_torch_flags(parser: argparse.ArgumentParser) -> None:
    """--device and --amp, for what PyTorch trains."""
    group = parser.add_argument_group("hardware")
    group.add_argument("--device", metavar="NAME", default="auto", help="cuda, mps or cpu; auto: the first there is")
    group.add_argument("--amp", action="store_true", help="bfloat16 where it is precise enough, on any device")


def folder(text: str) -> Path:
    """argparse type: a folder, or the name of one that is to be made."""
    if os.path.exists(text) and not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text} is a file, expected a folder")
    return Path(text)


def natural_int(text: str) -> int:
    """argparse type: 0, 1, 2, ..."""
    value = int(text)
    if not 0 <= value <= MAX_INT:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 2^63 - 1")
    return value


def positive_int(text: str) -> int:
    """argparse type: 1, 2, 3, ..."""
    value = natural_int(text)
    if value == 0:
        raise argparse.ArgumentTypeError("0 is not 1 or more")
    return value


def positive_float(text: str) -> float:
    """argparse type: a finite number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a finite number above 0")
    return value


def multiple_of_4(text: str) -> int:
    """argparse type: 4, 8, 12, ..."""
    value = positive_int(text)
    if value % 4:
        raise argparse.ArgumentTypeError(f"{text} is not a multiple of 4")
    return value
