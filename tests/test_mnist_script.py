"""main.py for AE, VAE and CVAE, from flags to files."""

import functools
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import FIELDS, assert_picture, assert_same_weights, last_weights, logged, stopped_in_epoch
from PIL import Image

import main
from data import create_mnist_dataloaders
from main import Losses
from model import MODELS
from synthetic import make_digits
from trained import load_model
from training import UserError, seed_everything

PICTURES = {
    "AE": {"loss_MNIST_AE.png", "mnist_AE_reconstruction.png", "mnist_AE_latent.png", "mnist_AE_samples.png"},
    "VAE": {
        *("loss_MNIST_VAE.png", "mnist_VAE_reconstruction.png", "mnist_VAE_latent.png", "mnist_VAE_samples.png"),
        "mnist_VAE_interpolation.png",
    },
    "CVAE": {"loss_MNIST_CVAE.png", "mnist_CVAE_reconstruction.png", "mnist_CVAE_latent.png", "mnist_CVAE_samples.png"},
}


def run(*argv):
    """main.py with a small network; returns (history, its log as lines)."""
    return logged(main.main, "--hidden-size", 16, *argv)


@pytest.fixture(scope="module", params=list(MODELS))
def trained(request, tiny_mnist, tmp_path_factory):
    """(model, output root, history, log) of a short training."""
    root = tmp_path_factory.mktemp(f"output root {request.param}")
    flags = ["--latent-size", 3, "--epochs", 3, "--data-root", tiny_mnist, "--output-root", root]
    history, log = run("--model", request.param, *flags)
    return request.param, root, history, log


@pytest.fixture(scope="module", autouse=True)
def _the_stand_in_is_drawn_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data.make_digits", functools.cache(make_digits))
        yield


@pytest.fixture
def shown(monkeypatch):
    """{file name: (images, title, ...)} of the grids that main.py draws, which are not written."""
    grids = {}
    for plot in ("plot_samples", "plot_reconstructions"):
        split = {"plot_samples": 1, "plot_reconstructions": 2}[plot]  # where the path stands among the arguments

        def remember(*args, split=split, **options):
            grids[args[split].name] = (*args[:split], *args[split + 1 :])

        monkeypatch.setattr(f"visualization.{plot}", remember)
    return grids


def test_the_log(trained):
    name, _, history, log = trained
    assert log[0].startswith("Data: MNIST-like images, 400 images of 10 classes")
    assert re.fullmatch(rf"Model: {name}, 784 -> 16 -> 16 -> 3 -> 16 -> 16 -> 784, [\d,]+ parameters", log[1])
    assert f"model {name}, hidden_size 16, latent_size 3, recon {'mse' if name == 'AE' else 'bce'}" in log[2]
    assert "gif" not in log[2]
    assert all(re.fullmatch(FIELDS["AE" if name == "AE" else "VAE"], line) for line in log[3:6])
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert re.fullmatch(rf"Best Valid Loss: .*, saved to models/BestModel_MNIST_{name}.pth", log[6])
    assert len(log) == 7


def test_every_picture_is_there(trained):
    name, root, _, _ = trained
    assert {path.name for path in (root / "vis").iterdir()} == PICTURES[name]
    for picture in PICTURES[name]:
        assert_picture(root / "vis" / picture)


def test_the_checkpoint_says_what_it_is_and_its_loss_can_be_found_again(trained, tiny_mnist):
    name, root, history, _ = trained
    model, checkpoint = load_model(f"MNIST_{name}", root)
    assert checkpoint["model"] == f"MNIST_{name}"
    assert checkpoint["config"] == {"hidden_size": 16, "latent_size": 3}
    assert checkpoint["data"]["name"] == "MNIST-like images"
    assert (checkpoint["seed"], len(checkpoint["history"])) == (0, 3)
    best = min(history, key=lambda row: row["valid_loss"])
    assert {key: checkpoint[key] for key in best} == best
    seed_everything(0)
    [(images, labels)] = create_mnist_dataloaders(128, tiny_mnist)[1]  # as in the run, which its seed hangs on
    with torch.no_grad():
        outputs = model(images, labels) if name == "CVAE" else model(images)
    _, metrics = Losses("mse" if name == "AE" else "bce")(outputs, images)
    assert metrics["loss"] == pytest.approx(checkpoint["valid_loss"], rel=1e-6)


def test_the_model_learns(tiny_mnist, tmp_path):
    for name in MODELS:
        history, _ = run("--model", name, "--epochs", 30, "--data-root", tiny_mnist, "--output-root", tmp_path)
        assert history[-1]["valid_loss"] < 0.6 * history[0]["valid_loss"]


def test_figures_only_redraws_the_same_pictures_without_training(trained, tiny_mnist, tmp_path):
    name, root, history, _ = trained
    (tmp_path / "models").mkdir()
    best = tmp_path / "models" / f"BestModel_MNIST_{name}.pth"
    shutil.copy(root / "models" / best.name, best)
    before = best.read_bytes()
    found = run("--model", name, "--figures-only", "--data-root", tiny_mnist, "--output-root", tmp_path)
    assert found == (history, [])
    assert best.read_bytes() == before
    for picture in PICTURES[name]:
        assert (tmp_path / "vis" / picture).read_bytes() == (root / "vis" / picture).read_bytes()


def test_the_same_seed_prints_the_same_bytes_and_another_does_not(trained, tiny_mnist, tmp_path):
    name, _, _, log = trained
    flags = ["--model", name, "--latent-size", 3, "--epochs", 3, "--data-root", tiny_mnist, "--output-root", tmp_path]
    assert run(*flags)[1] == log
    assert run(*flags, "--seed", 1)[1][3:] != log[3:]


@pytest.mark.parametrize("flags", [["--model", "AE"], ["--model", "VAE", "--gif"], ["--model", "CVAE", "--gif"]])
def test_an_interrupted_run_resumes_to_the_same_weights_log_and_film(flags, tiny_mnist, tmp_path, monkeypatch):
    name = f"MNIST_{flags[1]}"
    flags = [*flags, "--data-root", tiny_mnist, "--epochs", 4]
    whole = run(*flags, "--output-root", tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(main, "torch_steps", stopped_in_epoch(3, main.torch_steps))
        run(*flags, "--output-root", tmp_path / "parts")
    assert run(*flags, "--output-root", tmp_path / "parts", "--resume") == whole
    assert_same_weights(last_weights(tmp_path / "parts", name), last_weights(tmp_path / "whole", name))
    for path in (tmp_path / "whole" / "vis").iterdir():
        assert (tmp_path / "parts" / "vis" / path.name).read_bytes() == path.read_bytes()


def test_the_film_has_a_frame_before_training_and_one_for_each_epoch(tiny_mnist, tmp_path):
    run("--model", "VAE", "--gif", "--epochs", 3, "--data-root", tiny_mnist, "--output-root", tmp_path)
    with Image.open(tmp_path / "vis" / "mnist_VAE_training.gif") as film:
        frames = []
        for number in range(film.n_frames):
            film.seek(number)
            frames.append(np.asarray(film.convert("L")))
    assert len(frames) == 4
    for earlier, later in zip(frames, frames[1:], strict=False):
        assert (earlier != later).mean() > 0.01


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--hidden-size", 17], "hidden_size was 16, now 17"),
        (["--latent-size", 4], "latent_size was 3, now 4"),
        (["--recon", "mse"], "recon was bce, now mse"),
        (["--beta", 2], "beta was 1.0, now 2.0"),
        (["--epochs", 4], "epochs was 3, now 4"),
    ],
)
def test_resume_with_other_settings_is_refused(tiny_mnist, tmp_path, flags, message):
    argv = ["--model", "VAE", "--latent-size", 3, "--data-root", tiny_mnist, "--output-root", tmp_path, "--epochs", 3]
    run(*argv)
    with pytest.raises(UserError, match=message):
        run(*argv, "--resume", *flags)


def test_labels_give_a_row_of_those_digits_in_several_hands(tiny_mnist, tmp_path, shown):
    flags = ["--model", "CVAE", "--data-root", tiny_mnist, "--output-root", tmp_path]
    run(*flags, "--epochs", 1)
    run(*flags, "--figures-only", "--labels", 2, 0, 2, 6)
    images, _, columns = shown["mnist_CVAE_labels.png"]
    assert columns == 4
    assert images.shape == (20, 1, 28, 28)
    for row in images.reshape(5, 4, 784):
        np.testing.assert_allclose(row[0], row[2], atol=1e-6)  # the same digit from the same latent vector
        assert np.abs(row[0] - row[1]).max() > 1e-4
    samples = shown["mnist_CVAE_samples.png"][0].reshape(10, 10, 784)  # a row a digit
    np.testing.assert_allclose(images[0].ravel(), samples[2, 0], atol=1e-6)
    np.testing.assert_allclose(images[7].ravel(), samples[6, 1], atol=1e-6)


def test_a_plane_of_latents_is_drawn_as_a_manifold(tiny_mnist, tmp_path, shown):
    flags = ["--data-root", tiny_mnist, "--output-root", tmp_path, "--epochs", 1, "--latent-size", 2]
    run("--model", "VAE", *flags)
    images, title, columns = shown["mnist_VAE_manifold.png"]
    assert (images.shape, columns) == ((400, 1, 28, 28), 20)
    assert re.match("VAE, epoch 1, validation loss [\\d.]+, 2 latents, trained on MNIST-like images:\n", title)


def test_pictures_of_other_data_say_so(trained, tmp_path, monkeypatch, shown, tiny_mnist, capsys):
    name, root, _, _ = trained
    shutil.copytree(root / "models", tmp_path / "models")

    def trained_elsewhere(*args):
        model, checkpoint = load_model(*args)
        checkpoint["data"] = {**checkpoint["data"], "name": "synthetic digits", "fingerprint": "other"}
        return model, checkpoint

    monkeypatch.setattr("trained.load_model", trained_elsewhere)
    run("--model", name, "--figures-only", "--data-root", tiny_mnist, "--output-root", tmp_path)
    *_, title = shown[f"mnist_{name}_reconstruction.png"]
    assert "test images of MNIST-like images\n(not the images it was trained on: synthetic digits)" in title
    assert "trained on synthetic digits" in shown[f"mnist_{name}_samples.png"][1]
    assert "not the images that" in capsys.readouterr().err


def test_without_mnist_the_pictures_of_its_test_images_stay(trained, tmp_path, monkeypatch, capsys):
    name, root, _, _ = trained
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    untouched = tmp_path / "vis" / f"mnist_{name}_reconstruction.png"
    untouched.write_bytes(b"as it was")
    monkeypatch.setattr("data._find_mnist", lambda *_: None)
    monkeypatch.setattr("data.make_digits", lambda: make_digits(400))
    monkeypatch.setattr("data.MNIST_TRAIN", 300)
    run("--model", name, "--figures-only", "--output-root", tmp_path)
    assert "MNIST is not here" in capsys.readouterr().err
    assert untouched.read_bytes() == b"as it was"
    run("--model", name, "--figures-only", "--output-root", tmp_path, "--data", "synthetic")
    assert untouched.read_bytes() != b"as it was"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["CVAE", "--labels", "12"], "argument --labels: invalid choice: 12 (choose from"),
        (["CVAE", "--labels", "2", "-1"], "-1"),
        (["VAE", "--labels", "2"], "VAE knows no labels; use --model CVAE"),
        (["AE", "--beta", "2"], "AE has no KL to weigh"),
        (["AE", "--kl-peak", "2"], "AE has no KL to weigh"),
        (["AE", "--seed", "99999999999999999999"], "is not between 0 and 2^63 - 1"),
        (["VAE", "--gif", "--figures-only"], "leave out --figures-only"),
        (["VAE", "--recon", "l1"], "invalid choice: 'l1'"),
        (["VAE", "--latent-size", "0"], "0 is not between 1 and 10000000"),
        (["VAE", "--hidden-size", "1" + 20 * "0"], "is not between 1 and 10000000"),
        (["GAN"], "invalid choice: 'GAN'"),
    ],
)
def test_wrong_arguments_are_status_2(flags, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        main.main(["--model", *flags])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_a_checkpoint_of_another_model_is_refused(trained, tmp_path):
    name, root, _, _ = trained
    other = {"AE": "VAE", "VAE": "CVAE", "CVAE": "AE"}[name]
    (tmp_path / "models").mkdir()
    path = tmp_path / "models" / f"BestModel_MNIST_{other}.pth"
    shutil.copy(root / "models" / f"BestModel_MNIST_{name}.pth", path)
    expected = f"holds the best state of MNIST_{name}, expected the best of MNIST_{other}; .*main.py --model {other}"
    with pytest.raises(UserError, match=expected):
        main.main(["--model", other, "--figures-only", "--output-root", str(tmp_path)])
    path.unlink()
    with pytest.raises(UserError, match=f"does not exist; make it with `python main.py --model {other}"):
        main.main(["--model", other, "--figures-only", "--output-root", str(tmp_path)])


def test_the_kl_weighs_most_half_way_through_the_training_but_not_in_the_log(tiny_mnist, tmp_path, monkeypatch):
    weights = []

    class Spy(Losses):
        def __call__(self, outputs, xs, kl_weight=None):
            weights.append(kl_weight)
            return super().__call__(outputs, xs, kl_weight)

    monkeypatch.setattr(main, "Losses", Spy)
    flags = ["--data-root", tiny_mnist, "--output-root", tmp_path, "--epochs", 8, "--beta", 0.5, "--kl-peak", 4]
    history, _ = run("--model", "CVAE", *flags)
    assert weights[0] == 0.5
    assert max(weights) == pytest.approx(2)
    assert weights.index(max(weights)) == pytest.approx(len(weights) / 2, abs=1)
    assert weights[-1] == pytest.approx(0.5)
    for row in history:
        for part in ("train", "valid"):
            assert row[f"{part}_loss"] == pytest.approx(row[f"{part}_recon"] + 0.5 * row[f"{part}_kl"])


def test_a_loss_that_is_not_finite_is_said_with_a_remedy(tiny_mnist, tmp_path):
    for name in MODELS:
        with pytest.raises(UserError, match="epoch 1, training, batch .*: the loss is .*; try a smaller --lr"):
            run("--model", name, "--lr", 1e30, "--data-root", tiny_mnist, "--output-root", tmp_path)


def test_a_run_that_was_not_filmed_cannot_be_resumed_with_a_film(tiny_mnist, tmp_path):
    flags = ["--model", "AE", "--data-root", tiny_mnist, "--output-root", tmp_path, "--epochs", 2]
    run(*flags)
    with pytest.raises(UserError, match="it was not filmed; leave out --gif or --resume"):
        run(*flags, "--gif", "--resume")


def test_it_runs_on_the_stand_in_and_says_so(tmp_path, shown):
    _, log = run("--model", "CVAE", "--data", "synthetic", "--epochs", 1, "--output-root", tmp_path)
    assert log[0].startswith("Data: synthetic digits, a procedural stand-in for the real ones, 70000 images")
    assert "60000 train / 10000 valid" in log[0]
    assert load_model("MNIST_CVAE", tmp_path)[1]["data"]["name"] == "synthetic digits"
    assert "trained on synthetic digits" in shown["mnist_CVAE_samples.png"][1]


def test_bfloat16_gives_nearly_the_same_loss(tiny_mnist, tmp_path):
    flags = ["--model", "CVAE", "--data-root", tiny_mnist, "--output-root", tmp_path, "--epochs", 3]
    exact, mixed = run(*flags)[0][-1], run(*flags, "--amp")[0][-1]
    assert mixed["valid_loss"] == pytest.approx(exact["valid_loss"], rel=0.05)
    assert mixed["valid_loss"] != exact["valid_loss"]
