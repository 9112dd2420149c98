"""train_script.py and random_generation.py for GAN, DDPM and Classifier, the samplers and the score, on tiny images."""

import re

import pytest
import torch
from conftest import assert_picture, assert_same_weights, logged, stopped_in_epoch

import data
import random_generation
import score
import train_script
import visualization
from sampling import draw_latents, encode, fit_prior
from trained import load_model, load_photographs
from training import UserError, load_checkpoint, save_checkpoint

GENERATORS = ("AE", "VAE", "GAN", "DDPM")
NUMBER = r"-?\d+\.\d{6}"
FIELDS = {
    "GAN": rf"Train Loss: {NUMBER}, Valid Loss: {NUMBER}, Train Critic: {NUMBER}, Valid Critic: {NUMBER},"
    rf" Train Generator: {NUMBER}, Valid Generator: {NUMBER}",
    "DDPM": rf"Train Loss: {NUMBER}, Valid Loss: {NUMBER}",
    "Classifier": rf"Train Loss: {NUMBER}, Valid Loss: {NUMBER}, Train Accuracy: {NUMBER}, Valid Accuracy: {NUMBER}",
}


@pytest.fixture(scope="module")
def everything(tiny_flowers, tmp_path_factory):
    """(output root with all models, trained for two epochs on images that are not square; {name: log})."""
    root, logs = tmp_path_factory.mktemp("everything"), {}
    for name in (*GENERATORS, "Classifier"):
        flags = ["--data-root", tiny_flowers, "--output-root", root, "--image-size", 8, 12, "--epochs", 2]
        _, logs[name] = logged(train_script.main, "--model", name, *flags)
    return root, logs


def generate(root, *argv):
    return random_generation.main([*map(str, argv), "--output-root", str(root)])


@pytest.mark.parametrize("name", FIELDS)
def test_the_log_and_the_files(everything, name):
    root, logs = everything
    log = logs[name]
    assert log[0].startswith("Data: flowers, 60 images of 3 classes")
    assert re.fullmatch(rf"Model: {name}, 3x8x12, [\d,]+ parameters", log[1])
    assert all(re.fullmatch(rf"Epoch: \d, {FIELDS[name]}( \*)?", line) for line in log[3:5])
    assert re.fullmatch(rf"Best Valid Loss: {NUMBER} \(epoch \d\), saved to models/BestModel_{name}.pth", log[5])
    assert_picture(root / "vis" / f"loss_{name}.png")
    drawn = (root / "vis" / f"loss_{name}.png").read_bytes()
    assert visualization.main(["--model", name, "--output-root", str(root)]) == {}
    assert (root / "vis" / f"loss_{name}.png").read_bytes() == drawn


@pytest.mark.parametrize("name", ["GAN", "DDPM"])
def test_an_interrupted_run_resumes_to_the_same_weights_and_log(name, tiny_flowers, tmp_path, monkeypatch):
    flags = ["--model", name, "--data-root", tiny_flowers, "--image-size", 8, "--epochs", 4]
    whole = logged(train_script.main, *flags, "--output-root", tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train_script, "make_steps", stopped_in_epoch(3, train_script.make_steps))
        logged(train_script.main, *flags, "--output-root", tmp_path / "parts")
    assert logged(train_script.main, *flags, "--output-root", tmp_path / "parts", "--resume") == whole
    last = [load_checkpoint(tmp_path / run / "models" / f"LastModel_{name}.pth", "test") for run in ("parts", "whole")]
    for weights in ("state_dict", "in_training"):
        assert_same_weights(*(checkpoint[weights] for checkpoint in last))
    averaged, newest = (checkpoint.values() for checkpoint in (last[0]["state_dict"], last[0]["in_training"]))
    assert any(not torch.equal(*pair) for pair in zip(averaged, newest, strict=True))


def test_what_is_saved_is_the_average_of_the_weights(tiny_flowers, tmp_path, monkeypatch):
    seen = []

    def make_steps(args, model, *others):
        train_step, *rest = original(args, model, *others)

        def step(images, labels, epoch):
            result = train_step(images, labels, epoch)
            seen.append(model.unet.first.weight.detach().clone())
            return result

        return step, *rest

    original = train_script.make_steps
    monkeypatch.setattr(train_script, "make_steps", make_steps)
    flags = ["--model", "DDPM", "--data-root", tiny_flowers, "--image-size", 8, "--epochs", 2, "--batch-size", 16]
    logged(train_script.main, *flags, "--output-root", tmp_path)
    assert len(seen) == 6
    average = seen[0]
    for weight in seen[1:]:
        average = train_script.AVERAGE_DECAY * average + (1 - train_script.AVERAGE_DECAY) * weight
    saved = load_checkpoint(tmp_path / "models" / "LastModel_DDPM.pth", "test")["state_dict"]
    torch.testing.assert_close(saved["unet.first.weight"], average)


@pytest.mark.parametrize("change", [lambda weights: weights.pop("unet.first.bias"), lambda weights: weights.clear()])
def test_a_strangers_last_state_is_refused_where_it_lacks_the_weights_in_training(tiny_flowers, tmp_path, change):
    flags = [
        "--model",
        "DDPM",
        "--data-root",
        tiny_flowers,
        "--output-root",
        tmp_path,
        "--image-size",
        8,
        "--epochs",
        1,
    ]
    logged(train_script.main, *flags)
    path = tmp_path / "models" / "LastModel_DDPM.pth"
    last = load_checkpoint(path, "test")
    change(last["in_training"])
    save_checkpoint(path, last)
    with pytest.raises(UserError, match="cannot resume .*LastModel_DDPM.pth"):
        logged(train_script.main, *flags, "--resume")


@pytest.mark.parametrize(
    ("name", "entry", "change"),
    [
        ("DDPM", "data", {"classes": ["astilbe"]}),
        ("DDPM", "state_dict", {"share": torch.tensor([1.0, -1.0, 1.0])}),
        ("DDPM", "state_dict", {"share": torch.zeros(3)}),
        ("DDPM", "config", {"classes": 10**9}),
        ("DDPM", "config", {"img_height": -8}),
        ("DDPM", "config", {"img_height": 8.0}),
        ("DDPM", "data", {"classes": [1, 2, 3]}),
        ("DDPM", "in_training", {"w": torch.tensor(float("nan"))}),
        ("GAN", "config", {"encoding_dim": 10**9}),
        ("Classifier", "config", {"classes": 10**9}),
        ("Classifier", "valid_accuracy", "high"),
    ],
)
def test_what_a_checkpoint_says_of_itself_is_checked_before_it_is_used(everything, tmp_path, name, entry, change):
    checkpoint = load_checkpoint(everything[0] / "models" / f"BestModel_{name}.pth", "test")
    changed = {**checkpoint.get(entry, {}), **change} if isinstance(change, dict) else change
    save_checkpoint(tmp_path / "models" / f"BestModel_{name}.pth", {**checkpoint, entry: changed})
    with pytest.raises(UserError, match=r"does not describe the model|not a readable checkpoint"):
        load_model(name, tmp_path)


@pytest.mark.parametrize("name", ["DDPM", "Classifier"])
def test_a_checkpoint_for_huge_images_is_refused(everything, tmp_path, name):
    checkpoint = load_checkpoint(everything[0] / "models" / f"BestModel_{name}.pth", "test")
    checkpoint["config"] |= {"img_height": 8000, "img_width": 8000}
    checkpoint["data"]["image_size"] = [8000, 8000]
    save_checkpoint(tmp_path / "models" / f"BestModel_{name}.pth", checkpoint)
    with pytest.raises(UserError, match="expected at most 1024x1024"):
        load_model(name, tmp_path)


def test_few_held_out_images_are_enough_for_walks_and_scores(everything, tmp_path, monkeypatch, tiny_flowers):
    root, _ = everything

    def few(args, checkpoint):
        training, held_out = load_photographs(args, checkpoint)
        held_out.images, held_out.labels = held_out.images[:count], held_out.labels[:count]
        return training, held_out

    for module in (random_generation, score):
        monkeypatch.setattr(module, "load_photographs", few)
    flags = ["--data-root", tiny_flowers]
    count = 5
    assert generate(root, "--model", "VAE", "--interpolate", *flags).shape == (20, 3, 8, 12)
    assert len(generate(root, "--score", *flags)) == 7
    count = 1
    with pytest.raises(UserError, match="expected 2 or more held-out images"):
        generate(root, "--model", "VAE", "--interpolate", *flags)
    with pytest.raises(UserError, match="expected 3 or more held-out photographs"):
        generate(root, "--score", *flags)


def test_weights_that_make_what_is_not_finite_are_an_error(everything, tmp_path, tiny_flowers):
    for name, weight in (("AE", "encoder.0.weight"), ("GAN", "generator.0.weight"), ("DDPM", "unet.first.weight")):
        checkpoint = load_checkpoint(everything[0] / "models" / f"BestModel_{name}.pth", "test")
        checkpoint["state_dict"][weight] += 3e38
        save_checkpoint(tmp_path / "models" / f"BestModel_{name}.pth", checkpoint)
        flags = ["--sampler", "gmm", "--data-root", tiny_flowers] if name == "AE" else []
        with pytest.raises(UserError, match=f"what {name} makes is not finite"):
            generate(tmp_path, "--model", name, *flags)


@pytest.mark.parametrize("name", ["GAN", "DDPM"])
def test_random_pictures_hang_on_the_seed_alone(everything, name):
    root, _ = everything
    first = generate(root, "--model", name, "--n", 12)
    assert first.shape == (12, 3, 8, 12)
    assert first.min() >= 0
    assert first.max() <= 1
    assert_picture(root / "vis" / f"random_images_{name}.png")
    assert torch.equal(generate(root, "--model", name, "--n", 12), first)
    assert not torch.equal(generate(root, "--model", name, "--n", 12, "--seed", 1), first)


def test_the_diffusion_model_draws_the_species_it_is_told(everything, monkeypatch):
    root, _ = everything
    model, checkpoint = load_model("DDPM", root)
    torch.testing.assert_close(model.share.sum(), torch.tensor(1.0))
    asked = []
    monkeypatch.setattr(model.unet, "forward", lambda x, level, labels: asked.append(labels) or 0 * x)
    monkeypatch.setattr(random_generation, "load_model", lambda *_: (model, checkpoint))
    generate(root, "--model", "DDPM", "--n", 4, "--label", "bellflower")
    assert torch.stack(asked).unique().tolist() == [checkpoint["data"]["classes"].index("bellflower")]
    asked.clear()
    generate(root, "--model", "DDPM", "--n", 4, "--label", "bellflower", "--guidance", 3)
    assert torch.stack(asked).unique().tolist() == [1, 3]
    with pytest.raises(UserError, match="not trained on tulip; it knows astilbe, bellflower, calendula"):
        generate(root, "--model", "DDPM", "--label", "tulip")


@pytest.mark.parametrize("sampler", ["gaussian", "gmm"])
def test_a_fitted_prior_draws_what_resembles_the_codes(everything, tiny_flowers, sampler):
    root, _ = everything
    before = generate(root, "--model", "AE", "--n", 40)
    images = generate(root, "--model", "AE", "--n", 40, "--sampler", sampler, "--data-root", tiny_flowers)
    assert images.shape == before.shape
    assert not torch.equal(images, before)
    model, checkpoint = load_model("AE", root)
    args = random_generation.parse_args(["--model", "AE", "--sampler", sampler, "--data-root", str(tiny_flowers)])
    codes = encode(model, load_photographs(args, checkpoint)[0][:][0])
    drawn = draw_latents(fit_prior(sampler, codes), 2000, seed=0)
    torch.testing.assert_close(drawn.mean(dim=0), codes.mean(dim=0), atol=0.2 * codes.std().item(), rtol=0)
    torch.testing.assert_close(drawn.std(dim=0), codes.std(dim=0), atol=0.2 * codes.std().item(), rtol=0)
    assert_picture(root / "vis" / f"random_images_AE_{sampler}.png")
    assert_picture(root / "vis" / "samplers_AE.png")


@pytest.mark.parametrize("name", ["AE", "VAE"])
def test_walks_go_from_one_held_out_photograph_to_another(everything, tiny_flowers, name):
    root, _ = everything
    images = generate(root, "--model", name, "--interpolate", "--data-root", tiny_flowers)
    model, checkpoint = load_model(name, root)
    args = random_generation.parse_args(["--model", name, "--interpolate", "--data-root", str(tiny_flowers)])
    held_out = load_photographs(args, checkpoint)[1][:12][0]
    assert images.shape == (60, 3, 8, 12)
    with torch.no_grad():
        torch.testing.assert_close(images[::10], model.reconstruct(held_out[::2]))
        torch.testing.assert_close(images[9::10], model.reconstruct(held_out[1::2]))
    assert_picture(root / "vis" / f"interpolation_{name}.png")


def test_the_score_of_all_models(everything, tiny_flowers):
    root, _ = everything
    distances, log = logged(
        random_generation.main, "--score", "--data-root", tiny_flowers, "--output-root", root, "--seed", 4
    )
    names = ["training photographs", "noise", "AE", "AE, fitted mixture", "VAE", "GAN", "DDPM"]
    assert list(distances) == names
    assert all(len(found) == 3 for found in distances.values())
    assert distances["noise"][0][0] > distances["training photographs"][0][0]
    assert log[0] == "Data: flowers, 12 held-out images, compared with as many pictures for each seed"
    number = r"-?\d+\.\d+"
    for name, line in zip(names, log[3:], strict=False):
        each = ", ".join(rf"{distance:.4f} ± {error:.4f}" for distance, error in distances[name])
        assert re.fullmatch(rf"{name}: {number} ± {number} \({re.escape(each)}\)", line)
    line = rf"{number}, {number}, {number}, held-out images {number}, p = [\d.e-]+, [\d.e-]+, [\d.e-]+"
    assert re.fullmatch(rf"DDPM: pixels {line}; standardised {line}", log[-1])
    assert_picture(root / "vis" / "generation_comparison.png")
    assert_picture(root / "vis" / "nearest_DDPM.png")
    alone, _ = logged(
        random_generation.main,
        "--score",
        "--model",
        "GAN",
        "--data-root",
        tiny_flowers,
        "--output-root",
        root,
        "--seed",
        4,
    )
    assert alone == {name: distances[name] for name in ("training photographs", "noise", "GAN")}


def test_the_score_wants_the_photographs_that_the_models_know(everything, tiny_flowers, tmp_path, monkeypatch):
    root, _ = everything
    with pytest.raises(UserError, match="Classifier was trained on flowers with .* found synthetic flowers with .*"):
        generate(root, "--score", "--data", "synthetic")
    with monkeypatch.context() as patch, pytest.raises(UserError, match="flowers is not a folder: expected one with"):
        patch.setattr(data, "PROJECT", tmp_path)
        generate(root, "--score")  # no stand-in for the photographs that the models know
    with pytest.raises(UserError, match=r"train_script.py --model Classifier"):
        generate(tmp_path, "--score", "--data-root", tiny_flowers)
    (tmp_path / "models").mkdir()
    for name in ("Classifier", "VAE"):
        weights = (root / "models" / f"BestModel_{name}.pth").read_bytes()
        (tmp_path / "models" / f"BestModel_{name}.pth").write_bytes(weights)
    with pytest.raises(UserError, match=r"train_script.py --model AE"):
        generate(tmp_path, "--score", "--data-root", tiny_flowers)
    flags = ["--data-root", tiny_flowers, "--output-root", tmp_path, "--image-size", 12, "--epochs", 1]
    logged(train_script.main, "--model", "VAE", *flags)
    with pytest.raises(UserError, match="VAE and Classifier were trained on different images"):
        generate(tmp_path, "--score", "--model", "VAE", "--data-root", tiny_flowers)


@pytest.mark.parametrize(
    ("main", "argv", "message"),
    [
        (random_generation.main, [], "required: --model"),
        (random_generation.main, ["--model", "GAN", "--sampler", "gmm"], "for AE, VAE, not for GAN"),
        (random_generation.main, ["--model", "DDPM", "--interpolate"], "for AE, VAE, not for DDPM"),
        (random_generation.main, ["--model", "VAE", "--label", "calendula"], "for DDPM, not for VAE"),
        (random_generation.main, ["--model", "GAN", "--guidance", "2"], "for DDPM, not for GAN"),
        (random_generation.main, ["--model", "DDPM", "--temperature", "2"], "for AE, VAE, GAN, not for DDPM"),
        (random_generation.main, ["--model", "DDPM", "--n", "6000"], "at most 5000"),
        (
            random_generation.main,
            ["--score", "--model", "DDPM", "--guidance", "2"],
            "--guidance: not together with --score",
        ),
        (random_generation.main, ["--score", "--n", "10"], "--n: not together with --score"),
        (
            random_generation.main,
            ["--model", "VAE", "--interpolate", "--sampler", "gmm"],
            "--sampler: not together with --interpolate",
        ),
        (
            random_generation.main,
            ["--model", "VAE", "--interpolate", "--score"],
            "--interpolate: not together with --score",
        ),
        (random_generation.main, ["--model", "VAE", "--data", "synthetic"], "need no photographs"),
        (train_script.main, ["--model", "DDPM", "--encoding-dim", "8"], "DDPM has no latent vector"),
        (train_script.main, ["--model", "GAN", "--beta", "2"], "GAN has no KL"),
        (train_script.main, ["--model", "GAN", "--optimizer", "sgd"], "GAN is trained with adam"),
    ],
)
def test_flags_that_do_not_fit_the_model_are_refused(main, argv, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
