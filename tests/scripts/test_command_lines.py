"""What is common to the command lines of all scripts."""

import contextlib
import io
import re
import runpy
import sys

import pytest
from helpers import logged
from tqdm import tqdm

import main
import MLPAE_train_script
import random_generation
import train_script
import visualization
from common import PROJECT, UserError
from common.checkpoints import load_checkpoint
from trained.loading import load_model
from trained.registry import MODELS

SCRIPTS = (MLPAE_train_script, train_script, main, visualization, random_generation)
WRONG = [  # a script, its flags, and a part of the error
    (train_script, "--model AE --image-size 25", "expected a multiple of 4 above 0, found 25"),
    (train_script, "--model DDPM --encoding-dim 8", "argument --encoding-dim: DDPM has no latent vector"),
    (train_script, "--model CVAE", "argument --model: invalid choice"),
    (train_script, "", "required: --model"),
    (main, "--model AE --beta 2", "argument --beta: the loss of the AE has no KL"),
    (main, "--model GAN", "argument --model: invalid choice"),
    (main, "--model AE --lr abc", "argument --lr: expected a number above 0, found abc"),
    (random_generation, "--model VAE --label calendula", "it is for DDPM"),
    (random_generation, "--model GAN --guidance 2", "it is for DDPM"),
    (random_generation, "--model DDPM --temperature 2", "argument --temperature: it is not for DDPM"),
    (random_generation, "--model DDPM --n 6000", "expected a whole number from 1 to 5000, found 6000"),
    (visualization, "--model MNIST_AE", "argument --model: invalid choice"),
    *[(script, f"--output-root {__file__}", "expected a folder, found the file") for script in SCRIPTS],
    (train_script, "--modle VAE --epochs 3", "unknown flag --modle, did you mean --model?"),
    (MLPAE_train_script, "--optimizer=adam", "unknown flag --optimizer\n"),
]


@pytest.mark.parametrize(("script", "flags", "message"), WRONG)
def test_wrong_arguments_are_status_2(script, flags, message, capsys):
    with pytest.raises(SystemExit) as stop:
        script.main(flags.split())
    assert stop.value.code == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert re.fullmatch("usage: .*; --help lists them\nerror: .*\n", errors)


@pytest.fixture
def start(status_of, monkeypatch):
    """start(line): run a script as the command line does; returns its status, or the message of status 1."""

    def start(line):
        script, *flags = line.split()
        monkeypatch.setattr(sys, "argv", [script, *flags])
        return status_of(lambda: runpy.run_path(str(PROJECT / script), run_name="__main__"))

    return start


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.__name__)
def test_the_help_names_the_flags(script, start, capsys):
    assert start(f"{script.__name__}.py --help") == 0
    out, err = capsys.readouterr()
    assert "--output-root DIR" in out
    assert err == ""


def test_a_script_runs_in_a_notebook(tiny_flowers, tmp_path, monkeypatch):
    """As by `%run`, where standard output is an object without a file."""
    line = f"MLPAE_train_script.py --epochs 1 --output-root {tmp_path} --data-root"
    monkeypatch.setattr(sys, "argv", [*line.split(), str(tiny_flowers)])
    monkeypatch.setattr(sys, "ps1", "In : ", raising=False)
    with contextlib.redirect_stdout(io.StringIO()) as log:
        runpy.run_path(str(PROJECT / "MLPAE_train_script.py"), run_name="__main__")
    assert log.getvalue().splitlines()[-1].startswith("Best Valid Loss: ")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("MLPAE_train_script.py --data-root no-such-folder", "no-such-folder is not a folder"),
        ("train_script.py --model VAE --device nonsense", "--device nonsense does not work"),
        ("visualization.py --model MLPAE", "python MLPAE_train_script.py --output-root"),
        ("random_generation.py --model GAN", "python train_script.py --model GAN --output-root"),
        ("main.py --model CVAE --data-root no-such-folder", "no-such-folder is not a folder"),
    ],
)
def test_an_error_that_the_user_can_fix_is_one_line(line, message, start, tmp_path):
    error = start(f"{line} --output-root {tmp_path}")
    assert re.fullmatch(rf"error: .*{message}.*", error)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", MODELS)
def test_a_missing_checkpoint_names_the_command_that_makes_it(name, tmp_path):
    command = MODELS[name].command.format(name.removeprefix("MNIST_"))
    with pytest.raises(UserError, match=rf"BestModel_{name}\.p.*`python {command} --output-root \"{tmp_path}\"`"):
        load_model(name, tmp_path)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, for the MLPAE
@pytest.mark.parametrize("name", ["MLPAE", *train_script.TRAININGS, *(f"MNIST_{model}" for model in main.BETAS)])
def test_a_loss_that_is_not_finite_stops_at_its_batch(name, tiny_flowers, tiny_mnist, tmp_path):
    script, root = (main, tiny_mnist) if name.startswith("MNIST") else (train_script, tiny_flowers)
    flags = ["--model", name.removeprefix("MNIST_"), "--lr", 1e30]
    if name == "MLPAE":
        script, flags = MLPAE_train_script, ["--lr", 1e300, "--patience", 50]  # at 1e30 its sigmoid saturates
    elif script is train_script:
        flags += ["--image-size", 8]
    with pytest.raises(UserError, match=r"epoch \d+, (training|validation), batch \d+: the loss is (nan|inf); .*--lr"):
        logged(script.main, *flags, "--epochs", 50, "--data-root", root, "--output-root", tmp_path)
    for path in (tmp_path / "models").glob("BestModel_*"):
        assert load_checkpoint(path, made_by="test")["epoch"] >= 1


class EveryBatch(tqdm):
    """A progress bar that shows every batch, however quick."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs, mininterval=0)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.xdist_group("trained_flowers")
def test_the_progress_bar_is_on_a_terminal_and_not_in_the_log(trained_flowers, tiny_flowers, tmp_path, monkeypatch):
    root, runs = trained_flowers
    flags = ["--data-root", tiny_flowers, "--output-root", tmp_path, "--image-size", 12, "--encoding-dim", 8]
    terminal = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", terminal)
        patch.setattr("common.process.tqdm", EveryBatch)
        _, log = logged(train_script.main, "--model", "AE", *flags, "--epochs", 3)
    for text in ("epoch 1, training", "batch/s", "loss "):
        assert text in terminal.getvalue()
    assert log == [line.replace(str(root), str(tmp_path)) for line in runs["AE"][1]]
