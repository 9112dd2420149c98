"""The flowers: what is read, what is refused, and what the loaders promise."""

import os
import random
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REAL_FLOWERS, needs_flowers
from PIL import Image

import data
from data import create_flower_dataloaders, describe
from synthetic import FLOWER_CLASSES, make_flowers
from training import PROJECT, UserError

ORANGE = (240, 120, 30)


def save_class(folder, count, color=ORANGE):
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (40, 30), color).save(folder / f"{number}.png")


def load_all(root, **options):
    """All images and labels below root, train and validation together."""
    loaders = create_flower_dataloaders(4, str(root), **options)
    batches = [batch for loader in loaders for batch in loader]
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def test_batches_are_floats_in_the_unit_interval(tiny_flowers):
    train, valid = create_flower_dataloaders(16, str(tiny_flowers), img_width=20, img_height=28)
    assert isinstance(train, torch.utils.data.DataLoader)
    assert (len(train.dataset), len(valid.dataset)) == (48, 12)
    for loader in (train, valid):
        images, labels = next(iter(loader))
        assert images.shape[1:] == (3, 28, 20)
        assert images.dtype == torch.float32
        assert 0 <= images.min() < images.max() <= 1
        assert labels.dtype == torch.int64
        assert set(labels.tolist()) <= {0, 1, 2}
    assert [len(images) for images, _ in train] == [16, 16, 16]
    assert len(train) == 3


def test_each_epoch_shows_every_training_image_once_in_a_new_order(tiny_flowers):
    train, valid = create_flower_dataloaders(16, str(tiny_flowers))

    def epoch(loader):
        return torch.cat([images for images, _ in loader]).flatten(1)

    first, second = epoch(train), epoch(train)
    assert not torch.equal(first, second)
    assert sorted(map(tuple, first.tolist())) == sorted(map(tuple, second.tolist()))
    assert torch.equal(epoch(valid), epoch(valid))


def test_the_split_is_seeded_disjoint_and_complete(tiny_flowers):
    def split(seed):
        loaders = create_flower_dataloaders(16, str(tiny_flowers), split_seed=seed)
        return [{image.numpy().tobytes() for image in loader.dataset.images} for loader in loaders]

    train, valid = split(0)
    assert not train & valid
    assert len(train | valid) == 60
    assert split(0) == [train, valid]
    assert split(1) != [train, valid]


def test_the_order_of_the_file_system_does_not_matter(tiny_flowers, monkeypatch):
    expected = create_flower_dataloaders(16, str(tiny_flowers))[1].dataset
    for name in ("iterdir", "rglob"):
        original = getattr(Path, name)

        def shuffled(self, *args, original=original):
            entries = list(original(self, *args))
            random.Random(5).shuffle(entries)
            return iter(entries)

        monkeypatch.setattr(Path, name, shuffled)
    found = create_flower_dataloaders(16, str(tiny_flowers))[1].dataset
    assert found.info == expected.info
    assert torch.equal(found.images, expected.images)


def test_labels_follow_the_folders(tmp_path):
    save_class(tmp_path / "red", 5, (255, 0, 0))
    save_class(tmp_path / "blue", 5, (0, 0, 255))
    images, labels = load_all(tmp_path)
    assert create_flower_dataloaders(4, str(tmp_path))[0].dataset.info["classes"] == ["blue", "red"]
    for image, label in zip(images, labels, strict=True):
        assert image[:, 0, 0].tolist() == ([0, 0, 1] if label == 0 else [1, 0, 0])


def every_mode():
    """(file name, image, save options, RGB expected in the middle of the left half)."""
    plain = Image.new("RGB", (64, 48), ORANGE)
    grey16 = Image.fromarray(np.full((48, 64), 257 * 100, np.uint16))
    see_through = Image.new("RGBA", (64, 48), (*ORANGE, 0))
    half = Image.new("RGBA", (64, 48), (0, 0, 0, 128))
    palette = Image.new("P", (64, 48), 1)
    palette.putpalette([0, 0, 0, *ORANGE])
    rotated = plain.copy()
    rotated.paste((0, 0, 255), (0, 24, 64, 48))  # the lower half; with orientation 6 it lies on the left
    orientation = Image.Exif()
    orientation[0x0112] = 6
    return [
        ("rgb.png", plain, {}, ORANGE),
        ("rgb.jpg", plain, {"quality": 95}, ORANGE),
        ("jpeg named.png", plain, {"format": "JPEG", "quality": 95}, ORANGE),
        ("grey.png", Image.new("L", (64, 48), 100), {}, (100, 100, 100)),
        ("grey16.png", grey16, {}, (100, 100, 100)),
        ("grey16.tif", grey16, {}, (100, 100, 100)),
        ("bilevel.png", Image.new("1", (64, 48), 1), {}, (255, 255, 255)),
        ("palette.png", palette, {}, ORANGE),
        ("palette, transparent.png", palette, {"transparency": 1}, (255, 255, 255)),
        ("rgba.png", Image.new("RGBA", (64, 48), (*ORANGE, 255)), {}, ORANGE),
        ("rgba, transparent.png", see_through, {}, (255, 255, 255)),
        ("rgba, half.png", half, {}, (127, 127, 127)),
        ("grey alpha.png", Image.new("LA", (64, 48), (100, 255)), {}, (100, 100, 100)),
        ("cmyk.jpg", Image.new("CMYK", (64, 48), (0, 128, 255, 0)), {"quality": 95}, (255, 127, 0)),
        ("rotated.jpg", rotated, {"exif": orientation, "quality": 95}, (0, 0, 255)),
        ("animated.gif", palette, {"save_all": True, "append_images": [Image.new("P", (64, 48))]}, ORANGE),
        ("tiny.png", Image.new("RGB", (1, 1), ORANGE), {}, ORANGE),
        ("blüte 花.png", plain, {}, ORANGE),
    ]


@pytest.mark.parametrize(("name", "image", "options", "expected"), every_mode(), ids=[row[0] for row in every_mode()])
def test_every_kind_of_image_comes_out_as_rgb(tmp_path, name, image, options, expected):
    (tmp_path / "flower").mkdir()
    for copy in "ab":  # two, because one image cannot be split
        image.save(tmp_path / "flower" / f"{copy} {name}", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images, _ = load_all(tmp_path)
    np.testing.assert_allclose(images[0, :, 12, 6] * 255, expected, atol=3)


def test_images_are_made_smaller_without_aliasing(tmp_path):
    (tmp_path / "rose").mkdir()
    checkerboard = (np.indices((240, 240)).sum(axis=0) % 2 * 255).astype(np.uint8)
    for name in ("a.png", "b.jpg"):
        Image.fromarray(checkerboard).save(tmp_path / "rose" / name)
    images, _ = load_all(tmp_path)
    np.testing.assert_allclose(images, 0.5, atol=0.02)


def test_unreadable_files_are_skipped_with_one_warning(tmp_path):
    save_class(tmp_path / "flower", 6)
    whole = (tmp_path / "flower" / "0.png").read_bytes()
    (tmp_path / "flower" / "empty.jpg").touch()
    (tmp_path / "flower" / "text.jpg").write_text("not an image")
    (tmp_path / "flower" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "flower" / "dangling.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "flower" / ".hidden").write_text("passed over")
    (tmp_path / "beside the classes.txt").write_text("passed over")
    with pytest.warns(UserWarning, match="skipped 4 of 10 files") as caught:
        images, _ = load_all(tmp_path)
    assert len(caught) == 1
    for name in ("empty.jpg", "text.jpg", "cut.png", "dangling.png"):
        assert name in str(caught[0].message)
    assert len(images) == 6


def test_a_long_list_of_unreadable_files_is_counted(tmp_path):
    save_class(tmp_path / "flower", 800)
    for number in range(200):
        (tmp_path / "flower" / f"bad{number}.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut")
    with pytest.warns(UserWarning, match="skipped 200 of 1000 files.* and 195 more") as caught:
        images, _ = load_all(tmp_path)
    assert (len(images), len(caught)) == (800, 1)


@pytest.mark.parametrize("side", [20_000, 8_000])
def test_an_image_that_is_meant_to_fill_the_memory_is_skipped(side, tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    save_class(tmp_path / "rose", 2)
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )
    (tmp_path / "rose" / "bomb.png").write_bytes(bomb)
    with pytest.warns(UserWarning, match=r"skipped 1 of 3 files.*bomb.png \((DecompressionBombError|ValueError)\)"):
        images, _ = load_all(tmp_path)
    assert len(images) == 2


def test_files_that_are_no_files_are_passed_over(tmp_path):
    save_class(tmp_path / "rose", 2)
    os.mkfifo(tmp_path / "rose" / "pipe.jpg")  # to open it would wait for ever
    assert len(load_all(tmp_path)[0]) == 2


def test_pictures_that_are_programs_are_not_run(tmp_path, monkeypatch):
    save_class(tmp_path / "images" / "rose", 2)
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "rose" / "program.png", format="EPS")
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/was-run\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.warns(UserWarning, match=r"skipped 1 of 3 files.*program.png \(ValueError\)"):
        load_all(tmp_path / "images")
    assert not (tmp_path / "was-run").exists()


def test_a_link_to_a_folder_in_a_class_is_said_not_followed(tmp_path):
    save_class(tmp_path / "images" / "rose", 2)
    (tmp_path / "images" / "rose" / "round").symlink_to(tmp_path / "images" / "rose")
    with pytest.warns(UserWarning, match=r"skipped 1 of 3 files.*round \(IsADirectoryError\)"):
        images, _ = load_all(tmp_path / "images")
    assert len(images) == 2


def test_a_folders_name_cannot_forge_a_line_of_the_log(tmp_path):
    save_class(tmp_path / "rose\nEpoch: 1, Valid Loss: 0.001\x1b[2J", 2)
    assert describe(*create_flower_dataloaders(4, str(tmp_path))).isprintable()


def test_an_image_without_a_range_of_values_is_skipped(tmp_path):
    save_class(tmp_path / "rose", 2)
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "rose" / "float.tif")
    with pytest.warns(UserWarning, match=r"skipped 1 of 3 files.*float.tif \(ValueError\)"):
        images, _ = load_all(tmp_path)
    assert len(images) == 2


def test_a_folder_that_cannot_be_used_is_a_clear_error(tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder.*--data-root.*--data synthetic"):
        load_all(tmp_path / "nowhere")
    with pytest.raises(UserError, match="nowhere is not a folder"):
        load_all(tmp_path / "nowhere", data="synthetic")
    with pytest.raises(UserError, match="0 image.*sub-folder a class"):
        load_all(tmp_path)
    save_class(tmp_path / "rose", 1)
    with pytest.raises(UserError, match="1 image.*need 2 or more"):
        load_all(tmp_path)
    (tmp_path / "tulip").mkdir()
    with pytest.raises(UserError, match="tulip is empty"):
        load_all(tmp_path)
    (tmp_path / "tulip" / "text.jpg").write_text("not an image")
    with pytest.warns(UserWarning, match="text.jpg"), pytest.raises(UserError, match="tulip is a readable image"):
        load_all(tmp_path)
    with pytest.raises(UserError, match='"auto", "real" or "synthetic"'):
        load_all(tmp_path, data="fake")


def test_two_images_are_one_to_train_on_and_one_to_validate_on(tmp_path):
    save_class(tmp_path / "rose", 2)
    assert [len(loader.dataset) for loader in create_flower_dataloaders(4, str(tmp_path))] == [1, 1]


def test_the_stand_in_is_used_where_there_are_no_photographs_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "PROJECT", tmp_path)
    with pytest.warns(UserWarning, match="no photographs in ./flowers: procedural flowers stand in"):
        loaders = create_flower_dataloaders(16)
    info = loaders[0].dataset.info
    assert info["name"] == "synthetic flowers"
    assert "stand-in" in describe(*loaders)
    assert (info["images"], info["image_size"]) == (3000, [24, 24])
    with pytest.raises(UserError, match="is not a folder"):
        create_flower_dataloaders(16, data="real")
    (tmp_path / "flowers").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="flowers is not a folder"):
        create_flower_dataloaders(16)


def test_the_folder_of_the_project_is_the_default_wherever_it_is_called_from(tmp_path, monkeypatch):
    save_class(tmp_path / "project" / "flowers" / "rose", 4)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(data, "PROJECT", tmp_path / "project")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert create_flower_dataloaders(16)[0].dataset.info["images"] == 4


def test_the_stand_in_is_seeded_and_about_as_hard_as_the_photographs():
    images, labels = make_flowers()
    assert images.shape == (3000, 3, 24, 24)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(np.bincount(labels), [1000] * len(FLOWER_CLASSES))
    again, _ = make_flowers()
    np.testing.assert_array_equal(images, again)
    other, _ = make_flowers(seed=1)
    assert (images != other).mean() > 0.9
    assert 0.045 < mean_image_error(images) < 0.06


@needs_flowers
def test_the_photographs():
    train, valid = create_flower_dataloaders(16, data="real")
    assert train.dataset.info["classes"] == sorted(os.listdir(REAL_FLOWERS))
    assert (len(train.dataset), len(valid.dataset)) == (2070, 518)
    assert 0.045 < mean_image_error(train.dataset.images.numpy()) < 0.06


def mean_image_error(images):
    """Mean squared error of answering with the mean image."""
    return float(np.mean((images / 255).var(axis=0)))


def test_small_photographs_can_be_large(tmp_path):
    """A size above the photographs' own is an enlargement, not an error."""
    save_class(tmp_path / "rose", 3)
    images, _ = load_all(tmp_path, img_width=100, img_height=60)
    assert images.shape == (3, 3, 60, 100)


def test_half_of_the_training_images_are_mirrored_each_time_anew(tiny_flowers):
    plain = create_flower_dataloaders(16, str(tiny_flowers))
    mirrored = create_flower_dataloaders(16, str(tiny_flowers), mirror=True)
    original = plain[0].dataset[:][0]
    torch.manual_seed(0)
    shares = []
    for _ in range(20):
        images, labels = mirrored[0].dataset[:]
        kept = (images == original).flatten(1).all(dim=1)
        turned = (images == original.flip(3)).flatten(1).all(dim=1)
        assert (kept | turned).all()
        assert torch.equal(labels, plain[0].dataset[:][1])
        shares.append(turned.float().mean().item())
    assert np.mean(shares) == pytest.approx(0.5, abs=0.05)
    assert len(set(shares)) > 1
    image, _ = mirrored[0].dataset[3]
    assert torch.equal(image, original[3]) or torch.equal(image, original[3].flip(2))
    assert torch.equal(mirrored[1].dataset[:][0], plain[1].dataset[:][0])


def test_torchvision_can_be_imported_beside_any_build_of_pytorch():
    code = "from data import import_torchvision; first = import_torchvision(); second = import_torchvision()"
    code += "; from torchvision.datasets import ImageFolder, MNIST; assert first is second; print(first.__name__)"
    result = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert result.stdout == "torchvision\n", result.stderr
