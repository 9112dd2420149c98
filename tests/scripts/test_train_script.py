"""train_script.py and visualization.py for all their models, from flags to files."""

import os
import re
import shutil
import warnings
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
from torch.optim.swa_utils import AveragedModel

import train_script
import visualization
from common import UserError
from common.checkpoints import save_checkpoint
from common.process import seed_everything
from data import create_flower_dataloaders
from datasets.synthetic import FLOWER_CLASSES
from trained.loading import load_model, name_model, three_digits
from trained.registry import MODELS

pytestmark = pytest.mark.xdist_group("trained_flowers")

METRICS = {"VAE": ["Recon", "KL"], "GAN": ["Critic", "Generator"], "Classifier": ["Accuracy"]}  # beside the loss
NUMBER = r"-?\d+\.\d{6}"
all_models = pytest.mark.parametrize("name", train_script.TRAININGS)
train = partial(logged, train_script.main)  # returns (history, its log as lines)


@pytest.fixture
def flags(tiny_flowers, tmp_path):
    """{model: the flags of `trained_flowers`, with tmp_path as the output root}."""
    common = ["--data-root", tiny_flowers, "--output-root", tmp_path, "--image-size", 12, "--epochs", 3]
    latent = dict.fromkeys(("AE", "VAE", "GAN"), ["--encoding-dim", 8])
    return {name: ["--model", name, *common, *latent.get(name, [])] for name in train_script.TRAININGS}


@pytest.fixture
def copied(trained_flowers, tmp_path):
    """tmp_path, with the checkpoints of `trained_flowers`: links, which are replaced and not written to."""
    return shutil.copytree(trained_flowers[0] / "models", tmp_path / "models", copy_function=os.link).parent


@all_models
def test_the_log_and_the_files(name, trained_flowers):
    root, runs = trained_flowers
    history, log = runs[name]
    assert log[0].startswith("Data: flowers, 60 images of 3 classes")
    assert "at 12x12, 48 train / 12 valid" in log[0]
    assert re.fullmatch(rf"Model: {name}, 3x12x12( -> 8 -> 3x12x12)?, [\d,]+ parameters", log[1])
    best = best_checkpoint(root, name)
    assert log[2] == "Settings: " + ", ".join(f"{name} {value}" for name, value in best["settings"].items())
    metrics = ["Loss", *METRICS.get(name, [])]
    fields = [f"{part} {metric}: {NUMBER}" for metric in metrics for part in ("Train", "Valid")]
    assert all(re.fullmatch(rf"Epoch: \d, {', '.join(fields)}( \*)?", line) for line in log[3:6])
    path = root / "models" / f"BestModel_{name}.pth"
    assert log[6:] == [f"Best Valid Loss: {best['valid_loss']:.6f} (epoch {best['epoch']}), saved to {path}"]
    assert [row["epoch"] for row in history] == [1, 2, 3]
    if name != "GAN":  # in a game of six steps it may rise
        assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert_figure(root / "vis" / f"loss_{name}.png")


@all_models
def test_a_model_is_rebuilt_from_its_checkpoint_alone_and_has_its_loss(name, trained_flowers, tiny_flowers):
    root, _ = trained_flowers
    model, checkpoint = load_model(name, root)
    assert_same_weights(model.state_dict(), best_checkpoint(root, name)["state_dict"])
    loader = create_flower_dataloaders(16, tiny_flowers, 12, 12)[1]
    seed_everything(0)  # as each validation does, before it asks for its only batch
    [(images, labels)] = loader
    images = images.contiguous(memory_format=torch.channels_last)  # the DDPM's noise is laid out alike
    with torch.no_grad():
        outputs = model(images, *MODELS[name].condition(labels))
        _, metrics = model.loss(outputs, images)
    for metric, value in metrics.items():
        assert checkpoint[f"valid_{metric}"] == pytest.approx(value, rel=1e-5), metric
    last = last_checkpoint(root, name)
    assert len(last["optimizer"]["state"]) == len(list(model.parameters()))  # each of them is trained
    deviations = [buffer for key, buffer in model.named_buffers() if key.endswith("std")]
    assert bool(deviations) == (name in ("GAN", "DDPM"))
    assert all((buffer != 1).all() for buffer in deviations)  # those of the photographs


def flat(weights):
    """A copy of weights as one vector."""
    return torch.cat([weight.detach().flatten() for weight in weights])


@pytest.mark.parametrize("name", ["AE", "VAE", "GAN", "DDPM"])
def test_an_interrupted_run_resumes_to_the_same_bits_and_averages(name, flags, trained_flowers, tmp_path, monkeypatch):
    """GAN and DDPM save 0.999 of the average of the weights so far, in the first steps less, and the rest of the
    current ones."""
    root, runs = trained_flowers
    update = AveragedModel.update_parameters
    steps = []

    def watched(averaged, model):
        steps.append(flat(model.parameters()))
        update(averaged, model)

    monkeypatch.setattr(AveragedModel, "update_parameters", watched)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_in_epoch(patch, 3)
        train(*flags[name])
    steps = steps[:-1]  # the last one was in the interrupted epoch
    history, log = train(*flags[name], "--resume")
    assert history == runs[name][0]
    assert log == [line.replace(str(root), str(tmp_path)) for line in runs[name][1]]
    resumed, expected = (last_checkpoint(folder, name) for folder in (tmp_path, root))
    for weights in ("state_dict", "raw_state_dict"):
        assert_same_weights(resumed.get(weights, {}), expected.get(weights, {}))
    assert (len(steps) == 6) == ("raw_state_dict" in resumed) == (name in ("GAN", "DDPM"))
    if steps:
        average = steps[0]
        for count, weights in enumerate(steps[1:], 1):
            decay = min(0.999, (1 + count) / (10 + count))
            average = decay * average + (1 - decay) * weights
        names = [parameter for parameter, _ in MODELS[name].build(**resumed["config"]).named_parameters()]
        saved = [flat(resumed[entry][key] for key in names) for entry in ("state_dict", "raw_state_dict")]
        torch.testing.assert_close(saved[0], average, rtol=1e-4, atol=1e-6)
        assert torch.equal(saved[1], steps[-1])
        assert not torch.allclose(*saved, rtol=1e-4, atol=1e-6)


def test_late_in_the_training_the_average_keeps_0_999_of_itself():
    average = [torch.zeros(3)]
    train_script.ema_update(average, [torch.ones(3)], torch.tensor(100_000))
    torch.testing.assert_close(average[0], torch.full((3,), 0.001))


def test_more_epochs_continue_the_schedule_of_plain_sgd(flags, tmp_path):
    argv = [*flags["AE"], "--image-size", 8, "--optimizer", "sgd"]
    whole, _ = train(*argv, "--epochs", 6, "--output-root", tmp_path / "whole")
    train(*argv)
    assert train(*argv, "--epochs", 6, "--resume")[0] == whole
    assert_same_weights(*(last_checkpoint(root, "AE")["state_dict"] for root in (tmp_path, tmp_path / "whole")))


def test_optimizers_follow_the_schedule_of_the_coursework_or_one_cycle():
    weight = torch.ones(1)
    build = partial(train_script.build_optimizer, parameters=[weight], epochs=11, steps_per_epoch=3)
    optimizer, scheduler = build("sgd", lr=1.0, training=train_script.TRAININGS["AE"])
    rates = []
    for _ in range(11 * 3):
        before = weight.item()
        weight.grad = torch.ones(1)
        optimizer.step()
        scheduler.step()
        rates.append(before - weight.item())
    assert rates == pytest.approx([1.0] * 15 + [0.9] * 15 + [0.81] * 3, rel=1e-5)
    for name, model, momentum in (("momentum", "AE", 0.95), ("adam", "AE", 0.95), ("adam", "GAN", 0.0)):
        optimizer, scheduler = build(name, lr=0.1, training=train_script.TRAININGS[model])
        [group] = optimizer.param_groups
        assert group["lr"] == pytest.approx(0.1 / 25)
        assert group.get("momentum", group.get("betas", [None])[0]) == momentum
        for _ in range(10):  # 30 % of the steps
            optimizer.step()
            scheduler.step()
        assert group["lr"] == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--encoding-dim", 9], "encoding_dim was 8, now 9"),
        (["--image-size", 8], "img_height was 12, now 8; img_width was 12, now 8"),
        (["--optimizer", "sgd"], "optimizer was adam, now sgd"),
        (["--epochs", 4], "epochs was 3, now 4"),  # the one-cycle schedule depends on them
    ],
)
def test_resume_with_other_settings_is_refused(changed, message, flags, copied):
    with pytest.raises(UserError, match=message):
        train(*flags["AE"], "--resume", *changed)


@pytest.mark.parametrize(("name", "lost"), [("AE", "optimizer"), ("DDPM", "raw_state_dict")])
def test_a_last_state_from_which_no_training_can_continue_is_refused(name, lost, flags, copied):
    last = last_checkpoint(copied, name)
    for rest in (dict(list(last[lost].items())[1:]), {}):
        save_checkpoint(copied / "models" / f"LastModel_{name}.pth", {**last, lost: rest})
        with pytest.raises(UserError, match=f"cannot resume .*LastModel_{name}.pth: its state does not fit"):
            train(*flags[name], "--resume")


def test_bfloat16_gives_nearly_the_same_loss(flags, trained_flowers, tmp_path):
    exact = trained_flowers[1]["VAE"][0][-1]["valid_loss"]
    mixed = train(*flags["VAE"], "--amp")[0][-1]["valid_loss"]
    assert mixed == pytest.approx(exact, rel=0.05)
    assert mixed != exact
    assert all(weight.dtype == torch.float32 for weight in best_checkpoint(tmp_path, "VAE")["state_dict"].values())


def test_the_defaults_depend_on_the_model_and_the_optimizer():
    args = train_script.parse_args(["--model", "AE"])
    assert (args.epochs, args.batch_size, args.optimizer, args.encoding_dim, args.image_size) == (15, 8, "adam", 64, 24)
    assert train_script.parse_args(["--model", "VAE"]).epochs == 20
    args = train_script.parse_args(["--model", "AE", "--optimizer", "sgd", "--image-size", "32"])
    assert (args.epochs, args.batch_size, args.lr, args.image_size) == (15, 16, 1.0, 32)


@all_models
def test_losses_and_reconstructions_are_plotted_from_the_checkpoint(
    name, trained_flowers, copied, tiny_flowers, monkeypatch
):
    plots = []
    plot = visualization.plot_reconstructions
    monkeypatch.setattr(visualization, "plot_reconstructions", lambda *args: plots.append(args) or plot(*args))
    errors = visualization.main(["--model", name, "--data-root", str(tiny_flowers), "--output-root", str(copied)])
    again, first = (root / "vis" / f"loss_{name}.png" for root in (copied, trained_flowers[0]))
    assert again.read_bytes() == first.read_bytes()
    assert list(errors) == (["train", "valid"] if name in ("AE", "VAE") else [])  # the others reconstruct nothing
    model, checkpoint = load_model(name, copied)
    loaders = create_flower_dataloaders(16, tiny_flowers, 12, 12)
    for split, loader, (originals, reconstructions, path, title) in zip(errors, loaders, plots, strict=False):
        images = loader.dataset[:][0]
        with torch.no_grad():
            expected = model.reconstruct(images)
        np.testing.assert_array_equal(originals, images[: len(originals)])
        np.testing.assert_allclose(reconstructions, expected[: len(originals)], atol=1e-6)
        assert errors[split] == pytest.approx((expected - images).square().mean().item(), rel=1e-5)
        assert title.startswith(f"{name_model(checkpoint)}\n{split} split of flowers\n")
        assert three_digits(errors[split]) in title
        assert path == copied / "vis" / f"{split}_{name}.png"
        assert_figure(path)


def test_a_classifier_of_one_class_is_refused(tmp_path):
    write_flowers(tmp_path, per_class=4)
    for name in FLOWER_CLASSES[1:]:
        shutil.rmtree(tmp_path / name)
    with pytest.raises(UserError, match="a classifier needs 2 or more classes, found astilbe alone"):
        train("--model", "Classifier", "--data-root", tmp_path, "--output-root", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_species_without_a_training_image_is_warned_of(tmp_path):
    """Of four classes with one image each, three train and one is held out."""
    for name in "abcd":
        (tmp_path / "flowers" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (ord(name), 0, 0)).save(tmp_path / "flowers" / name / "image.png")
    flags = ["--image-size", 8, "--epochs", 1, "--data-root", tmp_path / "flowers", "--output-root", tmp_path / "out"]
    with pytest.warns(UserWarning, match="Classifier does not learn [abcd]: all of its images are held out"):
        train("--model", "Classifier", *flags)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train("--model", "AE", *flags)
