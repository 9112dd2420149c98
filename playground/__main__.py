"""Write playground.html, a page that explains the trained models, and open it.

    python -m playground                                        # from models/, half a minute
    python -m playground --output-root DIR --output page.html   # from DIR/models/

The page is one file that needs no server, no network and no installation. It holds the models' weights, so write it
again after a training. The photographs and MNIST must be here, as for the training.
"""

import hashlib
import json
import os
import re
import webbrowser
from pathlib import Path

from common import PROJECT
from common.checkpoints import atomic_write
from common.flags import FLOWERS_HELP, MNIST_HELP, add_output_flag, make_parser
from common.process import run_script, say
from playground.contents import DIGITS, collect
from playground.weights import pack

FOLDER = Path(__file__).parent
SCRIPTS = ("networks", "models", "page", "squeeze", "dice", "latent", "order", "weight", "flowers")
SOURCES = [FOLDER / "page.html", FOLDER / "style.css", *(FOLDER / f"{name}.js" for name in SCRIPTS)]


def parse_args(argv=None):
    """The flags."""
    parser = make_parser("Write the page that explains the trained models.", module="playground")
    parser.add_argument("--output", metavar="FILE", type=Path, default=PROJECT / "playground.html", help="the page")
    parser.add_argument("--no-browser", action="store_true", help="only write it")
    parser.add_argument("--flowers", metavar="DIR", type=Path, help=FLOWERS_HELP)
    parser.add_argument("--mnist", metavar="DIR", type=Path, help=MNIST_HELP)
    add_output_flag(parser)
    return parser.parse_args(argv)


def build_page(bundles: dict, facts: dict, folder: Path) -> str:
    """The page as HTML; folder: in which it will lie, for its links to the code."""
    data = []
    facts = {**facts, "sources": fingerprint_sources(), "bundles": {}}
    for name, tensors in bundles.items():
        facts["bundles"][name], text = pack(tensors)
        data.append(f'<script type="text/plain" id="data-{name}">{text}</script>')
    scripts = [f'<script id="script-{name}">\n{read(f"{name}.js")}</script>' for name in SCRIPTS]
    parts = {
        "style": read("style.css"),
        "facts": json.dumps(facts, ensure_ascii=False, sort_keys=True),
        "data": "\n".join(data),
        "scripts": "\n".join(scripts),
        **numbers_in_text(facts),
    }
    html = re.sub(r"\(\((.+?)\|(.+?)\)\)(?!\))", in_both_languages, read("page.html"))
    html = re.sub(r"\[\[(\S+) (.+?)\]\]", lambda match: link_to_code(*match.groups(), folder), html)
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], html)


def in_both_languages(match: re.Match) -> str:
    """((English|Chinese)), of which the page shows one."""
    return f'<span lang="en">{match[1]}</span><span lang="zh-CN">{match[2]}</span>'


def numbers_in_text(facts: dict) -> dict[str, str]:
    """The numbers that the page's texts mention, {name in page.html: number}."""
    numbers = {
        "latents": facts["made_from"]["MNIST_VAE"]["dims"],
        "flower_latents": facts["made_from"]["VAE"]["dims"],
        "range_AE": f"{facts['MNIST_AE']['range']:.0f}",
    }
    for name in DIGITS:
        measured = facts[name]
        short = name.removeprefix("MNIST_")
        numbers[f"error_{short}"] = f"{measured['error']:.4f}"
        if "recon" in measured:
            numbers[f"bound_{short}"] = f"{measured['recon'] + sum(measured['kl_of_latents']):.1f}"
    return {name: str(number) for name, number in numbers.items()}


def read(name: str) -> str:
    """One of the page's source files."""
    return (FOLDER / name).read_text(encoding="utf-8")


def fingerprint_sources() -> str:
    """A hash of the files that the page consists of."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in SOURCES)).hexdigest()[:16]


def link_to_code(path: str, marker: str, folder: Path) -> str:
    """A link to the line of a file of the project that contains the marker; there must be exactly one."""
    lines = (PROJECT / path).read_text(encoding="utf-8").splitlines()
    (line,) = [number for number, text in enumerate(lines, 1) if marker in text]
    target = Path(os.path.relpath(PROJECT / path, folder.resolve())).as_posix()
    return f'<a href="{target}#L{line}"><code>{path}:{line}</code></a>'


def main(argv=None):
    """Write the page and open it; returns its path."""
    args = parse_args(argv)
    bundles, facts = collect(args.output_root, args.mnist, args.flowers)
    html = build_page(bundles, facts, args.output.parent)
    with atomic_write(args.output) as file:
        file.write(html.encode())
    say(f"wrote {args.output}, {args.output.stat().st_size / 1e6:.1f} MB")
    if not args.no_browser:
        webbrowser.open(args.output.resolve().as_uri())
    return args.output


if __name__ == "__main__":
    run_script(main)
