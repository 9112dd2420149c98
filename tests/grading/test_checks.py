"""python -m grading on what is handed in, and on what may be done to it."""

import os
import pickle
import re
import shutil
import sys
import zipfile
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from filelock import FileLock
from helpers import REAL_FLOWERS, best_checkpoint, logged, needs_flowers, needs_mnist, run, skip_if_changed
from PIL import Image, PngImagePlugin

import MLPAE_train_script
from Autoencoder import Autoencoder
from beyond.score import Score, score_line
from common import PROJECT, UserError
from common.checkpoints import save_checkpoint
from data import create_flower_dataloaders, create_mnist_dataloaders
from grading import __main__ as grading
from grading import losses
from grading.checks import NOT_CHECKED, TARGETS, check_losses, check_model, compare, plan, problem_of_data
from grading.copies import COMMITTED, describe_origins
from grading.evidence import problem_of_log
from grading.losses import check_retrained, mean_image_loss, read_claim
from grading.marks import grade
from model import build_model
from trained.loading import load_model
from trained.registry import MODELS, checkpoint_file

pytestmark = pytest.mark.xdist_group("grading")  # one worker trains what is handed in


def save(root, name, checkpoint):
    """Save it as the best of a model below root; returns root."""
    save_checkpoint(root / "models" / checkpoint_file(name), checkpoint)
    return root


# ---------------------------------------------------------------- what passes


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """(the rows of the committed results, the archive)."""
    path = tmp_path_factory.mktemp("hand-in") / "Jane Doe.zip"
    return grading.main(["--zip", str(path)]), path


@needs_flowers
@needs_mnist
def test_the_committed_results_pass(archive):
    rows, _ = archive
    assert [(row.model, row.check) for row in rows] == [(name, check) for name in TARGETS for check in plan(name)]
    assert all(row.passed for row in rows)


@needs_flowers
@needs_mnist
def test_the_archive_unpacks_to_a_folder_that_runs_and_is_graded_as_it_is(archive, tmp_path):
    with zipfile.ZipFile(archive[1]) as file:
        names = file.namelist()
        assert max(entry.file_size for entry in file.infolist()) <= 10 * 2**20
        file.extractall(tmp_path)
    assert "Jane Doe/main.py" in names
    assert not [name for name in names if name.lower().endswith((".jpg", ".jpeg", "ubyte"))]
    status, _, errors = run([sys.executable, "-m", "grading", "--help"], cwd=tmp_path / "Jane Doe")
    assert (status, errors) == (0, "")
    roots = {"flowers": None, "MNIST": None}
    assert grade(archive[1], tmp_path / "graded", ["MLPAE"], roots).checks == "10 of 10"


@needs_flowers
@needs_mnist
def test_the_last_line_counts_what_is_not_the_students_own(archive, tmp_path, hand_in):
    assert describe_origins(PROJECT, ["AE", "VAE"]).startswith("; 2 of 2 models come with the project: AE, VAE; these")
    (tmp_path / "vis").mkdir()
    (tmp_path / "vis" / "broken.png").write_text("no picture")
    shutil.copy(PROJECT / "vis" / "interpolation_AE.png", tmp_path / "vis")
    root = hand_in("AE")
    assert describe_origins(root, ["AE"]) == "; these pictures are not of the models in models/: interpolation_AE.png"


def test_the_validation_losses_of_the_committed_models_are_known():
    skip_if_changed()
    assert {name: best_checkpoint(PROJECT, name)["valid_loss"] for name in TARGETS} == COMMITTED


def test_the_committed_results_are_small():
    results = [path for folder in ("models", "vis", "log") for path in (PROJECT / folder).iterdir() if path.is_file()]
    sizes = {path.name: path.stat().st_size for path in results if not path.name.startswith("LastModel_")}
    models = [size for name, size in sizes.items() if name.startswith("BestModel_")]
    assert len(models) >= len(TARGETS)
    assert max(sizes.values()) < 10 * 2**20
    assert sum(models) < 50 * 2**20


@pytest.mark.parametrize("name", ["MLPAE", "AE", "VAE", "MNIST_AE", "MNIST_CVAE"])
def test_short_trainings_fail_the_targets_alone(name, handed_in, failures):
    """Of few images; log, pictures (with a seed of their own), layers, data and losses are as they claim."""
    assert failures(handed_in, name).keys() <= {"train loss", "valid loss", "test loss"}


def test_targets_are_compared_with_the_mean_over_all_images(handed_in, roots):
    images = [loader.dataset[:][0] for loader in create_flower_dataloaders(16, roots["flowers"])]
    rows = {row.check: row for row in check_model("AE", handed_in, roots)}
    model, _ = load_model("AE", handed_in)
    for split, inputs in zip(("train", "valid"), images, strict=True):
        with torch.no_grad():
            error = (model(inputs) - inputs).double().square().mean().item()
        assert float(rows[f"{split} loss"].finding.partition(",")[0]) == pytest.approx(error, rel=1e-3)
        assert not rows[f"{split} loss"].passed


def test_both_losses_must_be_below_the_perceptrons(handed_in, roots):
    loaders = create_flower_dataloaders(256, roots["flowers"])
    train, valid = (best_checkpoint(handed_in, "MLPAE")[f"{split}_loss"] for split in ("train", "valid"))
    for factors, expected in (((0.5, 0.5), True), ((1.5, 0.5), False), ((0.5, 1.5), False)):
        losses = {"train": {"loss": factors[0] * train}, "valid": {"loss": factors[1] * valid}}
        passed, finding = compare(losses, "MLPAE", handed_in, loaders)
        assert passed is expected
        assert finding.startswith(f"{losses['train']['loss']:.6f} against 0.")


def test_without_the_perceptron_the_ae_cannot_be_compared(hand_in, failures):
    finding = failures(hand_in("AE"), "AE")["both losses"]
    assert finding.startswith("those of MLPAE cannot be computed (")


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("name", "script", "figure", "plots"),
    [
        ("MLPAE", "MLPAE_train_script.py", "valid_MLPAE.png", "visualization.py --model MLPAE"),
        ("VAE", "train_script.py --model VAE", "random_images_VAE.png", "random_generation.py --model VAE"),
        ("MNIST_AE", "main.py --model AE", "mnist_AE_latent.png", "-m beyond.digits --model AE"),
    ],
)
def test_a_missing_file_fails_alone_with_the_command_that_makes_it(name, script, figure, plots, hand_in, failures):
    root = hand_in(name)
    log = f"log/train_{name}.txt"
    figure = f"vis/{figure}"
    (root / figure).unlink()
    (root / log).unlink()
    failed = failures(root, name)
    assert failed.keys() - {"train loss", "valid loss", "test loss"} == {figure, log}
    assert f'`python {script} --output-root "{root}" > "{root}/{log}"`' in failed[log]
    assert f'`python {plots} --output-root "{root}"`' in failed[figure]


def repaint(path, paint=None, old="", new=""):
    """Change the pixels of a PNG, or its title, and keep what else is stored beside them."""
    entries = PngImagePlugin.PngInfo()
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).copy()
        for key, text in image.text.items():
            entries.add_text(key, text.replace(old, new))
    Image.fromarray(paint(pixels) if paint else pixels).save(path, pnginfo=entries)


def swap_two_images(pixels):
    first = pixels[110:220, 120:220].copy()
    pixels[110:220, 120:220] = pixels[230:340, 120:220]
    pixels[230:340, 120:220] = first
    return pixels


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (lambda path: repaint(path, swap_two_images), r"\d% of the pixels differ"),
        (lambda path: repaint(path, np.ones_like), r"[89]\d\.\d% of the pixels differ"),
        (lambda path: repaint(path, lambda pixels: pixels[::2, ::2]), r"expected \(\d+, \d+\)"),
        (lambda path: shutil.copy(path.with_name("train_MLPAE.png"), path), r"% of the pixels differ"),
        (lambda path: shutil.copy(PROJECT / "vis" / "valid_VAE.png", path), 'title is "VAE, epoch'),
        (lambda path: repaint(path, old=" loss 0.", new=" loss 0.0"), "loss 0.00"),
        (lambda path: path.write_bytes(path.read_bytes()[:2000]), "not a PNG"),
        (lambda path: path.write_text("a figure"), "not a PNG"),
        (lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0"), "not a PNG"),
    ],
)
def test_a_wrong_figure_fails_alone(tamper, words, hand_in, failures):
    root = hand_in("MLPAE")
    tamper(root / "vis" / "valid_MLPAE.png")
    failed = failures(root, "MLPAE")
    assert failed.keys() == {"vis/valid_MLPAE.png", "train loss", "valid loss"}
    assert re.search(words, failed["vis/valid_MLPAE.png"])


@pytest.mark.parametrize("name", ["MNIST_CVAE", "MNIST_AE", "VAE"])
def test_other_random_images_fail(name, hand_in, failures):
    root = hand_in(name)
    file = "vis/random_images_VAE.png" if name == "VAE" else f"vis/mnist_{name.removeprefix('MNIST_')}_samples.png"
    repaint(root / file, swap_two_images)
    assert "% of the pixels differ" in failures(root, name)[file]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (r"Valid Loss: [\d.]+ \*$", "Valid Loss: 0.000001 *", '"Epoch: 1", it says "Valid Loss: 0.000001 \\*"'),
        ("Epoch: 3, Train Loss: ", "Epoch: 3, Train Loss: 7", '"Epoch: 3", it says "Train Loss: 7'),
        (r" \*$", "", 'it says "Valid Loss: .*" instead of "Valid Loss: .* \\*"'),
        ("Best Valid Loss: ", "Best Valid Loss: 7", 'it says "Best Valid Loss: 7'),
        ("Best Valid Loss.*", "", 'it says "nothing" instead of "Best Valid Loss: '),
        ("Epoch: 12,.*", "", 'it says "Best .*" instead of "Epoch: 12"'),
        (r"lr 1\.0", "lr 1.05", 'it says "lr 1.05" instead of "lr 1.0"'),
        ("epochs 12", "epochs 17", 'it says "Settings: epochs 17" instead'),
        (", patience 5", "", 'it says "batch_size 16" instead of "patience 5"'),
        ("(Settings: .*\n)", r"\1\1", 'it says "Settings: epochs 12" instead of "Epoch: 1"'),
        ("fingerprint ..", "fingerprint xx", 'says "Data: fingerprint xx'),
        (r"(?s)(.*)\Z", r"\1\1", ">>"),
    ],
)
def test_an_edited_log_says_where(old, new, words, hand_in):
    root = hand_in("MLPAE")
    log = root / "log" / "train_MLPAE.txt"
    checkpoint = best_checkpoint(root, "MLPAE")
    text = log.read_text()
    log.write_text(re.sub(old, new, text, count=1, flags=re.MULTILINE))
    assert log.read_text() != text
    assert re.search(words, problem_of_log(log, checkpoint))


def test_the_log_of_another_machine_is_read(hand_in):
    """Windows redirects to UTF-16, and the checkpoint lies elsewhere there."""
    root = hand_in("MNIST_CVAE")
    log = root / "log" / "train_MNIST_CVAE.txt"
    text, count = re.subn("saved to .*", r"saved to C:\\models", log.read_text())
    log.write_bytes(text.replace("\n", "\r\n").encode("utf-16"))
    assert count == 1
    assert problem_of_log(log, best_checkpoint(root, "MNIST_CVAE")) == ""
    log.write_bytes(text.replace("Test Loss: ", "Test Loss: 7").encode("utf-16"))
    assert 'it says "Test Loss: 7' in problem_of_log(log, best_checkpoint(root, "MNIST_CVAE"))


def test_messages_between_the_lines_of_a_log_do_no_harm(hand_in):
    """As `> log 2>&1` writes them."""
    root = hand_in("MLPAE")
    log = root / "log" / "train_MLPAE.txt"
    lines = log.read_text().splitlines()
    log.write_text("\n".join(["warning: x", *lines[:4], "", *lines[4:], "finished after 7.1 s", "wrote vis/loss.png"]))
    assert problem_of_log(log, best_checkpoint(root, "MLPAE")) == ""


def test_a_long_line_of_a_log_is_quoted_in_part(hand_in):
    root = hand_in("MLPAE")
    log = root / "log" / "train_MLPAE.txt"
    log.write_text("Data: " + 10_000_000 * "x")
    assert len(problem_of_log(log, best_checkpoint(root, "MLPAE"))) < 400


def test_a_failure_ends_with_the_command_that_fixes_it(hand_in, failures):
    root = hand_in("MLPAE")
    (root / "log" / "train_MLPAE.txt").unlink()
    command = f'`python MLPAE_train_script.py --output-root "{root}"'
    assert all(command in finding for finding in failures(root, "MLPAE").values())  # the losses are not below 0.03
    (root / "models" / "LastModel_MLPAE.pkl").touch()
    resume = f'{command} --resume > "{root}/log/train_MLPAE.txt"`, with the flags of its training'
    assert all(resume in finding for finding in failures(root, "MLPAE").values())
    with FileLock(root / "models" / "LastModel_MLPAE.lock"):
        assert all("still going on" in finding for finding in failures(root, "MLPAE").values())


def test_files_that_are_no_images_are_named_in_the_row_of_the_data(hand_in, tiny_flowers, tmp_path, roots):
    flowers = shutil.copytree(tiny_flowers, tmp_path / "flowers")
    (next(flowers.iterdir()) / "Thumbs.db").write_text("no image")
    row = next(
        row for row in check_model("AE", hand_in("AE"), {**roots, "flowers": str(flowers)}) if row.check == "data"
    )
    assert "skipped 1 of 61 files" in row.finding
    assert "Thumbs.db" in row.finding


# ---------------------------------------------------------------- checkpoints


class Hostile:
    """Runs os.mkdir where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("code that a checkpoint held was run",)


def test_hostile_checkpoints_fail_and_run_nothing(tmp_path, monkeypatch, failures):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "BestModel_MLPAE.pkl").write_bytes(pickle.dumps({"model": "MLPAE", "weights": Hostile()}))
    torch.save({"model": "AE", "weights": Hostile()}, tmp_path / "models" / "BestModel_AE.pth")
    failed = failures(tmp_path, "MLPAE", "AE")
    assert failed.keys() == {"models/BestModel_MLPAE.pkl", "models/BestModel_AE.pth"}
    assert all("mkdir" in finding for finding in failed.values())
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


ROW = {"epoch": 1, "train_loss": 1.0, "valid_loss": 1.0, "train_recon": 1.0, "valid_recon": 1.0}
ROW |= {"train_kl": 1.0, "valid_kl": 1.0}


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("VAE", {"seed": "one"}, "seed"),
        ("VAE", {"data": {}}, "name"),
        ("VAE", {"history": []}, "history"),
        ("VAE", {"settings": None}, "settings"),
        ("VAE", {"valid_kl": []}, "number"),
        ("VAE", {"config": {"encoding_dim": 64}}, "configuration is encoding_dim, expected"),
        ("VAE", {"config": {"encoding_dim": "64", "img_height": 24, "img_width": 24}}, "encoding_dim"),
        ("VAE", {"epoch": 7}, "claims to be epoch 7, its history's best is epoch"),
        ("VAE", {"history": [ROW] * 2000}, r"has the epochs \[1, 1, 1, 1, 1\]"),
        ("VAE", {"history": [{**ROW, "epoch": 46}]}, r"has the epochs \[46\]"),
        ("MNIST_CVAE", {"settings": {"beta": "much"}}, "does not hold the model"),
        ("MNIST_CVAE", {"test_kl": None}, "cannot be checked .*Error"),
        ("MNIST_CVAE", {"test_loss": ...}, "lacks the test after its training"),
    ],
)
def test_a_checkpoint_of_odd_content_fails_in_its_row(name, change, words, hand_in, roots):
    root = hand_in(name)
    checkpoint = {**best_checkpoint(root, name), **change}
    save(root, name, {key: value for key, value in checkpoint.items() if value is not ...})
    first, *rest = check_model(name, root, roots)
    assert (first.check, first.passed) == (f"models/{checkpoint_file(name)}", False)
    assert re.search(words, first.finding)
    assert {(row.passed, row.finding) for row in rest} == {(False, NOT_CHECKED)}


def test_a_run_that_was_cut_fails(hand_in, failures):
    root = hand_in("AE")
    checkpoint = best_checkpoint(root, "AE")
    first = checkpoint["history"][:1]
    failed = failures(save(root, "AE", {**checkpoint, **first[0], "history": first}), "AE")
    assert "its settings say 2 epochs and a patience of 20, it has 1" in failed["models/BestModel_AE.pth"]


def test_other_layers_and_more_epochs_fail(hand_in, failures):
    root = hand_in("AE")
    checkpoint = best_checkpoint(root, "AE")
    last = checkpoint["history"][-1]
    history = [*checkpoint["history"], *({**last, "epoch": epoch, "valid_loss": 750.0} for epoch in range(3, 26))]
    changed = {"config": {**checkpoint["config"], "encoding_dim": 128}, "state_dict": Autoencoder(128).state_dict()}
    changed["settings"] = {**checkpoint["settings"], "epochs": 25}
    failed = failures(save(root, "AE", {**checkpoint, **changed, "history": history}), "AE")
    assert failed.keys() == {"log/train_AE.txt", "layers", "epochs"}
    assert failed["epochs"].startswith("25; train again")
    layers, _, expected = failed["layers"].partition(", expected ")
    assert "-> 128x6x6 -> 128 -> 128x6x6 ->" in layers
    assert expected.startswith("3x24x24 -> 32x12x12 -> 64x6x6 -> 128x6x6 -> 64 -> ")


@pytest.mark.parametrize(
    ("name", "entry", "change", "words"),
    [
        ("AE", "state_dict", {"decoder.9.bias": lambda bias: bias + 0.01}, "validation loss of"),
        ("AE", None, {"train_loss": 0.001}, "training loss of .*0.001 is claimed"),
        ("VAE", "state_dict", {"log_var.bias": lambda bias: bias + 0.01}, "validation kl of"),
        ("VAE", "state_dict", {"encoder.9.bias": lambda bias: bias + 1e30}, "the loss is (inf|nan)"),
        ("MNIST_AE", None, {"test_loss": 0.001}, "test loss of .*0.001 is claimed"),
    ],
)
def test_weights_that_do_not_give_the_losses_claimed_fail(name, entry, change, words, hand_in, roots):
    root = hand_in(name)
    is_digits = MODELS[name].data == "MNIST"
    create = create_mnist_dataloaders if is_digits else create_flower_dataloaders
    loaders = create(256, roots[MODELS[name].data])
    checkpoint = best_checkpoint(root, name)
    changed = checkpoint[entry] if entry else checkpoint
    for key, value in change.items():
        changed[key] = value(changed[key]) if callable(value) else value
    model, checkpoint = load_model(name, save(root, name, checkpoint))
    passed, finding, *_ = check_losses(model, checkpoint, root, loaders)["weights"]
    assert not passed
    assert re.search(words, finding)


@pytest.mark.parametrize("name", ["AE", "CVAE"])
def test_an_untrained_model_of_mnist_is_worse_than_the_mean_image(name, hand_in, roots):
    root = hand_in(f"MNIST_{name}")
    loaders = create_mnist_dataloaders(256, roots["MNIST"])
    train, _, test = (loader.dataset.images.double() / 255 for loader in loaders)
    mean = train.mean(dim=0)
    if name == "AE":
        expected = (mean - test).square().mean().item()
    else:
        ink = mean.log().clamp(min=-100)  # as PyTorch does where all training digits are black
        paper = (1 - mean).log().clamp(min=-100)
        expected = -(test * ink + (1 - test) * paper).sum().item() / len(test)
    torch.manual_seed(0)
    checkpoint = {**best_checkpoint(root, f"MNIST_{name}"), "state_dict": build_model(name, 16, 20).state_dict()}
    model, checkpoint = load_model(f"MNIST_{name}", save(root, f"MNIST_{name}", checkpoint))
    bound = mean_image_loss(model, checkpoint, loaders[0].dataset, loaders[2].dataset)
    assert bound == pytest.approx(expected, rel=0.01)
    findings = check_losses(model, checkpoint, root, loaders)
    assert [check for check, (passed, *_) in findings.items() if not passed] == ["weights", "test loss"]


# ---------------------------------------------------------------- images


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fingerprint": "2", "name": "synthetic digits"}, "synthetic digits .* 2, but here is MNIST .* 1$"),
        ({"image_size": [32, 32]}, r"at \[32, 32\]"),
    ],
)
def test_a_stand_in_fails_and_so_do_other_images(change, words):
    info = {"name": "MNIST", "fingerprint": "1", "image_size": [28, 28]}
    assert problem_of_data(info, info) == ""
    assert re.search(words, problem_of_data({**info, **change}, info))


@pytest.mark.parametrize("name", ["AE", "MNIST_CVAE"])
def test_with_other_images_or_none_no_loss_is_computed(name, hand_in, failures, tmp_path):
    root = hand_in(name)
    data = MODELS[name].data
    random_images = {"vis/random_images_AE.png", "vis/mnist_CVAE_samples.png"}
    figures = {f"vis/{path.name}" for path in (root / "vis").iterdir()} - random_images
    other = str(REAL_FLOWERS if data == "flowers" and REAL_FLOWERS.exists() else tmp_path / "nowhere")
    failed = failures(root, name, **{data: other})
    assert failed.keys() == {"data", *figures}
    failed = failures(root, name, **{data: str(tmp_path / "nowhere")})
    assert failed.keys() == {"data", *figures}
    assert re.search(f"nowhere is not a folder.*--{data.lower()}", failed["data"])
    assert "--data-root" not in failed["data"]  # it is the flag of other scripts


# ---------------------------------------------------------------- trained again


def test_a_new_training_gives_the_loss(handed_in, roots):
    passed, finding = check_retrained(read_claim(best_checkpoint(handed_in, "MLPAE")), roots["flowers"])
    assert passed
    assert re.match("validation loss .*, claimed ", finding)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"lr": 1e-4}, "^validation loss .*, claimed "),
        ({"processes": 2}, "no flag sets processes 2$"),
        ({"epochs": 10**12}, "1 to 1000 epochs"),
    ],
)
def test_other_settings_than_claimed_do_not(change, words, handed_in, roots, monkeypatch):
    def train_here(argv, **_):
        logged(MLPAE_train_script.main, *argv[2:])
        return Mock(returncode=0)

    monkeypatch.setattr(losses.subprocess, "run", train_here)
    checkpoint = best_checkpoint(handed_in, "MLPAE")
    checkpoint["settings"] |= change
    passed, finding = check_retrained(read_claim(checkpoint), roots["flowers"])
    assert not passed
    assert re.search(words, finding)


# ---------------------------------------------------------------- the archive

HANDED_IN = [".ci/run", ".gitignore", "README.md", "log/train_AE.txt", "main.py", "models/BestModel_AE.pth"]
LEFT_OUT = [".git/HEAD", "flowers/rose/1.jpg", "mnist/MNIST/raw/images", "photos/rose/2.jpg", "old.zip"]
LEFT_OUT += [".venv/pyvenv.cfg", ".venv/lib/torch.py", "my environment/pyvenv.cfg", "my environment/bin/python"]
LEFT_OUT += [".pytest_cache/CACHEDIR.TAG", ".pytest_cache/v/cache", "__pycache__/main.pyc", "tests/__pycache__/a.pyc"]
LEFT_OUT += ["models/LastModel_AE.pth", "models/.BestModel_AE.pth.7.tmp"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A project with all that is not to hand in."""
    root = tmp_path / "a project"
    for name in HANDED_IN + LEFT_OUT:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "link to photos").symlink_to(root / "photos", target_is_directory=True)
    monkeypatch.setattr(grading, "PROJECT", root)
    return root


def test_what_fails_is_packed_by_force_alone(folder, tmp_path, capsys):
    path = tmp_path / "x.zip"
    argv = ["--model", "AE", "--output-root", str(folder), "--flowers", str(folder / "photos"), "--zip", str(path)]
    with pytest.raises(UserError, match="13 of 13 .*--force"):
        grading.main(argv)
    assert not path.exists()
    with pytest.raises(UserError, match="13 of 13 "):
        grading.main([*argv, "--force"])
    with zipfile.ZipFile(path) as archive:
        assert {name: archive.read(f"x/{name}").decode() for name in HANDED_IN} == {name: name for name in HANDED_IN}
        assert len(archive.namelist()) == len(HANDED_IN)
    assert f"packed {len(HANDED_IN)} files, 0.0 MiB: {path}" in capsys.readouterr().out


# ---------------------------------------------------------------- the script


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--force"], "--force.*--zip"),
        (["--zip", "hand-in"], "--zip.*NAME.zip.*hand-in"),
        (["--zip", "x.zip", "--output-root", "elsewhere"], "--output-root.*--zip"),
        (["--hand-ins", ".", "--output-root", "elsewhere"], "--output-root.*--hand-ins"),
        (["--hand-ins", ".", "--tables"], "--tables: not allowed with argument --hand-ins"),
        (["--model", "GAN"], "--model.*GAN"),
        (["--csv", "marks.csv"], "--csv.*--hand-ins"),
        (["--feedback", "texts"], "--feedback.*--hand-ins"),
        (["--model", "AE", "--retrain", "VAE"], "--retrain.*--model"),
        (["--hand-ins", ".", "--retrain", "AE"], "--retrain.*how many"),
    ],
)
def test_wrong_arguments_are_status_2(flags, words, capsys):
    with pytest.raises(SystemExit) as exit_:
        grading.parse_args(flags)
    assert exit_.value.code == 2
    assert re.search(words, capsys.readouterr().err.splitlines()[-1])


def test_each_failure_is_printed_once_in_lines_that_fit(hand_in, roots, tmp_path, capsys):
    long = tmp_path / "a folder with as long a name as students give to what they hand in"
    root = hand_in("MLPAE", root=long)
    (root / "log" / "train_MLPAE.txt").unlink()
    with pytest.raises(UserError, match="^3 of 10 checks fail$"):
        grading.main(["--model", "MLPAE", "--output-root", str(root), "--flowers", roots["flowers"]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["model", "check", "target", "result", "finding"]
    assert " ".join(" ".join(lines).split()).count("missing; train again and keep what it prints, `python MLPAE_t") == 1
    assert sum("  pass  " in line for line in lines) == 7
    assert sum("  FAIL  " in line for line in lines) == 3
    assert lines[-1] == "7 of 10 checks pass"
    assert max(map(len, lines)) <= 120


def test_a_folder_that_does_not_exist_is_one_line(tmp_path):
    with pytest.raises(UserError, match="^there is no folder .*nowhere: expected one with models/, vis/ and log/$"):
        grading.main(["--output-root", str(tmp_path / "nowhere")])


def test_the_tables_hold_what_checkpoints_and_scores_say(handed_in, tmp_path):
    shutil.copytree(handed_in / "models", tmp_path / "models")
    score = Score((0.995, 0.002), (15.1, 0.3), 0.5)
    scores = [score_line("training photographs, 24x24", [score, score], (0.9, 0.01))]
    scores.append(score_line("AE, 24x24", [score._replace(near=(0.0, 1.0), copies=(0, 0, 1.0))], (0.9, 0.01)))
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "score.txt").write_text("\n".join(scores), encoding="utf-8")
    tables, log = logged(grading.main, "--tables", "--output-root", tmp_path)
    assert "<!-- table: settings -->" in log
    assert [row[0] for row in tables["flowers"]] == ["", "MLPAE", "AE", "VAE"]
    assert ["AE", "780,867", "64", "2", "20", "8", "0.0015", "0.2", "0.95 to 0.85, 0.99", "-", "0.3"] in tables[
        "settings"
    ]
    assert tables["digits"][1][::3] == ["MNIST_AE", "-"]  # which has no KL
    assert tables["flowers"][2][1] == "0.01 / 0.012"
    quality = ["99.5% ± 0.2%", "90.0% ± 1.0%", "15.100 ± 0.300"]
    assert tables["scores"][1:] == [
        ["training photographs, 24x24", *quality, "0.5, 0.5"],
        ["AE, 24x24", *quality, "0.5"],
    ]
    assert tables["copies"][1:] == [["AE, 24x24", "0.0% (p = 1)", "0:0 (p = 1)"]]
    shutil.rmtree(tmp_path / "models")
    tables, _ = logged(grading.main, "--tables", "--output-root", tmp_path)
    assert [len(rows) for rows in tables.values()] == [1, 1, 1, 3, 2]
