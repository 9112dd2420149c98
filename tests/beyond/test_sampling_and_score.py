"""Samples, priors, projections and the score, against closed forms and brute force."""

import itertools
import math

import pytest
import torch
from torch.distributions import Normal

from evaluation import measures, sampling
from evaluation.measures import (
    PatchFeatures,
    both_ways,
    kernel_distance,
    nearest,
    species_p,
    standardise,
    tail_share,
    three_sample,
    two_sample_accuracy,
)
from training import UserError


def test_standard_normal_latents_depend_on_the_seed_alone():
    expected, before = torch.randn(60, 64, generator=torch.Generator().manual_seed(3)), torch.get_rng_state()
    assert torch.equal(sampling.sample_latents(sampling.standard_normal(64), 60, seed=3), expected)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_gaussian_has_the_moments_of_the_codes_and_the_mixture_finds_clusters_that_it_blurs():
    codes = torch.randn(500, 3) @ torch.tensor([[2.0, 1, 0], [0, 1, 0], [0, 0, 0.1]]) + 5
    gaussian = sampling.fit_gaussian(codes)
    torch.testing.assert_close(gaussian.mean.float(), codes.mean(dim=0))
    torch.testing.assert_close(gaussian.covariance_matrix.float(), codes.T.cov(correction=0), atol=1e-5, rtol=1e-5)
    centres = torch.tensor([[-10.0, 0], [10, 0], [0, 10]])
    codes, others = (centres.repeat(200, 1) + torch.randn(600, 2) for _ in range(2))
    mixture, gaussian = sampling.fit_mixture(codes), sampling.fit_gaussian(codes)
    assert mixture.log_prob(others.double()).mean() > gaussian.log_prob(others.double()).mean() + 1
    samples = sampling.sample_latents(mixture, 1000, seed=0)
    assert (torch.cdist(samples, centres).min(dim=1).values < 4).float().mean() > 0.97


def test_priors_can_be_fitted_to_fewer_codes_than_dimensions_but_no_mixture_to_one():
    for count, name in itertools.product([1, 2, 5], ["normal", "gaussian", "gmm"]):
        if (count, name) != (1, "gmm"):
            prior = sampling.fit_prior(name, torch.randn(count, 8))
            assert sampling.sample_latents(prior, 20, seed=0).isfinite().all()
    with pytest.raises(UserError, match="2 or more .* found 1"):
        sampling.fit_prior("gmm", torch.randn(1, 8))


def test_interpolations_go_straight_and_the_manifold_is_spaced_like_the_normal_distribution():
    codes = torch.tensor([[0.0, 0.0], [2.0, 4.0], [1.0, 1.0], [1.0, 1.0]])
    assert sampling.interpolate(codes, 3).tolist() == [[0, 0], [1, 2], [2, 4]] + 3 * [[1, 1]]
    grid = sampling.manifold(5).view(5, 5, 2)
    assert min(grid[0, :, 0].diff().min(), -grid[:, 0, 1].diff().max()) > 0  # to the right, and up
    torch.testing.assert_close(grid[2, 2], torch.zeros(2), atol=1e-6, rtol=0)
    probabilities = Normal(0.0, 1.0).cdf(grid[0, :, 0]).diff()
    torch.testing.assert_close(probabilities, probabilities[:1].expand(4), atol=1e-5, rtol=0)


def test_the_projection_keeps_the_directions_of_most_variance():
    hidden, basis = torch.randn(500, 2) * torch.tensor([5.0, 2.0]), torch.linalg.qr(torch.randn(8, 8)).Q
    points = sampling.project(hidden @ basis[:2] + 0.01 * torch.randn(500, 8) + 3)
    assert (torch.corrcoef(torch.cat([points, hidden], dim=1).T)[:2, 2:].diagonal().abs() > 0.99).all()
    assert torch.equal(sampling.project(hidden), hidden)
    assert torch.equal(sampling.project(hidden[:, :1]), hidden * torch.tensor([1.0, 0.0]))


def slow_distance(x, y):
    """The unbiased estimate of the kernel distance, pair by pair."""
    pairs = itertools.product(x, y), itertools.permutations(x, 2), itertools.permutations(y, 2)
    between, *within = (torch.stack([(a @ b / x.shape[1] + 1) ** 3 for a, b in some]).mean() for some in pairs)
    return sum(within) - 2 * between


def test_the_kernel_distance_and_its_jackknife_against_brute_force():
    x, y = torch.randn(6, 4).double(), torch.randn(5, 4).double() + 0.3
    distance, error = kernel_distance(x, y)
    assert distance == pytest.approx(slow_distance(x, y).item())
    without = [torch.stack([slow_distance(x[torch.arange(6) != i], y) for i in range(6)])]
    without += [torch.stack([slow_distance(x, y[torch.arange(5) != i]) for i in range(5)])]
    assert error**2 == pytest.approx(sum((len(part) - 1) * part.var(correction=0).item() for part in without))


def test_the_kernel_distance_is_unbiased_and_its_standard_error_is_its_spread():
    same = torch.tensor([kernel_distance(torch.randn(60, 3), torch.randn(50, 3)) for _ in range(300)])
    assert abs(same[:, 0].mean()) < 4 * same[:, 0].std() / 300**0.5
    apart = torch.tensor([kernel_distance(torch.randn(60, 3), torch.randn(50, 3) + 1) for _ in range(300)])
    assert apart[:, 0].mean() > 5 * same[:, 0].std()
    assert apart[:, 1].mean().item() == pytest.approx(apart[:, 0].std().item(), rel=0.2)


def test_nearest_images_tell_copies_from_new_ones_whatever_their_brightness_and_contrast():
    images, x = torch.rand(5, 3, 4, 4), torch.rand(20, 48)
    torch.testing.assert_close(standardise(0.3 * images + 0.2), standardise(images))
    assert standardise(torch.ones(1, 3, 4, 4)).isfinite().all()
    distances, which = nearest(x[[3, 7]] + 0.1, x)
    assert which.tolist() == [3, 7]
    torch.testing.assert_close(distances, torch.full((2,), 0.1 * 48**0.5))


def test_the_two_sample_accuracy_of_known_cases():
    y, apart = torch.randn(300, 5), torch.randn(400, 5) + torch.tensor([2.0, 0, 0, 0, 0])
    accuracies = [two_sample_accuracy(torch.randn(200, 5), torch.randn(150, 5))[0] for _ in range(40)]
    assert sum(accuracies) / 40 == pytest.approx(0.5, abs=0.015)
    accuracy, error = two_sample_accuracy(torch.randn(400, 5), y)
    assert error == pytest.approx(0.5 * (0.25 / 400 + 0.25 / 300) ** 0.5, rel=0.05)
    assert abs(accuracy - 0.5) < 4 * error
    best = Normal(0.0, 1.0).cdf(torch.tensor(1.0)).item()  # of any classifier, for means two standard deviations apart
    assert two_sample_accuracy(apart, y)[0] == pytest.approx(best, abs=0.04)
    assert two_sample_accuracy(apart, y) == two_sample_accuracy(apart, y)


def test_patch_features_tell_shuffled_images_and_know_no_left_and_right():
    x, phase = torch.linspace(0, 6.28, 24), torch.rand(120, 3, 1, 1) * 6.28
    images = 0.5 + 0.4 * torch.sin(x[:, None] + 2 * x[None, :] + phase)
    features = PatchFeatures(images[:60])
    assert features(images[:60]).mean(dim=0).abs().max() < 1e-3
    torch.testing.assert_close(features(images[:5]), features(images[:5].flip(-1)), atol=1e-3, rtol=1e-3)
    assert PatchFeatures(images[:10, :, :4, :4])(images[:3, :, :4, :4]).isfinite().all()  # smaller than some patches
    constant = torch.full((9, 3, 12, 16), 0.3)
    assert PatchFeatures(constant)(constant).isfinite().all()
    shuffled = images[60:, :, torch.randperm(24)]
    assert two_sample_accuracy(features(shuffled), features(images[:60]))[0] > 0.95


def test_species_that_come_too_seldom_have_a_small_p():
    often, seldom = torch.tensor([0, 1, 2]).repeat(50), torch.tensor([0, 1]).repeat(75)
    assert species_p(often, often, 3) == pytest.approx(1)
    assert species_p(seldom, often, 3) < 1e-6
    assert species_p(torch.zeros(5, dtype=torch.int64), torch.zeros(9, dtype=torch.int64), 3) == 1


@pytest.mark.parametrize(("height", "width"), [(16, 20), (24, 24), (64, 48)])
def test_the_filters_are_whitened_by_as_many_patches_whatever_the_size_of_the_photographs(height, width, monkeypatch):
    counts, unfold = [], torch.nn.functional.unfold

    def count(*args, **options):
        patches = unfold(*args, **options)
        counts.append(patches.shape[0] * patches.shape[2])
        return patches

    monkeypatch.setattr(measures, "PATCHES", 2000)
    monkeypatch.setattr(torch.nn.functional, "unfold", count)
    PatchFeatures(torch.rand(70, 3, height, width))
    assert len(counts) == 3
    assert all(1400 < patches <= 2000 for patches in counts)


def plant_copies(share, dims):
    """(samples (200, D), photographs trained on, and held out), of which that share of samples are nearly copies."""
    training, held_out, samples = torch.randn(900, dims), torch.randn(300, dims), torch.randn(200, dims)
    copies = round(share * len(samples))
    samples[:copies] = training[:copies] + 0.1 * torch.randn(copies, dims)
    return samples, training, held_out


def find_copies(samples, training, held_out):
    """What both tests return."""
    tail = tail_share(nearest(samples, training)[0], nearest(held_out, training)[0])
    return tail, three_sample(samples, training[None], held_out[None])


@pytest.mark.parametrize("dims", [2, 3])
def test_new_samples_are_no_copies_more_often_than_the_p_values_say(dims):
    p_new, counts = [], []
    for _ in range(200):
        (_, p), (near, far, p_three) = find_copies(*plant_copies(0, dims))
        p_new.append([p, p_three])
        counts.append([near, far])
    near, far = torch.tensor(counts).float().mean(dim=0)
    assert near + far > 10  # photographs that a sample happens to be near to
    assert near / (near + far) == pytest.approx(900 / 1200, abs=0.03)
    for below in (0.05, 0.2):
        often = (torch.tensor(p_new) <= below).float().mean(dim=0)
        assert often.max() <= below + 0.05
        assert often.min() > 0


def test_a_few_copies_are_found():
    (share, p), _ = find_copies(*plant_copies(0.05, 20))
    assert 0.05 <= share < 0.12
    assert p < 0.01
    _, (near, far, p) = find_copies(*plant_copies(0.15, 20))
    assert near >= 30 > 3 > far
    assert p < 0.001


def test_mirrored_copies_are_copies_and_many_copies_of_one_photograph_count_once():
    photographs = torch.rand(300, 3, 6, 6)
    known, unseen = both_ways(photographs[:200]), both_ways(photographs[200:])
    mirrored = standardise(photographs[:30].flip(-1))
    near, far, p = three_sample(mirrored, known, unseen)
    assert (near, far) == (30, 0)
    assert p == pytest.approx(math.comb(200, 30) / math.comb(300, 30))
    assert three_sample(mirrored, unseen, known)[:2] == (0, 30)
    assert three_sample(mirrored, unseen, known)[2] == 1
    one = mirrored[:1].repeat(30, 1)
    assert three_sample(one, known, unseen) == (1, 0, pytest.approx(200 / 300))


def test_the_p_value_of_a_tail_is_exact_also_where_it_is_tiny():
    """Of 518 + 518 in random order, 60 or more of the one kind before the fifth of the other."""
    usual, distances = torch.arange(518.0) + 0.5, torch.cat([torch.zeros(60), torch.full((458,), 1e3)])
    ways = sum(math.comb(k + 4, k) * math.comb(1031 - k, 518 - k) for k in range(60, 519))
    share, p = tail_share(distances, usual)
    assert share == pytest.approx(60 / 518)
    assert p == pytest.approx(ways / math.comb(1036, 518), rel=1e-6, abs=0)
    assert tail_share(distances + 1e3, usual) == (0, pytest.approx(1))
