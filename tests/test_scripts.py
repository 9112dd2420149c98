"""Every script, from its command line to its files."""

import fcntl
import os
import pickle
import pty
import re
import struct
import subprocess
import sys
import termios

import numpy as np
import pytest
import torch
from conftest import assert_picture
from PIL import Image

import MLPAE_train_script as mlpae
import visualization
from synthetic import make_flowers
from training import PROJECT

EPOCH = re.compile(r"Epoch: (\d+), Train Loss: (\d+\.\d{6}), Valid Loss: (\d+\.\d{6})( \*)?")


def command(script, *argv):
    return [sys.executable, str(PROJECT / script), *map(str, argv)]


def run(script, *argv, cwd=PROJECT):
    """Run a script as a process, without a display and without a terminal."""
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "TERM")}
    return subprocess.run(command(script, *argv), cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def weights(output_root, name="BestModel_MLPAE.pkl"):
    with open(output_root / "models" / name, "rb") as file:
        state_dict = pickle.load(file)["state_dict"]
    return [array for part in ("encoder", "decoder") for array in state_dict[part]]


@pytest.fixture(scope="module")
def trained(tiny_flowers, tmp_path_factory):
    """An output root with an MLP autoencoder trained for four epochs, by a process in another folder."""
    root = tmp_path_factory.mktemp("output root")
    argv = ("--data-root", tiny_flowers, "--output-root", root, "--epochs", 4)
    result = run("MLPAE_train_script.py", *argv, cwd=root)
    assert result.returncode == 0, result.stderr
    return root, result, argv


def test_the_log_is_clean_and_complete(trained):
    root, result, _ = trained
    lines = result.stdout.splitlines()
    assert lines[0].startswith("Data: flowers, 60 images of 3 classes (astilbe, bellflower, calendula) at 24x24")
    assert lines[1] == "Model: MLPAE, 1728 -> 256 -> 128 -> 64 -> 128 -> 256 -> 1728, 969,216 parameters"
    assert lines[2].startswith("Settings: ")
    rows = [EPOCH.fullmatch(line).groups() for line in lines[3:-1]]
    assert [int(row[0]) for row in rows] == [1, 2, 3, 4]
    losses = [float(row[2]) for row in rows]
    assert losses[-1] < losses[0]
    number = re.fullmatch(
        r"Best Valid Loss: (\d\.\d{6}) \(epoch (\d)\), saved to models/BestModel_MLPAE.pkl", lines[-1]
    )
    assert float(number[1]) == min(losses) == losses[int(number[2]) - 1]
    assert "batch/s" not in result.stderr  # no progress bar where there is no terminal
    assert "Traceback" not in result.stderr
    assert sorted(os.listdir(root / "models")) == [
        "BestModel_MLPAE.pkl",
        "LastModel_MLPAE.lock",
        "LastModel_MLPAE.pkl",
    ]
    assert_picture(root / "vis" / "loss_MLPAE.png")


def test_the_same_seed_prints_the_same_bytes_and_another_does_not(trained, tmp_path):
    root, result, argv = trained
    again = run("MLPAE_train_script.py", *argv, "--output-root", tmp_path)
    assert again.stdout == result.stdout
    for found, expected in zip(weights(tmp_path), weights(root), strict=True):
        np.testing.assert_array_equal(found, expected)
    other = run("MLPAE_train_script.py", *argv, "--output-root", tmp_path, "--seed", 1)
    assert other.stdout.splitlines()[3:] != result.stdout.splitlines()[3:]


@pytest.mark.parametrize(
    "command_line",
    ["MLPAE_train_script.py", "train_script.py --model VAE --device nonsense", "visualization.py --model AE"],
)
def test_what_a_user_can_mend_is_one_line_and_status_1(command_line, tmp_path):
    result = run(*command_line.split(), "--data-root", tmp_path / "nowhere", "--output-root", tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("script", "model", "file", "maker"),
    [
        ("visualization.py", "MLPAE", "BestModel_MLPAE.pkl", "MLPAE_train_script.py"),
        ("random_generation.py", "VAE", "BestModel_VAE.pth", "train_script.py --model VAE"),
    ],
)
def test_a_missing_checkpoint_names_the_command_that_makes_it(script, model, file, maker, tmp_path):
    result = run(script, "--model", model, "--output-root", tmp_path)
    assert result.returncode == 1
    made_by = re.escape(f'`python {maker} --output-root "{tmp_path}"`')
    assert re.fullmatch(rf"error: .*{file} does not exist.*{made_by}\n", result.stderr)


def test_the_reconstructions_are_drawn(trained, tiny_flowers):
    root, log, _ = trained
    result = run("visualization.py", "--model", "MLPAE", "--data-root", tiny_flowers, "--output-root", root, cwd=root)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    for name in ("train_MLPAE.png", "valid_MLPAE.png", "loss_MLPAE.png"):
        assert_picture(root / "vis" / name)


def test_the_picture_shows_the_loss_of_the_log(trained, tiny_flowers, monkeypatch):
    root, result, _ = trained
    titles = []
    monkeypatch.setattr(visualization, "plot_reconstructions", lambda *args: titles.append(args[-1]))
    errors = visualization.main(["--model", "MLPAE", "--data-root", str(tiny_flowers), "--output-root", str(root)])
    best = float(re.search(r"Best Valid Loss: (\S+)", result.stdout)[1])
    assert errors["valid"] == pytest.approx(best, abs=1e-6)
    assert re.match(r"MLPAE, epoch 4, validation loss 0\.\d+: train split of flowers\n", titles[0])
    assert titles[1].endswith(f"mean squared error of the whole split {errors['valid']:.4f}")


def test_pictures_of_other_data_than_the_model_was_trained_on_say_so(trained, monkeypatch, capsys):
    root, *_ = trained
    titles = []
    monkeypatch.setattr(visualization, "plot_reconstructions", lambda *args: titles.append(args[-1]))
    visualization.main(["--model", "MLPAE", "--data", "synthetic", "--output-root", str(root)])
    assert all("synthetic flowers\n(not the images it was trained on: flowers)" in title for title in titles)
    assert "not the images that MLPAE was trained on" in capsys.readouterr().err


def test_originals_stand_above_reconstructions(tmp_path):
    originals, reconstructions = np.zeros((3, 3, 8, 6)), np.zeros((3, 3, 8, 6))
    originals[:, 0], reconstructions[:, 2] = 1, 1  # red above blue
    visualization.plot_reconstructions(originals, reconstructions, tmp_path / "grid.png", "title")
    pixels = np.asarray(Image.open(tmp_path / "grid.png").convert("RGB")).astype(int)
    red, blue = ((pixels == color).all(axis=2) for color in ([255, 0, 0], [0, 0, 255]))
    assert red.sum() == pytest.approx(blue.sum(), rel=0.05)
    assert red.sum() > 1000
    assert np.nonzero(red)[0].max() < np.nonzero(blue)[0].min()


def test_a_checkpoint_of_other_layers_is_refused(trained, tmp_path):
    root, *_ = trained
    with open(root / "models" / "BestModel_MLPAE.pkl", "rb") as file:
        checkpoint = pickle.load(file)
    model = mlpae.build_autoencoder(24, 24)
    mlpae.set_weights(model, checkpoint["state_dict"])
    for param, array in zip(model.params, weights(root), strict=True):
        np.testing.assert_array_equal(param, array)
    with pytest.raises(ValueError, match="encoder has not the layers of MLPAE"):
        mlpae.set_weights(mlpae.build_autoencoder(24, 32), checkpoint["state_dict"])


def test_the_network_starts_with_the_mean_image_and_loses_nothing_to_relu():
    np.random.seed(0)
    model = mlpae.build_autoencoder(8, 8)
    mean = np.random.default_rng(0).uniform(0.1, 0.9, 192)
    mlpae.initialise(model, mean)
    difference = np.random.default_rng(1).uniform(-0.1, 0.1, (5, 192))
    np.testing.assert_allclose(model.forward(mean + difference), np.tile(mean, (5, 1)), rtol=1e-5)
    encoder = model.nodes[0]
    code = encoder.forward(mean + difference)
    assert code.shape == (5, 64)
    np.testing.assert_allclose(encoder.forward(mean - difference), -code, atol=1e-5)  # linear around the mean
    np.testing.assert_allclose(encoder.forward(mean + 3 * difference), 3 * code, atol=1e-5)


def test_training_moves_every_layer():
    np.random.seed(0)
    model = mlpae.build_autoencoder(24, 24)
    mse, x = mlpae.MSE(), mlpae.flatten(torch.from_numpy(make_flowers(per_class=5)[0]) / 255)
    mlpae.initialise(model, x.mean(axis=0))
    before = [param.copy() for param in model.params]
    for _ in range(20):  # the last weights start at zero and let little through in the first steps
        mse.forward(model.forward(x), x)
        model.backward(mse.backward())
        model.optimstep(1.0)
    for param, old in zip(model.params, before, strict=True):
        assert (param != old).mean() > 0.95


@pytest.mark.parametrize(
    "script", ["MLPAE_train_script.py", "train_script.py", "main.py", "visualization.py", "random_generation.py"]
)
def test_help_is_quick_because_pytorch_waits(script):
    code = f"import sys, runpy; sys.argv = ['x', '--help']\ntry: runpy.run_path({script!r}, run_name='__main__')\n"
    code += "except SystemExit: pass\nprint([m for m in ('torch', 'matplotlib', 'PIL') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert "--output-root" in result.stdout
    assert result.stdout.splitlines()[-1] == "[]"


def test_the_progress_bar_is_on_a_terminal_and_not_in_the_log(tiny_flowers, tmp_path):
    terminal, stderr = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    log = tmp_path / "log.txt"
    with open(log, "w") as file:
        argv = ("--data-root", tiny_flowers, "--output-root", tmp_path, "--epochs", 30, "--patience", 30)
        process = subprocess.Popen(command("MLPAE_train_script.py", *argv), stdout=file, stderr=stderr)
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
    assert "batch" not in log.read_text().partition("Epoch:")[2]
    assert "\r" not in log.read_text()
