"""check_submission.py --tables and --html."""

import pytest
from helpers import logged

import check_submission
from evaluation import html
from training import PROJECT, UserError

PICTURE = PROJECT / "vis" / "mnist_CVAE_labels.png"


def test_the_tables_are_printed(trained_flowers):
    found, log = logged(check_submission.main, "--tables", "--output-root", trained_flowers[0])
    assert [row[0] for row in found["flowers"]] == ["", "AE", "VAE", "GAN", "DDPM", "Classifier"]
    assert found["digits"][1:] == found["scores"][1:] == []
    assert "<!-- table: settings -->" in log
    assert sum(line.startswith("| VAE |") for line in log) == 2


def test_the_report_is_one_html_file(tmp_path):
    pytest.importorskip("pypandoc", reason="pandoc is not here: pip install pypandoc_binary")
    (tmp_path / "picture.png").write_bytes(PICTURE.read_bytes())
    text = "# Title\n\n![a picture](picture.png)\n\n```math\n\\frac12\n```\n\n| a | b |\n|---|---|\n| 1 | 数字 |\n"
    (tmp_path / "report.md").write_text(text, encoding="utf-8")
    (made,) = check_submission.main(["--html", "--output-root", str(tmp_path)])
    found = made.read_text(encoding="utf-8")
    assert "<title>Title</title>" in found
    assert 'src="data:image/png;base64,' in found
    assert "<mfrac>" in found
    assert "<td" in found
    assert "数字" in found


def test_without_pandoc_html_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "report.md").write_text("# Title", encoding="utf-8")
    monkeypatch.setattr(html, "pypandoc", None)
    with pytest.raises(UserError, match="pip install pypandoc_binary"):
        check_submission.main(["--html", "--output-root", str(tmp_path)])
