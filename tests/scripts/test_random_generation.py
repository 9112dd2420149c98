"""random_generation.py for all its models."""

import shutil
from functools import partialmethod

import pytest
import torch
from helpers import assert_figure, best_checkpoint

import random_generation
from common import UserError
from common.checkpoints import save_checkpoint
from generators.diffusion import Diffusion
from trained.loading import load_model

pytestmark = pytest.mark.xdist_group("trained_flowers")


@pytest.fixture
def root(trained_flowers, tmp_path, monkeypatch):
    """An output root with the best checkpoints of `trained_flowers` alone; the DDPM's sampling is short."""
    monkeypatch.setattr(Diffusion, "denoise", partialmethod(Diffusion.denoise, steps=4))
    shutil.copytree(trained_flowers[0] / "models", tmp_path / "models", ignore=shutil.ignore_patterns("Last*"))
    return tmp_path


@pytest.fixture
def generate(root):
    """generate(*flags): random_generation.py below `root`."""
    return lambda *flags: random_generation.main(["--output-root", str(root), *map(str, flags)])


@pytest.mark.parametrize("name", ["AE", "VAE", "GAN", "DDPM"])
def test_samples_depend_on_the_checkpoint_and_the_seed_alone(name, root, generate):
    flags = ["--model", name, "--n", 12, *(["--label", "astilbe"] if name == "DDPM" else [])]
    first = generate(*flags)
    assert first.shape == (12, 3, 12, 12)
    assert 0 <= first.min() <= first.max() <= 1
    assert torch.equal(generate(*flags), first)
    assert not torch.equal(generate(*flags, "--seed", 1), first)
    if name == "DDPM":
        generate("--model", name, "--n", 5)  # of all species
        assert_figure(root / "vis" / "random_images_DDPM_astilbe.png")
        assert_figure(root / "vis" / "species_DDPM.png")
        assert_figure(root / "vis" / "denoising_DDPM.png")
    else:
        cold = generate(*flags, "--temperature", 0.001)
        assert cold.std(dim=0).max() < 0.01 < first.std(dim=0).max()
    assert_figure(root / "vis" / f"random_images_{name}.png")


def test_random_latents_are_of_a_normal_distribution_with_that_deviation(generate, monkeypatch):
    monkeypatch.setattr(random_generation, "decode", lambda model, latents: latents)
    monkeypatch.setattr(random_generation, "plot_samples", lambda *_: None)
    for temperature in (1.0, 0.5):
        latents = generate("--model", "AE", "--n", 5000, "--temperature", temperature)
        torch.testing.assert_close(latents.mean(dim=0), torch.zeros(8), atol=0.06, rtol=0)
        torch.testing.assert_close(latents.std(dim=0), torch.full((8,), temperature), atol=0.04, rtol=0)


def test_the_diffusion_model_samples_the_species_of_the_label(root, generate, monkeypatch):
    model, checkpoint = load_model("DDPM", root)
    assert sum(model.class_prior) == pytest.approx(1)
    asked = []
    monkeypatch.setattr(model.stages[0].network, "forward", lambda x, t, labels: asked.append(labels) or 0 * x)
    monkeypatch.setattr(random_generation, "load_model", lambda *_: (model, checkpoint))
    for guidance, labels in ((1, [1]), (3, [1, 3])):  # 3 is the null label
        asked.clear()
        generate("--model", "DDPM", "--n", 4, "--label", "bellflower", "--guidance", guidance)
        assert torch.stack(asked).unique().tolist() == labels
    model.class_prior = [0.0, 0.5, 0.5]  # every astilbe was held out
    for species in ("tulip", "astilbe"):
        with pytest.raises(UserError, match=f"not trained on {species}; it knows bellflower, calendula"):
            generate("--model", "DDPM", "--label", species)


@pytest.mark.parametrize(
    ("name", "weight"),
    [("AE", "decoder.0.weight"), ("GAN", "generator.0.weight"), ("DDPM", "stages.0.network.conv_in.weight")],
)
def test_images_that_are_not_finite_are_an_error(name, weight, root, generate):
    checkpoint = best_checkpoint(root, name)
    checkpoint["state_dict"][weight] += 3e38
    save_checkpoint(root / "models" / f"BestModel_{name}.pth", checkpoint)
    with pytest.raises(UserError, match="not finite: .*train it again"):
        generate("--model", name, "--n", 4)
