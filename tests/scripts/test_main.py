"""main.py for AE, VAE and CVAE, from flags to files."""

import math
import re
import shutil
from functools import partial
from unittest.mock import Mock

import pytest
import torch
from helpers import (
    assert_figure,
    assert_same_weights,
    best_checkpoint,
    files_below,
    interrupt_in_epoch,
    last_checkpoint,
    logged,
)

import main
from common.process import seed_everything
from common.run import Run
from data import create_mnist_dataloaders
from datasets.synthetic import make_digits
from trained.loading import load_model
from trained.registry import MODELS
from trained.sampling import add_endpoints, interpolate, project

pytestmark = pytest.mark.xdist_group("trained_mnist")

NUMBER = r"\d+\.\d{6}"
all_models = pytest.mark.parametrize("name", main.BETAS)


@pytest.fixture
def train(tiny_mnist, tmp_path, monkeypatch):
    """train(model, *flags): main.py as in `trained_mnist` without pictures, below tmp_path; (history, log)."""
    monkeypatch.setattr(main, "HIDDEN_SIZE", 16)
    monkeypatch.setattr(main, "plot_pictures", Mock())
    monkeypatch.setattr(main, "plot_loss_curves", Mock())
    flags = ["--data-root", tiny_mnist, "--output-root", tmp_path, "--latent-size", 3, "--epochs", 3]
    return partial(logged, main.main, *flags, "--model")


@pytest.fixture
def grids(monkeypatch):
    """{file name: images} of the grids that main.py plots; they are not written."""
    plotted = {}
    monkeypatch.setattr(main, "plot_samples", lambda images, path, *_, **__: plotted.update({path.name: images}))
    for plot in ("plot_reconstructions", "plot_latent_space"):
        monkeypatch.setattr(main, plot, Mock())
    return plotted


@all_models
def test_the_log_and_the_figures(name, trained_mnist):
    root, runs = trained_mnist
    history, log = runs[name]
    best = best_checkpoint(root, f"MNIST_{name}")
    assert log[0].startswith("Data: MNIST-like images, 400 images of 10 classes")
    assert re.fullmatch(rf"Model: MNIST_{name}, 3 hidden layers each way, [\d,]+ parameters", log[1])
    beta = {"AE": "", "VAE": ", beta 1.0", "CVAE": ", beta 1.6"}[name]
    assert log[2] == f"Settings: epochs 3, patience 10, batch_size 128, lr 0.004{beta}"
    metrics = ["Loss"] if name == "AE" else ["Loss", "Recon", "KL"]
    fields = [f"{part} {metric}: {NUMBER}" for metric in metrics for part in ("Train", "Valid")]
    assert all(re.fullmatch(rf"Epoch: \d, {', '.join(fields)}( \*)?", line) for line in log[3:6])
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    path = root / "models" / f"BestModel_MNIST_{name}.pth"
    assert log[6] == f"Best Valid Loss: {best['valid_loss']:.6f} (epoch {best['epoch']}), saved to {path}"
    assert log[7:] == [f"Test Loss: {best['test_loss']:.6f} (epoch {best['epoch']})"]
    kinds = {"reconstruction", "latent", "samples"} | ({"interpolation"} if name == "VAE" else set())
    figures = {f"loss_MNIST_{name}.png", *(f"mnist_{name}_{kind}.png" for kind in kinds)}
    assert {figure.name for figure in (root / "vis").glob(f"*_{name}[_.]*")} == figures
    for figure in figures:
        assert_figure(root / "vis" / figure)


@all_models
def test_a_model_is_rebuilt_from_its_checkpoint_alone_and_has_its_losses(name, trained_mnist, tiny_mnist):
    root, runs = trained_mnist
    model, checkpoint = load_model(f"MNIST_{name}", root)
    assert checkpoint["config"] == {"hidden_size": 16, "latent_size": 3}
    best = min(runs[name][0], key=lambda row: row["valid_loss"])
    assert {key: checkpoint[key] for key in best} == best
    for part, loader in zip(("valid", "test"), create_mnist_dataloaders(128, tiny_mnist)[1:], strict=True):
        seed_everything(0)  # as each validation does, before it asks for its only batch
        [(images, labels)] = loader
        with torch.no_grad():
            outputs = model(images, *MODELS[f"MNIST_{name}"].condition(labels))
        _, metrics = main.choose_loss(name, main.BETAS[name])(outputs, images)
        assert metrics == pytest.approx({key: checkpoint[f"{part}_{key}"] for key in metrics}, rel=1e-6)


def test_the_best_weights_are_tested_and_not_the_last_ones(train, tiny_mnist, tmp_path, monkeypatch):
    monkeypatch.setattr(Run, "best_loss", property(lambda run: -math.inf if run.history else math.inf))
    train("AE")
    model, checkpoint = load_model("MNIST_AE", tmp_path)
    assert checkpoint["epoch"] == 1
    images = create_mnist_dataloaders(1, tiny_mnist)[2].dataset[:][0]
    _, metrics = main.choose_loss("AE", None)(model(images), images)
    assert checkpoint["test_loss"] == pytest.approx(metrics["loss"], rel=1e-6)


@pytest.mark.parametrize("name", ["AE", "CVAE"])
def test_an_interrupted_run_resumes_to_the_same_weights_and_log(name, trained_mnist, train, tmp_path, monkeypatch):
    root, runs = trained_mnist
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_in_epoch(patch, 3)
        train(name)
    history, log = train(name, "--resume")
    assert history == runs[name][0]
    assert log == [line.replace(str(root), str(tmp_path)) for line in runs[name][1]]
    assert_same_weights(*(last_checkpoint(each, f"MNIST_{name}")["state_dict"] for each in (tmp_path, root)))


def test_the_pictures_show_what_their_titles_say(trained_mnist, tiny_mnist, tmp_path, grids):
    test_set = create_mnist_dataloaders(1, tiny_mnist)[2].dataset
    for name in ("VAE", "CVAE"):
        main.plot_pictures(*load_model(f"MNIST_{name}", trained_mnist[0]), test_set, tmp_path, seed=0)
    walks = torch.from_numpy(grids["mnist_VAE_interpolation.png"]).unflatten(0, (-1, main.STEPS + 2))
    model, _ = load_model("MNIST_VAE", trained_mnist[0])
    images = test_set[: main.EXAMPLES][0]
    assert torch.equal(walks[:, 0], images[::2])  # from one digit ...
    assert torch.equal(walks[:, -1], images[1::2])  # ... to another, between their reconstructions
    with torch.no_grad():
        torch.testing.assert_close(walks[:, 1], model.decode(model.encode(images[::2])))
        torch.testing.assert_close(walks[:, -2], model.decode(model.encode(images[1::2])))
    model, checkpoint = load_model("MNIST_CVAE", trained_mnist[0])
    zs = main.random_latents(checkpoint, seed=0).unflatten(0, (10, 10))
    assert all(torch.equal(zs[0], row) for row in zs)
    rows = torch.from_numpy(grids["mnist_CVAE_samples.png"]).unflatten(0, (10, 10))
    with torch.no_grad():
        torch.testing.assert_close(rows[7], model.decode(zs[0], torch.full((10,), 7)))  # a row for each digit


def test_latent_vectors_are_interpolated_and_projected():
    codes = torch.tensor([[0.0, 0.0], [2.0, 4.0]])
    assert interpolate(codes, 3).tolist() == [[0, 0], [1, 2], [2, 4]]
    images = add_endpoints(torch.tensor([1, 5, 6, 8]), torch.tensor([2, 3, 7, 7]))
    assert images.tolist() == [1, 2, 3, 5, 6, 7, 7, 8]
    assert torch.equal(project(codes), codes)
    assert project(codes[:, :1]).tolist() == [[0, 0], [2, 0]]
    plane = torch.randn(50, 2, dtype=torch.float64) * torch.tensor([5.0, 1.0])
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0][:2]
    expected = (plane - plane.mean(dim=0)) @ torch.linalg.eigh(plane.T.cov())[1].flip(1)
    torch.testing.assert_close(project(plane @ rotation).abs(), expected.abs(), atol=1e-9, rtol=0)


@pytest.mark.filterwarnings("ignore:.*procedural digits stand in")
def test_a_run_on_the_stand_in_leaves_the_real_models_and_pictures_alone(trained_mnist, monkeypatch, tmp_path, capsys):
    root = shutil.copytree(trained_mnist[0], tmp_path / "project")
    before = files_below(root)
    for module in ("common.flags", "common.run", "datasets.images"):
        monkeypatch.setattr(f"{module}.PROJECT", root)
    monkeypatch.setattr("datasets.mnist.find_mnist", lambda *_: None)
    monkeypatch.setattr("data.make_digits", partial(make_digits, 400, seed=1))
    monkeypatch.setattr("data.SYNTHETIC_TRAIN", 300)
    monkeypatch.setattr(main, "HIDDEN_SIZE", 16)
    _, log = logged(main.main, "--model", "CVAE", "--epochs", 1)
    assert log[0].startswith("Data: synthetic digits, a procedural stand-in for the real ones, 400 images of 10 ")
    assert log[4].endswith("saved to synthetic/models/BestModel_MNIST_CVAE.pth")
    assert {**files_below(root), **before} == files_below(root)
    assert best_checkpoint(root / "synthetic", "MNIST_CVAE")["data"]["name"] == "synthetic digits"
    assert_figure(root / "synthetic" / "vis" / "mnist_CVAE_samples.png")
    assert f'the results of the stand-in go to "{root / "synthetic"}"' in capsys.readouterr().err
