"""python -m beyond.score: what it logs and plots, and what it refuses."""

import re
import shutil
from functools import partialmethod

import pytest
import torch
from helpers import assert_figure, best_checkpoint, logged

import train_script
from beyond import measures, score
from common import UserError
from common.checkpoints import save_checkpoint
from generators.diffusion import Diffusion

pytestmark = pytest.mark.xdist_group("trained_flowers")

MODELS = ["AE", "AE, fitted mixture", "VAE", "GAN", "DDPM"]


@pytest.fixture
def run_score(trained_flowers, tiny_flowers, tmp_path, monkeypatch):
    """run_score(*flags): (scores, log) below tmp_path, with the models of `trained_flowers` and few draws."""
    monkeypatch.setattr(Diffusion, "sample", partialmethod(Diffusion.sample, steps=8))
    monkeypatch.setattr(score, "DRAWS", 3)
    monkeypatch.setattr(measures, "REPEATS", 1)
    shutil.copytree(trained_flowers[0] / "models", tmp_path / "models", ignore=shutil.ignore_patterns("Last*"))
    roots = ["--data-root", tiny_flowers, "--output-root", tmp_path]
    return lambda *flags: logged(score.main, *roots, *flags)


def change_data(root, name, **changes):
    """Change what a checkpoint records about its data."""
    checkpoint = best_checkpoint(root, name)
    checkpoint["data"] |= changes
    save_checkpoint(root / "models" / f"BestModel_{name}.pth", checkpoint)


def test_the_score_of_all_models_and_of_one(run_score, tmp_path):
    scores, log = run_score("--seed", "4")
    assert list(scores) == [f"{name}, 12x12" for name in ["training photographs", *MODELS]]
    for seeds in scores.values():
        assert len({rating.distance for rating in seeds}) == 3  # one set of samples for each seed
    assert "Data: 48 training and 12 held-out images of 12x12" in log
    chance = [line for line in log if re.fullmatch(r"Chance: accuracy \d+\.\d% to \d+\.\d% for 3 draws of .*", line)]
    assert len(chance) == 1
    names = [path.name for path in (tmp_path / "vis").iterdir()]
    nearest = [f"nearest_{name.replace(', ', '_').replace(' ', '_')}.png" for name in MODELS]
    assert sorted(names) == sorted(["generation_comparison.png", "scores.png", *nearest])
    for name in names:
        assert_figure(tmp_path / "vis" / name)
    alone, _ = run_score("--seed", "4", "--model", "GAN")
    assert alone == {name: scores[name] for name in ("training photographs, 12x12", "GAN, 12x12")}


def test_the_lines_of_the_log_hold_the_scores():
    rating = score.Score((0.767, 0.013), (0.07, 0.0214), 0.00018)
    line = score.score_line("training photographs, 24x24", [rating] * 3, (0.94, 0.012))
    match = score.SCORE_LINE.fullmatch(line)
    assert match["accuracy"] == "76.7% ± 1.3%"
    assert match["thousands"] == "94.0% ± 1.2%"
    assert match["distance"] == "0.070 ± 0.021"
    assert match["species"] == "0.00018, 0.00018, 0.00018"
    assert match["near"] is match["copies"] is None
    others = rating._replace(accuracy=(0.787, 0.015), near=(0.015, 0.19), copies=(3, 1, 0.42))
    match = score.SCORE_LINE.fullmatch(score.score_line("AE, fitted mixture, 24x24", [others, others], (0.9, 0.0)))
    assert match["name"] == "AE, fitted mixture, 24x24"
    assert match["near"] == "1.5% (p = 0.19), 1.5% (p = 0.19)"
    assert match["copies"] == "3:1 (p = 0.42), 3:1 (p = 0.42)"
    mean = score.mean_and_error([rating.accuracy, others.accuracy], ".1%")
    assert mean == "77.7% ± 1.4%"


def test_the_judge_recognises_photographs_copies_and_noise():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(200, 3, 12, 12, generator=generator).cumsum(dim=3) / 12

    class Classifier:
        image_size = (6, 6)
        features = staticmethod(lambda images: images.mean(dim=(2, 3)))
        species = staticmethod(lambda features: features)

    judge = score.Judge(images[:140], images[140:], Classifier())
    new = judge.score_samples(images[140:], judge.find_distances(images[140:]))
    assert new.copies[:2] == (0, 60)
    mirrored = judge.draw_photographs(0).flip(-1)
    copies = judge.score_samples(mirrored, judge.find_distances(mirrored))
    assert copies.accuracy[0] < 0.7
    assert copies.copies[0] == 60
    assert max(copies.near[1], copies.copies[2]) < 1e-6
    assert judge.score_photographs_thousands()[0] < 0.7
    assert judge.score_thousands(judge.held_out, images[:140]) == pytest.approx((0.5, 0.045), abs=0.05)
    noise = judge.score(torch.rand(60, 3, 12, 12, generator=generator))
    assert noise.accuracy[0] > 0.95
    assert noise.distance[0] > 10 * max(copies.distance[0], copies.distance[1])


def test_models_of_two_sizes_are_compared_with_photographs_of_theirs(run_score, tiny_flowers, tmp_path, monkeypatch):
    monkeypatch.setattr(score, "SCORED", ("VAE", "GAN"))
    flags = ["--model", "GAN", "--image-size", "8", "--encoding-dim", "8", "--epochs", "1"]
    logged(train_script.main, *flags, "--data-root", tiny_flowers, "--output-root", tmp_path)
    scores, log = run_score()
    expected = ["training photographs, 8x8", "GAN, 8x8"]
    assert list(scores) == [*expected, *(f"{name}, 12x12" for name in ["training photographs", "VAE"])]
    sizes = [line.rpartition(" ")[2] for line in log if line.startswith("Data:")]
    assert sizes == ["8x8", "12x12"]
    assert_figure(tmp_path / "vis" / "generation_comparison.png")


def test_other_photographs_and_missing_models_are_refused(run_score, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"Classifier was trained on flowers with .* found synthetic flowers with"):
        score.main(["--data", "synthetic", "--output-root", str(tmp_path)])
    change_data(tmp_path, "VAE", fingerprint="other")
    with pytest.raises(UserError, match="VAE was trained on flowers with the fingerprint other, found"):
        run_score()
    change_data(tmp_path, "VAE", split_seed=1)
    with pytest.raises(UserError, match="VAE and Classifier were trained on different images"):
        run_score("--model", "VAE")
    (tmp_path / "models" / "BestModel_AE.pth").unlink()
    with pytest.raises(UserError, match="train_script.py --model AE"):
        run_score()
    monkeypatch.setattr("data.VALID_FRACTION", 3 / 60)
    with pytest.raises(UserError, match=r"expected 4 or more held-out .* found 3"):
        run_score("--model", "GAN")
