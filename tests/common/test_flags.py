"""The flags that scripts share."""

import re
from pathlib import Path

import pytest

from common import flags


def make_parser():
    parser = flags.make_parser("Train.", {"AE": {"epochs": 15, "batch_size": 16, "beta": None}, "VAE": {"epochs": 20}})
    flags.add_data_flags(parser)
    flags.add_training_flags(parser, epochs=10, batch_size=4, lr=0.5)
    flags.add_device_flag(parser)
    return parser


def test_flags_have_their_types_and_defaults():
    argv = f"--epochs {2**63 - 1} --lr 1e-3 --resume --output-root new".split()
    expected = {"epochs": 2**63 - 1, "seed": 0, "lr": 0.001, "batch_size": 4, "resume": True, "data": "auto"}
    args = make_parser().parse_args(argv)
    assert vars(args).items() > {**expected, "output_root": Path("new")}.items()


WRONG = [
    *[f"--epochs {value}" for value in (0, -1, "x", 1.5, 2**63)],
    *[f"--lr {value}" for value in ("nan", 0, "inf", -1, "x")],
    *["--seed -1", "--batch-size -3", "--data fake", "--no-such-flag"],
    f"--output-root {__file__}",
]


@pytest.mark.parametrize("argv", WRONG)
def test_wrong_arguments_are_status_2_and_named(argv, capsys):
    with pytest.raises(SystemExit) as status:
        make_parser().parse_args(argv.split(maxsplit=1))
    assert status.value.code == 2
    assert argv.split()[0] in capsys.readouterr().err.splitlines()[-1]


def test_the_help_lists_the_defaults_also_those_that_depend_on_the_model():
    text = make_parser().format_help()
    assert "AE: --epochs 15, --batch-size 16\n  VAE: --epochs 20\n" in text
    assert re.search(r"learning rate.*\(default: 0.5\)[\s\S]*--seed.*\(default: 0\)", text)
    assert not re.search("None|False", text)
