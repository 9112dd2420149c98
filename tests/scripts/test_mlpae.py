"""MLPAE_train_script.py: the NumPy model, its steps, and the script from its flags to its files."""

import shutil

import numpy as np
import pytest
from helpers import assert_figure, best_checkpoint, files_below, interrupt_in_epoch, last_checkpoint, logged
from threadpoolctl import threadpool_info, threadpool_limits

import MLPAE_train_script as mlpae
import visualization
from common import UserError
from common.run import Run
from datasets.synthetic import make_flowers

pytestmark = pytest.mark.xdist_group("trained_mlpae")


@pytest.fixture(scope="module")
def trained(tiny_flowers, tmp_path_factory):
    """(output root, flags, log, numbers of threads of NumPy's products) of a training of six epochs."""
    root = tmp_path_factory.mktemp("output root")
    flags = ["--data-root", tiny_flowers, "--epochs", 6]
    record = Run.record
    threads = set()

    def watched(*args):
        pools = [pool for pool in threadpool_info() if "scipy.libs" not in pool["filepath"]]  # of other tests
        threads.update(pool["num_threads"] for pool in pools if pool["user_api"] == "blas")
        record(*args)

    with pytest.MonkeyPatch.context() as patch, threadpool_limits(2):
        patch.setattr(Run, "record", watched)
        _, log = logged(mlpae.main, *flags, "--output-root", root)
    return root, flags, log, threads


def assert_same_arrays(state_dict, expected, **tolerance):
    for part in ("encoder", "decoder"):
        for array, other in zip(state_dict[part], expected[part], strict=True):
            np.testing.assert_allclose(array, other, **{"rtol": 0, **tolerance})


def test_the_log_the_files_and_the_pictures(trained, tiny_flowers):
    root, _, log, threads = trained
    history = best_checkpoint(root, "MLPAE")["history"]
    assert log[0].startswith("Data: flowers, 60 images of 3 classes (astilbe, bellflower, calendula) at 24x24")
    assert log[1] == "Model: MLPAE, 1728 -> 256 -> 128 -> 64 -> 128 -> 256 -> 1728, 969,216 parameters"
    assert log[2] == "Settings: epochs 6, patience 5, batch_size 16, lr 1.0"
    best = min(history, key=lambda row: row["valid_loss"])
    path = root / "models" / "BestModel_MLPAE.pkl"
    assert log[-1] == f"Best Valid Loss: {best['valid_loss']:.6f} (epoch {best['epoch']}), saved to {path}"
    assert len(log) == 3 + 6 + 1
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert threads == {1}  # two are hardly faster, and beside another program far slower
    errors = visualization.main(["--model", "MLPAE", "--data-root", str(tiny_flowers), "--output-root", str(root)])
    assert errors["valid"] == pytest.approx(best["valid_loss"], abs=1e-6)
    for name in ("train", "valid", "loss"):
        assert_figure(root / "vis" / f"{name}_MLPAE.png")


def test_steps_are_plain_sgd_by_the_schedule_of_the_coursework(trained):
    root, flags, _, _ = trained
    rates = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlpae.MLPAutoencoder, "optimstep", lambda self, lr: rates.append(lr))
        patch.setattr(mlpae, "plot_losses", lambda *_: None)
        logged(mlpae.main, *flags, "--epochs", 11, "--patience", 11, "--lr", 2, "--output-root", root / "still")
    assert rates == pytest.approx([2.0] * 15 + [1.8] * 15 + [1.62] * 3)


def test_an_interrupted_run_resumes_to_the_same_weights_and_log(trained, tmp_path, monkeypatch, capsys):
    root, flags, log, _ = trained
    flags = [*flags, "--output-root", tmp_path]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_in_epoch(patch, 3)
        logged(mlpae.main, *flags)
    _, resumed = logged(mlpae.main, *flags, "--resume")
    assert resumed == [line.replace(str(root), str(tmp_path)) for line in log]
    assert_same_arrays(*(last_checkpoint(folder, "MLPAE")["state_dict"] for folder in (tmp_path, root)))
    assert "batch/s" not in capsys.readouterr().err  # no progress bar where there is no terminal
    assert logged(mlpae.main, *flags, "--epochs", 1, "--seed", 1)[1][3] != log[3]


def test_the_network_starts_with_the_mean_image_and_loses_nothing_to_relu():
    np.random.seed(0)
    model = mlpae.MLPAutoencoder([8, 8])
    mean = np.random.default_rng(0).uniform(0.1, 0.9, 192)
    model.initialise(mean)
    difference = np.random.default_rng(1).uniform(-0.1, 0.1, (5, 192))
    np.testing.assert_allclose(model.forward(mean + difference), np.tile(mean, (5, 1)), rtol=1e-5)
    code = model.encoder.forward(mean + difference)
    assert code.shape == (5, 64)
    np.testing.assert_allclose(model.encoder.forward(mean - difference), -code, atol=1e-5)  # linear around the mean
    np.testing.assert_allclose(model.encoder.forward(mean + 3 * difference), 3 * code, atol=1e-5)


def test_weights_of_other_layers_and_torchrun_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="encoder .* shapes of its layers"):
        mlpae.MLPAutoencoder([24, 32]).load_state_dict(mlpae.MLPAutoencoder([24, 24]).state_dict())
    monkeypatch.setattr(mlpae, "world_size", lambda: 2)
    with pytest.raises(UserError, match="with python, not with torchrun"):
        mlpae.main([])


def test_a_run_on_the_stand_in_leaves_the_projects_own_models_alone(trained, tmp_path, monkeypatch, capsys):
    root = shutil.copytree(trained[0], tmp_path / "project")
    before = files_below(root)
    for module in ("common.flags", "common.run", "datasets", "datasets.images"):
        monkeypatch.setattr(f"{module}.PROJECT", root)
    monkeypatch.setattr("datasets.flowers.make_flowers", lambda **size: make_flowers(per_class=10, **size))
    with pytest.warns(UserWarning, match="procedural flowers stand in"):
        _, log = logged(mlpae.main, "--epochs", 1)
    assert "a procedural stand-in for the real ones" in log[0]
    assert log[-1].endswith("saved to synthetic/models/BestModel_MLPAE.pkl")
    assert f'the results of the stand-in go to "{root / "synthetic"}"' in capsys.readouterr().err
    assert {**files_below(root), **before} == files_below(root)
    models = {f"models/{name}" for name in ("BestModel_MLPAE.pkl", "LastModel_MLPAE.pkl", "LastModel_MLPAE.lock")}
    assert files_below(root / "synthetic").keys() == {*models, "vis/loss_MLPAE.png"}
    with pytest.warns(UserWarning, match="procedural flowers stand in"):
        visualization.main(["--model", "MLPAE"])  # the project's, on images that it was not trained on
    assert files_below(root / "synthetic" / "vis").keys() == {"loss_MLPAE.png", "train_MLPAE.png", "valid_MLPAE.png"}
    assert "these are not the images that MLPAE was trained on: flowers" in capsys.readouterr().err
