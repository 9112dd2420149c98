"""A class of hand-ins: broken ones and hostile ones."""

import csv
import os
import re
import shutil
import stat
import zipfile

import pytest
from helpers import files_below

from common import UserError
from grading import __main__ as grading
from grading import marks
from grading.archives import MAX_FILE, collect
from grading.checks import Row, plan
from grading.marks import COLUMNS, count_points, find_fingerprints, find_hand_ins, grade, grade_all, name_copies
from trained.loading import fingerprint, load_model

pytestmark = pytest.mark.xdist_group("grading")

# ---------------------------------------------------------------- archives


@pytest.fixture
def files():
    """{name: bytes} of a hand-in, with names that lead out of it."""
    names = ["Ann/models/BestModel_AE.pth", "Ann\\log\\train_AE.txt", "Ann/old/models/BestModel_AE.pth", "Ann/main.py"]
    return {name: name.encode() for name in [*names, "../../evil", "/tmp/evil", "Ann/../../log/train_AE.txt"]}


WANTED = ["models/BestModel_AE.pth", "log/train_AE.txt", "vis/train_AE.png"]
COLLECTED = {"models/BestModel_AE.pth": b"Ann/models/BestModel_AE.pth", "log/train_AE.txt": b"Ann\\log\\train_AE.txt"}


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
        assert files_below(tmp_path / "new") == COLLECTED
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
    assert (row["flowers 3"], row["checks passed"], weights) == ("0", "0", {})


# ---------------------------------------------------------------- a class


def fail(root):
    raise TypeError("unforeseen")


def end_process(root):
    os._exit(1)


def test_one_that_cannot_be_graded_does_not_cost_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(marks, "MAX_WORKERS", 1)
    (tmp_path / "Ann" / "log").mkdir(parents=True)
    (tmp_path / "Ann" / "log" / "train_AE.txt").write_text("a log")
    (tmp_path / "Bob").mkdir()
    row, _ = grade(["MLPAE"], fail, tmp_path / "Ann")
    assert row["what fails"] == "it could not be graded (TypeError: unforeseen)"
    first, second = grade_all(find_hand_ins(tmp_path), ["MLPAE"], end_process)
    assert (first["hand-in"], first["checks passed"], second["hand-in"]) == ("Ann", "0", "Bob")
    assert "process was ended" in first["what fails"]
    assert "holds no models/" in second["what fails"]


def test_the_points_of_a_part_are_the_share_of_its_checks_that_pass():
    points = count_points([Row("AE", str(number), "", number < 3, "too large") for number in range(4)])
    assert (points["flowers 3"], points["flowers 4"], points["checks passed"]) == ("5.625", "0", "3 of 4")
    assert points["what fails"] == "AE, 3: too large"


def test_the_weights_of_another_are_recognised_bit_by_bit(handed_in):
    own = find_fingerprints(["MLPAE", "AE", "MNIST_VAE"], handed_in)
    assert own.keys() == {"MLPAE", "AE"}
    model, _ = load_model("AE", handed_in)
    model.decoder[9].bias.data[0] += 1e-6
    weights = [
        ("the project", {"AE": fingerprint(model)}),
        ("Ann", own),
        ("Bob", {"AE": own["AE"]}),
        ("Cleo", dict(own)),
    ]
    assert name_copies(own, weights) == "Bob (AE); Cleo (MLPAE, AE)"


def test_a_class_at_once(hand_in, roots, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "class"
    project = hand_in("MLPAE", root=tmp_path / "project")
    hand_in("MLPAE", root=folder / "Ann")
    log = hand_in("MLPAE", root=folder / "=Bob") / "log" / "train_MLPAE.txt"
    log.write_text(log.read_text().replace("lr 1.0", "lr 1.5"))
    with zipfile.ZipFile(folder / "花.zip", "w") as archive:
        for file in plan("MLPAE"):
            if "/" in file:
                archive.write(folder / "Ann" / file, f"my project/{file}")
    (folder / "Dan.rar").write_text("Rar!")
    monkeypatch.setattr(marks, "PROJECT", project)
    monkeypatch.setattr(marks, "MAX_WORKERS", 1)
    before = files_below(tmp_path)
    argv = ["--hand-ins", folder, "--csv", tmp_path / "marks.csv", "--model", "MLPAE", "--flowers", roots["flowers"]]
    grading.main(list(map(str, argv)))
    with open(tmp_path / "marks.csv", encoding="utf-8-sig", newline="") as file:
        rows = {row["hand-in"]: row for row in csv.DictReader(file)}
    assert {*files_below(tmp_path)} - {*before} == {"marks.csv"}
    assert list(rows) == ["'=Bob", "Ann", "Dan.rar", "花.zip"]  # no formula
    assert list(rows["Ann"]) == list(COLUMNS)
    for name in ("Ann", "花.zip"):  # whose losses are those claimed, but too high
        assert (rows[name]["flowers 1"], rows[name]["flowers 2"], rows[name]["flowers 3"]) == ("4.167", "10", "0")
        assert rows[name]["checks passed"] == "8 of 10"
        assert re.fullmatch("MLPAE, train loss: .*; MLPAE, valid loss: .*", rows[name]["what fails"])
    assert (rows["'=Bob"]["flowers 1"], rows["'=Bob"]["flowers 2"]) == ("4.167", "8.75")
    assert "MLPAE, log/train_MLPAE.txt: of another run, cut or edited: " in rows["'=Bob"]["what fails"]
    assert 'it says "lr 1.5"' in rows["'=Bob"]["what fails"]
    assert rows["Dan.rar"]["what fails"].startswith("neither a folder nor a zip archive")
    assert rows["Ann"]["same weights as"] == "the project (MLPAE); =Bob (MLPAE); 花.zip (MLPAE)"
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 120


def test_a_class_without_hand_ins_or_photographs_is_one_line(tmp_path):
    with pytest.raises(UserError, match="expected a folder or a zip archive for each hand-in"):
        grading.main(["--hand-ins", str(tmp_path)])
    (tmp_path / "Ann").mkdir()
    argv = ["--hand-ins", tmp_path, "--model", "MLPAE", "--flowers", tmp_path / "nowhere"]
    with pytest.raises(UserError, match="nowhere is not a folder.*--flowers"):
        grading.main(list(map(str, argv)))
