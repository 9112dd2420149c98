"""Procedural stand-ins for the data: three species of flowers, drawn by formula, and digits, bent from printed ones.

They exist so that every command works on a machine without the data. They are about as hard as the real
pictures: the mean image's squared error and the principal components' are close to theirs.
"""

from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch.nn.functional import affine_grid, avg_pool2d, grid_sample, interpolate

FLOWER_CLASSES = ("astilbe", "bellflower", "calendula")

# Colours in [0, 1], one drawn for each flower or background and then varied.
BLOSSOMS = {
    "astilbe": [(0.85, 0.45, 0.65), (0.75, 0.1, 0.3), (0.9, 0.85, 0.8), (0.7, 0.3, 0.6), (0.85, 0.2, 0.2)],
    "bellflower": [(0.5, 0.4, 0.85), (0.35, 0.3, 0.75), (0.9, 0.9, 0.95), (0.6, 0.35, 0.75), (0.45, 0.55, 0.95)],
    "calendula": [(0.95, 0.55, 0.05), (0.95, 0.75, 0.1), (0.9, 0.4, 0.05), (0.95, 0.65, 0.25)],
}
BACKGROUNDS = [
    (0.18, 0.3, 0.1),
    (0.3, 0.42, 0.2),
    (0.25, 0.35, 0.12),
    (0.08, 0.1, 0.05),
    (0.35, 0.3, 0.22),
    (0.5, 0.55, 0.55),
]

DIGIT_SIDE, DIGIT_BOX = 28, 20  # of an MNIST image, and of the box that a digit is scaled to, in pixels
DIGIT_FONTS = (
    *("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSerif", "DejaVuSerif-Italic", "DejaVuSerif-Bold"),
    *("STIXGeneral", "STIXGeneralItalic", "STIXGeneralBol", "cmr10", "cmss10", "cmtt10"),
)  # that matplotlib ships, so they are on every machine
FINENESS = 3  # pixels of a printed digit for each of the drawn image


def make_flowers(per_class: int = 1000, height: int = 24, width: int = 24, seed: int = 0):
    """Draw `per_class` flowers of each species; the same arguments give the same bytes.

    Returns images, uint8 (3 * per_class, 3, height, width), and labels, int64, indices into FLOWER_CLASSES.
    """
    rng = np.random.default_rng(seed)
    images = np.concatenate([_draw_species(rng, name, per_class, height, width) for name in FLOWER_CLASSES])
    return images, np.repeat(np.arange(len(FLOWER_CLASSES)), per_class)


def _draw_species(rng, species, count, height, width):
    """Paint a background, then up to five blossoms over one another -> uint8 (count, 3, height, width)."""
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    canvas = _pick(rng, BACKGROUNDS, count, spread=0.05)[:, :, None, None]
    canvas = canvas + 0.05 * _clouds(rng, count, 3, height, width) + 0.11 * _clouds(rng, count, 1, height, width)
    colours = _pick(rng, BLOSSOMS[species], count, spread=0.07)
    blossoms = rng.choice([1, 1, 1, 2, 3, 5], count)
    for k in range(blossoms.max()):
        size = rng.uniform(0.7, 1.25, count) / blossoms**0.4
        shape, light = _blossom(rng, species, x, y, size, reach=np.where(blossoms > 1, 0.75, 0.3))
        shape *= (k < blossoms)[:, None, None]
        tint = (colours + rng.normal(0, 0.04, (count, 3)))[:, :, None, None] * light[:, None]
        canvas += shape[:, None] * (tint - canvas)
    canvas = _light(rng, canvas, x, y) + rng.normal(0, 0.02, canvas.shape)
    return (canvas.clip(0, 1) * 255).round().astype(np.uint8)


def _blossom(rng, species, x, y, size, reach):
    """One blossom an image: its coverage in [0, 1] and its brightness, each (count, height, width)."""
    count = len(size)

    def draw(low, high):
        return rng.uniform(low, high, count)[:, None, None]

    size, reach = size[:, None, None], reach[:, None, None]  # reach: how far from the middle it may stand
    tilt, squash = draw(-0.5, 0.5), draw(0.65, 1.0)
    u, v = x - reach * draw(-1, 1), y - reach * draw(-1, 1)
    u, v = u * np.cos(tilt) + v * np.sin(tilt), (v * np.cos(tilt) - u * np.sin(tilt)) / squash
    r, angle = np.hypot(u, v) / size, np.arctan2(v, u)
    if species == "astilbe":  # a plume: a cone of many small florets
        along = (v / size + 1) / 2
        edge = np.minimum(0.5 * along * draw(0.6, 1.4) - np.abs(u / size), 1 - along)
        edge += 0.1 * _clouds(rng, count, 1, *x.shape, slope=0.8)[:, 0]
        light = 0.85 + 0.2 * _clouds(rng, count, 1, *x.shape, slope=0.6)[:, 0]
    elif species == "bellflower":  # five pointed lobes, pale in the middle
        edge = 0.6 + draw(0.1, 0.3) * np.cos(5 * angle + draw(0, 6)) - r
        light = 1.15 - draw(0.2, 0.6) * r + 0.12 * np.cos(10 * angle)
    else:  # a disc of rays around a centre
        petals = rng.integers(10, 20, count)[:, None, None]
        edge = 0.8 + 0.1 * np.cos(petals * angle + draw(0, 6)) - r
        centre = 1 / (1 + np.exp(((r - draw(0.1, 0.35)) * 15).clip(-50, 50)))
        light = 0.75 + 0.3 * r + 0.1 * np.cos(petals * angle) - draw(-0.1, 0.7) * centre
    softness = 0.13  # in units of the blossom's size: about one pixel at 24 x 24
    return 1 / (1 + np.exp((-edge / softness * 2).clip(-50, 50))), light


def _clouds(rng, count, channels, height, width, slope=1.6):
    """Smooth random fields of variance 1 with the falling spectrum of natural images (Field 1987)."""
    fy, fx = np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width) * width
    amplitude = 1 / np.maximum(np.hypot(fy, fx), 1) ** slope
    spectrum = np.fft.rfft2(rng.normal(size=(count, channels, height, width))) * amplitude
    fields = np.fft.irfft2(spectrum, s=(height, width))
    return fields / fields.std()


def _light(rng, canvas, x, y):
    """Exposure, contrast, and a brightness that falls off to one side."""
    count = len(canvas)
    exposure, slope_x, slope_y = (rng.normal(0, s, count)[:, None, None, None] for s in (0.17, 0.12, 0.12))
    return canvas * np.exp(exposure + slope_x * x + slope_y * y)


def _pick(rng, palette, count, spread):
    """`count` colours drawn from the palette and varied, (count, 3)."""
    return np.array(palette)[rng.integers(len(palette), size=count)] + rng.normal(0, spread, (count, 3))


def make_digits(count: int = 70_000, seed: int = 0):
    """Draw `count` digits as MNIST has them, white on black and about centred; the same arguments give the same digits.

    Each is a printed digit that was slanted, turned, scaled, bent elastically and drawn with a thicker or thinner pen.
    Returns images, uint8 tensor (count, 1, 28, 28), and labels, int64 tensor (count,).
    """
    generator = torch.Generator().manual_seed(seed)
    printed = torch.stack([_print_digit(font, str(digit)) for font in DIGIT_FONTS for digit in range(10)])
    labels = torch.randint(10, (count,), generator=generator)
    chosen = 10 * torch.randint(len(DIGIT_FONTS), (count,), generator=generator) + labels
    return torch.cat([_bend(printed[part], generator) for part in chosen.split(1000)]), labels


@cache
def _print_digit(font, digit):
    """A printed digit with soft edges, (1, 84, 84) from 0 to 1."""
    side = FINENESS * DIGIT_SIDE
    typeface = ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf")), 100)
    left, top, right, bottom = typeface.getbbox(digit)
    typeface = typeface.font_variant(size=100 * FINENESS * DIGIT_BOX / max(right - left, bottom - top))
    image = Image.new("L", (side, side))
    ImageDraw.Draw(image).text((side / 2, side / 2), digit, fill=255, font=typeface, anchor="mm")
    ink = np.asarray(image) / 255
    down, right = (round((side - 1) / 2 - places.mean()) for places in np.nonzero(ink))
    ink = torch.from_numpy(np.roll(ink, (down, right), axis=(0, 1))).float()[None]
    return avg_pool2d(ink, 2 * FINENESS - 1, stride=1, padding=FINENESS - 1)


def _bend(printed, generator):
    """Printed digits (B, 1, 84, 84) -> written ones, uint8 (B, 1, 28, 28)."""
    count = len(printed)

    def normal(spread, *shape):
        return spread * torch.randn(count, *shape, generator=generator)

    angle = normal(0.12)
    slant = 0.1 + normal(0.25)
    height = 0.85 + 0.25 * torch.rand(count, generator=generator)
    width = height * normal(0.12).exp()
    x_axis = torch.stack([angle.cos(), angle.sin() + slant, torch.zeros(count)], dim=1) / width[:, None]
    y_axis = torch.stack([-angle.sin(), angle.cos(), torch.zeros(count)], dim=1) / height[:, None]
    grid = affine_grid(torch.stack([x_axis, y_axis], dim=1), (count, 1, DIGIT_SIDE, DIGIT_SIDE), align_corners=True)
    bends = interpolate(normal(0.1, 2, 4, 4), (DIGIT_SIDE, DIGIT_SIDE), mode="bicubic", align_corners=True)
    bends -= bends.mean(dim=(2, 3), keepdim=True)  # the mass stays in the centre
    ink = grid_sample(printed, grid + bends.permute(0, 2, 3, 1), align_corners=True)
    ink = ink / ink.amax(dim=(2, 3), keepdim=True)  # a thin stroke is no paler than others
    edge = 0.35 + 0.2 * torch.rand(count, 1, 1, 1, generator=generator)  # lower: a thicker pen
    return (255 * (0.5 + 2 * (ink - edge)).clamp(0, 1)).round().byte()
