"""check_submission.py on the committed results, and on what may be done to them."""

import contextlib
import io
import json
import math
import os
import pickle
import re
import shutil
import sys
import zipfile
from functools import partial
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from helpers import REAL_FLOWERS, best_checkpoint, hand_in, logged, needs_flowers, needs_mnist, run, skip_if_changed
from PIL import Image, PngImagePlugin

import check_submission
import MLPAE_train_script
from Autoencoder import Autoencoder
from data import create_flower_dataloaders, create_mnist_dataloaders
from evaluation import models, submission
from evaluation.evidence import problem_of_log, problem_of_title
from evaluation.models import checkpoint_file, load_model, name_model
from evaluation.submission import NOT_CHECKED, TARGETS
from main import Losses
from model import build_model
from training import PROJECT, UserError
from training.checkpoints import save_checkpoint

pytestmark = pytest.mark.xdist_group("submission")  # one worker checks all of it, and decodes the photographs
NO_IMAGES = UserError("there are no images")  # in the place of the loaders
VAE_SIZES = {"encoding_dim": 64, "img_height": 24, "img_width": 24}
SCRIPTS = submission.Scripts(Losses, None, lambda *_: NO_IMAGES)


@pytest.fixture(scope="module")
def handed_in(tmp_path_factory):
    """(what --json says of the committed results, the archive)."""
    skip_if_changed()
    path = tmp_path_factory.mktemp("hand-in") / "Jane Doe.zip"
    _, lines = logged(check_submission.main, "--json", "--zip", path)
    return json.loads("".join(lines)), path


def check(root, *models, flags=()):
    """{check: what is wrong} of the models below root, by the script; what could not be checked is left out."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            check_submission.main(["--output-root", str(root), "--json", "--model", *models, *map(str, flags)])
            passed = True
        except UserError:
            passed = False
    report = json.loads(printed.getvalue())
    assert report["passed"] == passed == all(row["passed"] for row in report["checks"])
    assert {row["model"] for row in report["checks"]} == set(models)
    assert len(report["checks"]) == sum(len(submission.plan(name)) for name in models)  # whatever is missing
    return {row["check"]: row["found"] for row in report["checks"] if not row["passed"] and row["found"] != NOT_CHECKED}


def save(root, name, checkpoint):
    """Save it as the best of a model below root; returns root."""
    (root / "models").mkdir(exist_ok=True)
    save_checkpoint(root / "models" / checkpoint_file(name), checkpoint)
    return root


@needs_flowers
@needs_mnist
def test_the_committed_results_pass(handed_in):
    report, _ = handed_in
    assert report["passed"] is True
    assert {row["model"] for row in report["checks"]} == set(TARGETS)
    assert all(row["passed"] is True for row in report["checks"])


def test_the_committed_results_are_small():
    skip_if_changed()
    beside = "GAN|DDPM|Classifier|score|gmm|^samplers_|^interpolation_|^nearest_|^generation_"  # of other models
    results = [path for folder in ("models", "vis", "log") for path in (PROJECT / folder).iterdir()]
    sizes = {path.name: path.stat().st_size for path in results if not path.name.startswith("LastModel_")}
    of_the_six = [size for name, size in sizes.items() if not re.search(beside, name)]
    assert len(of_the_six) >= 6 + 28 + 6  # models, figures and logs
    assert sum(size for name, size in sizes.items() if name.startswith("BestModel_")) < 50 * 2**20
    assert sum(size for name, size in sizes.items() if not name.startswith("BestModel_")) < 10 * 2**20
    assert max(sizes.values()) < 10 * 2**20


@needs_flowers
def test_the_table_and_the_ledger_are_printed(tmp_path):
    """Of the AE alone, though the perceptron is measured too, whose losses its own have to be below."""
    root = hand_in(hand_in(tmp_path, "MLPAE"), "AE")
    rows, lines = logged(check_submission.main, "--model", "AE", "--ledger", "--output-root", root)
    assert lines[0].split() == ["model", "check", "target", "result", "found"]
    assert lines[2].split()[:2] == ["AE", "models/BestModel_AE.pth"]
    assert sum("  pass  " in line for line in lines) == len(rows) == 13
    assert "both losses" in {row.check for row in rows}
    assert any(line.split()[:4] == ["AE", "valid", "squared", "error"] for line in lines)
    assert not any(line.startswith("MLPAE") for line in lines)
    assert lines[-1].startswith("13 of 13 ")


@needs_flowers
@needs_mnist
def test_the_ledger_holds_each_loss_in_every_unit(handed_in):
    (_, valid), found = check_submission.find_images("flowers", None), handed_in[0]["ledger"]
    images, of = valid.dataset[:][0], found["AE"]["valid"]
    ae, checkpoint = load_model("AE", PROJECT)
    with torch.no_grad():
        errors = (ae(images) - images).double().square()
    assert of["recon/pixel"] == pytest.approx(errors.mean().item(), rel=1e-5)
    assert of["recon"] == of["sum"] == pytest.approx(errors.sum().item() / len(images), rel=1e-5)
    assert of["recon x 16"] == pytest.approx(16 * errors.sum().item() / len(images), rel=1e-5)
    assert (of["KL"], of["bits/dim"]) == (None, None)
    assert of["the log's"] == pytest.approx(checkpoint["valid_loss"], rel=1e-5)
    of, checkpoint = found["VAE"]["valid"], best_checkpoint(PROJECT, "VAE")
    assert of["recon"] == pytest.approx(checkpoint["valid_recon"], rel=1e-2)
    assert of["KL"] == pytest.approx(checkpoint["valid_kl"], rel=1e-4)
    assert of["sum x 16"] == pytest.approx(of["the log's"])
    assert of["sum x 16"] == pytest.approx(16 * (of["recon"] + of["KL"]))
    # a pixel's error e under the density N(0, 1/2) costs e^2 + ln(pi)/2 nats; there are 256 levels
    density = -torch.distributions.Normal(0.0, 0.5**0.5).log_prob(torch.zeros(())).item()
    nats = of["recon"] + 1728 * (density + math.log(256)) + of["KL"]
    assert of["bits/dim"] == pytest.approx(nats / 1728 / math.log(2))
    of = found["MNIST_VAE"]["valid"]
    assert of["recon is"] == "nats"
    assert of["sum"] == pytest.approx(of["the log's"])
    assert of["sum"] == pytest.approx(of["recon"] + of["KL"])
    assert of["recon/pixel"] == pytest.approx(of["recon"] / 784)
    assert of["bits/dim"] == pytest.approx((of["recon"] + of["KL"]) / 784 / math.log(2))


@pytest.mark.parametrize(
    ("name", "script", "figure", "plots"),
    [
        ("MLPAE", "MLPAE_train_script.py", "valid_MLPAE.png", "visualization.py --model MLPAE"),
        ("VAE", "train_script.py --model VAE", "random_images_VAE.png", "random_generation.py --model VAE"),
        ("MNIST_AE", "main.py --model AE", "mnist_AE_latent.png", "main.py --model AE --figures-only"),
    ],
)
def test_a_missing_file_fails_alone_with_the_command_that_makes_it(name, script, figure, plots, tmp_path):
    root, log, figure = hand_in(tmp_path, name), f"log/train_{name}.txt", f"vis/{figure}"
    (root / figure).unlink()
    (root / log).unlink()
    failed = check(root, name, flags=["--flowers", root / "nowhere", "--mnist", root / "nowhere"])
    assert failed.keys() - {f"vis/{path.name}" for path in (root / "vis").iterdir()} == {"data", figure, log}
    assert f'`python {script} --output-root "{root}" > "{root}/{log}"`' in failed[log]
    assert f'`python {plots} --output-root "{root}"`' in failed[figure]


def retitle(path, change=None):
    """Save a PNG again, with another title or with none."""
    with Image.open(path) as image:
        title = PngImagePlugin.PngInfo()
        if change:
            title.add_text("Title", image.text["Title"].replace(*change))
        Image.fromarray(np.asarray(image)).save(path, pnginfo=title)


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (lambda path: shutil.copy(PROJECT / "vis" / "train_MLPAE.png", path), "train split of"),
        (lambda path: shutil.copy(PROJECT / "vis" / "valid_VAE.png", path), '"VAE, epoch'),
        (lambda path: retitle(path, (" loss 0.", " loss 0.0")), "loss 0.00"),
        (lambda path: retitle(path), '"no title"'),
        (lambda path: path.write_bytes(path.read_bytes()[:2000]), "not a PNG"),
        (lambda path: path.write_text("a figure"), "not a PNG"),
        (lambda path: Image.new("1", (12_000, 12_000)).save(path), "DecompressionBomb"),
    ],
)
def test_a_wrong_figure_is_told(tamper, words, tmp_path):
    path = hand_in(tmp_path, "MLPAE") / "vis" / "valid_MLPAE.png"
    expected = name_model(best_checkpoint(tmp_path, "MLPAE")), "valid split of flowers\n"
    assert problem_of_title(path, *expected)[0] == ""
    tamper(path)
    assert words in problem_of_title(path, *expected)[0]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (r"Valid Loss: {loss} \*", "Valid Loss: 0.000001 *", "1 of {epochs} .* Epoch: {best}: Valid Loss: 0.000001"),
        ("Epoch: 3, Train Loss: ", "Epoch: 3, Train Loss: 7", "Epoch: 3: Train Loss: 7"),
        ("Best Valid Loss: ", "Best Valid Loss: 7", r'does not end with .*"Best Valid Loss: {loss} \(epoch {best}\)'),
        ("Best Valid Loss.*", "", r'does not end with .*"Best Valid Loss: {loss} \(epoch {best}\)'),
        (r"AE\.pkl\n\Z", "AE.pkl\nTraceback\n", "does not end with"),
        (r"lr 1\.0", "lr 1.05", 'say "lr 1.05", the checkpoint "lr 1.0"'),
        ("seed 0$", "seed 7", 'say "seed 7", the checkpoint "seed 0"'),  # though the data line has "split seed 0"
        (", seed 0$", "", 'say "seed None"'),
        ("split seed 0", "split seed 7", '"split seed 0"'),
        ("split seed 0", "split seed 07", '"split seed 0"'),
        ("epochs {epochs}", "epochs 7", "epochs 7, patience 5, it has {epochs}"),
        ("epochs {epochs}", "epochs 170", "epochs 170, patience 5, it has {epochs}"),
        ("patience 5", "patience five", "do not say epochs and patience"),
        ("(Settings: .*\n)", r"\1\1", "say .batch_size None"),
        ("{images} images of", "258 images of", '"{images} images of '),
        ("fingerprint ..", "fingerprint xx", '"fingerprint {fingerprint}"'),
        ("(?s)(.*?)(Epoch: 1,[^\n]*\n)", r"\2\1\2", ">>"),
        ("Epoch: {epochs},", "epoch {epochs}", "{fewer} epochs.* {epochs}$"),
        (r" \*\n", "\n", "of {epochs} epochs differ"),
        (r"(?s)Epoch: (1,|2,)([^\n]*)\n(Epoch: 3.*)?", r"Epoch: \1 7\2\n", "2 of {epochs} epochs differ"),
    ],
)
def test_an_edited_log_is_told(old, new, words, tmp_path):
    log, checkpoint = hand_in(tmp_path, "MLPAE") / "log" / "train_MLPAE.txt", best_checkpoint(tmp_path, "MLPAE")
    epochs, loss = len(checkpoint["history"]), f"{checkpoint['valid_loss']:.6f}"
    known = {**checkpoint["data"], "best": checkpoint["epoch"], "loss": loss, "epochs": epochs, "fewer": epochs - 1}
    old, new, words = (re.sub(r"{(\w+)}", lambda name: str(known[name[1]]), text) for text in (old, new, words))
    text = log.read_text()
    log.write_bytes(text.replace("\n", "\r\n").encode("utf-16"))  # as Windows redirects it
    assert problem_of_log(log, checkpoint) == ""
    log.write_text(re.sub(old, new, text, flags=re.MULTILINE))
    assert log.read_text() != text
    assert re.search(words, problem_of_log(log, checkpoint))


def test_the_parts_of_the_vaes_loss_are_in_its_log(tmp_path):
    log, checkpoint = hand_in(tmp_path, "VAE") / "log" / "train_VAE.txt", best_checkpoint(tmp_path, "VAE")
    assert problem_of_log(log, checkpoint) == ""
    recon = f"reconstruction {checkpoint['valid_recon']:.3f}"
    log.write_text(log.read_text().replace(recon, "reconstruction 23.680"))
    assert f"{recon} + KL" in problem_of_log(log, checkpoint)


class Hostile:
    """What runs os.mkdir where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("code that a checkpoint held was run",)


def test_hostile_checkpoints_fail_and_run_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "BestModel_MLPAE.pkl").write_bytes(pickle.dumps({"model": "MLPAE", "weights": Hostile()}))
    torch.save({"model": "AE", "weights": Hostile()}, tmp_path / "models" / "BestModel_AE.pth")
    failed = check(tmp_path, "MLPAE", "AE", flags=["--flowers", tmp_path / "nowhere"])
    assert failed.keys() == {"models/BestModel_MLPAE.pkl", "models/BestModel_AE.pth"}
    assert all("mkdir" in found for found in failed.values())
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": "one"}, "seed"),
        ({"data": {}}, "name"),
        ({"history": []}, "history"),
        ({"settings": None}, "settings"),
        ({"valid_kl": []}, "list|number"),
        ({"config": {"encoding_dim": "64"}}, "configured by encoding_dim,"),
        ({"config": {**VAE_SIZES, "encoding_dim": "64"}}, "encoding_dim"),
        ({"settings": {"beta": -1e9}}, "--beta -1000000000.0"),
        ({"config": {**VAE_SIZES, "variance": "learned"}}, "variance"),
        ({"config": {**VAE_SIZES, "variance": "foo"}}, "expected the variance 0.5 or learned, found foo"),
        ({"test_loss": "x"}, "test_images"),
        (
            {"history": [{"epoch": 1, "train_loss": 1.0, "valid_loss": 1.0}] * 2000},
            r"counts the epochs \[1, 1, 1, 1, 1, ...\]",
        ),
        ({"epoch": 3}, "epoch 3, .*best is epoch 20"),
        ({"history": [{"epoch": 46, "train_loss": 1.0, "valid_loss": 1.0}]}, r"\[46\]"),
    ],
)
def test_a_checkpoint_of_odd_content_fails_in_its_row(change, words, tmp_path):
    checkpoint = best_checkpoint(PROJECT, "VAE")
    save(tmp_path, "VAE", {**checkpoint, **change})
    first, *rest = submission.check_model("VAE", tmp_path, {}, SCRIPTS)
    assert (first.check, first.passed) == ("models/BestModel_VAE.pth", False)
    assert re.search(words, first.found)
    assert [row.check for row in (first, *rest)] == [*submission.plan("VAE")]
    assert {(row.passed, row.found) for row in rest} == {(False, NOT_CHECKED)}


def test_a_model_of_mnist_without_a_test_fails(trained_mnist, tmp_path):
    checkpoint = best_checkpoint(trained_mnist[0], "MNIST_VAE")
    del checkpoint["test_loss"]
    save(tmp_path, "MNIST_VAE", checkpoint)
    first = submission.check_model("MNIST_VAE", tmp_path, {}, SCRIPTS)[0]
    assert (first.passed, "lacks the test after its training" in first.found) == (False, True)


def test_other_layers_and_more_epochs_fail(tmp_path):
    torch.manual_seed(0)
    checkpoint = best_checkpoint(PROJECT, "AE")
    last, epochs = checkpoint["history"][-1], len(checkpoint["history"])
    more = [{**last, "epoch": epoch, "valid_loss": 750.0} for epoch in range(epochs + 1, 26)]
    changed = {"config": {**checkpoint["config"], "encoding_dim": 128}, "state_dict": Autoencoder(128).state_dict()}
    save(tmp_path, "AE", {**checkpoint, **changed, "history": [*checkpoint["history"], *more]})
    rows = {row.check: row for row in submission.check_model("AE", tmp_path, {}, SCRIPTS)}
    assert rows["models/BestModel_AE.pth"].passed
    assert (rows["epochs"].passed, rows["epochs"].found) == (False, "25")
    found, _, expected = rows["layers"].found.partition(", expected ")
    assert "-> 128x6x6 -> 128 -> 128x6x6 ->" in found
    assert expected.startswith("3x24x24 -> 32x12x12 -> 64x6x6 -> 128x6x6 -> 64 -> ")
    assert not rows["layers"].passed


@pytest.mark.parametrize(
    ("name", "fingerprint", "words"),
    [("synthetic MNIST", "1", "stand-in.*--data real"), ("MNIST", "2", "fingerprint 2, but here is MNIST .* 1$")],
)
def test_a_stand_in_is_not_believed_nor_other_images(name, fingerprint, words):
    info = {"name": "MNIST", "fingerprint": "1", "image_size": [28, 28]}
    larger = {**info, "image_size": [32, 32]}
    loaders = [SimpleNamespace(dataset=SimpleNamespace(info=info))] * 2
    assert submission.problem_of_data(info, "MNIST", loaders) == ""
    assert "at [32, 32]" in submission.problem_of_data(larger, "MNIST", loaders)
    found = submission.problem_of_data({**info, "name": name, "fingerprint": fingerprint}, "MNIST", loaders)
    assert re.search(words, found)


@pytest.mark.parametrize("name", ["MLPAE", "MNIST_CVAE"])
def test_with_other_images_or_none_no_loss_is_believed(name, tiny_flowers, tiny_mnist, tmp_path):
    root = hand_in(tmp_path, name)
    flag, other = ("--mnist", tiny_mnist) if name.startswith("MNIST") else ("--flowers", tiny_flowers)
    failed = check(root, name, flags=[flag, other])
    figures = {f"vis/{path.name}" for path in (root / "vis").iterdir()}  # which cannot be plotted anew
    assert failed.keys() == {"data", *figures}
    fingerprint = best_checkpoint(PROJECT, name)["data"]["fingerprint"]
    assert re.search(f"fingerprint {fingerprint}, but here is .*, fingerprint ", failed["data"])
    failed = check(root, name, flags=[flag, tmp_path / "nowhere"])
    assert failed.keys() == {"data", *figures}
    assert re.search(f"nowhere is not a folder.*{flag}", failed["data"])
    assert "--data-root" not in failed["data"]  # it is the flag of other scripts


def check_changed(name, root, loaders, tmp_path, entry=None, **changes):
    """({check: row} of what the weights give, the losses in every unit) of a checkpoint, itself or an entry changed."""
    checkpoint = best_checkpoint(root, name)
    place = checkpoint[entry] if entry else checkpoint
    place.update({key: change(place[key]) if callable(change) else change for key, change in changes.items()})
    model, checkpoint = load_model(name, save(tmp_path, name, checkpoint))
    measured = {}
    rows = submission.check_losses(name, model, checkpoint, loaders, measured, Losses)
    return rows, measured.get(name)


@pytest.fixture
def flowers(trained_flowers, tiny_flowers, tmp_path):
    """For `check_changed`: models of few small photographs, these photographs, and a folder."""
    return trained_flowers[0], create_flower_dataloaders(256, tiny_flowers, 16, 12), tmp_path


@pytest.mark.parametrize(
    ("name", "entry", "changes", "words"),
    [
        ("AE", "state_dict", {"decoder.9.bias": lambda bias: bias + 0.01}, "validation loss of"),
        ("AE", None, {"valid_loss": 0.001}, "validation loss of .*0.001 is claimed"),
        ("AE", None, {"train_loss": 0.001}, "train loss of .*0.001 is claimed"),
        ("VAE", "state_dict", {"log_var.bias": lambda bias: bias + 0.01}, "validation kl of"),
        ("VAE", "state_dict", {"encoder.9.bias": lambda bias: bias + 1e30}, "the loss is (inf|nan)"),
    ],
)
def test_weights_that_do_not_give_the_losses_claimed_fail(name, entry, changes, words, flowers):
    rows, _ = check_changed(name, *flowers)
    assert rows["weights"][0]
    rows, _ = check_changed(name, *flowers, entry, **changes)
    assert not rows["weights"][0]
    assert re.search(words, rows["weights"][1])


def test_no_setting_of_a_checkpoint_changes_the_unit_of_its_target(flowers):
    rows, measured = check_changed("AE", *flowers)
    assert (rows["train loss"][0], rows["valid loss"][0]) == (False, False)
    assert check_changed("AE", *flowers, "settings", recon="bce", beta=1.0) == (rows, measured)


def test_an_untrained_model_of_mnist_fails(trained_mnist, tiny_mnist, tmp_path):
    digits = trained_mnist[0], create_mnist_dataloaders(256, tiny_mnist), tmp_path
    train, _, test = (loader.dataset.images.double() / 255 for loader in digits[1])
    mean = (train.mean(dim=0) - test).square().sum().item() / len(test)
    rows, _ = check_changed("MNIST_AE", *digits)
    assert rows["weights"][0]
    rows, _ = check_changed("MNIST_AE", *digits, test_loss=0.001)
    assert re.search("test loss of .*0.001 is claimed", rows["weights"][1])
    torch.manual_seed(0)
    rows, measured = check_changed("MNIST_AE", *digits, state_dict=build_model("AE", 16, 3).state_dict())
    assert [check for check, (passed, _) in rows.items() if not passed] == ["weights", "test loss"]
    assert measured["test"]["sum"] > mean
    assert rows["test loss"][1].endswith(f"{mean:.4g}")


@pytest.mark.parametrize(("train", "valid", "passed"), [(0.1, 0.2, True), (0.3, 0.2, False), (0.1, 0.4, False)])
def test_an_ae_must_beat_the_perceptron_on_both_splits(train, valid, passed):
    measured = {"AE": {"train": {"recon/pixel": train}, "valid": {"recon/pixel": valid}}}
    assert not submission.compare("AE", "MLPAE", measured)[0]
    measured["MLPAE"] = {"train": {"recon/pixel": 0.2}, "valid": {"recon/pixel": 0.3}}
    found = f"{train:.6f} against 0.200000, {valid:.6f} against 0.300000"
    assert submission.compare("AE", "MLPAE", measured) == (passed, found)


HANDED_IN = [".ci/run", ".gitignore", "README.md", "log/train_AE.txt", "main.py", "models/BestModel_AE.pth"]
LEFT_OUT = [".git/HEAD", "flowers/rose/1.jpg", "mnist/MNIST/raw/images", "photos/rose/2.jpg", "old.zip"]
LEFT_OUT += [".venv/pyvenv.cfg", ".venv/lib/torch.py", "my environment/pyvenv.cfg", "my environment/bin/python"]
LEFT_OUT += [".pytest_cache/CACHEDIR.TAG", ".pytest_cache/v/cache", "__pycache__/main.pyc", "tests/__pycache__/a.pyc"]
LEFT_OUT += ["models/LastModel_AE.pth", "models/.BestModel_AE.pth.7.tmp"]


@pytest.fixture
def folder(tmp_path):
    """A project with all that is not to hand in."""
    root = tmp_path / "a project"
    for name in HANDED_IN + LEFT_OUT:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "link to photos").symlink_to(root / "photos", target_is_directory=True)
    return root


def test_the_archive_holds_what_is_to_hand_in(folder):
    packed = check_submission.pack(folder / "hand-in.zip", folder, [folder / "photos"])
    assert packed == {name: len(name) for name in HANDED_IN}
    with zipfile.ZipFile(folder / "hand-in.zip") as archive:
        assert {name: archive.read(f"hand-in/{name}").decode() for name in HANDED_IN} == {n: n for n in HANDED_IN}
        assert len(archive.namelist()) == len(HANDED_IN)


@needs_flowers
@needs_mnist
def test_the_archive_unpacks_to_a_folder_that_passes(handed_in, tmp_path):
    report, path = handed_in
    assert report["packed"]["check_submission.py"] == (PROJECT / "check_submission.py").stat().st_size
    assert max(report["packed"].values()) <= 10 * 2**20
    assert not [name for name in report["packed"] if name.lower().endswith((".jpg", ".jpeg", "ubyte"))]
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [f"Jane Doe/{name}" for name in report["packed"]]
        archive.extractall(tmp_path)
    argv = [sys.executable, tmp_path / "Jane Doe" / "check_submission.py", "--flowers", REAL_FLOWERS]
    status, out, errors = run([*argv, "--model", "MLPAE"], cwd=tmp_path)
    assert (status, errors) == (0, "")
    assert out.splitlines()[-1].startswith("10 of 10 ")


def test_what_fails_is_not_packed_but_by_force(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(check_submission, "PROJECT", folder)
    path = tmp_path / "x.zip"
    flags = ["--model", "AE", "--output-root", folder, "--flowers", tmp_path / "nowhere", "--zip", path]
    with pytest.raises(UserError, match="13 of 13 .*--force"):
        check_submission.main([str(flag) for flag in flags])
    assert not path.exists()
    with pytest.raises(UserError, match="13 of 13 "):
        check_submission.main([str(flag) for flag in [*flags, "--force"]])
    assert zipfile.is_zipfile(path)
    lines = capsys.readouterr().out.splitlines()
    assert ["0.0", "main.py"] in [line.split() for line in lines]  # KiB
    assert lines[-1].endswith(": MLPAE, VAE, MNIST_AE, MNIST_VAE, MNIST_CVAE")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--force"], "--force.*--zip"),
        (["--zip", "hand-in"], "--zip.*NAME.zip.*hand-in"),
        (["--zip", "no/where/x.zip"], "--zip.*no/where$"),
        (["--zip", "x.zip", "--output-root", "elsewhere"], "--output-root.*--zip"),
        (["--model", "GAN"], "--model.*found GAN"),
        (["--csv", "marks.csv"], "--csv.*--hand-ins"),
        (["--hand-ins", "no/where"], "--hand-ins: there is no folder no/where"),
        (["--hand-ins", ".", "--json"], "--json: not together with --hand-ins"),
        (["--model", "AE", "--retrain", "VAE"], "--retrain.*--model"),
    ],
)
def test_wrong_arguments_are_status_2(flags, words, capsys):
    with pytest.raises(SystemExit) as exit_:
        check_submission.parse_args(flags)
    assert exit_.value.code == 2
    assert re.search(words, capsys.readouterr().err.splitlines()[-1])


def test_each_failure_is_printed_once_in_lines_that_fit(tmp_path, capsys):
    root = hand_in(tmp_path / "a folder with as long a name as students give to what they hand in", "MLPAE")
    (root / "log" / "train_MLPAE.txt").unlink()
    with pytest.raises(UserError, match="^8 of 10 checks fail$"):
        check_submission.main(["--model", "mlpae", "--output-root", str(root), "--flowers", str(tmp_path / "nowhere")])
    printed = capsys.readouterr().out
    assert " ".join(printed.split()).count("missing; train again and keep what it prints, `python MLPAE_train") == 1
    assert max(map(len, printed.splitlines())) <= 120


def test_a_folder_that_does_not_exist_is_one_line(tmp_path):
    with pytest.raises(UserError, match="^there is no folder .*nowhere: expected one with models/, vis/ and log/$"):
        check_submission.main(["--output-root", str(tmp_path / "nowhere")])


def test_the_weights_that_the_project_ships_are_recognised(tmp_path):
    scripts = SCRIPTS._replace(run=Mock(side_effect=UserError("no script is run")))
    for name, fingerprint in submission.SHIPPED.items():
        root = hand_in(tmp_path, name)
        first = submission.check_model(name, root, {}, scripts)[0]
        assert first.found.endswith("; these weights come with the project")
        assert models.fingerprint(load_model(name, root)[0]) == fingerprint
    model, _ = load_model("AE", tmp_path)
    model.decoder[9].bias.data[0] += 1e-6
    assert models.fingerprint(model) != submission.SHIPPED["AE"]


@pytest.fixture(scope="module")
def trained_mlpae(tiny_flowers, tmp_path_factory):
    """The checkpoint of twelve epochs of the perceptron on few photographs, with seed 3."""
    root = tmp_path_factory.mktemp("mlpae")
    logged(MLPAE_train_script.main, "--data-root", tiny_flowers, "--output-root", root, "--epochs", 12, "--seed", 3)
    return best_checkpoint(root, "MLPAE")


@pytest.mark.parametrize(
    ("change", "passed", "words"),
    [
        ({}, True, "validation loss .* in 12 epochs, claimed "),
        ({"valid_loss": 0.01}, False, "validation loss .* in 12 epochs, claimed 0.01$"),
        ({"settings": {"batch_size": 16, "lr": 1e-4, "seed": 3}}, False, "claimed"),
        ({"settings": {"batch_size": "many"}}, False, "settings are none that the script takes: .*--batch-size=many"),
        ({"settings": {"lr": 1e300}}, False, "the loss is nan"),
        ({"settings": {"epochs": 10**12}}, False, "more than 1000 epochs"),
        ({"settings": {"processes": 2}}, False, "several processes"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's
def test_a_training_anew_shows_whether_settings_give_the_loss(change, passed, words, trained_mlpae, tiny_flowers):
    run_command = partial(check_submission.run_command, SimpleNamespace(flowers=str(tiny_flowers), mnist=None))
    found = submission.check_retrained("MLPAE", {**trained_mlpae, **change}, run_command)
    assert found["trained anew"][0] is passed
    assert re.search(words, found["trained anew"][1])
