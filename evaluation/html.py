"""A text as one HTML file, with its pictures and formulas inside: `check_submission.py --html`."""

from pathlib import Path

from training import UserError
from training.checkpoints import atomic_write

try:
    import pypandoc
except ImportError:  # only this needs it
    pypandoc = None

OPTIONS = ("--standalone", "--embed-resources", "--mathml", "--variable=maxwidth:52em")
OPTIONS += ("--shift-heading-level-by=-1",)  # the first heading is the title


def make_html(path: Path) -> Path:
    """Write report.html beside report.md; returns its path. Raises UserError where pandoc is missing or fails."""
    if pypandoc is None:
        raise UserError("--html needs pandoc: pip install pypandoc_binary")
    options = [*OPTIONS, f"--resource-path={path.parent}"]
    try:
        html = pypandoc.convert_file(path, "html", format="gfm", extra_args=options)
    except (OSError, RuntimeError) as error:
        raise UserError(f"pandoc cannot convert {path}: {' '.join(str(error).split()[:30])}") from None
    with atomic_write(path.with_suffix(".html")) as file:
        file.write(html.encode())
    return path.with_suffix(".html")
