"""train_script.py, visualization.py and random_generation.py for AE and VAE, from flags to files."""

import re
import shutil

import numpy as np
import pytest
import torch
from conftest import FIELDS, assert_picture, assert_same_weights, last_weights, logged, stopped_in_epoch

import random_generation
import train_script
import visualization
from Autoencoder import Autoencoder
from data import create_flower_dataloaders
from trained import load_model, name_model
from training import UserError, load_checkpoint, save_checkpoint
from VarAutoencoder import MODELS, VAE_loss_function, VarAutoencoder, kl_divergence

DATA = {"name": "flowers", "image_size": [12, 16], "split_seed": 0, "fingerprint": "0"}


def train(*argv):
    """Run the training script; returns (history, its log as lines)."""
    return logged(train_script.main, *argv)


@pytest.fixture(scope="module", params=list(MODELS))
def trained(request, tiny_flowers, tmp_path_factory):
    """(model, output root, history, log) of a short training on images that are not square."""
    root = tmp_path_factory.mktemp(f"output root {request.param}")
    flags = ["--data-root", tiny_flowers, "--output-root", root, "--image-size", 12, 16, "--encoding-dim", 8]
    history, log = train("--model", request.param, "--epochs", 3, *flags)
    return request.param, root, history, log


def best(root, name):
    return load_checkpoint(root / "models" / f"BestModel_{name}.pth", made_by="test")


def test_the_log(trained):
    name, root, history, log = trained
    assert log[0].startswith("Data: flowers, 60 images of 3 classes")
    assert "at 12x16, 48 train / 12 valid" in log[0]
    assert re.fullmatch(rf"Model: {name}, 3x12x16 -> 8 -> 3x12x16, [\d,]+ parameters", log[1])
    assert "optimizer adam" in log[2]
    assert all(re.fullmatch(FIELDS[name], line) for line in log[3:6])
    if name == "VAE":
        pattern = r"Diagnostics: reconstruction [\d.]+ \+ KL [\d.]+ per validation image, \d of 8 latent dimensions .*"
        assert re.fullmatch(pattern, log[6])
    assert re.fullmatch(rf"Best Valid Loss: [\d.]+ \(epoch \d\), saved to models/BestModel_{name}.pth", log[-1])
    assert not any("Warning" in line for line in log)
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert_picture(root / "vis" / f"loss_{name}.png")
    assert (root / "vis" / "latent_VAE.png").exists() == (name == "VAE")


def test_the_vae_loss_is_stated_for_16_images_whatever_the_batch(tiny_flowers, tmp_path):
    flags = ["--model", "VAE", "--epochs", 1, "--image-size", 8, "--data-root", tiny_flowers, "--output-root", tmp_path]
    for size in (5, 16, 48):
        (row,), _ = train(*flags, "--batch-size", size, "--lr", 1e-12, "--beta", 2)  # stays where it starts
        model, _ = load_model("VAE", tmp_path)
        images = create_flower_dataloaders(16, str(tiny_flowers), 8, 8)[1].dataset[:][0]
        with torch.no_grad():
            mu, log_var = model.encode(images)
            kl = kl_divergence(mu, log_var).sum().item() / len(images)
            samples = [VAE_loss_function(model(images), images, beta=2).item() for _ in range(50)]
        assert row["valid_kl"] == pytest.approx(kl, rel=1e-4)
        assert row["valid_loss"] == pytest.approx(16 * np.mean(samples) / len(images), rel=0.02)
        assert row["valid_recon"] == pytest.approx(row["valid_loss"] / 16 - 2 * kl, rel=1e-4)
        assert row["train_loss"] == pytest.approx(row["valid_loss"], rel=0.3)


def test_a_model_answers_bit_for_bit_as_the_one_that_was_saved(tmp_path):
    torch.manual_seed(0)
    for model in (Autoencoder(8, 12, 16), VarAutoencoder(8, 12, 16)):
        config, about = {"encoding_dim": 8, "img_height": 12, "img_width": 16}, {"data": DATA, "settings": {}}
        row = {"epoch": 1, "train_loss": 2.0, "valid_loss": 3.0}
        checkpoint = {"model": model.name, "config": config, **about, "history": [row], **row}
        path = tmp_path / "models" / f"BestModel_{model.name}.pth"
        save_checkpoint(path, {**checkpoint, "state_dict": model.state_dict()})
        loaded, found = load_model(model.name, tmp_path)
        x = torch.rand(4, 3, 12, 16)
        assert torch.equal(loaded.reconstruct(x), model.reconstruct(x))
        assert found["config"] == config


def test_training_moves_every_weight_and_evaluation_none(tiny_flowers, tmp_path):
    for name, model in MODELS.items():
        args = train_script.parse_args(["--model", name, "--lr", "0.01"])
        model, (images, labels) = model(), create_flower_dataloaders(16, str(tiny_flowers))[0].dataset[:]
        steps = train_script.make_steps(
            args, model, *train_script.build_optimizer(args, model.parameters(), 10), torch.device("cpu")
        )
        before = {name: weight.clone() for name, weight in model.state_dict().items()}
        steps[1](images, labels)
        assert_same_weights(model.state_dict(), before)
        steps[0](images, labels, epoch=1)
        for name, weight in model.state_dict().items():
            assert (weight != before[name]).float().mean() > 0.98, name


def test_the_pictures_are_rebuilt_from_the_checkpoint_alone(trained, tiny_flowers, monkeypatch):
    name, root, history, _ = trained
    titles, plot = [], visualization.plot_reconstructions

    def record(originals, reconstructions, path, title):
        titles.append(title)
        assert originals.shape == reconstructions.shape
        assert originals.shape[1:] == (3, 12, 16)
        plot(originals, reconstructions, path, title)

    monkeypatch.setattr(visualization, "plot_reconstructions", record)
    errors = visualization.main(["--model", name, "--data-root", str(tiny_flowers), "--output-root", str(root)])
    if name == "AE":
        assert errors["valid"] == pytest.approx(min(row["valid_loss"] for row in history), abs=1e-6)
    assert titles[1].startswith(f"{name_model(best(root, name))}: valid split of flowers\n")
    assert ("mean of q(z|x)" in titles[1]) == (name == "VAE")
    for file in ("train", "valid", "loss"):
        assert_picture(root / "vis" / f"{file}_{name}.png")


def test_other_data_than_the_model_was_trained_on_is_said(trained, monkeypatch, capsys):
    name, root, _, _ = trained
    titles = []
    monkeypatch.setattr(visualization, "plot_reconstructions", lambda *args: titles.append(args[-1]))
    visualization.main(["--model", name, "--data", "synthetic", "--output-root", str(root)])
    assert all("synthetic flowers\n(not the images it was trained on: flowers)" in title for title in titles)
    assert f"not the images that {name} was trained on" in capsys.readouterr().err


def test_random_pictures_need_the_checkpoint_alone(trained, tmp_path):
    name, root, _, _ = trained
    (tmp_path / "models").mkdir()
    shutil.copy(root / "models" / f"BestModel_{name}.pth", tmp_path / "models")
    flags = ["--model", name, "--output-root", str(tmp_path)]
    first = random_generation.main([*flags, "--n", "25"])
    assert first.shape == (25, 3, 12, 16)
    assert_picture(tmp_path / "vis" / f"random_images_{name}.png")
    assert torch.equal(random_generation.main([*flags, "--n", "25"]), first)
    assert not torch.equal(random_generation.main([*flags, "--n", "25", "--seed", "1"]), first)
    cold = random_generation.main([*flags, "--temperature", "0.001"])
    assert cold.std(dim=0).max() < 0.01 < first.std(dim=0).max()


def test_random_latents_are_from_the_standard_normal(trained, monkeypatch):
    name, root, _, _ = trained
    model, checkpoint = load_model(name, root)
    model.decoder = torch.nn.Identity()
    monkeypatch.setattr(random_generation, "load_model", lambda *_: (model, checkpoint))
    monkeypatch.setattr(random_generation, "plot_samples", lambda *_: None)
    flags = ["--model", name, "--output-root", str(root), "--n", "5000"]
    for temperature in (1, 0.5):
        latents = random_generation.main([*flags, "--temperature", str(temperature)])
        assert latents.shape == (5000, 8)
        torch.testing.assert_close(latents.mean(dim=0), torch.zeros(8), atol=0.06, rtol=0)
        torch.testing.assert_close(latents.std(dim=0), torch.full((8,), float(temperature)), atol=0.04, rtol=0)


@pytest.mark.parametrize("name", list(MODELS))
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_an_interrupted_run_resumes_to_the_same_weights_and_log(name, optimizer, tiny_flowers, tmp_path, monkeypatch):
    flags = ["--model", name, "--optimizer", optimizer, "--data-root", tiny_flowers, "--image-size", 8, "--epochs", 4]
    whole = train(*flags, "--output-root", tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train_script, "make_steps", stopped_in_epoch(3, train_script.make_steps))
        train(*flags, "--output-root", tmp_path / "parts")
    resumed = train(*flags, "--output-root", tmp_path / "parts", "--resume")
    assert resumed == whole
    assert_same_weights(last_weights(tmp_path / "parts", name), last_weights(tmp_path / "whole", name))


def test_more_epochs_continue_a_step_schedule_and_are_refused_by_one_that_hangs_on_them(tiny_flowers, tmp_path):
    flags = ["--model", "AE", "--data-root", tiny_flowers, "--image-size", 8, "--lr", 0.01]
    for optimizer in ("sgd", "adam"):
        argv = [*flags, "--schedule", "step", "--optimizer", optimizer]
        whole = train(*argv, "--epochs", 7, "--output-root", tmp_path / "whole")
        train(*argv, "--epochs", 3, "--output-root", tmp_path / "parts")
        assert train(*argv, "--epochs", 7, "--output-root", tmp_path / "parts", "--resume") == whole
    train(*flags, "--epochs", 2, "--output-root", tmp_path)
    with pytest.raises(UserError, match="epochs was 2, now 3"):
        train(*flags, "--epochs", 3, "--output-root", tmp_path, "--resume")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--encoding-dim", 9], "encoding_dim was 8, now 9"),
        (["--image-size", 8], "img_height was 12, now 8; img_width was 16, now 8"),
        (["--optimizer", "sgd"], "optimizer was adam, now sgd"),
        (["--data", "synthetic"], "data was flowers .*, now synthetic flowers"),
    ],
)
def test_resume_with_other_settings_is_refused(trained, tiny_flowers, flags, message):
    name, root, _, _ = trained
    argv = ["--model", name, "--output-root", root, "--image-size", 12, 16, "--encoding-dim", 8, "--epochs", 3]
    argv += ["--resume", *flags]
    with pytest.raises(UserError, match=message):
        train(*argv, *([] if "--data" in flags else ["--data-root", tiny_flowers]))


def test_the_same_seed_prints_the_same_bytes_and_another_does_not(trained, tiny_flowers, tmp_path):
    name, _, _, log = trained
    flags = ["--data-root", tiny_flowers, "--output-root", tmp_path, "--image-size", 12, 16, "--encoding-dim", 8]
    assert train("--model", name, "--epochs", 3, *flags)[1] == log
    assert train("--model", name, "--epochs", 3, *flags, "--seed", 1)[1][3:] != log[3:]


@pytest.mark.parametrize("name", list(MODELS))
def test_bfloat16_gives_nearly_the_same_loss(name, tiny_flowers, tmp_path):
    flags = ["--model", name, "--data-root", tiny_flowers, "--output-root", tmp_path, "--epochs", 2]
    exact, mixed = train(*flags)[0][-1], train(*flags, "--amp")[0][-1]
    assert mixed["valid_loss"] == pytest.approx(exact["valid_loss"], rel=0.05)
    assert mixed["valid_loss"] != exact["valid_loss"]
    assert all(weight.dtype == torch.float32 for weight in best(tmp_path, name)["state_dict"].values())


@pytest.mark.parametrize(
    ("scale", "kl", "active", "warned"), [(1.0, 5.0, 8, False), (0.0, 5.0, 0, True), (1.0, 0.01, 8, True)]
)
def test_a_collapsed_posterior_is_said_with_a_remedy(scale, kl, active, warned, tiny_flowers, tmp_path):
    torch.manual_seed(0)
    model = VarAutoencoder(8, 8, 8)
    model.encoder[-1].weight.data *= scale  # 0: every image has the same mu
    dataset = create_flower_dataloaders(16, str(tiny_flowers), 8, 8)[1].dataset
    about = {
        "model": "VAE",
        "epoch": 3,
        "valid_loss": 48.0,
        "valid_recon": 2.0,
        "valid_kl": kl,
        "data": {"name": "flowers"},
    }
    lines = train_script.diagnose(model, dataset, {"state_dict": model.state_dict(), **about}, tmp_path / "latent.png")
    used = f"{active} of 8 latent dimensions active (variance of mu above 0.01)"
    assert lines[0] == f"Diagnostics: reconstruction 2.000 + KL {kl:.3f} per validation image, {used}"
    assert len(lines) == 1 + warned
    assert not warned or ("the posterior has collapsed" in lines[1] and "--beta" in lines[1])
    assert_picture(tmp_path / "latent.png")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--image-size", "25"], "25 is not a multiple of 4"),
        (["--image-size", "24", "24", "24"], "expected one number, or height and width"),
        (["--encoding-dim", "0"], "0 is not between 1 and 10000000"),
        (["--optimizer", "lion"], "invalid choice: 'lion'"),
        (["--beta", "2"], "AE has no KL to weigh"),
    ],
)
def test_wrong_arguments_are_status_2(flags, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        train_script.main(["--model", "AE", *flags])
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_a_device_that_is_not_there_is_said(tmp_path):
    with pytest.raises(UserError, match="--device nonsense does not work on this machine"):
        train("--model", "AE", "--device", "nonsense", "--output-root", tmp_path)


def test_the_defaults_hang_on_the_model_and_the_optimizer():
    args = train_script.parse_args(["--model", "AE"])
    assert (args.epochs, args.optimizer, args.schedule, args.encoding_dim) == (15, "adam", "one-cycle", 64)
    assert train_script.parse_args(["--model", "VAE"]).epochs == 20
    args = train_script.parse_args(["--model", "AE", "--optimizer", "sgd", "--image-size", "32"])
    assert (args.lr, args.schedule, args.image_size) == (1.0, "step", [32, 32])


def test_one_cycle_leaves_plain_sgd_without_momentum():
    args = train_script.parse_args(["--model", "AE", "--optimizer", "sgd", "--schedule", "one-cycle"])
    optimizer, _ = train_script.build_optimizer(args, [torch.zeros(1, requires_grad=True)], steps_per_epoch=3)
    assert optimizer.param_groups[0]["momentum"] == 0


def test_plain_sgd_follows_the_schedule_of_the_coursework():
    args = train_script.parse_args(["--model", "AE", "--optimizer", "sgd"])
    weight = torch.zeros(1, requires_grad=True)
    optimizer, scheduler = train_script.build_optimizer(args, [weight], steps_per_epoch=3)
    rates = []
    for _ in range(11 * 3):
        weight.grad = torch.ones(1)
        before = weight.item()
        optimizer.step()
        scheduler.step()
        rates.append(before - weight.item())
    assert rates == pytest.approx([1.0] * 15 + [0.9] * 15 + [0.81] * 3, rel=1e-5)


@pytest.mark.parametrize("script", [visualization, random_generation])
def test_a_checkpoint_of_another_model_or_of_the_last_state_is_refused(script, trained, tmp_path):
    name, root, _, _ = trained
    other = {"AE": "VAE", "VAE": "AE"}[name]
    (tmp_path / "models").mkdir()
    best_path = tmp_path / "models" / f"BestModel_{other}.pth"
    for file, holds in (("Best", f"the best state of {name}"), ("Last", f"the last state of {name}")):
        shutil.copy(root / "models" / f"{file}Model_{name}.pth", best_path)
        with pytest.raises(UserError, match=f"holds {holds}, expected the best of {other}.*--model {other}"):
            script.main(["--model", other, "--output-root", str(tmp_path)])


def test_weights_that_do_not_fit_are_refused(trained, tmp_path):
    name, root, _, _ = trained
    checkpoint = best(root, name)
    checkpoint["config"]["encoding_dim"] = 9
    save_checkpoint(tmp_path / "models" / f"BestModel_{name}.pth", checkpoint)
    with pytest.raises(UserError, match=f"BestModel_{name}.pth does not describe the model {name}"):
        random_generation.main(["--model", name, "--output-root", str(tmp_path)])


def test_resume_from_a_best_model_in_the_place_of_the_last_is_refused(trained, tiny_flowers, tmp_path):
    name, root, _, _ = trained
    shutil.copytree(root / "models", tmp_path / "models")
    shutil.copy(root / "models" / f"BestModel_{name}.pth", tmp_path / "models" / f"LastModel_{name}.pth")
    flags = ["--data-root", tiny_flowers, "--output-root", tmp_path, "--image-size", 12, 16, "--encoding-dim", 8]
    with pytest.raises(UserError, match=f"cannot resume .*LastModel_{name}.pth: it lacks what training goes on from"):
        train("--model", name, "--epochs", 3, *flags, "--resume")
