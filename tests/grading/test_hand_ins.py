"""A class of hand-ins: honest ones in every wrapping, broken ones, copies in disguise."""

import contextlib
import csv
import io
import os
import re
import stat
import tarfile
import tempfile
import zipfile

import numpy as np
import pytest
import torch
from helpers import best_checkpoint, files_below

from Autoencoder import Autoencoder
from common import UserError
from common.checkpoints import save_checkpoint
from grading import __main__ as grading
from grading import marks
from grading.archives import MAX_DIRECTORY, MAX_FILE, collect, find_hand_ins
from grading.checks import Row, make_rows, plan
from grading.copies import find_groups, trace
from grading.feedback import in_chinese, in_english
from grading.marks import Grade, print_marks, retrain_some
from trained.registry import checkpoint_file

pytestmark = pytest.mark.xdist_group("grading")

# ---------------------------------------------------------------- wrappings

WANTED = ["models/BestModel_AE.pth", "log/train_AE.txt", "vis/train_AE.png"]
CONTENT = {file: f"of {file}".encode() for file in WANTED}


def write_folder(path, files):
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)


def write_zip(path, files, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def zipped(files):
    buffer = io.BytesIO()
    write_zip(buffer, files)
    return buffer.getvalue()


def write_tar(path, files, mode):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def renamed(rename):
    return {rename(file): data for file, data in CONTENT.items()}


def below(folder):
    return renamed(lambda file: f"{folder}/{file}")


def capitalised(file):
    return file.capitalize()


JUNK = {f"__MACOSX/x/{file}": b"resource fork" for file in WANTED}
GBK = "作业".encode("gbk").decode("cp437")
WRAPPINGS = {
    "a folder": lambda path: write_folder(path, CONTENT),
    "a nested folder": lambda path: write_folder(path, below("a/b") | {"a/main.py": b""}),
    "a Chinese name": lambda path: write_folder(path, below("作业")),
    "GBK.zip": lambda path: write_zip(path, below(GBK)),
    "macOS.zip": lambda path: write_zip(path, JUNK | below("x")),
    "Windows.zip": lambda path: write_zip(path, renamed(lambda file: file.replace("/", "\\"))),
    "model": lambda path: write_folder(path, renamed(lambda file: file.replace("models/", "model/"))),
    "Models": lambda path: write_folder(path, renamed(capitalised)),
    "flat": lambda path: write_folder(path, renamed(os.path.basename)),
    "an archive in a folder": lambda path: write_folder(path, {"作业.zip": zipped(below("x"))}),
    "an archive in an archive.zip": lambda path: write_zip(path, {"x/hw.zip": zipped(CONTENT)}),
    "a.tar.gz": lambda path: write_tar(path, below("x"), "w:gz"),
    "a.tar": lambda path: write_tar(path, CONTENT, "w"),
    "lzma.zip": lambda path: write_zip(path, CONTENT, zipfile.ZIP_LZMA),
    "an old copy.zip": lambda path: write_zip(path, {"replaced/AE_1/models/BestModel_AE.pth": b"old"} | CONTENT),
    "two folders": lambda path: write_folder(
        path, renamed(lambda file: f"flowers/{file}" if file[0] == "m" else f"b/{file}")
    ),
}


@pytest.mark.parametrize("name", WRAPPINGS)
def test_an_honest_wrapping_is_read(name, tmp_path):
    WRAPPINGS[name](tmp_path / name)
    before = files_below(tmp_path / name) if (tmp_path / name).is_dir() else (tmp_path / name).read_bytes()
    assert collect(tmp_path / name, WANTED, tmp_path / "new") == {}
    assert files_below(tmp_path / "new") == CONTENT
    assert before == (files_below(tmp_path / name) if (tmp_path / name).is_dir() else (tmp_path / name).read_bytes())


@pytest.mark.parametrize(("kind", "words"), [("damaged", "CRC"), ("encrypted", "it is encrypted"), ("deflate64", "")])
def test_a_damaged_entry_costs_itself_alone(kind, words, tmp_path):
    path = tmp_path / "a.zip"
    write_zip(path, CONTENT, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    local = data.index(b"log/") - 30
    central = data.rindex(b"log/") - 46
    if kind == "damaged":
        data[data.index(CONTENT["log/train_AE.txt"])] ^= 1
    else:
        offsets, value = ((6, 8), 1) if kind == "encrypted" else ((8, 10), 9)
        data[local + offsets[0]] = value
        data[central + offsets[1]] = value
    path.write_bytes(data)
    problems = collect(path, WANTED, tmp_path / "new")
    assert list(problems) == ["log/train_AE.txt"]
    assert re.search(f"cannot be read: .*{words}", problems["log/train_AE.txt"])
    assert set(files_below(tmp_path / "new")) == {*WANTED} - {"log/train_AE.txt"}


def make_link_to_archive(path):
    write_zip(path.with_name("elsewhere"), CONTENT)
    path.symlink_to("elsewhere")


def make_archive_of_links(path):
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("log/train_AE.txt")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")


def make_tar_of_links(path):
    with tarfile.open(path, "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            entry = tarfile.TarInfo("log/train_AE.txt")
            entry.type = kind
            entry.linkname = "/etc/passwd"
            archive.addfile(entry)


def make_folder_of_links(path):
    (path / "log").mkdir(parents=True)
    (path / "log" / "train_AE.txt").symlink_to("/etc/passwd")
    os.mkfifo(path / "train_AE.txt")


def make_many_entries(path):
    path.write_bytes(zipped({})[:12] + (MAX_DIRECTORY + 1).to_bytes(4, "little") + bytes(6))


NOTHING = {
    "text.zip": (lambda path: path.write_text("my homework"), "no archive that can be read"),
    "cut.zip": (lambda path: path.write_bytes(zipped(CONTENT)[:-9]), "no archive that can be read"),
    "x.rar": (lambda path: path.write_bytes(b"Rar!\x1a\7\0"), ".rar is not supported: ask for a zip"),
    "7z called.zip": (lambda path: path.write_bytes(b"7z\xbc\xaf\x27\x1c"), ".7z is not supported"),
    "rar in a folder": (lambda path: write_folder(path, {"作业.rar": b"Rar!"}), "作业.rar inside it: .rar is not"),
    "empty folder": (lambda path: path.mkdir(), "holds 0 files"),
    "report": (lambda path: write_folder(path, {"report.docx": b""}), "holds 1 files, none with the name"),
    "link.zip": (make_link_to_archive, "a link or a device"),
    "pipe.zip": (os.mkfifo, "a link or a device"),
    "links.zip": (make_archive_of_links, "holds 0 files"),
    "links.tar": (make_tar_of_links, "holds 0 files"),
    "links": (make_folder_of_links, "holds 0 files"),
    "too deep.zip": (lambda path: write_zip(path, {"a.zip": zipped({"b.zip": zipped(CONTENT)})}), "holds 1 files"),
    "many.zip": (make_many_entries, "lists more than 100,000 files"),
    "bomb.zip": (lambda path: write_zip(path, {WANTED[0]: bytes(MAX_FILE + 1)}), "is larger than 64 MiB"),
}


@pytest.mark.parametrize("name", NOTHING)
def test_what_cannot_be_read_is_one_line_and_not_a_point(name, tmp_path):
    make, words = NOTHING[name]
    make(tmp_path / name)
    with pytest.raises(UserError, match=words) as error:
        collect(tmp_path / name, WANTED, tmp_path / "new")
    assert str(error.value).isprintable()
    assert files_below(tmp_path / "new") == {}


def test_what_is_no_hand_in_is_skipped(tmp_path):
    for name in ("名单.xlsx", "Thumbs.db", "marks.csv", ".DS_Store"):
        (tmp_path / name).write_text("PK")
    with pytest.raises(UserError, match="holds no hand-in: expected a folder or a zip archive"):
        find_hand_ins(tmp_path)
    for name in ("Ann", "__MACOSX"):
        (tmp_path / name).mkdir()
    (tmp_path / "Bob.RAR").touch()
    sources, skipped = find_hand_ins(tmp_path)
    assert [source.name for source in sources] == ["Ann", "Bob.RAR"]
    assert skipped == [".DS_Store", "Thumbs.db", "__MACOSX", "marks.csv", "名单.xlsx"]


# ---------------------------------------------------------------- copies


def permute(weights):
    """The perceptron's weights with the units of its first hidden layer in another order."""
    first, bias, second, *rest = weights["encoder"]
    order = np.random.default_rng(0).permutation(len(bias))
    return {**weights, "encoder": [first[order], bias[order], second[:, order], *rest]}


def add_noise(weights):
    return {name: weight + 1e-6 * torch.randn(weight.shape) for name, weight in weights.items()}


def blend(weights):
    other = Autoencoder(64).state_dict()
    return {name: 0.9998 * weight + 0.0002 * other[name] for name, weight in weights.items()}


@pytest.mark.parametrize(("name", "disguise"), [("MLPAE", permute), ("AE", add_noise), ("AE", blend)])
def test_a_copy_in_disguise_is_named_even_with_another_history(name, disguise, hand_in, roots, tmp_path):
    torch.manual_seed(0)
    root = hand_in(name)
    original = trace(name, root, roots["flowers"])
    checkpoint = best_checkpoint(root, name)
    changes = {"state_dict": disguise(checkpoint["state_dict"]), "valid_loss": checkpoint["valid_loss"] + 1e-9}
    history = [{**row, "train_loss": row["train_loss"] + 1e-9} for row in checkpoint["history"]]
    row = {name: history[-1][name] for name in ("epoch", "train_loss")}
    save_checkpoint(root / "models" / checkpoint_file(name), {**checkpoint, **row, **changes, "history": history})
    copy = trace(name, root, roots["flowers"])
    for members in (("Ann", "Bob"), ("Ann", "Bob", "Cleo")):
        traces = dict(zip(members, ({name: original}, {name: copy}, {name: original}), strict=False))
        [(group, [text])] = find_groups({**traces, "Dora": {}}).items()
        assert group == members
        assert re.fullmatch(rf"{name} \(other histories, outputs at a distance of \S+\)", text)


def test_another_seed_is_no_copy_and_the_same_history_is_the_same_run(hand_in, roots):
    torch.manual_seed(0)
    root = hand_in("AE")
    first = trace("AE", root, roots["flowers"])
    save_checkpoint(
        root / "models" / checkpoint_file("AE"),
        {**best_checkpoint(root, "AE"), "state_dict": Autoencoder(64).state_dict()},
    )
    other = trace("AE", root, roots["flowers"])
    [(members, [text])] = find_groups({"Ann": {"AE": first}, "Bob": {"AE": other}}).items()
    assert members == ("Ann", "Bob")
    assert text.startswith("AE (the same run, outputs at a distance of ")
    assert find_groups({"Ann": {"AE": first}, "Bob": {"AE": other._replace(history=[])}}) == {}


def test_models_with_an_odd_ratio_are_trained_again_and_some_others(monkeypatch):
    calls = []
    monkeypatch.setattr(marks, "check_retrained", lambda claim, root: (calls.append(claim), (claim == "odd", "x"))[1])
    grades = {}
    for number in range(4):
        claim = "odd" if number == 2 else "honest"
        row = Row("AE", "weights", "", True, "", ratio=1.05 if number == 2 else 1.14)
        grades[str(number)] = Grade([row], {"AE": marks.Trace(claim, [], np.zeros(1), 0.0)})
    roots = {"flowers": None}
    assert retrain_some(grades, 0, roots) == {"2": ["AE: pass, x"]}
    assert len(retrain_some(grades, 2, roots)) == 3
    assert calls.count("odd") == 2
    assert len(calls) == 4


# ---------------------------------------------------------------- a class


def test_points_are_the_share_of_checks_that_pass_and_nothing_where_nothing_was_read():
    row = Row("AE", "layers", "", False, "too large")
    grade = Grade([row, *(row._replace(passed=True) for _ in range(3))])
    assert (grade.points, grade.checks, grade.failures) == ({"flowers 3": 5.625}, "3 of 4", [row])
    assert (Grade(problem="x").points, Grade(problem="x").checks) == ({}, "")


def test_the_table_on_the_screen_aligns_chinese_names_in_lines_that_fit(capsys):
    rows = make_rows("AE", {"layers": (True, "")})
    names = ["Ann", "张三丰", "一个特别长的文件夹名字一个特别长的文件夹名字.zip"]
    print_marks({**dict.fromkeys(names, Grade(rows)), "x\x1b[2J": Grade(problem="y" * 2000)}, {}, {})
    head, scheme, *lines = capsys.readouterr().out.splitlines()
    widths = [marks.columns(line[: line.index("1 of 13")]) for line in lines[:3]]
    assert len({*widths, marks.columns(head[: head.index("checks")])}) == 1
    assert scheme.split() == ["evidence,", "of", "12.5", "12.5", "7.5", "7.5", "55", "45"]
    assert "not graded: yyy" in lines[3]
    assert all(line.isprintable() and marks.columns(line) <= 120 for line in lines)


def test_the_texts_for_students_say_the_same_in_both_languages():
    findings = {check: (False, f"{check}; `python x`" if "/" in check else check) for check in plan("AE")}
    grade = Grade(make_rows("AE", findings))
    chinese, english = in_chinese(grade), in_english(grade)
    assert len(chinese) == len(english) == 3 + len(findings)
    for line, other, check in zip(chinese[3:], english[3:], findings, strict=True):
        assert line.startswith(f"- AE，{check}：")
        assert other.startswith(f"- AE, {check}: ")
        assert ("`python x`" in line) == ("`python x`" in other) == ("/" in check)
    assert "not supported" in in_chinese(Grade(problem=".rar is not supported"))[0]


@pytest.fixture(scope="module")
def classroom(handed_in, roots, tmp_path_factory):
    """(what was printed, the rows of the CSV, the folder) of a class of six, of which four can be graded."""
    folder = tmp_path_factory.mktemp("class")
    files = {file: (handed_in / file).read_bytes() for file in plan("MLPAE") if "/" in file}
    log = files["log/train_MLPAE.txt"]
    write_folder(folder / "hand-ins" / "Ann", files)
    write_folder(folder / "hand-ins" / "=Bob", {**files, "log/train_MLPAE.txt": log.replace(b"lr 1.0", b"lr 1.5")})
    write_zip(folder / "hand-ins" / "花.zip", {f"作业/{name}": data for name, data in files.items()})
    write_folder(folder / "hand-ins" / "Cleo", {file: data for file, data in files.items() if "log" not in file})
    (folder / "hand-ins" / "Dan.rar").write_text("Rar!")
    (folder / "hand-ins" / "名单.xlsx").write_text("PK")
    write_folder(folder / "project", files)
    argv = ["--hand-ins", folder / "hand-ins", "--csv", folder / "marks.csv", "--feedback", folder / "texts"]
    argv += ["--model", "MLPAE", "--flowers", roots["flowers"]]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.setattr(grading, "find_traces", lambda _, *rest: marks.find_traces(folder / "project", *rest))
        grading.main(list(map(str, argv)))
    with open(folder / "marks.csv", encoding="utf-8-sig", newline="") as file:
        rows = {row["hand-in"]: row for row in csv.DictReader(file)}
    return out.getvalue(), rows, folder


def test_the_rows_of_a_class(classroom):
    _, rows, folder = classroom
    assert {path.name for path in folder.iterdir()} == {"hand-ins", "project", "marks.csv", "texts"}
    assert list(rows) == ["'=Bob", "Ann", "Cleo", "Dan.rar", "花.zip"]  # no formula
    backpropagation = "flowers 1: evidence, of 12.5"
    perceptron = "flowers 2: evidence, of 12.5"
    for name in ("Ann", "花.zip"):  # whose losses are those claimed, but too high
        assert (rows[name][backpropagation], rows[name][perceptron]) == ("4.167", "10")
        assert rows[name]["flowers 3: evidence, of 7.5"] == ""  # not asked for
        assert rows[name]["checks passed"] == "8 of 10"
        assert re.fullmatch("MLPAE, train loss: .*; MLPAE, valid loss: .*", rows[name]["what fails"])
    assert (rows["'=Bob"][backpropagation], rows["'=Bob"][perceptron]) == ("4.167", "8.75")
    assert 'it says "lr 1.5"' in rows["'=Bob"]["what fails"]
    assert rows["Dan.rar"] == {**dict.fromkeys(rows["Ann"], ""), "hand-in": "Dan.rar"} | {
        "what fails": "not graded: .rar is not supported: ask for a zip archive"
    }
    for name in ("'=Bob", "Ann", "Cleo", "花.zip"):  # the student's paths, not the reader's
        assert str(folder) not in rows[name]["what fails"]
        assert tempfile.gettempdir() not in rows[name]["what fails"]
    assert (
        'missing; train again and keep what it prints, `python MLPAE_train_script.py > "log/'
        in rows["Cleo"]["what fails"]
    )


def test_what_is_printed_of_a_class(classroom):
    out, _, _ = classroom
    groups = [line for line in out.splitlines() if line.startswith("group")]
    assert groups == ["group 1: the project, =Bob, Ann, Cleo, 花.zip: MLPAE (the same run, equal outputs)"]
    assert "skipped, no hand-ins: 名单.xlsx" in out


def test_each_student_gets_a_text(classroom):
    _, rows, folder = classroom
    texts = {path.name: path.read_text(encoding="utf-8-sig") for path in (folder / "texts").iterdir()}
    assert len(texts) == len(rows)
    assert "未通过的检查：2 项" in texts["Ann.txt"]
    assert "Failed checks: 2" in texts["Ann.txt"]


def test_a_class_without_photographs_is_one_line(tmp_path):
    (tmp_path / "Ann").mkdir()
    argv = ["--hand-ins", tmp_path, "--model", "MLPAE", "--flowers", tmp_path / "nowhere"]
    with pytest.raises(UserError, match="nowhere is not a folder.*--flowers"):
        grading.main(list(map(str, argv)))
