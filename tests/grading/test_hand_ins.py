"""A class of hand-ins: tampered ones, broken ones and hostile ones."""

import csv
import os
import re
import shutil
import stat
import zipfile

import numpy as np
import pytest
from helpers import best_checkpoint, files_below, files_of, hand_in, needs_flowers, needs_mnist
from PIL import Image, PngImagePlugin

import check_submission
from evaluation.archives import MAX_FILE, collect
from evaluation.evidence import problem_of_log
from evaluation.marks import COLUMNS, find_hand_ins, grade, grade_all, share
from evaluation.submission import NOT_CHECKED, Row
from training import PROJECT, UserError

pytestmark = pytest.mark.xdist_group("submission")


# ---------------------------------------------------------------- tampered


def edit_log(name, old, new):
    """Tampering: an edited log."""

    def tamper(root):
        path = root / "log" / f"train_{name}.txt"
        text = re.sub(old, new, path.read_text())
        assert text != path.read_text()
        path.write_text(text)

    return tamper


def repaint(file, paint):
    """Tampering: a figure of other pixels with all that was stored beside them, as its title."""

    def tamper(root):
        path, entries = root / "vis" / file, PngImagePlugin.PngInfo()
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB")).copy()
            for key, text in image.text.items():
                entries.add_text(key, text)
        Image.fromarray(paint(pixels)).save(path, pnginfo=entries)

    return tamper


def noise(pixels):
    return np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8)


def swap_two_images(pixels):
    pixels[110:220, 20:120], pixels[230:340, 20:120] = pixels[230:340, 20:120].copy(), pixels[110:220, 20:120].copy()
    return pixels


@needs_flowers
@needs_mnist
@pytest.mark.parametrize(
    ("name", "tamper", "check", "words"),
    [
        (
            "MLPAE",
            edit_log("MLPAE", ", seed 0", ", seed 7"),
            "log/train_MLPAE.txt",
            'say "seed 7", the checkpoint "seed 0"',
        ),
        ("MLPAE", repaint("valid_MLPAE.png", noise), "vis/valid_MLPAE.png", r"[89]\d.*% of the pixels differ"),
        ("VAE", repaint("random_images_VAE.png", swap_two_images), "vis/random_images_VAE.png", r"\d% of the pixels"),
        (
            "MLPAE",
            repaint("train_MLPAE.png", lambda pixels: pixels[::2, ::2]),
            "vis/train_MLPAE.png",
            r"expected \(\d+, \d+",
        ),
        ("MNIST_AE", repaint("mnist_AE_samples.png", swap_two_images), "vis/mnist_AE_samples.png", "of the pixels"),
    ],
)
def test_a_tampered_hand_in_is_told_by_one_check(name, tamper, check, words, tmp_path):
    tamper(hand_in(tmp_path, name))
    rows = check_submission.check_hand_in(check_submission.parse_args(["--model", name]), tmp_path)
    failed = [row for row in rows if not row.passed and row.found != NOT_CHECKED]
    assert [row.check for row in failed] == [check]
    assert re.search(words, failed[0].found)


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("VAE", "seed 0, device", "seed 7, device", 'say "seed 7", the checkpoint "seed 0"'),
        ("AE", "lr 0.0015,", "lr 0.0025,", 'say "lr 0.0025", the checkpoint "lr 0.0015"'),
        ("AE", "optimizer adam", "optimizer sgd", 'say "optimizer sgd"'),
        ("AE", "schedule one-cycle, ", "", 'say "schedule None"'),
        ("VAE", "beta 1.0", "beta 0.1", 'say "beta 0.1"'),
        ("VAE", ", patience 20", "", "do not say epochs and patience"),
        ("VAE", "epochs 20", "epochs 30", 'say "epochs 30", the checkpoint "epochs 20"'),
        ("VAE", "amp False", "amp True", 'say "amp True"'),
        ("MNIST_CVAE", "beta 1.6", "beta 1.0", 'say "beta 1.0"'),
        ("MNIST_AE", "recon mse", "recon bce", 'say "recon bce"'),
        ("MNIST_AE", "recon mse", "recon mse, beta 1.0", 'say "beta 1.0", the checkpoint "beta None"'),
    ],
)
def test_each_setting_of_a_log_is_compared(name, old, new, words, tmp_path):
    root, checkpoint = hand_in(tmp_path, name), best_checkpoint(PROJECT, name)
    log = root / "log" / f"train_{name}.txt"
    assert problem_of_log(log, checkpoint) == ""
    edit_log(name, old, new)(root)
    assert words in problem_of_log(log, checkpoint)


# ---------------------------------------------------------------- archives


@pytest.fixture
def files(tmp_path):
    """{name: bytes} of a hand-in, with names that lead out of it."""
    names = ["Ann/models/BestModel_AE.pth", "Ann\\log\\train_AE.txt", "Ann/old/models/BestModel_AE.pth", "Ann/main.py"]
    return {name: name.encode() for name in [*names, "../../evil", "/tmp/evil", "Ann/../../log/train_AE.txt"]}


WANTED = ["models/BestModel_AE.pth", "log/train_AE.txt", "vis/train_AE.png"]
FOUND = {"models/BestModel_AE.pth": b"Ann/models/BestModel_AE.pth", "log/train_AE.txt": b"Ann\\log\\train_AE.txt"}


def test_of_a_folder_or_an_archive_the_wanted_files_alone_are_read(files, tmp_path):
    with zipfile.ZipFile(tmp_path / "ann.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        link = zipfile.ZipInfo("Ann/vis/train_AE.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    for name, data in files.items():
        if name.startswith("Ann") and ".." not in name:
            path = tmp_path / "folder" / name.replace("\\", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    (tmp_path / "folder" / "Ann" / "vis").mkdir()
    (tmp_path / "folder" / "Ann" / "vis" / "train_AE.png").symlink_to("/etc/passwd")
    before = files_below(tmp_path)
    for source in ("ann.zip", "folder"):
        collect(tmp_path / source, WANTED, tmp_path / "new")
        assert files_below(tmp_path / "new") == FOUND
        shutil.rmtree(tmp_path / "new")
        assert files_below(tmp_path) == before


@pytest.mark.parametrize(
    ("method", "words"),
    [(zipfile.ZIP_DEFLATED, "BestModel_AE.pth is larger than 64 MiB"), (zipfile.ZIP_BZIP2, "holds no models/")],
)
def test_a_bomb_is_not_unpacked(method, words, tmp_path):
    """Of bzip2 the library would unpack all at once."""
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", method) as archive:
        archive.writestr("models/BestModel_AE.pth", bytes(MAX_FILE + 1))
    assert (tmp_path / "bomb.zip").stat().st_size < 100_000
    with pytest.raises(UserError, match=words):
        collect(tmp_path / "bomb.zip", WANTED, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", ["text", "cut", "empty archive", "empty folder", "link"])
def test_what_holds_nothing_to_read_is_one_line(kind, tmp_path):
    path = tmp_path / "hand-in"
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as archive:
        archive.writestr("readme", "nothing")
    {
        "text": lambda: path.write_text("my homework"),
        "cut": lambda: path.write_bytes((tmp_path / "whole.zip").read_bytes()[:-9]),
        "empty archive": lambda: shutil.copy(tmp_path / "whole.zip", path),
        "empty folder": path.mkdir,
        "link": lambda: path.symlink_to(tmp_path),
    }[kind]()
    with pytest.raises(UserError, match="neither a folder nor a zip archive|holds no models/, vis/ and log/"):
        collect(path, WANTED, tmp_path / "new")
    row, weights = grade(["AE"], None, path)
    assert (row["flowers 3"], row["checks passed"], weights) == ("0", "0", [])


# ---------------------------------------------------------------- a class


def fail(root):
    raise TypeError("unforeseen")


def end_process(root):
    os._exit(1)


@pytest.mark.parametrize(
    ("check", "words"), [(fail, r"could not be graded \(TypeError"), (end_process, "process was ended")]
)
def test_one_that_ends_its_process_does_not_cost_the_others(check, words, tmp_path):
    hand_in(tmp_path / "Ann", "MLPAE")
    (tmp_path / "Bob").mkdir()
    first, second = grade_all(find_hand_ins(tmp_path), ["MLPAE"], check)
    assert (first["hand-in"], first["checks passed"], second["hand-in"]) == ("Ann", "0", "Bob")
    assert re.search(words, first["what fails"])
    assert "holds no models/" in second["what fails"]


def test_the_points_of_a_part_are_the_share_of_its_checks_that_pass():
    rows = [Row("AE", str(number), "", number < 3, "") for number in range(4)]
    assert share(rows, lambda row: row.model == "AE") == 0.75
    assert share(rows, lambda row: row.model == "VAE") == 0


@needs_flowers
def test_a_class_at_once(tmp_path, capsys):
    folder = tmp_path / "class"
    hand_in(folder / "Ann", "MLPAE")
    edit_log("MLPAE", "lr 1.0", "lr 1.5")(hand_in(folder / "=Bob", "MLPAE"))
    with zipfile.ZipFile(folder / "花.zip", "w") as archive:
        for file in files_of("MLPAE"):
            archive.write(folder / "Ann" / file, f"my project/{file}")
    (folder / "Dan.rar").write_text("Rar!")
    before = files_below(tmp_path)
    argv = ["--hand-ins", folder, "--csv", tmp_path / "marks.csv", "--model", "MLPAE"]
    check_submission.main(list(map(str, argv)))
    with open(tmp_path / "marks.csv", encoding="utf-8-sig", newline="") as file:
        rows = {row["hand-in"]: row for row in csv.DictReader(file)}
    assert {*files_below(tmp_path)} - {*before} == {"marks.csv"}
    assert list(rows) == ["'=Bob", "Ann", "Dan.rar", "花.zip"]  # no formula
    assert list(rows["Ann"]) == list(COLUMNS)
    for name in ("Ann", "花.zip"):
        assert (rows[name]["flowers 1"], rows[name]["flowers 2"], rows[name]["flowers 3"]) == ("12.5", "12.5", "0")
        assert (rows[name]["checks passed"], rows[name]["what fails"]) == ("10 of 10", "")
    assert (rows["'=Bob"]["flowers 1"], rows["'=Bob"]["flowers 2"]) == ("12.5", "11.25")
    assert (
        'MLPAE, log/train_MLPAE.txt: of another run, or edited: its settings say "lr 1.5"'
        in rows["'=Bob"]["what fails"]
    )
    assert rows["Dan.rar"]["what fails"].startswith("neither a folder nor a zip archive")
    assert rows["Ann"]["same weights as"] == "the project (MLPAE); =Bob (MLPAE); 花.zip (MLPAE)"
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 120


def test_a_class_without_hand_ins_or_photographs_is_one_line(tmp_path):
    with pytest.raises(UserError, match="is empty: expected a folder or a zip archive"):
        check_submission.main(["--hand-ins", str(tmp_path)])
    hand_in(tmp_path / "Ann", "MLPAE")
    argv = ["--hand-ins", tmp_path, "--model", "MLPAE", "--flowers", tmp_path / "nowhere"]
    with pytest.raises(UserError, match="nowhere is not a folder.*--flowers"):
        check_submission.main(list(map(str, argv)))
