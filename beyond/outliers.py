"""Does a VAE of MNIST find images that are no digits less likely than digits? (After Nalisnick et al. 2019.)

    python -m beyond.outliers --model MNIST_VAE         # 5 minutes; also: MNIST_IWAE, whose images are binarized

Prints the log-likelihoods of test digits and of other images, and how often an image is less likely than a test digit
(the area under the ROC curve): 100 % is what one would wish, 50 % is chance. They are estimated by importance sampling.
The encoder does not know such images, and with its q(z|x) they seem far less likely than they are; so q is optimised
for each image, from the prior on.
"""

from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from beyond.anatomy import optimise
from beyond.iwae import NAME as IWAE
from beyond.iwae import binarize
from beyond.likelihood import densities, describe_mean, estimate_batch, find_images, log_subject
from common.flags import MNIST_HELP, add_data_flags, make_parser, natural_int
from common.process import log, run_script
from datasets.synthetic import DIGIT_BOX, DIGIT_SIDE
from trained.loading import load_model
from trained.registry import MODELS

COUNT = 100  # images of each kind
COPIES = 10  # of an image of one colour, whose differences show the error of the estimate
SAMPLES = 500  # of q for each image
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
FONTS = Path(matplotlib.get_data_path(), "fonts", "ttf")


def parse_args(argv=None):
    """The flags."""
    parser = make_parser("Compare the likelihoods of test digits and of other images.", module="beyond.outliers")
    parser.add_argument("--model", choices=["MNIST_VAE", IWAE], required=True, help="whose likelihood")
    parser.add_argument("--seed", metavar="N", type=natural_int, default=0, help="of the samples and of the noise")
    add_data_flags(parser, MNIST_HELP)
    return parser.parse_args(argv)


def draw_letter(letter: str, font: ImageFont.FreeTypeFont) -> np.ndarray:
    """A letter as MNIST has its digits, uint8 (28, 28): the longer side 20 pixels, the centre of mass in the middle."""
    left, top, right, bottom = font.getbbox(letter)
    canvas = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(canvas).text((-left, -top), letter, fill=255, font=font)
    scale = DIGIT_BOX / max(canvas.size)
    size = [max(1, round(scale * side)) for side in canvas.size]
    small = np.asarray(canvas.resize(size, Image.Resampling.LANCZOS))
    rows, columns = (np.average(places, weights=small) for places in np.indices(small.shape))
    height, width = small.shape
    row = int(np.clip(round((DIGIT_SIDE - 1) / 2 - rows), 0, DIGIT_SIDE - height))
    column = int(np.clip(round((DIGIT_SIDE - 1) / 2 - columns), 0, DIGIT_SIDE - width))
    image = np.zeros((DIGIT_SIDE, DIGIT_SIDE), np.uint8)
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
    order = torch.rand(digits.shape, generator=generator).argsort(dim=0)
    return {
        "test digits": digits,
        "flipped left to right": digits.flip(-1),
        "letters": draw_letters(len(digits)),
        "black": torch.zeros_like(digits[:COPIES]),
        "grey": torch.full_like(digits[:COPIES], 128),
        "white": torch.full_like(digits[:COPIES], 255),
        "uniform noise": torch.randint(256, digits.shape, generator=generator).byte(),
        "each pixel of another digit": digits.gather(0, order),
    }


def estimate_nll(posterior, log_likelihood, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """-log p(x) of images (N, 1, 28, 28) in [0, 1], by the optimised q and by the encoder's, each (N,)."""
    labels = torch.zeros(len(images), dtype=torch.long)  # a VAE takes no notice of them
    mu, sigma = posterior(images, labels)
    best = optimise(log_likelihood, images, labels, torch.zeros_like(mu), torch.ones_like(sigma))
    estimates = [estimate_batch(images, labels, log_likelihood, SAMPLES, *q) for q in (best, (mu, sigma))]
    return estimates[0][0], estimates[1][0]


def main(argv=None):
    """Measure and print the table; returns {kind: negative log-likelihoods (N,)}."""
    args = parse_args(argv)
    model, checkpoint = load_model(args.model, args.output_root)
    _, test_set = find_images(args.model, checkpoint, args.data, args.data_root)
    log_subject(test_set, checkpoint)
    model.requires_grad_(False)
    functions = densities(model, MODELS[args.model])
    torch.manual_seed(args.seed)
    nats = {}
    log("| images | log p(x) | less likely than a test digit | log p(x) by the encoder's q |")
    log("|---|---|---|---|")
    for kind, images in make_outliers(test_set.images[:COUNT], args.seed).items():
        images = binarize(images) if args.model == IWAE else images
        nll, encoders = estimate_nll(*functions, images / 255)
        nats[kind] = nll
        less_likely = (nll[:, None] > nats["test digits"]).double().mean()
        log(f"| {kind} | {describe_mean(-nll)} | {less_likely:.1%} | {-encoders.mean().item():.2f} |")
    return nats


if __name__ == "__main__":
    run_script(main)
