"""random_generation.py for its models, samplers and score, and what checkpoints say of themselves."""

import re
import shutil
from functools import partialmethod

import pytest
import torch
from helpers import assert_figure, best_checkpoint, logged

import random_generation
import train_script
from data import create_flower_dataloaders
from evaluation import score
from evaluation.models import load_model
from evaluation.sampling import encode, fit_prior, sample_latents
from generators.diffusion import Diffusion
from training import UserError
from training.checkpoints import save_checkpoint

pytestmark = pytest.mark.xdist_group("trained_flowers")

NUMBER = r"-?\d+\.\d+"
SCORED = ["training photographs", "noise", "AE", "AE, fitted mixture", "VAE", "GAN", "DDPM"]
SIZED = [f"{name}, 12x16" for name in SCORED]


@pytest.fixture
def root(trained_flowers, tmp_path, monkeypatch):
    """An output root with the best checkpoints of `trained_flowers` alone; the DDPM's sampling is short."""
    monkeypatch.setattr(Diffusion, "sample", partialmethod(Diffusion.sample, steps=8))
    shutil.copytree(trained_flowers[0] / "models", tmp_path / "models", ignore=shutil.ignore_patterns("Last*"))
    return tmp_path


@pytest.fixture
def generate(root):
    """generate(*flags): random_generation.py below `root`."""
    return lambda *flags: random_generation.main(["--output-root", str(root), *map(str, flags)])


def save_best(root, checkpoint):
    save_checkpoint(root / "models" / f"BestModel_{checkpoint['model']}.pth", checkpoint)


@pytest.fixture
def photographs(tiny_flowers):
    """(the images that the models were trained on, those held out)."""
    return [loader.dataset[:][0] for loader in create_flower_dataloaders(16, tiny_flowers, 16, 12)]


@pytest.mark.parametrize("name", random_generation.MODELS)
def test_samples_depend_on_the_checkpoint_and_the_seed_alone(name, root, generate):
    first = generate("--model", name, "--n", 12)
    assert first.shape == (12, 3, 12, 16)
    assert first.min() >= 0
    assert first.max() <= 1
    assert_figure(root / "vis" / f"random_images_{name}.png")
    assert torch.equal(generate("--model", name, "--n", 12), first)
    assert not torch.equal(generate("--model", name, "--n", 12, "--seed", 1), first)
    if name == "DDPM":
        assert_figure(root / "vis" / "species_DDPM.png")
        assert_figure(root / "vis" / "denoising_DDPM.png")
    else:
        cold = generate("--model", name, "--temperature", 0.001)
        assert cold.std(dim=0).max() < 0.01 < first.std(dim=0).max()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_random_latents_are_of_a_normal_distribution_with_that_deviation(temperature, generate, monkeypatch):
    monkeypatch.setattr(random_generation, "decode", lambda model, latents: latents)
    monkeypatch.setattr(random_generation, "plot_samples", lambda *_: None)
    latents = generate("--model", "AE", "--n", 5000, "--temperature", temperature)
    torch.testing.assert_close(latents.mean(dim=0), torch.zeros(8), atol=0.06, rtol=0)
    torch.testing.assert_close(latents.std(dim=0), torch.full((8,), temperature), atol=0.04, rtol=0)


def test_the_diffusion_model_samples_the_species_it_is_told(root, generate, monkeypatch):
    model, checkpoint = load_model("DDPM", root)
    assert sum(model.class_prior) == pytest.approx(1)
    asked = []
    monkeypatch.setattr(model.stages[0].network, "forward", lambda x, t, labels: asked.append(labels) or 0 * x)
    monkeypatch.setattr(random_generation, "load_model", lambda *_: (model, checkpoint))
    for guidance, labels in ((1, [1]), (3, [1, 3])):  # 3 is the null label
        asked.clear()
        generate("--model", "DDPM", "--n", 4, "--label", "bellflower", "--guidance", guidance)
        assert torch.stack(asked).unique().tolist() == labels
    with pytest.raises(UserError, match="tulip; .*astilbe, bellflower, calendula"):
        generate("--model", "DDPM", "--label", "tulip")


@pytest.mark.parametrize("sampler", ["gaussian", "gmm"])
def test_a_fitted_prior_samples_what_resembles_the_codes(sampler, root, generate, tiny_flowers, photographs):
    before = generate("--model", "AE", "--n", 40)
    images = generate("--model", "AE", "--n", 40, "--sampler", sampler, "--data-root", tiny_flowers)
    assert images.shape == before.shape
    assert not torch.equal(images, before)
    codes = encode(load_model("AE", root)[0], photographs[0])
    sampled, tolerance = sample_latents(fit_prior(sampler, codes), 2000, seed=0), 0.2 * codes.std().item()
    torch.testing.assert_close(sampled.mean(dim=0), codes.mean(dim=0), atol=tolerance, rtol=0)
    torch.testing.assert_close(sampled.std(dim=0), codes.std(dim=0), atol=tolerance, rtol=0)
    assert_figure(root / "vis" / f"random_images_AE_{sampler}.png")
    assert_figure(root / "vis" / "samplers_AE.png")


@pytest.mark.parametrize("name", ["AE", "VAE"])
def test_interpolations_go_from_one_held_out_photograph_to_another(name, root, generate, tiny_flowers, photographs):
    images = generate("--model", name, "--interpolate", "--data-root", tiny_flowers)
    (model, _), (_, held_out) = load_model(name, root), photographs
    assert images.shape == (72, 3, 12, 16)
    torch.testing.assert_close(images[::12], held_out[:12:2])
    torch.testing.assert_close(images[11::12], held_out[1:12:2])
    with torch.no_grad():
        torch.testing.assert_close(images[1::12], model.reconstruct(held_out[:12:2]))
        torch.testing.assert_close(images[10::12], model.reconstruct(held_out[1:12:2]))
    assert_figure(root / "vis" / f"interpolation_{name}.png")


def test_the_score_of_all_models_and_of_one(root, generate, tiny_flowers, monkeypatch):
    flags, drawn, draw = ["--score", "--data-root", tiny_flowers, "--seed", 4], [], score.photographs
    monkeypatch.setattr(score, "photographs", lambda *args: drawn.append(args[2]) or draw(*args))
    found, log = logged(lambda argv: generate(*argv), *flags)
    assert list(found) == SIZED
    assert sorted(drawn) == [*range(4, 27)]  # three that are scored, and others for what chance does
    assert all(len({numbers["distance"] for numbers in of}) == 3 for of in found.values())  # a seed each
    assert found[SIZED[1]][0]["distance"] > found[SIZED[0]][0]["distance"]
    assert found[SIZED[1]][0]["accuracy"][0] > 0.9
    assert log[1].startswith("Data: 12 held-out images of 12x16")
    assert re.fullmatch(r"Chance: training images are told .* with \d+\.\d% to \d+\.\d%, range over 20 draws", log[2])
    percent = r"\d+\.\d%"
    for name, line in zip(SIZED, log[3:], strict=False):
        told = rf"told from held-out images with {percent} ± {percent} \({percent}, {percent}, {percent}\)"
        assert re.fullmatch(rf"{name}: {told}, kernel distance {NUMBER} ± {NUMBER}, species as often p = .*", line)
    tail, three = (", ".join([one] * 3) for one in (rf"{percent} \(p = [\d.e-]+\)", r"\d+:\d+ \(p = [\d.e-]+\)"))
    assert re.fullmatch(rf"DDPM, 12x16: {tail}; {three}", log[-1])
    nearest = {f"nearest_{name.replace(', ', '_').replace(' ', '_')}.png" for name in SCORED[2:]}
    assert {path.name for path in (root / "vis").iterdir()} == {"generation_comparison.png", "scores.png", *nearest}
    for path in (root / "vis").iterdir():
        assert_figure(path)
    alone = generate(*flags, "--model", "GAN")
    assert alone == {name: found[name] for name in (*SIZED[:2], "GAN, 12x16")}


def test_models_of_two_sizes_are_compared_with_photographs_of_theirs(root, generate, tiny_flowers):
    argv = ["--model", "GAN", "--image-size", 8, "--encoding-dim", 8, "--epochs", 1, "--data-root", tiny_flowers]
    train_script.main([*map(str, argv), "--output-root", str(root)])
    found, log = logged(lambda argv: generate(*argv), "--score", "--data-root", tiny_flowers)
    assert list(found) == [f"{name}, 8x8" for name in (*SCORED[:2], "GAN")] + [n for n in SIZED if "GAN" not in n]
    assert [line[:31] for line in log if line.startswith("Data")] == [
        f"Data: 12 held-out images of {size}" for size in ("8x8", "12x")
    ]
    assert_figure(root / "vis" / "generation_comparison.png")


def test_the_score_wants_the_photographs_that_the_models_know(root, generate, tiny_flowers, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="Classifier was trained on flowers with .* found synthetic flowers with"):
        generate("--score", "--data", "synthetic")
    with monkeypatch.context() as patch, pytest.raises(UserError, match="flowers is not a folder"):
        patch.setattr("datasets.PROJECT", tmp_path)
        generate("--score")  # no stand-in for the photographs that the models know
    flags, checkpoint = ["--score", "--data-root", tiny_flowers], best_checkpoint(root, "VAE")
    other = {
        "fingerprint": ("other", "VAE was trained on"),
        "split_seed": (1, "VAE and Classifier were trained on dif"),
    }
    for name, (value, message) in other.items():
        save_best(root, {**checkpoint, "data": {**checkpoint["data"], name: value}})
        with pytest.raises(UserError, match=message):
            generate(*flags, "--model", "VAE")
    for name in ("AE", "Classifier"):
        (root / "models" / f"BestModel_{name}.pth").unlink()
        with pytest.raises(UserError, match=f"train_script.py --model {name}"):
            generate(*flags)


def test_few_held_out_images_are_enough_for_interpolations_and_scores(generate, monkeypatch, tiny_flowers):
    flags = ["--model", "AE", "--data-root", tiny_flowers]
    monkeypatch.setattr("data.VALID_FRACTION", 5 / 60)
    assert generate(*flags, "--interpolate").shape == (24, 3, 12, 16)
    assert list(generate(*flags, "--score")) == SIZED[:4]
    monkeypatch.setattr("data.VALID_FRACTION", 1 / 60)
    for flag, least in (("--interpolate", 2), ("--score", 4)):
        with pytest.raises(UserError, match=f"expected {least} or more held-out .* found 1"):
            generate(*flags, flag)


HUGE = {"config": {"img_height": 8000, "img_width": 8000}, "data": {"image_size": [8000, 8000]}}


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("AE", {"config": {"encoding_dim": 9}}, "state_dict"),
        ("GAN", {"config": {"encoding_dim": 10**9}}, "state_dict"),
        ("DDPM", {"config": {"class_prior": [1.0, -1.0, 1.0]}}, "probabilities"),
        ("DDPM", {"config": {"class_prior": [0.0, 0.0, 0.0]}}, "probabilities"),
        ("DDPM", {"config": {"class_prior": [0.5, 0.5]}}, "classes"),
        ("DDPM", {"config": {"class_prior": [0, 0, 1]}}, "classes"),
        ("DDPM", {"config": {"class_prior": 1.0}}, "class_prior"),
        ("DDPM", {"config": {"img_height": -8}}, "-8"),
        ("DDPM", {"config": {"img_height": 8.0}}, "img_height"),
        ("DDPM", {"config": {"width": 56}}, "width"),
        ("DDPM", {"data": {"classes": ["astilbe"]}}, "classes"),
        ("DDPM", {"data": {"classes": [1, 2, 3]}}, "classes"),
        ("Classifier", {"config": {"classes": 10**9}}, "classes"),
        ("Classifier", {"valid_accuracy": "high"}, "not a readable checkpoint"),
        *[(name, HUGE, "1024x1024") for name in ("AE", "GAN", "DDPM", "Classifier")],
    ],
)
def test_what_a_checkpoint_says_of_itself_is_checked_before_it_is_used(name, changes, reason, root):
    checkpoint = best_checkpoint(root, name)
    for entry, change in changes.items():
        checkpoint[entry] = {**checkpoint[entry], **change} if isinstance(change, dict) else change
    save_best(root, checkpoint)
    with pytest.raises(UserError, match=rf"BestModel_{name}.pth .*({reason}).*--model {name}"):
        load_model(name, root)


@pytest.mark.parametrize("kind", ["best", "last"])
def test_another_model_or_the_last_state_is_refused(kind, trained_flowers, root):
    path = trained_flowers[0] / "models" / f"{kind.title()}Model_AE.pth"
    shutil.copy(path, root / "models" / "BestModel_VAE.pth")
    with pytest.raises(UserError, match=f"holds the {kind} state of AE, expected the best of VAE; .*--model VAE"):
        load_model("VAE", root)


@pytest.mark.parametrize(
    ("name", "weight"),
    [("AE", "encoder.0.weight"), ("GAN", "generator.0.weight"), ("DDPM", "stages.0.network.conv_in.weight")],
)
def test_weights_that_make_what_is_not_finite_are_an_error(name, weight, root, generate, tiny_flowers):
    checkpoint = best_checkpoint(root, name)
    checkpoint["state_dict"][weight] += 3e38
    save_best(root, checkpoint)
    flags = ["--sampler", "gmm", "--data-root", tiny_flowers] if name == "AE" else []
    with pytest.raises(UserError, match=f"{name} makes is not finite"):
        generate("--model", name, "--n", 4, *flags)
