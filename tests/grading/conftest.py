"""What a student hands in: models, pictures and logs of a few epochs on few images, which fail the targets alone."""

import shutil
from pathlib import Path

import pytest
from helpers import logged

import main as mnist_script
import MLPAE_train_script
import random_generation
import train_script
import visualization
from grading.checks import NOT_CHECKED, check_all, plan


@pytest.fixture(scope="session")
def roots(tiny_flowers, tiny_mnist):
    """The folders of the images, as `check_all` takes them."""
    return {"flowers": str(tiny_flowers), "MNIST": str(tiny_mnist)}


@pytest.fixture(scope="session")
def handed_in(roots, tmp_path_factory):
    """The output root of MLPAE, AE, VAE, MNIST_AE and MNIST_CVAE."""
    root = tmp_path_factory.mktemp("handed in")
    output = ["--output-root", root]
    flowers = ["--data-root", roots["flowers"], *output]
    logs = {"MLPAE": logged(MLPAE_train_script.main, *flowers, "--epochs", 12, "--seed", 3)[1]}
    for name in ("AE", "VAE"):
        logs[name] = logged(train_script.main, *flowers, "--model", name, "--epochs", 2)[1]
        random_generation.main(["--model", name, "--seed", "2", "--output-root", str(root)])
    for name in ("MLPAE", "AE", "VAE"):
        visualization.main(["--model", name, *map(str, flowers)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mnist_script, "HIDDEN_SIZE", 16)
        for name in ("AE", "CVAE"):
            digits = ["--data-root", roots["MNIST"], *output, "--seed", 1, "--batch-size", 16]
            logs[f"MNIST_{name}"] = logged(mnist_script.main, *digits, "--model", name, "--epochs", 5)[1]
    (root / "log").mkdir()
    for name, lines in logs.items():
        (root / "log" / f"train_{name}.txt").write_text("\n".join([*lines, ""]))
    return root


@pytest.fixture
def hand_in(handed_in, tmp_path):
    """hand_in(model, ...): a folder with copies of what is handed in of these models."""

    def copy(*names, root: Path = tmp_path):
        for file in (file for name in names for file in plan(name) if "/" in file):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(handed_in / file, root / file)
        return root

    return copy


@pytest.fixture
def failures(roots):
    """failures(root, model, ...): {check: finding} of the checks that fail, but for those that were not made."""

    def find(root, *names, **other_roots):
        rows = check_all(root, names, {**roots, **other_roots})
        assert [row.check for row in rows] == [check for name in names for check in plan(name)]  # whatever is missing
        return {row.check: row.finding for row in rows if not row.passed and row.finding != NOT_CHECKED}

    return find
