"""Flowers: a VAE whose decoder learns its variances (generators/variance.py), for sharper images and a likelihood.

    python -m beyond.variance > ./log/train_VAE_learned.txt
    python -m beyond.variance --epochs 20 --output-root DIR # one variance: sharper images, and a worse likelihood
    python -m beyond.likelihood --model VAE_learned         # its bits per dimension; benchmarks.bits compares them

The flags are those of train_script.py, without --model. Writes models/BestModel_VAE_learned.pth,
models/LastModel_VAE_learned.pth and vis/loss_VAE_learned.png.
"""

import sys

import train_script
from common.process import run_script

NAME = "VAE_learned"
# every photograph is moved by a pixel; 20 epochs with one variance, 10 with many
TRAININGS = {NAME: train_script.TRAININGS["VAE"]._replace(epochs=30, shift=1.0)}


def main(argv=None):
    """Train; returns the history."""
    flags = sys.argv[1:] if argv is None else argv
    return train_script.main(["--model", NAME, *flags], trainings=TRAININGS)


if __name__ == "__main__":
    run_script(main)
