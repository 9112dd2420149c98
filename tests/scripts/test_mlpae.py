"""MLPAE_train_script.py: the NumPy model, its step, and the script from its flags to its files."""

import os
import re
import shutil

import numpy as np
import pytest
import torch
from helpers import assert_figure, files_below, interrupt_in_epoch, last_checkpoint, logged
from threadpoolctl import threadpool_info, threadpool_limits

import MLPAE_train_script as mlpae
import visualization
from datasets.synthetic import make_flowers

pytestmark = pytest.mark.xdist_group("trained_mlpae")


@pytest.fixture(scope="module")
def trained(tiny_flowers, tmp_path_factory):
    """(output root, flags, (history, log)) of a training of four epochs."""
    root, flags = tmp_path_factory.mktemp("output root"), ["--data-root", tiny_flowers, "--epochs", 4]
    return root, flags, logged(mlpae.main, *flags, "--output-root", root)


def assert_same_arrays(found, expected, **tolerance):
    for part in ("encoder", "decoder"):
        for array, other in zip(found[part], expected[part], strict=True):
            np.testing.assert_allclose(array, other, **{"rtol": 0, **tolerance})


def test_the_log_is_complete_and_true(trained):
    root, _, (history, log) = trained
    assert log[0].startswith("Data: flowers, 60 images of 3 classes (astilbe, bellflower, calendula) at 24x24")
    assert log[1] == "Model: MLPAE, 1728 -> 256 -> 128 -> 64 -> 128 -> 256 -> 1728, 969,216 parameters"
    assert log[2].startswith("Settings: ")
    epoch = re.compile(r"Epoch: (\d+), Train Loss: (\d+\.\d{6}), Valid Loss: (\d+\.\d{6})( \*)?")
    rows = [epoch.fullmatch(line).groups() for line in log[3:-1]]
    assert [int(row[0]) for row in rows] == [row["epoch"] for row in history] == [1, 2, 3, 4]
    losses = [float(row[2]) for row in rows]
    assert losses[-1] < losses[0]
    last = re.fullmatch(r"Best Valid Loss: (\d\.\d{6}) \(epoch (\d)\), saved to models/BestModel_MLPAE.pkl", log[-1])
    assert float(last[1]) == min(losses) == losses[int(last[2]) - 1]
    assert sorted(os.listdir(root / "models")) == ["BestModel_MLPAE.pkl", "LastModel_MLPAE.lock", "LastModel_MLPAE.pkl"]
    assert_figure(root / "vis" / "loss_MLPAE.png")


def test_an_interrupted_run_resumes_to_the_same_weights_and_log(trained, tmp_path, monkeypatch, capsys):
    root, flags, whole = trained
    flags = [*flags, "--output-root", tmp_path]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_in_epoch(patch, 3, mlpae.PerceptronLearner)
        logged(mlpae.main, *flags)
    assert logged(mlpae.main, *flags, "--resume") == whole
    assert_same_arrays(*(last_checkpoint(folder, "MLPAE")["state_dict"] for folder in (tmp_path, root)))
    assert "batch/s" not in capsys.readouterr().err  # no progress bar where there is no terminal
    assert logged(mlpae.main, *flags, "--epochs", 1, "--seed", 1)[0][0] != whole[0][0]


def test_the_reconstructions_are_plotted_with_the_loss_of_the_log(trained, tiny_flowers):
    root, _, (history, _) = trained
    errors = visualization.main(["--model", "MLPAE", "--data-root", str(tiny_flowers), "--output-root", str(root)])
    assert errors["valid"] == pytest.approx(min(row["valid_loss"] for row in history), abs=1e-6)
    for name in ("train", "valid", "loss"):
        assert_figure(root / "vis" / f"{name}_MLPAE.png")


def test_the_network_starts_with_the_mean_image_and_loses_nothing_to_relu():
    np.random.seed(0)
    model, mean = mlpae.MLPAutoencoder([8, 8]), np.random.default_rng(0).uniform(0.1, 0.9, 192)
    model.initialise(mean)
    difference, encoder = np.random.default_rng(1).uniform(-0.1, 0.1, (5, 192)), model.nodes[0]
    np.testing.assert_allclose(model.forward(mean + difference), np.tile(mean, (5, 1)), rtol=1e-5)
    code = encoder.forward(mean + difference)
    assert code.shape == (5, 64)
    np.testing.assert_allclose(encoder.forward(mean - difference), -code, atol=1e-5)  # linear around the mean
    np.testing.assert_allclose(encoder.forward(mean + 3 * difference), 3 * code, atol=1e-5)


def test_weights_of_other_layers_are_refused():
    with pytest.raises(ValueError, match="encoder .* MLPAE"):
        mlpae.MLPAutoencoder([24, 32]).load_state_dict(mlpae.MLPAutoencoder([24, 24]).state_dict())


def test_steps_are_plain_sgd_by_the_schedule_of_the_coursework_and_move_every_layer():
    images, mse = torch.from_numpy(make_flowers(per_class=5, height=8, width=8)[0]) / 255, mlpae.MSE()
    x, (model, plain) = mlpae.flatten(images), (mlpae.MLPAutoencoder([8, 8]) for _ in range(2))
    np.random.seed(0)
    model.initialise(x.mean(axis=0))
    plain.load_state_dict(model.state_dict())
    learner, before = mlpae.PerceptronLearner(model, lr=2.0), [param.copy() for param in model.params]
    # the last weights start at zero and let little through in the first steps
    for epoch, lr in [*[(1, 2.0)] * 20, (5, 2.0), (6, 1.8), (11, 1.62)]:
        loss = mse.forward(plain.forward(x), x)
        assert learner.valid_step(images, None) == {"loss": pytest.approx(loss)}
        assert model.measure(model(images), images) == (pytest.approx(loss), {"loss": pytest.approx(loss)})
        assert learner.train_step(images, None, epoch) == {"loss": pytest.approx(loss)}
        plain.backward(mse.backward())
        for param, grad in zip(plain.params, plain.grad, strict=True):
            param -= lr * grad
        assert_same_arrays(model.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-6)
    assert all((param != old).mean() > 0.95 for param, old in zip(model.params, before, strict=True))


def test_a_run_on_the_stand_in_leaves_the_projects_own_models_alone(trained, tmp_path, monkeypatch, capsys):
    root = shutil.copytree(trained[0], tmp_path / "project")
    before = files_below(root)
    for module in ("training.flags", "datasets", "data", "evaluation.models"):
        monkeypatch.setattr(f"{module}.PROJECT", root)
    with pytest.warns(UserWarning, match="procedural flowers stand in"):
        _, log = logged(mlpae.main, "--epochs", 1)
    assert "(its results go to ./synthetic by default)" in log[0]
    assert {**files_below(root), **before} == files_below(root)
    new = {"models/BestModel_MLPAE.pkl", "models/LastModel_MLPAE.pkl", "models/LastModel_MLPAE.lock"}
    assert {*files_below(root / "synthetic")} == {*new, "vis/loss_MLPAE.png"}
    with pytest.warns(UserWarning, match="procedural flowers stand in"):
        visualization.main(["--model", "mlpae"])  # the project's, on images that it was not trained on
    assert {*files_below(root / "synthetic" / "vis")} == {"loss_MLPAE.png", "train_MLPAE.png", "valid_MLPAE.png"}
    assert before["models/BestModel_MLPAE.pkl"] == files_below(root)["models/BestModel_MLPAE.pkl"]
    assert "were not trained on" not in capsys.readouterr().out


def test_numpys_products_use_one_thread_in_the_training_alone(tiny_flowers, tmp_path, monkeypatch):
    step, threads = mlpae.PerceptronLearner.train_step, set()

    def train_step(*args, **options):
        threads.update(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        return step(*args, **options)

    monkeypatch.setattr(mlpae.PerceptronLearner, "train_step", train_step)
    with threadpool_limits(2):
        logged(mlpae.main, "--data-root", tiny_flowers, "--output-root", tmp_path, "--epochs", 1)
        assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {2}
    assert threads == {1}
