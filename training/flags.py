"""The flags that the scripts share, with their types and defaults. Imports no PyTorch, so that --help is quick."""

import argparse
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from training import PROJECT

FLOWERS_HELP = "one sub-folder of images a class, instead of ./flowers"
MNIST_HELP = "folder that holds MNIST/raw/, instead of ./mnist"
SPIN_VARIABLES = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}  # of the environment: how threads wait for each other
SPIN_COUNT = "100"  # turns of a loop, a few microseconds
SAMPLERS = {"normal": "N(0, I)", "gaussian": "a fitted Gaussian", "gmm": "a fitted mixture"}  # of latent vectors
READ_BY_EVALUATE = {"evaluate", "nll_samples", "model", "seed", "device", "data", "data_root", "output_root"}  # flags
MAX_SAMPLES = 1000  # of q(z|x) for each image in training
MAX_INT = 2**63 - 1  # what seeds and sizes are stored in
SCRIPT_OF = {"MLPAE": "MLPAE_train_script.py", "CVAE": "main.py"}  # whose models these are
SCRIPT_OF |= dict.fromkeys(("GAN", "DDPM", "Classifier"), "train_script.py")
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
        given = {name.replace("_", "-"): str(value).strip("[]") for name, value in values.items() if value is not None}
        lines.append(f"  {model}: {', '.join(f'--{name} {value}' for name, value in given.items())}")
    return argparse.ArgumentParser(description=description, formatter_class=HelpFormatter, epilog="\n".join(lines))


def parse_first(parse_args) -> None:
    """Answer --help and wrong flags before a script's slow imports; a Ctrl-C in these ends it without a traceback.

    PyTorch's threads (GNU OpenMP's) wait for each other several thousand times a second. By default one that waits
    keeps its core busy for milliseconds, also where the one that it waits for needs this core, because another program
    has its own. Where there is such a program, let it sleep soon, unless the user says otherwise; on a free machine
    that would cost time. benchmarks/README.md has the figures. The results are the same, bit for bit.
    """
    parse_args()
    if not SPIN_VARIABLES & os.environ.keys() and cores_in_use() > 0.5:
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a background job ignores it
        signal.signal(signal.SIGINT, lambda *_: sys.exit(128 + signal.SIGINT))


def cores_in_use(seconds: float = 0.1) -> float:
    """How many cores other programs use at the moment, while this one sleeps; 0 where there is no /proc/stat, as there
    is no GNU OpenMP there either."""

    def idle():
        with open("/proc/stat", encoding="ascii") as file:
            return sum(map(int, file.readline().split()[4:6])) / os.sysconf("SC_CLK_TCK")  # idle and waiting for disks

    try:
        before, started = idle(), time.perf_counter()
        time.sleep(seconds)
        return (os.cpu_count() or 1) - (idle() - before) / (time.perf_counter() - started)
    except (OSError, ValueError):
        return 0.0


def peek(argv, *names: str) -> argparse.Namespace:
    """The values of some flags alone, for the defaults of others; what is wrong with them is for the real parser."""
    parser = argparse.ArgumentParser(add_help=False)
    for name in names:
        parser.add_argument(f"--{name}")
    return parser.parse_known_args(argv)[0]


def find_model(text: str | None, models) -> str | None:
    """The one of these models that is meant, in upper or lower case, or None."""
    return next((name for name in models if name.lower() == str(text).lower()), None)


def model_type(models) -> Callable:
    """argparse type: one of these models, in upper or lower case; for one of another script the message names that."""

    def convert(text: str) -> str:
        name, other = find_model(text, models), find_model(text, SCRIPT_OF)
        if name is None:
            hint = f" ({other} is a model of {SCRIPT_OF[other]})" if other else ""
            raise argparse.ArgumentTypeError(f"expected one of {', '.join(models)}, found {text}{hint}")
        return name

    return convert


def add_model_flag(parser: argparse.ArgumentParser, models, help: str, **options) -> None:
    """--model, for a script that knows these."""
    parser.add_argument("--model", type=model_type(models), metavar=f"{{{','.join(models)}}}", help=help, **options)


def given(parser: argparse.ArgumentParser, args) -> list[str]:
    """The names of the flags that are not at their defaults."""
    return [name for name, value in vars(args).items() if value != parser.get_default(name)]


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


def add_sampler_flag(group, fitted_to: str) -> None:
    """--sampler, for a group of flags."""
    text = f"of latent vectors: N(0, I), or a Gaussian, or a mixture of ten, fitted to the training {fitted_to}"
    group.add_argument("--sampler", choices=list(SAMPLERS), default="normal", help=text)


def add_evaluation_flags(parser: argparse.ArgumentParser) -> None:
    """--evaluate and --nll-samples."""
    group = parser.add_argument_group("likelihood")
    group.add_argument("--evaluate", action="store_true", help="instead of training, estimate the likelihood of images")
    group.add_argument("--nll-samples", metavar="K", type=positive_int, default=1000, help="latent vectors an image")


def check_mode(parser: argparse.ArgumentParser, args, mode: str, read: set[str]) -> None:
    """End with status 2 where a flag that asks for a trained model, as --evaluate does, is beside those of a training;
    read: the names of the flags that it heeds."""
    ignored = sorted(set(given(parser, args)) - read) if vars(args)[mode] else []
    if ignored:
        flag, mode = (name.replace("_", "-") for name in (ignored[0], mode))
        parser.error(f"argument --{flag}: --{mode} does not train, it would be ignored; leave out one of them")
    if mode == "evaluate" and args.nll_samples != parser.get_default("nll_samples") and not args.evaluate:
        parser.error("argument --nll-samples: it is for --evaluate")


def folder(text: str) -> Path:
    """argparse type: a folder, or the name of one that is to be made."""
    if os.path.exists(text) and not os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"expected a folder, found the file {text}")
    return Path(text)


def number(kind: type, expected: str, fits) -> Callable:
    """argparse type: what `kind` makes of the text, where that fits; what was expected stands in the message."""

    def convert(text: str):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not fits(value):
            raise argparse.ArgumentTypeError(f"expected {expected}, found {text}")
        return value

    return convert


natural_int = number(int, "a whole number from 0 to 2^63 - 1", lambda value: 0 <= value <= MAX_INT)
positive_int = number(int, "a whole number from 1 to 2^63 - 1", lambda value: 1 <= value <= MAX_INT)
positive_float = number(float, "a number above 0", lambda value: 0 < value < math.inf)
share = number(float, "a number from 0 to 1", lambda value: 0 <= value <= 1)
multiple_of_4 = number(int, "a multiple of 4 above 0", lambda value: 0 < value <= MAX_INT and value % 4 == 0)
sample_count = number(int, f"a whole number from 1 to {MAX_SAMPLES}", lambda value: 1 <= value <= MAX_SAMPLES)
port = number(int, "a whole number from 1 to 65535", lambda value: 1 <= value <= 65535)
digit = number(int, "a digit from 0 to 9", lambda value: 0 <= value <= 9)
