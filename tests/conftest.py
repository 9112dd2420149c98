"""Small data that the tests share."""

import numpy as np
import pytest
from PIL import Image

from synthetic import FLOWER_CLASSES, make_flowers
from training import PROJECT

REAL_FLOWERS = PROJECT / "flowers"
needs_flowers = pytest.mark.skipif(not REAL_FLOWERS.exists(), reason="the photographs are not in ./flowers")


@pytest.fixture(scope="session")
def tiny_flowers(tmp_path_factory):
    """A folder of three classes with 20 PNGs each."""
    root = tmp_path_factory.mktemp("tiny flowers")
    images, labels = make_flowers(per_class=20)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / FLOWER_CLASSES[label]
        folder.mkdir(exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(folder / f"{number:03}.png")
    return root


def assert_picture(path):
    """A picture that opens, has a sensible size, and is not blank."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[0] > 200
    assert pixels.shape[1] > 400
    assert pixels.std() > 5
