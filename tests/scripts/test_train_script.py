"""train_script.py and visualization.py for all their models, from flags to files."""

import math
import os
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
    write_flowers,
)
from PIL import Image

import train_script
import visualization
from data import create_flower_dataloaders
from datasets.synthetic import FLOWER_CLASSES
from evaluation.models import load_model, name_model, three_digits
from training import UserError
from training.checkpoints import save_checkpoint
from training.script import seed_everything
from VarAutoencoder import VarAutoencoder

pytestmark = pytest.mark.xdist_group("trained_flowers")

METRICS = {"VAE": ["Recon", "KL"], "GAN": ["Critic", "Generator"], "Classifier": ["Accuracy"]}  # beside the loss
NUMBER = r"-?\d+\.\d{6}"
all_models = pytest.mark.parametrize("name", train_script.DEFAULTS)
train = partial(logged, train_script.main)  # returns (history, its log as lines)


@pytest.fixture
def flags(tiny_flowers, tmp_path):
    """{model: the flags of `trained_flowers`, with tmp_path as the output root}."""
    common = ["--data-root", tiny_flowers, "--output-root", tmp_path, "--image-size", 12, 16, "--epochs", 3]
    latent = dict.fromkeys(("AE", "VAE", "GAN"), ["--encoding-dim", 8])
    return {name: ["--model", name, *common, *latent.get(name, [])] for name in train_script.DEFAULTS}


@pytest.fixture
def copied(trained_flowers, tmp_path):
    """tmp_path, with the checkpoints of `trained_flowers`: links, which are replaced and not written to."""
    return shutil.copytree(trained_flowers[0] / "models", tmp_path / "models", copy_function=os.link).parent


@all_models
def test_the_log_and_the_files(name, trained_flowers):
    root, runs = trained_flowers
    history, (*log, last) = runs[name]
    assert log[0].startswith("Data: flowers, 60 images of 3 classes")
    assert "at 12x16, 48 train / 12 valid" in log[0]
    layers = "3x12x16 -> 8 -> 3x12x16" if name in ("AE", "VAE") else "3x12x16"
    assert re.fullmatch(rf"Model: {name}, {layers}, [\d,]+ parameters", log[1])
    assert "optimizer adam" in log[2]
    fields = [
        f"{part} {metric}: {NUMBER}" for metric in ("Loss", *METRICS.get(name, [])) for part in ("Train", "Valid")
    ]
    assert all(re.fullmatch(rf"Epoch: \d, {', '.join(fields)}( \*)?", line) for line in log[3:6])
    parts = r"Diagnostics: reconstruction [\d.]+ \+ KL [\d.]+ per validation image, \d of 8 latent dimensions "
    said = [line for line in log[6:] if not line.startswith("Warning: the best validation loss is")]  # after 3 epochs
    assert [bool(re.match(parts, line)) for line in said] == ([True] if name == "VAE" else [])
    assert re.fullmatch(rf"Best Valid Loss: {NUMBER} \(epoch \d\), saved to models/BestModel_{name}.pth", last)
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert_figure(root / "vis" / f"loss_{name}.png")
    assert (root / "vis" / f"latent_{name}.png").exists() == (name == "VAE")


@all_models
def test_a_model_is_rebuilt_from_its_checkpoint_alone_and_has_its_loss(name, trained_flowers, tiny_flowers):
    root, _ = trained_flowers
    model, checkpoint = load_model(name, root)
    assert_same_weights(model.state_dict(), best_checkpoint(root, name)["state_dict"])
    loader = create_flower_dataloaders(16, tiny_flowers, 16, 12)[1]
    seed_everything(0)  # as each validation does, before it asks for its only batch
    [(images, labels)] = loader
    images = images.contiguous(memory_format=torch.channels_last)  # the DDPM's noise is laid out alike
    with torch.no_grad():
        outputs = model(images, labels) if model.has_label else model(images)
        _, metrics = model.measure(outputs, images)
    for metric, value in metrics.items():
        assert checkpoint[f"valid_{metric}"] == pytest.approx(value, rel=1e-5), metric
    last = last_checkpoint(root, name)
    assert len(last["optimizer"]["state"]) == len(list(model.parameters()))  # each of them is trained
    assert ("raw_state_dict" in last) == (name in ("GAN", "DDPM"))  # those whose averaged weights are saved
    raw = last.get("raw_state_dict", {})
    assert not raw or any(not torch.equal(raw[key], weight) for key, weight in last["state_dict"].items())
    deviations = [buffer for key, buffer in model.named_buffers() if key.endswith("std")]
    assert bool(deviations) == (name in ("GAN", "DDPM"))
    assert all((buffer != 1).all() for buffer in deviations)  # those of the photographs


@pytest.mark.parametrize("batch_size", [5, 16, 48])
def test_the_vae_loss_is_stated_for_16_images_whatever_the_batch(batch_size, flags):
    still = ["--epochs", 1, "--lr", 1e-12, "--beta", 2]  # the weights stay where they start
    (row,), _ = train(*flags["VAE"], *still, "--batch-size", batch_size)
    assert row["valid_loss"] == pytest.approx(16 * (row["valid_recon"] + 2 * row["valid_kl"]), rel=1e-6)
    assert row["train_loss"] == pytest.approx(row["valid_loss"], rel=0.3)


@pytest.mark.parametrize("name", ["AE", "VAE", "GAN", "DDPM"])
def test_an_interrupted_run_resumes_to_the_same_weights_and_log(name, flags, trained_flowers, tmp_path, monkeypatch):
    root, runs = trained_flowers
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_in_epoch(patch, 3)
        train(*flags[name])
    assert train(*flags[name], "--resume") == runs[name]
    found, expected = (last_checkpoint(folder, name) for folder in (tmp_path, root))
    for weights in ("state_dict", "raw_state_dict"):
        assert_same_weights(found.get(weights, {}), expected.get(weights, {}))


@pytest.mark.parametrize("optimizer", train_script.OPTIMIZERS)
def test_more_epochs_continue_a_step_schedule_of_any_optimizer(optimizer, flags, tmp_path):
    argv = [*flags["AE"], "--image-size", 8, "--optimizer", optimizer, "--schedule", "step"]
    whole = train(*argv, "--epochs", 7, "--output-root", tmp_path / "whole")
    train(*argv)
    assert train(*argv, "--epochs", 7, "--resume") == whole
    assert_same_weights(*(last_checkpoint(root, "AE")["state_dict"] for root in (tmp_path, tmp_path / "whole")))


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("AE", ["--encoding-dim", 9], "encoding_dim was 8, now 9"),
        ("AE", ["--image-size", 8], "img_height was 12, now 8; img_width was 16, now 8"),
        ("AE", ["--optimizer", "sgd"], "optimizer was adam, now sgd"),
        ("AE", ["--epochs", 4], "epochs was 3, now 4"),  # the one-cycle schedule depends on them
        ("VAE", ["--beta", 2], "beta was 1.0, now 2.0"),
    ],
)
def test_resume_with_other_settings_is_refused(name, changed, message, flags, copied):
    with pytest.raises(UserError, match=message):
        train(*flags[name], "--resume", *changed)


@pytest.mark.parametrize(("name", "lost"), [("AE", "optimizer"), ("DDPM", "raw_state_dict")])
def test_a_last_state_that_lacks_what_training_continues_from_is_refused(name, lost, flags, copied):
    last = last_checkpoint(copied, name)
    for lack in ({lost: dict(list(last[lost].items())[1:])}, {lost: {}}):
        save_checkpoint(copied / "models" / f"LastModel_{name}.pth", {**last, **lack})
        with pytest.raises(UserError, match=f"cannot resume .*LastModel_{name}.pth"):
            train(*flags[name], "--resume")


@pytest.mark.parametrize("name", ["AE", "VAE"])
def test_bfloat16_gives_nearly_the_same_loss_and_another_seed_another_one(name, flags, trained_flowers, tmp_path):
    exact, mixed = trained_flowers[1][name][0][-1], train(*flags[name], "--amp")[0][-1]
    assert all(weight.dtype == torch.float32 for weight in best_checkpoint(tmp_path, name)["state_dict"].values())
    assert mixed["valid_loss"] == pytest.approx(exact["valid_loss"], rel=0.05)
    assert mixed["valid_loss"] != exact["valid_loss"] != train(*flags[name], "--seed", 1)[0][-1]["valid_loss"]


def test_the_defaults_depend_on_the_model_and_the_optimizer():
    args = train_script.parse_args(["--model", "AE"])
    assert (args.epochs, args.optimizer, args.schedule, args.encoding_dim) == (15, "adam", "one-cycle", 64)
    assert train_script.parse_args(["--model", "VAE"]).epochs == 20
    args = train_script.parse_args(["--model", "AE", "--optimizer", "sgd", "--image-size", "32"])
    assert (args.lr, args.schedule, args.image_size) == (1.0, "step", [32, 32])


def test_plain_sgd_follows_the_schedule_of_the_coursework():
    args, weight, rates = train_script.parse_args(["--model", "AE", "--optimizer", "sgd"]), torch.ones(1), []
    optimizer, scheduler = train_script.build_optimizer(args, [weight], steps_per_epoch=3)
    for _ in range(11 * 3):
        before, weight.grad = weight.item(), torch.ones(1)
        optimizer.step()
        scheduler.step()
        rates.append(before - weight.item())
    assert rates == pytest.approx([1.0] * 15 + [0.9] * 15 + [0.81] * 3, rel=1e-5)


def test_one_cycle_leaves_plain_sgd_and_the_gan_without_momentum():
    for argv in (["AE", "--optimizer", "sgd", "--schedule", "one-cycle"], ["GAN"]):
        args = train_script.parse_args(["--model", *argv])
        [group] = train_script.build_optimizer(args, [torch.ones(1)], steps_per_epoch=3)[0].param_groups
        assert (group["betas"][0] if argv == ["GAN"] else group["momentum"]) == 0


@pytest.mark.parametrize(
    ("scale", "kl", "active", "warned"), [(1.0, 5.0, 8, False), (0.0, 5.0, 0, True), (1.0, 0.01, 8, True)]
)
def test_a_collapsed_posterior_is_said_with_a_remedy(scale, kl, active, warned, tiny_flowers, tmp_path):
    torch.manual_seed(0)
    model, dataset = VarAutoencoder(8, 8, 8), create_flower_dataloaders(16, tiny_flowers, 8, 8)[1].dataset
    model.encoder[-1].weight.data *= scale  # 0: every image has the same mu
    best = {"model": "VAE", "epoch": 3, "valid_loss": 48.0, "valid_recon": 2.0, "valid_kl": kl, "data": dataset.info}
    best["settings"] = {"beta": 1.0}
    lines = train_script.diagnose(model, dataset, {**best, "state_dict": model.state_dict()}, tmp_path / "latent.png")
    assert lines[0].startswith(f"Diagnostics: reconstruction 2.000 + KL {kl:.3f} per validation image, {active} of 8 ")
    assert len(lines) == 1 + warned
    assert not warned or ("collapsed" in lines[1] and "--beta" in lines[1])
    assert_figure(tmp_path / "latent.png")


@all_models
def test_the_losses_are_plotted_again_from_the_checkpoint_alone(name, trained_flowers, copied, monkeypatch):
    monkeypatch.setattr(visualization, "plot_splits", lambda *_: {"valid": 0.0})
    errors = visualization.main(["--model", name, "--output-root", str(copied)])
    assert errors == ({"valid": 0.0} if name in ("AE", "VAE") else {})  # the others reconstruct nothing
    again, first = (root / "vis" / f"loss_{name}.png" for root in (copied, trained_flowers[0]))
    assert again.read_bytes() == first.read_bytes()


@pytest.mark.parametrize("name", ["AE", "VAE"])
def test_originals_and_reconstructions_of_both_splits_are_plotted(name, copied, tiny_flowers, monkeypatch):
    root, shown, plot = copied, [], visualization.plot_reconstructions
    monkeypatch.setattr(visualization, "plot_reconstructions", lambda *args: shown.append(args) or plot(*args))
    errors = visualization.main(["--model", name, "--data-root", str(tiny_flowers), "--output-root", str(root)])
    model, checkpoint = load_model(name, root)
    loaders = create_flower_dataloaders(16, tiny_flowers, 16, 12)
    for split, loader, (originals, reconstructions, path, title) in zip(errors, loaders, shown, strict=True):
        images = loader.dataset[:][0]
        with torch.no_grad():
            expected = model.reconstruct(images)
        np.testing.assert_array_equal(originals, images[: len(originals)])
        np.testing.assert_allclose(reconstructions, expected[: len(originals)], atol=1e-6)
        assert errors[split] == pytest.approx((expected - images).square().mean().item(), rel=1e-5)
        assert title.startswith(f"{name_model(checkpoint)}\n{split} split of flowers\n")
        assert three_digits(errors[split]) in title
        assert ("mean of q(z|x)" in title) == (name == "VAE")
        assert path == root / "vis" / f"{split}_{name}.png"
        assert_figure(path)


def test_originals_stand_above_reconstructions(tmp_path):
    originals, reconstructions = np.zeros((3, 3, 8, 6)), np.zeros((3, 3, 8, 6))
    originals[:, 0], reconstructions[:, 2] = 1, 1  # red above blue
    visualization.plot_reconstructions(originals, reconstructions, tmp_path / "grid.png", "title")
    pixels = np.asarray(Image.open(tmp_path / "grid.png").convert("RGB")).astype(int)
    red, blue = ((pixels == color).all(axis=2) for color in ([255, 0, 0], [0, 0, 255]))
    assert red.sum() == pytest.approx(blue.sum(), rel=0.05)
    assert red.sum() > 1000
    assert np.nonzero(red)[0].max() < np.nonzero(blue)[0].min()


def test_a_classifier_of_one_class_is_refused(tmp_path):
    write_flowers(tmp_path, per_class=4)
    for name in FLOWER_CLASSES[1:]:
        shutil.rmtree(tmp_path / name)
    with pytest.raises(UserError, match="a classifier needs 2 or more classes to tell apart, found astilbe alone"):
        train_script.main(["--model", "classifier", "--data-root", str(tmp_path), "--output-root", str(tmp_path / "x")])
    assert not (tmp_path / "x").exists()


def test_a_learned_variance_gives_bits_per_dimension_and_a_likelihood(tiny_flowers, tmp_path):
    flags = ["--data-root", tiny_flowers, "--output-root", tmp_path, "--model", "VAE"]
    history, log = logged(train_script.main, *flags, "--variance", "learned", "--encoding-dim", 8, "--epochs", 6)
    assert history[-1]["valid_variance"] < history[0]["valid_variance"] < 0.1
    assert history[-1]["valid_variance"] == pytest.approx(history[-1]["train_variance"], rel=0.5)
    best = best_checkpoint(tmp_path, "VAE")
    bits = 8 + (best["valid_recon"] + best["valid_kl"]) / 1728 / math.log(2)
    assert log[-2] == f"Variance: {best['valid_variance']:.5f}, {bits:.2f} bits per dimension"
    assert best["valid_loss"] == pytest.approx(best["valid_recon"] + best["valid_kl"], rel=1e-6)
    model, checkpoint = load_model("VAE", tmp_path)
    assert checkpoint["config"]["variance"] == "learned"
    assert model.variance.item() == pytest.approx(best["valid_variance"], rel=1e-5)
    estimate, lines = logged(train_script.main, *flags, "--evaluate", "--nll-samples", 20)
    assert re.fullmatch(r"NLL: .* nats per image, \d\.\d{3} bits per dimension \(.*20 samples, 12 images\)", lines[2])
    assert estimate.rate.mean().item() == pytest.approx(best["valid_kl"], rel=1e-3)
    assert estimate.distortion.mean().item() == pytest.approx(best["valid_recon"], abs=30)  # of one sample
    assert estimate.nll.mean() < (estimate.distortion + estimate.rate).mean()


def test_a_vae_from_before_there_was_a_variance_has_that_of_the_coursework(copied):
    checkpoint = best_checkpoint(copied, "VAE")
    del checkpoint["config"]["variance"]
    save_checkpoint(copied / "models" / "BestModel_VAE.pth", checkpoint)
    model, loaded = load_model("VAE", copied)
    assert (model.learns_variance, loaded["config"]["variance"]) == (False, "0.5")
