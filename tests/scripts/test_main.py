"""main.py for AE, VAE and CVAE, from flags to files."""

import re
import shutil
from functools import partial

import numpy as np
import pytest
import torch
from helpers import (
    assert_figure,
    assert_same_weights,
    best_checkpoint,
    interrupt_in_epoch,
    last_checkpoint,
    logged,
    write_mnist,
)
from PIL import Image, ImageSequence
from torch.distributions import Normal

import main
from data import create_mnist_dataloaders
from datasets.synthetic import make_digits
from evaluation import digits
from evaluation.models import load_model, loss_unit
from model import VariationalAutoEncoder
from training import UserError, loop
from training.checkpoints import save_checkpoint
from training.script import seed_everything

pytestmark = pytest.mark.xdist_group("trained_mnist")

NUMBER = r"\d+\.\d{6}"
FIGURES = {}  # of each model
for _name, *_kinds in (["AE"], ["VAE", "interpolation"], ["CVAE"]):
    _kinds += ["reconstruction", "latent", "samples"]
    FIGURES[_name] = {f"loss_MNIST_{_name}.png", *(f"mnist_{_name}_{kind}.png" for kind in _kinds)}
all_models = pytest.mark.parametrize("name", FIGURES)


@pytest.fixture
def run(tiny_mnist, tmp_path):
    """run(model, *flags): main.py as in `trained_mnist`, but with tmp_path as the output root; (history, log)."""
    sizes = ["--hidden-size", 16, "--latent-size", 3, "--epochs", 3]
    return partial(logged, main.main, "--data-root", tiny_mnist, "--output-root", tmp_path, *sizes, "--model")


@pytest.fixture
def plot(tiny_mnist, tmp_path):
    """plot(model, *flags): main.py --figures-only, with tmp_path as the output root; (history, log)."""
    flags = ["--data-root", tiny_mnist, "--output-root", tmp_path, "--figures-only", "--model"]
    return partial(logged, main.main, *flags)


@pytest.fixture
def copied(trained_mnist, tmp_path):
    """tmp_path, into which the checkpoints of `trained_mnist` are copied."""
    return shutil.copytree(trained_mnist[0] / "models", tmp_path / "models").parent


@pytest.fixture
def shown(monkeypatch):
    """{file name: the arguments} of the grids that main.py plots, which are not written."""
    grids = {}
    for plot, place in (("plot_samples", 1), ("plot_reconstructions", 2)):  # of the path among the arguments
        monkeypatch.setattr(digits, plot, lambda *args, place=place, **_: grids.update({args[place].name: args}))
    return grids


@pytest.fixture
def stand_in(monkeypatch):
    """Let there be no MNIST, and a stand-in of 300 digits to train on and 100 to test on."""
    monkeypatch.setattr("datasets.mnist.find_mnist", lambda *_: None)
    monkeypatch.setattr("data.make_digits", partial(make_digits, 400, seed=1))
    monkeypatch.setattr("data.SYNTHETIC_TRAIN", 300)


@pytest.fixture
def without_figures(monkeypatch):
    monkeypatch.setattr(main, "plot_all", lambda *_: None)


@all_models
def test_the_log_and_the_figures(name, trained_mnist):
    root, runs = trained_mnist
    history, log = runs[name]
    assert log[0].startswith("Data: MNIST-like images, 400 images of 10 classes")
    assert re.fullmatch(
        rf"Model: {name}, 784 -> 16 -> 16 -> 16 -> 3 -> 16 -> 16 -> 16 -> 784, [\d,]+ parameters", log[1]
    )
    assert f"model {name}, hidden_size 16, latent_size 3, recon {'mse' if name == 'AE' else 'bce'}" in log[2]
    assert "gif" not in log[2]
    metrics = ["Loss"] if name == "AE" else ["Loss", "Recon", "KL"]
    fields = [f"{part} {metric}: {NUMBER}" for metric in metrics for part in ("Train", "Valid")]
    assert all(re.fullmatch(rf"Epoch: \d, {', '.join(fields)}( \*)?", line) for line in log[3:6])
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert re.fullmatch(r"Warning: the best .* is \d.*, and answering every image with the mean one gives \d.*", log[6])
    assert re.fullmatch(rf"Best Valid Loss: {NUMBER} \(epoch \d\), saved to models/BestModel_MNIST_{name}.pth", log[7])
    assert re.fullmatch(rf"Test Loss: {NUMBER} \(epoch \d, 100 images\)", log[8])
    assert len(log) == 9
    assert {path.name for path in (root / "vis").glob(f"*_{name}[_.]*")} == FIGURES[name]
    for figure in FIGURES[name]:
        assert_figure(root / "vis" / figure)


@all_models
def test_the_checkpoint_says_what_it_is_and_its_loss_can_be_found_again(name, trained_mnist, tiny_mnist):
    root, runs = trained_mnist
    model, checkpoint = load_model(f"MNIST_{name}", root)
    assert (checkpoint["model"], checkpoint["data"]["name"]) == (f"MNIST_{name}", "MNIST-like images")
    assert checkpoint["config"] == {"hidden_size": 16, "latent_size": 3, **({} if name == "AE" else {"samples": 1})}
    assert (checkpoint["seed"], len(checkpoint["history"])) == (0, 3)
    best = min(runs[name][0], key=lambda row: row["valid_loss"])
    assert {key: checkpoint[key] for key in best} == best
    for part, loader in zip(("valid", "test"), create_mnist_dataloaders(128, tiny_mnist)[1:], strict=True):
        seed_everything(0)  # as each validation does, before it asks for its only batch
        [(images, labels)] = loader
        with torch.no_grad():
            outputs = model(images, labels) if name == "CVAE" else model(images)
        _, metrics = main.Losses(main.DEFAULTS[name]["recon"], main.DEFAULTS[name]["beta"])(outputs, images)
        for metric, value in metrics.items():
            assert value == pytest.approx(checkpoint[f"{part}_{metric}"], rel=1e-6)
    assert checkpoint["test_images"] == 100


@all_models
def test_the_model_learns(name, run, without_figures):
    history, _ = run(name, "--epochs", 30)
    assert history[-1]["valid_loss"] < 0.6 * history[0]["valid_loss"]


@all_models
def test_figures_only_plots_the_same_figures_without_training(name, trained_mnist, plot, copied):
    best = copied / "models" / f"BestModel_MNIST_{name}.pth"
    before = best.read_bytes()
    assert plot(name) == (trained_mnist[1][name][0], [])
    assert best.read_bytes() == before
    for figure in FIGURES[name]:
        assert (copied / "vis" / figure).read_bytes() == (trained_mnist[0] / "vis" / figure).read_bytes()


@pytest.mark.parametrize("flags", [["AE"], ["VAE", "--gif"], ["CVAE", "--gif"], ["VAE", "--samples", 4]])
def test_an_interrupted_run_resumes_to_the_same_weights_log_and_film(
    flags, trained_mnist, run, tmp_path, monkeypatch, without_figures
):
    whole, (_, runs) = tmp_path / "whole", trained_mnist
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_in_epoch(patch, 3)
        run(*flags)
    assert run(*flags, "--resume") == (uninterrupted := run(*flags, "--output-root", whole))
    assert_same_weights(*(last_checkpoint(each, f"MNIST_{flags[0]}")["state_dict"] for each in (tmp_path, whole)))
    assert (uninterrupted == runs[flags[0]]) == ("--samples" not in flags)
    if "--gif" not in flags:
        return
    film = f"vis/mnist_{flags[0]}_training.gif"
    assert (tmp_path / film).read_bytes() == (whole / film).read_bytes()
    with Image.open(whole / film) as frames:
        pixels = [np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(frames)]
    assert len(pixels) == 4  # before training, and after each epoch
    assert all((earlier != later).mean() > 0.01 for earlier, later in zip(pixels, pixels[1:], strict=False))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--hidden-size", 17], "hidden_size was 16, now 17"),
        (["--latent-size", 4], "latent_size was 3, now 4"),
        (["--recon", "mse"], "recon was bce, now mse"),
        (["--beta", 2], "beta was 1.0, now 2.0"),
        (["--kl-peak", 2], "kl_peak was 1.0, now 2.0"),
        (["--samples", 2], "samples was 1, now 2"),
        (["--binarize"], "binarize was False, now True.*data was .* binarized"),
        (["--epochs", 4], "epochs was 3, now 4"),
        (["--gif"], "not filmed; .*--gif or --resume"),
    ],
)
def test_resume_with_other_settings_is_refused(flags, message, run, copied):
    with pytest.raises(UserError, match=message):
        run("VAE", "--resume", *flags)


def test_bfloat16_gives_nearly_the_same_loss_and_another_seed_another_one(run, trained_mnist, without_figures):
    exact, mixed, other = trained_mnist[1]["CVAE"], run("CVAE", "--amp"), run("CVAE", "--seed", 1)
    assert mixed[0][-1]["valid_loss"] == pytest.approx(exact[0][-1]["valid_loss"], rel=0.05)
    assert mixed[0][-1]["valid_loss"] != exact[0][-1]["valid_loss"]
    assert other[1][3:] != exact[1][3:]


def test_the_kl_weighs_most_half_way_through_the_training_but_not_in_the_log(run, monkeypatch, without_figures):
    weights, losses = [], main.Losses.__call__
    monkeypatch.setattr(main.Losses, "__call__", lambda *args: weights.extend(args[3:]) or losses(*args))
    history, _ = run("CVAE", "--epochs", 8, "--beta", 0.5, "--kl-peak", 4)
    del weights[-1]  # of the test
    assert weights[0] == 0.5
    assert max(weights) == pytest.approx(2)
    assert weights.index(max(weights)) == pytest.approx(len(weights) / 2, abs=1)
    assert weights[-1] == pytest.approx(0.5)
    for row in history:
        for part in ("train", "valid"):
            assert row[f"{part}_loss"] == pytest.approx(row[f"{part}_recon"] + 0.5 * row[f"{part}_kl"])


def test_labels_give_a_row_of_those_digits_in_several_hands(plot, copied, shown):
    plot("CVAE", "--labels", 2, 0, 2, 6)
    images, _, _, columns = shown["mnist_CVAE_labels.png"]
    assert (images.shape, columns) == ((20, 1, 28, 28), 4)
    for row in images.reshape(5, 4, 784):
        np.testing.assert_allclose(row[0], row[2], atol=1e-6)  # the same digit from the same latent vector
        assert np.abs(row[0] - row[1]).max() > 1e-4
    samples = shown["mnist_CVAE_samples.png"][0].reshape(10, 10, 784)  # a row a digit
    np.testing.assert_allclose(images[0].ravel(), samples[2, 0], atol=1e-6)
    np.testing.assert_allclose(images[7].ravel(), samples[6, 1], atol=1e-6)


def test_a_plane_of_latents_is_plotted_as_a_manifold(run, shown):
    run("VAE", "--epochs", 1, "--latent-size", 2)
    images, _, title, columns = shown["mnist_VAE_manifold.png"]
    assert (images.shape, columns) == ((400, 1, 28, 28), 20)
    assert re.match(r"VAE, epoch 1, validation loss \d+ \(.*\)\n2 latents, trained on MNIST-like images: z at", title)


@pytest.mark.parametrize("flags", [[], ["--data", "synthetic"]])
def test_without_mnist_the_figures_of_its_test_images_stay_and_those_of_others_go_elsewhere(
    flags, trained_mnist, stand_in, tmp_path, capsys
):
    root = shutil.copytree(trained_mnist[0], tmp_path / "root")
    before = {path: path.read_bytes() for path in root.rglob("*.*")}
    logged(main.main, "--model", "VAE", "--figures-only", "--output-root", root, *flags)
    assert {path: path.read_bytes() for path in before} == before
    new = {str(path.relative_to(root / "synthetic")) for path in root.rglob("*.*") if path not in before}
    assert new == {f"vis/mnist_VAE_{kind}.png" for kind in ("reconstruction", "latent", "interpolation")}
    with Image.open(root / "synthetic" / "vis" / "mnist_VAE_latent.png") as image:
        assert "test images of synthetic digits\n(not the images it was trained on: MNIST-like" in image.text["Title"]
    assert "not the images that" in capsys.readouterr().err


def test_it_runs_on_the_stand_in_and_says_so(stand_in, tmp_path, shown):
    flags = ["--hidden-size", 16, "--epochs", 1, "--output-root", tmp_path]
    _, log = logged(main.main, "--model", "CVAE", "--data", "synthetic", *flags)
    assert log[0].startswith("Data: synthetic digits, a procedural stand-in for the real ones (its results go to ./")
    assert "400 images of 10 classes" in log[0]
    assert "275 train / 25 valid / 100 test" in log[0]
    assert best_checkpoint(tmp_path, "MNIST_CVAE")["data"]["name"] == "synthetic digits"
    assert "trained on synthetic digits" in shown["mnist_CVAE_samples.png"][2]


def test_weights_whose_latent_vectors_are_not_finite_are_an_error(plot, copied):
    checkpoint = best_checkpoint(copied, "MNIST_AE")
    checkpoint["state_dict"]["encoder.mu.weight"] += 3e38
    save_checkpoint(copied / "models" / "BestModel_MNIST_AE.pth", checkpoint)
    with pytest.raises(UserError, match="weights of AE are damaged"):
        plot("AE")


def test_importance_weighted_training_on_binarized_digits(run, tiny_mnist, tmp_path):
    history, log = run("VAE", "--binarize", "--samples", 4, "--sampler", "gmm")
    assert log[0].startswith("Data: MNIST-like images, binarized, 400 images")
    assert "binarize True, samples 4" in log[2]
    for row in history:
        assert row["valid_loss"] < row["valid_recon"] + row["valid_kl"]  # the bound of one sample
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    checkpoint = best_checkpoint(tmp_path, "MNIST_VAE")
    assert (checkpoint["config"]["samples"], checkpoint["settings"]["binarize"]) == (4, True)
    assert "bound of 4 samples (training: rising to 4)" in loss_unit("MNIST_VAE", checkpoint["settings"])
    assert_figure(tmp_path / "vis" / "mnist_VAE_samples_gmm.png")
    flags = ["--data-root", tiny_mnist, "--output-root", tmp_path, "--evaluate", "--nll-samples", 50]
    estimate, lines = logged(main.main, "--model", "VAE", *flags)
    assert lines[0].startswith("Data: 100 test images of MNIST-like images, binarized, fingerprint ")
    assert re.fullmatch(
        r"NLL: \d+\.\d\d \+- \d+\.\d\d nats per image \(importance .*, 50 samples, 100 images\)", lines[2]
    )
    assert re.fullmatch(r"Bound: \d+\.\d\d = Distortion \d+\.\d\d \+ Rate \d+\.\d\d", lines[3])
    assert len(lines) == 4
    assert estimate.nll.mean() < (estimate.distortion + estimate.rate).mean()


def test_the_samples_rise_to_their_number_during_the_training(run, monkeypatch, without_figures):
    counts, decode = [], VariationalAutoEncoder.decode_samples

    def record(self, *args):
        outputs = decode(self, *args)
        if self.training:
            counts.append(len(outputs[0]) if len(outputs) > 3 else 1)
        return outputs

    monkeypatch.setattr(VariationalAutoEncoder, "decode_samples", record)
    run("VAE", "--samples", 60, "--batch-size", 64)
    assert len(counts) == 15  # steps
    assert (counts[0], counts[-1]) == (1, 46)  # 60 to the power of 14/15
    assert counts == sorted(counts)


def test_the_likelihood_of_grey_digits_is_called_a_bound(copied, tiny_mnist):
    flags = ["--data-root", tiny_mnist, "--output-root", copied, "--evaluate", "--nll-samples", 5]
    before = (copied / "models" / "BestModel_MNIST_CVAE.pth").read_bytes()
    estimate, lines = logged(main.main, "--model", "CVAE", *flags)
    assert lines[-2].startswith("Grey pixels: the NLL is an upper bound")
    assert lines[-1].startswith("Labels: ")
    checkpoint = best_checkpoint(copied, "MNIST_CVAE")
    assert (estimate.distortion + estimate.rate).mean().item() == pytest.approx(checkpoint["test_loss"], rel=0.01)
    assert estimate.rate.mean().item() == pytest.approx(checkpoint["test_kl"], rel=1e-4)
    assert (copied / "models" / "BestModel_MNIST_CVAE.pth").read_bytes() == before


def test_a_fitted_prior_is_like_the_latent_vectors_of_the_training_digits(run, trained_mnist, plot, copied, shown):
    plot("CVAE", "--sampler", "gaussian", "--labels", 3)
    assert {"mnist_CVAE_samples_gaussian.png", "mnist_CVAE_labels_gaussian.png"} < shown.keys()
    assert "z from a fitted Gaussian, seed 0" in shown["mnist_CVAE_samples_gaussian.png"][2]


@pytest.mark.parametrize("flags", [[], ["--binarize"]])
def test_a_prior_is_fitted_to_digits_that_are_not_moved(flags, run, plot, tmp_path):
    run("VAE", "--sampler", "gaussian", "--shift", 1, *flags)
    figure = tmp_path / "vis" / "mnist_VAE_samples_gaussian.png"
    after_training = figure.read_bytes()
    plot("VAE", "--sampler", "gaussian")  # which knows of no --shift
    assert figure.read_bytes() == after_training


def test_the_likelihood_of_squared_errors_is_that_of_a_gaussian_of_variance_one_half(run, tiny_mnist, tmp_path):
    run("VAE", "--recon", "mse")
    flags = ["--data-root", tiny_mnist, "--output-root", tmp_path, "--evaluate", "--nll-samples", 20]
    estimate, lines = logged(main.main, "--model", "VAE", *flags)
    assert "bits per dimension" in lines[2]
    [(images, _)] = create_mnist_dataloaders(128, tiny_mnist)[2]
    model, _ = load_model("MNIST_VAE", tmp_path)
    with torch.no_grad():
        errors = [Normal(model(images)[0], 0.5**0.5).log_prob(images).sum(dim=(1, 2, 3)) for _ in range(20)]
    assert estimate.distortion.mean().item() == pytest.approx(-torch.stack(errors).mean().item(), rel=1e-3)


def test_the_likelihood_of_other_digits_is_refused_and_a_model_of_the_stand_in_shown_that(copied, stand_in, tmp_path):
    root = write_mnist(tmp_path / "others", train=50, test=30).parent.parent
    with pytest.raises(UserError, match="VAE was trained on MNIST-like images .*, here is .*--data-root"):
        logged(main.main, "--model", "VAE", "--evaluate", "--data-root", root, "--output-root", copied)
    flags = ["--model", "VAE", "--output-root", tmp_path / "synthetic"]
    logged(main.main, *flags, "--data", "synthetic", "--hidden-size", 8, "--epochs", 1)
    _, lines = logged(main.main, *flags, "--evaluate", "--nll-samples", 2)
    assert lines[0].startswith("Data: 100 test images of synthetic digits, ")


@pytest.mark.parametrize(
    ("entry", "change"), [("config", {"samples": 10**12}), ("config", {"samples": 0}), ("settings", {"binarize": "no"})]
)
def test_settings_that_a_checkpoint_cannot_have_are_refused(entry, change, plot, copied):
    checkpoint = best_checkpoint(copied, "MNIST_VAE")
    checkpoint[entry] |= change
    save_checkpoint(copied / "models" / "BestModel_MNIST_VAE.pth", checkpoint)
    with pytest.raises(UserError, match=f"does not describe the model .*{next(iter(change))}"):
        plot("VAE")


def test_the_last_frame_of_the_film_is_of_the_last_weights(run, monkeypatch, tmp_path, without_figures):
    epochs = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr("training.loop.average", worsen(epochs))
    frames = {}
    monkeypatch.setattr(main, "plot_film", lambda images, *_: frames.update(enumerate(images)))
    run("VAE", "--gif")
    assert best_checkpoint(tmp_path, "MNIST_VAE")["epoch"] == 2
    assert len(frames) == 4
    assert all((frames[number] != frames[number + 1]).any() for number in range(3))


def worsen(losses):
    """`average`, but with these validation losses."""

    def average(step, loader, where, bar):
        found = real(step, loader, where, bar)
        return {**found, "loss": next(losses)} if "validation" in where else found

    real = loop.average
    return average
