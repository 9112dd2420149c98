"""A page in the browser: draw a digit, order digits, walk through a latent space, photograph flowers, sample new ones.

    pip install -r requirements-playground.txt
    python playground.py                                # http://127.0.0.1:7860, until Ctrl-C
    python playground.py --port 8000 --output-root DIR

It reads models/ below the output root, keeps nothing, and needs no network and no data.
"""

from training import flags


def parse_args(argv=None):
    """The flags."""
    parser = flags.make_parser("Open the playground, a page in the browser.")
    parser.add_argument("--host", metavar="ADDRESS", default="127.0.0.1", help="to listen on; 0.0.0.0: all there are")
    parser.add_argument("--port", metavar="N", type=flags.port, default=7860, help="to listen on")
    flags.add_output_flag(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    flags.parse_first(parse_args)

import inspect
import os
import socket
import sys
import tempfile
import threading
import warnings
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import torch

from evaluation.models import TABLE, checkpoint_file, load_model
from evaluation.playground.digit_answers import Digits
from evaluation.playground.digit_tabs import draw_tab, latent_tab, order_tab
from evaluation.playground.flower_answers import Flowers
from evaluation.playground.flower_tabs import photograph_tab, sample_tab
from training import PROJECT, UserError
from training.script import run_script

FILES = PROJECT / "evaluation" / "playground"
MAX_UPLOAD = "30mb"
CLEANING, MAX_AGE = 600, 3600  # seconds: between two looks at the uploads, and that one is kept while the page is up


def import_gradio(uploads: str):
    """Gradio, which keeps what is uploaded in that folder, and sends nothing anywhere; whatever the user's environment
    tells it otherwise. Raises UserError where it is not installed.

    Each import of Gradio writes type stubs beside its 81 components, which takes half of the time; they are left out by
    telling it that these have no files.
    """
    if not find_spec("gradio"):
        raise UserError("the playground needs Gradio: pip install -r requirements-playground.txt")
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]
    os.environ |= {"GRADIO_TEMP_DIR": uploads, "GRADIO_ANALYTICS_ENABLED": "False"}
    getfile = inspect.getfile

    def getfile_but_of_components(of):
        if hasattr(of, "EVENTS"):
            raise OSError
        return getfile(of)

    with patch.object(inspect, "getfile", getfile_but_of_components):
        import gradio
    return gradio


def find_models(output_root: Path) -> dict:
    """{name in the table: (model, checkpoint)} of those that are there; warns of files that cannot be read."""
    found = {}
    for name in TABLE:
        if (output_root / "models" / checkpoint_file(name)).exists():
            try:
                found[name] = load_model(name, output_root)
            except UserError as error:
                warnings.warn(str(error), stacklevel=1)
    return found


def build_page(gr, models: dict, output_root: Path):
    """The page, as Gradio's Blocks."""
    digits, flowers = Digits(models, output_root), Flowers(models, output_root)
    with gr.Blocks(title="Playground", analytics_enabled=False, delete_cache=(CLEANING, MAX_AGE)) as page:
        gr.HTML("<h1>Playground</h1>")
        with gr.Tabs():
            with gr.Tab("Draw a digit"):
                draw_tab(gr, digits)
            with gr.Tab("Digits to order"):
                order_tab(gr, digits)
            with gr.Tab("The latent space"):
                latent_tab(gr, digits)
            with gr.Tab("Flowers") as tab:
                photograph_tab(gr, flowers, tab)
            with gr.Tab("New flowers"):
                sample_tab(gr, flowers)
    return page


def has_desktop() -> bool:
    """Whether somebody sits before this terminal who could look at a browser."""
    display = sys.platform in ("darwin", "win32") or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()
    return sys.stdout.isatty() and bool(display)


def check_address(host: str, port: int) -> None:
    """Raise UserError where nobody can listen there."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(address)
    except OSError as error:
        reason = f"cannot listen on {host}, port {port} ({error.strerror})"
        raise UserError(f"{reason}: try another --port, or another --host") from None


def serve(gr, page, host: str, port: int) -> None:
    """Answer on an address until the process is told to end."""
    closed = dict.fromkeys(("share", "run_history", "ssr_mode", "mcp_server", "enable_monitoring", "pwa"), False)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            css=(FILES / "page.css").read_text(encoding="utf-8"),
            head=f"<script>{(FILES / 'page.js').read_text(encoding='utf-8')}</script>",
            footer_links=[],
            blocked_paths=[str(PROJECT)],
            max_file_size=MAX_UPLOAD,
            inbrowser=has_desktop(),
            prevent_thread_lock=True,
            quiet=True,
            **closed,
        )
        print(f"The playground is at {page.local_url} until Ctrl-C", flush=True)
        threading.Event().wait()
    finally:
        page.close(verbose=False)


def main(argv=None):
    """Serve the page until Ctrl-C; what was uploaded is deleted at the end."""
    args = parse_args(argv)
    check_address(args.host, args.port)
    torch.set_num_threads(1)  # the answers to ten people on two cores would wait for each other's threads
    with tempfile.TemporaryDirectory() as uploads:
        gr = import_gradio(uploads)
        serve(gr, build_page(gr, find_models(args.output_root), args.output_root), args.host, args.port)


if __name__ == "__main__":
    run_script(main)
