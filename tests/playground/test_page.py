"""The committed page and the script that writes it: that the one is not older than what the other would read."""

import json
import re
import subprocess

import pytest
import torch

from common import PROJECT
from playground import __main__ as playground
from playground import contents
from playground.contents import BETAS, NAMES, fingerprint, fingerprint_file, is_own
from playground.weights import dequantise, pack, quantise
from trained.loading import load_model

AGAIN = "write the page again: python -m playground"


def links(html):
    """The links to lines of code."""
    return re.findall(r'<a href="[^"]+#L\d+"><code>[^<]+</code></a>', html)


def test_the_page_is_not_older_than_its_models_and_its_sources(facts):
    made_from = {name: described["fingerprint"] for name, described in facts["made_from"].items()}
    expected = {name: fingerprint(load_model(name, PROJECT)[0]) for name in NAMES}
    expected["betas"] = fingerprint_file(PROJECT / "models" / BETAS)
    assert made_from == expected, AGAIN
    assert facts["sources"] == playground.fingerprint_sources(), AGAIN


def test_the_links_lead_near_the_lines_that_they_name(html):
    """Within a screen of them: an edit above such a line does not call for another file of 16 MB."""
    markers = re.findall(r"\[\[(\S+) (.+?)\]\]", playground.read("page.html"))
    current = [playground.link_to_code(path, marker, PROJECT) for path, marker in markers]
    assert len(current) == len(links(html)) > 5
    for link, expected in zip(links(html), current, strict=True):
        path, line = re.search('href="([^"]+)#L(\\d+)"', link).groups()
        expected_path, expected_line = re.search('href="([^"]+)#L(\\d+)"', expected).groups()
        assert path == expected_path
        assert abs(int(line) - int(expected_line)) < 20, AGAIN


def test_links_lead_to_the_project_from_any_folder(tmp_path):
    link = playground.link_to_code("main.py", "class Losses", tmp_path)
    target = re.search('href="([^#]+)#', link)[1]
    assert (tmp_path / target).resolve() == PROJECT / "main.py"
    with pytest.raises(ValueError):  # a marker that is nowhere, or in several places
        playground.link_to_code("main.py", "def ", tmp_path)


def test_the_page_is_one_file_that_asks_nobody(html):
    assert len(html.encode()) < 16e6
    template = re.sub("<script.*?</script>", "", html, flags=re.DOTALL)
    assert not re.search(r'(?:src|href)="(?:https?:)?//', template)
    assert not re.search(r"\{\{|\(\(|\[\[", template)


def test_both_languages_say_everything():
    pairs = re.findall(r"\(\((.+?)\|(.+?)\)\)(?!\))", playground.read("page.html"))
    assert len(pairs) > 80
    for english, chinese in pairs:
        assert re.search(r"[\u4e00-\u9fff]", chinese), english
        assert not re.search(r"[\u4e00-\u9fff]", english), english


def test_rounded_weights_differ_by_half_a_level_and_are_rounded_once():
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    weight[1] = 0
    rows, scales = quantise(weight)
    assert (rows.dtype, rows.shape, scales.shape) == (torch.int8, weight.shape, (5,))
    (rounded,) = dequantise({"weight": weight}).values()
    assert ((rounded - weight).abs().amax(dim=(1, 2, 3)) <= scales / 2 + 1e-7).all()
    assert torch.allclose(dequantise({"weight": rounded})["weight"], rounded, atol=1e-7)
    assert torch.equal(dequantise({"bias": weight[:, 0, 0, 0]})["bias"], weight[:, 0, 0, 0])


def test_the_description_of_packed_tensors_names_their_kinds():
    tensors = {"w": torch.rand(2, 3), "b": torch.rand(2), "std": torch.rand(3, 1, 1), "bytes": torch.ones(4).byte()}
    description, _ = pack(tensors)
    assert description == [["w", [2, 3], "rows"], ["b", [2], "f4"], ["std", [3, 1, 1], "f4"], ["bytes", [4], "u1"]]


def test_the_script_writes_the_page_and_opens_it(facts, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(playground, "collect", lambda *_: ({"digits": {"images": torch.ones(1, 4).byte()}}, facts))
    monkeypatch.setattr(playground.webbrowser, "open", opened.append)
    path = playground.main(["--output", str(tmp_path / "page.html")])
    html = path.read_text(encoding="utf-8")
    assert json.loads(re.search(r'id="facts">(.*?)</script>', html)[1])["bundles"].keys() == {"digits"}
    assert len(links(html)) > 10
    playground.main(["--output", str(tmp_path / "page.html"), "--no-browser"])
    assert opened == [path.as_uri()]


def test_models_that_were_trained_again_are_the_students_own(tmp_path, monkeypatch):
    assert is_own(tmp_path / "model.pth") is True  # it is in no repository of ours
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b.c"]
    monkeypatch.setattr(contents, "PROJECT", tmp_path)
    (tmp_path / "model.pth").write_bytes(b"1")
    for command in (["init"], ["add", "model.pth"], ["commit", "-m", "a model"]):
        subprocess.run([*git, *command], capture_output=True, check=True)
    assert is_own(tmp_path / "model.pth") is False
    (tmp_path / "model.pth").write_bytes(b"2")
    assert is_own(tmp_path / "model.pth") is True
    monkeypatch.setenv("PATH", "")
    assert is_own(tmp_path / "model.pth") is None
