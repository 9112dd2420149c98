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
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from conftest import REAL_FLOWERS, logged, needs_flowers, needs_mnist, skip_if_changed
from PIL import Image, PngImagePlugin

import check_submission
import data
import main
import MLPAE_train_script
import model
import visualization
from Autoencoder import Autoencoder
from check_submission import TASKS, pack, pictures
from trained import load_model
from training import PROJECT, UserError, epoch_line, last_line, load_checkpoint, save_checkpoint

UNGRADED = "GAN|DDPM|Classifier|score|gmm|^samplers_|^interpolation_|^nearest_|^generation_"  # beside the six models


@pytest.fixture(scope="module", autouse=True)
def _photographs_are_decoded_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "create_flower_dataloaders", functools.cache(data.create_flower_dataloaders))
        yield


def weights_of(root, name):
    return root / "models" / f"BestModel_{name}{'.pkl' if name == 'MLPAE' else '.pth'}"


def hand_in(root, *models):
    """Copy what is committed of these models below root; returns root."""
    skip_if_changed()
    for name in models:
        shown = [f"vis/{picture}" for picture, *_ in pictures(name, "")]
        for file in (weights_of(PROJECT, name).relative_to(PROJECT), f"log/train_{name}.txt", *shown):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / file, root / file)
    return root


def check(root, *models, flags=()):
    """{check: what is wrong} of the models below root; the last one's where they share a check."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            check_submission.main(["--output-root", str(root), "--json", "--model", *models, *map(str, flags)])
            passed = True
        except UserError as error:
            assert "checks fail" in str(error)
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
    log.write_text("\n".join([*others[:3], *lines, *others[3:], last_line(checkpoint, path.name)]))


@pytest.fixture(scope="module")
def report():
    """What --json says of the committed results."""
    skip_if_changed()
    _, lines = logged(check_submission.main, "--json")
    return json.loads("".join(lines))


@needs_flowers
@needs_mnist
def test_the_committed_results_pass(report):
    assert report["passed"] is True
    assert {row["model"] for row in report["checks"]} == set(TASKS)
    assert all(row["passed"] is True for row in report["checks"])


def test_the_committed_results_are_small():
    skip_if_changed()
    results = [path for folder in ("models", "vis", "log") for path in (PROJECT / folder).iterdir()]
    sizes = {path.name: path.stat().st_size for path in results if not path.name.startswith("LastModel_")}
    of_the_six = [size for name, size in sizes.items() if not re.search(UNGRADED, name)]
    assert len(of_the_six) >= 6 + 28 + 6  # models, pictures and logs
    assert sum(of_the_six) < 30 * 2**20
    assert max(sizes.values()) < 10 * 2**20


@needs_flowers
def test_the_table_and_the_ledger_are_printed(tmp_path):
    _, lines = logged(
        check_submission.main, "--model", "MLPAE", "--ledger", "--output-root", hand_in(tmp_path, "MLPAE")
    )
    assert lines[0].split() == ["model", "check", "target", "result", "found"]
    assert lines[2].split()[:7] == ["MLPAE", "models/BestModel_MLPAE.pkl", "the", "best", "of", "its", "run"]
    assert sum("  pass  " in line for line in lines) == 10
    assert any(line.split()[:4] == ["MLPAE", "valid", "squared", "error"] for line in lines)
    assert lines[-1] == "10 of 10 checks pass"


# ---------------------------------------------------------------- what must fail, each in its own row


@needs_flowers
@pytest.mark.parametrize("name", ["MLPAE", "VAE"])
def test_a_missing_file_fails_alone(name, tmp_path):
    root = hand_in(tmp_path, name)
    (root / "vis" / f"valid_{name}.png").unlink()
    (root / "log" / f"train_{name}.txt").unlink()
    failed = check(root, name)
    assert failed.keys() == {f"vis/valid_{name}.png", f"log/train_{name}.txt"}
    assert (
        f"missing; draw it with `python visualization.py --model {name} --output-root"
        in failed[f"vis/valid_{name}.png"]
    )
    script = {"MLPAE": "MLPAE_train_script.py", "VAE": "train_script.py --model VAE"}[name]
    command = f'`python {script} --output-root "{root}" > "{root}/log/train_{name}.txt"`'
    assert failed[f"log/train_{name}.txt"] == f"missing; train again and keep what it prints, {command}"


def paint(path, pixels):
    """Another picture with the title of the one that it takes the place of."""
    with Image.open(path) as image:
        title = PngImagePlugin.PngInfo()
        title.add_text("Title", image.text["Title"])
    Image.fromarray(pixels.astype(np.uint8)).save(path, pnginfo=title)


def blank(path):
    paint(path, np.full((600, 600), 255))


def nearly_white(path):
    paint(path, np.where(np.arange(600 * 600).reshape(600, 600) % 10, 255, 254))


def of_two_pixels(path):
    paint(path, np.array([[0, 255]]))


def of_the_other_split(path):
    shutil.copy(path.with_name("train_MLPAE.png"), path)


def of_another_model(path):
    shutil.copy(PROJECT / "vis" / "valid_VAE.png", path)


def of_another_run(path):
    with Image.open(path) as image:
        title = PngImagePlugin.PngInfo()
        title.add_text("Title", image.text["Title"].replace("validation loss 0.00", "validation loss 0.01"))
        image.save(path, pnginfo=title)


def without_a_title(path):
    with Image.open(path) as image:
        image.load()
        Image.fromarray(np.asarray(image)).save(path)


def cut(path):
    path.write_bytes(path.read_bytes()[:2000])


def of_text(path):
    path.write_text("a picture")


@needs_flowers
@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (blank, "blank, or hardly anything in it; draw it"),
        (of_two_pixels, "blank, or hardly anything in it; draw it"),
        (nearly_white, "blank, or hardly anything in it; draw it"),
        (of_the_other_split, "of another model or run: it says"),
        (of_another_model, "of another model or run: it says"),
        (of_another_run, "of another model or run: it says"),
        (without_a_title, 'of another model or run: it says "no title"'),
        (cut, "not a PNG that can be read"),
        (of_text, "not a PNG that can be read"),
    ],
)
def test_a_wrong_picture_fails_alone(tamper, reason, tmp_path):
    root = hand_in(tmp_path, "MLPAE")
    tamper(root / "vis" / "valid_MLPAE.png")
    failed = check(root, "MLPAE")
    assert failed.keys() == {"vis/valid_MLPAE.png"}
    assert failed["vis/valid_MLPAE.png"].startswith(reason)


@needs_flowers
@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (": 0.009019 *", ": 0.008019 *", "1 of 100 epochs differ from the checkpoint's, the first in Epoch: 100: "),
        ("Epoch: 3, Train Loss: 0.0", "Epoch: 3, Train Loss: 0.00", "the first in Epoch: 3: Train Loss: 0.00"),
        (
            "Best Valid Loss: 0.00",
            "Best Valid Loss: 0.000",
            'its last line is not "Best Valid Loss: 0.009019 (epoch 100)',
        ),
        ("Best Valid Loss", "", 'its last line is not "Best Valid Loss: 0.009019 (epoch 100)'),
        ("AE.pkl\n", "AE.pkl\nTraceback\n", 'its last line is not "Best Valid Loss: 0.009019 (epoch 100)'),
        ("lr 1.0", "lr 0.1", 'it does not say "lr 1.0"'),
        ("2588 images", "258 images", 'it does not say "2588 images of "'),
        (
            "Data: ",
            "Epoch: 1, Train Loss: 0.046377, Valid Loss: 0.035244 *\nData: ",
            "of several runs, perhaps written with >>",
        ),
        ("fingerprint 40", "fingerprint 41", 'it does not say "fingerprint 40'),
        ("Epoch: 100,", "epoch 100", "99 epochs, but the checkpoint's run had 100"),
        (" *\n", "\n", "of 100 epochs differ"),
    ],
)
def test_an_edited_log_fails_alone(old, new, reason, tmp_path):
    root = hand_in(tmp_path, "MLPAE")
    log = root / "log" / "train_MLPAE.txt"
    assert old in log.read_text()
    log.write_text(log.read_text().replace(old, new))
    failed = check(root, "MLPAE")
    assert failed.keys() == {"log/train_MLPAE.txt"}
    assert reason in failed["log/train_MLPAE.txt"]


@needs_flowers
def test_a_log_of_another_run_fails_alone(tmp_path):
    root = hand_in(tmp_path / "a", "MLPAE")
    _, log = logged(MLPAE_train_script.main, "--epochs", 2, "--seed", 1, "--output-root", tmp_path / "b")
    (root / "log" / "train_MLPAE.txt").write_text("\n".join(log))
    failed = check(root, "MLPAE")
    assert failed.keys() == {"log/train_MLPAE.txt"}
    assert failed["log/train_MLPAE.txt"].startswith("of another run, or edited: 2 of 100 epochs differ")


@needs_flowers
def test_logs_as_windows_redirects_them_pass(tmp_path):
    root = hand_in(tmp_path, "MLPAE")
    log = root / "log" / "train_MLPAE.txt"
    log.write_bytes(log.read_text().replace("\n", "\r\n").encode("utf-16"))
    assert check(root, "MLPAE") == {}


def slightly_other_weights(checkpoint):
    checkpoint["state_dict"]["decoder.9.bias"] += 0.01


def a_better_loss(checkpoint):
    checkpoint["valid_loss"] = checkpoint["history"][-1]["valid_loss"] = 0.005


def a_better_train_loss(checkpoint):
    checkpoint["train_loss"] = checkpoint["history"][-1]["train_loss"] = 0.005


@needs_flowers
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (slightly_other_weights, "they give a validation loss of 0.00716"),
        (a_better_loss, "they give a validation loss of 0.00716347, but 0.005 is claimed"),
        (a_better_train_loss, "they give a train loss of 0.00604"),
    ],
)
def test_weights_that_do_not_give_the_losses_claimed_fail(change, reason, tmp_path):
    root = hand_in(tmp_path, "MLPAE", "AE")
    rewrite_run(root, "AE", change)
    failed = check(root, "AE")
    assert failed["weights"].startswith(reason)
    assert not any(row.startswith(("log", "models", "layers", "epochs", "data")) for row in failed)


def another_epoch(checkpoint):
    checkpoint["epoch"] = 3


def later_epochs(checkpoint):
    checkpoint["epoch"] += 45
    checkpoint["history"] = [{**row, "epoch": row["epoch"] + 45} for row in checkpoint["history"]]


def weights_that_are_no_numbers(checkpoint):
    checkpoint["state_dict"]["decoder.9.bias"] *= math.nan


def a_loss_of_nan(checkpoint):
    checkpoint["history"][3]["valid_loss"] = math.nan


def a_loss_that_is_a_tensor(checkpoint):
    checkpoint["train_loss"] = checkpoint["history"][-1]["train_loss"] = torch.tensor(0.005)


def a_weight_of_the_kl_that_hides_the_errors(checkpoint):
    checkpoint["settings"]["beta"] = -1e9


@needs_flowers
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (another_epoch, "it claims to be epoch 3, its history's best is epoch 15"),
        (later_epochs, "its history counts the epochs [46, 47,"),
        (weights_that_are_no_numbers, "its weights are not finite"),
        (a_loss_of_nan, "it holds a number that is none"),
        (a_loss_that_is_a_tensor, "is not a readable checkpoint of this project (ValueError: it holds a Tensor"),
        (a_weight_of_the_kl_that_hides_the_errors, "it was trained with --beta -1000000000.0"),
    ],
)
def test_claims_that_cannot_be_fail(change, reason, tmp_path):
    root = hand_in(tmp_path, "MLPAE", "AE")
    rewrite_run(root, "AE", change)
    failed = check(root, "AE")
    assert failed.keys() == {"models/BestModel_AE.pth"}
    assert reason in failed["models/BestModel_AE.pth"]


@needs_flowers
def test_no_setting_of_a_checkpoint_changes_the_unit_of_its_target(tmp_path):
    def brighter(checkpoint):
        checkpoint["settings"]["recon"] = "bce"
        checkpoint["state_dict"]["decoder.9.bias"] += 1

    root = hand_in(tmp_path, "MLPAE", "AE")
    rewrite_run(root, "AE", brighter)
    assert {"train loss", "valid loss", "both losses"} <= check(root, "AE").keys()


@needs_flowers
def test_sampled_losses_are_compared_too(tmp_path):
    def another_vae(checkpoint):
        checkpoint["state_dict"]["log_var.bias"] += 0.01

    root = hand_in(tmp_path, "VAE")
    rewrite_run(root, "VAE", another_vae)
    assert check(root, "VAE").keys() == {"weights"}  # the KL tells, the losses still reach the targets


@needs_flowers
def test_another_code_fails(tmp_path):
    def wider(checkpoint):
        torch.manual_seed(0)
        checkpoint["config"]["encoding_dim"] = 128
        checkpoint["state_dict"] = Autoencoder(128).state_dict()

    root = hand_in(tmp_path, "MLPAE", "AE")
    rewrite_run(root, "AE", wider)
    failed = check(root, "AE")
    assert "-> 128x6x6 -> 128 -> 128x6x6 ->" in failed["layers"]
    assert "expected 3x24x24 -> 32x12x12 -> 64x6x6 -> 128x6x6 -> 64 -> " in failed["layers"]
    assert not any(row.startswith(("log", "models", "epochs", "data")) for row in failed)


@needs_flowers
def test_a_training_that_took_too_long_fails_alone(tmp_path):
    def longer(checkpoint):
        last = checkpoint["history"][-1]
        checkpoint["history"] += [{**last, "epoch": epoch, "valid_loss": 750.0} for epoch in range(21, 26)]

    root = hand_in(tmp_path, "VAE")
    rewrite_run(root, "VAE", longer)
    assert check(root, "VAE") == {"epochs": "25"}


@needs_flowers
def test_an_ae_must_beat_the_perceptron(tmp_path):
    root = hand_in(tmp_path, "MLPAE", "AE")
    weights_of(root, "MLPAE").unlink()
    assert check(root, "AE") == {"both losses": "those of MLPAE could not be computed"}
    shutil.copy(weights_of(PROJECT, "VAE"), weights_of(root, "VAE"))
    vae, _ = load_model("VAE", root)

    def blurred(checkpoint):  # the VAE's layers fit, and its pictures are worse than the perceptron's
        checkpoint["state_dict"] = {k: v for k, v in vae.state_dict().items() if not k.startswith("log_var")}

    hand_in(root, "MLPAE")
    rewrite_run(root, "AE", blurred)
    failed = check(root, "AE")
    assert {"weights", "train loss", "valid loss", "both losses"} <= failed.keys()
    assert "against 0.009019" in failed["both losses"]


def test_the_stand_in_is_not_a_pass(tmp_path):
    _, log = logged(MLPAE_train_script.main, "--data", "synthetic", "--epochs", 1, "--output-root", tmp_path)
    visualization.main(["--model", "MLPAE", "--data", "synthetic", "--output-root", str(tmp_path)])
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "train_MLPAE.txt").write_text("\n".join(log))
    failed = check(tmp_path, "MLPAE")
    assert failed.keys() == {"data"}
    assert failed["data"].startswith("trained on synthetic flowers at [24, 24], fingerprint ")
    assert failed["data"].endswith("a stand-in, not to hand in; train on the flowers with --data real")


@needs_flowers
def test_a_model_of_other_images_fails(tiny_flowers, tmp_path):
    root = hand_in(tmp_path, "MLPAE")
    failed = check(root, "MLPAE", flags=["--flowers", tiny_flowers])
    assert failed.keys() == {"data"}
    assert "fingerprint 409289a857b0fdfc, but here is flowers at [24, 24], fingerprint" in failed["data"]


def test_without_the_images_no_loss_is_believed(tmp_path):
    failed = check(hand_in(tmp_path, "MLPAE"), "MLPAE", flags=["--flowers", tmp_path / "nowhere"])
    assert failed.keys() == {"data"}
    assert failed["data"].endswith(
        "nowhere is not a folder: expected one with a sub-folder of images for each class (--flowers names the folder)"
    )


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("code that a checkpoint held was run",)


@pytest.mark.parametrize("name", TASKS)
def test_files_that_are_no_checkpoints_fail_and_run_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = hand_in(tmp_path, name)
    path = weights_of(root, name)
    whole = path.read_bytes()
    other = {"MLPAE": "AE"}.get(name, "MLPAE")
    for content in (whole[:100_000], b"", pickle.dumps(Hostile()), weights_of(PROJECT, other).read_bytes()):
        path.write_bytes(content)
        failed = check(root, name)
        assert failed.keys() == {f"models/{path.name}"}
        assert "is not a readable checkpoint" in failed[f"models/{path.name}"]
    torch.save({"model": name, "weights": Hostile()}, path)
    assert check(root, name).keys() == {f"models/{path.name}"}
    assert sorted(item.name for item in tmp_path.iterdir()) == ["log", "models", "vis"]


@needs_flowers
@pytest.mark.parametrize(
    ("change", "row"),
    [
        ({"seed": "one"}, "all of it"),
        ({"data": {}}, "models/BestModel_VAE.pth"),
        ({"history": []}, "models/BestModel_VAE.pth"),
        ({"settings": None}, "models/BestModel_VAE.pth"),
        ({"valid_kl": []}, "models/BestModel_VAE.pth"),
        ({"config": {"encoding_dim": "64"}}, "models/BestModel_VAE.pth"),
    ],
)
def test_a_checkpoint_of_odd_content_fails_without_a_traceback(change, row, tmp_path):
    root = hand_in(tmp_path, "VAE")
    path = weights_of(root, "VAE")
    save_checkpoint(path, {**load_checkpoint(path, made_by="test"), **change})
    assert row in check(root, "VAE")


def test_a_model_of_other_digits_fails(tiny_mnist, tmp_path):
    flags = ["--epochs", 1, "--data-root", tiny_mnist, "--output-root", tmp_path]
    _, log = logged(main.main, "--model", "CVAE", *flags)
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "train_MNIST_CVAE.txt").write_text("\n".join(log))
    failed = check(tmp_path, "MNIST_CVAE", flags=["--mnist", tiny_mnist])
    assert failed.keys() == {"data"}
    assert failed["data"].startswith("trained on MNIST-like images at [28, 28], fingerprint ")


@needs_mnist
def test_an_untrained_model_of_mnist_fails(tmp_path):
    def untrained(checkpoint):
        torch.manual_seed(0)
        checkpoint["config"] = {"hidden_size": 8, "latent_size": 2}
        checkpoint["state_dict"] = model.build_model("AE", 8, 2).state_dict()

    root = hand_in(tmp_path, "MNIST_AE")
    rewrite_run(root, "MNIST_AE", untrained)
    failed = check(root, "MNIST_AE")
    assert failed.keys() == {"weights", "test loss"}
    assert "squared error per image, the mean image's 52.9" in failed["test loss"]


# ---------------------------------------------------------------- the ledger


@needs_flowers
@needs_mnist
def test_the_ledger_of_the_flowers(report):
    found = report["ledger"]
    (_, valid), of = data.create_flower_dataloaders(256, data="real"), found["AE"]["valid"]
    images = valid.dataset[:][0]
    ae, checkpoint = load_model("AE", PROJECT)
    with torch.no_grad():
        errors = (ae(images) - images).double().square()
    assert of["recon/pixel"] == pytest.approx(errors.mean().item(), rel=1e-5)
    assert of["recon"] == of["sum"] == pytest.approx(errors.sum().item() / len(images), rel=1e-5)
    assert of["recon x 16"] == pytest.approx(16 * errors.sum().item() / len(images), rel=1e-5)
    assert (of["KL"], of["bits/dim"]) == (None, None)
    assert of["the log's"] == pytest.approx(checkpoint["valid_loss"], rel=1e-5)
    of, (_, checkpoint) = found["VAE"]["valid"], load_model("VAE", PROJECT)
    assert of["recon"] == pytest.approx(checkpoint["valid_recon"], rel=1e-2)
    assert of["KL"] == pytest.approx(checkpoint["valid_kl"], rel=1e-4)
    assert of["sum x 16"] == pytest.approx(of["the log's"])
    assert of["sum x 16"] == pytest.approx(16 * (of["recon"] + of["KL"]))
    # a pixel's error e under the density N(0, 1/2) costs e^2 + ln(pi)/2 nats; there are 256 levels
    density = -torch.distributions.Normal(0.0, 0.5**0.5).log_prob(errors.new_zeros(())).item()
    nats = of["recon"] + 1728 * (density + math.log(256)) + of["KL"]
    assert of["bits/dim"] == pytest.approx(nats / 1728 / math.log(2))


@needs_flowers
@needs_mnist
def test_the_ledger_of_mnist(report):
    of = report["ledger"]["MNIST_VAE"]["valid"]
    assert of["recon is"] == "nats"
    assert of["sum"] == pytest.approx(of["the log's"])
    assert of["sum"] == pytest.approx(of["recon"] + of["KL"])
    assert of["recon/pixel"] == pytest.approx(of["recon"] / 784)
    assert of["bits/dim"] == pytest.approx((of["recon"] + of["KL"]) / 784 / math.log(2))


# ---------------------------------------------------------------- the archive


@pytest.fixture
def folder(tmp_path):
    """A project with all that is not to hand in."""
    root = tmp_path / "a project"
    for name in (
        *("README.md", "main.py", ".gitignore", ".ci/run", "models/BestModel_AE.pth", "log/train_AE.txt"),
        *(
            "models/LastModel_AE.pth",
            "models/.BestModel_AE.pth.7.tmp",
            "__pycache__/main.pyc",
            "tests/__pycache__/a.pyc",
        ),
        *(".git/HEAD", "flowers/rose/1.jpg", "mnist/MNIST/raw/images", "photos/rose/2.jpg", "old.zip"),
        *(".venv/pyvenv.cfg", ".venv/lib/torch.py", "my environment/pyvenv.cfg", "my environment/bin/python"),
        *(".pytest_cache/CACHEDIR.TAG", ".pytest_cache/v/cache"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "link to photos").symlink_to(root / "photos", target_is_directory=True)
    return root


def test_the_archive_holds_what_is_to_hand_in(folder):
    packed = pack(folder / "hand-in.zip", folder, [folder / "photos"])
    expected = [".ci/run", ".gitignore", "README.md", "log/train_AE.txt", "main.py", "models/BestModel_AE.pth"]
    assert list(packed) == expected
    with zipfile.ZipFile(folder / "hand-in.zip") as archive:
        assert archive.namelist() == [f"hand-in/{name}" for name in expected]
        assert archive.read("hand-in/main.py") == b"main.py"
    assert packed["main.py"] == len("main.py")


@needs_flowers
def test_the_archive_unpacks_to_a_folder_that_passes(tmp_path):
    skip_if_changed()
    path = tmp_path / "Jane Doe.zip"
    _, lines = logged(check_submission.main, "--model", "MLPAE", "--zip", path)
    assert "10 of 10 checks pass" in lines
    assert any(line.split() == [f"{size_of('check_submission.py'):.1f}", "check_submission.py"] for line in lines)
    assert lines[-1].endswith("not checked, but in it: AE, VAE, MNIST_AE, MNIST_VAE, MNIST_CVAE")
    with zipfile.ZipFile(path) as archive:
        assert not [info.filename for info in archive.infolist() if info.file_size > 10 * 2**20]
        assert not [name for name in archive.namelist() if name.lower().endswith((".jpg", ".jpeg", "ubyte"))]
        archive.extractall(tmp_path)
    command = [sys.executable, tmp_path / "Jane Doe" / "check_submission.py", "--flowers", REAL_FLOWERS]
    done = subprocess.run([*command, "--model", "MLPAE"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("10 of 10 checks pass\n")


def test_names_that_the_terminal_cannot_write_are_no_traceback(tmp_path):
    command = [sys.executable, PROJECT / "check_submission.py", "--model", "AE", "--output-root", tmp_path / "学生"]
    env = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="cp1252", env=env)
    assert done.returncode == 1
    assert "\\u5b66\\u751f" in done.stdout
    assert done.stderr == "error: 1 of 1 checks fail\n"


def size_of(name):
    return (PROJECT / name).stat().st_size / 1024


def test_what_fails_is_not_packed_but_by_force(tmp_path):
    skip_if_changed()
    path = tmp_path / "x.zip"
    flags = ["--model", "MLPAE", "--flowers", str(tmp_path / "nowhere"), "--zip", str(path)]
    with pytest.raises(UserError, match="1 of 6 checks fail; not packed, --force does it even so"):
        check_submission.main(flags)
    assert not path.exists()
    with pytest.raises(UserError, match="1 of 6 checks fail"):
        check_submission.main([*flags, "--force"])
    assert zipfile.is_zipfile(path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--force"], "there is nothing to force without --zip"),
        (["--zip", "hand-in"], "expected NAME.zip, found hand-in"),
        (["--zip", "no/where/x.zip"], "there is no folder no/where"),
        (["--zip", "x.zip", "--output-root", "elsewhere"], "--zip packs the project"),
        (["--model", "GAN"], "invalid choice: 'GAN'"),
    ],
)
def test_wrong_arguments_are_status_2(flags, message, capsys):
    with pytest.raises(SystemExit) as exit_:
        check_submission.main(flags)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
