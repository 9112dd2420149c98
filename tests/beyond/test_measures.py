"""The measures of generated images, against closed forms and brute force."""

import itertools
import math

import pytest
import torch
from torch.distributions import Normal

from beyond import measures
from beyond.measures import (
    ImageFeatures,
    count_copies,
    kernel_distance,
    species_p,
    standardise,
    tail_share,
    trained_accuracy,
    two_sample_accuracy,
    view_distances,
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def slow_distance(x, y):
    """The unbiased estimate of the kernel distance, pair by pair."""
    pairs = [itertools.product(x, y), itertools.permutations(x, 2), itertools.permutations(y, 2)]
    between, *within = (torch.stack([(a @ b / x.shape[1] + 1) ** 3 for a, b in some]).mean() for some in pairs)
    return sum(within) - 2 * between


def test_the_kernel_distance_and_its_jackknife_against_brute_force():
    x = torch.randn(6, 4).double()
    y = torch.randn(5, 4).double() + 0.3
    distance, error = kernel_distance(x, y)
    assert distance == pytest.approx(slow_distance(x, y).item())
    without_x = torch.stack([slow_distance(x[torch.arange(6) != i], y) for i in range(6)])
    without_y = torch.stack([slow_distance(x, y[torch.arange(5) != i]) for i in range(5)])
    variance = 5 * without_x.var(correction=0) + 4 * without_y.var(correction=0)
    assert error**2 == pytest.approx(variance.item())


def test_the_kernel_distance_is_unbiased_and_its_standard_error_is_its_spread():
    same = torch.tensor([kernel_distance(torch.randn(60, 3), torch.randn(50, 3)) for _ in range(300)])
    assert abs(same[:, 0].mean()) < 4 * same[:, 0].std() / 300**0.5
    apart = torch.tensor([kernel_distance(torch.randn(60, 3), torch.randn(50, 3) + 1) for _ in range(300)])
    assert apart[:, 0].mean() > 5 * same[:, 0].std()
    assert apart[:, 1].mean().item() == pytest.approx(apart[:, 0].std().item(), rel=0.2)


def test_the_two_sample_accuracy_of_known_cases():
    accuracies = [two_sample_accuracy(torch.randn(200, 5), torch.randn(150, 5))[0] for _ in range(20)]
    assert sum(accuracies) / 20 == pytest.approx(0.5, abs=0.02)
    y = torch.randn(300, 5)
    accuracy, error = two_sample_accuracy(torch.randn(400, 5), y)
    assert error == pytest.approx(0.5 * (0.25 / 400 + 0.25 / 300) ** 0.5, rel=0.05)
    assert abs(accuracy - 0.5) < 4 * error
    apart = torch.randn(400, 5) + torch.tensor([2.0, 0, 0, 0, 0])
    best = Normal(0.0, 1.0).cdf(torch.tensor(1.0)).item()  # of any classifier, for means two standard deviations apart
    assert two_sample_accuracy(apart, y)[0] == pytest.approx(best, abs=0.04)
    assert two_sample_accuracy(apart, y) == two_sample_accuracy(apart, y)


def test_the_accuracy_of_a_classifier_that_was_trained_on_others():
    apart = torch.tensor([2.0, 0, 0, 0, 0])
    sets = [torch.randn(2000, 5), torch.randn(2000, 5) + apart, torch.randn(500, 5), torch.randn(400, 5) + apart]
    accuracy, error = trained_accuracy(*sets)
    best = Normal(0.0, 1.0).cdf(torch.tensor(1.0)).item()
    assert abs(accuracy - best) < 4 * error
    assert error == pytest.approx(0.5 * (best * (1 - best) * (1 / 500 + 1 / 400)) ** 0.5, rel=0.1)
    assert trained_accuracy(sets[1], sets[0], *sets[2:])[0] == pytest.approx(1 - best, abs=4 * error)


def test_features_detect_a_grid_of_two_pixels_at_any_place_of_which_no_pixel_tells():
    photographs = torch.rand(300, 3, 16, 16)
    means = torch.nn.functional.avg_pool2d(photographs[:100], 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    grid = 0.8 * photographs[:100] + 0.2 * means
    features = ImageFeatures(photographs)
    for moved in (grid, grid.roll((1, 1), (2, 3))):
        assert two_sample_accuracy(features(moved), features(photographs[100:200]))[0] > 0.9
    assert two_sample_accuracy(features(photographs[200:]), features(photographs[100:200]))[0] < 0.6


def test_image_features_detect_shuffled_images_and_ignore_mirroring():
    x = torch.linspace(0, 6.28, 24)
    phase = torch.rand(120, 3, 1, 1) * 6.28
    images = 0.5 + 0.4 * torch.sin(x[:, None] + 2 * x[None, :] + phase)
    features = ImageFeatures(images[:60])
    assert features(images[:60]).mean(dim=0).abs().max() < 1e-3
    torch.testing.assert_close(features(images[:5]), features(images[:5].flip(-1)), atol=1e-3, rtol=1e-3)
    assert ImageFeatures(images[:10, :, :4, :4])(images[:3, :, :4, :4]).isfinite().all()  # smaller than some patches
    constant = torch.full((9, 3, 12, 16), 0.3)
    assert ImageFeatures(constant)(constant).isfinite().all()
    shuffled = images[60:, :, torch.randperm(24)]
    assert two_sample_accuracy(features(shuffled), features(images[:60]))[0] > 0.95


@pytest.mark.parametrize(("height", "width"), [(16, 20), (40, 32)])
def test_the_filters_are_whitened_by_as_many_patches_whatever_the_size_of_the_photographs(height, width, monkeypatch):
    counts = []
    unfold = torch.nn.functional.unfold

    def count(*args, **options):
        patches = unfold(*args, **options)
        counts.append(patches.shape[0] * patches.shape[2])
        return patches

    monkeypatch.setattr(measures, "PATCHES", 2000)
    monkeypatch.setattr(torch.nn.functional, "unfold", count)
    ImageFeatures(torch.rand(60, 3, height, width))
    assert len(counts) == 3
    assert all(1400 < patches <= 2000 for patches in counts)


def test_species_that_are_too_rare_have_a_small_p():
    often = torch.tensor([0, 1, 2]).repeat(50)
    seldom = torch.tensor([0, 1]).repeat(75)
    assert species_p(often, often) == pytest.approx(1)
    assert species_p(seldom, often) < 1e-6
    assert species_p(often, seldom) == species_p(seldom, often)
    assert species_p(torch.zeros(5, dtype=torch.int64), torch.zeros(9, dtype=torch.int64)) == 1


def test_distances_ignore_brightness_and_contrast():
    images = torch.rand(5, 3, 4, 4)
    torch.testing.assert_close(standardise(0.3 * images + 0.2), standardise(images))
    assert standardise(torch.ones(1, 3, 4, 4)).isfinite().all()
    images = torch.rand(5, 3, 24, 24)
    distances = view_distances(0.3 * images + 0.2, images)
    assert distances.diagonal().max() < 1e-3
    assert (distances + torch.eye(5)).min() > 0.5  # of others


def plant_copies(share, dims):
    """(samples (200, D), training photographs, held-out ones), where that share of the samples are nearly copies."""
    training = torch.randn(900, dims)
    held_out = torch.randn(300, dims)
    samples = torch.randn(200, dims)
    copies = round(share * len(samples))
    samples[:copies] = training[:copies] + 0.1 * torch.randn(copies, dims)
    return samples, training, held_out


def find_copies(samples, training, held_out):
    """What both tests return."""
    distances = torch.cdist(samples, torch.cat([training, held_out]))
    held_out_distances = torch.cdist(held_out, training).amin(dim=1)
    tail = tail_share(distances[:, : len(training)].amin(dim=1), held_out_distances)
    return tail, count_copies(distances, len(training))


@pytest.mark.parametrize("dims", [2, 3])
def test_new_samples_are_taken_for_copies_no_more_often_than_the_p_values_say(dims):
    p_values = []
    counts = []
    for _ in range(120):
        (_, p_tail), (of_training, of_held_out, p_copies) = find_copies(*plant_copies(0, dims))
        p_values.append([p_tail, p_copies])
        counts.append([of_training, of_held_out])
    of_training, of_held_out = torch.tensor(counts).float().mean(dim=0)
    assert of_training + of_held_out > 10  # photographs that a sample happens to be near to
    assert of_training / (of_training + of_held_out) == pytest.approx(900 / 1200, abs=0.03)
    for below in (0.05, 0.2):
        often = (torch.tensor(p_values) <= below).float().mean(dim=0)
        assert often.max() <= below + 0.05
        assert often.min() > 0


def test_a_few_copies_are_found():
    (share, p), _ = find_copies(*plant_copies(0.05, 20))
    assert 0.05 <= share < 0.12
    assert p < 0.01
    _, (of_training, of_held_out, p) = find_copies(*plant_copies(0.15, 20))
    assert of_training >= 30 > 3 > of_held_out
    assert p < 0.001


@pytest.mark.parametrize("change", ["mirrored", "moved", "moved more than a view", "cropped"])
def test_copies_are_copies_also_where_they_were_changed(change):
    coarse = torch.rand(150, 3, 8, 8)
    photographs = torch.nn.functional.interpolate(coarse, (24, 24), mode="bicubic").clamp(0, 1)  # smooth, as they are
    copies = photographs[:20].flip(-1)
    if change.startswith("moved"):
        pixels = 2 if change == "moved" else 9
        copies = torch.nn.functional.pad(copies, (pixels, 0, 0, 0), mode="replicate")[..., :-pixels]
    elif change == "cropped":
        copies = torch.nn.functional.interpolate(copies[:, :, 3:-3, 3:-3], (24, 24), mode="bilinear", antialias=True)
    of_training, of_held_out, p = count_copies(view_distances(copies, photographs), training_count=100)
    if change == "moved more than a view":
        assert of_training < 5
    else:
        assert (of_training, of_held_out) == (20, 0)
        assert p == pytest.approx(math.comb(100, 20) / math.comb(150, 20))


def test_many_copies_of_one_photograph_count_once():
    photographs = torch.rand(30, 3, 24, 24)
    distances = view_distances(photographs[:1].repeat(9, 1, 1, 1), photographs)
    assert count_copies(distances, training_count=20) == (1, 0, pytest.approx(20 / 30))


def test_the_p_value_of_a_tail_is_exact_also_where_it_is_tiny():
    """Of 518 + 518 in random order, 60 or more of the one kind before the fifth of the other."""
    held_out_distances = torch.arange(518.0) + 0.5
    distances = torch.cat([torch.zeros(60), torch.full((458,), 1e3)])
    ways = sum(math.comb(k + 4, k) * math.comb(1031 - k, 518 - k) for k in range(60, 519))
    share, p = tail_share(distances, held_out_distances)
    assert share == pytest.approx(60 / 518)
    assert p == pytest.approx(ways / math.comb(1036, 518), rel=1e-6, abs=0)
    assert tail_share(distances + 1e3, held_out_distances) == (0, pytest.approx(1))
