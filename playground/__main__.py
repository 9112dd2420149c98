"""A page in the browser: draw a digit, order digits, explore a latent space, photograph flowers, sample new ones.

    pip install -r requirements-playground.txt
    python -m playground                                # http://127.0.0.1:7860, until Ctrl-C
    python -m playground --port 8000 --output-root DIR

It reads models/ below the output root, keeps nothing, and needs no network and no data.
"""

import os
import tempfile
import threading
import warnings
from contextlib import contextmanager
from pathlib import Path

import torch

from common import UserError
from common.flags import add_output_flag, make_parser, number
from common.process import run_script
from playground import digits, flowers
from trained.loading import load_model
from trained.registry import checkpoint_file

try:
    from playground import page
except ModuleNotFoundError as error:
    if error.name != "gradio":
        raise
    page = None

MODELS = {*digits.AUTOENCODERS, *digits.COMPLETERS.values(), *flowers.AUTOENCODERS, *flowers.CONTROLS}


def parse_args(argv=None):
    """The flags."""
    parser = make_parser("Open the playground, a page in the browser.", module="playground")
    parser.add_argument("--host", metavar="ADDRESS", default="127.0.0.1", help="to listen on; 0.0.0.0: all there are")
    port = number(int, "a port from 1 to 65535", lambda value: 1 <= value <= 65535)
    parser.add_argument("--port", metavar="N", type=port, default=7860, help="to listen on")
    add_output_flag(parser)
    return parser.parse_args(argv)


def load_models(output_root: Path) -> dict:
    """{name in the registry: (model, checkpoint)} of those that are there; warns of files that cannot be read."""
    models = {}
    for name in MODELS:
        if (output_root / "models" / checkpoint_file(name)).exists():
            try:
                models[name] = load_model(name, output_root)
            except UserError as error:
                warnings.warn(str(error), stacklevel=1)
    return models


@contextmanager
def serve(output_root: Path, host: str, port: int):
    """The page at an address, as long as the context lasts; the files that were uploaded are deleted at its end."""
    with tempfile.TemporaryDirectory() as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads  # Gradio reads it when a page is built
        blocks = page.build_page(load_models(output_root), output_root)
        try:
            page.launch(blocks, host, port)
            yield blocks
        finally:
            blocks.close(verbose=False)


def main(argv=None):
    """Serve the page until Ctrl-C."""
    args = parse_args(argv)
    if page is None:
        raise UserError("the playground needs Gradio: pip install -r requirements-playground.txt")
    torch.set_num_threads(1)  # answers to several people on few cores would wait for each other's threads
    with serve(args.output_root, args.host, args.port) as blocks:
        print(f"The playground is at {blocks.local_url} until Ctrl-C", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    run_script(main)
