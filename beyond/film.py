"""MNIST: train AE, VAE or CVAE as main.py does, and film how random latent vectors turn into digits.

    python -m beyond.film --model CVAE          # the flags are main.py's, without --resume

Writes what main.py writes, and vis/mnist_<M>_training.gif: the same latent vectors, decoded before the training and
after each epoch.
"""

import io
from pathlib import Path

import torch
from PIL import Image

import main as mnist_script
from common import UserError
from common.checkpoints import atomic_write
from common.distributed import rank
from common.figures import COLUMNS, draw_grid, split_rows
from common.process import run_script, say
from common.run import Run
from main import SAMPLES, picture_path, random_latents
from model import CLASSES
from trained.registry import MODELS

GREYS = 16  # with 256 the file would be three times as large
SHRUNK = 2  # a pixel of the film is the mean of so many in each direction of `plot_samples`'s picture
FRAME = 500  # milliseconds
LAST_FRAME = 3000


class FilmedRun(Run):
    """A run that films: a frame, digits (SAMPLES, 1, 28, 28), is what the same latent vectors are decoded to."""

    def start(self, resume: bool) -> None:
        """Add the first frame. Raises UserError for --resume."""
        if resume:
            raise UserError("a film begins before the training: leave out --resume")
        super().start(resume)
        self.frames = [self.decode_frame()]

    def end_epoch(self) -> None:
        """Add a frame."""
        super().end_epoch()
        self.frames.append(self.decode_frame())

    def finish(self) -> dict:
        """Write the film."""
        best = super().finish()
        if rank() == 0:
            title = f"{best['model'].removeprefix('MNIST_')} on {best['data']['name']}"
            plot_film(self.frames, title, picture_path(self.folder.parent, best, "training").with_suffix(".gif"))
        return best

    @torch.no_grad()
    def decode_frame(self) -> torch.Tensor:
        """The digits of the current weights."""
        model = self.parts["state_dict"]
        device = next(model.parameters()).device
        zs = random_latents(self.about, self.about["seed"])
        digits = torch.arange(CLASSES).repeat_interleave(SAMPLES // CLASSES)
        labels = MODELS[self.about["model"]].condition(digits.to(device))
        return model.decode(zs.to(device), *labels).cpu()


def plot_film(frames: list[torch.Tensor], title: str, path: Path) -> None:
    """Write a GIF of frames (N, 1, 28, 28), each a grid below the title and the number of its epoch, from 0."""
    pictures = []
    for epoch, frame in enumerate(frames):
        png = io.BytesIO()
        figure, _ = draw_grid(split_rows(frame.numpy(), COLUMNS), f"{title}, epoch {epoch}")
        figure.savefig(png, format="png")
        pictures.append(Image.open(png).convert("L").reduce(SHRUNK).quantize(GREYS))
    durations = [FRAME] * (len(frames) - 1) + [LAST_FRAME]
    with atomic_write(path) as file:
        pictures[0].save(file, format="GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0)
    say(f"wrote {path}")


def main(argv=None):
    """Train, and plot main.py's pictures and the film; returns the history."""
    return mnist_script.main(argv, run_class=FilmedRun)


if __name__ == "__main__":
    run_script(main)
