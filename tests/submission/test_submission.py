"""check_submission.py on the committed results, and on what may be done to them."""

import contextlib
import functools
import io
import json
import math
import os
import pickle
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import REAL_FLOWERS, command, logged, needs_flowers, needs_mnist, run, skip_if_changed
from PIL import Image, PngImagePlugin

import check_submission
import main
import MLPAE_train_script
import model
import visualization
from Autoencoder import Autoencoder
from check_submission import pack
from data import create_flower_dataloaders
from datasets.synthetic import make_flowers
from evaluation.models import checkpoint_file, load_model, name_model
from evaluation.submission import FIGURES, TARGETS, check_files, problem_of_figure, problem_of_log
from training import PROJECT, UserError
from training.checkpoints import load_checkpoint, save_checkpoint
from training.loop import epoch_line, last_line

pytestmark = pytest.mark.xdist_group("submission")
UNGRADED = "GAN|DDPM|Classifier|score|gmm|^samplers_|^interpolation_|^nearest_|^generation_"  # beside the six models


@pytest.fixture(scope="module", autouse=True)
def _photographs_are_decoded_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check_submission, "create_flower_dataloaders", functools.cache(create_flower_dataloaders))
        yield


def weights_of(root, name):
    return root / "models" / checkpoint_file(name)


def hand_in(root, *models):
    """Copy what is committed of these models below root; returns root."""
    skip_if_changed()
    for name in models:
        files = [FIGURES[kind][0].format(name.removeprefix("MNIST_")) for kind in TARGETS[name].figures]
        for file in (f"models/{checkpoint_file(name)}", f"log/train_{name}.txt", *(f"vis/{file}" for file in files)):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / file, root / file)
    return root


def check(root, *models, flags=()):
    """{check: what is wrong} of the models below root; the last one's where they share a check."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            check_submission.main(["--output-root", str(root), "--json", "--model", *models, *map(str, flags)])
            passed = True
        except UserError:
            passed = False
    report = json.loads(printed.getvalue())
    assert report["passed"] == passed == all(row["passed"] for row in report["checks"])
    assert {row["model"] for row in report["checks"]} == set(models)
    return {row["check"]: row["found"] for row in report["checks"] if not row["passed"]}


def rewrite_run(root, name, change):
    """Change the checkpoint by change(checkpoint), and let the log agree with it."""
    path, log = weights_of(root, name), root / "log" / f"train_{name}.txt"
    checkpoint = load_checkpoint(path, made_by="test")
    change(checkpoint)
    save_checkpoint(path, checkpoint)
    history = checkpoint["history"]
    lines = [epoch_line(history[:epochs]) for epochs in range(1, len(history) + 1)]
    others = [line for line in log.read_text().splitlines()[:-1] if not line.startswith("Epoch")]
    log.write_text("\n".join([*others[:3], *lines, *others[3:], last_line(checkpoint, path.suffix)]))


@pytest.fixture(scope="session")
def report():
    """What --json says of the committed results."""
    skip_if_changed()
    _, lines = logged(check_submission.main, "--json")
    return json.loads("".join(lines))


@needs_flowers
@needs_mnist
def test_the_committed_results_pass(report):
    assert report["passed"] is True
    assert {row["model"] for row in report["checks"]} == set(TARGETS)
    assert all(row["passed"] is True for row in report["checks"])


def test_the_committed_results_are_small():
    skip_if_changed()
    results = [path for folder in ("models", "vis", "log") for path in (PROJECT / folder).iterdir()]
    sizes = {path.name: path.stat().st_size for path in results if not path.name.startswith("LastModel_")}
    of_the_six = [size for name, size in sizes.items() if not re.search(UNGRADED, name)]
    assert len(of_the_six) >= 6 + 28 + 6  # models, figures and logs
    assert sum(of_the_six) < 30 * 2**20
    assert max(sizes.values()) < 10 * 2**20


# ---------------------------------------------------------------- logs and figures


def with_title(path, change):
    """The same pixels with another title, None for none."""
    with Image.open(path) as image:
        image.load()
        title, pixels = image.text["Title"], Image.fromarray(np.asarray(image))
    text = PngImagePlugin.PngInfo()
    if change:
        text.add_text("Title", change(title))
    pixels.save(path, pnginfo=text)


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: shutil.copy(path.with_name("train_MLPAE.png"), path), "another model or run"),
        (lambda path: shutil.copy(PROJECT / "vis" / "valid_VAE.png", path), "another model or run"),
        (lambda path: with_title(path, lambda title: title.replace("loss 0.00", "loss 0.01")), "another model or run"),
        (lambda path: with_title(path, None), "no title"),
        (lambda path: path.write_bytes(path.read_bytes()[:2000]), "not a PNG"),
        (lambda path: path.write_text("a picture"), "not a PNG"),
    ],
)
def test_a_wrong_figure_fails_alone(tamper, reason, tmp_path):
    root = hand_in(tmp_path, "MLPAE")
    tamper(root / "vis" / "valid_MLPAE.png")
    _, checkpoint = load_model("MLPAE", root)
    failed = [row for row in check_files("MLPAE", root, checkpoint) if not row.passed]
    assert [row.check for row in failed] == ["vis/valid_MLPAE.png"]
    assert reason in failed[0].found
    assert f'visualization.py --model MLPAE --output-root "{root}"' in failed[0].found
    assert problem_of_figure(root / "vis" / "train_MLPAE.png", name_model(checkpoint), "train split of flowers\n") == ""


LAST = 'its last line is not "Best Valid Loss: 0.009019'
MLPAE_LOG = "log/train_MLPAE.txt"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (": 0.009019 *", ": 0.008019 *", "1 of 100 epochs differ from the checkpoint's, the first in Epoch: 100: "),
        ("Epoch: 3, Train Loss: 0.0", "Epoch: 3, Train Loss: 0.00", "the first in Epoch: 3: Train Loss: 0.00"),
        ("Best Valid Loss: 0.00", "Best Valid Loss: 0.000", LAST),
        ("Best Valid Loss", "", LAST),
        ("AE.pkl\n", "AE.pkl\nTraceback\n", LAST),
        ("lr 1.0", "lr 0.1", 'it does not say "lr 1.0"'),
        ("2588 images", "258 images", 'it does not say "2588 images of "'),
        ("Data: ", "Epoch: 1, Train Loss: 0.046377, Valid Loss: 0.035244 *\nData: ", "of several runs"),
        ("fingerprint 40", "fingerprint 41", 'it does not say "fingerprint 40'),
        ("Epoch: 100,", "epoch 100", "99 epochs, but the checkpoint's run had 100"),
        (" *\n", "\n", "of 100 epochs differ"),
    ],
)
def test_an_edited_log_is_named(old, new, reason, tmp_path):
    _, checkpoint = load_model("MLPAE", hand_in(tmp_path, "MLPAE"))
    log = tmp_path / MLPAE_LOG
    assert problem_of_log(log, checkpoint) == ""
    assert old in log.read_text()
    log.write_text(log.read_text().replace(old, new))
    assert reason in problem_of_log(log, checkpoint)


@needs_flowers
def test_a_log_of_another_run_is_named_and_one_of_windows_passes(tmp_path):
    _, checkpoint = load_model("MLPAE", hand_in(tmp_path / "a", "MLPAE"))
    log = tmp_path / "a" / MLPAE_LOG
    log.write_bytes(log.read_text().replace("\n", "\r\n").encode("utf-16"))
    assert problem_of_log(log, checkpoint) == ""
    _, lines = logged(MLPAE_train_script.main, "--epochs", 1, "--seed", 1, "--output-root", tmp_path / "b")
    log.write_text("\n".join(lines))
    assert "1 of 100 epochs differ" in problem_of_log(log, checkpoint)
    log.unlink()
    assert problem_of_log(log, checkpoint) == "missing"


# ---------------------------------------------------------------- checkpoints that claim what is not so


def bias(amount):
    def change(checkpoint):
        checkpoint["state_dict"]["decoder.9.bias"] += amount

    return change


def claim(key, value):
    def change(checkpoint):
        checkpoint[key] = checkpoint["history"][-1][key] = value

    return change


def wider(checkpoint):
    torch.manual_seed(0)
    checkpoint["config"]["encoding_dim"], checkpoint["state_dict"] = 128, Autoencoder(128).state_dict()


def brighter_in_other_units(checkpoint):
    checkpoint["settings"]["recon"] = "bce"
    bias(1)(checkpoint)


@needs_flowers
@pytest.mark.parametrize(
    ("change", "rows", "reason"),
    [
        (bias(0.01), {"weights"}, "they give a validation loss of 0.00716"),
        (claim("valid_loss", 0.005), {"weights"}, "of 0.00716347, but 0.005 is claimed"),
        (claim("train_loss", 0.005), {"weights"}, "they give a train loss of 0.00604"),
        (wider, {"layers", "weights"}, "they give a validation loss"),
        (brighter_in_other_units, {"weights", "train loss", "valid loss", "both losses"}, "they give"),
    ],
)
def test_weights_that_do_not_give_the_losses_claimed_fail(change, rows, reason, tmp_path):
    root = hand_in(tmp_path, "MLPAE", "AE")
    rewrite_run(root, "AE", change)
    failed = check(root, "AE")
    assert rows <= failed.keys()
    assert reason in failed["weights"]
    assert not any(row.startswith(("log", "models", "epochs", "data")) for row in failed)
    assert ("layers" in failed) == ("layers" in rows)


def later_epochs(checkpoint):
    checkpoint["epoch"] += 45
    checkpoint["history"] = [{**row, "epoch": row["epoch"] + 45} for row in checkpoint["history"]]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda checkpoint: checkpoint.update(epoch=3), "epoch 3.*epoch 15"),
        (later_epochs, r"\[46, 47,"),
        (bias(math.nan), "not finite"),
        (lambda checkpoint: checkpoint["history"][3].update(valid_loss=math.nan), "a number that is none"),
        (claim("train_loss", torch.tensor(0.005)), "it holds a Tensor"),
        (lambda checkpoint: checkpoint["settings"].update(beta=-1e9), "--beta -1000000000.0"),
        (lambda checkpoint: checkpoint.update(seed="one"), "seed"),
        (lambda checkpoint: checkpoint.update(data={}), "name"),
        (lambda checkpoint: checkpoint.update(settings=None), "settings"),
        (lambda checkpoint: checkpoint["config"].update(encoding_dim="64"), "encoding_dim"),
    ],
)
def test_claims_that_cannot_be_fail_in_one_row(change, reason, tmp_path):
    skip_if_changed()
    checkpoint = load_checkpoint(weights_of(PROJECT, "AE"), made_by="test")
    change(checkpoint)
    save_checkpoint(weights_of(tmp_path, "AE"), checkpoint)
    failed = check(tmp_path, "AE", flags=["--flowers", tmp_path / "nowhere"])
    assert failed.keys() == {"models/BestModel_AE.pth"}
    assert re.search(reason, failed["models/BestModel_AE.pth"])


@needs_flowers
def test_sampled_losses_and_epochs_are_compared_too(tmp_path):
    def another_vae(checkpoint):
        checkpoint["state_dict"]["log_var.bias"] += 0.01

    def longer(checkpoint):
        last = checkpoint["history"][-1]
        checkpoint["history"] += [{**last, "epoch": epoch, "valid_loss": 750.0} for epoch in range(21, 26)]

    rewrite_run(hand_in(tmp_path, "VAE"), "VAE", another_vae)
    assert check(tmp_path, "VAE").keys() == {"weights"}  # the KL tells, the losses still reach the targets
    rewrite_run(hand_in(tmp_path, "VAE"), "VAE", longer)
    assert check(tmp_path, "VAE") == {"epochs": "25"}


@needs_flowers
def test_an_ae_must_beat_the_perceptron(tmp_path):
    root = hand_in(tmp_path, "MLPAE", "AE")
    weights_of(root, "MLPAE").unlink()
    failed = check(root, "AE")
    assert failed.keys() == {"both losses"}
    assert "MLPAE" in failed["both losses"]


@needs_mnist
def test_an_untrained_model_of_mnist_fails(tmp_path):
    def untrained(checkpoint):
        torch.manual_seed(0)
        checkpoint["config"] = {"hidden_size": 8, "latent_size": 2}
        checkpoint["state_dict"] = model.build_model("AE", 8, 2).state_dict()

    rewrite_run(hand_in(tmp_path, "MNIST_AE"), "MNIST_AE", untrained)
    failed = check(tmp_path, "MNIST_AE")
    assert failed.keys() == {"weights", "test loss"}
    assert "the mean image's 52.9" in failed["test loss"]


# ---------------------------------------------------------------- other data, hostile files


def test_the_stand_in_is_not_a_pass(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.flowers.make_flowers", functools.partial(make_flowers, per_class=20))
    _, log = logged(MLPAE_train_script.main, "--data", "synthetic", "--epochs", 1, "--output-root", tmp_path)
    visualization.main(["--model", "MLPAE", "--data", "synthetic", "--output-root", str(tmp_path)])
    (tmp_path / "log").mkdir()
    (tmp_path / MLPAE_LOG).write_text("\n".join(log))
    failed = check(tmp_path, "MLPAE")
    assert failed.keys() == {"data"}
    assert re.match("trained on synthetic flowers .*stand-in.*--data real", failed["data"])


def test_a_model_of_other_images_or_without_images_fails(tiny_flowers, tmp_path):
    root = hand_in(tmp_path, "MLPAE")
    failed = check(root, "MLPAE", flags=["--flowers", tiny_flowers])
    assert failed.keys() == {"data"}
    assert "409289a857b0fdfc, but here is flowers" in failed["data"]
    failed = check(root, "MLPAE", flags=["--flowers", tmp_path / "nowhere"])
    assert failed.keys() == {"data"}
    assert re.search("nowhere is not a folder.*--flowers", failed["data"])


def test_a_model_of_other_digits_fails(tiny_mnist, tmp_path):
    flags = ["--epochs", 1, "--hidden-size", 16, "--data-root", tiny_mnist, "--output-root", tmp_path]
    _, log = logged(main.main, "--model", "CVAE", *flags)
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "train_MNIST_CVAE.txt").write_text("\n".join(log))
    failed = check(tmp_path, "MNIST_CVAE", flags=["--mnist", tiny_mnist])
    assert failed.keys() == {"data"}
    assert failed["data"].startswith("trained on MNIST-like images")


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("code that a checkpoint held was run",)


@pytest.mark.parametrize("name", ["MLPAE", "VAE", "MNIST_CVAE"])
def test_files_that_are_no_checkpoints_fail_and_run_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = weights_of(hand_in(tmp_path, name), name)
    other = weights_of(PROJECT, {"MLPAE": "AE"}.get(name, "MLPAE"))
    for content in (path.read_bytes()[:100_000], b"", pickle.dumps(Hostile()), other.read_bytes()):
        path.write_bytes(content)
        failed = check(tmp_path, name)
        assert failed.keys() == {f"models/{path.name}"}
        assert "is not a readable checkpoint" in failed[f"models/{path.name}"]
    torch.save({"model": name, "weights": Hostile()}, path)
    assert check(tmp_path, name).keys() == {f"models/{path.name}"}
    assert sorted(item.name for item in tmp_path.iterdir()) == ["log", "models", "vis"]


# ---------------------------------------------------------------- the ledger, the table, the archive


@needs_flowers
@needs_mnist
def test_the_ledger_against_the_definitions(report):
    found = report["ledger"]
    (_, valid), of = create_flower_dataloaders(256, data="real"), found["AE"]["valid"]
    images = valid.dataset[:][0]
    ae, checkpoint = load_model("AE", PROJECT)
    with torch.no_grad():
        errors = (ae(images) - images).double().square()
    assert of["recon/pixel"] == pytest.approx(errors.mean().item(), rel=1e-5)
    assert of["recon"] == of["sum"] == pytest.approx(errors.sum().item() / len(images), rel=1e-5)
    assert of["recon x 16"] == pytest.approx(16 * of["recon"])
    assert (of["KL"], of["bits/dim"]) == (None, None)
    assert of["the log's"] == pytest.approx(checkpoint["valid_loss"], rel=1e-5)
    of, (_, checkpoint) = found["VAE"]["valid"], load_model("VAE", PROJECT)
    assert of["recon"] == pytest.approx(checkpoint["valid_recon"], rel=1e-2)
    assert of["KL"] == pytest.approx(checkpoint["valid_kl"], rel=1e-4)
    assert of["sum x 16"] == pytest.approx(of["the log's"]) == pytest.approx(16 * (of["recon"] + of["KL"]))
    # a pixel's error e under the density N(0, 1/2) costs e^2 + ln(pi)/2 nats; there are 256 levels
    density = -torch.distributions.Normal(0.0, 0.5**0.5).log_prob(errors.new_zeros(())).item()
    nats = of["recon"] + 1728 * (density + math.log(256)) + of["KL"]
    assert of["bits/dim"] == pytest.approx(nats / 1728 / math.log(2))
    of = found["MNIST_VAE"]["valid"]
    assert of["recon is"] == "nats"
    assert of["sum"] == pytest.approx(of["the log's"]) == pytest.approx(of["recon"] + of["KL"])
    assert of["recon/pixel"] == pytest.approx(of["recon"] / 784)
    assert of["bits/dim"] == pytest.approx(of["sum"] / 784 / math.log(2))


@needs_flowers
def test_the_archive_unpacks_to_a_folder_that_passes(tmp_path):
    skip_if_changed()
    path = tmp_path / "Jane Doe.zip"
    _, lines = logged(check_submission.main, "--model", "MLPAE", "--ledger", "--zip", path)
    assert lines[0].split() == ["model", "check", "target", "result", "found"]
    assert sum("  pass  " in line for line in lines) == 10
    assert any(line.split()[:4] == ["MLPAE", "valid", "squared", "error"] for line in lines)
    size = (PROJECT / "check_submission.py").stat().st_size / 1024
    assert any(line.split() == [f"{size:.1f}", "check_submission.py"] for line in lines)
    assert lines[-1].endswith("AE, VAE, MNIST_AE, MNIST_VAE, MNIST_CVAE")
    with zipfile.ZipFile(path) as archive:
        assert not [info.filename for info in archive.infolist() if info.file_size > 10 * 2**20]
        assert not [name for name in archive.namelist() if name.lower().endswith((".jpg", ".jpeg", "ubyte"))]
        archive.extractall(tmp_path)
    argv = [*command(tmp_path / "Jane Doe" / "check_submission.py"), "--flowers", REAL_FLOWERS, "--model", "MLPAE"]
    status, out, errors = run(argv, cwd=tmp_path)
    assert (status, errors) == (0, "")
    assert out.endswith("10 of 10 checks pass\n")


def test_the_archive_holds_what_is_to_hand_in(tmp_path):
    root, wanted = tmp_path / "a project", [".ci/run", ".gitignore", "README.md", "log/train_AE.txt", "main.py"]
    wanted.append("models/BestModel_AE.pth")
    caches = [".venv/pyvenv.cfg", ".venv/lib/torch.py", "my environment/pyvenv.cfg", "my environment/bin/python"]
    caches += ["__pycache__/main.pyc", "tests/__pycache__/a.pyc", ".pytest_cache/CACHEDIR.TAG", ".pytest_cache/v/cache"]
    others = ["models/LastModel_AE.pth", "models/.BestModel_AE.pth.7.tmp", ".git/HEAD", "old.zip"]
    data = ["flowers/rose/1.jpg", "mnist/MNIST/raw/images", "photos/rose/2.jpg"]
    for name in (*wanted, *caches, *others, *data):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "link to photos").symlink_to(root / "photos", target_is_directory=True)
    packed = pack(root / "hand-in.zip", root, [root / "photos"])
    assert packed == {name: len(name) for name in wanted}
    with zipfile.ZipFile(root / "hand-in.zip") as archive:
        assert archive.namelist() == [f"hand-in/{name}" for name in wanted]
        assert archive.read("hand-in/main.py") == b"main.py"


def test_what_fails_is_not_packed_but_by_force(tmp_path):
    skip_if_changed()
    path = tmp_path / "x.zip"
    flags = ["--model", "MLPAE", "--flowers", str(tmp_path / "nowhere"), "--zip", str(path)]
    with pytest.raises(UserError, match="1 of 6 .*--force"):
        check_submission.main(flags)
    assert not path.exists()
    with pytest.raises(UserError, match="1 of 6"):
        check_submission.main([*flags, "--force"])
    assert zipfile.is_zipfile(path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--force"], "--zip"),
        (["--zip", "hand-in"], "hand-in"),
        (["--zip", "no/where/x.zip"], str(Path("no/where"))),
        (["--zip", "x.zip", "--output-root", "elsewhere"], "--output-root"),
        (["--model", "GAN"], "'GAN'"),
    ],
)
def test_wrong_arguments_are_status_2(flags, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        check_submission.main(flags)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
