"""The diffusion model, the GAN, the samplers and the score, against closed forms and brute force."""

import itertools
import math

import pytest
import torch

import Diffusion as diffusion
from Diffusion import LEVELS, Diffusion, amplitudes
from GAN import GAN, PENALTY, STEP, augment, energy_distance
from sampling import draw_latents, fit_gaussian, fit_mixture, standard_normal
from score import closer, kernel_distance, nearest, standardise


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


# ---------------------------------------------------------------- the diffusion model


@pytest.fixture
def ddpm():
    return Diffusion(classes=3, img_height=8, img_width=12, width=8)


class Known(torch.nn.Module):
    """In the U-Net's place: the best v for images whose every value is from N(mean, spread^2), in closed form; mean is
    that of the label."""

    def __init__(self, means, spread):
        super().__init__()
        self.means, self.spread, self.asked = torch.tensor(means), spread, []

    def forward(self, x, level, labels):
        self.asked.append(labels.tolist())
        signal, sigma = amplitudes(level)
        mean = self.means[labels][:, None, None, None]
        variance = signal**2 * self.spread**2 + sigma**2
        x0 = mean + signal * self.spread**2 / variance * (x - signal * mean)
        e = (x - signal * x0) / sigma
        return signal * e - sigma * x0


def test_the_schedule_is_the_cosine_of_nichol_and_dhariwal():
    level = torch.arange(LEVELS + 1)
    signal, sigma = (part.flatten().double() for part in amplitudes(level))
    torch.testing.assert_close(signal**2 + sigma**2, torch.ones(LEVELS + 1, dtype=torch.float64))
    expected = torch.cos((level.double() / LEVELS + 0.008) / 1.008 * math.pi / 2)
    torch.testing.assert_close(signal, expected, atol=1e-6, rtol=0)
    assert signal[0] > 0.999
    assert abs(signal[-1]) < 1e-6


@pytest.mark.parametrize(("steps", "precision"), [(50, 0.02), (500, 0.004)])  # 50 steps narrow what they draw a little
def test_ddim_draws_the_distribution_that_the_network_knows(ddpm, steps, precision):
    ddpm.unet = Known([0.2, -0.2, 0.0, 0.0], spread=0.25)
    for label, mean in ((0, 0.2), (1, -0.2)):
        images = ddpm.sample(torch.randn(200, 3, 8, 12), torch.full((200,), label), steps)
        pixels = 2 * images - 1
        assert abs(pixels.mean() - mean) < 0.004
        assert abs(pixels.std() - 0.25) < precision


def test_no_noise_is_left_in_the_pictures(ddpm):
    ddpm.unet = Known([0.2, -0.4, 0.0, 0.0], spread=0.0)
    images = ddpm.sample(torch.randn(10, 3, 8, 12), torch.zeros(10, dtype=torch.long))
    torch.testing.assert_close(images, torch.full_like(images, 0.6), atol=1e-4, rtol=0)


def test_fifty_steps_and_guidance_ask_the_network_as_often_as_they_say(ddpm):
    ddpm.unet = Known([0.2, -0.4, 0.0, 0.0], spread=0.1)
    noise, labels = torch.randn(2, 3, 8, 12), torch.tensor([0, 1])
    ddpm.sample(noise, labels)
    assert ddpm.unet.asked == [[0, 1]] * 50
    ddpm.unet.asked.clear()
    ddpm.sample(noise, labels, steps=5, guidance=2.0)
    assert ddpm.unet.asked == [[0, 1], [3, 3]] * 5


def test_guidance_goes_further_from_what_is_found_without_the_label(ddpm):
    ddpm.unet = Known([0.2, -0.2, 0.0, 0.0], spread=0.05)  # the last is without a label
    noise = torch.randn(100, 3, 8, 12)
    images = ddpm.sample(noise, torch.zeros(100, dtype=torch.long), guidance=2.0)
    assert abs((2 * images - 1).mean() - 0.4) < 0.02  # of linear v: 0 + 2 (0.2 - 0)


def test_what_the_network_is_to_find_gives_back_image_and_noise(ddpm, monkeypatch):
    seen = {}

    def unet(x, level, labels):
        seen.update(x=x, level=level, labels=labels)
        return x

    monkeypatch.setattr(ddpm.unet, "forward", unet)
    images, labels = torch.rand(1000, 3, 8, 12), torch.randint(3, (1000,))
    _, v = ddpm(images, labels)
    signal, sigma = amplitudes(seen["level"])
    torch.testing.assert_close(signal * seen["x"] - sigma * v, 2 * images - 1, atol=1e-5, rtol=0)
    noise = sigma * seen["x"] + signal * v
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    assert sorted(seen["level"].tolist()) == list(range(1, LEVELS + 1))  # evenly spread
    kept = seen["labels"] == labels
    assert (seen["labels"][~kept] == 3).all()
    assert 50 < (~kept).sum() < 150  # a tenth


def test_labels_are_drawn_as_often_as_the_photographs_have_them(ddpm):
    ddpm.share.copy_(torch.tensor([0.5, 0.5, 0.0]))
    counts = torch.bincount(ddpm.draw_labels(1000, torch.Generator().manual_seed(0)), minlength=3)
    assert counts[2] == 0
    assert 400 < counts[0] < 600


def test_an_untrained_network_finds_nothing_and_every_weight_learns(ddpm):
    images, labels = torch.rand(16, 3, 8, 12), torch.randint(3, (16,))
    found, v = ddpm(images, labels)
    assert (found == 0).all()
    assert found.shape == v.shape == images.shape
    optimizer = torch.optim.Adam(ddpm.parameters(), 1e-2)
    before = {name: weight.clone() for name, weight in ddpm.named_parameters()}
    for _ in range(4):  # what starts at zero holds back the gradients of what is before it
        optimizer.zero_grad()
        ddpm.measure(ddpm(images, labels), images)[0].backward()
        optimizer.step()
    assert [name for name, weight in ddpm.named_parameters() if torch.equal(weight, before[name])] == []


def test_level_and_label_matter(ddpm):
    for weight in ddpm.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    x, level, label = torch.randn(1, 3, 8, 12), torch.tensor([100]), torch.tensor([0])
    found = ddpm.unet(x, level, label)
    assert not torch.allclose(found, ddpm.unet(x, level + 500, label))
    assert not torch.allclose(found, ddpm.unet(x, level, label + 1))


@pytest.mark.parametrize("model", [Diffusion, GAN])
def test_sizes_that_cannot_be_halved_twice_are_refused(model):
    with pytest.raises(ValueError, match="multiples of 4, for two halvings, found 24x26"):
        model(3, 24, 26)


def test_waves_tell_all_levels_apart():
    waves = diffusion.waves(torch.arange(1, LEVELS + 1), 56)
    assert waves.shape == (LEVELS, 56)
    assert torch.pdist(waves).min() > 0.01


# ---------------------------------------------------------------- the GAN


@pytest.fixture
def gan():
    model = GAN(encoding_dim=5, img_height=8, img_width=12, width=8)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return model


def test_each_player_learns_from_its_own_loss_alone(gan):
    photographs = torch.rand(6, 3, 8, 12)
    outputs = gan(photographs, None)
    total, log = gan.measure(outputs, photographs)
    real, fake, deceived = outputs["of_photographs"], outputs["of_pictures"], outputs["deceived"]
    generator = torch.nn.functional.softplus(real - deceived).mean()
    slopes = (real - outputs["beside_photographs"]).square() + (fake - outputs["beside_pictures"]).square()
    critic = torch.nn.functional.softplus(fake - real).mean()
    assert log["critic"] == pytest.approx(critic.item())
    assert log["generator"] == pytest.approx(generator.item())
    for player, loss in ((gan.generator, generator), (gan.critic, critic + PENALTY / 2 * slopes.mean() / STEP**2)):
        weights = list(player.parameters())
        expected = torch.autograd.grad(loss, weights, retain_graph=True)
        found = torch.autograd.grad(total, weights, retain_graph=True)
        torch.testing.assert_close(found, expected)
    assert all(weight.requires_grad for weight in gan.parameters())


def test_the_penalty_is_the_squared_slope(gan, monkeypatch):
    slope = torch.randn(3 * 8 * 12)
    monkeypatch.setattr(gan, "critic", LinearCritic(slope))
    photographs = torch.rand(500, 3, 8, 12)
    outputs = gan(photographs, None)
    without = {**outputs, "beside_photographs": outputs["of_photographs"], "beside_pictures": outputs["of_pictures"]}
    penalty = gan.measure(outputs, photographs)[0] - gan.measure(without, photographs)[0]
    assert penalty.item() == pytest.approx(PENALTY / 2 * 2 * slope.square().sum().item(), rel=0.2)


class LinearCritic(torch.nn.Module):
    def __init__(self, slope):
        super().__init__()
        self.slope = slope

    def forward(self, images):
        return (images.flatten(1) @ self.slope)[:, None]


def test_augmentation_keeps_shapes_and_gradients_and_changes_each_image_its_own_way():
    images = (torch.rand(1, 3, 24, 16) - 0.5).repeat(50, 1, 1, 1).requires_grad_()
    changed = augment(images)
    assert changed.shape == images.shape
    assert torch.pdist(changed.detach().flatten(1)).min() > 0
    changed.sum().backward()
    assert (images.grad != 0).all()  # what is in the hole still counts in the image's mean, for the contrast


def test_the_hole_and_the_border_are_grey():
    shares = (augment(torch.ones(500, 3, 24, 24)) == 0).float().mean(dim=(1, 2, 3))
    assert shares.min() > 0.05
    assert 0.1 < shares.mean() < 0.4


def test_the_energy_distance_against_brute_force():
    x, y = torch.randn(5, 3, 2, 2), 2 + torch.randn(7, 3, 2, 2)

    def mean(pairs):
        distances = [(a - b).norm() for a, b in pairs]
        return sum(distances) / len(distances)

    within = mean(itertools.permutations(x, 2)) + mean(itertools.permutations(y[:5], 2))
    expected = 2 * mean(itertools.product(x, y[:5])) - within
    torch.testing.assert_close(energy_distance(x, y[:5]), expected, atol=1e-5, rtol=1e-5)
    assert energy_distance(x[:1], y[:1]).isfinite()  # the last batch may hold a single image


# ---------------------------------------------------------------- priors


def test_latents_of_the_standard_normal_are_those_of_randn():
    expected = torch.randn(60, 64, generator=torch.Generator().manual_seed(3))
    assert torch.equal(draw_latents(standard_normal(64), 60, seed=3), expected)


def test_drawing_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    draw_latents(standard_normal(4), 10, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_gaussian_has_the_mean_and_the_covariance_of_the_codes():
    codes = torch.randn(500, 3) @ torch.tensor([[2.0, 1, 0], [0, 1, 0], [0, 0, 0.1]]) + 5
    prior = fit_gaussian(codes)
    torch.testing.assert_close(prior.mean.float(), codes.mean(dim=0))
    torch.testing.assert_close(prior.covariance_matrix.float(), codes.T.cov(correction=0), atol=1e-5, rtol=1e-5)


def test_the_mixture_finds_clusters_that_a_gaussian_blurs():
    centres = torch.tensor([[-10.0, 0], [10, 0], [0, 10]])
    codes, others = (centres.repeat(200, 1) + torch.randn(600, 2) for _ in range(2))
    mixture, gaussian = fit_mixture(codes), fit_gaussian(codes)
    assert mixture.log_prob(others.double()).mean() > gaussian.log_prob(others.double()).mean() + 1
    drawn = draw_latents(mixture, 1000, seed=0)
    assert (torch.cdist(drawn, centres).min(dim=1).values < 4).float().mean() > 0.97


@pytest.mark.parametrize("count", [1, 2, 5])
def test_priors_can_be_fitted_to_fewer_codes_than_dimensions(count):
    codes = torch.randn(count, 8)
    for prior in (fit_gaussian(codes), fit_mixture(codes)):
        assert draw_latents(prior, 20, seed=0).isfinite().all()


# ---------------------------------------------------------------- the score


def slow_distance(x, y):
    """The unbiased estimate, pair by pair."""

    def mean(pairs):
        kernels = [(a @ b / x.shape[1] + 1) ** 3 for a, b in pairs]
        return sum(kernels) / len(kernels)

    within = mean(itertools.permutations(x, 2)) + mean(itertools.permutations(y, 2))
    return within - 2 * mean(itertools.product(x, y))


def test_the_kernel_distance_and_its_jackknife_against_brute_force():
    x, y = torch.randn(6, 4).double(), torch.randn(5, 4).double() + 0.3
    distance, error = kernel_distance(x, y)
    assert distance == pytest.approx(slow_distance(x, y).item())
    variance = 0
    for part, without in ((x, lambda i: (x[torch.arange(6) != i], y)), (y, lambda i: (x, y[torch.arange(5) != i]))):
        left_out = torch.stack([slow_distance(*without(i)) for i in range(len(part))])
        variance += (len(part) - 1) / len(part) * (left_out - left_out.mean()).square().sum().item()
    assert error == pytest.approx(variance**0.5)


def test_the_kernel_distance_is_unbiased_and_its_standard_error_is_its_spread():
    same = torch.tensor([kernel_distance(torch.randn(60, 3), torch.randn(50, 3)) for _ in range(300)])
    assert abs(same[:, 0].mean()) < 4 * same[:, 0].std() / 300**0.5
    apart = torch.tensor([kernel_distance(torch.randn(60, 3), torch.randn(50, 3) + 1) for _ in range(300)])
    assert apart[:, 0].mean() > 5 * same[:, 0].std()
    assert apart[:, 1].mean().item() == pytest.approx(apart[:, 0].std().item(), rel=0.2)


def test_brightness_and_contrast_do_not_count():
    images = torch.rand(5, 3, 4, 4)
    torch.testing.assert_close(standardise(0.3 * images + 0.2), standardise(images))
    assert standardise(torch.ones(1, 3, 4, 4)).isfinite().all()


def test_nearest_finds_the_nearest():
    images = torch.rand(20, 48)
    distances, which = nearest(images[[3, 7]] + 0.1, images)
    assert which.tolist() == [3, 7]
    torch.testing.assert_close(distances, torch.full((2,), 0.1 * 48**0.5))


def test_copies_are_told_from_new_pictures():
    photographs, others, new = (torch.randn(n, 20) for n in (300, 100, 100))
    usual, _ = nearest(others, photographs)
    copies = photographs[:100] + 0.1 * torch.randn(100, 20)
    assert closer(nearest(copies, photographs)[0], usual) < 1e-6
    assert 0.01 < closer(nearest(new, photographs)[0], usual) < 0.99
    assert closer(nearest(3 * new, photographs)[0], usual) > 0.99


def test_the_p_value_is_uniform_where_nothing_differs():
    p = torch.tensor([closer(torch.rand(30), torch.rand(25)) for _ in range(1000)])
    for share in (0.05, 0.5, 0.95):
        assert (p < share).float().mean().item() == pytest.approx(share, abs=0.05)
