"""Does a VAE of MNIST find images that are no digits less likely than digits? (After Nalisnick et al. 2019.)

    python -m beyond.outliers --model MNIST_VAE         # 2 minutes; also: MNIST_IWAE, whose images are binarized

Prints the log-likelihoods of test digits and of as many other images, by importance sampling, and how often an image
is less likely than a test digit (the area under the ROC curve): 100 % is what one would wish, 50 % is chance.
"""

from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from beyond.iwae import NAME as IWAE
from beyond.iwae import binarize
from beyond.likelihood import densities, describe_mean, estimate_likelihood, find_images, log_subject
from common.flags import MNIST_HELP, add_data_flags, make_parser, natural_int, positive_int
from common.process import log, run_script
from datasets.images import ImageDataset
from trained.loading import load_model
from trained.registry import MODELS

COUNT = 500  # images of each kind
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SIDE = 28  # pixels
BOX = 20  # pixels of the longer side of a letter, as of MNIST's digits
FONTS = Path(matplotlib.get_data_path(), "fonts", "ttf")


def parse_args(argv=None):
    """The flags."""
    parser = make_parser("Compare the likelihoods of test digits and of other images.", module="beyond.outliers")
    parser.add_argument("--model", choices=["MNIST_VAE", IWAE], required=True, help="whose likelihood")
    parser.add_argument("--samples", metavar="K", type=positive_int, default=300, help="samples of q(z|x) per image")
    parser.add_argument("--seed", metavar="N", type=natural_int, default=0, help="of the samples and of the noise")
    add_data_flags(parser, MNIST_HELP)
    return parser.parse_args(argv)


def draw_letter(letter: str, font: ImageFont.FreeTypeFont) -> np.ndarray:
    """A letter as MNIST has its digits, uint8 (28, 28): the longer side 20 pixels, the centre of mass in the middle."""
    left, top, right, bottom = font.getbbox(letter)
    canvas = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(canvas).text((-left, -top), letter, fill=255, font=font)
    scale = BOX / max(canvas.size)
    size = [max(1, round(scale * side)) for side in canvas.size]
    small = np.asarray(canvas.resize(size, Image.Resampling.LANCZOS))
    rows, columns = (np.average(places, weights=small) for places in np.indices(small.shape))
    height, width = small.shape
    row = int(np.clip(round((SIDE - 1) / 2 - rows), 0, SIDE - height))
    column = int(np.clip(round((SIDE - 1) / 2 - columns), 0, SIDE - width))
    image = np.zeros((SIDE, SIDE), np.uint8)
    image[row : row + height, column : column + width] = small
    return image


def draw_letters(count: int) -> torch.Tensor:
    """Letters in all of matplotlib's fonts that are called DejaVu, uint8 (count, 1, 28, 28), in random order."""
    paths = [path for path in sorted(FONTS.glob("DejaVu*.ttf")) if "Display" not in path.name]  # these have no letters
    fonts = [ImageFont.truetype(path, 100) for path in paths]
    images = np.stack([draw_letter(letter, font) for font in fonts for letter in LETTERS])
    order = np.random.default_rng(0).permutation(len(images))[:count]
    return torch.from_numpy(images[order])[:, None]


def make_outliers(digits: torch.Tensor, seed: int) -> dict[str, torch.Tensor]:
    """{kind: images}, like test digits, uint8 (N, 1, 28, 28)."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "test digits": digits,
        "flipped left to right": digits.flip(-1),
        "flipped upside down": digits.flip(-2),
        "letters": draw_letters(len(digits)),
        "black": torch.zeros_like(digits),
        "grey": torch.full_like(digits, 128),
        "white": torch.full_like(digits, 255),
        "uniform noise": torch.randint(256, digits.shape, generator=generator).byte(),
        "pixels of other digits": shuffle_pixels(digits, generator),
    }


def shuffle_pixels(images: torch.Tensor, generator) -> torch.Tensor:
    """Images (N, ...), each pixel of which is that of an image at random: the same means, and no shape."""
    order = torch.rand(images.shape, generator=generator).argsort(dim=0)
    return images.gather(0, order)


def main(argv=None):
    """Measure and print the table; returns {kind: negative log-likelihoods (N,)}."""
    args = parse_args(argv)
    model, checkpoint = load_model(args.model, args.output_root)
    _, test_set = find_images(args.model, checkpoint, args.data, args.data_root)
    log_subject(test_set, checkpoint)
    functions = densities(model, MODELS[args.model])
    estimates = {}
    log("| images | log p(x) | less likely than a test digit |")
    log("|---|---|---|")
    for kind, images in make_outliers(test_set.images[:COUNT], args.seed).items():
        images = binarize(images) if args.model == IWAE else images
        dataset = ImageDataset(images, torch.zeros(len(images), dtype=torch.long), test_set.info)
        nll = estimate_likelihood(dataset, *functions, args.samples, args.seed).nll
        estimates[kind] = nll
        less_likely = (nll[:, None] > estimates["test digits"]).double().mean()
        log(f"| {kind} | {describe_mean(-nll)} | {less_likely:.1%} |")
    return estimates


if __name__ == "__main__":
    run_script(main)
