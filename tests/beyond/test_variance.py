"""python -m beyond.variance: a VAE whose variance is learned."""

import pytest
from helpers import best_checkpoint, logged

from beyond import variance
from trained.loading import load_model


def test_it_trains_a_variance_and_logs_nats_per_image(tiny_flowers, tmp_path):
    flags = ["--data-root", tiny_flowers, "--output-root", tmp_path, "--image-size", 12, "--encoding-dim", 8]
    history, log = logged(variance.main, *flags, "--epochs", 4)
    assert log[1].startswith("Model: VAE_learned")
    checkpoint = best_checkpoint(tmp_path, "VAE_learned")
    assert checkpoint["settings"]["shift"] == 1
    for row in history:
        assert row["valid_loss"] == pytest.approx(row["valid_recon"] + row["valid_kl"])
    errors = [row["valid_error"] for row in history]
    assert errors[-1] < errors[0]
    model, _ = load_model("VAE_learned", tmp_path)
    mean = (model.variance * model.counts).sum() / model.counts.sum()
    assert errors[-1] * 0.5 < mean.item() < errors[0]  # a running mean of the training's


def test_it_trains_no_other_model(capsys):
    with pytest.raises(SystemExit, match="2"):
        variance.main(["--model", "AE"])
    assert "invalid choice: 'AE'" in capsys.readouterr().err
