"""Argument types, defaults that depend on other flags, and how a script ends."""

import signal
import subprocess
import sys

import pytest
import torch

from training import PROJECT, UserError
from training.flags import add_data_flags, add_training_flags, make_parser, multiple_of_4, peek
from training.script import Terminated, run_script


def parse(*argv):
    """The flags of a training."""
    parser = make_parser("a toy")
    add_data_flags(parser)
    add_training_flags(parser, epochs=10, batch_size=4, lr=0.5, patience=3)
    return parser.parse_args(list(map(str, argv)))


@pytest.mark.parametrize(
    "argv",
    [
        *[["--epochs", "0"], ["--epochs", "x"], ["--batch-size", "-3"], ["--patience", "0"], ["--seed", "-1"]],
        *[["--lr", "nan"], ["--lr", "0"], ["--lr", "inf"], ["--data", "fake"], ["--no-such-flag"]],
        *[["--seed", str(2**63)], ["--output-root", __file__]],
    ],
)
def test_wrong_arguments_are_status_2(argv, capsys):
    with pytest.raises(SystemExit) as error:
        parse(*argv)
    assert error.value.code == 2
    assert argv[0] in capsys.readouterr().err


def test_sizes_are_multiples_of_4():
    assert multiple_of_4("12") == 12
    with pytest.raises(Exception, match="25"):
        multiple_of_4("25")


def test_flags_are_peeked_at_without_complaint():
    found = peek(["--mod", "VAE", "--lr", "nonsense", "--optimizer=sgd"], "model", "optimizer")
    assert (found.model, found.optimizer) == ("VAE", "sgd")
    assert peek([], "model").model is None


def test_help_shows_the_defaults_of_each_model():
    text = make_parser("a toy", {"AE": {"batch_size": 7, "beta": None}, "VAE": {"batch_size": 9}}).format_help()
    assert "AE: --batch-size 7\n" in text
    assert "VAE: --batch-size 9\n" in text
    assert "beta" not in text


def status_of(error):
    """What run_script passes to sys.exit where main() raises that error."""

    def main():
        raise error

    with pytest.raises(SystemExit) as status:
        run_script(main)
    return status.value.code


@pytest.fixture
def _own_signals():
    """The handlers that run_script sets are taken back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_own_signals")
def test_how_a_script_ends(capsys):
    assert status_of(UserError("mend\nit")) == "error: mend it"  # printed, with status 1, by the interpreter
    assert "not enough memory" in status_of(MemoryError("Unable to allocate 116. GiB"))
    cuda = status_of(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nOf the allocated memory"))
    assert "not enough memory" in cuda
    assert "\n" not in cuda
    assert status_of(KeyboardInterrupt("stopped after epoch 3")) == 128 + signal.SIGINT
    assert status_of(Terminated()) == 128 + signal.SIGTERM
    assert capsys.readouterr().err == "stopped after epoch 3\nstopped\n"
    assert run_script(lambda: None) is None


@pytest.mark.usefixtures("_own_signals")
@pytest.mark.parametrize("error", [RuntimeError("CUDA error: an illegal memory access"), OSError("x"), KeyError("x")])
def test_faults_of_ours_are_not_hidden(error):
    with pytest.raises(type(error)):
        run_script(lambda: (_ for _ in ()).throw(error))


def test_ctrl_c_in_the_slow_imports_ends_without_a_traceback():
    code = "import os, signal\nfrom training.flags import parse_first\nsignal.signal(2, signal.default_int_handler)\n"
    code += "parse_first(lambda: None)\nos.kill(os.getpid(), signal.SIGINT)\nimport time; time.sleep(10)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "")
