"""What is common to the command lines of all scripts."""

import fcntl
import json
import os
import pty
import struct
import sys
import termios

import pytest
from helpers import command, logged, popen, run

import main
import MLPAE_train_script
import random_generation
import train_script
from evaluation.models import TABLE, load_model
from training import PROJECT, UserError
from training.checkpoints import load_checkpoint

WRONG = [  # a script, its flags, and a part of the error
    (train_script, "--model AE --image-size 25", "expected a multiple of 4 above 0, found 25"),
    (train_script, "--model AE --image-size 24 24 24", "expected one number, or height and width"),
    (train_script, "--model GAN --beta 2", "GAN has no KL"),
    (train_script, "--model GAN --optimizer sgd", "GAN is trained with adam"),
    (train_script, "--model DDPM --encoding-dim 8", "DDPM has no latent vector"),
    (main, "--model CVAE --labels 12", "argument --labels: expected a digit from 0 to 9, found 12"),
    (main, "--model VAE --labels 2", "VAE knows no labels"),
    (main, "--model AE --beta 2", "AE has no KL"),
    (main, "--model AE --kl-peak 2", "AE has no KL"),
    (main, "--model AE --seed 99999999999999999999", "expected a whole number from 0 to 2^63 - 1, found 9999"),
    (main, "--model VAE --gif --figures-only", "--gif: --figures-only does not train"),
    (main, "--model VAE --figures-only --kl-peak 2", "--kl-peak: --figures-only does not train"),
    (main, "--model AE --samples 2", "AE has no KL"),
    (main, "--model VAE --samples 1001", "expected a whole number from 1 to 1000, found 1001"),
    (main, "--model CVAE --samples 2 --kl-peak 2", "has the KL at weight 1"),
    (main, "--model AE --evaluate", "AE is no distribution of images"),
    (main, "--model VAE --nll-samples 0 --evaluate", "expected a whole number from 1 to 2^63 - 1, found 0"),
    (main, "--model VAE --nll-samples 7", "--nll-samples: it is for --evaluate"),
    (main, "--model VAE --evaluate --binarize", "--binarize: --evaluate does not train"),
    (main, "--model VAE --evaluate --figures-only", "does not train"),
    (main, "--model CVAE --given 4", "argument --given: invalid choice: 4"),
    (main, "--model CVAE --given 2 --labels 3", "--labels: not for CVAE with --given"),
    (main, "--model NN --given 2 --samples 5", "--samples: not for NN with --given"),
    (main, "--model CVAE --given 2 --sampler gmm", "--sampler: not for CVAE with --given"),
    (main, "--model VAE --given 2", "VAE completes no digits; use --model CVAE or NN"),
    (main, "--model NN", "NN is the baseline of --given 1, 2 or 3"),
    (main, "--model NN --given 1 --latent-size 5", "--latent-size: not for NN with --given"),
    (main, "--model NN --given 1 --beta 2", "--beta: not for NN with --given"),
    (main, "--model NN --given 1 --evaluate --epochs 3", "--epochs: --evaluate does not train"),
    (train_script, "--model AE --evaluate", "AE has no likelihood"),
    (train_script, "--model AE --variance learned", "AE has no variance"),
    (train_script, "--model VAE --variance 0.1", "invalid choice: '0.1'"),
    (train_script, "--model VAE --evaluate --epochs 3", "--epochs: --evaluate does not train"),
    (main, "--model GAN", "expected one of AE, VAE, CVAE, NN, found GAN (GAN is a model of train_script.py)"),
    (main, "--model AE --lr abc", "argument --lr: expected a number above 0, found abc"),
    (main, "--model AE --epochs 0", "argument --epochs: expected a whole number from 1 to 2^63 - 1, found 0"),
    (train_script, "--model mlpae", "found mlpae (MLPAE is a model of MLPAE_train_script.py)"),
    (train_script, "--model cvae", "found cvae (CVAE is a model of main.py)"),
    (train_script, "--model nonsense", "expected one of AE, VAE, GAN, DDPM, Classifier, found nonsense"),
    (random_generation, "", "required: --model"),
    (random_generation, "--model GAN --sampler gmm", "for AE, VAE, not for GAN"),
    (random_generation, "--model DDPM --interpolate", "for AE, VAE, not for DDPM"),
    (random_generation, "--model VAE --label calendula", "for DDPM, not for VAE"),
    (random_generation, "--model GAN --guidance 2", "for DDPM, not for GAN"),
    (random_generation, "--model DDPM --temperature 2", "for AE, VAE, GAN, not for DDPM"),
    (random_generation, "--model DDPM --n 6000", "at most 5000"),
    (random_generation, "--model DDPM --score --guidance 2", "--guidance: not together with --score"),
    (random_generation, "--model VAE --interpolate --sampler gmm", "--sampler: not together with --interpolate"),
    (random_generation, "--model VAE --interpolate --score", "--interpolate: not together with --score"),
    (random_generation, "--model VAE --data synthetic", "need no photographs"),
]
RUN_EACH = """
import json, runpy, sys
for sys.argv in json.loads(sys.argv[1]):
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        status = stop.code
    print(json.dumps([status, [name for name in ("torch", "matplotlib", "PIL") if name in sys.modules]]))
sys.exit(status)
"""


def run_each(*command_lines):
    """(status, standard output, standard error) of a process that runs scripts, and prints how each of them ends."""
    argv = json.dumps([list(map(str, line)) for line in command_lines])
    return run([sys.executable, "-c", RUN_EACH, argv], cwd=PROJECT)


def test_help_is_quick_because_pytorch_waits():
    names = ("MLPAE_train_script", "train_script", "main", "visualization", "random_generation", "playground")
    status, out, err = run_each(*([f"{name}.py", "--help"] for name in names))
    *helps, rest = out.split("[0, []]\n")
    assert (status, len(helps), rest, err) == (0, 6, "", "")
    assert all("--output-root" in text for text in helps)
    assert "CVAE --given N: --beta 1.0, --latent-size 50, --shift 0.5, --epochs 12" in out


def test_what_a_user_can_mend_is_one_line_and_status_1(tmp_path):
    cases = [
        ("MLPAE_train_script.py --data-root no-such-folder", "no-such-folder is not a folder"),
        ("train_script.py --model VAE --device nonsense", "--device nonsense"),
        ("visualization.py --model MLPAE", "python MLPAE_train_script.py --output-root"),
        ("random_generation.py --model GAN", "python train_script.py --model GAN --output-root"),
        ("main.py --model CVAE --figures-only", "python main.py --model CVAE --output-root"),
    ]
    status, out, err = run_each(*([*line.split(), "--output-root", tmp_path] for line, _ in cases))
    for result, (_, expected) in zip(out.splitlines(), cases, strict=True):
        last_words, _ = json.loads(result)
        assert last_words.startswith("error: ")
        assert expected in last_words
        assert len(last_words.splitlines()) == 1
    assert (status, err) == (1, last_words + "\n")


@pytest.mark.parametrize(("script", "flags", "message"), WRONG)
def test_wrong_arguments_are_status_2(script, flags, message, capsys):
    with pytest.raises(SystemExit) as stop:
        script.main(flags.split())
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def trained_by(name):
    """(the module of the script that trains a model, its flags)."""
    if name == "MLPAE":
        return MLPAE_train_script, []
    model, _, given = name.removeprefix("MNIST_").partition("_given")
    flags = ["--model", model, *(["--given", given] if given else [])]
    return main if name.startswith("MNIST") else train_script, flags


@pytest.mark.parametrize("name", TABLE)
def test_a_missing_checkpoint_names_the_command_that_makes_it(name, tmp_path):
    script, flags = trained_by(name)
    maker = " ".join([f"{script.__name__}.py", *flags])
    with pytest.raises(UserError, match=rf"BestModel_{name}\.p.*`python {maker} --output-root \"{tmp_path}\"`"):
        load_model(name, tmp_path)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, for the MLPAE
@pytest.mark.parametrize("name", TABLE)
def test_a_loss_that_is_not_finite_stops_at_its_batch(name, tiny_flowers, tiny_mnist, tmp_path):
    script, flags = trained_by(name)
    lr = 1e300 if name == "MLPAE" else 1e30  # at 1e30 its sigmoid saturates, and the loss stays finite
    flags += ["--lr", lr, "--data-root", tiny_mnist if script is main else tiny_flowers, "--output-root", tmp_path]
    with pytest.raises(UserError, match=r"epoch \d+, (training|validation), batch \d+: the loss is (nan|inf); .*--lr"):
        logged(script.main, *flags, "--epochs", 50, "--patience", 50)
    for path in (tmp_path / "models").glob("BestModel_*"):
        assert load_checkpoint(path, made_by="test")["epoch"] >= 1


@pytest.mark.xdist_group("trained_flowers")
def test_the_progress_bar_is_on_a_terminal_and_the_log_is_the_same(trained_flowers, tiny_flowers, tmp_path):
    terminal, stderr = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    flags = ["--data-root", tiny_flowers, "--output-root", tmp_path, "--image-size", 12, 16, "--epochs", 3]
    argv = command("train_script.py", "--model", "AE", *flags, "--encoding-dim", 8)
    with open(tmp_path / "log.txt", "w") as file:
        process = popen(argv, stdout=file, stderr=stderr)
    os.close(stderr)
    shown = b""
    while True:
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # Linux: the other end is closed
            break
    assert process.wait(timeout=60) == 0
    assert b"batch/s" in shown
    assert b"loss" in shown
    assert (tmp_path / "log.txt").read_text().splitlines() == trained_flowers[1]["AE"][1]
