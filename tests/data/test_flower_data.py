"""The flowers: what is read, what is refused, and what the loaders promise."""

import os
import re
import shutil
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from helpers import REAL_FLOWERS, needs_flowers
from PIL import Image

import datasets
from common import PROJECT, UserError
from data import create_flower_dataloaders
from datasets.images import choose_output_root, data_line, mirror, shift
from datasets.synthetic import make_flowers

ORANGE = (240, 120, 30)


def save_class(folder, count, color=ORANGE):
    folder.mkdir(parents=True)
    for number in range(count):
        Image.new("RGB", (40, 30), color).save(folder / f"{number}.png")


def load_all(root, **options):
    """All images and labels below root, train and validation together."""
    loaders = create_flower_dataloaders(4, root, **options)
    batches = [batch for loader in loaders for batch in loader]
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


def test_batches_are_floats_in_the_unit_interval_in_a_new_order_each_epoch(tiny_flowers):
    train, valid = create_flower_dataloaders(16, str(tiny_flowers), img_width=20, img_height=28)
    assert isinstance(train, torch.utils.data.DataLoader)
    assert (len(train.dataset), len(valid.dataset), len(train)) == (48, 12, 3)
    assert [len(images) for images, _ in train] == [16, 16, 16]
    for images, labels in (*train, *valid):
        assert (images.shape[1:], images.dtype, labels.dtype) == ((3, 28, 20), torch.float32, torch.int64)
        assert 0 <= images.min() < images.max() <= 1
        assert set(labels.tolist()) <= {0, 1, 2}
    epochs = [torch.cat([images for images, _ in loader]).flatten(1) for loader in (train, train, valid, valid)]
    assert not torch.equal(epochs[0], epochs[1])
    assert sorted(map(tuple, epochs[0].tolist())) == sorted(map(tuple, epochs[1].tolist()))
    assert torch.equal(epochs[2], epochs[3])


def test_the_split_is_seeded_disjoint_complete_and_does_not_depend_on_the_file_system(tiny_flowers, monkeypatch):
    def split(seed):
        loaders = create_flower_dataloaders(16, tiny_flowers, split_seed=seed)
        return [[image.numpy().tobytes() for image in loader.dataset.images] for loader in loaders]

    train, valid = split(0)
    assert set(train).isdisjoint(valid)
    assert len({*train, *valid}) == 60
    assert set(split(1)[0]) != set(train)
    iterdir = Path.iterdir
    walk = os.walk
    monkeypatch.setattr(Path, "iterdir", lambda folder: reversed([*iterdir(folder)]))
    monkeypatch.setattr(os, "walk", lambda *args, **_: ((*folders, files[::-1]) for *folders, files in walk(*args)))
    assert split(0) == [train, valid]


def test_labels_follow_the_folders_whose_names_cannot_forge_a_line_of_the_log(tmp_path):
    red = tmp_path / "red\nEpoch: 1\x1b[2J"
    save_class(red, 3, (255, 0, 0))
    save_class(red / "at any" / "depth", 3, (255, 0, 0))
    save_class(tmp_path / "blue", 5, (0, 0, 255))
    assert "2 classes (blue, red Epoch: 1 [2J)" in data_line(*create_flower_dataloaders(4, tmp_path))
    images, labels = load_all(tmp_path)
    assert labels.bincount().tolist() == [5, 6]
    for image, label in zip(images, labels, strict=True):
        assert image[:, 0, 0].tolist() == ([0, 0, 1] if label == 0 else [1, 0, 0])


def test_shifted_images_are_moved_by_a_pixel_and_their_edges_repeated():
    images = torch.rand(900, 3, 5, 7)
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), mode="replicate")
    places = []
    for moved, around in zip(shift(images, 0.3), padded, strict=True):
        windows = {(i, j): around[:, i : i + 5, j : j + 7] for i in range(3) for j in range(3)}
        [place] = [place for place, window in windows.items() if torch.equal(moved, window)]
        places.append(place)
    assert len(set(places)) == 9
    assert places.count((1, 1)) / 900 == pytest.approx(1 - 0.3 * 8 / 9, abs=0.06)
    assert shift(images[0], 1.0).shape == (3, 5, 7)
    assert shift(images.to("meta"), 1.0).device.type == "meta"


def test_half_of_the_training_images_are_mirrored_differently_each_time(tiny_flowers):
    plain = create_flower_dataloaders(16, tiny_flowers)
    mirrored = create_flower_dataloaders(16, tiny_flowers, transform=mirror)
    original, labels = plain[0].dataset[:]
    torch.manual_seed(0)
    shares = []
    for _ in range(20):
        images, same_labels = mirrored[0].dataset[:]
        kept, flipped = ((images == other).flatten(1).all(dim=1) for other in (original, original.flip(3)))
        assert (kept | flipped).all()
        assert torch.equal(same_labels, labels)
        shares.append(flipped.float().mean().item())
    assert np.mean(shares) == pytest.approx(0.5, abs=0.05)
    assert len(set(shares)) > 1
    image, _ = mirrored[0].dataset[3]
    assert torch.equal(image, original[3]) or torch.equal(image, original[3].flip(2))
    assert torch.equal(mirrored[1].dataset[:][0], plain[1].dataset[:][0])
    images, labels = mirrored[0].dataset.to("meta")[[0, 1]]  # also where the images are held on another device
    assert (images.device.type, labels.device.type, images.dtype) == ("meta", "meta", torch.float32)


def kinds_of_image():
    """(file name, image, save options, RGB expected in the upper left quarter)."""
    size = (64, 48)
    plain = Image.new("RGB", size, ORANGE)
    palette = Image.new("P", size, 1)
    palette.putpalette([0, 0, 0, *ORANGE])
    grey16 = Image.fromarray(np.full((48, 64), 257 * 100, np.uint16))
    rotated = plain.copy()
    rotated.paste((0, 0, 255), (0, 24, 64, 48))  # the lower half; with orientation 6 it lies on the left
    orientation = Image.Exif()
    orientation[0x0112] = 6
    return [
        ("blüte 花.png", plain, {}, ORANGE),
        ("rgb.jpg", plain, {"quality": 95}, ORANGE),
        ("jpeg named.png", plain, {"format": "JPEG", "quality": 95}, ORANGE),
        ("grey.png", Image.new("L", size, 100), {}, (100, 100, 100)),
        ("grey16.png", grey16, {}, (100, 100, 100)),
        ("grey16.tif", grey16, {}, (100, 100, 100)),
        ("bilevel.png", Image.new("1", size, 1), {}, (255, 255, 255)),
        ("palette.png", palette, {}, ORANGE),
        ("palette, transparent.png", palette, {"transparency": 1}, (255, 255, 255)),
        ("rgba.png", Image.new("RGBA", size, (*ORANGE, 255)), {}, ORANGE),
        ("rgba, transparent.png", Image.new("RGBA", size, (*ORANGE, 0)), {}, (255, 255, 255)),
        ("rgba, half.png", Image.new("RGBA", size, (0, 0, 0, 128)), {}, (127, 127, 127)),
        ("grey alpha.png", Image.new("LA", size, (100, 255)), {}, (100, 100, 100)),
        ("cmyk.jpg", Image.new("CMYK", size, (0, 128, 255, 0)), {"quality": 95}, (255, 127, 0)),
        ("rotated.jpg", rotated, {"exif": orientation, "quality": 95}, (0, 0, 255)),
        ("animated.gif", palette, {"save_all": True, "append_images": [Image.new("P", size)]}, ORANGE),
        ("tiny.png", Image.new("RGB", (1, 1), ORANGE), {}, ORANGE),
    ]


@pytest.mark.filterwarnings("error")
def test_every_kind_of_image_comes_out_as_rgb(tmp_path):
    for label, (name, image, options, _) in enumerate(kinds_of_image()):
        folder = tmp_path / f"{label:02}"
        folder.mkdir()
        image.save(folder / name, **options)
    images, labels = load_all(tmp_path)
    for image, label in zip(images, labels, strict=True):
        name, _, _, expected = kinds_of_image()[label]
        np.testing.assert_allclose(image[:, 6, 6] * 255, expected, atol=3, err_msg=name)
    assert len(images) == len(kinds_of_image())


def test_images_are_made_smaller_without_aliasing_and_larger(tmp_path):
    (tmp_path / "rose").mkdir()
    checkerboard = (np.indices((240, 240)).sum(axis=0) % 2 * 255).astype(np.uint8)
    for name in ("a.png", "b.jpg"):
        Image.fromarray(checkerboard).save(tmp_path / "rose" / name)
    np.testing.assert_allclose(load_all(tmp_path)[0], 0.5, atol=0.02)
    assert load_all(tmp_path, img_width=300, img_height=260)[0].shape == (2, 3, 260, 300)


UNREADABLE = {
    "empty.jpg": (Path.touch, "not an image"),
    "text.jpg": (lambda path: path.write_text("a text"), "not an image"),
    "telephone.jpg": (lambda path: path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(99)), "HEIC .* convert it to JPEG"),
    "cut.png": (lambda path: path.write_bytes((path.parent / "0.png").read_bytes()[:60]), "OSError"),
    "dangling.png": (lambda path: path.symlink_to("nowhere"), "FileNotFoundError"),
    "round": (lambda path: path.symlink_to(path.parent), "not a file"),
    "bomb.ppm": (lambda path: path.write_bytes(b"P6 20000 20000 255\n"), "DecompressionBombError"),
    "smaller bomb.ppm": (lambda path: path.write_bytes(b"P6 8000 8000 255\n"), "8000x8000"),
    "float.tif": (lambda path: Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(path), "floating-point"),
    "program.png": (lambda path: Image.new("RGB", (8, 8)).save(path, format="EPS"), "not an image"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_unreadable_files_are_skipped_with_one_warning_that_counts_them(tmp_path, name):
    save_class(tmp_path / "images" / "rose", 12)
    write, reason = UNREADABLE[name]
    for number in range(6):
        write(tmp_path / "images" / "rose" / f"{number} {name}")
    with pytest.warns(UserWarning, match=rf"skipped 6 of 18 .*0 {name} \(.*{reason}.*4 {name}.* 1 more") as caught:
        images, _ = load_all(tmp_path / "images")
    assert (len(images), len(caught)) == (12, 1)
    np.testing.assert_allclose(images * 255, np.broadcast_to(np.reshape(ORANGE, (3, 1, 1)), images.shape), atol=0.01)


def test_files_that_are_no_images_change_nothing(tiny_flowers, tmp_path):
    """The split, its fingerprint and the classes are those of the readable images alone."""
    clean = create_flower_dataloaders(4, tiny_flowers)
    root = shutil.copytree(tiny_flowers, tmp_path / "flowers")
    for folder in root.iterdir():
        (folder / "Thumbs.db").write_bytes(b"a cache of Windows")
    for name in ("empty", "__MACOSX", ".ipynb_checkpoints", "texts"):
        (root / name).mkdir()
    (root / "__MACOSX" / "._a.png").touch()
    save_class(root / ".ipynb_checkpoints" / "copies", 3)
    (root / "texts" / "readme.txt").touch()
    with pytest.warns(UserWarning) as caught:
        other = create_flower_dataloaders(4, root)
    assert [loader.dataset.info for loader in other] == [loader.dataset.info for loader in clean]
    for loader, expected in zip(other, clean, strict=True):
        assert torch.equal(loader.dataset.labels, expected.dataset.labels)
    [warning] = caught
    files = r"skipped 4 of 64 files, not readable images: .*Thumbs.db \(not an image\).*readme.txt"
    folders = r"the folders without a readable image \.ipynb_checkpoints, __MACOSX, empty, texts"
    assert re.fullmatch(f"{files}.*; {folders}", str(warning.message))


def test_folders_that_lie_too_deep_are_warned_of(tiny_flowers, tmp_path):
    root = tmp_path / "flowers"
    shutil.copytree(tiny_flowers, root / "flowers" / "all of them")
    with pytest.warns(UserWarning, match=f"one class.*--data-root {root / 'flowers' / 'all of them'}$"):
        loaders = create_flower_dataloaders(4, root)
    assert loaders[0].dataset.info["classes"] == ["flowers"]


def test_pipes_and_hidden_files_are_passed_over(tmp_path):
    save_class(tmp_path / "rose", 2)
    os.mkfifo(tmp_path / "rose" / "pipe.jpg")  # to open it would wait for ever
    (tmp_path / "rose" / ".hidden").touch()
    save_class(tmp_path / "rose" / ".thumbnails", 2)
    save_class(tmp_path / ".cache", 2)
    (tmp_path / "beside the classes.txt").touch()
    loaders = create_flower_dataloaders(4, tmp_path)
    assert [len(loader.dataset) for loader in loaders] == [1, 1]  # two images are enough
    assert loaders[0].dataset.info["classes"] == ["rose"]


def test_a_folder_that_cannot_be_used_is_a_clear_error(tmp_path, monkeypatch):
    for source in ("auto", "real", "synthetic"):
        with pytest.raises(UserError, match="nowhere is not a folder.*--data-root.*--data synthetic"):
            load_all(tmp_path / "nowhere", data=source)
    with pytest.raises(UserError, match="0 readable image.*2 or more.*sub-folder"):
        load_all(tmp_path)
    save_class(tmp_path / "rose", 1)
    with pytest.raises(UserError, match="1 readable image.*2 or more"):
        load_all(tmp_path)
    with pytest.raises(UserError, match='"auto".*"real".*"synthetic".*"fake"'):
        load_all(tmp_path, data="fake")
    for owner, function in ((Path, "iterdir"), (os, "scandir")):  # of the folder itself, and of a class
        with monkeypatch.context() as patch, pytest.raises(UserError, match="cannot read rose .*Permission denied"):
            patch.setattr(owner, function, Mock(side_effect=PermissionError(13, "Permission denied", "rose")))
            load_all(tmp_path)


def test_the_stand_in_is_used_where_the_project_has_no_photographs_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.flowers.make_flowers", partial(make_flowers, per_class=10))
    monkeypatch.setattr(datasets, "PROJECT", tmp_path / "project")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="no photographs in ./flowers.*stand in"):
        loaders = create_flower_dataloaders(16)
    info = loaders[0].dataset.info
    assert (info["name"], info["images"], info["image_size"]) == ("synthetic flowers", 30, [24, 24])
    assert "stand-in" in data_line(*loaders)
    with pytest.raises(UserError, match="is not a folder"):
        create_flower_dataloaders(16, data="real")
    photographs = tmp_path / "project" / "flowers"
    save_class(photographs / "rose", 4)
    assert create_flower_dataloaders(16)[0].dataset.info["images"] == 4
    with pytest.warns(UserWarning, match="--data synthetic.*flowers is not read"):
        create_flower_dataloaders(16, photographs, 8, 8, data="synthetic")
    monkeypatch.setattr(datasets, "PROJECT", tmp_path)
    (tmp_path / "flowers").symlink_to("nowhere")
    with pytest.raises(UserError, match="flowers is not a folder"):
        create_flower_dataloaders(16)


def test_the_stand_in_is_seeded_and_about_as_hard_as_the_photographs():
    images, labels = make_flowers(per_class=300)
    assert (images.shape, images.dtype) == ((900, 3, 24, 24), np.uint8)
    np.testing.assert_array_equal(np.bincount(labels), [300, 300, 300])
    assert 0.045 < (images / 255).var(axis=0).mean() < 0.06  # squared error of answering with the mean image
    few, again, other = (make_flowers(per_class=50, seed=seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(few, again)
    assert (few != other).mean() > 0.9


@needs_flowers
def test_the_photographs():
    train, valid = create_flower_dataloaders(16, data="real")
    assert train.dataset.info["classes"] == sorted(os.listdir(REAL_FLOWERS))
    assert (len(train.dataset), len(valid.dataset)) == (2070, 518)
    assert 0.045 < (train.dataset.images.numpy() / 255).var(axis=0).mean() < 0.06


def test_the_results_of_the_stand_in_have_a_folder_of_their_own(tmp_path, capsys):
    real = {"name": "flowers"}
    stand_in = {"name": "synthetic flowers"}
    for root, images, trained in ((PROJECT, stand_in, None), (PROJECT, stand_in, real), (tmp_path, stand_in, real)):
        assert choose_output_root(root, images, trained) == root / "synthetic"
        assert str(root / "synthetic") in capsys.readouterr().err
    assert choose_output_root(PROJECT, real) == PROJECT
    for trained in (None, stand_in):  # where the user wants it; pictures of a model that was trained on the stand-in
        assert choose_output_root(tmp_path, stand_in, trained) == tmp_path
    assert choose_output_root(tmp_path, real, stand_in) == tmp_path
    assert capsys.readouterr().err == ""


def test_the_users_own_photographs_are_named_by_their_folder(tmp_path, monkeypatch):
    for folder, name in (("flowers", "flowers"), ("my cats", "photographs in my cats")):
        save_class(tmp_path / folder / "tabby", 4)
        monkeypatch.chdir(tmp_path / folder)
        for root in (tmp_path / folder, ".", "../" + folder):
            assert create_flower_dataloaders(16, root)[0].dataset.info["name"] == name
