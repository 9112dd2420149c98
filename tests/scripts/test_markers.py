"""The graded parts of the courseworks: each is marked in the code, and the README's table links every marker."""

import re

import pytest

from common import PROJECT

MARKER = "# 作业"
SOURCES = [*PROJECT.glob("*.py"), *PROJECT.glob("autograd/*.py")]
LINES = {path.relative_to(PROJECT).as_posix(): path.read_text(encoding="utf-8").splitlines() for path in SOURCES}
MARKERS = {(file, number): line for file in LINES for number, line in enumerate(LINES[file], 1) if MARKER in line}

PARTS = {  # file: the words of each marker in it
    "autograd/BaseGraph.py": ["Part 1.1.*backward", "Part 1.1.*optimstep"],
    "autograd/Nodes.py": ["Part 1.2"],
    "MLPAE_train_script.py": [
        "Part 2.1",
        "Part 2.2.*training loop",
        "Part 2.2.*validation loop",
        "Part 2.2.*model saving",
        "Part 2.2.*early stopping",
    ],
    "Autoencoder.py": ["Part 3.1"],
    "train_script.py": ["Part 3.2"],
    "random_generation.py": ["Part 3.3"],
    "VarAutoencoder.py": ["Part 4.1", "Part 4.2.*VAE_loss_function"],
    "model.py": [
        r"5/100.* Encoder\.forward",
        "5/100.* VAE 的 decoder",
        "5/100.* CVAE 的 decoder",
        r"10/100.* Decoder\.forward",
        r"5/100.* AutoEncoder\.forward",
        r"10/100.* VariationalAutoEncoder\.forward",
        r"15/100.* ConditionalVariationalAutoEncoder\.forward",
    ],
    "main.py": ["45/100.*损失函数", "5/100.*kl_div", "45/100.*train", "45/100.*结果"],
}


@pytest.mark.parametrize("file", PARTS)
def test_each_graded_part_is_marked(file):
    lines = [line for (name, _), line in MARKERS.items() if name == file]
    for words in PARTS[file]:
        assert any(re.search(f"{MARKER} .*{words}", line, re.IGNORECASE) for line in lines), words


@pytest.mark.parametrize("readme", ["README.md", "README.zh-CN.md"])
def test_the_table_links_every_marker_and_nothing_else(readme):
    text = (PROJECT / readme).read_text(encoding="utf-8")
    table = re.search("<!-- parts -->(.*)<!-- /parts -->", text, re.DOTALL)
    assert table, f"{readme} has no table of graded parts"
    links = re.findall(r"\[([^\]]+):(\d+)\]\(([^)#]+)#L(\d+)\)", table[1])
    assert [link for link in links if link[:2] != link[2:]] == []
    assert {(file, int(line)) for file, line, _, _ in links} == set(MARKERS)
