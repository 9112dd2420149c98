"""README and report in both languages: numbers that agree, commands that parse, links that lead somewhere."""

import importlib
import re
import shlex

import pytest
from helpers import skip_if_changed

from common import PROJECT
from grading.tables import tables

TEXTS = ("README.md", "README.zh-CN.md", "report.md", "report.zh-CN.md")
WORDS = {"README.md": 1100, "report.md": 3500}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
COMMAND = re.compile(r"(?:python|torchrun --nproc-per-node 2) (-m )?([\w.]+)([^`&|>#\n(]*)")
texts = pytest.mark.parametrize("name", TEXTS)


def read(name):
    return (PROJECT / name).read_text(encoding="utf-8")


def numbers(text):
    """The numbers in a text, without separators of thousands and without links."""
    text = LINK.sub(lambda link: link[2] if not link[1] else "", text)
    return [number.replace(",", "") for number in re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", text)]


def tables_of(text):
    """[(the name in the comment above it or "", the lines of a table)], without its header."""
    listed = []
    name = ""
    lines = []
    for line in [*text.splitlines(), ""]:
        comment = re.fullmatch(r"<!-- table: (\w+) -->", line)
        if line.startswith("|"):
            lines.append(line)
        elif lines:
            listed.append((name, lines[2:]))
            name = ""
            lines = []
        name = comment[1] if comment else name
    return listed


@pytest.mark.parametrize("name", ["README", "report"])
def test_the_tables_of_both_languages_say_the_same(name):
    english, chinese = (tables_of(read(f"{name}{language}.md")) for language in ("", ".zh-CN"))
    assert [table for table, _ in english] == [table for table, _ in chinese]
    for (table, lines), (_, others) in zip(english, chinese, strict=True):
        assert [numbers(line) for line in lines] == [numbers(line) for line in others], table or lines[0]


@texts
def test_the_tables_say_what_checkpoints_and_logs_say(name):
    skip_if_changed()
    printed = {table: lines for table, lines in tables_of(read(name)) if table}
    sources = tables(PROJECT)
    assert set(printed) == ({"flowers", "digits"} if "README" in name else set(sources))
    for table, lines in printed.items():
        expected = [numbers(" ".join(row)) for row in sources[table][1:]]
        assert [numbers(line) for line in lines] == expected, f"{table}: python -m grading --tables"


@texts
def test_every_command_parses(name):
    commands = [command for command in COMMAND.findall(read(name)) if command[1] not in ("pytest", "venv")]
    assert len(commands) > (20 if "README" in name else 3)
    for is_module, script, flags in commands:
        path = PROJECT / (script.replace(".", "/") if is_module else script)
        if is_module and path.is_dir():
            script += ".__main__"
        assert path.is_dir() or path.with_suffix(".py").is_file(), script
        if script.startswith("benchmarks"):
            continue
        module = importlib.import_module(script if is_module else script.removesuffix(".py"))
        if hasattr(module, "parse_args"):  # the others pass their flags on to another script
            module.parse_args(shlex.split(flags.replace(" K", " 2")))  # K stands for any number


@texts
def test_links_lead_somewhere_and_pictures_have_alternative_texts(name):
    links = LINK.findall(read(name))
    assert len(links) > 10
    for picture, text, target in links:
        path, _, anchor = target.partition("#")
        assert (PROJECT / path).exists(), target
        assert text.strip() or not picture, target
        if anchor and not path.endswith(".py"):
            titles = re.findall(r"^#+ (.*)", read(path or name), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles], target


@pytest.mark.parametrize("name", WORDS)
def test_texts_are_short(name):
    """Words in sentences: what a table or a formula holds is not counted."""
    text = re.sub(r"^\|.*|```math[^`]*```", "", read(name), flags=re.MULTILINE)
    assert sum(bool(re.search(r"\w", word)) for word in text.split()) <= WORDS[name]
